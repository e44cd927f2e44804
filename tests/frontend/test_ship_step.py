"""Steps of training as libraries: a C program trains bit by bit as Python does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish as pl
import planish.nn.functional as F
from planish.frontend.cli.entry import run
from planish.frontend.data import IGNORED
from planish.frontend.optim import SGD, AdamW, cosine
from planish.frontend.training import Trainer
from planish.runtime.artifact import read_shared
from tests.frontend.small import CONTEXT, TEXT, TOKENIZER, small_model, small_trainer

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]
STEPS = 4
RPATH = "-Wl,-rpath,$ORIGIN"

# Reads batches and rates of so many steps from a file, trains, and writes losses and all arrays
MAIN = r"""
#include "step.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(planish_model *model) {
    int code = planish_status(model);
    fprintf(stderr, "%s\n", planish_error(model));
    planish_free(model);
    return code;
}

int main(int argc, char **argv) {
    if (argc != 6 || planish_abi_version() != PLANISH_ABI) return 99;
    planish_model *model = planish_create(NULL, atoi(argv[1]));
    if (planish_status(model)) return fail(model);
    size_t size = (size_t)(planish_rows(model) * planish_context(model));
    int32_t *tokens = malloc(4 * size), *targets = malloc(4 * size);
    FILE *in = fopen(argv[4], "rb"), *out = fopen(argv[5], "wb");
    for (int n = 0; n < atoi(argv[2]); n++) {
        float lr, told[2];
        if (fread(&lr, 4, 1, in) != 1 || fread(tokens, 4, size, in) != size ||
            fread(targets, 4, size, in) != size) return 98;
        if (planish_step(model, tokens, targets, lr, strtoull(argv[3], NULL, 10), told, told + 1))
            return fail(model);
        fwrite(told, 4, 2, out);
    }
    for (int64_t n = 0; n < planish_arrays(model); n++) {
        planish_array array;
        if (planish_get(model, n, &array)) return fail(model);
        fwrite(array.data, 4, (size_t)array.size, out);
        printf("%s\n", array.name);
    }
    printf("%lld\n", (long long)planish_steps(model));
    fclose(out);
    planish_model *again = planish_create(NULL, 1); /* what is saved is all there is */
    if (planish_save(model, "saved")) return fail(model);
    if (planish_restore(again, "saved")) return fail(again);
    if (planish_steps(again) != planish_steps(model)) return 97;
    if (memcmp(planish_losses(again), planish_losses(model), 8 * planish_steps(model))) return 96;
    for (int64_t n = 0; n < planish_arrays(model); n++) {
        planish_array one, other;
        if (planish_get(model, n, &one) || planish_get(again, n, &other)) return 95;
        if (memcmp(one.data, other.data, 4 * (size_t)one.size)) return 94;
    }
    planish_free(again);
    planish_free(model);
    free(tokens);
    free(targets);
    return 0;
}
"""


def native(**options: Any) -> Trainer:
    return small_trainer(options.pop("model", None), **{"backend": "native", **options})


def compiled(library: Path) -> Path:
    """The C program above, linked with a library or an object."""
    folder = library.parent
    (folder / "main.c").write_text(MAIN)
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-o", "main", "main.c"]
    subprocess.run([*command, f"./{library.name}", RPATH], cwd=folder, check=True)
    return folder / "main"


def batches(rows: int, ignored: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(STEPS):
        x, y = rng.integers(0, len(TOKENIZER), (2, rows, CONTEXT)).astype(np.int32)
        if ignored:
            y[0, 2:], y[-1] = IGNORED, IGNORED
        found.append((x, y))
    return found


RATES = [cosine(1e-2, 1e-3, 2, STEPS)(n) for n in range(STEPS)]


def trained(
    main: Path, given: list[tuple[np.ndarray, np.ndarray]], threads: int, seed: int = 0
) -> tuple[list[str], np.ndarray]:
    """What the C program prints, and the numbers that it writes."""
    parts = [(np.float32(lr), *pair) for lr, pair in zip(RATES, given, strict=True)]
    (main.parent / "in").write_bytes(b"".join(x.tobytes() for part in parts for x in part))
    command = [main, str(threads), str(len(given)), str(seed), "in", "out"]
    done = subprocess.run(command, cwd=main.parent, capture_output=True, text=True, env={},
                          check=True)  # fmt: skip
    return done.stdout.split(), np.fromfile(main.parent / "out", np.float32)


def numbers(trainer: Trainer, given: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Losses, norms and arrays of the same steps in Python."""
    trainer.schedule = lambda step: RATES[step - first]
    first, told = trainer.steps, []
    for x, y in given:
        told += [trainer.step(x, y), trainer.grad_norm]
    arrays = [trainer.arrays[x].reshape(-1) for x in (*trainer.trained, *trainer.state_names)]
    return np.concatenate([np.float32(told), *arrays])


TRAINERS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "sgd": {"optimizer": SGD(lr=0.1, momentum=0.9), "clip": None},
    "dropout": {"dropout": 0.3, "seed": 2**40 + 7},
    "accumulated": {"batch": 2, "accumulate": 3, "dropout": 0.1},
    "own loss": {"batch": 2, "accumulate": 2, "loss": F.cross_entropy},
    "bf16": {"pipeline": "train_bf16"},
    "8 bits": {"forward": "fake_quantize{bits=8}"},
}


