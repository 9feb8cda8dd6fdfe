"""Whether ``check_vjp`` names the mistakes of the kill matrix in its first diagnosis.

A mistake counts as named if the first diagnosis of every wrong array matches the pattern below; where several
explanations fit equally well, the checker names them together. It is not told what was planted. It is run at
the matrix's points, with two exceptions. A mask with ≥ is checked with a unit on the kink, the only place
where it differs, and is reported in a note. A mutant whose shapes clash is checked with all axes equally
long; if they clash even then, or in a Jacobian, no checker is needed.
"""

import re
import time
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.border import InputError
from manual_grad.catalogue import attention, families, recurrent, sequences
from manual_grad.catalogue.draw import Draw
from manual_grad.checker.check import check_vjp
from manual_grad.lectures import Equation
from manual_grad.verify import mutants
from manual_grad.verify.kill_matrix import FLOAT64, Target, alive
from manual_grad.verify.kink import at_the_kink
from manual_grad.verify.mutants import Mutant, mutants_of
from manual_grad.verify.problem import Problem, answer_in_order, pose

MORE_DRAWS = 5  # where a mistake has no effect, or its shapes clash
_SCALE = "scaled by|mean instead of sum|summed instead of averaged"
_MASK = "mask|derivative of ReLU"
_TURNED = "rotated|flipped|reversed"
_MOVED = "transpos|permuted"
_SLOPE = "derivative|slope|a path is missing|power"
_ADDED = "overwritten|not added|not summed|only the (first|last)|dropped"
_PLACE = "off by one|shifted|mask|entries left out"
_USED = "is used for (?!its)"
_TERM = f"a path is missing|off-diagonal|term|sum of the labels|summed over the wrong axis|{_USED}"
# For each kind of mistake, a pattern that a true diagnosis matches.
WORDS: dict[str, str] = {
    families.SIGN: "sign flipped|mask inverted",
    mutants.ZERO: "zero|a path is missing|nothing flows",
    mutants.NO_MEAN: "1/N is missing|summed where|summed instead",
    mutants.MEAN_TWICE: r"mean instead of sum|[N\d] is applied twice",
    mutants.NO_COTANGENT: "cotangent",
    mutants.LAST_DROPPED: "dropped",
    families.SUM_MISSING: "not summed|only the diagonal counts",
    families.MEAN_FOR_SUM: r"mean instead of sum|[N\d] is applied twice",
    families.TRANSPOSED: _MOVED,
    families.SWAPPED: f"{_MOVED}|wrong order|sign flipped|{_USED}|upside down|factors|of log|inverted",
    families.NO_MASK: _MASK,
    families.WRONG_MASK: "mask taken from the wrong",
    families.MASK_GE: "≥",
    families.NO_OFF_DIAGONAL: "off-diagonal",
    families.P_SWAPPED: "cases swapped",
    families.NOT_ROTATED: _TURNED,
    families.ROTATED_TWICE: _TURNED,
    families.GRADIENT_TURNED: _TURNED,
    families.PADDING: "off by one",
    families.STRIDE: "stride",
    families.DILATION: "dilation",
    families.BIAS_AXES: "axes|axis",
    families.SLOPE: _SLOPE,
    families.FACTOR: f"factor|{_SCALE}",
    families.TERM: _TERM,
    families.LABELS_KEPT: f"{_MASK}|divided by",
    "last chunk dropped": "dropped|a path is missing",
    families.GROUPS: "group",
    families.STATISTICS: f"{_TERM}|axes|axis|dropped",
    sequences.OVERWRITTEN: _ADDED,
    sequences.WRONG_INDEX: _PLACE,
    attention.MASK: _PLACE,
    attention.HEADS: "group|head|permuted",
    recurrent.NOT_ADDED: f"{_ADDED}|a path is missing",
    recurrent.WRONG_STEP: f"{_PLACE}|another step",
    "gates in another order": "permuted|wrong order|another order",
    "windows overwritten": _ADDED,
    "upper triangle not ignored": "triang",
}


@dataclass(frozen=True)
class Named:
    """The checker's diagnosis of one mutant.

    Attributes:
        tag, formula, mutant, says: as in :class:`manual_grad.verify.kill_matrix.Row`.
        diagnosis: one line for each wrong array; empty if the mutant cannot be computed at all.
        first: whether the true cause comes first for every wrong array; None if nothing could be checked.
    """

    tag: str
    formula: str
    mutant: str
    says: str
    diagnosis: tuple[str, ...]
    first: bool | None


