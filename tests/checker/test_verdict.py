"""No wrong gradient slips through: points that do not move, modified arrays, calls that disagree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.border import InputError
from manual_grad.verify import check_grad, check_vjp

RNG = np.random.default_rng(11)
X, Y = RNG.standard_normal((6, 4)), RNG.standard_normal((6, 3))


def of(f):
    """The forward half of a pair that saves its arguments."""
    return lambda *args: (f(*args), args)


def said(report):
    return " | ".join(f.diagnosis for f in report.findings if not f.ok)


def noted(report):
    return " | ".join(report.notes)


# --- points that do not move ------------------------------------------------------------------------------


def ridge(w, X, y):
    return ((X @ w - y) ** 2).mean() + 0.1 * (w**2).sum()


@pytest.mark.parametrize("start", [np.zeros(4), np.ones(4), np.array([0.0, 2.0, 0.0, 1.0])])
def test_differentiated_arguments_move_even_if_they_are_whole_numbers(start):
    y = Y[:, 0]

    def right(w, X, y):
        return 2 * X.T @ (X @ w - y) / len(y) + 0.2 * w

    assert check_grad(ridge, right, start, X, y, argnums=0).ok
    assert not check_grad(ridge, lambda *a: right(*a) - 0.2 * a[0], start, X, y, argnums=0).ok


def test_a_number_moves():
    assert check_grad(lambda x: x**2, lambda x: 2 * x, 3.0).ok
    assert not check_grad(lambda x: x**2, lambda x: x + 3.0, 3.0).ok
    assert check_grad(lambda x: x**2, lambda x: x + 3.0, 3.0, draws=1).ok  # where nothing can move


def test_an_adapter_that_starts_at_zero_is_checked():
    """At B = 0 every gradient with respect to A is 0, even a wrong one."""
    A, B = RNG.standard_normal((4, 2)), np.zeros((2, 3))

    def adapter(x, A, B):
        return x @ A @ B

    def bwd(factor, res, d):
        x, A, B = res
        return d @ B.T @ A.T, factor * x.T @ d @ B.T, (x @ A).T @ d

    args = jnp.asarray(X), jnp.asarray(A), jnp.asarray(B)
    assert check_vjp(of(adapter), lambda res, d: bwd(1, res, d), *args).ok
    report = check_vjp(of(adapter), lambda res, d: bwd(2, res, d), *args)
    assert [f.ok for f in report.findings] == [True, False, True]
    assert "right at the given point and wrong near it" in noted(report)


def test_points_are_counted_as_they_are():
    """Integers never move; distributions do if other arguments move."""
    report = check_grad(lambda x: (x**2).sum(), lambda x: 2 * x, np.ones(3))
    assert report.points == 3
    labels = np.eye(3)[[0, 2, 1, 1]]

    def ce(z, y):
        return -(y * jax.nn.log_softmax(z)).sum() / 4

    def shortcut(z, y):
        return (jax.nn.softmax(z) - y) / 4, -jax.nn.log_softmax(z) / 4

    assert check_grad(ce, shortcut, Y[:4], labels).ok  # p − y holds where each row of y sums to 1
    mean = check_grad(lambda p: (p * jnp.log(p)).sum(), lambda p: jnp.log(p) + 1, np.full(4, 0.25))
    assert mean.ok
    assert mean.points == 3


def test_arguments_that_must_be_whole_numbers_are_reported_as_never_varied():
    def whole_only(x):
        if not np.array_equal(x, np.round(x)):
            raise ValueError("only whole numbers")
        return 2 * x

    report = check_grad(lambda x: (x**2).sum(), whole_only, np.ones(3))
    assert report.ok
    assert report.points == 1
    assert "x was never varied" in noted(report)


def test_a_true_gradient_of_zero_is_inconclusive():
    report = check_grad(lambda z: jax.nn.softmax(z).sum(), lambda z: 0 * z, X)
    assert report.ok
    assert "nothing can be concluded" in noted(report)
    assert report.findings[0].max_error < 1e-12  # beside what is summed, not beside what is left
    assert "nothing can be told" not in noted(check_grad(lambda x: (x**2).sum(), lambda x: 2 * x, X))


# --- copies in and out ------------------------------------------------------------------------------------


def tanh_fwd(x):
    t = np.tanh(x)
    return t, t


def in_place(factor):
    def bwd(t, d):
        d *= factor * (1 - t * t)
        return (d,)

    return bwd


def test_a_modified_cotangent_is_reported_and_the_values_decide():
    right = check_vjp(tanh_fwd, in_place(1), X, reference=jnp.tanh)
    assert right.ok
    assert "the cotangent was modified by bwd" in noted(right)
    wrong = check_vjp(tanh_fwd, in_place(2), X, reference=jnp.tanh)
    assert said(wrong) == "scaled by 2"

    def tripled(res, d):
        d *= 3
        return (d,)

    assert not check_vjp(lambda x: (x.copy(), None), tripled, X, reference=lambda x: x * 1.0).ok


def test_a_modified_argument_is_reported_and_the_values_decide():
    def loss(w, b):
        return ((w * b) ** 2).sum()

    def steps(early, w, b):
        dw, db = 2 * w * b * b, 2 * b * w * w
        w -= 0.1 * dw
        return dw, 2 * b * w * w if early else db

    w, b = X[0].copy(), X[1].copy()
    right = check_grad(loss, lambda w, b: steps(False, w, b), w, b)
    assert right.ok
    assert "argument w was modified by grad" in noted(right)
    assert not check_grad(loss, lambda w, b: steps(True, w, b), w, b).ok
    assert np.array_equal(w, X[0])

    def fwd(x):
        out = x**2
        x += 1
        return out, x - 1

    report = check_vjp(fwd, lambda x, d: (2 * x * d,), X, reference=lambda x: x**2)
    assert report.ok
    assert "argument x was modified by fwd" in noted(report)

    def emptied(params):
        found = {"w": 2 * params["w"]}
        params["w"] = params["w"] * 0
        return found

    report = check_grad(lambda p: (p["w"] ** 2).sum(), emptied, {"w": X})
    assert report.ok
    assert "argument p was modified" in noted(report)


def test_a_reused_buffer_is_read_in_time():
    buffer = np.empty_like(X)
    for factor, ok in ((2, True), (4, False)):

        def grad(x, factor=factor):
            return np.multiply(x, factor, out=buffer)

        assert check_grad(lambda x: (x**2).sum(), grad, X).ok == ok


# --- calls that disagree ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [lambda n: n % 2 == 0, lambda n: n % 3 == 0, lambda n: n > 3, lambda n: n == 5]
)
def test_calls_that_disagree_are_detected(wrong):
    calls = []

    def bwd(res, d):
        calls.append(1)
        return (2 * res[0] * d * (1.5 if wrong(len(calls)) else 1.0),)

    report = check_vjp(of(lambda x: x**2), bwd, jnp.asarray(X))
    assert said(report).startswith("differs from call to call")
    _, got, expected = report.findings[0].where
    assert got == pytest.approx(1.5 * expected) or got == pytest.approx(expected)


def test_results_that_accumulate_over_calls_are_detected():
    total = np.zeros_like(X)

    def grad(x):
        total[...] += 2 * x
        return total

    assert "differs from call to call" in said(check_grad(lambda x: (x**2).sum(), grad, X))


def test_rounding_may_differ_from_call_to_call():
    rng = np.random.default_rng(0)
    x = jnp.asarray(X, jnp.float32)
    for noise, ok in ((1e-6, True), (1e-2, False)):

        def bwd(res, d, noise=noise):
            return ((2 * res[0] * d * (1 + noise * rng.standard_normal(x.shape))).astype(jnp.float32),)

        assert check_vjp(of(lambda x: x**2), bwd, x).ok == ok


# --- cotangents -------------------------------------------------------------------------------------------


def test_independence_of_the_cotangent_is_a_finding():
    def sticky(res, d):
        return (jnp.where(jnp.all(d == 0), 1.0, 2 * res[0] * d),)

    def decayed(res, d):
        return (2 * res[0] * d + 0.01 * jnp.sin(res[0]),)

    x, pair = jnp.asarray(X), of(lambda x: x**2)
    assert said(check_vjp(pair, sticky, x)).startswith("not 0 for a cotangent of 0")
    assert "not 0 for a cotangent of 0" in said(check_vjp(pair, decayed, x))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_nonlinearity_in_the_cotangent_is_a_finding(dtype):
    x = jnp.asarray(X, dtype)

    def clipped(res, d):
        return (2 * res[0] * jnp.clip(d, -4, 4).astype(dtype),)

    report = check_vjp(of(lambda x: x**2), clipped, x)
    assert said(report).startswith("not linear in the cotangent")
    assert check_vjp(of(lambda x: x**2), lambda r, d: (2 * r[0] * d,), x).ok


def test_a_linear_pair_of_a_scalar_output_is_linear():
    x = jnp.asarray(X)
    assert check_vjp(of(lambda x: (x**2).sum()), lambda r, d: (2 * r[0] * d,), x).ok
    positive = check_vjp(of(lambda x: (x**2).sum()), lambda r, d: (2 * r[0] * abs(d),), x, seed=1)
    assert not positive.ok


def fortran(d):
    return np.asarray(d).ravel(order="K").reshape(d.shape)


def flat_memory(d):
    """As a kernel in C reads it, that takes the first number's address and the size."""
    base = d if d.base is None else d.base
    if isinstance(base, np.ndarray) and base.size >= d.size:
        return base.reshape(-1)[: d.size].reshape(d.shape)
    return d


