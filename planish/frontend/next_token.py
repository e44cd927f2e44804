"""The graphs of generation: a model, the draw of the next token, and where it is written.

tokens [B, S], pos [B], caches, keys [B, 2], temperature, top_k, top_p
    -> tokens with one more in each row, pos + 1, caches
"""

from __future__ import annotations

from typing import Any

from planish.frontend import random
from planish.frontend.array.manipulation import update_slice
from planish.frontend.tensor import apply
from planish.frontend.trace import spec, trace
from planish.ir.dims import Dim
from planish.ir.graph import Graph


def graphs(model: Any, batch: int, piece: int) -> dict[str, Graph]:
    """The graphs of generation: decode for `batch` rows; for one, prefill of pieces, recompute."""
    context = model.config["max_seq_len"]

    def state(rows: int) -> tuple:
        return spec((rows, context), "i32"), spec((rows,), "i32"), model.cache_specs(rows)

    def settings(rows: int) -> tuple:
        return (
            spec((rows, 2), "u32", "keys"), spec((), "f32", "temperature"),
            spec((), "i32", "top_k"), spec((), "f32", "top_p"),
        )  # fmt: skip

    prompt = spec((1, Dim("T", max=piece)), "i32", "prompt")
    seen = spec((1, Dim("T", max=context)), "i32", "seen")

    def decode(tokens: Any, pos: Any, caches: Any, keys: Any, *settings: Any) -> Any:
        return advance(model, tokens, pos, caches, keys, settings)

    def prefill(tokens: Any, pos: Any, caches: Any, keys: Any, *settings: Any) -> Any:
        return advance(model, tokens, pos, caches, keys, settings[:-1], settings[-1])

    def recompute(seen: Any, keys: Any, *settings: Any) -> Any:
        key = random.fold_in(keys, seen.shape[1])
        return apply("sample", model.last_logits(seen), key, *settings)

    donate = {0: 0, 1: 1, 2: 2}
    return {
        "decode": trace(decode, *state(batch), *settings(batch), donate=donate),
        "prefill": trace(prefill, *state(1), *settings(1), prompt, donate=donate),
        "recompute": trace(recompute, seen, *settings(1)),
    }


def advance(
    model: Any, tokens: Any, pos: Any, caches: Any, keys: Any, settings: Any, prompt: Any = None
) -> tuple[Any, Any, Any]:
    """One step: the model on the token at `pos` [B] of each row, or on prompts that begin there.

    Returns tokens [B, S] with those that follow, their places, and the caches. An id of -1 says
    that the logits were NaN; it stays in `tokens` for Python to see, and later steps read it as 0.
    """
    batch = tokens.shape[0]
    if prompt is None:
        prompt = apply("maximum", apply("dynamic_slice", tokens, 0, pos, sizes=(batch, 1)), 0)
    logits, caches = model.decode_step(prompt, caches, pos)
    pos = pos + prompt.shape[1]
    drawn = apply("sample", logits, random.fold_in(keys, pos), *settings)
    return update_slice(tokens, drawn.reshape(batch, 1), 0, pos), pos, caches
