"""Figures of a run: the ratio of each case, time and memory against size, and the roofline."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

SIDES = {"manual": "by hand"}  # their names in figures
COLOURS = {"manual": "C0", "autodiff": "C1"}
LETTER, LINE = 4.6, 11.0  # size of a label on the roofline, in pixels at 100 dpi


def figures(rows: Sequence[dict[str, Any]], ceiling: dict[str, Any], Figure: Any) -> dict[str, bytes]:
    """File name → PNG. ``Figure`` is matplotlib's, without pyplot."""
    drawn = {
        "ratio.png": _ratios(rows, Figure),
        "time.png": _against_size(rows, Figure, "median", "time", "s"),
        "memory.png": _against_size(rows, Figure, "temporaries", "temporary memory", "B"),
        "roofline.png": _roofline(rows, ceiling, Figure),
    }
    return _files(drawn)


def scale_figures(rows: Sequence[dict[str, Any]], Figure: Any) -> dict[str, bytes]:
    """The same for ``bench --scale``: time and temporaries, over the length that grows."""
    return _files(
        {
            "scale_time.png": _against_size(rows, Figure, "median", "time", "s"),
            "scale_memory.png": _against_size(rows, Figure, "temporaries", "temporary memory", "B"),
        }
    )


def _files(drawn: dict[str, Any]) -> dict[str, bytes]:
    files = {}
    for name, figure in drawn.items():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=120)
        files[name] = file.getvalue()
    return files


