"""Sequences of tokens: embeddings, rotary positions, dropout, and low-rank adaptation of a layer."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from manual_grad.border import checked, describe, require, require_labels_in_range, require_shape
from manual_grad.formulas.limits import wide


def _rows(ids: Integer[Array, "*N"], V: int) -> Integer[Array, "*N"]:
    """The ids, with V, which is not a row, in place of those out of range: −1 would be the last row."""
    ids = ids.astype(jnp.promote_types(ids.dtype, jnp.int32))
    return jnp.where((ids >= 0) & (ids < V), ids, V)


@checked
def embedding_fwd(
    ids: Integer[Array, "*N"], table: Float[Array, "V D"]
) -> tuple[Float[Array, "*N D"], tuple[Integer[Array, "*N"], Float[Array, "V D"]]]:
    """out_n = table[ids_n], a row of the table for each id. [E-09]

    Args:
        ids: (…), integers from 0 to V − 1.
        table: (V, D).
    Returns:
        ``(out, res)``: out (…, D); under ``jit`` a row of NaN for an id out of range.
    Raises:
        InputError: an id is out of range or negative (eagerly), or a shape or dtype does not match.
    Source: Bengio et al., "A Neural Probabilistic Language Model", 2003, section 2: the mapping C.

    >>> embedding_fwd(jnp.array([1, 1]), jnp.array([[1.0, 2.0], [3.0, 4.0]]))[0].tolist()
    [[3.0, 4.0], [3.0, 4.0]]
    """
    V = len(table)
    require_labels_in_range("embedding_fwd", ids, V, "ids")
    out = table.at[_rows(ids, V)].get(mode="fill", fill_value=jnp.nan)  # [E-09]
    return out, (ids, table)


@checked
def embedding_bwd(
    res: tuple[Integer[Array, "*N"], Float[Array, "V D"]], dout: Float[Array, "*N D"]
) -> tuple[Float[Array, "V D"]]:
    """Pull ``dout`` back to the table. [E-09]

        dtable_v = Σ_{n: ids_n = v} dout_n

    A row that is looked up twice gets both cotangents; one that is not looked up gets 0. The sums are
    computed in float32 or wider: in bfloat16, adding up 4096 ones would give 256.

    Args:
        res: from the forward pass.
        dout: cotangent of out, (…, D).
    Returns:
        ``(dtable,)``, (V, D); the ids have no cotangent. The cotangent of an id out of range is discarded.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> _, res = embedding_fwd(jnp.array([1, 1]), jnp.zeros((3, 1)))
    >>> embedding_bwd(res, jnp.array([[2.0], [5.0]]))[0].tolist()
    [[0.0], [7.0], [0.0]]
    """
    ids, table = res
    require_shape("embedding_bwd", "dout", dout, (*ids.shape, table.shape[1]))
    dout = wide(dout)
    dtable = jnp.zeros_like(table, dout.dtype).at[_rows(ids, len(table))].add(dout, mode="drop")  # [E-09]
    return (dtable.astype(table.dtype),)


# ------------------------------------------------------------------------------------------ rotary positions


@partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("shape", "base"))
@dataclass(frozen=True)
class RopeResiduals:
    """What the backward pass needs: the rotation does not depend on x."""

    shape: tuple[int, ...]
    base: float


def _require_pairs(formula: str, x: Array, base: float) -> None:
    require(
        x.shape[-1] % 2 == 0, f"{formula}: x is {describe(x)}, expected an even last axis, one pair per angle"
    )
    require(base > 0, f"{formula}: base is {base!r}, expected a positive number")


def _rotation(
    shape: tuple[int, ...], base: float, dtype: jnp.dtype
) -> tuple[Float[Array, "L 1 half"], Float[Array, "L 1 half"]]:
    """cos and sin of each position's angles, in float32 or wider."""
    L, D = shape[1], shape[3]
    dtype = jnp.promote_types(dtype, jnp.float32)
    theta = base ** (-2 * jnp.arange(D // 2, dtype=dtype) / D)  # [E-10]
    angles = jnp.arange(L, dtype=dtype)[:, None, None] * theta
    return jnp.cos(angles), jnp.sin(angles)


def _rotated(
    x: Float[Array, "N L H D"], cos: Float[Array, "L 1 half"], sin: Float[Array, "L 1 half"]
) -> Float[Array, "N L H D"]:
    x1, x2 = jnp.split(x, 2, axis=-1)
    out = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)  # [E-10]
    return out.astype(x.dtype)


@checked
def rope_fwd(
    x: Float[Array, "N L H D"], *, base: float = 10000.0
) -> tuple[Float[Array, "N L H D"], RopeResiduals]:
    """Rotate each pair (x_i, x_{i+D/2}) at position l by the angle l θ_i, θ_i = base^(−2i/D). [E-10]

        out₁ = x₁ cos − x₂ sin        out₂ = x₂ cos + x₁ sin

    for the halves x₁, x₂ of the last axis (GPT-NeoX's and Llama's order; the paper pairs neighbours).

    Args:
        x: queries or keys, (N, L, H, D), D even; positions are 0 … L − 1.
        base: the base of the angles, positive.
    Returns:
        ``(out, res)``: out (N, L, H, D). The angles are computed in float32 or wider: in bfloat16,
            257 rounds to 256.
    Raises:
        InputError: D is odd, ``base`` is not positive, or a shape or dtype does not match.
    Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, equation 34.

    >>> quarter = jnp.zeros((1, 2, 1, 2)).at[:, :, :, 0].set(1.0)
    >>> out, _ = rope_fwd(quarter)
    >>> out[0, 0, 0].tolist(), bool(jnp.allclose(out[0, 1, 0], jnp.array([jnp.cos(1.0), jnp.sin(1.0)])))
    ([1.0, 0.0], True)
    """
    _require_pairs("rope_fwd", x, base)
    return _rotated(x, *_rotation(x.shape, base, x.dtype)), RopeResiduals(x.shape, float(base))


@checked
def rope_bwd(res: RopeResiduals, dout: Float[Array, "N L H D"]) -> tuple[Float[Array, "N L H D"]]:
    """Rotate ``dout`` back: a rotation's transpose is its inverse. [E-10]

        dx₁ = dout₁ cos + dout₂ sin        dx₂ = dout₂ cos − dout₁ sin

    Args:
        res: from the forward pass.
        dout: cotangent of out, (N, L, H, D).
    Returns:
        ``(dx,)``, (N, L, H, D), with the norm of ``dout`` at every position.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> x = jnp.arange(12.0).reshape(1, 3, 1, 4)
    >>> out, res = rope_fwd(x)
    >>> bool(jnp.allclose(rope_bwd(res, out)[0], x, atol=1e-5))
    True
    """
    require_shape("rope_bwd", "dout", dout, res.shape)
    cos, sin = _rotation(res.shape, res.base, dout.dtype)
    return (_rotated(dout, cos, -sin),)  # [E-10]


@checked
def jac_rope_x_blocks(x: Float[Array, "N L H D"], *, base: float = 10000.0) -> Float[Array, "L half 2 2"]:
    """The rotation of each position and pair, the same for all samples and heads. [E-10]

        ((cos, −sin), (sin, cos))

    Args:
        x, base: as in :func:`rope_fwd`.
    Returns:
        (L, D/2, 2, 2), orthogonal matrices.
    Raises:
        InputError: as in :func:`rope_fwd`.
    Source: as the forward pass.

    >>> jac_rope_x_blocks(jnp.ones((1, 3, 1, 4)))[0, 1].tolist()
    [[1.0, -0.0], [0.0, 1.0]]
    """
    _require_pairs("jac_rope_x_blocks", x, base)
    cos, sin = (a[:, 0].astype(x.dtype) for a in _rotation(x.shape, base, x.dtype))
    return jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)  # [E-10]


