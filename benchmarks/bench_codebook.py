"""What keeps LEA's codebook alive: ways to run it, at a small scale (400 epochs, sentence loss from epoch 50
to 200).

python benchmarks/bench_codebook.py --ways default no_expiry --seeds 0 1 --csv benchmarks/results/codebook.csv

    python benchmarks/bench_codebook.py --plot img/codebook.png --csv benchmarks/results/codebook.csv

Each row: what the sentences of unmasked held-out boards carry, every 50 epochs. About 11 minutes a run on one
core; official, in float64, 25.
"""
from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from module_dataset import AbstractionDataset  # noqa: E402
from module_train_probe_lea import TrainTransformer  # noqa: E402
from parts.probing.panels import new_figure, save_figure  # noqa: E402
from utils import torch_rng  # noqa: E402

SCALE = dict(epochs=400, loss_rfs_epoch_start=50, loss_rfs_epoch_end=200, epoch2print=50, epoch2test=400)
# name: (parameters of the trainer, what is done to the quantiser before training)
WAYS = {
    "default": ({}, None),
    "no_expiry": ({"vq_expire": 0.0}, None),
    "official": ({"vq_expire": 0.0, "dtype": "float64"}, "official"),
    "vanilla": ({"vq_type": "vanilla"}, None),
    "expire_1_4": ({"vq_expire": 0.25}, None),
    "expire_1_64": ({"vq_expire": 1 / 64}, None),
    "data_start": ({}, "data"),
    "data_start_no_expiry": ({"vq_expire": 0.0}, "data"),
    "no_warm_start": ({"loss_rfs_epoch_start": 0, "loss_rfs_epoch_end": 0}, None),
    "blank_zeros": ({"bool_blank_speech": True}, None),
    "rate": ({"learning_rate": 3e-3, "lr_warmup": 10, "lr_schedule": "linear", "lr_decay_start": 250}, None),
    "half_doubles": ({"board_proba_start": [0.5, 0.5, 0], "board_proba_end": [0.5, 0.5, 0]}, None),
}


def prepare_(trainer: TrainTransformer, start: str | None) -> None:
    """Starts the codebook otherwise than the project does."""
    quantiser = trainer.transformer.ss_vector_quantizer
    if start == "official":  # counts at 0, sums at N(0, 1), epsilon 1e-20
        quantiser.epsilon = 1e-20
        quantiser._ema_cluster_size.zero_()
        quantiser._ema_w.normal_(generator=torch_rng(trainer.seed, 9))
    if start == "data":  # words are what the untrained network says of training boards
        boards = trainer._tokens(trainer.dataset.sample(64, "train").boards)
        with torch.no_grad():
            said = trainer.transformer._speech(
                trainer.transformer._picture(boards, trainer.transformer._blank())[1]
            )
        said = said.flatten(0, 1)
        quantiser.start_words_(
            said[torch.randperm(len(said), generator=torch_rng(trainer.seed, 9))[: trainer.vocab_speech_size]]
        )


def plot(path: Path, csv_path: Path) -> None:
    """Curves over epochs of every way in the CSV, a line a seed."""
    with open(csv_path, newline="") as file:
        rows = list(csv.DictReader(file))
    panels = {
        "tokens_single": "share of right tokens,\nsingle boards from their sentences",
        "boards_single": "share of single boards\nrebuilt whole from their sentences",
        "words": "words in use",
    }
    figure, axes = new_figure(1, len(panels), (10, 3.4))
    for color, way in enumerate(dict.fromkeys(row["way"] for row in rows)):
        for seed in dict.fromkeys(row["seed"] for row in rows if row["way"] == way):
            found = [row for row in rows if (row["way"], row["seed"]) == (way, seed)]
            for ax, column in zip(axes[0], panels, strict=True):
                ax.plot(
                    [int(row["epoch"]) for row in found],
                    [float(row[column]) for row in found],
                    f"C{color}",
                    linestyle="-" if seed == "0" else "--",
                    label=f"{way}, seed {seed}",
                    linewidth=1.3,
                )
    for ax, label in zip(axes[0], panels.values(), strict=True):
        ax.set(xlabel="epoch", ylabel=label)
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylim(0.75, 1)  # the background alone makes 0.86
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    save_figure(figure, path, 130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=["default", "no_expiry", "official", "vanilla"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path, help="draw what the CSV holds, train nothing")
    args = parser.parse_args()
    if args.plot:
        plot(args.plot, args.csv)
        return
    for seed in args.seeds:
        for way in args.ways:
            params, start = WAYS[way]
            dataset = AbstractionDataset(seed=seed, board_types_proba=[0.95, 0.05, 0])
            trainer = TrainTransformer(dataset, seed=seed, **SCALE | params)
            trainer.masking_patch_epoch = args.epochs
            prepare_(trainer, start)
            trainer._learning_rate = [
                trainer._learning_rate(epoch) for epoch in range(args.epochs)
            ].__getitem__
            for until in range(50, args.epochs + 1, 50):
                trainer.epochs = until
                trainer.train()
                longest = torch.linalg.vector_norm(
                    trainer.transformer.ss_vector_quantizer._embedding.weight, dim=1
                ).max()
                row = (
                    {"way": way, "seed": seed, "epoch": until}
                    | trainer.test_sentences()
                    | {"longest_word": float(longest)}
                )
                print(
                    "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()),
                    flush=True,
                )
                if args.csv:
                    args.csv.parent.mkdir(parents=True, exist_ok=True)
                    fresh = not args.csv.exists()
                    with open(args.csv, "a", newline="") as file:
                        writer = csv.DictWriter(file, list(row))
                        if fresh:
                            writer.writeheader()
                        writer.writerow(row)


if __name__ == "__main__":
    main()
