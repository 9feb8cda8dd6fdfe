"""Lecture A: "Backpropagation and Jacobian Matrices. Lecture 0, Orientation"."""

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad.catalogue import FUNCTIONS, cnn, linear_cross_entropy, mse, softmax
from manual_grad.catalogue.draw import Draw
from manual_grad.compiling import quickly
from manual_grad.digits import load_digits_8
from manual_grad.formulas.chain_rule import as_matrix
from manual_grad.formulas.softmax import (
    jac_softmax_cross_entropy_logits,
    jac_softmax_cross_entropy_logits_one_hot,
    jac_softmax_logits,
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_fwd,
    softmax_fwd,
)
from manual_grad.lectures.entries import Claim, Equation, Erratum, gradient, jacobian, pulled, value, value_of
from manual_grad.networks.cnn import cnn_bwd, cnn_fwd, cnn_grads

_logits_and_one_hot = FUNCTIONS["jac_softmax_cross_entropy_logits_one_hot"].inputs
_LAST_LAYER = linear_cross_entropy.LINEAR_CROSS_ENTROPY

_features = quickly(reference.cnn.features)


def _by_the_matrix(dprobs, logits):
    """dŷ as a row, times ∂ŷ/∂l as a matrix."""
    return (dprobs.ravel() @ as_matrix(jac_softmax_logits(logits), logits.ndim)).reshape(logits.shape)


def _images_and_cnn(draw: Draw) -> dict:
    """Four real digits of 8×7 pixels and a network for them.

    In half precision the pixels are 0 or 1, the kernels 0 or ± a power of two, and no sum of products cancels
    the biases, so no rounding moves a pre-activation across ReLU's kink.
    """
    if draw.style != "real":
        return cnn.CNN.inputs(draw)
    images, labels = load_digits_8()
    chosen = draw.rng.choice(len(images), 4, replace=False)
    X = jnp.asarray(images[chosen, :, :7, None], draw.dtype)
    K1, b1 = draw.normal(3, 3, 1, 5, scale=(2 / 9) ** 0.5), draw.normal(5, scale=0.3)
    K2, b2 = draw.normal(4, 4, 5, 6, scale=(2 / 80) ** 0.5), draw.normal(6, scale=0.3)
    if jnp.dtype(draw.dtype).itemsize == 2:
        X, K1, b1 = jnp.round(X), jnp.sign(K1) / 4, jnp.full_like(b1, 1 / 8)
        K2, b2 = jnp.sign(K2) * (abs(K2) > 0.2) / 8, jnp.full_like(b2, -1 / 128)
    A3 = _features({"K1": K1, "b1": b1, "K2": K2, "b2": b2}, X)
    (W4, b4), (W5, b5) = draw.layers(A3.shape[1], 11, 10, rows=True, X=A3)
    params = {"K1": K1, "b1": b1, "K2": K2, "b2": b2, "W4": W4, "b4": b4, "W5": W5, "b5": b5}
    return {"params": params, "X": X, "labels": jnp.asarray(np.eye(10)[labels[chosen]], draw.dtype)}


def _backward_from_scores(dZ5, params, X, labels):
    """:func:`cnn_grads` for any cotangent of the scores: with ŷ = 0 and y = −N dZ5, A-10 gives just that."""
    res = cnn_fwd(params, X, labels)[1]
    expected, log_probs, _ = res[-1]
    grads = cnn_grads((*res[:-1], (jnp.zeros_like(expected), log_probs, -len(X) * dZ5)), 1.0)
    return {name: grads[f"d{name}"] for name in params}, grads["dX"]


def _slide_shapes(params, X, labels):
    """Zeros with the shapes that the slide states for its tensors."""
    N, n_H, n_W, l_I = X.shape
    (f1, l_1), (f2, l_2), l_4 = params["K1"].shape[1::2], params["K2"].shape[1::2], params["W4"].shape[1]
    shapes = reference.cnn.cnn_shapes(N, n_H, n_W, l_I, f1, l_1, f2, l_2, l_4, labels.shape[1])
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


