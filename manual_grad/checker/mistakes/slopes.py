"""Mistakes in paths and slopes: missing, with the wrong sign, omitted, applied twice, or another step's."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.factors import slope_at
from manual_grad.checker.mistakes.iterations import loop_of
from manual_grad.checker.mistakes.layers import SLOPES_MISTAKEN, is_mask
from manual_grad.checker.mistakes.mistake import (
    MASKS,
    PASSED_ON,
    SAID,
    Mistake,
    alike,
    is_constant,
    left_out,
    made_by,
    nothing,
    place_of,
    said_of,
    statistic,
    stop,
    users_of,
)
from manual_grad.checker.tape import (
    ELEMENTWISE,
    MEANINGLESS,
    Change,
    Edge,
    Passing,
    Slot,
    Tape,
    computed,
    pulling,
)

CHAIN_UP_TO = 6  # steps before a slope
SHORTEST_LOOP = 3  # steps that look like those of a loop
LOOKED_AT = 12  # values after a step that are searched for the next state of a recursion
REPEATING = {"broadcast", "broadcast_in_dim"}  # of pairs: the differences along rows, and along columns
CHOOSING = {"max", "min", "select_n", "clamp"}
INTEREST = ("reduce_sum", "dot_general", "exp", "log", "tanh", "logistic", "integer_pow", "square", "sqrt")


def paths(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The cotangent through one operand of one step: missing, with the wrong sign, or scaled."""

    def telling(edge: Edge) -> int:
        name = tape.steps[edge[0]].name
        return INTEREST.index(name) if name in INTEREST else 20 + 10 * (name in PASSED_ON)

    for edge in sorted(tape.edges(), key=telling):
        at, operand = edge
        ins = tape.steps[at].ins
        if ins.index(ins[operand]) == operand:  # both operands of a value times itself form one path
            same = [(at, i) for i, slot in enumerate(ins) if slot == ins[operand]]
            yield Mistake(place_of(tape, e, edge), {}, stop(*same), path=True)
            if len(same) > 1 and tape.steps[at].name == "dot_general":
                yield from (Mistake(place_of(tape, e, one), {}, stop(one), path=True) for one in same)


