"""Lecture D: the five-layer MNIST network, one sample per column."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad.catalogue import dense
from manual_grad.catalogue.draw import Draw
from manual_grad.compiling import quickly
from manual_grad.digits import load_digits_28
from manual_grad.formulas.activations import relu_bwd
from manual_grad.formulas.dense import (
    dense_columns_fwd,
    jac_dense_columns_W_factors,
    jac_dense_columns_X_factors,
    jac_dense_rows_W,
    jac_dense_rows_X,
)
from manual_grad.formulas.softmax import (
    cross_entropy_bwd,
    cross_entropy_fwd,
    jac_cross_entropy_probs,
    jac_softmax_logits,
    jac_softmax_logits_blocks,
    softmax_bwd,
    softmax_cross_entropy_columns_bwd,
    softmax_cross_entropy_columns_fwd,
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
    value_of,
)
from manual_grad.networks.mlp import (
    five_layer_bwd,
    five_layer_fwd,
    five_layer_grads,
    flatten_columns_bwd,
    flatten_columns_fwd,
    gradient_descent,
    mlp_columns_bwd,
    mlp_columns_fwd,
    mlp_rows_bwd,
    mlp_rows_fwd,
    one_hot_columns,
)

_WIDTHS = (784, 128, 50, 50, 25, 10)
_SMALL_WIDTHS = {"integers": (9, 8, 7, 6, 5, 10), "tiny": (2, 3, 2, 2, 3, 3), "square": (4,) * 6}
_GRADS = named(five_layer_fwd, five_layer_grads)
_forward = quickly(reference.mlp.five_layer_scores)
_softmax = quickly(reference.softmax.softmax_columns)


def _digits(draw: Draw, m: int = 12) -> dict:
    if draw.style != "real":
        return {"images": draw.exactly(3, 4, 5), "labels": jnp.asarray(draw.rng.integers(0, 10, 3))}
    images, labels = load_digits_28()
    chosen = draw.rng.choice(len(images), m, replace=False)
    return {"images": jnp.asarray(images[chosen], draw.dtype), "labels": jnp.asarray(labels[chosen])}


def _network(draw: Draw, m: int = 12) -> dict:
    if draw.style != "real":
        return _small_network(draw, 2 if draw.style == "tiny" else 4)
    digits = _digits(draw, m)
    Y = jnp.asarray(np.eye(10)[:, digits["labels"]], draw.dtype)
    X = jax.device_put(np.asarray(digits["images"]).reshape(m, 784).T)
    return {"params": draw.layers(*_WIDTHS, rows=False, X=X), "X": X, "Y": Y}


def _network_in_rows(draw: Draw) -> dict:
    network = _network(draw)
    return {"params": [(_turned(W), b) for W, b in network["params"]], "X": _turned(network["X"])}


def _turned(matrix: jax.Array) -> jax.Array:
    """The transpose, by NumPy, which compiles nothing."""
    return jax.device_put(np.asarray(matrix).T)


def _small_network(draw: Draw, m: int) -> dict:
    """Five narrow layers with random inputs: digits are neither uniformly distributed nor integers."""
    widths = _SMALL_WIDTHS[draw.style]
    pairs = [(draw.exactly(fan_out, fan_in), draw.exactly(fan_out)) for fan_in, fan_out in pairwise(widths)]
    Y = jnp.asarray(np.eye(widths[-1])[:, draw.rng.integers(0, widths[-1], m)], draw.dtype)
    return {"params": pairs, "X": draw.exactly(widths[0], m), "Y": Y}


def _network_and_rate(draw: Draw, m: int = 12) -> dict:
    return {**_network(draw, m), "learning_rate": 0.1}


def _scores(draw: Draw, m: int = 12) -> dict:
    network = _network(draw, m)
    return {"Z": jnp.asarray(_forward(network["params"], network["X"])), "Y": network["Y"]}


def _scores_alone(draw: Draw) -> dict:
    return {"Z": _scores(draw)["Z"]}


def _probs(draw: Draw, m: int = 12) -> dict:
    scores = _scores(draw, m)
    return {"A": jnp.asarray(_softmax(scores["Z"])), "Y": scores["Y"]}


def _one_sample(draw: Draw) -> dict:
    return {"logits": draw.normal(1, 10), "labels": draw.one_hot(1, 10)}


def _first_layer(draw: Draw) -> dict:
    network = _network(draw)
    W, b = network["params"][0]
    return {"X": network["X"], "W": W, "b": b}


def _layer_5(params, X, Y):
    """The arguments of ``loss_of_layer_5``."""
    W5, b5 = params[4]
    A4 = reference.activations.relu(reference.mlp.mlp_columns(params[:4], X))
    return {"W5": W5, "b5": b5, "A4": A4, "Y": Y}


def _every_hidden(params, X, Y):
    """The arguments of ``loss_by_each``."""
    Zs = {l: reference.mlp.mlp_columns(params[:l], X) for l in (4, 3, 2, 1)}
    As = {f"A{l}": reference.activations.relu(Z) for l, Z in Zs.items()}
    return {"params": params, "Y": Y, **As, **{f"Z{l}": Z for l, Z in Zs.items()}}


def _layer_claim(l: int, **more_formulas) -> Claim:
    """The claim about dZ_l: the loss as a function of that layer's Z."""
    return Claim(
        "gradient",
        reference.mlp.five_layer_from_z,
        ("Z",),
        _network,
        {"five_layer_grads": lambda dL, **inputs: _GRADS(dL, **inputs)[f"Z{l}"], **more_formulas},
        at=lambda params, X, Y: {
            "params_after": params[l:],
            "Z": reference.mlp.mlp_columns(params[:l], X),
            "Y": Y,
        },
        says=f"dZ{l}",
    )


