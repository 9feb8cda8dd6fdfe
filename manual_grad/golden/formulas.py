"""What golden vectors can be had of: every public formula, its plain forward function, how inputs are drawn.

Three cases. ``random``: drawn as the ledger does. ``ties``: inputs exactly on a kink, or equal maxima.
``extreme``: the ends of the dtype's range, where the right answer is still finite. Each says what the right
answer is.
"""

import functools
import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad import formulas, kernels, networks
from manual_grad.catalogue.draw import Draw

Inputs = dict[str, Any]
Kind = Literal["pair", "jacobian", "value"]

SHIFT = {"float64": 500, "float32": 100, "bfloat16": 100, "float16": 6}  # powers of two: X up, W down
SQUARED = {"float64": 500, "float32": 60, "bfloat16": 60, "float16": 3}  # what is squared, up

RANDOM = "Gaussian inputs, scaled so that the signal keeps its size; ReLUs stay clear of their kink."
OF_HALVES = (
    "In the half precisions the pixels are multiples of ½ and the kernels 0 or ± a power of two, so that no "
    "rounding moves a pre-activation across that kink."
)
RELU_TIES = (
    "Some entries given to ReLU are exactly 0 or −0.0, in every dtype and in any order of summation: {}. "
    "ReLU has no derivative there; the lectures' convention, which is PyTorch's and jax.nn.relu's, is "
    "ReLU′(0) = ReLU′(−0.0) = 0, so nothing flows back through them. A mask with ≥ in place of > lets the "
    "cotangent through, jnp.maximum(x, 0) half of it; both are wrong here."
)
EQUAL_LOGITS = (
    "Equal logits (the first sample), two equal maxima (the second), 0 beside −0.0 (the third); with a "
    "single sample, two equal maxima. Softmax is smooth, so there is nothing to choose: p is equal where the "
    "logits are. What is subtracted for safety must cancel in the gradient, whichever maximum it was."
)
EXTREME_LOGITS = (
    "Logits of ±10⁴ with the label on one of the small ones (the first sample), of 10⁴ all equal, of ± the "
    "dtype's largest number over 64, of the size of its smallest, and scattered around 10⁴ (with a single "
    "sample, the first kind). The right answer is finite: p = e^(l − max) / Σ e^(l − max), and −log p = "
    "log Σ e^(l − max) − (l − max). exp over sum as printed overflows to NaN, and log(softmax) gives ∞; the "
    "truth is computed by the shifted forms in reference/stable.py."
)
PRODUCT_UNDEFINED = (
    "The lecture's product of the two Jacobians is −y/p times p: where p underflows to 0 it is NaN, this "
    "project's formula of this name included. The answer is (p Σ_k y_k − y) / N all the same."
)
SHIFTED = (
    "{} times 2^k and {} times 2^−k, with k = 500 in float64, 100 in float32 and bfloat16, 6 in float16. "
    "Their products are those of the case random, and so is the output; the first gradient is 2^−k and the "
    "other 2^k times what it is there. All of it is within the dtype's range."
)


@dataclass(frozen=True)
class Case:
    """One way to draw a formula's inputs.

    Attributes:
        draw: ``draw(Draw, **variant)`` gives name → array, pytree or setting.
        says: what is special about them, and what the right answer is.
    """

    draw: Callable[..., Inputs]
    says: str


@dataclass(frozen=True)
class Formula:
    """A public formula as golden vectors have it.

    Attributes:
        name: what users call it: of a pair, without ``_fwd`` and ``_bwd``.
        kind: ``pair`` (out and the cotangent of each floating-point input), ``jacobian`` (of the forward
            function by each of ``wrt``), ``value`` (what the formula returns, nothing else).
        forward: the plain function of ``reference/``; of a ``value``, what gives it from there.
        cases: name → how its inputs are drawn.
        wrt: of a Jacobian, what it is by.
        variants: name → what ``draw`` is told; the first one is exported by default.
        stable: the same function where the plain one overflows, for the case ``extreme``.
    """

    name: str
    kind: Kind
    forward: Callable[..., Any]
    cases: Mapping[str, Case]
    wrt: tuple[str, ...] = ()
    variants: Mapping[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})
    stable: Callable[..., Any] | None = None

    @property
    def explained(self) -> str:
        """What the public functions say of themselves: the equation, shapes, layout."""
        names = [f"{self.name}_fwd", f"{self.name}_bwd"] if self.kind == "pair" else [self.name]
        return "\n\n".join(f"{name}\n\n{_without_examples(public_functions()[name])}" for name in names)

    @property
    def tags(self) -> list[str]:
        """The equations of the lectures that it computes."""
        found = re.findall(r"\[([A-D])-(\d\d)\](?: … \[[A-D]-(\d\d)\])?", self.explained)
        spans = [(letter, range(int(first), int(last or first) + 1)) for letter, first, last in found]
        return sorted({f"{letter}-{n:02}" for letter, numbers in spans for n in numbers})

    def forward_in(self, case: str) -> Callable[..., Any]:
        """The function that is differentiated in a case."""
        return self.stable if case == "extreme" and self.stable else self.forward

    def cases_of(self, variant: str) -> list[str]:
        """The cases that a variant has: ReLU's ties are only ReLU's."""
        kink = self.variants[variant].get("activation", "relu") == "relu"
        return [case for case in self.cases if kink or case != "ties"]


