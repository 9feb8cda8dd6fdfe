"""The book's pictures, each drawn from the functions' results when the book is made, with its data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from markupsafe import Markup

import manual_grad_reference as reference
from manual_grad.compiling import quickly
from manual_grad.formulas.correlation import (
    correlate2d_bwd,
    correlate2d_fwd,
    jac_correlate2d_f,
    jac_correlate2d_x,
)
from manual_grad.formulas.dense import (
    dense_columns_bwd,
    dense_columns_fwd,
    dense_rows_bwd,
    dense_rows_fwd,
    jac_dense_columns_W,
    jac_dense_columns_X,
)
from manual_grad.formulas.mse import jac_squared_errors_y_hat
from manual_grad.formulas.softmax import jac_softmax_logits
from manual_grad.report import numbers, svg


@dataclass(frozen=True)
class Figure:
    """A picture with its text and its data.

    Attributes:
        name: its anchor and the name of its data file.
        html: the drawing.
        caption: a description, with formulas marked up for :func:`manual_grad.report.mathml.marked`.
        data: the data that it was drawn from, as JSON.
    """

    name: str
    html: Markup
    caption: str
    data: Any


def jacobian_figures() -> dict[str, list[Figure]]:
    """Tag → heat maps of its Jacobian: by hand, JAX's, and their difference."""
    rng: Any = np.random.default_rng(0)
    y_hat, y, logits = rng.normal(size=8), 2 + rng.normal(size=8), 1.5 * rng.normal(size=(3, 5))
    X, W, b = rng.normal(size=(3, 4)), rng.normal(size=(5, 3)), rng.normal(size=5)
    image, kernel = rng.normal(size=(4, 5)), rng.normal(size=(2, 3))

    def rows_first(jacobian: np.ndarray) -> np.ndarray:
        half = jacobian.ndim // 2
        return jacobian.reshape(int(np.prod(jacobian.shape[:half])), -1)

    return {
        "A-03": [
            _jacobian(
                "jacobian-mse",
                quickly(jac_squared_errors_y_hat)(y_hat, y),
                quickly(jax.jacobian(reference.mse.squared_errors))(y_hat, y),
                rows_first,
                "The Jacobian of the squared errors for $N = 8$: $-2(y - \\hat{y})$ on the diagonal, and 56 "
                "zeros that are never needed.",
            )
        ],
        "A-07": [
            _jacobian(
                "jacobian-softmax",
                quickly(jac_softmax_logits)(logits),
                quickly(jax.jacobian(reference.softmax.softmax))(logits),
                rows_first,
                "The softmax Jacobian for a batch of 3 samples and 5 classes: one symmetric block "
                "$\\operatorname{diag}(\\hat{y}) - \\hat{y} \\hat{y}^{\\top}$ for each sample, and nothing "
                "between samples.",
                (5, 5),
            )
        ],
        "D-09": [
            _jacobian(
                "jacobian-dense-W",
                quickly(jac_dense_columns_W)(X, W, b),
                quickly(jax.jacobian(reference.dense.dense_columns, 1))(X, W, b),
                _columns_first,
                "$\\partial \\operatorname{vec} Z / \\partial \\operatorname{vec} W = X^{\\top} \\otimes I$ "
                "for $X$ of $3 \\times 4$ and $W$ of $5 \\times 3$: every block is a multiple of the "
                "identity, and the multiples are the entries of $X^{\\top}$. That is where the transpose "
                "comes from.",
                (5, 5),
            ),
            _jacobian(
                "jacobian-dense-X",
                quickly(jac_dense_columns_X)(X, W, b),
                quickly(jax.jacobian(reference.dense.dense_columns, 0))(X, W, b),
                _columns_first,
                "$\\partial \\operatorname{vec} Z / \\partial \\operatorname{vec} X = I \\otimes W$: $W$ "
                "itself, once for each of the 4 samples. Samples are independent.",
                (5, 3),
            ),
        ],
        "C-11": [
            _jacobian(
                "jacobian-correlation-X",
                quickly(jac_correlate2d_x)(image, kernel),
                quickly(jax.jacobian(reference.conv2d.correlate2d, 0))(image, kernel),
                rows_first,
                "$\\partial O / \\partial X$ for an image of $4 \\times 5$ and a filter of $2 \\times 3$: "
                "doubly Toeplitz. Each diagonal of a block holds one entry of $F$, and each diagonal of "
                "blocks repeats one block.",
                (3, 5),
            ),
            _jacobian(
                "jacobian-correlation-F",
                quickly(jac_correlate2d_f)(image, kernel),
                quickly(jax.jacobian(reference.conv2d.correlate2d, 1))(image, kernel),
                rows_first,
                "$\\partial O / \\partial F$: each row is the window of the image that one output depends "
                "on.",
                (3, 3),
            ),
        ],
    }


