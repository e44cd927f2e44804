"""Native code computes exp, tanh, erf ... with the very bits of the loop interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir import ops  # noqa: F401 - fills the op table
from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.loop_eval import run_function
from planish.ir.math import definition
from planish.ir.node import OPS
from planish.ir.types import DType, TensorType
from planish.runtime.lower import lower
from planish.runtime.program import Program
from planish.runtime.target import Target
from tests.ir.test_math import REFERENCES, every_exponent, reference, ulps

SPECIALS = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)
X = np.append(SPECIALS, every_exponent(20))
each = pytest.mark.parametrize("name", [*REFERENCES, "pow"])


def native(name: str, dtype: DType, target: Target) -> tuple[list[np.ndarray], np.ndarray]:
    """The operands and the result of one op in native code."""
    arity = 2 if name == "pow" else 1
    with np.errstate(over="ignore"):
        arrays = [X.astype(dtype.numpy), X[::-1].astype(dtype.numpy)][:arity]
    nodes = tuple(
        OPS["input"](name=f"x{i}", type=TensorType(dtype, a.shape)) for i, a in enumerate(arrays)
    )
    graph = Graph("one", nodes, (OPS[name](*nodes),))
    found = Program(lower(graph, target), target, 1)(*arrays)
    return arrays, found[0] if isinstance(found, (tuple, list)) else found


@each
@pytest.mark.parametrize("dtype", (t.f64, t.f32, t.bf16), ids=str)
def test_native_bits_are_those_of_the_definition(name: str, dtype: DType) -> None:
    target = Target.parse(None)
    arrays, found = native(name, dtype, target)
    wanted = run_function(definition(name, dtype), *arrays)
    if not target.has_fma:  # a product and a sum round twice
        np.testing.assert_allclose(found.astype(np.float64), wanted.astype(np.float64), rtol=1e-6)
        return
    bits = f"u{dtype.itemsize}"
    same = (found.view(bits) == wanted.view(bits)) | np.isnan(found) & np.isnan(wanted)
    assert same.all(), [x[~same][:3] for x in (*arrays, found, wanted)]


@pytest.mark.parametrize("name", REFERENCES)
def test_without_fma_the_bound_still_holds(name: str) -> None:
    (x,), found = native(name, t.f32, Target.parse("x86-64"))
    assert ulps(found, reference(name, x)).max() <= max(2.0, REFERENCES[name][1])
