"""Networks of any depth: the delta recursion, in rows and in columns, and lecture D's five layers by name.

    Z_l = W_l A_{l−1} + b_l        A_l = f(Z_l)        δ_l = (W_{l+1}ᵀ δ_{l+1}) ⊙ f′(Z_l)

Lectures C and D. ``params`` is a sequence of pairs ``(W, b)``, first layer first; the gradients come back in
the same containers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from manual_grad.border import (
    FLOATS,
    FLOATS_TEXT,
    LONG,
    InputError,
    Scalar,
    checked,
    describe,
    is_float_array,
    require,
    require_shape,
)
from manual_grad.formulas.activations import activation_pair, relu_bwd, relu_fwd
from manual_grad.formulas.dense import dense_columns_bwd, dense_columns_fwd, dense_rows_bwd, dense_rows_fwd
from manual_grad.formulas.softmax import (
    one_hot,
    softmax_cross_entropy_columns_bwd,
    softmax_cross_entropy_columns_fwd,
)

Params = Any  # a sequence of pairs (W, b); _check_params rejects anything else


@partial(
    jax.tree_util.register_dataclass, data_fields=("params", "As", "Zs"), meta_fields=("activation", "rows")
)
@dataclass(frozen=True)
class MLPResiduals:
    """What the backward pass needs: parameters, each layer's input A, hidden Z, f's name, the layout."""

    params: Any
    As: tuple[Float[Array, "_ _"], ...]
    Zs: tuple[Float[Array, "_ _"], ...]
    activation: str
    rows: bool


def _check_params(formula: str, params: Params, width: int, rows: bool, name: str = "params") -> None:
    """Each layer is a pair (W, b) whose width matches the layer before it; ``width`` is that of the input."""
    require(
        isinstance(params, Sequence) and len(params) > 0,
        f"{formula}: {name} is {describe(params)}, expected at least one pair (W, b) in a list or tuple",
    )
    pair = "(float[d,m], float[m])" if rows else "(float[m,d], float[m])"
    for i, layer in enumerate(params):
        require(
            isinstance(layer, Sequence)
            and len(layer) == 2
            and is_float_array(layer[0], 2)
            and is_float_array(layer[1], 1),
            f"{formula}: {name}[{i}] is {describe(layer)}, expected a pair (W, b), {pair}",
        )
        W, b = layer
        fan_in, fan_out = W.shape if rows else W.shape[::-1]
        require(
            fan_in == width,
            f"{formula}: {name}[{i}][0] is {describe(W)}, expected W to take the {width} features before it",
        )
        require(
            b.shape == (fan_out,),
            f"{formula}: {name}[{i}][1] is {describe(b)}, expected float[{fan_out}] to match W",
        )
        width = fan_out


def _check_residuals(formula: str, res: MLPResiduals, rows: bool) -> None:
    """Check residuals of this layout's forward pass: every A and Z has the width that ``params`` imply."""
    made, wanted = (f"mlp_{'rows' if layout else 'columns'}_fwd" for layout in (res.rows, rows))
    require(res.rows == rows, f"{formula}: res is from {made}, expected that of {wanted}")
    found = f"{formula}: res holds {len(res.As)} As and {len(res.Zs)} Zs"
    require(len(res.As) == len(res.Zs) + 1, f"{found}, expected one fewer Z")
    N, width = res.As[0].shape if rows else res.As[0].shape[::-1]
    _check_params(formula, res.params, width, rows, "res.params")
    layers = len(res.params)
    require(len(res.As) == layers, f"{found}, expected an A for each of the {layers} layers")
    for l, (A, Z, (_, b)) in enumerate(zip(res.As[1:], res.Zs, res.params[:-1], strict=True)):
        shape = (N, len(b)) if rows else (len(b), N)
        require_shape(formula, f"res.As[{l + 1}]", A, shape)
        require_shape(formula, f"res.Zs[{l}]", Z, shape)