def _jacobian(
    name: str,
    hand: Any,
    oracle: Any,
    flat: Callable[[np.ndarray], np.ndarray],
    caption: str,
    blocks: tuple[int, int] | None = None,
) -> Figure:
    ours, jaxs = flat(np.asarray(hand)), flat(np.asarray(oracle))
    gap = ours - jaxs
    worst, scale = float(np.abs(gap).max()), float(np.abs(jaxs).max())
    rows, columns = ours.shape
    panels = [
        (svg.heatmap(ours, f"{rows} by {columns} matrix by hand", scale, blocks), "by hand"),
        (svg.heatmap(jaxs, f"{rows} by {columns} matrix from jax.jacobian", scale, blocks), "jax.jacobian"),
        (
            svg.heatmap(gap, f"their difference, at most {worst:.0e}", worst or 1.0, blocks),
            f"difference, at most {worst:.0e}" if worst else "difference: 0 everywhere",
        ),
    ]
    about = f" Strongest colour: {scale:.2g} (in the difference, its largest entry)."
    data = {"by_hand": ours.tolist(), "jax": jaxs.tolist(), "largest_difference": worst}
    return Figure(name, beside(panels), caption + about, data)


def beside(panels: Sequence[tuple[Markup, str]], css: str = "panels") -> Markup:
    """Drawings side by side, each with a line under it."""
    made = [
        Markup('<div class="panel">{}<p>{}</p></div>').format(picture, under) for picture, under in panels
    ]
    return Markup('<div class="{}">').format(css) + Markup("").join(made) + Markup("</div>")


# --- convolution ------------------------------------------------------------------------------------------


def one_pixel_figure() -> Figure:
    """One entry of dX: the windows that the pixel in the middle lies in, and what it meets in each."""
    known = numbers.named("C-10")
    X, F, dO = (known[name] for name in ("X", "F", "dO"))
    panels, terms = [], []
    for i, j in np.ndindex(*dO.shape):
        a, b = 1 - i, 1 - j
        said = f"window of O[{i},{j}]: X[1,1] meets F[{a},{b}], which adds {_product_of(dO[i, j], F[a, b])}"
        panels.append((_window(X, F, i, j, f"the filter at row {i}, column {j} of the image", (1, 1)), said))
        terms.append([float(dO[i, j]), float(F[a, b])])
    total, dX = sum(d * f for d, f in terms), correlate2d_bwd(correlate2d_fwd(X, F)[1], dO)[0]
    _compare("one pixel", total, dX[1, 1])
    said = " + ".join(_product_of(d, f) for d, f in terms)
    return Figure(
        "one-pixel",
        beside(panels, "panels pixel"),
        "The entry $\\partial L / \\partial X_{11}$, in the numbers above: the pixel in the middle of the "
        "image lies in all four windows. In each, the filter's entry that it meets (small figure) is "
        "multiplied by the gradient of that window's output, and the products are added: "
        f"{said} = {svg.short(total)}.",
        {"terms": terms, "sum": float(total)},
    )


