"""Max-pooling whose largest entries get their gradients at other places, however the pooling is written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import Mistake, axes_said, said_of
from manual_grad.checker.mistakes.resampling import (
    Line,
    Region,
    changed,
    lines_of,
    other_windows,
    regions_of,
    strided,
    windows_of,
)
from manual_grad.checker.tape import Slot, Tape

Grid = list[np.ndarray]  # one index for each axis that is pooled, for every entry of the result


@dataclass(frozen=True, eq=False)
class _Pooled:
    """Where the largest entries of windows are.

    Attributes:
        axes: the pooled axes.
        place: the index of the largest entry along each of them.
        corner: where its window begins, in the padding perhaps.
        size, stride, pad, n, m: the windows' sizes, strides and padding, and the sizes of image and result.
    """

    axes: list[int]
    place: Grid
    corner: Grid
    size: list[int]
    stride: list[int]
    pad: list[int]
    n: list[int]
    m: list[int]

    @property
    def inner(self) -> Grid:
        """The index of the largest entry inside its window."""
        return [a - b for a, b in zip(self.place, self.corner, strict=True)]

    def padded(self, at: Grid) -> Grid:
        """An index in the padded image."""
        return [x + p for x, p in zip(at, self.pad, strict=True)]

    def unpadded(self, at: Grid) -> Grid:
        """An index in the image for one in the padded image."""
        return [x - p for x, p in zip(at, self.pad, strict=True)]

    def window(self) -> Grid:
        """The number of each window along each axis."""
        return [(c + p) // s for c, p, s in zip(self.corner, self.pad, self.stride, strict=True)]


def maxima_misplaced(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Max-pooling whose maximum is looked for at another position or in another window."""
    for region, lines in regions_of(tape):
        pooled = _pooled(tape, region) if region.largest else None
        if pooled is None:
            continue
        of = f"in the gradient of {said_of(tape, e, region.x)}"
        for said, place in _places(pooled):
            inside = all(np.all((at >= 0) & (at < n)) for at, n in zip(place(pooled), pooled.n, strict=True))
            for mode in ("lost",) if inside else ("lost", "counted on", "clip", "wrap"):
                back = partial(_scattered, region, place, mode)
                yield Mistake(f"max-pooling: {said}, {of}", changed(tape, region, back))
        for some in dict.fromkeys((tuple(line.axis for line in lines), *((line.axis,) for line in lines))):
            chosen = [line for line in lines if line.axis in some]
            for said in dict.fromkeys(said for line in chosen for said, *_ in other_windows(line.matrix)):
                back = partial(_in_other_windows, region, some, said)
                yield Mistake(
                    f"max-pooling: {said}, along {axes_said(some)}, {of}", changed(tape, region, back)
                )
        assigned = "overlapping windows are overwritten instead of added up (= for +=)"
        for which, order in (("last", 1), ("first", -1)):
            back = partial(_overwritten, region, order)
            yield Mistake(f"max-pooling: {assigned}; the {which} window counts", changed(tape, region, back))
        for said, share in (
            ("all entries", False),
            ("all entries in equal parts, as for average pooling", True),
        ):
            back = partial(_to_all, region, share)
            yield Mistake(
                f"max-pooling: the gradient goes to {said} of its window", changed(tape, region, back)
            )


def _places(pooled: _Pooled) -> Iterator[tuple[str, Callable[[_Pooled], Grid]]]:
    """Phrases, and where the gradients go instead."""
    wrong = "the maximum's place in its window is wrong:"
    if len(pooled.axes) == 2:
        h, w = pooled.size
        divided = f"it is divided by the window's height {h} to find row and column"
        yield f"{wrong} {divided}; it should be divided by the width {w}", _by_height
        yield f"{wrong} row and column are swapped", lambda p: _at(p, p.inner[::-1])
        yield from _divided_otherwise(pooled)
    yield f"{wrong} where the window begins is left out", lambda p: p.inner
    if any(s > 1 for s in pooled.stride):
        yield "the stride is ignored where a window begins", _without_stride
    if any(pooled.pad):
        yield "the padding's offset is not subtracted from the maximum's place", lambda p: p.padded(p.place)
        yield (
            "the padding's offset is subtracted twice from the maximum's place",
            lambda p: p.unpadded(p.place),
        )