def _output(params, X):
    """A4 and A5 by hand."""
    Z5, layers = mlp_columns_fwd(params, X)
    return layers.As[4], softmax_fwd(Z5.T)[0].T


def _error_over_m(dL, params, X, Y):
    """(A5 − Y)/m."""
    return dL * (_output(params, X)[1] - Y) / X.shape[1]


def _error_over_m_by_A4(dL, params, X, Y):
    """(1/m)(A5 − Y) A4ᵀ."""
    A4, A5 = _output(params, X)
    return dL / X.shape[1] * (A5 - Y) @ A4.T


def _error_over_m_by_ones(dL, params, X, Y):
    """(1/m)(A5 − Y) 1."""
    m = X.shape[1]
    return dL / m * (_output(params, X)[1] - Y) @ jnp.ones(m, X.dtype)


def _diagonal_less_outer(logits):
    """diag(a) − a aᵀ."""
    a = softmax_fwd(logits)[0]
    return jnp.diag(a) - jnp.outer(a, a)


def _jacobians_multiplied(logits, labels):
    dL_dA5 = jac_cross_entropy_probs(softmax_fwd(logits)[0], labels)
    return jnp.tensordot(dL_dA5, jac_softmax_logits(logits), axes=2)


def _block_times_dA5(logits, labels):
    """In the notes' order, which is equally right because the Jacobian is symmetric."""
    return (jac_softmax_logits_blocks(logits)[0] @ (-labels / softmax_fwd(logits)[0])[0])[None]


def _row_by_row(logits, labels):
    """−y_i (1 − a_i) + a_i Σ_{k≠i} y_k, each row as the notes write it out."""
    a, y = softmax_fwd(logits)[0][0], labels[0]
    return jnp.stack([-y[i] * (1 - a[i]) + a[i] * (y.sum() - y[i]) for i in range(len(a))])[None]


def _by_kronecker(dZ, X, W, b):
    """vec(dZ)ᵀ (Xᵀ ⊗ I) and vec(dZ)ᵀ (I ⊗ W), with vec stacking columns, as matrices again."""
    vec = dZ.T.ravel()
    dW = vec @ jnp.kron(*jac_dense_columns_W_factors(X, W, b))
    dX = vec @ jnp.kron(*jac_dense_columns_X_factors(X, W, b))
    return {"X": dX.reshape(X.T.shape).T, "W": dW.reshape(W.T.shape).T}


def _step(params, X, Y, learning_rate):
    dparams, _, _ = five_layer_bwd(five_layer_fwd(params, X, Y)[1], 1.0)
    return gradient_descent(params, dparams, learning_rate)


def _step_back(dL, params, X, Y, learning_rate):
    """(W − W′)/α, the gradient that a step used."""
    after = _step(params, X, Y, learning_rate)
    return (jax.tree.map(lambda W, moved: dL * (W - moved) / learning_rate, params, after),)


def _descent(params, X, Y, learning_rate):
    """The arguments of the reference's step."""
    loss = lambda values: reference.mlp.five_layer(values, X, Y)  # noqa: E731
    return {"loss": loss, "params": params, "learning_rate": learning_rate}


def _d_e1_as_printed(X, W, b):
    """W1 = Xᵀ + b1 instead of the layer's value: 784×m and 128×1."""
    return X + b[:, None]


def _d_e2_as_printed(Z):
    """e^z / (e^z + 1), entry by entry."""
    return jnp.exp(Z) / (jnp.exp(Z) + 1)


def _d_e3_as_printed(dL, A, Y):
    """y/A5."""
    return dL * Y / A


def _d_e4_as_printed(dL, params, X, Y):
    """(A5 − Y) A4ᵀ."""
    A4, A5 = _output(params, X)
    return dL * (A5 - Y) @ A4.T


