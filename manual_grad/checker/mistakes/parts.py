"""Mistakes in statistics of a part, such as a partial normalisation's, and in those that are constants."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import PASSED_ON, Mistake, arriving, axes_said, made_by, said_of
from manual_grad.checker.tape import ELEMENTWISE, Changes, Edge, Passing, Slot, Tape, broadcast_axes

SUMS_UP_TO = 4  # of one part
NORMALISED_UP_TO = 5  # axes
VALUES_UP_TO = 24


@dataclass(frozen=True, eq=False)
class _Part:
    """A slice of which sums are taken.

    Attributes:
        cut: the slice.
        place: where it is in the whole.
        axes: the axes along which it is shorter.
        sums: the sums of its entries or squares, and what is subtracted from it before it is squared.
        spread: the broadcasts of what is computed from them to the whole's shape.
    """

    cut: Edge
    place: tuple[slice, ...]
    axes: tuple[int, ...]
    sums: list[tuple[Edge, int, Slot | None]]
    spread: list[Edge]


def parts_for_the_whole(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The gradient of a part's mean or mean of squares, given to the whole; sums over the part alone."""
    for part in filter(None, map(partial(_part, tape), tape.edges())):
        whole = tape.shape(tape.steps[part.cut[0]].ins[0])
        here = tape.shape(tape.steps[part.cut[0]].outs[0])
        n, p = (int(np.prod([shape[a] for a in part.axes])) for shape in (whole, here))
        x = said_of(tape, e, tape.steps[part.cut[0]].ins[0])
        of = f"the statistics are those of {p} of {n} entries along {axes_said(part.axes)} of {x}"
        for everywhere, of_all, summed in itertools.product((True, False), (False, True), (False, True)):
            wrong = [f"their gradient is given to all {n}"] if everywhere else []
            wrong += [f"it is divided by {n}, where {p} belongs"] if of_all else []
            wrong += [f"only the terms of the {p} are summed for it"] if summed else []
            if wrong:
                changes: Changes = {sums: _noted for sums, *_ in part.sums}
                share = p / n if of_all else 1.0
                changes = {**changes, part.cut: partial(_handed_on, part, everywhere, share)}
                some = dict.fromkeys(part.spread, partial(_summed_there, part.place)) if summed else {}
                yield Mistake(f"{of}, but {', and '.join(wrong)}, in the backward pass", {**changes, **some})


def _part(tape: Tape, cut: Edge) -> _Part | None:
    step = tape.steps[cut[0]]
    if step.name != "slice":
        return None
    whole, here = tape.shape(step.ins[0]), tape.shape(step.outs[0])
    axes = tuple(a for a, (m, n) in enumerate(zip(here, whole, strict=True)) if m != n)
    params = step.eqn.params
    cuts = zip(
        params["start_indices"], params["limit_indices"], params["strides"] or [1] * len(whole), strict=True
    )
    sums = [
        (edge, *found)
        for edge in tape.edges()
        if tape.steps[edge[0]].name == "reduce_sum"
        and set(axes) <= set(tape.steps[edge[0]].eqn.params["axes"])
        and (found := _squared(tape, tape.steps[edge[0]].ins[0], step.outs[0])) is not None
    ]
    later = _computed_from(tape, {tape.steps[at].outs[0] for (at, _), *_ in sums})
    spread = [
        edge
        for edge in tape.edges()
        if tape.steps[edge[0]].name in ("broadcast", "broadcast_in_dim")
        and tape.steps[edge[0]].ins[0] in later
        and tape.shape(tape.steps[edge[0]].outs[0]) == whole
        and set(axes) <= set(broadcast_axes(tape, tape.steps[edge[0]]))
    ]
    if not 0 < len(sums) <= SUMS_UP_TO or not spread:
        return None
    return _Part(cut, tuple(slice(*cut) for cut in cuts), axes, sums, spread)


def _squared(tape: Tape, summed: Slot, part: Slot) -> tuple[int, Slot | None] | None:
    """1 for a part itself, 2 for its square, with what is subtracted from it; None for anything else."""
    made = made_by(tape)
    if summed == part:
        return 1, None
    step = tape.steps[made[summed]] if summed in made else None
    power = step.eqn.params.get("y", 2) if step is not None and step.eqn is not None else 0
    if step is None or step.name not in ("square", "integer_pow", "mul") or power != 2:
        return None
    less = tape.steps[made[step.ins[0]]] if step.ins[0] in made else None
    if len(set(step.ins)) > 1 or less is None:
        return None
    if step.ins[0] == part:
        return 2, None
    return (2, less.ins[1]) if less.name == "sub" and less.ins[0] == part else None


def _computed_from(tape: Tape, slots: set[Slot]) -> set[Slot]:
    """What is computed from sums entry by entry."""
    found = set(slots)
    for step in tape.steps:
        if not found.isdisjoint(step.ins) and (step.name in ELEMENTWISE or step.name in PASSED_ON):
            found.update(step.outs)
    return found


def _noted(p: Passing) -> np.ndarray:
    p.notes["sum", p.edge] = p.cotangent
    return p.right


def _handed_on(part: _Part, everywhere: bool, share: float, p: Passing) -> np.ndarray:
    """The slice's gradient, and what the sums hand to the entries outside it."""
    x = np.asarray(p.operands[0], np.float64)
    inside = np.zeros(x.shape, bool)
    inside[part.place] = True
    found = p.right.copy()
    for total, power, mean in part.sums:
        axes = tuple(p.tape.steps[total[0]].eqn.params["axes"])
        d = np.expand_dims(p.notes.get(("sum", total), np.zeros(1)), axes)
        less = 0.0 if mean is None else np.asarray(p.tape.values[mean]).take([0], part.axes[0])
        given = d * (2 * (x - less) if power == 2 else np.ones_like(x))
        found += np.where(inside, (share - 1) * given, share * given if everywhere else 0.0)
    return found


def _summed_there(place: tuple[slice, ...], p: Passing) -> np.ndarray:
    some = np.zeros_like(p.cotangent)
    some[place] = p.cotangent[place]
    return some.sum(broadcast_axes(p.tape, p.tape.steps[p.edge[0]])).reshape(p.right.shape)


def constants_differentiated(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The terms of a mean and a variance subtracted, as in training, where both are given as constants."""
    known = tape.kept["known"]
    normal = [s for s in sorted(tape.active & known.keys()) if np.size(tape.values[s]) > 1]
    found = [s for s in normal if 1 < len(tape.shape(s)) <= NORMALISED_UP_TO]
    for slot in found[:VALUES_UP_TO]:
        shape = tape.shape(slot)
        for kept in range(len(shape)):
            axes = tuple(a for a in range(len(shape)) if a != kept)
            for some in dict.fromkeys((axes, (kept,))):
                said = (
                    f"the terms of the mean and the variance over {axes_said(some)} are subtracted, as if "
                    f"{said_of(tape, e, slot)} were normalised by statistics of its own (training), where "
                    "they are constants (such as running statistics)"
                )
                yield Mistake(said, arriving(tape, slot, partial(_as_in_training, slot, some)))


def _as_in_training(slot: Slot, axes: tuple[int, ...], p: Passing, d: np.ndarray) -> np.ndarray:
    h = np.asarray(p.tape.values[slot])
    return d - d.mean(axes, keepdims=True) - h * (d * h).mean(axes, keepdims=True)
