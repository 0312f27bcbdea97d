"""LEA's three passes written plainly: float64, explicit attention, every board's own computation.

The yardstick for LEA, as plain_float64.py is for the factorised transformer. `train_step()` makes the
function of one training step on 64 random boards at the default sizes.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class PlainAttention(nn.Module):
    def __init__(self, width, dim, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, x, z):
        B, T, S = len(x), x.shape[1], z.shape[1]
        q = self.query(x).view(B, T, self.heads, -1).transpose(1, 2)
        k, v = (f(z).view(B, S, self.heads, -1).transpose(1, 2) for f in (self.key, self.value))
        weights = F.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(B, T, -1))


class PlainBlock(nn.Module):
    def __init__(self, dim, pos, heads):
        super().__init__()
        width = dim + pos
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.self_attention, self.cross_attention = (PlainAttention(width, dim, heads) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x, p, z, pz):
        xp = self.norms[0](torch.cat((x, p), dim=2))
        x = x + self.self_attention(xp, xp)
        x = x + self.cross_attention(
            self.norms[1](torch.cat((x, p), dim=2)), self.norms[2](torch.cat((z, pz), dim=2))
        )
        return x + self.mlp(self.norms[3](torch.cat((x, p), dim=2)))


class PlainLEA(nn.Module):
    def __init__(self, vocab=21, tokens=64, layers=3, dim=32, pos=16, heads=2, words=128, places=16):
        super().__init__()
        self.embed, self.ps_pos = nn.Embedding(vocab, dim), nn.Embedding(tokens, pos)
        self.ps = nn.ModuleList(PlainBlock(dim, pos, heads) for _ in range(layers))
        self.ss = nn.ModuleList(PlainBlock(dim, pos, heads) for _ in range(layers))
        self.ss_init, self.ss_pos = nn.Embedding(places, dim), nn.Embedding(places, pos)
        self.ps_norm, self.ss_norm, self.head = (
            nn.LayerNorm(dim),
            nn.LayerNorm(dim),
            nn.Linear(dim, vocab, bias=False),
        )
        self.register_buffer("codebook", torch.randn(words, dim))
        self.register_buffer("counts", torch.ones(words))
        self.register_buffer("sums", self.codebook.clone())

    def picture(self, idx, sentence):
        x, p, pz = (self.embed(idx), *(e.weight.expand(len(idx), -1, -1) for e in (self.ps_pos, self.ss_pos)))
        for block in self.ps:
            x = block(x, p, sentence, pz)
        state = self.ps_norm(x)
        return self.head(state), state

    def speak(self, state):
        x, p, pz = (e.weight.expand(len(state), -1, -1) for e in (self.ss_init, self.ss_pos, self.ps_pos))
        for block in self.ss:
            x = block(x, p, state, pz)
        return self.ss_norm(x)

    def forward(self, idx):
        blank = self.codebook[-1].expand(len(idx), self.ss_init.num_embeddings, -1)
        logits, state = self.picture(idx, blank)
        said = self.speak(state)
        flat = said.detach().flatten(0, 1)
        words = F.one_hot(torch.cdist(flat, self.codebook).argmin(1), len(self.codebook)).to(said.dtype)
        quantised = (words @ self.codebook).view_as(said)
        loss = 0.25 * F.mse_loss(said, quantised)
        with torch.no_grad():
            self.counts.mul_(0.99).add_(words.sum(0), alpha=0.01)
            self.sums.mul_(0.99).add_(words.T @ flat, alpha=0.01)
            self.codebook = torch.where(
                words.sum(0)[:, None] > 0, self.sums / self.counts[:, None], self.codebook
            )
        quantised = said + (quantised - said).detach()
        logits2, _ = self.picture(torch.full_like(idx, 20), quantised)
        return logits, logits2, loss


def train_step():
    """A function that takes one float64 training step on 64 random boards."""
    net = PlainLEA().double()
    optim = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.95))
    boards = torch.randint(0, 20, (64, 64))

    def step():
        optim.zero_grad()
        logits, logits2, loss = net(boards)
        for made in (logits, logits2):
            loss = loss + F.cross_entropy(made.flatten(0, 1), boards.flatten())
        loss.backward()
        optim.step()

    return step