@checked
def mlp_rows_fwd(
    params: Params, X: Float[Array, "N d"], *, activation: str = "relu"
) -> tuple[Float[Array, "N m"], MLPResiduals]:
    """Z_l = A_{l−1} W_l + b_l, A_l = f(Z_l), one sample per row; the last layer is linear. [D-02]

    Args:
        params: (W (d, m), b (m,)) for each layer.
        X: (N, d).
        activation: ``relu``, ``sigmoid``, ``tanh``, ``softplus`` or ``identity``, of the hidden layers.
    Returns:
        ``(Z_L, res)``: Z_L (N, width of the last layer).
    Raises:
        InputError: the layers' widths do not match, the activation is unknown, a shape or dtype is
            wrong.
    Source: Lecture D, transposed; Lecture B, page 7.

    >>> layer = (jnp.array([[2.0]]), jnp.array([-1.0]))
    >>> mlp_rows_fwd([layer, layer], jnp.array([[3.0], [-3.0]]))[0].tolist()
    [[9.0], [-1.0]]
    """
    _check_params("mlp_rows_fwd", params, X.shape[1], rows=True)
    return _mlp_fwd("mlp_rows_fwd", params, X, activation, rows=True)


@checked
def mlp_rows_bwd(res: MLPResiduals, dZ: Float[Array, "N m"]) -> tuple[Params, Float[Array, "N d"]]:
    """Pull ``dZ`` back through the layers, last first. [C-05] [D-10]

        δ_l = (δ_{l+1} W_{l+1}ᵀ) ⊙ f′(Z_l)        dW_l = A_{l−1}ᵀ δ_l        db_l = 1ᵀ δ_l

    Args:
        res: from the forward pass.
        dZ: cotangent of Z_L, (N, width of the last layer).
    Returns:
        ``(dparams, dX)``: dparams structured like ``params``.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dZ`` has the wrong shape or dtype.
    Source: Lecture C, page 2; Lecture D, "Back propagation", transposed.

    >>> layer = (jnp.array([[2.0]]), jnp.array([-1.0]))
    >>> _, res = mlp_rows_fwd([layer, layer], jnp.array([[3.0]]))
    >>> dparams, dX = mlp_rows_bwd(res, jnp.array([[1.0]]))
    >>> dX.tolist()
    [[4.0]]
    """
    _check_residuals("mlp_rows_bwd", res, rows=True)
    require_shape("mlp_rows_bwd", "dZ", dZ, (len(res.As[0]), len(res.params[-1][1])))
    return _mlp_bwd(res, dZ)


@checked
def mlp_columns_fwd(
    params: Params, X: Float[Array, "d N"], *, activation: str = "relu"
) -> tuple[Float[Array, "m N"], MLPResiduals]:
    """Z_l = W_l A_{l−1} + b_l, A_l = f(Z_l), one sample per column; the last layer is linear. [D-02]

    Args:
        params: (W (m, d), b (m,)) for each layer.
        X: (d, N).
        activation: ``relu``, ``sigmoid``, ``tanh``, ``softplus`` or ``identity``, of the hidden layers.
    Returns:
        ``(Z_L, res)``: Z_L (width of the last layer, N).
    Raises:
        InputError: the layers' widths do not match, the activation is unknown, a shape or dtype is
            wrong.
    Source: Lecture D, "input layer".

    >>> layer = (jnp.array([[2.0]]), jnp.array([-1.0]))
    >>> mlp_columns_fwd([layer, layer], jnp.array([[3.0, -3.0]]))[0].tolist()
    [[9.0, -1.0]]
    """
    _check_params("mlp_columns_fwd", params, X.shape[0], rows=False)
    return _mlp_fwd("mlp_columns_fwd", params, X, activation, rows=False)


