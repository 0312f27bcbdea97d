"""Which way of computing is taken, by measurement, and that a run keeps it."""
import json
import sys
import time

import pytest
import torch
from torch import nn
from trainers import make

import module_train_probe
from module_train_probe import TrainTransformer
from module_transformer_factor import Attention, GPTFactor
from module_transformer_lea import LEAFactor
from parts.training import kernels
from parts.training.kernels import MARGIN, compute_by, faster, faster_ways

AUTO = {"product_way": "auto", "attention_way": "auto"}
OTHERS = {"product_way": "convolution", "attention_way": "explicit"}


def ways_of(network):
    """(ways of products, ways of attention) that the parts of a network have."""
    products = {module.way for module in network.modules() if isinstance(module, nn.Linear)}
    return products, {module.way for module in network.modules() if isinstance(module, Attention)}


def never(*sizes):
    raise AssertionError("nothing is to be measured")


@pytest.mark.parametrize(("second", "taken"), [(0.5, "b"), (0.9, "a"), (1, "a"), (2, "a")])
def test_a_second_way_is_taken_where_it_is_faster_by_the_margin(second, taken, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(kernels, "clock", lambda: now[0])

    def taking(seconds):
        def run():
            now[0] += seconds
        return run

    assert 0.9 * MARGIN > 1
    assert faster({"a": taking(1.0), "b": taking(second)}) == taken


def test_one_slow_moment_and_a_slow_first_go_change_nothing(monkeypatch):
    now, went = [0.0], []
    monkeypatch.setattr(kernels, "clock", lambda: now[0])

    def second():
        went.append(0)
        now[0] += 100.0 if len(went) in (1, 3) else 0.5

    def first():
        now[0] += 1.0

    assert faster({"a": first, "b": second}) == "b"


@pytest.mark.skipif(sys.platform == "win32", reason="the time of a thread is counted in steps of 16 ms")
def test_what_other_programs_take_meanwhile_is_not_counted():
    """A way that waits for the processor is not slow."""
    def waiting():
        time.sleep(0.02)

    def working():
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            pass

    assert faster({"waiting": waiting, "working": working}) == "waiting"
    assert faster({"working": working, "waiting": waiting}) == "waiting"


def test_ways_that_compute_the_same_are_not_timed(monkeypatch):
    monkeypatch.setattr(kernels, "faster", never)
    faster_ways.cache_clear()
    for sizes in ((8, 12, 2, 100, 0, 64), (8, 12, 2, 36, 3, 64), (32, 48, 2, 64, 16, 4)):
        assert faster_ways(*sizes) == ("linear", "fused")
    monkeypatch.setattr(kernels, "ONEDNN", False)
    assert faster_ways(64, 96, 1, 64, 0, 64) == ("linear", "fused")


def test_products_that_are_large_only_in_a_whole_batch_are_timed_in_one(monkeypatch):
    timed = []
    monkeypatch.setattr(kernels, "faster", lambda ways: timed.append(ways) or list(ways)[1])
    faster_ways.cache_clear()
    assert faster_ways(32, 32, 1, 64, 0, 64)[0] == "convolution"
    convolved = []
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda x, *rest: convolved.append(x.numel()) or torch.conv2d(x, *rest))
    timed[0]["convolution"]()
    faster_ways.cache_clear()
    assert len(convolved) == 2


def test_timing_needs_no_gradients_around_it_and_leaves_the_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for mode in (torch.no_grad, torch.inference_mode):
            faster_ways.cache_clear()
            with mode():
                faster_ways(32, 48, 2, 64, 16, 64)
                assert not torch.is_grad_enabled()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("words", [0, 4])
def test_measured_ways_are_known_ones_and_measured_once(words, monkeypatch):
    sizes = (32, 48, 2, 64, words, 64)
    faster_ways.cache_clear()
    found = faster_ways(*sizes)
    assert found[0] in ("linear", "convolution")
    assert found[1] in ("fused", "explicit")
    monkeypatch.setattr(kernels, "faster", never)
    assert faster_ways(*sizes) == found


def test_attention_too_large_to_be_explicit_is_not_measured(monkeypatch):
    measured = []
    monkeypatch.setattr(kernels, "faster", lambda ways: measured.append(list(ways)) or list(ways)[1])
    faster_ways.cache_clear()
    assert faster_ways(64, 96, 2, 64, 0, 64) == ("convolution", "fused")
    assert faster_ways(32, 48, 2, 64, 16, 64) == ("convolution", "explicit")
    assert measured == [["linear", "convolution"]] * 2 + [["fused", "explicit"]]
    faster_ways.cache_clear()


