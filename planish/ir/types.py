"""Types of values: dtypes, tensor types, and the promotion rule.

    type ::= TensorType(dtype, shape)  f32[8, 64]   |   TupleType(items)   (f32[8], f32[8])

Promotion is NumPy 2's, except that f16 with bf16 gives f32 and nothing silently becomes f64:
Python scalars are weak (they take the dtype of the array they meet), int meets float as the
float, and two arrays of different float widths meet at the wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, Union

import numpy as np

from planish.ir.dims import AnySize, Shape, product
from planish.ir.errors import DTypeError
from planish.ir.later import later

ml_dtypes = later("ml_dtypes")

_ADDED = ("bfloat16", "int4")  # types that NumPy does not have


@dataclass(frozen=True, eq=False)
class DType:
    """An element type. `kind` is "f" float, "i" signed, "u" unsigned, "b" bool.

    There is one object for each, which copies share, so that comparing them costs nothing.
    """

    name: str
    kind: str
    bits: int
    scalar: str  # the type of a value, in NumPy or `ml_dtypes`

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def __reduce__(self) -> tuple:
        return dtype, (self.name,)

    @cached_property
    def numpy(self) -> np.dtype:
        """The dtype of arrays."""
        home = ml_dtypes if self.scalar in _ADDED else np
        return np.dtype(getattr(home, self.scalar))

    @property
    def is_float(self) -> bool:
        """Whether values are floating-point numbers."""
        return self.kind == "f"

    @property
    def is_int(self) -> bool:
        """Whether values are integers (bool is not)."""
        return self.kind in "iu"

    @property
    def itemsize(self) -> int:
        """Bytes of one element (i4 is unpacked here; packed storage is the layout's affair)."""
        return max(1, self.bits // 8)

    @property
    def least(self) -> int:
        """The least value of an integer dtype."""
        return -(1 << (self.bits - 1)) if self.kind == "i" else 0

    @property
    def most(self) -> int:
        """The greatest value of an integer dtype."""
        return (1 << (self.bits - (self.kind == "i"))) - 1


f64 = DType("f64", "f", 64, "float64")
f32 = DType("f32", "f", 32, "float32")
f16 = DType("f16", "f", 16, "float16")
bf16 = DType("bf16", "f", 16, "bfloat16")
i64 = DType("i64", "i", 64, "int64")
i32 = DType("i32", "i", 32, "int32")
i8 = DType("i8", "i", 8, "int8")
i4 = DType("i4", "i", 4, "int4")
u32 = DType("u32", "u", 32, "uint32")
u8 = DType("u8", "u", 8, "uint8")
boolean = DType("bool", "b", 8, "bool_")

DTYPES = {d.name: d for d in (f64, f32, f16, bf16, i64, i32, i8, i4, u32, u8, boolean)}

_BY_CODE = {
    np.dtype(getattr(np, x.scalar)).str: x for x in DTYPES.values() if x.scalar not in _ADDED
}


def dtype(name: object) -> DType:
    """The DType called `name`: "f32", "float32", np.float32, a NumPy dtype, or a DType."""
    if isinstance(name, DType):
        return name
    if isinstance(name, str) and name in DTYPES:
        return DTYPES[name]
    if isinstance(name, np.dtype) and name.str in _BY_CODE:
        return _BY_CODE[name.str]
    try:
        # np.dtype(None) is float64: a dtype that nobody gave is no dtype
        wanted = np.dtype(name).newbyteorder("=") if name is not None else None  # type: ignore
    except TypeError:
        wanted = None
    for known in DTYPES.values():
        if wanted is not None and wanted == known.numpy:  # NumPy says None == np.dtype("f8")
            return known
    shown = repr(name) if wanted is None else wanted
    raise DTypeError(f"dtype {shown} is not supported; supported are {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True)
class TensorType:
    """An array type: dtype and shape."""

    dtype: DType
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    __repr__ = __str__

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> AnySize:
        """Number of elements."""
        return product(self.shape)

    def with_shape(self, shape: Shape) -> TensorType:
        """The same dtype with another shape."""
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape with another dtype."""
        return TensorType(dtype, self.shape)


@dataclass(frozen=True, slots=True)
class TupleType:
    """The type of a node with several results (only `fused` has them)."""

    items: tuple[TensorType, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.items))})"

    __repr__ = __str__


Type: TypeAlias = Union[TensorType, TupleType]

_RANK = {"b": 0, "u": 1, "i": 2, "f": 3}


def promote(a: DType, b: DType) -> DType:
    """The dtype at which two arrays meet (NumPy 2's rule, see the module docstring)."""
    if a == b:
        return a
    if a.kind == b.kind:
        if a.bits == b.bits:  # f16 and bf16
            return f32
        return a if a.bits > b.bits else b
    low, high = sorted((a, b), key=lambda d: _RANK[d.kind])
    if {low.kind, high.kind} == {"u", "i"} and low.bits >= high.bits:
        return {8: i32, 32: i64}[low.bits]
    return high


def weak(value: bool | int | float, partner: DType) -> DType:
    """The dtype a Python scalar takes when it meets an array of dtype `partner`."""
    if isinstance(value, bool) or partner.is_float:
        return partner
    if isinstance(value, int):
        return i64 if partner == boolean else partner
    return f32  # a Python float meets an integer array
