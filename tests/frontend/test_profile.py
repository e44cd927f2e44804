"""Profiles: what their rows add up to, what files they write, and the commands that show them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import planish as pl
import planish.numpy as pnp
from planish.frontend.cli import bench
from planish.frontend.cli import profile as command
from planish.frontend.cli.entry import run
from planish.frontend.cli.table import facts_text, show_table
from planish.frontend.workloads import WORKLOADS, workload
from planish.ir import plots
from planish.ir.errors import DataError, UnsupportedError
from planish.runtime.memory import LINGER, LINGERING, plan_memory
from planish.runtime.profile import Profile, Row, distances
from planish.runtime.recording import Span, blank, spans
from planish.runtime.roof import Reading, Roof

ROOF = Roof(
    1, 100e9, None, 300e9,
    (Reading("L1", 1 << 14, 4e11), Reading("L2", 1 << 20, 2e11), Reading("L3", 1 << 24, 1e11),
     Reading("middle", 1 << 26, 7e10), Reading("DRAM", 1 << 28, 5e10)), None,
)  # fmt: skip
LAYERS, WIDTH, CONTEXT = 2, 32, 16


@pytest.fixture(scope="module")
def model() -> pl.TinyGPT:
    return pl.TinyGPT(19, WIDTH, LAYERS, 2, CONTEXT, dropout=0.0)


@pytest.fixture(scope="module")
def prefill(model: pl.TinyGPT) -> Profile:
    return workload("prefill", model, threads=1).profile(2, ROOF)


def row(label: str, seconds: float = 1e-6, **facts: object) -> Row:
    return Row(label, "k", seconds, **{"flops": 10, "bytes": 20, **facts})  # type: ignore


def test_the_rows_of_a_model(prefill: Profile) -> None:
    (first, *_) = [x for x in prefill.rows if "mlp.c_fc" in x.label]
    assert first.layer == "h.0"
    assert first.flops == 2 * CONTEXT * WIDTH * 4 * WIDTH
    least = 4 * (CONTEXT * WIDTH + WIDTH * 4 * WIDTH + CONTEXT * 4 * WIDTH)
    assert least <= first.bytes <= 1.2 * least
    assert first.of_roof is not None and first.of_roof > 0
    assert first.flop_rate == pytest.approx(first.flops / first.seconds)
    assert sum(map(prefill.share, prefill.rows)) == pytest.approx(1)


def test_the_same_kernels_of_layers_are_one_row(prefill: Profile) -> None:
    whole = prefill.by_kernel()
    names = [x.label for x in whole.rows]
    (norm,) = (x for x in whole.rows if x.label == "h.*.ln_2.norm")
    assert norm.calls == LAYERS and norm.layer == "h.*" and len(names) == len(set(names))
    assert whole.seconds == pytest.approx(prefill.seconds)
    assert whole.total.flops == prefill.total.flops and whole.total.calls == len(prefill.rows)
    text = str(prefill)
    assert text.splitlines()[1].split()[:3] == ["label", "kernel", "calls"]
    assert text.splitlines()[-1].startswith("total")


def test_a_kernel_of_one_layer_names_it() -> None:
    found = Profile("p", (row("h.0.k"), row("h.1.k"), Row("h.1.k", "last", 1e-6, 1, 1)))
    assert [(x.label, x.kernel) for x in found.by_kernel().rows] == [
        ("h.*.k", "k"),
        ("h.1.k", "last"),
    ]


def test_layers_of_labels() -> None:
    found = [row(x).layer for x in ("h.3.attn.matmul", "ln_f.norm", "matmul", "blocks.12.x.add")]
    assert found == ["h.3", "ln_f", "", "blocks.12"]


def test_without_a_roof_there_is_no_percentage() -> None:
    found = Profile("p", (row("a"), row("b", ideal=1e-7)))
    assert found.total.of_roof is None and str(found).splitlines()[2].endswith(" -")
    assert found.rows[1].of_roof == pytest.approx(0.1)


def test_distances_are_what_was_touched_since() -> None:
    weight, other = ("param 0", 0, 1), ("param 1", 0, 1)
    a, b, both = ("arena", 0, 64), ("arena", 64, 128), ("arena", 32, 96)
    found = distances([{weight: 100, a: 64}, {a: 64, b: 64}, {other: 10, both: 64}])
    total = 100 + 64 + 64 + 64 + 10 + 64
    assert found[0][weight] == total + 164  # since the run before, and with what it touches itself
    assert found[1][a] == 164 + 128
    assert found[2][both] == 128 + 74  # overlaps what the step before wrote
    assert found[0][a] == 74 + 164


def test_a_trace_has_a_track_for_each_thread(prefill: Profile, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    prefill.by_kernel().trace(path)  # steps, whatever the table shows
    events = json.loads(path.read_text())["traceEvents"]
    names = {x["args"]["name"] for x in events if x["ph"] == "M"}
    assert names == {prefill.name, "thread 0"}
    steps = [x for x in events if x["ph"] == "X"]
    assert [x["name"] for x in steps] == [x.label for x in prefill.rows]
    assert {"h.0", "h.1", "ln_f", "model"} >= {x["cat"] for x in steps} >= {"h.0", "h.1"}
    ends = [x["ts"] + x["dur"] for x in steps]
    assert all(end <= x["ts"] + 1e-6 for end, x in zip(ends, steps[1:], strict=False))
    assert steps[0]["args"]["flops"] >= 0 and all(x["dur"] > 0 for x in steps)


def test_a_recording_shows_threads_side_by_side() -> None:
    program = pl.compile(lambda a, b: pnp.exp(a @ b) @ b, *[pl.spec((256, 256))] * 2, threads=2)
    a = np.ones((256, 256), np.float32)
    recorded = program.bind(a, a).recorded()
    assert {(x.thread, x.step) for x in recorded} == {
        (thread, step) for thread in (0, 1) for step in range(len(program.plan.steps))
    }
    for step, (one, other) in enumerate(zip(recorded[::2], recorded[1::2], strict=True)):
        assert 0 <= one.begin < one.end and 0 <= other.begin < other.end and one.step == step
    assert recorded[-1].begin >= max(x.end for x in recorded[:2])  # they meet between


def test_a_recording_leaves_out_who_had_no_share() -> None:
    words = blank(2, 2)
    words[2:] = [100, 200, 300, 0, 220, 105, 210, 222, 0, 221]  # start, ends, begins after meeting
    found = spans(words, 2, 2, 1e-8)
    assert found == (
        Span(0, 0, 0.0, pytest.approx(1e-6)),
        Span(1, 0, pytest.approx(5e-8), pytest.approx(1.1e-6)),
        Span(0, 1, pytest.approx(1.2e-6), pytest.approx(2e-6)),
    )


def test_a_roofline(prefill: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "roofline.svg"
    prefill.roofline(path)
    assert path.read_text().startswith("<?xml")
    Profile("empty", (row("copy", flops=0),)).roofline(tmp_path / "empty.png")
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"plots need matplotlib: pip install"):
        prefill.roofline(path)


def test_profile_of_a_compiled_function(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def roof(threads: int) -> Roof:
        asked.append(threads)
        return ROOF

    monkeypatch.setattr("planish.runtime.roofs.machine_roof", roof)
    program = pl.compile(lambda x: {"y": pnp.exp(x) @ x}, pl.spec((8, 8)), threads=1)
    found = program.profile(np.ones((8, 8), np.float32), repeat=2)
    assert found.roof is ROOF and asked == [1] and found.total.flops >= 2 * 8**3
    with pytest.raises(DataError, match="repeat must be a whole number"):
        program.profile(np.ones((8, 8), np.float32), repeat=0)


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads(name: str, model: pl.TinyGPT) -> None:
    before = [x.array.copy() for x in model.parameters()]
    task = workload(name, model, batch=2, length=7, threads=1)
    one, two = task.profile(2, ROOF), task.profile(2, ROOF)
    assert one.total.flops == two.total.flops > 0
    memory, tight = (plan_memory(task.bound.program.plan, linger=x) for x in (LINGER, 0))
    assert memory == task.bound.program.memory and memory.arena <= memory.peak + LINGER * LINGERING
    assert memory.peak <= tight.arena <= 1.15 * memory.peak
    assert task.tokens == (2 if name == "decode" else 14)
    assert all(np.array_equal(a, x.array) for a, x in zip(before, model.parameters(), strict=True))


def test_attention_of_decode_reads_what_is_in_the_cache(model: pl.TinyGPT) -> None:
    found = {}
    for length in (3, 11):
        rows = workload("decode", model, length=length, threads=1).profile(1).rows
        found[length] = next(x.bytes for x in rows if "attention" in x.label)
    assert found[11] - found[3] == 8 * 2 * WIDTH * 4  # keys and values of 8 more tokens


def test_products_of_bytes_are_judged_by_their_own_peak(model: pl.TinyGPT) -> None:
    rows = workload("prefill", model, pipeline="int8", threads=1).bound.work()
    (one, *_) = [x for x in rows if x.byte_dots]
    slow, fast = (replace(ROOF, int8=x).best(replace(ROOF, int8=1e6)) for x in (1e8, 1e9))
    assert one.ideal(slow) > 5 * one.ideal(fast) > one.ideal(replace(ROOF, int8=1e12))


def test_bad_workloads(model: pl.TinyGPT) -> None:
    for options in ({"length": 0}, {"length": CONTEXT}, {"batch": 0}):
        with pytest.raises(DataError, match=r"length is|batch is"):
            workload("decode", model, **options)
    with pytest.raises(DataError, match="unknown workload 'x'; known are prefill"):
        workload("x", model)


# Commands


@pytest.fixture
def file(model: pl.TinyGPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(command, "machine_roof", lambda threads: ROOF)
    monkeypatch.setattr(command, "SECONDS", 0.0)
    pl.save(model, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def test_the_profile_command(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, picture = tmp_path / "trace.json", tmp_path / "roofline.svg"
    wanted = ["profile", file, "--threads", "1"]
    assert run([*wanted, "--trace", str(trace), "--roofline", str(picture)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("prefill: batch 1, 16 tokens, 1 threads; ")
    assert (
        "h.0.mlp.c_fc" in out
        and "h.*.attn.attention" in out
        and "total" in out
        and "roof of 1 threads: FMA 100" in out
    )
    assert "int8 300 GOP/s" in out
    assert trace.exists() and picture.exists()
    assert run([*wanted, "--workload", "decode", "--steps", "--length", "5"]) == 0
    assert "h.1.mlp.c_proj" in capsys.readouterr().out
    assert run([*wanted, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["length"] == 16 and len(found["steps"]) > len(found["kernels"])
    assert {"label", "kernel", "layer", "calls", "seconds", "flops", "bytes", "share", "of_roof",
            "flop_rate", "byte_rate", "ideal"} == set(found["steps"][0])  # fmt: skip


def test_bad_options_of_profile(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, words in (
        (["--roofline", "x.txt"], "a plot is a .svg, .png, .pdf file, not 'x.txt'"),
        (["--trace", "no/such/x.json"], "there is no folder no/such"),
        (["--length", "17"], "length is a number of 1 <= length <= 16, got 17"),
        (["--batch", "0"], "batch is at least 1, got 0"),
        (["--workload", "sleep"], "'sleep' is not one of"),
    ):
        assert run(["profile", file, *options]) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    assert run(["profile", file, "--roofline", "x.svg"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_facts_that_are_empty_have_a_dash() -> None:
    told = facts_text({"a": [], "b": "", "c": None, "d": {}, "e": [1, "x"], "f": 0})
    assert [x.split(maxsplit=1)[1] for x in told.splitlines()] == ["-", "-", "-", "-", "1 x", "0"]


def test_names_in_tables_are_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    label = "h.*.mlp.c_fc." + "_".join(["matmul"] * 20)
    show_table("a title", ["label", "us"], [[label, "1.0"], ["total", "1.0"]], last_is_total=True)
    assert any(line.split() == [label, "1.0"] for line in capsys.readouterr().out.splitlines())


def test_the_bench_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "fresh_roof", lambda threads: ROOF)
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "QUICK", bench.QUICK[:2])
    small = replace(bench.PRESETS["nano"], width=16, layers=1, heads=2)
    monkeypatch.setitem(bench.PRESETS, "nano", small)
    assert run(["bench", "--quick", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    rows = [line.split("  ")[0].strip() for line in out.splitlines()]
    assert {"f32 multiply-add", "int8 dot product", "read DRAM, 256 MB"} <= {*rows}
    assert "nano decode f32" in rows and "300 GOP/s" in out
    assert run(["bench", "--quick", "--json", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["roofs"][0]["fma"] == 100e9
    assert [x["workload"] for x in found["workloads"]] == ["prefill", "decode"]
    assert all(x["tokens_per_second"] > 0 and x["ideal"] > 0 for x in found["workloads"])


def test_imports_are_light() -> None:
    heavy = "'numpy', 'llvmlite', 'networkx', 'rich', 'matplotlib', 'click'"
    for module, allowed in (("planish", 0), ("planish.frontend.cli", 1)):
        code = f"import sys, {module}; print([x for x in ({heavy}) if x in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == ("['click']\n" if allowed else "[]\n"), done.stderr
    code = f"""
import sys, numpy as np, planish as pl
pl.TinyGPT(9, 8, 1, 1, 8).generate(np.zeros(2, np.int32), 3)
print([x for x in ({heavy}) if x in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "['numpy', 'llvmlite']\n", done.stderr
    code = (
        "import sys, planish.frontend.cli.profile, planish.frontend.cli.bench; "
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
