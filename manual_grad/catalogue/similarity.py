"""Vectors of length 1, and the angle between two."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue.entry import Batch, Bench, Formula, Function, Op, Shown, normal
from manual_grad.catalogue.families import FACTOR, STATISTICS, SWAPPED, TERM, family
from manual_grad.catalogue.hard import Hard
from manual_grad.catalogue.normalisation import AXES, JACOBIANS, SIZES, blocks
from manual_grad.formulas.similarity import (
    cosine_similarity_bwd,
    cosine_similarity_fwd,
    jac_l2_normalize_x,
    jac_l2_normalize_x_blocks,
    l2_normalize_bwd,
    l2_normalize_fwd,
)
from manual_grad_reference import definitions


def _length(x: Any, axis: int = -1) -> Any:
    return jnp.sqrt((x**2).sum(axis=axis, keepdims=True))


def _along(dy: Any, x: Any, length: Any) -> Any:
    return x * (x * dy).sum(-1, keepdims=True) / length**2


def _normalize(dy: Any, x: Any, *, length: Callable = _length, taken_away: Callable = _along) -> Any:
    n = length(x)
    return (dy - taken_away(dy, x, n)) / n


NORMALIZE_MUTANTS = family(
    "gradient",
    _normalize,
    (TERM, "dy / ‖x‖, the norm's own path missing", {"taken_away": lambda dy, x, n: 0}),
    (FACTOR, "y (x · dy) for y (y · dy)", {"taken_away": lambda dy, x, n: n * _along(dy, x, n)}),
    (STATISTICS, "the length of a column", {"length": lambda x: _length(x, 0)}),
    (TERM, "x · dy of all vectors together", {"taken_away": lambda dy, x, n: x * (x * dy).sum() / n**2}),
)


def _cosine(
    ds: Any,
    a: Any,
    b: Any,
    *,
    own: Callable = lambda s, u: s * u,
    by_a: Callable = lambda length_a, length_b: length_a,
) -> dict[str, Any]:
    (u, v), ds = (x / _length(x) for x in (a, b)), ds[..., None]
    s = (u * v).sum(-1, keepdims=True)
    return {
        "a": ds * (v - own(s, u)) / by_a(_length(a), _length(b)),
        "b": ds * (u - own(s, v)) / _length(b),
    }


COSINE_MUTANTS = family(
    "gradient",
    _cosine,
    (TERM, "the norms' own paths missing", {"own": lambda s, u: 0 * u}),
    (FACTOR, "a/‖a‖ without s", {"own": lambda s, u: u}),
    (SWAPPED, "‖b‖ for ‖a‖ in da", {"by_a": lambda length_a, length_b: length_b}),
    reaches={"by_a": "a"},
)
EXTREME = "The same as of vectors of ordinary length: a length of 10²⁰⁰ or 10⁻²⁰⁰ has no square in float64."
WHY = "Σ x² overflows or vanishes"


def _long_and_short(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((3, 4)) * np.array([[1e200], [1e-200], [1.0]])


L2_NORMALIZE = Formula(
    l2_normalize_fwd,
    l2_normalize_bwd,
    reference.similarity.l2_normalize,
    definition=definitions.l2_normalize,
    mutants=(NORMALIZE_MUTANTS,),
    draw={"x": normal},
    sizes={"*N": (7,), "D": 6},
    tiny={"*N": (2,), "D": 3},
    source="Schroff, Kalenichenko and Philbin 2015, section 3",
    batch=Batch({"x": 0}, 0),
    grows=(("x", 0), ("x", 1)),
    functions=(
        Function(jac_l2_normalize_x, ("x",), bench=JACOBIANS),
        Function(jac_l2_normalize_x_blocks, ("x",), blocks, bench=JACOBIANS),
    ),
    hard=(
        Hard(
            "very long and very short vectors",
            EXTREME,
            lambda rng: {"x": _long_and_short(rng)[:, None]},
            {"x/√Σx²": None},
            ("x/√Σx²",),
            WHY,
            entrywise=True,
        ),
    ),
    op=Op(ops.l2_normalize),
    bench=Bench(AXES, SIZES, quick=(1,)),
    shown=Shown(
        "Layers",
        "Division by the length",
        r"y = \frac{x}{\|x\|}",
        (r"dx = \frac{1}{\|x\|} (dy - y \, (y \cdot dy))",),
        ("E-25",),
    ),
)
COSINE_SIMILARITY = Formula(
    cosine_similarity_fwd,
    cosine_similarity_bwd,
    reference.similarity.cosine_similarity,
    definition=definitions.cosine_similarity,
    mutants=(COSINE_MUTANTS,),
    draw={"a": normal, "b": normal},
    sizes={"*N": (7,), "D": 6},
    tiny={"*N": (2,), "D": 3},
    source="Salton, Wong and Yang 1975, section 1",
    batch=Batch({"a": 0, "b": 0}, 0),
    hard=(
        Hard(
            "very long and very short vectors",
            EXTREME,
            lambda rng: {"a": _long_and_short(rng), "b": _long_and_short(rng)[::-1]},
            {"Σab/√(Σa² Σb²)": None},
            ("Σab/√(Σa² Σb²)",),
            WHY,
            entrywise=True,
        ),
    ),
    op=Op(ops.cosine_similarity),
    bench=Bench(AXES, SIZES, quick=(1,)),
    shown=Shown(
        "Losses",
        "Cosine of the angle between two vectors",
        r"s = \frac{a \cdot b}{\|a\| \|b\|}",
        (
            r"da = \frac{ds}{\|a\|} \left( \frac{b}{\|b\|} - s \frac{a}{\|a\|} \right)",
            r"db = \frac{ds}{\|b\|} \left( \frac{a}{\|a\|} - s \frac{b}{\|b\|} \right)",
        ),
        ("E-26",),
    ),
)
ENTRIES = (L2_NORMALIZE, COSINE_SIMILARITY)
