"""Arguments of a call: checked against the program's signature, and made fit for native code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import prod
from typing import NamedTuple, Protocol

import numpy as np

from planish.ir.dims import AnySize, Size, bind, value
from planish.ir.errors import DataError, DTypeError, ShapeError
from planish.runtime.slots import Limit, Slot
from planish.runtime.target import need_memory

_CPU = (1, 3)  # DLPack's device types whose memory the processor reads: main memory, pinned memory


class Signature(Protocol):
    """What is called: a plan, or its image."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def inputs(self) -> tuple[Slot, ...]:
        """What it takes."""

    @property
    def outputs(self) -> tuple[Slot, ...]:
        """What it returns."""

    @property
    def aliases(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs that share storage."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What must hold of its sizes."""

    @property
    def sites(self) -> tuple[str, ...]:
        """What its guards are about."""


class Arguments(NamedTuple):
    """Arrays that native code can read, where they are, and the values of symbolic dimensions."""

    arrays: tuple[np.ndarray, ...]
    addresses: tuple[int, ...]
    binding: dict[str, int]


def bind_arguments(plan: Signature, given: Sequence[object]) -> Arguments:
    """Check number, rank, dtype and shape of arguments; ShapeError or DTypeError says which."""
    if len(given) != len(plan.inputs):
        names = ", ".join(f"{s.name}: {s.type}" for s in plan.inputs)
        raise ShapeError(
            f"{plan.name} takes {len(plan.inputs)} arguments ({names}), got {len(given)}"
        )
    donated = {i for i, _ in plan.aliases}
    arrays: list[np.ndarray] = []
    binding: dict[str, int] = {}
    for number, (slot, x) in enumerate(zip(plan.inputs, given, strict=True)):
        array = _array(slot, number, x)
        _bind_shape(slot, number, array, binding)
        arrays.append(array)
        if slot.index in donated:
            _check_writable(f"argument {number} ({slot.name})", x, array)
    _check_compound(plan, arrays, binding)
    for limit in plan.limits:
        if (found := value(limit.size, binding)) > limit.limit:
            raise ShapeError(f"{limit.size} is {found}, at most {limit.limit}: {limit.reason}")
    ready = [a if _is_ready(a) else _copied(a) for a in arrays]
    return Arguments(tuple(ready), tuple(map(address, ready)), binding)


def output_arrays(
    plan: Signature, arguments: Arguments, out: Sequence[object] | None
) -> tuple[list[np.ndarray], list[int]]:
    """Where outputs go: into the donated inputs, into `out`, or into new arrays; and addresses."""
    homes = {j: arguments.arrays[i] for i, j in plan.aliases}
    known = {j: arguments.addresses[i] for i, j in plan.aliases}
    if out is not None and len(out) != len(plan.outputs):
        raise ShapeError(f"{plan.name} has {len(plan.outputs)} outputs, out has {len(out)}")
    results = []
    for number, slot in enumerate(plan.outputs):
        shape = tuple(value(size, arguments.binding) for size in slot.type.shape)
        if out is not None:
            results.append(_output(slot, number, shape, out[number], homes.get(number)))
        elif number in homes:
            results.append(homes[number])
        else:
            dtype = slot.type.dtype
            need_memory(prod(shape) * dtype.itemsize, slot.name, "of", plan.name, dtype, shape)
            results.append(np.empty(shape, dtype.numpy))
    addresses = [known[j] if j in known else address(x) for j, x in enumerate(results)]
    _check_overlap(plan, arguments, results, addresses)
    return results, addresses


def _array(slot: Slot, number: int, x: object) -> np.ndarray:
    where = f"argument {number} ({slot.name})"
    array = _as_array(slot, where, x)
    wanted = slot.type.dtype
    if array.dtype.newbyteorder("=") != wanted.numpy:
        raise DTypeError(
            f"{where}: expected {wanted}, got {array.dtype}; convert it, as in "
            f"x.astype({wanted.numpy.name!r})"
        )
    return array


def _is_masked(x: object) -> bool:
    """Whether it is a masked array, of which there are none before their module is imported."""
    return "numpy.ma" in sys.modules and isinstance(x, np.ma.MaskedArray)


def _as_array(slot: Slot, where: str, x: object) -> np.ndarray:
    if _is_masked(x):
        raise DTypeError(f"{where}: expected {slot.type}, got a masked array; fill it first")
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, np.generic):
        return np.asarray(x)
    if not slot.type.shape and type(x) in ((int, float) if slot.type.dtype.is_float else (int,)):
        return _number(slot, where, x)
    if hasattr(x, "__dlpack__") or hasattr(x, "__array__"):
        return _foreign(slot, where, x)
    raise DTypeError(f"{where}: expected an array {slot.type}, got {type(x).__name__}")


def _number(slot: Slot, where: str, x: object) -> np.ndarray:
    try:
        return np.array(x, slot.type.dtype.numpy)
    except OverflowError:
        raise DTypeError(f"{where}: {x} does not fit into {slot.type.dtype}") from None


def _foreign(slot: Slot, where: str, x: object) -> np.ndarray:
    """Another library's array, if the processor can read it."""
    device = getattr(x, "__dlpack_device__", None)
    on_cpu = device is None or device()[0] in _CPU
    name = getattr(x, "device", "cpu")
    if not on_cpu or (device is None and not str(name).lower().startswith("cpu")):
        raise DTypeError(f"{where}: expected {slot.type} in main memory, got an array on {name}")
    try:
        return np.asarray(x) if hasattr(x, "__array__") else np.from_dlpack(x)  # type: ignore
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise DTypeError(
            f"{where}: expected an array {slot.type}, got {type(x).__name__}: {error}"
        ) from error


