"""Mistakes in which one thing is used for another: a number, a branch, a factor on the other side."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence, sizes_named
from manual_grad.checker.mistakes.mistake import (
    PASSED_ON,
    PRODUCTS,
    SAID,
    Mistake,
    arrays_by_shape,
    back_with,
    denominators,
    is_constant,
    left_out,
    made_by,
    place_of,
    said_of,
    statistic,
    stop,
    too_few_or_many,
    users_of,
)
from manual_grad.checker.tape import MEANINGLESS, Edge, Passing, Slot, Tape, computed
from manual_grad.checker.truth import is_float, is_key

REPEATED = PASSED_ON - {"neg", "slice", "stop_gradient"}
NEAR_UP_TO = 10  # values tried in one's place
NUMBERS_UP_TO, PLACES_UP_TO = 12, 60
VECTORS_UP_TO = 24
SLICES_UP_TO = 8
PRECISE = 1e-3  # the tolerance up to which numbers are told apart
CHAIN_UP_TO = 4  # functions of one value
CLIPPED_UP_TO = 8  # steps after a clip
COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal,
}  # fmt: skip


def repeated_operands_replaced(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A product's other factor computed, before it is repeated, from another value: w for 1 + w."""
    by_shape = arrays_by_shape(tape)
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name not in PRODUCTS[:2]:
            continue
        source, chain = _before_repeating(tape, step.ins[1 - edge[1]])
        if not chain or is_constant(tape, source):
            continue
        own = _without_offset(tape, source)
        near = sorted(by_shape.get(tape.shape(source), []), key=lambda slot: abs(slot - source))
        others = ([own] if own is not None else []) + [s for s in near[:NEAR_UP_TO] if s != own]
        for slot in others:
            if slot != source and not is_constant(tape, slot):
                names = said_of(tape, e, slot), said_of(tape, e, source)
                offset = " (the constant that is added to it is missing)" if slot == own else ""
                yield Mistake(
                    f"{names[0]} is used for {names[1]}{offset} in the derivative of "
                    f"{place_of(tape, e, edge)}",
                    {edge: partial(_with_repeated, slot, chain)}, stop(edge),
                )  # fmt: skip


