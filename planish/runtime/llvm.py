"""LLVM through llvmlite: text in, machine code out. The only file that drives it.

Modules go through LLVM's O1 pipeline, and become code at that level; O2 takes longer, and code is
no faster. Kernels go through a few passes only, see `_kernel_passes`, as loop IR already says what
is a vector, what is computed before a loop, and what is unrolled; lists of calls through none.
Every module has a context of its own, so that nothing outlives it but the code, and that several
can be compiled at once.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from planish.ir.errors import CompileError
from planish.runtime.cache import digest
from planish.runtime.codegen.text import CALLS, KERNELS
from planish.runtime.crew import Crew
from planish.runtime.gate import Gate
from planish.runtime.memo import Memo
from planish.runtime.target import Target, available_cores

# No fork happens while a thread is in LLVM or llvmlite frees something: a child would inherit
# their locks in whatever state they are.
_LLVM = Gate(llvm.ffi.lib._lock)

# Bytes that LLVM may need: for itself, and for each byte of text
_LEAST, _EACH = 64 << 20, 64

OBJECTS: Memo[bytes] = Memo(32 << 20, len)  # of modules, by target and text

_OURS = re.compile(r"planish[._]|k\d+_")  # symbols that a module defines itself


def _unlocked(name: str) -> Callable[..., Any]:
    """A function of llvmlite's library without the lock that lets in one thread at a time."""
    function = getattr(llvm.ffi.lib, name)
    return getattr(function, "_cfn", function)


# All the time goes here. Modules that share no context do not know of each other.
_OPTIMISE = _unlocked("LLVMPY_RunNewModulePassManager")
_EMIT = _unlocked("LLVMPY_TargetMachineEmitToMemory")


class Library:
    """Machine code loaded into this process; the code lives as long as this object.

    Objects may call functions of each other.
    """

    def __init__(self, codes: Iterable[bytes], target: Target) -> None:
        with _LLVM:
            context = llvm.create_context()
            empty = llvm.parse_assembly("", context)
            self._engine = llvm.create_mcjit_compiler(empty, machine(target))
            # the engine must end before its context, whatever order a collector has in mind
            weakref.finalize(self, _close, self._engine, context).atexit = False
            self._codes = []
            for code in codes:
                _need(len(code))
                self._codes.append(llvm.ObjectFileRef.from_data(code))
                _check_symbols(self._codes[-1])
                self._engine.add_object_file(self._codes[-1])
            self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where the function `name` is."""
        with _LLVM:
            return self._engine.get_function_address(name)


def _need(size: int, modules: int = 1) -> None:
    """MemoryError unless LLVM will find memory for `size` bytes of input: else it would abort."""
    most = _LEAST + _EACH * size * modules
    try:
        np.empty(most, np.uint8)
    except MemoryError:
        raise MemoryError(f"compiling needs about {most >> 20} MiB of memory") from None


def _close(engine: llvm.ExecutionEngine, context: llvm.ContextRef) -> None:
    """End an engine; `context` is an argument so that it lives until then."""
    engine.close()


def _check_symbols(code: llvm.ObjectFileRef) -> None:
    """CompileError if code calls what nobody defines: running it would end the process."""
    for section in code.sections():
        if section.name() == b".strtab":
            names = section.data().decode("ascii", "replace").split("\0")
            needed = [n for n in names if n and not n.startswith((".", "<")) and not _OURS.match(n)]
            missing = [name for name in needed if not llvm.address_of_symbol(name)]
            if missing:
                raise CompileError(f"code needs {', '.join(missing)}, which this process lacks")


@cache
def _initialised(arch: str) -> None:
    """Make LLVM ready for an architecture; the others would take memory, too."""
    if arch == Target.host().arch:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()  # of host code, which asks the processor what it is
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()


def machine(target: Target, level: int = 1) -> llvm.TargetMachine:
    """LLVM's description of `target`, and how hard it tries to make good code."""
    _initialised(target.arch)
    known = llvm.Target.from_triple(target.triple)
    return known.create_target_machine(
        cpu=target.cpu, features=target.feature_text, opt=level, reloc="pic", codemodel="small",
        abiname="lp64d" if target.arch == "riscv64" else "",
    )  # fmt: skip


