"""Backward passes as people write them by hand, and the mistakes that they make in them.

Each family is written once, in plain ``jax.numpy`` and without the project's formulas, with its doubtful
places as parameters: left alone it is right, which the kill matrix makes sure of, and each mistake replaces
one place. :mod:`manual_grad.verify.mutants` plants them, together with those that any formula can have.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from manual_grad.formulas.conv2d import conv2d_fwd

SUM_MISSING = "sum over the batch missing"
MEAN_FOR_SUM = "mean over the batch for the sum"
TRANSPOSED = "transposed"
SWAPPED = "factors swapped"
NO_MASK = "ReLU mask missing"
WRONG_MASK = "ReLU mask of the wrong layer"
MASK_GE = "ReLU mask with ≥"
NO_OFF_DIAGONAL = "softmax off-diagonal missing"
P_SWAPPED = "p and p − 1 swapped"
NOT_ROTATED = "kernel not rotated"
ROTATED_TWICE = "kernel rotated twice"
PADDING = "padding off by one"
STRIDE = "stride ignored in dX"
DILATION = "dilation ignored in dX"
BIAS_AXES = "bias gradient over the wrong axes"
SLOPE = "slope of f missing or at the wrong place"
FACTOR = "factor missing"
TERM = "term missing"
SIGN = "sign flipped"


@dataclass(frozen=True)
class Mistake:
    """A wrong version of a formula.

    Attributes:
        kind: what is wrong, in the words of the table.
        says: the wrong line.
        function: called as the claim's formula.
    """

    kind: str
    says: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Family:
    """A formula written by hand, and its mistakes.

    Attributes:
        right: the formula without a mistake, called as the claim's.
        mistakes: kind, the wrong line, and the parameters that make it.
        applies: whether these inputs are the family's, and the mistakes no other way to write the same.
        reaches: parameter → the arrays that it has a part in; all of them where it is not named.
    """

    right: Callable[..., Any]
    mistakes: Sequence[tuple[str, str, dict[str, Any]]]
    applies: Callable[[dict[str, Any]], bool]
    reaches: Mapping[str, str]


FAMILIES: dict[tuple[str, str], list[Family]] = {}


def families_of(kind: str, reference: str, inputs: dict[str, Any]) -> list[Family]:
    """The families whose formula a claim of this kind about this forward function makes, at these inputs."""
    return [f for f in FAMILIES.get((kind, reference.lstrip("_")), []) if f.applies(inputs)]


def mistakes_of(kind: str, reference: str, inputs: dict[str, Any], wrt: Sequence[str]) -> list[Mistake]:
    """The mistakes that people make in such a formula, and that have a part in these arrays."""
    return [
        Mistake(said, line, partial(family.right, **wrong))
        for family in families_of(kind, reference, inputs)
        for said, line, wrong in family.mistakes
        if any(not set(wrt).isdisjoint(family.reaches.get(name, " ".join(wrt)).split()) for name in wrong)
    ]


def _family(
    kind: str,
    references: str,
    right: Callable,
    *mistakes: tuple,
    applies: Callable[[dict[str, Any]], bool] = lambda inputs: True,
    reaches: Mapping[str, str] = MappingProxyType({}),
) -> None:
    for reference in references.split():
        FAMILIES.setdefault((kind, reference), []).append(Family(right, mistakes, applies, reaches))


# --- chain rule, MSE --------------------------------------------------------------------------------------


def _product_of_sum(df, x, y, z, *, dz=lambda x, y, z: x + y, dx=lambda x, y, z: z):
    return {"x": df * dx(x, y, z), "y": df * dx(x, y, z), "z": df * dz(x, y, z)}


_family(
    "gradient",
    "product_of_sum",
    _product_of_sum,
    (SWAPPED, "dz = z, dx = x + y", {"dz": lambda x, y, z: z, "dx": lambda x, y, z: x + y}),
    (TERM, "dz = x", {"dz": lambda x, y, z: x}),
)


def _quadratic(A, B, theta, *, both=lambda B: B + B.swapaxes(1, 2)):
    return A + jnp.einsum("jil,l->ji", both(B), theta)


_family(
    "jacobian",
    "quadratic_map",
    _quadratic,
    (TRANSPOSED, "B + B for B + Bᵀ", {"both": lambda B: 2 * B}),
    (TERM, "B for B + Bᵀ", {"both": lambda B: B}),
)
_family("jacobian", "square", lambda x, k=2: k * x, (FACTOR, "x for 2x", {"k": 1}))
_family("jacobian", "sum_of_squares", lambda x, k=2: k * x, (FACTOR, "x for 2x", {"k": 1}))


def _mse(dJ, y_hat, y, *, factor=2):
    dy_hat = factor * (y_hat - y) / len(y) * dJ
    return {"y_hat": dy_hat, "y": -dy_hat}


_family(
    "gradient",
    "mse",
    _mse,
    (FACTOR, "the 2 of the square is missing", {"factor": 1}),
    (SWAPPED, "ŷ − y for y − ŷ", {"factor": -2}),
)


def _linear_regression(
    dJ, w, b, x, y, *, dw=lambda d, x: jnp.tensordot(d, x, axes=1), db=lambda d, x: d.sum(), factor=2
):
    d = factor * (jnp.tensordot(x, w, axes=w.ndim) + b - y) / len(y) * dJ
    return {"w": dw(d, x), "b": db(d, x), "x": jnp.tensordot(d, w, axes=0), "y": -d}


_family(
    "gradient",
    "linear_regression",
    _linear_regression,
    (SUM_MISSING, "dw = d · x, one a sample", {"dw": lambda d, x: (d * x.T).T}),
    (SUM_MISSING, "db = d", {"db": lambda d, x: d}),
    (MEAN_FOR_SUM, "db = mean(d)", {"db": lambda d, x: d.mean()}),
    (FACTOR, "the 2 of the square is missing", {"factor": 1}),
    reaches={"dw": "w", "db": "b"},
)


# --- activations ------------------------------------------------------------------------------------------

_SLOPES: dict[str, Callable] = {
    "relu": lambda z: jnp.where(z > 0, 1.0, 0.0),
    "sigmoid": lambda z: jax.nn.sigmoid(z) * (1 - jax.nn.sigmoid(z)),
    "tanh": lambda z: 1 - jnp.tanh(z) ** 2,
    "softplus": jax.nn.sigmoid,
    "identity": jnp.ones_like,
}
_VALUES: dict[str, Callable] = {
    "relu": lambda z: jnp.maximum(z, 0),
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "identity": lambda z: z,
}
_WRONG_SLOPES: dict[str, list[tuple[str, str, Callable]]] = {
    "relu": [
        (NO_MASK, "dx = da", jnp.ones_like),
        (MASK_GE, "da where x ≥ 0", lambda z: jnp.where(z >= 0, 1.0, 0.0)),
        (SIGN, "da where x < 0", lambda z: jnp.where(z < 0, 1.0, 0.0)),
    ],
    "sigmoid": [
        (SLOPE, "x(1 − x) for a(1 − a)", lambda z: z * (1 - z)),
        (SLOPE, "a for a(1 − a)", jax.nn.sigmoid),
    ],
    "tanh": [
        (SLOPE, "1 − x² for 1 − a²", lambda z: 1 - z**2),
        (SLOPE, "1 − a for 1 − a²", lambda z: 1 - jnp.tanh(z)),
    ],
    "softplus": [(SLOPE, "the slope of the sigmoid, not the sigmoid", _SLOPES["sigmoid"])],
    "identity": [(SLOPE, "x for 1", lambda z: z)],
}


def _activation(da, x, *, slope):
    return da * slope(x)


def _activation_jacobian(x, *, slope):
    return jnp.diag(slope(x).ravel()).reshape(x.shape * 2)


for _name, _right in _SLOPES.items():
    _wrong = [(kind, line, {"slope": slope}) for kind, line, slope in _WRONG_SLOPES[_name]]
    _family("gradient", _name, partial(_activation, slope=_right), *_wrong)
    _family("jacobian", _name, partial(_activation_jacobian, slope=_right), *_wrong)


# --- softmax and cross-entropy ----------------------------------------------------------------------------


def _softmax(logits):
    exps = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    return exps / exps.sum(axis=-1, keepdims=True)


def _softmax_bwd(dprobs, logits, *, pull=lambda p, dp: p * (dp - (dp * p).sum(axis=-1, keepdims=True))):
    return pull(_softmax(logits), dprobs)


_SOFTMAX_MISTAKES: tuple = (
    (NO_OFF_DIAGONAL, "dl = dp p (1 − p)", {"pull": lambda p, dp: dp * p * (1 - p)}),
    (TERM, "dl = dp p", {"pull": lambda p, dp: dp * p}),
    (SIGN, "dl = p (dp + Σ dp p)", {"pull": lambda p, dp: p * (dp + (dp * p).sum(-1, keepdims=True))}),
    (TERM, "the sum over the batch, not over the classes", {"pull": lambda p, dp: p * (dp - (dp * p).sum(0))}),
)
_family("gradient", "softmax", _softmax_bwd, *_SOFTMAX_MISTAKES)
_family(
    "gradient",
    "softmax_columns",
    lambda dA, Z, **wrong: _softmax_bwd(dA.T, Z.T, **wrong).T,
    *_SOFTMAX_MISTAKES,
)


def _softmax_jacobian(logits, *, block=lambda p: jnp.diag(p) - jnp.outer(p, p)):
    if logits.ndim == 1:
        return block(_softmax(logits))
    N = len(logits)
    blocks = jax.vmap(block)(_softmax(logits))
    return jnp.where(jnp.eye(N, dtype=bool)[:, None, :, None], blocks[:, :, None, :], 0)


_family(
    "jacobian",
    "softmax",
    _softmax_jacobian,
    (NO_OFF_DIAGONAL, "diag(p (1 − p))", {"block": lambda p: jnp.diag(p * (1 - p))}),
    (SIGN, "diag(p) + p pᵀ", {"block": lambda p: jnp.diag(p) + jnp.outer(p, p)}),
    (TERM, "diag(p)", {"block": jnp.diag}),
)


def _cross_entropy(dJ, probs, labels, *, ratio=lambda p, y: y / p):
    N = len(probs)
    return {"probs": -dJ / N * ratio(probs, labels), "labels": -dJ / N * jnp.log(probs)}


_RATIOS: tuple = (
    (SWAPPED, "p/y for y/p", {"ratio": lambda p, y: p / y}),
    (SWAPPED, "y p for y/p", {"ratio": lambda p, y: y * p}),
    (TERM, "y/y for y/p", {"ratio": lambda p, y: y / y}),
)
_family("gradient", "cross_entropy", _cross_entropy, *_RATIOS)
_family("jacobian", "cross_entropy", lambda **p: _cross_entropy(1.0, **p)["probs"], *_RATIOS)
_family(
    "gradient",
    "cross_entropy_columns",
    lambda dL, A, Y, **wrong: _cross_entropy(dL, A.T, Y.T, **wrong)["probs"].T,
    *_RATIOS,
)


def _softmax_cross_entropy(dJ, logits, labels, *, error=lambda p, y: p * y.sum(-1, keepdims=True) - y):
    p = _softmax(logits)
    return {"logits": dJ / len(p) * error(p, labels), "labels": -dJ / len(p) * jnp.log(p)}


_ERRORS: tuple = (
    (NO_OFF_DIAGONAL, "y (p − 1), the true class alone", {"error": lambda p, y: y * (p - 1)}),
    (P_SWAPPED, "p where y is 1, p − 1 elsewhere", {"error": lambda p, y: p - (1 - y)}),
    (MEAN_FOR_SUM, "over N and the classes", {"error": lambda p, y: (p * y.sum(-1, keepdims=True) - y) / y.shape[-1]}),
)  # fmt: skip
_ANY_SUM = (TERM, "p − y, labels taken to sum to 1", {"error": lambda p, y: p - y})
_family("gradient", "softmax_cross_entropy", _softmax_cross_entropy, *_ERRORS, _ANY_SUM)
_family("jacobian", "softmax_cross_entropy", lambda **p: _softmax_cross_entropy(1.0, **p)["logits"], *_ERRORS)
_family(
    "gradient",
    "five_layer_from_z",
    lambda dL, Z, Y, **wrong: {
        "ZY"[k]: g.T for k, g in enumerate(_softmax_cross_entropy(dL, Z.T, Y.T, **wrong).values())
    },
    *_ERRORS,
    applies=lambda inputs: "Z" in inputs,
)


def _one_hot(y, K):
    return (jnp.asarray(y)[..., None] == jnp.arange(K)).astype(jnp.float64)


def _integer_labels(dJ, logits, labels, *, error=lambda p, y: p - y):
    return dJ / len(logits) * error(_softmax(logits), _one_hot(labels, logits.shape[-1]))


_family("gradient", "softmax_cross_entropy_with_integer_labels", _integer_labels, *_ERRORS)
_family(
    "gradient",
    "cross_entropy_of_scores",
    lambda dJ, s, y, **wrong: _integer_labels(dJ, s[None], jnp.asarray(y)[None], **wrong)[0],
    *_ERRORS,
)
_family(
    "jacobian",
    "cross_entropy_of_scores",
    lambda s, y, **wrong: _integer_labels(1.0, s[None], jnp.asarray(y)[None], **wrong)[0],
    *_ERRORS,
)
for _kind in ("gradient", "jacobian"):
    _family(
        _kind,
        "cross_entropy_of_S_columns",
        lambda dJ=1.0, S=None, y=None, **wrong: _integer_labels(dJ, S.T, y, **wrong).T,
        *_ERRORS,
        applies=lambda inputs: "S" in inputs,
    )


def _linear_cross_entropy(dJ, hidden, W, labels, chunk, *, error=lambda p, y: p - y, last=None, back=jnp.transpose):
    N = len(hidden)
    p = _softmax(hidden @ W)
    dlogits = dJ / N * error(p, _one_hot(labels, W.shape[1]))
    if last is not None:
        dlogits = dlogits.at[last(N, chunk) :].set(0)
    return {"hidden": dlogits @ back(W), "W": hidden.T @ dlogits}  # fmt: skip


_family(
    "gradient",
    "linear_cross_entropy",
    _linear_cross_entropy,
    *_ERRORS,
    ("last chunk dropped", "the samples that fill no whole chunk", {"last": lambda N, n: (N - 1) // n * n}),
    (TRANSPOSED, "dlogits W for dlogits Wᵀ", {"back": lambda W: W}),
    reaches={"back": "hidden"},
)


# --- dense layers and networks ----------------------------------------------------------------------------


def _dense_rows(
    dZ,
    X,
    W,
    b,
    *,
    dX=lambda dZ, W: dZ @ W.T,
    dW=lambda dZ, X: X.T @ dZ,
    db=lambda dZ: dZ.sum(axis=0),
):
    return {"X": dX(dZ, W), "W": dW(dZ, X), "b": db(dZ)}


_family(
    "gradient",
    "dense_rows",
    _dense_rows,
    (TRANSPOSED, "dX = dZ W", {"dX": lambda dZ, W: dZ @ W}),
    (SWAPPED, "dW = dZᵀ X", {"dW": lambda dZ, X: dZ.T @ X}),
    (SWAPPED, "dX = W dZ", {"dX": lambda dZ, W: W @ dZ}),
    (SUM_MISSING, "db = dZ", {"db": lambda dZ: dZ}),
    (MEAN_FOR_SUM, "db = mean of dZ", {"db": lambda dZ: dZ.mean(axis=0)}),
    (BIAS_AXES, "db summed over the features", {"db": lambda dZ: dZ.sum(axis=1)}),
    reaches={"dX": "X", "dW": "W", "db": "b"},
)


def _dense_columns(
    dZ,
    X,
    W,
    b,
    *,
    dX=lambda dZ, W: W.T @ dZ,
    dW=lambda dZ, X: dZ @ X.T,
    db=lambda dZ: dZ.sum(axis=1),
):
    return {"X": dX(dZ, W), "W": dW(dZ, X), "b": db(dZ)}


_family(
    "gradient",
    "dense_columns",
    _dense_columns,
    (TRANSPOSED, "dX = W dZ", {"dX": lambda dZ, W: W @ dZ}),
    (SWAPPED, "dW = X dZᵀ", {"dW": lambda dZ, X: X @ dZ.T}),
    (SWAPPED, "dX = dZ Wᵀ", {"dX": lambda dZ, W: dZ @ W.T}),
    (SUM_MISSING, "db = dZ", {"db": lambda dZ: dZ}),
    (MEAN_FOR_SUM, "db = mean of dZ", {"db": lambda dZ: dZ.mean(axis=1)}),
    (BIAS_AXES, "db summed over the features", {"db": lambda dZ: dZ.sum(axis=0)}),
    reaches={"dX": "X", "dW": "W", "db": "b"},
)


def _two_layer(
    dS_of,
    W1,
    b1,
    W2,
    b2,
    X,
    *,
    mask=lambda Z, dA, S: Z > 0,
    back=lambda dS, W2: dS @ W2.T,
    sum1=lambda dZ: dZ.sum(axis=0),
    sum2=lambda dS: dS.sum(axis=0),
):
    """ReLU(X W1 + b1) W2 + b2, one sample a row, given how the loss makes dS of S."""
    Z = X @ W1 + b1
    A = jnp.maximum(Z, 0)
    S = A @ W2 + b2
    dS = dS_of(S)
    dA = back(dS, W2)
    dZ = jnp.where(mask(Z, dA, S), dA, 0)
    return {
        "S": dS, "W2": A.T @ dS, "b2": sum2(dS), "A": dA, "Z": dZ, "W1": X.T @ dZ, "b1": sum1(dZ), "X": dZ @ W1.T,
    }  # fmt: skip


def _two_layer_rows(dJ, W1, b1, W2, b2, X, y, *, error=lambda p, y: p - y, **wrong):
    def dS(S):
        return dJ / len(S) * error(_softmax(S), _one_hot(y, S.shape[1]))

    return _two_layer(dS, W1, b1, W2, b2, X, **wrong)


def _two_layer_columns(dJ, W1, b1, W2, b2, X, y, **wrong):
    grads = _two_layer_rows(dJ, W1.T, b1, W2.T, b2, X.T, y, **wrong)
    return {name: g.T for name, g in grads.items()}


def _two_layer_one_sample(dJ, W1, b1, W2, b2, x, y, **wrong):
    return _one_row(_two_layer_rows(dJ, W1.T, b1, W2.T, b2, x[None], jnp.asarray(y)[None], **wrong))


def _two_layer_squared_loss(dJ, W1, b1, W2, b2, x, y, *, factor=1, **wrong):
    grads = _two_layer(lambda o: factor * dJ * (o - y), W1.T, b1, W2.T, b2, x[None], **wrong)
    return {**_one_row(grads), "o": grads["S"][0], "y": -grads["S"][0, 0]}


def _one_row(grads: dict) -> dict:
    """The gradients by the names of the lines for one sample."""
    hidden = {"S": "s", "A": "a", "Z": "z", "X": "x"}
    return {hidden.get(name, name): g[0] if name in hidden else g.T for name, g in grads.items()}


_MASKS: tuple = (
    (NO_MASK, "dZ = dA", {"mask": lambda Z, dA, S: jnp.ones_like(Z, bool)}),
    (MASK_GE, "dA where Z ≥ 0", {"mask": lambda Z, dA, S: Z >= 0}),
    (WRONG_MASK, "dA where S > 0", {"mask": lambda Z, dA, S: S > 0}),
    (WRONG_MASK, "dA where dA > 0", {"mask": lambda Z, dA, S: dA > 0}),
    (TRANSPOSED, "dA = dS W² for dS W²ᵀ", {"back": lambda dS, W2: dS @ W2}),
)
_REACHES = {"mask": "Z z W1 b1 X x", "back": "A a Z z W1 b1 X x", "sum1": "b1", "sum2": "b2"}
_BATCH_SUMS: tuple = (
    (SUM_MISSING, "db² = dS", {"sum2": lambda dS: dS}),
    (SUM_MISSING, "db¹ = dZ", {"sum1": lambda dZ: dZ}),
    (MEAN_FOR_SUM, "db² = mean of dS", {"sum2": lambda dS: dS.mean(axis=0)}),
    (BIAS_AXES, "db¹ summed over the units", {"sum1": lambda dZ: dZ.sum(axis=1)}),
)
_family("gradient", "two_layer_cross_entropy_rows", _two_layer_rows, *_MASKS, *_ERRORS, *_BATCH_SUMS, reaches=_REACHES)
_family("gradient", "two_layer_cross_entropy_columns", _two_layer_columns, *_MASKS, *_ERRORS, *_BATCH_SUMS, reaches=_REACHES)
_family("gradient", "two_layer_cross_entropy", _two_layer_one_sample, *_MASKS, *_ERRORS, reaches=_REACHES)
_family(
    "gradient",
    "two_layer_squared_loss",
    _two_layer_squared_loss,
    *(m for m in _MASKS if "S > 0" not in m[1]),  # there is one output: its sign is no mask of seven units
    (FACTOR, "2 (o − y), the ½ forgotten", {"factor": 2}),
    reaches=_REACHES,
)
_FOUR = ("W1", "b1", "W2", "b2")
_family(
    "jacobian",
    "two_layer_cross_entropy",
    lambda **p: tuple(_two_layer_one_sample(1.0, **p)[name] for name in _FOUR),
    *_MASKS,
    *_ERRORS,
)
_family(
    "jacobian",
    "two_layer_squared_loss",
    lambda **p: tuple(_two_layer_squared_loss(1.0, **p)[name] for name in _FOUR),
    *(m for m in _MASKS if "S > 0" not in m[1]),
)


def _mlp_rows(
    dZ,
    params,
    X,
    activation="relu",
    *,
    slope=lambda f, Zs, As, l: f(Zs[l]),
    db=lambda delta: delta.sum(axis=0),
    dW=lambda A, delta: A.T @ delta,
    **unused,
):
    """Back through layers in rows; ``Zs[l]`` is what ``As[l + 1]`` was made of."""
    f, A, Zs, As = _VALUES[activation], X, [], [X]
    for W, b in params[:-1]:
        Zs.append(A @ W + b)
        A = f(Zs[-1])
        As.append(A)
    grads, delta = [], dZ(A @ params[-1][0] + params[-1][1]) if callable(dZ) else dZ
    hidden = {f"Z{len(params)}": delta}
    for l in reversed(range(len(params))):
        grads.append((dW(As[l], delta), db(delta)))
        hidden |= {f"W{l + 1}": grads[-1][0], f"b{l + 1}": grads[-1][1]}
        delta = hidden[f"A{l}"] = delta @ params[l][0].T
        if l:
            delta = hidden[f"Z{l}"] = delta * slope(_SLOPES[activation], Zs, As, l - 1)
    return {"params": jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(grads[::-1])), "X": delta, **hidden}


def _mlp_columns(dZ, params, X, activation="relu", **wrong):
    grads = _mlp_rows(dZ.T, [(W.T, b) for W, b in params], X.T, activation, **wrong)
    return jax.tree.map(jnp.transpose, grads)


def _five_layer(dL, params, X, Y, *, error=lambda p, y: p - y, **wrong):
    def dZ5(Z5):
        return dL / Y.shape[1] * error(_softmax(Z5), Y.T)

    layers = [(W.T, b) for W, b in params]
    grads = jax.tree.map(jnp.transpose, _mlp_rows(dZ5, layers, X.T, "relu", **wrong))
    A = X.T
    for W, b in layers[:-1]:
        A = jnp.maximum(A @ W + b, 0)
    dY = -dL / Y.shape[1] * jnp.log(_softmax(A @ layers[-1][0] + layers[-1][1]))
    return {**grads, "Y": dY.T}


def _is(*activations: str) -> Callable[[dict], bool]:
    return lambda inputs: inputs.get("activation", "relu") in activations


_LAYERS: tuple = (
    (SUM_MISSING, "db = delta", {"db": lambda delta: delta}),
    (MEAN_FOR_SUM, "db = mean of delta", {"db": lambda delta: delta.mean(axis=0)}),
    (BIAS_AXES, "db summed over the units", {"db": lambda delta: delta.sum(axis=1)}),
    (SWAPPED, "dW = deltaᵀ A", {"dW": lambda A, delta: delta.T @ A}),
)
_LAYER_MASKS: tuple = (
    (NO_MASK, "delta not masked", {"slope": lambda f, Zs, As, l: 1.0}),
    (MASK_GE, "where Z ≥ 0", {"slope": lambda f, Zs, As, l: jnp.where(Zs[l] >= 0, 1.0, 0.0)}),
    (WRONG_MASK, "the mask of the layer before", {"slope": lambda f, Zs, As, l: f(Zs[l - 1])}),
    (WRONG_MASK, "the masks in reverse order", {"slope": lambda f, Zs, As, l: f(Zs[-1 - l])}),
)
_LAYER_SLOPES: tuple = (
    (SLOPE, "delta without f′", {"slope": lambda f, Zs, As, l: 1.0}),
    (SLOPE, "f′(a) for f′(z)", {"slope": lambda f, Zs, As, l: f(As[l + 1])}),
    (SLOPE, "f′ of the layer before", {"slope": lambda f, Zs, As, l: f(Zs[l - 1])}),
)
for _layout, _base in (("mlp_rows", _mlp_rows), ("mlp_columns", _mlp_columns)):
    _family("gradient", _layout, _base, *_LAYERS, reaches={"db": "params", "dW": "params"})
    _family("gradient", _layout, _base, *_LAYER_MASKS, applies=_is("relu"))
    _family("gradient", _layout, _base, *_LAYER_SLOPES, applies=_is("sigmoid", "tanh", "softplus"))
_family("gradient", "five_layer_scores", _mlp_columns, *_LAYERS, *_LAYER_MASKS)
_LAYER_3: tuple = (
    (WRONG_MASK, "dZ³ with the mask of layer 2", {"slope": lambda f, Zs, As, l: f(Zs[1 if l == 2 else l])}),
)
_family(
    "gradient",
    "five_layer loss_by_each loss_of_layer_5",
    _five_layer,
    *_ERRORS,
    *_LAYERS,
    *_LAYER_MASKS,
    *_LAYER_3,
    applies=lambda inputs: "learning_rate" not in inputs,
    reaches={
        "slope": "params X Z1 Z2 Z3 Z4 A1 A2 A3",
        "dW": "params W1 W2 W3 W4 W5",
        "db": "params b1 b2 b3 b4 b5",
    },
)


def _network(dL, params, x, y, activation, *, last=lambda f, z, y_hat: f(z), slope=None):
    f, slopes = _VALUES[activation], _SLOPES[activation]
    slope = slope or (lambda f, z, a: f(z))
    a, zs, activations = x, [], [x]
    for W, b in params:
        zs.append(W @ a + b)
        a = f(zs[-1])
        activations.append(a)
    delta = dL * (a - y) * last(slopes, zs[-1], a)
    grads = []
    for l in reversed(range(len(params))):
        grads.append((jnp.outer(delta, activations[l]), delta))
        delta = params[l][0].T @ delta
        if l:
            delta = delta * slope(slopes, zs[l - 1], activations[l])
    grads = jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(grads[::-1]))
    return {"params": grads, "x": delta, "y": -dL * (a - y)}


_family(
    "gradient",
    "network_squared_loss",
    _network,
    (SLOPE, "the last delta without f′", {"last": lambda f, z, y_hat: 1.0}),
    (SLOPE, "the deltas without f′", {"slope": lambda f, z, a: 1.0}),
    (SLOPE, "f′(a) for f′(z)", {"slope": lambda f, z, a: f(a)}),
    applies=_is("sigmoid", "tanh", "softplus"),
)
_family(
    "gradient",
    "network_squared_loss",
    _network,
    (NO_MASK, "the last delta not masked", {"last": lambda f, z, y_hat: 1.0}),
    (NO_MASK, "the deltas not masked", {"slope": lambda f, z, a: 1.0}),
    (MASK_GE, "where z ≥ 0", {"slope": lambda f, z, a: jnp.where(z >= 0, 1.0, 0.0)}),
    applies=_is("relu"),
)


def _flatten(dX, images, *, back=lambda dX, shape: dX.T.reshape(shape)):
    return back(dX, images.shape)


_family(
    "gradient",
    "flatten_columns",
    _flatten,
    (TRANSPOSED, "dX reshaped as it is", {"back": lambda dX, shape: dX.reshape(shape)}),
    (
        TRANSPOSED,
        "columns of pixels before rows",
        {"back": lambda dX, shape: dX.T.reshape(shape[0], shape[2], shape[1]).swapaxes(1, 2)},
    ),
)


# --- convolutions -----------------------------------------------------------------------------------------


def _rot180(f):
    return f[::-1, ::-1]


def _correlated(x, f):
    """Valid cross-correlation, offset by offset."""
    h, w = x.shape[0] - f.shape[0] + 1, x.shape[1] - f.shape[1] + 1
    offsets = [(a, b) for a in range(f.shape[0]) for b in range(f.shape[1])]
    return sum(f[a, b] * x[a : a + h, b : b + w] for a, b in offsets)


def _full(dO, f):
    """``dO`` with zeros around it, as many as a kernel of f's size reaches out."""
    (kh, kw) = f.shape
    return jnp.pad(dO, ((kh - 1, kh - 1), (kw - 1, kw - 1)))


