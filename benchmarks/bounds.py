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
    """Floating-point operations that one run cannot avoid; causal halves are not counted."""
    block = 24 * c.layers * c.width**2  # of one token, two for a multiply-add
    head = 2 * c.vocab * c.width
    if workload == "decode":
        steps, places = c.new - 1, range(c.prompt, c.prompt + c.new - 1)
        return steps * (block + head) + sum(4 * c.layers * c.width * (p + 1) for p in places)
    length = c.prefill if workload == "prefill" else c.context
    attention = 2 * c.layers * c.width * length * (length + 1)
    if workload == "prefill":
        return length * block + attention + head
    return 3 * c.batch * (length * (block + head) + attention)


def traffic(workload: str, c: Config, dtype: str) -> tuple[float, float]:
    """(bytes that one run must read, bytes it reads again and again): weights, caches, moments."""
    size = {"f32": 4, "bf16": 2, "int8": 1, "int8_static": 1, "int4": 0.53}[dtype]
    weights = size * (c.parameters - c.context * c.width)
    if workload == "decode":
        places = range(c.prompt, c.prompt + c.new - 1)
        caches = [2 * size * c.layers * c.width * (p + 1) for p in places]
        return len(places) * weights + sum(caches), weights + max(caches)
    total = weights if workload == "prefill" else 4 * 4 * c.parameters
    return total, total


def bound(roof: Roof, workload: str, c: Config, dtype: str = "f32") -> float:
    """Seconds below which no run can be."""
    peak = roof.bf16 if dtype == "bf16" and roof.bf16 else roof.fma
    total, again = traffic(workload, c, dtype)
    return max(operations(workload, c) / peak, total / roof.bandwidth(again))
