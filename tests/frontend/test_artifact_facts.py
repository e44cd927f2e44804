"""What every artifact says of itself: how it is called, what it is made of, where it runs."""

from __future__ import annotations

import ctypes
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import planish as pl
from planish.frontend.bundle import FACTS
from planish.frontend.checkpoint import read_file, write_file
from planish.frontend.cli.entry import commands, run
from planish.passes.layers import Layer, Layers, report_text, reporter
from planish.passes.pipelines import PIPELINES
from planish.passes.speed import Speed
from planish.runtime.artifact import HEAD, VERSION, read_shared
from planish.runtime.host.abi import ABI
from planish.runtime.target import Target
from tests.frontend.small import TOKENIZER, small_model

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="host code is for Linux"),
]
TOKENS = np.arange(6, dtype=np.int32)[None]
TARGET = "x86-64-v2"


def graph() -> pl.Graph:
    return pl.trace(small_model(), pl.spec(("B", pl.Dim("T", max=6)), "i32"))


def program(path: Path, pipeline: str) -> None:
    pl.compile(graph(), pipeline=pipeline, target=TARGET).save(path)


def generator(path: Path, pipeline: str) -> None:
    pl.Generator(small_model(), pipeline, target=TARGET).save(path, TOKENIZER)


def bundle(path: Path, pipeline: str) -> None:
    pl.save_bundle(graph(), path, pipeline, [TARGET])


KINDS = {
    "program.so": program, "generator.so": generator, "generator": generator,
    "generator.o": generator, "x.bundle": bundle,
}  # fmt: skip


def inspected(path: Path, *more: str) -> str:
    done = CliRunner().invoke(commands, ["inspect", str(path), *more])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(("name", "save"), KINDS.items(), ids=KINDS)
def test_each_says_all_of_it(name: str, save: Callable, tmp_path: Path) -> None:
    path, seen = tmp_path / name, Layers()
    save(path, "int4")
    PIPELINES["int4"].run(graph(), observe=(seen,))
    facts = json.loads(inspected(path, "--json"))
    where = facts["programs"][TARGET] if save is bundle else facts
    target = Target.parse(TARGET)
    assert facts["abi"] >= 1 and facts["pipeline"] == str(PIPELINES["int4"])
    assert len(facts["graph_sha256"]) == 64
    assert where["triple"] == target.triple and where["cpu"] == target.cpu
    assert where["requires"] == [target.arch, *sorted(target.features)]
    assert where["memory"]["weights"] > 0 and where["memory"]["arena"] >= 0
    told = {x["name"]: x for x in facts["quantization"]}
    assert list(told) == [x.name for x in seen.found]
    for layer in seen.found:
        own = told[layer.name]
        assert (own["bits"], own["granularity"]) == (layer.bits, layer.granularity)
        if layer.name != "wpe.weight":  # which a generator has for more positions
            assert (own["sqnr"], own["bytes"], own["reason"]) == (
                layer.sqnr, layer.bytes, layer.reason
            )  # fmt: skip
    text = inspected(path)
    assert "SQNR dB" in text and "stays: groups of 64 do not divide" not in text
    assert len([x for x in text.splitlines() if x.startswith("h.0.")]) == 4
    assert sum(" others " in x for x in text.splitlines()) == 1  # biases and weights of norms


@pytest.mark.parametrize(("name", "save"), KINDS.items(), ids=KINDS)
def test_what_is_not_quantized_says_so(name: str, save: Callable, tmp_path: Path) -> None:
    save(tmp_path / name, "O2")
    assert json.loads(inspected(tmp_path / name, "--json"))["quantization"] == []
    assert inspected(tmp_path / name).splitlines()[-1].split() == ["quantization", "-"]


def test_a_calibrated_recipe_is_reported_as_it_ran(tmp_path: Path) -> None:
    model = small_model()
    recipe = pl.calibrate(model, "expand,quantize{mode=static},cse,fold,fuse", TOKENIZER.encode(
        "the quick brown fox "))  # fmt: skip
    pl.compile(graph(), pipeline=recipe).save(tmp_path / "x.so")
    facts = json.loads(inspected(tmp_path / "x.so", "--json"))
    assert "mode=static" in facts["pipeline"]
    assert {x["name"]: x["bits"] for x in facts["quantization"]}["h.0.mlp.c_fc.weight"] == 8


def test_levels_share_what_they_were_made_of(tmp_path: Path) -> None:
    machines = (TARGET, "x86-64-v3")
    path = tmp_path / "x.so"
    pl.Generator(small_model(), "int8").save(path, TOKENIZER, target=",".join(machines))
    facts = json.loads(inspected(path, "--json"))
    assert {x["bits"] for x in facts["quantization"]} == {8, 32}
    for name in machines:
        target, own = Target.parse(name), facts["levels"][name]
        assert (own["triple"], own["cpu"]) == (target.triple, target.cpu)
        assert own["requires"] == [target.arch, *sorted(target.features)]