def _convolved_full(dO, f):
    """True convolution: cross-correlation with the kernel turned."""
    return _correlated(_full(dO, f), _rot180(f))


def _shifted(dO, f):
    (kh, kw) = f.shape
    return jnp.pad(dO, ((kh - 2, kh), (kw - 1, kw - 1)))


def _small(dO, x):  # a kernel larger than the image, an XLA convolution would see to it
    return lax.conv_general_dilated(x[None, None], dO[None, None], (1, 1), "VALID")[0, 0]


def _correlate2d(dO, x, f, *, dx=_convolved_full, df=lambda dO, x: _small(dO, x)):
    return {"x": dx(dO, f), "f": df(dO, x)}


_CORRELATION_X: tuple = (
    (NOT_ROTATED, "dX = dO ⋆ F, full", {"dx": lambda dO, f: _correlated(_full(dO, f), f)}),
    (ROTATED_TWICE, "dX = dO ∗ rot180(F), full", {"dx": lambda dO, f: _convolved_full(dO, _rot180(f))}),
    (PADDING, "dO padded a row too low", {"dx": lambda dO, f: _correlated(_shifted(dO, f), _rot180(f))}),
    (TRANSPOSED, "dX with Fᵀ", {"dx": lambda dO, f: _correlated(_full(dO, f), _rot180(f).T)}),
)
_CORRELATION_F: tuple = (
    (NOT_ROTATED, "dF turned: dF = rot180(X ⋆ dO)", {"df": lambda dO, x: _rot180(_small(dO, x))}),
)
_family(
    "gradient",
    "correlate2d",
    _correlate2d,
    *_CORRELATION_X,
    *_CORRELATION_F,
    (SWAPPED, "dF = dO ⋆ X", {"df": lambda dO, x: _correlated(_full(dO, x), x)}),
    reaches={"dx": "x", "df": "f"},
)


