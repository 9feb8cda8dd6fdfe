"""Mistakes in p ∘ (dp − δ), the gradient of a softmax whose probabilities p are rebuilt from what is saved.

δ = Σ p · dp, the log-sum-exp and the maximum belong to a row; people read them at another row, head or block,
subtract δ before or after another slope is applied, or rebuild p without a step such as the mask or a cap.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.blocks import noted_at, softmaxes_in, sum_below
from manual_grad.checker.mistakes.indices import parts_counted
from manual_grad.checker.mistakes.layers import masking
from manual_grad.checker.mistakes.mistake import PASSED_ON, SAID, Mistake, left_out, made_by, nothing, said_of
from manual_grad.checker.mistakes.windows import multiplied_by, rearranged, with_another
from manual_grad.checker.tape import ELEMENTWISE, Edge, Passing, Slot, Step, Tape, computed

BLOCKS_UP_TO = 9  # entries of a block, less 1
CHAIN_UP_TO = 10  # steps between the scores and their softmax
SOFTMAXES_UP_TO = 3
STATISTICS_UP_TO = 480  # mistakes
LARGEST = 700  # the exponent up to which exp is finite
OF_ROW = "the sum over a row in the gradient of a softmax, δ = Σ p · dp,"
REBUILT = "the log-sum-exp (maximum and sum) with which a softmax is rebuilt"
Rebuilt = Callable[[Tape], np.ndarray]
Moved = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Softmax:
    """A softmax.

    Attributes:
        at: the step whose result it is: a quotient, or the exponential of scores less their log-sum-exp.
        exp: the step that computes the exponentials.
        scores: what it is taken of, the maximum not subtracted.
        axes: the axes of a row.
        chain: the operands through which the scores pass, the last first, from where they are computed.
        cut: the operands through which the log-sum-exp is subtracted.
    """

    at: int
    exp: int
    scores: Slot
    axes: tuple[int, ...]
    chain: list[Edge]
    cut: tuple[Edge, ...] = ()


def softmaxes_of(tape: Tape) -> list[Softmax]:
    """The first softmaxes of a function."""
    if "softmaxes" not in tape.kept:
        tape.kept["softmaxes"] = list(itertools.islice(_found(tape), SOFTMAXES_UP_TO))
    return tape.kept["softmaxes"]


def _found(tape: Tape) -> Iterator[Softmax]:
    made = made_by(tape)
    for at, divides in softmaxes_in(tape):
        total = sum_below(tape, tape.steps[at]) if divides else None
        if total is None:
            continue
        exp = made[total.ins[0]]
        slot = tape.steps[exp].ins[0]
        if slot in made and tape.steps[made[slot]].name == "sub":
            slot = tape.steps[made[slot]].ins[0]
        if tape.shape(slot) == tape.shape(tape.steps[at].outs[0]):
            yield Softmax(at, exp, slot, tuple(total.eqn.params["axes"]), _chain(tape, slot))

    for at, step in enumerate(tape.steps):
        exponential = step.name == "exp" and step.outs[0] in tape.active
        less = made.get(step.ins[0], -1) if exponential else -1
        if less < 0 or tape.steps[less].name != "sub":
            continue
        total = _sum_of_exponentials(tape, tape.steps[less].ins[1])
        if total is None:
            continue
        slot = tape.steps[less].ins[0]
        if not np.allclose(np.asarray(tape.values[step.outs[0]]).sum(tuple(total.eqn.params["axes"])), 1):
            continue
        if slot in made and tape.steps[made[slot]].name == "sub":
            slot = tape.steps[made[slot]].ins[0]
        axes = tuple(total.eqn.params["axes"])
        yield Softmax(at, at, slot, axes, _chain(tape, slot), ((less, 1),))


def _sum_of_exponentials(tape: Tape, slot: Slot) -> Step | None:
    """The sum whose logarithm, perhaps with a maximum added, a value is."""
    made = made_by(tape)
    while slot in made:
        step = tape.steps[made[slot]]
        active = [s for s in step.ins if s in tape.active]
        if step.name == "reduce_sum":
            return step if step.ins[0] in made and tape.steps[made[step.ins[0]]].name == "exp" else None
        if len(active) != 1 or step.name not in {"log", "abs", "add", *PASSED_ON}:
            return None
        slot = active[0]
    return None


def _chain(tape: Tape, slot: Slot) -> list[Edge]:
    made, found = made_by(tape), list[Edge]()
    while slot in made and len(found) < CHAIN_UP_TO:
        step = tape.steps[made[slot]]
        active = [i for i, s in enumerate(step.ins) if s in tape.active]
        alone = len(active) == 1 or (len(active) > 1 and step.name in ("add", "sub"))
        same = active and np.size(tape.values[step.ins[active[0]]]) == np.size(tape.values[slot])
        if not alone or not same or step.name not in {*ELEMENTWISE, *PASSED_ON}:
            break
        found.append((made[slot], active[0]))
        slot = step.ins[active[0]]
    return found


@dataclass(frozen=True, eq=False)
class _Rows:
    """The scores, their probabilities, the largest score of each row, and the log-sum-exp."""

    x: np.ndarray
    p: np.ndarray
    largest: np.ndarray
    over: np.ndarray


def _rows(tape: Tape, softmax: Softmax) -> _Rows:
    key = ("rows", softmax.at)
    if key not in tape.kept:
        x = np.asarray(tape.values[softmax.scores], np.float64)
        largest = x.max(softmax.axes, keepdims=True)
        over = largest + np.log(_sum(softmax.axes, np.exp(x - largest)))
        tape.kept[key] = _Rows(x, np.asarray(tape.values[tape.steps[softmax.at].outs[0]]), largest, over)
    return tape.kept[key]


def _sum(axes: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    return x.sum(axes, keepdims=True)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _right(softmax: Softmax, tape: Tape) -> np.ndarray:
    return _rows(tape, softmax).p


def _rebuilt_with(
    tape: Tape, softmax: Softmax, value: Rebuilt | None, moved: Moved = _same, recomputed: bool = False
) -> dict[Edge, Callable[[Passing], np.ndarray]]:
    """The changes for other probabilities (None: the right ones) and for a δ that is read elsewhere.

    Without ``recomputed``, δ is computed from the output, and so with the right probabilities.
    """
    new = value or partial(_right, softmax)
    changes: dict[Edge, Callable[[Passing], np.ndarray]] = {
        (softmax.at, -1): partial(noted_at, softmax.at),
        (softmax.exp, 0): partial(_gradient, softmax, new, moved, recomputed),
        **dict.fromkeys(softmax.cut, nothing),
    }
    if value is not None:
        slot = tape.steps[softmax.at].outs[0]
        reached = rearranged(tape, slot)
        changes |= dict.fromkeys(multiplied_by(tape, reached), partial(with_another, slot, value, reached))
    return changes


def _gradient(softmax: Softmax, value: Rebuilt, moved: Moved, recomputed: bool, p: Passing) -> np.ndarray:
    d, new = p.notes["softmax", softmax.at], value(p.tape)
    return new * (d - moved(_sum(softmax.axes, d * (new if recomputed else _rows(p.tape, softmax).p))))


# --- statistics of other rows, heads or blocks ------------------------------------------------------------


def statistics_of_others(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """δ or the log-sum-exp of another row, head, sample or block than that of the probabilities."""
    return itertools.islice(_statistics_of_others(tape, e), STATISTICS_UP_TO)


def _statistics_of_others(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    for softmax in softmaxes_of(tape):
        name = said_of(tape, e, softmax.scores)
        shape = tape.shape(softmax.scores)
        in_segments = _inside_segments(_rows(tape, softmax).p, softmax.axes)
        for said, moved in itertools.chain(in_segments, _elsewhere(shape, softmax.axes)):
            belongs = f"at {said}, where each one's own belongs, in the softmax of {name}"
            yield Mistake(f"{OF_ROW} is read {belongs}", _rebuilt_with(tape, softmax, None, moved))
            value = partial(_with_others, softmax, moved, False)
            for recomputed in (False, True):
                changes = _rebuilt_with(tape, softmax, value, _same, recomputed)
                yield Mistake(f"{REBUILT} is read {belongs}", changes)
            both = f"{OF_ROW} and {REBUILT} are read {belongs}"
            yield Mistake(both, _rebuilt_with(tape, softmax, value, moved))
            changes = _rebuilt_with(tape, softmax, partial(_with_others, softmax, moved, True))
            yield Mistake(f"the maximum with which a softmax is rebuilt is read {belongs}", changes)


def _with_others(softmax: Softmax, moved: Moved, largest_alone: bool, tape: Tape) -> np.ndarray:
    rows = _rows(tape, softmax)
    statistic = rows.largest if largest_alone else rows.over
    return rows.p * np.exp(np.minimum(statistic - moved(statistic), LARGEST))


def _inside_segments(p: np.ndarray, axes: tuple[int, ...]) -> Iterator[tuple[str, Moved]]:
    """The index of a row inside its segment, which starts at the first entry that the row sees."""
    rows = p.ndim - 2
    if axes == (p.ndim - 1,) and rows >= 0:
        seen = np.any(p > 0, axis=tuple(range(rows)))
        i, starts = np.arange(len(seen)), seen.argmax(-1)
        if np.all(starts <= i) and 1 < len(set(starts)) < len(i):
            said = f"the index inside a segment, i less its start, along axis {rows} (row)"
            yield said, partial(_taken, (*p.shape[:-1], 1), rows, i - starts)
            said = f"the first row of each segment, along axis {rows} (row)"
            yield said, partial(_taken, (*p.shape[:-1], 1), rows, starts)


def _elsewhere(
    shape: tuple[int, ...], axes: tuple[int, ...]
) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Wrong places to read a row's statistic at, along one axis or two axes that follow each other."""
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    for count, axis in itertools.product((1, 2), range(len(shape))):
        merged = kept[axis : axis + count]
        n = int(np.prod(merged))
        if len(merged) != count or n < 2 or (count == 2 and 1 in merged):
            continue
        flat = (*kept[:axis], n, *kept[axis + count :])
        along = f"along axis {axis}" if count == 1 else f"along the axes {axis} and {axis + 1} taken together"
        seen = {np.arange(n).tobytes()}
        for said, index in _indices(n):
            if index.tobytes() not in seen:
                seen.add(index.tobytes())
                yield f"{said} {along} (row, head or sample)", partial(_taken, flat, axis, index)
        if count == 2:
            said = f"the place in memory of an array with axes {axis} and {axis + 1} swapped"
            yield said, partial(_in_other_order, axis)


