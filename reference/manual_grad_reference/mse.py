"""Linear regression and its mean squared error, stage by stage."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def mean(J0: Float[Array, " N"]) -> Float[Array, ""]:
    """[A-02] J = (1/N) Σ_i J0_i: (N,) to scalar."""
    return jnp.sum(J0) / J0.shape[0]


def squared_errors(y_hat: Float[Array, " N"], y: Float[Array, " N"]) -> Float[Array, " N"]:
    """[A-03] J0 = (y − ŷ)²: (N,)."""
    return (y - y_hat) ** 2


def mse(y_hat: Float[Array, " N"], y: Float[Array, " N"]) -> Float[Array, ""]:
    """[A-04] J = (1/N) Σ_i (y_i − ŷ_i)²: scalar."""
    return mean(squared_errors(y_hat, y))


def affine(
    w: Float[Array, ""] | Float[Array, " d"],
    b: Float[Array, ""],
    x: Float[Array, " N"] | Float[Array, "N d"],
) -> Float[Array, " N"]:
    """[A-05] ŷ = w x + b: scalar w with x (N,), or w (d,) with x (N, d)."""
    if jnp.ndim(w) == 0:
        return w * x + b
    return x @ w + b


def linear_regression(
    w: Float[Array, ""] | Float[Array, " d"],
    b: Float[Array, ""],
    x: Float[Array, " N"] | Float[Array, "N d"],
    y: Float[Array, " N"],
) -> Float[Array, ""]:
    """[A-05] [A-06] J = (1/N) Σ_i (y_i − (w x_i + b))²: scalar."""
    return mse(affine(w, b, x), y)
