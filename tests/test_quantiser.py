"""The two vector quantisers against arithmetic written here."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_networks import LEA_CLASSES as CLASSES
from plain_networks import boards, close
from plain_networks import small_lea as small

from module_transformer_lea import VQ_EXPIRE, VectorQuantizer, VectorQuantizerEMA


def quantiser(cls=VectorQuantizerEMA, K=5, D=3, **more):
    made = cls(K, D, 0.25, 0.25, seed=0, **more).double()
    return made, torch.randn(4, 6, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cls", [VectorQuantizer, VectorQuantizerEMA])
def test_nearest_words_and_loss(cls):
    vq, x = quantiser(cls)
    words = vq._embedding.weight.detach().numpy().copy()
    quantised, loss, encodings, indices = vq.eval()(x)
    flat, counts, error = x.numpy().reshape(-1, 3), np.zeros(5), 0.0
    for vector, index in zip(flat, indices.flatten().tolist(), strict=True):
        distances = [math.dist(vector, word) for word in words]
        assert index == distances.index(min(distances))
        counts[index] += 1
        error += min(distances) ** 2 / flat.size
    usage = sum((c / len(flat) - 1 / 5) ** 2 for c in counts) / 5
    factor = 0.25 if cls is VectorQuantizerEMA else 1.25
    assert loss.item() == pytest.approx(factor * error + 0.25 * usage, rel=1e-12)
    assert encodings.shape == (4, 6, 5)
    assert encodings.dtype == x.dtype
    assert torch.equal(encodings, F.one_hot(indices, 5).double())
    close(quantised, words[indices], atol=1e-14)
    assert torch.equal(vq.get_codebook_entries(indices), torch.tensor(words[indices]))
    assert torch.equal(vq.get_codebook_entries(torch.tensor(3)), torch.tensor(words[3]))


@pytest.mark.parametrize("cls", [VectorQuantizer, VectorQuantizerEMA])
def test_words_are_their_own_nearest(cls):
    vq, _ = quantiser(cls, K=40)
    indices = torch.randperm(40, generator=torch.Generator().manual_seed(0)).view(4, 10)
    assert torch.equal(vq.eval()(vq.get_codebook_entries(indices))[3], indices)


@pytest.mark.parametrize("cls", [VectorQuantizer, VectorQuantizerEMA])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gradient_passes_straight_through(cls, mode):
    vq, x = quantiser(cls)
    getattr(vq, mode)()
    words = vq._embedding.weight.detach().clone()
    x.requires_grad_()
    quantised, loss, _, indices = vq(x)
    weights = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    assert torch.equal(torch.autograd.grad((quantised * weights).sum(), x, retain_graph=True)[0], weights)
    loss.backward()
    close(x.grad, 0.25 * 2 * (x - words[indices]) / x.numel(), atol=1e-14)
    if cls is VectorQuantizer:
        wanted = torch.zeros_like(words)
        for vector, index in zip(x.detach().flatten(0, 1), indices.flatten(), strict=True):
            wanted[index] += 2 * (words[index] - vector) / x.numel()
        close(vq._embedding.weight.grad, wanted, atol=1e-14)


@pytest.mark.parametrize("cls", [VectorQuantizer, VectorQuantizerEMA])
def test_words_in_groups_are_those_of_the_parts_of_vectors(cls):
    """Groups of a vector are quantised as that many short vectors are, in training and k-means too."""
    grouped, x = quantiser(cls, D=6, groups=2)
    plain, _ = quantiser(cls, D=3)
    parts = x.reshape(4, 12, 3)
    assert torch.equal(grouped._embedding.weight, plain._embedding.weight)

    def compare():
        quantised, *rest = grouped(x)
        wanted, *others = plain(parts)
        assert torch.equal(quantised, wanted.reshape(x.shape))
        assert [tuple(t.shape) for t in rest] == [(), (4, 12, 5), (4, 12)]
        for ours, theirs in zip(rest, others, strict=True):
            assert torch.equal(ours, theirs)
        if not grouped.training:  # in training the words have moved since
            close(grouped.get_codebook_entries(rest[2]), quantised.detach(), atol=1e-14)
        for ours, theirs in zip(grouped.state_dict().values(), plain.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)

    for mode in ("eval", "train", "eval"):
        getattr(grouped, mode)(), getattr(plain, mode)()
        compare()
    for vq, vectors, count in ((grouped, x, 24), (plain, parts, 48)):
        vq.start_from_(vectors.flatten(0, 1), count, torch.Generator().manual_seed(3))
    compare()
    assert not torch.equal(grouped._embedding.weight[0], quantiser(cls, D=3)[0]._embedding.weight[0])
    with pytest.raises(ValueError, match="groups must divide embedding_dim = 6, not 4"):
        cls(5, 6, groups=4)
    with pytest.raises(ValueError, match=r"x must have shape \(B, S, 6\)"):
        grouped(parts)


def test_the_moving_average_codebook_is_no_parameter():
    vq, _ = quantiser()
    assert list(vq.parameters()) == []
    assert set(vq.state_dict()) == {"_ema_cluster_size", "_ema_w", "_embedding.weight"}
    assert set(dict(quantiser(VectorQuantizer)[0].named_parameters())) == {"_embedding.weight"}


def ema_by_hand(vq, x, expire=0.0):
    """(n, m, words, idle) that one training batch should leave, before idle words are replaced."""
    n, m, words = (t.numpy().copy() for t in (vq._ema_cluster_size, vq._ema_w, vq._embedding.weight))
    K, flat = len(n), x.detach().numpy().reshape(-1, words.shape[1])
    nearest = [int(np.argmin([math.dist(v, w) for w in words])) for v in flat]
    for k in range(K):
        mine = [v for v, index in zip(flat, nearest, strict=True) if index == k]
        n[k] = vq.decay * n[k] + (1 - vq.decay) * len(mine)
        m[k] = vq.decay * m[k] + (1 - vq.decay) * sum(mine, np.zeros(words.shape[1]))
    for k in set(nearest):
        words[k] = m[k] / ((n[k] + vq.epsilon) / (n.sum() + K * vq.epsilon) * n.sum())
    return n, m, words, np.flatnonzero(n < min(expire * len(flat) / K, max(expire, 0.5) * n.mean()))


@pytest.mark.parametrize("decay", [0.99, 0.5])
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_moving_averages_by_hand(decay, epsilon):
    vq, x = quantiser(K=9, decay=decay, epsilon=epsilon, expire=0)
    assert torch.equal(vq._ema_cluster_size, torch.ones(9, dtype=torch.float64))
    assert torch.equal(vq._ema_w, vq._embedding.weight)
    for step in range(4):
        wanted = ema_by_hand(vq, x + step)
        old = vq._embedding.weight.clone()
        indices = vq.train()(x + step)[3]
        for value, right in zip((vq._ema_cluster_size, vq._ema_w, vq._embedding.weight), wanted, strict=False):
            close(value, right, atol=1e-12)
        unused = np.setdiff1d(np.arange(9), indices.numpy())
        assert len(unused) > 0
        assert torch.equal(vq._embedding.weight[unused], old[unused])


def test_the_first_step_moves_words_a_little():
    vq, x = quantiser(K=50)
    old = vq._embedding.weight.clone()
    vq.train()(x)
    moved = (vq._embedding.weight - old).norm(dim=1)
    assert moved.max() < 0.2
    assert moved.max() > 0


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("vq_type", ["EMA", "vanilla"])
def test_eval_mode_leaves_every_bit(kind, vq_type):
    network = small(kind, vq_type=vq_type).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = network(boards(network))
    first[1].sum().backward()
    second = network(boards(network))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert network.ps_token_embedding.weight.grad.abs().sum() > 0


# expiry


def test_idle_words_become_vectors_of_the_batch():
    replaced = 0
    for seed in range(6):
        vq, _ = quantiser(K=8, expire=0.5)
        twin, _ = quantiser(K=8, expire=0)
        x = torch.randn(2, 16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        counts = 4 * torch.rand(8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 50))
        for one in (vq, twin):
            one._ema_w.mul_((counts / one._ema_cluster_size)[:, None])
            one._ema_cluster_size.copy_(counts)
            one.noise.reseed(seed)
        idle = ema_by_hand(vq, x, 0.5)[3].tolist()
        vq.train()(x), twin.train()(x)
        flat, expected = x.flatten(0, 1), 32 / 8
        for k in range(8):
            n, m, word = vq._ema_cluster_size[k], vq._ema_w[k], vq._embedding.weight[k]
            if k in idle:
                replaced += 1
                assert (flat == word).all(1).any()
                assert n == expected
                close(m / n, word, atol=1e-14)
            else:
                assert n == twin._ema_cluster_size[k]
                assert torch.equal(m, twin._ema_w[k])
                assert torch.equal(word, twin._embedding.weight[k])
    assert 5 < replaced < 43


def test_expiry_is_seeded():
    def run(seed):
        vq, x = quantiser(K=30, expire=0.9)
        vq.noise.reseed(seed)
        for step in range(150):
            vq.train()(x + 0.01 * step)
        return vq._embedding.weight

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize("kind", CLASSES)
def test_the_blank_word_never_expires(kind):
    def far_blank(blank):
        network = small(kind, bool_blank_speech=blank, vq_expire=0.9)
        vq = network.ss_vector_quantizer
        with torch.no_grad():
            vq._embedding.weight[-1] = 100
        vq._ema_cluster_size.fill_(0.01)
        network.train()(boards(network))
        return vq._embedding.weight

    assert (far_blank(False)[-1] == 100).all()
    assert far_blank(False)[:-1].abs().max() < 50
    assert (far_blank(True)[-1].abs() < 50).all()


@pytest.mark.parametrize("expire", [0, VQ_EXPIRE, 0.5])
@pytest.mark.parametrize("scale", [0.02, 1, 30])
def test_the_codebook_stays_finite_and_of_its_inputs_scale(expire, scale):
    vq = VectorQuantizerEMA(64, 4, 0.25, 0.25, expire=expire, seed=0).train()
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(10, 4, generator=generator)
    longest = max(vq._embedding.weight.norm(dim=1).max().item(), 0)
    for step in range(400):
        x = scale * directions[torch.randint(1 + step // 40, (8, 16), generator=generator)]
        x = x + 0.1 * scale * torch.randn(x.shape, generator=generator)
        vq(x)
        longest = max(longest, x.norm(dim=-1).max().item())
        assert vq._embedding.weight.isfinite().all()
        assert vq._embedding.weight.norm(dim=1).max() < 1.5 * longest
    for value in vq.state_dict().values():
        assert value.isfinite().all()
    if expire:
        norms = vq._embedding.weight.norm(dim=1)
        assert norms.max() < 3 * scale * directions.norm(dim=1).max()


def test_words_come_into_use():
    generator = torch.Generator().manual_seed(0)
    x = 5 + torch.randn(20, 8, 16, 4, generator=generator)
    used = {}
    for expire in (0, VQ_EXPIRE):
        vq = VectorQuantizerEMA(32, 4, 0.25, 0.25, expire=expire, seed=0).train()
        for step in range(400):
            indices = vq(x[step % 20])[3]
        used[expire] = len(indices.unique())
    assert used[0] < 12
    assert used[VQ_EXPIRE] > 24


def test_a_quantiser_alone_starts_at_standard_normal_words():
    for cls in (VectorQuantizer, VectorQuantizerEMA):
        words = cls(200, 50, 0.25, 0.25).state_dict()["_embedding.weight"]
        assert words.std().item() == pytest.approx(1, abs=0.05)
        assert abs(words.mean().item()) < 0.05
    vq = VectorQuantizerEMA(4, 3, 0.25, 0.25)
    assert (vq.decay, vq.epsilon) == (0.99, 1e-5)
    assert vq.expire > 0


@pytest.mark.parametrize(("name", "value", "error"), [
    ("decay", 2, ValueError), ("decay", -1, ValueError), ("decay", None, TypeError), ("epsilon", -1, ValueError),
    ("epsilon", "x", TypeError), ("expire", -1, ValueError), ("expire", math.nan, ValueError), ("expire", "x", TypeError),
    ("commitment_cost", -1, ValueError), ("commitment_cost", "x", TypeError), ("usage_cost", math.nan, ValueError),
    ("seed", -1, ValueError), ("seed", 0.5, TypeError),
])
def test_wrong_parameters_of_a_quantiser_are_named(name, value, error):
    for cls in (VectorQuantizerEMA, VectorQuantizer)[: 1 + (name in ("commitment_cost", "usage_cost", "seed"))]:
        with pytest.raises(error, match=f"^{name} must"):
            cls(3, 4, **{name: value})


@pytest.mark.parametrize("cls", [VectorQuantizer, VectorQuantizerEMA])
def test_vectors_of_another_length(cls):
    for x in (torch.zeros(2, 3, 5), torch.zeros(4)):
        with pytest.raises(ValueError, match="^x must have shape"):
            cls(3, 4)(x)


def test_with_expire_above_one_even_words_in_use_expire():
    vq = VectorQuantizerEMA(3, 4, expire=50, seed=0).train()
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    vq(x)
    assert (vq._embedding.weight[:, None] == x.flatten(0, 1)).all(-1).any(1).all()


@pytest.mark.parametrize("vectors", [64, 1024, 10**4])
def test_words_used_evenly_never_expire_however_many_vectors_a_batch_has(vectors):
    vq = VectorQuantizerEMA(32, 4, seed=0).train()
    words = vq._embedding.weight.clone()
    for _ in range(100):
        vq(words.repeat(vectors // 32, 1)[None])
    torch.testing.assert_close(vq._embedding.weight, words, atol=1e-4, rtol=1e-4)
