"""Names of missing paths: the variance, a normaliser, a penalty, a skip connection, a rule's term."""

from collections.abc import Iterator

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import (
    PASSED_ON,
    PICKING,
    Mistake,
    made_by,
    said_of,
    statistic,
    users_of,
)
from manual_grad.checker.tape import ELEMENTWISE, Edge, Slot, Tape

FURTHEST = 24  # steps to follow
SAID_MORE = {
    "standard deviation": "variance (or standard deviation)",
    "sum of squared deviations": "variance (the sum of squared deviations)",
}
LINEAR = {*PASSED_ON, "add", "sub", "add_any", "reduce_sum", "mul", "div"}


def missing_said(tape: Tape, e: Evidence, mistake: Mistake) -> str:
    """The phrase if nothing flows back through the operands of a mistake.

    Args:
        tape: the function.
        e: the leaf with the wrong gradient.
        mistake: a path.
    Returns:
        The value that is left out or treated as a constant, as far as it can be identified, and the place.
    """
    edges = list(mistake.without or ())
    through = f"nothing flows back through {mistake.phrase}"
    step = tape.steps[edges[0][0]]
    if _is_skip(tape, edges[0]):
        return f"the skip connection is left out ({through})"
    way = [edges[0]]  # up to the first step with another active operand
    if _other(tape, edges[0]) is None:
        way.extend(_onward(tape, step.outs[0]))
    joined, operand = tape.steps[way[-1][0]], way[-1][1]
    if joined.name in ("concatenate", "stack") and _is_output(tape, joined.outs[0]) and len(edges) == 1:
        part = f"the cotangent of part {operand + 1} of {len(joined.ins)} of the output is ignored"
        return f"{part} ({through})"
    penalty = _penalty(tape, e, way)
    if penalty:
        return f"{penalty} is left out ({through})"
    rule = _rule(tape, e, way)
    slots = [tape.steps[edge[0]].outs[0] for edge in way[: len(way) - (_other(tape, way[-1]) is not None)]]
    what = _named(tape, e, slots, way[-1], rule) if slots else ""
    if not what and rule:
        what = said_of(tape, e, tape.steps[way[-1][0]].ins[way[-1][1]])
    if not what and step.name == "reduce_sum":
        what = mistake.phrase
    if not what:
        return through
    left_out = f"a term of the {rule} rule is left out" if rule else "a term is left out"
    place = "it" if what == mistake.phrase else mistake.phrase
    return f"{what} is treated as a constant (nothing flows back through {place}; {left_out})"


def _onward(tape: Tape, slot: Slot) -> Iterator[Edge]:
    """The operands through which a value passes, one after the other, until it meets another active value."""
    users = users_of(tape)
    for _ in range(FURTHEST):
        mine = users.get(slot, [])
        if len(mine) != 1:
            return
        yield mine[0]
        if _other(tape, mine[0]) is not None:
            return
        slot = tape.steps[mine[0][0]].outs[0]


def _other(tape: Tape, edge: Edge) -> Slot | None:
    """The other active operand of a step with two different ones."""
    step = tape.steps[edge[0]]
    others = [s for s in step.ins if s != step.ins[edge[1]] and s in tape.active]
    return others[0] if others else None


def _above(tape: Tape, slot: Slot) -> set[Slot]:
    """A value and everything that it is computed from."""
    made, found, near = made_by(tape), {slot}, [slot]
    while near:
        at = made.get(near.pop())
        new = {s for s in tape.steps[at].ins if s in tape.active} - found if at is not None else set()
        found |= new
        near.extend(new)
    return found


def _is_output(tape: Tape, slot: Slot) -> bool:
    users = users_of(tape)
    while slot not in tape.results:
        mine = users.get(slot, [])
        if len(mine) != 1 or tape.steps[mine[0][0]].name not in PASSED_ON:
            return False
        slot = tape.steps[mine[0][0]].outs[0]
    return True


def _is_skip(tape: Tape, edge: Edge) -> bool:
    """Whether a sum adds a value to a layer's output for that value."""
    other = _other(tape, edge)
    if tape.steps[edge[0]].name not in ("add", "add_any") or other is None:
        return False
    mine, made = tape.steps[edge[0]].ins[edge[1]], made_by(tape)
    above = _above(tape, other)
    layers = ("dot_general", "conv_general_dilated")
    return mine in above and any(
        tape.steps[made[s]].name in layers and mine in _above(tape, s) for s in above if s in made
    )


