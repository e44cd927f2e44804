"""What host code asks the processor, beside what the system says of it; and keys of seeds."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import numpy as np
import pytest

from planish.frontend.sampling import row_keys
from planish.runtime.cpus import CPUS
from planish.runtime.elf import loaded
from planish.runtime.host import cpu, keys, libc
from planish.runtime.host.compiler import Source, baseline, host_text, source_of
from planish.runtime.llvm import compile_text
from planish.runtime.ship.processor import needed, probe_text
from planish.runtime.target import Target, available_cores, missing_here

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for Linux")

WRAPPED = """
@export
def probe(leaf: u32, sub: u32, register: u32) -> u32:
    return planish_probe(leaf, sub, register)

@export
def count() -> i64:
    return cores()

@export
def beside(here: i64, number: i64) -> i64:
    return core_beside(here, number)

@export
def move(core: i64) -> i64:
    move_to(core)
    return i64(sched_getcpu())

@export
def key(seed: u64, row: u32, out: Ptr[u32]) -> None:
    set_key(seed, row, out)
"""


@pytest.fixture(scope="module")
def code() -> Any:
    target = baseline(Target.host())
    sources = [*map(source_of, (libc, cpu, keys)), Source("test.py", WRAPPED)]
    given = {"planish_probe": probe_text(target)}
    return loaded([compile_text(host_text(sources, given), target)], target)


def test_the_processor_says_what_the_system_says(code: Any) -> None:
    host = Target.host()
    probe = ctypes.CFUNCTYPE(ctypes.c_uint32, *[ctypes.c_uint32] * 3)(code.address("probe"))
    known = {x for arch, listed in CPUS.values() if arch == host.arch for x in listed.split()}
    words = needed(host, known | host.features)
    named = {name.partition(" ")[0] for name, *_ in words}
    assert known <= named, "every feature that a kernel may use has a word"
    # not said, or switched off: xsaves where a processor has a fault in it (Zen 1)
    silent = {"64bit", "prefetchi", "amx-tile", "amx-bf16", "amx-int8", "xsaves"}
    for name, leaf, sub, register, mask in words:
        there = probe(leaf, sub, register) & mask == mask
        feature = name.partition(" ")[0]
        if feature not in silent:
            assert there == (not missing_here([feature])), name


def test_a_leaf_beyond_the_last_says_nothing(code: Any) -> None:
    probe = ctypes.CFUNCTYPE(ctypes.c_uint32, *[ctypes.c_uint32] * 3)(code.address("probe"))
    assert Target.host().arch != "x86_64" or probe(0x7FFFFFFF, 0, 0) == 0


def test_cores_are_those_of_this_process(code: Any) -> None:
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(code.address("count"))() >= available_cores()


def test_threads_begin_on_cores_of_their_own(code: Any) -> None:
    """And may be moved later: what the process may use stays."""
    beside = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 2)(code.address("beside"))
    move = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code.address("move"))
    ours = sorted(os.sched_getaffinity(0))
    for here in ours:
        others = [x for x in ours if x != here]
        assert [beside(here, n) for n in range(len(ours))] == [*others, -1]
        assert move(here) in ours and sorted(os.sched_getaffinity(0)) == ours
    assert move(-1) in ours


@pytest.mark.parametrize("seed", [0, 1, 7, 2**32, 2**63 + 12345, 2**64 - 1])
def test_keys_are_those_of_python(code: Any, seed: int) -> None:
    kind = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
    found = np.zeros((3, 2), np.uint32)
    for row in range(3):
        kind(code.address("key"))(seed, row, found[row].ctypes.data)
    assert np.array_equal(found, row_keys(seed, 3))
