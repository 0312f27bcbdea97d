"""Files of a data set: this project's exports, and those of the authors' program (arXiv 2312.05361).

An export is <filename>.json, which holds every parameter, and beside it arrays as .npy files: roots,
compositions, and for each family the rows held out for val and for test. Checksums in the JSON tie them
together. Nothing is ever unpickled.
"""
from __future__ import annotations

import json
import zlib
from pathlib import Path, PureWindowsPath

import numpy as np

from parts.boards.numbering import NO_NUMBERS, Family, RowTable
from parts.boards.objects import checked_compositions, checked_roots
from parts.boards.params import DRAWS, FAMILIES, SPLITS, TYPES, DatasetParams
from parts.boards.splits import row_tables
from parts.checks import check_choice, integer_array, naming
from parts.files import load_array, read_json, save_array, write_json
from utils import numpy_rng, shown

OBJECTS = ("roots", "compositions")
# keys that official files may lack, with what they mean then; and parameters that they never have
OFFICIAL = {
    "card_val": 0, "card_test": 0, "split_method": "balanced", "bool_split": False, "set_type": "train"}
NOT_OFFICIAL = {"keep_twins": False, "allow_overlap": True}


def write_export(filename: str | Path, dataset) -> None:
    """Writes an AbstractionDataset: <filename>.json (parameters, set_type, state of `rng`) and beside it
    <filename>_roots.npy, _compositions.npy and the rows held out, _{family}_{val, test}.npy."""
    path, params, tables = json_path(filename), dataset.params, {}
    in_order = params.split_method in ("places", "pairs")
    for name, family in zip(FAMILIES, params.families, strict=True) if dataset.sets is not None else ():
        if family.size and not any(len(dataset.sets[f"{name}_{split}"]) for split in SPLITS):
            continue  # not in use in the official file that this data set was loaded from
        for table in (f"{name}_val", f"{name}_test"):
            tables[table] = _as_array(dataset.sets[table], in_order)
    arrays = {name: getattr(dataset, name) for name in OBJECTS} | tables
    for name, array in arrays.items():
        save_array(_beside(path, name), array)
    checksums = {name: zlib.crc32(array.tobytes()) for name, array in arrays.items()}
    write_json(path, {
        "format": 1, **params.as_dict(), "set_type": dataset.set_type, "checksums": checksums,
        "checksum": checksum_of(params, checksums), "rng": dataset.rng.bit_generator.state,
    })


def _as_array(table: RowTable, in_order: bool) -> np.ndarray:
    """A table of held-out rows as an export keeps it: rows (k, width) or, if they are in order and that is
    smaller, one bit for each row of the family, packed in bytes (b,)."""
    if in_order and table.size > table.family.size // 8:
        held = np.zeros(table.family.size, bool)
        held[table.numbers(np.arange(len(table)))] = True
        return np.packbits(held)
    rows = table[:]
    return rows.astype(np.min_scalar_type(rows.max(initial=0)))


def read_export(filename: str | Path, seed: int) -> dict:
    """The attributes of a data set from an export, in this or the official program's format.

    seed: for an official file, which has none. ValueError names a file that is missing, cut off or
    inconsistent.
    """
    path = json_path(filename)
    values = read_json(path)
    if official := "sets" in values:
        values, files, arrays = _from_official(path, values, seed)
    with naming(path):
        version, set_type, state, checksums, checksum = (
            values.pop(name, None) for name in ("format", "set_type", "rng", "checksums", "checksum"))
        params = DatasetParams.from_dict(values)
        sealed = (version, checksum) == (1, checksum_of(params, checksums)) and params.seed is not None
        if not (official or sealed):
            raise ValueError("is not an exported data set with the parameters that it was written with.")
        rng = numpy_rng(0)
        rng.bit_generator.state = state
    if not official:
        files, arrays = _read_arrays(path, checksums)
    with naming(path):
        check_choice("set_type", set_type, SPLITS)
        held = [_held_in(arrays, name, family, whole=official)
                for name, family in zip(FAMILIES, params.families, strict=True)]
    with naming(files["roots"]):
        roots = checked_roots(params, arrays["roots"])
    with naming(files["compositions"]):
        compositions = checked_compositions(params, arrays["compositions"])
    sets = row_tables(params, held) if any(held) else None
    return {"params": params, "set_type": set_type, "rng": rng, "roots": roots, "compositions": compositions,
            "sets": sets}


