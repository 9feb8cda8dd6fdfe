"""Finite differences on functions whose derivative, domain or kink is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad_reference.oracles.differences import STEPS, derivative, directional

POINTS = {
    "sin": (np.sin, np.cos(0.7), 0.7),
    "exp, steep": (lambda x: np.exp(8 * x), 8 * np.exp(8 * 0.7), 0.7),
    "reciprocal": (lambda x: 1 / x, -1 / 0.7**2, 0.7),
    "square root near 0": (np.sqrt, 0.5 / 0.01**0.5, 0.01),
    "logarithm near 0": (np.log, 1 / 0.02, 0.02),
    "constant": (lambda x: 0 * x + 3, 0, 0.7),
    "large offset": (lambda x: 1e5 + np.sin(x), np.cos(0.7), 0.7),
    "a kink nearby": (lambda x: np.maximum(x - 0.701, 0) + x**2, 1.4, 0.7),
    "fast wave": (lambda x: np.sin(200 * x), 200 * np.cos(140), 0.7),
}


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_known_derivatives_within_the_estimate(name):
    f, want, x = POINTS[name]
    found = derivative(f(x - STEPS), float(f(x)), f(x + STEPS))
    assert abs(found.value - want) <= 10 * found.error
    assert found.error <= 1e-7 * max(abs(want), 1)
    assert not found.kink


@pytest.mark.parametrize("slopes", [(0, 1), (1, -1), (1, 1.001), (-2, 3)])
def test_a_kink_at_the_point_is_detected(slopes):
    def f(x):
        return np.where(x < 0, slopes[0] * x, slopes[1] * x) + np.sin(3 * x)

    assert derivative(f(-STEPS), 0.0, f(STEPS)).kink


def test_random_smooth_functions_meet_their_estimate():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b, c, x = rng.standard_normal(4)

        def f(x, a=a, b=b, c=c):
            return a * np.exp(b * x) + np.tanh(3 * c * x) * x**2

        tanh = np.tanh(3 * c * x)
        want = a * b * np.exp(b * x) + 2 * x * tanh + 3 * c * x**2 * (1 - tanh**2)
        found = derivative(f(x - STEPS), float(f(x)), f(x + STEPS))
        assert abs(found.value - want) <= 10 * found.error
        assert not found.kink


def test_directions_of_several_arrays():
    rng = np.random.default_rng(1)
    W, x, dout = (jnp.asarray(rng.standard_normal(s)) for s in ((4, 3), (3,), (4,)))
    v = jnp.asarray(rng.standard_normal((2, 4, 3))), jnp.asarray(rng.standard_normal((2, 3)))
    for k, found in enumerate(directional(lambda W, x: jnp.tanh(W @ x), (W, x), dout, v)):
        slope = dout * (1 - jnp.tanh(W @ x) ** 2)
        want = float(slope @ (v[0][k] @ x + W @ v[1][k]))
        assert abs(found.value - want) <= 10 * found.error
        assert found.error < 1e-9


def on_a_trend(kind, rng):
    """A function with fine structure on a smooth trend, its derivative or both one-sided ones, a point."""
    size, x = 10.0 ** rng.uniform(-6, -2), rng.standard_normal()
    a, b = rng.standard_normal(2)
    if kind == "a spike":
        width = 10.0 ** rng.uniform(-5.5, -2.5)
        x, a = width * rng.uniform(-2, 2), 10.0 ** rng.uniform(-3, 0)
        return (
            lambda t: t + a * np.exp(-((t / width) ** 2)),
            (1 - 2 * a * x / width**2 * np.exp(-((x / width) ** 2)),),
            x,
        )
    if kind == "a wave":
        k = 10.0 ** rng.uniform(3, 6.2)
        return lambda t: t + size * np.sin(k * t), (1 + size * k * np.cos(k * x),), x
    if kind == "float32 values":
        return lambda t: np.float32(a * np.sin(b * t) + t).astype(np.float64), (a * b * np.cos(b * x) + 1,), x
    if kind == "float32 inputs":
        return (
            lambda t: (lambda s: a * np.sin(b * s) + s)(np.float32(t).astype(np.float64)),
            (a * b * np.cos(b * x) + 1,),
            x,
        )
    if kind == "steps":
        k = 10.0 ** rng.uniform(3, 6.3)
        return lambda t: np.floor(k * t) / k, (0.0,), x
    if kind == "a kink":
        slope = 10.0 ** rng.uniform(-8, -1)
        return lambda t: t + slope * np.maximum(t, 0) + a * np.sin(b * t), (1 + a * b, 1 + slope + a * b), 0.0
    near = 10.0 ** rng.uniform(-7, -2) * rng.choice([-1, 1])
    return lambda t: t + size * np.maximum(t - near, 0), (1 + size * (near < 0),), 0.0


@pytest.mark.parametrize(
    "kind", ["a spike", "a wave", "float32 values", "float32 inputs", "steps", "a kink", "a kink nearby"]
)
def test_fine_structure_is_never_jumped_over(kind):
    """Nothing trusted to 1e-6 is wrong; for smooth functions everything is trusted (see above)."""
    rng, trusted = np.random.default_rng(7), 0
    for _ in range(300):
        f, wants, x = on_a_trend(kind, rng)
        found = derivative(f(x - STEPS) - f(x), 0.0, f(x + STEPS) - f(x), abs(float(f(x))))
        if not found.kink and 10 * found.error <= 1e-6 * abs(found.value):
            trusted += 1
            off = min(abs(found.value - want) for want in wants)
            assert off <= max(10 * found.error, 1e-8 * abs(found.value))
    assert trusted < 300
