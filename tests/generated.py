"""Blocks of the pages that are made from the code, so that they cannot go stale.

    <!-- generated: NAME -->
    ...
    <!-- end -->

`BLOCKS` has a function for each name. tests/test_docs.py compares; `pytest tests/test_docs.py
--bless` writes.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from planish.ir import errors, loops, parse
from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.loops import SCALARS
from planish.ir.math import erf as erf_module
from planish.ir.math import exponential, logarithm, trigonometric
from planish.ir.node import KINDS, OPS
from planish.passes import compare as comparing
from planish.passes.pipelines import PIPELINES

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"(<!-- generated: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def fenced(text: str, language: str = "") -> str:
    """A code block."""
    return f"```{language}\n{text}\n```"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    cells = ([x.replace("|", r"\|") for x in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


@cache
def example(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def stage(name: str) -> str:
    """A stage of examples/stages.py."""
    return fenced(example("stages").stages()[name], "llvm" if name == "llvm" else "")


def stage_source() -> str:
    """The function that goes through the stages."""
    return fenced(inspect.getsource(example("stages").norm).rstrip(), "py")


def grammar(module: ModuleType) -> str:
    """The indented grammar in the docstring of a module."""
    found = re.search(r"(?m)(^    \w+ *::=.*\n(?:    .*\n)*)", inspect.getdoc(module) or "")
    if found is None:
        raise ValueError(f"{module.__name__} shows no grammar")
    return fenced(inspect.cleandoc("\n" + found[1]))


def dtypes() -> str:
    """The element types."""
    rows = ((f"`{x}`", f"`{x.numpy.name}`", str(x.itemsize), limits(x)) for x in t.DTYPES.values())
    return table(("dtype", "NumPy", "bytes", "values"), rows)


def limits(x: t.DType) -> str:
    """The range of a dtype in words."""
    if x.is_int:
        return f"{x.least} to {x.most}" + (", for storage only" if x is t.i4 else "")
    return "floating point" if x.is_float else "true, false"


def promotion() -> str:
    """The dtype at which two arrays meet."""
    known = [x for x in t.DTYPES.values() if x is not t.i4]
    rows = [(f"**{a}**", *(str(t.promote(a, b)) for b in known)) for a in known]
    return table(("", *map(str, known)), rows)


def ops() -> str:
    """All ops, by kind."""
    parts = []
    for kind in KINDS:
        rows = [op_row(name) for name, op in OPS.items() if op.kind == kind]
        parts.append(f"### {kind}\n\n" + table(("op", "attributes", "meaning", "gradient"), rows))
    return "\n\n".join(parts)


def op_row(name: str) -> tuple[str, ...]:
    """A row for an op."""
    op = OPS[name]
    meaning = (inspect.getdoc(type(op)) or "").split("\n\n")[0].replace("\n", " ")
    attrs = ", ".join(f"`{x}`" for x in op.attr_names)
    return f"`{name}`", attrs, meaning, f"none: {op.no_vjp}" if op.no_vjp else "yes"


def scalars() -> str:
    """The scalar operations of loop IR."""
    return fenced("\n".join(wrapped(SCALARS)))


def wrapped(words: Iterable[str], width: int = 96) -> list[str]:
    """Words in lines."""
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def ulps() -> str:
    """The bounds that the docstrings of the polynomials state."""
    rows = []
    for module in (exponential, logarithm, erf_module, trigonometric):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            found = re.search(r"f32: at most ([0-9.]+ ulp[^.]*)", inspect.getdoc(function) or "")
            if found and function.__module__ == module.__name__:
                rows.append((f"`{name.removesuffix('_of')}`", found[1].replace("\n", " ")))
    return table(("function", "largest error in float32"), sorted(rows))


def hierarchy() -> str:
    """The exceptions, with the builtins that they also are."""
    classes = [x for _, x in inspect.getmembers(errors, inspect.isclass)]
    rows = []
    for cls in sorted(classes, key=lambda x: inspect.getsourcelines(x)[1]):
        base = next(x.__name__ for x in cls.__mro__[1:] if x in classes or x is Exception)
        also = ", ".join(f"`{x.__name__}`" for x in cls.__mro__[1:] if is_plain(x))
        meaning = (inspect.getdoc(cls) or "").replace("\n", " ")
        rows.append((f"`{cls.__name__}`", f"`{base}`", also, meaning))
    return table(("class", "derives from", "also a", "raised when"), rows)


def is_plain(cls: type) -> bool:
    """A builtin exception that callers may catch instead."""
    return cls.__module__ == "builtins" and cls not in (Exception, BaseException, object)


def pipelines() -> str:
    """The named pipelines as text."""
    return table(("name", "passes"), ((f"`{n}`", f"`{p}`") for n, p in PIPELINES.items()))


def rows_without_times(graph: Graph, names: list[str], tokens: np.ndarray) -> list[list[str]]:
    """What `planish compare` prints of pipelines on any machine: the columns before the times."""
    told = str(comparing.compare(graph, names, [tokens])).splitlines()[1:]
    return [re.split(r"  +", line)[:6] for line in told]


BLOCKS: dict[str, Callable[[], str]] = {
    "stage-source": stage_source,
    "stage-traced": lambda: stage("traced"),
    "stage-fused": lambda: stage("fused"),
    "stage-loops": lambda: stage("loops"),
    "stage-llvm": lambda: stage("llvm"),
    "graph-grammar": lambda: grammar(parse),
    "loop-grammar": lambda: grammar(loops),
    "dtypes": dtypes,
    "promotion": promotion,
    "ops": ops,
    "scalars": scalars,
    "ulps": ulps,
    "errors": hierarchy,
    "pipelines": pipelines,
}


def blocks(page: str) -> dict[str, str]:
    """Name -> text of the generated blocks of a page."""
    return {name: text.strip("\n") for _, name, text, _ in MARK.findall(page)}


def regenerated(page: str) -> str:
    """The page with its blocks as they ought to be."""
    return MARK.sub(lambda m: f"{m[1]}{BLOCKS[m[2]]()}\n{m[4]}", page)
