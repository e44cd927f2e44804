"""Writing tokens: reading a prompt, drawing the next token, and the loop around them."""

from __future__ import annotations

from collections.abc import Callable

from planish.runtime.host.keys import fold_in, set_key
from planish.runtime.host.language import (
    Const,
    Memory,
    Ptr,
    Record,
    Text,
    address,
    export,
    extern,
    f32,
    f64,
    i32,
    i64,
    local,
    null,
    text,
    u8,
    u32,
    u64,
)
from planish.runtime.host.libc import memcpy, memset, snprintf
from planish.runtime.host.model import run
from planish.runtime.host.records import (
    ARGUMENT,
    LARGEST,
    MESSAGE,
    NAN,
    OK,
    ROOM,
    Model,
    can_run,
    failed,
    planish_tables,
    refused,
)

PREFILL = 0  # the programs
DECODE = 1
SMALLEST = 1.1754943508222875e-38  # the least normal number
WITHOUT = "this program has no %s: it is for generators that were made with that option"
DEFAULT = 50  # new tokens
EXCEEDED = (
    "%ld tokens of prompt and %ld new ones exceed the context of %ld; "
    "slide (--slide) goes on with the last half of it"
)
FULL = (
    "the prompt has %ld tokens, the context of %ld has no room for a new one; "
    "slide (--slide) reads its end"
)
EVERYTHING = 2.0  # a top-p above any sum of probabilities


class Options(Record):
    """How tokens are drawn, and how many.

    temperature: below 1 bolder in what is likely; 0 always takes the likeliest token.
    top_k, top_p: draw among the k likeliest tokens, among the likeliest that together have
    probability p; 0 means all. min_p: among those at least that many times as likely as the
    likeliest; 0 means all. repetition_penalty r: above 1, tokens that the text has already are less
    likely: their logits are divided by r if positive, else multiplied; 0 and 1 change nothing.
    seed: the same seed draws the same tokens. max_tokens: at most so many.
    stop, stop_count: tokens that end a text; they are still told. slide: 0, or 1 for texts longer
    than the context: of a prompt that is too long its end is read, and where the context is full
    its last half is the prompt from which the text goes on.
    """

    temperature: f32
    top_p: f32
    top_k: i32
    stop_count: i32
    stop: Const[i32]
    seed: u64
    max_tokens: i64
    min_p: f32
    repetition_penalty: f32
    slide: i32


class Places(Record):
    """What is known of a generator: where what is set is in the state, and sizes.

    -1: the programs do not have it. `prompt` is the slot of prefill that points to the tokens,
    `words` the tokenizer.
    """

    tokens: i64
    pos: i64
    keys: i64
    temperature: i64
    top_k: i64
    top_p: i64
    min_p: i64
    repetition_penalty: i64
    seen: i64
    prompt: i64
    piece: i64
    words: Text
    words_size: i64


# see `planish.runtime.ship.generator`
@extern
def planish_places() -> Places: ...


@export
def planish_defaults(options: Options) -> None:
    """Set options to: temperature 1, all tokens, no penalty, seed 0, 50 new tokens, no stop.

    The context is not exceeded (slide 0). NULL: nothing is set.
    """
    if options == null:
        return
    options.temperature = 1.0
    options.top_p = 0.0
    options.top_k = 0
    options.stop_count = 0
    options.stop = null
    options.seed = 0
    options.max_tokens = DEFAULT
    options.min_p = 0.0
    options.repetition_penalty = 0.0
    options.slide = 0


@export
def planish_prefill(
    model: Model, tokens: Const[i32], count: i64, options: Options, next: Ptr[i32]
) -> i32:
    """Begin a text: read a prompt of so many tokens and draw the one after it.

    options: how this token, and those of planish_decode, are drawn; max_tokens and stop do not
    matter here. NULL: the defaults. next: where the token goes, or NULL. Returns 0, or the code of
    what went wrong (planish_error).
    """
    if not can_run(model) or not prepared(model, tokens, count, options):
        return failed(model)
    return read_prompt(model, tokens, count, next)


