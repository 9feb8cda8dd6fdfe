"""Terms that the error implies: a value times a cotangent that is too many, or in another term's place."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence, sizes_named
from manual_grad.checker.mistakes.implied import (
    ERRORS_UP_TO,
    EXACT,
    Error,
    computed_from,
    explains,
    reached_by,
    rounded,
)
from manual_grad.checker.mistakes.mistake import PICKING, Mistake, is_constant, place_of, said_of
from manual_grad.checker.tape import Edge, Passing, Slot, Tape
from manual_grad.checker.truth import is_float

COLUMNS = 40  # entries of the leaves that are looked at first
TERMS_UP_TO = 2000  # for values of one shape
TOGETHER_UP_TO = 2**22  # numbers in all of them
VALUES_UP_TO = 30  # of one shape, and as many cotangents
FIRST = 8  # mistakes, the simplest ones
Axes = tuple[int, ...]


@dataclass(frozen=True)
class _Term:
    """A cotangent times a value, or divided by it, summed over some axes; the value may be missing."""

    cotangent: Slot | Edge
    value: Slot | None = None
    divided: bool = False
    axes: Axes = ()

    def at(self, tape: Tape, shape: tuple[int, ...]) -> np.ndarray:
        d = tape.kept["known"][self.cotangent][0]
        if self.value is not None:
            v = np.asarray(tape.values[self.value])
            d = d / v if self.divided else d * v
        return d.sum(self.axes).reshape(shape)

    @property
    def cost(self) -> int:
        return (self.value is not None) + self.divided + 2 * bool(self.axes)


def terms_implied(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """One term that is too many, or stands where another belongs, the simplest first."""
    reached, errors = reached_by(tape, e)
    for error in errors[:ERRORS_UP_TO]:
        found: list[tuple[float, Mistake]] = []
        for slot in sorted(reached, reverse=True):
            e.require_time()
            if explains(reached[slot], error):
                found += _of_a_value(tape, e, slot, reached[slot], error)
        yield from (mistake for _, mistake in sorted(found, key=lambda f: f[0])[:FIRST])


def _of_a_value(
    tape: Tape, e: Evidence, slot: Slot, effect: np.ndarray, error: Error
) -> Iterator[tuple[float, Mistake]]:
    shape, seen = tape.shape(slot), ~np.isnan(error)
    terms, values = _terms(tape, shape)
    if not terms:
        return
    matrix = effect[..., seen].reshape(-1, int(seen.sum()))
    below = computed_from(tape, slot)
    mine = np.array([_belongs(tape, term, below) for term in terms])
    terms, values = [t for t, m in zip(terms, mine, strict=True) if m], values[mine]
    wanted = error[seen]
    few = np.random.default_rng(0).permutation(len(wanted))[:COLUMNS]
    rows = values @ matrix[:, few]
    lengths = np.linalg.norm(rows, axis=1)
    known = tape.kept["known"]
    edges = [edge for edge in tape.edges() if tape.steps[edge[0]].ins[edge[1]] == slot and edge in known]
    places: list[tuple[Edge | None, np.ndarray]] = [(edge, known[edge][0]) for edge in edges]
    for edge, right in [*places, (None, np.zeros(shape))]:
        own = right.ravel() @ matrix
        target = wanted + own
        size = np.linalg.norm(target[few])
        if size <= 1e-6 * np.linalg.norm(wanted[few]) or not edges:
            continue
        dots = rows @ target[few]
        for k in np.flatnonzero(np.abs(dots) >= (1 - 1e-9) * lengths * size):
            factor = dots[k] / lengths[k] ** 2 if lengths[k] else 0.0
            nice = rounded(np.asarray(factor), [n**p for n in sizes_named(e) for p in (1, -1, -0.5)])
            row = values[k] @ matrix
            if (
                nice is None
                or not nice
                or np.max(np.abs(nice * row - target)) > EXACT * np.max(np.abs(wanted))
            ):
                continue
            if edge is None and (terms[k].cost or _parallel(row, [r.ravel() @ matrix for _, r in places])):
                continue  # a factor of what is there already
            cost = 2 * (edge is None) + terms[k].cost + 2 * (abs(nice) != 1)
            change = partial(_instead if edge is not None else _added, float(nice), terms[k], shape)
            phrase = _said(tape, e, slot, edge, terms[k], float(nice))
            yield cost, Mistake(phrase, {edge if edge is not None else edges[-1]: change})


def _belongs(tape: Tape, term: _Term, below: set[Slot]) -> bool:
    """Whether a term's cotangent is that of a value computed from another one."""
    of = term.cotangent
    return tape.steps[of[0]].outs[0] in below if isinstance(of, tuple) else of in below


def _parallel(row: np.ndarray, others: list[np.ndarray]) -> bool:
    return any(
        abs(row @ other) >= (1 - 1e-9) * np.linalg.norm(row) * np.linalg.norm(other) for other in others
    )


def _instead(factor: float, term: _Term, shape: tuple[int, ...], p: Passing) -> np.ndarray:
    return factor * term.at(p.tape, shape)


def _added(factor: float, term: _Term, shape: tuple[int, ...], p: Passing) -> np.ndarray:
    return p.right + factor * term.at(p.tape, shape)


def _terms(tape: Tape, shape: tuple[int, ...]) -> tuple[list[_Term], np.ndarray]:
    """The terms of a shape, and their values, one per row."""
    key = ("terms", shape)
    if key not in tape.kept:
        tape.kept[key] = _written(tape, shape)
    return tape.kept[key]