def _divided_otherwise(pooled: _Pooled) -> Iterator[tuple[str, Callable[[_Pooled], Grid]]]:
    """The place in the image, counted row by row, with another number for the width."""
    (_, w), (height, width), (high, wide) = pooled.size, pooled.n, pooled.m
    found, full = "to find row and column, where", width + 2 * pooled.pad[1]
    divided = "the maximum's place in the image is divided by"
    sizes = {"the image's height": height, "the pooled width": wide, "the pooled height": high}
    for name, k in sizes.items():
        yield f"{divided} {name} {k} {found} the image's width {width} belongs", partial(_divided, k)
    padded = {"the width without padding": width, "the padded height": height + 2 * pooled.pad[0]}
    for name, k in padded.items() if any(pooled.pad) else ():
        said = f"{divided} {name} {k} {found} the padded width {full} belongs"
        yield said, partial(_divided_in_padding, k, True)
        yield said, partial(_divided_in_padding, k, False)
    for name, k in {"the image's height": height, "the pooled width": wide, "the window's width": w}.items():
        said = f"the maximum's place in the image is computed as row · {name} + column ({k})"
        yield f"{said}, where row · width + column ({width}) belongs", partial(_flattened, k)


def _at(p: _Pooled, inner: Grid) -> Grid:
    return [c + i for c, i in zip(p.corner, inner, strict=True)]