@pytest.mark.parametrize("name", TRAINERS)
def test_c_trains_bitwise_as_python_does(name: str, tmp_path: Path) -> None:
    options = dict(TRAINERS[name])
    trainer = native(model=small_model(dropout=options.pop("dropout", 0.0)), **options)
    trainer.save_step(tmp_path / "step.so")
    main = compiled(tmp_path / "step.so")
    given = batches(trainer.batch * trainer.accumulate, ignored=trainer.accumulate > 1)
    want = numbers(trainer, given)
    for threads in (1, 2):
        told, found = trained(main, given, threads, trainer.seed)
        assert told == [*trainer.trained, *trainer.state_names, str(STEPS)]
        assert found.tobytes() == want.tobytes()
    trainer.save(tmp_path / "python.safetensors")
    assert (tmp_path / "saved").read_bytes() == (tmp_path / "python.safetensors").read_bytes()


@pytest.mark.parametrize("weights", ["embed", "file"])
def test_it_goes_on_from_the_state_that_was_saved(weights: str, tmp_path: Path) -> None:
    trainer = native()
    trainer.fit(TEXT, 3)
    trainer.save_step(tmp_path / "step.so", weights=weights)
    library = tmp_path / "step.so"
    if weights == "file":
        text = MAIN.replace("planish_create(NULL,", 'planish_create("step.weights",')
        assert text != MAIN
        (tmp_path / "main.c").write_text(text)
        subprocess.run(["cc", "-o", "main", "main.c", "./step.so", RPATH], cwd=tmp_path, check=True)
        main = tmp_path / "main"
    else:
        main = compiled(library)
    given = batches(trainer.batch)
    want = numbers(trainer, given)
    told, found = trained(main, given, 2)
    assert told[-1] == str(3 + STEPS) and found.tobytes() == want.tobytes()


def test_an_object_links_into_a_program(tmp_path: Path) -> None:
    trainer = native()
    trainer.save_step(tmp_path / "step.o")
    given = batches(trainer.batch)
    want = numbers(trainer, given)
    assert trained(compiled(tmp_path / "step.o"), given, 1)[1].tobytes() == want.tobytes()


@pytest.mark.usefixtures("uncached")
def test_the_same_trainer_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        native().save_step(tmp_path / name / "step.so")
    for name in ("step.so", "step.h"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(x.name for x in (tmp_path / "a").iterdir()) == ["step.h", "step.so"]
    facts = read_shared(tmp_path / "a" / "step.so").facts
    assert facts["kind"] == "step" and facts["arrays"]["wte.weight"] == [len(TOKENIZER), 8]
    assert "chunk,remat,fuse" in facts["pipeline"] and facts["training"]["clip"] == 1.0


@pytest.mark.parametrize(("options", "given", "error", "why"), [
    ({}, {"path": "x.dll"}, pl.ArtifactError, r"steps of training are saved as \.so, \.o, \.h"),
    ({}, {"path": "no/x.so"}, FileNotFoundError, "there is no folder"),
    ({}, {"weights": "both"}, pl.DataError, "weights are one of embed, file"),
    ({}, {"prefix": "a-b"}, pl.DataError, "a prefix is letters, digits and _"),
    ({}, {"target": "z80"}, pl.TargetError, "unknown target 'z80'"),
    ({"backend": "interpret"}, {}, pl.ArtifactError, "the trainer's backend is interpret"),
])  # fmt: skip
def test_what_cannot_be_saved_is_refused(
    options: dict[str, Any], given: dict[str, Any], error: type[Exception], why: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    given = {"path": "x.so", **given}
    with pytest.raises(error, match=why):
        native(**options).save_step(tmp_path / given.pop("path"), **given)
    assert not list(tmp_path.iterdir())


def test_the_command_line_writes_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_model()
    pl.save(model, tmp_path / "model.safetensors", tokenizer=TOKENIZER)
    given = ["compile", str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "step")]
    assert run([*given, "--emit", "so", "--of", "step", "--batch", "2"]) == 0
    assert "step.so: " in capsys.readouterr().out
    facts = read_shared(tmp_path / "step.so").facts
    assert (facts["kind"], facts["rows"]) == ("step", 2) and "remat" in facts["pipeline"]
    trainer = native(model=model, batch=2, optimizer=AdamW(betas=(0.9, 0.99), weight_decay=0.1))
    x, y = batches(2)[0]
    trainer.schedule = lambda step: 0.01
    assert pl.load(tmp_path / "step.so").step(x, y, lr=0.01) == trainer.step(x, y)
    assert run([*given, "--emit", "header", "--of", "step", "--pipeline", "O1"]) == 0
    for more, why in [
        (["--emit", "exe", "--of", "step"], r"steps of training are saved as .so, .o, .h"),
        (["--emit", "so", "--batch", "2"], "--batch is for --of step"),
        (["--emit", "so", "--of", "step", "--target", "multi"], "--of step is for one processor"),
        (["--emit", "so", "--of", "step", "--tokenizer", "x"], "--tokenizer is for what writes"),
    ]:
        capsys.readouterr()
        assert run([*given, *more]) == 2
        assert why in capsys.readouterr().err
