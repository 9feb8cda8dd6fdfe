"""Mistakes in an index: a shifted mask, a member of another group, a time step instead of the one before."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.iterations import loop_of
from manual_grad.checker.mistakes.mistake import (
    PASSED_ON,
    SAID,
    Mistake,
    alike,
    back_with,
    left_out,
    made_by,
    place_of,
    said_of,
    source_of,
    stop,
    users_of,
)
from manual_grad.checker.tape import Changes, Edge, Passing, Slot, Step, Tape

SOFTMAX_UP_TO = 16  # values computed from a mask that are searched for its softmax
LEAST = 4  # the share of a mask, 1/4, that is left if it is shifted or cut
TILES = (2, 3, 4, 8, 16)
CHUNKS_UP_TO = 9  # steps, less 1
TILES_UP_TO, MORE_TILES = 17, 16  # the side of a tile, less 1, and the tiles that are not square
MINUS_INFINITY = -1e4  # what is added to a masked entry, or less
GLOBAL_UP_TO = 5  # keys or queries, less 1
MASKS_UP_TO = 32  # the largest shift of a mask, less 1
STEPS_AT_LEAST = 3
Values = dict[Slot, Callable[[Tape], np.ndarray]]
SLOPES = ("logistic", "tanh", "exp", "max")


@dataclass(frozen=True, eq=False)
class _Mask:
    """A mask over rows and columns: a choice between values and a constant, a product, or a sum with −∞.

    Attributes:
        at: the step.
        i: the operand that is masked.
        mask: True where the operand is kept; for a choice between two values, where the second is taken.
        name: the name of the operand.
        with_zero: whether the others become 0, so that entries can be counted several times.
    """

    at: int
    i: int
    mask: np.ndarray
    name: str
    with_zero: bool


def _masks(tape: Tape, e: Evidence) -> Iterator[_Mask]:
    for at, step in enumerate(tape.steps):
        if step.name not in ("select_n", "mul", "add") or step.outs[0] not in tape.active:
            continue
        varied = [i for i, slot in enumerate(step.ins) if slot in tape.active]
        if step.name == "select_n" and (len(step.ins) != 3 or varied[0] == 0):
            continue
        if step.name != "select_n" and len(varied) != 1:
            continue
        other = np.asarray(tape.values[step.ins[0 if step.name == "select_n" else 1 - varied[0]]])
        if step.name == "mul":
            is_mask, mask = bool(np.all((other == 0) | (other == 1))), other == 1
        elif step.name == "add":
            is_mask, mask = bool(np.all((other == 0) | (other <= MINUS_INFINITY))), other == 0
        else:
            is_mask, mask = other.dtype == bool, other
        if step.name != "select_n" and not _in_one_piece(mask):  # such as dropout's
            continue
        if is_mask and mask.ndim > 1 and not mask.all() and mask.any():
            others = [s for k, s in enumerate(step.ins) if k and k != varied[0]]
            zeros = step.name == "mul" or (len(others) == 1 and not np.any(tape.values[others[0]]))
            yield _Mask(at, varied[0], mask, said_of(tape, e, step.ins[varied[0]]), zeros)


def _in_one_piece(mask: np.ndarray) -> bool:
    """Whether the entries kept in each row follow each other, and not all rows are alike."""
    if mask.ndim < 2 or min(mask.shape[-2:]) < 2:
        return False
    changes = np.count_nonzero(np.diff(mask, axis=-1), -1) + mask[..., 0] + mask[..., -1]
    return bool(np.all(changes <= 2)) and not np.array_equal(mask, np.roll(mask, 1, -2))


def masks_shifted(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A mask over rows and columns, such as a causal one, shifted, or with a block's own rows or columns."""
    for found in _masks(tape, e):
        step, mask = tape.steps[found.at], found.mask
        others = itertools.chain(
            _left_out(mask), _parts(tape, e, step.ins[0]), _lines_lost(mask), _bands_moved(mask),
            itertools.islice(_shifted(mask), 12), _edges_moved(mask),
            _blocks_skipped(mask), _of_own_blocks(mask), _tiles_whole(mask), _tiles_skipped(mask),
            _shifted(mask), _chunks_counted(found),
        )  # fmt: skip
        saved, after = _saved(tape, step.outs[0]), products_after(tape, step.outs[0])
        seen, seen_alone = {mask.tobytes()}, set[bytes]()
        for phrase, other in others:
            if other.tobytes() in seen or _next_to_nothing(other, mask):
                continue
            seen.add(other.tobytes())
            operands = (1, 2) if step.name == "select_n" else (found.i,)
            back: Changes = {(found.at, i): partial(_masked_back, other) for i in operands}
            values: Values = {step.outs[0]: partial(_masked, step, other)}
            said = f"the mask of {found.name} is {phrase}"
            if phrase.startswith(("a ", "left out")):
                said = phrase if phrase.startswith("a ") else f"{phrase} of {found.name}"
            yield Mistake(f"{said}, where it is recomputed and in the backward pass", back, instead=values)
            if step.name != "add" and (alone := (other * mask).tobytes()) not in seen_alone:
                seen_alone.add(alone)
                yield Mistake(f"{said}, in the backward pass", back)
            if after:
                again = f"{said}, where it is recomputed (the output is saved) and in the backward pass"
                yield Mistake(again, back, instead={**values, **after})
            if saved is not None:
                changes, kept = saved
                whole = f"{said}, where it is recomputed (what softmax divides by is saved)"
                everywhere = f"{whole} and in the backward pass"
                for outputs in [after, {}] if after else [after]:
                    there = values | kept | outputs
                    yield Mistake(everywhere, {**back, **changes}, instead=there)


