"""The hard inputs: what each is, what the right answer is and why, and where JAX answers differently."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from manual_grad.formulas.activations import (
    relu_bwd,
    relu_fwd,
    sigmoid_bwd,
    sigmoid_fwd,
    softplus_bwd,
    softplus_fwd,
    tanh_bwd,
    tanh_fwd,
)
from manual_grad.formulas.correlation import convolve2d_bwd, convolve2d_fwd, correlate2d_bwd, correlate2d_fwd
from manual_grad.formulas.dense import dense_columns_bwd, dense_columns_fwd, dense_rows_bwd, dense_rows_fwd
from manual_grad.formulas.mse import linear_regression_bwd, linear_regression_fwd, mse_bwd, mse_fwd
from manual_grad.formulas.softmax import (
    cross_entropy_bwd,
    cross_entropy_fwd,
    cross_entropy_of_scores_bwd,
    cross_entropy_of_scores_fwd,
    softmax_bwd,
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_columns_bwd,
    softmax_cross_entropy_columns_fwd,
    softmax_cross_entropy_fwd,
    softmax_cross_entropy_with_integer_labels_bwd,
    softmax_cross_entropy_with_integer_labels_fwd,
    softmax_fwd,
)
from manual_grad.kernels.conv2d import conv2d_bwd, conv2d_fwd
from manual_grad.kernels.linear_cross_entropy import linear_cross_entropy_bwd, linear_cross_entropy_fwd
from manual_grad.networks.cnn import cnn_bwd, cnn_fwd
from manual_grad.networks.mlp import (
    five_layer_bwd,
    five_layer_fwd,
    mlp_columns_bwd,
    mlp_columns_fwd,
    mlp_rows_bwd,
    mlp_rows_fwd,
    network_squared_loss_bwd,
    network_squared_loss_fwd,
)
from manual_grad.networks.two_layer import (
    two_layer_cross_entropy_columns_bwd,
    two_layer_cross_entropy_columns_fwd,
    two_layer_cross_entropy_rows_bwd,
    two_layer_cross_entropy_rows_fwd,
    two_layer_squared_loss_bwd,
    two_layer_squared_loss_fwd,
)
from manual_grad.verify.hard import Arrays, Hard, nothing_else
from manual_grad_reference import activations, cnn, definitions, dense, mlp, mse, softmax, two_layer
from manual_grad_reference.linear_cross_entropy import linear_cross_entropy
from manual_grad_reference.oracles import decimals

inf, nan = np.inf, np.nan
Right = Callable[[Arrays, np.ndarray], tuple]
Rng = np.random.Generator


# ---------------------------------------------------------------- right answers


def _by_definition(definition: Callable, lost: tuple[str, tuple] | None = None, digits: int = 60) -> Right:
    """The definition in decimals; ``lost``: where samples stand that have no answer, as after a NaN."""

    def right(point: Arrays, dout: np.ndarray) -> tuple:
        if lost:
            name, samples = lost
            point = point | {name: point[name].copy()}
            point[name][samples] = nan
        return decimals.answer(definition, point, dout, digits)

    return right


def _flushed(answer: Right, dtype: str) -> Callable:
    """Right too: the answer where numbers below the dtype's smallest normal one are 0."""
    tiny = float(jnp.finfo(dtype).tiny)

    def flush(leaf: np.ndarray) -> np.ndarray:
        return np.where(abs(leaf) < tiny, 0.0, leaf) if leaf.dtype.kind == "f" else leaf

    return lambda point, dout, _: [answer({name: flush(leaf) for name, leaf in point.items()}, dout)]


def _each_limit(definition: Callable) -> Callable:
    """Right too: the limit of an entry that has one, in a sample that has none."""
    return lambda point, dout, _: [decimals.answer(definition, point, dout)]


def _left_out(definition: Callable, batch: tuple[str, ...], row: int) -> Callable:
    """Right too: the parameters' gradients NaN, or without the share of the sample whose ReLUs are at NaN."""

    def also(point: Arrays, dout: np.ndarray, right: tuple) -> list[tuple]:
        names = [name for name in point if name != "y"]
        N = len(point[batch[0]])
        others = point | {name: np.delete(point[name], row, axis=0) for name in batch}
        rest = decimals.answer(definition, others, dout * (N - 1) / N)[1:]
        left_out, spoilt = [], []
        for name, slope, without in zip(names, right[1:], rest, strict=True):
            in_batch = name in batch
            left_out.append(np.insert(without, row, 0, axis=0) if in_batch else without)
            spoilt.append(slope if in_batch else jax.tree.map(lambda leaf: np.full(leaf.shape, nan), slope))
        return [(right[0], *left_out), (right[0], *spoilt)]

    return also


def _relu_right(point: Arrays, dout: np.ndarray) -> tuple:
    """max(x, 0) and dout ⊙ 1{x > 0}."""
    (x,) = point.values()
    return np.where(x > 0, x, np.where(np.isnan(x), nan, 0)), np.where(x > 0, dout, 0)


def _cross_entropy_right(point: Arrays, dout: np.ndarray) -> tuple:
    """−(1/N) Σ y ln ŷ over the labels that are not 0; −y/ŷ is −∞ at ŷ = 0, ln ŷ too."""
    p, y = (value.astype(np.longdouble) for value in point.values())
    with np.errstate(all="ignore"):
        J = -np.where(y == 0, 0, y * np.log(p)).sum() / len(p)
        return tuple(
            map(_rounded, (J, np.where(y == 0, 0, -dout / len(p) * y / p), -dout / len(p) * np.log(p)))
        )


