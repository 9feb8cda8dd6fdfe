"""The numbers that refute a misprint: the printed version and the right one, side by side."""

import zlib
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.catalogue.draw import Draw
from manual_grad.compiling import together
from manual_grad.lectures import Erratum
from manual_grad.verify.kink import at_the_kink
from manual_grad.verify.problem import in_order, pose

SHOWN = 6


def counterexample(erratum: Erratum, seed: int, clash: str) -> dict[str, Any]:
    """A table of the entries that differ most, on the verdict's inputs.

    Args:
        erratum: from :mod:`manual_grad.lectures`.
        seed: the verdict's seed.
        clash: the verdict's message, if the printed version cannot be evaluated.
    Returns:
        ``caption``, and ``head`` and ``rows`` if there are numbers.
    """
    claim = at_the_kink(erratum.claim)
    draw = Draw(np.random.default_rng([seed, zlib.crc32(erratum.tag.encode()), 0]), jnp.float64)
    problem = pose(claim, draw)
    ways = (next(iter(claim.formulas.values())), erratum.as_printed)
    right, printed = together([replace(problem.calls(way), in_numpy=True) for way in ways])
    if isinstance(printed, TypeError | ValueError):
        return {"caption": clash[:1].upper() + clash[1:].rstrip(".") + ".", "head": (), "rows": ()}
    printed, right = (in_order(claim.wrt, answer) for answer in (printed, right))
    rows: list[tuple[str, ...]] = []
    for name, got, want in zip(claim.wrt, jax.tree.leaves(printed), jax.tree.leaves(right), strict=True):
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape:
            rows.append((name, f"an array of {_shape(got)}", f"an array of {_shape(want)}", ""))
            continue
        worst = np.argsort(-np.abs(got - want), axis=None, kind="stable")[:SHOWN]
        for index in sorted(tuple(map(int, np.unravel_index(k, got.shape))) for k in worst):
            g, w = float(got[index]) + 0.0, float(want[index]) + 0.0  # no −0
            if np.isclose(g, w, rtol=1e-9, atol=0):
                continue
            ratio = f"{g / w + 0.0:.4g}" if w else "∞"
            rows.append((f"{name}[{', '.join(map(str, index))}]", f"{g:.6g}", f"{w:.6g}", ratio))
    inputs = ", ".join(f"{name} {shape}" for name, shape in problem.described().items() if "[" in shape)
    return {
        "caption": f"Counterexample (random inputs: {_few(inputs)}): the entries that differ most.",
        "head": ("entry", "the sentence" if erratum.sentence else "as printed", "right", "ratio"),
        "rows": [tuple(cell.replace("-", "−") for cell in row) for row in rows],
    }


def _shape(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape)) or "one number"


def _few(inputs: str) -> str:
    """A short list of inputs: not every weight of five layers."""
    parts = inputs.split(", ")
    return inputs if len(parts) <= 5 else f"{', '.join(parts[:2])}, …, {parts[-1]}"
