"""Which oracle rejects which wrong formula, and which mutants survive the checks in common use.

Each oracle computes a claim's truth once, and the formula and all its mutants are compared with it. The
formula itself must pass everywhere, and so must the code that the handwritten mutants are derived from:
otherwise a rejected mutant shows nothing. Points and tolerances are those of
:mod:`manual_grad.verify.equations` in float64, with a unit of every ReLU network exactly at its kink. A draw
that makes any array of the answer all zero is discarded, and ``exact`` uses two draws.

The checks in common use, each in its mildest usual form:

- ``ones``: reverse mode with a cotangent of ones, to our tolerance;
- ``projection``: one number ⟨g, v⟩ over all arrays at once, with a fixed Gaussian v, within
  1e-5 + 1e-3 |⟨truth, v⟩| as in the fast mode of PyTorch's gradcheck;
- ``sum``: the sum of each array's entries, with the same tolerance;
- ``bfloat16``: every entry within 1e-2, both sides rounded to bfloat16;
- ``square``: reverse mode to our tolerance, with all axes equally long and all matrices symmetric.

Unlike ours, none of them is run with an input exactly at ReLU's kink.
"""

import math
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.catalogue.draw import Draw, Style
from manual_grad.compare import FLOAT64 as TOLERANCE
from manual_grad.compare import Comparison, compare
from manual_grad.compiling import quickly, split_settings
from manual_grad.lectures.entries import Claim, Equation
from manual_grad.verify.differences import differences_check
from manual_grad.verify.exact import exact_points
from manual_grad.verify.kink import at_the_kink
from manual_grad.verify.mutants import Mutant, families_of, mutants_of
from manual_grad.verify.problem import Check, Problem, answer_in_order, oracle_checks, oracle_of, pose
from manual_grad.verify.symbolic import definition_of, pose_tiny, symbolic_check

ORACLES = ("value", "reverse", "forward", "differences", "exact", "symbolic")
COMMON = ("ones", "projection", "sum", "bfloat16", "square")
FLOAT64 = jnp.dtype(jnp.float64)
DRAWS_UNTIL_ALIVE = 20


@dataclass(frozen=True)
class Row:
    """The result for one mutant.

    Attributes:
        tag, formula: where it was planted.
        mutant: the kind of mistake.
        says: the array that is wrong, or the wrong line.
        killed_by: the oracles that reject it.
        relative_error: the largest error that each oracle found; infinite if the shapes clash.
        survives: the common checks that it passes.
        checks: the common checks that apply to it.
    """

    tag: str
    formula: str
    mutant: str
    says: str
    killed_by: tuple[str, ...]
    relative_error: dict[str, float]
    survives: tuple[str, ...]
    checks: tuple[str, ...]

    @property
    def lives(self) -> bool:
        """Whether no oracle rejects it."""
        return not self.killed_by


@dataclass(frozen=True)
class Target:
    """A claim, and those of its formulas that are mutated there."""

    tag: str
    number: int
    claim: Claim
    formulas: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Question:
    """A point, and the check for an answer there."""

    name: str
    dout: Any
    inputs: dict[str, Any]
    check: Check


class FormulaError(AssertionError):
    """The formula to be mutated fails even without a mutation."""


def targets(equations: Sequence[Equation]) -> list[Target]:
    """Every formula of these equations once, in the (first) claim that covers most of its arrays.

    >>> from manual_grad.lectures import EQUATIONS
    >>> [(t.tag, t.formulas) for t in targets([e for e in EQUATIONS if e.tag in ("B-06", "A-08")])][:2]
    [('A-08', ('softmax_bwd', 'dŷ · ∂ŷ/∂l, a matrix')), ('B-06', ('relu_bwd',))]
    """
    best: dict[str, tuple[int, str, int, Claim]] = {}
    for equation in equations:
        for number, claim in enumerate(equation.claims):
            asked = len(claim.wrt) + (claim.kind != "value")
            for way in claim.formulas:
                if way not in best or asked > best[way][0]:
                    best[way] = (asked, equation.tag, number, claim)
    found: dict[tuple[str, int], list[str]] = {}
    claims = {}
    for way, (_, tag, number, claim) in best.items():
        found.setdefault((tag, number), []).append(way)
        claims[tag, number] = claim
    return [
        Target(tag, number, claims[tag, number], tuple(ways)) for (tag, number), ways in sorted(found.items())
    ]


