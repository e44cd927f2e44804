"""Steps of training: a batch is checked and goes through forward pass, gradients and update.

Weights and the optimiser's state are in the model's state and change there.
"""

from __future__ import annotations

from planish.runtime.host.kept import Kept
from planish.runtime.host.language import (
    Const,
    Ptr,
    Record,
    Text,
    export,
    extern,
    f32,
    f64,
    i32,
    i64,
    null,
    text,
    u8,
    u32,
    u64,
)
from planish.runtime.host.libc import memcpy, memset, realloc, snprintf
from planish.runtime.host.model import run
from planish.runtime.host.records import (
    ARGUMENT,
    LARGEST,
    MESSAGE,
    NAN,
    NO_MEMORY,
    OK,
    Model,
    can_run,
    failed,
    planish_tables,
    refused,
)

IGNORED = -100  # a target that the loss does not count
MORE = 1024  # losses for which memory is taken at once


class Stored(Record):
    """A weight or a part of the optimiser's state: its place in the state, and its numbers."""

    name: Text
    at: i64
    size: i64


class Places(Record):
    """What is known of a step: where what is set and told is in the state, and sizes.

    `key` and `share` are -1 where nothing drops out, or nothing adds up. `sums` are what micro-
    batches add to, `done` are steps before this artifact was made, whose `losses` are in the state.
    `kept` is what checkpoints are made of.
    """

    tokens: i64
    targets: i64
    step: i64
    lr: i64
    key: i64
    share: i64
    sums: i64
    sums_size: i64
    loss: i64
    norm: i64
    losses: i64
    done: i64
    batch: i64
    parts: i64
    uniform: i64
    arrays: Ptr[Stored]
    array_count: i64
    kept: Kept


class Array(Record):
    """A weight, or a part of the optimiser's state: `size` numbers, where the model has them.

    They may be read and written between steps, until planish_free. The names are those of
    checkpoints; shapes are in planish_facts, as "arrays".
    """

    name: Text
    data: Ptr[f32]
    size: i64


# see `planish.runtime.ship.training`
@extern
def planish_places() -> Places: ...


@export
def planish_rows(model: Model) -> i64:
    """How many rows the batch of a step has; where batches accumulate, those of all of them."""
    places = planish_places()
    return places.batch * places.parts


@export
def planish_steps(model: Model) -> i64:
    """How many steps were made, those before this artifact was made included."""
    return planish_places().done + (model.read if model != null else 0)


@export
def planish_losses(model: Model) -> Const[f64]:
    """The losses of all steps, planish_steps of them, until the next call; NULL: no memory."""
    return model.losses if can_run(model) and kept(model) else Ptr[f64](null)


@export
def planish_arrays(model: Model) -> i64:
    """How many arrays there are: weights, then the optimiser's state."""
    return planish_places().array_count


@export
def planish_get(model: Model, number: i64, found: Array) -> i32:
    """Say where an array is, 0 <= number < planish_arrays. Returns 0, or the code of an error."""
    if not can_run(model):
        return failed(model)
    places = planish_places()
    if number < 0 or number >= places.array_count:
        form = text("array %ld is outside 0 <= number < %ld")
        snprintf(model.message, MESSAGE, form, number, places.array_count)
        return refused(model, ARGUMENT, null)
    stored = places.arrays[number]
    found.name = stored.name
    found.data = Ptr[f32](model.state + stored.at)
    found.size = stored.size
    return OK


