"""Normalisations as in their papers."""

import math

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


def rms_norm(x: Float[Array, "*N D"], gamma: Float[Array, " D"], eps: float = 1e-6) -> Float[Array, "*N D"]:
    """a_i / RMS(a) g_i, with RMS(a) = √(1/n Σ a_i²), ε under the root. [E-02]"""
    n = x.shape[-1]
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) / n + eps) * gamma


def group_norm(
    x: Float[Array, "N *shape C"],
    gamma: Float[Array, " C"],
    beta: Float[Array, " C"],
    groups: int,
    eps: float = 1e-5,
) -> Float[Array, "N *shape C"]:
    """(x_i − μ_i) / σ_i over S_i = {k | k_N = i_N, ⌊k_C / (C/G)⌋ = ⌊i_C / (C/G)⌋}, then γ and β. [E-03]"""
    by_group = [_standardised(part, range(1, x.ndim), eps) for part in jnp.split(x, groups, axis=-1)]
    return gamma * jnp.concatenate(by_group, axis=-1) + beta


def batch_norm(
    x: Float[Array, "N *shape C"], gamma: Float[Array, " C"], beta: Float[Array, " C"], eps: float = 1e-5
) -> Float[Array, "N *shape C"]:
    """γ (x − μ_B) / √(σ²_B + ε) + β, over a mini-batch B, of each channel by itself. [E-04]"""
    return gamma * _standardised(x, range(x.ndim - 1), eps) + beta


def _standardised(x: Array, over: range, eps: float) -> Array:
    m = math.prod(x.shape[axis] for axis in over)
    mu = jnp.sum(x, axis=tuple(over), keepdims=True) / m
    sigma2 = jnp.sum((x - mu) ** 2, axis=tuple(over), keepdims=True) / m
    return (x - mu) / jnp.sqrt(sigma2 + eps)
