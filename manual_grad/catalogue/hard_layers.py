"""The hard inputs of activations, layers and networks."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from manual_grad.catalogue.hard import (
    NAIVE,
    Arrays,
    Hard,
    Rng,
    flushed,
    inf,
    left_out,
    log_softmax_at,
    nan,
    soft,
    transposed,
    with_nan,
)


def _relu_right(point: Arrays, dout: np.ndarray) -> tuple:
    """max(x, 0) and dout ⊙ 1{x > 0}."""
    (x,) = point.values()
    return np.where(x > 0, x, np.where(np.isnan(x), nan, 0)), np.where(x > 0, dout, 0)


def _mlp_by_maximum(params: Any, X: Any) -> Any:
    *before, (W, b) = params
    for V, a in before:
        X = jnp.maximum(X @ V + a, 0)
    return X @ W + b


def _squared_loss_by_maximum(W1: Any, b1: Any, W2: Any, b2: Any, x: Any, y: Any) -> Any:
    return ((W2 @ jnp.maximum(W1 @ x + b1, 0) + b2 - y)[0] ** 2) / 2


def _conv(x: Any, kernel: Any, bias: Any) -> Any:
    return (
        lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        + bias
    )


RELUS: dict[str, Callable | None] = {
    "jax.nn.relu": jax.nn.relu,
    "jnp.maximum(x, 0)": lambda x: jnp.maximum(x, 0),
    "jnp.where(x > 0, x, 0)": lambda x: jnp.where(x > 0, x, 0),
}


# ------------------------------------------------------------------------------------ activations


def _of_relu(name: str, says: str, x: list, differs: tuple = (), why: str = "", **also: Any) -> Hard:
    """ReLU of these numbers."""
    return Hard(
        name, says, lambda rng: {"x": np.array(x, float)}, RELUS, differs, why, right=_relu_right,
        entrywise=True, **also,
    )  # fmt: skip


def _saturated(ways: dict[str, Callable | None], differs: tuple[str, ...], why: str) -> tuple[Hard, ...]:
    """Inputs at which a smooth activation's slope vanishes."""
    return (
        Hard(
            "saturated activations",
            "The limits at ±∞, and accurate derivatives before that, where 1 − σ or 1 − tanh² would be 0.",
            lambda rng: {"x": np.array([-1e4, -300, -40, 40, 150, 1e4, -inf, inf])},
            ways,
            differs,
            why,
            digits=320,
            entrywise=True,
        ),
    )


RELU = (
    _of_relu(
        "ReLU at exactly 0 and −0.0",
        "The lecture's 1{z > 0} is 0 there, one of the subgradients from 0 to 1, and −0.0 is 0.",
        [0.0, -0.0, 2.0, -3.0],
        ("jnp.maximum(x, 0)",),
        "at a tie jnp.maximum gives each side ½",
    ),
    _of_relu(
        "ReLU at ±∞ and NaN",
        "Slope 1 at ∞, 0 at −∞; 1{z > 0} is 0 at NaN too, but the value there is NaN, so the loss shows it.",
        [inf, -inf, nan, 1.0],
        ("jnp.where(x > 0, x, 0)",),
        "its value at NaN is 0, and hides it",
    ),
    Hard(
        "ReLU with an infinite or NaN cotangent",
        "An inactive unit passes nothing on: the result is 0, by a select; 0 · ∞ would be NaN.",
        lambda rng: {"x": np.array([-1.0, 0.0, -2.0, 3.0]), "dout": np.array([inf, -inf, nan, 5.0])},
        RELUS,
        ("jnp.maximum(x, 0)",),
        "it multiplies by the slope: 0 · ∞",
        right=_relu_right,
    ),
    *(
        _of_relu(
            "subnormal numbers",
            "A subnormal number is greater than 0, so the derivative is 1; where the device flushes it to "
            f"0, as XLA:CPU does, it is that at 0 ({dtype}).",
            [number, -number, 1e-3],
            ("jnp.maximum(x, 0)",),
            "a tie, once the number is flushed to 0: ½, which is neither",
            dtype=dtype,
            also=flushed(dtype),
        )
        for dtype, number in (("float64", 1e-310), ("float32", 1e-40))
    ),
)
SIGMOID = _saturated(
    {"1/(1+exp(−x))": None, "jax.nn.sigmoid": jax.nn.sigmoid},
    ("1/(1+exp(−x))", "jax.nn.sigmoid"),
    "1 − σ cancels from x = 37 on; exp(−x) overflows",
)
TANH = _saturated({"jnp.tanh": jnp.tanh}, ("jnp.tanh",), "1 − tanh² cancels from |x| = 19 on")
SOFTPLUS = _saturated(
    {"log(1+exp(x))": None, "jax.nn.softplus": jax.nn.softplus},
    ("log(1+exp(x))",),
    "exp(x) overflows, and 1 + exp(x) is 1 below x = −37",
)


