"""Mistakes in a loop's states: another step's operand, a state after its update, a part added too late."""

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.iterations import Loop, loop_of
from manual_grad.checker.mistakes.mistake import (
    PRODUCTS,
    Mistake,
    back_with,
    made_by,
    place_of,
    said_of,
    users_of,
)
from manual_grad.checker.tape import ELEMENTWISE, Change, Edge, Passing, Slot, Tape, computed

EDGES_UP_TO = 40  # products of one step
STATES_UP_TO = 6
LATE_UP_TO = 160  # mistakes
DEEPEST = 3  # steps between a state and the place where it is used too early
SLOPED = ("logistic", "tanh", "exp", "sin", "cos", "square", "softplus")
OTHERS = {1: "before", -1: "after"}  # iterations are counted from the last one


# --- another step's operand -------------------------------------------------------------------------------


def operands_of_other_steps(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A product's other factor, such as a gate, taken from the step before or after, in all steps."""
    loop = loop_of(tape)
    if loop is None:
        return
    for edge in _products(tape, loop)[:EDGES_UP_TO]:
        other = tape.steps[edge[0]].ins[1 - edge[1]]
        if loop.slots[1].get(other, other) == other:
            continue
        name, place = said_of(tape, e, other), place_of(tape, e, edge)
        for (by, which), end in itertools.product(OTHERS.items(), (0.0, None)):
            changes: dict[Edge, Change] = {}
            for k, slots in enumerate(loop.slots):
                at = loop.steps[k].get(edge[0])
                if at is not None:
                    there = loop.slots[k + by].get(other) if 0 <= k + by < len(loop.slots) else None
                    changes[at, edge[1]] = partial(_by_value, slots.get(other, other), there, end)
            yield Mistake(
                f"{name} of the step {which} is used for this step's own in the derivative of {place}, "
                f"in all {len(changes)} steps",
                changes,
            )


def _by_value(own: Slot, there: Slot | None, end: float | None, p: Passing) -> np.ndarray:
    value = np.asarray(p.tape.values[own if there is None else there])
    return back_with(p, value if there is not None or end is None else 0 * value)


def _products(tape: Tape, loop: Loop) -> list[Edge]:
    """The products of the last iteration, through whose operands cotangents flow."""
    return [x for x in tape.edges() if x[0] in loop.last and tape.steps[x[0]].name in PRODUCTS]


# --- a state before or after its update ---------------------------------------------------------------------


def states_after_updates(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A factor or a slope computed from a state after its update instead of before it, or vice versa."""
    loop = loop_of(tape)
    if loop is None:
        return
    for before, after in _states(tape, loop)[:STATES_UP_TO]:
        for own, other in ((before, after), (after, before)):
            said = ("after its update (h_t)", "before its update (h_(t−1))")[own == after]
            belongs = ("before it (h_(t−1))", "after it (h_t)")[own == after]
            name = said_of(tape, e, after)
            for factor, chain in _computed_from(tape, loop, own).items():
                edges = [x for x in _products(tape, loop) if tape.steps[x[0]].ins[1 - x[1]] == factor]
                made = made_by(tape).get(factor, -1)
                if factor != own and tape.steps[made].name in SLOPED:
                    edges.append((made, 0))
                alone = [[x] for x in edges] if len(edges) > 1 else []
                for some in [edges, *alone] if edges else []:
                    by_step = [
                        {
                            (mine[at], i): partial(_from_another, loop, k, own, other, factor, tuple(chain))
                            for at, i in some
                            if at in mine
                        }
                        for k, mine in enumerate(loop.steps)  # the first step last
                    ]
                    place = " and ".join(place_of(tape, e, x) for x in some[:2])
                    whose = "" if factor == own else f" in {said_of(tape, e, factor)}"
                    phrase = (
                        f"the state {name} {said} is used{whose}, where that {belongs} belongs, in the "
                        f"derivative of {place}, in all {len(loop.steps)} steps"
                    )
                    yield Mistake(phrase, {x: c for step in by_step for x, c in step.items()})
                    yield Mistake(
                        f"{phrase} but the first", {x: c for step in by_step[:-1] for x, c in step.items()}
                    )


def _states(tape: Tape, loop: Loop) -> list[tuple[Slot, Slot]]:
    """The last iteration's states before and after it."""
    made, back = made_by(tape), {mine: last for last, mine in loop.slots[1].items()}
    found: dict[tuple[Slot, Slot], None] = {}
    for at in loop.last:
        for slot in tape.steps[at].ins:
            after = back.get(slot, -1)
            carried = loop.home.get(made.get(slot, -1)) == 1 and made.get(after, -1) in loop.last
            if carried and tape.shape(after) == tape.shape(slot):
                found[slot, after] = None
    reset = [
        (tape.steps[at].outs[0], after)
        for before, after in found
        for at, i in users_of(tape).get(before, ())
        if at in loop.last and tape.steps[at].name in ("mul", "select_n")
        if all(s == before or s not in tape.active for s in tape.steps[at].ins)
    ]
    return [*found, *reset]


def _computed_from(tape: Tape, loop: Loop, slot: Slot) -> dict[Slot, list[int]]:
    """The last iteration's values that depend on one of them, and the steps in between; itself first."""
    found: dict[Slot, list[int]] = {slot: []}
    for at in loop.last:
        step = tape.steps[at]
        above = [found[s] for s in step.ins if s in found]
        if above and len(step.outs) == 1:
            found[step.outs[0]] = sorted({at, *itertools.chain.from_iterable(above)})
    return found


def _from_another(
    loop: Loop, k: int, own: Slot, other: Slot, factor: Slot, chain: tuple[int, ...], p: Passing
) -> np.ndarray:
    """What one iteration passes on if a factor is computed from another state."""
    mine = loop.slots[k]
    values = {own: np.asarray(p.tape.values[mine.get(other, other)])}
    for at in chain:
        step = p.tape.steps[at]
        ins = [values[s] if s in values else p.tape.values[mine.get(s, s)] for s in step.ins]
        values[step.outs[0]] = (
            np.broadcast_to(ins[0], p.tape.shape(step.outs[0]))
            if step.eqn is None
            else np.asarray(computed(step.eqn, ins)[0])
        )
    step = p.tape.steps[p.edge[0]]
    if step.name in PRODUCTS:
        return back_with(p, values[factor])
    written = ELEMENTWISE[step.name]
    assert written is not None
    inner = p.tape.steps[chain[-1]].ins[0]
    x = values.get(inner, np.asarray(p.tape.values[mine.get(inner, inner)]))
    return p.cotangent * written([x], values[factor], step, 0)


# --- a cotangent added too late -----------------------------------------------------------------------------


def cotangents_added_late(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A part of a value's cotangent that is missing where it is passed on once, or is there alone."""
    return itertools.islice(_added_late(tape, e), LATE_UP_TO)


def _added_late(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    loop, users, made = loop_of(tape), users_of(tape), made_by(tape)
    for slot in sorted(tape.active, reverse=True):
        at = made.get(slot)
        if at is None or (loop is not None and at not in loop.last):
            continue
        used = users.get(slot, ())
        mine = [x for x in used if loop is None or x[0] in loop.last]
        more = loop is not None and len(users.get(loop.slots[1].get(slot, slot), ())) > 1
        if not mine or (len(used) < 2 and not more):
            continue
        ways = list(_down(tape, at, loop))
        for part, way in itertools.product(mine[:4], ways if len(ways) > 1 else ()):
            what = f"what {said_of(tape, e, slot)} gets back through {place_of(tape, e, part)}"
            place = f"what is passed on in {place_of(tape, e, way[-1])}"
            note = partial(_noted, slot)
            yield Mistake(
                f"added too late, after it is used: {what} is missing in {place}",
                {part: partial(note, True), way[-1]: partial(_with_part, slot, tuple(way), -1.0)},
            )
            yield Mistake(
                f"added too late, after it is used: {what} is in {place} alone (such as an exclusive sum)",
                {part: partial(note, False), way[-1]: partial(_with_part, slot, tuple(way), 1.0)},
            )


def _down(tape: Tape, at: int, loop: Loop | None) -> Iterator[list[Edge]]:
    """The operands below a step through which its cotangent passes entry by entry."""
    made, near = made_by(tape), [[(at, i)] for i in range(len(tape.steps[at].ins))]
    for way in near:
        k, i = way[-1]
        step = tape.steps[k]
        slot = step.ins[i] if i < len(step.ins) else -1
        if slot not in tape.active or step.name not in ELEMENTWISE:
            continue
        yield way
        below = made.get(slot)
        inside = below is not None and (loop is None or below in loop.last)
        if below is not None and inside and len(way) < DEEPEST:
            near.extend([*way, (below, j)] for j in range(len(tape.steps[below].ins)))


def _noted(slot: Slot, kept: bool, p: Passing) -> np.ndarray:
    p.notes["late", slot] = p.right
    return p.right if kept else np.zeros_like(p.right)


def _with_part(slot: Slot, way: tuple[Edge, ...], sign: float, p: Passing) -> np.ndarray:
    part = p.notes["late", slot]
    for edge in way:
        slope = p.tape.slope(edge)
        part = part * (1.0 if slope is None else slope)
    return p.right + sign * part


# --- what is stopped ----------------------------------------------------------------------------------------


def stops_ignored(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A cotangent that flows through ``stop_gradient``, such as a state's at the end of a chunk."""
    found: dict[object, list[int]] = {}
    for at, step in enumerate(tape.steps):
        if step.name == "stop_gradient" and step.ins[0] in tape.active:
            found.setdefault(step.source or at, []).append(at)
    groups = [*([list(itertools.chain(*found.values()))] if len(found) > 1 else []), *found.values()]
    single = [[at] for some in found.values() if len(some) > 1 for at in some]
    for some in [*groups, *single][:LATE_UP_TO]:
        names = " and ".join(dict.fromkeys(said_of(tape, e, tape.steps[at].ins[0]) for at in some))
        yield Mistake(
            f"stop_gradient is ignored: a gradient flows back into {names}, which the function stops there "
            "(such as a state that is detached at the end of a chunk of truncated BPTT)",
            {},
            through=tuple(some),
        )
