"""Leaves of nested lists, tuples and dicts in JAX's order, without importing JAX, which takes a second."""

from collections.abc import Callable
from typing import Any


def leaves(tree: Any) -> list[Any]:
    """The leaves in order; those of a dict by sorted key."""
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    return [leaf for part in tree for leaf in leaves(part)] if isinstance(tree, list | tuple) else [tree]


def mapped(fn: Callable, first: Any, *others: Any) -> Any:
    """Apply `fn` to the leaves of one tree, or of several with the same structure."""
    if isinstance(first, dict):
        return {key: mapped(fn, first[key], *(other[key] for other in others)) for key in first}
    if isinstance(first, list | tuple):
        return type(first)([mapped(fn, *parts) for parts in zip(first, *others, strict=True)])
    return fn(first, *others)
