"""Loops: a mistake in one iteration is made in all of them, as their steps are the same.

An unrolled loop is a sequence of steps that repeats itself. A mistake in the last iteration is transferred to
the others, where it is evaluated with the values of that iteration in place of the last one's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from manual_grad.checker.mistakes.mistake import Mistake
from manual_grad.checker.tape import Change, Changes, Edge, Passing, Slot, Tape

SHORTEST = 3  # steps per iteration
ITERATIONS_AT_LEAST = 3
LONG = 6  # steps per iteration: from here on, two whole iterations and part of a third count as a loop
MATCHED = 0.6  # of the first iteration's steps, as it may also create constants for all
RAW_UP_TO = 20  # mistakes that are examined for each one that is kept


@dataclass(frozen=True, eq=False)
class Loop:
    """A loop.

    Attributes:
        last: the steps of the last iteration.
        steps: for each iteration, step of the last iteration → the corresponding step.
        slots: for each iteration, slot of the last iteration → the corresponding slot.
        shared: whether the iterations share an argument, such as the weights of a recurrent network.
        home: the iteration of each step.
    """

    last: range
    steps: list[dict[int, int]]
    slots: list[dict[Slot, Slot]]
    shared: bool
    home: dict[int, int]


def loop_of(tape: Tape) -> Loop | None:
    """The loop of a function; None if there is none."""
    if "loop" not in tape.kept:
        tape.kept["loop"] = _loop(tape)
    return tape.kept["loop"]


def _loop(tape: Tape) -> Loop | None:
    ids: dict[object, int] = {}
    kinds = np.array(
        [
            ids.setdefault(
                (s.name, *map(tape.shape, (*s.ins, *s.outs)), *(i in tape.active for i in s.outs)), len(ids)
            )
            for s in tape.steps
        ]
    )
    best, period, end = 0, 0, 0
    for size in range(SHORTEST, len(kinds) // 2 + 1):
        length, stop = _longest(kinds[:-size] == kinds[size:])
        if length > best and length >= size:
            best, period, end = length, size, stop + size
    if not period:
        return None
    last = range(end - period, end)
    count = (best + period) // period
    steps = [{at: at - k * period for at in last} for k in range(count)]
    rest = _aligned(kinds, last, end - count * period)
    if len(rest) >= MATCHED * period and (count >= ITERATIONS_AT_LEAST or period >= LONG):
        steps.append(rest)
    if len(steps) < ITERATIONS_AT_LEAST:
        return None
    slots = [_slots(tape, mine) for mine in steps]
    home = {at: k for k, mine in enumerate(steps) for at in mine.values()}
    used = [{s for at in mine.values() for s in tape.steps[at].ins if s in tape.leaves} for mine in steps]
    return Loop(last, steps, slots, bool(set.intersection(*used[:2])), home)


def _longest(same: np.ndarray) -> tuple[int, int]:
    """The longest run of True, and its end; the last one if several are equally long."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    lengths = edges[1::2] - edges[::2]
    if not len(lengths):
        return 0, 0
    k = len(lengths) - 1 - int(np.argmax(lengths[::-1]))
    return int(lengths[k]), int(edges[2 * k + 1])


def _aligned(kinds: np.ndarray, last: range, end: int) -> dict[int, int]:
    """The steps of earlier iterations that correspond to those of one iteration, other steps among them."""
    found, at = {}, end - 1
    for step in reversed(last):
        near = np.flatnonzero(kinds[: at + 1] == kinds[step])
        if len(near) and at - near[-1] < len(last) // 2 + 2:
            found[step] = int(near[-1])
            at = int(near[-1]) - 1
    return found


def _slots(tape: Tape, steps: dict[int, int]) -> dict[Slot, Slot]:
    found: dict[Slot, Slot] = {}
    for step, mine in steps.items():
        a, b = tape.steps[step], tape.steps[mine]
        found.update((x, y) for x, y in zip(a.ins, b.ins, strict=True) if tape.shape(x) == tape.shape(y))
        found.update(zip(a.outs, b.outs, strict=True))
    return found


