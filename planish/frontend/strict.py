"""JSON of others, read strictly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from planish.ir.errors import ArtifactError


def strict_json(path: Path | str, text: str) -> Any:
    """JSON without doubled names, NaN or endless numbers and nesting; ArtifactError for others."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise ValueError(f"{twice!r} stands twice")
        return found

    def refused(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON")

    try:
        return json.loads(text, object_pairs_hook=members, parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: bad JSON: {error!s:.200}") from error
