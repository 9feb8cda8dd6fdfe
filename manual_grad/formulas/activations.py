"""Activations, each with its derivative written by hand. Lectures B and C.

An activation is elementwise, so its Jacobian is diagonal: ``f_prime`` is that diagonal, and the
backward pass multiplies by it. ReLU′(0) = 0, as in ``jax.nn.relu`` (``jnp.maximum(x, 0)`` gives ½).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from manual_grad.border import checked, describe, require
from manual_grad.formulas.chain_rule import diagonal
from manual_grad.formulas.limits import smaller_logistic


@checked
def relu_fwd(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """max(x, 0). [B-02]

    Args:
        x: any shape.
    Returns:
        ``(out, x)``, the shape of x.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture B, page 1.

    >>> relu_fwd(jnp.array([-2.0, 0.0, 3.0]))[0].tolist()
    [0.0, 0.0, 3.0]
    """
    return jnp.maximum(x, 0), x  # [B-02]


@checked
def relu_prime(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1{x > 0}, the diagonal of ReLU's Jacobian. [B-06]

    Args:
        x: any shape.
    Returns:
        An array of the shape of x; 0 at 0.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture B, page 2.

    >>> relu_prime(jnp.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 1.0]
    """
    return (x > 0).astype(x.dtype)  # [B-06]