@export
def planish_step(
    model: Model, tokens: Const[i32], targets: Const[i32], lr: f32, seed: u64,
    loss: Ptr[f32], norm: Ptr[f32],
) -> i32:  # fmt: skip
    """Make one step: loss and gradients of a batch, clipping, and the optimiser's update in place.

    tokens, targets: planish_rows rows of planish_context; a target of -100 does not count.
    lr: the learning rate of this step: schedules are the caller's. seed: decides what drops out,
    with the number of the step; without dropout it does not matter.
    loss, norm (or NULL): the loss before the update, and the norm of all gradients before clipping.
    The same calls give the same bits, at any number of threads. Returns 0, or the code of what went
    wrong (planish_error): nothing has changed then. PLANISH_NAN: loss or gradient is not finite.
    (PLANISH_FAULT, of a model that computes a wrong index, comes too late to change nothing.)
    """
    if not can_run(model) or not usable(model, tokens, targets, lr) or not kept(model):
        return failed(model)
    places = planish_places()
    state = model.state
    done = planish_steps(model)
    if places.key >= 0:
        key = Ptr[u32](state + places.key)
        key[0] = u32(seed >> 32)
        key[1] = u32(seed)
    if places.parts > 1:
        if not add_up(model, tokens, targets, done * places.parts):
            return model.status
    else:
        take(model, tokens, targets)
    Ptr[f32](state + places.lr)[0] = lr
    Ptr[i64](state + places.step)[0] = done + 1
    if not run(model, model.level.count - 1):
        return model.status
    found = Ptr[f32](state + places.loss)[0]
    length = Ptr[f32](state + places.norm)[0]
    if loss != null:
        loss[0] = found
    if norm != null:
        norm[0] = length
    if not is_finite(found) or not is_finite(length):
        what = text("the gradient's norm") if is_finite(found) else text("loss")
        form = text("%s is %g at step %ld; the weights are still those before this step")
        told = length if is_finite(found) else found
        snprintf(model.message, MESSAGE, form, what, f64(told), done + 1)
        return refused(model, NAN, null)
    model.losses[done] = f64(found)
    model.read += 1
    return OK


def is_finite(x: f32) -> bool:
    """Whether it is a number, and no infinite one."""
    return -LARGEST <= x <= LARGEST


def usable(model: Model, tokens: Const[i32], targets: Const[i32], lr: f32) -> bool:
    """Check what a step is given; False where something cannot be."""
    if not is_finite(lr):
        snprintf(model.message, MESSAGE, text("lr is a finite number, got %g"), f64(lr))
        refused(model, ARGUMENT, null)
        return False
    return are_tokens(model, text("token"), tokens, 0) and are_tokens(
        model, text("target"), targets, IGNORED
    )


def are_tokens(model: Model, what: Text, ids: Const[i32], other: i32) -> bool:
    """Whether all of a batch are tokens, or that other number."""
    tables = planish_tables()
    for n in range(planish_rows(model) * tables.context):
        id = ids[n]
        if (id < 0 or i64(id) >= tables.vocabulary) and id != other:
            row = n // tables.context
            at = n % tables.context
            form = text("%s %d at position %ld, %ld is outside 0 <= token < %ld")
            snprintf(model.message, MESSAGE, form, what, id, row, at, tables.vocabulary)
            refused(model, ARGUMENT, null)
            return False
    return True


def kept(model: Model) -> bool:
    """Whether there is room for one more loss, beside those of all steps before."""
    places = planish_places()
    done = planish_steps(model)
    if model.losses != null and done < model.room:
        return True
    more = Ptr[f64](realloc(Ptr[u8](model.losses), 8 * (done + MORE)))
    if more == null:
        refused(model, NO_MEMORY, text("no memory for another loss"))
        return False
    if model.losses == null:
        memcpy(Ptr[u8](more), model.state + places.losses, 8 * places.done)
    model.losses = more
    model.room = done + MORE
    return True


def take(model: Model, tokens: Const[i32], targets: Const[i32]) -> None:
    """Copy a batch to where the program reads it."""
    places = planish_places()
    size = 4 * places.batch * planish_tables().context
    memcpy(model.state + places.tokens, Ptr[u8](tokens), size)
    memcpy(model.state + places.targets, Ptr[u8](targets), size)


def add_up(model: Model, tokens: Const[i32], targets: Const[i32], before: i64) -> bool:
    """Losses and gradients of the parts of a batch, each by its share of targets that count."""
    places = planish_places()
    size = places.batch * planish_tables().context
    total = counted(targets, size * places.parts)
    memset(model.state + places.sums, 0, places.sums_size)
    for part in range(places.parts):
        share = 1.0 / f64(places.parts)
        if places.uniform == 0 and total > 0:
            share = f64(counted(targets + part * size, size)) / f64(total)
        take(model, tokens + part * size, targets + part * size)
        Ptr[f32](model.state + places.share)[0] = f32(share)
        Ptr[i64](model.state + places.step)[0] = before + part + 1
        if not run(model, 0):
            return False
    return True


def counted(targets: Const[i32], size: i64) -> i64:
    """How many targets count."""
    found = 0
    for n in range(size):
        if targets[n] != IGNORED:
            found += 1
    return found
