"""What became of kernels: no call leaves the code, hot loops are made of vector instructions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import pytest

import planish as pl
from planish.frontend.generate import graphs
from planish.frontend.optim import AdamW
from planish.frontend.step import training_graph
from planish.ir.graph import Graph
from planish.runtime import build
from planish.runtime.lower import lower
from planish.runtime.target import Target

OURS = re.compile(r"planish[._]\w+|k\d+_\w+")
BRANCH = re.compile(
    r"(?:j\w+|b\.\w+|b|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,|b\w+(?:\s+\w+,)+)\s+(\.\w+)$"
)
CALL = re.compile(r"(?:call\w*|bl)\s+(.*)")
# target -> (pipeline, what the hot loop of a matrix product is made of)
PRODUCTS = {
    "znver4": {
        "O2": r"vfmadd\w+ps.*%zmm", "bf16": r"vdpbf16ps.*%zmm", "train": r"vfmadd.*%zmm",
        "int8": r"vpdpbusd.*%zmm", "int4": r"vpdpbusd.*%zmm",
    },
    "x86-64-v4": {"O2": r"vfmadd\w+ps.*%zmm", "train": r"vfmadd\w+ps.*%zmm"},
    "x86-64-v3": {"O2": r"vfmadd\w+ps.*%ymm", "train": r"vfmadd\w+ps.*%ymm"},
    "aarch64:neoverse-n1": {
        "O2": r"fmla\s+v\d+\.4s", "train": r"fmla\s+v\d+\.4s", "int8": r"sdot\s+v\d+\.4s",
    },
    "cortex-a72": {"O2": r"fmla\s+v\d+\.4s"},
    "riscv64": {"O2": r"fmadd\.s"},  # without vectors: a register has one number
}  # fmt: skip
SPILLED = re.compile(r"[zy]mm.*%rsp|%rsp.*[zy]mm|q\d+, \[sp|\(sp\)|v[ls]\dr")
MOVED = re.compile(r"vpbroadcastd\s+%[er]\w+, %zmm")  # A waits for registers of integers
CASES = [(target, pipeline) for target, known in PRODUCTS.items() for pipeline in known]
PAIRS = r"vpmadd(?:wd|ubsw).*%ymm"  # what multiplies bytes where no instruction is a dot product
# kernel -> the pipeline it is in, instructions that its loops have on a machine with AVX-512
ROWS = {
    "attention": ("O2", r"vfmadd\w+ps.*%zmm"),
    "attention_grad": ("train", r"vfmadd\w+ps.*%zmm"),
    "norm": ("O2", r"v(?:fmadd\w+|add|sub|mul)ps.*%zmm"),
    "softmax": ("softmax", r"vfmadd\w+ps.*%zmm"),
    "logsumexp": ("train", r"vfmadd\w+ps.*%zmm"),
    "update": ("train", r"v(?:fn?m\w+|add|mul|sub|div|sqrt)ps.*%zmm"),
    "square_sum_parts": ("train", r"v(?:fmadd\w+|add|mul)ps.*%zmm"),
    "scatter_add": ("train", r"vaddps.*%zmm"),  # the gradient of an embedding
    "kth_largest": ("O2", r"vp(?:cmp\w+|sub[dq]).*%[yz]mm"),
    "nucleus": ("O2", r"v(?:pcmp\w+|addps).*%zmm"),
    "random_bits": ("O2", r"vp(?:add|rol|xor|ternlog)d.*%zmm"),
    "ge_select": ("O2", r"v(?:cmp|blend)\w+.*%zmm"),
    "argmax": ("O2", r"vpmin\w+.*%zmm"),
}


def traced(pipeline: str) -> Iterator[Graph]:
    """Programs of a small model: prompt and token, or a training step; or softmax alone."""
    if pipeline == "softmax":
        yield pl.trace(lambda x: pl.nn.functional.softmax(x, axis=-1), pl.spec((64, 512)))
        return
    model = pl.TinyGPT(300, 192, num_layers=1, num_heads=3, max_seq_len=32, dropout=0.0)
    if pipeline == "train":
        yield training_graph(model, AdamW(), 2, 32)
    else:
        made = graphs(model, 1, 32)
        yield from (made["prefill"], made["decode"])


@cache
def optimised(pipeline: str) -> tuple[Graph, ...]:
    """They do not depend on the target."""
    passes = pl.PIPELINES["O2" if pipeline == "softmax" else pipeline]
    return tuple(map(passes.run, traced(pipeline)))


@cache
def functions(pipeline: str, target: str) -> dict[str, list[str]]:
    """The instructions and labels of every function, by name."""
    machine, found = Target.parse(target), {}
    for graph in optimised(pipeline):
        text = build.assembly(lower(graph, machine), machine)
        for part in re.split(r"\n(?=[A-Za-z_][\w.]*:\s)", text):
            name, _, body = part.partition(":")
            lines = (re.split(r"\s+(?:#|//)", x)[0].strip() for x in body.splitlines())
            kept = [x for x in lines if x and (x.startswith(".L") or not x.startswith((".", "#")))]
            if OURS.fullmatch(name):
                found[f"{graph.name}/{name}"] = kept
    return found


def loops(lines: list[str]) -> Iterator[list[str]]:
    """The bodies of innermost loops: from a label to a jump back to it, without another inside."""
    at = {line[:-1]: k for k, line in enumerate(lines) if line.endswith(":")}
    found = []
    for k, line in enumerate(lines):
        match = BRANCH.match(line)
        if match and at.get(match[1], k) < k:
            found.append((at[match[1]], k))
    for first, last in found:
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in found):
            yield lines[first : last + 1]


def share(loop: list[str], instruction: str) -> float:
    """How much of a loop is an instruction."""
    return sum(bool(re.search(instruction, x)) for x in loop) / len(loop)


def purest(lines: list[str], instruction: str) -> list[str]:
    """The loop that an instruction has the largest share of; all, where every loop is unrolled."""
    return max(loops(lines), key=lambda loop: share(loop, instruction), default=lines)


@pytest.mark.parametrize(("target", "pipeline"), CASES)
def test_products_are_loops_of_vector_instructions(target: str, pipeline: str) -> None:
    wanted = PRODUCTS[target][pipeline]
    found = functions(pipeline, target)
    products = {name: lines for name, lines in found.items() if "_matmul" in name}
    assert len(products) >= 4
    for name, lines in products.items():
        loop = purest(lines, wanted)
        assert share(loop, wanted) > 0.2, (name, loop)
        assert not [x for x in loop if SPILLED.search(x)], (name, loop)
        assert not [x for x in loop if MOVED.match(x)], (name, loop)


def test_products_on_riscv_are_loops_over_groups_of_registers() -> None:
    for name, lines in functions("O2", "rva23u64").items():
        if "_matmul" in name:
            loop = purest(lines, "vfmacc")  # of four registers each
            assert share(loop, "vfmacc") >= 0.1 and len(loop) < 40, (name, loop)
            assert not [x for x in loop if SPILLED.search(x)], (name, loop)


@pytest.mark.parametrize(("target", "pipeline"), CASES)
def test_no_kernel_calls_what_is_not_ours(target: str, pipeline: str) -> None:
    called = set()
    for name, lines in functions(pipeline, target).items():
        for line in lines:
            if match := CALL.match(line):
                callee = match[1].split("@")[0]
                kernel = "/k" in name
                assert OURS.fullmatch(callee) or (callee == "syscall" and not kernel), (name, line)
                called.add(callee)
    assert any(re.match(r"k\d+_", x) for x in called)


@pytest.mark.parametrize("kernel", ROWS)
def test_rows_are_vectors(kernel: str) -> None:
    pipeline, wanted = ROWS[kernel]
    found = functions(pipeline, "znver4")
    of_kernel = re.compile(rf"k\d+_(?:\w+_)?{kernel}(?!_grad|_parts)(?:_|$)")
    named = {name: x for name, x in found.items() if of_kernel.match(name.split("/")[1])}
    assert named, [*found]
    for name, lines in named.items():
        loop = purest(lines, wanted)
        assert share(loop, wanted) > 0.08, (name, loop)


@pytest.mark.parametrize("pipeline", ["int8", "int4"])
def test_products_of_bytes_are_made_of_pairs_where_no_instruction_is_a_dot(pipeline: str) -> None:
    found = functions(pipeline, "x86-64-v3")
    products = {name: lines for name, lines in found.items() if "_matmul" in name}
    assert len(products) >= 4
    for name, lines in products.items():
        loop = purest(lines, PAIRS)
        assert share(loop, PAIRS) > 0.15, (name, loop)
