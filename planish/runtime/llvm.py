"""LLVM through llvmlite: text in, machine code out. The only file that drives it.

Modules go through LLVM's O2 pipeline without its vectorisers: loop IR already says what is a
vector. Every compilation has a context of its own, so that nothing outlives it but the code.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import llvmlite.binding as llvm
import numpy as np

from planish.ir.errors import CompileError
from planish.runtime.target import Target

# One thread compiles at a time, and no fork happens while one does or while llvmlite frees
# something: a child would inherit LLVM's and llvmlite's locks in whatever state they are.
_LOCK = threading.RLock()
_LLVMLITE = llvm.ffi.lib._lock


def _before_fork() -> None:
    _LOCK.acquire()
    _LLVMLITE.__enter__()


def _after_fork() -> None:
    _LLVMLITE.__exit__()
    _LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )

# Bytes that LLVM may need: for itself, and for each byte of text
_LEAST, _EACH = 64 << 20, 64

_OURS = re.compile(r"planish[._]|k\d+_")  # symbols that a module defines itself

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()


class Library:
    """Machine code loaded into this process; the code lives as long as this object."""

    def __init__(self, code: bytes, target: Target) -> None:
        with _LOCK:
            _need(len(code))
            context = llvm.create_context()
            empty = llvm.parse_assembly("", context)
            self._engine = llvm.create_mcjit_compiler(empty, machine(target))
            # the engine must end before its context, whatever order a collector has in mind
            weakref.finalize(self, _close, self._engine, context).atexit = False
            self._code = llvm.ObjectFileRef.from_data(code)
            _check_symbols(self._code)
            self._engine.add_object_file(self._code)
            self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where the function `name` is."""
        with _LOCK:
            return self._engine.get_function_address(name)


def _need(size: int) -> None:
    """MemoryError unless LLVM will find memory for `size` bytes of input: else it would abort."""
    most = _LEAST + _EACH * size
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


def machine(target: Target) -> llvm.TargetMachine:
    """LLVM's description of `target`."""
    known = llvm.Target.from_triple(target.triple)
    return known.create_target_machine(
        cpu=target.cpu, features=target.feature_text, opt=2, reloc="pic", codemodel="small"
    )


def compile_text(text: str, target: Target) -> bytes:
    """The object file of an LLVM module given as text."""
    with _optimised(text, target) as (module, tm):
        return tm.emit_object(module)


def optimised_text(text: str, target: Target) -> str:
    """The module after LLVM's passes."""
    with _optimised(text, target) as (module, _):
        return str(module)


def assembly_text(text: str, target: Target) -> str:
    """The module as assembly."""
    with _optimised(text, target) as (module, tm):
        return tm.emit_assembly(module)


@contextmanager
def _optimised(text: str, target: Target) -> Iterator[tuple[llvm.ModuleRef, llvm.TargetMachine]]:
    with _LOCK:
        _need(len(text))
        tm = machine(target)
        header = f'target datalayout = "{tm.target_data}"\ntarget triple = "{target.triple}"\n'
        try:
            module = llvm.parse_assembly(header + text, llvm.create_context())
        except RuntimeError as error:
            raise CompileError(_report(header + text, error)) from None
        with module:  # closed here: in a traceback, its context could end before it
            _verify(module, header + text)
            options = llvm.create_pipeline_tuning_options(speed_level=2)
            options.loop_vectorization = options.slp_vectorization = False
            options.loop_interleaving = False
            builder = llvm.create_pass_builder(tm, options)
            builder.getModulePassManager().run(module, builder)
            yield module, tm


def _verify(module: llvm.ModuleRef, text: str) -> None:
    try:
        module.verify()
    except RuntimeError as error:
        raise CompileError(_report(text, error)) from None


def _report(text: str, error: Exception) -> str:
    handle, path = tempfile.mkstemp(prefix="planish-", suffix=".ll")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    return (
        f"LLVM refuses the code that planish made, which is a fault of planish: {error}\n"
        f"The module is in {path}; please report it with that file."
    )
