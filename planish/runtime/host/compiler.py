"""From modules of host code to one LLVM module; the language stands in `language`.

    text = host_text([source_of(generator), source_of(words)], target)

All modules share their names, whichever imports which. Functions that are not exported are inlined
or called inside; those without a use are dropped by LLVM.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType

from planish.ir.errors import CompileError
from planish.runtime.codegen.text import Writer
from planish.runtime.host.body import Body, Fault
from planish.runtime.host.kinds import Function, Kind, function, kind_of
from planish.runtime.host.names import Names, constant
from planish.runtime.target import Target

MARKS = {"export", "extern"}
PREFIX = "planish_"


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a module and how messages call it."""

    name: str
    text: str


def source_of(module: ModuleType) -> Source:
    """The source of a module."""
    return Source(module.__name__.rsplit(".", 1)[-1] + ".py", inspect.getsource(module))


def host_text(
    sources: Iterable[Source], given: Mapping[str, str] | None = None, prefix: str = PREFIX
) -> str:
    """The LLVM module of host code.

    `given` is LLVM text that defines extern functions, by their names. Exported and other extern
    functions whose names begin with planish_ begin with `prefix` instead.
    """
    names, given, bodies = Names(), given or {}, []
    parsed = [(x, ast.parse(x.text, x.name)) for x in sources]
    declarations: dict[str, str] = {}

    def define(item: ast.stmt) -> None:
        if isinstance(item, ast.FunctionDef):
            bodies.append(_function(item, names, declarations, given))

    for visit in (
        partial(_declare_records, names),
        partial(_declare, names, given, prefix),
        define,
    ):
        for source, module in parsed:
            _visited(source, module.body, visit)
    structs = [_struct(name, fields) for name, fields in names.records.items()]
    texts = [_string(name, data) for data, name in names.strings.items()]
    return "\n".join([*structs, *texts, *bodies, *declarations.values(), *given.values()])


def _visited(source: Source, items: Iterable[ast.stmt], visit: Callable) -> None:
    for item in items:
        try:
            visit(item)
        except (Fault, ValueError) as error:
            line = error.line if isinstance(error, Fault) else item.lineno
            raise CompileError(f"{source.name}:{line}: {error}") from None


def _declare_records(names: Names, item: ast.stmt) -> None:
    if isinstance(item, ast.ClassDef):
        if [ast.unparse(x) for x in item.bases] != ["Record"]:
            raise ValueError(f"class {item.name}: only records, class {item.name}(Record)")
        _new(item.name, names)
        names.records[item.name] = {}


def _declare(names: Names, given: Collection[str], prefix: str, item: ast.stmt) -> None:
    """Note what a statement of a module defines; ValueError where host code has no such thing."""
    match item:
        case ast.Import() | ast.ImportFrom() | ast.Expr(ast.Constant(str())):
            return
        case ast.ClassDef(name):
            names.records[name].update(_fields(item, names))
            return
        case ast.FunctionDef(name):
            _new(name, names)
            kind, known = _signature(item, names), _marks(item)
            is_ours = known and name.startswith(PREFIX) and name not in given
            symbol = prefix + name.removeprefix(PREFIX) if is_ours else name
            names.functions[name] = kind, symbol
            return
        case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, value):
            _new(name, names)
            names.constants[name] = constant(value, names.constants)
            return
    raise ValueError(f"a module of host code has no {type(item).__name__.lower()} statement")


def _new(name: str, names: Names) -> None:
    if name in names.functions or name in names.records or name in names.constants:
        raise ValueError(f"{name} is defined twice")


def _fields(item: ast.ClassDef, names: Names) -> dict[str, Kind]:
    found: dict[str, Kind] = {}
    for line in item.body:
        match line:
            case ast.AnnAssign(ast.Name(name), annotation, None):
                found[name] = kind_of(annotation, names.records)
            case ast.Expr(ast.Constant(str())) | ast.Pass():
                pass
            case _:
                raise ValueError(f"record {item.name} has fields only, as in size: i64")
    return found


def _marks(item: ast.FunctionDef) -> set[str]:
    marks = {ast.unparse(x) for x in item.decorator_list}
    if unknown := marks - MARKS:
        raise ValueError(f"{item.name}: unknown decorator {min(unknown)}; known are export, extern")
    return marks


def _signature(item: ast.FunctionDef, names: Names) -> Function:
    taken = item.args
    if taken.kwonlyargs or taken.kwarg or taken.defaults or taken.posonlyargs:
        raise ValueError(f"{item.name}: arguments are plain, without defaults")
    is_open = taken.vararg is not None
    if is_open and "extern" not in _marks(item):
        raise ValueError(f"{item.name}: only an extern function takes any number of arguments")
    params = tuple(kind_of(x.annotation, names.records) for x in taken.args)
    return function(params, kind_of(item.returns, names.records), is_open)


def _function(
    item: ast.FunctionDef, names: Names, declarations: dict[str, str], given: Mapping[str, str]
) -> str:
    kind, symbol = names.functions[item.name]
    marks, params = _marks(item), [x.arg for x in item.args.args]
    if "extern" in marks:
        if item.name not in given:
            taken = [*(x.text for x in kind.params), *(["..."] if kind.open else [])]
            declarations[symbol] = f"declare {kind.result.text} @{symbol}({', '.join(taken)})"
        return ""
    body = Body(Writer(declarations), names, kind, params)
    body.statements(item.body)
    body.end()
    linkage = "" if "export" in marks else "internal "
    signature = ", ".join(f"{k.text} %{p}" for k, p in zip(kind.params, params, strict=True))
    head = f"define {linkage}{kind.result.text} @{symbol}({signature}) nounwind uwtable {{"
    return "\n".join([head, "entry:", *body.writer.body(), "}"])


def _struct(name: str, fields: Mapping[str, Kind]) -> str:
    return f"%{name} = type {{ {', '.join(x.text for x in fields.values())} }}"


def _string(name: str, data: bytes) -> str:
    shown = "".join(f"\\{x:02X}" for x in data)
    kind = f"[{len(data)} x i8]"
    return f'{name} = private unnamed_addr constant {kind} c"{shown}"'


def baseline(target: Target) -> Target:
    """The least processor of an architecture, for code that finds out which one this is."""
    return Target.parse(target.arch.replace("_", "-"))
