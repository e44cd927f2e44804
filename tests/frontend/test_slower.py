"""Which recipes are told to be slower than float32, and what is said of them: by given times."""

from __future__ import annotations

import pytest

from planish.frontend.compress import Frontier, Row
from planish.frontend.slower import slower
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import PIPELINES, pipeline
from planish.runtime.target import Target

ONE, MORE, LESS = [1e-3] * 9, [1.2e-3] * 9, [0.5e-3] * 9
INT8 = str(PIPELINES["int8"])


def told(text: str, prefill: list[float], decode: list[float], faster: str = "",
         target: str = "x86-64-v3") -> str:  # fmt: skip
    made = slower("this", pipeline(text), [ONE, ONE], [prefill, decode], faster,
                  Target.parse(target))  # fmt: skip
    return str(made) if made else ""


def test_how_much_and_in_what() -> None:
    said = told("int8", MORE, LESS)
    assert said.startswith("this: slower than float32: prefill 1.20 times (1.000 > 1.200 ms), in 9")
    both = slower("x", PIPELINES["O0"], [ONE, ONE], [MORE, MORE[:1] * 9], "", Target.parse())
    assert both and both.times == {"prefill": (1e-3, 1.2e-3), "decode": (1e-3, 1.2e-3)}
    assert both.record()["turns"] == 9 and "decode 1.20 times" in str(both)
    row = Row("x", 1, 1, 1.2, 830.0, 2.0, 0.0, 1.0)
    assert str(Frontier((row,), (Pipeline(),), (both,))).splitlines()[2:] == [str(both)]


@pytest.mark.parametrize(
    "after", [ONE, LESS, [1.02e-3] * 9, [0.9e-3] * 3 + [1.2e-3] * 6, [0.9e-3] * 8 + [9e-3]]
)
def test_noise_is_not_told(after: list[float]) -> None:
    """No more than programs differ anyway, not in three turns of four, or not in the middle one."""
    assert told("int8", after, LESS) == ""


@pytest.mark.parametrize(
    "text, faster, message",
    [
        ("O1", "", "nothing is fused"),
        ("sparse_int8", "", "--layers says how each is stored"),
        (INT8.replace("quantize", "quantize{mode=weights}"), "", "mode=dynamic, as in int8"),
        ("int8", "", "; --faster prefill keeps in float32 the weights that lose by it"),
        ("int4", "decode", "; --faster both keeps"),
        ("int8", "prefill", "mode=static needs no scales of rows"),
        (INT8.replace("quantize", 'quantize{slower="wte"}'), "", "mode=static needs no scales"),
        (INT8.replace("quantize", "quantize{mode=static}"), "both", "takes time: O2 rounds none"),
        ("int8_cache", "both", "no product that is left loses"),
        (str(PIPELINES["O2"]).replace("pushup", "quantize_caches,pushup"), "", "contexts are long"),
        ("bf16", "", "x86-64-v3 has no products of bf16"),
        (str(PIPELINES["O2"]).replace("pushup", "prune{ratio=0.5},pushup"), "", "no pass of it"),
    ],
)
def test_what_helps(text: str, faster: str, message: str) -> None:
    assert message in told(text, MORE, LESS, faster)


def test_what_the_processor_lacks() -> None:
    lacks = "has no instruction for sums of four products of bytes"
    assert f"x86-64-v3 {lacks}" in told("int8", MORE, MORE)
    assert "--faster both" in told("int8", MORE, MORE)
    for name in ("znver4", "neoverse-n1"):
        assert lacks not in told("int8", MORE, LESS, target=name)
    assert "no products of bf16" not in told("bf16", MORE, LESS, target="znver4")
