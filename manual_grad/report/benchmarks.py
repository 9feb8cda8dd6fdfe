"""Benchmark results in the book: reading them, the formula that each case times, and the tables.

The input is written by ``manual-grad bench --json``: a list of rows, under ``rows``, ``cases`` or
``results``, each with ``case``, ``size``, ``ratio`` (the first of ``pair`` over the second, medians) and, if
known, ``group``, ``interval``, ``same_program``, ``verdict``, ``dispatch_share``, ``work_flops``, ``over``,
and the results of each side in ``sides``; next to the list, ``environment`` and ``ceiling``. With
``--scale`` each row has ``grown``, and next to the list is ``scale``, the fitted exponents of each case.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manual_grad.border import InputError
from manual_grad.catalogue import FORMULAS, Formula, mlp
from manual_grad.forms import NULL, NUMBER, POSITIVE, TEXT, TRUTH, Form, misfit, one_of, several
from manual_grad.networks.mlp import five_layer_grads
from manual_grad.report.code import formulas

LISTS = ("rows", "cases", "results")
GROUPS = {
    "formula": "Values and gradients",
    "drop-in": "Operations to train with",
    "jacobian": "Explicit Jacobians",
    "layout": "One sample per column against one per row",
}


def _pair(formula: Formula) -> tuple[str, str]:
    return formula.fwd.__name__, formula.bwd.__name__


# The origin of a case's name if that is not a formula.
NAMED_OTHERWISE = {
    **{f.op.name: _pair(f) for f in FORMULAS.values() if f.op and f.op.name != f.name},
    "full_batch": (*_pair(mlp.FIVE_LAYER), five_layer_grads.__name__),
    "columns_against_rows": (*_pair(mlp.MLP_COLUMNS), *_pair(mlp.MLP_ROWS)),
}
PARTS = ("", "_fwd", "_bwd", "_grads", "_deltas")


# The form of a row. Times, bytes and ratios are limited so that the pictures' logarithms exist.
SIZE = Form("a number from 1e-30 to 1e30", lambda value: POSITIVE.fits(value) and 1e-30 <= value <= 1e30)
COUNT = Form("a number from 0 to 1e30", lambda value: (value == 0 and NUMBER.fits(value)) or SIZE.fits(value))
SIDE = {
    "median?": (COUNT, NULL),
    "temporaries?": (COUNT, NULL),
    "moved?": (COUNT, NULL),
    "kept?": ({"new?": COUNT, "arguments?": COUNT}, NULL),
}
ROW = {
    "case": Form("a case's name", lambda value: isinstance(value, str) and bool(value.strip())),
    "ratio": SIZE,
    "size?": TEXT,
    "group?": one_of(*GROUPS),
    "pair?": (several(TEXT, 2), NULL),
    "interval?": (several(SIZE, 2), NULL),
    "same_program?": (TRUTH, NULL),
    "verdict?": TEXT,
    "dispatch_share?": NUMBER,
    "work_flops?": (COUNT, NULL),
    "over?": {"*": SIZE},
    "sides?": {"*": SIDE},
    "grown?": {"family": TEXT, "axes": TEXT, "n": SIZE},
}
FIT = ({"p": NUMBER, "off": NUMBER}, NULL)
COSTS = {"seconds": [SIZE], "temporaries": [(COUNT, NULL)], "time": FIT, "memory": FIT}
SCALE = {"case": TEXT, "family": TEXT, "axes": TEXT, "sizes": [SIZE], "sides": {"*": COSTS}}
CONTENT = {
    "environment?": {},
    "ceiling?": ({"flops?": COUNT, "copies?": [several(SIZE, 2)]}, NULL),
    "scale?": [SCALE],
}


def rows_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a result file.

    >>> rows_of({"rows": [{"case": "softmax", "size": "8×8", "ratio": 0.5}]})[0]["case"]
    'softmax'
    """
    return next((content[name] for name in LISTS if isinstance(content.get(name), list)), [])


