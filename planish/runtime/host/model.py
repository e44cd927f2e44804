"""A model in memory: made of an artifact's tables, run by its own threads, and given back.

One block of memory holds all that changes: threads' meeting places, the tables of pointers that
programs take, their state, temporaries. Weights are read where the file has them.
"""

from __future__ import annotations

from planish.runtime.host.cpu import core_beside, cores, move_to
from planish.runtime.host.language import (
    Ptr,
    Text,
    address,
    export,
    i32,
    i64,
    local,
    null,
    size_of,
    text,
    u8,
    u64,
)
from planish.runtime.host.levels import best_level, is_known, wanted_level
from planish.runtime.host.libc import (
    ANONYMOUS,
    HUGE_PAGES,
    PRIVATE,
    READ,
    TO_END,
    WRITE,
    __errno_location,
    calloc,
    close,
    free,
    getpid,
    lseek,
    madvise,
    memcmp,
    memcpy,
    mmap,
    munmap,
    pthread_create,
    pthread_join,
    sched_getcpu,
    snprintf,
    strerror,
)
from planish.runtime.host.records import (
    ARGUMENT,
    CPU,
    FAULT,
    FILE,
    MESSAGE,
    NO_MEMORY,
    OK,
    TEMPORARY,
    WEIGHTS,
    Model,
    Program,
    Tables,
    Worker,
    is_left,
    opened,
    planish_run,
    planish_stop,
    planish_tables,
    planish_worker,
)

LINE = 64
PAGE = 1 << 21  # a huge page
MOST_THREADS = 1024
WORD = 8  # bytes
LANES = 512  # of a checksum, see `planish.runtime.checksum`
FACTOR = 0x9E3779B185EBCA87


@export
def planish_create(weights: Text, threads: i32) -> Model:
    """Make a model. Ask planish_status whether that worked; NULL only where there is no memory.

    weights: the file of weights, for artifacts whose weights are not inside; NULL for others. Their
    checksum is compared, inside or not: PLANISH_FILE where a byte of them has changed.
    threads: how many share the work, at most the cores that this process may use (its affinity,
    its control group's quota); 0 means all of those.
    A model is used by one thread at a time; several models run side by side, each with threads of
    its own and memory of its own but for weights that never change, which they share. Free it with
    planish_free. A forked process makes models of its own: calls with one of its parent's, whose
    threads it has not, fail (PLANISH_FAULT); planish_free gives its memory back.
    """
    model = Model(calloc(1, size_of(Model) + MESSAGE))
    if model == null:
        return model
    model.message = Ptr[u8](model) + size_of(Model)
    model.process = getpid()
    tables = planish_tables()
    if threads < 0 or threads > MOST_THREADS:
        snprintf(
            model.message, MESSAGE, text("threads are 0 to %d, got %d"), i32(MOST_THREADS), threads
        )
        model.status = ARGUMENT
    elif fits(model, tables) and find_weights(model, tables, weights):
        there = cores()
        model.threads = i64(threads) if threads > 0 and i64(threads) < there else there
        if set_aside(model, tables):
            start(model)
    return model


@export
def planish_status(model: Model) -> i32:
    """0, or the code of the last call that failed: why a model could not be made, for one."""
    return model.status if model != null else NO_MEMORY


@export
def planish_error(model: Model) -> Text:
    """What went wrong last, in a line, or "". It is the model's, until its next call."""
    return model.message if model != null else text("out of memory")


@export
def planish_free(model: Model) -> None:
    """End the threads of a model and give its memory back; NULL is none."""
    if model == null:
        return
    if model.started > 0 and not is_left(model):
        planish_stop(model.pool)
        for n in range(model.started):
            pthread_join(model.workers[n].thread, null)
    if model.block != null:
        munmap(model.block, model.block_size)
    if model.file != null:
        munmap(model.file, planish_tables().size)
    free(Ptr[u8](model.losses))
    free(Ptr[u8](model))


def fits(model: Model, tables: Tables) -> bool:
    """Choose the code for this processor; False where there is none."""
    name = wanted_level()
    if name != null and not is_known(tables, name, model.message, MESSAGE):
        model.status = ARGUMENT
        return False
    model.level = best_level(tables, name, model.message, MESSAGE)
    if model.level == null:
        model.status = CPU
        return False
    model.message[0] = 0  # of better levels
    return True


def find_weights(model: Model, tables: Tables, path: Text) -> bool:
    """The weights: in the artifact, or mapped from a file that belongs to it; whole in any case."""
    data = tables.head
    if tables.inside == 0:
        if not map_weights(model, tables, path):
            return False
        data = model.file
    elif path != null:
        form = text("the weights are inside, there is no use for %.300s")
        snprintf(model.message, MESSAGE, form, path)
        model.status = ARGUMENT
        return False
    model.weights = data + tables.weights_at
    count = (tables.size - tables.weights_at) // WORD
    if checksum(Ptr[u64](model.weights), count) == tables.checksum:
        return True
    name = path if tables.inside == 0 else text("this program")
    form = text("%.300s is damaged: the weights do not match their checksum")
    snprintf(model.message, MESSAGE, form, name)
    model.status = FILE
    return False


def checksum(words: Ptr[u64], count: i64) -> u64:
    """What `planish.runtime.checksum` says of weights, at about the speed of reading them."""
    lanes = local(u64, LANES)
    for at in range(0, count, LANES):
        left = count - at
        for n in range(left if left < LANES else i64(LANES)):
            lanes[n] = stirred(lanes[n], words[at + n])
    found: u64 = 0
    for n in range(LANES):
        found = stirred(found, lanes[n])
    return found


