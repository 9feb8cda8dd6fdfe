"""Gradients with typical mistakes, for the page "Is my gradient wrong?".

Each ``d_…`` function is wrong in the one line with a comment, which gives the right line. When the book is
made, the checker is run on each of them, and the page shows its diagnosis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.report.code import source_of
from manual_grad.verify import check_grad

_RNG = np.random.default_rng(5)
_X, _T = _RNG.normal(size=(8, 3)), _RNG.normal(size=(8, 5))
_W, _B, _V = _RNG.normal(size=(3, 5)), _RNG.normal(size=5), _RNG.normal(size=(5, 4))
_w, _y = _RNG.normal(size=3), _RNG.normal(size=8)
_LABELS = _RNG.integers(0, 5, 8)
_IMAGE, _KERNEL, _TARGET = _RNG.normal(size=(6, 7)), _RNG.normal(size=(3, 2)), _RNG.normal(size=(4, 6))


@dataclass(frozen=True)
class Planted:
    """A mistake: its name, the loss, the wrong gradient, its inputs, and the right equation."""

    name: str
    loss: Callable[..., Any]
    grad: Callable[..., Any]
    args: tuple[Any, ...]
    argnums: int | tuple[int, ...]
    tag: str


def regression_loss(w, x, y):
    """A mean of squares."""
    return ((x @ w - y) ** 2).mean()


def d_not_averaged(w, x, y):
    """1/N left out."""
    return 2 * x.T @ (x @ w - y)  # return 2 * x.T @ (x @ w - y) / len(x)


def d_wrong_sign(w, x, y):
    """y − ŷ for ŷ − y."""
    return 2 * x.T @ (y - x @ w) / len(x)  # return 2 * x.T @ (x @ w - y) / len(x)


def d_no_two(w, x, y):
    """The 2 of the square forgotten."""
    return x.T @ (x @ w - y) / len(x)  # return 2 * x.T @ (x @ w - y) / len(x)


def d_last_sample_lost(w, x, y):
    """A loop that ends one sample early."""
    g = np.zeros(3)
    for i in range(len(x) - 1):  # for i in range(len(x)):
        g += 2 * (x[i] @ w - y[i]) * x[i] / len(x)
    return g


def dense_loss(X, W, b, T):
    """A dense layer and a sum of squares."""
    return ((X @ W + b - T) ** 2).sum() / 2


def d_bias_not_summed(X, W, b, T):
    """The bias gets a gradient for each sample."""
    return X @ W + b - T  # return (X @ W + b - T).sum(axis=0)


def d_transposed(X, W, b, T):
    """The factors the wrong way round."""
    R = X @ W + b - T
    return R.T @ X  # return X.T @ R


def relu_loss(X, W, b, V):
    """A ReLU layer, a linear one, half a sum of squares."""
    A = jax.nn.relu(X @ W + b)
    return ((A @ V) ** 2).sum() / 2


def d_mask_missing(X, W, b, V):
    """The gradient passes through units that are off."""
    Z = X @ W + b
    A = np.maximum(Z, 0)
    dA = A @ V @ V.T
    dZ = dA  # dZ = dA * (Z > 0)
    return X.T @ dZ


def d_mask_of_the_gradient(X, W, b, V):
    """The mask is taken from the gradient instead of the input."""
    A = np.maximum(X @ W + b, 0)
    dA = A @ V @ V.T
    dZ = dA * (dA > 0)  # dZ = dA * (A > 0)
    return X.T @ dZ


def sigmoid_loss(X, W, b, V):
    """A sigmoid layer, a linear one, half a sum of squares."""
    A = jax.nn.sigmoid(X @ W + b)
    return ((A @ V) ** 2).sum() / 2


def d_slope_missing(X, W, b, V):
    """σ′ left out."""
    A = 1 / (1 + np.exp(-(X @ W + b)))
    dA = A @ V @ V.T
    dZ = dA  # dZ = dA * A * (1 - A)
    return X.T @ dZ


def d_slope_at_the_output(X, W, b, V):
    """σ′ taken at σ(z) instead of at z."""
    A = 1 / (1 + np.exp(-(X @ W + b)))
    S = 1 / (1 + np.exp(-A))
    dZ = A @ V @ V.T * S * (1 - S)  # dZ = A @ V @ V.T * A * (1 - A)
    return X.T @ dZ


def cross_entropy_loss(logits, labels):
    """Mean softmax cross-entropy, integer labels."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -picked.mean()


def _softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def d_one_not_taken_off(logits, labels):
    """p instead of p − y."""
    return _softmax(logits) / len(logits)  # return (_softmax(logits) - np.eye(5)[labels]) / len(logits)


def d_cases_swapped(logits, labels):
    """p − 1 everywhere except at the true class: B-E1."""
    p = _softmax(logits)
    hot = np.eye(5)[labels]
    return (p - (1 - hot)) / len(p)  # return (p - hot) / len(p)


