"""Mistakes in the gradient with respect to a cross-entropy's logits: in p, in the labels y, p for p − y."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import Mistake, arrays_by_shape, arriving, users_of
from manual_grad.checker.tape import Passing, Slot, Tape


@dataclass(frozen=True, eq=False)
class _Error:
    """c (p Σy − y), the derivative of a cross-entropy with respect to the logits z; c p for a log-sum-exp.

    p is the softmax along an axis or, if the axis is None, the sigmoid, with 1 in place of Σy.
    """

    z: np.ndarray
    p: np.ndarray
    y: np.ndarray
    sum: np.ndarray
    c: np.ndarray
    axis: int | None


UNNORMALISED = "not normalised: the division of the exponentials by their sum is missing"
# Wrong versions of p Σy − y.
OF_SOFTMAX: dict[str, Callable[[_Error], np.ndarray]] = {
    "the two cases swapped: p at the true class, p − 1 elsewhere": lambda e: e.p - (1 - e.y),
    "the one-hot labels are not subtracted: p where p − y belongs": lambda e: e.p,
    "the sum of the labels is taken to be 1: p − y for p Σy − y": lambda e: e.p - e.y,
    "the derivative of softmax is missing: −y/p, with respect to the probabilities, for p − y": lambda e: (
        -e.y / e.p
    ),
    "logits are used for the probabilities: z − y for p − y": lambda e: e.z * e.sum - e.y,
    "log-probabilities are used for the probabilities: log p − y for p − y": (
        lambda e: np.log(e.p) * e.sum - e.y
    ),
    "the labels are those of the next class": lambda e: e.p * e.sum - np.roll(e.y, -1, e.axis),
    "the labels are those of the previous class": lambda e: e.p * e.sum - np.roll(e.y, 1, e.axis),
}
OF_LOG_SUM_EXP: dict[str, Callable[[_Error], np.ndarray]] = {
    UNNORMALISED: lambda e: np.exp(e.z) * e.sum - e.y,
    f"{UNNORMALISED} ": lambda e: np.exp(e.z - e.z.max(e.axis, keepdims=True)) * e.sum - e.y,
}
OF_SIGMOID: dict[str, Callable[[_Error], np.ndarray]] = {
    "the two cases swapped: p where y is 1, p − 1 where it is 0": lambda e: e.p - (1 - e.y),
    "the labels are not subtracted: p where p − y belongs": lambda e: e.p,
    "logits are used for the probabilities: z − y for p − y": lambda e: e.z - e.y,
    "wrong derivative: −y/p for p − y": lambda e: -e.y / e.p,
    "a term is missing: −y (1 − p) for p − y": lambda e: -e.y * (1 - e.p),
}
# The same for smoothed labels: 1 − ε + ε/K for the true class of K, ε/K for the others.
OF_SMOOTHED: dict[str, Callable[[_Error], np.ndarray]] = {
    "label smoothing: ε/(K − 1) for ε/K, shared among the other classes": (
        lambda e: e.p - _smoothed(e, 1 - _epsilon(e), _epsilon(e) / (_classes(e) - 1))
    ),
    "label smoothing: ε/K for ε/(K − 1), shared among all classes": (
        lambda e: e.p - _smoothed(e, 1 - _others(e) + _others(e) / _classes(e), _others(e) / _classes(e))
    ),
    "label smoothing: the true class lacks its ε/K": (
        lambda e: e.p - _smoothed(e, 1 - _epsilon(e), _epsilon(e) / _classes(e))
    ),
    "label smoothing is left out: the labels are not smoothed": lambda e: e.p - _smoothed(e, 1.0, 0.0),
    "label smoothing: the part of the uniform distribution, ε/K, is left out": (
        lambda e: e.p - _smoothed(e, 1 - _epsilon(e), 0.0)
    ),
    "label smoothing: the part of the uniform distribution is left out, (1 − ε)(p − y) is left": (
        lambda e: e.p * (1 - _epsilon(e)) - _smoothed(e, 1 - _epsilon(e), 0.0)
    ),
    "label smoothing: ε/K is added, the labels are not multiplied by 1 − ε": (
        lambda e: e.p - _smoothed(e, 1 + _epsilon(e) / _classes(e), _epsilon(e) / _classes(e))
    ),
    "label smoothing: ε for ε/K (not divided by the number of classes)": (
        lambda e: e.p - _smoothed(e, 1.0, _epsilon(e))
    ),
    "label smoothing: ε/K for ε/(K − 1), and 1 − ε for the true class": (
        lambda e: e.p - _smoothed(e, 1 - _others(e), _others(e) / _classes(e))
    ),
}
# The same for labels that are a distribution.
OF_DISTRIBUTIONS: dict[str, Callable[[_Error], np.ndarray]] = {
    "the gradient of the reverse divergence: KL(p ‖ y) for KL(y ‖ p)": (
        lambda e: e.p * (np.log(e.p / e.y) - (e.p * np.log(e.p / e.y)).sum(e.axis, keepdims=True))
    ),
}
OF_SAMPLES = {"next": -1, "previous": 1}


def _classes(e: _Error) -> int:
    return e.y.shape[e.axis or 0]


def _epsilon(e: _Error) -> float:
    """ε if the other classes have ε/K."""
    return float(np.min(e.y)) * _classes(e)


def _others(e: _Error) -> float:
    """ε if the other classes have ε/(K − 1)."""
    return float(np.min(e.y)) * (_classes(e) - 1)


def _smoothed(e: _Error, true: float, other: float) -> np.ndarray:
    return np.where(e.y == e.y.max(e.axis, keepdims=True), true, other)


def cross_entropies_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Wrong gradients of logits: y not subtracted or another sample's, p unnormalised or missing."""
    known = e.kept["right"][1]
    users = users_of(tape)
    for slot in sorted(tape.active & users.keys() & known.keys()):
        for axis in (*range(np.ndim(tape.values[slot])), None):
            found = _error(tape, slot, known[slot][0], axis)
            for phrase, wrong in _mistakes(found).items() if found is not None else ():
                if found is not None and not np.allclose(wrong(found), found.p * found.sum - found.y):
                    yield Mistake(phrase.strip(), arriving(tape, slot, partial(_mistaken, slot, axis, wrong)))


