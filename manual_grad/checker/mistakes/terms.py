"""Mistakes in one of several terms: a factor is missing there alone, or a factor lacks a term."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.iterations import edge_in, known_from, loop_of
from manual_grad.checker.mistakes.mistake import (
    PASSED_ON,
    PRODUCTS,
    Mistake,
    arriving,
    back_with,
    is_constant,
    made_by,
    place_of,
    said_of,
)
from manual_grad.checker.tape import ELEMENTWISE, Edge, Passing, Slot, Tape, computed, pulled_back

PRODUCTS_UP_TO = 40  # whose factors are left out of one term
TERMS_UP_TO = 8  # of the sums that a product is computed from
ABOVE_UP_TO = 16  # values that a product's operand is computed from
PARTS_UP_TO = 4  # factors of one factor
DEEPEST = 6  # steps between a factor and a sum in it
SUMS = ("add", "sub", "add_any")


def factors_missing_in_terms(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A factor, such as a class's weight, missing in one of the terms of what it multiplies.

    The terms are those of a sum, or of a slope such as σ − 1, as people expand it.
    """
    loop = loop_of(tape)
    home = loop.home if loop is not None else {}
    edges = [edge for edge in tape.edges() if tape.steps[edge[0]].name == "mul" and edge[0] not in home]
    for edge in edges[::-1][:PRODUCTS_UP_TO]:
        operand, whole = (tape.steps[edge[0]].ins[k] for k in (edge[1], 1 - edge[1]))
        above = _above(tape, operand)
        for name, rest in _factors(tape, e, whole):
            said = f"the factor {name} is missing in one of the terms that it belongs to"
            for term in _terms(tape, above):
                place = f"{said}: in what flows back through {place_of(tape, e, term)}"
                yield Mistake(place, {term: partial(_without, edge, rest)})
            left, right = said_of(tape, e, rest[0]) if rest else "1", said_of(tape, e, whole)
            less = f"{left} stands where {right} belongs"
            if left == right:
                less = f"{right} stands there without it"
            for slot in sorted((s for s in above if s in tape.active), key=lambda s: s not in tape.leaves):
                names = said_of(tape, e, operand), said_of(tape, e, slot)
                slope = f"in the slope of {names[0]} with respect to {names[1]}"
                for sign in (1.0, -1.0):
                    lost = partial(_constant_term, edge, rest, operand)
                    constant = "its constant term (1 or −1, as in σ − 1)"
                    yield Mistake(
                        f"{said}: {slope}, in {constant}, {less}", arriving(tape, slot, partial(lost, sign))
                    )
                    other = arriving(tape, slot, partial(lost, -sign))
                    if edge not in other:
                        yield Mistake(
                            f"{said}: {slope}, in all but {constant}, {less}",
                            {edge: partial(_times_rest, rest), **other},
                        )
    yield from _on_both(tape, e)


def _above(tape: Tape, slot: Slot) -> list[Slot]:
    """The values of the same shape from which one is computed, entry by entry."""
    made, found, near, shape = made_by(tape), list[Slot](), [slot], tape.shape(slot)
    while near and len(found) < ABOVE_UP_TO:
        at = made.get(near.pop(0))
        if at is None or tape.steps[at].name not in {*ELEMENTWISE, *PASSED_ON}:
            continue
        for s in tape.steps[at].ins:
            if s in tape.active and s not in found and np.size(tape.values[s]) == np.prod(shape):
                found.append(s)
                near.append(s)
    return found


def _terms(tape: Tape, above: list[Slot]) -> list[Edge]:
    """The operands of the sums among some values."""
    into = set(above)
    edges = [
        (at, i) for at, i in tape.edges() if tape.steps[at].ins[i] in into and tape.steps[at].name in SUMS
    ]
    return [x for x in edges if len(set(tape.steps[x[0]].ins) & tape.active) == 2][:TERMS_UP_TO]


def _factors(tape: Tape, e: Evidence, slot: Slot) -> Iterator[tuple[str, tuple[Slot, ...]]]:
    """The names of a product's factors, each with what remains without it."""
    if is_constant(tape, slot):
        return
    yield said_of(tape, e, slot), ()
    made, inner = made_by(tape), slot
    while inner in made and tape.steps[made[inner]].name in PASSED_ON - {"neg"}:
        inner = tape.steps[made[inner]].ins[0]
    step = tape.steps[made[inner]] if inner in made else None
    if step is not None and step.name == "mul" and len(set(step.ins)) == 2:
        for i, part in enumerate(step.ins):
            if tape.shape(inner) == tape.shape(slot):
                yield said_of(tape, e, part), (step.ins[1 - i],)


