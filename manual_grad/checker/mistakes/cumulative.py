"""Mistakes in cumulative sums: inside each chunk alone, without the own term, forward for backward."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.chunks import running_in, slope_of_way
from manual_grad.checker.mistakes.iterations import loop_of
from manual_grad.checker.mistakes.mistake import PASSED_ON, Mistake, arriving, said_of, users_of
from manual_grad.checker.mistakes.windows import multiplied_by, rearranged, with_another
from manual_grad.checker.tape import ELEMENTWISE, Passing, Slot, Tape, reworked

CHUNKS_UP_TO = 17  # entries, less 1
SUMS_UP_TO = 4
VALUES_UP_TO = 6  # computed entry by entry from an argument
STEPS_AT_LEAST = 4
Version = Callable[[np.ndarray], np.ndarray]


def cumulative_sums_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Cumulative sums of other entries, in the backward pass or where their values are used."""
    sums = [at for at, step in enumerate(tape.steps) if step.name == "cumsum"]
    for at in [at for at in sums if tape.steps[at].outs[0] in tape.active][:SUMS_UP_TO]:
        step = tape.steps[at]
        axis, reverse = step.eqn.params["axis"], bool(step.eqn.params["reverse"])
        name, out = said_of(tape, e, step.ins[0]), step.outs[0]
        for said, version in _versions(axis, tape.shape(out)[axis], not reverse):
            phrase = f"{said}, in the backward pass of the cumulative sum of {name}"
            yield Mistake(phrase, {(at, 0): partial(_as, version)})
        for said, version in (*_versions(axis, tape.shape(out)[axis], reverse), *_moved(axis, reverse)):
            value = partial(_value, out, version)
            reached = rearranged(tape, out)
            used = f"{said}, where the cumulative sum of {name} is used in the backward pass"
            back = dict.fromkeys(multiplied_by(tape, reached), partial(with_another, out, value, reached))
            if back:
                yield Mistake(used, back)
            for slot in [out, *_copies(tape, out)]:
                yield Mistake(used, {}, instead={slot: partial(_copied, step.ins[0], out, version, slot)})
    yield from _of_loops(tape, e)
    yield from _of_running_sums(tape, e)


def _versions(axis: int, n: int, reverse: bool) -> Iterator[tuple[str, Version]]:
    """Wrong cumulative sums, given the right ones."""
    for size in range(2, min(n, CHUNKS_UP_TO)):
        said = f"a cumulative sum is taken inside each chunk of {size} alone, without the other chunks"
        yield said, partial(_in_chunks, axis, size, reverse)
    yield "the sum of all is taken for each cumulative sum", partial(_of_all, axis, reverse)


def _moved(axis: int, reverse: bool) -> Iterator[tuple[str, Version]]:
    yield "a cumulative sum is exclusive: its own entry is left out", partial(_exclusive, axis, reverse)


def _turned(axis: int, reverse: bool, x: np.ndarray) -> np.ndarray:
    """The sums along axis 0, in the order in which they are added up."""
    first = np.moveaxis(x, axis, 0)
    return first[::-1] if reverse else first


def _turned_back(axis: int, reverse: bool, x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x[::-1] if reverse else x, 0, axis)


def _in_chunks(axis: int, size: int, reverse: bool, x: np.ndarray) -> np.ndarray:
    """Sums that start again in each chunk, which are counted from the first entry also if they run back."""
    total = _turned(axis, reverse, x)
    n = len(total)
    starts = np.array([_start(n, size, reverse, i) for i in range(n)])
    before = np.concatenate([np.zeros_like(total[:1]), total])[starts]
    return _turned_back(axis, reverse, total - before)


def _start(n: int, size: int, reverse: bool, i: int) -> int:
    if not reverse:
        return i // size * size
    own = (n - 1 - i) // size  # the chunk, counted from the first entry
    return n - min(n, (own + 1) * size)


def _of_all(axis: int, reverse: bool, x: np.ndarray) -> np.ndarray:
    total = _turned(axis, reverse, x)
    return _turned_back(axis, reverse, np.broadcast_to(total[-1:], total.shape))


def _exclusive(axis: int, reverse: bool, x: np.ndarray) -> np.ndarray:
    total = _turned(axis, reverse, x)
    return _turned_back(axis, reverse, np.concatenate([np.zeros_like(total[:1]), total[:-1]]))