@export
def planish_decode(model: Model, next: Ptr[i32]) -> i32:
    """Draw the token after the last one, which becomes part of the text; next may be NULL."""
    if not can_run(model):
        return failed(model)
    if model.read == 0:
        return refused(model, ARGUMENT, text("there is no text yet: planish_prefill begins one"))
    if model.read + 1 >= planish_tables().context:
        if model.slide != 0:
            return renewed(model, next)
        return refused(model, ROOM, text("the context is full; slide goes on with its last half"))
    if not run(model, DECODE):
        return model.status
    model.read += 1
    return drawn(model, next)


@export
def planish_generate(
    model: Model, tokens: Const[i32], count: i64, options: Options,
    on_token: Callable[[Memory, i32], i32], user: Memory, written: Ptr[i64],
) -> i32:  # fmt: skip
    """Write on from a prompt, until max_tokens, a stop token, or on_token ends it.

    options may be NULL: the defaults. on_token (or NULL) is called with `user` and each new token,
    soon after it is there; what it returns ends the text if it is not 0. written (or NULL): how
    many tokens there were. Returns 0, or the code of what went wrong (planish_error); tokens before
    that were told.
    """
    if written != null:
        written[0] = 0
    if not can_run(model) or not prepared(model, tokens, count, options):
        return failed(model)
    wanted = options.max_tokens if options != null else DEFAULT
    if wanted < 0:
        snprintf(model.message, MESSAGE, text("max_tokens is at least 0, got %ld"), wanted)
        return refused(model, ARGUMENT, null)
    if options != null and options.stop_count > 0 and options.stop == null:
        return refused(model, ARGUMENT, text("there are tokens to stop at, but stop is NULL"))
    context = planish_tables().context
    if wanted > context - count and model.slide == 0:
        form = text(EXCEEDED)
        snprintf(model.message, MESSAGE, form, count, wanted, context)
        return refused(model, ROOM, null)
    for n in range(wanted):
        token: i32 = 0
        code = (
            read_prompt(model, tokens, count, address(token))
            if n == 0
            else planish_decode(model, address(token))
        )
        if code != OK:
            return code
        if written != null:
            written[0] = n + 1
        if on_token != null and on_token(user, token) != 0:
            return OK
        if options != null and is_stop(options, token):
            return OK
    return OK


def is_stop(options: Options, token: i32) -> bool:
    """Whether a token ends a text."""
    at = 0
    while at < i64(options.stop_count) and options.stop[at] != token:
        at += 1
    return at < i64(options.stop_count)


def prepared(model: Model, tokens: Const[i32], count: i64, options: Options) -> bool:
    """Check a prompt and set how tokens are drawn; False where something cannot be."""
    tables = planish_tables()
    if tokens == null or count < 1:
        refused(model, ARGUMENT, text("the prompt is empty; give at least 1 token to begin with"))
        return False
    slides = options != null and options.slide != 0
    if count >= tables.context and (not slides or tables.context < 2):
        form = text(FULL)
        snprintf(model.message, MESSAGE, form, count, tables.context)
        refused(model, ROOM, null)
        return False
    for n in range(count):
        if tokens[n] < 0 or i64(tokens[n]) >= tables.vocabulary:
            form = text("token %d at position %ld is outside 0 <= token < %ld")
            snprintf(model.message, MESSAGE, form, tokens[n], n, tables.vocabulary)
            refused(model, ARGUMENT, null)
            return False
    own = local(Options, 1)[0]
    planish_defaults(own)
    given = options if options != null else own
    if not drawable(model, given):
        return False
    set_draw(model, given)
    return True