def _by_height(p: _Pooled) -> Grid:
    k = p.inner[0] * p.size[1] + p.inner[1]
    return _at(p, [k // p.size[0], k % p.size[0]])


def _divided(by: int, p: _Pooled) -> Grid:
    flat = p.place[0] * p.n[1] + p.place[1]
    return [flat // by, flat % by]


def _divided_in_padding(by: int, cropped: bool, p: _Pooled) -> Grid:
    row, column = p.padded(p.place)
    flat = row * (p.n[1] + 2 * p.pad[1]) + column
    where = [flat // by, flat % by]
    return p.unpadded(where) if cropped else where


def _flattened(width: int, p: _Pooled) -> Grid:
    flat = p.place[0] * width + p.place[1]
    return [flat // p.n[1], flat % p.n[1]]


def _without_stride(p: _Pooled) -> Grid:
    return [j - pad + i for j, pad, i in zip(p.window(), p.pad, p.inner, strict=True)]


# --- the largest entries ------------------------------------------------------------------------------------


def _pooled(tape: Tape, region: Region) -> _Pooled | None:
    key = ("pooled", region.x, region.y)
    if key not in tape.kept:
        tape.kept[key] = _located(tape, region, lines_of(tape, region))
    return tape.kept[key]


def _located(tape: Tape, region: Region, lines: list[Line]) -> _Pooled | None:
    bounds = [windows_of(line.matrix) for line in lines]
    if not lines or any(b is None for b in bounds):
        return None
    x, y = (np.asarray(tape.values[slot]) for slot in (region.x, region.y))
    rules = [strided(line.matrix) for line in lines]
    place, corner = np.zeros((2, len(lines), *y.shape), int)
    found = _largest(x, y.shape, lines, [(b[0], b[1]) for b in bounds if b is not None])
    for at, inside in found.items():
        place[(slice(None), *at)] = inside
        corner[(slice(None), *at)] = [
            rule[1] * at[line.axis] - rule[2] if rule else b[0][at[line.axis]]
            for rule, b, line in zip(rules, bounds, lines, strict=True)
            if b is not None
        ]
    if not np.array_equal(x[_index(y.shape, lines, list(place))], y):
        return None
    largest = [int(np.max(np.count_nonzero(line.matrix, 1))) for line in lines]
    some = [rule or (n, 1, 0) for rule, n in zip(rules, largest, strict=True)]
    size, stride, pad = ([one[k] for one in some] for k in range(3))
    n, m = ([line.matrix.shape[k] for line in lines] for k in (1, 0))
    return _Pooled([line.axis for line in lines], list(place), list(corner), size, stride, pad, n, m)


def _largest(
    x: np.ndarray, shape: tuple[int, ...], lines: list[Line], bounds: list[tuple[np.ndarray, np.ndarray]]
) -> dict[tuple[int, ...], list[int]]:
    """For each entry of the result, the index of the largest entry of its window, unless it is empty."""
    found = {}
    for at in np.ndindex(*shape):
        cut = [slice(j, j + 1) for j in at]
        for line, (starts, ends) in zip(lines, bounds, strict=True):
            cut[line.axis] = slice(starts[at[line.axis]], ends[at[line.axis]])
        window = x[tuple(cut)]
        if window.size:
            place = np.unravel_index(int(window.argmax()), window.shape)
            found[at] = [int(place[line.axis]) + cut[line.axis].start for line in lines]
    return found


def _index(shape: tuple[int, ...], lines: list[Line], place: Grid) -> tuple[np.ndarray, ...]:
    index = list(np.indices(shape))
    for line, at in zip(lines, place, strict=True):
        index[line.axis] = at
    return tuple(index)


def _scattered(
    region: Region, place: Callable[[_Pooled], Grid], mode: str, tape: Tape, d: np.ndarray
) -> np.ndarray:
    """The gradients at these places; those outside are lost, moved inside, or counted on row by row."""
    pooled, lines = _pooled(tape, region), lines_of(tape, region)
    if pooled is None:
        raise ValueError
    where, sizes = place(pooled), pooled.n
    if mode == "clip":
        where = [np.clip(a, 0, n - 1) for a, n in zip(where, sizes, strict=True)]
    elif mode == "wrap":
        where = [a % n for a, n in zip(where, sizes, strict=True)]
    elif mode == "counted on":
        flat = sum((a * int(np.prod(sizes[k + 1 :])) for k, a in enumerate(where)), np.zeros_like(where[0]))
        where = list(np.unravel_index(flat, sizes))
    there = np.all([(a >= 0) & (a < n) for a, n in zip(where, sizes, strict=True)], axis=0)
    return _added(region.x, tape, tuple(a[there] for a in _index(d.shape, lines, where)), d[there])


def _added(x: Slot, tape: Tape, index: tuple[np.ndarray, ...], d: np.ndarray) -> np.ndarray:
    found = np.zeros(tape.shape(x))
    np.add.at(found, index, d)
    return found


def _in_other_windows(
    region: Region, axes: tuple[int, ...], said: str, tape: Tape, d: np.ndarray
) -> np.ndarray:
    lines = lines_of(tape, region)
    bounds = []
    for line in lines:
        own = windows_of(line.matrix)
        others = {name: (starts, ends) for name, starts, ends in other_windows(line.matrix)}
        if own is None:
            raise ValueError
        bounds.append(others.get(said, own[:2]) if line.axis in axes else own[:2])
    found = _largest(np.asarray(tape.values[region.x]), d.shape, lines, bounds)
    place = [np.array([inside[k] for inside in found.values()]) for k in range(len(lines))]
    index = list(np.array(list(found)).T)
    for line, at in zip(lines, place, strict=True):
        index[line.axis] = at
    return _added(region.x, tape, tuple(index), np.array([d[at] for at in found]))


def _overwritten(region: Region, order: int, tape: Tape, d: np.ndarray) -> np.ndarray:
    pooled = _pooled(tape, region)
    if pooled is None:
        raise ValueError
    index = _index(d.shape, lines_of(tape, region), pooled.place)
    found = np.zeros(tape.shape(region.x))
    for *at, value in zip(*(a.ravel()[::order] for a in index), d.ravel()[::order], strict=True):
        found[tuple(at)] = value
    return found


def _to_all(region: Region, share: bool, tape: Tape, d: np.ndarray) -> np.ndarray:
    for line in lines_of(tape, region):
        matrix = line.matrix / line.matrix.sum(1, keepdims=True) if share else line.matrix
        d = np.moveaxis(np.tensordot(matrix, d, (0, line.axis)), 0, line.axis)
    return d