def d_normalised_over_the_batch(logits, labels):
    """softmax down the columns."""
    e = np.exp(logits - logits.max())
    p = e / e.sum(axis=0)  # p = e / e.sum(axis=1, keepdims=True)
    return (p - np.eye(5)[labels]) / len(p)


def correlation_loss(image, kernel, target):
    """A cross-correlation and half a sum of squares."""
    O = _correlate(image, kernel)
    return ((O - target) ** 2).sum() / 2


def _correlate(x, f):
    h, w = x.shape[0] - f.shape[0] + 1, x.shape[1] - f.shape[1] + 1
    return sum(f[a, b] * x[a : a + h, b : b + w] for a in range(f.shape[0]) for b in range(f.shape[1]))


def d_kernel_not_turned(image, kernel, target):
    """The image's gradient without rotating the kernel: C-E1."""
    dO = _correlate(image, kernel) - target
    padded = np.pad(dO, ((2, 2), (1, 1)))
    return _correlate(padded, kernel)  # return _correlate(padded, kernel[::-1, ::-1])


def d_kernel_gradient_turned(image, kernel, target):
    """The kernel's gradient, rotated."""
    dO = _correlate(image, kernel) - target
    return _correlate(image, dO)[::-1, ::-1]  # return _correlate(image, dO)


_DENSE, _RELU = (_X, _W, _B, _T), (_X, _W, _B, _V)
PLANTED = (
    Planted("1/N is missing", regression_loss, d_not_averaged, (_w, _X, _y), 0, "A-05"),
    Planted("the sign is flipped", regression_loss, d_wrong_sign, (_w, _X, _y), 0, "A-05"),
    Planted("the factor 2 is missing", regression_loss, d_no_two, (_w, _X, _y), 0, "A-05"),
    Planted("the last sample is lost", regression_loss, d_last_sample_lost, (_w, _X, _y), 0, "A-05"),
    Planted("the bias is not summed over the batch", dense_loss, d_bias_not_summed, _DENSE, 2, "B-16"),
    Planted("the gradient is transposed", dense_loss, d_transposed, _DENSE, 1, "B-16"),
    Planted("ReLU's mask is missing", relu_loss, d_mask_missing, _RELU, 1, "B-06"),
    Planted("ReLU's mask is that of the gradient", relu_loss, d_mask_of_the_gradient, _RELU, 1, "B-06"),
    Planted("the activation's slope is missing", sigmoid_loss, d_slope_missing, _RELU, 1, "C-05"),
    Planted("the slope is taken at the output", sigmoid_loss, d_slope_at_the_output, _RELU, 1, "C-05"),
    Planted(
        "1 is not taken off at the true class",
        cross_entropy_loss,
        d_one_not_taken_off,
        (_T, _LABELS),
        0,
        "A-10",
    ),
    Planted("the two cases are swapped", cross_entropy_loss, d_cases_swapped, (_T, _LABELS), 0, "B-10"),
    Planted(
        "softmax over the wrong axis",
        cross_entropy_loss,
        d_normalised_over_the_batch,
        (_T, _LABELS),
        0,
        "A-10",
    ),
    Planted(
        "the kernel is not rotated",
        correlation_loss,
        d_kernel_not_turned,
        (_IMAGE, _KERNEL, _TARGET),
        0,
        "C-10",
    ),
    Planted(
        "the kernel's gradient is rotated",
        correlation_loss,
        d_kernel_gradient_turned,
        (_IMAGE, _KERNEL, _TARGET),
        1,
        "C-09",
    ),
)


def mended(planted: Planted) -> tuple[str, int, str]:
    """The source of a wrong gradient, the number of its wrong line, and the right line.

    >>> mended(PLANTED[1])[1:]
    (2, 'return 2 * x.T @ (x @ w - y) / len(x)')
    """
    lines = source_of(planted.grad).text.splitlines()
    number, line = next((n, line) for n, line in enumerate(lines, 1) if "  # " in line)
    lines[number - 1], _, right = line.partition("  # ")
    return "\n".join(lines), number, right


def checked(planted: Planted) -> dict[str, Any]:
    """The checker's finding for a planted mistake, as a JSON object.

    >>> checked(PLANTED[1])["diagnosis"]
    'sign flipped'
    """
    report = check_grad(planted.loss, planted.grad, *planted.args, argnums=planted.argnums)
    (finding,) = report.findings
    where = finding.where
    return {
        "mistake": planted.name,
        "function": planted.grad.__name__,
        "argument": finding.name,
        "ok": finding.ok,
        "diagnosis": finding.diagnosis,
        "relative_error": finding.max_error if np.isfinite(finding.max_error) else None,
        "at": list(where[0]) if where else None,
        "got": where[1] if where else None,
        "expected": where[2] if where else None,
    }
