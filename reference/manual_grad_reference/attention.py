"""Attention as in its source: head by head."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attention(
    q: Float[Array, "N Lq H D"],
    k: Float[Array, "N Lk Hkv D"],
    v: Float[Array, "N Lk Hkv D"],
    mask: Bool[Array, "..."] | None = None,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
) -> Float[Array, "N Lq H D"]:
    """[E-11] softmax(Q Kᵀ / √d_k) V for each head, where e^s of what is masked out is 0."""
    (N, Lq, H, D), (Lk, Hkv) = q.shape, k.shape[1:3]
    at, j = jnp.arange(Lq)[:, None] + Lk - Lq, jnp.arange(Lk)
    legal = jnp.ones((N, H, Lq, Lk), bool) if mask is None else jnp.broadcast_to(mask, (N, H, Lq, Lk))
    if causal:
        legal &= j <= at
    if window is not None:
        legal &= j > at - window
    heads = []
    for h in range(H):
        K, V = k[:, :, h * Hkv // H], v[:, :, h * Hkv // H]
        scores = (q[:, :, h] @ K.swapaxes(1, 2)) * (D**-0.5 if scale is None else scale)
        exps = jnp.where(legal[:, h], jnp.exp(scores), 0)
        total = exps.sum(axis=-1, keepdims=True)
        heads.append(exps / jnp.where(total == 0, 1, total) @ V)
    return jnp.stack(heads, axis=2)


def attention_of_scores(scores: Float[Array, " K"], v: Float[Array, "K D"]) -> Float[Array, " D"]:
    """[E-11] softmax(s) V of one query."""
    exps = jnp.exp(scores)
    return exps / exps.sum() @ v
