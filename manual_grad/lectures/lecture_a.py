"""Lecture A: "Backpropagation and Jacobian Matrices. Lecture 0, Orientation"."""

import jax.numpy as jnp

import manual_grad_reference as reference
from manual_grad.catalogue.draw import Draw
from manual_grad.digits import load_digits_28
from manual_grad.formulas.chain_rule import (
    jac_linear_map_x,
    jac_powers_x,
    jac_square_x,
    jac_sum_of_squares_x,
)
from manual_grad.formulas.mse import (
    jac_affine_b,
    jac_affine_w,
    jac_linear_regression_b,
    jac_linear_regression_w,
    jac_mean_J0,
    jac_mse_y_hat,
    jac_squared_errors_y_hat,
    linear_regression_bwd,
    linear_regression_fwd,
    mse_bwd,
    mse_fwd,
)
from manual_grad.formulas.softmax import (
    cross_entropy_bwd,
    cross_entropy_fwd,
    jac_cross_entropy_probs,
    jac_softmax_cross_entropy_logits,
    jac_softmax_cross_entropy_logits_one_hot,
    jac_softmax_logits,
    softmax_bwd,
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_fwd,
    softmax_fwd,
)
from manual_grad.kernels.linear_cross_entropy import linear_cross_entropy_bwd, linear_cross_entropy_fwd
from manual_grad.lectures.entries import Claim, Equation, Erratum, pulled, value_of
from manual_grad.networks.cnn import cnn_bwd, cnn_fwd, cnn_grads

# Targets lie off to one side of the predictions: no sum of errors cancels, and each keeps its digits.


def _vectors(draw: Draw) -> dict:
    return {"y_hat": draw.normal(7), "y": 4 + draw.normal(7)}


def _one_feature(draw: Draw) -> dict:
    return {"w": draw.normal(), "b": draw.normal(), "x": draw.normal(7), "y": 4 + draw.normal(7)}


def _many_features(draw: Draw) -> dict:
    return {"w": draw.normal(3), "b": draw.normal(), "x": draw.normal(7, 3), "y": 4 + draw.normal(7)}


def _logits(draw: Draw) -> dict:
    return {"logits": draw.normal(5, 7)}


def _probs_and_labels(draw: Draw) -> dict:
    return {"probs": draw.distribution(5, 7), "labels": draw.distribution(5, 7)}


def _logits_and_labels(draw: Draw) -> dict:
    return {"logits": draw.normal(5, 7), "labels": draw.positive(5, 7)}


def _logits_and_one_hot(draw: Draw) -> dict:
    return {"logits": draw.normal(5, 7), "labels": draw.one_hot(5, 7)}


def _last_layer(draw: Draw) -> dict:
    arrays = {"hidden": draw.normal(7, 5), "W": draw.normal(5, 11), "labels": draw.labels(7, 11)}
    return arrays | {"chunk": 3}


def _images_and_cnn(draw: Draw) -> dict:
    """Four real digits of 28×27 pixels and a network for them.

    In a half precision the pixels are 0 or 1, the kernels 0 or ± a power of two, and no sum of theirs cancels
    the biases: then no rounding moves a pre-activation across ReLU's kink.
    """
    if draw.style != "real":
        return _small_images_and_cnn(draw)
    images, labels = load_digits_28()
    chosen = draw.rng.choice(len(images), 4, replace=False)
    X = jnp.asarray(images[chosen, :, :27, None], draw.dtype)
    K1, b1 = draw.normal(3, 3, 1, 5, scale=(2 / 9) ** 0.5), draw.normal(5, scale=0.3)
    K2, b2 = draw.normal(4, 4, 5, 6, scale=(2 / 80) ** 0.5), draw.normal(6, scale=0.3)
    if jnp.dtype(draw.dtype).itemsize == 2:
        X, K1, b1 = jnp.round(X), jnp.sign(K1) / 4, jnp.full_like(b1, 1 / 8)
        K2, b2 = jnp.sign(K2) * (abs(K2) > 0.2) / 8, jnp.full_like(b2, -1 / 128)
    A3 = reference.cnn.features({"K1": K1, "b1": b1, "K2": K2, "b2": b2}, X)
    (W4, b4), (W5, b5) = draw.layers(A3.shape[1], 11, 10, rows=True, X=A3)
    params = {"K1": K1, "b1": b1, "K2": K2, "b2": b2, "W4": W4, "b4": b4, "W5": W5, "b5": b5}
    return {"params": params, "X": X, "labels": jnp.asarray(jnp.eye(10)[labels[chosen]], draw.dtype)}


