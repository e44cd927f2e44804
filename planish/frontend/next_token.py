"""The graphs of generation: a model, the draw of the next token, and where it is written.

    tokens [B, S], pos [B], caches, keys [B, 2], temperature, top_k, top_p, options, [seen]
        -> tokens with one more in each row, pos + 1, caches, [seen]

Options that are off are not traced; a `greedy` graph takes the likeliest token, so it has none of
temperature, top_k and top_p. With `repetition_penalty` there is `seen`, bool [B, V]: which
tokens the text of each row has. Who reads a prompt has marked its tokens; decode marks what it
reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.frontend import random
from planish.frontend.array.creation import ones
from planish.frontend.array.manipulation import update_slice
from planish.frontend.tensor import apply
from planish.frontend.trace import spec, trace
from planish.ir import types as t
from planish.ir.dims import Dim
from planish.ir.graph import Graph


def graphs(
    model: Any, batch: int, piece: int, options: Sequence[str] = (), greedy: bool = False
) -> dict[str, Graph]:
    """The graphs of generation: decode and, a piece at a time, prefill of `batch` rows; for one,
    recompute.

    Several rows lie in `prompt` one after another, and `ends` [batch] says where; one that has no
    token in it stays as it is.
    """
    context = model.config["max_seq_len"]
    prompt = spec((1, Dim("T", max=piece)), "i32", "prompt")
    pieces = (prompt,) if batch == 1 else (prompt, spec((batch,), "i32", "ends"))
    text = spec((1, Dim("T", max=context)), "i32", "text")

    def state(rows: int) -> tuple:
        return spec((rows, context), "i32"), spec((rows,), "i32"), model.cache_specs(rows)

    def settings(rows: int) -> tuple:
        seen = [spec((rows, model.config["vocab_size"]), "bool", "seen")]
        chosen = {"temperature": "f32", "top_k": "i32", "top_p": "f32"}
        scalars = {**({} if greedy else chosen), **dict.fromkeys(options, "f32")}
        return (
            {"keys": spec((rows, 2), "u32", "keys"),
             **{name: spec((), dtype, name) for name, dtype in scalars.items()}},
            *(seen if "repetition_penalty" in options else ()),
        )  # fmt: skip

    def decode(tokens: Any, pos: Any, caches: Any, settings: Any, *seen: Any) -> Any:
        read = apply("dynamic_slice", tokens, 0, pos, sizes=(batch, 1))
        read = apply("maximum", read, 0)
        mark = ones((batch, 1), dtype="bool")
        seen = tuple(update_slice(x, mark, 0, read.reshape(batch)) for x in seen)
        return (*advance(model, tokens, pos, caches, read, settings, *seen), *seen)

    def prefill(tokens: Any, pos: Any, caches: Any, settings: Any, *rest: Any) -> Any:
        seen, (read, *ends) = rest[: -len(pieces)], rest[-len(pieces) :]
        if not ends:
            return advance(model, tokens, pos, caches, read, settings, *seen)
        return begin(model, tokens, pos, caches, read, ends[0], settings, *seen)

    def recompute(text: Any, settings: Any, *seen: Any) -> Any:
        return draw(model.last_logits(text), text.shape[1], settings, *seen)

    donate = {0: 0, 1: 1, 2: 2}
    seen = {4: 3} if "repetition_penalty" in options else {}
    return {
        "decode": trace(decode, *state(batch), *settings(batch), donate={**donate, **seen}),
        "prefill": trace(prefill, *state(batch), *settings(batch), *pieces, donate=donate),
        "recompute": trace(recompute, text, *settings(1)),
    }


def advance(
    model: Any, tokens: Any, pos: Any, caches: Any, read: Any, settings: Any, *seen: Any
) -> tuple[Any, Any, Any]:
    """One step: the model on `read` [B, T], which stand at `pos` [B] and after it.

    Returns tokens [B, S] with those that follow, their places, and the caches. An id of -1 says
    that the logits were NaN; it stays in `tokens` for Python to see, and later steps read it as 0.
    """
    logits, caches = model.decode_step(read, caches, pos)
    pos = pos + read.shape[1]
    drawn = draw(logits, pos, settings, *seen)
    return update_slice(tokens, drawn.reshape(tokens.shape[0], 1), 0, pos), pos, caches


def begin(
    model: Any, tokens: Any, pos: Any, caches: Any, read: Any, ends: Any, settings: Any, *seen: Any
) -> tuple[Any, Any, Any]:
    """The same for the pieces of several rows in `read` [1, T], as long as `ends` [B] says."""
    logits, caches = model.decode_step(read, caches, pos, ends)
    count = ends - apply("pad", ends[:-1], low=(1,), high=(0,), value=0)
    pos = pos + count
    there = apply("dynamic_slice", tokens, 0, pos, sizes=(tokens.shape[0], 1))
    drawn = draw(logits, pos, settings, *seen).reshape(tokens.shape[0], 1)
    drawn = apply("select", count.reshape(-1, 1) > 0, drawn, there)
    return update_slice(tokens, drawn, 0, pos), pos, caches


def draw(logits: Any, place: Any, settings: dict[str, Any], *seen: Any) -> Any:
    """The token at `place` of each row, an integer or [B]."""
    for mask in seen:
        logits = penalised(logits, mask, settings["repetition_penalty"])
    if "temperature" not in settings:
        return likeliest(logits)
    keys = random.fold_in(settings["keys"], place)
    names = ("temperature", "top_k", "top_p", "min_p")
    return apply("sample", logits, keys, *(settings[x] for x in names if x in settings))


def likeliest(logits: Any) -> Any:
    """The likeliest token of each row [B, V], the lowest of equal ones; -1 where none is finite."""
    finite = apply("isfinite", apply("max", logits, axes=(1,), keep=False))
    ids = apply("cast", apply("argmax", logits, axis=1), dtype=t.i32)
    return apply("select", finite, ids, np.int32(-1))


def penalised(logits: Any, seen: Any, penalty: Any) -> Any:
    """Logits [B, V], less of those that are `seen` where the penalty is above 1."""
    less = apply("select", logits > 0, logits / penalty, logits * penalty)
    return apply("select", seen, less, logits)
