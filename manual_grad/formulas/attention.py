"""Attention: for each query, a mean of the values weighted by the softmax of its scores.

    S = scale · Q Kᵀ        P = softmax(S) over the keys seen        O = P V

Heads are independent. If there are more query heads than key heads, a group of query heads shares a key head.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Float64

from manual_grad.border import checked, describe, require, require_shape
from manual_grad.formulas.limits import wide


@partial(jax.tree_util.register_dataclass, data_fields=("q", "k", "v", "probs"), meta_fields=("scale",))
@dataclass(frozen=True)
class AttentionResiduals:
    """What the backward pass needs. A masked key has probability 0, so the mask itself is not needed."""

    q: Float[Array, "N Lq H D"]
    k: Float[Array, "N Lk Hkv D"]
    v: Float[Array, "N Lk Hkv D"]
    probs: Float32[Array, "N H Lq Lk"] | Float64[Array, "N H Lq Lk"]
    scale: float


FURTHEST = 2**30  # keys; a larger window would wrap around in 32 bits


def _require_heads(formula: str, q: Array, k: Array, mask: Array | None, window: int | None) -> None:
    """Refuse heads that cannot be grouped, a mask of the wrong shape, and a window without a key."""
    N, Lq, H, _ = q.shape
    Lk, Hkv = k.shape[1:3]
    require(H % Hkv == 0, f"{formula}: k is {describe(k)}, with {Hkv} heads; expected a divisor of q's {H}")
    require(
        window is None or (isinstance(window, int) and window >= 1),
        f"{formula}: window is {describe(window)}, expected None or an integer of at least 1",
    )
    wanted = (N, H, Lq, Lk)
    fits = mask is None or (
        mask.ndim <= 4 and all(n in (1, m) for n, m in zip(mask.shape[::-1], wanted[::-1], strict=False))
    )
    axes = ",".join(map(str, wanted))
    require(fits, f"{formula}: mask is {describe(mask)}, expected a mask that broadcasts to bool[{axes}]")


def _sees(i: Array, j: Array, offset: int, *, causal: bool, window: int | None) -> Bool[Array, "..."]:
    """Whether query i sees key j: the last query is aligned with the last key, ``offset`` = Lk − Lq.

    >>> _sees(jnp.arange(2)[:, None], jnp.arange(3), 1, causal=True, window=2).tolist()
    [[True, True, False], [False, True, True]]
    """
    seen = (j <= i + offset) if causal else jnp.ones(jnp.broadcast_shapes(i.shape, j.shape), bool)
    return seen if window is None else seen & (j > i + offset - min(window, FURTHEST))


def _grouped(x: Float[Array, "N Lq H D"], Hkv: int) -> Float[Array, "N Lq Hkv G D"]:
    """The query heads in groups, one for each key head: head h = ⌊h · Hkv/H⌋ and its place there."""
    return x.reshape(*x.shape[:2], Hkv, -1, x.shape[3])


@checked
def attention_fwd(
    q: Float[Array, "N Lq H D"],
    k: Float[Array, "N Lk Hkv D"],
    v: Float[Array, "N Lk Hkv D"],
    mask: Bool[Array, "..."] | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
) -> tuple[Float[Array, "N Lq H D"], AttentionResiduals]:
    """out = softmax(scale · Q Kᵀ) V, each query over the keys that it sees. [E-11]

    Args:
        q: (N, Lq, H, D).
        k, v: (N, Lk, Hkv, D), Hkv a divisor of H: query head h reads key head ⌊h · Hkv/H⌋.
        mask: boolean, True where a query may see a key; it broadcasts to (N, H, Lq, Lk).
        causal: query i sees key j only if j ≤ i + Lk − Lq, so the last query sees all keys.
        window: query i sees key j only if j > i + Lk − Lq − window.
        scale: factor of the scores; 1/√D by default.
    Returns:
        ``(out, res)``: out (N, Lq, H, D), 0 for a query that sees no key. The softmax is computed at least in
        float32.
    Raises:
        InputError: Hkv does not divide H, ``mask`` is not boolean or does not broadcast, ``window`` is below
            1, or a shape or dtype does not match.
    Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1; groups as in Ainslie et al., "GQA",
    2023.

    >>> q, k, v = jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 2, 1, 1)), jnp.array([[[[2.0]], [[4.0]]]])
    >>> attention_fwd(q, k, v)[0].item(), attention_fwd(q, k, v, jnp.array([True, False]))[0].item()
    (3.0, 2.0)
    """
    _require_heads("attention_fwd", q, k, mask, window)
    (N, Lq, H, D), (Lk, Hkv) = q.shape, k.shape[1:3]
    scale = float(D**-0.5 if scale is None else scale)
    wide_q, wide_k, wide_v = map(wide, (q, k, v))
    S = scale * jnp.einsum("nqhgd,nkhd->nhgqk", _grouped(wide_q, Hkv), wide_k).reshape(N, H, Lq, Lk)  # [E-11]
    seen = _sees(jnp.arange(Lq)[:, None], jnp.arange(Lk), Lk - Lq, causal=causal, window=window)
    P = _softmax(jnp.where(seen if mask is None else seen & mask, S, -jnp.inf))  # [E-11]
    out = jnp.einsum("nhgqk,nkhd->nqhgd", P.reshape(N, Hkv, -1, Lq, Lk), wide_v).reshape(q.shape)  # [E-11]
    return out.astype(q.dtype), AttentionResiduals(q, k, v, P, scale)


def _softmax(S: Float[Array, "N H Lq Lk"]) -> Float[Array, "N H Lq Lk"]:
    """Softmax over the last axis; 0 if all scores are −∞. Otherwise the sum is at least 1."""
    largest = jnp.maximum(S.max(axis=-1, keepdims=True), float(jnp.finfo(S.dtype).min))
    exps = jnp.exp(S - largest)
    return exps / jnp.maximum(exps.sum(axis=-1, keepdims=True), 1)


@checked
def attention_bwd(
    res: AttentionResiduals, dout: Float[Array, "N Lq H D"]
) -> tuple[Float[Array, "N Lq H D"], Float[Array, "N Lk Hkv D"], Float[Array, "N Lk Hkv D"]]:
    """Pull ``dout`` back through attention. [E-11]

        dV = Pᵀ dO        dP = dO Vᵀ        dS = P ⊙ (dP − Σ_k dP P)

        dQ = scale · dS K        dK = scale · dSᵀ Q

    dS is the Jacobian of softmax, row by row; for a masked key P is 0, and so is dS. A key head is used by
    all query heads of its group, so dK and dV are sums over them.

    Args:
        res: from the forward pass.
        dout: cotangent of out, (N, Lq, H, D).
    Returns:
        ``(dq, dk, dv)``, each with the shape and dtype of its primal; the mask has no cotangent.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> q, k, v = jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 2, 1, 1)), jnp.array([[[[2.0]], [[4.0]]]])
    >>> dq, dk, dv = attention_bwd(attention_fwd(q, k, v)[1], jnp.ones((1, 1, 1, 1)))
    >>> dq.item(), dv.ravel().tolist()
    (0.0, [0.5, 0.5])
    """
    require_shape("attention_bwd", "dout", dout, res.q.shape)
    (N, Lk, Hkv, _), (Lq, H) = res.k.shape, res.q.shape[1:3]
    q, k, v, dO = map(wide, (res.q, res.k, res.v, dout))
    q, dO, P = _grouped(q, Hkv), _grouped(dO, Hkv), res.probs.reshape(N, Hkv, H // Hkv, Lq, Lk)
    dv = jnp.einsum("nhgqk,nqhgd->nkhd", P, dO)  # [E-11]
    dP = jnp.einsum("nqhgd,nkhd->nhgqk", dO, v)  # [E-11]
    dS = P * (dP - (dP * P).sum(axis=-1, keepdims=True))  # [E-11]
    dq = res.scale * jnp.einsum("nhgqk,nkhd->nqhgd", dS, k).reshape(res.q.shape)  # [E-11]
    dk = res.scale * jnp.einsum("nhgqk,nqhgd->nkhd", dS, q)  # [E-11]
    return dq.astype(dout.dtype), dk.astype(dout.dtype), dv.astype(dout.dtype)


@checked
def jac_attention_scores(scores: Float[Array, " K"], v: Float[Array, "K D"]) -> Float[Array, "D K"]:
    """∂o/∂s of one query's o = Σ_k p_k v_k, p = softmax(s): p_k (v_k − o) for each key. [E-11]

    A higher score pulls the output towards its value, in proportion to their distance.

    Args:
        scores: (K,), those of the keys that the query sees.
        v: their values, (K, D).
    Returns:
        (D, K).
    Raises:
        InputError: a shape or dtype does not match.
    Source: as the forward pass.

    >>> jac_attention_scores(jnp.zeros(2), jnp.array([[2.0], [4.0]])).tolist()
    [[-0.5, 0.5]]
    """
    p = _softmax(scores[None, None, None])[0, 0, 0]
    return (p * (v - p @ v).T).astype(v.dtype)  # [E-11]
