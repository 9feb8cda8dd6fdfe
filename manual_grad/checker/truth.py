"""A function and its derivatives at a point, computed by JAX in float64."""

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.border import InputError
from manual_grad.budget import MARGIN, budgets, rounding_in_float64
from manual_grad.compiling import quickly

NOISES = 4  # gradients used to estimate the noise of a dtype


IN_NUMPY = "integers in NumPy"  # among what was compiled: integers and booleans must not be JAX's arrays


@dataclass(frozen=True)
class Point:
    """A function at one point of its domain.

    Attributes:
        fn: the plain forward function.
        tree: the structure of its positional arguments.
        values: the leaves of the arguments, floating-point ones in float64.
        names: a name for each leaf.
        wrt: the indices of the leaves to differentiate with respect to.
        dout: the cotangent of each floating-point leaf of the output.
        compiled: the compiled versions of ``fn``, shared with the same question at other points.
        foreign: computes outputs and cotangents from values, ``wrt`` and ``dout`` if JAX cannot trace ``fn``.
    """

    fn: Callable[..., Any]
    tree: Any
    values: tuple[Any, ...]
    names: tuple[str, ...]
    wrt: tuple[int, ...]
    dout: tuple[Any, ...]
    compiled: dict = field(default_factory=dict, compare=False)
    foreign: Callable[..., tuple[list[Any], list[np.ndarray]]] | None = None

    @property
    def at(self) -> list[Any]:
        """The leaves to differentiate with respect to."""
        return [self.values[i] for i in self.wrt]

    def forward(self, *leaves: Any) -> list[Any]:
        """The floating-point leaves of the output, as a function of ``at``."""
        values = list(self.values)
        for i, leaf in zip(self.wrt, leaves, strict=True):
            values[i] = leaf
        return float_leaves(self.fn(*jax.tree.unflatten(self.tree, values)))


def exact() -> AbstractContextManager:
    """Enable float64 inside a ``with`` block; the caller's setting is restored after it."""
    home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    return home.enable_x64(True)


def is_float(leaf: Any) -> bool:
    """Whether a leaf is a floating-point array or number.

    >>> [is_float(leaf) for leaf in (1.0, np.float32(1), np.arange(2), 3, "SAME", None)]
    [True, True, False, False, False, False]
    """
    dtype = np.result_type(leaf) if isinstance(leaf, float) else getattr(leaf, "dtype", None)
    return dtype is not None and dtype != np.dtype(object) and bool(jnp.issubdtype(dtype, jnp.floating))


def float_leaves(tree: Any) -> list[Any]:
    """The floating-point leaves of a pytree."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_float(leaf)]


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of JAX's typed random keys, which NumPy does not support.

    >>> is_key(jax.random.key(0)), is_key(jnp.arange(2))
    (True, False)
    """
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_float64(leaf: Any) -> Any:
    """A floating-point leaf in float64, any other array as a JAX array, anything else unchanged."""
    if is_float(leaf):
        return jnp.asarray(np.asarray(leaf).astype(np.float64))
    return jnp.asarray(leaf.astype(native(leaf.dtype))) if isinstance(leaf, np.ndarray) else leaf


def native(dtype: Any) -> np.dtype:
    """A dtype in this machine's byte order.

    >>> native(">f8")
    dtype('float64')
    """
    return np.dtype(dtype).newbyteorder("=")


def pulled(point: Point, dout: Sequence[Any] | None = None) -> list[np.ndarray]:
    """The cotangent of each leaf of ``point.at``, by ``jax.vjp``."""
    return answered(point, dout)[1]


def answered(point: Point, dout: Sequence[Any] | None = None) -> tuple[list[Any], list[np.ndarray]]:
    """The floating-point outputs, and the cotangent of each leaf of ``point.at``, by ``jax.vjp``."""
    if point.foreign is not None:
        return point.foreign(point.values, point.wrt, point.dout if dout is None else dout)
    out, cotangents = _run(point, "vjp", _vjp, list(point.dout if dout is None else dout))
    return out, [np.asarray(c, np.float64) for c in cotangents]


def budget(point: Point, dtype: str) -> list[np.ndarray]:
    """The error allowed in each entry when computed in a dtype: by the rounding rules, else by JAX.

    If there is no rule for a step, the error of JAX's own gradient in that dtype is used, at inputs moved by
    one rounding error.
    """
    key = ("no budget", dtype)
    if key not in point.compiled and point.foreign is None:
        try:
            found = _run(point, f"budget in {dtype}", partial(_budget, dtype), list(point.dout))
            return [np.asarray(b, np.float64) for b in found]
        except Exception:  # no rule for a step, or the function cannot be traced
            point.compiled[key] = True
    return _noise(point, dtype)


