"""Pooling of images: the maximum, or the mean, of each window; windows may overlap.

Both separate into two one-dimensional steps, across and then down: a maximum is the maximum of the rows'
maxima, a sum is the sum of the rows' sums. Their gradients separate in the same way.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from manual_grad.border import checked, require_shape
from manual_grad.formulas.geometry import Padding, Pair, Windows, windows

ACROSS, DOWN = 2, 1  # axes of an image


def _padded(x: Float[Array, "N H W C"], of: Windows, value: float) -> Float[Array, "N Hp Wp C"]:
    around = ((0, 0, 0), *((lo, hi, 0) for lo, hi in of.pads), (0, 0, 0))
    return lax.pad(x, jnp.asarray(value, x.dtype), around)


def _cropped(x: Float[Array, "N Hp Wp C"], of: Windows) -> Float[Array, "N H W C"]:
    around = ((0, 0, 0), *((-lo, -hi, 0) for lo, hi in of.pads), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), around)


def _along(x: Array, of: Windows, axis: int) -> Iterator[Array]:
    """For each position in the window along one axis, the entries of all windows at that position."""
    size, stride = of.window[axis - 1], of.strides[axis - 1]
    count = (x.shape[axis] - size) // stride + 1
    for a in range(size):
        yield lax.slice_in_dim(x, a, a + (count - 1) * stride + 1, stride, axis)


def _back_to(like: Any, shares: Iterable[Array], of: Windows, axis: int) -> Array:
    """Add the gradients of all positions in the windows to the entries that they came from."""
    stride, dx = of.strides[axis - 1], []
    for a, share in enumerate(shares):
        around = [(0, 0, 0)] * like.ndim
        behind = like.shape[axis] - a - (share.shape[axis] - 1) * stride - 1
        around[axis] = (a, behind, stride - 1)
        dx.append(lax.pad(share, jnp.zeros((), share.dtype), around))
    return reduce(jnp.add, dx)


def _maximum(x: Array, of: Windows, axis: int) -> Array:
    return reduce(jnp.maximum, _along(x, of, axis))


def _to_the_first(x: Array, of: Windows, axis: int, dout: Array) -> Iterator[Array]:
    """``dout`` at the first position in the window that holds the maximum, 0 elsewhere."""
    out = _maximum(x, of, axis)
    taken = jnp.zeros(out.shape, bool)
    for place in _along(x, of, axis):
        here = (place == out) & ~taken
        yield jnp.where(here, dout, 0)
        taken |= here


def _side_by_side(share: Array, of: "AvgPool2DResiduals") -> Array:
    """``share`` at every position in its window, for windows side by side; 0 where no window reaches."""
    (kh, kw), (_, H, W, _) = of.window, of.shape
    dx = jnp.repeat(jnp.repeat(share, kh, axis=1), kw, axis=2)
    return jnp.pad(dx, ((0, 0), (0, H - dx.shape[1]), (0, W - dx.shape[2]), (0, 0)))


# ---------------------------------------------------------------- maximum


@partial(jax.tree_util.register_dataclass, data_fields=("x",), meta_fields=("window", "strides", "pads"))
@dataclass(frozen=True)
class MaxPool2DResiduals:
    """What the backward pass needs: the image, in which it finds each maximum again, and the windows."""

    x: Float[Array, "N H W C"]
    window: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]


@checked
def max_pool2d_fwd(
    x: Float[Array, "N H W C"], *, window: Pair, strides: Pair | None = None, padding: Padding = "VALID"
) -> tuple[Float[Array, "N h w C"], MaxPool2DResiduals]:
    """out[n, i, j, c] = max_ab x[n, i·s + a, j·s + b, c], over the positions a, b in a window. [E-19]

    Args:
        x: images, (N, H, W, C).
        window: an int or a pair, down and across.
        strides: s, an int or a pair; by default the window, so that windows do not overlap.
        padding: ``VALID``, ``SAME``, or ``((top, bottom), (left, right))``, with −∞.
    Returns:
        ``(out, res)``: out (N, h, w, C).
    Raises:
        InputError: a window or stride below 1, a window larger than the padded image, an unknown padding, or
            a shape or dtype that does not match.
    Source: Scherer, Müller and Behnke, "Evaluation of Pooling Operations in Convolutional Architectures for
        Object Recognition", 2010, section 3; as ``flax.linen.max_pool``.

    >>> max_pool2d_fwd(jnp.arange(4.0).reshape(1, 1, 4, 1), window=(1, 2))[0].ravel().tolist()
    [1.0, 3.0]
    """
    of = windows("max_pool2d_fwd", x, window, strides, padding)
    out = _maximum(_maximum(_padded(x, of, -jnp.inf), of, ACROSS), of, DOWN)  # [E-19]
    return out, MaxPool2DResiduals(x, *of)


@checked
def max_pool2d_bwd(res: MaxPool2DResiduals, dout: Float[Array, "N h w C"]) -> tuple[Float[Array, "N H W C"]]:
    """Pass each window's ``dout`` to its maximum; a maximum of several windows gets their sum. [E-19]

        dx[p] = Σ dout over the windows whose maximum is at p

    Among equal maxima the first in row-major order receives everything: the first row that has it, and its
    first position there.

    Args:
        res: from the forward pass.
        dout: cotangent of out, (N, h, w, C).
    Returns:
        ``(dx,)``, (N, H, W, C).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> x = jnp.array([0.0, 5.0, 1.0]).reshape(1, 1, 3, 1)
    >>> _, res = max_pool2d_fwd(x, window=(1, 2), strides=1)
    >>> max_pool2d_bwd(res, jnp.array([3.0, 4.0]).reshape(1, 1, 2, 1))[0].ravel().tolist()
    [0.0, 7.0, 0.0]
    """
    of = windows("max_pool2d_bwd", res.x, res.window, res.strides, res.pads)
    x = _padded(res.x, of, -jnp.inf)
    rows = _maximum(x, of, ACROSS)
    require_shape("max_pool2d_bwd", "dout", dout, jax.eval_shape(lambda: _maximum(rows, of, DOWN)).shape)
    wide = dout.astype(jnp.promote_types(dout.dtype, jnp.float32))
    drows = _back_to(rows, _to_the_first(rows, of, DOWN, wide), of, DOWN)  # [E-19]
    dx = _back_to(x, _to_the_first(x, of, ACROSS, drows), of, ACROSS)  # [E-19]
    return (_cropped(dx, of).astype(dout.dtype),)


@checked
def jac_max_pool2d_x(
    x: Float[Array, "N H W C"], *, window: Pair, strides: Pair | None = None, padding: Padding = "VALID"
) -> Float[Array, "N h w C N H W C"]:
    """∂out/∂x, a selection: each output has a single 1, at the first maximum of its window. [E-19]

    Args:
        x, window, strides, padding: as in :func:`max_pool2d_fwd`.
    Returns:
        Zeros and ones, of shape ``out.shape + x.shape``.
    Raises:
        InputError: as in :func:`max_pool2d_fwd`.
    Source: as the forward pass.

    >>> jac_max_pool2d_x(jnp.arange(4.0).reshape(1, 1, 4, 1), window=(1, 2)).reshape(2, 4).tolist()
    [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    of, (N, H, W, C) = windows("jac_max_pool2d_x", x, window, strides, padding), x.shape
    pixel = jnp.broadcast_to(jnp.arange(H * W).reshape(1, H, W, 1), x.shape)
    best, at = _padded(x, of, -jnp.inf), _padded(pixel, of, -1)
    for axis in (ACROSS, DOWN):
        best, at = reduce(_first_maximum, zip(_along(best, of, axis), _along(at, of, axis), strict=True))
    chosen = (at[..., None, None] == pixel[0, :, :, 0]).astype(x.dtype)  # [E-19]
    same_image, same_channel = jnp.eye(N, dtype=x.dtype), jnp.eye(C, dtype=x.dtype)
    return jnp.einsum("nijcpq,nm,cd->nijcmpqd", chosen, same_image, same_channel)


def _first_maximum(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    """The larger of two values and its position; the left one if they are equal."""
    (best, at), (value, here) = left, right
    return jnp.maximum(best, value), jnp.where(value > best, here, at)


# ---------------------------------------------------------------- mean


@partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("shape", "window", "strides", "pads"))
@dataclass(frozen=True)
class AvgPool2DResiduals:
    """What the backward pass needs: not the image itself, only its shape and the windows."""

    shape: tuple[int, ...]
    window: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]


