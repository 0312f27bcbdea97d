#!/usr/bin/env bash
# torch 2.13.0: FlopCounterMode counts no attention on a CPU
#
# Expected: torch.utils.flop_counter.FlopCounterMode counts the two products of F.scaled_dot_product_attention,
#     4 * B * H * T * T * d, on every device, as it does for matmul.
# Seen: on a CPU the fused kernel counts 0, forward and backward, without a word; the same attention by the "math"
#     kernel counts in full. A transformer's count depends on which kernel was taken.
# Where: torch/utils/flop_counter.py, flop_registry: it names _scaled_dot_product_flash_attention, _efficient_ and
#     _cudnn_, but not _scaled_dot_product_flash_attention_for_cpu, and operators without a formula count 0.
# What to do: count inside sdpa_kernel(SDPBackend.MATH), or pass a formula by custom_mapping.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0
cd "$folder"
env/bin/python - <<'EOF'
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

x = torch.randn(2, 4, 64, 16, requires_grad=True)


def count(backend, backward):
    with sdpa_kernel(backend), FlopCounterMode(display=False) as counter:
        out = torch.nn.functional.scaled_dot_product_attention(x, x, x)
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


counts = {(kernel.name, backward): count(kernel, backward)
          for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH) for backward in (False, True)}
print(counts)
products = 2 * 2 * 2 * 4 * 64 * 64 * 16
assert counts["FLASH_ATTENTION", False] == counts["FLASH_ATTENTION", True] == 0
assert counts["MATH", False] == products and counts["MATH", True] == 3 * products
with FlopCounterMode(display=False) as counter:
    torch.nn.functional.scaled_dot_product_attention(x, x, x)
assert counter.get_total_flops() == 0, "the kernel taken by default"
EOF