def _budget(dtype: str, point: Point, dout: list[Any]) -> Any:
    def back(leaves: list[Any], dout: list[Any]) -> Any:
        out, pull = jax.vjp(point.forward, *leaves)
        return pull([jnp.asarray(d, o.dtype) for d, o in zip(dout, out, strict=True)])

    if dtype == "float64":  # by the same rules; verify uses one share for all entries
        return rounding_in_float64(back, point.at, dout)
    return budgets(back, point.at, dout, dtype=dtype)[1]


def _noise(point: Point, dtype: str) -> list[np.ndarray]:
    """The error of each entry of JAX's own gradient in a dtype; infinite where that is not a number."""
    eps, rng = float(jnp.finfo(dtype).eps), np.random.default_rng(0)
    wants = pulled(point)
    squares = [np.zeros_like(want) for want in wants]
    for _ in range(NOISES):
        values = list(point.values)
        for i, value in enumerate(values):
            if is_float(value):
                moved = np.asarray(value) * (1 + eps * rng.choice([-1, 0, 1], np.shape(value)))
                values[i] = jnp.asarray(moved, dtype)
        with np.errstate(all="ignore"):
            offs = [(c - w) ** 2 for c, w in zip(pulled(at_values(point, values)), wants, strict=True)]
        squares = [s + np.where(np.isnan(off), np.inf, off) for s, off in zip(squares, offs, strict=True)]
    return [MARGIN * np.sqrt(s / NOISES) + 8 * eps * np.abs(w) for s, w in zip(squares, wants, strict=True)]


def projected(point: Point, leaves: Sequence[Any]) -> float:
    """The output's inner product with the cotangent, for other leaves."""
    values = list(point.values)
    for i, leaf in zip(point.wrt, leaves, strict=True):
        values[i] = leaf
    if point.foreign is not None:
        outs, _ = point.foreign(values, (), point.dout)
        return float(sum(np.sum(o * np.asarray(d)) for o, d in zip(outs, point.dout, strict=True)))
    return float(_run(at_values(point, values), "value", _inner_product, list(point.dout)))


def _vjp(point: Point, dout: list[Any]) -> tuple[list[Any], Any]:
    out, pull = jax.vjp(point.forward, *point.at)
    _require_shapes(out, dout)
    return out, pull([jnp.asarray(d, o.dtype) for d, o in zip(dout, out, strict=True)])


def _inner_product(point: Point, dout: list[Any]) -> Any:
    out = point.forward(*point.at)
    _require_shapes(out, dout)
    return sum(jnp.sum(o * d) for o, d in zip(out, dout, strict=True))


def _require_shapes(out: Sequence[Any], dout: Sequence[Any]) -> None:
    """Refuse a function whose output has different shapes from those of an earlier call."""
    now, before = ([np.shape(leaf) for leaf in leaves] for leaves in (out, dout))
    if now != before:
        raise InputError(
            f"the function differs from call to call: it returned the shapes {before}, then {now}"
        )


def _run(point: Point, what: str, ask: Callable[[Point, list[Any]], Any], dout: list[Any]) -> Any:
    """``ask(point, dout)``, compiled once for all points with the same non-floating-point arguments.

    A function that cannot be compiled because it depends on the values of its arguments runs step by step.
    One that was traced before raises a TypeError for other reasons, such as shapes that do not fit.
    """
    floats = [i for i, value in enumerate(point.values) if is_float(value)]
    static = [np.shape(v) if i in floats else _key(v) for i, v in enumerate(point.values)]
    key = (what, tuple(static))
    if key not in point.compiled:

        def run(given: list[Any], dout: list[Any]) -> Any:
            values = list(point.values)
            for i, value in zip(floats, given, strict=True):
                values[i] = value
            return ask(at_values(point, values), dout)

        point.compiled[key] = quickly(run)
    if point.compiled[key] is not None:
        try:
            found = point.compiled[key]([point.values[i] for i in floats], dout)
            point.compiled["traced", what] = True
            return found
        except (
            jax.errors.JAXTypeError,
            jax.errors.JAXIndexError,
            TypeError,
        ) as error:  # tracers where the function needs numbers
            if not isinstance(error, jax.errors.JAXTypeError) and ("traced", what) in point.compiled:
                raise
            point.compiled[key] = None
    return ask(point, dout)


def _key(value: Any) -> Any:
    if is_key(value):
        return _key(jax.random.key_data(value))
    if isinstance(value, jax.Array | np.ndarray):
        return np.shape(value), str(value.dtype), np.asarray(value).tobytes()
    return type(value), repr(value)


def at_values(point: Point, values: Sequence[Any]) -> Point:
    """The same question for other values."""
    return replace(point, values=tuple(values))