@checked
def avg_pool2d_fwd(
    x: Float[Array, "N H W C"], *, window: Pair, strides: Pair | None = None, padding: Padding = "VALID"
) -> tuple[Float[Array, "N h w C"], AvgPool2DResiduals]:
    """out[n, i, j, c] = 1/(kh·kw) Σ_ab x[n, i·s + a, j·s + b, c], counting the padding. [E-20]

    Args:
        x: images, (N, H, W, C).
        window: (kh, kw), an int or a pair.
        strides: s, an int or a pair; by default the window, so that windows do not overlap.
        padding: ``VALID``, ``SAME``, or ``((top, bottom), (left, right))``, with zeros, which count.
    Returns:
        ``(out, res)``: out (N, h, w, C).
    Raises:
        InputError: a window or stride below 1, a window larger than the padded image, an unknown padding, or
            a shape or dtype that does not match.
    Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, section II.B,
        without the trained factor; as ``flax.linen.avg_pool``.

    >>> avg_pool2d_fwd(jnp.arange(4.0).reshape(1, 1, 4, 1), window=(1, 2))[0].ravel().tolist()
    [0.5, 2.5]
    """
    of = windows("avg_pool2d_fwd", x, window, strides, padding)
    wide = _padded(x, of, 0).astype(jnp.promote_types(x.dtype, jnp.float32))
    rows = reduce(jnp.add, _along(wide, of, ACROSS))
    out = reduce(jnp.add, _along(rows, of, DOWN)) / (of.window[0] * of.window[1])  # [E-20]
    return out.astype(x.dtype), AvgPool2DResiduals(x.shape, *of)


