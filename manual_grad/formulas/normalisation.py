"""Normalisation: numbers shifted to mean 0 and scaled to variance 1, over a sample, a group or a channel.

    x̂ = (x − μ) / √(σ² + ε)        y = γ x̂ + β

The four differ in the numbers that share a mean: the features of a sample (layer norm; RMS norm has no mean),
groups of a sample's channels (group norm), a channel over all samples (batch norm). Statistics and sums are
computed in float32 if the inputs are in half precision.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manual_grad.border import checked, describe, require, require_shape
from manual_grad.formulas.blocks import in_blocks
from manual_grad.formulas.chain_rule import block_diagonal
from manual_grad.formulas.limits import weighted_sum, wide

Axes = int | tuple[int, ...]
GROUP = (1, 3)  # of x in groups


@partial(jax.tree_util.register_dataclass, data_fields=("x", "gamma"), meta_fields=("eps", "groups"))
@dataclass(frozen=True)
class NormResiduals:
    """The residuals; the backward pass recomputes the statistics, in float32 or wider."""

    x: Float[Array, "*N D"]
    gamma: Float[Array, " D"]
    eps: float
    groups: int = 1


def _mean(x: Float[Array, "..."], axes: Axes = -1) -> Float[Array, "..."]:
    return x.mean(axis=axes, keepdims=True)


def _statistics(
    x: Float[Array, "..."], eps: float, axes: Axes = -1
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """``(μ, 1/√(σ² + ε))``."""
    mu = _mean(x, axes)  # [E-01] [E-03] [E-04]
    return mu, 1 / jnp.sqrt(_mean((x - mu) ** 2, axes) + eps)  # [E-01] [E-03] [E-04]


def _mean_times(x: Float[Array, "*N D"], gamma: Float[Array, " D"]) -> Float[Array, "*N 1"]:
    """mean(γ x) over the features, as a product that needs no array of the size of x."""
    return (jnp.matmul(x, wide(gamma), precision="highest") / x.shape[-1])[..., None]


def _all_but_last(x: Float[Array, "..."]) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _require_positive(formula: str, eps: float) -> None:
    require(eps > 0, f"{formula}: eps is {eps!r}, expected a positive number")


@checked
def layer_norm_fwd(
    x: Float[Array, "*N D"], gamma: Float[Array, " D"], beta: Float[Array, " D"], *, eps: float = 1e-5
) -> tuple[Float[Array, "*N D"], NormResiduals]:
    """y = γ (x − μ) / √(σ² + ε) + β, with the mean μ and the variance σ² of each sample's features. [E-01]

    Args:
        x: (…, D).
        gamma, beta: (D,).
        eps: ε, positive; it is added to the variance.
    Returns:
        ``(y, res)``: y (…, D).
    Raises:
        InputError: ``eps`` is not positive, or a shape or dtype does not match.
    Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, equation 3; the variance is divided by D.

    >>> layer_norm_fwd(jnp.array([1.0, 3.0]), jnp.array([1.0, 10.0]), jnp.zeros(2), eps=1e-12)[0].tolist()
    [-1.0, 10.0]
    """
    _require_positive("layer_norm_fwd", eps)
    mu, per_sigma = _statistics(wide(x), eps)
    y = gamma * ((x - mu) * per_sigma) + beta  # [E-01]
    return y.astype(x.dtype), NormResiduals(x, gamma, float(eps))


@checked
def layer_norm_bwd(
    res: NormResiduals, dy: Float[Array, "*N D"]
) -> tuple[Float[Array, "*N D"], Float[Array, " D"], Float[Array, " D"]]:
    """Pull ``dy`` back through layer normalisation. [E-01]

        dx̂ = γ dy        dx = (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂)) / √(σ² + ε)

        dγ = Σ dy x̂        dβ = Σ dy

    The means run over a sample's features, the sums over the samples. Both terms subtracted from dx̂ are
    needed: one comes from the shift by μ, the other from the scaling by σ.

    Args:
        res: from the forward pass.
        dy: cotangent of y, (…, D).
    Returns:
        ``(dx, dgamma, dbeta)``, (…, D), (D,) and (D,).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dy`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> _, res = layer_norm_fwd(jnp.array([[1.0, 3.0, 5.0]]), jnp.ones(3), jnp.zeros(3))
    >>> dx, dgamma, dbeta = layer_norm_bwd(res, jnp.array([[1.0, 1.0, 1.0]]))
    >>> dx.tolist(), dbeta.tolist()
    ([[0.0, 0.0, 0.0]], [1.0, 1.0, 1.0])
    """
    x, gamma = res.x, res.gamma
    require_shape("layer_norm_bwd", "dy", dy, x.shape)
    mu, per_sigma = _statistics(wide(x), res.eps)
    mean_with_x_hat, dgamma = in_blocks(_layer_norm_sums, (x, dy, mu, per_sigma), (gamma,))
    x_hat, dy = (x - mu) * per_sigma, wide(dy)  # [E-01]
    dx = per_sigma * (gamma * dy - _mean_times(dy, gamma) - x_hat * mean_with_x_hat)  # [E-01]
    dbeta = dy.sum(axis=_all_but_last(x))  # [E-01]
    return dx.astype(x.dtype), dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype)


def _layer_norm_sums(x: Array, dy: Array, mu: Array, per_sigma: Array, gamma: Array) -> tuple[Array, Array]:
    """``(mean(dx̂ x̂), dγ)``: two sums of the same products, over the features and over the samples."""
    products = wide(dy) * ((x - mu) * per_sigma)
    return _mean_times(products, gamma), products.sum(axis=_all_but_last(x))  # [E-01]


@checked
def jac_layer_norm_x_blocks(
    x: Float[Array, "*N D"], gamma: Float[Array, " D"], beta: Float[Array, " D"], *, eps: float = 1e-5
) -> Float[Array, "*N D D"]:
    """One sample's Jacobian for each sample: diag(γ) (I − (11ᵀ + x̂x̂ᵀ)/D) / √(σ² + ε). [E-01]

    With ε = 0, I − (11ᵀ + x̂x̂ᵀ)/D projects onto the vectors orthogonal to 1 and to x̂: a change of x
    that only shifts or scales it has no effect.

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
    _require_positive("jac_layer_norm_x_blocks", eps)
    mu, per_sigma = _statistics(wide(x), eps)
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
    return block_diagonal(jac_layer_norm_x_blocks(x, gamma, beta, eps=eps))  # [E-01]


@checked
def rms_norm_fwd(
    x: Float[Array, "*N D"], gamma: Float[Array, " D"], *, eps: float = 1e-6
) -> tuple[Float[Array, "*N D"], NormResiduals]:
    """y = γ x / √(mean(x²) + ε), with the mean over each sample's features. [E-02]

    Args:
        x: (…, D).
        gamma: (D,).
        eps: ε, positive; it is added to the mean of squares.
    Returns:
        ``(y, res)``: y (…, D).
    Raises:
        InputError: ``eps`` is not positive, or a shape or dtype does not match.
    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4; ε is added, as is
    common.

    >>> rms_norm_fwd(jnp.array([1.0, -7.0]), jnp.array([1.0, 10.0]), eps=1e-12)[0].round(1).tolist()
    [0.20000000298023224, -14.0]
    """
    _require_positive("rms_norm_fwd", eps)
    y = gamma * (x * _per_rms(wide(x), eps))  # [E-02]
    return y.astype(x.dtype), NormResiduals(x, gamma, float(eps))


def _per_rms(x: Float[Array, "*N D"], eps: float) -> Float[Array, "*N 1"]:
    return 1 / jnp.sqrt(_mean(x**2) + eps)  # [E-02]


@checked
def rms_norm_bwd(
    res: NormResiduals, dy: Float[Array, "*N D"]
) -> tuple[Float[Array, "*N D"], Float[Array, " D"]]:
    """Pull ``dy`` back through RMS normalisation. [E-02]

        dx̂ = γ dy        dx = (dx̂ − x̂ mean(dx̂ x̂)) / √(mean(x²) + ε)        dγ = Σ dy x̂

    The mean runs over a sample's features, the sum over the samples. The term subtracted is the path through
    the root mean square: scaling x changes nothing.

    Args:
        res: from the forward pass.
        dy: cotangent of y, (…, D).
    Returns:
        ``(dx, dgamma)``, (…, D) and (D,).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dy`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> _, res = rms_norm_fwd(jnp.array([[3.0, 4.0]]), jnp.ones(2))
    >>> abs(float((rms_norm_bwd(res, jnp.array([[1.0, 2.0]]))[0] * res.x).sum())) < 1e-6
    True
    """
    x, gamma = res.x, res.gamma
    require_shape("rms_norm_bwd", "dy", dy, x.shape)
    per_rms = _per_rms(wide(x), res.eps)
    mean_with_x_hat, dgamma = in_blocks(_rms_norm_sums, (x, dy, per_rms), (gamma,))
    dx = per_rms * (gamma * wide(dy) - x * (per_rms * mean_with_x_hat))  # [E-02]
    return dx.astype(x.dtype), dgamma.astype(gamma.dtype)


def _rms_norm_sums(x: Array, dy: Array, per_rms: Array, gamma: Array) -> tuple[Array, Array]:
    """``(mean(dx̂ x̂), dγ)``: two sums of the same products, over the features and over the samples."""
    products = wide(dy) * x
    mean_with_x_hat = per_rms * _mean_times(products, gamma)  # [E-02]
    dgamma = weighted_sum(per_rms.reshape(-1), products.reshape(-1, x.shape[-1]))  # [E-02]
    return mean_with_x_hat, dgamma


@checked
def jac_rms_norm_x_blocks(
    x: Float[Array, "*N D"], gamma: Float[Array, " D"], *, eps: float = 1e-6
) -> Float[Array, "*N D D"]:
    """One sample's Jacobian for each sample: diag(γ) (I − x̂x̂ᵀ/D) / √(mean(x²) + ε). [E-02]

    With ε = 0, I − x̂x̂ᵀ/D projects onto the vectors orthogonal to x.

    Args:
        x, gamma, eps: as in :func:`rms_norm_fwd`.
    Returns:
        (…, D, D), the blocks on the diagonal of :func:`jac_rms_norm_x`.
    Raises:
        InputError: as in :func:`rms_norm_fwd`.
    Source: as the forward pass.

    >>> x = jnp.array([1.0, 3.0, 5.0])
    >>> bool(jnp.allclose(jac_rms_norm_x_blocks(x, jnp.ones(3)) @ x, 0, atol=1e-6))
    True
    """
    _require_positive("jac_rms_norm_x_blocks", eps)
    per_rms = _per_rms(wide(x), eps)
    x_hat = x * per_rms
    projection = (
        jnp.eye(x.shape[-1], dtype=x_hat.dtype) - x_hat[..., :, None] * x_hat[..., None, :] / x.shape[-1]
    )
    return (gamma[:, None] * per_rms[..., None] * projection).astype(x.dtype)  # [E-02]


@checked
def jac_rms_norm_x(
    x: Float[Array, "*N D"], gamma: Float[Array, " D"], *, eps: float = 1e-6
) -> Float[Array, "..."]:
    """∂y/∂x of shape ``x.shape + x.shape``: block-diagonal over the samples. [E-02]

    Args:
        x, gamma, eps: as in :func:`rms_norm_fwd`.
    Returns:
        (D, D) or (…, D, …, D); zero between different samples.
    Raises:
        InputError: as in :func:`rms_norm_fwd`.
    Source: as the forward pass.

    >>> jac_rms_norm_x(jnp.ones((4, 3)), jnp.ones(3)).shape
    (4, 3, 4, 3)
    """
    return block_diagonal(jac_rms_norm_x_blocks(x, gamma, eps=eps))  # [E-02]


@checked
def group_norm_fwd(
    x: Float[Array, "N *shape C"],
    gamma: Float[Array, " C"],
    beta: Float[Array, " C"],
    *,
    groups: int,
    eps: float = 1e-5,
) -> tuple[Float[Array, "N *shape C"], NormResiduals]:
    """y = γ (x − μ) / √(σ² + ε) + β, with μ and σ² of each sample's channels, group by group. [E-03]

    Args:
        x: (N, …, C), channels last; the axes in between belong to the sample.
        gamma, beta: (C,), one for each channel.
        groups: G, which divides C; channel c is in group ⌊c / (C/G)⌋.
        eps: ε, positive; it is added to the variance.
    Returns:
        ``(y, res)``: y shaped like x.
    Raises:
        InputError: ``groups`` does not divide C, ``eps`` is not positive, or a shape or dtype does not match.
    Source: Wu and He, "Group Normalization", 2018, equations 1, 6 and 7.

    >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
    >>> group_norm_fwd(x, jnp.ones(4), jnp.zeros(4), groups=2, eps=1e-12)[0].tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    C = x.shape[-1]
    require(
        isinstance(groups, int) and groups >= 1 and C % groups == 0,
        f"group_norm_fwd: groups is {groups!r}, expected a divisor of the {C} channels of x",
    )
    _require_positive("group_norm_fwd", eps)
    grouped = _in_groups(wide(x), groups)
    mu, per_sigma = _statistics(grouped, eps, GROUP)
    x_hat = ((grouped - mu) * per_sigma).reshape(x.shape)  # [E-03]
    y = gamma * x_hat + beta  # [E-03]
    return y.astype(x.dtype), NormResiduals(x, gamma, float(eps), groups)