def stirred(sum: u64, word: u64) -> u64:
    """A checksum with one more word: another for every other word, and for every other sum."""
    both = sum ^ word
    return (both << 29 | both >> 35) * FACTOR


def map_weights(model: Model, tables: Tables, path: Text) -> bool:
    """Map the file of weights, which begins as the artifact's own data does."""
    model.status = FILE
    if path == null:
        snprintf(model.message, MESSAGE, text("the weights are in a file of their own: name it"))
        return False
    file = opened(path)
    if file < 0:
        form = text("cannot read %.300s: %s")
        snprintf(model.message, MESSAGE, form, path, strerror(__errno_location()[0]))
        return False
    size = lseek(file, 0, TO_END)
    if size == tables.size:
        model.file = mmap(null, size, READ, PRIVATE, file, 0)
    close(file)
    if size != tables.size:
        form = text("%.300s has %ld bytes, the weights of this program have %ld")
        snprintf(model.message, MESSAGE, form, path, size, tables.size)
        return False
    if i64(model.file) == -1:
        model.file = null
        snprintf(model.message, MESSAGE, text("cannot map %.300s"), path)
        return False
    if memcmp(model.file, tables.head, tables.weights_at) != 0:
        form = text("%.300s has the weights of another program")
        snprintf(model.message, MESSAGE, form, path)
        return False
    model.status = OK
    return True


def up(size: i64) -> i64:
    """A size in whole cache lines."""
    return (size + LINE - 1) // LINE * LINE


def taken(at: Ptr[Ptr[u8]], size: i64) -> Ptr[u8]:
    """The next bytes of a block, whose free part begins at `at`."""
    place = at[0]
    at[0] = place + up(size)
    return place


def set_aside(model: Model, tables: Tables) -> bool:
    """The memory of a model, zeros, in one block."""
    level = model.level
    slots = up(8 * level.count)
    for n in range(level.count):
        slots += up(8 * level.programs[n].count)
    work = (
        up(tables.state)
        + up(4 * tables.context)
        + up(level.arena)
        + up(level.scratch) * model.threads
    )
    workers = (LINE + up(size_of(Worker))) * model.threads
    size = 32 * LINE + workers + slots + work + PAGE
    model.block = mmap(null, size, READ | WRITE, PRIVATE | ANONYMOUS, -1, 0)
    if i64(model.block) == -1:
        model.block = null
        snprintf(model.message, MESSAGE, text("no memory for %ld bytes"), size)
        model.status = NO_MEMORY
        return False
    model.block_size = size
    begin = i64(model.block)
    if work >= PAGE:
        madvise(model.block, size, HUGE_PAGES)
        begin = (begin + PAGE - 1) // PAGE * PAGE
    at = local(Ptr[u8], 1)
    at[0] = Ptr[u8](begin)
    model.scratch = taken(at, up(level.scratch) * model.threads)
    model.arena = taken(at, level.arena)
    model.state = taken(at, tables.state)
    model.text = Ptr[i32](taken(at, 4 * tables.context))
    model.slots = Ptr[Ptr[Ptr[u8]]](taken(at, 8 * level.count))
    model.workers = Ptr[Worker](taken(at, size_of(Worker) * model.threads))
    model.pool = taken(at, 4 * LINE)
    model.barrier = taken(at, LINE * model.threads)
    model.failure = Ptr[i64](taken(at, LINE))
    model.call = Ptr[i64](taken(at, LINE))
    model.length = Ptr[i64](taken(at, LINE))
    for n in range(level.count):
        program = level.programs[n]
        model.slots[n] = Ptr[Ptr[u8]](taken(at, 8 * program.count))
        point(model, program, model.slots[n])
    for n in range(tables.initial_count):
        first = tables.initial + 3 * n
        memcpy(model.state + first[1], model.weights + first[0], first[2])
    return True


def point(model: Model, program: Program, table: Ptr[Ptr[u8]]) -> None:
    """Fill a program's table of pointers."""
    for n in range(program.count):
        space = program.slots[2 * n]
        base = model.state
        if space == WEIGHTS:
            base = model.weights
        elif space == TEMPORARY:
            base = model.arena
        table[n] = base + program.slots[2 * n + 1]


def start(model: Model) -> None:
    """Start the threads beside the one that calls, each on a core of its own."""
    here = i64(sched_getcpu())
    for n in range(model.threads - 1):
        worker = model.workers[n]
        worker.pool = model.pool
        worker.number = n + 1
        worker.core = core_beside(here, n)
        failed = pthread_create(address(worker.thread), null, work, Ptr[u8](worker))
        if failed != 0:
            form = text("cannot start a thread: %s")
            snprintf(model.message, MESSAGE, form, strerror(failed))
            model.status = NO_MEMORY
            return
        model.started += 1


def work(given: Ptr[u8]) -> Ptr[u8]:
    """What a thread does: jobs, until it is told to stop."""
    worker = Worker(given)
    move_to(worker.core)
    planish_worker(worker.pool, worker.number)
    return null


def run(model: Model, number: i64) -> bool:
    """Run a program of the level once; False where an index was outside its table."""
    program = model.level.programs[number]
    call = model.call
    call[0] = i64(model.slots[number])
    call[1] = i64(model.length)
    call[2] = 1
    call[3] = i64(model.scratch)
    call[4] = up(model.level.scratch)
    call[5] = i64(model.failure)
    call[6] = i64(model.barrier)
    if model.threads == 1:
        program.main(call, 0, 1)
    else:
        planish_run(model.pool, program.main, call, model.threads)
    if model.failure[0] == 0:
        return True
    form = text("index %ld is outside 0 <= index < %ld in the model")
    snprintf(model.message, MESSAGE, form, model.failure[2], model.failure[3])
    model.failure[0] = 0
    model.status = FAULT
    return False
