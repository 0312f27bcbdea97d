#!/usr/bin/env bash
# torch 2.13.0, CPU: the first normal numbers of a seed depend on how many are drawn
#
# Expected: randn(n) of a seeded generator begins with the numbers of randn(m), m < n, as numpy's does and as torch.rand's
#     does; a dtype only rounds them.
# Seen: from 16 numbers on they are others. Whenever n is no multiple of 16, the last 16 are drawn a second time, so
#     randn(17) shares one number with randn(32). float32 and float64 agree below 16 numbers and differ from 16 on. A
#     tensor that is not contiguous gets yet other numbers by normal_ than one of the same shape that is.
# Where: ATen/native/cpu/DistributionTemplates.h: `normal_kernel` calls `normal_fill`, which draws a block of uniform
#     numbers for Box and Muller's method, only for `size >= 16 && self.is_contiguous()`. The page of torch.randn says
#     nothing of it.
# What to do: draw each tensor from a generator of its own, always whole and in one dtype; to compare two sizes of a
#     network, draw the larger one and cut.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0
cd "$folder"
env/bin/python - <<'EOF'
import numpy as np
import torch


def seeded():
    return torch.Generator().manual_seed(0)


def randn(n, dtype=torch.float32):
    return torch.randn(n, generator=seeded(), dtype=dtype)


print({n: [round(x, 3) for x in randn(n)[:3].tolist()] for n in (8, 15, 16, 17, 32)})
assert torch.equal(randn(8), randn(15)[:8])
assert not (randn(15) == randn(16)[:15]).any()
assert torch.equal(randn(16), randn(32)[:16])
assert (randn(17) == randn(32)[:17]).sum() == 1  # the first: the other 16 are drawn again
assert torch.equal(randn(15, torch.float64).float(), randn(15))
assert (randn(16, torch.float64) - randn(16)).abs().min() > 1e-3
table = torch.empty(4, 8).T.normal_(generator=seeded())
assert not torch.equal(table, torch.empty(8, 4).normal_(generator=seeded()))
# others keep what came first
assert np.array_equal(np.random.default_rng(0).normal(size=15), np.random.default_rng(0).normal(size=32)[:15])
assert torch.equal(torch.rand(15, generator=seeded()), torch.rand(32, generator=seeded())[:15])
EOF
