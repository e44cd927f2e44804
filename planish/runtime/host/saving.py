"""Checkpoints of a training: written in one step, and read back once all of it is known to fit."""

from __future__ import annotations

from planish.runtime.host.kept import (
    EVALUATIONS,
    LOSSES,
    SIZE,
    Kept,
    header_of,
    saved_place,
    saved_size,
    sum_of,
)
from planish.runtime.host.language import (
    Ptr,
    Text,
    export,
    f64,
    i32,
    i64,
    local,
    null,
    text,
    u8,
    u64,
)
from planish.runtime.host.libc import (
    INTERRUPTED,
    PRIVATE,
    READ,
    TO_END,
    __errno_location,
    calloc,
    close,
    flock,
    free,
    fsync,
    getrandom,
    lseek,
    memcmp,
    memcpy,
    mmap,
    munmap,
    open,
    realloc,
    rename,
    snprintf,
    statx,
    strerror,
    strlen,
    unlink,
    write,
)
from planish.runtime.host.records import (
    ARGUMENT,
    FILE,
    MESSAGE,
    NO_MEMORY,
    Model,
    can_run,
    failed,
    opened,
    refused,
)
from planish.runtime.host.sha256 import DIGITS, sha_memory
from planish.runtime.host.training import MORE, kept, planish_places, planish_steps

NEW = 0x800C1  # of open: to write, a file that was not there, and not for programs that are started
MODE = 0o666
ALONE = 6  # of flock: no other, and do not wait
LONGEST = 4096  # bytes of a path
# Of statx: from the folder of the process on, links as they are, the kind of file, which stands in
# the upper half of the byte at that place: files and links are what a new file may replace.
HERE = -100
AS_IT_IS = 0x100
KIND = 1
FACTS = 256  # bytes
KIND_AT = 29
FILE_KIND = 0x80
LINK_KIND = 0xA0


@export
def planish_save(model: Model, path: Text) -> i32:
    """Write a checkpoint: weights, the optimiser's state and the losses, as safetensors.

    It is the file that Trainer.save writes in Python: pl.load_model reads the model in it,
    Trainer.resume and planish_restore go on with the training. An old file of this name is replaced
    in one step, once the new one is whole and on the disk. Returns 0, or the code of what went
    wrong: PLANISH_FILE where it cannot be written.
    """
    if not can_run(model) or not kept(model):
        return failed(model)
    facts = planish_places().kept
    if facts.lacks[0] != 0:
        form = text("a checkpoint would lack %.300s, which is not trained")
        snprintf(model.message, MESSAGE, form, facts.lacks)
        return refused(model, ARGUMENT, null)
    work = Ptr[u8](calloc(1, work_size(facts)))
    if work == null:
        return refused(model, NO_MEMORY, text("no memory for a checkpoint"))
    write_checkpoint(model, facts, path, work)
    free(work)
    return model.status


@export
def planish_restore(model: Model, path: Text) -> i32:
    """Go on from a checkpoint of this training, which planish_save or Trainer.save wrote.

    All of the file is compared first: what it says of model, optimiser and batches, shapes, the
    checksum. Returns 0, or the code of what went wrong; nothing has changed then. PLANISH_FILE: it
    cannot be read, is damaged, or is of another training.
    """
    if not can_run(model) or not kept(model):
        return failed(model)
    file = opened(path)
    if file < 0:
        return unusable(model, text("cannot read %.300s: %s"), path)
    size = lseek(file, 0, TO_END)
    data = mmap(null, size, READ, PRIVATE, file, 0) if size > 0 else Ptr[u8](null)
    close(file)
    if i64(data) == -1:
        return unusable(model, text("cannot map %.300s: %s"), path)
    facts = planish_places().kept
    work = Ptr[u8](calloc(1, work_size(facts)))
    if work == null:
        refused(model, NO_MEMORY, text("no memory for a checkpoint"))
    elif data == null:
        unusable(model, text("%.300s is empty"), path)
    else:
        read_checkpoint(model, facts, path, data, size, work)
    if data != null:
        munmap(data, size)
    free(work)
    return model.status


def work_size(facts: Kept) -> i64:
    """The bytes that it takes to write or to compare a checkpoint."""
    return facts.room + 8 * facts.count + sha_memory() + DIGITS + 8


def unusable(model: Model, form: Text, path: Text) -> i32:
    """Note that a file cannot be used; what the system says follows the path."""
    snprintf(model.message, MESSAGE, form, path, strerror(__errno_location()[0]))
    return refused(model, FILE, null)


def places_in(facts: Kept, base: Ptr[u8], steps: i64, found: Ptr[Ptr[u8]]) -> None:
    """Where the arrays of a file are whose header ends at `base`."""
    for n in range(facts.count):
        found[n] = base + saved_place(facts, n, steps)


