"""The other side of the comparison: the lectures' forward functions as printed, and the automatic oracles.

Nothing here is differentiated by hand, and nothing here imports `manual_grad`: what checks a hand-derived
gradient must not share a line of code with it. The functions are as plain as the page (softmax is exp over
sum, with no shift), so they are meant for float64 and moderate inputs.
"""

from manual_grad_reference import (  # noqa: F401  re-exported
    activations,
    attention,
    chain_rule,
    cnn,
    conv2d,
    dense,
    gates,
    gpt,
    linear_algebra,
    linear_cross_entropy,
    losses,
    mlp,
    mse,
    normalisation,
    plain,
    pooling,
    recurrent,
    sequences,
    similarity,
    softmax,
    stable,
    two_layer,
)