def drawable(model: Model, given: Options) -> bool:
    """Whether tokens can be drawn so."""
    places = planish_places()
    penalty = given.repetition_penalty
    if not 0.0 <= given.temperature <= LARGEST:
        form = text("temperature is a finite number of at least 0, got %g")
        snprintf(model.message, MESSAGE, form, f64(given.temperature))
    elif given.top_k < 0 or not 0.0 <= given.top_p <= 1.0:
        form = text("top_k is at least 0 and 0 <= top_p <= 1, got %d and %g")
        snprintf(model.message, MESSAGE, form, given.top_k, f64(given.top_p))
    elif not 0.0 <= given.min_p <= 1.0:
        form = text("min_p is a number of 0 <= min_p <= 1, got %g")
        snprintf(model.message, MESSAGE, form, f64(given.min_p))
    elif penalty != 0.0 and not SMALLEST <= penalty <= LARGEST:
        form = text("repetition_penalty is a finite number above 0, or 0 for none, got %g")
        snprintf(model.message, MESSAGE, form, f64(penalty))
    elif places.min_p < 0 and given.min_p != 0.0:
        snprintf(model.message, MESSAGE, text(WITHOUT), text("min_p"))
    elif places.seen < 0 and penalty != 0.0 and penalty != 1.0:
        snprintf(model.message, MESSAGE, text(WITHOUT), text("repetition_penalty"))
    else:
        return True
    model.status = ARGUMENT
    return False


def set_draw(model: Model, given: Options) -> None:
    """Set how tokens are drawn."""
    places = planish_places()
    state = model.state
    model.seed = given.seed
    model.slide = given.slide
    most = i32(planish_tables().vocabulary)
    set_key(given.seed, 0, Ptr[u32](state + places.keys))
    Ptr[f32](state + places.temperature)[0] = given.temperature
    Ptr[i32](state + places.top_k)[0] = given.top_k if 0 < given.top_k < most else most
    Ptr[f32](state + places.top_p)[0] = given.top_p if given.top_p > 0.0 else EVERYTHING
    if places.min_p >= 0:
        Ptr[f32](state + places.min_p)[0] = given.min_p
    if places.seen >= 0:
        penalty = given.repetition_penalty
        Ptr[f32](state + places.repetition_penalty)[0] = penalty if penalty > 0.0 else 1.0


def mark(model: Model, count: i64) -> None:
    """Note which tokens a prompt has, where a penalty asks for it; decode notes later ones."""
    places = planish_places()
    if places.seen < 0:
        return
    for n in range(count):
        model.state[places.seen + i64(model.text[n])] = 1


def read_prompt(model: Model, tokens: Const[i32], count: i64, next: Ptr[i32]) -> i32:
    """Read a prompt, the end of one that is too long, and draw the token after it."""
    tables = planish_tables()
    places = planish_places()
    kept = count if count < tables.context else tables.context // 2
    memcpy(Ptr[u8](model.text), Ptr[u8](tokens + (count - kept)), 4 * kept)
    model.windows = 0
    if places.seen >= 0:
        memset(model.state + places.seen, 0, tables.vocabulary)
    return read_text(model, kept, next)


def renewed(model: Model, next: Ptr[i32]) -> i32:
    """Read the last half of a full context anew, and draw the token after it with a new key."""
    context = planish_tables().context
    half = context // 2
    memcpy(Ptr[u8](model.text), Ptr[u8](model.text + (context - half)), 4 * half)
    model.windows += 1
    keys = Ptr[u32](model.state + planish_places().keys)
    set_key(model.seed, 0, keys)
    fold_in(keys[0], keys[1], u32(-model.windows), keys)
    return read_text(model, half, next)


def read_text(model: Model, count: i64, next: Ptr[i32]) -> i32:
    """Read so many tokens of the text by pieces, and draw the token after them."""
    places = planish_places()
    Ptr[i32](model.state + places.pos)[0] = 0
    model.read = 0
    mark(model, count)
    at = 0
    while at < count:
        size = count - at if count - at < places.piece else places.piece
        model.slots[PREFILL][places.prompt] = Ptr[u8](model.text + at)
        model.length[0] = size
        if not run(model, PREFILL):
            return model.status
        at += size
    model.read = count
    return drawn(model, next)


def drawn(model: Model, next: Ptr[i32]) -> i32:
    """The token that was drawn last; -1 says that there were no usable logits."""
    places = planish_places()
    token = Ptr[i32](model.state + places.tokens)[model.read]
    if token < 0:
        model.read = 0
        form = text("NaN logits: no token can be drawn; the model's weights are broken")
        return refused(model, NAN, form)
    model.text[model.read] = token
    if next != null:
        next[0] = token
    return OK
