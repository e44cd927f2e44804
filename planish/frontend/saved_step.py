"""Steps of training that were saved: a library's C functions, called from Python without LLVM."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from planish.frontend.data import fill_batch
from planish.ir.draws import key
from planish.ir.errors import (
    ArtifactError,
    DataError,
    DTypeError,
    PlanishError,
    TargetError,
    TokenError,
)
from planish.runtime.artifact import Artifact, Level, Shared
from planish.runtime.host import records
from planish.runtime.target import thread_count

ERRORS: dict[int, type[PlanishError]] = {
    records.FILE: ArtifactError, records.CPU: TargetError, records.FAULT: TokenError,
}  # fmt: skip

_P, _I, _L, _F = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float
# What the functions return, and what they take
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "create": (_P, ctypes.c_char_p, _I), "free": (None, _P), "status": (_I, _P),
    "error": (ctypes.c_char_p, _P), "steps": (_L, _P), "losses": (_P, _P), "arrays": (_L, _P),
    "get": (_I, _P, _L, _P),
    "save": (_I, _P, ctypes.c_char_p), "restore": (_I, _P, ctypes.c_char_p),
    "step": (_I, _P, _P, _P, _F, ctypes.c_uint64, ctypes.POINTER(_F), ctypes.POINTER(_F)),
}  # fmt: skip


class _Array(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", _P), ("size", _L))


class _Model:
    """A model of the library, as long as somebody refers to it."""

    def __init__(self, found: Artifact, level: Level, threads: int) -> None:
        library, prefix = Shared(found, level), found.facts["prefix"]
        self._functions = {
            name: ctypes.CFUNCTYPE(*kinds)(library.address(prefix + name))
            for name, kinds in _FUNCTIONS.items()
        }
        file = found.facts["weights_file"]
        weights = None if file is None else os.fsencode(found.path.resolve().parent / file)
        self.at = self._functions["create"](weights, threads)
        self.process, self._lock = os.getpid(), threading.RLock()
        free = self._functions["free"]
        weakref.finalize(self, _freed, free, self.at, self.process).atexit = False
        self.check(self._functions["status"](self.at))

    @property
    def lock(self) -> Any:
        """Held by who calls; DataError in a forked process."""
        if self.process != os.getpid():
            raise DataError("a forked process has none of the threads: pl.load the library there")
        return self._lock

    def __call__(self, name: str, *arguments: Any) -> Any:
        """What a function returns."""
        with self.lock:
            return self._functions[name](self.at, *arguments)

    def check(self, code: int) -> None:
        """Raise what the model says, unless all went well."""
        if code == records.NO_MEMORY:
            raise MemoryError(self("error").decode())
        if code != records.OK:
            raise ERRORS.get(code, DataError)(self("error").decode())


def _freed(free: Any, at: int, process: int) -> None:
    """Free a model; not in a forked process, which has none of its threads to wait for."""
    if process == os.getpid():
        free(at)


class SavedStep:
    """A step of training in a library, which any Python with NumPy runs.

    `arrays` are the weights and the optimiser's state by their names in checkpoints, f32: views of
    the library's memory, which a step changes, and in which one may write. `grad_norm` is that of
    the last step, before clipping. Calls from several threads wait for each other.
    """

    def __init__(self, found: Artifact, threads: int | None = None) -> None:
        facts = found.facts
        self.path, self.threads = found.path, thread_count(threads)
        self.rows, self.context = facts["rows"], facts["context"]
        self.vocab_size, self.seed = facts["vocabulary"], facts["training"]["seed"]
        self.level = found.level()
        first = next(iter(self.level.images.values()))
        self.pipeline, self.target = facts["pipeline"], first.target
        self.grad_norm = math.nan
        self._model = _Model(found, self.level, self.threads)
        self._batch = tuple(np.zeros((2, self.rows, self.context), np.int32))
        views = (self._view(n, facts["arrays"]) for n in range(self._model("arrays")))
        self.arrays: dict[str, np.ndarray] = dict(views)

    def _view(self, number: int, shapes: Mapping[str, list[int]]) -> tuple[str, np.ndarray]:
        """The name of an array, and the array: it keeps the model."""
        told = _Array()
        self._model.check(self._model("get", number, ctypes.byref(told)))
        name, memory = told.name.decode(), (_F * told.size).from_address(told.data)
        memory.owner = self._model
        return name, np.frombuffer(memory, np.float32).reshape(shapes[name])

    @property
    def steps(self) -> int:
        """The number of steps done, those before it was saved included."""
        return self._model("steps")

    @property
    def losses(self) -> list[float]:
        """The loss of every step."""
        at = self._model("losses")
        return list((ctypes.c_double * self.steps).from_address(at)) if at else []

    def step(self, x: Any, y: Any, lr: float, seed: int | None = None) -> float:
        """One step on tokens x and targets y [rows, context]; the loss before the update.

        `lr` is the learning rate of this step, `seed` decides what drops out: the trainer's, unless
        told. DataError where the loss is not finite; the weights then stay as they are.
        """
        if isinstance(lr, bool) or not isinstance(lr, (int, float, np.number)):
            raise DTypeError(f"lr is a number, got {lr!r}")
        loss, norm = _F(), _F()
        places = [array.ctypes.data for array in self._batch]
        high, low = map(int, key(self.seed if seed is None else seed))
        told = (lr, high << 32 | low, ctypes.byref(loss), ctypes.byref(norm))
        with self._model.lock:
            fill_batch(self._batch, x, y, self.vocab_size)
            self._model.check(self._model("step", *places, *told))
            self.grad_norm = norm.value
        return loss.value

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint: a file for `Trainer.resume`, which also loads as a model.

        DataError where the model has parameters that no step changes: the library lacks them.
        ArtifactError where the file cannot be written.
        """
        with self._model.lock:
            self._model.check(self._model("save", os.fsencode(path)))

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Go on from a checkpoint of this training, which `save` or `Trainer.save` wrote.

        ArtifactError where it is damaged or of another one; nothing has changed then.
        """
        with self._model.lock:
            self._model.check(self._model("restore", os.fsencode(path)))
