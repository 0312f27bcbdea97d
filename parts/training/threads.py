"""How torch's threads wait; imported by the scripts before anything that imports torch.

Threads of GNU's OpenMP wait for the next operation in a loop, by default for so long that two trainings at
once on the cores of one are ten times slower than need be. Waiting less costs a training alone little
(benchmarks/bench_together.py).
"""
import os

SPINS = 20_000  # rounds of that loop before a thread sleeps
CHOSEN_BY = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # what a user may have set

if not any(name in os.environ for name in CHOSEN_BY):
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
