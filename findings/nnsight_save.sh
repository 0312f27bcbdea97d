#!/usr/bin/env bash
# nnsight 0.8.1, torch 2.13.0: .save() keeps the tensor, not its value
#
# Expected: `.save()` notes what an activation was when it was saved; an edit in a later line leaves it alone.
# Seen: after `output.save()` and then `output[:] = 0` the saved value is 0 as well: "before" and "after" of an
#     edit in place are one tensor, so a patching effect measured between them is 0. An edit by assignment,
#     `module.output = other`, leaves the saved value as it was.
# Where: nnsight/tracing/tracer.py: `save` "marks the concrete object by identity and returns it unchanged".
# What to do: `module.output.clone().save()`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0 nnsight==0.8.1
cd "$folder"
cat > try.py <<'EOF'
import torch
from nnsight import NNsight

network = NNsight(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)))
x = torch.ones(2, 3)
with network.trace(x):
    before = network[0].output.save()
    copied = network[0].output.clone().save()
    network[0].output[:] = 0
    after = network[0].output.save()
with network.trace(x):
    assigned = network[0].output.save()
    network[0].output = torch.zeros_like(network[0].output)
    logits = network.output.save()
print("saved before the edit in place:", before.abs().sum().item(), "copied:", copied.abs().sum().item(),
      "saved before an assignment:", assigned.abs().sum().item())
assert before.abs().sum() == 0 == after.abs().sum() and before is after
assert copied.abs().sum() > 0 and torch.equal(copied, assigned)
assert torch.equal(logits, network[1].bias.expand(2, 3))
EOF
env/bin/python try.py  # nnsight reads the source of a trace, so it must be a file
