"""Elimination as done by hand: no rows are exchanged, so no leading minor may be 0."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def solve(A: Float[Array, "n n"], B: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """[E-28] A X = B, by Gauss and Jordan: the row operations that turn A into the identity, applied to B."""
    for j in range(len(A)):
        pivot, right = A[j] / A[j, j], B[j] / A[j, j]
        others = (jnp.arange(len(A)) != j)[:, None]
        A, B = (
            jnp.where(others, A - A[:, j : j + 1] * pivot, pivot),
            jnp.where(others, B - A[:, j : j + 1] * right, right),
        )
    return B


def inverse(A: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """[E-29] A⁻¹: the same with the identity on the right."""
    return solve(A, jnp.eye(len(A), dtype=A.dtype))


def logdet(A: Float[Array, "n n"]) -> Float[Array, ""]:
    """[E-30] ln det A, the determinant being the product of the pivots."""
    determinant = jnp.ones((), A.dtype)
    for _ in range(len(A)):
        determinant = determinant * A[0, 0]
        A = A[1:, 1:] - A[1:, :1] * A[:1, 1:] / A[0, 0]
    return jnp.log(determinant)


def cholesky(A: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """[E-31] L with L Lᵀ = (A + Aᵀ)/2, column by column: what is left is S − l lᵀ."""
    S, columns = (A + A.T) / 2, []
    for j in range(len(A)):
        column = jnp.where(jnp.arange(len(A)) >= j, S[:, j] / jnp.sqrt(S[j, j]), 0)
        columns.append(column)
        S = S - column[:, None] * column
    return jnp.stack(columns, axis=1)
