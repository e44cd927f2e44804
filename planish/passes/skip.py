"""The option `skip` of passes that change weights: a pattern of the names of those that stay."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from planish.ir.errors import DataError


def with_skipped(what: str, reasons: Mapping[str, str], skip: str) -> dict[str, str]:
    """For each weight why it stays, those that match `skip` with that reason.

    A name matches with and without ".weight". DataError where none does: nothing is skipped by
    mistake, or kept by one.
    """
    if not skip:
        return dict(reasons)
    skipped = [name for name in reasons if matches(name, skip)]
    if not skipped:
        listed = ", ".join(reasons) or "none"
        raise DataError(f"{what}: skip={skip!r} matches no weight of {listed}")
    return {**reasons, **dict.fromkeys(skipped, f"its name matches {skip!r}")}


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern names a weight, with or without ".weight"."""
    return any(fnmatchcase(x, pattern) for x in (name, name.removesuffix(".weight")))