def _mse_right(point: Arrays, dout: np.ndarray) -> tuple:
    error = np.subtract(*(value.astype(np.longdouble) for value in point.values()))
    slope = 2 * dout / len(error) * error
    return tuple(map(_rounded, ((error**2).sum() / len(error), slope, -slope)))


def _softmax_cross_entropy_right(point: Arrays, dout: np.ndarray) -> tuple:
    logits, y = (value.astype(np.longdouble) for value in point.values())
    exps = np.exp(logits)
    p, N = exps / exps.sum(axis=1, keepdims=True), len(y)
    slope = dout / N * (p * y.sum(axis=1, keepdims=True) - y)
    return tuple(map(_rounded, (-(y * np.log(p)).sum() / N, slope, -dout / N * np.log(p))))


def _last_layer_right(point: Arrays, dout: np.ndarray) -> tuple:
    hidden, W = (point[name].astype(np.longdouble) for name in ("hidden", "W"))
    y, N = point["labels"], len(hidden)
    exps = np.exp(hidden @ W)
    p = exps / exps.sum(axis=1, keepdims=True)
    slope = dout / N * (p - np.eye(W.shape[1])[y])
    return tuple(map(_rounded, (-np.log(p[np.arange(N), y]).mean(), slope @ W.T, hidden.T @ slope)))


def _rounded(values: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float64)


# ---------------------------------------------------------------- the obvious forward functions


def _log_softmax_loss(logits: Any, labels: Any, axis: int = -1) -> Any:
    return -(labels * jax.nn.log_softmax(logits, axis=axis)).sum(axis=axis).mean()