def functions_of_others(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A product's other factor computed from another value by the right function: log p for log pₜ."""
    by_shape, made = arrays_by_shape(tape), made_by(tape)
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name not in PRODUCTS[:2]:
            continue
        inner, chain = step.ins[1 - edge[1]], list[int]()
        while inner in made and len(tape.steps[made[inner]].ins) == 1 and len(chain) < CHAIN_UP_TO:
            if tape.shape(tape.steps[made[inner]].ins[0]) != tape.shape(inner):
                break
            chain.insert(0, made[inner])
            inner = tape.steps[made[inner]].ins[0]
        names = [tape.steps[at].name for at in chain if tape.steps[at].name not in MEANINGLESS]
        if not names or names == ["reduce_precision"]:
            continue
        near = sorted(by_shape.get(tape.shape(inner), []), key=lambda slot: abs(slot - inner))
        for slot in near[:NEAR_UP_TO]:
            if slot != inner and not is_constant(tape, slot):
                wrong, right = said_of(tape, e, slot), said_of(tape, e, inner)
                called = SAID.get(names[-1], names[-1])
                yield Mistake(
                    f"{wrong} is used for {right} inside {called}, in the derivative of "
                    f"{place_of(tape, e, edge)}",
                    {edge: partial(_with_repeated, slot, chain)},
                )  # fmt: skip


def _before_repeating(tape: Tape, slot: Slot) -> tuple[Slot, list[int]]:
    """The value that a slot repeats or reshapes, and the steps that lead from it to the slot."""
    made, chain = made_by(tape), list[int]()
    while slot in made and tape.steps[made[slot]].name in REPEATED:
        chain.insert(0, made[slot])
        slot = tape.steps[made[slot]].ins[0]
    repeats = any(tape.steps[at].name in ("broadcast", "broadcast_in_dim") for at in chain)
    return slot, chain if repeats else []


def _without_offset(tape: Tape, slot: Slot) -> Slot | None:
    """The value to which a constant is added."""
    made = made_by(tape)
    step = tape.steps[made[slot]] if slot in made else None
    if step is None or step.name not in ("add", "sub"):
        return None
    varied = [s for s in step.ins if not is_constant(tape, s)]
    return varied[0] if len(varied) == 1 else None


def _with_repeated(slot: Slot, chain: Sequence[int], p: Passing) -> np.ndarray:
    value = np.asarray(p.tape.values[slot])
    for at in chain:
        step = p.tape.steps[at]
        if step.eqn is None:
            value = np.broadcast_to(value, p.tape.shape(step.outs[0]))
        else:
            value = np.asarray(computed(step.eqn, [value])[0])
    return back_with(p, value)


def numbers_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A number that the function multiplies or divides by in another one's place, or two of them swapped."""
    found: dict[Edge, tuple[float, Slot]] = {}
    for at, i in tape.edges():
        step = tape.steps[at]
        if step.name == "mul" or (step.name == "div" and i == 0):
            other = step.ins[1 - i]
            if other not in tape.active and is_float(tape.values[other]) and is_constant(tape, other):
                number = float(np.ravel(tape.values[other])[0])
                if number and np.isfinite(number):
                    found[at, i] = (number if step.name == "mul" else 1 / number, other)
    names = {number: said_of(tape, e, slot) for number, slot in found.values()}
    if len(names) > NUMBERS_UP_TO:
        return
    places = list(found)[-PLACES_UP_TO:]
    for one, another in itertools.combinations(places[-16:], 2):
        (a, slot), (b, its) = found[one], found[another]
        if a != b and tape.steps[one[0]].name == tape.steps[another[0]].name:
            said = f"{said_of(tape, e, slot)} and {said_of(tape, e, its)}"
            yield Mistake(
                f"swapped: each of two numbers is used for the other, {said}, in the derivatives of "
                f"{place_of(tape, e, one)} and {place_of(tape, e, another)}",
                {one: partial(_times, b / a), another: partial(_times, a / b)},
            )
    for edge in places:
        number, slot = found[edge]
        for value, name in names.items():
            if value != number:
                over = tape.steps[edge[0]].name == "div"
                signs = (1, -1) if number * value < 0 else (1,)
                wrong = f"1/{name}" if over and found[edge][1] != slot else name
                for sign in signs:
                    used = wrong if sign > 0 else f"−{wrong}"
                    yield Mistake(
                        f"the number {used} is used for {said_of(tape, e, slot)} "
                        f"in the derivative of {place_of(tape, e, edge)}",
                        {edge: partial(_times, sign * value / number)},
                    )


def sizes_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A number computed from one size, such as the height, in the place of the same one of another size."""
    sizes = {
        (name, axis): n
        for name, value in zip(e.point.names, e.point.values, strict=True)
        for axis, n in enumerate(np.shape(value))
    }
    numbers = {slot: edge for edge, slot in scaled_by(tape)}
    for slot, edge in numbers.items():
        for other in numbers:
            ratio = _number(tape, other) / _number(tape, slot)
            ratio = 1 / ratio if tape.steps[edge[0]].name == "div" else ratio
            if ratio == 1:
                continue
            said = _sizes_said(sizes, _number(tape, slot), _number(tape, other))
            if said:
                place = f"in the derivative of {place_of(tape, e, edge)}"
                yield Mistake(
                    f"one size is used for another: {said}, {place}", {edge: partial(_times, ratio)}
                )


def counts_replaced(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A size for the count that several steps divide by, such as that of the valid rows in a batch norm."""
    made = made_by(tape)
    found: dict[Slot, list[Edge]] = {}
    for at, i in tape.edges():
        step = tape.steps[at]
        if step.name != "div" or i or step.ins[1] in tape.active:
            continue
        count = step.ins[1]
        while count in made and tape.steps[made[count]].name in REPEATED:
            count = tape.steps[made[count]].ins[0]
        if count in made and np.size(tape.values[count]) == 1 and is_float(tape.values[count]):
            found.setdefault(count, []).append((at, i))
    for count, edges in found.items():
        value = _number(tape, count)
        for n, what in sizes_named(e).items():
            if n > 1 and value and n != value:
                name = f"{said_of(tape, e, count)} ({value:g})"
                change = partial(_times, value / n)
                told = f"divided by {n} ({what}) instead of {name}"
                yield Mistake(f"{told}, in all {len(edges)} places", dict.fromkeys(edges, change))
                for edge in edges if len(edges) > 1 else ():
                    others = dict.fromkeys([x for x in edges if x != edge], change)
                    place = place_of(tape, e, edge)
                    yield Mistake(f"{told}, in the derivative of {place}", {edge: change})
                    yield Mistake(f"{told}, in all places but the derivative of {place}", others)


def scaled_by(tape: Tape) -> Iterator[tuple[Edge, Slot]]:
    """The numbers that active values are multiplied by or divided by."""
    for at, i in tape.edges():
        step = tape.steps[at]
        if step.name == "mul" or (step.name == "div" and i == 0):
            other = step.ins[1 - i]
            if other in tape.active or not is_float(tape.values[other]) or not np.size(tape.values[other]):
                continue
            if is_constant(tape, other) and np.isfinite(_number(tape, other)) and _number(tape, other):
                yield (at, i), other


def _number(tape: Tape, slot: Slot) -> float:
    return float(np.ravel(tape.values[slot])[0])


def _sizes_said(sizes: dict[tuple[str, int], int], right: float, wrong: float) -> str:
    """``3 = 4 − 1 (axis 0 of x) for 6 = 7 − 1 (axis 1 of x)``, if both numbers are such sizes."""
    for less, each in ((0, ""), (1, " − 1")):
        for (name, axis), n in sizes.items():
            for (its, other_axis), m in sizes.items():
                if n == m or min(n, m) <= less + 1 or {right, wrong} != {float(n - less), float(m - less)}:
                    continue
                if right == n - less:
                    values = [f"{k - less} = {k}{each}" if less else str(k) for k in (m, n)]
                    of = f"axis {other_axis} of {its}", f"axis {axis} of {name}"
                    return f"{values[0]} ({of[0]}) for {values[1]} ({of[1]})"
    return ""


def _times(factor: float, p: Passing) -> np.ndarray:
    return factor * p.right


def branches_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A branch of ``where`` chosen by another value, such as the output; one of a minimum's two always."""
    yield from _always_one(tape, e)
    made, by_shape = made_by(tape), arrays_by_shape(tape)
    for at, step in enumerate(tape.steps):
        if step.name != "select_n" or len(step.ins) != 3 or step.outs[0] not in tape.active:
            continue
        source, chain = step.ins[0], list[int]()
        while source in made and tape.steps[made[source]].name in REPEATED:
            chain.insert(0, made[source])
            source = tape.steps[made[source]].ins[0]
        if chain or source not in made or tape.steps[made[source]].name not in COMPARED:
            continue
        asked = tape.steps[made[source]]
        own = [slot for slot in asked.ins if not is_constant(tape, slot)]
        if len(own) != 1:
            continue
        near = sorted(by_shape.get(tape.shape(own[0]), []), key=lambda slot: abs(slot - step.outs[0]))
        for slot in near[:NEAR_UP_TO]:
            if slot == own[0] or is_constant(tape, slot):
                continue
            names = said_of(tape, e, slot), said_of(tape, e, own[0])
            phrase = f"the branch of where is chosen by {names[0]}, where {names[1]} belongs"
            yield Mistake(
                f"{phrase}, in the backward pass",
                {(at, i): partial(_chosen_by, slot, made[source], own[0]) for i in (1, 2)},
            )


def _always_one(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The cotangent of a maximum or minimum of two values always passed to the same one."""
    for at, step in enumerate(tape.steps):
        if step.name not in ("max", "min") or len(set(step.ins) & tape.active) != 2:
            continue
        for i in (0, 1):
            names = [said_of(tape, e, slot) for slot in step.ins]
            mine, other = names[i], names[1 - i]
            zero = ""
            if _is_clipped(tape, step.ins[i]) and not _is_clipped(tape, step.ins[1 - i]):
                mine, other = f"the clipped one ({mine})", f"the one that is not clipped ({other})"
                zero = "; it is 0 wherever the value is clipped, also where the other one is chosen"
            which = "larger" if step.name == "max" else "smaller"
            yield Mistake(
                f"the mask of a {step.name}imum of two values is wrong: the gradient always goes to {mine}, "
                f"also where {other} is the {which}{zero}",
                {(at, i): left_out, **stop((at, 1 - i))},
            )


def _is_clipped(tape: Tape, slot: Slot) -> bool:
    """Whether a value is clipped, perhaps with a factor."""
    made = made_by(tape)
    for _ in range(CLIPPED_UP_TO):
        step = tape.steps[made[slot]] if slot in made else None
        if step is None or step.name in ("clamp", "max", "min"):
            return step is not None
        varied = [s for s in step.ins if s in tape.active]
        if step.name not in ("mul", "div", "neg", *REPEATED) or len(varied) != 1:
            return False
        slot = varied[0]
    return False


def _chosen_by(slot: Slot, at: int, own: Slot, p: Passing) -> np.ndarray:
    step = p.tape.steps[at]
    left, right = (np.asarray(p.tape.values[slot if s == own else s]) for s in step.ins)
    return np.where(COMPARED[step.name](left, right) == bool(p.edge[1] - 1), p.cotangent, 0.0)


def shared_products(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A product used in several places: the path back from one of them to one factor; factors swapped."""
    users = users_of(tape)
    for at, step in enumerate(tape.steps):
        if step.name == "mul" and len(set(step.ins) & tape.active) == 2:
            names = " and ".join(said_of(tape, e, slot) for slot in step.ins)
            yield Mistake(
                "swapped: each factor of a product gets its own value times the cotangent, not the other's "
                f"({names})",
                {(at, i): lambda p: p.cotangent * np.asarray(p.operands[p.edge[1]]) for i in (0, 1)},
            )
    for at, i in tape.edges():
        step = tape.steps[at]
        if step.name != "mul" or is_constant(tape, step.ins[1 - i]):
            continue
        after = users.get(step.outs[0], [])
        for use in after[:4] if len(after) > 1 else ():
            place = f"{place_of(tape, e, (at, i))}, as it is used in {place_of(tape, e, use)}"
            yield Mistake(place, {}, {use: partial(_noted, use), (at, i): partial(_less, use)}, path=True)


def _noted(edge: Edge, p: Passing) -> np.ndarray:
    p.notes["shared"] = p.right
    return p.right


def _less(edge: Edge, p: Passing) -> np.ndarray:
    return p.right - p.notes["shared"] * np.asarray(p.operands[1 - p.edge[1]])


# --- a factor on the other side of a matrix product -------------------------------------------------------


def factors_on_the_other_side(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A gate on the state for one on the cotangent, in the gradient of a matrix, or the other way round."""
    made = made_by(tape)
    for at, i in tape.edges():
        step = tape.steps[at]
        if step.name != "mul" or is_constant(tape, step.ins[1 - i]):
            continue
        factor = step.ins[1 - i]
        name = said_of(tape, e, factor)
        found = _product_before(tape, step.ins[i])
        if found is not None:
            product, where = found
            for k in (0, 1):
                matrix, state = tape.steps[product].ins[k], tape.steps[product].ins[1 - k]
                if matrix in tape.active and tape.shape(state) == tape.shape(factor):
                    W = said_of(tape, e, matrix)
                    yield Mistake(
                        f"the factor {name} is put on {said_of(tape, e, state)} in the gradient of {W}: "
                        f"d ⊗ ({name} · h), where (d · {name}) ⊗ h belongs",
                        {(product, k): partial(_on_the_state, factor, where, True)},
                    )
                    yield Mistake(
                        f"the factor {name} is missing in the gradient of {W}: it belongs to the cotangent",
                        {(product, k): partial(_on_the_state, factor, where, False)},
                    )
    for at, k in tape.edges():
        step = tape.steps[at]
        state = step.ins[1 - k] if step.name == "dot_general" else -1
        inner = tape.steps[made[state]] if state in made else None
        if inner is None or inner.name != "mul":
            continue
        for factor, h in (inner.ins, inner.ins[::-1]):
            if tape.shape(factor) == tape.shape(step.outs[0]) and not is_constant(tape, factor):
                name, W = said_of(tape, e, factor), said_of(tape, e, step.ins[k])
                yield Mistake(
                    f"the factor {name} is put on the cotangent in the gradient of {W}: (d · {name}) ⊗ h, "
                    f"where d ⊗ ({name} · h) belongs",
                    {(at, k): partial(_on_the_cotangent, factor, h)},
                )
                inside = {inner.ins[i]: (made[state], i) for i in (0, 1)}
                if h in tape.active and factor in tape.active:
                    yield Mistake(
                        f"the factor {name} is applied after the product with {W} instead of before it: the "
                        f"gradient is that of {name} · (h W), where ({name} · h) W belongs (as in the other "
                        "variant of the GRU)",
                        {
                            (at, k): partial(_on_the_cotangent, factor, h),
                            (at, 1 - k): partial(_after_the_factor, factor),
                            inside[h]: lambda p: p.cotangent,
                            inside[factor]: partial(_of_the_product, at, k, h),
                        },
                    )


def _product_before(tape: Tape, slot: Slot) -> tuple[int, np.ndarray] | None:
    """The matrix product whose entries, perhaps with a bias, a value has, and which entries they are."""
    made, chain = made_by(tape), list[tuple[int, int]]()
    while slot in made and tape.steps[made[slot]].name != "dot_general":
        step = tape.steps[made[slot]]
        inner = [k for k, s in enumerate(step.ins) if s in tape.active and tape.shape(s)]
        through = [k for k in inner if _leads_from_product(tape, step.ins[k])]
        if step.name not in ("add", "slice", "split", "dynamic_slice", *REPEATED) or len(through) != 1:
            return None
        chain.insert(0, (made[slot], slot))
        slot = step.ins[through[0]]
    if slot not in made:
        return None
    product = made[slot]
    where = np.arange(float(np.prod(tape.shape(slot)))).reshape(tape.shape(slot))
    for at, out in chain:
        step = tape.steps[at]
        if step.name == "add":
            continue
        ins = [where, *(tape.values[s] for s in step.ins[1:])]
        if step.eqn is None or step.name in ("broadcast", "broadcast_in_dim"):
            return None
        where = np.asarray(computed(step.eqn, ins)[step.outs.index(out)])
    return product, where.astype(int)


def _leads_from_product(tape: Tape, slot: Slot, steps: int = 8) -> bool:
    made = made_by(tape)
    for left in range(steps, 0, -1):
        step = tape.steps[made[slot]] if slot in made else None
        if step is None or step.name == "dot_general":
            return step is not None
        if step.name == "add":
            return any(_leads_from_product(tape, s, left - 1) for s in step.ins if s in tape.active)
        if step.name not in ("slice", "split", "dynamic_slice", *REPEATED):
            return False
        slot = step.ins[0]
    return False


def _on_the_state(factor: Slot, where: np.ndarray, moved: bool, p: Passing) -> np.ndarray:
    f, state = np.asarray(p.tape.values[factor]), np.asarray(p.operands[1 - p.edge[1]])
    rest, part = p.cotangent.copy(), np.zeros_like(p.cotangent)
    part.flat[where] = p.cotangent.flat[where] / f
    rest.flat[where] = 0
    first = back_with(Passing(p.tape, p.edge, rest, p.right, p.notes), state)
    return first + back_with(Passing(p.tape, p.edge, part, p.right, p.notes), state * f if moved else state)


def _on_the_cotangent(factor: Slot, h: Slot, p: Passing) -> np.ndarray:
    d = p.cotangent * np.asarray(p.tape.values[factor])
    return back_with(Passing(p.tape, p.edge, d, p.right, p.notes), np.asarray(p.tape.values[h]))


def _after_the_factor(factor: Slot, p: Passing) -> np.ndarray:
    p.notes["after the factor", p.edge[0]] = p.cotangent
    d = p.cotangent * np.asarray(p.tape.values[factor])
    return back_with(Passing(p.tape, p.edge, d, p.right, p.notes), p.operands[1 - p.edge[1]])


def _of_the_product(at: int, k: int, h: Slot, p: Passing) -> np.ndarray:
    """The cotangent of the product times h W."""
    (d,) = (x for key, x in p.notes.items() if isinstance(key, tuple) and key[0] == "after the factor")
    step = p.tape.steps[at]
    ins = [np.asarray(p.tape.values[slot if i == k else h]) for i, slot in enumerate(step.ins)]
    return d * np.asarray(computed(step.eqn, ins)[0])


# --- a factor for each row --------------------------------------------------------------------------------


def scaled_by_slices(tape: Tape, e: Evidence) -> str:
    """Each slice along an axis without a number that it is multiplied by, such as (W − 1)/2 for x alone."""
    if e.got.shape != e.want.shape or e.hidden is not None or e.tolerance > PRECISE:
        return ""
    numbers = _products(tape)
    for axis, n in enumerate(e.want.shape):
        others = tuple(a for a in range(e.want.ndim) if a != axis)
        square = (e.want**2).sum(others, keepdims=True)
        whole = (e.got * e.want).sum(others, keepdims=True) / square
        ratio = whole.ravel()
        if not 1 < n <= SLICES_UP_TO or e.want.size == n or not np.all(np.isfinite(ratio)):
            continue
        if np.ptp(ratio) <= 1e-3 * np.max(np.abs(ratio)) or not e.same(e.got, whole * e.want):
            continue
        for what, factors in (("missing", 1 / ratio), ("applied once too often", ratio)):
            some = [_near_number(e, numbers, factor) for factor in factors]
            if all(some) and set(some) != {1.0}:
                said = _as_sizes(e, some) or [f"{number:.6g}" for number in some]
                places = ", ".join(f"{name} at {k}" for k, name in enumerate(said) if name != "1")
                return f"a number that each slice along axis {axis} is multiplied by is {what}: {places}"
        for which, by in (("n is used for n − 1", 1.0), ("n − 1 is used for n", -1.0)):
            sizes = {(n / (n - 1)) ** by: f"{n} ({what})" for n, what in sizes_named(e).items() if n > 2}
            names = [
                next((x for s, x in sizes.items() if abs(r / s - 1) <= 8 * e.tolerance), "") for r in ratio
            ]
            if all(names):
                places = ", ".join(f"n = {name} at {k}" for k, name in enumerate(names))
                return f"{which} in what each slice along axis {axis} is multiplied by: {places}"
    return ""


def _products(tape: Tape) -> set[float]:
    """The numbers that values are multiplied by, and the products of two of them."""
    found = {1.0}
    for edge, slot in scaled_by(tape):
        number = _number(tape, slot)
        found.add(number if tape.steps[edge[0]].name == "mul" else 1 / number)
    some = sorted(found, key=abs)[-NUMBERS_UP_TO:]
    return {a * b for a, b in itertools.product(some, some)}


def _near_number(e: Evidence, numbers: set[float], factor: float) -> float:
    """The number that a factor equals, up to rounding; 0 if there is none."""
    return next((x for x in numbers if abs(factor / x - 1) <= 8 * e.tolerance), 0.0)


SIZES: dict[str, Callable[[int], float]] = {
    "({} − 1)/2": lambda n: (n - 1) / 2,
    "{} − 1": lambda n: n - 1,
    "{}/2": lambda n: n / 2,
    "{}": lambda n: n,
    "2/{}": lambda n: 2 / n,
    "1/{}": lambda n: 1 / n,
}


def _as_sizes(e: Evidence, numbers: Sequence[float]) -> list[str]:
    """The numbers as sizes, such as (W − 1)/2, if all but 1 are of one form; otherwise nothing."""
    for form, of in SIZES.items():
        known = {of(n): f"{form.format(n)} ({what})" for n, what in sizes_named(e).items() if n > 2}
        said = ["1" if x == 1 else known.get(round(x, 9), "") for x in numbers]
        if all(said):
            return [one if x == 1 else f"{x:.6g} = {one}" for x, one in zip(numbers, said, strict=True)]
    return []


def scaled_by_rows(tape: Tape, e: Evidence) -> str:
    """The truth with each row multiplied by a value of the function, or by a quotient of two."""
    if e.got.shape != e.want.shape or e.want.ndim < 2 or e.hidden is not None:
        return ""
    for axis, n in enumerate(e.want.shape):
        others = tuple(a for a in range(e.want.ndim) if a != axis)
        square = (e.want**2).sum(others, keepdims=True)
        ratio = (e.got * e.want).sum(others, keepdims=True) / square
        if n < 3 or not np.all(np.isfinite(ratio)) or np.ptp(ratio) <= 1e-3 * np.max(np.abs(ratio)):
            continue
        if e.same(e.got, ratio * e.want):
            return "\n".join(_rows_said(tape, e, ratio.ravel(), axis))
    return ""


def _rows_said(tape: Tape, e: Evidence, ratio: np.ndarray, axis: int) -> list[str]:
    vectors: dict[str, tuple[Slot, np.ndarray]] = {}
    for slot, value in enumerate(tape.values):
        if not is_key(value) and np.size(value) == len(ratio) and is_float(value):
            flat = np.ravel(np.asarray(value))
            if np.all(flat) and np.all(np.isfinite(flat)) and np.ptp(flat) and len(vectors) < VECTORS_UP_TO:
                vectors.setdefault(said_of(tape, e, slot), (slot, flat))
    entry = f"entry i of the gradient along axis {axis} is scaled"
    said: list[str] = []
    for name, (slot, v) in vectors.items():
        missing, extra = too_few_or_many(tape, slot, name)
        said += [f"{extra}: {entry} by its entry i"] * e.same(ratio, v)
        said += [f"{missing}: {entry} by 1 over its entry i"] * e.same(ratio, 1 / v)
    pairs = itertools.permutations(vectors.items(), 2)
    alike = sorted(pairs, key=lambda pair: not _same_kind(tape, pair[0][1][0], pair[1][1][0]))
    below = denominators(tape)
    for (name, (slot, v)), (other, (_, w)) in alike:
        if e.same(ratio, v / w):
            divides = slot in below  # v/w: divided by w, where v belongs
            wrong, right = (other, name) if divides else (name, other)
            said.append(f"{wrong} is used for {right}{' as a divisor' if divides else ''}: {entry}")
    return said[:1]


def _same_kind(tape: Tape, one: Slot, other: Slot) -> bool:
    kinds = [(statistic(tape, slot) or [""])[0] for slot in (one, other)]
    return kinds[0] == kinds[1] != ""