@functools.cache
def public_functions() -> dict[str, Callable[..., Any]]:
    """Name → function, of everything in ``formulas/``, ``kernels/`` and ``networks/``."""
    modules = [
        importlib.import_module(m.name)
        for wing in (formulas, kernels, networks)
        for m in pkgutil.iter_modules(wing.__path__, f"{wing.__name__}.")
    ]
    return {name: f for m in modules for name, f in vars(m).items() if inspect.isfunction(f)}


def _without_examples(fn: Callable[..., Any]) -> str:
    """A docstring as plain text, without the doctest and without what is raised."""
    text = (inspect.getdoc(fn) or "").partition(">>>")[0]
    text = re.sub(r"^Raises:\n(?:    .*\n)+", "", text, flags=re.MULTILINE)
    return re.sub(r":\w+:`(.*?)`", r"\1", text).replace("``", "").strip()


# --- the numbers ------------------------------------------------------------------------------------------


def _put(values: Any, draw: Draw) -> jax.Array:
    """Numbers in the dtype, by NumPy: XLA may flush what is subnormal."""
    return jnp.asarray(np.asarray(values, np.float64).astype(jnp.dtype(draw.dtype)))


def _times_two_to(power: int, array: jax.Array, draw: Draw) -> jax.Array:
    return _put(np.ldexp(np.asarray(array, np.float64), power), draw)


def _range(draw: Draw) -> tuple[float, float, float]:
    """Largest, smallest normal and smallest number; of float64, the truth's own dtype, no subnormal one."""
    info = jnp.finfo(draw.dtype)
    smallest = float(info.tiny if jnp.dtype(draw.dtype) == jnp.float64 else info.smallest_subnormal)
    return float(info.max), float(info.tiny), smallest


def _extreme_numbers(draw: Draw, subnormal: bool = True) -> jax.Array:
    """(4, 5): the ends of the range, what overflows an exponential, and some ordinary numbers."""
    largest, normal, smallest = _range(draw)
    numbers = [
        1e4,
        largest / 4,
        normal,
        3 * (smallest if subnormal else normal),
        20.0,
        50.0,
        700.0,
        0.5,
        1.0,
        3.0,
    ]
    return _put(draw.rng.permutation([*numbers, *(-n for n in numbers)]).reshape(4, 5), draw)


def _tied_logits(draw: Draw, N: int, K: int) -> jax.Array:
    logits = np.minimum(draw.rng.standard_normal((N, K)), 2)
    logits[0] = 1.5
    logits[1, [1, K - 2]] = 3
    logits[2] = np.where(np.arange(K) % 2, -0.0, 0.0)
    return _put(logits, draw)


def _extreme_logits(draw: Draw, N: int, K: int) -> tuple[jax.Array, np.ndarray]:
    """Logits, and labels such that the loss is finite in every dtype."""
    largest, _, smallest = _range(draw)
    logits = draw.rng.standard_normal((N, K))
    logits[0], logits[0, 2] = -1e4, 1e4
    logits[1] = 1e4
    logits[2], logits[2, 3] = -largest / 64, largest / 64
    logits[3] = smallest * np.where(np.arange(K) % 2, -3, 5)
    logits[4:] = 1e4 + 100 * logits[4:]
    labels = draw.rng.integers(0, K, N)
    labels[0], labels[2] = 4, 3
    return _put(logits, draw), labels


# --- logits and labels ------------------------------------------------------------------------------------

_N, _K = 5, 7


def _logits(draw: Draw, vector: bool = False) -> Inputs:
    return {"logits": draw.normal(_K) if vector else draw.normal(_N, _K)}


def _logits_tied(draw: Draw, vector: bool = False) -> Inputs:
    return {"logits": _tied_logits(draw, _N, _K)[1 if vector else slice(None)]}


def _logits_extreme(draw: Draw, vector: bool = False) -> Inputs:
    return {"logits": _extreme_logits(draw, _N, _K)[0][0 if vector else slice(None)]}


def _labelled(draw: Draw, one_hot: bool = False) -> Inputs:
    return _logits(draw) | {"labels": draw.one_hot(_N, _K) if one_hot else draw.positive(_N, _K)}


def _labelled_tied(draw: Draw, one_hot: bool = False) -> Inputs:
    return _logits_tied(draw) | {"labels": draw.one_hot(_N, _K) if one_hot else draw.positive(_N, _K)}


def _labelled_extreme(draw: Draw, one_hot: bool = True) -> Inputs:
    logits, labels = _extreme_logits(draw, _N, _K)
    return {"logits": logits, "labels": _put(np.eye(_K)[labels], draw)}


def _with_integers(draw: Draw) -> Inputs:
    return _logits(draw) | {"labels": draw.labels(_N, _K)}


def _with_integers_tied(draw: Draw) -> Inputs:
    return _logits_tied(draw) | {"labels": draw.labels(_N, _K)}


def _with_integers_extreme(draw: Draw) -> Inputs:
    logits, labels = _extreme_logits(draw, _N, _K)
    return {"logits": logits, "labels": jnp.asarray(labels)}


def _in_columns(drawn: Callable[..., Inputs]) -> Callable[..., Inputs]:
    return lambda draw: dict(zip("ZY", (a.T for a in drawn(draw).values()), strict=True))