def _log_softmax_at(logits: Any, labels: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


def _where_loss(probs: Any, labels: Any) -> Any:
    return -jnp.where(labels > 0, labels * jnp.log(probs), 0).sum(axis=-1).mean()


def _mlp_by_maximum(params: Any, X: Any) -> Any:
    *before, (W, b) = params
    for V, a in before:
        X = jnp.maximum(X @ V + a, 0)
    return X @ W + b


def _squared_loss_by_maximum(W1: Any, b1: Any, W2: Any, b2: Any, x: Any, y: Any) -> Any:
    return ((W2 @ jnp.maximum(W1 @ x + b1, 0) + b2 - y)[0] ** 2) / 2


def _conv(x: Any, kernel: Any, bias: Any) -> Any:
    return (
        lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        + bias
    )


RELUS = {
    "jax.nn.relu": jax.nn.relu,
    "jnp.maximum(x, 0)": lambda x: jnp.maximum(x, 0),
    "jnp.where(x > 0, x, 0)": lambda x: jnp.where(x > 0, x, 0),
}
SOFTMAX = {"exp/Σexp": softmax.softmax, "jax.nn.softmax": jax.nn.softmax}
FUSED = {"−Σ y ln(exp/Σexp)": softmax.softmax_cross_entropy, "−Σ y jax.nn.log_softmax": _log_softmax_loss}
FUSED_COLUMNS = {
    "−Σ y ln(exp/Σexp)": softmax.softmax_cross_entropy_columns,
    "−Σ y jax.nn.log_softmax": partial(_log_softmax_loss, axis=0),
}
INTEGER = {
    "−ln(exp/Σexp)[y]": softmax.softmax_cross_entropy_with_integer_labels,
    "−jax.nn.log_softmax[y]": _log_softmax_at,
}
NAIVE = ("exp/Σexp", "−Σ y ln(exp/Σexp)", "−ln(exp/Σexp)[y]")
STABLE = ("jax.nn.softmax", "−Σ y jax.nn.log_softmax", "−jax.nn.log_softmax[y]")


def _case(
    name: str,
    says: str,
    pair: tuple[Callable, Callable],
    draw: Callable[[Rng], Arrays],
    ways: dict[str, Callable],
    differs: tuple[str, ...] = (),
    why: str = "",
    digits: int = 60,
    **more: Any,
) -> Hard:
    """One whose right answer is the definition's of the same name."""
    definition = getattr(definitions, pair[1].__name__.removesuffix("_bwd"))
    return Hard(name, says, pair, draw, _by_definition(definition, None, digits), ways, differs, why, **more)


# ---------------------------------------------------------------- logits


def _soft(rng: Rng, N: int, K: int) -> np.ndarray:
    """Labels that are a distribution, no entry 0."""
    return rng.dirichlet(np.full(K, 3.0), N)


def _of_logits(
    name: str,
    says: str,
    logits: Callable[[Rng], np.ndarray],
    differs: tuple[str, ...] = (),
    why: str = "",
    *,
    row: Any = 0,
    lost: tuple[int, ...] = (),
    dtype: str = "float64",
) -> list[Hard]:
    """One kind of logits, asked of softmax and of the loss in rows, with integer labels and in columns."""

    def with_labels(rng: Rng) -> Arrays:
        drawn = logits(rng)
        return {"logits": drawn, "labels": _soft(rng, *drawn.shape)}

    def in_columns(rng: Rng) -> Arrays:
        return dict(zip("ZY", (value.T for value in with_labels(rng).values()), strict=True))

    def with_integers(rng: Rng) -> Arrays:
        drawn = logits(rng)
        return {"logits": drawn, "labels": rng.integers(0, drawn.shape[1], len(drawn))}

    def case(pair: tuple, draw: Callable, definition: Callable, ways: dict, at: Any = row) -> Hard:
        columns = definition is definitions.softmax_cross_entropy_columns
        gone = (("Z", (slice(None), list(lost))) if columns else ("logits", (list(lost),))) if lost else None
        own = tuple(way for way in ways if way in differs)
        return Hard(
            name, says, pair, draw, _by_definition(definition, gone), ways, own, why if own else "",
            dtype=dtype, show=("", at), also=_each_limit(definition) if lost else nothing_else,
        )  # fmt: skip

    fused = softmax_cross_entropy_fwd, softmax_cross_entropy_bwd
    columns = softmax_cross_entropy_columns_fwd, softmax_cross_entropy_columns_bwd
    integer = softmax_cross_entropy_with_integer_labels_fwd, softmax_cross_entropy_with_integer_labels_bwd
    return [
        case((softmax_fwd, softmax_bwd), lambda rng: {"logits": logits(rng)}, definitions.softmax, SOFTMAX),
        case(fused, with_labels, definitions.softmax_cross_entropy, FUSED),
        case(integer, with_integers, definitions.softmax_cross_entropy_with_integer_labels, INTEGER),
        case(
            columns, in_columns, definitions.softmax_cross_entropy_columns, FUSED_COLUMNS, (slice(None), row)
        ),
    ]


def _first_rows(*rows: list[float]) -> Callable[[Rng], np.ndarray]:
    """These samples, and an ordinary one behind them."""
    return lambda rng: np.array([*rows, rng.standard_normal(len(rows[0]))])


LOGITS = [
    *_of_logits(
        "logits of ±1e4",
        "p is 1 for a class that leads by 1e4, 0 for the rest, and J = max − l of the true one: "
        "all finite; a gap of 1 between two large logits counts as between small ones.",
        _first_rows([1e4, 9999, -1e4, 0], [-1e4, -1e4, 1e4, 0], [-1e4, -9998, -9999, -1e4]),
        NAIVE,
        "e^{10000} overflows and e^{−10000} is 0: ∞/∞ and ln 0",
    ),
    *_of_logits(
        "logits of ±1e4",
        "The same in float32, where e^{89} is already infinite.",
        _first_rows([1e4, 9999, -1e4, 0], [-1e4, -1e4, 1e4, 0], [-1e4, -9998, -9999, -1e4]),
        NAIVE,
        "e^{10000} overflows and e^{−10000} is 0: ∞/∞ and ln 0",
        dtype="float32",
    )[1:2],
    *_of_logits(
        "one logit is +∞, or some are −∞",
        "The limit: a lone +∞ takes all the probability, −∞ none; the loss is ∞ where a label that is not 0 "
        "has lost its probability, and its gradient is still p Σy − y.",
        _first_rows([inf, 5, -inf, 0], [2, 2, -inf, 1], [-inf, 0, -inf, -inf]),
        NAIVE + STABLE,
        "l − max l is ∞ − ∞ at a lone +∞, and e^∞/e^∞ is no better",
    ),
    *_of_logits(
        "two logits are +∞, or all are −∞",
        "There is no limit, it depends on which is faster: NaN, in all of the sample, so that no half of a "
        "distribution looks right (an entry that has a limit may have it); the sample beside it is as ever.",
        _first_rows([inf, 1, inf, 0], [-inf, -inf, -inf, -inf]),
        lost=(0, 1),
        row=2,
    )[:3],
    *_of_logits(
        "NaN in one sample",
        "A sample's logits enter its own term of the loss only: J is NaN, that sample's row is, no other is.",
        _first_rows([1, nan, 0, 2], [0, 1, 3, 2]),
        row=1,
    ),
    *_of_logits(
        "all logits equal",
        "p = 1/K whatever they are, also where each is ±1e4: ties in the maximum that is subtracted cancel.",
        lambda rng: np.outer([rng.normal(), 1e4, -1e4], np.ones(4)),
        NAIVE,
        "e^{10000}/Σ is ∞/∞, e^{−10000}/Σ is 0/0",
        row=1,
    )[:2],
    *_of_logits(
        "one class",
        "p = 1 and J = 0 whatever the logit: no gradient, not even at ±∞, where e^l/e^l is 1 in the limit.",
        lambda rng: np.array([[rng.normal()], [1e4], [inf], [-inf]]),
        NAIVE + STABLE,
        "∞ − ∞ and ∞/∞ once more, for a result that is always 1",
        row=slice(None),
    )[:3],
    *_of_logits("one sample", "As any sample: N = 1.", lambda rng: rng.standard_normal((1, 4)))[1:2],
]  # fmt: skip


# ---------------------------------------------------------------- labels, probabilities


def _one_hot(rng: Rng, N: int, K: int) -> np.ndarray:
    return np.eye(K)[rng.integers(0, K, N)]


def _smoothed(rng: Rng) -> np.ndarray:
    """Two one-hot rows smoothed by 0.1, and a distribution."""
    return np.concatenate([0.9 * _one_hot(rng, 2, 4) + 0.1 / 4, _soft(rng, 1, 4)])


def _of_labels(name: str, says: str, labels: Callable[[Rng], np.ndarray]) -> Hard:
    """Ordinary logits with these labels."""
    return Hard(
        name, says, (softmax_cross_entropy_fwd, softmax_cross_entropy_bwd),
        lambda rng: {"logits": 2 * rng.standard_normal((3, 4)), "labels": labels(rng)},
        _by_definition(definitions.softmax_cross_entropy), FUSED, show=("", 0),
    )  # fmt: skip


def _of_probs(name: str, says: str, probs: list, labels: list, **also: Any) -> Hard:
    """Cross-entropy of these probabilities, which no softmax need have made."""
    ways = {"−Σ y ln p": softmax.cross_entropy, "−Σ jnp.where(y > 0, y ln p, 0)": _where_loss}
    return Hard(
        name, says, (cross_entropy_fwd, cross_entropy_bwd),
        lambda rng: {"probs": np.array(probs, float), "labels": np.array(labels, float)},
        _cross_entropy_right, ways, show=("", 0), **also,
    )  # fmt: skip


LABELS = [
    _of_labels(
        "labels smoothed, soft, not summing to one",
        "Smoothed, and soft (a distribution): p − y, since each row sums to 1.",
        _smoothed,
    ),
    _of_labels(
        "labels smoothed, soft, not summing to one",
        "Of any sum, negative entries and a row of zeros among them: p Σy − y; p − y would be wrong.",
        lambda rng: np.array([rng.uniform(0, 2, 4), [0, 0, 0, 0], rng.standard_normal(4)]),
    ),
    Hard(
        "labels one-hot, their other classes at −∞",
        "A class with label 0 has no term in the loss, 0 ln 0 = 0: J is finite, the gradient p − y. By the "
        "label itself it is −ln p: ∞ at p = 0.",
        (softmax_cross_entropy_fwd, softmax_cross_entropy_bwd),
        lambda rng: {
            "logits": np.array([[rng.normal(), -inf, 2, 1], [-inf, -inf, rng.normal(), -inf]]),
            "labels": np.eye(4)[[0, 2]],
        },
        _by_definition(definitions.softmax_cross_entropy),
        FUSED,
        tuple(FUSED),
        "0 · ln 0 is NaN in arithmetic",
        show=("", 0),
    ),
    _of_probs(
        "probabilities of exactly 0",
        "−y/p: 0 beside a label of 0, whose term is not there, and −∞ beside any other, with J = ∞.",
        [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]],
        [[0.7, 0.3, 0.0], [0.2, 0.0, 0.8]],
        differs=("−Σ y ln p", "−Σ jnp.where(y > 0, y ln p, 0)"),
        why="0 · ln 0; and jnp.where picks the right value, but the gradient of the branch not taken is "
        "0 · y/p, which is 0/0",
    ),
    _of_probs(
        "subnormal numbers",
        "A probability of 1e-310 is a number, ln p = −714 and −y/p beyond the largest float64; on a device "
        "that takes subnormals for 0, as XLA:CPU does, it is the answer for 0, J = ∞. The fused loss, which "
        "starts from the logits, never meets it.",
        [[0.5, 0.5, 1e-310], [1.0, 1e-310, 0.0]],
        [[0.7, 0.3, 0.25], [0.2, 0.8, 0.5]],
        also=_flushed(_cross_entropy_right, "float64"),
    ),
]  # fmt: skip


