"""The definitions in 60-digit decimal arithmetic, and their derivatives as difference quotients.

Nothing here uses JAX, rounding is far too small to matter, and e^{10⁴} is an ordinary number, so no
definition needs a shift, a select or a closed form of its gradient. The step is 10⁻²⁰ of the entry being
moved, which leaves an error of about 10⁻⁴⁰.

Three conventions come from the lectures or from this project rather than from arithmetic: ReLU is off at 0; a
class with label 0 contributes no term to the loss, whatever its probability; and the numbers substituted for
∞ or NaN must not matter. Each infinite entry is replaced by numbers that grow, at different speeds if there
are several; NaN is replaced by arbitrary numbers. A result that is the same for all of them is the answer,
one that grows with them is infinite, and any other is NaN.
"""

import decimal
import itertools
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from manual_grad_reference.oracles.pytrees import leaves, mapped

CONTEXT = decimal.Context(prec=60, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[])
STEP = Decimal("1e-20")
OFF = Decimal("1e-14")  # this close to 0, a ReLU counts as being at its kink: no step may switch it on
TRIALS = (  # the size of ∞, the order in which several of them grow, and the value of NaN
    (10**5, 1, -2.1),
    (10**5, -1, 1.3),
    (10**6, 1, 3.9),
    (10**6, -1, -4.7),
)


@cache
def _pi(digits: int) -> Decimal:
    """π by the Gauss–Legendre algorithm (arithmetic-geometric mean)."""
    with decimal.localcontext(CONTEXT) as context:
        context.prec = digits + 5
        a, b, t, p = Decimal(1), Decimal("0.5").sqrt(), Decimal("0.25"), 1
        while abs(a - b) > Decimal(10) ** -digits:
            mean = (a + b) / 2
            a, b, t, p = mean, (a * b).sqrt(), t - p * (a - mean) ** 2, 2 * p
        return (a + b) ** 2 / (4 * t)


def _erfc(z: Decimal) -> Decimal:
    """1 − erf(z) to full precision: by erf's series with extra digits or, for large z, the asymptotic one."""
    if z < 0:
        return 2 - _erfc(-z)
    with decimal.localcontext() as context:
        least, square = Decimal(10) ** -context.prec, z * z
        if far := square > 3 * context.prec:
            term, total, factor = Decimal(1), Decimal(1), lambda n: (1 - 2 * n) / (2 * square)
        else:
            context.prec += int(square * Decimal("0.44")) + 10
            square = z * z
            term, total, factor = z, z, lambda n: 2 * square / (2 * n + 1)
            least *= Decimal(10) ** -int(square)
        for n in itertools.count(1):
            if abs(term) <= least * total:
                break
            term *= factor(n)
            total += term
        bell = (-square).exp() / _pi(context.prec).sqrt()
        return bell * total / z if far else 1 - 2 * bell * total


ARITHMETIC = SimpleNamespace(
    exp=np.frompyfunc(Decimal.exp, 1, 1),
    erfc=np.frompyfunc(_erfc, 1, 1),
    pi=_pi(60),
    ln=np.frompyfunc(Decimal.ln, 1, 1),
    sqrt=np.frompyfunc(Decimal.sqrt, 1, 1),
    relu=np.frompyfunc(lambda x: x if x > OFF else Decimal(0), 1, 1),
    term=np.frompyfunc(lambda y, p: Decimal(0) if y == 0 else y * p.ln(), 2, 1),
    number=Decimal,
)
Decimals = Any  # a NumPy array of decimals, or a pytree of such


# ---------------------------------------------------------------- values and derivatives


def answer(definition: Callable, point: dict[str, Any], dout: Any, digits: int = 60) -> tuple:
    """The definition's value at a point, and ⟨dout, value⟩ differentiated with respect to each entry.

    `point` consists of float64 arrays, which may hold infinities and NaN, and of integers. The result is the
    value, then one entry for each floating-point argument, with its structure: float64, each number rounded
    once. Slopes far below 10⁻²⁰ of the value need more `digits`.
    """
    with decimal.localcontext(CONTEXT) as context:
        context.prec = digits
        trials = [_at(definition, trial, dout) for trial in _trials(point)]
    return mapped(lambda *found: _what_all_say(np.stack(found)), *trials)


