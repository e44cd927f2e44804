"""The named pipelines, and what must come before what."""

from __future__ import annotations

import re
from dataclasses import dataclass

from planish.ir.errors import DTypeError, IRError, ParseError
from planish.passes.bf16 import Bf16
from planish.passes.bitmap import Bitmap
from planish.passes.caches import quantize_caches
from planish.passes.chunk import Chunk
from planish.passes.cse import cse
from planish.passes.expand import Expand
from planish.passes.fold import fold
from planish.passes.fuse import Fuse
from planish.passes.mixed import mixed
from planish.passes.pipeline import Pipeline, pass_name, unknown
from planish.passes.pushup import pushup
from planish.passes.quantize import Quantize
from planish.passes.registry import PASSES
from planish.passes.remat import Remat
from planish.passes.simplify import simplify
from planish.passes.split_k import split_k

CLEAN = Pipeline(simplify, fold, cse, Expand(), simplify, cse)
NARROW = Pipeline(Bf16(), cse, fold, simplify)
SMALL = Pipeline(Quantize(), cse, fold, simplify)
TINY = Pipeline(Quantize(bits=4)) + SMALL
FAST = Pipeline(pushup, cse, Chunk(), split_k, Fuse())
TRAIN = Pipeline(Chunk(), Remat(), Fuse())

PIPELINES = {
    "O0": Pipeline(Expand()),  # one kernel per node: what every other pipeline is compared with
    "O1": CLEAN,
    "O2": CLEAN + FAST,
    "train": CLEAN + TRAIN,  # for graphs with gradients; weights are inputs
    "train_bf16": CLEAN + Pipeline(mixed, simplify, cse) + TRAIN,  # products of bf16
    "bf16": CLEAN + NARROW + FAST,  # weights stored and multiplied as bf16
    "int8": CLEAN + SMALL + FAST,  # weights stored as i8, products of i8
    "int4": CLEAN + TINY + FAST,  # weights of 4 bits in groups, tables as i8, activations too
    # keys and values of generation as i8, too
    "int8_cache": CLEAN + SMALL + Pipeline(quantize_caches) + FAST,
    "int4_cache": CLEAN + TINY + Pipeline(quantize_caches) + FAST,
    "sparse": CLEAN + Pipeline(Bitmap()) + FAST,  # for pruned models: weights without their zeros
    "sparse_int8": CLEAN + SMALL + Pipeline(Bitmap()) + FAST,
}


@dataclass(frozen=True)
class Before:
    """Where both run, `first` runs before `second` does for the first time."""

    first: str
    second: str


@dataclass(frozen=True)
class Then:
    """Where `first` runs, `second` runs after it."""

    first: str
    second: str


@dataclass(frozen=True)
class Not:
    """`late` never runs after `early` has."""

    late: str
    early: str


