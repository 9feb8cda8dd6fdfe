"""Right gradients pass in every form; kinks are not blamed on the gradient; bad input gives one line."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad
from manual_grad.border import InputError
from manual_grad.verify import (
    Finding,
    Report,
    assert_grad_matches,
    assert_vjp_matches,
    check_grad,
    check_vjp,
)

RNG = np.random.default_rng(3)
x, y = RNG.standard_normal(7), RNG.standard_normal(7)
X, T = RNG.standard_normal((6, 4)), RNG.standard_normal((6, 4))
LABELS = np.array([0, 3, 1, 1, 2, 0])


def mse(p, t):
    return ((p - t) ** 2).mean()


def dmse(p, t):
    return 2 * (p - t) / p.size, -2 * (p - t) / p.size


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy_ce(z, Y):
    return -(Y * np.log(softmax(z))).sum() / len(z)


def numpy_dce(z, Y):
    return (softmax(z) * Y.sum(1, keepdims=True) - Y) / len(z), -np.log(softmax(z)) / len(z)


def jax_ce(z, labels):
    return -jnp.mean(jax.nn.log_softmax(z)[jnp.arange(len(labels)), labels])


def jax_dce(z, labels):
    return (jax.nn.softmax(z) - jax.nn.one_hot(labels, z.shape[1], dtype=z.dtype)) / z.shape[0]


def params_loss(params, X):
    return jnp.sum(jnp.tanh(X @ params["W"] + params["layers"][0][0]))


def params_grad(params, X):
    dZ = 1 - jnp.tanh(X @ params["W"] + params["layers"][0][0]) ** 2
    return {"W": X.T @ dZ, "layers": [(dZ.sum(0),)]}, dZ @ params["W"].T


PARAMS = {"W": RNG.standard_normal((4, 3)), "layers": [(RNG.standard_normal(3),)]}


def test_a_right_gradient_is_right():
    report = check_grad(mse, dmse, x, y)
    assert report.ok
    assert bool(report)
    assert [f.name for f in report.findings] == ["p", "t"]
    assert [f.argument for f in report.findings] == [0, 1]
    assert all(
        f.ok and f.diagnosis == "" and f.where is None and f.max_error < 1e-12 for f in report.findings
    )
    assert "all 2 right" in str(report)
    assert report.notes == ()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_every_dtype(dtype, wrap):
    args = jnp.asarray(X, dtype), jnp.asarray(LABELS)
    assert_grad_matches(wrap(jax_ce), wrap(jax_dce), *args)
    report = check_grad(wrap(jax_ce), wrap(lambda z, labels: jax_dce(z, labels) * 6), *args)
    assert report.findings[0].diagnosis.startswith("scaled by N = 6")


def test_without_x64(x32):
    assert_grad_matches(mse, dmse, x, y)
    assert_grad_matches(jax_ce, jax_dce, X.astype(np.float32), LABELS)
    assert_grad_matches(mse, dmse, x.astype(np.float32), y.astype(np.float32))
    assert jnp.ones(1).dtype == jnp.float32


@pytest.mark.parametrize("to", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_pytrees(to):
    params, data = jax.tree.map(to, PARAMS), to(X)
    report = check_grad(params_loss, params_grad, params, data)
    assert report.ok
    names = ["params['W']", "params['layers'][0][0]", "X"]
    assert [(f.argument, f.name) for f in report.findings] == list(zip([0, 0, 1], names, strict=True))


def test_numpy_code_is_compared_with_jax():
    Y = np.eye(4)[LABELS]
    assert_grad_matches(numpy_ce, numpy_dce, X, Y, against="softmax_cross_entropy")
    assert_grad_matches(
        numpy_ce, numpy_dce, X, Y, against=lambda z, Y: -(Y * jax.nn.log_softmax(z)).sum() / 6
    )
    with pytest.raises(InputError, match=r"loss cannot be traced by JAX .* against="):
        check_grad(numpy_ce, numpy_dce, X, Y)


def test_a_shortcut_that_holds_for_distributions_is_right():
    """p − y is the gradient only if each row of y sums to 1, which nearby points preserve."""

    def shortcut(z, Y):
        return (softmax(z) - Y) / len(z)

    for Y in (np.eye(4)[LABELS], softmax(T)):
        assert_grad_matches(numpy_ce, shortcut, X, Y, against="softmax_cross_entropy", argnums=0)


def test_a_loss_that_differs_from_the_one_it_is_compared_with_is_noted():
    report = check_grad(
        lambda z, Y: 6 * numpy_ce(z, Y), numpy_dce, X, softmax(T), against="softmax_cross_entropy"
    )
    assert any("differ in value" in note for note in report.notes)


def test_one_gradient_per_argument_or_per_floating_point_argument():
    def grad(z, labels):
        return jax_dce(z, labels)

    for form in (grad, lambda *a: (grad(*a),), lambda *a: (grad(*a), None)):
        assert check_grad(jax_ce, form, X, LABELS).ok


def test_equality_by_accident_is_not_believed():
    ones = np.ones(3) * 1.5
    report = check_grad(lambda a: (a**2).sum(), lambda a: np.full(3, 3.0), ones)
    assert not report.ok
    assert any("right at the given point and wrong near it" in note for note in report.notes)
    assert check_grad(lambda a: (a**2).sum(), lambda a: np.full(3, 3.0), ones, draws=1).ok


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "softplus", "identity", "softmax"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_our_pairs_are_right(name, dtype):
    fwd, bwd = (getattr(manual_grad, f"{name}_{half}") for half in ("fwd", "bwd"))
    assert_vjp_matches(fwd, bwd, jnp.asarray(X, dtype), reference=name)
    assert_vjp_matches(fwd, bwd, jnp.asarray(X, dtype))


def test_pairs_with_integers_scalars_and_parameters():
    assert_vjp_matches(
        manual_grad.softmax_cross_entropy_with_integer_labels_fwd,
        manual_grad.softmax_cross_entropy_with_integer_labels_bwd,
        jnp.asarray(X),
        jnp.asarray(LABELS),
    )
    layers = [(jnp.asarray(PARAMS["W"]), jnp.asarray(PARAMS["layers"][0][0]))]
    assert_vjp_matches(manual_grad.mlp_rows_fwd, manual_grad.mlp_rows_bwd, layers, jnp.asarray(X))
    assert_vjp_matches(manual_grad.dense_rows_fwd, manual_grad.dense_rows_bwd, X, T[:4], T[0])


def test_zero_by_cancellation_is_right():
    """The sum of a softmax is constant: its gradient is rounding, and so is the truth."""
    for dtype in ("float64", "float32"):
        z = jnp.asarray(X, dtype)
        assert_grad_matches(lambda z: jax.nn.softmax(z).sum(), lambda z: jnp.zeros_like(z), z)
        shifted = (
            (lambda z, c: jax_ce(z + c, LABELS)),
            lambda z, c: (jax_dce(z + c, LABELS), jax_dce(z + c, LABELS).sum()),
        )
        assert_grad_matches(*shifted, z, jnp.asarray(0.5, dtype))


def test_kinks_are_not_blamed_on_the_gradient():
    at_zero = np.array([0.0, 1.0, -2.0])

    def one_at_zero(x, dout):
        return (dout * (x >= 0),)

    report = check_vjp(lambda x: (jnp.maximum(x, 0), x), one_at_zero, at_zero)
    assert report.ok
    assert any("x sits on a kink" in note for note in report.notes)
    report = check_vjp(lambda x: (jnp.maximum(x, 0), x), lambda x, dout: (dout,), at_zero)
    assert report.findings[0].diagnosis.startswith("missing mask")


@pytest.mark.parametrize(
    "loss", [lambda a: (a**2).sum(), lambda a: jnp.exp(3 * a).sum(), lambda a: jnp.abs(a).sum()]
)
def test_no_kink_where_there_is_none(loss):
    assert check_grad(loss, jax.grad(loss), X).notes == ()


def test_sizes_that_look_alike_are_noted():
    def notes(shape_x, shape_w):
        loss = lambda X, W: ((X @ W) ** 2).sum()  # noqa: E731
        args = RNG.standard_normal(shape_x), RNG.standard_normal(shape_w)
        return " ".join(check_grad(loss, lambda X, W: (2 * X @ W @ W.T, 2 * X.T @ X @ W), *args).notes)

    assert "N = 1 " in notes((1, 3), (3, 2))
    assert "W is square (3×3)" in notes((5, 3), (3, 3))
    assert "another axis has the size N = 3" in notes((3, 3), (3, 2))
    assert notes((5, 3), (3, 2)) == ""


def test_a_custom_rule_is_not_believed_blindly():
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, dout: (3 * x * dout,))
    report = check_grad(lambda x: square(x).sum(), lambda x: 3 * x, x)
    assert any("finite differences" in note for note in report.notes)


def test_the_callers_arrays_are_not_modified():
    def writes(p, t):
        p -= t
        return 2 * p / p.size, -2 * p / p.size

    before = x.copy()
    assert check_grad(mse, writes, x, y).ok
    assert np.array_equal(x, before)


def test_where_says_index_got_and_expected():
    def off(p, t):
        dp, dt = dmse(p, t)
        dp[4] += 1.0
        return dp, dt

    finding = check_grad(mse, off, x, y).findings[0]
    index, got, expected = finding.where
    assert index == (4,)
    assert got == pytest.approx(expected + 1)
    assert finding.max_error == pytest.approx(1 / np.abs(dmse(x, y)[0]).max(), rel=0.7)


def test_the_assertions_fail_with_the_report():
    with pytest.raises(AssertionError, match=r"(?s)2 of 2 wrong.*p: WRONG, sign flipped"):
        assert_grad_matches(mse, lambda p, t: tuple(-d for d in dmse(p, t)), x, y)
    with pytest.raises(AssertionError, match="cotangent ignored"):
        assert_vjp_matches(lambda x: (jnp.sin(x), x), lambda x, d: (jnp.cos(x),), x)


def test_names_and_seeds():
    report = check_grad(mse, dmse, x, y, names=("prediction", "target"), seed=5)
    assert [f.name for f in report.findings] == ["prediction", "target"]
    assert "seed 5" in str(report)
    assert [f.name for f in check_grad(lambda *xs: mse(*xs), dmse, x, y).findings] == ["xs[0]", "xs[1]"]


def test_a_report_is_data():
    report = check_grad(mse, dmse, x, y)
    assert isinstance(report, Report)
    assert isinstance(report.findings[0], Finding)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.seed = 1


def raises(p, t):
    raise RuntimeError("boom\nand more")


def deleted():
    gone = jnp.ones(7)
    gone.delete()
    return gone


BAD = {
    "keys that cannot be sorted": ((mse, dmse, {1: x, "a": x}, y), "p is a dict, expected .* can be sorted"),
    "sorted in no gradient": ((mse, lambda p, t: ({1: p, "a": p}, t), x, y), "returned .*a dict.*expected"),
    "sorted in no answer": ((lambda p: (p**2).sum(), lambda p: {1: p, "a": p}, x), "grad returned a dict"),
    "nested": ((mse, dmse, functools.reduce(lambda a, _: [a], range(9999), 1.0), y), "no more than a few"),
    "deleted": ((mse, lambda p, t: (deleted(), t), x, y), r"returned float64\[7\] for p, expected an array"),
    "a key": ((mse, lambda p, t: (jax.random.key(0), t), x, y), "returned key<fry>.* expected an array"),
    "loss raises": ((raises, dmse, x, y), "loss raised RuntimeError: boom"),
    "grad raises": ((mse, raises, x, y), "grad raised RuntimeError: boom"),
    "lists": ((mse, lambda p, t: [list(g) for g in dmse(p, t)], x, y), "grad returned a Python list of 2"),
    "lists inside": ((mse, lambda p, t: (list(p), t), x, y), "the Python list .* for p, expected float64"),
    "a dict": ((mse, lambda p, t: {"p": p}, x, y), "grad returned a dict"),
    "one of two": ((mse, lambda p, t: (p,), x, y), r"grad returned 1 gradients, expected 2: \(p, t\)"),
    "an array for two": ((mse, lambda p, t: p, x, y), r"expected a tuple \(p, t\)"),
    "objects": ((mse, lambda p, t: (p.astype(object), t), x, y), r"object\[7\] for p"),
    "strings": ((mse, lambda p, t: ("p", t), x, y), "'p' for p, expected"),
    "object argument": ((mse, dmse, x.astype(object), y), r"p is object\[7\]"),
    "complex argument": ((mse, dmse, x + 0j, y), r"p is complex128\[7\]"),
    "empty argument": ((mse, dmse, x[:0], y), r"p is float64\[0\], expected at least one element"),
    "not scalar": ((lambda p, t: p - t, dmse, x, y), r"loss returned float64\[7\], expected a"),
    "with aux": ((lambda p, t: (mse(p, t), p), dmse, x, y), "expected a floating-point scalar"),
    "a string": ((lambda p, t: "no", dmse, x, y), "loss returned 'no'"),
    "none": ((lambda p, t: None, dmse, x, y), "loss returned None"),
    "integers only": ((mse, dmse, LABELS, LABELS), "no argument is floating-point"),
    "integer gradient": (
        (jax_ce, lambda z, k: (jax_dce(z, k), np.zeros(6)), X, LABELS),
        "for labels, which is int64.* expected None",
    ),
    "no function": ((mse, 3, x, y), "grad is 3, expected a function"),
    "too few": ((mse, dmse, x), "1 argument does not match"),
    "structure": ((params_loss, lambda p, X: ({"W": p["W"]}, X), PARAMS, X), "for params, expected"),
}


def _raising():
    raise RuntimeError
    yield


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_line(case):
    args, message = BAD[case]
    with pytest.raises(InputError, match=f"check_grad: .*{message}") as error:
        check_grad(*args)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"argnums": 2}, "argnums has 2"),
        ({"argnums": [1], "names": ("a", "b")}, None),
        ({"argnums": [1], "seconds": 10**400}, None),
        ({"draws": 0}, "draws is 0"),
        ({"draws": 2**70}, "draws is 1180591620717411303424, expected at most 10000"),
        ({"argnums": _raising()}, "argnums has"),
        ({"names": _raising()}, "expected 2 names"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True, expected an integer of at least 0"),
        ({"draws": True}, "draws is True, expected an integer of at least 1"),
        ({"argnums": True}, "argnums has True, expected positions from 0 to 1"),
        ({"names": ("a",)}, "expected 2 names"),
        ({"names": np.array(None, object)}, r"names is object\[\], expected 2 names"),
        ({"argnums": np.array(None, object)}, "argnums has object"),
        ({"argnums": [[0] * 9999]}, "argnums has a list of 9999, expected positions"),
        ({"draws": np.zeros(2, "V4")}, r"draws is \|V4\[2\], expected an integer"),
        ({"against": "msee"}, "similar: mse"),
        ({"against": 3}, "against is 3"),
        ({"against": lambda p: p}, "against raised TypeError"),
        ({"against": lambda p, t: p}, "against returned"),
    ],
)
def test_bad_settings_give_one_clear_line(settings, message):
    if message is None:
        assert check_grad(mse, lambda p, t: (None, dmse(p, t)[1]), x, y, **settings).ok
        return
    with pytest.raises(InputError, match=message) as error:
        check_grad(mse, dmse, x, y, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("calls", [2, 3, 4])
def test_a_function_whose_shapes_change_from_call_to_call_gives_one_line(calls):
    """The fifth call was JAX's for a kink, and raised the ValueError of a zip."""
    before = []

    def fwd(x, y):
        before.append(x)
        out = x * y
        return (out if len(before) <= calls else (out, out)), (x, y)

    with pytest.raises(InputError, match=r"^check_vjp: .*\Z"):
        check_vjp(fwd, lambda res, dout: (dout * res[1], dout * res[0]), X, T)


