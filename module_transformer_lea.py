"""LEA, the language-enhanced architecture (arXiv 2312.05361): it rebuilds a board from a few discrete words.

Axis letters: B boards, T tokens of a board, S = block_speech_size words of a sentence, D = n_embd,
P = n_embd_pos, H = n_head, V = vocab_size, K = vocab_speech_size words of the codebook. G = vq_groups words
stand for each vector that ALN writes (1 in the paper): a sentence has S·G words, D / G wide.

Two networks around a codebook. The inference network IN (prefix ps_) reconstructs boards and reads a
sentence by cross-attention. The auxiliary language network ALN (prefix ss_) writes a sentence, S words of the
codebook, about IN's last hidden state.

Named activations of IN's block i, all (B, T, D) unless noted. ALN's are (B, S, D), have the prefix ss_, and
there is no logit among them:

    b{i}_selfAttn, b{i}_crossAttn, b{i}_mlp  what those sub-layers add to the stream
    b{i}_selfAttn_a, b{i}_crossAttn_a        attention weights (B, H, T, T) and (B, H, T, S)
    b{i}_selfAttn_v, b{i}_crossAttn_v        values, heads side by side, of the cross-attention (B, S, D)
    b{i}_selfAttn_attn_v, …crossAttn_attn_v  heads' outputs side by side, not projected
    b{i}_out, z_out, logit                   block output; last LayerNorm's output; logits (B, T, V)

`recording` and `editing` (parts/probing/sites.py) take these names. `LEA.forward` runs IN twice, on the board
and on the sentence: an edit of an activation of IN is then made in both passes, and a recording joins both
along the batch, the board's pass first. `predict_from_board` and `predict_from_speech` run IN once.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from module_transformer_factor import (
    INIT_STD,
    MLP,
    Attention,
    Dropout,
    Embedding,
    Linear,
    Noise,
    Site,
    embedded,
    init_weights,
    linear_weights,
    named_sites,
)
from parts.checks import check_numbers, check_sizes, check_tokens
from parts.training.distributed import rank_and_world, sum_over_processes_
from utils import check_number, checked_seed, shown, torch_rng

VQ_EXPIRE = 1 / 16
COMMITMENT_COST = USAGE_COST = 0.25


class VectorQuantizer(nn.Module):
    """Replaces vectors by the nearest of K code words (Euclidean), with straight-through gradient.

    num_embeddings K, embedding_dim D of the vectors. groups G: a vector is cut into G parts, and each is
    replaced by a word of D / G numbers; all parts share the codebook (product quantisation, Jégou et al.
    2011). So G words stand for a vector, and K^G different vectors can be written.

    loss = mean((q - sg[x])²) + commitment_cost · mean((sg[q] - x)²) + usage_cost · mean over words of (share
    of words used - 1/K)², the last without gradient. The codebook learns by gradient, and eval mode passes
    gradients on too. seed: of the words, N(0, 1); None draws one. Distances are compared by expanded squares:
    in float32 vectors must not be much further from 0 than words are from each other. LEA's come from a
    LayerNorm and are not.

    passing: while true, vectors pass unchanged, without loss, and no word moves. keep_last: the last word
    stays when words are started from vectors or expire.
    """

    passing = keep_last = False

    def __init__(
        self, num_embeddings: int, embedding_dim: int, commitment_cost: float = COMMITMENT_COST,
        usage_cost: float = USAGE_COST, *, groups: int = 1, seed: int | None = None,
    ):
        super().__init__()
        check_sizes(num_embeddings=num_embeddings, embedding_dim=embedding_dim, groups=groups)
        check_numbers(None, commitment_cost=commitment_cost, usage_cost=usage_cost)
        if embedding_dim % groups:
            raise ValueError(f"groups must divide embedding_dim = {embedding_dim}, not {groups}.")
        self.commitment_cost, self.usage_cost, self.groups = commitment_cost, usage_cost, groups
        seed = checked_seed(seed)
        self.noise = Noise(seed)
        self._embedding = self._codebook(num_embeddings, embedding_dim // groups)
        self.register_buffer("_unstarted", None, persistent=False)
        self.register_load_state_dict_post_hook(VectorQuantizer._decide_passing)
        self.start_words_(torch.randn(num_embeddings, embedding_dim // groups, generator=torch_rng(seed)))

    def _codebook(self, num_embeddings: int, embedding_dim: int) -> nn.Module:
        return Embedding(num_embeddings, embedding_dim)

    @torch.no_grad()
    def start_words_(self, words: torch.Tensor) -> None:
        """Starts the codebook at words (K, D / G)."""
        self._embedding.weight.copy_(words)

    def await_start_(self) -> None:
        """Vectors pass until `passing` is set to False. The words of a state dict that is loaded later tell
        whether that had happened."""
        self.passing, self._unstarted = True, self._embedding.weight.detach().clone()
        self.start_words_(self._unstarted)

    def _decide_passing(self, _) -> None:
        if self._unstarted is not None:
            self.passing = self._awaits_start()

    def _awaits_start(self) -> bool:
        return torch.equal(self._embedding.weight[:-1], self._unstarted[:-1])  # the last may be the blank

    def start_from_(self, vectors: torch.Tensor, in_a_batch: int, generator: torch.Generator) -> None:
        """Starts the words at the centres of vectors (N, D), by k-means with that random generator.

        in_a_batch: number of vectors in a training batch.
        """
        parts = vectors.reshape(-1, self._embedding.weight.shape[1])
        last = self._embedding.weight[-1:].detach().clone() if self.keep_last else parts[:0]
        words = k_means(parts, len(self._embedding.weight) - len(last), generator)
        self.start_words_(torch.cat((words, last)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (B, S, D) -> quantised (B, S, D), loss (), encodings one-hot (B, S·G, K), indices (B, S·G), the G
        words of a vector side by side. ValueError if the vectors are not D long."""
        words = self._embedding.weight
        width = words.shape[1]
        if x.ndim < 2 or x.shape[-1] != width * self.groups:
            raise ValueError(f"x must have shape (B, S, {width * self.groups}), not {tuple(x.shape)}.")
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):  # bfloat16 would confuse near words
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x.to(words.dtype))
        flat = x.detach().reshape(-1, width)
        # the nearest word: |x - w|² without |x|², which is the same for all words
        indices = (words.square().sum(1) - 2 * flat @ words.T).argmin(1)
        indices = indices.view(*x.shape[:-2], x.shape[-2] * self.groups)
        encodings = F.one_hot(indices, len(words)).to(x.dtype)
        if self.passing:
            return x, x.new_zeros(()), encodings, indices
        quantised = self.get_codebook_entries(indices)
        counts = encodings.flatten(0, -2).sum(0)
        if self.training:
            sum_over_processes_(counts)
        usage = (counts / counts.sum() - 1 / len(words)).square().mean()
        loss = self._fit(quantised, x) + self.usage_cost * usage
        quantised = x + (quantised - x).detach()  # the value of a word, the gradient of x: straight through
        if self.training and len(flat):
            self._update_(flat, encodings.flatten(0, -2), counts)
        return quantised, loss, encodings, indices

    def _fit(self, quantised, x):
        return F.mse_loss(quantised, x.detach()) + self.commitment_cost * F.mse_loss(x, quantised.detach())

    def _update_(self, x: torch.Tensor, encodings: torch.Tensor, counts: torch.Tensor) -> None:
        """Updates the codebook after a training batch x (N, D), encodings (N, K), counts (K,) over all
        processes: here the optimiser does that."""

    def get_codebook_entries(self, indices: torch.Tensor) -> torch.Tensor:
        """Word indices (..., S·G) -> the vectors (..., S, D) that they stand for."""
        words = F.embedding(indices, self._embedding.weight)
        return words if self.groups == 1 else words.unflatten(-2, (-1, self.groups)).flatten(-2)


