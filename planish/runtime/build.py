"""From a plan to machine code: the way to an image that goes through LLVM."""

from __future__ import annotations

from planish.ir.errors import CompileError
from planish.ir.loops import Const, Expr, Kernel, Scalar, Var
from planish.runtime import report
from planish.runtime.codegen.kernel import scratch_buffers
from planish.runtime.codegen.steps import Modules
from planish.runtime.image import Image
from planish.runtime.in_place import check_aliases, storage
from planish.runtime.llvm import assembly_text, compile_texts, optimised_text
from planish.runtime.memory import plan_memory
from planish.runtime.plan import Plan
from planish.runtime.scratch import Extent, Local
from planish.runtime.slots import Slot
from planish.runtime.target import Target


def modules_of(plan: Plan, target: Target) -> Modules:
    """The LLVM modules of a plan."""
    memory = plan_memory(plan)

    def place(slot: Slot) -> tuple[str, int, int]:
        if slot.kind == "temp":
            life = memory.lives[slot.index]
            return "arena", life.offset, life.offset + life.bytes
        kind, index = storage(plan, slot)
        return f"{kind} {index}", 0, 1

    return Modules(plan, target, place, memory.fixed)


def build(plan: Plan, target: Target) -> Image:
    """A plan as machine code."""
    check_aliases(plan)
    modules = modules_of(plan, target)
    large = {id(k): _locals(k) for k in (step.kernel for step in plan.steps)}
    scratch = tuple(dict.fromkeys(x for x in large.values() if x))
    code = compile_texts(modules.texts(), target)
    return Image.of(plan, target, modules.dims, scratch, modules.schedule.bytes, code)


def _locals(kernel: Kernel) -> tuple[Local, ...]:
    """The locals of a kernel that live in scratch memory."""
    large = scratch_buffers(kernel)
    return tuple(Local(x.name, x.dtype, tuple(map(_extent, x.shape))) for x in large)


def _extent(expr: Expr) -> Extent:
    """An extent over dimensions: a number, a name, or an operation."""
    match expr:
        case Const(value):
            return int(value)
        case Var(name):
            return name
        case Scalar(op, (a, b)):
            return op, _extent(a), _extent(b)
    raise CompileError(f"an extent that is no arithmetic of sizes: {expr}")


def ir(plan: Plan, target: Target) -> str:
    """The modules after LLVM's passes."""
    return "\n".join(optimised_text(x, target) for x in modules_of(plan, target).texts())


def assembly(plan: Plan, target: Target) -> str:
    """The modules as assembly."""
    return "\n".join(assembly_text(x, target) for x in modules_of(plan, target).texts())


def explain(plan: Plan, target: Target, threads: int) -> str:
    """A table of the steps."""
    modules = modules_of(plan, target)
    return report.explain(plan, modules.symbols, modules.schedule, threads)
