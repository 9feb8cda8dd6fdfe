"""Mistakes that the error itself implies: entries left out or counted twice, a wrong order, a wrong term.

Other kinds try mistakes that are known. Here, the error is solved for: if it comes from one place, then it is
linear in what flows back there, and few unknown numbers explain many entries, or none do.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.maps import indices
from manual_grad.checker.mistakes.mistake import (
    MASKS,
    SAID,
    Mistake,
    alike,
    arriving,
    back_with,
    is_constant,
    place_of,
    said_of,
    users_of,
)
from manual_grad.checker.reach import reach, sampled
from manual_grad.checker.tape import Edge, Passing, Slot, Tape, product_labels
from manual_grad.checker.truth import is_key

BUDGET = 288  # entries of the leaves that are looked at
UNKNOWN_UP_TO = 144  # numbers solved for at once
SPARE = 1.4  # equations for each of them
EXACT = 1e-7  # the share of the error that may remain
LONGEST_AXIS = 64  # whose entries may be in another order
CHOSEN_UP_TO = 24  # numbers that a greedy search finds
SLOWEST = 0.95  # the share of the squared error that a further number may leave
ITERATIONS_UP_TO = 64
SIZE_UP_TO = 2**22  # of a place's matrix
MASKS_UP_TO = 8  # of one shape
ERRORS_UP_TO = 4  # that of all leaves, and those of a few alone
FIRST = 12  # mistakes, the simplest ones
LISTED = 6  # numbers
Axes = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the mistake may be: what an operand receives, or a saved value that it is computed with.

    Attributes:
        edges: the operands; several for the iterations of a loop, which are then axis 0.
        value: what they receive in the truth, or the saved value.
        reach: the effect of every entry on the error.
        of: whether the value is what flows "back" to the operand, the "cotangent" that a product computes it
            from, the "other" operand of the product, or the "whole" cotangent of the operand.
    """

    edges: tuple[Edge, ...]
    value: np.ndarray
    reach: np.ndarray
    of: str = "back"

    @property
    def stacked(self) -> bool:
        return len(self.edges) > 1


Error = np.ndarray


