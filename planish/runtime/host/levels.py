"""Which programs of an artifact run: those of the best level that the processor has.

A level is a set of instructions, "x86-64-v3", say. Later ones are better; an artifact for one kind
of processor has one. PLANISH_LEVEL names another than the best, to compare them.
"""

from __future__ import annotations

from planish.runtime.host.cpu import missing, tiles_allowed
from planish.runtime.host.language import Ptr, Text, i64, local, null, text, u8
from planish.runtime.host.libc import getenv, snprintf, strcmp
from planish.runtime.host.records import Level, Tables

NAMES = 256  # bytes of a list of names in a message


def wanted_level() -> Text:
    """The level that somebody asks for, or null."""
    named = getenv(text("PLANISH_LEVEL"))
    if named == null or named[0] == 0:
        return null
    return named


def is_known(tables: Tables, name: Text, out: Ptr[u8], room: i64) -> bool:
    """Whether there is such a level; if not, `out` lists those there are."""
    names = local(u8, NAMES)
    at = 0
    for n in range(tables.level_count):
        level = tables.levels[n]
        if strcmp(level.name, name) == 0:
            return True
        before = text(", ") if n > 0 else text("")
        if at < NAMES:
            at += i64(snprintf(names + at, NAMES - at, text("%s%s"), before, level.name))
    form = text("PLANISH_LEVEL is %.100s, but this program has code for %s")
    snprintf(out, room, form, name, names)
    return False


def best_level(tables: Tables, name: Text, out: Ptr[u8], room: i64) -> Level:
    """The last level that this processor runs, of those called `name` if it is not null.

    null if there is none: `out` says what the first of them lacks.
    """
    n = tables.level_count
    while n > 0:
        n -= 1
        level = tables.levels[n]
        if name != null and strcmp(level.name, name) != 0:
            continue
        if runs_here(level, out, room):
            return level
    return null


def runs_here(level: Level, out: Ptr[u8], room: i64) -> bool:
    """Whether the processor has what the code needs; if not, `out` says what it lacks."""
    names = local(u8, NAMES)
    if missing(level.needs, level.need_count, names, NAMES) > 0:
        form = text("this program is for processors with %s, which this one lacks")
        snprintf(out, room, form, names)
        return False
    if level.tiles != 0 and not tiles_allowed():
        form = text("this program needs tile registers (AMX), which the system does not allow")
        snprintf(out, room, form)
        return False
    return True
