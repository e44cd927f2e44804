"""torch.compile: as it comes, with all that it has for inference, and with AMD's plugin.

`max` is max-autotune with freezing (weights become constants, packed for the kernels) and a wrapper
in C++ instead of Python; `zentorch` is the plugin of that name, and freezing. Decoding has caches
of fixed size, written in place, so that each step is the same graph; the position is a tensor.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable

import torch
import torch._dynamo
import torch._inductor.config as inductor
from peers.case import Case, Prepare, Run, Unsupported
from peers.torch_eager import model_for, prefill, train
from peers.torch_gpt import GPT

OPTIONS = {
    "default": {},
    "max": {"mode": "max-autotune-no-cudagraphs"},
    "zentorch": {"backend": "zentorch"},
}


def version() -> str:
    """Of PyTorch, or of the plugin that compiles for it."""
    return sys.modules.get("zentorch", torch).__version__


def contestant(case: Case, variant: str) -> Prepare:
    """Whole graphs; nothing falls back to eager."""
    case.need("prefill", "decode", "train")
    options = OPTIONS[variant]
    if options and case.workload == "train":
        raise Unsupported("freezing is for inference")
    if variant == "zentorch":
        importlib.import_module("zentorch")
        if case.dtype == "int8":
            raise Unsupported("compiled as float32 and bf16")
    model = model_for(case)
    inductor.freezing = bool(options)
    inductor.cpp_wrapper = variant == "max"

    def compiled(function: Callable) -> Callable:
        return torch.compile(function, fullgraph=True, dynamic=False, **options)

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
