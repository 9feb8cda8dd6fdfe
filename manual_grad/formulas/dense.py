"""The dense layer in rows (Z = X W + 1 b) and in columns (Z = W X + b 1ᵀ), and its Jacobians. Lectures B, D.

Why a transpose appears in ``dW = Xᵀ dZ`` and ``dW = dZ Xᵀ``: flattened to a vector, Z is linear in W and its
Jacobian is a Kronecker product. Multiplying a cotangent by A ⊗ B is a product of three matrices, one of them
transposed. Nothing is commuted (the question at D-09).
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from manual_grad.border import checked, require, require_shape


@checked
def dense_rows_fwd(
    X: Float[Array, "N d"], W: Float[Array, "d m"], b: Float[Array, " m"]
) -> tuple[Float[Array, "N m"], tuple[Float[Array, "N d"], Float[Array, "d m"]]]:
    """Z = X W + 1 b, one sample per row. [B-16]

    Args:
        X: (N, d).
        W: (d, m).
        b: (m,).
    Returns:
        ``(Z, res)``: Z (N, m).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture B, page 7.

    >>> dense_rows_fwd(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]]), jnp.array([5.0]))[0].tolist()
    [[16.0]]
    """
    Z = X @ W + b  # [B-16]
    return Z, (X, W)


@checked
def dense_rows_bwd(
    res: tuple[Float[Array, "N d"], Float[Array, "d m"]], dZ: Float[Array, "N m"]
) -> tuple[Float[Array, "N d"], Float[Array, "d m"], Float[Array, " m"]]:
    """Pull ``dZ`` back through a dense layer in rows. [B-16]

        dX = dZ Wᵀ        dW = Xᵀ dZ        db = 1ᵀ dZ

    Args:
        res: ``(X, W)``.
        dZ: cotangent, (N, m).
    Returns:
        ``(dX, dW, db)``, each shaped like its primal.
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture B, page 7.

    >>> res = dense_rows_fwd(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]]), jnp.array([5.0]))[1]
    >>> [d.tolist() for d in dense_rows_bwd(res, jnp.array([[10.0]]))]
    [[[30.0, 40.0]], [[10.0], [20.0]], [10.0]]
    """
    X, W = res
    dX = dZ @ W.T  # [B-16]
    dW = X.T @ dZ  # [B-16]
    db = dZ.sum(axis=0)  # [B-16]
    return dX, dW, db


@checked
def dense_columns_fwd(
    X: Float[Array, "d N"], W: Float[Array, "m d"], b: Float[Array, " m"]
) -> tuple[Float[Array, "m N"], tuple[Float[Array, "d N"], Float[Array, "m d"]]]:
    """Z = W X + b 1ᵀ, one sample per column. [B-13] [D-02]

    Args:
        X: (d, N).
        W: (m, d).
        b: (m,).
    Returns:
        ``(Z, res)``: Z (m, N).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture B, page 5; Lecture D, page 1.

    >>> dense_columns_fwd(jnp.array([[1.0], [2.0]]), jnp.array([[3.0, 4.0]]), jnp.array([5.0]))[0].tolist()
    [[16.0]]
    """
    Z = W @ X + b[:, None]  # [B-13] [D-02]
    return Z, (X, W)


@checked
def dense_columns_bwd(
    res: tuple[Float[Array, "d N"], Float[Array, "m d"]], dZ: Float[Array, "m N"]
) -> tuple[Float[Array, "d N"], Float[Array, "m d"], Float[Array, " m"]]:
    """Pull ``dZ`` back through a dense layer in columns. [B-15] [D-07] [D-08] [D-10]

        dX = Wᵀ dZ        dW = dZ Xᵀ        db = dZ 1

    Args:
        res: ``(X, W)``.
        dZ: cotangent, (m, N).
    Returns:
        ``(dX, dW, db)``, each shaped like its primal.
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture B, page 6; Lecture D, "Back propagation".

    >>> res = dense_columns_fwd(jnp.array([[1.0], [2.0]]), jnp.array([[3.0, 4.0]]), jnp.array([5.0]))[1]
    >>> [d.tolist() for d in dense_columns_bwd(res, jnp.array([[10.0]]))]
    [[[30.0], [40.0]], [[10.0, 20.0]], [10.0]]
    """
    X, W = res
    dX = W.T @ dZ  # [B-15] [D-10]
    dW = dZ @ X.T  # [B-15] [D-07]
    db = dZ.sum(axis=1)  # [B-15] [D-08]
    return dX, dW, db


@checked
def jac_dense_rows_W_factors(
    X: Float[Array, "N d"], W: Float[Array, "d m"], b: Float[Array, " m"]
) -> tuple[Float[Array, "N d"], Float[Array, "m m"]]:
    """The Kronecker factors (X, I_m): with vec row by row, ∂vec Z/∂vec W = X ⊗ I_m. [D-09]

    Args:
        X, W, b: as in :func:`dense_rows_fwd`.
    Returns:
        ``(X, I_m)``, (N, d) and (m, m).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture D, page 4, transposed.

    >>> [f.shape for f in jac_dense_rows_W_factors(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(4))]
    [(2, 3), (4, 4)]
    """
    return X, jnp.eye(W.shape[1], dtype=X.dtype)  # [D-09]


@checked
def jac_dense_rows_W(
    X: Float[Array, "N d"], W: Float[Array, "d m"], b: Float[Array, " m"]
) -> Float[Array, "N m d m"]:
    """∂Z/∂W in rows, from X ⊗ I_m. [D-09]

    Args:
        X, W, b: as in :func:`dense_rows_fwd`.
    Returns:
        (N, m, d, m).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture D, page 4, transposed.

    >>> jac_dense_rows_W(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(4)).shape
    (2, 4, 3, 4)
    """
    return jnp.kron(*jac_dense_rows_W_factors(X, W, b)).reshape(len(X), len(b), *W.shape)  # [D-09]


@checked
def jac_dense_rows_X_factors(
    X: Float[Array, "N d"], W: Float[Array, "d m"], b: Float[Array, " m"]
) -> tuple[Float[Array, "N N"], Float[Array, "m d"]]:
    """The Kronecker factors (I_N, Wᵀ): with vec row by row, ∂vec Z/∂vec X = I_N ⊗ Wᵀ. [D-09]

    Args:
        X, W, b: as in :func:`dense_rows_fwd`.
    Returns:
        ``(I_N, Wᵀ)``, (N, N) and (m, d).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture D, page 4, transposed.

    >>> [f.shape for f in jac_dense_rows_X_factors(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(4))]
    [(2, 2), (4, 3)]
    """
    return jnp.eye(len(X), dtype=W.dtype), W.T  # [D-09]


@checked
def jac_dense_rows_X(
    X: Float[Array, "N d"], W: Float[Array, "d m"], b: Float[Array, " m"]
) -> Float[Array, "N m N d"]:
    """∂Z/∂X in rows, from I_N ⊗ Wᵀ. [D-09]

    Args:
        X, W, b: as in :func:`dense_rows_fwd`.
    Returns:
        (N, m, N, d).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture D, page 4, transposed.

    >>> jac_dense_rows_X(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(4)).shape
    (2, 4, 2, 3)
    """
    return jnp.kron(*jac_dense_rows_X_factors(X, W, b)).reshape(len(X), len(b), *X.shape)  # [D-09]


@checked
def jac_dense_rows_b(
    X: Float[Array, "N d"], W: Float[Array, "d m"], b: Float[Array, " m"]
) -> Float[Array, "N m m"]:
    """∂Z/∂b in rows: an identity for each sample, 1_N ⊗ I_m. [D-09]

    Args:
        X, W, b: as in :func:`dense_rows_fwd`.
    Returns:
        (N, m, m).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture D, page 4, transposed.

    >>> jac_dense_rows_b(jnp.ones((1, 3)), jnp.ones((3, 2)), jnp.ones(2)).tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """
    ones, eye = jnp.ones((len(X), 1), b.dtype), jnp.eye(len(b), dtype=b.dtype)
    return jnp.kron(ones, eye).reshape(len(X), *eye.shape)  # [D-09]


@checked
def jac_dense_columns_W_factors(
    X: Float[Array, "d N"], W: Float[Array, "m d"], b: Float[Array, " m"]
) -> tuple[Float[Array, "N d"], Float[Array, "m m"]]:
    """The Kronecker factors (Xᵀ, I_m): with vec stacking columns, ∂vec Z/∂vec W = Xᵀ ⊗ I_m. [D-09]

    Args:
        X, W, b: as in :func:`dense_columns_fwd`.
    Returns:
        ``(Xᵀ, I_m)``, (N, d) and (m, m).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture D, page 4: where the transpose of A₄ comes from.

    >>> [f.shape for f in jac_dense_columns_W_factors(jnp.ones((3, 2)), jnp.ones((4, 3)), jnp.ones(4))]
    [(2, 3), (4, 4)]
    """
    return X.T, jnp.eye(len(W), dtype=X.dtype)  # [D-09]


@checked
def jac_dense_columns_W(
    X: Float[Array, "d N"], W: Float[Array, "m d"], b: Float[Array, " m"]
) -> Float[Array, "m N m d"]:
    """∂Z/∂W in columns, from Xᵀ ⊗ I_m. [D-09]

    Args:
        X, W, b: as in :func:`dense_columns_fwd`.
    Returns:
        (m, N, m, d).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture D, page 4.

    >>> jac_dense_columns_W(jnp.ones((3, 2)), jnp.ones((4, 3)), jnp.ones(4)).shape
    (4, 2, 4, 3)
    """
    Z_shape = (len(W), X.shape[1])
    return from_column_stacking(jnp.kron(*jac_dense_columns_W_factors(X, W, b)), Z_shape, W.shape)  # [D-09]


@checked
def jac_dense_columns_X_factors(
    X: Float[Array, "d N"], W: Float[Array, "m d"], b: Float[Array, " m"]
) -> tuple[Float[Array, "N N"], Float[Array, "m d"]]:
    """The Kronecker factors (I_N, W): with vec stacking columns, ∂vec Z/∂vec X = I_N ⊗ W. [D-09]

    Args:
        X, W, b: as in :func:`dense_columns_fwd`.
    Returns:
        ``(I_N, W)``, (N, N) and (m, d).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture D, page 4.

    >>> [f.shape for f in jac_dense_columns_X_factors(jnp.ones((3, 2)), jnp.ones((4, 3)), jnp.ones(4))]
    [(2, 2), (4, 3)]
    """
    return jnp.eye(X.shape[1], dtype=W.dtype), W  # [D-09]


@checked
def jac_dense_columns_X(
    X: Float[Array, "d N"], W: Float[Array, "m d"], b: Float[Array, " m"]
) -> Float[Array, "m N d N"]:
    """∂Z/∂X in columns, from I_N ⊗ W. [D-09]

    Args:
        X, W, b: as in :func:`dense_columns_fwd`.
    Returns:
        (m, N, d, N).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture D, page 4.

    >>> jac_dense_columns_X(jnp.ones((3, 2)), jnp.ones((4, 3)), jnp.ones(4)).shape
    (4, 2, 3, 2)
    """
    Z_shape = (len(W), X.shape[1])
    return from_column_stacking(jnp.kron(*jac_dense_columns_X_factors(X, W, b)), Z_shape, X.shape)  # [D-09]


@checked
def jac_dense_columns_b(
    X: Float[Array, "d N"], W: Float[Array, "m d"], b: Float[Array, " m"]
) -> Float[Array, "m N m"]:
    """∂Z/∂b in columns: stacking columns, 1_N ⊗ I_m. [D-09]

    Args:
        X, W, b: as in :func:`dense_columns_fwd`.
    Returns:
        (m, N, m).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture D, page 4.

    >>> jac_dense_columns_b(jnp.ones((3, 1)), jnp.ones((2, 3)), jnp.ones(2)).tolist()
    [[[1.0, 0.0]], [[0.0, 1.0]]]
    """
    ones, eye = jnp.ones((X.shape[1], 1), b.dtype), jnp.eye(len(b), dtype=b.dtype)
    return from_column_stacking(jnp.kron(ones, eye), (len(b), X.shape[1]), b.shape)  # [D-09]


@checked
def from_column_stacking(
    matrix: Float[Array, "outputs inputs"], out_shape: tuple[int, ...], in_shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """The array ``out_shape + in_shape`` of a Jacobian between column-stacked vec's. [D-09]

    Args:
        matrix: ∂vec(out)/∂vec(in), where vec stacks columns.
        out_shape, in_shape: the shapes before vec.
    Returns:
        The Jacobian as ``jax.jacobian`` lays it out.
    Raises:
        InputError: the sizes do not match, or a dtype is wrong.
    Source: Lecture D, page 4.

    >>> from_column_stacking(jnp.arange(8.0).reshape(4, 2), (2, 2), (2,))[0, 1].tolist()
    [4.0, 5.0]
    """
    for name, shape in (("out_shape", out_shape), ("in_shape", in_shape)):
        require(
            all(n >= 1 for n in shape),
            f"from_column_stacking: {name} is {shape}, expected sizes of at least 1",
        )
    require_shape("from_column_stacking", "matrix", matrix, (math.prod(out_shape), math.prod(in_shape)))
    flipped = matrix.reshape(*out_shape[::-1], *in_shape[::-1])
    n_out, n = len(out_shape), len(out_shape) + len(in_shape)
    return flipped.transpose(*reversed(range(n_out)), *reversed(range(n_out, n)))
