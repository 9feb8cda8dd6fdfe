"""Mistakes in values that are resampled: pooled, padded by their own entries, repeated or interpolated.

However it is written, such a value is a product of one matrix for each axis and the value that it is computed
from. The matrices are read off the recorded steps, and each mistake is another matrix for some of the axes.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import Mistake, axes_said, made_by, nothing, said_of, users_of
from manual_grad.checker.mistakes.sums import ENTRIES_PICKED, to_window
from manual_grad.checker.tape import Changes, Edge, Passing, Slot, Tape, pulled_back

TRIED_UP_TO = 24  # regions whose matrices are computed
STEPS_UP_TO = 400  # of one region
ENTRIES_UP_TO = 2**21  # of the matrix from all entries to all
ROWS = 64
LINEAR_IN_ALL = {
    "neg", "convert_element_type", "copy", "copy_p", "reshape", "squeeze", "expand_dims", "transpose",
    "broadcast", "broadcast_in_dim", "slice", "rev", "reduce_sum", "concatenate", "stack", "pad",
    "reduce_window_sum", "add", "add_any", "sub",
}  # fmt: skip
LINEAR_IN_FIRST = {"div", "gather", "dynamic_slice", "conv_general_dilated"}
LARGEST = {"max", "reduce_max", "reduce_window_max"}
REARRANGING = {"gather", "rev", "concatenate", "pad", "reduce_window_sum", "reduce_window_max"}
TAKING = {
    "slice", "gather", "dynamic_slice", "pad", "reduce_window_sum", "conv_general_dilated", "dot_general",
    "reduce_max", "reduce_window_max", "reduce_sum", "broadcast", "broadcast_in_dim",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Region:
    """The steps between a value and one that is resampled from it.

    Attributes:
        x, y: the two values.
        steps: the steps.
        inside: x and the values computed from it.
        entries: the operands through which x enters.
        largest: whether y consists of the largest entries of windows.
    """

    x: Slot
    y: Slot
    steps: tuple[int, ...]
    inside: frozenset[Slot]
    entries: tuple[Edge, ...]
    largest: bool


@dataclass(frozen=True, eq=False)
class Line:
    """How a value is resampled along one axis: the matrix, and what is read off it.

    Attributes:
        axis: the axis.
        matrix: from the entries of x (columns) to those of y (rows).
    """

    axis: int
    matrix: np.ndarray


def regions_of(tape: Tape) -> list[tuple[Region, list[Line]]]:
    """The values that are resampled, and the axes along which they are."""
    if "resampled" not in tape.kept:
        found: list[tuple[Region, list[Line]]] = []
        made = made_by(tape)
        taken = {tape.steps[at].ins[i] for at, i in tape.edges() if tape.steps[at].name in TAKING}
        ended: set[Slot] = set()
        tried = 0
        for x in sorted({*taken, *tape.leaves} & tape.active, key=lambda s: made.get(s, -1)):
            left = 0 if x in ended else TRIED_UP_TO - tried
            regions = list(itertools.islice(_regions_from(tape, x), left))
            tried += len(regions)
            several = [(region, lines) for region in regions if _is_known(lines := lines_of(tape, region))]
            for region, lines in several[:: max(1, len(several) - 1)]:
                found.append((region, lines))
                ended |= region.inside - {region.y}
        tape.kept["resampled"] = found
    return tape.kept["resampled"]


def _is_known(lines: list[Line]) -> bool:
    """Whether something is known to go wrong when a value is resampled so."""
    return any(next(_others(line, ""), None) or _takes_windows(line) for line in lines)


def _takes_windows(line: Line) -> bool:
    several = np.max(np.count_nonzero(line.matrix, 1)) > 1
    return bool(several) and len(line.matrix) > 1 and windows_of(line.matrix) is not None


def _regions_from(tape: Tape, x: Slot) -> Iterator[Region]:
    """The regions that begin with a value: from there on, all goes through their last value."""
    users, inside, steps, entries = users_of(tape), {x}, list[int](), list[Edge]()
    near = sorted({at for at, _ in users.get(x, ())})
    while near and len(steps) < STEPS_UP_TO:
        at = heapq.heappop(near)
        step = tape.steps[at]
        if len(step.outs) > 1 or not _passes(tape, at, inside):
            return
        steps.append(at)
        entries += [(at, i) for i, s in enumerate(step.ins) if s == x and (at, i) in tape.kept["known"]]
        y = step.outs[0]
        inside.add(y)
        if not near and entries and _may_resample(tape, x, y, {tape.steps[k].name for k in steps}):
            largest = any(tape.steps[k].name in LARGEST for k in steps)
            yield Region(x, y, tuple(steps), frozenset(inside), tuple(entries), largest)
        if y in tape.results:
            return
        for user in {user for user, _ in users.get(y, ())} - {*near}:
            heapq.heappush(near, user)


def _may_resample(tape: Tape, x: Slot, y: Slot, names: set[str]) -> bool:
    """Whether a value may be resampled from another, judging by their shapes and the steps between them."""
    into, out = tape.shape(x), tape.shape(y)
    if len(into) != len(out) or not 0 < np.prod(into) * np.prod(out) <= ENTRIES_UP_TO:
        return False
    return any(m != n and min(m, n) > 1 for m, n in zip(out, into, strict=True)) or (
        into == out and not names.isdisjoint(REARRANGING)
    )


def _passes(tape: Tape, at: int, inside: set[Slot]) -> bool:
    """Whether a step is linear in these values, or takes the largest of them."""
    step = tape.steps[at]
    mine = [i for i, slot in enumerate(step.ins) if slot in inside]
    if step.name in LINEAR_IN_ALL or step.name in LARGEST - {"max"}:
        return True
    if step.name == "max":
        return len(mine) == 2
    if step.name == "select_n":
        return 0 not in mine
    if step.name in ("mul", "dot_general"):
        other = step.ins[1 - mine[0]]
        return len(mine) == 1 and (step.name == "mul" or other not in tape.active)
    return step.name in LINEAR_IN_FIRST and mine == [0]


def lines_of(tape: Tape, region: Region) -> list[Line]:
    """The axes along which a region resamples; none if it is not a product of matrices, one for each axis."""
    key = ("lines", region.x, region.y)
    if key not in tape.kept:
        tape.kept[key] = _lines(tape, region)
    return tape.kept[key]


def _lines(tape: Tape, region: Region) -> list[Line]:
    into, out = tape.shape(region.x), tape.shape(region.y)
    whole = _whole_matrix(tape, region).reshape(*out, *into)
    if region.largest:
        whole = (whole != 0).astype(np.float64)
    at = np.unravel_index(int(np.argmax(np.abs(whole))), whole.shape)
    scale, product = float(whole[at]), np.ones(())
    if not scale or not np.isfinite(whole).all():
        return []
    matrices = []
    for axis in range(len(out)):
        place: list = list(at)
        place[axis] = place[len(out) + axis] = slice(None)
        matrices.append(whole[tuple(place)] / scale)
        product = np.multiply.outer(product, matrices[-1])
    order = [*range(0, 2 * len(out), 2), *range(1, 2 * len(out), 2)]
    if not np.allclose(scale * product.transpose(order), whole, 1e-9, 1e-12):
        return []
    lines = [
        Line(a, m) for a, m in enumerate(matrices) if m.shape[0] != m.shape[1] or np.any(m != np.eye(len(m)))
    ]
    return [Line(line.axis, line.matrix * (scale if k == 0 else 1.0)) for k, line in enumerate(lines)]


def _whole_matrix(tape: Tape, region: Region) -> np.ndarray:
    """What each entry of y hands to each of x; an entry that is the largest of some, to all of them."""
    steps = [tape.steps[at] for at in region.steps]
    part = Tape(steps, tape.values, [region.x], [region.y], set(region.inside))
    alike: Changes = {
        (at, i): _to_all
        for at, step in enumerate(steps)
        if step.name in LARGEST
        for i, slot in enumerate(step.ins)
        if slot in region.inside
    }
    shape = tape.shape(region.y)
    each: list[Changes] = [
        {(len(steps) - 1, -1): partial(_one, k), **alike} for k in range(int(np.prod(shape)))
    ]
    rows = [
        pulled_back(part, [np.zeros(shape)], each[start : start + ROWS])[0]
        for start in range(0, len(each), ROWS)
    ]
    return np.concatenate(rows).reshape(len(each), -1)


def _one(k: int, p: Passing) -> np.ndarray:
    found = np.zeros_like(p.right)
    found.flat[k] = 1.0
    return found


def _to_all(p: Passing) -> np.ndarray:
    step = p.tape.steps[p.edge[0]]
    if step.name == "max":
        return p.cotangent
    if step.name == "reduce_max":
        return np.broadcast_to(np.expand_dims(p.cotangent, tuple(step.eqn.params["axes"])), p.right.shape)
    return to_window(ENTRIES_PICKED["all entries (missing mask)"], p)


# --- other matrices -----------------------------------------------------------------------------------------

Maker = Callable[[Line], np.ndarray]


def resampled_otherwise(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Windows, borders, positions or weights of another kind in the gradient of a resampled value."""
    for region, lines in regions_of(tape):
        if region.largest:
            continue
        of = f"in the gradient of {said_of(tape, e, region.x)}"
        wrong: dict[str, dict[int, Maker]] = {}
        own = _own_count(lines)
        for line in lines:
            for said, maker in _others(line, own):
                wrong.setdefault(said, {})[line.axis] = maker
        for said, makers in wrong.items():
            for some in dict.fromkeys((tuple(makers), *((axis,) for axis in makers))):
                chosen = {axis: makers[axis] for axis in some}
                yield Mistake(
                    f"{said}, along {axes_said(some)}, {of}",
                    changed(tape, region, partial(_by, region, chosen)),
                )


