"""The option `skip`: the language of its patterns, the same for all passes."""

from __future__ import annotations

import pytest

import planish as pl
from planish.ir.errors import DataError
from planish.passes.pipeline import Pipeline
from planish.passes.pipelines import CLEAN
from planish.passes.skip import pattern_of, with_skipped

NAMES = [f"h.{i}.{x}.weight" for i in range(12) for x in ("attn.c_proj", "mlp.c_fc")]
NAMES += ["wte.weight", "lm_head.weight", "w[0]"]


def skipped(skip: str) -> list[str]:
    return [name for name, why in with_skipped("f", dict.fromkeys(NAMES, ""), skip).items() if why]


def test_alternatives() -> None:
    assert skipped("") == []
    assert skipped("wte|lm_head.weight") == ["wte.weight", "lm_head.weight"]
    assert len(skipped("h.*.mlp.*|h.1?.attn.c_proj")) == 14
    assert skipped("w[0]") == ["w[0]"]


@pytest.mark.parametrize("skip, blamed", [("wte|head", "head"), ("|wte", ""), ("h.12.*", "h.12.*")])
def test_each_alternative_must_match(skip: str, blamed: str) -> None:
    with pytest.raises(
        DataError, match=rf"f: skip='{blamed.replace('*', '[*]')}' matches no weight"
    ):
        skipped(skip)


@pytest.mark.parametrize("skip", ["h.*.mlp.c_fc", "wte", "h.*", "h.1.mlp.c_fc|w[0]|wte", "*", ""])
def test_patterns_of_names_match_those_alone(skip: str) -> None:
    names = skipped(skip)
    assert skipped(pattern_of(names, NAMES)) == names


@pytest.mark.parametrize(
    "name", ["quantize", "bf16", "fake_quantize{bits=8}", "prune{ratio=0.5}", "bitmap", "gptq"]
)
def test_the_head_of_a_tied_model_is_named(name: str) -> None:
    """It goes by the name of the table; of a model that has a head of its own nothing is said."""
    step = name.rstrip("}") + ("," if "{" in name else "{") + 'skip="lm_head"}'
    for tie in (True, False):
        model = pl.TinyGPT(19, 8, 1, 2, 6, dropout=0.0, tie_head=tie)
        graph = CLEAN.run(pl.trace(model, pl.spec((1, 6), "i32")))
        (made,) = Pipeline.parse(step).passes
        if tie:
            with pytest.raises(DataError, match=r"wte is a table and the head, too: skip='wte'$"):
                made.reasons(graph)  # type: ignore[attr-defined]
        else:
            made.reasons(graph)  # type: ignore[attr-defined]


def test_layers_that_are_alike_are_one_pattern() -> None:
    assert pattern_of(skipped("h.*.mlp.c_fc|wte"), NAMES) == "h.*.mlp.c_fc|wte"
    assert pattern_of(["h.3.mlp.c_fc.weight"], NAMES) == "h.3.mlp.c_fc"


@pytest.mark.parametrize("name", ["quantize", "bf16", "gptq", "prune{ratio=0.5}", "bitmap"])
def test_all_passes_take_alternatives(name: str) -> None:
    text = name.rstrip("}") + ("," if "{" in name else "{") + 'skip="wte|h.*.mlp.c_fc"}'
    assert str(Pipeline.parse(text)) == text
