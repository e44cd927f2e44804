"""The rules of the house: sizes, import directions, docstrings, samples, golden cases."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from planish.ir.node import OPS
from planish.passes.registry import PASSES
from tests.samples import SAMPLES

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "planish"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [
    *MODULES,
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "examples").rglob("*.py")),
]

LONGEST_FILE, LONGEST_FUNCTION, LONGEST_LINE = 400, 60, 100

# part -> the parts that it may import
MAY_IMPORT = {
    "ir": {"ir"},
    "passes": {"passes", "ir"},
    "runtime": {"runtime", "ir"},
    "frontend": {"frontend", "passes", "runtime", "ir"},
}
# imported where they are needed: extras that may be absent
OPTIONAL = {"matplotlib", "graphviz_pure", "tokenizers"}


@lru_cache(maxsize=1)
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@lru_cache(maxsize=1)
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All of a file, walked once."""
    return tuple(ast.walk(tree(path)))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for item in nodes(path):
        if isinstance(item, ast.Import):
            yield from ((alias.name, item.lineno) for alias in item.names)
        elif isinstance(item, ast.ImportFrom) and item.module:
            yield item.module, item.lineno


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for item in nodes(path):
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield item


def part_of(module: str) -> str | None:
    pieces = module.split(".")
    return (
        pieces[1]
        if len(pieces) > 1 and pieces[0] == "planish" and pieces[1] in MAY_IMPORT
        else None
    )


def long_parts(path: Path) -> Iterator[str]:
    """What is longer than it may be."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > LONGEST_FILE:
        yield f"{len(lines)} lines"
    yield from (f"line {i}" for i, x in enumerate(lines, 1) if len(x) > LONGEST_LINE)
    for f in functions(path):
        if (f.end_lineno or 0) - f.lineno >= LONGEST_FUNCTION:
            yield f.name


def wrong_imports(path: Path) -> Iterator[str]:
    """Imports against the arrows."""
    part = path.relative_to(PACKAGE).parts[0]
    for module, line in imports(path):
        other = part_of(module)
        if part in MAY_IMPORT and other and other not in MAY_IMPORT[part]:
            yield f"line {line}: {part} imports {module}"
        if module.split(".")[0] == "llvmlite" and part != "runtime":
            yield f"line {line}: only runtime imports llvmlite"


def inner_imports(path: Path) -> Iterator[str]:
    """Imports that do not stand at the top."""
    inside = [range(f.lineno, (f.end_lineno or f.lineno) + 1) for f in functions(path)]
    for module, line in imports(path):
        if module.split(".")[0] not in OPTIONAL and any(line in lines for lines in inside):
            yield module


def undocumented(path: Path) -> Iterator[str]:
    """Public names without a docstring, and modules that do not say what they are for."""
    module = tree(path)
    if module.body and not ast.get_docstring(module):
        yield "the module"
    for item in module.body:
        if (
            isinstance(item, (ast.FunctionDef, ast.ClassDef))
            and not item.name.startswith("_")
            and not ast.get_docstring(item)
            and not _is_extern(item)
        ):
            yield item.name


def _is_extern(item: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether host code declares a function that is defined elsewhere."""
    return any(ast.unparse(x) == "extern" for x in item.decorator_list)


FORBIDDEN = re.compile(
    r"\bpickle\b|\bmarshal\b|(?<!def )\beval\(|\bexec\(|shell=True|allow_pickle=True|"
    r"torch\.load\(|\bTODO\b|\bFIXME\b"
)
# A word of each, however the code is spaced, and also where it is a docstring's.
SUSPECT = re.compile(r"pickle|marshal|\beval\b|\bexec\b|shell|torch|TODO|FIXME")


def unsafe_or_unfinished(path: Path) -> Iterator[str]:
    """What is forbidden, but in docstrings; an assert is no input check."""
    if SUSPECT.search(path.read_text(encoding="utf-8")):  # what follows takes its time
        code = "\n".join(ast.unparse(item) for item in _code(tree.__wrapped__(path)))
        yield from FORBIDDEN.findall(code)
    asserts = (item.lineno for item in nodes(path) if isinstance(item, ast.Assert))
    yield from (f"assert in line {line}" for line in asserts)


def _code(module: ast.Module) -> list[ast.stmt]:
    """The statements without docstrings, which may name what is forbidden."""
    for item in ast.walk(module):
        if isinstance(item, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            item
        ):
            item.body = item.body[1:] or [ast.Pass()]
    return module.body


OF_MODULES = (wrong_imports, inner_imports, undocumented, unsafe_or_unfinished)


def test_files_keep_the_rules() -> None:
    found = []
    for path in SOURCES:  # one file after another: a tree of each is too much to keep
        for check in (long_parts, *(OF_MODULES if PACKAGE in path.parents else ())):
            found += [f"{name(path)}: {check.__name__}: {x}" for x in check(path)]
    assert found == []


def test_every_op_has_samples() -> None:
    sampled = {sample.op for sample in SAMPLES}
    structural = {"input", "param", "const", "size", "fused", "get"}
    assert set(OPS) - structural - sampled == set()


def test_every_pass_has_a_golden_case_and_shows_what_it_does() -> None:
    for pass_name, cls in PASSES.items():
        assert (ROOT / "tests" / "cases" / "passes" / f"{pass_name}.ir").exists(), pass_name
        module = PACKAGE.parent / Path(*cls.__module__.split("."))
        file = (
            module.with_suffix(".py")
            if module.with_suffix(".py").exists()
            else module / "__init__.py"
        )
        assert "becomes" in (ast.get_docstring(tree(file)) or ""), pass_name
