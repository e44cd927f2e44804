"""What a text needs while it is written: tokens, positions, caches, and programs bound to them.

A writer keeps one for the texts to come, so that programs are bound once: what changes from text to
text is inside the arrays, and how much of the prompt's counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from planish.frontend.compiled import Compiled
from planish.runtime.program import Bound

KEPT_BYTES = 1 << 24  # of a session for texts to come; models with larger ones take far longer


class Session:
    """The arguments of `decode` for some texts, in `state`: tokens, positions, caches, settings.

    Nothing is cleared between texts: caches may still have another text beyond the end of this one,
    where nobody looks. One that `is_small` may be kept.
    """

    def __init__(self, prefill: Compiled, decode: Compiled, piece: int, settings: int):
        self._prefill, self._decode = prefill, decode
        types: list[Any] = [x.type for x in decode.image.inputs]
        self.state = tuple(np.zeros(x.shape, x.dtype.numpy) for x in types)
        self.settings = self.state[len(self.state) - settings :]
        self.is_small = sum(x.nbytes for x in self.state) <= KEPT_BYTES
        self._prompt = np.zeros((1, piece), np.int32)
        self._readers: dict[int, Bound] = {}

    @cached_property
    def decoding(self) -> Bound:
        """The program that adds a token to each text."""
        return self._decode.bind(*self.state)

    def set(self, settings: Sequence[np.ndarray | np.generic]) -> None:
        """Copy settings of the draw to where programs read them."""
        for place, x in zip(self.settings, settings, strict=True):
            place[...] = x

    def wake(self) -> None:
        """Let threads that sleep wake up while this one still prepares what they will do."""
        self._prefill.wake()

    def read(self, row: int, prompt: np.ndarray) -> None:
        """Read a prompt into a row, whose tokens then have the first new one after it."""
        reader = self._readers.get(row)
        if reader is None:
            mine = (x[row : row + 1] if x.ndim else x for x in self.state)
            reader = self._readers[row] = self._prefill.bind(*mine, self._prompt)
        tokens, pos = self.state[:2]
        pos[row] = 0
        piece = self._prompt.shape[1]
        for start in range(0, len(prompt), piece):
            part = prompt[start : start + piece]
            self._prompt[0, : len(part)] = part
            reader.resize(T=len(part))
            reader.run()
        tokens[row, : len(prompt)] = prompt
