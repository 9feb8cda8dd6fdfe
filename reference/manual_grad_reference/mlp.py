"""Networks of any depth, lecture C's small network, and lecture D's five layers."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from manual_grad_reference.activations import ACTIVATIONS, relu
from manual_grad_reference.dense import dense_columns, dense_rows, dense_vector
from manual_grad_reference.softmax import cross_entropy_columns, softmax_columns

Layers = Sequence[tuple[Float[Array, "_ _"], Float[Array, " _"]]]  # (W, b) of each layer, in order


def mlp_rows(params: Layers, X: Float[Array, "N d"], activation: str = "relu") -> Float[Array, "N m"]:
    """[B-16] [C-02] Z_l = A_{l−1} W_l + 1 b_l, A_l = f(Z_l), A_0 = X, W_l (in, out); returns Z_L, linear."""
    *before, last = params
    A = X
    for W, b in before:
        A = ACTIVATIONS[activation](dense_rows(A, W, b))  # [B-16] [C-02]
    return dense_rows(A, *last)


def mlp_columns(params: Layers, X: Float[Array, "d N"], activation: str = "relu") -> Float[Array, "m N"]:
    """[D-02] Z_l = W_l A_{l−1} + b_l 1ᵀ, A_l = f(Z_l), A_0 = X, W_l (out, in); returns Z_L, linear."""
    *before, last = params
    A = X
    for W, b in before:
        A = ACTIVATIONS[activation](dense_columns(A, W, b))  # [D-02]
    return dense_columns(A, *last)


# ---------------------------------------------------------------- lecture C, one sample


def network(
    params: Layers, x: Float[Array, " d"], activation: str = "sigmoid"
) -> tuple[list[Array], list[Array]]:
    """[C-02] z^{l+1}_i = Σ_j w^l_ij a^l_j + b^l_i, a = f(z), every layer activated, w (out, in).

    Returns (zs, activations): zs = [z², …, z^L] and activations = [a¹ = x, a², …, a^L = ŷ], one longer.
    """
    zs, activations = [], [x]
    for W, b in params:
        zs.append(dense_vector(activations[-1], W, b))  # [C-02]
        activations.append(ACTIVATIONS[activation](zs[-1]))  # [C-02]
    return zs, activations


def half_squared_error(y_hat: Float[Array, " k"], y: Float[Array, " k"]) -> Float[Array, ""]:
    """[C-03] L = ½ Σ_i (ŷ_i − y_i)²: scalar."""
    return jnp.sum((y_hat - y) ** 2) / 2  # [C-03]


def network_squared_loss(
    params: Layers, x: Float[Array, " d"], y: Float[Array, " k"], activation: str = "sigmoid"
) -> Float[Array, ""]:
    """[C-03] [C-06] L = ½ Σ_i (a^L_i − y_i)²: scalar."""
    _, activations = network(params, x, activation)
    return half_squared_error(activations[-1], y)  # [C-03]


def squared_loss_from_z(
    params_after: Layers, z: Float[Array, " m"], y: Float[Array, " k"], activation: str = "sigmoid"
) -> Float[Array, ""]:
    """[C-04] [C-05] L as a function of one layer's z; its gradient is that layer's delta.

    `params_after` are the layers after z: none for z^L.
    """
    return network_squared_loss(params_after, ACTIVATIONS[activation](z), y, activation)  # [C-04] [C-05]


# ---------------------------------------------------------------- lecture D, one sample per column


def flatten_columns(images: Float[Array, "N H W"]) -> Float[Array, "HW N"]:
    """[D-01] (N, H, W) → (N, H·W) → transposed, (H·W, N)."""
    return images.reshape(images.shape[0], -1).T  # [D-01]


def one_hot_columns(labels: Int[Array, " N"], K: int) -> Float[Array, "K N"]:
    """[D-01] Y_ki = 1 if k = label_i, else 0; (K, N) of the default float type."""
    return (jnp.arange(K)[:, None] == labels[None, :]).astype(float)  # [D-01]


def five_layer_scores(params: Layers, X: Float[Array, "d m"]) -> Float[Array, "K m"]:
    """[D-02] Z_l = W_l A_{l−1} + b_l, A_l = ReLU(Z_l) for l = 1…4, A_0 = X; returns Z_5."""
    (W1, b1), (W2, b2), (W3, b3), (W4, b4), (W5, b5) = params
    A1 = relu(W1 @ X + b1[:, None])  # [D-02]
    A2 = relu(W2 @ A1 + b2[:, None])  # [D-02]
    A3 = relu(W3 @ A2 + b3[:, None])  # [D-02]
    A4 = relu(W4 @ A3 + b4[:, None])  # [D-02]
    return W5 @ A4 + b5[:, None]  # [D-02]


def five_layer(params: Layers, X: Float[Array, "d m"], Y: Float[Array, "K m"]) -> Float[Array, ""]:
    """[D-02] [D-03] [D-04] L = −(1/m) Σ Y ln A_5, A_5 = softmax(Z_5) over the classes: scalar."""
    A5 = softmax_columns(five_layer_scores(params, X))  # [D-03]
    return cross_entropy_columns(A5, Y)  # [D-04]


def five_layer_from_z(
    params_after: Layers, Z: Float[Array, "k m"], Y: Float[Array, "K m"]
) -> Float[Array, ""]:
    """[D-06] [D-10] L as a function of Z_l, given layers l+1…5: A_5 = softmax(Z_5), else A_l = ReLU(Z_l)."""
    return five_layer_from_a(params_after, relu(Z) if params_after else softmax_columns(Z), Y)  # [D-10]


def five_layer_from_a(
    params_after: Layers, A: Float[Array, "k m"], Y: Float[Array, "K m"]
) -> Float[Array, ""]:
    """[D-04] [D-10] L as a function of A_l, given layers l+1…5; with none left, of the probabilities A_5."""
    if not params_after:
        return cross_entropy_columns(A, Y)  # [D-04]
    (W, b), *rest = params_after
    return five_layer_from_z(rest, W @ A + b[:, None], Y)  # [D-10]


def loss_of_layer_5(
    W5: Float[Array, "K k"], b5: Float[Array, "K"], A4: Float[Array, "k m"], Y: Float[Array, "K m"]
) -> Float[Array, ""]:
    """[D-07] [D-08] L as a function of the last layer's arrays."""
    return five_layer_from_a([(W5, b5)], A4, Y)


def loss_by_each(params: Layers, Y: Float[Array, "K m"], **hidden: Array) -> Float[Array, ""]:
    """[D-10] L as a function of Z_l alone and of A_l alone, added up: each has the gradient it has alone."""
    from_hidden = {"Z": five_layer_from_z, "A": five_layer_from_a}
    losses = [from_hidden[name[0]](params[int(name[1]) :], value, Y) for name, value in hidden.items()]
    return jnp.stack(losses).sum()


def gradient_descent(
    loss: Callable[[PyTree], Float[Array, ""]], params: PyTree, learning_rate: float
) -> PyTree:
    """[D-11] W − α ∂L/∂W for every leaf W of `params`: one step, the gradient by `jax.grad`."""
    return jax.tree.map(lambda W, dW: W - learning_rate * dW, params, jax.grad(loss)(params))  # [D-11]
