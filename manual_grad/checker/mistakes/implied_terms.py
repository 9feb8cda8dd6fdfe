"""Terms that the error implies: a value times a cotangent that is too many, or in another term's place."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence, sizes_named
from manual_grad.checker.mistakes.implied import (
    ERRORS_UP_TO,
    EXACT,
    ROUNDED,
    Error,
    computed_from,
    explains,
    nearest,
    reached_by,
)
from manual_grad.checker.mistakes.mistake import (
    MASKS,
    PICKING,
    SAID,
    Mistake,
    bracketed,
    is_constant,
    place_of,
    said_of,
    users_of,
)
from manual_grad.checker.tape import Edge, Passing, Slot, Tape
from manual_grad.checker.truth import is_float

COLUMNS = 40  # entries of the leaves that are looked at first
SOLVED_UP_TO = 64  # entries of a value whose cotangent is solved for
TERMS_UP_TO = 2000  # for values of one shape
TOGETHER_UP_TO = 2**22  # numbers in all of them
VALUES_UP_TO = 30  # of one shape, and as many cotangents
FIRST = 8  # mistakes, the simplest ones
Axes = tuple[int, ...]


@dataclass(frozen=True)
class _Term:
    """A cotangent times some values, or divided by them, summed over some axes.

    A value is a slot, or an operand whose slope is meant, such as the mask of a clip.
    """

    cotangent: Slot | Edge
    values: tuple[Slot | Edge, ...] = ()
    divisor: Slot | Edge | None = None
    axes: Axes = ()

    def at(self, tape: Tape, shape: tuple[int, ...]) -> np.ndarray:
        d = tape.kept["known"][self.cotangent][0]
        for value in self.values:
            d = d * _value(tape, value)
        if self.divisor is not None:
            d = d / _value(tape, self.divisor)
        return d.sum(self.axes).reshape(shape)

    @property
    def plain(self) -> bool:
        return not self.values and self.divisor is None and not self.axes

    @property
    def cost(self) -> int:
        of_operand = isinstance(self.cotangent, tuple)  # which has a long name
        return len(self.values) + 2 * (self.divisor is not None) + 2 * bool(self.axes) + 3 * of_operand


def _value(tape: Tape, key: Slot | Edge) -> np.ndarray:
    return np.asarray(tape.slope(key) if isinstance(key, tuple) else tape.values[key])


def terms_implied(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """One term that is too many, or stands where another belongs, the simplest first."""
    reached, errors = reached_by(tape, e)
    users = users_of(tape)
    for error in errors[:ERRORS_UP_TO]:
        found: list[tuple[float, Mistake]] = []
        for slot in sorted(reached, reverse=True):
            e.require_time()
            edges = [edge for edge in users.get(slot, ()) if edge in tape.kept["known"]]
            if edges and explains(reached[slot], error):
                seen = ~np.isnan(error)
                matrix = reached[slot][..., seen].reshape(-1, int(seen.sum()))
                found += _of_a_value(tape, e, slot, edges, matrix, error[seen])
        yield from (mistake for _, mistake in sorted(found, key=lambda f: f[0])[:FIRST])


def _of_a_value(
    tape: Tape, e: Evidence, slot: Slot, edges: Sequence[Edge], matrix: np.ndarray, error: Error
) -> Iterator[tuple[float, Mistake]]:
    shape, below = tape.shape(slot), computed_from(tape, slot)
    rights = {edge: tape.kept["known"][edge][0] for edge in edges}
    sampled = _sampled(tape, shape, below, matrix)
    for edge in [*edges, None]:
        target = error + (0 if edge is None else rights[edge].ravel() @ matrix)
        if np.linalg.norm(target) <= 1e-6 * np.linalg.norm(error):
            continue
        fitting = list(_fitting(e, sampled, target))
        if edge is not None:
            fitting += _of_three(tape, e, shape, below, matrix, target)
        for term, factor in fitting:
            row = term.at(tape, shape).ravel() @ matrix
            if np.max(np.abs(factor * row - target)) > EXACT * np.max(np.abs(error)):
                continue
            own = [right.ravel() @ matrix for right in rights.values()]
            if edge is None and (not term.plain or _parallel(row, own)):
                continue  # a factor of what is there already
            cost = 2 * (edge is None) + term.cost + 2 * (abs(factor) != 1)
            change = partial(_instead if edge is not None else _added, factor, term, shape)
            phrase = _said(tape, e, slot, edge, term, factor)
            yield cost, Mistake(phrase, {edge if edge is not None else edges[-1]: change})


def _sampled(
    tape: Tape, shape: tuple[int, ...], below: set[Slot], matrix: np.ndarray
) -> tuple[list[_Term], np.ndarray, np.ndarray]:
    """The terms, some entries of the leaves, and what each term adds to them."""
    terms, values = _terms(tape, shape)
    few = np.random.default_rng(0).permutation(matrix.shape[1])[:COLUMNS]
    mine = np.flatnonzero([_belongs(tape, term, below) for term in terms])
    return [terms[k] for k in mine], few, values[mine] @ matrix[:, few]


def _fitting(
    e: Evidence, sampled: tuple[list[_Term], np.ndarray, np.ndarray], target: np.ndarray
) -> Iterator[tuple[_Term, float]]:
    """The terms that a multiple of fits, judging by some entries."""
    terms, few, rows = sampled
    lengths, dots = np.linalg.norm(rows, axis=1), rows @ target[few]
    fits = np.abs(dots) >= (1 - 1e-9) * lengths * np.linalg.norm(target[few])
    fitting = np.flatnonzero(fits & (lengths > 0))
    for k, factor in zip(fitting, _nice(e, dots[fitting] / lengths[fitting] ** 2), strict=True):
        if factor:
            yield terms[k], float(factor)


def _nice(e: Evidence, factors: np.ndarray) -> np.ndarray:
    """Simple numbers, or a size, its reciprocal or root, close to the factors; 0 if there is none."""
    near = nearest(factors, [n**p for n in sizes_named(e) for p in (1, -1, -0.5)])
    return np.where(np.abs(factors - near) <= ROUNDED, near, 0.0)


def _of_three(
    tape: Tape, e: Evidence, shape: tuple[int, ...], below: set[Slot], matrix: np.ndarray, target: np.ndarray
) -> Iterator[tuple[_Term, float]]:
    """A cotangent times two values, if what is passed back can be told entry by entry."""
    size = matrix.shape[0]
    if not 2 < size <= min(SOLVED_UP_TO, matrix.shape[1]):
        return
    x, _, rank, _ = np.linalg.lstsq(matrix.T, target, rcond=1e-9)
    if rank < size or np.max(np.abs(x @ matrix - target)) > EXACT * np.max(np.abs(target)):
        return
    cotangents, values = _distinct(tape)
    some = values.get(shape, [])[:VALUES_UP_TO]
    if len(some) < 2:
        return
    table = np.stack([_value(tape, v).ravel() for v in some])
    pairs = table[:, None] * table[None]
    lengths = np.linalg.norm(pairs, axis=-1)
    for d in cotangents.get(shape, [])[:VALUES_UP_TO]:
        c = tape.kept["known"][d][0].ravel()
        divides = np.all(np.abs(c) > 1e-9 * np.max(np.abs(c)))
        if not divides or not _belongs(tape, _Term(d, (some[0],)), below):
            continue
        u = x / c
        dots = pairs @ u
        fits = np.abs(dots) >= (1 - 1e-9) * lengths * np.linalg.norm(u)
        fitting = np.argwhere(np.triu(fits & (lengths > 0)))
        factors = _nice(e, dots[tuple(fitting.T)] / lengths[tuple(fitting.T)] ** 2)
        for (i, j), factor in zip(fitting, factors, strict=True):
            if factor:
                yield _Term(d, (some[i], some[j])), float(factor)


def _belongs(tape: Tape, term: _Term, below: set[Slot]) -> bool:
    """Whether a term's cotangent is that of a value computed from another one, or it is one by itself."""
    of = term.cotangent
    if term.plain or of in tape.leaves:  # a gradient that is returned, perhaps in the same memory
        return True
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
                    some = itertools.product(cotangents[over][:VALUES_UP_TO], values[theirs][:VALUES_UP_TO])
                    for d, v in some:
                        yield _Term(d, (v,), axes=axes)
                        if np.all(np.abs(_value(tape, v)) > 1e-6):
                            yield _Term(d, divisor=v, axes=axes)
    for d_shape in cotangents:
        if d_shape != shape and _spreads(d_shape, shape):
            for d, v in itertools.product(cotangents[d_shape], values.get(shape, [])[:VALUES_UP_TO]):
                yield _Term(d, (v,))


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
        slots = [s for s, v in enumerate(tape.values) if is_float(v) and not is_constant(tape, s)]
        masks = [edge for edge in tape.edges() if tape.steps[edge[0]].name in MASKS[:4]]
        keys: list[Slot | Edge] = [*slots, *masks]
        for which in keys:
            value = np.asarray(_value(tape, which), np.float64)
            name = value.shape, value.tobytes()
            if name not in seen_values and np.all(np.isfinite(value)) and np.any(value):
                seen_values.add(name)
                values.setdefault(value.shape, []).append(which)
        tape.kept["distinct"] = cotangents, values
    return tape.kept["distinct"]


