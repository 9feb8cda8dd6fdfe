"""Layers for sequences of tokens as in their sources."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def embedding(ids: Int[Array, "*N"], table: Float[Array, "V D"]) -> Float[Array, "*N D"]:
    """[E-09] C(i), the row of the matrix C that belongs to the word i: a one-hot vector times C."""
    one_hot = (ids[..., None] == jnp.arange(len(table))).astype(table.dtype)
    return one_hot @ table


def rope(x: Float[Array, "N L H D"], base: float = 10000.0) -> Float[Array, "N L H D"]:
    """[E-10] x ⊗ cos mΘ + rotate(x) ⊗ sin mΘ, the pairs in halves, as in GPT-NeoX."""
    _, L, _, D = x.shape
    i = jnp.arange(D // 2)
    Theta = jnp.concatenate([jnp.exp(-2 * i / D * math.log(base))] * 2).astype(x.dtype)
    m = jnp.arange(L).reshape(1, L, 1, 1).astype(x.dtype)
    rotate = jnp.concatenate([-x[..., D // 2 :], x[..., : D // 2]], axis=-1)
    return x * jnp.cos(m * Theta) + rotate * jnp.sin(m * Theta)


def dropout(x: Float[Array, "*s"], keep: Bool[Array, "*s"], rate: float = 0.5) -> Float[Array, "*s"]:
    """[E-13] The thinned layer r ⊙ x, over the probability p = 1 − rate of a unit to be retained."""
    p = 1 - rate
    return keep.astype(x.dtype) * x / p


def lora(
    x: Float[Array, "*N d"],
    W: Float[Array, "d m"],
    A: Float[Array, "d r"],
    B: Float[Array, "r m"],
    scale: float = 1.0,
) -> Float[Array, "*N m"]:
    """[E-18] h = W₀x + ΔW x with ΔW = scale · B A, transposed: one sample per row."""
    return x @ (W + scale * (A @ B))
