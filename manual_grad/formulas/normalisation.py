"""Normalisation: each sample, or each group of its features, moved to mean 0 and scaled to variance 1.

    x̂ = (x − μ) / √(σ² + ε)        y = γ x̂ + β

The statistics are computed in float32 where the inputs are half precision.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manual_grad.border import checked, require, require_shape


@partial(jax.tree_util.register_dataclass, data_fields=("x", "gamma"), meta_fields=("eps",))
@dataclass(frozen=True)
class LayerNormResiduals:
    """What the backward pass needs; it computes the statistics again, in float32 at least."""

    x: Float[Array, "*N D"]
    gamma: Float[Array, " D"]
    eps: float


def _mean(x: Float[Array, "*N D"]) -> Float[Array, "*N 1"]:
    return x.mean(axis=-1, keepdims=True)


def _statistics(x: Float[Array, "*N D"], eps: float) -> tuple[Float[Array, "*N 1"], Float[Array, "*N 1"]]:
    """``(μ, 1/√(σ² + ε))`` over the last axis, in float32 at least."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mu = _mean(x)  # [E-01]
    return mu, 1 / jnp.sqrt(_mean((x - mu) ** 2) + eps)  # [E-01]


@checked
def layer_norm_fwd(
    x: Float[Array, "*N D"], gamma: Float[Array, " D"], beta: Float[Array, " D"], *, eps: float = 1e-5
) -> tuple[Float[Array, "*N D"], LayerNormResiduals]:
    """y = γ (x − μ) / √(σ² + ε) + β, with the mean μ and the variance σ² of each sample's features. [E-01]

    Args:
        x: (…, D).
        gamma, beta: (D,).
        eps: ε, positive; it is added to the variance.
    Returns:
        ``(y, res)``: y (…, D).
    Raises:
        InputError: ``eps`` is not positive, or a shape or dtype does not fit.
    Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, equation 3; the variance is divided by D.

    >>> layer_norm_fwd(jnp.array([1.0, 3.0]), jnp.array([1.0, 10.0]), jnp.zeros(2), eps=1e-12)[0].tolist()
    [-1.0, 10.0]
    """
    require(eps > 0, f"layer_norm_fwd: eps is {eps!r}, expected a positive number")
    mu, per_sigma = _statistics(x, eps)
    y = gamma * ((x - mu) * per_sigma) + beta  # [E-01]
    return y.astype(x.dtype), LayerNormResiduals(x, gamma, float(eps))


@checked
def layer_norm_bwd(
    res: LayerNormResiduals, dy: Float[Array, "*N D"]
) -> tuple[Float[Array, "*N D"], Float[Array, " D"], Float[Array, " D"]]:
    """Pull ``dy`` back through layer normalisation. [E-01]

        dx̂ = γ dy        dx = (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂)) / √(σ² + ε)

        dγ = Σ dy x̂        dβ = Σ dy

    The means run over a sample's features, the sums over the samples. Both terms that are taken away from dx̂
    are needed: one undoes the shift by μ, the other the scaling by σ.

    Args:
        res: from the forward pass.
        dy: cotangent of y, (…, D).
    Returns:
        ``(dx, dgamma, dbeta)``, (…, D), (D,) and (D,).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dy`` has another shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> _, res = layer_norm_fwd(jnp.array([[1.0, 3.0, 5.0]]), jnp.ones(3), jnp.zeros(3))
    >>> dx, dgamma, dbeta = layer_norm_bwd(res, jnp.array([[1.0, 1.0, 1.0]]))
    >>> dx.tolist(), dbeta.tolist()
    ([[0.0, 0.0, 0.0]], [1.0, 1.0, 1.0])
    """
    x, gamma = res.x, res.gamma
    require_shape("layer_norm_bwd", "dy", dy, x.shape)
    mu, per_sigma = _statistics(x, res.eps)
    x_hat, dy = (x - mu) * per_sigma, dy.astype(mu.dtype)  # [E-01]
    dx_hat = gamma * dy  # [E-01]
    dx = per_sigma * (dx_hat - _mean(dx_hat) - x_hat * _mean(dx_hat * x_hat))  # [E-01]
    samples = tuple(range(dy.ndim - 1))
    dgamma, dbeta = (dy * x_hat).sum(axis=samples), dy.sum(axis=samples)  # [E-01]
    return dx.astype(x.dtype), dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype)


@checked
def jac_layer_norm_x_blocks(
    x: Float[Array, "*N D"], gamma: Float[Array, " D"], beta: Float[Array, " D"], *, eps: float = 1e-5
) -> Float[Array, "*N D D"]:
    """One sample's Jacobian for each sample: diag(γ) (I − (11ᵀ + x̂x̂ᵀ)/D) / √(σ² + ε). [E-01]

    With ε = 0, I − (11ᵀ + x̂x̂ᵀ)/D is the projection onto what is orthogonal to 1 and to x̂: a change of x that
    only shifts or scales it changes nothing.

    Args:
        x, gamma, beta, eps: as in :func:`layer_norm_fwd`.
    Returns:
        (…, D, D), the blocks on the diagonal of :func:`jac_layer_norm_x`.
    Raises:
        InputError: as in :func:`layer_norm_fwd`.
    Source: as the forward pass.

    >>> x, gamma = jnp.array([1.0, 3.0, 5.0]), jnp.ones(3)
    >>> bool(jnp.allclose(jac_layer_norm_x_blocks(x, gamma, jnp.zeros(3)) @ jnp.ones(3), 0, atol=1e-6))
    True
    """
    require(eps > 0, f"jac_layer_norm_x_blocks: eps is {eps!r}, expected a positive number")
    mu, per_sigma = _statistics(x, eps)
    x_hat = (x - mu) * per_sigma
    D = x.shape[-1]
    taken_away = (1 + x_hat[..., :, None] * x_hat[..., None, :]) / D
    projection = jnp.eye(D, dtype=x_hat.dtype) - taken_away
    return (gamma[:, None] * per_sigma[..., None] * projection).astype(x.dtype)  # [E-01]


@checked
def jac_layer_norm_x(
    x: Float[Array, "*N D"], gamma: Float[Array, " D"], beta: Float[Array, " D"], *, eps: float = 1e-5
) -> Float[Array, "..."]:
    """∂y/∂x of shape ``x.shape + x.shape``: block-diagonal over the samples. [E-01]

    Args:
        x, gamma, beta, eps: as in :func:`layer_norm_fwd`.
    Returns:
        (D, D) or (…, D, …, D); zero between different samples.
    Raises:
        InputError: as in :func:`layer_norm_fwd`.
    Source: as the forward pass.

    >>> jac_layer_norm_x(jnp.ones((4, 3)), jnp.ones(3), jnp.zeros(3)).shape
    (4, 3, 4, 3)
    """
    D = x.shape[-1]
    blocks = jac_layer_norm_x_blocks(x, gamma, beta, eps=eps).reshape(-1, D, D)
    same = jnp.eye(len(blocks), dtype=bool)[:, None, :, None]
    return jnp.where(same, blocks[:, :, None, :], 0).reshape(x.shape * 2)  # [E-01]
