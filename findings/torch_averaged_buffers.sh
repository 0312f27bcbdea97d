#!/usr/bin/env bash
# torch 2.13.0: AveragedModel without use_buffers overwrites buffers with the trained model's
#
# Expected: torch.optim.swa_utils.AveragedModel(network), use_buffers=False by default, averages parameters and leaves
#     buffers as they were when it was made.
# Seen: every update_parameters copies the trained network's buffers over. State kept in buffers, such as a codebook
#     with moving averages, is then the newest beside averaged weights, a network that never existed.
# Where: torch/optim/swa_utils.py, the last lines of update_parameters ("keep the buffers in sync with the source
#     model"); the documentation says only that True averages them.
# What to do: use_buffers=True, if an average of every buffer makes sense; else recompute buffers from the averaged
#     weights, as update_bn does for batch norm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0
cd "$folder"
env/bin/python - <<'EOF'
import torch
from torch.optim.swa_utils import AveragedModel

network = torch.nn.Module()
network.weight = torch.nn.Parameter(torch.zeros(1))
network.register_buffer("codebook", torch.zeros(1))
averaged = AveragedModel(network)
for value in (2.0, 4.0):
    network.weight.data.fill_(value)
    network.codebook.fill_(value)
    averaged.update_parameters(network)
print("weight:", averaged.module.weight.item(), "buffer:", averaged.module.codebook.item())
assert averaged.module.weight.item() == 3 and averaged.module.codebook.item() == 4
EOF
