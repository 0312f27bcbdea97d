"""LEA's wrapper: its loss and logs, its tests, and its sentences. What both wrappers share is in test_train_probe."""
import functools
import inspect
import itertools
import json
import math

import numpy as np
import pytest
import torch

from module_dataset import TYPES, AbstractionDataset
from module_train_probe_lea import TrainTransformer
from module_transformer_lea import LEA, VQ_EXPIRE, LEAFactor, VectorQuantizerEMA
from parts.probing.panels import board_sheet, plot_sentences
from tests.drawn import numbers_of

SMALL_BOARDS = dict(board_dim=6, abs_n=3, abs_dim=2, abs_c=4, vocab_bck=2, vocab_token=4, comp_n=2, dataset_len=30, seed=0)
SMALL = dict(n_layer=2, n_embd=8, n_embd_pos=4, batch_size=8, epochs=2, seed=1, device="cpu", vocab_speech_size=8,
             block_speech_size=3, masking_patch_epoch=2)


def boards(**more):
    return AbstractionDataset(**SMALL_BOARDS | more)


def make(dataset=None, **more):
    return TrainTransformer(boards() if dataset is None else dataset, **SMALL | more)


types = pytest.mark.parametrize("transformer_type", ["factor", "vanilla"])


def stirred(**more):
    """A wrapper whose weights are far from the start, and whose words are what it would say of some boards."""
    trainer = make(**more)
    network, generator = trainer.transformer, torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in (p for p in network.parameters() if p.dim() == 2):
            p += 0.8 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        with trainer.record("ss_z_out") as acts:
            network(torch.randint(6, (8, 36), generator=generator))
        network.ss_vector_quantizer.start_words_(acts["ss_z_out"][range(8), [i % 3 for i in range(8)]])
    return trainer


# parameters

DEFAULTS = dict(
    transformer_type="factor", n_layer=3, n_head=2, n_embd=32, n_embd_pos=16, embd_pdrop=0, resid_pdrop=0, attn_pdrop=0,
    masking_p=0.25, masking_patch_epoch=None, masking_patch_p=0, board_curriculum=True, board_proba_epoch_start=1000,
    board_proba_epoch_end=2000, board_proba_start=[0.95, 0.05, 0], board_proba_end=[0.6, 0.4, 0], learning_rate=1e-3,
    batch_size=64, epochs=1, epoch2print=25, epoch2test=250, epoch2save=500, save_model=False, run_name="", plot_dpi=150,
    dtype="float32", runs="./runs", vocab_speech_size=128, block_speech_size=16, bool_blank_speech=False, vq_type="EMA",
    vq_expire=VQ_EXPIRE, vq_groups=1, slot_heads=0, loss_rfs_epoch_start=250, loss_rfs_epoch_end=1000, loss_rfs_val_start=0, loss_rfs_val_end=1,
    loss_speech_epoch_start=1000, loss_speech_epoch_end=3000, loss_speech_val_start=0, loss_speech_val_end=0,
)  # fmt: skip


def test_a_run_with_several_words_for_each_vector(tmp_path):
    trainer = make(vq_groups=2, n_embd=8, epochs=2, vq_start_epoch=1, runs=str(tmp_path), run_name="groups", save_model=True)
    trainer.train()
    assert {path.stem for path in (tmp_path / "groups" / "figures").iterdir()} >= {"codebook", "sentences"}
    trainer = TrainTransformer.from_run(tmp_path / "groups", device="cpu")
    drawn = trainer.dataset.sample(5, "train").boards
    masks = np.zeros_like(drawn)
    sentences = trainer.speaker_sentence(drawn, masks)
    assert sentences.shape == (5, 2 * trainer.block_speech_size)
    _, rebuilt, words = trainer.speaker_predict(drawn, masks)
    assert np.array_equal(words.argmax(-1), sentences)
    for given in (sentences, words):
        assert np.array_equal(trainer.speaker_predict_from_speech(given), rebuilt)
    assert trainer.forward_activations_fromSpeech(sentences)["logit"].shape[0] == 5
    with pytest.raises(ValueError, match="sentences"):
        trainer.speaker_predict_from_speech(sentences[:, :3])


