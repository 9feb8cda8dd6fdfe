"""Losses, activations and the chain rule as people write them, with typical mistakes."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from manual_grad.catalogue.families import (
    FACTOR,
    LABELS_KEPT,
    MASK_GE,
    MEAN_FOR_SUM,
    NO_MASK,
    NO_OFF_DIAGONAL,
    P_SWAPPED,
    SIGN,
    SLOPE,
    SUM_MISSING,
    SWAPPED,
    TERM,
    TRANSPOSED,
    family,
)

# --- chain rule, MSE -------------------------------------------------------------------------------------


def _product_of_sum(df, x, y, z, *, dz=lambda x, y, z: x + y, dx=lambda x, y, z: z):
    return {"x": df * dx(x, y, z), "y": df * dx(x, y, z), "z": df * dz(x, y, z)}


PRODUCT_OF_SUM = (
    family(
        "gradient",
        _product_of_sum,
        (SWAPPED, "dz = z, dx = x + y", {"dz": lambda x, y, z: z, "dx": lambda x, y, z: x + y}),
        (TERM, "dz = x", {"dz": lambda x, y, z: x}),
    ),
)


def _quadratic(A, B, theta, *, both=lambda B: B + B.swapaxes(1, 2)):
    return A + jnp.einsum("jil,l->ji", both(B), theta)


QUADRATIC_MAP = (
    family(
        "jacobian",
        _quadratic,
        (TRANSPOSED, "B + B for B + Bᵀ", {"both": lambda B: 2 * B}),
        (TERM, "B for B + Bᵀ", {"both": lambda B: B}),
    ),
)
SQUARE = (family("jacobian", lambda x, k=2: k * x, (FACTOR, "x for 2x", {"k": 1})),)
SUM_OF_SQUARES = (family("jacobian", lambda x, k=2: k * x, (FACTOR, "x for 2x", {"k": 1})),)


def _mse(dJ, y_hat, y, *, factor=2):
    dy_hat = factor * (y_hat - y) / len(y) * dJ
    return {"y_hat": dy_hat, "y": -dy_hat}


MSE = (
    family(
        "gradient",
        _mse,
        (FACTOR, "the 2 of the square is missing", {"factor": 1}),
        (SWAPPED, "ŷ − y for y − ŷ", {"factor": -2}),
    ),
)


def _linear_regression(
    dJ, w, b, x, y, *, dw=lambda d, x: jnp.tensordot(d, x, axes=1), db=lambda d, x: d.sum(), factor=2
):
    d = factor * (jnp.tensordot(x, w, axes=w.ndim) + b - y) / len(y) * dJ
    return {"w": dw(d, x), "b": db(d, x), "x": jnp.tensordot(d, w, axes=0), "y": -d}


LINEAR_REGRESSION = (
    family(
        "gradient",
        _linear_regression,
        (SUM_MISSING, "dw = d · x, one per sample", {"dw": lambda d, x: (d * x.T).T}),
        (SUM_MISSING, "db = d", {"db": lambda d, x: d}),
        (MEAN_FOR_SUM, "db = mean(d)", {"db": lambda d, x: d.mean()}),
        (FACTOR, "the 2 of the square is missing", {"factor": 1}),
        reaches={"dw": "w", "db": "b"},
    ),
)


# --- activations -----------------------------------------------------------------------------------------

SLOPES: dict[str, Callable] = {
    "relu": lambda z: jnp.where(z > 0, 1.0, 0.0),
    "sigmoid": lambda z: jax.nn.sigmoid(z) * (1 - jax.nn.sigmoid(z)),
    "tanh": lambda z: 1 - jnp.tanh(z) ** 2,
    "softplus": jax.nn.sigmoid,
    "identity": jnp.ones_like,
}
VALUES: dict[str, Callable] = {
    "relu": lambda z: jnp.maximum(z, 0),
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "identity": lambda z: z,
}
_WRONG_SLOPES: dict[str, list[tuple[str, str, Callable]]] = {
    "relu": [
        (NO_MASK, "dx = da", jnp.ones_like),
        (MASK_GE, "da where x ≥ 0", lambda z: jnp.where(z >= 0, 1.0, 0.0)),
        (SIGN, "da where x < 0", lambda z: jnp.where(z < 0, 1.0, 0.0)),
    ],
    "sigmoid": [
        (SLOPE, "x(1 − x) for a(1 − a)", lambda z: z * (1 - z)),
        (SLOPE, "a for a(1 − a)", jax.nn.sigmoid),
    ],
    "tanh": [
        (SLOPE, "1 − x² for 1 − a²", lambda z: 1 - z**2),
        (SLOPE, "1 − a for 1 − a²", lambda z: 1 - jnp.tanh(z)),
    ],
    "softplus": [(SLOPE, "the slope of the sigmoid, not the sigmoid", SLOPES["sigmoid"])],
    "identity": [(SLOPE, "x for 1", lambda z: z)],
}


def _activation(da, x, *, slope):
    return da * slope(x)


def _activation_jacobian(x, *, slope):
    return jnp.diag(slope(x).ravel()).reshape(x.shape * 2)


def _of_activation(name):
    right = SLOPES[name]
    wrong = [(kind, line, {"slope": slope}) for kind, line, slope in _WRONG_SLOPES[name]]
    return (
        family("gradient", partial(_activation, slope=right), *wrong),
        family("jacobian", partial(_activation_jacobian, slope=right), *wrong),
    )


ACTIVATIONS = {name: _of_activation(name) for name in SLOPES}


# --- softmax and cross-entropy ---------------------------------------------------------------------------


def softmax(logits):
    """Softmax over the last axis."""
    exps = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    return exps / exps.sum(axis=-1, keepdims=True)


def _softmax_bwd(dprobs, logits, *, pull=lambda p, dp: p * (dp - (dp * p).sum(axis=-1, keepdims=True))):
    return pull(softmax(logits), dprobs)


_SOFTMAX_MISTAKES: tuple = (
    (NO_OFF_DIAGONAL, "dl = dp p (1 − p)", {"pull": lambda p, dp: dp * p * (1 - p)}),
    (TERM, "dl = dp p", {"pull": lambda p, dp: dp * p}),
    (SIGN, "dl = p (dp + Σ dp p)", {"pull": lambda p, dp: p * (dp + (dp * p).sum(-1, keepdims=True))}),
    (
        TERM,
        "the sum over the batch, not over the classes",
        {"pull": lambda p, dp: p * (dp - (dp * p).sum(0))},
    ),
)
SOFTMAX_COLUMNS = (
    family("gradient", lambda dA, Z, **wrong: _softmax_bwd(dA.T, Z.T, **wrong).T, *_SOFTMAX_MISTAKES),
)


def _softmax_jacobian(logits, *, block=lambda p: jnp.diag(p) - jnp.outer(p, p)):
    if logits.ndim == 1:
        return block(softmax(logits))
    N = len(logits)
    blocks = jax.vmap(block)(softmax(logits))
    return jnp.where(jnp.eye(N, dtype=bool)[:, None, :, None], blocks[:, :, None, :], 0)


SOFTMAX = (
    family("gradient", _softmax_bwd, *_SOFTMAX_MISTAKES),
    family(
        "jacobian",
        _softmax_jacobian,
        (NO_OFF_DIAGONAL, "diag(p (1 − p))", {"block": lambda p: jnp.diag(p * (1 - p))}),
        (SIGN, "diag(p) + p pᵀ", {"block": lambda p: jnp.diag(p) + jnp.outer(p, p)}),
        (TERM, "diag(p)", {"block": jnp.diag}),
    ),
)


def _cross_entropy(dJ, probs, labels, *, ratio=lambda p, y: y / p):
    N = len(probs)
    return {"probs": -dJ / N * ratio(probs, labels), "labels": -dJ / N * jnp.log(probs)}


_RATIOS: tuple = (
    (SWAPPED, "p/y for y/p", {"ratio": lambda p, y: p / y}),
    (SWAPPED, "y p for y/p", {"ratio": lambda p, y: y * p}),
    (TERM, "y/y for y/p", {"ratio": lambda p, y: y / y}),
)
CROSS_ENTROPY = (
    family("gradient", _cross_entropy, *_RATIOS),
    family("jacobian", lambda **p: _cross_entropy(1.0, **p)["probs"], *_RATIOS),
)
CROSS_ENTROPY_COLUMNS = (
    family("gradient", lambda dL, A, Y, **wrong: _cross_entropy(dL, A.T, Y.T, **wrong)["probs"].T, *_RATIOS),
)


def _softmax_cross_entropy(dJ, logits, labels, *, error=lambda p, y: p * y.sum(-1, keepdims=True) - y):
    p = softmax(logits)
    return {"logits": dJ / len(p) * error(p, labels), "labels": -dJ / len(p) * jnp.log(p)}


ERRORS: tuple = (
    (NO_OFF_DIAGONAL, "y (p − 1), the true class alone", {"error": lambda p, y: y * (p - 1)}),
    (P_SWAPPED, "p where y is 1, p − 1 elsewhere", {"error": lambda p, y: p - (1 - y)}),
    (
        MEAN_FOR_SUM,
        "over N and the classes",
        {"error": lambda p, y: (p * y.sum(-1, keepdims=True) - y) / y.shape[-1]},
    ),
)  # fmt: skip
_ANY_SUM = (TERM, "p − y, labels taken to sum to 1", {"error": lambda p, y: p - y})
SOFTMAX_CROSS_ENTROPY = (
    family("gradient", _softmax_cross_entropy, *ERRORS, _ANY_SUM),
    family("jacobian", lambda **p: _softmax_cross_entropy(1.0, **p)["logits"], *ERRORS),
)
FIVE_LAYER_FROM_Z = (
    family(
        "gradient",
        lambda dL, Z, Y, **wrong: {
            "ZY"[k]: g.T for k, g in enumerate(_softmax_cross_entropy(dL, Z.T, Y.T, **wrong).values())
        },
        *ERRORS,
        applies=lambda inputs: "Z" in inputs,
    ),
)


def one_hot(y, K):
    """One-hot rows, with a 1 for each label."""
    return (jnp.asarray(y)[..., None] == jnp.arange(K)).astype(jnp.float64)


def _integer_labels(dJ, logits, labels, *, error=lambda p, y: p - y):
    return dJ / len(logits) * error(softmax(logits), one_hot(labels, logits.shape[-1]))


def _integer_labels_ignored(
    dJ,
    logits,
    labels,
    ignore_index,
    *,
    kept=lambda y, ignored: y != ignored,
    number=lambda kept: kept.sum(),
    error=lambda e, kept: e * kept[:, None],
):
    keep = kept(labels, ignore_index)
    e = softmax(logits) - one_hot(labels, logits.shape[-1])
    return dJ / number(keep) * error(e, keep)


_IGNORING: tuple = (
    (LABELS_KEPT, "N for the number of labels kept", {"number": len}),
    (LABELS_KEPT, "p in an ignored sample's row", {"error": lambda e, kept: e}),
    (FACTOR, "the number of those ignored", {"number": lambda kept: (~kept).sum()}),
    (SWAPPED, "the ignored samples kept", {"kept": lambda y, ignored: y == ignored}),
)


def _ignores(inputs):
    return "ignore_index" in inputs


def _ignores_none(inputs):
    return not _ignores(inputs)


SOFTMAX_CROSS_ENTROPY_WITH_INTEGER_LABELS = (
    family("gradient", _integer_labels, *ERRORS, applies=_ignores_none),
    family("gradient", _integer_labels_ignored, *_IGNORING, applies=_ignores),
)
CROSS_ENTROPY_OF_SCORES = (
    family(
        "gradient",
        lambda dJ, s, y, **wrong: _integer_labels(dJ, s[None], jnp.asarray(y)[None], **wrong)[0],
        *ERRORS,
    ),
    family(
        "jacobian",
        lambda s, y, **wrong: _integer_labels(1.0, s[None], jnp.asarray(y)[None], **wrong)[0],
        *ERRORS,
    ),
)
CROSS_ENTROPY_OF_S_COLUMNS = tuple(
    family(
        kind,
        lambda dJ=1.0, S=None, y=None, **wrong: _integer_labels(dJ, S.T, y, **wrong).T,
        *ERRORS,
        applies=lambda inputs: "S" in inputs,
    )
    for kind in ("gradient", "jacobian")
)


def _linear_cross_entropy(
    dJ, hidden, W, labels, chunk, *, error=lambda p, y: p - y, last=None, back=jnp.transpose
):
    N = len(hidden)
    p = softmax(hidden @ W)
    dlogits = dJ / N * error(p, one_hot(labels, W.shape[1]))
    if last is not None:
        dlogits = dlogits.at[last(N, chunk) :].set(0)
    return {"hidden": dlogits @ back(W), "W": hidden.T @ dlogits}  # fmt: skip


def _linear_cross_entropy_ignored(dJ, hidden, W, labels, ignore_index, chunk, *, share=None, **wrong):
    dlogits = _integer_labels_ignored(dJ, hidden @ W, labels, ignore_index, **wrong)
    if share is not None:  # the share of each chunk's mean
        kept = labels != ignore_index
        chunks = [kept[i : i + chunk] for i in range(0, len(kept), chunk)]
        dlogits = dlogits * kept.sum() * jnp.concatenate([share(k, len(chunks)) for k in chunks])[:, None]
    return {"hidden": dlogits @ W.T, "W": hidden.T @ dlogits}


LINEAR_CROSS_ENTROPY = (
    family(
        "gradient",
        _linear_cross_entropy,
        *ERRORS,
        (
            "last chunk dropped",
            "the samples that fill no whole chunk",
            {"last": lambda N, n: (N - 1) // n * n},
        ),
        (TRANSPOSED, "dlogits W for dlogits Wᵀ", {"back": lambda W: W}),
        reaches={"back": "hidden"},
        applies=_ignores_none,
    ),
    family(
        "gradient",
        _linear_cross_entropy_ignored,
        *_IGNORING,
        (
            MEAN_FOR_SUM,
            "the mean of the chunks' means",
            {"share": lambda kept, n: jnp.full(len(kept), 1 / (n * jnp.maximum(kept.sum(), 1)))},
        ),
        applies=_ignores,
    ),
)