def _penalty(tape: Tape, e: Evidence, way: list[Edge]) -> str:
    """``the L2 penalty of W``: the sum of an argument's squares, a term of the loss."""
    slots = [tape.steps[edge[0]].outs[0] for edge in way]
    squares = [found for slot in slots if (found := statistic(tape, slot)) and "of squares" in found[0]]
    joint = tape.steps[way[-1][0]]
    a_term = joint.name in ("add", "sub") and np.size(tape.values[joint.outs[0]]) == 1
    if not squares or squares[0][1] not in tape.leaves or not a_term or not _ends_linearly(tape, way[-1]):
        return ""
    return f"the L2 penalty of {said_of(tape, e, squares[0][1])}"


def _ends_linearly(tape: Tape, edge: Edge) -> bool:
    near, seen = [edge], {edge}
    for at, i in near:
        step = tape.steps[at]
        if step.name not in LINEAR or (step.name in ("mul", "div") and _other(tape, (at, i)) is not None):
            return False
        near.extend(user for user in users_of(tape).get(step.outs[0], ()) if user not in seen)
        seen.update(near)
    return True


def _rule(tape: Tape, e: Evidence, way: list[Edge]) -> str:
    """``product`` or ``quotient`` if a value meets another that depends on the same argument."""
    users, leaf, seen = users_of(tape), tape.leaves[e.leaf], list(way)
    while len(seen) < FURTHEST:  # a denominator may follow further products
        mine = users.get(tape.steps[seen[-1][0]].outs[0], [])
        if len(mine) != 1:
            break
        seen.append(mine[0])
    if any(tape.steps[at].name == "div" and i == 1 and _depends(tape, (at, i), leaf) for at, i in seen):
        return "quotient"
    name = tape.steps[way[-1][0]].name
    return "product" if name in ("mul", "div", "dot_general") and _depends(tape, way[-1], leaf) else ""


def _depends(tape: Tape, edge: Edge, leaf: Slot) -> bool:
    """Whether the value that another one meets depends on an argument."""
    other = _other(tape, edge)
    return other is not None and leaf in _above(tape, other)


def _named(tape: Tape, e: Evidence, slots: list[Slot], joint: Edge, rule: str) -> str:
    """The names of the values from the stopped step on, up to the step where they meet another one."""
    made = made_by(tape)
    steps = [tape.steps[made[slot]] for slot in slots]
    total = next((step for step in steps if step.name == "reduce_sum"), None)
    if total is not None and _log_determinant(tape, total.ins[0]):
        return "the log-determinant"
    found = [f for slot in slots if (f := statistic(tape, slot)) and f[0] != "sum"]
    if found:
        kind, base = found[-1]
        kind = SAID_MORE.get(kind, kind)
        return f"the {kind} of {said_of(tape, e, base)}"
    if total is None:
        return ""
    summed = tape.steps[made[total.ins[0]]] if total.ins[0] in made else None
    if summed is not None and summed.name == "exp":
        last = tape.steps[joint[0]]
        numerator = {"sub": summed.ins[0], "div": total.ins[0]}.get(last.name)
        if joint[1] == 1 and last.ins[0] == numerator:
            return "the normaliser of a softmax, the sum of exp,"
        if any(step.name == "log" for step in steps):
            return "the log-sum-exp"
    of_denominator = f"the denominator, with the sum of {said_of(tape, e, total.ins[0])},"
    return of_denominator if rule == "quotient" else ""


def _log_determinant(tape: Tape, slot: Slot) -> bool:
    """Whether a value is the logarithm of entries of a factorised matrix."""
    made, logarithm = made_by(tape), False
    for _ in range(FURTHEST):
        if slot not in made:
            return False
        step = tape.steps[made[slot]]
        if step.name in ("lu", "cholesky"):
            return logarithm
        logarithm = logarithm or step.name == "log"
        varied = [s for s in step.ins if s in tape.active]
        if len(varied) != 1 or step.name not in {*ELEMENTWISE, *PASSED_ON, *PICKING, "reduce_sum"}:
            return False
        slot = varied[0]
    return False
