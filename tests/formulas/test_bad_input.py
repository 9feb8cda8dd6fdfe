import functools
import inspect
import re
import typing

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import manual_grad as mg
from manual_grad.border import FLOATS_TEXT, describe
from manual_grad.catalogue import FORMULAS, cnn, mlp

from .comparing import assert_same, run_by_hand
from .scenarios import draw, drawn, each_scenario, of

zeros, ones = np.zeros, np.ones


def _message(fn, *args, **kwargs):
    """The one line with which ``fn`` refuses."""
    with pytest.raises(mg.InputError) as caught:
        fn(*args, **kwargs)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _refused(scenario, inputs):
    fn = scenario.entry.fwd
    message = _message(fn, **inputs, **scenario.settings)
    assert re.search(rf"\b({'|'.join(map(re.escape, inputs))})\b", message), message
    assert message.startswith(f"{fn.__name__}: "), message


def test_input_error_is_a_type_check_error():
    """A canary: if the checks were switched off, nothing here would raise."""
    assert issubclass(mg.InputError, jaxtyping.TypeCheckError)
    with pytest.raises(jaxtyping.TypeCheckError):
        mg.mse_fwd(ones(2), ones(3))


# ---------------------------------------------------------------- every pair


def _leaves(inputs):
    """(argument, put): ``put`` makes the inputs with another array in one leaf's place."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(inputs)
    for place, (path, leaf) in enumerate(leaves):
        values = [value for _, value in leaves]

        def put(new, place=place, values=values):
            return jax.tree.unflatten(tree, [*values[:place], new, *values[place + 1 :]])

        yield path[0].key, leaf, put


def _grown(leaf, axis):
    return np.concatenate([leaf, np.take(leaf, [0], axis)], axis)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_another_axis_is_refused(scenario):
    for name, leaf, put in _leaves(draw(scenario, seed=0)):
        if not _takes_any_rank(scenario, name):
            _refused(scenario, put(np.asarray(leaf)[..., None]))


def _takes_any_rank(scenario, name):
    """An array with as many axes as there are, which it shares with no other."""
    named = {other: {way.dim_str for way in ways} for other, ways in _annotated(scenario.entry).items()}
    shared = {axis for other in named if other != name for dims in named[other] for axis in dims.split()}
    own = [dims for dims in named[name] if dims.startswith(("...", "*"))]
    alone = len(scenario.entry.primals) == 1 or all(len(dims.split()) == 1 for dims in own)
    return alone and any(not shared & set(dims.split()) for dims in own)


def _annotated(entry):
    """Each parameter's annotations that are arrays."""
    return {
        name: [
            way
            for way in typing.get_args(p.annotation) or [p.annotation]
            if isinstance(way, type) and issubclass(way, jaxtyping.AbstractArray)
        ]
        for name, p in inspect.signature(entry.fwd).parameters.items()
    }


@pytest.mark.parametrize("scenario", **each_scenario)
def test_a_larger_axis_is_refused_unless_it_is_free(scenario):
    """Free: a batch size that no other argument shares, image and kernel sizes, the number of classes."""
    given = draw(scenario, seed=0)
    counted_by_another = any(_optional(scenario, name) and given[name] is not None for name in given)
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(given))
    for path, (name, leaf, put) in zip(paths, _leaves(given), strict=True):
        place = name + jax.tree_util.keystr(path[1:])
        for axis in range(leaf.ndim):
            inputs = put(_grown(leaf, axis))
            if (place, axis) in scenario.entry.grows and not counted_by_another:
                jax.eval_shape(functools.partial(scenario.entry.fwd, **scenario.settings), **inputs)
            else:
                _refused(scenario, inputs)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_another_cotangent_is_refused(scenario):
    primals, dout = drawn(scenario, seed=0)
    run = functools.partial(jax.eval_shape, functools.partial(run_by_hand, scenario), primals)
    leaves, tree = jax.tree.flatten(dout)
    for place, leaf in enumerate(map(np.asarray, leaves)):
        for wrong in (leaf[..., None], leaf.astype(int), *(_grown(leaf, axis) for axis in range(leaf.ndim))):
            if not (leaf.ndim == 0 and wrong.ndim == 0):  # an int is a scalar
                given = jax.tree.unflatten(tree, [*leaves[:place], wrong, *leaves[place + 1 :]])
                assert _message(run, given).startswith(f"{scenario.entry.bwd.__name__}: ")


