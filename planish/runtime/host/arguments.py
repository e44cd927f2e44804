"""The command line of a program for the shell: options, --help, and what is wrong with them."""

from __future__ import annotations

from planish.runtime.host.abi import ABI
from planish.runtime.host.generator import SMALLEST, Options
from planish.runtime.host.language import (
    Ptr,
    Record,
    Text,
    address,
    f32,
    i32,
    i64,
    local,
    null,
    text,
    u8,
)
from planish.runtime.host.libc import (
    TOO_LARGE,
    __errno_location,
    snprintf,
    strcmp,
    strlen,
    strtod,
    strtoll,
    strtoull,
    write,
)
from planish.runtime.host.records import LARGEST, planish_tables

LINE_SIZE = 1024
MISTAKE = 2  # an exit code
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
  --slide          go on where the context is full, with the last half of it
  --threads N      threads to use (default: all that it may use)
  --weights FILE   the file of weights, where they are not inside
  --stats          tell the speed, and which processor the code is for, on standard error
  --version        say which version of planish made this program, and for which processors
"""
VERSION = "%s: planish %s, ABI %d, code for"


class Given(Record):
    """What the command line says."""

    prompt: Text
    count: i64
    threads: i64
    weights: Text
    stats: i64
    seeded: i64


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


def complain(what: Text, about: Text) -> i32:
    """Say what is wrong with the command line."""
    line = local(u8, LINE_SIZE)
    snprintf(line, LINE_SIZE, text("error: %s%.300s\n"), what, about)
    say(line)
    return MISTAKE


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


def flag(name: Text, given: Given, options: Options) -> bool:
    """Set an option that takes no value; False where it is none of these."""
    if strcmp(name, text("--stats")) == 0:
        given.stats = 1
    elif strcmp(name, text("--slide")) == 0:
        options.slide = 1
    else:
        return False
    return True


def joined(word: Text) -> Text:
    """What stands after the = of --option=value, which is then cut there; or null."""
    at = 0
    while word[at] != 0 and word[at] != ord("="):
        at += 1
    if word[1] != ord("-") or word[at] == 0:
        return null
    word[at] = 0
    return word + (at + 1)


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
            continue
        if strcmp(word, text("--")) == 0:
            plain = True
            continue
        value = joined(word)
        if flag(word, given, options):
            if value != null:
                return complain(text("there is no value for "), word)
            continue
        if value == null:
            if at == count:
                return complain(text("unknown option, or one without its value: "), word)
            value = arguments[at]
            at += 1
        code = set_option(word, value, given, options)
        if code != 0:
            return code
    return 0


def asked(count: i64, arguments: Ptr[Text]) -> i32:
    """Tell what --help and --version ask for: 1, or -1 where it cannot be written; else 0."""
    line = local(u8, 2 * LINE_SIZE)
    for n in range(1, count):
        if strcmp(arguments[n], text("--help")) == 0:
            snprintf(line, 2 * LINE_SIZE, text(USAGE), arguments[0])
            return 1 if put_out(1, line, strlen(line)) else i32(-1)
        if strcmp(arguments[n], text("--version")) == 0:
            tables = planish_tables()
            snprintf(line, LINE_SIZE, text(VERSION), arguments[0], tables.version, i32(ABI))
            put_out(1, line, strlen(line))
            for level in range(tables.level_count):
                name = tables.levels[level].name
                before = text(",") if level > 0 else text("")
                snprintf(line, LINE_SIZE, text("%s %s"), before, name)
                put_out(1, line, strlen(line))
            return 1 if put_out(1, text("\n"), 1) else i32(-1)
    return 0
