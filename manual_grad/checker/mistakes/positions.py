"""Mistakes in positions: an offset left out, other sample points or borders, a stride at the wrong index."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.constants import reached_from, with_altered
from manual_grad.checker.mistakes.mistake import PASSED_ON, PRODUCTS, Mistake, axes_said, said_of, users_of
from manual_grad.checker.tape import Changes, Edge, Passing, Slot, Tape, pull_of, pulling
from manual_grad.checker.truth import is_float, is_key

LINES_UP_TO = 12  # arrays of positions
OFFSETS_UP_TO = 8
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
            what = ", ".join(dict.fromkeys(said_of(tape, e, tape.steps[at].ins[i]) for at, i in products[:2]))
            for some in dict.fromkeys((tuple(products), tuple(edges))):
                if some:
                    change = partial(with_altered, slot, said, partial(_plus, start - own))
                    place = f", in the gradient of {what}" if what else ""
                    yield Mistake(f"{said}, in the backward pass{place}", dict.fromkeys(some, change))


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


# --- sample points ----------------------------------------------------------------------------------------


def samples_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Values interpolated at the sample points of another convention: aligned corners or half pixels."""
    found = [line for slot in _rounded(tape) if (line := _sampled(tape, slot)) is not None]
    for name, points in CONVENTIONS.items():
        every = []
        for slot, n, edges in found:
            x = np.asarray(tape.values[slot], np.float64)
            at = points(n, len(x))
            if not np.allclose(at, x):
                own = next(
                    (own for own, p in CONVENTIONS.items() if np.allclose(p(n, len(x)), x)), "other ones"
                )
                what = "the sample points of an interpolation"
                said = f"{what} are {name} in the backward pass, {own} in the function"
                change = partial(with_altered, slot, said, partial(_instead, at))
                every.append((said, dict.fromkeys(edges, change)))
        if len(every) > 1:
            yield Mistake(every[0][0], {edge: c for _, changes in every for edge, c in changes.items()})
        yield from (Mistake(said, changes) for said, changes in every)


def _rounded(tape: Tape) -> list[Slot]:
    """The undifferentiated positions that are rounded to indices."""
    found = []
    for step in tape.steps:
        slot = step.ins[0] if step.ins else -1
        to_index = step.name == "floor" or (
            step.name == "convert_element_type" and np.asarray(tape.values[step.outs[0]]).dtype.kind == "i"
        )
        if to_index and slot not in tape.active and is_float(tape.values[slot]):
            x = np.asarray(tape.values[slot])
            if x.ndim == 1 and len(x) > 2 and np.all(np.diff(x) >= 0) and np.any(x != np.round(x)):
                found.append(slot)
    return list(dict.fromkeys(found))


def _sampled(tape: Tape, slot: Slot) -> tuple[Slot, int, list[Edge]] | None:
    """Positions with the size of the axis that they point into, and what is computed with them."""
    reached = reached_from(tape, slot)
    edges = [edge for edge in tape.edges() if reached & set(tape.steps[edge[0]].ins)]
    for at, i in edges:
        step = tape.steps[at]
        if step.name == "gather" and i == 0 and step.ins[1] in reached:
            into = step.eqn.params["dimension_numbers"].start_index_map
            if len(into) == 1:
                return slot, tape.shape(step.ins[0])[into[0]], edges
    return None


CONVENTIONS: dict[str, Callable[[int, int], np.ndarray]] = {
    "those of aligned corners (0 to n − 1)": lambda n, m: np.linspace(0, n - 1, m),
    "half-pixel centres, (j + ½) n/m − ½": lambda n, m: np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1),
    "j n/m, without the half pixel": lambda n, m: np.clip(np.arange(m) * n / m, 0, n - 1),
}


def _instead(other: np.ndarray, x: np.ndarray) -> np.ndarray:
    return other.astype(x.dtype)


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


# --- borders ------------------------------------------------------------------------------------------------


def borders_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """What belongs to padding, added at the places of another kind of padding, or not at all."""
    found = [border for edge in tape.edges() if (border := _border(tape, edge)) is not None]
    for kind in BORDERS:
        some = [border for border in found if border[1] == kind]
        axes = sorted({axis for *_, axis, _, _ in some})
        for other, place in BORDERS.items():
            for chosen in dict.fromkeys([tuple(axes), *((axis,) for axis in axes)]) if axes else ():
                changes: Changes = {
                    edge: partial(_placed_as, axis, at_end, places, place)
                    for edge, _, axis, at_end, places in some
                    if axis in chosen
                }
                if other != kind:
                    yield Mistake(
                        f"the border is padded {kind} in the function, but its gradient is added as "
                        "for padding "
                        f"{other} in the backward pass, along {axes_said(chosen)}",
                        changes,
                    )
            lost = f"the border is padded {kind} in the function, but the gradient of the padding is left out"
            if axes:
                yield Mistake(f"{lost} in the backward pass", {edge: _none for edge, *_ in some})


# How far inside the border an entry of the padding, j places outside, has its origin.
BORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "by reflection (without the edge entry twice)": lambda j: j,
    "with the edge entry": lambda j: 0 * j,
    "symmetrically (the edge entry twice)": lambda j: j - 1,
}


def _border(tape: Tape, edge: Edge) -> tuple[Edge, str, int, bool, np.ndarray] | None:
    """For a slice that pads what it is taken from: the kind, the axis, the side, and how far "
    "outside it is."""
    step, users = tape.steps[edge[0]], users_of(tape)
    if step.name != "slice":
        return None
    slot, reverse = step.outs[0], set[int]()
    while len(users.get(slot, ())) == 1:
        user = tape.steps[users[slot][0][0]]
        if user.name == "rev":
            reverse ^= set(user.eqn.params["dimensions"])
        elif user.name not in PASSED_ON - {"transpose", "slice", "neg"} or _repeats(tape, slot, user.outs[0]):
            break
        slot = user.outs[0]
    else:
        return None
    if user.name != "concatenate" or step.ins[0] not in user.ins:
        return None
    axis, parent = user.eqn.params["dimension"], user.ins.index(step.ins[0])
    at_end = user.ins.index(slot) > parent
    n, p = tape.shape(step.ins[0])[axis], tape.shape(step.outs[0])[axis]
    start = int(step.eqn.params["start_indices"][axis])
    order = np.arange(p)[::-1] if axis in reverse else np.arange(p)
    outside = np.empty(p, int)
    outside[order] = np.arange(1, p + 1) if at_end else np.arange(p, 0, -1)
    inside = n - 1 - (start + np.arange(p)) if at_end else start + np.arange(p)
    for kind, place in BORDERS.items():
        if np.array_equal(inside, place(outside)):
            return edge, kind, axis, at_end, outside
    return None


def _repeats(tape: Tape, slot: Slot, out: Slot) -> bool:
    return np.size(tape.values[slot]) != np.size(tape.values[out])


def _placed_as(axis: int, at_end: bool, outside: np.ndarray, place: Callable, p: Passing) -> np.ndarray:
    back = np.zeros_like(p.right)
    to, d = np.moveaxis(back, axis, 0), np.moveaxis(p.cotangent, axis, 0)
    for i, inside in enumerate(place(outside)):
        to[len(to) - 1 - inside if at_end else inside] += d[i]
    return back


def _none(p: Passing) -> np.ndarray:
    return np.zeros_like(p.right)
