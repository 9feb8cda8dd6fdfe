"""What "equal" means: structure, shape and dtype first, then the largest relative error."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# In the half precisions sixteen times the rounding error: four times what was measured.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5} | {
    name: 16 * float(jnp.finfo(name).eps) for name in ("bfloat16", "float16")
}


@dataclass(frozen=True)
class Comparison:
    """How one array of a formula compares with one oracle's.

    Attributes:
        name: which array, such as ``params[0][1]``.
        error: max |got − want| / max |want|; infinite where structure, shape, dtype or a NaN differs.
        detail: what differs, or where the largest error is.
        tolerance: the largest error that passes, where it is this comparison's own.
        facts: what else an oracle says of itself.
    """

    name: str
    error: float
    detail: str
    tolerance: float | None = field(default=None, repr=False)
    facts: dict[str, float] = field(default_factory=dict, repr=False)


def compare(got: Any, want: Any, dtype: Any, name: str = "") -> list[Comparison]:
    """Compare two pytrees of arrays leaf by leaf.

    Args:
        got: what is judged, every array of ``dtype``.
        want: the truth, of the same structure and shapes, in any dtype.
        dtype: the dtype that ``got`` must have.
        name: what to call the whole.
    Returns:
        One comparison a leaf; a single one of infinite error where the structures differ.

    >>> compare(jnp.array([1.0, 2.5]), np.array([1.0, 2.0]), jnp.float32, "dW")
    [Comparison(name='dW', error=0.25, detail='at [1]: got 2.5, expected 2')]
    """
    got_leaves, got_tree = jax.tree_util.tree_flatten_with_path(got)
    want_leaves, want_tree = jax.tree_util.tree_flatten_with_path(want)
    if str(got_tree) != str(want_tree):
        return [Comparison(name, float("inf"), f"got the structure {got_tree}, expected {want_tree}")]
    return [
        _compare_arrays(g, w, dtype, name + jax.tree_util.keystr(path))
        for (path, g), (_, w) in zip(got_leaves, want_leaves, strict=True)
    ]


def _compare_arrays(got: Any, want: Any, dtype: Any, name: str) -> Comparison:
    if np.shape(got) != np.shape(want):
        return Comparison(name, float("inf"), f"got the shape {np.shape(got)}, expected {np.shape(want)}")
    if jnp.result_type(got) != jnp.dtype(dtype):
        return Comparison(
            name, float("inf"), f"got the dtype {jnp.result_type(got)}, expected {jnp.dtype(dtype)}"
        )
    g, w = np.asarray(got, np.float64), np.asarray(want, np.float64)
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        difference = np.where((g == w) | (np.isnan(g) & np.isnan(w)), 0.0, np.abs(g - w))
    difference = np.where(np.isnan(difference), np.inf, difference)
    worst = np.unravel_index(np.argmax(difference), difference.shape)
    scale = np.max(np.abs(w), initial=0.0, where=np.isfinite(w))
    error = float(difference[worst] / scale) if scale else float(difference[worst])
    at = f"at [{','.join(map(str, worst))}]: " if worst else ""
    return Comparison(name, error, f"{at}got {g[worst]:.6g}, expected {w[worst]:.6g}")