@pytest.mark.parametrize("scenario", **each_scenario)
def test_the_other_kind_of_number_is_refused(scenario):
    """Integers instead of floats, floats instead of integers, and complex numbers."""
    for _, leaf, put in _leaves(draw(scenario, seed=0)):
        other = int if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.float64
        for dtype in (other, jnp.complex128):
            _refused(scenario, put(np.asarray(leaf).astype(dtype)))


@pytest.mark.parametrize("scenario", **each_scenario)
def test_mixed_dtypes_are_refused(scenario):
    leaves = [(leaf, put) for _, leaf, put in _leaves(draw(scenario, seed=0))]
    floats = [(leaf, put) for leaf, put in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    for leaf, put in floats if len(floats) > 1 else []:
        _refused(scenario, put(np.asarray(leaf).astype(np.float32)))


@pytest.mark.parametrize("scenario", **each_scenario)
def test_floats_of_eight_bits_are_refused(scenario):
    """Some formulas computed in them, others raised JAX's errors."""
    for _, leaf, put in _leaves(draw(scenario, seed=0)):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            _refused(scenario, jax.tree.map(_in_eight_bits, put(leaf)))


def _in_eight_bits(leaf):
    floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    return np.asarray(leaf).astype(jnp.float8_e4m3fn) if floating else leaf


@pytest.mark.parametrize("scenario", **each_scenario)
def test_integers_of_four_bits_are_integers(scenario):
    """Unless they are below eight bits in a place where JAX promotes them, which raised its error."""
    for _, leaf, put in _leaves(draw(scenario, seed=0)):
        if jnp.issubdtype(leaf.dtype, jnp.integer) and int(leaf.max()) < 8 and int(leaf.min()) >= -8:
            run = functools.partial(scenario.entry.fwd, **scenario.settings)
            out, _ = run(**put(jnp.asarray(leaf).astype(jnp.int4)))
            assert_same(out, run(**put(leaf))[0], 0)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_lists_and_objects_are_refused(scenario):
    for name, leaf, put in _leaves(draw(scenario, seed=0)):
        if leaf.ndim:
            _refused(scenario, put(leaf.tolist()))
        _refused(scenario, put(np.asarray(leaf).astype(object)))
        if not _optional(scenario, name):
            _refused(scenario, put(None))


def _optional(scenario, name):
    return inspect.signature(scenario.entry.fwd).parameters[name].default is None


# ---------------------------------------------------------------- whole messages

a = functools.partial(ones, dtype=np.float32)


def _attention(fwd=mg.attention_fwd, k=2, Lk=2, **settings):
    return fwd(a((1, 2, 4, 5)), *(a((1, Lk, k, 5)) for _ in "kv"), **settings)


ASARRAY = " (jnp.asarray converts it)"
WHOLE = {
    "rope_fwd: x is float32[1,2,3,5], expected an even last axis, one pair per angle": lambda: mg.rope_fwd(
        a((1, 2, 3, 5))
    ),
    "dropout_fwd: rate is 1.0, expected a number from 0 up to but not including 1": lambda: mg.dropout_fwd(
        a(2), ones(2, bool), rate=1.0
    ),
    "dropout_fwd: keep is float32[2], expected bool[*s]; x is float32[2]": lambda: mg.dropout_fwd(a(2), a(2)),
    "attention_fwd: k is float32[1,2,3,5], with 3 heads; expected a divisor of q's 4": lambda: _attention(
        k=3
    ),
    "attention_fwd: mask is bool[3,2], expected a mask that broadcasts to bool[1,4,2,2]": lambda: _attention(
        mask=ones((3, 2), bool)
    ),
    "attention_fwd: mask is float32[2,2], expected bool[...] or None; q is float32[1,2,4,5]; k is "
    "float32[1,2,2,5]; v is float32[1,2,2,5]": lambda: _attention(mask=a((2, 2))),
    "attention_fwd: window is 0, expected None or an integer of at least 1": lambda: _attention(window=0),
    "attention_fwd: k is float32[1,0,2,5], expected at least one element": lambda: _attention(Lk=0),
    "attention_streaming_fwd: chunk is 0, expected an integer of at least 1": lambda: _attention(
        mg.attention_streaming_fwd, chunk=0
    ),
    "embedding_fwd: ids[1,0] is -1, expected an integer from 0 to 4": lambda: mg.embedding_fwd(
        np.array([[0], [-1]]), a((5, 2))
    ),
    "linear_regression_fwd: w is float32[2,3], expected float[] or float[d]": lambda: (
        mg.linear_regression_fwd(a((2, 3)), 0.0, a((4, 2, 3)), a(4))
    ),
    "mse_fwd: y is float32[3,1], expected float[N]; y_hat is float32[3]": lambda: mg.mse_fwd(a(3), a((3, 1))),
    "mse_fwd: y is float32[4], expected float[N]; y_hat is float32[3]": lambda: mg.mse_fwd(a(3), a(4)),
    f"mse_fwd: y_hat is a list of 2, expected float[N]{ASARRAY}; y is float32[2]": lambda: mg.mse_fwd(
        [1.0, 2.0], a(2)
    ),
    f"mse_fwd: y_hat is a list of 1000000, expected float[N]{ASARRAY}; y is float32[2]": lambda: mg.mse_fwd(
        [0.5] * 10**6, a(2)
    ),
    f"mse_bwd: dJ is a tuple of 1, expected float[] or float or int{ASARRAY}; res is float32[2]": lambda: (
        mg.mse_bwd(a(2), (1.0,))
    ),
    "mse_bwd: res is (float32[2], float32[2]), expected float[N]": lambda: mg.mse_bwd((a(2), a(2)), 1.0),
    "mse_fwd: y is bfloat16[3], expected float32, like y_hat; cast one of them": lambda: mg.mse_fwd(
        a(3), ones(3, jnp.bfloat16)
    ),
    "mse_fwd: y_hat is float32[0], expected at least one element": lambda: mg.mse_fwd(a(0), a(0)),
    "mse_fwd: y_hat is object[2], expected an array of numbers": lambda: mg.mse_fwd(ones(2, object), a(2)),
    "mse_bwd: dJ is float32[1], expected float[] or float or int; res is float32[3]": lambda: mg.mse_bwd(
        a(3), a(1)
    ),
    "dense_rows_fwd: W is float32[4,5], expected float[d,m]; X is float32[2,3]; b is float32[5]": lambda: (
        mg.dense_rows_fwd(a((2, 3)), a((4, 5)), a(5))
    ),
    "softmax_cross_entropy_with_integer_labels_fwd: labels is float32[2], expected int[N]; "
    "logits is float32[2,3]": lambda: mg.softmax_cross_entropy_with_integer_labels_fwd(a((2, 3)), a(2)),
    "softmax_cross_entropy_with_integer_labels_fwd: labels are all 1, which is ignored; "
    "expected at least one other value": lambda: mg.softmax_cross_entropy_with_integer_labels_fwd(
        a((2, 3)), ones(2, int), ignore_index=1
    ),
    "linear_cross_entropy_fwd: labels[0] is 7, expected an integer from 0 to 3 or -100": lambda: (
        mg.linear_cross_entropy_fwd(a((2, 3)), a((3, 4)), 7 * ones(2, int), ignore_index=-100)
    ),
    "linear_cross_entropy_fwd: ignore_index is 1.0, expected int or None; hidden is float32[2,3]; "
    "W is float32[3,4]; labels is int64[2]": lambda: mg.linear_cross_entropy_fwd(
        a((2, 3)), a((3, 4)), ones(2, int), ignore_index=1.0
    ),
    "softmax_cross_entropy_fwd: labels is int64[2,3], expected float[N,K]; logits is float32[2,3]": lambda: (
        mg.softmax_cross_entropy_fwd(a((2, 3)), ones((2, 3), int))
    ),
    "correlate2d_fwd: f is float32[2,4], expected one no larger than the image, float32[3,3]": lambda: (
        mg.correlate2d_fwd(a((3, 3)), a((2, 4)))
    ),
    "convolve2d_fwd: w is float32[2,4], expected one no larger than the image, float32[3,3]": lambda: (
        mg.convolve2d_fwd(a((3, 3)), a((2, 4)), mode="valid")
    ),
    "convolve2d_fwd: mode is 'same', expected 'full' or 'valid'; x is float32[3,3]; w is float32[2,2]": (
        lambda: mg.convolve2d_fwd(a((3, 3)), a((2, 2)), mode="same")
    ),
    "correlate2d_bwd: dO is float32[3,3], expected float[2,2]": lambda: mg.correlate2d_bwd(
        mg.correlate2d_fwd(a((3, 3)), a((2, 2)))[1], a((3, 3))
    ),
    "mlp_rows_fwd: activation is 'gelu', expected one of relu, sigmoid, tanh, softplus, identity": lambda: (
        mg.mlp_rows_fwd([(a((2, 1)), a(1))], a((3, 2)), activation="gelu")
    ),
    "mlp_rows_fwd: params is [], expected at least one pair (W, b) in a list or tuple": lambda: (
        mg.mlp_rows_fwd([], a((3, 2)))
    ),
    "mlp_rows_fwd: params[1][0] is float32[4,2], expected W to take the 5 features before it": lambda: (
        mg.mlp_rows_fwd([(a((3, 5)), a(5)), (a((4, 2)), a(2))], a((6, 3)))
    ),
    "mlp_columns_fwd: params[0][1] is float32[3], expected float[5] to match W": lambda: mg.mlp_columns_fwd(
        [(a((5, 3)), a(3))], a((3, 6))
    ),
    "mlp_rows_fwd: params[0] is [[[1.0]], [1.0]], expected a pair (W, b), (float[d,m], float[m])": lambda: (
        mg.mlp_rows_fwd([[[[1.0]], [1.0]]], a((1, 1)))
    ),
    "mlp_rows_fwd: params[0] is [float32[2,1]], expected a pair (W, b), (float[d,m], float[m])": lambda: (
        mg.mlp_rows_fwd([[a((2, 1))]], a((3, 2)))
    ),
    "linear_cross_entropy_fwd: chunk is 0, expected 1 or more": lambda: mg.linear_cross_entropy_fwd(
        a((2, 3)), a((3, 4)), ones(2, int), chunk=0
    ),
    "chain: inner is float32[3,2], expected a shape that begins with (2,)": lambda: mg.chain(
        a((4, 2)), a((3, 2)), mid=(2,)
    ),
    "multiply_out: 2 jacobians and 2 mids, expected one fewer mid": lambda: mg.multiply_out(
        [a(2), a((2, 2))], [(2,), (2,)]
    ),
    "gradient_descent: dparams holds float32[3], expected the shape of float32[2]": lambda: (
        mg.gradient_descent([a(2)], [a(3)], 0.1)
    ),
    f"gradient_descent: params holds int32[2], expected arrays of {FLOATS_TEXT}": lambda: mg.gradient_descent(
        [ones(2, np.int32)], [a(2)], 0.1
    ),
    f"gradient_descent: dparams holds a masked float32[2], expected arrays of {FLOATS_TEXT}": lambda: (
        mg.gradient_descent([a(2)], [np.ma.masked_array(a(2), [0, 1])], 0.1)
    ),
    f"gradient_descent: params holds >f4[2], expected arrays of {FLOATS_TEXT}": lambda: mg.gradient_descent(
        [ones(2, ">f4")], [a(2)], 0.1
    ),
    f"gradient_descent: dparams holds int4[2], expected arrays of {FLOATS_TEXT}": lambda: mg.gradient_descent(
        [a(2)], [jnp.ones(2, jnp.int4)], 0.1
    ),
    "gradient_descent: params is a dict, expected a pytree of arrays": lambda: mg.gradient_descent(
        {1: a(2), "b": a(2)}, {1: a(2), "b": a(2)}, 0.1
    ),
    "gradient_descent: learning_rate is an integer of more than 40 digits, expected a number": lambda: (
        mg.gradient_descent([a(2)], [a(2)], 10**400)
    ),
    f"one_hot: dtype is a set, expected {FLOATS_TEXT}": lambda: mg.one_hot(ones(2, int), 3, {1}),
    f"one_hot: dtype is 1.5, expected {FLOATS_TEXT}": lambda: mg.one_hot(ones(2, int), 3, 1.5),
    "solve_fwd: A is singular, expected float32[2,2] with an inverse": lambda: mg.solve_fwd(
        a((2, 2)), a((2, 1))
    ),
    "solve_fwd: the result is not finite, expected finite arguments and a regular A": lambda: mg.solve_fwd(
        np.eye(2, dtype=np.float32), a((2, 1)) * np.inf
    ),
    "relu_fwd: x is a masked float64[2], expected an array of numbers": lambda: mg.relu_fwd(
        np.ma.masked_array(ones(2), [0, 1])
    ),
    "jac_powers_x: m is 0, expected at least 1": lambda: mg.jac_powers_x(2.0, 0),
    f"jac_powers_x: m is {2**63}, expected at most 10000": lambda: mg.jac_powers_x(2.0, 2**63),
    "one_hot_columns: in one_hot: K is an integer of more than 40 digits, expected fewer than 2147483648": (
        lambda: mg.one_hot_columns(ones(2, int), 10**400)
    ),
    f"mlp_rows_fwd: activation is {'a' * 40!r}…, expected one of relu, sigmoid, tanh, softplus, identity": (
        lambda: mg.mlp_rows_fwd([(a((2, 1)), a(1))], a((3, 2)), activation="a" * 10**5)
    ),
}


def _nested(levels):
    return functools.reduce(lambda inner, _: [inner], range(levels), 1.0)


@pytest.mark.parametrize("levels", [100, 900, 100_000])
@pytest.mark.parametrize("name", ["x", "strides", "kernel", "params"])
def test_lists_in_lists_give_one_line(name, levels):
    """They exceeded Python's recursion limit in JAX, beartype or the message."""
    if name == "params":
        message = _message(mg.mlp_rows_fwd, _nested(levels), ones((2, 3)))
    else:
        given = {"x": ones((1, 4, 4, 1)), "kernel": ones((1, 1, 1, 1)), "bias": ones(1)} | {
            name: _nested(levels)
        }
        message = _message(mg.conv2d_fwd, **given)
    assert name in message
    assert len(message) < 200


def test_integers_beyond_64_bits_are_numbers_or_refused():
    assert mg.mse_bwd(jnp.ones(2), 2**70)[1].tolist() == [2.0**70] * 2
    assert mg.product_of_sum_bwd((2**70, 1.0), 1.0)[2] == 2.0**70
    for big in (10**400, -(10**400)):
        for call in (
            lambda big=big: mg.mse_bwd(jnp.ones(2), big),
            lambda big=big: mg.jac_powers_x(big, 3),
            lambda big=big: mg.product_of_sum_bwd((big, 1.0), 1.0),
        ):
            assert "an integer of more than 40 digits" in _message(call)


def test_a_deleted_array_is_refused():
    x = jnp.ones(3)
    x.delete()
    assert _message(mg.relu_fwd, x) == "relu_fwd: x is float64[3], which was deleted or donated"


@pytest.mark.parametrize("message", WHOLE, ids=lambda message: message.split(":")[0])
def test_the_whole_message(message):
    assert _message(WHOLE[message]) == message


# ---------------------------------------------------------------- labels that are no class


def _labels(axes):
    """Entry → its primal that is an array of integers with so many axes, by the signature."""
    return {
        name: primal
        for name, entry in FORMULAS.items()
        for primal, ways in _annotated(entry).items()
        if any(way.dtype is jaxtyping.Integer and _count(way.dim_str) == axes for way in ways)
    }


def _count(dims):
    """How many axes there are; none where it may be any number of them."""
    return None if dims.startswith("*") else len(dims.split())


LABELLED, LABELLED_ONCE = _labels(axes=1), _labels(axes=0)
each_labelled = pytest.mark.parametrize("name", LABELLED)


def test_there_are_labels():
    assert len(LABELLED) >= 4
    assert len(LABELLED_ONCE) >= 2


def _mislabelled(name, bad):
    inputs = draw(of(FORMULAS[name]), seed=0)
    return inputs | {LABELLED[name]: inputs[LABELLED[name]].at[2].set(bad)}


@pytest.mark.parametrize("bad", [-1, 99])
@each_labelled
def test_a_label_out_of_range_is_refused(name, bad):
    entry = FORMULAS[name]
    message = _message(entry.fwd, **_mislabelled(name, bad))
    label = rf"{entry.fwd.__name__}: {LABELLED[name]}\[2\] is {bad}"
    assert re.fullmatch(rf"{label}, expected an integer from 0 to \d+", message), message


@pytest.mark.parametrize("bad", [-1, 99])
@pytest.mark.parametrize("name", LABELLED_ONCE)
def test_one_label_out_of_range_is_refused(name, bad):
    entry, label = FORMULAS[name], LABELLED_ONCE[name]
    inputs = draw(of(entry), seed=0)
    for value in (bad, jnp.asarray(bad)):
        message = _message(entry.fwd, **inputs | {label: value})
        expected = rf"{entry.fwd.__name__}: {label} is {bad}, expected an integer from 0 to \d+"
        assert re.fullmatch(expected, message), message


@pytest.mark.parametrize("bad", [-1, 99])
@each_labelled
def test_a_label_out_of_range_is_nan_once_compiled(name, bad):
    entry = FORMULAS[name]
    inputs = _mislabelled(name, bad)

    @jax.jit
    def run(inputs):
        J, res = entry.fwd(**inputs)
        return J, entry.bwd(res, 1.0)

    J, grads = run(inputs)
    by_name = dict(zip(entry.floating, grads, strict=True))
    of_samples = next(n for n in entry.batch.axes if n in by_name)
    samples = np.moveaxis(by_name[of_samples], entry.batch.axes[of_samples], 0)
    assert np.isnan(J)
    assert np.isnan(samples).any(axis=1).tolist() == [i == 2 for i in range(len(samples))]
    assert np.isnan(samples[2]).all()


# ---------------------------------------------------------------- conv2d, cnn, layers


def _conv2d(x=(2, 5, 6, 4), kernel=(3, 2, 4, 6), bias=6, **settings):
    return _message(mg.conv2d_fwd, a(x), a(kernel), a(bias), **settings)


@pytest.mark.parametrize("bad", [0, -1, "a", 1.5, (1, 0), (1, 2, 3), True, None, int, (1, int)])
@pytest.mark.parametrize("setting", ["strides", "dilation"])
def test_conv2d_refuses_strides_and_dilation(setting, bad):
    message = _conv2d(**{setting: bad})
    assert message.startswith(f"conv2d_fwd: {setting} is {describe(bad)}, expected")


@pytest.mark.parametrize("groups", [0, -2, "a", 2.0])
def test_conv2d_refuses_groups(groups):
    assert _conv2d(groups=groups).startswith(f"conv2d_fwd: groups is {groups!r}, expected")


def test_conv2d_refuses_groups_that_do_not_divide():
    assert _conv2d(groups=3) == "conv2d_fwd: groups is 3, expected a divisor of x's 4 channels"
    message = _conv2d(kernel=(3, 2, 1, 6), groups=4)
    assert message == "conv2d_fwd: groups is 4, expected a divisor of the kernel's 6 outputs"
    assert _conv2d(groups=2).startswith("conv2d_fwd: kernel is float32[3,2,4,6], expected [kh,kw,2,O]")


@pytest.mark.parametrize(
    "padding", ["FULL", 1, (1, 2), ((1, 1),), ((1, 1), (1, "a")), ((1, 1, 1), (1, 1, 1))]
)
def test_conv2d_refuses_padding(padding):
    assert _conv2d(padding=padding).startswith(f"conv2d_fwd: padding is {padding!r}, expected")


def test_conv2d_refuses_a_kernel_larger_than_the_padded_image():
    message = "conv2d_fwd: kernel has height 6 (dilation included), expected at most that of the padded image"
    assert _conv2d(kernel=(6, 2, 4, 6)) == f"{message}, 5"
    assert _conv2d(kernel=(6, 2, 4, 6), padding=((1, -2), (0, 0))) == f"{message}, 4"
    assert "kernel has width 7 (dilation included)" in _conv2d(dilation=(1, 6))


@pytest.mark.parametrize("change", [{"K1": None}, {"b3": ones(2)}], ids=["missing", "extra"])
def test_cnn_refuses_keys(change):
    inputs = draw(of(cnn.CNN), seed=0)
    changed = inputs["params"] | change
    inputs["params"] = {key: value for key, value in changed.items() if value is not None}
    keys = "['K1', 'K2', 'W4', 'W5', 'b1', 'b2', 'b4', 'b5']"
    message = f"cnn_fwd: params has the keys {sorted(inputs['params'])}, expected {keys}"
    assert _message(mg.cnn_fwd, **inputs) == message


@pytest.mark.parametrize("value", ["a", 1.0, [1.0, 2.0], None])
def test_cnn_refuses_anything_but_arrays(value):
    inputs = draw(of(cnn.CNN), seed=0)
    inputs["params"]["b4"] = value
    expected = f"cnn_fwd: params['b4'] is {value!r}, expected a float array with 1 axes"
    assert _message(mg.cnn_fwd, **inputs) == expected


@pytest.mark.parametrize("params", [None, "params", 3, [None], [(ones((7, 2)), None)], [3], {"W": ones(2)}])
def test_mlp_refuses_anything_but_layers(params):
    X = draw(of(mlp.MLP_ROWS), seed=0)["X"]
    assert _message(mg.mlp_rows_fwd, params, X).startswith("mlp_rows_fwd: params")


def test_five_layers_are_five():
    inputs = draw(of(mlp.FIVE_LAYER), seed=0)
    inputs["params"] = inputs["params"][:4]
    message = "five_layer_fwd: params has 4 layers, expected five pairs (W, b)"
    assert _message(mg.five_layer_fwd, **inputs) == message


@pytest.mark.parametrize("scenario", **each_scenario)
def test_an_empty_batch_is_refused(scenario):
    inputs = draw(scenario, seed=0)
    leaf = next(v for v in reversed(inputs.values()) if hasattr(v, "ndim"))
    if leaf.ndim:
        inputs = {n: v[:0] if getattr(v, "shape", ())[:1] == leaf.shape[:1] else v for n, v in inputs.items()}
        _refused(scenario, inputs)
