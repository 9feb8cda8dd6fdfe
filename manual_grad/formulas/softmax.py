"""Softmax, cross-entropy and the two together, samples in rows and in columns. Lectures A, B and D.

    ŷ = softmax(l)        J = −(1/N) Σ y ln ŷ        ∂J/∂l = −(1/N)(y − ŷ)

Stable for every finite logit, because each sample's largest logit is subtracted. At ±∞ the value is the limit
if there is one (a single +∞ takes all the probability, −∞ takes none) and NaN if there is none (two +∞, or
all −∞). A term of the loss with label 0 is 0, whatever its probability. JAX can differentiate the forward
passes again, for a second derivative: no path is cut where logits are equal or a label is 0.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from manual_grad.border import (
    Label,
    Scalar,
    checked,
    describe,
    require,
    require_float_dtype,
    require_labels_in_range,
)
from manual_grad.formulas.chain_rule import block_diagonal
from manual_grad.formulas.limits import (
    counted,
    log_where_labelled,
    share_of_mean,
    shifted_exponentials,
    wide,
    zero_times_log_zero,
)

IntegerResiduals = (
    tuple[Float[Array, "N K"], Integer[Array, " N"]]
    | tuple[Float[Array, "N K"], Integer[Array, " N"], Integer[Array, ""]]
)


def _log_softmax(logits: Float[Array, "..."], labels: Float[Array, "..."], axis: int) -> tuple[Array, Array]:
    """``(log_probs, expected)``: ln p and p Σ_j y_j, the labels expected under the probabilities."""
    shifted, exps, total = shifted_exponentials(logits, axis)
    return shifted - jnp.log(total), exps * (labels.sum(axis=axis, keepdims=True) / total)


@checked
def one_hot(labels: Integer[Array, "*N"] | int, K: int, dtype: Any = None) -> Float[Array, "*N K"]:
    """1{k = y} for each class k; under ``jit`` a row of NaN if y is not a class. [B-10]

    Args:
        labels: integers from 0 to K − 1, any shape.
        K: the number of classes.
        dtype: floating-point dtype, by default JAX's.
    Returns:
        An array of the shape of ``labels`` with a last axis of length K.
    Raises:
        InputError: ``labels`` are not integers or are out of range (eagerly), ``K`` is below 1, ``dtype`` is
            not a floating-point dtype.
    Source: Lecture B, page 3: 1[y = k].

    >>> one_hot(jnp.array([1, 0]), 3).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    require(K >= 1, f"one_hot: K is {describe(K)}, expected at least 1")
    require(K < 2**31, f"one_hot: K is {describe(K)}, expected fewer than {2**31}")
    dtype = require_float_dtype("one_hot", jnp.result_type(float) if dtype is None else dtype)
    require_labels_in_range("one_hot", labels, K)
    y, valid = _classes(labels, K)
    hot = (y[..., None] == jnp.arange(K)).astype(dtype)
    return jnp.where(valid[..., None], hot, jnp.nan)  # [B-10]


def _classes(labels: Any, K: int) -> tuple[Array, Array]:
    """The labels in a dtype that can hold K (uint8 cannot hold 256), and whether each is a class."""
    y = jnp.asarray(labels)
    y = y.astype(jnp.int32) if y.dtype.itemsize < 4 else y
    return y, (y >= 0) & (y < K)


@checked
def softmax_fwd(logits: Float[Array, "*N K"]) -> tuple[Float[Array, "*N K"], Float[Array, "*N K"]]:
    """ŷ_k = e^{l_k} / Σ_j e^{l_j} over the last axis. [A-07] [D-03]

    Args:
        logits: (…, K).
    Returns:
        ``(probs, probs)``, (…, K); each row sums to 1.
    Raises:
        InputError: ``logits`` is not a floating-point array with at least one axis.
    Source: Lecture A, "The MOST important thing".

    >>> softmax_fwd(jnp.array([7.0, 7.0]))[0].tolist()
    [0.5, 0.5]
    """
    _, exps, total = shifted_exponentials(logits)
    probs = exps / total  # [A-07] [D-03]
    return probs, probs


