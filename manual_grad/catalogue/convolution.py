"""Correlation and convolution of two matrices, and the Conv2D layer in its three formulations."""

from typing import Any

import jax

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue import golden, hard_chapter_e, hard_layers, mutants_of_convolutions
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import NO_BATCH, Batch, Bench, Formula, Function, Inputs, Op, Scale, Shown
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
from manual_grad.formulas.transposed import conv_transpose2d_bwd, conv_transpose2d_fwd
from manual_grad.kernels.conv2d import conv2d_bwd, conv2d_fwd
from manual_grad.kernels.conv2d_cpu import conv2d_cpu_bwd, conv2d_cpu_fwd
from manual_grad_reference import definitions


def _image(name: str) -> Any:
    def draw(draw: Draw, H: int, W: int, kh: int, kw: int) -> Inputs:
        if draw.style == "square":
            return {"x": draw.exactly(6, 6), name: draw.exactly(3, 3)}
        return {"x": draw.normal(H, W), name: draw.normal(kh, kw)}

    return draw


IMAGE = {"H": 7, "W": 11, "kh": 2, "kw": 4}
IMAGE_AXES = ("H", "W", "kh kw")
IMAGES = ((28, 28, 3), (512, 512, 5))
JACOBIANS = Bench(IMAGE_AXES, IMAGES[:1], reference.plain.correlate2d)


def _toeplitz(J: jax.Array) -> jax.Array:
    """The Toeplitz blocks of the first row of outputs, which depends on the image's first kh rows."""
    return J[0].swapaxes(0, 1)[: J.shape[2] - J.shape[0] + 1]


CORRELATE2D = Formula(
    correlate2d_fwd,
    correlate2d_bwd,
    reference.conv2d.correlate2d,
    definition=definitions.correlate2d,
    mutants=mutants_of_convolutions.CORRELATE2D,
    draw=_image("f"),
    sizes=IMAGE,
    source="Lecture C, page 4",
    batch=NO_BATCH,
    hard=hard_layers.CORRELATE2D,
    golden=golden.products("x", "f"),
    polynomial=True,
    grows=(("x", 0), ("x", 1), ("f", 0), ("f", 1)),
    functions=(
        Function(jac_correlate2d_x, ("x",), bench=JACOBIANS),
        Function(jac_correlate2d_f, ("f",)),
        Function(jac_correlate2d_x_blocks, ("x",), _toeplitz, bench=JACOBIANS),
    ),
    bench=Bench(IMAGE_AXES, IMAGES, reference.plain.correlate2d),
    shown=Shown(
        "Layers",
        "Cross-correlation of one channel",
        r"O_{ij} = \sum_{ab} X_{i+a, j+b} F_{ab}",
        (
            r"dX = dO \star_{\text{full}} \operatorname{rot}_{180}(F)",
            r"dF = X \star dO",
        ),
        ("C-08", "C-09", "C-10", "C-11"),
    ),
)
CONVOLVE2D = Formula(
    convolve2d_fwd,
    convolve2d_bwd,
    reference.conv2d.convolve2d,
    definition=definitions.convolve2d,
    mutants=mutants_of_convolutions.CONVOLVE2D,
    draw=_image("w"),
    sizes=IMAGE,
    source="Lecture C, page 3",
    batch=NO_BATCH,
    hard=hard_layers.CONVOLVE2D,
    golden=golden.products("x", "w"),
    variants={"full": {"mode": "full"}, "valid": {"mode": "valid"}},
    polynomial=True,
    grows=(("x", 0), ("x", 1), ("w", 0), ("w", 1)),
    bench=Bench(IMAGE_AXES, IMAGES, reference.plain.convolve2d),
    shown=Shown(
        "Layers",
        "True convolution of one channel",
        r"Y_{ij} = \sum_{ab} X_{i-a, j-b} W_{ab}",
        (
            r"dX_{pq} = \sum_{ab} dY_{p+a, q+b} W_{ab}",
            r"dW_{ab} = \sum_{ij} dY_{ij} X_{i-a, j-b}",
        ),
        ("C-07",),
    ),
)