def _in_groups(x: Float[Array, "N *shape C"], groups: int) -> Float[Array, "N S G c"]:
    N, C = x.shape[0], x.shape[-1]
    return x.reshape(N, -1, groups, C // groups)


@checked
def group_norm_bwd(
    res: NormResiduals, dy: Float[Array, "*N D"]
) -> tuple[Float[Array, "*N D"], Float[Array, " D"], Float[Array, " D"]]:
    """Pull ``dy`` back through group normalisation. [E-03]

        dx̂ = γ dy        dx = (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂)) / √(σ² + ε)

        dγ = Σ dy x̂        dβ = Σ dy

    The means run over the numbers that share their statistics: the positions and channels of one group of one
    sample. γ varies within a group, so it is inside the means. The sums run over all samples and positions.

    Args:
        res: from the forward pass.
        dy: cotangent of y, shaped like x.
    Returns:
        ``(dx, dgamma, dbeta)``, shaped like x, (C,) and (C,).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dy`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> _, res = group_norm_fwd(jnp.array([[1.0, 3.0, 10.0, 30.0]]), jnp.ones(4), jnp.zeros(4), groups=2)
    >>> group_norm_bwd(res, jnp.ones((1, 4)))[2].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    x, gamma, groups = res.x, res.gamma, res.groups
    require_shape("group_norm_bwd", "dy", dy, x.shape)
    grouped, dy = _in_groups(wide(x), groups), wide(dy)
    mu, per_sigma = _statistics(grouped, res.eps, GROUP)
    x_hat = (grouped - mu) * per_sigma  # [E-03]
    dx_hat = _in_groups(gamma * dy, groups)  # [E-03]
    dx = per_sigma * (dx_hat - _mean(dx_hat, GROUP) - x_hat * _mean(dx_hat * x_hat, GROUP))  # [E-03]
    places = _all_but_last(x)
    dgamma, dbeta = (dy * x_hat.reshape(x.shape)).sum(axis=places), dy.sum(axis=places)  # [E-03]
    return dx.reshape(x.shape).astype(x.dtype), dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype)


@checked
def batch_norm_fwd(
    x: Float[Array, "N *shape C"], gamma: Float[Array, " C"], beta: Float[Array, " C"], *, eps: float = 1e-5
) -> tuple[Float[Array, "N *shape C"], NormResiduals]:
    """y = γ (x − μ) / √(σ² + ε) + β, with μ and σ² of each channel over all samples and positions. [E-04]

    The statistics are those of this batch, as in training.

    Args:
        x: (N, …, C), channels last.
        gamma, beta: (C,), one for each channel.
        eps: ε, positive; it is added to the biased variance, the mean of the squares.
    Returns:
        ``(y, res)``: y shaped like x.
    Raises:
        InputError: a channel has only one value, ``eps`` is not positive, or a shape or dtype does not
            match.
    Source: Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1.

    >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    >>> batch_norm_fwd(x, jnp.ones(2), jnp.array([0.0, 5.0]), eps=1e-12)[0].tolist()
    [[-1.0, 4.0], [1.0, 6.0]]
    """
    require(
        x.size > x.shape[-1],
        f"batch_norm_fwd: x is {describe(x)}, expected more than one value for each channel",
    )
    _require_positive("batch_norm_fwd", eps)
    mu, per_sigma = _statistics(wide(x), eps, _all_but_last(x))
    y = gamma * ((x - mu) * per_sigma) + beta  # [E-04]
    return y.astype(x.dtype), NormResiduals(x, gamma, float(eps))


@checked
def batch_norm_bwd(
    res: NormResiduals, dy: Float[Array, "*N D"]
) -> tuple[Float[Array, "*N D"], Float[Array, " D"], Float[Array, " D"]]:
    """Pull ``dy`` back through batch normalisation. [E-04]

        dγ = Σ dy x̂        dβ = Σ dy        dx = γ (dy − dβ/n − x̂ dγ/n) / √(σ² + ε)

    The sums run over the n values of a channel. γ is the same for all values that share their
    statistics, so the means of γ dy and γ dy x̂ are γ dβ/n and γ dγ/n.

    Args:
        res: from the forward pass.
        dy: cotangent of y, shaped like x.
    Returns:
        ``(dx, dgamma, dbeta)``, shaped like x, (C,) and (C,).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dy`` has the wrong shape or dtype.
    Source: Ioffe and Szegedy 2015, section 3, in one line; the derivation is in the book's chapter E.

    >>> _, res = batch_norm_fwd(jnp.array([[1.0], [3.0], [5.0]]), jnp.ones(1), jnp.zeros(1))
    >>> batch_norm_bwd(res, jnp.ones((3, 1)))[0].tolist()
    [[0.0], [0.0], [0.0]]
    """
    x, gamma = res.x, res.gamma
    require_shape("batch_norm_bwd", "dy", dy, x.shape)
    values, n = _all_but_last(x), x.size // x.shape[-1]
    mu, per_sigma = _statistics(wide(x), res.eps, values)
    x_hat, dy = (x - mu) * per_sigma, wide(dy)  # [E-04]
    dgamma, dbeta = (dy * x_hat).sum(axis=values), dy.sum(axis=values)  # [E-04]
    dx = gamma * per_sigma * (dy - dbeta / n - x_hat * (dgamma / n))  # [E-04]
    return dx.astype(x.dtype), dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype)
