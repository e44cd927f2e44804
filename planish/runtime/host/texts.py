"""What is known of models of texts, for those who call them."""

from __future__ import annotations

from planish.runtime.host.language import export, i64
from planish.runtime.host.records import Model, planish_tables


@export
def planish_vocab_size(model: Model) -> i64:
    """Tokens are 0 <= token < this."""
    return planish_tables().vocabulary


@export
def planish_context(model: Model) -> i64:
    """How many tokens a text can have, the prompt included; of training, how many a row has."""
    return planish_tables().context
