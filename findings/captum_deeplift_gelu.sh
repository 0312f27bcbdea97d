#!/usr/bin/env bash
# captum 0.9.0, torch 2.13.0: DeepLift treats nn.GELU as if it were linear
#
# Expected: DeepLift handles the activation modules of torch, or refuses one that it does not know; attributions
#     then add up to the difference between output and baseline's output (its convergence delta is 0).
# Seen: with nn.GELU and nn.SiLU attributions are multiples of the plain gradient; the delta is a fifth
#     of the output, with no warning that names them. nn.ELU, Tanh, Softplus and LeakyReLU give 1e-7.
# Where: captum/attr/_core/deep_lift.py, SUPPORTED_NON_LINEAR: ReLU, ELU, LeakyReLU, Sigmoid, Tanh, Softplus, MaxPool,
#     Softmax. Every other module is passed through. The documentation of DeepLift says "currently we
#     only support a limited number of non-linear activations", not what happens to the others.
# What to do: ask for return_convergence_delta=True and refuse a large one; for a transformer use
#     IntegratedGradients (delta 1e-7 here).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0 captum==0.9.0
cd "$folder"
env/bin/python - <<'EOF'
import warnings

import torch
from captum.attr import DeepLift, IntegratedGradients

x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
largest = {}
for activation in (torch.nn.GELU, torch.nn.SiLU, torch.nn.ELU, torch.nn.Tanh, torch.nn.Softplus, torch.nn.LeakyReLU):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 16), activation(), torch.nn.Linear(16, 1))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        _, delta = DeepLift(network).attribute(x, return_convergence_delta=True)
    texts = {str(warning.message)[:60] for warning in seen}
    assert not any("GELU" in text or "SiLU" in text or "support" in text for text in texts), texts
    _, by_gradients = IntegratedGradients(network).attribute(x, return_convergence_delta=True)
    name = activation.__name__
    largest[name] = delta.abs().max().item()
    print(f"{name}: DeepLift's delta {largest[name]:.1e}, IntegratedGradients' {by_gradients.abs().max():.1e}",
          f"of outputs {(network(x) - network(0 * x)).abs().max():.2f}")
    assert by_gradients.abs().max() < 1e-2
assert largest["GELU"] > 1e-2 and largest["SiLU"] > 1e-2
assert max(largest[name] for name in ("ELU", "Tanh", "Softplus", "LeakyReLU")) < 1e-5
EOF
