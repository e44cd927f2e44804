"""The machine: the only file that looks at it, and at the environment.

A `Target` says for which processor code is made. `Target.parse("host")` is this machine;
`"x86-64-v3"`, `"znver4"`, `"aarch64:neoverse-n1"` and the other names of `CPUS` are processors
known by name, with exactly the features listed there, so that `require_host` can say whether code
may run before it runs; of other names LLVM is asked which of these features the processor has.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from planish.ir.errors import DataError, SizeError, TargetError
from planish.ir.later import later
from planish.ir.types import DType
from planish.runtime.cache import cache_at, digest
from planish.runtime.cpus import CPUS
from planish.runtime.version import llvm_version

if TYPE_CHECKING:
    from planish.runtime.cores import Core

asked = later("planish.runtime.asked")
cores = later("planish.runtime.cores")
platformdirs = later("platformdirs")
llvm = later("llvmlite.binding")  # LLVM is not needed where code comes from a cache

_ARCH_PRCTL_REQ_XTILEDATA = (158, 0x1023, 18)


@dataclass(frozen=True, slots=True)
class Target:
    """A processor to make code for: its name, LLVM triple and instruction-set features."""

    name: str
    triple: str
    cpu: str
    features: frozenset[str]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def host() -> Target:
        """This machine."""
        return _host()

    @staticmethod
    def parse(name: str | Target | None = None) -> Target:
        """The target called `name`; None asks PLANISH_TARGET, and then means the host."""
        if isinstance(name, Target):
            return name
        name = name if name is not None else os.environ.get("PLANISH_TARGET") or "host"
        if name == "host":
            return _host()
        arch, _, cpu = name.rpartition(":")
        vendor = _host().triple.split("-", 1)[1]
        if cpu not in CPUS or (arch and arch != CPUS[cpu][0]):
            return _asked(name, (arch,) if arch else tuple(_ANY), cpu, vendor)
        arch, features = CPUS[cpu]
        model = _ANY[arch] if arch in (cpu, "riscv64") else cpu
        return Target(cpu, f"{arch}-{vendor}", model, frozenset(features.split()))

    @property
    def arch(self) -> str:
        """The architecture: "x86_64", "aarch64" ..."""
        return self.triple.split("-", 1)[0]

    def has(self, feature: str) -> bool:
        """Whether the processor has the feature that LLVM calls `feature`."""
        return feature in self.features

    @property
    def has_fma(self) -> bool:
        """Whether a fused multiply-add is one instruction."""
        return self.arch in ("aarch64", "riscv64") or self.has("fma")

    @property
    def has_bf16_dot(self) -> bool:
        """Whether vdpbf16ps is faster than the two fma that it does.

        Twice as fast on Zen 4 (one a cycle), half as fast on Sapphire Rapids, which has a matrix
        unit instead: 110 GFLOP/s, where fma gives 220 and the matrix unit 3,000.
        """
        return self.has("avx512bf16") and not self.has("amx-bf16")

    @property
    def has_byte_dot(self) -> bool:
        """Whether vpdpbusd is there, which multiplies unsigned by signed bytes."""
        return self.has("avx512vnni") or self.has("avxvnni")

    @property
    def has_byte_pairs(self) -> bool:
        """Whether vpmaddubsw is there for whole vectors, which adds two products in 16 bits."""
        return self.has("avx512bw" if self.vector_bytes == 64 else "ssse3")

    @property
    def has_matrix(self) -> bool:
        """Whether there is a matrix unit for bf16 (AMX)."""
        return self.has("amx-bf16")

    @property
    def vector_bytes(self) -> int:
        """Bytes of the widest vector register; where there is none, of a register of f32."""
        if self.arch == "riscv64":
            return 16 if self.has("v") else 4
        return 64 if self.has("avx512vl") else 32 if self.has("avx2") else 16

    @property
    def core(self) -> Core:
        """What a core does in a cycle."""
        return cores.core(self.cpu)

    @property
    def vector_registers(self) -> int:
        """Number of vector registers."""
        return 32 if self.has("avx512vl") or self.arch in ("aarch64", "riscv64") else 16

    def lanes(self, dtype: DType) -> int:
        """Elements of `dtype` in one vector register."""
        return max(1, self.vector_bytes // max(1, dtype.bits // 8))

    @property
    def feature_text(self) -> str:
        """Features as LLVM takes them; whole 512-bit registers are wanted where there are any."""
        chosen = [f"+{name}" for name in sorted(self.features)]
        if self.vector_bytes == 64:
            chosen.append("-prefer-256-bit")
        return ",".join(chosen)

    def require_host(self) -> None:
        """TargetError unless code for this target can run here."""
        host = _host()
        if self.arch != host.arch:
            raise TargetError(f"code for {self} ({self.arch}) cannot run on {host.arch}")
        if missing := sorted(self.features - host.features):
            raise TargetError(f"code for {self} needs {', '.join(missing)}, which {host.cpu} lacks")


# architecture -> LLVM's name of any of its processors
_ANY = {"x86_64": "x86-64", "aarch64": "generic", "riscv64": "generic-rv64"}


@cache
def _asked(name: str, arches: Sequence[str], cpu: str, vendor: str) -> Target:
    """A target that LLVM knows: code for it uses those of our features that it has, no others."""
    for arch in filter(_ANY.__contains__, arches):
        triple = f"{arch}-{vendor}"
        parts = "asked", triple, cpu, llvm_version(), repr(CPUS)
        made = kept_in_cache(parts, partial(_features_text, triple, cpu))
        if (features := json.loads(made)) is not None:
            return Target(cpu, triple, _ANY[arch], frozenset(features))
    raise TargetError(
        f"unknown target {name!r}; known are host, {', '.join(CPUS)}, and names of LLVM such as "
        "alderlake and aarch64:cortex-a76"
    )


def _features_text(triple: str, cpu: str) -> bytes:
    return json.dumps(asked.features_of(triple, cpu)).encode()


@cache
def _host() -> Target:
    """What LLVM calls this machine: asked once for each processor, as LLVM takes long to load."""
    parts = "host", _machine_text(), llvm_version()
    found = kept_in_cache(parts, lambda: json.dumps(_described()).encode())
    triple, cpu, listed = json.loads(found)
    features = set(listed)
    if "amx-bf16" in features and not _may_use_tiles():
        features = {name for name in features if not name.startswith("amx-")}
    return Target("host", triple, cpu, frozenset(features))


def _described() -> tuple[str, str, list[str]]:
    """LLVM's triple of this process, and the name and the features of the processor."""
    features = {name for name, there in llvm.get_host_cpu_features().items() if there}
    triple = llvm.get_process_triple()
    if triple.startswith(("aarch64", "arm64")):
        triple = "aarch64-" + triple.split("-", 1)[1]
        features |= {"neon"}  # part of the baseline, not always reported
    return triple, llvm.get_host_cpu_name(), sorted(features)