@checked
def mlp_columns_bwd(res: MLPResiduals, dZ: Float[Array, "m N"]) -> tuple[Params, Float[Array, "d N"]]:
    """Pull ``dZ`` back through the layers, last first. [C-05] [C-06] [D-10]

        δ_l = (W_{l+1}ᵀ δ_{l+1}) ⊙ f′(Z_l)        dW_l = δ_l A_{l−1}ᵀ        db_l = δ_l 1

    Args:
        res: from the forward pass.
        dZ: cotangent of Z_L, (width of the last layer, N).
    Returns:
        ``(dparams, dX)``: dparams structured like ``params``.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dZ`` has the wrong shape or dtype.
    Source: Lecture C, page 2; Lecture D, "Back propagation".

    >>> layer = (jnp.array([[2.0]]), jnp.array([-1.0]))
    >>> _, res = mlp_columns_fwd([layer, layer], jnp.array([[3.0]]))
    >>> dparams, dX = mlp_columns_bwd(res, jnp.array([[1.0]]))
    >>> dX.tolist()
    [[4.0]]
    """
    _check_residuals("mlp_columns_bwd", res, rows=False)
    require_shape("mlp_columns_bwd", "dZ", dZ, (len(res.params[-1][1]), res.As[0].shape[1]))
    return _mlp_bwd(res, dZ)


def _mlp_fwd(
    formula: str, params: Params, X: Array, activation: str, rows: bool
) -> tuple[Array, MLPResiduals]:
    """The forward pass in both layouts: only the dense layer differs."""
    dense_fwd = dense_rows_fwd if rows else dense_columns_fwd
    f_fwd, _ = activation_pair(formula, activation)
    A, As, Zs = X, [X], []
    for W, b in params[:-1]:
        Zs.append(dense_fwd(A, W, b)[0])  # [D-02]
        A, _ = f_fwd(Zs[-1])  # [D-02]
        As.append(A)
    Z, _ = dense_fwd(A, *params[-1])  # [D-02]
    return Z, MLPResiduals(params, tuple(As), tuple(Zs), activation, rows)


def _mlp_bwd(res: MLPResiduals, delta: Array) -> tuple[Params, Array]:
    """``(dparams, dX)`` in both layouts: only the dense layer differs."""
    dense_bwd = dense_rows_bwd if res.rows else dense_columns_bwd
    dlayers = []
    for l in reversed(range(len(res.params))):
        dA, dW, db = dense_bwd((res.As[l], res.params[l][0]), delta)  # [C-06] [D-10]
        dlayers.append((dW, db))
        if l > 0:
            (delta,) = activation_pair("mlp_bwd", res.activation)[1](res.Zs[l - 1], dA)  # [C-05] [D-10]
    return _like_params(res.params, dlayers[::-1]), dA


def _like_params(params: Params, dlayers: Sequence[tuple[Array, Array]]) -> Any:
    """The gradients of the layers, in the same containers as ``params``."""
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(list(dlayers)))


@checked
def network_squared_loss_fwd(
    params: Params, x: Float[Array, " d"], y: Float[Array, " m"], *, activation: str = "sigmoid"
) -> tuple[Float[Array, ""], tuple[MLPResiduals, Float[Array, " m"], Float[Array, " m"]]]:
    """z^{l+1} = w^l a^l + b^l, a = f(z) in every layer, ŷ = a^L, L = ½ Σ_i (ŷ_i − y_i)². [C-02] [C-03]

    Args:
        params: (w (out, in), b (out,)) for each layer.
        x: one sample, (d,).
        y: its target, (m,).
        activation: ``relu``, ``sigmoid``, ``tanh``, ``softplus`` or ``identity``.
    Returns:
        ``(L, res)``: L scalar.
    Raises:
        InputError: the layers' widths do not match, the activation is unknown, a shape or dtype is
            wrong.
    Source: Lecture C, page 1.

    >>> layer = (jnp.array([[2.0]]), jnp.array([-1.0]))
    >>> float(network_squared_loss_fwd([layer], jnp.array([3.0]), jnp.array([1.0]), activation="relu")[0])
    8.0
    """
    _check_params("network_squared_loss_fwd", params, len(x), rows=False)
    f_fwd, _ = activation_pair("network_squared_loss_fwd", activation)
    z, res = mlp_columns_fwd(params, x[:, None], activation=activation)  # [C-02]
    y_hat = f_fwd(z[:, 0])[0]  # [C-02]
    require(
        y.shape == y_hat.shape, f"network_squared_loss_fwd: y is {describe(y)}, expected {describe(y_hat)}"
    )
    L = ((y_hat - y) ** 2).sum() / 2  # [C-03]
    return L, (res, z[:, 0], y_hat - y)


