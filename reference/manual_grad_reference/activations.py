"""Elementwise activations f of a = f(z), any shape."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def relu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """[B-02] [B-06] max(x, 0), with derivative 0 at 0 (`jnp.maximum` would give ½ there)."""
    return jax.nn.relu(x)  # [B-02]


def sigmoid(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """[C-02] 1 / (1 + e⁻ˣ)."""
    return 1 / (1 + jnp.exp(-x))  # [C-02]


def tanh(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """[C-02] tanh x."""
    return jnp.tanh(x)  # [C-02]


def softplus(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """[C-02] log(1 + eˣ)."""
    return jnp.log(1 + jnp.exp(x))  # [C-02]


def identity(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """[C-02] x."""
    return x  # [C-02]


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    f.__name__: f for f in (relu, sigmoid, tanh, softplus, identity)
}