_FLAGS = ("flags", "Features")
# The system's words for features that LLVM spells otherwise; and those for which it has no word
_SPELLED = {
    "pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "lahf_lm": "sahf", "abm": "lzcnt",
    "bmi1": "bmi", "amx_bf16": "amx-bf16", "amx_tile": "amx-tile", "amx_int8": "amx-int8",
    "rdrand": "rdrnd", "3dnowprefetch": "prfchw", "pclmulqdq": "pclmul", "sha_ni": "sha",
    "asimd": "neon", "asimddp": "dotprod", "asimdhp": "fullfp16", "atomics": "lse",
}  # fmt: skip
_UNSAID = frozenset({"64bit", "crc32", "prefetchi", "avx10.1"})


def missing_here(features: Iterable[str]) -> list[str]:
    """Those features, or architectures, that this processor lacks: the system says so, not LLVM."""
    listed = next((x for x in _machine_text().splitlines() if x.startswith(_FLAGS)), "")
    flags = {_SPELLED.get(x, x.replace("_", "")) for x in listed.partition(":")[2].split()}
    if "amx-bf16" in flags and not _may_use_tiles():
        flags = {x for x in flags if not x.startswith("amx-")}
    return sorted(set(features) - flags - _UNSAID - {platform.machine()})


def common_here() -> str:
    """A target of many processors that this one belongs to; found without LLVM."""
    arch = machine_arch()
    if arch != "x86_64":
        return arch
    return "x86-64-v2" if missing_here(("avx2", "bmi2", "fma")) else "x86-64-v3"


def _machine_text() -> str:
    """What the system says of the first processor, but for its speed at the moment."""
    first = _read(Path("/proc/cpuinfo")).split("\n\n")[0]
    kept = [line for line in first.splitlines() if not line.startswith(("cpu MHz", "bogomips"))]
    return "\n".join((platform.system(), platform.machine(), *kept))


def kept_in_cache(parts: Sequence[str], make: Callable[[], bytes]) -> bytes:
    """What `make` makes of these parts, kept in the user's cache."""
    return cache_at(cache_folder()).kept(digest(*parts), make)


def level_wanted() -> str | None:
    """The level of artifacts for several that somebody asks for: PLANISH_LEVEL."""
    return os.environ.get("PLANISH_LEVEL") or None


def perf_wanted() -> bool:
    """Whether somebody wants names of code for `perf`: PLANISH_PERF=1."""
    return os.environ.get("PLANISH_PERF", "") not in ("", "0")


