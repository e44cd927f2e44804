"""How many cores a control group grants, by the rule of `planish.runtime.target`."""

from __future__ import annotations

from planish.runtime.host.language import Ptr, Text, i32, i64, local, null, text, u8
from planish.runtime.host.libc import (
    READ_ONLY,
    calloc,
    close,
    free,
    open,
    read,
    snprintf,
    strtoll,
)

GROUP_BYTES = 8192  # bytes that are read of a file, and those of a path


def read_file(path: Text, out: Ptr[u8], room: i64) -> None:
    """The beginning of a file, and a zero byte; nothing where it cannot be read."""
    file = open(path, READ_ONLY)
    size = 0
    while file >= 0 and size < room - 1:
        more = read(file, out + size, room - 1 - size)
        if more <= 0:
            break
        size += more
    if file >= 0:
        close(file)
    out[size] = 0


def leading(start: Text, end: Ptr[Ptr[u8]]) -> i64:
    """Digits as a number, and where they end; 0 where there are none ("max", -1)."""
    return strtoll(start, end, 10) if ord("0") <= start[0] <= ord("9") else 0


def whole_cores(quota: i64, period: i64) -> i64:
    """Time in a period as cores, the last one maybe in part; 0: no limit."""
    return (quota + period - 1) // period if quota > 0 and period > 0 else 0


def fewer(a: i64, b: i64) -> i64:
    """The tighter of two limits."""
    return b if a == 0 or 0 < b < a else a


def at_folder(root: Text, size: i64, folder: Text, version: i64, path: Ptr[u8]) -> i64:
    """What the group in `size` bytes of folder grants: version 2's cpu.max, or 1's two files."""
    data = local(u8, 64)
    end = local(Ptr[u8], 1)
    if version == 2:
        snprintf(path, GROUP_BYTES, text("%s/%.*s/cpu.max"), root, i32(size), folder)
        read_file(path, data, 64)
        quota = leading(data, end)
        return whole_cores(quota, leading(end[0] + 1, end)) if quota > 0 else 0
    snprintf(path, GROUP_BYTES, text("%s/cpu/%.*s/cpu.cfs_quota_us"), root, i32(size), folder)
    read_file(path, data, 64)
    quota = leading(data, end)
    snprintf(path, GROUP_BYTES, text("%s/cpu/%.*s/cpu.cfs_period_us"), root, i32(size), folder)
    read_file(path, data, 64)
    return whole_cores(quota, leading(data, end))


def names_cpu(start: Text, size: i64) -> bool:
    """Whether a list of controllers with commas has that of cores."""
    at = 0
    while at + 3 <= size:
        ends = at + 3 == size or start[at + 3] == ord(",")
        if (
            ends
            and start[at] == ord("c")
            and start[at + 1] == ord("p")
            and start[at + 2] == ord("u")
        ):
            return True
        while at < size and start[at] != ord(","):
            at += 1
        at += 1
    return False


def of_line(line: Text, size: i64, root: Text, path: Ptr[u8]) -> i64:
    """What a line "id:controllers:path" leads to: the tightest limit of a group and those above."""
    first = 0
    while first < size and line[first] != ord(":"):
        first += 1
    second = first + 1
    while second < size and line[second] != ord(":"):
        second += 1
    if second >= size:
        return 0
    none = second == first + 1
    if not none and not names_cpu(line + first + 1, second - first - 1):
        return 0
    folder = line + second + 1
    left = size - second - 1
    while left > 0 and folder[0] == ord("/"):
        folder = folder + 1
        left -= 1
    found = 0
    while True:
        found = fewer(found, at_folder(root, left, folder, 2 if none else i64(1), path))
        if left == 0:
            return found
        while left > 0 and folder[left - 1] != ord("/"):
            left -= 1
        while left > 0 and folder[left - 1] == ord("/"):
            left -= 1


def granted(membership: Text, root: Text) -> i64:
    """Cores that the control groups listed in a file grant, part of one as a whole; 0: no limit."""
    listed = calloc(2, GROUP_BYTES)  # and room for a path: large locals take long to compile
    if listed == null:
        return 0
    read_file(membership, listed, GROUP_BYTES)
    found = 0
    line = listed
    while line[0] != 0:
        size = 0
        while line[size] != 0 and line[size] != ord("\n"):
            size += 1
        found = fewer(found, of_line(line, size, root, listed + GROUP_BYTES))
        line = line + size if line[size] == 0 else line + size + 1
    free(listed)
    return found
