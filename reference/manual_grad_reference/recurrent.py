"""Recurrent layers as in their sources: one step after another."""

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


def gru(
    x: Float[Array, "T N D"],
    W_ih: Float[Array, "3H D"],
    W_hh: Float[Array, "3H H"],
    b_ih: Float[Array, " 3H"],
    b_hh: Float[Array, " 3H"],
    h0: Float[Array, "N H"],
) -> tuple[Float[Array, "T N H"], Float[Array, "N H"]]:
    """[E-15] r, z = σ(…), n = tanh(W_in x + b_in + r ⊙ (W_hn h + b_hn)), h′ = (1 − z) ⊙ n + z ⊙ h."""
    (W_ir, W_iz, W_in), (W_hr, W_hz, W_hn) = jnp.split(W_ih, 3), jnp.split(W_hh, 3)
    (b_ir, b_iz, b_in), (b_hr, b_hz, b_hn) = jnp.split(b_ih, 3), jnp.split(b_hh, 3)
    h, hs = h0, []
    for x_t in x:
        r = _sigma(x_t @ W_ir.T + b_ir + h @ W_hr.T + b_hr)
        z = _sigma(x_t @ W_iz.T + b_iz + h @ W_hz.T + b_hz)
        n = jnp.tanh(x_t @ W_in.T + b_in + r * (h @ W_hn.T + b_hn))
        h = (1 - z) * n + z * h
        hs.append(h)
    return jnp.stack(hs), h


def lstm(
    x: Float[Array, "T N D"],
    W_ih: Float[Array, "4H D"],
    W_hh: Float[Array, "4H H"],
    b_ih: Float[Array, " 4H"],
    b_hh: Float[Array, " 4H"],
    h0: Float[Array, "N H"],
    c0: Float[Array, "N H"],
) -> tuple[Float[Array, "T N H"], Float[Array, "N H"], Float[Array, "N H"]]:
    """[E-16] i, f, o = σ(…), g = tanh(…), c′ = f ⊙ c + i ⊙ g, h′ = o ⊙ tanh(c′)."""
    (W_ii, W_if, W_ig, W_io), (W_hi, W_hf, W_hg, W_ho) = jnp.split(W_ih, 4), jnp.split(W_hh, 4)
    (b_ii, b_if, b_ig, b_io), (b_hi, b_hf, b_hg, b_ho) = jnp.split(b_ih, 4), jnp.split(b_hh, 4)
    h, c, hs = h0, c0, []
    for x_t in x:
        i = _sigma(x_t @ W_ii.T + b_ii + h @ W_hi.T + b_hi)
        f = _sigma(x_t @ W_if.T + b_if + h @ W_hf.T + b_hf)
        g = jnp.tanh(x_t @ W_ig.T + b_ig + h @ W_hg.T + b_hg)
        o = _sigma(x_t @ W_io.T + b_io + h @ W_ho.T + b_ho)
        c = f * c + i * g
        h = o * jnp.tanh(c)
        hs.append(h)
    return jnp.stack(hs), h, c


def _sigma(z: Array) -> Array:
    return 1 / (1 + jnp.exp(-z))


def linear_scan(
    a: Float[Array, "T *S"], b: Float[Array, "T *S"], h0: Float[Array, "*S"]
) -> Float[Array, "T *S"]:
    """[E-17] h_t = a_t h_{t−1} + b_t."""
    hs = [h0]
    for a_t, b_t in zip(a, b, strict=True):
        hs.append(a_t * hs[-1] + b_t)
    return jnp.stack(hs[1:])
