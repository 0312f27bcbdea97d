"""What the explorer's page needs of a run: weights, data set, boards, read-outs.

Axis letters: n boards, T tokens of a board, D = n_embd, C classes of a read-out, k rows.
"""
from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import to_hex

import module_train_probe
import module_train_probe_lea
from module_dataset import FAMILIES, TYPES, AbstractionDataset
from parts.files import read_json
from parts.probing.panels import token_colors
from studies.claims.runs import proba_of
from utils import numpy_rng, to_numpy, torch_rng

LARGEST_SIDE = 16  # of a board: a pass over 256 tokens takes a page a quarter of a second
ROWS = 60  # boards of a type and split that the page can draw
REFERENCE = 32  # boards over which mean activations are taken
FITTED, CHECKED = 400, 60  # boards of a type that read-outs are fitted on and that answers are checked on
STREAM_ROWS, STREAM_REFERENCE, STREAM_FIT, STREAM_CHECK = range(64, 68)  # random streams of the page
RIDGE = 1e-3  # times the mean variance of an activation


def open_run(path: str | Path) -> tuple[module_train_probe.TrainTransformer, str]:
    """A run folder, or a checkpoint in it (RUN/checkpoints/model_250.pth) -> its trainer and a name for the
    page. ValueError names what is missing."""
    path = Path(path)
    checkpoint = path.name if path.suffix == ".pth" else None
    folder = path.parent.parent if checkpoint else path
    if not (folder / "params_training.json").is_file():
        raise ValueError(f"{path}: is not a run folder or a checkpoint in one (no params_training.json).")
    lea = "vocab_speech_size" in read_json(folder / "params_training.json")
    module = module_train_probe_lea if lea else module_train_probe
    trainer = module.TrainTransformer.from_run(folder, checkpoint, device="cpu")
    name = folder.resolve().name
    return trainer, f"{name}, epoch {trainer.epoch - 1}" if checkpoint else name


def run_data(trainer, name: str, path: str | Path | None = None) -> dict:
    """The page's description of a run. path: what from_run opens, None for a trainer that has no folder.

    ValueError for boards that are too large for a page.
    """
    data = trainer.dataset
    if data.board_dim > LARGEST_SIDE:
        side, most = data.board_dim, LARGEST_SIDE
        raise ValueError(f"{name}: boards of {side} x {side} cells are too large for a page, which takes at "
                         f"most {most} x {most}.")
    network, lea = trainer.transformer, hasattr(trainer.transformer, "ss_blocks")
    sizes = dict(T=trainer.block_size, V=trainer.vocab_size, D=trainer.n_embd, P=trainer.n_embd_pos,
                 H=trainer.n_head, layers=trainer.n_layer)
    options = {}
    if lea:
        sizes |= dict(S=trainer.block_speech_size, G=trainer.vq_groups, K=trainer.vocab_speech_size)
        options = dict(apart=trainer.transformer_type == "factor", slotHeads=trainer.slot_heads,
                       blankIsZero=bool(network.bool_blank_speech),
                       passing=bool(network.ss_vector_quantizer.passing))
    path = None if path is None else Path(path)
    checkpoint = path.name if path is not None and path.suffix == ".pth" else None
    folder = path.parent.parent if checkpoint else path
    return dict(
        name=name, kind=("lea" if options["apart"] else "lea vanilla") if lea else "factor", sizes=sizes,
        options=options, module="module_train_probe_lea" if lea else "module_train_probe",
        folder=None if folder is None else shown_path(folder), checkpoint=checkpoint,
        weights=pack_weights(trainer), seeds=seeds(trainer), readouts=read_outs(trainer),
        data=dataset_data(trainer),
    )


def shown_path(folder: Path) -> str:
    """A folder as the page's snippets name it: from the working directory, never by a full path."""
    here, folder = Path.cwd(), folder.resolve()
    return folder.relative_to(here).as_posix() if folder.is_relative_to(here) else folder.name


# Weights


def arrays_of(trainer) -> dict[str, np.ndarray]:
    """What the network computes with, by the names of its state dict."""
    arrays = {name: to_numpy(value) for name, value in trainer.transformer.state_dict().items()}
    needless = {name for name, value in arrays.items()
                if "._ema_" in name or (name.endswith("attn.mask") and value.all())}
    return {name: value for name, value in arrays.items() if name not in needless}


def pack_weights(trainer) -> dict:
    """Arrays in one base64 text: half precision if no answer changes by it, else float32."""
    arrays = arrays_of(trainer)
    kind = np.float16 if half_is_enough(trainer, arrays) else np.float32
    flat = np.concatenate([value.ravel() for value in arrays.values()]).astype(kind)
    return dict(dtype=flat.dtype.name, shapes=[[name, list(value.shape)] for name, value in arrays.items()],
                blob=base64_of(flat))


