"""One contestant in a process of its own: makes a workload ready, then runs it on request.

    python contestant.py NAME WORKLOAD CONFIG THREADS

Lines of JSON: the first one out is {"ready": seconds, "output": [...]}; each line in is a number of
seconds, answered by {"times": [...]}, the time of each run in it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np
from workloads import CONFIGS, Config, tokens, weights

Run = Callable[[], object]  # one run; returns what is compared with the float64 reference


def planish(workload: str, c: Config, threads: int) -> Run:
    """Our own."""
    import planish as pl
    from planish.frontend.generate import Generator
    from planish.frontend.sampling import Sampling

    model = pl.TinyGPT(
        vocab_size=c.vocab, embed_dim=c.width, num_layers=c.layers, num_heads=c.heads,
        max_seq_len=c.context, dropout=0.0,
    )  # fmt: skip
    model.load_state_dict(weights(c))
    if workload == "prefill":
        length = min(c.context, 256)
        program = pl.compile(model.last_logits, pl.spec((1, length), "i32"), threads=threads)
        bound = program.bind(tokens(c, 1, length))
        return lambda: bound.run()
    if workload == "decode":
        generator = Generator(model, threads=threads)

        def decode() -> object:
            pieces = generator.stream(tokens(c, 1, c.prompt), c.new, Sampling(0.0))
            made = [next(pieces)]  # the prompt's own token
            start = time.perf_counter()
            made += pieces
            return time.perf_counter() - start, np.concatenate(made, 1)

        return decode
    trainer = pl.Trainer(
        model, optimizer=pl.optim.AdamW(lr=1e-3), batch=c.batch, context=c.context, threads=threads
    )
    x, y = tokens(c, c.batch, c.context), tokens(c, c.batch, c.context, seed=2)
    return lambda: trainer.step(x, y)


def torch_eager(workload: str, c: Config, threads: int) -> Run:
    """PyTorch as most people run it."""
    import torch
    from torch_gpt import TorchGPT

    torch.set_num_threads(threads)
    model = TorchGPT(c, weights(c), train=workload == "train")
    if workload == "prefill":
        ids = torch.tensor(tokens(c, 1, min(c.context, 256)))

        def prefill() -> object:
            with torch.inference_mode():
                return model.last_logits(ids).numpy()

        return prefill
    if workload == "decode":
        ids = torch.tensor(tokens(c, 1, c.prompt))

        def decode() -> object:
            with torch.inference_mode():
                caches, token = model.decode(ids, c.new)
                start = time.perf_counter()
                made = model.steps(caches, token, c.prompt, c.new - 1)
                return time.perf_counter() - start, made

        return decode
    x = torch.tensor(tokens(c, c.batch, c.context))
    y = torch.tensor(tokens(c, c.batch, c.context, seed=2))
    optimizer = torch.optim.AdamW(model.w.values(), lr=1e-3)

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(model.w.values()), 1.0)
        optimizer.step()
        return float(loss)

    return step


CONTESTANTS = {"planish": planish, "torch": torch_eager}


def once(run: Run) -> tuple[float, object]:
    """The time of one run and its output; a run may time the part that counts itself."""
    start = time.perf_counter()
    output = run()
    took = time.perf_counter() - start
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], float):
        took, output = output
    return took, output


def main() -> None:
    """Serve turns until standard input ends."""
    name, workload, config, threads = sys.argv[1:5]
    start = time.perf_counter()
    run = CONTESTANTS[name](workload, CONFIGS[config], int(threads))
    _, output = once(run)
    ready = time.perf_counter() - start
    if isinstance(output, tuple):
        (output,) = output
    flat = np.asarray(output, np.float64).ravel().tolist()
    print(json.dumps({"ready": ready, "output": flat}), flush=True)
    for line in sys.stdin:
        until = time.perf_counter() + float(line)
        times = []
        while time.perf_counter() < until or not times:
            times.append(once(run)[0])
        print(json.dumps({"times": times}), flush=True)


if __name__ == "__main__":
    main()