@checked
def softmax_bwd(res: Float[Array, "*N K"], dprobs: Float[Array, "*N K"]) -> tuple[Float[Array, "*N K"]]:
    """Pull ``dprobs`` back through softmax without its K×K Jacobian. [A-08]

        ∂J/∂l_j = dŷ_j ŷ_j − ŷ_j Σ_k dŷ_k ŷ_k

    Args:
        res: probs, (…, K).
        dprobs: cotangent dŷ, (…, K).
    Returns:
        ``(dlogits,)``, (…, K); each row sums to 0.
    Raises:
        InputError: the two differ in shape or dtype.
    Source: Lecture A, "The MOST important thing".

    >>> softmax_bwd(jnp.array([0.5, 0.5]), jnp.array([4.0, 0.0]))[0].tolist()
    [1.0, -1.0]
    """
    probs = res
    dlogits = probs * (dprobs - (dprobs * probs).sum(axis=-1, keepdims=True))
    return (dlogits,)


@checked
def jac_softmax_logits_blocks(logits: Float[Array, "*N K"]) -> Float[Array, "*N K K"]:
    """One sample's softmax Jacobian for each sample: diag(ŷ) − ŷŷᵀ. [A-07] [D-05]

        ∂ŷ_k/∂l_j = ŷ_j (1 − ŷ_j) where k = j, −ŷ_k ŷ_j elsewhere

    Args:
        logits: (…, K).
    Returns:
        (…, K, K), the blocks on the diagonal of :func:`jac_softmax_logits`.
    Raises:
        InputError: ``logits`` is not a floating-point array with at least one axis.
    Source: Lecture A, "The MOST important thing".

    >>> jac_softmax_logits_blocks(jnp.array([7.0, 7.0])).tolist()
    [[0.25, -0.25], [-0.25, 0.25]]
    """
    probs = softmax_fwd(logits)[0]
    eye = jnp.eye(logits.shape[-1], dtype=probs.dtype)
    return probs[..., None, :] * (eye - probs[..., :, None])  # [A-07] [D-05]


@checked
def jac_softmax_logits(logits: Float[Array, "*N K"]) -> Float[Array, "..."]:
    """∂ŷ/∂l of shape ``logits.shape + logits.shape``: block-diagonal over the samples. [A-07]

    Args:
        logits: (K,) or (…, K).
    Returns:
        (K, K) or (…, K, …, K); zero between different samples.
    Raises:
        InputError: ``logits`` is not a floating-point array with at least one axis.
    Source: Lecture A, "The MOST important thing".

    >>> jac_softmax_logits(jnp.zeros((3, 2))).shape
    (3, 2, 3, 2)
    """
    return block_diagonal(jac_softmax_logits_blocks(logits))


@checked
def cross_entropy_fwd(
    probs: Float[Array, "N K"], labels: Float[Array, "N K"]
) -> tuple[Float[Array, ""], tuple[Float[Array, "N K"], Float[Array, "N K"]]]:
    """J = −(1/N) Σ_i Σ_k y_ik ln ŷ_ik. [A-09] [D-04]

    Args:
        probs: ŷ, (N, K).
        labels: y, (N, K), one-hot or any distribution.
    Returns:
        ``(J, res)``: J scalar.
    Raises:
        InputError: the two are not floating-point matrices of the same shape and dtype.
    Source: Lecture A, "The MOST important thing".

    >>> round(float(cross_entropy_fwd(jnp.array([[0.5, 0.5]]), jnp.array([[1.0, 0.0]]))[0]), 4)
    0.6931
    """
    J = -(labels * log_where_labelled(labels, probs)).sum(axis=-1).mean()  # [A-09] [D-04]
    return J, (probs, labels)


@checked
def cross_entropy_bwd(
    res: tuple[Float[Array, "N K"], Float[Array, "N K"]], dJ: Scalar
) -> tuple[Float[Array, "N K"], Float[Array, "N K"]]:
    """Pull ``dJ`` back through cross-entropy. [A-09] [D-04]

        dŷ_k = −(1/N) y_k / ŷ_k

    Args:
        res: ``(probs, labels)``.
        dJ: cotangent of the loss.
    Returns:
        ``(dprobs, dlabels)``, each (N, K).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture A, "The MOST important thing".

    >>> res = cross_entropy_fwd(jnp.array([[0.25, 0.75]]), jnp.array([[1.0, 0.0]]))[1]
    >>> cross_entropy_bwd(res, 1.0)[0].tolist()
    [[-4.0, 0.0]]
    """
    probs, labels = res
    N = len(probs)
    share = share_of_mean(dJ, N, probs.dtype)
    dprobs = jnp.where(labels == 0, 0, -share * labels / probs)  # [A-09] [D-04]
    dlabels = -share * jnp.log(probs)
    return dprobs.astype(probs.dtype), dlabels.astype(probs.dtype)