def base64_of(array: np.ndarray) -> str:
    """The numbers of an array, lowest byte first."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def seeds(trainer) -> list[int] | None:
    """What torch's generators started from when the weights and LEA's codebook were drawn, for the untrained
    network; None if a layer has fewer than 16 numbers, which torch draws in another way."""
    tables = [weight for weight in trainer.transformer.state_dict().values() if weight.ndim == 2]
    keys = ((trainer.seed,), (trainer.seed, 1))
    small = any(len(weight.ravel()) < 16 for weight in tables)
    # MT19937 takes 32 bits
    return None if small else [torch_rng(*key).initial_seed() & 0xFFFFFFFF for key in keys]


def half_is_enough(trainer, arrays: dict[str, np.ndarray]) -> bool:
    """Whether half-precision weights give the same answers on held-out boards (of train if there are none),
    each masked as the run's training ends."""
    with np.errstate(over="ignore"):
        halves = {name: value.astype(np.float16).astype(value.dtype) for name, value in arrays.items()}
    if not all(np.isfinite(value).all() for value in halves.values()):
        return False
    if all(np.array_equal(halves[name], value) for name, value in arrays.items()):
        return True
    boards, masks = some_boards(trainer, CHECKED, STREAM_CHECK)
    answers = trainer.reconstruct(boards, masks, "one pass")
    whole = {name: value.clone() for name, value in trainer.transformer.state_dict().items()}
    try:
        halved = {name: torch.from_numpy(value).to(whole[name]) for name, value in halves.items()}
        trainer.transformer.load_state_dict(whole | halved)
        others = trainer.reconstruct(boards, masks, "one pass")
    finally:
        trainer.transformer.load_state_dict(whole)
    return all(np.array_equal(answers[name], others[name]) for name in answers)


# Boards


def dataset_data(trainer) -> dict:
    """What the page must know to draw boards and to be an ideal observer."""
    data = trainer.dataset
    p = data.params
    colors = token_colors(p.vocab_bck, p.vocab_token)[p.vocab_bck : p.vocab_bck + p.vocab_token]
    prior = dict(zip(p.board_types, proba_of(trainer).tolist(), strict=True))  # as the training ended
    boards, masks = reference(trainer)
    return dict(
        sizes=dict(h=p.board_dim, V=p.vocab_size, backgrounds=p.vocab_bck, roots=p.abs_n, d=p.abs_dim,
                   compDim=p.comp_dim, step=p.abs_dim + p.comp_margin, allowOverlap=p.allow_overlap),
        roots=data.roots.reshape(p.abs_n, p.abs_dim**2, p.abs_w_m).tolist(),
        compositions=data.compositions.reshape(p.comp_n, -1).tolist(),
        # a row's prior, backgrounds aside: the observer weighs them separately
        prior={t: prior[name] * p.vocab_bck / p.families[t].size
               for t, name in enumerate(TYPES) if prior.get(name)},
        types=list(TYPES), unused=[name for name in TYPES if not prior.get(name)],
        colors=[to_hex(color) for color in colors],
        rows={split: board_rows(data, split) for split in ("train", "test")},
        reference={name: array.reshape(len(array), -1).tolist()
                   for name, array in (("boards", boards), ("masks", masks))},
    )


def splits_of(data: AbstractionDataset) -> list[str]:
    """The splits that hold boards of the types in use: without a split all boards are train."""
    if data.sets is None:
        return ["train"]
    used = [family for family, name in zip(FAMILIES, TYPES, strict=True) if name in data.board_types]
    return [split for split in ("train", "test") if any(len(data.sets[f"{name}_{split}"]) for name in used)]


def board_rows(data: AbstractionDataset, split: str, most: int = ROWS) -> list[list[list[int]]]:
    """At most `most` rows of each type, drawn at random, in a split; none if nothing is held out."""
    found = []
    for type_, name in enumerate(TYPES):
        empty = split not in splits_of(data) or name not in data.board_types
        table = () if empty else data.table(type_, split)
        rng = numpy_rng(0, STREAM_ROWS, type_, split == "test")
        chosen = rng.choice(len(table), min(most, len(table)), replace=False) if len(table) else ()
        found.append(table.take(chosen).tolist() if len(table) else [])
    return found


