"""Points near the given one, kinks at it, and sizes that make two mistakes look alike."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.checker.truth import IN_NUMPY, Point, is_float, is_key, projected, to_float64

SMALL, LARGE = 1e-6, 1e-5  # steps of the one-sided derivatives, in units of the array's size

PARAMETERS = r"[WwbKkFf]\d*\b|theta|param|weight|bias|kernel|filter|ga$|be$|beta|gamma|scale|shift"


def nearby(
    values: Sequence[Any],
    rng: np.random.Generator,
    kinks: Sequence[int] = (),
    moving: Sequence[int] = (),
    reach: float = 1.0,
) -> list[Any]:
    """Leaves drawn around the given ones, with the same types, shapes and dtypes.

    Values that may be meaningful only as given do not move unless listed in ``moving``: integers, whole
    numbers (labels, masks) and distributions. Signs are kept, values in [0, 1] stay there, symmetric matrices
    stay symmetric, and sums of 1 remain 1.

    Args:
        values: the leaves of the arguments.
        rng: draws the moves.
        kinks: the leaves at a kink: they move off it, whatever they are.
        moving: the leaves that move even if they are whole numbers or distributions.
        reach: how far they move, as a fraction of the usual distance.
    Returns:
        The leaves there.

    >>> x, y = nearby([np.array([0.5, -2.0]), np.array([0.0, 1.0])], np.random.default_rng(0))
    >>> bool((x != [0.5, -2.0]).all()), np.sign(x).tolist(), y.tolist()
    (True, [1.0, -1.0], [0.0, 1.0])
    >>> (y,) = nearby([np.eye(3)[[2, 0, 0, 1]]], np.random.default_rng(0), moving=[0])
    >>> bool((y > 0).all()), y.sum(1).round(12).tolist(), y.argmax(1).tolist()
    (True, [1.0, 1.0, 1.0, 1.0], [2, 0, 0, 1])
    """
    return [
        _cast(
            _off(leaf, rng) if i in kinks else _around(np.asarray(leaf), rng, i in moving, reach),
            leaf,
        )
        if is_float(leaf)
        else leaf
        for i, leaf in enumerate(values)
    ]


def _around(leaf: np.ndarray, rng: np.random.Generator, moving: bool, reach: float) -> np.ndarray:
    x = leaf.astype(np.float64)
    whole, axes = _is_whole(x), _sums_to_1(x)
    if not moving and (whole or axes or not np.all(np.isfinite(x))):
        return x
    if axes:
        return _mixed(x, axes, rng, reach)
    if whole:
        return x + reach * _step_off(x, rng)
    move = reach * rng.uniform(-0.3, 0.3, x.shape)
    if _symmetric(x):
        move = (move + move.T) / 2
    return x ** np.exp(move) if np.all((x >= 0) & (x <= 1)) else x * (1 + move)


def _is_whole(x: np.ndarray) -> bool:
    return bool(np.all(x[np.isfinite(x)] == np.round(x[np.isfinite(x)])))


def _sums_to_1(x: np.ndarray) -> list[int]:
    """The axes along which nonnegative numbers sum to 1."""
    if not np.all(x >= 0):
        return []
    return [a for a in range(x.ndim) if x.shape[a] > 1 and np.allclose(x.sum(a), 1, atol=1e-3)]


def _mixed(x: np.ndarray, axes: Sequence[int], rng: np.random.Generator, reach: float) -> np.ndarray:
    """Distributions mixed with a little of others: with permuted ones if rows and columns both sum to 1."""
    if len(axes) > 1 and x.ndim == 2:
        other = np.eye(len(x))[rng.permutation(len(x))]
        other = (other + other.T) / 2 + 1 / len(x)
    else:
        other = rng.uniform(0.5, 1.5, x.shape)
    share = 0.3 * reach
    return (1 - share) * x + share * other / other.sum(axes[-1], keepdims=True)


def _step_off(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves for whole numbers: signs are kept, and 0 and 1 stay between 0 and 1 if both occur."""
    finite = x[np.isfinite(x)]
    lowest, highest = finite.min(initial=np.inf), finite.max(initial=-np.inf)
    sign = rng.choice([-1.0, 1.0], x.shape)
    if lowest == 0 and highest > 0:
        sign = np.where(x == 0, 1.0, -1.0 if highest == 1 else sign)
    step = sign * rng.uniform(0.05, 0.3, x.shape) * np.where(x == 0, _size(finite), np.abs(x))
    step = np.where(np.isfinite(x), step, 0.0)
    return (step + step.T) / 2 if _symmetric(x) else step


