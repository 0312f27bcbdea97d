"""How torch's CPU threads wait; the scripts import this before anything that imports torch.

Threads of GNU's OpenMP wait for their next operation in a loop, by default for so long that two trainings on
the same cores are ten times slower than they need be. A shorter wait costs a single training little
(docs/speed.md).
"""
import os

SPINS = 20_000  # rounds of that loop before a thread sleeps
CHOSEN_BY = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # what a user may have set

if not any(name in os.environ for name in CHOSEN_BY):
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
