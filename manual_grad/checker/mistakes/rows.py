"""Rows of a sum that count twice, not at all, or by the size of their chunk.

A gradient is a sum of what each row of a value hands back. These parts are computed once, and every way to
weigh them that people get wrong is compared with the checked gradient.
"""

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import Mistake, made_by, said_of
from manual_grad.checker.tape import Changes, Passing, Slot, Tape, pulled_back

ROWS_UP_TO = 64
RUNS_UP_TO = 24  # rows, of which every run is tried
ANY_CHUNKS_UP_TO = 12  # rows that are divided into chunks in every possible way, as there are 2ⁿ
PLACES_UP_TO = 32  # values whose rows are weighed
STEPS_UP_TO = 1000  # of all backward passes together
SUMMED = ("reduce_sum", "dot_general", "conv_general_dilated", "broadcast", "broadcast_in_dim", "gather")


def rows_weighed(tape: Tape, e: Evidence) -> str:
    """The phrase for rows that count another number of times than once."""
    size = float(np.max(np.abs(e.got), initial=0.0))
    for slot, axis in itertools.islice(
        _places(tape), max(3, min(PLACES_UP_TO, STEPS_UP_TO // len(tape.steps)))
    ):
        e.require_time()
        n = tape.shape(slot)[axis]
        parts, rest = e.once(f"rows of {slot} along {axis}", partial(_parts, tape, e, slot, axis))
        mine = np.stack([e.seen(row[e.leaf]).ravel() for row in parts])
        if np.max(np.abs(mine), initial=0.0) <= 1e-9 * size:
            continue
        said, weights = _patterns(n)
        made = e.seen(rest[e.leaf]).ravel() + weights @ mine
        off = np.max(np.abs(made - e.got.ravel()), axis=1)
        for k in np.flatnonzero(off <= e.tolerance * size):
            if not e.same(made[k].reshape(e.want.shape), e.want):
                return said[k].format(f"{n} rows along axis {axis} of {said_of(tape, e, slot)}")
    return ""


def _places(tape: Tape) -> Iterator[tuple[Slot, int]]:
    """The values whose rows are weighed, and the axis of the rows: outputs, what is summed, products."""
    made = made_by(tape)
    found = dict.fromkeys(tape.results)
    for step in reversed(tape.steps):
        if step.name in SUMMED:
            found |= dict.fromkeys([step.ins[0] if step.name == "reduce_sum" else step.outs[0]])
    for slot in found:
        for axis, n in enumerate(tape.shape(slot)) if slot in made and slot in tape.active else ():
            if 2 < n <= ROWS_UP_TO:
                yield slot, axis


def _parts(tape: Tape, e: Evidence, slot: Slot, axis: int) -> tuple[list[list[np.ndarray]], list[np.ndarray]]:
    """All gradients by each row of a value alone, and by what does not flow through it."""
    edge, n = (made_by(tape)[slot], -1), tape.shape(slot)[axis]
    alone: list[Changes] = [{edge: partial(_only, axis, k)} for k in range(n)]
    rows = pulled_back(tape, e.point.dout, [*alone, {edge: lambda p: np.zeros_like(p.right)}])
    rest = [leaf[-1] for leaf in rows]
    return [[leaf[k] - other for leaf, other in zip(rows, rest, strict=True)] for k in range(n)], rest


def _only(axis: int, k: int, p: Passing) -> np.ndarray:
    found = np.zeros_like(p.right)
    place = (slice(None),) * axis + (k,)
    found[place] = p.right[place]
    return found


def _patterns(n: int) -> tuple[list[str], np.ndarray]:
    """Phrases, with a placeholder for the rows, and the rows' weights."""
    found = [*_twice(n), *_tiles_apart(n), *_left_out(n), *_averaged(n)]
    return [said for said, _ in found], np.stack([weights for _, weights in found])


def _twice(n: int) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of a tile that is moved back into the array, or of any other run, counted twice."""
    i = np.arange(n)
    for tile in range(2, n):
        if n % tile:
            again = (i >= n - tile) & (i < n // tile * tile)
            yield (
                f"rows counted twice: {_run(n - tile, n // tile * tile)} of {{}}, as with tiles of {tile} of "
                "which the last one is moved back to end with the array, over rows that are already done",
                1.0 + again,
            )
    for start, stop in itertools.combinations(range(n + 1), 2) if n <= RUNS_UP_TO else ():
        if stop - start < n:
            overlap = "such as where two tiles overlap"
            yield (
                f"rows counted twice: {_run(start, stop)} of {{}} ({overlap})",
                1.0 + ((i >= start) & (i < stop)),
            )


def _tiles_apart(n: int) -> Iterator[tuple[str, np.ndarray]]:
    """The rows at the borders of tiles, counted in both or in neither."""
    i = np.arange(n)
    for tile in range(3, n - 1):
        first, last = (i % tile == 0) & (i > 0), (i % tile == tile - 1) & (i < n - 1)
        if first.sum() > 1:
            yield f"rows counted twice: the first of each tile of {tile} of {{}}, in two tiles", 1.0 + first
        if last.sum() > 1:
            yield f"rows left out: the last of each tile of {tile} of {{}} (off by one)", 1.0 - last


def _left_out(n: int) -> Iterator[tuple[str, np.ndarray]]:
    i = np.arange(n)
    for k in range(1, n // 2 + 1):
        yield f"rows left out: the last {k} of {{}} (such as an incomplete last tile)", 1.0 * (i < n - k)
        yield f"rows left out: the first {k} of {{}}", 1.0 * (i >= k)


def _averaged(n: int) -> Iterator[tuple[str, np.ndarray]]:
    """Means of chunks averaged without regard to their sizes."""
    for sizes in _chunks(n):
        if len(set(sizes)) > 1:
            weights = np.repeat([n / (len(sizes) * size) for size in sizes], sizes)
            yield (
                f"a wrong count: the means of {len(sizes)} chunks of {', '.join(map(str, sizes))} of {{}} "
                "are averaged as if the chunks were of one size, where each counts by its number of rows",
                weights,
            )


def _chunks(n: int) -> Iterator[tuple[int, ...]]:
    """Ways to divide n rows: equal chunks and a rest, two or three of any sizes, or any."""
    for size in range(1, n):
        if n % size:
            yield (size,) * (n // size) + (n % size,)
    counts = range(1, n) if n <= ANY_CHUNKS_UP_TO else range(1, 3)
    for count in counts:
        for cuts in itertools.combinations(range(1, n), count):
            ends = (0, *cuts, n)
            yield tuple(b - a for a, b in itertools.pairwise(ends))


def _run(start: int, stop: int) -> str:
    return str(start) if stop == start + 1 else f"{start} to {stop - 1}"


def sums_of_parts(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Sums over parts of different sizes that are added, each divided by its own number of entries."""
    made = made_by(tape)
    for slot in sorted(tape.active & made.keys(), reverse=True):
        terms = _terms(tape, slot)
        counts = [_count(tape, term) for term in terms]
        if len(terms) > 1 and all(counts) and len(set(counts)) > 1:
            share = [sum(counts) / (len(counts) * count) for count in counts]
            yield Mistake(
                f"a wrong count: the means of {len(terms)} parts of {', '.join(map(str, counts))} entries "
                "are averaged as if the parts were of one size, where each counts by its number of entries",
                {(made[s], -1): partial(_times, by) for s, by in zip(terms, share, strict=True)},
            )


def _terms(tape: Tape, slot: Slot) -> list[Slot]:
    """The sums that a value is the sum of."""
    made, terms, near = made_by(tape), list[Slot](), [slot]
    while near:
        step = tape.steps[made[s]] if (s := near.pop()) in made else None
        if step is not None and step.name in ("add", "add_any"):
            near.extend(step.ins)
        elif s in tape.active:
            terms.append(s)
    return terms[::-1]


def _count(tape: Tape, slot: Slot) -> int:
    """The number of entries that are summed; 0 if the value is not a sum."""
    at = made_by(tape).get(slot)
    if at is None or tape.steps[at].name != "reduce_sum":
        return 0
    return int(np.size(tape.values[tape.steps[at].ins[0]]) // max(np.size(tape.values[slot]), 1))


def _times(factor: float, p: Passing) -> np.ndarray:
    return factor * p.right
