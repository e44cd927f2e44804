"""How weights are made that passes computed (rounded to 8 bits, say), and making them of others.

    recipes = Recipes.of(names, before, after)   None where nobody wrote down how
    arrays = recipes.follow(before.params)       those, and what is made of them

What is made of the same arrays is one graph; layers of one width share it, as it says what is done
with any number of rows, see `planish.ir.rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from planish.ir.errors import PlanishError
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node
from planish.ir.parse import parse
from planish.ir.rows import by_rows, empty, jobs
from planish.ir.text import graph_text
from planish.runtime.crew import Crew
from planish.runtime.target import available_cores


class Step(NamedTuple):
    """The graph of this number makes arrays of others."""

    number: int
    reads: tuple[str, ...]
    makes: tuple[str, ...]


class NotFinite(PlanishError):
    """A weight is not finite; passes that round weights refuse it, and say where it is."""


class Recipes(NamedTuple):
    """The texts of graphs, and the steps in order."""

    texts: tuple[str, ...]
    steps: tuple[Step, ...]

    @staticmethod
    def of(names: Iterable[str], before: Graph, after: Graph) -> Recipes | None:
        """How params of `after` are made of those of `before`, of which it was made."""
        sources: dict[str, Graph] = {}
        for name in names:
            if not _noted(name, after.params[name], before, after, sources):
                return None
        together: dict[tuple[str, ...], dict[str, Node]] = {}
        for name, source in sources.items():
            together.setdefault(tuple(source.params), {})[name] = source.outputs[0]
        texts: dict[str, int] = {}
        steps = []
        for reads, made in together.items():
            text = graph_text(by_rows(_function(reads, tuple(made.values()))))
            steps.append(Step(texts.setdefault(text, len(texts)), reads, tuple(made)))
        return Recipes(tuple(texts), tuple(steps))

    def follow(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays, and those that are made of them, on all cores. NotFinite where one is not."""
        graphs = [parse(x) for x in self.texts]
        found = dict(arrays)
        begun: set[str] = set()
        with Crew(available_cores()) as crew:
            for number, reads, makes in self.steps:
                if not begun.isdisjoint(reads):
                    crew.finish()
                    begun.clear()
                graph, given = graphs[number], [found[x] for x in reads]
                results = [empty(x, given, graph.inputs) for x in graph.outputs]
                for job in jobs(graph, given, results, _check):
                    crew.add(job)
                found.update(zip(makes, results, strict=True))
                begun.update(makes)
            crew.finish()
        for name in found.keys() - arrays.keys():
            found[name].flags.writeable = False
        return found


def _noted(
    name: str, array: np.ndarray, before: Graph, after: Graph, sources: dict[str, Graph]
) -> bool:
    """Whether a param is one of the graph before, or made of such; how goes to `sources`."""
    if before.params.get(name) is array:
        return True
    source = after.made.get(name)
    if source is None or name in before.params:
        return False
    known = all(_noted(n, x, before, after, sources) for n, x in source.params.items())
    sources[name] = source  # after those that it reads
    return known


def _function(reads: Sequence[str], outputs: tuple[Node, ...]) -> Graph:
    """A graph that takes arrays as arguments."""
    whole = Graph("made", (), outputs)
    params = whole.param_nodes
    given = {x: OPS["input"](name=f"x{i}", type=params[x].type) for i, x in enumerate(reads)}
    taken = whole.map(lambda x: given[x.attrs["name"]] if x.op.name == "param" else x)
    return Graph("made", tuple(given.values()), taken.outputs)


def _check(array: np.ndarray) -> None:
    if array.dtype.kind not in "iub" and not np.isfinite(array.astype("f4", copy=False)).all():
        raise NotFinite("a weight that is not finite cannot be rounded")