def require_known(content: dict[str, Any], path: Path) -> None:
    """Refuse a file without benchmark results.

    Raises:
        InputError: it has no readable rows, or a field is invalid.
    """
    rows = rows_of(content)
    found = misfit(rows, [ROW], "rows") or misfit(content, CONTENT) if rows else "it has no rows"
    found = found or next(filter(None, map(_unequal, content.get("scale", ()))), "")
    if found:
        raise InputError(f"--benchmarks: {path} is not what manual-grad bench --json writes: {found}")


def _unequal(scale: Mapping[str, Any]) -> str:
    """Which list of a case's costs does not have one for each size; "" if all do."""
    for name, side in scale["sides"].items():
        for what in ("seconds", "temporaries"):
            found, wanted = len(side[what]), len(scale["sizes"])
            if found != wanted or not found:
                return f"{scale['case']} has {found} {what} of {name} for {wanted} sizes"
    return "" if scale["sides"] else f"{scale['case']} has no sides in scale"


def name_of(row: dict[str, Any]) -> str:
    """Case and size."""
    return f"{row['case']} {row.get('size', '')}".strip()


def pair_of(row: dict[str, Any]) -> tuple[str, str]:
    """The two sides that the ratio is about."""
    first, second = row.get("pair") or ("manual", "autodiff")
    return first, second


def by_function(cases: Sequence[str]) -> dict[str, list[str]]:
    """Public function → the cases that time it.

    >>> by_function(["relu", "ops.relu", "softmax"])["relu_bwd"]
    ['relu', 'ops.relu']
    """
    found: dict[str, list[str]] = {}
    for case in dict.fromkeys(cases):
        plain = case.removeprefix("ops.")
        names = NAMED_OTHERWISE.get(plain) or [plain + part for part in PARTS]
        for name in (n for n in names if n in formulas()):
            found.setdefault(name, []).append(case)
    return found


def links(content: dict[str, Any] | None, cases: Sequence[str]) -> dict[str, str]:
    """Case → the place of its results in the book; empty for a case without results."""
    measured = {row["case"] for row in rows_of(content)} if content else set()
    shown = {case: f"benchmarks.html#{anchor(case)}" for case in measured}
    return {case: shown.get(case, "") for case in (*cases, *sorted(measured))}


def anchor(case: str) -> str:
    """A case's anchor on its page."""
    return case.replace(".", "-").replace(" ", "-")