def compiler_wanted() -> str:
    """The C compiler that somebody wants to link with, and its options: CC."""
    return os.environ.get("CC", "")


def machine_arch() -> str:
    """This machine's architecture, as targets call it."""
    return platform.machine().replace("arm64", "aarch64").replace("AMD64", "x86_64")


def cpu_name() -> str:
    """The processor's name, as its maker spells it."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or _host().cpu


def cache_sizes() -> tuple[int, int, int]:
    """Bytes of a core's L1 and L2 data caches and of the L3 that it has part in."""
    found = list(_COMMON_CACHES)
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, size = _read(folder / "level").strip(), _read(folder / "size").strip()
        if level in ("1", "2", "3") and "Instruction" not in _read(folder / "type"):
            number = size.removesuffix("K")
            if number.isdigit() and int(number):
                found[int(level) - 1] = int(number) << 10
    return found[0], found[1], found[2]


_COMMON_CACHES = (32 << 10, 1 << 20, 32 << 20)  # where the system does not tell


def cache_folder() -> Path | None:
    """Where planish may keep files of its own: PLANISH_CACHE, else the user's cache folder.

    None where PLANISH_CACHE is off.
    """
    named = os.environ.get("PLANISH_CACHE", "").strip()
    if named == "off":
        return None
    return Path(named) if named else Path(platformdirs.user_cache_dir("planish", appauthor=False))


def _may_use_tiles() -> bool:
    """Ask the system for tile registers, as Linux wants it before their first use."""
    if not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None).syscall(*_ARCH_PRCTL_REQ_XTILEDATA) == 0


def thread_count(wanted: int | None = None) -> int:
    """Threads to use: `wanted`, else PLANISH_THREADS, else all that we may use; never more."""
    there = available_cores()
    if wanted is not None:
        return min(_threads(wanted, "threads"), there)
    text = os.environ.get("PLANISH_THREADS", "").strip()
    if not text:
        return there
    try:
        number: object = int(text)
    except ValueError:
        number = text
    return min(_threads(number, "PLANISH_THREADS"), there)


def _threads(value: object, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise DataError(f"{name} must be a whole number of at least 1, got {value!r}")


def available_cores() -> int:
    """Cores that this process may use: its affinity, cut by its control group's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _granted()
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


@cache
def _granted() -> float | None:
    """What our control group grants, asked once: it takes as long as a token of a small model."""
    return _cgroup_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def need_memory(size: int, *what: object) -> None:
    """SizeError where `size` bytes are more than there are: the system might end the process."""
    most = memory_limit()
    if size > most:
        raise SizeError(
            f"{' '.join(map(str, what))} takes {size / 2**30:,.1f} GiB, more than the "
            f"{most / 2**30:,.1f} GiB that this process may use"
        )


@cache
def memory_limit() -> int:
    """Bytes that this process may use: the machine's, cut by its control group's limit."""
    most = 1 << 63
    with suppress(AttributeError, ValueError, OSError):  # no such question on this system
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(most, *_cgroup_memory(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))


def _cgroup_memory(membership: Path, root: Path) -> list[int]:
    """Limits of cgroup v2 (memory.max) or v1 (limit_in_bytes), at every level above us."""
    found = [1 << 63]
    for controllers, folder in _cgroup_folders(membership):
        if not controllers:
            found.append(_bytes(_read(root / folder / "memory.max")))
        elif "memory" in controllers:
            found.append(_bytes(_read(root / "memory" / folder / "memory.limit_in_bytes")))
    return found


def _bytes(text: str) -> int:
    return int(text) if text.strip().isdigit() else 1 << 63  # "max", or no such file


def _cgroup_folders(membership: Path) -> Iterator[tuple[list[str], str]]:
    """Our control groups and all above them: (controllers, none for v2; folder)."""
    for line in _read(membership).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        inside = path.strip("/").split("/") if path.strip("/") else []
        for depth in range(len(inside), -1, -1):
            yield controllers.split(",") if controllers else [], "/".join(inside[:depth])


def _cgroup_quota(membership: Path, root: Path) -> float | None:
    """Cores granted by cgroup v2 (cpu.max, at any level above us) or v1 (cfs_quota), or None."""
    found = []
    for controllers, folder in _cgroup_folders(membership):
        if not controllers:
            found.append(_ratio(*[*_read(root / folder / "cpu.max").split(), "", ""][:2]))
        elif "cpu" in controllers:
            v1 = root / "cpu" / folder
            quota, period = _read(v1 / "cpu.cfs_quota_us"), _read(v1 / "cpu.cfs_period_us")
            found.append(_ratio(quota.strip(), period.strip()))
    return min((x for x in found if x), default=None)


def _ratio(quota: str, period: str) -> float | None:
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max", -1, or no such file: no limit
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
