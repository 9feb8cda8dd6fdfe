"""Derivatives by finite differences: from values of the forward function, without differentiation rules.

Along a direction the function is evaluated on both sides of the point at a ladder of steps. Central
differences are extrapolated to step zero, as in Ridders' method. The step is chosen from the values: of the
extrapolation table, the entry is used whose neighbours disagree least, and their disagreement estimates its
error. Steps that cross a kink or leave a logarithm's domain spoil only their part of the table. A kink at the
point itself shows in the one-sided differences, which do not converge to the same limit. Structure that wide
steps jump over (a spike, a wave, rounded values) shows in the finest differences, which then deviate from the
derivative; the error estimate grows by that deviation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

FACTOR = float(np.pi)  # ratio of steps; irrational, so that values on a grid do not agree by chance
STEPS = 2.0**-4 * FACTOR ** -np.arange(12.0)  # from 0.06 to 2e-7
ORDERS = 4  # of the extrapolation
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Estimate:
    """A derivative along a line.

    Attributes:
        value: the derivative at 0.
        error: an estimate of the error of `value`, including rounding.
        kink: whether the one-sided derivatives differ, so that there is no derivative.
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
        size: the magnitude of the numbers that were rounded on the way, if larger than these.
    Returns:
        The derivative, with an estimate of its error.

    >>> found = derivative(np.exp(-STEPS), 1.0, np.exp(STEPS))
    >>> abs(found.value - 1) < 1e-10, found.error < 1e-9, found.kink
    (True, True, False)
    >>> derivative(np.abs(STEPS), 0.0, np.abs(STEPS)).kink
    True
    """
    sizes = np.maximum(np.maximum(np.abs(before), np.abs(after)), max(abs(at), size))
    noise = 4 * EPS * sizes / STEPS  # the error of a difference due to rounding alone
    value, error = _extrapolated((after - before) / (2 * STEPS), noise, 2)
    left, left_error = _extrapolated((at - before) / STEPS, 2 * noise, 1)
    right, right_error = _extrapolated((after - at) / STEPS, 2 * noise, 1)
    gap = abs(right - left)
    apart = gap > 10 * (left_error + right_error)
    kink = apart and gap > 1e-6 * max(abs(left), abs(right))
    return Estimate(value, max(error, gap / 2) if apart else error, bool(kink))


def _extrapolated(differences: np.ndarray, noise: np.ndarray, power: int) -> tuple[float, float]:
    """The limit of differences whose error is a series in step**power, and an estimate of its error."""
    table, spread = differences, noise
    best, least, finest = float(table[-1]), np.inf, len(table) - 1
    for order in range(1, ORDERS + 1):
        weight = FACTOR ** (power * order)
        finer = (weight * table[1:] - table[:-1]) / (weight - 1)
        spread = np.maximum(spread[1:], spread[:-1])
        apart = np.maximum(np.abs(finer - table[1:]), np.abs(finer - table[:-1])) + spread
        apart = np.nan_to_num(apart, nan=np.inf)  # a step that leaves the domain, as of a logarithm
        k = int(np.argmin(apart))
        if apart[k] < least:
            best, least, finest = float(finer[k]), float(apart[k]), k + order
        table = finer
    return best, max(least, _roughness(best, differences[finest - 1 :], noise[finest - 1 :], power))


def _roughness(best: float, differences: np.ndarray, noise: np.ndarray, power: int) -> float:
    """The distance of the finer differences, extrapolated once, from a derivative, less their rounding error.

    For a smooth function they differ by rounding alone. If they deviate further from the result of wider
    steps, the wider steps have jumped over something: a spike, a wave, or values that are rounded.
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
        dout: the weight of each output.
        directions: structured like `primals`; each leaf has a leading axis over directions.
    Returns:
        One estimate per direction.
    """
    values, size = line_values(fn, primals, dout, directions)
    return estimates(np.asarray(values), float(size))


def estimates(values: np.ndarray, size: float) -> list[Estimate]:
    """The derivative along each line, from the results of `line_values`."""
    return [derivative(line[: len(STEPS)], 0.0, line[len(STEPS) :], size) for line in values]


def line_values(fn: Callable, primals: tuple, dout: PyTree, directions: tuple) -> tuple[Array, Array]:
    """The function values that `directional` needs; compile this if it is called often.

    Returns:
        ⟨dout, f(primals + h v) − f(primals)⟩, with a row for each v and a column for each of −STEPS and
        STEPS; subtracting output by output loses fewer digits. And Σ |dout f|, the magnitude of the rounded
        numbers.
    """
    base = fn(*primals)
    offsets = jnp.asarray(np.concatenate([-STEPS, STEPS]))

    def value(v: tuple, h: Array) -> Array:
        moved = fn(*jax.tree.map(lambda x, d: x + h * d, primals, v))
        return _total(jax.tree.map(lambda weight, a, b: jnp.sum(weight * (a - b)), dout, moved, base))

    values = jax.lax.map(lambda v: jax.vmap(lambda h: value(v, h))(offsets), directions)
    return values, _total(jax.tree.map(lambda weight, out: jnp.sum(abs(weight * out)), dout, base))


def _total(terms: PyTree) -> Array:
    return jnp.stack(jax.tree.leaves(terms)).sum()
