"""Benchmark results in the book: ratios and the roofline, from what ``manual-grad bench --json`` wrote.

Read are a list of rows, under ``rows``, ``cases`` or ``results``, each with ``case``, ``size``, ``ratio`` (by
hand over autodiff, medians) and where they are there ``interval``, ``same_program``, ``verdict``,
``work_flops``, and in ``sides`` what is known of each side; beside the list ``environment`` and ``ceiling``.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manual_grad.formulas.border import InputError
from manual_grad.report import svg
from manual_grad.report.code import formulas
from manual_grad.report.pictures import Figure

LISTS = ("rows", "cases", "results")


def rows_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a result file; none where it is something else.

    >>> rows_of({"rows": [{"case": "softmax", "size": "8×8", "ratio": 0.5}]})[0]["case"]
    'softmax'
    """
    found: list[Any] = next((content[name] for name in LISTS if isinstance(content.get(name), list)), [])
    return found if all(_is_row(row) for row in found) else []


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("case"), str)
        and isinstance(row.get("ratio"), int | float)
    )


def require_known(content: dict[str, Any], path: Path) -> None:
    """Refuse a file that is no benchmark's.

    Raises:
        InputError: there are no rows in it that can be read.
    """
    if not rows_of(content):
        raise InputError(f"--benchmarks: {path} is not what manual-grad bench --json writes")


def name_of(row: dict[str, Any]) -> str:
    """Case and size."""
    return f"{row['case']} {row.get('size', '')}".strip()


