#!/usr/bin/env bash
# numpy 2.4.6: a seed of several numbers forgets zeros at its end, up to four numbers
#
# Expected: default_rng([seed, run]) is another stream for every pair, and none of them is default_rng(seed).
# Seen: default_rng(7), [7, 0], [7, 0, 0] and [7, 0, 0, 0] are one stream; [7, 0, 0, 0, 0] is another. Also
#     default_rng(2**32 + 7) and default_rng([7, 1]) are one stream. So run 0 of seed 7 repeats what a script that
#     uses the bare seed draws.
# Where: numpy/random/bit_generator.pyx, SeedSequence.mix_entropy: a key shorter than the pool of four 32-bit words
#     is filled up with zeros; numbers of 2**32 or more become several words. `spawn` is not affected, as
#     get_assembled_entropy pads before it appends a spawn key.
# What to do: put the tag into spawn_key, SeedSequence(seed, spawn_key=(run,)), or count runs from 1 and keep every
#     number below 2**32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6
cd "$folder"
env/bin/python - <<'EOF'
import numpy as np


def first(seed):
    return np.random.default_rng(seed).random()


same = [first(seed) for seed in (7, [7], [7, 0], [7, 0, 0], [7, 0, 0, 0])]
print("7, [7], [7, 0], [7, 0, 0], [7, 0, 0, 0]:", same, "[7, 0, 0, 0, 0]:", first([7, 0, 0, 0, 0]))
assert len(set(same)) == 1 and first([7, 0, 0, 0, 0]) != same[0]
assert first(2**32 + 7) == first([7, 1]) != first(7)
keyed = np.random.SeedSequence(7, spawn_key=(0,)), np.random.SeedSequence(7, spawn_key=(0, 0))
assert len({first(7), *map(first, keyed)}) == 3
EOF
