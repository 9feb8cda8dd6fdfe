"""Mistakes in computed places: another index in one step, an offset, a size; the weights of two places."""

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.constants import INDEXED, reached_from, with_altered
from manual_grad.checker.mistakes.mistake import (
    PASSED_ON,
    Mistake,
    index_given,
    is_constant,
    made_by,
    nothing,
    said_of,
    users_of,
)
from manual_grad.checker.tape import Changes, Edge, Passing, Slot, Tape, computed, pulling
from manual_grad.checker.truth import is_float

EDGES_UP_TO = 12  # steps that read by an index
SIZES_UP_TO = 6  # that one size in an index is replaced by
WEIGHTS_UP_TO = 4
SET = ("scatter", *INDEXED)


# --- an index in one step -----------------------------------------------------------------------------------


def indices_replaced(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Another index, such as that of the sources of edges, in one or two of the steps that read by one."""
    indexed = list(_indexed(tape))[:EDGES_UP_TO]
    for edge in indexed:
        if (flat := _packed(tape, edge)) is not None:
            said = (
                f"the entries of {said_of(tape, e, tape.steps[edge[0]].ins[edge[1]])} are read one after the "
                "other, as if there were no gaps between the segments (padding)"
            )
            yield Mistake(f"a wrong index: {said}", {edge: partial(_at_index, flat)})
    others = {np.asarray(tape.values[s]).tobytes(): s for s in (tape.steps[at].ins[1] for at, _ in indexed)}
    for count in (1, 2):
        for edges in itertools.combinations(indexed, count):
            own = {np.asarray(tape.values[tape.steps[at].ins[1]]).tobytes() for at, _ in edges}
            if len(own) > 1:
                continue
            mine = tape.steps[edges[0][0]].ins[1]
            for key, other in others.items():
                x, y = (np.asarray(tape.values[s]) for s in (mine, other))
                if key not in own and x.shape == y.shape and x.dtype == y.dtype:
                    places = " and ".join(_read_said(tape, e, edge) for edge in edges)
                    yield Mistake(
                        f"a wrong index: {_index_said(tape, e, other)} is used for "
                        f"{_index_said(tape, e, mine)} in the gradient of {places}",
                        dict.fromkeys(edges, partial(_at_index, y)),
                    )


def _indexed(tape: Tape) -> Iterator[Edge]:
    """The steps that read or write at an index that depends on nothing."""
    for at, i in tape.edges():
        step = tape.steps[at]
        if (
            step.name in SET
            and i != 1
            and step.ins[1] not in tape.active
            and not _is_single(tape, step.ins[1])
        ):
            yield at, i


def _is_single(tape: Tape, slot: Slot) -> bool:
    """Whether all entries are one number."""
    x = np.asarray(tape.values[slot])
    return x.size == 0 or bool(np.all(x == x.flat[0]))


def _index_said(tape: Tape, e: Evidence, slot: Slot) -> str:
    said = said_of(tape, e, index_given(tape, slot))
    return said if not said.startswith(("a constant", "the result")) else "the index"


def _read_said(tape: Tape, e: Evidence, edge: Edge) -> str:
    step = tape.steps[edge[0]]
    x = said_of(tape, e, step.ins[edge[1]])
    return f"what is read of {x}" if edge[1] == 0 else f"{x}, added up at an index"


def _at_index(index: np.ndarray, p: Passing) -> np.ndarray:
    step = p.tape.steps[p.edge[0]]
    ins = [p.operands[0], index, *p.operands[2:]]
    return np.asarray(pulling(step, ins, [p.edge[1]])(np.asarray(p.cotangent))[0])


def _packed(tape: Tape, edge: Edge) -> np.ndarray | None:
    """For indices of several columns, those of the first entries of the array, row by row."""
    step = tape.steps[edge[0]]
    index, numbers = np.asarray(tape.values[step.ins[1]]), step.eqn.params.get("dimension_numbers")
    into = getattr(numbers, "start_index_map", getattr(numbers, "scatter_dims_to_operand_dims", ()))
    if index.ndim != 2 or len(into) < 2 or index.shape[1] != len(into):
        return None
    sizes = [tape.shape(step.ins[0])[axis] for axis in into]
    if len(index) > np.prod(sizes):
        return None
    flat = np.stack(np.unravel_index(np.arange(len(index)), sizes), 1).astype(index.dtype)
    return None if np.array_equal(flat, index) else flat


# --- a softmax over segments --------------------------------------------------------------------------------


def segments_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The sum in the gradient of a softmax over segments, by another index: sources for destinations."""
    slots = [tape.steps[at].ins[1] for at, _ in _indexed(tape)]
    others = {np.asarray(tape.values[slot]).tobytes(): slot for slot in slots}
    for at, step in enumerate(tape.steps):
        own = _segments(tape, at) if step.name == "div" else None
        if own is None:
            continue
        for other in others.values():
            x, y = (np.ravel(tape.values[slot]) for slot in (own, other))
            if len(x) == len(y) and not np.array_equal(x, y):
                for said, indices in _by_other_segments(tape, e, own, other):
                    changes: Changes = {(at, 0): partial(_by_segments, own, *indices), (at, 1): nothing}
                    yield Mistake(f"a wrong index: {said}", changes)


def _by_other_segments(
    tape: Tape, e: Evidence, own: Slot, other: Slot
) -> Iterator[tuple[str, tuple[Slot, Slot, Slot]]]:
    """Phrases, and the indices by which is summed, read and normalised."""
    wrong, right = (_index_said(tape, e, slot) for slot in (other, own))
    what = "the sum Σ p · dp in the gradient of a softmax over segments"
    yield f"{what} is read at {wrong}, where {right} belongs", (own, other, own)
    yield f"{what} is taken over the segments of {wrong}, but read at {right}", (other, own, own)
    yield f"{what} is taken over the segments of {wrong}, where {right} belongs", (other, other, own)
    normalised = "a softmax over segments is normalised by"
    yield f"{normalised} {wrong}, where {right} belongs", (own, own, other)
    yield f"{normalised} {wrong}, where {right} belongs, and so is its gradient", (other, other, other)


def _segments(tape: Tape, at: int) -> Slot | None:
    """For a quotient by sums over segments, the index of the segments."""
    made, step = made_by(tape), tape.steps[at]
    read = tape.steps[at_read] if (at_read := made.get(index_given(tape, step.ins[1]), -1)) >= 0 else None
    if read is None or read.name != "gather" or not {*step.ins} <= tape.active:
        return None
    total = tape.steps[made[read.ins[0]]] if read.ins[0] in made else None
    while total is not None and total.name in ("add", "max"):  # ε is added
        slot = next((s for s in total.ins if s in tape.active), -1)
        total = tape.steps[made[slot]] if slot in made else None
    same = total is not None and total.name in ("scatter-add", "scatter_add") and total.ins[2] == step.ins[0]
    return read.ins[1] if same else None


def _by_segments(own: Slot, summed: Slot, read: Slot, normalised: Slot, p: Passing) -> np.ndarray:
    """The gradient of exp in a softmax, p (dp − Σ p · dp) / exp, with its sums over these segments."""
    e, whole = np.asarray(p.operands[0]), _exponentials(p.tape, p.tape.steps[p.edge[0]].ins[0])
    by, at, over = (np.ravel(p.tape.values[slot]) for slot in (summed, read, normalised))
    total, sums = np.zeros((2, 1 + max(int(x.max()) for x in (by, at, over)), *e.shape[1:]))
    np.add.at(total, over, whole)
    probabilities = np.asarray(p.result) if normalised == own else whole / total[over]
    np.add.at(sums, by, probabilities * p.cotangent)
    return probabilities / e * (p.cotangent - sums[at])


def _exponentials(tape: Tape, slot: Slot) -> np.ndarray:
    """Exponentials from which nothing is subtracted that differs between segments."""
    made = made_by(tape)
    exp = tape.steps[made[slot]] if slot in made else None
    less = (
        tape.steps[made[exp.ins[0]]] if exp is not None and exp.name == "exp" and exp.ins[0] in made else None
    )
    if less is None or less.name != "sub":
        return np.asarray(tape.values[slot])
    x = np.asarray(tape.values[less.ins[0]])
    return np.exp(x - x.max())


# --- how an index is computed -------------------------------------------------------------------------------


def index_computed(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """An offset left out of an index, such as that of a segment, or one size in place of another."""
    sizes = sorted({n for slot in (*tape.leaves, *tape.results) for n in tape.shape(slot) if n > 1})
    for at, step in enumerate(tape.steps):
        x = np.asarray(tape.values[step.outs[0]]) if step.outs[0] not in tape.active else np.zeros(0)
        if x.size < 2 or x.dtype.kind not in "iu" or step.name not in ("add", "sub", "mul", "div", "rem"):
            continue
        reached = reached_from(tape, step.outs[0])
        edges = [x for x in tape.edges() if _reads_at(tape, x, reached)]
        for i, slot in enumerate(step.ins if edges else ()):
            other = step.ins[1 - i]
            if _is_single(tape, other):
                own = int(np.ravel(tape.values[other])[0])
                scaled = own in sizes and (step.name == "mul" or (i == 0 and step.name in ("div", "rem")))
                for n in [n for n in sizes if n != own][:SIZES_UP_TO] if scaled else ():
                    said = f"a wrong index: the size {n} is used for {own}"
                    change = partial(with_altered, step.outs[0], said, partial(_with_size, tape, at, i, n))
                    yield Mistake(f"{said}, in the backward pass", dict.fromkeys(edges, change))
            elif step.name in ("add", "sub") and tape.shape(slot) == x.shape:
                said = (
                    f"a wrong index: {said_of(tape, e, other)} is left out, as if places were counted from 0 "
                    "(such as a segment's offset)"
                )
                change = partial(with_altered, step.outs[0], said, partial(_value_of, tape, slot))
                yield Mistake(f"{said}, in the backward pass", dict.fromkeys(edges, change))


def _reads_at(tape: Tape, edge: Edge, reached: set[Slot]) -> bool:
    """Whether a step reads at an index that is one of these values."""
    step = tape.steps[edge[0]]
    return step.name in SET and step.ins[1] in reached


def _value_of(tape: Tape, slot: Slot, x: np.ndarray) -> np.ndarray:
    return np.asarray(tape.values[slot])


def _with_size(tape: Tape, at: int, i: int, n: int, x: np.ndarray) -> np.ndarray:
    ins = [np.asarray(tape.values[slot]) for slot in tape.steps[at].ins]
    ins[1 - i] = np.full_like(ins[1 - i], n)
    return np.asarray(computed(tape.steps[at].eqn, ins)[0])


# --- weights of two places ----------------------------------------------------------------------------------


def weights_between(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The weights t and 1 − t of an interpolation in each other's place, or those of another axis."""
    found = list(_weights(tape))[:WEIGHTS_UP_TO]
    for t in found:
        name = said_of(tape, e, t)
        said = f"swapped: the weights {name} and 1 − {name} are used for each other"
        yield Mistake(said, {}, instead={t: partial(_rest_of, t)})
    if len(found) > 1:
        names = " and ".join(said_of(tape, e, t) for t in found[:2])
        said = f"swapped: the weights t and 1 − t are used for each other, for t = {names}"
        yield Mistake(said, {}, instead={t: partial(_rest_of, t) for t in found})
    for one, other in itertools.combinations(found, 2):
        if tape.shape(one) == tape.shape(other):
            names = " and ".join(said_of(tape, e, t) for t in (one, other))
            crossed = {one: partial(_own_value, other), other: partial(_own_value, one)}
            said = f"swapped: {names} are used for each other as weights (another axis's)"
            yield Mistake(said, {}, instead=crossed)


def _weights(tape: Tape) -> Iterator[Slot]:
    """Values t for which 1 − t is computed too, both of them factors."""
    users, made = users_of(tape), made_by(tape)
    for step in tape.steps:
        if step.name != "sub" or not is_constant(tape, step.ins[0]) or not np.size(tape.values[step.ins[0]]):
            continue
        t, one = step.ins[1], float(np.ravel(tape.values[step.ins[0]])[0])
        while t in made and tape.steps[made[t]].name in ("broadcast", "broadcast_in_dim"):
            t = tape.steps[made[t]].ins[0]
        if one == 1.0 and is_float(tape.values[t]) and (t in users or t not in tape.active):
            yield t


def _rest_of(slot: Slot, tape: Tape) -> np.ndarray:
    return 1 - np.asarray(tape.values[slot])


def _own_value(slot: Slot, tape: Tape) -> np.ndarray:
    return np.asarray(tape.values[slot])


def clips_left_out(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A value that is clipped by two bounds, such as a position, recomputed without them."""
    made = made_by(tape)
    for step in tape.steps:
        if step.name not in ("max", "min") or step.outs[0] not in tape.active:
            continue
        inner = next(iter(set(step.ins) & tape.active))
        while inner in made and tape.steps[made[inner]].name in PASSED_ON - {"neg", "slice", "transpose"}:
            inner = tape.steps[made[inner]].ins[0]
        before = tape.steps[made[inner]] if inner in made else None
        if before is None or before.name not in {"max", "min"} - {step.name}:
            continue
        if len(tape.active & {*step.ins}) == 1 and len(tape.active & {*before.ins}) == 1:
            x = next(iter(tape.active & {*before.ins}))
            if tape.shape(x) == tape.shape(step.outs[0]):
                said = said_of(tape, e, x)
                yield Mistake(
                    f"{said} is not clipped to its bounds where values are recomputed from it (such as the "
                    "weights of an interpolation outside the array)",
                    {}, instead={step.outs[0]: partial(_own_value, x)},
                )  # fmt: skip
