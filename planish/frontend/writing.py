"""Writing text with a language model and a tokenizer.

generate_text(model, tokenizer, "To be", 200, stop=["\\n\\n"])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from planish.frontend.generate import generator_for
from planish.frontend.sampling import Sampling
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.writer import FLOW, PAUSE
from planish.ir.errors import DataError
from planish.passes.pipeline import Pipeline


@dataclass(frozen=True)
class Written:
    """A text, and the tokens that were drawn for it, those of a stop string included."""

    text: str
    tokens: list[int]


def generate_text(
    model: Any, tokenizer: Tokenizer, prompt: str, *given: Any, **options: Any
) -> str:  # fmt: skip
    """The text after `prompt`; the arguments are those of `write`."""
    return write(model, tokenizer, prompt, *given, **options).text


def write(
    model: Any, tokenizer: Tokenizer, prompt: str, max_new_tokens: int = 50, *,
    stop: str | Sequence[str] = (), stream: Callable[[str], object] | None = None,
    seed: int | None = None, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, sliding_window: bool = False, pipeline: str | Pipeline = "O2",
    threads: int | None = None, min_p: float | None = None,
    repetition_penalty: float | None = None,
) -> Written:  # fmt: skip
    """The text after `prompt`, up to a token that ends texts or the first of the strings `stop`.

    `stream` is called with pieces of it; what may be the beginning of a stop string, or of a
    character, is held back until more is known. An empty prompt needs a tokenizer that has a
    token for the start of a text.
    """
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(isinstance(x, str) and x for x in stops):
        raise DataError(f"stop strings are texts of at least 1 character, got {stops!r}")
    settings = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    ids = tokenizer.prompt(prompt)
    maker = generator_for(model, pipeline, threads, 1, settings.options, settings.greedy)
    pause = PAUSE if stream is None else FLOW
    walk = maker.stream(ids, max_new_tokens, settings, seed, True, sliding_window, pause)
    read, tokens = tokenizer.reader(ids), []
    text, told, done = "", 0, False
    for piece in walk:
        drawn, ended = _before_end(piece[0].tolist(), tokenizer.end)
        tokens += drawn
        text += read(drawn)
        places = [at for at in (text.find(x) for x in stops) if at >= 0]
        done = bool(places)
        text = text[: min(places)] if done else text
        safe = len(text) if done else len(text) - held_back(text, stops)
        if stream is not None and safe > told:
            stream(text[told:safe])
            told = safe
        if done or ended:
            break
    text += "" if done else read.rest()
    if stream is not None and told < len(text):
        stream(text[told:])
    return Written(text, tokens)


def _before_end(tokens: list[int], ends: Sequence[int]) -> tuple[list[int], bool]:
    """The tokens before the first that ends a text, and whether there is one."""
    places = [tokens.index(x) for x in ends if x in tokens]
    return (tokens[: min(places)], True) if places else (tokens, False)


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    sizes = (n for x in stops for n in range(1, len(x)) if text.endswith(x[:n]))
    return max(sizes, default=0)
