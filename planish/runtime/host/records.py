"""What host code knows of an artifact, and of a model in memory; how errors are noted."""

from __future__ import annotations

from collections.abc import Callable

from planish.runtime.host.cpu import Need
from planish.runtime.host.language import (
    Ptr,
    Record,
    Text,
    extern,
    f64,
    i32,
    i64,
    null,
    text,
    u8,
    u64,
)
from planish.runtime.host.libc import (
    AT_ONCE,
    READ_ONLY,
    TO_END,
    __errno_location,
    close,
    getpid,
    lseek,
    open,
    read,
    snprintf,
)

OK = 0
ARGUMENT = 1
NO_MEMORY = 2
FILE = 3
CPU = 4
ROOM = 5
NAN = 6
FAULT = 7
MESSAGE = 512  # bytes of a message
HEAD = 64  # bytes at the beginning of an artifact that say which it is
WEIGHTS = 1  # where a slot is; 0 is in the state
TEMPORARY = 2
LARGEST = 3.4028234663852886e38  # of f32


class Program(Record):
    """A compiled program: its function, how many slots it takes, and where each is.

    `slots` are pairs, a space (state, weights, temporary) and an offset in it.
    """

    main: Callable[[Ptr[i64], i64, i64], None]
    slots: Ptr[i64]
    count: i64


class Level(Record):
    """The programs for one kind of processor, the memory they want, and what it must have."""

    name: Text
    programs: Ptr[Program]
    count: i64
    arena: i64
    scratch: i64
    tiles: i64
    needs: Ptr[Need]
    need_count: i64


class Tables(Record):
    """What is known of an artifact when it is made, by planish of a `version`.

    The artifact's data, of `size` bytes, begins at `head`, or is in a file of its own; weights are
    from `weights_at` on, and `checksum` is theirs. `initial` is what the state begins with where
    that is not zero: an offset in the weights, one in the state, and bytes.
    """

    version: Text
    levels: Ptr[Level]
    level_count: i64
    context: i64
    vocabulary: i64
    state: i64
    head: Text
    inside: i64
    weights_at: i64
    size: i64
    checksum: u64
    initial: Ptr[i64]
    initial_count: i64


# see `planish.runtime.ship.tables`
@extern
def planish_tables() -> Tables: ...


@extern
def planish_worker(pool: Ptr[u8], number: i64) -> None: ...
@extern
def planish_run(
    pool: Ptr[u8], main: Callable[[Ptr[i64], i64, i64], None], call: Ptr[i64], threads: i64
) -> None: ...
@extern
def planish_stop(pool: Ptr[u8]) -> None: ...


class Worker(Record):
    """A thread of a pool."""

    pool: Ptr[u8]
    number: i64
    core: i64
    thread: u64


class Model(Record):
    """A model that can be run, or `status` and `message`: why it cannot.

    `process` is the one that made it, and has its threads. `read` are tokens that were read, or
    steps that were made, whose `losses` there may be `room` for. `text` are the tokens of a text
    that `seed` began; `slide`: it may go on where the context is full, as it did `windows` times.
    `words` is the tokenizer, once it has been checked.
    """

    status: i32
    message: Ptr[u8]
    process: i32
    threads: i64
    started: i64
    level: Level
    workers: Ptr[Worker]
    block: Ptr[u8]
    block_size: i64
    file: Ptr[u8]
    weights: Ptr[u8]
    pool: Ptr[u8]
    barrier: Ptr[u8]
    failure: Ptr[i64]
    call: Ptr[i64]
    length: Ptr[i64]
    slots: Ptr[Ptr[Ptr[u8]]]
    state: Ptr[u8]
    arena: Ptr[u8]
    scratch: Ptr[u8]
    read: i64
    text: Ptr[i32]
    seed: u64
    slide: i32
    windows: i64
    losses: Ptr[f64]
    room: i64
    words: Ptr[u8]


def can_run(model: Model) -> bool:
    """Whether there is a model that was made; the last error is forgotten."""
    if model == null or model.slots == null:
        return False
    if model.started + 1 < model.threads:
        return False
    if is_left(model):
        model.status = FAULT
        form = text("a forked process has none of the model's threads: make a model there")
        snprintf(model.message, MESSAGE, form)
        return False
    model.status = OK
    model.message[0] = 0
    return True


def is_left(model: Model) -> bool:
    """Whether this is a forked process, in which threads of the model would be waited for."""
    return model.started > 0 and model.process != getpid()


def failed(model: Model) -> i32:
    """The code of what went wrong."""
    return model.status if model != null else ARGUMENT


def refused(model: Model, code: i32, why: Ptr[u8]) -> i32:
    """Note an error; its text, if it is not in the message already."""
    if why != null:
        snprintf(model.message, MESSAGE, text("%s"), why)
    model.status = code
    return code


def opened(path: Text) -> i32:
    """A file to map; -1 where it is none, a folder or a pipe say, and the system's number says why.

    A folder can be opened, and its size is that of the largest file that there could be; a pipe
    has none, and is not waited for.
    """
    file = open(path, READ_ONLY | AT_ONCE)
    if file >= 0 and (read(file, null, 0) < 0 or lseek(file, 0, TO_END) < 0):
        why = __errno_location()[0]
        close(file)
        __errno_location()[0] = why
        return -1
    return file