ORDER = (
    Before("simplify", "cse"),  # canonical operands merge more often
    Before("simplify", "fold"),  # constants that meet fold as one
    Before("fold", "expand"),  # a composite of constants is one value, its parts are many
    Before("expand", "pushup"),  # slices pass through primitives, not through norms
    Before("expand", "fuse"),  # composites without a kernel fit in none
    Before("expand", "bf16"),  # products inside of composites are seen
    Then("bf16", "fold"),  # weights are rounded once
    Then("bf16", "cse"),  # a table that is the head, too, is stored once
    Then("bf16", "simplify"),  # attention rounds its result
    Before("grad", "lift"),  # gradients name the params
    Not("cse", "remat"),  # cse would merge what remat computes twice
    Not("pushup", "fuse"),  # nothing moves into or out of a kernel
    Not("simplify", "fuse"),  # nor is it rewritten
    Not("grad", "fuse"),  # nor differentiated
    Not("bf16", "fuse"),  # nor rounded
    Before("prune", "quantize"),  # scales fit what is left
    Before("prune", "bf16"),
    Not("prune", "bitmap"),  # nor are the zeros seen that it makes later
    Not("prune", "fuse"),
    Before("shrink", "expand"),  # activations are whole
    Before("shrink", "gptq"),  # what is rounded has its shape
    Before("shrink", "quantize"),  # weights are float
    Before("shrink", "bf16"),
    Not("shrink", "bitmap"),
    Not("shrink", "fuse"),
    Not("quantize", "bitmap"),  # integers are what is stored
    Not("bf16", "bitmap"),
    Not("fold", "bitmap"),  # it would find the params that it makes
    Not("bitmap", "fuse"),
    Before("expand", "quantize"),  # as for bf16
    Before("smooth", "expand"),  # norms are whole
    Before("smooth", "gptq"),  # what is rounded stays so
    Before("smooth", "quantize"),
    Before("expand", "gptq"),
    Then("gptq", "quantize"),  # which rounds to where it has moved the weights
    Then("quantize", "fold"),  # weights are rounded, and their scales found, once
    Then("quantize", "cse"),  # what several weights multiply is quantized once
    Not("quantize", "fuse"),
    Not("quantize_caches", "pushup"),  # it looks for attention that reads a cache as it is
    Not("quantize_caches", "fuse"),
    Not("fake_quantize", "grad"),  # gradients are those of rounded weights
    Not("grad", "quantize"),  # integers have none
    Before("quantize", "bf16"),  # what is left may become bf16; the other way round nothing is f32
    Before("expand", "mixed"),  # as for bf16
    Then("mixed", "simplify"),
    Before("mixed", "chunk"),  # what all chunks read is rounded once
    Before("bf16", "chunk"),
    Before("quantize", "chunk"),
    Before("expand", "chunk"),  # softmax and loss are rows then
    Before("chunk", "remat"),  # what is kept is smaller then
    Not("pushup", "chunk"),  # the slices stay where they are
    Not("chunk", "fuse"),
    Before("quantize", "split_k"),  # a product is quantized as one
    Before("bf16", "split_k"),
    Before("bitmap", "split_k"),
    Not("split_k", "fuse"),
    Not("mixed", "fuse"),
    Not("grad", "mixed"),  # it is gradients that are to be computed in bf16
    Not("grad", "bf16"),  # gradients of rounded weights are none of the weights
    Not("remat", "fuse"),  # nor computed twice
)


def check_order(name: str, pipeline: Pipeline) -> None:
    """Refuse a pipeline that breaks `ORDER`, which documents the lists of passes above."""
    names = [pass_name(step) for step in pipeline.passes]
    for rule in ORDER:
        match rule:
            case Before(first, second):
                if {first, second} <= {*names} and names.index(first) > names.index(second):
                    raise IRError(f"pipeline {name}: {first} must run before {second}")
            case Then(first, second):
                if first in names and second not in names[names.index(first) :]:
                    raise IRError(f"pipeline {name}: {second} must run after {first}")
            case Not(late, early):
                if early in names and late in names[names.index(early) :]:
                    raise IRError(f"pipeline {name}: {late} must not run after {early}")


for _name, _pipeline in PIPELINES.items():
    check_order(_name, _pipeline)


def pipeline(named: str | Pipeline) -> Pipeline:
    """A pipeline by its name or its text; one that is a pipeline already is returned.

    In a text, the name of a pipeline stands for its passes: shrink{heads=0.5},int8; what is a pass,
    too (bf16), is that. IRError where passes are then in an order that `ORDER` refuses.
    """
    if isinstance(named, Pipeline):
        return named
    if not isinstance(named, str):
        raise DTypeError(f"a pipeline is a name, a text or a Pipeline, got {named!r}")
    if named in PIPELINES:
        return PIPELINES[named]
    if named.isidentifier() and named not in PASSES:
        raise ParseError(unknown("pipeline or pass", named, list({**PIPELINES, **PASSES})))
    made = Pipeline.parse(named, {**PIPELINES, **PASSES})
    if (PIPELINES.keys() - PASSES.keys()).intersection(re.findall(r"\w+", named)):
        check_order(named, made)
    return made
