"""Pipelines: passes composed, printed and parsed as text, and run with observers.

    pipeline ::= pass ("," pass)*            simplify,fold,cse,expand{keep=[attention]},fuse
    pass     ::= name [ "{" option ("," option)* "}" ] | name of a pipeline: all of its passes
    option   ::= name "=" value
    value    ::= true | false | none | number | word | "text" | "[" [ value ("," value)* ] "]"

A pipeline is a value: the same text means the same pipeline, and is the key of every table and
cache entry. `run` is the only loop over passes; the graph is verified after each.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, TypeAlias

from planish.ir.errors import DataError, ParseError, PlanishError
from planish.ir.graph import Graph
from planish.ir.verify import Verifier
from planish.passes.calibrate import Samples
from planish.passes.registry import PASSES, Pass


@dataclass(frozen=True)
class Step:
    """What an observer sees: one pass, the graph before and after it, and how long it took."""

    name: str
    position: int
    total: int
    before: Graph
    after: Graph
    seconds: float
    ran: Pass

    def __str__(self) -> str:
        return f"{self.name} ({self.position} of {self.total})"


Observer: TypeAlias = Callable[[Step], None]


@dataclass(frozen=True, init=False, repr=False)
class Pipeline:
    """Passes in order. Pipelines add, compare, print and parse."""

    passes: tuple[Pass, ...]

    def __init__(self, *passes: Pass):
        object.__setattr__(self, "passes", passes)

    def __add__(self, other: Pipeline) -> Pipeline:
        return Pipeline(*self.passes, *other.passes)

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        return ",".join(map(pass_text, self.passes))

    def __repr__(self) -> str:
        return f"Pipeline.parse({str(self)!r})"

    @classmethod
    def parse(cls, text: str, passes: Mapping[str, Pass | type | Pipeline] = PASSES) -> Pipeline:
        """The pipeline that `text` names; ParseError where a pass or an option is unknown.

        Names of pipelines are known if they are among `passes`, see `pipelines.pipeline`.
        """
        return cls(*_Parser(text, passes).pipeline())

    def run(self, graph: Graph, observe: tuple[Observer, ...] = ()) -> Graph:
        """The graph after all passes."""
        after = graph
        for _, after in self.trace(graph, observe):  # noqa: B007 - the last one is wanted
            pass
        return after

    @property
    def is_bound(self) -> bool:
        """Whether all passes have seen what they need to: see `calibrate`."""
        return all(getattr(step, "is_bound", True) for step in self.passes)

    def calibrated(self, graph: Graph, samples: Samples) -> Pipeline:
        """The pipeline with each pass bound that wants to look at samples: see `calibrate`."""
        bound: list[Pass] = []
        for position, step in enumerate(self.passes):
            bound.append(bound_to(step, graph, samples))
            if any(hasattr(x, "calibrate") for x in self.passes[position + 1 :]):
                graph = Pipeline(bound[-1]).run(graph)
        return Pipeline(*bound)

    def trace(
        self, graph: Graph, observe: tuple[Observer, ...] = ()
    ) -> Iterator[tuple[str, Graph]]:
        """The text of each pass with the graph after it."""
        verifier = Verifier()
        for position, step in enumerate(self.passes, 1):
            name = pass_text(step)
            where = f"{name} ({position} of {len(self.passes)})"
            started = time.perf_counter()
            try:
                after = step(graph)
            except PlanishError as error:
                error.add_note(f"  in pass {where}")
                raise
            seconds = time.perf_counter() - started
            verifier.verify(after, where)
            for observer in observe:
                observer(Step(name, position, len(self.passes), graph, after, seconds, step))
            yield name, after
            graph = after


def bound_to(step: Pass, graph: Graph, samples: Samples) -> Pass:
    """A pass bound to samples, if it wants to look at some. DataError where its text names what it
    was bound to, and that was something else."""
    found = step.calibrate(graph, samples) if hasattr(step, "calibrate") else step
    named, now = (getattr(x, "calibration", "") for x in (step, found))
    if named and named != now:
        raise DataError(
            f"{pass_name(step)}: calibration={named} is of another text, or of other passes before "
            f"it; this text makes {now}; leave calibration out to take it"
        )
    return found


def pass_name(step: Pass) -> str:
    """The name of a pass: that in the registry, else the name of its function or class."""
    for name, known in PASSES.items():
        if step is known or type(step) is known:
            return name
    return getattr(step, "__name__", type(step).__name__)


def pass_text(step: Pass) -> str:
    """A pass as it prints: its name and the options that differ from their defaults."""
    options = []
    if is_dataclass(step):
        for option in visible(step):
            value = getattr(step, option.name)
            if option.default is MISSING or value != option.default:
                options.append(f"{option.name}={value_text(value)}")
    return pass_name(step) + (f"{{{','.join(options)}}}" if options else "")


def visible(step: Any) -> list[Field]:
    """The fields of a pass that are options; what it was bound to is none."""
    return [x for x in fields(step) if not x.metadata.get("bound")]


_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_WORDS = {"true": True, "false": False, "none": None}


def value_text(value: Any) -> str:
    """An option's value as it prints."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(map(value_text, value))}]"
    if isinstance(value, str):
        word = _WORD.fullmatch(value) and value not in _WORDS
        return value if word else json.dumps(value)
    return repr(value)


