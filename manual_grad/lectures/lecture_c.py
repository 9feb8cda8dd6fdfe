"""Lecture C: simple neural networks, the chain rule, and backpropagation in a CNN."""

from dataclasses import replace
from functools import partial

import jax.numpy as jnp

import manual_grad_reference as reference
from manual_grad.catalogue import FORMULAS, chain_rule, convolution, mlp
from manual_grad.catalogue.draw import Draw
from manual_grad.formulas.activations import (
    identity_prime,
    jac_relu_x,
    relu_prime,
    sigmoid_prime,
    softplus_prime,
    tanh_prime,
)
from manual_grad.formulas.chain_rule import diagonal, product_of_sum_bwd, product_of_sum_fwd
from manual_grad.formulas.conv2d import conv2d_plain_bwd, conv2d_plain_fwd
from manual_grad.formulas.correlation import (
    convolve2d_bwd,
    convolve2d_fwd,
    correlate2d_bwd,
    correlate2d_fwd,
    jac_correlate2d_f,
    jac_correlate2d_x,
    jac_correlate2d_x_blocks,
)
from manual_grad.kernels.conv2d import conv2d_bwd, conv2d_fwd
from manual_grad.kernels.conv2d_cpu import conv2d_cpu_bwd, conv2d_cpu_fwd
from manual_grad.lectures.entries import (
    Claim,
    Equation,
    Erratum,
    gradient,
    jacobian,
    pulled,
    value,
    value_of,
)
from manual_grad.networks.mlp import (
    network_squared_loss_bwd,
    network_squared_loss_deltas,
    network_squared_loss_fwd,
)

_PRIMES = {
    "relu": relu_prime,
    "sigmoid": sigmoid_prime,
    "tanh": tanh_prime,
    "softplus": softplus_prime,
    "identity": identity_prime,
}
_PRODUCT_OF_SUM = pulled(product_of_sum_fwd, product_of_sum_bwd)
_NETWORK = pulled(network_squared_loss_fwd, network_squared_loss_bwd)
_CORRELATE = pulled(correlate2d_fwd, correlate2d_bwd)
_CONV2D = {"conv2d_fwd": value_of(conv2d_fwd), "conv2d_plain_fwd": value_of(conv2d_plain_fwd)}
_CONV2D_BACK = {
    "conv2d_bwd": pulled(conv2d_fwd, conv2d_bwd),
    "conv2d_plain_bwd": pulled(conv2d_plain_fwd, conv2d_plain_bwd),
}
_EVERY_CONV2D = _CONV2D | {"as computed on a CPU": value_of(conv2d_cpu_fwd)}
_EVERY_CONV2D_BACK = _CONV2D_BACK | {"as computed on a CPU": pulled(conv2d_cpu_fwd, conv2d_cpu_bwd)}
_POLYNOMIAL = ("relu", "identity")
_WIDTHS = (2, 4, 5, 3)  # of our network; the lecture's has two inputs, then four units

_GEOMETRIES = tuple(convolution.GEOMETRIES.values())
_BRANCHES: tuple[tuple[dict, dict], ...] = (  # sizes and settings for which conv2d takes another path
    (
        {"H": 7, "W": 8, "C": 1, "O": 5},
        {"padding": ((2, -1), (-2, 4)), "strides": (2, 1), "dilation": (1, 2)},
    ),
    ({"H": 6, "W": 12, "C": 3, "kw": 4}, {"padding": ((-1, 2), (1, -2))}),
    ({"H": 3, "W": 6, "C": 2, "kh": 1}, {"padding": "SAME"}),
    ({"H": 4, "W": 5, "C": 2, "kw": 1}, {}),
)


def _point(draw: Draw) -> dict:
    return {name: jnp.asarray(value, draw.dtype) for name, value in {"x": -2, "y": 5, "z": -4}.items()}


_three_numbers = chain_rule.PRODUCT_OF_SUM.inputs
_image_and_filter = convolution.CORRELATE2D.inputs


def _sample(draw: Draw, activation: str) -> dict:
    inputs = mlp.NETWORK_SQUARED_LOSS.inputs(draw, activation)
    return inputs | {"y": draw.like(inputs["y"])}  # near ŷ, so that ŷ − y + y is ŷ in every dtype


def _image_and_kernel(draw: Draw, mode: str) -> dict:
    return convolution.CONVOLVE2D.inputs(draw, mode)


