#!/usr/bin/env bash
# vector-quantize-pytorch 1.32.0, torch 2.13.0: in eval mode the first batch becomes the codebook
#
# Expected: a VectorQuantize with kmeans_init=True that is in eval mode, under no_grad, changes none of its buffers.
# Seen: its first forward pass runs k-means on the batch and overwrites the codebook and the flag `initted`, eval mode
#     or not; later passes change nothing. So a test before the first step, or a forward pass to learn shapes,
#     starts the dictionary from test data, and training then keeps it.
# Where: vector_quantize_pytorch/vector_quantize_pytorch.py, `init_embed_`, called by every forward pass: it asks for
#     `initted` alone; the moving averages below it ask for `self.training`. The README does not say so.
# What to do: run the first pass on training data, or set `initted` to True until training starts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0 einops==0.8.2 vector-quantize-pytorch==1.32.0
cd "$folder"
env/bin/python - <<'EOF'
import torch
from vector_quantize_pytorch import VectorQuantize


def changed(kmeans_init):
    torch.manual_seed(0)
    quantiser = VectorQuantize(dim=4, codebook_size=8, kmeans_init=kmeans_init).eval()
    passes = []
    for _ in range(2):
        before = {name: value.clone() for name, value in quantiser.state_dict().items()}
        with torch.no_grad():
            quantiser(torch.randn(2, 32, 4))
        after = quantiser.state_dict()
        passes.append(sorted(name for name in before if not torch.equal(before[name], after[name])))
    return passes


with_k_means, without = changed(True), changed(False)
print("buffers that eval mode changes, first and second pass:", with_k_means, "without kmeans_init:", without)
assert without == [[], []]
assert with_k_means[1] == [] and {"_codebook.embed", "_codebook.initted"} <= set(with_k_means[0])
EOF
