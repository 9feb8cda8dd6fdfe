"""The other side is right too: compared with XLA's operations, NumPy and SciPy, never with manual_grad."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.special
from jax import lax

import manual_grad_reference as reference
from manual_grad_reference import oracles

RNG = np.random.default_rng(3)
GEOMETRIES = list(itertools.product(["VALID", "SAME", ((1, 2), (0, 3))], [1, (2, 3)], [1, (2, 1)], [1, 3]))


def draw(*shape):
    return jax.device_put(RNG.standard_normal(shape))


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("padding", "strides", "dilation", "groups"), GEOMETRIES)
def test_conv2d_is_what_xla_computes(padding, strides, dilation, groups):
    @jax.jit
    def both(x, kernel, bias):
        want = lax.conv_general_dilated(
            x,
            kernel,
            (strides, strides) if isinstance(strides, int) else strides,
            padding,
            rhs_dilation=(dilation, dilation) if isinstance(dilation, int) else dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return reference.conv2d.conv2d(x, kernel, bias, strides, padding, dilation, groups), want + bias

    close(*both(draw(2, 9, 8, 6), draw(3, 2, 6 // groups, 9), draw(9)))


def test_convolution_and_correlation_are_scipys():
    x, f = draw(6, 7), draw(3, 2)
    close(reference.conv2d.correlate2d(x, f), scipy.signal.correlate2d(x, f, "valid"))
    for mode in ("full", "valid"):
        close(reference.conv2d.convolve2d(x, f, mode), scipy.signal.convolve2d(x, f, mode))


def test_softmax_and_cross_entropy_are_scipys():
    logits, labels = draw(5, 7), RNG.integers(0, 7, 5)
    logs = scipy.special.log_softmax(logits, axis=1)
    want = -logs[np.arange(5), labels].mean()
    close(reference.softmax.softmax(logits), scipy.special.softmax(logits, axis=1))
    close(reference.softmax.softmax_cross_entropy(logits, jnp.eye(7)[labels]), want)
    close(reference.softmax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)), want)
    close(reference.softmax.softmax_cross_entropy_columns(logits.T, jnp.eye(7)[labels].T), want)


def test_mean_squared_error_is_numpys():
    y_hat, y = draw(7), draw(7)
    close(reference.mse.mse(y_hat, y), np.mean((np.asarray(y) - np.asarray(y_hat)) ** 2))


def test_rows_and_columns_agree():
    X, W1, b1, W2, b2 = draw(5, 3), draw(3, 4), draw(4), draw(4, 6), draw(6)
    y = jnp.asarray(RNG.integers(0, 6, 5))
    close(reference.dense.dense_rows(X, W1, b1), reference.dense.dense_columns(X.T, W1.T, b1).T)
    close(
        reference.two_layer.two_layer_cross_entropy_rows(W1, b1, W2, b2, X, y),
        reference.two_layer.two_layer_cross_entropy_columns(W1.T, b1, W2.T, b2, X.T, y),
    )
    rows, columns = [(W1, b1), (W2, b2)], [(W1.T, b1), (W2.T, b2)]
    close(reference.mlp.mlp_rows(rows, X, "tanh"), reference.mlp.mlp_columns(columns, X.T, "tanh").T)


def test_a_batch_of_one_sample_is_that_sample():
    W1, b1, W2, b2, x = draw(4, 3), draw(4), draw(6, 4), draw(6), draw(3)
    y = jnp.asarray(2)
    close(
        reference.two_layer.two_layer_cross_entropy(W1, b1, W2, b2, x, y),
        reference.two_layer.two_layer_cross_entropy_columns(W1, b1, W2, b2, x[:, None], y[None]),
    )


def test_the_cnn_has_the_slides_shapes():
    N, n_H, n_W, l_I, f1, l_1, f2, l_2, l_4, l_5 = 2, 12, 11, 3, 3, 4, 5, 6, 7, 8
    shapes = reference.cnn.cnn_shapes(N, n_H, n_W, l_I, f1, l_1, f2, l_2, l_4, l_5)
    params = {name: draw(*shapes[name]) for name in ("K1", "b1", "K2", "b2", "W4", "b4", "W5", "b5")}
    X = draw(*shapes["X"])
    assert reference.cnn.features(params, X).shape == shapes["A3"]
    assert reference.cnn.cnn_scores(params, X).shape == shapes["Z5"]
    assert shapes["A1"] == (N, n_H - f1 + 1, n_W - f1 + 1, l_1)


def polynomial(a, b):
    return {"out": (a @ b) ** 2, "sum": a.sum() * b[0]}


def test_the_oracles_agree_with_each_other_and_with_differences():
    a, b = draw(3, 4), draw(4)
    dout = {"out": draw(3), "sum": draw()}
    v = draw(2, 3, 4), draw(2, 4)

    @jax.jit
    def answers(primals, dout, v):
        asked = polynomial, primals, dout
        return oracles.reverse(*asked), oracles.forward(*asked), oracles.forward_projections(*asked, v)

    reverse, forward, projections = answers((a, b), dout, v)
    jax.tree.map(close, reverse, forward)

    @jax.jit
    def paired(a, b):
        out = polynomial(a, b)
        return (out["out"] * dout["out"]).sum() + out["sum"] * dout["sum"]

    h = 1e-5
    for k in range(4):
        step = h * np.eye(4)[k]
        difference = (paired(a, b + step) - paired(a, b - step)) / (2 * h)
        np.testing.assert_allclose(reverse[1][k], difference, rtol=1e-7, atol=1e-7)
    want = [sum((np.asarray(g) * d[i]).sum() for g, d in zip(reverse, v, strict=True)) for i in range(2)]
    close(projections, want)


def test_the_jacobian_oracles_agree():
    M, x = draw(3, 4), draw(4)
    for jacobian in (oracles.jacobian_reverse, oracles.jacobian_forward):
        dM, dx = jacobian(lambda M, x: M @ x, (M, x))
        close(dx, M)
        assert dM.shape == (3, 3, 4)


def test_the_oracles_leave_integers_alone():
    logits, labels = draw(2, 3), jnp.array([0, 2])
    fn = reference.softmax.softmax_cross_entropy_with_integer_labels
    assert len(oracles.reverse(fn, (logits, labels), jnp.ones(()))) == 1
    assert len(oracles.forward(fn, (logits, labels), jnp.ones(()))) == 1


def test_the_oracles_refuse_a_cotangent_of_another_shape():
    with pytest.raises(ValueError, match="expected shape"):
        oracles.reverse(lambda x: x, (draw(3),), draw(3, 1))
