"""Mean squared error and linear regression, as products of Jacobians and contracted. Lecture A.

ŷ = x w + b        J⃗0 = (y − ŷ)²        J = mean(J⃗0)

∂J/∂ŷ = ∂J/∂J⃗0 · ∂J⃗0/∂ŷ = (1/N … 1/N) · diag(−2(y − ŷ)) = −(2/N)(y − ŷ)ᵀ
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from manual_grad.border import Scalar, checked, describe, require
from manual_grad.formulas.chain_rule import chain, diagonal
from manual_grad.formulas.limits import share_of_mean

Slope = Float[Array, "*d"] | float | int


@checked
def mse_fwd(y_hat: Float[Array, " N"], y: Float[Array, " N"]) -> tuple[Float[Array, ""], Float[Array, " N"]]:
    """J = (1/N) Σ (y − ŷ)². [A-02] [A-03]

    Args:
        y_hat: predictions, (N,).
        y: targets, (N,).
    Returns:
        ``(J, res)``: J scalar; ``res`` is the error y − ŷ, (N,).
    Raises:
        InputError: the two are not vectors of the same length and dtype.
    Source: Lecture A, "The MOST important thing".

    >>> float(mse_fwd(jnp.array([1.0, 2.0]), jnp.array([2.0, 5.0]))[0])
    5.0
    """
    error = y - y_hat
    J0 = error**2
    J = J0.mean()
    return J, error


@checked
def mse_bwd(res: Float[Array, " N"], dJ: Scalar) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Pull ``dJ`` back through the mean squared error. [A-04]

        ∂J/∂ŷ = −(2/N)(y − ŷ)

    Args:
        res: y − ŷ, (N,).
        dJ: cotangent of the loss; 1.0 gives the plain gradient.
    Returns:
        ``(dy_hat, dy)``, each (N,).
    Raises:
        InputError: ``res`` is not a vector or ``dJ`` is not a scalar.
    Source: Lecture A, "The MOST important thing".

    >>> res = mse_fwd(jnp.array([1.0, 2.0]), jnp.array([2.0, 5.0]))[1]
    >>> [d.tolist() for d in mse_bwd(res, 1.0)]
    [[-1.0, -3.0], [1.0, 3.0]]
    """
    error = res
    share = share_of_mean(dJ, len(error), error.dtype)
    dy = (2 * share * error).astype(error.dtype)
    return -dy, dy


