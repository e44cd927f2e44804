"""Checkpoints of trainings as files: the header of safetensors, and the checksum of Python's.

    u64 size  {"__metadata__":{...},"training/evaluations":{...},...}  arrays

Only the number of steps and the checksum differ from one checkpoint to the next, so the header is
made of texts that tables have, and a file is right where it has the header that it would be given.
"""

from __future__ import annotations

from planish.runtime.host.language import Ptr, Record, Text, i64, local, text, u8, u64
from planish.runtime.host.libc import memcpy, snprintf, strlen
from planish.runtime.host.sha256 import DIGITS, sha_add, sha_begun, sha_hex

EVALUATIONS = 0  # the first array of a file
LOSSES = 1  # the next, f64, one for each step
SIZE = 8  # bytes of the header's size, and of a loss


class Saved(Record):
    """An array of a file: what the header says of it up to where it is, what the checksum does.

    `at` is where it is in the state, `before` the bytes of other arrays before it but for losses.
    """

    entry: Text
    label: Text
    at: i64
    size: i64
    before: i64


class Kept(Record):
    """What is known of checkpoints: `saved` arrays in order, those of the checksum are in `order`.

    The header is `begin`, the checksum, `middle`, and entries; `room` is enough for it. `about` is
    the metadata, as the checksum reads it, `lacks` the name of what no step changes, or "". `bytes`
    are those of all arrays but losses. `numbers`: see `sha256`.
    """

    begin: Text
    middle: Text
    about: Text
    lacks: Text
    evaluations: Text
    saved: Ptr[Saved]
    count: i64
    order: Ptr[i64]
    numbers: Ptr[i64]
    bytes: i64
    room: i64


def saved_size(kept: Kept, number: i64, steps: i64) -> i64:
    """The bytes of an array."""
    return SIZE * steps if number == LOSSES else kept.saved[number].size


def saved_place(kept: Kept, number: i64, steps: i64) -> i64:
    """Where an array is, from the end of the header on."""
    return kept.saved[number].before + (SIZE * steps if number > LOSSES else 0)


def header_of(kept: Kept, steps: i64, sum: Text, out: Ptr[u8]) -> i64:
    """Write the header of a checkpoint, whose size stands before it; how many bytes it has."""
    size = SIZE
    size += copied(out + size, kept.begin)
    memcpy(out + size, sum, DIGITS)
    size += DIGITS
    size += copied(out + size, kept.middle)
    for n in range(kept.count):
        size += copied(out + size, kept.saved[n].entry)
        if n == LOSSES:
            form = text('%ld],"data_offsets":[')
            size += i64(snprintf(out + size, 64, form, steps))
        place = saved_place(kept, n, steps)
        end = place + saved_size(kept, n, steps)
        size += i64(snprintf(out + size, 64, text("%ld,%ld]}"), place, end))
    out[size] = ord("}")
    size += 1
    while size % SIZE != 0:
        out[size] = ord(" ")
        size += 1
    Ptr[u64](out)[0] = u64(size - SIZE)
    return size


def copied(to: Ptr[u8], words: Text) -> i64:
    """Write a text, without the zero byte at its end; how long it is."""
    size = strlen(words)
    memcpy(to, words, size)
    return size


def sum_of(
    kept: Kept, steps: i64, places: Ptr[Ptr[u8]], memory: Ptr[u8], out: Ptr[u8]
) -> None:  # fmt: skip
    """The checksum of a checkpoint whose arrays are at these places, in the order of the file."""
    line = local(u8, 64)
    sum = sha_begun(memory, kept.numbers)
    sha_add(sum, kept.about, strlen(kept.about))
    for n in range(kept.count):
        number = kept.order[n]
        label = kept.saved[number].label
        sha_add(sum, label, strlen(label))
        if number == LOSSES:
            sha_add(sum, line, i64(snprintf(line, 64, text("%ld]]"), steps)))
        sha_add(sum, places[number], saved_size(kept, number, steps))
    sha_hex(sum, out)
