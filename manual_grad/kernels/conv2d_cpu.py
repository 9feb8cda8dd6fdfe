"""The Conv2D layer for a CPU: the same sums as the plain formulation, in a form that XLA:CPU computes fast.

The rule, from shapes alone:

- One input channel and few kernel entries: there is no sum over channels, so no matrix product is needed. Z
  is a sum of shifted images, and dX is a sum of the shifted images given by one product, K dZᵀ.
- Everything else is a convolution by Eigen, nearly as fast as a matrix product. XLA:CPU uses it, inside loops
  too, if images are NHWC and kernels HWIO; for dK they are brought into that order. With 17 channels or more
  it prefers another library, several times slower and less accurate, unless the image's entries are spread
  apart. So every other row of image and kernel is left empty and skipped, which does not change the sums.
- If X has few channels, so does dX, and the product has few columns. Then several pixels of a row are
  computed at once, by a kernel that contains the rotated kernel once for each of them, shifted by a column.

In float64 Eigen has no such convolution, and XLA's own choice is used.
"""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from manual_grad.border import checked, require_shape
from manual_grad.formulas.conv2d import Conv2DResiduals, _xla_convolution
from manual_grad.formulas.geometry import Padding, Pair

Pads = Sequence[tuple[int, int]]

FEW_ENTRIES = 25  # of a kernel: each becomes code of its own
FEW_CHANNELS = 16  # up to here XLA:CPU chooses Eigen's convolution by itself
WIDE = 32  # columns that keep a matrix product busy


@checked
def conv2d_cpu_fwd(
    x: Float[Array, "N H W C"],
    kernel: Float[Array, "kh kw Cg O"],
    bias: Float[Array, " O"],
    *,
    strides: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
    groups: int = 1,
) -> tuple[Float[Array, "N h w O"], Conv2DResiduals]:
    """The same as :func:`conv2d_plain_fwd`, in the formulation for a CPU. [A-11] [C-08]

    Source: Lecture A, the network's first two layers; the formulation is ours.

    >>> x, kernel = jnp.arange(4.0).reshape(1, 1, 4, 1), jnp.ones((1, 2, 1, 1))
    >>> conv2d_cpu_fwd(x, kernel, jnp.array([100.0]), strides=2)[0].ravel().tolist()
    [101.0, 105.0]
    """
    res = Conv2DResiduals.of(x, kernel, strides, padding, dilation, groups)
    if not _one_channel(res):
        return bias + _convolve(x, kernel, res.pads, res.strides, res.dilation, res.groups), res
    wide = jnp.promote_types(x.dtype, jnp.float32)
    Z = jnp.zeros((), wide)
    for seen, entry in zip(_seen(res), kernel.reshape(-1, len(bias)), strict=True):
        Z = Z + seen[..., None].astype(wide) * entry.astype(wide)  # [C-08]
    return bias + Z.astype(x.dtype), res


@checked
def conv2d_cpu_bwd(
    res: Conv2DResiduals, dZ: Float[Array, "N h w O"]
) -> tuple[Float[Array, "N H W C"], Float[Array, "kh kw Cg O"], Float[Array, " O"]]:
    """The same as :func:`conv2d_plain_bwd`, in the formulation for a CPU. [C-09] [C-10] [A-11]

    Source: Lecture C, page 4, and Lecture A's network; the formulation is ours.

    >>> x, kernel = jnp.arange(4.0).reshape(1, 1, 4, 1), jnp.ones((1, 2, 1, 1))
    >>> _, res = conv2d_cpu_fwd(x, kernel, jnp.array([100.0]), strides=2)
    >>> [d.ravel().tolist() for d in conv2d_cpu_bwd(res, jnp.array([[[[1.0], [10.0]]]]))]
    [[1.0, 1.0, 10.0, 10.0], [20.0, 31.0], [11.0]]
    """
    res.check()
    require_shape("conv2d_cpu_bwd", "dZ", dZ, res.out_shape)
    dx = _dx_one_channel(res, dZ) if _one_channel(res) else _dx(res, dZ)
    return dx, _dkernel(res, dZ), dZ.sum(axis=(0, 1, 2))


# ---------------------------------------------------------------- one input channel


def _one_channel(res: Conv2DResiduals) -> bool:
    kh, kw = res.kernel.shape[:2]
    return res.x.shape[-1] == 1 and kh * kw <= FEW_ENTRIES


def _offsets(res: Conv2DResiduals) -> list[tuple[int, int]]:
    """For each kernel entry, row by row, the first pixel of the padded image that it multiplies."""
    (kh, kw), (dh, dw) = res.kernel.shape[:2], res.dilation
    return [(a * dh, b * dw) for a in range(kh) for b in range(kw)]


def _seen(res: Conv2DResiduals) -> Iterator[Array]:
    """For each kernel entry, the part of the single channel that it multiplies, (N, h, w)."""
    x = lax.pad(res.x[..., 0], jnp.zeros((), res.x.dtype), [(0, 0, 0), *((*pad, 0) for pad in res.pads)])
    (sh, sw), (_, h, w, _) = res.strides, res.out_shape
    for i, j in _offsets(res):
        yield x[:, i : i + (h - 1) * sh + 1 : sh, j : j + (w - 1) * sw + 1 : sw]


