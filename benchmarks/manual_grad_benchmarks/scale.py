"""How cost grows with size: time and temporaries of one formula of each family, and the exponents.

The cost is taken to be c + b nᵖ: a constant cost of each call, and a power of the size n. The fit minimises
the sum of squared relative deviations, so that small sizes count as much as large ones, with p from 0 to 4 in
steps of 0.01, and neither c nor b negative.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from manual_grad_benchmarks.table import number, seconds, size

EXPONENTS = np.arange(0, 4.005, 0.01)
FLAT = 1.5  # a cost that grows by a smaller factor over all sizes does not grow
LEAST = ("autodiff", "manual", "temporaries,\nlargest")


def fit(sizes: Sequence[float], costs: Sequence[float]) -> dict[str, float] | None:
    """Fit c + b nᵖ.

    Returns:
        ``c``, ``b``, ``p`` and ``off``, the largest relative deviation; None if fewer than three of the costs
        are not 0.

    >>> found = fit([4, 16, 64, 256, 1024], [20 + 3e-3 * n**2 for n in (4, 16, 64, 256, 1024)])
    >>> round(found["c"], 3), round(found["b"], 6), round(found["p"], 2)
    (20.0, 0.003, 2.0)
    """
    n, cost = np.array([sizes, costs], float)[:, np.array(costs) > 0]
    if len(n) < 3:
        return None
    if cost.max() < FLAT * cost.min():
        mean = float(np.exp(np.log(cost).mean()))
        return {"c": mean, "b": 0.0, "p": 0.0, "off": float(abs(mean / cost - 1).max())}
    return min((_fitted(n, cost, p) for p in EXPONENTS), key=lambda found: found.pop("squares"))


def _fitted(n: np.ndarray, cost: np.ndarray, p: float) -> dict[str, float]:
    """The best c and b for one exponent."""
    largest = n.max() ** p
    terms = np.stack([1 / cost, n**p / largest / cost], axis=1)
    c, b = np.linalg.lstsq(terms, np.ones(len(n)), rcond=None)[0]
    if min(c, b) < 0:
        which = int(c < 0)
        alone = terms[:, which].sum() / (terms[:, which] ** 2).sum()
        c, b = (0.0, alone) if which else (alone, 0.0)
    off = terms @ np.array([c, b]) - 1
    found = {"c": c, "b": b / largest, "p": p, "off": abs(off).max(), "squares": (off**2).sum()}
    return {name: float(value) for name, value in found.items()}


def scales(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each case its sizes, and each side's times, temporaries and fits, as a JSON object."""
    found = []
    for name in dict.fromkeys(row["case"] for row in rows):
        some = [row for row in rows if row["case"] == name]
        sizes = [row["grown"]["n"] for row in some]
        sides = {}
        for side in some[0]["pair"]:
            times, memory = ([row["sides"][side][w] for row in some] for w in ("median", "temporaries"))
            sides[side] = {
                "seconds": times,
                "temporaries": memory,
                "time": fit(sizes, times),
                "memory": None if None in memory else fit(sizes, memory),
            }
        about = {"family": some[0]["grown"]["family"], "axes": some[0]["grown"]["axes"]}
        found.append({"case": name, **about, "sizes": sizes, "sides": sides})
    return found


def table(found: Sequence[dict[str, Any]]) -> Table:
    """One line per family: exponents, and the cost at the largest size."""
    out = Table(title="How cost grows: c + b nᵖ, by hand / autodiff", title_justify="left")
    for name in ("family", "case", "n"):
        out.add_column(name, overflow="fold")
    for name in ("p of time", "p of temporaries", "manual", "autodiff", "temporaries,\nlargest"):
        out.add_column(name, justify="right", no_wrap=True)
    for scale in found:
        ours, theirs = scale["sides"].values()
        out.add_row(
            scale["family"],
            scale["case"],
            f"{scale['axes']}: {scale['sizes'][0]}–{scale['sizes'][-1]}",
            f"{exponent(ours['time'])} / {exponent(theirs['time'])}",
            f"{exponent(ours['memory'])} / {exponent(theirs['memory'])}",
            seconds(ours["seconds"][-1]),
            seconds(theirs["seconds"][-1]),
            f"{size(ours['temporaries'][-1])} / {size(theirs['temporaries'][-1])}",
        )
    return out


def exponent(found: dict[str, float] | None) -> str:
    """An exponent; – if there is none.

    >>> exponent({"p": 1.98}), exponent(None)
    ('1.98', '–')
    """
    return "–" if found is None else number(found["p"]) if found["p"] else "0"