class _Module:
    """A module given as text. Its thread parses and ends it, any thread may compile it.

    All but the two long calls stays with one thread: after each call of the library, another one
    would wait for the interpreter lock, which the thread that makes the next text holds.
    """

    def __init__(self, text: str, target: Target) -> None:
        self._code: Any = None
        with _LLVM:
            self._machine = machine(target, 0 if text.startswith(CALLS) else 1)
            layout = self._machine.target_data
            whole = f'target datalayout = "{layout}"\ntarget triple = "{target.triple}"\n{text}'
            try:
                self._module = llvm.parse_assembly(whole, llvm.create_context())
            except RuntimeError as error:
                raise CompileError(_report(whole, error)) from None
            try:
                self._module.verify()
            except RuntimeError as error:
                self._module.close()
                raise CompileError(_report(whole, error)) from None
            options = llvm.create_pipeline_tuning_options(speed_level=1)
            options.loop_vectorization = options.slp_vectorization = False
            options.loop_interleaving = False
            self._builder = llvm.create_pass_builder(self._machine, options)
            self._passes = _passes(text, self._builder)
            self._refusal = llvm.ffi.OutputString()

    def __enter__(self) -> _Module:
        return self

    def __exit__(self, *_: object) -> None:
        with _LLVM:
            self._module.close()  # here: in a traceback, its context could end before it

    def optimise(self) -> None:
        """LLVM's passes."""
        with _LLVM:
            _OPTIMISE(self._passes, self._module, self._builder)

    def compile(self) -> None:
        """LLVM's passes, then machine code."""
        self.optimise()
        with _LLVM:
            self._code = _EMIT(self._machine, self._module, 1, self._refusal)

    def code(self) -> bytes:
        """The object file, after `compile`."""
        if not self._code:
            raise CompileError(f"LLVM makes no code of a module: {self._refusal}")
        library = llvm.ffi.lib
        with _LLVM:
            size = library.LLVMPY_GetBufferSize(self._code)
            found = ctypes.string_at(library.LLVMPY_GetBufferStart(self._code), size)
            library.LLVMPY_DisposeMemoryBuffer(self._code)
        return found

    def text(self) -> str:
        """The module as it is now."""
        with _LLVM:
            return str(self._module)

    def assembly(self) -> str:
        """The module as assembly."""
        with _LLVM:
            return self._machine.emit_assembly(self._module)


def _passes(text: str, builder: llvm.PassBuilder) -> llvm.ModulePassManager:
    """What a module goes through, by its first line."""
    if text.startswith((KERNELS, CALLS)):
        return _kernel_passes() if text.startswith(KERNELS) else llvm.ModulePassManager()
    return builder.getModulePassManager()


def _kernel_passes() -> llvm.ModulePassManager:
    """The passes of O1 that kernels gain by, once each: a third of its time, the same speed.

    Short loops are unrolled first, so that sums in small arrays find their registers.
    """
    passes = llvm.ModulePassManager()
    passes.add_simplify_cfg_pass()
    passes.add_loop_unroll_pass()
    passes.add_sroa_pass()
    passes.add_new_gvn_pass()
    passes.add_instruction_combine_pass()
    return passes


def compile_text(text: str, target: Target) -> bytes:
    """The object file of an LLVM module given as text."""
    (code,) = compile_texts([text], target)
    return code


def compile_texts(texts: Iterable[str], target: Target) -> tuple[bytes, ...]:
    """The object files of modules, which are compiled while `texts` makes the next one."""
    with Compiling(target) as compiling:
        for text in texts:
            compiling.add(text)
        return compiling.codes()


class Compiling:
    """Modules on their way to machine code, beside the thread that makes them.

    with Compiling(target) as compiling:
        compiling.add(text)
        (code,) = compiling.codes()

    Other work `beside` them is done before `codes` has them all.
    """

    def __init__(self, target: Target) -> None:
        self.target, self._threads = target, available_cores()
        self._keys: list[tuple[Target, str]] = []
        self._codes: dict[tuple[Target, str], bytes] = {}
        self._modules: dict[tuple[Target, str], _Module] = {}
        self._crew = Crew(self._threads)
        self.beside = self._crew.add
        self._stack = ExitStack()

    def __enter__(self) -> Compiling:
        return self

    def __exit__(self, *error: Any) -> None:
        self._crew.__exit__(*error)  # before the modules end
        self._stack.close()

    def add(self, text: str) -> None:
        """Begin with a module."""
        key = (self.target, digest(text))
        self._keys.append(key)
        known = OBJECTS.get(key)
        if known is not None:
            self._codes[key] = known
        elif key not in self._modules:
            _need(len(text), self._threads)
            self._modules[key] = self._stack.enter_context(_Module(text, self.target))
            self._crew.add(self._modules[key].compile)

    def codes(self) -> tuple[bytes, ...]:
        """The object files of all modules, once they are there."""
        self._crew.finish()
        made = self._modules.items()
        self._codes.update((key, OBJECTS.put(key, module.code())) for key, module in made)
        return tuple(self._codes[key] for key in self._keys)


def optimised_text(text: str, target: Target) -> str:
    """The module after LLVM's passes."""
    with _Module(text, target) as module:
        module.optimise()
        return module.text()


def assembly_text(text: str, target: Target) -> str:
    """The module as assembly."""
    with _Module(text, target) as module:
        module.optimise()
        return module.assembly()


def _report(text: str, error: Exception) -> str:
    handle, path = tempfile.mkstemp(prefix="planish-", suffix=".ll")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    return (
        f"LLVM refuses the code that planish made, which is a fault of planish: {error}\n"
        f"The module is in {path}; please report it with that file."
    )
