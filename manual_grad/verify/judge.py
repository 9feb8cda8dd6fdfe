"""Holds the lectures' claims against the oracles, and their misprints against the truth.

The truth is always computed in float64 from the very numbers that the formula is given, in whatever dtype.
"""

import re
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from manual_grad.lectures.entries import Draw, Equation, Erratum
from manual_grad.verify.problem import Check, Problem, oracle_checks, pose

Status = Literal["verified", "erratum", "failed"]


@dataclass
class OracleVerdict:
    """The largest error that one oracle found in any array of any formula of any claim."""

    max_error: float = 0.0
    passed: bool = True


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


def verify(entry: Equation | Erratum, dtype: Any, seed: int) -> Verdict:
    """Hold every claim of an equation against every oracle that fits it; of an erratum, both versions.

    Args:
        entry: from :mod:`manual_grad.lectures`.
        dtype: the floating-point dtype of the formulas; a misprint is refuted in float64.
        seed: with the tag, it decides the random inputs.
    Returns:
        The verdict; its status says what was shown.
    """
    verdict = Verdict(entry.tag, entry.lecture, entry.title)
    claims = entry.claims if isinstance(entry, Equation) else (entry.claim,)
    dtype = jnp.dtype(dtype if isinstance(entry, Equation) else jnp.float64)
    for number, claim in enumerate(claims):
        draw = Draw(np.random.default_rng([seed, zlib.crc32(entry.tag.encode()), number]), dtype)
        problem = pose(claim, draw)
        checks = oracle_checks(problem, draw)
        verdict.inputs.update(problem.described())
        _judge(problem, checks, verdict)
        if isinstance(entry, Erratum):
            verdict.status = "erratum"
            verdict.counterexample = _refute(entry, problem, checks)
            if not verdict.counterexample:
                verdict.failures.append("as printed: not refuted, it gives the right result")
    if verdict.failures:
        verdict.status = "failed"
    return verdict


def _judge(problem: Problem, checks: dict[str, Check], verdict: Verdict) -> None:
    """Add to ``verdict`` what the oracles say of each of the claim's formulas."""
    for way, formula in problem.claim.formulas.items():
        try:
            got = problem.answer_of(formula)
        except Exception as error:  # a broken formula may raise anything; that is a verdict too
            verdict.failures.append(f"{way}: {type(error).__name__}: {_first_line(error)}")
            continue
        for oracle, check in checks.items():
            worst = max(check(got), key=lambda comparison: comparison.error)
            found = verdict.oracles.setdefault(oracle, OracleVerdict())
            found.max_error = max(found.max_error, worst.error)
            if worst.error > problem.tolerance:
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
    worst = max(next(iter(checks.values()))(got), key=lambda comparison: comparison.error)
    return f"{worst.name}: {worst.detail}" if worst.error > 10 * problem.tolerance else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
