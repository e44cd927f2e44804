"""What `pl.compile` returns: programs that take and return what the traced function does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from planish.frontend.tree import flatten, is_tree, restore
from planish.ir.errors import ArtifactError, DataError
from planish.ir.later import later
from planish.runtime.artifact import PREFIX, Artifact, Shared, save_shared
from planish.runtime.program import Program

if TYPE_CHECKING:
    from planish.runtime.profile import Profile
    from planish.runtime.roof import Roof

pool = later("planish.runtime.pool")
ship = later("planish.frontend.ship_function")
roofs = later("planish.runtime.roofs")
KINDS = (".so", ".o", ".h")
BUNDLE = ".bundle"  # files of `planish.frontend.bundle`


class Origin(NamedTuple):
    """Where a program comes from: the form of its results, the passes, a digest of the graph.

    `quantization` tells what became of each weight (see `planish.passes.layers.reporter`).
    """

    treedef: tuple[str, ...] | None = None
    pipeline: str = ""
    graph: str = ""
    quantization: Callable[[], list[dict[str, Any]]] = list

    @staticmethod
    def of(facts: Mapping[str, Any], treedef: tuple[str, ...] | None = None) -> Origin:
        """The origin that an artifact tells."""
        return Origin(treedef, facts["pipeline"], facts["graph"], lambda: facts["quantization"])

    @property
    def facts(self) -> dict[str, Any]:
        """What an artifact says of it."""
        quantization = self.quantization()
        return {"pipeline": self.pipeline, "graph": self.graph, "quantization": quantization}


class Compiled(Program):
    """A `Program` whose results have the form that the traced function returned."""

    origin = Origin()

    def __call__(self, *arrays: Any, out: Sequence[Any] | None = None) -> Any:
        """Run once: NumPy arrays in, NumPy arrays out; results go to `out` if given."""
        given = flat_arguments(arrays, len(self.image.inputs))
        bound = self.bind(*given, out=out)
        bound.run()
        return restore(self.origin.treedef, bound.outputs)

    def profile(self, *arrays: Any, repeat: int = 10, roof: Roof | None = None) -> Profile:
        """The time of each step, with FLOPs, bytes, and percent of what the machine allows.

        `roof` is that of `machine_roof`, measured in about two seconds and then kept in the user's
        cache. Donated arguments are updated `repeat` + 4 times.
        """
        given = flat_arguments(arrays, len(self.image.inputs))
        roof = roof or roofs.machine_roof(self.threads)
        return super().profile(*given, repeat=repeat, roof=roof)

    def save(
        self, path: str | os.PathLike[str], weights: str = "embed", prefix: str | None = None
    ) -> None:
        """Write the program, with its weights, as a shared library (.so), replaced in one step.

        `pl.load` runs it in any Python that has NumPy and planish, without LLVM. The same program
        makes the same bytes. LinkError where there is no linker to be found.

        With a `prefix`, "f_" say, the library has functions for C, whose names begin so, and a
        header beside it says how `f_call` is called; so have an object file (.o) and the header by
        itself (.h), whose prefix is "planish_" unless told. `weights` are then inside ("embed") or
        in NAME.weights beside it ("file"). Every symbolic dimension has a maximum, by which memory
        is set aside.
        """
        target = Path(path)
        if target.suffix == BUNDLE:
            raise ArtifactError(
                f"{target}: a bundle is made of a graph, for several processors: "
                f"pl.save_bundle(pl.trace(model, ...), {target.name!r})"
            )
        if target.suffix not in KINDS:
            raise ArtifactError(f"{target}: programs are saved as {', '.join(KINDS)}")
        more = {"treedef": self.origin.treedef, **self.origin.facts}
        if prefix is not None or target.suffix != KINDS[0]:
            ship.save_function(self, target, weights, prefix or PREFIX, more)
            return
        if weights != "embed":
            raise DataError(
                f"{target}: weights lie beside a library for C; give it a prefix, such as 'f_'"
            )
        save_shared(self, target, pool.pool_object(self.target), more)


def program_of(found: Artifact, threads: int | None = None) -> Compiled:
    """The program of an artifact that has only one."""

    def plan() -> NoReturn:
        raise ArtifactError(f"{found.path} holds code, not the graph that it was compiled from")

    level = found.level()
    library = Shared(found, level)
    if found.is_program:
        program = Compiled.of(level.images[""], found.weights, plan, threads, library)
    else:
        (name,) = level.images
        params, code = found.params(level, name), Named(library, found, name)
        program = Compiled.of(level.images[name], params, plan, threads, code)
    keys = found.facts.get("treedef")
    form = None if keys is None else tuple(keys)
    program.origin = Origin.of(found.facts, form)
    return program


class Named:
    """The functions of one program of several in a library, or of one that C calls, too."""

    def __init__(self, library: Shared, found: Artifact, name: str) -> None:
        self._library, self._prefix = library, found.facts["prefix"]
        self._main = library.level.facts["programs"][name]["main"]

    def address(self, name: str) -> int:
        """Where the function is that a program by itself calls so."""
        plain = name.removeprefix(PREFIX)
        return self._library.address(self._main if plain == "main" else self._prefix + plain)


def flat_arguments(arrays: Sequence[Any], count: int) -> list[Any]:
    """Arguments as the flat list that a graph takes: tuples and dicts of arrays are unpacked."""
    if len(arrays) == count and not any(map(is_tree, arrays)):
        return list(arrays)
    return [leaf for x in arrays for _, leaf in (flatten(x) if is_tree(x) else [("", x)])]
