"""What a run of a workload takes at least, under the machine's measured roofs.

The larger of its operations at the speed of multiply-adds in registers, and its bytes at the speed
of reading so much memory again and again. `planish bench` prints the roofs.
"""

from __future__ import annotations

from workloads import Config

from planish.runtime.roof import Roof
from planish.runtime.roofs import fresh_roof

__all__ = ["Roof", "bound", "fresh_roof"]


def operations(workload: str, c: Config) -> float:
    """Floating-point operations of matrix products that one run cannot avoid.

    What a causal mask hides is not counted; of the last layer of a prompt, whose last token alone
    gets logits, only keys and values are those of all tokens. A multiply-add is two.
    """
    square, head = 2 * c.width**2, 2 * c.vocab * c.width
    token = 12 * square  # of a token in a layer: queries, keys, values, output, 4 up and 4 down
    if workload == "decode":
        steps, places = c.new - 1, range(c.prompt, c.prompt + c.new - 1)
        seen = sum(4 * c.layers * c.width * (p + 1) for p in places)
        return steps * (c.layers * token + head) + seen
    if workload == "train":
        layer = c.context * token + triangle(c, c.context)
        return 3 * c.batch * (c.layers * layer + c.context * head)
    length = c.asked if workload == "first" else c.prefill
    layer = length * token + triangle(c, length)
    last = length * 2 * square + (token - 2 * square) + 4 * c.width * length
    return (c.layers - 1) * layer + last + head


def triangle(c: Config, length: int) -> int:
    """Operations of causal attention over so many tokens, in one layer."""
    return 2 * c.width * length * (length + 1)


def traffic(workload: str, c: Config, dtype: str) -> tuple[float, float]:
    """(bytes that one run must read, bytes it reads again and again): weights, caches, moments.

    Of int4, the table of tokens has 8 bits.
    """
    size = {"f32": 4, "bf16": 2, "int8": 1, "int8_static": 1, "int4": 0.53}[dtype]
    table = c.vocab * c.width
    others = c.parameters - c.context * c.width - table
    weights = size * others + max(size, 1) * table
    if workload == "decode":
        places = range(c.prompt, c.prompt + c.new - 1)
        caches = [2 * size * c.layers * c.width * (p + 1) for p in places]
        return len(places) * weights + sum(caches), weights + max(caches)
    total = weights if workload in ("prefill", "first") else 4 * 4 * c.parameters
    return total, total


def bound(roof: Roof, workload: str, c: Config, dtype: str = "f32") -> float:
    """Seconds below which no run can be by this roof; int4 is bytes when it is multiplied."""
    bytewise = max(roof.int8, roof.fma)  # bytes may be multiplied as floats, too
    peak = {"f32": roof.fma, "bf16": roof.bf16 or roof.fma}.get(dtype, bytewise)
    total, again = traffic(workload, c, dtype)
    return max(operations(workload, c) / peak, total / roof.bandwidth(again))
