"""Every public pair of functions with inputs to run it on: the one list behind the property tests."""

import functools
import itertools
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import manual_grad
import manual_grad_reference as reference

# draw(rng, dtype) gives the positional arguments by name; kinks(res) what the ReLUs are applied to;
# free names the (argument, axis) that may grow without another argument having to follow
Scenario = namedtuple("Scenario", "id fwd bwd reference draw settings kinks free")


def _scenario(tags, name, case, reference, draw, kinks=None, free=(), **settings):
    fwd, bwd = getattr(manual_grad, f"{name}_fwd"), getattr(manual_grad, f"{name}_bwd")
    id = "-".join(part for part in (tags, name, case) if part)
    return Scenario(id, fwd, bwd, reference, draw, tuple(settings.items()), kinks, frozenset(free))


def array(values, dtype):
    return jnp.asarray(np.asarray(values).astype(dtype))


def normal(rng, dtype, *shape, scale=1.0):
    return array(scale * rng.standard_normal(shape), dtype)


def positive(rng, dtype, *shape):
    return array(rng.uniform(0.5, 2.0, shape), dtype)


def distribution(rng, dtype, *shape):
    raw = rng.uniform(0.2, 1.0, shape)
    return array(raw / raw.sum(axis=-1, keepdims=True), dtype)


def labels(rng, N, K):
    return jnp.asarray(rng.integers(0, K, N))


def one_hot(rng, dtype, N, K):
    return array(np.eye(K)[rng.integers(0, K, N)], dtype)


def weights(rng, dtype, fan_in, *shape):
    return normal(rng, dtype, *shape, scale=0.6 / fan_in**0.5)


def biases(rng, dtype, n):
    """Far from 0 and of both signs, so that few ReLUs sit near their kink."""
    return array(rng.permutation(np.resize([1, -1], n)) * rng.uniform(0.6, 1.2, n), dtype)


def layers(rng, dtype, *widths, rows):
    pairs = []
    for fan_in, fan_out in itertools.pairwise(widths):
        shape = (fan_in, fan_out) if rows else (fan_out, fan_in)
        pairs.append((weights(rng, dtype, fan_in, *shape), biases(rng, dtype, fan_out)))
    return pairs


def _any_shape(rng, dtype):
    return {"x": normal(rng, dtype, 5, 3, scale=2)}


def _three_scalars(rng, dtype):
    return {name: normal(rng, dtype) for name in "xyz"}


def _vectors(rng, dtype):
    return {"y_hat": normal(rng, dtype, 7), "y": normal(rng, dtype, 7)}


def _one_feature(rng, dtype):
    return {"w": normal(rng, dtype), "b": normal(rng, dtype)} | {n: normal(rng, dtype, 7) for n in "xy"}


def _many_features(rng, dtype):
    w, b, x = normal(rng, dtype, 3), normal(rng, dtype), normal(rng, dtype, 7, 3)
    return {"w": w, "b": b, "x": x, "y": normal(rng, dtype, 7)}


def _logits_of(*shape):
    return lambda rng, dtype: {"logits": normal(rng, dtype, *shape)}


def _probs(rng, dtype):
    return {"probs": distribution(rng, dtype, 4, 6), "labels": distribution(rng, dtype, 4, 6)}


def _logits_and(draw_labels):
    return lambda rng, dtype: {"logits": normal(rng, dtype, 4, 6), "labels": draw_labels(rng, dtype, 4, 6)}


def _columns(rng, dtype):
    return {"Z": normal(rng, dtype, 6, 4), "Y": array(distribution(rng, dtype, 4, 6).T, dtype)}


def _logits_and_integers(rng, dtype):
    return {"logits": normal(rng, dtype, 4, 6), "labels": labels(rng, 4, 6)}


def _scores(rng, dtype):
    return {"s": normal(rng, dtype, 6), "y": jnp.asarray(rng.integers(0, 6))}


def _dense_rows(rng, dtype):
    X, W = normal(rng, dtype, 4, 3), normal(rng, dtype, 3, 5)
    return {"X": X, "W": W, "b": normal(rng, dtype, 5)}


def _dense_columns(rng, dtype):
    X, W = normal(rng, dtype, 3, 4), normal(rng, dtype, 5, 3)
    return {"X": X, "W": W, "b": normal(rng, dtype, 5)}


def _two_layers(rng, dtype, widths, rows):
    (W1, b1), (W2, b2) = layers(rng, dtype, *widths, rows=rows)
    return {"W1": W1, "b1": b1, "W2": W2, "b2": b2}


