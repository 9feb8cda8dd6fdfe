"""Smooth activations and gates as in their papers."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def gelu(x: Float[Array, "*s"], approximate: bool = True) -> Float[Array, "*s"]:
    """x ½ [1 + erf(x/√2)], or 0.5 x (1 + tanh[√(2/π) (x + 0.044715 x³)]). [E-05]"""
    if approximate:
        return 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * (1 + lax.erf(x / math.sqrt(2))) / 2


def silu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """x σ(x), with σ(x) = 1 / (1 + e⁻ˣ). [E-06]"""
    return x / (1 + jnp.exp(-x))


def swiglu(gate: Float[Array, "*s"], up: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """silu(gate) ⊗ up. [E-07]"""
    return silu(gate) * up


def geglu(gate: Float[Array, "*s"], up: Float[Array, "*s"], approximate: bool = True) -> Float[Array, "*s"]:
    """gelu(gate) ⊗ up. [E-08]"""
    return gelu(gate, approximate) * up