def _gradient_shapes(params, X, labels):
    """The gradients of the slide's tensors times zero: a gradient has its tensor's shape."""
    grads = cnn_grads(cnn_fwd(params, X, labels)[1], 1.0)
    return {name: 0 * grads[f"d{name}"] for name in _slide_shapes(params, X, labels)}


def _a_e1_as_printed(dJ, logits, labels):
    """−(1/N) [y/y · ŷ − ŷ Σ_k y_k/ŷ_k ŷ_k], with y/y for y/ŷ in the first term."""
    y, y_hat = labels, softmax_fwd(logits)[0]
    y_over_y = jnp.where(y == 0, 0, y / y)
    return -dJ / len(y) * (y_over_y * y_hat - y_hat * (y / y_hat * y_hat).sum(axis=1, keepdims=True))


TITLE = "Backpropagation and Jacobian Matrices"
EQUATIONS = (
    Equation(
        tag="A-01",
        title="the four Jacobians: scalar or vector f, scalar or vector x",
        section="Jacobian Matrices",
        printed=(
            r"\begin{matrix} & x & \vec{x} \\ f & \frac{\partial f}{\partial x} & \frac{\partial "
            r"f}{\partial \vec{x}} \\ \vec{f} & \frac{\partial \vec{f}}{\partial x} & \frac{\partial "
            r"\vec{f}}{\partial \vec{x}} \end{matrix}"
        ),
        claims=(
            jacobian("jac_square_x", polynomial=True, says="scalar by scalar, 1×1"),
            jacobian("jac_sum_of_squares_x", polynomial=True, says="scalar by vector, 1×n"),
            jacobian("jac_powers_x", polynomial=True, says="vector by scalar, m×1"),
            jacobian("jac_linear_map_x", polynomial=True, says="vector by vector, m×n"),
        ),
    ),
    Equation(
        tag="A-02",
        title="Jacobian of the mean: a row of N entries 1/N",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial J}{\partial \vec{J}_0} = \begin{pmatrix} \frac{1}{N} & \frac{1}{N} & \dots "
            r"& \frac{1}{N} \end{pmatrix}"
        ),
        claims=(
            jacobian("jac_mean_J0", polynomial=True),
            value(mse.MSE, "J"),
        ),
    ),
    Equation(
        tag="A-03",
        title="Jacobian of the squared errors: −2(y − ŷ) on the diagonal",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial \vec{J}_0}{\partial \vec{\hat{y}}} = \begin{pmatrix} -2(y^{(1)} - "
            r"\hat{y}^{(1)}) & 0 & \dots & 0 \\ 0 & -2(y^{(2)} - \hat{y}^{(2)}) & \dots & 0 \\ \vdots & "
            r"\vdots & \ddots & \vdots \\ 0 & 0 & \dots & -2(y^{(N)} - \hat{y}^{(N)}) \end{pmatrix}"
        ),
        claims=(
            jacobian("jac_squared_errors_y_hat", polynomial=True),
            value(mse.MSE, "J"),
        ),
    ),
    Equation(
        tag="A-04",
        title="MSE with respect to the predictions: the product of two Jacobians",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial J}{\partial \vec{\hat{y}}} = \frac{\partial J}{\partial \vec{J}_0} "
            r"\frac{\partial \vec{J}_0}{\partial \vec{\hat{y}}} = -\frac{2}{N} \begin{pmatrix} y^{(1)} "
            r"- \hat{y}^{(1)} & y^{(2)} - \hat{y}^{(2)} & \dots & y^{(N)} - \hat{y}^{(N)} \end{pmatrix}"
        ),
        claims=(
            gradient(mse.MSE, says="contracted"),
            jacobian("jac_mse_y_hat", polynomial=True, says="product of the two Jacobians"),
        ),
    ),
    Equation(
        tag="A-05",
        title="MSE of linear regression, w.r.t. the weight: −(2/N) Σ x(y − ŷ)",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial J}{\partial w} = \frac{\partial J}{\partial \vec{\hat{y}}} \frac{\partial "
            r"\vec{\hat{y}}}{\partial w} = -\frac{2}{N} \begin{pmatrix} y^{(1)} - \hat{y}^{(1)} & "
            r"y^{(2)} - \hat{y}^{(2)} & \dots & y^{(N)} - \hat{y}^{(N)} \end{pmatrix} \begin{pmatrix} "
            r"x^{(1)} \\ x^{(2)} \\ \vdots \\ x^{(N)} \end{pmatrix} = -\frac{2}{N} \sum_{i=1}^{N} "
            r"x^{(i)} (y^{(i)} - \hat{y}^{(i)})"
        ),
        claims=(
            gradient(mse.LINEAR_REGRESSION, "w", "x", "y", says="one feature", variant="scalar"),
            gradient(mse.LINEAR_REGRESSION, "w", "x", "y", says="d features"),
            jacobian("jac_linear_regression_w", polynomial=True, says="product of the Jacobians"),
            jacobian("jac_affine_w", polynomial=True, says="∂ŷ/∂w"),
        ),
    ),
    Equation(
        tag="A-06",
        title="MSE of linear regression, w.r.t. the bias: −(2/N) Σ (y − ŷ)",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial J}{\partial b} = \frac{\partial J}{\partial \vec{\hat{y}}} \frac{\partial "
            r"\vec{\hat{y}}}{\partial b} = -\frac{2}{N} \begin{pmatrix} y^{(1)} - \hat{y}^{(1)} & "
            r"y^{(2)} - \hat{y}^{(2)} & \dots & y^{(N)} - \hat{y}^{(N)} \end{pmatrix} \begin{pmatrix} 1 "
            r"\\ 1 \\ \vdots \\ 1 \end{pmatrix} = -\frac{2}{N} \sum_{i=1}^{N} (y^{(i)} - \hat{y}^{(i)})"
        ),
        claims=(
            gradient(mse.LINEAR_REGRESSION, "b", variant="scalar"),
            jacobian("jac_linear_regression_b", polynomial=True, says="product of the Jacobians"),
            jacobian("jac_affine_b", polynomial=True, says="∂ŷ/∂b", variant="scalar"),
        ),
    ),
    Equation(
        tag="A-07",
        title="softmax Jacobian: ŷ_j(1−ŷ_j) on the diagonal, −ŷ_k ŷ_j off it",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial \hat{y}_k^{(i)}}{\partial l_j^{(i)}} = \begin{cases} \hat{y}_j^{(i)} (1 - "
            r"\hat{y}_j^{(i)}) & k = j \\ -\hat{y}_k^{(i)} \hat{y}_j^{(i)} & k \neq j \end{cases}"
        ),
        note=(
            "The lecture has no line of its own for this: it puts the two cases straight into the sum "
            "over k that leads to A-08. The entries are the same."
        ),
        claims=(
            value(softmax.SOFTMAX, "probs"),
            jacobian("jac_softmax_logits", says="one sample", variant="vector"),
            jacobian("jac_softmax_logits", says="a batch, block-diagonal"),
        ),
    ),
    Equation(
        tag="A-08",
        title="softmax backward: from any dŷ to the logits, no K×K matrix",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial J}{\partial l_j^{(i)}} = d\hat{y}_j^{(i)} \hat{y}_j^{(i)} - "
            r"\hat{y}_j^{(i)} \sum_{k=1}^{K} d\hat{y}_k^{(i)} \cdot \hat{y}_k^{(i)}"
        ),
        note="One copy of the slides once writes the last class as a small k (dŷ_k beside ŷ_K); K is meant.",
        claims=(
            gradient(softmax.SOFTMAX, also={"dŷ · ∂ŷ/∂l, a matrix": _by_the_matrix}),
            gradient(softmax.SOFTMAX, says="classes along the last of three axes", variant="three_axes"),
        ),
    ),
    Equation(
        tag="A-09",
        title="mean cross-entropy w.r.t. the probabilities: −(1/N) y_k/ŷ_k",
        section="The MOST Important Thing",
        printed=r"d\hat{y}_k^{(i)} = -\frac{1}{N} \frac{y_k^{(i)}}{\hat{y}_k^{(i)}}",
        note=(
            "The lecture has no line of its own for this: it is what it substitutes for dŷ in the step "
            "after A-08 (one copy of the slides has both hats there, the other neither, see A-E1)."
        ),
        claims=(
            value(softmax.CROSS_ENTROPY, "J"),
            gradient(softmax.CROSS_ENTROPY),
            jacobian("jac_cross_entropy_probs"),
        ),
    ),
    Equation(
        tag="A-10",
        title="softmax and cross-entropy together: −(1/N)(Y − Ŷ)",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial J}{\partial l_j^{(i)}} = -\frac{1}{N} \left[ y_j^{(i)} - \hat{y}_j^{(i)} "
            r"\sum_{k=1}^{K} y_k^{(i)} \right], \quad \frac{\partial J}{\partial L} = -\frac{1}{N} (Y - "
            r"\hat{Y})"
        ),
        note=(
            "The first form holds for any labels. The second assumes that each sample's labels sum to 1, "
            "as the lecture does without saying so. Only one copy of the slides prints the matrix form; "
            "the other ends with the entry, printed twice."
        ),
        claims=(
            value(softmax.SOFTMAX_CROSS_ENTROPY, "J"),
            gradient(softmax.SOFTMAX_CROSS_ENTROPY, says="labels of any sum"),
            Claim(
                "jacobian",
                reference.softmax.softmax_cross_entropy,
                ("logits",),
                _logits_and_one_hot,
                {
                    "jac_softmax_cross_entropy_logits": jac_softmax_cross_entropy_logits,
                    "jac_softmax_cross_entropy_logits_one_hot": jac_softmax_cross_entropy_logits_one_hot,
                },
                says="one-hot labels: product of the Jacobians, and the short form",
            ),
            value(
                _LAST_LAYER,
                "J",
                says="fused with the last layer, in chunks",
                variant="chunk_smaller",
            ),
            gradient(
                _LAST_LAYER,
                says="fused with the last layer, in chunks",
                variant="chunk_smaller",
            ),
            replace(
                gradient(_LAST_LAYER, says="so many classes that dW is computed in parts"),
                inputs=partial(_LAST_LAYER.inputs, N=3, D=2, V=2051),
            ),
        ),
    ),
    Equation(
        tag="A-11",
        title="the CNN, layer by layer, with the shape of every tensor",
        section="Previous Lecture (diagram)",
        printed=(
            r"\begin{array}{l} X \in \mathbb{R}^{N \times n_H^{[I]} \times n_W^{[I]} \times l_I} \\ "
            r"\mathcal{K}^{[1]} \in \mathbb{R}^{f^{[1]} \times f^{[1]} \times l_I \times l_1}, \quad "
            r"\vec{b}^{[1]} \in \mathbb{R}^{l_1}, \quad A^{[1]} \in \mathbb{R}^{N \times n_H^{[1]} "
            r"\times n_W^{[1]} \times l_1} \\ \mathcal{K}^{[2]} \in \mathbb{R}^{f^{[2]} \times f^{[2]} "
            r"\times l_1 \times l_2}, \quad \vec{b}^{[2]} \in \mathbb{R}^{l_2}, \quad A^{[2]} \in "
            r"\mathbb{R}^{N \times n_H^{[2]} \times n_W^{[2]} \times l_2} \\ (A^{[3]})^{\top} \in "
            r"\mathbb{R}^{N \times n_H^{[2]} \cdot n_W^{[2]} \cdot l_2} \\ W^{[4]} \in "
            r"\mathbb{R}^{n_H^{[2]} \cdot n_W^{[2]} \cdot l_2 \times l_4}, \quad \vec{b}^{[4]} \in "
            r"\mathbb{R}^{l_4}, \quad (A^{[4]})^{\top} \in \mathbb{R}^{N \times l_4} \\ W^{[5]} \in "
            r"\mathbb{R}^{l_4 \times l_5}, \quad \vec{b}^{[5]} \in \mathbb{R}^{l_5}, \quad "
            r"(Z^{[5]})^{\top} \in \mathbb{R}^{N \times l_5} \\ (\hat{Y})^{\top} \in \mathbb{R}^{N "
            r"\times K}, \quad J \in \mathbb{R} \end{array}"
        ),
        note=(
            "The slide gives shapes only, and names three parts: Feature Extractor (two Conv2D layers), "
            "Dense Classifier (two Dense layers) and Loss Calculator (Softmax, CE). ReLU after both "
            "convolutions and after the first dense layer, VALID padding and stride 1 are our reading. From "
            "the flattening on, the slide's tensors carry a transpose sign but have one sample per row; K "
            "and l_5 are the same number."
        ),
        claims=(
            Claim("value", reference.cnn.cnn, ("J",), _images_and_cnn, {"cnn_fwd": value_of(cnn_fwd)}),
            Claim(
                "gradient",
                reference.cnn.cnn,
                ("params", "X", "labels"),
                _images_and_cnn,
                {"cnn_bwd": pulled(cnn_fwd, cnn_bwd)},
                says="eight parameters, X and labels; real digits",
            ),
            Claim(
                "gradient",
                reference.cnn.cnn_scores,
                ("params", "X"),
                _images_and_cnn,
                {"cnn_grads": _backward_from_scores},
                at=lambda params, X, labels: {"params": params, "X": X},
                says="up to the scores, for any cotangent of the scores",
                polynomial=True,
            ),
            Claim(
                "value",
                _slide_shapes,
                ("gradients",),
                _images_and_cnn,
                {"cnn_grads": _gradient_shapes},
                says="every tensor's shape, as on the slide",
            ),
        ),
    ),
)

