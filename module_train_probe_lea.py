"""Trains and probes LEA on boards (arXiv 2312.05361): the factor wrapper with another network, loss and
sentences.

Axis letters: n boards, h x w cells, B boards in a batch, T = h * w tokens, S words of a sentence, K words of
the codebook.
"""
from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import module_train_probe
from module_dataset import TYPES
from module_transformer_lea import LEA, VQ_EXPIRE, LEAFactor
from parts.params import inherited, keywords_of, param
from parts.probing import evaluation
from parts.probing.panels import plot_codebook, plot_sentences
from parts.probing.sentences import entropy_bits, information, sentence_scores, word_indices  # noqa: F401, offered
from parts.training.recipe import MOST, TrainParams, epoch_of, made_of
from utils import dist, dist_cosine, dist_unit, numpy_rng, ramp, to_numpy, torch_entropy, torch_rng

__all__ = ["TrainTransformer", "LEAParams", "torch_entropy", "dist", "dist_unit", "dist_cosine", "ramp"]

STREAM_WORDS = 16  # of the codebook's start, beside those of module_train_probe
WORD_BOARDS = 2000  # that it is made of
loss_weight = functools.partial(param, low=0, high=MOST)
STREAMS = {"l0_": "rfb", "l1_": "rfs"}  # reconstruction from board, from sentence
SOURCES = {"board": "rfb", "sentence": "rfs"}


@dataclass(kw_only=True)
class LEAParams(TrainParams):
    """TrainParams with LEA's defaults, and the parameters of codebook and sentences."""

    recipe_length = 3000
    ramps = (*TrainParams.ramps, "vq_start_epoch", "loss_rfs_epoch_start", "loss_rfs_epoch_end",
             "loss_speech_epoch_start", "loss_speech_epoch_end")

    transformer_type: str = inherited(
        TrainParams, "transformer_type", "factor", choices=("factor", "vanilla"),
        help="type of network: factor, or vanilla (adds position codes to the tokens)",
    )
    n_embd: int = inherited(TrainParams, "n_embd", 32, help="width of the residual streams D")
    n_embd_pos: int = inherited(
        TrainParams, "n_embd_pos", 16, help="width of the position codes P; ignored by type vanilla"
    )
    masking_patch_epoch: int | None = inherited(TrainParams, "masking_patch_epoch", None)
    masking_patch_p: float = inherited(TrainParams, "masking_patch_p", 0)
    board_proba_epoch_start: int = inherited(TrainParams, "board_proba_epoch_start", 1000)
    board_proba_epoch_end: int = inherited(TrainParams, "board_proba_epoch_end", 2000)
    board_proba_start: list[float] = inherited(TrainParams, "board_proba_start", (0.95, 0.05, 0))
    board_proba_end: list[float] = inherited(TrainParams, "board_proba_end", (0.6, 0.4, 0))
    epoch2save: int = inherited(TrainParams, "epoch2save", 500)
    vocab_speech_size: int = made_of(128, "number of words in the codebook K", low=2, high=MOST)
    block_speech_size: int = made_of(16, "number of words in a sentence S", low=1, high=10**4)
    bool_blank_speech: bool = made_of(
        False, "blank sentence: 1: zeros; 0: the codebook's last word at all places"
    )
    vq_type: str = made_of(
        "EMA", "how the codebook learns: EMA (moving averages of its inputs) or vanilla (by gradient)",
        choices=("EMA", "vanilla"),
    )
    vq_expire: float = made_of(
        VQ_EXPIRE,
        "replace a word of an EMA codebook when its usage falls below this fraction of uniform usage; 0: "
        "never",
        low=0,
    )
    vq_groups: int = made_of(
        1,
        "cut each of the sentence's block_speech_size vectors into so many parts and replace each part by a "
        "word (product quantisation); a sentence then has block_speech_size times vq_groups words",
        low=1,
        high=10**4,
    )
    slot_heads: int = made_of(
        0,
        "number of the language network's cross-attention heads in which words compete for cells, as in slot "
        "attention",
        low=0,
    )
    vq_start_epoch: int = epoch_of(
        0, "epoch at which the codebook is initialised by k-means; before it nothing is quantised"
    )
    loss_rfs_epoch_start: int = epoch_of(
        250, "epoch at which the weight of the sentence losses starts to move"
    )
    loss_rfs_epoch_end: int = epoch_of(
        1000, "epoch at which the weight of the sentence losses reaches its final value"
    )
    loss_rfs_val_start: float = loss_weight(
        0, "first weight of the sentence losses (quantisation, and reconstruction from the sentence)"
    )
    loss_rfs_val_end: float = loss_weight(1, "final weight of the sentence losses")
    loss_speech_epoch_start: int = epoch_of(
        1000, "epoch at which the weight of the sparsity loss starts to move"
    )
    loss_speech_epoch_end: int = epoch_of(
        3000, "epoch at which the weight of the sparsity loss reaches its final value"
    )
    loss_speech_val_start: float = loss_weight(
        0, "first weight of the sparsity loss (1 - share of the last word; reported, without gradient)"
    )
    loss_speech_val_end: float = loss_weight(0, "final weight of the sparsity loss")

    def check(self):
        super().check()
        for name in ("loss_rfs", "loss_speech"):
            self._check_order(f"{name}_epoch_start", f"{name}_epoch_end")

    def beyond_the_end(self) -> list[str]:
        """As TrainParams'; the epochs of the sparsity loss only if it is used."""
        unused = self.loss_speech_val_start == self.loss_speech_val_end == 0
        return [late for late in super().beyond_the_end() if not (unused and late.startswith("loss_speech"))]

    def loss_weights_at(self, epoch: int) -> tuple[float, float]:
        """Weights at an epoch: alpha of the sentence losses, beta of the sparsity loss."""
        keys = ("val_start", "val_end", "epoch_start", "epoch_end")
        bounds = ([getattr(self, f"{name}_{key}") for key in keys] for name in ("loss_rfs", "loss_speech"))
        return tuple(float(ramp(epoch, *b)) for b in bounds)