def _said(tape: Tape, e: Evidence, slot: Slot, edge: Edge | None, term: _Term, factor: float) -> str:
    what = _term_said(tape, e, term)
    sign = "" if factor == 1 else "−" if factor == -1 else f"{factor:.4g} · ".replace("-", "−")
    if edge is None:
        return f"an extra term in the gradient with respect to {said_of(tape, e, slot)}: {sign}{what}"
    step, place = tape.steps[edge[0]], place_of(tape, e, edge)
    right, wrong = tape.kept["known"][edge][0], factor * term.at(tape, tape.shape(slot))
    if step.name in PICKING and np.allclose(wrong[right != 0], right[right != 0]):
        whole = said_of(tape, e, slot)
        return f"{sign}{what} reaches all entries of {whole}, also those outside the slice"
    slope, d = tape.slope(edge), tape.kept["known"][term.cotangent][0]
    if slope is not None and d.shape == slope.shape == wrong.shape and np.allclose(slope * d, wrong):
        return f"{_other_cotangent_said(tape, e, term, step.outs[0])}, in the derivative of {place}"
    if step.name == "mul" and term.cotangent == step.outs[0] and not term.axes and term.divisor is None:
        (mine, theirs) = _values_said(tape, e, term), said_of(tape, e, step.ins[1 - edge[1]])
        if mine == theirs:
            theirs = f"the right {theirs} (along another axis, or another part)"
        return f"{sign}{mine} stands where {theirs} belongs, in the derivative of {place}"
    return f"{sign}{what} is passed back instead of the right term, in the derivative of {place}"


