"""Two-layer ReLU networks: one sample, then a batch in columns and in rows. Lecture B.

    z = W¹ x + b¹        a = ReLU(z)        o or s = W² a + b²        J = ½(y − o)² or −ln p_y

Each ``_grads`` function follows the lecture's page: every partial derivative that it names. ``_bwd`` returns
those of the primals.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from manual_grad.border import Label, Scalar, checked, require_labels_in_range
from manual_grad.formulas.activations import jac_relu_x, relu_bwd, relu_fwd
from manual_grad.formulas.chain_rule import multiply_out
from manual_grad.formulas.dense import dense_columns_bwd, dense_columns_fwd, dense_rows_bwd, dense_rows_fwd
from manual_grad.formulas.limits import share_of_mean
from manual_grad.formulas.softmax import (
    cross_entropy_of_scores_bwd,
    cross_entropy_of_scores_fwd,
    one_hot,
    softmax_cross_entropy_columns_fwd,
    softmax_cross_entropy_with_integer_labels_bwd,
    softmax_cross_entropy_with_integer_labels_fwd,
)

SquaredLossRes = tuple[  # W1, W2, x, z, a, o − y
    Float[Array, "m d"],
    Float[Array, "1 m"],
    Float[Array, " d"],
    Float[Array, " m"],
    Float[Array, " m"],
    Float[Array, "1"],
]
CrossEntropyRes = tuple[  # W1, W2, x, z, a, p, y
    Float[Array, "m d"],
    Float[Array, "c m"],
    Float[Array, " d"],
    Float[Array, " m"],
    Float[Array, " m"],
    Float[Array, " c"],
    Label,
]
ColumnsRes = tuple[  # W1, W2, X, Z, A, P, y
    Float[Array, "m d"],
    Float[Array, "c m"],
    Float[Array, "d N"],
    Float[Array, "m N"],
    Float[Array, "m N"],
    Float[Array, "c N"],
    Integer[Array, " N"],
]
RowsRes = tuple[  # W1, W2, X, Z, A, P, y
    Float[Array, "d m"],
    Float[Array, "m c"],
    Float[Array, "N d"],
    Float[Array, "N m"],
    Float[Array, "N m"],
    Float[Array, "N c"],
    Integer[Array, " N"],
]


@checked
def two_layer_squared_loss_fwd(
    W1: Float[Array, "m d"],
    b1: Float[Array, " m"],
    W2: Float[Array, "1 m"],
    b2: Float[Array, "1"],
    x: Float[Array, " d"],
    y: Scalar,
) -> tuple[Float[Array, ""], SquaredLossRes]:
    """z = W¹x + b¹, a = ReLU(z), o = W²a + b², J = ½(y − o)². [B-02]

    Args:
        W1, b1: first layer, (m, d) and (m,).
        W2, b2: second layer, (1, m) and (1,).
        x: one sample, (d,).
        y: its target, scalar.
    Returns:
        ``(J, res)``: J scalar.
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture B, page 1.

    >>> one = jnp.ones((1, 1))
    >>> float(two_layer_squared_loss_fwd(one, one[0], one, one[0], one[0], 1.0)[0])
    2.0
    """
    z = W1 @ x + b1  # [B-02]
    a, _ = relu_fwd(z)  # [B-02]
    o = W2 @ a + b2  # [B-02]
    J = ((y - o) ** 2 / 2)[0]  # [B-02]
    return J, (W1, W2, x, z, a, o - y)


@checked
def two_layer_squared_loss_grads(res: SquaredLossRes, dJ: Scalar) -> dict[str, Array]:
    """Every partial derivative of the squared-loss network that the lecture names. [B-02] … [B-08]

    Args:
        res: ``(W1, W2, x, z, a, o − y)`` from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        By name: ``dW2`` (1, m), ``db2`` (1,), ``da`` (m,), ``dz`` (m,), ``dW1`` (m, d), ``db1`` (m,), and
        ``do`` (1,), ``dx`` (d,), ``dy`` scalar.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture B, pages 1 and 2.

    >>> one = jnp.ones((1, 1))
    >>> res = two_layer_squared_loss_fwd(one, one[0], one, one[0], one[0], 1.0)[1]
    >>> two_layer_squared_loss_grads(res, 1.0)["dW2"].tolist()
    [[4.0]]
    """
    W1, W2, x, z, a, error = res
    do = dJ * error  # [B-02]
    dW2 = jnp.outer(do, a)  # [B-03]
    db2 = do  # [B-04]
    da = do @ W2  # [B-05]
    (dz,) = relu_bwd(z, da)  # [B-06]
    dW1 = jnp.outer(dz, x)  # [B-07]
    db1 = dz  # [B-08]
    dx = dz @ W1
    return {
        "do": do, "dW2": dW2, "db2": db2, "da": da, "dz": dz, "dW1": dW1, "db1": db1, "dx": dx, "dy": -do[0],
    }  # fmt: skip


@checked
def two_layer_squared_loss_bwd(
    res: SquaredLossRes, dJ: Scalar
) -> tuple[
    Float[Array, "m d"],
    Float[Array, " m"],
    Float[Array, "1 m"],
    Float[Array, "1"],
    Float[Array, " d"],
    Float[Array, ""],
]:
    """Pull ``dJ`` back through the squared-loss network. [B-02] … [B-08]

    Args:
        res: ``(W1, W2, x, z, a, o − y)`` from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        ``(dW1, db1, dW2, db2, dx, dy)``, each shaped like its primal.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture B, pages 1 and 2.

    >>> one = jnp.ones((1, 1))
    >>> res = two_layer_squared_loss_fwd(one, one[0], one, one[0], one[0], 1.0)[1]
    >>> [d.tolist() for d in two_layer_squared_loss_bwd(res, 1.0)]
    [[[2.0]], [2.0], [[4.0]], [2.0], [2.0], -2.0]
    """
    g = two_layer_squared_loss_grads(res, dJ)
    return g["dW1"], g["db1"], g["dW2"], g["db2"], g["dx"], g["dy"]


@checked
def jac_two_layer_squared_loss(
    W1: Float[Array, "m d"],
    b1: Float[Array, " m"],
    W2: Float[Array, "1 m"],
    b2: Float[Array, "1"],
    x: Float[Array, " d"],
    y: Scalar,
) -> tuple[Array, Array, Array, Array]:
    """∂J/∂W¹, ∂J/∂b¹, ∂J/∂W², ∂J/∂b² as products of explicit Jacobians, nothing contracted. [B-03] … [B-08]

        ∂J/∂W¹ = ∂J/∂o · ∂o/∂a · ∂a/∂z · ∂z/∂W¹

    Args:
        W1, b1, W2, b2, x, y: as in :func:`two_layer_squared_loss_fwd`.
    Returns:
        Four arrays, shaped like W1, b1, W2, b2.
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture B, pages 1 and 2.

    >>> one = jnp.ones((1, 1))
    >>> [j.tolist() for j in jac_two_layer_squared_loss(one, one[0], one, one[0], one[0], 1.0)]
    [[[2.0]], [2.0], [[4.0]], [2.0]]
    """
    _, (_, _, _, z, a, error) = two_layer_squared_loss_fwd(W1, b1, W2, b2, x, y)
    dJ_do = error  # (o − y), 1×1
    return _multiply_layers_out(dJ_do, W2, z, a, x)


def _multiply_layers_out(
    dJ_ds: Array, W2: Array, z: Array, a: Array, x: Array
) -> tuple[Array, Array, Array, Array]:
    """∂J/∂s times the Jacobians of s = W² ReLU(W¹ x + b¹) + b², one for each parameter."""
    s, m = dJ_ds.shape, z.shape
    ds_dW2 = jnp.tensordot(jnp.eye(len(dJ_ds), dtype=a.dtype), a, axes=0)  # ∂s_i/∂W²_kj = 1{i = k} a_j
    ds_db2 = jnp.eye(len(dJ_ds), dtype=a.dtype)
    da_dz = jac_relu_x(z)  # diag(1{z > 0}) [B-06]
    dz_dW1 = jnp.tensordot(jnp.eye(len(z), dtype=x.dtype), x, axes=0)  # ∂z_i/∂W¹_kj = 1{i = k} x_j
    dz_db1 = jnp.eye(len(z), dtype=x.dtype)
    return (
        multiply_out([dJ_ds, W2, da_dz, dz_dW1], [s, m, m]),  # [B-05] [B-07] [B-12]
        multiply_out([dJ_ds, W2, da_dz, dz_db1], [s, m, m]),  # [B-05] [B-08] [B-12]
        multiply_out([dJ_ds, ds_dW2], [s]),  # [B-03] [B-11]
        multiply_out([dJ_ds, ds_db2], [s]),  # [B-04] [B-11]
    )


@checked
def two_layer_cross_entropy_fwd(
    W1: Float[Array, "m d"],
    b1: Float[Array, " m"],
    W2: Float[Array, "c m"],
    b2: Float[Array, " c"],
    x: Float[Array, " d"],
    y: Label,
) -> tuple[Float[Array, ""], CrossEntropyRes]:
    """z = W¹x + b¹, a = ReLU(z), s = W²a + b², J = −ln(e^{s_y} / Σ_j e^{s_j}). [B-09]

    Args:
        W1, b1: first layer, (m, d) and (m,).
        W2, b2: second layer, (c, m) and (c,).
        x: one sample, (d,).
        y: its class, an integer from 0 to c − 1.
    Returns:
        ``(J, res)``: J scalar; NaN under ``jit`` where y is not a class.
    Raises:
        InputError: a shape or dtype does not match; y is out of range (eagerly).
    Source: Lecture B, page 3.

    >>> one, two = jnp.ones((1, 1)), jnp.ones((2, 1))
    >>> round(float(two_layer_cross_entropy_fwd(one, one[0], two, two[:, 0], one[0], 0)[0]), 4)
    0.6931
    """
    z = W1 @ x + b1  # [B-09]
    a, _ = relu_fwd(z)  # [B-09]
    s = W2 @ a + b2  # [B-09]
    require_labels_in_range("two_layer_cross_entropy_fwd", y, len(s), "y")
    J, (p, y) = cross_entropy_of_scores_fwd(s, y)  # [B-09]
    return J, (W1, W2, x, z, a, p, y)


@checked
def two_layer_cross_entropy_grads(res: CrossEntropyRes, dJ: Scalar) -> dict[str, Array]:
    """Algorithm 3 for one sample: every partial derivative that the lecture names. [B-10] [B-11] [B-12]

        δ² = ∂J/∂s        δ¹ = (W²ᵀ δ²) ⊙ ReLU′(z)

    Args:
        res: ``(W1, W2, x, z, a, p, y)`` from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        By name: ``ds`` (c,), ``dW2`` (c, m), ``db2`` (c,), ``da`` (m,), ``dz`` (m,), ``dW1`` (m, d),
        ``db1`` (m,), ``dx`` (d,).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture B, pages 3 and 4.

    >>> one, two = jnp.ones((1, 1)), jnp.ones((2, 1))
    >>> res = two_layer_cross_entropy_fwd(one, one[0], two, two[:, 0], one[0], 0)[1]
    >>> two_layer_cross_entropy_grads(res, 1.0)["ds"].tolist()
    [-0.5, 0.5]
    """
    W1, W2, x, z, a, p, y = res
    (delta2,) = cross_entropy_of_scores_bwd((p, y), dJ)  # [B-10] [B-12]
    da = delta2 @ W2  # [B-11]
    (delta1,) = relu_bwd(z, da)  # [B-12]
    dW2 = jnp.outer(delta2, a)  # [B-11] [B-12]
    db2 = delta2  # [B-11] [B-12]
    dW1 = jnp.outer(delta1, x)  # [B-12]
    db1 = delta1  # [B-12]
    dx = delta1 @ W1
    return {
        "ds": delta2, "dW2": dW2, "db2": db2, "da": da, "dz": delta1, "dW1": dW1, "db1": db1, "dx": dx,
    }  # fmt: skip


@checked
def two_layer_cross_entropy_bwd(
    res: CrossEntropyRes, dJ: Scalar
) -> tuple[
    Float[Array, "m d"], Float[Array, " m"], Float[Array, "c m"], Float[Array, " c"], Float[Array, " d"]
]:
    """Pull ``dJ`` back through the cross-entropy network, one sample. [B-12]

    Args:
        res: ``(W1, W2, x, z, a, p, y)`` from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        ``(dW1, db1, dW2, db2, dx)``, each shaped like its primal; the integer y has none.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture B, page 4, Algorithm 3.

    >>> one, two = jnp.ones((1, 1)), jnp.ones((2, 1))
    >>> res = two_layer_cross_entropy_fwd(one, one[0], two, two[:, 0], one[0], 0)[1]
    >>> two_layer_cross_entropy_bwd(res, 1.0)[3].tolist()
    [-0.5, 0.5]
    """
    g = two_layer_cross_entropy_grads(res, dJ)
    return g["dW1"], g["db1"], g["dW2"], g["db2"], g["dx"]


@checked
def jac_two_layer_cross_entropy(
    W1: Float[Array, "m d"],
    b1: Float[Array, " m"],
    W2: Float[Array, "c m"],
    b2: Float[Array, " c"],
    x: Float[Array, " d"],
    y: Label,
) -> tuple[Array, Array, Array, Array]:
    """∂J/∂W¹, ∂J/∂b¹, ∂J/∂W², ∂J/∂b² as products of explicit Jacobians, nothing contracted. [B-12]

        ∂J/∂W¹ = ∂J/∂s · ∂s/∂a · ∂a/∂z · ∂z/∂W¹

    Args:
        W1, b1, W2, b2, x, y: as in :func:`two_layer_cross_entropy_fwd`.
    Returns:
        Four arrays, shaped like W1, b1, W2, b2.
    Raises:
        InputError: a shape or dtype does not match; y is out of range (eagerly).
    Source: Lecture B, pages 3 and 4.

    >>> one, two = jnp.ones((1, 1)), jnp.ones((2, 1))
    >>> jac_two_layer_cross_entropy(one, one[0], two, two[:, 0], one[0], 0)[3].tolist()
    [-0.5, 0.5]
    """
    _, (_, _, _, z, a, p, y) = two_layer_cross_entropy_fwd(W1, b1, W2, b2, x, y)
    (dJ_ds,) = cross_entropy_of_scores_bwd((p, y), 1.0)
    return _multiply_layers_out(dJ_ds, W2, z, a, x)


@checked
def two_layer_cross_entropy_columns_fwd(
    W1: Float[Array, "m d"],
    b1: Float[Array, " m"],
    W2: Float[Array, "c m"],
    b2: Float[Array, " c"],
    X: Float[Array, "d N"],
    y: Integer[Array, " N"],
) -> tuple[Float[Array, ""], ColumnsRes]:
    """Z = W¹X + b¹1ᵀ, A = ReLU(Z), S = W²A + b²1ᵀ, J = −(1/n) Σ_i ln p_{y_i}. [B-13]

    Args:
        W1, b1: first layer, (m, d) and (m,).
        W2, b2: second layer, (c, m) and (c,).
        X: one sample per column, (d, N).
        y: their classes, (N,), integers from 0 to c − 1.
    Returns:
        ``(J, res)``: J scalar; NaN under ``jit`` where a label is not a class.
    Raises:
        InputError: a shape or dtype does not match; a label is out of range (eagerly).
    Source: Lecture B, page 5.

    >>> one, two = jnp.ones((1, 1)), jnp.ones((2, 1))
    >>> J, _ = two_layer_cross_entropy_columns_fwd(one, one[0], two, two[:, 0], one, jnp.array([0]))
    >>> round(float(J), 4)
    0.6931
    """
    require_labels_in_range("two_layer_cross_entropy_columns_fwd", y, len(b2), "y")
    Z, _ = dense_columns_fwd(X, W1, b1)  # [B-13]
    A, _ = relu_fwd(Z)  # [B-13]
    S, _ = dense_columns_fwd(A, W2, b2)  # [B-13]
    J, (P, _, _) = softmax_cross_entropy_columns_fwd(S, one_hot(y, len(b2), S.dtype).T)  # [B-13]
    return J, (W1, W2, X, Z, A, P, y)


@checked
def two_layer_cross_entropy_columns_grads(res: ColumnsRes, dJ: Scalar) -> dict[str, Array]:
    """Every partial derivative of the batched network in columns that the lecture names. [B-14] [B-15]

        ∂J/∂S = (P − Y)/n

    Args:
        res: ``(W1, W2, X, Z, A, P, y)`` from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        By name: ``dS`` (c, N), ``dW2`` (c, m), ``db2`` (c,), ``dA`` (m, N), ``dZ`` (m, N), ``dW1`` (m, d),
        ``db1`` (m,), ``dX`` (d, N).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture B, pages 5 and 6, the bias summed over the batch (B-E2).

    >>> one, two = jnp.ones((1, 1)), jnp.ones((2, 1))
    >>> res = two_layer_cross_entropy_columns_fwd(one, one[0], two, two[:, 0], one, jnp.array([0]))[1]
    >>> two_layer_cross_entropy_columns_grads(res, 1.0)["dS"].tolist()
    [[-0.5], [0.5]]
    """
    W1, W2, X, Z, A, P, y = res
    Y = one_hot(y, len(P), P.dtype).T
    dS = (share_of_mean(dJ, len(y), P.dtype) * (P - Y)).astype(P.dtype)  # [B-14]
    dA, dW2, db2 = dense_columns_bwd((A, W2), dS)  # [B-15]
    (dZ,) = relu_bwd(Z, dA)  # [B-15]
    dX, dW1, db1 = dense_columns_bwd((X, W1), dZ)  # [B-15]
    return {"dS": dS, "dW2": dW2, "db2": db2, "dA": dA, "dZ": dZ, "dW1": dW1, "db1": db1, "dX": dX}


@checked
def two_layer_cross_entropy_columns_bwd(
    res: ColumnsRes, dJ: Scalar
) -> tuple[
    Float[Array, "m d"], Float[Array, " m"], Float[Array, "c m"], Float[Array, " c"], Float[Array, "d N"]
]:
    """Pull ``dJ`` back through the batched network in columns. [B-15]

    Args:
        res: ``(W1, W2, X, Z, A, P, y)`` from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        ``(dW1, db1, dW2, db2, dX)``, each shaped like its primal; the integer y has none.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture B, page 6.

    >>> one, two = jnp.ones((1, 1)), jnp.ones((2, 1))
    >>> res = two_layer_cross_entropy_columns_fwd(one, one[0], two, two[:, 0], one, jnp.array([0]))[1]
    >>> two_layer_cross_entropy_columns_bwd(res, 1.0)[3].tolist()
    [-0.5, 0.5]
    """
    g = two_layer_cross_entropy_columns_grads(res, dJ)
    return g["dW1"], g["db1"], g["dW2"], g["db2"], g["dX"]


@checked
def two_layer_cross_entropy_rows_fwd(
    W1: Float[Array, "d m"],
    b1: Float[Array, " m"],
    W2: Float[Array, "m c"],
    b2: Float[Array, " c"],
    X: Float[Array, "N d"],
    y: Integer[Array, " N"],
) -> tuple[Float[Array, ""], RowsRes]:
    """Z = XW¹ + 1b¹, A = ReLU(Z), S = AW² + 1b², J = −(1/n) Σ_i ln p_{y_i}. [B-16]

    Args:
        W1, b1: first layer, (d, m) and (m,).
        W2, b2: second layer, (m, c) and (c,).
        X: one sample per row, (N, d).
        y: their classes, (N,), integers from 0 to c − 1.
    Returns:
        ``(J, res)``: J scalar; NaN under ``jit`` where a label is not a class.
    Raises:
        InputError: a shape or dtype does not match; a label is out of range (eagerly).
    Source: Lecture B, page 7.

    >>> one, two = jnp.ones((1, 1)), jnp.ones((1, 2))
    >>> round(float(two_layer_cross_entropy_rows_fwd(one, one[0], two, two[0], one, jnp.array([0]))[0]), 4)
    0.6931
    """
    require_labels_in_range("two_layer_cross_entropy_rows_fwd", y, len(b2), "y")
    Z, _ = dense_rows_fwd(X, W1, b1)  # [B-16]
    A, _ = relu_fwd(Z)  # [B-16]
    S, _ = dense_rows_fwd(A, W2, b2)  # [B-16]
    J, res = softmax_cross_entropy_with_integer_labels_fwd(S, y)  # [B-16]
    return J, (W1, W2, X, Z, A, res[0], y)


@checked
def two_layer_cross_entropy_rows_grads(res: RowsRes, dJ: Scalar) -> dict[str, Array]:
    """Every partial derivative of the batched network in rows that the lecture names. [B-16]

    Args:
        res: ``(W1, W2, X, Z, A, P, y)`` from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        By name: ``dS`` (N, c), ``dW2`` (m, c), ``db2`` (c,), ``dA`` (N, m), ``dZ`` (N, m), ``dW1`` (d, m),
        ``db1`` (m,), ``dX`` (N, d): those in columns, transposed.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture B, page 7.

    >>> one, two = jnp.ones((1, 1)), jnp.ones((1, 2))
    >>> res = two_layer_cross_entropy_rows_fwd(one, one[0], two, two[0], one, jnp.array([0]))[1]
    >>> two_layer_cross_entropy_rows_grads(res, 1.0)["dS"].tolist()
    [[-0.5, 0.5]]
    """
    W1, W2, X, Z, A, P, y = res
    (dS,) = softmax_cross_entropy_with_integer_labels_bwd((P, y), dJ)  # [B-16]
    dA, dW2, db2 = dense_rows_bwd((A, W2), dS)  # [B-16]
    (dZ,) = relu_bwd(Z, dA)  # [B-16]
    dX, dW1, db1 = dense_rows_bwd((X, W1), dZ)  # [B-16]
    return {"dS": dS, "dW2": dW2, "db2": db2, "dA": dA, "dZ": dZ, "dW1": dW1, "db1": db1, "dX": dX}


@checked
def two_layer_cross_entropy_rows_bwd(
    res: RowsRes, dJ: Scalar
) -> tuple[
    Float[Array, "d m"], Float[Array, " m"], Float[Array, "m c"], Float[Array, " c"], Float[Array, "N d"]
]:
    """Pull ``dJ`` back through the batched network in rows. [B-16]

    Args:
        res: ``(W1, W2, X, Z, A, P, y)`` from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        ``(dW1, db1, dW2, db2, dX)``, each shaped like its primal; the integer y has none.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture B, page 7.

    >>> one, two = jnp.ones((1, 1)), jnp.ones((1, 2))
    >>> res = two_layer_cross_entropy_rows_fwd(one, one[0], two, two[0], one, jnp.array([0]))[1]
    >>> two_layer_cross_entropy_rows_bwd(res, 1.0)[3].tolist()
    [-0.5, 0.5]
    """
    g = two_layer_cross_entropy_rows_grads(res, dJ)
    return g["dW1"], g["db1"], g["dW2"], g["db2"], g["dX"]
