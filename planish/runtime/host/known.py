"""What is known of an artifact and a model, for those who call it."""

from __future__ import annotations

from planish.runtime.host.abi import ABI
from planish.runtime.host.language import Text, export, i32, i64, null, text
from planish.runtime.host.records import HEAD, Model, planish_tables


@export
def planish_abi_version() -> i32:
    """The version of this interface: programs made for another one must be compiled again."""
    return ABI


@export
def planish_threads(model: Model) -> i64:
    """How many threads share the work."""
    return model.threads if model != null else 0


@export
def planish_level(model: Model) -> Text:
    """Which code runs: that for x86-64-v3, say. The environment variable PLANISH_LEVEL names one.

    Without it the best of the artifact's that this processor runs. "" where no model could be made.
    """
    return model.level.name if model != null and model.level != null else text("")


@export
def planish_facts() -> Text:
    """What is known of the artifact, as JSON.

    abi, pipeline, graph (SHA-256 of what was compiled), quantization (what became of each weight);
    levels: of each kind of processor triple, cpu, requires (what it must have), memory (bytes) and
    the programs.
    """
    return planish_tables().head + HEAD
