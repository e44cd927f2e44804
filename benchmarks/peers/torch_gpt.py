"""The model in PyTorch, as modules whose state dict has the names of `workloads.weights`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from workloads import BETAS, DECAY, EPS, RATE, Config

Caches = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values [1, H, S, D] of each layer


class Attention(nn.Module):
    """Causal self-attention; `forward` alone, `grown` and `at` with a cache."""

    def __init__(self, c: Config):
        super().__init__()
        self.heads = c.heads
        self.c_attn = nn.Linear(c.width, 3 * c.width)
        self.c_proj = nn.Linear(c.width, c.width)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values [B, H, T, D]."""
        batch, length, width = x.shape
        shape = batch, length, self.heads, width // self.heads
        q, k, v = (z.view(shape).transpose(1, 2) for z in self.c_attn(x).split(width, -1))
        return q, k, v

    def merged(self, y: torch.Tensor) -> torch.Tensor:
        """Heads beside each other, and projected."""
        return self.c_proj(y.transpose(1, 2).flatten(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The whole sequence."""
        return self.merged(F.scaled_dot_product_attention(*self.split(x), is_causal=True))

    def grown(self, x: torch.Tensor, cache: list[torch.Tensor]) -> torch.Tensor:
        """With a cache that grows by concatenation, as most code has it."""
        q, k, v = self.split(x)
        if cache:
            k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
        cache[:] = [k, v]
        return self.merged(F.scaled_dot_product_attention(q, k, v, is_causal=x.shape[1] > 1))

    def at(
        self, x: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor], places: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """With a cache of fixed size, in which `places` are written."""
        q, k, v = self.split(x)
        cache[0].index_copy_(2, places, k)
        cache[1].index_copy_(2, places, v)
        return self.merged(F.scaled_dot_product_attention(q, *cache, attn_mask=mask))


class MLP(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, c: Config):
        super().__init__()
        self.c_fc = nn.Linear(c.width, 4 * c.width)
        self.c_proj = nn.Linear(4 * c.width, c.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., W] to [..., W]."""
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm; `attend` names the method of `Attention`, whose other operands follow."""

    def __init__(self, c: Config):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(c.width), Attention(c)
        self.ln_2, self.mlp = nn.LayerNorm(c.width), MLP(c)

    def forward(self, x: torch.Tensor, attend: str = "forward", *others: object) -> torch.Tensor:
        """[B, T, W] to [B, T, W]."""
        x = x + getattr(self.attn, attend)(self.ln_1(x), *others)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2."""

    def __init__(self, c: Config, weights: dict[str, np.ndarray]):
        super().__init__()
        with torch.device("meta"):
            self.wte = nn.Embedding(c.vocab, c.width)
            self.wpe = nn.Embedding(c.context, c.width)
            self.h = nn.ModuleList(Block(c) for _ in range(c.layers))
            self.ln_f = nn.LayerNorm(c.width)
        self.c = c
        self.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, assign=True)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of hidden states."""
        return F.linear(self.ln_f(x), self.wte.weight)

    def embedded(self, ids: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Tokens and positions."""
        return self.wte(ids) + self.wpe.weight[start : start + ids.shape[1]]

    def last_logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of the last position."""
        x = self.embedded(ids)
        for block in self.h:
            x = block(x)
        return self.head(x[:, -1])

    def loss(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy of all positions."""
        x = self.embedded(ids)
        for block in self.h:
            x = block(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())

    def grown(self, ids: torch.Tensor, start: int, caches: list[list]) -> torch.Tensor:
        """The token after `ids`; the caches grow."""
        x = self.embedded(ids, start)
        for block, cache in zip(self.h, caches, strict=True):
            x = block(x, "grown", cache)
        return self.head(x[:, -1]).argmax(-1, keepdim=True)

    def at(self, ids: torch.Tensor, places: torch.Tensor, caches: Caches) -> torch.Tensor:
        """The token after `ids`, which are at `places`; caches have a fixed size."""
        x = self.wte(ids) + self.wpe(places)
        mask = torch.arange(caches[0][0].shape[2]) <= places[:, None]
        for block, cache in zip(self.h, caches, strict=True):
            x = block(x, "at", cache, places, mask)
        return self.head(x[:, -1]).argmax(-1, keepdim=True)

    def caches(self, size: int) -> Caches:
        """Zeros for `size` positions, in the dtype of the weights."""
        shape = 1, self.c.heads, size, self.c.width // self.c.heads
        make = lambda: torch.zeros(shape, dtype=self.wte.weight.dtype)  # noqa: E731
        return [(make(), make()) for _ in range(self.c.layers)]


def optimizer_of(model: GPT) -> torch.optim.AdamW:
    """AdamW in one pass over memory (`fused`); only matrices decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPS, fused=True)
