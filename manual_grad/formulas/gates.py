"""Smooth activations of today's networks, and the gates built from them.

    gelu(x) = x Φ(x)        silu(x) = x σ(x)        swiglu = silu(gate) up        geglu = gelu(gate) up

Each activation is x times a function that goes from 0 to 1, so its derivative has two terms: that function,
and x times its derivative. Everything is computed in float32 if the inputs are in half precision.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from manual_grad.border import checked, require, require_shape
from manual_grad.formulas.limits import gaussian, limit_of_product, smaller_logistic, wide

CUBIC = 0.044715
FAR = 30.0  # beyond this, the slope of the tanh form's gate is 0 in float64


@partial(jax.tree_util.register_dataclass, data_fields=("x",), meta_fields=("approximate",))
@dataclass(frozen=True)
class GELUResiduals:
    """What the backward pass needs."""

    x: Float[Array, "..."]
    approximate: bool


def _odds(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."], Bool[Array, "..."]]:
    """``(e, r, none)`` for GELU's tanh form: r = σ(2u) = ½ (1 + tanh u), and e = e^{−2u}; 1 − r = e r.

    One exponential gives all of them, and in the tail nothing cancels, as 1 + tanh u would. ``none`` is true
    where r would be below the smallest normal number; there e is held just short of ∞.
    """
    most = -math.log(float(jnp.finfo(x.dtype).tiny))
    minus = -math.sqrt(8 / math.pi) * (x + CUBIC * x**3)
    e = jnp.exp(jnp.minimum(minus, most))
    return e, 1 / (1 + e), minus >= most


def _gelu(x: Float[Array, "..."], approximate: bool, factor: Float[Array, "..."] | float = 1) -> Array:
    """x Φ(x) times a factor; Φ(x) = ½ erfc(−x/√2), as 1 + erf would cancel in the tail."""
    if not approximate:
        return limit_of_product(x, lax.erfc(-math.sqrt(0.5) * x) / 2) * factor  # [E-05] [E-08]
    e, _, none = _odds(x)
    return jnp.where(none, 0, factor / (1 + e) * x)  # [E-05] [E-08]


def _gelu_prime(x: Float[Array, "..."], approximate: bool) -> Float[Array, "..."]:
    """Φ(x) + x φ(x), or r + x r (1 − r) 2u′ = r (1 + x e r 2u′)."""
    if not approximate:
        phi = gaussian(x) / math.sqrt(2 * math.pi)
        return lax.erfc(-math.sqrt(0.5) * x) / 2 + limit_of_product(x, phi)  # [E-05]
    e, r, none = _odds(x)
    x = jnp.minimum(x, FAR)
    du = math.sqrt(2 / math.pi) * (1 + 3 * CUBIC * x**2)
    return jnp.where(none, 0, r * (1 + x * (e * r) * 2 * du))  # [E-05]


def _require_flag(formula: str, approximate: bool) -> None:
    require(
        isinstance(approximate, bool), f"{formula}: approximate is {approximate!r}, expected True or False"
    )


@checked
def gelu_fwd(
    x: Float[Array, "..."], *, approximate: bool = True
) -> tuple[Float[Array, "..."], GELUResiduals]:
    """y = x Φ(x), with Φ the Gaussian distribution function or its approximation by tanh. [E-05]

        Φ(x) = ½ (1 + erf(x/√2))        approximately ½ (1 + tanh(√(2/π) (x + 0.044715 x³)))

    Args:
        x: any shape.
        approximate: True for tanh, as in GPT-2; False for erf.
    Returns:
        ``(y, res)``: y shaped like x.
    Raises:
        InputError: ``x`` is not a floating-point array, or ``approximate`` is not True or False.
    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.

    >>> gelu_fwd(jnp.array([-jnp.inf, 0.0, 100.0]))[0].tolist()
    [0.0, 0.0, 100.0]
    """
    _require_flag("gelu_fwd", approximate)
    return _gelu(wide(x), approximate).astype(x.dtype), GELUResiduals(x, approximate)


@checked
def gelu_prime(x: Float[Array, "..."], *, approximate: bool = True) -> Float[Array, "..."]:
    """Φ(x) + x Φ′(x), the diagonal of GELU's Jacobian; Φ′ is φ, or the derivative of the tanh form. [E-05]

    Args:
        x: any shape.
        approximate: as in :func:`gelu_fwd`.
    Returns:
        An array of the shape of x; accurate in the tails too, where 1 + erf would be 0.
    Raises:
        InputError: as in :func:`gelu_fwd`.
    Source: Hendrycks and Gimpel 2016, section 2, differentiated.

    >>> gelu_prime(jnp.array([-jnp.inf, 0.0, jnp.inf])).tolist()
    [0.0, 0.5, 1.0]
    """
    _require_flag("gelu_prime", approximate)
    return _gelu_prime(wide(x), approximate).astype(x.dtype)  # [E-05]


@checked
def gelu_bwd(res: GELUResiduals, dy: Float[Array, "..."]) -> tuple[Float[Array, "..."]]:
    """Pull ``dy`` back through GELU: dx = dy (Φ(x) + x Φ′(x)). [E-05]

    Args:
        res: from the forward pass.
        dy: cotangent of y, shaped like x.
    Returns:
        ``(dx,)``, shaped like x.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dy`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> gelu_bwd(gelu_fwd(jnp.array([0.0]))[1], jnp.array([8.0]))[0].tolist()
    [4.0]
    """
    require_shape("gelu_bwd", "dy", dy, res.x.shape)
    slope = gelu_prime(wide(res.x), approximate=res.approximate)
    return ((wide(dy) * slope).astype(res.x.dtype),)  # [E-05]


@checked
def silu_fwd(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """y = x σ(x), also called swish. [E-06]

    Args:
        x: any shape.
    Returns:
        ``(y, res)``: y shaped like x.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units", 2017, equation 5.

    >>> silu_fwd(jnp.array([-jnp.inf, 0.0, 100.0]))[0].tolist()
    [0.0, 0.0, 100.0]
    """
    return _silu(wide(x)).astype(x.dtype), x


def _silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return limit_of_product(x, lax.logistic(x))  # [E-06] [E-07]


@checked
def silu_prime(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """σ(x) + x σ(x) (1 − σ(x)), the diagonal of SiLU's Jacobian. [E-06]

    Args:
        x: any shape.
    Returns:
        An array of the shape of x.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Elfwing, Uchibe and Doya 2017, equation 6.

    >>> silu_prime(jnp.array([-jnp.inf, 0.0, jnp.inf])).tolist()
    [0.0, 0.5, 1.0]
    """
    smaller = smaller_logistic(wide(x))
    sigma = jnp.where(x > 0, 1 - smaller, smaller)
    slope = sigma + limit_of_product(wide(x), smaller * (1 - smaller))  # [E-06]
    return slope.astype(x.dtype)


@checked
def silu_bwd(res: Float[Array, "*shape"], dy: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"]]:
    """Pull ``dy`` back through SiLU: dx = dy (σ(x) + x σ(x) (1 − σ(x))). [E-06]

    Args:
        res: x.
        dy: cotangent of y, shaped like x.
    Returns:
        ``(dx,)``, shaped like x.
    Raises:
        InputError: the two differ in shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> silu_bwd(jnp.array([0.0]), jnp.array([8.0]))[0].tolist()
    [4.0]
    """
    return ((wide(dy) * silu_prime(wide(res))).astype(res.dtype),)  # [E-06]


@checked
def swiglu_fwd(
    gate: Float[Array, "*N D"], up: Float[Array, "*N D"]
) -> tuple[Float[Array, "*N D"], tuple[Float[Array, "*N D"], Float[Array, "*N D"]]]:
    """y = silu(gate) up, of two projections of one input. [E-07]

    Args:
        gate, up: (…, D).
    Returns:
        ``(y, res)``: y (…, D).
    Raises:
        InputError: the two differ in shape or dtype.
    Source: Shazeer, "GLU Variants Improve Transformer", 2020, equation 5, without its matrices.

    >>> swiglu_fwd(jnp.array([0.0, 100.0]), jnp.array([3.0, 4.0]))[0].tolist()
    [0.0, 400.0]
    """
    y = _silu(wide(gate)) * up  # [E-07]
    return y.astype(gate.dtype), (gate, up)


@checked
def swiglu_bwd(
    res: tuple[Float[Array, "*N D"], Float[Array, "*N D"]], dy: Float[Array, "*N D"]
) -> tuple[Float[Array, "*N D"], Float[Array, "*N D"]]:
    """Pull ``dy`` back through SwiGLU. [E-07]

        dgate = dy up silu′(gate)        dup = dy silu(gate)

    Args:
        res: ``(gate, up)``.
        dy: cotangent of y, (…, D).
    Returns:
        ``(dgate, dup)``, each (…, D).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dy`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> [d.tolist() for d in swiglu_bwd((jnp.array([0.0]), jnp.array([3.0])), jnp.array([2.0]))]
    [[3.0], [0.0]]
    """
    gate, up = res
    dgate = wide(dy) * up * silu_prime(wide(gate))  # [E-07]
    dup = wide(dy) * _silu(wide(gate))  # [E-07]
    return dgate.astype(gate.dtype), dup.astype(up.dtype)


@partial(jax.tree_util.register_dataclass, data_fields=("gate", "up"), meta_fields=("approximate",))
@dataclass(frozen=True)
class GEGLUResiduals:
    """What the backward pass needs."""

    gate: Float[Array, "*N D"]
    up: Float[Array, "*N D"]
    approximate: bool


@checked
def geglu_fwd(
    gate: Float[Array, "*N D"], up: Float[Array, "*N D"], *, approximate: bool = True
) -> tuple[Float[Array, "*N D"], GEGLUResiduals]:
    """y = gelu(gate) up, of two projections of one input. [E-08]

    Args:
        gate, up: (…, D).
        approximate: as in :func:`gelu_fwd`.
    Returns:
        ``(y, res)``: y (…, D).
    Raises:
        InputError: the two differ in shape or dtype, or ``approximate`` is not True or False.
    Source: Shazeer, "GLU Variants Improve Transformer", 2020, equation 5, without its matrices.

    >>> geglu_fwd(jnp.array([0.0, 100.0]), jnp.array([3.0, 4.0]))[0].tolist()
    [0.0, 400.0]
    """
    _require_flag("geglu_fwd", approximate)
    y = _gelu(wide(gate), approximate, wide(up))  # [E-08]
    return y.astype(gate.dtype), GEGLUResiduals(gate, up, approximate)


@checked
def geglu_bwd(
    res: GEGLUResiduals, dy: Float[Array, "*N D"]
) -> tuple[Float[Array, "*N D"], Float[Array, "*N D"]]:
    """Pull ``dy`` back through GEGLU. [E-08]

        dgate = dy up gelu′(gate)        dup = dy gelu(gate)

    Args:
        res: from the forward pass.
        dy: cotangent of y, (…, D).
    Returns:
        ``(dgate, dup)``, each (…, D).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dy`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> _, res = geglu_fwd(jnp.array([0.0]), jnp.array([3.0]))
    >>> [d.tolist() for d in geglu_bwd(res, jnp.array([2.0]))]
    [[3.0], [0.0]]
    """
    require_shape("geglu_bwd", "dy", dy, res.gate.shape)
    gate, up = wide(res.gate), res.up
    dgate = wide(dy) * up * gelu_prime(gate, approximate=res.approximate)  # [E-08]
    dup = _gelu(gate, res.approximate, wide(dy))  # [E-08]
    return dgate.astype(up.dtype), dup.astype(up.dtype)
