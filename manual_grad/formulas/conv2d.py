"""The Conv2D layer: each equation is one convolution. Lectures C and A.

    Z = X ⋆ K + b        dK = X ⋆ dZ        dX = dZ ⋆ rot180(K)        db = Σ dZ

:mod:`manual_grad.kernels.conv2d` computes the same sums in the way that is fastest on each platform.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import jax
from jax import lax
from jaxtyping import Array, Float

from manual_grad.border import checked, require_shape
from manual_grad.formulas.geometry import Padding, Pair, geometry
from manual_grad.formulas.limits import cropped_beforehand


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("x", "kernel"),
    meta_fields=("strides", "pads", "dilation", "groups"),
)
@dataclass(frozen=True)
class Conv2DResiduals:
    """What the backward pass needs: image, kernel, and the geometry as pairs of numbers."""

    x: Float[Array, "N H W C"]
    kernel: Float[Array, "kh kw Cg O"]
    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(
        cls, x: Array, kernel: Array, strides: Pair, padding: Padding, dilation: Pair, groups: int
    ) -> Self:
        """The geometry as numbers, or the error that says which setting is invalid."""
        return cls(x, kernel, *geometry(x, kernel, strides, padding, dilation, groups))

    def check(self) -> None:
        """Refuse residuals that no forward pass returns."""
        self.of(self.x, self.kernel, self.strides, self.pads, self.dilation, self.groups)

    @property
    def reach(self) -> tuple[int, int]:
        """How far the dilated kernel extends past its first entry."""
        kh, kw = self.kernel.shape[:2]
        return (kh - 1) * self.dilation[0], (kw - 1) * self.dilation[1]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(N, h, w, O): h and w are the numbers of positions of the dilated kernel in the padded image."""
        size = zip(self.x.shape[1:3], self.pads, self.reach, self.strides, strict=True)
        h, w = ((n + lo + hi - reach - 1) // s + 1 for n, (lo, hi), reach, s in size)
        return len(self.x), h, w, self.kernel.shape[-1]

    @property
    def turned_kernel(self) -> Array:
        """The kernel rotated by 180°, its channels C and O swapped within each group."""
        (kh, kw, Cg, O), g = self.kernel.shape, self.groups
        grouped = self.kernel[::-1, ::-1].reshape(kh, kw, Cg, g, O // g)
        return grouped.transpose(0, 1, 4, 3, 2).reshape(kh, kw, O // g, g * Cg)

    @property
    def pads_dx(self) -> list[tuple[int, int]]:
        """Around dZ: "full", so that the result is as large as X."""
        sizes = zip(self.x.shape[1:3], self.out_shape[1:3], self.reach, self.strides, self.pads, strict=True)
        return [(reach - lo, n - 1 - (out - 1) * s + lo) for n, out, reach, s, (lo, _) in sizes]

    @property
    def pads_dkernel(self) -> list[tuple[int, int]]:
        """Around X, so that dZ has as many positions as the kernel has entries."""
        sizes = zip(self.x.shape[1:3], self.out_shape[1:3], self.reach, self.strides, self.pads, strict=True)
        return [(lo, reach + (out - 1) * s + 1 - n - lo) for n, out, reach, s, (lo, _) in sizes]

    def correlated(self) -> Array:
        """X ⋆ K, with no bias."""
        return _xla_convolution(
            self.x,
            self.kernel,
            self.pads,
            rhs_dilation=self.dilation,
            window_strides=self.strides,
            feature_group_count=self.groups,
        )

    def gradient_of_kernel(self, dZ: Array) -> Array:
        """X ⋆ dZ; the sum runs over the batch, which takes the place of the channels."""
        return _xla_convolution(
            self.x,
            dZ,
            self.pads_dkernel,
            rhs_dilation=self.strides,
            window_strides=self.dilation,
            dimension_numbers=("CHWN", "IHWO", "HWNC"),
            batch_group_count=self.groups,
        )

    def gradient_of_image(self, dZ: Array) -> Array:
        """dZ ⋆ rot180(K), full."""
        return _xla_convolution(
            dZ,
            self.turned_kernel,
            self.pads_dx,
            spread=self.strides,
            rhs_dilation=self.dilation,
            feature_group_count=self.groups,
        )


@checked
def conv2d_plain_fwd(
    x: Float[Array, "N H W C"],
    kernel: Float[Array, "kh kw Cg O"],
    bias: Float[Array, " O"],
    *,
    strides: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
    groups: int = 1,
) -> tuple[Float[Array, "N h w O"], Conv2DResiduals]:
    """A Conv2D layer: the cross-correlation C-08 over strides, channels and batch, plus a bias. [A-11] [C-08]

        Z[n,i,j,o] = Σ_abc X[n, i·s + a·d − p, j·s + b·d − p, c] K[a,b,c,o] + b_o

    Args:
        x: images, (N, H, W, C).
        kernel: (kh, kw, C/groups, O).
        bias: (O,).
        strides: s, an int or a pair.
        padding: ``VALID``, ``SAME``, or ``((top, bottom), (left, right))``; a negative number crops.
        dilation: d, an int or a pair: the spacing of the kernel's entries.
        groups: the number of groups of channels; each has C/groups inputs and O/groups outputs.
    Returns:
        ``(Z, res)``: Z (N, h, w, O).
    Raises:
        InputError: a stride or dilation below 1, groups that do not divide C and O, a kernel larger than the
            padded image, an unknown padding, or a shape or dtype that does not match.
    Source: Lecture A, the network's first two layers (VALID, stride 1); the rest as in
        ``jax.lax.conv_general_dilated`` with NHWC and HWIO.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.arange(4.0).reshape(1, 1, 4, 1), jnp.ones((1, 2, 1, 1))
    >>> conv2d_plain_fwd(x, kernel, jnp.array([100.0]), strides=2)[0].ravel().tolist()
    [101.0, 105.0]
    """
    res = Conv2DResiduals.of(x, kernel, strides, padding, dilation, groups)
    return bias + res.correlated(), res  # [A-11] [C-08]


@checked
def conv2d_plain_bwd(
    res: Conv2DResiduals, dZ: Float[Array, "N h w O"]
) -> tuple[Float[Array, "N H W C"], Float[Array, "kh kw Cg O"], Float[Array, " O"]]:
    """Pull ``dZ`` back through a Conv2D layer. [C-09] [C-10] [A-11]

        dK = X ⋆ dZ              dZ's entries spread by the stride, X read at steps of the dilation
        dX = dZ ⋆ rot180(K)      full, dZ spread by the stride, K by the dilation, channels C and O swapped
        db = Σ_nij dZ

    Args:
        res: from the forward pass.
        dZ: cotangent, (N, h, w, O).
    Returns:
        ``(dx, dkernel, dbias)``, each shaped like its primal.
    Raises:
        InputError: ``dZ`` does not have the shape of the output, or a dtype is wrong.
    Source: Lecture C, page 4, over strides, dilation, groups and padding; Lecture A's network.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.arange(4.0).reshape(1, 1, 4, 1), jnp.ones((1, 2, 1, 1))
    >>> _, res = conv2d_plain_fwd(x, kernel, jnp.array([100.0]), strides=2)
    >>> [d.ravel().tolist() for d in conv2d_plain_bwd(res, jnp.array([[[[1.0], [10.0]]]]))]
    [[1.0, 1.0, 10.0, 10.0], [20.0, 31.0], [11.0]]
    """
    res.check()
    require_shape("conv2d_plain_bwd", "dZ", dZ, res.out_shape)
    dx, dkernel = res.gradient_of_image(dZ), res.gradient_of_kernel(dZ)  # [C-09] [C-10]
    return dx, dkernel, dZ.sum(axis=(0, 1, 2))


def _xla_convolution(
    x: Array,
    kernel: Array,
    pads: Sequence[tuple[int, int]],
    spread: tuple[int, int] = (1, 1),
    window_strides: tuple[int, int] = (1, 1),
    dimension_numbers: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC"),
    **settings: Any,
) -> Array:
    """XLA's convolution of ``x``, its entries ``spread`` apart, padded, cropped where a pad is negative."""
    x, pads, spread = cropped_beforehand(x, pads, spread)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides,
        pads,
        lhs_dilation=spread,
        dimension_numbers=dimension_numbers,
        **settings,
    )
