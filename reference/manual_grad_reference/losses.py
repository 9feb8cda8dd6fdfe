"""Losses beyond the lectures, as in their sources."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manual_grad_reference.softmax import softmax


def binary_cross_entropy_with_logits(
    logits: Float[Array, " N"], labels: Float[Array, " N"]
) -> Float[Array, ""]:
    """−(1/N) Σ_n {t_n ln y_n + (1 − t_n) ln(1 − y_n)}, with y = σ(l). [E-22]"""
    y = 1 / (1 + jnp.exp(-logits))
    return -jnp.mean(labels * jnp.log(y) + (1 - labels) * jnp.log(1 - y))


def plain_binary_cross_entropy(logits: Float[Array, " N"], labels: Float[Array, " N"]) -> Float[Array, ""]:
    """The same as written in practice, by Optax for one: with ln σ."""
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.mean(labels * log_p + (1 - labels) * log_not_p)


def kl_divergence(logits_p: Float[Array, "N K"], logits_q: Float[Array, "N K"]) -> Float[Array, ""]:
    """Mean over the samples of Σ_k p_k ln(p_k / q_k). [E-23]"""
    p, q = softmax(logits_p), softmax(logits_q)
    return jnp.sum(p * jnp.log(p / q)) / logits_p.shape[0]


def plain_kl_divergence(logits_p: Float[Array, "N K"], logits_q: Float[Array, "N K"]) -> Float[Array, ""]:
    """The same as written in practice: with ln softmax."""
    log_p, log_q = jax.nn.log_softmax(logits_p), jax.nn.log_softmax(logits_q)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def huber(y_hat: Float[Array, " N"], y: Float[Array, " N"], delta: float = 1.0) -> Float[Array, ""]:
    """Mean of ρ(t) = t²/2 for |t| ≤ k, k|t| − k²/2 for |t| > k. [E-24]"""
    t = y_hat - y
    return jnp.mean(jnp.where(jnp.abs(t) <= delta, t**2 / 2, delta * jnp.abs(t) - delta**2 / 2))
