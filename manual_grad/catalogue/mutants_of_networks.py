"""Dense layers and networks of them as people write them, with typical mistakes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from manual_grad.catalogue.families import (
    BIAS_AXES,
    FACTOR,
    MASK_GE,
    MEAN_FOR_SUM,
    NO_MASK,
    SLOPE,
    SUM_MISSING,
    SWAPPED,
    TRANSPOSED,
    WRONG_MASK,
    family,
)
from manual_grad.catalogue.mutants_of_losses import ERRORS, SLOPES, VALUES, one_hot, softmax


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


DENSE_ROWS = (
    family(
        "gradient",
        _dense_rows,
        (TRANSPOSED, "dX = dZ W", {"dX": lambda dZ, W: dZ @ W}),
        (SWAPPED, "dW = dZᵀ X", {"dW": lambda dZ, X: dZ.T @ X}),
        (SWAPPED, "dX = W dZ", {"dX": lambda dZ, W: W @ dZ}),
        (SUM_MISSING, "db = dZ", {"db": lambda dZ: dZ}),
        (MEAN_FOR_SUM, "db = mean of dZ", {"db": lambda dZ: dZ.mean(axis=0)}),
        (BIAS_AXES, "db summed over the features", {"db": lambda dZ: dZ.sum(axis=1)}),
        reaches={"dX": "X", "dW": "W", "db": "b"},
    ),
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


DENSE_COLUMNS = (
    family(
        "gradient",
        _dense_columns,
        (TRANSPOSED, "dX = W dZ", {"dX": lambda dZ, W: W @ dZ}),
        (SWAPPED, "dW = X dZᵀ", {"dW": lambda dZ, X: X @ dZ.T}),
        (SWAPPED, "dX = dZ Wᵀ", {"dX": lambda dZ, W: dZ @ W.T}),
        (SUM_MISSING, "db = dZ", {"db": lambda dZ: dZ}),
        (MEAN_FOR_SUM, "db = mean of dZ", {"db": lambda dZ: dZ.mean(axis=1)}),
        (BIAS_AXES, "db summed over the features", {"db": lambda dZ: dZ.sum(axis=0)}),
        reaches={"dX": "X", "dW": "W", "db": "b"},
    ),
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
    """ReLU(X W1 + b1) W2 + b2, one sample per row, given the loss's gradient dS as a function of S."""
    Z = X @ W1 + b1
    A = jnp.maximum(Z, 0)
    S = A @ W2 + b2
    dS = dS_of(S)
    dA = back(dS, W2)
    dZ = jnp.where(mask(Z, dA, S), dA, 0)
    return {
        "S": dS, "W2": A.T @ dS, "b2": sum2(dS), "A": dA,
        "Z": dZ, "W1": X.T @ dZ, "b1": sum1(dZ), "X": dZ @ W1.T,
    }  # fmt: skip


def _two_layer_rows(dJ, W1, b1, W2, b2, X, y, *, error=lambda p, y: p - y, **wrong):
    def dS(S):
        return dJ / len(S) * error(softmax(S), one_hot(y, S.shape[1]))

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
    """The gradients under their names for a single sample."""
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
TWO_LAYER_CROSS_ENTROPY_ROWS = (
    family("gradient", _two_layer_rows, *_MASKS, *ERRORS, *_BATCH_SUMS, reaches=_REACHES),
)
TWO_LAYER_CROSS_ENTROPY_COLUMNS = (
    family("gradient", _two_layer_columns, *_MASKS, *ERRORS, *_BATCH_SUMS, reaches=_REACHES),
)
_FOUR = ("W1", "b1", "W2", "b2")
TWO_LAYER_CROSS_ENTROPY = (
    family("gradient", _two_layer_one_sample, *_MASKS, *ERRORS, reaches=_REACHES),
    family(
        "jacobian",
        lambda **p: tuple(_two_layer_one_sample(1.0, **p)[name] for name in _FOUR),
        *_MASKS,
        *ERRORS,
    ),
)
TWO_LAYER_SQUARED_LOSS = (
    family(
        "gradient",
        _two_layer_squared_loss,
        *(m for m in _MASKS if "S > 0" not in m[1]),
        (FACTOR, "2 (o − y), the ½ forgotten", {"factor": 2}),
        reaches=_REACHES,
    ),
    family(
        "jacobian",
        lambda **p: tuple(_two_layer_squared_loss(1.0, **p)[name] for name in _FOUR),
        *(m for m in _MASKS if "S > 0" not in m[1]),
    ),
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
    """The backward pass through layers in rows; ``As[l + 1]`` is computed from ``Zs[l]``."""
    f, A, Zs, As = VALUES[activation], X, [], [X]
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
            delta = hidden[f"Z{l}"] = delta * slope(SLOPES[activation], Zs, As, l - 1)
    return {
        "params": jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(grads[::-1])),
        "X": delta,
        **hidden,
    }