def _of_one_sample(drawn: Callable[..., Inputs], sample: int) -> Callable[..., Inputs]:
    return lambda draw: dict(zip("sy", (a[sample] for a in drawn(draw).values()), strict=True))


def _probs(draw: Draw) -> Inputs:
    return {"probs": draw.distribution(_N, _K), "labels": draw.distribution(_N, _K)}


def _probs_extreme(draw: Draw) -> Inputs:
    probs = np.array(draw.distribution(_N, _K), np.float64)
    probs[0, 0] = probs[1, 3] = 4 * _range(draw)[1]
    return {"probs": _put(probs, draw), "labels": draw.distribution(_N, _K)}


def _last_layer(draw: Draw) -> Inputs:
    return {"hidden": draw.normal(7, 5), "W": draw.normal(5, 11), "labels": draw.labels(7, 11)}


def _last_layer_tied(draw: Draw) -> Inputs:
    inputs = _last_layer(draw)
    W = np.array(inputs["W"], np.float64)
    W[:, 4] = W[:, 9]
    hidden = np.array(inputs["hidden"], np.float64)
    hidden[0], hidden[1] = 0.0, -0.0
    return inputs | {"hidden": _put(hidden, draw), "W": _put(W, draw)}


def _last_layer_extreme(draw: Draw) -> Inputs:
    hidden, W = (32 * draw.rng.integers(-2, 3, shape) for shape in ((7, 5), (5, 11)))
    return {"hidden": _put(hidden, draw), "W": _put(W, draw), "labels": draw.labels(7, 11)}


def _logit_cases(random: Callable, tied: Callable, extreme: Callable) -> dict[str, Case]:
    return {
        "random": Case(random, "Gaussian logits; labels positive, of any sum, where they are no integers."),
        "ties": Case(tied, EQUAL_LOGITS),
        "extreme": Case(extreme, EXTREME_LOGITS),
    }


# --- layers and networks ----------------------------------------------------------------------------------


def _shifted(drawn: Callable[..., Inputs], up: str, down: str, keys: tuple = ()) -> Callable[..., Inputs]:
    """``drawn``, with one input multiplied by 2^k and another, or its entry at ``keys``, by 2^−k."""

    def shifted(draw: Draw, **variant: Any) -> Inputs:
        inputs, k = drawn(draw, **variant), SHIFT[jnp.dtype(draw.dtype).name]
        inputs[up] = _times_two_to(k, inputs[up], draw)
        inputs[down] = _at(inputs[down], keys, lambda W: _times_two_to(-k, W, draw))
        return inputs

    return shifted


def _at(tree: Any, keys: tuple, change: Callable[[Any], Any]) -> Any:
    """``tree`` with its entry at ``keys`` changed."""
    if not keys:
        return change(tree)
    changed = _at(tree[keys[0]], keys[1:], change)
    if isinstance(tree, dict):
        return {**tree, keys[0]: changed}
    return type(tree)(changed if i == keys[0] else entry for i, entry in enumerate(tree))


def _products(drawn: Callable[..., Inputs], up: str, down: str) -> dict[str, Case]:
    return {
        "random": Case(drawn, "Gaussian inputs."),
        "extreme": Case(_shifted(drawn, up, down), SHIFTED.format(up, down)),
    }


def _network(
    drawn: Callable[..., Inputs], tied: Callable[..., Inputs], up: str, down: str, keys: tuple = ()
) -> dict[str, Case]:
    first = f"the first layer's {'kernel' if keys == ('K1',) else 'W'}"
    hidden = "in each layer before a ReLU the first two units have weights 0 and the biases 0 and −0.0"
    return {
        "random": Case(drawn, RANDOM),
        "ties": Case(tied, RELU_TIES.format(hidden)),
        "extreme": Case(_shifted(drawn, up, down, keys), SHIFTED.format(up, first)),
    }


