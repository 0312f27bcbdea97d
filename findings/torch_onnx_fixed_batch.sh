#!/usr/bin/env bash
# torch 2.13.0, onnxscript 0.7.2: torch.onnx.export and a size that dynamic_shapes calls dynamic
#
# Expected: if a model fixes a size that `dynamic_shapes` calls dynamic, torch.onnx.export fails as torch.export.export
#     does: "You marked boards as dynamic but your code specialized it to be a constant (2)".
# Seen: it exports a model for the example's size only, without an error or a warning that says so, and reports
#     success. `len(x)` is enough to fix a size, as it must return an int; `x.shape[0]` does not.
# Where: torch/onnx/_internal/exporter/_capture_strategies.py: on that error the exporter takes the suggested fix,
#     boards = 2, by refine_dynamic_shapes_from_suggested_fixes, and tries again.
# What to do: look at the input's shape in the exported model, or run it with another size; x.shape[0], not len(x).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2
cd "$folder"
env/bin/python - <<'EOF'
import warnings

import torch


class Beside(torch.nn.Module):
    """x (B, 4) with the same three numbers beside each row."""

    def __init__(self, size):
        super().__init__()
        self.size, self.words = size, torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        return torch.cat((x, self.words.expand(self.size(x), -1)), dim=1)


def exported(size):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program = torch.onnx.export(Beside(size).eval(), example, input_names=["x"], dynamic_shapes=shapes, verbose=False)
    dimension = program.model_proto.graph.input[0].type.tensor_type.shape.dim[0]
    return dimension.dim_param or dimension.dim_value, [str(one.message) for one in caught]


example, shapes = (torch.ones(2, 4),), ({0: torch.export.Dim("boards")},)
fixed, messages = exported(len)
print("len(x):", fixed, "; warnings on shapes:", [text for text in messages if "dynamic" in text or "shape" in text])
print("x.shape[0]:", exported(lambda x: x.shape[0])[0])
try:
    torch.export.export(Beside(len).eval(), example, dynamic_shapes=shapes)
    refused = False
except torch._dynamo.exc.UserError as error:
    refused = "specialized it to be a constant (2)" in str(error)
print("torch.export.export refuses:", refused)
assert (fixed, exported(lambda x: x.shape[0])[0], refused) == (2, "boards", True)
assert not any("dynamic" in text or "shape" in text for text in messages)
EOF