# ---------------------------------------------------------------- activations


def _of_relu(name: str, says: str, x: list, differs: tuple = (), why: str = "", **also: Any) -> Hard:
    """ReLU of these numbers."""
    return Hard(
        name, says, (relu_fwd, relu_bwd), lambda rng: {"x": np.array(x, float)}, _relu_right, RELUS,
        differs, why, entrywise=True, **also,
    )  # fmt: skip


SMOOTH = (
    (
        (sigmoid_fwd, sigmoid_bwd),
        {"1/(1+exp(−x))": activations.sigmoid, "jax.nn.sigmoid": jax.nn.sigmoid},
        ("1/(1+exp(−x))", "jax.nn.sigmoid"),
        "1 − σ cancels from x = 37 on; exp(−x) overflows",
    ),
    ((tanh_fwd, tanh_bwd), {"jnp.tanh": jnp.tanh}, ("jnp.tanh",), "1 − tanh² cancels from |x| = 19 on"),
    (
        (softplus_fwd, softplus_bwd),
        {"log(1+exp(x))": activations.softplus, "jax.nn.softplus": jax.nn.softplus},
        ("log(1+exp(x))",),
        "exp(x) overflows, and 1 + exp(x) is 1 below x = −37",
    ),
)
ACTIVATIONS = [
    _of_relu(
        "ReLU at exactly 0 and −0.0",
        "The lecture's 1{z > 0} is 0 there, one of the subgradients from 0 to 1, and −0.0 is 0.",
        [0.0, -0.0, 2.0, -3.0],
        ("jnp.maximum(x, 0)",),
        "at a tie jnp.maximum gives each side ½",
    ),
    _of_relu(
        "ReLU at ±∞ and NaN",
        "Slope 1 at ∞, 0 at −∞; 1{z > 0} is 0 at NaN too, where the value is NaN: whoever looks at the loss "
        "sees it.",
        [inf, -inf, nan, 1.0],
        ("jnp.where(x > 0, x, 0)",),
        "its value at NaN is 0, and hides it",
    ),
    Hard(
        "ReLU with an infinite or NaN cotangent",
        "A unit that is off passes nothing on: 0, a select; 0 · ∞ would be NaN.",
        (relu_fwd, relu_bwd),
        lambda rng: {"x": np.array([-1.0, 0.0, -2.0, 3.0]), "dout": np.array([inf, -inf, nan, 5.0])},
        _relu_right,
        RELUS,
        ("jnp.maximum(x, 0)",),
        "it multiplies by the slope: 0 · ∞",
    ),
    *(
        _of_relu(
            "subnormal numbers",
            "A subnormal number is greater than 0, so its slope is 1; where the device takes it for 0, as "
            f"XLA:CPU does, the slope is that at 0 ({dtype}).",
            [number, -number, 1e-3],
            ("jnp.maximum(x, 0)",),
            "a tie, once the number is taken for 0: ½, which is neither",
            dtype=dtype,
            also=_flushed(_relu_right, dtype),
        )
        for dtype, number in (("float64", 1e-310), ("float32", 1e-40))
    ),
    *(
        _case(
            "saturated activations",
            "The limits at ±∞, and before them each slope to its last digits: 1 − σ or 1 − tanh² would be 0.",
            pair,
            lambda rng: {"x": np.array([-1e4, -300, -40, 40, 150, 1e4, -inf, inf])},
            ways,
            differs,
            why,
            digits=320,
            entrywise=True,
        )
        for pair, ways, differs, why in SMOOTH
    ),
]  # fmt: skip


