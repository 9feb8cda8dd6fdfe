"""The last linear layer and softmax cross-entropy as one, in chunks of samples."""

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue.entry import Batch, Bench, Formula, Op, Shown, integers_below, normal, scaled_by
from manual_grad.kernels.linear_cross_entropy import linear_cross_entropy_bwd, linear_cross_entropy_fwd

AXES, SMALL = ("N", "D", "V"), ((32, 16, 50), (512, 256, 32000))
PLAIN = reference.plain.linear_cross_entropy
LINEAR_CROSS_ENTROPY = Formula(
    linear_cross_entropy_fwd,
    linear_cross_entropy_bwd,
    reference.linear_cross_entropy.linear_cross_entropy,
    draw={"hidden": normal, "W": scaled_by("D"), "labels": integers_below("V")},
    sizes={"N": 7, "D": 5, "V": 11},
    source="Lecture A's A-10 after Lecture D's last layer; the fusion is ours",
    variants={"": {}, "chunk_equal": {"chunk": 7}, "chunk_smaller": {"chunk": 3}},
    stable=reference.stable.stable_linear_cross_entropy,
    batch=Batch({"hidden": 0, "labels": 0}, mean=True),
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
