"""Operators and methods of arrays, for traced tensors and for parameters alike.

`ArrayMethods` is everything NumPy users expect of an array object, said in ops. A class that
mixes it in gives `type` (its TensorType) and `apply` (how an op is applied to it).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planish.frontend.indexing import MASKED, At, index
from planish.frontend.shapes import (
    extremum,
    matmul,
    mean,
    power,
    reduce,
    reshape,
    squeeze,
    swapaxes,
    transpose,
    variance,
)
from planish.frontend.sizes import shown
from planish.ir import types as t
from planish.ir.errors import AxisError, TraceError, UnsupportedError
from planish.ir.types import TensorType


class ArrayMethods:
    """Operators and methods of an array."""

    __slots__ = ()
    __array_priority__ = 1000
    __hash__ = None  # type: ignore[assignment]  # == compares elements, as in NumPy

    type: TensorType

    def apply(self, name: str, *operands: Any, **attrs: Any) -> Any:
        """Apply the op called `name`."""
        raise NotImplementedError

    # what it is

    @property
    def shape(self) -> tuple[Any, ...]:
        """The sizes of the axes: ints, and symbolic sizes that may be used like ints."""
        return tuple(shown(size) for size in self.type.shape)

    @property
    def dtype(self) -> np.dtype:
        """The element type, as NumPy calls it."""
        return self.type.dtype.numpy

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.type.rank

    @property
    def size(self) -> Any:
        """Number of elements."""
        return shown(self.type.size)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.type.dtype.itemsize

    @property
    def T(self) -> Any:
        """The axes in reverse order."""
        return transpose(self.apply, self, None)

    @property
    def mT(self) -> Any:
        """The last two axes exchanged."""
        if self.ndim < 2:
            raise AxisError(f"mT takes an array of at least 2 axes, got {self.type}")
        return swapaxes(self.apply, self, -1, -2)

    @property
    def at(self) -> At:
        """Functional updates: `x.at[0].set(1)` is x with row 0 replaced."""
        return At(self)

    def __getitem__(self, key: Any) -> Any:
        return index(self.apply, self, self.type.shape, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TraceError(
            f"x[{_key_text(key)}] = ... would change a traced array, which cannot be; "
            f"write x = x.at[{_key_text(key)}].set(...), or pnp.where(mask, new, x)"
        )

    def __len__(self) -> int:
        if not self.ndim:
            raise TraceError(f"len() of a scalar {self.type}")
        first = self.type.shape[0]
        if isinstance(first, int):
            return first
        raise TraceError(f"len() of {self.type} is symbolic; use x.shape[0], which may be {first}")

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self))])

    # arithmetic

    def __add__(self, other: Any) -> Any:
        return self.apply("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self.apply("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self.apply("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.apply("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self.apply("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.apply("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.apply("div", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self.apply("floor_div", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self.apply("floor_div", other, self)

    def __mod__(self, other: Any) -> Any:
        return self.apply("mod", self, other)

    def __rmod__(self, other: Any) -> Any:
        return self.apply("mod", other, self)

    def __pow__(self, other: Any) -> Any:
        return power(self.apply, self, other)

    def __rpow__(self, other: Any) -> Any:
        return self.apply("pow", other, self)

    def __matmul__(self, other: Any) -> Any:
        return matmul(self.apply, self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return matmul(self.apply, other, self)

    def __neg__(self) -> Any:
        return self.apply("neg", self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self.apply("abs", self)

    def __invert__(self) -> Any:
        return self.apply("logical_not" if self.type.dtype == t.boolean else "bitwise_not", self)

    # comparison and logic

    def __eq__(self, other: Any) -> Any:
        return False if other is None else self.apply("eq", self, other)

    def __ne__(self, other: Any) -> Any:
        return True if other is None else self.apply("ne", self, other)

    def __lt__(self, other: Any) -> Any:
        return self.apply("lt", self, other)

    def __le__(self, other: Any) -> Any:
        return self.apply("le", self, other)

    def __gt__(self, other: Any) -> Any:
        return self.apply("gt", self, other)

    def __ge__(self, other: Any) -> Any:
        return self.apply("ge", self, other)

    def __and__(self, other: Any) -> Any:
        return self._logic("and", self, other)

    def __rand__(self, other: Any) -> Any:
        return self._logic("and", other, self)

    def __or__(self, other: Any) -> Any:
        return self._logic("or", self, other)

    def __ror__(self, other: Any) -> Any:
        return self._logic("or", other, self)

    def __xor__(self, other: Any) -> Any:
        return self._logic("xor", self, other)

    def __rxor__(self, other: Any) -> Any:
        return self._logic("xor", other, self)

    def __lshift__(self, other: Any) -> Any:
        return self.apply("shift_left", self, other)

    def __rlshift__(self, other: Any) -> Any:
        return self.apply("shift_left", other, self)

    def __rshift__(self, other: Any) -> Any:
        return self.apply("shift_right", self, other)

    def __rrshift__(self, other: Any) -> Any:
        return self.apply("shift_right", other, self)

    def _logic(self, name: str, a: Any, b: Any) -> Any:
        family = "logical" if self.type.dtype == t.boolean else "bitwise"
        return self.apply(f"{family}_{name}", a, b)

    # methods

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        """The same values in another dtype."""
        return self.apply("cast", self, dtype=t.dtype(dtype))

    def reshape(self, *shape: Any) -> Any:
        """The same elements in another shape; one size may be -1."""
        return reshape(self.apply, self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Any:
        """The axes in another order; reversed where none is given."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None
        return transpose(self.apply, self, order)

    def swapaxes(self, axis1: int, axis2: int) -> Any:
        """Two axes exchanged."""
        return swapaxes(self.apply, self, axis1, axis2)

    def flatten(self) -> Any:
        """All elements along one axis."""
        return reshape(self.apply, self, -1)

    ravel = flatten

    def squeeze(self, axis: Any = None) -> Any:
        """Without axes of size 1."""
        return squeeze(self.apply, self, axis)

    def take(self, indices: Any, axis: int = 0) -> Any:
        """The slices at `indices` along `axis`."""
        return self.apply("take", self, indices, axis=axis)

    def clip(self, min: Any = None, max: Any = None) -> Any:
        """Every element moved into [min, max]."""
        low = self if min is None else self.apply("maximum", self, min)
        return low if max is None else self.apply("minimum", low, max)

    def sum(
        self, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False
    ) -> Any:
        """The sum over `axis`."""
        return reduce(self.apply, "sum", self, axis, keepdims, dtype, out)

    def prod(
        self, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False
    ) -> Any:
        """The product over `axis`."""
        return reduce(self.apply, "prod", self, axis, keepdims, dtype, out)

    def max(self, axis: Any = None, out: None = None, keepdims: bool = False) -> Any:
        """The maximum over `axis`."""
        return reduce(self.apply, "max", self, axis, keepdims, None, out)

    def min(self, axis: Any = None, out: None = None, keepdims: bool = False) -> Any:
        """The minimum over `axis`."""
        return reduce(self.apply, "min", self, axis, keepdims, None, out)

    def any(self, axis: Any = None, out: None = None, keepdims: bool = False) -> Any:
        """Whether any element along `axis` is true."""
        return reduce(self.apply, "any", self, axis, keepdims, None, out)

    def all(self, axis: Any = None, out: None = None, keepdims: bool = False) -> Any:
        """Whether all elements along `axis` are true."""
        return reduce(self.apply, "all", self, axis, keepdims, None, out)

    def nonzero(self) -> Any:
        """Refused: how many there are depends on data."""
        raise UnsupportedError(MASKED.format(what="the result of nonzero"))

    def mean(
        self, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False
    ) -> Any:
        """The mean over `axis`."""
        return mean(self.apply, self, axis, keepdims, dtype, out)

    def var(
        self, axis: Any = None, dtype: Any = None, out: None = None, ddof: int = 0,
        keepdims: bool = False,
    ) -> Any:  # fmt: skip
        """The variance over `axis`."""
        return variance(self.apply, self, axis, keepdims, ddof, dtype, out)

    def std(
        self, axis: Any = None, dtype: Any = None, out: None = None, ddof: int = 0,
        keepdims: bool = False,
    ) -> Any:  # fmt: skip
        """The standard deviation over `axis`."""
        return self.apply("sqrt", variance(self.apply, self, axis, keepdims, ddof, dtype, out))

    def argmax(self, axis: Any = None, out: None = None, keepdims: bool = False) -> Any:
        """The place of the maximum along `axis`, the first among equals."""
        return extremum(self.apply, "argmax", self, axis, keepdims, out)

    def argmin(self, axis: Any = None, out: None = None, keepdims: bool = False) -> Any:
        """The place of the minimum along `axis`, the first among equals."""
        return extremum(self.apply, "argmin", self, axis, keepdims, out)

    def round(self, decimals: int = 0, out: None = None) -> Any:
        """The nearest integers, ties to even."""
        if decimals or out is not None:
            raise TraceError("round of a traced array takes no decimals and no out")
        return self.apply("round", self)

    def copy(self) -> Any:
        """Itself: traced arrays never change."""
        return self


def _key_text(key: Any) -> str:
    """An index as the user wrote it, where it is short."""
    items = key if isinstance(key, tuple) else (key,)
    return ", ".join(_item_text(item) for item in items)


def _item_text(item: Any) -> str:
    if isinstance(item, slice):
        parts = ["" if b is None else str(b) for b in (item.start, item.stop)]
        return ":".join(parts)
    if item is Ellipsis:
        return "..."
    return str(item) if isinstance(item, (int, type(None))) else "index"
