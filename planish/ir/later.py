"""Modules that are imported when something of them is first used."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any


class later:
    """The module of this name, as soon as an attribute of it is asked for.

        nx = later("networkx")

    For what takes long to import, or much memory, and is not needed by everybody.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def _module(self) -> ModuleType:
        return import_module(self._name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
