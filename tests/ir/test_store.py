"""Graphs as files: round trip, atomic replacement, refusal of what is not a graph."""

import os
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from planish.ir import store
from planish.ir import types as t
from planish.ir.errors import ArtifactError, IRError
from planish.ir.evaluate import evaluate
from planish.ir.graph import Graph
from planish.ir.node import OPS
from planish.ir.ops.base import as_node
from planish.ir.ops.elementwise import add
from planish.ir.ops.leaf import param
from planish.ir.parse import parse
from planish.ir.store import load_graph, save_graph
from planish.ir.types import TensorType


def sample(scale=1.0):
    arrays = {
        "h.0.w": np.arange(3, dtype=np.float32) * np.float32(scale),
        'odd "name"\n': np.ones(3, ml_dtypes.bfloat16),
        "small": np.array([-8, 0, 7], ml_dtypes.int4),
        "scalar": np.array(2.0, np.float32),
    }
    nodes = [
        param(name=name, type=TensorType(t.dtype(a.dtype), a.shape)) for name, a in arrays.items()
    ]
    total = as_node(nodes[0], t.f32)
    for node in nodes[1:]:
        total = add(total, as_node(node, t.f32))
    return Graph("f", (), (total,), {**arrays, "unread": np.zeros(1)})


@pytest.mark.parametrize("name", ["g.safetensors", "folder", "new/deep/folder"])
def test_a_graph_comes_back_whole(tmp_path, name):
    g = sample()
    save_graph(g, tmp_path / name)
    back = load_graph(tmp_path / name)
    assert str(back) == str(g) and "unread" not in back.params
    for key, array in back.params.items():
        assert array.dtype == g.params[key].dtype and not array.flags.writeable
        np.testing.assert_array_equal(array, g.params[key])
    np.testing.assert_array_equal(evaluate(back)[0], evaluate(g)[0])
    save_graph(sample(2.0), tmp_path / name)
    assert load_graph(tmp_path / name).params["h.0.w"][2] == 4
    if "folder" in name:
        assert len(list((tmp_path / name).iterdir())) == 2


@pytest.mark.parametrize("name", ["g.safetensors", "folder"])
def test_a_failed_save_leaves_the_old_graph(tmp_path, name, monkeypatch):
    path = tmp_path / name
    save_graph(sample(), path)

    def full(fd):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_graph(sample(2.0), path)
    monkeypatch.undo()
    assert load_graph(path).params["h.0.w"][2] == 2
    assert not [x for _, _, files in os.walk(tmp_path) for x in files if x.startswith(".")]


def test_a_link_is_replaced_and_its_target_untouched(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "g.safetensors").symlink_to(tmp_path / "target")
    save_graph(sample(), tmp_path / "g.safetensors")
    assert (tmp_path / "target").read_text() == "mine"
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(OSError, match=r"d\.safetensors is a folder"):
        save_graph(sample(), tmp_path / "d.safetensors")


def test_cut_files_and_other_files_are_refused_by_name(tmp_path):
    path = tmp_path / "g.safetensors"
    save_graph(sample(), path)
    data = path.read_bytes()
    others = [data[:n] for n in range(0, len(data), 7)]
    others += [
        pickle.dumps({"a": 1}),
        b"PK\3\4" + data,
        b"\xff" * 64,
        (2**63).to_bytes(8, "little") + b"{}",
        data + b"tail",
        safetensors.numpy.save({"w": np.zeros(2)}),
        safetensors.numpy.save({}, {store.KEY: "graph f() { retrn }"}),
        safetensors.numpy.save({}, {store.KEY: str(sample())}),
        safetensors.numpy.save({"w": np.zeros(2)}, {store.KEY: "graph f() { return }"}),
        safetensors.numpy.save(
            {"w": np.zeros(2)}, {store.KEY: "graph f() { %w = param : f32[2] return %w }"}
        ),
    ]
    for other in others:
        path.write_bytes(other)
        with pytest.raises(ArtifactError, match=r"g\.safetensors: "):
            load_graph(path)


def test_damaged_folders_are_refused(tmp_path):
    save_graph(sample(), tmp_path)
    (weights,) = tmp_path.glob("weights-*")
    good, text = weights.read_bytes(), (tmp_path / "graph.ir").read_text()
    weights.write_bytes(good[:-1] + b"\xff")
    with pytest.raises(ArtifactError, match="missing or damaged"):
        load_graph(tmp_path)
    weights.write_bytes(good)
    for bad in (
        "# ../../etc/passwd\n" + text,
        "",
        "\udcff",
        "# weights-0123456789abcdef.safetensors\n",
    ):
        (tmp_path / "graph.ir").write_bytes(bad.encode(errors="surrogateescape"))
        with pytest.raises(ArtifactError):
            load_graph(tmp_path)
    with pytest.raises(ArtifactError, match=r"has no graph\.ir"):
        (tmp_path / "empty").mkdir()
        load_graph(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        load_graph(tmp_path / "nothing")


def test_a_graph_without_its_weights_is_not_saved(tmp_path):
    with pytest.raises(IRError, match="has no array"):
        save_graph(parse("graph f() { %w = param : f32[2] return %w }"), tmp_path / "g")


@pytest.mark.parametrize("size", [0, 1, 6, 7])
@pytest.mark.parametrize("name", ["g.safetensors", "g"])
def test_four_bits_take_half_a_byte(tmp_path: Path, size: int, name: str) -> None:
    values = (np.arange(size) * 5 % 16 - 8).astype(t.i4.numpy)
    w = OPS["param"](name="w", type=TensorType(t.i4, (size,)))
    save_graph(Graph("f", (), (OPS["cast"](w, dtype=t.i8),), {"w": values}), tmp_path / name)
    back = load_graph(tmp_path / name).params["w"]
    assert back.dtype == t.i4.numpy and back.tolist() == values.tolist()
    file = tmp_path / name if name.endswith(".safetensors") else next(tmp_path.glob("g/weights-*"))
    with safetensors.safe_open(file, framework="np") as stored:
        assert stored.get_tensor("w").nbytes == (size + 1) // 2
