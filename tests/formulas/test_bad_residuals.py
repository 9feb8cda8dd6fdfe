"""A backward pass refuses residuals that no forward pass returns, inside a dataclass too, in one line."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad as mg

from .scenarios import SCENARIOS, drawn

WITH_DATACLASSES = "mlp_rows|mlp_columns|network_squared_loss|convolve2d|conv2d_plain|conv2d_cpu|conv2d|cnn"


def _one_each():
    found = {s.entry.name: s for s in SCENARIOS if re.fullmatch(WITH_DATACLASSES, s.entry.name)}
    assert len(found) == WITH_DATACLASSES.count("|") + 1
    return {"argvalues": list(found.values()), "ids": list(found)}


def _grown(leaf, axis):
    return np.concatenate([leaf, np.take(leaf, [0], axis)], axis)


@pytest.mark.parametrize("scenario", **_one_each())
def test_a_mismatched_leaf_is_refused(scenario):
    primals, dout = drawn(scenario, seed=0)
    leaves, tree = jax.tree.flatten(scenario.fwd(*primals)[1])

    def message(place, bad):
        """With which ``bad`` is refused in a leaf's place; anything but an InputError comes through."""
        res = jax.tree.unflatten(tree, [*leaves[:place], bad, *leaves[place + 1 :]])
        try:
            jax.eval_shape(functools.partial(scenario.bwd, res), dout)
        except mg.InputError as error:
            return str(error)
        return "accepted"

    for place, leaf in enumerate(map(np.asarray, leaves)):
        for bad in (None, "a", {}, leaf[..., None], leaf.astype(complex), leaf.astype(object)):
            assert re.fullmatch(rf"{scenario.entry.bwd.__name__}: .*", message(place, bad)), f"{place}: {bad}"
        for axis in range(leaf.ndim):
            line = message(place, _grown(leaf, axis))  # may fit: an image that a stride does not reach
            assert line == "accepted" or re.fullmatch(rf"{scenario.entry.bwd.__name__}: .*", line)


def _f32(*shape):
    return jnp.ones(shape, jnp.float32)


def _changed(res, change):
    return type(res)(**{field: getattr(res, field) for field in res.__dataclass_fields__} | change)


def _conv2d(**change):
    _, res = mg.conv2d_fwd(_f32(1, 5, 4, 2), _f32(2, 2, 2, 3), _f32(3))
    return mg.conv2d_bwd(_changed(res, change), _f32(1, 4, 3, 3))


def _mlp(**change):
    _, res = mg.mlp_rows_fwd([(_f32(2, 3), _f32(3)), (_f32(3, 1), _f32(1))], _f32(4, 2))
    return mg.mlp_rows_bwd(_changed(res, change), _f32(4, 1))


MESSAGES = [  # how each begins
    (lambda: _conv2d(x="a"), "conv2d_bwd: res.x is 'a', expected float[N,H,W,C]"),
    (lambda: _conv2d(strides=(0, 1)), "conv2d_bwd: in conv2d_fwd: strides is (0, 1), expected an int of"),
    (
        lambda: _conv2d(groups=3),
        "conv2d_bwd: in conv2d_fwd: groups is 3, expected a divisor of x's 2 channels",
    ),
    (lambda: _mlp(As=[]), "mlp_rows_bwd: res.As is [], expected tuple of float[_,_]"),
    (lambda: _mlp(As=()), "mlp_rows_bwd: res holds 0 As and 1 Zs, expected one fewer Z"),
    (lambda: _mlp(Zs=(_f32(4, 2),)), "mlp_rows_bwd: res.Zs[0] is float32[4,2], expected float[4,3]"),
    (lambda: _mlp(As=(_f32(4, 2),), Zs=()), "mlp_rows_bwd: res holds 1 As and 0 Zs, expected an A for each"),
    (lambda: _mlp(rows=False), "mlp_rows_bwd: res is from mlp_columns_fwd, expected that of mlp_rows_fwd"),
    (lambda: mg.as_matrix("a", 0), "as_matrix: jacobian is 'a', expected float[...]"),
    (lambda: mg.multiply_out([_f32(2), _f32(2)], [[2]]), "multiply_out: mids is [[2]], expected sequence of"),
    (
        lambda: mg.from_column_stacking(_f32(2, 3), (2, 2), (3,)),
        "from_column_stacking: matrix is float32[2,3], expected float[4,3]",
    ),
    (
        lambda: mg.from_column_stacking(_f32(2, 3), (-2, -1), (3,)),
        "from_column_stacking: out_shape is (-2, -1), expected sizes of at least 1",
    ),
    (
        lambda: mg.gradient_descent([_f32(2)], ["a"], 0.1),
        "gradient_descent: dparams holds 'a', expected arrays",
    ),
    (lambda: mg.gradient_descent([], [], None), "gradient_descent: learning_rate is None, expected a number"),
]


@pytest.mark.parametrize(("call", "message"), MESSAGES, ids=[message[:40] for _, message in MESSAGES])
def test_the_message(call, message):
    with pytest.raises(mg.InputError, match=rf"^{re.escape(message)}.*\Z"):
        call()


@pytest.mark.parametrize("place", range(9))
def test_each_item_of_a_tuple_is_checked(place):
    """Beartype checks one at random."""
    layers = [(jnp.ones((2, 2)), jnp.ones(2))] * 9
    _, res = mg.mlp_rows_fwd(layers, jnp.ones((4, 2)))
    As = (*res.As[:place], None, *res.As[place + 1 :])
    for _ in range(3):
        with pytest.raises(mg.InputError, match=r"^mlp_rows_bwd: res\.As is \("):
            mg.mlp_rows_bwd(_changed(res, {"As": As}), jnp.ones((4, 2)))
