"""What host code knows of an artifact, as constants of LLVM: the record `Tables` and its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planish.runtime.host.cpu import Need
from planish.runtime.host.kinds import INTS
from planish.runtime.host.language import Record
from planish.runtime.host.records import Level, Program, Tables
from planish.runtime.ship.processor import Word


@dataclass(frozen=True, slots=True)
class Run:
    """A program as host code runs it: its symbol, and where each of its slots is."""

    symbol: str
    slots: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """The programs for one kind of processor, in order, and what that must have.

    `numbers` are the other fields of the record `Level`.
    """

    name: str
    runs: Sequence[Run]
    needs: Sequence[Word]
    numbers: Mapping[str, int]


class Constants:
    """Constants of LLVM, whose names begin with `t.`; every method returns that of a new one."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def _add(self, name: str, value: str) -> str:
        self.lines.append(f"@t.{name} = internal constant {value}")
        return f"t.{name}"

    def numbers(self, name: str, values: Iterable[int]) -> str:
        """An array of i64."""
        listed = [f"i64 {x}" for x in values]
        return self._add(name, f"[{len(listed)} x i64] [{', '.join(listed)}]")

    def data(self, name: str, data: bytes) -> str:
        """Bytes, which begin at a multiple of 16."""
        shown = "".join(f"\\{x:02X}" for x in data)
        return self._add(name, f'[{len(data)} x i8] c"{shown}", align 16')

    def text(self, name: str, value: str) -> str:
        """UTF-8 that ends with a zero byte."""
        return self.data(name, value.encode() + b"\0")

    def records(self, name: str, record: type[Record], rows: Sequence[Mapping[str, Any]]) -> str:
        """An array of records."""
        kind = _kind(record)
        listed = ", ".join(f"{kind} {_values(record, x)}" for x in rows)
        return self._add(name, f"[{len(rows)} x {kind}] [{listed}]")

    def told(self, function: str, record: type[Record], values: Mapping[str, Any]) -> None:
        """A record, and the function that returns where it is."""
        name = self._add(function, f"{_kind(record)} {_values(record, values)}")
        self.lines.append(f"define ptr @{function}() nounwind uwtable {{\n  ret ptr @{name}\n}}")


def tables_text(
    kinds: Sequence[Kind], head: str, initial: Sequence[int], numbers: Mapping[str, int],
    version: str,
) -> str:  # fmt: skip
    """The function `planish_tables`, and what it returns.

    `head` is the symbol of the artifact's data, `numbers` are the other fields.
    """
    made = Constants()
    made.lines.append(f"@{head} = external constant i8")
    levels = [_level(made, f"level.{number}", kind) for number, kind in enumerate(kinds)]
    values = {
        "version": made.text("version", version),
        "levels": made.records("levels", Level, levels), "level_count": len(levels),
        "initial": made.numbers("initial", initial), "initial_count": len(initial) // 3,
        "head": head, **numbers,
    }  # fmt: skip
    made.told("planish_tables", Tables, values)
    return str(made)


def _level(made: Constants, own: str, kind: Kind) -> dict[str, Any]:
    """The fields of a level, whose parts are made."""
    programs = []
    for number, run in enumerate(kind.runs):
        made.lines.append(f"declare void @{run.symbol}(ptr, i64, i64)")
        slots = made.numbers(f"{own}.slots.{number}", [x for pair in run.slots for x in pair])
        programs.append({"main": run.symbol, "slots": slots, "count": len(run.slots)})
    rows: list[dict[str, Any]] = [
        {
            "leaf": leaf,
            "sub": sub,
            "register": register,
            "mask": mask,
            "name": made.text(f"{own}.need.{number}", name),
        }
        for number, (name, leaf, sub, register, mask) in enumerate(kind.needs)
    ]
    return {
        "name": made.text(f"{own}.name", kind.name),
        "programs": made.records(f"{own}.programs", Program, programs), "count": len(programs),
        "needs": made.records(f"{own}.needs", Need, rows), "need_count": len(rows),
        **kind.numbers,
    }  # fmt: skip


def _kind(record: type[Record]) -> str:
    """The type of a record."""
    kinds = record.__annotations__.values()
    return f"{{ {', '.join(INTS[x].text if x in INTS else 'ptr' for x in kinds)} }}"


def _values(record: type[Record], values: Mapping[str, Any]) -> str:
    """The fields of a record in order: numbers, and the names of globals."""
    fields = []
    for name, kind in record.__annotations__.items():
        number = kind in INTS
        fields.append(f"{INTS[kind].text} {values[name]}" if number else f"ptr @{values[name]}")
    return f"{{ {', '.join(fields)} }}"
