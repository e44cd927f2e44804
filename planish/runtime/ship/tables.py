"""What host code knows of an artifact, as constants of LLVM: the record `Tables` and its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planish.runtime.host.cpu import Need
from planish.runtime.host.kinds import INTS
from planish.runtime.host.language import Record
from planish.runtime.host.levels import Level, Program, Tables
from planish.runtime.ship.processor import Word


@dataclass(frozen=True, slots=True)
class Run:
    """A program as host code runs it: its symbol, and where each of its slots is."""

    symbol: str
    slots: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """The programs for one kind of processor by name, and what that must have.

    `numbers` are the other fields of the record `Level`.
    """

    name: str
    runs: Mapping[str, Run]
    needs: Sequence[Word]
    numbers: Mapping[str, int]


def tables_text(kinds: Sequence[Kind], head: str, words: bytes, numbers: Mapping[str, int]) -> str:
    """The function `planish_tables`, and what it returns.

    `head` is the symbol of the artifact's data, `words` a tokenizer or b"", `numbers` are the
    other fields.
    """
    lines, levels = [], []
    for number, kind in enumerate(kinds):
        text, level = _level(f"level.{number}", kind)
        lines += text
        levels.append(f"%Level {level}")
    lines += [
        f"@t.levels = internal constant [{len(levels)} x %Level] [{', '.join(levels)}]",
        f"@{head} = external constant i8",
        f"{_bytes('words', words)}, align 16",
        _record(
            "tables", Tables, levels="t.levels", level_count=len(levels), head=head,
            words="t.words", words_size=len(words), **numbers,
        ),
        "define internal ptr @planish_tables() nounwind {\n  ret ptr @t.tables\n}",
    ]  # fmt: skip
    return "\n".join(lines)


def _level(name: str, kind: Kind) -> tuple[list[str], str]:
    """The parts of a level as lines, and its own record."""
    lines, rows = [_text(f"{name}.name", kind.name)], []
    for part, run in kind.runs.items():
        own = f"{name}.{part}"
        lines += [
            f"declare void @{run.symbol}(ptr, i64, i64)",
            _array(f"{own}.slots", "i64", [x for pair in run.slots for x in pair]),
            _record(own, Program, main=run.symbol, slots=f"t.{own}.slots", count=len(run.slots)),
        ]
    for number, (need, leaf, sub, register, mask) in enumerate(kind.needs):
        own = f"{name}.need.{number}"
        lines.append(_text(own, need))
        given = {"leaf": leaf, "sub": sub, "register": register, "mask": mask}
        rows.append(f"%Need {_values(Need, {**given, 'name': f't.{own}'})}")
    lines.append(f"@t.{name}.needs = internal constant [{len(rows)} x %Need] [{', '.join(rows)}]")
    fields = {part: f"t.{name}.{part}" for part in ("name", "needs", *kind.runs)}
    return lines, _values(Level, {**fields, "need_count": len(rows), **kind.numbers})


def _record(name: str, record: type[Record], **values: Any) -> str:
    return f"@t.{name} = internal constant %{record.__name__} {_values(record, values)}"


def _values(record: type[Record], values: Mapping[str, Any]) -> str:
    """The fields of a record in order: numbers, and the names of globals."""
    fields = []
    for name, kind in record.__annotations__.items():
        number = kind in INTS
        fields.append(f"{INTS[kind].text} {values[name]}" if number else f"ptr @{values[name]}")
    return f"{{ {', '.join(fields)} }}"


def _array(name: str, kind: str, values: Iterable[int]) -> str:
    listed = [f"{kind} {x}" for x in values]
    return f"@t.{name} = internal constant [{len(listed)} x {kind}] [{', '.join(listed)}]"


def _text(name: str, value: str) -> str:
    return _bytes(name, value.encode() + b"\0")


def _bytes(name: str, data: bytes) -> str:
    shown = "".join(f"\\{x:02X}" for x in data)
    return f'@t.{name} = internal constant [{len(data)} x i8] c"{shown}"'
