"""Programs in the cache: the same numbers, with any weights, in any process, without LLVM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish as pl
import planish.numpy as pnp
from planish.frontend import kept
from planish.frontend.cli.entry import run
from planish.frontend.generate import Generator
from planish.frontend.recipes import Followed, NotFinite, Recipes
from planish.ir.graph import Graph
from planish.ir.parse import parse
from planish.ir.text import graph_text
from planish.passes.pipelines import PIPELINES, pipeline
from planish.runtime import build
from planish.runtime.cache import LIMIT, CacheWarning
from planish.runtime.image import Image
from planish.runtime.target import Target
from tests.frontend.small import TOKENS as TEXT
from tests.frontend.small import small_model, small_trainer

TOKENS = np.arange(6, dtype=np.int32)[None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / "cache"))
    Target.host()
    return tmp_path / "cache"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans that were compiled."""
    plans: list[Any] = []
    real = build._built

    def noted(plan: Any, *given: Any) -> Image:
        plans.append(plan)
        return real(plan, *given)

    monkeypatch.setattr(build, "_built", noted)
    return plans


def graph_of(seed: int = 0, most: int = 6) -> Graph:
    return pl.trace(small_model(seed=seed), pl.spec(("B", pl.Dim("T", max=most)), "i32"))


def key_of(graph: Graph, passes: pl.Pipeline, target: Target) -> str | None:
    return kept.key_of(graph, graph_text(graph), passes, target)


START, END = "simplify,fold,cse,expand,simplify,cse", "cse,fold,simplify,pushup,cse,chunk,fuse"


@pytest.mark.parametrize(
    "passes, message",
    [
        ("quantize{mode=static}", "quantize: mode=static has no calibration"),
        ("gptq{bits=8},quantize", "gptq: no calibration"),
        ("prune{ratio=0.5,method=wanda}", "prune: wanda needs text"),
        ("smooth", "smooth: no calibration"),
    ],
)
def test_the_text_of_a_bound_recipe_is_refused(folder: Path, passes: str, message: str) -> None:
    """In any process, whether the cache knows the program of the recipe or not."""
    model = small_model()
    text = f"smooth,{START},{END}" if passes == "smooth" else f"{START},{passes},{END}"
    bound = pl.calibrate(model, text, TEXT)
    assert bound.is_bound and not pipeline(str(bound)).is_bound
    pl.compile(graph_of(), pipeline=bound)
    assert [*folder.iterdir()]
    with pytest.raises(pl.PlanishError, match=message):
        pl.compile(graph_of(), pipeline=str(bound))
    model.generate([1, 2], 2, pipeline=bound)
    with pytest.raises(pl.PlanishError, match=message):
        model.generate([1, 2], 2, pipeline=str(bound))


@pytest.mark.parametrize("name", [n for n in PIPELINES if not n.startswith(("train", "sparse"))])
def test_other_weights_run_on_the_same_code(name: str, folder: Path, built: list[Any]) -> None:
    for seed in range(2):
        found = pl.compile(graph_of(seed), pipeline=name)(TOKENS)
        want = pl.compile(graph_of(seed), pipeline=name, cache=False)(TOKENS)
        assert np.array_equal(found, want)
    assert len(built) == 3  # once for the cache


def test_other_weights_lose_other_layers(folder: Path) -> None:
    """What goes is said by weights, not by the text that an entry is known by."""
    for least in range(2):
        model = small_model(num_layers=2)
        state = model.state_dict()
        model.load_state_dict(
            {n: x / np.float32(2) if n.startswith(f"h.{least}.") else x for n, x in state.items()}
        )
        graph = pl.trace(model, pl.spec(("B", pl.Dim("T", max=6)), "i32"))
        found = pl.compile(graph, pipeline="shrink{layers=0.5},O2")(TOKENS)
        small = pl.interpret(pipeline("shrink{layers=0.5}").run(graph), TOKENS)
        np.testing.assert_allclose(found, small, 1e-4, 1e-5)


def test_a_program_from_the_cache_explains_itself(folder: Path, built: list[Any]) -> None:
    first, second = (pl.compile(graph_of()) for _ in range(2))
    assert len(built) == 1
    assert first.explain() == second.explain() and first.assembly == second.assembly
    assert str(first.memory) == str(second.memory)
    assert [x.name for x in second.kernels] == [x.name for x in first.kernels]
    with pytest.raises(pl.TokenError, match="token id: index 999 at position 0, 3"):
        second(np.array([[1, 2, 3, 999]], np.int32))
    with pytest.raises(pl.ShapeError, match="T is 9, its maximum is 6"):
        second(np.zeros((1, 9), np.int32))


def test_results_have_the_form_that_the_function_returned(folder: Path, built: list[Any]) -> None:
    for _ in range(2):
        program = pl.compile(lambda x: {"a": x + 1, "b": (x.sum(),)}, pl.spec((3,)))
        found = program(np.ones(3, np.float32))
        assert list(found) == ["a", "b"] or set(found) == {"a", "b"}
    assert len(built) == 1