def _d_e5_as_printed(dL, params, X, Y):
    """A5 − Y."""
    return dL * (_output(params, X)[1] - Y)


def _d_e6_as_printed(dL, params, X, Y):
    """relu_back(dZ2 · W2ᵀ): 50×m times 128×50."""
    Z1, W2 = five_layer_fwd(params, X, Y)[1][2][0], params[1][0]
    return relu_bwd(Z1, _GRADS(dL, params=params, X=X, Y=Y)["Z2"] @ W2.T)[0]


def _d_e7_as_printed(dL, params, X, Y):
    """relu_back(W3ᵀ · dZ1): 50×50 times 128×m."""
    Z2, W3 = five_layer_fwd(params, X, Y)[1][2][1], params[2][0]
    return relu_bwd(Z2, W3.T @ _GRADS(dL, params=params, X=X, Y=Y)["Z1"])[0]


def _d_e8_as_printed(dL, params, X, Y):
    """dZ5 (10×10000) · A4ᵀ (60000×25) and W4ᵀ (10×1) · dZ4 (25×60000): right only if both shapes match."""
    clashes = []
    for shapes in (((10, 10000), (60000, 25)), ((10, 1), (25, 60000))):
        try:
            jax.eval_shape(jnp.matmul, *(jax.ShapeDtypeStruct(shape, X.dtype) for shape in shapes))
        except TypeError:
            clashes.append("{} times {}".format(*shapes))
    if len(clashes) == 2:
        raise TypeError(f"no product of {' or of '.join(clashes)}")
    return _GRADS(dL, params=params, X=X, Y=Y)["Z5"]


