"""Definitions of exp, tanh, erf ... against float64, over every exponent of float32."""

from __future__ import annotations

import math

import numpy as np
import pytest

from planish.ir import types as t
from planish.ir.errors import IRError
from planish.ir.loop_eval import run_function
from planish.ir.loops import SCALARS, Scalar
from planish.ir.math import definition

FLOATS = (t.f64, t.f32, t.f16, t.bf16)
erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Without overflow on either side."""
    z = np.exp(-np.abs(x))
    return np.where(x < 0, z, 1) / (1 + z)


def rsqrt(x: np.ndarray) -> np.ndarray:
    """1 / sqrt(x)."""
    return 1 / np.sqrt(x)


# name -> (reference, bound in float32 ulp that the definition's docstring states)
REFERENCES = {
    "exp": (np.exp, 0.9), "exp2": (np.exp2, 0.9), "expm1": (np.expm1, 1.5), "log": (np.log, 1.0),
    "log2": (np.log2, 1.8), "log1p": (np.log1p, 1.6), "tanh": (np.tanh, 1.6), "erf": (erf, 1.8),
    "sin": (np.sin, 1.6), "cos": (np.cos, 1.6), "sigmoid": (sigmoid, 2.5), "rsqrt": (rsqrt, 1.5),
}  # fmt: skip
each = pytest.mark.parametrize("name", REFERENCES)


def every_exponent(mantissas: int, seed: int = 0) -> np.ndarray:
    """Random float32 mantissas with every sign and exponent, denormals included."""
    rng = np.random.default_rng(seed)
    top = np.arange(510, dtype=np.uint32) % 255 | (np.arange(510, dtype=np.uint32) // 255) << 8
    low = rng.integers(0, 1 << 23, (510, mantissas), dtype=np.uint32)
    return (top[:, None] << 23 | low).view(np.float32).ravel()


def ulps(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Distance in float32 ulp of the wanted value; 0 where both are the same special value."""
    with np.errstate(all="ignore"):
        near = wanted.astype(np.float32)
        same = (got == near) & ~np.isfinite(near) | np.isnan(got) & np.isnan(near)
        distance = np.abs(got.astype(np.float64) - wanted) / np.spacing(np.abs(near))
    return np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))


def reference(name: str, x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return REFERENCES[name][0](x.astype(np.float64))


@each
def test_f32_is_within_its_bound_at_every_exponent(name: str) -> None:
    x = every_exponent(600)
    found = ulps(run_function(definition(name, t.f32), x), reference(name, x))
    worst = found.argmax()
    assert found[worst] <= REFERENCES[name][1], f"{found[worst]:.3f} ulp at {x[worst]!r}"


@each
def test_f32_is_within_its_bound_where_it_is_used(name: str) -> None:
    x = np.random.default_rng(1).uniform(-12, 12, 300_000).astype(np.float32)
    found = ulps(run_function(definition(name, t.f32), x), reference(name, x))
    worst = found.argmax()
    assert found[worst] <= REFERENCES[name][1], f"{found[worst]:.3f} ulp at {x[worst]!r}"


@each
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_specials_are_those_of_ieee(name: str, dtype: t.DType) -> None:
    tiny = np.finfo(np.float32).smallest_subnormal
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, -2.0, tiny, -tiny]).astype(
        dtype.numpy
    )
    with np.errstate(all="ignore"):
        wanted = reference(name, x).astype(dtype.numpy)
    found = run_function(definition(name, dtype), x)
    assert found.dtype == dtype.numpy
    rtol = {64: 1e-14, 32: 1e-6, 16: 1e-2}[dtype.bits]
    np.testing.assert_allclose(found.astype(np.float64), wanted.astype(np.float64), rtol)
    zero = (wanted == 0) & ~np.isnan(x)
    assert np.array_equal(np.signbit(found[zero]), np.signbit(wanted[zero]))


@each
def test_f64_is_good_to_1e_14(name: str) -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.uniform(-700, 700, 20_000), rng.uniform(-1, 1, 20_000)])
    if name in ("log", "log2", "rsqrt", "log1p"):
        x = np.abs(x)
    if name in ("sin", "cos"):  # np.sin itself is off by more near its zeros
        x = x[np.abs(reference(name, x)) > 1e-2]
    found = run_function(definition(name, t.f64), x)
    np.testing.assert_allclose(found, reference(name, x), rtol=1e-14)


