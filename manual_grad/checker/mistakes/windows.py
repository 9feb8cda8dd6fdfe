"""Mistakes in which entries get gradients: overlapping windows, selections, rotated kernels, lost slices."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import (
    PICKING,
    PRODUCTS,
    TURNING,
    Mistake,
    arrays_by_shape,
    arriving,
    axes_said,
    back_with,
    made_by,
    said_of,
    source_of,
    users_of,
)
from manual_grad.checker.mistakes.sums import overwritten
from manual_grad.checker.nearby import batch
from manual_grad.checker.tape import (
    COMPILED,
    ELEMENTWISE,
    Changes,
    Edge,
    Passing,
    Slot,
    Step,
    Tape,
    bind,
    broadcast_axes,
    pull_of,
)
from manual_grad.checker.truth import is_float
from manual_grad.compiling import quickly

Turn = Callable[[np.ndarray], np.ndarray]
KERNELS_UP_TO = 4096  # entries
WINDOWS_UP_TO = 200
ARRAYS_UP_TO = 24  # of the same shape that are searched for shifted versions of others
SLICES_UP_TO = 12  # of one value
MOST_TURNED = 8  # kernels rotated together
ENTRIES_UP_TO = 2**20  # of the gradients of all windows


def overlaps(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Overlapping windows assigned instead of added: in their overlap, the last one counts."""
    for slot, edges in users_of(tape).items():
        windows = [edge for edge in edges if tape.steps[edge[0]].name in PICKING and edge[1] == 0]
        for order in (windows, windows[::-1]) if len(windows) > 1 else ():
            covered = np.zeros(tape.shape(slot), bool)
            changes: dict[Edge, partial] = {}
            for edge in reversed(order):
                mine = touched(tape, edge)
                changes[edge] = partial(_outside, covered)
                covered = covered | mine
            which = "last" if order is windows else "first"
            yield Mistake(_counted(which, said_of(tape, e, slot)), changes)
            gathers = {x: c for x, c in changes.items() if tape.steps[x[0]].name == "gather"}
            if gathers:
                assigned = {x: partial(_assigned_outside, *c.args) for x, c in gathers.items()}
                yield Mistake("repeated indices are overwritten instead of added up", {**changes, **assigned})
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if edge[1] or step.name not in ("conv_general_dilated", "reduce_window_sum"):
            continue
        if np.size(tape.values[step.outs[0]]) <= 16 * WINDOWS_UP_TO:
            for which in ("last", "first"):
                phrase = _counted(which, said_of(tape, e, step.ins[0]))
                yield Mistake(phrase, {edge: partial(_windows_assigned, which)})


