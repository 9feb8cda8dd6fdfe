"""Second order, and rules for forward mode: right ones pass, planted mistakes are named."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from manual_grad.border import InputError
from manual_grad.verify import assert_jvp_matches, check_jvp, check_vjp

RNG = np.random.default_rng(2)
x, w = RNG.standard_normal((4, 3)), RNG.standard_normal((3, 2))


def dense(x, w):
    return jnp.tanh(x @ w)


def dense_fwd(x, w):
    y = dense(x, w)
    return y, {"x": x, "w": w, "y": y}


def dense_bwd(res, d):
    g = (1 - res["y"] ** 2) * d
    return g @ res["w"].T, res["x"].T @ g


def stopped_in_bwd(res, d):
    return dense_bwd(res | {"y": lax.stop_gradient(res["y"])}, d)


def stopped_in_fwd(x, w):
    y, res = dense_fwd(x, w)
    return y, res | {"y": lax.stop_gradient(y)}


def test_a_right_pair_is_right_in_second_order():
    report = check_vjp(dense_fwd, dense_bwd, x, w, reference=dense, order=2, draws=1)
    assert report.ok
    assert [f.name for f in report.findings] == ["x", "w", "x, order 2", "w, order 2", "dout, order 2"]


@pytest.mark.parametrize(
    ("fwd", "bwd", "where"),
    [(dense_fwd, stopped_in_bwd, "in bwd"), (stopped_in_fwd, dense_bwd, "as fwd saves it")],
)
def test_constants_to_the_second_derivative_are_named(fwd, bwd, where):
    assert check_vjp(fwd, bwd, x, w, reference=dense, draws=1).ok
    report = check_vjp(fwd, bwd, x, w, reference=dense, order=2, draws=1)
    told = {f.name: f.diagnosis for f in report.findings if not f.ok}
    said = f"treated as constant by the second derivative: res['y'], {where}"
    assert told == {"x, order 2": said, "w, order 2": said}


def test_functions_that_cannot_be_differentiated_twice_are_reported():
    def fwd(x):
        return x**2, x

    with pytest.raises(InputError, match="order=2 differentiates fwd and bwd, and JAX cannot trace them"):
        check_vjp(fwd, lambda x, d: (2 * np.asarray(x) * d,), x, order=2, reference=lambda x: x**2)
    with pytest.raises(InputError, match=r"order is int64\[2\], expected 1 or 2"):
        check_vjp(dense_fwd, dense_bwd, x, w, order=np.array([1, 2]))
    with pytest.raises(InputError, match="order is 3, expected 1 or 2"):
        check_vjp(fwd, lambda x, d: (2 * x * d,), x, order=3)
    report = check_vjp(fwd, lambda x, d: (x * d,), x, order=2)
    assert "order 2 was not checked: the first order is wrong" in report.notes


def rule(primals, tangents):
    x, w = primals
    y = dense(x, w)
    return y, (1 - y**2) * (tangents[0] @ w + x @ tangents[1])


RIGHT = {
    "dense": (dense, rule, (x, w), {}),
    "numpy": (np.exp, lambda p, t: (np.exp(p[0]), np.exp(p[0]) * t[0]), (x,), {"reference": jnp.exp}),
    "an integer, in float32": (
        lambda x, k: x**k, lambda p, t: (p[0] ** p[1], p[1] * p[0] ** (p[1] - 1) * t[0]),
        (jnp.asarray(abs(x), "float32"), 3), {}),
    "two outputs of a dict": (
        lambda p: (p["a"] ** 2, jnp.sum(p["a"])),
        lambda p, t: ((p[0]["a"] ** 2, jnp.sum(p[0]["a"])), (2 * p[0]["a"] * t[0]["a"], jnp.sum(t[0]["a"]))),
        ({"a": x[0]},), {}),
}  # fmt: skip
WRONG = {
    "one tangent ignored": (lambda p, t: (dense(*p), (1 - dense(*p) ** 2) * (t[0] @ p[1])), "w", "zero"),
    "a factor": (lambda p, t: (rule(p, t)[0], 2 * rule(p, t)[1]), "x", "scaled by 2"),
    "the slope": (lambda p, t: (dense(*p), t[0] @ p[1] + p[0] @ t[1]), "x", "tanh"),
    "the value": (lambda p, t: (rule(p, t)[0] + 1, rule(p, t)[1]), "out", "not what the function gives"),
    "not linear": (lambda p, t: (rule(p, t)[0], abs(rule(p, t)[1])), "jvp", "not linear in the tangents"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_rules_pass(name):
    fn, jvp, args, settings = RIGHT[name]
    assert_jvp_matches(fn, jvp, *args, draws=2, **settings)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rules_are_named(name):
    jvp, argument, said = WRONG[name]
    told = {f.name: f.diagnosis for f in check_jvp(dense, jvp, x, w, draws=2).findings if not f.ok}
    assert said in told[argument]


@pytest.mark.parametrize(
    ("jvp", "said"),
    [
        (lambda p, t: p[0], "jvp returned float64[4,3], expected a pair"),
        (lambda p, t: (p[0], t[0].sum()), "jvp returned the tangent"),
        (lambda p, t: 1 / 0, "jvp raised ZeroDivisionError"),
        (None, "jvp is None, expected a function"),
    ],
)
def test_bad_rules_give_one_line(jvp, said):
    with pytest.raises(InputError, match=r"^check_jvp: ") as error:
        check_jvp(jnp.tanh, jvp, x)
    assert said in str(error.value)
