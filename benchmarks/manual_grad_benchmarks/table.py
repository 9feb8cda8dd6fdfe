"""The rows as a table, and a summary in a few lines."""

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from manual_grad_benchmarks.run import BEST
from manual_grad_benchmarks.timing import geometric_mean

SLOWER = 1.05
# The columns to drop on a narrow terminal, the least important first.
LEAST = (
    "kept arguments",
    "ceiling",
    "error",
    "kept computed",
    "temporaries",
    "trace+\ncompile",
    "against others",
    "autodiff",
    "manual",
)
COLOURS = {"faster": "green", "slower": "red", "even": ""}


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """One line per row; the JSON has all numbers."""
    ours, theirs = rows[0]["pair"]
    out = Table(title=title, title_justify="left")
    out.add_column("case", overflow="fold")
    out.add_column("size", overflow="fold")
    ratio = f"{ours}/{theirs}\n[95 %]"
    kept = ("kept computed", "kept arguments")
    for name in (ours, theirs, ratio, "trace+\ncompile", "temporaries", *kept, "ceiling", "error"):
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column("against others")
    out.add_column("verdict")
    for row in rows:
        a, b = (row["sides"][name] for name in row["pair"])
        low, high = row["interval"]
        out.add_row(
            escape(row["case"]),
            row["size"],
            seconds(a["median"]),
            seconds(b["median"]),
            f"{number(row['ratio'])} [{number(low)}, {number(high)}]".replace("[", r"\["),
            f"{row['compile_ratio']:.2f}",
            f"{size(a['temporaries'])} / {size(b['temporaries'])}",
            _kept(a, b, "new"),
            _kept(a, b, "arguments"),
            f"{a['share_of_ceiling']:.0%}",
            _errors(row),
            ", ".join(
                f"{short(name)} {number(value)}" for name, value in row["over"].items() if name != theirs
            ),
            _verdict(row),
        )
    return out


def _kept(ours: dict[str, Any], theirs: dict[str, Any], which: str) -> str:
    known = "kept" in ours and "kept" in theirs
    return f"{size(ours['kept'][which])} / {size(theirs['kept'][which])}" if known else ""


def _errors(row: dict[str, Any]) -> str:
    errors = [row["sides"][name].get("error") for name in row["pair"]]
    shown = " / ".join("" if error is None else f"{error:.0e}" if error else "0" for error in errors)
    return f"[red]{shown}[/]" if row["accurate"] is False else shown


def _verdict(row: dict[str, Any]) -> str:
    colour = COLOURS.get(row["verdict"], "")
    called = ", mostly the call itself" if row["dispatch_share"] > 0.5 and not row["same_program"] else ""
    return (f"[{colour}]{row['verdict']}[/]" if colour else row["verdict"]) + called


def short(name: str) -> str:
    """A side's name for a narrow column.

    >>> short("autodiff (best options)")
    'autodiff*'
    """
    return name.replace(BEST, "*")


def number(value: float) -> str:
    """Three digits, or as many as a small ratio needs.

    >>> number(0.934), number(0.0042)
    ('0.93', '0.0042')
    """
    return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}"


def seconds(value: float) -> str:
    """Seconds in a suitable unit.

    >>> seconds(8.1e-6), seconds(0.287)
    ('8.1 µs', '287 ms')
    """
    for unit, scale in (("µs", 1e-6), ("ms", 1e-3)):
        if value < 999.5 * scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g} s"


def size(count: int | None) -> str:
    """Bytes in a suitable unit.

    >>> size(512), size(2_054_144), size(None)
    ('512 B', '2.1 MB', '?')
    """
    if count is None:
        return "?"
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2g} {unit}" if count < 10 * scale else f"{count / scale:.0f} {unit}"
    return f"{count} B"


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarize the values and gradients by hand compared with autodiff's.

    A case whose two programs are the same counts with its true ratio, 1; its measured ratio is the noise of
    the run. A case is slower if its median exceeds 1 by more than 5 % and its interval excludes 1.
    """
    formulas = [row for row in rows if row["group"] in ("formula", "drop-in")]
    if not formulas:
        return {}
    same = [row["ratio"] for row in formulas if row["same_program"]]
    ratios = [1.0 if row["same_program"] else row["ratio"] for row in formulas]
    return {
        "cases": len(formulas),
        "same_program": len(same),
        "noise": [min(same), max(same)] if same else None,
        "geometric_mean": geometric_mean(ratios),
        "geometric_mean_as_measured": geometric_mean([row["ratio"] for row in formulas]),
        "compile_geometric_mean": geometric_mean([row["compile_ratio"] for row in formulas]),
        "slower": [
            f"{row['case']}[{row['size']}]"
            for row in formulas
            if not row["same_program"] and row["ratio"] > SLOWER and row["interval"][0] > 1
        ],
        "less_accurate": [f"{row['case']}[{row['size']}]" for row in formulas if row["accurate"] is False],
    }


def lines(about: dict[str, Any]) -> list[str]:
    """The summary in words."""
    if not about:
        return []
    text = [
        f"{about['cases']} case{'s' if about['cases'] != 1 else ''} by hand against autodiff, "
        f"{about['same_program']} of them the same program: "
        f"geometric mean of the ratios {about['geometric_mean']:.2f}, of trace+compile "
        f"{about['compile_geometric_mean']:.2f}"
    ]
    if about["noise"]:
        low, high = about["noise"]
        text.append(f"noise: same programs were measured at {low:.2f} to {high:.2f} of each other's time")
    if about["slower"]:
        text.append(f"slower by more than 5 %: {', '.join(about['slower'])}")
    if about["less_accurate"]:
        text.append(
            f"error larger than autodiff's by more than a quarter: {', '.join(about['less_accurate'])}"
        )
    return text
