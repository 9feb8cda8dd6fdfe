"""Four figures of a run: the ratio of each case, time and memory against size, and the roofline."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np


def figures(rows: Sequence[dict[str, Any]], ceiling: dict[str, Any], Figure: Any) -> dict[str, bytes]:
    """File name → PNG. ``Figure`` is matplotlib's, without pyplot."""
    drawn = {
        "ratio.png": _ratios(rows, Figure),
        "time.png": _against_size(rows, Figure, "median", "seconds"),
        "memory.png": _against_size(rows, Figure, "temporaries", "bytes of temporaries"),
        "roofline.png": _roofline(rows, ceiling, Figure),
    }
    files = {}
    for name, figure in drawn.items():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=120)
        files[name] = file.getvalue()
    return files


def _ratios(rows: Sequence[dict[str, Any]], Figure: Any) -> Any:
    """A bar a case, with its interval; grey where the two programs are the same."""
    figure = Figure(figsize=(9, 1.2 + 0.2 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    ratios = np.array([row["ratio"] for row in rows])
    low, high = np.array([row["interval"] for row in rows]).T
    colours = ["0.7" if row["same_program"] else "C0" if row["ratio"] <= 1 else "C3" for row in rows]
    around = [np.clip(ratios - low, 0, None), np.clip(high - ratios, 0, None)]
    axes.barh(places, ratios - 1, left=1, color=colours, xerr=around, ecolor="0.3")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="time over the other side's, 95 % interval; grey: same program")
    axes.set_yticks(places, [f"{row['case']} [{row['size']}]" for row in rows], fontsize=7)
    axes.set_ylim(-1, len(rows))
    return figure


def _against_size(rows: Sequence[dict[str, Any]], Figure: Any, what: str, label: str) -> Any:
    """A panel a case with several sizes, a line a side; the size is the bytes of arguments and results."""
    names = list(dict.fromkeys(row["case"] for row in rows))
    names = [name for name in names if sum(row["case"] == name for row in rows) > 1] or names[:1]
    across = min(4, len(names))
    figure = Figure(figsize=(3.4 * across, 2.6 * -(-len(names) // across)), layout="constrained")
    panels = figure.subplots(-(-len(names) // across), across, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        some = [row for row in rows if row["case"] == name]
        for side in dict.fromkeys(side for row in some for side in row["sides"]):
            points = [
                (row["sides"][row["pair"][1]]["moved"], row["sides"][side][what])
                for row in some
                if row["sides"].get(side, {}).get(what) is not None
            ]
            if points:
                axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, label=side)
        axes.set_xscale("log")
        axes.set_yscale("symlog" if what == "temporaries" else "log")
        axes.set_title(name, fontsize=8)
        axes.legend(fontsize=6)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("bytes of arguments and results")
    figure.supylabel(label)
    return figure


def _roofline(rows: Sequence[dict[str, Any]], ceiling: dict[str, Any], Figure: Any) -> Any:
    """Flops a second against flops a byte, under the measured copy and the measured product."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for i, colour in enumerate(("C0", "C1")):
        points = [
            (row["work_flops"] / side["moved"], row["work_flops"] / side["median"])
            for row in rows
            for side in (row["sides"][row["pair"][i]],)
            if row["work_flops"] and side["moved"]
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                "o",
                markersize=4,
                color=colour,
                label="first side" if i == 0 else "second",
            )
    intensity = np.logspace(-3, 4, 50)
    fastest = max(speed for _, speed in ceiling["copies"])
    axes.plot(
        intensity, np.minimum(ceiling["flops"], intensity * fastest), color="black", label="measured ceiling"
    )
    axes.set(
        xscale="log", yscale="log", xlabel="flops a byte of arguments and results", ylabel="flops a second"
    )
    axes.legend()
    return figure
