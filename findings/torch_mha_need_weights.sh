#!/usr/bin/env bash
# torch 2.13.0: asking nn.MultiheadAttention for its weights decides whether a padded row is NaN
#
# Expected: need_weights only says whether attention weights are returned; the output is the same, up to rounding.
# Seen: for an element of the batch whose keys are all padding the output is NaN with need_weights=True, the
#     default, and finite (the bias of the output projection) with need_weights=False; other elements agree. So
#     looking at the weights brings NaN into a network that has none, and its gradient.
# Where: torch/nn/functional.py, multi_head_attention_forward: with weights it uses baddbmm and softmax, without them
#     scaled_dot_product_attention, whose softmax gives 0 for such rows since torch 2.5. The note in the documentation
#     of need_weights speaks of speed alone.
# What to do: keep one key of such elements, or zero their output and compare both ways once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0
cd "$folder"
env/bin/python - <<'EOF'
import torch

torch.manual_seed(0)
attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
torch.nn.init.normal_(attention.out_proj.bias)
x = torch.randn(2, 4, 8)
padding = torch.zeros(2, 4, dtype=torch.bool)
padding[0] = True
for training in (True, False):
    attention.train(training)
    with_weights, without = (attention(x, x, x, key_padding_mask=padding, need_weights=need)[0] for need in (True, False))
    print("training" if training else "eval", "with weights:", with_weights[0, 0, :2].tolist(), "without:", without[0, 0, :2].tolist())
    assert with_weights[0].isnan().all()
    assert torch.equal(without[0], attention.out_proj.bias.expand(4, 8))
    assert torch.allclose(with_weights[1], without[1], atol=1e-6)
EOF