# ------------------------------------------------------------------------------------ layers and networks


def _two_layers(rng: Rng, d: int, m: int, c: int) -> list[np.ndarray]:
    return [rng.standard_normal(shape) for shape in ((d, m), (m,), (m, c), (c,))]


def _rows_net(rng: Rng, X: np.ndarray, scale: float = 1.0) -> Arrays:
    W1, b1, W2, b2 = _two_layers(rng, X.shape[1], 4, 3)
    return {"W1": W1, "b1": abs(b1), "W2": scale * W2, "b2": b2, "X": X, "y": rng.integers(0, 3, len(X))}


def _dead_layers(rng: Rng, rows: bool) -> Arrays:
    """A first layer whose every z is exactly 0: weights 0, biases 0 and −0.0."""
    W1, _, W2, b2 = _two_layers(rng, 2, 4, 3)
    X = rng.standard_normal((5, 2))
    params = [(0 * W1, np.array([0.0, -0.0, 0.0, -0.0])), (W2, b2)]
    return {"params": params, "X": X} if rows else {"params": [(W.T, b) for W, b in params], "X": X.T}


def _five(rng: Rng, X: np.ndarray, scale: float = 1.0) -> Arrays:
    widths = (X.shape[0], 4, 3, 3, 2, 3)
    params = [
        (scale * rng.standard_normal((after, before)), abs(rng.standard_normal(after)))
        for before, after in pairwise(widths)
    ]
    return {"params": params, "X": X, "Y": soft(rng, X.shape[1], 3).T}


def _cnn_params(rng: Rng, pixels: int) -> dict[str, np.ndarray]:
    shapes: dict[str, Any] = {
        "K1": (1, 1, 2, 3), "b1": 3, "K2": (1, 1, 3, 2), "b2": 2,
        "W4": (2 * pixels, 4), "b4": 4, "W5": (4, 3), "b5": 3,
    }  # fmt: skip
    return {name: rng.standard_normal(shape) + (name[0] == "b") for name, shape in shapes.items()}


def _cnn_inputs(rng: Rng, X: np.ndarray) -> Arrays:
    return {"params": _cnn_params(rng, X.shape[1] * X.shape[2]), "X": X, "labels": soft(rng, len(X), 3)}


def _conv_inputs(rng: Rng, x: np.ndarray, kernel: tuple[int, ...]) -> Arrays:
    return {"x": x, "kernel": rng.standard_normal(kernel), "bias": rng.standard_normal(kernel[-1])}


def _dense_inputs(rng: Rng, X: np.ndarray) -> Arrays:
    return {"X": X, "W": rng.standard_normal((X.shape[1], 4)), "b": rng.standard_normal(4)}