@checked
def jac_rope_x(x: Float[Array, "N L H D"], *, base: float = 10000.0) -> Float[Array, "N L H D N L H D"]:
    """∂out/∂x, zero except for the rotations of pairs: an orthogonal matrix. [E-10]

    Args:
        x, base: as in :func:`rope_fwd`.
    Returns:
        (N, L, H, D, N, L, H, D).
    Raises:
        InputError: as in :func:`rope_fwd`.
    Source: as the forward pass.

    >>> J = jac_rope_x(jnp.ones((1, 3, 2, 4))).reshape(24, 24)
    >>> bool(jnp.allclose(J @ J.T, jnp.eye(24), atol=1e-6))
    True
    """
    blocks = jac_rope_x_blocks(x, base=base)
    N, L, H, D = x.shape
    same = (jnp.eye(n, dtype=x.dtype) for n in (N, L, H, D // 2))
    return jnp.einsum("nm,lk,hg,ij,liab->nlhaimkgbj", *same, blocks).reshape(x.shape * 2)  # [E-10]


# ------------------------------------------------------------------------------------------ dropout


@partial(jax.tree_util.register_dataclass, data_fields=("keep",), meta_fields=("rate",))
@dataclass(frozen=True)
class DropoutResiduals:
    """What the backward pass needs: the mask itself, which cannot be inferred from the output."""

    keep: Bool[Array, "..."]
    rate: float


@checked
def dropout_fwd(
    x: Float[Array, "*s"], keep: Bool[Array, "*s"], *, rate: float = 0.5
) -> tuple[Float[Array, "*s"], DropoutResiduals]:
    """out = x / (1 − rate) where ``keep``, else 0. [E-13]

    Args:
        x: any shape.
        keep: which entries stay, boolean, shaped like x; drawn by the caller, True with probability 1 − rate.
        rate: the probability with which an entry is dropped, from 0 up to but not including 1.
    Returns:
        ``(out, res)``: out shaped like x.
    Raises:
        InputError: ``rate`` is outside [0, 1), ``keep`` is not boolean or has the wrong shape, or a dtype
            does not match.
    Source: Srivastava et al., "Dropout", 2014, section 4, scaled in training as in its section 10.

    >>> dropout_fwd(jnp.array([1.0, 2.0]), jnp.array([True, False]), rate=0.5)[0].tolist()
    [2.0, 0.0]
    """
    require(
        0 <= rate < 1, f"dropout_fwd: rate is {rate!r}, expected a number from 0 up to but not including 1"
    )
    return jnp.where(keep, x / (1 - rate), 0), DropoutResiduals(keep, float(rate))  # [E-13]


@checked
def dropout_bwd(res: DropoutResiduals, dout: Float[Array, "*s"]) -> tuple[Float[Array, "*s"]]:
    """Pull ``dout`` back through the same mask. [E-13]

        dx = dout / (1 − rate) where kept, else 0

    Args:
        res: from the forward pass.
        dout: cotangent of out, shaped like x.
    Returns:
        ``(dx,)``, shaped like x; the mask has none.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> _, res = dropout_fwd(jnp.array([0.0, 2.0]), jnp.array([True, False]), rate=0.5)
    >>> dropout_bwd(res, jnp.array([3.0, 3.0]))[0].tolist()
    [6.0, 0.0]
    """
    require_shape("dropout_bwd", "dout", dout, res.keep.shape)
    return (jnp.where(res.keep, dout / (1 - res.rate), 0),)  # [E-13]


# ------------------------------------------------------------------------------------ low-rank adaptation


@partial(jax.tree_util.register_dataclass, data_fields=("x", "W", "A", "B"), meta_fields=("scale",))
@dataclass(frozen=True)
class LoraResiduals:
    """What the backward pass needs."""

    x: Float[Array, "*N d"]
    W: Float[Array, "d m"]
    A: Float[Array, "d r"]
    B: Float[Array, "r m"]
    scale: float


@checked
def lora_fwd(
    x: Float[Array, "*N d"],
    W: Float[Array, "d m"],
    A: Float[Array, "d r"],
    B: Float[Array, "r m"],
    *,
    scale: float = 1.0,
) -> tuple[Float[Array, "*N m"], LoraResiduals]:
    """out = x W + scale (x A) B: a layer plus an update of rank r. [E-18]

    Args:
        x: (…, d).
        W: (d, m), usually frozen.
        A, B: (d, r) and (r, m), the trained factors.
        scale: α/r in the paper.
    Returns:
        ``(out, res)``: out (…, m).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, equation 3, in rows.

    >>> one = jnp.ones((1, 1))
    >>> lora_fwd(one, one, 2 * one, 3 * one, scale=0.5)[0].tolist()
    [[4.0]]
    """
    out = x @ W + scale * ((x @ A) @ B)  # [E-18]
    return out, LoraResiduals(x, W, A, B, float(scale))


@checked
def lora_bwd(
    res: LoraResiduals, dout: Float[Array, "*N m"]
) -> tuple[Float[Array, "*N d"], Float[Array, "d m"], Float[Array, "d r"], Float[Array, "r m"]]:
    """Pull ``dout`` back through both paths. [E-18]

        dU = scale · dout Bᵀ        dx = dout Wᵀ + dU Aᵀ

        dW = xᵀ dout        dA = xᵀ dU        dB = scale (x A)ᵀ dout

    No array is larger than x or W: neither A B nor its gradient is ever formed.

    Args:
        res: from the forward pass.
        dout: cotangent of out, (…, m).
    Returns:
        ``(dx, dW, dA, dB)``, each with the shape of its primal. If W is frozen and its gradient is not used,
        the compiler removes it.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> one = jnp.ones((1, 1))
    >>> _, res = lora_fwd(one, one, 2 * one, 3 * one, scale=0.5)
    >>> [d.item() for d in lora_bwd(res, one)]
    [4.0, 1.0, 1.5, 1.0]
    """
    W, A, B = res.W, res.A, res.B
    require_shape("lora_bwd", "dout", dout, (*res.x.shape[:-1], W.shape[1]))
    x, dZ = res.x.reshape(-1, len(W)), dout.reshape(-1, W.shape[1])
    dU = res.scale * (dZ @ B.T)  # [E-18]
    dx = dZ @ W.T + dU @ A.T  # [E-18]
    dW, dA = x.T @ dZ, x.T @ dU  # [E-18]
    U = x @ A
    dB = res.scale * jnp.einsum("nr,nm->rm", U, dZ)  # [E-18]
    return dx.reshape(res.x.shape), dW, dA, dB
