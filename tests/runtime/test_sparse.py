"""Products by weights without their zeros: the same bits as with them, on every processor."""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Iterator

import numpy as np
import pytest

import planish as pl
from planish.frontend.generate import graphs
from planish.ir import types as t
from planish.ir.errors import DataError, TargetError, TokenError
from planish.ir.graph import Graph
from planish.ir.loop_expand import SPARE
from planish.ir.node import OPS
from planish.ir.ops.sparse import WORD
from planish.ir.types import TensorType
from planish.passes.pipelines import PIPELINES
from planish.runtime import expansion, llvm, operands
from planish.runtime.bitmaps import bit_panels, block_panels, kept_rows
from planish.runtime.interpret import run_plan
from planish.runtime.kernels.blocks import quickest_width
from planish.runtime.lower import lower
from planish.runtime.plan import Plan
from planish.runtime.program import Program
from planish.runtime.target import Target
from tests.runtime.native import code_of, module_text, run_native

RNG = np.random.default_rng(0)
PAIRS = {"sparse": "O2", "sparse_int8": "int8"}  # and what does the same with zeros
ROWS = (1, 7, "T")
FULL = 0.0  # zeros: none but in the first half, so that vectors are full, or empty


@pytest.fixture(autouse=True)
def everything_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no cache held the small weights of tests."""
    monkeypatch.setattr(expansion, "CACHES", 0)


def product(rows: object, depth: int, columns: int, zeros: float) -> Graph:
    """x @ w.T for a weight [N, K] of which so many are 0."""
    rows = pl.Dim("T", max=16) if rows == "T" else rows
    x = OPS["input"](name="x", type=TensorType(t.f32, (rows, depth)))  # type: ignore[arg-type]
    w = RNG.standard_normal((columns, depth)).astype(np.float32)
    w[RNG.random(w.shape) < zeros] = 0
    if zeros == FULL:
        w[: columns // 2] = 0
    weight = OPS["param"](name="w", type=TensorType(t.f32, w.shape))
    y = OPS["matmul"](x, OPS["transpose"](weight, perm=(1, 0)))
    return Graph("f", (x,), (y,), {"w": w})


def is_sparse(plan: Plan) -> bool:
    return any("without zeros" in slot.name for step in plan.steps for slot in step.args)


def targets() -> Iterator[str]:
    for name in ("host", "x86-64-v4", "x86-64-v3"):
        try:
            Target.parse(name).require_host()
        except TargetError:
            continue
        yield name


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("pipeline", PAIRS)
@pytest.mark.parametrize("depth, columns, zeros", [
    (65, 64, 0.7), (33, 130, 0.5), (5, 1030, 1.0), (36, 150, FULL), (64, 70, 0.9999),
])  # fmt: skip
def test_the_same_bits_as_with_zeros(
    pipeline: str, rows: object, depth: int, columns: int, zeros: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    graph = product(rows, depth, columns, zeros)
    x = RNG.standard_normal((9 if rows == "T" else rows, depth)).astype(np.float32)
    after, known = PIPELINES[pipeline].run(graph), set()
    for name in targets():
        machine = Target.parse(name)
        with monkeypatch.context() as m:
            m.setattr(operands, "why_zeros", lambda *_: "")  # by other instructions, too
            m.setattr(operands, "may_skip", lambda *_: False)
            plan = lower(after, machine)
        assert is_sparse(plan)
        if code_of(plan, machine) in known:
            continue
        known.add(code_of(plan, machine))
        want = Program(lower(PIPELINES[PAIRS[pipeline]].run(graph), machine), machine, 1)(x)
        for threads in (1, 2):
            np.testing.assert_array_equal(Program(plan, machine, threads)(x), want)


@pytest.mark.parametrize("pipeline", PAIRS)
@pytest.mark.parametrize("rows", [2, 7])
def test_kernels_mean_the_same_to_the_interpreter(
    pipeline: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operands, "why_zeros", lambda *_: "")
    graph = product(rows, 36, 130, 0.7)
    x = RNG.standard_normal((rows, 36)).astype(np.float32)
    plan = lower(PIPELINES[pipeline].run(graph), Target.host())
    (want,) = run_plan(plan, x)
    found = Program(plan, threads=1)(x)
    np.testing.assert_allclose(found, want, 1e-6, 1e-6)


def blocky(graph: Graph, height: int, width: int, zeros: float) -> Graph:
    """The graph with so many blocks of its weight 0."""
    w = graph.params["w"].copy()
    for i in range(0, w.shape[0], height):
        for j in range(0, w.shape[1], width):
            if RNG.random() < zeros:
                w[i : i + height, j : j + width] = 0
    return Graph(graph.name, graph.inputs, graph.outputs, {"w": w})


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("pipeline", PAIRS)
@pytest.mark.parametrize("depth, columns, zeros", [(64, 128, 0.7), (65, 130, 0.6), (9, 1030, 1.0)])
def test_blocks_of_zeros_are_left_out(
    pipeline: str, rows: object, depth: int, columns: int, zeros: float
) -> None:
    graph = blocky(product(rows, depth, columns, 0.0), 64, 4, zeros)
    x = RNG.standard_normal((9 if rows == "T" else rows, depth)).astype(np.float32)
    after, known = PIPELINES[pipeline].run(graph), set()
    for name in targets():
        machine = Target.parse(name)
        plan = lower(after, machine)
        assert plan.steps[-1].label.endswith("without blocks of zeros")
        if code_of(plan, machine) in known:
            continue
        known.add(code_of(plan, machine))
        want = Program(lower(PIPELINES[PAIRS[pipeline]].run(graph), machine), machine, 1)(x)
        for threads in (1, 2):
            np.testing.assert_array_equal(Program(plan, machine, threads)(x), want)
    if rows == 7:
        np.testing.assert_allclose(run_plan(lower(after, Target.host()), x)[0], want, 1e-5, 1e-5)


def test_panels_without_rows_of_zeros() -> None:
    w = RNG.standard_normal((10, 70)).astype(np.float32)
    w[[1, 4], :64] = 0
    w[:, 64:] = 0
    w[3, 69] = -0.0
    places, starts, values = block_panels(w, 64, None)
    assert starts.tolist() == [0, 8, 9]
    assert places[:9].tolist() == [0, 2, 3, 5, 6, 7, 8, 9, 3]
    np.testing.assert_array_equal(values[:8], w[[0, 2, 3, 5, 6, 7, 8, 9], :64])
    assert kept_rows(w, 64) == 9 / 20 and kept_rows(w[:0], 64) == 0


def test_the_width_of_blocks_decides() -> None:
    """Narrow blocks want narrow tiles, which are slower: they gain where enough is left out."""
    znver4 = Target.parse("znver4")
    assert quickest_width(znver4, 256, {4: 0.3, 2: 0.3, 1: 0.3}) == 4
    assert quickest_width(znver4, 256, {4: 0.99, 2: 0.9, 1: 0.3}) == 1
    assert quickest_width(znver4, 256, {4: 1.0, 2: 1.0, 1: 1.0}) is None
    graph = blocky(product(256, 128, 256, 0.0), 16, 1, 0.7)
    step = lower(PIPELINES["sparse"].run(graph), znver4).steps[-1]
    assert step.label.endswith("blocks of zeros") and step.args[-1].type.shape[1:] == (16,)


def test_panels_hold_what_is_not_zero() -> None:
    words = RNG.integers(0, 2**32, (3, 70), dtype=np.uint64).astype(np.uint32)
    words &= RNG.integers(0, 2**32, words.shape, dtype=np.uint64).astype(np.uint32)
    words[1] = 0
    masks, starts, values = bit_panels(words, 64, 4 * words.size, None)
    assert masks.shape == (2, 3, 4)
    at, found = 0, []
    for word in masks.ravel().tolist():
        for bit in range(WORD):
            there = word >> bit & 1
            found.append(values[at] if there else 0)
            at += there
    wide = np.zeros((3, 128), np.uint32)
    wide[:, :70] = words
    panels = wide.reshape(3, 2, 64).swapaxes(0, 1)
    units = np.ascontiguousarray(panels).view(np.uint8).ravel()
    np.testing.assert_array_equal(np.uint8(found), units)
    assert starts[-1] == at and not values[at:].any()


INSTRUCTIONS = {
    ("znver4", "sparse"): "vexpandps", ("znver4", "sparse_int8"): "vpexpandb",
    ("x86-64-v4", "sparse"): "vexpandps", ("cascadelake", "sparse_int8"): "vpshufb",
    ("x86-64-v3", "sparse"): "vpshufb", ("x86-64-v3", "sparse_int8"): "vpshufb",
    ("aarch64", "sparse"): "tbl", ("neoverse-n1", "sparse_int8"): "tbl",
}  # fmt: skip


@pytest.mark.parametrize("target, pipeline", INSTRUCTIONS)
def test_an_instruction_expands(
    target: str, pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each vector of 16 lanes, or for each of its quarters; nothing goes lane by lane."""
    monkeypatch.setattr(operands, "why_zeros", lambda *_: "")
    machine, wanted = Target.parse(target), INSTRUCTIONS[target, pipeline]
    for rows in (1, 20):
        plan = lower(PIPELINES[pipeline].run(product(rows, 128, 64, 0.7)), machine)
        text = assembly(plan, machine)
        found = len(re.findall(rf"\b{wanted}\b", text))
        assert found >= (4 if wanted.startswith("v") and "expand" in wanted else 16)
        assert not re.search(r"vp?expand\w+\s+[^%\n]*\(", text)  # not from memory


