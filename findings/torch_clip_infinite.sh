#!/usr/bin/env bash
# torch 2.13.0: clipping a gradient with one infinite number makes all its other numbers 0
#
# Expected: clip_grad_norm_ scales a gradient to the largest norm allowed, or, if that cannot be done, leaves it alone or
#     raises; a program that drops steps whose norm is not finite looks at the norm that it returns.
# Seen: the infinite number becomes NaN and every other gradient of the network exactly 0. An optimiser that is given
#     only the other weights, as in training with several optimisers, steps on by its momentum as if their
#     gradient had vanished; AdamW shrinks its moments as well. clip_grad_value_ keeps finite numbers as they are.
# Where: torch/nn/utils/clip_grad.py, `_clip_grads_with_norm_`: the factor is max_norm / (norm + 1e-6), 0 for an infinite
#     norm. The page of clip_grad_norm_ says of error_if_nonfinite=False only that no error is raised.
# What to do: pass error_if_nonfinite=True, or skip the step if the norm returned is not finite.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0
cd "$folder"
env/bin/python - <<'EOF'
import torch

for foreach in (False, True):
    first, second = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    optim = torch.optim.AdamW([second], lr=0.1, weight_decay=0)
    second.grad = torch.tensor([1.0, 1.0, 1.0])
    optim.step()
    before = second.detach().clone()
    first.grad, second.grad = torch.tensor([1.0, torch.inf, 1.0]), torch.tensor([-3.0, 0.5, 4.0])
    norm = torch.nn.utils.clip_grad_norm_([first, second], 1.0, foreach=foreach)
    print("norm", norm.item(), "gradients", first.grad.tolist(), second.grad.tolist())
    assert norm == torch.inf
    assert second.grad.tolist() == [0, 0, 0]
    assert first.grad.isnan().tolist() == [False, True, False]
    assert first.grad[[0, 2]].tolist() == [0, 0]
    optim.step()
    assert ((second - before) < -0.05).all()  # on in the old direction, whatever the signs of its gradient
    third = torch.nn.Parameter(torch.zeros(3))
    third.grad = torch.tensor([0.3, torch.inf, -0.2])
    torch.nn.utils.clip_grad_value_([third], 1.0, foreach=foreach)
    assert torch.equal(third.grad, torch.tensor([0.3, 1.0, -0.2]))
EOF
