"""Mistakes in positions: an offset left out, one place for all, a stride at the wrong index."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.constants import reached_from, with_altered
from manual_grad.checker.mistakes.mistake import PRODUCTS, Mistake, said_of
from manual_grad.checker.tape import Changes, Edge, Passing, Slot, Tape, pull_of, pulling
from manual_grad.checker.truth import is_float, is_key

LINES_UP_TO = 12  # arrays of positions
OFFSETS_UP_TO = 8
COSINES_UP_TO = 8  # pairs of arrays
STARTS_UP_TO = 512  # the offset of positions, plus 1
WINDOWS_UP_TO = 64
ENTRIES_UP_TO = 2**14  # of what windows are added to
Alteration = Callable[[np.ndarray], np.ndarray]


# --- an offset --------------------------------------------------------------------------------------------


def offsets_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Positions that start at another number in the backward pass, such as those after a cached prefix."""
    lines = list(_lines(tape))[:LINES_UP_TO]
    starts = {float(np.min(tape.values[slot])) for slot in lines}
    sizes = {len(np.ravel(tape.values[slot])) for slot in lines}
    apart = {float(a - b) for a, b in itertools.permutations(sizes, 2)}
    for slot in lines:
        x = np.asarray(tape.values[slot])
        own = float(x.min())
        reached = reached_from(tape, slot)
        edges = [edge for edge in tape.edges() if reached & set(tape.steps[edge[0]].ins)]
        products = [edge for edge in edges if tape.steps[edge[0]].name in PRODUCTS]
        offsets = sorted(
            {0.0, own - 1, own + 1, *starts, *apart} - {own}, key=lambda o: (o != 0, abs(o - own))
        )
        for start in offsets[:OFFSETS_UP_TO]:
            if start == 0:
                said = (
                    f"the offset {own:g} of the positions is left out: they are counted from 0, not {own:g}"
                )
            else:
                said = f"the positions are counted from {start:g}, where they start at {own:g}"
            for what, some in [*_by_leaf(tape, e, products), *([("", edges)] if edges else [])]:
                change = partial(with_altered, slot, said, partial(_plus, start - own))
                place = f", in the gradient of {what}" if what else ""
                yield Mistake(f"{said}, in the backward pass{place}", dict.fromkeys(some, change))


def _by_leaf(tape: Tape, e: Evidence, edges: Sequence[Edge]) -> list[tuple[str, list[Edge]]]:
    """The edges into values that are computed from one argument alone, by that argument; then all of them."""
    if "leaves above" not in tape.kept:
        above: dict[Slot, frozenset[Slot]] = {slot: frozenset([slot]) for slot in tape.leaves}
        for step in tape.steps:
            met = frozenset[Slot]().union(*(above.get(slot, frozenset()) for slot in step.ins))
            above.update(dict.fromkeys(step.outs, met))
        tape.kept["leaves above"] = above
    found: dict[frozenset[Slot], list[Edge]] = {}
    for at, i in edges:
        found.setdefault(tape.kept["leaves above"].get(tape.steps[at].ins[i], frozenset()), []).append(
            (at, i)
        )
    alone = [(said_of(tape, e, next(iter(of))), some) for of, some in found.items() if len(of) == 1]
    every = " and ".join(name for name, _ in alone)
    return alone if len(found) == 1 else [*alone, (every, list(edges))]


