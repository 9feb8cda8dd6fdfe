"""Two-layer ReLU networks, and each loss as a function of every intermediate value.

d inputs, m hidden units, c classes, n samples. `…_of_z` starts at z and runs to the loss, so the derivative
that the lecture calls ∂J/∂z is autodiff's derivative of that function.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from manual_grad_reference.activations import relu
from manual_grad_reference.softmax import cross_entropy_of_scores, softmax, softmax_columns

# ---------------------------------------------------------------- one sample, squared loss


def hidden(
    W1: Float[Array, "m d"], b1: Float[Array, " m"], x: Float[Array, " d"]
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """[B-02] z = W¹ x + b¹, a = ReLU(z); returns (z, a)."""
    z = W1 @ x + b1  # [B-02]
    return z, relu(z)  # [B-02]


def squared_loss_of_o(o: Float[Array, " 1"], y: Float[Array, ""]) -> Float[Array, ""]:
    """[B-02] [B-04] J = ½ (y − o)²: o (1,), y a scalar."""
    return (y - o[0]) ** 2 / 2  # [B-02]


def squared_loss_of_a(
    a: Float[Array, " m"], W2: Float[Array, "1 m"], b2: Float[Array, " 1"], y: Float[Array, ""]
) -> Float[Array, ""]:
    """[B-03] [B-05] J with o = W² a + b²."""
    return squared_loss_of_o(W2 @ a + b2, y)  # [B-02]


def squared_loss_of_z(
    z: Float[Array, " m"], W2: Float[Array, "1 m"], b2: Float[Array, " 1"], y: Float[Array, ""]
) -> Float[Array, ""]:
    """[B-06] J with a = ReLU(z)."""
    return squared_loss_of_a(relu(z), W2, b2, y)  # [B-02]


def two_layer_squared_loss(
    W1: Float[Array, "m d"],
    b1: Float[Array, " m"],
    W2: Float[Array, "1 m"],
    b2: Float[Array, " 1"],
    x: Float[Array, " d"],
    y: Float[Array, ""],
) -> Float[Array, ""]:
    """[B-02] [B-07] [B-08] J = ½ (y − (W² ReLU(W¹ x + b¹) + b²))²: scalar."""
    z, _ = hidden(W1, b1, x)
    return squared_loss_of_z(z, W2, b2, y)  # [B-02]


# ---------------------------------------------------------------- one sample, cross-entropy


def scores(
    W1: Float[Array, "m d"],
    b1: Float[Array, " m"],
    W2: Float[Array, "c m"],
    b2: Float[Array, " c"],
    x: Float[Array, " d"],
) -> Float[Array, " c"]:
    """[B-09] s = W² a + b² with a = ReLU(W¹ x + b¹): (c,)."""
    _, a = hidden(W1, b1, x)
    return W2 @ a + b2  # [B-09]


def cross_entropy_of_s(s: Float[Array, " c"], y: Int[Array, ""]) -> Float[Array, ""]:
    """[B-09] [B-10] J = −log(e^{s_y} / Σ_j e^{s_j}): scalar."""
    return cross_entropy_of_scores(s, y)  # [B-09]


def cross_entropy_of_a(
    a: Float[Array, " m"], W2: Float[Array, "c m"], b2: Float[Array, " c"], y: Int[Array, ""]
) -> Float[Array, ""]:
    """[B-11] J with s = W² a + b²."""
    return cross_entropy_of_s(W2 @ a + b2, y)  # [B-09]


def cross_entropy_of_z(
    z: Float[Array, " m"], W2: Float[Array, "c m"], b2: Float[Array, " c"], y: Int[Array, ""]
) -> Float[Array, ""]:
    """[B-12] J with a = ReLU(z)."""
    return cross_entropy_of_a(relu(z), W2, b2, y)  # [B-09]


def two_layer_cross_entropy(
    W1: Float[Array, "m d"],
    b1: Float[Array, " m"],
    W2: Float[Array, "c m"],
    b2: Float[Array, " c"],
    x: Float[Array, " d"],
    y: Int[Array, ""],
) -> Float[Array, ""]:
    """[B-09] [B-12] J = −log(e^{s_y} / Σ_j e^{s_j}), s = W² ReLU(W¹ x + b¹) + b²: scalar."""
    return cross_entropy_of_s(scores(W1, b1, W2, b2, x), y)  # [B-09]


# ---------------------------------------------------------------- a batch, one sample per column


def hidden_columns(
    W1: Float[Array, "m d"], b1: Float[Array, " m"], X: Float[Array, "d n"]
) -> tuple[Float[Array, "m n"], Float[Array, "m n"]]:
    """[B-13] Z = W¹ X + b¹ 1ₙᵀ, A = ReLU(Z); returns (Z, A)."""
    Z = W1 @ X + jnp.outer(b1, jnp.ones_like(X[0]))  # [B-13]
    return Z, relu(Z)  # [B-13]


def _scores_of_A_columns(A: Array, W2: Array, b2: Array) -> Array:
    return W2 @ A + jnp.outer(b2, jnp.ones_like(A[0]))  # [B-13]


def scores_columns(
    W1: Float[Array, "m d"],
    b1: Float[Array, " m"],
    W2: Float[Array, "c m"],
    b2: Float[Array, " c"],
    X: Float[Array, "d n"],
) -> Float[Array, "c n"]:
    """[B-13] S = W² A + b² 1ₙᵀ: (c, n)."""
    _, A = hidden_columns(W1, b1, X)
    return _scores_of_A_columns(A, W2, b2)


def cross_entropy_of_S_columns(S: Float[Array, "c n"], y: Int[Array, " n"]) -> Float[Array, ""]:
    """[B-13] [B-14] J = −(1/n) Σ_i log p_{y_i}, p the softmax of each column: scalar."""
    n = S.shape[1]
    return -jnp.sum(jnp.log(softmax_columns(S)[y, jnp.arange(n)])) / n  # [B-13]


def cross_entropy_of_A_columns(
    A: Float[Array, "m n"], W2: Float[Array, "c m"], b2: Float[Array, " c"], y: Int[Array, " n"]
) -> Float[Array, ""]:
    """[B-15] J with S = W² A + b² 1ₙᵀ."""
    return cross_entropy_of_S_columns(_scores_of_A_columns(A, W2, b2), y)  # [B-13]


def cross_entropy_of_Z_columns(
    Z: Float[Array, "m n"], W2: Float[Array, "c m"], b2: Float[Array, " c"], y: Int[Array, " n"]
) -> Float[Array, ""]:
    """[B-15] J with A = ReLU(Z)."""
    return cross_entropy_of_A_columns(relu(Z), W2, b2, y)  # [B-13]


def two_layer_cross_entropy_columns(
    W1: Float[Array, "m d"],
    b1: Float[Array, " m"],
    W2: Float[Array, "c m"],
    b2: Float[Array, " c"],
    X: Float[Array, "d n"],
    y: Int[Array, " n"],
) -> Float[Array, ""]:
    """[B-13] [B-15] The mean cross-entropy of the columns of X: scalar."""
    return cross_entropy_of_S_columns(scores_columns(W1, b1, W2, b2, X), y)  # [B-13]


# ---------------------------------------------------------------- a batch, one sample per row


def hidden_rows(
    W1: Float[Array, "d m"], b1: Float[Array, " m"], X: Float[Array, "n d"]
) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    """[B-16] Z = X W¹ + 1 b¹, A = ReLU(Z); returns (Z, A)."""
    Z = X @ W1 + jnp.outer(jnp.ones_like(X[:, 0]), b1)  # [B-16]
    return Z, relu(Z)  # [B-16]


def _scores_of_A_rows(A: Array, W2: Array, b2: Array) -> Array:
    return A @ W2 + jnp.outer(jnp.ones_like(A[:, 0]), b2)  # [B-16]


def scores_rows(
    W1: Float[Array, "d m"],
    b1: Float[Array, " m"],
    W2: Float[Array, "m c"],
    b2: Float[Array, " c"],
    X: Float[Array, "n d"],
) -> Float[Array, "n c"]:
    """[B-16] S = A W² + 1 b²: (n, c)."""
    _, A = hidden_rows(W1, b1, X)
    return _scores_of_A_rows(A, W2, b2)


def cross_entropy_of_S_rows(S: Float[Array, "n c"], y: Int[Array, " n"]) -> Float[Array, ""]:
    """[B-16] J = −(1/n) Σ_i log p_{y_i}, p the softmax of each row: scalar."""
    n = S.shape[0]
    return -jnp.sum(jnp.log(softmax(S)[jnp.arange(n), y])) / n  # [B-16]


def cross_entropy_of_A_rows(
    A: Float[Array, "n m"], W2: Float[Array, "m c"], b2: Float[Array, " c"], y: Int[Array, " n"]
) -> Float[Array, ""]:
    """[B-16] J with S = A W² + 1 b²."""
    return cross_entropy_of_S_rows(_scores_of_A_rows(A, W2, b2), y)  # [B-16]


def cross_entropy_of_Z_rows(
    Z: Float[Array, "n m"], W2: Float[Array, "m c"], b2: Float[Array, " c"], y: Int[Array, " n"]
) -> Float[Array, ""]:
    """[B-16] J with A = ReLU(Z)."""
    return cross_entropy_of_A_rows(relu(Z), W2, b2, y)  # [B-16]


def two_layer_cross_entropy_rows(
    W1: Float[Array, "d m"],
    b1: Float[Array, " m"],
    W2: Float[Array, "m c"],
    b2: Float[Array, " c"],
    X: Float[Array, "n d"],
    y: Int[Array, " n"],
) -> Float[Array, ""]:
    """[B-16] The mean cross-entropy of the rows of X: scalar."""
    return cross_entropy_of_S_rows(scores_rows(W1, b1, W2, b2, X), y)  # [B-16]
