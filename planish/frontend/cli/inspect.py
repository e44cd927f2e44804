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
from planish.runtime.artifact import VERSION, Level, read_shared
from planish.runtime.target import missing_here


@click.command(epilog=examples("planish inspect tinygpt.so", "planish inspect tinygpt.so --json"))
@click.argument("file", type=File)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: Path, as_json: bool) -> None:
    """Say what the program in FILE takes and returns, where it runs, and what it was made of."""
    facts = described(file)
    print(json_text(facts) if as_json else facts_text(facts))


def described(file: Path) -> dict[str, Any]:
    """Facts about a program, checksum compared."""
    if file.suffix == BUNDLE:
        return bundle_facts(file)
    found = read_shared(file)
    facts = found.facts
    image = next(iter(found.levels[0].images.values()))
    levels = {x.name: level_facts(x) for x in found.levels}
    more = (
        generator_facts(facts)
        if not found.is_program
        else {
            "program": image.name,
            "inputs": [f"{x.name}: {x.type}" for x in image.inputs],
            "outputs": [str(x.type) for x in image.outputs],
        }
    )
    return {
        **more,
        "file_bytes": file.stat().st_size,
        "version": VERSION,
        "pipeline": facts["pipeline"],
        "graph_sha256": facts["graph"],
        "triple": image.target.triple,
        **({"levels": levels} if len(levels) > 1 else next(iter(levels.values()))),
        "weights": len(found.weights),
        "weights_bytes": sum(x.nbytes for x in found.weights),
    }


def level_facts(level: Level) -> dict[str, Any]:
    """What is known of the code for one kind of processor."""
    return {
        "cpu": next(iter(level.images.values())).target.cpu,
        "requires": level.facts["requires"],
        "missing_here": level.missing,
        "memory": level.facts["memory"],
    }


def bundle_facts(path: Path) -> dict[str, Any]:
    """What a bundle says of itself."""
    file = read_file(path)
    facts = facts_of(file)
    programs = {
        x["target"]: {"requires": x["requires"], "missing_here": missing_here(x["requires"])}
        for x in facts["programs"]
    }
    return {
        "program": "bundle",
        "file_bytes": path.stat().st_size,
        "pipeline": facts["pipeline"],
        "graph_sha256": facts["graph"],
        "programs": programs,
        "weights": len(file.arrays) - len(programs),
    }


def generator_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What only a generator has."""
    tokenizer = facts["tokenizer"]
    return {
        "program": "generator",
        "abi": facts["abi"],
        "prefix": facts["prefix"],
        "context": facts["context"],
        "vocabulary": facts["vocabulary"],
        "options": facts.get("options", []),
        "tokenizer": None if tokenizer is None else repr(tokenizer_from_json(tokenizer)),
        "weights_file": facts["weights_file"],
    }
