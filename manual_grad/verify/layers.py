"""Mistakes between layers: the slope of another layer's activation, values recomputed without a mask."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from manual_grad.verify.evidence import Evidence
from manual_grad.verify.factors import ends_of
from manual_grad.verify.plants import (
    MASKS,
    PASSED_ON,
    PRODUCTS,
    SAID,
    Plant,
    back_with,
    left_out,
    made_by,
    place_of,
    said_of,
    stop,
    users_of,
)
from manual_grad.verify.tape import MEANINGLESS, Changes, Edge, Passing, Slot, Tape
from manual_grad.verify.truth import is_float

SIMPLE = {*MEANINGLESS, *PASSED_ON, "mul", "div", "reduce_precision"}
Slope = Callable[[Tape], Any]  # at a point
MOST_ALIKE = 8  # activations of one kind that are held against each other


@dataclass(frozen=True, eq=False)
class _Activation:
    """What leads from one value to another of the same shape, entry by entry, and its slope."""

    start: Slot
    end: Slot
    steps: tuple[str, ...]
    slope: np.ndarray

    def slope_on(self, tape: Tape) -> np.ndarray:
        """Its slope at another point."""
        key = ("activation", self.start, self.end)
        if key not in tape.kept:
            found = _between(tape, users_of(tape), self.start, self.end)
            tape.kept[key] = np.ones(tape.shape(self.end)) if found is None else found.slope
        return tape.kept[key]

    @property
    def name(self) -> str:
        """What decides its slope."""
        telling = {SAID.get(name, name) for name in self.steps if name not in SIMPLE}
        return next(iter(telling)) if len(telling) == 1 else "the activation" if telling else "zeros and ones"

    @property
    def is_mask(self) -> bool:
        """Whether it chooses, entry by entry, between two slopes."""
        return all(name in MASKS or name in SIMPLE for name in self.steps)


def slopes_of_another_layer(tape: Tape, e: Evidence) -> Iterator[Plant]:
    """An activation's mask or slope taken from another one, for all that flows back or for one operand."""
    groups: dict[Any, list[_Activation]] = {}
    for found in sorted(_activations(tape), key=lambda activation: len(activation.steps)):
        groups.setdefault((found.steps, found.slope.shape), []).append(found)
    for group in groups.values():
        for mine in group[:MOST_ALIKE]:
            if mine.is_mask:
                yield Plant(
                    f"mask taken from the wrong place (of {mine.name}): where the gradient is positive",
                    _instead(tape, mine, None),
                )
            others = [other for other in group[:MOST_ALIKE] if not np.allclose(other.slope, mine.slope)]
            for other in others:
                phrase = (
                    f"mask taken from the wrong layer (of {mine.name})"
                    if mine.is_mask
                    else f"the derivative of {mine.name} is taken at another layer's values"
                )
                yield Plant(phrase, _instead(tape, mine, other.slope_on))
                yield from (Plant(phrase, changes) for changes in _stages(tape, mine, other.slope_on))
            if len(mine.steps) > 1:
                for changes in _stages(tape, mine, lambda tape: 1.0):
                    *_, edge = changes
                    place = place_of(tape, e, edge)
                    yield Plant(
                        f"the derivative of {mine.name} is left out of what flows back through {place}",
                        changes,
                    )


def _activations(tape: Tape) -> Iterator[_Activation]:
    users = users_of(tape)
    for slot in sorted(tape.active & users.keys(), reverse=True):
        if np.size(tape.values[slot]) > 1:
            for end in ends_of(tape, users, slot)[:3]:
                found = _between(tape, users, slot, end)
                if found is not None:
                    yield found


def _between(tape: Tape, users: dict[Slot, list[Edge]], start: Slot, end: Slot) -> _Activation | None:
    """What leads from one slot to another; None where that is no activation."""
    gots: dict[Slot, Any] = {start: 1.0}
    names, masked = [], False
    pending = {at for at, _ in users[start]}
    while end not in gots:
        at = min(pending)
        pending.discard(at)
        step = tape.steps[at]
        mine = [i for i, slot in enumerate(step.ins) if slot in gots and slot in tape.active]
        gots[step.outs[0]] = sum(gots[step.ins[i]] * tape.slope((at, i)) for i in mine)
        names.append(step.name)
        masked |= step.name == "mul" and any(is_mask(tape.values[slot]) for slot in step.ins)
        pending |= {user for user, _ in users.get(step.outs[0], ())}
    if not masked and not any(name not in SIMPLE for name in names):
        return None
    return _Activation(start, end, tuple(names), np.asarray(gots[end]))


def is_mask(x: Any) -> bool:
    """Zeros, and one other number: a mask, or one of dropout."""
    if not is_float(x) or np.size(x) < 2:
        return False
    values = np.unique(x)
    return len(values) == 2 and bool(values[0] == 0 or values[1] == 0)


