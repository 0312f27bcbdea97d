#!/usr/bin/env bash
# pyvene 0.1.8, torch 2.13.0: one call with a number makes later calls use one place for the whole batch
#
# Expected: {"sources->base": (places, places)} with a list of places for every example changes each example at its
#     own place, whatever the model was called with before; [5, 6] means the places 5 and 6.
# Seen: after a single call with {"sources->base": 5} the same IntervenableModel changes all examples at the first
#     example's place, with no warning: [[5], [6], [7], [8]] becomes [[5], [5], [5], [5]]. Half of a patching table is
#     then of other places than its rows say. And [5, 6] copies place 5 of the source to place 6 of the base.
# Where: pyvene/models/intervenable_base.py, `_broadcast_unit_locations`: a number or a short list sets
#     `self.use_fast = True`, which nothing sets back; `scatter_neurons` then takes `unit_locations[0]`. The
#     constructor warns of use_fast=True, this does not.
# What to do: one IntervenableModel for one way of giving places, or `model.use_fast = False` before each call; write
#     several places of all examples as [[[5, 6]] * batch] on both sides.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0 pyvene==0.1.8
cd "$folder"
env/bin/python - <<'EOF'
import pyvene
import torch


class Network(torch.nn.Module):
    config, device = None, torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.site = torch.nn.Identity()

    def forward(self, x):
        return self.site(1.0 * x)


base, source = torch.zeros(4, 9, 1), torch.ones(4, 9, 1)
own = [[[5], [6], [7], [8]]]


def changed(model, where):
    """The cells of every example that an intervention changes."""
    out = model({"x": base}, [{"x": source}], {"sources->base": where})[1]
    return [row.nonzero().flatten().tolist() for row in out[..., 0]]


def new():
    how = {"component": "site.output", "intervention": pyvene.VanillaIntervention(embed_dim=1)}
    return pyvene.IntervenableModel(how, model=Network())


model = new()
before = changed(model, (own, own))
number = changed(model, 5)
after = changed(model, (own, own))
print("one place an example:", before, "after a call with 5:", after, "a new model:", changed(new(), (own, own)))
print("[5, 6]:", changed(new(), [5, 6]))
assert before == changed(new(), (own, own)) == [[5], [6], [7], [8]]
assert number == after == [[5]] * 4
assert changed(new(), [5, 6]) == [[6]] * 4
model.use_fast = False
assert changed(model, (own, own)) == [[5], [6], [7], [8]]
EOF
