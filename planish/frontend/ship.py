"""Writing generators as artifacts that need no Python: a library, an object file, a header.

pl.Generator(model, pipeline="int8").save("tinygpt.so", tokenizer)      # and tinygpt.h
pl.Generator(model).save("tinygpt", tokenizer, target="multi")          # code for several x86-64
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from planish.frontend.compiled import Compiled
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.blob import tokenizer_blob
from planish.frontend.tokenizers.stored import fits
from planish.ir.errors import ArtifactError, DataError
from planish.ir.files import need_place
from planish.ir.later import later
from planish.runtime.artifact import level_name
from planish.runtime.target import Target

shipping = later("planish.runtime.ship.generator")

EMITS = {"so": ".so", "exe": "", "obj": ".o", "header": ".h"}  # and the suffix of what is written
WEIGHTS = ("embed", "file")
MULTI = "multi"
# The processors of "multi": each makes some product faster than the one before. A level whose code
# is that of the one before is left out, and an `ONLY_WITH` whose other one is.
LEVELS = (
    "x86-64-v2",  # 128 bits: all x86-64 processors since 2009 or so
    "x86-64-v3",  # 256 bits, fma: Haswell, Zen
    "x86-64-v4",  # 512 bits: Skylake-X
    "cascadelake",  # int8: vpdpbusd; also Ice Lake, Zen 4
    "cooperlake",  # bf16: vdpbf16ps; Zen 4 and 5
    "sapphirerapids",  # bf16: matrix unit; its vdpbf16ps is slower than fma
)
ONLY_WITH = {"sapphirerapids": "cooperlake"}


def save_generator(
    maker: Any, path: Path, tokenizer: Tokenizer | None, weights: str, prefix: str,
    target: str | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """Write a generator; what arguments and result mean stands at `Generator.save`."""
    known = ", ".join(filter(None, EMITS.values()))
    if path.suffix not in EMITS.values():
        raise ArtifactError(f"{path}: generators are saved as {known}, or without a suffix")
    if path.suffix == EMITS["exe"] and tokenizer is None:
        raise ArtifactError(
            f"{path}: a program for the shell needs a tokenizer: name one (--tokenizer FILE), "
            "or write a library, which needs none"
        )
    check_names(path, weights, prefix)
    if maker.batch != 1 or maker.greedy:
        raise ArtifactError("a generator is saved for one text, and not greedy")
    if tokenizer is not None and not fits(tokenizer, maker.vocab_size):
        raise DataError(f"the tokenizer has {len(tokenizer)} tokens, the model {maker.vocab_size}")
    levels = levels_of(maker, target)
    origins = [x.origin for x in next(iter(levels.values())).values()]
    more = {
        **origins[0].facts,
        "graph": hashlib.sha256("".join(x.graph for x in origins).encode()).hexdigest(),
        "options": maker.options,
        "tokenizer": None if tokenizer is None else tokenizer.to_json(),
    }
    kind = shipping.ShippedGenerator if path.suffix else shipping.ShippedProgram
    shipped = kind(
        levels=levels, more=more, prefix=prefix, context=maker.context,
        vocabulary=maker.vocab_size, piece=maker.piece,
        words=b"" if tokenizer is None else tokenizer_blob(tokenizer),
    )  # fmt: skip
    if path.suffix == EMITS["header"]:
        shipped.save_header(path)
    else:
        shipped.save(path, inside=weights == "embed")
    return tuple(levels)


def levels_of(maker: Any, target: str | None) -> dict[str, dict[str, Compiled]]:
    """The programs of a generator for each level that `target` means, by the name of the level."""
    if target == MULTI:
        return _multi(maker)
    machines = [Target.parse(x) for x in target.split(",")] if target else [maker.target]
    names = [level_name(x) for x in machines]
    if twice := [x for x in names if names.count(x) > 1]:
        raise DataError(f"target {target}: {twice[0]} is there twice")
    if len(kinds := sorted({x.arch for x in machines})) > 1:
        raise DataError(f"target {target}: one file has code for one of {', '.join(kinds)}")
    return {name: maker.programs(x) for name, x in zip(names, machines, strict=True)}


def _multi(maker: Any) -> dict[str, dict[str, Compiled]]:
    """The programs of those `LEVELS` that gain something."""
    found: dict[str, dict[str, Compiled]] = {}
    last: list[tuple[bytes, ...]] = []
    for name in LEVELS:
        if ONLY_WITH.get(name, name) not in (name, *found):
            continue
        programs = maker.programs(Target.parse(name))
        code = [x.image.code for x in programs.values()]
        if code != last:
            found[name], last = programs, code
    return found


def check_names(path: Path, weights: str, prefix: str) -> None:
    """Refuse what artifacts of host code cannot be called."""
    if weights not in WEIGHTS:
        raise DataError(f"weights are one of {', '.join(WEIGHTS)}, got {weights!r}")
    if not prefix.isidentifier() or not prefix.isascii():
        raise DataError(f"a prefix is letters, digits and _, got {prefix!r}")
    need_place(path)