def _instead(tape: Tape, mine: _Activation, slope: Slope | None) -> Changes:
    """Another slope for an activation's."""
    end = (made_by(tape)[mine.end], -1)
    first, *more = users_of(tape)[mine.start]
    return {end: partial(_remembered, end), first: partial(_times, end, slope), **stop(*more)}


def _stages(tape: Tape, mine: _Activation, slope: Slope) -> Iterator[Changes]:
    """Another slope in what the product before an activation hands to one of its operands alone."""
    made, slot = made_by(tape), mine.start
    while slot in made and tape.steps[made[slot]].name not in PRODUCTS:
        step = tape.steps[made[slot]]
        same = [s for s in step.ins if s in tape.active and tape.shape(s) == tape.shape(slot)]
        if step.name not in ("add", "convert_element_type") or not same:
            return
        slot = same[0]
    if slot not in made:
        return
    end, product = (made[mine.end], -1), made[slot]
    operands = [i for i, s in enumerate(tape.steps[product].ins) if s in tape.active]
    if len(operands) > 1:
        for i in operands:
            yield {end: partial(_remembered, end), (product, i): partial(_handed, end, slope)}


def _remembered(edge: Edge, p: Passing) -> np.ndarray:
    p.notes[edge] = p.cotangent
    return p.right


def _times(edge: Edge, slope: Slope | None, p: Passing) -> np.ndarray:
    d = p.notes[edge]
    return d * (d > 0) if slope is None else d * slope(p.tape)


def _handed(edge: Edge, slope: Slope, p: Passing) -> np.ndarray:
    earlier = Passing(p.tape, p.edge, p.notes[edge] * slope(p.tape), p.right, p.notes)
    return back_with(earlier, p.operands[1 - p.edge[1]])


def softmaxes_mistaken(tape: Tape, e: Evidence) -> Iterator[Plant]:
    """What comes back to logits, p − y up to a factor: y not subtracted, or 1 − y in its place."""
    known = e.kept["right"][1]
    made = made_by(tape)
    for slot in tape.active & made.keys():
        if not np.ndim(tape.values[slot]) or slot not in known:
            continue
        for axis in range(np.ndim(tape.values[slot])):
            if _of_labels(np.asarray(tape.values[slot]), known[slot][0], axis) is not None:
                edge = (made[slot], -1)
                swapped = "the two cases swapped: p at the true class, p − 1 elsewhere"
                yield Plant(swapped, {edge: partial(_relabelled, slot, axis, True)})
                lost = "the one-hot labels are not subtracted: p where p − y belongs"
                yield Plant(lost, {edge: partial(_relabelled, slot, axis, False)})


def _of_labels(z: np.ndarray, d: np.ndarray, axis: int) -> tuple[np.ndarray, ...] | None:
    """p, y and the factor c of a gradient c(p − y) by logits z; None where it is none."""
    if z.shape[axis] < 3 or not np.all(np.isfinite(z)):
        return None
    p = np.exp(z - z.max(axis, keepdims=True))
    p /= p.sum(axis, keepdims=True)
    c = np.median(d / p, axis, keepdims=True)
    y = (np.abs(d - c * p) > 1e-6 * np.abs(c)).astype(float)
    fits = np.all(y.sum(axis) == 1) and np.allclose(d, c * (p - y), rtol=1e-6, atol=1e-9 * np.abs(d).max())
    return (p, y, c) if fits and np.any(d) else None


def _relabelled(slot: Slot, axis: int, swapped: bool, passing: Passing) -> np.ndarray:
    found = _of_labels(np.asarray(passing.tape.values[slot]), passing.right, axis)
    if found is None:
        raise ValueError
    p, y, c = found
    return c * (p - 1 + y) if swapped else c * p


def masks_left_out_of_values(tape: Tape, e: Evidence) -> Iterator[Plant]:
    """Values recomputed on the way back without their mask, such as attention's; its slope kept or not."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if not masking(tape, edge):
            continue
        name = {"select_n": "where", "mul": "zeros and ones"}.get(step.name, "what is added")
        masked = said_of(tape, e, step.ins[edge[1]])
        phrase = f"missing mask (of {name}): left out where {masked} is computed again"
        without: Changes = {edge: left_out}
        yield Plant(f"{phrase}, and on the way back", without, of=edge)
        yield Plant(phrase, {}, of=edge)


def masking(tape: Tape, edge: Edge) -> bool:
    """Whether a step puts a mask on its operand: by where, by zeros and ones, by adding −∞ or nearly so."""
    step = tape.steps[edge[0]]
    others = [np.asarray(tape.values[s]) for s in step.ins if s not in tape.active]
    if step.name == "select_n":
        chosen = np.asarray(tape.values[step.ins[0]])
        return bool(np.any(chosen != chosen.flat[0])) and len(others) == 2
    if step.name == "mul":
        return any(is_mask(other) for other in others)
    large = step.name == "add" and others and is_float(others[0])
    return bool(large and np.any(others[0] < -1e3) and np.any(others[0] == 0))
