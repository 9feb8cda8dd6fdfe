"""The exact oracle: on integers, formula and reference must be equal to the last bit.

Claims that consist only of sums, products and selections are also run in float64 on integers drawn uniformly
from a set of size S. No operation rounds there, as :mod:`manual_grad_reference.oracles.exact` verifies for
each draw, so any difference is a mistake. A formula that is wrong by a polynomial of degree d survives a draw
with probability at most d/S (with a ReLU: if it is the same polynomial on all the pieces drawn). Draws are
repeated until the product of these bounds is below 1e-15.
"""

import bisect
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.answer_cache import remembered
from manual_grad.catalogue.draw import Draw
from manual_grad.compare import Comparison, compare
from manual_grad.compiling import split_settings
from manual_grad.lectures.entries import Claim
from manual_grad.verify.problem import answer_in_order, drawn, oracle_of
from manual_grad_reference.oracles import exact

Program = Callable[[tuple], dict[str | None, Any]]
Points = Callable[[int], tuple[Any, dict[str, Any]]]  # drawn from a set of integers of this size

SURVIVAL = 1e-15
SETS = (1 << 20, 1 << 16, 1 << 13, 1 << 10, 1 << 8, 1 << 7, 1 << 6, 1 << 5, 1 << 4)
SLACK = 4  # the factor by which magnitudes must stay below 2⁵³ with every entry at its usual maximum


@dataclass
class Exactness:
    """The result for one formula.

    Attributes:
        worst: the comparison with the largest error over all draws; infinite if the formula could not be
            checked.
        survival: an upper bound on the probability that a wrong polynomial survives these draws.
        draws: the number of draws.
    """

    worst: Comparison = field(default_factory=lambda: Comparison("", 0.0, "", 0.0))
    survival: float = 1.0
    draws: int = 0


def check_exactly(claim: Claim, rng: np.random.Generator) -> dict[str, Exactness]:
    """Compare each formula of a polynomial claim on integers: with reverse mode, or with the value.

    Args:
        claim: a claim with ``polynomial`` set.
        rng: draws the integers.
    Returns:
        The result for each formula, by its name in the claim.
    """
    sample = _sample(claim, rng)
    points = partial(_integers, claim, rng, sample)
    functions: dict[str | None, Callable] = {None: oracle_of(claim)}
    functions |= {way: partial(_in_order, claim, formula) for way, formula in claim.formulas.items()}
    program = _program(claim, functions, sample)
    answers = program(sample)
    found = {way: Exactness() for way in claim.formulas}
    ways = [way for way in found if not isinstance(answers[way], Exception)]
    try:
        among = _widest_set(points, program, (None, *ways))
    except Exception:  # one of them is to blame: try them separately
        for way in ways:
            _compare(claim, points, program, {way: found[way]})
    else:
        _compare(claim, points, program, {way: found[way] for way in ways}, among)
    for way in found.keys() - set(ways):
        found[way].worst = _failed(claim, answers[way])
    return found


def _in_order(claim: Claim, formula: Callable, dout: Any, inputs: dict[str, Any]) -> tuple:
    return answer_in_order(claim, formula, dout, inputs)


def exact_points(
    claim: Claim, rng: np.random.Generator, draws: int = 2
) -> list[tuple[Any, dict[str, Any], tuple]]:
    """Integer points at which the reference's derivative or value is exact, with that result.

    Args:
        claim: a claim with ``polynomial`` set.
        rng: draws the integers.
        draws: the number of points.
    Returns:
        For each point the cotangent (or None), the inputs, and the truth to the last bit.
    """
    sample = _sample(claim, rng)
    points = partial(_integers, claim, rng, sample)
    program = _program(claim, {None: oracle_of(claim)}, sample)
    among = _widest_set(points, program, (None,))
    chosen = [points(among) for _ in range(draws)]
    return [(*point, _followed(program(point), None)[0]) for point in chosen]


def _compare(
    claim: Claim, points: Points, program: Program, found: dict[str, Exactness], among: int = 0
) -> None:
    """Draw points until the bound is small enough."""
    try:
        among = among or _widest_set(points, program, (None, *found))
        going = set(found)
        while going:
            answers = program(points(among))
            for way in list(going):
                try:
                    _note(found[way], claim, answers, way, among)
                except Exception as error:  # a broken formula may raise anything, which is a failure too
                    found[way].worst = _failed(claim, error)
                    going.remove(way)
            going = {way for way in going if found[way].survival > SURVIVAL or found[way].draws < 2}
    except Exception as error:
        for exactness in found.values():
            exactness.worst = _failed(claim, error)


