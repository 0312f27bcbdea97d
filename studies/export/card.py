"""The README.md of an export: what the files are, how good the network is, how to read them."""
from __future__ import annotations

import json
from pathlib import Path

from module_dataset import TYPES
from parts.files import markdown
from studies.export.boards import COLUMNS, Table
from studies.export.model import OPSET

CARD = """---
license: mit
---
# {name}

A small transformer, {architecture}, that fills in the hidden cells of boards of {h} x {h} tokens, after arXiv
2312.05361. It is an independent re-implementation, unaffiliated with the authors. Epoch {epoch}, seed {seed}.

- `model.safetensors`: the weights, by the names of the state dict
- `config.json`: parameters of training and data set, and the objects that boards are made of
- `boards_SPLIT.parquet`: boards; `croissant.json` describes them (Croissant 1.1)
{onnx}
The network gets tokens, {unk} in hidden cells, and answers with logits over {V} tokens for every cell.

## Boards

{counts}
`train` is a sample. `test` has boards that are held out: training never shows these pictures. How much else
it shows of their objects depends on the split, `{split}`. Masks are as at the end of training: {p:.0%} of
cells are hidden, and {patch:.0%} of boards also lose a patch. The ideal observer knows how boards are drawn
at the end of training. Columns:

{columns}

Hidden tokens right on these boards, in one pass:

{scores}
## Reading

```python
import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

weights = load_file("model.safetensors")
row = pq.read_table("boards_{last}.parquet").to_pylist()[0]
board = np.reshape(row["board"], ({h}, {h}))
posterior = np.reshape(row["posterior"], ({h}, {h}, {V}))
```

Where the modules of the program that wrote it can be imported, this makes the network again:

```python
import json

from safetensors.torch import load_file

from module_dataset import AbstractionDataset
from {module} import TrainTransformer

with open("config.json") as file:
    config = json.load(file)
trainer = TrainTransformer(AbstractionDataset(**config["dataset"]), **config["training"])
trainer.transformer.load_state_dict(load_file("model.safetensors"))
{passing}```
"""


def write_card(trainer, folder: Path, splits: dict[str, Table], off: float | None) -> None:
    """Writes README.md and config.json. off: what save_onnx returns, None if there is no ONNX model."""
    data, network, scores = trainer.dataset, trainer.transformer, []
    config = {"architecture": type(network).__name__, "training": trainer.params | {"run_name": ""},
              "dataset": data.params.as_dict(), "roots": data.roots.tolist(),
              "compositions": data.compositions.tolist()}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for split, table in splits.items():
        answers = trainer.reconstruct(table["board"], table["mask"], "one pass")
        answers = {f"network, {trainer.outputs[name]}": x for name, x in answers.items()}
        answers["ideal observer"] = table["posterior"].argmax(-1)
        hidden = table["mask"] == 1
        right = {name: (x == table["board"])[hidden].mean() for name, x in answers.items()}
        scores += [[split, name, f"{share:.1%}"] for name, share in right.items()]
    p, patch = trainer.recipe.masking_at(trainer.epochs)
    onnx = "" if off is None else (
        "- `model.onnx`: `tokens` (boards, cells) to every named activation, float32, opset "
        f"{OPSET}; within {off:.0e} of torch, as a share of an activation's largest value\n")
    quantiser = getattr(network, "ss_vector_quantizer", None)
    text = CARD.format(
        name=trainer.run_name, architecture=config["architecture"], h=data.board_dim, epoch=trainer.epoch - 1,
        seed=trainer.seed, onnx=onnx, unk=data.masking_token, V=data.vocab_size,
        counts=markdown(["split", *TYPES], [[split, *((table["type"] == name).sum() for name in TYPES)]
                                            for split, table in splits.items()]),
        split=data.split_method if data.sets else "none", p=p, patch=patch,
        columns="\n".join(f"- `{name}`: {about}" for name, about in COLUMNS.items()),
        scores=markdown(["split", "answer", "right"], scores), last=list(splits)[-1],
        module=type(trainer).__module__,
        passing="trainer.transformer.ss_vector_quantizer.passing = "
                f"{bool(quantiser.passing)}\n" if quantiser else "")
    (folder / "README.md").write_text(text, encoding="utf-8")
