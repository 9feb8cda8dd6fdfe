"""Softmax, cross-entropy, and the two together."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue import golden, hard_losses, mutants_of_losses
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import (
    NO_BATCH,
    Batch,
    Bench,
    Distribution,
    Formula,
    Function,
    Inputs,
    Op,
    Scale,
    Shown,
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
from manual_grad_reference import definitions

CLASSES = ((4, 10), (64, 10), (512, 1000), (4096, 1000))
SIZES = {"N": 5, "K": 7}


def blocks(J: jax.Array) -> jax.Array:
    """The K×K block of each sample, taken from a Jacobian in which samples are independent."""
    return jnp.stack([J[n, :, n] for n in range(len(J))])


BATCHES = tuple(((N,), K) for N, K in CLASSES)
JACOBIANS = Bench(
    ("*N", "K"), (((4,), 10), ((16,), 40), ((64,), 100)), jax.nn.softmax, quick=(1,), estimated=(2,)
)
GOLDEN = golden.of_logits()
GOLDEN_PRODUCT = golden.of_logits(
    more=" The lecture's product of the two Jacobians is −y/p times p: where p underflows to 0 it is NaN, "
    "this project's formula of this name included. The answer is (p Σ_k y_k − y) / N all the same."
)


def _small_probabilities(draw: Draw, inputs: Inputs) -> Inputs:
    probs = np.array(inputs["probs"], np.float64)
    probs[0, 0] = probs[1, 3] = 4 * golden.smallest_normal(draw)
    return inputs | {"probs": golden.put(probs, draw)}


GOLDEN_PROBS = golden.GoldenCases(
    "Two distributions over the classes for each sample.",
    extreme=golden.Changed(
        _small_probabilities,
        "Two probabilities are four times the dtype's smallest normal number; −y/(N p) is then near the end "
        "of its range, and finite. A logarithm clipped to log(p + ε) gives another answer.",
    ),
)


SOFTMAX = Formula(
    softmax_fwd,
    softmax_bwd,
    reference.softmax.softmax,
    definition=definitions.softmax,
    mutants=mutants_of_losses.SOFTMAX,
    draw={"logits": normal},
    sizes={"*N": (5,), "K": 7},
    source="Lecture A, Softmax",
    hard=hard_losses.SOFTMAX,
    golden=replace(GOLDEN, variants=("batch", "vector")),
    variants={"batch": {}, "vector": {"*N": ()}, "three_axes": {"*N": (2, 3)}},
    stable=reference.stable.stable_softmax,
    batch=Batch({"logits": 0}, 0),
    sends={"K": {"all-reduce": "3 N"}},
    grows=(("logits", 0), ("logits", 1), ("logits", 2)),
    functions=(
        Function(
            jac_softmax_logits,
            ("logits",),
            golden=GOLDEN,
            variants={"batch": {}, "vector": {"*N": ()}},
            bench=JACOBIANS,
        ),
        Function(
            jac_softmax_logits_blocks, ("logits",), blocks, golden=GOLDEN, variants={"": {}}, bench=JACOBIANS
        ),
    ),
    op=Op(ops.softmax, Bench(("*N", "K"), BATCHES[:3], jax.nn.softmax, peer=True)),
    bench=Bench(("*N", "K"), BATCHES, jax.nn.softmax, quick=(1,)),
    shown=Shown(
        "Activations",
        "Softmax",
        r"\hat{y}_k = \frac{e^{l_k}}{\sum_j e^{l_j}}",
        (r"dl_j = \hat{y}_j (d\hat{y}_j - \sum_k d\hat{y}_k \hat{y}_k)",),
        ("A-07", "A-08"),
    ),
)
CROSS_ENTROPY = Formula(
    cross_entropy_fwd,
    cross_entropy_bwd,
    reference.softmax.cross_entropy,
    definition=definitions.cross_entropy,
    mutants=mutants_of_losses.CROSS_ENTROPY,
    draw={"probs": distribution, "labels": distribution},
    sizes=SIZES,
    source="Lecture A, Cross-Entropy",
    hard=hard_losses.CROSS_ENTROPY,
    golden=GOLDEN_PROBS,
    batch=Batch({"probs": 0, "labels": 0}, mean=True),
    sends={"K": {"all-reduce": "1"}},
    functions=(Function(jac_cross_entropy_probs, ("probs",)),),
    bench=Bench(("N", "K"), CLASSES),
    shown=Shown(
        "Losses",
        "Cross-entropy of probabilities",
        r"J = -\frac{1}{N} \sum y \ln \hat{y}",
        (r"d\hat{y} = -\frac{1}{N} \frac{y}{\hat{y}}",),
        ("A-09", "D-04"),
    ),
)
BY_ONE_HOT: dict[str, Distribution] = {
    "logits": normal,
    "labels": lambda draw, shape, sizes: draw.one_hot(*shape),
}
SOFTMAX_CROSS_ENTROPY = Formula(
    softmax_cross_entropy_fwd,
    softmax_cross_entropy_bwd,
    reference.softmax.softmax_cross_entropy,
    definition=definitions.softmax_cross_entropy,
    mutants=mutants_of_losses.SOFTMAX_CROSS_ENTROPY,
    draw={"logits": normal, "labels": positive},
    sizes=SIZES,
    source="Lecture A, The most important thing",
    hard=hard_losses.SOFTMAX_CROSS_ENTROPY,
    golden=GOLDEN,
    stable=reference.stable.stable_softmax_cross_entropy,
    batch=Batch({"logits": 0, "labels": 0}, mean=True),
    sends={"K": {"all-reduce": "3 N + 1"}},
    functions=(
        Function(jac_softmax_cross_entropy_logits, ("logits",), golden=GOLDEN_PRODUCT),
        Function(jac_softmax_cross_entropy_logits_one_hot, ("logits",), golden=GOLDEN, draw=BY_ONE_HOT),
    ),
    op=Op(
        ops.softmax_cross_entropy,
        Bench(("N", "K"), CLASSES[:3], reference.plain.softmax_cross_entropy, wrt=("logits",)),
    ),
    bench=Bench(("N", "K"), CLASSES, reference.plain.softmax_cross_entropy, quick=(1,)),
    shown=Shown(
        "Losses",
        "Softmax and cross-entropy together",
        r"J = -\frac{1}{N} \sum y \ln \operatorname{softmax}(l)",
        (r"dl = \frac{1}{N} (\hat{Y} \Sigma y - Y)",),
        ("A-10", "B-14", "D-06"),
    ),
)


def _columns(draw: Draw, N: int, K: int) -> Inputs:
    return {"Z": draw.normal(K, N), "Y": draw.positive(N, K).T}


SOFTMAX_CROSS_ENTROPY_COLUMNS = Formula(
    softmax_cross_entropy_columns_fwd,
    softmax_cross_entropy_columns_bwd,
    reference.softmax.softmax_cross_entropy_columns,
    definition=definitions.softmax_cross_entropy_columns,
    draw=_columns,
    sizes=SIZES,
    source="Lecture D, derivation of the softmax cross-entropy",
    hard=hard_losses.IN_COLUMNS,
    golden=golden.of_logits(columns=True),
    stable=reference.stable.stable_softmax_cross_entropy_columns,
    batch=Batch({"Z": 1, "Y": 1}, mean=True),
    bench=Bench(("K", "N"), ((10, 512), (1000, 512)), reference.plain.softmax_cross_entropy_columns),
)
INTEGER_LABELS = reference.plain.softmax_cross_entropy_with_integer_labels
SOFTMAX_CROSS_ENTROPY_WITH_INTEGER_LABELS = Formula(
    softmax_cross_entropy_with_integer_labels_fwd,
    softmax_cross_entropy_with_integer_labels_bwd,
    reference.softmax.softmax_cross_entropy_with_integer_labels,
    definition=definitions.softmax_cross_entropy_with_integer_labels,
    mutants=mutants_of_losses.SOFTMAX_CROSS_ENTROPY_WITH_INTEGER_LABELS,
    draw=lambda draw, N, K, ignore_index=None: {
        "logits": draw.normal(N, K),
        "labels": draw.labels_ignored(N, K, ignore_index),
    },
    sizes=SIZES,
    source="Lecture B, page 5",
    hard=hard_losses.INTEGER_LABELS,
    golden=GOLDEN,
    variants={"": {}, "ignored": {"ignore_index": -100}},
    stable=reference.stable.stable_softmax_cross_entropy_with_integer_labels,
    batch=Batch({"logits": 0, "labels": 0}, mean=True),
    sends={"K": {"all-reduce": "2 N + 1"}},
    grows=(("logits", 1),),
    op=Op(
        ops.softmax_cross_entropy_with_integer_labels,
        Bench(("N", "K"), CLASSES[:3], INTEGER_LABELS, quick=(1,), peer=True),
    ),
    bench=Bench(
        ("N", "K"),
        CLASSES,
        INTEGER_LABELS,
        quick=(1,),
        scale=Scale("loss", "N", (4, 16, 64, 256, 1024, 4096), {"K": 1000}),
    ),
    shown=Shown(
        "Losses",
        "The same with integer labels",
        r"J = -\frac{1}{N} \sum_i \ln \hat{y}_{i, y_i}",
        (r"dl_{ik} = \frac{1}{N} (\hat{y}_{ik} - \mathbb{1}\{k = y_i\})",),
        ("B-10", "B-14"),
    ),
)
CROSS_ENTROPY_OF_SCORES = Formula(
    cross_entropy_of_scores_fwd,
    cross_entropy_of_scores_bwd,
    reference.softmax.cross_entropy_of_scores,
    definition=definitions.cross_entropy_of_scores,
    mutants=mutants_of_losses.CROSS_ENTROPY_OF_SCORES,
    draw={"s": normal, "y": integers_below("c")},
    sizes={"c": 7},
    source="Lecture B, page 3",
    batch=NO_BATCH,
    hard=hard_losses.CROSS_ENTROPY_OF_SCORES,
    golden=GOLDEN,
    stable=reference.stable.stable_cross_entropy_of_scores,
    grows=(("s", 0),),
    bench=Bench(("c",), ((10,), (32000,)), reference.plain.cross_entropy_of_scores),
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
        golden=golden.GoldenCases("Integers from 0 to K − 1."),
        reference=lambda labels, K: reference.mlp.one_hot_columns(labels, K).T,
        draw=lambda draw, N, K: {"labels": draw.labels(N, K), "K": K},
        sizes=SIZES,
    ),
)
