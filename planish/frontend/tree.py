"""Arguments and results made of tuples, lists and dicts: flattening, and putting back together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from planish.ir.errors import TraceError


def flatten(tree: Any, path: str = "", join: str = "/") -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf, in order; a path is the keys from the top: "1/h.0.weight"."""
    found: list[tuple[str, Any]] = []
    for key, child in _children(tree):
        found += flatten(child, f"{path}{join}{key}" if path else str(key), join)
    return found if _is_branch(tree) else [(path, tree)]


def _is_branch(tree: Any) -> bool:
    return isinstance(tree, (Mapping, tuple, list))


def is_tree(x: Any) -> bool:
    """Whether `x` holds arrays, rather than being one (a list of numbers is one)."""
    if isinstance(x, Mapping):
        return True
    return isinstance(x, (tuple, list)) and any(hasattr(i, "shape") or is_tree(i) for i in x)


def _children(tree: Any) -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        if not all(isinstance(key, str) for key in tree):
            raise TraceError("the keys of a dict of arrays are strings")
        return list(tree.items())
    if isinstance(tree, (tuple, list)):
        return [(str(i), child) for i, child in enumerate(tree)]
    return []


def map_leaves(fn: Callable[[Any], Any], tree: Any) -> Any:
    """The same tree with `fn(leaf)` for every leaf; named tuples and dicts keep their class."""
    if isinstance(tree, Mapping):
        return {key: map_leaves(fn, child) for key, child in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_leaves(fn, child) for child in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_leaves(fn, child) for child in tree)
    return fn(tree)


def treedef_of(tree: Any) -> tuple[str, ...] | None:
    """The paths of a tree's leaves, as `Graph.treedef` keeps them; None for a single leaf."""
    return tuple(path for path, _ in flatten(tree)) if _is_branch(tree) else None


def restore(treedef: tuple[str, ...] | None, leaves: Sequence[Any]) -> Any:
    """Leaves in the form that `treedef` describes: one array, a tuple, a dict, or nested."""
    if treedef is None:
        return leaves[0]
    nested: dict[str, Any] = {}
    for path, leaf in zip(treedef, leaves, strict=True):
        *above, last = path.split("/")
        place = nested
        for key in above:
            place = place.setdefault(key, {})
        place[last] = leaf
    return _with_tuples(nested)


def _with_tuples(tree: Any) -> Any:
    """Dicts whose keys are 0, 1, 2 ... become tuples."""
    if not isinstance(tree, dict):
        return tree
    children = [_with_tuples(child) for child in tree.values()]
    if list(tree) == [str(i) for i in range(len(tree))]:
        return tuple(children)
    return dict(zip(tree, children, strict=True))
