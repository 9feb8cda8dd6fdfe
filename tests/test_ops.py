"""The drop-in operations under JAX's transformations, against the same transformations of the reference."""

import functools
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import manual_grad_reference as reference
from manual_grad import InputError, ops
from manual_grad.catalogue import FORMULAS
from manual_grad.compiling import quickly
from tests.formulas.comparing import assert_same, of_floats, run_by_hand
from tests.formulas.scenarios import drawn, of

ROOT = Path(__file__).parents[1]
# name of the operation, its reference, shapes of the floating-point arguments, (shape, K) of integer labels;
# an argument in `shared` is one for all devices, the others have a batch axis
Case = namedtuple("Case", "name reference shapes labels settings shared", defaults=((), None, {}, ()))


def _rows(loss, K):
    """A loss of the reference for any leading axes: mean over all samples."""
    return lambda logits, labels: loss(
        logits.reshape(-1, K), labels.reshape(-1, *labels.shape[logits.ndim - 1 :])
    )


def _linear_cross_entropy(hidden, W, labels, chunk, ignore_index=None):
    rows = hidden.reshape(-1, len(W))
    return reference.linear_cross_entropy.linear_cross_entropy(rows, W, labels.reshape(-1), ignore_index)


def _conv2d(x, kernel, bias, **settings):
    Z = reference.conv2d.conv2d(x.reshape(-1, *x.shape[-3:]), kernel, bias, **settings)
    return Z.reshape(*x.shape[:-3], *Z.shape[1:])


INTEGER = ops.softmax_cross_entropy_with_integer_labels.__name__


def _of(op, *case, **more):
    return Case(op.__name__, *case, **more)