class _Parser:
    """Reads the grammar in the module docstring."""

    token = re.compile(
        r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<mark>[{}\[\],=])'
        r"|(?P<number>[-+]?[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)"
        r"|(?P<word>[A-Za-z_][A-Za-z0-9_.]*))"
    )

    def __init__(self, text: str, passes: Mapping[str, Pass | type | Pipeline]):
        self.text, self.passes, self.at = text, passes, 0

    def peek(self) -> tuple[str, str, int]:
        """Kind, text and end of the next token, without taking it."""
        found = self.token.match(self.text, self.at)
        if found:
            return str(found.lastgroup), found[str(found.lastgroup)], found.end()
        if self.text[self.at :].strip():
            raise self.error(f"cannot read {self.text[self.at :].strip()[:20]!r}")
        return "end", "", len(self.text)

    def take(self, kind: str, wanted: str = "") -> str:
        """The next token, which must be of this kind and text."""
        found, text, end = self.peek()
        if found != kind or (wanted and text != wanted):
            raise self.error(f"expected {wanted or kind!r}, found {text or 'the end'!r}")
        self.at = end
        return text

    def accept(self, mark: str) -> bool:
        """Take this mark if it comes next."""
        if self.peek()[1] != mark or self.peek()[0] != "mark":
            return False
        self.at = self.peek()[2]
        return True

    def error(self, message: str) -> ParseError:
        """An error with the place in the text."""
        return ParseError(f"pipeline {self.text!r}, column {self.at + 1}: {message}")

    def pipeline(self) -> list[Pass]:
        """All passes, to the end of the text."""
        if self.peek()[0] == "end":
            return []
        found = [*self.step()]
        while self.accept(","):
            found.extend(self.step())
        self.take("end")
        return found

    def step(self) -> tuple[Pass, ...]:
        """A pass with its options, or those of a pipeline."""
        name = self.take("word")
        if name not in self.passes:
            raise self.error(unknown("pass", name, self.passes))
        made = self.passes[name]
        if isinstance(made, Pipeline):
            return made.passes
        options: dict[str, Any] = {}
        if self.accept("{"):
            known = [f.name for f in visible(made)] if is_dataclass(made) else []
            while not self.accept("}"):
                option = self.take("word")
                if option not in known:
                    raise self.error(unknown(f"option of {name}", option, known))
                self.take("mark", "=")
                options[option] = self.value()
                if self.peek()[1] != "}":
                    self.take("mark", ",")
        if not isinstance(made, type):
            return (made,)
        declared = fields(made) if is_dataclass(made) else ()
        needed = [f.name for f in declared if f.default is MISSING and f.name not in options]
        if needed:
            raise self.error(f"{name} needs {needed[0]}, as in {name}{{{needed[0]}=...}}")
        return (made(**options),)

    def value(self) -> Any:
        """An option's value."""
        if self.accept("["):
            items = []
            while not self.accept("]"):
                items.append(self.value())
                if self.peek()[1] != "]":
                    self.take("mark", ",")
            return tuple(items)
        kind, text, end = self.peek()
        if kind not in ("word", "number", "text"):
            raise self.error(f"expected a value, found {text or 'the end'!r}")
        self.at = end
        if kind == "text":
            return json.loads(text)
        if kind == "word":
            return _WORDS.get(text, text)
        return int(text) if text.lstrip("+-").isdigit() else float(text)


def option_names(made: type) -> tuple[str, ...]:
    """The options of a pass that are chosen; `calibration` only names what was seen."""
    return tuple(f.name for f in visible(made) if f.name != "calibration")


def check_known(name: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Refuse the first option of `name` that is not known."""
    known = tuple(known)
    for option in options:
        if option not in known:
            raise DataError(f"{name}: {unknown('option', option, known)}")


def unknown(what: str, name: str, known: Any) -> str:
    """That `name` is not known, and what is."""
    near = get_close_matches(name, list(known), 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {name!r}; {hint}known: {', '.join(known) or 'none'}"
