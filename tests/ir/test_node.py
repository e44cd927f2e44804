"""Attributes: a mapping that tells apart what `==` does not."""

from __future__ import annotations

from typing import Any

import pytest

from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.node import Attrs

NAN = float("nan")


@pytest.mark.parametrize(
    "a, b",
    [(1, True), (1, 1.0), (0.0, -0.0), ((1, 2), (1, True)), ((0.0,), (-0.0,)),
     (((1,),), ((True,),)), ("1", 1), (None, 0), (t.f32, "f32"), ((), "")],
)  # fmt: skip
def test_values_of_two_kinds_are_two_values(a: Any, b: Any) -> None:
    assert Attrs({"x": a, "y": 2}) != Attrs({"x": b, "y": 2})


@pytest.mark.parametrize("x", [1, 0.5, NAN, (NAN, 1), (1, (2,)), "a", None, t.f32, (Dim("T"), 3)])
def test_equal_attributes_are_equal(x: Any) -> None:
    a, b = Attrs({"x": x, "a": 1}), Attrs({"a": 1, "x": x})
    assert a == b and hash(a) == hash(b) and {a: 1}[b] == 1
    assert list(a) == list(a.keys()) == ["a", "x"] and dict(a) == dict(a.items())
    assert "x" in a and "y" not in a and next(iter(a.values())) == 1 and len(a) == 2