def _next_to_nothing(other: np.ndarray, mask: np.ndarray) -> bool:
    """Whether hardly anything of a mask is left in another one, which may then have the effect of a 0."""
    return bool(LEAST * np.count_nonzero(np.logical_and(other, mask)) < np.count_nonzero(mask))


def steps_before_softmax(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A step, such as the scale of scores, left out where they are recomputed; the log-sum-exp is saved."""
    for at, i in tape.edges():
        step = tape.steps[at]
        if step.name not in ("mul", "div", "add", "sub") or (step.name in ("div", "sub") and i):
            continue
        out, slot = step.outs[0], step.ins[i]
        saved = _saved(tape, out) if len(tape.shape(out)) > 1 else None
        if saved is None or step.ins[1 - i] in saved[1]:
            continue
        changes, kept = saved
        left = {"mul": "the factor", "div": "the division by", "add": "the term", "sub": "the term"}
        other = said_of(tape, e, step.ins[1 - i])
        said = (
            f"{left[step.name]} {other} is left out of {said_of(tape, e, out)} where it is recomputed (what "
            "softmax divides by is saved), but not of the derivative"
        )
        for after in (products_after(tape, out), {}):
            yield Mistake(said, changes, instead={out: partial(_own_value, slot), **kept, **after})


def _left_out(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "missing", np.ones_like(mask)


def _lines_lost(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A mask without its last or first rows or columns."""
    place = np.indices(mask.shape[-2:])
    for which, n in enumerate(mask.shape[-2:]):
        what = ("rows (queries)", "columns (keys)")[which]
        for count in range(1, min(n // 2 + 1, TILES_UP_TO)):
            some = f" {count}" if count > 1 else ""
            yield f"left out: the last{some} of {n} {what}", mask & (place[which] < n - count)
            yield f"left out: the first{some} of {n} {what}", mask & (place[which] >= count)


def _blocks_skipped(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A causal mask in blocks whose start or end is computed without the difference of the sizes."""
    i, j = np.indices(mask.shape[-2:])
    for tall, wide in itertools.product(TILES, TILES) if mask.shape[-2] != mask.shape[-1] else ():
        above, below = j // wide * wide, i // tall * tall
        said = f"skipped in blocks of {tall}×{wide} from a diagonal without the offset {j.max() - i.max()}"
        yield f"{said} (columns − rows, L_k − L_q)", mask & (above <= below + tall - 1)
        yield f"{said} (columns − rows, L_k − L_q) in whole blocks", mask & (above // wide <= below // tall)


def _of_own_blocks(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A mask computed from the index inside a block of rows or columns, not from the index in the whole."""
    rows, columns = np.indices(mask.shape[-2:])
    every = (
        "each block of {} {} uses the index inside the block (0 to {}), where the index in the whole belongs"
    )
    for size in range(2, min(max(mask.shape[-2:]), TILES_UP_TO)):
        tall, wide = rows % size, columns % size
        kinds = {"rows": (tall, columns), "columns": (rows, wide), "rows and columns": (tall, wide)}
        for what, (i, j) in kinds.items():
            yield f"that of a block: {every.format(size, what, size - 1)}", mask[..., i, j]
        skipped = mask[..., tall, wide] & _tiles(mask, size, size)
        if not np.array_equal(skipped, mask[..., tall, wide]):
            said = every.format(size, "rows and columns", size - 1)
            yield f"that of a block: {said}; blocks that are masked as a whole are skipped", skipped
        same = rows // size == columns // size
        near = same | (abs(rows // size - columns // size) > 1)
        for said, kept in (
            (f"nothing is carried between blocks of {size} (entries outside its own block are lost)", same),
            (f"nothing inside a block of {size} counts, only what other blocks carry", ~same),
            (
                f"the state carried between blocks of {size} is one block too old (the neighbour lost)",
                near,
            ),
        ):
            yield f"also that of blocks: {said}", mask & kept


def _chunks_counted(found: _Mask) -> Iterator[tuple[str, np.ndarray]]:
    """Weights instead of a mask, as for a running sum that a chunk is added to before the chunk uses it."""
    rows, columns = np.indices(found.mask.shape[-2:])
    kept = found.mask.astype(float)
    for size in range(2, min(max(kept.shape[-2:]), TILES_UP_TO)) if found.with_zero else ():
        same = rows // size == columns // size
        yield (
            f"a running state is updated too early: with each chunk of {size} before that chunk uses it, not "
            "after it (the chunk counts twice, and its masked entries once)",
            kept + same,
        )


def _saved(tape: Tape, slot: Slot) -> tuple[Changes, Values] | None:
    """The saved statistics of a softmax: its maximum and sum, or their logarithm."""
    users, near, made = users_of(tape), [slot], made_by(tape)
    kept: Values = {}
    for at in near:
        for user, i in users.get(at, ()) if len(near) < SOFTMAX_UP_TO else ():
            step = tape.steps[user]
            if step.name == "div" and i == 1 and kept:
                return {(user, 1): _quotient_of_before}, kept
            if step.name == "reduce_sum":
                kept[step.outs[0]] = partial(_own_value, step.outs[0])
            if step.name == "exp" and at in made and tape.steps[made[at]].name == "sub":
                less = tape.steps[made[at]].ins[1]
                kept[less] = partial(_own_value, less)
                if less in tape.active:  # the logarithm of the sum
                    back: Changes = {
                        (user, 0): partial(_noted, user),
                        (made[at], 1): partial(_of_before, user),
                    }
                    return back, {less: kept[less]}
            near.append(step.outs[0])
    return None


def products_after(tape: Tape, slot: Slot) -> Values:
    """The results of the next matrix products, such as attention's output, as they were."""
    users, near = users_of(tape), [slot]
    found: Values = {}
    for at in near:
        for user, _ in users.get(at, ()) if len(near) < 2 * SOFTMAX_UP_TO else ():
            out = tape.steps[user].outs[0]
            if tape.steps[user].name == "dot_general":
                found[out] = partial(_own_value, out)
            elif out not in near:
                near.append(out)
    return found


def _noted(at: int, p: Passing) -> np.ndarray:
    p.notes[at] = p.cotangent
    return p.right


def _of_before(at: int, p: Passing) -> np.ndarray:
    """The cotangent through the logarithm of a sum, using the original probabilities."""
    before = p.tape.kept["before"]
    return -p.notes[at] * np.asarray(before.values[before.steps[at].outs[0]])


def _own_value(slot: Slot, tape: Tape) -> np.ndarray:
    return np.asarray(tape.values[slot])


def _quotient_of_before(p: Passing) -> np.ndarray:
    """The cotangent of a quotient's denominator, using the original values."""
    step, before = p.tape.steps[p.edge[0]], p.tape.kept["before"]
    return -p.cotangent * np.asarray(before.values[step.outs[0]]) / np.asarray(before.values[step.ins[1]])


def _parts(tape: Tape, e: Evidence, slot: Slot) -> Iterator[tuple[str, np.ndarray]]:
    """The two parts of a mask that combines them by "and" or "or"."""
    made, shape = made_by(tape), tape.shape(slot)
    while slot in made and tape.steps[made[slot]].name in PASSED_ON:
        slot = tape.steps[made[slot]].ins[0]
    if slot in made and tape.steps[made[slot]].name in ("and", "or"):
        parts = tape.steps[made[slot]].ins
        for kept, lost in (parts, parts[::-1]):
            said = f"{said_of(tape, e, kept)} alone, without {said_of(tape, e, lost)}"
            whole = np.broadcast_to(np.asarray(tape.values[kept]), tape.shape(slot))
            if whole.shape == shape:
                yield f"only one of the two that it is made of: {said}", whole


def _tiles_skipped(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A mask in tiles of which the first or last one that it touches is skipped, as by rounding."""
    rows, columns = mask.shape[-2:]
    for tall, wide in itertools.product(TILES, TILES) if min(rows, columns) > 3 else ():
        tops = np.arange(0, rows, tall)
        touched = np.logical_or.reduceat(mask, tops, axis=-2)
        first = touched.argmax(-1)
        last = columns - touched[..., ::-1].argmax(-1)
        for said, inside in (
            ("the first tile that it touches is skipped", (-(-first // wide) * wide, columns + 0 * last)),
            ("the last tile that it touches is skipped", (0 * first, last // wide * wide)),
        ):
            low, high = (np.repeat(x, tall, -1)[..., :rows, None] for x in inside)
            j = np.arange(columns)
            yield f"rounded to tiles of {tall}×{wide}: {said}", mask & (j >= low) & (j < high)


def _tiles_whole(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A mask of whole tiles: the tiles that it touches are not masked inside, such as on the diagonal."""
    rows, columns = mask.shape[-2:]
    sizes = range(2, min(max(rows, columns), TILES_UP_TO))
    for tall, wide in [(n, n) for n in sizes] + [(a, b) for a in sizes for b in sizes if a != b][:MORE_TILES]:
        whole = _tiles(mask, tall, wide)
        if not whole.all():
            said = (
                "the mask is missing inside a tile, such as on the diagonal, and only whole tiles are skipped"
            )
            yield f"that of whole tiles of {tall}×{wide}: {said}", whole


def _tiles(mask: np.ndarray, tall: int, wide: int) -> np.ndarray:
    """The whole tiles in which a mask is True somewhere."""
    rows, columns = mask.shape[-2:]
    tiles = np.logical_or.reduceat(mask, np.arange(0, rows, tall), axis=-2)
    tiles = np.logical_or.reduceat(tiles, np.arange(0, columns, wide), axis=-1)
    return np.repeat(np.repeat(tiles, tall, -2), wide, -1)[..., :rows, :columns]


def _shifted(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A mask shifted along one of its last two axes and filled with one value, the smallest shifts first."""
    seen = {mask.tobytes()}
    rows, columns = mask.shape[-2:]
    for by, axis in itertools.product(range(1, MASKS_UP_TO), (mask.ndim - 1, mask.ndim - 2)):
        n = mask.shape[axis]
        for shift, fill in itertools.product((by, -by) if by < n else (), (None, False, True)):
            source = np.arange(n) - shift
            other = np.take(mask, np.clip(source, 0, n - 1), axis)
            if fill is not None:
                np.moveaxis(other, axis, 0)[(source < 0) | (source >= n)] = fill
            if other.tobytes() not in seen:
                seen.add(other.tobytes())
                corner = rows != columns and by == abs(rows - columns) and axis == mask.ndim - 1
                why = ", as much as its sizes differ: aligned at the other corner" if corner else ""
                yield f"shifted by {shift} along axis {axis}{why}", other


def _edges_moved(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A mask wider or narrower by one at one of its edges, as with < for ≤ or a window of w + 1."""
    for axis, by in itertools.product((mask.ndim - 1, mask.ndim - 2), (1, -1)):
        n = mask.shape[axis]
        source = np.arange(n) - by
        moved = np.take(mask, np.clip(source, 0, n - 1), axis)
        outside = (source < 0) | (source >= n)
        for said, fill, both in (("wider", False, np.logical_or), ("narrower", True, np.logical_and)):
            np.moveaxis(moved, axis, 0)[outside] = fill
            yield f"one {said} at one edge along axis {axis} (off by one, such as < for ≤)", both(mask, moved)


def _bands_moved(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A band, such as a window, without its first or last diagonal, or with one more."""
    rows, columns = np.indices(mask.shape[-2:])
    diagonal = columns - rows
    kept = [d for d in range(diagonal.min(), diagonal.max() + 1) if mask[..., diagonal == d].all()]
    if not kept or not np.array_equal(np.broadcast_to(np.isin(diagonal, kept), mask.shape), mask):
        return
    for end, inside in ((min(kept), 1), (max(kept), -1)):
        if end not in (diagonal.min(), diagonal.max()):
            said = "one {} at one edge of the band (a window or causal edge off by one, such as < for ≤)"
            yield said.format("narrower"), mask & (diagonal != end)
            yield said.format("wider"), mask | (diagonal == end - inside)


def parts_counted(tape: Tape, e: Evidence, edge: Edge) -> Iterator[tuple[str, np.ndarray]]:
    """How often entries count if those in both parts of a mask, such as global keys, count twice or not."""
    for found in _masks(tape, e):
        if (found.at, found.i) != edge:
            continue
        inverted = tape.steps[found.at].name == "select_n" and found.i == 1
        mask = ~found.mask if inverted else found.mask
        for names, one, other in list(_parts_of(tape, e, tape.steps[found.at].ins[0])) or _parts_seen(mask):
            if np.any(one & other) and np.array_equal(one | other, mask):
                both = f"the entries that {names[0]} and {names[1]} have in common are counted"
                yield f"{both} twice", one + 1.0 * other
                yield f"{both} not at all", 1.0 * (one ^ other)


def _parts_of(
    tape: Tape, e: Evidence, slot: Slot
) -> Iterator[tuple[tuple[str, str], np.ndarray, np.ndarray]]:
    """The two parts of a mask that combines them by "or"."""
    parts = [(phrase.split(": ")[1].split(" alone, without "), x) for phrase, x in _parts(tape, e, slot)]
    if len(parts) == 2:
        yield (parts[0][0][0], parts[0][0][1]), parts[0][1], parts[1][1]


def _parts_seen(mask: np.ndarray) -> Iterator[tuple[tuple[str, str], np.ndarray, np.ndarray]]:
    """The first keys or queries, which are seen by all or see all, and a window."""
    rows, columns = np.indices(mask.shape[-2:])
    diagonal = columns - rows
    for count, (tall, wide) in itertools.product(range(1, GLOBAL_UP_TO), ((0, 1), (1, 0), (1, 1))):
        inside = (columns < count * wide) | (rows < count * tall)
        seen = mask & inside
        kept = [
            d
            for d in range(diagonal.min(), diagonal.max() + 1)
            if np.any((diagonal == d) & ~inside) and mask[..., (diagonal == d) & ~inside].all()
        ]
        band = mask & np.isin(diagonal, kept)
        what = " and ".join(["queries (rows)"] * tall + ["keys (columns)"] * wide)
        if not np.array_equal(band, mask):
            yield (f"the first {count} {what}, such as global ones,", "the window"), seen, band


def _masked(step: Step, mask: np.ndarray, tape: Tape) -> np.ndarray:
    values = [np.asarray(tape.values[slot]) for slot in step.ins]
    if step.name == "select_n" and mask.dtype == bool:
        return np.where(mask, *values[:0:-1])
    x, other = values[-2:] if step.ins[-2] in tape.active else values[:-3:-1]
    return np.where(mask, x, x + other.min()) if step.name == "add" else x * mask


def _masked_back(mask: np.ndarray, p: Passing) -> np.ndarray:
    step, i = p.tape.steps[p.edge[0]], p.edge[1]
    if step.name == "add":
        return p.right
    if step.name == "select_n" and mask.dtype == bool:
        return np.where(mask == bool(i - 1), p.cotangent, 0.0)
    return p.cotangent * mask


def groups_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Repetition for the members of groups, as of keys for query heads, with a wrong index."""
    repeats = [found for at in range(len(tape.steps)) if (found := _repeat(tape, at)) is not None]
    for groups, members in dict.fromkeys((groups, members) for _, _, groups, members in repeats):
        chosen = [(at, axis) for at, axis, g, m in repeats if (g, m) == (groups, members)]
        for phrase, index in _indices(groups, members):
            changes: Changes = {
                (at, 0): partial(_scattered, axis, groups, members, index) for at, axis in chosen
            }
            values = {tape.steps[at].outs[0]: partial(_taken, at, axis, index) for at, axis in chosen}
            place = (
                f"wrong group: member i of {groups * members} takes {phrase}, where i // {members} belongs"
            )
            yield Mistake(
                f"{place}, where it is recomputed and in the backward pass", changes, instead=values
            )
            for at, _ in chosen:
                name = said_of(tape, e, tape.steps[at].ins[0])
                one: Changes = {(at, 0): changes[at, 0]}
                yield Mistake(f"{place}, in the gradient of {name}", one)


def groups_of_products_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The same for products over an axis of groups and one of their members, as for grouped query heads."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name != "dot_general":
            continue
        contracted, batched = step.eqn.params["dimension_numbers"]
        ndims = [len(tape.shape(slot)) for slot in step.ins]
        free = [[a for a in range(ndims[k]) if a not in (*contracted[k], *batched[k])] for k in (0, 1)]
        of_one = [(k, axis) for k in (0, 1) for axis in free[k]]
        for g, (k, axis) in itertools.product(range(len(batched[0])), of_one):
            r = len(batched[0]) + free[k].index(axis) + (len(free[0]) if k else 0)
            shape = tape.shape(step.outs[0])
            if min(shape[g], shape[r]) < 2 or not _is_split(tape, shape[g], shape[r]):
                continue
            name, groups, members = said_of(tape, e, step.ins[edge[1]]), shape[g], shape[r]
            place = f"in the gradient of {name}, in the derivative of {place_of(tape, e, edge)}"
            belongs = f"member i of {groups * members} takes i mod {groups}, where i // {members} belongs"
            axes = (batched[k][g], axis)
            swapped = partial(_of_other_groups, k == edge[1], (g, r), axes)
            yield Mistake(f"wrong group: {belongs}, {place}", {edge: swapped})
            for which, at in (("first", 0), ("last", -1)) if k != edge[1] else ():
                yield Mistake(
                    f"the gradient of members of a group is not added up (= for +=): only the {which} of "
                    f"{members} members (heads) of each of {groups} groups counts, {place}",
                    {edge: partial(_of_one_member, r, at)},
                )


def _is_split(tape: Tape, groups: int, members: int) -> bool:
    """Whether an axis is split into groups and members somewhere, or both are merged."""
    for step in tape.steps:
        if step.name == "reshape":
            for one, other in itertools.permutations((tape.shape(step.ins[0]), tape.shape(step.outs[0]))):
                if groups * members in one and (groups, members) in itertools.pairwise(other):
                    return True
    return False


def _regrouped(x: np.ndarray, axes: tuple[int, int], back: bool = False) -> np.ndarray:
    """Members numbered through all groups, dealt out to the groups one by one; or the way back."""
    first = np.moveaxis(x, axes, (0, 1))
    groups, members = first.shape[:2]
    if back:
        dealt = first.swapaxes(0, 1).reshape(groups, members, *first.shape[2:])
    else:
        dealt = first.reshape(members, groups, *first.shape[2:]).swapaxes(0, 1)
    return np.moveaxis(dealt, (0, 1), axes)


def _of_other_groups(own: bool, out: tuple[int, int], axes: tuple[int, int], p: Passing) -> np.ndarray:
    """What a product passes on if members belong to other groups; own: to the operand with the members."""
    other = np.asarray(p.operands[1 - p.edge[1]])
    moved = Passing(p.tape, p.edge, _regrouped(p.cotangent, out), p.right, p.notes)
    back = back_with(moved, other if own else _regrouped(other, axes))
    return _regrouped(back, axes, back=True) if own else back


def _of_one_member(axis: int, at: int, p: Passing) -> np.ndarray:
    kept = np.zeros_like(p.cotangent)
    np.moveaxis(kept, axis, 0)[at] = np.moveaxis(p.cotangent, axis, 0)[at]
    return back_with(Passing(p.tape, p.edge, kept, p.right, p.notes), p.operands[1 - p.edge[1]])


def _repeat(tape: Tape, at: int) -> tuple[int, int, int, int] | None:
    """For a reshape that merges the axis of a broadcast: step, axis, number of groups, members per group."""
    step = tape.steps[at]
    if step.name != "reshape" or step.ins[0] not in tape.active:
        return None
    before, after = tape.shape(step.ins[0]), tape.shape(step.outs[0])
    maker = next((s for s in tape.steps if step.ins[0] in s.outs), None)
    if maker is None or maker.name not in ("broadcast_in_dim", "broadcast") or len(before) != len(after) + 1:
        return None
    axis = next((a for a, (b, n) in enumerate(zip(before, after, strict=False)) if b != n), len(after) - 1)
    groups, members = before[axis : axis + 2]
    merged = (*before[:axis], groups * members, *before[axis + 2 :])
    if merged != after or min(groups, members) < 2:
        return None
    x = np.asarray(tape.values[step.ins[0]])
    same = np.array_equal(x, np.broadcast_to(np.take(x, [0], axis + 1), x.shape))
    return (at, axis, groups, members) if same else None


def _indices(groups: int, members: int) -> Iterator[tuple[str, np.ndarray]]:
    """Wrong groups for the members, which are numbered consecutively."""
    i = np.arange(groups * members)
    yield f"i mod {groups}", i % groups
    yield f"i // {groups}", np.minimum(i // groups, groups - 1)
    yield "group 0", np.zeros_like(i)
    yield "the next group", (i // members + 1) % groups
    yield "the groups in reverse", groups - 1 - i // members


def _taken(at: int, axis: int, index: np.ndarray, tape: Tape) -> np.ndarray:
    x = np.asarray(tape.values[tape.steps[at].ins[0]])
    return np.take(np.take(x, 0, axis + 1), index, axis)


def _scattered(axis: int, groups: int, members: int, index: np.ndarray, p: Passing) -> np.ndarray:
    """The cotangent of each member, passed to the group given by the index."""
    back = np.zeros_like(p.right)
    d, to = np.moveaxis(p.cotangent, axis, 0), np.moveaxis(back, (axis, axis + 1), (0, 1))
    for i, group in enumerate(index):
        to[group, 0] += d[i]
    return back


def steps_of_time(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A loop's values of the next step instead of the previous one, or vice versa, in every step."""
    for products, others in _recurrences(tape):
        stride = others[-1] - others[-2]
        last = others[-1] + stride
        if last >= len(tape.values) or tape.shape(last) != tape.shape(others[-1]):
            continue
        said = f"of {said_of(tape, e, others[-1])}"
        later = f"h_t is used where h_(t−1) belongs: each step's own value {said}, not the previous one's"
        yield Mistake(later, _with(products, [*others[1:], last]))
        earlier = f"h_(t−1) is used where h_t belongs: the previous step's value {said}, not each one's own"
        yield Mistake(earlier, _with(products, [others[0], *others[:-1]]))


def steps_apart(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Nothing, or only part, propagated back from step to step of a loop; one slope wrong in all steps."""
    found = _iterations(tape)
    if found is None:
        return
    stride, of = found
    carried: dict[int, list[Edge]] = {}
    slopes: dict[tuple[int, int], list[Edge]] = {}
    for at, i in tape.edges():
        step = tape.steps[at]
        mine, theirs = of(step.outs[0]), of(step.ins[i])
        if mine is not None and theirs is not None and theirs < mine:
            carried.setdefault(step.ins[i] % stride, []).append((at, i))
        if mine is not None and step.name in SLOPES:
            slopes.setdefault((step.outs[0] % stride, i), []).append((at, i))
    if carried:
        every = [edge for edges in carried.values() for edge in edges]
        yield Mistake("nothing is carried back from step to step: no gradient through time", stop(*every))
    for edges in carried.values() if len(carried) > 1 else ():
        at, i = edges[-1]
        name = said_of(tape, e, tape.steps[at].ins[i])
        said = f"the gradient of {name} is dropped from what is carried back from step to step"
        yield Mistake(f"{said} (assigned for added)", stop(*edges))
    for edges in slopes.values():
        if len(edges) > 1:
            name = tape.steps[edges[0][0]].name
            said = SAID.get(name, name)
            value = f"wrong derivative, in all {len(edges)} steps: the value of {said} for its slope"
            yield Mistake(value, dict.fromkeys(edges, lambda p: p.cotangent * p.result))
            missing = f"the derivative of {said} is left out, in all {len(edges)} steps"
            yield Mistake(missing, dict.fromkeys(edges, lambda p: p.cotangent))


def chunks_apart(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A loop taken chunk by chunk in the backward pass: nothing or the wrong thing is carried across."""
    loop, made = loop_of(tape), made_by(tape)
    if loop is None:
        return
    first = {mine: last for steps in loop.steps for last, mine in steps.items()}
    carried: dict[Edge, dict[int, Edge]] = {}
    for at, i in tape.edges():
        before = loop.home.get(made.get(tape.steps[at].ins[i], -1))
        if at in loop.home and before is not None and before > loop.home[at]:
            carried.setdefault((first[at], i), {})[loop.home[at]] = (at, i)
    yield from _resets_ignored(tape, e, carried)
    states = {mine: last for slots in loop.slots for last, mine in slots.items()}
    for size in range(2, min(len(loop.steps), CHUNKS_UP_TO)):
        for phase in range(size):
            ends = {
                place: [x for k, x in edges.items() if k % size == phase] for place, edges in carried.items()
            }
            every = [edge for edges in ends.values() for edge in edges]
            if not every:
                continue
            apart = f"from one chunk of {size} steps to the one before"
            yield Mistake(f"nothing is carried back {apart} (truncated)", stop(*every))
            of_states: dict[Slot | None, list[Edge]] = {}
            for at, i in every:
                of_states.setdefault(states.get(tape.steps[at].ins[i]), []).append((at, i))
            for edges in of_states.values() if len(of_states) > 1 else ():
                name = said_of(tape, e, tape.steps[edges[0][0]].ins[edges[0][1]])
                yield Mistake(
                    f"the gradient of {name} alone is reset: it is not carried back {apart} (truncated)",
                    stop(*edges),
                )
            for (at, i), edges in ends.items():
                of_two = [
                    k
                    for k, _ in carried[at, i].values()
                    if (k, i) not in edges and len(tape.steps[k].ins) == 2
                ]
                others = [tape.steps[k].ins[1 - i] for k in of_two]
                differs = any(np.any(np.asarray(tape.values[slot]) != 1) for slot in others)
                if tape.steps[at].name == "mul" and edges and differs:
                    factor = said_of(tape, e, tape.steps[at].ins[1 - i])
                    said = f"the factor {factor} is left out of what is carried back"
                    yield Mistake(f"{said} {apart}", dict.fromkeys(edges, left_out))


def _resets_ignored(tape: Tape, e: Evidence, carried: dict[Edge, dict[int, Edge]]) -> Iterator[Mistake]:
    """A mask that a loop's states are multiplied by or chosen with, ignored going back."""
    masks = {
        place: list(edges.values())
        for place, edges in carried.items()
        if tape.steps[place[0]].name in ("mul", "select_n")
        and [s for s in tape.steps[place[0]].ins if s in tape.active] == [tape.steps[place[0]].ins[place[1]]]
    }
    every = [edge for edges in masks.values() for edge in edges]
    for edges in [*([every] if len(masks) > 1 else []), *masks.values()]:
        at, i = edges[0]
        step = tape.steps[at]
        mask = said_of(tape, e, step.ins[0 if step.name == "select_n" else 1 - i])
        whose = " and ".join(dict.fromkeys(said_of(tape, e, tape.steps[k].ins[j]) for k, j in edges))
        yield Mistake(
            f"the factor or mask {mask} is left out of what is carried back from step to step, in the "
            f"gradient of {whose} (such as a reset that is ignored)",
            dict.fromkeys(edges, left_out),
        )


def _recurrences(tape: Tape) -> list[tuple[list[Edge], list[Slot]]]:
    """Products in a loop's steps, and their other factors: values computed in the step before.

    An unrolled loop computes corresponding values at equal distances.
    """
    if "recurrences" not in tape.kept:
        series: dict[tuple[int, Slot], list[Edge]] = {}
        for k, edges in enumerate(alike(tape)):
            for at, i in edges:
                if tape.steps[at].name in ("mul", "dot_general"):
                    series.setdefault((k, source_of(tape, tape.steps[at].ins[i])), []).append((at, i))
        found = []
        for products in series.values():
            others = [tape.steps[at].ins[1 - i] for at, i in products]
            if len(others) >= STEPS_AT_LEAST and len(set(others)) == len(others):
                stride = others[-1] - others[-2]
                same = len(others) < 4 or stride == others[-2] - others[-3]
                made = others[-1] in tape.active and source_of(tape, others[-1]) not in tape.leaves
                if made and same and stride > 0:
                    found.append((products, others))
        tape.kept["recurrences"] = found
    return tape.kept["recurrences"]


def _iterations(tape: Tape) -> tuple[int, Callable[[Slot], int | None]] | None:
    """The number of slots between a loop's steps, and a function from a slot to its step."""
    ends = [(others[-1], others[-1] - others[-2], len(others)) for _, others in _recurrences(tape)]
    if not ends:
        return None
    stride = max(stride for _, stride, _ in ends)
    last = max(slot for slot, s, _ in ends if s == stride)  # the initial state of the last step
    count = max(n for slot, s, n in ends if s == stride and slot == last)

    def of(slot: Slot) -> int | None:
        step = count - 1 + -(-(slot - last) // stride)
        return step if 1 <= step <= count and slot not in tape.leaves else None

    return stride, of


def _with(edges: Sequence[Edge], others: Sequence[Slot]) -> Changes:
    return {edge: partial(_by, slot) for edge, slot in zip(edges, others, strict=True)}


def _by(slot: Slot, p: Passing) -> np.ndarray:
    return back_with(p, np.asarray(p.tape.values[slot]))
