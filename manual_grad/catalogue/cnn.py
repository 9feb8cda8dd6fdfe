"""Lecture A's CNN."""

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad.catalogue import golden, hard_layers, mutants_of_convolutions
from manual_grad.catalogue.convolution import YNN_OFF
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import Batch, Bench, Formula, Inputs, Shown
from manual_grad.networks.cnn import cnn_bwd, cnn_fwd
from manual_grad_reference import definitions


def _images(draw: Draw, **sizes: int) -> Inputs:
    if draw.style != "real":
        return _small(draw)
    return _clear(draw, **sizes) if draw.clear else _large(draw, **sizes)


def _small(draw: Draw) -> Inputs:
    """Two images of 4×5, 3×4 or 5×5 pixels, and a network with few channels."""
    H, W = {"tiny": (3, 4), "square": (5, 5)}.get(draw.style, (4, 5))
    shapes = {"K1": (2, 2, 1, 2), "b1": (2,), "K2": (2, 2, 2, 1), "b2": (1,), "W4": ((H - 2) * (W - 2), 4)}
    shapes |= {"b4": (4,), "W5": (4, 3), "b5": (3,)}
    params = {name: draw.exactly(*shape) for name, shape in shapes.items()}
    labels = jnp.asarray(np.eye(3)[:2], draw.dtype)
    return {"params": params, "X": draw.exactly(2, H, W, 1), "labels": labels}


def _large(
    draw: Draw, N: int, H: int, W: int, C: int, l1: int, l2: int, l4: int, K: int, f: int = 3
) -> Inputs:
    """Inputs scaled so that the signal keeps its size, wherever the pre-activations lie."""
    f = 3
    (W4, b4), (W5, b5) = draw.layers((H - 2 * f + 2) * (W - 2 * f + 2) * l2, l4, K, rows=True)
    params = {"W4": W4, "b4": b4, "W5": W5, "b5": b5}
    for i, (n, O) in enumerate(((C, l1), (l1, l2)), start=1):
        params |= {f"K{i}": draw.normal(f, f, n, O, scale=(2 / (f * f * n)) ** 0.5)}
        params |= {f"b{i}": draw.normal(O, scale=0.1)}
    return {"params": params, "X": draw.normal(N, H, W, C), "labels": draw.one_hot(N, K)}


def _clear(draw: Draw, N: int, H: int, W: int, C: int, l1: int, l2: int, l4: int, K: int) -> Inputs:
    """Place every bias in a wide gap between pre-activations, so that rounding moves none across ReLU's kink.

    In half precision no gap is wide enough among so many numbers: there the pixels are multiples of ½, the
    kernels 0 or ± a power of two, and no sum of products cancels the biases.
    """
    X = draw.normal(N, H, W, C)
    kernels = draw.normal(2, 2, C, l1, scale=0.4), draw.normal(3, 3, l1, l2, scale=0.25)
    half = jnp.dtype(draw.dtype).itemsize == 2
    if half:
        X = jnp.round(2 * X) / 2
        kernels = jnp.sign(kernels[0]) / 4, jnp.sign(kernels[1]) * (abs(kernels[1]) > 0.2) / 8
    params: dict[str, jax.Array] = {}
    A = np.asarray(X, np.float64)
    for layer, K_l, offset in zip((1, 2), kernels, (1 / 16, -1 / 256), strict=True):
        Z = _correlated(A, np.asarray(K_l, np.float64))
        b = jnp.full(Z.shape[-1], offset, draw.dtype) if half else _clear_biases(Z, draw)
        A = np.maximum(Z + np.asarray(b, np.float64), 0)
        params |= {f"K{layer}": K_l, f"b{layer}": b}
    A = A.reshape(len(A), -1)
    W4 = draw.normal(A.shape[1], l4, scale=(2 / A.shape[1]) ** 0.5)
    Z = A @ np.asarray(W4, np.float64)
    apart = np.abs(Z[0] - Z[1]) > 0.5  # the unit is on for one image; else for both
    b4 = jnp.asarray(np.where(apart, -Z[:2].mean(axis=0), 0.5 - Z.min(axis=0)), draw.dtype)
    params |= {"W4": W4, "b4": b4, "W5": draw.normal(l4, K, scale=0.4), "b5": draw.normal(K, scale=0.3)}
    return {"params": params, "X": X, "labels": draw.one_hot(N, K)}


def _correlated(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A convolutional layer, stride 1, VALID."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
    return np.einsum("nhwcab,abco->nhwo", windows, kernel)


def _clear_biases(Z: np.ndarray, draw: Draw) -> jax.Array:
    """For each channel, the bias that puts 0 into the widest gap of its middle values."""
    values = np.sort(Z.reshape(-1, Z.shape[-1]), axis=0)
    inner = values[len(values) // 4 : -len(values) // 4]
    at, channel = np.diff(inner, axis=0).argmax(axis=0), np.arange(Z.shape[-1])
    return jnp.asarray(-(inner[at, channel] + inner[at + 1, channel]) / 2, draw.dtype)


def _dead_units(draw: Draw, inputs: Inputs) -> Inputs:
    params = dict(inputs["params"])
    for W, b, axis in (("K1", "b1", 3), ("K2", "b2", 3), ("W4", "b4", 1)):
        params[W], params[b] = golden.tied_units(params[W], params[b], axis)
    return inputs | {"params": params}


GOLDEN = golden.network(
    _dead_units,
    "X",
    "params",
    ("K1",),
    f"{golden.RANDOM} In the half precisions the pixels are multiples of ½ and the kernels 0 or ± a power of "
    "two, so that no rounding moves a pre-activation across that kink.",
)


CNN = Formula(
    cnn_fwd,
    cnn_bwd,
    reference.cnn.cnn,
    definition=definitions.cnn,
    mutants=mutants_of_convolutions.CNN,
    draw=_images,
    sizes={"N": 2, "H": 6, "W": 5, "C": 3, "l1": 4, "l2": 5, "l4": 11, "K": 7},
    source="Lecture A",
    hard=hard_layers.CNN,
    golden=GOLDEN,
    batch=Batch({"X": 0, "labels": 0}, mean=True),
    kinks=lambda res: (res[1], res[3], res[6]),
    bench=Bench(
        ("N", "H W", "l1", "l2", "l4"),
        ((4, 8, 3, 5, 7), (128, 28, 32, 64, 128)),
        reference.plain.cnn,
        wrt=("params",),
        fixed={"C": 1, "K": 10},
        quick=(0,),
        options=YNN_OFF,
        kinks=True,
        peer=True,
    ),
    shown=Shown(
        "Whole networks",
        "Lecture A's CNN",
        r"X \rightarrow \text{Conv} \rightarrow \text{Conv} \rightarrow \text{Dense} \rightarrow "
        r"\text{Dense} \rightarrow J",
        (r"\text{each layer by its own formula, last to first}",),
        ("A-11",),
    ),
)
ENTRIES = (CNN,)
