"""The definitions in decimals of 60 digits, and their derivatives as quotients of differences.

Nothing here is JAX, nothing rounds where it could be seen, and e^{10⁴} is a number like any other: so no
definition needs a shift, a select or a closed form of its gradient. The step is 10⁻²⁰ of the entry it moves,
which leaves an error of about 10⁻⁴⁰.

Three conventions are the lectures' or this project's, not arithmetic's: ReLU is off at 0; a class with label
0 has no term in the loss, whatever its probability; and what is put in for ∞ or NaN must not matter. An
infinite entry is replaced by numbers that grow, several at different speeds, a NaN by any numbers: what comes
out the same for all is the answer, what grows with them is infinite, and anything else is NaN.
"""

import decimal
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from itertools import product
from typing import Any

import jax
import numpy as np

CONTEXT = decimal.Context(prec=60, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[])
STEP = Decimal("1e-20")
OFF = Decimal("1e-14")  # a ReLU this close to 0 sits on its kink: no step may switch it on
TRIALS = (  # how large ∞ is, in which order several of them grow, and what a NaN is
    (10**5, 1, -2.1),
    (10**5, -1, 1.3),
    (10**6, 1, 3.9),
    (10**6, -1, -4.7),
)

_ln = np.frompyfunc(lambda x: x.ln(), 1, 1)
_exp = np.frompyfunc(lambda x: x.exp(), 1, 1)
_relu = np.frompyfunc(lambda x: x if x > OFF else Decimal(0), 1, 1)
_term = np.frompyfunc(lambda y, p: Decimal(0) if y == 0 else y * p.ln(), 2, 1)
Decimals = Any  # a NumPy array of decimals, or a pytree of such


# ---------------------------------------------------------------- definitions


def mse(y_hat: Decimals, y: Decimals) -> Decimals:
    """[A-04] (1/N) Σ_i (y_i − ŷ_i)²."""
    return ((y - y_hat) ** 2).mean()


def linear_regression(w: Decimals, b: Decimals, x: Decimals, y: Decimals) -> Decimals:
    """[A-05] [A-06] (1/N) Σ_i (y_i − Σ_j x_ij w_j − b)²."""
    return mse(x @ w + b, y)


def relu(x: Decimals) -> Decimals:
    """[B-02] max(x, 0), off at 0."""
    return _relu(x)


def sigmoid(x: Decimals) -> Decimals:
    """[C-02] 1 / (1 + e⁻ˣ)."""
    return 1 / (1 + _exp(-x))


def tanh(x: Decimals) -> Decimals:
    """[C-02] (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)."""
    up, down = _exp(x), _exp(-x)
    return (up - down) / (up + down)


def softplus(x: Decimals) -> Decimals:
    """[C-02] ln(1 + eˣ)."""
    return _ln(1 + _exp(x))


def softmax(logits: Decimals) -> Decimals:
    """[A-07] e^{l_k} / Σ_j e^{l_j}, over the last axis."""
    exps = _exp(logits)
    return exps / exps.sum(axis=-1, keepdims=True)


def cross_entropy(probs: Decimals, labels: Decimals) -> Decimals:
    """[A-09] −(1/N) Σ_i Σ_k y_ik ln ŷ_ik."""
    return -_term(labels, probs).sum(axis=-1).mean()


def softmax_cross_entropy(logits: Decimals, labels: Decimals) -> Decimals:
    """[A-10] −(1/N) Σ_i Σ_k y_ik ln softmax(l_i)_k."""
    return cross_entropy(softmax(logits), labels)


def softmax_cross_entropy_columns(Z: Decimals, Y: Decimals) -> Decimals:
    """[D-06] The same, one sample a column."""
    return softmax_cross_entropy(Z.T, Y.T)


def softmax_cross_entropy_with_integer_labels(logits: Decimals, labels: Any) -> Decimals:
    """[B-13] −(1/N) Σ_i ln softmax(l_i)_{y_i}."""
    return -_ln(softmax(logits)[np.arange(len(labels)), labels]).mean()


