"""Losses beyond the lectures: binary cross-entropy, the divergence of two softmaxes, a robust square.

Each is a mean over N samples. Everything is computed in float32 if the inputs are in half precision.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manual_grad.border import Scalar, checked, require
from manual_grad.formulas.limits import share_of_mean, shifted_exponentials, smaller_logistic, wide


def _require_probabilities(formula: str, labels: Any) -> None:
    """Refuse labels outside [0, 1] if their values are known; under ``jit`` the sample becomes NaN."""
    if isinstance(labels, jax.core.Tracer) or not getattr(labels, "is_fully_addressable", True):
        return
    values = np.asarray(labels, np.float64)
    for n in np.flatnonzero(~((values >= 0) & (values <= 1)))[:1]:
        require(False, f"{formula}: labels[{n}] is {values[n]:g}, expected a number from 0 to 1")


def _distance(logits: Float[Array, " N"], labels: Float[Array, " N"]) -> Float[Array, " N"]:
    """The distance of the label from the likelier class: y if l ≤ 0, else 1 − y; NaN if not a probability."""
    labels = jnp.where((labels >= 0) & (labels <= 1), labels, jnp.nan)
    return jnp.where(logits > 0, 1 - labels, labels)


@checked
def binary_cross_entropy_with_logits_fwd(
    logits: Float[Array, " N"], labels: Float[Array, " N"]
) -> tuple[Float[Array, ""], tuple[Float[Array, " N"], Float[Array, " N"]]]:
    """J = −(1/N) Σ_i (y_i ln σ(l_i) + (1 − y_i) ln(1 − σ(l_i))). [E-22]

    Computed as ln(1 + e^{−|l|}) + |l| d, with d the distance of the label from the likelier class: nothing
    overflows, and nothing cancels.

    Args:
        logits: (N,).
        labels: (N,), each from 0 to 1.
    Returns:
        ``(J, res)``: J scalar; NaN under ``jit`` if a label is not a probability.
    Raises:
        InputError: a label is not between 0 and 1 (checked outside ``jit`` only), or a shape or
            dtype does not match.
    Source: Bishop, "Pattern Recognition and Machine Learning", 2006, equation 4.90, divided by N.

    >>> float(binary_cross_entropy_with_logits_fwd(jnp.array([1e4, 1e4]), jnp.array([1.0, 0.0]))[0])
    5000.0
    """
    _require_probabilities("binary_cross_entropy_with_logits_fwd", labels)
    size, d = jnp.abs(wide(logits)), _distance(logits, wide(labels))
    far = jnp.where(d == 0, 0, size * d)
    J = (jnp.log1p(jnp.exp(-size)) + far).mean()  # [E-22]
    return J.astype(logits.dtype), (logits, labels)


@checked
def binary_cross_entropy_with_logits_bwd(
    res: tuple[Float[Array, " N"], Float[Array, " N"]], dJ: Scalar
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Pull ``dJ`` back through binary cross-entropy. [E-22]

        dl = dJ/N (σ(l) − y)        dy = −dJ/N l

    Args:
        res: ``(logits, labels)``.
        dJ: cotangent of the loss.
    Returns:
        ``(dlogits, dlabels)``, each (N,).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Bishop 2006, equation 4.91; the derivation is in the book's chapter E.

    >>> res = jnp.array([0.0]), jnp.array([1.0])
    >>> [d.tolist() for d in binary_cross_entropy_with_logits_bwd(res, 1.0)]
    [[-0.5], [-0.0]]
    """
    logits, labels = res
    share = share_of_mean(dJ, len(logits), logits.dtype)
    error = smaller_logistic(wide(logits)) - _distance(logits, wide(labels))  # for the less likely class
    dlogits = share * jnp.where(logits > 0, -error, error)  # [E-22]
    dlabels = -share * logits  # [E-22]
    return dlogits.astype(logits.dtype), dlabels.astype(labels.dtype)


Divergence = tuple[Float[Array, "N K"], Float[Array, "N K"]]


