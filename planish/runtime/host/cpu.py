"""Which instructions this processor has, and how many cores this process may use."""

from __future__ import annotations

from planish.runtime.host.language import Ptr, Record, Text, extern, i64, local, text, u8, u32, u64
from planish.runtime.host.libc import sched_getaffinity, sched_setaffinity, snprintf, syscall
from planish.runtime.host.quota import granted

MASK_WORDS = 128  # cores by 64
ARCH_PRCTL = 158
REQUEST = 0x1023  # ARCH_REQ_XCOMP_PERM
TILES = 18


class Need(Record):
    """An instruction set: the word that says whether it is there, and the bits of it."""

    leaf: u32
    sub: u32
    register: u32
    mask: u32
    name: Text


# a word of what the processor says of itself, see `planish.runtime.ship.processor`
@extern
def planish_probe(leaf: u32, sub: u32, register: u32) -> u32: ...


def missing(needs: Ptr[Need], count: i64, out: Ptr[u8], room: i64) -> i64:
    """How many of these the processor lacks; `out` lists them by name."""
    absent = 0
    at = 0
    for n in range(count):
        need = needs[n]
        if planish_probe(need.leaf, need.sub, need.register) & need.mask == need.mask:
            continue
        before = text(", ") if absent > 0 else text("")
        absent += 1
        if at < room:
            at += i64(snprintf(out + at, room - at, text("%s%s"), before, need.name))
    return absent


def tiles_allowed() -> bool:
    """Ask the system for tile registers, as Linux wants it before their first use."""
    return syscall(ARCH_PRCTL, i64(REQUEST), i64(TILES)) == 0


def cores() -> i64:
    """Cores that this process may use: its affinity, cut by its control group's quota."""
    mask = local(u64, MASK_WORDS)
    if sched_getaffinity(0, MASK_WORDS * 8, mask) != 0:
        return 1
    found = 0
    for n in range(MASK_WORDS):
        word = mask[n]
        while word != 0:
            word &= word - 1
            found += 1
    most = granted(text("/proc/self/cgroup"), text("/sys/fs/cgroup"))
    found = most if 0 < most < found else found
    return found if found > 0 else 1


def core_beside(here: i64, number: i64) -> i64:
    """Of the cores of this process but `here`, the one with this number; -1 if there is none."""
    mask = local(u64, MASK_WORDS)
    if sched_getaffinity(0, MASK_WORDS * 8, mask) != 0:
        return -1
    left = number
    for core in range(MASK_WORDS * 64):
        if core != here and mask[core // 64] >> u64(core % 64) & 1 != 0:
            if left == 0:
                return core
            left -= 1
    return -1


def move_to(core: i64) -> None:
    """Go on on another core, which the system may change later.

    A new thread can begin on the core of the one that made it, and stays there for milliseconds:
    both are busy, as they wait for each other.
    """
    mask = local(u64, MASK_WORDS)
    only = local(u64, MASK_WORDS)
    if core < 0 or sched_getaffinity(0, MASK_WORDS * 8, mask) != 0:
        return
    only[core // 64] = u64(1) << u64(core % 64)
    if sched_setaffinity(0, MASK_WORDS * 8, only) == 0:
        sched_setaffinity(0, MASK_WORDS * 8, mask)
