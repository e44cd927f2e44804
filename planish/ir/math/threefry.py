"""Threefry-2x32 with 20 rounds (Salmon et al., 2011): random bits from a key and a counter.

The same key and counter give the same bits everywhere, so random numbers do not depend on the
order in which they are made, nor on the number of threads.
"""

from __future__ import annotations

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.loops import Const, Expr, Let, Var
from planish.ir.math.build import Function
from planish.ir.types import DType

ROUNDS = 20
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA


def threefry(dtype: DType) -> Function:
    """The first word of the cipher: threefry(key0, key1, counter0, counter1)."""
    if dtype != t.u32:
        raise IRError(f"threefry works on u32, got {dtype}")
    key0, key1, counter0, counter1 = params = tuple(
        Var(name, dtype) for name in ("key0", "key1", "counter0", "counter1")
    )
    lets: list[Let] = []

    def let(name: str, value: Expr) -> Var:
        lets.append(Let(Var(name, dtype), value))
        return lets[-1].var

    keys = (key0, key1, let("key2", key0 ^ key1 ^ Const(PARITY, dtype)))
    a, b = let("a", counter0 + key0), let("b", counter1 + key1)
    for n in range(1, ROUNDS + 1):
        turn = ROTATIONS[(n - 1) % 8]
        a = let(f"a.{n}", a + b)
        high, low = let(f"high.{n}", b << turn), let(f"low.{n}", b >> (32 - turn))
        b = let(f"b.{n}", (high | low) ^ a)
        if n % 4 == 0:
            a = let(f"a.{n}k", a + keys[n // 4 % 3])
            b = let(f"b.{n}k", b + keys[(n // 4 + 1) % 3] + n // 4)
    return Function("threefry", params, tuple(lets), a)
