"""What smaller models lose and gain: every recipe on models that are trained here, beside its bars.

    python benchmarks/quality.py --text tinyshakespeare.txt --out FOLDER [--models nano,baby,gpt2]
        [--steps 2000] [--fine-steps 500] [--batch N] [--seed 0] [--only PATTERN]
        [--parts size,quality,speed] [--pieces N] [--threads 2] [--json out.json]

nano and baby are trained as `planish train` trains them, on the first nine tenths of the text;
`trained on` and what says so are trained for `--fine-steps` more. gpt2 has random weights. Models
are kept in FOLDER, and what is there is not trained again; Ctrl-C loses at most some steps.

Recipes that look at text look at what was learnt, and are judged on the last tenth (`--pieces`
contexts of it). `size` is on disk, of float32; `ratio` is of perplexities, to float32 after as many
steps; `x prefill` and `x decode` say how many times faster than float32 (of gpt2's last row: than
int8). KL and same top are beside the same weights in float32. Exit code 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from judged import CacheJudge, in_turns, note
from variants import Family

import planish as pl
from planish.frontend.compress import disk_bytes
from planish.frontend.judge import Judge
from planish.frontend.quantize import stored
from planish.frontend.workloads import workload
from planish.passes.pipeline import Pipeline
from planish.passes.table import table_text
from planish.runtime.target import Target, thread_count

BASE, CONTROL, READ = "float32", "trained on", "float32 by caches"
PARTS = ("size", "quality", "speed")
CACHED = 32  # pieces that are read by caches


@dataclass(frozen=True)
class Bar:
    """The most, or `least`, that a number of a row may be, of the models that it is for."""

    what: str
    limit: float
    least: bool = False
    models: tuple[str, ...] = ("baby",)

    def holds(self, found: float) -> bool:
        """Whether it is kept; NaN keeps none."""
        return found >= self.limit if self.least else found <= self.limit


@dataclass(frozen=True)
class Case:
    """A row: a recipe on a variant, whose perplexity is compared with that of the row `beside`."""

    name: str
    recipe: str
    variant: str = ""
    bars: tuple[Bar, ...] = ()
    beside: str = BASE
    faster_than: str = BASE
    timed: bool = False
    by_caches: bool = False


@dataclass
class Row:
    """What was found; None where it was not looked for."""

    model: str
    name: str
    bytes: int | None = None
    size: float | None = None
    perplexity: float | None = None
    ratio: float | None = None
    kl: float | None = None
    top1: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    prefill_x: float | None = None
    decode_x: float | None = None
    bars: list[dict] = field(default_factory=list)


def recipe(base: str, quantize: str) -> str:
    """A named pipeline, in which the first pass that quantizes is another."""
    first = {"int8": "quantize,", "int4": "quantize{bits=4},"}[base]
    return str(pl.PIPELINES[base]).replace(first, f"{quantize},", 1)


def static(method: str, more: str = "") -> str:
    """INT8 with scales of activations that were found on text."""
    return recipe("int8", f"quantize{{mode=static,method={method}{more}}}")


BOTH = ("nano", "baby")
CLOSE = (Bar("ratio", 1.005, models=BOTH), Bar("kl", 0.002, models=BOTH),
         Bar("top1", 0.98, least=True, models=BOTH))  # fmt: skip
INT8 = (Bar("size", 0.26), *CLOSE)
INT4 = (Bar("size", 0.16), Bar("ratio", 1.03))
SPARSE = (Bar("size", 0.13), Bar("ratio", 1.05))
FASTER = Bar("decode_x", 1.0, least=True)
SHRUNK = (Bar("ratio", 1.05), Bar("prefill_x", 1.6, least=True), Bar("decode_x", 1.6, least=True))
LARGE = tuple(replace(x, models=("gpt2",)) for x in (Bar("size", 0.12), FASTER))
SMOOTH = f"smooth,{static('mse')}"

QUALITY = (
    Case(BASE, "O2", timed=True),
    Case("bf16", "bf16"),
    Case("int8", "int8", bars=INT8, timed=True),
    Case("int8 asymmetric", recipe("int8", "quantize{activations=asymmetric}"), bars=INT8,
         timed=True),
    *(Case(f"int8 static {x}", static(x), bars=INT8, timed=x == "mse")
      for x in ("minmax", "percentile", "mse", "entropy")),
    Case("int8 static asymmetric", static("mse", ",activations=asymmetric"), bars=INT8),
    Case("int8 weights", recipe("int8", "quantize{mode=weights}"), bars=INT8, timed=True),
    Case("int8 gptq", recipe("int8", "gptq{bits=8},quantize"), bars=INT8),
    Case("int8 static minmax, outliers 100", static("minmax"), "outliers 100"),
    Case("int8 smooth, outliers 100", SMOOTH, "outliers 100", bars=INT8),
    Case("int8 static minmax, outliers 1e4", static("minmax"), "outliers 1e4"),
    Case("int8 smooth, outliers 1e4", SMOOTH, "outliers 1e4", bars=INT8),
    *(Case(f"int4 groups {x}", recipe("int4", f"quantize{{bits=4,group={x}}}"),
           bars=INT4, timed=x == 64)
      for x in (32, 64, 128)),
    Case("int4 gptq", recipe("int4", "gptq{bits=4},quantize{bits=4}"), bars=INT4),
    Case(READ, "O2", by_caches=True),
    Case("int8_cache", "int8_cache", "", INT8, READ, by_caches=True),
    Case("int4_cache", "int4_cache", "", INT4, READ, by_caches=True),
    Case("70 % at once, int8", "sparse_int8", "70 % at once"),
    Case("50 % by magnitude", "sparse", "50 % by magnitude"),
    Case("50 % by wanda", "sparse", "50 % by wanda"),
    Case(CONTROL, "O2", CONTROL),
    Case("trained on, int4", "int4", CONTROL, beside=CONTROL),
    Case("trained for int4", "int4", "for 4 bits", INT4, CONTROL),
    Case("70 %, float32", "sparse", "70 %", beside=CONTROL, timed=True),
    Case("70 %, int8", "sparse_int8", "70 %", SPARSE, CONTROL, timed=True),
    Case("2:4, int8", "sparse_int8", "2:4", beside=CONTROL),
    Case("50 % in blocks 16x1, int8", "sparse_int8", "blocks", beside=CONTROL, timed=True),
    Case("structured", "O2", "structured", SHRUNK, CONTROL, timed=True),
    Case("structured, int8", "int8", "structured", beside=CONTROL, timed=True),
)  # fmt: skip
SIZES = (
    Case(BASE, "O2"),
    Case("int8", "int8", timed=True),
    Case(
        "70 % at once, int8", "sparse_int8", "70 % at once", LARGE, faster_than="int8", timed=True
    ),
)
CASES = {"nano": QUALITY, "baby": QUALITY, "gpt2": SIZES}


def chosen(model: str, pattern: str) -> list[Case]:
    """The cases that match, and those that they are compared with, in order."""
    cases = {case.name: case for case in CASES[model]}
    names = {BASE} | {x for x in cases if re.search(pattern, f"{model} {x}")}
    while more := {y for x in names for y in (cases[x].beside, cases[x].faster_than)} - names:
        names |= more
    return [case for name, case in cases.items() if name in names]


def measured(family: Family, cases: Sequence[Case], parts: Sequence[str], pieces: int
             ) -> Iterator[Row]:  # fmt: skip
    """A row for each case, of what is asked for; times are not known yet."""
    judges: dict[tuple[str, bool], Judge | CacheJudge] = {}
    for case in cases:
        note(f"{family.name} {case.name}")
        row = Row(family.name, case.name)
        if parts == ["speed"]:
            yield row
            continue
        model, passes = bound(family, case)
        if "size" in parts:
            row.bytes = disk_bytes(stored(model, passes))
        if "quality" in parts and family.name != "gpt2":
            kind = (case.variant, case.by_caches)
            if kind not in judges:
                judges[kind] = judge_of(family, model, case.by_caches, pieces)
            found = judges[kind](passes)
            row.perplexity, row.kl, row.top1 = found.perplexity, found.kl, found.top1
            note(f"  perplexity {found.perplexity:.4f}, KL {found.kl:.6f}, same {found.top1:.2%}")
        yield row


def bound(family: Family, case: Case) -> tuple[pl.TinyGPT, Pipeline]:
    """A model, and its recipe after it has seen what was learnt."""
    model, passes = family.model(case.variant), case.recipe
    made = pl.PIPELINES[passes] if passes in pl.PIPELINES else Pipeline.parse(passes)
    if not made.is_bound:
        made = pl.calibrate(model, made, family.learnt, threads=family.threads)
    return model, made


def judge_of(family: Family, model: pl.TinyGPT, by_caches: bool, pieces: int) -> Judge | CacheJudge:
    """On the last tenth of the text, or the first pieces of it."""
    context = model.config["max_seq_len"]
    count = min(pieces, len(family.held) // context)
    if not by_caches:
        return Judge(model, family.held, count, family.threads)
    count = min(count, CACHED)
    return CacheJudge(model, family.held[: count * context].reshape(-1, context), family.threads)


def time_all(family: Family, cases: Sequence[Case], rows: Sequence[Row]) -> None:
    """Fill in the times of the rows that have any, in turns."""
    loads, timed = [], [(c, r) for c, r in zip(cases, rows, strict=False) if c.timed]
    for case, _ in timed:
        note(f"{family.name} {case.name}: compiling, to be timed")
        model, passes = bound(family, case)
        loads += [
            workload(x, model, pipeline=passes, threads=family.threads)
            for x in ("prefill", "decode")
        ]
    times = iter(in_turns(loads))
    for _, row in timed:
        row.prefill_ms, row.decode_ms = next(times), next(times)


def compare(cases: Sequence[Case], rows: Sequence[Row]) -> None:
    """Fill in what is relative to other rows, and the verdicts."""
    known = {row.name: row for row in rows}
    for case, row in zip(cases, rows, strict=False):
        beside, slower = known[case.beside], known[case.faster_than]
        row.size = ratio(row.bytes, known[BASE].bytes)
        row.ratio = ratio(row.perplexity, beside.perplexity)
        row.prefill_x = ratio(slower.prefill_ms, row.prefill_ms)
        row.decode_x = ratio(slower.decode_ms, row.decode_ms)
        row.bars = [
            {**asdict(bar), "found": found, "ok": bar.holds(found)}
            for bar in case.bars
            if row.model in bar.models and (found := getattr(row, bar.what)) is not None
        ]


def ratio(a: float | None, b: float | None) -> float | None:
    """None where one is missing."""
    return None if a is None or b is None else a / b


FORMATS = {
    "bytes": ",", "size": ".4f", "perplexity": ".4f", "ratio": ".5f", "kl": ".6f", "top1": ".2%",
    "prefill_ms": ".3f", "decode_ms": ".4f", "prefill_x": ".2f", "decode_x": ".2f",
}  # fmt: skip
HEADS = {
    "kl": "KL", "top1": "same top", "prefill_ms": "prefill ms", "decode_ms": "decode ms",
    "prefill_x": "x prefill", "decode_x": "x decode",
}  # fmt: skip


def cell(row: Row, what: str) -> str:
    """A number of a row."""
    value = getattr(row, what)
    return "-" if value is None else f"{value:{FORMATS[what]}}"


def table(rows: Sequence[Row]) -> str:
    """All numbers; rows and columns that have none are left out."""
    shown = [x for x in FORMATS if any(getattr(row, x) is not None for row in rows)]
    head = ("model", "row", *(HEADS.get(x, x) for x in shown))
    body = ((row.model, row.name, *(cell(row, x) for x in shown)) for row in rows)
    return table_text([head, *(x for x in body if {*x[2:]} - {"-"})])


def verdicts(rows: Sequence[Row]) -> str:
    """A line for each bar of what was found, and whether it is kept."""
    lines = [("model", "row", "what", "found", "bar", "")]
    for row in rows:
        for bar in row.bars:
            what, word = bar["what"], "at least" if bar["least"] else "at most"
            verdict = "ok" if bar["ok"] else "OVER"
            limit = f"{bar['limit']:.0%}" if what == "top1" else f"{bar['limit']:g}"
            lines.append((row.model, row.name, HEADS.get(what, what), cell(row, what),
                          f"{word} {limit}", verdict))  # fmt: skip
    return table_text(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    listed = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for trained models")
    parser.add_argument("--models", type=listed, default=[*CASES])
    parser.add_argument("--parts", type=listed, default=[*PARTS], help="what to find")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--fine-steps", type=int, default=500)
    parser.add_argument("--batch", type=int, help="pieces of text in a step, not the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="PATTERN", help='of "MODEL ROW"')
    parser.add_argument("--pieces", type=int, default=sys.maxsize, help="contexts to judge by")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name, known in (("models", CASES), ("parts", PARTS)):
        if unknown := [x for x in getattr(options, name) if x not in known]:
            parser.error(f"--{name}: unknown {unknown[0]!r}; known are {', '.join(known)}")
    return options


def found_by(options: argparse.Namespace, rows: list[Row]) -> None:
    """Add the rows of all models; those that are there stay where it is interrupted."""
    for name in options.models:
        family = Family(name, options.text, options.out, options.steps, options.fine_steps,
                        options.seed, options.batch, options.threads)  # fmt: skip
        cases, mine = chosen(name, options.only), []
        try:
            for row in measured(family, cases, options.parts, options.pieces):
                mine.append(row)
                rows.append(row)
            if "speed" in options.parts:
                time_all(family, cases, mine)
        finally:
            compare(cases, mine)


def main() -> int:
    """Train, judge, time, print."""
    options, rows, code = arguments(), [], 0
    named = ("steps", "fine_steps", "batch", "seed")
    facts = {"cpu": Target.parse().cpu, "threads": thread_count(options.threads),
             **{name: getattr(options, name) for name in named}}  # fmt: skip
    try:
        found_by(options, rows)
    except KeyboardInterrupt:
        note("interrupted; models are kept, the same command goes on")
        code = 130
    if rows:
        print(f"{facts}\n\n{table(rows)}\n\n{verdicts(rows)}")
    if options.json:
        options.json.write_text(json.dumps({**facts, "rows": list(map(asdict, rows))}, indent=1))
    return code or int(not all(bar["ok"] for row in rows for bar in row.bars))


if __name__ == "__main__":
    sys.exit(main())
