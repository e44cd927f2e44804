"""A program for the shell: reads options and a prompt, and writes on as the text comes.

    ./tinygpt "ROMEO:" -n 200 --temperature 0.8 --top-k 40 --seed 1 --stats

Exit codes: 0 done, 1 failed, 2 the user's mistake. Errors are one line on standard error.
"""

from __future__ import annotations

from planish.runtime.host.generator import (
    SMALLEST,
    Options,
    planish_defaults,
    planish_generate,
    planish_places,
)
from planish.runtime.host.known import planish_context, planish_level
from planish.runtime.host.language import (
    Memory,
    Ptr,
    Record,
    Text,
    address,
    export,
    f32,
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
    TOO_LARGE,
    __errno_location,
    calloc,
    clock_gettime,
    free,
    getrandom,
    isatty,
    read,
    readlink,
    snprintf,
    strcmp,
    strerror,
    strlen,
    strtod,
    strtoll,
    strtoull,
    write,
)
from planish.runtime.host.model import (
    planish_create,
    planish_error,
    planish_free,
    planish_status,
)
from planish.runtime.host.records import ARGUMENT, LARGEST, ROOM, Model, planish_tables
from planish.runtime.host.tokenizer import decode_token
from planish.runtime.host.vocab import Vocab
from planish.runtime.host.words import planish_encode

LINE_SIZE = 1024
MANY = 200  # new tokens where nobody says how many, if so many fit
PROMPT_BYTES = 1 << 20
PATH = 4096
FAILED = 1
MISTAKE = 2
USAGE = """usage: %s [PROMPT] [options]
Writes on from PROMPT, or from standard input.
  -n N             new tokens (default: what fits, at most 200)
  --temperature T  below 1 bolder in what is likely; 0 always takes the likeliest (default: 1)
  --top-k K        choose among the K likeliest tokens
  --top-p P        choose among the likeliest tokens that have probability P
  --min-p P        choose among tokens at least P times as likely as the likeliest
  --repetition-penalty R
                   above 1: what the text has already becomes less likely
  --seed S         the same seed writes the same text
  --threads N      threads to use (default: all that it may use)
  --weights FILE   the file of weights, where they are not inside
  --stats          tell the speed, and which processor the code is for, on standard error
"""


class Given(Record):
    """What the command line says."""

    prompt: Text
    count: i64
    threads: i64
    weights: Text
    stats: i64
    seeded: i64


class Writing(Record):
    """A text that is being written: the token before, when it began, and what went wrong."""

    vocab: Vocab
    before: i32
    failed: i32
    count: i64
    first: f64


def put_out(file: i32, data: Text, size: i64) -> bool:
    """Write all of it."""
    at = 0
    while at < size:
        done = write(file, data + at, size - at)
        if done <= 0:
            return False
        at += done
    return True


def say(line: Text) -> None:
    """Tell a line on standard error."""
    put_out(2, line, strlen(line))


def now() -> f64:
    """Seconds."""
    time = local(i64, 2)
    clock_gettime(MONOTONIC, time)
    return f64(time[0]) + f64(time[1]) * 1e-9


def complain(what: Text, about: Text) -> i32:
    """Say what is wrong with the command line."""
    line = local(u8, LINE_SIZE)
    snprintf(line, LINE_SIZE, text("error: %s%.300s\n"), what, about)
    say(line)
    return MISTAKE


def broken(what: Text) -> i32:
    """Say what the system refused, and why."""
    line = local(u8, LINE_SIZE)
    why = strerror(__errno_location()[0])
    snprintf(line, LINE_SIZE, text("error: %s: %s\n"), what, why)
    say(line)
    return FAILED


def whole(given: Text, low: i64, high: i64, out: Ptr[i64]) -> bool:
    """A whole number of a range."""
    end = local(Ptr[u8], 1)
    out[0] = strtoll(given, end, 10)
    return given[0] != 0 and end[0][0] == 0 and low <= out[0] <= high


def real(given: Text, out: Ptr[f32]) -> bool:
    """A number; whether it is a good one is said later."""
    end = local(Ptr[u8], 1)
    out[0] = f32(strtod(given, end))
    return given[0] != 0 and end[0][0] == 0