def _at(definition: Callable, point: dict[str, Any], dout: Any) -> tuple:
    """The same at a point of finite decimals."""
    weights = _decimals(np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in leaves(dout)]))

    def value() -> Decimals:
        return _entries(definition(ARITHMETIC, **point))

    def slopes(leaf: Decimals) -> np.ndarray:
        found = [np.sum(weights * quotient) for quotient in _quotients(value, leaf)]
        return _floats(np.array(found, object)).reshape(leaf.shape)

    floats = (a for a in point.values() if all(leaf.dtype == object for leaf in leaves(a)))
    out = mapped(lambda leaf: _floats(np.asarray(leaf, object)), definition(ARITHMETIC, **point))
    return out, *(mapped(slopes, argument) for argument in floats)


def derivative(definition: Callable, point: dict[str, Any], wrt: tuple[str, ...]) -> np.ndarray:
    """The definition's value differentiated with respect to each entry of `wrt`, one row for each.

    `point` consists of pytrees of finite float64 arrays, of integers, and of settings.
    """
    with decimal.localcontext(CONTEXT):
        exact = {name: _exact(value) for name, value in point.items()}
        arrays = [leaf for name in wrt for leaf in leaves(exact[name])]

        def value() -> Decimals:
            return _entries(definition(ARITHMETIC, **exact))

        return np.array([_floats(quotient) for leaf in arrays for quotient in _quotients(value, leaf)])


def value(definition: Callable, point: dict[str, Any]) -> np.ndarray:
    """All entries of the definition's value, in order."""
    with decimal.localcontext(CONTEXT):
        exact = {name: _exact(value) for name, value in point.items()}
        return _floats(_entries(definition(ARITHMETIC, **exact)))


def _entries(out: Any) -> Decimals:
    """All entries of one or more outputs in a flat array: a copy, as an output may be the leaf that moves."""
    return np.concatenate([np.ravel(np.asarray(leaf, object)) for leaf in leaves(out)])


def _exact(value: Any) -> Any:
    """Arrays of floats as decimals; integers and settings unchanged."""

    def exactly(leaf: Any) -> Any:
        return _decimals(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" else leaf

    return mapped(exactly, value)


def _quotients(value: Callable[[], Decimals], leaf: Decimals) -> Iterator[Decimals]:
    """(f(x + h) − f(x − h)) / 2h for each entry x of an array that f reads; the entries are restored."""
    for index in np.ndindex(leaf.shape):
        x = leaf[index]
        h = STEP * (abs(x) or 1)
        leaf[index] = x + h
        after = value()
        leaf[index] = x - h
        quotient = (after - value()) / (2 * h)
        leaf[index] = x
        yield quotient


def _trials(point: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The point in decimals, with several substitutes for infinities and NaN; a single time without any."""
    floats = [leaf for leaf in leaves(point) if leaf.dtype.kind == "f"]
    finite = all(np.isfinite(leaf).all() for leaf in floats)
    for trial in TRIALS[:1] if finite else TRIALS:
        yield {name: mapped(partial(_put_in, trial), value) for name, value in point.items()}


def _put_in(trial: tuple[int, int, float], leaf: np.ndarray) -> np.ndarray:
    """An array in decimals; integers unchanged."""
    if leaf.dtype.kind != "f":
        return leaf
    size, order, unknown = trial
    speeds = np.arange(1, leaf.size + 1)[::order].reshape(leaf.shape)
    filled = np.where(np.isinf(leaf), np.sign(leaf) * size * speeds, leaf)
    return _decimals(np.where(np.isnan(leaf), unknown * np.cos(speeds), filled))


def _what_all_say(trials: np.ndarray) -> np.ndarray:
    """Each value that is the same in all trials; ±∞ where it grows in all; otherwise NaN."""
    first = trials[0]
    with np.errstate(all="ignore"):
        same = (trials == first).all(axis=0) | (np.ptp(trials, axis=0) <= 1e-14 * abs(first))
        grow = (abs(trials) > 1e3).all(axis=0) & (np.sign(trials) == np.sign(first)).all(axis=0)
        grow &= (abs(trials[-2:]) > 5 * abs(trials[:2])).all(axis=0)  # ten times as large an ∞, same order
        return np.where(same, first, np.where(grow, np.sign(first) * np.inf, np.nan))


def _decimals(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(lambda x: Decimal(float(x)), 1, 1)(values), object)


def _floats(values: Any) -> np.ndarray:
    return np.asarray(np.vectorize(float, otypes=[np.float64])(values))