GEOMETRY = {"strides": (2, 1), "padding": ((1, 2), (0, 1)), "dilation": (1, 2), "groups": 2}
CASES = {
    case.name.removeprefix("softmax_cross_entropy_with_"): case
    for case in (
        _of(ops.mse, reference.mse.mse, [(7,), (7,)]),
        _of(ops.relu, reference.activations.relu, [(5, 3)]),
        _of(ops.softmax, reference.softmax.softmax, [(4, 6)]),
        _of(ops.softmax_cross_entropy, reference.softmax.softmax_cross_entropy, [(4, 6), (4, 6)]),
        _of(
            ops.softmax_cross_entropy_with_integer_labels,
            reference.softmax.softmax_cross_entropy_with_integer_labels,
            [(4, 6)],
            ((4,), 6),
        ),
        _of(ops.dense, reference.dense.dense_rows, [(4, 5), (5, 3), (3,)], shared=(1, 2)),
        _of(ops.layer_norm, reference.normalisation.layer_norm, [(4, 5), (5,), (5,)], shared=(1, 2)),
        _of(ops.conv2d, _conv2d, [(4, 5, 6, 2), (2, 3, 2, 3), (3,)], shared=(1, 2)),
        _of(ops.linear_cross_entropy, _linear_cross_entropy, [(4, 3), (3, 7)], ((4,), 7), {"chunk": 2}, (1,)),
    )
}
MORE_CASES = {
    "mse_matrix": _of(ops.mse, lambda *a: reference.mse.mse(*map(jnp.ravel, a)), [(2, 3), (2, 3)]),
    "softmax_three_axes": _of(ops.softmax, reference.softmax.softmax, [(2, 3, 5)]),
    "softmax_cross_entropy_three_axes": _of(
        ops.softmax_cross_entropy, _rows(reference.softmax.softmax_cross_entropy, 5), [(2, 3, 5), (2, 3, 5)]
    ),
    "integer_labels_three_axes": _of(
        ops.softmax_cross_entropy_with_integer_labels,
        _rows(reference.softmax.softmax_cross_entropy_with_integer_labels, 5),
        [(2, 3, 5)],
        ((2, 3), 5),
    ),
    "integer_labels_one_sample": _of(
        ops.softmax_cross_entropy_with_integer_labels,
        _rows(reference.softmax.softmax_cross_entropy_with_integer_labels, 5),
        [(5,)],
        ((), 5),
    ),
    "dense_three_axes": _of(ops.dense, lambda X, W, b: X @ W + b, [(2, 3, 5), (5, 4), (4,)]),
    "dense_vector": _of(ops.dense, lambda X, W, b: X @ W + b, [(5,), (5, 4), (4,)]),
    "conv2d_geometry": _of(ops.conv2d, _conv2d, [(2, 6, 7, 4), (2, 3, 2, 6), (6,)], settings=GEOMETRY),
    "conv2d_same": _of(
        ops.conv2d, _conv2d, [(2, 5, 6, 2), (2, 3, 2, 3), (3,)], settings={"strides": 2, "padding": "SAME"}
    ),
    "conv2d_one_image": _of(ops.conv2d, _conv2d, [(5, 6, 2), (2, 3, 2, 3), (3,)]),
    "linear_cross_entropy_three_axes": _of(
        ops.linear_cross_entropy, _linear_cross_entropy, [(2, 3, 4), (4, 7)], ((2, 3), 7), {"chunk": 4}
    ),
    "linear_cross_entropy_ignoring": _of(
        ops.linear_cross_entropy,
        _linear_cross_entropy,
        [(4, 3), (3, 2)],
        ((4,), 2),
        {"chunk": 3, "ignore_index": 1},
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_of_all = pytest.mark.parametrize(
    "case", [*CASES.values(), *MORE_CASES.values()], ids=[*CASES, *MORE_CASES]
)


def draw(case, seed=0, dtype=np.float64):
    """The arguments: first the floating-point ones, then the integer labels if there are any."""
    rng = np.random.default_rng(seed)
    floats = [jnp.asarray(rng.standard_normal(shape).astype(dtype)) for shape in case.shapes]
    labels = [jnp.asarray(rng.integers(0, case.labels[1], case.labels[0]))] if case.labels else []
    return floats, labels


def objectives(case, labels):
    """Ours and the reference's: a scalar of the floating-point arguments, the output weighted at random."""
    ours = getattr(ops, case.name)

    def scalar(op):
        def value(*floats):
            outs = jax.tree.leaves(op(*floats, *labels, **case.settings))
            rng = np.random.default_rng(9)
            return sum((out * rng.standard_normal(out.shape)).sum() for out in outs)

        return value

    return scalar(ours), scalar(case.reference)


def every(case):
    return tuple(range(len(case.shapes)))


# ---------------------------------------------------------------- transformations, of ours and of the other


def gradient(case, f, floats):
    return jax.value_and_grad(f, every(case))(*floats)


def mapped(case, f, floats):
    """Over every argument at once, and over each alone."""
    n = len(floats)
    ways = {(0,) * n, *(tuple(0 if i == place else None for i in range(n)) for place in range(n))}
    stacked = [jnp.stack([x, 2 * x + 1]) for x in floats]
    return [
        jax.vmap(jax.grad(f, every(case)), axes)(
            *(many if axis == 0 else one for axis, many, one in zip(axes, stacked, floats, strict=True))
        )
        for axes in sorted(ways, key=str)
    ]


def rematerialised(case, f, floats):
    return jax.grad(jax.checkpoint(f), every(case))(*floats)


def trained_in_a_scan(case, f, floats):
    def step(params, _):
        value, grads = jax.value_and_grad(f, every(case))(*params)
        return [p - 0.1 * g for p, g in zip(params, grads, strict=True)], value

    return jax.lax.scan(step, list(floats), length=3)


def second_order(case, f, floats):
    """Reverse over reverse: the gradient of a loss with a penalty on its own gradient."""
    return jax.grad(lambda *floats: penalised(case, f, floats), every(case))(*floats)


def penalised(case, f, floats):
    """Each entry of the gradient weighs differently, or equal logits would make every second derivative 0."""
    value, grads = jax.value_and_grad(f, every(case))(*floats)
    return value + sum((tangent(g) * g**2).sum() for g in grads)


def tangent(x):
    return jnp.asarray(np.random.default_rng(x.size).standard_normal(x.shape))


def second_order_forward(case, f, floats):
    """Forward over reverse: a Hessian-vector product, as in ``jax.hessian``."""
    grad = jax.grad(f, every(case))
    return jax.jvp(grad, tuple(floats), tuple(map(tangent, floats)))[1]


TRANSFORMATIONS = [gradient, mapped, rematerialised, trained_in_a_scan, second_order, second_order_forward]


def hold(case, transformed, floats=None, labels=None):
    """Assert that a transformation gives the same for ours as for the reference."""
    if floats is None:
        floats, labels = draw(case)
    both = quickly(lambda floats: [transformed(case, f, floats) for f in objectives(case, labels)])
    assert_same(*both(floats))


@functools.cache
def all_transformed(name):
    """The results of every transformation for ours and for the reference, in one program."""
    floats, labels = draw(CASES[name])
    sides = objectives(CASES[name], labels)
    every = quickly(lambda floats: [[t(CASES[name], f, floats) for f in sides] for t in TRANSFORMATIONS])
    return every(floats)


@pytest.mark.parametrize("number", range(len(TRANSFORMATIONS)), ids=[t.__name__ for t in TRANSFORMATIONS])
@pytest.mark.parametrize("name", CASES)
def test_transformed(name, number):
    assert_same(*all_transformed(name)[number])


@pytest.mark.parametrize("name", ["integer_labels", "linear_cross_entropy"])
def test_mapped_over_labels(name):
    case = CASES[name]
    floats, labels = draw(case)
    several = jnp.stack([labels[0], labels[0][::-1]])
    grad = jax.grad(functools.partial(getattr(ops, case.name), **case.settings))

    @quickly
    def both(several):
        of = functools.partial(grad, *floats)
        return jax.vmap(of)(several), jnp.stack([of(labels) for labels in several])

    assert_same(*both(several))


@pytest.mark.parametrize("case", MORE_CASES.values(), ids=MORE_CASES)
def test_leading_axes_and_geometries(case):
    hold(case, gradient)


@pytest.mark.parametrize("name", ["conv2d_geometry", "conv2d_same"])
def test_second_order_of_a_convolution(name):
    hold(MORE_CASES[name], second_order)


@pytest.mark.parametrize("transformed", [second_order, second_order_forward], ids=lambda t: t.__name__)
@pytest.mark.parametrize("name", ["softmax", "softmax_cross_entropy", "integer_labels"])
def test_second_order_where_logits_are_equal(name, transformed):
    """As in a network whose last layer starts at 0; also with labels of 0."""
    floats, labels = draw(CASES[name])
    hold(CASES[name], transformed, [jnp.zeros_like(x) for x in floats], labels)


def test_third_order():
    def third_order(case, f, floats):
        return second_order(case, lambda *floats: penalised(case, f, floats), floats)

    for name in ("relu", "softmax"):
        hold(CASES[name], third_order)


def test_relu_at_zero():
    """The derivative there is 0, including that of the value returned by ``value_and_grad``."""
    x = jnp.array([-1.0, 0.0, 2.0])

    def total(x):
        return ops.relu(x).sum()

    assert jax.grad(total)(x).tolist() == [0, 0, 1]
    assert jax.grad(lambda x: jax.value_and_grad(total)(x)[0])(x).tolist() == [0, 0, 1]
    assert jnp.isnan(jax.vjp(ops.relu, jnp.array(jnp.nan))[0])


# ---------------------------------------------------------------- forward mode


@each_case
def test_forward_mode_is_refused_and_has_a_workaround(case):
    """The workaround is the one in the module's docstring."""
    floats, labels = draw(case)
    tangents = [tangent(x) for x in floats]
    ours, theirs = (
        functools.partial(call_with, op, labels, case.settings)
        for op in (getattr(ops, case.name), case.reference)
    )
    with pytest.raises(TypeError, match=r"forward-mode autodiff \(jvp\) to a custom_vjp"):
        jax.jvp(ours, [floats], [tangents])

    def both(floats, tangents):
        out, pullback = jax.vjp(ours, floats)
        (pushed,) = jax.vjp(lambda dout: pullback(dout)[0], out)[1](tangents)
        return pushed, jax.jvp(theirs, [floats], [tangents])[1]

    assert_same(*quickly(both)(floats, tangents))


def call_with(op, labels, settings, floats):
    return op(*floats, *labels, **settings)


# ---------------------------------------------------------------- dtypes


@each_case
def test_mixed_precision(case):
    """One argument after the other is narrow: promoted results, each cotangent in its primal's dtype."""
    floats, labels = draw(case, dtype=np.float32)
    ours, theirs = objectives(case, labels)
    ways = [
        [x.astype(narrow) if i == place else x for i, x in enumerate(floats)]
        for place, narrow in zip(every(case), [jnp.bfloat16, jnp.float16, jnp.bfloat16], strict=False)
    ]
    wide = jax.tree.map(lambda x: x.astype(np.float64), ways)
    got = jax.jit(lambda ways: [gradient(case, ours, floats) for floats in ways])(ways)
    want = quickly(lambda ways: [gradient(case, theirs, floats) for floats in ways])(wide)
    for floats, (_, grads), (_, true_grads) in zip(ways, got, want, strict=True):
        out = jax.eval_shape(
            functools.partial(call_with, getattr(ops, case.name), labels, case.settings), floats
        )
        assert out.dtype == jnp.result_type(*floats)
        assert [g.dtype for g in grads] == [x.dtype for x in floats]
        tolerance = 4 * max(float(jnp.finfo(x.dtype).eps) for x in floats)
        assert_same([g.astype(np.float64) for g in grads], list(true_grads), tolerance)


@each_case
def test_a_narrow_dtype_is_kept(case):
    floats, labels = draw(case)
    narrow = [x.astype(jnp.bfloat16) for x in floats]
    op = functools.partial(call_with, getattr(ops, case.name), labels, case.settings)
    run = jax.value_and_grad(lambda floats: op(floats).sum())
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(run, narrow))} == {jnp.dtype(jnp.bfloat16)}