@pytest.mark.parametrize(
    ("fwd", "bwd", "message"),
    [
        (lambda x: x, lambda r, d: (d,), "expected a pair"),
        (raises, lambda r, d: (d,), "1 argument does not match"),
        (lambda x: (x, x), lambda r, d: d, "expected a tuple"),
        (lambda x: (x, x), lambda r: (r,), "bwd raised TypeError"),
        (lambda x: (x.astype(int), x), lambda r, d: (r,), "no floating-point output"),
        (
            lambda x: (np.exp(x), x),
            lambda r, d: (d * np.exp(r),),
            "fwd cannot be traced by JAX .* reference=",
        ),
    ],
)
def test_bad_pairs_give_one_clear_line(fwd, bwd, message):
    with pytest.raises(InputError, match=f"check_vjp: .*{message}") as error:
        check_vjp(fwd, bwd, x)
    assert "\n" not in str(error.value)


def test_under_jit_the_message_says_so():
    with pytest.raises(InputError, match="outside jit"):
        jax.jit(lambda x: check_grad(lambda x: x.sum(), jnp.ones_like, x))(x)


@pytest.mark.parametrize(
    "out", [jax.ShapeDtypeStruct((7,), "float64"), "out", jax.random.key(0), {1: x, "a": x}]
)
def test_an_output_without_arrays_gives_one_clear_line(out):
    with pytest.raises(InputError, match=r"^check_vjp: fwd returned .*expected [^\n]*$"):
        check_vjp(lambda x: (out, x), lambda x, dout: (x,), x)