@checked
def jac_cross_entropy_probs(probs: Float[Array, "N K"], labels: Float[Array, "N K"]) -> Float[Array, "N K"]:
    """∂J/∂ŷ of the scalar loss: −(1/N) y/ŷ. [A-09] [D-04]

    Args:
        probs, labels: (N, K).
    Returns:
        (N, K).
    Raises:
        InputError: the two are not floating-point matrices of the same shape and dtype.
    Source: Lecture A, "The MOST important thing".

    >>> jac_cross_entropy_probs(jnp.array([[0.25, 0.75]]), jnp.array([[1.0, 0.0]])).tolist()
    [[-4.0, 0.0]]
    """
    return cross_entropy_bwd((probs, labels), 1.0)[0]  # [A-09] [D-04]


@checked
def softmax_cross_entropy_fwd(
    logits: Float[Array, "N K"], labels: Float[Array, "N K"]
) -> tuple[Float[Array, ""], tuple[Float[Array, "N K"], Float[Array, "N K"], Float[Array, "N K"]]]:
    """J = −(1/N) Σ y ln softmax(l). [A-10]

    Args:
        logits: (N, K).
        labels: (N, K), one-hot, smoothed, or with rows of any sum.
    Returns:
        ``(J, res)``: J scalar, ``res = (expected, log_probs, labels)``; expected is p Σ_j y_j.
    Raises:
        InputError: the two are not floating-point matrices of the same shape and dtype.
    Source: Lecture A, "The MOST important thing".

    >>> J, _ = softmax_cross_entropy_fwd(jnp.array([[1e4, 0.0]]), jnp.array([[0.0, 1.0]]))
    >>> float(J)
    10000.0
    """
    log_probs, expected = _log_softmax(logits, labels, axis=-1)
    J = -zero_times_log_zero(labels, log_probs).sum(axis=-1).mean()
    return J, (expected, log_probs, labels)


@checked
def softmax_cross_entropy_bwd(
    res: tuple[Float[Array, "N K"], Float[Array, "N K"], Float[Array, "N K"]], dJ: Scalar
) -> tuple[Float[Array, "N K"], Float[Array, "N K"]]:
    """Pull ``dJ`` back through softmax and cross-entropy at once. [A-10] [D-06]

        dlogits_ik = dJ/N (p_ik Σ_j y_ij − y_ik)        = −(1/N)(y − p) where each row of y sums to 1

    Args:
        res: ``(expected, log_probs, labels)``, each (N, K); expected is p Σ_j y_j.
        dJ: cotangent of the loss.
    Returns:
        ``(dlogits, dlabels)``, each (N, K). Each row of dlogits sums to 0.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture A, "The MOST important thing", the line before Σ y = 1 is used.

    >>> res = softmax_cross_entropy_fwd(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]]))[1]
    >>> softmax_cross_entropy_bwd(res, 1.0)[0].tolist()
    [[-0.5, 0.5]]
    """
    expected, log_probs, labels = res
    N = len(labels)
    share = share_of_mean(dJ, N, labels.dtype)
    dlogits = share * (expected - labels)  # [A-10] [D-06]
    dlabels = -share * log_probs
    return dlogits.astype(labels.dtype), dlabels.astype(labels.dtype)


@checked
def jac_softmax_cross_entropy_logits(
    logits: Float[Array, "N K"], labels: Float[Array, "N K"]
) -> Float[Array, "N K"]:
    """∂J/∂l as the product of the two Jacobians, (A-09)(A-07). [A-10]

    NaN if the probability of a labelled class underflows to 0, since −y/ŷ · ŷ is ∞ · 0 there;
    :func:`softmax_cross_entropy_bwd`, where the two have cancelled, does not have this problem.

    Args:
        logits, labels: (N, K).
    Returns:
        (N, K).
    Raises:
        InputError: the two are not floating-point matrices of the same shape and dtype.
    Source: Lecture A, "The MOST important thing".

    >>> jac_softmax_cross_entropy_logits(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]])).tolist()
    [[-0.5, 0.5]]
    """
    dJ_dprobs = jac_cross_entropy_probs(softmax_fwd(logits)[0], labels)
    return jnp.tensordot(dJ_dprobs, jac_softmax_logits(logits), axes=2)