@pytest.mark.parametrize("read", [fortran, flat_memory])
def test_cotangents_come_in_every_layout(read):
    pair = of(lambda x: 3.0 * x)
    assert check_vjp(pair, lambda r, d: (3 * d,), X).ok
    report = check_vjp(pair, lambda r, d: (3 * read(d),), X)
    assert "in memory" in said(report) or "strides of 0" in said(report)


# --- truth that is no truth -------------------------------------------------------------------------------


def norms(x):
    return jnp.sqrt((x * x).sum(-1)).sum()


def d_norms(x):
    n = np.sqrt((x * x).sum(-1, keepdims=True))
    return np.where(n > 0, x / np.where(n > 0, n, 1), 0.0)


def test_entries_without_a_gradient_in_jax_are_not_compared():
    x = np.array([[0.0, 0.0], [1.5, -2.5], [0.3, 0.4]])
    right = check_grad(norms, d_norms, x)
    assert right.ok
    assert "NaN or infinite in 2 of 6 entries at the given point, such as [0,0]" in noted(right)
    assert said(check_grad(norms, lambda x: -d_norms(x), x)) == "sign flipped"
    assert said(check_grad(norms, lambda x: 0 * x, x)) == "zero"


def test_a_gradient_that_cannot_be_compared_anywhere_is_not_right():
    report = check_grad(lambda x: (x**2).sum(), lambda x: -3 * x, np.full(3, np.nan))
    assert not report.ok
    assert "nothing to compare with" in said(report)
    assert "NOT CHECKED" in str(report)
    assert "wrong" not in str(report).splitlines()[0]
    some = check_grad(lambda x: (x**2).sum(), lambda x: 2 * x, np.array([1.0, np.nan, 2.5]))
    assert some.ok
    assert not check_grad(lambda x: (x**2).sum(), lambda x: 3 * x, np.array([1.0, np.nan, 2.5])).ok


