"""How a test says that something is refused: by which builtin, and with which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import planish as pl


def refusal(kind: type[Exception], call: Callable[..., Any], *given: Any) -> str:
    """The message with which `call` is refused: by an error of planish that is also a `kind`."""
    with pytest.raises(kind) as caught:
        call(*given)
    assert isinstance(caught.value, pl.PlanishError), repr(caught.value)
    return str(caught.value)


def says(text: str, *words: str) -> None:
    """A message has all of these words."""
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in: {text}"