def rotation_figure() -> Figure:
    """dX of a cross-correlation, entry by entry: the rotated kernel over the padded gradient."""
    known = numbers.named("C-10")
    X, F, dO = (known[name] for name in ("X", "F", "dO"))
    dX = np.asarray(correlate2d_bwd(correlate2d_fwd(X, F)[1], dO)[0])
    turned, padded = F[::-1, ::-1], np.pad(dO, 1)
    shown: Any = [
        (F, "F", "the filter F"),
        (turned, "F rotated by 180°", "the filter rotated by 180 degrees"),
        (dO, "∂L/∂O", "the gradient of the output"),
        (dX, "∂L/∂X, computed by the code", "the gradient of the image"),
    ]
    first = beside([(svg.heatmap(M, label, numbers=True), under) for M, under, label in shown], "panels four")
    steps, data = [], []
    for p, q in np.ndindex(*X.shape):
        window = padded[p : p + 2, q : q + 2]
        terms = [(g, f) for f, g in zip(turned.ravel(), window.ravel(), strict=True) if g]
        total = sum(f * g for f, g in terms)
        _compare("rotation", total, dX[p, q])
        said = " + ".join(_product_of(g, f) for g, f in terms)
        label = f"the rotated filter at row {p}, column {q} of the padded gradient"
        steps.append((_window(padded, turned, p, q, label), f"[{p},{q}]: {said} = {svg.short(total)}"))
        data.append({"at": [p, q], "terms": terms, "sum": float(total)})
    return Figure(
        "rotation",
        first + beside(steps, "panels nine"),
        "All entries of the image's gradient, [[C-10]], in the numbers above. The rotated filter (small "
        "figures in the frame) slides over $\\partial L / \\partial O$, padded with zeros; each position "
        "gives one entry of $\\partial L / \\partial X$. Position [1,1] has the four products of the figure "
        "before this one.",
        data,
    )


def _compare(picture: str, ours: float, formula: Any) -> None:
    """Refuse to draw numbers that the formula does not give."""
    if not np.isclose(ours, formula):
        raise AssertionError(f"picture {picture!r}: its terms add up to {ours}, the formula gives {formula}")


def _product_of(a: float, b: float) -> str:
    return f"{svg.short(a)}·{_bracketed(b)}" if a >= 0 else f"({svg.short(a)})·{_bracketed(b)}"


def _bracketed(value: float) -> str:
    return f"({svg.short(value)})" if value < 0 else svg.short(value)


def _window(
    grid: np.ndarray, kernel: np.ndarray, p: int, q: int, label: str, spot: tuple[int, int] | None = None
) -> Markup:
    """A filter laid on a grid of numbers, its entries small; perhaps one number is marked."""
    side, n, scale = 30.0, len(grid), float(np.abs(grid).max())
    parts = [svg.rect(0.5, 0.5, n * side, n * side, "paper")]
    for i, j in np.ndindex(*grid.shape):
        x, y, value = 0.5 + j * side, 0.5 + i * side, float(grid[i, j])
        parts.append(svg.cell(x, y, side, value, scale, 0.5))
        inside = p <= i < p + 2 and q <= j < q + 2
        parts.append(svg.text(x + side / 2, y + (13 if inside else 20), svg.short(value), css="entry"))
        if inside:
            in_mark = 2.5 if spot == (i, j) else 0
            met = f"×{svg.short(kernel[i - p, j - q])}"
            parts.append(svg.text(x + side - 3 - in_mark, y + 27 - in_mark, met, "end", "tiny"))
    parts += [svg.line(0.5, 0.5 + k * side, n * side + 0.5, 0.5 + k * side) for k in range(n + 1)]
    parts += [svg.line(0.5 + k * side, 0.5, 0.5 + k * side, n * side + 0.5) for k in range(n + 1)]
    parts.append(svg.rect(0.5 + q * side, 0.5 + p * side, 2 * side, 2 * side, "window"))
    if spot:
        parts.append(svg.rect(2.5 + spot[1] * side, 2.5 + spot[0] * side, side - 4, side - 4, "spot"))
    return svg.drawing("".join(parts), n * side + 1, n * side + 1, label, "heat")


