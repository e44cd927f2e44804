"""Generators as libraries: a C program writes the tokens that Python writes, and is told errors."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import planish as pl
from planish.frontend.cli.entry import commands, run
from planish.runtime.ship import shipped
from tests.frontend.small import TOKENIZER, small_model

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]
CONTEXT = 40
PROMPT = [3, 1, 4, 1, 5]
FULL = "the context is full; slide goes on with its last half"
OPTIONS = ("min_p", "repetition_penalty")

# One text on each of `models` threads of this process, each with a model of its own
MAIN = r"""
#include "x.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct { char **given; int count; int32_t tokens[64]; int64_t written; int code; } job;

static int32_t note(void *user, int32_t token) {
    job *mine = user;
    mine->tokens[mine->count++] = token;
    return 0;
}

static void *work(void *user) {
    job *mine = user;
    planish_model *model = planish_create(NULL, atoi(mine->given[1]));
    if (planish_status(model) != PLANISH_OK) {
        fprintf(stderr, "%s\n", planish_error(model));
        mine->code = planish_status(model);
        planish_free(model);
        return NULL;
    }
    int32_t prompt[] = {3, 1, 4, 1, 5};
    planish_options options;
    planish_defaults(&options);
    options.temperature = atof(mine->given[3]);
    options.top_k = atoi(mine->given[4]);
    options.top_p = atof(mine->given[5]);
    options.seed = strtoull(mine->given[6], NULL, 10);
    options.min_p = atof(mine->given[7]);
    options.repetition_penalty = atof(mine->given[8]);
    options.max_tokens = 30;
    mine->code = planish_generate(model, prompt, 5, &options, note, mine, &mine->written);
    planish_free(model);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[8];
    static job jobs[8];
    int models = atoi(argv[2]);
    if (argc != 9 || planish_abi_version() != PLANISH_ABI) return 9;
    for (int n = 0; n < models; n++) {
        jobs[n].given = argv;
        pthread_create(&threads[n], NULL, work, &jobs[n]);
    }
    for (int n = 0; n < models; n++) {
        pthread_join(threads[n], NULL);
        if (jobs[n].code) return jobs[n].code;
        for (int k = 0; k < jobs[n].written; k++) printf("%d ", jobs[n].tokens[k]);
        printf("\n");
    }
    return 0;
}
"""


@cache
def model() -> pl.TinyGPT:
    return small_model(max_seq_len=CONTEXT)


def saved(folder: Path, pipeline: str = "O2", name: str = "x.so", **options: Any) -> Path:
    path = folder / name
    pl.Generator(model(), pipeline, options=OPTIONS).save(path, TOKENIZER, **options)
    return path


def compiled(library: Path, *flags: str) -> Path:
    """The C program above, linked with a library or an object."""
    (library.parent / "main.c").write_text(MAIN)
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-o", "main", "main.c"]
    subprocess.run([*command, "-L.", f"-l:{library.name}", "-lpthread", *flags], cwd=library.parent,
                   check=True)  # fmt: skip
    return library.parent / "main"


def told(program: Path, *given: object) -> list[list[int]]:
    command = [str(program), *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={})
    return [[int(x) for x in line.split()] for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("ship"))


@pytest.fixture(scope="module")
def main(library: Path) -> Path:
    return compiled(library, "-Wl,-rpath,$ORIGIN")


SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 0.8, "seed": 1},
    {"temperature": 1.3, "seed": 2**63 + 12345, "top_k": 5},
    {"temperature": 0.9, "seed": 3, "top_p": 0.7},
    {"temperature": 1.0, "seed": 4, "top_k": 1000, "top_p": 1.0},
    {"temperature": 1.5, "seed": 5, "min_p": 0.2},
    {"temperature": 0.0, "repetition_penalty": 1.7},
    {"temperature": 1.2, "seed": 6, "min_p": 0.05, "repetition_penalty": 0.6, "top_k": 20},
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("given", SETTINGS, ids=str)
def test_c_writes_the_tokens_that_python_writes(
    main: Path, given: dict[str, Any], threads: int
) -> None:
    want = model().generate(PROMPT, max_new_tokens=30, **given).tolist()
    names = ("temperature", "top_k", "top_p", "seed", "min_p", "repetition_penalty")
    found = told(main, threads, 1, *(given.get(x, 0) for x in names))
    assert found == [want]


def test_models_on_several_threads_do_not_disturb_each_other(main: Path) -> None:
    want = model().generate(PROMPT, max_new_tokens=30, temperature=0.8, seed=1).tolist()
    for _ in range(5):
        assert told(main, 2, 3, 0.8, 0, 0, 1, 0, 0) == [want] * 3


def test_seeds_that_c_has_no_number_for(library: Path) -> None:
    saved = pl.load(library)
    for seed in (-1, 2**64):
        for maker in (saved, model()):
            with pytest.raises(pl.DataError, match="a seed is an integer of 0 <= seed"):
                maker.generate(PROMPT, 5, seed=seed)


@pytest.mark.parametrize("pipeline", ["O0", "bf16", "int8"])
def test_other_pipelines_ship_too(pipeline: str, tmp_path: Path) -> None:
    main = compiled(saved(tmp_path, pipeline), "-Wl,-rpath,$ORIGIN")
    want = model().generate(PROMPT, max_new_tokens=30, temperature=0, pipeline=pipeline)
    assert told(main, 2, 1, *[0] * 6) == [want.tolist()]


def test_objects_link_into_programs(tmp_path: Path) -> None:
    main = compiled(saved(tmp_path, name="x.o"))
    want = model().generate(PROMPT, max_new_tokens=30, temperature=0)
    assert told(main, 2, 1, *[0] * 6) == [want.tolist()]


def test_two_models_in_one_program(tmp_path: Path) -> None:
    saved(tmp_path, name="x.o")
    saved(tmp_path, name="y.o", prefix="other_")
    text = '#include <stddef.h>\n#include "x.h"\n#include "y.h"\n'
    text += "int main(void) { return OTHER_ABI != PLANISH_ABI ||\n"
    text += "planish_context(NULL) != 40 || other_vocab_size(NULL) < 20 ||\n"
    text += "planish_facts() == other_facts(); }\n"
    (tmp_path / "two.c").write_text(text)
    subprocess.run(["cc", "-o", "two", "two.c", "x.o", "y.o"], cwd=tmp_path, check=True)
    said = (tmp_path / "y.h").read_text()
    assert "OTHER_FAULT); other_free gives" in said and "variable PLANISH_LEVEL" in said
    assert "planish_" not in said
    assert subprocess.run([tmp_path / "two"], check=False).returncode == 0


def test_only_the_c_library_is_needed_and_only_names_of_ours_are_seen(library: Path) -> None:
    lines = subprocess.check_output(["ldd", library], text=True).splitlines()
    names = {line.split()[0].rsplit("/", 1)[-1].split(".")[0] for line in lines}
    assert names <= {"linux-vdso", "libc", "libm", "libpthread", "ld-linux-x86-64",
                     "ld-linux-aarch64"}  # fmt: skip
    listed = subprocess.check_output(["nm", "-D", "--defined-only", library], text=True)
    assert {x.split()[-1].split("_")[0] for x in listed.splitlines()} == {"planish"}
    whole = subprocess.check_output(["nm", library], text=True)
    assert re.search(r" planish_decode_k\d+_", whole) and re.search(
        r" planish_prefill_k\d+_", whole
    )


@pytest.mark.usefixtures("uncached")
def test_the_same_generator_makes_the_same_bytes(library: Path, tmp_path: Path) -> None:
    for name in ("x.so", "x.h"):
        other = saved(tmp_path).with_name(name)
        assert other.read_bytes() == library.with_name(name).read_bytes()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["x.h", "x.so"]


# Python


def test_python_runs_a_saved_generator(library: Path) -> None:
    judge = model()
    for threads in (1, 2):
        found = pl.load(library, threads=threads)
        for given in SETTINGS:
            want = judge.generate(PROMPT, max_new_tokens=30, **given)
            assert np.array_equal(found.generate(PROMPT, max_new_tokens=30, **given), want)
    again: list[int] = []
    want = judge.generate(PROMPT, max_new_tokens=60, seed=1, sliding_window=True)
    found.generate(PROMPT, max_new_tokens=60, seed=1, sliding_window=True, stream=again.append)
    assert again == want.tolist()
    assert found.tokenizer.decode(want) == TOKENIZER.decode(want)
    with pytest.raises(pl.ArtifactError, match="holds code, not the graph"):
        found.decode.explain()
    with pytest.raises(pl.DataError, match="exceed the context of 40"):
        found.generate(PROMPT, max_new_tokens=60)


RUN = """
import sys
import planish as pl
found = pl.load(sys.argv[1])
print(found.generate([3, 1, 4, 1, 5], max_new_tokens=30, temperature=0).tolist())
for late in ("llvmlite", "planish.runtime.host.language", "planish.frontend.trace"):
    assert late not in sys.modules