# ---------------------------------------------------------------- layers and networks


def _two_layers(rng: Rng, d: int, m: int, c: int) -> list[np.ndarray]:
    return [rng.standard_normal(shape) for shape in ((d, m), (m,), (m, c), (c,))]


def _rows_net(rng: Rng, X: np.ndarray, scale: float = 1.0) -> Arrays:
    W1, b1, W2, b2 = _two_layers(rng, X.shape[1], 4, 3)
    return {"W1": W1, "b1": abs(b1), "W2": scale * W2, "b2": b2, "X": X, "y": rng.integers(0, 3, len(X))}


def _transposed(rows: Arrays) -> Arrays:
    return {name: value.T for name, value in rows.items()}


def _with_nan(X: np.ndarray, *place: int) -> np.ndarray:
    X[place] = nan
    return X


def _dead_layers(rng: Rng, rows: bool) -> Arrays:
    """A first layer whose every z is exactly 0: weights 0, biases 0 and −0.0."""
    W1, _, W2, b2 = _two_layers(rng, 2, 4, 3)
    X = rng.standard_normal((5, 2))
    params = [(0 * W1, np.array([0.0, -0.0, 0.0, -0.0])), (W2, b2)]
    return {"params": params, "X": X} if rows else {"params": [(W.T, b) for W, b in params], "X": X.T}


def _five(rng: Rng, X: np.ndarray, scale: float = 1.0) -> Arrays:
    widths = (X.shape[0], 4, 3, 3, 2, 3)
    params = [
        (scale * rng.standard_normal((after, before)), abs(rng.standard_normal(after)))
        for before, after in pairwise(widths)
    ]
    return {"params": params, "X": X, "Y": _soft(rng, X.shape[1], 3).T}


def _cnn_params(rng: Rng, pixels: int) -> dict[str, np.ndarray]:
    shapes: dict[str, Any] = {
        "K1": (1, 1, 2, 3), "b1": 3, "K2": (1, 1, 3, 2), "b2": 2,
        "W4": (2 * pixels, 4), "b4": 4, "W5": (4, 3), "b5": 3,
    }  # fmt: skip
    return {name: rng.standard_normal(shape) + (name[0] == "b") for name, shape in shapes.items()}


def _cnn_inputs(rng: Rng, X: np.ndarray) -> Arrays:
    return {"params": _cnn_params(rng, X.shape[1] * X.shape[2]), "X": X, "labels": _soft(rng, len(X), 3)}


def _conv_inputs(rng: Rng, x: np.ndarray, kernel: tuple[int, ...]) -> Arrays:
    return {"x": x, "kernel": rng.standard_normal(kernel), "bias": rng.standard_normal(kernel[-1])}


def _dense_inputs(rng: Rng, X: np.ndarray) -> Arrays:
    return {"X": X, "W": rng.standard_normal((X.shape[1], 4)), "b": rng.standard_normal(4)}


def _last_layer(rng: Rng, hidden: np.ndarray, W: np.ndarray) -> Arrays:
    return {"hidden": hidden, "W": W, "labels": rng.integers(0, W.shape[1], len(hidden))}


DENSE = {"X @ W + b": dense.dense_rows}
CONV = {"lax.conv_general_dilated": _conv}
LAST = {
    "−ln(exp/Σexp)[y]": linear_cross_entropy,
    "−jax.nn.log_softmax[y]": lambda hidden, W, labels: _log_softmax_at(hidden @ W, labels),
}
MSE = {"jnp.mean((ŷ − y)²)": lambda y_hat, y: jnp.mean((y_hat - y) ** 2), "jnp.sum((ŷ − y)²)/N": mse.mse}


