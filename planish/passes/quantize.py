"""Multiply integers: weights of 8 or 4 bits, by activations of 8 bits, or weights alone.

    %w = param : f32[4, 8]
    %0 = matmul(%x, %w) : f32[2, 8]
becomes
    %0 = quantize(%x, %scale_of_each_row_of_x, dtype=i8) : i8[2, 4]
    %1 = quantize(%w, %scale_of_each_column_of_w, dtype=i8) : i8[4, 8]
    %2 = matmul(%0, %1, out=i32) : i32[2, 8]
    %3 = dequantize(%2, %scale_of_each_row_of_x) : f32[2, 8]
    %4 = mul(%3, %scale_of_each_column_of_w) : f32[2, 8]

A scale is the largest magnitude over 127: that of a weight is known when a program is compiled,
that of an activation (mode "dynamic") is found for each row while it runs, in the kernel that makes
the row if that is a norm. Sums are exact. `fold` then stores the weight as i8; fusion makes the
scales part of the kernels around.

In mode "static" the scale of an activation is one number, chosen by `method` from what `calibrate`
saw (see `calibrate`), so that nothing need be found while the program runs.

With activations="asymmetric" what multiplies a weight has a zero, too, so that values of which most
are on one side, as after a GELU or a ReLU, use all integers. What that adds to a sum is known, the
zero times the sum of a column of the weight, and is taken away while sums are integers:

    %1 = quantize(%x, %scale_of_each_row, %zero_of_each_row, dtype=i8) : i8[2, 4]
    %2 = matmul(%1, %weight, out=i32) : i32[2, 8]
    %3 = sub(%2, mul(cast(%zero_of_each_row, dtype=i32), %sums_of_columns)) : i32[2, 8]

In mode "weights" activations stay as they are, and weights become floats again where they are read.

Of 4 bits, each `group` of so many neighbours along k has a scale of its own; the sums of the groups
are added as floats:

    %1 = cast(%scale_of_each, dtype=bf16) : bf16[8, 2, 1]
    %2 = quantize(%groups_of_w, %1, dtype=i4) : i4[8, 2, 32]
    %3 = scaled_matmul(%0, %2, %1) : f32[2, 8]

Tables are too sensitive for that: another `quantize`, of 8 bits, is for them.

Rows of a table that is a head, too, are taken from the integers, so that there is one array; so are
rows of tables that nothing multiplies by. What stays, and why, says `layers`.

Where fewer bits take longer, a weight may stay: `faster` ("decode", "prefill", "both") says which
times count. `calibrate` has each product timed, see `speed`, and becomes a pass whose option
`slower` names the weights that stay, so that its text, written down, needs no clock again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from planish.ir import types as t
from planish.ir.errors import DataError
from planish.ir.graph import Graph
from planish.ir.node import OPS, Node, viewed_of
from planish.ir.ops.arithmetic import cast
from planish.ir.ops.base import const
from planish.ir.ops.linalg import matmul, scaled_matmul, swap_last
from planish.ir.ops.quantize import dequantize, group_scale_of, quantize, range_of, scale_of
from planish.passes.calibrate import (
    METHODS,
    Histogram,
    Samples,
    Sides,
    digest,
    fallen,
    range_by,
    scale_by,
)
from planish.passes.finite import check_all_finite
from planish.passes.readers import is_product, products, readers, reads_rows, why_not
from planish.passes.rewrite import rewritten
from planish.passes.skip import matching, pattern_of, with_skipped
from planish.passes.speed import LAYER, RULES, Clock, Speed, speeds

MODES = ("dynamic", "static", "weights")
SIDES = ("symmetric", "asymmetric")
GROUPS = (32, 64, 128)  # weights of 4 bits that may share a scale
GROUP = 64  # a scale for so many is a quarter of a bit for each


@dataclass(frozen=True)
class Quantize:
    """Quantize f32 products by a weight, and tables; those whose name matches `skip` stay.

    Each output channel of a weight has a scale, or (`per_channel=False`) each weight; of 4 bits
    each `group` of neighbours in a channel, 64 where nothing is said.
    """

    bits: int = 8
    mode: str = "dynamic"
    activations: str = "symmetric"
    group: int = 0
    per_channel: bool = True
    skip: str = ""
    method: str = "mse"
    faster: str = ""  # the rule by which weights are to stay
    slower: str = ""  # patterns of those that do
    calibration: str = ""  # names what it was bound to
    scales: Mapping[str, tuple[float, float]] | None = field(  # and zeros, which may be 0
        default=None, compare=False, repr=False, metadata={"bound": True}
    )
    times: Mapping[str, Speed] | None = field(
        default=None, compare=False, repr=False, metadata={"bound": True}
    )

    notes: Mapping[str, str] | None = field(  # of weights, what was decided while looking
        default=None, compare=False, repr=False, metadata={"bound": True}
    )

    def __post_init__(self) -> None:
        if self.faster not in RULES:
            listed = ", ".join(RULES[1:])
            raise DataError(f"quantize: faster is one of {listed}, got {self.faster!r}")
        if self.bits not in (8, 4) or isinstance(self.bits, bool):
            raise DataError(f"quantize: bits is 8 or 4, got {self.bits!r}")
        if self.method not in METHODS:
            listed = ", ".join(METHODS)
            raise DataError(f"quantize: method is one of {listed}, got {self.method!r}")
        if self.bits == 8 and self.group:
            raise DataError(f"quantize: groups are for bits=4, got bits=8 and group={self.group!r}")
        if self.group and (self.group not in GROUPS or isinstance(self.group, bool)):
            listed = ", ".join(map(str, GROUPS))
            raise DataError(f"quantize: group is one of {listed}, got {self.group!r}")
        if self.bits == 4 and not self.per_channel:
            raise DataError("quantize: weights of 4 bits have scales in groups, not one for all")
        if self.mode not in MODES:
            raise DataError(f"quantize: mode is one of {', '.join(MODES)}, got {self.mode!r}")
        if self.activations not in SIDES:
            listed = " or ".join(SIDES)
            raise DataError(f"quantize: activations is {listed}, got {self.activations!r}")
        if self.mode == "weights" and self.asymmetric:
            raise DataError("quantize: mode=weights leaves activations as they are, not asymmetric")

    def __call__(self, graph: Graph) -> Graph:
        chosen = self.chosen(graph)
        check_all_finite("quantize", graph, chosen)
        self.check_bound(products(graph, chosen))
        work = _Rewriting(self, chosen)
        return rewritten(graph, work.step) if chosen else graph

    @property
    def asymmetric(self) -> bool:
        """Whether activations have a zero of their own."""
        return self.activations == "asymmetric"

    def chosen(self, graph: Graph) -> set[str]:
        """The names of the weights that change."""
        return {name for name, reason in self.reasons(graph).items() if not reason}

    @property
    def is_bound(self) -> bool:
        """Whether it has seen what it needs to see."""
        return not self.faster and (self.mode != "static" or self.scales is not None)

    def calibrate(self, graph: Graph, samples: Samples) -> Quantize:
        """Bound to what it is to know: which weights would be slower, and the scales of what is
        multiplied by the others; itself where it wants neither."""
        step = self
        if self.faster:
            if samples.clock is None:
                raise DataError(f"quantize: faster={self.faster} takes samples with a clock")
            step = self.timed(graph, samples.clock).judged(graph)
        return step.scaled(graph, samples) if step.mode == "static" and not step.scales else step

    def timed(self, graph: Graph, clock: Clock) -> Quantize:
        """Bound to times of products before and after, of those too that `slower` names."""
        chosen = replace(self, slower="").chosen(graph)
        check_all_finite("quantize", graph, chosen)
        change = replace(self, skip="", slower="", faster="", scales={LAYER: (1.0, 0.0)})
        return replace(self, times=speeds(graph, products(graph, chosen), change, clock))

    def judged(self, graph: Graph) -> Quantize:
        """With the weights that would be slower, by the rule and the times, as an option."""
        late = [name for name, speed in (self.times or {}).items() if speed.slower(self.faster)]
        parts = [x for x in (self.slower, pattern_of(late, self.reasons(graph))) if x]
        return replace(self, faster="", slower="|".join(parts))

    def scaled(self, graph: Graph, samples: Samples) -> Quantize:
        """Bound to the scales of what is multiplied by each weight."""
        found = products(graph, self.chosen(graph))
        seen = {name: Sides() if self.asymmetric else Histogram() for name, _ in found}
        for arrays in samples.values(graph, [node.inputs[0] for _, node in found]):
            for (name, _), array in zip(found, arrays, strict=True):
                seen[name].add(array)
        scales = {
            name: range_by(self.method, x)
            if isinstance(x, Sides)
            else (scale_by(self.method, x), 0.0)
            for name, x in seen.items()
        }
        notes = {name: note for name, x in seen.items() if (note := fallen(self.method, x))}
        return replace(self, scales=scales, notes=notes, calibration=digest(scales))

    def check_bound(self, found: list[tuple[str, Node]]) -> None:
        """Refuse static scales that nobody has found, and a rule without times."""
        if self.faster:
            raise DataError(
                f"quantize: faster={self.faster} has no times to go by; pl.quantize and "
                "pl.calibrate measure them"
            )
        if self.mode != "static":
            return
        missing = [name for name, _ in found if name not in (self.scales or {})]
        if missing:
            raise DataError(
                f"quantize: mode=static has no calibration for {missing[0]}; pl.quantize and "
                "pl.calibrate take calibration text, mode=dynamic needs none"
            )

    def reasons(self, graph: Graph) -> dict[str, str]:
        """For each weight of two axes or more why it stays as it is; "" where it does not."""
        found = {
            name: why_not(node, graph) or self._too_coarse(node, graph)
            for name, node in graph.param_nodes.items()
            if node.type.rank > 1 and node.dtype.is_float
        }
        found = with_skipped("quantize", found, self.skip, graph)
        late = matching("quantize", found, self.slower, "slower")
        return {n: why or (self._late(n) if n in late else "") for n, why in found.items()}

    def _late(self, name: str) -> str:
        """Why a weight stays that would be slower."""
        speed = (self.times or {}).get(name)
        shown = speed.worse() if speed else ""
        return f"{self.bits} bits would be slower: {shown or 'so says the option slower'}"

    def _too_coarse(self, param: Node, graph: Graph) -> str:
        """Why a weight cannot be, or should not be, of 4 bits."""
        if self.bits == 8:
            return ""
        if any(reads_rows(x) for x in graph.users[param]):
            return "rows of it are read, for which 4 bits are too coarse"
        depths = {x.inputs[1].shape[0] for x in readers(param, graph)}
        uneven = [k for k in depths if not isinstance(k, int) or k % self.group_size or not k]
        return f"groups of {self.group_size} do not divide {uneven[0]}" if uneven else ""

    @property
    def group_size(self) -> int:
        """How many weights share a scale, where it is a matter of groups."""
        return self.group or GROUP


def ones(b: Node) -> Node:
    """A row of ones, by which a matrix gives the sums of its columns."""
    return OPS["broadcast"](const(1, t.i8), shape=(1, b.shape[0]))


@dataclass
class _Rewriting:
    """The integers made so far, each value's once."""

    options: Quantize
    chosen: set[str]
    made: dict[tuple[Node, object], tuple[Node, ...]] = field(default_factory=dict)

    def step(self, node: Node) -> Node:
        """A product or some rows in integers; other nodes as they are."""
        if is_product(node) and self.is_chosen(node.inputs[1]):
            return self.product(*node.inputs)
        if node.op.name == "add":
            return node.with_inputs(tuple(self.whole(x) for x in node.inputs))
        if reads_rows(node) and self.is_chosen(node.inputs[0]):
            q, scale = self.integers(node.inputs[0], 1)
            return dequantize(node.with_inputs((q, *node.inputs[1:])), self.rows_of(node, scale))
        return node

    def whole(self, x: Node) -> Node:
        """A table as floats again, if it is one of the chosen."""
        is_table = x.op.name == "param" and self.is_chosen(x)
        return dequantize(*self.integers(x, 1)) if is_table else x

    def is_chosen(self, x: Node) -> bool:
        """Whether `x` is a view of a weight to be quantized."""
        return viewed_of(x).attrs.get("name") in self.chosen

    def integers(self, x: Node, axis: int) -> tuple[Node, Node]:
        """A weight as integers, and its scales along `axis`."""
        key = x, axis
        if key not in self.made:
            whole = x.op.name == "param" and not self.options.per_channel
            scale = scale_of(x, tuple(range(x.type.rank)) if whole else (axis,))
            self.made[key] = quantize(x, scale, dtype=t.i8), scale
        q, scale = self.made[key]
        return q, scale

    def product(self, a: Node, b: Node) -> Node:
        """a @ b by integers."""
        if self.options.bits == 4:
            return self.grouped(a, b)
        columns, scale = self.columns(b)
        if self.options.mode == "weights":
            return matmul(a, cast(columns, dtype=t.f32)) * scale
        rows, row_scale, *zero = self.activations(a, b)
        sums = matmul(rows, columns, out=t.i32)
        for x in zero:
            sums = sums - cast(x, dtype=t.i32) * matmul(ones(b), columns, out=t.i32)
        return dequantize(sums, row_scale) * scale

    def grouped(self, a: Node, b: Node) -> Node:
        """a @ b by integers of 4 bits, which have a scale for each group along k."""
        k, n = b.shape
        is_turned = b.op.name == "transpose" and b.inputs[0].op.name == "param"
        rows = b.inputs[0] if is_turned else swap_last(b)
        size = self.options.group_size
        q, scale = self.groups(rows, (n, k // size, size))
        weights = swap_last(OPS["reshape"](q, shape=(n, k)))
        scales = swap_last(OPS["reshape"](scale, shape=(n, k // size)))
        if self.options.mode == "weights":
            return scaled_matmul(a, weights, scales)
        activations, row_scale, *zero = self.activations(a, b)
        sums = scaled_matmul(activations, weights, scales)
        for shift in zero:
            sums = sums - shift * scaled_matmul(ones(b), weights, scales)
        return sums * row_scale

    def groups(self, x: Node, shape: tuple[int, ...]) -> tuple[Node, Node]:
        """The rows of a weight as groups of i4, and the scale of each; once."""
        key = x, shape
        if key not in self.made:
            grouped = OPS["reshape"](x, shape=shape)
            scale = group_scale_of(grouped, 2)
            self.made[key] = quantize(grouped, scale, dtype=t.i4), scale
        q, scale = self.made[key]
        return q, scale

    def activations(self, a: Node, b: Node) -> tuple[Node, ...]:
        """`a` as i8, a scale for each row, or the one that was found beside `b`; and a zero."""
        options, axis = self.options, a.type.rank - 1
        known = (
            (options.scales or {})[viewed_of(b).attrs["name"]] if options.mode == "static" else None
        )
        if (a, known) not in self.made:
            if known is not None:
                scale, *zero = (const(x, t.f32) for x in known[: 1 + options.asymmetric])
            elif options.asymmetric:
                scale, *zero = range_of(a, axis)
            else:
                scale, zero = scale_of(a, (axis,)), []
            self.made[a, known] = quantize(a, scale, *zero, dtype=t.i8), scale, *zero
        return self.made[a, known]

    def columns(self, b: Node) -> tuple[Node, Node]:
        """The matrix `b` as i8, and a scale for each column, or one.

        Of a weight that is read transposed, its rows are quantized, as where rows are taken.
        """
        if b.op.name == "transpose" and b.inputs[0].op.name == "param":
            q, scale = self.integers(b.inputs[0], 1)
            q = b.with_inputs((q,))
        else:
            q, scale = self.integers(b, 0)
        return q, OPS["reshape"](scale, shape=(scale.type.size,) if scale.type.size != 1 else ())

    def rows_of(self, node: Node, scale: Node) -> Node:
        """The scales of the rows that a node reads."""
        if scale.shape[0] == 1 != node.inputs[0].shape[0]:
            return OPS["reshape"](scale, shape=())
        if node.op.name == "take":
            return node.with_inputs((scale, *node.inputs[1:]))
        stops = (node.attrs["stops"][0], 1)
        return OPS["slice"](scale, **{**node.attrs, "stops": stops})