def _squared_loss_net(rng, dtype):
    net = _two_layers(rng, dtype, (3, 5, 1), rows=False)
    return net | {"x": normal(rng, dtype, 3), "y": normal(rng, dtype)}


def _cross_entropy_net(rng, dtype):
    net = _two_layers(rng, dtype, (3, 5, 4), rows=False)
    return net | {"x": normal(rng, dtype, 3), "y": jnp.asarray(rng.integers(0, 4))}


def cross_entropy_net_rows(rng, dtype):
    net = _two_layers(rng, dtype, (3, 5, 4), rows=True)
    return net | {"X": normal(rng, dtype, 6, 3), "y": labels(rng, 6, 4)}


def _cross_entropy_net_columns(rng, dtype):
    net = _two_layers(rng, dtype, (3, 5, 4), rows=False)
    return net | {"X": normal(rng, dtype, 3, 6), "y": labels(rng, 6, 4)}


def mlp_inputs_rows(rng, dtype):
    return {"params": layers(rng, dtype, 7, 5, 4, 2, rows=True), "X": normal(rng, dtype, 3, 7)}


def _mlp_columns(rng, dtype):
    return {"params": layers(rng, dtype, 7, 5, 4, 2, rows=False), "X": normal(rng, dtype, 7, 3)}


def _network(rng, dtype):
    params = layers(rng, dtype, 6, 5, 4, 2, rows=False)
    return {"params": params, "x": normal(rng, dtype, 6), "y": normal(rng, dtype, 2)}


def _images(rng, dtype):
    return {"images": normal(rng, dtype, 4, 3, 5)}


def _five_layers(rng, dtype):
    params = layers(rng, dtype, 9, 8, 7, 6, 5, 4, rows=False)
    Y = array(one_hot(rng, dtype, 3, 4).T, dtype)
    return {"params": params, "X": normal(rng, dtype, 9, 3), "Y": Y}


def _correlate(rng, dtype):
    return {"x": normal(rng, dtype, 7, 6), "f": normal(rng, dtype, 3, 2)}


def _convolve(rng, dtype):
    return {"x": normal(rng, dtype, 7, 6), "w": normal(rng, dtype, 3, 2)}


