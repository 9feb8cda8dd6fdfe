"""The rounding error of a program's results in a narrower dtype, by the rules of error analysis.

The program runs in float64, and each entry carries the variance of the error that rounding in the narrower
dtype would add to it. Every step rounds its result by at most u = ε/2 of its magnitude (and by no less than
half the smallest subnormal number). The variances of its operands are multiplied by the squares of its
slopes. A sum of n terms tᵢ rounds n − 1 times on the way, and the mean square of its partial sums, over all
orders, is (Σ tᵢ)² / 3 + Σ tᵢ² / 6. Except in running sums, half-precision terms are assumed to be summed in
float32, as matrix units and XLA do, and rounded once at the end. Rounding errors are assumed to be
independent.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from manual_grad_reference.oracles.walk import bind, floating, walk

# Steps that only move, copy or select entries do not round.
_MOVES = {
    "reshape", "squeeze", "broadcast_in_dim", "transpose", "slice", "pad", "concatenate", "rev", "split",
    "dynamic_slice", "dynamic_update_slice", "gather", "scatter", "stack", "unstack", "copy", "copy_p",
    "stop_gradient", "convert_element_type", "reduce_max", "reduce_min", "select_n", "expand_dims", "tile",
}  # fmt: skip
_SAME = {"neg", "abs"}
_RUNNING_SUMS = {"cumsum", "scatter-add"}  # each partial sum may be an entry: it is rounded
_SUMS = {"reduce_sum"} | _RUNNING_SUMS
_CONTRACTIONS = {"dot_general", "conv_general_dilated"}
_CURVES = {
    "exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "sin", "cos", "sqrt", "rsqrt", "cbrt", "erf",
    "square", "integer_pow",
}  # fmt: skip
ULPS = 2.0  # the error of a library function, in roundings


class NoBudgetError(ValueError):
    """A program has a step for which there is no rounding rule."""


def deviations(fn: Callable, args: PyTree, dtype: Any) -> tuple[PyTree, PyTree]:
    """`fn(args)` in float64, and the rounding error of each entry in `dtype`; works under `jit`.

    Args:
        fn: a function of one pytree.
        args: that pytree; its floating-point leaves are float64, with values that are exact in `dtype`.
        dtype: float32, bfloat16, float16 or float64.
    Returns:
        The result of `fn`, and for each entry the standard deviation of its rounding error.
    Raises:
        NoBudgetError: `fn` has a step for which there is no rule.

    >>> with jax.enable_x64(True):
    ...     out, deviation = deviations(lambda x: x * x, jnp.float64(3.0), jnp.bfloat16)
    >>> float(out), float(deviation) * 2**8
    (9.0, 9.0)
    """
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(args)
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(args)]
    info, wide = jnp.finfo(dtype), jnp.finfo(jnp.promote_types(dtype, jnp.float32))

    def rounding(value: Array, times: float = 1.0) -> Array:
        tiny = float(info.smallest_subnormal) / 2
        return jnp.where(
            value == 0, 0.0, times**2 * jnp.maximum(float(info.eps) / 2 * jnp.abs(value), tiny) ** 2
        )

    def summing(total: Array, squares: Array, n: int, running: bool = False) -> Array:
        eps = float((info if running else wide).eps)
        return n * (eps / 2) ** 2 * (total**2 / 3 + squares / 6) + rounding(total)

    def step(eqn: Any, given: list, known: list) -> list[tuple]:
        values = bind(eqn, given)
        if not floating(values[0]) or (eqn.primitive.name not in _SUMS and not any(map(floating, given))):
            return [(value, None) for value in values]
        return list(zip(values, _variances(eqn, given, known, values, rounding, summing), strict=True))

    found = walk(closed, leaves, [None for _ in leaves], step, lambda _: None)
    tree = jax.tree.structure(shapes)
    spread = [jnp.zeros_like(value) if known is None else jnp.sqrt(known) for value, known in found]
    return jax.tree.unflatten(tree, [value for value, _ in found]), jax.tree.unflatten(tree, spread)


def _variances(
    eqn: Any, given: list, known: list, values: list, rounding: Callable, summing: Callable
) -> list:
    """The variance of each output of one step."""
    name, value = eqn.primitive.name, values[0]
    exact = all(variance is None for variance in known)
    if exact and name in _MOVES | _SAME:
        return [None for _ in values]
    if name in ("max", "min"):
        return [None if exact else jnp.where(given[0] == value, *_filled(given, known))]
    own = [jnp.zeros_like(g) if v is None and floating(g) else v for g, v in zip(given, known, strict=True)]
    own = [g if v is None else v for g, v in zip(given, own, strict=True)]  # an index, a mask
    if name in _MOVES:
        return bind(eqn, own)
    if name in _SAME:
        return own
    if name in _SUMS:
        squares = bind(eqn, [g**2 if floating(g) else g for g in given])[0]
        return [bind(eqn, own)[0] + summing(value, squares, _length(eqn, *given), name in _RUNNING_SUMS)]
    if name in _CONTRACTIONS:
        (a, b), (var_a, var_b) = given, own
        squares = bind(eqn, [a**2, b**2])[0]
        carried = bind(eqn, [a**2, var_b])[0] + bind(eqn, [var_a, b**2])[0]
        return [carried + summing(value, squares, _length(eqn, a, b))]
    if name in ("add", "sub", "add_any"):
        return [own[0] + own[1] + rounding(value)]
    if name == "mul":
        (a, b), (var_a, var_b) = given, own
        return [b**2 * var_a + a**2 * var_b + rounding(value)]
    if name == "div":
        (a, b), (var_a, var_b) = given, own
        return [(var_a + value**2 * var_b) / b**2 + rounding(value)]
    if name in _CURVES:
        slope = jax.jvp(lambda x: bind(eqn, [x])[0], (given[0],), (jnp.ones_like(given[0]),))[1]
        return [slope**2 * own[0] + rounding(value, ULPS)]
    raise NoBudgetError(f"no rounding rule is known for {name}")


def _filled(given: list, known: list) -> list:
    return [jnp.zeros_like(g) if v is None else v for g, v in zip(given, known, strict=True)]


def _length(eqn: Any, *given: Array) -> int:
    """The largest number of terms in any entry of a sum."""
    name, params = eqn.primitive.name, eqn.params
    if name == "cumsum":
        return given[0].shape[params["axis"]]
    if name == "reduce_sum":
        return math.prod(given[0].shape[axis] for axis in params["axes"])
    if name == "scatter-add":
        return 1 + given[2].size
    if name == "dot_general":
        return math.prod(given[0].shape[axis] for axis in params["dimension_numbers"][0][0])
    return given[1].size // given[1].shape[params["dimension_numbers"].rhs_spec[0]]
