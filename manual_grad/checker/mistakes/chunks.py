"""Mistakes in loops whose backward pass goes chunk by chunk: the state that is carried between the chunks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.iterations import Loop, loop_of
from manual_grad.checker.mistakes.mistake import Mistake, back_with, made_by, place_of, said_of, users_of
from manual_grad.checker.tape import ELEMENTWISE, Changes, Edge, Passing, Slot, Tape

CHUNKS_UP_TO = 17  # steps, less 1
EARLY = "a running state is updated too early"
WAY_UP_TO = 6  # steps that a state passes in an iteration


@dataclass(frozen=True, eq=False)
class _Running:
    """A running sum, the first step first.

    Attributes:
        states: the state after each step.
        ways: the operands that the previous state passes in each step; none in the first step if it is 0.
        added: the operands through which each step adds to the state.
    """

    states: list[Slot]
    ways: list[list[Edge]]
    added: list[Edge]


def states_too_early(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A running sum, or its cotangent, updated with a chunk before that chunk uses it."""
    users = users_of(tape)
    for running in running_in(tape):
        count = len(running.states)
        name = said_of(tape, e, running.states[-1])
        for size in range(2, min(count, CHUNKS_UP_TO)):
            for phase in range(size) if count % size else (0,):
                chunks = [(t - phase) // size for t in range(count)]
                said = f"of a chunk of {size} steps before that chunk uses it, not after it"
                twice = "(the chunk counts twice, also its later steps)"
                back: Changes = {
                    edge: partial(_cotangent_too_early, running, chunks, t)
                    for t, edge in enumerate(running.added)
                }
                yield Mistake(
                    f"{EARLY}: the cotangent of {name} gets the part {said} {twice}",
                    back,
                )
                states: Changes = {
                    (at, i): partial(_state_too_early, running, chunks, t)
                    for t, slot in enumerate(running.states)
                    for at, j in users.get(slot, ())
                    for i in (0, 1)
                    if tape.steps[at].name == "dot_general" and i == 1 - j
                }
                if states:
                    yield Mistake(f"{EARLY}: {name} gets the part {said}", states)


def running_in(tape: Tape) -> list[_Running]:
    """The running sums of a loop."""
    loop, made = loop_of(tape), made_by(tape)
    if loop is None:
        return []
    if "running" not in tape.kept:
        found: list[_Running] = []
        for state in _carried(tape, loop):
            at = made[state]
            if tape.steps[at].name != "add" or at not in loop.last:
                continue
            for i in (0, 1):
                running = _back_from(tape, loop, state, i)
                if running is not None:
                    found.append(running)
        tape.kept["running"] = found
    return tape.kept["running"]


def _carried(tape: Tape, loop: Loop) -> list[Slot]:
    """The values of the last iteration that correspond to one's state for the next one."""
    made = made_by(tape)
    found: dict[Slot, None] = {}
    back = {mine: last for last, mine in loop.slots[1].items()}
    for at in loop.last:
        for slot in tape.steps[at].ins:
            if loop.home.get(made.get(slot, -1)) == 1 and back.get(slot) in made:
                found[back[slot]] = None
    return list(found)


def _back_from(tape: Tape, loop: Loop, state: Slot, i: int) -> _Running | None:
    """The running sum that ends in a state, whose steps add operand 1 − i to what comes from the last one."""
    made = made_by(tape)
    states, ways, added = [state], list[list[Edge]](), list[Edge]()
    while True:
        at = made.get(states[-1])
        if at is None or tape.steps[at].name != "add":
            return None
        added.append((at, 1 - i))
        way, slot = [(at, i)], tape.steps[at].ins[i]
        want = loop.slots[len(states)].get(state) if len(states) < len(loop.slots) else None
        while slot != want and slot in made and len(way) < WAY_UP_TO:
            step = tape.steps[made[slot]]
            active = [k for k, s in enumerate(step.ins) if s in tape.active]
            if step.name not in ELEMENTWISE or not (active or (ways and len(ways[0]) > len(way))):
                break
            k = _of_the_state(step.ins, active, want) if active else ways[0][len(way)][1]
            way.append((made[slot], k))
            slot = step.ins[k]
        ways.append(way)
        if slot != want:
            more = made.get(slot)
            if slot in tape.active and more is not None and tape.steps[more].name == "add":
                states.append(slot)
                continue
            break
        states.append(slot)
    if len(states) < 3 or len(added) < len(states):
        return None
    return _Running(states[::-1], ways[::-1], added[::-1])


def _of_the_state(ins: tuple[Slot, ...], active: list[int], want: Slot | None) -> int:
    return ins.index(want) if want in ins else active[-1]


def slope_of_way(tape: Tape, way: list[Edge]) -> np.ndarray | float:
    """The derivative along some elementwise steps."""
    slope: np.ndarray | float = 1.0
    for edge in way:
        one = tape.slope(edge)
        slope = slope * (1.0 if one is None else one)
    return slope


def _cotangent_too_early(running: _Running, chunks: list[int], t: int, p: Passing) -> np.ndarray:
    """The cotangent of what is added at a step, if the chunk's part is carried into the chunk itself."""
    known = p.tape.kept["known"]
    mine = [k for k, chunk in enumerate(chunks) if chunk == chunks[t]]
    entering = slope_of_way(p.tape, running.ways[mine[0]]) * known[running.states[mine[0]]][0]
    after: np.ndarray | float = 0.0
    if mine[-1] + 1 < len(chunks):
        after = slope_of_way(p.tape, running.ways[mine[-1] + 1]) * known[running.states[mine[-1] + 1]][0]
    later: np.ndarray | float = 1.0  # what the chunk's later steps multiply by
    for k in mine:
        if k > t:
            later = later * slope_of_way(p.tape, running.ways[k])
    return p.right + later * (entering - after)


def _state_too_early(running: _Running, chunks: list[int], t: int, p: Passing) -> np.ndarray:
    """The cotangent that a product with the state passes on, if the state is that with the chunk added."""
    mine = [k for k, chunk in enumerate(chunks) if chunk == chunks[t]]
    value = np.asarray(p.tape.values[running.states[mine[-1]]])
    if mine[0]:
        value = value - np.asarray(p.tape.values[running.states[mine[0] - 1]])
    return back_with(p, np.asarray(p.tape.values[running.states[t]]) + value)


# --- what a state is multiplied by between two chunks -------------------------------------------------------


def factors_of_other_chunks(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The factor, such as a decay, of the step before or after where one chunk's state reaches another."""
    loop, made = loop_of(tape), made_by(tape)
    if loop is None:
        return
    first = {mine: last for steps in loop.steps for last, mine in steps.items()}
    places: dict[Edge, dict[int, Edge]] = {}
    for at, i in tape.edges():
        step = tape.steps[at]
        before = loop.home.get(made.get(step.ins[i], -1))
        if step.name == "mul" and at in loop.home and before is not None and before > loop.home[at]:
            places.setdefault((first[at], i), {})[loop.home[at]] = (at, i)
    for edges in places.values():
        for size in range(2, min(len(loop.steps), CHUNKS_UP_TO)):
            for phase in range(size):
                some = {k: x for k, x in edges.items() if k % size == phase}
                for by, which in ((1, "before"), (-1, "after")):
                    moved = {
                        edge: partial(_by_slot, tape.steps[edges[k + by][0]].ins[1 - edge[1]])
                        for k, edge in some.items()
                        if k + by in edges
                    }
                    if moved:
                        at, i = next(iter(some.values()))
                        name = said_of(tape, e, tape.steps[at].ins[1 - i])
                        yield Mistake(
                            f"the factor {name} of the step {which} is used in what is carried back from one "
                            f"chunk of {size} steps to the one before",
                            moved,
                        )


def _by_slot(slot: Slot, p: Passing) -> np.ndarray:
    return back_with(p, np.asarray(p.tape.values[slot]))


# --- blocks of a product ------------------------------------------------------------------------------------


def blocks_assigned(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A product's gradient in blocks that are assigned and not added up, so that only the last one counts."""
    for at, i in tape.edges():
        step = tape.steps[at]
        if step.name != "dot_general":
            continue
        contracted, batched = step.eqn.params["dimension_numbers"]
        ndims = [len(tape.shape(slot)) for slot in step.ins]
        free = [ndim - len(c) - len(b) for ndim, c, b in zip(ndims, contracted, batched, strict=True)]
        start = len(batched[0]) + (free[0] if i == 0 else 0)
        for axis in range(start, start + free[1 - i]):
            n = tape.shape(step.outs[0])[axis]
            for size in range(1, min(n, CHUNKS_UP_TO)):
                last = n - (n - 1) // size * size
                for part, which in ((slice(n - last, n), "last"), (slice(0, size), "first")):
                    count = last if which == "last" else size
                    if count == 1 == size or (which == "first" and n < 2 * size):
                        continue  # one sample alone, or an incomplete last block left out: said elsewhere
                    told = f"only the {which} block of {count} of {n} counts"
                    yield Mistake(
                        f"blocks are assigned instead of added up (= for +=): {told} in the gradient of "
                        f"{said_of(tape, e, step.ins[i])}, in the derivative of {place_of(tape, e, (at, i))}",
                        {(at, i): partial(_of_part, axis, part)},
                    )


def _of_part(axis: int, part: slice, p: Passing) -> np.ndarray:
    kept = np.zeros_like(p.cotangent)
    place = (slice(None),) * axis + (part,)
    kept[place] = p.cotangent[place]
    return back_with(Passing(p.tape, p.edge, kept, p.right, p.notes), p.operands[1 - p.edge[1]])
