"""Mistakes with two sets of probabilities, such as a router's: all of them, and those of the chosen ones."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.attention import Softmax, softmaxes_of
from manual_grad.checker.mistakes.mistake import (
    PASSED_ON,
    Mistake,
    arrays_by_shape,
    made_by,
    nothing,
    place_of,
    said_of,
    users_of,
)
from manual_grad.checker.mistakes.windows import multiplied_by, rearranged, with_another
from manual_grad.checker.tape import Change, Edge, Passing, Slot, Tape

OTHERS_UP_TO = 4  # sets of probabilities
USES_UP_TO = 6
LABELS_UP_TO = 12  # arrays among which labels are looked for
Values = Callable[[Tape], np.ndarray]


def probabilities_of_others(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The probabilities of the chosen ones, or of another temperature, for the right ones of a softmax."""
    for softmax in softmaxes_of(tape):
        slot = tape.steps[softmax.at].outs[0]
        uses = users_of(tape).get(slot, [])[:USES_UP_TO]
        known = list(_known(tape, e, slot, softmax.axes))
        for name, value in [*known, *([] if known else _renormalised_ones(tape, slot, softmax.axes, uses))]:
            said = f"{name} in place of {said_of(tape, e, slot)}"
            of = f"in the gradient of the softmax of {said_of(tape, e, softmax.scores)}"
            every = [uses, *([use] for use in uses if len(uses) > 1)]
            for some in every if uses else ():
                part = f", in what it gets through {place_of(tape, e, some[0])}" if len(some) == 1 else ""
                changes: dict[Edge, Change] = {use: partial(_noted, use) for use in some}
                changes[softmax.exp, 0] = partial(_with_others, softmax, tuple(some), value)
                yield Mistake(f"{said} {of}{part}", changes)
            reached = rearranged(tape, slot)
            for edge in multiplied_by(tape, reached):
                change = partial(with_another, slot, value, reached)
                yield Mistake(f"{said} in the derivative of {place_of(tape, e, edge)}", {edge: change})
    yield from _log_sum_exps(tape, e)
    yield from _normalisations(tape, e)


def _known(tape: Tape, e: Evidence, slot: Slot, axes: tuple[int, ...]) -> Iterator[tuple[str, Values]]:
    """The values of the function that are other probabilities of the same shape, or their logarithms."""
    x, count = np.asarray(tape.values[slot]), 0
    for other in arrays_by_shape(tape).get(x.shape, ()) if axes else ():
        q = np.asarray(tape.values[other])
        if other not in tape.active or count == OTHERS_UP_TO:
            continue
        logarithm = bool(np.all(q <= 0) and np.allclose(np.exp(q).sum(axes), 1))
        p = np.exp(q) if logarithm else q
        if np.all(p >= 0) and np.allclose(p.sum(axes), 1) and not np.allclose(p, x):
            count += 1
            name = said_of(tape, e, other)
            yield f"exp of {name}" if logarithm else name, partial(_value, other, logarithm)


def _renormalised_ones(
    tape: Tape, slot: Slot, axes: tuple[int, ...], uses: Sequence[Edge]
) -> Iterator[tuple[str, Values]]:
    """The probabilities that one use reads, renormalised."""
    for use in uses[:OTHERS_UP_TO]:
        d = tape.kept["known"].get(use)
        if d is not None and 0 < np.count_nonzero(d[0]) < np.size(tape.values[slot]):
            said = "the renormalised probabilities of the chosen ones (top-k gates)"
            yield said, partial(_renormalised, slot, axes, use)


def _value(slot: Slot, logarithm: bool, tape: Tape) -> np.ndarray:
    value = np.asarray(tape.values[slot])
    return np.exp(value) if logarithm else value


def _renormalised(slot: Slot, axes: tuple[int, ...], use: Edge, tape: Tape) -> np.ndarray:
    kept = np.asarray(tape.values[slot]) * (tape.kept["known"][use][0] != 0)
    return kept / kept.sum(axes, keepdims=True)


def _noted(use: Edge, p: Passing) -> np.ndarray:
    p.notes["gates", use] = p.right
    return p.right


def _with_others(softmax: Softmax, uses: tuple[Edge, ...], value: Values, p: Passing) -> np.ndarray:
    d = sum(p.notes["gates", use] for use in uses)
    own, other = np.asarray(p.tape.values[p.tape.steps[softmax.at].outs[0]]), value(p.tape)
    return p.right + _jacobian(other, d, softmax.axes) - _jacobian(own, d, softmax.axes)


