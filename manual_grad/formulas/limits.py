"""Safeguards, each with a name: what floating-point numbers need and the mathematics does not.

The formulas call these by name, so that they still read like the lectures.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from manual_grad.border import Scalar


def share_of_mean(dJ: Scalar, N: int | Integer[Array, ""], dtype: jnp.dtype) -> Float[Array, ""]:
    """dJ/N, each sample's share of the cotangent of a mean over N, in float32 or wider.

    In half precision 1/N alone would round to a subnormal number or to 0, and N itself to ∞, although dJ/N
    times an error fits: what is multiplied by it is rounded to ``dtype`` by the caller, once and at the end.

    >>> share_of_mean(jnp.float16(2**15), 2**21, jnp.float16)
    Array(0.015625, dtype=float32)
    """
    return jnp.asarray(dJ, jnp.promote_types(dtype, jnp.float32)) / N


def wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x`` in float32 or wider, for sums and cancellation."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def counted(labels: Integer[Array, "..."], ignore_index: int | None) -> Bool[Array, "..."] | None:
    """Whether each label differs from ``ignore_index``; None if the labels' dtype cannot hold that number.

    >>> counted(jnp.array([0, -100, 2]), -100).tolist(), counted(jnp.arange(3, dtype=jnp.uint8), -100)
    ([True, False, True], None)
    """
    numbers = jnp.iinfo(labels.dtype)
    if ignore_index is None or not numbers.min <= ignore_index <= numbers.max:
        return None
    return labels != ignore_index


def weighted_sum(weights: Float[Array, " N"], rows: Float[Array, "N D"]) -> Float[Array, " D"]:
    """Σ_n w_n x_n as a product that never forms w x; 64 at a time, because a long sum loses precision.

    >>> float(weighted_sum(jnp.full(128, 2.0), jnp.ones((128, 1)))[0])
    256.0
    """
    N, D = rows.shape
    if N % 64:
        return (weights[:, None] * rows).sum(axis=0)
    blocks = jnp.matmul(weights.reshape(-1, 1, 64), rows.reshape(-1, 64, D), precision="highest")
    return blocks.sum(axis=(0, 1))


def zero_times_log_zero(y: Float[Array, "..."], logs: Float[Array, "..."]) -> Float[Array, "..."]:
    """y ln ŷ with 0 · ln 0 = 0."""
    finite = jnp.maximum(logs, float(jnp.finfo(logs.dtype).min))
    return y * jnp.where(y == 0, finite, logs)


def log_where_labelled(labels: Float[Array, "..."], probs: Float[Array, "..."]) -> Float[Array, "..."]:
    """ln ŷ, and 0 where the label is 0 and the probability has no logarithm, since 0 · ln 0 = 0."""
    ignored = (labels == 0) & ~((probs > 0) & jnp.isfinite(probs))
    return jnp.log(jnp.where(ignored, 1, probs))


def shifted_exponentials(logits: Float[Array, "..."], axis: int = -1) -> tuple[Array, Array, Array]:
    """``(shifted, exps, total)``: logits minus their maximum, the exponentials, and their sum.

    No exponential overflows, and ±∞ gives the limit, or NaN if there is none. Since ∞ − ∞ is NaN, the largest
    finite number is subtracted from a +∞, which leaves ∞ and is then clipped to nearly 0; a finite logit in
    the same sample becomes −∞. Other samples are unaffected, as their numbers are at most 0. All tests are
    made per sample and not per entry, which would need a further array for each.
    """
    numbers = jnp.finfo(logits.dtype)
    if logits.shape[axis] == 1:  # e^l / e^l is 1, at ±∞ too
        logits = 0 * logits.clip(float(numbers.min), float(numbers.max))
    top = logits.max(axis=axis, keepdims=True)
    stretch = jnp.where(top == jnp.inf, jnp.inf, 1).astype(logits.dtype)
    shifted = ((logits - top.clip(max=float(numbers.max))) * stretch).clip(max=float(numbers.tiny))
    exps = jnp.exp(shifted)
    total = exps.sum(axis=axis, keepdims=True)
    return shifted, exps, jnp.where(jnp.isinf(top) & (total > 1), jnp.nan, total)


def lengths(x: Float[Array, "*N D"]) -> tuple[Float[Array, "*N 1"], Float[Array, "*N 1"]]:
    """``(s, ‖s x‖)`` with a factor s for each vector that keeps its squares from overflowing or underflowing.

    Squares of ordinary size need no factor: s is 1, and the largest entries are not looked for.

    >>> s, length = lengths(jnp.array([3e30, 4e30]))
    >>> round(float(length[0] / s[0]) / 5e30, 6)
    1.0
    """
    tiny = float(jnp.finfo(x.dtype).tiny)
    squares = (x * x).sum(axis=-1, keepdims=True)
    ordinary = ((squares > tiny**0.25) & (squares < tiny**-0.25)).all()

    def by_largest() -> tuple[Array, Array]:
        s = 1 / jnp.abs(x).max(axis=-1, keepdims=True).clip(tiny, 1 / (4 * tiny))
        return s, jnp.sqrt(((x * s) ** 2).sum(axis=-1, keepdims=True))

    found: tuple[Array, Array] = lax.cond(
        ordinary, lambda: (jnp.ones_like(squares), jnp.sqrt(squares)), by_largest
    )
    return found


def smaller_logistic(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """σ(−|x|), the smaller of σ(x) and σ(−x): 1 minus it is exact, where the larger one has rounded to 1.

    >>> bool((smaller_logistic(jnp.array([40.0, -40.0])) > 0).all())
    True
    """
    return lax.logistic(-jnp.abs(x))


def limit_of_product(x: Float[Array, "..."], factor: Float[Array, "..."]) -> Float[Array, "..."]:
    """x times a factor that goes to 0 faster than x grows: 0 at an infinite x, where ∞ · 0 would be NaN.

    If ``factor`` is 1 at +∞, the product is ∞ there.

    >>> limit_of_product(jnp.array([-jnp.inf, jnp.inf]), jnp.array([0.0, 1.0])).tolist()
    [0.0, inf]
    """
    return jnp.where(factor == 0, 0, x * factor)


def gaussian(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """e^{−x²/2}, accurate to the last digits: the rounding error of x²/2 matters where it is large.

    With h a multiple of 1/16 near x, h² is exact, and so is nearly all of h²/2 + h(x − h) + (x − h)²/2, which
    is compared with t². Written with t = −x/√2, the exponential is the one that erfc(t) computes anyway.

    >>> gaussian(jnp.array([0.0, -jnp.inf])).tolist()
    [1.0, 0.0]
    """
    t = -math.sqrt(0.5) * x
    square, x = jnp.minimum(t * t, 2048), x.clip(-64, 64)
    h = jnp.round(x * 16) / 16
    rest = x - h
    rounded_off = ((h * h / 2 - square) + h * rest) + rest * rest / 2
    return jnp.exp(-(t * t)) * (1 - rounded_off)


def cropped_beforehand(
    x: Float[Array, "N H W C"], pads: Sequence[tuple[int, int]], spread: tuple[int, int]
) -> tuple[Array, Sequence[tuple[int, int]], tuple[int, int]]:
    """``(x, pads, spread)`` for a convolution; if a pad is negative, x is padded and cropped beforehand.

    XLA:CPU reads out of bounds if one pad of an axis is negative and the other is not.
    """
    if min(p for pair in pads for p in pair) >= 0:
        return x, pads, spread
    around = [(0, 0, 0), *((lo, hi, s - 1) for (lo, hi), s in zip(pads, spread, strict=True)), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), around), ((0, 0), (0, 0)), (1, 1)
