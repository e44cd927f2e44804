"""A program for the shell: reads options and a prompt, and writes on as the text comes.

    ./tinygpt "ROMEO:" -n 200 --temperature 0.8 --top-k 40 --seed 1 --stats

Exit codes: 0 done, 1 failed, 2 the user's mistake. Errors are one line on standard error.
"""

from __future__ import annotations

from planish.runtime.host.arguments import (
    LINE_SIZE,
    MISTAKE,
    Given,
    asked,
    complain,
    parsed,
    put_out,
    say,
)
from planish.runtime.host.generator import (
    Options,
    planish_defaults,
    planish_generate,
    planish_places,
)
from planish.runtime.host.known import planish_level
from planish.runtime.host.language import (
    Memory,
    Ptr,
    Record,
    Text,
    address,
    export,
    f64,
    i32,
    i64,
    local,
    null,
    text,
    u8,
    u32,
)
from planish.runtime.host.libc import (
    MONOTONIC,
    __errno_location,
    calloc,
    clock_gettime,
    free,
    getrandom,
    isatty,
    read,
    readlink,
    snprintf,
    strerror,
    strlen,
)
from planish.runtime.host.model import (
    planish_create,
    planish_error,
    planish_free,
    planish_status,
)
from planish.runtime.host.records import ARGUMENT, ROOM, Model, planish_tables
from planish.runtime.host.texts import planish_context
from planish.runtime.host.tokenizer import decode_token
from planish.runtime.host.vocab import Vocab
from planish.runtime.host.words import planish_encode

MANY = 200  # new tokens where nobody says how many, if so many fit
PROMPT_BYTES = 1 << 20
PATH = 4096
FAILED = 1


class Writing(Record):
    """A text that is being written: the token before, when it began, and what went wrong."""

    vocab: Vocab
    before: i32
    failed: i32
    count: i64
    first: f64


def now() -> f64:
    """Seconds."""
    time = local(i64, 2)
    clock_gettime(MONOTONIC, time)
    return f64(time[0]) + f64(time[1]) * 1e-9


def broken(what: Text) -> i32:
    """Say what the system refused, and why."""
    line = local(u8, LINE_SIZE)
    why = strerror(__errno_location()[0])
    snprintf(line, LINE_SIZE, text("error: %s: %s\n"), what, why)
    say(line)
    return FAILED


def standard_input(given: Given) -> i32:
    """The prompt from standard input: 0, or the exit code."""
    if isatty(0) != 0:
        return complain(text("there is no prompt, see --help"), text(""))
    data = calloc(PROMPT_BYTES + 1, 1)
    if data == null:
        say(text("error: out of memory\n"))
        return FAILED
    size = 0
    more: i64 = 0
    while size < PROMPT_BYTES:
        more = read(0, data + size, PROMPT_BYTES - size)
        if more <= 0:
            break
        size += more
    if more < 0:
        return broken(text("cannot read standard input"))
    if size == PROMPT_BYTES:
        return complain(text("the prompt on standard input has a megabyte or more"), text(""))
    if strlen(data) != size:
        return complain(text("the prompt on standard input has a byte of 0"), text(""))
    given.prompt = data
    return 0


def note(user: Memory, token: i32) -> i32:
    """Write the text of a token; 1 where the text ends."""
    mine = Writing(user)
    if mine.first == 0.0:
        mine.first = now()
    if u32(token) == mine.vocab.end or u32(token) == mine.vocab.other_end:
        return 1
    mine.count += 1
    piece = local(u8, LINE_SIZE)
    out = piece
    room: i64 = LINE_SIZE
    is_long = i64(mine.vocab.longest) > LINE_SIZE
    if is_long:
        room = i64(mine.vocab.longest)
        out = calloc(room, 1)
    if out == null:
        mine.failed = 1
        return 1
    size = decode_token(mine.vocab, token, address(mine.before), out, room)
    mine.failed = 0 if put_out(1, out, size) else i32(1)
    if is_long:
        free(out)
    return mine.failed


def failure(model: Model) -> i32:
    """Say what went wrong; the exit code."""
    line = local(u8, LINE_SIZE)
    snprintf(line, LINE_SIZE, text("error: %s\n"), planish_error(model))
    say(line)
    code = planish_status(model)
    if code == ARGUMENT:
        return MISTAKE
    return MISTAKE if code == ROOM else i32(FAILED)


def written(model: Model, given: Given, options: Options, began: f64) -> i32:
    """Write on from the prompt: the exit code."""
    length = strlen(given.prompt)
    tokens = Ptr[i32](calloc(length + 2, 4))
    if tokens == null:
        say(text("error: out of memory\n"))
        return FAILED
    count = planish_encode(model, given.prompt, length, tokens, length + 2)
    if count < 0:
        return failure(model)
    left = planish_context(model) - count
    most: i64 = MANY
    options.max_tokens = given.count
    if given.count < 0:
        options.max_tokens = left if 0 < left < most and options.slide == 0 else most
    state = local(Writing, 1)[0]
    state.vocab = Vocab(planish_places().words)
    state.before = tokens[count - 1] if count > 1 else i32(-1)
    fits = options.max_tokens <= left or options.slide != 0
    if count > 0 and fits and not put_out(1, given.prompt, length):
        state.failed = 1
    code = planish_generate(model, tokens, count, options, note, Memory(state), null)
    if (state.count > 0 or code == 0) and not put_out(1, text("\n"), 1):
        state.failed = 1
    if code != 0:
        return failure(model)
    if state.failed != 0:
        return broken(text("cannot write"))
    if given.stats != 0:
        told(model, state, began)
    return 0


def told(model: Model, state: Writing, began: f64) -> None:
    """Tell the speed."""
    line = local(u8, LINE_SIZE)
    level = planish_level(model)
    end = now()
    rate = f64(state.count - 1) / (end - state.first) if state.count > 1 else 0.0
    form = text("%ld tokens, first after %.1f ms, then %.0f tokens/s, %ld threads, code for %s\n")
    first = (state.first - began) * 1e3 if state.count > 0 else 0.0
    snprintf(line, LINE_SIZE, form, state.count, first, rate, model.threads, level)
    say(line)


@export
def main(count: i32, arguments: Ptr[Text]) -> i32:
    """The program."""
    began = now()
    given = local(Given, 1)[0]
    options = local(Options, 1)[0]
    planish_defaults(options)
    given.count = -1
    told_all = asked(i64(count), arguments)
    if told_all != 0:
        return 0 if told_all > 0 else broken(text("cannot write"))
    code = parsed(i64(count), arguments, given, options)
    if code == 0 and given.prompt == null:
        code = standard_input(given)
    if code != 0:
        return code
    if given.seeded == 0:
        getrandom(address(options.seed), 8, 0)
    path = local(u8, PATH)
    if given.weights == null and planish_tables().inside == 0:
        size = readlink(text("/proc/self/exe"), path, PATH - 16)
        if size < 0:
            return broken(text("cannot tell where this program is, name --weights"))
        snprintf(path + size, 16, text(".weights"))
        given.weights = path
    model = planish_create(given.weights, i32(given.threads))
    code = failure(model) if planish_status(model) != 0 else written(model, given, options, began)
    planish_free(model)
    return code