def loops(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The cotangents through all steps of a loop, or through all but one."""
    sums = [edge for edge in tape.edges() if tape.steps[edge[0]].name == "reduce_sum" and tape.shape(
        tape.steps[edge[0]].outs[0])]  # fmt: skip
    if len(sums) > 1:
        yield Mistake("a path is missing: nothing flows back through the sums", stop(*sums))
    for edges in alike(tape):
        place = place_of(tape, e, edges[-1])
        n = len(edges)
        missing = "a path is missing: nothing flows back through"
        yield Mistake(f"{missing} {place}, in all {n} places", stop(*edges))
        one = {tape.steps[at].ins[i] for at, i in edges}
        why = f" (overwritten at each of {n} steps, not added up)" if len(one) == 1 else ""
        yield Mistake(f"{missing} {place}, but in the last of {n} steps{why}", stop(*edges[:-1]))
        yield Mistake(f"{missing} {place}, but in the first of {n} steps{why}", stop(*edges[1:]))
        for k in range(2, min(n, 9)):
            yield Mistake(f"{missing} {place}, but in the last {k} of {n} steps", stop(*edges[:-k]))
        yield Mistake(f"sign flipped in all {n} places: in what flows back through {place}",
                      dict.fromkeys(edges, lambda p: -p.right))  # fmt: skip


def recursions(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The cotangents through one lag of a recursion, such as from y[t + 2] to y[t], in all its steps."""
    for edges in alike(tape):
        by_factor: dict[Slot, list[Edge]] = {}
        for at, i in edges:
            others = [slot for k, slot in enumerate(tape.steps[at].ins) if k != i]
            by_factor.setdefault(others[0] if others else -1, []).append((at, i))
        for some in by_factor.values() if len(by_factor) > 1 else ():
            lag = _lag(tape, [tape.steps[at].ins[i] for at, i in some], some)
            if lag and len(some) > 1:
                yield Mistake(
                    f"a path is missing: nothing flows back through {place_of(tape, e, some[-1])} "
                    f"(lag {lag} of a recursion, from y[t + {lag}] to y[t], in all {len(some)} steps)",
                    stop(*some),
                )


def _lag(tape: Tape, states: Sequence[Slot], edges: Sequence[Edge]) -> int:
    """The number of states of a recursion that all the steps advance by; 0 if there is no such number."""
    made, users = made_by(tape), users_of(tape)
    order = {slot: k for k, slot in enumerate(sorted({s for s in states if s in made or s in tape.leaves}))}
    lags = set()
    for state, (at, _) in list(zip(states, edges, strict=True)):
        near, seen, met = [tape.steps[at].outs[0]], set[Slot](), None
        while near and met is None and len(seen) < LOOKED_AT:
            slot = near.pop(0)
            if slot in order and slot != state:
                met = slot
            elif slot not in seen:
                seen.add(slot)
                near.extend(tape.steps[user].outs[0] for user, _ in users.get(slot, ()))
        if met is not None:
            lags.add(order[met] - order[state])
    return lags.pop() if len(lags) == 1 else 0


def terms(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """One of two terms of a sum twice, or in place of the other; two paths missing at once."""
    into: dict[Slot, list[Edge]] = {}
    for edge in tape.edges():
        into.setdefault(tape.steps[edge[0]].ins[edge[1]], []).append(edge)
    for edges in into.values():
        for some in itertools.combinations(edges[:6], 2) if len(edges) > 2 else ():
            two = " and ".join(place_of(tape, e, edge) for edge in some)
            yield Mistake(f"a path is missing in two places: nothing flows back through {two}", stop(*some))
        for one, other in itertools.permutations(edges[:6], 2):
            first, second = (tape.steps[edge[0]].name for edge in (one, other))
            if {first, second} & CHOOSING:  # a mask of one alone may have the same effect
                continue
            symmetric = " (a matrix is assumed to be symmetric)"
            why = symmetric if "dot_general" in (first, second) or {first, second} <= REPEATING else ""
            phrase = f"one of two terms twice, the other not at all{why}: {place_of(tape, e, one)}"
            yield Mistake(phrase, {one: lambda p: 2 * p.right, other: nothing})
    edges = list(tape.edges())[:40]
    for one, other in itertools.combinations(edges, 2):
        places = place_of(tape, e, one), place_of(tape, e, other)
        both = f"nothing flows back through {places[0]} and {places[1]}"
        yield Mistake(f"a path is missing in two places: {both}", stop(one, other))


def elementwise(tape: Tape) -> dict[str, list[Edge]]:
    """The steps that have slopes of their own, by name."""
    found: dict[str, list[Edge]] = {}
    for edge in tape.edges():
        name = tape.steps[edge[0]].name
        if name in ELEMENTWISE and name not in MEANINGLESS:
            found.setdefault(name, []).append(edge)
    return found


def _everywhere(phrase: str, edges: Sequence[Edge], change: Change) -> Iterator[Mistake]:
    """A mistake in every step of a kind, and in each of them alone."""
    if len(edges) == 1:
        yield Mistake(phrase, {edges[0]: change}, stop(edges[0]))
        return
    yield Mistake(phrase, dict.fromkeys(edges, change))
    for edge in dict.fromkeys((*edges[:8], *edges[-8:])):  # a loop's last iteration represents all of them
        yield Mistake(f"{phrase} in one place", {edge: change}, stop(edge))


def slopes_left_out(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The slope of an elementwise step, or its mask, is missing."""
    for name, edges in elementwise(tape).items():
        if name in ("div", "pow", "integer_pow", "square"):
            continue
        if name == "mul":
            edges = [edge for edge in edges if is_mask(tape.values[tape.steps[edge[0]].ins[1 - edge[1]]])]
        if not edges:
            continue
        said = "zeros and ones" if name == "mul" else SAID.get(name, name)
        mask = f"missing mask (of {said})"
        phrase = mask if name in MASKS else f"the derivative of {said} is left out"
        yield from _everywhere(phrase, edges, left_out)


def masks_left_out(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """All masks of several kinds missing together, like those of a clip."""
    found = {name: edges for name, edges in elementwise(tape).items() if name in MASKS and name != "mul"}
    if len(found) > 1:
        names = " and ".join(SAID.get(name, name) for name in found)
        every = itertools.chain.from_iterable(found.values())
        yield Mistake(f"missing mask (of {names})", dict.fromkeys(every, left_out))


def wrong_slopes(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The slope of an elementwise step applied twice, taken at the wrong value, or replaced by another."""
    found = elementwise(tape)
    yield from _of_scaled_results(tape, e, found)
    yield from _cases(tape, e, found.get("select_n", ()))
    for name, edges in found.items():
        said = SAID.get(name, name)
        if name in MASKS:
            if name in ("max", "min"):
                yield from _everywhere("mask inverted", edges, lambda p: p.cotangent - p.right)
            continue
        if all(len(tape.steps[at].ins) == 1 for at, _ in edges) and name not in ("square", "integer_pow"):
            yield from _everywhere(f"the derivative of {said} is applied twice", edges, _twice)
            phrase = f"the derivative of {said} is taken at its output instead of its input"
            yield from _everywhere(phrase, edges, _at_output)
        for formula, slope in SLOPES_MISTAKEN.get("sigmoid" if name == "logistic" else name, {}).items():
            root = name == "sqrt" and all(_is_norm(tape, edge) for edge in edges)
            formula = formula.replace("by the root", "by the norm") if root else formula
            phrase = f"the derivative of {said} is wrong: {formula}"
            yield from _everywhere(phrase, edges, partial(_with_slope, slope))


def _of_scaled_results(tape: Tape, e: Evidence, found: dict[str, list[Edge]]) -> Iterator[Mistake]:
    """A slope computed from the result after it is scaled, such as 1 − (c · tanh)² for a cap."""
    users = users_of(tape)
    for name in (name for name in SLOPES_OF_RESULTS if name != "max" and name in found):
        for edge in found[name][-8:]:
            out = tape.steps[edge[0]].outs[0]
            for at, i in users.get(out, ()):
                step = tape.steps[at]
                scaled = step.name == "mul" or (step.name == "div" and i == 0)
                if scaled and is_constant(tape, step.ins[1 - i]) and step.ins[1 - i] not in tape.active:
                    names = said_of(tape, e, step.outs[0]), said_of(tape, e, out)
                    yield Mistake(
                        f"the derivative of {SAID.get(name, name)} is computed from {names[0]}, where its "
                        f"own result {names[1]} belongs",
                        {edge: partial(_of_result, step.outs[0])},
                    )


def slopes_without_steps(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The slope of an activation or a cap at its input without a factor or a term."""
    made = made_by(tape)
    for at, i in tape.edges():
        step, chain = tape.steps[at], list[Edge]()
        if len(step.ins) != 1 or step.name not in ELEMENTWISE or step.name in MEANINGLESS:
            continue
        slot = step.ins[0]
        while slot in made and len(chain) < CHAIN_UP_TO:
            before = tape.steps[made[slot]]
            k = next((k for k, s in enumerate(before.ins) if s in tape.active), 0)
            if (
                before.name not in TERMS
                or len(before.ins) != 2
                or tape.shape(before.ins[k]) != tape.shape(slot)
            ):
                break
            chain.append((made[slot], k))
            slot = before.ins[k]
        for n, (left, k) in enumerate(chain):
            name = said_of(tape, e, tape.steps[left].ins[1 - k])
            said = {"mul": "the factor", "div": "the division by"}.get(tape.steps[left].name, "the term")
            yield Mistake(
                f"{said} {name} is left out of the input at which the derivative of "
                f"{SAID.get(step.name, step.name)} is taken",
                {(at, i): partial(_without_step, tuple(chain[: n + 1]))},
            )


def _without_step(chain: tuple[Edge, ...], p: Passing) -> np.ndarray:
    """The cotangent if the first of some steps is omitted from the value at which a slope is taken."""
    tape = p.tape
    x = np.asarray(tape.values[tape.steps[chain[-1][0]].ins[chain[-1][1]]])
    for at, k in chain[-2::-1]:
        step = tape.steps[at]
        x = np.asarray(
            computed(step.eqn, [x if j == k else tape.values[s] for j, s in enumerate(step.ins)])[0]
        )
    step = tape.steps[p.edge[0]]
    written = ELEMENTWISE[step.name]
    if written is None:
        return np.asarray(pulling(step, [x], [0])(np.asarray(p.cotangent))[0])
    return p.cotangent * written([x], np.asarray(computed(step.eqn, [x])[0]), step, 0)


def slopes_of_another_step(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A slope computed from a step's result, taken from the step before or after in a loop."""
    for edges in alike(tape):
        steps = [tape.steps[at] for at, _ in edges]
        name, shape = steps[0].name, tape.shape(steps[0].outs[0])
        if name not in SLOPES_OF_RESULTS or (len(edges) < SHORTEST_LOOP and loop_of(tape) is None):
            continue
        outs = [step.outs[0] for step in steps]
        ends = [slot for slot in tape.leaves if tape.shape(slot) == shape] or outs[:1]
        phrase = f"the derivative of {SAID.get(name, name)} is taken from the result of the step"
        for end in ends[:4]:
            for which, moved in (("before", [end, *outs[:-1]]), ("after", [*outs[1:], end])):
                changes = {edge: partial(_of_result, slot) for edge, slot in zip(edges, moved, strict=True)}
                yield Mistake(f"{phrase} {which}, in all {len(edges)} places", changes)


def _of_result(slot: Slot, p: Passing) -> np.ndarray:
    return p.cotangent * SLOPES_OF_RESULTS[p.tape.steps[p.edge[0]].name](np.asarray(p.tape.values[slot]))


TERMS = ("mul", "div", "add", "sub")
SLOPES_OF_RESULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": lambda a: 1 - a**2,
    "logistic": lambda a: a * (1 - a),
    "exp": lambda a: a,
    "max": lambda a: (a > 0).astype(float),
}


def _is_norm(tape: Tape, edge: Edge) -> bool:
    return (statistic(tape, tape.steps[edge[0]].outs[0]) or [""])[0] == "norm"


def _twice(p: Passing) -> np.ndarray:
    return p.right * p.tape.slope(p.edge)


def _at_output(p: Passing) -> np.ndarray:
    return slope_at(p.tape.steps[p.edge[0]].outs[0], p)


def _with_slope(slope: Callable[[Any, Any], Any], p: Passing) -> np.ndarray:
    return p.cotangent * slope(np.asarray(p.operands[0]), np.asarray(p.result))


def _cases(tape: Tape, e: Evidence, edges: Sequence[Edge]) -> Iterator[Mistake]:
    """``where``: the branches swapped, or the slope of one of them taken everywhere."""
    steps = dict.fromkeys(at for at, _ in edges)
    for at in steps:
        mine = [edge for edge in edges if edge[0] == at]
        chosen = np.asarray(tape.values[tape.steps[at].ins[0]])
        if np.all(chosen == chosen.flat[0]):
            continue
        yield Mistake("mask inverted: the branches of where are swapped",
                      dict.fromkeys(mine, lambda p: p.cotangent - p.right))  # fmt: skip
        for edge in mine:
            others = [other for other in mine if other != edge]
            yield Mistake(
                f"wrong branch: the slope of the {('first', 'second')[edge[1] < 2]} branch of where, "
                f"{said_of(tape, e, tape.steps[at].ins[edge[1]])}, is taken everywhere",
                {edge: left_out, **stop(*others)},
            )
            if others:
                yield Mistake(
                    "missing mask: both branches of where are added",
                    dict.fromkeys(mine, left_out),
                )


def powers(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The factor or the lower exponent of a power's derivative missing."""
    exponents = {edge: n for edge in tape.edges() if (n := _exponent(tape, edge)) not in (None, 0, 1)}
    for edge, n in exponents.items():
        wrong: dict[str, Change] = {f"the factor {n} from a power's derivative is missing": partial(_over, n)}
        if n != 2:
            wrong[f"the exponent {n} of a power is not lowered"] = partial(_raised, 1)
            wrong[f"the exponent {n} of a power is lowered twice"] = partial(_raised, -1)
        for other in sorted({*exponents.values()} - {n}):
            of_another = f"the factor {n} from a power's derivative is another power's, {other}"
            wrong[of_another] = partial(_over, n / other)
        yield from (Mistake(phrase, {edge: change}) for phrase, change in wrong.items())
    for base in dict.fromkeys(tape.steps[at].ins[0] for at, _ in exponents):
        of_it = {edge: n for edge, n in exponents.items() if tape.steps[edge[0]].ins[0] == base}
        if len(of_it) > 1:
            yield Mistake(
                "the exponents of powers are not brought down: the factor of their derivatives is missing",
                {edge: partial(_over, n) for edge, n in of_it.items()},
            )
            yield Mistake(
                "the exponents of powers are not lowered", dict.fromkeys(of_it, partial(_raised, 1))
            )
    for edge in tape.edges():
        if tape.steps[edge[0]].name == "pow" and edge[1] == 0:
            wrong = {
                "the exponent of a power is not brought down: its derivative lacks the factor": _over_own,
                "the exponent of a power is not lowered": partial(_raised, 1),
            }
            yield from (Mistake(phrase, {edge: change}, stop(edge)) for phrase, change in wrong.items())
        if tape.steps[edge[0]].name == "pow" and edge[1] == 1:
            phrase = "the logarithm is missing in the derivative of a power with respect to its exponent"
            yield Mistake(phrase, {edge: lambda p: p.right / np.log(np.asarray(p.operands[0]))}, stop(edge))


def _exponent(tape: Tape, edge: Edge) -> float | None:
    """The exponent of a power, if it is a single number."""
    step = tape.steps[edge[0]]
    if step.name in ("square", "integer_pow"):
        return 2 if step.name == "square" else step.eqn.params["y"]
    if step.name != "pow" or edge[1] != 0 or step.ins[1] in tape.active:
        return None
    values = np.unique(tape.values[step.ins[1]])
    return float(values[0]) if len(values) == 1 else None


def _over_own(p: Passing) -> np.ndarray:
    return p.right / np.asarray(p.operands[1])


def _over(n: float, p: Passing) -> np.ndarray:
    return p.right / n


def _raised(by: int, p: Passing) -> np.ndarray:
    return p.right * np.asarray(p.operands[0]) ** float(by)
