"""Losses beyond the lectures."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import Batch, Bench, Formula, Op, Shown, Sizes, normal
from manual_grad.catalogue.families import FACTOR, MEAN_FOR_SUM, SLOPE, SWAPPED, TERM, family
from manual_grad.catalogue.hard import Arrays, Hard
from manual_grad.formulas.losses import (
    binary_cross_entropy_with_logits_bwd,
    binary_cross_entropy_with_logits_fwd,
    huber_bwd,
    huber_fwd,
    kl_divergence_bwd,
    kl_divergence_fwd,
)
from manual_grad_reference import definitions

SIZES = ((64,), (4096,), (1_048_576,))


def probability(draw: Draw, shape: tuple[int, ...], sizes: Sizes) -> Any:
    """Numbers between ¼ and 1."""
    return draw.positive(*shape) / 2


# ------------------------------------------------------------------------------------------------ mutants


def _binary(
    dJ: Any,
    logits: Any,
    labels: Any,
    *,
    error: Callable = lambda p, y: p - y,
    of_labels: Callable = lambda l: -l,
) -> dict[str, Any]:
    share = dJ / len(logits)
    return {"logits": share * error(jax.nn.sigmoid(logits), labels), "labels": share * of_labels(logits)}


BINARY_MUTANTS = family(
    "gradient",
    _binary,
    (SLOPE, "an extra σ′, as for a squared error", {"error": lambda p, y: (p - y) * p * (1 - p)}),
    (TERM, "the term of y alone", {"error": lambda p, y: -y * (1 - p)}),
    (TERM, "the term of 1 − y alone", {"error": lambda p, y: (1 - y) * p}),
    (SLOPE, "with respect to σ, not to the logit", {"error": lambda p, y: (p - y) / (p * (1 - p))}),
    (SLOPE, "dy = −σ(l)", {"of_labels": lambda l: -jax.nn.sigmoid(l)}),
    reaches={"error": "logits", "of_labels": "labels"},
)


def _divergence(
    dJ: Any,
    logits_p: Any,
    logits_q: Any,
    *,
    of_p: Callable = lambda p, q, ratio: p * (ratio - (p * ratio).sum(-1, keepdims=True)),
    of_q: Callable = lambda p, q: q - p,
) -> dict[str, Any]:
    share, log_p, log_q = dJ / len(logits_p), jax.nn.log_softmax(logits_p), jax.nn.log_softmax(logits_q)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    return {"logits_p": share * of_p(p, q, log_p - log_q), "logits_q": share * of_q(p, q)}


DIVERGENCE_MUTANTS = family(
    "gradient",
    _divergence,
    (TERM, "dl_p without its KL", {"of_p": lambda p, q, ratio: p * ratio}),
    (TERM, "P treated as constant weights", {"of_p": lambda p, q, ratio: p * (1 - p)}),
    (SLOPE, "dq = −p/q, not through the softmax", {"of_q": lambda p, q: -p / q}),
    (SWAPPED, "Q for P, as in PyTorch's order", {"of_q": lambda p, q: p - q}),
    (MEAN_FOR_SUM, "over N and the classes", {"of_q": lambda p, q: (q - p) / q.shape[-1]}),
    reaches={"of_p": "logits_p", "of_q": "logits_q"},
)


def _robust(
    dJ: Any, y_hat: Any, y: Any, delta: float = 1.0, *, cut: Callable = lambda d, k: jnp.clip(d, -k, k)
) -> dict[str, Any]:
    dy_hat = dJ / len(y) * cut(y_hat - y, delta)
    return {"y_hat": dy_hat, "y": -dy_hat}


HUBER_MUTANTS = family(
    "gradient",
    _robust,
    (SLOPE, "d everywhere, not cut off", {"cut": lambda d, k: d}),
    (SLOPE, "δ sign(d) everywhere", {"cut": lambda d, k: k * jnp.sign(d)}),
    (SLOPE, "cut off at 1 for δ", {"cut": lambda d, k: jnp.clip(d, -1, 1)}),
    (FACTOR, "sign(d) for δ sign(d)", {"cut": lambda d, k: jnp.where(jnp.abs(d) <= k, d, jnp.sign(d))}),
    (SWAPPED, "y − ŷ for ŷ − y", {"cut": lambda d, k: jnp.clip(-d, -k, k)}),
)

# ------------------------------------------------------------------------------------------------ entries


def _no_probabilities(point: Arrays, dout: np.ndarray) -> tuple:
    """The slopes where the label is between 0 and 1; elsewhere there is none, and J is NaN."""
    logits, labels = point.values()
    error = np.where((labels >= 0) & (labels <= 1), 1 / (1 + np.exp(-logits)) - labels, np.nan)
    return np.array(np.nan), dout / len(logits) * error, -dout / len(logits) * logits


BINARY_CROSS_ENTROPY_WITH_LOGITS = Formula(
    binary_cross_entropy_with_logits_fwd,
    binary_cross_entropy_with_logits_bwd,
    reference.losses.binary_cross_entropy_with_logits,
    definition=definitions.binary_cross_entropy_with_logits,
    mutants=(BINARY_MUTANTS,),
    draw={"logits": normal, "labels": probability},
    sizes={"N": 7},
    source="Bishop 2006, equations 4.90 and 4.91",
    batch=Batch({"logits": 0, "labels": 0}, mean=True),
    hard=(
        Hard(
            "logits far out",
            "The loss is 0 or |l|, and each slope has its own digits: where σ rounds to 1, 1 − σ would be 0.",
            lambda rng: {
                "logits": np.array([1e4, -1e4, 40, -40, 800, -800, 40, 0]),
                "labels": np.array([1, 0, 1, 0, 0.25, 0.25, 0, 0.5]),
            },
            {"ln of 1/(1 + exp(−l))": None, "ln σ": reference.losses.plain_binary_cross_entropy},
            ("ln of 1/(1 + exp(−l))",),
            "σ and 1 − σ round to 0, whose logarithm is −∞",
            show=("dlogits", slice(None)),
            entrywise=True,
        ),
        Hard(
            "a label that is not a probability, under jit",
            "It cannot be refused there: its sample's slope is NaN, and so is J, which is a mean.",
            lambda rng: {"logits": rng.standard_normal(4), "labels": np.array([1.5, 0.25, -0.5, 1.0])},
            {"ln σ": reference.losses.plain_binary_cross_entropy},
            ("ln σ",),
            "it takes any number for a label; the loss may be below 0",
            right=_no_probabilities,
            show=("dlogits", slice(None)),
        ),
    ),
    op=Op(ops.binary_cross_entropy_with_logits),
    bench=Bench(("N",), SIZES, reference.losses.plain_binary_cross_entropy, quick=(1,)),
    shown=Shown(
        "Losses",
        "Two classes by one logit",
        r"J = -\frac{1}{N} \sum_i (y_i \ln \sigma(l_i) + (1 - y_i) \ln(1 - \sigma(l_i)))",
        (r"dl = \frac{1}{N} (\sigma(l) - y)", r"dy = -\frac{1}{N} l"),
        ("E-22",),
    ),
)
KL_DIVERGENCE = Formula(
    kl_divergence_fwd,
    kl_divergence_bwd,
    reference.losses.kl_divergence,
    definition=definitions.kl_divergence,
    mutants=(DIVERGENCE_MUTANTS,),
    draw={"logits_p": normal, "logits_q": normal},
    sizes={"N": 5, "K": 7},
    source="Kullback and Leibler 1951, equation 2.4",
    batch=Batch({"logits_p": 0, "logits_q": 0}, mean=True),
    hard=(
        Hard(
            "logits of ±10⁴",
            "p ln p is 0 where p vanishes, and ln q is finite where q does: the divergence is 2 · 10⁴.",
            lambda rng: {
                "logits_p": np.array([[1e4, -1e4, 0.0], [1e4, 1e4, 0.0]]),
                "logits_q": np.array([[-1e4, 1e4, 3.0], [1e4, 1e4, -1e4]]),
            },
            {"Σ p ln(p/q)": None, "ln softmax": reference.losses.plain_kl_divergence},
            ("Σ p ln(p/q)",),
            "exp overflows, and 0 · ln 0",
            show=("dlogits_p", slice(None)),
        ),
    ),
    op=Op(ops.kl_divergence),
    bench=Bench(
        ("N", "K"), ((64, 10), (512, 1000), (4096, 1000)), reference.losses.plain_kl_divergence, quick=(1,)
    ),
    shown=Shown(
        "Losses",
        "Kullback-Leibler divergence of two softmaxes",
        r"J = \frac{1}{N} \sum p \, (\ln p - \ln q)",
        (r"dl_p = \frac{1}{N} p \, (\ln p - \ln q - \mathrm{KL})", r"dl_q = \frac{1}{N} (q - p)"),
        ("E-23",),
    ),
)
HUBER = Formula(
    huber_fwd,
    huber_bwd,
    reference.losses.huber,
    definition=definitions.huber,
    mutants=(HUBER_MUTANTS,),
    draw={"y_hat": normal, "y": normal},
    sizes={"N": 7},
    source="Huber 1964, section 4",
    variants={"delta": {"delta": 0.625}, "": {}},
    batch=Batch({"y_hat": 0, "y": 0}, mean=True),
    hard=(
        Hard(
            "differences of exactly ±δ",
            "Both branches have the slope ±δ there: the loss has no kink.",
            lambda rng: {"y_hat": np.array([1.0, -1.0, 0.0, -0.0]), "y": np.zeros(4)},
            {"where(|d| ≤ δ, …)": None},
        ),
    ),
    op=Op(ops.huber),
    bench=Bench(("N",), SIZES, quick=(1,)),
    shown=Shown(
        "Losses",
        "Huber's loss",
        r"J = \frac{1}{N} \sum c \, (d - c / 2), \; d = \hat{y} - y, c = \min(\max(d, -\delta), \delta)",
        (r"d\hat{y} = \frac{1}{N} c", r"dy = -d\hat{y}"),
        ("E-24",),
    ),
)
ENTRIES = (BINARY_CROSS_ENTROPY_WITH_LOGITS, KL_DIVERGENCE, HUBER)