def kill(
    target: Target, seed: int, oracles: Collection[str] = ORACLES, mutate: Callable = mutants_of
) -> list[Row]:
    """Run every oracle and every common check on each mutant of the target's formulas.

    Args:
        target: from :func:`targets`.
        seed: together with the tag, determines the random inputs.
        oracles: which of :data:`ORACLES` to use.
        mutate: makes the mutants of a claim.
    Returns:
        A row for each mutant.
    Raises:
        FormulaError: a formula, or a handwritten version without its mistake, fails a check.
    """
    claim = replace(
        target.claim, formulas={way: _ready(target.claim.formulas[way]) for way in target.formulas}
    )
    origin = [seed, zlib.crc32(target.tag.encode()), target.number]
    kinked = at_the_kink(claim)
    draw, problem = alive(kinked, "real", origin)
    questions = [*_by_oracles(kinked, draw, problem, origin, oracles), *_in_common_use(claim, origin)]
    rights = {**claim.formulas, **_by_hand(problem)}
    for question in questions:
        for way, formula in rights.items():
            if not _asked(question, claim, formula)[1] <= 1:
                raise FormulaError(f"{target.tag}: {way} itself does not pass {question.name}")
    mutants = mutate(kinked, problem)
    functions = [_ready(m.function) if m.by_hand else m.function for m in mutants]
    answers = [[_asked(question, claim, function) for function in functions] for question in questions]
    names = [question.name for question in questions]
    return [
        _row(target.tag, mutant, list(zip(names, found, strict=True)))
        for mutant, found in zip(mutants, zip(*answers, strict=True), strict=True)
    ]


def as_json(row: Row) -> dict[str, Any]:
    """A row as a JSON object, with null in place of infinities."""
    return {
        "tag": row.tag,
        "formula": row.formula,
        "mutant": row.mutant,
        "says": row.says,
        "killed": not row.lives,
        "killed_by": list(row.killed_by),
        "relative_error": {name: e if math.isfinite(e) else None for name, e in row.relative_error.items()},
        "survives": list(row.survives),
        "checks": list(row.checks),
    }


def _by_hand(problem: Problem) -> dict[str, Callable]:
    """The code that the handwritten mutants are derived from, without a mistake."""
    rights = dict.fromkeys(family.right for family in families_of(problem))
    name = f"{problem.claim.reference.__name__} by hand"
    return {name + " again" * n: _ready(right) for n, right in enumerate(rights)}


def _row(tag: str, mutant: Mutant, found: Sequence[tuple[str, tuple[float, float]]]) -> Row:
    """Make a row; ``found`` holds each question's name, the error, and its ratio to the tolerance."""
    asked = list(dict.fromkeys(name for name, _ in found))
    share = {name: max(over for n, (_, over) in found if n == name) for name in asked}
    errors = {name: max(error for n, (error, _) in found if n == name) for name in asked if name in ORACLES}
    return Row(
        tag,
        mutant.formula,
        mutant.kind,
        mutant.says,
        tuple(name for name in errors if not share[name] <= 1),
        errors,
        tuple(name for name in asked if name in COMMON and share[name] <= 1),
        tuple(name for name in asked if name in COMMON),
    )


def _asked(question: _Question, claim: Claim, function: Callable) -> tuple[float, float]:
    """The largest error in a function's answer at a point, and its ratio to the tolerance."""
    with np.errstate(all="ignore"):
        try:
            comparisons = question.check(answer_in_order(claim, function, question.dout, question.inputs))
        except Exception:  # a wrong formula may raise anything, as when its shapes clash
            return math.inf, math.inf
    worst = max(comparisons, key=lambda comparison: comparison.share)
    return worst.error, worst.share


def _ready(function: Callable) -> Callable:
    """The function compiled once per shape; it returns NumPy arrays and remembers its last answer."""
    kept: dict[str, Any] = {"leaves": []}

    def run(*dout: Any, **inputs: Any) -> Any:
        leaves = jax.tree.leaves((dout, inputs))
        last = kept["leaves"]
        if len(last) != len(leaves) or any(a is not b for a, b in zip(last, leaves, strict=True)):
            arrays, settings = split_settings(inputs)
            if "run" not in kept:
                kept["run"] = quickly(lambda d, a: function(*d, **a, **settings))
            kept["answer"], kept["leaves"] = kept["run"](dout, arrays), leaves
        return kept["answer"]

    return run


# --- the points -------------------------------------------------------------------------------------------


def alive(claim: Claim, style: Style, origin: list[int]) -> tuple[Draw, Problem]:
    """A point where no array of the answer is all zero, as behind a dead ReLU, which would show nothing."""
    for attempt in range(DRAWS_UNTIL_ALIVE):
        draw = Draw(np.random.default_rng([*origin, 10 + attempt] if attempt else origin), FLOAT64, style)
        problem = pose(claim, draw)
        if _shows(claim, problem.dout, problem.inputs):
            break
    return draw, problem


def _shows(claim: Claim, dout: Any, inputs: dict[str, Any]) -> bool:
    formula = next(iter(claim.formulas.values()))
    return all(np.any(leaf) for leaf in jax.tree.leaves(answer_in_order(claim, formula, dout, inputs)))


