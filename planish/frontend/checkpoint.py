"""Models and trainings as files: one .safetensors file, with everything that is not an array in
its metadata.

    planish.format     "1", or "2" where arrays have lost their zeros (see `sparse_files`); a file
                       with a higher number is refused
    planish.model      JSON: the class and the configuration
    planish.tokenizer  JSON, where there is a tokenizer
    planish.training   JSON, in checkpoints of a training: steps done, and what must match
    planish.sha256     of all of the above and of the arrays

Weights have their state-dict names; optimiser state and losses begin with "training/", so that a
checkpoint of a training loads as a model, too. Files are replaced in one step: whoever is stopped
in the middle leaves the old one whole; a link is replaced, what it points to is not touched.
Loading checks everything before it changes anything.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors

from planish.frontend.formats.assemble import blank
from planish.frontend.sparse_files import KEY as BITMAPS
from planish.frontend.sparse_files import with_zeros, without_zeros
from planish.frontend.strict import strict_json
from planish.frontend.tokenizers.base import Tokenizer
from planish.frontend.tokenizers.stored import tokenizer_from_json
from planish.ir import types as t
from planish.ir.errors import ArtifactError, PlanishError
from planish.ir.files import write_atomically
from planish.ir.mapped import mapped, release
from planish.ir.store import KEY as GRAPH
from planish.ir.store import file_bytes

FORMAT = 2
READ = ("1", "2")
UNSAID = {"accumulate": 1, "forward": ""}  # what trainings are that do not say it
# The file format's names of dtypes
KINDS = {
    "F64": t.f64, "F32": t.f32, "F16": t.f16, "BF16": t.bf16, "I64": t.i64, "I32": t.i32,
    "I8": t.i8, "U32": t.u32, "U8": t.u8, "BOOL": t.boolean,
}  # fmt: skip
TRAINING = "training/"  # how the names of arrays begin that are no weights
EVALUATIONS, LOSSES = TRAINING + "evaluations", TRAINING + "losses"
CHECKSUM = "planish.sha256"

M = TypeVar("M")


@dataclass(frozen=True)
class File:
    """What a file holds, checked to be whole."""

    path: Path
    metadata: dict[str, str]
    arrays: dict[str, np.ndarray]

    def json(self, name: str) -> Any:
        """The value of planish.<name>, None where there is none."""
        text = self.metadata.get(f"planish.{name}")
        return None if text is None else strict_json(self.path, text)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The arrays that are weights of the model."""
        return {n: x for n, x in self.arrays.items() if not n.startswith(TRAINING)}

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, where there is one."""
        text = self.metadata.get("planish.tokenizer")
        try:
            return None if text is None else tokenizer_from_json(text)
        except PlanishError as error:
            raise ArtifactError(f"{self.path}: {error}") from error


@dataclass(frozen=True)
class Snapshot:
    """A training between two steps. `facts` must be the same where it is resumed."""

    facts: dict[str, Any]
    weights: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    losses: list[float]
    evaluations: list[tuple[int, float]]


# Models


def save(model: Any, path: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> None:
    """Write a model (and its tokenizer) as one file, for `TinyGPT.from_pretrained`."""
    write_file(path, model.state_dict(), model_facts(model, tokenizer))


def model_facts(model: Any, tokenizer: Tokenizer | None) -> dict[str, str]:
    """The metadata that describes a model."""
    config = {"class": type(model).__name__, "config": getattr(model, "config", {})}
    found = {"planish.model": json.dumps(config)}
    return found if tokenizer is None else {**found, "planish.tokenizer": tokenizer.to_json()}


def load(cls: type[M], file: File, **options: Any) -> M:
    """The model of class `cls` in a file; `options` replace those of the file."""
    found = file.json("model")
    if GRAPH in file.metadata:
        raise ArtifactError(
            f"{file.path}: holds a graph, as compress --out and pl.save_graph write it, no model; "
            f"compiled: pl.compile(pl.load_graph({str(file.path)!r})).save('x.so')"
        )
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise ArtifactError(f"{file.path}: holds arrays, but no model written by planish")
    if found.get("class") != cls.__name__:
        raise ArtifactError(f"{file.path}: holds a {found.get('class')}, not a {cls.__name__}")
    config = {**found["config"], **options}
    unknown = [name for name in config if name not in inspect.signature(cls).parameters]
    if unknown:
        raise ArtifactError(
            f"{file.path}: {cls.__name__} has no option {', '.join(map(repr, unknown))}"
        )
    model = blank(cls, file.path, config, len(file.arrays))
    try:
        model.load_state_dict(file.weights)
    except PlanishError as error:
        raise ArtifactError(f"{file.path}: {error}") from error
    return model


# Trainings


def save_snapshot(
    path: str | os.PathLike[str], model: Any, tokenizer: Tokenizer | None, snapshot: Snapshot
) -> None:
    """Write a training, so that it can be resumed, or its model loaded."""
    arrays = {
        **model.state_dict(),
        **snapshot.weights,
        **{TRAINING + name: array for name, array in snapshot.state.items()},
        LOSSES: np.array(snapshot.losses, np.float64),
        EVALUATIONS: history(snapshot),
    }
    write_file(path, arrays, training_facts(model_facts(model, tokenizer), snapshot))


def training_facts(metadata: Mapping[str, str], snapshot: Snapshot) -> dict[str, str]:
    """The metadata of a training's file, of a model that has this metadata."""
    facts = {"planish.training": json.dumps(snapshot.facts), "planish.format": READ[0]}
    return {**metadata, **facts}


