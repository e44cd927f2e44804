"""The text that llama2.c documents, from a library: through C and through Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import planish as pl
from tests.frontend.test_llama2c import STORY

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]

# Text in, text out: the tokenizer is the one inside the library
MAIN = r"""
#include "stories.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { planish_model *model; int32_t before; } writing;

static int32_t tell(void *user, int32_t token) {
    writing *mine = user;
    char piece[64];
    int64_t size = planish_token_text(mine->model, token, &mine->before, piece, sizeof piece);
    if (size < 0 || size > (int64_t)sizeof piece) return 1;
    fwrite(piece, 1, (size_t)size, stdout);
    return 0;
}

int main(int argc, char **argv) {
    int32_t prompt[16];
    int64_t written;
    planish_options options;
    planish_model *model = planish_create(NULL, argc > 1 ? atoi(argv[1]) : 0);
    int64_t count = planish_encode(model, "", 0, prompt, 16);
    if (count < 1) { fprintf(stderr, "%s\n", planish_error(model)); return 1; }
    writing mine = {model, prompt[count - 1]};
    planish_defaults(&options);
    options.temperature = 0;
    options.max_tokens = 200;
    int code = planish_generate(model, prompt, count, &options, tell, &mine, &written);
    planish_free(model);
    return code ? code : written != 200;
}
"""


@pytest.fixture(scope="module")
def stories(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, _ = pl.load_model(data_dir / "stories260K.bin")
    path = tmp_path_factory.mktemp("stories") / "stories.so"
    pl.Generator(model).save(path, pl.read_tokenizer(data_dir / "tok512.bin"))
    return path


def test_c_writes_the_documented_text(stories: Path) -> None:
    folder = stories.parent
    (folder / "main.c").write_text(MAIN)
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-o", "main", "main.c"]
    subprocess.run([*command, "./stories.so", "-Wl,-rpath,$ORIGIN"], cwd=folder, check=True)
    for threads in ("1", "2"):
        done = subprocess.run(["./main", threads], cwd=folder, capture_output=True, check=True,
                              env={})  # fmt: skip
        assert done.stdout.decode() == STORY


def test_python_writes_it_from_the_same_library(stories: Path) -> None:
    for threads in (1, 2):
        found = pl.load(stories, threads=threads)
        ids = found.generate(found.tokenizer.prompt(""), 200, temperature=0)
        assert len(ids) == 200 and found.tokenizer.decode(ids) == STORY
