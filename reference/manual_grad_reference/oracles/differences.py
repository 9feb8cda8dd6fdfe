"""Derivatives by finite differences: nothing but values of the forward function, no differentiation rule.

Along a direction the function is evaluated on a ladder of steps, on both sides. Central differences are
extrapolated to step zero, as in Ridders' method, and the function itself says which step suits it: the entry
of the extrapolation table is taken whose neighbours disagree least, and how much they disagree is the
estimate of its error. Steps that reach across a kink, or out of a logarithm's domain, spoil their part of the
table only; a kink at the point itself shows in the one-sided differences, which then do not meet. Structure
that wide steps jump over (a spike, a wave, values rounded before) shows in the finest differences, which then
do not come back to the derivative: by as much as they miss it the estimate grows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

FACTOR = float(np.pi)  # from step to step; irrational, so that values on a grid do not agree by chance
STEPS = 2.0**-4 * FACTOR ** -np.arange(12.0)  # from 0.06 to 2e-7
ORDERS = 4  # of the extrapolation
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Estimate:
    """A derivative along a line.

    Attributes:
        value: the derivative at 0.
        error: an estimate of how far off `value` is, rounding included.
        kink: the one-sided derivatives do not meet: there is none.
    """

    value: float
    error: float
    kink: bool


def derivative(before: np.ndarray, at: float, after: np.ndarray, size: float = 0.0) -> Estimate:
    """The derivative at 0 of a scalar function of one number, from its values on a ladder of steps.

    Args:
        before: the function at each of -STEPS.
        at: the function at 0.
        after: the function at each of STEPS.
        size: of the numbers that were rounded on the way, if larger than these.
    Returns:
        The derivative, with an estimate of its error.

    >>> found = derivative(np.exp(-STEPS), 1.0, np.exp(STEPS))
    >>> abs(found.value - 1) < 1e-10, found.error < 1e-9, found.kink
    (True, True, False)
    >>> derivative(np.abs(STEPS), 0.0, np.abs(STEPS)).kink
    True
    """
    sizes = np.maximum(np.maximum(np.abs(before), np.abs(after)), max(abs(at), size))
    noise = 4 * EPS * sizes / STEPS  # what rounding alone does to a difference
    value, error = _extrapolated((after - before) / (2 * STEPS), noise, 2)
    left, left_error = _extrapolated((at - before) / STEPS, 2 * noise, 1)
    right, right_error = _extrapolated((after - at) / STEPS, 2 * noise, 1)
    gap = abs(right - left)
    apart = gap > 10 * (left_error + right_error)
    kink = apart and gap > 1e-6 * max(abs(left), abs(right))
    return Estimate(value, max(error, gap / 2) if apart else error, bool(kink))


def _extrapolated(differences: np.ndarray, noise: np.ndarray, power: int) -> tuple[float, float]:
    """The limit of the differences, whose error is a series in step**power, and the error of that."""
    table, spread = differences, noise
    best, least, finest = float(table[-1]), np.inf, len(table) - 1
    for order in range(1, ORDERS + 1):
        weight = FACTOR ** (power * order)
        finer = (weight * table[1:] - table[:-1]) / (weight - 1)
        spread = np.maximum(spread[1:], spread[:-1])
        apart = np.maximum(np.abs(finer - table[1:]), np.abs(finer - table[:-1])) + spread
        apart = np.nan_to_num(apart, nan=np.inf)  # a step that leaves the domain, of a logarithm
        k = int(np.argmin(apart))
        if apart[k] < least:
            best, least, finest = float(finer[k]), float(apart[k]), k + order
        table = finer
    return best, max(least, _roughness(best, differences[finest - 1 :], noise[finest - 1 :], power))


def _roughness(best: float, differences: np.ndarray, noise: np.ndarray, power: int) -> float:
    """How far the finer differences, extrapolated once, lie from a derivative, beyond their rounding.

    On a smooth function they only round; where they do not come back to what wider steps say, there is
    something on it that wider steps have jumped over: a spike, a wave, values that were rounded before.
    """
    weight = FACTOR**power
    finer = (weight * differences[1:] - differences[:-1]) / (weight - 1)
    gaps = np.abs(finer - best) - np.maximum(noise[1:], noise[:-1])
    return float(np.max(np.nan_to_num(gaps, nan=np.inf), initial=0.0))


def directional(fn: Callable, primals: tuple, dout: PyTree, directions: tuple) -> list[Estimate]:
    """⟨dout, J v⟩ for each direction v, by differences of ⟨dout, f⟩ along v.

    Args:
        fn: the forward function of `primals`, floating-point pytrees in float64.
        primals: the point.
        dout: weights for each output.
        directions: built as `primals`, each leaf with a leading axis that counts them.
    Returns:
        One estimate a direction.
    """
    values, size = line_values(fn, primals, dout, directions)
    return estimates(np.asarray(values), float(size))


def estimates(values: np.ndarray, size: float) -> list[Estimate]:
    """The derivative along each line, out of what `line_values` gives."""
    return [derivative(line[: len(STEPS)], 0.0, line[len(STEPS) :], size) for line in values]


def line_values(fn: Callable, primals: tuple, dout: PyTree, directions: tuple) -> tuple[Array, Array]:
    """What `directional` looks at, to be compiled where it is asked for often.

    Returns:
        ⟨dout, f(primals + h v) − f(primals)⟩, for each v a row, for −STEPS and STEPS a column: the difference
        is taken output by output, where it loses fewer digits. And Σ |dout f|, the size of what is rounded.
    """
    base = fn(*primals)
    offsets = jnp.asarray(np.concatenate([-STEPS, STEPS]))

    def value(v: tuple, h: Array) -> Array:
        moved = fn(*jax.tree.map(lambda x, d: x + h * d, primals, v))
        return _total(jax.tree.map(lambda weight, a, b: jnp.sum(weight * (a - b)), dout, moved, base))

    values = jax.lax.map(lambda v: jax.lax.map(lambda h: value(v, h), offsets), directions)
    return values, _total(jax.tree.map(lambda weight, out: jnp.sum(abs(weight * out)), dout, base))


def _total(terms: PyTree) -> Array:
    return jnp.stack(jax.tree.leaves(terms)).sum()
