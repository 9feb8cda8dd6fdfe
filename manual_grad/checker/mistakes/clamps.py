"""Mistakes at a bound, such as max(norm, ε): the gradient is that of the value without it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import PASSED_ON, Mistake, is_constant, left_out, made_by, said_of
from manual_grad.checker.tape import Changes, Edge, Passing, Slot, Step, Tape
from manual_grad.checker.truth import is_float, is_key

# Slopes that people compute from the result.
OF_RESULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sqrt": lambda a: 0.5 / a,
    "exp": lambda a: a,
    "tanh": lambda a: 1 - a**2,
    "logistic": lambda a: a * (1 - a),
    "rsqrt": lambda a: -0.5 * a**3,
}


def bounds_ignored(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A bound ignored in the derivative, where it takes effect and the value does not depend on anything."""
    made = made_by(tape)
    for at, step in enumerate(tape.steps):
        edge = _bounded(tape, at)
        if edge is None:
            continue
        value = step.ins[edge[1]]
        said = (
            f"the bound in {_said(tape, e, step, value)} is ignored in the backward pass: where it takes "
            "effect, the result is a constant, but the gradient is that of the formula without a bound"
        )
        if step.name != "clamp":
            yield Mistake(said, {edge: left_out})
        slot = value
        while slot in made and tape.steps[made[slot]].name in PASSED_ON - {"neg", "slice"}:
            slot = tape.steps[made[slot]].ins[0]
        name = tape.steps[made[slot]].name if slot in made else ""
        if name in OF_RESULTS:
            changes: Changes = {edge: left_out, (made[slot], 0): partial(_of_bounded, step.outs[0])}
            yield Mistake(said, changes)
        yield Mistake(f"{said}, and the value is recomputed without it", {edge: left_out}, of=edge)


# Comparisons that differ from others only where both sides are equal.
SWAPPED: dict[str, Callable[[Any, Any], Any]] = {
    "lt": np.less_equal,
    "le": np.less,
    "gt": np.greater_equal,
    "ge": np.greater,
}


def bounds_counted(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """< for ≤ or the other way round: entries that are exactly at a bound, as quantised values often are."""
    found = []
    for at, step in enumerate(tape.steps):
        if step.name in SWAPPED and not any(is_key(tape.values[s]) for s in step.ins):
            x, y = (np.asarray(tape.values[s]) for s in step.ins)
            if np.any(x == y):
                found.append(at)
    for some in [found, *([at] for at in found if len(found) > 1)] if found else []:
        sides = dict.fromkeys(said_of(tape, e, s) for at in some for s in tape.steps[at].ins)
        values = {tape.steps[at].outs[0]: partial(_counted, at) for at in some}
        said = f"< for ≤ (or ≤ for <) in the mask that compares {' and '.join(sides)}"
        where = "entries that are exactly at a bound are counted on its other side in the backward pass"
        yield Mistake(f"{said}: {where}", {}, instead=values)


def _counted(at: int, tape: Tape) -> np.ndarray:
    step = tape.steps[at]
    return SWAPPED[step.name](*(np.asarray(tape.values[s]) for s in step.ins))


def _bounded(tape: Tape, at: int) -> Edge | None:
    """The operand that a step bounds by a constant other than 0."""
    step = tape.steps[at]
    if step.name not in ("max", "min", "clamp", "select_n") or step.outs[0] not in tape.active:
        return None
    varied = [i for i, slot in enumerate(step.ins) if slot in tape.active]
    if len(varied) != 1:
        return None
    others = [s for s in step.ins if s not in tape.active and is_float(tape.values[s])]
    x, out = (np.asarray(tape.values[s]) for s in (step.ins[varied[0]], step.outs[0]))
    if x.shape != out.shape or np.array_equal(x, out):
        return None
    if not all(is_constant(tape, s) and np.size(tape.values[s]) for s in others):
        return None
    numbers = [float(np.ravel(tape.values[s])[0]) for s in others]
    if step.name == "select_n" and not _is_bound(x, out, numbers[0]):
        return None
    return (at, varied[0]) if any(numbers) else None


def _is_bound(x: np.ndarray, out: np.ndarray, bound: float) -> bool:
    """Whether ``where`` computes a maximum or a minimum."""
    return np.array_equal(out, np.maximum(x, bound)) or np.array_equal(out, np.minimum(x, bound))


def _said(tape: Tape, e: Evidence, step: Step, value: Slot) -> str:
    numbers = [f"{float(np.ravel(tape.values[s])[0]):g}" for s in step.ins if s != value and is_float(
        tape.values[s])]  # fmt: skip
    name = said_of(tape, e, value)
    if step.name == "clamp":
        return f"clip({', '.join([name, *numbers])})"
    x, out = (np.asarray(tape.values[s]) for s in (value, step.outs[0]))
    return f"{'max' if np.all(out >= x) else 'min'}({', '.join([name, *numbers])})"


def _of_bounded(slot: Slot, p: Passing) -> np.ndarray:
    """The cotangent that a function passes on if its slope is computed from the bounded result."""
    bounded = np.reshape(np.asarray(p.tape.values[slot]), p.right.shape)
    return p.cotangent * OF_RESULTS[p.tape.steps[p.edge[0]].name](bounded)