@checked
def jac_softmax_cross_entropy_logits_one_hot(
    logits: Float[Array, "N K"], labels: Float[Array, "N K"]
) -> Float[Array, "N K"]:
    """∂J/∂L = −(1/N)(Y − Ŷ), the lecture's last line. [A-10]

    Holds only if each row of ``labels`` sums to 1 (one-hot, smoothed, a distribution), which the caller
    guarantees. :func:`softmax_cross_entropy_bwd` holds for any labels.

    Args:
        logits: (N, K).
        labels: (N, K), each row summing to 1.
    Returns:
        (N, K).
    Raises:
        InputError: the two are not floating-point matrices of the same shape and dtype.
    Source: Lecture A, "The MOST important thing".

    >>> jac_softmax_cross_entropy_logits_one_hot(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]])).tolist()
    [[-0.5, 0.5]]
    """
    Y, Y_hat = labels, softmax_fwd(logits)[0]
    return (-share_of_mean(1, len(Y), Y.dtype) * (Y - Y_hat)).astype(Y.dtype)


@checked
def softmax_cross_entropy_with_integer_labels_fwd(
    logits: Float[Array, "N K"], labels: Integer[Array, " N"], *, ignore_index: int | None = None
) -> tuple[Float[Array, ""], IntegerResiduals]:
    """J = −(1/N) Σ_i ln p_{i, y_i} over the N labels that are not ignored. [B-09] [B-13] [E-27]

    Args:
        logits: (N, K).
        labels: (N,), integers from 0 to K − 1, or ``ignore_index``.
        ignore_index: a label, which need not be a class, whose samples do not count, whatever their logits.
    Returns:
        ``(J, res)``: J scalar; NaN under ``jit`` where a label is not a class or all are ignored.
    Raises:
        InputError: a shape or dtype does not match; a label is out of range or all are ignored (eagerly).
    Source: Lecture B, pages 3 and 5.

    >>> J, _ = softmax_cross_entropy_with_integer_labels_fwd(jnp.array([[1e4, 0.0]]), jnp.array([1]))
    >>> float(J)
    10000.0
    """
    K = logits.shape[-1]
    name = "softmax_cross_entropy_with_integer_labels_fwd"
    require_labels_in_range(name, labels, K, ignore_index=ignore_index)
    shifted, exps, total = shifted_exponentials(logits)
    y, valid = _classes(labels, K)
    picked = (jnp.take_along_axis(shifted, y[:, None], axis=-1) - jnp.log(total))[:, 0]
    picked = jnp.where(valid, picked, jnp.nan)
    counts = counted(labels, ignore_index)
    if counts is None:
        return -picked.mean(), (exps / total, labels)  # [B-09] [B-13]
    n = counts.sum()
    J = -(wide(jnp.where(counts, picked, 0)).sum() / n).astype(picked.dtype)  # [E-27]
    return J, _without_error(counts, exps / total, labels, n)


def _without_error(counts: Array, probs: Array, labels: Array, n: Array) -> tuple[Array, Array, Array]:
    """The residuals of an ignored sample: class 0 with probability 1, so that p − 1{k = y} is 0."""
    certain = (jnp.arange(probs.shape[1]) == 0).astype(probs.dtype)
    return jnp.where(counts[:, None], probs, certain), jnp.where(counts, labels, 0), n  # [E-27]


@checked
def softmax_cross_entropy_with_integer_labels_bwd(
    res: IntegerResiduals, dJ: Scalar
) -> tuple[Float[Array, "N K"]]:
    """Pull ``dJ`` back through softmax cross-entropy with integer labels. [B-10] [B-14] [E-27]

        ∂J/∂s_k = (1/N)(p_k − 1{k = y}), and 0 for a sample whose label is ignored

    Args:
        res: ``(probs, labels)``, and where labels may be ignored, the number N of the others.
        dJ: cotangent of the loss.
    Returns:
        ``(dlogits,)``, (N, K): the integer labels have no cotangent. Where a label is not a class its row is
        NaN.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture B, pages 3 and 5, with the cases corrected (B-E1).

    >>> res = softmax_cross_entropy_with_integer_labels_fwd(jnp.array([[0.0, 0.0]]), jnp.array([0]))[1]
    >>> softmax_cross_entropy_with_integer_labels_bwd(res, 1.0)[0].tolist()
    [[-0.5, 0.5]]
    """
    probs, labels = res[:2]
    N = res[2] if len(res) > 2 else len(labels)  # [E-27]
    share = share_of_mean(dJ, N, probs.dtype)
    dlogits = share * (probs - one_hot(labels, probs.shape[1], probs.dtype))  # [B-10] [B-14]
    return (dlogits.astype(probs.dtype),)