def _by_oracles(
    claim: Claim, draw: Draw, problem: Problem, origin: list[int], oracles: Collection[str]
) -> list[_Question]:
    """A question for every applicable oracle, at each of its points."""
    checks = oracle_checks(problem, draw) if not {"value", "reverse", "forward"}.isdisjoint(oracles) else {}
    if "differences" in oracles and claim.kind != "value":
        checks["differences"] = differences_check(problem, np.random.default_rng([*origin, 2]))
    found = [
        _Question(name, problem.dout, problem.inputs, check)
        for name, check in checks.items()
        if name in oracles
    ]
    if "exact" in oracles and claim.polynomial:
        points = exact_points(claim, np.random.default_rng([*origin, 1]), draws=6)
        showing = [point for point in points if _shows(claim, *point[:2])] or points
        found += [_Question("exact", d, i, _against(claim, want, exactly=True)) for d, i, want in showing[:2]]
    if "symbolic" in oracles and definition_of(claim) is not None:
        tiny = pose_tiny(claim, np.random.default_rng([*origin, 3]))
        if not _shows(claim, tiny.dout, tiny.inputs):
            _, tiny = alive(claim, "tiny", [*origin, 3])
        found.append(_Question("symbolic", tiny.dout, tiny.inputs, symbolic_check(tiny)))
    return found


def _in_common_use(claim: Claim, origin: list[int]) -> list[_Question]:
    """The checks in common use that apply to the claim, at points without a kink."""
    truth = _ready(lambda dout, **inputs: oracle_of(claim)(dout, inputs))
    _, usual = alive(claim, "real", origin)
    _, square = alive(claim, "square", [*origin, 5])
    want = truth(usual.dout, **usual.inputs)
    at = usual.dout, usual.inputs
    found = [
        _Question("bfloat16", *at, _rounded(claim, want)),
        _Question("square", square.dout, square.inputs, _against(claim, truth(square.dout, **square.inputs))),
    ]
    if claim.kind != "value":
        found.append(_Question("projection", *at, _projections([_fixed(want)], want)))
        found.append(_Question("sum", *at, _projections(_sums(want), want)))
    if claim.kind == "gradient":
        ones = jax.tree.map(lambda d: jnp.asarray(np.ones(d.shape)), usual.dout)
        found.append(_Question("ones", ones, usual.inputs, _absolutely(claim, truth(ones, **usual.inputs))))
    return sorted(found, key=lambda question: COMMON.index(question.name))


def _against(claim: Claim, want: tuple, exactly: bool = False) -> Check:
    allowed = jax.tree.map(np.zeros_like, want) if exactly else None

    def check(got: tuple) -> list[Comparison]:
        return compare(got, want, FLOAT64, ", ".join(claim.wrt), allowed)

    return check


def _rounded(claim: Claim, want: tuple) -> Check:
    """The absolute error of every entry, with answer and truth rounded to bfloat16."""

    def check(got: tuple) -> list[Comparison]:
        worst = max(compare(got, want, FLOAT64), key=lambda c: c.error)
        if not math.isfinite(worst.error):
            return [worst]
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
        errors = [float(np.max(np.abs(_bfloat16(g) - _bfloat16(w)))) for g, w in pairs]
        return [Comparison(", ".join(claim.wrt), max(errors), "rounded to bfloat16", max(errors) / 1e-2)]

    return check


def _bfloat16(array: Any) -> np.ndarray:
    return np.asarray(array).astype(jnp.bfloat16).astype(np.float64)


def _absolutely(claim: Claim, want: tuple) -> Check:
    """Our comparison, but absolute errors below the tolerance pass too: for ones, softmax's gradient is 0."""

    def check(got: tuple) -> list[Comparison]:
        found = compare(got, want, FLOAT64, ", ".join(claim.wrt))
        if all(math.isfinite(c.error) for c in found):
            pairs = zip(found, jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
            found = [
                replace(c, share=min(c.share, float(np.max(np.abs(g - w))) / TOLERANCE)) for c, g, w in pairs
            ]
        return found

    return check


def _fixed(want: tuple) -> np.ndarray:
    """A Gaussian vector, the same for every gradient of this size."""
    return np.random.default_rng(0).standard_normal(len(_vector(want)))


def _sums(want: tuple) -> list[np.ndarray]:
    """For each array, a vector with ones in place of its entries and zeros elsewhere."""
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(want)]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return [(owner == k).astype(float) for k in range(len(sizes))]


def _projections(vectors: list[np.ndarray], want: tuple) -> Check:
    """Compare ⟨g, v⟩ with ⟨truth, v⟩ for each v: the difference over the tolerance."""
    expected = [float(v @ _vector(want)) for v in vectors]

    def check(got: tuple) -> list[Comparison]:
        worst = max(compare(got, want, FLOAT64), key=lambda c: c.error)
        if not math.isfinite(worst.error):
            return [worst]
        along = [float(v @ _vector(got)) for v in vectors]
        return [
            Comparison("", abs(a - w) / (abs(w) or 1.0), "", abs(a - w) / (1e-5 + 1e-3 * abs(w)))
            for a, w in zip(along, expected, strict=True)
        ]

    return check


def _vector(arrays: tuple) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(arrays)])