def _dx_one_channel(res: Conv2DResiduals, dZ: Array) -> Array:
    """K dZᵀ is the contribution of each kernel entry, added up over the pixels that it multiplied."""
    wide = jnp.promote_types(dZ.dtype, jnp.float32)
    kernel, errors = (array.reshape(-1, dZ.shape[-1]) for array in (res.kernel, dZ))
    sent = jnp.matmul(kernel, errors.T, preferred_element_type=wide).reshape(-1, *dZ.shape[:3])
    terms = [_placed(res, image, offset) for image, offset in zip(sent, _offsets(res), strict=True)]
    while len(terms) > 1:  # in pairs, which rounds less often than adding one by one
        terms = [sum(terms[i + 1 : i + 2], terms[i]) for i in range(0, len(terms), 2)]  # [C-10]
    return terms[0][..., None].astype(dZ.dtype)


def _placed(res: Conv2DResiduals, sent: Array, offset: tuple[int, int]) -> Array:
    """(N, h, w) pixels, spread by the stride and placed into the image, (N, H, W), with zeros around them."""
    sizes = zip(offset, res.pads, res.x.shape[1:3], sent.shape[1:], res.strides, strict=True)
    around = [(at - lo, n + lo - at - (out - 1) * s - 1, s - 1) for at, (lo, _), n, out, s in sizes]
    return lax.pad(sent, jnp.zeros((), sent.dtype), [(0, 0, 0), *around])


# ---------------------------------------------------------------- convolutions


def _dkernel(res: Conv2DResiduals, dZ: Array) -> Array:
    """dK = X ⋆ dZ, with channels in the role of the batch and the batch in that of the channels."""
    (N, H, W, _), (Cg, g) = res.x.shape, (res.kernel.shape[2], res.groups)
    x = res.x.reshape(N, H, W, g, Cg).transpose(4, 1, 2, 3, 0).reshape(Cg, H, W, g * N)
    dK = _convolve(x, dZ.transpose(1, 2, 0, 3), res.pads_dkernel, res.dilation, res.strides, g)  # [C-09]
    return dK.transpose(1, 2, 0, 3)


def _dx(res: Conv2DResiduals, dZ: Array) -> Array:
    """dX = dZ ⋆ rot180(K), full; ``q`` pixels of a row at a time."""
    kernel, pads = res.turned_kernel, res.pads_dx
    if res.strides != (1, 1):
        return _xla_convolution(  # [C-10]
            dZ, kernel, pads, res.strides, rhs_dilation=res.dilation, feature_group_count=res.groups
        )
    q = _at_a_time(res)
    if q > 1:
        shifted = [jnp.pad(kernel, ((0, 0), (r, q - 1 - r), (0, 0), (0, 0))) for r in range(q)]
        kernel = jnp.concatenate(shifted, axis=-1)
    dX = _convolve(dZ, kernel, pads, (1, q), res.dilation, res.groups)  # [C-10]
    return dX.reshape(res.x.shape)


def _at_a_time(res: Conv2DResiduals) -> int:
    """The number of pixels of a row of dX to compute at once, a divisor of its width."""
    (W, C), kw = res.x.shape[2:], res.kernel.shape[1]
    if res.groups > 1 or res.dilation[1] > 1:
        return 1
    return max(q for q in range(1, kw + 1) if W % q == 0 and q * C <= max(WIDE, C))


def _convolve(
    x: Array,
    kernel: Array,
    pads: Pads,
    strides: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Array:
    """The convolution, by Eigen if possible: with rows twice as far apart if XLA would choose otherwise."""
    if min(map(min, pads)) < 0:
        now = [_before(n, pad) for n, pad in zip(x.shape[1:3], pads, strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in now), (0, 0, 0)])
        pads = [(lo - l, hi - h) for (lo, hi), (l, h) in zip(pads, now, strict=True)]
    (top, bottom), width = pads
    s = 2 if _left_to_others(x, kernel, pads, strides, dilation, groups) else 1
    return _xla_convolution(
        x,
        kernel,
        [(s * top, s * bottom), width],
        (s, 1),
        (s * strides[0], strides[1]),
        rhs_dilation=(s * dilation[0], dilation[1]),
        feature_group_count=groups,
    )


def _before(n: int, pad: tuple[int, int]) -> tuple[int, int]:
    """The number of ``n`` pixels to crop before a convolution; all of them if none would be left."""
    crop = min(pad[0], 0), min(pad[1], 0)
    return crop if n + sum(crop) > 0 else pad


def _left_to_others(
    x: Array, kernel: Array, pads: Pads, strides: tuple[int, int], dilation: tuple[int, int], groups: int
) -> bool:
    """Whether XLA:CPU would choose another library's convolution although Eigen has one.

    Eigen has none in float64. If padding makes the output larger than the image, XLA:CPU chooses Eigen.
    """
    sizes = zip(pads, kernel.shape[:2], strides, dilation, strict=True)
    grows = any(s == 1 and lo + hi > (k - 1) * d for (lo, hi), k, s, d in sizes)
    many = max(x.shape[-1], kernel.shape[-1]) > FEW_CHANNELS
    return many and not grows and groups == 1 and x.dtype != jnp.float64