def _read_arrays(path: Path, checksums: dict[str, int]) -> tuple[dict[str, Path], dict[str, np.ndarray]]:
    """The files of the arrays beside an export, and the arrays."""
    names = [*OBJECTS, *(f"{family}_{split}" for family in FAMILIES for split in SPLITS[1:])]
    files = {name: _beside(path, name) for name in names if name in OBJECTS or name in checksums}
    arrays = {name: load_array(file) for name, file in files.items()}
    for name, file in files.items():
        if zlib.crc32(arrays[name].tobytes()) != checksums.get(name):
            raise ValueError(f"{file}: is not the file that was written with {path.name}.")
    return files, arrays


def _from_official(
    path: Path, values: dict, seed: int
) -> tuple[dict, dict[str, Path], dict[str, np.ndarray]]:
    """The values of an official file as an export has them, the arrays' files, and the arrays, tables of rows
    among them."""
    with naming(path):
        files = {name: path.parent / PureWindowsPath(str(values[name])).name  # splits at / and \
                 for name in (*OBJECTS, "board_types_proba")}
    arrays = {name: load_array(file) for name, file in files.items()}
    rng = numpy_rng(seed, DRAWS)
    values = OFFICIAL | values | NOT_OFFICIAL | {"seed": seed, "rng": rng.bit_generator.state}
    with naming(path):
        values["board_types_proba"] = arrays["board_types_proba"].tolist()
        for type_, family in zip(TYPES, FAMILIES, strict=True) if values["sets"] is not None else ():
            tables = {f"{family}_{split}": values["sets"][f"{family}_{split}"] for split in SPLITS}
            if not all(isinstance(table, list) for table in tables.values()):
                raise ValueError(f"the tables of {family} must be lists.")
            if type_ in values["board_types"] or any(tables.values()):
                arrays |= {name: np.array(table) for name, table in tables.items()}
        kept = {name: values[name] for name in (*DatasetParams.__dataclass_fields__, "set_type", "rng")}
    return kept, files, arrays


def _held_in(
    arrays: dict[str, np.ndarray], name: str, family: Family, whole: bool
) -> list[np.ndarray] | None:
    """The indices held out for val and for test by the tables of a family; None if it has no table. whole:
    train is there too, and the three tables must hold every row."""
    tables = [
        _numbers_of(arrays[f"{name}_{split}"], family) for split in SPLITS if f"{name}_{split}" in arrays
    ]
    if len(tables) not in (0, 2 + whole):
        raise ValueError(f"a table of {name} is missing.")
    rows = np.concatenate([NO_NUMBERS, *tables])
    if len(np.unique(rows)) < len(rows) or (whole and tables and len(rows) < family.size):
        raise ValueError(f"the tables of {name} do not hold each of its {family.size} rows once.")
    return tables[-2:] or None


def _numbers_of(rows: np.ndarray, family: Family) -> np.ndarray:
    """The indices (k,) of rows (k, width) or of packed bits (b,), as a file holds them. ValueError if they
    are not rows of the family."""
    if not rows.size:
        return NO_NUMBERS
    if rows.ndim == 1 and rows.dtype == np.uint8 and len(rows) == -(-family.size // 8):
        return np.flatnonzero(np.unpackbits(rows, count=family.size))
    rows = integer_array("a table", rows, (None, family.width), 0, 2**62)
    try:
        return family.rank(rows)
    except ValueError:
        raise ValueError("a table has a row that the parameters do not allow.") from None


def json_path(filename: str | Path) -> Path:
    """The JSON file of an export; TypeError or ValueError if filename cannot name a file."""
    if not isinstance(filename, (str, Path)):
        raise TypeError(f"filename must be a string or a Path, not {shown(filename)}.")
    path = Path(filename)
    if not path.name:
        raise ValueError(f"filename must end in a file's name, not {str(filename)!r}.")
    return path if path.suffix == ".json" else path.with_name(path.name + ".json")


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}_{name}.npy")


def checksum_of(params: DatasetParams, checksums: dict[str, int]) -> int:
    """Of the parameters that decide which rows exist and which are held out, and of the arrays' checksums."""
    free = ("dataset_len", "run_name", "board_types_proba", "seed")
    values = {name: value for name, value in params.as_dict().items() if name not in free}
    return zlib.crc32(json.dumps([values, checksums], sort_keys=True).encode())
