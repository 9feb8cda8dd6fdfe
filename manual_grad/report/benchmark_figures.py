"""Benchmark results as pictures: ratios, time and memory against size, the roofline."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import escape

from manual_grad.report import svg
from manual_grad.report.benchmarks import (
    GROUPS,
    colour,
    grouped,
    name_of,
    number,
    pair_of,
    rows_of,
    seconds,
    side_of,
    size,
)
from manual_grad.report.pictures import Figure, beside


def figures(content: dict[str, Any]) -> list[Figure]:
    """Time and memory for cases measured at several sizes; the roofline if there is a ceiling."""
    rows = rows_of(content)
    found = [
        _against_size(rows, "time", "median", seconds, "Time against size"),
        _against_size(rows, "memory", "temporaries", size, "Memory beside arguments and results"),
        _roofline(rows, content.get("ceiling")),
    ]
    return [figure for figure in found if figure]


def ratios(content: dict[str, Any]) -> list[Figure]:
    """The ratios, one picture per group of cases."""
    return [_ratios(group, some) for group, some in grouped(rows_of(content)).items()]


def _ratios(group: str, rows: Sequence[dict[str, Any]]) -> Figure:
    """One line per case under its name, so that a phone shows it in readable letters."""
    width, left, right, top, step = 380.0, 6.0, 374.0, 26.0, 36.0
    ends = [x for r in rows for x in (r["ratio"], *(r.get("interval") or ()))]
    low, high = math.log2(min(*ends, 0.5)) - 0.1, math.log2(max(*ends, 2.0)) + 0.1
    bottom = top + step * len(rows)

    def place(value: float) -> float:
        return left + (math.log2(value) - low) / (high - low) * (right - left)

    every = max(1, math.ceil((high - low) / 8))
    marks = [p for p in range(math.ceil(low), math.floor(high) + 1) if p % every == 0]
    parts = []
    for power in marks:
        x = place(2.0**power)
        shown = f"{2**power}" if power >= 0 else f"1/{2**-power}"
        parts += [svg.line(x, top - 6, x, bottom, "grid"), svg.text(x, 14, shown, css="small")]
    parts.append(svg.line(place(1), top - 6, place(1), bottom, "flow"))
    for k, row in enumerate(rows):
        y = top + step * k
        parts.append(svg.text(left, y + 9, name_of(row), "start", "small name-of halo"))
        parts.append(svg.text(right, y + 9, number(row["ratio"]), "end", "small halo"))
        if row.get("interval"):
            a, b = map(place, row["interval"])
            parts.append(svg.line(a, y + 19, b, y + 19, "range"))
        parts.append(_dot(place(row["ratio"]), y + 19, name_of(row), colour(row)))
    first, second = map(side_of, pair_of(rows[0]))
    label = f"{GROUPS[group]}: time {first} over time {second} of {len(rows)} cases, one per line"
    return Figure(
        f"ratios-{group}",
        svg.drawing("".join(parts), width, bottom + 4, label, "chart"),
        f"Time {first} over time {second}, with its 95 % interval: left of 1 {first} is faster. Blue is "
        "faster, orange slower, grey neither, because the interval contains 1; hollow: both are the same "
        "program, and the ratio is noise.",
        [{k: row.get(k) for k in ("case", "size", "ratio", "interval", "verdict")} for row in rows],
    )


def _dot(x: float, y: float, name: str, css: str) -> str:
    a, b = map(svg.number, (x, y))
    return f'<circle cx="{a}" cy="{b}" r="4" class="dot {css}"><title>{escape(name)}</title></circle>'


def _against_size(
    rows: Sequence[dict[str, Any]], name: str, what: str, shown: Any, title: str
) -> Figure | None:
    """A small panel for each case with several sizes: both sides over bytes or the length that grows."""
    drawn, data = [], []
    grown = all(row.get("grown") for row in rows)
    for case in dict.fromkeys(row["case"] for row in rows):
        points = sorted(filter(None, (_point(row, what) for row in rows if row["case"] == case)))
        if len({x for x, *_ in points}) > 1 and any(y for _, *ys in points for y in ys):
            first, second = map(side_of, pair_of(next(row for row in rows if row["case"] == case)))
            label = f"{title} of {case}: {first} and {second}"
            drawn.append((_panel(points, shown, label, "{:.0f}".format if grown else size), case))
            data += [{"case": case, "n" if grown else "bytes": x, first: a, second: b} for x, a, b in points]
    if not drawn:
        return None
    return Figure(
        name,
        beside(drawn, "panels sizes"),
        f"{title}: against {'n' if grown else 'the bytes of arguments and results'}, both on logarithmic "
        "scales. Wide line: by hand; dashes: autodiff. Where columns are compared with rows, the wide line "
        "is columns." + (" A 0 is drawn at the bottom of its panel." if what == "temporaries" else ""),
        data,
    )


def _point(row: dict[str, Any], what: str) -> tuple[float, float, float] | None:
    """Bytes, and the results of the first and the second side."""
    ours, other = (row.get("sides", {}).get(name, {}) for name in pair_of(row))
    length = (row.get("grown") or {}).get("n", other.get("moved"))
    given = (length, ours.get(what), other.get(what))
    if not all(isinstance(x, int | float) for x in given) or not given[0]:
        return None
    return given


def _panel(points: Sequence[tuple[float, float, float]], shown: Any, label: str, length: Any) -> Any:
    """Two lines over the size; decades are marked."""
    width, height, left, right, top, bottom = 200.0, 140.0, 46.0, 10.0, 10.0, 24.0
    xs = [math.log10(x) for x, *_ in points]
    least = min(y for _, *ys in points for y in ys if y)
    heights = [[math.log10(y) if y else math.log10(least) - 1 for y in ys] for _, *ys in points]
    low, high = math.floor(min(map(min, heights))), math.ceil(max(map(max, heights)) + 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - xs[0]) / (xs[-1] - xs[0]) * (width - left - right),
            height - bottom - (y - low) / ((high - low) or 1) * (height - top - bottom),
        )

    parts = []
    for power in range(low, high + 1, max(1, math.ceil((high - low) / 4))):
        y = place(xs[0], power)[1]
        parts += [
            svg.line(left, y, width - right, y, "grid"),
            svg.text(left - 5, y + 4, shown(10.0**power), "end", "small"),
        ]
    for x, anchor_ in ((points[0][0], "start"), (points[-1][0], "end")):
        at = place(math.log10(x), low)[0]
        parts.append(svg.text(at, height - 6, length(x), anchor_, "small"))
    for side, css in ((0, "hand"), (1, "auto")):
        line = " ".join(
            ",".join(map(svg.number, place(x, ys[side]))) for x, ys in zip(xs, heights, strict=True)
        )
        parts.append(f'<polyline points="{line}" class="curve {css}"/>')
    return svg.drawing("".join(parts), width, height, label)


def _roofline(rows: Sequence[dict[str, Any]], ceiling: Any) -> Figure | None:
    points = []
    for row in rows:
        side = row.get("sides", {}).get(pair_of(row)[0], {})
        work, moved, took = row.get("work_flops"), side.get("moved"), side.get("median")
        if work and moved and took:
            points.append((name_of(row), work / moved, work / took, colour(row)))
    if not points or not isinstance(ceiling, dict) or not ceiling.get("flops"):
        return None
    copies = sorted((int(moved), float(speed)) for moved, speed in ceiling.get("copies", []))
    best = max(copies, key=lambda copy: copy[1]) if copies else None
    flops = float(ceiling["flops"])
    return Figure(
        "roofline",
        _roof(points, flops, best[1] if best else None),
        "The roofline: operations per second by hand, against the operations of a case per byte that it "
        f"must move. The line is the machine's ceiling, measured in the same run: {flops / 1e9:.0f} GF/s of "
        "a matrix product"
        + (f", and the fastest copy, {best[1] / 1e9:.0f} GB/s at {size(best[0])}" if best else "")
        + ". Cases far below it and far to the left are small: the call itself takes most of their time. A "
        "case may lie above the line if its arrays stay in a cache.",
        [{"case": name, "operations_a_byte": x, "operations_a_second": y} for name, x, y, _ in points],
    )


def _roof(points: Sequence[tuple[str, float, float, str]], flops: float, bandwidth: float | None) -> Any:
    width, height, left, bottom, top, right = 400.0, 320.0, 44.0, 38.0, 24.0, 12.0
    xs, ys = [math.log10(x) for _, x, _, _ in points], [math.log10(y) for _, _, y, _ in points]
    roof = math.log10(flops)
    x0, x1 = math.floor(min(xs)), math.ceil(max(xs) + 1e-9)
    y0, y1 = math.floor(min(ys)), math.ceil(max(*ys, roof) + 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x0) / ((x1 - x0) or 1) * (width - left - right),
            height - bottom - (y - y0) / ((y1 - y0) or 1) * (height - top - bottom),
        )

    parts = []
    for p in range(y0, y1 + 1):
        y = place(x0, p)[1]
        parts += [
            svg.line(left, y, width - right, y, "grid"),
            svg.text(left - 6, y + 4, f"{10.0 ** (p - 9):g}", "end", "small"),
        ]
    for p in range(x0, x1 + 1):
        parts.append(svg.text(place(p, y0)[0], height - bottom + 16, f"{10.0**p:g}", css="small"))
    slope = math.log10(bandwidth) if bandwidth else None
    corner = [(float(x0), roof), (float(x1), roof)]
    if slope is not None:
        start, knee = max(x0, y0 - slope), min(max(roof - slope, x0), x1)
        corner = [
            (start, min(slope + start, roof)),
            (knee, min(slope + knee, roof)),
            (x1, min(slope + x1, roof)),
        ]
    line = " ".join(",".join(map(svg.number, place(*point))) for point in corner)
    parts.append(f'<polyline points="{line}" class="curve roof"/>')
    parts += [_dot(*place(math.log10(x), math.log10(y)), name, css) for name, x, y, css in points]
    parts += _names(
        [(name.split()[0], *place(math.log10(x), math.log10(y))) for name, x, y, _ in points], width
    )
    parts += [
        svg.text(4, 14, "GF/s", "start", "small strong"),
        svg.text((left + width) / 2, height - 6, "operations per byte", css="small"),
    ]
    return svg.drawing("".join(parts), width, height, f"roofline of {len(points)} cases", "wide-chart")


def _names(points: Sequence[tuple[str, float, float]], width: float) -> list[str]:
    """Names next to the dots, one per case, where they overlap neither each other nor a dot."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for _, x, y in points]
    parts, named = [], set()
    for name, x, y in sorted(points, key=lambda p: p[2]):
        long = 4.9 * len(name)
        for start, anchor_ in ((x + 7, "start"), (x - 7 - long, "end")):
            box = (start, y - 5, start + long, y + 5)
            free = all(box[2] < a or c < box[0] or box[3] < b or d < box[1] for a, b, c, d in taken)
            if name not in named and free and box[0] > 46 and box[2] < width:
                parts.append(svg.text(x + (7 if anchor_ == "start" else -7), y + 3, name, anchor_, "tiny"))
                taken.append(box)
                named.add(name)
                break
    return parts
