"""The rules of the house: sizes, import directions, docstrings, samples, golden cases."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

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


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(node: ast.AST) -> Iterator[tuple[str, int]]:
    for item in ast.walk(node):
        if isinstance(item, ast.Import):
            yield from ((alias.name, item.lineno) for alias in item.names)
        elif isinstance(item, ast.ImportFrom) and item.module:
            yield item.module, item.lineno


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for item in ast.walk(tree(path)):
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield item


def part_of(module: str) -> str | None:
    pieces = module.split(".")
    return (
        pieces[1]
        if len(pieces) > 1 and pieces[0] == "planish" and pieces[1] in MAY_IMPORT
        else None
    )


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_functions_and_lines_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_FILE
    assert [i for i, line in enumerate(lines, 1) if len(line) > LONGEST_LINE] == []
    long = [f.name for f in functions(path) if (f.end_lineno or 0) - f.lineno >= LONGEST_FUNCTION]
    assert long == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0]
    for module, line in imports(tree(path)):
        other = part_of(module)
        if part in MAY_IMPORT and other:
            assert other in MAY_IMPORT[part], f"line {line}: {part} imports {module}"
        if module.split(".")[0] == "llvmlite":
            assert part == "runtime", f"line {line}: only runtime imports llvmlite"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_stand_at_the_top(path: Path) -> None:
    inside = [
        module
        for f in functions(path)
        for module, _ in imports(f)
        if module.split(".")[0] not in OPTIONAL
    ]
    assert inside == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_public_names_have_docstrings(path: Path) -> None:
    module = tree(path)
    if not module.body:
        return
    assert ast.get_docstring(module), "the module says what it is for"
    missing = [
        item.name
        for item in module.body
        if isinstance(item, (ast.FunctionDef, ast.ClassDef))
        and not item.name.startswith("_")
        and not ast.get_docstring(item)
        and not _is_extern(item)
    ]
    assert missing == []


def _is_extern(item: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether host code declares a function that is defined elsewhere."""
    return any(ast.unparse(x) == "extern" for x in item.decorator_list)


FORBIDDEN = re.compile(
    r"\bpickle\b|\bmarshal\b|(?<!def )\beval\(|\bexec\(|shell=True|allow_pickle=True|"
    r"torch\.load\(|\bTODO\b|\bFIXME\b"
)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nothing_unsafe_or_unfinished(path: Path) -> None:
    code = "\n".join(ast.unparse(item) for item in _code(tree.__wrapped__(path)))
    assert FORBIDDEN.findall(code) == []
    asserts = [item.lineno for item in ast.walk(tree(path)) if isinstance(item, ast.Assert)]
    assert asserts == [], "an assert is no input check"


def _code(module: ast.Module) -> list[ast.stmt]:
    """The statements without docstrings, which may name what is forbidden."""
    for item in ast.walk(module):
        if isinstance(item, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            item
        ):
            item.body = item.body[1:] or [ast.Pass()]
    return module.body


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
