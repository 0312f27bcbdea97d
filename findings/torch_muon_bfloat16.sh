#!/usr/bin/env bash
# torch 2.13.0: torch.optim.Muon orthogonalises in bfloat16, whatever the dtype of the parameters
#
# Expected: with float64 parameters a step has float64's precision; and as Muon divides a gradient by its norm, a
#     gradient 1.001 times as long gives the same step.
# Seen: for an ill-conditioned gradient, with singular values from 1 to 0.001, the step of float64 parameters is that of
#     float32 ones to the bit, 9% away from the same five Newton-Schulz iterations in float64; a gradient 1.001 times as
#     long gives a step 13% away. So two float64 runs that should agree (a mean in place of a sum, another split of the
#     batch, another machine) part at the first step. Powers of two change nothing.
# Where: torch/optim/_muon.py, `_zeropower_via_newtonschulz`: `ortho_grad = grad.bfloat16()`, as in the code of Muon's
#     author, meant for GPUs. Neither the class's docstring nor its documentation names a precision.
# What to do: compare Muon runs by their results, not by weights; for float64 checks orthogonalise in float64.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0
cd "$folder"
env/bin/python - <<'EOF'
import torch


def step(gradient):
    """The step of Muon without momentum and decay, at rate 1."""
    weight = torch.nn.Parameter(torch.zeros_like(gradient))
    optim = torch.optim.Muon([weight], lr=1.0, weight_decay=0, momentum=0, nesterov=False)
    weight.grad = gradient.clone()
    optim.step()
    return -weight.detach().double()


def newton_schulz(x, a=3.4445, b=-4.7750, c=2.0315):
    """The same iterations in float64, by Muon's published coefficients."""
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def away(one, other):
    return ((one - other).norm() / other.norm()).item()


generator = torch.Generator().manual_seed(0)
left, right = (torch.linalg.qr(torch.randn(n, 32, dtype=torch.float64, generator=generator))[0] for n in (32, 48))
gradient = left * torch.logspace(0, -3, 32, dtype=torch.float64) @ right.T
ours, longer = step(gradient), step(1.001 * gradient)
print("from float64's iterations", away(ours, newton_schulz(gradient)), "for 1.001 times the gradient", away(longer, ours))
assert torch.equal(ours, step(gradient.float()))
assert away(newton_schulz(1.001 * gradient), newton_schulz(gradient)) < 1e-12
assert 0.05 < away(ours, newton_schulz(gradient)) < 0.2
assert 0.05 < away(longer, ours) < 0.3
assert away(step(2 * gradient), ours) == 0  # powers of two change no rounding
EOF