def _small_images_and_cnn(draw: Draw) -> dict:
    """Two images of 4×5, 3×4 or 5×5 pixels, and a network of few channels."""
    H, W = {"tiny": (3, 4), "square": (5, 5)}.get(draw.style, (4, 5))
    shapes = {"K1": (2, 2, 1, 2), "b1": (2,), "K2": (2, 2, 2, 1), "b2": (1,), "W4": ((H - 2) * (W - 2), 4)}
    shapes |= {"b4": (4,), "W5": (4, 3), "b5": (3,)}
    params = {name: draw.exactly(*shape) for name, shape in shapes.items()}
    return {
        "params": params,
        "X": draw.exactly(2, H, W, 1),
        "labels": jnp.asarray(jnp.eye(3)[:2], draw.dtype),
    }


def _backward_from_scores(dZ5, params, X, labels):
    """:func:`cnn_grads` on any cotangent of the scores: with ŷ = 0 and y = −N dZ5, A-10 gives just that."""
    res = cnn_fwd(params, X, labels)[1]
    expected, log_probs, _ = res[-1]
    grads = cnn_grads((*res[:-1], (jnp.zeros_like(expected), log_probs, -len(X) * dZ5)), 1.0)
    return {name: grads[f"d{name}"] for name in params}, grads["dX"]


def _slide_shapes(params, X, labels):
    """The slide's tensors, each zero, in the shapes that it states."""
    N, n_H, n_W, l_I = X.shape
    (f1, l_1), (f2, l_2), l_4 = params["K1"].shape[1::2], params["K2"].shape[1::2], params["W4"].shape[1]
    shapes = reference.cnn.cnn_shapes(N, n_H, n_W, l_I, f1, l_1, f2, l_2, l_4, labels.shape[1])
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


