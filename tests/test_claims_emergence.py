"""What emerges when: measures of networks of which the answer is known, courses, the command, and docs' words."""
import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from module_dataset import AbstractionDataset
from module_train_probe import TrainTransformer
from studies.claims.networks import Network, untrained
from studies.claims.scenes import footprints
from studies.emergence import __main__ as command
from studies.emergence import measures as emergence
from studies.emergence.measures import (
    ATTENTION,
    EVEN,
    HIDDEN,
    MEASURES,
    NEARNESS,
    OWN,
    READ_OUT,
    SEEN,
    SWAPS,
    UNTRAINED,
    WHOLE,
)
from tests.commands import run_study
from utils import numpy_rng

ROOT = Path(__file__).resolve().parent.parent
FEW = {"fit": 150, "test": 6, "masks": 2, "swaps": 8, "draws": 20}


class Knowing:
    """A network that fills in what the ideal observer would, looks only at its own object, and has the root as its code."""

    def __init__(self, material, dataset):
        sample = self.sample = material.sample
        self.dataset, self.stages, self.editable = dataset, ["b0_z_attn_mlp"], []
        self.trainer = SimpleNamespace(n_layer=1)
        objects = sample.drawn.objects
        cells = footprints(dataset, objects).reshape(len(objects), objects.shape[1], -1)
        n, T = sample.tokens.shape
        same = np.zeros((n, T, T))
        for b in range(n):
            for one in cells[b]:  # later ones are drawn over earlier ones
                if one[0] >= 0:
                    same[b, one], same[b][:, one] = 0, 0
                    same[np.ix_([b], one, one)] = 1
        self.attention = (same / np.maximum(same.sum(-1, keepdims=True), 1))[:, None]

    def run(self, tokens, stages=()):
        acts = {"b0_a": self.attention, "b0_z_attn_mlp": np.eye(11, dtype=np.float32)[self.sample.labels["root"]]}
        return np.eye(self.dataset.vocab_size)[self.sample.drawn.tokens], {name: acts[name] for name in stages}


def material_of(dataset, proba, **amounts):
    trainer = SimpleNamespace(dataset=dataset, epoch=1, board_proba=lambda epoch: proba, masking_p=0.25, masking_patch_p=0.5)
    return emergence.Material(trainer, np.random.default_rng(0), **amounts)


def values_of(rows, measure, bound=""):
    return {row["where"]: row["value"] for row in rows if (row["measure"], row["bound"]) == (measure, bound)}


def test_a_network_that_knows_everything_has_everything():
    dataset = AbstractionDataset(seed=0)
    material = material_of(dataset, [1 / 3] * 3, fit=300, test=10, masks=2, swaps=4, draws=20)
    material.swaps.clear()  # nothing can be edited in it
    rows = emergence.measure(Knowing(material, dataset), material)
    groups = {"all", "single", "double", "composition", "double apart", "double overlapping"}
    for measure in (HIDDEN, WHOLE):
        assert values_of(rows, measure) == dict.fromkeys(groups, 1)
    assert values_of(rows, READ_OUT) == {"b0_z_attn_mlp": pytest.approx(1)}
    assert values_of(rows, NEARNESS)["b0_z_attn_mlp"] > 0.9
    assert values_of(rows, ATTENTION) == {"b0": pytest.approx(1)}
    assert 0.2 < values_of(rows, SEEN)["b0"] < 0.9  # the others are hidden
    assert values_of(rows, OWN) == {"b0": pytest.approx(1)}
    bounds = emergence.bounds(material)
    assert 0.3 < values_of(bounds, OWN, EVEN)["every block"] < 0.6
    assert values_of(bounds, ATTENTION, EVEN)["every block"] == pytest.approx(9 / 64, abs=0.01)
    for name in (emergence.BEST_TOKEN, emergence.BEST_BOARD):
        assert set(values_of(bounds, WHOLE, name)) == groups
        assert all(0.5 < value <= 1 for value in values_of(bounds, HIDDEN, name).values())


