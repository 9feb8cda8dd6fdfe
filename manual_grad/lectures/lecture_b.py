"""Lecture B: two-layer ReLU networks, one sample, then a batch in columns and in rows."""

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad.catalogue import dense, softmax, two_layer
from manual_grad.catalogue.draw import Draw
from manual_grad.formulas.activations import jac_relu_x, relu_bwd, relu_fwd, relu_prime
from manual_grad.formulas.chain_rule import diagonal
from manual_grad.formulas.dense import dense_columns_fwd
from manual_grad.formulas.softmax import (
    one_hot,
    softmax_cross_entropy_columns_bwd,
    softmax_cross_entropy_columns_fwd,
    softmax_cross_entropy_with_integer_labels_fwd,
    softmax_fwd,
)
from manual_grad.lectures.entries import (
    Claim,
    Equation,
    Erratum,
    gradient,
    jacobian,
    named,
    pulled,
    value,
    value_of,
)
from manual_grad.networks.two_layer import (
    two_layer_cross_entropy_columns_fwd,
    two_layer_cross_entropy_columns_grads,
    two_layer_cross_entropy_fwd,
    two_layer_cross_entropy_grads,
    two_layer_cross_entropy_rows_fwd,
    two_layer_cross_entropy_rows_grads,
    two_layer_squared_loss_fwd,
    two_layer_squared_loss_grads,
)

# The sizes throughout: d = 3 inputs, m = 7 hidden units, c = 5 classes, n = 4 samples.


_squared_loss, _cross_entropy = (
    two_layer.TWO_LAYER_SQUARED_LOSS.inputs,
    two_layer.TWO_LAYER_CROSS_ENTROPY.inputs,
)
_columns = two_layer.TWO_LAYER_CROSS_ENTROPY_COLUMNS.inputs
_rows = two_layer.TWO_LAYER_CROSS_ENTROPY_ROWS.inputs
_one_sample_scores = softmax.CROSS_ENTROPY_OF_SCORES.inputs


def _column_scores(draw: Draw) -> dict:
    return {"S": draw.normal(5, 4), "y": draw.labels(4, 5)}


def _matrix_with_zeros(draw: Draw) -> dict:
    x = np.array(draw.normal(4, 5))
    x[1] = 0
    return {"x": jax.device_put(x)}


def _at_o(W1, b1, W2, b2, x, y):
    return {"o": reference.two_layer.scores(W1, b1, W2, b2, x), "y": y}


def _at_s(W1, b1, W2, b2, x, y):
    return {"s": reference.two_layer.scores(W1, b1, W2, b2, x), "y": y}


def _at_a(W1, b1, W2, b2, x, y):
    return {"a": reference.two_layer.hidden(W1, b1, x)[1], "W2": W2, "b2": b2, "y": y}


def _at_z(W1, b1, W2, b2, x, y):
    return {"z": reference.two_layer.hidden(W1, b1, x)[0], "W2": W2, "b2": b2, "y": y}


def _at_S_columns(W1, b1, W2, b2, X, y):
    return {"S": reference.two_layer.scores_columns(W1, b1, W2, b2, X), "y": y}


def _at_A_columns(W1, b1, W2, b2, X, y):
    return {"A": reference.two_layer.hidden_columns(W1, b1, X)[1], "W2": W2, "b2": b2, "y": y}


def _at_Z_columns(W1, b1, W2, b2, X, y):
    return {"Z": reference.two_layer.hidden_columns(W1, b1, X)[0], "W2": W2, "b2": b2, "y": y}


def _at_S_rows(W1, b1, W2, b2, X, y):
    return {"S": reference.two_layer.scores_rows(W1, b1, W2, b2, X), "y": y}


def _at_A_rows(W1, b1, W2, b2, X, y):
    return {"A": reference.two_layer.hidden_rows(W1, b1, X)[1], "W2": W2, "b2": b2, "y": y}


def _at_Z_rows(W1, b1, W2, b2, X, y):
    return {"Z": reference.two_layer.hidden_rows(W1, b1, X)[0], "W2": W2, "b2": b2, "y": y}