def _conv2d(draw: Draw, sizes: dict, **geometry) -> dict:
    groups = {"groups": geometry["groups"]} if "groups" in geometry else {}
    return convolution.CONV2D.inputs(draw, "valid", **groups, **sizes) | geometry


def _lecture_image_and_filter(draw: Draw) -> dict:
    return {"x": draw.exactly(3, 3), "f": draw.exactly(2, 2)}


def _activation_claims(name: str) -> tuple[Claim, ...]:
    entry, prime = FORMULAS[name], _PRIMES[name]
    ways = {f"{name}_prime": lambda x: diagonal(prime(x))}
    if name == "relu":
        ways["jac_relu_x"] = jac_relu_x
    slope = f"{name}, f′ on the diagonal"
    of_a_matrix = Claim(
        "jacobian", entry.reference, ("x",), entry.inputs, ways, None, slope, entry.polynomial
    )
    return value(entry, "a", name), gradient(entry, says=name), of_a_matrix


def _batch_claims(activation: str) -> list[Claim]:
    return [
        replace(claim, polynomial=activation in _POLYNOMIAL)
        for entry, place in ((mlp.MLP_ROWS, "row"), (mlp.MLP_COLUMNS, "column"))
        for says in [f"{activation}, a sample a {place}"]
        for claim in (value(entry, "Z", says, activation), gradient(entry, says=says, variant=activation))
    ]


def _every_z_and_a(params, x, y, activation):
    """z of every layer, and a of every layer starting with x, from the forward pass's residuals."""
    layers, z, error = network_squared_loss_fwd(params, x, y, activation=activation)[1]
    zs, activations = [*(Z[:, 0] for Z in layers.Zs), z], [*(A[:, 0] for A in layers.As), error + y]
    return zs, activations


def _output_delta(dL, params, x, y, activation):
    """(ŷ − y) ⊙ f′(z^L)."""
    _, z, error = network_squared_loss_fwd(params, x, y, activation=activation)[1]
    return dL * error * _PRIMES[activation](z)


def _delta_claim(l: int, activation: str, **more_formulas) -> Claim:
    """The claim about δ of layer l, counted from 0 after the input: the loss as a function of its z."""

    def deltas(dL, **inputs):
        return network_squared_loss_deltas(network_squared_loss_fwd(**inputs)[1], dL)[l]

    def from_z(params, x, y, activation):
        z = reference.mlp.network(params, x, activation)[0][l]
        return {"params_after": params[l + 1 :], "z": z, "y": y, "activation": activation}

    return Claim(
        "gradient",
        reference.mlp.squared_loss_from_z,
        ("z",),
        partial(_sample, activation=activation),
        {"network_squared_loss_deltas": deltas, **more_formulas},
        at=from_z,
        says=f"layer {l + 2}, {activation}",
        polynomial=activation in _POLYNOMIAL,
    )


def _conv2d_claims(*wrt: str, branches: bool = False) -> tuple[Claim, ...]:
    """Claims about Conv2D's gradient by ``wrt`` for each geometry or, without ``wrt``, about its value.

    The exact oracle, which is slow for convolutions, checks only the entry's geometries.
    """
    back, forward = (_EVERY_CONV2D_BACK, _EVERY_CONV2D) if branches else (_CONV2D_BACK, _CONV2D)
    return tuple(
        Claim(
            "gradient" if wrt else "value",
            reference.conv2d.conv2d,
            wrt or ("Z",),
            partial(_conv2d, sizes=sizes, **geometry),
            back if wrt else forward,
            says="Conv2D layer, " + (", ".join(f"{k} {v}" for k, v in geometry.items()) or "stride 1, VALID"),
            polynomial=not branches,
        )
        for sizes, geometry in (_BRANCHES if branches else [({}, geometry) for geometry in _GEOMETRIES])
    )


def _convolve2d_claims(mode: str, sizes: str) -> tuple[Claim, ...]:
    inputs, says = partial(_image_and_kernel, mode=mode), f"{mode}: {sizes}"
    backward = {"convolve2d_bwd": pulled(convolve2d_fwd, convolve2d_bwd)}
    return (
        Claim(
            "value",
            reference.conv2d.convolve2d,
            ("Y",),
            inputs,
            {"convolve2d_fwd": value_of(convolve2d_fwd), "X ⋆ rot180(W)": _correlate_with_turned},
            says=says,
            polynomial=True,
        ),
        Claim(
            "gradient", reference.conv2d.convolve2d, ("x", "w"), inputs, backward, says=says, polynomial=True
        ),
    )


