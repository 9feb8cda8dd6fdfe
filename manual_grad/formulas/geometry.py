"""The settings of convolutions and pooling, checked and as numbers."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex, TypeGuard

import jax
from jaxtyping import Array

from manual_grad.border import InputError, describe, require

Pair = Any  # an int or two of them; pair rejects anything else
Padding = Any  # "VALID", "SAME" or two pairs; pads_of rejects anything else
LARGEST = 2**29  # stride, dilation or pad


class Geometry(NamedTuple):
    """Pairs of numbers: down, across; pads before and after."""

    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int


class Windows(NamedTuple):
    """Pairs of numbers, down and across: size and distance of the windows; pads before and after."""

    window: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]


def windows(formula: str, x: Array, window: Pair, strides: Pair | None, padding: Padding) -> Windows:
    """The settings of pooling as numbers, or the error that says which is invalid.

    >>> import jax.numpy as jnp
    >>> windows("max_pool2d_fwd", jnp.ones((1, 5, 4, 1)), 2, None, "SAME")
    Windows(window=(2, 2), strides=(2, 2), pads=((0, 1), (0, 0)))
    """
    k = pair(formula, "window", window)
    s = k if strides is None else pair(formula, "strides", strides)
    pads = pads_of(formula, padding, x.shape[1:3], (k[0] - 1, k[1] - 1), s)
    for n, (lo, hi), size, axis in zip(x.shape[1:3], pads, k, ("height", "width"), strict=True):
        require(
            n + lo + hi >= size,
            f"{formula}: window has {axis} {size}, expected at most that of the padded image, {n + lo + hi}",
        )
    return Windows(k, s, pads)


def geometry(
    x: Array, kernel: Array, strides: Pair, padding: Padding, dilation: Pair, groups: int
) -> Geometry:
    """The settings of ``conv2d`` as numbers, or the error that says which is invalid.

    >>> import jax.numpy as jnp
    >>> geometry(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), 2, "SAME", 1, 1).pads
    ((0, 1), (0, 1))
    """
    s, d = pair("conv2d_fwd", "strides", strides), pair("conv2d_fwd", "dilation", dilation)
    C, (kh, kw, Cg, O) = x.shape[-1], kernel.shape
    require_groups("conv2d_fwd", groups, {f"x's {C} channels": C, f"the kernel's {O} outputs": O})
    require(
        Cg * groups == C,
        f"conv2d_fwd: kernel is {describe(kernel)}, expected [kh,kw,{C // groups},O] for x {describe(x)}"
        f" in {groups} group{'s' * (groups > 1)}",
    )
    reach = ((kh - 1) * d[0], (kw - 1) * d[1])
    pads = pads_of("conv2d_fwd", padding, x.shape[1:3], reach, s)
    for n, (lo, hi), r, axis in zip(x.shape[1:3], pads, reach, ("height", "width"), strict=True):
        require(
            n + lo + hi >= r + 1,
            f"conv2d_fwd: kernel has {axis} {r + 1} (dilation included), expected at most that of the"
            f" padded image, {n + lo + hi}",
        )
    return Geometry(s, pads, d, int(groups))


def require_groups(formula: str, groups: object, divided: dict[str, int]) -> None:
    """Refuse a number of groups that does not divide an axis, which is given by name and length."""
    require(
        _is_int(groups) and int(groups) >= 1,
        f"{formula}: groups is {describe(groups)}, expected an int of at least 1",
    )
    for what, n in divided.items():
        require(n % groups == 0, f"{formula}: groups is {groups}, expected a divisor of {what}")  # type: ignore[operator]


def _is_int(value: object) -> TypeGuard[SupportsIndex]:
    return hasattr(type(value), "__index__") and not isinstance(value, bool | jax.Array)


def pair(formula: str, name: str, value: Pair) -> tuple[int, int]:
    """A setting for both axes as two numbers; the error says what it is and what it may be."""
    both = (value, value) if _is_int(value) else value
    if isinstance(both, Sequence) and len(both) == 2 and all(_is_int(v) and int(v) >= 1 for v in both):
        down, across = int(both[0]), int(both[1])
        _require_small(formula, name, value, (down, across))
        return down, across
    raise InputError(
        f"{formula}: {name} is {describe(value)}, expected an int of at least 1, or a pair of them"
    )


def _require_small(formula: str, name: str, value: object, numbers: Sequence[int]) -> None:
    """XLA counts pixels in 32 bits, so sums and doubles of these numbers must stay below 2³¹."""
    require(
        all(abs(n) < LARGEST for n in numbers),
        f"{formula}: {name} is {describe(value)}, expected numbers below {LARGEST}",
    )


def pads_of(
    formula: str, padding: Padding, size: tuple[int, ...], reach: tuple[int, int], strides: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) as numbers; the error says what the padding is and may be."""
    if isinstance(padding, str) and padding.upper() == "VALID":
        return (0, 0), (0, 0)
    if isinstance(padding, str) and padding.upper() == "SAME":
        flat = [*_same(size[0], reach[0], strides[0]), *_same(size[1], reach[1], strides[1])]
    elif not isinstance(padding, str) and isinstance(padding, Sequence) and all(map(_is_pair, padding)):
        flat = [n for p in padding for n in p]
    else:
        flat = []
    if len(flat) == 4 and all(_is_int(n) for n in flat):
        _require_small(formula, "padding", padding, flat)
        return (int(flat[0]), int(flat[1])), (int(flat[2]), int(flat[3]))
    raise InputError(
        f"{formula}: padding is {describe(padding)}, expected 'VALID', 'SAME' or"
        " ((top, bottom), (left, right))"
    )


def _is_pair(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) == 2


def _same(n: int, reach: int, stride: int) -> tuple[int, int]:
    """Padding that gives ⌈n / stride⌉ outputs, with an odd entry at the end."""
    total = max((math.ceil(n / stride) - 1) * stride + reach + 1 - n, 0)
    return total // 2, total - total // 2
