"""One value taken for another where it is recomputed or saved: log σ for σ, probabilities for logits.

The derivatives are those of the right steps, at the other value. What is computed from it later is either
recomputed too, or saved.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.indices import products_after
from manual_grad.checker.mistakes.layers import KNOWN, known_activations
from manual_grad.checker.mistakes.mistake import (
    MASKS,
    PASSED_ON,
    SAID,
    Mistake,
    denominators,
    is_constant,
    made_by,
    said_of,
    users_of,
)
from manual_grad.checker.tape import ELEMENTWISE, MEANINGLESS, Changes, Passing, Slot, Step, Tape, computed

TAKEN = "one value is taken for another"
PAIRS_UP_TO = 48
LINKS_UP_TO = 5  # steps between two values
Value = Callable[[Tape], np.ndarray]
Values = dict[Slot, Value]


def values_taken_for_others(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A value taken for one that is computed from it, or the other way round; another statistic of x."""
    yield from _of_softmaxes(tape, e)
    for slot, said, value in itertools.islice(_pairs(tape, e), PAIRS_UP_TO):
        for back in _slopes(tape, slot):
            for saved in _saved_later(tape, slot):
                yield Mistake(f"{TAKEN}: {said}", back, instead={slot: value, **saved})


def _own_value(slot: Slot, tape: Tape) -> np.ndarray:
    return np.asarray(tape.values[slot])


# --- which value for which --------------------------------------------------------------------------------


def _pairs(tape: Tape, e: Evidence) -> Iterator[tuple[Slot, str, Value]]:
    """A value, what is taken for it, and that."""
    before: dict[Slot, list[Slot]] = {}
    how = {(start, end): (name, again) for start, end, name, again in _links(tape)}
    for start, end in how:
        before.setdefault(end, []).append(start)
    for end in sorted(before, reverse=True):
        for start in _ancestors(before, end):
            name, (called, twice) = said_of(tape, e, start), how.get((start, end), ("", None))
            result = f"{called}({name})" if called in KNOWN else said_of(tape, e, end)
            if name == result or how.get((start, end), ("a function", None))[0] == "":
                continue
            again = f" ({called} is applied to its own result again)" if called else ""
            yield end, f"{name} for {result}", partial(_own_value, start)
            yield start, f"{result} for {name}{again}", partial(_own_value, end)
            if twice is not None:
                yield end, f"{result} for {name}{again}", twice
    yield from _functions(tape, e)
    yield from _statistics(tape, e)


def _statistics(tape: Tape, e: Evidence) -> Iterator[tuple[Slot, str, Value]]:
    """The mean, the maximum or the norm for a sum."""
    for step in tape.steps:
        if step.name == "reduce_sum" and tape.shape(step.outs[0]) and step.outs[0] in tape.active:
            name = said_of(tape, e, step.ins[0])
            axes = tuple(step.eqn.params["axes"])
            for kind, statistic in STATISTICS.items():
                value = partial(_statistic, statistic, step.ins[0], axes)
                yield step.outs[0], f"the {kind} of {name} for their sum", value


STATISTICS: dict[str, Callable[..., Any]] = {"mean": np.mean, "maximum": np.max, "norm": np.linalg.norm}


def _statistic(kind: Callable[..., Any], slot: Slot, axes: tuple[int, ...], tape: Tape) -> np.ndarray:
    x = np.asarray(tape.values[slot])
    if kind is np.linalg.norm:
        return np.sqrt((x**2).sum(axes))
    return np.asarray(kind(x, axis=axes))


def _links(tape: Tape) -> Iterator[tuple[Slot, Slot, str, Value | None]]:
    """Values of the same shape of which one is computed from the other alone.

    Also the function's name, and its value if it is applied to its own result.
    """
    for name, pairs in known_activations(tape).items():
        for start, end in pairs:
            yield start, end, name, partial(_of, KNOWN[name][0], end)
    for step in tape.steps:
        varied = {slot for slot in step.ins if slot in tape.active}
        if step.name in ELEMENTWISE and len(varied) == 1 and step.outs[0] in tape.active:
            start, end = *varied, step.outs[0]
            others = [s for s in step.ins if s not in varied]
            telling = step.name not in (*MEANINGLESS, *PASSED_ON, *MASKS, "div")
            if all(is_constant(tape, s) for s in others) and not is_constant(tape, end):
                name = SAID.get(step.name, step.name) if telling else ""
                yield start, end, name, partial(_applied_again, step, start) if telling else None


