"""What host code asks the processor, beside what the system says of it; and keys of seeds."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.frontend.sampling import row_keys
from planish.runtime.cpus import CPUS
from planish.runtime.elf import loaded
from planish.runtime.host import cpu, keys, libc, quota
from planish.runtime.host.compiler import Source, baseline, host_text, source_of
from planish.runtime.llvm import compile_text
from planish.runtime.ship.processor import needed, probe_text
from planish.runtime.target import Target, _cgroup_quota, available_cores, missing_here

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for Linux")

WRAPPED = """
@export
def probe(leaf: u32, sub: u32, register: u32) -> u32:
    return planish_probe(leaf, sub, register)

@export
def count() -> i64:
    return cores()

@export
def group(membership: Text, root: Text) -> i64:
    return granted(membership, root)

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
    sources = [*map(source_of, (libc, quota, cpu, keys)), Source("test.py", WRAPPED)]
    given = {"planish_probe": probe_text(target)}
    return loaded([compile_text(host_text(sources, given), target)], target)


def test_the_processor_says_what_the_system_says(code: Any) -> None:
    host = Target.host()
    probe = ctypes.CFUNCTYPE(ctypes.c_uint32, *[ctypes.c_uint32] * 3)(code.address("probe"))
    known = {x for arch, listed in CPUS.values() if arch == host.arch for x in listed.split()}
    words = needed(host, known | host.features)
    named = {name.partition(" ")[0] for name, *_ in words}
    assert known <= named, "every feature that a kernel may use has a word"
    # not said, or switched off where a processor has a fault: xsaves (Zen 1), rdseed (Zen 5)
    silent = {"64bit", "prefetchi", "amx-tile", "amx-bf16", "amx-int8", "xsaves", "rdseed"}
    for name, leaf, sub, register, mask in words:
        there = probe(leaf, sub, register) & mask == mask
        feature = name.partition(" ")[0]
        if feature not in silent:
            assert there == (not missing_here([feature])), name


def test_a_leaf_beyond_the_last_says_nothing(code: Any) -> None:
    probe = ctypes.CFUNCTYPE(ctypes.c_uint32, *[ctypes.c_uint32] * 3)(code.address("probe"))
    assert Target.host().arch != "x86_64" or probe(0x7FFFFFFF, 0, 0) == 0


def test_cores_are_those_of_this_process(code: Any) -> None:
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(code.address("count"))() == available_cores()


GROUPS = [
    ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n", "a/cpu.max": "max 100000\n"}, 2),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 1),
    ("0::/\n", {"cpu.max": "700000 100000\n"}, 7),
    ("0::/a\n", {"a/cpu.max": "300000 100000\n", "cpu.max": "200000 100000"}, 2),
    ("0::/a\n", {"a/cpu.max": "0 100000\n"}, 0),
    ("0::/a\n", {"a/cpu.max": "100 0\n"}, 0),
    ("0::/a\n", {"a/cpu.max": ""}, 0),
    ("0::/none", {}, 0),
    ("", {}, 0),
    ("nonsense\n::\n", {"cpu.max": "100000 100000\n"}, 1),
    ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "250000\n",
                            "cpu/x/cpu.cfs_period_us": "100000\n"}, 3),
    ("4:cpuacct,cpu:/x/y\n3:cpuset:/\n", {"cpu/x/cpu.cfs_quota_us": "100000\n",
                                          "cpu/x/cpu.cfs_period_us": "50000\n",
                                          "cpu/x/y/cpu.cfs_quota_us": "-1\n"}, 2),
    ("4:cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "100000\n",
                        "cpu/x/cpu.cfs_period_us": "50000\n"}, 0),
]  # fmt: skip


@pytest.mark.parametrize(("listed", "files", "want"), GROUPS)
def test_control_groups_grant_what_python_reads(
    code: Any, listed: str, files: dict[str, str], want: int, tmp_path: Path
) -> None:
    root, membership = tmp_path / "root", tmp_path / "cgroup"
    membership.write_text(listed)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(data)
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p, ctypes.c_char_p)
    found = kind(code.address("group"))(bytes(membership), bytes(root))
    assert found == want == math.ceil(_cgroup_quota(membership, root) or 0)


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