def test_defaults_and_attributes():
    trainer = TrainTransformer(boards())
    for name, value in DEFAULTS.items():
        assert getattr(trainer, name) == value, name
    own = {"dataset", "vocab_size", "block_size", "masking_token", "device", "seed"}
    assert set(inspect.signature(TrainTransformer).parameters) >= own | set(DEFAULTS)
    assert isinstance(trainer.transformer, LEAFactor)
    quantiser = trainer.transformer.ss_vector_quantizer
    assert isinstance(quantiser, VectorQuantizerEMA)
    assert (quantiser.expire, quantiser.keep_last, tuple(quantiser._embedding.weight.shape)) == (VQ_EXPIRE, True, (128, 32))


def test_parameters_reach_the_network():
    trainer = make(transformer_type="vanilla", vq_type="vanilla", bool_blank_speech=1, resid_pdrop=0.3)
    assert type(trainer.transformer) is LEA
    assert not isinstance(trainer.transformer.ss_vector_quantizer, VectorQuantizerEMA)
    assert trainer.transformer.bool_blank_speech is True
    assert trainer.transformer.ps_pos_emb.weight.shape == (36, 8)
    assert {module.p for module in trainer.transformer.modules() if hasattr(module, "p")} == {0, 0.3}
    competing = make(slot_heads=1).transformer
    expiring = make(vq_expire=0.5, bool_blank_speech=True).transformer.ss_vector_quantizer
    assert (expiring.expire, expiring.keep_last) == (0.5, False)
    said, painted = (blocks[0] for blocks in (competing.ss_blocks, competing.ps_blocks))
    assert [at.slot_heads for at in (said.crossAttn, said.selfAttn, painted.crossAttn)] == [1, 0, 0]


