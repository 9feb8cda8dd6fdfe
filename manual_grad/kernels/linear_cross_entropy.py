"""The last linear layer and softmax cross-entropy as one, for many classes. Lectures A and D.

    logits = H W        J = −(1/N) Σ_i ln softmax(logits_i)[y_i]

The N×V logits would be the largest array of the whole network. Here they exist for one chunk of samples at a
time, and the gradients are computed in the same sweep, while they are available.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from manual_grad.border import Scalar, checked, describe, require, require_labels_in_range
from manual_grad.formulas.limits import counted, share_of_mean
from manual_grad.formulas.softmax import (
    softmax_cross_entropy_with_integer_labels_bwd,
    softmax_cross_entropy_with_integer_labels_fwd,
)

COLUMNS = 2048  # of dW at a time: a part that stays in the cache during the addition

Residuals = (
    tuple[Float[Array, "N D"], Float[Array, "D V"]]
    | tuple[Float[Array, "N D"], Float[Array, "D V"], Integer[Array, ""]]
)


@checked
def linear_cross_entropy_fwd(
    hidden: Float[Array, "N D"],
    W: Float[Array, "D V"],
    labels: Integer[Array, " N"],
    *,
    chunk: int = 128,
    ignore_index: int | None = None,
) -> tuple[Float[Array, ""], Residuals]:
    """J = −(1/N) Σ_i ln softmax(h_i W)[y_i], and its gradients, in chunks of samples. [A-10] [E-27]

    N is the number of labels that are not ignored.

    Args:
        hidden: the last layer's input, (N, D).
        W: its weights, (D, V), finite: otherwise dhidden contains 0 · ∞.
        labels: (N,), integers from 0 to V − 1, or ``ignore_index``.
        chunk: the number of samples at a time; chunk × V logits exist at once.
        ignore_index: a label, which need not be a class, whose samples do not count, whatever they contain.
    Returns:
        ``(J, res)``: J scalar; ``res`` is dhidden of the sum over the samples, dW of that sum divided by
        about √N, and, where labels may be ignored, the number of the others.
    Raises:
        InputError: ``chunk`` is below 1, a shape or dtype does not match, a label is out of range or all are
            ignored (eagerly).
    Source: Lecture A's A-10 after Lecture D's last layer; the fusion is ours.

    >>> J, _ = linear_cross_entropy_fwd(jnp.eye(2), 1e4 * jnp.eye(2), jnp.array([0, 0]))
    >>> float(J)
    5000.0
    """
    N, V = len(hidden), W.shape[1]
    require(
        isinstance(chunk, int) and chunk >= 1,
        f"linear_cross_entropy_fwd: chunk is {describe(chunk)}, expected 1 or more",
    )
    require_labels_in_range("linear_cross_entropy_fwd", labels, V, ignore_index=ignore_index)
    n, counts = min(chunk, N), counted(labels, ignore_index)
    if counts is not None:
        hidden, labels = _filled_up(hidden, labels, counts, n, ignore_index)
    whole = len(hidden) - len(hidden) % n
    wide = jnp.promote_types(W.dtype, jnp.float32)  # for sums over many samples

    def sweep(total: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        J, dh, dlogits = _one_chunk(part[0], part[1], W, None if counts is None else ignore_index)
        return (total[0] + J, _add_product(total[1], part[0], dlogits)), dh

    total = jnp.zeros_like(hidden, wide, shape=()), jnp.zeros_like(W, wide)  # _like: of one shard_map axis
    parts = hidden[:whole].reshape(-1, n, hidden.shape[1]), labels[:whole].reshape(-1, n)
    total, dhidden = lax.scan(sweep, total, parts)
    dhidden = dhidden.reshape(whole, -1)
    if whole < N:
        total, rest = sweep(total, (hidden[whole:], labels[whole:]))
        dhidden = jnp.concatenate([dhidden, rest])
    J, dW = total
    if counts is None:
        return (J / N).astype(W.dtype), (dhidden, (dW / _root(N)).astype(W.dtype))
    kept = counts.sum()
    return (J / kept).astype(W.dtype), (dhidden[:N], (dW / _root(N)).astype(W.dtype), kept)  # [E-27]


def _filled_up(
    hidden: Array, labels: Array, counts: Array, n: int, ignored: int | None
) -> tuple[Array, Array]:
    """Whole chunks, the last one padded with ignored samples of zeros."""
    more = -len(labels) % n
    hidden = jnp.pad(jnp.where(counts[:, None], hidden, 0), ((0, more), (0, 0)))
    return hidden, jnp.pad(labels, (0, more), constant_values=ignored)


def _root(N: int) -> int:
    """A power of 2 near √N: in float16 a sum over N overflows, and dividing by N in one step underflows."""
    return 1 << (N.bit_length() // 2)


def _one_chunk(h: Array, y: Array, W: Array, ignored: int | None) -> tuple[Array, Array, Array]:
    """``(J, dh, dlogits)`` of this chunk's sum, not yet divided by N, which would underflow in float16."""
    n = len(h)
    J, res = softmax_cross_entropy_with_integer_labels_fwd(h @ W, y, ignore_index=ignored)
    (dlogits,) = softmax_cross_entropy_with_integer_labels_bwd(res[:2], n)
    J = J.astype(jnp.promote_types(J.dtype, jnp.float32))
    if len(res) > 2:  # if no label of the chunk counts, J is 0/0
        return jnp.where(res[2] > 0, res[2] * J, 0), dlogits @ W.T, dlogits  # [E-27]
    return n * J, dlogits @ W.T, dlogits


def _add_product(dW: Array, h: Array, dlogits: Array) -> Array:
    """dW + hᵀ dlogits, a few columns at a time, so that there is no second array of the size of dW."""
    V = dW.shape[1]
    n = V // -(-V // COLUMNS)

    def add(dW: Array, start: Array | int, n: int) -> Array:
        old, errors = (lax.dynamic_slice_in_dim(a, start, n, axis=1) for a in (dW, dlogits))
        return lax.dynamic_update_slice_in_dim(dW, old + h.T @ errors, start, axis=1)

    dW = lax.fori_loop(0, V // n, lambda i, dW: add(dW, i * n, n), dW)
    return add(dW, V - V % n, V % n) if V % n else dW


@checked
def linear_cross_entropy_bwd(res: Residuals, dJ: Scalar) -> tuple[Float[Array, "N D"], Float[Array, "D V"]]:
    """Scale the gradients computed in the forward sweep by ``dJ``/N. [A-10] [E-27]

    Args:
        res: from the forward pass, (N, D) and (D, V), and the number of labels if some may be ignored.
        dJ: cotangent of the loss.
    Returns:
        ``(dhidden, dW)``, each shaped like its primal; the integer labels have none.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: as the forward pass.

    >>> _, res = linear_cross_entropy_fwd(jnp.ones((1, 1)), jnp.zeros((1, 2)), jnp.array([0]))
    >>> linear_cross_entropy_bwd(res, 4.0)[1].tolist()
    [[-2.0, 2.0]]
    """
    dhidden, dW = res[:2]
    N = len(dhidden)
    share = share_of_mean(dJ, res[2] if len(res) > 2 else N, dW.dtype)  # [E-27]
    return (share * dhidden).astype(dW.dtype), (share * _root(N) * dW).astype(dW.dtype)