def test_integers_are_promoted_beside_floats():
    y_hat, y = jnp.array([1.5, 2.0]), np.array([1, 4], np.int8)
    assert jax.grad(ops.mse)(y_hat, y).tolist() == [0.5, -2.0]


def test_integer_labels_have_no_cotangent():
    logits, labels = jnp.zeros((2, 3)), jnp.array([0, 2], jnp.uint8)
    pull = jax.vjp(ops.softmax_cross_entropy_with_integer_labels, logits, labels)[1]
    dlogits, dlabels = pull(jnp.array(1.0))
    assert dlogits.shape == (2, 3)
    assert dlabels.dtype == jax.dtypes.float0


# ---------------------------------------------------------------- calls


@each_case
def test_keywords_and_numpy_arrays(case):
    floats, labels = draw(case)
    op = getattr(ops, case.name)
    names = list(op.__wrapped__.__annotations__)
    arguments = dict(zip(names, map(np.asarray, [*floats, *labels]), strict=False))
    got = jax.jit(lambda arguments: op(**arguments, **case.settings))(arguments)
    assert_same(got, op(*floats, *labels, **case.settings))


BAD = {
    "mse: y is float64[3,1]": lambda: ops.mse(jnp.ones(3), jnp.ones((3, 1))),
    "mse: y_hat is int64[3], expected float": lambda: ops.mse(jnp.arange(3), jnp.arange(3)),
    "mse: y is a list of 1, expected float": lambda: ops.mse(jnp.ones(1), [1.0]),
    "relu: x is 1.0, expected float": lambda: ops.relu(1.0),
    "relu: x is float64[0,2], expected at least one element": lambda: ops.relu(jnp.ones((0, 2))),
    "softmax: logits is float64[], expected": lambda: ops.softmax(jnp.array(1.0)),
    "softmax_cross_entropy: labels is float64[2]": lambda: ops.softmax_cross_entropy(
        jnp.ones((2, 3)), jnp.ones(2)
    ),
    f"{INTEGER}: labels[1] is 3, expected an integer from 0 to 2": lambda: jax.grad(
        ops.softmax_cross_entropy_with_integer_labels
    )(jnp.ones((2, 3)), jnp.array([0, 3])),
    f"{INTEGER}: labels are all 2, which is ignored; expected at least one other value": lambda: getattr(
        ops, INTEGER
    )(jnp.ones((2, 3)), jnp.array([2, 2]), ignore_index=2),
    f"{INTEGER}: labels is float64[2], expected int": lambda: getattr(ops, INTEGER)(
        jnp.ones((2, 3)), jnp.ones(2)
    ),
    "mse: y is key<fry>[], expected float[*shape]": lambda: ops.mse(jnp.ones(()), jax.random.key(0)),
    "mse: y_hat is float8_e4m3fn[3], expected float16": lambda: ops.mse(
        jnp.ones(3, jnp.float8_e4m3fn), jnp.ones(3)
    ),
    "dense: W is float64[4,2], expected float[d,m]; X is float64[5,3]": lambda: ops.dense(
        jnp.ones((5, 3)), jnp.ones((4, 2)), jnp.ones(2)
    ),
    "conv2d: in conv2d_fwd: strides is 0": lambda: _convolve(strides=0),
    "conv2d: strides is int64[], expected int": lambda: jax.jit(lambda s: _convolve(strides=s))(1),
    "conv2d: in conv2d_fwd: padding is 'FULL'": lambda: _convolve(padding="FULL"),
    "conv2d: in conv2d_fwd: groups is 2": lambda: _convolve(groups=2),
    "linear_cross_entropy: in linear_cross_entropy_fwd: chunk is 0": lambda: ops.linear_cross_entropy(
        jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.array([0, 1]), chunk=0
    ),
    "linear_cross_entropy: labels[0] is -1": lambda: ops.linear_cross_entropy(
        jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.array([-1, 1])
    ),
}


