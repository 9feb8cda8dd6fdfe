"""SVG drawings inside the page, which use the page's colours and so follow it into dark mode.

Sizes are in the drawing's own units; text is large enough for a phone. Numbers are written with few digits,
so that identical pictures are identical text.
"""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape


def drawing(body: str, width: float, height: float, label: str, css: str = "") -> Markup:
    """An ``svg`` element with a label.

    >>> str(drawing("", 10, 5, "nothing"))
    '<svg role="img" aria-label="nothing" viewBox="0 0 10 5" class=""></svg>'
    """
    box = f"0 0 {number(width)} {number(height)}"
    return Markup(f'<svg role="img" aria-label="{escape(label)}" viewBox="{box}" class="{css}">{body}</svg>')


def number(x: float) -> str:
    """A coordinate.

    >>> number(2.0), number(1 / 3)
    ('2', '0.33')
    """
    return f"{x:.2f}".rstrip("0").rstrip(".")


def text(x: float, y: float, content: str, anchor: str = "middle", css: str = "") -> str:
    """Text with its baseline at ``y``."""
    return (
        f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}" class="{css}">{escape(content)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, css: str = "rule") -> str:
    """A straight line."""
    a, b, c, d = map(number, (x1, y1, x2, y2))
    return f'<line x1="{a}" y1="{b}" x2="{c}" y2="{d}" class="{css}"/>'


def rect(x: float, y: float, w: float, h: float, css: str, opacity: float | None = None, r: float = 0) -> str:
    """A rectangle."""
    a, b, c, d = map(number, (x, y, w, h))
    more = f' fill-opacity="{number(opacity)}"' if opacity is not None else ""
    more += f' rx="{number(r)}"' if r else ""
    return f'<rect x="{a}" y="{b}" width="{c}" height="{d}" class="{css}"{more}/>'