def _correlate2d_jacobian(x, f, *, turn_f=lambda f: f, turn_windows=lambda g: g):
    h, w = x.shape[0] - f.shape[0] + 1, x.shape[1] - f.shape[1] + 1
    i, j = jnp.arange(h)[:, None], jnp.arange(w)
    by_x, by_f = jnp.zeros((h, w, *x.shape), x.dtype), jnp.zeros((h, w, *f.shape), x.dtype)
    for a in range(f.shape[0]):
        for b in range(f.shape[1]):
            by_x = by_x.at[i, j, i + a, j + b].set(turn_f(f)[a, b])
            by_f = by_f.at[:, :, a, b].set(x[a : a + h, b : b + w])
    return {"x": by_x, "f": turn_windows(by_f)}


_family(
    "jacobian",
    "correlate2d",
    _correlate2d_jacobian,
    (ROTATED_TWICE, "the kernel turned before it is laid out", {"turn_f": _rot180}),
    (ROTATED_TWICE, "the windows turned", {"turn_windows": lambda g: g[:, :, ::-1, ::-1]}),
    reaches={"turn_f": "x", "turn_windows": "f"},
)


def _convolve2d(dY, x, w, mode, *, turn_w=None, turn_x=None, dx=None):
    turned = _rot180 if turn_x is None else turn_x
    if mode == "full":
        back = dx or _small
        return {"x": back(turned(_rot180(w)), dY), "w": (turn_w or (lambda g: g))(_small(x, dY))}
    back = dx or (lambda w, dY: _small(w, _full(dY, w)))
    return {"x": back(turned(_rot180(w)), dY), "w": (turn_w or _rot180)(_small(dY, x))}