def k_means(vectors: torch.Tensor, k: int, generator: torch.Generator, rounds: int = 25) -> torch.Tensor:
    """Centres (k, D) of vectors (N, D) after some rounds of Lloyd's algorithm, starting at k of the vectors.

    A centre that is nearest to no vector moves to a vector drawn at random. generator: on the CPU.
    """

    def some(n: int) -> torch.Tensor:
        return vectors[torch.randint(len(vectors), (n,), generator=generator).to(vectors.device)]

    order = torch.randperm(len(vectors), generator=generator).to(vectors.device)[:k]
    centres = torch.cat((vectors[order], some(k - len(order))))
    for _ in range(rounds):
        nearest = torch.cdist(vectors, centres).argmin(1)
        member = F.one_hot(nearest, k).to(vectors.dtype)
        size = member.sum(0)[:, None]
        centres = torch.where(size > 0, member.T @ vectors / size.clamp_min(1), some(k))
    return centres


class Codebook(nn.Module):
    """Words (K, D) as a buffer, so that no optimiser sees them."""

    def __init__(self, num_embeddings: int, embedding_dim: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_embeddings, embedding_dim))


class VectorQuantizerEMA(VectorQuantizer):
    """VectorQuantizer whose words are moving averages of the vectors that were assigned to them.

    loss = commitment_cost · mean((sg[q] - x)²) + usage_cost · usage. In training, after quantising: n ←
    decay·n + (1 - decay)·counts, m ← decay·m + (1 - decay)·Σ of the vectors assigned, and a word used in the
    batch becomes m / n̂ with n̂ = (n + ε) / (Σn + Kε) · Σn. Counts start at 1 and sums at the words.

    expire: a word is replaced by a vector of the batch, with the count of an evenly used word, if its moving
    count falls below expire × (vectors in the batch / K) and below max(expire, 1/2) × the words' mean count;
    0 switches this off. If the attribute keep_last is set, the last word never expires.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, commitment_cost: float = COMMITMENT_COST,
        usage_cost: float = USAGE_COST, decay: float = 0.99, epsilon: float = 1e-5, expire: float = VQ_EXPIRE,
        *, groups: int = 1, seed: int | None = None,
    ):
        check_numbers(decay=decay)
        check_numbers(None, epsilon=epsilon, expire=expire)
        self.decay, self.epsilon, self.expire = decay, epsilon, expire
        super().__init__(num_embeddings, embedding_dim, commitment_cost, usage_cost, groups=groups, seed=seed)

    def _codebook(self, num_embeddings, embedding_dim):
        self.register_buffer("_ema_cluster_size", torch.ones(num_embeddings))
        self.register_buffer("_ema_w", torch.zeros(num_embeddings, embedding_dim))
        return Codebook(num_embeddings, embedding_dim)

    @torch.no_grad()
    def start_words_(self, words):
        super().start_words_(words)
        self._ema_w.copy_(words)
        self._ema_cluster_size.fill_(1)

    @torch.no_grad()
    def start_from_(self, vectors: torch.Tensor, in_a_batch: int, generator: torch.Generator) -> None:
        """As VectorQuantizer's; counts start at the count of an evenly used word."""
        super().start_from_(vectors, in_a_batch, generator)
        expected = in_a_batch * self.groups / len(self._embedding.weight)
        self._ema_w.mul_(expected)
        self._ema_cluster_size.fill_(expected)

    def _awaits_start(self):
        return bool((self._ema_cluster_size == 1).all())  # whatever the seed; each step moves the counts

    def _fit(self, quantised, x):
        return self.commitment_cost * F.mse_loss(x, quantised)

    @torch.no_grad()
    def _update_(self, x, encodings, counts):
        n, m, words = self._ema_cluster_size, self._ema_w, self._embedding.weight
        sums = encodings.T @ x
        sum_over_processes_(sums)
        n.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        m.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        total = n.sum()
        smooth = (n + self.epsilon) / (total + len(n) * self.epsilon) * total
        # a word that the batch did not use stays: m / n would drift as both shrink
        words.copy_(torch.where((counts > 0)[:, None], m / smooth[:, None], words))
        if self.expire > 0:
            self._expire_(x)

    def _expire_(self, x):
        """Replaces rarely used words by vectors of the batch x (N, D)."""
        n, m, words = self._ema_cluster_size, self._ema_w, self._embedding.weight
        expected = len(x) * rank_and_world()[1] / len(n)
        # the second condition: counts start at 1, so at first all of them are below a large batch's share
        idle = (n < self.expire * expected) & (n / n.mean() < max(float(self.expire), 0.5))
        if self.keep_last:
            idle[-1] = False
        fresh = x[self.noise.integers(len(x), len(n), x.device)]
        words.copy_(torch.where(idle[:, None], fresh, words))
        m.copy_(torch.where(idle[:, None], fresh * expected, m))
        n.masked_fill_(idle, expected)


