"""Routes that the error implies: a cotangent added to another value's, or summed over the wrong groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.implied import ERRORS_UP_TO, EXACT, Error, reached_by
from manual_grad.checker.mistakes.mistake import Mistake, arriving, nothing, place_of, said_of, users_of
from manual_grad.checker.tape import Changes, Passing, Slot, Tape

FIRST = 8  # mistakes, the simplest ones
CONTRIBUTIONS_UP_TO = 60  # of one shape
CHAIN_UP_TO = 6  # steps that repeat or arrange a value
ARRANGING = {"broadcast", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "gather",
             "concatenate", "stack", "tile"}  # fmt: skip


# --- added elsewhere ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Contribution:
    """A part of a value's cotangent: its phrase, the value, the part, and the changes that take it away."""

    said: str
    slot: Slot
    part: np.ndarray
    without: Changes


def misrouted(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """What belongs to one value's cotangent is added to another one's, as before a norm for after it."""
    reached, errors = reached_by(tape, e)
    parts = {
        shape: some
        for shape, all_of_it in _contributions(tape, e).items()
        if (some := [c for c in all_of_it if c.slot in reached])
    }
    for error in errors[:ERRORS_UP_TO]:
        seen, scale = ~np.isnan(error), EXACT * np.nanmax(np.abs(error))
        found: list[tuple[int, Mistake]] = []
        own = {
            shape: np.stack([c.part.ravel() @ _rows(reached[c.slot], seen) for c in some])
            for shape, some in parts.items()
        }
        ends = [(s, d) for s, d in zip(tape.results, tape.kept["dout"], strict=True) if s in reached]
        whole = sum(np.ravel(d) @ _rows(reached[s], seen) for s, d in ends)
        for to in sorted(set(reached) - set(tape.leaves), reverse=True):
            some = parts.get(tape.shape(to), [])
            if not some or to not in tape.kept["known"]:
                continue
            e.require_time()
            there = np.stack([c.part.ravel() for c in some]) @ _rows(reached[to], seen)
            for moved in (True, False):
                off = np.max(np.abs(there - moved * own[tape.shape(to)] - error[seen]), axis=1)
                for k in np.flatnonzero(off <= scale):
                    alone = np.allclose(own[tape.shape(to)][k], whole)  # there is no other part
                    if some[k].slot != to and not (moved and alone):
                        found.append((not moved, _moved(tape, e, some[k], to, moved)))
        yield from (mistake for _, mistake in sorted(found, key=lambda f: f[0])[:FIRST])


def _rows(effect: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return effect[..., seen].reshape(-1, int(seen.sum()))


def _contributions(tape: Tape, e: Evidence) -> dict[tuple[int, ...], list[_Contribution]]:
    """By shape: the cotangents of the outputs, then what the steps pass back."""
    found: dict[tuple[int, ...], list[_Contribution]] = {}
    for i, (slot, d) in enumerate(zip(tape.results, tape.kept["dout"], strict=True)):
        if slot in tape.active and np.size(d) > 1:
            said = f"the cotangent of the output{f' {i}' if len(tape.results) > 1 else ''}"
            found.setdefault(np.shape(d), []).append(
                _Contribution(said, slot, np.asarray(d), arriving(tape, slot, partial(_less, i)))
            )
    known = tape.kept["known"]
    for edge in list(tape.edges())[::-1]:
        if edge in known and np.size(known[edge][0]) > 1 and np.any(known[edge][0]):
            mine = found.setdefault(np.shape(known[edge][0]), [])
            if len(mine) < CONTRIBUTIONS_UP_TO:
                said = f"what flows back through {place_of(tape, e, edge)}"
                slot = tape.steps[edge[0]].ins[edge[1]]
                mine.append(_Contribution(said, slot, known[edge][0], {edge: nothing}))
    return found


def _less(i: int, p: Passing, d: np.ndarray) -> np.ndarray:
    return d - np.asarray(p.tape.kept["dout"][i])


def _moved(tape: Tape, e: Evidence, contribution: _Contribution, to: Slot, moved: bool) -> Mistake:
    own, other = said_of(tape, e, contribution.slot), said_of(tape, e, to)
    if moved:
        said = f"added to the gradient of {other} instead of that of {own}: before or after the wrong step"
        without = contribution.without
    else:
        said = f"added to the gradient of {other} too, not to that of {own} alone"
        without = {}
    return Mistake(
        f"{contribution.said} is {said}", {**arriving(tape, to, partial(_more, contribution)), **without}
    )


def _more(contribution: _Contribution, p: Passing, d: np.ndarray) -> np.ndarray:
    (edge,) = contribution.without
    known, dout = p.tape.kept["known"], p.tape.kept["dout"]
    if edge in known:
        return d + known[edge][0]
    return d + np.asarray(dout[p.tape.results.index(contribution.slot)])


# --- summed over the wrong groups ---------------------------------------------------------------------------


def groups_resummed(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The members that are summed for a repeated value: contiguous groups for interleaved ones."""
    reached, errors = reached_by(tape, e)
    known = tape.kept["known"]
    for slot in sorted(set(reached) & set(known), reverse=True):
        for many in _repeated(tape, slot):
            d, right = known[many][0], known[slot][0]
            for axis, along in _axes_apart(right.shape, d.shape):
                n, count = right.shape[axis], d.shape[along]
                sums = {said: _summed(d, index, along, axis, n) for said, index in _groups(n, count)}
                own = next((said for said, x in sums.items() if np.allclose(x, right, atol=1e-12)), "")
                for said, wrong in sums.items():
                    if (
                        own
                        and said != own
                        and any(_explains(reached[slot], wrong - right, x) for x in errors)
                    ):
                        index = dict(_groups(n, count))[said]
                        name = said_of(tape, e, slot)
                        phrase = (
                            f"summed over the wrong groups: member j of {count} is added to entry {said} of "
                            f"{name}, where it belongs to entry {own} (axis {axis})"
                        )
                        change = partial(_resummed, many, index, along, axis, n)
                        yield Mistake(phrase, arriving(tape, slot, change))


def _explains(effect: np.ndarray, change: np.ndarray, error: Error) -> bool:
    seen = ~np.isnan(error)
    made = change.ravel() @ _rows(effect, seen)
    return bool(np.max(np.abs(made - error[seen])) <= EXACT * np.max(np.abs(error[seen])))


def _groups(n: int, count: int) -> list[tuple[str, np.ndarray]]:
    """The groups that members may belong to; n: none."""
    j, each = np.arange(count), count // n
    return [
        (f"j // {each}", j // each),
        (f"j mod {n}", j % n),
        (f"j alone (only the first {n})", np.where(j < n, j, n)),
        (f"j − {count - n} (only the last {n})", np.where(j >= count - n, j - count + n, n)),
        (f"j // {each}, the last of each group alone", np.where(j % each == each - 1, j // each, n)),
        (f"j // {each}, the first of each group alone", np.where(j % each == 0, j // each, n)),
    ]


def _summed(d: np.ndarray, index: np.ndarray, along: int, axis: int, n: int) -> np.ndarray:
    matrix = np.eye(n + 1)[index][:, :n]
    return np.moveaxis(np.tensordot(matrix, d, (0, along)), 0, axis)


def _resummed(
    many: Slot, index: np.ndarray, along: int, axis: int, n: int, p: Passing, d: np.ndarray
) -> np.ndarray:
    known = p.tape.kept["known"]
    return _summed(known[many][0], index, along, axis, n)


def _repeated(tape: Tape, slot: Slot) -> list[Slot]:
    """Values that hold the entries of one several times, in an arrangement of their own."""
    users, found, near = users_of(tape), list[Slot](), slot
    for _ in range(CHAIN_UP_TO):
        using = {at for at, _ in users.get(near, ())}
        if len(using) != 1:
            break
        step = tape.steps[using.pop()]
        if step.name not in ARRANGING or step.outs[0] not in tape.active:
            break
        near = step.outs[0]
        if np.size(tape.values[near]) > np.size(tape.values[slot]):
            found.append(near)
    return [s for s in found if s in tape.kept["known"]]


def _axes_apart(small: tuple[int, ...], large: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The axes of two shapes that differ, the second a multiple of the first, if all others are the same."""
    for axis, n in enumerate(small):
        for along, count in enumerate(large):
            same = small[:axis] + small[axis + 1 :] == large[:along] + large[along + 1 :]
            if same and n > 1 and count > n and count % n == 0:
                yield axis, along
