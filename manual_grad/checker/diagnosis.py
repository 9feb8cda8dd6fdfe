"""Why a gradient is wrong: a small function for each known mistake, which says whether it is the cause.

Such an explanation is given one leaf at one point, an :class:`Evidence`, and returns a phrase, or "" if it
does not fit; several phrases are separated by newlines. It is accepted only if it returns the same at every
point where the leaf is wrong. Explanations are tried in tiers, the most specific first; if several of a tier
fit, all are named.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from manual_grad.checker.asking import one_line
from manual_grad.checker.evidence import Evidence, OutOfTime, factor_of, sizes_named
from manual_grad.checker.mistakes.adjoints import adjoint_not_taken
from manual_grad.checker.mistakes.conjugates import conjugate_missing
from manual_grad.checker.mistakes.explain import (
    implied_by_the_error,
    mistakes_that_explain,
    order_mistaken,
    rows_counted,
    rows_scaled,
    writes_that_explain,
)
from manual_grad.checker.mistakes.maps import misplaced
from manual_grad.checker.mistakes.scales import NO_SIZE, scales_said
from manual_grad.checker.nearby import batch
from manual_grad.checker.truth import Point, at_values, is_float, is_key, pulled

UNEXPLAINED = "no known mistake explains it"
OUT_OF_TIME = "no known mistake explains it, among those tried in the seconds given"
PRECISE = 1e-3  # the tolerance up to which two simultaneous mistakes are distinguished from one
FINITE_AT_LEAST = 3  # the fewest finite entries from which a cause can be told
JACOBIAN_UP_TO = 256  # the largest output, in entries, whose whole Jacobian is computed
SEVERAL = 4  # the fewest entries whose ratios tell something
LARGEST_GROUP = 64  # the largest size of a group that is told from a number that happens to be whole
MANY_AXES = 7
FAR_FETCHED = ("scaled by", "divided by", "two places", "used for", "once too often", "is missing in the")
SPATIAL: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((0,),),
    2: ((0, 1),),
    3: ((0,), (2,)),
    4: ((0, 1), (2, 3)),
}
Explanation = Callable[..., Any]


@np.errstate(all="ignore")
def diagnose(evidence: Sequence[Evidence]) -> str:
    """Explain why a leaf is wrong.

    Args:
        evidence: the leaf at every point where it is wrong.
    Returns:
        A short phrase; "A or B" if two explanations fit equally well, and ``UNEXPLAINED`` if none does.

    >>> x = np.array([1.0, -2.0, 3.0])
    >>> point = Point(lambda x: (x**2).sum(), jax.tree.structure((x,)), (x,), ("x",), (0,), (1.0,))
    >>> diagnose([Evidence(0, [-2 * x], [2 * x], ["x"], point, 1e-6, scalar=True)])
    'sign flipped'
    """
    try:
        return _explained(evidence)
    except OutOfTime:
        return OUT_OF_TIME
    except RecursionError:  # a function nested too deeply; that it is wrong must be said anyway
        return UNEXPLAINED
    except Exception as error:  # a fault of ours, which must not hide the verdict
        return f"{UNEXPLAINED} (the search ended with {one_line(error)})"


def _explained(evidence: Sequence[Evidence]) -> str:
    if any(e.hidden is not None for e in evidence):
        return _explain(evidence, ((not_finite,), *OF_FINITE_ENTRIES)) or UNEXPLAINED
    phrase = _explain(evidence, TIERS[:1]) or _explain_the_finite(evidence) or _explain(evidence)
    if phrase or any(e.got is None or e.got.shape != e.want.shape for e in evidence):
        return phrase or UNEXPLAINED
    precise = all(e.tolerance <= PRECISE for e in evidence)
    return (precise and _explain_scaled(evidence)) or UNEXPLAINED


def _explain(evidence: Sequence[Evidence], tiers: Sequence[Sequence[Explanation]] = ()) -> str:
    for tier in tiers or TIERS:
        fitting = [phrase for explanation in tier for phrase in _agreed(explanation, evidence)]
        if fitting:
            telling = [p for i, p in enumerate(fitting) if i == 0 or not p.startswith("a path is missing")]
            return " or ".join(list(dict.fromkeys(telling))[:3])
    return ""


def _agreed(explanation: Explanation, evidence: Sequence[Evidence]) -> list[str]:
    """The phrases that an explanation returns at every point, one per line."""
    evidence[0].require_time()
    if explanation in (mistakes_that_explain, order_mistaken, writes_that_explain, implied_by_the_error):
        return explanation(evidence)
    try:
        phrases = explanation(evidence[0]).splitlines()
        others = [explanation(e).splitlines() for e in evidence[1:]] if phrases else []
    except (TypeError, ValueError, IndexError):  # the function cannot be evaluated in this way
        return []
    return [phrase for phrase in phrases if all(phrase in other for other in others)]


def _explain_the_finite(evidence: Sequence[Evidence]) -> str:
    """The cause in the finite entries, with a note that others are not finite; "" if all are finite."""
    said = [phrase for e in evidence if (phrase := not_finite(e))]
    if not said or any(e.got.shape != e.want.shape for e in evidence):
        return ""
    hidden = [~(np.isfinite(e.got) & np.isfinite(e.want)) for e in evidence]
    partly = [replace(e, hidden=h) for e, h in zip(evidence, hidden, strict=True)]
    if min(e.want.size for e in partly) < FINITE_AT_LEAST:
        return said[0]
    if all(e.same(e.got, e.want) for e in partly):
        return f"{said[0]}, the others right"
    told = _explain([replace(e, as_infinite=True) for e in partly], ((upside_down, mistakes_that_explain),))
    told = told or _explain(partly, OF_FINITE_ENTRIES)
    return f"{told}; {said[0]}" if told else said[0]


def _explain_scaled(evidence: Sequence[Evidence]) -> str:
    """Two simultaneous mistakes: a factor, and something else."""
    factors = {"sign flipped": -1.0}
    n, _ = batch(evidence[0].point)
    if n > 1:
        factors |= {"scaled by N": float(n), "scaled by 1/N": 1 / n}
    factors |= {"scaled by 2": 2.0, "scaled by 1/2": 0.5}
    for said, factor in factors.items():
        scaled = []
        for e in evidence:
            gots = list(e.gots)
            gots[e.leaf] = e.got / factor
            scaled.append(replace(e, gots=gots))
        phrase = _explain(scaled, ((transposed, flipped, cotangent_ignored), *ELSEWHERE))
        if phrase and not any(far in phrase for far in FAR_FETCHED):
            return f"{said}, and {phrase}"
    return ""


# --- NaN, infinite or missing -----------------------------------------------------------------------------


def missing(e: Evidence) -> str:
    """Nothing came back."""
    return "no gradient was returned (None)" if e.got is None else ""


def not_finite(e: Evidence) -> str:
    """NaN or infinite, unlike the truth."""
    if e.got.shape == e.want.shape and np.any(np.isnan(e.got) & ~np.isnan(e.want)):
        return "NaN" if np.isnan(e.got).all() else "NaN in some entries"
    if e.got.shape != e.want.shape and np.isnan(e.got).any():
        return "NaN, and wrong shape"
    if not np.any(np.isinf(e.got)) or np.any(np.isinf(e.want)):
        return ""
    return "infinite" if np.isinf(e.got).all() else "infinite in some entries"


def zero(e: Evidence) -> str:
    """Zero everywhere up to rounding, which reveals terms that cancel, as for a cotangent of ones."""
    if e.got.shape != e.want.shape or np.max(np.abs(e.got), initial=0.0) > _negligible(e):
        return ""
    if np.any(e.got) and not e.scalar and np.max(np.abs(_with_ones(e)[e.leaf])) <= _negligible(e):
        return "cotangent ignored (a cotangent of ones gives zero here, up to rounding)\nzero"
    return "zero"


def _negligible(e: Evidence) -> float:
    return 1e-3 * e.tolerance * float(np.max(np.abs(e.want), initial=0.0))


def _with_ones(e: Evidence) -> list[np.ndarray]:
    """The gradient for a cotangent of ones."""
    return e.once("ones", lambda: pulled(e.point, [np.ones(np.shape(d)) for d in e.point.dout]))


# --- the shape --------------------------------------------------------------------------------------------


def _shapes(e: Evidence) -> str:
    return f"wrong shape: got {e.got.shape}, expected {e.want.shape}"


def wrong_order(e: Evidence) -> str:
    """The gradient of another argument."""
    for other, want in enumerate(e.wants):
        got = e.gots[other]
        displaced = got is not None and not e.same(got, want)
        if other != e.leaf and displaced and e.same(e.got, want) and not e.same(e.want, want):
            return f"arguments in the wrong order: this is the gradient of {e.names[other]}"
    return ""


def not_summed(e: Evidence) -> str:
    """One axis too many; its sum or mean is the truth."""
    if e.got.ndim != e.want.ndim + 1:
        return ""
    for axis in range(e.got.ndim):
        if e.got.shape[axis] > 1 and e.same(e.got.sum(axis), e.want):
            return f"not summed over the batch (axis {axis}); {_shapes(e)}"
        if e.got.shape[axis] > 1 and e.same(e.got.mean(axis), e.want):
            return f"not averaged over the batch (axis {axis}); {_shapes(e)}"
    return ""


def transposed_shape(e: Evidence) -> str:
    """The axes in another order."""
    if e.got.shape == e.want.shape or sorted(e.got.shape) != sorted(e.want.shape):
        return ""
    for axes in _orders(e.want.ndim):
        if e.same(e.got, e.want.transpose(axes)):
            return f"{_permuted(axes)}; {_shapes(e)}"
    return ""


def reshaped(e: Evidence) -> str:
    """The right numbers in another shape."""
    if e.got.shape != e.want.shape and e.got.size == e.want.size and e.same(e.got.ravel(), e.want.ravel()):
        return f"{_shapes(e)}; the numbers are right"
    return ""


def over_wrong_axes(e: Evidence) -> str:
    """A sum over the wrong axes, or over too many."""
    if e.got.shape == e.want.shape:
        return ""
    if e.got.size < e.want.size and e.got.ndim < e.want.ndim:
        for axes in _subsets(range(e.want.ndim)):
            if e.same(e.want.sum(axes), e.got):
                return f"summed over too many axes {_listed(axes)}; {_shapes(e)}"
    total = abs(e.got.sum() - e.want.sum())
    if e.got.ndim == e.want.ndim and total <= e.tolerance * np.abs(e.want).sum():
        return f"summed over the wrong axes: the total is right; {_shapes(e)}"
    return ""


def transposed_factor_elsewhere(e: Evidence) -> str:
    """The gradient of a linear function with one factor transposed, and so with another shape."""
    if e.got.ndim != e.want.ndim or e.got.shape == e.want.shape:
        return ""
    for i, leaf in enumerate(e.point.values):
        if (
            i == e.point.wrt[e.leaf]
            or not is_float(leaf)
            or np.ndim(leaf) != 2
            or len(set(np.shape(leaf))) == 1
        ):
            continue
        value = np.asarray(leaf)
        larger = [
            w - a + b for w, a, b in zip(e.want.shape, value.shape, reversed(value.shape), strict=False)
        ]
        for shape in dict.fromkeys([e.got.shape, tuple(larger)]):
            values = list(e.point.values)
            values[i], values[e.point.wrt[e.leaf]] = jax.numpy.asarray(value.T), jax.numpy.zeros(shape)
            try:
                want = _centred(pulled(at_values(e.point, values))[e.leaf], e.got.shape)
            except Exception:  # the function may raise anything for shapes that are not its own
                continue
            if np.any(want) and e.same(e.got, want):
                return f"transposed: {e.point.names[i]} is used for its transpose; {_shapes(e)}"
    return ""


def _centred(matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Crop or zero-pad an array to a shape, keeping it centred."""
    for axis, n in enumerate(shape):
        excess = matrix.shape[axis] - n
        if excess > 0:
            matrix = np.take(matrix, range(excess // 2, excess // 2 + n), axis)
        pads = [(0, 0)] * matrix.ndim
        pads[axis] = (max(-excess, 0) // 2, max(-excess, 0) - max(-excess, 0) // 2)
        matrix = np.pad(matrix, pads)
    return matrix


def full_for_valid(e: Evidence) -> str:
    """The truth, possibly rotated, in the middle of a larger matrix."""
    if (
        e.got.ndim != 2
        or e.want.ndim != 2
        or not all(g > w for g, w in zip(e.got.shape, e.want.shape, strict=True))
    ):
        return ""
    starts = [(g - w) // 2 for g, w in zip(e.got.shape, e.want.shape, strict=True)]
    middle = e.got[tuple(slice(a, a + w) for a, w in zip(starts, e.want.shape, strict=True))]
    if e.same(middle, e.want):
        return f"a full correlation where a valid one belongs; {_shapes(e)}"
    if e.same(np.flip(middle), e.want):
        return f"factors swapped: rotated, a full correlation where a valid one belongs; {_shapes(e)}"
    return ""


def wrong_shape(e: Evidence) -> str:
    """Another shape, for no known reason."""
    return _shapes(e) if e.got.shape != e.want.shape else ""


# --- the truth, moved, rotated or scaled ------------------------------------------------------------------


def imprecise(e: Evidence) -> str:
    """Right, but less accurate than its dtype allows."""
    if e.tolerance > 1e-6 or e.got.shape != e.want.shape or not e.got.ndim:
        return ""
    scale = np.max(np.abs(e.want), initial=0.0)
    error = np.max(np.abs(e.got - e.want), initial=0.0) / scale if scale else 1.0
    return "imprecise: right, but computed in a lower precision or by differences" if error < 1e-5 else ""


def sign(e: Evidence) -> str:
    """The truth, negated."""
    return "sign flipped" if e.same(e.got, -e.want) else ""


def scale_of_the_problem(e: Evidence) -> str:
    """The truth times a factor that is one of the problem's sizes."""
    factor = factor_of(e)
    if factor is None or abs(abs(factor) - 1) <= e.tolerance:
        return ""
    said = [_samples_that_count(e, factor)] if e.in_torch else []
    if not any(said) or abs(1 / factor - round(1 / factor)) <= e.tolerance:  # which 2 or N explains as well
        said = [*scales_said(e, factor), *said]
    return "\n".join(dict.fromkeys(filter(None, said)))


def transposed(e: Evidence) -> str:
    """The axes of the truth in another order, with the same shape."""
    if e.got.shape != e.want.shape:
        return ""
    for axes in _orders(e.want.ndim):
        turned = e.want.transpose(axes)
        if axes != tuple(range(e.want.ndim)) and not e.same(turned, e.want) and e.same(e.got, turned):
            return _permuted(axes)
    return ""


def _permuted(axes: tuple[int, ...]) -> str:
    return "transposed" if axes == (1, 0) else f"permuted axes: {axes}"


def flipped(e: Evidence) -> str:
    """The truth with axes reversed: a kernel rotated, or not rotated."""
    for axes in sorted(_subsets(range(e.want.ndim)), key=len):
        turned = np.flip(e.want, axes)
        if not e.same(turned, e.want) and e.same(e.got, turned):
            if len(axes) == 1 and e.want.shape[axes[0]] == 2:
                return f"swapped: the two entries along {_listed(axes)} are in each other's place"
            what = "rotated by 180°" if len(axes) == 2 else "flipped"
            return f"rotated or flipped kernel: {what}, {_listed(axes)} reversed"
    return ""


def shifted(e: Evidence) -> str:
    """The truth shifted along an axis: an index or a padding is off by one."""
    for axis, by in itertools.product(range(e.want.ndim), (-1, 1)):
        if e.want.shape[axis] < 4:
            continue
        rolled = np.roll(e.want, by, axis)
        inner = [slice(None)] * e.want.ndim
        inner[axis] = slice(1, -1)
        if e.same(e.got[tuple(inner)], rolled[tuple(inner)]) and not e.same(rolled, e.want):
            return f"shifted by {by} along axis {axis}: an index or the padding is off by one"
    return ""


def cotangent_ignored(e: Evidence) -> str:
    """The gradient for a cotangent of ones, regardless of the actual cotangent."""
    if e.scalar:
        return ""
    same = e.same(e.got, e.seen(_with_ones(e)[e.leaf]))
    return "cotangent ignored (this is the gradient for a cotangent of ones)" if same else ""


def output_ignored(e: Evidence) -> str:
    """The cotangent of one of several outputs of an ``autograd.Function`` is not used.

    In JAX, where that is rarer, the search by steps says so.
    """
    n = len(e.point.dout)
    for k in range(n) if n > 1 and e.in_torch else ():
        dout = [np.zeros_like(d) if i == k else d for i, d in enumerate(e.point.dout)]
        wants = e.once(f"without output {k}", partial(pulled, e.point, dout))
        if e.same(e.got, e.seen(wants[e.leaf])):
            return f"the cotangent of output {k + 1} of {n} is ignored"
    return ""


def cotangent_misused(e: Evidence) -> str:
    """The cotangent squared, summed or averaged before use."""
    if e.scalar:
        return ""
    wrong = {
        "cotangent used twice": [np.square(d) for d in e.point.dout],
        "the cotangent's sum is used for each of its entries": [
            np.full(np.shape(d), np.sum(np.asarray(d))) for d in e.point.dout
        ],
        "the cotangent's mean is used for each of its entries": [
            np.full(np.shape(d), np.mean(np.asarray(d))) for d in e.point.dout
        ],
    }
    for phrase, dout in wrong.items():
        if any(np.size(d) > 1 for d in dout) or phrase.endswith("twice"):
            pull = functools.partial(pulled, e.point, dout)
            if e.same(e.got, e.once(phrase, pull)[e.leaf]):
                return phrase
    return ""


# --- parts of the truth -----------------------------------------------------------------------------------


def missing_mask(e: Evidence) -> str:
    """Right where the truth is not zero, and nonzero where a mask makes the truth zero."""
    masked = np.abs(e.want) <= 1e-12 * np.max(np.abs(e.want), initial=0.0)
    if not masked.any() or masked.all() or not np.any(e.got[masked]):
        return ""
    if not e.same(e.got[~masked], e.want[~masked]):
        return ""
    return f"missing mask: not zero where the truth is{_triangle(masked)}"


def _triangle(masked: np.ndarray) -> str:
    """The phrase for a mask that is the lower or upper triangle."""
    if masked.ndim == 2 and masked.shape[0] == masked.shape[1] > 1:
        for side, cut, other in (("below", np.tril, "triu"), ("above", np.triu, "tril")):
            for k, and_on in ((1, ""), (0, " and on it")):
                if np.array_equal(masked, cut(np.ones_like(masked), -k if cut is np.tril else k)):
                    return f", {side} the diagonal{and_on} ({other} is missing)"
    return ""


def true_gradient_zero(e: Evidence) -> str:
    """Nonzero although the truth is 0 everywhere, as for rounding."""
    if e.got.shape != e.want.shape or np.any(e.want) or not np.any(e.got):
        return ""
    said = "the true gradient is 0 here"
    if e.scalar or len(e.point.dout) != 1 or np.shape(e.point.dout[0]) != e.got.shape:
        return said
    passed = e.got != 0
    if not e.same(e.got[passed], np.asarray(e.point.dout[0])[passed]):
        return said
    where = "" if passed.all() else " in some entries"
    estimator = "a straight-through estimator" if passed.all() else "a clipped straight-through estimator"
    return f"{said}; the cotangent is passed on unchanged{where}, as by {estimator} (name that by reference=)"


def cotangent_unchanged(e: Evidence) -> str:
    """The cotangent passed on unchanged."""
    if e.scalar or len(e.point.dout) != 1 or not e.same(e.got, np.asarray(e.point.dout[0])):
        return ""
    return "missing mask or derivative: the cotangent is passed on unchanged"


def input_for_slope(e: Evidence) -> str:
    """The cotangent times the input instead of times the derivative."""
    value = np.asarray(e.point.at[e.leaf])
    if e.scalar or len(e.point.dout) != 1 or np.shape(e.point.dout[0]) != value.shape:
        return ""
    slope = e.same(e.got, np.asarray(e.point.dout[0]) * value)
    return "wrong derivative: the cotangent is multiplied by the input itself" if slope else ""


def mask_inverted(e: Evidence) -> str:
    """Zero exactly where the truth is not zero."""
    zeros = np.abs(e.want) <= 1e-12 * np.max(np.abs(e.want), initial=0.0)
    if zeros.any() and not zeros.all() and not np.any(e.got[~zeros]) and np.all(e.got[zeros]):
        return "mask inverted: zero exactly where the truth is not"
    return ""


def sample_dropped(e: Evidence) -> str:
    """One slice of the leaf is zero."""
    for axis, at in itertools.product(range(e.want.ndim), (-1, 0)):
        if e.want.shape[axis] > 1:
            less = e.want.copy()
            np.moveaxis(less, axis, 0)[at] = 0
            if not e.same(less, e.want) and _scaled_same(e, less, e.want.shape[axis]):
                what = "one sample" if e.want.shape[axis] == batch(e.point)[0] else "one slice"
                return f"{what} dropped: the {'last' if at else 'first'} along axis {axis} is zero"
    return ""


def chunk_dropped(e: Evidence) -> str:
    """Several of the last slices are zero, as when a loop covers whole chunks only."""
    for axis in range(e.want.ndim):
        got, n = np.moveaxis(e.got, axis, 0).reshape(e.want.shape[axis], -1), e.want.shape[axis]
        k = next((k for k in range(n) if got[n - 1 - k].any()), n)
        if 1 < k <= n // 2:
            less = e.want.copy()
            np.moveaxis(less, axis, 0)[n - k :] = 0
            if not e.same(less, e.want) and any(e.same(e.got, f * less) for f in (1.0, n / (n - k))):
                what = "samples" if n == batch(e.point)[0] else "slices"
                return f"{what} dropped: the last {k} of {n} along axis {axis} are zero (an incomplete chunk)"
    return ""


def spectrum_mistaken(e: Evidence) -> str:
    """The truth with some frequencies scaled, or with the conjugate spectrum, for a function with an FFT."""
    if e.got.shape != e.want.shape or e.hidden is not None or not e.once("fft", lambda: _has_fft(e.point)):
        return ""
    for axis, n in enumerate(e.want.shape):
        if n < 4:
            continue
        turned = np.fft.irfft(np.conj(np.fft.rfft(e.want, axis=axis)), n, axis)
        if e.same(e.got, turned) and not e.same(e.want, turned):
            inverse = "a Fourier transform where its inverse belongs, or the other way round"
            return f"the conjugate of the spectrum is used along axis {axis} ({inverse})"
        transforms = (np.moveaxis(np.fft.rfft(x, axis=axis), axis, 0) for x in (e.got, e.want))
        got, want = (x.reshape(n // 2 + 1, -1) for x in transforms)
        square = np.sum(np.abs(want) ** 2, axis=1)
        ratio = np.sum(np.real(np.conj(want) * got), axis=1) / square
        if not np.all(square) or np.max(np.abs(got - ratio[:, None] * want)) > e.tolerance * np.max(
            np.abs(got)
        ):
            continue
        inner, ends = ratio[1 : (n + 1) // 2], ratio[[0, n // 2]] if n % 2 == 0 else ratio[:1]
        allowed = 1e-3 + 8 * e.tolerance
        if np.ptp(inner) > allowed * abs(inner[0]) or np.ptp(ends) > allowed * abs(ends[0]):
            continue
        times = inner[0] / ends[0]
        for factor, said in ((2.0, "twice"), (0.5, "half, each without its conjugate's share")):
            if abs(times - factor) <= allowed:
                also = "" if abs(ends[0] - 1) <= allowed else f", and all are scaled by {ends[0]:.4g}"
                return (
                    "a one-sided spectrum: the frequencies between the first and the last count "
                    f"{said} along "
                    f"axis {axis} (an inverse real FFT adds their conjugates; they need the factor "
                    f"1/2 or 2){also}"
                )
    return ""


def _has_fft(point: Point) -> bool:
    return point.foreign is None and "fft[" in str(jax.make_jaxpr(point.forward)(*point.at))


def sample_left_out(e: Evidence) -> str:
    """The truth without the first or last sample."""
    for (size, at), (what, wants) in e.once("dropped", lambda: dict(_without_a_sample(e.point))).items():
        want = wants[e.leaf]
        if not e.same(want, e.want) and _scaled_same(e, want, size):
            return f"one sample dropped: the {'last' if at else 'first'} of {size} ({what})"
    return ""


def _scaled_same(e: Evidence, want: np.ndarray, size: int) -> bool:
    return any(e.same(e.got, f * want) for f in (1.0, (size - 1) / size, size / (size - 1)))


def _without_a_sample(point: Point) -> Iterator[tuple[tuple[int, int], tuple[str, list[np.ndarray]]]]:
    """The gradients after dropping the last or first slice along every axis of one size in all arguments."""
    sizes = {size for value in point.values for size in np.shape(value) if size > 1}
    n, _ = batch(point)
    for size, at in itertools.product(sorted(sizes, key=lambda s: (s != n, s)), (-1, 0)):
        axes = [next((a for a, s in enumerate(np.shape(v)) if s == size), None) for v in point.values]
        kept = slice(0, -1) if at else slice(1, None)

        def cut(v: Any, axis: int | None, kept: slice = kept) -> Any:
            return v if axis is None else _sliced(v, (slice(None),) * axis + (kept,))

        values = [cut(v, axis) for v, axis in zip(point.values, axes, strict=True)]
        dout = [cut(d, next((a for a, s in enumerate(np.shape(d)) if s == size), None)) for d in point.dout]
        what = ", ".join(f"axis {a} of {n}" for a, n in zip(axes, point.names, strict=True) if a is not None)
        wants = _asked(point, values, dout)
        if wants is not None:
            yield (size, at), (what, wants)


def _sliced(v: Any, at: tuple[slice, ...]) -> Any:
    """Part of an array; NumPy's slices need no compiling."""
    return jax.numpy.asarray(np.asarray(v)[at]) if isinstance(v, jax.Array) and not is_key(v) else v[at]


def _asked(point: Point, values: Sequence[Any], dout: Sequence[Any]) -> list[np.ndarray] | None:
    """The gradients at other values; None if the function does not accept them."""
    try:
        return pulled(at_values(point, values), dout)
    except Exception:  # a function that does not accept fewer samples may raise anything
        return None


def one_sample_only(e: Evidence) -> str:
    """The gradient of a single sample instead of the batch's."""
    n, where = batch(e.point)
    if n < 2:
        return ""
    for at in (0, n - 1):
        one = slice(at, at + 1)
        values, dout = (
            [_sliced(v, (one,)) if np.ndim(v) and np.shape(v)[0] == n else v for v in leaves]
            for leaves in (e.point.values, e.point.dout)
        )
        wants = e.once(f"only {at}", functools.partial(_asked, e.point, values, dout))
        if wants is None:
            continue
        want = wants[e.leaf]
        if e.same(e.got, want) or e.same(e.got, want / n):
            return f"only the {'last' if at else 'first'} sample counted ({where})"
    return ""


def off_diagonal_zero(e: Evidence) -> str:
    """Zero in some entries, right in the others; for softmax, right at the true class alone."""
    nonzero = e.got != 0
    if nonzero.all() or not nonzero.any() or not e.same(e.got[nonzero], e.want[nonzero]):
        return ""
    for axis in range(e.want.ndim):
        if np.all(nonzero.sum(axis) == 1) and e.same(
            np.abs(e.want.sum(axis)) + 1, np.ones_like(e.want.sum(axis))
        ):
            return "softmax without its off-diagonal terms: zero except at the true class"
    return "entries left out: zero in some, right in the others"


def doubled_off_the_diagonal(e: Evidence) -> str:
    """A square gradient that is right on the diagonal, and a multiple of it elsewhere."""
    if e.got.shape != e.want.shape or e.want.ndim < 2 or len({*e.want.shape[-2:]}) != 1:
        return ""
    on = np.broadcast_to(np.eye(e.want.shape[-1], dtype=bool), e.want.shape)
    for factor, said, why in (
        (2.0, "twice", "A[i, j] and A[j, i] of a symmetric matrix are taken for one variable"),
        (0.5, "half", "A[i, j] and A[j, i] of a symmetric matrix are not taken for one variable"),
    ):
        if not e.same(e.got, e.want) and e.same(e.got, np.where(on, e.want, factor * e.want)):
            return f"the entries off the diagonal are {said} as large as the right ones: {why}"
    return ""


def whole_multiples(e: Evidence) -> str:
    """Each entry multiplied, or divided, by an integer of its own: the size of a group.

    >>> point = Point(lambda x: x, jax.tree.structure((0,)), (np.ones(4),), ("x",), (0,), (np.ones(4),))
    >>> want = np.array([1.0, -2.0, 3.0, 0.5])
    >>> whole_multiples(Evidence(0, [want * [1, 3, 3, 2]], [want], ["x"], point, 1e-9)).partition(":")[0]
    'each entry is a whole multiple of the right one'
    >>> whole_multiples(Evidence(0, [want * [1, 3.1, 3, 2]], [want], ["x"], point, 1e-9))
    ''
    """
    if e.got.shape != e.want.shape or e.want.size < SEVERAL or not np.all(e.got * e.want > 0):
        return ""
    for ratio, said in (
        (e.got / e.want, "a whole multiple of the right one: a sum over a group where its mean belongs"),
        (e.want / e.got, "a whole part of the right one: a mean over a group where its sum belongs"),
    ):
        whole = np.rint(ratio)
        several = len(np.unique(whole)) > 1 and whole.min() >= 1 and whole.max() <= LARGEST_GROUP
        if several and np.max(np.abs(ratio - whole)) <= 16 * e.tolerance * whole.max():
            return f"each entry is {said}, or another count for each"
    return ""


def off_diagonal_of_jacobian(e: Evidence) -> str:
    """The diagonal of the Jacobian times the cotangent."""
    if e.scalar or len(e.point.dout) != 1 or np.shape(e.point.dout[0]) != e.want.shape:
        return ""
    if not 1 < e.want.size <= JACOBIAN_UP_TO:
        return ""
    (dout,) = (np.asarray(d) for d in e.point.dout)
    jacobian = e.once(f"jacobian {e.leaf}", lambda: _jacobian(e.point, e.leaf, dout.shape))
    diagonals = np.diagonal(jacobian).reshape(dout.shape)
    if not e.same(diagonals * dout, e.want) and e.same(e.got, diagonals * dout):
        said = "off-diagonal terms of the Jacobian missing"
        if _is_causal(jacobian, dout.shape):
            return (
                f"nothing is carried back from step to step along axis 0: no gradient through time ({said})"
            )
        return f"{said} (softmax without its off-diagonal terms)"
    return ""


def _is_causal(jacobian: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether each output depends on earlier steps along axis 0, and never on later ones."""
    if not shape or shape[0] < 3:
        return False
    steps = np.repeat(np.arange(shape[0]), int(np.prod(shape[1:])))
    later, earlier = steps[:, None] < steps[None, :], steps[:, None] > steps[None, :]
    return bool(np.any(jacobian[earlier])) and not np.any(jacobian[later])


def jacobian_not_transposed(e: Evidence) -> str:
    """The Jacobian times the cotangent instead of its transpose times it."""
    if e.scalar or len(e.point.dout) != 1 or np.size(e.point.dout[0]) != e.want.size:
        return ""
    if not 1 < e.want.size <= JACOBIAN_UP_TO:
        return ""
    dout = np.asarray(e.point.dout[0])
    J = e.once(f"jacobian {e.leaf}", lambda: _jacobian(e.point, e.leaf, dout.shape))
    product = (J @ dout.ravel()).reshape(e.want.shape)
    same = not e.same(product, e.want) and e.same(e.got, product)
    return "transposed: the Jacobian times the cotangent, not its transpose" if same else ""


def _jacobian(point: Point, leaf: int, shape: tuple[int, ...]) -> np.ndarray:
    rows = np.eye(int(np.prod(shape)))
    return np.array([pulled(point, [row.reshape(shape)])[leaf].ravel() for row in rows])


def upside_down(e: Evidence) -> str:
    """The reciprocals of the right entries, up to one factor: a quotient is upside down."""
    product = e.got * e.want
    if e.as_infinite and np.any(e.wants[e.leaf][e.hidden]):
        return ""
    if product.size < 3 or not np.all(product) or e.same(e.want, np.full_like(e.want, e.want.flat[0])):
        return ""
    said = "upside down: a quotient's numerator and denominator are swapped"
    return said if e.same(product, np.full_like(product, product.flat[0])) else ""


def cases_swapped(e: Evidence) -> str:
    """p at the true class and p − 1 elsewhere: off by one number, with a different sign at the true class."""
    difference = e.got - e.want
    if not difference.size > 2 or not e.same(
        np.abs(difference), np.full_like(difference, np.abs(difference).max())
    ):
        return ""
    positive = difference > 0
    if any(np.all(positive.sum(axis) == 1) for axis in range(e.want.ndim)):
        return "the two cases swapped: p at the true class, p − 1 elsewhere"
    return ""


def label_not_subtracted(e: Evidence) -> str:
    """Off by one number at one entry of each row: p instead of p − y."""
    difference = np.where(np.abs(e.got - e.want) > e.tolerance * np.max(np.abs(e.want)), e.got - e.want, 0)
    at = difference != 0
    for axis in range(e.want.ndim):
        if (
            e.want.shape[axis] > 2
            and at.any()
            and np.all(at.sum(axis) == np.any(e.want, axis))  # none where a label is ignored
            and e.same(e.want.sum(axis) + 1, np.ones_like(e.want.sum(axis)))
        ):
            values = difference[at]
            if e.same(values, np.full_like(values, values[0])) and np.all(e.got * values[0] >= 0):
                return "the one-hot labels are not subtracted: p where p − y belongs"
    return ""


def transposed_factor(e: Evidence) -> str:
    """The truth with another argument transposed or rotated."""
    for i, value in enumerate(e.point.values):
        if i == e.point.wrt[e.leaf] or not is_float(value) or np.ndim(value) == 0:
            continue
        for phrase, turned in _turned(np.asarray(value)):
            values = list(e.point.values)
            values[i] = jax.numpy.asarray(turned)

            def ask(values: list = values) -> list[np.ndarray]:
                return pulled(at_values(e.point, values))

            want = e.once(f"{phrase} {i}", ask)[e.leaf]
            if not e.same(want, e.want) and e.same(e.got, want):
                return phrase.format(e.point.names[i])
    return ""


def _turned(value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if value.ndim == 2 and value.shape[0] == value.shape[1]:
        yield "transposed: {} is used for its transpose", value.T
    kernel = "rotated or flipped kernel: {} must be rotated in the backward pass"
    for axes in SPATIAL.get(value.ndim, ()):
        yield f"{kernel}, {_listed(axes)}", np.flip(value, axes)


# --- vague causes -----------------------------------------------------------------------------------------


def any_scale(e: Evidence) -> str:
    """The truth times a factor without a known meaning."""
    factor = factor_of(e)
    if not factor or e.want.size < 2:
        return ""
    told = "" if e.point.foreign is None else _root(e, factor)
    return told or f"scaled by {factor:.4g}, {NO_SIZE}"


def _root(e: Evidence, factor: float) -> str:
    """The phrase for the root of a size, as attention's 1/√d, where no step can tell whether it occurs."""
    sign = "sign flipped and " if factor < 0 else ""
    for n, what in sizes_named(e).items():
        if n > 2 and abs(abs(factor) / n**0.5 - 1) <= 4 * e.tolerance:
            return f"{sign}scaled by √{n} ({what}): 1/√{n} is missing"
        if n > 2 and abs(abs(factor) * n**0.5 - 1) <= 4 * e.tolerance:
            return f"{sign}scaled by 1/√{n} ({what}): 1/√{n} is applied twice"
    return ""


def _samples_that_count(e: Evidence, factor: float) -> str:
    """The phrase for all samples in place of those whose gradient is not 0, as with an ``ignore_index``."""
    n, where = batch(e.point)
    if e.want.ndim < 1 or e.want.shape[0] != n:
        return ""
    kept = int(np.sum(np.any(e.want.reshape(n, -1) != 0, axis=1)))
    if 0 < kept < n and abs(factor * n / kept - 1) <= 4 * e.tolerance:
        return f"divided by N = {n} ({where}) instead of {kept}, the number of samples with a gradient"
    return ""


def reordered(e: Evidence) -> str:
    """The right numbers in the wrong places, or the right total."""
    if e.want.size > 1 and e.same(np.sort(e.got, None), np.sort(e.want, None)):
        return "the right numbers in the wrong places"
    return ""


def constant_added(e: Evidence) -> str:
    """Off by one number everywhere."""
    difference = e.got - e.want
    if e.want.size > 2 and e.same(difference, np.full_like(difference, difference.flat[0])):
        return "off by the same number everywhere, such as a mean that is not subtracted"
    return ""


def itself_added(e: Evidence) -> str:
    """Off by a multiple of the argument."""
    value, difference = np.asarray(e.point.at[e.leaf]), e.got - e.want
    square = float(np.vdot(value, value))
    factor = float(np.vdot(value, difference)) / square if square else 0.0
    if not factor or not e.same(difference, factor * value):
        return ""
    return f"an extra term: {factor:.4g} times {e.names[e.leaf]} itself, as from a penalty, is added"


def _orders(n: int) -> Iterator[tuple[int, ...]]:
    """Every order of n axes; if n is large, only those that swap two axes, as there are n! in all."""
    if n <= MANY_AXES:
        yield from itertools.permutations(range(n))
        return
    for i, j in itertools.combinations(range(n), 2):
        order = list(range(n))
        order[i], order[j] = j, i
        yield tuple(order)


def _subsets(items: Sequence[int]) -> list[tuple[int, ...]]:
    """Every choice of axes; if n is large, only those of one, two or all axes, as there are 2ⁿ in all."""
    n = len(items)
    sizes = range(1, n + 1) if n <= MANY_AXES else (1, 2, n)
    return [s for r in sizes for s in itertools.combinations(items, r)]


def _listed(axes: Sequence[int]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else "axes " + ", ".join(map(str, axes))


ELSEWHERE: tuple[tuple[Explanation, ...], ...] = (
    (writes_that_explain,),
    (
        output_ignored,
        missing_mask,
        cotangent_unchanged,
        input_for_slope,
        upside_down,
        sample_dropped,
        chunk_dropped,
        off_diagonal_of_jacobian,
        cases_swapped,
    ),
    (order_mistaken,),
    (jacobian_not_transposed, doubled_off_the_diagonal),
    (label_not_subtracted, transposed_factor, mistakes_that_explain, cotangent_misused),
    (rows_counted,),
    (spectrum_mistaken, rows_scaled, misplaced),
    (adjoint_not_taken,),
    (conjugate_missing,),
    (sample_left_out, one_sample_only),
    (off_diagonal_zero, mask_inverted, shifted),
)
OF_FINITE_ENTRIES: tuple[tuple[Explanation, ...], ...] = (
    (zero, sign, scale_of_the_problem, cotangent_ignored),
    (missing_mask, upside_down, mistakes_that_explain),
    (any_scale, constant_added),
)
TIERS: tuple[tuple[Explanation, ...], ...] = (
    (missing,),
    (not_finite,),
    (zero,),
    (
        sign,
        wrong_order,
        not_summed,
        transposed_shape,
        scale_of_the_problem,
        transposed,
        flipped,
        cotangent_ignored,
    ),
    (reshaped, over_wrong_axes),
    (transposed_factor_elsewhere, full_for_valid),
    (wrong_shape,),
    (true_gradient_zero,),
    *ELSEWHERE,
    (implied_by_the_error,),
    (imprecise,),
    (itself_added,),
    (any_scale, reordered, constant_added),
    (whole_multiples,),
)