DENSE: dict[str, Callable | None] = {"X @ W + b": None}
CONV: dict[str, Callable | None] = {"lax.conv_general_dilated": _conv}
TWO_LAYER_CROSS_ENTROPY_ROWS = (
    Hard(
        "logits of ±1e4",
        "Through the layers below: δ² = (p − y)/N is finite, and so is every gradient.",
        lambda rng: _rows_net(rng, rng.standard_normal((3, 2)), 1e4),
        {
            "−ln(exp/Σexp)[y]": None,
            "−jax.nn.log_softmax[y]": lambda W1, b1, W2, b2, X, y: log_softmax_at(
                jax.nn.relu(X @ W1 + b1) @ W2 + b2, y
            ),
        },
        NAIVE[2:],
        "e^{10000} overflows",
    ),
    Hard(
        "NaN in one sample",
        "Rows 0 and 2 of dX do not depend on it. Below the ReLU the mask 1{z > 0} is 0 at NaN, so its own "
        "row, and its contribution to dW¹ and db¹, may be 0; J, dW² and db² are NaN.",
        lambda rng: _rows_net(rng, with_nan(rng.standard_normal((3, 2)), 1, 0)),
        {"−ln(exp/Σexp)[y]": None},
        show=("dX", slice(None)),
        also=left_out(("X", "y"), 1),
    ),
)
TWO_LAYER_CROSS_ENTROPY_COLUMNS = (
    Hard(
        "logits of ±1e4",
        "The same in columns.",
        lambda rng: transposed(_rows_net(rng, rng.standard_normal((3, 2)), 1e4)),
        {"−ln(exp/Σexp)[y]": None},
        NAIVE[2:],
        "e^{10000} overflows",
    ),
)
FIVE_LAYER = (
    Hard(
        "logits of ±1e4",
        "The same through lecture D's five layers.",
        lambda rng: _five(rng, rng.standard_normal((2, 3)), 10.0),
        {"−Σ y ln(exp/Σexp)": None},
        NAIVE[1:2],
        "e^{10000} overflows",
        show=("dX", slice(None)),
    ),
)
DENSE_ROWS = (
    Hard(
        "NaN in one sample",
        "Its row of Z is NaN; dX = dZ Wᵀ does not depend on X; in dW = Xᵀ dZ only the row of the NaN "
        "feature is NaN.",
        lambda rng: _dense_inputs(rng, with_nan(rng.standard_normal((3, 2)), 1, 0)),
        DENSE,
        show=("dW", slice(None)),
    ),
    Hard(
        "one sample, one pixel",
        "N = 1: the gradient of the bias is that of the sample.",
        lambda rng: _dense_inputs(rng, rng.standard_normal((1, 2))),
        DENSE,
    ),
    Hard(
        "subnormal numbers",
        "1e-310 · 1e300 = 1e-10; 0 where the device flushes subnormals to 0, as XLA:CPU does.",
        lambda rng: {
            "X": np.array([[1e-310, 3e-310]]),
            "W": rng.uniform(1, 2, (2, 3)) * 1e300,
            "b": np.zeros(3),
        },
        DENSE,
        show=("out", slice(None)),
        also=flushed("float64"),
    ),
)
DENSE_COLUMNS = (
    Hard(
        "NaN in one sample",
        "The same in columns.",
        lambda rng: transposed(_dense_inputs(rng, with_nan(rng.standard_normal((3, 2)), 1, 0))),
        {"W @ X + b": None},
        show=("dW", slice(None)),
    ),
)
CNN = (
    Hard(
        "NaN in one sample",
        "The gradients of the other images do not depend on it; its own, and its contribution to whatever "
        "is below a ReLU, may be 0.",
        lambda rng: _cnn_inputs(rng, with_nan(rng.standard_normal((3, 1, 2, 2)), 1, 0, 0, 0)),
        {"−Σ y ln(exp/Σexp)": None},
        show=("dX", slice(0, 2)),
        also=left_out(("X", "labels"), 1),
    ),
    Hard(
        "ReLU at exactly 0 and −0.0",
        "Black images and biases of 0: both convolutions give exactly 0, and no gradient passes them.",
        lambda rng: {
            "params": _cnn_params(rng, 4) | {"b1": np.zeros(3), "b2": np.zeros(2)},
            "X": np.zeros((2, 2, 2, 2)),
            "labels": soft(rng, 2, 3),
        },
        {"jax.nn.relu": None},
        show=("dparams['b1']", slice(None)),
    ),
    Hard(
        "one sample, one pixel",
        "One image of one pixel, through 1×1 kernels: four dense layers.",
        lambda rng: _cnn_inputs(rng, rng.standard_normal((1, 1, 1, 2))),
        {"−Σ y ln(exp/Σexp)": None},
        show=("dX", slice(None)),
    ),
)
CONV2D = (
    Hard(
        "NaN in one sample",
        "Its own image of Z and the kernel entries multiplied by that pixel are NaN; dX does not depend on "
        "X.",
        lambda rng: _conv_inputs(rng, with_nan(rng.standard_normal((2, 2, 3, 1)), 1, 0, 0, 0), (2, 2, 1, 2)),
        CONV,
        show=("dkernel", slice(None)),
    ),
    Hard(
        "one sample, one pixel",
        "A product and a sum: Z = x K + b.",
        lambda rng: _conv_inputs(rng, rng.standard_normal((1, 1, 1, 1)), (1, 1, 1, 1)),
        CONV,
    ),
    Hard(
        "one sample, one pixel",
        "A kernel as large as the image is a dense layer over its pixels: dK = dZ X, dX = dZ K, unrotated.",
        lambda rng: _conv_inputs(rng, rng.standard_normal((1, 2, 3, 1)), (2, 3, 1, 1)),
        CONV,
    ),
    Hard(
        "more channels than XLA:CPU gives to Eigen's convolution",
        "17 in float32: every other row of image and kernel is left empty and skipped.",
        lambda rng: _conv_inputs(rng, rng.standard_normal((1, 4, 2, 17)), (2, 1, 17, 1)),
        dtype="float32",
        settings={"padding": ((-1, 1), (0, 1))},
        show=("dkernel", slice(0, 1)),
    ),
    Hard(
        "sums beyond float16",
        "One pixel seen by three windows, through a kernel entry each: two of the contributions to dX are "
        "more than 65 504 together, with the third they are not.",
        lambda rng: (
            _conv_inputs(rng, rng.uniform(0.5, 1, (1, 1, 1, 1)), (1, 3, 1, 1))
            | {
                "kernel": rng.uniform(17_000, 25_000, (1, 3, 1, 1)),
                "dout": np.array([-2.0, 2, 2]).reshape(1, 1, 3, 1),
            }
        ),
        dtype="float16",
        settings={"padding": ((0, 0), (2, 2))},
        show=("dx", slice(None)),
    ),
)
CROPPED = (
    Hard(
        "cropped at one end and padded at the other",
        "In float32, where XLA:CPU's own convolution reads out of bounds. Rows and columns, spread by a "
        "stride; dX is 0 where X was cropped.",
        lambda rng: _conv_inputs(rng, rng.standard_normal((1, 4, 5, 2)), (2, 2, 2, 1)),
        dtype="float32",
        settings={"padding": ((-1, 2), (1, -2)), "strides": (1, 2)},
        show=("dkernel", slice(None)),
    ),
    Hard(
        "cropped at one end and padded at the other",
        "The same where only rows are cropped.",
        lambda rng: _conv_inputs(rng, rng.standard_normal((2, 5, 3, 2)), (2, 1, 2, 2)),
        dtype="float32",
        settings={"padding": ((3, -2), (0, 0))},
        show=("dkernel", slice(None)),
    ),
)
MLP_ROWS = (
    Hard(
        "ReLU at exactly 0 and −0.0",
        "Every hidden z is 0: nothing is passed on: dX, dW¹ and db¹ are 0, and dW² too, since a = 0.",
        partial(_dead_layers, rows=True),
        {"jax.nn.relu": None, "jnp.maximum(z, 0)": _mlp_by_maximum},
        ("jnp.maximum(z, 0)",),
        "it lets half of each gradient through",
        show=("dparams[0][1]", slice(None)),
    ),
)
MLP_COLUMNS = (
    Hard(
        "ReLU at exactly 0 and −0.0",
        "The same in columns.",
        partial(_dead_layers, rows=False),
        {"jax.nn.relu": None},
        show=("dparams[0][1]", slice(None)),
    ),
)
TWO_LAYER_SQUARED_LOSS = (
    Hard(
        "ReLU at exactly 0 and −0.0",
        "z = 0 in units 0 and 1 (dead for this sample), ±1 in the others: of the four only the last learns.",
        lambda rng: {
            "W1": np.array([[1.0, 1], [0, 0], [-2, 1], [2, -1]]),
            "b1": np.array([-2.0, -0.0, 0, 0]),
            "W2": rng.standard_normal((1, 4)),
            "b2": rng.standard_normal(1),
            "x": np.array([1.0, 1.0]),
            "y": np.array(rng.normal()),
        },
        {"jax.nn.relu": None, "jnp.maximum(z, 0)": _squared_loss_by_maximum},
        ("jnp.maximum(z, 0)",),
        "it lets half of the gradient through at z = 0",
        show=("db1", slice(None)),
    ),
)
NETWORK_SQUARED_LOSS = (
    Hard(
        "saturated activations",
        "z = ±750 in the output layer: its σ′ is e^{−750}, below every float64: every gradient but the "
        "target's own is 0, and none NaN.",
        lambda rng: {
            "params": [
                (rng.standard_normal((2, 3)), rng.standard_normal(2)),
                (np.zeros((2, 2)), np.array([750.0, -750.0])),
            ],
            "x": rng.standard_normal(3),
            "y": rng.standard_normal(2),
        },
        {"1/(1+exp(−z))": None},
        ("1/(1+exp(−z))",),
        "e^{750} overflows, and its slope is ∞/∞²",
        show=("dparams[1][1]", slice(None)),
    ),
)
CORRELATE2D = (
    Hard(
        "one sample, one pixel",
        "A 1×1 kernel: each pixel by itself, and dK is the sum over all of them.",
        lambda rng: {"x": rng.standard_normal((2, 3)), "f": rng.standard_normal((1, 1))},
        {"lax.conv": lambda x, f: lax.conv(x[None, None], f[None, None], (1, 1), "VALID")[0, 0]},
    ),
)
CONVOLVE2D = (
    Hard(
        "one sample, one pixel",
        "The full convolution of a single pixel is the kernel, scaled.",
        lambda rng: {"x": rng.standard_normal((1, 1)), "w": rng.standard_normal((2, 3))},
        {"jax.scipy.signal.convolve2d": jax.scipy.signal.convolve2d},
    ),
)
