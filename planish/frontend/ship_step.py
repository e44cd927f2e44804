"""Writing steps of training as artifacts that need no Python: a library, an object file, a header.

pl.Trainer(model, batch=12).save_step("step.so")      # and step.h
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from planish.frontend.api import compiled
from planish.frontend.checkpoint import (
    CHECKSUM,
    EVALUATIONS,
    LOSSES,
    TRAINING,
    history,
    model_facts,
    training_facts,
)
from planish.frontend.ship import check_names
from planish.ir import types as t
from planish.ir.errors import ArtifactError
from planish.ir.graph import Graph
from planish.ir.later import later
from planish.runtime.artifact import level_name
from planish.runtime.target import Target

shipping = later("planish.runtime.ship.training")

ENDS = (".so", ".o", ".h")


def save_step(
    trainer: Any, path: Path, weights: str, prefix: str, target: str | Target | None
) -> Target:
    """Write a step, and say for what; what the arguments mean stands at `Trainer.save_step`."""
    if path.suffix not in ENDS:
        raise ArtifactError(f"{path}: steps of training are saved as {', '.join(ENDS)}")
    check_names(path, weights, prefix)
    if trainer.backend != "native":
        raise ArtifactError("a step is saved as native code; the trainer's backend is interpret")
    if trainer.vocab_size is None:
        raise ArtifactError(
            f"the configuration of {type(trainer.model).__name__} has no vocab_size, by which the "
            "tokens of a step are checked"
        )
    machine, graphs = Target.parse(target), trainer.graphs
    for graph in graphs.values():
        _check_types(graph)
    programs = {
        name: compiled(graph, trainer.pipeline, machine, trainer.threads)
        for name, graph in graphs.items()
    }
    origins = [x.origin for x in programs.values()]
    snapshot, facts = trainer.snapshot(), model_facts(trainer.model, trainer.tokenizer)
    untrained = [x for x in trainer.model.state_dict() if x not in snapshot.weights]
    shipped = shipping.ShippedStep(
        levels={level_name(machine): programs},
        more={
            **origins[-1].facts,
            "graph": hashlib.sha256("".join(x.graph for x in origins).encode()).hexdigest(),
            "training": snapshot.facts,
        },
        prefix=prefix, arrays={**snapshot.weights, **snapshot.state},
        losses=np.array(snapshot.losses, np.float64), batch=trainer.batch,
        parts=trainer.accumulate, uniform=trainer.loss is not None, context=trainer.context,
        vocabulary=trainer.vocab_size,
        checkpoint=shipping.Checkpoint(
            metadata=training_facts(facts, snapshot),
            names={x: x for x in snapshot.weights} | {x: TRAINING + x for x in snapshot.state},
            history=(EVALUATIONS, LOSSES), evaluations=history(snapshot), total=CHECKSUM,
            lacking=untrained[0] if untrained else "",
        ),
    )  # fmt: skip
    if path.suffix == ".h":
        shipped.save_header(path)
    else:
        shipped.save(path, inside=weights == "embed")
    return machine


def _check_types(graph: Graph) -> None:
    """Refuse a step that takes or tells floats other than f32."""
    for x in (*graph.inputs, *graph.outputs):
        if x.dtype.is_float and x.dtype != t.f32:
            name = x.attrs.get("name", "what it returns")
            raise ArtifactError(f"a step is saved in f32, but {name} of this one is {x.dtype}")
