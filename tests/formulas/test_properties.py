import functools
import typing

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from beartype.door import is_bearable
from jaxtyping import jaxtyped

import manual_grad

from .comparing import assert_same, by_hand, cotangent, run_by_hand
from .scenarios import cross_entropy_net_rows, draw, each_scenario, is_float, mlp_inputs_rows, residuals


def _drawn(scenario, seed, dtype=jnp.float64):
    primals = tuple(draw(scenario, seed, dtype).values())
    return primals, cotangent(scenario, primals, seed)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_eager_is_compiled(scenario):
    drawn = _drawn(scenario, seed=0)
    assert_same(run_by_hand(scenario, *drawn), by_hand(scenario)(*drawn))


@pytest.mark.parametrize("scenario", **each_scenario)
def test_residuals_may_leave_a_compiled_function(scenario):
    primals, dout = _drawn(scenario, seed=0)
    grads = scenario.bwd(residuals(scenario)(primals), dout)
    assert_same(grads, by_hand(scenario)(primals, dout)[1])


@pytest.mark.parametrize("scenario", **each_scenario)
def test_returns_are_as_annotated(scenario):
    """Letters stand for the same numbers in a function's arguments and in what it returns."""
    primals, dout = _drawn(scenario, seed=0)
    out, res = jax.eval_shape(functools.partial(scenario.fwd, **dict(scenario.settings)), *primals)
    _assert_annotated(scenario.fwd, primals, (out, res))
    _assert_annotated(scenario.bwd, (res, dout), jax.eval_shape(scenario.bwd, res, dout))


def _assert_annotated(function, arguments, returned):
    *given, want = typing.get_type_hints(function).values()
    with jaxtyped("context"):
        for value, hint in zip(_zeros((*arguments, returned)), [*given[: len(arguments)], want], strict=True):
            assert is_bearable(value, hint), f"{function.__name__}: {hint}"


def _zeros(tree):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_vmap_is_a_loop(scenario):
    each = [_drawn(scenario, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    one_by_one = [by_hand(scenario)(*drawn) for drawn in each]
    together = jax.jit(jax.vmap(functools.partial(run_by_hand, scenario)))(*stacked)
    assert_same(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("scenario", **each_scenario)
def test_pair_is_a_custom_vjp(scenario, compiled):
    primals, dout = _drawn(scenario, seed=0)
    loss = _loss(scenario, primals, of_integers=np.zeros((), jax.dtypes.float0) if compiled else None)
    gradient = jax.grad(loss, argnums=tuple(i for i, p in enumerate(primals) if is_float(p)))
    got = (jax.jit(gradient) if compiled else gradient)(*primals, dout)
    assert_same(got, by_hand(scenario)(primals, dout)[1])


def _loss(scenario, primals, of_integers):
    """⟨dout, f⟩ with f a ``custom_vjp`` made of the pair; integers get the cotangent ``of_integers``."""
    settings = dict(scenario.settings)

    def bwd(res, dout):
        grads = iter(scenario.bwd(res, dout))
        return tuple(next(grads) if is_float(p) else _cotangent_of_integers(p, of_integers) for p in primals)

    op = jax.custom_vjp(lambda *primals: scenario.fwd(*primals, **settings)[0])
    op.defvjp(lambda *primals: scenario.fwd(*primals, **settings), bwd)
    return lambda *args: (op(*args[:-1]) * args[-1]).sum()


def _cotangent_of_integers(primal, value):
    return None if value is None else np.broadcast_to(value, primal.shape)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_numpy_arrays_are_accepted(scenario):
    drawn = _drawn(scenario, seed=0)
    assert_same(run_by_hand(scenario, *jax.tree.map(np.asarray, drawn)), by_hand(scenario)(*drawn))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("scenario", **each_scenario)
def test_lowers_for_an_accelerator(scenario, platform):
    drawn = _drawn(scenario, seed=0, dtype=jnp.float32)
    fresh = jax.jit(functools.partial(run_by_hand, scenario))
    assert jax.export.export(fresh, platforms=(platform,))(*drawn).platforms == (platform,)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("scenario", **each_scenario)
def test_dtype_is_kept(scenario, dtype):
    _assert_dtype_is_kept(scenario, dtype)


@pytest.mark.usefixtures("x32")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("scenario", **each_scenario)
def test_dtype_is_kept_without_x64(scenario, dtype):
    _assert_dtype_is_kept(scenario, dtype)


def _assert_dtype_is_kept(scenario, dtype):
    primals = tuple(scenario.draw(np.random.default_rng(0), dtype).values())
    dout = cotangent(scenario, primals, seed=0)
    result = jax.eval_shape(functools.partial(run_by_hand, scenario), primals, dout)
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype(dtype)}


def test_rows_are_columns_transposed_dense():
    rng = np.random.default_rng(0)
    X, W, b, dZ = (jnp.asarray(rng.standard_normal(shape)) for shape in ((4, 3), (3, 5), 5, (4, 5)))
    Z, res = manual_grad.dense_rows_fwd(X, W, b)
    Z_columns, res_columns = manual_grad.dense_columns_fwd(X.T, W.T, b)
    assert_same(_transposed(Z), Z_columns)
    in_columns = manual_grad.dense_columns_bwd(res_columns, dZ.T)
    assert_same(_transposed(manual_grad.dense_rows_bwd(res, dZ)), in_columns)


def test_rows_are_columns_transposed_two_layer():
    inputs = cross_entropy_net_rows(np.random.default_rng(0), jnp.float64)
    J, res = manual_grad.two_layer_cross_entropy_rows_fwd(**inputs)
    J_columns, res_columns = manual_grad.two_layer_cross_entropy_columns_fwd(**_transposed(inputs))
    assert_same(J, J_columns)
    by_name = manual_grad.two_layer_cross_entropy_columns_grads(res_columns, 0.7)
    assert_same(_transposed(manual_grad.two_layer_cross_entropy_rows_grads(res, 0.7)), by_name)
    in_columns = manual_grad.two_layer_cross_entropy_columns_bwd(res_columns, 0.7)
    assert_same(_transposed(manual_grad.two_layer_cross_entropy_rows_bwd(res, 0.7)), in_columns)


@pytest.mark.parametrize("activation", manual_grad.ACTIVATIONS)
def test_rows_are_columns_transposed_mlp(activation):
    inputs = mlp_inputs_rows(np.random.default_rng(0), jnp.float64)
    Z, res = manual_grad.mlp_rows_fwd(**inputs, activation=activation)
    Z_columns, res_columns = manual_grad.mlp_columns_fwd(**_transposed(inputs), activation=activation)
    assert_same(_transposed(Z), Z_columns)
    dZ = jnp.asarray(np.random.default_rng(1).standard_normal(Z.shape))
    in_columns = manual_grad.mlp_columns_bwd(res_columns, dZ.T)
    assert_same(_transposed(manual_grad.mlp_rows_bwd(res, dZ)), in_columns)


def _transposed(tree):
    return jax.tree.map(jnp.transpose, tree)
