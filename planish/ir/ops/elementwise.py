"""Elementwise ops: arithmetic, comparison, logic, functions, casts."""

from __future__ import annotations

import numpy as np

from planish.ir.loops import Expr, scalar
from planish.ir.node import Node, register
from planish.ir.ops.base import Elementwise


class Add(Elementwise):
    """x + y."""

    name, arity = "add", 2
    function = staticmethod(np.add)

    def scalar(self, x: Expr, y: Expr) -> Expr:
        return x + y

    def vjp(self, y: Node, dy: Node, a: Node, b: Node) -> tuple[Node | None, ...]:
        return dy, dy


class Tanh(Elementwise):
    """Hyperbolic tangent."""

    name, arity, domain, floats = "tanh", 1, "float", True
    function = staticmethod(np.tanh)

    def scalar(self, x: Expr) -> Expr:
        return scalar("tanh", x)

    def vjp(self, y: Node, dy: Node, x: Node) -> tuple[Node | None, ...]:
        return (dy * (1.0 - y * y),)


add = register(Add)
tanh = register(Tanh)
