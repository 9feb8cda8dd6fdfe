"""Pooling of images, windows side by side or overlapping."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue import hard_chapter_e
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import Batch, Bench, Formula, Function, Inputs, Op, Scale, Shown, normal
from manual_grad.catalogue.families import FACTOR, NO_MASK, PADDING, STRIDE, SUM_MISSING, family
from manual_grad.catalogue.golden import Changed, GoldenCases, put
from manual_grad.catalogue.hard import Hard
from manual_grad.formulas.geometry import Windows, windows
from manual_grad.formulas.pooling import (
    avg_pool2d_bwd,
    avg_pool2d_fwd,
    jac_max_pool2d_x,
    max_pool2d_bwd,
    max_pool2d_fwd,
)
from manual_grad_reference import definitions

AXES, SIZES = ("N", "H W", "C"), ((8, 8, 4), (32, 28, 16), (32, 56, 64))
EQUAL_MAXIMA = (
    "The entries are 0, 1 and 2, so that most windows have several maxima. The first of them, row by row, "
    "takes all of the window's cotangent: a share for each, or all of it for each, is wrong here."
)
SIDE_BY_SIDE = {"window": 2, "strides": None, "padding": "VALID"}


def _to_its_maximum(patch: Any, d: Any, of: Windows) -> Any:
    flat = patch.reshape(len(patch), -1, patch.shape[-1])
    chosen = jnp.arange(flat.shape[1])[:, None] == flat.argmax(axis=1)[:, None]
    return jnp.where(chosen, d[:, None], 0).reshape(patch.shape)


def _evenly(patch: Any, d: Any, of: Windows) -> Any:
    return jnp.broadcast_to(d[:, None, None] / (of.window[0] * of.window[1]), patch.shape)


def _among_those_inside(patch: Any, d: Any, of: Windows) -> Any:
    """The mean over the positions that lie inside the image."""
    inside = jnp.isfinite(patch[:1, :, :, :1])
    return jnp.where(inside, d[:, None, None] / inside.sum(), 0) + 0 * d[:, None, None]


def _pooled(
    dout: Any,
    x: Any,
    window: Any,
    strides: Any = None,
    padding: Any = "VALID",
    *,
    shared: Callable,
    put: Callable = lambda dx, at, share: dx.at[at].add(share),
    apart: Callable = lambda of: of.strides,
    begin: Callable = lambda of: (of.pads[0][0], of.pads[1][0]),
) -> dict[str, Any]:
    """Pool window by window."""
    of = windows("", x, window, strides, padding)
    padded = jnp.pad(x, ((0, 0), *of.pads, (0, 0)), constant_values=-jnp.inf)
    dx = jnp.zeros_like(padded)
    for i, j in product(range(dout.shape[1]), range(dout.shape[2])):
        seen = _window(of, i * of.strides[0], j * of.strides[1])
        sent = _window(of, i * apart(of)[0], j * apart(of)[1])
        dx = put(dx, sent, shared(padded[seen], dout[:, i, j], of))
    top, left = begin(of)
    return {"x": dx[:, top : top + x.shape[1], left : left + x.shape[2]]}


def _window(of: Windows, row: int, column: int) -> tuple:
    return slice(None), slice(row, row + of.window[0]), slice(column, column + of.window[1])


def _overlap(inputs: dict[str, Any]) -> bool:
    of = windows("", inputs["x"], inputs["window"], inputs.get("strides"), inputs.get("padding", "VALID"))
    return any(s < k for s, k in zip(of.strides, of.window, strict=True))


def _padded(inputs: dict[str, Any]) -> bool:
    return inputs.get("padding", "VALID") != "VALID"


def _mutants(shared: Callable, *own: tuple) -> tuple:
    def right(dout: Any, shared: Callable = shared, **inputs: Any) -> dict[str, Any]:
        return _pooled(dout, shared=shared, **inputs)

    return (
        family("gradient", right, (STRIDE, "windows side by side", {"apart": lambda of: (1, 1)}), *own),
        family(
            "gradient",
            right,
            (
                "windows overwritten",
                "dx[window] = …, not +=",
                {"put": lambda dx, at, share: dx.at[at].set(share)},
            ),
            applies=_overlap,
        ),
        family(
            "gradient",
            right,
            (PADDING, "dx not cropped by the padding before", {"begin": lambda of: (0, 0)}),
            applies=_padded,
        ),
    )


def _everywhere(patch: Any, d: Any, of: Windows) -> Any:
    return jnp.broadcast_to(d[:, None, None], patch.shape)


def _distinct(draw: Draw, shape: tuple[int, ...], sizes: Any) -> Any:
    """Distinct sixteenths, even in half precision, so that no window has two maxima."""
    if draw.style != "real":
        return draw.exactly(*shape)
    n = math.prod(shape)
    return jnp.asarray(((draw.rng.permutation(n) - n // 2) / 16).reshape(shape), draw.dtype)


def _few_values(draw: Draw, inputs: Inputs) -> Inputs:
    return inputs | {"x": put(np.round(np.asarray(inputs["x"], np.float64) / 4) % 3, draw)}


def _by_max(x: Any) -> Any:
    return jnp.stack([x[:, :, :-1], x[:, :, 1:]]).max(axis=0)


def _reduced(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 1), (1, 1, 1, 1), "VALID")


TIED = (
    Hard(
        "equal maxima in a window",
        "The first of them, row by row, takes all of the window's cotangent; none of it is given twice.",
        lambda rng: {"x": rng.integers(0, 2, (1, 1, 8, 1)).astype(float)},
        {"jnp.max": _by_max, "lax.reduce_window": _reduced},
        ("jnp.max",),
        "it gives each of the equal ones the same share",
        settings={"window": (1, 2), "strides": 1},
    ),
)


POOLING: dict[str, Any] = {
    "sizes": {"N": 3, "H": 5, "W": 6, "C": 2},
    "tiny": {"N": 1, "H": 4, "W": 5, "C": 1},
    "variants": {
        "overlapping": {"window": (2, 4), "strides": (3, 2), "padding": ((1, 0), (1, 2))},
        "side by side": {"window": 2},
        "side by side, not square": {"window": (4, 2)},
        "same": {"window": (4, 2), "strides": 1, "padding": "SAME"},
    },
    "polynomial": True,
    "batch": Batch({"x": 0}, 0),
    "grows": tuple(("x", axis) for axis in range(4)),
}
MAX_POOL2D = Formula(
    max_pool2d_fwd,
    max_pool2d_bwd,
    reference.pooling.max_pool2d,
    definition=definitions.max_pool2d,
    mutants=_mutants(
        _to_its_maximum,
        (NO_MASK, "dout to every place in the window", {"shared": _everywhere}),
        (FACTOR, "dout/(kh kw) to every place, a mean's gradient", {"shared": _evenly}),
    ),
    source="Scherer, Müller and Behnke 2010, section 3",
    functions=(Function(jac_max_pool2d_x, ("x",)),),
    draw={"x": _distinct},
    hard=TIED,
    golden=GoldenCases("Sixteenths, no two alike.", Changed(_few_values, EQUAL_MAXIMA)),
    op=Op(ops.max_pool2d),
    bench=Bench(
        AXES,
        SIZES,
        reference.plain.max_pool2d,
        fixed=SIDE_BY_SIDE,
        quick=(0,),
        scale=Scale("pooling", "N", (1, 4, 16, 64, 256, 1024), {"H": 16, "W": 16, "C": 16}),
    ),
    shown=Shown(
        "Layers",
        "Maximum pooling",
        r"y_w = x_{p_w}, \; p_w = \text{the first maximum of window } w",
        (r"dx_p = \sum_{w : p_w = p} dy_w",),
        ("E-19",),
    ),
    **POOLING,
)
AVG_POOL2D = Formula(
    avg_pool2d_fwd,
    avg_pool2d_bwd,
    reference.pooling.avg_pool2d,
    definition=definitions.avg_pool2d,
    mutants=(
        *_mutants(
            _evenly,
            (FACTOR, "1/(kh kw) is missing", {"shared": _everywhere}),
            (SUM_MISSING, "dout to the window's first maximum", {"shared": _to_its_maximum}),
        ),
        family(
            "gradient",
            lambda dout, shared=_evenly, **inputs: _pooled(dout, shared=shared, **inputs),
            (FACTOR, "1/(the places inside the image) for 1/(kh kw)", {"shared": _among_those_inside}),
            applies=_padded,
        ),
    ),
    source="LeCun et al. 1998, section II.B",
    hard=hard_chapter_e.AVG_POOL2D,
    draw={"x": normal},
    op=Op(ops.avg_pool2d),
    bench=Bench(AXES, SIZES, reference.plain.avg_pool2d, fixed=SIDE_BY_SIDE, quick=(0,)),
    shown=Shown(
        "Layers",
        "Mean pooling",
        r"y_{nijc} = \frac{1}{k_h k_w} \sum_{ab} x_{n, is+a, js+b, c}",
        (r"dx_p = \frac{1}{k_h k_w} \sum_{w : p \text{ in } w} dy_w",),
        ("E-20",),
    ),
    **POOLING,
)
ENTRIES = (MAX_POOL2D, AVG_POOL2D)