def _jacobian(p: np.ndarray, d: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return p * (d - (p * d).sum(axes, keepdims=True))


def _log_sum_exps(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Other values for p, the derivative of a log-sum-exp, in all that it gets or in one part."""
    made = made_by(tape)
    for at, step in enumerate(tape.steps):
        exp = made.get(step.ins[0], -1) if step.name == "reduce_sum" else -1
        logarithm = _logarithm_after(tape, step.outs[0]) if exp >= 0 else None
        if logarithm is None or tape.steps[exp].name != "exp":
            continue
        less = tape.steps[made.get(tape.steps[exp].ins[0], exp)]
        of = f"of the log-sum-exp of {said_of(tape, e, less.ins[0])}"
        uses = users_of(tape).get(logarithm, [])[:USES_UP_TO]
        for said, value in _instead_of_p(tape, e, step.ins[0], tuple(step.eqn.params["axes"])):
            phrase = f"{said} in the derivative {of}"
            yield Mistake(phrase, {(at, 0): partial(_shared_out, None, value)})
            for use in uses if len(uses) > 1 else ():
                yield Mistake(
                    f"{phrase}, in what it gets through {place_of(tape, e, use)}",
                    {use: partial(_noted, use), (at, 0): partial(_shared_out, use, value)},
                )


def _instead_of_p(
    tape: Tape, e: Evidence, slot: Slot, axes: tuple[int, ...]
) -> Iterator[tuple[str, Callable[[Tape, np.ndarray], np.ndarray]]]:
    """What p may be replaced with."""
    for name, value in _known(tape, e, slot, axes):
        yield f"{name} in place of the probabilities", partial(_whatever_p, value)
    for other in arrays_by_shape(tape).get(tape.shape(slot), ())[:LABELS_UP_TO]:
        y = np.asarray(tape.values[other])
        if (other not in tape.active or other in tape.leaves) and np.allclose(y.sum(axes), 1):
            yield f"p − {said_of(tape, e, other)} in place of p", partial(_less, other)
    yield "the probabilities are missing", lambda tape, p: np.ones_like(p)


def _whatever_p(value: Values, tape: Tape, p: np.ndarray) -> np.ndarray:
    return value(tape)


def _less(slot: Slot, tape: Tape, p: np.ndarray) -> np.ndarray:
    return p - np.asarray(tape.values[slot])


def _logarithm_after(tape: Tape, slot: Slot) -> Slot | None:
    """The logarithm of a sum, with the maximum added to it, where it is used."""
    users, logarithm = users_of(tape), False
    while True:
        mine = users.get(slot, [])
        step = tape.steps[mine[0][0]] if len(mine) == 1 else None
        alone = step is not None and len(set(step.ins) & tape.active) == 1
        if step is None or not alone or step.name not in {"log", "abs", "add", *PASSED_ON}:
            return slot if logarithm else None
        logarithm = logarithm or step.name == "log"
        slot = step.outs[0]


def _shared_out(use: Edge | None, value: Callable[[Tape, np.ndarray], np.ndarray], p: Passing) -> np.ndarray:
    """The cotangent of the exponentials if that of their sum's logarithm is shared out otherwise."""
    exponentials = np.asarray(p.operands[0])
    axes = tuple(p.tape.steps[p.edge[0]].eqn.params["axes"])
    total = exponentials.sum(axes, keepdims=True)
    d = p.right * total if use is None else p.notes["gates", use].reshape(total.shape)
    own = exponentials / total
    return p.right + d * (value(p.tape, own) - own) / exponentials


# --- x over its sum -----------------------------------------------------------------------------------------


def _normalisations(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The derivative of x / Σ x, such as of renormalised gates, left out or that of another function."""
    made = made_by(tape)
    for at, step in enumerate(tape.steps):
        slot = step.ins[1] if step.name == "div" else -1
        while slot in made and tape.steps[made[slot]].name in PASSED_ON:
            slot = tape.steps[made[slot]].ins[0]
        total = tape.steps[made[slot]] if slot in made else None
        above = tape.steps[made[step.ins[0]]].name if step.name == "div" and step.ins[0] in made else ""
        if total is None or total.name != "reduce_sum" or total.ins[0] != step.ins[0] or above == "exp":
            continue
        axes, name = tuple(total.eqn.params["axes"]), said_of(tape, e, step.ins[0])
        for said, version in OF_QUOTIENTS.items():
            yield Mistake(
                f"the derivative of {name} over its sum is {said}",
                {(at, 0): partial(_version, axes, version), (at, 1): nothing},
            )


OF_QUOTIENTS: dict[str, Callable[..., np.ndarray]] = {
    "left out: the gradient of the quotient y is taken for that of its numerator": lambda d, y, s, axes: d,
    "d − Σ y · d, where (d − Σ y · d) over the sum belongs": (
        lambda d, y, s, axes: d - (y * d).sum(axes, keepdims=True)
    ),
    "that of softmax, y · (d − Σ y · d), where (d − Σ y · d) over the sum belongs": (
        lambda d, y, s, axes: _jacobian(y, d, axes)
    ),
}


def _version(axes: tuple[int, ...], version: Callable[..., np.ndarray], p: Passing) -> np.ndarray:
    return version(p.cotangent, np.asarray(p.result), np.asarray(p.operands[1]), axes)