def _mistakes(e: _Error) -> dict[str, Callable[[_Error], np.ndarray]]:
    if not e.y.any():
        return OF_LOG_SUM_EXP
    moved = {
        f"the labels are those of the {which} sample, along axis {axis}": partial(_of_samples, axis, by)
        for which, by in OF_SAMPLES.items()
        for axis in range(e.y.ndim)
        if axis != e.axis
    }
    for axis, n in enumerate(e.y.shape):
        if axis != e.axis and n > 1:
            size = f"N = {n} (axis {axis})"
            moved[f"the labels are not divided by {size}: p/N − y for (p − y)/N"] = partial(_scaled, 1, n)
            moved[f"the labels are divided by {size} once too often: p − y/N for p − y"] = partial(
                _scaled, 1, 1 / n
            )
            moved[f"the probabilities are not divided by {size}: p − y/N for (p − y)/N"] = partial(
                _scaled, n, 1
            )
    if e.axis is None:
        return OF_SIGMOID | moved
    two = np.sort(np.moveaxis(e.y, e.axis, -1), -1).reshape(-1, _classes(e))
    smoothed = two.min() > 0 and np.ptp(two[:, :-1]) <= 1e-6 and np.all(two[:, -1] > two[:, -2] + 1e-3)
    of_distributions = OF_DISTRIBUTIONS if two.min() > 0 else {}
    return (OF_SMOOTHED if smoothed else {}) | OF_SOFTMAX | OF_LOG_SUM_EXP | of_distributions | moved


def _scaled(of_p: float, of_y: float, e: _Error) -> np.ndarray:
    return of_p * e.p * e.sum - of_y * e.y


def _of_samples(axis: int, by: int, e: _Error) -> np.ndarray:
    return e.p * e.sum - np.roll(e.y, by, axis)


def _error(tape: Tape, slot: Slot, d: np.ndarray, axis: int | None) -> _Error | None:
    """Whether a gradient with respect to logits is that of a cross-entropy with one-hot or known labels."""
    z = np.asarray(tape.values[slot])
    if z.size < 3 or not np.all(np.isfinite(z)) or not np.any(d):
        return None
    inputs = [s for s in arrays_by_shape(tape).get(z.shape, ()) if s not in tape.active or s in tape.leaves]
    inputs = [s for s in inputs if s != slot]
    at_hand = [np.asarray(tape.values[s]) for s in inputs]
    if axis is None:
        return _fitting(z, 1 / (1 + np.exp(-z)), d, [(d < 0).astype(float), *at_hand], None)
    if z.shape[axis] < 3:
        return None
    p = np.exp(z - z.max(axis, keepdims=True))
    p /= p.sum(axis, keepdims=True)
    c = np.median(d / p, axis, keepdims=True)
    one_hot = (np.abs(d - c * p) > 1e-6 * np.abs(c)).astype(float)
    if not one_hot.any():
        return _Error(z, p, one_hot, np.ones_like(c), c, axis)
    of_one = np.all(one_hot.sum(axis) == 1)
    found = _fitting(z, p, d, [one_hot, *at_hand] if of_one else at_hand, axis)
    return found or _fitting(z, p, d, list(_two_valued(p, d, axis)), axis)


def _two_valued(p: np.ndarray, d: np.ndarray, axis: int) -> Iterator[np.ndarray]:
    """Labels with one value for the true class and another for the rest, recovered from d = c (p − y)."""
    rows, slopes = (np.moveaxis(x, axis, -1).reshape(-1, p.shape[axis]) for x in (p, d))
    i, j = np.triu_indices(p.shape[axis], 1)
    with np.errstate(all="ignore"):
        ratios = (slopes[:, i] - slopes[:, j]) / (rows[:, i] - rows[:, j])  # c where y_i = y_j
    counts = [np.sum(np.abs(ratios - r) <= 1e-7 * abs(r)) for r in ratios.ravel()[:64]]
    c = float(ratios.ravel()[int(np.argmax(counts))])
    if max(counts) >= len(ratios) * 1 and np.isfinite(c) and c:
        y = p - d / c
        lowest = np.median(y, axis, keepdims=True)
        same = np.abs(y - lowest) <= 1e-6
        if np.all(same.sum(axis) == p.shape[axis] - 1):
            yield np.where(same, np.median(lowest), np.max(y))


def _fitting(
    z: np.ndarray, p: np.ndarray, d: np.ndarray, labels: list[np.ndarray], axis: int | None
) -> _Error | None:
    """The given labels for which a gradient is c (p Σy − y)."""
    for y in labels:
        total = np.ones(1) if axis is None else y.sum(axis, keepdims=True)
        error = p * total - y
        with np.errstate(all="ignore"):
            c = (d * error).sum(axis, keepdims=True) / np.square(error).sum(axis, keepdims=True)
            c = np.nan_to_num(c)  # for a row without an error
        if np.allclose(d, c * error, rtol=1e-6, atol=1e-9 * np.abs(d).max()):
            return _Error(z, p, y, total, c, axis)
    return None


def _mistaken(slot: Slot, axis: int | None, wrong: Callable, p: Passing, d: np.ndarray) -> np.ndarray:
    found = _error(p.tape, slot, d, axis)
    return np.full_like(d, np.nan) if found is None else found.c * wrong(found)