def test_training_resumes_on_kept_code(folder: Path, built: list[Any]) -> None:
    losses = []
    for _ in range(2):
        trainer = small_trainer(backend="native")
        trainer.fit(TEXT, steps=3)
        losses.append(trainer.losses)
    assert losses[0] == losses[1]
    assert len(built) == len({str(x.name) for x in built})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_cannot_be_rounded_are_refused_by_name(bad: float, folder: Path) -> None:
    graph = graph_of()
    pl.compile(graph, pipeline="int8")
    name = next(n for n in graph.params if n.endswith("c_fc.weight"))
    broken = graph.params[name].copy()
    broken[0, 1] = bad
    graph = replace(graph, params={**graph.params, name: broken})
    with pytest.raises(pl.DataError, match=f"quantize: {name} has {bad} at"):
        pl.compile(graph, pipeline="int8")


def test_weights_of_4_bits_are_made_again_of_others(folder: Path, built: list[Any]) -> None:
    for seed in range(2):
        model = pl.TinyGPT(70, 64, num_layers=1, num_heads=2, max_seq_len=8, dropout=0.0, seed=seed)
        graph = pl.trace(model, pl.spec(("B", pl.Dim("T", max=8)), "i32"))
        first, second = (pl.compile(graph, pipeline="int4") for _ in range(2))
        want = pl.compile(graph, pipeline="int4", cache=False)
        for program in (first, second):
            assert np.array_equal(program(TOKENS), want(TOKENS))
        assert sum(len(x.names) > 1 for x in second.image.made) == 4
    assert len(built) == 3


def test_layers_of_a_width_share_a_recipe() -> None:
    """Each weight is read once, some rows at a time, and becomes integers and their scales."""
    before, passes = graph_of(), pipeline("int8")
    after = passes.run(before)
    names = [n for n in after.params if n not in before.params]
    recipes = Recipes.of(names, before, after)
    assert recipes is not None
    assert len(recipes.texts) == len({x.inputs[0].shape[1] for x in map(parse, recipes.texts)}) == 2
    assert all("[N" in text for text in recipes.texts)
    assert sorted(n for x in recipes.steps for n in x.makes) == sorted(names)
    assert len({x.reads for x in recipes.steps}) == len(recipes.steps) == len(names) // 2
    found = recipes.follow(before.params)
    for name in names:
        assert found[name].tobytes() == after.params[name].tobytes(), name
        assert not found[name].flags.writeable
    known: Followed = {}
    first, second = (recipes.follow(before.params, known) for _ in range(2))
    assert len(known) == len(recipes.steps) and all(first[n] is second[n] for n in names)
    copies = {n: x.copy() for n, x in before.params.items()}
    assert all(recipes.follow(copies, known)[n] is not first[n] for n in names)
    broken = {**before.params, recipes.steps[0].reads[0]: np.full((70, 16), np.nan, np.float32)}
    with pytest.raises(NotFinite):
        recipes.follow(broken)


def halved(graph: Graph) -> Graph:
    return replace(graph, params={n: x / 2 for n, x in graph.params.items()})


def test_what_a_text_does_not_say_is_not_kept(folder: Path, built: list[Any]) -> None:
    passes = pl.Pipeline(halved) + pipeline("O2")
    assert key_of(graph_of(), passes, Target.host()) is None
    for seed in range(2):
        pl.compile(graph_of(seed), pipeline=passes)
    assert len(built) == 2 and not folder.exists()


@pytest.mark.parametrize("name", ["sparse", "sparse_int8", "prune{ratio=0.5},expand,fuse"])
def test_programs_that_depend_on_which_weights_are_0_are_not_kept(
    name: str, folder: Path, built: list[Any]
) -> None:
    """How many are decides what is stored, and which kernels read it."""
    model = pl.TinyGPT(70, embed_dim=64, num_layers=1, num_heads=2, max_seq_len=8, dropout=0.0)
    for ratio in (0.5, 0.0, 0.9):
        graph = pl.trace(pl.prune(model, ratio), pl.spec(("B", pl.Dim("T", max=8)), "i32"))
        found = pl.compile(graph, pipeline=name)(TOKENS)
        want = pl.compile(graph, pipeline=name, cache=False)(TOKENS)
        assert np.array_equal(found, want)
    assert len(built) == 6