def _convolve(**settings):
    return ops.conv2d(jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 3)), jnp.ones(3), **settings)


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        BAD[message]()
    assert "\n" not in str(caught.value)


def test_labels_out_of_range_are_nan_under_jit():
    grad = jax.jit(jax.value_and_grad(ops.softmax_cross_entropy_with_integer_labels))
    value, dlogits = grad(jnp.zeros((2, 3)), jnp.array([0, 3]))
    assert jnp.isnan(value)
    assert jnp.isnan(dlogits).all(axis=1).tolist() == [False, True]


# ---------------------------------------------------------------- devices


def sharded(case, mesh, f, floats, labels):
    """The mean over the devices' shards and its gradients, by ``shard_map``."""
    of_labels = PartitionSpec("data")
    of_floats = [PartitionSpec() if i in case.shared else of_labels for i in every(case)]

    def local(floats, labels):
        mean = lambda floats: jax.lax.pmean(f(*floats, *labels), "data")  # noqa: E731
        return jax.value_and_grad(mean)(floats)

    specs = {"in_specs": (of_floats, of_labels), "out_specs": (PartitionSpec(), of_floats)}
    return jax.jit(jax.shard_map(local, mesh=mesh, **specs))(floats, labels)


def hold_sharded(case, mesh):
    """Assert that the mean over equal shards is what one device makes of the whole, values and gradients."""
    floats, labels = draw_for(case, mesh.size)

    def mean(op, *arguments):
        out = op(*arguments, **case.settings)
        return (out * (1 + jnp.arange(out.shape[-1]))).mean() if out.ndim else out

    got = sharded(case, mesh, functools.partial(mean, getattr(ops, case.name)), floats, labels)
    whole = jax.value_and_grad(lambda floats: mean(case.reference, *floats, *labels))
    assert_same(got, quickly(whole)(floats))