def test_many_axes_take_no_longer_than_few():
    """14 axes have 9·10¹⁰ orders: a wrong gradient used to take forever."""
    many = 1.5 * np.ones((1,) * 14)
    assert not check_grad(lambda a: (a**2).sum(), lambda a: 3 * a, many).ok


def test_an_empty_gradient_has_the_wrong_shape():
    assert "wrong shape: got (0,)" in check_grad(mse, lambda p, t: (p[:0], t), x, y).findings[0].diagnosis


@pytest.mark.usefixtures("x32")
def test_random_numbers_that_differ_in_float64_give_one_clear_line():
    """Dropout's gradient was called wrong because its mask differed in float64."""
    key, x = jax.random.key(3), jnp.arange(1, 9) / 3

    def drop(x, key):
        return x * jax.random.bernoulli(key, 0.5, x.shape)

    with pytest.raises(InputError, match="fwd draws random numbers, which differ in float64"):
        check_vjp(lambda x: (drop(x, key), None), lambda res, dout: (drop(dout, key),), x)
    with pytest.raises(InputError, match=r"loss draws random .* pass them as an argument"):
        check_grad(lambda x: (drop(x, key) ** 2).sum(), lambda x: 2 * drop(x, key), x)
    mask = drop(jnp.ones(8), key)
    assert_grad_matches(lambda x, m: ((x * m) ** 2).sum(), lambda x, m: (2 * x * m**2, 2 * x**2 * m), x, mask)