def drawn_rows(data: AbstractionDataset, split: str, most: int, rng) -> tuple[np.ndarray, ...]:
    """Boards (n, h, w) of a split, at most `most` of a type, with the root that covers each cell and the
    cell's place in that root's footprint, -1 if there is none (n, h, w)."""
    parts = []
    for type_, rows in enumerate(board_rows(data, split, most)):
        if rows:
            root, row, col, bck = data.objects(type_, np.array(rows))
            boards, slots = data.draw_objects(root, row, col, bck, root, rng)
            covers = data.covering(np.stack([root, row, col], axis=-1)).reshape(boards.shape)
            parts.append((boards, slots, np.where(covers < 0, -1, covers % data.abs_dim**2)))
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def some_boards(trainer, most: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """Boards (n, h, w) that are held out, if any are, and masks as the run's training ends."""
    rng = numpy_rng(0, stream)
    boards, *_ = drawn_rows(trainer.dataset, splits_of(trainer.dataset)[-1], most, rng)
    return boards, last_mask(trainer, boards, rng)


def last_mask(trainer, boards: np.ndarray, rng) -> np.ndarray:
    """Masks (n, h, w) for boards as the run's last epoch hides cells."""
    masking = trainer.recipe.masking_at(trainer.recipe.epochs)
    return trainer.dataset.mask(boards, *masking, rng=rng)[0].astype(int)


def reference(trainer) -> tuple[np.ndarray, np.ndarray]:
    """The boards (n, h, w) of train, and their masks, over which the page takes mean activations."""
    rng = numpy_rng(0, STREAM_REFERENCE)
    boards = trainer.dataset.sample(REFERENCE, "train", rng=rng).boards
    return boards, last_mask(trainer, boards, rng)


# Read-outs


def residual_stream(trainer, boards: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
    """The residual stream (n, T, D) after the embedding and after each sub-layer, as network.js lists it."""
    acts = trainer.recorded(boards, masks)
    stages = []
    for i in range(trainer.n_layer):
        if f"b{i}_z_attn" in acts:
            after = acts[f"b{i}_z_attn"]
            stages += [after - acts[f"b{i}_attn_update"]] * (i == 0) + [after, acts[f"b{i}_z_attn_mlp"]]
        else:
            crossed = acts[f"b{i}_out"] - acts[f"b{i}_mlp"]
            own = crossed - acts[f"b{i}_crossAttn"]
            stages += [own - acts[f"b{i}_selfAttn"]] * (i == 0) + [own, crossed, acts[f"b{i}_out"]]
    return stages


def read_outs(trainer) -> dict:
    """Linear read-outs, at each stage of the residual stream, of the root that covers a cell and of the
    cell's place in it.

    They are ridge regressions onto one-hot labels, fitted on boards of train. `right`: the share of hidden
    cells of objects that they name correctly on held-out boards, None if there are no such cells.
    """
    data, rng = trainer.dataset, numpy_rng(0, STREAM_FIT)
    held_out = splits_of(data)[-1] == "test"
    boards, *labels = drawn_rows(data, "train", FITTED, rng)
    masks = last_mask(trainer, boards, rng)
    stages = residual_stream(trainer, boards, masks)
    if held_out:
        test_boards, *test_labels = drawn_rows(data, "test", CHECKED, rng)
        test_masks = last_mask(trainer, test_boards, rng)
        test_stages = residual_stream(trainer, test_boards, test_masks)
    found = {}
    for name, classes, k in (("root", data.abs_n, 0), ("place", data.abs_dim**2, 1)):
        target = np.eye(classes + 1)[labels[k].ravel()]  # the last class: no object (-1)
        weights = [ridge(x.reshape(-1, trainer.n_embd), target) for x in stages]
        right = None
        if held_out:
            judged = ((test_masks == 1) & (test_labels[k] >= 0)).reshape(len(test_masks), -1)
            truth = test_labels[k].reshape(judged.shape)[judged]
            named = [(with_one(x) @ w).argmax(-1)[judged] for x, w in zip(test_stages, weights, strict=True)]
            right = [float((one == truth).mean()) for one in named] if judged.any() else None
        blob = base64_of(np.stack(weights).astype(np.float32))
        found[name] = dict(classes=classes + 1, blob=blob, right=right)
    return found


def with_one(x: np.ndarray) -> np.ndarray:
    """x (..., D) with a last column of ones, (..., D + 1)."""
    return np.concatenate([x, np.ones_like(x[..., :1])], -1)


def ridge(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Weights (D + 1, C), the last row the bias, of the ridge regression from x (N, D) to target (N, C)."""
    x = with_one(x.astype(np.float64))
    penalty = np.full(x.shape[1], RIDGE * len(x) * x[:, :-1].var(0).mean())
    penalty[-1] = 0
    return np.linalg.solve(x.T @ x + np.diag(penalty) + 1e-9 * np.eye(len(penalty)), x.T @ target)


def script_safe(text: str) -> str:
    """JSON that can stand in a script element: nothing in it can end the element."""
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)