def draw_for(case, devices):
    """Arguments with a batch ``devices`` times as large."""
    longer = [s if i in case.shared else (s[0] * devices, *s[1:]) for i, s in enumerate(case.shapes)]
    labels = case.labels and ((case.labels[0][0] * devices,), case.labels[1])
    return draw(case._replace(shapes=longer, labels=labels))


@each_case
def test_shard_map(case):
    hold_sharded(case, jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,)))


def hold_explicit(case, mesh):
    """Assert that gradients come out right, and sharded as their primals, where types carry the sharding."""
    floats, labels = draw_for(case, mesh.size)
    want = quickly(jax.grad(objectives(case, labels)[1], every(case)))(*floats)
    batch, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    placed = [jax.device_put(x, whole if i in case.shared else batch) for i, x in enumerate(floats)]
    ours = objectives(case, [jax.device_put(y, batch) for y in labels])[0]
    with jax.set_mesh(mesh):
        got = jax.jit(jax.grad(ours, every(case)))(*placed)
    assert_same(got, want)
    assert all(g.sharding.is_equivalent_to(x.sharding, x.ndim) for g, x in zip(got, placed, strict=True))


def test_eight_devices():
    """In a process of its own, where one host has eight."""
    code = "from tests.test_ops import on_eight_devices; on_eight_devices()"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_ENABLE_X64": "1"}
    flags["JAX_PLATFORMS"] = "cpu"  # wherever these tests run
    words = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8", "devices"]


