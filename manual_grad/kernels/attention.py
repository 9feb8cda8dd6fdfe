"""Attention in chunks, with memory linear in the length, not quadratic. Chapter E.

For a long sequence the scores of all queries with all keys would be the largest array. Here one block of them
exists at a time, ``chunk`` queries by ``chunk`` keys. In the forward pass a query's sum of exponentials and
its output are rescaled whenever a larger score appears; only the logarithm of the sum, lse, is kept. In the
backward pass each block of P is recomputed as e^(S − lse), and from it dS = P ⊙ (dP − Δ), where Δ = Σ_k dP P
= Σ_d dO O is a sum over features that does not need P.

The query heads that share a key head are stacked as rows, so that products sum their dK and dV.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Float64

from manual_grad.border import checked, require, require_shape
from manual_grad.formulas.attention import _require_heads, _sees
from manual_grad.formulas.limits import wide

Seen = Callable[[Array, Array, Array], Array]  # of a head, a block of rows and a block of keys
Step = Callable[[Any, Any], tuple[Any, Any]]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("q", "k", "v", "mask", "out", "lse"),
    meta_fields=("causal", "window", "scale", "chunk"),
)
@dataclass(frozen=True)
class AttentionStreamingResiduals:
    """What the backward pass needs: the inputs, the output, and one number per query and head."""

    q: Float[Array, "N Lq H D"]
    k: Float[Array, "N Lk Hkv D"]
    v: Float[Array, "N Lk Hkv D"]
    mask: Bool[Array, "..."] | None
    out: Float32[Array, "N Lq H D"] | Float64[Array, "N Lq H D"]
    lse: Float32[Array, "N Lq H 1"] | Float64[Array, "N Lq H 1"]
    causal: bool
    window: int | None
    scale: float
    chunk: int


@checked
def attention_streaming_fwd(
    q: Float[Array, "N Lq H D"],
    k: Float[Array, "N Lk Hkv D"],
    v: Float[Array, "N Lk Hkv D"],
    mask: Bool[Array, "..."] | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    chunk: int = 256,
) -> tuple[Float[Array, "N Lq H D"], AttentionStreamingResiduals]:
    """The same as :func:`manual_grad.formulas.attention.attention_fwd`, in chunks of queries and keys. [E-12]

    Args:
        q, k, v, mask, causal, window, scale: as in that function.
        chunk: the number of queries, and of keys, at a time; it need not divide Lq or Lk.
    Returns:
        ``(out, res)``: out (N, Lq, H, D), 0 for a query that sees no key.
    Raises:
        InputError: ``chunk`` is below 1, or for the reasons given there.
    Source: Dao et al., "FlashAttention", 2022, algorithm 1; Milakov and Gimelshein, "Online normalizer
    calculation for softmax", 2018.

    >>> q = jnp.ones((1, 5, 1, 1))
    >>> attention_streaming_fwd(q, q, q, chunk=2)[0].ravel().tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    _require_heads("attention_streaming_fwd", q, k, mask, window)
    require(
        isinstance(chunk, int) and chunk >= 1,
        f"attention_streaming_fwd: chunk is {chunk!r}, expected an integer of at least 1",
    )
    scale, Hkv = float(q.shape[3] ** -0.5 if scale is None else scale), k.shape[2]
    chunk = min(chunk, max(q.shape[1], k.shape[1]))
    seen = _seen(q.shape, k.shape, mask, causal, window, chunk)
    wide_q, wide_k, wide_v = scale * wide(q), wide(k), wide(v)
    rows, keys = _rows(wide_q, Hkv, chunk), (_blocks(wide_k, chunk), _blocks(wide_v, chunk))
    out, lse = _each_head(partial(_forward, seen), mask, (len(q), Hkv), rows, *keys)
    out, lse = (_from_rows(a, q.shape, Hkv) for a in (out, lse))  # [E-12]
    res = AttentionStreamingResiduals(q, k, v, mask, out, lse, causal, window, scale, chunk)
    return out.astype(q.dtype), res