# --- a matrix with respect to a matrix --------------------------------------------------------------------


def stacked_figure() -> Figure:
    """A dense layer's two Jacobians in the derivation's numbers, with the entry of each row and column."""
    known = numbers.named("D-09")
    X, W = known["X"], known["W"]
    b: Any = np.zeros(len(W))
    orders = [_stacked(name, *M.shape) for name, M in (("Z", W @ X), ("W", W), ("A", X))]
    rows = orders[0]
    of_W = _columns_first(np.asarray(jac_dense_columns_W(X, W, b)))
    of_X = _columns_first(np.asarray(jac_dense_columns_X(X, W, b)))
    panels = [
        (svg.labelled(J, f"{len(J)} by {len(J[0])} matrix with labels", rows, columns, blocks, 6), under)
        for J, columns, blocks, under in (
            (of_W, orders[1], (3, 3), "∂ vec Z / ∂ vec W"),
            (of_X, orders[2], (3, 2), "∂ vec Z / ∂ vec A"),
        )
    ]
    return Figure(
        "stacked",
        beside(panels, "panels two"),
        "Both Jacobians in the numbers above, computed by the code, where $Z$, $W$ and $A$ are $Z_5$, $W_5$ "
        "and $A_4$. Each row belongs to an entry of $Z$ [unit, sample], each column to an entry of $W$ "
        "[unit, input] or $A$ [input, sample], in the order of $\\operatorname{vec}$: the first index "
        "changes fastest. Row $Z[1, 1]$ has the inputs $A[0, 1]$ and $A[1, 1]$ of its sample in the columns "
        "$W[1, 0]$ and $W[1, 1]$; in the other matrix it has the weights of unit 1 in the columns of "
        "sample 1.",
        {"W": of_W.tolist(), "X": of_X.tolist(), "rows": rows, "columns": orders[1:]},
    )


def _stacked(name: str, rows: int, columns: int) -> list[str]:
    """The entries of a matrix in the order of vec.

    >>> _stacked("Z", 2, 1)
    ['Z[0,0]', 'Z[1,0]']
    """
    return [f"{name}[{i},{j}]" for j in range(columns) for i in range(rows)]


def _columns_first(jacobian: np.ndarray) -> np.ndarray:
    """A Jacobian as a matrix between vectors of stacked columns, as in the notes."""
    k, n, p, q = jacobian.shape
    return jacobian.transpose(1, 0, 3, 2).reshape(k * n, p * q)


# --- rows and columns -------------------------------------------------------------------------------------


def rows_and_columns_figure() -> Figure:
    """One layer in both conventions, from the same numbers."""
    rng: Any = np.random.default_rng(1)
    X, W, b, dZ = (
        rng.normal(size=(4, 3)),
        rng.normal(size=(3, 5)),
        rng.normal(size=5),
        rng.normal(size=(4, 5)),
    )
    Z, res = quickly(dense_rows_fwd)(X, W, b)
    dX, dW, db = quickly(dense_rows_bwd)(res, dZ)
    Zc, res_c = quickly(dense_columns_fwd)(X.T, W.T, b)
    dXc, dWc, dbc = quickly(dense_columns_bwd)(res_c, dZ.T)
    gap = max(
        float(np.abs(np.asarray(a) - np.asarray(c).T).max())
        for a, c in ((Z, Zc), (dX, dXc), (dW, dWc), (db, dbc))
    )
    rows = [
        _product("rows, forward", ("X", X), ("W", W), ("X W", X @ W)),
        _product("columns, forward", ("W", W.T), ("X", X.T), ("W X", (X @ W).T)),
        _product("rows, dW", ("Xᵀ", X.T), ("dZ", dZ), ("dW", np.asarray(dW))),
        _product("columns, dW", ("dZ", dZ.T), ("Xᵀ", X), ("dW", np.asarray(dWc))),
        _product("rows, dX", ("dZ", dZ), ("Wᵀ", W.T), ("dX", np.asarray(dX))),
        _product("columns, dX", ("Wᵀ", W), ("dZ", dZ.T), ("dX", np.asarray(dXc))),
    ]
    arrays = {"X": X, "W": W, "dZ": dZ, "Z": Z, "dX": dX, "dW": dW, "db": db}
    data: dict[str, Any] = {name: np.asarray(value).tolist() for name, value in arrays.items()}
    return Figure(
        "rows-and-columns",
        Markup('<div class="products">') + Markup("").join(rows) + Markup("</div>"),
        "The same layer ($n = 4$ samples, $d = 3$ inputs, $m = 5$ units) with one sample per row and with "
        "one sample per column. Every matrix on the right is the transpose of its neighbour, and every "
        f"product has its factors in reverse order. The two computations differ by at most {gap:.0e}.",
        data | {"largest_difference": gap},
    )


