"""The Conv2D layer, plainly: each equation is one convolution of XLA's. Lectures C and A.

This is the formulation to read, and the one that runs on a GPU or TPU, where XLA's convolution is fast.
:mod:`manual_grad.kernels.conv2d_cpu` makes the same sums in the way that is fast on a CPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, SupportsIndex, TypeGuard

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from manual_grad.border import InputError, checked, describe, require, require_shape

Pair = Any  # an int or two of them: _pair says what is wrong with others
LARGEST = 2**29  # stride, dilation or pad
Padding = Any  # "VALID", "SAME" or two pairs: _pads says what is wrong with others


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
        """The geometry in numbers, or the error that says which of them cannot be."""
        s, d = _pair("strides", strides), _pair("dilation", dilation)
        _require_small("strides", strides, s)
        _require_small("dilation", dilation, d)
        C, (kh, kw, Cg, O) = x.shape[-1], kernel.shape
        require(
            _is_int(groups) and groups >= 1,
            f"conv2d_fwd: groups is {describe(groups)}, expected an int of at least 1",
        )
        require(C % groups == 0, f"conv2d_fwd: groups is {groups}, expected a divisor of x's {C} channels")
        require(
            O % groups == 0, f"conv2d_fwd: groups is {groups}, expected a divisor of the kernel's {O} outputs"
        )
        require(
            Cg * groups == C,
            f"conv2d_fwd: kernel is {describe(kernel)}, expected [kh,kw,{C // groups},O] for x {describe(x)}"
            f" in {groups} group{'s' * (groups > 1)}",
        )
        reach = ((kh - 1) * d[0], (kw - 1) * d[1])
        pads = _pads(padding, x.shape[1:3], reach, s)
        _require_small("padding", padding, [n for pad in pads for n in pad])
        for n, (lo, hi), r, axis in zip(x.shape[1:3], pads, reach, ("height", "width"), strict=True):
            require(
                n + lo + hi >= r + 1,
                f"conv2d_fwd: kernel has {axis} {r + 1} (dilation included), expected at most that of the"
                f" padded image, {n + lo + hi}",
            )
        return cls(x, kernel, s, pads, d, int(groups))

    def check(self) -> None:
        """Refuse residuals that no forward pass makes."""
        self.of(self.x, self.kernel, self.strides, self.pads, self.dilation, self.groups)

    @property
    def reach(self) -> tuple[int, int]:
        """How far the dilated kernel reaches past its first entry."""
        kh, kw = self.kernel.shape[:2]
        return (kh - 1) * self.dilation[0], (kw - 1) * self.dilation[1]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(N, h, w, O): h and w are how often the dilated kernel fits into the padded image, by strides."""
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
        """Around X, so that dZ fits as often as the kernel has entries."""
        sizes = zip(self.x.shape[1:3], self.out_shape[1:3], self.reach, self.strides, self.pads, strict=True)
        return [(lo, reach + (out - 1) * s + 1 - n - lo) for n, out, reach, s, (lo, _) in sizes]


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
    """As :func:`conv2d_fwd`, by XLA's convolution. [A-11] [C-08]

    Args:
        x, kernel, bias, strides, padding, dilation, groups: as in :func:`conv2d_fwd`.
    Returns:
        ``(Z, res)``: Z (N, h, w, O).
    Raises:
        InputError: as :func:`conv2d_fwd`.
    Source: Lecture A, the network's first two layers.

    >>> x, kernel = jnp.arange(4.0).reshape(1, 1, 4, 1), jnp.ones((1, 2, 1, 1))
    >>> conv2d_plain_fwd(x, kernel, jnp.array([100.0]), strides=2)[0].ravel().tolist()
    [101.0, 105.0]
    """
    res = Conv2DResiduals.of(x, kernel, strides, padding, dilation, groups)
    Z = bias + _xla_convolution(  # [A-11] [C-08]
        x, kernel, res.pads, rhs_dilation=res.dilation, window_strides=res.strides, feature_group_count=groups
    )
    return Z, res