def join(x: torch.Tensor, p: torch.Tensor | None) -> torch.Tensor:
    """[x, p] side by side, x (B, T, D) and p (T, P), or x alone if p is None."""
    return x if p is None else torch.cat((x, p.expand(x.shape[0], -1, -1)), dim=-1)


class LEABlock(nn.Module):
    """Self-attention, cross-attention and MLP, each residual, reading normalised [stream, position code]."""

    def __init__(self, width, n_embd, n_head, attn_pdrop, resid_pdrop, noise, name):
        super().__init__()
        self.ln_x_1, self.ln_x_2, self.ln_z, self.ln_mlp = (nn.LayerNorm(width) for _ in range(4))
        self.selfAttn, self.crossAttn = (
            Attention(width, n_embd, n_head, attn_pdrop, resid_pdrop, noise, f"{name}{kind}_")
            for kind in ("selfAttn", "crossAttn")
        )
        self.mlp = MLP(width, n_embd, resid_pdrop, noise)
        places = ("selfAttn", "crossAttn", "mlp", "out")
        self.sites = nn.ModuleDict({place: Site(name + place) for place in places})

    def forward(self, x, p, z, pz) -> torch.Tensor:
        """x (B or 1, T, D) with positions p reads z (B or 1, S, D) with positions pz -> (B or 1, T, D)."""
        at = self.sites
        x = x + at["selfAttn"](self.selfAttn(self.ln_x_1(join(x, p))))
        x = x + at["crossAttn"](self.crossAttn(self.ln_x_2(join(x, p)), read=self.ln_z(join(z, pz))))
        return at["out"](x + at["mlp"](self.mlp(self.ln_mlp(join(x, p)))))


