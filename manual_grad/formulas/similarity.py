"""Vectors normalised to length 1, and the cosine of the angle between two. A zero vector has no direction.

Lengths are computed so that no square overflows or underflows, and in float32 if the inputs are in half
precision.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64

from manual_grad.border import checked, require, require_shape
from manual_grad.formulas.chain_rule import block_diagonal
from manual_grad.formulas.limits import lengths, wide


def _require_directions(formula: str, name: str, x: Any) -> None:
    """Refuse a zero vector if its values are known; under ``jit`` its results are NaN."""
    if isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True):
        return
    for at in np.argwhere(~np.any(np.asarray(x), axis=-1))[:1]:
        place = f"{name}[{','.join(map(str, at))}]" if len(at) else name
        require(False, f"{formula}: {place} is a zero vector, expected one with a direction")


@partial(jax.tree_util.register_dataclass, data_fields=("x", "scale", "length"), meta_fields=())
@dataclass(frozen=True)
class Directed:
    """The residuals for each input: vectors x and their lengths, ‖x‖ = length / scale."""

    x: Float[Array, "*N D"]
    scale: Float32[Array, "*N 1"] | Float64[Array, "*N 1"]
    length: Float32[Array, "*N 1"] | Float64[Array, "*N 1"]

    @property
    def direction(self) -> Float[Array, "*N D"]:
        """x/‖x‖."""
        return wide(self.x) * self.scale * (1 / self.length)

    @property
    def inverse(self) -> Float[Array, "*N 1"]:
        """1/‖x‖."""
        return self.scale / self.length


def _directed(x: Float[Array, "*N D"]) -> Directed:
    return Directed(x, *lengths(wide(x)))


@checked
def l2_normalize_fwd(
    x: Float[Array, "*N D"],
) -> tuple[Float[Array, "*N D"], Directed]:
    """y = x / ‖x‖ over the last axis. [E-25]

    Args:
        x: (…, D).
    Returns:
        ``(y, res)``: y (…, D), of length 1; NaN under ``jit`` if x is 0.
    Raises:
        InputError: a vector is 0 (eagerly), or ``x`` is not a floating-point array with at least one axis.
    Source: Schroff, Kalenichenko and Philbin, "FaceNet", 2015, section 3: ‖f(x)‖ = 1.

    >>> l2_normalize_fwd(jnp.array([3e30, 4e30]))[0].round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    _require_directions("l2_normalize_fwd", "x", x)
    res = _directed(x)
    y = res.direction  # [E-25]
    return y.astype(x.dtype), res


@checked
def l2_normalize_bwd(res: Directed, dy: Float[Array, "*N D"]) -> tuple[Float[Array, "*N D"]]:
    """Pull ``dy`` back through the division by the length: dx = (dy − y (y · dy)) / ‖x‖. [E-25]

    The part subtracted is the component of dy along x, which would only change the length.

    Args:
        res: from the forward pass.
        dy: cotangent of y, (…, D).
    Returns:
        ``(dx,)``, (…, D), orthogonal to x.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dy`` has the wrong shape or dtype.
    Source: ours; the derivation is in the book's chapter E.

    >>> res = l2_normalize_fwd(jnp.array([0.0, 2.0]))[1]
    >>> l2_normalize_bwd(res, jnp.array([6.0, 5.0]))[0].tolist()
    [3.0, 0.0]
    """
    require_shape("l2_normalize_bwd", "dy", dy, res.x.shape)
    y = res.direction
    along = (y * dy).sum(axis=-1, keepdims=True)
    dx = (dy - y * along) * res.inverse  # [E-25]
    return (dx.astype(dy.dtype),)


