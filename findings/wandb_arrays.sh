#!/usr/bin/env bash
# wandb 0.31.0, offline: an array of 33 numbers or more is logged as a histogram
#
# Expected: run.log({"board": array}) keeps the numbers of an array, as it keeps those of the same list.
# Seen: an array of 32 is kept as a list; one of 33, such as a board of 64 cells, becomes a histogram of 32 bins:
#     order and exact values are gone from the run's summary and from the file of its history. A list of the same numbers is kept.
# Where: wandb/util.py, `json_friendly` and `WandBJSONEncoder` (obj.size > 32: Histogram). The pages on run.log do
#     not name the limit.
# What to do: log array.tolist(), or a wandb.Table.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 wandb==0.31.0
cd "$folder"
env/bin/python - <<'EOF'
import os
import pathlib

import numpy as np

os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": os.getcwd()}
import wandb

run = wandb.init(project="arrays")
run.log({"array of 32": np.arange(32), "array of 33": np.arange(33), "list of 33": list(range(33))})
kept = {name: run.summary[name] for name in ("array of 32", "array of 33", "list of 33")}
run.finish()
print({name: value if isinstance(value, list) else dict(value) for name, value in kept.items()})
assert kept["array of 32"] == list(range(32)) and kept["list of 33"] == list(range(33))
histogram = dict(kept["array of 33"])
stored = next(pathlib.Path().rglob("*.wandb")).read_bytes()
assert stored.count(b"histogram") == 2, "once in the history, once in the summary"
assert histogram["_type"] == "histogram" and len(histogram["values"]) == 32
EOF