def _applied_again(step: Step, start: Slot, tape: Tape) -> np.ndarray:
    ins = [tape.values[step.outs[0] if slot == start else slot] for slot in step.ins]
    return np.asarray(computed(step.eqn, ins)[0])


def _functions(tape: Tape, e: Evidence) -> Iterator[tuple[Slot, str, Value]]:
    """Functions of a divisor, an exponential, or a logit that the function itself does not compute."""
    below, seen = denominators(tape), set[Slot]()
    for step in tape.steps:
        out = step.outs[0]
        if out in tape.active and (step.name == "exp" or out in below) and not is_constant(tape, out):
            name = said_of(tape, e, out)
            yield out, f"({name})² for {name}, such as a variance for σ", partial(_of, np.square, out)
            yield out, f"√({name}) for {name}, such as σ for a variance", partial(_of, np.sqrt, out)
            yield out, f"1/({name}) for {name}", partial(_of, np.reciprocal, out)
        z = step.ins[0] if step.ins else -1
        if step.name in LOGITS and z in tape.active and z not in seen and not is_constant(tape, z):
            seen.add(z)
            name = said_of(tape, e, z)
            said = f"probabilities for logits, sigmoid({name}) for {name} (it is applied to its result again)"
            yield z, said, partial(_of, KNOWN["sigmoid"][0], z)


LOGITS = ("abs", "max", "logistic", "exp")


def _of(function: Callable[..., Any], slot: Slot, tape: Tape) -> np.ndarray:
    return np.asarray(function(np.asarray(tape.values[slot])))


def _ancestors(before: dict[Slot, list[Slot]], slot: Slot) -> list[Slot]:
    found, near = list[Slot](), [slot]
    for _ in range(LINKS_UP_TO):
        near = [start for s in near for start in dict.fromkeys(before.get(s, ())) if start not in found]
        found += dict.fromkeys(near)
    return found


# --- what follows -----------------------------------------------------------------------------------------


def _slopes(tape: Tape, slot: Slot) -> Iterator[Changes]:
    """The slope of the step that computes a value: the right one, or one computed from the other value."""
    yield {}
    at = made_by(tape).get(slot)
    if at is not None and tape.steps[at].name in OF_RESULTS:
        yield {(at, i): _of_result for i, s in enumerate(tape.steps[at].ins) if s in tape.active}


OF_RESULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": lambda a: a,
    "sqrt": lambda a: 0.5 / a,
    "rsqrt": lambda a: -0.5 * a**3,
    "tanh": lambda a: 1 - a**2,
    "logistic": lambda a: a * (1 - a),
}


def _of_result(p: Passing) -> np.ndarray:
    return p.cotangent * OF_RESULTS[p.tape.steps[p.edge[0]].name](np.asarray(p.result))


def _saved_later(tape: Tape, slot: Slot) -> list[Values]:
    """The values that are saved: none, those computed from a value together with others, those after them."""
    first = _joined(tape, [slot])
    second = _joined(tape, first)
    return [{s: partial(_own_value, s) for s in some} for some in ([], first, second)]


def _joined(tape: Tape, slots: list[Slot]) -> list[Slot]:
    """The first values that are computed from some and, at the same time, from others."""
    users, near, found = users_of(tape), list(slots), list[Slot]()
    for slot in near:
        for at, _ in users.get(slot, ()):
            step = tape.steps[at]
            several = sum(not is_constant(tape, s) for s in step.ins) > 1
            to = found if several else near
            to.extend(out for out in step.outs if out not in to)
    return sorted(found)


# --- softmax ----------------------------------------------------------------------------------------------