def test_random_keys_and_other_dtypes_are_checked():
    """A typed random key passes through; the numbers of complex and integer gradients are checked too."""

    def noisy(x, key):
        return ((x + jax.random.normal(key, x.shape)) ** 2).sum()

    def right(x, key):
        return 2 * (x + jax.random.normal(key, x.shape))

    key = jax.random.key(3)
    assert check_grad(noisy, right, jnp.asarray(x), key).ok
    wrong = check_grad(noisy, lambda x, key: 2 * right(x, key), jnp.asarray(x), key)
    assert "scaled by 2" in wrong.findings[0].diagnosis
    whole = np.arange(1.0, 5.0)
    found = check_grad(lambda a: (a**2).sum(), lambda a: (2 * a).astype(int), whole).findings[0]
    assert found.diagnosis == "wrong dtype: got int64, expected float64"


def test_a_report_fits_on_a_screen():
    """The wrong ones are shown first, in order; the others are counted."""
    findings = [Finding(i, f"p[{i}]", i % 4 != 3, "" if i % 4 != 3 else "zero") for i in range(40)]
    lines = str(Report(tuple(findings), tuple(f"note {i}" for i in range(20)))).splitlines()
    assert len(lines) <= 24
    assert [line.split(":")[0].strip() for line in lines[1:9]] == [f"p[{i}]" for i in range(3, 32, 4)]
    assert lines[9:11] == ["  … and 30 more that are right", "  … and 2 more that are not right"]
    assert lines[-1] == "  … and 12 more notes"


def test_seconds_limit_the_search_and_not_the_verdict():
    def loss(w):
        return jnp.sum(jnp.tanh(w @ T.T) ** 3)

    def wrong(w):
        return jnp.cos(w) + w

    report = check_grad(loss, wrong, X * 0.3, seconds=1e-6)
    assert not report.ok
    assert report.findings[0].diagnosis.endswith("among those tried in the seconds given")
    assert check_grad(mse, dmse, x, y, seconds=1e-6).ok
    for seconds in (0, -1, float("nan"), "5", True):
        with pytest.raises(InputError, match=r"check_grad: seconds is .*expected a positive"):
            check_grad(mse, dmse, x, y, seconds=seconds)


def test_numpy_arguments_of_a_jax_function_are_explained():
    def fwd(x):
        return x.at[0].set(0.0), None

    with pytest.raises(
        InputError, match=r"no attribute 'at': arguments are passed as they are given; give JAX"
    ):
        check_vjp(fwd, lambda res, d: (d,), np.ones(3))
