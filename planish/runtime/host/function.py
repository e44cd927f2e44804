"""A compiled function: arrays of the caller go in, and results into arrays of the caller."""

from __future__ import annotations

from planish.runtime.host.language import (
    Const,
    Memory,
    Ptr,
    Record,
    Text,
    export,
    extern,
    i32,
    i64,
    null,
    text,
    u8,
)
from planish.runtime.host.libc import snprintf
from planish.runtime.host.model import run
from planish.runtime.host.records import ARGUMENT, MESSAGE, OK, Model, can_run, failed, refused


class Size(Record):
    """A size that a call says, and the largest that it can be."""

    name: Text
    most: i64


class Places(Record):
    """What is known of a function: how many arrays it takes and returns, and its sizes.

    `homes` are, for each output, the input that it replaces, or -1.
    """

    inputs: i64
    outputs: i64
    homes: Ptr[i64]
    sizes: Ptr[Size]
    size_count: i64


# see `planish.runtime.ship.function`
@extern
def planish_places() -> Places: ...


@export
def planish_call(
    model: Model, inputs: Const[Memory], outputs: Ptr[Memory], sizes: Const[i64]
) -> i32:  # fmt: skip
    """Run it once. Above stand the arrays in order, row-major, and the sizes in order.

    inputs, outputs: where each array is, aligned as its elements are; what is written overlaps with
    nothing else. An input that is replaced is written; the place of the output that replaces it is
    not read. sizes: NULL where there are none. The same call gives the same bits, at any number of
    threads. Returns 0, or the code of what went wrong (planish_error); PLANISH_FAULT: an index was
    outside of its table.
    """
    if not can_run(model) or not sized(model, sizes) or not placed(model, inputs, outputs):
        return failed(model)
    return OK if run(model, 0) else model.status


def sized(model: Model, sizes: Const[i64]) -> bool:
    """Note the sizes of a call; False where one cannot be."""
    places = planish_places()
    if sizes == null and places.size_count > 0:
        refused(model, ARGUMENT, text("sizes is NULL"))
        return False
    for n in range(places.size_count):
        size = places.sizes[n]
        if sizes[n] < 1 or sizes[n] > size.most:
            form = text("size %ld (%.100s) is 1 to %ld, got %ld")
            snprintf(model.message, MESSAGE, form, n, size.name, size.most, sizes[n])
            refused(model, ARGUMENT, null)
            return False
        model.length[n] = sizes[n]
    return True


def placed(model: Model, inputs: Const[Memory], outputs: Ptr[Memory]) -> bool:
    """Note where the arrays of a call are; False where one is nowhere."""
    places = planish_places()
    table = model.slots[0]
    for n in range(places.inputs):
        if inputs == null or inputs[n] == null:
            return nowhere(model, text("input"), n)
        table[n] = Ptr[u8](inputs[n])
    for n in range(places.outputs):
        home = places.homes[n]
        if home < 0 and (outputs == null or outputs[n] == null):
            return nowhere(model, text("output"), n)
        table[places.inputs + n] = table[home] if home >= 0 else Ptr[u8](outputs[n])
    return True


def nowhere(model: Model, what: Text, number: i64) -> bool:
    """Say that an array is NULL; False."""
    snprintf(model.message, MESSAGE, text("%s %ld is NULL"), what, number)
    refused(model, ARGUMENT, null)
    return False
