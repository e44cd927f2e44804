"""Which weights a recipe changes, and the recipes that change fewer of them.

choices = Choices.of(Pipeline.parse("expand,quantize,fuse"), graph)
choices.changed                            names of weights
choices.only(["h.0.mlp.c_fc.weight"])      expand,quantize{skip="..."},fuse
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from planish.ir.graph import Graph
from planish.passes.bf16 import Bf16
from planish.passes.fake import FakeQuantize
from planish.passes.gptq import Gptq
from planish.passes.pipeline import Pipeline
from planish.passes.prune import Prune
from planish.passes.quantize import Quantize
from planish.passes.skip import pattern_of

CHANGING = (Prune, Gptq, Quantize, FakeQuantize, Bf16)  # passes that change the numbers of weights


@dataclass(frozen=True)
class Choices:
    """A recipe, and for each of its passes why weights stay as they are; {} where it changes none.

    What a pass was bound to stays.
    """

    recipe: Pipeline
    reasons: tuple[dict[str, str], ...]

    @classmethod
    def of(cls, recipe: Pipeline, graph: Graph) -> Choices:
        """By running the recipe up to the last pass that changes weights."""
        found: list[dict[str, str]] = []
        for position, step in enumerate(recipe.passes):
            found.append(dict(step.reasons(graph)) if isinstance(step, CHANGING) else {})
            if any(isinstance(x, CHANGING) for x in recipe.passes[position + 1 :]):
                graph = Pipeline(step).run(graph)
        return cls(recipe, tuple(found))

    @property
    def changed(self) -> list[str]:
        """The weights that the recipe changes."""
        return list(dict.fromkeys(n for x in self.reasons for n, why in x.items() if not why))

    def only(self, names: Collection[str]) -> Pipeline:
        """The recipe as it would be for these weights alone."""
        passes, others = [], set(self.changed) - set(names)
        for step, reasons in zip(self.recipe.passes, self.reasons, strict=True):
            if isinstance(step, CHANGING):
                parts = [x for x in (step.skip, pattern_of(others & reasons.keys(), reasons)) if x]
                step = replace(step, skip="|".join(parts))
            passes.append(step)
        return Pipeline(*passes)

    def but(self, names: Collection[str]) -> Pipeline:
        """The recipe without these weights."""
        return self.only([x for x in self.changed if x not in names])
