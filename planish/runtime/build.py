"""From a plan to machine code: the way to an image that goes through LLVM."""

from __future__ import annotations

from planish.runtime import report
from planish.runtime.codegen.kernel import scratch_buffers
from planish.runtime.codegen.steps import Modules
from planish.runtime.image import Image
from planish.runtime.llvm import assembly_text, compile_texts, optimised_text
from planish.runtime.memory import check_aliases, plan_memory, storage
from planish.runtime.plan import Plan, Slot
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
    large = {id(k): tuple(scratch_buffers(k)) for k in (step.kernel for step in plan.steps)}
    scratch = tuple(dict.fromkeys(x for x in large.values() if x))
    code = compile_texts(modules.texts(), target)
    return Image.of(plan, target, modules.dims, scratch, modules.schedule.bytes, code)


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
