"""Compare the lectures' claims with the oracles, and refute their misprints.

The truth is always computed in float64, from exactly the numbers that the formula is given in its own dtype.
"""

import math
import re
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from manual_grad.catalogue.draw import Draw
from manual_grad.compare import Comparison
from manual_grad.compiling import together
from manual_grad.lectures.entries import Claim, Equation, Erratum
from manual_grad.verify.differences import differences_check
from manual_grad.verify.exact import Exactness, check_exactly
from manual_grad.verify.kink import at_the_kink
from manual_grad.verify.problem import Check, Problem, ask, in_order, oracle_questions, pose
from manual_grad.verify.symbolic import check_symbolically, definition_of

Status = Literal["verified", "erratum", "failed"]
ORACLES = ("value", "reverse", "forward", "differences", "exact", "symbolic")
AS_PRINTED = "as printed"
QUICK_ORACLES = ORACLES[:3]  # the others take twice as long as these together


@dataclass
class OracleVerdict:
    """The largest error that one oracle found in any array of any formula of any claim.

    Attributes:
        max_error: relative; 0 where formula and oracle are equal to the last bit.
        share: the largest part that any entry used of the error that it is allowed; up to 1 it passes.
        passed: whether every error was small enough.
        facts: further figures, each the largest over all claims: for ``exact``, the number of ``draws`` and
            the ``survival_probability`` of a wrong polynomial; for ``differences``, the ``estimate`` of their
            own error and the ``tolerance`` derived from it.
    """

    max_error: float = 0.0
    share: float = 0.0
    passed: bool = True
    facts: dict[str, float] = field(default_factory=dict)


