"""Chapter E: the layers that people write by hand today, beyond the four lectures."""

from manual_grad.catalogue.normalisation import LAYER_NORM
from manual_grad.catalogue.recurrent import RNN
from manual_grad.catalogue.sequences import EMBEDDING
from manual_grad.lectures.entries import Equation, claims_of

TITLE = "The layers of today's networks"
EQUATIONS = (
    Equation(
        tag="E-01",
        title="layer normalisation: dx less its mean, and less x̂ times its mean with x̂",
        section="Ba, Kiros and Hinton 2016, equation 3",
        printed=(
            r"dx = \frac{1}{\sqrt{\sigma^2 + \varepsilon}} \left( \gamma \, dy - \operatorname{mean}(\gamma "
            r"\, dy) - \hat{x} \operatorname{mean}(\gamma \, dy \, \hat{x}) \right)"
        ),
        claims=claims_of(LAYER_NORM),
    ),
    Equation(
        tag="E-09",
        title="embedding: a row of the table gets the sum of the cotangents of all places that look it up",
        section="Bengio et al. 2003, section 2",
        printed=r"dtable_v = \sum_{n: \, ids_n = v} dout_n",
        claims=claims_of(EMBEDDING),
    ),
    Equation(
        tag="E-14",
        title="RNN: dh_t is hs_t's cotangent and what step t + 1 sends back",
        section="Elman 1990; Werbos 1990",
        printed=(
            r"dz_t = (1 - h_t^2) \odot (dh_t^{\text{out}} + dz_{t+1} W_{hh}), \quad "
            r"dW_{hh} = \sum_t dz_t^T h_{t-1}, \quad dW_{ih} = \sum_t dz_t^T x_t"
        ),
        claims=claims_of(RNN),
    ),
)
