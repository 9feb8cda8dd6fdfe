"""The hard inputs of the losses: logits, labels, probabilities, mean squared error, the last layer fused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.catalogue.hard import (
    NAIVE,
    STABLE,
    Arrays,
    Hard,
    Rng,
    each_limit,
    flushed,
    inf,
    log_softmax_at,
    nan,
    nothing_else,
    rounded,
    soft,
    with_nan,
)

HALFWAY = 332_222  # 2²⁴ / 50.5: 1/N lies halfway between two float16 numbers


def _cross_entropy_right(point: Arrays, dout: np.ndarray) -> tuple:
    """−(1/N) Σ y ln ŷ over the labels that are not 0; at ŷ = 0 both −y/ŷ and ln ŷ are −∞."""
    p, y = (value.astype(np.longdouble) for value in point.values())
    with np.errstate(all="ignore"):
        J = -np.where(y == 0, 0, y * np.log(p)).sum() / len(p)
        return tuple(
            map(rounded, (J, np.where(y == 0, 0, -dout / len(p) * y / p), -dout / len(p) * np.log(p)))
        )


def _mse_right(point: Arrays, dout: np.ndarray) -> tuple:
    error = np.subtract(*(value.astype(np.longdouble) for value in point.values()))
    slope = 2 * dout / len(error) * error
    return tuple(map(rounded, ((error**2).sum() / len(error), slope, -slope)))


def _linear_regression_right(point: Arrays, dout: np.ndarray) -> tuple:
    w, b, x, y = (value.astype(np.longdouble) for value in point.values())
    error = x * w + b - y
    slope = 2 * dout / len(error) * error
    return tuple(map(rounded, ((error**2).mean(), (slope * x).sum(), slope.sum(), slope * w, -slope)))


def _softmax_cross_entropy_right(point: Arrays, dout: np.ndarray) -> tuple:
    logits, y = (value.astype(np.longdouble) for value in point.values())
    exps = np.exp(logits)
    p, N = exps / exps.sum(axis=1, keepdims=True), len(y)
    slope = dout / N * (p * y.sum(axis=1, keepdims=True) - y)
    return tuple(map(rounded, (-(y * np.log(p)).sum() / N, slope, -dout / N * np.log(p))))


def _integers_right(point: Arrays, dout: np.ndarray) -> tuple:
    logits, y = point["logits"].astype(np.longdouble), point["labels"].astype(int)
    (N, K), p = logits.shape, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    valid = (y >= 0) & (y < K)
    picked = np.where(valid, np.log(p)[np.arange(N), np.where(valid, y, 0)], nan)
    hot = np.where(valid[:, None], y[:, None] == np.arange(K), nan)
    return tuple(map(rounded, (-picked.mean(), dout / N * (p - hot))))


def _no_mean(point: Arrays, dout: np.ndarray) -> tuple:
    floats = (value for value in point.values() if value.dtype.kind == "f")
    return (np.array(nan), *(np.full(value.shape, nan) for value in floats))


def _last_layer_right(point: Arrays, dout: np.ndarray) -> tuple:
    hidden, W = (point[name].astype(np.longdouble) for name in ("hidden", "W"))
    y, N = point["labels"], len(hidden)
    exps = np.exp(hidden @ W)
    p = exps / exps.sum(axis=1, keepdims=True)
    slope = dout / N * (p - np.eye(W.shape[1])[y])
    return tuple(map(rounded, (-np.log(p[np.arange(N), y]).mean(), slope @ W.T, hidden.T @ slope)))


def _log_softmax_loss(logits: Any, labels: Any, axis: int = -1) -> Any:
    return -(labels * jax.nn.log_softmax(logits, axis=axis)).sum(axis=axis).mean()


def _where_loss(probs: Any, labels: Any) -> Any:
    return -jnp.where(labels > 0, labels * jnp.log(probs), 0).sum(axis=-1).mean()


SOFTMAX_WAYS: dict[str, Callable | None] = {"exp/Σexp": None, "jax.nn.softmax": jax.nn.softmax}
FUSED: dict[str, Callable | None] = {"−Σ y ln(exp/Σexp)": None, "−Σ y jax.nn.log_softmax": _log_softmax_loss}
FUSED_COLUMNS: dict[str, Callable | None] = {
    "−Σ y ln(exp/Σexp)": None,
    "−Σ y jax.nn.log_softmax": partial(_log_softmax_loss, axis=0),
}
INTEGER: dict[str, Callable | None] = {
    "−ln(exp/Σexp)[y]": None,
    "−jax.nn.log_softmax[y]": log_softmax_at,
}


def _log_softmax_kept(logits: Any, labels: Any, ignore_index: int) -> Any:
    kept = labels != ignore_index
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.where(kept, labels, 0)[:, None], axis=1)
    return -jnp.where(kept, picked[:, 0], 0).sum() / kept.sum()


IGNORING: dict[str, Callable | None] = {"jnp.where(y counts, ln ŷ_y, 0)": _log_softmax_kept}
IGNORING_LAST: dict[str, Callable | None] = {
    "jnp.where(y counts, ln ŷ_y, 0)": lambda hidden, W, labels, ignore_index: _log_softmax_kept(
        hidden @ W, labels, ignore_index
    ),
}
LAST: dict[str, Callable | None] = {
    "−ln(exp/Σexp)[y]": None,
    "−jax.nn.log_softmax[y]": lambda hidden, W, labels: log_softmax_at(hidden @ W, labels),
}
MSE_WAYS: dict[str, Callable | None] = {
    "jnp.mean((ŷ − y)²)": lambda y_hat, y: jnp.mean((y_hat - y) ** 2),
    "jnp.sum((ŷ − y)²)/N": None,
}


# ------------------------------------------------------------------------------------ logits


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
) -> tuple[Hard, ...]:
    """One kind of logits for softmax, and for the loss in rows, with integer labels and in columns."""

    def with_labels(rng: Rng) -> Arrays:
        drawn = logits(rng)
        return {"logits": drawn, "labels": soft(rng, *drawn.shape)}

    def in_columns(rng: Rng) -> Arrays:
        return dict(zip("ZY", (value.T for value in with_labels(rng).values()), strict=True))

    def with_integers(rng: Rng) -> Arrays:
        drawn = logits(rng)
        return {"logits": drawn, "labels": rng.integers(0, drawn.shape[1], len(drawn))}

    def case(draw: Callable[[Rng], Arrays], ways: dict, columns: bool = False) -> Hard:
        own = tuple(way for way in ways if way in differs)
        gone = ("Z", (slice(None), list(lost))) if columns else ("logits", (list(lost),))
        return Hard(
            name, says, draw, ways, own, why if own else "", lost=gone if lost else None,
            also=each_limit if lost else nothing_else, dtype=dtype,
            show=("", (slice(None), row) if columns else row),
        )  # fmt: skip

    return (
        case(lambda rng: {"logits": logits(rng)}, SOFTMAX_WAYS),
        case(with_labels, FUSED),
        case(with_integers, INTEGER),
        case(in_columns, FUSED_COLUMNS, columns=True),
    )


def _first_rows(*rows: list[float]) -> Callable[[Rng], np.ndarray]:
    """These samples, followed by an ordinary one."""
    return lambda rng: np.array([*rows, rng.standard_normal(len(rows[0]))])


LARGE = _of_logits(
    "logits of ±1e4",
    "p is 1 for a class that leads by 1e4, 0 for the rest, and J = max − l of the true one: "
    "all finite; a gap of 1 between two large logits counts as much as between small ones.",
    _first_rows([1e4, 9999, -1e4, 0], [-1e4, -1e4, 1e4, 0], [-1e4, -9998, -9999, -1e4]),
    NAIVE,
    "e^{10000} overflows and e^{−10000} is 0: ∞/∞ and ln 0",
)
LARGE_IN_FLOAT32 = _of_logits(
    "logits of ±1e4",
    "The same in float32, where e^{89} is already infinite.",
    _first_rows([1e4, 9999, -1e4, 0], [-1e4, -1e4, 1e4, 0], [-1e4, -9998, -9999, -1e4]),
    NAIVE,
    "e^{10000} overflows and e^{−10000} is 0: ∞/∞ and ln 0",
    dtype="float32",
)
INFINITE = _of_logits(
    "one logit is +∞, or some are −∞",
    "The limit: a single +∞ takes all the probability, −∞ none; the loss is ∞ if a class with a nonzero "
    "label has probability 0, and the gradient is still p Σy − y.",
    _first_rows([inf, 5, -inf, 0], [2, 2, -inf, 1], [-inf, 0, -inf, -inf]),
    NAIVE + STABLE,
    "l − max l is ∞ − ∞ at a lone +∞, and e^∞/e^∞ is no better",
)
WITHOUT_LIMIT = _of_logits(
    "two logits are +∞, or all are −∞",
    "There is no limit, since it depends on which grows faster: NaN in the whole sample, so that no half of "
    "a distribution looks right (an entry that has a limit may have it); the other sample is not affected.",
    _first_rows([inf, 1, inf, 0], [-inf, -inf, -inf, -inf]),
    lost=(0, 1),
    row=2,
)
NOT_A_NUMBER = _of_logits(
    "NaN in one sample",
    "A sample's logits enter only its own term of the loss: J and that sample's row are NaN, no other row "
    "is.",
    _first_rows([1, nan, 0, 2], [0, 1, 3, 2]),
    row=1,
)
EQUAL = _of_logits(
    "all logits equal",
    "p = 1/K whatever they are, even if each is ±1e4: ties in the maximum that is subtracted cancel.",
    lambda rng: np.outer([rng.normal(), 1e4, -1e4], np.ones(4)),
    NAIVE,
    "e^{10000}/Σ is ∞/∞, e^{−10000}/Σ is 0/0",
    row=1,
)
ONE_CLASS = _of_logits(
    "one class",
    "p = 1 and J = 0 whatever the logit: no gradient, not even at ±∞, where e^l/e^l is 1 in the limit.",
    lambda rng: np.array([[rng.normal()], [0.0], [1e4], [inf], [-inf]]),
    NAIVE + STABLE,
    "∞ − ∞ and ∞/∞ once more, for a result that is always 1",
    row=slice(None),
)
ONE_SAMPLE = _of_logits(
    "one sample", "Like any other sample, with N = 1.", lambda rng: rng.standard_normal((1, 4))
)


# ------------------------------------------------------------------------------------ labels, probabilities


def _one_hot(rng: Rng, N: int, K: int) -> np.ndarray:
    return np.eye(K)[rng.integers(0, K, N)]


def _smoothed(rng: Rng) -> np.ndarray:
    """Two one-hot rows smoothed by 0.1, and a distribution."""
    return np.concatenate([0.9 * _one_hot(rng, 2, 4) + 0.1 / 4, soft(rng, 1, 4)])


def _of_labels(says: str, labels: Callable[[Rng], np.ndarray]) -> Hard:
    """Ordinary logits with these labels."""
    return Hard(
        "labels smoothed, soft, not summing to one", says,
        lambda rng: {"logits": 2 * rng.standard_normal((3, 4)), "labels": labels(rng)}, FUSED, show=("", 0),
    )  # fmt: skip


def _of_probs(name: str, says: str, probs: list, labels: list, **also: Any) -> Hard:
    """Cross-entropy of these probabilities, which need not come from a softmax."""
    ways: dict[str, Callable | None] = {"−Σ y ln p": None, "−Σ jnp.where(y > 0, y ln p, 0)": _where_loss}
    return Hard(
        name, says, lambda rng: {"probs": np.array(probs, float), "labels": np.array(labels, float)},
        ways, right=_cross_entropy_right, show=("", 0), **also,
    )  # fmt: skip


SOFTMAX = tuple(cases[0] for cases in (LARGE, INFINITE, WITHOUT_LIMIT, NOT_A_NUMBER, EQUAL, ONE_CLASS))
SOFTMAX_CROSS_ENTROPY = (
    *(
        cases[1]
        for cases in (
            LARGE,
            LARGE_IN_FLOAT32,
            INFINITE,
            WITHOUT_LIMIT,
            NOT_A_NUMBER,
            EQUAL,
            ONE_CLASS,
            ONE_SAMPLE,
        )
    ),
    _of_labels("Smoothed, and soft (a distribution): p − y, since each row sums to 1.", _smoothed),
    _of_labels(
        "Of any sum, negative entries and a row of zeros among them: p Σy − y; p − y would be wrong.",
        lambda rng: np.array([rng.uniform(0, 2, 4), [0, 0, 0, 0], rng.standard_normal(4)]),
    ),
    Hard(
        "labels one-hot, their other classes at −∞",
        "A class with label 0 has no term in the loss, 0 ln 0 = 0: J is finite, the gradient p − y. With "
        "respect to the label itself it is −ln p: ∞ at p = 0.",
        lambda rng: {
            "logits": np.array([[rng.normal(), -inf, 2, 1], [-inf, -inf, rng.normal(), -inf]]),
            "labels": np.eye(4)[[0, 2]],
        },
        FUSED,
        tuple(FUSED),
        "0 · ln 0 is NaN in arithmetic",
        show=("", 0),
    ),
    Hard(
        "a very large batch",
        "200 000 samples in float32: the mean to seven digits, each row divided by N.",
        lambda rng: {"logits": rng.standard_normal((200_000, 3)), "labels": soft(rng, 200_000, 3)},
        FUSED,
        right=_softmax_cross_entropy_right,
        dtype="float32",
        tolerance=2e-6,
        show=("", 0),
    ),
)


def _of_integers(name: str, says: str, labels: np.ndarray, K: int, why: str = "") -> Hard:
    """Ordinary logits with these integer labels."""
    return Hard(
        name, says, lambda rng: {"logits": rng.standard_normal((len(labels), K)), "labels": labels},
        INTEGER, tuple(INTEGER) if why else (), why, right=_integers_right, show=("", 0),
    )  # fmt: skip


INTEGER_LABELS = (
    *(cases[2] for cases in (LARGE, INFINITE, WITHOUT_LIMIT, NOT_A_NUMBER, ONE_CLASS)),
    _of_integers(
        "a label that is not a class, under jit",
        "It cannot be refused there: its sample's row is NaN, and so is J, which is a mean. Nor is 2³² a "
        "class, although as an int32 it would be 0.",
        np.array([1, 2**32, -1, 3, 0]),
        3,
        "an index of −1 is the last one's; beyond the end J may be NaN, but the gradient is a number",
    ),
    _of_integers(
        "labels in a byte, more classes than it holds",
        "256 as a byte is 0: the label 10 must not be the class 266 too.",
        np.array([10, 255], np.uint8),
        300,
    ),
    Hard(
        "NaN in an ignored sample",
        "Its label does not count, so neither do its logits: its row is 0, and no other row changes.",
        lambda rng: {
            "logits": with_nan(rng.standard_normal((4, 3)), 1, 0),
            "labels": np.array([2, -100, 0, 1]),
        },
        IGNORING,
        tuple(IGNORING),
        "jnp.where picks the right value, but the gradient of the branch not taken is 0 · NaN",
        settings={"ignore_index": -100},
        show=("", slice(0, 2)),
    ),
    Hard(
        "the largest byte is ignored",
        "255 in bytes, as in masks of segmentation: a label that the dtype can hold, if only just.",
        lambda rng: {"logits": rng.standard_normal((3, 4)), "labels": np.array([2, 255, 0], np.uint8)},
        IGNORING,
        settings={"ignore_index": 255},
    ),
    Hard(
        "no label counts, under jit",
        "It cannot be refused there: the mean of nothing is NaN, and so is its gradient.",
        lambda rng: {"logits": rng.standard_normal((2, 3)), "labels": np.array([1, 1])},
        IGNORING,
        tuple(IGNORING),
        "J is 0/0, but the gradient of the branch not taken is 0, whatever it is divided by",
        right=_no_mean,
        settings={"ignore_index": 1},
    ),
)
IN_COLUMNS = tuple(cases[3] for cases in (LARGE, INFINITE, NOT_A_NUMBER))
CROSS_ENTROPY = (
    _of_probs(
        "probabilities of exactly 0",
        "−y/p: 0 for a label of 0, whose term is absent, and −∞ for any other, with J = ∞.",
        [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]],
        [[0.7, 0.3, 0.0], [0.2, 0.0, 0.8]],
        differs=("−Σ y ln p", "−Σ jnp.where(y > 0, y ln p, 0)"),
        why="0 · ln 0; and jnp.where picks the right value, but the gradient of the branch not taken is "
        "0 · y/p, which is 0/0",
    ),
    _of_probs(
        "subnormal numbers",
        "A probability of 1e-310 is a number, ln p = −714 and −y/p beyond the largest float64; on a device "
        "that flushes subnormals to 0, as XLA:CPU does, the answer is that for 0, J = ∞. The fused loss, "
        "which starts from the logits, never has this problem.",
        [[0.5, 0.5, 1e-310], [1.0, 1e-310, 0.0]],
        [[0.7, 0.3, 0.25], [0.2, 0.8, 0.5]],
        also=flushed("float64"),
    ),
)
CROSS_ENTROPY_OF_SCORES = (
    Hard(
        "logits of ±1e4",
        "A single sample: p − 1 at the true class, p elsewhere.",
        lambda rng: {"s": np.array([-1e4, 1e4, 9999, rng.normal()]), "y": np.array(rng.integers(0, 4))},
        {
            "−ln(exp/Σexp)[y]": None,
            "−jax.nn.log_softmax[y]": lambda s, y: -jax.nn.log_softmax(s)[y],
        },
        NAIVE[2:],
        "e^{10000} overflows",
    ),
)


def _last_layer(rng: Rng, hidden: np.ndarray, W: np.ndarray) -> Arrays:
    return {"hidden": hidden, "W": W, "labels": rng.integers(0, W.shape[1], len(hidden))}


LINEAR_CROSS_ENTROPY = (
    Hard(
        "logits of ±1e4",
        "The same fused with the last layer, chunk by chunk, the last chunk smaller.",
        lambda rng: _last_layer(rng, rng.standard_normal((5, 2)), 1e4 * rng.standard_normal((2, 4))),
        LAST,
        NAIVE[2:],
        "e^{10000} overflows",
        settings={"chunk": 2},
        show=("", 0),
    ),
    Hard(
        "logits that overflow",
        "Finite weights whose logit, −1e40, is −∞ in float32: a class with p = 0, and 0 · W is 0 because W "
        "is finite.",
        lambda rng: {
            "hidden": np.array([[1e20, 0.5], [1.0, 2.0]]),
            "W": np.array([[-1e20, 3e-20, 5e-20], [-1.0, rng.normal(), rng.normal()]]),
            "labels": np.array([1, 2]),
        },
        LAST,
        dtype="float32",
        show=("", 0),
    ),
    Hard(
        "NaN in one sample",
        "The sample's row of dhidden is NaN, and so is dW, a sum over the samples; no other row is, in its "
        "chunk or outside.",
        lambda rng: _last_layer(
            rng, with_nan(rng.standard_normal((5, 2)), 1, 0), rng.standard_normal((2, 4))
        ),
        LAST,
        settings={"chunk": 3},
        show=("", 0),
    ),
    Hard(
        "NaN in an ignored sample",
        "The sample does not count, in a chunk where none does: its row is 0, dW is not affected, and no "
        "chunk is divided by 0.",
        lambda rng: (
            _last_layer(rng, with_nan(rng.standard_normal((5, 2)), 2, 0), rng.standard_normal((2, 4)))
            | {"labels": np.array([3, 0, -1, -1, 2])}
        ),
        IGNORING_LAST,
        tuple(IGNORING_LAST),
        "jnp.where picks the right value, but the gradient of the branch not taken is 0 · NaN",
        settings={"chunk": 2, "ignore_index": -1},
        show=("dW", slice(None)),
    ),
    Hard(
        "a very large batch",
        "70 000 samples in float16: dW sums over them in float32, chunk by chunk, and may be out of range "
        "for float16 until it is divided by N.",
        lambda rng: (
            _last_layer(rng, 4 + rng.standard_normal((70_000, 2)), rng.standard_normal((2, 3)))
            | {"dout": np.array(1024.0)}
        ),
        LAST,
        NAIVE[2:],
        "the sum and N overflow: ∞/∞",
        right=_last_layer_right,
        dtype="float16",
        settings={"chunk": 1000},
        show=("dW", slice(None)),
    ),
    Hard(
        "a very large batch",
        "70 losses of 1000 in one chunk of float16: their sum, 70 000, is out of range, but the mean is not.",
        lambda rng: {
            "hidden": rng.uniform(0.9, 1.1, (70, 1)),
            "W": np.array([[0.0, 1000.0, 1.0]]),
            "labels": np.arange(70) % 3 // 2 * 2,
        },
        LAST,
        NAIVE[2:],
        "e^{1000} overflows",
        right=_last_layer_right,
        dtype="float16",
        show=("dW", slice(None)),
    ),
)
MSE = (
    Hard(
        "NaN in one sample",
        "Its own entry of the gradient is NaN, and so is J, which is a mean over all.",
        lambda rng: {"y_hat": with_nan(rng.standard_normal(5), 2), "y": rng.standard_normal(5)},
        MSE_WAYS,
    ),
    Hard(
        "one sample, one pixel",
        "N = 1: 2(ŷ − y).",
        lambda rng: {"y_hat": rng.standard_normal(1), "y": rng.standard_normal(1)},
        MSE_WAYS,
    ),
    Hard(
        "values near the largest number",
        "The squares overflow, so J is ∞; the gradient 2(ŷ − y)/N has no square and is finite.",
        lambda rng: {"y_hat": np.array([1e200, -3e200, rng.normal()]), "y": np.zeros(3)},
        MSE_WAYS,
        right=_mse_right,
    ),
    Hard(
        "a very large batch",
        "60 000 samples in float32: the mean to seven digits, each gradient entry to its own rounding.",
        lambda rng: {"y_hat": rng.standard_normal(60_000), "y": rng.standard_normal(60_000)},
        MSE_WAYS,
        right=_mse_right,
        dtype="float32",
        tolerance=1e-6,
    ),
    Hard(
        "a very large batch",
        "332 222 samples in float16, whose largest number is 65 504: N itself is infinite there. 1/N is not, "
        "but off by 1 %, so dJ/N is taken in float32. The loss is scaled by 2¹⁵, without which every entry "
        "would be below float16's normal numbers.",
        lambda rng: {
            "y_hat": rng.standard_normal(HALFWAY),
            "y": rng.standard_normal(HALFWAY),
            "dout": np.array(2.0**15),
        },
        MSE_WAYS,
        ("jnp.sum((ŷ − y)²)/N",),
        "the sum and N overflow: ∞/∞",
        right=_mse_right,
        dtype="float16",
        tolerance=2e-3,
    ),
    Hard(
        "a very large batch",
        "65 665 samples in bfloat16, of small whole numbers, so that nothing else is rounded: dJ/N and twice "
        "its product with the error are rounded once, and not three times in one direction.",
        lambda rng: {
            "y_hat": rng.integers(-8, 8, 65_665).astype(float),
            "y": rng.integers(-8, 8, 65_665).astype(float),
            "dout": np.array(328.0),
        },
        MSE_WAYS,
        tuple(MSE_WAYS),
        "2 dJ/N is rounded before it meets the error",
        right=_mse_right,
        dtype="bfloat16",
        entrywise=True,
        tolerance=2**-8,
    ),
)
LINEAR_REGRESSION = (
    Hard(
        "one sample, one pixel",
        "N = 1, for a line that one point cannot determine: the gradient is finite, if not useful.",
        lambda rng: dict(zip("wbxy", (rng.standard_normal(s) for s in (3, (), (1, 3), 1)), strict=True)),
        {"jnp.mean((xw + b − y)²)": None},
    ),
    Hard(
        "a very large batch",
        "332 222 samples in float16: one sample's share is too small to keep all its digits, so the sums "
        "are computed from shares in float32.",
        lambda rng: {
            "w": np.array(1.0),
            "b": np.array(-0.25),
            "x": rng.integers(1, 3, HALFWAY) / 2,
            "y": np.zeros(HALFWAY),
            "dout": np.array(0.125),
        },
        right=_linear_regression_right,
        dtype="float16",
        tolerance=2e-3,
        show=("dw", slice(None)),
    ),
)
