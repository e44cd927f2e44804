"""Compiled functions for C: what a C program computes is what Python does; what it gets wrong."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import planish as pl
from planish import numpy as pnp
from planish.frontend.cli.entry import commands, run
from tests.frontend.small import small_model

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]
B, T = pl.Dim("B", max=9), pl.Dim("T", max=6)
W = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
MAIN = r"""
#include "f.h"
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    static int32_t tokens[64];
    static float logits[64 * 64];
    int64_t sizes[] = {atoi(argv[1]), atoi(argv[2])};
    const void *inputs[] = {tokens};
    void *outputs[] = {logits};
    if (argc != 3 || f_abi_version() != F_ABI) return 99;
    for (int n = 0; n < 64; n++) tokens[n] = (7 * n + 3) % 28;
    f_model *model = f_create(NULL, 2);
    int code = f_status(model);
    if (!code) code = f_call(model, inputs, outputs, sizes);
    if (code) fprintf(stderr, "%s\n", f_error(model));
    f_free(model);
    if (!code) fwrite(logits, 4, sizes[0] * sizes[1] * 28, stdout);
    return code;
}
"""


def dense(x: Any, y: Any) -> Any:
    return {"sum": pnp.tanh(x @ W) + y, "top": pnp.max(x, axis=1)}


def program(**options: Any) -> Any:
    return pl.compile(dense, pl.spec((B, 8)), pl.spec((3,)), **options)


def logits() -> Any:
    return pl.compile(small_model(), pl.spec((B, T), "i32", "tokens"))


@pytest.mark.parametrize(("name", "weights"), [("f.so", "embed"), ("f.o", "embed")])
def test_a_c_program_computes_what_python_does(name: str, weights: str, tmp_path: Path) -> None:
    ours = logits()
    ours.save(tmp_path / name, weights, prefix="f_")
    (tmp_path / "main.c").write_text(MAIN)
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-Wl,-rpath,$ORIGIN", "-o", "main"]
    subprocess.run([*command, "main.c", name, "-lpthread"], cwd=tmp_path, check=True)
    for b, t in ((1, 1), (3, 5), (9, 6)):
        tokens = np.array([(7 * n + 3) % 28 for n in range(b * t)], np.int32).reshape(b, t)
        done = subprocess.run([tmp_path / "main", str(b), str(t)], capture_output=True, check=True)
        assert done.stdout == ours(tokens).tobytes()
    for given, why in ((("10", "1"), "size 0 (B) is 1 to 9, got 10"),
                       (("1", "0"), "size 1 (T) is 1 to 6, got 0")):  # fmt: skip
        done = subprocess.run([tmp_path / "main", *given], capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert (done.returncode, done.stderr) == (1, why + "\n")


class Function:
    """A library through its C interface."""

    def __init__(self, path: Path, weights: Path | None = None) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.f_create.restype = ctypes.c_void_p
        self.library.f_error.restype = ctypes.c_char_p
        given = None if weights is None else str(weights).encode()
        self.model = ctypes.c_void_p(self.library.f_create(given, 1))

    def __call__(self, inputs: Any, outputs: Any, *sizes: int) -> tuple[int, str]:
        def places(arrays: Any) -> Any:
            found = [None if x is None else x.ctypes.data for x in arrays]
            return (ctypes.c_void_p * max(len(found), 1))(*found)

        code = self.library.f_call(
            self.model, places(inputs), places(outputs),
            (ctypes.c_int64 * len(sizes))(*sizes) if sizes else None,
        )  # fmt: skip
        return code, self.library.f_error(self.model).decode()


def test_several_arrays_in_their_order(tmp_path: Path) -> None:
    ours = program()
    ours.save(tmp_path / "f.so", "file", prefix="f_")
    found = Function(tmp_path / "f.so", tmp_path / "f.weights")
    draw = np.random.default_rng(1)
    for rows in (1, 4, 9):
        x, y = draw.standard_normal((rows, 8), np.float32), draw.standard_normal(3, np.float32)
        out = [np.empty((rows, 3), np.float32), np.empty(rows, np.float32)]
        assert found([x, y], out, rows) == (0, "")
        want = ours(x, y)
        assert np.array_equal(out[0], want["sum"]) and np.array_equal(out[1], want["top"])
        again = pl.load(tmp_path / "f.so")(x, y)
        assert list(again) == ["sum", "top"] and np.array_equal(again["sum"], want["sum"])
    assert found([x, None], out, 9) == (1, "input 1 is NULL")
    assert found([x, y], [out[0], None], 9) == (1, "output 1 is NULL")
    assert found([x, y], out) == (1, "sizes is NULL")
    assert found([x, y], out, 9) == (0, "")


def test_the_header_says_what_each_array_is(tmp_path: Path) -> None:
    program().save(tmp_path / "f.h")
    text = (tmp_path / "f.h").read_text()
    for line in ("f: planish_call computes", "inputs[0]: x: f32[B, 8]", "inputs[1]: y: f32[3]",
                 "outputs[0]: f32[B, 3]", "outputs[1]: f32[B]", "sizes[0]: B, 1 to 9"):  # fmt: skip
        assert f"{line}\n" in text
    assert "vocab" not in text and [x.name for x in tmp_path.iterdir()] == ["f.h"]


def test_an_input_may_be_replaced(tmp_path: Path) -> None:
    graph = pl.trace(lambda x, y: x * 2 + y, pl.spec((B, 4)), pl.spec((4,)), donate={0: 0})
    pl.compile(graph).save(tmp_path / "f.so", prefix="f_")
    found, x, y = Function(tmp_path / "f.so"), np.ones((3, 4), np.float32), np.arange(4.0)
    assert found([x, y.astype(np.float32)], [None], 3) == (0, "")
    assert np.array_equal(x, 2 + np.broadcast_to(y, (3, 4)))
    assert "outputs[0]: f32[B, 4], replaces inputs[0]" in (tmp_path / "f.h").read_text()


def test_an_index_outside_of_its_table_is_a_fault(tmp_path: Path) -> None:
    logits().save(tmp_path / "f.so", prefix="f_")
    found = Function(tmp_path / "f.so")
    tokens, out = np.array([[1, 99]], np.int32), np.empty((1, 2, 28), np.float32)
    assert found([tokens], [out], 1, 2) == (7, "index 99 is outside 0 <= index < 28 in the model")
    tokens[0, 1] = 2
    assert found([tokens], [out], 1, 2) == (0, "")
    assert np.array_equal(out, logits()(tokens))


def test_what_c_cannot_have_is_refused(tmp_path: Path) -> None:
    free = pl.compile(dense, pl.spec(("B", 8)), pl.spec((3,)))
    why = r"and B has none; give it one, as in pl\.Dim\('B', max=256\)"
    with pytest.raises(pl.ArtifactError, match=why):
        free.save(tmp_path / "f.so", prefix="f_")
    with pytest.raises(pl.DataError, match="give it a prefix"):
        program().save(tmp_path / "f.so", weights="file")
    with pytest.raises(pl.DataError, match="a prefix is letters, digits and _"):
        program().save(tmp_path / "f.so", prefix="a-b")
    assert list(tmp_path.iterdir()) == []
    program().save(tmp_path / "f.so", prefix="f_")
    with pytest.raises(pl.ArtifactError, match="copy that file instead"):
        pl.load(tmp_path / "f.so").save(tmp_path / "g.so", prefix="f_")


@pytest.mark.usefixtures("uncached")
def test_the_same_function_makes_the_same_bytes_and_says_what_it_is(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        program(pipeline="O1").save(tmp_path / name / "f.so", prefix="f_")
    one, other = ((tmp_path / x / "f.so").read_bytes() for x in "ab")
    assert one == other
    text = CliRunner().invoke(commands, ["inspect", str(tmp_path / "a" / "f.so")]).output
    assert "x: f32[B, 8]" in text and "weights_checksum" in text and "vocabulary" not in text


# The command line


def given_to(tmp_path: Path, model: str, out: str, *more: str) -> list[str]:
    return ["compile", str(tmp_path / model), "-o", str(tmp_path / out), *more]


@pytest.mark.parametrize("name", ["g.safetensors", "folder"])
def test_a_stored_graph_becomes_a_library(name: str, tmp_path: Path) -> None:
    graph = pl.trace(dense, pl.spec((B, 8)), pl.spec((3,)))
    pl.save_graph(graph, tmp_path / name)
    assert run(given_to(tmp_path, name, "f.so", "--prefix", "f_", "--weights", "file")) == 0
    x, y = W[:4, :1] @ np.ones((1, 8), np.float32), np.ones(3, np.float32)
    want = program()(x, y)
    out = [np.empty((4, 3), np.float32), np.empty(4, np.float32)]
    found = Function(tmp_path / "f.so", tmp_path / "f.weights")
    assert found([x, y], out, 4) == (0, "") and np.array_equal(out[0], want["sum"])
    assert run(given_to(tmp_path, name, "plain.so")) == 0
    assert np.array_equal(pl.load(tmp_path / "plain.so")(x, y)["top"], want["top"])
    assert not (tmp_path / "plain.h").exists()


def test_c_limits_what_a_stored_graph_leaves_open(tmp_path: Path) -> None:
    graph = pl.trace(dense, pl.spec(("B", 8)), pl.spec((3,)))
    pl.save_graph(pl.PIPELINES["O2"].run(graph), tmp_path / "g.safetensors")  # and so is a body
    x, y = np.ones((3, 8), np.float32), np.ones(3, np.float32)
    for more, most in ((["--batch", "3"], 3), ([], 1)):
        name = f"most{most}.so"
        assert run(given_to(tmp_path, "g.safetensors", name, "--prefix", "f_", *more)) == 0
        out = [np.empty((most, 3), np.float32), np.empty(most, np.float32)]
        found = Function(tmp_path / name)
        assert found([x[:most], y], out, most) == (0, "")
        assert np.array_equal(out[0], pl.compile(graph)(x[:most], y)["sum"])
        assert found([x, y], out, most + 1)[0] != 0


def test_logits_become_a_function_of_c(tmp_path: Path) -> None:
    pl.save(small_model(), tmp_path / "m.safetensors")
    more = ("--of", "all", "--prefix", "f_", "--batch", "2")
    assert run(given_to(tmp_path, "m.safetensors", "f.so", *more)) == 0
    tokens, out = np.full((2, 4), 5, np.int32), np.empty((2, 4, 28), np.float32)
    assert Function(tmp_path / "f.so")([tokens], [out], 2, 4) == (0, "")
    assert np.array_equal(out, logits()(tokens))
    assert run(given_to(tmp_path, "m.safetensors", "one.h", "--of", "last")) == 0
    text = (tmp_path / "one.h").read_text()
    assert "sizes[0]: B, 1 to 1\n" in text and "planish_call(" in text


@pytest.mark.parametrize(("model", "out", "more", "why"), [
    ("g.safetensors", "f.so", ["--of", "last"], "is a graph: --of is for models"),
    ("g.safetensors", "f.so", ["--tokenizer", "none"], "is a graph: --tokenizer is for models"),
    ("g.safetensors", "f.so", ["--weights", "file"], "give it a prefix, such as 'f_'"),
    ("g.safetensors", "f.so", ["--target", "multi"], "for one processor; a bundle is for several"),
    ("g.safetensors", "f", ["--emit", "exe"], "no program for the shell"),
    ("g.safetensors", "f.bundle", ["--prefix", "f_"], "are for C, not for a bundle"),
    ("g.safetensors", "f.so", ["--batch", "2"], "--batch is for C: give --prefix, too"),
    ("m.safetensors", "f.so", ["--of", "last", "--batch", "2"], "and for --of last and all in C"),
    ("m.safetensors", "f.so", ["--of", "all", "--tokenizer", "none"], "--tokenizer is for what wr"),
])  # fmt: skip
def test_what_cannot_be_is_told_in_a_line(
    model: str, out: str, more: list[str], why: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pl.save_graph(pl.trace(dense, pl.spec((B, 8)), pl.spec((3,))), tmp_path / "g.safetensors")
    pl.save(small_model(), tmp_path / "m.safetensors")
    assert run(given_to(tmp_path, model, out, *more)) == 2
    told = capsys.readouterr().err
    assert why in told and not (tmp_path / out).exists()