@checked
def jac_l2_normalize_x_blocks(x: Float[Array, "*N D"]) -> Float[Array, "*N D D"]:
    """One vector's Jacobian for each vector: (I − y yᵀ) / ‖x‖, a projection divided by the length. [E-25]

    Args:
        x: (…, D).
    Returns:
        (…, D, D), the blocks on the diagonal of :func:`jac_l2_normalize_x`.
    Raises:
        InputError: as in :func:`l2_normalize_fwd`.
    Source: ours; the derivation is in the book's chapter E.

    >>> jac_l2_normalize_x_blocks(jnp.array([0.0, 2.0])).tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    _require_directions("jac_l2_normalize_x_blocks", "x", x)
    of_x = _directed(x)
    y = of_x.direction
    projection = jnp.eye(x.shape[-1], dtype=y.dtype) - y[..., :, None] * y[..., None, :]
    return (projection * of_x.inverse[..., None]).astype(x.dtype)  # [E-25]


@checked
def jac_l2_normalize_x(x: Float[Array, "*N D"]) -> Float[Array, "..."]:
    """∂y/∂x of shape ``x.shape + x.shape``: block-diagonal over the vectors. [E-25]

    Args:
        x: (…, D).
    Returns:
        (D, D) or (…, D, …, D); zero between different vectors.
    Raises:
        InputError: as in :func:`l2_normalize_fwd`.
    Source: ours; the derivation is in the book's chapter E.

    >>> jac_l2_normalize_x(jnp.ones((4, 3))).shape
    (4, 3, 4, 3)
    """
    return block_diagonal(jac_l2_normalize_x_blocks(x))  # [E-25]


@checked
def cosine_similarity_fwd(
    a: Float[Array, "*N D"], b: Float[Array, "*N D"]
) -> tuple[Float[Array, "*N"], tuple[Directed, Directed]]:
    """s = (a · b) / (‖a‖ ‖b‖) over the last axis. [E-26]

    Args:
        a, b: (…, D).
    Returns:
        ``(s, res)``: s (…), from −1 to 1, NaN under ``jit`` if a or b is 0.
    Raises:
        InputError: a vector is 0 (eagerly), or a shape or dtype does not match.
    Source: Salton, Wong and Yang, "A Vector Space Model for Automatic Indexing", 1975, section 1.

    >>> cosine_similarity_fwd(jnp.array([1.0, 0.0]), jnp.array([-5.0, 0.0]))[0].tolist()
    -1.0
    """
    _require_directions("cosine_similarity_fwd", "a", a)
    _require_directions("cosine_similarity_fwd", "b", b)
    res = _directed(a), _directed(b)
    s = (res[0].direction * res[1].direction).sum(axis=-1)  # [E-26]
    return s.astype(a.dtype), res


@checked
def cosine_similarity_bwd(
    res: tuple[Directed, Directed], ds: Float[Array, "*N"]
) -> tuple[Float[Array, "*N D"], Float[Array, "*N D"]]:
    """Pull ``ds`` back through the cosine of the angle between two vectors. [E-26]

        da = ds (b/‖b‖ − s a/‖a‖) / ‖a‖        db = ds (a/‖a‖ − s b/‖b‖) / ‖b‖

    Args:
        res: from the forward pass.
        ds: cotangent of s, (…).
    Returns:
        ``(da, db)``, each (…, D), orthogonal to a and to b.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``ds`` has the wrong shape or dtype.
    Source: ours; the derivation is in the book's chapter E.

    >>> _, res = cosine_similarity_fwd(jnp.array([2.0, 0.0]), jnp.array([0.0, 5.0]))
    >>> cosine_similarity_bwd(res, jnp.array(10.0))[0].tolist()
    [0.0, 5.0]
    """
    of_a, of_b = res
    require_shape("cosine_similarity_bwd", "ds", ds, of_a.x.shape[:-1])
    (u, v), dout = (of_a.direction, of_b.direction), wide(ds)[..., None]
    s = (u * v).sum(axis=-1, keepdims=True)
    da = dout * of_a.inverse * (v - s * u)  # [E-26]
    db = dout * of_b.inverse * (u - s * v)  # [E-26]
    return da.astype(ds.dtype), db.astype(ds.dtype)