def test_an_untrained_network_looks_everywhere_alike_and_rebuilds_nothing(run):
    trainer = TrainTransformer.from_run(run, device="cpu")
    material = emergence.Material(trainer, np.random.default_rng(0), **FEW)
    rows = emergence.measure(Network(untrained(trainer)), material)
    for measure in (ATTENTION, SEEN):
        even = values_of(emergence.bounds(material), measure, EVEN)
        for share in values_of(rows, measure).values():
            assert share == pytest.approx(even["every block"], abs=0.01)
    assert set(values_of(rows, WHOLE).values()) == {0}
    assert set(values_of(rows, SWAPS).values()) == {0}
    assert set(values_of(rows, SWAPS)) == {f"{stage}, {type_}" for stage in (emergence.INPUT, "b0_z_attn_mlp")
                                           for type_ in ("single", "double")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder whose weights no step has changed, but for its last checkpoint's, which are all zero."""
    folder = tmp_path_factory.mktemp("runs")
    trainer = TrainTransformer(AbstractionDataset(seed=1), n_layer=2, n_embd=16, n_embd_pos=8, seed=1, runs=str(folder),
                               run_name="factor", device="cpu", board_curriculum=False)
    trainer.start_run()
    for epoch in (0, 3, 20):
        if epoch == 20:
            for weight in trainer.transformer.parameters():
                weight.data.zero_()
        trainer.save_checkpoint(trainer.folder / "checkpoints" / f"model_{epoch}.pth")
    return folder / "factor"


def test_a_run_is_followed_from_the_untrained_network_on_in_the_order_of_epochs(run):
    trainer = TrainTransformer.from_run(run, device="cpu")
    rows = emergence.follow(trainer, numpy_rng(0), **FEW)
    assert list(dict.fromkeys(row["epoch"] for row in rows)) == ["", UNTRAINED, 0, 3, 20]
    assert all(bool(row["bound"]) == (row["epoch"] == "") for row in rows)
    of = {epoch: [(row["measure"], row["where"], row["value"]) for row in rows if row["epoch"] == epoch]
          for epoch in (UNTRAINED, 0, 3, 20)}
    assert of[UNTRAINED] == of[0] == of[3] != of[20]  # rebuilt from the seed; the same boards for all
    assert {row["measure"] for row in rows if not row["bound"]} == set(MEASURES)
    again = emergence.follow(TrainTransformer.from_run(run, device="cpu"), numpy_rng(0), **FEW)
    assert [repr(row) for row in again] == [repr(row) for row in rows]


def test_with_train_boards_of_train_are_measured_and_not_those_fitted_on():
    dataset = AbstractionDataset(seed=1, split_method="places", card_test=0.5, vocab_bck=2)
    families = dataset.params.families

    def numbers(split):
        return [set(families[type_].rank(dataset.table(type_, split)[:])) for type_ in (0, 1)]

    def measured(train):
        material = material_of(dataset, [0.5, 0.5, 0], fit=300, test=40, masks=1, swaps=20, draws=20, train=train)
        sample, found = material.sample, []
        for part in (slice(0, sample.n_fit), sample.to_choose, sample.test):
            boards = sample.drawn.take(part)
            rows = [np.c_[boards.objects[boards.types == type_, : type_ + 1].reshape(-1, 3 * (type_ + 1)),
                          boards.backgrounds[boards.types == type_]] for type_ in (0, 1)]
            found.append([set(map(tuple, of_type)) for of_type in rows])
        bases = [set(families[type_].rank(material.swaps[name][0].rows)) for type_, name in enumerate(("single", "double"))]
        return found, bases

    for train in (False, True):
        (fit, choose, test), bases = measured(train)
        for type_ in (0, 1):
            assert test[type_]
            assert not test[type_] & (fit[type_] | choose[type_])
            assert bases[type_] <= numbers("train" if train else "test")[type_]
            places = [{row[:3] for row in rows[type_]} for rows in (fit, test)]  # of the first object
            if type_ == 0:
                assert bool(places[0] & places[1]) is train  # half of the positions of each root are held out


def test_ways_are_shares_of_what_lies_between_the_untrained_and_the_last_network():
    def rows(measure, values):
        epochs = (0, UNTRAINED, 100, 10)  # in any order
        key = {"run": "a", "measure": measure, "where": "x"}
        return [key | {"epoch": epoch, "bound": "", "value": value} for epoch, value in zip(epochs, values, strict=True)] + [
                key | {"epoch": "", "bound": EVEN, "value": 1}]

    found = emergence.ways(rows("rises", (0.2, 0.0, 0.4, 0.1)) + rows("stays", (0.5, 0.5, 0.59, 0.5))
                           + rows("falls", (0, 0.5, 0.1, 0.2)))
    assert found == {("a", "rises", "x"): pytest.approx({UNTRAINED: 0, 0: 0.5, 10: 0.25, 100: 1})}
    assert list(found["a", "rises", "x"]) == [UNTRAINED, 0, 10, 100]
    assert emergence.halfway(found["a", "rises", "x"]) == 0
    text = [{name: str(value) for name, value in row.items()} for row in rows("rises", (0.2, 0, 0.4, 0.1))]
    assert emergence.ways(text) == found  # as read from a CSV


def test_the_command_writes_a_table_and_a_picture(run, monkeypatch, capsys):
    monkeypatch.setattr(emergence.Material.__init__, "__defaults__", (*FEW.values(), False))
    monkeypatch.setattr(sys, "argv", ["studies.emergence", str(run), "--device", "cpu"])
    command.main()
    assert Path(capsys.readouterr().out.strip()) == run / "analysis" / "emergence.png"
    assert (run / "analysis" / "emergence.png").stat().st_size > 20_000
    with open(run / "analysis" / "emergence.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["run", "seed", "epoch", "measure", "where", "bound", "value", "value low", "value high"]
    assert {(row["run"], row["seed"]) for row in rows} == {("factor", "1")}
    figure = emergence.plot_emergence(rows)  # of the CSV too
    assert [ax.get_title().replace("\n", " ") for ax in figure.axes] == list(MEASURES)
    course = figure.axes[0].lines[0]
    assert course.get_xdata().tolist() == [emergence.LEFT, 1, 4, 21]
    assert course.get_ydata().tolist() == [float(row["value"]) for row in rows if (row["measure"], row["where"], row["bound"])
                                           == (HIDDEN, "single", "")]


def test_a_run_of_one_block_and_one_type_is_followed(tmp_path):
    dataset = AbstractionDataset(seed=1, board_dim=6, abs_n=3, abs_dim=2, abs_c=4, board_types=["single"],
                                 board_types_proba=[1], bool_split=False)
    trainer = TrainTransformer(dataset, n_layer=1, n_embd=8, n_embd_pos=4, seed=1, runs=str(tmp_path), run_name="odd",
                               device="cpu", board_curriculum=False)
    trainer.start_run()
    trainer.save_checkpoint(trainer.folder / "checkpoints" / "model_0.pth")
    rows = emergence.follow(trainer, numpy_rng(0), **FEW | {"test": 12})
    assert {row["where"] for row in rows if row["measure"] == HIDDEN} == {"all", "single"}
    assert {row["where"] for row in rows if row["measure"] == SWAPS} == {"tokens in the input, single"}
    emergence.plot_emergence([{"run": "odd"} | row for row in rows])


def test_mistakes_are_one_line(run, tmp_path, monkeypatch, capsys):
    for flags, words in (([str(run), str(run)], "names of their own"), ([str(tmp_path)], "params_training.json")):
        with pytest.raises(SystemExit) as end:
            run_study(monkeypatch, "emergence", *flags)
        assert end.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert words in line


def test_the_words_of_the_results_are_what_the_table_says(monkeypatch):
    """docs/results.md, 'What emerges when': each of its sentences, in all three seeds."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import make_docs

    rows = make_docs.read_results("emergence")
    value = {(row["run"], row["measure"], row["where"], row["epoch"]): float(row["value"] or "nan")
             for row in rows if not row["bound"]}
    ways = emergence.ways(rows)
    runs = list(dict.fromkeys(row["run"] for row in rows))
    assert len(runs) == 3
    for run in runs:
        def at(epoch, measure, where, run=run):
            return value[run, measure, where, str(epoch)]

        def way(epoch, measure, where, run=run):
            return ways[run, measure, where][epoch]

        for epoch in (2, 5, 20, 50, 100, 200):
            assert at(epoch, HIDDEN, "single") == pytest.approx(0.8, abs=0.055)
            assert at(epoch, WHOLE, "double") < 0.02
            assert at(epoch, READ_OUT, "b2_z_attn") < at(UNTRAINED, READ_OUT, "b2_z_attn") + 0.15
        looks, own = (SEEN, "b1"), (OWN, "b1")
        assert at(100, *looks) > at(UNTRAINED, *looks) + 0.05
        assert at(100, *own) == pytest.approx(at(UNTRAINED, *own), abs=0.01) == pytest.approx(0.46, abs=0.01)
        assert at(5, ATTENTION, "b1") > at(UNTRAINED, ATTENTION, "b1") + 0.02
        assert at(20, ATTENTION, "b1") > at(UNTRAINED, ATTENTION, "b1") + 0.08
        assert at(20, *looks) < at(UNTRAINED, *looks) + 0.02
        for key in ((READ_OUT, "b1_z_attn"), (READ_OUT, "b2_z_attn")):
            assert 0.245 < way(250, *key) < 0.345
        for key in ((READ_OUT, "b2_z_attn"), (SWAPS, "b0_z_attn_mlp, single"), (WHOLE, "single")):
            assert emergence.halfway(ways[run, *key]) == 500
            assert way(200, *key) < 0.2
        for stage in ("b1_z_attn", "b2_z_attn"):
            assert at(250, NEARNESS, stage) == pytest.approx(at(UNTRAINED, NEARNESS, stage), abs=0.04)
            assert at(500, NEARNESS, stage) > 0.1
    assert tuple(round(100 * ways[run, *looks][100]) for run in runs) == (25, 21, 19)
    for key, percents in {own: (30, 56, 47), (SWAPS, "b0_z_attn_mlp, single"): (11, 25, 22), (WHOLE, "single"): (18, 24, 32)}.items():
        assert tuple(round(100 * ways[run, *key][250]) for run in runs) == percents
    assert [emergence.halfway(ways[run, WHOLE, "composition"]) for run in runs] == [750, 1000, 1000]
    assert [emergence.halfway(ways[run, WHOLE, "double"]) for run in runs] == [750, 750, 500]


def test_the_words_of_the_results_on_the_best_recipe_are_what_its_table_says(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import make_docs

    rows = make_docs.read_results("emergence_best")
    runs = ["best_s0", "best_s1", "best_s2"]
    assert list(dict.fromkeys(row["run"] for row in rows)) == runs
    ways = emergence.ways(rows)
    value = {(row["run"], row["measure"], row["where"], row["epoch"]): float(row["value"] or "nan")
             for row in rows if not row["bound"]}

    def percent(epoch, *key):
        found = [round(100 * ways[run, *key][epoch]) for run in runs]
        return min(found), max(found)

    def values(epoch, *key):
        found = [round(value[run, *key, str(epoch)], 2) for run in runs]
        return min(found), max(found)

    single, swaps, own = (WHOLE, "single"), (SWAPS, "b0_z_attn_mlp, single"), (OWN, "b1")
    hidden = [values(epoch, HIDDEN, "single") for epoch in (2, 5, 10, 20)]
    assert (min(low for low, _ in hidden), max(high for _, high in hidden)) == (0.83, 0.85)
    assert values(20, *own) == pytest.approx((0.46, 0.47), abs=0.011)
    assert values(50, *own) == (0.85, 0.94)
    assert percent(50, READ_OUT, "b2_z_attn") == (55, 62)
    assert percent(50, *single) == (38, 61)
    assert (percent(100, *single), percent(100, *swaps)) == ((87, 89), (21, 41))
    assert (percent(200, *single), percent(200, *swaps)) == ((93, 95), (59, 74))
    early = (READ_OUT, "b0_z_attn")
    assert (values(UNTRAINED, *early), values(50, *early), values(1199, *early)) == ((0.22, 0.29), (0.42, 0.57), (0.3, 0.37))
    for run in runs:
        course = {row["epoch"]: float(row["value"]) for row in rows
                  if (row["run"], row["measure"], row["where"]) == (run, *early) and not row["bound"]}
        assert max(course, key=course.get) == "50"
    assert values(1199, READ_OUT, "b2_z_attn")[0] >= 0.98
    near = (NEARNESS, "b2_z_attn")
    assert sorted(round(100 * ways[run, *near][50]) for run in runs) == [20, 66, 69]
    assert values(1199, NEARNESS, "b2_z_attn_mlp") == (-0.64, -0.47)
