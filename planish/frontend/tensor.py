"""Tensors: what a traced function computes with, and how ops are applied to them.

A `Tensor` stands for an array that exists when the program runs. It behaves like a NumPy array as
far as shapes go; what needs its *values* (`if`, `float()`, `np.asarray`) is refused, naming the
line and what to use instead. `apply` is the one door through which ops are applied: inside a
trace it makes nodes, on plain arrays it computes at once with the reference interpreter.

Inside a trace, plain arrays are constants of trace time: they are copied when a tensor meets
them. NumPy's global state, `print`, clocks and the like run once, while tracing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

import planish.ir.ops  # noqa: F401 - fills the op table
from planish.frontend.context import Trace, as_array, current, here
from planish.frontend.methods import ArrayMethods
from planish.frontend.shapes import matmul, power
from planish.frontend.sizes import SymbolicSize, plain_size
from planish.ir import types as t
from planish.ir.dims import Size
from planish.ir.errors import DTypeError, TraceError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS, Loc, Node
from planish.ir.types import TensorType


class Tensor(ArrayMethods):
    """An array of a running trace: a node, and the trace that it belongs to."""

    __slots__ = ("node", "trace")

    def __init__(self, node: Node, trace: Trace):
        self.node = node
        self.trace = trace

    @property
    def type(self) -> TensorType:  # type: ignore[override]
        """dtype and shape."""
        return self.node.type

    def apply(self, name: str, *operands: Any, **attrs: Any) -> Any:
        """Apply an op; see `apply`."""
        return apply(name, *operands, **attrs)

    def __repr__(self) -> str:
        return f"Tensor({self.type}, traced in {self.trace.name!r})"

    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise TraceError(
            f"{what} needs the value of a traced {self.type}, which is known only when the "
            f"compiled program runs; {instead}"
        )

    def __bool__(self) -> bool:
        self._refuse(
            "`if`, `while`, `and`, `or`, `not` or bool()",
            "use pnp.where(condition, a, b) to choose, & | ~ to combine",
        )

    def __float__(self) -> float:
        self._refuse("float()", "keep it a tensor, or return it and convert the result")

    def __int__(self) -> int:
        self._refuse("int()", "keep it a tensor, .astype('i32') changes the dtype")

    def __complex__(self) -> complex:
        self._refuse("complex()", "keep it a tensor")

    def __index__(self) -> int:
        self._refuse("using a tensor as an index or a count", "x[i] works on traced x, or pnp.take")

    def __contains__(self, item: Any) -> bool:
        self._refuse("`in`", "use (x == item).any()")

    def item(self, *args: Any) -> Any:
        """Refused: there is no value while tracing."""
        self._refuse(".item()", "keep it a tensor, or return it and convert the result")

    def tolist(self) -> list:
        """Refused: there are no values while tracing."""
        self._refuse(".tolist()", "return the tensor and convert the result")

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        self._refuse(
            "np.asarray(), or a NumPy function",
            "use the functions of planish.numpy (pnp.where, pnp.concat ...), which trace",
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return from_ufunc(ufunc, method, inputs, options)


class Parameter(ArrayMethods):
    """A weight of a model: a NumPy array that traces read by name and training replaces."""

    __slots__ = ("_array", "_promise", "name", "source")
    _promise: Callable[[], np.ndarray] | None
    source: object

    def __init__(self, array: Any, name: str = ""):
        self.name = name
        self.array = array

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has an array of its own."""
        return type(self), (self.array, self.name)

    @classmethod
    def blank(cls, shape: tuple[int, ...]) -> Parameter:
        """Zeros of any shape that take no memory: a weight that is about to be loaded."""
        found = cls(0.0)
        found._array = np.broadcast_to(found._array, shape)
        return found

    @property
    def array(self) -> np.ndarray:
        """The weight, read-only; assign a new array to change it."""
        if self._promise is not None:
            source = self.source
            self.array = self._promise()
            self.source = source
        return self._array

    @array.setter
    def array(self, value: Any) -> None:
        found = as_array(value)
        found = np.ascontiguousarray(found, t.dtype(found.dtype).numpy).view()
        found.flags.writeable = False
        self._array, self._promise, self.source = found, None, None

    def promise(self, make: Callable[[], np.ndarray]) -> object:
        """Have the array, of the same type, made when somebody asks for it.

        Returns what `source` is until somebody sets the array.
        """
        self._promise = make
        self.source = object()
        return self.source

    @property
    def type(self) -> TensorType:  # type: ignore[override]
        """dtype and shape."""
        return TensorType(t.dtype(self._array.dtype), self._array.shape)

    def apply(self, name: str, *operands: Any, **attrs: Any) -> Any:
        """Apply an op; see `apply`."""
        return apply(name, *operands, **attrs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        trace = current()
        if trace is not None:
            raise TraceError(
                f"np.asarray of parameter {self.name!r} inside {trace} would freeze its values "
                "into the program; use planish.numpy functions, or parameter.array to mean that"
            )
        return self._array if dtype is None else self._array.astype(dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return from_ufunc(ufunc, method, inputs, options)

    def __repr__(self) -> str:
        return f"Parameter({self.name or 'unnamed'}: {self.type})"


def apply(name: str, *operands: Any, **attrs: Any) -> Any:
    """The op called `name` on tensors, parameters, arrays and numbers.

    With a tensor, a parameter inside a trace or a symbolic size among the operands, the result is a
    Tensor; so it is for ops without operands inside a trace. Else it is a NumPy array.
    """
    op, trace = OPS[name], current()
    for key, value in attrs.items():
        if type(value) not in _PLAIN:
            attrs[key] = _plain(value)
    for x in operands:
        if isinstance(x, Tensor) and x.trace is not trace:
            check_trace(x, trace)
    if trace is None:
        return _eager(op, operands, attrs)
    if operands and not any(map(_is_traced, operands)) and not _has_size(attrs):
        return _eager(op, operands, attrs)
    nodes = _lifted(trace, op, operands)
    loc = None if name in _NOWHERE else here(trace.scope)
    return Tensor(_located(op.applied(nodes, attrs, loc), loc, nodes), trace)


def check_trace(x: Tensor, trace: Trace | None) -> None:
    """Refuse a tensor of a trace that has ended, or of another one."""
    if trace is None:
        raise TraceError(
            f"a tensor {x.type} of {x.trace} was used after that trace ended; "
            "return it from the traced function instead of storing it"
        )
    if not trace.sees(x.trace):
        raise TraceError(
            f"a tensor {x.type} of {x.trace} was used in {trace}; "
            "pass it as an argument instead of storing it"
        )


def _is_traced(x: Any) -> bool:
    return isinstance(x, (Tensor, Parameter, SymbolicSize, Size))


def _has_size(attrs: dict[str, Any]) -> bool:
    """Whether a shape or a bound is symbolic."""
    tuples = (value if isinstance(value, tuple) else (value,) for value in attrs.values())
    return any(isinstance(item, Size) for items in tuples for item in items)


def _plain(value: Any) -> Any:
    """An attribute as the IR keeps it."""
    if isinstance(value, SymbolicSize):
        return value.size
    if isinstance(value, (tuple, list)):
        return tuple([x if type(x) in _PLAIN else _plain(x) for x in value])
    return value.item() if isinstance(value, np.generic) else value


_PLAIN = frozenset({int, float, bool, str, type(None), Size, t.DType})  # types of such


def _lifted(trace: Trace, op: Any, operands: tuple) -> list[Any]:
    """Operands as nodes; Python numbers stay where the op gives them their partner's dtype."""
    if all(map(_has_node, operands)):
        return [_lift(trace, x, False) for x in operands]
    keeps_numbers = op.kind == "elementwise" or op.name == "concat"
    constants = [x for x in operands if isinstance(x, (np.ndarray, list, tuple))]
    nodes = [_lift(trace, x, keeps_numbers) for x in operands]
    found = [x.dtype for x in nodes if isinstance(x, Node) and x.dtype.is_float]
    if constants and found:
        _refuse_silent_f64(operands, found)
    sized = [i for i, x in enumerate(operands) if isinstance(x, (SymbolicSize, Size))]
    common = next(
        (x.dtype for i, x in enumerate(nodes) if isinstance(x, Node) and i not in sized), None
    )
    if keeps_numbers and common is not None:  # a size is as weak as a Python int
        for i in sized:
            nodes[i] = OPS["cast"](nodes[i], dtype=t.weak(1, common))
    if keeps_numbers and not any(isinstance(x, Node) for x in nodes):
        nodes = [_lift(trace, x, False) for x in nodes]
    return nodes


def _has_node(x: Any) -> bool:
    return isinstance(x, (Tensor, Parameter))


def _lift(trace: Trace, x: Any, keeps_numbers: bool) -> Any:
    if isinstance(x, Tensor):
        return x.node
    if isinstance(x, Node):
        return x
    if isinstance(x, Parameter):
        return trace.closure.weight(x)
    if isinstance(x, (SymbolicSize, Size)):
        return OPS["size"](size=plain_size(x))
    if keeps_numbers and isinstance(x, (bool, int, float)):
        return float(x) if isinstance(x, np.floating) else x
    return trace.closure.constant(as_array(x))


def _refuse_silent_f64(operands: tuple, floats: list) -> None:
    """A NumPy array that is f64 by default must not widen a narrower computation unnoticed."""
    narrow = min(floats, key=lambda d: d.bits)
    for x in operands:
        if isinstance(x, np.ndarray) and x.dtype == np.float64 and narrow.bits < 64:
            raise DTypeError(
                f"{narrow} meets a constant array float64{list(x.shape)}, which would silently "
                f"make the result float64; write array.astype(np.{narrow.numpy.name}), or "
                "x.astype('f64') to mean it"
            )


def _located(node: Node, loc: Loc | None, known: list[Any]) -> Node:
    """`node`, and what was made with it (casts), said to come from `loc`."""
    made = [x for x in node.inputs if x not in known]
    if not made and node.loc is loc:
        return node
    if node in known or (node.loc or loc) is not loc or node.op.name in _NOWHERE:
        return node
    inputs = tuple([_located(x, loc, known) for x in node.inputs])
    return Node(node.op, inputs, node.attrs, node.type, loc)


_NOWHERE = frozenset({"input", "param", "const"})  # they come from no line


def _eager(op: Any, operands: tuple, attrs: dict[str, Any]) -> np.ndarray:
    """The op computed at once, on arrays."""
    given = [x.array if isinstance(x, Parameter) else x for x in operands]
    if op.kind != "elementwise" or not any(isinstance(x, np.ndarray) for x in given):
        given = [as_array(x) for x in given]
    arrays = [x for x in given if not _is_number(x)]
    arrays = [as_array(x) for x in arrays]
    inputs = iter(
        OPS["input"](name=f"x{i}", type=TensorType(t.dtype(x.dtype), x.shape))
        for i, x in enumerate(arrays)
    )
    nodes = [x if _is_number(x) else next(inputs) for x in given]
    node = op(*nodes, **attrs)
    graph = Graph(op.name, tuple(x for x in nodes if isinstance(x, Node)), (node,))
    return evaluate(graph, *arrays)[0]


def _is_number(x: Any) -> bool:
    return isinstance(x, (bool, int, float))


# NumPy's functions that act element by element, by the op that each is
UFUNCS = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div",
    "floor_divide": "floor_div", "remainder": "mod", "mod": "mod", "negative": "neg",
    "absolute": "abs", "fabs": "abs", "sign": "sign", "exp": "exp", "exp2": "exp2",
    "expm1": "expm1", "log": "log", "log2": "log2", "log1p": "log1p", "sqrt": "sqrt", "sin": "sin",
    "cos": "cos", "tan": "tan", "tanh": "tanh", "square": "square", "reciprocal": "reciprocal",
    "floor": "floor", "ceil": "ceil", "rint": "round", "trunc": "trunc", "isnan": "isnan",
    "isinf": "isinf", "isfinite": "isfinite", "maximum": "maximum", "minimum": "minimum",
    "equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt",
    "greater_equal": "ge", "logical_and": "logical_and", "logical_or": "logical_or",
    "logical_xor": "logical_xor", "logical_not": "logical_not", "bitwise_and": "bitwise_and",
    "bitwise_or": "bitwise_or", "bitwise_xor": "bitwise_xor", "left_shift": "shift_left",
    "right_shift": "shift_right",
}  # fmt: skip


def from_ufunc(ufunc: np.ufunc, method: str, inputs: tuple, options: dict[str, Any]) -> Any:
    """A NumPy function applied to tensors or parameters: traced where there is such an op."""
    name = ufunc.__name__
    if options.get("out") is not None:
        raise TraceError(
            f"np.{name} into an array (out=, or `array += tensor`) would store a traced tensor "
            "in a NumPy array; write y = array + tensor"
        )
    if method != "__call__" or any(v is not None for v in options.values()):
        how = f".{method}" if method != "__call__" else f" with {', '.join(options)}"
        raise TraceError(f"np.{name}{how} is not traced; use the functions of planish.numpy")
    if name == "matmul":
        return matmul(apply, *inputs)
    if name == "power":
        return power(apply, *inputs)
    if name in ("invert", "bitwise_not"):
        return ~inputs[0]
    if name in ("bitwise_and", "bitwise_or", "bitwise_xor") and all(
        getattr(x, "dtype", np.dtype(bool)) == np.bool_ for x in inputs
    ):
        name = name.replace("bitwise", "logical")
    if name not in UFUNCS or UFUNCS[name] not in OPS:
        raise TraceError(f"np.{name} has no traced form; supported are {', '.join(UFUNCS)}")
    return apply(UFUNCS[name], *inputs)
