"""The shapes of an equation's tensors, in letters and in the numbers of the check."""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from markupsafe import Markup

from manual_grad.catalogue.draw import Draw
from manual_grad.lectures import EQUATIONS
from manual_grad.report import prose
from manual_grad.report.mathml import indexed

Given = dict[str, tuple[int, ...]]


def rows(tag: str) -> list[tuple[str, list[tuple[Markup, Markup, str]]]]:
    """The tables of shapes: a caption, and for each tensor its name, its shape and that in the check.

    >>> rows("D-11")[0][1][0][2]
    '10×25'
    """
    return [(_caption(shapes), list(_rows(shapes, tag))) for shapes in prose.derivations(tag[0])[tag].shapes]


def _caption(shapes: prose.Shapes) -> str:
    where = ", ".join(f"{axis} = {what}" for axis, what in shapes.where)
    return f"Shapes{' of ' * bool(shapes.of)}{shapes.of}{'; ' * bool(where)}{where}"


def _rows(shapes: prose.Shapes, tag: str) -> Iterator[tuple[Markup, Markup, str]]:
    """The rows; a gradient shares a row with its tensor if they have the same shape."""
    sizes = check_sizes(shapes, tag)
    stated = dict(shapes.tensors)
    for name, axes in shapes.tensors:
        if name.startswith("d") and stated.get(name[1:]) == axes:
            continue
        names = [name] + ([f"d{name}"] if stated.get(f"d{name}") == axes else [])
        numbers = [axis_size(axis, sizes) for axis in axes]
        shown = "×".join(map(str, numbers)) if axes and None not in numbers else ""
        code = Markup(", ").join(Markup("<code>{}</code>").format(n) for n in names)
        yield code, indexed("×".join(axes) or "scalar"), shown


def check_sizes(shapes: prose.Shapes, tag: str) -> dict[str, int]:
    """The axes in numbers, from the claim that determines most of them."""
    fitting = [sizes_of(shapes, given) for given in given_of(tag)]
    return max((sizes for sizes in fitting if sizes), key=len, default={})


@functools.cache
def given_of(tag: str) -> list[Given]:
    """Tensor → shape, by the lecture's names, of the inputs of each claim."""
    (equation,) = (e for e in EQUATIONS if e.tag == tag)
    found = []
    for claim in equation.claims:
        inputs = claim.inputs(Draw(np.random.default_rng(0), np.float32))
        found.append({name: shape for key, value in inputs.items() for name, shape in _leaves(key, value)})
    return found


def _leaves(key: str, value: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The layers of a network as W1, b1, W2, …; those of a GPT's block as qkv.W, qkv.b, …"""
    if isinstance(value, dict):
        for name, leaf in value.items():
            if isinstance(leaf, dict):
                yield from ((f"{name}.{inner}", np.shape(array)) for inner, array in leaf.items())
            elif isinstance(leaf, list):
                yield from _leaves(name, leaf[0])
            else:
                yield name, np.shape(leaf)
    elif isinstance(value, list | tuple):
        for place, pair in enumerate(value, 1):
            if isinstance(pair, list | tuple) and len(pair) == 2:
                yield from ((f"{kind}{place}", np.shape(leaf)) for kind, leaf in zip("Wb", pair, strict=True))
    elif isinstance(value, np.ndarray | jax.Array):
        yield key, value.shape


def axis_size(axis: str, sizes: Mapping[str, int]) -> int | None:
    """A sum of products of axes in numbers; None where one is not known.

    >>> axis_size("H − kh + 1", {"H": 7, "kh": 3}), axis_size("k·m", {"k": 2, "m": 5}), axis_size("n", {})
    (5, 10, None)
    """
    total = 0
    for sign, term in re.findall(r"([+−]?) ?([^ +−]+)", axis):
        factors = [sizes.get(f, int(f) if f.isdigit() else -1) for f in term.split("·")]
        if -1 in factors:
            return None
        total += (-1 if sign == "−" else 1) * math.prod(factors)
    return total


def sizes_of(shapes: prose.Shapes, given: Mapping[str, tuple[int, ...]]) -> dict[str, int] | None:
    """The size of every axis in a check, from the shapes of its inputs; None if they do not match.

    Args:
        shapes: the shapes stated in the text. A number is the lecture's size; a check may use a smaller one.
        given: tensor → its shape in the check, for the tensors that are its inputs.

    >>> sizes_of(prose.parse_shapes("shapes: X N×d, W d×m"), {"X": (7, 3), "W": (3, 5)})
    {'N': 7, 'd': 3, 'm': 5}
    >>> sizes_of(prose.parse_shapes("shapes: X N×d, W m×d"), {"X": (7, 3), "W": (3, 5)})
    """
    sizes: dict[str, int] = {}
    for name, axes in shapes.tensors:
        got = given.get(name.split(" ")[0])
        if got is not None and len(axes) != len(got):
            return None
        for axis, size in zip(axes, got or (), strict=False):
            plain = axis.replace("_", "").isalnum() and axis not in dict(shapes.where)
            if (axis.isdigit() and size > int(axis)) or (plain and sizes.setdefault(axis, size) != size):
                return None
    for axis, what in shapes.where:
        if (follows := axis_size(what, sizes)) is not None:
            sizes[axis] = follows
    right = all(
        axis_size(axis, sizes) in (None, size)
        for name, axes in shapes.tensors
        for axis, size in zip(axes, given.get(name.split(" ")[0], ()), strict=False)
    )
    return sizes if right else None
