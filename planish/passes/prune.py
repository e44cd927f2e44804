"""Set weights to zero: those that matter least, singly, in groups, or in blocks.

    graph f(%x: f32[2, 4]) {
      %w = param : f32[4, 8]
      %0 = matmul(%x, %w) : f32[2, 8]
      return %0
    }
becomes
    graph f(%x: f32[2, 4]) {
      %w = param : f32[4, 8]
      %0 = matmul(%x, %w) : f32[2, 8]
      return %0
    }

where half of the numbers of %w are 0. Only weights change: what zeros are worth, in bytes and in
time, is the affair of `bitmap` and of the kernels. So pruning can stand before any other pass, and
a pruned model is one like any other.

`method` says what matters: "magnitude" is |w|; "wanda" is |w| times the norm of what it multiplies
over some text (Sun et al. 2023), which `pl.prune` and `pl.calibrate` find. `scope` says what is
compared with what: the weights of a "tensor", of a "row" (one output), or of the whole graph
("global"). For `pattern` see `masks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.ir.node import Node, viewed_of
from planish.passes.calibrate import Samples, digest
from planish.passes.finite import check_finite
from planish.passes.masks import Pattern, lowest_of_all
from planish.passes.skip import check_some, with_skipped

METHODS = ("magnitude", "wanda")
SCOPES = ("tensor", "row", "global")
ROUNDED = 1e-3  # 0.667 is the share of 1:3, too


@dataclass(frozen=True)
class Prune:
    """Zero `ratio` of each weight that something is multiplied by, unless its name matches `skip`.

    A pattern N:M says itself how many stay; with a smaller `ratio` so many groups are as it says.
    """

    ratio: float | None = None
    method: str = "magnitude"
    scope: str = "tensor"
    pattern: str = ""
    skip: str = ""
    calibration: str = ""  # names what it was bound to
    norms: Mapping[str, np.ndarray] | None = field(
        default=None, compare=False, repr=False, metadata={"bound": True}
    )

    def __post_init__(self) -> None:
        shape = Pattern.parse(self.pattern)
        if shape.group:
            if self.scope != "tensor":
                raise DataError(f"prune: pattern={self.pattern!r} compares within groups; "
                                f"leave scope={self.scope!r} out")  # fmt: skip
            check_ratio("prune: ratio", self.share)
            if self.share > shape.own + ROUNDED:
                raise DataError(
                    f"prune: pattern={self.pattern!r} takes {shape.own:.3g} of each group, not "
                    f"ratio={self.ratio!r}; leave ratio out, or let N:M keep fewer"
                )
        else:
            check_ratio("prune: ratio", self.ratio)
        for name, known in (("method", METHODS), ("scope", SCOPES)):
            if getattr(self, name) not in known:
                found = getattr(self, name)
                raise DataError(f"prune: {name} is one of {', '.join(known)}, got {found!r}")

    @property
    def share(self) -> float:
        """How much of a weight goes: `ratio`, else what the pattern says."""
        return Pattern.parse(self.pattern).own if self.ratio is None else self.ratio

    def __call__(self, graph: Graph) -> Graph:
        self.check_bound(graph)
        return self.run(graph, self.norms or {})

    def check_bound(self, graph: Graph) -> None:
        """Refuse "wanda" where nobody has looked at what weights multiply."""
        chosen = [] if self.method == "magnitude" else self.reasons(graph).items()
        if missing := [n for n, why in chosen if not why and n not in (self.norms or {})]:
            raise DataError(
                f"prune: {self.method} needs text to see what {missing[0]} multiplies: "
                f"pl.calibrate takes it, or pl.prune(model, {self.ratio}, "
                f"method={self.method!r}, tokens=...)"
            )

    @property
    def is_bound(self) -> bool:
        """Whether it has seen what it needs to see."""
        return self.method == "magnitude" or self.norms is not None

    def calibrate(self, graph: Graph, samples: Samples) -> Prune:
        """For "wanda" bound to the norms of what each weight multiplies; else itself."""
        if self.is_bound:
            return self
        norms = norms_seen(graph, samples)
        return replace(self, norms=norms, calibration=digest(norms))

    def run(self, graph: Graph, norms: Mapping[str, np.ndarray]) -> Graph:
        """The graph with zeros; for "wanda" with the norm of each input of each weight."""
        params = dict(graph.params)
        for name, gone in self.masks(graph, norms).items():
            params[name] = np.where(gone, 0, params[name]).astype(params[name].dtype)
            params[name].flags.writeable = False
        return replace(graph, params=params)

    def masks(self, graph: Graph, norms: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Which numbers of each weight go; each mask has the shape of its weight.

        DataError where no weight can be pruned, but for those that `skip` names.
        """
        check_some("prune", replace(self, skip="").reasons(graph))
        chosen = {
            name: graph.param_nodes[name] for name, why in self.reasons(graph).items() if not why
        }
        pattern, ratio = Pattern.parse(self.pattern), self.share
        turned = {name: bool(is_turned(graph, node)) for name, node in chosen.items()}

        def scores(name: str) -> np.ndarray:
            found = score(name, graph.params[name], turned[name])
            return found if self.method == "magnitude" else found * norms[name]

        if self.scope == "global":
            found = lowest_of_all({name: scores(name) for name in chosen}, pattern, ratio)
        else:
            by_row = self.scope == "row"
            found = {name: pattern.lowest(scores(name), ratio, by_row) for name in chosen}
        return {name: x.T if turned[name] else x for name, x in found.items()}

    def reasons(self, graph: Graph) -> dict[str, str]:
        """For each weight why it stays as it is; "" where it does not."""
        found = {name: _reason(graph, node) for name, node in graph.param_nodes.items()}
        return with_skipped("prune", found, self.skip, graph)