class LEA(nn.Module):
    """Language-enhanced architecture; positions are added to the token embeddings once, at the input.

    Sizes as GPTFactor's, and vocab_speech_size K, block_speech_size S. n_unmasked is accepted and ignored.
    vq_type: 'EMA' or 'vanilla'. bool_blank_speech: IN's blank sentence is zeros, else the codebook's last
    word S times. vq_expire: see VectorQuantizerEMA. slot_heads: number of heads of ALN's cross-attention in
    which words compete for what they read (see Attention). vq_groups G: see VectorQuantizer. seed: of
    weights, dropout and expiry; None draws one. pos_width: for LEAFactor. ValueError for values that
    contradict each other.
    """

    apart = False  # whether sub-layers read stream and position code side by side

    def __init__(
        self, vocab_size: int, block_size: int, n_layer: int = 2, n_head: int = 4, n_embd: int = 64,
        embd_pdrop: float = 0.0, resid_pdrop: float = 0.0, attn_pdrop: float = 0.0, n_unmasked: int = 0,
        vocab_speech_size: int = 50, block_speech_size: int = 10, vq_type: str = "EMA",
        bool_blank_speech: bool = True, vq_expire: float = VQ_EXPIRE, slot_heads: int = 0,
        seed: int | None = None, *, vq_groups: int = 1, pos_width: int | None = None,
    ):
        super().__init__()
        P = pos_width if self.apart else n_embd
        check_sizes(vocab_size=vocab_size, block_size=block_size, n_layer=n_layer, n_head=n_head,
                    n_embd=n_embd, vocab_speech_size=vocab_speech_size, block_speech_size=block_speech_size,
                    n_embd_pos=P, vq_groups=vq_groups)
        if n_embd % vq_groups:
            raise ValueError(f"vq_groups must divide n_embd = {n_embd}, not {vq_groups}.")
        check_numbers(embd_pdrop=embd_pdrop, resid_pdrop=resid_pdrop, attn_pdrop=attn_pdrop)
        check_numbers(None, vq_expire=vq_expire)
        check_number("slot_heads", slot_heads, f"a whole number from 0 to n_head = {n_head}", 0, n_head)
        if vq_type not in ("EMA", "vanilla"):
            raise ValueError(f"vq_type must be EMA or vanilla, not {vq_type!r}.")
        if bool_blank_speech not in (True, False):
            raise TypeError(f"bool_blank_speech must be True or False, not {shown(bool_blank_speech)}.")
        seed = checked_seed(seed)
        self.unk, self.bool_blank_speech = vocab_size - 1, bool_blank_speech
        self.noise = Noise(seed)
        self.drop = Dropout(embd_pdrop, self.noise)
        self.has_dropout = max(embd_pdrop, resid_pdrop, attn_pdrop) > 0

        def blocks(stream: str) -> nn.ModuleList:
            width = n_embd + P * self.apart
            return nn.ModuleList(
                LEABlock(width, n_embd, n_head, attn_pdrop, resid_pdrop, self.noise, f"{stream}b{i}_")
                for i in range(n_layer)
            )

        self.ps_token_embedding, self.ps_pos_emb = Embedding(vocab_size, n_embd), Embedding(block_size, P)
        self.ps_blocks, self.ps_ln_out = blocks(""), nn.LayerNorm(n_embd)
        self.ps_head = Linear(n_embd, vocab_size, bias=False)
        self.ss_token_init = Embedding(block_speech_size, n_embd)
        self.ss_pos_emb = Embedding(block_speech_size, P)
        self.ss_blocks, self.ss_ln_out = blocks("ss_"), nn.LayerNorm(n_embd)
        for block in self.ss_blocks:
            block.crossAttn.slot_heads = slot_heads
        if vq_type == "EMA":
            quantiser = VectorQuantizerEMA(
                vocab_speech_size, n_embd, expire=vq_expire, groups=vq_groups, seed=seed)
        else:
            quantiser = VectorQuantizer(vocab_speech_size, n_embd, groups=vq_groups, seed=seed)
        quantiser.keep_last = not bool_blank_speech  # the last word is then the blank
        quantiser.noise = self.noise
        self.ss_vector_quantizer = quantiser
        self.out_sites = nn.ModuleDict({site: Site(site) for site in ("z_out", "logit", "ss_z_out")})
        self.sites = named_sites(self)
        init_weights(self, seed)
        words = torch.randn(vocab_speech_size, n_embd // vq_groups, generator=torch_rng(seed, 1))
        quantiser.start_words_(INIT_STD * words)

    # IN, the inference network

    def start(self, idx: torch.Tensor) -> torch.Tensor:
        """Tokens idx (B, T) -> the residual stream (B, T, D) that IN's first block reads."""
        x, _ = self._with_positions(embedded(self.ps_token_embedding, idx), self.ps_pos_emb)
        return self.drop(x)

    def run(
        self, x: torch.Tensor, first_block: int = 0, sentence: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The residual stream x (B, T, D) that IN's block first_block reads -> the stream after the last.

        sentence: what IN reads, (B, S, D); None: the blank one. Of x and sentence one may have length 1 in
        place of B.
        """
        if sentence is None:  # a copy for each board: products of fewer rows may round otherwise
            sentence = self.blank().expand(x.shape[0], -1, -1)
        p = self.ps_pos_emb.weight if self.apart else None
        z, pz = self._with_positions(sentence, self.ss_pos_emb)
        for i in range(first_block, len(self.ps_blocks)):
            x = self.ps_blocks[i](x, p, z, pz)
        return x

    def read_out(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, V) of a residual stream x (B, T, D) of IN, by its last LayerNorm and head."""
        return self._logits(self._state(x))

    def infer(self, idx: torch.Tensor, sentence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """IN: tokens (B or 1, T), a sentence (B or 1, S, D) -> logits (B, T, V), last hidden state (B, T, D).

        What is the same for the whole batch comes with length 1 and is computed once, unless dropout or a
        hook (an edit, a recording) wants every board's own.
        """
        check_tokens("idx", idx, self.ps_pos_emb.num_embeddings)
        n = idx.shape[0] if sentence.shape[0] == 1 else sentence.shape[0]
        if (self.training and self.has_dropout) or any(site.watched for site in self.sites.values()):
            idx, sentence = idx.expand(n, -1), sentence.expand(n, -1, -1)
        state = self._state(self.run(self.start(idx), sentence=sentence))
        return self._logits(state), state

    def _state(self, x):
        return self.out_sites["z_out"](self.ps_ln_out(x))

    def _logits(self, state):
        return self.out_sites["logit"](self.ps_head(state))

    def blank(self) -> torch.Tensor:
        """The sentence without content, (1, S, D), that IN reads with a board."""
        last = self.ss_vector_quantizer._embedding.weight[-1]
        shape = (1, *self.ss_token_init.weight.shape)
        if self.bool_blank_speech:
            return last.new_zeros(shape)
        return last.repeat(self.ss_vector_quantizer.groups).expand(shape)

    def hidden_board(self) -> torch.Tensor:
        """A board with every cell hidden, (1, T)."""
        return torch.full((1, self.ps_pos_emb.num_embeddings), self.unk, device=self.ps_pos_emb.weight.device)

    # ALN, the language network, and both together

    def write(self, state: torch.Tensor) -> torch.Tensor:
        """ALN: IN's last hidden state (B, T, D) -> a sentence before quantisation, (B, S, D)."""
        tokens = self.ss_token_init.weight.expand(state.shape[0], -1, -1)
        x, p = self._with_positions(tokens, self.ss_pos_emb)
        pz = self.ps_pos_emb.weight if self.apart else None  # added ones are in the state already
        for block in self.ss_blocks:
            x = block(x, p, state, pz)
        return self.out_sites["ss_z_out"](self.ss_ln_out(x))

    def _with_positions(self, x, table):
        """A stream and its position code as blocks take them; None for a code that has been added."""
        return (x, table.weight) if self.apart else (x + table.weight, None)

    def forward(self, idx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boards (B, T) -> logits from the board (B, T, V), logits from its sentence (B, T, V), vq loss (),
        words one-hot (B, S·G, K)."""
        ps_logits, state = self.infer(idx, self.blank())
        sentence, vq_loss, encodings, _ = self.ss_vector_quantizer(self.write(state))
        ps2_logits, _ = self.infer(self.hidden_board(), sentence)
        return ps_logits, ps2_logits, vq_loss, encodings

    def predict_from_board(self, idx: torch.Tensor) -> torch.Tensor:
        """Boards (B, T) -> logits (B, T, V), IN reading the blank sentence."""
        return self.infer(idx, self.blank())[0]

    def predict_sentence(self, idx: torch.Tensor) -> torch.Tensor:
        """Boards (B, T) -> the sentences (B, S·G) that ALN writes about them, as word indices."""
        return self.ss_vector_quantizer(self.write(self.infer(idx, self.blank())[1]))[3]

    def predict_from_speech(self, sentences: torch.Tensor) -> torch.Tensor:
        """Word indices (B, S·G) -> logits (B, T, V) for a board with every cell hidden. ValueError for a
        wrong shape or a word that is not in the codebook."""
        quantiser, K = self.ss_vector_quantizer, len(self.ss_vector_quantizer._embedding.weight)
        check_tokens("sentences", sentences, self.ss_token_init.num_embeddings * quantiser.groups)
        low, high = map(int, sentences.aminmax()) if sentences.numel() else (0, 0)
        if low < 0 or high >= K:
            wrong = low if low < 0 else high
            raise ValueError(f"sentences must hold word indices from 0 to {K - 1}, not {wrong}.")
        return self.infer(self.hidden_board(), quantiser.get_codebook_entries(sentences))[0]

    def block_matrices(self) -> list[nn.Parameter]:
        """The Linear weights of all blocks: what Muon takes."""
        return linear_weights(self.ps_blocks, self.ss_blocks)


class LEAFactor(LEA):
    """LEA with position codes, P = n_embd_pos wide, that stay apart: every sub-layer reads stream and code
    side by side."""

    apart = True

    def __init__(
        self, vocab_size: int, block_size: int, n_layer: int = 2, n_head: int = 4, n_embd: int = 64,
        n_embd_pos: int = 32, embd_pdrop: float = 0.0, resid_pdrop: float = 0.0, attn_pdrop: float = 0.0,
        n_unmasked: int = 0, vocab_speech_size: int = 50, block_speech_size: int = 10, vq_type: str = "EMA",
        bool_blank_speech: bool = True, vq_expire: float = VQ_EXPIRE, slot_heads: int = 0,
        seed: int | None = None, *, vq_groups: int = 1,
    ):
        super().__init__(
            vocab_size, block_size, n_layer, n_head, n_embd, embd_pdrop, resid_pdrop, attn_pdrop, n_unmasked,
            vocab_speech_size, block_speech_size, vq_type, bool_blank_speech, vq_expire, slot_heads, seed,
            vq_groups=vq_groups, pos_width=n_embd_pos,
        )