ERRATA = (
    Erratum(
        tag="A-E1",
        title="the hat is missing under y_j: y_j/y_j for y_j/ŷ_j",
        section="The MOST Important Thing",
        printed=(
            r"-\frac{1}{N} \left[ \frac{y_j^{(i)}}{y_j^{(i)}} \cdot \hat{y}_j^{(i)} - \hat{y}_j^{(i)} "
            r"\sum_{k=1}^{K} \frac{y_k^{(i)}}{y_k^{(i)}} \cdot \hat{y}_k^{(i)} \right]"
        ),
        corrected=(
            r"-\frac{1}{N} \left[ \frac{y_j^{(i)}}{\hat{y}_j^{(i)}} \cdot \hat{y}_j^{(i)} - "
            r"\hat{y}_j^{(i)} \sum_{k=1}^{K} \frac{y_k^{(i)}}{\hat{y}_k^{(i)}} \cdot \hat{y}_k^{(i)} "
            r"\right]"
        ),
        corrects="A-10",
        why=(
            "The derivative of −y log ŷ has the prediction in its denominator, not the label. As "
            "printed, the label cancels itself (0/0 for every class but the true one), and the next line "
            "does not follow."
        ),
        note=(
            "One copy of the slides drops the hat in the sum too (y_k/y_k), the other has both hats. "
            "Only y_j/y_j is refuted here; a test refutes the reading with y_k/y_k as well."
        ),
        claim=Claim(
            "gradient",
            reference.softmax.softmax_cross_entropy,
            ("logits",),
            _logits_and_one_hot,
            {"softmax_cross_entropy_bwd": pulled(softmax_cross_entropy_fwd, softmax_cross_entropy_bwd)},
        ),
        as_printed=_a_e1_as_printed,
    ),
)
