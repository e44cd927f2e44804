"""torch.compile: as it comes, and with all that it has for inference.

`max` is max-autotune with freezing (weights become constants, packed for the kernels) and a wrapper
in C++ instead of Python. Decoding has caches of fixed size, written in place, so that each step is
the same graph; the position is a tensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch._dynamo
import torch._inductor.config as inductor
from peers.case import Case, Prepare, Run, Unsupported
from peers.torch_eager import model_for, prefill, train, version
from peers.torch_gpt import GPT

__all__ = ["contestant", "version"]


def contestant(case: Case, variant: str) -> Prepare:
    """Whole graphs; nothing falls back to eager."""
    case.need("prefill", "decode", "train")
    largest = variant == "max"
    if largest and case.workload == "train":
        raise Unsupported("freezing is for inference")
    model = model_for(case)
    if largest:
        inductor.freezing = True
        inductor.cpp_wrapper = True

    def compiled(function: Callable) -> Callable:
        mode = "max-autotune-no-cudagraphs" if largest else "default"
        return torch.compile(function, fullgraph=True, dynamic=False, mode=mode)

    if case.workload == "prefill":
        return lambda: prefill(case, compiled(model.last_logits))
    if case.workload == "decode":
        return lambda: decode(case, model, compiled(model.at))
    return lambda: train(case, model, compiled(model.loss))


def decode(case: Case, model: GPT, at: Callable) -> Run:
    """Greedy tokens; the prompt is read by the eager model."""
    ids = torch.tensor(case.ids).long()
    caches = model.caches(case.c.prompt + case.steps)

    def run() -> object:
        with torch.inference_mode():
            token = model.at(ids, torch.arange(case.c.prompt), caches)
            made = [int(token)]
            start = time.perf_counter()
            for place in range(case.c.prompt, case.c.prompt + case.steps):
                token = at(token, torch.tensor([place]), caches)
                made.append(int(token))
            return time.perf_counter() - start, made

    return run
