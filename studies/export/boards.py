"""A run's boards for other libraries: Parquet files, described by Croissant 1.1. n boards."""
from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path

import numpy as np

from module_dataset import TYPES
from studies.claims.runs import proba_of
from studies.claims.scenes import types_in_use
from studies.export.model import library
from utils import numpy_rng

EXPORT = 69  # the random stream of exported boards and masks
TRAIN, HELD_OUT = 1000, 5000  # boards drawn from train; at most so many of each type held out
COLUMNS = {
    "type": "single, double or composition",
    "background": "the token of the background",
    "board": "the tokens, row after row",
    "mask": "1 for a cell that is hidden from the network, else 0",
    "object": "which object covers the cell, holes included, in drawing order; -1 for none",
    "root": "which root that object is; -1 for none",
    "place": "the cell's number in that root's footprint, row after row; -1 for none",
    "posterior": "the ideal observer's probability of every token, given the visible cells, cell after cell",
}

Table = dict[str, np.ndarray]  # by column, (n,) or (n, ...)


def tables(trainer) -> dict[str, Table]:
    """{split: its boards}: of train TRAIN, drawn as at the end of training; of test, if boards are held out,
    all of the types in use, at most HELD_OUT of each. Masks are as at the end of training."""
    data, proba, found = trainer.dataset, proba_of(trainer), {}
    for split in ("train", "test")[: 1 + data.holds("test")]:
        rng = numpy_rng(trainer.seed, EXPORT, split == "test")
        if split == "train":
            drawn = data.sample(TRAIN, split, proba, rng)
        else:
            drawn = data.all_boards(split, HELD_OUT, rng)
            drawn = drawn.take(np.isin(drawn.types, list(types_in_use(data, proba))))
        masking = trainer.recipe.masking_at(trainer.epochs)
        mask, _ = data.mask(drawn.boards, *masking, drawn.types, drawn.corners, rng)
        seen = np.where(mask, data.masking_token, drawn.boards)
        covers, d2 = data.covering(drawn.objects), data.abs_dim**2
        values = (np.array(TYPES)[drawn.types], drawn.backgrounds, drawn.boards, mask.astype(int),
                  np.where(covers < 0, -1, covers // d2), drawn.slots, np.where(covers < 0, -1, covers % d2),
                  data.posterior(seen, proba).astype(np.float32))
        found[split] = dict(zip(COLUMNS, values, strict=True))
    return found


def save_boards(splits: dict[str, Table], folder: Path, run_name: str) -> None:
    """Writes boards_{split}.parquet, and croissant.json about them. ValueError if mlcroissant finds a fault
    in it or reads other boards by it."""
    mlc, pyarrow, parquet = map(library, ("mlcroissant", "pyarrow", "pyarrow.parquet"))
    files, records = [], []
    for split, table in splits.items():
        name, fields = f"boards_{split}.parquet", []
        arrays = {column: list(x.reshape(len(x), -1)) if x.ndim > 1 else x for column, x in table.items()}
        parquet.write_table(pyarrow.table(arrays), folder / name, compression="zstd")
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        files.append(mlc.FileObject(id=name, name=name, content_url=name, sha256=digest,
                                    encoding_formats=["application/x-parquet"]))
        for column, x in table.items():
            kind = {"U": mlc.DataType.TEXT, "f": mlc.DataType.FLOAT}.get(x.dtype.kind, mlc.DataType.INTEGER)
            shape = dict(is_array=True, array_shape=str(x[0].size)) if x.ndim > 1 else {}
            source = mlc.Source(file_object=name, extract=mlc.Extract(column=column))
            fields.append(mlc.Field(id=f"{split}/{column}", name=column, description=COLUMNS[column],
                                    data_types=kind, source=source, **shape))
        records.append(mlc.RecordSet(id=split, name=split, fields=fields))
    metadata = mlc.Metadata(
        name=f"boards_of_{run_name}", distribution=files, record_sets=records, version="0.1.0",
        description="Boards of objects with masks, labels of each cell and the ideal observer's posterior.",
        license=["https://spdx.org/licenses/MIT"], url="https://arxiv.org/abs/2312.05361",
        cite_as="arXiv 2312.05361", date_published=datetime.date.today().isoformat(),
        conforms_to="http://mlcommons.org/croissant/1.1")
    path = folder / "croissant.json"
    path.write_text(json.dumps(metadata.to_json(), indent=2, default=str), encoding="utf-8")
    described = mlc.Dataset(jsonld=path)
    if described.metadata.issues.errors:
        raise ValueError(f"{path}: {described.metadata.issues.report()}")
    for split, table in splits.items():
        first = next(iter(described.records(split)))
        if not np.array_equal(first[f"{split}/board"], table["board"][0].ravel()):
            raise ValueError(f"{path}: mlcroissant reads another board than was written.")