def write_checkpoint(model: Model, facts: Kept, path: Text, work: Ptr[u8]) -> None:
    """Write all to a new file beside the old one, and give it that one's name."""
    steps = planish_steps(model)
    places = Ptr[Ptr[u8]](work)
    header = work + 8 * facts.count
    sum = header + facts.room
    for n in range(facts.count):
        places[n] = model.state + facts.saved[n].at
    places[EVALUATIONS] = facts.evaluations
    places[LOSSES] = Ptr[u8](model.losses)
    sum_of(facts, steps, places, sum + DIGITS + 8, sum)
    size = header_of(facts, steps, sum, header)
    name = local(u8, LONGEST)
    if not is_free(path):
        form = text("%.300s is a folder, a device or a pipe, which no file replaces")
        unusable(model, form, path)
        return
    if not beside(path, name):
        unusable(model, text("%.300s: this name is too long"), path)
        return
    file = open(name, NEW, i32(MODE))
    if file < 0:
        unusable(model, text("cannot write %.300s: %s"), path)
        return
    flock(file, ALONE)  # other writers sweep away what nobody holds; not all file systems have it
    done = put_all(file, header, size)
    for n in range(facts.count):
        done = done and put_all(file, places[n], saved_size(facts, n, steps))
    if not done or fsync(file) != 0 or rename(name, path) != 0:
        unusable(model, text("cannot write %.300s: %s"), path)
        unlink(name)
    close(file)


def is_free(path: Text) -> bool:
    """Whether a file may have a path: nothing is there, or a file or a link that it replaces."""
    facts = local(u8, FACTS)
    if statx(HERE, path, AS_IT_IS, KIND, facts) != 0:
        return True  # nothing that can be seen: to write says why
    kind = i64(facts[KIND_AT]) & 0xF0
    return True if kind == FILE_KIND else kind == LINK_KIND


def beside(path: Text, name: Ptr[u8]) -> bool:
    """A new name in the folder of a path, as Python gives it: .NAME and twelve digits."""
    split = 0
    for n in range(strlen(path)):
        if path[n] == ord("/"):
            split = n + 1
    chance = local(u64, 1)
    getrandom(chance, 8, 0)
    form = text("%.*s.%s.%012lx")
    size = snprintf(name, LONGEST, form, i32(split), path, path + split, chance[0] >> 16)
    return i64(size) < LONGEST


def put_all(file: i32, data: Ptr[u8], size: i64) -> bool:
    """Write all of some bytes; False where that fails."""
    at = 0
    while at < size:
        done = write(file, data + at, size - at)
        if done > 0:
            at += done
        elif done == 0 or __errno_location()[0] != INTERRUPTED:
            return False
    return True


def read_checkpoint(
    model: Model, facts: Kept, path: Text, data: Ptr[u8], size: i64, work: Ptr[u8]
) -> None:
    """Compare a file with what it must be, and take its numbers over."""
    places = Ptr[Ptr[u8]](work)
    header = work + 8 * facts.count
    sum = header + facts.room
    steps = steps_in(facts, data, size, header)
    if steps < 0:
        unusable(model, text("%.300s is no checkpoint of this training"), path)
        return
    base = data + SIZE + i64(Ptr[u64](data)[0])
    places_in(facts, base, steps, places)
    sum_of(facts, steps, places, sum + DIGITS + 8, sum)
    if memcmp(sum, data + SIZE + strlen(facts.begin), DIGITS) != 0:
        unusable(model, text("%.300s is damaged: the contents do not match their checksum"), path)
        return
    if memcmp(places[EVALUATIONS], facts.evaluations, facts.saved[EVALUATIONS].size) != 0:
        unusable(model, text("%.300s has evaluations that this library has not"), path)
        return
    more = Ptr[f64](realloc(Ptr[u8](model.losses), 8 * (steps + MORE)))
    if more == null:
        refused(model, NO_MEMORY, text("no memory for another loss"))
        return
    model.losses = more
    model.room = steps + MORE
    memcpy(Ptr[u8](more), places[LOSSES], 8 * steps)
    model.read = steps - planish_places().done
    for n in range(LOSSES + 1, facts.count):
        memcpy(model.state + facts.saved[n].at, places[n], facts.saved[n].size)


def steps_in(facts: Kept, data: Ptr[u8], size: i64, header: Ptr[u8]) -> i64:
    """How many steps a checkpoint has, whose header is right; -1 where it is not."""
    begin = SIZE + strlen(facts.begin)
    if size < begin + DIGITS:
        return -1
    rest = size - SIZE - i64(Ptr[u64](data)[0]) - facts.bytes
    if rest < 0 or rest > size or rest % SIZE != 0:
        return -1
    length = header_of(facts, rest // SIZE, data + begin, header)
    same = length + facts.bytes + rest == size and memcmp(header, data, length) == 0
    return rest // SIZE if same else i64(-1)