@checked
def softmax_cross_entropy_columns_fwd(
    Z: Float[Array, "K N"], Y: Float[Array, "K N"]
) -> tuple[Float[Array, ""], tuple[Float[Array, "K N"], Float[Array, "K N"], Float[Array, "K N"]]]:
    """L = −(1/m) Σ y ln A with A = softmax(Z) over the classes, one sample per column. [D-03] [D-04]

    Args:
        Z: scores, (K, N).
        Y: labels, (K, N).
    Returns:
        ``(L, res)``: L scalar, ``res = (A Σ_j Y_j, ln A, Y)``.
    Raises:
        InputError: the two are not floating-point matrices of the same shape and dtype.
    Source: Lecture D, page 2.

    >>> float(softmax_cross_entropy_columns_fwd(jnp.array([[1e4], [0.0]]), jnp.array([[0.0], [1.0]]))[0])
    10000.0
    """
    log_A, expected = _log_softmax(Z, Y, axis=0)  # [D-03]
    L = -zero_times_log_zero(Y, log_A).sum(axis=0).mean()  # [D-04]
    return L, (expected, log_A, Y)


@checked
def softmax_cross_entropy_columns_bwd(
    res: tuple[Float[Array, "K N"], Float[Array, "K N"], Float[Array, "K N"]], dL: Scalar
) -> tuple[Float[Array, "K N"], Float[Array, "K N"]]:
    """Pull ``dL`` back through softmax cross-entropy in columns: (1/m)(A − Y). [D-06] [B-14] [D-04]

    Args:
        res: ``(A Σ_j Y_j, ln A, Y)``, each (K, N); if the labels of each sample sum to 1, the first is A.
        dL: cotangent of the loss.
    Returns:
        ``(dZ, dY)``, each (K, N).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dL`` is not a scalar.
    Source: Lecture D, page 3, with the 1/m that later pages drop (D-E4).

    >>> res = softmax_cross_entropy_columns_fwd(jnp.zeros((2, 1)), jnp.array([[1.0], [0.0]]))[1]
    >>> softmax_cross_entropy_columns_bwd(res, 1.0)[0].tolist()
    [[-0.5], [0.5]]
    """
    expected, log_A, Y = res
    m = Y.shape[1]
    share = share_of_mean(dL, m, Y.dtype)
    dZ = share * (expected - Y)  # [B-14] [D-06]
    dY = -share * log_A  # [D-04]
    return dZ.astype(Y.dtype), dY.astype(Y.dtype)


@checked
def cross_entropy_of_scores_fwd(
    s: Float[Array, " c"], y: Label
) -> tuple[Float[Array, ""], tuple[Float[Array, " c"], Label]]:
    """J = −ln(e^{s_y} / Σ_j e^{s_j}), one sample, by log-sum-exp. [B-09]

    Args:
        s: scores, (c,).
        y: the class, an integer from 0 to c − 1.
    Returns:
        ``(J, res)``: J scalar; NaN under ``jit`` where y is not a class.
    Raises:
        InputError: a shape or dtype does not match; y is out of range (eagerly).
    Source: Lecture B, page 3.

    >>> float(cross_entropy_of_scores_fwd(jnp.array([1e4, 0.0]), 1)[0])
    10000.0
    """
    require_labels_in_range("cross_entropy_of_scores_fwd", y, len(s), "y")
    J, res = softmax_cross_entropy_with_integer_labels_fwd(s[None], jnp.asarray(y)[None])  # [B-09]
    return J, (res[0][0], res[1][0])


@checked
def cross_entropy_of_scores_bwd(
    res: tuple[Float[Array, " c"], Label], dJ: Scalar
) -> tuple[Float[Array, " c"]]:
    """Pull ``dJ`` back to one sample's scores: p_k − 1{k = y}. [B-10]

    Args:
        res: ``(p, y)``.
        dJ: cotangent of the loss.
    Returns:
        ``(ds,)``, (c,).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture B, page 3, with the cases corrected (B-E1).

    >>> cross_entropy_of_scores_bwd(cross_entropy_of_scores_fwd(jnp.zeros(2), 0)[1], 1.0)[0].tolist()
    [-0.5, 0.5]
    """
    p, y = res
    ds = dJ * (p - one_hot(y, len(p), p.dtype))  # [B-10]
    return (ds,)
