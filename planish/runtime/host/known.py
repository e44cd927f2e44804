"""What is known of an artifact and a model, for those who call it."""

from __future__ import annotations

from planish.runtime.host.language import Text, export, i32, i64, null, text
from planish.runtime.host.levels import planish_tables
from planish.runtime.host.model import ABI, HEAD, Model


@export
def planish_abi_version() -> i32:
    """The version of this interface: programs made for another one must be compiled again."""
    return ABI


@export
def planish_vocab_size(model: Model) -> i64:
    """Tokens are 0 <= token < this."""
    return planish_tables().vocabulary


@export
def planish_context(model: Model) -> i64:
    """How many tokens a text can have, the prompt included."""
    return planish_tables().context


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
    """What is known of the artifact, as JSON: pipeline, processor, memory, layout of weights."""
    return planish_tables().head + HEAD