def _gradient_shapes(params, X, labels):
    """The gradients of the slide's tensors, times zero: a gradient has the shape of its tensor."""
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
        title="the four Jacobians: scalar or vector f by scalar or vector x",
        section="Jacobian Matrices",
        printed=(
            r"\begin{matrix} & x & \vec{x} \\ f & \frac{\partial f}{\partial x} & \frac{\partial "
            r"f}{\partial \vec{x}} \\ \vec{f} & \frac{\partial \vec{f}}{\partial x} & \frac{\partial "
            r"\vec{f}}{\partial \vec{x}} \end{matrix}"
        ),
        claims=(
            Claim(
                "jacobian",
                reference.chain_rule.square,
                ("x",),
                lambda draw: {"x": draw.normal()},
                {"jac_square_x": jac_square_x},
                says="scalar by scalar, 1×1",
                polynomial=True,
            ),
            Claim(
                "jacobian",
                reference.chain_rule.sum_of_squares,
                ("x",),
                lambda draw: {"x": draw.normal(3)},
                {"jac_sum_of_squares_x": jac_sum_of_squares_x},
                says="scalar by vector, 1×n",
                polynomial=True,
            ),
            Claim(
                "jacobian",
                reference.chain_rule.powers,
                ("x",),
                lambda draw: {"x": draw.normal(), "m": 4},
                {"jac_powers_x": jac_powers_x},
                says="vector by scalar, m×1",
                polynomial=True,
            ),
            Claim(
                "jacobian",
                reference.chain_rule.linear_map,
                ("x",),
                lambda draw: {"M": draw.normal(4, 3), "x": draw.normal(3)},
                {"jac_linear_map_x": jac_linear_map_x},
                says="vector by vector, m×n",
                polynomial=True,
            ),
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
            Claim(
                "jacobian",
                reference.mse.mean,
                ("J0",),
                lambda draw: {"J0": draw.normal(7)},
                {"jac_mean_J0": jac_mean_J0},
                polynomial=True,
            ),
            Claim(
                "value", reference.mse.mse, ("J",), _vectors, {"mse_fwd": value_of(mse_fwd)}, polynomial=True
            ),
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
            Claim(
                "jacobian",
                reference.mse.squared_errors,
                ("y_hat",),
                _vectors,
                {"jac_squared_errors_y_hat": jac_squared_errors_y_hat},
                polynomial=True,
            ),
            Claim("value", reference.mse.mse, ("J",), _vectors, {"mse_fwd": value_of(mse_fwd)}),
        ),
    ),
    Equation(
        tag="A-04",
        title="MSE by the predictions: the two Jacobians multiplied",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial J}{\partial \vec{\hat{y}}} = \frac{\partial J}{\partial \vec{J}_0} "
            r"\frac{\partial \vec{J}_0}{\partial \vec{\hat{y}}} = -\frac{2}{N} \begin{pmatrix} y^{(1)} "
            r"- \hat{y}^{(1)} & y^{(2)} - \hat{y}^{(2)} & \dots & y^{(N)} - \hat{y}^{(N)} \end{pmatrix}"
        ),
        claims=(
            Claim(
                "gradient",
                reference.mse.mse,
                ("y_hat", "y"),
                _vectors,
                {"mse_bwd": pulled(mse_fwd, mse_bwd)},
                says="contracted",
                polynomial=True,
            ),
            Claim(
                "jacobian",
                reference.mse.mse,
                ("y_hat",),
                _vectors,
                {"jac_mse_y_hat": jac_mse_y_hat},
                says="product of the two Jacobians",
                polynomial=True,
            ),
        ),
    ),
    Equation(
        tag="A-05",
        title="MSE of linear regression by the weight: −(2/N) Σ x(y − ŷ)",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial J}{\partial w} = \frac{\partial J}{\partial \vec{\hat{y}}} \frac{\partial "
            r"\vec{\hat{y}}}{\partial w} = -\frac{2}{N} \begin{pmatrix} y^{(1)} - \hat{y}^{(1)} & "
            r"y^{(2)} - \hat{y}^{(2)} & \dots & y^{(N)} - \hat{y}^{(N)} \end{pmatrix} \begin{pmatrix} "
            r"x^{(1)} \\ x^{(2)} \\ \vdots \\ x^{(N)} \end{pmatrix} = -\frac{2}{N} \sum_{i=1}^{N} "
            r"x^{(i)} (y^{(i)} - \hat{y}^{(i)})"
        ),
        claims=(
            Claim(
                "gradient",
                reference.mse.linear_regression,
                ("w", "x", "y"),
                _one_feature,
                {"linear_regression_bwd": pulled(linear_regression_fwd, linear_regression_bwd)},
                says="one feature",
                polynomial=True,
            ),
            Claim(
                "gradient",
                reference.mse.linear_regression,
                ("w", "x", "y"),
                _many_features,
                {"linear_regression_bwd": pulled(linear_regression_fwd, linear_regression_bwd)},
                says="d features",
                polynomial=True,
            ),
            Claim(
                "jacobian",
                reference.mse.linear_regression,
                ("w",),
                _many_features,
                {"jac_linear_regression_w": jac_linear_regression_w},
                says="product of the Jacobians",
                polynomial=True,
            ),
            Claim(
                "jacobian",
                reference.mse.affine,
                ("w",),
                lambda draw: {"w": draw.normal(3), "b": draw.normal(), "x": draw.normal(7, 3)},
                {"jac_affine_w": jac_affine_w},
                says="∂ŷ/∂w",
                polynomial=True,
            ),
        ),
    ),
    Equation(
        tag="A-06",
        title="MSE of linear regression by the bias: −(2/N) Σ (y − ŷ)",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial J}{\partial b} = \frac{\partial J}{\partial \vec{\hat{y}}} \frac{\partial "
            r"\vec{\hat{y}}}{\partial b} = -\frac{2}{N} \begin{pmatrix} y^{(1)} - \hat{y}^{(1)} & "
            r"y^{(2)} - \hat{y}^{(2)} & \dots & y^{(N)} - \hat{y}^{(N)} \end{pmatrix} \begin{pmatrix} 1 "
            r"\\ 1 \\ \vdots \\ 1 \end{pmatrix} = -\frac{2}{N} \sum_{i=1}^{N} (y^{(i)} - \hat{y}^{(i)})"
        ),
        claims=(
            Claim(
                "gradient",
                reference.mse.linear_regression,
                ("b",),
                _one_feature,
                {"linear_regression_bwd": pulled(linear_regression_fwd, linear_regression_bwd)},
                polynomial=True,
            ),
            Claim(
                "jacobian",
                reference.mse.linear_regression,
                ("b",),
                _many_features,
                {"jac_linear_regression_b": jac_linear_regression_b},
                says="product of the Jacobians",
                polynomial=True,
            ),
            Claim(
                "jacobian",
                reference.mse.affine,
                ("b",),
                lambda draw: {"w": draw.normal(), "b": draw.normal(), "x": draw.normal(7)},
                {"jac_affine_b": jac_affine_b},
                says="∂ŷ/∂b",
                polynomial=True,
            ),
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
            Claim(
                "value",
                reference.softmax.softmax,
                ("probs",),
                _logits,
                {"softmax_fwd": value_of(softmax_fwd)},
            ),
            Claim(
                "jacobian",
                reference.softmax.softmax,
                ("logits",),
                lambda draw: {"logits": draw.normal(7)},
                {"jac_softmax_logits": jac_softmax_logits},
                says="one sample",
            ),
            Claim(
                "jacobian",
                reference.softmax.softmax,
                ("logits",),
                _logits,
                {"jac_softmax_logits": jac_softmax_logits},
                says="a batch, block-diagonal",
            ),
        ),
    ),
    Equation(
        tag="A-08",
        title="softmax pulled back: any dŷ to the logits, no K×K matrix",
        section="The MOST Important Thing",
        printed=(
            r"\frac{\partial J}{\partial l_j^{(i)}} = d\hat{y}_j^{(i)} \hat{y}_j^{(i)} - "
            r"\hat{y}_j^{(i)} \sum_{k=1}^{K} d\hat{y}_k^{(i)} \cdot \hat{y}_k^{(i)}"
        ),
        note="One copy of the slides once writes the last class as a small k (dŷ_k beside ŷ_K); K is meant.",
        claims=(
            Claim(
                "gradient",
                reference.softmax.softmax,
                ("logits",),
                _logits,
                {"softmax_bwd": pulled(softmax_fwd, softmax_bwd)},
            ),
        ),
    ),
    Equation(
        tag="A-09",
        title="mean cross-entropy by the probabilities: −(1/N) y_k/ŷ_k",
        section="The MOST Important Thing",
        printed=r"d\hat{y}_k^{(i)} = -\frac{1}{N} \frac{y_k^{(i)}}{\hat{y}_k^{(i)}}",
        note=(
            "The lecture has no line of its own for this: it is what is put in for dŷ in the step "
            "after A-08 (one copy of the slides has both hats there, the other neither, see A-E1)."
        ),
        claims=(
            Claim(
                "value",
                reference.softmax.cross_entropy,
                ("J",),
                _probs_and_labels,
                {"cross_entropy_fwd": value_of(cross_entropy_fwd)},
            ),
            Claim(
                "gradient",
                reference.softmax.cross_entropy,
                ("probs", "labels"),
                _probs_and_labels,
                {"cross_entropy_bwd": pulled(cross_entropy_fwd, cross_entropy_bwd)},
            ),
            Claim(
                "jacobian",
                reference.softmax.cross_entropy,
                ("probs",),
                _probs_and_labels,
                {"jac_cross_entropy_probs": jac_cross_entropy_probs},
            ),
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
            "The first form holds for any labels. The second takes each sample's labels to sum to 1, "
            "which the lecture uses without saying so. Only one copy of the slides prints the matrix form; "
            "the other ends with the entry, printed twice."
        ),
        claims=(
            Claim(
                "value",
                reference.softmax.softmax_cross_entropy,
                ("J",),
                _logits_and_labels,
                {"softmax_cross_entropy_fwd": value_of(softmax_cross_entropy_fwd)},
            ),
            Claim(
                "gradient",
                reference.softmax.softmax_cross_entropy,
                ("logits", "labels"),
                _logits_and_labels,
                {"softmax_cross_entropy_bwd": pulled(softmax_cross_entropy_fwd, softmax_cross_entropy_bwd)},
                says="labels of any sum",
            ),
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
            Claim(
                "value",
                reference.linear_cross_entropy.linear_cross_entropy,
                ("J",),
                _last_layer,
                {"linear_cross_entropy_fwd": value_of(linear_cross_entropy_fwd)},
                at=lambda hidden, W, labels, chunk: {"hidden": hidden, "W": W, "labels": labels},
                says="fused with the last layer, in chunks",
            ),
            Claim(
                "gradient",
                reference.linear_cross_entropy.linear_cross_entropy,
                ("hidden", "W"),
                _last_layer,
                {"linear_cross_entropy_bwd": pulled(linear_cross_entropy_fwd, linear_cross_entropy_bwd)},
                at=lambda hidden, W, labels, chunk: {"hidden": hidden, "W": W, "labels": labels},
                says="fused with the last layer, in chunks",
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
            "The slide gives shapes only. ReLU after both convolutions and after the first dense "
            "layer, VALID padding and stride 1 are our reading. From the flattening on, the "
            "slide's tensors carry a transpose sign but are one sample per row; K and l_5 are the same "
            "number."
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
                says="up to the scores, any cotangent of theirs",
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
            "printed the label cancels against itself (0/0 for every class but the true one) and the "
            "next line does not follow."
        ),
        note=(
            "One copy of the slides drops the hat in the sum too (y_k/y_k), the other has both hats. "
            "Refuted here is y_j/y_j alone; a test refutes the reading with y_k/y_k as well."
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
