"""The same model in PyTorch eager: what people use today. Weights come from `workloads.weights`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from workloads import Config


class TorchGPT:
    """Functional GPT over a dict of tensors."""

    def __init__(self, c: Config, weights: dict[str, np.ndarray], train: bool = False):
        self.c = c
        self.w = {k: torch.tensor(v, requires_grad=train) for k, v in weights.items()}

    def block(self, x: torch.Tensor, i: int, cache: list | None) -> torch.Tensor:
        """One transformer block; `cache` holds this layer's keys and values and grows."""
        w, c = self.w, self.c
        batch, length, width = x.shape
        n = f"h.{i}."
        y = F.layer_norm(x, (width,), w[n + "ln_1.weight"], w[n + "ln_1.bias"])
        qkv = F.linear(y, w[n + "attn.c_attn.weight"], w[n + "attn.c_attn.bias"])
        q, k, v = (
            z.view(batch, length, c.heads, width // c.heads).transpose(1, 2)
            for z in qkv.split(width, -1)
        )
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
            cache[:] = [k, v]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1)
        y = y.transpose(1, 2).reshape(batch, length, width)
        x = x + F.linear(y, w[n + "attn.c_proj.weight"], w[n + "attn.c_proj.bias"])
        y = F.layer_norm(x, (width,), w[n + "ln_2.weight"], w[n + "ln_2.bias"])
        y = F.gelu(
            F.linear(y, w[n + "mlp.c_fc.weight"], w[n + "mlp.c_fc.bias"]), approximate="tanh"
        )
        return x + F.linear(y, w[n + "mlp.c_proj.weight"], w[n + "mlp.c_proj.bias"])

    def hidden(self, ids: torch.Tensor, start: int = 0, caches: list | None = None) -> torch.Tensor:
        """Hidden states after the final norm."""
        w = self.w
        x = F.embedding(ids, w["wte.weight"]) + w["wpe.weight"][start : start + ids.shape[1]]
        for i in range(self.c.layers):
            x = self.block(x, i, None if caches is None else caches[i])
        return F.layer_norm(x, x.shape[-1:], w["ln_f.weight"], w["ln_f.bias"])

    def last_logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of the last position."""
        return F.linear(self.hidden(ids)[:, -1], self.w["wte.weight"])

    def decode(self, ids: torch.Tensor, new: int) -> tuple[list, torch.Tensor]:
        """Prefill; gives the caches and the first token. `steps` continues."""
        caches: list = [[] for _ in range(self.c.layers)]
        x = self.hidden(ids, 0, caches)[:, -1]
        return caches, F.linear(x, self.w["wte.weight"]).argmax(-1)

    def steps(self, caches: list, token: torch.Tensor, start: int, count: int) -> list[int]:
        """Greedy tokens, one at a time, with the cache."""
        out = [int(token)]
        for position in range(start, start + count):
            x = self.hidden(token[:, None], position, caches)[:, -1]
            token = F.linear(x, self.w["wte.weight"]).argmax(-1)
            out.append(int(token))
        return out

    def loss(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy of all positions."""
        logits = F.linear(self.hidden(ids), self.w["wte.weight"])
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten().long())
