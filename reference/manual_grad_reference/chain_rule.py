"""The chain rule's small examples: the four kinds of Jacobian, composed maps, (x + y) z."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def square(x: Float[Array, ""]) -> Float[Array, ""]:
    """[A-01] f(x) = x²: scalar to scalar."""
    return x**2


def sum_of_squares(x: Float[Array, " n"]) -> Float[Array, ""]:
    """[A-01] f(x) = Σ_j x_j²: (n,) to scalar."""
    return jnp.sum(x**2)


def powers(x: Float[Array, ""], m: int) -> Float[Array, " m"]:
    """[A-01] f(x) = (x, x², …, xᵐ): scalar to (m,); m is a Python int."""
    return jnp.stack([x**k for k in range(1, m + 1)])


def linear_map(M: Float[Array, "m n"], x: Float[Array, " n"]) -> Float[Array, " m"]:
    """[A-01] f_i(x) = Σ_j M_ij x_j: (n,) to (m,)."""
    return M @ x


def quadratic_map(
    A: Float[Array, "k p"], B: Float[Array, "k p p"], theta: Float[Array, " p"]
) -> Float[Array, " k"]:
    """[B-01] g_j(θ) = Σ_i A_ji θ_i + Σ_il B_jil θ_i θ_l: (p,) to (k,)."""
    return A @ theta + jnp.einsum("jil,i,l->j", B, theta, theta)  # [B-01]


def composed_quadratic_maps(
    C: Float[Array, "q k"],
    D: Float[Array, "q k k"],
    A: Float[Array, "k p"],
    B: Float[Array, "k p p"],
    theta: Float[Array, " p"],
) -> Float[Array, " q"]:
    """[B-01] J(g(θ)), J the quadratic map of (C, D) and g that of (A, B): (p,) to (q,)."""
    return quadratic_map(C, D, quadratic_map(A, B, theta))  # [B-01]


def product(q: Float[Array, "*s"], z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """[C-01] f = q z, elementwise."""
    return q * z  # [C-01]


def product_of_sum(x: Float[Array, "*s"], y: Float[Array, "*s"], z: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """[C-01] f = (x + y) z through q = x + y, elementwise."""
    q = x + y  # [C-01]
    return product(q, z)  # [C-01]
