"""The other side of the comparison: the lectures' forward functions as printed, and the automatic oracles.

Nothing here is differentiated by hand, and nothing here imports `manual_grad`: what judges a hand-derived
gradient must not share a line of code with it. The functions are as plain as the page (softmax is exp over
sum, with no shift), so they are meant for float64 and moderate inputs.
"""

from manual_grad_reference import (
    activations as activations,
)
from manual_grad_reference import (
    chain_rule as chain_rule,
)
from manual_grad_reference import (
    cnn as cnn,
)
from manual_grad_reference import (
    conv2d as conv2d,
)
from manual_grad_reference import (
    dense as dense,
)
from manual_grad_reference import (
    linear_cross_entropy as linear_cross_entropy,
)
from manual_grad_reference import (
    mlp as mlp,
)
from manual_grad_reference import (
    mse as mse,
)
from manual_grad_reference import (
    normalisation as normalisation,
)
from manual_grad_reference import (
    plain as plain,
)
from manual_grad_reference import (
    softmax as softmax,
)
from manual_grad_reference import (
    stable as stable,
)
from manual_grad_reference import (
    two_layer as two_layer,
)
