"""The last linear layer and softmax cross-entropy as one, in chunks of samples."""

import numpy as np

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue import golden, hard_losses, mutants_of_losses
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import (
    Batch,
    Bench,
    Formula,
    Inputs,
    Op,
    Shown,
)
from manual_grad.kernels.linear_cross_entropy import linear_cross_entropy_bwd, linear_cross_entropy_fwd
from manual_grad_reference import definitions

AXES, SMALL = ("N", "D", "V"), ((32, 16, 50), (512, 256, 32000))
PLAIN = reference.plain.linear_cross_entropy


def _equal_columns(draw: Draw, inputs: Inputs) -> Inputs:
    hidden, W = (np.array(inputs[name], np.float64) for name in ("hidden", "W"))
    W[:, 4] = W[:, 9]
    hidden[0], hidden[1] = 0.0, -0.0
    return inputs | {"hidden": golden.put(hidden, draw), "W": golden.put(W, draw)}


def _large_logits(draw: Draw, inputs: Inputs) -> Inputs:
    large = {name: 32 * draw.rng.integers(-2, 3, inputs[name].shape) for name in ("hidden", "W")}
    return inputs | {name: golden.put(a, draw) for name, a in large.items()}


GOLDEN = golden.GoldenCases(
    "Gaussian hidden features and weights.",
    golden.Changed(
        _equal_columns,
        "Two columns of W are equal, so two logits of every sample are; the first sample's features are all "
        "0, so its logits are too, the second's −0.0. Softmax is smooth there.",
    ),
    golden.Changed(
        _large_logits,
        "Multiples of 32 from −64 to 64, so that the logits are exact in every dtype and reach 10⁴ and more. "
        "The right answer is finite, as for the loss of the logits alone; the truth is computed by the "
        "shifted form in reference/stable.py.",
    ),
)


def _drawn(draw: Draw, N: int, D: int, V: int, ignore_index: int | None = None) -> Inputs:
    scale = draw.size(D) ** -0.5
    return {
        "hidden": draw.normal(N, D),
        "W": draw.normal(D, V, scale=scale),
        "labels": draw.labels_ignored(N, V, ignore_index),
    }


LINEAR_CROSS_ENTROPY = Formula(
    linear_cross_entropy_fwd,
    linear_cross_entropy_bwd,
    reference.linear_cross_entropy.linear_cross_entropy,
    definition=definitions.linear_cross_entropy,
    mutants=mutants_of_losses.LINEAR_CROSS_ENTROPY,
    draw=_drawn,
    sizes={"N": 7, "D": 5, "V": 11},
    source="Lecture A's A-10 after Lecture D's last layer; the fusion is ours",
    hard=hard_losses.LINEAR_CROSS_ENTROPY,
    golden=GOLDEN,
    variants={
        "": {},
        "chunk_equal": {"chunk": 7},
        "chunk_smaller": {"chunk": 3},
        "ignored": {"chunk": 3, "ignore_index": 1},
    },
    stable=reference.stable.stable_linear_cross_entropy,
    batch=Batch({"hidden": 0, "labels": 0}, mean=True),
    sends={"D": {"all-reduce": "N V"}, "V": {"all-reduce": "N D + 2 N + 1"}},
    grows=(("W", 1),),
    op=Op(ops.linear_cross_entropy, Bench(AXES, SMALL, PLAIN, peer=True)),
    bench=Bench(AXES, (*SMALL, (4096, 256, 32000)), PLAIN, quick=(0,), estimated=(2,), peer=True),
    shown=Shown(
        "Losses",
        "Last layer and loss together, without all logits at once",
        r"J = -\frac{1}{N} \sum_i \ln \operatorname{softmax}(h_i W)_{y_i}",
        (
            r"dh = dl \, W^{\top}",
            r"dW = h^{\top} dl",
        ),
        ("A-10",),
    ),
)
ENTRIES = (LINEAR_CROSS_ENTROPY,)