def _off(leaf: Any, rng: np.random.Generator) -> np.ndarray:
    x = np.asarray(leaf).astype(np.float64)
    return x + _size(x) * rng.choice([-1, 1], x.shape) * rng.uniform(0.05, 0.3, x.shape)


def _size(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2))) or 1.0 if x.size else 1.0


def _symmetric(x: np.ndarray) -> bool:
    return x.ndim == 2 and x.shape[0] == x.shape[1] > 1 and bool(np.all(x == x.T))


def _cast(x: np.ndarray, like: Any) -> Any:
    if isinstance(like, jax.Array):
        return jnp.asarray(x, like.dtype)
    return x.astype(like.dtype) if isinstance(like, np.ndarray) else type(like)(x)


def kinks(
    point: Point, wants: Sequence[np.ndarray], rng: np.random.Generator, knows: str = "JAX"
) -> tuple[dict[int, str], dict[int, str]]:
    """The leaves at a kink, and those whose derivative by JAX is not the function's.

    At a kink the one-sided derivatives still differ as the step shrinks; if the function is merely curved,
    the difference shrinks with the step. If they agree with each other but not with JAX, JAX was given a
    different derivative (``custom_vjp``, ``stop_gradient``).

    Args:
        point: the point to examine.
        wants: the truth there.
        rng: draws the directions.
        knows: the library that computes the truth.
    Returns:
        Two dictionaries, index into ``point.values`` → a description of what was found.
    """
    found: dict[int, str] = {}
    disagree: dict[int, str] = {}
    if point.foreign is not None:
        outs, _ = point.foreign(point.values, (), point.dout)
        if any(out.dtype != np.float64 for out in outs):
            return found, disagree  # differences would be rounding errors
    value = projected(point, point.at)
    for place, i in enumerate(point.wrt):
        x = np.asarray(point.values[i])
        noise = 1e-12 * abs(value) / (SMALL * _size(x))  # the error of a difference of two values
        for _ in range(2):
            direction = rng.choice([-1.0, 1.0], x.shape) * rng.uniform(0.5, 1.0, x.shape)
            right, left = _one_sided(point, place, value, direction, SMALL)
            far_right, far_left = _one_sided(point, place, value, direction, LARGE)
            gap, size = abs(right - left), max(abs(right), abs(left))
            if gap > 0.4 * abs(far_right - far_left) and gap > 1e-5 * size + noise:
                found[i] = f"its one-sided derivatives differ, {right:.4g} and {left:.4g}"
                break
            told = float(np.vdot(direction, wants[place]))
            if abs(told - (right + left) / 2) > 1e-3 * max(size, abs(told)) + noise + gap:
                disagree[i] = (
                    f"finite differences give {right:.4g} where {knows} says {told:.4g} (a custom rule or "
                    "stop_gradient in the function that is differentiated?)"
                )
    return found, {i: what for i, what in disagree.items() if i not in found}


def _one_sided(
    point: Point, place: int, value: float, direction: np.ndarray, step: float
) -> tuple[float, float]:
    """The one-sided derivatives with respect to one leaf, forwards and backwards along ``direction``."""
    ahead, behind = point.at, point.at
    x = np.asarray(ahead[place])
    h = step * _size(x)
    ahead[place], behind[place] = x + h * direction, x - h * direction
    return (projected(point, ahead) - value) / h, (value - projected(point, behind)) / h


MOST_ON_KINKS = 16  # entries whose one-sided derivatives are computed


def outside(
    point: Point, place: int, got: np.ndarray, want: np.ndarray, allowed: Any
) -> tuple[tuple[int, ...], str] | None:
    """An entry at a kink that lies outside the one-sided derivatives, with a message; None if there is none.

    Any value between the one-sided derivatives is as good as JAX's. Where several kinks meet, so is the
    gradient that makes the opposite choice at each of them.
    """
    value = projected(point, point.at)
    off = np.abs(got - want) - allowed
    worst = np.argsort(-off, axis=None)[: min(MOST_ON_KINKS, int(np.sum(off > 0)))]
    x = np.asarray(point.values[point.wrt[place]])
    for flat in worst:
        at = tuple(int(i) for i in np.unravel_index(flat, want.shape))
        direction = np.zeros(want.shape)
        direction[at] = 1.0
        right, left = _one_sided(point, place, value, direction, SMALL)
        told = float(want[at])
        choices = [right, left, told, right + left - told]
        if abs(2 * told - right - left) <= 1e-3 * abs(told):  # JAX takes half of each: others none or all
            choices += [0.0, right + left]
        if not np.all(np.isfinite(choices)):
            continue
        slack = 1e-3 * max(map(abs, choices)) + 1e-12 * abs(value) / (SMALL * _size(x))
        slack += float(np.broadcast_to(allowed, want.shape)[at])
        if not min(choices) - slack <= got[at] <= max(choices) + slack:
            sides = f"{left:.4g} and {right:.4g}"
            return at, f"on the kink itself it lies outside the one-sided derivatives, {sides}"
    return None