def _other_cotangent_said(tape: Tape, e: Evidence, term: _Term, right: Slot) -> str:
    """The phrase for another value's cotangent in the place of a step's own."""
    wrong, name = _cotangent_said(tape, e, term), said_of(tape, e, right)
    if term.cotangent in tape.leaves:
        of = said_of(tape, e, term.cotangent) if isinstance(term.cotangent, int) else ""
        return f"the gradient of {of} (perhaps written over it) stands where the cotangent of {name} belongs"
    earlier = isinstance(term.cotangent, int) and term.cotangent < right
    why = f"what is between them, such as a {'slope' if earlier else 'mask'}, is "
    why += "applied too" if earlier else "left out"
    if wrong == f"the cotangent of {name}":
        wrong = f"the cotangent of {'an earlier' if earlier else 'a later'} {name}"
    return f"{wrong} stands where that of {name} belongs ({why})"


def _term_said(tape: Tape, e: Evidence, term: _Term) -> str:
    of = " · ".join(filter(None, [_cotangent_said(tape, e, term), _values_said(tape, e, term)]))
    if term.divisor is not None:
        of = f"{of} / {_value_said(tape, e, term.divisor)}"
    over = f"axis {term.axes[0]}" if len(term.axes) == 1 else f"axes {', '.join(map(str, term.axes))}"
    return f"the sum over {over} of ({of})" if term.axes else of


def _cotangent_said(tape: Tape, e: Evidence, term: _Term) -> str:
    if isinstance(term.cotangent, tuple):
        return f"what flows back through {place_of(tape, e, term.cotangent)}"
    return f"the cotangent of {said_of(tape, e, term.cotangent)}"


def _values_said(tape: Tape, e: Evidence, term: _Term) -> str:
    said = [_value_said(tape, e, value) for value in term.values]
    return " · ".join(map(bracketed, said) if len(said) > 1 else said)


def _value_said(tape: Tape, e: Evidence, key: Slot | Edge) -> str:
    if isinstance(key, tuple):
        name = tape.steps[key[0]].name
        return f"the mask of {SAID.get(name, name)}"
    return said_of(tape, e, key)