def _ratios(rows: Sequence[dict[str, Any]], Figure: Any) -> Any:
    """A bar for each case, with its interval; grey: the programs are the same; pale: neither side wins."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(9, 1.6 + 0.2 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    ratios = np.array([row["ratio"] for row in rows])
    low, high = np.array([row["interval"] for row in rows]).T
    colours = [_colour(row) for row in rows]
    around = [np.clip(ratios - low, 0, None), np.clip(high - ratios, 0, None)]
    axes.barh(places, ratios - 1, left=1, color=colours, xerr=around, ecolor="0.3")
    axes.axvline(1, color="black", linewidth=0.8)
    label = "time by hand divided by the other side's\n(grey: same program; pale: the interval contains 1)"
    axes.set(xscale="log", xlabel=label)
    decades = math.log10(max(1.0, high.max())) - math.log10(min(1.0, low.min()))
    subs = (1, 1.5, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades <= 3 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", top=True, labeltop=True)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_yticks(places, [f"{row['case']} [{row['size']}]" for row in rows], fontsize=7)
    axes.set_ylim(-1, len(rows))
    return figure


def _colour(row: dict[str, Any]) -> tuple[Any, float]:
    """A colour and its opacity: by which side is faster, pale where the interval contains 1."""
    if row["same_program"]:
        return "0.7", 1.0
    low, high = row["interval"]
    return "C0" if row["ratio"] <= 1 else "C3", 0.35 if low <= 1 <= high else 1.0


def _against_size(rows: Sequence[dict[str, Any]], Figure: Any, what: str, label: str, unit: str) -> Any:
    """A panel for each case with several sizes, a line for each side.

    Sizes are the bytes of arguments and results or, for ``--scale``, the length that grows.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    names = list(dict.fromkeys(row["case"] for row in rows))
    names = [name for name in names if sum(row["case"] == name for row in rows) > 1] or names[:1]
    across = min(4, len(names))
    down = -(-len(names) // across)
    grown = all("grown" in row for row in rows)
    figure = Figure(figsize=(max(5, 2.9 * across), 0.9 + 2.2 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    sides = list(dict.fromkeys(side for row in rows if row["case"] in names for side in row["sides"]))
    colours = {side: COLOURS.get(side, f"C{2 + k}") for k, side in enumerate(sides)}
    lines: dict[str, Any] = {}
    for axes, name in zip(panels, names, strict=False):
        some = [row for row in rows if row["case"] == name]
        for side in sides:
            points = [
                (
                    row["grown"]["n"] if grown else row["sides"][row["pair"][1]]["moved"],
                    row["sides"][side][what],
                )
                for row in some
                if row["sides"].get(side, {}).get(what) is not None
            ]
            if points:
                (lines[side],) = axes.plot(
                    *zip(*sorted(points), strict=True),
                    marker="o",
                    markersize=3,
                    color=colours[side],
                    linewidth=3 if side == "manual" else 1.2,  # visible beneath a line that coincides with it
                )
        axes.set_xscale("log")
        if what != "temporaries":
            axes.set_yscale("log")
            bottom, top = axes.get_ylim()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 100 * bottom else (1,)))
        else:  # there may be none
            axes.set_yscale("symlog", linthresh=1e3, linscale=0.5)
            axes.set_ylim(-100, max(2e3, 2 * axes.get_ylim()[1]))
            axes.set_yticks([0, *(t for t in 10.0 ** np.arange(3, 13) if t < axes.get_ylim()[1])])
        for axis, its in ((axes.xaxis, "" if grown else "B"), (axes.yaxis, unit)):
            axis.set_major_formatter(EngFormatter(its, places=None))
            axis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
        axes.tick_params(labelsize=7)
        axes.grid(color="0.92")
        axes.set_title(f"{name}, {some[0]['grown']['axes']}" if grown else name, fontsize=8)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    shown = [SIDES.get(side, side) for side in lines]
    figure.legend(lines.values(), shown, loc="outside upper center", ncols=len(lines), fontsize=8)
    figure.supxlabel("length" if grown else "size of arguments and results", fontsize=9)
    figure.supylabel(label, fontsize=9)
    return figure


def _roofline(rows: Sequence[dict[str, Any]], ceiling: dict[str, Any], Figure: Any) -> Any:
    """Operations per second against operations per byte, below the limits of a copy and a product."""
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots()
    known = [row for row in rows if row["work_flops"] and all(row["sides"][s]["moved"] for s in row["pair"])]
    named: dict[str, tuple[float, float]] = {}
    every: list[tuple[float, float]] = []
    for i, (marker, label) in enumerate((("o", "by hand"), ("x", "the other side"))):
        sides = [row["sides"][row["pair"][i]] for row in known]
        points = [
            (row["work_flops"] / s["moved"], row["work_flops"] / s["median"])
            for row, s in zip(known, sides, strict=True)
        ]
        every += points
        if points:
            axes.plot(*zip(*points, strict=True), marker, markersize=4, color=f"C{i}", label=label)
        if i == 0:  # a case's last size is its largest
            named = {row["case"]: point for row, point in zip(known, points, strict=True)}
    low, high = min((x for x, _ in every), default=1e-2), max((x for x, _ in every), default=1e2)
    intensity = np.logspace(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 0.5, 300)
    fastest = max(speed for _, speed in ceiling["copies"])
    reached = np.minimum(ceiling["flops"], intensity * fastest)
    axes.plot(intensity, reached, color="black", label="measured ceiling")
    axes.set(xscale="log", yscale="log", xlabel="floating-point operations per byte of arguments and results")
    axes.set_ylabel("floating-point operations per second")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.yaxis.set_major_formatter(EngFormatter())
    axes.grid(color="0.92")
    axes.legend(loc="lower right")
    figure.set_dpi(100)
    figure.draw_without_rendering()
    _name_points(axes, named, [*every, *zip(intensity, reached, strict=True)])
    return figure


def _name_points(
    axes: Any, named: dict[str, tuple[float, float]], drawn: Sequence[tuple[float, float]]
) -> None:
    """Write each point's name in a free place near it, with a line to the point if it is far away."""
    at = axes.transData.transform(list(named.values())) if named else []
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in axes.transData.transform(drawn)] if named else []
    box = axes.get_window_extent()
    for name, (x, y) in zip(named, at, strict=True):
        width = LETTER * len(name)
        for radius, turn in ((r, t) for r in range(7, 160, 9) for t in range(0, 360, 30)):
            dx, dy = radius * math.cos(math.radians(turn)), radius * math.sin(math.radians(turn))
            left = x + dx if dx >= 0 else x + dx - width
            place = (left, y + dy - LINE / 2, left + width, y + dy + LINE / 2)
            inside = place[0] > box.x0 and place[2] < box.x1 and place[1] > box.y0 and place[3] < box.y1
            if inside and not any(_meet(place, other) for other in taken):
                break
        taken.append(place)
        far = {"arrowstyle": "-", "color": "0.7", "linewidth": 0.5} if radius > 20 else None
        axes.annotate(
            name,
            named[name],
            xytext=(0.72 * (left - x), 0.72 * dy),
            textcoords="offset points",
            fontsize=6,
            va="center",
            arrowprops=far,
        )


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two rectangles overlap.

    >>> _meet((0, 0, 2, 2), (1, 1, 3, 3)), _meet((0, 0, 1, 1), (2, 0, 3, 1))
    (True, False)
    """
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