def _p_minus_one_hot(s, y):
    return softmax_fwd(s)[0] - one_hot(y, s.shape[-1], s.dtype)


def _columns_with_one_hot(dJ, S, y):
    Y = one_hot(y, len(S), S.dtype).T
    return softmax_cross_entropy_columns_bwd(softmax_cross_entropy_columns_fwd(S, Y)[1], dJ)[0]


def _rows_through_columns_fwd(W1, b1, W2, b2, X, y):
    return two_layer_cross_entropy_columns_fwd(W1.T, b1, W2.T, b2, X.T, y)


def _rows_through_columns_grads(res, dJ):
    return {name: g.T for name, g in two_layer_cross_entropy_columns_grads(res, dJ).items()}


_SQUARED_LOSS_GRADS = {
    "two_layer_squared_loss_grads": named(two_layer_squared_loss_fwd, two_layer_squared_loss_grads)
}
_CROSS_ENTROPY_GRADS = {
    "two_layer_cross_entropy_grads": named(two_layer_cross_entropy_fwd, two_layer_cross_entropy_grads)
}
_COLUMNS_GRADS = {
    "two_layer_cross_entropy_columns_grads": named(
        two_layer_cross_entropy_columns_fwd, two_layer_cross_entropy_columns_grads
    )
}
_ROWS_GRADS = {
    "two_layer_cross_entropy_rows_grads": named(
        two_layer_cross_entropy_rows_fwd, two_layer_cross_entropy_rows_grads
    )
}
_ROWS_THROUGH_COLUMNS = {
    "two_layer_cross_entropy_columns_grads, transposed": named(
        _rows_through_columns_fwd, _rows_through_columns_grads
    )
}


def _b_e1_as_printed(dJ, s, y):
    """∂J/∂s_k = p_k if k = y, p_k − 1 otherwise."""
    p = softmax_fwd(s)[0]
    return dJ * jnp.where(jnp.arange(len(s)) == y, p, p - 1)


def _b_e2_as_printed(dJ, **inputs):
    """∂J/∂b² = δ² and ∂J/∂b¹ = δ¹, without the sum over the batch."""
    grads = two_layer_cross_entropy_columns_grads(two_layer_cross_entropy_columns_fwd(**inputs)[1], dJ)
    return {"b2": grads["dS"], "b1": grads["dZ"]}


def _b_e3_as_printed(A, W2, b2):
    """S = W² A + b² 1_mᵀ, with a one for each of the m hidden units."""
    m = W2.shape[1]
    return W2 @ A + jnp.outer(b2, jnp.ones(m, b2.dtype))


