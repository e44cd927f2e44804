"""README, CONTRIBUTING, docs/, examples/ and docstrings: their code runs, their facts are current.

`pytest tests/test_docs.py --bless` writes what is made from the code: blocks, line counts.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import llvmlite.binding as llvm
import numpy as np
import pytest

import planish as pl
from planish.frontend.cli.entry import commands as cli
from planish.ir import types as t
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.ops import functions
from planish.ir.types import TensorType
from planish.passes.autodiff import grad
from planish.runtime.kernels import scatter
from planish.runtime.target import Target
from tests import generated, golden
from tests.generated import ROOT
from tests.runtime import native

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LLVM = 22  # the version whose text README shows
SLACK = 0.15  # that line counts may be wrong by

# what a page does at full size -> what the test does
SMALLER = {"steps=2000": "steps=3", ".svg": ".dot", "num_layers=4": "num_layers=1"}

ARGUMENTS = {
    "stages": ["--rows", "16"],
    "train": ["--steps", "3", "--width", "16", "--layers", "1", "--context", "32"],
    "generate": ["nano.safetensors", "-n", "40"],
    "gradients": ["--steps", "60"],
    "own_pass": ["--width", "32"],
    "draw": ["--layers", "1", "--format", "dot"],
}
DOCTESTED = (
    "planish.frontend.api", "planish.frontend.trace", "planish.frontend.transform",
    "planish.frontend.nn.layers", "planish.frontend.nn.module", "planish.frontend.nn.transformer",
    "planish.frontend.models.tinygpt", "planish.frontend.random", "planish.frontend.text",
)  # fmt: skip


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def between(page: str, mark: str) -> str:
    """The text between `<!-- mark -->` and `<!-- end mark -->`."""
    return page.split(f"<!-- {mark} -->\n", 1)[1].split(f"<!-- end {mark} -->", 1)[0]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_is_made_from_the_code_is_current(page: Path, request: pytest.FixtureRequest) -> None:
    text = page.read_text()
    wanted = counted(generated.regenerated(text))
    if llvm.llvm_version_info[0] != LLVM:
        old = generated.blocks(text).get("stage-llvm", "")
        wanted = wanted.replace(generated.blocks(wanted).get("stage-llvm", ""), old)
    if request.config.getoption("--bless"):
        page.write_text(wanted)
        return
    found, now = generated.blocks(text), generated.blocks(wanted)
    stale = [block for block in now if found[block] != now[block]]
    assert stale == [], f"stale, run pytest {name(Path(__file__))} --bless"
    for (file, lines), (_, true) in zip(line_counts(text), line_counts(wanted), strict=True):
        assert abs(lines - true) <= SLACK * true + 5, f"{file} has about {true} lines; --bless"


COUNT = re.compile(r"^(\| `(\S+\.(?:py|ir))` \| )(\d+)( \|)", re.MULTILINE)


def line_counts(page: str) -> list[tuple[str, int]]:
    """The files of a reading order and their lines, as the page has it."""
    return [(file, int(lines)) for _, file, lines, _ in COUNT.findall(page)]


def counted(page: str) -> str:
    """The page with the lines of files as they are, in tens."""

    def row(found: re.Match) -> str:
        lines = len((ROOT / found[2]).read_text().splitlines())
        return f"{found[1]}{max(10, round(lines, -1))}{found[4]}"

    return COUNT.sub(row, page)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(page, "python"))
    for full, small in SMALLER.items():
        code = code.replace(full, small)
    exec(compile(code, name(page), "exec"), {"__name__": "page"})


def snippet(word: str, module: ModuleType) -> dict[str, Any]:
    """What CONTRIBUTING's piece of code with `word` defines, written into a copy of a module."""
    pieces = re.findall(r"^   ```py\n(.*?)^   ```", PAGES[1].read_text(), re.DOTALL | re.MULTILINE)
    (code,) = (textwrap.dedent(piece) for piece in pieces if word in piece)
    # to register it would enter the op for the other tests, too
    namespace = {**vars(module), "register": lambda cls: cls()}
    exec(compile(code, f"CONTRIBUTING.md, {word}", "exec"), namespace)
    return namespace


X = np.linspace(-3, 3, 21, dtype=np.float32).reshape(3, 7)


