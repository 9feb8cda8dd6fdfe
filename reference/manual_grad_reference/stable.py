"""The forward functions that overflow as printed, written so that they do not: for logits of any size.

The lectures' softmax is exp over sum, which in float64 ends near 700. These are the same functions, with the
largest logit subtracted first, or log(eᵃ + eᵇ) taken at once; where the plain ones are finite, a test
verifies that both are equal.
"""

import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Int


def stable_sigmoid(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """[C-02] 1 / (1 + e⁻ˣ) as e^(−log(1 + e⁻ˣ))."""
    return jnp.exp(-jnp.logaddexp(jnp.zeros_like(x), -x))  # [C-02]


def stable_softplus(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """[C-02] log(1 + eˣ)."""
    return jnp.logaddexp(jnp.zeros_like(x), x)  # [C-02]


def stable_log_softmax(logits: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
    """[A-07] log ŷ_k = l_k − m − log Σ_j e^{l_j − m} for m = max l, over the last axis; m cancels."""
    shifted = logits - stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))


def stable_softmax(logits: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
    """[A-07] ŷ_k = e^{l_k − m} / Σ_j e^{l_j − m} for m = max l, over the last axis; m cancels."""
    powers = jnp.exp(logits - stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    return powers / jnp.sum(powers, axis=-1, keepdims=True)


def stable_softmax_cross_entropy(
    logits: Float[Array, "N K"], labels: Float[Array, "N K"]
) -> Float[Array, ""]:
    """[A-10] J = −(1/N) Σ_i Σ_k y_ik log softmax(l_i)_k: scalar."""
    return -jnp.sum(labels * stable_log_softmax(logits)) / logits.shape[0]


def stable_softmax_cross_entropy_columns(Z: Float[Array, "K N"], Y: Float[Array, "K N"]) -> Float[Array, ""]:
    """[D-06] L = −(1/N) Σ_i Σ_k Y_ki ln softmax(Z)_ki: scalar."""
    return stable_softmax_cross_entropy(Z.T, Y.T)  # [D-06]


def stable_softmax_cross_entropy_with_integer_labels(
    logits: Float[Array, "N K"], labels: Int[Array, " N"], ignore_index: int | None = None
) -> Float[Array, ""]:
    """[B-09] [B-13] [E-27] J = −(1/N) Σ_i log softmax(s_i)_{y_i} over labels not ignored: scalar."""
    n = logits.shape[0]
    counts = jnp.ones(n) if ignore_index is None else labels != ignore_index
    picked = stable_log_softmax(logits)[jnp.arange(n), labels]
    return -jnp.sum(jnp.where(counts, picked, 0)) / jnp.sum(counts)  # [B-13] [E-27]


def stable_cross_entropy_of_scores(s: Float[Array, " c"], y: Int[Array, ""]) -> Float[Array, ""]:
    """[B-09] J = −log softmax(s)_y, one sample: s (c,), y an integer."""
    return -stable_log_softmax(s)[y]  # [B-09]


def stable_linear_cross_entropy(
    hidden: Float[Array, "N D"],
    W: Float[Array, "D V"],
    labels: Int[Array, " N"],
    ignore_index: int | None = None,
) -> Float[Array, ""]:
    """[B-09] [B-13] [E-27] J = −(1/N) Σ_i log softmax(h_i W)_{y_i} over labels not ignored: scalar."""
    return stable_softmax_cross_entropy_with_integer_labels(hidden @ W, labels, ignore_index)
