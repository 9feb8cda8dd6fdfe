"""The last linear layer and softmax cross-entropy as one, in chunks of samples."""

import manual_grad_reference as reference
from manual_grad.catalogue.entry import Batch, Formula, integers_below, normal
from manual_grad.kernels.linear_cross_entropy import linear_cross_entropy_bwd, linear_cross_entropy_fwd

LINEAR_CROSS_ENTROPY = Formula(
    linear_cross_entropy_fwd,
    linear_cross_entropy_bwd,
    reference.linear_cross_entropy.linear_cross_entropy,
    draw={"hidden": normal, "W": normal, "labels": integers_below("V")},
    sizes={"N": 7, "D": 5, "V": 11},
    source="Lecture A's A-10 after Lecture D's last layer; the fusion is ours",
    variants={"": {}, "chunk_equal": {"chunk": 7}, "chunk_smaller": {"chunk": 3}},
    stable=reference.stable.stable_linear_cross_entropy,
    batch=Batch({"hidden": 0, "labels": 0}, mean=True),
    grows=(("W", 1),),
)
ENTRIES = (LINEAR_CROSS_ENTROPY,)