def norms_seen(graph: Graph, samples: Samples) -> dict[str, np.ndarray]:
    """For each weight the norm of each of its inputs, over some text."""
    found = products(graph)
    squares: dict[str, np.ndarray] = {}
    for arrays in samples.values(graph, [x.inputs[0] for x in found]):
        for node, array in zip(found, arrays, strict=True):
            name = viewed_of(node.inputs[1]).attrs["name"]
            rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
            squares[name] = squares.get(name, 0.0) + np.square(rows).sum(0)
    return {name: np.sqrt(x).astype(np.float32) for name, x in squares.items()}


def check_ratio(what: str, ratio: object) -> None:
    """Refuse what is no share of a whole."""
    number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
    if not number or not 0 <= ratio <= 1:  # type: ignore[operator]
        raise DataError(f"{what} is a share between 0 and 1, as in 0.7, got {ratio!r}")


def _reason(graph: Graph, param: Node) -> str:
    """Why a weight stays as it is."""
    if not param.dtype.is_float:
        return f"it is {param.dtype}; prune what is float, before it is quantized"
    if param.type.rank != 2:
        return f"it has {param.type.rank} axes, not 2"
    if param.attrs["name"] not in graph.params:
        return "it is not known yet"
    if is_turned(graph, param) is None:
        return "nothing is multiplied by it"
    return ""


def is_turned(graph: Graph, param: Node) -> bool | None:
    """Whether the rows of a weight are inputs, not outputs; None where nothing multiplies by it."""
    for node in products(graph):
        b = node.inputs[1]
        if b is param:
            return True
        if b.op.name == "transpose" and b.inputs[0] is param:
            return False
    return None


def products(graph: Graph) -> list[Node]:
    """The products by a weight."""
    return [
        x
        for x in graph.nodes
        if x.op.name == "matmul" and viewed_of(x.inputs[1]).op.name == "param"
    ]


def score(name: str, array: np.ndarray, turned: bool) -> np.ndarray:
    """|w| as [out, in]; refused where it is no number, which has no place in an order."""
    check_finite("prune", name, array)
    return np.abs(array.T if turned else array).astype(np.float32)
