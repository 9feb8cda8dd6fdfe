"""A convolutional network in an Optax training loop, with JAX's gradients and with the hand-derived ones.

In a clone: ``pip install -e ".[examples]" && python examples/optax_loop.py``
"""

import jax
import jax.numpy as jnp
import optax

from manual_grad import ops

jax.config.update("jax_enable_x64", True)


def loss_with_jax(params, x, labels):
    """Convolution, ReLU, dense layer and cross-entropy as JAX and Optax have them."""
    layout = ("NHWC", "HWIO", "NHWC")
    z = jax.lax.conv_general_dilated(x, params["kernel"], (2, 2), "SAME", dimension_numbers=layout)
    a = jax.nn.relu(z + params["bias"]).reshape(len(x), -1)
    return optax.softmax_cross_entropy_with_integer_labels(a @ params["W"] + params["b"], labels).mean()


def loss_by_hand(params, x, labels):
    """The same, with the hand-derived gradient."""
    z = ops.conv2d(x, params["kernel"], params["bias"], strides=2, padding="SAME")
    a = ops.relu(z).reshape(len(x), -1)
    logits = ops.dense(a, params["W"], params["b"])
    return ops.softmax_cross_entropy_with_integer_labels(logits, labels)


def train(loss, params, x, labels, steps=20):
    """The parameters after some steps of Adam, and the loss at each: one compiled loop."""
    optimizer = optax.adam(1e-2)

    def step(state, _):
        params, moments = state
        value, grads = jax.value_and_grad(loss)(params, x, labels)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), moments), value

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return params, losses


def main():
    """Print and return the largest difference, between the gradients and between the trained networks."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, labels = jax.random.normal(keys[0], (16, 6, 6, 2)), jax.random.randint(keys[1], 16, 0, 5)
    params = {
        "kernel": 0.3 * jax.random.normal(keys[2], (3, 3, 2, 4)),
        "bias": jnp.zeros(4),
        "W": 0.2 * jax.random.normal(keys[3], (36, 5)),
        "b": jnp.zeros(5),
    }
    grads = [jax.jit(jax.grad(loss))(params, x, labels) for loss in (loss_with_jax, loss_by_hand)]
    trained = [
        jax.jit(train, static_argnums=0)(loss, params, x, labels) for loss in (loss_with_jax, loss_by_hand)
    ]
    losses = trained[1][1]
    print(f"Optax: the loss falls from {losses[0]:.3f} to {losses[-1]:.3f} with the hand-derived gradients")
    print(f"Optax: the gradients differ by {difference(*grads):.1e} at most (relative)")
    print(f"Optax: the trained parameters and losses differ by {difference(*trained):.1e} at most (relative)")
    return max(difference(*grads), difference(*trained))


def difference(want, got):
    """The largest difference in an array over its largest entry, of all arrays."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(jnp.abs(g - w).max() / jnp.abs(w).max()) for g, w in pairs)


if __name__ == "__main__":
    main()