def _indices(n: int) -> Iterator[tuple[str, np.ndarray]]:
    i = np.arange(n)
    yield "0 (the first one's)", 0 * i
    yield f"{n - 1} (the last one's)", 0 * i + n - 1
    for by, which in ((1, "the next one's"), (-1, "the previous one's")):
        yield f"i {'+' if by > 0 else '−'} 1 ({which})", (i + by) % n
        yield f"i {'+' if by > 0 else '−'} 1 ({which})", np.clip(i + by, 0, n - 1)
    for size in range(2, min(n, BLOCKS_UP_TO)):
        inside = "the index inside a block, segment or group, not that in the whole"
        yield f"i mod {size} ({inside})", i % size
        yield f"i // {size} (the index of the block or group of {size}, not that of its member)", i // size
        yield f"the first place of each block or group of {size}", i // size * size
        yield (
            f"the last place of each block or group of {size}",
            np.minimum(i // size * size + size - 1, n - 1),
        )
    yield f"{n - 1} − i (in reverse)", n - 1 - i


def _taken(flat: tuple[int, ...], axis: int, index: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.take(x.reshape(flat), index, axis).reshape(x.shape)


def _in_other_order(axis: int, x: np.ndarray) -> np.ndarray:
    return x.swapaxes(axis, axis + 1).reshape(x.shape)


# --- a slope and the sum over a row -----------------------------------------------------------------------


def slopes_before_sums(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The slope of a step before a softmax, such as a cap, applied before δ is subtracted, or to one term."""
    for softmax in softmaxes_of(tape):
        sloped = [edge for edge in softmax.chain if _has_slope(tape, edge)]
        groups = [(edge,) for edge in sloped]
        for edges in [*groups, *([tuple(sloped)] if len(sloped) > 1 else [])]:
            if any(tape.shape(tape.steps[at].outs[0]) != tape.shape(softmax.scores) for at, _ in edges):
                continue
            steps = " and ".join(dict.fromkeys(_step_said(tape, e, edge) for edge in reversed(edges)))
            belongs = "where p · (dp − δ) is multiplied by it as a whole"
            alike = len(edges) > 1 or np.ptp(_slope_of(tape, edges)) == 0  # a constant may come first
            for said, version in list(VERSIONS.items())[int(alike) :]:
                yield Mistake(
                    f"the slope of {steps} is applied in the wrong order in the gradient of a softmax: "
                    f"{said}, {belongs} (δ = Σ p · dp), in the softmax of {said_of(tape, e, softmax.scores)}",
                    {
                        (softmax.at, -1): partial(noted_at, softmax.at),
                        (softmax.exp, 0): partial(_versioned, softmax, edges, version),
                        **dict.fromkeys(edges, left_out),
                        **dict.fromkeys(softmax.cut, nothing),
                    },
                )


def _has_slope(tape: Tape, edge: Edge) -> bool:
    name = tape.steps[edge[0]].name
    return name in ELEMENTWISE and not masking(tape, edge) and bool(np.any(tape.slope(edge) != 1))


def _slope_of(tape: Tape, edges: tuple[Edge, ...]) -> np.ndarray:
    slope = np.asarray(1.0)
    for edge in edges:
        slope = slope * np.asarray(tape.slope(edge))
    return slope


def _step_said(tape: Tape, e: Evidence, edge: Edge) -> str:
    step = tape.steps[edge[0]]
    if len(step.ins) != 2:
        return SAID.get(step.name, step.name)
    signs = {"mul": "the factor", "div": "the division by", "add": "the term", "sub": "the term"}
    return f"{signs.get(step.name, step.name)} {said_of(tape, e, step.ins[1 - edge[1]])}"


Version = Callable[[np.ndarray, np.ndarray, np.ndarray, tuple[int, ...]], np.ndarray]
VERSIONS: dict[str, Version] = {
    "dp is multiplied by it before Σ p · dp is subtracted": (
        lambda p, d, slope, axes: p * (d * slope - _sum(axes, p * d * slope))
    ),
    "only dp is multiplied by it, not δ": lambda p, d, slope, axes: p * (d * slope - _sum(axes, p * d)),
    "only δ is multiplied by it, not dp": lambda p, d, slope, axes: p * (d - slope * _sum(axes, p * d)),
    "it is applied to dp inside δ too": (
        lambda p, d, slope, axes: p * slope * (d - _sum(axes, p * d * slope))
    ),
}


def _versioned(softmax: Softmax, edges: tuple[Edge, ...], version: Version, p: Passing) -> np.ndarray:
    d, slope = p.notes["softmax", softmax.at], _slope_of(p.tape, edges)
    return version(_rows(p.tape, softmax).p, d, slope, softmax.axes)


# --- probabilities rebuilt without some steps -------------------------------------------------------------


def rebuilt_without_steps(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The probabilities rebuilt without a mask, a scale or a cap of their scores; the slopes are right."""
    where = "of the scores where the probabilities are rebuilt"
    for softmax in softmaxes_of(tape):
        seen: list[np.ndarray] = []
        parts = itertools.combinations(range(len(softmax.chain) + 1), 2)
        for first, last in sorted(parts, key=lambda part: part[1] - part[0]):
            left = softmax.chain[first:last]
            said = [_left_said(tape, e, edge) for edge in left if _has_effect(tape, edge)]
            at, i = left[-1]
            if not said or tape.shape(tape.steps[at].ins[i]) != tape.shape(tape.steps[left[0][0]].outs[0]):
                continue
            other = _without(softmax, first, last, True, tape)
            if any(np.allclose(other, x) for x in seen):
                continue
            seen.append(other)
            names = f"{' and '.join(dict.fromkeys(reversed(said)))} {'is' if len(said) == 1 else 'are'}"
            masks = {edge: left_out for edge in left if masking(tape, edge)}
            for saved, recomputed in itertools.product((True, False), (False, True)):
                kept = "what softmax divides by is saved" if saved else "with a normaliser of its own"
                phrase = f"{names} left out {where} ({kept})"
                value = partial(_without, softmax, first, last, saved)
                changes = _rebuilt_with(tape, softmax, value, _same, recomputed)
                yield Mistake(f"{phrase}, but not of the derivative", changes)
                if masks:
                    yield Mistake(f"{phrase}, and of the derivative", {**changes, **masks})


def _has_effect(tape: Tape, edge: Edge) -> bool:
    step = tape.steps[edge[0]]
    return step.name in ELEMENTWISE and not np.array_equal(
        tape.values[step.ins[edge[1]]], tape.values[step.outs[0]]
    )


def _left_said(tape: Tape, e: Evidence, edge: Edge) -> str:
    return "the mask" if masking(tape, edge) else _step_said(tape, e, edge)


def _without(softmax: Softmax, first: int, last: int, saved: bool, tape: Tape) -> np.ndarray:
    """The probabilities if the scores skip some of their steps."""
    at, i = softmax.chain[last - 1]
    x = tape.values[tape.steps[at].ins[i]]
    for k, operand in reversed(softmax.chain[:first]):
        step = tape.steps[k]
        ins = [x if j == operand else tape.values[s] for j, s in enumerate(step.ins)]
        x = np.broadcast_to(ins[0], tape.shape(step.outs[0])) if step.eqn is None else computed(
            step.eqn, ins)[0]  # fmt: skip
    other, largest = np.asarray(x, np.float64), np.max(x, softmax.axes, keepdims=True)
    own = largest + np.log(_sum(softmax.axes, np.exp(other - largest)))
    return np.exp(np.minimum(other - (_rows(tape, softmax).over if saved else own), LARGEST))


def causal_where_not(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A causal mask in the backward pass of a softmax that is not masked."""
    for softmax in softmaxes_of(tape):
        shape = tape.shape(tape.steps[softmax.at].outs[0])
        if (
            len(shape) < 2
            or softmax.axes != (len(shape) - 1,)
            or any(masking(tape, e) for e in softmax.chain)
        ):
            continue
        for offset in dict.fromkeys((0, shape[-1] - shape[-2])):
            corner = ", aligned at the last key" if offset else ""
            for saved, recomputed in itertools.product((True, False), (False, True)):
                of = "of all keys" if saved else "of the keys that are left"
                phrase = (
                    f"a causal mask (keys up to the query alone{corner}) is applied to the probabilities "
                    f"in the backward pass, which the forward pass does not mask; their sum is that {of}"
                )
                value = partial(_causal, softmax, offset, saved)
                yield Mistake(phrase, _rebuilt_with(tape, softmax, value, _same, recomputed))


def _causal(softmax: Softmax, offset: int, saved: bool, tape: Tape) -> np.ndarray:
    p = np.tril(_rows(tape, softmax).p, offset)
    total = 1.0 if saved else p.sum(-1, keepdims=True)
    return p / np.where(total == 0, 1.0, total)


# --- entries counted several times ------------------------------------------------------------------------


def entries_counted(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Entries that belong to two parts of a mask, such as a window and global keys, counted twice or not."""
    for softmax in softmaxes_of(tape):
        shape = tape.shape(softmax.scores)
        for said, weight in (x for edge in softmax.chain for x in parts_counted(tape, e, edge)):
            if weight.shape != shape[-weight.ndim :]:
                continue
            place = f"in the softmax of {said_of(tape, e, softmax.scores)}"
            value = partial(_counted, softmax, weight, False)
            yield Mistake(f"{said} in the backward pass, {place}", _rebuilt_with(tape, softmax, value))
            for recomputed in (False, True):
                yield Mistake(
                    f"{said} in the sum that a softmax divides by, where it is recomputed, {place}",
                    _rebuilt_with(tape, softmax, partial(_counted, softmax, weight, True), _same, recomputed),
                )


def _counted(softmax: Softmax, weight: np.ndarray, in_sum: bool, tape: Tape) -> np.ndarray:
    p = _rows(tape, softmax).p
    return p / _sum(softmax.axes, p * weight) if in_sum else p * weight