@pytest.mark.parametrize(
    ("values", "error", "name"),
    [
        (dict(transformer_type="gpt"), ValueError, "transformer_type"), (dict(vq_type="ema"), ValueError, "vq_type"),
        (dict(vq_expire=-0.1), ValueError, "vq_expire"), (dict(vocab_speech_size=1), ValueError, "vocab_speech_size"),
        (dict(block_speech_size=0), ValueError, "block_speech_size"),
        (dict(bool_blank_speech="yes"), TypeError, "bool_blank"),
        (dict(loss_rfs_epoch_start=5, loss_rfs_epoch_end=4), ValueError, "loss_rfs_epoch_end = 4"),
        (dict(loss_speech_epoch_start=5, loss_speech_epoch_end=4), ValueError, "loss_speech_epoch_end = 4"),
        (dict(loss_rfs_val_end=-1), ValueError, "loss_rfs_val_end"), (dict(vq_expir=0), TypeError, "did you mean vq_expire"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(values, error, name):
    with pytest.raises(error, match=name):
        make(**values)


# the loss


@pytest.mark.parametrize(
    ("epoch", "alpha", "beta"),
    [(0, 0, 0), (250, 0, 0), (400, 0.2, 0), (625, 0.5, 0), (1000, 1, 0), (2000, 1, 0.35), (3000, 1, 0.7), (9000, 1, 0.7)],
)
def test_weights_of_the_losses(epoch, alpha, beta):
    assert make(loss_speech_val_end=0.7).recipe.loss_weights_at(epoch) == (pytest.approx(alpha), pytest.approx(beta))


def test_weights_that_jump_or_start_elsewhere():
    trainer = make(loss_rfs_epoch_start=3, loss_rfs_epoch_end=3, loss_speech_val_start=2, loss_speech_val_end=1,
                   loss_speech_epoch_start=0, loss_speech_epoch_end=4)
    assert [trainer.recipe.loss_weights_at(epoch) for epoch in range(5)] == [(0, 2), (0, 1.75), (0, 1.5), (1, 1.25), (1, 1)]


def cross_entropy(logits, truth):
    """(mean over all tokens, wrong tokens)."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    likely = np.take_along_axis(p, truth[..., None], -1)
    return -np.log(likely).mean(), (p.argmax(-1) != truth).sum()


@types
@pytest.mark.parametrize("blank", [True, False])
def test_losses_and_log_by_hand(transformer_type, blank):
    trainer = stirred(transformer_type=transformer_type, vq_type="vanilla", bool_blank_speech=blank, learning_rate=0,
                      epochs=4, dtype="float64", loss_rfs_epoch_start=1, loss_rfs_epoch_end=3, loss_rfs_val_end=0.8,
                      loss_speech_val_end=0.5, loss_speech_epoch_start=0, loss_speech_epoch_end=2)
    losses, log = trainer.train(), trainer.log.arrays
    for epoch, (alpha, beta) in enumerate([(0, 0), (0, 0.25), (0.4, 0.5), (0.8, 0.5)]):
        sums, wrong, words = dict.fromkeys(("total", "rfb", "rfs", "vq", "speech"), 0.0), [0, 0], np.zeros(8)
        for masked, truth in trainer.batches(epoch):
            with torch.no_grad():
                board, sentence, vq, encodings = (value.numpy() for value in trainer.transformer(masked))
            (rfb, wrong_b), (rfs, wrong_s) = cross_entropy(board, truth.numpy()), cross_entropy(sentence, truth.numpy())
            said = encodings.argmax(-1)
            speech = 1 - (said == 7).sum() / said.size
            for name, value in (("total", rfb + alpha * (vq + rfs) + beta * speech), ("rfb", rfb), ("rfs", rfs), ("vq", vq),
                                ("speech", speech)):
                sums[name] += value
            wrong = [wrong[0] + wrong_b, wrong[1] + wrong_s]
            words += np.bincount(said.ravel(), minlength=8)
        share = words[words > 0] / words.sum()
        bits = -sum(p * math.log2(p) for p in share)
        wanted = {f"loss_{name}": value for name, value in sums.items()} | {
            "avg_error_rfb": wrong[0] / (30 * 36), "avg_error_rfs": wrong[1] / (30 * 36), "vq_usage_entropy": bits / 3,
            "vq_perplexity": 2**bits, "words_used": len(share), "epoch": epoch,
        }
        assert {name: log[name][epoch] for name in wanted} == pytest.approx(wanted, rel=1e-9)
        assert losses[epoch] == log["loss_total"][epoch]
        assert len(share) > 1


def test_the_sparsity_loss_has_no_gradient():
    def run(weight):
        trainer = make(loss_speech_epoch_start=0, loss_speech_epoch_end=0, loss_speech_val_end=weight)
        losses = trainer.train()
        return trainer.transformer.state_dict(), losses, trainer.log.arrays["loss_speech"]

    (without, first, speech), (with_it, second, _) = run(0), run(5)
    assert all(torch.equal(without[name], with_it[name]) for name in without)
    np.testing.assert_allclose(second, first + 5 * speech, rtol=1e-5)
    assert speech.max() > 0


def test_before_the_ramp_words_get_no_gradient():
    trainer = make(vq_type="vanilla", bool_blank_speech=True, epochs=2)
    before = {name: value.clone() for name, value in trainer.transformer.state_dict().items()}
    trainer.train()
    after = trainer.transformer.state_dict()
    assert torch.equal(before["ss_vector_quantizer._embedding.weight"], after["ss_vector_quantizer._embedding.weight"])
    assert not torch.equal(before["ps_head.weight"], after["ps_head.weight"])
    rushed = make(vq_type="vanilla", bool_blank_speech=True, loss_rfs_epoch_start=0, loss_rfs_epoch_end=0)
    rushed.train()
    words = rushed.transformer.state_dict()["ss_vector_quantizer._embedding.weight"]
    assert not torch.equal(before["ss_vector_quantizer._embedding.weight"], words)


def test_words_survive_training():
    trainer = make(epochs=20, learning_rate=1e-2, loss_rfs_epoch_start=0, loss_rfs_epoch_end=1, vq_expire=0.5)
    trainer.train()
    norms = trainer.transformer.ss_vector_quantizer._embedding.weight.norm(dim=1)
    assert norms.isfinite().all()
    assert norms.max() < 50
    assert trainer.log.arrays["words_used"].max() > 1


# testing


def test_a_test_in_training_is_masked_at_a_fifth_without_patches(monkeypatch):
    trainer = make(masking_patch_epoch=0, masking_p=0.6, masking_patch_p=1.0, epoch2test=1)
    seen = []
    original = AbstractionDataset.mask
    monkeypatch.setattr(AbstractionDataset, "mask", lambda self, b, p, patch_p=0.0, *a: seen.append((len(b), p, patch_p))
                        or original(self, b, p, patch_p, *a))
    trainer.train()
    n = 2 * (12 + 36 + 8)
    assert seen == [(30, 0.6, 1.0), (n, 0.2, 0), (n, 0.2, 0)] * 2
    assert trainer.log.arrays["nb_boards_test"].tolist() == [n, n]


KEYS = {"acc_tokens", "acc_boards", "acc_boards_breakdown", "acc_hidden"}


def greedy(trainer, truth, masks):
    """Boards rebuilt from the picture and from the sentence, a board at a time, and the words."""
    made = []
    for board, mask in zip(truth, masks, strict=True):
        tokens = torch.tensor(np.where(mask, trainer.masking_token, board).reshape(1, -1))
        with torch.no_grad():
            picture, speech, _, words = trainer.transformer.eval()(tokens)
        made.append([value[0].argmax(-1).numpy() for value in (picture, speech, words)])
    picture, speech, words = map(np.stack, zip(*made, strict=True))
    return picture.reshape(-1, 6, 6), speech.reshape(-1, 6, 6), words


@functools.cache
def trained(transformer_type):
    trainer = make(transformer_type=transformer_type, epochs=25, learning_rate=1e-2, dtype="float64", bool_blank_speech=True)
    trainer.train()
    return trainer


@types
@pytest.mark.parametrize("call", ["random", "test"])
def test_accuracies_are_what_counting_gives(transformer_type, call, monkeypatch):
    trainer, kept = trained(transformer_type), {}
    original = type(trainer)._evaluate

    def evaluate(self, *args):
        kept["scores"], kept["made"] = original(self, *args)
        return kept["scores"], kept["made"]

    monkeypatch.setattr(type(trainer), "_evaluate", evaluate)
    if call == "random":
        result = trainer.test_model_accuracy(40, 0.1, True, 0.3)
    else:
        result = trainer.test_model_accuracy_set("test", 0.02)
    assert set(result) == {f"{way}{key}" for way in ("l0_", "l1_") for key in KEYS}
    truth, masks, kinds = (kept["made"][name] for name in ("boards", "masks", "types"))
    assert len(truth) == {"random": 40, "test": 12 + 36 + 8}[call]
    for way, recons in zip(("l0_", "l1_"), greedy(trainer, truth, masks), strict=False):
        right = recons == truth
        whole = right.all((1, 2))
        assert result[f"{way}acc_tokens"] == pytest.approx(right.mean())
        assert result[f"{way}acc_boards"] == pytest.approx(whole.mean())
        assert result[f"{way}acc_hidden"] == pytest.approx(right[masks == 1].mean())
        for t in range(3):
            assert result[f"{way}acc_boards_breakdown"][t] == pytest.approx(whole[kinds == t].mean())
    assert 0.2 < result["l0_acc_tokens"] < 1


@types
def test_subset_by_counting(transformer_type):
    trainer = stirred(transformer_type=transformer_type)
    truth = trainer.dataset.get_n_training_boards(20)[0]
    masks = (np.random.default_rng(0).random(truth.shape) < 0.2).astype(int)
    result = trainer.test_model_accuracy_subset(truth, masks)
    assert set(result) == {f"{way}{key}" for way in ("l0_", "l1_") for key in KEYS - {"acc_boards_breakdown"}}
    for way, recons in zip(("l0_", "l1_"), greedy(trainer, truth, masks), strict=False):
        right = recons == truth
        assert result[f"{way}acc_tokens"] == pytest.approx(right.mean())
        assert result[f"{way}acc_hidden"] == pytest.approx(right[masks == 1].mean())
        assert result[f"{way}acc_boards"] == pytest.approx(right.all((1, 2)).mean())


# sentences


@types
@pytest.mark.parametrize(("vq_type", "blank"), list(itertools.product(["EMA", "vanilla"], [True, False])))
def test_speaker_predict(transformer_type, vq_type, blank):
    trainer = stirred(transformer_type=transformer_type, vq_type=vq_type, bool_blank_speech=blank)
    truth = trainer.dataset.get_n_training_boards(12)[0]
    masks = (np.random.default_rng(0).random(truth.shape) < 0.2).astype(int)
    before = {name: value.clone() for name, value in trainer.transformer.state_dict().items()}
    picture, speech, words = trainer.speaker_predict(truth, masks)
    wanted = greedy(trainer, truth, masks)
    assert (picture == wanted[0]).all()
    assert (speech == wanted[1]).all()
    assert words.shape == (12, 3, 8)
    assert (words == np.eye(8)[wanted[2]]).all()
    assert (trainer.speaker_sentence(truth, masks) == wanted[2]).all()
    assert len(np.unique(wanted[2], axis=0)) > 1
    said = wanted[2]
    for sentences in (said, words, torch.tensor(said), torch.tensor(words), said.astype(np.int32), said.tolist(), words > 0):
        assert (trainer.speaker_predict_from_speech(sentences) == speech).all()
    assert trainer.speaker_predict(truth[0], masks[0])[2].shape == (1, 3, 8)
    assert all(torch.equal(before[name], value) for name, value in trainer.transformer.state_dict().items())


def test_another_sentence_another_board():
    trainer = stirred()
    sentences = np.stack(np.unravel_index(np.arange(8**3), (8, 8, 8)), axis=-1)
    rebuilt = trainer.speaker_predict_from_speech(sentences)
    assert rebuilt.shape == (512, 6, 6)
    assert len(np.unique(rebuilt.reshape(512, -1), axis=0)) > 100
    logits = trainer.forward_activations_fromSpeech(sentences)["logit"]
    assert len(np.unique(logits.reshape(512, -1), axis=0)) == 512


@pytest.mark.parametrize(
    "sentences",
    [np.zeros((2, 4), int), np.zeros(3, int), np.zeros((2, 3, 7)), np.zeros((2, 2, 8)), np.full((1, 3), 8),
     np.full((1, 3), -1), np.zeros((2, 3)), np.zeros((1, 2, 3, 8)), np.zeros((2, 3, 8)), np.ones((2, 3, 8)),
     np.full((2, 3, 8), np.nan), None, "abc", [[1, 2, 3], [1]]],
    ids=["long", "flat", "few words", "short one-hot", "beyond", "negative", "floats", "deep", "no word", "all words",
         "not a number", "None", "text", "ragged"],
)  # fmt: skip
def test_wrong_sentences(sentences):
    for call in (make().speaker_predict_from_speech, make().forward_activations_fromSpeech):
        with pytest.raises((ValueError, TypeError), match="^sentences.* must"):
            call(sentences)


@pytest.mark.filterwarnings("error")
def test_sentences_that_cannot_be_written_to_are_read():
    trainer, said = make(), np.broadcast_to(np.arange(3), (2, 3))
    assert (trainer.speaker_predict_from_speech(said) == trainer.speaker_predict_from_speech(said.copy())).all()


@pytest.mark.parametrize("test", ["test_sentences", "test_model_accuracy_set"])
def test_a_split_without_boards_is_named(test):
    with pytest.raises(ValueError, match="^target_set = 'val' holds no boards"):
        getattr(make(), test)("val", **{} if test == "test_sentences" else {"masking_p": 0.2})


@types
def test_activations_add_up(transformer_type):
    trainer = stirred(transformer_type=transformer_type, dtype="float64")
    truth = trainer.dataset.get_n_training_boards(5)[0]
    masks = (np.random.default_rng(0).random(truth.shape) < 0.2).astype(int)
    picture, speech, words = trainer.speaker_predict(truth, masks)
    state = {name: value.numpy() for name, value in trainer.transformer.state_dict().items()}
    masked = np.where(masks, 6, truth).reshape(5, -1)
    cases = (
        (trainer.forward_activations_fromBoard(truth, masks), masked, picture),
        (trainer.forward_activations_fromSpeech(words), np.full_like(masked, 6), speech),
        (trainer.forward_activations_fromSpeech(words.argmax(-1)), np.full_like(masked, 6), speech),
    )
    for acts, tokens, recons in cases:
        names = {f"b{i}_{name}" for i in range(2) for name in ("selfAttn", "crossAttn", "mlp", "out")}
        assert set(acts) == names | {"z_out", "logit"}
        assert all(acts[name].shape == (5, 36, 8) for name in names)
        stream = state["ps_token_embedding.weight"][tokens]
        if transformer_type == "vanilla":
            stream = stream + state["ps_pos_emb.weight"]
        for i in range(2):
            stream = stream + acts[f"b{i}_selfAttn"] + acts[f"b{i}_crossAttn"] + acts[f"b{i}_mlp"]
            np.testing.assert_allclose(acts[f"b{i}_out"], stream, rtol=1e-9, atol=1e-11)
        centred = stream - stream.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(acts["z_out"], normed * state["ps_ln_out.weight"] + state["ps_ln_out.bias"], rtol=1e-9)
        np.testing.assert_allclose(acts["logit"], acts["z_out"] @ state["ps_head.weight"].T, rtol=1e-9, atol=1e-11)
        assert (acts["logit"].argmax(-1).reshape(5, 6, 6) == recons).all()
    assert not any(site.watched for site in trainer.transformer.sites.values())


def test_activations_print_the_accuracy_when_asked(capsys):
    trainer = stirred()
    truth = trainer.dataset.get_n_training_boards(7)[0]
    masks = np.zeros_like(truth)
    picture, speech, words = trainer.speaker_predict(truth, masks)
    trainer.forward_activations_fromBoard(truth, masks)
    trainer.forward_activations_fromSpeech(words)
    assert capsys.readouterr().out == ""
    trainer.forward_activations_fromBoard(truth, masks, verbose=True)
    assert f"right tokens {100 * (picture == truth).mean():.2f}%" in capsys.readouterr().out
    trainer.forward_activations_fromSpeech(words, truth)
    assert f"right tokens {100 * (speech == truth).mean():.2f}%" in capsys.readouterr().out


def entropy(items):
    """In bits, of how often each item occurs."""
    counts = [items.count(item) for item in set(items)]
    return -sum(c / len(items) * math.log2(c / len(items)) for c in counts)


@types
@pytest.mark.parametrize("split", ["test", "train"])
def test_sentences_by_counting(transformer_type, split):
    trainer = stirred(transformer_type=transformer_type)
    found = trainer.test_sentences(split, count_max=20)
    assert found == trainer.test_sentences(split, count_max=20)
    assert all(type(value) is float for value in found.values())
    if split == "train":
        by_type = {f"{what}_{name}" for what in ("tokens", "boards") for name in TYPES}
        assert set(found) == by_type | {"tokens", "boards", "distinct", "bits", "words", "perplexity"}
        return
    every = trainer.test_sentences(split, count_max=None)
    truth, kinds = trainer.dataset.get_all_boards("test")  # all of them, in whatever order
    _, rebuilt, words = greedy(trainer, truth, np.zeros_like(truth))
    right = rebuilt == truth
    wanted = {"tokens": right.mean(), "boards": right.all((1, 2)).mean()}
    for t, name in enumerate(TYPES):
        wanted |= {f"tokens_{name}": right[kinds == t].mean(), f"boards_{name}": right[kinds == t].all((1, 2)).mean()}
    sentences = [tuple(sentence) for sentence in words.tolist()]
    wanted["distinct"] = len(set(sentences)) / len({board.tobytes() for board in truth})
    wanted["bits"] = sum(entropy([sentence[place] for sentence in sentences]) for place in range(3))
    wanted["words"] = len(set(sum(sentences, ())))
    wanted["perplexity"] = 2 ** entropy(list(sum(sentences, ())))
    assert every == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("transformer_type", ["factor", "vanilla"])
@pytest.mark.parametrize("vq_type", ["EMA", "vanilla"])
def test_load_transformer_reads_the_official_layout(golden, tmp_path, transformer_type, vq_type):
    z = np.load(golden / f"lea_{transformer_type}_{vq_type}_lastword.npz")
    config = json.loads(str(z["config"]))
    torch.save({name.removeprefix("init."): torch.tensor(z[name]) for name in z.files if name.startswith("init.")},
               tmp_path / "model.pth")
    sizes = {name: value for name, value in config.items() if name not in ("vocab_size", "block_size")}
    trainer = TrainTransformer(AbstractionDataset(seed=0), **sizes, dtype="float64", transformer_type=transformer_type,
                               device="cpu")
    trainer.load_transformer(tmp_path / "model.pth")
    tokens = z["x"].reshape(-1, 8, 8)
    acts = trainer.forward_activations_fromBoard(tokens, np.zeros_like(tokens))
    np.testing.assert_allclose(acts["logit"], z["eval_logits_board"], rtol=1e-9, atol=1e-11)
    acts = trainer.forward_activations_fromSpeech(z["sentences"])
    np.testing.assert_allclose(acts["logit"], z["logits_from_sentences"], rtol=1e-9, atol=1e-11)
    assert (trainer.speaker_predict(tokens, np.zeros_like(tokens))[2].argmax(-1) == z["eval_words"]).all()


def test_what_is_printed_of_an_epoch():
    trainer = make()
    row = dict.fromkeys(trainer.loss_columns, 0.0) | {"epoch": 3, "loss_mean": 1.5, "avg_error_rfb": 0.25, "avg_error_rfs": 0.125,
                                                      "words_used": 7, "vq_perplexity": 3.0, "vq_usage_entropy": 0.5}
    wanted = ("epoch 3: loss 1.5000, wrong tokens from board 25.00%, from sentence 12.50%", "7 words in use, perplexity 3.0")
    for part in wanted:
        assert part in trainer._report_line(row)


def test_the_picture_of_sentences_has_every_word_at_its_place_and_every_token():
    first = 2  # object tokens from here on
    boards = np.array([[[first, 0], [1, first + 1]], [[0, 1], [first, first]]]).repeat(3, 1).repeat(3, 2)
    words = np.arange(22).reshape(2, 11) % 8
    [ax] = plot_sentences(boards, boards[::-1], words, first, 4).axes
    *titles, one, other = [text.get_text() for text in ax.texts]
    assert titles == ["board", "words", "from the words alone"]
    _, _, corners = board_sheet(2, titles, 6)
    numbers = numbers_of(ax)
    assert len(numbers) == 2 * boards.size
    for i, text in enumerate((one, other)):
        lines = [line.split() for line in text.splitlines()]
        assert sum((line[1:] for line in lines if line[0] == "place"), []) == [str(place) for place in range(11)]
        assert sum((line[1:] for line in lines if line[0] == "word"), []) == [str(word) for word in words[i]]
        for (x, y), board in ((corners[i, 0], boards[i]), (corners[i, 2], boards[1 - i])):
            assert [numbers[round(x + column, 9), round(y + row, 9)] for row, column in np.ndindex(6, 6)] == list(board.flat)
