"""Whether float64 arithmetic is exact for given numbers, and the degree of the polynomial computed.

A program of sums, products, selections and permutations of axes, run on integers (or multiples of ½, ¼, …),
never rounds as long as the magnitudes of the terms of each sum add up to less than 2⁵³ of its smallest unit:
then every partial sum is a float64, in whatever order it is taken. `evaluate` runs a program and tracks these
magnitudes.

Two such programs can be compared to the last bit. By the Schwartz–Zippel lemma, if they differ by a nonzero
polynomial of degree d, they agree on integers drawn uniformly from a set of size S with probability at most
d / S. With ReLU the polynomial differs from piece to piece: the bound then applies to a mistake that is the
same polynomial on all the pieces where the draws fall, such as a sign, a factor or an axis, and not to pieces
that no draw reaches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from manual_grad_reference.oracles.in_numpy import step
from manual_grad_reference.oracles.walk import floating, walk

LARGEST = 2.0**53  # every integer up to this one is a float64
# Primitives that move, copy or add entries: applied to the magnitudes in the same way.
_MOVES = {
    "reshape", "squeeze", "broadcast_in_dim", "transpose", "slice", "pad", "concatenate", "rev", "split",
    "reduce_sum", "cumsum", "add", "add_any", "dynamic_slice", "dynamic_update_slice", "gather", "scatter",
    "scatter-add", "stack", "unstack", "copy", "copy_p", "stop_gradient", "convert_element_type",
}  # fmt: skip
_PRODUCTS = {"mul", "dot_general", "conv_general_dilated"}
_SAME = {"neg", "abs"}


class NotExactError(ValueError):
    """A program is not exact in float64, or is not a polynomial."""


@dataclass(frozen=True)
class Bound:
    """Facts about an array that are tracked along with its values.

    Attributes:
        size: for each entry, a bound on the sum of the magnitudes of all its terms.
        degree: the degree of the polynomial in the inputs, on each piece.
        unit: every entry is a multiple of 2**-unit.
    """

    size: Any
    degree: int
    unit: int


def unit_of(value: Any) -> int:
    """The k for which every entry is a multiple of 2⁻ᵏ.

    >>> unit_of(np.array([3.0, 0.25]))
    2
    """
    entries = np.asarray(value, np.float64)
    for k in range(31):
        if (entries * 2.0**k == np.round(entries * 2.0**k)).all():
            return k
    raise NotExactError("an entry is not a multiple of a power of ½")


def evaluate(fn: Callable, inputs: Any) -> tuple[Any, float, int]:
    """Run `fn(inputs)` in NumPy and track the magnitudes.

    Args:
        fn: a function of one pytree.
        inputs: that pytree; its floating-point leaves hold integers and are the variables of the polynomial.
    Returns:
        The result of `fn`; the largest possible magnitude of any intermediate sum, in its own unit, to be
        compared with `LARGEST`; the degree.
    Raises:
        NotExactError: `fn` is not a polynomial on each piece, or divides by a number that is not a power of
            two.
    """
    return evaluator(fn, inputs)(inputs)


def evaluator(fn: Callable, like: Any) -> Callable[[Any], tuple[Any, float, int]]:
    """The function that evaluates `fn` for any inputs with the shapes of `like`; JAX traces `fn` once."""
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(like)
    structure = jax.tree.structure(shapes)

    def evaluated(inputs: Any) -> tuple[Any, float, int]:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
        bounds = [Bound(abs(leaf), 1, 0) if floating(leaf) else None for leaf in leaves]
        peaks = [0.0]

        def followed(eqn: Any, given: list, known: list) -> list[tuple]:
            results = _step(eqn, given, known)
            peaks.extend(float(np.max(b.size, initial=0.0)) * 2.0**b.unit for _, b in results if b)
            return results

        found = walk(closed, leaves, bounds, followed, _constant)
        degree = max((bound.degree for _, bound in found if bound), default=0)
        return jax.tree.unflatten(structure, [value for value, _ in found]), max(peaks), degree

    return evaluated


def _step(eqn: Any, given: list, known: list) -> list[tuple]:
    """Evaluate one primitive: the value of each output and, if it is floating-point, its `Bound`."""
    given = [np.asarray(value, atom.aval.dtype) for value, atom in zip(given, eqn.invars, strict=True)]
    values = step(eqn, given)
    if not floating(values[0]):
        return [(value, None) for value in values]
    bounds = [bound for bound in known if bound]
    if not bounds:  # computed from integers or booleans: a mask, an index
        return [(value, Bound(abs(value), 0, 0)) for value in values]
    sizes, degree, unit = _rule(eqn, given, known, bounds)
    return [(value, Bound(size, degree, unit)) for value, size in zip(values, sizes, strict=True)]


def _rule(eqn: Any, given: list, known: list, bounds: list[Bound]) -> tuple:
    """The sizes, the degree and the unit of a primitive's result."""
    name = eqn.primitive.name
    operands = [bound.size if bound else value for value, bound in zip(given, known, strict=True)]
    degree, unit = max(b.degree for b in bounds), max(b.unit for b in bounds)
    if name in _MOVES:
        return step(eqn, operands), degree, unit
    if name in _PRODUCTS:
        return step(eqn, operands), sum(b.degree for b in bounds), sum(b.unit for b in bounds)
    if name in _SAME:
        return operands, degree, unit
    if name == "sub":
        return [np.add(*operands)], degree, unit
    if name in ("max", "min"):
        return [np.maximum(*operands)], degree, unit
    if name == "select_n":
        largest = operands[1]
        for case in operands[2:]:
            largest = np.maximum(largest, case)
        return [largest], degree, unit
    if name in ("integer_pow", "square"):
        power = eqn.params.get("y", 2)
        if power >= 0:
            return [operands[0] ** power], degree * power, unit * power
    if name == "div" and isinstance(eqn.invars[1], Literal):
        exponent = np.log2(abs(float(eqn.invars[1].val)))
        if exponent == round(exponent):
            return [operands[0] / abs(given[1])], degree, max(unit + int(exponent), 0)
        raise NotExactError(f"divides by {eqn.invars[1].val}, which is not a power of two")
    raise NotExactError(f"not a polynomial: it calls {name}")


def _constant(value: Any) -> Bound | None:
    if not floating(value):
        return None
    return Bound(np.where(np.isinf(value), 0, np.abs(value)), 0, unit_of(value))  # −∞ is never the maximum
