"""Convolution and cross-correlation in two dimensions. Lecture C.

    cross-correlation   O[i,j] = Σ_ab X[i+a, j+b] F[a,b]
    true convolution    Y[i,j] = Σ_ab X[i−a, j−b] W[a,b]

A true convolution is a cross-correlation with the kernel rotated by 180°. Deep learning's "convolution", and
XLA's, is the cross-correlation; the lecture uses one name for both (C-E1). Here each has its own.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from manual_grad.border import checked, describe, require, require_shape


def _rot180(f: Array) -> Array:
    """The kernel rotated by 180° in its first two axes."""
    return f[::-1, ::-1]


def _correlate(x: Array, f: Array) -> Array:
    """Valid cross-correlation of two matrices: what XLA calls a convolution."""
    return lax.conv_general_dilated(x[None, None], f[None, None], (1, 1), "VALID")[0, 0]


def _pad(x: Array, f: Array) -> Array:
    """``x`` padded with zeros, one fewer than the kernel's size on each side, as for "full"."""
    kh, kw = f.shape
    return jnp.pad(x, ((kh - 1, kh - 1), (kw - 1, kw - 1)))


def _require_kernel_fits(formula: str, name: str, kernel: Array, image: Array) -> None:
    require(
        all(k <= n for k, n in zip(kernel.shape, image.shape, strict=True)),
        f"{formula}: {name} is {describe(kernel)}, expected one no larger than the image, {describe(image)}",
    )


@checked
def correlate2d_fwd(
    x: Float[Array, "H W"], f: Float[Array, "kh kw"]
) -> tuple[Float[Array, "h w"], tuple[Float[Array, "H W"], Float[Array, "kh kw"]]]:
    """O[i,j] = Σ_ab X[i+a, j+b] F[a,b], with the kernel inside the image. [C-08]

    Args:
        x: image, (H, W).
        f: kernel, (kh, kw), no larger than the image.
    Returns:
        ``(O, res)``: O (H − kh + 1, W − kw + 1).
    Raises:
        InputError: the kernel is larger than the image, or a shape or dtype is wrong.
    Source: Lecture C, page 4: 3×3 ⊗ 2×2 = 2×2.

    >>> correlate2d_fwd(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[10.0, 1.0]]))[0].tolist()
    [[12.0, 23.0]]
    """
    _require_kernel_fits("correlate2d_fwd", "f", f, x)
    return _correlate(x, f), (x, f)  # [C-08]


@checked
def correlate2d_bwd(
    res: tuple[Float[Array, "H W"], Float[Array, "kh kw"]], dO: Float[Array, "h w"]
) -> tuple[Float[Array, "H W"], Float[Array, "kh kw"]]:
    """Pull ``dO`` back through the valid cross-correlation. [C-09] [C-10]

        dF = X ⋆ dO                       valid
        dX = dO ⋆ rot180(F)               full; that is dO ∗ F, the full true convolution

    Args:
        res: ``(x, f)``.
        dO: cotangent, (H − kh + 1, W − kw + 1).
    Returns:
        ``(dx, df)``, (H, W) and (kh, kw).
    Raises:
        InputError: ``dO`` does not have the shape of the output, or a dtype is wrong.
    Source: Lecture C, page 4, the two starred lines.

    >>> _, res = correlate2d_fwd(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[10.0, 1.0]]))
    >>> [d.tolist() for d in correlate2d_bwd(res, jnp.array([[1.0, 100.0]]))]
    [[[10.0, 1001.0, 100.0]], [[201.0, 302.0]]]
    """
    x, f = res
    require_shape("correlate2d_bwd", "dO", dO, [n - k + 1 for n, k in zip(x.shape, f.shape, strict=True)])
    df = _correlate(x, dO)  # [C-09]
    dx = _correlate(_pad(dO, f), _rot180(f))  # [C-10]
    return dx, df


@checked
def jac_correlate2d_x_blocks(x: Float[Array, "H W"], f: Float[Array, "kh kw"]) -> Float[Array, "kh w W"]:
    """The Toeplitz blocks of ∂O/∂X: for each row a of F, T_a[j, q] = F[a, q − j]. [C-11]

    Args:
        x, f: as in :func:`correlate2d_fwd`.
    Returns:
        (kh, w, W) with w = W − kw + 1.
    Raises:
        InputError: the kernel is larger than the image, or a shape or dtype is wrong.
    Source: Lecture C, page 4, the local gradients that the notes ask for.

    >>> jac_correlate2d_x_blocks(jnp.ones((1, 3)), jnp.array([[10.0, 1.0]])).tolist()
    [[[10.0, 1.0, 0.0], [0.0, 10.0, 1.0]]]
    """
    _require_kernel_fits("jac_correlate2d_x_blocks", "f", f, x)
    W, kw = x.shape[1], f.shape[1]
    b = jnp.arange(W)[None, :] - jnp.arange(W - kw + 1)[:, None]  # q − j
    return jnp.where((b >= 0) & (b < kw), f[:, b.clip(0, kw - 1)], 0)  # [C-11]