TITLE = "The five-layer MNIST network"
EQUATIONS = (
    Equation(
        tag="D-01",
        title="the images flattened and transposed, one sample per column",
        section="first page",
        printed=(
            r"\begin{array}{l} X_{\text{train}} \in \mathbb{R}^{60000 \times 28 \times 28} \rightarrow "
            r"\mathbb{R}^{60000 \times 784}, \quad X_{\text{train}}^{\top} \in \mathbb{R}^{784 \times "
            r"60000} \\ y_{\text{train}} \in \mathbb{R}^{10 \times 60000} \\ X_{\text{test}} \in "
            r"\mathbb{R}^{10000 \times 784}, \quad y_{\text{test}} \in \mathbb{R}^{10 \times 10000} "
            r"\end{array}"
        ),
        claims=(
            Claim(
                "value",
                reference.mlp.flatten_columns,
                ("X",),
                lambda draw: {"images": _digits(draw)["images"]},
                {"flatten_columns_fwd": value_of(flatten_columns_fwd)},
                says="real digits",
                polynomial=True,
            ),
            Claim(
                "value",
                reference.mlp.flatten_columns,
                ("X",),
                lambda draw: {"images": draw.normal(3, 4, 5)},
                {"flatten_columns_fwd": value_of(flatten_columns_fwd)},
                says="height and width differ",
                polynomial=True,
            ),
            Claim(
                "gradient",
                reference.mlp.flatten_columns,
                ("images",),
                lambda draw: {"images": draw.normal(3, 4, 5)},
                {"flatten_columns_bwd": pulled(flatten_columns_fwd, flatten_columns_bwd)},
                says="height and width differ",
                polynomial=True,
            ),
            Claim(
                "value",
                reference.mlp.one_hot_columns,
                ("Y",),
                lambda draw: {"labels": _digits(draw)["labels"], "K": 10, "dtype": draw.dtype},
                {"one_hot_columns": one_hot_columns},
                at=lambda labels, K, dtype: {"labels": labels, "K": K},
                says="labels of real digits",
            ),
        ),
    ),
    Equation(
        tag="D-02",
        title="forward pass through the five layers, ReLU after the first four",
        section="input layer and on",
        printed=(
            r"\begin{array}{l} W_1 = X_{\text{train}}^{\top} + b_1, \quad A_1 = "
            r"\operatorname{ReLU}(Z_1) \\ Z_3 = W_3 \times A_2 + b_3, \quad Z_4 = W_4 \times A_3 + b_4, "
            r"\quad A_4 = \operatorname{ReLU}(Z_4), \quad Z_5 = W_5 \cdot A_4 + b_5 \end{array}"
        ),
        corrected=(
            r"\begin{array}{l} A_0 = X_{\text{train}}^{\top}, \quad Z_l = W_l A_{l-1} + b_l, \quad l = "
            r"1, \dots, 5 \\ A_l = \operatorname{ReLU}(Z_l), \quad l = 1, \dots, 4 \end{array}"
        ),
        note=(
            "The notes write out layers 1 (wrongly, D-E1), 3, 4 and 5; the version here covers every "
            "layer. The bias is added to each column."
        ),
        claims=(
            *(
                Claim(
                    "value",
                    reference.mlp.mlp_columns,
                    (f"Z{l}",),
                    _network,
                    {"five_layer_fwd": lambda params, X, Y, l=l: five_layer_fwd(params, X, Y)[1][2][l - 1]},
                    at=lambda params, X, Y, l=l: {"params": params[:l], "X": X},
                    says=f"Z{l}",
                    polynomial=True,
                )
                for l in (1, 2, 3, 4)
            ),
            Claim(
                "value",
                reference.mlp.five_layer_scores,
                ("Z5",),
                _network,
                {"mlp_columns_fwd": lambda params, X, Y: mlp_columns_fwd(params, X)[0]},
                at=lambda params, X, Y: {"params": params, "X": X},
                says="Z5",
                polynomial=True,
            ),
            Claim(
                "value",
                reference.mlp.five_layer,
                ("L",),
                _network,
                {"five_layer_fwd": value_of(five_layer_fwd)},
                says="through to the loss",
            ),
            Claim(
                "gradient",
                reference.mlp.five_layer_scores,
                ("params", "X"),
                _network,
                {
                    "mlp_columns_bwd": lambda dZ5, params, X, Y: mlp_columns_bwd(
                        mlp_columns_fwd(params, X)[1], dZ5
                    )
                },
                at=lambda params, X, Y: {"params": params, "X": X},
                says="Z5",
                polynomial=True,
            ),
        ),
    ),
    Equation(
        tag="D-03",
        title="softmax over the ten classes, column by column",
        section="output layer",
        printed=(
            r"\sigma(Z) = \begin{pmatrix} \frac{e^{z_0}}{e^{z_0} + 1} \\ \vdots \\ "
            r"\frac{e^{z_n}}{e^{z_n} + 1} \end{pmatrix}"
        ),
        corrected=(
            r"A_5 = \operatorname{softmax}(Z_5) = \frac{1}{\sum_{j} e^{z_j}} \begin{pmatrix} e^{z_0} \\ "
            r"\vdots \\ e^{z_9} \end{pmatrix}"
        ),
        claims=(
            Claim(
                "value",
                reference.softmax.softmax_columns,
                ("A",),
                _scores_alone,
                {"softmax_fwd": lambda Z: softmax_fwd(Z.T)[0].T},
            ),
            Claim(
                "gradient",
                reference.softmax.softmax_columns,
                ("Z",),
                _scores_alone,
                {"softmax_bwd": lambda dA, Z: softmax_bwd(softmax_fwd(Z.T)[1], dA.T)[0].T},
            ),
        ),
    ),
    Equation(
        tag="D-04",
        title="mean cross-entropy and its derivative −(1/m) y/A5",
        section="output layer",
        printed=r"L = -y \ln(A_5), \quad \frac{d}{dA} L = \frac{y}{A_5}",
        corrected=(
            r"L = -\frac{1}{m} \sum y \ln A_5, \quad \frac{\partial L}{\partial A_5} = -\frac{1}{m} "
            r"\frac{y}{A_5}"
        ),
        note=(
            "The matrix of dL/dA5 that follows on the page has the minus sign. The sum over the "
            "classes and samples and the 1/m are added here; the notes bring in 1/m only at dL/dW5."
        ),
        claims=(
            Claim(
                "value",
                reference.softmax.cross_entropy_columns,
                ("L",),
                _probs,
                {"cross_entropy_fwd": lambda A, Y: cross_entropy_fwd(A.T, Y.T)[0]},
                says="of the probabilities",
            ),
            Claim(
                "gradient",
                reference.softmax.cross_entropy_columns,
                ("A",),
                _probs,
                {
                    "cross_entropy_bwd": lambda dL, A, Y: cross_entropy_bwd((A.T, Y.T), dL)[0].T,
                    "−(1/m) Y/A5": lambda dL, A, Y: -dL / A.shape[1] * Y / A,
                },
                says="with respect to the probabilities",
            ),
            Claim(
                "value",
                reference.mlp.five_layer_from_z,
                ("L",),
                _scores,
                {"softmax_cross_entropy_columns_fwd": value_of(softmax_cross_entropy_columns_fwd)},
                at=lambda Z, Y: {"params_after": [], "Z": Z, "Y": Y},
                says="of the scores",
            ),
            Claim(
                "gradient",
                reference.mlp.five_layer_from_z,
                ("Z", "Y"),
                _scores,
                {
                    "softmax_cross_entropy_columns_bwd": pulled(
                        softmax_cross_entropy_columns_fwd, softmax_cross_entropy_columns_bwd
                    )
                },
                at=lambda Z, Y: {"params_after": [], "Z": Z, "Y": Y},
                says="with respect to the scores and the labels",
            ),
            Claim(
                "value",
                reference.mlp.five_layer,
                ("L",),
                _network,
                {"five_layer_fwd": value_of(five_layer_fwd)},
                says="the whole network",
            ),
        ),
    ),
    Equation(
        tag="D-05",
        title="softmax Jacobian times −y/a gives a − y, row by row",
        section="output layer",
        printed=(
            r"\begin{array}{l} \frac{dA_5}{dZ_5} = \begin{pmatrix} a_0 (1 - a_0) & -a_0 a_1 & \dots & "
            r"-a_0 a_9 \\ -a_0 a_1 & & & \vdots \\ \vdots & & & \vdots \\ -a_9 a_0 & \dots & \dots & "
            r"a_9 (1 - a_9) \end{pmatrix} \\ \frac{dA_5}{dZ_5} \times \frac{dL}{dA_5} = \begin{pmatrix} "
            r"-y_0 (1 - a_0) + a_0 y_1 + a_0 y_2 + \dots + a_0 y_9 \\ \vdots \end{pmatrix} = a - y "
            r"\end{array}"
        ),
        note=(
            "For one sample, diag(a) − a aᵀ. On the page the bottom left entry lacks its minus sign. "
            "The line after expands the first row as −y_0 + a_0 y_1 + a_0 (y_2 + … + y_9); to give "
            "a_0 − y_0 its first product must be a_0 y_0, and the bracket must start at y_1. The "
            "second row breaks off after “+ a_1”."
        ),
        claims=(
            Claim(
                "jacobian",
                reference.softmax.softmax,
                ("logits",),
                lambda draw: {"logits": draw.normal(10)},
                {
                    "jac_softmax_logits": jac_softmax_logits,
                    "jac_softmax_logits_blocks": jac_softmax_logits_blocks,
                    "diag(a) − a aᵀ": _diagonal_less_outer,
                },
                says="∂A5/∂Z5",
            ),
            Claim(
                "jacobian",
                reference.softmax.softmax_cross_entropy,
                ("logits",),
                _one_sample,
                {
                    "∂L/∂A5 · ∂A5/∂Z5": _jacobians_multiplied,
                    "∂A5/∂Z5 times −y/a": _block_times_dA5,
                    "row by row": _row_by_row,
                    "a − y": lambda logits, labels: softmax_fwd(logits)[0] - labels,
                },
                says="times −y/a",
            ),
        ),
    ),
    Equation(
        tag="D-06",
        title="cross-entropy w.r.t. the last scores: (A5 − Y)/m",
        section="output layer",
        printed=r"\frac{dL}{dZ_5} = A_5 - y \in \mathbb{R}^{10 \times 10000}",
        corrected=(
            r"\frac{\partial L}{\partial Z_5} = \frac{1}{m} (A_5 - Y) \in \mathbb{R}^{10 \times 60000}"
        ),
        note=(
            "The notes leave 1/m out here and bring it in at dL/dW5 (D-07); here it is included from "
            "this line on. The shape is part of D-E8."
        ),
        claims=(_layer_claim(5, **{"(A5 − Y)/m": _error_over_m}),),
    ),
    Equation(
        tag="D-07",
        title="w.r.t. the last weights: (1/m)(A5 − Y) A4ᵀ",
        section="output layer",
        printed=r"\frac{d}{dW_5} L = (A_5 - y) \times A_4^{\top} \times \frac{1}{m}, \quad m = 60000",
        claims=(
            Claim(
                "gradient",
                reference.mlp.loss_of_layer_5,
                ("W5",),
                _network,
                {"five_layer_grads": _GRADS, "(1/m)(A5 − Y) A4ᵀ": _error_over_m_by_A4},
                at=_layer_5,
            ),
        ),
    ),
    Equation(
        tag="D-08",
        title="w.r.t. the last bias: the sum over the samples of (A5 − Y)/m",
        section="page of W5 and b5",
        printed=r"\frac{d}{db_5} L = A_5 - y",
        corrected=r"\frac{\partial L}{\partial b_5} = \frac{1}{m} (A_5 - Y) \mathbf{1}_m",
        claims=(
            Claim(
                "gradient",
                reference.mlp.loss_of_layer_5,
                ("b5",),
                _network,
                {"five_layer_grads": _GRADS, "(1/m)(A5 − Y) 1": _error_over_m_by_ones},
                at=_layer_5,
            ),
        ),
    ),
    Equation(
        tag="D-09",
        title="why A4 comes out transposed and on the right: Kronecker Jacobians",
        section="margin beside W4",
        printed=r"A_4 \times (A_5 - y) \quad \Rightarrow \quad (A_5 - y) \times A_4^{\top}",
        corrected=(
            r"\begin{array}{l} \frac{\partial \operatorname{vec} Z_5}{\partial \operatorname{vec} W_5} "
            r"= A_4^{\top} \otimes I_{10}, \quad \frac{\partial \operatorname{vec} Z_5}{\partial "
            r"\operatorname{vec} A_4} = I_m \otimes W_5 \\ \operatorname{vec}(dZ_5)^{\top} (A_4^{\top} "
            r"\otimes I_{10}) = \operatorname{vec}(dZ_5 A_4^{\top})^{\top} \end{array}"
        ),
        note=(
            "The notes ask why, and whether the factors may be swapped. They may not: the product on "
            "the left does not exist, and the right-hand side comes from contracting with the Jacobian of "
            "vec(Z5), columns stacked. An earlier page has A_5 × (A_5 − y), labelled 25×10000; the "
            "label fits A_4, so we take it for the same line."
        ),
        claims=(
            jacobian("jac_dense_columns_W", "columns, Xᵀ ⊗ I", polynomial=True),
            jacobian("jac_dense_columns_X", "columns, I ⊗ W", polynomial=True),
            jacobian("jac_dense_columns_b", "columns, 1 ⊗ I", polynomial=True),
            jacobian("jac_dense_rows_W", "rows, X ⊗ I", polynomial=True),
            jacobian("jac_dense_rows_X", "rows, I ⊗ Wᵀ", polynomial=True),
            jacobian("jac_dense_rows_b", "rows, 1 ⊗ I", polynomial=True),
            gradient(
                dense.DENSE_COLUMNS,
                "X",
                "W",
                says="columns, contracted: Wᵀ dZ and dZ Xᵀ",
                also={"vec(dZ)ᵀ ∂vec Z": _by_kronecker},
            ),
            gradient(
                dense.DENSE_ROWS,
                "X",
                "W",
                says="rows, contracted: dZ Wᵀ and Xᵀ dZ",
                also={
                    "dZ · ∂Z/∂X, dZ · ∂Z/∂W": lambda dZ, **inputs: (
                        jnp.tensordot(dZ, jac_dense_rows_X(**inputs), axes=2),
                        jnp.tensordot(dZ, jac_dense_rows_W(**inputs), axes=2),
                    )
                },
            ),
        ),
    ),
    Equation(
        tag="D-10",
        title="backward pass, layer by layer, down to dW1",
        section="Back propagation, steps ② to ⑤",
        printed=(
            r"\begin{array}{l} dZ_4 = \text{relu back}(W_5^{\top} \cdot dZ_5), \quad dW_4 = dZ_4 \cdot "
            r"A_3^{\top} \\ dZ_3 = \text{relu back}(W_4^{\top} \cdot dZ_4), \quad dW_3 = dZ_3 \cdot "
            r"A_2^{\top} \\ dZ_2 = \text{relu back}(W_3^{\top} \cdot dZ_1), \quad dW_2 = dZ_2 \cdot "
            r"A_1^{\top} \\ dZ_1 = \text{relu back}(dZ_2 \cdot W_2^{\top}), \quad dW_1 = dZ_1 \cdot "
            r"X_{\text{train}} \end{array}"
        ),
        corrected=(
            r"\begin{array}{l} \frac{\partial L}{\partial A_{l-1}} = W_l^{\top} dZ_l, \quad dZ_{l-1} = "
            r"\text{relu back}(W_l^{\top} dZ_l), \quad l = 5, \dots, 2 \\ dW_l = dZ_l A_{l-1}^{\top}, "
            r"\quad db_l = dZ_l \mathbf{1}_m, \quad dW_1 = dZ_1 X_{\text{train}} \end{array}"
        ),
        note=(
            "The page has np.dot where a dot stands here. Steps ④ and ⑤ are misprinted (D-E7, D-E6). "
            "The steps leave out the biases, added here as db_l = dZ_l 1, and the 1/m (D-E4), which "
            "comes in with dZ5 (D-06)."
        ),
        claims=(
            Claim(
                "gradient",
                reference.mlp.loss_by_each,
                ("A4", "Z4", "A3", "Z3", "A2", "Z2", "A1", "Z1"),
                _network,
                {"five_layer_grads": _GRADS},
                at=_every_hidden,
                says="dA4, dZ4, … dA1, dZ1",
            ),
            Claim(
                "gradient",
                reference.mlp.five_layer,
                ("params", "X", "Y"),
                _network,
                {"five_layer_bwd": pulled(five_layer_fwd, five_layer_bwd)},
                says="dW1 to dW5 and db1 to db5, dX and dY",
            ),
            Claim(
                "gradient",
                reference.mlp.mlp_rows,
                ("params", "X"),
                _network_in_rows,
                {"mlp_rows_bwd": pulled(mlp_rows_fwd, mlp_rows_bwd)},
                says="the same layers, one sample per row",
            ),
        ),
    ),
    Equation(
        tag="D-11",
        title="gradient descent: parameter minus α times its gradient",
        section="output layer",
        printed=r"W_5 = W_5 - \frac{dL}{dW_5} \cdot \alpha",
        corrected=(
            r"W_l \leftarrow W_l - \alpha \frac{\partial L}{\partial W_l}, \quad b_l \leftarrow b_l - "
            r"\alpha \frac{\partial L}{\partial b_l}"
        ),
        note="Not an error: the notes have W5 only; the version here covers every layer and the biases.",
        claims=(
            Claim(
                "value",
                reference.mlp.gradient_descent,
                ("params",),
                _network_and_rate,
                {"gradient_descent": _step},
                at=_descent,
                says="one step on the full batch of 12 digits",
            ),
            Claim(
                "value",
                reference.mlp.gradient_descent,
                ("params",),
                lambda draw: _network_and_rate(draw, 5),
                {"gradient_descent": _step},
                at=_descent,
                says="one step on a mini-batch of 5 digits",
            ),
            Claim(
                "gradient",
                reference.mlp.five_layer,
                ("params",),
                lambda draw: {
                    **_network(draw),
                    "learning_rate": 2.0**14,
                },  # large, so that W − W′ keeps its precision
                {"(W − W′)/α": _step_back},
                at=lambda params, X, Y, learning_rate: {"params": params, "X": X, "Y": Y},
                says="the step divided by the rate is the gradient",
            ),
        ),
    ),
)

