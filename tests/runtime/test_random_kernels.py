"""Random expressions in random loops: native code gives the interpreter's bits.

Products of floats are left out, because LLVM may contract them with sums; everything else is
exact, comparisons included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.loops import (
    Buffer,
    Const,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Stmt,
    Store,
    Var,
    cast,
    scalar,
    select,
)
from tests.ir.nests import I, J, T, buffer, n, over
from tests.runtime.native import check

DTYPES = (t.f32, t.f64, t.i32, t.i64, t.u32, t.u8, t.i8)
FLOAT_BINARY = ("add", "sub", "div", "min", "max")
FLOAT_UNARY = ("neg", "abs", "sqrt", "floor", "ceil", "trunc", "round", "sign")
INT_BINARY = (
    "add",
    "sub",
    "mul",
    "floor_div",
    "mod",
    "min",
    "max",
    "and",
    "or",
    "xor",
    "shl",
    "shr",
)
COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
ROWS, COLUMNS = 3, 19


class Maker:
    """Draws expressions of a dtype, reading the inputs at `i`, `j` and elsewhere in range."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.inputs = {d: buffer(f"x_{d}", ROWS, T, dtype=d) for d in DTYPES}
        self.names: list[Var] = []

    def pick(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def place(self) -> tuple[Expr, Expr]:
        row = self.pick(I, n(0), n(ROWS - 1) - I)
        column = self.pick(J, n(0), T - 1 - J, J // n(2), scalar("max", J - 3, n(0)))
        if self.rng.random() < 0.1:
            data = cast(self.inputs[t.u8][I, J], t.i64)
            column = scalar("mod", data, T)
        return row, column

    def leaf(self, dtype: t.DType) -> Expr:
        known = [v for v in self.names if v.dtype == dtype]
        if known and self.rng.random() < 0.3:
            return self.pick(*known)
        if dtype == t.i64 and self.rng.random() < 0.3:
            return self.pick(I, J, T)
        if self.rng.random() < 0.2:
            return Const(self.constant(dtype), dtype)
        return self.inputs[dtype][self.place()]

    def constant(self, dtype: t.DType) -> int | float:
        if dtype.is_float:
            return float(self.pick(0.0, 1.0, -2.5, float("inf"), float("nan"), 3e5))
        return int(self.pick(0, 1, 2, 7, 100, -3 if dtype.kind == "i" else 5))

    def expr(self, dtype: t.DType, depth: int) -> Expr:
        if depth == 0 or self.rng.random() < 0.15:
            return self.leaf(dtype)
        a, b = self.expr(dtype, depth - 1), self.expr(dtype, depth - 1)
        kind = self.rng.random()
        if kind < 0.2:
            return select(self.condition(depth - 1), a, b)
        if kind < 0.35:
            return cast(self.expr(self.pick(*DTYPES), depth - 1), dtype)
        if not dtype.is_float:
            return scalar(str(self.pick(*INT_BINARY)), a, b)
        if kind < 0.5:
            return scalar(str(self.pick(*FLOAT_UNARY)), a)
        return scalar(str(self.pick(*FLOAT_BINARY)), a, b)

    def condition(self, depth: int) -> Expr:
        if self.rng.random() < 0.2:
            return scalar("le", self.pick(J, J * 2 - 5), self.pick(I, n(7), T - J))
        dtype = self.pick(*DTYPES)
        test = scalar(str(self.pick(*COMPARE)), self.expr(dtype, depth), self.expr(dtype, depth))
        if self.rng.random() < 0.3:
            return scalar(
                str(self.pick("and", "or", "xor")), test, scalar("not", self.condition(0))
            )
        return test

    def kernel(self) -> Kernel:
        outs = [buffer(f"y_{d}", ROWS, T, dtype=d) for d in DTYPES]
        body: list[Stmt] = []
        for k, out in enumerate(outs):
            name = Var(f"v{k}", out.dtype)
            body.append(Let(name, self.expr(out.dtype, 3)))
            self.names.append(name)
            store: Stmt = Store(out, (I, J), self.expr(out.dtype, 2))
            body.append(If(self.condition(1), (store,)) if self.rng.random() < 0.3 else store)
        kind = "vector" if self.rng.random() < 0.8 else "serial"
        inner = For(J, T, kind, tuple(body), int(self.rng.choice([4, 8, 16])))
        params: tuple[Buffer, ...] = (*self.inputs.values(), *outs)
        loops = over(I, ROWS, inner, kind="parallel")
        return Kernel("random", params, tuple(y.name for y in outs), (), (loops,))

    def array(self, dtype: t.DType) -> np.ndarray:
        shape = (ROWS, COLUMNS)
        if dtype.is_float:
            values = self.rng.standard_normal(shape) * 10.0 ** self.rng.integers(-3, 6, shape)
            values.flat[:5] = [np.nan, np.inf, -np.inf, 0.0, -1.0]
            return values.astype(dtype.numpy)
        info = np.iinfo(dtype.numpy)
        values = self.rng.integers(info.min, info.max, shape, dtype.numpy, endpoint=True)
        values.flat[:4] = [info.min, info.max, 0, 1]
        return values


@pytest.mark.parametrize("seed", range(12))
def test_random_kernel(seed: int) -> None:
    maker = Maker(seed)
    kernel = maker.kernel()
    arrays = [maker.array(buffer.dtype) for buffer in kernel.params]
    check(kernel, *arrays, dims={"T": COLUMNS}, rtol=0.0, threads=2)
