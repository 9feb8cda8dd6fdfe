"""The facts about one leaf of a checked gradient at one point, and the names of the numbers found there."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.nearby import batch
from manual_grad.checker.truth import Point


class OutOfTime(Exception):
    """The time limit that the user set has passed."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """One leaf of a checked gradient at one point.

    Attributes:
        leaf: the index of the leaf among those of ``point.wrt``.
        gots: all leaves of the checked gradient in float64 (None if not returned).
        wants: all leaves of the truth.
        names: the names of the leaves.
        point: the function and its arguments there.
        tolerance: the relative error up to which two gradients count as equal.
        scalar: whether the function is a loss, whose cotangent is 1.
        hidden: the entries of the leaf that are ignored because they are not finite; None if all are finite.
        as_infinite: whether a mistake must lead to infinity or NaN in the hidden entries.
        until: when to stop looking for causes, on the clock of ``time.monotonic``.
        in_torch: whether the checked function is PyTorch's.
    """

    leaf: int
    gots: Sequence[Any]
    wants: Sequence[np.ndarray]
    names: Sequence[str]
    point: Point
    tolerance: float
    scalar: bool = False
    kept: dict = field(default_factory=dict)  # values computed once for all leaves at this point
    hidden: Any = None
    as_infinite: bool = False
    until: float = math.inf
    in_torch: bool = False

    @property
    def got(self) -> np.ndarray:
        """The checked gradient of this leaf, without hidden entries."""
        return self.seen(self.gots[self.leaf])

    @property
    def want(self) -> np.ndarray:
        """The truth of this leaf, without hidden entries."""
        return self.seen(self.wants[self.leaf])

    def seen(self, whole: Any) -> Any:
        """An array of the leaf's shape without the hidden entries; a vector if there are any."""
        return whole if self.hidden is None else whole[~self.hidden]

    def same(self, left: Any, right: Any) -> bool:
        """Whether two arrays are equal up to rounding."""
        return same(left, right, self.tolerance)

    def require_time(self) -> None:
        """Stop looking if the time is over."""
        if time.monotonic() > self.until:
            raise OutOfTime

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """``compute()``, remembered under ``key``."""
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]


def same(left: Any, right: Any, tolerance: float) -> bool:
    """Whether two arrays have the same shape and differ by at most ``tolerance`` times the largest entry.

    >>> same(np.array([1.0, 2.0]), np.array([1.0, 2.001]), 1e-3), same(np.ones(1), np.ones((1, 1)), 1e-3)
    (True, False)
    """
    if np.shape(left) != np.shape(right):
        return False
    scale = max(np.max(np.abs(right), initial=0.0), np.max(np.abs(left), initial=0.0))
    return bool(np.max(np.abs(left - right), initial=0.0) <= tolerance * scale)


def factor_of(e: Evidence) -> float | None:
    """The factor by which the truth is multiplied."""
    square = float(np.vdot(e.want, e.want))
    if not square or e.got.shape != e.want.shape:
        return None
    factor = float(np.vdot(e.want, e.got)) / square
    return factor if factor and e.same(e.got, factor * e.want) else None


def first_near(factor: float, factors: np.ndarray, tolerance: float) -> int:
    """The index of the first of several factors that a factor equals, up to its sign; −1 if there is none."""
    near = np.abs(abs(factor) / factors - 1) <= 4 * tolerance
    return int(np.argmax(near)) if np.any(near) else -1


def sizes_of(e: Evidence) -> Iterator[tuple[float, str]]:
    """Factors by which gradients are often wrong, with the meaning of each; the most common first."""
    n, where = batch(e.point)
    if n > 1:
        yield n, f"scaled by N = {n} ({where}): loss summed instead of averaged, 1/N is missing"
        yield 1 / n, f"scaled by 1/N, N = {n} ({where}): mean instead of sum, or 1/N is applied twice"
    yield 2, "scaled by 2"
    yield 0.5, "scaled by 1/2 (the factor 2 is missing)"
    for size, what in sizes_named(e).items():
        if size > 2 and size != n:
            yield size, f"scaled by {size} ({what}): summed where a mean is taken"
            yield 1 / size, f"scaled by 1/{size} ({what}): mean instead of sum"


def sizes_named(e: Evidence) -> dict[int, str]:
    """The sizes of the problem, each with a description."""
    return e.once(f"sizes of {e.leaf}", lambda: _sizes_named(e))


def _sizes_named(e: Evidence) -> dict[int, str]:
    total = sum(np.size(d) for d in e.point.dout)
    sizes: dict[int, str] = {}
    for name, value in zip(e.point.names, e.point.values, strict=True):
        for axis, size in enumerate(np.shape(value)):
            sizes.setdefault(size, f"axis {axis} of {name}")
    sizes.setdefault(int(np.size(e.wants[e.leaf])), f"all of {e.names[e.leaf]}")
    for name, value in zip(e.point.names, e.point.values, strict=True):
        if np.size(value) > 1:
            sizes.setdefault(int(np.size(value)), f"all of {name}")
    for d in e.point.dout:
        for axis, size in enumerate(np.shape(d)):
            sizes.setdefault(size, f"axis {axis} of the output")
        if np.ndim(d) > 1:
            sizes.setdefault(int(np.prod(np.shape(d)[:-1])), "all of the output's axes but the last")
    sizes.setdefault(total, "the output's size")
    return sizes


def compound_sizes(e: Evidence) -> Iterator[tuple[float, str]]:
    """The rarer factors."""
    n, _ = batch(e.point)
    if n > 1:
        for factor in (Fraction(n, n - 1), Fraction(n - 1, n), Fraction(n * n), Fraction(1, n * n)):
            yield float(factor), f"scaled by {factor}, N = {n}"
        yield n / 2, f"scaled by N/2, N = {n}: loss summed instead of averaged, and the factor 2 is missing"
        yield 2 / n, f"scaled by 2/N, N = {n}"
        yield 2 * n, f"scaled by 2N, N = {n}"
        yield n**0.5, f"scaled by √N, N = {n}"
        yield n**-0.5, f"scaled by 1/√N, N = {n}"
    for size, what in sizes_named(e).items():
        if size > 2 and size != n:
            for factor in (Fraction(size, size - 1), Fraction(size - 1, size)):
                yield float(factor), f"scaled by {factor} ({what}): n − 1 for n = {size}, or n for n − 1"


def named_scales(e: Evidence, factor: float, also: Callable[[], str] = lambda: "") -> list[str]:
    """The names of a factor: the sizes of the problem that it equals; none if it is not a size.

    Names from ``also`` take precedence over those of combined sizes.
    """
    prefix = "sign flipped and " if factor < 0 else ""
    for kind in (sizes_of, compound_sizes):
        sizes = e.once(f"{kind.__name__} {e.leaf}", partial(list, kind(e)))
        near = [(value, phrase) for value, phrase in sizes if abs(abs(factor) / value - 1) <= 4 * e.tolerance]
        told = [
            not 0.5 < value < 2 or abs(value - 1) > 32 * e.tolerance for value, _ in near
        ]  # as 18/17 is not
        said = [prefix + phrase for (_, phrase), is_told in zip(near, told, strict=True) if is_told]
        if said:
            return said[:3]
        if other := also():
            return [other]
    return []