@checked
def relu_bwd(res: Float[Array, "*shape"], dout: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"]]:
    """Pull ``dout`` back through ReLU: dout ⊙ 1{x > 0}. [B-06]

    A select, not a product: an infinite or NaN cotangent of an inactive unit is not passed on.

    Args:
        res: x.
        dout: cotangent, the shape of x.
    Returns:
        ``(dx,)``.
    Raises:
        InputError: the two differ in shape or dtype.
    Source: Lecture B, page 2.

    >>> relu_bwd(jnp.array([-2.0, 0.0, 3.0]), jnp.array([5.0, 6.0, 7.0]))[0].tolist()
    [0.0, 0.0, 7.0]
    """
    x = res
    dx = jnp.where(x > 0, dout, 0)  # [B-06]
    return (dx,)


@checked
def jac_relu_x(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """∂a/∂z of a = ReLU(z): diag(1{z > 0}), of shape ``x.shape + x.shape``. [B-06]

    Args:
        x: any shape.
    Returns:
        The dense Jacobian; :func:`relu_prime` is its diagonal.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture B, page 2.

    >>> jac_relu_x(jnp.array([-2.0, 3.0])).tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    return diagonal(relu_prime(x))  # [B-06]


@checked
def sigmoid_fwd(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """σ(x) = 1 / (1 + e^{−x}). [C-02]

    Args:
        x: any shape.
    Returns:
        ``(out, x)``, the shape of x.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture C, page 1, as one choice of f.

    >>> sigmoid_fwd(jnp.array([0.0]))[0].tolist()
    [0.5]
    """
    return lax.logistic(x), x  # [C-02]


@checked
def sigmoid_prime(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """σ′(x) = σ(x)(1 − σ(x)), which is the same at −x. [C-02]

    Args:
        x: any shape.
    Returns:
        An array of the shape of x.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture C, page 1, as one choice of f.

    >>> sigmoid_prime(jnp.array([0.0])).tolist()
    [0.25]
    """
    sigma = smaller_logistic(x)
    return sigma * (1 - sigma)  # [C-02]


@checked
def sigmoid_bwd(res: Float[Array, "*shape"], dout: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"]]:
    """Pull ``dout`` back through the logistic sigmoid. [C-02]

    Args:
        res: x.
        dout: cotangent, the shape of x.
    Returns:
        ``(dx,)``.
    Raises:
        InputError: the two differ in shape or dtype.
    Source: Lecture C, page 1, as one choice of f.

    >>> sigmoid_bwd(jnp.array([0.0]), jnp.array([8.0]))[0].tolist()
    [2.0]
    """
    return (dout * sigmoid_prime(res),)  # [C-02]


@checked
def tanh_fwd(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """tanh(x). [C-02]

    Args:
        x: any shape.
    Returns:
        ``(out, x)``, the shape of x.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture C, page 1, as one choice of f.

    >>> tanh_fwd(jnp.array([0.0]))[0].tolist()
    [0.0]
    """
    return jnp.tanh(x), x  # [C-02]


@checked
def tanh_prime(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """tanh′(x) = 1 − tanh²(x) = 4 σ′(2x), the last form being exact where tanh(x) rounds to 1. [C-02]

    Args:
        x: any shape.
    Returns:
        An array of the shape of x.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture C, page 1, as one choice of f.

    >>> tanh_prime(jnp.array([0.0])).tolist()
    [1.0]
    """
    return 4 * sigmoid_prime(2 * x)  # [C-02]


@checked
def tanh_bwd(res: Float[Array, "*shape"], dout: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"]]:
    """Pull ``dout`` back through tanh. [C-02]

    Args:
        res: x.
        dout: cotangent, the shape of x.
    Returns:
        ``(dx,)``.
    Raises:
        InputError: the two differ in shape or dtype.
    Source: Lecture C, page 1, as one choice of f.

    >>> tanh_bwd(jnp.array([0.0]), jnp.array([3.0]))[0].tolist()
    [3.0]
    """
    return (dout * tanh_prime(res),)  # [C-02]


@checked
def softplus_fwd(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """ln(1 + e^x) = max(x, 0) + ln(1 + e^{−|x|}), which never overflows. [C-02]

    Args:
        x: any shape.
    Returns:
        ``(out, x)``, the shape of x.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture C, page 1, as one choice of f.

    >>> softplus_fwd(jnp.array([-1e9, 1e9]))[0].tolist()
    [0.0, 1000000000.0]
    """
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))), x  # [C-02]


@checked
def softplus_prime(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """softplus′ = σ. [C-02]

    Args:
        x: any shape.
    Returns:
        An array of the shape of x.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture C, page 1, as one choice of f.

    >>> softplus_prime(jnp.array([0.0])).tolist()
    [0.5]
    """
    return lax.logistic(x)  # [C-02]


@checked
def softplus_bwd(res: Float[Array, "*shape"], dout: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"]]:
    """Pull ``dout`` back through softplus. [C-02]

    Args:
        res: x.
        dout: cotangent, the shape of x.
    Returns:
        ``(dx,)``.
    Raises:
        InputError: the two differ in shape or dtype.
    Source: Lecture C, page 1, as one choice of f.

    >>> softplus_bwd(jnp.array([0.0]), jnp.array([3.0]))[0].tolist()
    [1.5]
    """
    return (dout * softplus_prime(res),)  # [C-02]


@checked
def identity_fwd(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """x itself. [C-02]

    Args:
        x: any shape.
    Returns:
        ``(x, x)``.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture C, page 1, as one choice of f.

    >>> identity_fwd(jnp.array([3.0]))[0].tolist()
    [3.0]
    """
    return x, x  # [C-02]


@checked
def identity_prime(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 everywhere. [C-02]

    Args:
        x: any shape.
    Returns:
        An array of the shape of x.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture C, page 1, as one choice of f.

    >>> identity_prime(jnp.array([3.0])).tolist()
    [1.0]
    """
    return jnp.ones_like(x)  # [C-02]


@checked
def identity_bwd(res: Float[Array, "*shape"], dout: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"]]:
    """Pull ``dout`` back through the identity. [C-02]

    Args:
        res: x.
        dout: cotangent, the shape of x.
    Returns:
        ``(dout,)``.
    Raises:
        InputError: the two differ in shape or dtype.
    Source: Lecture C, page 1, as one choice of f.

    >>> identity_bwd(jnp.array([3.0]), jnp.array([7.0]))[0].tolist()
    [7.0]
    """
    return (dout,)  # [C-02]


Pair = tuple[Callable[..., tuple[Array, Any]], Callable[..., tuple[Array]]]  # fwd and bwd
ACTIVATIONS: dict[str, Pair] = {
    "relu": (relu_fwd, relu_bwd),
    "sigmoid": (sigmoid_fwd, sigmoid_bwd),
    "tanh": (tanh_fwd, tanh_bwd),
    "softplus": (softplus_fwd, softplus_bwd),
    "identity": (identity_fwd, identity_bwd),
}


def activation_pair(formula: str, activation: str) -> Pair:
    """The forward and backward function of an activation by name.

    Args:
        formula: the caller's name, for the error message.
        activation: one of ``ACTIVATIONS``.
    Returns:
        ``(f_fwd, f_bwd)``.
    Raises:
        InputError: the name is unknown.
    Source: Lecture C, page 1: a = f(z).

    >>> activation_pair("mlp_rows_fwd", "relu")[0].__name__
    'relu_fwd'
    """
    known = ", ".join(ACTIVATIONS)
    require(
        isinstance(activation, str) and activation in ACTIVATIONS,
        f"{formula}: activation is {describe(activation)}, expected one of {known}",
    )
    return ACTIVATIONS[activation]