@checked
def attention_streaming_bwd(
    res: AttentionStreamingResiduals, dout: Float[Array, "N Lq H D"]
) -> tuple[Float[Array, "N Lq H D"], Float[Array, "N Lk Hkv D"], Float[Array, "N Lk Hkv D"]]:
    """Pull ``dout`` back, recomputing each block of P. [E-12]

        P = e^(S − lse)        Δ = Σ_d dO O        dS = P ⊙ (dO Vᵀ − Δ)

        dV = Pᵀ dO        dQ = scale · dS K        dK = scale · dSᵀ Q

    Args:
        res: from the forward pass.
        dout: cotangent of out, (N, Lq, H, D).
    Returns:
        ``(dq, dk, dv)``, each with the shape and dtype of its primal; the mask has no cotangent.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has the wrong shape or dtype.
    Source: Dao et al., "FlashAttention", 2022, algorithm 4 and appendix B.

    >>> q = jnp.ones((1, 3, 1, 1))
    >>> dq, dk, dv = attention_streaming_bwd(attention_streaming_fwd(q, q, q, chunk=2)[1], q)
    >>> bool(jnp.allclose(dv, 1.0)), bool(jnp.allclose(dq, 0.0))
    (True, True)
    """
    q, k, chunk = res.q, res.k, res.chunk
    require_shape("attention_streaming_bwd", "dout", dout, q.shape)
    Hkv = k.shape[2]
    seen = _seen(q.shape, k.shape, res.mask, res.causal, res.window, chunk)
    wide_q, wide_k, wide_v, dO = res.scale * wide(q), wide(k), wide(res.v), wide(dout)
    delta = (dO * res.out).sum(axis=-1, keepdims=True)  # [E-12]
    rows = tuple(_rows(a, Hkv, chunk) for a in (wide_q, dO, res.lse, delta))
    keys = (_blocks(wide_k, chunk), _blocks(wide_v, chunk))
    dq, dk, dv = _each_head(partial(_backward, seen), res.mask, (len(q), Hkv), rows, keys)
    dq = res.scale * _from_rows(dq, q.shape, Hkv)
    dk, dv = (_from_blocks(a, k.shape) for a in (dk, dv))
    return dq.astype(q.dtype), dk.astype(q.dtype), dv.astype(q.dtype)


def _each_head(fn: Callable[..., Any], mask: Array | None, shape: tuple[int, int], *of_heads: Any) -> Any:
    """``fn`` of each sample's key heads, one head after another.

    The samples are side by side, so that they may be sharded; one after another if a mask decides for each of
    them which blocks are skipped.
    """
    heads = jnp.arange(math.prod(shape)), *of_heads
    split = jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), heads)
    of_sample = partial(lax.map, lambda head: fn(*head))
    side_by_side = mask is None and shape[0] > 1  # for one sample, XLA:CPU's batched products take longer
    return jax.vmap(of_sample)(split) if side_by_side else lax.map(of_sample, split)