def implied(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The mistakes in one place that the error implies, the simplest first."""
    reached, errors = reached_by(tape, e)
    for error in errors[:ERRORS_UP_TO]:
        mistakes: list[tuple[float, Mistake]] = []
        for place in _places(tape, reached, error):
            e.require_time()
            mistakes += _reweighted(tape, e, place, error)
            mistakes += _reordered(tape, e, place, error)
            mistakes += _masked(tape, e, place, error)
        yield from (mistake for _, mistake in sorted(mistakes, key=lambda m: m[0])[:FIRST])


def reached_by(tape: Tape, e: Evidence) -> tuple[dict[Slot, np.ndarray], list[Error]]:
    """As :func:`_reached`, once for all leaves."""
    return e.once("reached", partial(_reached, tape, e))


def _reached(tape: Tape, e: Evidence) -> tuple[dict[Slot, np.ndarray], list[np.ndarray]]:
    """The effect of every value on some entries of the leaves, and their errors.

    These are the errors of all leaves, then those of one wrong leaf alone, with NaN in place of the others.
    """
    pairs = list(zip(e.gots, e.wants, strict=True))
    if e.hidden is not None or any(got is None or got.shape != want.shape for got, want in pairs):
        return {}, []
    wrong = [not e.same(got, want) for got, want in pairs]
    sizes = [want.size for want in e.wants]
    columns = sampled(sizes, wrong, BUDGET)
    error = np.concatenate([(got - want).ravel() for got, want in pairs])[columns]
    if not np.all(np.isfinite(error)):
        return {}, []
    home = np.searchsorted(np.cumsum(sizes), columns, side="right")
    alone = [np.where(home == leaf, error, np.nan) for leaf in np.flatnonzero(wrong)]
    return reach(tape, columns), [error, *alone] if len(alone) > 1 or len(wrong) > 1 else [error]


def _places(tape: Tape, reached: dict[Slot, np.ndarray], error: np.ndarray) -> Iterator[_Place]:
    """The places from which the error can come."""
    known, seen = tape.kept["known"], ~np.isnan(error)
    can: dict[Slot, bool] = {}

    def able(slot: Slot) -> bool:
        if slot not in can:
            can[slot] = explains(reached[slot], error)
        return can[slot]

    for edge in tape.edges():
        slot = tape.steps[edge[0]].ins[edge[1]]
        if slot not in reached or edge not in known or not np.all(np.isfinite(known[edge][0])):
            continue
        if reached[slot].size <= SIZE_UP_TO and able(slot):
            yield _Place((edge,), known[edge][0], reached[slot][..., seen])
            yield from _in_a_product(tape, edge, reached[slot][..., seen])
    for slot, users in users_of(tape).items():
        if len(users) < 2 or slot not in reached or slot not in known or reached[slot].size > SIZE_UP_TO:
            continue
        if np.all(np.isfinite(known[slot][0])) and able(slot):
            yield _Place((users[0],), known[slot][0], reached[slot][..., seen], "whole")
    for edges in alike(tape):
        slots = [tape.steps[at].ins[i] for at, i in edges]
        there = all(s in reached and edge in known for s, edge in zip(slots, edges, strict=True))
        if there and 2 < len(edges) <= ITERATIONS_UP_TO and sum(reached[s].size for s in slots) <= SIZE_UP_TO:
            values = np.stack([known[edge][0] for edge in edges])
            if np.all(np.isfinite(values)):
                yield _Place(tuple(edges), values, np.stack([reached[s][..., seen] for s in slots]))


def explains(effect: np.ndarray, error: Error) -> bool:
    """Whether a wrong cotangent of a value can lead to the error."""
    seen = ~np.isnan(error)
    matrix = effect[..., seen].reshape(-1, int(seen.sum()))
    return matrix.shape[0] >= matrix.shape[1] or _solved(matrix, error) is not None


def _in_a_product(tape: Tape, edge: Edge, effect: np.ndarray) -> Iterator[_Place]:
    """The factors of what a matrix product passes back: its cotangent, and its other operand."""
    step, i = tape.steps[edge[0]], edge[1]
    d = tape.kept["known"].get(step.outs[0])
    if step.name != "dot_general" or d is None or step.ins[0] == step.ins[1]:
        return
    other = step.ins[1 - i]
    value = np.asarray(tape.values[other])
    of_x, of_y, out = product_labels(step.eqn.params, *(len(tape.shape(slot)) for slot in step.ins))
    mine, theirs = (of_y, of_x) if i else (of_x, of_y)
    extra = len(of_x) + len(of_y)
    to_out = np.einsum(value, theirs, effect, [*mine, extra], [*out, extra], optimize=True)
    yield _Place((edge,), d[0], to_out, "cotangent")
    if not is_constant(tape, other):
        to_other = np.einsum(d[0], out, effect, [*mine, extra], [*theirs, extra], optimize=True)
        yield _Place((edge,), value, to_other, "other")


def _solved(rows: np.ndarray, error: Error) -> np.ndarray | None:
    """The numbers with which the rows add up to the error; None if there are none."""
    error = error[~np.isnan(error)]
    if not _nearly(rows, error):
        return None
    x = np.linalg.lstsq(rows.T, error, rcond=1e-11)[0]
    return x if np.max(np.abs(x @ rows - error)) <= EXACT * np.max(np.abs(error)) else None


def _nearly(rows: np.ndarray, error: np.ndarray) -> bool:
    """Whether the rows can add up to roughly the error: quick, and true wherever they exactly can."""
    scale = float(error @ error)
    if not scale or not np.all(np.isfinite(rows)):
        return False
    norms = np.linalg.norm(rows, axis=1)
    rows = rows[norms > 0] / norms[norms > 0, None]
    if len(rows) >= rows.shape[1]:
        return True
    gram = rows @ rows.T
    x = np.linalg.solve(gram + 1e-10 * np.eye(len(gram)), rows @ error)
    left = error - x @ rows
    return float(left @ left) <= 1e-4 * scale


def _sparse(rows: np.ndarray, error: Error) -> np.ndarray | None:
    """The same with as few numbers as a greedy search finds."""
    error = error[~np.isnan(error)]
    left, chosen = error, list[int]()
    norms = np.linalg.norm(rows, axis=1)
    rows_of_1 = rows / np.where(norms > 1e-9 * np.max(norms, initial=0.0), norms, np.inf)[:, None]
    for _ in range(min(len(rows) // 2, len(error) // 3, CHOSEN_UP_TO)):
        fits = np.abs(rows_of_1 @ left)
        fits[chosen] = 0
        chosen.append(int(np.argmax(fits)))
        x = np.linalg.lstsq(rows[chosen].T, error, rcond=1e-11)[0]
        before, left = left, error - x @ rows[chosen]
        if np.max(np.abs(left)) <= EXACT * np.max(np.abs(error)):
            whole = np.zeros(len(rows))
            whole[chosen] = x
            return whole
        if left @ left > SLOWEST * (before @ before):
            return None
    return None


ROUNDED = 1e-5  # from a simple number
NICE = sorted({a / b for a in range(-4, 5) for b in (1, 2, 3, 4)}, key=abs)


def rounded(x: np.ndarray, also: Sequence[float] = ()) -> np.ndarray | None:
    """Numbers that are close to simple ones, as these; None if one is not."""
    near = nearest(x, also)
    return near if np.max(np.abs(x - near), initial=0.0) <= ROUNDED else None


def nearest(x: np.ndarray, also: Sequence[float] = ()) -> np.ndarray:
    """The nearest simple numbers."""
    nice = np.asarray([*NICE, *also])
    return nice[np.argmin(np.abs(x[..., None] - nice), axis=-1)]


# --- factors ------------------------------------------------------------------------------------------------


def _reweighted(tape: Tape, e: Evidence, place: _Place, error: np.ndarray) -> Iterator[tuple[float, Mistake]]:
    """Factors along one axis, or two, or of every entry, such as 0 for rows that are left out."""
    shape, count = place.value.shape, place.reach.shape[-1]
    weighted = place.reach * place.value[..., None]
    axes = [a for a, n in enumerate(shape) if n > 1]
    choices = [c for k in (1, 2, len(axes)) for c in itertools.combinations(axes, k)]
    for some in dict.fromkeys(choices):
        size = int(np.prod([shape[a] for a in some]))
        if not some or size > UNKNOWN_UP_TO:
            continue
        rows = weighted.sum(tuple(a for a in range(len(shape)) if a not in some)).reshape(size, count)
        for solve in (_solved, _sparse)[size * SPARE > count :]:
            x = solve(rows, error)
            factors = None if x is None else rounded(1 + x)
            if factors is not None and np.ptp(factors):
                there = factors.reshape([shape[a] for a in some])
                by_size = _by_size(tape, place, factors) if place.stacked and some == (0,) else ""
                said = by_size or _factors_said(there, some, place.stacked)
                phrase = f"{said}, {_where_said(tape, e, place)}"
                yield (
                    size / 10 + 3 * len(some) + place.stacked,
                    Mistake(phrase, _weighted(tape, place, there, some)),
                )
                return
            if x is None:
                break


def _by_size(tape: Tape, place: _Place, factors: np.ndarray) -> str:
    """The phrase for parts of different sizes that are all divided by the same number; "" for others."""
    steps = [tape.steps[at] for at, _ in place.edges]
    parts = [step.ins[0] if step.name == "reduce_sum" else step.outs[0] for step in steps]
    sizes = np.array([np.size(tape.values[part]) for part in parts])
    if not np.ptp(sizes) or np.ptp(factors / sizes) > 1e-9:
        return ""
    return f"all {len(steps)} parts are divided by the same number, where each one's own size belongs"


def _weighted(tape: Tape, place: _Place, factors: np.ndarray, axes: Axes) -> dict[Edge, Any]:
    whole = np.ones(place.value.shape) * factors.reshape(
        [n if a in axes else 1 for a, n in enumerate(place.value.shape)]
    )
    if not place.stacked:
        whole = whole[None]
    if place.of == "whole":
        return dict(arriving(tape, _slot(tape, place), partial(_whole_times, whole[0])))
    change = {"back": _times, "cotangent": _times_before, "other": _other_times}[place.of]
    return {edge: partial(change, w) for edge, w in zip(place.edges, whole, strict=True)}


def _slot(tape: Tape, place: _Place) -> Slot:
    at, i = place.edges[0]
    return tape.steps[at].ins[i]


def _whole_times(factors: np.ndarray, p: Passing, d: np.ndarray) -> np.ndarray:
    return d * factors


def _times(factors: np.ndarray, p: Passing) -> np.ndarray:
    return p.right * factors


def _times_before(factors: np.ndarray, p: Passing) -> np.ndarray:
    return back_with(_with_cotangent(p, p.cotangent * factors), p.operands[1 - p.edge[1]])


def _other_times(factors: np.ndarray, p: Passing) -> np.ndarray:
    return back_with(p, np.asarray(p.operands[1 - p.edge[1]]) * factors)


def _with_cotangent(p: Passing, d: np.ndarray) -> Passing:
    return Passing(p.tape, p.edge, d, p.right, p.notes)


def _factors_said(factors: np.ndarray, axes: Axes, stacked: bool) -> str:
    """``the last of 6 along axis 0 is left out``: the entries whose factors are not 1, and the factors."""
    values = [v for v in np.unique(factors) if v != 1]
    if len(values) > 2:
        listed = ", ".join(f"{v:.4g}" for v in factors.ravel()[:LISTED]) + ", …" * (factors.size > LISTED)
        along = " and ".join(_axis_said(a, stacked) for a in axes)
        return f"multiplied by {listed} along {along}".replace("-", "−")
    said = {0.0: "left out", 2.0: "counted twice", -1.0: "taken with the wrong sign"}
    found = []
    for v in values:
        what = said.get(v, f"multiplied by {v:.4g}".replace("-", "−"))
        found.append(f"{_entries_said(factors == v, axes, stacked)} {what}")
    return " and ".join(found)


def _axis_said(axis: int, stacked: bool) -> str:
    return "the steps of the loop" if stacked and axis == 0 else f"axis {axis - stacked}"


def _entries_said(at: np.ndarray, axes: Axes, stacked: bool) -> str:
    """The entries where an array is true, with their verb."""
    if at.ndim == 1:
        bad, of = np.flatnonzero(at), _of_said(axes[0], len(at), stacked)
        return f"{_indices_said(bad, len(at))} {of} {'is' if len(bad) == 1 else 'are'}"
    each = [np.asarray(at.any(tuple(a for a in range(at.ndim) if a != k))) for k in range(at.ndim)]
    if at.ndim == 2:
        i, j = np.nonzero(at)
        apart = np.unique(j - i)
        offsets = -np.subtract.outer(np.arange(at.shape[0]), np.arange(at.shape[1]))
        if np.array_equal(at, np.isin(offsets, apart)):
            difference = f"{apart[0]}" if len(apart) == 1 else f"{apart[0]} to {apart[-1]}"
            difference = difference.replace("-", "−")
            names = " and ".join(_axis_said(a, stacked) for a in axes)
            return (
                f"the entries with j − i = {difference} (i along {names.replace(' and ', ', j along ')}) are"
            )
    if at[np.ix_(*each)].all():
        where = [
            f"{_indices_said(np.flatnonzero(some), len(some))} {_of_said(a, len(some), stacked)}"
            for some, a in zip(each, axes, strict=True)
            if not some.all()
        ]
        return f"the entries at {' and '.join(where)} are"
    places = [str(tuple(map(int, p))) for p in np.argwhere(at)]
    listed = ", ".join(places[:LISTED]) + ", …" * (len(places) > LISTED)
    return f"{len(places)} of {at.size} entries, {listed}, are"


def _of_said(axis: int, n: int, stacked: bool) -> str:
    return f"of {n} steps" if stacked and axis == 0 else f"of {n} along axis {axis - stacked}"


def _indices_said(bad: np.ndarray, n: int) -> str:
    """``the last``, ``the first 2``, ``3 to 5``, ``1 and 4``."""
    count = len(bad)
    many = f" {count}" if count > 1 else ""
    if bad[-1] - bad[0] == count - 1:
        if bad[0] == 0 or bad[-1] == n - 1:
            return f"the {'first' if bad[0] == 0 else 'last'}{many}"
        if count > 2:
            return f"{bad[0]} to {bad[-1]}"
    listed = [str(i) for i in bad[:LISTED]]
    if count > LISTED:
        return ", ".join(listed) + ", …"
    return " and ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))


def _where_said(tape: Tape, e: Evidence, place: _Place) -> str:
    at, i = place.edges[-1]
    step = tape.steps[at]
    if place.of == "whole":
        return f"in the gradient with respect to {said_of(tape, e, step.ins[i])}"
    if place.of == "back":
        return f"in what flows back through {place_of(tape, e, (at, i))}"
    used = step.ins[1 - i] if place.of == "other" else step.outs[0]
    what = said_of(tape, e, used) if place.of == "other" else f"the cotangent of {said_of(tape, e, used)}"
    return f"in {what}, where the gradient of {said_of(tape, e, step.ins[i])} is computed from it"


def _masked(tape: Tape, e: Evidence, place: _Place, error: np.ndarray) -> Iterator[tuple[float, Mistake]]:
    """A mask of the function that is applied to what does not pass through it."""
    if place.stacked or place.of in ("other", "whole"):
        return
    seen = error[~np.isnan(error)]
    rows = place.reach.reshape(place.value.size, -1)
    for key in masks_of(tape).get(place.value.shape, ()):
        mask = mask_at(tape, key)
        for inverse in (False, True):
            kept = 1 - mask if inverse else mask
            left = (place.value * (kept - 1)).ravel() @ rows - seen
            if np.max(np.abs(left)) <= EXACT * np.max(np.abs(seen)):
                said = f"{'the inverse of ' * inverse}{_mask_said(tape, e, key)}"
                phrase = (
                    f"{said} is applied too {_where_said(tape, e, place)}, which does not pass through it"
                )
                change = partial(_masked_back, key, inverse, place.of)
                yield 3 + len(key) / 4, Mistake(phrase, dict.fromkeys(place.edges, change))


Mask = tuple[Slot | Edge, ...]  # their product: undifferentiated values, and the slopes of operands


def masks_of(tape: Tape) -> dict[tuple[int, ...], list[Mask]]:
    """By shape: the masks of the steps that pass on some entries, arrays of 0 and 1, and products of two."""
    if "masks" not in tape.kept:
        found: dict[tuple[int, ...], list[Mask]] = {}
        for edge in tape.edges():
            if tape.steps[edge[0]].name in MASKS[:4] and np.ptp(mask_at(tape, (edge,))):
                found.setdefault(mask_at(tape, (edge,)).shape, []).append((edge,))
        for slot, value in enumerate(tape.values):
            if not is_key(value) and np.size(value) > 1 and slot not in tape.active:
                x = np.asarray(value)
                if x.dtype.kind in "bf" and np.array_equal(x, x != 0) and np.any(x) and not np.all(x):
                    found.setdefault(x.shape, []).append((slot,))
        for some in found.values():
            some += [(*a, *b) for a, b in itertools.combinations(some[:MASKS_UP_TO], 2)]
        tape.kept["masks"] = found
    return tape.kept["masks"]


def mask_at(tape: Tape, key: Mask) -> np.ndarray:
    """The value of a mask."""
    parts = [tape.slope(k) if isinstance(k, tuple) else np.asarray(tape.values[k], np.float64) for k in key]
    return np.prod([part for part in parts if part is not None], axis=0)


def _mask_said(tape: Tape, e: Evidence, key: Mask) -> str:
    names = [tape.steps[k[0]].name if isinstance(k, tuple) else k for k in key]
    called = SAID | {"max": "maximum", "min": "minimum"}
    said = [said_of(tape, e, name) if isinstance(name, int) else called.get(name, name) for name in names]
    return f"the mask of {' and '.join(dict.fromkeys(said))}"


def _masked_back(key: Mask, inverse: bool, of: str, p: Passing) -> np.ndarray:
    mask = mask_at(p.tape, key)
    return (_times if of == "back" else _times_before)(1 - mask if inverse else mask, p)


# --- order --------------------------------------------------------------------------------------------------


def _reordered(tape: Tape, e: Evidence, place: _Place, error: np.ndarray) -> Iterator[tuple[float, Mistake]]:
    """Another entry of an axis in the place of each, sums of several, or a neighbour's added."""
    shape, count = place.value.shape, place.reach.shape[-1]
    whole = functools.cache(partial(_told_apart, place, error))
    for axis, n in enumerate(shape):
        if not 1 < n <= LONGEST_AXIS:
            continue
        effect = np.moveaxis(place.reach, axis, 0).reshape(n, -1, count)
        value = np.moveaxis(place.value, axis, 0).reshape(n, -1)
        mixed = _named_order(effect, value, error)
        if mixed is None and n * n <= UNKNOWN_UP_TO and n * n * SPARE <= count:
            rows = np.einsum("irl,jr->ijl", effect, value, optimize=True).reshape(n * n, count)
            mixed = _solved_order(rows, n, error)
        if mixed is None:
            mixed = _picked(whole(), value, axis)
        if mixed is not None:
            phrase = f"{_mixed_said(mixed, axis, place.stacked)}, {_where_said(tape, e, place)}"
            rank = 4 + np.count_nonzero(mixed - np.eye(n)) / 4 + place.stacked
            yield rank, Mistake(phrase, _mixed(tape, place, mixed, axis))


def orders(n: int) -> Iterator[tuple[str, np.ndarray]]:
    """Wrong orders and sums along an axis, each with a phrase and as a matrix."""
    for said, index in indices(n):
        yield said, np.eye(n)[index]
    yield "the next one is used for each, nothing for the last", np.eye(n, k=1)
    yield "the one before is used for each, nothing for the first", np.eye(n, k=-1)
    for said, sums in {
        "the sum up to each, itself included,": np.tri(n),
        "the sum before each, without itself,": np.tri(n, k=-1),
        "the sum from each on, itself included,": np.tri(n).T,
        "the sum after each, without itself,": np.tri(n, k=-1).T,
        "the sum of all": np.ones((n, n)),
        "the mean of all": np.full((n, n), 1 / n),
    }.items():
        yield f"{said} is used for each", sums


def _named_order(effect: np.ndarray, value: np.ndarray, error: np.ndarray) -> np.ndarray | None:
    """One of the known orders that explains the error."""
    error = error[~np.isnan(error)]
    for _, matrix in orders(len(value)):
        left = np.einsum("irl,ir->l", effect, matrix @ value - value) - error
        if np.max(np.abs(left)) <= EXACT * np.max(np.abs(error)):
            return matrix
    return None


def _solved_order(rows: np.ndarray, n: int, error: np.ndarray) -> np.ndarray | None:
    """Simple numbers for the entries of the matrix; None if there are none."""
    for solve in (_solved, _sparse):
        x = solve(rows, error)
        if x is None:
            return None
        mixed = rounded(np.eye(n) + x.reshape(n, n))
        if mixed is not None and np.any(mixed != np.diag(np.diag(mixed))):
            return mixed
    return None


def _told_apart(place: _Place, error: np.ndarray) -> np.ndarray | None:
    """The value that explains the error, if it is the only one."""
    error, count = error[~np.isnan(error)], place.reach.shape[-1]
    rows = place.reach.reshape(-1, count)
    if len(rows) > min(UNKNOWN_UP_TO, count) or not np.any(place.value) or not _nearly(rows, error):
        return None
    x, _, _, spectrum = np.linalg.lstsq(rows.T, error, rcond=1e-11)
    explained = np.max(np.abs(x @ rows - error)) <= EXACT * np.max(np.abs(error))
    return place.value + x.reshape(place.value.shape) if explained and np.all(spectrum > 1e-9) else None


def _picked(whole: np.ndarray | None, value: np.ndarray, axis: int) -> np.ndarray | None:
    """The order if every slice of the value that explains the error equals one of the right ones, or is 0."""
    if whole is None:
        return None
    n = len(value)
    wrong, mixed = np.moveaxis(whole, axis, 0).reshape(n, -1), np.zeros((n, n))
    for i, mine in enumerate(wrong):
        near = np.max(np.abs(value - mine), axis=1)
        j = i if near[i] <= 1e-6 * np.max(np.abs(value)) else int(np.argmin(near))
        if near[j] <= 1e-6 * np.max(np.abs(value)):
            mixed[i, j] = 1
        elif np.max(np.abs(mine)) > 1e-6 * np.max(np.abs(value)):
            return None
    return mixed if np.any(mixed != np.diag(np.diag(mixed))) else None


def _mixed(tape: Tape, place: _Place, mixed: np.ndarray, axis: int) -> dict[Edge, Any]:
    if place.stacked and axis == 0:
        edges = place.edges
        return {edge: partial(_sum_of_steps, edges, row) for edge, row in zip(edges, mixed, strict=True)}
    if place.of == "whole":
        return dict(arriving(tape, _slot(tape, place), partial(_whole_along, mixed, axis)))
    change = {"back": _along_axis, "cotangent": _mixed_before, "other": _other_mixed}[place.of]
    return dict.fromkeys(place.edges, partial(change, mixed, axis - place.stacked))


def _sum_of_steps(edges: Sequence[Edge], row: np.ndarray, p: Passing) -> Any:
    known = p.tape.kept["known"]
    return sum(w * known[edge][0] for edge, w in zip(edges, row, strict=True))


def _along(mixed: np.ndarray, axis: int, x: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.tensordot(mixed, x, (1, axis)), 0, axis)


def _along_axis(mixed: np.ndarray, axis: int, p: Passing) -> np.ndarray:
    return _along(mixed, axis, p.right)


def _whole_along(mixed: np.ndarray, axis: int, p: Passing, d: np.ndarray) -> np.ndarray:
    return _along(mixed, axis, d)


def _mixed_before(mixed: np.ndarray, axis: int, p: Passing) -> np.ndarray:
    return back_with(_with_cotangent(p, _along(mixed, axis, p.cotangent)), p.operands[1 - p.edge[1]])


def _other_mixed(mixed: np.ndarray, axis: int, p: Passing) -> np.ndarray:
    return back_with(p, _along(mixed, axis, np.asarray(p.operands[1 - p.edge[1]])))


def _mixed_said(mixed: np.ndarray, axis: int, stacked: bool) -> str:
    """What is taken for each entry of an axis."""
    along = f"along {_axis_said(axis, stacked)}"
    for said, matrix in orders(len(mixed)):
        if np.array_equal(mixed, matrix):
            return f"{said} {along}"
    changed = np.flatnonzero(np.any(mixed != np.eye(len(mixed)), axis=1))
    told = [f"{_sum_said(mixed[i])} for {i}" for i in changed[:LISTED]]
    return f"entries {along} are taken for each other: {', '.join(told)}" + ", …" * (len(changed) > LISTED)


def _sum_said(row: np.ndarray) -> str:
    used = np.flatnonzero(row)
    terms = [f"{'' if row[j] == 1 else f'{row[j]:.3g} × '}{j}" for j in used[:3]]
    return " + ".join(terms) + " + …" * (len(used) > 3) if terms else "nothing"


# --- the place ----------------------------------------------------------------------------------------------


def place_implied(tape: Tape, e: Evidence) -> str:
    """The value with the fewest entries whose wrong cotangent alone would explain all errors.

    "" if there is none, or if another one would that has nothing to do with it.
    """
    reached, errors = reached_by(tape, e)
    if not errors:
        return ""
    able = [s for s, effect in reached.items() if s not in tape.leaves and explains(effect, errors[0])]
    few = [s for s in able if np.size(tape.values[s]) * SPARE <= np.count_nonzero(errors[0])]
    if not few:
        return ""
    slot = min(few, key=lambda s: (np.size(tape.values[s]), s))
    later = computed_from(tape, slot)
    if any(s not in later and slot not in computed_from(tape, s) for s in able):
        return ""
    return (
        f"as if only the cotangent of {said_of(tape, e, slot)} were wrong, and all that follows from it right"
    )


def computed_from(tape: Tape, slot: Slot) -> set[Slot]:
    """A value and all that are computed from it."""
    found, near, users = {slot}, [slot], users_of(tape)
    while near:
        for at, _ in users.get(near.pop(), ()):
            new = [out for out in tape.steps[at].outs if out in tape.active and out not in found]
            found.update(new)
            near += new
    return found
