"""Clues about a mistake that nothing explains: where entries are wrong, and the structure of the error."""

from collections.abc import Sequence

import numpy as np

from manual_grad.checker.evidence import Evidence

CANCELS = "entries are in each other's place, or the error is in terms that cancel there"
FEW = 4  # positions that are listed one by one


@np.errstate(all="ignore")
def narrowed(evidence: Sequence[Evidence]) -> str:
    """Where a leaf is wrong at every point, and the structure of its error; "" if that gives no clue.

    >>> want = np.arange(1.0, 13).reshape(4, 3)
    >>> _said(want + np.array([[0.0], [0], [1], [0]]), want, 1e-9)
    ['wrong only at index 2 of axis 0 (0 to 3)', 'the error is the same along axis 1']
    """
    if any(e.got is None or e.got.shape != e.want.shape or e.hidden is not None for e in evidence):
        return ""
    found = [_said(e.got, e.want, e.tolerance) for e in evidence]
    return "; ".join([phrase for phrase in found[0] if all(phrase in other for other in found[1:])][:2])


def _said(got: np.ndarray, want: np.ndarray, tolerance: float) -> list[str]:
    error = got - want
    largest = np.max(np.abs(error), initial=0.0)
    if not want.ndim or want.size < 3 or not np.isfinite(largest):
        return []
    wrong = np.abs(error) > tolerance * max(largest, float(np.max(np.abs(want))))
    places = [phrase for axis in range(want.ndim) if (phrase := _places(wrong, axis))]
    return places + _form(np.where(wrong, error, 0.0), largest, tolerance)


def _places(wrong: np.ndarray, axis: int) -> str:
    """The slices that are wrong, if some are right."""
    n = wrong.shape[axis]
    bad = np.flatnonzero(wrong.any(tuple(a for a in range(wrong.ndim) if a != axis)))
    if n < 2 or not 0 < len(bad) < n:
        return ""
    of = f"of axis {axis} (0 to {n - 1})"
    if len(bad) <= FEW:
        return f"wrong only at {_indices(bad)} {of}"
    right = np.setdiff1d(np.arange(n), bad)
    if len(right) <= FEW:
        return f"right only at {_indices(right)} {of}"
    return f"wrong only at indices {bad[0]} to {bad[-1]} {of}" if bad[-1] - bad[0] == len(bad) - 1 else ""


def _indices(found: np.ndarray) -> str:
    return f"{'index' if len(found) == 1 else 'indices'} {', '.join(map(str, found))}"


def _form(error: np.ndarray, largest: float, tolerance: float) -> list[str]:
    """Whether the error is constant along an axis, sums to 0 along one, or has rank one."""
    said = []
    allowed = 8 * max(tolerance, 1e-12) * largest
    for axis, n in enumerate(error.shape):
        if n > 1 and np.max(np.ptp(error, axis)) <= allowed:
            said.append(f"the error is the same along axis {axis}")
        elif n > 2 and np.max(np.abs(error.sum(axis))) <= n * allowed:
            said.append(f"the sums along axis {axis} are right: {CANCELS}")
    matrix = error.reshape(-1, error.shape[-1])
    if not said and min(matrix.shape) > 2 and matrix.size <= 2**16:
        values = np.linalg.svd(matrix, compute_uv=False)
        if values[1] <= allowed:
            said.append("the error is of rank one: an outer product, such as a mean that is missing or wrong")
    return said
