"""PyTorch as most people run it: eager, on oneDNN and MKL.

int8 is its dynamic quantization of linear layers: weights of i8 with a scale for each channel,
activations with one for each tensor; what is float32 there stays so, the tied head among it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from peers.case import Case, Prepare, Run
from peers.torch_gpt import GPT, optimizer_of
from workloads import CLIP, batch

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def version() -> str:
    """Of PyTorch."""
    return torch.__version__


DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def model_for(case: Case) -> GPT:
    """The model: weights of bf16 for inference in bf16, float32 masters for training."""
    torch.set_num_threads(case.threads)
    model = GPT(case.c, case.weights)
    if case.workload == "train":
        return model
    model = model.eval().requires_grad_(False)
    if case.dtype == "int8":
        return quantized(model)
    return model.to(DTYPES[case.dtype])


def quantized(model: GPT) -> GPT:
    """Linear layers of int8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        kinds = {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
        return torch.ao.quantization.quantize_dynamic(model, kinds, dtype=torch.qint8)


def contestant(case: Case, variant: str) -> Prepare:
    """Eager."""
    inference = ("prefill", "first", "decode")
    if case.dtype == "int8":
        case.need(*inference, dtypes=("int8",))
    else:
        case.need(*inference, "train")
    model = model_for(case)
    if case.workload == "prefill":
        return lambda: prefill(case, model.last_logits)
    if case.workload == "first":
        return lambda: first(case, model)
    if case.workload == "decode":
        return lambda: decode(case, model)
    return lambda: train(case, model, model.loss)


def prefill(case: Case, last_logits: Callable[[torch.Tensor], torch.Tensor]) -> Run:
    """Logits of the last position."""
    ids = torch.tensor(case.ids).long()

    def run() -> object:
        with torch.inference_mode():
            return last_logits(ids).float().numpy()

    return run


def first(case: Case, model: GPT) -> Run:
    """The prompt's own token; caches are begun."""
    ids = torch.tensor(case.ids).long()

    def run() -> object:
        with torch.inference_mode():
            return [int(model.grown(ids, 0, [[] for _ in range(case.c.layers)]))]

    return run


def decode(case: Case, model: GPT) -> Run:
    """Greedy tokens, with caches that grow by concatenation."""
    ids = torch.tensor(case.ids).long()

    def run() -> object:
        with torch.inference_mode():
            caches: list[list] = [[] for _ in range(case.c.layers)]
            token = model.grown(ids, 0, caches)
            made = [int(token)]
            start = time.perf_counter()
            for place in range(case.c.prompt, case.c.prompt + case.steps):
                token = model.grown(token, place, caches)
                made.append(int(token))
            return time.perf_counter() - start, made

    return run


def train(case: Case, model: GPT, loss: Loss) -> Run:
    """Forward, backward, clipping, AdamW; in bf16 by autocast."""
    x, y = (torch.tensor(z).long() for z in batch(case.c))
    optimizer, parameters = optimizer_of(model), list(model.parameters())
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=case.dtype == "bf16")

    def run() -> object:
        optimizer.zero_grad(set_to_none=True)
        with mixed:
            value = loss(x, y)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        return value.item()

    return run
