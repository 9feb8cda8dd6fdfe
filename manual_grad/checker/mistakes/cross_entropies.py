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
EXPONENTIALS = ("exp", "exp2", "expm1", "logistic", "tanh")  # without one, there are no probabilities
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
    if not any(step.name in EXPONENTIALS for step in tape.steps):
        return
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
        return OF_LOG_SUM_EXP | _in_chunks(e)
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
    known = (OF_SMOOTHED if smoothed else {}) | OF_SOFTMAX | OF_LOG_SUM_EXP | of_distributions | moved
    return known | _in_chunks(e)


def _in_chunks(e: _Error) -> dict[str, Callable[[_Error], np.ndarray]]:
    """The classes taken chunk by chunk, such as a vocabulary's: the maximum, the sum or the label of one."""
    found: dict[str, Callable[[_Error], np.ndarray]] = {}
    for size in CHUNKS if e.axis is not None else ():
        n = e.p.shape[e.axis or 0]
        names = f"chunks of {size} classes", f"chunk (the last {n - (n - 1) // size * size} classes)"
        if size < n:
            for said, version in OF_CHUNKS.items():
                found[said.format(*names)] = partial(_with_chunks, size, version)
            for said, labels in LABELS_OF_CHUNKS.items() if np.all((e.y == 0) | (e.y == 1)) else ():
                found[said.format(*names)] = partial(_labels_in_chunks, size, labels)
    return found


def _with_chunks(size: int, version: Callable[..., np.ndarray], e: _Error) -> np.ndarray:
    z = np.moveaxis(e.z, e.axis or 0, -1)
    chunks = [slice(k, k + size) for k in range(0, z.shape[-1], size)]
    return np.moveaxis(version(z, chunks), -1, e.axis or 0) * e.sum - e.y


def _labels_in_chunks(size: int, labels: Callable[[np.ndarray, int], np.ndarray], e: _Error) -> np.ndarray:
    y = labels(np.moveaxis(e.y, e.axis or 0, -1), size)
    return e.p * e.sum - np.moveaxis(y, -1, e.axis or 0)


def _most(z: np.ndarray) -> np.ndarray:
    return z.max(-1, keepdims=True)


def _exps(z: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.exp(z - of).sum(-1, keepdims=True)


def _softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z - _most(z)) / _exps(z, _most(z))


def _sums_not_rescaled(z: np.ndarray, chunks: list[slice], running: bool) -> np.ndarray:
    """With the sum of the chunks' sums, each for its own maximum or for the largest so far."""
    tops = [_most(z[..., : c.stop] if running else z[..., c]) for c in chunks]
    return np.exp(z - _most(z)) / sum(_exps(z[..., c], top) for c, top in zip(chunks, tops, strict=True))


CHUNKS = (2, 3, 4, 5, 6, 7, 8, 16, 32, 64)
UNSCALED = "not rescaled to the common maximum"
OF_CHUNKS: dict[str, Callable[[np.ndarray, list[slice]], np.ndarray]] = {
    f"the exponentials of {{}} are those of each chunk's own maximum, {UNSCALED}": (
        lambda z, chunks: (
            np.concatenate([np.exp(z[..., c] - _most(z[..., c])) for c in chunks], -1) / _exps(z, _most(z))
        )
    ),
    f"the sums of {{}} are added up {UNSCALED}": lambda z, chunks: _sums_not_rescaled(z, chunks, False),
    f"the sums of {{}} are added up {UNSCALED}: the sum so far is kept as it is when the maximum grows": (
        lambda z, chunks: _sums_not_rescaled(z, chunks, True)
    ),
    "each of the {} is normalised by its own sum, not by that of all classes": (
        lambda z, chunks: np.concatenate([_softmax(z[..., c]) for c in chunks], -1)
    ),
    "the log-sum-exp of the {} so far is used, not that of all classes": (
        lambda z, chunks: np.concatenate([_softmax(z[..., : c.stop])[..., c] for c in chunks], -1)
    ),
    "the sum of the last {1} is used for that of all classes": (
        lambda z, chunks: np.exp(z - _most(z)) / _exps(z[..., chunks[-1]], _most(z))
    ),
    "the sum of the first of the {} is used for that of all classes": (
        lambda z, chunks: np.exp(z - _most(z)) / _exps(z[..., chunks[0]], _most(z))
    ),
    "the exponentials are those of the maximum of the last {1}, the sum that of the common one": (
        lambda z, chunks: np.exp(z - _most(z[..., chunks[-1]])) / _exps(z, _most(z))
    ),
    "the exponentials are those of the maximum of the first of the {}, the sum that of the common one": (
        lambda z, chunks: np.exp(z - _most(z[..., chunks[0]])) / _exps(z, _most(z))
    ),
}


def _in_every_chunk(y: np.ndarray, size: int) -> np.ndarray:
    k = np.arange(y.shape[-1])
    return np.take_along_axis(_in_first_chunk(y, size), np.broadcast_to(k % size, y.shape), -1)


def _in_first_chunk(y: np.ndarray, size: int) -> np.ndarray:
    moved = np.zeros_like(y)
    np.add.at(np.moveaxis(moved, -1, 0), np.arange(y.shape[-1]) % size, np.moveaxis(y, -1, 0))
    return moved


LABELS_OF_CHUNKS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "the label is the index inside the {}, and the first chunk's class is taken for it": _in_first_chunk,
    "the label is the index inside the {}, and is subtracted in every chunk": _in_every_chunk,
    "the labels outside the first of the {} are lost": lambda y, size: y * (np.arange(y.shape[-1]) < size),
    "the labels outside the last {1} are lost": (
        lambda y, size: y * (np.arange(y.shape[-1]) >= (y.shape[-1] - 1) // size * size)
    ),
}


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