@checked
def avg_pool2d_bwd(res: AvgPool2DResiduals, dout: Float[Array, "N h w C"]) -> tuple[Float[Array, "N H W C"]]:
    """Spread each window's ``dout`` evenly over its positions; overlapping windows add up. [E-20]

        dx[p] = 1/(kh·kw) Σ dout over the windows that contain p

    Args:
        res: from the forward pass.
        dout: cotangent of out, (N, h, w, C).
    Returns:
        ``(dx,)``, (N, H, W, C).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> _, res = avg_pool2d_fwd(jnp.zeros((1, 1, 3, 1)), window=(1, 2), strides=1)
    >>> avg_pool2d_bwd(res, jnp.array([2.0, 4.0]).reshape(1, 1, 2, 1))[0].ravel().tolist()
    [1.0, 3.0, 2.0]
    """
    wide = jnp.promote_types(dout.dtype, jnp.float32)
    like = jax.ShapeDtypeStruct(res.shape, wide)
    of = Windows(res.window, res.strides, res.pads)
    x = jax.eval_shape(lambda x: _padded(x, of, 0), like)
    rows = jax.eval_shape(lambda x: next(_along(x, of, ACROSS)), x)
    out = jax.eval_shape(lambda rows: next(_along(rows, of, DOWN)), rows)
    require_shape("avg_pool2d_bwd", "dout", dout, out.shape)
    share = dout.astype(wide) / (of.window[0] * of.window[1])  # [E-20]
    if of.window == of.strides and not any(map(any, of.pads)):
        return (_side_by_side(share, res).astype(dout.dtype),)  # [E-20]
    drows = _back_to(rows, [share] * of.window[0], of, DOWN)  # [E-20]
    dx = _back_to(x, [drows] * of.window[1], of, ACROSS)  # [E-20]
    return (_cropped(dx, of).astype(dout.dtype),)
