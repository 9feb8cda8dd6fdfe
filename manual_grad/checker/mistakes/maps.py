"""Mistakes in the index along an axis: another group's, step's or tap's member; keepdims; rows left out."""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import (
    PRODUCTS,
    Mistake,
    arriving,
    back_with,
    is_constant,
    left_out,
    made_by,
    said_of,
    stop,
    users_of,
)
from manual_grad.checker.tape import Changes, Passing, Slot, Step, Tape, bind, broadcast_axes

MEMBERS_UP_TO = 64  # of an axis
SHIFTS = (1, -1, 2, -2)
UPSTREAM_UP_TO = 12


def members_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A product's other factor with wrong members along an axis: another group's, the first one's."""
    groups = {step.eqn.params["feature_group_count"] for step in tape.steps
              if step.name == "conv_general_dilated"}  # fmt: skip
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name not in PRODUCTS:
            continue
        if step.name == "conv_general_dilated" and step.eqn.params["feature_group_count"] > 1:
            n, g = _outputs(step), step.eqn.params["feature_group_count"]
            phrase = (
                f"a wrong index: output channel o of {n} is in group o mod {g} in the backward pass, where"
            )
            yield Mistake(f"{phrase} o // {n // g} does", {edge: _regrouped}, stop(edge))
            o, out = np.arange(n), step.eqn.params["dimension_numbers"].out_spec[1]
            for order in (o.reshape(g, n // g).T.ravel(), o.reshape(n // g, g).T.ravel()):
                if not np.array_equal(order, o):
                    yield Mistake(
                        f"a wrong index: the {n} channels that come out are taken in the order "
                        "(member, group) "
                        f"in the backward pass, where they are {g} groups of {n // g} members: "
                        "(group, member)",
                        {edge: partial(_channels_reordered, out, order)}, stop(edge),
                    )  # fmt: skip
            axis = step.eqn.params["dimension_numbers"].rhs_spec[0]
            each, wrong = n // g, tape.shape(step.ins[1])[step.eqn.params["dimension_numbers"].rhs_spec[1]]
            o = np.arange(n)
            if each != wrong and edge[1] == 0:
                index = np.minimum(o // each * wrong + o % each, n - 1)
                yield Mistake(
                    f"a wrong index: the kernel's part of group g starts at g · {wrong} (the channels that "
                    f"go in), where g · {each} belongs (those that come out)",
                    {edge: partial(_with_members, axis, index)}, stop(edge),
                )  # fmt: skip
        other = step.ins[1 - edge[1]]
        if is_constant(tape, other) or tape.shape(other) == ():
            continue
        for axis, n in enumerate(tape.shape(other)):
            if not 1 < n <= MEMBERS_UP_TO:
                continue
            for said, index in indices(n, groups):
                yield Mistake(
                    f"a wrong index in {said_of(tape, e, other)}: {said}, along axis {axis}, in the gradient "
                    f"of {said_of(tape, e, step.ins[edge[1]])}",
                    {edge: partial(_with_members, axis, index)}, stop(edge),
                )  # fmt: skip


def _outputs(step: Step) -> int:
    """The number of channels of a convolution's result."""
    return step.eqn.outvars[0].aval.shape[step.eqn.params["dimension_numbers"].out_spec[1]]


def _regrouped(p: Passing) -> np.ndarray:
    """The cotangent that a grouped convolution passes on if output channel o belongs to group o mod G."""
    step, i = p.tape.steps[p.edge[0]], p.edge[1]
    numbers, n, g = (
        step.eqn.params["dimension_numbers"],
        _outputs(step),
        step.eqn.params["feature_group_count"],
    )
    order = np.arange(n).reshape(n // g, g).T.ravel()  # the channels of a group are adjacent
    d = np.take(p.cotangent, order, numbers.out_spec[1])
    kernel = np.take(np.asarray(p.operands[1]), order, numbers.rhs_spec[0])
    x, changed = jnp.asarray(p.operands[0]), jnp.asarray(kernel)
    back = jax.vjp(lambda *operands: bind(step.eqn, operands)[0], x, changed)[1](jnp.asarray(d))[i]
    return np.asarray(back) if i == 0 else np.take(np.asarray(back), np.argsort(order), numbers.rhs_spec[0])


def _channels_reordered(axis: int, order: np.ndarray, p: Passing) -> np.ndarray:
    """The cotangent that a convolution passes on for channels in another order."""
    d = np.take(p.cotangent, order, axis)
    return back_with(Passing(p.tape, p.edge, d, p.right, p.notes), p.operands[1 - p.edge[1]])


def indices(n: int, groups: Sequence[int] | set[int] = ()) -> Iterator[tuple[str, np.ndarray]]:
    """Wrong indices for 0, 1, …, n − 1 with a phrase for each, those of groups first."""
    i = np.arange(n)
    seen = {tuple(i)}
    found: list[tuple[str, np.ndarray]] = []
    some = sorted({g for g in groups if 1 < g < n and n % g == 0} | {g for g in range(2, n) if n % g == 0})
    for g in some[:4]:
        size = n // g
        found += [
            (
                f"group 0's members ({g} groups of {size}) are used for every group (the offset is missing)",
                i % size,
            ),
            (f"the next group's members ({g} groups of {size}) are used for each group", (i + size) % n),
            (f"the previous group's members ({g} groups of {size}) are used for each group", (i - size) % n),
            (f"member i mod {g} · {size} + i // {g} is used for member i", i % g * size + i // g),
        ]
    found += [
        ("the next one is used for each", (i + 1) % n),
        ("the one before is used for each", (i - 1) % n),
        ("the first one is used for every one", 0 * i),
        ("the last one is used for every one", 0 * i + n - 1),
        ("the reverse order is taken", i[::-1]),
    ]
    for said, index in found:
        if tuple(index) not in seen:
            seen.add(tuple(index))
            yield said, index


def _with_members(axis: int, index: np.ndarray, p: Passing) -> np.ndarray:
    return back_with(p, np.take(np.asarray(p.operands[1 - p.edge[1]]), index, axis))


def keepdims_missing(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A sum along an axis that is spread along another one: without keepdims, rows become columns."""
    for at, step in enumerate(tape.steps):
        if step.name not in ("broadcast", "broadcast_in_dim"):
            continue
        axes, shape = broadcast_axes(tape, step), tape.shape(step.outs[0])
        if len(axes) != 1 or _spread(np.asarray(tape.values[step.outs[0]]), axes, shape) is None:
            continue
        name = said_of(tape, e, step.ins[0])
        phrase = f"keepdims is missing (axis {axes[0]}): entry i of {name} is in column i, not in row i"
        values = {step.outs[0]: partial(_spread_value, step.outs[0], axes)}
        back: Changes = {(at, 0): partial(_gathered, axes)} if step.ins[0] in tape.active else {}
        yield Mistake(f"{phrase}, where it is recomputed", {}, instead=values)
        if back:
            yield Mistake(f"{phrase}, where it is recomputed and in the backward pass", back, instead=values)
            yield Mistake(f"{phrase}, in the backward pass", back)


def _spread(whole: np.ndarray, axes: Sequence[int], shape: tuple[int, ...]) -> np.ndarray | None:
    """A value repeated along an axis, repeated instead along the axes that broadcasting aligns it with."""
    try:
        other = np.broadcast_to(np.take(whole, 0, axes[0]), shape)
    except (ValueError, IndexError):  # IndexError: no entries
        return None
    return None if np.array_equal(other, whole) else other


def _spread_value(slot: Slot, axes: Sequence[int], tape: Tape) -> np.ndarray:
    whole = np.asarray(tape.values[slot])
    other = _spread(whole, axes, whole.shape)
    return whole if other is None else other


def _gathered(axes: Sequence[int], p: Passing) -> np.ndarray:
    """The sum over the other axis for the cotangent of a broadcast along one axis."""
    d = p.cotangent
    while d.ndim > p.cotangent.ndim - 1:
        d = d.sum(0)
    return d.reshape(p.right.shape)


def statistics_of_other_groups(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A statistic of groups spread over their members by a wrong index, such as c mod G for c // (C/G)."""
    spread: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for at, step in enumerate(tape.steps):
        if step.name in ("broadcast", "broadcast_in_dim"):
            axes, shape = broadcast_axes(tape, step), tape.shape(step.outs[0])
            together = bool(axes) and axes == tuple(range(axes[0], axes[0] + len(axes)))
            if together and axes[0] and not is_constant(tape, step.outs[0]):
                spread.setdefault((shape, axes[0]), []).append(at)
    for (shape, axis), steps in spread.items():
        for members in sorted(_merged(tape, shape, axis)):
            groups, each = shape[axis - 1], members // shape[axis - 1]
            c = np.arange(members)
            for said, index in ((f"c mod {groups}", c % groups),
                                (f"c // {groups}", np.minimum(c // groups, groups - 1)),
                                ("0", 0 * c)):  # fmt: skip
                if not np.array_equal(index, c // each):
                    values = {
                        tape.steps[at].outs[0]: partial(
                            _of_groups, tape.steps[at].outs[0], axis, members, index
                        )
                        for at in steps
                    }
                    yield Mistake(
                        f"wrong group: channel c of {members} takes the statistics of group {said}, where "
                        f"c // {each} belongs, where they are recomputed",
                        {}, instead=values,
                    )  # fmt: skip


def _merged(tape: Tape, shape: tuple[int, ...], axis: int) -> set[int]:
    """The number of members in all groups, from the reshapes to or from a shape."""
    found = set()
    for step in tape.steps:
        if step.name == "reshape":
            sizes = tape.shape(step.ins[0]), tape.shape(step.outs[0])
            for other in (sizes[1] if sizes[0] == shape else (), sizes[0] if sizes[1] == shape else ()):
                if len(other) >= axis and other[: axis - 1] == shape[: axis - 1]:
                    n = other[axis - 1]
                    if n > shape[axis - 1] and n % shape[axis - 1] == 0:
                        found.add(n)
    return found


def _of_groups(slot: Slot, axis: int, members: int, index: np.ndarray, tape: Tape) -> np.ndarray:
    whole = np.asarray(tape.values[slot])
    of_group = np.take(whole, 0, axis)
    some = np.moveaxis(np.take(of_group, index, axis - 1), axis - 1, 0)  # one row per member
    each, copies = members // whole.shape[axis - 1], whole.shape[axis] * whole.shape[axis - 1] // members
    some = np.repeat(some, copies, 0).reshape(whole.shape[axis - 1], each * copies, *some.shape[1:])
    return np.moveaxis(some, (0, 1), (axis - 1, axis))


def rows_left_out(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Only the first rows of an output get a cotangent, as their number is taken from one of several axes."""
    made = made_by(tape)
    for slot in [s for s in tape.results if s in made and s in tape.active]:
        shape = tape.shape(slot)
        for axes in range(1, len(shape)):
            rows = int(np.prod(shape[:axes]))
            for k in sorted({*shape, *(n // 2 for n in shape), *range(1, min(rows, 9))}):
                if 0 < k < rows:
                    which = (np.arange(rows) >= k).reshape(shape[:axes] + (1,) * (len(shape) - axes))
                    what = (
                        f"of {rows} rows"
                        if axes == 1
                        else f"of {rows} rows ({' · '.join(map(str, shape[:axes]))})"
                    )
                    yield Mistake(
                        f"rows left out: only the first {k} {what} of {said_of(tape, e, slot)} are processed",
                        {(made[slot], -1): partial(_none_there, np.broadcast_to(which, shape))},
                    )


def _none_there(which: np.ndarray, p: Passing) -> np.ndarray:
    return np.where(which, 0.0, p.right)


def outputs_shifted(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """An output's cotangent shifted along an axis, or reversed."""
    made = made_by(tape)
    sizes = sorted({n for leaf in tape.leaves for n in tape.shape(leaf)})
    apart = {a - b for a, b in itertools.permutations(sizes, 2)}
    for slot in [s for s in tape.results if s in made and s in tape.active]:
        for axis, n in enumerate(tape.shape(slot)):
            place = f"along axis {axis} in the backward pass: the cotangent of {said_of(tape, e, slot)}"
            if n > 2:
                yield Mistake(f"reversed {place} is read in reverse order",
                              {(made[slot], -1): partial(_moved, axis, None, True)})  # fmt: skip
            for by in dict.fromkeys((*SHIFTS, *sorted(apart, key=abs))):
                if abs(by) < n > 2:
                    for cyclic in (True, False):
                        yield Mistake(
                            f"shifted by {by} {place} is read at another place (an index is off)",
                            {(made[slot], -1): partial(_moved, axis, by, cyclic)},
                        )


def _moved(axis: int, by: int | None, cyclic: bool, p: Passing) -> np.ndarray:
    if by is None:
        return np.flip(p.right, axis)
    moved = np.roll(p.right, by, axis)
    if not cyclic:
        np.moveaxis(moved, axis, 0)[slice(by) if by > 0 else slice(by, None)] = 0
    return moved


def factors_outside(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A factor applied at the end of the backward pass, outside the sums, instead of inside them."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name not in ("mul", "div") or (step.name == "div" and edge[1]):
            continue
        other, shape = step.ins[1 - edge[1]], tape.shape(step.outs[0])
        if is_constant(tape, other) or _is_mask(tape.values[other]):
            continue
        for slot in _upstream(tape, step.ins[edge[1]], shape):
            if _gets_nothing(tape, slot):
                continue
            yield Mistake(
                f"in the wrong order: the factor {said_of(tape, e, other)} is applied last in the backward "
                f"pass, at {said_of(tape, e, slot)}, outside the sums in between; it belongs inside them",
                {edge: left_out, **arriving(tape, slot, partial(_times, other, step.name == "div"))},
            )


def _gets_nothing(tape: Tape, slot: Slot) -> bool:
    """Whether a value's gradient is 0 up to rounding, such as that of a mean inside a variance."""
    made, largest = made_by(tape), 0.0
    while True:
        into = _handed_to(tape, slot)
        largest = max([largest, *(float(np.max(np.abs(d))) for d in into)])
        if slot not in made or tape.steps[made[slot]].name not in (
            "broadcast",
            "broadcast_in_dim",
            "reshape",
        ):
            return bool(np.max(np.abs(sum(into, np.zeros(1)))) <= 1e-12 * largest)
        slot = tape.steps[made[slot]].ins[0]


def _handed_to(tape: Tape, slot: Slot) -> list[np.ndarray]:
    """What a value's users hand back to it."""
    known = tape.kept["known"]
    return [known[edge] for edge in users_of(tape).get(slot, ()) if edge in known]


def _is_mask(x: np.ndarray) -> bool:
    return bool(np.all((x == 0) | (x == 1)))


def _upstream(tape: Tape, slot: Slot, shape: tuple[int, ...]) -> list[Slot]:
    """The values of a given shape from which another one is computed, before a sum."""
    made, seen = made_by(tape), set[tuple[Slot, bool]]()
    found: list[Slot] = []
    pending = [(slot, False)]
    while pending and len(found) < UPSTREAM_UP_TO:
        at, summed = pending.pop(0)
        if summed and tape.shape(at) == shape and at not in found and at in users_of(tape):
            found.append(at)
        if at in made and (at, summed) not in seen:
            seen.add((at, summed))
            step = tape.steps[made[at]]
            summed = summed or step.name in ("reduce_sum", "dot_general")
            pending += [(s, summed) for s in step.ins if s in tape.active]
    return sorted(found, key=lambda s: s not in tape.leaves)


def _times(other: Slot, divided: bool, p: Passing, d: np.ndarray) -> np.ndarray:
    factor = np.asarray(p.tape.values[other])
    return d / factor if divided else d * factor


def misplaced(e: Evidence) -> str:
    """The truth's slices along an axis in other positions, or one slice in several."""
    largest = float(np.max(np.abs(e.want), initial=0.0))
    for axis, n in enumerate(e.want.shape):
        if not 2 < n <= MEMBERS_UP_TO or e.got.shape != e.want.shape:
            continue
        got, want = (np.moveaxis(x, axis, 0).reshape(n, -1) for x in (e.got, e.want))
        near = np.max(np.abs(got[:, None] - want[None]), axis=2) <= e.tolerance * largest
        if np.any(near.sum(1) != 1) or np.min(np.max(np.abs(want), axis=1)) <= 1e-3 * largest:
            continue
        index = near.argmax(1)
        if not np.array_equal(index, np.arange(n)):
            return f"a wrong index: {_placed(index, n)} along axis {axis}"
    return ""


def _placed(index: np.ndarray, n: int) -> str:
    """The description of an index."""
    for size in (k for k in range(n // 2, 1, -1) if n % k == 0):
        blocks = index.reshape(-1, size)
        if np.array_equal(blocks, blocks[:, :1] + np.arange(size)) and not np.any(blocks[:, 0] % size):
            return f"{_placed(blocks[:, 0] // size, n // size)} (parts of {size})"
    named = next((said for said, other in indices(n) if np.array_equal(other, index)), "")
    wrong = np.flatnonzero(index != np.arange(n))
    if len(set(index[wrong])) == 1:
        return f"slice {index[wrong[0]]} is also used at {', '.join(map(str, wrong))} of {n}"
    pairs = ", ".join(f"{index[i]} for {i}" for i in wrong[:6])
    return named or f"slices in each other's place ({pairs})"
