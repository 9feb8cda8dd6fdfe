"""Pooling by its definition: what each window holds side by side, and one number made of it."""

from itertools import product

import jax.numpy as jnp
from jaxtyping import Array, Float

from manual_grad_reference.conv2d import Padding, Pair, _padding, _pair, _taps


def max_pool2d(
    x: Float[Array, "N H W C"], window: Pair, strides: Pair | None = None, padding: Padding = "VALID"
) -> Float[Array, "N h w C"]:
    """[E-19] The maximum of each window; of equal ones the first, row by row. Padding is −∞."""
    places = _places(x, window, strides, padding, -jnp.inf)
    first = jnp.argmax(places, axis=0)
    return jnp.take_along_axis(places, first[None], axis=0)[0]


def avg_pool2d(
    x: Float[Array, "N H W C"], window: Pair, strides: Pair | None = None, padding: Padding = "VALID"
) -> Float[Array, "N h w C"]:
    """[E-20] The sum of each window over the number of its positions. Padding is 0, and counted."""
    kh, kw = _pair(window)
    return _places(x, window, strides, padding, 0.0).sum(axis=0) / (kh * kw)


def _places(
    x: Array, window: Pair, strides: Pair | None, padding: Padding, outside: float
) -> Float[Array, "places N h w C"]:
    """For each position in a window, row by row, what every window has there."""
    (kh, kw), (sh, sw) = _pair(window), _pair(window if strides is None else strides)
    pads = _padding(padding, (x.shape[1], x.shape[2]), (kh, kw), (sh, sw), (1, 1))
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=outside)
    h, w = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
    return jnp.stack([x[:, _taps(a, sh, h), _taps(b, sw, w)] for a, b in product(range(kh), range(kw))])
