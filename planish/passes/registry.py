"""The passes by the names that pipelines are written with: functions, or classes with options."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from planish.ir.graph import Graph
from planish.passes.autodiff import Grad
from planish.passes.bf16 import Bf16
from planish.passes.bitmap import Bitmap
from planish.passes.caches import quantize_caches
from planish.passes.chunk import Chunk
from planish.passes.cse import cse
from planish.passes.expand import Expand
from planish.passes.fake import FakeQuantize
from planish.passes.fold import fold
from planish.passes.fuse import Fuse
from planish.passes.gptq import Gptq
from planish.passes.lift import LiftParams
from planish.passes.mixed import mixed
from planish.passes.prune import Prune
from planish.passes.pushup import pushup
from planish.passes.quantize import Quantize
from planish.passes.remat import Remat
from planish.passes.shrink import Shrink
from planish.passes.simplify import simplify
from planish.passes.smooth import Smooth
from planish.passes.split_k import split_k

Pass: TypeAlias = Callable[[Graph], Graph]

PASSES: dict[str, Pass | type] = {
    "grad": Grad,
    "lift": LiftParams,
    "simplify": simplify,
    "fold": fold,
    "cse": cse,
    "expand": Expand,
    "pushup": pushup,
    "chunk": Chunk,
    "remat": Remat,
    "bf16": Bf16,
    "mixed": mixed,
    "prune": Prune,
    "shrink": Shrink,
    "smooth": Smooth,
    "gptq": Gptq,
    "quantize": Quantize,
    "fake_quantize": FakeQuantize,
    "quantize_caches": quantize_caches,
    "bitmap": Bitmap,
    "split_k": split_k,
    "fuse": Fuse,
}
