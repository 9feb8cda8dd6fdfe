"""Small examples whose numbers can be edited.

At first the page shows the functions' results; ``live.js`` recomputes them from the numbers that are typed. A
test types into every field and compares the numbers shown with JAX.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.formulas.chain_rule import product_of_sum_bwd, product_of_sum_fwd
from manual_grad.formulas.correlation import correlate2d_bwd, correlate2d_fwd, jac_correlate2d_f
from manual_grad.formulas.softmax import (
    jac_softmax_logits,
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_fwd,
)
from manual_grad.networks.two_layer import two_layer_cross_entropy_bwd, two_layer_cross_entropy_fwd


@dataclass(frozen=True)
class Live:
    """An example.

    Attributes:
        name: its name in ``live.js``.
        tag: the equation next to which it is shown.
        inputs: name → its initial numbers, a matrix.
        compute: the inputs → name → result, a scalar, vector or matrix.
        classes: the input that is a class label, counted from 0, and the number of classes.
        shown: LaTeX for names that are not single letters.
    """

    name: str
    tag: str
    inputs: Mapping[str, Any]
    compute: Callable[..., dict[str, Any]]
    classes: tuple[str, int] | None
    shown: Mapping[str, str]

    @functools.cached_property
    def fields(self) -> list[tuple[str, str, np.ndarray]]:
        """Name, LaTeX and rows of each input."""
        return [(name, self.shown.get(name, name), _rows(value)) for name, value in self.inputs.items()]

    @functools.cached_property
    def results(self) -> list[tuple[str, str, np.ndarray]]:
        """Name, LaTeX and rows of each result for the initial inputs."""
        given = {name: jnp.asarray(value, float) for name, value in self.inputs.items()}
        found = jax.jit(self.compute)(**given)
        return [
            (name, self.shown.get(name, name), _rows(found[name])) for name in self.shown if name in found
        ]


def _rows(value: Any) -> np.ndarray:
    """A scalar as 1×1, a vector as a column."""
    value = np.asarray(value, float)
    return value.reshape(value.shape[0] if value.ndim else 1, -1)


def graph(x: Any, y: Any, z: Any) -> dict[str, Any]:
    """C-01: (x + y) z."""
    f, res = product_of_sum_fwd(x, y, z)
    dx, dy, dz = product_of_sum_bwd(res, jnp.ones(()))
    return {"q": x + y, "f": f, "dq": z, "dx": dx, "dy": dy, "dz": dz}


def softmax(l: Any, y: Any) -> dict[str, Any]:
    """A-10 at K = 3, one sample."""
    hot = (jnp.arange(3) == y).astype(l.dtype)
    J, res = softmax_cross_entropy_fwd(l[None], hot[None])
    dl, _ = softmax_cross_entropy_bwd(res, 1.0)
    return {"p": res[0][0], "J": J, "dl": dl[0], "jac": jac_softmax_logits(l)}


def two_layers(W1: Any, b1: Any, W2: Any, b2: Any, x: Any, y: Any) -> dict[str, Any]:
    """B-12 with two inputs, units and classes."""
    J, res = two_layer_cross_entropy_fwd(W1, b1, W2, b2, x, y.astype(int))
    _, _, _, z, a, p, _ = res
    names = ("dW1", "db1", "dW2", "db2", "dx")
    return {"z": z, "a": a, "p": p, "J": J} | dict(
        zip(names, two_layer_cross_entropy_bwd(res, 1.0), strict=True)
    )


def correlation(X: Any, F: Any, dO: Any) -> dict[str, Any]:
    """C-08 with its gradients, C-09 and C-10."""
    O, res = correlate2d_fwd(X, F)
    dX, dF = correlate2d_bwd(res, dO)
    return {"O": O, "dF": dF, "dX": dX, "jac": jac_correlate2d_f(X, F).reshape(4, 4)}


def _by(symbol: str, of: str = "J") -> str:
    return rf"\frac{{\partial {of}}}{{\partial {symbol}}}"


LIVE = (
    Live(
        "graph", "C-01", {"x": -2, "y": 5, "z": -4}, graph, None,
        {"q": "q", "f": "f", "dq": _by("q", "f"), "dx": _by("x", "f"), "dy": _by("y", "f")}
        | {"dz": _by("z", "f")},
    ),
    Live(
        "softmax", "A-10", {"l": [1, 2, 0.5], "y": 1}, softmax, ("y", 3),
        {"p": r"\hat{y}", "J": "J", "dl": _by("l"), "jac": _by("l", r"\hat{y}")},
    ),
    Live(
        "two-layers", "B-12",
        {"x": [1, -1], "W1": [[0.5, -1], [1, 2]], "b1": [0, 0.5], "W2": [[1, -1], [2, 0.5]]}
        | {"b2": [0.1, -0.2], "y": 0},
        two_layers, ("y", 2),
        {"W1": "W^{(1)}", "b1": "b^{(1)}", "W2": "W^{(2)}", "b2": "b^{(2)}"}
        | {"z": "z", "a": "a", "p": "p", "J": "J", "dW2": _by("W^{(2)}"), "db2": _by("b^{(2)}")}
        | {"dW1": _by("W^{(1)}"), "db1": _by("b^{(1)}"), "dx": _by("x")},
    ),
    Live(
        "correlation", "C-10",
        {"X": [[1, 2, 0], [0, 1, 3], [2, -1, 1]], "F": [[1, 2], [3, 4]], "dO": [[1, -1], [2, 3]]},
        correlation, None,
        {"dO": _by("O", "L"), "O": "O", "dF": _by("F", "L"), "dX": _by("X", "L"), "jac": _by("F", "O")},
    ),
)  # fmt: skip