@checked
def jac_correlate2d_x(x: Float[Array, "H W"], f: Float[Array, "kh kw"]) -> Float[Array, "h w H W"]:
    """∂O/∂X, doubly Toeplitz: ∂O[i,j]/∂X[p,q] = F[p − i, q − j]. [C-11]

    Block (i, p) of the matrix is the Toeplitz block T_{p−i}, so the blocks themselves are arranged as
    Toeplitz.

    Args:
        x, f: as in :func:`correlate2d_fwd`.
    Returns:
        (h, w, H, W) with h = H − kh + 1 and w = W − kw + 1.
    Raises:
        InputError: the kernel is larger than the image, or a shape or dtype is wrong.
    Source: Lecture C, page 4, the local gradients that the notes ask for.

    >>> jac_correlate2d_x(jnp.ones((1, 3)), jnp.array([[10.0, 1.0]]))[0, :, 0].tolist()
    [[10.0, 1.0, 0.0], [0.0, 10.0, 1.0]]
    """
    blocks = jac_correlate2d_x_blocks(x, f)
    H, kh = x.shape[0], f.shape[0]
    a = jnp.arange(H)[None, :] - jnp.arange(H - kh + 1)[:, None]  # p − i
    inside = ((a >= 0) & (a < kh))[:, :, None, None]
    return jnp.where(inside, blocks[a.clip(0, kh - 1)], 0).swapaxes(1, 2)  # [C-11]


@checked
def jac_correlate2d_f(x: Float[Array, "H W"], f: Float[Array, "kh kw"]) -> Float[Array, "h w kh kw"]:
    """∂O/∂F: the windows of the image, ∂O[i,j]/∂F[a,b] = X[i + a, j + b]. [C-11]

    Constant along i + a and j + b; with F's entries in reverse order it is doubly Toeplitz too.

    Args:
        x, f: as in :func:`correlate2d_fwd`.
    Returns:
        (h, w, kh, kw) with h = H − kh + 1 and w = W − kw + 1.
    Raises:
        InputError: the kernel is larger than the image, or a shape or dtype is wrong.
    Source: Lecture C, page 4, the local gradients that the notes ask for.

    >>> jac_correlate2d_f(jnp.array([[1.0, 2.0, 3.0]]), jnp.ones((1, 2)))[0, :, 0].tolist()
    [[1.0, 2.0], [2.0, 3.0]]
    """
    _require_kernel_fits("jac_correlate2d_f", "f", f, x)
    (H, W), (kh, kw) = x.shape, f.shape
    rows = jnp.arange(H - kh + 1)[:, None] + jnp.arange(kh)  # i + a
    columns = jnp.arange(W - kw + 1)[:, None] + jnp.arange(kw)  # j + b
    return x[rows[:, None, :, None], columns[None, :, None, :]]  # [C-11]


@partial(jax.tree_util.register_dataclass, data_fields=("x", "w"), meta_fields=("mode",))
@dataclass(frozen=True)
class Convolve2DResiduals:
    """What the backward pass needs: image, kernel and mode."""

    x: Float[Array, "H W"]
    w: Float[Array, "kh kw"]
    mode: Literal["full", "valid"]


@checked
def convolve2d_fwd(
    x: Float[Array, "H W"], w: Float[Array, "kh kw"], *, mode: Literal["full", "valid"] = "full"
) -> tuple[Float[Array, "h w"], Convolve2DResiduals]:
    """Y[i,j] = Σ_ab X[i−a, j−b] W[a,b], a true convolution. [C-07]

    Args:
        x: image, (H, W).
        w: kernel, (kh, kw).
        mode: ``full``: X is 0 where the index leaves it; ``valid``: only where it never does.
    Returns:
        ``(Y, res)``: Y (H + kh − 1, W + kw − 1) or (H − kh + 1, W − kw + 1).
    Raises:
        InputError: the mode is unknown, the kernel is larger than the image (valid), or a shape or dtype is
            wrong.
    Source: Lecture C, page 3.

    >>> convolve2d_fwd(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[10.0, 1.0]]))[0].tolist()
    [[10.0, 21.0, 32.0, 3.0]]
    """
    if mode == "valid":
        _require_kernel_fits("convolve2d_fwd", "w", w, x)
    Y = _correlate(_pad(x, w) if mode == "full" else x, _rot180(w))  # [C-07]
    return Y, Convolve2DResiduals(x, w, mode)


@checked
def convolve2d_bwd(
    res: Convolve2DResiduals, dY: Float[Array, "h w"]
) -> tuple[Float[Array, "H W"], Float[Array, "kh kw"]]:
    """Pull ``dY`` back through the true convolution. [C-07]

        dW[a,b] = Σ_ij dY[i,j] X[i−a, j−b]        dX[p,q] = Σ_ab dY[p+a, q+b] W[a,b]

    Args:
        res: from the forward pass.
        dY: cotangent, the output's shape.
    Returns:
        ``(dx, dw)``, (H, W) and (kh, kw).
    Raises:
        InputError: ``dY`` does not have the shape of the output, or a dtype is wrong.
    Source: Lecture C, page 3.

    >>> _, res = convolve2d_fwd(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[10.0, 1.0]]), mode="valid")
    >>> [d.tolist() for d in convolve2d_bwd(res, jnp.array([[1.0, 100.0]]))]
    [[[1.0, 110.0, 1000.0]], [[302.0, 201.0]]]
    """
    x, w = res.x, res.w
    sign = 1 if res.mode == "full" else -1
    out_shape = [n + sign * (k - 1) for n, k in zip(x.shape, w.shape, strict=True)]
    require_shape("convolve2d_bwd", "dY", dY, out_shape)
    if res.mode == "full":
        return _correlate(dY, w), _correlate(dY, x)  # [C-07]
    return _correlate(_pad(dY, w), w), _rot180(_correlate(x, dY))  # [C-07]
