"""What JAX says of a function at a point, in float64."""

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.compiling import quick


@dataclass(frozen=True)
class Point:
    """A function at one point of its domain.

    Attributes:
        fn: the plain forward function.
        tree: the structure of its positional arguments.
        values: the leaves of the arguments, floating-point ones in float64.
        names: a name for each leaf.
        wrt: which leaves it is differentiated by.
        dout: the cotangent of each floating-point leaf of the output.
        compiled: what was compiled of ``fn``, shared with the same question at other points.
    """

    fn: Callable[..., Any]
    tree: Any
    values: tuple[Any, ...]
    names: tuple[str, ...]
    wrt: tuple[int, ...]
    dout: tuple[Any, ...]
    compiled: dict = field(default_factory=dict, compare=False)

    @property
    def at(self) -> list[Any]:
        """The leaves it is differentiated by."""
        return [self.values[i] for i in self.wrt]

    def forward(self, *leaves: Any) -> list[Any]:
        """The floating-point leaves of the output, as a function of ``at``."""
        values = list(self.values)
        for i, leaf in zip(self.wrt, leaves, strict=True):
            values[i] = leaf
        return float_leaves(self.fn(*jax.tree.unflatten(self.tree, values)))


def exact() -> AbstractContextManager:
    """float64 inside a ``with`` block, and the caller's setting again after it."""
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
    """Whether a leaf is an array of JAX's typed random keys, of which NumPy knows nothing.

    >>> is_key(jax.random.key(0)), is_key(jnp.arange(2))
    (True, False)
    """
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_float64(leaf: Any) -> Any:
    """A floating-point leaf in float64, another array as JAX's, anything else as it is."""
    if is_float(leaf):
        return jnp.asarray(np.asarray(leaf).astype(np.float64))
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf


def pulled(point: Point, dout: Sequence[Any] | None = None) -> list[np.ndarray]:
    """The cotangent of each leaf of ``point.at``, by ``jax.vjp``."""
    return answered(point, dout)[1]


def answered(point: Point, dout: Sequence[Any] | None = None) -> tuple[list[Any], list[np.ndarray]]:
    """The floating-point outputs, and the cotangent of each leaf of ``point.at``, by ``jax.vjp``."""
    out, cotangents = _run(point, "vjp", _vjp, list(point.dout if dout is None else dout))
    return out, [np.asarray(c, np.float64) for c in cotangents]


def projected(point: Point, leaves: Sequence[Any]) -> float:
    """The output's inner product with the cotangent, at other leaves."""
    values = list(point.values)
    for i, leaf in zip(point.wrt, leaves, strict=True):
        values[i] = leaf
    return float(_run(at_values(point, values), "value", _inner_product, list(point.dout)))


def _vjp(point: Point, dout: list[Any]) -> tuple[list[Any], Any]:
    out, pull = jax.vjp(point.forward, *point.at)
    return out, pull([jnp.asarray(d, o.dtype) for d, o in zip(dout, out, strict=True)])


def _inner_product(point: Point, dout: list[Any]) -> Any:
    return sum(jnp.sum(o * d) for o, d in zip(point.forward(*point.at), dout, strict=True))


def _run(point: Point, what: str, ask: Callable[[Point, list[Any]], Any], dout: list[Any]) -> Any:
    """``ask(point, dout)``, compiled once for all points where the arguments that are no floats are the same.

    A function that cannot be compiled, because it looks at the values of its arguments, is run step by step.
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

        point.compiled[key] = jax.jit(run, compiler_options=quick())
    if point.compiled[key] is not None:
        try:
            return point.compiled[key]([point.values[i] for i in floats], dout)
        except (jax.errors.JAXTypeError, TypeError):  # tracers where the function needs numbers
            point.compiled[key] = None
    return ask(point, dout)


def _key(value: Any) -> Any:
    if is_key(value):
        return _key(jax.random.key_data(value))
    if isinstance(value, jax.Array | np.ndarray):
        return np.shape(value), str(value.dtype), np.asarray(value).tobytes()
    return type(value), repr(value)


def at_values(point: Point, values: Sequence[Any]) -> Point:
    """The same question at other values."""
    return replace(point, values=tuple(values))
