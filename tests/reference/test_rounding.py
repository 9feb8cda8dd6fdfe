"""Deviations by the rules of error analysis compared with actual rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad_reference.oracles.rounding import NoBudgetError, deviations

HERE = np.random.default_rng(0)
A, B, V = (
    jnp.asarray(HERE.standard_normal(shape), jnp.float32) for shape in ((31, 200), (200, 17), (40, 13))
)
IMAGE, KERNEL = (
    jnp.asarray(HERE.standard_normal(shape), jnp.float32) for shape in ((3, 11, 9, 4), (3, 2, 4, 5))
)

PROGRAMS = {
    "product": (lambda a, b: a @ b, (A, B)),
    "two products": (lambda a, b: (a @ b) @ (a @ b).T, (A, B)),
    "sum": (lambda v: v.sum(0), (V,)),
    "running sum": (lambda v: jnp.cumsum(v, axis=0), (V,)),
    "quotient": (lambda v: v[:20] / (3 + v[20:] ** 2), (V,)),
    "softmax": (lambda v: jnp.exp(v) / jnp.exp(v).sum(1, keepdims=True), (V,)),
    "difference of logarithms": (lambda v: jnp.log(3 + v**2) - jnp.log(3 + 1.1 * v**2), (V,)),
    "curves": (lambda v: jnp.tanh(v) * jax.nn.sigmoid(v) + jnp.sqrt(1 + abs(v)), (V,)),
    "relu": (lambda v: jnp.maximum(v, 0) * 1.7, (V,)),
    "gather and scatter": (lambda v: jnp.zeros(7).at[np.arange(13) % 7].add(1.3 * v[5]), (V,)),
    "convolution": (
        lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        (IMAGE, KERNEL),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_rounding_stays_within_its_deviation_and_near_it(program, dtype):
    """With each step rounded, no error exceeds four deviations, and these are not much too wide."""
    fn, args = PROGRAMS[program]
    rounded = tuple(arg.astype(dtype) for arg in args)
    got = np.asarray(fn(*rounded), np.float64)
    exact = tuple(arg.astype(jnp.float64) for arg in rounded)
    out, deviation = (np.asarray(leaf) for leaf in deviations(lambda args: fn(*args), exact, dtype))
    errors = abs(got - out)
    assert (errors[deviation == 0] == 0).all()
    shares = errors[deviation > 0] / deviation[deviation > 0]
    assert shares.max() < 4
    assert np.sqrt(np.mean(shares**2)) > 0.02


def test_longer_sums_and_larger_terms_deviate_more():
    def deviation(v, dtype=jnp.float32):
        return float(deviations(jnp.sum, v, dtype)[1])

    terms = jnp.asarray(HERE.standard_normal(4096))
    terms = terms - terms.mean()  # they cancel: what is left is what rounding did on the way
    assert deviation(terms) > 20 * deviation(terms[:64] - terms[:64].mean())
    assert deviation(terms + 100) > 10 * deviation(terms)
    assert deviation(terms + 100, jnp.bfloat16) > 1000 * deviation(terms + 100)


def test_steps_without_rounding_are_exact():
    out, deviation = deviations(
        lambda v: -v.T[::-1].reshape(4, 130)[1:, ::2], V.astype(jnp.float64), "bfloat16"
    )
    assert deviation.shape == out.shape
    assert (np.asarray(deviation) == 0).all()


def test_a_step_without_a_rule_is_refused():
    with pytest.raises(NoBudgetError, match="erf_inv"):
        deviations(jax.lax.erf_inv, jnp.float64(0.5), "float32")