def by_function(content: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Public function → the benchmarks that time it, each with its link.

    >>> by_function({"rows": [{"case": "relu", "ratio": 1.0}]})["relu_bwd"]
    [('relu', 'benchmarks.html#relu')]
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for case in dict.fromkeys(row["case"] for row in rows_of(content)):
        plain = case.removeprefix("ops.")
        names = [plain, f"{plain}_fwd", f"{plain}_bwd"]
        for name in (n for n in names if n in formulas()):
            found.setdefault(name, []).append((case, f"benchmarks.html#{anchor(case)}"))
    return found


def anchor(case: str) -> str:
    """A case's anchor on its page."""
    return case.replace(".", "-").replace(" ", "-")


def context(content: dict[str, Any]) -> dict[str, Any]:
    """What the page shows."""
    seen: set[str] = set()
    lines = []
    for row in rows_of(content):
        first = row["case"] not in seen
        seen.add(row["case"])
        low, high = row.get("interval") or (None, None)
        lines.append(
            {
                "id": anchor(row["case"]) if first else "",
                "case": row["case"],
                "size": row.get("size", ""),
                "ratio": f"{row['ratio']:.2f}",
                "interval": f"{low:.2f} to {high:.2f}" if low is not None else "",
                "verdict": row.get("verdict", ""),
                "times": [(n, _seconds(s.get("median"))) for n, s in row.get("sides", {}).items()],
            }
        )
    where = content.get("environment", {})
    return {"lines": lines, "where": {k: v for k, v in where.items() if isinstance(v, str | int | float)}}


def _seconds(t: Any) -> str:
    if not isinstance(t, int | float):
        return ""
    unit, scale = ("s", 1.0) if t >= 1 else ("ms", 1e3) if t >= 1e-3 else ("µs", 1e6)
    return f"{t * scale:.3g} {unit}"


def figures(content: dict[str, Any]) -> list[Figure]:
    """The ratios of all cases, and the roofline where there is a ceiling."""
    rows = rows_of(content)
    found = [_ratios(rows)]
    roofline = _roofline(rows, content.get("ceiling"))
    return found + ([roofline] if roofline else [])


def _ratios(rows: Sequence[dict[str, Any]]) -> Figure:
    left, right, width, step = 250.0, 20.0, 560.0, 17.0
    ends = [x for r in rows for x in (r["ratio"], *(r.get("interval") or ()))]
    low, high = math.log2(min(min(ends), 0.5)) - 0.2, math.log2(max(max(ends), 2.0)) + 0.2
    height = step * len(rows) + 46

    def place(value: float) -> float:
        return left + (math.log2(value) - low) / (high - low) * (width - left - right)

    parts = []
    for power in range(math.ceil(low), math.floor(high) + 1):
        x = place(2.0**power)
        parts += [
            svg.line(x, 18, x, height - 26, "grid"),
            svg.text(x, height - 10, f"{2.0**power:g}", css="small"),
        ]
    parts.append(svg.line(place(1), 14, place(1), height - 26, "flow"))
    for k, row in enumerate(rows):
        y = 26 + step * k
        css = "dot slow" if row["ratio"] > 1 else "dot"
        parts.append(svg.text(left - 8, y + 4, name_of(row)[:40], "end", "small"))
        if row.get("interval"):
            a, b = row["interval"]
            parts.append(svg.line(place(a), y, place(b), y, "range"))
        parts.append(
            f'<circle cx="{svg.number(place(row["ratio"]))}" cy="{svg.number(y)}" r="4" class="{css}"/>'
        )
    main = [r for r in rows if r.get("group", "formula") in ("formula", "drop-in")] or rows
    mean = math.exp(sum(math.log(r["ratio"]) for r in main) / len(main))
    label = f"time by hand over time of autodiff, {len(rows)} cases, geometric mean {mean:.2f}"
    return Figure(
        "ratios",
        svg.drawing("".join(parts), width, height, label, "wide-chart"),
        "Time by hand over time of autodiff, one line a case, with its 95 % interval: left of 1 the formulas "
        f"are faster. Geometric mean of {len(main)} formulas and operations: {mean:.2f}.",
        [{k: row.get(k) for k in ("case", "size", "ratio", "interval", "verdict")} for row in rows],
    )


def _roofline(rows: Sequence[dict[str, Any]], ceiling: Any) -> Figure | None:
    points = []
    for row in rows:
        ours = (row.get("pair") or ["manual"])[0]
        side = row.get("sides", {}).get(ours, {})
        work, moved, seconds = row.get("work_flops"), side.get("moved"), side.get("median")
        if work and moved and seconds:
            points.append((name_of(row), work / moved, work / seconds))
    if not points or not isinstance(ceiling, dict) or not ceiling.get("flops"):
        return None
    flops = float(ceiling["flops"])
    copies = [float(speed) for _, speed in ceiling.get("copies", [])]
    bandwidth = min(copies) if copies else None
    width, height, left, bottom, top, right = 480.0, 330.0, 52.0, 40.0, 24.0, 14.0
    xs = [math.log10(p[1]) for p in points]
    ys = [math.log10(p[2]) for p in points] + [math.log10(flops)]
    x0, x1, y0, y1 = math.floor(min(xs)), math.ceil(max(xs)), math.floor(min(ys)), math.ceil(max(ys))

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
    roof = math.log10(flops)
    knee = min(max(roof - math.log10(bandwidth), x0), x1) if bandwidth else x0
    start = max(math.log10(bandwidth) + x0, y0) if bandwidth else roof
    corner = [(start - math.log10(bandwidth) if bandwidth else x0, start), (knee, roof), (x1, roof)]
    line = " ".join(",".join(map(svg.number, place(*point))) for point in corner)
    parts.append(f'<polyline points="{line}" class="curve auto"/>')
    for _, x, y in points:
        a, b = map(svg.number, place(math.log10(x), math.log10(y)))
        parts.append(f'<circle cx="{a}" cy="{b}" r="4" class="dot"/>')
    parts += [
        svg.text(4, 14, "GF/s", "start", "small strong"),
        svg.text((left + width) / 2, height - 6, "operations a byte", css="small"),
    ]
    return Figure(
        "roofline",
        svg.drawing("".join(parts), width, height, f"roofline of {len(points)} cases", "wide-chart"),
        f"The roofline: what each case reaches by hand, over how many operations it has for each byte that "
        f"it must move. "
        f"The dashes are the machine's ceiling, measured in the same run: {flops / 1e9:.0f} GF/s of a "
        f"matrix product, and "
        "the speed of a large copy.",
        [{"case": name, "operations_a_byte": x, "operations_a_second": y} for name, x, y in points],
    )
