#!/usr/bin/env bash
# torch 2.13.0: making an optimiser imports the compiler, as does decorating a function with torch.compiler.disable
#
# Expected: a program that compiles nothing never imports torch._dynamo, torch._inductor and sympy, which `import torch`
#     leaves out; torch.compiler.disable only marks a function.
# Seen: torch.optim.SGD(parameters) imports all three, over 500 modules, before any step; so does the mere definition
#     of a function under @torch.compiler.disable. This takes nearly as long again as `import torch`.
# Where: torch/_compile.py, _disable_dynamo: Optimizer.add_param_group is wrapped in it, and it imports torch._dynamo on
#     the first call; torch/compiler/__init__.py, disable.
# What to do: the decorators keep what they wrap (functools.wraps), so a subclass can take back the methods with
#     inspect.unwrap (parts/training/optimizers.py); do not decorate at module level what is
#     compiled by few; count the import when the start of a program is measured.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0
cd "$folder"
cat > imports.py <<'EOF'
import sys
import torch

def loaded():
    return [name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules]

network = torch.nn.Linear(2, 2)
network(torch.zeros(1, 2)).sum().backward()
before, modules = loaded(), len(sys.modules)
if sys.argv[1] == "optimiser":
    torch.optim.SGD(network.parameters(), lr=0.1)
else:
    @torch.compiler.disable
    def double(x):
        return 2 * x
print(f"{sys.argv[1]}: before {before}, after {loaded()}, {len(sys.modules) - modules} more modules")
assert before == [] and len(loaded()) == 3 and len(sys.modules) - modules > 500
EOF
env/bin/python imports.py optimiser
env/bin/python imports.py decorator
