"""Properties of every pair besides its numbers: it compiles, maps, lowers, and keeps its dtype."""

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
from manual_grad.catalogue import mlp, two_layer
from manual_grad.compiling import quickly

from .comparing import assert_same, inner, run_by_hand
from .scenarios import SCENARIOS, draw, drawn, each_scenario, is_float, of

IN_TURN = [(s, (jnp.float16, jnp.bfloat16)[i % 2]) for i, s in enumerate(SCENARIOS)]
# Step by step each operation is compiled by itself, and takes as long as a program.
ONE_EACH = {scenario.entry.name: scenario for scenario in reversed(SCENARIOS)}
OF_INTEGERS = [s for s in ONE_EACH.values() if s.entry.primals != s.entry.floating]
of_integers = {"argvalues": OF_INTEGERS, "ids": [scenario.id for scenario in OF_INTEGERS]}


def _stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@functools.cache
def _together(scenario):
    """A pair, mapped and as a ``custom_vjp``, traced once: three drawn inputs, and what it gives for each."""
    several = [drawn(scenario, seed) for seed in range(3)]
    custom = _gradient_of_custom_vjp(scenario, several[0][0], np.zeros((), jax.dtypes.float0))

    @quickly
    def program(primals, dout, stacked):
        out, res = scenario.fwd(*primals)
        alone = out, scenario.bwd(res, dout)
        mapped = jax.vmap(functools.partial(run_by_hand, scenario))(*stacked)
        return alone, mapped, res, custom(*primals, dout)

    return several, [program(*one, _stacked(several)) for one in several]


@pytest.mark.parametrize("scenario", **each_scenario)
def test_numpy_arrays_and_residuals_from_outside_a_trace_are_accepted(scenario):
    (one, *_), ((alone, _, residuals, _), *_) = _together(scenario)
    primals, dout = jax.tree.map(np.asarray, one)
    got, want = quickly(lambda: (scenario.fwd(*primals), scenario.bwd(residuals, dout)))(), alone
    assert_same(got, ((want[0], residuals), want[1]))


@pytest.mark.parametrize("scenario", **each_scenario)
def test_returns_are_as_annotated(scenario):
    """A letter is the same number in a function's arguments and in its results."""
    primals, dout = drawn(scenario, seed=0)
    out, res = jax.eval_shape(scenario.fwd, *primals)
    _assert_annotated(scenario.entry.fwd, primals, (out, res))
    _assert_annotated(scenario.entry.bwd, (res, dout), jax.eval_shape(scenario.bwd, res, dout))


def _assert_annotated(function, arguments, returned):
    *given, want = typing.get_type_hints(function).values()
    with jaxtyped("context"):
        for value, hint in zip(_zeros((*arguments, returned)), [*given[: len(arguments)], want], strict=True):
            assert is_bearable(value, hint), f"{function.__name__}: {hint}"


def _zeros(tree):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_vmap_is_a_loop(scenario):
    _, results = _together(scenario)
    _, mapped, *_ = results[0]
    assert_same(jax.tree.map(np.asarray, mapped), _stacked([alone for alone, *_ in results]))


@pytest.mark.parametrize("scenario", **each_scenario)
def test_pair_is_a_custom_vjp(scenario):
    _, (((_, grads), _, _, got), *_) = _together(scenario)
    assert_same(got, grads)


@pytest.mark.parametrize("scenario", **of_integers)
def test_pair_is_a_custom_vjp_step_by_step(scenario):
    """Eagerly, integers' values are checked, and their cotangent is None; doctests run in this way too."""
    ((primals, dout), *_), (((_, grads), *_), *_) = _together(scenario)
    assert_same(_gradient_of_custom_vjp(scenario, primals, of_integers=None)(*primals, dout), grads)


def _gradient_of_custom_vjp(scenario, primals, of_integers):
    """Of ⟨dout, f⟩ with f a ``custom_vjp`` made of the pair; integers get the cotangent ``of_integers``."""

    def bwd(res, dout):
        grads = iter(scenario.bwd(res, dout))
        return tuple(next(grads) if is_float(p) else _cotangent_of_integers(p, of_integers) for p in primals)

    op = jax.custom_vjp(lambda *primals: scenario.fwd(*primals)[0])
    op.defvjp(scenario.fwd, bwd)
    places = tuple(i for i, p in enumerate(primals) if is_float(p))
    return jax.grad(lambda *args: inner(op(*args[:-1]), args[-1]), argnums=places)


def _cotangent_of_integers(primal, value):
    return None if value is None or primal is None else np.broadcast_to(value, primal.shape)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_lowers_for_accelerators_and_keeps_its_dtype(scenario):
    one = drawn(scenario, seed=0, dtype=jnp.float32)
    fresh = jax.jit(functools.partial(run_by_hand, scenario))
    platforms = ("cuda", "tpu")
    exported = jax.export.export(fresh, platforms=platforms)(*one)
    assert exported.platforms == platforms
    assert {aval.dtype for aval in exported.out_avals} == {jnp.dtype(jnp.float32)}


@pytest.mark.usefixtures("x32")
@pytest.mark.parametrize(("scenario", "dtype"), IN_TURN, ids=[f"{s.id}-{d.__name__}" for s, d in IN_TURN])
def test_dtype_is_kept_without_x64(scenario, dtype):
    """With x64, float32 is tested above, and half precision where errors are measured."""
    result = jax.eval_shape(functools.partial(run_by_hand, scenario), *drawn(scenario, 0, dtype))
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
    inputs = draw(of(two_layer.TWO_LAYER_CROSS_ENTROPY_ROWS), seed=0)
    J, res = manual_grad.two_layer_cross_entropy_rows_fwd(**inputs)
    J_columns, res_columns = manual_grad.two_layer_cross_entropy_columns_fwd(**_transposed(inputs))
    assert_same(J, J_columns)
    by_name = manual_grad.two_layer_cross_entropy_columns_grads(res_columns, 0.7)
    assert_same(_transposed(manual_grad.two_layer_cross_entropy_rows_grads(res, 0.7)), by_name)
    in_columns = manual_grad.two_layer_cross_entropy_columns_bwd(res_columns, 0.7)
    assert_same(_transposed(manual_grad.two_layer_cross_entropy_rows_bwd(res, 0.7)), in_columns)


@pytest.mark.parametrize("activation", manual_grad.ACTIVATIONS)
def test_rows_are_columns_transposed_mlp(activation):
    inputs = draw(of(mlp.MLP_ROWS), seed=0)
    Z, res = manual_grad.mlp_rows_fwd(**inputs, activation=activation)
    Z_columns, res_columns = manual_grad.mlp_columns_fwd(**_transposed(inputs), activation=activation)
    assert_same(_transposed(Z), Z_columns)
    dZ = jnp.asarray(np.random.default_rng(1).standard_normal(Z.shape))
    in_columns = manual_grad.mlp_columns_bwd(res_columns, dZ.T)
    assert_same(_transposed(manual_grad.mlp_rows_bwd(res, dZ)), in_columns)


def _transposed(tree):
    return jax.tree.map(jnp.transpose, tree)
