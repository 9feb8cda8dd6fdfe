"""Layer normalisation as the paper writes it."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def layer_norm(
    x: Float[Array, "*N D"], gamma: Float[Array, " D"], beta: Float[Array, " D"], eps: float = 1e-5
) -> Float[Array, "*N D"]:
    """g/σ ⊙ (a − μ) + b, with μ = 1/H Σ a_i and σ = √(1/H Σ (a_i − μ)²), ε under the root. [E-01]"""
    H = x.shape[-1]
    mu = jnp.sum(x, axis=-1, keepdims=True) / H
    sigma = jnp.sqrt(jnp.sum((x - mu) ** 2, axis=-1, keepdims=True) / H + eps)
    return gamma / sigma * (x - mu) + beta