@checked
def network_squared_loss_deltas(
    res: tuple[MLPResiduals, Float[Array, " m"], Float[Array, " m"]], dL: Scalar
) -> list[Array]:
    """δ^l = ∂L/∂z^l of every layer, first layer first. [C-04] [C-05]

        δ^L = (ŷ − y) ⊙ f′(z^L)        δ^l_i = Σ_j δ^{l+1}_j w_ji f′(z^l_i)

    Args:
        res: from the forward pass.
        dL: cotangent of the loss.
    Returns:
        One vector per layer, of that layer's width.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dL`` is not a scalar.
    Source: Lecture C, page 2.

    >>> layer = (jnp.array([[2.0]]), jnp.array([-1.0]))
    >>> x, y = jnp.array([3.0]), jnp.array([1.0])
    >>> _, res = network_squared_loss_fwd([layer, layer], x, y, activation="relu")
    >>> [d.tolist() for d in network_squared_loss_deltas(res, 1.0)]
    [[16.0], [8.0]]
    """
    layers, z, error = res
    _check_residuals("network_squared_loss_deltas", layers, rows=False)
    for name, array, shape in (
        ("x", layers.As[0], (len(layers.As[0]), 1)),
        ("z", z, layers.params[-1][1].shape),
    ):
        require_shape("network_squared_loss_deltas", name, array, shape)
    f_bwd = activation_pair("network_squared_loss_deltas", layers.activation)[1]
    (delta,) = f_bwd(z, dL * error)  # [C-04]
    deltas = [delta]
    for l in reversed(range(1, len(layers.params))):
        W, _ = layers.params[l]
        deltas.append(f_bwd(layers.Zs[l - 1][:, 0], deltas[-1] @ W)[0])  # [C-05]
    return deltas[::-1]


@checked
def network_squared_loss_bwd(
    res: tuple[MLPResiduals, Float[Array, " m"], Float[Array, " m"]], dL: Scalar
) -> tuple[Params, Float[Array, " d"], Float[Array, " m"]]:
    """Pull ``dL`` back through lecture C's network. [C-06]

        ∂L/∂w^l_ij = δ^{l+1}_i a^l_j        ∂L/∂b^l_i = δ^{l+1}_i

    Args:
        res: from the forward pass.
        dL: cotangent of the loss.
    Returns:
        ``(dparams, dx, dy)``: dparams structured like ``params``.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dL`` is not a scalar.
    Source: Lecture C, page 2.

    >>> layer = (jnp.array([[2.0]]), jnp.array([-1.0]))
    >>> _, res = network_squared_loss_fwd([layer], jnp.array([3.0]), jnp.array([1.0]), activation="relu")
    >>> network_squared_loss_bwd(res, 1.0)[0][0][0].tolist()
    [[12.0]]
    """
    layers, _, error = res
    deltas = network_squared_loss_deltas(res, dL)
    dlayers = [(jnp.outer(d, A[:, 0]), d) for d, A in zip(deltas, layers.As, strict=True)]  # [C-06]
    dx = deltas[0] @ layers.params[0][0]
    return _like_params(layers.params, dlayers), dx, -dL * error


