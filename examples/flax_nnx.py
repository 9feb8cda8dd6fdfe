"""A Flax NNX model whose dense layers, activation and loss are the hand-derived operations.

In a clone: ``pip install -e ".[examples]" && python examples/flax_nnx.py``
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from manual_grad import ops

jax.config.update("jax_enable_x64", True)


class Dense(nnx.Linear):
    """Flax's layer with its parameters, and our operation."""

    def __call__(self, x):
        """The affine map of a batch."""
        return ops.dense(x, self.kernel[...], self.bias[...])


class Classifier(nnx.Module):
    """Flax's layers and activation, or others in their places."""

    def __init__(self, rngs, linear=nnx.Linear, relu=nnx.relu):
        self.hidden = linear(12, 9, param_dtype=jnp.float64, rngs=rngs)
        self.out = linear(9, 5, param_dtype=jnp.float64, rngs=rngs)
        self.relu = relu

    def __call__(self, x):
        """The logits of a batch."""
        return self.out(self.relu(self.hidden(x)))


def loss_with_flax(model, x, labels):
    """The mean cross-entropy by Optax."""
    return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()


def loss_by_hand(model, x, labels):
    """The same, with the hand-derived gradient."""
    return ops.softmax_cross_entropy_with_integer_labels(model(x), labels)


def main():
    """Print and return the largest difference between the two gradients of the whole model."""
    x = jax.random.normal(jax.random.key(1), (16, 12))
    labels = jax.random.randint(jax.random.key(2), 16, 0, 5)
    flax_model = Classifier(nnx.Rngs(0))
    our_model = Classifier(nnx.Rngs(0), Dense, ops.relu)
    want = nnx.grad(loss_with_flax)(flax_model, x, labels)
    got = nnx.grad(loss_by_hand)(our_model, x, labels)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    difference = max(float(jnp.abs(g - w).max() / jnp.abs(w).max()) for g, w in pairs)
    print(f"Flax NNX: the gradients of the whole model differ by {difference:.1e} at most (relative)")
    return difference


if __name__ == "__main__":
    main()