def in_all_iterations(tape: Tape, mistakes: Iterator[Mistake], limit: int) -> Iterator[Mistake]:
    """Mistakes in the last iteration, extended to all iterations; those in other iterations are dropped."""
    loop = loop_of(tape)
    for count, mistake in enumerate(mistakes):
        if count > RAW_UP_TO * limit:
            return
        edges = {*mistake.changes, *(mistake.without or {})}
        homes = {loop.home.get(at, -1) for at, _ in edges} if loop is not None else {-1}
        if loop is not None and loop.shared and mistake.of and mistake.of[0] in loop.home:
            continue  # in one iteration alone
        if loop is None or homes == {-1} or len(homes) > 1 or mistake.of or mistake.instead:
            yield mistake
        elif homes == {0}:
            if not loop.shared:
                yield mistake
            yield from _carried_over(tape, loop, mistake)
        elif not loop.shared:
            yield mistake


def _carried_over(tape: Tape, loop: Loop, mistake: Mistake) -> Iterator[Mistake]:
    everywhere = partial(_everywhere, tape, loop)
    phrase = f"{mistake.phrase.replace(' in one place', '')}, in all {len(loop.steps)} steps"
    without = None if mistake.without is None else everywhere(mistake.without)
    yield replace(mistake, phrase=phrase, changes=everywhere(mistake.changes), without=without)
    if mistake.path and mistake.without:  # the sum over iterations is not linear in a path's factor
        flipped = everywhere(dict.fromkeys(mistake.without, lambda p: -p.right))
        yield Mistake(f"sign flipped in one place: in what flows back through {phrase}", flipped)


def _everywhere(tape: Tape, loop: Loop, changes: Changes) -> Changes:
    found: dict[Edge, Change] = {}
    for (at, i), change in changes.items():
        for k, mine in enumerate(loop.steps):
            if at in mine and i < len(tape.steps[mine[at]].ins):
                found[mine[at], i] = partial(_there, k, (at, i), change)
    return found


def _there(k: int, edge: Edge, change: Change, p: Passing) -> np.ndarray:
    """A change of the last iteration, applied in another one."""
    notes = p.notes.setdefault(("iteration", k), {})
    return np.asarray(change(Passing(_seen_from(p.tape, k), edge, p.cotangent, p.right, notes)))


def known_from(tape: Tape, k: int, known: dict) -> dict:
    """The cotangents of slots and operands, with those of one iteration in place of the last one's."""
    loop = loop_of(tape)
    assert loop is not None
    moved = {slot: known[mine] for slot, mine in loop.slots[k].items() if mine in known}
    for at, mine in loop.steps[k].items():
        moved |= {(at, i): known[mine, i] for i in range(len(tape.steps[at].ins)) if (mine, i) in known}
    return known | moved


def edge_in(tape: Tape, k: int, edge: Edge) -> Edge:
    """The operand of an iteration that corresponds to one of the last."""
    loop = loop_of(tape)
    assert loop is not None
    return loop.steps[k].get(edge[0], edge[0]), edge[1]


def _seen_from(tape: Tape, k: int) -> Tape:
    """The tape with the values of one iteration in place of the last one's."""
    key = ("iteration", k)
    loop = loop_of(tape)
    if k == 0 or loop is None:
        return tape
    if key not in tape.kept:
        values = list(tape.values)
        for slot, mine in loop.slots[k].items():
            values[slot] = tape.values[mine]
        kept = {name: tape.kept[name] for name in ("made by", "users", "dout", "loop") if name in tape.kept}
        kept["home"] = tape, k
        if "known" in tape.kept:
            kept["known"] = known_from(tape, k, tape.kept["known"])
        tape.kept[key] = Tape(tape.steps, values, tape.leaves, tape.results, tape.active, kept)
    return tape.kept[key]