@checked
def flatten_columns_fwd(images: Float[Array, "N H W"]) -> tuple[Float[Array, "H*W N"], Float[Array, "N H W"]]:
    """X: each image becomes a column of H·W pixels. [D-01]

    Args:
        images: (N, H, W).
    Returns:
        ``(X, images)``: X (H·W, N).
    Raises:
        InputError: ``images`` is not a floating-point array of three axes.
    Source: Lecture D, page 1.

    >>> flatten_columns_fwd(jnp.array([[[1.0, 2.0], [3.0, 4.0]]]))[0].tolist()
    [[1.0], [2.0], [3.0], [4.0]]
    """
    N, H, W = images.shape
    return images.reshape(N, H * W).T, images  # [D-01]


@checked
def flatten_columns_bwd(
    res: Float[Array, "N H W"], dX: Float[Array, "H*W N"]
) -> tuple[Float[Array, "N H W"]]:
    """Pull ``dX`` back to the images: the same numbers, in their original positions. [D-01]

    Args:
        res: images, (N, H, W), for their shape.
        dX: cotangent, (H·W, N).
    Returns:
        ``(dimages,)``, (N, H, W).
    Raises:
        InputError: ``dX`` does not have the shape (H·W, N), or a dtype is wrong.
    Source: Lecture D, page 1.

    >>> flatten_columns_bwd(jnp.ones((1, 2, 2)), jnp.array([[1.0], [2.0], [3.0], [4.0]]))[0].tolist()
    [[[1.0, 2.0], [3.0, 4.0]]]
    """
    return (dX.T.reshape(res.shape),)  # [D-01]


