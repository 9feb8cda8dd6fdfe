"""Holds the lectures' claims against the oracles, and their misprints against the truth.

The truth is always computed in float64 from the very numbers that the formula is given, in whatever dtype.
"""

import math
import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from manual_grad.catalogue.draw import Draw
from manual_grad.compare import Comparison
from manual_grad.lectures.entries import Claim, Equation, Erratum
from manual_grad.verify.differences import differences_check
from manual_grad.verify.exact import judge_exactly
from manual_grad.verify.kink import at_the_kink
from manual_grad.verify.problem import Check, Problem, oracle_checks, pose
from manual_grad.verify.symbolic import definition_of, judge_symbolically

Status = Literal["verified", "erratum", "failed"]
ORACLES = ("value", "reverse", "forward", "differences", "exact", "symbolic")
QUICK_ORACLES = ORACLES[:3]  # the others take twice as long as these together


@dataclass
class OracleVerdict:
    """The largest error that one oracle found in any array of any formula of any claim.

    Attributes:
        max_error: relative; 0 where formula and oracle are equal to the last bit.
        share: the largest part that any entry used of the error that it is allowed; up to 1 it passes.
        passed: whether every error was small enough.
        facts: what else the oracle says of itself, the largest number of any claim; of ``exact``, its
            ``draws`` and the ``survival_probability`` of a wrong polynomial; of ``differences``, the
            ``estimate`` of their own error and the ``tolerance`` made of it.
    """

    max_error: float = 0.0
    share: float = 0.0
    passed: bool = True
    facts: dict[str, float] = field(default_factory=dict)


@dataclass
class Verdict:
    """What became of one equation or erratum.

    Attributes:
        tag, lecture, title: the ledger's.
        status: ``verified``, ``erratum`` (the printed version is refuted, the corrected one verified) or
            ``failed``.
        oracles: name → its verdict.
        inputs: name → dtype and shape of what was drawn.
        failures: what went wrong, a line each.
        counterexample: for an erratum, how the printed version fails.
    """

    tag: str
    lecture: str
    title: str
    status: Status = "verified"
    oracles: dict[str, OracleVerdict] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    counterexample: str = ""


def verify(
    entry: Equation | Erratum, dtype: Any, seed: int, oracles: Collection[str] = QUICK_ORACLES
) -> Verdict:
    """Hold every claim of an equation against every oracle that fits it; of an erratum, both versions.

    Args:
        entry: from :mod:`manual_grad.lectures`.
        dtype: the floating-point dtype of the formulas; a misprint is refuted in float64. ``exact`` and
            ``symbolic`` speak of float64 only, and are not asked about another.
        seed: with the tag, it decides the random inputs.
        oracles: which of :data:`ORACLES` to ask; the quick ones by default.
    Returns:
        The verdict; its status says what was shown.
    """
    verdict = Verdict(entry.tag, entry.lecture, entry.title)
    claims = entry.claims if isinstance(entry, Equation) else (entry.claim,)
    dtype = jnp.dtype(dtype if isinstance(entry, Equation) else jnp.float64)
    if dtype == jnp.float64:  # where rounding moves no other unit across its kink
        claims = tuple(map(at_the_kink, claims))
    for number, claim in enumerate(claims):
        origin = [seed, zlib.crc32(entry.tag.encode()), number]
        draw = Draw(np.random.default_rng(origin), dtype)
        problem = pose(claim, draw)
        asked = isinstance(entry, Erratum) or not {"value", "reverse", "forward"}.isdisjoint(oracles)
        checks = oracle_checks(problem, draw) if asked else {}
        if "differences" in oracles and claim.kind != "value":
            checks["differences"] = differences_check(problem, np.random.default_rng([*origin, 2]))
        verdict.inputs.update(problem.described())
        _judge(problem, {name: check for name, check in checks.items() if name in oracles}, verdict)
        if "exact" in oracles and claim.polynomial and dtype == jnp.float64:
            _judge_exactly(claim, np.random.default_rng([*origin, 1]), verdict)
        if "symbolic" in oracles and _speaks_symbolically(entry, claim, dtype):
            for way, worst in judge_symbolically(claim, np.random.default_rng([*origin, 3])).items():
                _record(verdict, "symbolic", way, worst)
        if isinstance(entry, Erratum):
            verdict.status = "erratum"
            verdict.counterexample = _refute(entry, problem, checks)
            if not verdict.counterexample:
                verdict.failures.append("as printed: not refuted, it gives the right result")
    if verdict.failures:
        verdict.status = "failed"
    return verdict


def as_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON has it: no infinities.

    >>> found = OracleVerdict(float("inf"), facts={"draws": 2})
    >>> as_json(Verdict("A-02", "A", "", oracles={"exact": found}))["oracles"]
    {'exact': {'max_error': None, 'share': 0.0, 'passed': True, 'draws': 2}}
    """
    content = asdict(verdict)
    for oracle in content["oracles"].values():
        for name in ("max_error", "share"):
            oracle[name] = oracle[name] if math.isfinite(oracle[name]) else None
        oracle.update(oracle.pop("facts"))
    return content


def _speaks_symbolically(entry: Equation | Erratum, claim: Claim, dtype: Any) -> bool:
    """An erratum's claim is the equation's that it corrects, which SymPy is asked about there."""
    return isinstance(entry, Equation) and dtype == jnp.float64 and definition_of(claim) is not None


def _judge(problem: Problem, checks: dict[str, Check], verdict: Verdict) -> None:
    """Add to ``verdict`` what the oracles say of each of the claim's formulas."""
    for way, formula in problem.claim.formulas.items():
        try:
            got = problem.answer_of(formula)
        except Exception as error:  # a broken formula may raise anything; that is a verdict too
            verdict.failures.append(f"{way}: {type(error).__name__}: {_first_line(error)}")
            continue
        for oracle, check in checks.items():
            worst = max(check(got), key=lambda comparison: comparison.share)
            _record(verdict, oracle, way, worst, worst.facts)


def _judge_exactly(claim: Claim, rng: np.random.Generator, verdict: Verdict) -> None:
    """Add to ``verdict`` what integers say, where nothing rounds and nothing is tolerated."""
    for way, found in judge_exactly(claim, rng).items():
        facts = {"survival_probability": found.survival, "draws": found.draws}
        _record(verdict, "exact", way, found.worst, facts)


def _record(
    verdict: Verdict,
    oracle: str,
    way: str,
    worst: Comparison,
    facts: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Add one oracle's word on one formula."""
    found = verdict.oracles.setdefault(oracle, OracleVerdict())
    found.max_error = max(found.max_error, worst.error)
    found.share = max(found.share, worst.share)
    for name, value in facts.items():
        found.facts[name] = max(value, found.facts.get(name, value))
    if not worst.share <= 1:
        found.passed = False
        verdict.failures.append(
            f"{way}: {worst.name} against {oracle}: relative error {worst.error:.1e}; {worst.detail}"
        )


def _refute(erratum: Erratum, problem: Problem, checks: dict[str, Check]) -> str:
    """How the printed version fails, in a line; empty where it does not."""
    try:
        got = problem.answer_of(erratum.as_printed)
    except (TypeError, ValueError) as error:
        if not re.search(r"shape|\(\d+, ?\d+\)", str(error)):
            raise  # not for the printed reason
        return f"its shapes clash: {_first_line(error)}"
    worst = max(next(iter(checks.values()))(got), key=lambda comparison: comparison.share)
    return f"{worst.name}: {worst.detail}" if worst.share > 10 else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