def changed(tape: Tape, region: Region, back: Callable[[Tape, np.ndarray], np.ndarray]) -> Changes:
    """The gradient that a region hands to x, replaced by another function of the gradient of y."""
    end, (first, *others) = (made_by(tape)[region.y], -1), region.entries

    def noted(p: Passing) -> np.ndarray:
        p.notes[end] = p.right
        return p.right

    def instead(p: Passing) -> np.ndarray:
        return back(p.tape, p.notes[end]).reshape(p.right.shape)

    return {end: noted, **dict.fromkeys(others, nothing), first: instead}


def _by(region: Region, makers: dict[int, Maker], tape: Tape, d: np.ndarray) -> np.ndarray:
    for line in lines_of(tape, region):
        matrix = makers[line.axis](line) if line.axis in makers else line.matrix
        d = np.moveaxis(np.tensordot(matrix, d, (0, line.axis)), 0, line.axis)
    return d


def _others(line: Line, own: str) -> Iterator[tuple[str, Maker]]:
    """Phrases, and functions from the right matrix to a wrong one."""
    if np.max(np.count_nonzero(line.matrix, 1)) <= 1:
        yield from _other_places(line) if chosen_by(line.matrix) is not None else ()
        return
    if _takes_windows(line):
        yield from _other_windows(line, own)
    if positions_of(line.matrix) is not None:
        yield from _other_positions(line)
    if np.max(np.count_nonzero(line.matrix, 0)) > 1:
        overwritten = "what overlaps is overwritten instead of added up (= for +=)"
        yield f"{overwritten}: only the last one counts", partial(_assigned, -1)
        yield f"{overwritten}: only the first one counts", partial(_assigned, 1)


