"""The fused last layer with more classes than fit into one part, and what it needs beyond dW."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad
import manual_grad_reference as reference
from tests.formulas.comparing import assert_same

RNG = np.random.default_rng(3)


def _by_hand(hidden, W, labels):
    J, res = manual_grad.linear_cross_entropy_fwd(hidden, W, labels)
    return J, manual_grad.linear_cross_entropy_bwd(res, 1.0)


_by_autodiff = jax.value_and_grad(reference.linear_cross_entropy.linear_cross_entropy, argnums=(0, 1))


@pytest.mark.parametrize("V", [2049, 4096, 6001])  # two parts and a class, two, three and a class
def test_any_number_of_classes(V):
    """[A-10]"""
    inputs = jnp.asarray(RNG.normal(size=(5, 3))), jnp.asarray(RNG.normal(size=(3, V))), RNG.integers(0, V, 5)
    assert_same(jax.jit(_by_hand)(*inputs), jax.jit(_by_autodiff)(*inputs))


def test_a_quarter_of_the_memory():
    """[A-10] Temporaries of N = 512, D = 256, V = 32000, by hand and by autodiff, as compiled."""
    like = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((512, 256), (256, 32000))]
    like.append(jax.ShapeDtypeStruct((512,), jnp.int32))

    def temporaries(f):
        return jax.jit(f).lower(*like).compile().memory_analysis().temp_size_in_bytes

    assert 0 < temporaries(_by_hand) < 0.3 * temporaries(_by_autodiff)
