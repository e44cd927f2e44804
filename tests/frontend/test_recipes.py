"""Several pipelines in one option of the command line: how they are told apart."""

from __future__ import annotations

import click
import pytest

from planish.frontend.cli.recipes import named, split
from planish.ir.errors import IRError, ParseError

ONE = "simplify,fold,cse,prune{ratio=0.7,method=wanda},fuse"
TEXT = 'expand,quantize{skip="a;b,}c|wte"},fuse'


@pytest.mark.parametrize(
    "text, expected",
    [
        ("O2,int8", ["O2", "int8"]),
        (" O2 , auto,", ["O2", "auto"]),
        ("bf16,int8", ["bf16", "int8"]),  # bf16 is a pass, too
        (ONE, [ONE]),
        ("simplify,expand", ["simplify,expand"]),
        ("expand,bf16,fold", ["expand,bf16,fold"]),
        (f"O2; {ONE}", ["O2", ONE]),
        (f"{ONE};", [ONE]),
        (f"{TEXT};int8", [TEXT, "int8"]),
        ("int8", ["int8"]),
        ("shrink{heads=0.5},int8", ["shrink{heads=0.5},int8"]),
        ("O2; prune{ratio=0.7},sparse_int8", ["O2", "prune{ratio=0.7},sparse_int8"]),
    ],
)
def test_names_and_lists(text: str, expected: list[str]) -> None:
    assert named(text) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("int3", r"unknown pipeline or pass 'int3'"),
        ("O2,int3", r"unknown pass 'int3'.*read as one list of passes; ',' separates"),
        ("O2,prune{ratio=0.7", r"expected ',', found 'the end'.*read as one list of passes;"),
        ("int8{bits=4},fuse", r"expected 'end', found '\{'.*read as one list of passes;"),
        (
            "O2,shrink{heads=0.5},int8",
            r"must not run after fuse.*are names of pipe.*';' does",
        ),
        ("expand,fusse", r"unknown pass 'fusse'; did you mean 'fuse'.*read as one list of passes;"),
        ("O2;expand,fusse", r"unknown pass 'fusse'.*read as 2 between ';'; ',' separates passes"),
    ],
)
def test_mistakes_say_what_was_understood(text: str, message: str) -> None:
    with pytest.raises((ParseError, IRError), match=message):
        named(text, "--recipe")


@pytest.mark.parametrize("text", ["", ",", " ; ,"])
def test_none(text: str) -> None:
    with pytest.raises(click.UsageError, match="--recipe names none"):
        named(text, "--recipe")


@pytest.mark.parametrize("text", ['a{b="c', "a{b=c,d", "a},b", '"', "{{a},b}"])
def test_what_nothing_closes_is_left_to_the_parser(text: str) -> None:
    assert "".join(split(text, ",")).replace(",", "") == text.replace(",", "")