def _assigned(order: int, line: Line) -> np.ndarray:
    there = np.cumsum((line.matrix != 0)[::order], axis=0)[::order]
    return np.where(there == 1, line.matrix, 0.0)


# --- windows ------------------------------------------------------------------------------------------------


def windows_of(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Where the window of each row begins and ends, and its weight, the same for all its entries."""
    there = matrix != 0
    starts, ends = there.argmax(1), matrix.shape[1] - there[:, ::-1].argmax(1)
    weights = matrix[np.arange(len(matrix)), starts]
    if not there.any(1).all() or not np.allclose(
        matrix, _window_matrix(starts, ends, matrix.shape[1], weights)
    ):
        return None
    return starts, ends, weights


def _window_matrix(starts: np.ndarray, ends: np.ndarray, n: int, weights: np.ndarray) -> np.ndarray:
    i = np.arange(n)
    return np.where((i >= starts[:, None]) & (i < ends[:, None]), weights[:, None], 0.0)


def other_windows(matrix: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Phrases, and where the windows begin and end if their bounds are computed by another formula."""
    found = windows_of(matrix)
    if found is None:
        return
    (starts, ends, _), (m, n) = found, matrix.shape
    j = np.arange(m)
    floor, ceil = j * n // m, -(-j * n // m)
    end_floor, end_ceil = (j + 1) * n // m, -(-(j + 1) * n // m)
    if np.array_equal(starts, floor) and np.array_equal(ends, end_ceil) and n % m:
        low, high = "⌊j n/m⌋", "⌈(j + 1) n/m⌉"
        yield f"a window's end is ⌊(j + 1) n/m⌋, where {high} belongs (floor for ceil)", floor, end_floor
        yield f"a window's start is ⌈j n/m⌉, where {low} belongs (ceil for floor)", ceil, end_ceil
        k = n // m
        for size, stride, said in (
            (k, k, f"windows of ⌊n/m⌋ = {k} with that stride"),
            (n - (m - 1) * k, k, f"windows of n − (m − 1) ⌊n/m⌋ = {n - (m - 1) * k} with the stride {k}"),
            (-(-n // m), -(-n // m), f"windows of ⌈n/m⌉ = {-(-n // m)} with that stride"),
        ):
            other = np.minimum(stride * j, n), np.minimum(stride * j + size, n)
            yield f"{said} are used for adaptive ones, from {low} to {high}", *other
    if (rule := strided(matrix)) is not None:
        size, stride, pad = rule
        at = stride * j - pad
        others = {}
        if pad:
            others[f"the padding {pad} of the windows is ignored"] = at + pad
        if stride > 1:
            others["the windows' stride is ignored"] = j - pad
        others |= {
            "the windows are off by one, one later": at + 1,
            "the windows are off by one, one earlier": at - 1,
        }
        for said, start in others.items():
            yield said, np.clip(start, 0, n), np.clip(start + size, 0, n)


def strided(matrix: np.ndarray) -> tuple[int, int, int] | None:
    """The size, the stride and the padding of windows that are cut off at the borders."""
    found = windows_of(matrix)
    if found is None or len(matrix) < 2:
        return None
    (starts, ends, _), n = found, matrix.shape[1]
    size = int(np.max(ends - starts))
    pad = size - int(ends[0]) if starts[0] == 0 else -int(starts[0])
    for stride in sorted({*map(int, np.diff(starts)), *map(int, np.diff(ends))} - {0}):
        at = stride * np.arange(len(matrix)) - pad
        if np.array_equal(starts, np.clip(at, 0, n)) and np.array_equal(ends, np.clip(at + size, 0, n)):
            return size, stride, pad
    return None


def _other_windows(line: Line, own: str) -> Iterator[tuple[str, Maker]]:
    for k, (said, *_) in enumerate(other_windows(line.matrix)):
        yield said, partial(_with_windows, k, True)
        yield f"{said}, but each is divided by its right size", partial(_with_windows, k, False)
    m, n = line.matrix.shape
    for which, order in (("first", 1), ("last", -1)):
        for whole in (True, False):
            said = f"a window's gradient goes to its {which} entry alone"
            yield said if whole else f"{said}, divided by its size", partial(_to_one, order, whole)
    if n % m == 0:
        own_window = "where that of the window that holds it belongs"
        yield f"entry i gets the gradient of window i mod m, {own_window}", _tiled
    for name in _counts(line.matrix) if own else ():
        if name != own:
            yield (
                f"a wrong count: each window is divided by {name}, where {own} belongs (such as "
                "count_include_pad)",
                partial(_with_count, own, name),
            )


def _to_one(order: int, whole: bool, line: Line) -> np.ndarray:
    there = np.cumsum((line.matrix != 0)[:, ::order], axis=1)[:, ::order]
    one = np.where((there == 1) & (line.matrix != 0), line.matrix, 0.0)
    return one * np.count_nonzero(line.matrix, 1)[:, None] if whole else one


def _tiled(line: Line) -> np.ndarray:
    m, n = line.matrix.shape
    return np.where(np.arange(n) % m == np.arange(m)[:, None], line.matrix.max(), 0.0)


def _with_windows(which: int, own: bool, line: Line) -> np.ndarray:
    _, starts, ends = list(other_windows(line.matrix))[which]
    found = windows_of(line.matrix)
    if found is None:
        raise ValueError
    first, last, weights = found
    sizes = (last - first) / np.maximum(ends - starts, 1) if own else 1.0
    return _window_matrix(starts, ends, line.matrix.shape[1], weights * sizes)


def _counts(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """What windows may be divided by: their whole sizes, or without what lies outside."""
    found, rule, n = windows_of(matrix), strided(matrix), matrix.shape[1]
    if found is None:
        return {}
    counts = {"the number of entries that are inside": found[1] - found[0]}
    if rule is not None:
        size, stride, pad = rule
        at = stride * np.arange(len(matrix)) - pad
        counts["its whole size"] = np.full(len(matrix), size)
        counts["the number of entries that are inside or padding"] = np.minimum(at + size, n + pad) - at
    if np.ptp(found[1] - found[0]):
        counts["the mean of the windows' sizes, n/m"] = np.full(len(matrix), n / len(matrix))
    counts["⌊n/m⌋"] = np.full(len(matrix), n // len(matrix) or 1)
    return counts


def _own_count(lines: list[Line]) -> str:
    """What windows are divided by, along all axes on which there are some; "" if it is none of these."""
    fitting: list[str] | None = None
    for line in lines:
        if (found := windows_of(line.matrix)) is not None and _takes_windows(line):
            counts = _counts(line.matrix)
            mine = [name for name, c in counts.items() if np.ptp(c * found[2]) <= 1e-9 * np.max(c * found[2])]
            fitting = [name for name in mine if fitting is None or name in fitting]
    return fitting[0] if fitting else ""


def _with_count(own: str, name: str, line: Line) -> np.ndarray:
    counts = _counts(line.matrix)
    return line.matrix * (counts[own] / counts[name])[:, None]


# --- single entries -----------------------------------------------------------------------------------------


def chosen_by(matrix: np.ndarray) -> np.ndarray | None:
    """The entry that each row takes; None if one takes several, or multiplies it by a number."""
    index = matrix.argmax(1)
    one = np.zeros_like(matrix)
    one[np.arange(len(matrix)), index] = 1.0
    return index if np.array_equal(one, matrix) else None


BORDERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "by reflection (without the edge entry twice)": lambda i, n: _reflected(i, 2 * (n - 1)),
    "with the edge entry": lambda i, n: np.clip(i, 0, n - 1),
    "symmetrically (the edge entry twice)": lambda i, n: np.minimum(i % (2 * n), 2 * n - 1 - i % (2 * n)),
    "periodically (with the opposite border)": lambda i, n: i % n,
}  # fmt: skip
NEAREST: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "⌊j n/m⌋": lambda j, n, m: j * n // m,
    "⌊(j + ½) n/m⌋": lambda j, n, m: (2 * j + 1) * n // (2 * m),
    "j n/m, rounded": lambda j, n, m: np.floor(j * n / m + 0.5).astype(int),
    "⌈j n/m⌉": lambda j, n, m: -(-j * n // m),
    "j (n − 1)/(m − 1), rounded": lambda j, n, m: np.rint(j * (n - 1) / max(m - 1, 1)).astype(int),
    "j mod n": lambda j, n, m: j % n,
    "⌊j n/m⌋ + 1": lambda j, n, m: j * n // m + 1,
}


def _reflected(i: np.ndarray, period: int) -> np.ndarray:
    return np.minimum(i % period, period - i % period)


def _padded(matrix: np.ndarray) -> tuple[str, int] | None:
    """The kind of padding, and how many entries stand before the first."""
    index, n = chosen_by(matrix), matrix.shape[1]
    if index is None or not 1 < n < len(matrix):
        return None
    for low in range(len(matrix) - n + 1):
        for kind, place in BORDERS.items():
            if np.array_equal(index, place(np.arange(len(matrix)) - low, n)):
                return kind, low
    return None


def _other_places(line: Line) -> Iterator[tuple[str, Maker]]:
    (m, n), index = line.matrix.shape, line.matrix.argmax(1)
    padded = _padded(line.matrix)
    if padded is not None:
        kind, low = padded
        sides = {
            "": (low, m - n - low),
            " of the low border": (low, 0),
            " of the high border": (0, m - n - low),
        }
        own = f"the border is padded {kind} in the function, but"
        for side, (before, after) in sides.items():
            if side and not (low and m - n - low):
                continue
            if before or after:
                lost = f"{own} the gradient of the padding{side} is left out"
                yield lost, partial(_with_border, "", before, after)
                for wrong, how in (("at the opposite border", "opposite"), ("in reverse order", "reversed")):
                    said = f"{own} its gradient{side} is added {wrong}"
                    yield said, partial(_with_border, how, before, after)
                for other in BORDERS:
                    if other != kind:
                        said = f"{own} its gradient{side} is added as for padding {other}"
                        yield said, partial(_with_border, other, before, after)
        return
    kind = next((name for name, at in NEAREST.items() if np.array_equal(at(np.arange(m), n, m), index)), "")
    for name in NEAREST if kind and n > 1 else ():
        if name != kind:
            yield f"entry {name} gets the gradient of entry j, where {kind} belongs", partial(_nearest, name)
    for which, order in (("last", -1), ("first", 1)) if kind and 1 < n < m else ():
        said = f"of an entry that is repeated, only the {which} copy's gradient counts (= for +=, or no sum)"
        yield said, partial(_assigned, order)


def _with_border(kind: str, before: int, after: int, line: Line) -> np.ndarray:
    (m, n), padded = line.matrix.shape, _padded(line.matrix)
    if padded is None:
        raise ValueError
    own, low = padded
    found, i = line.matrix.copy(), np.arange(m) - low
    rows = np.flatnonzero(((i < 0) & (before > 0)) | ((i >= n) & (after > 0)))
    found[rows] = 0
    if kind == "opposite":
        found[rows, n - 1 - BORDERS[own](i[rows], n)] = 1
    elif kind == "reversed":
        for side in (rows[i[rows] < 0], rows[i[rows] >= n]):
            found[side, BORDERS[own](i[side[::-1]], n)] = 1
    elif kind:
        found[rows, BORDERS[kind](i[rows], n)] = 1
    return found


def _nearest(name: str, line: Line) -> np.ndarray:
    m, n = line.matrix.shape
    index, found = np.clip(NEAREST[name](np.arange(m), n, m), 0, n - 1), np.zeros_like(line.matrix)
    found[np.arange(m), index] = 1
    return found


# --- interpolation ------------------------------------------------------------------------------------------


def positions_of(matrix: np.ndarray) -> np.ndarray | None:
    """The positions at which a linear interpolation takes its values; None if it is none."""
    n = matrix.shape[1]
    if (
        n < 2
        or np.any(matrix < -1e-12)
        or not np.allclose(matrix.sum(1), 1)
        or not np.any((matrix > 0) & (matrix < 1))
    ):
        return None
    at = matrix @ np.arange(n)
    return at if np.allclose(_interpolating(at, n), matrix, 1e-9, 1e-9) else None


def _interpolating(at: np.ndarray, n: int) -> np.ndarray:
    """The matrix of a linear interpolation; what lies outside is left out."""
    return np.maximum(0.0, 1 - np.abs(at[:, None] - np.arange(n)))


POSITIONS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "aligned corners, j (n − 1)/(m − 1)": lambda j, n, m: j * (n - 1) / max(m - 1, 1),
    "half-pixel centres, (j + ½) n/m − ½": lambda j, n, m: (j + 0.5) * n / m - 0.5,
    "j n/m, without the half pixel": lambda j, n, m: j * n / m,
    "j (n − 1)/m": lambda j, n, m: j * (n - 1) / m,
}


def _other_positions(line: Line) -> Iterator[tuple[str, Maker]]:
    (m, n), at = line.matrix.shape, _positions(line)
    for kept in (False, True):
        swapped = "the two weights of an interpolation, 1 − t and t, are swapped"
        yield f"{swapped} (the last entry is its own neighbour)" if kept else swapped, partial(
            _weights_swapped, kept)  # fmt: skip
    yield "an interpolation's gradient goes to the lower neighbour alone", partial(_one_neighbour, np.floor)
    yield "an interpolation's gradient goes to the upper neighbour alone", partial(_one_neighbour, np.ceil)
    yield "an interpolation's gradient goes to the nearest neighbour alone", partial(_one_neighbour, np.rint)
    yield "an interpolation's gradient goes to both neighbours in equal parts", _in_halves
    yield "an interpolation's positions are off by one (+1)", partial(_at_other_positions, "", 1)
    yield "an interpolation's positions are off by one (−1)", partial(_at_other_positions, "", -1)
    j = np.arange(m)
    own = next((name for name, p in POSITIONS.items() if np.allclose(np.clip(p(j, n, m), 0, n - 1), at)), "")
    for name in POSITIONS:
        if name != own:
            said = f"an interpolation's positions are those of {name}"
            yield (f"{said}, where {own} belongs" if own else said), partial(_at_other_positions, name, 0)
    if own and not np.allclose(POSITIONS[own](j, n, m), at):
        lost = "the positions of an interpolation are not clamped at the borders:"
        yield f"{lost} what lies outside is left out", partial(_not_clamped, own, False)
        yield f"{lost} the weights there are not between 0 and 1", partial(_not_clamped, own, True)


def _positions(line: Line) -> np.ndarray:
    at = positions_of(line.matrix)
    if at is None:
        raise ValueError
    return at


def _weights_swapped(at_end: bool, line: Line) -> np.ndarray:
    at, n = _positions(line), line.matrix.shape[1]
    low = np.floor(at) if at_end else np.minimum(np.floor(at), n - 2)
    return _interpolating(np.clip(2 * low + 1 - at, 0, n - 1), n)


def _one_neighbour(rounded: Callable, line: Line) -> np.ndarray:
    return _interpolating(rounded(_positions(line)), line.matrix.shape[1])


def _in_halves(line: Line) -> np.ndarray:
    return (line.matrix > 0) / np.count_nonzero(line.matrix > 0, 1)[:, None]


def _at_other_positions(name: str, by: int, line: Line) -> np.ndarray:
    m, n = line.matrix.shape
    at = POSITIONS[name](np.arange(m), n, m) if name else _positions(line)
    return _interpolating(np.clip(at + by, 0, n - 1), n)


def _not_clamped(name: str, extrapolated: bool, line: Line) -> np.ndarray:
    m, n = line.matrix.shape
    at = POSITIONS[name](np.arange(m), n, m)
    if not extrapolated:
        return _interpolating(at, n)
    low, found = np.clip(np.floor(at), 0, n - 2).astype(int), np.zeros_like(line.matrix)
    found[np.arange(m), low], found[np.arange(m), low + 1] = 1 - (at - low), at - low
    return found
