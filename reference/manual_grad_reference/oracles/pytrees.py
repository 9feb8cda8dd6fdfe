"""Leaves of nested lists, tuples and dicts in JAX's order, where importing JAX would take a second."""

from collections.abc import Callable
from typing import Any


def leaves(tree: Any) -> list[Any]:
    """The leaves in order; a dict's by its sorted keys."""
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    return [leaf for part in tree for leaf in leaves(part)] if isinstance(tree, list | tuple) else [tree]


def mapped(fn: Callable, first: Any, *others: Any) -> Any:
    """`fn` of each leaf, of one tree or of several that are built alike."""
    if isinstance(first, dict):
        return {key: mapped(fn, first[key], *(other[key] for other in others)) for key in first}
    if isinstance(first, list | tuple):
        return type(first)([mapped(fn, *parts) for parts in zip(first, *others, strict=True)])
    return fn(first, *others)
