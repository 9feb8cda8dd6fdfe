"""Compare arrays: structure, shape and dtype first, then the largest relative error."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FLOAT64 = 1e-12  # relative to the largest entry, unless each entry has its own budget
TOLERANCES = {"float64": FLOAT64, "float32": 1e-5} | {
    name: 16 * float(jnp.finfo(name).eps) for name in ("bfloat16", "float16")
}  # for a user's function, which has no budget


@dataclass(frozen=True)
class Comparison:
    """The comparison of one array of a formula with an oracle's.

    Attributes:
        name: which array, such as ``params[0][1]``.
        error: max |got − want| / max |want|; infinite where structure, shape, dtype or a NaN differs.
        detail: what differs, or where the largest share of the allowed error was used.
        share: the largest ratio of an entry's error to the error allowed there; up to 1 it passes.
        facts: further figures from the oracle.
    """

    name: str
    error: float
    detail: str
    share: float = float("inf")
    facts: dict[str, float] = field(default_factory=dict, repr=False)


def compare(got: Any, want: Any, dtype: Any, name: str = "", allowed: Any = None) -> list[Comparison]:
    """Compare two pytrees of arrays leaf by leaf.

    Args:
        got: the arrays to check, all expected to have ``dtype``.
        want: the truth, of the same structure and shapes, in any dtype.
        dtype: the dtype that ``got`` must have.
        name: what to call the whole pytree.
        allowed: structured like ``want``, the absolute error allowed in each entry; by default 1e-12 times
            the largest magnitude in ``want``.
    Returns:
        One comparison per leaf; a single one with infinite error if the structures differ.

    >>> found = compare(jnp.array([1.0, 2.5]), np.array([1.0, 2.0]), jnp.float32, "dW", np.array([1.0, 1.0]))
    >>> found
    [Comparison(name='dW', error=0.25, detail='at [1]: got 2.5, expected 2', share=0.5)]
    """
    got_leaves, got_tree = jax.tree_util.tree_flatten_with_path(got)
    want_leaves, want_tree = jax.tree_util.tree_flatten_with_path(want)
    if str(got_tree) != str(want_tree):
        return [Comparison(name, float("inf"), f"got the structure {got_tree}, expected {want_tree}")]
    budgets = [None] * len(want_leaves) if allowed is None else jax.tree.leaves(allowed)
    return [
        _compare_arrays(g, w, budget, dtype, name + jax.tree_util.keystr(path))
        for (path, g), (_, w), budget in zip(got_leaves, want_leaves, budgets, strict=True)
    ]


def _compare_arrays(got: Any, want: Any, allowed: Any, dtype: Any, name: str) -> Comparison:
    if np.shape(got) != np.shape(want):
        return Comparison(name, float("inf"), f"got the shape {np.shape(got)}, expected {np.shape(want)}")
    if jnp.result_type(got) != jnp.dtype(dtype):
        return Comparison(
            name, float("inf"), f"got the dtype {jnp.result_type(got)}, expected {jnp.dtype(dtype)}"
        )
    g, w = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if not w.size:
        return Comparison(name, 0.0, "no entries", 0.0)
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        difference = np.where((g == w) | (np.isnan(g) & np.isnan(w)), 0.0, np.abs(g - w))
    difference = np.where(np.isnan(difference), np.inf, difference)
    scale = np.max(np.abs(w), initial=0.0, where=np.isfinite(w)) or 1.0
    shares = share_of(difference, FLOAT64 * scale if allowed is None else np.asarray(allowed))
    worst = np.unravel_index(np.argmax(shares), shares.shape)
    at = f"at [{','.join(map(str, worst))}]: " if worst else ""
    detail = f"{at}got {g[worst]:.6g}, expected {w[worst]:.6g}"
    return Comparison(name, float(np.max(difference) / scale), detail, float(shares[worst]))


def share_of(difference: np.ndarray, allowed: Any) -> np.ndarray:
    """Each difference divided by the error allowed; where no error is allowed, 0 or infinity.

    >>> share_of(np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.0, 4.0])).tolist()
    [0.0, inf, 0.25]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(difference == 0, 0.0, difference / allowed)