def context(content: dict[str, Any], of_case: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The content of the page.

    Args:
        content: the result file.
        of_case: case → the tags of the equations that it times.
    """
    rows, seen = rows_of(content), set[str]()
    groups = []
    for group, some in grouped(rows).items():
        first, second = pair_of(some[0])
        lines = []
        for row in some:
            lines.append(_line(row, row["case"] not in seen, of_case.get(row["case"], ())))
            seen.add(row["case"])
        groups.append(
            {
                "title": GROUPS[group],
                "name": group,
                "lines": lines,
                "kept": any(side.get("kept") for row in some for side in row.get("sides", {}).values()),
                "first": side_of(first),
                "second": side_of(second),
                "means": _means(some) if group in ("formula", "drop-in") else "",
            }
        )
    sizes = any(sum(r["case"] == row["case"] for r in rows) > 1 for row in rows)
    return {
        "groups": groups,
        "where": _where(content.get("environment", {})),
        "several_sizes": sizes,
        "scales": [_growth(scale) for scale in content.get("scale", ())],
    }


def _growth(scale: Mapping[str, Any]) -> list[str]:
    """The cells of a case of ``bench --scale``: what grows, exponents, the cost at the largest size."""
    sides = list(scale["sides"].values())
    last = [(seconds(side["seconds"][-1]), size(side["temporaries"][-1])) for side in sides]
    return [
        f"{scale['family']}: {scale['case']}",
        f"{scale['axes']} from {scale['sizes'][0]} to {scale['sizes'][-1]}",
        *(" / ".join(_exponent(side[what]) for side in sides) for what in ("time", "memory")),
        *(" / ".join(costs) for costs in zip(*last, strict=True)),
    ]


def _exponent(fit: Mapping[str, float] | None) -> str:
    return "–" if fit is None else f"{fit['p']:.2f}" if fit["p"] else "0"


def grouped(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Group → its rows."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row.get("group", "formula")), []).append(row)
    return found


def side_of(name: str) -> str:
    """A side's name on the page."""
    return {"manual": "by hand"}.get(name, name)


def _line(row: dict[str, Any], first: bool, tags: Sequence[str]) -> dict[str, Any]:
    """A row of the table."""
    ours, other = (row.get("sides", {}).get(name, {}) for name in pair_of(row))
    interval = [number(end) for end in row.get("interval") or ()]
    call = row.get("dispatch_share", 0) > 0.5 and not row.get("same_program")
    others = {k: v for k, v in row.get("over", {}).items() if k != pair_of(row)[1]}
    return {
        "id": anchor(row["case"]) if first else "",
        "case": row["case"],
        "size": row.get("size", ""),
        "tags": tags if first else (),
        "ratio": number(row["ratio"]),
        "interval": " to ".join(interval),
        "css": colour(row),
        "verdict": row.get("verdict", "") + (", mostly the call itself" if call else ""),
        "times": (seconds(ours.get("median")), seconds(other.get("median"))),
        "memory": (size(ours.get("temporaries")), size(other.get("temporaries"))),
        "kept": tuple(size((side.get("kept") or {}).get("new")) for side in (ours, other)),
        "others": [(side_of(name), number(value)) for name, value in others.items()],
    }


def _where(about: Mapping[str, Any]) -> str:
    """The machine and the versions, in one line."""
    kind, threads = about.get("device_kind", ""), about.get("threads")
    words = [f"{kind} ({about.get('machine', '?')}, {threads} threads)" if threads else str(kind)]
    words += [str(about["dtype"])] if "dtype" in about else []
    names = ("jax", "jaxlib", "numpy", "torch", "python", "seed")
    words += [f"{name} {about[name]}" for name in names if about.get(name) is not None]
    words += [f"load {about['load']} at the start"] if "load" in about else []
    return ", ".join(word for word in words if word)


def _means(rows: Sequence[dict[str, Any]]) -> str:
    """The geometric mean, computed as in ``manual-grad bench``: two equal programs have the ratio 1."""
    same = [r["ratio"] for r in rows if r.get("same_program")]
    mean = math.exp(sum(0.0 if r.get("same_program") else math.log(r["ratio"]) for r in rows) / len(rows))
    said = f"Geometric mean of the {len(rows)} ratios: {number(mean)}."
    if same:
        said += f" {len(same)} of them {'is' if len(same) == 1 else 'are'} of one program with itself and "
        said += f"{'enters' if len(same) == 1 else 'enter'} as 1; measured from {number(min(same))} to "
        said += f"{number(max(same))}, which is the noise of the run."
    return said


def number(value: float) -> str:
    """A ratio, to two decimals or as many as a small one needs.

    >>> number(0.934), number(0.0042)
    ('0.93', '0.0042')
    """
    return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}"


def seconds(t: Any) -> str:
    """Seconds in a suitable unit; empty if it is not a number.

    >>> seconds(8.1e-6), seconds(0.287), seconds(None)
    ('8.1 µs', '287 ms', '')
    """
    if not isinstance(t, int | float):
        return ""
    unit, scale = ("s", 1.0) if t >= 1 else ("ms", 1e3) if t >= 1e-3 else ("µs", 1e6)
    return f"{t * scale:.3g} {unit}"


def size(count: Any) -> str:
    """Bytes in a suitable unit; empty if it is not a number.

    >>> size(0), size(512), size(2_054_144), size(None)
    ('0', '512 B', '2.05 MB', '')
    """
    if not isinstance(count, int | float):
        return ""
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    unit, scale = next(((u, s) for u, s in units if count >= 0.9995 * s), ("B", 1.0))
    return f"{count / scale:.3g} {unit}" if count else "0"


def colour(row: dict[str, Any]) -> str:
    """Faster, slower, or neither, judging by the interval and not by the median alone."""
    low, high = row.get("interval") or (row["ratio"], row["ratio"])
    if row.get("same_program"):
        return "same"
    return "fast" if high < 1 else "slow" if low > 1 else ""