@dataclass
class Verdict:
    """The result for one equation or erratum.

    Attributes:
        tag, lecture, title: as in :mod:`manual_grad.lectures`.
        status: ``verified``, ``erratum`` (the printed version is refuted, the corrected one verified) or
            ``failed``.
        oracles: name → its verdict.
        inputs: name → dtype and shape of the input drawn.
        failures: one line for each error.
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
    """Compare every claim of an equation, or both versions of an erratum, with every applicable oracle.

    Args:
        entry: from :mod:`manual_grad.lectures`.
        dtype: the floating-point dtype of the formulas; misprints are refuted in float64. ``exact`` and
            ``symbolic`` apply to float64 only, and are skipped in any other dtype.
        seed: together with the tag, determines the random inputs.
        oracles: which of :data:`ORACLES` to use; the quick ones by default.
    Returns:
        The verdict.
    """
    return verify_all([entry], dtype, seed, oracles)[0]


def verify_all(
    entries: Sequence[Equation | Erratum],
    dtype: Any,
    seed: int,
    oracles: Collection[str] = QUICK_ORACLES,
) -> list[Verdict]:
    """The same for several entries: one program for all their formulas, and one for all oracles.

    Args:
        entries, dtype, seed, oracles: as in :func:`verify`.
    Returns:
        A verdict for each entry.
    """
    posed = [_pose(entry, number, dtype, seed) for entry in entries for number in range(len(_claims(entry)))]
    with ThreadPoolExecutor(1) as beside:  # SymPy computes in a process of its own
        waiting = beside.submit(_symbolically, posed, oracles)
        checks = _checks(posed, oracles)
        answers = _answers(posed, checks)
        exactly = _exactly(posed, oracles)
        symbolically = waiting.result()
    verdicts = []
    for entry in entries:
        verdict = Verdict(entry.tag, entry.lecture, entry.title)
        for k in (k for k, p in enumerate(posed) if p.entry is entry):
            verdict.inputs.update(posed[k].problem.described())
            _add(posed[k], answers[k], {n: c for n, c in checks[k].items() if n in oracles}, verdict)
            _add_exactly(exactly.get(k, {}), verdict)
            for way, worst in symbolically.get(k, {}).items():
                _record(verdict, "symbolic", way, worst)
            if isinstance(entry, Erratum):
                verdict.status = "erratum"
                verdict.counterexample = _refute(answers[k], checks[k])
                if not verdict.counterexample:
                    verdict.failures.append("as printed: not refuted, it gives the right result")
        if verdict.failures:
            verdict.status = "failed"
        verdicts.append(verdict)
    return verdicts


@dataclass(frozen=True)
class _Posed:
    """A claim of an entry with its inputs; everything random is seeded by ``origin``."""

    entry: Equation | Erratum
    problem: Problem
    draw: Draw
    origin: list[int]

    @property
    def formulas(self) -> dict[str, Callable]:
        """Every formula of the claim, and the printed version of an erratum, by a name of its own."""
        printed = {AS_PRINTED: self.entry.as_printed} if isinstance(self.entry, Erratum) else {}
        return {**self.problem.claim.formulas, **printed}


def _claims(entry: Equation | Erratum) -> Sequence[Claim]:
    return entry.claims if isinstance(entry, Equation) else (entry.claim,)


def _pose(entry: Equation | Erratum, number: int, dtype: Any, seed: int) -> _Posed:
    claim = _claims(entry)[number]
    dtype = jnp.dtype(dtype if isinstance(entry, Equation) else jnp.float64)
    if dtype == jnp.float64:  # where rounding moves no other unit across its kink
        claim = at_the_kink(claim)
    origin = [seed, zlib.crc32(entry.tag.encode()), number]
    draw = Draw(np.random.default_rng(origin), dtype)
    return _Posed(entry, pose(claim, draw), draw, origin)


def _checks(posed: Sequence[_Posed], oracles: Collection[str]) -> list[dict[str, Check]]:
    """A check for each oracle wanted; an erratum is refuted by the first that applies."""
    wanted = [{*oracles, "value", "reverse"} if isinstance(p.entry, Erratum) else oracles for p in posed]
    checks = ask([oracle_questions(p.problem, p.draw, w) for p, w in zip(posed, wanted, strict=True)])
    if "differences" in oracles:
        chosen = [k for k, p in enumerate(posed) if p.problem.claim.kind != "value"]
        for k in chosen:
            rng = np.random.default_rng([*posed[k].origin, 2])
            checks[k]["differences"] = differences_check(posed[k].problem, rng)
    return checks


def _answers(posed: Sequence[_Posed], checks: Sequence[dict]) -> list[dict[str, Any]]:
    """The result of each formula, or the exception it raised, where there is a check to run on it."""
    ways = [(k, way, f) for k, p in enumerate(posed) if checks[k] for way, f in p.formulas.items()]
    given = together([posed[k].problem.calls(formula) for k, _, formula in ways])
    found: list[dict[str, Any]] = [{} for _ in posed]
    for (k, way, _), got in zip(ways, given, strict=True):
        found[k][way] = got if isinstance(got, Exception) else in_order(posed[k].problem.claim.wrt, got)
    return found


def _exactly(posed: Sequence[_Posed], oracles: Collection[str]) -> dict[int, dict[str, Exactness]]:
    """The results of the exact oracle, for polynomial claims in float64."""
    return {
        k: check_exactly(p.problem.claim, np.random.default_rng([*p.origin, 1]))
        for k, p in enumerate(posed)
        if "exact" in oracles and p.problem.claim.polynomial and p.problem.dtype == jnp.float64
    }


def _symbolically(posed: Sequence[_Posed], oracles: Collection[str]) -> dict[int, dict[str, Comparison]]:
    """The results of the symbolic oracle; errata are skipped, as their claims are those of equations."""
    return {
        k: check_symbolically(p.problem.claim, np.random.default_rng([*p.origin, 3]))
        for k, p in enumerate(posed)
        if "symbolic" in oracles
        and isinstance(p.entry, Equation)
        and p.problem.dtype == jnp.float64
        and definition_of(p.problem.claim) is not None
    }


def as_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a JSON object, with null in place of infinities.

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


def _add(posed: _Posed, answers: dict[str, Any], checks: dict[str, Check], verdict: Verdict) -> None:
    """Add the oracles' results for each of the claim's formulas to ``verdict``."""
    for way in posed.problem.claim.formulas if answers else ():
        got = answers[way]
        if isinstance(got, Exception):  # a broken formula may raise anything, which is a failure too
            verdict.failures.append(f"{way}: {type(got).__name__}: {_first_line(got)}")
            continue
        for oracle, check in checks.items():
            worst = max(check(got), key=lambda comparison: comparison.share)
            _record(verdict, oracle, way, worst, worst.facts)


def _add_exactly(found: dict[str, Exactness], verdict: Verdict) -> None:
    """Add the results of the exact oracle to ``verdict``."""
    for way, exactness in found.items():
        facts = {"survival_probability": exactness.survival, "draws": exactness.draws}
        _record(verdict, "exact", way, exactness.worst, facts)


def _record(
    verdict: Verdict,
    oracle: str,
    way: str,
    worst: Comparison,
    facts: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Add one oracle's result for one formula."""
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


def _refute(answers: dict[str, Any], checks: dict[str, Check]) -> str:
    """One line on how the printed version fails; empty if it does not."""
    got = answers[AS_PRINTED]
    if isinstance(got, Exception):
        if not isinstance(got, TypeError | ValueError) or not re.search(r"shape|\(\d+, ?\d+\)", str(got)):
            raise got  # not for the printed reason
        return f"its shapes clash: {_first_line(got)}"
    worst = max(next(iter(checks.values()))(got), key=lambda comparison: comparison.share)
    return f"{worst.name}: {worst.detail}" if worst.share > 10 else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