def _layer(draw: Draw, N: int, H: int, W: int, C: int, kh: int, kw: int, O: int, groups: int = 1) -> Inputs:
    """A layer's inputs; ``C`` is the number of channels per group."""
    if draw.style == "tiny":
        x, kernel = draw.exactly(2, 5, 6, groups), draw.exactly(2, 2, 1, groups)
    elif draw.style == "square":
        x, kernel = draw.exactly(6, 9, 9, 6), draw.exactly(3, 3, 6 // groups, 6)
    else:
        x, kernel = draw.normal(N, H, W, C * groups), draw.normal(kh, kw, C, O)
    return {"x": x, "kernel": kernel, "bias": draw.exactly(kernel.shape[-1])}


GEOMETRIES: dict[str, dict[str, Any]] = {
    "valid": {},
    "strides": {"strides": (2, 3)},
    "same": {"padding": "SAME", "strides": (3, 2)},
    "padding": {"padding": ((1, 2), (0, 3)), "strides": (2, 1)},
    "dilation": {"dilation": (3, 2)},
    "groups": {"groups": 3},
    "all": {"strides": (2, 3), "padding": "SAME", "dilation": (3, 2), "groups": 2},
}
LAYER_AXES = ("N", "H W", "C", "kh kw", "O")
LAYERS = (
    (4, 8, 3, 3, 5), (128, 28, 1, 3, 32), (128, 26, 32, 3, 64), (32, 32, 16, 5, 32), (128, 12, 6, 5, 16),
    (16, 56, 64, 3, 64),
)  # fmt: skip
YNN_OFF = {"xla_cpu_experimental_ynn_fusion_type": ""}  # the best known options for convolutions on a CPU
GROWING = Scale(
    "convolution", "N", (1, 4, 16, 64, 256, 1024), {"H": 16, "W": 16, "C": 8, "kh": 3, "kw": 3, "O": 16}
)
AS_XLA: dict[str, Any] = {"plain": reference.plain.conv2d, "options": YNN_OFF, "peer": True}
TIMED: dict[str, Any] = {
    "op": Op(ops.conv2d, Bench(LAYER_AXES, (LAYERS[0], LAYERS[4]), **AS_XLA)),
    "bench": Bench(LAYER_AXES, LAYERS, quick=(1,), **AS_XLA, scale=GROWING),
    "shown": Shown(
        "Layers",
        "Conv2D, any strides, padding, dilation, groups",
        r"Z = x \star K + b",
        (
            r"dx = dZ \star_{\text{full}} \operatorname{rot}_{180}(K)",
            r"dK = x \star dZ",
            r"db = \sum dZ",
        ),
        ("C-08", "C-09", "C-10"),
    ),
}
CONV2D, CONV2D_CPU, CONV2D_PLAIN = (
    Formula(
        fwd,
        bwd,
        reference.conv2d.conv2d,
        definition=definitions.conv2d,
        mutants=mutants_of_convolutions.CONV2D,
        draw=_layer,
        sizes={"N": 5, "H": 11, "W": 10, "C": 4, "kh": 2, "kw": 3, "O": 6},
        source="Lecture C, page 4, and Lecture A's network; the rest as jax.lax.conv_general_dilated",
        golden=golden.products("x", "kernel"),
        variants=GEOMETRIES,
        polynomial=True,
        batch=Batch({"x": 0}, 0),
        sends={"O": {"all-reduce": "N H W C"}},
        grows=tuple((name, axis) for name, axes in (("x", (0, 1, 2)), ("kernel", (0, 1))) for axis in axes),
        **parts,
    )
    for fwd, bwd, parts in (
        (conv2d_fwd, conv2d_bwd, {**TIMED, "hard": hard_layers.CONV2D + hard_layers.CROPPED}),
        (conv2d_cpu_fwd, conv2d_cpu_bwd, {}),
        (conv2d_plain_fwd, conv2d_plain_bwd, {"hard": hard_layers.CROPPED}),
    )
)


def _transposed(
    draw: Draw, N: int, h: int, w: int, C: int, kh: int, kw: int, O: int, groups: int = 1
) -> Inputs:
    """A layer's inputs; ``C`` and ``O`` are the numbers of channels per group."""
    if draw.style == "tiny":
        x, kernel = draw.exactly(1, 2, 3, groups), draw.exactly(2, 2, 1, groups)
    elif draw.style == "square":
        x, kernel = draw.exactly(6, 4, 4, 6), draw.exactly(3, 3, 6 // groups, 6)
    else:
        x, kernel = draw.normal(N, h, w, C * groups), draw.normal(kh, kw, O, C * groups)
    return {"x": x, "kernel": kernel, "bias": draw.exactly(kernel.shape[2] * groups)}


CONV_TRANSPOSE2D = Formula(
    conv_transpose2d_fwd,
    conv_transpose2d_bwd,
    reference.conv2d.conv_transpose2d,
    definition=definitions.conv_transpose2d,
    mutants=mutants_of_convolutions.CONV_TRANSPOSE2D,
    hard=hard_chapter_e.CONV_TRANSPOSE2D,
    draw=_transposed,
    sizes={"N": 3, "h": 2, "w": 4, "C": 2, "kh": 2, "kw": 3, "O": 5},
    source="Dumoulin and Visin 2016, chapter 4",
    golden=golden.products("x", "kernel"),
    variants={
        "all": {"strides": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 3), "groups": 2},
        "valid": {},
        "same": {"padding": "SAME", "strides": (3, 2)},
    },
    polynomial=True,
    batch=Batch({"x": 0}, 0),
    grows=tuple((name, axis) for name, axes in (("x", (0, 1, 2)), ("kernel", (0, 1))) for axis in axes),
    op=Op(ops.conv_transpose2d),
    bench=Bench(
        ("N", "h w", "C O"), ((8, 8, 4), (32, 28, 16), (32, 56, 64)), reference.plain.conv_transpose2d,
        fixed={"kh": 3, "kw": 3, "groups": 1, "strides": 1, "padding": "VALID", "dilation": 1},
        quick=(0,), options=YNN_OFF,
    ),
    shown=Shown(
        "Layers",
        "Transposed convolution",
        r"y = x \star_{\text{full}} \operatorname{rot}_{180}(K) + b",
        (r"dx = dy \star K", r"dK = dy \star x", r"db = \sum dy"),
        ("E-21",),
    ),
)  # fmt: skip
ENTRIES = (CORRELATE2D, CONVOLVE2D, CONV2D, CONV2D_CPU, CONV2D_PLAIN, CONV_TRANSPOSE2D)