@checked
def conv2d_plain_bwd(
    res: Conv2DResiduals, dZ: Float[Array, "N h w O"]
) -> tuple[Float[Array, "N H W C"], Float[Array, "kh kw Cg O"], Float[Array, " O"]]:
    """As :func:`conv2d_bwd`, by XLA's convolution. [C-09] [C-10] [A-11]

    Args:
        res: from the forward pass.
        dZ: cotangent, (N, h, w, O).
    Returns:
        ``(dx, dkernel, dbias)``, each shaped as its primal.
    Raises:
        InputError: ``dZ`` has not the output's shape, or a dtype is wrong.
    Source: Lecture C, page 4, over strides, dilation, groups and padding; Lecture A's network.

    >>> x, kernel = jnp.arange(4.0).reshape(1, 1, 4, 1), jnp.ones((1, 2, 1, 1))
    >>> _, res = conv2d_plain_fwd(x, kernel, jnp.array([100.0]), strides=2)
    >>> [d.ravel().tolist() for d in conv2d_plain_bwd(res, jnp.array([[[[1.0], [10.0]]]]))]
    [[1.0, 1.0, 10.0, 10.0], [20.0, 31.0], [11.0]]
    """
    res.check()
    require_shape("conv2d_plain_bwd", "dZ", dZ, res.out_shape)
    dkernel = _xla_convolution(  # [C-09]  the batch is what is summed over: it stands where channels stood
        res.x,
        dZ,
        res.pads_dkernel,
        rhs_dilation=res.strides,
        window_strides=res.dilation,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        batch_group_count=res.groups,
    )
    dx = _xla_convolution(  # [C-10]
        dZ,
        res.turned_kernel,
        res.pads_dx,
        spread=res.strides,
        rhs_dilation=res.dilation,
        feature_group_count=res.groups,
    )
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
    """XLA's convolution of ``x``, its entries ``spread`` apart, padded, cropped where a pad is negative.

    XLA:CPU reads outside its memory where one pad of an axis is negative and the other is not, so what is
    cropped is cropped beforehand.
    """
    if min(p for pair in pads for p in pair) < 0:
        config = [(0, 0, 0), *((lo, hi, s - 1) for (lo, hi), s in zip(pads, spread, strict=True)), (0, 0, 0)]
        x, pads, spread = lax.pad(x, jnp.zeros((), x.dtype), config), ((0, 0), (0, 0)), (1, 1)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides,
        pads,
        lhs_dilation=spread,
        dimension_numbers=dimension_numbers,
        **settings,
    )


def _is_int(value: object) -> TypeGuard[SupportsIndex]:
    return hasattr(value, "__index__") and not isinstance(value, bool | jax.Array)


def _pair(name: str, value: Pair) -> tuple[int, int]:
    pair = (value, value) if _is_int(value) else value
    if isinstance(pair, Sequence) and len(pair) == 2 and all(_is_int(v) and int(v) >= 1 for v in pair):
        return int(pair[0]), int(pair[1])
    raise InputError(
        f"conv2d_fwd: {name} is {describe(value)}, expected an int of at least 1, or a pair of them"
    )


def _require_small(name: str, value: object, numbers: Sequence[int]) -> None:
    """XLA counts pixels in 32 bits: the sums and doubles of these numbers have to stay below 2³¹."""
    require(
        all(abs(n) < LARGEST for n in numbers),
        f"conv2d_fwd: {name} is {describe(value)}, expected numbers below {LARGEST}",
    )


def _pads(
    padding: Padding, size: tuple[int, ...], reach: tuple[int, int], strides: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) in numbers."""
    if isinstance(padding, str):
        if padding.upper() == "VALID":
            return (0, 0), (0, 0)
        if padding.upper() == "SAME":
            return _same(size[0], reach[0], strides[0]), _same(size[1], reach[1], strides[1])
    elif isinstance(padding, Sequence) and all(isinstance(p, Sequence) and len(p) == 2 for p in padding):
        flat = [n for p in padding for n in p]
        if len(flat) == 4 and all(_is_int(n) for n in flat):
            return (int(flat[0]), int(flat[1])), (int(flat[2]), int(flat[3]))
    raise InputError(
        f"conv2d_fwd: padding is {describe(padding)}, expected 'VALID', 'SAME' or"
        " ((top, bottom), (left, right))"
    )


def _same(n: int, reach: int, stride: int) -> tuple[int, int]:
    """Padding that leaves ⌈n / stride⌉ outputs, an odd entry at the end."""
    total = max((math.ceil(n / stride) - 1) * stride + reach + 1 - n, 0)
    return total // 2, total - total // 2
