"""Activations of several values at once, such as all gates of a cell: a wrong slope in one part alone."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.layers import KNOWN, SLOPES_MISTAKEN
from manual_grad.checker.mistakes.mistake import PICKING, SAID, Mistake, users_of
from manual_grad.checker.tape import Passing, Slot, Tape, computed

PARTS_UP_TO = 8
CUTTING = (*PICKING, "split")
Slope = Callable[[Any, Any], Any]


def slopes_of_parts(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The slope of an activation wrong in one of the parts that its result is cut into."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        name = SAID.get(step.name, step.name)
        if name not in ("sigmoid", "tanh"):
            continue
        of_it: dict[str, Slope] = {
            "taken at its output instead of its input": partial(_at_output, name),
            "left out": lambda z, a: np.ones_like(a),
            "applied twice": partial(_twice, name),
            **{f"wrong: {said}": slope for said, slope in SLOPES_MISTAKEN[name].items()},
        }
        for where, part in list(_parts(tape, step.outs[0]))[:PARTS_UP_TO]:
            for said, slope in of_it.items():
                yield Mistake(
                    f"the derivative of {name} is {said}, in one part of its result alone ({where}), such as "
                    "one gate",
                    {edge: partial(_in_part, part, slope)},
                )


def _at_output(name: str, z: np.ndarray, a: np.ndarray) -> np.ndarray:
    return KNOWN[name][1](a)


def _twice(name: str, z: np.ndarray, a: np.ndarray) -> np.ndarray:
    return KNOWN[name][1](z) ** 2


def _in_part(part: np.ndarray, slope: Slope, p: Passing) -> np.ndarray:
    wrong = p.cotangent * slope(np.asarray(p.operands[0]), np.asarray(p.result))
    return np.where(part, wrong, p.right)


def _parts(tape: Tape, slot: Slot) -> Iterator[tuple[str, np.ndarray]]:
    """The parts that a value is cut into, each with the place of its entries."""
    shape = tape.shape(slot)
    numbers = np.arange(float(np.prod(shape))).reshape(shape)
    for at, i in users_of(tape).get(slot, ()):
        step = tape.steps[at]
        if step.name not in CUTTING or i:
            continue
        for out in computed(step.eqn, [numbers, *(tape.values[s] for s in step.ins[1:])]):
            part = np.isin(numbers, np.asarray(out))
            if 0 < part.sum() < part.size:
                yield _place_said(part), part


def _place_said(part: np.ndarray) -> str:
    said = []
    for axis, n in enumerate(part.shape):
        there = np.flatnonzero(part.any(tuple(a for a in range(part.ndim) if a != axis)))
        if len(there) < n:
            said.append(f"{there[0]} to {there[-1]} of {n} along axis {axis}")
    return " and ".join(said)