def _product(title: str, *matrices: tuple[str, np.ndarray]) -> Markup:
    signs = ("", "·", "=")
    made = [Markup('<p class="over">{}</p>').format(title)]
    for sign, (name, M) in zip(signs, matrices, strict=True):
        picture = svg.heatmap(M, f"{name}, {M.shape[0]} by {M.shape[1]}")
        under = f"{name} {M.shape[0]}×{M.shape[1]}"
        width = Markup(' style="width:{}em"').format(svg.number(1.15 * M.shape[1]))
        made.append(Markup('<span class="sign">{}</span>').format(sign) if sign else Markup(""))
        made.append(
            Markup('<span class="matrix"><span{}>{}</span><span class="under">{}</span></span>').format(
                width, picture, under
            )
        )
    return Markup('<div class="product">') + Markup("").join(made) + Markup("</div>")


# --- training ---------------------------------------------------------------------------------------------


def training_figure(records: Sequence[dict[str, Any]]) -> Figure:
    """Loss and accuracy of lecture D's network, by hand and by autodiff, epoch by epoch."""
    epochs = [r["epoch"] for r in records]
    panels = []
    for name, title, log in (("train_loss", "training loss", True), ("test_accuracy", "accuracy", False)):
        ours, jaxs = [r[name] for r in records], [r["autodiff"][name] for r in records]
        label = (
            f"{title} over {len(epochs)} epochs, from {ours[0]:.3g} to {ours[-1]:.3g}; both curves coincide"
        )
        series = [("by hand", ours, "hand"), ("autodiff", jaxs, "auto")]
        panels.append(
            (
                svg.curves(series, epochs, label, "epoch", title, log),
                "by hand: wide line; autodiff: dashes on it",
            )
        )
    gap = max(r["parameter_gap"] for r in records)
    return Figure(
        "training",
        beside(panels, "panels two"),
        "Lecture D's five layers trained on real handwritten digits of $8 \\times 8$ pixels (1797 in all), "
        "by [[D-11]] in float64, once with the gradients by hand and once with JAX's, from the same start "
        f"and on the same batches. After {epochs[-1]} epochs the parameters of the two networks differ by "
        f"at most {gap:.0e} of their size, and {records[-1]['test_accuracy']:.1%} of the held-out digits "
        "are classified correctly.",
        list(records),
    )


# --- network graphs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A tensor in a network, the part of the network that begins with it, and the operation that follows."""

    name: str
    shape: tuple[int, ...]
    gradient: str
    operation: str = ""
    part: str = ""
    parameters: tuple[tuple[str, tuple[int, ...]], ...] = ()