def _of_softmaxes(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Other probabilities: the logarithm of the sum of exp for the sum, softmax applied twice."""
    made = made_by(tape)
    for step in tape.steps:
        exp = tape.steps[made[step.ins[0]]] if step.name == "reduce_sum" and step.ins[0] in made else None
        if exp is None or exp.name != "exp" or step.outs[0] not in tape.active:
            continue
        axes, start = tuple(step.eqn.params["axes"]), exp.ins[0]
        less = tape.steps[made[start]] if start in made else None
        z = less.ins[0] if less is not None and less.name == "sub" else start
        name = said_of(tape, e, z)
        for said, formula in PROBABILITIES.items():
            logits = partial(_logits, formula, z, axes)
            ones = {start: logits, step.outs[0]: partial(_ones, step.outs[0])}
            for saved in ({}, products_after(tape, step.outs[0])):
                yield Mistake(f"{TAKEN}: {said}, in the softmax of {name}", {}, instead={**ones, **saved})


def _ones(slot: Slot, tape: Tape) -> np.ndarray:
    return np.ones(tape.shape(slot))


def _logits(formula: Callable[..., Any], z: Slot, axes: tuple[int, ...], tape: Tape) -> np.ndarray:
    x = np.asarray(tape.values[z])
    largest = x.max(axes, keepdims=True)
    return np.log(formula(x, largest, lambda a: a.sum(axes, keepdims=True)))


def _softmax(z: np.ndarray, total: Callable[..., Any]) -> np.ndarray:
    e = np.exp(z)
    return e / total(e)


# From the logits z, their maximum m, and what sums.
PROBABILITIES: dict[str, Callable[..., Any]] = {
    "probabilities for logits: softmax is applied to its own result again": (
        lambda z, m, total: _softmax(_softmax(z - m, total), total)
    ),
    "the logarithm of the sum of exp for the sum, eᶻ / log Σ eᶻ for eᶻ / Σ eᶻ": (
        lambda z, m, total: np.exp(z) / np.log(total(np.exp(z)))
    ),
    "the logarithm of the sum of exp for the sum, eᶻ⁻ᵐ / log Σ eᶻ for eᶻ⁻ᵐ / Σ eᶻ⁻ᵐ, m = max z": (
        lambda z, m, total: np.exp(z - m) / (m + np.log(total(np.exp(z - m))))
    ),
    "the logarithm of the sum of exp for the sum, eᶻ⁻ᵐ / log Σ eᶻ⁻ᵐ for eᶻ⁻ᵐ / Σ eᶻ⁻ᵐ, m = max z": (
        lambda z, m, total: np.exp(z - m) / np.log(total(np.exp(z - m)))
    ),
    "the sum of exp for its logarithm, exp(z − Σ eᶻ) for exp(z − log Σ eᶻ)": (
        lambda z, m, total: np.exp(z - total(np.exp(z)))
    ),
    "the sum of exp for its logarithm, exp(z − Σ eᶻ⁻ᵐ), m = max z, for exp(z − log Σ eᶻ)": (
        lambda z, m, total: np.exp(z - total(np.exp(z - m)))
    ),
    "the sum of exp for its logarithm, exp(z − m − Σ eᶻ⁻ᵐ), m = max z, for exp(z − log Σ eᶻ)": (
        lambda z, m, total: np.exp(z - m - total(np.exp(z - m)))
    ),
    "log Σ eᶻ⁻ᵐ for log Σ eᶻ, m = max z: the maximum is not added": (
        lambda z, m, total: np.exp(z) / total(np.exp(z - m))
    ),
    "eᶻ⁻ᵐ / Σ eᶻ for eᶻ / Σ eᶻ, m = max z: the maximum is subtracted twice": (
        lambda z, m, total: np.exp(z - m) / total(np.exp(z))
    ),
    "the mean of exp for the sum, eᶻ / mean eᶻ for eᶻ / Σ eᶻ": (
        lambda z, m, total: _softmax(z - m, total) * total(np.ones_like(z))
    ),
    "the largest exp for the sum, eᶻ⁻ᵐ for eᶻ⁻ᵐ / Σ eᶻ⁻ᵐ, m = max z": (lambda z, m, total: np.exp(z - m)),
    "1 for the sum of exp, eᶻ for eᶻ / Σ eᶻ": lambda z, m, total: np.exp(z),
    "sigmoid for softmax, 1/(1 + e⁻ᶻ) for eᶻ / Σ eᶻ": lambda z, m, total: 1 / (1 + np.exp(-z)),
}
