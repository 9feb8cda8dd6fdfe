"""SymPy's derivatives of the definitions: one entry at a time is a symbol, the others are rational numbers.

JAX is not involved. SymPy's results are evaluated to 30 digits.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import sympy

from manual_grad_reference.oracles.pytrees import leaves, mapped

DIGITS = 30
T = sympy.Symbol("t")  # the entry that moves


class _Step(sympy.Function):
    """1 where z > 0, else 0."""

    @classmethod
    def eval(cls, z: Any) -> Any:
        """Its value, for a number."""
        return sympy.Integer(int(bool(z > 0))) if z.is_number else None


class _ReLU(sympy.Function):
    """max(z, 0), with slope 0 at 0; faster here than SymPy's Max or Piecewise."""

    @classmethod
    def eval(cls, z: Any) -> Any:
        """Its value, for a number."""
        return (z if z > 0 else sympy.Integer(0)) if z.is_number else None

    def fdiff(self, argindex: int = 1) -> Any:
        """Its slope."""
        return _Step(self.args[0])


ARITHMETIC = SimpleNamespace(
    exp=np.frompyfunc(sympy.exp, 1, 1),
    ln=np.frompyfunc(sympy.log, 1, 1),
    erfc=np.frompyfunc(sympy.erfc, 1, 1),
    pi=sympy.pi,
    sqrt=np.frompyfunc(sympy.sqrt, 1, 1),
    relu=np.frompyfunc(_ReLU, 1, 1),
    term=np.frompyfunc(lambda y, p: y * sympy.log(p), 2, 1),
    number=sympy.Rational,
)


def value(definition: Callable, point: dict[str, Any]) -> np.ndarray:
    """All entries of the definition's value at a point, in order."""
    exact = {name: _exact(given) for name, given in point.items()}
    return np.array([float(sympy.N(entry, DIGITS)) for entry in _entries(definition(ARITHMETIC, **exact))])


def derivative(definition: Callable, point: dict[str, Any], wrt: tuple[str, ...]) -> np.ndarray:
    """The definition's value differentiated with respect to each entry of `wrt`, one row for each.

    Args:
        definition: one of `manual_grad_reference.definitions`.
        point: its arguments: float64 arrays in lists, tuples and dicts, integers, and settings.
        wrt: the names of the arguments to differentiate with respect to.
    """
    exact = {name: _exact(given) for name, given in point.items()}
    rows = []
    for leaf in (leaf for name in wrt for leaf in leaves(exact[name])):
        for index in np.ndindex(leaf.shape):
            at, leaf[index] = leaf[index], T
            rows.append([_slope(entry, at) for entry in _entries(definition(ARITHMETIC, **exact))])
            leaf[index] = at
    return np.array(rows)


def _slope(entry: Any, at: sympy.Rational) -> float:
    if not entry.has(T):
        return 0.0
    slope = sympy.diff(entry, T)
    if slope.has(_ReLU, _Step):
        return float(sympy.N(slope.subs(T, at), DIGITS))
    return float(slope.evalf(DIGITS, subs={T: at}))


def _exact(given: Any) -> Any:
    """Floats as exact rational numbers; integers and settings unchanged."""

    def exactly(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray) or leaf.dtype.kind != "f":
            return leaf
        return np.asarray(np.frompyfunc(lambda x: sympy.Rational(*x.as_integer_ratio()), 1, 1)(leaf), object)

    return mapped(exactly, given)


def _entries(values: Any) -> list[Any]:
    arrays = (np.ravel(np.asarray(array, object)) for array in leaves(values))
    return [sympy.sympify(entry) for array in arrays for entry in array]
