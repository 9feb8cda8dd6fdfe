"""The oracle in decimals compared with numbers that anyone can check."""

from decimal import Decimal

import numpy as np
import pytest

from manual_grad_reference import definitions
from manual_grad_reference.oracles import decimals

inf, nan = np.inf, np.nan


def test_value_and_slopes_come_in_the_order_of_the_arguments():
    J, dy_hat, dy = decimals.answer(
        definitions.mse, {"y_hat": np.array([1.0, 2.0]), "y": np.array([2.0, 5.0])}, 2.0
    )
    assert (J.item(), dy_hat.tolist(), dy.tolist()) == (5, [-2, -6], [2, 6])


def test_it_is_the_closed_form_where_nothing_is_hard():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    point = {"logits": logits, "labels": labels}
    J, dlogits, dlabels = decimals.answer(definitions.softmax_cross_entropy, point, 0.7)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(J, -(labels * np.log(p)).sum() / 3, rtol=1e-13)
    np.testing.assert_allclose(
        dlogits, 0.7 / 3 * (p * labels.sum(axis=1, keepdims=True) - labels), rtol=1e-12
    )
    np.testing.assert_allclose(dlabels, -0.7 / 3 * np.log(p), rtol=1e-12)


def test_a_number_that_no_float_could_hold():
    """ln(e^{10⁴} + 1) is 10⁴, and σ(−10⁴) is below the smallest float."""
    value, slope = decimals.answer(definitions.softplus, {"x": np.array([1e4, -1e4])}, np.ones(2))
    assert (value.tolist(), slope.tolist()) == ([1e4, 0], [1, 0])


@pytest.mark.parametrize(
    ("logits", "probs"),
    [
        ([inf, 5.0, -inf], [1, 0, 0]),
        ([0.0, 0.0, -inf], [0.5, 0.5, 0]),
        ([inf, inf, 0.0], [nan, nan, 0]),
        ([1.0, nan, -inf], [nan, nan, 0]),
    ],
)
def test_limits(logits, probs):
    got = decimals.answer(definitions.softmax, {"logits": np.array([logits])}, np.ones((1, 3)))[0]
    np.testing.assert_array_equal(got, [probs])


def test_a_loss_without_bound_is_infinite():
    point = {"logits": np.array([[-inf, 1.0]]), "labels": np.array([[0.5, 0.5]])}
    J, dlogits, dlabels = decimals.answer(definitions.softmax_cross_entropy, point, 1.0)
    assert np.isposinf(J)
    np.testing.assert_array_equal(dlogits, [[-0.5, 0.5]])
    np.testing.assert_array_equal(dlabels, [[inf, 0]])


def test_relu_is_off_at_zero():
    value, slope = decimals.answer(
        definitions.relu, {"x": np.array([0.0, -0.0, 1e-9, -1.0])}, np.full(4, 3.0)
    )
    assert (value.tolist(), slope.tolist()) == ([0, 0, 1e-9, 0], [0, 0, 3, 0])


def test_the_point_is_unchanged():
    x = np.array([1.0, inf])
    decimals.answer(definitions.relu, {"x": x}, np.ones(2))
    assert x.tolist() == [1, inf]
    assert Decimal(1) / 3 == Decimal("0.3333333333333333333333333333")  # nor are the user's decimals