@checked
def kl_divergence_fwd(
    logits_p: Float[Array, "N K"], logits_q: Float[Array, "N K"]
) -> tuple[Float[Array, ""], Divergence]:
    """J = (1/N) Σ_i Σ_k p_ik (ln p_ik − ln q_ik), with p and q the softmax of their logits. [E-23]

    P comes first, as in KL(P ‖ Q); in PyTorch's function it comes second.

    Args:
        logits_p, logits_q: (N, K).
    Returns:
        ``(J, res)``: J scalar, ``res = (p (ln p − ln q − KL), q − p)``.
    Raises:
        InputError: the two are not matrices of the same shape and dtype.
    Source: Kullback and Leibler, "On Information and Sufficiency", 1951, equation 2.4.

    >>> float(kl_divergence_fwd(jnp.array([[1e4, 0.0]]), jnp.array([[0.0, 1e4]]))[0])
    10000.0
    """
    (shifted_p, exps_p, total_p), (shifted_q, exps_q, total_q) = (
        shifted_exponentials(wide(logits)) for logits in (logits_p, logits_q)
    )
    p, q = exps_p / total_p, exps_q / total_q
    terms = p * jnp.where(p == 0, 0, shifted_p - shifted_q - jnp.log(total_p / total_q))  # [E-23]
    KL = terms.sum(axis=-1, keepdims=True)
    dtype = logits_p.dtype
    return KL.mean().astype(dtype), ((terms - p * KL).astype(dtype), (q - p).astype(dtype))  # [E-23]


@checked
def kl_divergence_bwd(res: Divergence, dJ: Scalar) -> tuple[Float[Array, "N K"], Float[Array, "N K"]]:
    """Pull ``dJ`` back through the divergence of two softmaxes. [E-23]

        dl_p = dJ/N p (ln p − ln q − KL)        dl_q = dJ/N (q − p)

    Args:
        res: ``(p (ln p − ln q − KL), q − p)``, each (N, K).
        dJ: cotangent of the loss.
    Returns:
        ``(dlogits_p, dlogits_q)``, each (N, K); each row sums to 0.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: ours; the derivation is in the book's chapter E.

    >>> res = kl_divergence_fwd(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 0.0]]))[1]
    >>> [d.tolist() for d in kl_divergence_bwd(res, 1.0)]
    [[[0.0, 0.0]], [[0.0, 0.0]]]
    """
    weighted, difference = res
    share = share_of_mean(dJ, len(weighted), weighted.dtype)
    dlogits_p, dlogits_q = share * weighted, share * difference  # [E-23]
    return dlogits_p.astype(weighted.dtype), dlogits_q.astype(weighted.dtype)


@partial(jax.tree_util.register_dataclass, data_fields=("difference",), meta_fields=("delta",))
@dataclass(frozen=True)
class HuberResiduals:
    """What the backward pass needs."""

    difference: Float[Array, " N"]
    delta: float


@checked
def huber_fwd(
    y_hat: Float[Array, " N"], y: Float[Array, " N"], *, delta: float = 1.0
) -> tuple[Float[Array, ""], HuberResiduals]:
    """J = (1/N) Σ_i h(ŷ_i − y_i), with h(d) = ½ d² where |d| ≤ δ, else δ (|d| − δ/2). [E-24]

    Args:
        y_hat, y: (N,).
        delta: δ, positive.
    Returns:
        ``(J, res)``: J scalar.
    Raises:
        InputError: ``delta`` is not positive, or a shape or dtype does not match.
    Source: Huber, "Robust Estimation of a Location Parameter", 1964, section 4.

    >>> float(huber_fwd(jnp.array([1.0, 5.0]), jnp.array([0.0, 0.0]), delta=2.0)[0])
    4.25
    """
    require(delta > 0, f"huber_fwd: delta is {delta!r}, expected a positive number")
    d = wide(y_hat) - wide(y)
    size = jnp.abs(d)
    J = jnp.where(size <= delta, d * d / 2, delta * (size - delta / 2)).mean()  # [E-24]
    return J.astype(y.dtype), HuberResiduals(d.astype(y.dtype), float(delta))


@checked
def huber_bwd(res: HuberResiduals, dJ: Scalar) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Pull ``dJ`` back through Huber's loss: dŷ = dJ/N (d clipped to ±δ), dy = −dŷ. [E-24]

    Args:
        res: from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        ``(dy_hat, dy)``, each (N,).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> res = huber_fwd(jnp.array([1.0, 5.0]), jnp.array([0.0, 0.0]), delta=2.0)[1]
    >>> huber_bwd(res, 2.0)[0].tolist()
    [1.0, 2.0]
    """
    d = res.difference
    share = share_of_mean(dJ, len(d), d.dtype)
    dy_hat = share * jnp.clip(d, -res.delta, res.delta)  # [E-24]
    return dy_hat.astype(d.dtype), (-dy_hat).astype(d.dtype)