ERRATA = (
    Erratum(
        tag="D-E1",
        title="first layer without its product: W1 = Xᵀ + b1",
        section="input layer",
        printed=r"W_1 = X_{\text{train}}^{\top} + b_1",
        corrected=r"Z_1 = W_1 X_{\text{train}}^{\top} + b_1",
        corrects="D-02",
        why=(
            "The left-hand side is Z1, and the weights are missing from the right; the shapes under the "
            "line, (128, 784)(784, 60000) + (128, 1), are those of the product."
        ),
        claim=Claim(
            "value",
            reference.dense.dense_columns,
            ("Z1",),
            _first_layer,
            {"dense_columns_fwd": value_of(dense_columns_fwd)},
            polynomial=True,
        ),
        as_printed=_d_e1_as_printed,
    ),
    Erratum(
        tag="D-E2",
        title="the logistic sigmoid is printed where softmax is meant",
        section="output layer",
        printed=(
            r"\sigma(Z) = \begin{pmatrix} \frac{e^{z_0}}{e^{z_0} + 1} \\ \vdots \\ "
            r"\frac{e^{z_n}}{e^{z_n} + 1} \end{pmatrix}"
        ),
        corrected=(
            r"A_5 = \operatorname{softmax}(Z_5) = \frac{1}{\sum_{j} e^{z_j}} \begin{pmatrix} e^{z_0} \\ "
            r"\vdots \\ e^{z_9} \end{pmatrix}"
        ),
        corrects="D-03",
        why=(
            "e^z/(e^z + 1) looks at one class alone, so the ten outputs need not sum to 1 and their "
            "Jacobian is diagonal. The Jacobian used in the next line, with −a_i a_j off the diagonal, "
            "is that of softmax."
        ),
        claim=Claim(
            "value",
            reference.softmax.softmax_columns,
            ("A5",),
            _scores_alone,
            {"softmax_fwd": lambda Z: softmax_fwd(Z.T)[0].T},
        ),
        as_printed=_d_e2_as_printed,
    ),
    Erratum(
        tag="D-E3",
        title="the minus sign of the cross-entropy derivative is lost",
        section="output layer",
        printed=r"\frac{d}{dA} L = \frac{y}{A_5}",
        corrected=r"\frac{\partial L}{\partial A_5} = -\frac{1}{m} \frac{y}{A_5}",
        corrects="D-04",
        why=(
            "L is −y ln A, so its derivative is negative: more probability on the true class means "
            "less loss. With the sign lost, a descent step raises the loss."
        ),
        note=(
            "The matrix of dL/dA5 a few lines on has the sign again. The 1/m is that of the mean over "
            "the samples (D-04); for one sample it is 1."
        ),
        claim=Claim(
            "gradient",
            reference.softmax.cross_entropy_columns,
            ("A",),
            lambda draw: _probs(draw, 1),
            {"cross_entropy_bwd": lambda dL, A, Y: cross_entropy_bwd((A.T, Y.T), dL)[0].T},
            says="one sample, so that 1/m is 1 and the sign alone is wrong",
        ),
        as_printed=_d_e3_as_printed,
    ),
    Erratum(
        tag="D-E4",
        title="the later pages drop the factor 1/m",
        section="Back propagation, step ①",
        printed=r"dW_5 = (A_5 - Y) \cdot A_4^{\top}",
        corrected=r"dW_5 = \frac{1}{m} (A_5 - Y) \cdot A_4^{\top}",
        corrects="D-07",
        why=(
            "The loss is a mean over m samples, so every gradient carries 1/m. As printed the "
            "gradient, and with it the step, grows with the batch: 60000 times too long."
        ),
        claim=Claim(
            "gradient",
            reference.mlp.loss_of_layer_5,
            ("W5",),
            _network,
            {"five_layer_grads": _GRADS, "(1/m)(A5 − Y) A4ᵀ": _error_over_m_by_A4},
            at=_layer_5,
        ),
        as_printed=_d_e4_as_printed,
    ),
    Erratum(
        tag="D-E5",
        title="bias gradient of layer 5 not summed over the batch",
        section="page of W5 and b5",
        printed=r"\frac{d}{db_5} L = A_5 - y",
        corrected=r"\frac{\partial L}{\partial b_5} = \frac{1}{m} (A_5 - Y) \mathbf{1}_m",
        corrects="D-08",
        why=(
            "The one bias is added to every column, so its gradient is the sum over the columns. The "
            "printed right-hand side is 10×60000, the bias 10×1; 1/m is missing as well."
        ),
        claim=Claim(
            "gradient",
            reference.mlp.loss_of_layer_5,
            ("b5",),
            _network,
            {"five_layer_grads": _GRADS, "(1/m)(A5 − Y) 1": _error_over_m_by_ones},
            at=_layer_5,
        ),
        as_printed=_d_e5_as_printed,
    ),
    Erratum(
        tag="D-E6",
        title="step ⑤ multiplies W2ᵀ on the wrong side",
        section="Back propagation, step ⑤",
        printed=r"dZ_1 = \text{relu back}(dZ_2 \cdot W_2^{\top})",
        corrected=r"dZ_1 = \text{relu back}(W_2^{\top} \cdot dZ_2)",
        corrects="D-10",
        why=(
            "dZ2 is 50×60000 and W2ᵀ is 128×50: the printed product does not exist. The other order "
            "gives the 128×60000 that the step itself states."
        ),
        claim=_layer_claim(1),
        as_printed=_d_e6_as_printed,
    ),
    Erratum(
        tag="D-E7",
        title="step ④ uses layer 1 for layer 3, and a wrong shape",
        section="Back propagation, step ④",
        printed=r"dZ_2 = \text{relu back}(W_3^{\top} \cdot dZ_1) \in \mathbb{R}^{10 \times 60000}",
        corrected=r"dZ_2 = \text{relu back}(W_3^{\top} \cdot dZ_3) \in \mathbb{R}^{50 \times 60000}",
        corrects="D-10",
        why=(
            "Layer 2 gets its gradient from layer 3, and dZ1 is not even known at this step. W3ᵀ dZ3 "
            "is (50×50)(50×60000), so dZ2 has 50 rows."
        ),
        note="The step's chain has the same slip, ∂Z1/∂A2 for ∂Z3/∂A2; the W3ᵀ in it is right.",
        claim=_layer_claim(2),
        as_printed=_d_e7_as_printed,
    ),
    Erratum(
        tag="D-E8",
        title="shapes: 10000 columns for 60000, and W4ᵀ as 10×1",
        section="output layer; page of W3",
        printed=(
            r"\frac{dL}{dA_5}, \frac{dL}{dZ_5} \in \mathbb{R}^{10 \times 10000}, \quad W_4^{\top} \in "
            r"\mathbb{R}^{10 \times 1}"
        ),
        corrected=(
            r"\frac{\partial L}{\partial A_5}, \frac{\partial L}{\partial Z_5} \in \mathbb{R}^{10 "
            r"\times 60000}, \quad W_4^{\top} \in \mathbb{R}^{50 \times 25}"
        ),
        corrects="D-06",
        why=(
            "A gradient has the shape of its array, and the training set has m = 60000 columns "
            "throughout (10000 is the size of the test set). W4 is 25×50, so its transpose is 50×25."
        ),
        note=(
            "There are more slips of this kind: A3ᵀ as 60000×25 on the page of W4 (it is 60000×50, as in "
            "step ②), and on the last page 28×184×184×1 = 28×1 for (128×784)(784×1) = 128×1 and "
            "50×1×50×1 = 50×1 for (50×50)(50×1) = 50×1."
        ),
        claim=_layer_claim(5),
        as_printed=_d_e8_as_printed,
    ),
)
