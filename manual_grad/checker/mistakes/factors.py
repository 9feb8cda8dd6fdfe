"""Mistakes in factors: one is missing, applied twice, or replaced by another value."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.iterations import loop_of
from manual_grad.checker.mistakes.mistake import (
    MASKS,
    PASSED_ON,
    PRODUCTS,
    SAID,
    Mistake,
    alike,
    arrays_by_shape,
    arriving,
    axes_said,
    back_with,
    is_constant,
    left_out,
    made_by,
    place_of,
    said_of,
    source_of,
    stop,
    too_few_or_many,
    users_of,
)
from manual_grad.checker.tape import (
    ELEMENTWISE,
    MEANINGLESS,
    Change,
    Changes,
    Edge,
    Passing,
    Slot,
    Tape,
    broadcast_axes,
    computed,
)
from manual_grad.checker.truth import is_float

SUMS_UP_TO = 4  # steps between a product and a slope
NEIGHBOURS = 40  # values before or after one
STAGES_UP_TO = 6  # steps between a product and a slope


def factors_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A product's other factor missing or squared; a quotient's denominator missing or applied twice."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name not in ELEMENTWISE or step.name in (*MEANINGLESS, *MASKS[:4]):
            continue
        place = place_of(tape, e, edge)
        others = (
            {"mul": step.ins[1 - edge[1]], "div": step.ins[-1]}.get(step.name) if len(step.ins) == 2 else None
        )
        named = {
            said_of(tape, e, slot): slot
            for slot in (*step.ins, *step.outs)
            if not is_constant(tape, slot) or (slot == others and slot not in tape.active)
        }
        for name, slot in named.items():
            missing, extra = too_few_or_many(tape, slot, name)
            for how, what in ((_divided, missing), (_multiplied, extra)):
                whole = slot == others and (step.name, edge[1], how) in (
                    ("mul", 0, _divided), ("mul", 1, _divided), ("div", 0, _multiplied))  # fmt: skip
                change = left_out if whole else partial(how, slot)
                if step.name == "div" and edge[1] == 1 and slot == others and how is _multiplied:
                    what = f"{what} (the denominator is not squared, −a/b for −a/b²)"
                yield Mistake(f"{what}, in the derivative of {place}", {edge: change}, stop(edge))


def factors_of_operands(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A factor missing in a product's other operand, itself a product, such as a decay in q kᵀ · decay."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name not in ("dot_general", "mul") or step.ins[0] == step.ins[1]:
            continue
        other = step.ins[1 - edge[1]]
        factors = _factors_of(tape, other)
        for k, factor in enumerate(factors) if len(factors) > 1 + (step.name == "mul") else ():
            if np.size(tape.values[factor]) > 1 and not is_constant(tape, factor):
                rest = tuple(factors[:k] + factors[k + 1 :])
                names = said_of(tape, e, factor), said_of(tape, e, other)
                phrase = f"the factor {names[0]} is missing in {names[1]}, in the derivative of"
                yield Mistake(
                    f"{phrase} {place_of(tape, e, edge)}", {edge: partial(_with_product, rest)}, stop(edge)
                )


FACTORS_UP_TO = 6


def _factors_of(tape: Tape, slot: Slot) -> list[Slot]:
    """The factors that a value is the product of; they have its shape."""
    made, found, near = made_by(tape), list[Slot](), [slot]
    while near and len(found) + len(near) <= FACTORS_UP_TO:
        at = made.get(s := near.pop())
        if at is not None and tape.steps[at].name == "mul":
            near += tape.steps[at].ins
        else:
            found.append(s)
    return found + near


def _with_product(factors: tuple[Slot, ...], p: Passing) -> np.ndarray:
    return back_with(p, np.prod([np.asarray(p.tape.values[slot]) for slot in factors], axis=0))


def _divided(slot: Slot, p: Passing) -> np.ndarray:
    return p.right / np.asarray(p.tape.values[slot])


def _multiplied(slot: Slot, p: Passing) -> np.ndarray:
    return p.right * np.asarray(p.tape.values[slot])


def stages(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A slope missing from the cotangent that a product passes to one of its operands only."""
    users = users_of(tape)
    pairs: dict[Edge, Edge] = {}
    further: dict[Edge, tuple[Edge, ...]] = {}
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name not in PRODUCTS:
            continue
        slot, shape, way = step.outs[0], tape.shape(step.outs[0]), list[Edge]()
        for _ in range(STAGES_UP_TO):
            (user, *more) = users.get(slot, [None])
            if user is None or more or tape.shape(tape.steps[user[0]].outs[0]) != shape:
                break
            if tape.steps[user[0]].name not in (*MEANINGLESS, *PASSED_ON):
                if tape.steps[user[0]].name not in ELEMENTWISE:
                    break
                way.append(user)
            slot = tape.steps[user[0]].outs[0]
        if way:
            pairs[edge] = way[0]
        if len(way) > 1:
            further[edge] = tuple(way[:2])
    yield from _second_stages(tape, e, further)
    for edges in [[edge] for edge in pairs] + [[x for x in group if x in pairs] for group in alike(tape)]:
        if not edges:
            continue
        what = _left_out_said(tape, e, pairs[edges[-1]])
        changes: dict[Edge, Change] = {}
        for edge in edges:
            changes[pairs[edge]] = partial(_remembered, pairs[edge])
            changes[edge] = partial(_with_remembered, pairs[edge])
        everywhere = f", in all {len(edges)} places" if len(edges) > 1 else ""
        yield Mistake(
            f"{what} what flows back through {place_of(tape, e, edges[-1])}{everywhere}",
            changes,
        )