def history(snapshot: Snapshot) -> np.ndarray:
    """The evaluations of a training as the file has them: f64 [N, 2], steps and losses."""
    return np.array(snapshot.evaluations, np.float64).reshape(-1, 2)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """What differs, each by itself; options that are None may be missing, as in older files."""
    for name in wanted.keys() | found.keys():
        a, b = found.get(name), wanted.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b)
        elif a != b:
            yield f"{name} is {a} in the file, {b} here"


def load_snapshot(path: str | os.PathLike[str], wanted: Snapshot) -> Snapshot:
    """The training in a file; ArtifactError, listing what differs, unless it fits `wanted`.

    Where facts differ, arrays are not compared: their shapes follow from the configuration.
    """
    file = read_file(path)
    facts = file.json("training")
    if not isinstance(facts, dict):
        raise ArtifactError(f"{file.path}: holds no training that could be resumed")
    facts = {**UNSAID, **facts}
    if told := sorted(_differences({n: facts.get(n) for n in wanted.facts}, wanted.facts)):
        raise ArtifactError(f"{file.path}: another training: {'; '.join(told)}")
    mistakes = []
    arrays = {**file.weights, **{n: x for n, x in file.arrays.items() if n not in file.weights}}
    state = {TRAINING + name: array for name, array in wanted.state.items()}
    for name, array in {**wanted.weights, **state}.items():
        found = arrays.get(name)
        if found is None:
            mistakes.append(f"missing: {name}")
        elif (found.shape, found.dtype) != (array.shape, array.dtype):
            mistakes.append(
                f"{name} is {found.dtype}{list(found.shape)} in the file, "
                f"{array.dtype}{list(array.shape)} here"
            )
    losses = arrays.get(LOSSES, np.zeros((0, 0)))
    evaluations = arrays.get(EVALUATIONS, np.zeros(0))
    if losses.ndim != 1 or evaluations.shape[1:] != (2,):
        mistakes.append("missing: the losses")
    if mistakes:
        raise ArtifactError(f"{file.path}: another training:\n  " + "\n  ".join(mistakes))
    return Snapshot(
        facts,
        {name: arrays[name] for name in wanted.weights},
        {name: arrays[TRAINING + name] for name in wanted.state},
        losses.tolist(),
        [(int(step), float(loss)) for step, loss in evaluations],
    )


# Files


def write_file(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write arrays and metadata, replacing an old file in one step."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    plain, bitmaps = without_zeros(whole)
    facts = {**metadata, **bitmaps, "planish.format": str(FORMAT if bitmaps else 1)}
    facts[CHECKSUM] = digest(plain, facts)
    write_atomically(Path(path), file_bytes(plain, facts))


def read_file(path: str | os.PathLike[str]) -> File:
    """A safetensors file; ArtifactError, naming it, unless it is whole and not too new."""
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"no such file: {source}")
    if not source.is_file():
        raise ArtifactError(f"{source}: not a file")
    try:
        # the library checks offsets, sizes and dtypes against the file before it reads an array
        with safetensors.safe_open(source, framework="np") as opened:
            header = _header(source)
            metadata = opened.metadata() or {}
            _check_format(source, metadata)
            arrays = dict(_arrays(source, opened, header))
        for array in arrays.values():
            t.dtype(array.dtype)
            array.flags.writeable = False  # so that a model may share it
    except ArtifactError:
        raise
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{source}: not a safetensors file: {error!s:.300}") from error
    if set(header) - {"__metadata__"} != set(arrays):
        raise ArtifactError(f"{source}: the header names other arrays than the file holds")
    wanted = metadata.pop(CHECKSUM, None)
    ours = wanted is not None or "planish.format" in metadata or "planish.model" in metadata
    if ours and wanted != digest(arrays, metadata):
        raise ArtifactError(f"{source}: damaged: the contents do not match their checksum")
    if ours and (shapes := metadata.pop(BITMAPS, None)) is not None:
        arrays = with_zeros(source, arrays, strict_json(source, shapes))
    return File(source, metadata, arrays)


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    found = metadata.get("planish.format")
    if found is None or found in READ:
        return
    newer = found.isdecimal() and found.isascii() and len(found) < 9 and int(found) > FORMAT
    raise ArtifactError(
        f"{path}: written by a newer planish, in format {found}; this one reads format {FORMAT}, "
        "upgrade planish"
        if newer
        else f"{path}: unknown format {found[:20]!r}"
    )


def _arrays(
    path: Path, opened: safetensors.safe_open, header: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a file: where they lie in it, so that what is not read takes no memory."""
    data = mapped(path)
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    for name in opened.keys():  # noqa: SIM118
        facts = header.get(name, {})
        if facts.get("dtype") not in KINDS:
            yield name, opened.get_tensor(name)
            continue
        first, last = (start + offset for offset in facts["data_offsets"])
        array = data[first:last].view(KINDS[facts["dtype"]].numpy).reshape(facts["shape"])
        yield name, array if array.flags.aligned else array.copy()


def _header(path: Path) -> dict[str, Any]:
    """The header, read for what the library lets pass: a name that stands twice."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return strict_json(path, file.read(length).decode("utf-8"))


def digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """A checksum of everything in a file."""
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(arrays.items()):
        found.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        found.update(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
        release(array)
    return found.hexdigest()