def alike(point: Point) -> list[str]:
    """Warnings about sizes of the problem that make two mistakes look alike."""
    notes = []
    n, where = batch(point)
    if n == 1:
        notes.append(f"N = 1 ({where}): 1/N cannot be told from no mean at all; use more samples")
    for i in point.wrt:
        shape = np.shape(point.values[i])
        if len(shape) >= 2 and len(set(shape[-2:])) == 1 and shape[-1] > 1:
            size = "×".join(map(str, shape))
            notes.append(
                f"{point.names[i]} is square ({size}): a transposed gradient has the right shape too"
            )
        if _symmetric(np.asarray(point.values[i])):
            notes.append(f"{point.names[i]} is symmetric: a transposed gradient looks the same")
    sizes = {s for i in point.wrt for s in np.shape(point.values[i])[1:]}
    if n > 1 and n in sizes:
        notes.append(f"another axis has the size N = {n} too: 1/N cannot be told from one over that size")
    return notes


def batch(point: Point) -> tuple[int, str]:
    """The number of samples, judging by the shapes, and the axis that it was read from; (0, "") if unknown.

    A vector of integers holds one label per sample, unless it is a random key. Otherwise it is the first axis
    that most arguments share, ignoring those with names of parameters.
    """
    shaped = [(name, np.shape(v), v) for name, v in zip(point.names, point.values, strict=True) if np.ndim(v)]
    for name, shape, value in shaped:
        key = str(getattr(value, "dtype", "")) == "uint32" and shape == (2,)
        if not is_float(value) and not is_key(value) and not key and len(shape) == 1:
            return shape[0], f"axis 0 of {name}"
    parameters = [entry for entry in shaped if re.match(PARAMETERS, entry[0])]
    data = [entry for entry in shaped if not re.match(PARAMETERS, entry[0])] or shaped
    features = {shape[-1] for _, shape, _ in data if len(shape) > 1} - {
        s[0] for _, s, _ in data if len(s) > 1
    }
    data = [entry for entry in data if len(entry[1]) > 1 or entry[1][0] not in features] or data
    columns = _in_columns(data, parameters)
    if columns is not None:
        return columns
    first = [shape[0] for _, shape, _ in data]
    n = max(first, key=first.count, default=0)
    return n, next((f"axis 0 of {name}" for name, shape, _ in data if shape[0] == n), "")


def _in_columns(data: Sequence[Any], parameters: Sequence[Any]) -> tuple[int, str] | None:
    """The number of columns of the data, if a weight matrix is multiplied by the data from the left."""
    weights = [shape for _, shape, _ in parameters if len(shape) == 2]
    for name, shape, _ in data:
        rows = any(shape[-1] == w[0] for w in weights)
        if len(shape) == 2 and not rows and any(shape[0] == w[1] for w in weights):
            return shape[1], f"axis 1 of {name}"
    return None


def leaf_names(names: Sequence[str], args: Sequence[Any]) -> list[str]:
    """``params[0]['W']``: a name for each leaf of the arguments."""
    return [
        name + jax.tree_util.keystr(path)
        for name, arg in zip(names, args, strict=True)
        for path, _ in jax.tree_util.tree_leaves_with_path(arg)
    ]


def point_at(
    fn: Any,
    tree: Any,
    values: Sequence[Any],
    names: Sequence[str],
    wrt: Sequence[int],
    dout: Sequence[Any],
    compiled: dict,
    foreign: Any = None,
) -> Point:
    """A question posed in float64; call this where float64 is enabled."""
    exact = tuple(to_float64(v) for v in values)
    if compiled.get(IN_NUMPY):
        exact = tuple(
            np.asarray(v) if isinstance(v, jax.Array) and not (is_float(v) or is_key(v)) else v for v in exact
        )
    return Point(fn, tree, exact, tuple(names), tuple(wrt), tuple(map(to_float64, dout)), compiled, foreign)