def _left_out_said(tape: Tape, e: Evidence, slope: Edge) -> str:
    name = tape.steps[slope[0]].name
    if name in ("mul", "div"):
        other = tape.steps[slope[0]].ins[1 - slope[1]]
        return f"{too_few_or_many(tape, other, said_of(tape, e, other))[name == 'div']} in"
    if name == "select_n":
        return "the mask (of where) is left out of"
    return f"the derivative of {SAID.get(name, name)} is left out of"


def _second_stages(tape: Tape, e: Evidence, further: dict[Edge, tuple[Edge, ...]]) -> Iterator[Mistake]:
    """The same for the second slope after a product, such as the mask after an activation."""
    groups = [[edge] for edge in further] + [[x for x in group if x in further] for group in alike(tape)]
    for edges in groups:
        if edges:
            changes: dict[Edge, Change] = {}
            for edge in edges:
                near, far = further[edge]
                changes[far] = partial(_remembered, far)
                changes[edge] = partial(_with_remembered_through, near, far)
            everywhere = f", in all {len(edges)} places" if len(edges) > 1 else ""
            what = _left_out_said(tape, e, further[edges[-1]][1])
            yield Mistake(
                f"{what} what flows back through {place_of(tape, e, edges[-1])}{everywhere}", changes
            )


def _with_remembered_through(near: Edge, far: Edge, p: Passing) -> np.ndarray:
    d = p.notes[far] * p.tape.slope(near)
    return back_with(Passing(p.tape, p.edge, d, p.right, p.notes), p.operands[1 - p.edge[1]])


