"""Layers for sequences of tokens as their sources write them."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def embedding(ids: Int[Array, "*N"], table: Float[Array, "V D"]) -> Float[Array, "*N D"]:
    """[E-09] C(i), the row of the matrix C that belongs to the word i: a one-hot vector times C."""
    one_hot = (ids[..., None] == jnp.arange(len(table))).astype(table.dtype)
    return one_hot @ table
