"""Which instructions this processor has, and how many cores this process may use."""

from __future__ import annotations

from planish.runtime.host.language import Ptr, Record, Text, extern, i64, local, text, u8, u32, u64
from planish.runtime.host.libc import sched_getaffinity, snprintf, syscall

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
    """Cores that this process may use."""
    mask = local(u64, MASK_WORDS)
    if sched_getaffinity(0, MASK_WORDS * 8, mask) != 0:
        return 1
    found = 0
    for n in range(MASK_WORDS):
        word = mask[n]
        while word != 0:
            word &= word - 1
            found += 1
    return found if found > 0 else 1
