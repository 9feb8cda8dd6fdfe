"""Directions and angles of vectors, by the Euclidean norm."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def l2_normalize(x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    """x / ‖x‖₂. [E-25]"""
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))


def cosine_similarity(a: Float[Array, "*N D"], b: Float[Array, "*N D"]) -> Float[Array, "*N"]:
    """Σ a_k b_k / √(Σ a_k² Σ b_k²). [E-26]"""
    squares = jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1)
    return jnp.sum(a * b, axis=-1) / jnp.sqrt(squares)