_family(
    "gradient",
    "convolve2d",
    _convolve2d,
    (ROTATED_TWICE, "dX with rot180(W), as for a cross-correlation", {"turn_x": lambda w: w}),
    (TRANSPOSED, "dX with Wᵀ", {"turn_x": lambda w: _rot180(w).T}),
)
_family(
    "gradient",
    "convolve2d",
    _convolve2d,
    (NOT_ROTATED, "dW = X ⋆ dY, not turned", {"turn_w": lambda g: g}),
    applies=lambda inputs: inputs["mode"] == "valid",
)
_family(
    "gradient",
    "convolve2d",
    _convolve2d,
    (ROTATED_TWICE, "dW turned", {"turn_w": _rot180}),
    applies=lambda inputs: inputs["mode"] == "full",
)


def _conv2d(
    dZ,
    x,
    kernel,
    bias,
    strides=1,
    padding="VALID",
    dilation=1,
    groups=1,
    *,
    turn=lambda k: k,
    turn_dk=lambda k: k,
    stride_dX=lambda s: s,
    dilation_dX=lambda d: d,
    shift=0,
    db=lambda dZ: dZ.sum(axis=(0, 1, 2)),
    group=lambda kernel: kernel,
):
    """What each kernel entry saw at each output, and where it sends dZ back to."""
    geometry = conv2d_fwd(x, kernel, bias, strides=strides, padding=padding, dilation=dilation, groups=groups)[1]
    (h, w), (kh, kw, Cg, O) = dZ.shape[1:3], kernel.shape
    padded = jnp.pad(x, ((0, 0), *geometry.pads, (0, 0)))
    dZ_g = dZ.reshape(*dZ.shape[:3], groups, O // groups)

    def positions(s, d):  # of kernel entry (a, b) at output (i, j): a × i × b × j
        rows = jnp.arange(kh)[:, None] * d[0] + jnp.arange(h) * s[0]
        columns = jnp.arange(kw)[:, None] * d[1] + jnp.arange(w) * s[1]
        return rows[:, :, None, None], columns

    rows, columns = positions(geometry.strides, geometry.dilation)
    seen = padded[:, rows, columns].reshape(len(x), kh, h, kw, w, groups, Cg)
    dkernel = jnp.einsum("naibjgc,nijgo->abcgo", seen, dZ_g).reshape(kernel.shape)
    turned = group(turn(kernel).reshape(kh, kw, Cg, groups, O // groups))
    sent = jnp.einsum("nijgo,abcgo->naibjgc", dZ_g, turned).reshape(len(x), kh, h, kw, w, groups * Cg)
    rows, columns = positions([*map(stride_dX, geometry.strides)], [*map(dilation_dX, geometry.dilation)])
    dpadded = jnp.zeros_like(padded).at[:, rows, columns].add(sent)
    (top, _), (left, _) = geometry.pads
    dx = jnp.roll(dpadded, shift, axis=1)[:, top : top + x.shape[1], left : left + x.shape[2]]
    return {"x": dx, "kernel": turn_dk(dkernel), "bias": db(dZ)}


def _wide(inputs: dict, name: str) -> bool:
    value = inputs.get(name, 1)
    return max(value if isinstance(value, tuple) else (value,)) > 1


_family(
    "gradient",
    "conv2d",
    _conv2d,
    (NOT_ROTATED, "dX = dZ ⋆ K, full", {"turn": _rot180}),
    (ROTATED_TWICE, "dK turned", {"turn_dk": _rot180}),
    (PADDING, "dX cropped a row too late", {"shift": -1}),
    (BIAS_AXES, "db over height, width and channels", {"db": lambda dZ: dZ.sum(axis=(1, 2, 3))}),
    (BIAS_AXES, "db of the first column alone", {"db": lambda dZ: dZ[:, :, 0].sum(axis=(0, 1))}),
    (SUM_MISSING, "db not summed over the images", {"db": lambda dZ: dZ.sum(axis=(1, 2))}),
    (MEAN_FOR_SUM, "db averaged over the images", {"db": lambda dZ: dZ.sum(axis=(1, 2)).mean(axis=0)}),
    (TRANSPOSED, "dX with height and width of K swapped", {"turn": lambda k: _padded_transpose(k)}),
    reaches={"turn": "x", "turn_dk": "kernel", "shift": "x", "db": "bias"},
)
_family(
    "gradient",
    "conv2d",
    _conv2d,
    (STRIDE, "dZ not spread apart", {"stride_dX": lambda s: 1}),
    applies=lambda inputs: _wide(inputs, "strides"),
    reaches={"stride_dX": "x"},
)
_family(
    "gradient",
    "conv2d",
    _conv2d,
    (DILATION, "K's entries side by side", {"dilation_dX": lambda d: 1}),
    applies=lambda inputs: _wide(inputs, "dilation"),
    reaches={"dilation_dX": "x"},
)
_family(
    "gradient",
    "conv2d",
    _conv2d,
    ("groups mixed up", "dX with the next group's kernel", {"group": lambda k: jnp.roll(k, -1, axis=3)}),
    applies=lambda inputs: _wide(inputs, "groups"),
    reaches={"group": "x"},
)


def _padded_transpose(kernel):
    """Kᵀ in its first two axes, cut or filled up with zeros where the two differ."""
    kh, kw = kernel.shape[:2]
    turned = jnp.pad(kernel.swapaxes(0, 1), ((0, max(kh - kw, 0)), (0, max(kw - kh, 0)), (0, 0), (0, 0)))
    return turned[:kh, :kw]


def _cnn_from(dZ5, params, X, *, mask=lambda Z, l: Z > 0, unflatten=lambda d, shape: d.reshape(shape), **conv):
    """Back from the scores: ``mask(Zs, l)`` is that of layer l, 1 and 2 being convolutions."""
    Z1 = conv2d_fwd(X, params["K1"], params["b1"])[0]
    A1 = jnp.maximum(Z1, 0)
    Z2 = conv2d_fwd(A1, params["K2"], params["b2"])[0]
    A3 = jnp.maximum(Z2, 0).reshape(len(X), -1)
    Z4 = A3 @ params["W4"] + params["b4"]
    A4 = jnp.maximum(Z4, 0)
    dZ5 = dZ5(A4 @ params["W5"] + params["b5"]) if callable(dZ5) else dZ5
    dZ4 = dZ5 @ params["W5"].T * mask(Z4, 4)
    dZ2 = unflatten(dZ4 @ params["W4"].T, Z2.shape) * mask(Z2, 2)
    second = _conv2d(dZ2, A1, params["K2"], params["b2"], **conv)
    dZ1 = second["x"] * mask(Z1, 1)
    first = _conv2d(dZ1, X, params["K1"], params["b1"], **conv)
    grads = {
        "K1": first["kernel"], "b1": first["bias"], "K2": second["kernel"], "b2": second["bias"],
        "W4": A3.T @ dZ4, "b4": dZ4.sum(0), "W5": A4.T @ dZ5, "b5": dZ5.sum(0),
    }  # fmt: skip
    return {"params": grads, "X": first["x"]}


def _cnn(dJ, params, X, labels, *, error=lambda p, y: p * y.sum(-1, keepdims=True) - y, **wrong):
    scores = []

    def dZ5(Z5):
        scores.append(Z5)
        return dJ / len(X) * error(_softmax(Z5), labels)

    grads = _cnn_from(dZ5, params, X, **wrong)
    return {**grads, "labels": -dJ / len(X) * jnp.log(_softmax(scores[0]))}


_CNN: tuple = (
    (NO_MASK, "dZ¹ not masked", {"mask": lambda Z, l: (Z > 0) | (l == 1)}),
    (NO_MASK, "dZ⁴ not masked", {"mask": lambda Z, l: (Z > 0) | (l == 4)}),
    (MASK_GE, "where Z ≥ 0", {"mask": lambda Z, l: Z >= 0}),
    (NOT_ROTATED, "dA¹ = dZ² ⋆ K², full", {"turn": _rot180}),
    (ROTATED_TWICE, "dK turned", {"turn_dk": _rot180}),
    (PADDING, "dX cropped a row too late", {"shift": -1}),
    (BIAS_AXES, "db of the first column alone", {"db": lambda dZ: dZ[:, :, 0].sum(axis=(0, 1))}),
    (BIAS_AXES, "db over height, width and channels", {"db": lambda dZ: dZ.sum(axis=(1, 2, 3))}),
    (SUM_MISSING, "db not summed over the images", {"db": lambda dZ: dZ.sum(axis=(1, 2))}),
    (
        TRANSPOSED,
        "unflattened width before height",
        {
            "unflatten": lambda d, shape: d.reshape(shape[0], shape[2], shape[1], shape[3]).swapaxes(1, 2),
        },
    ),
)
_family("gradient", "cnn", _cnn, *_CNN, *_ERRORS)
_family("gradient", "cnn_scores", lambda dZ5, params, X, labels, **wrong: _cnn_from(dZ5, params, X, **wrong), *_CNN)
