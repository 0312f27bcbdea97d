"""Random command lines of both scripts: each must train, or end in one line on stderr and exit code 2.

    python tests/stress/flags.py [--lines 500] [--seed 0]

A line is a small run with one to four flags of any name, each with a valid or an odd value. Prints how many
trained and were refused, and every line that ended in a traceback or in more than a line; exit code 1 where
there are any.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import resource
import shlex
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import train_model  # noqa: E402
import train_model_lea  # noqa: E402
from module_dataset import DatasetParams  # noqa: E402
from parts.params import _kinds, field_default  # noqa: E402
from tests.trainers import draw_nothing  # noqa: E402

TINY = (
    "--board_dim 6 --abs_n 3 --abs_dim 2 --abs_c 4 --vocab_bck 2 --vocab_token 4 --comp_n 2 --dataset_len 8 "
    "--n_layer 1 --n_embd 8 --n_embd_pos 4 --batch 8 --epoch 1 --device cpu --seed 1 --plot_dpi 20"
).split()
ODD = [
    "", " ", "0", "-0", "1", "2", "3", "-1", "1.5", "-1e-3", "1e-320", "1e400", "nan", "-inf", "9" * 25, "9" * 5000,
    "none", "None", "null", "True", "false", "yes", "x", "1,2", "[1, 2]", "[1", "{}", "()", "²", "0x10", "1_0", "a/b",
    "..", "größe", "😀", "\ud800", "\udcff", "x" * 300, "-", "--", "--epoch", "-h2", "%s", "'", "\n", "a\nb", "auto", "log",
]  # fmt: skip
SCRIPT = {
    "data_seed": ["0", "7", "-1"], "wandb": ["disabled", "on"],
    "resume": ["nowhere", ".", "/dev/null", "runs"], "runs": ["runs", "a/b", "/dev/null", "/proc", "runs/x"],
    "nothing": ["1"], "threads": ["1", "2", "none"], "run_name": ["r", "r", "s"],
}  # fmt: skip
BYTES = 4 * 2**30  # more memory than that is a fault
NOTICE = "has no effect"  # that something is of no use comes before what is wrong
SECONDS = 5  # of a line; what trains by then is stopped


class Enough(BaseException):
    """A line has trained long enough."""


def stop(number, frame) -> None:
    raise Enough


def values(params_class, field) -> list[list[str]]:
    """What a valid flag of a field may be followed by: its default, its bounds, its choices."""
    kind, is_list, none = _kinds(params_class)[field.name]
    default = field_default(field)
    found = [[str(item) for item in default] if is_list and default is not None else [str(default)]]
    meta = field.metadata
    found += [[str(value)] for value in (meta["low"], meta["high"], meta["word"]) if value is not None]
    found += [[str(choice)] for choice in meta["choices"] or ()]
    found += [["none"]] * none + [["0"], ["1"]] * (kind is bool)
    if is_list:
        found += [["1", "0", "0"], ["[1, 0, 0]"], ["1,2,3"], ["['single', 'double']"], ["single", "double"]]
    return found


def random_line(script, rng: np.random.Generator) -> list[str]:
    """A small run and one to four flags with values."""
    known = {name: [[value] for value in words] for name, words in SCRIPT.items()}
    for params_class in (DatasetParams, script.TrainTransformer.params_class):
        for field in dataclasses.fields(params_class):
            known.setdefault(field.metadata["flag"] or field.name, values(params_class, field))
    line = list(TINY)
    for name in rng.choice(list(known), rng.integers(1, 5), replace=False):
        odd = rng.random() < 0.5
        words = [str(rng.choice(ODD))] if odd else known[name][rng.integers(len(known[name]))]
        words = words * int(rng.integers(1, 4)) if odd and rng.random() < 0.2 else words
        line += [f"--{name}={words[0]}"] if len(words) == 1 and rng.random() < 0.5 else [f"--{name}", *words]
    return line


def outcome(script, line: list[str]) -> tuple[str, str]:
    """How a command line ends: trained, refused, or faulty, and what it said."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            script.main(line)
            return "trained", ""
        except Enough:
            return "trained" if "epochs" in out.getvalue() else "slow", ""
        except SystemExit as end:
            said = err.getvalue()
            lines = [text for text in said.splitlines() if text.strip() and "%|" not in text and NOTICE not in text]
            fits = end.code in (1, 2) and len(lines) == 1 and "Traceback" not in said
            return ("help" if end.code == 0 else "refused" if fits else "faulty"), said
        except BaseException:  # what a user would see as a traceback
            return "faulty", traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> int:
    """Tries the lines in a folder of their own; prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lines", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw_nothing()
    signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    rng, counts = np.random.default_rng(options.seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for _ in range(options.lines):
            script = (train_model, train_model_lea)[rng.integers(2)]
            line = random_line(script, rng)
            kind, said = outcome(script, line)
            counts[kind] += 1
            if kind in ("faulty", "slow"):
                command = shlex.join([script.__name__, *line[len(TINY) :]])
                print(f"{ascii(command)[:600]}\n{ascii(said[-1500:])}\n", flush=True)
        os.chdir(ROOT)
    print(", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())))
    return 1 if counts["faulty"] else 0


if __name__ == "__main__":
    sys.exit(main())