def name_all(target: Target, seed: int = 0, mutate: Callable = mutants_of) -> list[Named]:
    """Run the checker on every mutant of a target; claims about a value have no gradient and are skipped.

    Args:
        target: from :func:`manual_grad.verify.kill_matrix.targets`.
        seed: together with the tag, determines the random inputs.
        mutate: makes the mutants of a claim.
    Returns:
        The diagnosis of each.
    """
    if target.claim.kind == "value":
        return []
    claim = replace(target.claim, formulas={way: target.claim.formulas[way] for way in target.formulas})
    origin = [seed, zlib.crc32(target.tag.encode()), target.number]
    usual, kinked = alive(claim, "real", origin)[1], alive(at_the_kink(claim), "real", origin)[1]
    found = []
    for mutant in mutate(claim, usual):
        said = _said(kinked if mutant.kind == families.MASK_GE else usual, mutant)
        clashes = said is None and claim.kind == "gradient"
        for attempt in range(MORE_DRAWS):
            if said or (said is None and not clashes):
                break
            rng = np.random.default_rng([*origin, 20 + attempt])
            draw = Draw(rng, FLOAT64, "square" if clashes else "real", symmetric=False)
            said = _said(pose(claim, draw), mutant)
        first = all(re.search(WORDS[mutant.kind], phrase) for _, phrase in said) if said else None
        diagnosis = tuple(f"{name}: {phrase}" for name, phrase in said or ())
        found.append(Named(target.tag, mutant.formula, mutant.kind, mutant.says, diagnosis, first))
    return found


def reasons(
    equation: Equation, failing: Collection[str], seed: int = 0, seconds: float | None = None
) -> list[str]:
    """Why formulas of an equation fail: the checker's diagnosis of each wrong gradient or Jacobian.

    Args:
        equation: the equation whose formulas fail.
        failing: the names of those formulas.
        seed: together with the tag, determines the random inputs.
        seconds: how long to look for causes.
    Returns:
        One line for each wrong array that could be explained.
    """
    until = None if seconds is None else time.monotonic() + seconds
    found = []
    for number, claim in enumerate(equation.claims):
        for way in failing & claim.formulas.keys() if claim.kind != "value" else ():
            draw = Draw(np.random.default_rng([seed, zlib.crc32(equation.tag.encode()), number]), FLOAT64)
            left = None if until is None else max(until - time.monotonic(), 0.1)
            said = _said(pose(claim, draw), Mutant("", way, claim.formulas[way], ""), left)
            found += [f"{way}, why: {name}: {phrase}" for name, phrase in said or ()]
    return list(dict.fromkeys(found))


def _said(problem: Problem, mutant: Mutant, seconds: float | None = None) -> list[tuple[str, str]] | None:
    """Each wrong array and its diagnosis; for a mask on the kink, the note; None if the mutant raises."""
    claim, at = problem.claim, problem.at
    movable = claim.at is None and all(name in problem.inputs for name in at)
    if mutant.kind == families.MASK_GE and not movable:
        return None  # the note on a kink needs points next to it
    names = [*claim.wrt, *(n for n, v in at.items() if n not in claim.wrt and isinstance(v, jax.Array))]

    def reference(*args: Any) -> Any:
        return claim.reference(**{**at, **dict(zip(names, args, strict=True))})

    def backward(args: tuple, dout: Any) -> tuple:
        inputs = {**problem.inputs, **dict(zip(names, args, strict=True))} if movable else problem.inputs
        if claim.kind == "gradient":
            return answer_in_order(claim, mutant.function, dout, inputs)
        jacobians = answer_in_order(claim, mutant.function, None, inputs)
        return jax.tree.map(lambda J: jnp.tensordot(dout, J, dout.ndim), jacobians)

    try:
        report = check_vjp(
            lambda *args: (reference(*args), args), backward, *(at[name] for name in names), names=names,
            argnums=range(len(claim.wrt)), draws=2 if movable else 1, reference=reference,
            seconds=seconds,
        )  # fmt: skip
    except InputError as error:
        if " raised " not in str(error):
            raise
        return None
    wrong = [(finding.name, finding.diagnosis) for finding in report.findings if not finding.ok]
    if not wrong and mutant.kind == families.MASK_GE:
        notes = [note.partition(": ") for note in report.notes if "on the kink itself" in note]
        return [(name, said) for name, _, said in notes]
    return wrong
