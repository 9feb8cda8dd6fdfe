"""Error budgets: how far each entry of a result may be from the truth, in the dtype in which it is computed.

In float64 an entry may be off by 1e-12 times the largest in its array. In a narrower dtype each entry has its
own budget: :data:`MARGIN` standard deviations of its rounding error, which
:mod:`manual_grad_reference.oracles.rounding` estimates by following the reference's program, from the
precision of the dtype, the lengths of the sums and the magnitudes of their terms. The formula is not
involved, so an inaccurate one does not get a wider budget.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from manual_grad.compare import FLOAT64
from manual_grad_reference.oracles import rounding

MARGIN = 6.0  # arrays have up to 10⁵ entries


def budgets(fn: Callable, *args: Any, dtype: Any) -> tuple[Any, Any]:
    """``fn(*args)`` in float64, and the error allowed in each entry in ``dtype``; works under ``jit``.

    Args:
        fn: a plain forward function, or an oracle's derivative of one.
        *args: arrays and pytrees of them; the floating-point ones in float64, with values that are exact in
            ``dtype``.
        dtype: float64, float32, bfloat16 or float16.
    Returns:
        The result of ``fn`` and, with the same structure, the absolute error allowed in each entry, in
        float64.
    Raises:
        NoBudgetError: ``fn`` uses an operation for which no rounding rule is known.

    >>> with jax.enable_x64(True):
    ...     out, allowed = budgets(jnp.dot, jnp.array([3.0, 4.0]), jnp.array([5.0, 6.0]), dtype=jnp.bfloat16)
    >>> float(out), round(float(allowed), 2)
    (39.0, 0.91)
    """
    if jnp.dtype(dtype) == jnp.float64:
        out = fn(*args)
        return out, jax.tree.map(
            lambda leaf: jnp.full_like(leaf, FLOAT64 * jnp.max(jnp.abs(leaf), initial=0)), out
        )
    out, deviations = rounding.deviations(lambda args: fn(*args), args, dtype)
    return out, jax.tree.map(lambda deviation: MARGIN * deviation, deviations)


def rounding_in_float64(fn: Callable, *args: Any) -> Any:
    """The rounding error in float64 of each entry of ``fn(*args)``, based on the terms of its sums.

    Args:
        fn, *args: as for :func:`budgets`.
    Returns:
        The absolute error allowed in each entry: :data:`MARGIN` standard deviations.
    Raises:
        NoBudgetError: ``fn`` uses an operation for which no rounding rule is known.

    >>> with jax.enable_x64(True):
    ...     allowed = rounding_in_float64(lambda x: (x + 1e3) - 1e3 - x, jnp.float64(0.5))
    >>> 1e-13 < float(allowed) < 1e-11
    True
    """
    _, deviations = rounding.deviations(lambda args: fn(*args), args, jnp.float64)
    return jax.tree.map(lambda deviation: MARGIN * deviation, deviations)
