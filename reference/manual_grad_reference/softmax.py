"""Softmax and cross-entropy, one sample per row and (…_columns) one sample per column.

Plain on purpose: no shift by the largest score, and 0 · log 0 is whatever the arithmetic makes of it (nan).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def softmax(logits: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
    """[A-07] [A-08] ŷ_k = e^{l_k} / Σ_j e^{l_j}, over the last axis."""
    return jnp.exp(logits) / jnp.sum(jnp.exp(logits), axis=-1, keepdims=True)


def cross_entropy(probs: Float[Array, "N K"], labels: Float[Array, "N K"]) -> Float[Array, ""]:
    """[A-09] J = −(1/N) Σ_i Σ_k y_ik log ŷ_ik: scalar."""
    return -jnp.sum(labels * jnp.log(probs)) / probs.shape[0]


def softmax_cross_entropy(logits: Float[Array, "N K"], labels: Float[Array, "N K"]) -> Float[Array, ""]:
    """[A-10] J = −(1/N) Σ_i Σ_k y_ik log softmax(l_i)_k: scalar; the labels need not sum to 1."""
    return cross_entropy(softmax(logits), labels)


def cross_entropy_of_scores(s: Float[Array, " c"], y: Int[Array, ""]) -> Float[Array, ""]:
    """[B-09] J = −log(e^{s_y} / Σ_j e^{s_j}), one sample: s (c,), y an integer."""
    return -jnp.log(jnp.exp(s)[y] / jnp.sum(jnp.exp(s)))  # [B-09]


def softmax_cross_entropy_with_integer_labels(
    logits: Float[Array, "N K"], labels: Int[Array, " N"], ignore_index: int | None = None
) -> Float[Array, ""]:
    """[B-09] [B-13] [E-27] J = −(1/N) Σ_i log(e^{s_i,y_i} / Σ_j e^{s_ij}) over labels not ignored: scalar."""
    N = logits.shape[0]
    numerator = jnp.exp(logits)[jnp.arange(N), labels]
    logs = jnp.log(numerator / jnp.sum(jnp.exp(logits), axis=1))
    if ignore_index is None:
        return -jnp.sum(logs) / N  # [B-13]
    weights = jnp.asarray(labels != ignore_index, logits.dtype)
    return -jnp.sum(weights * logs) / jnp.sum(weights)  # [E-27]


def softmax_columns(Z: Float[Array, "K N"]) -> Float[Array, "K N"]:
    """[D-03] A_ki = e^{Z_ki} / Σ_j e^{Z_ji}, over the first axis."""
    return jnp.exp(Z) / jnp.sum(jnp.exp(Z), axis=0, keepdims=True)  # [D-03]


def cross_entropy_columns(A: Float[Array, "K N"], Y: Float[Array, "K N"]) -> Float[Array, ""]:
    """[D-04] L = −(1/N) Σ_i Σ_k Y_ki ln A_ki: scalar."""
    return -jnp.sum(Y * jnp.log(A)) / A.shape[1]  # [D-04]


def softmax_cross_entropy_columns(Z: Float[Array, "K N"], Y: Float[Array, "K N"]) -> Float[Array, ""]:
    """[D-06] L = −(1/N) Σ_i Σ_k Y_ki ln softmax(Z)_ki: scalar."""
    return cross_entropy_columns(softmax_columns(Z), Y)  # [D-06]
