"""Mistakes in values that the backward pass recomputes by another formula: ε, n − 1, a bound, a mean.

The steps remain those of the function; their cotangents are computed at the other values.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import (
    PASSED_ON,
    Mistake,
    arriving,
    is_constant,
    made_by,
    said_of,
    statistic,
    users_of,
)
from manual_grad.checker.mistakes.windows import multiplied_by, rearranged, with_another
from manual_grad.checker.tape import Passing, Slot, Tape, broadcast_axes
from manual_grad.checker.truth import is_float

SPLIT_UP_TO = 64  # members of all groups
PAIRED_UP_TO = 12  # values that pairs may have been put together to


def rebuilt(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Values recomputed by a formula that differs from the function's."""
    yield from _epsilons(tape, e)
    yield from _variances(tape, e)
    yield from _bounds(tape, e)
    yield from _means_of_factors(tape, e)
    yield from _interleaved(tape, e)


def _epsilons(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """√v + ε instead of √(v + ε), or vice versa."""
    made, users = made_by(tape), users_of(tape)
    again = "where it is recomputed in the backward pass"
    for step in tape.steps:
        if step.name != "add" or step.outs[0] not in tape.active:
            continue
        pair = [(v, c) for v, c in (step.ins, step.ins[::-1]) if v in tape.active and is_constant(tape, c)]
        if not pair or not is_float(tape.values[pair[0][1]]) or pair[0][1] in tape.active:
            continue
        v, c = pair[0]
        onward = [at for at, _ in users.get(step.outs[0], ()) if _is_root(tape, at)]
        if onward:
            said = f"ε is added outside the root, √v + ε for √(v + ε), {again}"
            yield Mistake(said, {}, instead={step.outs[0]: partial(_outside_the_root, v, c)})
        elif v in made and _is_root(tape, made[v]) and tape.steps[made[v]].name != "rsqrt":
            said = f"ε is added inside the root, √(v + ε) for √v + ε, {again}"
            back = {(made[v], 0): partial(_of_the_other_root, c)}
            yield Mistake(
                said, back, instead={step.outs[0]: partial(_inside_the_root, tape.steps[made[v]].ins[0], c)}
            )


def _is_root(tape: Tape, at: int) -> bool:
    step = tape.steps[at]
    if step.name != "pow":
        return step.name in ("sqrt", "rsqrt")
    return is_constant(tape, step.ins[1]) and abs(np.ravel(tape.values[step.ins[1]])[0]) == 0.5


def _outside_the_root(v: Slot, c: Slot, tape: Tape) -> np.ndarray:
    return (np.sqrt(np.asarray(tape.values[v])) + np.asarray(tape.values[c])) ** 2


def _inside_the_root(v: Slot, c: Slot, tape: Tape) -> np.ndarray:
    return np.sqrt(np.asarray(tape.values[v]) + np.asarray(tape.values[c]))


def _of_the_other_root(c: Slot, p: Passing) -> np.ndarray:
    return p.cotangent * 0.5 / np.sqrt(np.asarray(p.operands[0]) + np.asarray(p.tape.values[c]))


def _variances(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A variance with n instead of n − 1, or vice versa: in its value, its derivative, or both."""
    for at, step in enumerate(tape.steps):
        found = statistic(tape, step.outs[0]) if step.name in ("div", "mul") else None
        if found is None or found[0] != "variance":
            continue
        total = next(i for i, slot in enumerate(step.ins) if slot in tape.active)
        n = np.size(tape.values[found[1]]) // np.size(tape.values[step.outs[0]])
        factor = float(np.ravel(tape.values[step.ins[1 - total]])[0])
        of_all = bool(np.isclose(factor if step.name == "div" else 1 / factor, n))
        ratio = n / (n - 1) if of_all else (n - 1) / n
        wrong, right = (f"n − 1 = {n - 1}", f"n = {n}") if of_all else (f"n = {n}", f"n − 1 = {n - 1}")
        name = f"the variance of {said_of(tape, e, found[1])}"
        said = f"{wrong} for {right} in {name}"
        value = {step.outs[0]: partial(_times, step.outs[0], ratio)}
        back = {(at, total): partial(_scaled, ratio)}
        yield Mistake(f"{said}, where it is recomputed", {}, instead=value)
        yield Mistake(f"{said}, where it is recomputed and in its derivative", back, instead=value)
        yield Mistake(f"{said}, in its derivative", back)


def _times(slot: Slot, factor: float, tape: Tape) -> np.ndarray:
    return factor * np.asarray(tape.values[slot])


def _scaled(factor: float, p: Passing) -> np.ndarray:
    return factor * p.right


def _bounds(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The bounds of a clip assumed to be symmetric: one is the negative of the other."""
    bounds = {"clamp": (0, 2), "max": (0, 1), "min": (0, 1)}
    known = sorted({v for step in tape.steps if step.name in bounds for v in _numbers(tape, step.ins)})
    for step in tape.steps:
        if step.name not in bounds or step.outs[0] not in tape.active:
            continue
        for bound in _numbers(tape, step.ins):
            for other in known:
                if bound * other < 0 and bound != -other:
                    said = f"a bound of clip is taken from the other side: {-other:g} for {bound:g}"
                    value = {step.outs[0]: partial(_at_bound, step.outs[0], bound, -other)}
                    yield Mistake(f"{said}, where the value is recomputed", {}, instead=value)


def _numbers(tape: Tape, slots: tuple[Slot, ...]) -> list[float]:
    """The constants among some values."""
    some = [s for s in slots if s not in tape.active and is_float(tape.values[s]) and is_constant(tape, s)]
    return [float(np.ravel(tape.values[s])[0]) for s in some if np.size(tape.values[s])]


def _at_bound(slot: Slot, bound: float, other: float, tape: Tape) -> np.ndarray:
    x = np.asarray(tape.values[slot])
    return np.where(x == bound, other, x)


def _means_of_factors(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A product of sums, or of a sum and a mean, instead of a sum of products."""
    made = made_by(tape)
    for at, i in tape.edges():
        step = tape.steps[at]
        if step.name != "mul" or len(set(step.ins)) == 1 or is_constant(tape, step.ins[1 - i]):
            continue
        spread = tape.steps[made[step.ins[i]]] if step.ins[i] in made else None
        if spread is None or spread.name not in ("broadcast", "broadcast_in_dim"):
            continue
        axes = broadcast_axes(tape, spread)
        name = said_of(tape, e, step.ins[1 - i])
        belongs = "where the sum of the products belongs"
        for said, power in (("the mean", 1), ("the sum", 0)):
            if axes:
                yield Mistake(
                    f"a product of sums: {said} of {name} times the sum of the gradient, {belongs}",
                    {(at, i): partial(_by_one_factor, axes, power)},
                )


def _by_one_factor(axes: tuple[int, ...], power: int, p: Passing) -> np.ndarray:
    other = np.asarray(p.operands[1 - p.edge[1]])
    return p.cotangent * (other.mean if power else other.sum)(axes, keepdims=True)


def _interleaved(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A value split into groups in the other order: member c in group c mod G instead of c // (C/G)."""
    for step in tape.steps:
        if step.name != "reshape" or step.outs[0] not in tape.active:
            continue
        before, after = tape.shape(step.ins[0]), tape.shape(step.outs[0])
        for axis in range(len(after) - 1):
            groups, members = after[axis : axis + 2]
            whole = (*after[:axis], groups * members, *after[axis + 2 :])
            if whole == before and min(groups, members) > 1 and groups * members <= SPLIT_UP_TO:
                name = said_of(tape, e, step.ins[0])
                said = f"wrong group: {name} is split with member c in group c mod {groups}, where "
                value = partial(_split, step.ins[0], axis, groups, members)
                again = f"{said}c // {members} belongs, where it is recomputed"
                yield Mistake(again, {}, instead={step.outs[0]: value})
                reached = rearranged(tape, step.outs[0])
                change = partial(with_another, step.outs[0], value, reached)
                back = dict.fromkeys(multiplied_by(tape, reached), change)
                if back:
                    yield Mistake(f"{again} as a factor in the backward pass", back)


def _split(slot: Slot, axis: int, groups: int, members: int, tape: Tape) -> np.ndarray:
    x = np.asarray(tape.values[slot])
    shape = (*x.shape[:axis], members, groups, *x.shape[axis + 1 :])
    return x.reshape(shape).swapaxes(axis, axis + 1)


def rotations(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A factor that enters one sum with + and another with −, such as a sine, with the wrong sign in both."""
    made, users = made_by(tape), users_of(tape)
    found: dict[Slot, list[tuple[int, int]]] = {}
    for at, i in tape.edges():
        step = tape.steps[at]
        if (
            step.name == "mul"
            and step.ins[1 - i] not in tape.active
            and not is_constant(tape, step.ins[1 - i])
        ):
            slot = step.ins[1 - i]
            while slot in made and tape.steps[made[slot]].name in PASSED_ON:
                slot = tape.steps[made[slot]].ins[0]
            found.setdefault(slot, []).append((at, i))
    for slot, edges in found.items():
        by_source: dict[Slot, list[tuple[int, int]]] = {}
        for at, i in edges:
            by_source.setdefault(_argument(tape, tape.steps[at].ins[i]), []).append((at, i))
        for source, some in by_source.items():
            negative = [edge for edge in some if _is_subtracted(tape, users, edge[0])]
            if 0 < len(negative) < len(some):
                said = f"rotated forward again, not back: the sign of {said_of(tape, e, slot)} is not flipped"
                change = partial(_scaled, -1.0)
                yield Mistake(f"{said}, in the gradient of {said_of(tape, e, source)}",
                              dict.fromkeys(some, change))  # fmt: skip


def pairs_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Pairs of neighbours in the function and of halves in the backward pass, or the other way round."""
    made = made_by(tape)
    ends = [
        step.outs[0]
        for step in tape.steps
        if step.name in ("reshape", "concatenate", "stack") and step.outs[0] in tape.active
    ]
    for end in ends[:PAIRED_UP_TO]:
        shape = tape.shape(end)
        for start in [s for s in (*tape.leaves, *sorted(tape.active)) if s < end and tape.shape(s) == shape]:
            if start not in users_of(tape):
                continue
            for axis in (axis for axis, n in enumerate(shape) if n > 2 and n % 2 == 0):
                halves = np.arange(shape[axis]).reshape(2, -1).T.ravel()
                for order in (halves, np.argsort(halves)):
                    yield Mistake(
                        f"a wrong pairing along axis {axis}: one pass pairs neighbours, i and i + 1 "
                        "(interleaved), and the other pairs the two halves, i and "
                        f"i + {shape[axis] // 2}, from {said_of(tape, e, end)} to {said_of(tape, e, start)}",
                        {
                            (made[end], -1): partial(_in_order, axis, order),
                            **arriving(tape, start, partial(_arriving_in_order, axis, np.argsort(order))),
                        },
                    )


def _in_order(axis: int, order: np.ndarray, p: Passing) -> np.ndarray:
    return np.take(p.right, order, axis)


def _arriving_in_order(axis: int, order: np.ndarray, p: Passing, d: np.ndarray) -> np.ndarray:
    return np.take(d, order, axis)


def _argument(tape: Tape, slot: Slot) -> Slot:
    """The value that another one is a part of, in any order."""
    made = made_by(tape)
    while slot in made and tape.steps[made[slot]].name in {*PASSED_ON, "split"}:
        slot = tape.steps[made[slot]].ins[0]
    return slot


def _is_subtracted(tape: Tape, users: dict, at: int) -> bool:
    return any(
        tape.steps[user].name == "neg" or (tape.steps[user].name == "sub" and i == 1)
        for user, i in users.get(tape.steps[at].outs[0], ())
    )