def _correlate_with_turned(x, w, mode):
    return correlate2d_fwd(_surrounded(x, w) if mode == "full" else x, w[::-1, ::-1])[0]


def _surrounded(x, f):
    """``x`` padded with as many zeros as the full convolution reads."""
    kh, kw = f.shape
    return jnp.pad(x, ((kh - 1, kh - 1), (kw - 1, kw - 1)))


def _four_sums(x, f):
    """O11 to O22 of a 3×3 image and a 2×2 filter, term by term."""
    (x11, x12, x13), (x21, x22, x23), (x31, x32, x33) = x
    (F11, F12), (F21, F22) = f
    O11 = x11 * F11 + x12 * F12 + x21 * F21 + x22 * F22
    O12 = x12 * F11 + x13 * F12 + x22 * F21 + x23 * F22
    O21 = x21 * F11 + x22 * F12 + x31 * F21 + x32 * F22
    O22 = x22 * F11 + x23 * F12 + x32 * F21 + x33 * F22
    return jnp.array([[O11, O12], [O21, O22]])


def _doubly_toeplitz(x, f):
    """∂O/∂X as Σ_a S_a ⊗ T_a: S_a has ones where p − i = a, T_a is the Toeplitz block of F's row a."""
    kh, H = len(f), len(x)
    shifts = jnp.stack([jnp.eye(H - kh + 1, H, a, dtype=x.dtype) for a in range(kh)])
    return jnp.einsum("aip,ajq->ijpq", shifts, jac_correlate2d_x_blocks(x, f))


def _c_e1_as_printed(dO, x, f):
    """∂L/∂O ∗ rot180(F), full, with ∗ the true convolution of C-07."""
    return convolve2d_fwd(dO, f[::-1, ::-1], mode="full")[0]


_SENTENCE = "∂L/∂x is convolution between 180° rotated F and Loss Gradient from the next layer ∂L/∂o"