@keywords_of(LEAParams, first=["dataset"])
class TrainTransformer(module_train_probe.TrainTransformer):
    """The factor wrapper for LEA. Keywords are those of LEAParams; attributes, run folder and tests are the
    factor wrapper's, with accuracies of the board rebuilt from the board (l0_, in logs rfb) and from its
    sentence (l1_, in logs rfs).
    """

    params_class = LEAParams
    run_suffix = {"factor": "_speaker_factor", "vanilla": "_speaker"}
    loss_columns = ("loss_total", "loss_mean", "loss_rfb", "loss_rfs", "loss_vq", "loss_speech",
                    "avg_error_rfb", "avg_error_rfs", "vq_usage_entropy", "vq_perplexity", "words_used")
    count_columns = ("nb_boards_test",)
    curves = (
        ("loss, mean over boards", True, {"": "loss_mean"}),
        ("losses, sums over steps", True, {name: f"loss_{name}" for name in ("rfb", "rfs", "vq")}),
        ("share of right tokens, test", False, {
            f"from {source}, {name}": f"test_acc_{stream}_{key}"
            for source, stream in SOURCES.items() for name, key in (("all", "token"), ("hidden", "hidden"))
        }),
        ("share of right boards, test", False, {
            f"from {source}, {name}": f"test_acc_{stream}_breakdown_{name}"
            for source, stream in SOURCES.items() for name in ("single", "double")
        }),
        ("words", False, {"in use": "words_used", "perplexity": "vq_perplexity"}),
    )

    # network, loss and reports

    def _network(self) -> torch.nn.Module:
        names = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "embd_pdrop", "resid_pdrop",
                 "attn_pdrop", "vocab_speech_size", "block_speech_size", "vq_type", "bool_blank_speech",
                 "vq_expire", "slot_heads", "vq_groups", "seed")
        sizes = {name: getattr(self, name) for name in names}
        if self.transformer_type == "vanilla":
            network = LEA(**sizes)
        else:
            network = LEAFactor(**sizes, n_embd_pos=self.n_embd_pos)
        if self.vq_start_epoch > 0:
            network.ss_vector_quantizer.await_start_()
        return network

    def loss(self, masked, boards, epoch):
        """Board to board + alpha * (quantisation + sentence to board) + beta * (1 - share of the last word),
        the last without gradient; see the factor wrapper's."""
        alpha, beta = self.recipe.loss_weights_at(epoch)
        board_logits, speech_logits, vq, words = self.transformer(masked)  # twice (B, T, V), (), (B, S, K)
        rfb, rfs = (F.cross_entropy(logits.flatten(0, 1), boards.flatten())
                    for logits in (board_logits, speech_logits))
        used = words.sum((0, 1))  # (K,)
        speech = 1 - used[-1] / words[..., 0].numel()
        loss = rfb + alpha * (vq + rfs) + beta * speech
        return loss, {
            "loss_total": loss.detach(),
            "loss_rfb": rfb.detach(),
            "loss_rfs": rfs.detach(),
            "loss_vq": vq.detach(),
            "loss_speech": speech,
            "avg_error_rfb": (board_logits.argmax(-1) != boards).sum(),
            "avg_error_rfs": (speech_logits.argmax(-1) != boards).sum(),
            "words": used.long(),
        }

    def start_epoch(self, epoch):
        if epoch == 0 < self.vq_start_epoch:
            self.transformer.ss_vector_quantizer.await_start_()  # words of init_from are not this run's
        self.transformer.ss_vector_quantizer.passing = epoch < self.vq_start_epoch
        if epoch == self.vq_start_epoch > 0:
            self._start_words(epoch)
        super().start_epoch(epoch)

    def _start_words(self, epoch: int) -> None:
        """Initialises the codebook by k-means on unquantised sentences of unmasked boards of train."""
        rng = numpy_rng(self.seed, STREAM_WORDS, epoch)
        boards = self.dataset.sample(WORD_BOARDS, "train", self.board_proba(epoch), rng).boards
        network, vectors = self.transformer, []
        with evaluation.evaluating(network):
            for tokens in self.masked_batches(boards, np.zeros_like(boards)):
                _, state = network.infer(tokens, network.blank())
                vectors.append(network.write(state).flatten(0, 1))
        in_a_batch = self.batch_size * self.block_speech_size
        generator = torch_rng(self.seed, STREAM_WORDS, epoch)
        network.ss_vector_quantizer.start_from_(torch.cat(vectors), in_a_batch, generator)

    def loss_row(self, totals):
        used = totals.pop("words")
        bits = entropy_bits(used)
        cells = self.dataset_len * self.block_size
        shares = {name: totals[name] / cells for name in ("avg_error_rfb", "avg_error_rfs")}
        entropy = bits / np.log2(self.vocab_speech_size)
        return totals | shares | {"vq_usage_entropy": entropy, "vq_perplexity": 2**bits,
                                  "words_used": np.count_nonzero(used)}

    def _test_masking(self):
        return 0.2, 0.0  # as the official program

    @staticmethod
    def _test_columns(split, output):
        names = ("token", "hidden", "board", "breakdown_single", "breakdown_double", "breakdown_composite")
        return [f"{split}_acc_{STREAMS[output]}_{name}" for name in names]

    def _count_row(self, counts, tested):
        return {"nb_boards_test": 2 * sum(counts) if tested else 0}

    def _report_line(self, row):
        words = self.transformer.ss_vector_quantizer._embedding.weight
        longest = torch.linalg.vector_norm(words, dim=1).max().item()
        alpha, _ = self.recipe.loss_weights_at(row["epoch"])
        return (
            f"epoch {row['epoch']}: loss {row['loss_mean']:.4f}, "
            f"wrong tokens from board {100 * row['avg_error_rfb']:.2f}%, "
            f"from sentence {100 * row['avg_error_rfs']:.2f}%, alpha {alpha:.2f}, "
            f"{row['words_used']} words in use, perplexity {row['vq_perplexity']:.1f}, usage entropy "
            f"{row['vq_usage_entropy']:.2f}, longest word {longest:.1f}"
        )

    def _figures(self, epoch):
        many, few = self._sample(epoch, 100), self._sample(epoch, 4)  # unmasked
        spoken = self.speaker_sentence(many, np.zeros_like(many))
        _, rebuilt, words = self.speaker_predict(few, np.zeros_like(few))
        vocabulary = self.dataset.vocab_bck, self.dataset.vocab_token
        return super()._figures(epoch) | {
            "codebook": plot_codebook(spoken, self.vocab_speech_size),
            "sentences": plot_sentences(few, rebuilt, words.argmax(-1), *vocabulary),
        }

    def _sample(self, epoch: int, count_max: int):
        """Boards of test, else of train, of the types that training shows, at most count_max a type."""
        rng = numpy_rng(self.seed, module_train_probe.STREAM_TEST, epoch, 2)
        drawn, _ = evaluation.boards_to_test(self.dataset, rng, count_max)
        drawn = drawn.get("test", drawn["train"])
        shares = zip(self.dataset.board_types, self.board_proba(epoch), strict=True)
        types = [TYPES.index(name) for name, share in shares if share > 0]
        return drawn.boards[np.isin(drawn.types, types)]

    # Probing: as the factor wrapper's, of IN reading the blank sentence; functions of parts/probing do the
    # work. Stages are the sub-layers' additions to the stream and the block's output; figures attn show
    # self-attention, crossAttn what each query reads in the sentence, one column for each word.

    outputs = {"l0_": "from the board", "l1_": "from its sentence"}
    stages = ("selfAttn", "crossAttn", "mlp", "out")
    attention = {"attn": ("selfAttn_a", True), "crossAttn": ("crossAttn_a", False)}

    def _predict(self, tokens):
        return self.transformer(tokens)[:2]

    def _forward(self, tokens):
        self.transformer.predict_from_board(tokens)

    @property
    def token_table(self) -> np.ndarray:
        return to_numpy(self.transformer.ps_token_embedding.weight)

    @property
    def position_table(self) -> np.ndarray:
        return to_numpy(self.transformer.ps_pos_emb.weight)

    def _accuracy_result(self, scores, tested):
        return {f"{output}{name}": value for output, own in scores.items() for name, value in own.items()}

    def _subset_result(self, scores, tested):
        result = self._accuracy_result(scores, tested)
        return {name: value for name, value in result.items() if not name.endswith("breakdown")}

    @property
    def _stream_names(self) -> list[str]:
        """The activations of forward_activations_fromBoard and _fromSpeech."""
        return [*sum(self._stage_names, []), "z_out", "logit"]

    def forward_activations_fromBoard(self, boards, masks, verbose: bool = False) -> dict[str, np.ndarray]:
        """IN's activations on boards under masks (n, h, w), reading the blank sentence (pass 1):
        {b{i}_selfAttn, b{i}_crossAttn, b{i}_mlp: those sub-layers' additions to the stream; b{i}_out: block
        output; z_out: all (n, T, D); logit (n, T, V)}. verbose: print shares of right tokens and boards."""
        boards, masks = self.given(boards, masks)
        acts = self.recorded(boards, masks, names=self._stream_names)
        if verbose:
            evaluation.report(acts["logit"].argmax(-1), boards)
        return acts

    def forward_activations_fromSpeech(self, sentences, boards=None) -> dict[str, np.ndarray]:
        """The same activations of IN reading sentences, word indices (n, S) or one-hot (n, S, K), and a board
        whose cells are all hidden (pass 3). boards (n, h, w): what the sentences describe, to print the
        shares of right tokens and boards."""
        words = self._words(sentences)
        boards = None if boards is None else self.given(boards)[0]
        if boards is not None and len(boards) != len(words):
            raise ValueError(f"boards must be as many as sentences, {len(words)}, not {len(boards)}.")
        with evaluation.evaluating(self.transformer), self.record(self._stream_names) as acts:
            self.transformer.predict_from_speech(words)
        acts = {name: to_numpy(act) for name, act in acts.items()}
        if boards is not None:
            evaluation.report(acts["logit"].argmax(-1), boards)
        return acts

    # sentences

    def _words(self, sentences) -> torch.Tensor:
        """Sentences (B, S) or one-hot (B, S, K) as word indices (B, S) on the device."""
        words = self.block_speech_size * self.vq_groups
        return word_indices(sentences, words, self.vocab_speech_size, self.device)

    def speaker_predict(self, boards, masks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boards under masks (n, h, w) -> boards rebuilt from the picture (n, h, w), boards rebuilt from the
        sentence (n, h, w), the sentence one-hot (n, S, K)."""
        boards, masks = self.given(boards, masks)
        with evaluation.evaluating(self.transformer):
            passes = map(self.transformer, self.masked_batches(boards, masks))
            answers = [[x.cpu().numpy() for x in (picture.argmax(-1), speech.argmax(-1), words)]
                       for picture, speech, _, words in passes]
        picture, speech, words = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return picture.reshape(boards.shape), speech.reshape(boards.shape), words

    def speaker_sentence(self, boards, masks) -> np.ndarray:
        """Boards under masks (n, h, w) -> the sentence about each, word indices (n, S), in half the time of
        `speaker_predict`, as nothing is rebuilt."""
        boards, masks = self.given(boards, masks)
        with evaluation.evaluating(self.transformer):
            return np.concatenate([self.transformer.predict_sentence(tokens).cpu().numpy()
                                   for tokens in self.masked_batches(boards, masks)])

    def speaker_predict_from_speech(self, sentences) -> np.ndarray:
        """Sentences, word indices (B, S) or one-hot (B, S, K) -> boards (B, h, w) rebuilt from them alone."""
        words, side = self._words(sentences), self.dataset.board_dim
        with evaluation.evaluating(self.transformer):
            logits = self.transformer.predict_from_speech(words)
        return logits.argmax(-1).cpu().numpy().reshape(-1, side, side)

    def test_sentences(self, target_set: str = "test", count_max: int | None = 100) -> dict[str, float]:
        """What the sentences encode of unmasked boards of a split, at most count_max of each type.

        tokens, boards: shares right from the sentence alone; tokens_{type}, boards_{type} likewise; distinct:
        number of different sentences / number of different boards; bits: sum over places of the entropy of
        the word there; words: number of words in use; perplexity: 2 to the entropy of all words. ValueError
        for a split without boards. `sentences.sentence_scores`.
        """
        rng = numpy_rng(self.seed, module_train_probe.STREAM_TEST, self.epoch, 3)
        drawn = evaluation.boards_of_split(self.dataset, target_set, count_max, rng)
        _, rebuilt, words = self.speaker_predict(drawn.boards, np.zeros_like(drawn.boards))
        return sentence_scores(drawn.boards, rebuilt, words, drawn.types)