def test_the_op_of_contributing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    op = snippet("Softsign", functions)["softsign"]
    monkeypatch.setitem(OPS, op.name, op)
    x = OPS["input"](name="x", type=TensorType(t.f32, X.shape))
    graph = Graph("one", (x,), (OPS["sum"](op(x), axes=(1,)),))
    np.testing.assert_allclose(pl.compile(graph)(X), pl.interpret(graph, X), 1e-6, 1e-6)
    loss = Graph("loss", (x,), (OPS["sum"](op(x)),))
    golden.check_gradients(loss, grad(loss, ["x"]), ("x",))


def test_the_kernel_of_contributing_works() -> None:
    make = snippet("running_sum", scatter)["running_sum_kernel"]
    x = OPS["input"](name="x", type=TensorType(t.f32, X.shape))
    anchor = OPS["tanh"](x)  # what the op is does not matter to the kernel
    kernel = make(Graph("body", (x,), (anchor,)), anchor, "running_sum", Target.host()).kernel
    buffers = [np.zeros_like(X) if b.name in kernel.writes else X.copy() for b in kernel.params]
    place = next(i for i, b in enumerate(kernel.params) if b.name in kernel.writes)
    np.testing.assert_allclose(native.check(kernel, *buffers)[place], X.cumsum(-1), 1e-6, 1e-6)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_of_a_page_exist(page: Path) -> None:
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            for command in re.split(r" && ", line):
                words = shlex.split(command)
                if words[0] == "planish":
                    check_command(words[1], words[2:])


def check_command(command: str, words: list[str]) -> None:
    """The command takes these words, as far as that can be said without its files."""
    found = cli.get_command(click.Context(cli), command)
    assert found is not None, f"there is no planish {command}"
    found.make_parser(click.Context(found)).parse_args(words)


def test_readme_has_the_two_commands() -> None:
    assert blocks(PAGES[0], "sh")[0] == (
        "pip install . && planish demo\npip install -e '.[test]' && pytest\n"
    )


def test_readme_compares_what_is() -> None:
    shown = between(PAGES[0].read_text(), "compare")
    rows = [re.split(r"  +", line) for line in shown.splitlines() if "iB  " in line]
    model = pl.TinyGPT(65, embed_dim=128, num_layers=4, num_heads=4, max_seq_len=64)
    tokens = np.zeros((1, 64), np.int32)
    graph = pl.trace(model, tokens)
    found = generated.rows_without_times(graph, [row[0] for row in rows], tokens)
    assert [row[:6] for row in rows] == found, "run the commands beside the table again"
    assert all(float(row[8]) < 1e-5 for row in rows)


def test_readme_shows_a_time_and_a_place_for_measurements() -> None:
    page = PAGES[0].read_text()
    assert re.search(r"\d+ rows: \d+ us native on \d threads, \d+ us", between(page, "time"))
    between(page, "measurements")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_are_tidy(page: Path) -> None:
    text = page.read_text()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for file in re.findall(r"`((?:planish|tests|examples|docs|benchmarks)/[a-z_/.]+)`", text):
        assert (ROOT / file).exists(), file
    long = [line for line in text.splitlines() if len(line) > 100 and not line.startswith("|")]
    assert long == []


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_examples_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert f"python {name(path)}" in (ast.get_docstring(ast.parse(text)) or "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where examples run; the first leaves a model for another."""
    return tmp_path_factory.mktemp("examples")


def run(example: str, folder: Path) -> str:
    """What an example prints."""
    command = [sys.executable, str(ROOT / "examples" / f"{example}.py"), *ARGUMENTS[example]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


SAYS = {
    "stages": ("--- llvm", "largest error"),
    "train": ("validation loss", "wrote nano.safetensors"),
    "gradients": ("step  50", "by differences"),
    "own_pass": ("tanh_gelu,expand,fuse", "the numbers change in pass tanh_gelu (1)"),
    "draw": ("wrote graphs",),
}


@pytest.mark.parametrize("example", SAYS)
def test_an_example_runs(example: str, folder: Path) -> None:
    printed = run(example, folder)
    for text in SAYS[example]:
        assert text in printed


def test_generate_writes_with_what_train_made(folder: Path) -> None:
    if not (folder / "nano.safetensors").exists():
        run("train", folder)
    assert run("generate", folder).startswith("The ")


def test_every_example_runs() -> None:
    assert {path.stem for path in EXAMPLES} == set(ARGUMENTS)


@pytest.mark.parametrize("module", DOCTESTED)
def test_docstring_examples(module: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    found = doctest.testmod(importlib.import_module(module), optionflags=flags)
    assert found.failed == 0
