"""Host code that means the same to Python: each function is run by both."""

from __future__ import annotations

from planish.runtime.host.language import export, f64, i32, i64, u8

LIMIT = 3 * (1 << 4) + 2 - 0x10 // 5  # 47
HALF = 0.5


@export
def gcd(a: i64, b: i64) -> i64:
    """Loops and remainders."""
    while b != 0:
        rest = a % b
        a = b
        b = rest
    return a


@export
def primes(below: i64) -> i64:
    """How many primes there are below a number."""
    found = 0
    for n in range(2, below):
        is_prime = True
        for d in range(2, n):
            if d * d > n:
                break
            if n % d == 0:
                is_prime = False
                break
        if not is_prime:
            continue
        found += 1
    return found


@export
def downwards(a: i64, b: i64) -> i64:
    """Ranges of other steps; the variable keeps its last value."""
    total = 0
    last = 0
    for i in range(a, b, -3):
        total = (total * 7 + i) % 1000003
        last = i
    return total + last


@export
def divided(a: i64, b: i64) -> i64:
    """Rounding down, also below zero."""
    return (a // b) * 1000 + a % b


@export
def bits(a: i64, b: i64) -> i64:
    """Shifts and masks, chains and choices."""
    mixed = (a & 0xFF) << 3 | b >> 2 ^ ~a
    inside = -10 <= a < b or (a == b and not a > 5)
    return mixed if inside else -mixed


@export
def ladder(n: i64, limit: i64) -> i64:
    """if, elif, else, and returns inside."""
    if n < 0:
        return -1
    elif n == 0 and limit > 3:
        kind = LIMIT
    elif n < limit:
        kind = n + LIMIT
    else:
        kind = 0
    return kind


@export
def fibonacci(n: i64, _: i64) -> i64:
    """Calls of itself."""
    return n if n < 2 else fibonacci(n - 1, 0) + fibonacci(n - 2, 0)


@export
def hashed(a: i64, b: i64) -> i64:
    """Conversions between small types."""
    low = u8(a & 127)
    high = i32(b & 0xFFFF)
    return i64(low) * 3 + i64(high)


@export
def mean(a: i64, b: i64) -> i64:
    """Floats, and the way back to integers."""
    x = (f64(a) + f64(b)) * HALF
    return i64(x * 8.0 / 2.0)