@pytest.mark.parametrize("name", ("sin", "cos"))
def test_f64_waves_stay_bounded_where_they_cannot_be_reduced(name: str) -> None:
    x = np.array([1e17, 1e100, -1e300])
    assert np.all(np.abs(run_function(definition(name, t.f64), x)) <= 1)


HARD = (
    "0x1p-149", "0x1.6p3", "0x1.6ac5b2p62", "0x1.fffffep127", "0x1.921fb6p1", "0x1.921fb6p0",
    "0x1.33333p13", "-0x1.2p100",
)  # fmt: skip


@pytest.mark.parametrize("name", ("sin", "cos"))
@pytest.mark.parametrize("x", HARD)
def test_waves_at_hard_arguments(name: str, x: str) -> None:
    """Huge ones, and those close to multiples of pi / 2."""
    wanted = np.float64(getattr(math, name)(float.fromhex(x)))
    assert ulps(run_function(definition(name, t.f32), float.fromhex(x)), wanted) <= 1.6


def test_exp_rounds_once_into_the_denormals() -> None:
    x = np.linspace(-104, -90, 20_001, dtype=np.float32)
    found = ulps(run_function(definition("exp", t.f32), x), np.exp(x.astype(np.float64)))
    assert found.max() <= 0.6  # a second rounding would show as up to 1


def test_exp_is_exact_at_its_ends() -> None:
    x = np.array([88.72283, 88.72284, -103.97, -103.98], np.float32)
    found = run_function(definition("exp", t.f32), x)
    assert np.isfinite(found[0]) and found[1:].tolist() == [np.inf, np.float32(2.0**-149), 0]


def test_powers_of_two_are_exact() -> None:
    n = np.arange(-149, 128)
    assert np.array_equal(run_function(definition("exp2", t.f32), n), np.exp2(n).astype(np.float32))
    assert np.array_equal(run_function(definition("log2", t.f32), np.exp2(n)), n)


@pytest.mark.parametrize("dtype", (t.f32, t.f64), ids=str)
def test_pow_has_numpys_special_cases(dtype: t.DType) -> None:
    half = [0.0, 1, 2, 3, 0.5, 2.5, np.inf, 1e-40, 1e30, 16777217.0]
    values = np.array([*half, *(-x for x in half), np.nan]).astype(dtype.numpy)
    x, y = (a.ravel() for a in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        wanted = np.power(x.astype(np.float64), y.astype(np.float64)).astype(dtype.numpy)
    found = run_function(definition("pow", dtype), x, y)
    np.testing.assert_allclose(found, wanted, rtol=1e-6 if dtype == t.f32 else 1e-13)
    number = ~np.isnan(wanted)
    assert np.array_equal(np.signbit(found[number]), np.signbit(wanted[number]))


def test_pow_is_within_its_bound() -> None:
    rng = np.random.default_rng(3)
    x = np.exp(rng.uniform(-80, 80, 100_000)).astype(np.float32)
    y = rng.uniform(-12, 12, 100_000).astype(np.float32)
    with np.errstate(all="ignore"):
        wanted = np.power(x.astype(np.float64), y.astype(np.float64))
    assert ulps(run_function(definition("pow", t.f32), x, y), wanted).max() <= 0.51
    ages = np.arange(1, 5000.0)
    found = run_function(definition("pow", t.f64), 0.999, ages)
    np.testing.assert_allclose(found, 0.999**ages, rtol=1e-14)


def test_definitions_are_straight_lines_of_primitives() -> None:
    names = [*REFERENCES, "pow"]
    for name in names:
        for dtype in FLOATS:
            function = definition(name, dtype)
            assert function is definition(name, dtype)
            for let in function.lets:
                assert not isinstance(let.value, Scalar) or let.value.op not in names
            assert len({x.var.name for x in function.lets}) == len(function.lets)
            assert len(function.params) == SCALARS[name][0] and function.result.type == dtype


def test_other_dtypes_and_names_are_refused() -> None:
    with pytest.raises(IRError, match="exp is defined for floats, not for i32"):
        definition("exp", t.i32)
    with pytest.raises(IRError, match="no definition of 'gamma'"):
        definition("gamma", t.f32)