NETWORKS = [
    _case(
        "logits of ±1e4",
        "One sample alone: p − 1 at the true class, p elsewhere.",
        (cross_entropy_of_scores_fwd, cross_entropy_of_scores_bwd),
        lambda rng: {"s": np.array([-1e4, 1e4, 9999, rng.normal()]), "y": np.array(rng.integers(0, 4))},
        {
            "−ln(exp/Σexp)[y]": softmax.cross_entropy_of_scores,
            "−jax.nn.log_softmax[y]": lambda s, y: -jax.nn.log_softmax(s)[y],
        },
        NAIVE[2:],
        "e^{10000} overflows",
    ),
    _case(
        "logits of ±1e4",
        "Through the layers below: δ² = (p − y)/N is finite, and so is every gradient.",
        (two_layer_cross_entropy_rows_fwd, two_layer_cross_entropy_rows_bwd),
        lambda rng: _rows_net(rng, rng.standard_normal((3, 2)), 1e4),
        {
            "−ln(exp/Σexp)[y]": two_layer.two_layer_cross_entropy_rows,
            "−jax.nn.log_softmax[y]": lambda W1, b1, W2, b2, X, y: _log_softmax_at(
                jax.nn.relu(X @ W1 + b1) @ W2 + b2, y
            ),
        },
        NAIVE[2:],
        "e^{10000} overflows",
    ),
    _case(
        "logits of ±1e4",
        "The same in columns.",
        (two_layer_cross_entropy_columns_fwd, two_layer_cross_entropy_columns_bwd),
        lambda rng: _transposed(_rows_net(rng, rng.standard_normal((3, 2)), 1e4)),
        {"−ln(exp/Σexp)[y]": two_layer.two_layer_cross_entropy_columns},
        NAIVE[2:],
        "e^{10000} overflows",
    ),
    _case(
        "logits of ±1e4",
        "The same through lecture D's five layers.",
        (five_layer_fwd, five_layer_bwd),
        lambda rng: _five(rng, rng.standard_normal((2, 3)), 10.0),
        {"−Σ y ln(exp/Σexp)": mlp.five_layer},
        NAIVE[1:2],
        "e^{10000} overflows",
        show=("dX", slice(None)),
    ),
    _case(
        "logits of ±1e4",
        "The same fused with the last layer, chunk by chunk, the last chunk smaller.",
        (linear_cross_entropy_fwd, linear_cross_entropy_bwd),
        lambda rng: _last_layer(rng, rng.standard_normal((5, 2)), 1e4 * rng.standard_normal((2, 4))),
        LAST,
        NAIVE[2:],
        "e^{10000} overflows",
        settings={"chunk": 2},
        show=("", 0),
    ),
    _case(
        "logits that overflow",
        "Finite weights whose logit, −1e40, is −∞ in float32: a class with p = 0, and 0 · W is 0, W being "
        "finite.",
        (linear_cross_entropy_fwd, linear_cross_entropy_bwd),
        lambda rng: {
            "hidden": np.array([[1e20, 0.5], [1.0, 2.0]]),
            "W": np.array([[-1e20, 3e-20, 5e-20], [-1.0, rng.normal(), rng.normal()]]),
            "labels": np.array([1, 2]),
        },
        LAST,
        dtype="float32",
        show=("", 0),
    ),
    _case(
        "NaN in one sample",
        "The sample's row of dhidden is NaN, and dW, which sums over the samples; no other row, in its chunk "
        "or outside.",
        (linear_cross_entropy_fwd, linear_cross_entropy_bwd),
        lambda rng: _last_layer(
            rng, _with_nan(rng.standard_normal((5, 2)), 1, 0), rng.standard_normal((2, 4))
        ),
        LAST,
        settings={"chunk": 3},
        show=("", 0),
    ),
    _case(
        "NaN in one sample",
        "Its row of Z is NaN; dX = dZ Wᵀ does not look at X; of dW = Xᵀ dZ only the NaN feature's row is.",
        (dense_rows_fwd, dense_rows_bwd),
        lambda rng: _dense_inputs(rng, _with_nan(rng.standard_normal((3, 2)), 1, 0)),
        DENSE,
        show=("dW", slice(None)),
    ),
    _case(
        "NaN in one sample",
        "The same in columns.",
        (dense_columns_fwd, dense_columns_bwd),
        lambda rng: _transposed(_dense_inputs(rng, _with_nan(rng.standard_normal((3, 2)), 1, 0))),
        {"W @ X + b": dense.dense_columns},
        show=("dW", slice(None)),
    ),
    _case(
        "NaN in one sample",
        "NaN are its own entry of the gradient, and J, which is a mean over all.",
        (mse_fwd, mse_bwd),
        lambda rng: {"y_hat": _with_nan(rng.standard_normal(5), 2), "y": rng.standard_normal(5)},
        MSE,
    ),
    _case(
        "NaN in one sample",
        "Row 0 and row 2 of dX are as if it were any number. Behind the ReLU the mask 1{z > 0} is 0 at NaN, "
        "so that its own row, and its share of dW¹ and db¹, may be 0; J, dW² and db² are NaN.",
        (two_layer_cross_entropy_rows_fwd, two_layer_cross_entropy_rows_bwd),
        lambda rng: _rows_net(rng, _with_nan(rng.standard_normal((3, 2)), 1, 0)),
        {"−ln(exp/Σexp)[y]": two_layer.two_layer_cross_entropy_rows},
        show=("dX", slice(None)),
        also=_left_out(definitions.two_layer_cross_entropy_rows, ("X", "y"), 1),
    ),
    _case(
        "NaN in one sample",
        "The other images' pixels are as if it were any number; its own, and its share of what lies below a "
        "ReLU, may be 0.",
        (cnn_fwd, cnn_bwd),
        lambda rng: _cnn_inputs(rng, _with_nan(rng.standard_normal((3, 1, 2, 2)), 1, 0, 0, 0)),
        {"−Σ y ln(exp/Σexp)": cnn.cnn},
        show=("dX", slice(0, 2)),
        also=_left_out(definitions.cnn, ("X", "labels"), 1),
    ),
    _case(
        "NaN in one sample",
        "NaN are its own image of Z and the kernel's entries that saw that pixel; dX does not look at X.",
        (conv2d_fwd, conv2d_bwd),
        lambda rng: _conv_inputs(
            rng, _with_nan(rng.standard_normal((2, 2, 3, 1)), 1, 0, 0, 0), (2, 2, 1, 2)
        ),
        CONV,
        show=("dkernel", slice(None)),
    ),
    _case(
        "ReLU at exactly 0 and −0.0",
        "Every hidden z is 0: nothing comes through, dX, dW¹ and db¹ are 0, and dW² too, since a = 0.",
        (mlp_rows_fwd, mlp_rows_bwd),
        partial(_dead_layers, rows=True),
        {"jax.nn.relu": mlp.mlp_rows, "jnp.maximum(z, 0)": _mlp_by_maximum},
        ("jnp.maximum(z, 0)",),
        "it lets half of each gradient through",
        show=("dparams[0][1]", slice(None)),
    ),
    _case(
        "ReLU at exactly 0 and −0.0",
        "The same in columns.",
        (mlp_columns_fwd, mlp_columns_bwd),
        partial(_dead_layers, rows=False),
        {"jax.nn.relu": mlp.mlp_columns},
        show=("dparams[0][1]", slice(None)),
    ),
    _case(
        "ReLU at exactly 0 and −0.0",
        "z = 0 in units 0 and 1 (dead for this sample), ±1 in the others: of the four only the last learns.",
        (two_layer_squared_loss_fwd, two_layer_squared_loss_bwd),
        lambda rng: {
            "W1": np.array([[1.0, 1], [0, 0], [-2, 1], [2, -1]]), "b1": np.array([-2.0, -0.0, 0, 0]),
            "W2": rng.standard_normal((1, 4)), "b2": rng.standard_normal(1),
            "x": np.array([1.0, 1.0]), "y": np.array(rng.normal()),
        },
        {"jax.nn.relu": two_layer.two_layer_squared_loss, "jnp.maximum(z, 0)": _squared_loss_by_maximum},
        ("jnp.maximum(z, 0)",),
        "it lets half of the gradient through at z = 0",
        show=("db1", slice(None)),
    ),
    _case(
        "ReLU at exactly 0 and −0.0",
        "Black images and biases of 0: both convolutions give exactly 0, and no gradient passes them.",
        (cnn_fwd, cnn_bwd),
        lambda rng: {
            "params": _cnn_params(rng, 4) | {"b1": np.zeros(3), "b2": np.zeros(2)},
            "X": np.zeros((2, 2, 2, 2)), "labels": _soft(rng, 2, 3),
        },
        {"jax.nn.relu": cnn.cnn},
        show=("dparams['b1']", slice(None)),
    ),
    _case(
        "saturated activations",
        "z = ±750 in the output layer: its σ′ is e^{−750}, below every float64: every gradient but the "
        "target's own is 0, and none NaN.",
        (network_squared_loss_fwd, network_squared_loss_bwd),
        lambda rng: {
            "params": [
                (rng.standard_normal((2, 3)), rng.standard_normal(2)),
                (np.zeros((2, 2)), np.array([750.0, -750.0])),
            ],
            "x": rng.standard_normal(3), "y": rng.standard_normal(2),
        },
        {"1/(1+exp(−z))": mlp.network_squared_loss},
        ("1/(1+exp(−z))",),
        "e^{750} overflows, and its slope is ∞/∞²",
        show=("dparams[1][1]", slice(None)),
    ),
    _case(
        "one sample, one pixel",
        "A product and a sum: Z = x K + b.",
        (conv2d_fwd, conv2d_bwd),
        lambda rng: _conv_inputs(rng, rng.standard_normal((1, 1, 1, 1)), (1, 1, 1, 1)),
        CONV,
    ),
    _case(
        "one sample, one pixel",
        "A kernel as large as the image is a dense layer over its pixels: dK = dZ X, dX = dZ K, unrotated.",
        (conv2d_fwd, conv2d_bwd),
        lambda rng: _conv_inputs(rng, rng.standard_normal((1, 2, 3, 1)), (2, 3, 1, 1)),
        CONV,
    ),
    _case(
        "one sample, one pixel",
        "A 1×1 kernel: each pixel by itself, dK the sum over all of them.",
        (correlate2d_fwd, correlate2d_bwd),
        lambda rng: {"x": rng.standard_normal((2, 3)), "f": rng.standard_normal((1, 1))},
        {"lax.conv": lambda x, f: lax.conv(x[None, None], f[None, None], (1, 1), "VALID")[0, 0]},
    ),
    _case(
        "one sample, one pixel",
        "The full convolution of a single pixel is the kernel, scaled.",
        (convolve2d_fwd, convolve2d_bwd),
        lambda rng: {"x": rng.standard_normal((1, 1)), "w": rng.standard_normal((2, 3))},
        {"jax.scipy.signal.convolve2d": jax.scipy.signal.convolve2d},
    ),
    _case(
        "one sample, one pixel",
        "One image of one pixel, through 1×1 kernels: four dense layers.",
        (cnn_fwd, cnn_bwd),
        lambda rng: _cnn_inputs(rng, rng.standard_normal((1, 1, 1, 2))),
        {"−Σ y ln(exp/Σexp)": cnn.cnn},
        show=("dX", slice(None)),
    ),
    _case(
        "one sample, one pixel",
        "N = 1: the bias's gradient is the sample's own.",
        (dense_rows_fwd, dense_rows_bwd),
        lambda rng: _dense_inputs(rng, rng.standard_normal((1, 2))),
        DENSE,
    ),
    _case(
        "one sample, one pixel",
        "N = 1, on a line that one point cannot determine: the gradient is finite, if not of use.",
        (linear_regression_fwd, linear_regression_bwd),
        lambda rng: dict(zip("wbxy", (rng.standard_normal(s) for s in (3, (), (1, 3), 1)), strict=True)),
        {"jnp.mean((xw + b − y)²)": mse.linear_regression},
    ),
    _case(
        "one sample, one pixel",
        "N = 1: 2(ŷ − y).",
        (mse_fwd, mse_bwd),
        lambda rng: {"y_hat": rng.standard_normal(1), "y": rng.standard_normal(1)},
        MSE,
    ),
    _case(
        "subnormal numbers",
        "1e-310 · 1e300 = 1e-10; 0 where the device takes subnormals for 0, as XLA:CPU does.",
        (dense_rows_fwd, dense_rows_bwd),
        lambda rng: {
            "X": np.array([[1e-310, 3e-310]]), "W": rng.uniform(1, 2, (2, 3)) * 1e300, "b": np.zeros(3),
        },
        DENSE,
        show=("out", slice(None)),
        also=_flushed(partial(decimals.answer, definitions.dense_rows), "float64"),
    ),
]  # fmt: skip


