"""The affine layer: a batch of rows, a batch of columns, one vector."""

from jaxtyping import Array, Float


def dense_rows(X: Float[Array, "N d"], W: Float[Array, "d m"], b: Float[Array, " m"]) -> Float[Array, "N m"]:
    """[B-16] Z = X W + 1 b: (N, m)."""
    return X @ W + b  # [B-16]


def dense_columns(
    X: Float[Array, "d N"], W: Float[Array, "m d"], b: Float[Array, " m"]
) -> Float[Array, "m N"]:
    """[B-13] [D-02] Z = W X + b 1ᵀ: (m, N)."""
    return W @ X + b[:, None]  # [B-13] [D-02]


def dense_vector(x: Float[Array, " d"], W: Float[Array, "m d"], b: Float[Array, " m"]) -> Float[Array, " m"]:
    """[B-02] z = W x + b: (m,)."""
    return W @ x + b  # [B-02]
