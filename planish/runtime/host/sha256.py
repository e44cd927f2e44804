"""SHA-256 (FIPS 180-4), the checksum of checkpoints.

The numbers that it begins with, and those of its rounds, are parts of the roots of primes: tables
have them, see `planish.runtime.ship.checkpoint`.
"""

from __future__ import annotations

from planish.runtime.host.language import Const, Ptr, Record, i64, size_of, text, u8, u32, u64
from planish.runtime.host.libc import memcpy, memset, snprintf

BLOCK = 64  # bytes
ROUNDS = 64
WORDS = 8  # of the sum
DIGITS = 64  # of the sum


class Sum(Record):
    """A sum that is being made: of so many bytes, of which the last may wait in a block."""

    words: Ptr[u32]
    plan: Ptr[u32]
    block: Ptr[u8]
    numbers: Ptr[i64]
    size: u64


def sha_memory() -> i64:
    """The bytes that a sum takes."""
    return size_of(Sum) + 4 * (WORDS + ROUNDS) + BLOCK


def sha_begun(memory: Ptr[u8], numbers: Ptr[i64]) -> Sum:
    """The sum of nothing yet; `numbers` are the first words, then one for each round."""
    sum = Sum(memory)
    sum.words = Ptr[u32](memory + size_of(Sum))
    sum.plan = sum.words + WORDS
    sum.block = Ptr[u8](sum.plan + ROUNDS)
    sum.numbers = numbers
    sum.size = 0
    for n in range(WORDS):
        sum.words[n] = u32(numbers[n])
    return sum


def sha_add(sum: Sum, data: Const[u8], size: i64) -> None:
    """Go on with these bytes."""
    filled = i64(sum.size % BLOCK)
    sum.size += u64(size)
    at = 0
    if filled > 0:
        at = BLOCK - filled if BLOCK - filled < size else size
        memcpy(sum.block + filled, data, at)
        if filled + at == BLOCK:
            sha_stir(sum, sum.block)
    while size - at >= BLOCK:
        sha_stir(sum, data + at)
        at += BLOCK
    if at < size:
        memcpy(sum.block, data + at, size - at)


def sha_hex(sum: Sum, out: Ptr[u8]) -> None:
    """The sum, as so many digits and a zero byte."""
    bits = sum.size * 8
    filled = i64(sum.size % BLOCK)
    sum.block[filled] = 0x80
    filled += 1
    memset(sum.block + filled, 0, BLOCK - filled)
    if filled > BLOCK - 8:
        sha_stir(sum, sum.block)
        memset(sum.block, 0, BLOCK)
    for n in range(8):
        sum.block[BLOCK - 1 - n] = u8(bits >> u64(8 * n))
    sha_stir(sum, sum.block)
    for n in range(WORDS):
        snprintf(out + 8 * n, 9, text("%08x"), sum.words[n])


def sha_stir(sum: Sum, block: Const[u8]) -> None:
    """Go on with a whole block."""
    plan = sum.plan
    for n in range(16):
        at = block + 4 * n
        plan[n] = u32(at[0]) << 24 | u32(at[1]) << 16 | u32(at[2]) << 8 | u32(at[3])
    for n in range(16, ROUNDS):
        early = plan[n - 15]
        late = plan[n - 2]
        first = turned(early, 7) ^ turned(early, 18) ^ (early >> 3)
        second = turned(late, 17) ^ turned(late, 19) ^ (late >> 10)
        plan[n] = plan[n - 16] + first + plan[n - 7] + second
    words = sum.words
    a = words[0]
    b = words[1]
    c = words[2]
    d = words[3]
    e = words[4]
    f = words[5]
    g = words[6]
    h = words[7]
    for n in range(ROUNDS):
        spun = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)
        more = h + spun + ((e & f) ^ (~e & g)) + u32(sum.numbers[WORDS + n]) + plan[n]
        most = (a & b) ^ (a & c) ^ (b & c)
        less = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + most
        h = g
        g = f
        f = e
        e = d + more
        d = c
        c = b
        b = a
        a = more + less
    words[0] += a
    words[1] += b
    words[2] += c
    words[3] += d
    words[4] += e
    words[5] += f
    words[6] += g
    words[7] += h


def turned(x: u32, by: u32) -> u32:
    """A word, rotated to the right."""
    return x >> by | x << (32 - by)
