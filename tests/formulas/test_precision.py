import jax
import jax.numpy as jnp
import pytest

from .comparing import by_hand, by_jax, cotangent, error
from .scenarios import SCENARIOS, draw, in_float64

# Relative to the largest entry of each array, against float64 at the same rounded inputs. In half precision
# 4 eps: the worst measured is 2.4 eps, with XLA's optimizations and without (each of up to five layers rounds
# once, and the roundings add up).
TOLERANCES = {jnp.float32: 1e-5, jnp.bfloat16: 4 * 2**-7, jnp.float16: 4 * 2**-10}
HALVES = (jnp.bfloat16, jnp.float16)
EACH = [(s, dtype) for i, s in enumerate(SCENARIOS) for dtype in (jnp.float32, HALVES[i % 2])]  # in turn


@pytest.mark.parametrize(("scenario", "dtype"), EACH, ids=[f"{s.id}-{dtype.__name__}" for s, dtype in EACH])
def test_error_against_float64(scenario, dtype):
    primals = tuple(draw(scenario, 5, dtype).values())
    dout = cotangent(scenario, primals, seed=5)
    got = jax.tree.leaves(by_hand(scenario)(primals, dout))
    truth = jax.tree.leaves(by_jax(scenario)(jax.tree.map(in_float64, primals), in_float64(dout)))
    errors = [error(g, t) for g, t in zip(got, truth, strict=True)]
    assert max(errors) <= TOLERANCES[dtype], errors
    assert min(error(wrong, t) for t in truth for wrong in _mistakes(t)) > TOLERANCES[dtype]


def _mistakes(truth):
    """Zero, the wrong sign, and 1/N missing or too much, for the smallest N that could be."""
    return 0 * truth, -truth, 2 * truth, truth / 2
