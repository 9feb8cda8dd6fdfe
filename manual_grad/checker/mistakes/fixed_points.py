"""Fixed points z = f(z, x), found by iteration: mistakes in the implicit gradient v = (I − Jᵀ)⁻¹ g.

The gradient of x is then that of one application of f for the cotangent v. J is the Jacobian of f with
respect to z, at the fixed point.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.iterations import Loop, loop_of
from manual_grad.checker.mistakes.mistake import (
    SAID,
    Mistake,
    left_out,
    made_by,
    said_of,
    stop,
    users_of,
)
from manual_grad.checker.tape import ELEMENTWISE, MEANINGLESS, Edge, Passing, Slot, Tape, pulled_back

CONVERGED = 1e-7  # the largest difference between the last two iterations, relative to the largest entry
ENTRIES_UP_TO = 256  # of the fixed point
TERMS_UP_TO = 6
RIGHT = "(I − Jᵀ)⁻¹ g"
Solve = Callable[[np.ndarray, np.ndarray], np.ndarray]


def fixed_points_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The implicit gradient of a fixed point with another matrix, or with the first terms of its series."""
    found = _fixed_point(tape)
    if found is None:
        return
    start, end = found
    name = said_of(tape, e, end)
    at_end = (made_by(tape)[end], -1)
    back = stop(*users_of(tape)[start])
    where = f"in the implicit gradient of the fixed point {name} = f({name}), where v = {RIGHT} belongs"
    for said, solve in {**SOLUTIONS, **_first_terms()}.items():
        yield Mistake(f"{said}, {where}", {**back, at_end: partial(_solved, solve, start, end)})
    right = partial(_solved, _right, start, end)
    slopes: dict[str, list[Edge]] = {}
    for edge in _last_steps(tape, start, end):
        step = tape.steps[edge[0]]
        if step.name in ELEMENTWISE and step.name not in MEANINGLESS:
            slopes.setdefault(SAID.get(step.name, step.name), []).append(edge)
    last = f"of the last application of f, in the implicit gradient of the fixed point {name} = f({name})"
    for called, edges in slopes.items():
        yield Mistake(
            f"the derivative of {called} is left out {last}: v = {RIGHT} is not multiplied by it",
            {**back, **dict.fromkeys(edges, left_out), at_end: right},
        )


def _first_terms() -> dict[str, Solve]:
    """The first terms of the Neumann series of (I − Jᵀ)⁻¹."""
    found: dict[str, Solve] = {
        "the inverse (I − Jᵀ)⁻¹ is left out (one step of f alone is differentiated): v = g": lambda J, g: g
    }
    for n in range(1, TERMS_UP_TO + 1):
        series = "".join([" + Jᵀ g", *(f" + (Jᵀ){'²³⁴⁵⁶'[k - 2]} g" for k in range(2, n + 1))])
        number = "one term" if n == 1 else f"{n} terms"
        found[f"only {number} of the Neumann series after g: v = g{series}"] = partial(_series, n)
    return found


def _series(n: int, J: np.ndarray, g: np.ndarray) -> np.ndarray:
    v = g
    for _ in range(n):
        v = g + J.T @ v
    return v


def _right(J: np.ndarray, g: np.ndarray) -> np.ndarray:
    return np.linalg.solve(np.eye(len(J)) - J.T, g)


SOLUTIONS: dict[str, Solve] = {
    "J is not transposed: v = (I − J)⁻¹ g": lambda J, g: np.linalg.solve(np.eye(len(J)) - J, g),
    "the sign of J is wrong: v = (I + Jᵀ)⁻¹ g": lambda J, g: np.linalg.solve(np.eye(len(J)) + J.T, g),
    "J is not transposed and its sign is wrong: v = (I + J)⁻¹ g": (
        lambda J, g: np.linalg.solve(np.eye(len(J)) + J, g)
    ),
    "the inverse is missing: v = (I − Jᵀ) g": lambda J, g: g - J.T @ g,
    "the inverse is missing, and J is not transposed: v = (I − J) g": lambda J, g: g - J @ g,
    "the identity is missing: v = (Jᵀ)⁻¹ g": lambda J, g: np.linalg.solve(J.T, g),
    "the identity is missing: v = −(Jᵀ)⁻¹ g": lambda J, g: -np.linalg.solve(J.T, g),
    "g is left out of v = g + Jᵀ v: v = Jᵀ (I − Jᵀ)⁻¹ g": lambda J, g: _right(J, g) - g,
    "the sign is flipped: v = −(I − Jᵀ)⁻¹ g": lambda J, g: -_right(J, g),
    "v is computed twice: v = (I − Jᵀ)⁻² g": lambda J, g: _right(J, _right(J, g)),
}


def _solved(solve: Solve, start: Slot, end: Slot, p: Passing) -> np.ndarray:
    key = ("jacobian", start, end)
    if key not in p.tape.kept:
        p.tape.kept[key] = _jacobian(p.tape, start, end)
    return solve(p.tape.kept[key], p.right.ravel()).reshape(p.right.shape)


def _fixed_point(tape: Tape) -> tuple[Slot, Slot] | None:
    """The only value that a loop carries, before and after the last iteration, if it has converged."""
    loop, made = loop_of(tape), made_by(tape)
    if loop is None:
        return None
    carried = {
        slot
        for at in loop.last
        for slot in tape.steps[at].ins
        if slot in tape.active and loop.home.get(made.get(slot, -1)) == 1
    }
    if len(carried) != 1:
        return None
    (start,) = carried
    end = _after(loop, tape, start)
    if end is None or tape.shape(end) != tape.shape(start) or np.size(tape.values[end]) > ENTRIES_UP_TO:
        return None
    before, after = (np.asarray(tape.values[slot]) for slot in (start, end))
    off = np.max(np.abs(after - before), initial=0.0)
    alike = off <= CONVERGED * np.max(np.abs(after), initial=0.0)
    return (start, end) if alike and np.size(after) else None


def _after(loop: Loop, tape: Tape, start: Slot) -> Slot | None:
    """The value of the last iteration that corresponds to one of the iteration before."""
    return next((last for last, mine in loop.slots[1].items() if mine == start and last != start), None)


def _last_steps(tape: Tape, start: Slot, end: Slot) -> list[Edge]:
    """The operands of the steps between the last two iterations' values."""
    made = made_by(tape)
    first, last = made[start], made[end]
    return [edge for edge in tape.edges() if first < edge[0] <= last]


def _jacobian(tape: Tape, start: Slot, end: Slot) -> np.ndarray:
    """The derivative of one iteration's result with respect to the value that it starts from."""
    first, last = made_by(tape)[start], made_by(tape)[end]
    steps = tape.steps[first + 1 : last + 1]
    active = {start}
    for step in steps:
        if not active.isdisjoint(step.ins):
            active.update(out for out in step.outs if out in tape.active)
    part = Tape(steps, tape.values, [start], [end], active)
    n = np.size(tape.values[end])
    rows = np.eye(n).reshape(n, *tape.shape(end))
    return np.stack([pulled_back(part, [row], [{}])[0].ravel() for row in rows])