def _tie_units(W: jax.Array, b: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """A layer whose first two units are exactly at ReLU's kink; ``axis`` of W counts the units."""
    W = jnp.moveaxis(jnp.moveaxis(W, axis, 0).at[:2].set(0), 0, axis)
    return W, b.at[0].set(0).at[1].set(-0.0)


def _tie_layers(params: list, rows: bool, through: int | None = -1) -> list:
    tied = [_tie_units(W, b, 1 if rows else 0) for W, b in params[:through]]
    return tied if through is None else [*tied, *params[through:]]


def _clear_layers(draw: Draw, *widths: int, x: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Layers for a single sample x whose biases push each pre-activation away from 0, to its own side."""
    pairs, a = [], np.asarray(x, np.float64)
    for fan_in, fan_out in itertools.pairwise(widths):
        W = draw.normal(fan_out, fan_in, scale=(2 / fan_in) ** 0.5)
        z = np.asarray(W, np.float64) @ a
        b = _put(np.where(z >= 0, 1, -1) * draw.rng.uniform(0.3, 0.6, fan_out), draw)
        a = np.maximum(z + np.asarray(b, np.float64), 0)
        pairs.append((W, b))
    return pairs


def _two_layers(params: list) -> Inputs:
    (W1, b1), (W2, b2) = params
    return {"W1": W1, "b1": b1, "W2": W2 / 2, "b2": b2}


def _squared_loss(draw: Draw) -> Inputs:
    x = draw.normal(3)
    return {**_two_layers(_clear_layers(draw, 3, 7, 1, x=x)), "x": x, "y": 4 + draw.positive()}


def _cross_entropy(draw: Draw) -> Inputs:
    x = draw.normal(3)
    return {**_two_layers(_clear_layers(draw, 3, 7, 5, x=x)), "x": x, "y": draw.labels(1, 5)[0]}


def _cross_entropy_rows(draw: Draw) -> Inputs:
    X = draw.normal(4, 3)
    return {**_two_layers(draw.layers(3, 7, 5, rows=True, X=X)), "X": X, "y": draw.labels(4, 5)}


def _cross_entropy_columns(draw: Draw) -> Inputs:
    X = draw.normal(3, 4)
    return {**_two_layers(draw.layers(3, 7, 5, rows=False, X=X)), "X": X, "y": draw.labels(4, 5)}


def _tied_two(drawn: Callable[..., Inputs], axis: int) -> Callable[..., Inputs]:
    def tied(draw: Draw) -> Inputs:
        inputs = drawn(draw)
        inputs["W1"], inputs["b1"] = _tie_units(inputs["W1"], inputs["b1"], axis)
        return inputs

    return tied


def _mlp(draw: Draw, rows: bool, activation: str) -> Inputs:
    X = draw.normal(7, 2) if rows else draw.normal(2, 7)
    return {"params": draw.layers(2, 4, 5, 3, rows=rows, X=X), "X": X, "activation": activation}


def _mlp_tied(draw: Draw, rows: bool, activation: str) -> Inputs:
    inputs = _mlp(draw, rows, activation)
    return inputs | {"params": _tie_layers(inputs["params"], rows)}


def _squared_loss_network(draw: Draw, activation: str) -> Inputs:
    x = draw.normal(2)
    params = _clear_layers(draw, 2, 4, 5, 3, x=x)
    return {"params": params, "x": x, "y": 4 + draw.normal(3), "activation": activation}


def _squared_loss_network_tied(draw: Draw, activation: str) -> Inputs:
    inputs = _squared_loss_network(draw, activation)
    return inputs | {"params": _tie_layers(inputs["params"], rows=False, through=None)}


def _five_layers(draw: Draw) -> Inputs:
    X, Y = draw.normal(9, 3), draw.one_hot(3, 4).T
    return {"params": draw.layers(9, 8, 7, 6, 5, 4, rows=False, X=X), "X": X, "Y": Y}


def _five_layers_tied(draw: Draw) -> Inputs:
    inputs = _five_layers(draw)
    return inputs | {"params": _tie_layers(inputs["params"], rows=False)}


def _cnn(draw: Draw) -> Inputs:
    """Two images of 6×5 pixels in three channels; every bias in a wide gap, as in the dense layers.

    In a half precision no gap is wide enough among so many numbers: there the pixels are multiples of ½, the
    kernels 0 or ± a power of two, and no sum of theirs cancels the biases.
    """
    X = draw.normal(2, 6, 5, 3)
    kernels = draw.normal(2, 2, 3, 4, scale=0.4), draw.normal(3, 3, 4, 5, scale=0.25)
    half = jnp.dtype(draw.dtype).itemsize == 2
    if half:
        X = jnp.round(2 * X) / 2
        kernels = jnp.sign(kernels[0]) / 4, jnp.sign(kernels[1]) * (abs(kernels[1]) > 0.2) / 8
    params: dict[str, jax.Array] = {}
    A = np.asarray(X, np.float64)
    for layer, K, offset in zip((1, 2), kernels, (1 / 16, -1 / 256), strict=True):
        Z = _correlated(A, np.asarray(K, np.float64))
        b = _put(np.full(Z.shape[-1], offset), draw) if half else _clear_biases(Z, draw)
        A = np.maximum(Z + np.asarray(b, np.float64), 0)
        params |= {f"K{layer}": K, f"b{layer}": b}
    A = A.reshape(len(A), -1)
    W4 = draw.normal(A.shape[1], 11, scale=(2 / A.shape[1]) ** 0.5)
    Z = A @ np.asarray(W4, np.float64)
    apart = np.abs(Z[0] - Z[1]) > 0.5  # the unit is on for one image; else for both
    b4 = _put(np.where(apart, -Z.mean(axis=0), 0.5 - Z.min(axis=0)), draw)
    params |= {"W4": W4, "b4": b4, "W5": draw.normal(11, 7, scale=0.4), "b5": draw.normal(7, scale=0.3)}
    return {"params": params, "X": X, "labels": draw.one_hot(2, 7)}


def _correlated(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A convolutional layer, stride 1, VALID."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
    return np.einsum("nhwcab,abco->nhwo", windows, kernel)


def _clear_biases(Z: np.ndarray, draw: Draw) -> jax.Array:
    """For each channel, the bias that puts 0 into the widest gap of its middle values."""
    values = np.sort(Z.reshape(-1, Z.shape[-1]), axis=0)
    inner = values[len(values) // 4 : -len(values) // 4]
    at, channel = np.diff(inner, axis=0).argmax(axis=0), np.arange(Z.shape[-1])
    return _put(-(inner[at, channel] + inner[at + 1, channel]) / 2, draw)


def _cnn_tied(draw: Draw) -> Inputs:
    inputs = _cnn(draw)
    params = dict(inputs["params"])
    for W, b, axis in (("K1", "b1", 3), ("K2", "b2", 3), ("W4", "b4", 1)):
        params[W], params[b] = _tie_units(params[W], params[b], axis)
    return inputs | {"params": params}


def _dense_rows(draw: Draw) -> Inputs:
    return {"X": draw.normal(5, 3), "W": draw.normal(3, 4), "b": draw.normal(4)}


def _dense_columns(draw: Draw) -> Inputs:
    return {"X": draw.normal(3, 5), "W": draw.normal(4, 3), "b": draw.normal(4)}


def _images(draw: Draw) -> Inputs:
    return {"x": draw.normal(7, 11), "f": draw.normal(2, 4)}


def _convolved(draw: Draw, mode: str) -> Inputs:
    return {"x": draw.normal(7, 11), "w": draw.normal(2, 4), "mode": mode}


def _conv2d(draw: Draw, groups: int = 1, **geometry: Any) -> Inputs:
    x, kernel = draw.normal(5, 11, 10, 4 * groups), draw.normal(2, 3, 4, 6)
    settings = geometry | ({"groups": groups} if groups > 1 else {})
    return {"x": x, "kernel": kernel, "bias": draw.normal(6), **settings}


GEOMETRIES: dict[str, dict[str, Any]] = {
    "valid": {},
    "strides": {"strides": (2, 3)},
    "same": {"padding": "SAME", "strides": (3, 2)},
    "padding": {"padding": ((1, 2), (0, 3)), "strides": (2, 1)},
    "dilation": {"dilation": (3, 2)},
    "groups": {"groups": 3},
    "all": {"strides": (2, 3), "padding": "SAME", "dilation": (3, 2), "groups": 2},
}


# --- elementwise, sums and squares ------------------------------------------------------------------------


def _matrix(draw: Draw) -> Inputs:
    return {"x": draw.normal(4, 5)}


def _matrix_with_zeros(draw: Draw) -> Inputs:
    return {"x": draw.normal(4, 5).at[0].set(0).at[1].set(-0.0)}


def _elementwise(name: str) -> dict[str, Case]:
    cases = {"random": Case(_matrix, "Gaussian entries.")}
    if name == "relu":
        cases["ties"] = Case(_matrix_with_zeros, RELU_TIES.format("row 0 of x is 0 and row 1 is −0.0"))
    says = (
        "± the dtype's largest number over 4, ±10⁴, ±700 and ±50 (where e^x overflows or vanishes), its "
        "smallest normal and subnormal numbers, and ordinary ones. (No subnormal ones in float64, as the "
        "truth is float64 too, nor for ReLU: a processor that takes them for 0 finds its kink there.) The "
        "right answers are the limits, finite everywhere"
    )
    more = {
        "sigmoid": ": σ → 0 and 1, σ′ → 0. 1/(1 + e⁻ˣ) as printed gives NaN gradients; the truth is "
        "e^(−log(1 + e⁻ˣ)), in reference/stable.py.",
        "softplus": ": softplus → 0 and x, its derivative → 0 and 1. log(1 + eˣ) as printed overflows; the "
        "truth is by logaddexp, in reference/stable.py.",
        "tanh": ": tanh → ±1, tanh′ → 0.",
    }
    extreme = Case(lambda draw: {"x": _extreme_numbers(draw, name != "relu")}, says + more.get(name, "."))
    return cases | {"extreme": extreme}


def _vectors(draw: Draw) -> Inputs:
    return {"y_hat": draw.normal(7), "y": 4 + draw.normal(7)}


def _vectors_extreme(draw: Draw) -> Inputs:
    k = SQUARED[jnp.dtype(draw.dtype).name]
    powers = np.array([k, k, k, 0, 0, -k, -k])
    return {
        name: _put(np.ldexp(np.asarray(a, np.float64), powers), draw) for name, a in _vectors(draw).items()
    }


def _regression(draw: Draw, features: int | None) -> Inputs:
    shape = () if features is None else (features,)
    w, b, x = draw.normal(*shape), draw.normal(), draw.normal(7, *shape)
    return {"w": w, "b": b, "x": x, "y": 4 + draw.normal(7)}


def _affine(draw: Draw, features: int | None) -> Inputs:
    return {name: a for name, a in _regression(draw, features).items() if name != "y"}


def _numbers(draw: Draw) -> Inputs:
    return {name: draw.normal() for name in "xyz"}


def _numbers_extreme(draw: Draw) -> Inputs:
    k = SHIFT[jnp.dtype(draw.dtype).name]
    return {name: _times_two_to(k if name in "xy" else -k, a, draw) for name, a in _numbers(draw).items()}


def _quadratic_maps(draw: Draw) -> Inputs:
    return {"A": draw.normal(4, 3), "B": draw.normal(4, 3, 3), "theta": draw.normal(3)}


def _chained_maps(draw: Draw) -> Inputs:
    return {"C": draw.normal(1, 4), "D": draw.normal(1, 4, 4), **_quadratic_maps(draw)}


def _steps(draw: Draw) -> Inputs:
    shapes = [((4, 2), (4,)), ((3, 4), (3,))]
    params, dparams = ([(draw.normal(*W), draw.normal(*b)) for W, b in shapes] for _ in range(2))
    return {"params": params, "dparams": dparams, "learning_rate": 0.125}


# --- what a value is, from the reference ------------------------------------------------------------------


def _slope(fn: Callable[..., Any]) -> Callable[..., Any]:
    """f′ of an elementwise f."""
    return lambda x: jax.vjp(fn, x)[1](jnp.ones_like(x))[0]


def _part_of_jacobian(
    fn: Callable[..., Any], wrt: str, part: Callable[[jax.Array], Any]
) -> Callable[..., Any]:
    """A compact form of the reference's Jacobian by one input."""

    def value(**inputs: Any) -> Any:
        return part(jax.jacrev(lambda at: fn(**{**inputs, wrt: at}))(inputs[wrt]))

    return value


def _diagonal(J: jax.Array) -> jax.Array:
    return jnp.stack([J[n, n] for n in range(len(J))])


def _blocks(J: jax.Array) -> jax.Array:
    return jnp.stack([J[n, :, n] for n in range(len(J))])


def _kronecker(J: jax.Array, identity: int) -> tuple[jax.Array, jax.Array]:
    """The factors (P, Q) of J[i,j,k,l] = P[i,k] Q[j,l], of which one is the identity."""
    if identity == 1:
        P = J[:, 0, :, 0]
        i, k = jnp.unravel_index(jnp.argmax(jnp.abs(P)), P.shape)
        return P, J[i, :, k, :] / P[i, k]
    Q = J[0, :, 0, :]
    j, l = jnp.unravel_index(jnp.argmax(jnp.abs(Q)), Q.shape)
    return J[:, j, :, l] / Q[j, l], Q


def _kronecker_in_columns(J: jax.Array, identity: int) -> tuple[jax.Array, jax.Array]:
    """Of the matrix that stacks columns: vec runs over the last axis first."""
    return _kronecker(J.transpose(1, 0, 3, 2), identity)


def _deltas(params: list, x: jax.Array, y: jax.Array, activation: str) -> list[jax.Array]:
    """∂L/∂z of every layer, each with the layers after it alone."""
    zs, _ = reference.mlp.network(params, x, activation)
    loss = functools.partial(reference.mlp.squared_loss_from_z, y=y, activation=activation)
    return [jax.grad(lambda z, after=params[l + 1 :]: loss(after, z))(z) for l, z in enumerate(zs)]


def _step(params: Any, dparams: Any, learning_rate: float) -> Any:
    return jax.tree.map(lambda p, dp: p - learning_rate * dp, params, dparams)


# --- the catalogue ----------------------------------------------------------------------------------------

_ACTIVATIONS = {name: {"activation": name} for name in ("relu", "sigmoid", "tanh", "softplus", "identity")}
_FEATURES = {"vector": {"features": 3}, "scalar": {"features": None}}
_BATCH = {"batch": {"vector": False}, "vector": {"vector": True}}
_STABLE = {"sigmoid": reference.stable.stable_sigmoid, "softplus": reference.stable.stable_softplus}


def _named(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The shifted form of a plain function, in ``reference/stable.py``."""
    return getattr(reference.stable, f"stable_{forward.__name__}")


def _of_logits(forward: Callable[..., Any], cases: Mapping[str, Case], **more: Any) -> Formula:
    return Formula(forward.__name__, "pair", forward, cases, stable=_named(forward), **more)


def _pair(forward: Callable[..., Any], cases: Mapping[str, Case], **more: Any) -> Formula:
    return Formula(forward.__name__, "pair", forward, cases, **more)


def _random(drawn: Callable[..., Inputs]) -> dict[str, Case]:
    return {"random": Case(drawn, "Gaussian inputs.")}


def _pairs() -> list[Formula]:
    mlp, softmax, two = reference.mlp, reference.softmax, reference.two_layer
    activations = reference.activations.ACTIVATIONS
    regression = _shifted(_regression, "x", "w")
    squares = (
        "Three samples times 2^k, two as they are, two times 2^−k, with k = 500 in float64, 60 in float32 "
        "and bfloat16, 3 in float16. The squares and their sum stay within the dtype's range."
    )
    return [
        *(
            Formula(name, "pair", f, _elementwise(name), stable=_STABLE.get(name))
            for name, f in activations.items()
        ),
        _pair(
            reference.mse.mse,
            {
                "random": Case(_vectors, "Gaussian, the targets off to one side."),
                "extreme": Case(_vectors_extreme, squares),
            },
        ),
        _pair(
            reference.mse.linear_regression,
            {"random": Case(_regression, "Gaussian, the targets off to one side.")}
            | {"extreme": Case(regression, SHIFTED.format("x", "w"))},
            variants=_FEATURES,
        ),
        _of_logits(softmax.softmax, _logit_cases(_logits, _logits_tied, _logits_extreme), variants=_BATCH),
        _pair(
            softmax.cross_entropy,
            {"random": Case(_probs, "Two distributions over the classes for each sample.")}
            | {
                "extreme": Case(
                    _probs_extreme,
                    "Two probabilities are four times the dtype's smallest normal number; −y/(N p) is then "
                    "near the end of its range, and finite. A logarithm clipped to log(p + ε) gives another.",
                )
            },
        ),
        _of_logits(softmax.softmax_cross_entropy, _logit_cases(_labelled, _labelled_tied, _labelled_extreme)),
        _of_logits(
            softmax.softmax_cross_entropy_columns,
            _logit_cases(*map(_in_columns, (_labelled, _labelled_tied, _labelled_extreme))),
        ),
        _of_logits(
            softmax.softmax_cross_entropy_with_integer_labels,
            _logit_cases(_with_integers, _with_integers_tied, _with_integers_extreme),
        ),
        _of_logits(
            softmax.cross_entropy_of_scores,
            _logit_cases(
                _of_one_sample(_with_integers, 0),
                _of_one_sample(_with_integers_tied, 1),
                _of_one_sample(_with_integers_extreme, 0),
            ),
        ),
        _of_logits(
            reference.linear_cross_entropy.linear_cross_entropy,
            {
                "random": Case(_last_layer, "Gaussian hidden features and weights."),
                "ties": Case(
                    _last_layer_tied,
                    "Two columns of W are equal, so two logits of every sample are; the first sample's "
                    "features are all 0, so its logits are too, the second's −0.0. Softmax is smooth there.",
                ),
                "extreme": Case(
                    _last_layer_extreme,
                    "Multiples of 32 from −64 to 64, so that the logits are exact in every dtype and reach "
                    "10⁴ and more. The right answer is finite, as for softmax_cross_entropy; the truth is "
                    "computed by the shifted form in reference/stable.py.",
                ),
            },
        ),
        _pair(reference.dense.dense_rows, _products(_dense_rows, "X", "W")),
        _pair(reference.dense.dense_columns, _products(_dense_columns, "X", "W")),
        _pair(reference.conv2d.correlate2d, _products(_images, "x", "f")),
        _pair(
            reference.conv2d.convolve2d,
            _products(_convolved, "x", "w"),
            variants={mode: {"mode": mode} for mode in ("full", "valid")},
        ),
        *(
            Formula(
                name, "pair", reference.conv2d.conv2d, _products(_conv2d, "x", "kernel"), variants=GEOMETRIES
            )
            for name in ("conv2d", "conv2d_cpu", "conv2d_plain")
        ),
        _pair(
            reference.chain_rule.product_of_sum,
            {"random": Case(_numbers, "Three Gaussian numbers.")}
            | {"extreme": Case(_numbers_extreme, SHIFTED.format("x and y", "z"))},
        ),
        _pair(
            two.two_layer_squared_loss,
            _network(_squared_loss, _tied_two(_squared_loss, 0), "x", "W1"),
        ),
        _pair(
            two.two_layer_cross_entropy,
            _network(_cross_entropy, _tied_two(_cross_entropy, 0), "x", "W1"),
        ),
        _pair(
            two.two_layer_cross_entropy_rows,
            _network(_cross_entropy_rows, _tied_two(_cross_entropy_rows, 1), "X", "W1"),
        ),
        _pair(
            two.two_layer_cross_entropy_columns,
            _network(_cross_entropy_columns, _tied_two(_cross_entropy_columns, 0), "X", "W1"),
        ),
        *(
            _pair(
                forward,
                _network(
                    functools.partial(_mlp, rows=rows),
                    functools.partial(_mlp_tied, rows=rows),
                    "X",
                    "params",
                    (0, 0),
                ),
                variants=_ACTIVATIONS,
            )
            for forward, rows in ((mlp.mlp_rows, True), (mlp.mlp_columns, False))
        ),
        _pair(
            mlp.network_squared_loss,
            _network(_squared_loss_network, _squared_loss_network_tied, "x", "params", (0, 0)),
            variants=_ACTIVATIONS,
        ),
        _pair(mlp.five_layer, _network(_five_layers, _five_layers_tied, "X", "params", (0, 0))),
        _pair(mlp.flatten_columns, _random(lambda draw: {"images": draw.normal(3, 4, 5)})),
        _pair(
            reference.cnn.cnn,
            _network(_cnn, _cnn_tied, "X", "params", ("K1",))
            | {"random": Case(_cnn, f"{RANDOM} {OF_HALVES}")},
        ),
    ]


def _jacobians() -> list[Formula]:
    chain, mse, softmax, dense = reference.chain_rule, reference.mse, reference.softmax, reference.dense
    one_hot = functools.partial(_labelled, one_hot=True), functools.partial(_labelled_tied, one_hot=True)
    labelled = _logit_cases(_labelled, _labelled_tied, _labelled_extreme)
    labelled["extreme"] = Case(_labelled_extreme, f"{EXTREME_LOGITS} {PRODUCT_UNDEFINED}")
    hot = _logit_cases(*one_hot, _labelled_extreme)
    plain: list[tuple[str, Callable[..., Any], Callable[..., Inputs]]] = [
        ("jac_square_x", chain.square, lambda draw: {"x": draw.normal()}),
        ("jac_sum_of_squares_x", chain.sum_of_squares, lambda draw: {"x": draw.normal(3)}),
        ("jac_powers_x", chain.powers, lambda draw: {"x": draw.normal(), "m": 4}),
        ("jac_linear_map_x", chain.linear_map, lambda draw: {"M": draw.normal(4, 3), "x": draw.normal(3)}),
        ("jac_quadratic_map_theta", chain.quadratic_map, _quadratic_maps),
        ("jac_chain_theta", chain.composed_quadratic_maps, _chained_maps),
        ("jac_mean_J0", mse.mean, lambda draw: {"J0": draw.normal(7)}),
        ("jac_squared_errors_y_hat", mse.squared_errors, _vectors),
        ("jac_mse_y_hat", mse.mse, _vectors),
        ("jac_cross_entropy_probs", softmax.cross_entropy, _probs),
        ("jac_dense_rows_X", dense.dense_rows, _dense_rows),
        ("jac_dense_rows_W", dense.dense_rows, _dense_rows),
        ("jac_dense_rows_b", dense.dense_rows, _dense_rows),
        ("jac_dense_columns_X", dense.dense_columns, _dense_columns),
        ("jac_dense_columns_W", dense.dense_columns, _dense_columns),
        ("jac_dense_columns_b", dense.dense_columns, _dense_columns),
        ("jac_correlate2d_x", reference.conv2d.correlate2d, _images),
        ("jac_correlate2d_f", reference.conv2d.correlate2d, _images),
    ]
    regression: list[tuple[str, Callable[..., Any], Callable[..., Inputs]]] = [
        ("jac_affine_w", mse.affine, _affine),
        ("jac_affine_b", mse.affine, _affine),
        ("jac_linear_regression_w", mse.linear_regression, _regression),
        ("jac_linear_regression_b", mse.linear_regression, _regression),
    ]
    stable = reference.stable
    return [
        *(_jacobian(name, forward, _random(drawn)) for name, forward, drawn in plain),
        *(_jacobian(name, f, _random(drawn), variants=_FEATURES) for name, f, drawn in regression),
        _jacobian("jac_relu_x", reference.activations.relu, _elementwise("relu")),
        _jacobian(
            "jac_softmax_logits",
            softmax.softmax,
            _logit_cases(_logits, _logits_tied, _logits_extreme),
            variants=_BATCH,
            stable=stable.stable_softmax,
        ),
        *(
            Formula(
                name,
                "jacobian",
                softmax.softmax_cross_entropy,
                cases,
                wrt=("logits",),
                stable=stable.stable_softmax_cross_entropy,
            )
            for name, cases in (
                ("jac_softmax_cross_entropy_logits", labelled),
                ("jac_softmax_cross_entropy_logits_one_hot", hot),
            )
        ),
        *(
            Formula(f"jac_{f.__name__}", "jacobian", f, _random(drawn), wrt=("W1", "b1", "W2", "b2"))
            for f, drawn in (
                (reference.two_layer.two_layer_squared_loss, _squared_loss),
                (reference.two_layer.two_layer_cross_entropy, _cross_entropy),
            )
        ),
    ]


def _jacobian(name: str, forward: Callable[..., Any], cases: Mapping[str, Case], **more: Any) -> Formula:
    """∂ forward / ∂ what the name ends with."""
    wrt = next(p for p in inspect.signature(forward).parameters if name.endswith(f"_{p}"))
    return Formula(name, "jacobian", forward, cases, wrt=(wrt,), **more)


def _values() -> list[Formula]:
    softmax, dense, stable = reference.softmax, reference.dense, reference.stable
    squared, correlate = reference.mse.squared_errors, reference.conv2d.correlate2d
    compact: list[tuple[str, Callable[..., Any], str, Callable[..., Any], Callable[..., Inputs]]] = [
        ("jac_squared_errors_y_hat_diagonal", squared, "y_hat", _diagonal, _vectors),
        ("jac_correlate2d_x_blocks", correlate, "x", lambda J: J[0].swapaxes(0, 1)[:2], _images),
    ]
    for layout, forward, drawn, kronecker in (
        ("rows", dense.dense_rows, _dense_rows, _kronecker),
        ("columns", dense.dense_columns, _dense_columns, _kronecker_in_columns),
    ):
        for wrt, identity in (("W", 1), ("X", 0)):
            part = functools.partial(kronecker, identity=identity)
            compact.append((f"jac_dense_{layout}_{wrt}_factors", forward, wrt, part, drawn))
    labels: list[tuple[str, Callable[..., Any]]] = [
        ("one_hot", lambda labels, K: reference.mlp.one_hot_columns(labels, K).T),
        ("one_hot_columns", reference.mlp.one_hot_columns),
    ]
    deltas = {
        "random": Case(_squared_loss_network, RANDOM),
        "ties": Case(
            _squared_loss_network_tied,
            RELU_TIES.format("in each layer the first unit's pre-activation is 0, and the second's too"),
        ),
    }
    return [
        *(
            Formula(
                f"{name}_prime",
                "value",
                _slope(f),
                _elementwise(name),
                stable=_slope(_STABLE[name]) if name in _STABLE else None,
            )
            for name, f in reference.activations.ACTIVATIONS.items()
        ),
        *(
            Formula(name, "value", _part_of_jacobian(f, wrt, part), _random(drawn))
            for name, f, wrt, part, drawn in compact
        ),
        Formula(
            "jac_softmax_logits_blocks",
            "value",
            _part_of_jacobian(softmax.softmax, "logits", _blocks),
            _logit_cases(_logits, _logits_tied, _logits_extreme),
            stable=_part_of_jacobian(stable.stable_softmax, "logits", _blocks),
        ),
        Formula("network_squared_loss_deltas", "value", _deltas, deltas, variants=_ACTIVATIONS),
        *(
            Formula(
                name,
                "value",
                forward,
                {
                    "random": Case(
                        lambda draw: {"labels": draw.labels(5, 7), "K": 7}, "Integers from 0 to K − 1."
                    )
                },
            )
            for name, forward in labels
        ),
        Formula(
            "gradient_descent",
            "value",
            _step,
            {"random": Case(_steps, "Gaussian parameters and gradients of two layers.")},
        ),
    ]


FORMULAS: dict[str, Formula] = {f.name: f for f in (*_pairs(), *_jacobians(), *_values())}
