"""What a convolution's settings may be, in one line each where they may not; and the same in numbers."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex, TypeGuard

import jax
from jaxtyping import Array

from manual_grad.border import InputError, describe, require

Pair = Any  # an int or two of them: _pair says what is wrong with others
Padding = Any  # "VALID", "SAME" or two pairs: _pads says what is wrong with others
LARGEST = 2**29  # stride, dilation or pad


class Geometry(NamedTuple):
    """Pairs of numbers: down, across; pads before and after."""

    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int


def geometry(
    x: Array, kernel: Array, strides: Pair, padding: Padding, dilation: Pair, groups: int
) -> Geometry:
    """The settings of ``conv2d`` in numbers, or the error that says which of them cannot be.

    >>> import jax.numpy as jnp
    >>> geometry(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), 2, "SAME", 1, 1).pads
    ((0, 1), (0, 1))
    """
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
    return Geometry(s, pads, d, int(groups))


def _is_int(value: object) -> TypeGuard[SupportsIndex]:
    return hasattr(type(value), "__index__") and not isinstance(value, bool | jax.Array)


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