def _mlp_columns(dZ, params, X, activation="relu", **wrong):
    grads = _mlp_rows(dZ.T, [(W.T, b) for W, b in params], X.T, activation, **wrong)
    return jax.tree.map(jnp.transpose, grads)


def _five_layer(dL, params, X, Y, *, error=lambda p, y: p - y, **wrong):
    def dZ5(Z5):
        return dL / Y.shape[1] * error(softmax(Z5), Y.T)

    layers = [(W.T, b) for W, b in params]
    grads = jax.tree.map(jnp.transpose, _mlp_rows(dZ5, layers, X.T, "relu", **wrong))
    A = X.T
    for W, b in layers[:-1]:
        A = jnp.maximum(A @ W + b, 0)
    dY = -dL / Y.shape[1] * jnp.log(softmax(A @ layers[-1][0] + layers[-1][1]))
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


def _of_layers(right):
    return (
        family("gradient", right, *_LAYERS, reaches={"db": "params", "dW": "params"}),
        family("gradient", right, *_LAYER_MASKS, applies=_is("relu")),
        family("gradient", right, *_LAYER_SLOPES, applies=_is("sigmoid", "tanh", "softplus")),
    )


MLP_ROWS, MLP_COLUMNS = _of_layers(_mlp_rows), _of_layers(_mlp_columns)
FIVE_LAYER_SCORES = (family("gradient", _mlp_columns, *_LAYERS, *_LAYER_MASKS),)
_LAYER_3: tuple = (
    (WRONG_MASK, "dZ³ with the mask of layer 2", {"slope": lambda f, Zs, As, l: f(Zs[1 if l == 2 else l])}),
)
FIVE_LAYER = (
    family(
        "gradient",
        _five_layer,
        *ERRORS,
        *_LAYERS,
        *_LAYER_MASKS,
        *_LAYER_3,
        applies=lambda inputs: "learning_rate" not in inputs,
        reaches={
            "slope": "params X Z1 Z2 Z3 Z4 A1 A2 A3",
            "dW": "params W1 W2 W3 W4 W5",
            "db": "params b1 b2 b3 b4 b5",
        },
    ),
)


def _network(dL, params, x, y, activation, *, last=lambda f, z, y_hat: f(z), slope=None):
    f, slopes = VALUES[activation], SLOPES[activation]
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


NETWORK_SQUARED_LOSS = (
    family(
        "gradient",
        _network,
        (SLOPE, "the last delta without f′", {"last": lambda f, z, y_hat: 1.0}),
        (SLOPE, "the deltas without f′", {"slope": lambda f, z, a: 1.0}),
        (SLOPE, "f′(a) for f′(z)", {"slope": lambda f, z, a: f(a)}),
        applies=_is("sigmoid", "tanh", "softplus"),
    ),
    family(
        "gradient",
        _network,
        (NO_MASK, "the last delta not masked", {"last": lambda f, z, y_hat: 1.0}),
        (NO_MASK, "the deltas not masked", {"slope": lambda f, z, a: 1.0}),
        (MASK_GE, "where z ≥ 0", {"slope": lambda f, z, a: jnp.where(z >= 0, 1.0, 0.0)}),
        applies=_is("relu"),
    ),
)


def _flatten(dX, images, *, back=lambda dX, shape: dX.T.reshape(shape)):
    return back(dX, images.shape)


FLATTEN_COLUMNS = (
    family(
        "gradient",
        _flatten,
        (TRANSPOSED, "dX reshaped without a transpose", {"back": lambda dX, shape: dX.reshape(shape)}),
        (
            TRANSPOSED,
            "columns of pixels before rows",
            {"back": lambda dX, shape: dX.T.reshape(shape[0], shape[2], shape[1]).swapaxes(1, 2)},
        ),
    ),
)
