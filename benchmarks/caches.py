"""What caches of keys and values in INT8 cost and gain, while a text is read token by token.

    python benchmarks/caches.py MODEL --text tinyshakespeare.txt [--pipelines int8,int8_cache]
        [--pieces 32] [--threads 2]

Pieces of the last tenth of the text, each as long as the context, are read side by side: every
token is the next one of the text, whatever the model prefers, and all keys come from the caches.
`KL` is the mean divergence from the model as it is (O2), in nats; times are those of one text, at
a quarter of the context and at its end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from pruning import in_turns, note, split

import planish as pl
from planish.frontend.api import compiled
from planish.frontend.workloads import workload


def log_probabilities(
    model: pl.TinyGPT, pipeline: str, pieces: np.ndarray, threads: int | None
) -> tuple[np.ndarray, int]:
    """Of every token after each of the pieces' [B, T], by caches; and the bytes of those."""
    rows, length = pieces.shape
    specs = pl.spec((rows,), "i32"), pl.spec((rows,), "i32"), model.cache_specs(rows)

    def step(tokens: object, pos: object, caches: object) -> object:
        logits, caches = model.decode_step(tokens, caches, pos)
        return caches, logits

    graph = pl.trace(step, *specs, donate={2: 0})
    program = compiled(graph, pl.PIPELINES[pipeline], threads=threads)
    state = [np.zeros(x.type.shape, x.type.dtype.numpy) for x in program.image.inputs]
    bound = program.bind(*state)
    found = []
    for place in range(length):
        state[0][...], state[1][...] = pieces[:, place], place
        bound.run()
        found.append(bound.outputs[-1].astype(np.float64))
    x = np.stack(found, 1)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True)), sum(c.nbytes for c in state[2:]) // rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--pipelines", type=lambda x: x.split(","), default=["int8", "int8_cache"])
    parser.add_argument("--pieces", type=int, default=32)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    model, tokenizer = pl.load_model(options.model)
    context = model.config["max_seq_len"]
    held = split(tokenizer, options.text)[1][: options.pieces * context].reshape(-1, context)
    exact, _ = log_probabilities(model, "O2", held, options.threads)
    lengths = context // 4, context - 2
    loads = [
        workload("decode", model, length=length, pipeline=p, threads=options.threads)
        for p in options.pipelines
        for length in lengths
    ]
    times = in_turns(loads)
    print(
        f"{'pipeline':14}{'cache bytes':>12}{'perplexity':>12}{'KL':>10}{'same top':>10}"
        + "".join(f"{f'ms at {x}':>12}" for x in lengths)
    )
    for at, pipeline in enumerate(options.pipelines):
        note(f"{pipeline}: reading")
        found, size = log_probabilities(model, pipeline, held, options.threads)
        loss = -np.take_along_axis(found[:, :-1], held[:, 1:, None], -1).mean()
        kl = (np.exp(exact) * (exact - found)).sum(-1).mean()
        same = (exact.argmax(-1) == found.argmax(-1)).mean()
        print(
            f"{pipeline:14}{size:12,}{np.exp(loss):12.4f}{kl:10.5f}{same:10.2%}"
            + "".join(f"{x:12.4f}" for x in times[2 * at : 2 * at + 2])
        )


if __name__ == "__main__":
    main()