@pytest.mark.parametrize("kind", ["factor", "lea"])
def test_measuring_leaves_the_network_as_its_seed_makes_it(kind):
    """Random states outside too, which conftest.py watches."""
    faster_ways.cache_clear()
    first, second = make(kind, **AUTO), make(kind, **AUTO)
    for p, q in zip(first.transformer.parameters(), second.transformer.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kind", ["factor", "lea"])
def test_what_is_measured_stands_in_the_parameters_and_the_network(kind, monkeypatch):
    monkeypatch.setattr(module_train_probe, "faster_ways", lambda *sizes: tuple(OTHERS.values()))
    trainer = make(kind, **AUTO, weight_average=0.5)
    assert {name: trainer.params[name] for name in OTHERS} == OTHERS
    for network in (trainer.learner.network, trainer.transformer):
        assert ways_of(network) == ({"convolution"}, {"explicit"})
    with pytest.raises(AttributeError, match="product_way"):
        trainer.product_way = "linear"


@pytest.mark.parametrize("other", [dict(dtype="float64"), dict(dtype="bfloat16")])
def test_nothing_is_measured_for_other_arithmetic(other, monkeypatch):
    monkeypatch.setattr(module_train_probe, "faster_ways", never)
    trainer = make(**AUTO, **other)
    assert ways_of(trainer.transformer) == ({"linear"}, {"fused"})


def test_one_way_may_be_given_and_the_other_measured(monkeypatch):
    monkeypatch.setattr(module_train_probe, "faster_ways", lambda *sizes: ("convolution", "explicit"))
    trainer = make("lea", product_way="linear", attention_way="auto")
    assert (trainer.product_way, trainer.attention_way) == ("linear", "explicit")
    monkeypatch.setattr(module_train_probe, "faster_ways", never)
    make("lea", product_way="linear", attention_way="fused")


def test_a_run_goes_on_in_the_ways_it_has(tmp_path, monkeypatch):
    """To the bit, whatever would be measured now."""
    given = dict(runs=tmp_path, epochs=2, save_model=True, **OTHERS)
    make(run_name="whole", **given).train()
    make(run_name="parts", **given | {"epochs": 1}).train()
    monkeypatch.setattr(module_train_probe, "faster_ways", never)
    TrainTransformer.resume(tmp_path / "parts", epochs=2).train()
    whole, parts = (TrainTransformer.from_run(tmp_path / name) for name in ("whole", "parts"))
    assert ways_of(parts.transformer) == ({"convolution"}, {"explicit"})
    for a, b in zip(whole.transformer.parameters(), parts.transformer.parameters(), strict=True):
        assert torch.equal(a, b)


def test_runs_of_earlier_versions_compute_as_they_did(tmp_path, monkeypatch):
    make(runs=tmp_path, run_name="r", epochs=1, save_model=True).train()
    path = tmp_path / "r" / "params_training.json"
    params = json.loads(path.read_text())
    for name in OTHERS:
        del params[name]
    path.write_text(json.dumps(params))
    monkeypatch.setattr(module_train_probe, "faster_ways", never)
    for open_ in (TrainTransformer.from_run, TrainTransformer.resume):
        assert ways_of(open_(tmp_path / "r").transformer) == ({"convolution"}, {"explicit"})


@pytest.mark.parametrize(("products", "attention"), [("convolution", "fused"), ("linear", "explicit")])
@pytest.mark.parametrize("kind", [GPTFactor, LEAFactor])
def test_ways_leave_outputs_and_gradients(kind, products, attention):
    """Of the whole network in float32, at sizes where both ways differ; in rounding they do."""
    network = kind(21, 64, n_layer=2, n_head=4, n_embd=64, seed=0)
    idx = torch.randint(0, 21, (16, 64), generator=torch.Generator().manual_seed(1))
    made = []
    for ways in (("linear", "fused"), (products, attention)):
        compute_by(network, *ways)
        network.zero_grad()
        out = network(idx) if kind is GPTFactor else network(idx)[0]
        out.square().mean().backward()
        gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        made.append([out.detach(), torch.cat(gradients)])
    assert any(not torch.equal(a, b) for a, b in zip(*made, strict=True))
    for a, b in zip(*made, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_a_large_network_is_timed_on_few_boards(monkeypatch):
    sizes = []
    monkeypatch.setattr(kernels, "faster", lambda ways: list(ways)[0])
    drawn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, **how: sizes.append(size) or drawn(*size, **how))
    faster_ways.cache_clear()
    for n_embd in (64, 256, 1024):
        faster_ways(n_embd, n_embd, 2, 64, 0, 64)
    faster_ways.cache_clear()
    assert [size[0] for size in sizes[::2]] == [16, 2, 1]


def test_sizes_that_are_no_network_are_refused_before_anything_is_timed(monkeypatch):
    monkeypatch.setattr(module_train_probe, "faster_ways", never)
    with pytest.raises(ValueError, match="n_embd = 1000000"):
        make(**AUTO, n_embd=10**6)


@pytest.mark.parametrize(("kind", "sizes"), [("factor", (8, 12, 2, 36, 0, 8)), ("lea", (8, 12, 2, 36, 3, 8)), ("lea vanilla", (8, 8, 2, 36, 3, 8))])
def test_what_is_timed_has_the_network_s_sizes(kind, sizes, monkeypatch):
    """Width, what sub-layers read, heads, tokens, words of a sentence and boards of a batch."""
    timed = []
    monkeypatch.setattr(module_train_probe, "faster_ways", lambda *given: timed.append(given) or ("linear", "fused"))
    make(kind, **AUTO)
    assert timed == [sizes]