def cross_entropy_of_scores(s: Decimals, y: Any) -> Decimals:
    """[B-09] −ln softmax(s)_y."""
    return softmax_cross_entropy_with_integer_labels(s[None], np.asarray(y)[None])


def linear_cross_entropy(hidden: Decimals, W: Decimals, labels: Any) -> Decimals:
    """[B-13] −(1/N) Σ_i ln softmax(h_i W)_{y_i}."""
    return softmax_cross_entropy_with_integer_labels(hidden @ W, labels)


def dense_rows(X: Decimals, W: Decimals, b: Decimals) -> Decimals:
    """[B-16] X W + 1 b."""
    return X @ W + b


def dense_columns(X: Decimals, W: Decimals, b: Decimals) -> Decimals:
    """[B-13] W X + b 1ᵀ."""
    return W @ X + b[:, None]


def two_layer_squared_loss(W1: Any, b1: Any, W2: Any, b2: Any, x: Any, y: Any) -> Decimals:
    """[B-02] ½ (y − W² ReLU(W¹ x + b¹) − b²)²."""
    return ((y - (W2 @ _relu(W1 @ x + b1) + b2)[0]) ** 2) / 2


def two_layer_cross_entropy_rows(W1: Any, b1: Any, W2: Any, b2: Any, X: Any, y: Any) -> Decimals:
    """[B-16] Softmax cross-entropy of ReLU(X W¹ + 1 b¹) W² + 1 b²."""
    return softmax_cross_entropy_with_integer_labels(mlp_rows([(W1, b1), (W2, b2)], X), y)


def two_layer_cross_entropy_columns(W1: Any, b1: Any, W2: Any, b2: Any, X: Any, y: Any) -> Decimals:
    """[B-13] The same, one sample a column."""
    return softmax_cross_entropy_with_integer_labels(mlp_columns([(W1, b1), (W2, b2)], X).T, y)


def mlp_rows(params: Any, X: Decimals) -> Decimals:
    """[C-02] Dense layers with ReLU between them, one sample a row."""
    return mlp_columns([(W.T, b) for W, b in params], X.T).T


def mlp_columns(params: Any, X: Decimals) -> Decimals:
    """[D-02] Dense layers with ReLU between them, one sample a column."""
    *before, last = params
    for W, b in before:
        X = _relu(dense_columns(X, W, b))
    return dense_columns(X, *last)


def five_layer(params: Any, X: Decimals, Y: Decimals) -> Decimals:
    """[D-04] Lecture D's network and its loss."""
    return softmax_cross_entropy_columns(mlp_columns(params, X), Y)


def network_squared_loss(params: Any, x: Decimals, y: Decimals) -> Decimals:
    """[C-03] ½ Σ_i (ŷ_i − y_i)², a sigmoid after every layer."""
    for W, b in params:
        x = sigmoid(W @ x + b)
    return ((x - y) ** 2).sum() / 2


def correlate2d(x: Decimals, f: Decimals) -> Decimals:
    """[C-08] O_ij = Σ_ab X_{i+a, j+b} F_ab."""
    (H, W), (kh, kw) = x.shape, f.shape
    places = product(range(H - kh + 1), range(W - kw + 1))
    sums = [(x[i : i + kh, j : j + kw] * f).sum() for i, j in places]
    return np.array(sums, object).reshape(H - kh + 1, W - kw + 1)


def convolve2d(x: Decimals, w: Decimals) -> Decimals:
    """[C-07] Y_ij = Σ_ab X_{i−a, j−b} W_ab, full."""
    (H, W), (kh, kw) = x.shape, w.shape
    Y = np.full((H + kh - 1, W + kw - 1), Decimal(0))
    for a, b in product(range(kh), range(kw)):
        Y[a : a + H, b : b + W] += x * w[a, b]
    return Y


