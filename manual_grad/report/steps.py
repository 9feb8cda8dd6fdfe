r"""The derivations line by line: each line is a formula with its reason and its numerical value.

In a derivation's text, steps stand between ```` ```steps ```` and ```` ``` ````::

    let x = array([1.0, 2])                        # x
    let J = lambda x: sum(x**2)                    # J = \sum_i x_i^2

    \frac{\partial J}{\partial x}
        := D(J, x)
    = 2 x
        dx := 2 * x
        why: the derivative of $x_i^2$

A ``let`` is given, and shown as in its comment. A formula is followed by the NumPy expression that evaluates
it, which may name its value for the lines below, and by its reason. A formula that begins with ``=``
continues the one above, so its value must be the same; otherwise :func:`evaluated` refuses the derivation.
``D`` is the Jacobian by the complex step, exact up to rounding: the first line of a derivation, a derivative
of J, does not rely on the result being derived.
"""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

SAME = 1e-12  # two lines are equal up to this, relative to the largest entry


@dataclass(frozen=True)
class Given:
    """A quantity or a function that a derivation starts from: its name, its code, and how it is shown."""

    name: str
    code: str
    shown: str


@dataclass(frozen=True)
class Step:
    """A line of a derivation: its formula, the expression that evaluates it, its name, its reason."""

    latex: str
    code: str
    name: str
    why: str

    @property
    def continues(self) -> bool:
        """Whether its value must be that of the line above."""
        return self.latex.startswith("=")


Line = Given | Step


def parsed(block: str) -> tuple[Line, ...]:
    r"""The lines of a block.

    >>> parsed("let x = 2.0  # x")
    (Given(name='x', code='2.0', shown='x'),)
    >>> parsed("= 2x\n    := 2 * x\n    why: the rule")
    (Step(latex='= 2x', code='2 * x', name='', why='the rule'),)
    """
    found: list[Line] = []
    for entry in re.split(r"\n(?=\S)", block.strip()):
        head, *rest = (line.strip() for line in entry.splitlines() if line.strip())
        if given := re.match(r"let (\w+) = (.*?)(?:\s\s+# (.*))?$", " ".join([head, *rest])):
            found.append(Given(given[1], given[2], given[3] or ""))
            continue
        first = next(n for n, line in enumerate(rest) if ":= " in line)
        reason = next((n for n, line in enumerate(rest) if line.startswith("why: ")), len(rest))
        name, _, code = " ".join(rest[first:reason]).partition(":= ")
        why = " ".join(rest[reason:]).removeprefix("why: ")
        found.append(Step(" ".join([head, *rest[:first]]), code, name.strip(), why))
    return tuple(found)


def evaluated(lines: tuple[Line, ...], known: dict[str, Any] | None = None) -> list[Any]:
    """The value of every line.

    Args:
        lines: the lines of a derivation.
        known: the values named by earlier lines; those named by these lines are added.
    Returns:
        One array per line, or a function if one is given.
    Raises:
        ValueError: a line is not equal to the one above, which it continues.

    >>> evaluated((Step("2x", "2 * 3.0", "", ""), Step("= x + x", "3.0 + 3.0", "", "twice the same")))
    [array(6.), array(6.)]
    """
    known = {} if known is None else known
    values: list[Any] = []
    for line in lines:
        named = eval(line.code, NAMES | known)
        value = named if callable(named) else np.asarray(named, float)
        if isinstance(line, Step) and line.continues and not _same(value, values[-1]):
            raise ValueError(f"{line.latex!r} is {value.tolist()}; the line above is {values[-1].tolist()}")
        values.append(value)
        if line.name:
            known[line.name] = named
    return values


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((abs(a - b) <= SAME * max(1.0, abs(b).max())).all())


# --- helpers in expressions, and in a notebook's first cell, where types are unknown ----------------------


def D(f, x):
    """The derivative of f at x, computed numerically by the complex step; its shape is out.shape + x.shape.

    >>> D(lambda x: x**2, 3.0)
    array(6.)
    """
    x, h = np.asarray(x, float), 1e-30
    unit = np.eye(x.size).reshape(x.size, *x.shape)
    return np.stack([np.imag(f(x + 1j * h * e)) / h for e in unit], -1).reshape(np.shape(f(x)) + x.shape)


def relu(z):
    """0 where z is negative."""
    return np.where(np.real(z) > 0, z, 0)


def softmax(z, axis: int = -1):
    """Positive numbers that sum to 1."""
    return np.exp(z) / np.exp(z).sum(axis, keepdims=True)


def correlate(X, F):
    """The sum of X[i + a, j + b] F[a, b], where the filter lies inside the image."""
    (H, W), (h, w) = np.shape(X), np.shape(F)
    rows, columns = range(H - h + 1), range(W - w + 1)
    return np.array([[(X[i : i + h, j : j + w] * F).sum() for j in columns] for i in rows])


def vec(M):
    """The columns of a matrix, stacked."""
    return np.asarray(M).T.ravel()


def matrix(v, like):
    """The matrix whose columns, stacked, are v."""
    return np.asarray(v).reshape(np.shape(like)[::-1]).T


HELPERS = (D, relu, softmax, correlate, vec, matrix)
_NUMPY = (
    "abs", "array", "concatenate", "cos", "diag", "einsum", "exp", "eye", "kron", "linalg", "log", "mean",
    "ones", "outer", "pad", "sin", "sqrt", "stack", "sum", "tanh", "where", "zeros",
)  # fmt: skip
NAMES: dict[str, Any] = {name: getattr(np, name) for name in _NUMPY} | {f.__name__: f for f in HELPERS}


def helpers() -> Iterator[str]:
    """The source of the helpers, as a notebook defines them."""
    yield f"import numpy as np\nfrom numpy import {', '.join(sorted(_NUMPY))}"
    for helper in HELPERS:
        yield re.sub(
            r"\n\n    >>> .*?(?=\n    \"\"\")", "", inspect.getsource(helper), flags=re.DOTALL
        ).rstrip()
