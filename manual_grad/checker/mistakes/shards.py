"""Gathered values: each rank, or block, adds only a part of what flows back to a value that all of them use.

Rank r multiplies its own rows with the rows of all ranks. The gradient of all rows is a sum over the ranks.
"""

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import Mistake, alike, back_with, place_of, said_of
from manual_grad.checker.tape import Change, Edge, Passing, Tape

PRODUCTS_UP_TO = 16  # of ranks


def own_blocks_alone(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A product's gradient from each block's own rows alone, or from the others' alone."""
    for at, i in tape.edges():
        step = tape.steps[at]
        if step.name != "dot_general":
            continue
        shape, mine, others = _axes(tape, (at, i))
        for axis, other in itertools.product(mine, others):
            for count in range(2, min(shape[axis], shape[other]) + 1):
                if (
                    shape[axis] % count == shape[other] % count == 0
                    and shape[axis] + shape[other] > 2 * count
                ):
                    same = np.equal(*(_homes(shape, a, count) for a in (axis, other)))
                    yield from _with_masks(tape, e, [((at, i), same)], count)
    for edges in alike(tape):
        step, i = tape.steps[edges[0][0]], edges[0][1]
        count = len(edges)
        if step.name != "dot_general" or not 1 < count <= PRODUCTS_UP_TO:
            continue
        shape, mine, _ = _axes(tape, edges[0])
        for axis in mine:
            if shape[axis] % count == 0 and shape[axis] > count:
                homes = _homes(shape, axis, count)
                yield from _with_masks(tape, e, [(x, homes == k) for k, x in enumerate(edges)], count)


def _homes(shape: tuple[int, ...], axis: int, count: int) -> np.ndarray:
    """The block of each index along an axis, of a shape that can be broadcast."""
    home = np.arange(shape[axis]) * count // shape[axis]
    return home.reshape([-1 if a == axis else 1 for a in range(len(shape))])


def _axes(tape: Tape, edge: Edge) -> tuple[tuple[int, ...], range, range]:
    """A product's shape, the axes that come from one operand, and those from the other alone."""
    step, i = tape.steps[edge[0]], edge[1]
    contracted, batched = step.eqn.params["dimension_numbers"]
    ndims = [len(tape.shape(slot)) for slot in step.ins]
    start = len(batched[0])
    middle = ndims[0] - len(contracted[0])
    shape = tape.shape(step.outs[0])
    both = range(start, middle), range(middle, len(shape))
    return shape, both[i], both[1 - i]


def _with_masks(
    tape: Tape, e: Evidence, masks: list[tuple[Edge, np.ndarray]], count: int
) -> Iterator[Mistake]:
    edge = masks[-1][0]
    step = tape.steps[edge[0]]
    name = said_of(tape, e, step.ins[edge[1]])
    where = f"in the gradient of {name}, in the derivative of {place_of(tape, e, edge)}"
    rest = (
        "each of {} blocks (such as ranks) adds what {} rows pass back; what {} rows pass back is not added"
    )
    for said, other, own in (("its own", "the others'", True), ("the others'", "its own", False)):
        changes: dict[Edge, Change] = {x: partial(_masked, mask == own) for x, mask in masks}
        yield Mistake(
            f"the sum over all blocks is missing: {rest.format(count, said, other)}, {where}", changes
        )


def _masked(mask: np.ndarray, p: Passing) -> np.ndarray:
    kept = Passing(p.tape, p.edge, p.cotangent * mask, p.right, p.notes)
    return back_with(kept, p.operands[1 - p.edge[1]])
