"""Text and tokens through C: the tokenizer that is in an artifact."""

from __future__ import annotations

from planish.runtime.host.generator import planish_places
from planish.runtime.host.language import Ptr, Text, export, i32, i64, local, null, text, u8
from planish.runtime.host.libc import snprintf
from planish.runtime.host.records import ARGUMENT, MESSAGE, Model, can_run, refused
from planish.runtime.host.tokenizer import Wrong, decode_token, encode_prompt, explain
from planish.runtime.host.vocab import Vocab, vocab_fault


def vocab_of(model: Model) -> Vocab:
    """The tokenizer of an artifact, or null: the model says why. It is checked the first time."""
    if model.words != null:
        return Vocab(model.words)
    places = planish_places()
    vocab = Vocab(places.words)
    why = text("there is no tokenizer inside")
    if places.words_size > 0:
        why = vocab_fault(vocab, places.words_size)
    if why == null:
        model.words = places.words
        return vocab
    snprintf(model.message, MESSAGE, text("%s"), why)
    model.status = ARGUMENT
    return Vocab(null)


@export
def planish_encode(model: Model, data: Text, length: i64, tokens: Ptr[i32], room: i64) -> i64:
    """The tokens of a prompt, UTF-8 of so many bytes: how many there are, or -1 (planish_error).

    The first `room` of them are written to tokens. A text has at most length + 2 tokens.
    data may be NULL where length is 0, and tokens where room is 0.
    """
    if not can_run(model):
        return -1
    if length < 0 or room < 0 or (data == null and length > 0) or (tokens == null and room > 0):
        refused(model, ARGUMENT, text("a text, or the place for its tokens, is NULL or below 0"))
        return -1
    vocab = vocab_of(model)
    if vocab == null:
        return -1
    wrong = local(Wrong, 1)[0]
    count = encode_prompt(vocab, data, length, tokens, room, wrong)
    if count >= 0:
        return count
    explain(vocab, count, data, wrong, model.message, MESSAGE)
    model.status = ARGUMENT
    return -1


@export
def planish_token_text(
    model: Model, token: i32, before: Ptr[i32], out: Ptr[u8], room: i64
) -> i64:  # fmt: skip
    """The bytes of a token: how many there are, or -1 where there is no such token.

    The first `room` of them are written to out; they may end inside of a character. before: -1
    where a text begins, or the last token of the prompt; each call updates it. out may be NULL
    where room is 0.
    """
    if not can_run(model):
        return -1
    if before == null or room < 0 or (out == null and room > 0):
        refused(model, ARGUMENT, text("before, or the place for a text, is NULL or below 0"))
        return -1
    vocab = vocab_of(model)
    return decode_token(vocab, token, before, out, room) if vocab != null else -1
