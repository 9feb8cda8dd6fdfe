"""How far rounding in a narrower dtype takes the results of a program, by the rules of error analysis.

A program runs in float64, and beside each entry the variance is carried along of what rounding in the
narrower dtype would add to it. Every step rounds its result, by at most u = ε/2 of its magnitude (and by no
less than half of the smallest subnormal number); what its operands are off by comes through with the square
of its slope; a sum of n terms tᵢ rounds n − 1 times on the way, the partial sums being, over all orders,
(Σ tᵢ)² / 3 + Σ tᵢ² / 6 large in the mean square. Half-precision terms are taken to be summed in float32, as
matrix units and XLA do, and rounded once at the end, but for running sums. Rounding errors are taken to be
independent.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from manual_grad_reference.oracles.walk import bind, floating, walk

# What only moves, copies or picks entries rounds nothing.
_MOVES = {
    "reshape", "squeeze", "broadcast_in_dim", "transpose", "slice", "pad", "concatenate", "rev", "split",
    "dynamic_slice", "dynamic_update_slice", "gather", "scatter", "stack", "unstack", "copy", "copy_p",
    "stop_gradient", "convert_element_type", "reduce_max", "reduce_min", "select_n", "expand_dims", "tile",
}  # fmt: skip
_SAME = {"neg", "abs"}
_RUNNING_SUMS = {"cumsum", "scatter-add"}  # each partial sum is an entry, or may be: it is rounded
_SUMS = {"reduce_sum"} | _RUNNING_SUMS
_CONTRACTIONS = {"dot_general", "conv_general_dilated"}
_CURVES = {
    "exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "sin", "cos", "sqrt", "rsqrt", "cbrt", "erf",
    "square", "integer_pow",
}  # fmt: skip
ULPS = 2.0  # by how many roundings a library function may be off


class NoBudgetError(ValueError):
    """A program has a step for which no rule of rounding is known here."""


def deviations(fn: Callable, args: PyTree, dtype: Any) -> tuple[PyTree, PyTree]:
    """`fn(args)` in float64, and how far rounding in `dtype` takes each entry of it; may be under `jit`.

    Args:
        fn: a function of one pytree.
        args: that pytree; its floating-point leaves are float64 and hold what is exact in `dtype`.
        dtype: float32, bfloat16, float16 or float64.
    Returns:
        What `fn` gives, and for each entry the standard deviation of its rounding error.
    Raises:
        NoBudgetError: `fn` does something that there is no rule for.

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
    raise NoBudgetError(f"no rule of rounding is known for {name}")


def _filled(given: list, known: list) -> list:
    return [jnp.zeros_like(g) if v is None else v for g, v in zip(given, known, strict=True)]


def _length(eqn: Any, *given: Array) -> int:
    """How many terms each entry of a sum has, at most."""
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