def _failed(claim: Claim, error: Exception) -> Comparison:
    detail = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return Comparison(", ".join(claim.wrt), float("inf"), detail)


def _followed(answers: dict, name: str | None) -> tuple:
    """A function's result, its largest magnitude and its degree."""
    if isinstance(answers[name], Exception):
        raise answers[name]
    return answers[name]


def _program(claim: Claim, functions: dict[str | None, Callable], sample: tuple) -> Program:
    """All functions at a point: name → result, largest magnitude and degree.

    The oracle's name is None. The result of a function that raises is the exception.
    """
    arrays, settings = split_settings(sample[1])

    @functools.cache  # traced once, and not at all if every answer was kept
    def evaluator(name: str | None) -> Callable:
        return exact.evaluator(partial(_called, functions[name], settings), (sample[0], arrays))

    def answer(name: str | None, point: tuple) -> Any:
        def evaluate() -> tuple:
            return evaluator(name)((point[0], split_settings(point[1])[0]))

        if name or claim.at:
            return evaluate()
        return remembered(("exact", claim.reference, claim.kind, claim.wrt, point, settings), evaluate)

    return lambda point: {name: _attempt(answer, name, point) for name in functions}


def _called(fn: Callable, settings: dict[str, Any], point: tuple) -> Any:
    return fn(point[0], {**point[1], **settings})


def _attempt(fn: Callable, *args: Any) -> Any:
    try:
        return fn(*args)
    except Exception as error:  # a broken formula may raise anything
        return error


def _sample(claim: Claim, rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    """A cotangent and inputs, small integers, for their shapes."""
    return drawn(claim, Draw(rng, jnp.dtype(jnp.float64), "integers", 1 << 4))


def _integers(claim: Claim, rng: np.random.Generator, like: tuple, among: int) -> tuple[Any, dict[str, Any]]:
    """A cotangent like that of the sample, and inputs, whose floating-point entries are integers."""
    draw = Draw(rng, jnp.dtype(jnp.float64), "integers", among)
    inputs, dout = claim.inputs(draw), draw.like(like[0])
    if any(exact.unit_of(leaf) for leaf in jax.tree.leaves((dout, split_settings(inputs)[0]))):
        raise exact.NotExactError("the inputs drawn are not integers")
    return dout, inputs


def _widest_set(points: Points, program: Program, names: tuple) -> int:
    """The largest set of integers on which all stay well below 2⁵³, every entry at its largest."""

    def facts(among: int) -> tuple[float, int]:
        answers = program(jax.tree.map(partial(_filled, among=among), points(among)))
        peak, degree = (max(_followed(answers, name)[k] for name in names) for k in (1, 2))
        return peak, degree

    k = bisect.bisect_left(SETS, True, key=lambda among: facts(among)[0] * SLACK < exact.LARGEST)
    if k == len(SETS) or 2 * facts(SETS[k])[1] > SETS[k]:
        raise exact.NotExactError(
            "no set of integers is small enough for 2⁵³ and large enough for the degree"
        )
    return SETS[k]


def _filled(leaf: Any, among: int) -> Any:
    """An array with every entry at the maximum magnitude; modes and labels are left unchanged."""
    if not jnp.issubdtype(getattr(leaf, "dtype", int), jnp.floating):
        return leaf
    entries = np.asarray(leaf)  # in NumPy, which avoids compiling anything
    return jax.device_put(np.full_like(entries, max(among / 2, np.max(np.abs(entries), initial=0.0))))


def _note(found: Exactness, claim: Claim, answers: dict, way: str, among: int) -> None:
    """Keep the comparison with the largest error, and update the probability of missing a mistake."""
    (want, peak, degree), (got, own_peak, own_degree) = (_followed(answers, name) for name in (None, way))
    if max(peak, own_peak) >= exact.LARGEST:
        raise exact.NotExactError("a sum reaches 2⁵³")
    found.survival *= max(degree, own_degree) / among
    found.draws += 1
    if len(got) != len(want):
        detail = f"got {len(got)} results, expected {len(want)}"
        found.worst = Comparison(", ".join(claim.wrt), float("inf"), detail)
        return
    for name, g, w in zip(claim.wrt, got, want, strict=True):
        nothing = jax.tree.map(np.zeros_like, w)
        for comparison in compare(g, w, jnp.float64, name, nothing):
            if comparison.error > found.worst.error or not found.worst.name:
                found.worst = comparison
