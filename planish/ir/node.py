"""Nodes and ops: the value that a graph is made of, and what is known about each kind of it.

A `Node` is immutable and equal only to itself. Applying an op to nodes makes a node:
`tanh(x @ w + b)`. There is no builder and no cache. An `Op` is a class with one instance, entered
in `OPS` by `register`, which states everything known about the operation (see `Op`).
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from planish.ir import attributes
from planish.ir.dims import upper
from planish.ir.errors import IRError, ShapeError
from planish.ir.types import TensorType, Type

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Loc:
    """Where in the user's model a node was made; `scope` is the module path ("h.3.mlp.fc1")."""

    file: str
    line: int
    function: str = ""
    scope: str = ""

    def __str__(self) -> str:
        name = self.file.replace("\\", "/").rsplit("/", 1)[-1]
        return f"{name}:{self.line}" + (f" {self.scope}" if self.scope else "")


class Attrs(Mapping[str, Any]):
    """An immutable, hashable mapping, sorted by name."""

    __slots__ = ("_hash", "_items", "_kinds")

    def __init__(self, items: Mapping[str, Any]):
        self._items = dict(sorted(items.items()) if len(items) > 1 else items)
        self._kinds: Any = None  # of the values, once they are compared
        try:
            self._hash = hash(tuple(self._items.items()))
        except TypeError as error:
            raise IRError(f"attributes must be hashable: {self._items}") from error

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def keys(self) -> KeysView[str]:
        """The names; this and the next are quicker than those of any mapping."""
        return self._items.keys()

    def values(self) -> ValuesView[Any]:
        """The values."""
        return self._items.values()

    def items(self) -> ItemsView[str, Any]:
        """Names and values."""
        return self._items.items()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Attrs) or self is other:
            return self is other
        return self._items == other._items and self.kinds == other.kinds

    @property
    def kinds(self) -> Any:
        """What tells apart equal values."""
        if self._kinds is None:
            self._kinds = _kind((*self._items.values(),))
        return self._kinds

    def __repr__(self) -> str:
        return repr(self._items)


def _kind(x: Any) -> Any:
    """What tells apart equal values: 1, 1.0 and True, 0.0 and -0.0."""
    if type(x) is not tuple:
        return repr(x) if type(x) is float else type(x)
    kinds = tuple(map(type, x))
    return tuple(map(_kind, x)) if float in kinds or tuple in kinds else kinds


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Node:
    """A value in a graph: `op` applied to `inputs`. Equal only to itself."""

    op: Op
    inputs: tuple[Node, ...]
    attrs: Attrs
    type: Any  # TensorType; TupleType for a fused node with several results
    loc: Loc | None = None

    @property
    def shape(self) -> tuple:
        """The shape of the result."""
        return self.type.shape

    @property
    def dtype(self):
        """The dtype of the result."""
        return self.type.dtype

    @property
    def key(self) -> tuple:
        """Two nodes with equal keys compute the same value."""
        return (self.op.name, self.inputs, self.attrs)

    def at(self, loc: Loc | None) -> Node:
        """The same node, said to come from `loc`; itself where it has a location."""
        if loc is None or self.loc is not None:
            return self
        return Node(self.op, self.inputs, self.attrs, self.type, loc)

    def with_inputs(self, inputs: tuple[Node, ...]) -> Node:
        """The same op on other inputs; itself where nothing changed."""
        if inputs == self.inputs:  # nodes are equal only to themselves
            return self
        types = [x.type for x in inputs]
        same = types == [x.type for x in self.inputs]  # so the result's type is, too
        found = self.type if same else self.op.type_of(tuple(types), self.attrs)
        return Node(self.op, inputs, self.attrs, found, self.loc)

    def __repr__(self) -> str:
        operands = ", ".join(x.op.name for x in self.inputs)
        return f"<{self.op.name}({operands}) : {self.type}>"

    def __add__(self, other: object) -> Node:
        return OPS["add"](self, other)

    def __radd__(self, other: object) -> Node:
        return OPS["add"](other, self)

    def __sub__(self, other: object) -> Node:
        return OPS["sub"](self, other)

    def __rsub__(self, other: object) -> Node:
        return OPS["sub"](other, self)

    def __mul__(self, other: object) -> Node:
        return OPS["mul"](self, other)

    def __rmul__(self, other: object) -> Node:
        return OPS["mul"](other, self)

    def __truediv__(self, other: object) -> Node:
        return OPS["div"](self, other)

    def __rtruediv__(self, other: object) -> Node:
        return OPS["div"](other, self)

    def __pow__(self, other: object) -> Node:
        return OPS["pow"](self, other)

    def __neg__(self) -> Node:
        return OPS["neg"](self)

    def __matmul__(self, other: object) -> Node:
        return OPS["matmul"](self, other)


def viewed_of(x: Node) -> Node:
    """What `x` is a view of; itself where it is none."""
    while x.op.kind == "view":
        x = x.inputs[0]
    return x


OPS: dict[str, Op] = {}
UNIQUE = ("fused", "param")  # ops of which hardly two nodes have the same attributes