TITLE = "Simple neural networks, and backpropagation in a CNN"
EQUATIONS = (
    Equation(
        tag="C-01",
        title="a small graph: (x + y) z and its gradients at (−2, 5, −4)",
        section="Chain Rule",
        printed=(
            r"f(x, y, z) = (x + y) z, \quad q = x + y, \quad f = q z, \quad x = -2, \quad y = 5, \quad "
            "z = -4"
        ),
        corrected=(
            r"\begin{array}{l} f(x, y, z) = (x + y) z, \quad q = x + y, \quad f(-2, 5, -4) = -12 \\ "
            r"\frac{\partial f}{\partial q} = z = -4, \quad \frac{\partial f}{\partial x} = "
            r"\frac{\partial f}{\partial y} = -4, \quad \frac{\partial f}{\partial z} = q = 3 "
            r"\end{array}"
        ),
        note=(
            "Not an error: the notes give the function and the point only; the values are worked out here."
        ),
        claims=(
            Claim(
                "value",
                reference.chain_rule.product_of_sum,
                ("f",),
                _point,
                {
                    "product_of_sum_fwd": value_of(product_of_sum_fwd),
                    "f = −12": lambda x, y, z: jnp.full_like(x, -12),
                },
                says="at (−2, 5, −4)",
            ),
            Claim(
                "gradient",
                reference.chain_rule.product_of_sum,
                ("x", "y", "z"),
                _point,
                {
                    "product_of_sum_bwd": _PRODUCT_OF_SUM,
                    "(−4, −4, 3)": lambda df, x, y, z: (-4 * df, -4 * df, 3 * df),
                },
                says="at (−2, 5, −4)",
            ),
            value(chain_rule.PRODUCT_OF_SUM, "f", says="anywhere"),
            Claim(
                "gradient",
                reference.chain_rule.product_of_sum,
                ("x", "y", "z"),
                _three_numbers,
                {"product_of_sum_bwd": _PRODUCT_OF_SUM},
                says="anywhere",
                polynomial=True,
            ),
            Claim(
                "gradient",
                reference.chain_rule.product,
                ("q",),
                _point,
                {
                    "product_of_sum_bwd": lambda df, **inputs: _PRODUCT_OF_SUM(df, **inputs)["x"],
                    "∂f/∂q = z": lambda df, x, y, z: df * z,
                    "−4": lambda df, x, y, z: -4 * df,
                },
                at=lambda x, y, z: {"q": x + y, "z": z},
                says="∂f/∂q, which is ∂f/∂x as ∂q/∂x is 1",
            ),
        ),
    ),
    Equation(
        tag="C-02",
        title="forward pass of a deep network: weighted sum, then activation",
        section="Simple Neural Networks",
        printed=(
            r"z_i^2 = \sum_{j=1}^{2} w_{ij} x_j + b_i^1, \quad a_i^2 = f(z_i^2), \quad z_i^4 (a_i^4) = "
            r"\hat{y}_i"
        ),
        corrected=(
            r"z_i^{l+1} = \sum_j w_{ij}^l a_j^l + b_i^l, \quad a_i^l = f(z_i^l), \quad a_i^1 = x_i, "
            r"\quad \hat{y}_i = a_i^L"
        ),
        note=(
            "Not an error: the notes write out the first layer of their network (the weight without "
            "its layer's index); the version here holds for any layer."
        ),
        claims=(
            *(claim for name in _PRIMES for claim in _activation_claims(name)),
            *(claim for name in _PRIMES for claim in _batch_claims(name)),
            Claim(
                "value",
                reference.mlp.network,
                ("z, a",),
                partial(_sample, activation="sigmoid"),
                {"network_squared_loss_fwd": _every_z_and_a},
                at=lambda params, x, y, activation: {"params": params, "x": x, "activation": activation},
                says="every layer's z and a, sigmoid",
            ),
        ),
    ),
    Equation(
        tag="C-03",
        title="loss: half the sum of squared errors",
        section="Simple Neural Networks",
        printed=r"L = \frac{1}{2} \sum_{i=1}^{n} (\hat{y}_i - y_i)^2",
        note=(
            "Printed twice, first with 2 and then with n as the upper limit. The notes call it MSE, "
            "but it is not divided by n."
        ),
        claims=(
            *(
                replace(value(mlp.NETWORK_SQUARED_LOSS, "L", name, name), polynomial=name in _POLYNOMIAL)
                for name in _PRIMES
            ),
            Claim(
                "gradient",
                reference.mlp.network_squared_loss,
                ("params", "x", "y"),
                partial(_sample, activation="sigmoid"),
                {"network_squared_loss_bwd": _NETWORK},
                says="sigmoid",
            ),
        ),
    ),
    Equation(
        tag="C-04",
        title="delta of the output layer: error times the slope of f",
        section="Chain Rule",
        printed=(
            r"\delta_i^4 = \frac{\partial L}{\partial z_i^4} = (\hat{y}_i - y_i) \cdot \frac{\partial "
            r"\hat{y}_i}{\partial z_i^4}"
        ),
        corrected=r"\delta^L = \frac{\partial L}{\partial z^L} = (\hat{y} - y) \odot f'(z^L)",
        note=(
            "Not an error: the notes have it for their last layer, 4, one entry at a time; the "
            "version here holds for any depth L."
        ),
        claims=(*(_delta_claim(2, name, **{"(ŷ − y) ⊙ f′(z)": _output_delta}) for name in _PRIMES),),
    ),
    Equation(
        tag="C-05",
        title="delta recursion: back through the weights, times the slope of f",
        section="Chain Rule",
        printed=r"\delta_i^l = \sum_{j=1}^{M_{l+1}} \delta_j^{l+1} \cdot w_{ji} \cdot f'(z_i^l)",
        note=(
            "M_{l+1} is the number of neurons of layer l+1. The weight is w^l_ji; the notes leave out "
            "its layer's index."
        ),
        claims=(
            _delta_claim(1, "sigmoid"),
            *(_delta_claim(0, name) for name in _PRIMES),  # the first layer's, through all later layers
            gradient(
                mlp.MLP_ROWS, "X", says="a batch, one sample per row: down to the input", variant="tanh"
            ),
            gradient(
                mlp.MLP_COLUMNS, "X", says="a batch, one sample per column: down to the input", variant="tanh"
            ),
        ),
    ),
    Equation(
        tag="C-06",
        title="gradients of weights and biases from the deltas",
        section="Chain Rule",
        printed=(
            r"\frac{\partial L}{\partial w_{ij}^l} = \frac{\partial L}{\partial z_i^{l+1}} \cdot "
            r"\frac{\partial z_i^{l+1}}{\partial w_{ij}^l}, \quad l = 1, 2, 3"
        ),
        corrected=(
            r"\frac{\partial L}{\partial w_{ij}^l} = \delta_i^{l+1} a_j^l, \quad \frac{\partial "
            r"L}{\partial b_i^l} = \delta_i^{l+1}"
        ),
        note=(
            "Not an error: the notes stop at the chain rule, written once each for layers 3, 2 and 1, "
            "and leave out the bias; here both are worked out."
        ),
        claims=(
            *(
                Claim(
                    "gradient",
                    reference.mlp.network_squared_loss,
                    ("params",),
                    partial(_sample, activation=name),
                    {"network_squared_loss_bwd": _NETWORK},
                    says=name,
                    polynomial=name in _POLYNOMIAL,
                )
                for name in _PRIMES
            ),
        ),
    ),
    Equation(
        tag="C-07",
        title="true convolution, stride 1, one channel: the filter's index runs against the image's",
        section="Backpropagation in CNN",
        printed=r"Y[i, j] = \sum_{a=0}^{k_1 - 1} \sum_{b=0}^{k_2 - 1} X[i - a, j - b] \, W[a, b]",
        note=(
            "The notes do not say what X is where i−a or j−b is outside it. Both readings are kept: full "
            "(X is 0 outside) and valid (only where no index leaves X)."
        ),
        claims=(
            *_convolve2d_claims("full", "X is 0 outside"),
            *_convolve2d_claims("valid", "only where every index is inside X"),
        ),
    ),
    Equation(
        tag="C-08",
        title="cross-correlation of a 3×3 image with a 2×2 filter, four sums",
        section="Backpropagation in CNN",
        printed=(
            r"\begin{array}{l} O_{11} = x_{11} F_{11} + x_{12} F_{12} + x_{21} F_{21} + x_{22} F_{22} "
            r"\\ O_{12} = \underline{\qquad\qquad} \\ O_{21} = \underline{\qquad\qquad} \\ O_{22} = "
            r"\underline{\qquad\qquad} \end{array}"
        ),
        corrected=(
            r"\begin{array}{l} O_{11} = x_{11} F_{11} + x_{12} F_{12} + x_{21} F_{21} + x_{22} F_{22} "
            r"\\ O_{12} = x_{12} F_{11} + x_{13} F_{12} + x_{22} F_{21} + x_{23} F_{22} \\ O_{21} = "
            r"x_{21} F_{11} + x_{22} F_{12} + x_{31} F_{21} + x_{32} F_{22} \\ O_{22} = x_{22} F_{11} + "
            r"x_{23} F_{12} + x_{32} F_{21} + x_{33} F_{22} \end{array}"
        ),
        note=(
            "The notes leave O21 and O22 blank and break off O12 after “O_12 = x_21”. Its first term "
            "is x_12 F_11, so we take the x_21 for a slip and O12 for a blank like the others."
        ),
        claims=(
            Claim(
                "value",
                reference.conv2d.correlate2d,
                ("O",),
                _lecture_image_and_filter,
                {"correlate2d_fwd": value_of(correlate2d_fwd), "O11 to O22 written out": _four_sums},
                says="3×3 and 2×2",
                polynomial=True,
            ),
            value(convolution.CORRELATE2D, "O", says="any size"),
            Claim(
                "gradient",
                reference.conv2d.correlate2d,
                ("x", "f"),
                _image_and_filter,
                {"correlate2d_bwd": _CORRELATE},
                says="any size",
                polynomial=True,
            ),
            *_conv2d_claims(),
            *_conv2d_claims("x", "kernel", "bias")[-1:],
            *_conv2d_claims(branches=True),
            *_conv2d_claims("x", "kernel", "bias", branches=True),
        ),
    ),
    Equation(
        tag="C-09",
        title="gradient of the filter: the image correlated with ∂L/∂O",
        section="Backpropagation in CNN",
        printed=(
            r"\frac{\partial L}{\partial F} = \operatorname{conv} \left( X, \frac{\partial L}{\partial "
            r"O} \right)"
        ),
        corrected=(
            r"\frac{\partial L}{\partial F} = X \star \frac{\partial L}{\partial O}, \quad "
            r"\frac{\partial L}{\partial F_{ab}} = \sum_{i,j} X_{i+a,\,j+b} \frac{\partial L}{\partial "
            "O_{ij}}"
        ),
        note=(
            "The notes have a sentence here, and the formula for it is ours. It holds for a valid "
            "cross-correlation (⋆), not for the true convolution of C-07: see C-E1. Indices count from 0."
        ),
        sentence="∂L/∂F is convolution between input x and Loss Gradient from the next layer ∂L/∂o",
        claims=(
            Claim(
                "gradient",
                reference.conv2d.correlate2d,
                ("f",),
                _image_and_filter,
                {
                    "correlate2d_bwd": _CORRELATE,
                    "X ⋆ dO": lambda dO, x, f: correlate2d_fwd(x, dO)[0],
                    "dO · ∂O/∂F": lambda dO, x, f: jnp.tensordot(dO, jac_correlate2d_f(x, f), axes=2),
                },
                polynomial=True,
            ),
            *_conv2d_claims("kernel"),
        ),
    ),
    Equation(
        tag="C-10",
        title="gradient of the image: full correlation of ∂L/∂O with rotated F",
        section="Backpropagation in CNN",
        printed=(
            r"\frac{\partial L}{\partial X} = \operatorname{conv} \left( \operatorname{rot}_{180}(F), "
            r"\frac{\partial L}{\partial O} \right)"
        ),
        corrected=(
            r"\frac{\partial L}{\partial X} = \frac{\partial L}{\partial O} \star_{\text{full}} "
            r"\operatorname{rot}_{180}(F) = \frac{\partial L}{\partial O} \ast_{\text{full}} F"
        ),
        note=(
            "The notes have a sentence here, and the formula for it is ours. ⋆ is cross-correlation, "
            "∗ true convolution; the notes have one word for both: see C-E1."
        ),
        sentence=_SENTENCE,
        claims=(
            Claim(
                "gradient",
                reference.conv2d.correlate2d,
                ("x",),
                _image_and_filter,
                {
                    "correlate2d_bwd": _CORRELATE,
                    "dO ⋆ rot180(F), full": lambda dO, x, f: correlate2d_fwd(
                        _surrounded(dO, f), f[::-1, ::-1]
                    )[0],
                    "dO ∗ F, full": lambda dO, x, f: convolve2d_fwd(dO, f, mode="full")[0],
                    "dO · ∂O/∂X": lambda dO, x, f: jnp.tensordot(dO, jac_correlate2d_x(x, f), axes=2),
                },
                polynomial=True,
            ),
            *_conv2d_claims("x"),
        ),
    ),
    Equation(
        tag="C-11",
        title="local gradients of the correlation, w.r.t. image and filter",
        section="Backpropagation in CNN",
        printed=r"\frac{\partial O}{\partial X}, \quad \frac{\partial O}{\partial F}",
        corrected=(
            r"\frac{\partial O_{ij}}{\partial X_{pq}} = F_{p-i,\,q-j}, \quad \frac{\partial "
            r"O_{ij}}{\partial F_{ab}} = X_{i+a,\,j+b}"
        ),
        note=(
            "Not an error: the notes name the two “local gradients” and leave them open. Indices "
            "count from 0; F is 0 where its index falls outside the filter."
        ),
        claims=(
            Claim(
                "jacobian",
                reference.conv2d.correlate2d,
                ("x",),
                _image_and_filter,
                {"jac_correlate2d_x": jac_correlate2d_x, "Σ_a S_a ⊗ T_a": _doubly_toeplitz},
                says="∂O/∂X",
                polynomial=True,
            ),
            jacobian("jac_correlate2d_f", polynomial=True, says="∂O/∂F"),
        ),
    ),
)

ERRATA = (
    Erratum(
        tag="C-E1",
        title="one name, “convolution”, for two operations",
        section="Backpropagation in CNN",
        printed=(
            r"\frac{\partial L}{\partial X} = \frac{\partial L}{\partial O} \ast_{\text{full}} "
            r"\operatorname{rot}_{180}(F)"
        ),
        corrected=(
            r"\frac{\partial L}{\partial X} = \frac{\partial L}{\partial O} \star_{\text{full}} "
            r"\operatorname{rot}_{180}(F) = \frac{\partial L}{\partial O} \ast_{\text{full}} F"
        ),
        corrects="C-10",
        why=(
            "C-07 defines a true convolution, which rotates the filter itself, while C-08 to C-10 are "
            "about a cross-correlation. Taken literally, C-10 rotates F twice, that is, not at all, and "
            "is right only for an F that equals its own rotation."
        ),
        note="The formula is ours: C-10's sentence, read with C-07's definition of convolution.",
        sentence=_SENTENCE,
        claim=Claim(
            "gradient",
            reference.conv2d.correlate2d,
            ("x",),
            _image_and_filter,
            {"correlate2d_bwd": _CORRELATE},
            polynomial=True,
        ),
        as_printed=_c_e1_as_printed,
    ),
)