def _bind_shape(slot: Slot, number: int, array: np.ndarray, binding: dict[str, int]) -> None:
    why: object = f"rank {slot.type.rank} is not {array.ndim}"
    if array.ndim == slot.type.rank:
        try:
            return bind(slot.type.shape, array.shape, binding)
        except ShapeError as error:
            why = error
    raise ShapeError(
        f"argument {number} ({slot.name}): expected {slot.type}, got {_typed(array)}: {why}"
    )


def _check_compound(plan: Signature, arrays: list[np.ndarray], binding: dict[str, int]) -> None:
    """Sizes such as T+1: they must agree with T, or they say what T is."""
    for number, (slot, array) in enumerate(zip(plan.inputs, arrays, strict=True)):
        for size, found in zip(slot.type.shape, array.shape, strict=True):
            if isinstance(size, int) or _is_symbol(size):
                continue
            _solve(size, found, binding)
            try:
                expected = value(size, binding)
            except KeyError as error:
                raise ShapeError(f"argument {number} ({slot.name}): {error} is unknown") from None
            if expected != found:
                raise ShapeError(
                    f"argument {number} ({slot.name}): expected {slot.type}, got {_typed(array)}: "
                    f"{size} is {expected} here, not {found}"
                )


def _is_symbol(size: Size) -> bool:
    return len(size.terms) == 1 and len(size.terms[0][0]) == 1 and size.terms[0][1] == 1


def _solve(size: Size, found: int, binding: dict[str, int]) -> None:
    """Learn the one unknown symbol of c * symbol + rest."""
    unknown = [(m, c) for m, c in size.terms if any(s.name not in binding for s in m)]
    if len(unknown) != 1 or len(unknown[0][0]) != 1:
        return
    (symbol,), coefficient = unknown[0]
    rest: AnySize = size - Size(((unknown[0][0], coefficient),))
    number, odd = divmod(found - value(rest, binding), coefficient)
    if odd == 0 and number >= 0:
        if symbol.max is not None and number > symbol.max:
            raise ShapeError(f"{symbol.name} is {number}, its maximum is {symbol.max}")
        binding[symbol.name] = number


def _typed(array: np.ndarray) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"


def _is_ready(array: np.ndarray) -> bool:
    return array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative


def _copied(array: np.ndarray) -> np.ndarray:
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _check_writable(where: str, given: object, array: np.ndarray) -> None:
    if given is not array or not _is_ready(array) or not array.flags.writeable:
        raise DataError(
            f"{where} is updated in place: it must be a writable, contiguous NumPy array, "
            "as np.array(x) makes one"
        )


def _output(
    slot: Slot, number: int, shape: tuple[int, ...], x: object, home: np.ndarray | None
) -> np.ndarray:
    where = f"out[{number}] ({slot.name})"
    if not isinstance(x, np.ndarray):
        raise DTypeError(f"{where}: expected an array {slot.type}, got {type(x).__name__}")
    if x.dtype != slot.type.dtype.numpy:
        raise DTypeError(f"{where}: expected {slot.type.dtype}, got {x.dtype}")
    if x.shape != shape:
        raise ShapeError(f"{where}: expected {slot.type}, here {list(shape)}, got {_typed(x)}")
    if not _is_ready(x) or not x.flags.writeable:
        raise DataError(f"{where} must be writable and contiguous")
    if home is not None and x is not home:
        raise DataError(f"{where} is an argument updated in place: pass that same array")
    return x


def _check_overlap(
    plan: Signature, given: Arguments, outputs: Sequence[np.ndarray], addresses: Sequence[int]
) -> None:
    """DataError where memory that is written overlaps another argument."""
    homes = dict(plan.aliases)
    spans = []
    for number, (x, start) in enumerate(zip(given.arrays, given.addresses, strict=True)):
        spans.append((start, x.nbytes, number in homes, "argument", number))
    for number, (x, start) in enumerate(zip(outputs, addresses, strict=True)):
        if number not in homes.values():
            spans.append((start, x.nbytes, True, "out", number))
    end, owner, owner_written = 0, ("", 0), False
    for start, size, is_written, kind, number in sorted(span for span in spans if span[1]):
        if start < end and (is_written or owner_written):
            names = [f"{k} {n}" for k, n in ((kind, number), owner)]
            raise DataError(f"{' overlaps '.join(names)}, and one is written; pass a copy")
        if start + size > end:
            end, owner, owner_written = start + size, (kind, number), is_written


def address(array: np.ndarray) -> int:
    """Where the elements of an array are."""
    return array.__array_interface__["data"][0]


def token_message(
    plan: Signature, site: int, index: int, bound: int, arrays: Sequence[np.ndarray]
) -> str:
    """What a failed guard says: the index, where the inputs have it, and the bound."""
    name = plan.sites[site] if 0 <= site < len(plan.sites) else "index"
    where = ""
    for slot, array in zip(plan.inputs, arrays, strict=True):
        if array.dtype.kind in "iu" and array.ndim:
            found = np.argwhere(array == index)
            if len(found):
                place = ", ".join(map(str, found[0].tolist()))
                where = f" at position {place} of {slot.name}"
                break
    return f"{name}: index {index}{where} is outside 0 <= index < {bound}"