def on_eight_devices():
    jax.config.update("jax_disable_most_optimizations", True)
    for name in ("dense", "linear_cross_entropy"):
        hold_sharded(CASES[name], jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)))
    for name in ("dense", "conv2d", "linear_cross_entropy"):
        hold_explicit(CASES[name], jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,)))
    print(jax.device_count(), "devices")


@each_case
def test_lowers_for_a_gpu_that_is_not_here(case):
    floats, labels = draw(case)
    ours, _ = objectives(case, labels)
    exported = jax.export.export(jax.jit(jax.grad(ours, every(case))), platforms=["cuda"])(*floats)
    assert exported.platforms == ("cuda",)
    assert [out.shape for out in exported.out_avals] == [x.shape for x in floats]


# ---------------------------------------------------------------- the tests themselves


DROP_INS = {name for name in ops.__all__ if getattr(ops, name).__wrapped__.__code__.co_name == "op"}
BACKWARDS = {
    f.op.name.removeprefix("softmax_cross_entropy_with_"): f.bwd.__name__ for f in FORMULAS.values() if f.op
}


def plant(monkeypatch, name, place):
    """Make one cotangent of an operation wrong by a millionth."""
    bwd = getattr(ops, BACKWARDS[name])
    if name in DROP_INS:
        wrong_op = ops._drop_in(FORMULAS[name].fwd, lambda res, dout: wrong(res, dout))
        monkeypatch.setattr(ops, name, wrong_op)

    def wrong(res, dout):
        return tuple(d * (1 + 1e-6) if i == place else d for i, d in enumerate(bwd(res, dout)))

    monkeypatch.setattr(ops, BACKWARDS[name], wrong)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_cotangent_is_caught(name, monkeypatch):
    plant(monkeypatch, name, len(CASES[name].shapes) - 1)
    with pytest.raises(AssertionError, match="relative errors"):
        hold(CASES[name], gradient)


@pytest.mark.parametrize("transformed", TRANSFORMATIONS[1:], ids=lambda t: t.__name__)
def test_a_wrong_cotangent_is_caught_under(transformed, monkeypatch):
    plant(monkeypatch, "dense", 1)
    with pytest.raises(AssertionError, match="relative errors"):
        hold(CASES["dense"], transformed)


def test_a_wrong_cotangent_is_caught_on_devices(monkeypatch):
    plant(monkeypatch, "dense", 1)
    with pytest.raises(AssertionError, match="relative errors"):
        test_shard_map(CASES["dense"])


OPERATIONS = [formula for formula in FORMULAS.values() if formula.op]


@pytest.mark.parametrize("formula", OPERATIONS, ids=lambda formula: formula.op.name)
def test_an_operation_is_its_pair(formula):
    scenario = of(formula)
    primals, dout = drawn(scenario, seed=0)

    @jax.jit
    def both(primals, dout):
        fn, floats = of_floats(functools.partial(formula.op.fn, **scenario.settings), primals)
        out, pull = jax.vjp(fn, *floats)
        return (out, pull(dout)), run_by_hand(scenario, primals, dout)

    assert_same(*both(primals, dout))
