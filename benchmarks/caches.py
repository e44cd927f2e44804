"""What caches of keys and values in INT8 cost and gain, while a text is read token by token.

    python benchmarks/caches.py MODEL --text tinyshakespeare.txt [--pipelines int8,int8_cache]
        [--pieces 32] [--threads 2]

Pieces of the last tenth of the text, each as long as the context, are read side by side. `KL` is
the mean divergence from the model as it is (O2), in nats; times are those of one text, at a quarter
of the context and at its end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from judged import CacheJudge, in_turns, note

import planish as pl
from planish.frontend.data import split
from planish.frontend.workloads import workload


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
    held = split(tokenizer.encode(pl.read_text(options.text)))[1][: options.pieces * context]
    judge = CacheJudge(model, held.reshape(-1, context), options.threads)
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
        found = judge(pl.PIPELINES[pipeline])
        print(
            f"{pipeline:14}{judge.size:12,}{found.perplexity:12.4f}{found.kl:10.5f}"
            f"{found.top1:10.2%}" + "".join(f"{x:12.4f}" for x in times[2 * at : 2 * at + 2])
        )


if __name__ == "__main__":
    main()
