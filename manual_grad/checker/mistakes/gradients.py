"""The gradients that mistakes lead to: many changes of the backward pass at once, also at other values."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import Mistake
from manual_grad.checker.other_values import handed_by_rows, reworked_together, settled
from manual_grad.checker.tape import Changes, Slot, Tape, flowing_through, pulled_back, reworked

ROWS = 64  # mistakes pulled back at once
FEW = 4  # mistakes at other values that are pulled back one by one
ENTRIES = 2**22  # of the largest array in the backward pass, all rows together
Row = tuple[list[np.ndarray], list[np.ndarray] | None]


def gradients_with(e: Evidence, mistakes: Sequence[Mistake]) -> list[Row]:
    """All leaves of the gradients, with each mistake and without its contribution."""
    tape = e.kept["tape"]
    others = {i: values for i, m in enumerate(mistakes) if (values := _other_values(tape, m)) is not None}
    asked: list[Changes] = []
    at: dict[Any, int] = {}
    for i, mistake in enumerate(mistakes):
        if i not in others and not mistake.skipped and not mistake.through:
            at[i] = len(asked)
            asked.append(mistake.changes)
        if mistake.without is not None:
            key = tuple((edge, id(change)) for edge, change in mistake.without.items())
            at["without", i] = at.get(key, len(asked))
            if key not in at:
                at[key] = len(asked)
                asked.append(mistake.without)
    largest = max(int(np.size(value)) for value in tape.values)
    count = max(1, min(ROWS, ENTRIES // largest))
    made: list[list[np.ndarray]] = []
    with np.errstate(all="ignore"):
        for start in range(0, len(asked), count):
            e.require_time()
            leaves = pulled_back(tape, e.point.dout, asked[start : start + count])
            made.extend([leaf[row] for leaf in leaves] for row in range(len(leaves[0])))
        own = _with_other_values(e, {i: (mistakes[i].changes, values) for i, values in others.items()}, count)
        for i in set(range(len(mistakes))) - at.keys() - others.keys():
            e.require_time()
            other = _with_other_steps(tape, mistakes[i])
            own[i] = [leaf[0] for leaf in pulled_back(other, e.point.dout, [mistakes[i].changes])]
    return [
        (own[i] if i in own else made[at[i]], made[at["without", i]] if ("without", i) in at else None)
        for i in range(len(mistakes))
    ]


def _with_other_steps(tape: Tape, mistake: Mistake) -> Tape:
    """The function without the steps that a mistake skips, and where its stopped gradients flow."""
    other = flowing_through(tape, mistake.through) if mistake.through else tape
    for step, operand in sorted(mistake.skipped):
        other = reworked(other, tape.steps[step].outs[0], other.values[tape.steps[step].ins[operand]])
    return other


def _other_values(tape: Tape, mistake: Mistake) -> Mapping[Slot, Any] | None:
    """The values at which the derivative is computed, where they are not the function's own."""
    if mistake.instead is not None:
        return settled(tape, {slot: value(tape) for slot, value in mistake.instead.items()})
    if mistake.of is None:
        return None
    step = tape.steps[mistake.of[0]]
    return {step.outs[0]: tape.values[step.ins[mistake.of[1]]]}


def _with_other_values(
    e: Evidence, asked: Mapping[int, tuple[Changes, Mapping[Slot, Any]]], count: int
) -> dict[int, list[np.ndarray]]:
    """The gradients for changes at other values, all at once where that pays."""
    tape, found = e.kept["tape"], dict[int, list[np.ndarray]]()
    fitting = [
        i for i, (_, values) in asked.items() if all(np.shape(v) == tape.shape(s) for s, v in values.items())
    ]
    for start in range(0, len(fitting), count):
        some = fitting[start : start + count]
        e.require_time()
        if len(some) >= FEW:
            with contextlib.suppress(Exception):  # a step that JAX cannot do for all rows at once
                rows = reworked_together(tape, [asked[i][1] for i in some])
                hand = partial(handed_by_rows, rows)
                changes = [asked[i][0] for i in some]
                leaves = pulled_back(tape, e.point.dout, changes, hand=hand, seen=rows.one)
                found |= {i: [leaf[row] for leaf in leaves] for row, i in enumerate(some)}
    for i in asked.keys() - found.keys():
        e.require_time()
        other = tape
        for slot, value in asked[i][1].items():
            other = reworked(other, slot, value)
        found[i] = [leaf[0] for leaf in pulled_back(other, e.point.dout, [asked[i][0]])]
    return found