def test_a_root_at_zero():
    x = np.array([0.0, 1.5, 2.5])
    with np.errstate(divide="ignore"):
        assert check_grad(lambda x: jnp.sqrt(x).sum(), lambda x: 0.5 / np.sqrt(x), x).ok
        assert not check_grad(lambda x: jnp.sqrt(x).sum(), lambda x: 1.0 / np.sqrt(x), x).ok


# --- kinks ------------------------------------------------------------------------------------------------


def to_all(factor):
    def bwd(res, d):
        (x,) = res
        best = x == x.max(-1, keepdims=True)
        ties = best.sum(-1, keepdims=True) > 1
        return (np.where(ties, factor, 1.0) * best * np.asarray(d)[:, None],)

    return bwd


def test_at_a_tie_the_gradient_lies_between_the_one_sided_derivatives():
    x = np.array([[2.0, 2.0, 1.0], [0.5, -1.0, 0.3]])
    for factor in (0.0, 0.5, 1.0):
        assert check_vjp(of(lambda x: x.max(-1)), to_all(factor), x, reference=lambda x: x.max(-1)).ok
    for factor in (4.0, -1.0):
        report = check_vjp(of(lambda x: x.max(-1)), to_all(factor), x, reference=lambda x: x.max(-1))
        assert "outside the one-sided derivatives" in said(report)
        assert report.findings[0].where[0] in {(0, 0), (0, 1)}