def _written(tape: Tape, shape: tuple[int, ...]) -> tuple[list[_Term], np.ndarray]:
    size = int(np.prod(shape))
    limit = min(TERMS_UP_TO, TOGETHER_UP_TO // max(size, 1))
    terms: dict[bytes, _Term] = {}
    rows: list[np.ndarray] = []
    for term in itertools.islice(_candidates(tape, shape), 4 * limit):
        if len(rows) >= limit:
            break
        try:
            row = np.ascontiguousarray(term.at(tape, shape), np.float64).ravel()
        except ValueError:
            continue
        if len(row) == size and np.all(np.isfinite(row)) and np.any(row) and row.tobytes() not in terms:
            terms[row.tobytes()] = term
            rows.append(row)
    return list(terms.values()), np.array(rows).reshape(len(rows), size)


def _candidates(tape: Tape, shape: tuple[int, ...]) -> Iterator[_Term]:
    cotangents, values = _distinct(tape)
    for over in sorted(cotangents, key=lambda s: (s != shape, len(s))):
        for axes in _axes_to(over, shape):
            for d in cotangents[over][:VALUES_UP_TO]:
                yield _Term(d, axes=axes)
            for theirs in values:
                if _spreads(theirs, over):
                    for d, v in itertools.product(
                        cotangents[over][:VALUES_UP_TO], values[theirs][:VALUES_UP_TO]
                    ):
                        yield _Term(d, v, axes=axes)
                        if np.all(np.abs(tape.values[v]) > 1e-6):
                            yield _Term(d, v, divided=True, axes=axes)
    for d_shape in cotangents:
        if d_shape != shape and _spreads(d_shape, shape):
            for d, v in itertools.product(cotangents[d_shape], values.get(shape, [])[:VALUES_UP_TO]):
                yield _Term(d, v)


def _spreads(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(small, large) == large
    except ValueError:
        return False


def _axes_to(over: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[Axes]:
    """The axes over which an array of one shape is summed for another, as many entries, in order."""
    wanted = [n for n in shape if n > 1]
    for k in range(len(over) + 1):
        for axes in itertools.combinations(range(len(over)), k):
            if [n for a, n in enumerate(over) if a not in axes and n > 1] == wanted:
                yield axes


def _distinct(tape: Tape) -> tuple[dict[tuple, list], dict[tuple, list]]:
    """The distinct cotangents and values of every shape, those of arguments and outputs first."""
    if "distinct" not in tape.kept:
        known, seen, seen_values = tape.kept["known"], set[Any](), set[Any]()
        cotangents: dict[tuple, list[Any]] = {}
        for key in sorted(known, key=lambda k: (isinstance(k, tuple), k if isinstance(k, tuple) else (k,))):
            d = known[key][0]
            name = d.shape, np.asarray(d).tobytes()
            if name not in seen and np.any(d) and np.all(np.isfinite(d)):
                seen.add(name)
                cotangents.setdefault(d.shape, []).append(key)
        values: dict[tuple, list[Any]] = {}
        for slot, value in enumerate(tape.values):
            if not is_float(value) or is_constant(tape, slot) or not np.all(np.isfinite(value)):
                continue
            name = np.shape(value), np.asarray(value).tobytes()
            if name not in seen_values:
                seen_values.add(name)
                values.setdefault(np.shape(value), []).append(slot)
        tape.kept["distinct"] = cotangents, values
    return tape.kept["distinct"]


def _said(tape: Tape, e: Evidence, slot: Slot, edge: Edge | None, term: _Term, factor: float) -> str:
    what = _term_said(tape, e, term)
    sign = "" if factor == 1 else "−" if factor == -1 else f"{factor:.4g} · "
    if edge is None:
        return f"an extra term in the gradient with respect to {said_of(tape, e, slot)}: {sign}{what}"
    step = tape.steps[edge[0]]
    other = step.ins[1 - edge[1]] if step.name == "mul" else None
    if other is not None and term.cotangent == step.outs[0] and term.value is not None and not term.axes:
        over = "1 / " if term.divided else ""
        return (
            f"{sign}{over}{said_of(tape, e, term.value)} stands where {said_of(tape, e, other)} belongs, in "
            f"the derivative of {place_of(tape, e, edge)}"
        )
    if step.name in PICKING:
        right, wrong = tape.kept["known"][edge][0], factor * term.at(tape, tape.shape(slot))
        if np.allclose(wrong[right != 0], right[right != 0]):
            whole = said_of(tape, e, slot)
            return f"{sign}{what} reaches all entries of {whole}, also those outside the slice"
    place = place_of(tape, e, edge)
    return f"{sign}{what} is passed back instead of the right term, in the derivative of {place}"


def _term_said(tape: Tape, e: Evidence, term: _Term) -> str:
    if isinstance(term.cotangent, tuple):
        of = f"what flows back through {place_of(tape, e, term.cotangent)}"
    else:
        of = f"the cotangent of {said_of(tape, e, term.cotangent)}"
    if term.value is not None:
        of = f"{of} {'/' if term.divided else '·'} {said_of(tape, e, term.value)}"
    over = f"axis {term.axes[0]}" if len(term.axes) == 1 else f"axes {', '.join(map(str, term.axes))}"
    return f"the sum over {over} of ({of})" if term.axes else of