# ---------------------------------------------------------------- very large numbers, very large batches


LARGE = [
    Hard(
        "values near the largest number",
        "The squares overflow, so J is ∞; the gradient 2(ŷ − y)/N has no square in it and is finite.",
        (mse_fwd, mse_bwd),
        lambda rng: {"y_hat": np.array([1e200, -3e200, rng.normal()]), "y": np.zeros(3)},
        _mse_right,
        MSE,
    ),
    Hard(
        "a very large batch",
        "60 000 samples in float32: the mean to seven digits, each gradient entry to its own rounding.",
        (mse_fwd, mse_bwd),
        lambda rng: {"y_hat": rng.standard_normal(60_000), "y": rng.standard_normal(60_000)},
        _mse_right,
        MSE,
        dtype="float32",
        tolerance=1e-6,
    ),
    Hard(
        "a very large batch",
        "200 000 samples in float32: the same, each row divided by N.",
        (softmax_cross_entropy_fwd, softmax_cross_entropy_bwd),
        lambda rng: {"logits": rng.standard_normal((200_000, 3)), "labels": _soft(rng, 200_000, 3)},
        _softmax_cross_entropy_right,
        FUSED,
        dtype="float32",
        tolerance=2e-6,
        show=("", 0),
    ),
    Hard(
        "a very large batch",
        "70 000 samples in float16, whose largest number is 65 504: N itself is infinite there, 1/N is not. "
        "The loss is scaled by 1024, without which every entry would be below float16's normal numbers.",
        (mse_fwd, mse_bwd),
        lambda rng: {
            "y_hat": rng.standard_normal(70_000), "y": rng.standard_normal(70_000), "dout": np.array(1024.0),
        },
        _mse_right,
        MSE,
        ("jnp.sum((ŷ − y)²)/N",),
        "the sum and N overflow: ∞/∞",
        dtype="float16",
    ),
    Hard(
        "a very large batch",
        "The same where dW sums over the samples, chunk by chunk: in float32, and only then over N.",
        (linear_cross_entropy_fwd, linear_cross_entropy_bwd),
        lambda rng: _last_layer(rng, rng.standard_normal((70_000, 2)), rng.standard_normal((2, 3)))
        | {"dout": np.array(1024.0)},
        _last_layer_right,
        LAST,
        NAIVE[2:],
        "the sum and N overflow: ∞/∞",
        dtype="float16",
        settings={"chunk": 1000},
        show=("dW", slice(None)),
    ),
]  # fmt: skip

CASES: tuple[Hard, ...] = tuple(
    case
    for name in dict.fromkeys(case.name for case in (*LOGITS, *LABELS, *ACTIVATIONS, *NETWORKS, *LARGE))
    for case in (*LOGITS, *LABELS, *ACTIVATIONS, *NETWORKS, *LARGE)
    if case.name == name
)
