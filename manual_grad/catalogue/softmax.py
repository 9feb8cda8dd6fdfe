"""Softmax, cross-entropy, and the two together."""

import jax
import jax.numpy as jnp

import manual_grad_reference as reference
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import (
    Batch,
    Distribution,
    Formula,
    Function,
    Inputs,
    distribution,
    integers_below,
    normal,
    positive,
)
from manual_grad.formulas.softmax import (
    cross_entropy_bwd,
    cross_entropy_fwd,
    cross_entropy_of_scores_bwd,
    cross_entropy_of_scores_fwd,
    jac_cross_entropy_probs,
    jac_softmax_cross_entropy_logits,
    jac_softmax_cross_entropy_logits_one_hot,
    jac_softmax_logits,
    jac_softmax_logits_blocks,
    one_hot,
    softmax_bwd,
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_columns_bwd,
    softmax_cross_entropy_columns_fwd,
    softmax_cross_entropy_fwd,
    softmax_cross_entropy_with_integer_labels_bwd,
    softmax_cross_entropy_with_integer_labels_fwd,
    softmax_fwd,
)

SIZES = {"N": 5, "K": 7}


def blocks(J: jax.Array) -> jax.Array:
    """The K×K block of each sample, out of a Jacobian in which samples do not meet."""
    return jnp.stack([J[n, :, n] for n in range(len(J))])


SOFTMAX = Formula(
    softmax_fwd,
    softmax_bwd,
    reference.softmax.softmax,
    draw={"logits": normal},
    sizes={"*N": (5,), "K": 7},
    source="Lecture A, Softmax",
    variants={"batch": {}, "vector": {"*N": ()}, "three_axes": {"*N": (2, 3)}},
    stable=reference.stable.stable_softmax,
    batch=Batch({"logits": 0}, 0),
    grows=(("logits", 0),),
    functions=(
        Function(jac_softmax_logits, ("logits",), variants={"batch": {}, "vector": {"*N": ()}}),
        Function(jac_softmax_logits_blocks, ("logits",), blocks, variants={"batch": {}}),
    ),
)
CROSS_ENTROPY = Formula(
    cross_entropy_fwd,
    cross_entropy_bwd,
    reference.softmax.cross_entropy,
    draw={"probs": distribution, "labels": distribution},
    sizes=SIZES,
    source="Lecture A, Cross-Entropy",
    batch=Batch({"probs": 0, "labels": 0}, mean=True),
    functions=(Function(jac_cross_entropy_probs, ("probs",)),),
)
BY_ONE_HOT: dict[str, Distribution] = {
    "logits": normal,
    "labels": lambda draw, shape, sizes: draw.one_hot(*shape),
}
SOFTMAX_CROSS_ENTROPY = Formula(
    softmax_cross_entropy_fwd,
    softmax_cross_entropy_bwd,
    reference.softmax.softmax_cross_entropy,
    draw={"logits": normal, "labels": positive},
    sizes=SIZES,
    source="Lecture A, The most important thing",
    stable=reference.stable.stable_softmax_cross_entropy,
    batch=Batch({"logits": 0, "labels": 0}, mean=True),
    functions=(
        Function(jac_softmax_cross_entropy_logits, ("logits",)),
        Function(jac_softmax_cross_entropy_logits_one_hot, ("logits",), draw=BY_ONE_HOT),
    ),
)


def _columns(draw: Draw, N: int, K: int) -> Inputs:
    return {"Z": draw.normal(K, N), "Y": draw.positive(N, K).T}


SOFTMAX_CROSS_ENTROPY_COLUMNS = Formula(
    softmax_cross_entropy_columns_fwd,
    softmax_cross_entropy_columns_bwd,
    reference.softmax.softmax_cross_entropy_columns,
    draw=_columns,
    sizes=SIZES,
    source="Lecture D, derivation of the softmax cross-entropy",
    stable=reference.stable.stable_softmax_cross_entropy_columns,
    batch=Batch({"Z": 1, "Y": 1}, mean=True),
)
SOFTMAX_CROSS_ENTROPY_WITH_INTEGER_LABELS = Formula(
    softmax_cross_entropy_with_integer_labels_fwd,
    softmax_cross_entropy_with_integer_labels_bwd,
    reference.softmax.softmax_cross_entropy_with_integer_labels,
    draw={"logits": normal, "labels": integers_below("K")},
    sizes=SIZES,
    source="Lecture B, page 5",
    stable=reference.stable.stable_softmax_cross_entropy_with_integer_labels,
    batch=Batch({"logits": 0, "labels": 0}, mean=True),
    grows=(("logits", 1),),
)
CROSS_ENTROPY_OF_SCORES = Formula(
    cross_entropy_of_scores_fwd,
    cross_entropy_of_scores_bwd,
    reference.softmax.cross_entropy_of_scores,
    draw={"s": normal, "y": integers_below("c")},
    sizes={"c": 7},
    source="Lecture B, page 3",
    stable=reference.stable.stable_cross_entropy_of_scores,
    grows=(("s", 0),),
)
ENTRIES = (
    SOFTMAX,
    CROSS_ENTROPY,
    SOFTMAX_CROSS_ENTROPY,
    SOFTMAX_CROSS_ENTROPY_COLUMNS,
    SOFTMAX_CROSS_ENTROPY_WITH_INTEGER_LABELS,
    CROSS_ENTROPY_OF_SCORES,
)
FUNCTIONS = (
    Function(
        one_hot,
        reference=lambda labels, K: reference.mlp.one_hot_columns(labels, K).T,
        draw=lambda draw, N, K: {"labels": draw.labels(N, K), "K": K},
        sizes=SIZES,
    ),
)