def graph(stages: Sequence[Stage], label: str) -> Markup:
    """A network from top to bottom: tensors forward on the left, gradients backward on the right."""
    width, box, gap, left, right = 440.0, 34.0, 52.0, 4.0, 284.0
    parts = [
        svg.text(left + 76, 14, "forward ↓", css="small strong"),
        svg.text(right + 76, 14, "↑ backward", css="small strong back"),
    ]
    y = 24.0
    for k, stage in enumerate(stages):
        last = k == len(stages) - 1
        parts.append(svg.rect(left, y, 152, box, "node", r=5))
        parts.append(_labelled(left, y, stage.name, stage.shape))
        parts.append(svg.rect(right, y, 152, box, "node back", r=5))
        parts.append(_labelled(right, y, stage.gradient, stage.shape))
        parts.append(svg.text(220, y + 21, stage.part, css="small strong"))
        if not last:
            parts.append(svg.arrow(left + 76, y + box, left + 76, y + box + gap, "flow"))
            parts.append(svg.arrow(right + 76, y + box + gap, right + 76, y + box, "flow back"))
            middle = y + box + gap / 2 - (4 if stage.parameters else -4)
            parts.append(svg.text(220, middle, stage.operation, css="name"))
            under = ", ".join(f"{name} {_shape(shape)}" for name, shape in stage.parameters)
            parts.append(svg.text(220, middle + 16, under, css="small"))
        y += box + gap
    return svg.drawing("".join(parts), width, y - gap + 6, label, "graph")


