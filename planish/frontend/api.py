"""What users call on graphs: compile, interpret, compare, bisect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from planish.frontend import kept
from planish.frontend.compiled import Compiled, Origin, flat_arguments
from planish.frontend.recipes import Followed, NotFinite
from planish.frontend.trace import trace
from planish.frontend.tree import restore
from planish.ir.errors import TraceError
from planish.ir.evaluate import evaluate
from planish.ir.garbage import uncollected
from planish.ir.graph import Graph
from planish.ir.later import later
from planish.ir.text import graph_text
from planish.passes import bisect as bisecting
from planish.passes import compare as comparing
from planish.passes.layers import reporter
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import pipeline as pipeline_named
from planish.runtime.cache import cache_at, digest
from planish.runtime.packing import Panels, params_of
from planish.runtime.plan import Plan
from planish.runtime.program import Program
from planish.runtime.target import Target, cache_folder, thread_count

building = later("planish.runtime.build")
lowering = later("planish.runtime.lower")


def compile(
    fn: Any, *specs: Any, pipeline: str | Pipeline = "O2", target: str | Target | None = None,
    threads: int | None = None, cache: bool = True,
) -> Compiled:  # fmt: skip
    """Native code for a function or a model (traced on `specs`, see `trace`), or for a graph.

    >>> import numpy as np, planish as pl, planish.numpy as pnp
    >>> program = pl.compile(lambda x, w: pnp.tanh(x @ w), pl.spec(("B", 8)), pl.spec((8, 3)))
    >>> program(np.ones((5, 8), np.float32), np.ones((8, 3), np.float32)).shape
    (5, 3)

    The program takes arrays of exactly the traced dtypes and of fitting shapes, and returns arrays
    in the form that the function returned: one, a tuple or a dict. `program(*arrays, out=[...])`
    writes into arrays of yours. ShapeError, DTypeError and TokenError refuse a call.

    `pipeline` is a name of `PIPELINES`, a list such as "simplify,expand,fuse", or a `Pipeline`.
    `target` names a CPU; None asks PLANISH_TARGET, and then means this machine. `threads` is how
    many share each run; None asks PLANISH_THREADS, and then means all cores this process may use.
    `cache=False` neither looks into the user's cache of compiled programs (PLANISH_CACHE) nor adds
    to it. UnsupportedError names a node that the passes left without a kernel.
    """
    return compiled(graph_of(fn, specs), pipeline, target, threads, cache=cache)


@uncollected()
def compiled(
    graph: Graph, pipeline: str | Pipeline, target: str | Target | None = None,
    threads: int | None = None, panels: Panels | None = None, cache: bool = True,
    known: Followed | None = None,
) -> Compiled:  # fmt: skip
    """`compile` of a graph; programs that are made with the same `panels` share packed weights.

    With `known`, what passes make of weights is kept there for the next program.
    """
    machine, passes = Target.parse(target), pipeline_named(pipeline)
    text = graph_text(graph)
    origin = Origin(graph.treedef, str(passes), digest(text), reporter(graph, passes))
    files = cache_at(cache_folder() if cache else None)
    key = kept.key_of(graph, text, passes, machine) if files.folder else None
    found = files.get(key) if key else None
    if found is not None:
        image, recipes = kept.unpacked(found)
        with suppress(NotFinite):  # the passes, which follow, say where
            params = params_of(image.made, recipes.follow(graph.params, known), panels)
            program = Compiled.of(image, params, lambda: planned(graph, passes, machine), threads)
            program.origin = origin
            return program
    pooled = machine == Target.host() and thread_count(threads) > 1
    with building.begun(machine, pooled) as compiling:
        after = passes.run(graph)
        plan, image = building.lowered(after, compiling, panels)
    program = Compiled.of(image, plan.params, lambda: plan, threads)
    program.origin = origin
    entry = kept.packed(program.image, graph, after) if key else None
    if key and entry is not None:
        files.put(key, entry)
    return program


def planned(graph: Graph, pipeline: Pipeline, target: Target) -> Plan:
    """The plan of a graph."""
    return lowering.lower(pipeline.run(graph), target)


def interpret(fn: Any, *arrays: Any, dtype: Any = None) -> Any:
    """What a graph (or a function, traced on these arrays) means, computed with NumPy.

    >>> import numpy as np, planish as pl
    >>> float(pl.interpret(lambda x: (x * x).sum(), np.float32([3, 4])))
    25.0

    Slow and obvious: it is the judge of compiled programs. `dtype="f64"` computes every float in
    f64, whatever the graph says. Results have the form that the function returned.
    """
    graph = fn if isinstance(fn, Graph) else trace(fn, *arrays)
    given = flat_arguments(arrays, len(graph.inputs))
    return restore(graph.treedef, evaluate(graph, *given, dtype=dtype))


def compare(
    fn: Any, pipelines: str | Pipeline | Iterable[str | Pipeline], *arrays: Any,
    target: str | Target | None = None, threads: int | None = None, seconds: float = 1.0,
    perplexity: Callable[[Any], float] | None = None,
) -> comparing.Table:  # fmt: skip
    """Pipelines side by side: nodes, kernels, bytes, memory, times, error. Prints as a table.

    `table.rows` has the numbers, `table.records()` the same as dicts, `table.plot(path)` draws
    them. Programs take turns for about `seconds`; times are medians. `error` is the largest
    difference from the interpreter in f64, relative to the largest magnitude of the output.
    `perplexity`, a function of a compiled program, adds a column.
    """
    graph = fn if isinstance(fn, Graph) else trace(fn, *arrays)
    machine = Target.parse(target)

    def program(after: Graph) -> Program:
        return Program(lowering.lower(after, machine), machine, threads)

    given = [np.asarray(x) for x in flat_arguments(arrays, len(graph.inputs))]
    pipelines = [pipelines] if isinstance(pipelines, (str, Pipeline)) else pipelines
    return comparing.compare(graph, pipelines, given, program, perplexity, seconds)


def bisect(
    graph: Graph, pipeline: str | Pipeline, check: Callable[[Graph], object]
) -> bisecting.Culprit | None:
    """The first pass after which `check(graph)` is false or raises; None if there is none.

    The result has the pass's `name` and `position` (from 1; 0 says that the check fails on `graph`
    itself), the graphs `before` and `after`, and the `reason`.
    """
    return bisecting.bisect(graph, pipeline_named(pipeline), check)


def graph_of(fn: Any, specs: Sequence[Any]) -> Graph:
    """A graph as it is; anything else traced."""
    if not isinstance(fn, Graph):
        return trace(fn, *specs)
    if specs:
        raise TraceError(f"graph {fn.name} has its types already, it takes no specs")
    return fn