def _forward(seen: Seen | None, head: Array, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """O and lse of one key head's queries, block by block."""

    def of_rows(block: tuple[Array, Array]) -> tuple[Array, Array]:
        r, q = block

        def add(so_far: Any, keys: Any) -> tuple[Any, None]:
            (m, total, O), (s, k, v) = so_far, keys
            S = _scores(seen, head, r, s, q, k)
            largest = jnp.maximum(m, S.max(axis=-1, keepdims=True))
            E, before = jnp.exp(S - largest), jnp.exp(m - largest)
            total = before * total + E.sum(axis=-1, keepdims=True)
            return (largest, total, before * O + E @ v), None

        first = jnp.full_like(q[:, :1], float(jnp.finfo(q.dtype).min)), jnp.zeros_like(q[:, :1])
        start = (*first, jnp.zeros_like(q))
        keys = (jnp.arange(len(k)), k, v)
        step = add if seen is None else _unless_blind(seen, head, r, add, lambda so_far, keys: (so_far, None))
        (m, total, O), _ = lax.scan(step, start, keys)
        total = jnp.maximum(total, 1)  # 0 if no key is seen; otherwise the largest score alone adds 1
        return O / total, m + jnp.log(total)

    out, lse = lax.map(of_rows, (jnp.arange(len(q)), q))
    return out, lse


def _backward(
    seen: Seen | None, head: Array, rows: tuple[Array, ...], keys: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    """dQ, dK and dV of one key head; dQ still lacks the scale, which is already in the q of ``rows``."""
    k, v = keys
    numbers = jnp.arange(len(k))

    def of_rows(so_far: Any, block: Any) -> tuple[Any, Array]:
        r, q, dO, lse, delta = block

        def add(dq: Any, part: Any) -> tuple[Any, Any]:
            s, k, v, dk, dv = part
            P = jnp.exp(_scores(seen, head, r, s, q, k) - lse)  # [E-12]
            dS = P * (dO @ v.T - delta)  # [E-12]
            return dq + dS @ k, (dk + dS.T @ q, dv + P.T @ dO)  # [E-12]

        def skip(dq: Any, part: Any) -> tuple[Any, Any]:
            return dq, part[3:]

        step = add if seen is None else _unless_blind(seen, head, r, add, skip)
        dq, so_far = lax.scan(step, jnp.zeros_like(q), (numbers, k, v, *so_far))
        return so_far, dq

    nothing = jnp.zeros_like(k), jnp.zeros_like(v)
    (dk, dv), dq = lax.scan(of_rows, nothing, (jnp.arange(len(rows[0])), *rows))
    return dq, dk, dv


def _scores(seen: Seen | None, head: Array, r: Array, s: Array, q: Array, k: Array) -> Array:
    """A block of scores, −∞ where a key is masked."""
    return q @ k.T if seen is None else jnp.where(seen(head, r, s), q @ k.T, -jnp.inf)


def _unless_blind(seen: Seen, head: Array, r: Array, add: Step, skip: Step) -> Step:
    """Make a step skip blocks in which no query sees a key: half of them in causal attention."""
    return lambda so_far, part: lax.cond(seen(head, r, part[0]).any(), add, skip, so_far, part)


# ------------------------------------------------------------------------------------------ blocks


def _seen(
    of_q: tuple[int, ...],
    of_k: tuple[int, ...],
    mask: Array | None,
    causal: bool,
    window: int | None,
    chunk: int,
) -> Seen | None:
    """Which keys of one block each row of another block sees; None if every row sees every key."""
    (_, Lq, H, _), (_, Lk, Hkv, _) = of_q, of_k
    if not causal and window is None and mask is None and Lk % chunk == 0:
        return None
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)

    def seen(head: Array, r: Array, s: Array) -> Array:
        row, j = (r * chunk + jnp.arange(chunk))[:, None], s * chunk + jnp.arange(chunk)
        i = row % Lq
        visible = (j < Lk) & _sees(i, j, Lk - Lq, causal=causal, window=window)
        if mask is None:
            return visible
        at = (head // Hkv, head % Hkv * (H // Hkv) + row // Lq, i, j)
        return visible & mask[tuple(jnp.minimum(a, n - 1) for a, n in zip(at, mask.shape, strict=True))]

    return seen


def _cut(x: Float[Array, "heads L D"], chunk: int) -> Float[Array, "heads blocks chunk D"]:
    """Blocks of ``chunk``, the last one padded with zeros."""
    heads, L, D = x.shape
    return jnp.pad(x, ((0, 0), (0, -L % chunk), (0, 0))).reshape(heads, -1, chunk, D)


def _blocks(k: Float[Array, "N Lk Hkv D"], chunk: int) -> Array:
    """Keys or values in blocks, for each sample and key head."""
    N, L, H, D = k.shape
    return _cut(k.swapaxes(1, 2).reshape(N * H, L, D), chunk)


def _from_blocks(blocks: Array, shape: tuple[int, ...]) -> Float[Array, "N Lk Hkv D"]:
    N, L, H, D = shape
    return blocks.reshape(N, H, -1, D)[:, :, :L].swapaxes(1, 2)


def _rows(x: Float[Array, "N Lq H D"], Hkv: int, chunk: int) -> Array:
    """Queries in blocks; for each sample and key head, those of its whole group stacked."""
    N, L, H, D = x.shape
    return _cut(x.swapaxes(1, 2).reshape(N * Hkv, H // Hkv * L, D), chunk)


def _from_rows(rows: Array, shape: tuple[int, ...], Hkv: int) -> Float[Array, "N Lq H D"]:
    N, L, H, _ = shape
    return rows.reshape(N, Hkv, -1, rows.shape[-1])[:, :, : H // Hkv * L].reshape(N, H, L, -1).swapaxes(1, 2)