def test_where_kinks_meet_either_choice_is_right():
    """At x = 0 of a layer without a bias every unit is on its kink, with slopes of both signs."""
    W, v = RNG.standard_normal((3, 8)), RNG.standard_normal(8)

    def loss(x):
        return jnp.maximum(x @ W, 0) @ v

    for mask in (lambda z: z > 0, lambda z: z >= 0, lambda z: (z > 0) + 0.5 * (z == 0)):
        assert check_grad(loss, lambda x, mask=mask: (v * mask(x @ W)) @ W.T, np.zeros(3)).ok
    assert not check_grad(loss, lambda x: (v * 9.0 * (x @ W == 0) + v * (x @ W > 0)) @ W.T, np.zeros(3)).ok


# --- forms of arguments -----------------------------------------------------------------------------------


def square(x):
    return (x**2).sum()


def d_square(x):
    return 2 * x


class Tensor:
    """An array of a library that is neither NumPy nor JAX."""

    def __array__(self, *args, **kwargs):
        return X

    dtype, shape = "float64", X.shape


FORMS = {
    "an empty argnums": (X, {"argnums": ()}, "argnums is ()"),
    "a fractional argnums": (X, {"argnums": 1.0}, "argnums has 1.0"),
    "no name": (X, {"names": [None]}, "names is (None,)"),
    "a number for names": (X, {"names": 3}, "names is 3"),
    "another library's": (Tensor(), {}, "Tensor, expected a NumPy or JAX array"),
    "masked": (np.ma.masked_array([1.0, 2.0], [0, 1]), {}, "a masked array"),
    "a subclass": (X.view(np.recarray), {}, "numpy.recarray, expected"),
    "text": (np.array(["a"]), {}, "expected an array of real numbers"),
    "records": (np.zeros(2, [("a", float)]), {}, "expected an array of real numbers"),
}


@pytest.mark.parametrize("form", FORMS)
def test_unsupported_arguments_give_one_line(form):
    x, settings, message = FORMS[form]
    with pytest.raises(InputError) as error:
        check_grad(square, d_square, x, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("x", "settings"),
    [
        (X, {"argnums": np.int64(0)}),
        (X, {"argnums": np.array([0])}),
        (X, {"names": {"x": 0}.keys()}),
        (X.astype(">f8"), {}),
        (X.astype(">f4"), {}),
        (X.astype(np.longdouble), {}),
        (np.broadcast_to(X[0], X.shape), {}),
    ],
)
def test_supported_arguments_are_right(x, settings):
    assert check_grad(square, d_square, x, **settings).ok
    assert not check_grad(square, lambda x: 3 * x, x, **settings).ok


def test_an_exit_in_the_user_s_code_is_an_error():
    def leaves(*args):
        raise SystemExit(0)

    for loss, grad in ((leaves, d_square), (square, leaves)):
        with pytest.raises(InputError, match="raised SystemExit"):
            check_grad(loss, grad, X)
    with pytest.raises(InputError, match="SystemExit"):
        check_grad(square, d_square, X, against=leaves)


# --- low precision ----------------------------------------------------------------------------------------


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + jnp.asarray(1e-5, x.dtype))


