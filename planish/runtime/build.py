"""From a plan to machine code: the way to an image that goes through LLVM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from planish.ir.errors import CompileError
from planish.ir.graph import Graph
from planish.ir.loops import Const, Expr, Kernel, Scalar, Var
from planish.runtime import report
from planish.runtime.codegen.functions import Ahead, Functions
from planish.runtime.codegen.kernel import scratch_buffers
from planish.runtime.codegen.steps import Modules
from planish.runtime.codegen.sync import sync_text
from planish.runtime.codegen.text import KERNELS
from planish.runtime.image import Image
from planish.runtime.in_place import check_aliases, storage
from planish.runtime.llvm import Compiling, assembly_text, optimised_text
from planish.runtime.lower import lower
from planish.runtime.memory import plan_memory
from planish.runtime.packing import Panels
from planish.runtime.plan import Plan
from planish.runtime.pool import POOLS
from planish.runtime.scratch import Extent, Local
from planish.runtime.slots import Slot
from planish.runtime.target import Target


def modules_of(plan: Plan, target: Target, functions: Functions | None = None) -> Modules:
    """The LLVM modules of a plan; those of its kernels are handed on by `functions`."""
    functions = functions or Functions(target, lambda text: None)
    memory = plan_memory(plan)

    def place(slot: Slot) -> tuple[str, int, int]:
        if slot.kind == "temp":
            life = memory.lives[slot.index]
            return "arena", life.offset, life.offset + life.bytes
        kind, index = storage(plan, slot)
        return f"{kind} {index}", 0, 1

    return Modules(plan, target, place, memory.fixed, functions)


@contextmanager
def begun(target: Target, pooled: bool = False) -> Iterator[Compiling]:
    """Machine code for a program that is still to come: what none decides is compiled at once.

    `pooled` says that several threads of this process will run it.
    """
    with Compiling(target) as compiling:
        compiling.add(KERNELS + sync_text(target))
        if pooled:
            compiling.beside(POOLS.prepare)
        yield compiling


def lowered(graph: Graph, compiling: Compiling, panels: Panels | None = None) -> tuple[Plan, Image]:
    """The plan of a graph after its passes, and its machine code, which are made side by side."""
    functions = Functions(compiling.target, compiling.add)
    ahead = Ahead(functions, graph.aliases)
    plan = lower(graph, compiling.target, panels, ahead.add, functions.nests)
    return plan, _built(plan, functions, compiling)


def build(plan: Plan, target: Target) -> Image:
    """A plan as machine code."""
    with begun(target) as compiling:
        return _built(plan, Functions(target, compiling.add), compiling)


def _built(plan: Plan, functions: Functions, compiling: Compiling) -> Image:
    target = compiling.target
    check_aliases(plan)
    modules = modules_of(plan, target, functions)
    compiling.add(modules.main())
    large = {(id(x.kernel), x.sizes): _locals(x.kernel, dict(x.sizes)) for x in plan.steps}
    scratch = tuple(dict.fromkeys(x for x in large.values() if x))
    private = modules.schedule.bytes
    return Image.of(plan, target, modules.dims, scratch, private, compiling.codes())


def _locals(kernel: Kernel, sizes: Mapping[str, int]) -> tuple[Local, ...]:
    """The locals of a kernel that live in scratch memory, where some dimensions are `sizes`."""
    large = scratch_buffers(kernel)
    return tuple(Local(x.name, x.dtype, tuple(_extent(n, sizes) for n in x.shape)) for x in large)


def _extent(expr: Expr, sizes: Mapping[str, int]) -> Extent:
    """An extent over dimensions: a number, a name, or an operation."""
    match expr:
        case Const(value):
            return int(value)
        case Var(name):
            return sizes.get(name, name)
        case Scalar(op, (a, b)):
            return op, _extent(a, sizes), _extent(b, sizes)
    raise CompileError(f"an extent that is no arithmetic of sizes: {expr}")


def texts(plan: Plan, target: Target) -> list[str]:
    """The modules of a plan: what waits, kernels, and the main function."""
    found = [KERNELS + sync_text(target)]
    modules = modules_of(plan, target, Functions(target, found.append))
    return [*found, modules.main()]


def ir(plan: Plan, target: Target) -> str:
    """The modules after LLVM's passes."""
    return "\n".join(optimised_text(x, target) for x in texts(plan, target))


def assembly(plan: Plan, target: Target) -> str:
    """The modules as assembly."""
    return "\n".join(assembly_text(x, target) for x in texts(plan, target))


def explain(plan: Plan, target: Target, threads: int) -> str:
    """A table of the steps."""
    modules = modules_of(plan, target)
    return report.explain(plan, modules.symbols, modules.schedule, threads)
