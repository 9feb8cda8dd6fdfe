"""Recurrent layers as their sources write them: one step after the other."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def rnn(
    x: Float[Array, "T N D"],
    W_ih: Float[Array, "H D"],
    W_hh: Float[Array, "H H"],
    b_ih: Float[Array, " H"],
    b_hh: Float[Array, " H"],
    h0: Float[Array, "N H"],
) -> tuple[Float[Array, "T N H"], Float[Array, "N H"]]:
    """[E-14] h_t = tanh(W_ih x_t + b_ih + W_hh h_{t−1} + b_hh), as PyTorch's documentation has it."""
    h, hs = h0, []
    for x_t in x:
        h = jnp.tanh(x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh)
        hs.append(h)
    return jnp.stack(hs), h