class Op:
    """Everything known about one operation.

    name      how it prints                     kind      how it is lowered, see `KINDS`
    arity     number of operands, None = any    no_vjp    why it has no gradient, or None
    prepare   friendly operands and attributes -> nodes and canonical attributes (promotion,
              negative axes); runs once, when a node is made by a call
    infer     types and attributes -> type; refuses with IRError or a subclass, never crashes
    ref       its meaning on NumPy arrays (attributes: sizes are ints, dtypes are planish dtypes)
    vjp       (y, dy, *xs, **attrs) -> one node or None per operand, for y = op(*xs). May have the
              broadcast shape; autodiff sums it back
    element   its meaning element by element in loop IR: (out_index, reads, in_types, out_type,
              **attrs) -> Expr, where reads[i](index) is an element of operand i
    """

    name = ""
    kind = ""
    arity: int | None = None
    at_least = 0  # operands of an op that has no arity
    no_vjp: str | None = None

    def __call__(self, *operands: object, **attrs: Any) -> Node:
        return self.applied(operands, attrs)

    def applied(self, operands: Sequence, attrs: dict[str, Any], loc: Loc | None = None) -> Node:
        """The node of this op on operands, said to come from `loc`."""
        self.check_arity(len(operands))
        inputs, canonical = self.prepare(tuple(operands), attrs)
        kept = Attrs(canonical)
        return Node(self, inputs, kept, self.type_of(tuple([x.type for x in inputs]), kept), loc)

    def prepare(self, operands: tuple, attrs: dict[str, Any]) -> tuple[tuple[Node, ...], dict]:
        """Operands as nodes, attributes in canonical form."""
        for x in operands:
            if not isinstance(x, Node):
                raise IRError(f"{self.name} takes nodes, got {type(x).__name__}")
        return operands, attrs

    @cached_property
    def attr_names(self) -> tuple[str, ...]:
        """The attributes that `infer` takes, in order."""
        code = type(self).infer.__code__  # which `inspect.signature` reads in 0.2 ms
        return code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]

    @cached_property
    def required_attrs(self) -> tuple[str, ...]:
        """Those of them without a default."""
        known = type(self).infer.__kwdefaults__ or {}
        return tuple(n for n in self.attr_names if n not in known)

    def check_arity(self, count: int) -> None:
        """Refuse a wrong number of operands."""
        if self.arity is not None and count != self.arity:
            raise IRError(f"{self.name} takes {self.arity} operands, got {count}")
        if count < self.at_least:
            raise IRError(f"{self.name} takes at least {self.at_least} operands, got {count}")

    def type_of(self, types: tuple[Type, ...], attrs: Mapping[str, Any]) -> Type:
        """`infer`, with arity and attribute names checked and the op named in every refusal."""
        # a fused op's attributes hold graphs, which hold weights: they must not be kept
        if isinstance(attrs, Attrs) and self.name not in UNIQUE:
            return _inferred(self, types, attrs)
        return self.checked_type(types, attrs)

    def checked_type(self, types: tuple[Type, ...], attrs: Mapping[str, Any]) -> Type:
        """`infer`, with arity, types, attribute names and values checked."""
        self.check_arity(len(types))
        if self.kind not in ("get", "fused") and any(type(x) is not TensorType for x in types):
            raise IRError(f"{self.name} takes tensors; use get for a result of a fused node")
        unknown = [n for n in attrs if n not in self.attr_names]
        missing = [n for n in self.required_attrs if n not in attrs]
        if unknown or missing:
            wrong = f"has no attribute {unknown[0]!r}" if unknown else f"needs {missing[0]!r}"
            raise IRError(f"{self.name} {wrong}; its attributes are {self.attr_names}")
        attributes.check(self.name, self.infer.__annotations__, attrs)
        found = self.infer(*types, **attrs)
        if isinstance(found, TensorType):
            refuse_oversize(self.name, found)
        return found

    def infer(self, *types: Any, **attrs: Any) -> Type:
        """The type of the result."""
        raise NotImplementedError(self.name)

    def ref(self, *arrays: np.ndarray, **attrs: Any) -> Any:
        """The result on arrays."""
        raise NotImplementedError(self.name)

    def vjp(self, y: Node, dy: Node, *xs: Node, **attrs: Any) -> tuple[Node | None, ...]:
        """Gradients of the operands, given the gradient `dy` of the result `y`."""
        raise NotImplementedError(self.name)

    def element(self, out_index, reads, in_types, out_type, **attrs):
        """One element of the result, in loop IR."""
        raise NotImplementedError(self.name)


@lru_cache(maxsize=1 << 13)
def _inferred(op: Op, types: tuple[Type, ...], attrs: Attrs) -> Type:
    """Passes infer the same types again and again: of each new node, and to verify it."""
    return op.checked_type(types, attrs)


def refuse_oversize(name: str, found: TensorType) -> None:
    """Refuse an array that no memory holds, before anything is allocated for it."""
    size = upper(found.size)
    if size is not None and size * found.dtype.itemsize >= 1 << 63:
        raise ShapeError(f"{name}: {found} has {size} elements, more than can be addressed")


# How lowering treats an op. The first group is "pull shaped": an output element is an expression of
# input elements, so such ops compose into one kernel by composing `element`.
KINDS = (
    "leaf", "elementwise", "view", "indexing", "random",   # pull shaped
    "reduction", "contraction", "composite", "special", "fused", "get",
)  # fmt: skip


def register(cls: type[Op]) -> Op:
    """Make the one instance of an op class and enter it in `OPS`."""
    op = cls()
    if op.name in OPS or op.kind not in KINDS:
        raise IRError(f"op {op.name!r} of kind {op.kind!r} is registered twice or has no kind")
    OPS[op.name] = op
    return op