def set_option(name: Text, value: Text, given: Given, options: Options) -> i32:
    """An option with its value: 0, or the exit code."""
    number = local(i64, 1)
    if strcmp(name, text("-n")) == 0 or strcmp(name, text("--tokens")) == 0:
        if not whole(value, 0, 1 << 30, number):
            return complain(text("-n is a whole number of at least 0, got "), value)
        given.count = number[0]
    elif strcmp(name, text("--temperature")) == 0:
        known = real(value, address(options.temperature))
        if not known or not 0.0 <= options.temperature <= LARGEST:
            return complain(text("--temperature is a finite number of at least 0, got "), value)
    elif strcmp(name, text("--top-p")) == 0:
        if not real(value, address(options.top_p)) or not 0.0 < options.top_p <= 1.0:
            return complain(text("--top-p is a number of 0 < P <= 1, got "), value)
    elif strcmp(name, text("--min-p")) == 0:
        if not real(value, address(options.min_p)) or not 0.0 <= options.min_p <= 1.0:
            return complain(text("--min-p is a number of 0 <= P <= 1, got "), value)
    elif strcmp(name, text("--repetition-penalty")) == 0:
        known = real(value, address(options.repetition_penalty))
        if not known or not SMALLEST <= options.repetition_penalty <= LARGEST:
            return complain(text("--repetition-penalty is a finite number above 0, got "), value)
    elif strcmp(name, text("--top-k")) == 0:
        if not whole(value, 1, 0x7FFFFFFF, number):
            return complain(text("--top-k is a whole number of at least 1, got "), value)
        options.top_k = i32(number[0])
    elif strcmp(name, text("--threads")) == 0:
        if not whole(value, 1, 1024, number):
            return complain(text("--threads is a whole number of 1 to 1024, got "), value)
        given.threads = number[0]
    elif strcmp(name, text("--seed")) == 0:
        end = local(Ptr[u8], 1)
        __errno_location()[0] = 0
        options.seed = strtoull(value, end, 10)
        given.seeded = 1
        if __errno_location()[0] == TOO_LARGE:
            return complain(text("--seed is below 2**64, got "), value)
        if not ord("0") <= value[0] <= ord("9") or end[0][0] != 0:
            return complain(text("--seed is a whole number of at least 0, got "), value)
    elif strcmp(name, text("--weights")) == 0:
        given.weights = value
    else:
        return complain(text("unknown option, see --help: "), name)
    return 0


def parsed(count: i64, arguments: Ptr[Text], given: Given, options: Options) -> i32:
    """Read the command line: 0, or the exit code."""
    plain = False
    at = 1
    while at < count:
        word = arguments[at]
        at += 1
        if plain or word[0] != ord("-") or word[1] == 0:
            if given.prompt != null:
                return complain(text("one prompt, please; the second is "), word)
            given.prompt = word
        elif strcmp(word, text("--")) == 0:
            plain = True
        elif strcmp(word, text("--stats")) == 0:
            given.stats = 1
        else:
            if at == count:
                return complain(text("unknown option, or one without its value: "), word)
            code = set_option(word, arguments[at], given, options)
            if code != 0:
                return code
            at += 1
    return 0


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
        options.max_tokens = left if 0 < left < most else most
    state = local(Writing, 1)[0]
    state.vocab = Vocab(planish_places().words)
    state.before = tokens[count - 1] if count > 1 else i32(-1)
    if count > 0 and options.max_tokens <= left and not put_out(1, given.prompt, length):
        state.failed = 1
    code = planish_generate(model, tokens, count, options, note, Memory(state), null)
    if state.count > 0 or code == 0:
        put_out(1, text("\n"), 1)
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
    for n in range(1, i64(count)):
        if strcmp(arguments[n], text("--help")) == 0:
            usage = local(u8, 2 * LINE_SIZE)
            snprintf(usage, 2 * LINE_SIZE, text(USAGE), arguments[0])
            put_out(1, usage, strlen(usage))
            return 0
    code = parsed(i64(count), arguments, given, options)
    if code == 0 and given.prompt == null:
        code = standard_input(given)
    if code != 0:
        return code
    if given.seeded == 0:
        getrandom(address(options.seed), 8, 0)
    if given.weights != null and planish_tables().inside != 0:
        return complain(
            text("the weights are inside, there is no use for --weights "), given.weights
        )
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