"""


def test_it_runs_in_another_process_without_llvm(library: Path) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, library], capture_output=True, text=True,
                          check=True)  # fmt: skip
    want = model().generate(PROMPT, max_new_tokens=30, temperature=0).tolist()
    assert done.stdout.strip() == str(want)


# Errors


class Options(ctypes.Structure):
    _fields_ = [("temperature", ctypes.c_float), ("top_p", ctypes.c_float),
                ("top_k", ctypes.c_int32), ("stop_count", ctypes.c_int32),
                ("stop", ctypes.POINTER(ctypes.c_int32)), ("seed", ctypes.c_uint64),
                ("max_tokens", ctypes.c_int64), ("min_p", ctypes.c_float),
                ("repetition_penalty", ctypes.c_float), ("slide", ctypes.c_int32)]  # fmt: skip


class Native:
    """A library through its C interface."""

    def __init__(self, path: Path, weights: Path | None = None, threads: int = 1) -> None:
        self.library = ctypes.CDLL(str(path))
        for name in ("create", "error", "facts"):
            self[name].restype = ctypes.c_void_p if name == "create" else ctypes.c_char_p
        given = None if weights is None else os.fsencode(weights)
        self.model = ctypes.c_void_p(self["create"](given, threads))

    def __getitem__(self, name: str) -> Any:
        return getattr(self.library, f"planish_{name}")

    @property
    def error(self) -> str:
        return self["error"](self.model).decode()

    def generate(self, ids: Sequence[int] = PROMPT, **given: Any) -> tuple[int, list[int]]:
        options, found = Options(), []
        self["defaults"](ctypes.byref(options))
        for name, value in given.items():
            setattr(options, name, value)
        kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32)
        note = kind(lambda _, token: found.append(token) or 0)
        array = (ctypes.c_int32 * len(ids))(*ids)
        size, where = ctypes.c_int64(len(ids)), ctypes.byref(options)
        return self["generate"](self.model, array, size, where, note, None, None), found


REFUSED = [
    ({"ids": []}, 1, "the prompt is empty; give at least 1 token"),
    ({"ids": [3, -1]}, 1, "token -1 at position 1 is outside 0 <= token < 28"),
    ({"ids": [28]}, 1, "token 28 at position 0 is outside 0 <= token < 28"),
    ({"ids": [1] * 40}, 5, "the prompt has 40 tokens, the context of 40 has no room"),
    ({"max_tokens": 36}, 5, "5 tokens of prompt and 36 new ones exceed the context of 40"),
    ({"max_tokens": -1}, 1, "max_tokens is at least 0, got -1"),
    ({"temperature": -1.0}, 1, "temperature is a finite number of at least 0, got -1"),
    ({"temperature": float("nan")}, 1, "temperature is a finite number of at least 0, got nan"),
    ({"temperature": float("inf")}, 1, "temperature is a finite number of at least 0, got inf"),
    ({"top_k": -1}, 1, "top_k is at least 0 and 0 <= top_p <= 1, got -1 and 0"),
    ({"top_p": 1.5}, 1, "top_k is at least 0 and 0 <= top_p <= 1, got 0 and 1.5"),
    ({"min_p": 1.5}, 1, "min_p is a number of 0 <= min_p <= 1, got 1.5"),
    ({"min_p": float("nan")}, 1, "min_p is a number of 0 <= min_p <= 1, got nan"),
    ({"repetition_penalty": -1.0}, 1, "repetition_penalty is a finite number above 0, or 0 for"),
    ({"repetition_penalty": 1e-44}, 1, "repetition_penalty is a finite number above 0, or 0 for"),
    ({"stop_count": 2}, 1, "there are tokens to stop at, but stop is NULL"),
]


def test_calls_that_cannot_be_are_told_in_a_line(library: Path) -> None:
    native = Native(library)
    for given, code, why in REFUSED:
        assert native.generate(**given) == (code, [])
        assert native.error.startswith(why) and "\n" not in native.error
        assert native["status"](native.model) == code
    code, found = native.generate(max_tokens=30, temperature=0.0)
    assert (code, native.error, native["status"](native.model)) == (0, "", 0)
    assert found == model().generate(PROMPT, max_new_tokens=30, temperature=0).tolist()
    stop = (ctypes.c_int32 * 2)(27, found[7])
    ended = native.generate(max_tokens=30, temperature=0.0, stop=stop, stop_count=2)
    assert ended == (0, found[: found.index(found[7]) + 1])
    assert native.generate(max_tokens=0) == (0, [])
    native["free"](native.model)
    native["free"](None)


def test_prefill_and_decode_step_by_step(library: Path) -> None:
    native, token = Native(library), ctypes.c_int32()
    where = ctypes.byref(token)
    assert native["decode"](native.model, where) == 1
    assert native.error == "there is no text yet: planish_prefill begins one"
    want = model().generate(PROMPT, max_new_tokens=35, temperature=0).tolist()
    options, array = Options(), (ctypes.c_int32 * 5)(*PROMPT)
    for _ in range(2):
        assert native["prefill"](
            native.model, array, ctypes.c_int64(5), ctypes.byref(options), where
        ) == 0  # fmt: skip
        found = [token.value]
        while (code := native["decode"](native.model, where)) == 0:
            found.append(token.value)
        assert (code, native.error, found) == (5, FULL, want)
    native["free"](native.model)


def test_row_25_another_processor_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = ("imaginary", 0x7FFFFFFF, 0, 0, 1)
    monkeypatch.setattr(shipped, "needed", lambda *_: [word])
    main = compiled(saved(tmp_path), "-Wl,-rpath,$ORIGIN")
    done = subprocess.run([main, "1", "1", *"000000"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    why = "this program is for processors with imaginary, which this one lacks\n"
    assert (done.returncode, done.stderr) == (4, why)


def test_a_model_that_could_not_be_made_stays_so(tmp_path: Path) -> None:
    path = saved(tmp_path, weights="file")
    native, ids = Native(path), (ctypes.c_int32 * 8)()
    why = native.error
    assert "name it" in why
    native["encode"].restype = ctypes.c_int64
    assert native["encode"](native.model, b"the", ctypes.c_int64(3), ids, ctypes.c_int64(8)) == -1
    assert (native["status"](native.model), native.error) == (3, why)
    assert native.generate() == (3, [])


@pytest.mark.parametrize(("given", "error", "why"), [
    ({"path": "x.dll"}, pl.ArtifactError, r"saved as \.so, \.o, \.h, or without a suffix"),
    ({"path": "no/x.so"}, FileNotFoundError, "there is no folder"),
    ({"weights": "both"}, pl.DataError, "weights are one of embed, file"),
    ({"prefix": "a-b"}, pl.DataError, "a prefix is letters, digits and _"),
    ({"tokenizer": pl.CharTokenizer.from_text("abc")}, pl.DataError, "has 3 tokens, the model 28"),
])  # fmt: skip
def test_what_cannot_be_saved_is_refused(
    given: dict[str, Any], error: type[Exception], why: str, tmp_path: Path
) -> None:
    options = {"path": "x.so", **given}
    path = tmp_path / options.pop("path")
    with pytest.raises(error, match=why):
        pl.Generator(model()).save(path, **options)


def test_the_command_line_writes_and_inspects(tmp_path: Path) -> None:
    pl.save(model(), tmp_path / "model.safetensors", tokenizer=TOKENIZER)
    given = ["compile", str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "x")]
    for emit, name in (("so", "x.so"), ("obj", "x.o"), ("header", "x.h")):
        assert run([*given, "--emit", emit, "--target", "x86-64-v2"]) == 0
        assert (tmp_path / name).is_file()
    assert run([*given, "--emit", "exe", "--of", "last"]) == 2
    for name in ("x.so", "x.o"):
        text = CliRunner().invoke(commands, ["inspect", str(tmp_path / name)]).output
        assert "CharTokenizer(28 characters)" in text and "generator" in text
    assert run([*given, "--emit", "so", "--tokenizer", "none"]) == 0
    assert pl.load(tmp_path / "x.so").tokenizer is None
