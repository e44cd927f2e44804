"""What a text needs while it is written: tokens, positions, caches, and programs bound to them.

A writer keeps one for the texts to come, so that programs are bound once: what changes from text to
text is inside the arrays, and how much of the prompt's counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from planish.frontend.compiled import Compiled
from planish.runtime.program import Bound

# Of a session for texts to come: gpt2's of one text, a smaller model's of many. The first token
# after a short prompt takes less than it takes to have so many bytes zeroed by the system.
KEPT_BYTES = 1 << 27


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
        rows = len(self.state[0])
        self._ends = (np.zeros(rows, np.int32),) if rows > 1 else ()

    @cached_property
    def decoding(self) -> Bound:
        """The program that adds a token to each text."""
        return self._decode.bind(*self.state)

    @cached_property
    def _reading(self) -> Bound:
        """The program that reads a piece of prompts; of several, it is told their ends."""
        return self._prefill.bind(*self.state, self._prompt, *self._ends)

    def set(self, settings: Sequence[np.ndarray | np.generic]) -> None:
        """Copy settings of the draw to where programs read them."""
        for place, x in zip(self.settings, settings, strict=True):
            place[...] = x

    def wake(self) -> None:
        """Let threads that sleep wake up while this one still prepares what they will do."""
        self._prefill.wake()

    def read(self, rows: Sequence[int], prompts: Sequence[np.ndarray]) -> None:
        """Read prompts into rows, in their order; tokens then have the first new one after them.

        They are read together, one after another in pieces of at most so many tokens, however long
        each is. Other rows stay as they are.
        """
        tokens, pos = self.state[:2]
        for row in rows:
            pos[row] = 0
        text = prompts[0] if len(prompts) == 1 else np.concatenate(prompts)
        reading, piece = self._reading, self._prompt.shape[1]
        for start in range(0, len(text), piece):
            part = text[start : start + piece]
            self._prompt[0, : len(part)] = part
            for ends in self._ends:
                sizes = dict(zip(rows, map(len, prompts), strict=True))
                whole = accumulate(sizes.get(row, 0) for row in range(len(ends)))
                ends[:] = [min(max(x - start, 0), len(part)) for x in whole]
            reading.resize(T=len(part))
            reading.run()
        for row, prompt in zip(rows, prompts, strict=True):
            tokens[row, : len(prompt)] = prompt
