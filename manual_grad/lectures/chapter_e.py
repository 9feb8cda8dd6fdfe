"""Chapter E: the layers that people write by hand today, beyond the four lectures."""

from manual_grad.catalogue import (
    attention,
    convolution,
    gates,
    gpt,
    linear_algebra,
    linear_cross_entropy,
    losses,
    normalisation,
    pooling,
    sequences,
    similarity,
    softmax,
)
from manual_grad.catalogue.entry import Formula
from manual_grad.catalogue.recurrent import GRU, LINEAR_SCAN, LSTM, RNN
from manual_grad.lectures.entries import (
    Claim,
    Equation,
    claims_of,
    equation_of,
    gradient,
    pulled,
    value,
)

TITLE = "The layers of today's networks"


def _ignoring(formula: Formula) -> tuple[Claim, Claim]:
    """A loss with some labels ignored, under a name of its own: each name is mutated in only one claim."""
    again = {f"{formula.name}_bwd, labels ignored": pulled(formula.fwd, formula.bwd)}
    says = f"of {formula.name}"
    return (
        value(formula, "J", says=says, variant="ignored"),
        gradient(formula, says=says, variant="ignored", also=again),
    )


EQUATIONS = (
    equation_of(
        normalisation.LAYER_NORM,
        "E-01",
        "layer normalisation: dx̂ minus its mean, minus x̂ times the mean of dx̂ x̂",
    ),
    equation_of(
        normalisation.RMS_NORM,
        "E-02",
        "RMS normalisation: dx̂ minus x̂ times the mean of dx̂ x̂",
    ),
    equation_of(
        normalisation.GROUP_NORM,
        "E-03",
        "group normalisation: γ stays inside the means over one group of a sample",
    ),
    equation_of(
        normalisation.BATCH_NORM,
        "E-04",
        "batch normalisation: the means are dβ/n and dγ/n",
    ),
    equation_of(gates.GELU, "E-05", "GELU: the derivative is Φ + x Φ′, with erf or tanh"),
    equation_of(gates.SILU, "E-06", "SiLU: the derivative is σ + x σ′"),
    equation_of(
        gates.SWIGLU, "E-07", "SwiGLU: each factor receives the other, the gate times SiLU's derivative"
    ),
    equation_of(
        gates.GEGLU, "E-08", "GEGLU: each factor receives the other, the gate times GELU's derivative"
    ),
    equation_of(
        sequences.EMBEDDING,
        "E-09",
        "embedding: each row of the table receives the sum of the cotangents of its lookups",
    ),
    equation_of(
        sequences.ROPE,
        "E-10",
        "rotary positions: the cotangent is rotated back, since a rotation's transpose is its inverse",
    ),
    equation_of(
        attention.ATTENTION,
        "E-11",
        "attention: softmax's Jacobian row by row; the keys' gradients are sums over queries and heads",
    ),
    equation_of(
        attention.ATTENTION_STREAMING,
        "E-12",
        "attention in chunks: P recomputed from the log-sum-exp, and Σ dP P as a sum over features",
    ),
    equation_of(
        sequences.DROPOUT,
        "E-13",
        "dropout: the same mask and factor again; the mask is an argument",
    ),
    Equation(
        tag="E-14",
        title="RNN: dh_t is the cotangent of hs_t plus what step t + 1 passes back",
        section="Elman 1990; Werbos 1990",
        printed=(
            r"dz_t = (1 - h_t^2) \odot (dh_t^{\text{out}} + dz_{t+1} W_{hh}), \quad "
            r"dW_{hh} = \sum_t dz_t^{\top} h_{t-1}, \quad dW_{ih} = \sum_t dz_t^{\top} x_t"
        ),
        claims=claims_of(RNN),
    ),
    Equation(
        tag="E-15",
        title="GRU: dh_t flows through z, through three gates, and through r to U_n h",
        section="Cho et al. 2014, section 2.3",
        printed=(
            r"d\bar{z} = dh \odot (h_{t-1} - n) \odot z (1 - z), \quad "
            r"d\bar{n} = dh \odot (1 - z) \odot (1 - n^2), \quad "
            r"d\bar{r} = d\bar{n} \odot (h_{t-1} U_n^{\top} + b_{hn}) \odot r (1 - r)"
        ),
        claims=claims_of(GRU),
    ),
    Equation(
        tag="E-16",
        title="LSTM: dc_t collects the cell's gradient through f and that of h_t through o",
        section="Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000",
        printed=(
            r"dc_t = dc_{t+1} \odot f_{t+1} + dh_t \odot o_t \odot (1 - \tanh^2 c_t), \quad "
            r"d\bar{f}_t = dc_t \odot c_{t-1} \odot f_t (1 - f_t)"
        ),
        claims=claims_of(LSTM),
    ),
    Equation(
        tag="E-17",
        title="linear scan: the scan in reverse, with the factor of the next step",
        section="Martin and Cundy 2018, equation 5",
        printed=(
            r"db_t = dh_t^{\text{out}} + a_{t+1} \odot db_{t+1}, \quad da_t = db_t \odot h_{t-1}, \quad "
            r"dh_0 = a_1 \odot db_1"
        ),
        claims=claims_of(LINEAR_SCAN),
    ),
    equation_of(
        sequences.LORA,
        "E-18",
        "low-rank adaptation: two consecutive dense layers in parallel with a frozen one",
    ),
    equation_of(
        pooling.MAX_POOL2D,
        "E-19",
        "maximum pooling: each window's cotangent goes to its first maximum; overlaps add up",
    ),
    equation_of(
        pooling.AVG_POOL2D,
        "E-20",
        "mean pooling: each window's cotangent is spread evenly over its positions, counting padding",
    ),
    equation_of(
        convolution.CONV_TRANSPOSE2D,
        "E-21",
        "transposed convolution: the adjoint of Conv2D, whose forward pass is its dx",
    ),
    equation_of(
        losses.BINARY_CROSS_ENTROPY_WITH_LOGITS, "E-22", "binary cross-entropy with logits: (σ − y)/N"
    ),
    equation_of(losses.KL_DIVERGENCE, "E-23", "KL divergence: p times (log ratio minus its mean), and q − p"),
    equation_of(losses.HUBER, "E-24", "Huber loss: the difference, clipped at ±δ, divided by N"),
    equation_of(
        similarity.L2_NORMALIZE,
        "E-25",
        "L2 normalisation: dy minus its component along x, divided by the length",
    ),
    equation_of(
        similarity.COSINE_SIMILARITY, "E-26", "cosine similarity: the other direction minus s times its own"
    ),
    Equation(
        tag="E-27",
        title="ignored labels: their samples have gradient 0, and the mean is over the others",
        section="PyTorch, CrossEntropyLoss, ignore_index; B-10",
        printed=(
            r"\frac{\partial J}{\partial l_i} = \frac{k_i}{\sum_j k_j} (p_i - 1_{y_i}), \quad "
            r"k_i = 0 \text{ where } y_i \text{ is ignored, else } 1"
        ),
        claims=(
            *_ignoring(softmax.SOFTMAX_CROSS_ENTROPY_WITH_INTEGER_LABELS),
            *_ignoring(linear_cross_entropy.LINEAR_CROSS_ENTROPY),
        ),
    ),
    equation_of(
        linear_algebra.SOLVE,
        "E-28",
        "linear system: dB solves a system with Aᵀ, and dA is −dB Xᵀ",
    ),
    equation_of(
        linear_algebra.INVERSE,
        "E-29",
        "inverse: dA is minus dY between two transposed inverses",
    ),
    equation_of(
        linear_algebra.LOGDET,
        "E-30",
        "log-determinant: its gradient is the transposed inverse",
    ),
    equation_of(
        linear_algebra.CHOLESKY,
        "E-31",
        "Cholesky factor: Φ takes the lower triangle, with half its diagonal",
    ),
    equation_of(
        gpt.GPT,
        "E-32",
        "GPT: the formulas in reverse; cotangents add up at residual connections, wpe and wte",
    ),
)