def _as(version: Version, p: Passing) -> np.ndarray:
    return version(p.right)


def _value(slot: Slot, version: Version, tape: Tape) -> np.ndarray:
    return version(np.asarray(tape.values[slot]))


def _copies(tape: Tape, slot: Slot) -> list[Slot]:
    """The same entries, rearranged or repeated for one of several uses."""
    found, users = [slot], users_of(tape)
    for s in found:
        found.extend(
            tape.steps[at].outs[0] for at, _ in users.get(s, ()) if tape.steps[at].name in PASSED_ON - {"neg"}
        )
    return found[1:]


def _copied(of: Slot, out: Slot, version: Version, slot: Slot, tape: Tape) -> np.ndarray:
    """A copy's value if it is one of other sums."""
    if slot == out:
        return _value(out, version, tape)
    source = np.asarray(tape.values[out])
    numbers = np.arange(source.size, dtype=np.float64).reshape(source.shape)
    where = np.asarray(reworked(tape, out, numbers).values[slot]).astype(int)
    return version(source).ravel()[where]


# --- sums over the steps of a loop --------------------------------------------------------------------------


def _of_loops(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The gradient of what each step reads, such as a log-decay, which people compute as a cumulative sum."""
    loop = loop_of(tape)
    for slot in _read_by_steps(tape) if loop is not None else ():
        for axis, n in enumerate(tape.shape(slot)):
            if loop is None or n < STEPS_AT_LEAST or abs(n - len(loop.steps)) > 1:
                continue
            of = f"in the gradient of {said_of(tape, e, slot)} (such as that of a log-decay)"
            back = "a cumulative sum over the steps, from the last one back,"
            for size in range(2, min(n, CHUNKS_UP_TO)):
                said = f"{back} is taken inside each chunk of {size} steps alone, {of}"
                yield Mistake(
                    said, arriving(tape, slot, partial(_changed, partial(_in_chunks, axis, size, True)))
                )
            yield Mistake(
                f"{back} is left out: each step has its own term alone, {of}",
                arriving(tape, slot, partial(_changed, partial(_own_terms, axis))),
            )
            yield Mistake(
                f"{back} runs forward instead, {of}",
                arriving(tape, slot, partial(_changed, partial(_forward, axis))),
            )


def _read_by_steps(tape: Tape) -> list[Slot]:
    """The arguments, and what is computed from one entry by entry."""
    found, users = list(tape.leaves), users_of(tape)
    for slot in found:
        for at, _ in users.get(slot, ()) if len(found) < len(tape.leaves) + VALUES_UP_TO else ():
            out = tape.steps[at].outs[0]
            if (
                tape.steps[at].name in ELEMENTWISE
                and tape.shape(out) == tape.shape(slot)
                and out not in found
            ):
                found.append(out)
    return [slot for slot in found if len(tape.shape(slot)) and slot in users]


def _changed(version: Version, p: Passing, d: np.ndarray) -> np.ndarray:
    return version(d)


def _own_terms(axis: int, d: np.ndarray) -> np.ndarray:
    return d - _exclusive(axis, True, d)


def _forward(axis: int, d: np.ndarray) -> np.ndarray:
    return np.cumsum(_own_terms(axis, d), axis)


def _of_running_sums(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The cotangent of a sum that runs through a loop, summed forward, or over all steps for each."""
    for running in running_in(tape)[:SUMS_UP_TO]:
        ways = [way for way in running.ways if way]
        if any(np.any(slope_of_way(tape, way) != 1) for way in ways):
            continue
        name = said_of(tape, e, running.states[-1])
        said = {
            f"the cotangent of the running sum {name} is summed forward, from the first step on": True,
            f"the cotangent of the running sum {name} is that of all steps for each of them": False,
        }
        for phrase, forward in said.items():
            yield Mistake(
                f"{phrase}, where the steps from each one on belong",
                {
                    edge: partial(_summed, tuple(running.states), t, forward)
                    for t, edge in enumerate(running.added)
                },
            )


def _summed(states: tuple[Slot, ...], t: int, forward: bool, p: Passing) -> np.ndarray:
    known = p.tape.kept["known"]
    total = known[states[0]][0]
    after = known[states[t + 1]][0] if forward and t + 1 < len(states) else 0.0
    return total - after + 0 * p.right