TITLE = "Two-layer ReLU networks"
EQUATIONS = (
    Equation(
        tag="B-01",
        title="multivariate chain rule: a sum over the intermediate functions",
        section="page 1",
        printed=(
            r"\frac{\partial J}{\partial \theta_i} = \sum_{j=1}^{k} \frac{\partial J}{\partial g_j} "
            r"\frac{\partial g_j}{\partial \theta_i}"
        ),
        note=(
            "The line above it on the page introduces J as a function of θ_1 … θ_k and each g_i as a "
            "function of θ_1 … θ_p; the rule needs J = J(g_1, …, g_k), and that is how it is read here."
        ),
        claims=(
            jacobian("jac_quadratic_map_theta", polynomial=True, says="∂g/∂θ of any g up to second order"),
            jacobian("jac_chain_theta", polynomial=True, says="∂J/∂g times ∂g/∂θ"),
        ),
    ),
    Equation(
        tag="B-02",
        title="forward pass with one output and half the squared error",
        section="page 1",
        printed=(
            r"z = W^{(1)} x + b^{(1)}, \quad a = \operatorname{ReLU}(z), \quad o = W^{(2)} a + b^{(2)}, "
            r"\quad J = \frac{1}{2} (y - o)^2"
        ),
        claims=(
            Claim(
                "value",
                reference.activations.relu,
                ("a",),
                _matrix_with_zeros,
                {"relu_fwd": value_of(relu_fwd)},
                says="ReLU",
                polynomial=True,
            ),
            value(two_layer.TWO_LAYER_SQUARED_LOSS, "J"),
            gradient(
                two_layer.TWO_LAYER_SQUARED_LOSS, says="with respect to every input", also=_SQUARED_LOSS_GRADS
            ),
        ),
    ),
    Equation(
        tag="B-03",
        title="squared error w.r.t. the output weights: (o − y) aᵀ",
        section="page 1",
        printed=r"\frac{\partial J}{\partial W^{(2)}} = (o - y) \cdot a^{\top}",
        claims=(gradient(two_layer.TWO_LAYER_SQUARED_LOSS, "W2", also=_SQUARED_LOSS_GRADS),),
    ),
    Equation(
        tag="B-04",
        title="squared error w.r.t. the output bias: o − y",
        section="page 1",
        printed=(
            r"\frac{\partial J}{\partial b^{(2)}} = \frac{\partial J}{\partial o} \cdot \frac{\partial "
            r"o}{\partial b^{(2)}} = (o - y) \in \mathbb{R}"
        ),
        claims=(
            Claim(
                "gradient",
                reference.two_layer.squared_loss_of_o,
                ("o",),
                _squared_loss,
                _SQUARED_LOSS_GRADS,
                at=_at_o,
                says="∂J/∂o",
                polynomial=True,
            ),
            gradient(two_layer.TWO_LAYER_SQUARED_LOSS, "b2", says="∂J/∂b²", also=_SQUARED_LOSS_GRADS),
        ),
    ),
    Equation(
        tag="B-05",
        title="squared error w.r.t. the hidden activations: W²ᵀ (o − y)",
        section="page 2",
        printed=r"\frac{\partial J}{\partial a} = W^{(2)\top} \cdot (o - y)",
        claims=(
            Claim(
                "gradient",
                reference.two_layer.squared_loss_of_a,
                ("a",),
                _squared_loss,
                _SQUARED_LOSS_GRADS,
                at=_at_a,
                polynomial=True,
            ),
        ),
    ),
    Equation(
        tag="B-06",
        title="back through ReLU: keep the entries where z > 0",
        section="page 2",
        printed=(
            r"\frac{\partial J}{\partial z} = \frac{\partial J}{\partial a} \odot "
            r"\operatorname{ReLU}'(z), \quad \operatorname{ReLU}'(z_i) = \mathbb{1}\{z_i > 0\}"
        ),
        claims=(
            Claim(
                "gradient",
                reference.activations.relu,
                ("x",),
                _matrix_with_zeros,
                {"relu_bwd": pulled(relu_fwd, relu_bwd)},
                says="any cotangent, zeros included",
                polynomial=True,
            ),
            Claim(
                "jacobian",
                reference.activations.relu,
                ("x",),
                _matrix_with_zeros,
                {"jac_relu_x": jac_relu_x, "diagonal of relu_prime": lambda x: diagonal(relu_prime(x))},
                says="∂a/∂z, zeros included",
                polynomial=True,
            ),
            Claim(
                "gradient",
                reference.two_layer.squared_loss_of_z,
                ("z",),
                _squared_loss,
                _SQUARED_LOSS_GRADS,
                at=_at_z,
                says="∂J/∂z",
                polynomial=True,
            ),
        ),
    ),
    Equation(
        tag="B-07",
        title="w.r.t. the first weights: (∂J/∂z) xᵀ, an outer product",
        section="page 2",
        printed=r"\frac{\partial J}{\partial W^{(1)}} = \frac{\partial J}{\partial z} \cdot x^{\top}",
        claims=(gradient(two_layer.TWO_LAYER_SQUARED_LOSS, "W1", also=_SQUARED_LOSS_GRADS),),
    ),
    Equation(
        tag="B-08",
        title="w.r.t. the first bias: the same as w.r.t. z",
        section="page 2",
        printed=(
            r"\frac{\partial J}{\partial b_i^{(1)}} = \frac{\partial J}{\partial z_i} \cdot "
            r"\frac{\partial z_i}{\partial b_i^{(1)}} = \frac{\partial J}{\partial z_i} \quad "
            r"\Rightarrow \quad \frac{\partial J}{\partial b^{(1)}} = \frac{\partial J}{\partial z}"
        ),
        claims=(
            gradient(two_layer.TWO_LAYER_SQUARED_LOSS, "b1", also=_SQUARED_LOSS_GRADS),
            jacobian(
                "jac_two_layer_squared_loss",
                polynomial=True,
                says="B-03 to B-08 as products of the Jacobians",
            ),
        ),
    ),
    Equation(
        tag="B-09",
        title="forward pass with c scores and softmax cross-entropy",
        section="page 3",
        printed=(
            r"s = W^{(2)} a + b^{(2)}, \quad J = -\log \left( \frac{e^{s_y}}{\sum_{j=1}^{c} e^{s_j}} "
            r"\right)"
        ),
        note="The page ends the line with −log(p_k); the true class is meant, −log(p_y).",
        claims=(
            value(softmax.CROSS_ENTROPY_OF_SCORES, "J", says="from the scores"),
            value(two_layer.TWO_LAYER_CROSS_ENTROPY, "J", says="the whole network"),
            gradient(
                two_layer.TWO_LAYER_CROSS_ENTROPY,
                says="with respect to every input",
                also=_CROSS_ENTROPY_GRADS,
            ),
        ),
    ),
    Equation(
        tag="B-10",
        title="cross-entropy w.r.t. the scores: p, minus 1 at the true class",
        section="page 3",
        printed=(
            r"\frac{\partial J}{\partial s_k} = \begin{cases} p_k & k = y \\ p_k - 1 & k \neq y "
            r"\end{cases}"
        ),
        corrected=(
            r"\frac{\partial J}{\partial s_k} = p_k - \mathbb{1}\{k = y\} = \begin{cases} p_k - 1 & k = "
            r"y \\ p_k & k \neq y \end{cases}"
        ),
        claims=(
            gradient(softmax.CROSS_ENTROPY_OF_SCORES),
            Claim(
                "jacobian",
                reference.softmax.cross_entropy_of_scores,
                ("s",),
                _one_sample_scores,
                {"softmax_fwd − one_hot": _p_minus_one_hot},
                says="p − 1{k = y}, written out",
            ),
            Claim(
                "gradient",
                reference.two_layer.cross_entropy_of_s,
                ("s",),
                _cross_entropy,
                _CROSS_ENTROPY_GRADS,
                at=_at_s,
                says="inside the network",
            ),
        ),
    ),
    Equation(
        tag="B-11",
        title="w.r.t. the output weights, output bias and hidden activations",
        section="pages 3 and 4",
        printed=(
            r"\frac{\partial J}{\partial W^{(2)}} = \frac{\partial J}{\partial s} \cdot a^{\top}, \quad "
            r"\frac{\partial J}{\partial b^{(2)}} = \frac{\partial J}{\partial s}, \quad \frac{\partial "
            r"J}{\partial a} = W^{(2)\top} \cdot \frac{\partial J}{\partial s}"
        ),
        claims=(
            gradient(
                two_layer.TWO_LAYER_CROSS_ENTROPY,
                "W2",
                "b2",
                says="∂J/∂W² and ∂J/∂b²",
                also=_CROSS_ENTROPY_GRADS,
            ),
            Claim(
                "gradient",
                reference.two_layer.cross_entropy_of_a,
                ("a",),
                _cross_entropy,
                _CROSS_ENTROPY_GRADS,
                at=_at_a,
                says="∂J/∂a",
            ),
        ),
    ),
    Equation(
        tag="B-12",
        title="Algorithm 3 for one sample: two deltas, four gradients",
        section="page 4, Algorithm 3",
        printed=(
            r"\begin{array}{l} \delta^{(2)} = \frac{\partial J}{\partial s}, \quad \delta^{(1)} = "
            r"\left( W^{(2)\top} \cdot \frac{\partial J}{\partial s} \right) \odot "
            r"\operatorname{ReLU}'(z) \\ \frac{\partial J}{\partial W^{(2)}} = \delta^{(2)} a^{\top}, "
            r"\quad \frac{\partial J}{\partial b^{(2)}} = \delta^{(2)}, \quad \frac{\partial "
            r"J}{\partial W^{(1)}} = \delta^{(1)} x^{\top}, \quad \frac{\partial J}{\partial b^{(1)}} = "
            r"\delta^{(1)} \end{array}"
        ),
        claims=(
            Claim(
                "gradient",
                reference.two_layer.cross_entropy_of_s,
                ("s",),
                _cross_entropy,
                _CROSS_ENTROPY_GRADS,
                at=_at_s,
                says="δ²",
            ),
            Claim(
                "gradient",
                reference.two_layer.cross_entropy_of_z,
                ("z",),
                _cross_entropy,
                _CROSS_ENTROPY_GRADS,
                at=_at_z,
                says="δ¹",
            ),
            gradient(
                two_layer.TWO_LAYER_CROSS_ENTROPY,
                "W2",
                "b2",
                "W1",
                "b1",
                says="the four gradients",
                also=_CROSS_ENTROPY_GRADS,
            ),
            jacobian("jac_two_layer_cross_entropy", says="the four gradients as products of the Jacobians"),
        ),
    ),
    Equation(
        tag="B-13",
        title="forward pass over a batch, one sample per column",
        section="page 5",
        printed=(
            r"\begin{array}{l} Z = W^{(1)} X + b^{(1)} \mathbf{1}_m^{\top}, \quad A = "
            r"\operatorname{ReLU}(Z), \quad S = W^{(2)} A + b^{(2)} \mathbf{1}_m^{\top} \\ J = "
            r"-\frac{1}{n} \sum_{i=1}^{n} \log(p_{y^{(i)}}) \end{array}"
        ),
        corrected=(
            r"\begin{array}{l} Z = W^{(1)} X + b^{(1)} \mathbf{1}_n^{\top}, \quad A = "
            r"\operatorname{ReLU}(Z), \quad S = W^{(2)} A + b^{(2)} \mathbf{1}_n^{\top} \\ J = "
            r"-\frac{1}{n} \sum_{i=1}^{n} \log(p_{y^{(i)}}) \end{array}"
        ),
        note=(
            "The page writes 1_m and means one entry per sample (B-E3): the label under it reads 1×n in "
            "the line for Z, though 1×m in the line for S. A = ReLU(Z) is not written out for the "
            "batch; only the shape of A is given."
        ),
        claims=(
            value(dense.DENSE_COLUMNS, "Z", says="one layer"),
            Claim(
                "value",
                reference.two_layer.cross_entropy_of_S_columns,
                ("J",),
                _column_scores,
                {
                    "softmax_cross_entropy_with_integer_labels_fwd": (
                        lambda S, y: softmax_cross_entropy_with_integer_labels_fwd(S.T, y)[0]
                    )
                },
                says="from the scores",
            ),
            value(two_layer.TWO_LAYER_CROSS_ENTROPY_COLUMNS, "J", says="the whole network"),
            gradient(
                two_layer.TWO_LAYER_CROSS_ENTROPY_COLUMNS,
                says="with respect to every input",
                also=_COLUMNS_GRADS,
            ),
        ),
    ),
    Equation(
        tag="B-14",
        title="batch cross-entropy w.r.t. the scores: (P − Y)/n",
        section="page 5",
        printed=(
            r"\frac{\partial J}{\partial S_{ij}} = \begin{cases} \frac{p_j}{n} & j \neq y^{(i)} \\ "
            r"\frac{p_j - 1}{n} & j = y^{(i)} \end{cases}"
        ),
        corrected=(
            r"\frac{\partial J}{\partial S_{ji}} = \begin{cases} \frac{p_j^{(i)}}{n} & j \neq y^{(i)} "
            r"\\ \frac{p_j^{(i)} - 1}{n} & j = y^{(i)} \end{cases}, \quad \frac{\partial J}{\partial S} "
            r"= \frac{1}{n} (P - Y)"
        ),
        note=(
            "The values are right: the cases are not swapped as they are in B-10. Only the indices are "
            "loose: i counts samples and j classes, so with one sample per column the entry is S_ji; read "
            "as S_ij, the matrix comes out transposed. The page does not print the matrix form (P − "
            "Y)/n, which is c×n."
        ),
        claims=(
            Claim(
                "gradient",
                reference.two_layer.cross_entropy_of_S_columns,
                ("S",),
                _columns,
                _COLUMNS_GRADS,
                at=_at_S_columns,
                says="inside the network",
            ),
            Claim(
                "gradient",
                reference.two_layer.cross_entropy_of_S_columns,
                ("S",),
                _column_scores,
                {"softmax_cross_entropy_columns_bwd": _columns_with_one_hot},
                says="with one-hot labels",
            ),
            Claim(
                "jacobian",
                reference.two_layer.cross_entropy_of_S_columns,
                ("S",),
                _column_scores,
                {"softmax_fwd − one_hot": lambda S, y: _p_minus_one_hot(S.T, y).T / len(y)},
                says="(P − Y)/n, written out",
            ),
            gradient(softmax.SOFTMAX_CROSS_ENTROPY_WITH_INTEGER_LABELS, says="one sample per row"),
        ),
    ),
    Equation(
        tag="B-15",
        title="backward pass over a batch, one sample per column",
        section="page 6",
        printed=(
            r"\begin{array}{l} \frac{\partial J}{\partial W^{(1)}} = \frac{\partial J}{\partial Z} "
            r"\cdot X^{\top}, \quad \frac{\partial J}{\partial A} = W^{(2)\top} \cdot \frac{\partial "
            r"J}{\partial S}, \quad \frac{\partial J}{\partial W^{(2)}} = \frac{\partial J}{\partial S} "
            r"\cdot A^{\top} \\ \frac{\partial J}{\partial b^{(2)}} = \frac{\partial J}{\partial S} "
            r"\cdot \mathbf{1}_m, \quad \frac{\partial J}{\partial b^{(1)}} = \frac{\partial J}{\partial "
            r"Z} \cdot \mathbf{1}_m, \quad \frac{\partial J}{\partial Z} = \frac{\partial J}{\partial A} "
            r"\odot \operatorname{ReLU}'(Z) \end{array}"
        ),
        corrected=(
            r"\begin{array}{l} \frac{\partial J}{\partial W^{(1)}} = \frac{\partial J}{\partial Z} "
            r"\cdot X^{\top}, \quad \frac{\partial J}{\partial A} = W^{(2)\top} \cdot \frac{\partial "
            r"J}{\partial S}, \quad \frac{\partial J}{\partial W^{(2)}} = \frac{\partial J}{\partial S} "
            r"\cdot A^{\top} \\ \frac{\partial J}{\partial b^{(2)}} = \frac{\partial J}{\partial S} "
            r"\cdot \mathbf{1}_n, \quad \frac{\partial J}{\partial b^{(1)}} = \frac{\partial J}{\partial "
            r"Z} \cdot \mathbf{1}_n, \quad \frac{\partial J}{\partial Z} = \frac{\partial J}{\partial A} "
            r"\odot \operatorname{ReLU}'(Z) \end{array}"
        ),
        note=(
            "The page writes 1_m for 1_n (B-E3). These lines do sum the bias gradients over the batch; "
            "Algorithm 3, further down the page, does not (B-E2). The line for ∂J/∂Z is from Algorithm 3."
        ),
        claims=(
            gradient(
                two_layer.TWO_LAYER_CROSS_ENTROPY_COLUMNS,
                "W2",
                "b2",
                "W1",
                "b1",
                says="the four parameters",
                also=_COLUMNS_GRADS,
            ),
            Claim(
                "gradient",
                reference.two_layer.cross_entropy_of_A_columns,
                ("A",),
                _columns,
                _COLUMNS_GRADS,
                at=_at_A_columns,
                says="∂J/∂A",
            ),
            Claim(
                "gradient",
                reference.two_layer.cross_entropy_of_Z_columns,
                ("Z",),
                _columns,
                _COLUMNS_GRADS,
                at=_at_Z_columns,
                says="∂J/∂Z",
            ),
            gradient(dense.DENSE_COLUMNS, says="one layer, any cotangent"),
        ),
    ),
    Equation(
        tag="B-16",
        title="forward and backward over a batch, one sample per row",
        section="page 7, In practice",
        printed=(
            r"\begin{array}{l} Z = X W^{[1]} + \mathbf{1}_m \cdot b^{[1]}, \quad S = A W^{[2]} + "
            r"\mathbf{1}_m \cdot b^{[2]} \\ \frac{\partial J}{\partial W^{[1]}} = X^{\top} \cdot "
            r"\frac{\partial J}{\partial Z}, \quad \frac{\partial J}{\partial Z} = \frac{\partial "
            r"J}{\partial A} \odot \operatorname{ReLU}'(Z), \quad \frac{\partial J}{\partial A} = "
            r"\frac{\partial J}{\partial S} \cdot W^{[2]\top} \\ \frac{\partial J}{\partial b^{[2]}} = "
            r"\mathbf{1}_m \cdot \frac{\partial J}{\partial S}, \quad \frac{\partial J}{\partial W^{[2]}} "
            r"= A^{\top} \cdot \frac{\partial J}{\partial S}, \quad \frac{\partial J}{\partial b^{[1]}} = "
            r"\mathbf{1}_m \cdot \frac{\partial J}{\partial Z} \end{array}"
        ),
        corrected=(
            r"\begin{array}{l} Z = X W^{[1]} + \mathbf{1}_n \cdot b^{[1]}, \quad S = A W^{[2]} + "
            r"\mathbf{1}_n \cdot b^{[2]} \\ \frac{\partial J}{\partial W^{[1]}} = X^{\top} \cdot "
            r"\frac{\partial J}{\partial Z}, \quad \frac{\partial J}{\partial Z} = \frac{\partial "
            r"J}{\partial A} \odot \operatorname{ReLU}'(Z), \quad \frac{\partial J}{\partial A} = "
            r"\frac{\partial J}{\partial S} \cdot W^{[2]\top} \\ \frac{\partial J}{\partial b^{[2]}} = "
            r"\mathbf{1}_n^{\top} \cdot \frac{\partial J}{\partial S}, \quad \frac{\partial J}{\partial "
            r"W^{[2]}} = A^{\top} \cdot \frac{\partial J}{\partial S}, \quad \frac{\partial J}{\partial "
            r"b^{[1]}} = \mathbf{1}_n^{\top} \cdot \frac{\partial J}{\partial Z} \end{array}"
        ),
        note=(
            "The bias gradients are printed as 1_m · ∂J/∂S and 1_m · ∂J/∂Z, without a transpose, though "
            "the shape under 1_m is 1×m, a row: 1ᵀ is meant. Here m is the batch size as well as the "
            "hidden width (B-E3). A = ReLU(Z) is not written out."
        ),
        claims=(
            value(dense.DENSE_ROWS, "Z", says="one layer"),
            gradient(dense.DENSE_ROWS, says="one layer, any cotangent"),
            Claim(
                "value",
                reference.two_layer.two_layer_cross_entropy_rows,
                ("J",),
                _rows,
                {
                    "two_layer_cross_entropy_rows_fwd": value_of(two_layer_cross_entropy_rows_fwd),
                    "two_layer_cross_entropy_columns_fwd, transposed": value_of(_rows_through_columns_fwd),
                },
                says="the whole network, and columns transposed",
            ),
            gradient(
                two_layer.TWO_LAYER_CROSS_ENTROPY_ROWS,
                says="with respect to every input, and columns transposed",
                also=_ROWS_GRADS | _ROWS_THROUGH_COLUMNS,
            ),
            Claim(
                "gradient",
                reference.two_layer.cross_entropy_of_S_rows,
                ("S",),
                _rows,
                _ROWS_GRADS | _ROWS_THROUGH_COLUMNS,
                at=_at_S_rows,
                says="∂J/∂S",
            ),
            Claim(
                "gradient",
                reference.two_layer.cross_entropy_of_A_rows,
                ("A",),
                _rows,
                _ROWS_GRADS | _ROWS_THROUGH_COLUMNS,
                at=_at_A_rows,
                says="∂J/∂A",
            ),
            Claim(
                "gradient",
                reference.two_layer.cross_entropy_of_Z_rows,
                ("Z",),
                _rows,
                _ROWS_GRADS | _ROWS_THROUGH_COLUMNS,
                at=_at_Z_rows,
                says="∂J/∂Z",
            ),
        ),
    ),
)

