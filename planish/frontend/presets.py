"""Sizes of models that have names, with what training them takes.

nano is nanoGPT's configuration for a CPU, baby its character-level one, gpt2 the smallest GPT-2.
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.frontend.models.tinygpt import TinyGPT


@dataclass(frozen=True)
class Preset:
    """A model of GPT-2's architecture, and the batch and learning rate that fit it."""

    width: int
    layers: int
    heads: int
    context: int
    batch: int
    lr: float
    dropout: float = 0.0

    def model(self, vocab_size: int, seed: int = 0) -> TinyGPT:
        """A new model."""
        return TinyGPT(
            vocab_size, self.width, self.layers, self.heads, self.context, self.dropout, seed
        )


PRESETS = {
    "nano": Preset(width=128, layers=4, heads=4, context=64, batch=12, lr=1e-3),
    "baby": Preset(width=384, layers=6, heads=6, context=256, batch=8, lr=1e-3, dropout=0.2),
    "gpt2": Preset(width=768, layers=12, heads=12, context=1024, batch=4, lr=6e-4),
}
