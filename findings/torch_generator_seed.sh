#!/usr/bin/env bash
# torch 2.13.0, CPU: a generator uses 32 of the 64 bits of its seed
#
# Expected: manual_seed takes seeds up to 2**64 - 1, so that 1 and 1 + 2**32 are two streams.
# Seen: they are one, for torch.Generator and torch.manual_seed alike, although initial_seed() tells them apart. With
#     64-bit seeds drawn by a hash, two of 65,536 streams are equal with a probability of about 0.4, not 1e-10.
# Where: ATen/core/MT19937RNGEngine.h, `init_with_uint32`: the state is filled from `seed & 0xffffffff`. The page of
#     torch.manual_seed gives the range [-2**63, 2**64 - 1] and does not say so. The Philox engine
#     of GPUs takes all 64 (PhiloxRNGEngine.h; not run here).
# What to do: derive seeds as 32-bit numbers and check them for repeats, or fill the whole state from a
#     numpy SeedSequence.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0
cd "$folder"
env/bin/python - <<'EOF'
import torch


def first(seed):
    generator = torch.Generator().manual_seed(seed)
    assert generator.initial_seed() == seed
    return torch.rand(4, generator=generator)


def first_global(seed):
    torch.manual_seed(seed)
    return torch.rand(4)


print("seed 1:", first(1).tolist(), "seed 1 + 2**32:", first(1 + 2**32).tolist(), "seed 2:", first(2).tolist())
for draw in (first, first_global):
    for high in (2**32, 5 * 2**32, 2**63):
        assert torch.equal(draw(1), draw(1 + high))
    assert not torch.equal(draw(1), draw(2))
EOF
