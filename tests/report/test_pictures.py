"""The figures beside a derivation have its numbers, and these are what JAX gives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad_reference as reference
from manual_grad.report import numbers, pictures


@pytest.fixture
def image_gradient(x64):
    """The gradient of the image in the numbers of C-10, by JAX."""
    known = numbers.named("C-10")

    def loss(X):
        return (reference.conv2d.correlate2d(X, known["F"]) * known["dO"]).sum()

    return np.asarray(jax.grad(loss)(jnp.asarray(known["X"])))


def test_every_position_of_the_rotated_filter_gives_its_entry(image_gradient):
    data = pictures.rotation_figure().data
    assert [step["at"] for step in data] == [list(at) for at in np.ndindex(*image_gradient.shape)]
    for step in data:
        assert step["sum"] == sum(a * b for a, b in step["terms"]) == image_gradient[tuple(step["at"])]


def test_the_pixel_in_the_middle_lies_in_four_windows(image_gradient):
    figure = pictures.one_pixel_figure()
    assert len(figure.data["terms"]) == figure.html.count('class="spot"') == 4
    assert figure.data["sum"] == sum(a * b for a, b in figure.data["terms"]) == image_gradient[1, 1]
    assert sorted(b for _, b in figure.data["terms"]) == sorted(numbers.named("C-10")["F"].ravel())


@pytest.mark.parametrize("figure", [pictures.rotation_figure, pictures.one_pixel_figure])
def test_numbers_that_the_formula_does_not_give_are_not_drawn(figure, monkeypatch, x64):
    right = pictures.correlate2d_bwd
    monkeypatch.setattr(pictures, "correlate2d_bwd", lambda res, dO: [d + 0.01 for d in right(res, dO)])
    with pytest.raises(AssertionError, match="the formula gives"):
        figure()


def test_every_row_and_column_stands_for_the_entry_that_it_names(x64):
    known, data = numbers.named("D-09"), pictures.stacked_figure().data

    def places(labels):
        return [tuple(map(int, re.findall(r"\d+", label))) for label in labels]

    for name, columns, wrt in zip("WX", data["columns"], (0, 1), strict=True):
        jacobian = jax.jacobian(jnp.matmul, wrt)(jnp.asarray(known["W"]), jnp.asarray(known["X"]))
        want = [[jacobian[z + w] for w in places(columns)] for z in places(data["rows"])]
        np.testing.assert_array_equal(data[name], want)


def test_a_sum_of_products_is_shown_as_such():
    block = next(part for part in numbers.shown("C-10")[3:] if not isinstance(part, str))
    value = re.sub(r"<.*?>|\s", "", block["steps"][1]["value"])
    assert value == "4·3+(−1)·2+10·(−1)+8·1=8"