def conv2d(x: Decimals, kernel: Decimals, bias: Decimals) -> Decimals:
    """[A-11] Z_nijo = Σ_abc X_{n,i+a,j+b,c} K_abco + b_o: VALID, stride 1."""
    (kh, kw, _, n_out), (N, H, W, _) = kernel.shape, x.shape
    Z = np.full((N, H - kh + 1, W - kw + 1, n_out), Decimal(0))
    for a, b in product(range(kh), range(kw)):
        Z += x[:, a : a + Z.shape[1], b : b + Z.shape[2]] @ kernel[a, b]
    return Z + bias


def cnn(params: Any, X: Decimals, labels: Decimals) -> Decimals:
    """[A-11] Conv2D, Conv2D, dense, dense, softmax, cross-entropy, ReLU after the first three."""
    A1 = _relu(conv2d(X, params["K1"], params["b1"]))
    A2 = _relu(conv2d(A1, params["K2"], params["b2"]))
    A4 = _relu(dense_rows(A2.reshape(len(A2), -1), params["W4"], params["b4"]))
    return softmax_cross_entropy(dense_rows(A4, params["W5"], params["b5"]), labels)


# ---------------------------------------------------------------- values and derivatives


def answer(definition: Callable, point: dict[str, Any], dout: Any, digits: int = 60) -> tuple:
    """The definition's value at a point, and ⟨dout, value⟩ differentiated by each floating-point entry.

    `point` is made of float64 arrays, infinite and NaN ones too, and of integers. The result holds the value,
    then one entry for each floating-point argument, built as it is: float64, each number rounded once. More
    `digits` are for slopes far below 10⁻²⁰ of the value.
    """
    with decimal.localcontext(CONTEXT) as context:
        context.prec = digits
        trials = [_at(definition, trial, dout) for trial in _trials(point)]
    return jax.tree.map(lambda *leaves: _what_all_say(np.stack(leaves)), *trials)


def _at(definition: Callable, point: dict[str, Any], dout: Any) -> tuple:
    """The same at a point of decimals that are finite."""
    weights = _decimals(np.asarray(dout, np.float64))
    slopes = tuple(
        jax.tree.map(lambda leaf: _quotients(lambda: definition(**point), weights, leaf), argument)
        for argument in point.values()
        if all(leaf.dtype == object for leaf in jax.tree.leaves(argument))
    )
    return _floats(definition(**point)), *slopes


def _quotients(value: Callable[[], Decimals], weights: Decimals, leaf: Decimals) -> np.ndarray:
    """⟨weights, f(x + h) − f(x − h)⟩ / 2h for each entry x of an array that f reads, which is put back."""
    slopes = np.empty(leaf.shape, object)
    for index in np.ndindex(leaf.shape):
        x = leaf[index]
        h = STEP * (abs(x) or 1)
        leaf[index] = x + h
        after = value()
        leaf[index] = x - h
        slopes[index] = np.sum(weights * (after - value())) / (2 * h)
        leaf[index] = x
    return _floats(slopes)


def _trials(point: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The point in decimals, with numbers put in for what is infinite or NaN: once where all is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(point) if leaf.dtype.kind == "f"]
    finite = all(np.isfinite(leaf).all() for leaf in leaves)
    for trial in TRIALS[:1] if finite else TRIALS:
        yield {name: jax.tree.map(partial(_put_in, trial), value) for name, value in point.items()}


def _put_in(trial: tuple[int, int, float], leaf: np.ndarray) -> np.ndarray:
    """An array in decimals, integers as they are."""
    if leaf.dtype.kind != "f":
        return leaf
    size, order, unknown = trial
    speeds = np.arange(1, leaf.size + 1)[::order].reshape(leaf.shape)
    filled = np.where(np.isinf(leaf), np.sign(leaf) * size * speeds, leaf)
    return _decimals(np.where(np.isnan(leaf), unknown * np.cos(speeds), filled))


def _what_all_say(trials: np.ndarray) -> np.ndarray:
    """What is the same in all trials; ±∞ where all grow; else NaN."""
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
