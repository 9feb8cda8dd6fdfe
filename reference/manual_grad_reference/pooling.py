"""Pooling by its definition: one window after the other, what lies outside the image left out."""

from collections.abc import Iterator
from itertools import product

import jax.numpy as jnp
from jaxtyping import Array, Float

from manual_grad_reference.conv2d import Padding, Pair, _padding, _pair


def max_pool2d(
    x: Float[Array, "N H W C"], window: Pair, strides: Pair | None = None, padding: Padding = "VALID"
) -> Float[Array, "N h w C"]:
    """[E-19] The maximum of each window; of equal ones the first, row by row."""
    found = []
    for patch in _patches(x, window, strides, padding):
        first = jnp.argmax(patch, axis=1, keepdims=True)
        found.append(jnp.take_along_axis(patch, first, axis=1)[:, 0])
    return _laid_out(found, x, window, strides, padding)


def avg_pool2d(
    x: Float[Array, "N H W C"], window: Pair, strides: Pair | None = None, padding: Padding = "VALID"
) -> Float[Array, "N h w C"]:
    """[E-20] The sum of each window over the number of its places, those in the padding counted in."""
    kh, kw = _pair(window)
    found = [patch.sum(axis=1) / (kh * kw) for patch in _patches(x, window, strides, padding)]
    return _laid_out(found, x, window, strides, padding)


def _starts(x: Array, window: Pair, strides: Pair | None, padding: Padding) -> list[range]:
    """Where windows begin, down and across; in the padding before 0."""
    size, step = _pair(window), _pair(window if strides is None else strides)
    pads = _padding(padding, x.shape[1:3], size, step, (1, 1))
    ends = [n + hi - k + 1 for n, (_, hi), k in zip(x.shape[1:3], pads, size, strict=True)]
    return [range(-lo, end, s) for (lo, _), end, s in zip(pads, ends, step, strict=True)]


def _patches(x: Array, window: Pair, strides: Pair | None, padding: Padding) -> Iterator[Array]:
    """(N, places, C) of each window."""
    kh, kw = _pair(window)
    for i, j in product(*_starts(x, window, strides, padding)):
        patch = x[:, max(i, 0) : i + kh, max(j, 0) : j + kw]
        yield patch.reshape(len(x), -1, x.shape[-1])


def _laid_out(found: list, x: Array, window: Pair, strides: Pair | None, padding: Padding) -> Array:
    down, across = _starts(x, window, strides, padding)
    return jnp.stack(found, axis=1).reshape(len(x), len(down), len(across), x.shape[-1])