def rotations_misplaced(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Cosines and sines of positions, as in RoPE, at others: without their offset, or one further."""
    for pair in itertools.islice(_cosines(tape), COSINES_UP_TO):
        angles = np.arctan2(*(np.asarray(tape.values[slot], np.float64) for slot in pair[::-1]))
        axis = _axis_of_positions(angles)
        if axis is None:
            continue
        first, step = np.take(angles, [0], axis), np.diff(np.take(angles, [0, 1], axis), axis=axis)
        own = _start(first, step)
        counted = (
            f"the offset{own} of the positions is left out: they are counted from 0"
            f"{own and f', not{own}'}, in cos and sin"
        )
        edges = [
            (edge, which)
            for which, slot in enumerate(pair)
            for reached in [reached_from(tape, slot)]
            for edge in tape.edges()
            if reached & set(tape.steps[edge[0]].ins)
        ]
        for said, shift in (
            (counted, first),
            ("cos and sin are those of the next position", -step),
            ("cos and sin are those of the previous position", step),
        ):
            changes = {
                edge: partial(
                    with_altered, pair[which], f"{said} {pair}", partial(_turned, angles - shift, which)
                )
                for edge, which in edges
            }
            if np.any(shift) and np.any(step):
                for what, some in _by_leaf(tape, e, list(changes)):
                    yield Mistake(
                        f"{said}, in the backward pass, in the gradient of {what}",
                        {edge: changes[edge] for edge in some},
                    )


def _turned(angles: np.ndarray, which: int, x: np.ndarray) -> np.ndarray:
    return np.sin(angles) if which else np.cos(angles)


def _cosines(tape: Tape) -> Iterator[tuple[Slot, Slot]]:
    """The undifferentiated arrays that are the cosines and sines of the same angles."""
    arrays = [
        slot
        for slot, value in enumerate(tape.values)
        if slot not in tape.active and is_float(value) and 1 < np.size(value) <= ENTRIES_UP_TO
        if np.max(np.abs(np.asarray(value))) <= 1 and np.ndim(value) > 1
    ]
    for one, other in itertools.combinations(arrays, 2):
        x, y = (np.asarray(tape.values[slot]) for slot in (one, other))
        if x.shape == y.shape and np.allclose(x**2 + y**2, 1, atol=1e-6):
            yield (one, other) if np.sum(x) >= np.sum(y) else (other, one)
            yield (other, one) if np.sum(x) >= np.sum(y) else (one, other)


def _axis_of_positions(angles: np.ndarray) -> int | None:
    """The axis along which angles advance by equal steps; None if there is none."""
    for axis in sorted(range(angles.ndim), key=lambda axis: -angles.shape[axis]):
        steps = np.diff(angles, axis=axis)
        if angles.shape[axis] > 2 and np.allclose(np.exp(1j * (steps - steps.take([0], axis))), 1, atol=1e-5):
            return axis
    return None


def _start(first: np.ndarray, step: np.ndarray) -> str:
    """The number of steps in the first angles, if it is the same for all."""
    for start in range(1, STARTS_UP_TO):
        if np.allclose(np.exp(1j * (first - start * step)), 1, atol=1e-5):
            return f" {start}"
    return ""


def _lines(tape: Tape) -> Iterator[Slot]:
    """The undifferentiated arrays of consecutive numbers."""
    for slot, value in enumerate(tape.values):
        if slot in tape.active or is_key(value) or np.ndim(value) != 1 or np.size(value) < 2:
            continue
        x = np.asarray(value)
        if x.dtype.kind in "iuf" and np.all(np.diff(x) == 1):
            yield slot


def _plus(by: float, x: np.ndarray) -> np.ndarray:
    return x + np.asarray(by, x.dtype)


# --- an index -----------------------------------------------------------------------------------------------


def places_taken_for_one(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The last or first place of an axis for each index, such as the last step for each sequence's own."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name != "gather" or edge[1] or step.ins[1] in tape.active:
            continue
        index, into = (
            np.asarray(tape.values[step.ins[1]]),
            step.eqn.params["dimension_numbers"].start_index_map,
        )
        for column, axis in enumerate(into):
            n = tape.shape(step.ins[0])[axis] - step.eqn.params["slice_sizes"][axis]
            for which, at in (("last", n), ("first", 0)):
                if index.shape[-1] != len(into) or np.ptp(index[..., column]) == 0:
                    continue
                other = index.copy()
                other[..., column] = at
                yield Mistake(
                    f"a wrong index: the {which} place along axis {axis} of "
                    f"{said_of(tape, e, step.ins[0])} gets "
                    "the gradient of every one in the backward pass, where each has an index of "
                    "its own (such "
                    "as the last step of all for each sequence's last valid one)",
                    {edge: partial(_picked_at, other)},
                )


def _picked_at(index: np.ndarray, p: Passing) -> np.ndarray:
    step = p.tape.steps[p.edge[0]]
    return np.asarray(pulling(step, [p.operands[0], index], [0])(np.asarray(p.cotangent))[0])


# --- windows that are added ---------------------------------------------------------------------------------


def windows_misplaced(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Windows added at multiples of a stride, read with the stride at the tap, or without it."""
    groups: dict[tuple, list[tuple[Edge, np.ndarray]]] = {}
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name in ("scatter-add", "scatter_add") and edge[1] == 2:
            shape = tape.shape(step.outs[0])
            if np.prod(shape) <= ENTRIES_UP_TO and len(groups) < WINDOWS_UP_TO:
                numbers = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
                index = pull_of(tape, edge[0], [numbers])[2].astype(np.intp)
                groups.setdefault((shape, index.shape), []).append((edge, index))
    for (shape, _), found in groups.items():
        for axis in range(len(shape)) if len(found) > 1 else ():
            yield from _misplaced(tape, e, shape, axis, found)


def _misplaced(
    tape: Tape, e: Evidence, shape: tuple[int, ...], axis: int, found: list[tuple[Edge, np.ndarray]]
) -> Iterator[Mistake]:
    along = [np.unravel_index(index, shape)[axis] for _, index in found]
    starts = [int(x.min()) for x in along]
    stride = math.gcd(*(b - a for a, b in itertools.pairwise(starts)))
    if max(int(np.ptp(x)) for x in along) == 0 or not stride:
        return
    own = f"{stride} i + k" if stride != 1 else "i + k"
    others: dict[str, Callable[[int, np.ndarray], np.ndarray]] = {
        f"i − k for {own}": lambda a, x: 2 * a - x,
        f"{own} + 1 for {own} (off by one)": lambda a, x: x + 1,
        f"{own} − 1 for {own} (off by one)": lambda a, x: x - 1,
    }
    if stride > 1:
        first = {
            f"i + {stride} k for {own}: the stride is applied to the tap, not to the position": lambda a, x: (
                (a - starts[0]) // stride + starts[0] + stride * (x - a)
            ),
            f"i + k for {own}: the stride is ignored": lambda a, x: (
                x - a + (a - starts[0]) // stride + starts[0]
            ),
        }
        others = first | others
    for said, other in others.items():
        changes: Changes = {}
        for (edge, index), x, start in zip(found, along, starts, strict=True):
            place = list(np.unravel_index(index, shape))
            place[axis] = other(start, x)
            there = (place[axis] >= 0) & (place[axis] < shape[axis])
            place[axis] = np.clip(place[axis], 0, shape[axis] - 1)
            changes = {**changes, edge: partial(_read_at, np.ravel_multi_index(place, shape), there)}
        yield Mistake(
            f"a wrong index: the output is read at {said}, along axis {axis} in the backward pass", changes
        )


def _read_at(index: np.ndarray, there: np.ndarray, p: Passing) -> np.ndarray:
    return np.where(there, p.cotangent.ravel()[index], 0.0)
