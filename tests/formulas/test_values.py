"""Numbers that anyone can check by hand; no oracle. Hard inputs are in verify/test_hard.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad as mg

inf, nan = np.inf, np.nan


def _rng_normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def _softmax_cross_entropy(logits, labels):
    """(J, dlogits) of the pair that fits the labels: a matrix of floats or a vector of integers."""
    labels = np.asarray(labels)
    suffix = "" if labels.ndim == 2 else "_with_integer_labels"
    J, res = getattr(mg, f"softmax_cross_entropy{suffix}_fwd")(np.asarray(logits, float), labels)
    return float(J), np.asarray(getattr(mg, f"softmax_cross_entropy{suffix}_bwd")(res, 1.0)[0])


def test_product_of_sum_at_the_lectures_point():
    """[C-01]"""
    f, res = mg.product_of_sum_fwd(-2, 5, -4)
    assert float(f) == -12
    assert [float(d) for d in mg.product_of_sum_bwd(res, 1)] == [-4, -4, 3]


def test_four_jacobians_by_hand():
    """[A-01]"""
    assert mg.jac_square_x(3.0).shape == ()
    assert mg.jac_sum_of_squares_x(np.array([1.0, 2.0, 3.0])).tolist() == [2, 4, 6]
    assert mg.jac_powers_x(2.0, 3).tolist() == [1, 4, 12]
    assert mg.jac_powers_x(0.0, 3).tolist() == [1, 0, 0]
    M = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert mg.jac_linear_map_x(M, np.ones(3)).tolist() == M.tolist()


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_relu_has_slope_0_at_0(zero):
    """[B-06]"""
    x = np.array([zero])
    assert mg.relu_prime(x).tolist() == [0]
    assert mg.jac_relu_x(x).tolist() == [[0]]


def test_softmax_rows_sum_to_1_and_their_gradients_to_0():
    """[A-07] [A-08] [A-10]"""
    logits, dprobs, labels = 3 * _rng_normal(4, 6), _rng_normal(4, 6) ** 2, _rng_normal(4, 6)
    probs, res = mg.softmax_fwd(logits)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-14)
    np.testing.assert_allclose(mg.softmax_bwd(res, dprobs)[0].sum(axis=1), 0, atol=1e-14)
    for y in (labels, np.array([1, 0, 5, 2])):
        np.testing.assert_allclose(_softmax_cross_entropy(logits, y)[1].sum(axis=1), 0, atol=1e-14)


@pytest.mark.parametrize(("ignored", "dtype"), [(-100, int), (2, np.int8), (255, np.uint8), (-1, np.uint8)])
def test_ignored_samples_might_as_well_not_be_there(ignored, dtype):
    """[E-27] Eagerly, where labels are checked; the last one does not fit into a byte."""
    hidden, W = jnp.asarray(_rng_normal(5, 2)), jnp.asarray(_rng_normal(2, 3))
    kept, sometimes = [0, 2, 4], ignored if ignored >= 0 or dtype is int else 1
    y = np.array([1, sometimes, 0, sometimes, 0], dtype)
    kept = kept if sometimes == ignored else [*range(5)]
    J, res = mg.softmax_cross_entropy_with_integer_labels_fwd(hidden @ W, y, ignore_index=ignored)
    (dlogits,) = mg.softmax_cross_entropy_with_integer_labels_bwd(res, 1.0)
    want_J, want = _softmax_cross_entropy((hidden @ W)[np.array(kept)], y[kept])
    np.testing.assert_allclose(J, want_J, rtol=1e-14)
    np.testing.assert_allclose(dlogits[np.array(kept)], want, rtol=1e-13)
    assert not np.delete(dlogits, kept, axis=0).any()
    J, res = mg.linear_cross_entropy_fwd(hidden, W, y, chunk=3, ignore_index=ignored)
    np.testing.assert_allclose(J, want_J, rtol=1e-14)
    np.testing.assert_allclose(mg.linear_cross_entropy_bwd(res, 1.0)[0], dlogits @ W.T, atol=1e-14)


def test_gradient_is_0_where_probs_are_the_labels():
    """[A-10]"""
    logits = _rng_normal(4, 6)
    _, dlogits = _softmax_cross_entropy(logits, np.asarray(mg.softmax_fwd(logits)[0]))
    np.testing.assert_allclose(dlogits, 0, atol=1e-15)


def test_gradient_is_0_where_predictions_are_the_targets():
    """[A-04] [A-05] [A-06] [C-03]"""
    y = _rng_normal(5)
    assert not any(d.any() for d in mg.mse_bwd(mg.mse_fwd(y, y)[1], 1.0))
    x = np.array([1.0, 2.0, 4.0])
    _, res = mg.linear_regression_fwd(3, 1, x, 3 * x + 1)
    assert not any(d.any() for d in mg.linear_regression_bwd(res, 1))
    layer = (np.array([[2.0]]), np.array([1.0]))
    J, res = mg.network_squared_loss_fwd([layer], np.array([3.0]), np.array([7.0]), activation="identity")
    assert float(J) == 0
    assert not any(d.any() for d in jax.tree.leaves(mg.network_squared_loss_bwd(res, 1.0)))


def test_lecture_mse_by_hand():
    """[A-02] [A-03] [A-04]"""
    J, res = mg.mse_fwd(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.0, 1.0, 8.0]))
    assert float(J) == (1 + 0 + 4 + 16) / 4
    assert mg.mse_bwd(res, 1.0)[0].tolist() == [-0.5, 0, 1, -2]


def test_lecture_correlation_by_hand():
    """[C-08] 3×3 ⊗ 2×2 = 2×2, all four entries."""
    X, F = np.arange(1.0, 10).reshape(3, 3), np.array([[1000.0, 100.0], [10.0, 1.0]])
    assert mg.correlate2d_fwd(X, F)[0].tolist() == [[1245, 2356], [4578, 5689]]


def test_lecture_convolution_by_hand():
    """[C-07] A true convolution: a single 1 in the image reproduces the kernel unchanged."""
    w = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert mg.convolve2d_fwd(np.array([[1.0]]), w)[0].tolist() == w.tolist()
    X = np.arange(1.0, 10).reshape(3, 3)
    valid = mg.convolve2d_fwd(X, np.array([[1.0, 10.0], [100.0, 1000.0]]), mode="valid")[0]
    assert valid.tolist() == [[1245, 2356], [4578, 5689]]


def test_gradient_descent_steps_against_the_gradient():
    """[D-11]"""
    params = [(np.array([[1.0, 2.0]]), np.array([3.0]))]
    (W, b), *_ = mg.gradient_descent(params, [(np.array([[10.0, 20.0]]), np.array([30.0]))], 0.1)
    assert (W.tolist(), b.tolist()) == ([[0, 0]], [0])


def test_one_hot():
    """[B-10] [D-01]"""
    labels = np.array([2, 0])
    assert mg.one_hot(labels, 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert mg.one_hot_columns(labels, 3).tolist() == [[0, 1], [0, 0], [1, 0]]
    hot = jax.jit(lambda y: mg.one_hot(y, 3))(np.array([-1, 0, 3]))
    assert np.isnan(hot).all(axis=1).tolist() == [True, False, True]
    assert mg.one_hot(labels, 3, jnp.bfloat16).dtype == jnp.bfloat16