def arrow(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """An arrow: a line with a head at its end."""
    length = math.hypot(x2 - x1, y2 - y1)
    ux, uy = (x2 - x1) / length, (y2 - y1) / length
    tip = [(x2, y2), (x2 - 7 * ux - 3.5 * uy, y2 - 7 * uy + 3.5 * ux)]
    tip.append((x2 - 7 * ux + 3.5 * uy, y2 - 7 * uy - 3.5 * ux))
    points = " ".join(f"{number(x)},{number(y)}" for x, y in tip)
    return line(x1, y1, x2 - 5 * ux, y2 - 5 * uy, css) + f'<polygon points="{points}" class="{css} head"/>'


def cell(x: float, y: float, side: float, value: float, scale: float, most: float = 1.0) -> str:
    """A square coloured by the value's sign, more strongly the larger it is, up to ``most``; none for 0."""
    strength = abs(value) / scale if scale else 0.0
    if strength < 0.004:
        return ""
    return rect(x, y, side, side, "pos" if value > 0 else "neg", most * (0.12 + 0.88 * min(strength, 1)))


def heatmap(
    matrix: np.ndarray,
    label: str,
    scale: float | None = None,
    blocks: tuple[int, int] | None = None,
    numbers: bool = False,
) -> Markup:
    """A matrix as coloured squares.

    Args:
        matrix: (rows, columns).
        label: the alternative text.
        scale: the magnitude with the full colour; by default the largest.
        blocks: rows and columns of a block; lines then separate the blocks.
        numbers: whether to write each entry into its square.
    """
    M = np.asarray(matrix, float)
    rows, columns = M.shape
    side = 24.0 if numbers else 10.0
    scale = float(np.max(np.abs(M), initial=0.0)) if scale is None else scale
    parts = [rect(0.5, 0.5, columns * side, rows * side, "paper")]
    for i in range(rows):
        parts += [
            cell(0.5 + j * side, 0.5 + i * side, side, M[i, j], scale, 0.5 if numbers else 1)
            for j in range(columns)
        ]
    if numbers:
        parts += [
            text(0.5 + (j + 0.5) * side, 0.5 + (i + 0.68) * side, short(M[i, j]), css="entry")
            for i in range(rows)
            for j in range(columns)
        ]
    if blocks:
        parts += [
            line(0.5, y * side + 0.5, columns * side + 0.5, y * side + 0.5)
            for y in range(blocks[0], rows, blocks[0])
        ]
        parts += [
            line(x * side + 0.5, 0.5, x * side + 0.5, rows * side + 0.5)
            for x in range(blocks[1], columns, blocks[1])
        ]
    parts.append(rect(0.5, 0.5, columns * side, rows * side, "frame"))
    return drawing("".join(parts), columns * side + 1, rows * side + 1, label, "heat")


def labelled(
    matrix: np.ndarray,
    label: str,
    rows: Sequence[str],
    columns: Sequence[str],
    blocks: tuple[int, int],
    room: int = 0,
) -> Markup:
    """A small matrix with its numbers, and what each row and column stands for.

    Args:
        matrix: (rows, columns).
        label: the alternative text.
        rows: a label for each row, to the left of it.
        columns: a label for each column, above it.
        blocks: rows and columns of a block; lines separate the blocks.
        room: the number of columns that there is room for: drawings with equal room have equal scale.
    """
    M = np.asarray(matrix, float) + 0.0  # without negative zeros
    left, top, wide, high, scale = 48.0, 22.0, 48.0, 26.0, float(np.max(np.abs(M), initial=0.0)) or 1.0
    width, height = wide * M.shape[1], high * M.shape[0]
    parts = [rect(left, top, width, height, "paper")]
    parts += [text(left + (j + 0.5) * wide, top - 7, name, css="small") for j, name in enumerate(columns)]
    parts += [text(left - 6, top + (i + 0.65) * high, name, "end", "small") for i, name in enumerate(rows)]
    for i, j in np.ndindex(*M.shape):
        x, y, value = left + j * wide, top + i * high, float(M[i, j])
        if value:
            css, strength = "pos" if value > 0 else "neg", 0.06 + 0.44 * abs(value) / scale
            parts.append(rect(x, y, wide, high, css, strength))
        parts.append(text(x + wide / 2, y + 0.65 * high, short(value), css="entry"))
    parts += [
        line(left, top + i * high, left + width, top + i * high) for i in range(0, len(rows), blocks[0])
    ]
    parts += [
        line(left + j * wide, top, left + j * wide, top + height) for j in range(0, len(columns), blocks[1])
    ]
    parts.append(rect(left, top, width, height, "frame"))
    return drawing("".join(parts), left + wide * max(len(columns), room) + 1, top + height + 1, label, "heat")


def short(value: float) -> str:
    """A number in few characters, with a real minus sign.

    >>> short(-2.0), short(0.25), short(3.14159)
    ('−2', '.25', '3.1')
    """
    shown = f"{value:.2g}".replace("-", "−")
    return shown.replace("0.", ".", 1) if shown.lstrip("−").startswith("0.") else shown


def shortest(value: float) -> str:
    """A number that fits into a circle: at most five characters.

    >>> shortest(-0.25), shortest(-0.00024), shortest(0.000041), shortest(1234.0)
    ('−.25', '−2e−4', '4e−5', '1e3')
    """
    shown = short(value)
    if len(shown) <= 5 and "e" not in shown:
        return shown
    return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("-", "−")


def ticks(low: float, high: float) -> list[float]:
    """A few round numbers in a range.

    >>> ticks(0, 0.93)
    [0.0, 0.2, 0.4, 0.6, 0.8]
    """
    step = 10 ** math.floor(math.log10((high - low) / 4 or 1))
    step *= next(k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [round(step * k, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def curves(
    series: Sequence[tuple[str, Sequence[float], str]],
    xs: Sequence[float],
    label: str,
    x_title: str,
    y_title: str,
    log: bool = False,
) -> Markup:
    """Lines over a common x axis: ``series`` holds name, values, CSS class."""
    width, height, left, right, top, bottom = 380.0, 250.0, 46.0, 12.0, 26.0, 36.0

    def y_of(value: float) -> float:
        return math.log10(value) if log else value

    ys = [y_of(v) for _, values, _ in series for v in values]
    low, high = min(ys), max(ys)
    pad = 0.06 * (high - low or 1)
    low, high = low - pad, high + pad

    def place(x: float, y: float) -> tuple[float, float]:
        fx = (x - xs[0]) / ((xs[-1] - xs[0]) or 1)
        return left + fx * (width - left - right), height - bottom - (y - low) / (high - low) * (
            height - top - bottom
        )

    parts = []
    marks = list(range(math.ceil(low), math.floor(high) + 1)) if log else ticks(low, high)
    marks = marks if len(marks) > 1 else [low + pad, high - pad]
    for mark in marks:
        y = place(xs[0], mark)[1]
        shown = short(10**mark) if log else short(mark)
        parts += [line(left, y, width - right, y, "grid"), text(left - 6, y + 4, shown, "end", "small")]
    for mark in ticks(xs[0], xs[-1]):
        x = place(mark, low)[0]
        parts.append(text(x, height - bottom + 16, short(mark), css="small"))
    for _, values, css in series:
        points = " ".join(",".join(map(number, place(x, y_of(v)))) for x, v in zip(xs, values, strict=True))
        parts.append(f'<polyline points="{points}" class="curve {css}"/>')
    parts += [
        text(left - 40, 14, y_title, "start", "small strong"),
        text((left + width - right) / 2, height - 4, x_title, css="small"),
    ]
    return drawing("".join(parts), width, height, label, "chart")