def d_normalised(factor=1.0, spread=True, inside=lambda x: x.astype(jnp.float32)):
    """The gradient, computed in float32 and rounded at the end, as a kernel does it."""

    def bwd(res, d):
        x, d = inside(res[0]), inside(d)
        s = 1 / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        h = (x - x.mean(-1, keepdims=True)) * s
        dx = s * (d - d.mean(-1, keepdims=True) - spread * h * (d * h).mean(-1, keepdims=True))
        return ((factor * dx).astype(res[0].dtype),)

    return bwd


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_ill_conditioned_problems_are_checked_in_float64(dtype):
    """In bfloat16 the mean of numbers near 1000 has an error as large as their differences."""
    x = jnp.asarray(1e3 + 30 * RNG.standard_normal((3, 8)), dtype)
    right = check_vjp(of(normalised), d_normalised(), x)
    assert right.ok
    assert right.findings[0].max_error < 0.1
    assert right.notes == ()  # within a rounding of the truth
    for factor in (0.0, -1.0, 2.0):
        wrong = check_vjp(of(normalised), d_normalised(factor), x)
        assert not wrong.ok
        assert ("ill-conditioned in bfloat16" in noted(wrong)) == (dtype == "bfloat16")
    assert "variance" in said(check_vjp(of(normalised), d_normalised(spread=False), x))


def test_jax_s_own_gradient_is_right_in_every_dtype():
    x = 1e5 + 3 * RNG.standard_normal((3, 8))

    def own(res, d):
        return jax.vjp(normalised, res[0])[1](d)

    for dtype, at in (("float32", x), ("bfloat16", 10 * (x - 1e5) + 1e3), ("float16", x - 1e5 + 1e3)):
        report = check_vjp(of(normalised), own, jnp.asarray(at, dtype))
        assert report.ok, str(report)
        assert "ill-conditioned" in noted(report)
    plain = check_vjp(of(normalised), d_normalised(inside=lambda x: x), jnp.asarray(x, jnp.float32))
    assert plain.ok


@pytest.mark.parametrize(("dtype", "factor"), [("bfloat16", 1.05), ("float16", 1.01), ("float32", 1 + 1e-5)])
def test_an_error_beyond_rounding_is_detected(dtype, factor):
    x, W = jnp.asarray(10 * X, dtype), jnp.asarray(RNG.standard_normal((4, 3)), dtype)

    def bwd(res, d, factor=1.0):
        x, W = res
        return d @ W.T, x.T @ d * jnp.asarray(factor, dtype)

    assert check_vjp(of(lambda x, W: x @ W), bwd, x, W).ok
    report = check_vjp(of(lambda x, W: x @ W), lambda *a: bwd(*a, factor), x, W)
    assert [f.ok for f in report.findings] == [True, False]


def test_cancelled_digits_are_noticed_in_each_entry():
    """1 + erf loses the tail, which is small compared with the largest entry."""
    x = jnp.linspace(-6, -3, 8, dtype=jnp.float32)
    root, erf, erfc = np.float32(np.sqrt(2)), jax.scipy.special.erf, jax.scipy.special.erfc

    def tail(x):
        return erfc(-x / root)

    def slope(res, d):
        return (d * 2 / np.float32(np.sqrt(2 * np.pi)) * jnp.exp(-(res[0] ** 2) / 2),)

    def cancelled(x):
        return x * tail(x)

    def d_cancelled(with_erf, res, d):
        (x,) = res
        whole = 1 + erf(x / root) if with_erf else tail(x)
        return (d * whole + x * slope(res, d)[0],)

    assert check_vjp(of(tail), slope, x).ok
    assert check_vjp(of(cancelled), lambda *a: d_cancelled(False, *a), x).ok
    assert not check_vjp(of(cancelled), lambda *a: d_cancelled(True, *a), x).ok


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_truth_that_cancels_to_rounding_is_not_blamed_on_the_gradient(dtype):
    """A softmax that is all but one-hot: 1 − p is rounding, in JAX's own gradient too."""
    z = jnp.asarray([[1000.0, 970.0, 965.0], [3.0, -2.0, 30.0]], dtype)

    def bwd(res, d):
        p = jax.nn.softmax(res[0])
        return (p * (d - (p * d).sum(-1, keepdims=True)),)

    def spelt_out(res, d):
        p = jax.nn.softmax(res[0])
        return (jnp.einsum("nij,nj->ni", jnp.einsum("ni,ij->nij", p, jnp.eye(3, dtype=dtype))
                - p[:, :, None] * p[:, None], d),)  # fmt: skip

    for right in (bwd, spelt_out):
        assert check_vjp(of(jax.nn.softmax), right, z).ok
        assert not check_vjp(of(jax.nn.softmax), lambda *a, right=right: (-right(*a)[0],), z).ok