def test_times_are_told_only_where_a_recipe_is_bound_to_some() -> None:
    assert {x["speed"] for x in reporter(graph(), PIPELINES["int8"])()} == {None}
    timed = Speed((2e-5, 1e-5), (3e-4, 2e-4))
    seen = Layers({"w": Layer("w", (4, 4), 8, "channel", 40.0, 32, 64, "product", timed)})
    text = report_text(json.loads(json.dumps(seen.records())))
    assert text == str(seen) and "20.0 > 10.0" in text


def test_c_is_told_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.so"
    pl.Generator(small_model(), "int8").save(path, TOKENIZER)
    tell = ctypes.CDLL(str(path)).planish_facts
    tell.restype = ctypes.c_char_p
    facts, listed = json.loads(tell()), json.loads(inspected(path, "--json"))
    for name in ("abi", "pipeline", "quantization"):
        assert facts[name] == listed[name]
    for name in ("triple", "cpu", "requires", "memory"):
        assert facts["levels"][0][name] == listed[name]
    assert facts["graph"] == listed["graph_sha256"]


# Programs that were loaded


def step(path: Path, pipeline: str) -> None:
    pl.Trainer(small_model(), batch=2, pipeline=pipeline).save_step(path, target=TARGET)


def with_abi(path: Path, abi: str) -> Path:
    """A library like this one of another ABI, with the right checksum."""
    found, data = read_shared(path), bytearray(path.read_bytes())
    at = data.index(found.head)
    magic, version, length, _ = HEAD.unpack(found.head)
    old = bytes(data[at + HEAD.size : at + HEAD.size + length])
    text = old.replace(f'"abi":{found.facts["abi"]}'.encode(), f'"abi":{abi}'.encode())
    assert len(text) == len(old) and text != old
    whole = hashlib.sha256(b"".join([text, *(x.tobytes() for x in found.weights)]))
    data[at : at + HEAD.size + length] = HEAD.pack(magic, version, length, whole.digest()) + text
    other = path.with_name("other.so")
    other.write_bytes(data)
    return other


@pytest.mark.parametrize(("save", "ours"), [
    (program, VERSION), (generator, ABI), (step, ABI),
])  # fmt: skip
def test_another_abi_is_refused_before_anything_runs(
    save: Callable, ours: int, tmp_path: Path
) -> None:
    path = tmp_path / "x.so"
    save(path, "train" if save is step else "O2")
    pl.load(path)
    other = with_abi(path, "7")
    why = rf"other\.so has ABI 7; this planish calls ABI {ours}: compile it again"
    with pytest.raises(pl.ArtifactError, match=why):
        pl.load(other)
    assert json.loads(inspected(other, "--json"))["abi"] == 7


def test_a_saved_generator_is_copied_not_saved_again(tmp_path: Path) -> None:
    generator(tmp_path / "a.so", "O2")
    with pytest.raises(pl.ArtifactError, match=r"a\.so is a library already: copy that file"):
        pl.load(tmp_path / "a.so").save(tmp_path / "again.so", TOKENIZER, weights="file")
    assert not (tmp_path / "again.so").exists()


def test_a_library_is_copied_not_saved_again(tmp_path: Path) -> None:
    program(tmp_path / "a.so", "O2")
    with pytest.raises(pl.ArtifactError, match="is in a library already: copy that file"):
        pl.load(tmp_path / "a.so").save(tmp_path / "again.so")
    assert not (tmp_path / "again.so").exists()


def test_a_program_of_a_bundle_becomes_a_library_with_the_same_report(tmp_path: Path) -> None:
    bundle(tmp_path / "x.bundle", "int8")
    found = pl.load(tmp_path / "x.bundle")
    found.save(tmp_path / "x.so")
    assert np.array_equal(pl.load(tmp_path / "x.so")(TOKENS), found(TOKENS))
    one, other = (json.loads(inspected(tmp_path / x, "--json")) for x in ("x.bundle", "x.so"))
    for name in ("pipeline", "graph_sha256", "quantization"):
        assert one[name] == other[name]


@pytest.mark.parametrize(("change", "why"), [
    ({"abi": 1}, f"a bundle of version 1; this planish runs version {VERSION}"),
    ({"abi": "9" * 99}, "a bundle of version '9999"),
    ({"quantization": [{"name": "x"}]}, "x.bundle: damaged: no report of quantization"),
    ({"quantization": 5}, "no report of quantization"),
])  # fmt: skip
def test_facts_of_another_kind_are_refused(
    change: dict[str, Any], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.bundle"
    bundle(path, "int8")
    file = read_file(path)
    facts = {**json.loads(file.metadata[FACTS]), **change}
    write_file(path, file.arrays, {**file.metadata, FACTS: json.dumps(facts)})
    assert run(["inspect", str(path)]) == 2
    told = capsys.readouterr().err
    assert why in told and len(told.splitlines()) == 1
