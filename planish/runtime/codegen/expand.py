"""vpexpandb and vpexpandd: kept values go to where the bits of a mask are, zeros elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planish.ir import types as t
from planish.ir.loop_expand import LANES
from planish.ir.types import DType
from planish.runtime.codegen.text import mangled, vector_type
from planish.runtime.codegen.value import Value

if TYPE_CHECKING:
    from planish.runtime.codegen.scalar import Scalars


def expand_load(s: Scalars, values: DType, address: str, mask: Value, dtype: DType) -> Value:
    """A vector of `dtype` from the values at an address; what no bit asks for is not read."""
    element, count = ("i8", 4 * LANES) if values == t.u8 else ("float", LANES)
    kind, bits = vector_type(element, count), mask.ref
    if count < 64:
        bits = s.writer.op(f"trunc {mask.typed} to i{count}")
    lanes = s.writer.op(f"bitcast i{count} {bits} to {vector_type('i1', count)}")
    given = ("ptr align 1", address), (vector_type("i1", count), lanes), (kind, "zeroinitializer")
    ref = s.writer.call(f"llvm.masked.expandload.{mangled(kind)}", kind, *given)
    if element == "i8":
        ref = s.writer.op(f"bitcast {kind} {ref} to {vector_type('i32', LANES)}")
    return Value(ref, dtype, LANES)
