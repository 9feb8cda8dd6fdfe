"""Linear recurrences h_t = a_t h_(t − 1) + b_t, however they are computed, with mistakes in the scan back."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import Mistake, arrays_by_shape, arriving, is_constant, said_of
from manual_grad.checker.tape import Changes, Passing, Slot, Tape

ARRAYS_UP_TO = 14  # of one shape
STEPS_AT_LEAST = 3


@dataclass(frozen=True)
class Scan:
    """A recurrence along an axis: the slots of its states, decays and inputs."""

    h: Slot
    a: Slot
    b: Slot
    axis: int


def scans_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Another step's decay, none, or none between chunks in the scan back; h_t for h_(t − 1)."""
    for scan in scans_of(tape):
        a, h = said_of(tape, e, scan.a), said_of(tape, e, scan.h)
        n = tape.shape(scan.h)[scan.axis]
        scan_back = f"in the reverse scan of the recurrence of {h}"
        for said, decay in (
            (f"{a} of the same step t is used where that of the next step, t + 1, belongs", _at),
            (f"{a} of step t + 2 is used where that of the next step, t + 1, belongs", partial(_after, 2)),
            (f"the factor {a} is missing", np.ones_like),
            ("nothing is carried back from step to step", np.zeros_like),
        ):
            yield Mistake(f"{said}, {scan_back}", _changes(tape, scan, decay))
        for size in range(2, n):
            said = f"nothing is carried back from one chunk of {size} steps to the one before"
            yield Mistake(f"{said}, {scan_back}", _changes(tape, scan, partial(_in_chunks, size)))
        if scan.a in tape.active:
            said = f"h_t is used where h_(t − 1) belongs, in the gradient of {a} in the recurrence of {h}"
            yield Mistake(said, _changes(tape, scan, partial(_after, 1), later=True))


def scans_of(tape: Tape) -> list[Scan]:
    """The recurrences of a function, recognised by their values."""
    if "scans" not in tape.kept:
        tape.kept["scans"] = list(_scans_of(tape))
    return tape.kept["scans"]


def _scans_of(tape: Tape) -> Iterator[Scan]:
    known = tape.kept["known"]
    for shape, slots in arrays_by_shape(tape).items():
        some = [s for s in slots if not is_constant(tape, s)][-ARRAYS_UP_TO:]
        for axis in range(min(len(shape), 2)):
            if shape[axis] < STEPS_AT_LEAST or len(some) < 3:
                continue
            values = {s: np.moveaxis(np.asarray(tape.values[s]), axis, 0) for s in some}
            for h, a in itertools.permutations(some, 2):
                if h not in known or h not in tape.active:
                    continue
                rest = values[h][1:] - values[a][1:] * values[h][:-1]
                for b in some:
                    if (
                        b not in (h, a)
                        and b in known
                        and np.allclose(values[b][1:], rest, rtol=1e-9, atol=1e-12)
                    ):
                        yield Scan(h, a, b, axis)


def _changes(
    tape: Tape, scan: Scan, decay: Callable[[np.ndarray], np.ndarray], later: bool = False
) -> Changes:
    """The changes of what the inputs and the decays receive if the scan back has other decays."""
    changes = dict(arriving(tape, scan.b, partial(_changed, scan, decay, False, False)))
    if scan.a in tape.active:
        changes |= arriving(tape, scan.a, partial(_changed, scan, decay, True, later))
    return changes


def _changed(
    scan: Scan,
    decay: Callable[[np.ndarray], np.ndarray],
    of_decay: bool,
    later: bool,
    p: Passing,
    d: np.ndarray,
) -> np.ndarray:
    tape, axis = p.tape, scan.axis
    g = np.moveaxis(tape.kept["known"][scan.h][0], axis, 0)
    h, a, b = (np.moveaxis(np.asarray(tape.values[s]), axis, 0) for s in (scan.h, scan.a, scan.b))
    right, wrong = (_scanned_back(x(a), g) for x in (partial(_after, 1), decay))
    if of_decay:
        before = np.concatenate([(h[:1] - b[:1]) / a[:1], h[:-1]])
        right, wrong = right * before, wrong * (h if later else before)
    return d + np.moveaxis(wrong - right, 0, axis)


def _scanned_back(decay: np.ndarray, g: np.ndarray) -> np.ndarray:
    """d_t = g_t + decay_t d_(t + 1)."""
    d, carried = np.empty_like(g), np.zeros(g.shape[1:])
    for t in range(len(g) - 1, -1, -1):
        d[t] = carried = g[t] + decay[t] * carried
    return d


def _at(a: np.ndarray) -> np.ndarray:
    return a


def _after(by: int, a: np.ndarray) -> np.ndarray:
    return np.concatenate([a[by:], np.zeros_like(a[:by])])


def _in_chunks(size: int, a: np.ndarray) -> np.ndarray:
    decay = _after(1, a)
    decay[size - 1 :: size] = 0
    return decay