@checked
def jac_mean_J0(J0: Float[Array, " N"]) -> Float[Array, " N"]:
    """∂J/∂J⃗0 = (1/N … 1/N), 1×N. [A-02]

    Args:
        J0: the samples' losses, (N,).
    Returns:
        (N,).
    Raises:
        InputError: ``J0`` is not a floating-point vector.
    Source: Lecture A, "The MOST important thing".

    >>> jac_mean_J0(jnp.array([3.0, 4.0, 5.0, 6.0])).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    return jnp.full_like(J0, 1 / len(J0))


@checked
def jac_squared_errors_y_hat_diagonal(y_hat: Float[Array, " N"], y: Float[Array, " N"]) -> Float[Array, " N"]:
    """The diagonal of ∂J⃗0/∂ŷ: −2(y − ŷ). [A-03]

    Args:
        y_hat, y: predictions and targets, (N,).
    Returns:
        (N,).
    Raises:
        InputError: the two are not vectors of the same length and dtype.
    Source: Lecture A, "The MOST important thing".

    >>> jac_squared_errors_y_hat_diagonal(jnp.array([1.0, 2.0]), jnp.array([2.0, 5.0])).tolist()
    [-2.0, -6.0]
    """
    return -2 * (y - y_hat)


@checked
def jac_squared_errors_y_hat(y_hat: Float[Array, " N"], y: Float[Array, " N"]) -> Float[Array, "N N"]:
    """∂J⃗0/∂ŷ = diag(−2(y⁽ⁱ⁾ − ŷ⁽ⁱ⁾)), N×N. [A-03]

    Args:
        y_hat, y: predictions and targets, (N,).
    Returns:
        (N, N).
    Raises:
        InputError: the two are not vectors of the same length and dtype.
    Source: Lecture A, "The MOST important thing".

    >>> jac_squared_errors_y_hat(jnp.array([1.0, 2.0]), jnp.array([2.0, 5.0])).tolist()
    [[-2.0, 0.0], [0.0, -6.0]]
    """
    return diagonal(jac_squared_errors_y_hat_diagonal(y_hat, y))


@checked
def jac_mse_y_hat(y_hat: Float[Array, " N"], y: Float[Array, " N"]) -> Float[Array, " N"]:
    """∂J/∂ŷ as the product of the two Jacobians, (A-02)(A-03). [A-04]

    :func:`mse_bwd` is the contracted form, which never holds the N×N factor.

    Args:
        y_hat, y: predictions and targets, (N,).
    Returns:
        (N,).
    Raises:
        InputError: the two are not vectors of the same length and dtype.
    Source: Lecture A, "The MOST important thing".

    >>> jac_mse_y_hat(jnp.array([1.0, 2.0]), jnp.array([2.0, 5.0])).tolist()
    [-1.0, -3.0]
    """
    wide = jnp.promote_types(y.dtype, jnp.float32)  # 1/N is inexact in half precision, the product may not be
    dJ_dJ0 = jac_mean_J0(((y - y_hat) ** 2).astype(wide))
    dJ0_dy_hat = jac_squared_errors_y_hat(y_hat, y).astype(wide)
    return chain(dJ_dJ0, dJ0_dy_hat, mid=y.shape).astype(y.dtype)


@checked
def linear_regression_fwd(
    w: Slope, b: Scalar, x: Float[Array, "N *d"], y: Float[Array, " N"]
) -> tuple[Float[Array, ""], tuple[Float[Array, "*d"], Float[Array, "N *d"], Float[Array, " N"]]]:
    """J = mean((y − ŷ)²) with ŷ = x w + b. [A-05]

    Args:
        w: slope, scalar for one feature or (d,) for d features.
        b: intercept, scalar.
        x: (N,) if w is a scalar, (N, d) if w is a vector.
        y: targets, (N,).
    Returns:
        ``(J, res)``: J scalar.
    Raises:
        InputError: the shapes do not match; w has more than one axis.
    Source: Lecture A, "The MOST important thing"; the form with d features is ours.

    >>> x, y = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    >>> float(linear_regression_fwd(1.0, 0.0, x, y)[0])
    4.0
    """
    w, b = _affine_parameters("linear_regression_fwd", w, b, x)
    y_hat = (x @ w if w.ndim else x * w) + b
    J, error = mse_fwd(y_hat, y)
    return J, (w, x, error)


def _affine_parameters(formula: str, w: Any, b: Any, x: Array) -> tuple[Array, Array]:
    """w and b in the dtype of x, provided that w is a scalar and x a vector, or w a vector and x a matrix."""
    w, b = jnp.asarray(w, x.dtype), jnp.asarray(b, x.dtype)
    require(w.ndim <= 1, f"{formula}: w is {describe(w)}, expected float[] or float[d]")
    require(x.ndim == w.ndim + 1, f"{formula}: x is {describe(x)}, expected float[N] because w is a scalar")
    return w, b


@checked
def linear_regression_bwd(
    res: tuple[Float[Array, "*d"], Float[Array, "N *d"], Float[Array, " N"]],
    dJ: Scalar,
) -> tuple[Float[Array, "*d"], Float[Array, ""], Float[Array, "N *d"], Float[Array, " N"]]:
    """Pull ``dJ`` back through linear regression. [A-05] [A-06]

        ∂J/∂w = −(2/N) Σ x⁽ⁱ⁾(y⁽ⁱ⁾ − ŷ⁽ⁱ⁾)        ∂J/∂b = −(2/N) Σ (y⁽ⁱ⁾ − ŷ⁽ⁱ⁾)

    Args:
        res: ``(w, x, y − ŷ)`` from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        ``(dw, db, dx, dy)``, each shaped like its primal.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture A, "The MOST important thing".

    >>> x, y = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    >>> [d.tolist() for d in linear_regression_bwd(linear_regression_fwd(1.0, 0.0, x, y)[1], 1.0)]
    [-6.0, -4.0, [-2.0, -2.0], [2.0, 2.0]]
    """
    w, x, error = res
    dy_hat = -2 * share_of_mean(dJ, len(error), error.dtype) * error
    dw = dy_hat @ x
    db = dy_hat.sum()
    dx = jnp.tensordot(dy_hat, w, axes=0)
    dw, db, dx, dy = (d.astype(error.dtype) for d in (dw, db, dx, -dy_hat))
    return dw, db, dx, dy


@checked
def jac_affine_w(w: Slope, b: Scalar, x: Float[Array, "N *d"]) -> Float[Array, "N *d"]:
    """∂ŷ/∂w of ŷ = x w + b: the inputs x. [A-05]

    Args:
        w, b, x: as in :func:`linear_regression_fwd`.
    Returns:
        x, (N,) or (N, d).
    Raises:
        InputError: the shapes do not match.
    Source: Lecture A, "The MOST important thing".

    >>> jac_affine_w(2.0, 1.0, jnp.array([3.0, 4.0])).tolist()
    [3.0, 4.0]
    """
    _affine_parameters("jac_affine_w", w, b, x)
    return x


@checked
def jac_affine_b(w: Slope, b: Scalar, x: Float[Array, "N *d"]) -> Float[Array, " N"]:
    """∂ŷ/∂b of ŷ = x w + b: a column of ones. [A-06]

    Args:
        w, b, x: as in :func:`linear_regression_fwd`.
    Returns:
        1_N, (N,).
    Raises:
        InputError: the shapes do not match.
    Source: Lecture A, "The MOST important thing".

    >>> jac_affine_b(2.0, 1.0, jnp.array([3.0, 4.0])).tolist()
    [1.0, 1.0]
    """
    _affine_parameters("jac_affine_b", w, b, x)
    return jnp.ones_like(x, shape=x.shape[:1])


@checked
def jac_linear_regression_w(
    w: Slope, b: Scalar, x: Float[Array, "N *d"], y: Float[Array, " N"]
) -> Float[Array, "*d"]:
    """∂J/∂w as the product (A-04) · ∂ŷ/∂w. [A-05]

    Args:
        w, b, x, y: as in :func:`linear_regression_fwd`.
    Returns:
        An array of the shape of w.
    Raises:
        InputError: the shapes do not match.
    Source: Lecture A, "The MOST important thing".

    >>> float(jac_linear_regression_w(1.0, 0.0, jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])))
    -6.0
    """
    error = linear_regression_fwd(w, b, x, y)[1][2]
    return chain(jac_mse_y_hat(y - error, y), jac_affine_w(w, b, x), mid=y.shape)


@checked
def jac_linear_regression_b(
    w: Slope, b: Scalar, x: Float[Array, "N *d"], y: Float[Array, " N"]
) -> Float[Array, ""]:
    """∂J/∂b as the product (A-04) · 1. [A-06]

    Args:
        w, b, x, y: as in :func:`linear_regression_fwd`.
    Returns:
        Scalar.
    Raises:
        InputError: the shapes do not match.
    Source: Lecture A, "The MOST important thing".

    >>> float(jac_linear_regression_b(1.0, 0.0, jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])))
    -4.0
    """
    error = linear_regression_fwd(w, b, x, y)[1][2]
    return chain(jac_mse_y_hat(y - error, y), jac_affine_b(w, b, x), mid=y.shape)