def _conv2d_of(N=2, H=9, W=8, C=6, kh=3, kw=4, O=5, groups=1):
    def draw(rng, dtype):
        x, kernel = normal(rng, dtype, N, H, W, C), weights(rng, dtype, 1, kh, kw, C // groups, O)
        return {"x": x, "kernel": kernel, "bias": normal(rng, dtype, O)}

    return draw


def cnn_inputs(rng, dtype):
    (W4, b4), (W5, b5) = layers(rng, dtype, 6 * 4, 7, 5, rows=True)
    params = {
        "K1": weights(rng, dtype, 12, 2, 2, 3, 2), "b1": biases(rng, dtype, 2),
        "K2": weights(rng, dtype, 18, 3, 3, 2, 4), "b2": biases(rng, dtype, 4),
        "W4": W4, "b4": b4, "W5": W5, "b5": b5,
    }  # fmt: skip
    return {"params": params, "X": normal(rng, dtype, 2, 6, 5, 3), "labels": one_hot(rng, dtype, 2, 5)}


def _linear_cross_entropy(rng, dtype):
    hidden, W = normal(rng, dtype, 6, 5), normal(rng, dtype, 5, 11)
    return {"hidden": hidden, "W": W, "labels": labels(rng, 6, 11)}


def _whole_linear_cross_entropy(hidden, W, labels, chunk=None):
    return reference.linear_cross_entropy.linear_cross_entropy(hidden, W, labels)


def _activation_scenario(name):
    return _scenario(
        "B-02+B-06" if name == "relu" else "C-02",
        name,
        "",
        reference.activations.ACTIVATIONS[name],
        _any_shape,
        (lambda res: [res]) if name == "relu" else None,
        free=[("x", 0), ("x", 1)],
    )


def _mlp_scenario(tags, convention, activation):
    rows = convention == "rows"
    return _scenario(
        tags,
        f"mlp_{convention}",
        activation,
        reference.mlp.mlp_rows if rows else reference.mlp.mlp_columns,
        mlp_inputs_rows if rows else _mlp_columns,
        (lambda res: res.Zs) if activation == "relu" else None,
        free=[("X", 0 if rows else 1)],
        activation=activation,
    )


def _network_scenario(activation):
    return _scenario(
        "C-02+C-03+C-04+C-05+C-06",
        "network_squared_loss",
        activation,
        reference.mlp.network_squared_loss,
        _network,
        (lambda res: (*res[0].Zs, res[1])) if activation == "relu" else None,
        activation=activation,
    )


def conv2d_of_xla(x, kernel, bias, strides=(1, 1), padding="VALID", dilation=(1, 1), groups=1):
    """JAX's own convolution, with a bias; pairs only."""
    form = {"rhs_dilation": dilation, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lax.conv_general_dilated(x, kernel, strides, padding, feature_group_count=groups, **form) + bias


def _conv2d_scenario(case, draw, ref=reference.conv2d.conv2d, name="conv2d", **settings):
    free = [("x", 0), ("x", 1), ("x", 2), ("kernel", 0), ("kernel", 1)]
    return _scenario("A-11", name, case, ref, draw, free=free, **settings)


def _linear_cross_entropy_scenario(case, **settings):
    return _scenario(
        "A-10+B-13",
        "linear_cross_entropy",
        case,
        _whole_linear_cross_entropy,
        _linear_cross_entropy,
        free=[("W", 1)],
        **settings,
    )


def _images_scenario(tags, name, case, ref, draw, **settings):
    free = [(argument, axis) for argument in "xfw" for axis in (0, 1)]
    return _scenario(tags, name, case, ref, draw, free=free, **settings)


SCENARIOS = [
    _scenario("C-01", "product_of_sum", "", reference.chain_rule.product_of_sum, _three_scalars),
    *(_activation_scenario(name) for name in manual_grad.ACTIVATIONS),
    _scenario("A-02+A-03+A-04", "mse", "", reference.mse.mse, _vectors),
    _scenario(
        "A-05+A-06", "linear_regression", "scalar_w", reference.mse.linear_regression, _one_feature
    ),
    _scenario(
        "A-05+A-06", "linear_regression", "vector_w", reference.mse.linear_regression, _many_features
    ),
    _scenario(
        "A-07+A-08+D-03", "softmax", "", reference.softmax.softmax, _logits_of(4, 6),
        free=[("logits", 0), ("logits", 1)],
    ),
    _scenario(
        "A-08", "softmax", "vector", reference.softmax.softmax, _logits_of(6), free=[("logits", 0)]
    ),
    _scenario(
        "A-08", "softmax", "three_axes", reference.softmax.softmax, _logits_of(2, 3, 5),
        free=[("logits", 0), ("logits", 1), ("logits", 2)],
    ),
    _scenario("A-09+D-04", "cross_entropy", "", reference.softmax.cross_entropy, _probs),
    _scenario(
        "A-10", "softmax_cross_entropy", "labels_of_any_sum",
        reference.softmax.softmax_cross_entropy, _logits_and(positive),
    ),
    _scenario(
        "A-10", "softmax_cross_entropy", "one_hot",
        reference.softmax.softmax_cross_entropy, _logits_and(one_hot),
    ),
    _scenario(
        "D-03+D-04+D-05+D-06", "softmax_cross_entropy_columns", "",
        reference.softmax.softmax_cross_entropy_columns, _columns,
    ),
    _scenario(
        "B-09+B-13+B-14", "softmax_cross_entropy_with_integer_labels", "",
        reference.softmax.softmax_cross_entropy_with_integer_labels, _logits_and_integers,
        free=[("logits", 1)],
    ),
    _scenario(
        "B-09+B-10", "cross_entropy_of_scores", "", reference.softmax.cross_entropy_of_scores, _scores,
        free=[("s", 0)],
    ),
    _scenario("B-16", "dense_rows", "", reference.dense.dense_rows, _dense_rows, free=[("X", 0)]),
    _scenario(
        "B-13+B-15+D-02+D-07+D-08", "dense_columns", "", reference.dense.dense_columns, _dense_columns,
        free=[("X", 1)],
    ),
    _scenario(
        "B-02+B-03+B-04+B-05+B-06+B-07+B-08", "two_layer_squared_loss", "",
        reference.two_layer.two_layer_squared_loss, _squared_loss_net, lambda res: [res[3]],
    ),
    _scenario(
        "B-09+B-10+B-11+B-12", "two_layer_cross_entropy", "",
        reference.two_layer.two_layer_cross_entropy, _cross_entropy_net, lambda res: [res[3]],
    ),
    _scenario(
        "B-16", "two_layer_cross_entropy_rows", "",
        reference.two_layer.two_layer_cross_entropy_rows, cross_entropy_net_rows, lambda res: [res[3]],
    ),
    _scenario(
        "B-13+B-14+B-15", "two_layer_cross_entropy_columns", "",
        reference.two_layer.two_layer_cross_entropy_columns, _cross_entropy_net_columns,
        lambda res: [res[3]],
    ),
    *(_mlp_scenario("C-05+D-10", "rows", name) for name in manual_grad.ACTIVATIONS),
    *(_mlp_scenario("C-05+C-06+D-10", "columns", name) for name in manual_grad.ACTIVATIONS),
    *(_network_scenario(name) for name in ("sigmoid", "relu")),
    _scenario(
        "D-01", "flatten_columns", "", reference.mlp.flatten_columns, _images,
        free=[("images", 0), ("images", 1), ("images", 2)],
    ),
    _scenario(
        "D-02+D-03+D-04+D-06+D-07+D-08+D-10", "five_layer", "", reference.mlp.five_layer, _five_layers,
        lambda res: res[2],
    ),
    _images_scenario("C-08+C-09+C-10", "correlate2d", "", reference.conv2d.correlate2d, _correlate),
    _images_scenario("C-07", "convolve2d", "full", reference.conv2d.convolve2d, _convolve, mode="full"),
    _images_scenario("C-07", "convolve2d", "valid", reference.conv2d.convolve2d, _convolve, mode="valid"),
    _conv2d_scenario("valid", _conv2d_of()),
    _conv2d_scenario("", _conv2d_of(), name="conv2d_plain", padding=((1, 2), (0, 3)), strides=(1, 2)),
    _conv2d_scenario("", _conv2d_of(), name="conv2d_cpu", padding=((1, 2), (0, 3)), strides=(1, 2)),
    _conv2d_scenario("strides", _conv2d_of(), strides=(2, 3)),
    _conv2d_scenario("same", _conv2d_of(), padding="SAME", strides=2),
    _conv2d_scenario("padding", _conv2d_of(), padding=((1, 2), (0, 3)), strides=(1, 2)),
    _conv2d_scenario("cropping", _conv2d_of(), conv2d_of_xla, padding=((-1, 2), (0, -2))),
    _conv2d_scenario("dilation", _conv2d_of(H=11, W=10), dilation=(3, 2)),
    _conv2d_scenario("groups", _conv2d_of(kh=4, O=10, groups=2), groups=2),
    _conv2d_scenario("depthwise", _conv2d_of(O=12, groups=6), groups=6),
    _conv2d_scenario(
        "all", _conv2d_of(W=11, O=10, groups=2), conv2d_of_xla,
        strides=(2, 3), padding=((3, 1), (-1, 4)), dilation=(2, 3), groups=2,
    ),
    _scenario(
        "A-11", "cnn", "", reference.cnn.cnn, cnn_inputs, lambda res: (res[1], res[3], res[6]),
    ),
    _linear_cross_entropy_scenario("chunk_larger"),
    _linear_cross_entropy_scenario("chunk_equal", chunk=6),
    _linear_cross_entropy_scenario("chunk_smaller", chunk=2),
    _linear_cross_entropy_scenario("chunk_not_dividing", chunk=4),
]  # fmt: skip

each_scenario = {"argvalues": SCENARIOS, "ids": [scenario.id for scenario in SCENARIOS]}


def named(id):
    return next(scenario for scenario in SCENARIOS if scenario.id.endswith(id))


def is_float(tree):
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(tree))


def draw(scenario, seed, dtype=jnp.float64):
    """The arguments, redrawn until every ReLU is well away from its kink and some are on, some off."""
    for attempt in range(2000):
        inputs = scenario.draw(np.random.default_rng([seed, attempt]), dtype)
        if scenario.kinks is None or _clear_of_kinks(scenario, inputs):
            return inputs
    raise AssertionError(f"{scenario.id}: no draw keeps away from the kinks")


def _clear_of_kinks(scenario, inputs):
    exact = jax.tree.map(in_float64, tuple(inputs.values()))
    z = np.concatenate([np.ravel(z) for z in scenario.kinks(residuals(scenario)(exact))])
    return np.abs(z).min() > 0.05 and z.min() < 0 < z.max()


def in_float64(leaf):
    return array(leaf, jnp.float64) if is_float(leaf) else leaf


@functools.cache
def residuals(scenario):
    return jax.jit(lambda primals: scenario.fwd(*primals, **dict(scenario.settings))[1])
