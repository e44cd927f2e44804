"""`planish inspect`: what a compiled program says of itself; nothing of it is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from planish.frontend.bundle import facts_of
from planish.frontend.checkpoint import read_file
from planish.frontend.cli.common import File, examples, json_text
from planish.frontend.cli.table import facts_text
from planish.frontend.compiled import BUNDLE
from planish.frontend.tokenizers.stored import tokenizer_from_json
from planish.ir.errors import ArtifactError
from planish.passes.layers import report_text
from planish.runtime.artifact import VERSION, read_shared
from planish.runtime.image import Image
from planish.runtime.target import missing_here


@click.command(epilog=examples("planish inspect tinygpt.so", "planish inspect tinygpt.so --json"))
@click.argument("file", type=File)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: Path, as_json: bool) -> None:
    """Say what the program in FILE takes and returns, where it runs, and what it was made of."""
    facts = described(file)
    if as_json:
        print(json_text(facts))
        return
    layers = facts.pop("quantization")
    try:
        table = report_text(layers) if layers else None
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error
    print(facts_text({**facts, "quantization": table and f"of {len(layers)} weights"}))
    if table:
        print(f"\n{table}")


def described(file: Path) -> dict[str, Any]:
    """Facts about a program, checksum compared."""
    if file.suffix == BUNDLE:
        return bundle_facts(file)
    found = read_shared(file)
    facts = found.facts
    levels = {x.name: machine_facts(x.facts) for x in found.levels}
    more = program_facts(found.levels[0].images[""]) if found.is_program else host_facts(facts)
    return {
        **more,
        "file_bytes": file.stat().st_size,
        "version": VERSION,
        **origin_facts(facts),
        **({"levels": levels} if len(levels) > 1 else next(iter(levels.values()))),
        "weights": len(found.weights),
        "weights_bytes": sum(x.nbytes for x in found.weights),
    }


def origin_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How functions are called, and what they were compiled from."""
    return {
        "abi": facts["abi"],
        "pipeline": facts["pipeline"],
        "graph_sha256": facts["graph"],
        "quantization": facts["quantization"],
    }


def machine_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Where a program runs, and the memory it takes."""
    return {
        "triple": facts["triple"],
        "cpu": facts["cpu"],
        "requires": facts["requires"],
        "missing_here": missing_here(facts["requires"]),
        "memory": facts["memory"],
    }


def bundle_facts(path: Path) -> dict[str, Any]:
    """What a bundle says of itself."""
    file = read_file(path)
    facts = facts_of(file)
    programs = {x["target"]: machine_facts(x) for x in facts["programs"]}
    return {
        "program": "bundle",
        "file_bytes": path.stat().st_size,
        **origin_facts(facts),
        "programs": programs,
        "weights": len(file.arrays) - len(programs),
    }


def program_facts(image: Image) -> dict[str, Any]:
    """What only a program by itself has."""
    return {
        "program": image.name,
        "inputs": [f"{x.name}: {x.type}" for x in image.inputs],
        "outputs": [str(x.type) for x in image.outputs],
    }


def host_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What only artifacts have that C calls: generators, steps of training, functions."""
    if facts["kind"] == "function":
        own = {name: facts[name] for name in ("function", "inputs", "outputs", "sizes")}
    elif facts["kind"] == "step":
        own = {name: facts[name] for name in ("rows", "steps", "training")}
    else:
        tokenizer = facts["tokenizer"]
        own = {
            "options": facts.get("options", []),
            "tokenizer": None if tokenizer is None else repr(tokenizer_from_json(tokenizer)),
        }
    texts = facts["kind"] != "function"
    return {
        "program": facts["kind"],
        "prefix": facts["prefix"],
        **({"context": facts["context"], "vocabulary": facts["vocabulary"]} if texts else {}),
        **own,
        "weights_file": facts["weights_file"],
        "weights_checksum": f"{facts['weights_checksum']} (compared when C makes a model)",
    }
