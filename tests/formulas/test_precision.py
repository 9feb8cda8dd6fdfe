import jax
import jax.numpy as jnp
import pytest

from .comparing import by_hand, by_jax, cotangent, error
from .scenarios import draw, each_scenario, in_float64

# Relative to the largest entry of each array, against float64 at the same rounded inputs. In half precision
# 4 eps: the worst measured is 2.4 eps, with XLA's optimizations and without (each of up to five layers rounds
# once, and the roundings add up).
TOLERANCES = {jnp.float32: 1e-5, jnp.bfloat16: 4 * 2**-7, jnp.float16: 4 * 2**-10}
each_dtype = {"argvalues": list(TOLERANCES), "ids": [dtype.__name__ for dtype in TOLERANCES]}


@pytest.mark.parametrize("dtype", **each_dtype)
@pytest.mark.parametrize("scenario", **each_scenario)
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
