"""An Equinox MLP whose linear layers, activation and loss are replaced by the hand-derived operations.

In a clone: ``pip install -e ".[examples]" && python examples/equinox_mlp.py``
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from manual_grad import ops

jax.config.update("jax_enable_x64", True)


class Dense(eqx.Module):
    """Equinox's layer with its parameters, and our operation."""

    linear: eqx.nn.Linear

    def __call__(self, x, *, key=None):
        """The affine map of one sample."""
        return ops.dense(x, self.linear.weight.T, self.linear.bias)


def with_our_layers(model):
    """The model with a ``Dense`` in the place of every ``eqx.nn.Linear``."""
    return jax.tree.map(lambda node: Dense(node) if is_linear(node) else node, model, is_leaf=is_linear)


def is_linear(node):
    """Whether this part of a model is one of Equinox's linear layers."""
    return isinstance(node, eqx.nn.Linear)


def mlp(activation):
    """12 inputs, two hidden layers of 9, 5 classes."""
    return eqx.nn.MLP(12, 5, 9, 2, activation, key=jax.random.key(0), dtype=jnp.float64)


def loss_with_equinox(model, x, labels):
    """The mean cross-entropy by Optax; the model takes a single sample, so it is mapped over the batch."""
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), labels).mean()


def loss_by_hand(model, x, labels):
    """The same, with the hand-derived gradient."""
    return ops.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), labels)


def main():
    """Print and return the largest difference between the two gradients of the whole model."""
    x = jax.random.normal(jax.random.key(1), (16, 12))
    labels = jax.random.randint(jax.random.key(2), 16, 0, 5)
    want = eqx.filter_grad(loss_with_equinox)(mlp(jax.nn.relu), x, labels)
    got = eqx.filter_grad(loss_by_hand)(with_our_layers(mlp(ops.relu)), x, labels)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    difference = max(float(jnp.abs(g - w).max() / jnp.abs(w).max()) for g, w in pairs)
    print(f"Equinox: the gradients of the whole model differ by {difference:.1e} at most (relative)")
    return difference


if __name__ == "__main__":
    main()
