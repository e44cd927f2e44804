"""What host code knows of an artifact, as constants of LLVM: the record `Tables` and its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planish.runtime.host.cpu import Need
from planish.runtime.host.kinds import INTS
from planish.runtime.host.language import Record
from planish.runtime.host.model import Program, Tables
from planish.runtime.ship.processor import Word


@dataclass(frozen=True, slots=True)
class Run:
    """A program as host code runs it: its symbol, and where each of its slots is."""

    symbol: str
    slots: tuple[tuple[int, int], ...]


def tables_text(
    runs: Mapping[str, Run],
    needs: Sequence[Word],
    head: str,
    words: bytes,
    numbers: Mapping[str, int],
) -> str:
    """The function `planish_tables`, and what it returns.

    `head` is the symbol of the artifact's data, `words` a tokenizer or b"", `numbers` are the
    other fields.
    """
    lines = []
    for name, run in runs.items():
        flat = [x for pair in run.slots for x in pair]
        lines += [
            f"declare void @{run.symbol}(ptr, i64, i64)",
            _array(f"{name}.slots", "i64", flat),
            _record(name, Program, main=run.symbol, slots=f"t.{name}.slots", count=len(run.slots)),
        ]
    rows = []
    for number, (name, leaf, sub, register, mask) in enumerate(needs):
        lines.append(_text(f"need.{number}", name))
        given = {"leaf": leaf, "sub": sub, "register": register, "mask": mask}
        rows.append(_values(Need, {**given, "name": f"t.need.{number}"}))
    listed = ", ".join(f"%Need {x}" for x in rows)
    lines += [
        f"@t.needs = internal constant [{len(rows)} x %Need] [{listed}]",
        f"@{head} = external constant i8",
        f"{_bytes('words', words)}, align 16",
        _record(
            "tables", Tables, **{name: f"t.{name}" for name in runs}, needs="t.needs",
            need_count=len(rows), head=head, words="t.words",
            words_size=len(words), **numbers,
        ),
        "define internal ptr @planish_tables() nounwind {\n  ret ptr @t.tables\n}",
    ]  # fmt: skip
    return "\n".join(lines)


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