@checked
def one_hot_columns(labels: Integer[Array, " N"], K: int, dtype: Any = None) -> Float[Array, "K N"]:
    """Y: each label becomes a column with a 1 in its row; NaN if it is not a class. [D-01]

    Args:
        labels: (N,), integers from 0 to K − 1.
        K: the number of classes.
        dtype: floating-point dtype, by default JAX's.
    Returns:
        (K, N).
    Raises:
        InputError: ``labels`` are not integers.
    Source: Lecture D, page 1: y-train of shape 10 × 60000.

    >>> one_hot_columns(jnp.array([1, 0]), 2).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    return one_hot(labels, K, dtype).T  # [D-01]


FiveLayerRes = tuple[  # params, (X, A1, A2, A3, A4), (Z1, Z2, Z3, Z4), the loss's
    Any,
    tuple[
        Float[Array, "d N"],
        Float[Array, "m1 N"],
        Float[Array, "m2 N"],
        Float[Array, "m3 N"],
        Float[Array, "m4 N"],
    ],
    tuple[Float[Array, "m1 N"], Float[Array, "m2 N"], Float[Array, "m3 N"], Float[Array, "m4 N"]],
    tuple[Float[Array, "K N"], Float[Array, "K N"], Float[Array, "K N"]],
]


@checked
def five_layer_fwd(
    params: Params, X: Float[Array, "d N"], Y: Float[Array, "K N"]
) -> tuple[Float[Array, ""], FiveLayerRes]:
    """Lecture D's network, written out: ReLU in layers 1 to 4, softmax, L = −(1/m) Σ y ln A₅. [D-02] … [D-04]

    Args:
        params: five pairs (W (out, in), b (out,)); the lecture's widths are 784-128-50-50-25-10.
        X: images, one per column, (d, m).
        Y: labels, one per column, (K, m).
    Returns:
        ``(L, res)``: L scalar.
    Raises:
        InputError: there are not five layers, or a width, shape or dtype does not match.
    Source: Lecture D, "input layer" and the page after it.

    >>> layer = (jnp.eye(2), jnp.zeros(2))
    >>> float(five_layer_fwd([layer] * 5, jnp.array([[1e4], [0.0]]), jnp.array([[0.0], [1.0]]))[0])
    10000.0
    """
    _check_params("five_layer_fwd", params, X.shape[0], rows=False)
    require(len(params) == 5, f"five_layer_fwd: params has {len(params)} layers, expected five pairs (W, b)")
    (W1, b1), (W2, b2), (W3, b3), (W4, b4), (W5, b5) = params
    require(len(b5) == len(Y), f"five_layer_fwd: Y is {describe(Y)}, expected float[{len(b5)},N]")
    Z1, _ = dense_columns_fwd(X, W1, b1)  # [D-02]
    A1, _ = relu_fwd(Z1)  # [D-02]
    Z2, _ = dense_columns_fwd(A1, W2, b2)  # [D-02]
    A2, _ = relu_fwd(Z2)  # [D-02]
    Z3, _ = dense_columns_fwd(A2, W3, b3)  # [D-02]
    A3, _ = relu_fwd(Z3)  # [D-02]
    Z4, _ = dense_columns_fwd(A3, W4, b4)  # [D-02]
    A4, _ = relu_fwd(Z4)  # [D-02]
    Z5, _ = dense_columns_fwd(A4, W5, b5)  # [D-02]
    L, loss_res = softmax_cross_entropy_columns_fwd(Z5, Y)  # [D-03] [D-04]
    return L, (params, (X, A1, A2, A3, A4), (Z1, Z2, Z3, Z4), loss_res)


@checked
def five_layer_grads(res: FiveLayerRes, dL: Scalar) -> dict[str, Array]:
    """Lecture D's steps ① to ⑤, every array under its name there. [D-06] [D-07] [D-08] [D-10]

        dZ5 = (A5 − Y)/m      dW_l = dZ_l A_{l−1}ᵀ      db_l = dZ_l 1      dZ_{l−1} = relu_back(W_lᵀ dZ_l)

    Args:
        res: from the forward pass.
        dL: cotangent of the loss.
    Returns:
        By name: ``dZ5`` … ``dZ1``, ``dA4`` … ``dA1``, ``dW5`` … ``dW1``, ``db5`` … ``db1``, ``dX``, ``dY``.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dL`` is not a scalar.
    Source: Lecture D, "Back propagation", with its errata D-E4 to D-E8 corrected.

    >>> layer = (jnp.eye(2), jnp.zeros(2))
    >>> _, res = five_layer_fwd([layer] * 5, jnp.ones((2, 1)), jnp.array([[1.0], [0.0]]))
    >>> five_layer_grads(res, 1.0)["dZ1"].tolist()
    [[-0.5], [0.5]]
    """
    _check_params("five_layer_grads", res[0], len(res[1][0]), rows=False)
    require(len(res[0]) == 5, f"five_layer_grads: res has {len(res[0])} layers, expected five pairs (W, b)")
    ((W1, _), (W2, _), (W3, _), (W4, _), (W5, _)), (X, A1, A2, A3, A4), (Z1, Z2, Z3, Z4), loss_res = res
    dZ5, dY = softmax_cross_entropy_columns_bwd(loss_res, dL)  # [D-06]
    dA4, dW5, db5 = dense_columns_bwd((A4, W5), dZ5)  # step ① [D-07] [D-08]
    (dZ4,) = relu_bwd(Z4, dA4)  # step ② [D-10]
    dA3, dW4, db4 = dense_columns_bwd((A3, W4), dZ4)  # [D-10]
    (dZ3,) = relu_bwd(Z3, dA3)  # step ③ [D-10]
    dA2, dW3, db3 = dense_columns_bwd((A2, W3), dZ3)  # [D-10]
    (dZ2,) = relu_bwd(Z2, dA2)  # step ④ [D-10]
    dA1, dW2, db2 = dense_columns_bwd((A1, W2), dZ2)  # [D-10]
    (dZ1,) = relu_bwd(Z1, dA1)  # step ⑤ [D-10]
    dX, dW1, db1 = dense_columns_bwd((X, W1), dZ1)  # [D-10]
    return {
        "dZ5": dZ5, "dW5": dW5, "db5": db5, "dA4": dA4,
        "dZ4": dZ4, "dW4": dW4, "db4": db4, "dA3": dA3,
        "dZ3": dZ3, "dW3": dW3, "db3": db3, "dA2": dA2,
        "dZ2": dZ2, "dW2": dW2, "db2": db2, "dA1": dA1,
        "dZ1": dZ1, "dW1": dW1, "db1": db1, "dX": dX, "dY": dY,
    }  # fmt: skip


@checked
def five_layer_bwd(res: FiveLayerRes, dL: Scalar) -> tuple[Params, Float[Array, "d N"], Float[Array, "K N"]]:
    """Pull ``dL`` back through lecture D's network. [D-10]

    Args:
        res: from the forward pass.
        dL: cotangent of the loss.
    Returns:
        ``(dparams, dX, dY)``: dparams structured like ``params``.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dL`` is not a scalar.
    Source: Lecture D, "Back propagation".

    >>> layer = (jnp.eye(2), jnp.zeros(2))
    >>> _, res = five_layer_fwd([layer] * 5, jnp.ones((2, 1)), jnp.array([[1.0], [0.0]]))
    >>> five_layer_bwd(res, 1.0)[0][0][1].tolist()
    [-0.5, 0.5]
    """
    g = five_layer_grads(res, dL)
    dlayers = [(g[f"dW{l}"], g[f"db{l}"]) for l in range(1, 6)]
    return _like_params(res[0], dlayers), g["dX"], g["dY"]


def _is_float(value: Any) -> bool:
    array = isinstance(value, jax.Array | np.ndarray | np.generic) and not isinstance(
        value, np.ma.MaskedArray
    )
    return array and value.dtype.name in FLOATS and value.dtype.isnative


def _is_number(value: Any) -> bool:
    """Whether a learning rate is a real number that a float can hold."""
    if isinstance(value, int):
        return abs(value) < 2**1023
    array = isinstance(value, jax.Array | np.ndarray | np.generic) and value.ndim == 0
    return isinstance(value, float) or (array and (value.dtype.name in FLOATS or value.dtype.kind in "iu"))


def _structure(name: str, tree: Any) -> str:
    try:
        return str(jax.tree.structure(tree))
    except (TypeError, ValueError, RecursionError):  # keys that cannot be sorted; lists in lists
        raise InputError(
            f"gradient_descent: {name} is {describe(tree)}, expected a pytree of arrays"
        ) from None


def gradient_descent(params: Any, dparams: Any, learning_rate: float) -> Any:
    """W_l ← W_l − α ∂L/∂W_l, b_l ← b_l − α ∂L/∂b_l. [D-11]

    Args:
        params: any pytree of arrays.
        dparams: its gradient, with the same structure.
        learning_rate: α.
    Returns:
        The updated parameters, with the same structure; ``params`` is not modified.
    Raises:
        InputError: the two differ in structure or in the shape of an array, or a leaf is not a floating-point
            array.
    Source: Lecture D, page 2; on the full batch or on mini-batches, depending on dparams.

    >>> gradient_descent([jnp.array([1.0, 2.0])], [jnp.array([4.0, 8.0])], 0.25)[0].tolist()
    [0.0, 0.0]
    """
    built, dbuilt = _structure("params", params), _structure("dparams", dparams)
    require(
        built == dbuilt,
        f"gradient_descent: dparams has the structure {dbuilt[:LONG]}, expected {built[:LONG]}",
    )
    require(
        _is_number(learning_rate),
        f"gradient_descent: learning_rate is {describe(learning_rate)}, expected a number",
    )
    for p, dp in zip(jax.tree.leaves(params), jax.tree.leaves(dparams), strict=True):
        for name, leaf in (("params", p), ("dparams", dp)):
            found = f"gradient_descent: {name} holds {describe(leaf)}"
            require(_is_float(leaf), f"{found}, expected arrays of {FLOATS_TEXT}")
        require(
            jnp.shape(p) == jnp.shape(dp),
            f"gradient_descent: dparams holds {describe(dp)}, expected the shape of {describe(p)}",
        )
    rate = float(learning_rate) if isinstance(learning_rate, int) else learning_rate
    return jax.tree.map(lambda p, dp: (p - rate * dp).astype(jnp.result_type(p)), params, dparams)  # [D-11]
