"""Golden cases for passes: text in, text out, and the numbers checked before the text.

    # case a sentence that says what happens
    # pass simplify,cse            (default: the name of the file)
    # tolerance 0.01               (for passes that change numbers on purpose; default 1e-6)
    graph f(%x: f32[4]) {
      ...
    }
    ---
    graph f(%x: f32[4]) {
      ...
    }

Each case is parsed, run, verified and evaluated in float64 before and after on random arrays, and
only then compared as text. `pytest --bless` rewrites the expectations of the cases that fail, but
never those whose numbers differ: a blessed file may be ugly, not wrong. Gradients are checked by
finite differences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.parse import parse
from planish.ir.text import graph_text
from planish.passes.autodiff import Grad
from planish.passes.example import example_arrays, with_example_params
from planish.passes.pipeline import Pipeline

CASES = Path(__file__).parent / "cases" / "passes"


@dataclass(frozen=True)
class Case:
    """One case of a file; `number` counts from 0."""

    path: Path
    number: int
    title: str
    pipeline: str
    tolerance: float
    before: str
    after: str

    @property
    def id(self) -> str:
        """How the case is called in a test report."""
        return f"{self.path.stem}: {self.title}"


def cases(folder: Path = CASES) -> list[Case]:
    """All cases of all files of a folder."""
    return [case for path in sorted(folder.glob("*.ir")) for case in read(path)]


def read(path: Path) -> list[Case]:
    """The cases of a file."""
    found = []
    for number, chunk in enumerate(re.split(r"^# case ", path.read_text(), flags=re.M)[1:]):
        title, _, rest = chunk.partition("\n")
        options = dict(re.findall(r"^# (pass|tolerance) (.*)$", rest, re.M))
        body = re.sub(r"^# (pass|tolerance) .*\n", "", rest, flags=re.M)
        before, _, after = body.partition("\n---\n")
        found.append(
            Case(
                path,
                number,
                title,
                options.get("pass", path.stem),
                float(options.get("tolerance", 1e-6)),
                before.strip(),
                after.strip(),
            )
        )
    return found


def run(case: Case) -> str:
    """The text after the passes; AssertionError where the numbers differ."""
    before = with_example_params(parse(case.before))
    pipeline = Pipeline.parse(case.pipeline)
    after = pipeline.run(before)
    same_numbers(before, after, case.tolerance)
    for step in pipeline.passes:
        if isinstance(step, Grad):
            check_gradients(before, after, step.wrt, step.output)
    return graph_text(after)


def same_numbers(before: Graph, after: Graph, tolerance: float = 1e-6, seed: int = 0) -> None:
    """Both graphs give the same first outputs on random arrays, in float64."""
    arrays = example_arrays(before, seed)
    named = {x.attrs["name"]: a for x, a in zip(before.inputs, arrays, strict=True)}
    named = {**before.params, **named}  # a pass may make params inputs
    for x in after.inputs:
        if f"{x.attrs['name']}.scale" in [y.attrs["name"] for y in after.inputs]:
            named |= as_integers(x.attrs["name"], named[x.attrs["name"]])
    expected = evaluate(before, *arrays, dtype="f64")
    found = evaluate(after, *(named[x.attrs["name"]] for x in after.inputs), dtype="f64")
    for i, (a, b) in enumerate(zip(expected, as_floats(found), strict=False)):
        np.testing.assert_allclose(b, a, tolerance, tolerance, err_msg=f"output {i} changed")


def as_integers(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """Rows as bytes with scales: a pass may keep an input so."""
    scale = np.abs(x).max(-1, keepdims=True) / 127
    return {name: np.rint(x / scale).astype(np.int8), f"{name}.scale": scale.astype(np.float32)}


def as_floats(outputs: tuple[np.ndarray, ...]) -> Iterator[np.ndarray]:
    """Outputs as they are, those of bytes by the scales that follow them."""
    rest = iter(outputs)
    for x in rest:
        yield x * next(rest) if x.dtype == np.int8 else x


def check_gradients(
    before: Graph, after: Graph, wrt: tuple[str, ...], output: int = 0, seed: int = 0
) -> None:
    """The last outputs of `after` against central differences along random directions."""
    arrays = [np.asarray(x, wide(x)) for x in example_arrays(before, seed)]
    params = {name: np.asarray(x, wide(x)) for name, x in before.params.items()}
    grads = evaluate(replace(after, params=params), *arrays, dtype="f64")[-len(wrt) :]
    rng = np.random.default_rng(seed)
    names = [x.attrs["name"] for x in before.inputs]

    def loss(name: str, moved: np.ndarray) -> float:
        given = [moved if n == name else x for n, x in zip(names, arrays, strict=True)]
        graph = replace(before, params={**params, name: moved} if name in params else params)
        return float(evaluate(graph, *given, dtype="f64")[output])

    for name, dx in zip(wrt, grads, strict=True):
        x = params[name] if name in params else arrays[names.index(name)]
        v, h = rng.standard_normal(x.shape), 1e-5
        expected = (loss(name, x + h * v) - loss(name, x - h * v)) / (2 * h)
        np.testing.assert_allclose((dx * v).sum(), expected, 1e-6, 1e-7, err_msg=name)


def wide(x: np.ndarray) -> np.dtype:
    """The dtype to compute gradients in."""
    return np.dtype(np.float64) if x.dtype.kind not in "iub" else x.dtype


def bless(case: Case, text: str) -> None:
    """Write `text` as the expectation of a case."""
    parts = re.split(r"^(?=# case )", case.path.read_text(), flags=re.M)
    index = case.number + (not parts[0].startswith("# case "))
    before = parts[index].partition("\n---\n")[0].rstrip()
    parts[index] = f"{before}\n---\n{text}\n" + ("\n" if index + 1 < len(parts) else "")
    case.path.write_text("".join(parts))