ERRATA = (
    Erratum(
        tag="B-E1",
        title="the two cases of ∂J/∂s_k are swapped",
        section="page 3",
        printed=(
            r"\frac{\partial J}{\partial s_k} = \begin{cases} p_k & k = y \\ p_k - 1 & k \neq y "
            r"\end{cases}"
        ),
        corrected=(
            r"\frac{\partial J}{\partial s_k} = p_k - \mathbb{1}\{k = y\} = \begin{cases} p_k - 1 & k = "
            r"y \\ p_k & k \neq y \end{cases}"
        ),
        corrects="B-10",
        why=(
            "J = log Σ_j exp(s_j) − s_y: the first term gives p_k for every class, the second subtracts "
            "1 at the true one. As printed, a descent step would push the true class down and all "
            "others up, and the entries sum to 2 − c instead of 0. The page itself says “check Typo”."
        ),
        claim=gradient(softmax.CROSS_ENTROPY_OF_SCORES),
        as_printed=_b_e1_as_printed,
    ),
    Erratum(
        tag="B-E2",
        title="batched Algorithm 3: bias gradients not summed over the batch",
        section="page 6, Algorithm 3",
        printed=(
            r"\frac{\partial J}{\partial b^{(2)}} = \delta^{(2)}, \quad \frac{\partial J}{\partial "
            r"b^{(1)}} = \delta^{(1)}"
        ),
        corrected=(
            r"\frac{\partial J}{\partial b^{(2)}} = \delta^{(2)} \mathbf{1}_n, \quad \frac{\partial "
            r"J}{\partial b^{(1)}} = \delta^{(1)} \mathbf{1}_n"
        ),
        corrects="B-15",
        why=(
            "Every sample uses the same bias, so its gradient is the sum over the batch. The printed "
            "right-hand sides are c×n and m×n matrices, while the biases are vectors of c and m entries."
        ),
        claim=gradient(two_layer.TWO_LAYER_CROSS_ENTROPY_COLUMNS, "b2", "b1", also=_COLUMNS_GRADS),
        as_printed=_b_e2_as_printed,
    ),
    Erratum(
        tag="B-E3",
        title="m is printed for n: 1_m for 1_n, S of c×m for c×n",
        section="pages 5 to 7",
        printed=(
            r"Z = W^{(1)} X + b^{(1)} \mathbf{1}_m^{\top}, \quad S = W^{(2)} A + b^{(2)} "
            r"\mathbf{1}_m^{\top} \in \mathbb{R}^{c \times m}"
        ),
        corrected=(
            r"Z = W^{(1)} X + b^{(1)} \mathbf{1}_n^{\top}, \quad S = W^{(2)} A + b^{(2)} "
            r"\mathbf{1}_n^{\top} \in \mathbb{R}^{c \times n}"
        ),
        corrects="B-13",
        why=(
            "The vector of ones copies the bias to every sample, so it has n entries, and S has one "
            "column per sample; m is the hidden width. The part with one sample per row then uses m for "
            "both, so its shapes fit only where the two are equal."
        ),
        note=(
            "The slips are not consistent: page 5 labels Z and A m×n, as it should, and the 1_m in Z as 1×n; "
            "page 6 labels A and ∂J/∂Z m×m. The claim and the printed version here are those for S."
        ),
        claim=Claim(
            "value",
            reference.dense.dense_columns,
            ("S",),
            lambda draw: {"A": draw.normal(7, 4), "W2": draw.normal(5, 7), "b2": draw.normal(5)},
            {"dense_columns_fwd": lambda A, W2, b2: dense_columns_fwd(A, W2, b2)[0]},
            at=lambda A, W2, b2: {"X": A, "W": W2, "b": b2},
            polynomial=True,
        ),
        as_printed=_b_e3_as_printed,
    ),
)