def slopes_out_of_order(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A slope next to a matrix product applied after it in the backward pass, not before, or vice versa."""
    users, made = users_of(tape), made_by(tape)
    for at, i in tape.edges():
        step = tape.steps[at]
        slot, out = step.ins[i], step.outs[0]
        if step.name != "dot_general" or tape.shape(slot) != tape.shape(out):
            continue
        yield from _after_the_product(tape, e, (at, i))
        after = users.get(out, [])
        before = [] if slot not in made else [x for x in tape.edges() if x[0] == made[slot]]
        for which, beside in (("after", after), ("before", before)):
            if len(beside) == 1 and tape.slope(beside[0]) is not None:
                slope = tape.steps[beside[0][0]]
                changes: Changes = {beside[0]: left_out, (at, i): partial(_out_of_order, beside[0], which)}
                yield Mistake(
                    f"in the wrong order: the derivative of {SAID.get(slope.name, slope.name)} is applied "
                    f"{which} {place_of(tape, e, (at, i))} in the backward pass",
                    changes,
                )


def _after_the_product(tape: Tape, e: Evidence, edge: Edge) -> Iterator[Mistake]:
    """The slope that follows a product, applied after it in the gradient of one operand alone."""
    users, (at, i) = users_of(tape), edge
    slot, shape = tape.steps[at].outs[0], tape.shape(tape.steps[at].outs[0])
    for _ in range(SUMS_UP_TO):
        after = users.get(slot, [])
        if len(after) != 1 or tape.shape(tape.steps[after[0][0]].outs[0]) != shape:
            return
        user = tape.steps[after[0][0]]
        if user.name not in MEANINGLESS:
            break
        slot = user.outs[0]
    else:
        return
    if user.name in ELEMENTWISE and len(user.ins) == 1:
        name, operands = SAID.get(user.name, user.name), [said_of(tape, e, s) for s in tape.steps[at].ins]
        other = operands[1 - i]
        yield Mistake(
            f"in the wrong order: the derivative of {name} is applied after the product with {other} in the "
            f"gradient of {operands[i]} ({name}' · ({other}ᵀ d)), where it belongs before it "
            f"({other}ᵀ ({name}' · d))",
            {after[0]: partial(_remembered, after[0]), edge: partial(_slope_last, after[0])},
        )


def _slope_last(slope: Edge, p: Passing) -> np.ndarray:
    return _with_remembered(slope, p) * p.tape.slope(slope)


def _out_of_order(beside: Edge, which: str, p: Passing) -> np.ndarray:
    slope = p.tape.slope(beside)
    if which == "after":
        return p.right * slope
    earlier = Passing(p.tape, p.edge, p.cotangent * slope, p.right, p.notes)
    return back_with(earlier, p.operands[1 - p.edge[1]])


def _remembered(edge: Edge, p: Passing) -> np.ndarray:
    p.notes[edge] = p.cotangent
    return p.right


def _with_remembered(edge: Edge, p: Passing) -> np.ndarray:
    earlier = Passing(p.tape, p.edge, p.notes[edge], p.right, p.notes)
    return back_with(earlier, p.operands[1 - p.edge[1]])


def regions(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Another value instead of the combined slope of several elementwise steps, such as x for x̂."""
    by_shape, made = arrays_by_shape(tape), made_by(tape)
    users = users_of(tape)
    for slot in sorted(tape.active & users.keys(), reverse=True):
        for end in ends_of(tape, users, slot)[:3]:
            first, *more = users[slot]
            remembered = (made[end], -1)

            def instead(what: Any, first: Any = first, more: Any = more, end: Any = remembered) -> Changes:
                return {
                    end: partial(_remembered, end),
                    first: partial(_remembered_times, end, what),
                    **stop(*more),
                }

            said = said_of(tape, e, slot)
            what = f"of what leads from {said} to {said_of(tape, e, end)}"
            yield Mistake(f"the derivative {what} is left out", instead(lambda tape: 1.0))
            for name, slope in INSTEAD.items():
                changes = instead(partial(_slope_at, slope, slot))
                yield Mistake(f"{name} is used for the derivative {what}", changes)
            for other in by_shape.get(tape.shape(slot), [])[:24]:
                if not is_constant(tape, other):
                    changes = instead(partial(_slope_at, np.asarray, other))
                    name = said_of(tape, e, other)
                    phrase = f"{name} is used for the right factor (such as x for x̂)"
                    yield Mistake(f"{phrase}, in the gradient of {said}", changes)


def ends_of(tape: Tape, users: dict[Slot, list[Edge]], slot: Slot) -> list[Slot]:
    """The values of the same shape through which everything computed from one passes, if elementwise."""
    shape, live = tape.shape(slot), {slot}
    found: list[Slot] = []
    pending = sorted({at for at, _ in users[slot]})
    while pending:
        at = pending.pop(0)
        step = tape.steps[at]
        out = step.outs[0]
        if tape.shape(out) != shape or step.name not in ELEMENTWISE or at - _first_use(users, slot) > 60:
            return found
        live.add(out)
        live = {s for s in live if s == out or any(user in pending for user, _ in users.get(s, ()))}
        pending = sorted({*pending, *(user for user, _ in users.get(out, ()))})
        if live == {out}:
            found.append(out)
    return found


def _first_use(users: dict[Slot, list[Edge]], slot: Slot) -> int:
    """The first step that uses a slot."""
    return min(at for at, _ in users[slot])


INSTEAD: dict[str, Callable[[Any], Any]] = {
    "the slope of the sigmoid, p(1 − p),": lambda z: 0.25 / np.cosh(z / 2) ** 2,
    "the sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "the slope of tanh, 1 − tanh²,": lambda z: 1 / np.cosh(z) ** 2,
    "the mask of ReLU": lambda z: z > 0,
    "a mask without the slope of the other side": lambda z: z < 0,
    "the exponential": np.exp,
    "the sign": np.sign,
}


def _slope_at(slope: Callable[[Any], Any], slot: Slot, tape: Tape) -> np.ndarray:
    return slope(np.asarray(tape.values[slot]))


def _remembered_times(edge: Edge, what: Callable[[Tape], Any], p: Passing) -> np.ndarray:
    return p.notes[edge] * what(p.tape)


def operands_replaced(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Another value of the same shape instead of a product's other factor."""
    by_shape: dict[tuple, list[Slot]] = {}
    made = made_by(tape)
    for slot, value in enumerate(tape.values):
        passed = (
            slot in made
            and tape.steps[made[slot]].name in ("squeeze", "convert_element_type", "neg")
            and is_float(tape.values[tape.steps[made[slot]].ins[0]])
        )
        if np.size(value) > 1 and is_float(value) and not passed:
            by_shape.setdefault(np.shape(value), []).append(slot)
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name in ELEMENTWISE and len(step.ins) == 1 and step.name not in MEANINGLESS:
            name = SAID.get(step.name, step.name)
            for slot in _near(by_shape.get(tape.shape(step.outs[0]), []), step.outs[0])[:10]:
                if not is_constant(tape, slot):
                    phrase = f"{said_of(tape, e, slot)} is used for the derivative of {name}"
                    yield Mistake(phrase, {edge: partial(_with_value, slot)}, stop(edge))
                    names = said_of(tape, e, slot), said_of(tape, e, step.ins[0])
                    yield Mistake(
                        f"{_stands_for(*names)} in the derivative of {name}",
                        {edge: partial(slope_at, slot)},
                        stop(edge),
                    )
        if step.name not in PRODUCTS:
            continue
        other = step.ins[1 - edge[1]]
        for slot in _near(by_shape.get(tape.shape(other), []), other, step.outs[0])[:24]:
            if slot != other and not is_constant(tape, slot):
                phrase = _replaced_said(tape, e, slot, other)
                place = place_of(tape, e, edge)
                yield Mistake(
                    f"{phrase} in the derivative of {place}", {edge: partial(_with_slot, slot)}, stop(edge)
                )
                if step.ins[0] == step.ins[1] and edge[1] == 0:  # a value times itself
                    both = dict.fromkeys([edge, (edge[0], 1)], partial(_with_slot, slot))
                    yield Mistake(f"{phrase} in the derivative of {place}", both)
    for edges in alike(tape):
        if tape.steps[edges[0][0]].name in PRODUCTS:
            yield from _replaced_in_a_loop(tape, e, edges)


def _replaced_said(tape: Tape, e: Evidence, slot: Slot, other: Slot) -> str:
    """A phrase for a replaced value: a factor is missing if the other value is a product with it."""
    made = made_by(tape)
    step = tape.steps[made[other]] if other in made else None
    if (
        step is not None
        and step.name in ("mul", "div")
        and slot in (step.ins if step.name == "mul" else step.ins[:1])
    ):
        factor = step.ins[1 - step.ins.index(slot)]
        said = too_few_or_many(tape, factor, said_of(tape, e, factor))[step.name == "div"]
        if said.startswith("the factor"):
            return said.replace("the factor", "a factor is left out:", 1).replace(" is missing", "")
        return said.replace(" is missing", " is left out")
    if step is not None and step.name in ("add", "sub") and slot in step.ins and len(set(step.ins)) == 2:
        term = said_of(tape, e, step.ins[1 - step.ins.index(slot)])
        if not term.startswith("the result of"):
            names = said_of(tape, e, slot), said_of(tape, e, other)
            return f"the term {term} is left out: {names[0]} is used for {names[1]}"
    loop, names = loop_of(tape), (said_of(tape, e, slot), said_of(tape, e, other))
    if earlier := _earlier_said(tape, e, slot, other):
        return earlier
    if loop is not None and names[0] == names[1]:
        homes = [loop.home.get(made.get(s, -1)) for s in (slot, other)]
        if homes[0] is not None and homes[0] == homes[1]:
            return f"another {names[1]} of the same step, such as another gate's, is used for the right one,"
    return _stands_for(*names, loop is not None)


def _earlier_said(tape: Tape, e: Evidence, slot: Slot, other: Slot) -> str:
    """The phrase for a value before a few steps in place of the one after them; "" if they are too many."""
    made, told = made_by(tape), list[str]()
    at, name = other, said_of(tape, e, other)
    while at != slot:
        step = tape.steps[made[at]] if at in made else None
        inner = [s for s in step.ins if s == slot or _leads_to(tape, slot, s)] if step is not None else []
        if step is None or len(set(inner)) != 1 or len(told) > EARLIER_UP_TO:
            return ""
        if step.name in DONE and len(step.ins) == 2 and inner[0] != step.ins[1 - step.ins.index(inner[0])]:
            i = step.ins.index(inner[0])
            if i == 1 and step.name not in ("mul", "add"):
                return ""
            told.insert(0, DONE[step.name].format(said_of(tape, e, step.ins[1 - i])))
        elif step.name in (*MASKS[:4], *ELEMENTWISE) and step.name not in MEANINGLESS:
            told.insert(0, f"{SAID.get(step.name, step.name)} is applied")
        elif step.name not in PASSED_ON:
            return ""
        at = inner[0]
    if not told or len(told) > EARLIER_UP_TO:
        return ""
    mine = said_of(tape, e, slot)
    what = name if mine == name else f"{mine} is used for {name}: the value"
    return f"{what} before {' and '.join(told)}" + (" is used for the one after it" if mine == name else "")


EARLIER_UP_TO = 3  # steps
DONE = {
    "mul": "it is multiplied by {}", "div": "it is divided by {}", "add": "{} is added",
    "sub": "{} is subtracted",
}  # fmt: skip


def _leads_to(tape: Tape, start: Slot, end: Slot) -> bool:
    """Whether one value is computed from another by a few steps."""
    made, near = made_by(tape), {end}
    for _ in range(2 * EARLIER_UP_TO + 2):
        near = {s for slot in near if slot in made for s in tape.steps[made[slot]].ins if s >= start}
        if start in near:
            return True
    return False


def _stands_for(wrong: str, right: str, loop: bool = False) -> str:
    """A phrase for two values with the same name: other parts of it, or of other steps."""
    if wrong == right and loop:
        return f"another step's {right} is used for this one's (such as h_t for h_(t−1)),"
    if wrong == right:
        other = right.removeprefix("the ") if right.startswith("the result") else f"part of {right}"
        return f"another {other} is used for the right one,"
    return f"{wrong} is used for {right}"


def _replaced_in_a_loop(tape: Tape, e: Evidence, edges: Sequence[Edge]) -> Iterator[Mistake]:
    """The same in every iteration: the value that is the same number of slots before or after."""
    others = [tape.steps[at].ins[1 - i] for at, i in edges]
    for by in (1, -1):
        rolled, kept = others[-by:] + others[:-by], others[0] if by > 0 else others[-1]
        clipped = [
            kept if at == (0 if by > 0 else len(edges) - 1) else slot for at, slot in enumerate(rolled)
        ]
        one_source = len({source_of(tape, tape.steps[at].ins[i]) for at, i in edges}) == 1
        for moved in (rolled, clipped) if len(edges) > 2 or one_source else ():
            if len(edges) == 2:
                names = dict.fromkeys(said_of(tape, e, slot) for slot in others)
                phrase = (
                    f"swapped: each of two factors is used for the other ({' and '.join(names)}), "
                    f"in the derivative of {place_of(tape, e, edges[-1])}"
                )
                yield Mistake(phrase, {x: partial(_with_slot, s) for x, s in zip(edges, moved, strict=True)})
                continue
            yield Mistake(
                f"another step's {said_of(tape, e, others[-1])} is used for this one's in the derivative of "
                f"{place_of(tape, e, edges[-1])}, in all {len(edges)} places",
                {edge: partial(_with_slot, slot) for edge, slot in zip(edges, moved, strict=True)},
            )
    outs = [tape.steps[at].outs[0] for at, _ in edges]
    other, middle = others[-1], len(edges) // 2
    right, place = said_of(tape, e, others[middle]), place_of(tape, e, edges[middle])
    for slot in range(max(0, outs[-1] - 30), min(len(tape.values), outs[-1] + 30)):
        if slot == other or tape.shape(slot) != tape.shape(other) or is_constant(tape, slot):
            continue
        shift = slot - outs[-1]
        changes = {
            edge: partial(_with_slot, out + shift)
            for edge, out in zip(edges, outs, strict=True)
            if 0 <= out + shift < len(tape.values) and tape.shape(out + shift) == tape.shape(other)
        }
        wrong = said_of(tape, e, outs[middle] + shift)
        yield Mistake(
            f"{_stands_for(wrong, right)} in the derivative of {place}, in all {len(edges)} places "
            "(another step's, or pre-activation)",
            changes,
        )


def _near(slots: Sequence[Slot], *to: Slot) -> list[Slot]:
    """Values computed shortly before or after one of the given ones."""
    return sorted(slots, key=lambda slot: min(abs(slot - one) for one in to))


def _with_value(slot: Slot, p: Passing) -> np.ndarray:
    return p.cotangent * np.asarray(p.tape.values[slot])


def slope_at(slot: Slot, p: Passing) -> np.ndarray:
    """The cotangent that an elementwise step passes on if its derivative is taken at another value."""
    step = p.tape.steps[p.edge[0]]
    x = np.asarray(p.tape.values[slot])
    written = ELEMENTWISE[step.name]
    if written is None:
        raise ValueError
    return p.cotangent * written([x], np.asarray(computed(step.eqn, [x])[0]), step, 0)


def _with_slot(slot: Slot, p: Passing) -> np.ndarray:
    return back_with(p, p.tape.values[slot])


EXTRA: dict[str, Callable[[Any], Any]] = {
    "the slope of the sigmoid, p(1 − p), once too often": lambda z: 0.25 / np.cosh(z / 2) ** 2,
    "the slope of tanh, 1 − tanh², once too often": lambda z: 1 / np.cosh(z) ** 2,
    "the slope of the sigmoid, p(1 − p), is missing": lambda z: 4 * np.cosh(z / 2) ** 2,
    "the slope of tanh, 1 − tanh², is missing": lambda z: np.cosh(z) ** 2,
    "an extra mask of ReLU": lambda z: z > 0,
    "the slope of tanh, 1 − a², once too often": lambda a: 1 - a**2,
    "the slope of the sigmoid, a(1 − a), once too often": lambda a: a * (1 - a),
}


# For the derivative with respect to a square r² instead of r, or vice versa.
ROOTS = {
    "an extra power: the factor √({0}) is applied once too often in the gradient of {0}": 0.5,
    "a missing power: the factor √({0}) is missing in the gradient of {0}": -0.5,
}


def _power(power: float, z: np.ndarray) -> np.ndarray:
    return z**power


def extra_factors(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A slope or a factor applied too often, or missing, in the cotangent of a value."""
    by_shape = arrays_by_shape(tape)
    places = _places(tape)
    for slot, edges in places:
        for said, slope in EXTRA.items():
            change = partial(_times_slope, slope, slot)
            yield Mistake(f"{said} (at {said_of(tape, e, slot)})", dict.fromkeys(edges, change))
        if np.all(np.asarray(tape.values[slot]) > 0):
            name = said_of(tape, e, slot)
            for said, power in ROOTS.items():
                change = partial(_times_slope, partial(_power, power), slot)
                yield Mistake(said.format(name), dict.fromkeys(edges, change))
    for slot, edges in sorted(places, key=lambda place: place[0] not in tape.leaves):
        for other in _near(by_shape.get(tape.shape(slot), []), slot)[:10]:
            name = said_of(tape, e, other)
            if not is_constant(tape, other):
                at = f"at {said_of(tape, e, slot)}"
                missing, extra = too_few_or_many(tape, other, name)
                yield Mistake(f"{extra}, {at}", dict.fromkeys(edges, partial(_multiplied, other)))
                yield Mistake(f"{missing}, {at}", dict.fromkeys(edges, partial(_divided, other)))


def _places(tape: Tape) -> list[tuple[Slot, list[Edge]]]:
    """The values that have cotangents, the last ones first, and the changes that alter them."""
    made, users = made_by(tape), users_of(tape)
    places: list[tuple[Slot, list[Edge]]] = []
    for slot in sorted(tape.active, reverse=True):
        if np.size(tape.values[slot]) > 1 and slot in made:
            places.append((slot, [(made[slot], -1)]))
        elif slot in tape.leaves:
            places.append((slot, users.get(slot, [])))
    return places


def signs_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The sign of a computed value, such as a determinant, as a factor that is missing or superfluous."""
    signs = {
        shape: [s for s in some if np.all(np.abs(tape.values[s]) == 1) and not is_constant(tape, s)]
        for shape, some in arrays_by_shape(tape).items()
    }
    for slot, edges in _places(tape) if any(signs.values()) else ():
        for other in signs.get(tape.shape(slot), []):
            phrase = f"a factor of ±1 is missing or superfluous: {_sign_said(tape, e, other)}"
            changes = dict.fromkeys(edges, partial(_multiplied, other))
            yield Mistake(f"{phrase}, at {said_of(tape, e, slot)}", changes)


def _sign_said(tape: Tape, e: Evidence, slot: Slot) -> str:
    """The value that a sign belongs to, as far as that can be determined."""
    made, near = made_by(tape), [slot]
    if slot not in made:
        return said_of(tape, e, slot)
    for at in near:
        step = tape.steps[made[at]] if at in made else None
        if step is not None and step.name == "sign":
            return f"the sign of {said_of(tape, e, step.ins[0])}"
        if step is not None and step.name == "lu":
            return "the sign of a determinant"
        near.extend(s for s in (step.ins if step is not None else ()) if s not in near)
    return "a sign that the function computes"


def _times_slope(slope: Callable[[Any], Any], slot: Slot, p: Passing) -> np.ndarray:
    return p.right * slope(np.asarray(p.tape.values[slot]))


def steps_left_out(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The derivatives of the right steps, at values computed without one of the steps."""
    for at, operand in list(tape.edges())[:120]:
        step = tape.steps[at]
        if step.name in ELEMENTWISE and step.name not in ("convert_element_type", "copy", "select_n"):
            mine, out = said_of(tape, e, step.ins[operand]), said_of(tape, e, step.outs[0])
            yield Mistake(
                f"the derivative is taken where {SAID.get(step.name, step.name)} was left out of the values: "
                f"{mine} is used for {out}",
                {}, of=(at, operand),
            )  # fmt: skip


def gradients_of_others(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The gradient of another value, perhaps summed over its first axes, instead of an argument's."""
    users = users_of(tape)
    for leaf in (leaf for leaf in tape.leaves if leaf in users and tape.shape(leaf)):
        shape = tape.shape(leaf)
        for slot in sorted(tape.active - {leaf}, reverse=True):
            if slot in tape.kept["known"] and tape.shape(slot)[-len(shape) :] == shape:
                extra = tuple(range(len(tape.shape(slot)) - len(shape)))
                summed = f", summed over {axes_said(extra)}" if extra else ""
                yield Mistake(
                    f"this is the gradient of another value: of {said_of(tape, e, slot)}{summed}",
                    arriving(tape, leaf, partial(_gradient_of, slot, extra)),
                )


def gradients_of_neighbours(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """For an argument, the gradient of another value of the same step: such as one bias's for the other's."""
    known, users = tape.kept["known"], users_of(tape)
    for leaf in (leaf for leaf in tape.leaves if leaf in users and tape.shape(leaf)):
        alike: dict[str, list[Edge]] = {}
        for edge in users[leaf]:
            alike.setdefault(tape.steps[edge[0]].name, []).append(edge)
        for name, edges in alike.items():
            outs = [tape.steps[at].outs[0] for at, _ in edges]
            shape = tape.shape(outs[0])
            if name not in ("add", "broadcast", "broadcast_in_dim") or any(
                tape.shape(o) != shape for o in outs
            ):
                continue
            near = [slot for slot in range(outs[-1] - NEIGHBOURS, outs[-1] + NEIGHBOURS) if slot in known]
            for slot in sorted(near, key=lambda slot: abs(slot - outs[-1])):
                by = slot - outs[-1]
                if tape.shape(slot) != shape or any(
                    np.shape(known.get(o + by, 0))[1:] != shape for o in outs
                ):
                    continue
                if all(np.allclose(known[o + by], known[o]) for o in outs if o in known):
                    continue
                names = said_of(tape, e, slot), said_of(tape, e, tape.steps[edges[-1][0]].outs[0])
                where = f", in all {len(edges)} places" if len(edges) > 1 else ""
                yield Mistake(
                    f"this is the gradient of another value: {names[0]}'s is used for {names[1]}'s "
                    "in the gradient "
                    f"of {said_of(tape, e, leaf)}{where} (the steps between the two are left out)",
                    {edge: partial(_of_neighbour, out + by) for edge, out in zip(edges, outs, strict=True)},
                )


def _of_neighbour(slot: Slot, p: Passing) -> np.ndarray:
    d = p.tape.kept["known"][slot][0]
    step = p.tape.steps[p.edge[0]]
    return d if step.name == "add" else d.sum(broadcast_axes(p.tape, step)).reshape(p.right.shape)


def _gradient_of(slot: Slot, axes: tuple[int, ...], p: Passing, d: np.ndarray) -> np.ndarray:
    return p.tape.kept["known"][slot][0].sum(axes)