def _labelled(x: float, y: float, name: str, shape: tuple[int, ...]) -> str:
    """A tensor's name at the left of its box, its shape at the right."""
    return svg.text(x + 10, y + 21, name, "start", "name") + svg.text(
        x + 142, y + 21, _shape(shape), "end", "cell"
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def small_graph() -> Figure:
    """(x + y) z with its numbers: values forward, gradients backward."""
    from manual_grad.formulas.chain_rule import product_of_sum_bwd, product_of_sum_fwd

    f, res = product_of_sum_fwd(-2.0, 5.0, -4.0)
    dx, dy, dz = (float(d) for d in product_of_sum_bwd(res, 1.0))
    q, dq = -2.0 + 5.0, dx  # ∂q/∂x is 1
    nodes = {"x": (40, 40, -2.0, dx), "y": (40, 120, 5.0, dy), "z": (40, 200, -4.0, dz)}
    nodes |= {"q = x + y": (190, 80, q, dq), "f = q z": (340, 140, float(f), 1.0)}
    edges = [("x", "q = x + y"), ("y", "q = x + y"), ("z", "f = q z"), ("q = x + y", "f = q z")]
    parts = []
    for start, end in edges:
        (x1, y1, *_), (x2, y2, *_) = nodes[start], nodes[end]
        length = np.hypot(x2 - x1, y2 - y1)
        ux, uy = (x2 - x1) / length, (y2 - y1) / length
        parts.append(svg.arrow(x1 + 26 * ux, y1 + 26 * uy, x2 - 27 * ux, y2 - 27 * uy, "flow"))
    for name, (x, y, value, gradient) in nodes.items():
        parts.append(f'<circle cx="{x}" cy="{y}" r="25" class="node"/>')
        parts.append(svg.text(x, y - 30, name, css="name"))
        parts.append(svg.text(x, y - 1, svg.shortest(value), css="name"))
        parts.append(svg.text(x, y + 14, svg.shortest(gradient), css="name back"))
    label = f"graph of (x+y)z: q is {q:g}, f is {float(f):g}; gradients {dx:g} by x and y, {dz:g} by z"
    data = {name: {"value": v, "gradient": g} for name, (_, _, v, g) in nodes.items()}
    return Figure(
        "graph-c-01",
        svg.drawing("".join(parts), 380, 236, label, "graph small-graph"),
        "Each circle shows the value from the forward pass and, below it in colour, the gradient of $f$ with "
        "respect to it. Computed by `product_of_sum_fwd` and `product_of_sum_bwd`.",
        data,
    )


def layered_graph() -> Figure:
    """Lecture C's network with numbers: activations forward, deltas backward."""
    from manual_grad.networks.mlp import network_squared_loss_deltas, network_squared_loss_fwd

    rng: Any = np.random.default_rng(3)
    widths = (2, 4, 3, 2)
    params = [(rng.normal(size=(o, i)), rng.normal(size=o) / 2) for i, o in pairwise(widths)]
    x, y = rng.normal(size=2), rng.normal(size=2)
    loss, res = network_squared_loss_fwd(params, x, y, activation="sigmoid")
    layers, _, error = res
    values = [np.asarray(x), *(np.asarray(A)[:, 0] for A in layers.As[1:]), np.asarray(error) + y]
    deltas = [np.asarray(d) for d in network_squared_loss_deltas(res, 1.0)]
    forward = _circles(widths, params, values, "a", "activations, layer by layer")
    backward = _circles(widths, params, [None, *deltas], "δ", "deltas, from the last layer back")
    data = {
        "loss": float(loss),
        "activations": [v.tolist() for v in values],
        "deltas": [d.tolist() for d in deltas],
    }
    return Figure(
        "graph-c-05",
        beside(
            [(forward, "forward: a, from left to right"), (backward, "backward: δ, from right to left")],
            "panels two",
        ),
        "The network of the notes: two inputs, four units, a second hidden layer, two outputs. That the "
        "second hidden layer has three units, the sigmoid and the numbers are ours. Lines are weights "
        "(thick: large; coloured by sign), circles are units: their activations on the way forward, the "
        "$\\delta$ of [[C-05]] in the backward pass. Here $w^1$ is $4 \\times 2$, $w^2$ is $3 \\times 4$ and "
        "$w^3$ is $2 \\times 3$; every gradient has the shape of its weights.",
        data,
    )


def _circles(widths: Sequence[int], params: Any, values: Sequence[Any], name: str, label: str) -> Markup:
    width, height = 380.0, 250.0
    at = [
        [(36 + 102 * l, height / 2 + 56 * (i - (n - 1) / 2)) for i in range(n)] for l, n in enumerate(widths)
    ]
    parts = []
    biggest = max(float(np.abs(W).max()) for W, _ in params)
    for l, (W, _) in enumerate(params):
        for i, row in enumerate(W):
            for j, w in enumerate(row):
                (x1, y1), (x2, y2) = at[l][j], at[l + 1][i]
                a, b, c, d = map(svg.number, (x1, y1, x2, y2))
                css, wide = ("pos" if w > 0 else "neg"), svg.number(0.4 + 3 * abs(w) / biggest)
                parts.append(
                    f'<line x1="{a}" y1="{b}" x2="{c}" y2="{d}" class="edge {css}" stroke-width="{wide}"/>'
                )
    for l, layer in enumerate(at):
        shown = values[l]
        scale = float(np.abs(shown).max()) if shown is not None else 1.0
        for i, (x, y) in enumerate(layer):
            parts.append(f'<circle cx="{svg.number(x)}" cy="{svg.number(y)}" r="21" class="node"/>')
            if shown is None:
                continue
            css = "pos" if shown[i] > 0 else "neg"
            strength = svg.number(0.08 + 0.5 * abs(float(shown[i])) / (scale or 1))
            parts.append(
                f'<circle cx="{svg.number(x)}" cy="{svg.number(y)}" r="21" class="{css}" '
                f'fill-opacity="{strength}"/>'
            )
            parts.append(svg.text(x, y + 4, svg.shortest(float(shown[i])), css="value"))
        if shown is not None:
            parts.append(svg.text(layer[0][0], height - 2, f"{name}{'⁰¹²³⁴'[l + 1]}", css="name"))
    return svg.drawing("".join(parts), width, height, f"{label}, of a network of widths {widths}", "graph")


def cnn_graph() -> Figure:
    """Lecture A's network: the shape of every tensor, taken from the functions that compute it."""
    from manual_grad.networks.cnn import cnn_fwd, cnn_grads

    shape = jax.ShapeDtypeStruct
    sizes: dict[str, tuple[int, ...]] = {"K1": (3, 3, 1, 32), "b1": (32,), "K2": (3, 3, 32, 64), "b2": (64,)}
    sizes |= {"W4": (24 * 24 * 64, 128), "b4": (128,), "W5": (128, 10), "b5": (10,)}
    params = {name: shape(size, np.float32) for name, size in sizes.items()}
    X, labels = shape((64, 28, 28, 1), np.float32), shape((64, 10), np.float32)
    grads = jax.eval_shape(lambda p, x, y: cnn_grads(cnn_fwd(p, x, y)[1], 1.0), params, X, labels)
    of = {name: tuple(grad.shape) for name, grad in grads.items()}
    stages = [
        Stage(
            "X", of["dX"], "dX", "Conv2D + ReLU", "Feature Extractor", (("K¹", of["dK1"]), ("b¹", of["db1"]))
        ),
        Stage("A¹", of["dA1"], "dA¹", "Conv2D + ReLU", "", (("K²", of["dK2"]), ("b²", of["db2"]))),
        Stage("A²", of["dA2"], "dA²", "flatten"),
        Stage(
            "A³", of["dA3"], "dA³", "Dense + ReLU", "Dense Classifier", (("W⁴", of["dW4"]), ("b⁴", of["db4"]))
        ),
        Stage("A⁴", of["dA4"], "dA⁴", "Dense", "", (("W⁵", of["dW5"]), ("b⁵", of["db5"]))),
        Stage("Z⁵", of["dZ5"], "dZ⁵", "softmax", "Loss Calculator"),
        Stage("Ŷ", of["dZ5"], "dŶ", "cross-entropy"),
        Stage("J", (), "dJ = 1"),
    ]
    return Figure(
        "graph-a-11",
        graph(
            stages, "lecture A's network from X down to J, with the shape of every tensor and its gradient"
        ),
        "The slide's network for 64 images of $28 \\times 28$ pixels: tensors forward on the left, their "
        "gradients backward on the right, parameters in the middle. The shapes are those that `cnn_grads` "
        "returns, and a gradient has the shape of its tensor. The code goes from $J$ to $Z^5$ in one step, "
        "[[A-10]], and never forms $d\\hat{Y}$.",
        {name: list(size) for name, size in of.items()},
    )


def five_layer_graph() -> Figure:
    """Lecture D's network with the shapes of its notes, m = 60000."""
    from manual_grad.networks.mlp import five_layer_fwd, five_layer_grads

    shape, widths = jax.ShapeDtypeStruct, (784, 128, 50, 50, 25, 10)
    params = [(shape((o, i), np.float32), shape((o,), np.float32)) for i, o in pairwise(widths)]
    X, Y = shape((784, 60000), np.float32), shape((10, 60000), np.float32)
    grads = jax.eval_shape(lambda p, x, y: five_layer_grads(five_layer_fwd(p, x, y)[1], 1.0), params, X, Y)
    of = {name: tuple(grad.shape) for name, grad in grads.items()}
    low = "₀₁₂₃₄₅"
    stages = [
        Stage(
            f"A{low[l - 1]}" if l > 1 else "X",
            of[f"dA{l - 1}"] if l > 1 else of["dX"],
            f"dA{low[l - 1]}" if l > 1 else "dX",
            f"W{low[l]} · + b{low[l]}" + (", ReLU" if l < 5 else ""),
            "",
            ((f"W{low[l]}", of[f"dW{l}"]), (f"b{low[l]}", of[f"db{l}"])),
        )
        for l in range(1, 6)
    ]
    stages += [Stage("Z₅", of["dZ5"], "dZ₅", "softmax, cross-entropy"), Stage("L", (), "dL = 1")]
    return Figure(
        "graph-d-10",
        graph(
            stages, "lecture D's network from X down to L, with the shape of every tensor and its gradient"
        ),
        "The five layers with the whole training set, $m = 60000$, one sample per column. The shapes are "
        "those of `five_layer_grads`; compared with those in the notes they reveal [[D-E7]] and [[D-E8]].",
        {name: list(size) for name, size in of.items()},
    )