def _rest_of(tape: Tape, rest: tuple[Slot, ...]) -> Any:
    return np.asarray(tape.values[rest[0]]) if rest else 1.0


def _times_rest(rest: tuple[Slot, ...], p: Passing) -> np.ndarray:
    return p.cotangent * _rest_of(p.tape, rest)


def _known_without(tape: Tape, edge: Edge, rest: tuple[Slot, ...]) -> dict:
    """The cotangents of every slot and operand if a product's factor is replaced by a part of it."""
    key = ("without", edge, rest)
    if key not in tape.kept:
        home, k = tape.kept.get("home", (tape, 0))
        there = edge_in(home, k, edge) if k else edge
        known: dict[Any, np.ndarray] = {}
        pulled_back(home, home.kept["dout"], [{there: lambda p: p.cotangent * _rest_of(tape, rest)}], known)
        tape.kept[key] = known_from(home, k, known) if k else known
    return tape.kept[key]


def _without(edge: Edge, rest: tuple[Slot, ...], p: Passing) -> np.ndarray:
    """The cotangent of a term, without the factor where it comes from one product."""
    return p.right + _known_without(p.tape, edge, rest)[p.edge][0] - p.tape.kept["known"][p.edge][0]


def _constant_term(
    edge: Edge, rest: tuple[Slot, ...], operand: Slot, sign: float, p: Passing, d: np.ndarray
) -> np.ndarray:
    """A value's cotangent if the term ±1 of a slope lacks a factor."""
    lost = _known_without(p.tape, edge, rest)[operand][0] - p.tape.kept["known"][operand][0]
    return d + sign * lost.reshape(d.shape)


def _on_both(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A factor of one term of a sum applied to the other term too."""
    made = made_by(tape)
    for at, i in tape.edges():
        step = tape.steps[at]
        theirs = made.get(step.ins[1 - i]) if step.name in SUMS else None
        if theirs is None or tape.steps[theirs].name != "mul" or tape.shape(step.outs[0]) == ():
            continue
        for factor in tape.steps[theirs].ins:
            if not is_constant(tape, factor):
                names = said_of(tape, e, factor), said_of(tape, e, step.ins[1 - i])
                said = (
                    f"the factor {names[0]}, which belongs to {names[1]} alone, is applied to the other term"
                )
                change = partial(_with_factor, factor)
                yield Mistake(
                    f"{said} too: in what flows back through {place_of(tape, e, (at, i))}", {(at, i): change}
                )


def _with_factor(slot: Slot, p: Passing) -> np.ndarray:
    return p.right * np.asarray(p.tape.values[slot])


# --- a term missing in a factor ---------------------------------------------------------------------------


def terms_left_out_of_factors(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A product's other factor without a term of a sum, such as codes for codes minus their zero point."""
    made = made_by(tape)
    for edge in tape.edges():
        if tape.steps[edge[0]].name not in PRODUCTS:
            continue
        other = tape.steps[edge[0]].ins[1 - edge[1]]
        near: list[tuple[Slot, tuple[int, ...]]] = [(other, ())]
        for slot, chain in near:
            step = tape.steps[made[slot]] if slot in made else None
            if step is None or len(chain) > DEEPEST:
                continue
            if step.name in ("add", "sub") and len(set(step.ins)) == 2:
                for i, kept in enumerate(step.ins):
                    term = said_of(tape, e, step.ins[1 - i])
                    names = said_of(tape, e, kept), said_of(tape, e, step.outs[0])
                    told = f": {names[0]} is used for {names[1]}" if names[0] != names[1] else ""
                    yield Mistake(
                        f"the term {term} is left out{told} in the derivative of {place_of(tape, e, edge)}",
                        {edge: partial(_recomputed, kept, made[slot], chain, step.name == "sub" and i == 1)},
                    )
            if step.name in ELEMENTWISE or step.name in PASSED_ON:
                near.extend((s, (made[slot], *chain)) for s in step.ins if s in made)


def _recomputed(kept: Slot, at: int, chain: tuple[int, ...], negated: bool, p: Passing) -> np.ndarray:
    """The cotangent that a product passes on if a sum in its other factor has one term only."""
    value = p.tape.values[kept]
    changed = {p.tape.steps[at].outs[0]: -value if negated else value}
    for k in chain:
        step = p.tape.steps[k]
        ins = [changed.get(s, p.tape.values[s]) for s in step.ins]
        made = np.broadcast_to(ins[0], p.tape.shape(step.outs[0])) if step.eqn is None else computed(
            step.eqn, ins)[0]  # fmt: skip
        changed[step.outs[0]] = made
    other = p.tape.steps[p.edge[0]].ins[1 - p.edge[1]]
    return back_with(p, np.asarray(changed[other], np.float64))