@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_numbers_of_weights_in_the_code_are_not_shared(factor: float, folder: Path) -> None:
    """A scalar weight becomes a constant."""

    class Scaled(pl.nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.scale = pl.nn.Parameter(np.float32(value))

        def forward(self, x: Any) -> Any:
            return x * pnp.exp(self.scale)

    for value in (factor, factor + 1):
        found = pl.compile(Scaled(value), pl.spec((3,)))(np.ones(3, np.float32))
        assert np.allclose(found, np.exp(np.float32(value)))


def test_the_key_is_of_all_that_matters() -> None:
    graph, host = graph_of(), Target.host()
    keys = [
        key_of(graph, pipeline("O2"), host),
        key_of(graph, pipeline("O1"), host),
        key_of(graph, pipeline("O2"), Target.parse("x86-64-v3")),
        key_of(pl.trace(small_model(), pl.spec((1, 6), "i32")), pipeline("O2"), host),
        key_of(graph_of(most=5), pipeline("O2"), host),
    ]
    assert len(set(keys)) == len(keys) and None not in keys
    assert key_of(graph_of(1), pipeline("O2"), host) == keys[0]  # not of weights


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "swap"])
def test_row_31_damaged_entries_are_compiled_anew(
    damage: str, folder: Path, built: list[Any]
) -> None:
    want = pl.compile(graph_of())(TOKENS)
    pl.compile(graph_of(), pipeline="O1")
    first, second = sorted(folder.iterdir(), key=lambda x: x.stat().st_mtime_ns)
    data = bytearray(first.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    left = {"cut": bytes(data[: len(data) // 2]), "flip": bytes(data), "empty": b""}
    first.write_bytes(left.get(damage, second.read_bytes()))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert np.array_equal(pl.compile(graph_of())(TOKENS), want)
        assert np.array_equal(pl.compile(graph_of())(TOKENS), want)
    assert [x.category for x in told] == [CacheWarning]
    assert len(built) == 3


def test_off_by_one_option(folder: Path, built: list[Any]) -> None:
    for _ in range(2):
        pl.compile(graph_of(), cache=False)
    assert len(built) == 2 and not folder.exists()


WORK = """
import json, os, sys, threading
import numpy as np
import planish as pl
import planish.numpy as pnp
from tests.frontend.small import small_model

found = []
def work():
    program = pl.compile(lambda x: pnp.tanh(x) @ x.T, pl.spec((6, 9)))
    found.append(float(program(np.ones((6, 9), np.float32)).sum()))
threads = [threading.Thread(target=work) for _ in range(int(sys.argv[1]))]
[x.start() for x in threads]
[x.join() for x in threads]
model = small_model()
text = model.generate(np.zeros(2, np.int32), 3, seed=1).tolist()
print(json.dumps([sorted(set(found)), len(found), text, "llvmlite" in sys.modules]))
"""


def start(folder: Path, threads: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PLANISH_CACHE": str(folder)}
    command = [sys.executable, "-c", WORK, str(threads)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_row_34_many_processes_and_threads_compile_the_same_at_once(tmp_path: Path) -> None:
    running = [start(tmp_path / "cache", 8) for _ in range(4)]
    found = [json.loads(x.communicate(timeout=300)[0]) for x in running]
    assert all(x[:3] == found[0][:3] and x[1] == 8 for x in found)
    entries = list((tmp_path / "cache").iterdir())
    assert len(entries) == 5  # the function, prefill, decode, the pool, the machine
    last = json.loads(start(tmp_path / "cache", 1).communicate(timeout=300)[0])
    assert last == [found[0][0], 1, found[0][2], False]  # LLVM was not loaded


def test_images_come_back_as_they_were() -> None:
    maker = Generator(small_model(), options=("repetition_penalty",))
    for program in (maker.prefill, maker.decode, pl.compile(lambda x: x * 2, pl.spec(("N", "M")))):
        image = program.image
        again = Image.from_bytes(image.to_bytes())
        assert again == image
        data = image.to_bytes()
        for size in (0, 4, 8, 100, len(data) - 1):
            with pytest.raises(pl.ArtifactError, match="not a compiled program"):
                Image.from_bytes(data[:size])


def test_the_command_line_tells_what_is_kept_and_removes_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: str) -> str:
        assert run(["cache", *words]) == 0
        return capsys.readouterr().out

    pl.compile(graph_of())
    (folder / "mine.txt").write_text("not of planish")
    kept_now = [x for x in folder.iterdir() if x.name != "mine.txt"]
    facts = json.loads(told("info", "--json"))
    assert facts == {"folder": str(folder), "entries": len(kept_now), "limit": LIMIT,
                     "bytes": sum(x.stat().st_size for x in kept_now)}  # fmt: skip
    assert facts["entries"] >= 1 and facts["bytes"] > 1000
    assert str(folder) in told("info")
    assert told("clear") == f"{len(kept_now)} removed\n"
    assert [x.name for x in folder.iterdir()] == ["mine.txt"]
    assert told("clear") == "0 removed\n"
    monkeypatch.setenv("PLANISH_CACHE", "off")
    facts = json.loads(told("info", "--json"))
    assert (facts["folder"], facts["entries"], facts["bytes"]) == (None, 0, 0)
    assert told("clear") == "0 removed\n"
    assert run(["cache"]) == 2
    assert capsys.readouterr().err == "planish cache: Missing command. (see planish cache --help)\n"