def maxima_overwritten(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """For overlapping windows with the same maximum the last one counts, as with += and repeated indices."""
    users = users_of(tape)
    for slot, edges in users.items():
        pooled = [
            edge
            for edge in edges
            if tape.steps[edge[0]].name in PICKING and edge[1] == 0
            and _is_maximum(tape, users, tape.steps[edge[0]].outs[0])
        ]  # fmt: skip
        if len(pooled) > 1:
            yield Mistake(
                "max-pooling: if several windows share a maximum, its gradient is overwritten "
                "instead of added up (such as += with repeated indices)",
                dict.fromkeys(pooled, partial(_if_first, slot)),
            )


def _is_maximum(tape: Tape, users: dict[Slot, list[Edge]], slot: Slot) -> bool:
    """Whether a maximum is taken of a value, perhaps after elementwise steps."""
    near, seen = [slot], {slot}
    for s in near:
        for at, _ in users.get(s, ()):
            step = tape.steps[at]
            if step.name == "reduce_max":
                return True
            if step.outs[0] not in seen and (step.name in TURNING or step.name in ELEMENTWISE):
                seen.add(step.outs[0])
                near.append(step.outs[0])
    return False


def _if_first(slot: Slot, p: Passing) -> np.ndarray:
    """The cotangent of entries that have not yet received one; the last windows come first."""
    covered = p.notes.get(slot, np.zeros(p.right.shape, bool))
    p.notes[slot] = covered | (p.right != 0)
    return np.where(covered, 0.0, p.right)


def _counted(which: str, said: str) -> str:
    overwritten = "overlapping windows are overwritten instead of added up"
    return f"{overwritten}: only the {which} contribution to the gradient of {said} counts"


def touched(tape: Tape, edge: Edge) -> np.ndarray:
    """The entries of an operand that a step uses."""
    key = ("touched", edge)
    if key not in tape.kept:
        step = tape.steps[edge[0]]
        ones = np.ones(tape.shape(step.outs[0]))
        tape.kept[key] = pull_of(tape, edge[0], [ones])[edge[1]] != 0
    return tape.kept[key]


def _outside(covered: np.ndarray, p: Passing) -> np.ndarray:
    return np.where(covered, 0.0, p.right)


def _assigned_outside(covered: np.ndarray, p: Passing) -> np.ndarray:
    return np.where(covered, 0.0, overwritten(p))


def _windows_assigned(which: str, p: Passing) -> np.ndarray:
    """The same for a single step that takes all windows: a convolution, a pooling."""
    step = p.tape.steps[p.edge[0]]
    of_the_windows = list(range(p.cotangent.ndim))
    operands = [jax.numpy.asarray(x) for x in p.operands]
    if step.name == "conv_general_dilated":
        numbers = step.eqn.params["dimension_numbers"]
        of_the_windows = list(numbers.out_spec[2:])
    positions = list(np.ndindex(*(p.cotangent.shape[a] for a in of_the_windows)))
    if len(positions) > WINDOWS_UP_TO or len(positions) * p.right.size > ENTRIES_UP_TO:
        raise ValueError

    rows = np.zeros((len(positions), *p.cotangent.shape))
    for row, at in zip(rows, positions, strict=True):
        index: list[Any] = [slice(None)] * p.cotangent.ndim
        for axis, k in zip(of_the_windows, at, strict=True):
            index[axis] = k
        row[tuple(index)] = 1.0
    back = _pulled_for_each_row(step)
    (parts,) = back(operands, rows * p.cotangent)
    (covers,) = back([jax.numpy.ones_like(x) for x in operands], rows)
    whole = np.zeros_like(p.right)
    pairs = list(zip(np.asarray(parts), np.asarray(covers) != 0, strict=True))
    for part, cover in pairs if which == "last" else pairs[::-1]:
        whole = np.where(cover, part, whole)
    return whole


def _pulled_for_each_row(step: Step) -> Any:
    """A step's cotangents for its first operand, for many cotangents at once, compiled once."""
    key = ("each row", step.name, str(step.eqn.params))
    if key not in COMPILED:
        eqn = step.eqn

        def back(operands: Sequence[Any], rows: Any) -> Any:
            def forward(x: Any) -> Any:
                return bind(eqn, [x, *operands[1:]])[0]

            return jax.vmap(jax.vjp(forward, operands[0])[1])(rows)

        COMPILED[key] = quickly(back)
    return COMPILED[key]


def kernels_turned(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A factor that is reversed, transposed or another group's in the backward pass."""
    yield from _groups_mixed_up(tape, e)
    for phrase, slot, changes in _turned(tape):
        yield Mistake(phrase.format(said_of(tape, e, slot)), changes)


def _groups_mixed_up(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Grouped products, each with the next or the previous group's factor."""
    grouped: dict[tuple[Slot, int], list[tuple[Edge, int, int]]] = {}
    for edge in tape.edges():
        step, params = tape.steps[edge[0]], getattr(tape.steps[edge[0]].eqn, "params", {})
        source = source_of(tape, step.ins[1 - edge[1]]) if len(step.ins) == 2 else 0
        if step.name == "dot_general":
            for k, axis in enumerate(params["dimension_numbers"][1][1 - edge[1]]):
                grouped.setdefault((source, k), []).append((edge, axis, 1))
        elif step.name == "conv_general_dilated" and edge[1] == 0 and params["feature_group_count"] > 1:
            axis, n = params["dimension_numbers"].rhs_spec[0], params["feature_group_count"]
            share = tape.shape(step.ins[1])[axis] // n
            grouped.setdefault((source, 0), []).append((edge, axis, share))
    for (source, _), edges in grouped.items():
        for which, by in (("next", -1), ("previous", 1)):
            yield Mistake(
                f"groups mixed up: the {which} group's {said_of(tape, e, source)} in the backward pass",
                {edge: partial(_with_rolled, axis, by * share) for edge, axis, share in edges},
            )


def _with_rolled(axis: int, by: int, p: Passing) -> np.ndarray:
    return back_with(p, np.roll(np.asarray(p.operands[1 - p.edge[1]]), by, axis))


def kernels_turned_together(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The same for all kernels at once."""
    alike: dict[tuple[str, int], list[tuple[Slot, Changes]]] = {}
    for phrase, slot, changes in _turned(tape):
        alike.setdefault((phrase, len(tape.shape(slot))), []).append((slot, changes))
    for (phrase, _), turned in alike.items():
        if len(turned) > 1:
            names = " and ".join(said_of(tape, e, slot) for slot, _ in turned[:MOST_TURNED])
            every = {edge: change for _, changes in turned[:MOST_TURNED] for edge, change in changes.items()}
            yield Mistake(phrase.format(names), every)


def _turned(tape: Tape) -> list[tuple[str, Slot, Changes]]:
    """Phrases with a placeholder for the array's name, the array, and the changes."""
    if "turned" not in tape.kept:
        tape.kept["turned"] = list(_all_turned(tape))
    return tape.kept["turned"]


def _all_turned(tape: Tape) -> Iterator[tuple[str, Slot, Changes]]:
    made, users = made_by(tape), users_of(tape)
    for slot, value in enumerate(tape.values):
        several = sum(tape.steps[at].name in PICKING for at, _ in users.get(slot, ())) > 1
        if (slot in made and not several) or not 1 < np.size(value) <= KERNELS_UP_TO or not is_float(value):
            continue
        reached: dict[Slot, None] | None = None
        for phrase, turn in _turns(np.shape(value)):
            if np.array_equal(turn(np.asarray(value)), value):
                continue
            if reached is None:
                reached = rearranged(tape, slot)
            edges = multiplied_by(tape, reached)
            if not edges:
                break
            instead = partial(with_another, slot, partial(_turned_value, slot, turn), reached)
            yield phrase, slot, dict.fromkeys(edges, instead)


def windows_shifted(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The gradient of an image that a kernel slides over, shifted by one: the padding is off by one."""
    slid: dict[tuple[int, int], list[Slot]] = {}
    for slot, edges in users_of(tape).items():
        for axis, n in enumerate(tape.shape(slot)):
            if n > 2 and _slides(tape, edges, axis):
                slid.setdefault((axis, len(tape.shape(slot))), []).append(slot)
    for (axis, _), slots in slid.items():
        names = " and ".join(said_of(tape, e, slot) for slot in slots)
        for by, cyclic in itertools.product((-1, 1), (False, True)):
            every = [arriving(tape, slot, partial(_shifted, axis, by, cyclic)) for slot in slots]
            said = f"shifted by {by} along axis {axis} in the backward pass, the padding is off by one: "
            if all(_one_by_one(tape, slot, axis) for slot in slots):
                other = "the next" if by < 0 else "the previous"
                said = (
                    f"shifted by {by} along axis {axis} in the backward pass: each step gets the gradient of "
                    f"{other} one (an index is off by one, or a cumulative sum over the steps is "
                    "exclusive: it "
                    "leaves out each step's own term): "
                )
            for slot, changes in zip(slots, every, strict=True):
                yield Mistake(said + f"the gradient of {said_of(tape, e, slot)}", changes)
            if len(every) > 1:
                together = {edge: change for changes in every for edge, change in changes.items()}
                yield Mistake(said + f"the gradient of {names}", together)


def spread_ignored(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A stride or a dilation of windows taken to be 1 in the backward pass."""
    for slot, edges in users_of(tape).items():
        slices = [edge for edge in edges if tape.steps[edge[0]].name == "slice"]
        if not slices:
            continue
        starts, strides = (
            np.array(some) for some in zip(*(_cut(tape, edge) for edge in slices), strict=True)
        )
        for setting, (at, by) in _spreads(starts, strides).items():
            if np.any(at != starts) or np.any(by != strides):
                changes = {edge: partial(_cut_out, at[i], by[i]) for i, edge in enumerate(slices)}
                said = f"the gradient of {said_of(tape, e, slot)} is not spread apart"
                yield Mistake(f"{setting} ignored in the backward pass: {said}", changes)
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name == "conv_general_dilated":
            for setting, name in (("stride", "window_strides"), ("dilation", "rhs_dilation")):
                if max(step.eqn.params[name]) > 1:
                    changes = {edge: partial(_with_setting_1, name)}
                    yield Mistake(f"{setting} ignored in the backward pass of a convolution", changes)
            for one, other in itertools.combinations(("window_strides", "lhs_dilation", "rhs_dilation"), 2):
                if step.eqn.params[one] != step.eqn.params[other]:
                    said = "stride and dilation" if "rhs_dilation" in (one, other) else "the strides"
                    said = f"{said} are swapped in the backward pass of a convolution ({one} and {other})"
                    yield Mistake(said, {edge: partial(_with_settings_swapped, one, other)})


def spread_ignored_in_kernels(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The same in the gradient of a kernel: the image's windows are taken as if it were 1."""
    for image, setting, windows in [*_windows_closer(tape), *_lags_shorter(tape)]:
        changes: dict[Edge, Any] = {}
        for slot, cut in windows.items():
            reached = rearranged(tape, slot)
            change = partial(with_another, slot, cut, reached)
            changes |= dict.fromkeys(multiplied_by(tape, reached), change)
        if changes:
            of_image = f"what the windows of {said_of(tape, e, image)} are multiplied by"
            yield Mistake(f"{setting} ignored in the gradient of the kernel ({of_image})", changes)


def _windows_closer(tape: Tape) -> Iterator[tuple[Slot, str, dict[Slot, partial]]]:
    """The slices of each value, with one setting replaced by 1."""
    images: dict[Slot, list[Slot]] = {}
    for step in tape.steps:
        if step.name == "slice":
            images.setdefault(step.ins[0], []).append(step.outs[0])
    for image, windows in images.items():
        cuts = [_cut(tape, (made_by(tape)[slot], 0)) for slot in windows]
        starts, strides = (np.array(some) for some in zip(*cuts, strict=True))
        for setting, (at, by) in _spreads(starts, strides).items():
            sizes = np.array([tape.shape(slot) for slot in windows])
            inside = np.all(at + (sizes - 1) * by < np.array(tape.shape(image)))
            if inside and (np.any(at != starts) or np.any(by != strides)):
                yield (
                    image,
                    setting,
                    {s: partial(_window, image, s, at[k], by[k]) for k, s in enumerate(windows)},
                )


APART = "stride (or dilation)"


def _spreads(starts: np.ndarray, strides: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The starts and strides of windows if one setting were 1.

    Whether where they start is a stride (one window for each output) or a dilation (one slice for each tap)
    cannot be told from the windows alone.
    """
    closer = starts.min(0) + np.stack([np.unique(axis, return_inverse=True)[1] for axis in starts.T], 1)
    found = {"stride": (starts, np.ones_like(strides)), APART: (closer, strides)}
    apart = [math.gcd(*map(int, np.diff(np.unique(axis)))) for axis in starts.T]
    if max(apart) > 1 and np.all(strides == 1):  # windows at multiples of a stride
        found["stride taken for dilation,"] = (
            closer,
            np.broadcast_to(np.maximum(apart, 1), starts.shape),
        )
    return found


def _lags_shorter(tape: Tape) -> Iterator[tuple[Slot, str, dict[Slot, partial]]]:
    """Values shifted along an axis and zero-filled, by two or more positions, with a shorter shift."""
    for slots in arrays_by_shape(tape).values():
        found: dict[tuple[Slot, int], dict[Slot, int]] = {}
        for one, other in itertools.combinations(slots[:ARRAYS_UP_TO], 2):
            for axis in range(len(tape.shape(one))):
                if other in made_by(tape) and (lag := _lag(tape, one, other, axis)):
                    found.setdefault((one, axis), {})[other] = lag
        for (image, axis), lags in found.items():
            apart = math.gcd(*lags.values())
            if apart > 1:
                shorter = {s: partial(_moved, image, axis, lag // apart) for s, lag in lags.items()}
                yield image, "dilation", shorter


def _lag(tape: Tape, one: Slot, other: Slot, axis: int) -> int:
    """By how many positions a value is shifted and zero-filled from another one; 0 if it is not."""
    x, moved = (np.moveaxis(np.asarray(tape.values[slot]), axis, 0) for slot in (one, other))
    filled = np.flatnonzero(moved.reshape(len(moved), -1).any(1))
    if not len(filled):
        return 0
    before, after = int(filled[0]), len(moved) - 1 - int(filled[-1])
    if before and np.array_equal(moved[before:], x[: len(x) - before]):
        return before
    return -after if after and np.array_equal(moved[: len(x) - after], x[after:]) else 0


def _moved(image: Slot, axis: int, by: int, tape: Tape) -> np.ndarray:
    return _shifted_by(axis, by, np.asarray(tape.values[image]))


def _window(image: Slot, slot: Slot, start: np.ndarray, stride: np.ndarray, tape: Tape) -> np.ndarray:
    """The window of an image at another position."""
    cut = zip(start, tape.shape(slot), stride, strict=True)
    return np.asarray(tape.values[image])[tuple(slice(a, a + (n - 1) * s + 1, s) for a, n, s in cut)]


def slices_moved(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A slice's gradient shifted by one position, or put where another slice was taken."""
    for slot, edges in users_of(tape).items():
        slices = [edge for edge in edges if tape.steps[edge[0]].name == "slice"][:SLICES_UP_TO]
        said = said_of(tape, e, slot)
        cuts = {edge: _cut(tape, edge) for edge in slices}
        for one, other in itertools.combinations(slices, 2):
            if tape.shape(tape.steps[one[0]].outs[0]) == tape.shape(tape.steps[other[0]].outs[0]):
                swapped = {one: partial(_cut_out, *cuts[other]), other: partial(_cut_out, *cuts[one])}
                yield Mistake(f"swapped: two slices of {said} get each other's gradient", swapped)
        for edge, (starts, strides) in cuts.items():
            if np.count_nonzero(starts) > 1:
                place = ", ".join(map(str, starts))
                yield Mistake(
                    f"the offsets of a slice of {said} are ignored in the backward pass: the gradient is put "
                    f"at its beginning, not at {place} (as if it were padded at the end only)",
                    {edge: partial(_cut_out, 0 * starts, strides)},
                )
            for axis in map(int, np.flatnonzero(starts > 1)):
                at_0 = starts * (np.arange(len(starts)) != axis)
                yield Mistake(
                    f"the offset {starts[axis]} of a slice of {said} is ignored in the backward pass, along "
                    f"axis {axis}: the gradient is put at its beginning",
                    {edge: partial(_cut_out, at_0, strides)},
                )
            for axis, by in itertools.product(range(len(starts)), (-1, 1)):
                moved = starts + by * (np.arange(len(starts)) == axis)
                last = moved + (np.array(tape.shape(tape.steps[edge[0]].outs[0])) - 1) * strides
                if np.all(moved >= 0) and np.all(last < tape.shape(slot)):
                    yield Mistake(
                        f"shifted by {by} along axis {axis} in the backward pass: the gradient of {said} "
                        "by one of its slices",
                        {edge: partial(_cut_out, moved, strides)},
                    )


def borders_wrapped(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The gradient of a border that is repeated outside the array, given to the opposite border."""
    edges: dict[int, dict[Edge, Any]] = {}
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name != "slice":
            continue
        (starts, strides), shape = _cut(tape, edge), tape.shape(step.ins[0])
        part = tape.shape(step.outs[0])
        for axis, n in enumerate(shape):
            if part[axis] == 1 < n and starts[axis] in (0, n - 1):
                opposite = np.where(np.arange(len(shape)) == axis, n - 1 - starts, starts)
                edges.setdefault(axis, {})[edge] = partial(_cut_out, opposite, strides)
    every = {edge: change for some in edges.values() for edge, change in some.items()}
    for axes, changes in [(tuple(edges), every)] * (len(edges) > 1) + [((a,), c) for a, c in edges.items()]:
        yield Mistake(
            f"the borders are wrapped around periodically in the backward pass, along {axes_said(axes)}: "
            "what belongs to one border is added to the opposite one",
            changes,
        )


def parts_swapped(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Two parts of a split or concatenation, such as gates, swapped in the backward pass."""
    for at, step in enumerate(tape.steps):
        if step.name not in ("split", "concatenate") or step.outs[0] not in tape.active:
            continue
        parts, whole = (step.outs, step.ins[0]) if step.name == "split" else (step.ins, step.outs[0])
        axis = step.eqn.params["axis" if step.name == "split" else "dimension"]
        ends = np.cumsum([tape.shape(part)[axis] for part in parts])
        for i, j in itertools.combinations(range(min(len(parts), SLICES_UP_TO)), 2):
            n = tape.shape(parts[i])[axis]
            if tape.shape(parts[j])[axis] == n:
                phrase = f"swapped: the parts {i} and {j} of {said_of(tape, e, whole)} in the backward pass"
                change = partial(_blocks_swapped, axis, ends[i] - n, ends[j] - n, n)
                edge = (at, 0 if step.name == "split" else -1)
                yield Mistake(f"{phrase}, along axis {axis}", {edge: change})


def _blocks_swapped(axis: int, one: int, other: int, n: int, p: Passing) -> np.ndarray:
    d = np.moveaxis(p.right.copy(), axis, 0)
    d[one : one + n], d[other : other + n] = d[other : other + n].copy(), d[one : one + n].copy()
    return np.moveaxis(d, 0, axis)


def _cut(tape: Tape, edge: Edge) -> tuple[np.ndarray, np.ndarray]:
    """The start and the strides of a slice."""
    params = tape.steps[edge[0]].eqn.params
    starts = np.array(params["start_indices"])
    return starts, np.array(params["strides"] or np.ones_like(starts))


def _cut_out(starts: np.ndarray, strides: np.ndarray, p: Passing) -> np.ndarray:
    """A slice's gradient, as if it had been taken at another position."""
    whole = np.zeros_like(p.right)
    sizes = p.cotangent.shape
    cut = [slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, sizes, strides, strict=True)]
    whole[tuple(cut)] = p.cotangent
    return whole


def _with_setting_1(setting: str, p: Passing) -> np.ndarray:
    """A convolution's cotangents as if this setting were 1; its first results."""
    params = p.tape.steps[p.edge[0]].eqn.params
    return _back_of_convolution(p, {**params, setting: (1,) * len(params[setting])})


def _with_settings_swapped(one: str, other: str, p: Passing) -> np.ndarray:
    """A convolution's cotangents as if two settings were swapped, padded as far as necessary."""
    params = dict(p.tape.steps[p.edge[0]].eqn.params)
    params[one], params[other] = params[other], params[one]
    spatial = params["dimension_numbers"].lhs_spec[2:]
    more = [2 * p.tape.shape(p.tape.steps[p.edge[0]].ins[0])[axis] * 4 for axis in spatial]
    params["padding"] = tuple((low, high + n) for (low, high), n in zip(params["padding"], more, strict=True))
    return _back_of_convolution(p, params)


def _back_of_convolution(p: Passing, params: dict[str, Any], operand: Any = None) -> np.ndarray:
    """The cotangents of a convolution with these parameters for its first results."""
    step, i = p.tape.steps[p.edge[0]], p.edge[1]
    operands = [jax.numpy.asarray(x) for x in p.operands]

    def forward(x: Any) -> Any:
        out = step.eqn.primitive.bind(*operands[:i], x, *operands[i + 1 :], **params)
        return out[tuple(slice(n) for n in p.cotangent.shape)]

    x = operands[i] if operand is None else operand
    return np.asarray(jax.vjp(forward, x)[1](jax.numpy.asarray(p.cotangent))[0])


def _slides(tape: Tape, edges: Sequence[Edge], axis: int) -> bool:
    """Whether a convolution's image has this axis, or windows are taken along it."""
    starts = set()
    for at, operand in edges:
        step = tape.steps[at]
        if step.name == "conv_general_dilated" and operand == 0:
            return axis in step.eqn.params["dimension_numbers"].lhs_spec[2:]
        if step.name == "slice":
            starts.add(step.eqn.params["start_indices"][axis])
    return len(starts) > 1


def _one_by_one(tape: Tape, slot: Slot, axis: int) -> bool:
    """Whether a value is read in slices of one entry each along an axis, as the steps of a loop do."""
    slices = [tape.steps[at] for at, _ in users_of(tape).get(slot, ()) if tape.steps[at].name == "slice"]
    return bool(slices) and all(tape.shape(step.outs[0])[axis] == 1 for step in slices)


def _shifted(axis: int, by: int, cyclic: bool, p: Passing, d: np.ndarray) -> np.ndarray:
    return np.roll(d, by, axis) if cyclic else _shifted_by(axis, by, d)


def _shifted_by(axis: int, by: int, x: np.ndarray) -> np.ndarray:
    """An array shifted along an axis and zero-filled."""
    moved = np.roll(x, by, axis)
    np.moveaxis(moved, axis, 0)[slice(by) if by > 0 else slice(by, None)] = 0
    return moved


def _turns(shape: tuple[int, ...]) -> Iterator[tuple[str, Turn]]:
    kernel = "rotated or flipped kernel: {} must be reversed in the backward pass, "
    axes = [a for a, n in enumerate(shape) if n > 1]
    for some in [(a,) for a in axes] + [p for p in itertools.pairwise(axes) if p[1] == p[0] + 1]:
        yield kernel + axes_said(some), partial(np.flip, axis=some)
    for a, b in itertools.pairwise(range(len(shape))):
        if shape[a] == shape[b] > 1:
            yield (
                "transposed: {} is used for its transpose in the backward pass",
                partial(np.swapaxes, axis1=a, axis2=b),
            )
    if len(shape) == 4 and shape[0] != shape[1]:
        cut = "transposed: {} is used for its transpose in the backward pass, cut or filled up to its shape"
        yield cut, _transposed_to_fit


def _transposed_to_fit(kernel: np.ndarray) -> np.ndarray:
    """The first two axes swapped, cropped or zero-padded where they differ."""
    fitting = np.zeros_like(kernel)
    n = min(kernel.shape[:2])
    fitting[:n, :n] = kernel[:n, :n].swapaxes(0, 1)
    return fitting


def rearranged(tape: Tape, slot: Slot) -> dict[Slot, None]:
    """The slots with entries of a given slot, reordered or selected."""
    found = dict.fromkeys([slot])
    for step in tape.steps:
        if step.name in TURNING and any(s in found for s in step.ins):
            found |= dict.fromkeys(step.outs)
    return found


def multiplied_by(tape: Tape, reached: dict[Slot, None]) -> list[Edge]:
    """The products that multiply a cotangent by one of these values."""
    return [
        edge
        for edge in tape.edges()
        if tape.steps[edge[0]].name in PRODUCTS
        and tape.steps[edge[0]].ins[1 - edge[1]] in reached
        and tape.steps[edge[0]].ins[edge[1]] not in reached
    ]


def _rearranged_values(tape: Tape, slot: Slot, value: np.ndarray, reached: dict[Slot, None]) -> dict:
    """Their values if the slot has another value."""
    values = {slot: value}
    for step in tape.steps:
        if step.outs[0] in reached and step.outs[0] != slot:
            ins = [values.get(s, tape.values[s]) for s in step.ins]
            if step.eqn is None:
                values[step.outs[0]] = np.broadcast_to(ins[0], tape.shape(step.outs[0]))
            else:
                values[step.outs[0]] = np.asarray(bind(step.eqn, [jax.numpy.asarray(x) for x in ins])[0])
    return values


def _turned_value(slot: Slot, turn: Turn, tape: Tape) -> np.ndarray:
    return turn(np.asarray(tape.values[slot]))


def with_another(
    slot: Slot, value: Callable[[Tape], np.ndarray], reached: dict[Slot, None], p: Passing
) -> np.ndarray:
    """A product's cotangents if a slot from which its other factor is computed has another value."""
    key = ("another", slot, value)
    if key not in p.tape.kept:
        p.tape.kept[key] = _rearranged_values(p.tape, slot, value(p.tape), reached)
    return back_with(p, p.tape.kept[key][p.tape.steps[p.edge[0]].ins[1 - p.edge[1]]])


def entries_picked(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The cotangents of entries selected by an index or a one-hot row are lost, or those of the others."""
    made, users = made_by(tape), users_of(tape)
    for slot in tape.active & users.keys() & made.keys():
        picked = {
            f"the entries of {said_of(tape, e, slot)} that are picked": touched(tape, edge)
            for edge in users[slot]
            if tape.steps[edge[0]].name in ("gather", "dynamic_slice") and edge[1] == 0
        }
        for at, i in users[slot]:
            if tape.steps[at].name == "mul":
                other = tape.steps[at].ins[1 - i]
                values = tape.values[other]
                if other not in tape.active and is_float(values) and set(np.unique(values)) == {0.0, 1.0}:
                    picked[f"the entries where {said_of(tape, e, other)} is 1"] = np.asarray(values) == 1
        for said, which in picked.items():
            if which.all() or not which.any():
                continue
            edge = (made[slot], -1)
            yield Mistake(
                f"a path is missing: nothing flows back through {said}", {edge: partial(_outside, which)}
            )
            yield Mistake(
                f"entries left out: something flows back only through {said} "
                "(such as a softmax without its off-diagonal terms)",
                {edge: partial(_outside, ~which)},
            )


def slices_lost(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The last or first slice of an inner value's cotangent is lost: one sample, one step."""
    made, users = made_by(tape), users_of(tape)
    for slot in sorted(tape.active & users.keys() & made.keys(), reverse=True):
        shape, mine = tape.shape(slot), users[slot]
        step = tape.steps[mine[0][0]]
        if len(mine) == 1 and step.name in ELEMENTWISE and step.outs[0] in users:
            continue  # the same there
        for axis, at in itertools.product(range(len(shape)), (-1, 0)):
            if shape[axis] > 1:
                which = np.zeros(shape, bool)
                np.moveaxis(which, axis, 0)[at] = True
                lost = f"the {'last' if at else 'first'} of {shape[axis]} terms along axis {axis}"
                yield Mistake(
                    f"one sample dropped: {lost} of the gradient of {said_of(tape, e, slot)}",
                    {(made[slot], -1): partial(_outside, which)},
                )


def chunks_lost(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The last samples of an inner value's cotangent are lost, as in a loop over whole chunks."""
    made, n = made_by(tape), batch(e.point)[0]
    for slot in sorted(tape.active & users_of(tape).keys() & made.keys(), reverse=True):
        shape = tape.shape(slot)
        axis = next((axis for axis, size in enumerate(shape) if size == n), -1)
        for k in range(2, n // 2 + 1) if axis >= 0 else ():
            which = np.zeros(shape, bool)
            np.moveaxis(which, axis, 0)[-k:] = True
            yield Mistake(
                f"samples dropped: the last {k} of {n} along axis {axis} of the gradient of "
                f"{said_of(tape, e, slot)} (an incomplete chunk)",
                {(made[slot], -1): partial(_outside, which)},
            )


def terms_left_out(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The last or first terms are missing in the sum for the gradient of a repeated value."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name not in ("broadcast", "broadcast_in_dim"):
            continue
        shape = tape.shape(step.outs[0])
        for axis in broadcast_axes(tape, step):
            for k, which in itertools.product(range(1, shape[axis] // 2 + 1), ("last", "first")):
                kept = np.ones(shape[axis], bool)
                kept[-k if which == "last" else 0 : None if which == "last" else k] = False
                terms = f"the {which} {k} of {shape[axis]} along axis {axis}"
                yield Mistake(
                    f"terms left out of a sum in the backward pass: {terms} of the gradient of "
                    f"{said_of(tape, e, step.ins[0])} (such as an incomplete tile)",
                    {edge: partial(_sum_of_some, axis, kept)},
                )


def _sum_of_some(axis: int, kept: np.ndarray, p: Passing) -> np.ndarray:
    shape = [1] * p.cotangent.ndim
    shape[axis] = -1
    d = p.cotangent * kept.reshape(shape)
    return d.sum(broadcast_axes(p.tape, p.tape.steps[p.edge[0]])).reshape(p.right.shape)


def cotangents_ignored(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Only the first or last step of a sequence gets its cotangent; one of several outputs is ignored."""
    made = made_by(tape)
    for k, slot in enumerate(tape.results):
        if slot not in made or slot not in tape.active:
            continue
        shape = tape.shape(slot)
        if len(tape.results) > 1 and tape.results.count(slot) == 1:
            said = f"the cotangent of output {k + 1} of {len(tape.results)} is ignored"
            yield Mistake(said, {(made[slot], -1): partial(_less_cotangent, k, np.ones(shape, bool))})
        for axis in range(len(shape)):
            for which, others in _but_one(shape, axis):
                yield Mistake(
                    f"the cotangent of only {which} is used, along axis {axis} of the output; those of the "
                    "others are ignored",
                    {(made[slot], -1): partial(_less_cotangent, k, others)},
                )
    for at, step in enumerate(tape.steps):
        if step.name not in ("stack", "concatenate") or step.outs[0] not in tape.active - set(tape.results):
            continue
        shape = tape.shape(step.outs[0])
        axis = step.eqn.params["axis" if step.name == "stack" else "dimension"]
        for which, others in _but_one(shape, axis) if len(step.ins) == shape[axis] else ():
            yield Mistake(
                f"only {which} counts in the gradient of a sequence, {said_of(tape, e, step.outs[0])}; "
                "the others are ignored",
                {(at, -1): partial(_outside, others)},
            )


def _but_one(shape: tuple[int, ...], axis: int) -> Iterator[tuple[str, np.ndarray]]:
    """All entries but the last, and all but the first, along an axis."""
    for which, at in (("last", -1), ("first", 0)) if shape[axis] > 2 else ():
        others = np.ones(shape, bool)
        np.moveaxis(others, axis, 0)[at] = False
        yield f"the {which} of {shape[axis]} steps (or samples)", others


def _less_cotangent(k: int, ignored: np.ndarray, p: Passing) -> np.ndarray:
    """An output's cotangent without these entries of its own cotangent."""
    return p.right - np.where(ignored, np.asarray(p.tape.kept["dout"][k]), 0.0)


def padding_ignored(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The gradient of a padded array cropped at the wrong position: at its corner instead of the array's."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if edge[1] or step.name not in ("pad", "conv_general_dilated"):
            continue
        pads = _pads(step)
        for wrong, side in (("ignored", 0), ("on the wrong side", 1)):
            by = {axis: (low, -high)[side] for axis, (low, high) in pads.items() if (low, high)[side] > 0}
            for some in _some_axes(list(by)):
                moved = f"shifted by {', '.join(str(by[axis]) for axis in some)} along {axes_said(some)}"
                yield Mistake(
                    f"the padding's offset is {wrong} in the backward pass: the gradient is cropped at the "
                    f"wrong corner, {moved}",
                    {edge: partial(_cropped_at, {axis: by[axis] for axis in some})},
                )

        by = {axis: low - high for axis, (low, high) in pads.items() if low != high}
        for some in _some_axes(list(by)):
            moved = f"shifted by {', '.join(str(-by[axis]) for axis in some)} along {axes_said(some)}"
            yield Mistake(
                "the low and the high padding are swapped in the backward pass: the gradient is cropped at "
                f"the wrong place, {moved}",
                {edge: partial(_cropped_at, {axis: by[axis] for axis in some})},
            )
        for a, b in itertools.combinations(pads, 2):
            if pads[a][0] != pads[b][0]:
                apart = pads[a][0] - pads[b][0]
                yield Mistake(
                    f"the paddings of the axes {a} and {b} are swapped in the backward pass: the gradient is "
                    f"cropped from {pads[b][0]}, {pads[a][0]}, not from {pads[a][0]}, {pads[b][0]}",
                    {edge: partial(_cropped_at, {a: apart, b: -apart})},
                )


def _some_axes(axes: list[int]) -> list[list[int]]:
    return [axes, *([axis] for axis in axes if len(axes) > 1)] if axes else []


def _pads(step: Step) -> dict[int, tuple[int, int]]:
    """The padding of each axis of a step's first operand; nothing if a pad crops or leaves gaps."""
    if step.name == "pad":
        config = step.eqn.params["padding_config"]
        pads = {axis: (low, high) for axis, (low, high, _) in enumerate(config)}
        return {} if any(gap or low < 0 or high < 0 for low, high, gap in config) else pads
    return dict(
        zip(step.eqn.params["dimension_numbers"].lhs_spec[2:], step.eqn.params["padding"], strict=True)
    )


def _cropped_at(by: dict[int, int], p: Passing) -> np.ndarray:
    """The gradient that a padding step passes on if the padded array is cropped that much earlier."""
    step, whole, pads = p.tape.steps[p.edge[0]], p.cotangent, _pads(p.tape.steps[p.edge[0]])
    if step.name != "pad":
        widths = [pads.get(axis, (0, 0)) for axis in range(p.right.ndim)]
        padded = jax.numpy.asarray(np.pad(np.asarray(p.operands[0]), widths))
        params = {**step.eqn.params, "padding": ((0, 0),) * len(pads)}
        whole = _back_of_convolution(p, params, padded)
    starts = [pads.get(axis, (0, 0))[0] - by.get(axis, 0) for axis in range(p.right.ndim)]
    return whole[tuple(slice(a, a + n) for a, n in zip(starts, p.right.shape, strict=True))]