def assembly(plan: Plan, target: Target) -> str:
    """The instructions of the last kernel, for any processor."""
    return llvm.assembly_text(module_text(plan.steps[-1].kernel, target), target)


@pytest.mark.parametrize("pipeline", PAIRS)
@pytest.mark.parametrize("rows", [1, 7])
def test_nothing_is_read_beyond_the_values(
    pipeline: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end where memory does, and so does what shuffles read."""
    monkeypatch.setattr(operands, "why_zeros", lambda *_: "")
    monkeypatch.setattr(operands, "may_skip", lambda *_: False)
    host = Target.host()
    plan = lower(PIPELINES[pipeline].run(product(rows, 64, 128, 0.95)), host)
    step = plan.steps[-1]
    arrays = [
        plan.params[x.index] if x.kind == "param" else np.zeros(x.type.shape, x.type.dtype.numpy)
        for x in step.args
    ]
    names = [buffer.name for buffer in step.kernel.params]
    at, starts = names.index("packed2"), arrays[names.index("packed1")]
    values, kept = arrays[at], int(starts[-1])
    ends = kept + SPARE // values.itemsize
    assert ends <= len(values)
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    page = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + mmap.PAGESIZE
    last = np.frombuffer(memory, values.dtype, mmap.PAGESIZE // values.itemsize)[-ends:]
    last[:] = values[:ends]
    arrays[at] = last
    libc = ctypes.CDLL(None)
    nothing, both = 0, mmap.PROT_READ | mmap.PROT_WRITE
    assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), nothing) == 0
    assert run_native(step.kernel, arrays, {}, host) == (0, 0, 0, 0)
    assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), both) == 0


def reason(graph: Graph, pipeline: str, target: str) -> str:
    """What the label of a product says."""
    label = lower(PIPELINES[pipeline].run(graph), Target.parse(target)).steps[-1].label
    return label[label.index("with") :]


def test_where_zeros_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing expands, where few are 0, and where caches hold all weights."""
    few, many = product(1, 128, 64, 0.16), product(1, 128, 64, 0.7)
    for target in ("znver4", "x86-64-v4", "cascadelake", "x86-64-v3", "znver1", "aarch64"):
        assert reason(many, "sparse", target) == "without zeros", target
    assert reason(many, "sparse_int8", "znver4") == "without zeros"
    wanted = r"with zeros: 8\d% are none, 1\d cycles for 64 bytes and not 1\d"
    assert re.fullmatch(wanted, reason(few, "sparse", "znver1"))
    found = reason(many, "sparse_int8", "znver1")
    assert re.fullmatch(r"with zeros: 3\d% are none, 2\d cycles for 64 bytes and not 1\d", found)
    none = "with zeros: x86-64-v2 has no instruction that expands"
    assert reason(many, "sparse", "x86-64-v2") == none
    monkeypatch.setattr(expansion, "CACHES", 2)
    wanted = "with zeros: caches hold all weights, 4 cycles for 64 bytes and not 3"
    assert reason(many, "sparse_int8", "znver4") == wanted
    program = pl.compile(many, pipeline="sparse_int8", target="znver4")
    assert wanted in program.explain()


def model() -> pl.TinyGPT:
    made = pl.TinyGPT(90, embed_dim=64, num_layers=2, num_heads=4, max_seq_len=32, dropout=0.0)
    return pl.prune(made, 0.7)


@pytest.mark.parametrize("pipeline", PAIRS)
def test_a_pruned_model(pipeline: str) -> None:
    """Its tokens are those of the pipeline with zeros, and what it stores is smaller."""
    small, prompt = model(), [1, 2, 3, 4, 5]
    found, want = (
        small.generate(prompt, 20, temperature=0.0, pipeline=p) for p in (pipeline, PAIRS[pipeline])
    )
    np.testing.assert_array_equal(found, want)
    for name, graph in graphs(small, 1, 32).items():
        before, after = (PIPELINES[p].run(graph) for p in (PAIRS[pipeline], pipeline))
        bitmaps = [x for x in after.params if x.endswith(".mask")]
        assert len(bitmaps) == 9, name  # four of each layer, and the table that is the head
        size = {g: sum(x.nbytes for x in g.params.values()) for g in (before, after)}
        assert size[after] < (0.5 if pipeline == "sparse" else 0.65) * size[before]
        host = Target.host()
        kernels = [len({step.kernel for step in lower(g, host).steps}) for g in (before, after)]
        assert kernels[1] <= kernels[0] + 2  # equal layers still share most of their kernels


def test_a_stored_graph_keeps_the_smaller_form(tmp_path) -> None:
    graph = PIPELINES["sparse_int8"].run(pl.trace(model(), pl.spec((1, "T"), "i32")))
    path = tmp_path / "small.safetensors"
    pl.save_graph(graph, path)
    again = pl.load_graph(path)
    assert set(again.params) == set(graph.params)
    for name, array in graph.params.items():
        np.testing.assert_array_equal(again.params[name], array)
    tokens = np.arange(7, dtype=np.int32)[None]
    np.testing.assert_array_equal(pl.interpret(again, tokens), pl.interpret(graph, tokens))


def test_a_damaged_bitmap_is_refused() -> None:
    """By whoever packs it, by the interpreter, and where a row is taken, by the program."""
    graph = PIPELINES["sparse"].run(product(1, 128, 64, 0.7))
    for name, at, value in (("w.starts", 3, 10**6), ("w.mask", 0, -1)):
        array = graph.params[name].copy()
        array[at] = value
        bad = Graph(graph.name, graph.inputs, graph.outputs, {**graph.params, name: array})
        with pytest.raises(DataError, match="do not fit a mask"):
            lower(bad, Target.host())
        with pytest.raises(DataError, match="do not fit a mask"):
            pl.interpret(bad, np.zeros((1, 128), np.float32))
    tokens = OPS["input"](name="tokens", type=TensorType(t.i32, (2,)))
    w = np.where(RNG.random((90, 64)) < 0.7, 0, 1).astype(np.float32)
    table = OPS["param"](name="w", type=TensorType(t.f32, w.shape))
    rows = OPS["take"](table, tokens, axis=0, what="token id")
    taken = PIPELINES["sparse"].run(Graph("f", (tokens,), (rows,), {"w": w}))
    ids = np.int32([3, 80])
    np.testing.assert_array_equal(pl.compile(taken, pipeline="O0")(ids), w[ids])
    starts = taken.params["w.starts"] + np.int32(10**6)
    bad = Graph("f", taken.inputs, taken.outputs, {**taken.params, "w.starts": starts})
    with pytest.raises(TokenError, match="value of a bitmap"):
        pl.compile(bad, pipeline="O0")(ids)
