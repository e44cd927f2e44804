"""Keys of random numbers, as `planish.frontend.random` makes them of seeds."""

from __future__ import annotations

from planish.runtime.host.language import Ptr, i64, local, u32, u64

PARITY = 0x1BD11BDA
FOLD = 0x80000000  # the first counter word of fold_in


def mixed(a: u32, b: u32, turn: u32) -> u32:
    """The second word of a round: turned, and mixed with the first."""
    return (b << turn | b >> (32 - turn)) ^ a


def threefry(key0: u32, key1: u32, high: u32, low: u32) -> u32:
    """The first word of Threefry-2x32 with 20 rounds, see `planish.ir.math.threefry`."""
    keys = local(u32, 3)
    keys[0] = key0
    keys[1] = key1
    keys[2] = key0 ^ key1 ^ PARITY
    a = high + key0
    b = low + key1
    for block in range(5):
        odd = block % 2 == 1
        a += b
        b = mixed(a, b, 17 if odd else u32(13))
        a += b
        b = mixed(a, b, 29 if odd else u32(15))
        a += b
        b = mixed(a, b, 16 if odd else u32(26))
        a += b
        b = mixed(a, b, 24 if odd else u32(6))
        a += keys[(block + 1) % 3]
        b += keys[(block + 2) % 3] + u32(block + 1)
    return a


def set_key(seed: u64, row: u32, out: Ptr[u32]) -> None:
    """The key of a row: fold_in(key(seed), row)."""
    fold_in(u32(seed >> 32), u32(seed), row, out)


def fold_in(high: u32, low: u32, data: u32, out: Ptr[u32]) -> None:
    """A new key from a key and a number."""
    for word in range(2):
        out[word] = threefry(high, low, u32(FOLD + i64(word)), data)
