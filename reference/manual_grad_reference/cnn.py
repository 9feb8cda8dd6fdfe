"""Lecture A's network: Conv2D, Conv2D, Dense, Dense, softmax, cross-entropy."""

from jaxtyping import Array, Float

from manual_grad_reference.activations import relu
from manual_grad_reference.conv2d import conv2d
from manual_grad_reference.dense import dense_rows
from manual_grad_reference.softmax import softmax_cross_entropy


def features(params: dict[str, Array], X: Float[Array, "N n_H n_W l_I"]) -> Float[Array, "N hwl"]:
    """[A-11] X → Conv2D₁ → ReLU → A¹ → Conv2D₂ → ReLU → A² → flatten → A³; VALID, stride 1."""
    A1 = relu(conv2d(X, params["K1"], params["b1"]))
    A2 = relu(conv2d(A1, params["K2"], params["b2"]))
    return A2.reshape(A2.shape[0], -1)


def cnn_scores(params: dict[str, Array], X: Float[Array, "N n_H n_W l_I"]) -> Float[Array, "N l_5"]:
    """[A-11] X → … → A³ → Dense₄ → ReLU → A⁴ → Dense₅ → Z⁵. params: K1, b1, K2, b2, W4, b4, W5, b5."""
    A3 = features(params, X)
    A4 = relu(dense_rows(A3, params["W4"], params["b4"]))
    return dense_rows(A4, params["W5"], params["b5"])


def cnn(
    params: dict[str, Array], X: Float[Array, "N n_H n_W l_I"], labels: Float[Array, "N l_5"]
) -> Float[Array, ""]:
    """[A-11] J = −(1/N) Σ_i Σ_k y_ik log softmax(Z⁵)_ik: scalar."""
    return softmax_cross_entropy(cnn_scores(params, X), labels)


def cnn_shapes(
    N: int, n_H: int, n_W: int, l_I: int, f1: int, l_1: int, f2: int, l_2: int, l_4: int, l_5: int
) -> dict[str, tuple[int, ...]]:
    """[A-11] Every tensor's shape as on the slide, with n^[1] = n^[I] − f¹ + 1 and n^[2] = n^[1] − f² + 1.

    A3, A4 and Z5 are the slide's (A³)ᵀ, (A⁴)ᵀ and (Z⁵)ᵀ: one sample per row.
    """
    n_H1, n_W1 = n_H - f1 + 1, n_W - f1 + 1
    n_H2, n_W2 = n_H1 - f2 + 1, n_W1 - f2 + 1
    return {
        "X": (N, n_H, n_W, l_I),
        "K1": (f1, f1, l_I, l_1),
        "b1": (l_1,),
        "A1": (N, n_H1, n_W1, l_1),
        "K2": (f2, f2, l_1, l_2),
        "b2": (l_2,),
        "A2": (N, n_H2, n_W2, l_2),
        "A3": (N, n_H2 * n_W2 * l_2),
        "W4": (n_H2 * n_W2 * l_2, l_4),
        "b4": (l_4,),
        "A4": (N, l_4),
        "W5": (l_4, l_5),
        "b5": (l_5,),
        "Z5": (N, l_5),
    }
