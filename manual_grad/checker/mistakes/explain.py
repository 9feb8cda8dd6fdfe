"""Explain a wrong gradient by a mistake in the derivative of a single step, as people make them.

:mod:`tape` computes the gradient that such a mistake leads to, for any function, and it is compared with the
checked one. If a mistake has a free factor, the factor that fits best is found first.
"""

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from manual_grad.checker.evidence import Evidence, factor_of, first_near, named_scales, sizes_named
from manual_grad.checker.mistakes.attention import (
    entries_counted,
    rebuilt_without_steps,
    slopes_before_sums,
    statistics_of_others,
)
from manual_grad.checker.mistakes.blocks import (
    means_of_chunks,
    normalisers_of_parts,
    rows_of_others,
    softmaxes_mistaken,
    sums_of_blocks,
)
from manual_grad.checker.mistakes.chunks import (
    blocks_assigned,
    factors_of_other_chunks,
    states_too_early,
)
from manual_grad.checker.mistakes.clamps import bounds_ignored
from manual_grad.checker.mistakes.constants import constants_mistaken, constants_unmasked
from manual_grad.checker.mistakes.cross_entropies import cross_entropies_mistaken
from manual_grad.checker.mistakes.cumulative import cumulative_sums_mistaken
from manual_grad.checker.mistakes.factorisations import factorisations_mistaken
from manual_grad.checker.mistakes.factors import (
    extra_factors,
    factors_mistaken,
    gradients_of_neighbours,
    gradients_of_others,
    operands_replaced,
    regions,
    signs_mistaken,
    slopes_out_of_order,
    stages,
    steps_left_out,
)
from manual_grad.checker.mistakes.gates import probabilities_of_others
from manual_grad.checker.mistakes.gradients import Row, gradients_with
from manual_grad.checker.mistakes.implied import implied, place_implied
from manual_grad.checker.mistakes.implied_routes import groups_resummed, misrouted
from manual_grad.checker.mistakes.implied_terms import terms_implied
from manual_grad.checker.mistakes.indices import (
    chunks_apart,
    groups_mistaken,
    groups_of_products_mistaken,
    masks_shifted,
    steps_apart,
    steps_before_softmax,
    steps_of_time,
)
from manual_grad.checker.mistakes.inverses import inverses_mistaken
from manual_grad.checker.mistakes.iterations import in_all_iterations
from manual_grad.checker.mistakes.layers import (
    activations_mistaken,
    masks_left_out_of_loops,
    masks_left_out_of_values,
    slopes_of_another_layer,
)
from manual_grad.checker.mistakes.maps import (
    factors_outside,
    keepdims_missing,
    members_mistaken,
    outputs_shifted,
    rows_left_out,
    statistics_of_other_groups,
)
from manual_grad.checker.mistakes.missing_paths import missing_said
from manual_grad.checker.mistakes.mistake import (
    PASSED_ON,
    Mistake,
    denominators,
    is_constant,
    made_by,
    said_of,
    too_few_or_many,
    users_of,
)
from manual_grad.checker.mistakes.norms import norms_mistaken, norms_of_another_x, outputs_for_normal
from manual_grad.checker.mistakes.parts import parts_for_the_whole
from manual_grad.checker.mistakes.places import (
    clips_left_out,
    index_computed,
    indices_replaced,
    segments_mistaken,
    weights_between,
)
from manual_grad.checker.mistakes.pooling import maxima_misplaced
from manual_grad.checker.mistakes.positions import (
    offsets_mistaken,
    places_taken_for_one,
    rotations_misplaced,
    windows_misplaced,
)
from manual_grad.checker.mistakes.rebuilt import pairs_mistaken, rebuilt, rotations
from manual_grad.checker.mistakes.replaced import (
    branches_mistaken,
    counts_replaced,
    factors_on_the_other_side,
    functions_of_others,
    numbers_mistaken,
    repeated_operands_replaced,
    scaled_by_rows,
    scaled_by_slices,
    shared_products,
    sizes_mistaken,
)
from manual_grad.checker.mistakes.resampling import resampled_otherwise
from manual_grad.checker.mistakes.rows import rows_weighed, sums_of_parts
from manual_grad.checker.mistakes.scans import scans_mistaken
from manual_grad.checker.mistakes.slopes import (
    loops,
    masks_left_out,
    paths,
    powers,
    recursions,
    slopes_left_out,
    slopes_of_another_step,
    slopes_without_steps,
    terms,
    wrong_slopes,
)
from manual_grad.checker.mistakes.states import (
    cotangents_added_late,
    operands_of_other_steps,
    states_after_updates,
    stops_ignored,
)
from manual_grad.checker.mistakes.sums import (
    counts_taken_for_1,
    moves,
    normalisations,
    others_mistaken,
    partly_summed,
    products_divided,
    sums_elsewhere,
    sums_of_other_factors,
    sums_of_segments,
    sums_on_the_way_back,
)
from manual_grad.checker.mistakes.terms import factors_missing_in_terms, terms_left_out_of_factors
from manual_grad.checker.mistakes.windows import (
    borders_wrapped,
    chunks_lost,
    cotangents_ignored,
    entries_picked,
    kernels_turned,
    kernels_turned_together,
    maxima_overwritten,
    overlaps,
    padding_ignored,
    parts_swapped,
    slices_lost,
    slices_moved,
    spread_ignored,
    spread_ignored_in_kernels,
    terms_left_out,
    windows_shifted,
)
from manual_grad.checker.nearby import batch
from manual_grad.checker.tape import (
    Slot,
    Tape,
    pulled_back,
    without_dead_maxima,
    write_down,
)
from manual_grad.checker.truth import is_float, is_key

NO_SIZE = "which is not a size of the problem"

AT_LEAST, AT_MOST = 60, 900  # mistakes of one kind
SMALL_PART = 0.02  # the share of a missing path that may remain due to rounding
RECOGNISED = 1e-2  # from here on, a factor other than a size of the problem is distinguished from rounding
SAMPLE = 64  # entries of a leaf that are compared first
STEP = 100  # entries that take as long as a step
WORK = 2**25  # entries in the backward pass of all mistakes of one kind together


@np.errstate(all="ignore")
def mistakes_that_explain(evidence: Sequence[Evidence]) -> list[str]:
    """Phrases for the mistakes in single steps that reproduce the checked gradient at every point.

    Args:
        evidence: one leaf at every point where it is wrong.
    Returns:
        The phrases, the most specific first, all for the same kind of mistake.
    """
    return _explained_by(ORDER, evidence)


@np.errstate(all="ignore")
def order_mistaken(evidence: Sequence[Evidence]) -> list[str]:
    """The same for a factor that is applied too late, which may look like a transposed Jacobian.

    In a normalisation, a factor too many in one of its terms may look like one that is applied too late.
    """
    return _explained_by(
        ((norms_of_another_x, 0), (factors_outside, 0), (sums_of_other_factors, 0)), evidence
    )


@np.errstate(all="ignore")
def implied_by_the_error(evidence: Sequence[Evidence]) -> list[str]:
    """The same for mistakes that are not known beforehand, but that the error implies: the simplest one."""
    return _explained_by(
        ((scans_mistaken, 0), (groups_resummed, 0), (misrouted, 0), (implied, 0), (terms_implied, 0)),
        evidence,
    )[:1]


@np.errstate(all="ignore")
def located(evidence: Sequence[Evidence]) -> str:
    """The place that all errors can come from, if it is the same at every point; otherwise ""."""
    said: set[str] = set()
    for e in evidence:
        tape = _tape(e) if time.monotonic() <= e.until else None
        said.add("" if tape is None else e.once("place", partial(place_implied, tape, e)))
    return said.pop() if len(said) == 1 else ""


@np.errstate(all="ignore")
def rows_scaled(e: Evidence) -> str:
    """The phrase for a gradient whose rows are multiplied by values of the function."""
    tape = _tape(e)
    return "" if tape is None else scaled_by_slices(tape, e) or scaled_by_rows(tape, e)


@np.errstate(all="ignore")
def rows_counted(e: Evidence) -> str:
    """The phrase for rows that count twice or not at all, or by the size of their chunk."""
    tape = _tape(e)
    return "" if tape is None else rows_weighed(tape, e)


def _explained_by(order: Sequence[tuple[Any, int]], evidence: Sequence[Evidence]) -> list[str]:
    first = evidence[0]
    tape = _tape(first)
    if tape is None:
        return []
    for kind, level in order:
        first.require_time()
        name = kind.__name__
        mistakes = first.once(f"mistakes {name}", partial(_some, kind, tape, first))
        rows = first.once(f"rows {name}", partial(gradients_with, first, mistakes))
        fits = [
            (mistake, phrase, row)
            for mistake, row in _plausible(first, name, mistakes, rows, level)
            if (phrase := _fits(mistake, first, row, level))
        ]
        if len(fits) > 1 and len(first.wants) > 1 and level < 2:
            counts = [_leaves_explained(first, mistake, row) for mistake, _, row in fits]
            best = max(counts)
            fits = [fit for fit, count in zip(fits, counts, strict=True) if count in (best, -1)]
        fitting = [(mistake, phrase) for mistake, phrase, _ in fits]
        agreed = [
            (mistake, said) for mistake, said in fitting[:6] if _agreed(mistake, said, evidence[1:], level)
        ]
        if agreed:
            return _unlike([said for mistake, said in agreed if not _is_half(mistake, agreed)])
    return []


def _leaves_explained(e: Evidence, mistake: Mistake, row: Row) -> int:
    """The number of leaves of the checked gradient that a mistake reproduces; -1 if it has a free factor."""
    if mistake.path:
        return -1
    pairs = zip(e.gots, row[0], strict=True)
    return sum(got is not None and e.same(got, made) for got, made in pairs)


def _some(kind: Callable[[Tape, Evidence], Iterator[Mistake]], tape: Tape, e: Evidence) -> list[Mistake]:
    """The mistakes of a kind; only the first ones if the function is large."""
    entries = sum(int(np.size(tape.values[slot])) for slot in tape.active) + STEP * len(tape.steps)
    limit = max(AT_LEAST, min(AT_MOST, WORK // entries))
    mistakes = kind(tape, e)
    if kind not in OF_LOOPS:
        mistakes = in_all_iterations(tape, mistakes, limit)
    found: list[Mistake] = []
    unusual = (TypeError, ValueError, LookupError, RecursionError)
    with contextlib.suppress(*unusual):  # a function of a form not thought of
        found.extend(itertools.islice(mistakes, limit))
    return found


def _is_half(mistake: Mistake, others: Sequence[tuple[Mistake, str]]) -> bool:
    """Whether a path is one of two equal ones, as for a value multiplied by itself."""
    return any(mistake.path and other.path and set(mistake.without or ()) < set(other.without or ())
               for other, _ in others)  # fmt: skip


def _unlike(phrases: Sequence[str]) -> list[str]:
    """The phrases, one for each distinct mistake; others with the same effect are left out."""
    found: dict[str, str] = {}
    for phrase in phrases:
        found.setdefault(re.split(r"[:;,(]| in one place", phrase)[0], phrase)
    return list(found.values())


def _agreed(mistake: Mistake, phrase: str, others: Sequence[Evidence], level: int) -> bool:
    """Whether a mistake is also found at the other points."""
    for e in others:
        if _tape(e) is None:
            return False
        (row,) = e.once(f"row {id(mistake)}", partial(gradients_with, e, [mistake]))
        if _fits(mistake, e, row, level) != phrase:
            return False
    return True


def _tape(e: Evidence) -> Tape | None:
    """The recorded function; None if JAX does not differentiate it as written (a custom rule)."""
    tape = e.once("tape", lambda: None if e.point.foreign else write_down(e.point))
    if tape is None:
        return None
    tape.kept["dout"] = e.point.dout
    return tape if e.once(f"tape is right, {e.tolerance}", partial(_is_right, e, tape)) else None


def _is_right(e: Evidence, tape: Tape) -> bool:
    """Whether the truth computed from the tape is that of JAX."""
    wants = [row[0] for row in e.once("right", lambda: _right(e, tape))[0]]
    share = max(1e-9, 1e-2 * e.tolerance)
    return all(
        mine.shape == want.shape  # for a value, the expected result is not a gradient
        and _off(mine, want) <= share * np.max(np.abs(want), initial=0.0, where=np.isfinite(want)) + 1e-300
        for mine, want in zip(wants, e.wants, strict=True)
    )


def _off(mine: np.ndarray, want: np.ndarray) -> float:
    """The largest difference where the truth is finite; elsewhere, a derivative may be NaN or ±∞."""
    return float(np.max(np.abs(mine - want), initial=0.0, where=np.isfinite(want)))


def _right(e: Evidence, tape: Tape) -> tuple[list[np.ndarray], dict]:
    """The truth computed from the tape, and the cotangent of every slot and every operand."""
    known: dict = {}
    right = pulled_back(tape, e.point.dout, [{}], known)
    without_dead_maxima(tape, known)
    tape.kept["known"] = known
    return right, known


def _fits(mistake: Mistake, e: Evidence, row: Row, level: int) -> str:
    """A phrase if a mistake leads to the checked gradient; otherwise "".

    At level 0 a path may be missing or have the wrong sign; at level 1 its factor may be a size of the
    problem; at level 2 the factor of a path or a mistake may be anything.
    """
    wrong, rest = e.seen(row[0][e.leaf]), None if row[1] is None else e.seen(row[1][e.leaf])
    if e.as_infinite and np.isfinite(row[0][e.leaf][e.hidden]).any():
        return ""
    exactly = rest is None or (level < 2 and not mistake.path)
    if exactly or rest is None:
        fits = level < 2 and not e.same(wrong, e.want) and e.same(e.got, wrong)
        return mistake.phrase if fits else ""
    part = wrong - rest
    size = float(np.max(np.abs(part), initial=0.0))
    if not np.isfinite(size) or size <= 1e-6 * np.max(np.abs(e.want), initial=0.0):
        return ""
    factor = float(np.vdot(part, e.got - rest) / np.vdot(part, part))
    noise = e.tolerance * float(np.max(np.abs(e.want)))
    if mistake.path and abs(factor) <= SMALL_PART and size > 10 * noise and e.same(e.got, rest):
        return _path_said(mistake, e, 0.0, level)  # a small contribution, such as a penalty's, has few digits
    off = np.max(np.abs(e.got - rest - factor * part), initial=0.0)
    if off > 4 * e.tolerance * max(size, abs(factor) * size) or not e.same(e.got, rest + factor * part):
        return ""
    return _path_said(mistake, e, factor, level) if mistake.path else _scale_said(mistake, e, factor)


def _plausible(
    e: Evidence, name: str, mistakes: Sequence[Mistake], rows: Sequence[Row], level: int
) -> Iterator[tuple[Mistake, Row]]:
    """The mistakes that may match, judging by some entries of the leaf; none that matches is lost."""
    if not mistakes:
        return
    n = e.want.size
    at = np.random.default_rng(0).integers(0, n, SAMPLE) if n > SAMPLE else np.arange(n)

    def some(leaves: list[np.ndarray] | None) -> np.ndarray:
        return np.full(len(at), np.nan) if leaves is None else e.seen(leaves[e.leaf]).ravel()[at]

    wrong, rest = e.once(
        f"some {name} of {e.leaf}, {n}",
        lambda: [np.stack([some(row[which]) for row in rows]) for which in (0, 1)],
    )
    got = e.got.ravel()[at]
    allowed = 16 * e.tolerance * float(np.max(np.abs(e.got)))
    fits = np.max(np.abs(got - wrong), axis=1) <= allowed
    part = wrong - rest
    factors = np.sum(part * (got - rest), axis=1) / np.sum(part * part, axis=1)
    scaled = np.max(np.abs(got - rest - factors[:, None] * part), axis=1) <= allowed
    for k, mistake in enumerate(mistakes):
        exactly = rows[k][1] is None or (level < 2 and not mistake.path)
        if fits[k] if exactly else scaled[k]:
            yield mistake, rows[k]


def _path_said(mistake: Mistake, e: Evidence, factor: float, level: int) -> str:
    """The phrase for a path whose contribution has this factor."""
    if abs(factor) <= 10 * e.tolerance:
        return f"a path is missing: {mistake.missing or missing_said(e.kept['tape'], e, mistake)}"
    if abs(factor + 1) <= 10 * e.tolerance:
        return f"sign flipped in one place: in what flows back through {mistake.phrase}"
    if level == 0 or abs(factor - 1) <= max(10 * e.tolerance, RECOGNISED if level == 2 else 0.0):
        return ""
    said = _size_said(e, factor) if level == 1 else _factor_said(e, factor)
    if said and factor_of(e) is not None:  # there is no other path
        return said
    return f"{said}; only what flows back through {mistake.phrase}" if said else ""


def _size_said(e: Evidence, factor: float) -> str:
    """The phrase for a factor that is a size, or a number of the function that is missing."""
    own = scalar_said(e, factor, sizes=(1,)) if abs(factor) < 1 else ""
    if own.endswith("is missing"):
        return own
    return (named_scales(e, factor, partial(constant_said, e, factor)) or [""])[0]


def _scale_said(mistake: Mistake, e: Evidence, factor: float) -> str:
    if abs(factor) <= 10 * e.tolerance or abs(factor - 1) <= 10 * e.tolerance:
        return ""
    said = "sign flipped" if abs(factor + 1) <= 10 * e.tolerance else _factor_said(e, factor)
    return f"{mistake.phrase}, and {said}" if said and NO_SIZE not in said else ""


def _factor_said(e: Evidence, factor: float) -> str:
    """The phrase for a factor; "" if it means nothing in so small a leaf."""
    named = named_scales(e, factor, partial(constant_said, e, factor)) or (
        [scalar_said(e, factor)] if e.want.size > 1 else []
    )
    if named and named[0]:
        return named[0]
    return f"scaled by {factor:.4g}, {NO_SIZE}" if e.want.size > 3 else ""


def scales_said(e: Evidence, factor: float) -> list[str]:
    """The names of a factor, those of numbers that the function computes first if it takes no mean of N.

    1/N and 1/√D may be equal. Where only one argument is wrong, 1/N, which concerns all, comes last.
    """
    sizes = named_scales(e, factor, partial(constant_said, e, factor))
    root = root_said(e, factor)
    own = root or scalar_said(e, factor, sizes=(1,))
    if abs(factor) < 1 and own.endswith("is missing"):  # the function multiplies by that number
        root = _as_root(e, factor)
        return sizes if not root and sizes and "is missing" in sizes[0] else [own + root, *sizes[:1]]
    n, _ = batch(e.point)
    of_n = n > 1 and any(abs(abs(factor) / v - 1) <= 4 * e.tolerance for v in (n, 1 / n))
    if not own or not of_n or own in sizes:
        return [root, *sizes[:1]] if root else sizes
    if not _takes_mean(e, n):
        return [own] if abs(factor) > 1 else [own, *sizes[:1]]
    return [own, *sizes[:1]] if root and _others_are_right(e) else [*sizes[:1], root]


def _as_root(e: Evidence, factor: float) -> str:
    """`` (√D = √4, axis 1 of E)`` if a missing number is the root of a size; otherwise ""."""
    near = [
        (n, what) for n, what in sizes_named(e).items() if abs(abs(factor) * n**0.5 - 1) <= 4 * e.tolerance
    ]
    return f" (√D = √{near[0][0]}, {near[0][1]})" if near else ""


def _takes_mean(e: Evidence, n: int) -> bool:
    """Whether the function divides a sum by N or a multiple of it."""
    tape = _tape(e)
    if tape is None:
        return True
    made = made_by(tape)
    for step in tape.steps:
        if step.name not in ("mul", "div") or step.outs[0] not in tape.active:
            continue
        source = next(s for s in step.ins if s in tape.active)
        while source in made and tape.steps[made[source]].name in PASSED_ON:
            source = tape.steps[made[source]].ins[0]
        sums = source in made and tape.steps[made[source]].name == "reduce_sum"
        for slot in step.ins if sums or np.size(tape.values[source]) == 1 else ():
            if slot not in tape.active and is_constant(tape, slot) and np.size(tape.values[slot]):
                number = abs(float(np.ravel(tape.values[slot])[0]))
                times = (number if step.name == "div" else 1 / number if number else 0.0) / n
                if times >= 1 and abs(times - round(times)) <= 1e-9 * times:
                    return True
    return False


def _others_are_right(e: Evidence) -> bool:
    """Whether the gradient of another argument is right and not 0."""
    return any(
        k != e.leaf and got is not None and np.any(want) and e.same(got, want)
        for k, (got, want) in enumerate(zip(e.gots, e.wants, strict=True))
    )


def constant_said(e: Evidence, factor: float) -> str:
    """The same for a number that occurs in the function, unless it is 2 or a size."""
    return (
        root_said(e, factor)
        or count_said(e, factor)
        or scalar_said(e, factor, sizes=(1,))
        or inner_size_said(e, factor)
    )


def inner_size_said(e: Evidence, factor: float) -> str:
    """The same for a size that only arrays inside the function have."""
    tape = _tape(e)
    if tape is None:
        return ""
    sizes, factors = e.once("inner sizes", lambda: _inner_sizes(tape))
    near = first_near(factor, factors, e.tolerance)
    if near < 0:
        return ""
    n, slot, axis = sizes[near // 2]
    sign, name = "sign flipped and " if factor < 0 else "", said_of(tape, e, slot)
    if axis < 0:
        return f"{sign}scaled by 1/{n} (the number of places that {name} is repeated at): mean instead of sum"
    of = f"(axis {axis} of {name})"
    if near % 2:
        return f"{sign}scaled by 1/{n} {of}: mean instead of sum"
    return f"{sign}scaled by {n} {of}: summed where a mean is taken"


def _inner_sizes(tape: Tape) -> tuple[list[tuple[int, Slot, int]], np.ndarray]:
    """Sizes with a slot and an axis, or −1 where it is repeated so often; the factors that each leads to."""
    found: dict[Any, tuple[int, Slot, int]] = {}
    for step in tape.steps:
        if step.name in ("broadcast", "broadcast_in_dim") and step.ins[0] in tape.active:
            n = np.size(tape.values[step.outs[0]]) // max(np.size(tape.values[step.ins[0]]), 1)
            found.setdefault((n, "repeated"), (n, step.ins[0], -1))
    for slot in sorted(tape.active):
        for axis, n in enumerate(tape.shape(slot)):
            found.setdefault(n, (n, slot, axis))
    sizes = [size for size in found.values() if size[0] > 2]
    return sizes, np.array([f for n, _, axis in sizes for f in (np.nan if axis < 0 else n, 1 / n)])


def count_said(e: Evidence, factor: float) -> str:
    """The same if a size is used instead of the sum to divide by, such as a mask's, or vice versa."""
    tape = _tape(e)
    if tape is None:
        return ""
    sign = "sign flipped and " if factor < 0 else ""
    partly, shares = e.once("partly summed", lambda: _summed_in_part(tape))
    if (near := first_near(factor, shares, e.tolerance)) >= 0:
        what = f"the number of entries of {said_of(tape, e, partly[near])} that are not 0"
        return f"{sign}divided by {what}, instead of the number of all"
    for value, name, divides in e.once("sums", lambda: list(_sums(tape, e))):
        counts = e.once("counts", lambda: _counts(tape, e)).get(name, ()) if divides else ()
        counts = [(n, of) for n, of in counts if abs(abs(factor) * n / value - 1) <= 4 * e.tolerance]
        for n, of in counts:
            if not of.startswith("all"):
                return f"{sign}divided by {n}, the number of {of}, instead of {name}"
        sizes = [(n, f"{n} ({what})") for n, what in sizes_named(e).items() if n > 1]
        sizes = [(n, size) for n, size in sizes if abs(value / n - 1) > 4 * e.tolerance]
        for n, size in sizes if divides else ():
            if abs(abs(factor) * n / value - 1) <= 4 * e.tolerance:
                return f"{sign}divided by {size} instead of {name}"
        for n, of in counts:
            return f"{sign}divided by {n}, the number of {of}, instead of {name}"
        for n, size in sizes:
            if abs(abs(factor) * value / n - 1) <= 4 * e.tolerance:
                return f"{sign}divided by {name} instead of {size}"
    return ""


def _summed_in_part(tape: Tape) -> tuple[list[Slot], np.ndarray]:
    """Arrays summed whole in which some entries are 0, and all entries over the number of the others."""
    of = [step.ins[0] for step in tape.steps if step.name == "reduce_sum" and step.outs[0] in tape.active
          and tape.shape(step.outs[0]) == ()]  # fmt: skip
    counts = {slot: int(np.count_nonzero(tape.values[slot])) for slot in of}
    partly = [slot for slot in of if 0 < counts[slot] < np.size(tape.values[slot])]
    return partly, np.array([np.size(tape.values[slot]) / counts[slot] for slot in partly])


def _is_sum(tape: Tape, slot: Slot) -> bool:
    """Whether a scalar is computed from a sum by steps that return scalars."""
    made, near, seen = made_by(tape), [slot], set[Slot]()
    while near:
        at = made.get(near.pop())
        if at is None or np.size(tape.values[tape.steps[at].outs[0]]) != 1:
            continue
        if tape.steps[at].name in ("reduce_sum", "dot_general"):
            return True
        near.extend(s for s in tape.steps[at].ins if s not in seen)
        seen.update(tape.steps[at].ins)
    return False


def _counts(tape: Tape, e: Evidence) -> dict[str, list[tuple[int, str]]]:
    """For each sum that is a divisor, the number of entries summed that are not 0, and what is summed."""
    made, found = made_by(tape), dict[str, list[tuple[int, str]]]()
    for slot in denominators(tape):
        step = tape.steps[made[slot]] if slot in made else None
        if step is not None and step.name == "reduce_sum" and np.size(tape.values[slot]) == 1:
            summed = np.asarray(tape.values[step.ins[0]])
            count = int(np.count_nonzero(summed))
            if 1 < count < summed.size:
                of, v = said_of(tape, e, step.ins[0]), float(np.ravel(tape.values[slot])[0])
                name = said_of(tape, e, slot) + (f" ({abs(v):g})" if v == round(v) else "")
                found.setdefault(name, []).extend(
                    [(count, f"entries of {of} that are not 0"), (summed.size, f"all entries of {of}")]
                )
    return found


def _sums(tape: Tape, e: Evidence) -> Iterator[tuple[float, str, bool]]:
    """Sums that may be divisors: their values, names, and whether the function divides by them."""
    seen: set[float] = set()
    for slot in denominators(tape):
        value = tape.values[slot]
        if np.size(value) == 1 and is_float(value) and _is_sum(tape, slot):
            v = abs(float(np.ravel(value)[0]))
            if 0 < v < np.inf and v not in seen:
                seen.add(v)
                yield v, said_of(tape, e, slot) + (f" ({v:g})" if v == round(v) else ""), True
    for name, value in zip(e.point.names, e.point.values, strict=True):
        if isinstance(value, jax.Array) and not is_key(value) and np.size(value) > 1:
            v = abs(float(np.sum(np.asarray(value, np.float64))))
            if 0 < v < np.inf and v not in seen:
                yield v, f"the sum of {name}" + (f" ({v:g})" if v == round(v) else ""), False


def scalar_said(e: Evidence, factor: float, sizes: Sequence[int] = ()) -> str:
    """The phrase for a factor that is a scalar computed by the function, or its reciprocal; otherwise ""."""
    tape = _tape(e)
    if tape is None:
        return ""
    sign = "sign flipped and " if factor < 0 else ""
    sizes = sizes or sorted({1} | {n for v in e.point.values for n in np.shape(v)})
    scalars, factors = e.once(f"scalars over {sizes}", lambda: _scalars(tape, sizes))
    near = first_near(factor, factors, e.tolerance)
    if near < 0:
        return ""
    slot, n = scalars[near // 2]
    name = said_of(tape, e, slot)
    missing, extra = too_few_or_many(tape, slot, name)
    if near % 2:
        return f"{sign}scaled by {n if n > 1 else 'one'} over {name}: {missing}"
    if n > 1 and slot in denominators(tape):
        return f"{sign}divided by {n} ({sizes_named(e).get(n)}) instead of {name}"
    return f"{sign}scaled by {name}{f' over {n}' if n > 1 else ''}: {extra}"


def _scalars(tape: Tape, sizes: Sequence[int]) -> tuple[list[tuple[Slot, int]], np.ndarray]:
    """The scalars that the function computes, with each size; the quotients and their reciprocals."""
    found: dict[float, Slot] = {}
    for slot, value in enumerate(tape.values):
        if np.size(value) == 1 and is_float(value):
            v = abs(float(np.asarray(value).ravel()[0]))
            if 0 < v < np.inf and v != 1:
                found.setdefault(v, slot)
    factors = [factor for v in found for n in sizes for factor in (v / n, n / v)]
    return [(slot, n) for slot in found.values() for n in sizes], np.array(factors)


def root_said(e: Evidence, factor: float) -> str:
    """The same for the root of a size that a matrix product is scaled by, as attention's is by 1/√d."""
    tape = _tape(e)
    sign = "sign flipped and " if factor < 0 else ""
    for n in sorted(e.once("roots", lambda: set(_scaled_by_root(tape)))) if tape is not None else ():
        what = sizes_named(e).get(n, "what a matrix product sums over")
        if abs(abs(factor) / n**0.5 - 1) <= 4 * e.tolerance:
            return f"{sign}scaled by √{n} ({what}): 1/√{n} is missing"
        if abs(abs(factor) * n**0.5 - 1) <= 4 * e.tolerance:
            return f"{sign}scaled by 1/√{n} ({what}): 1/√{n} is applied twice"
    return ""


def _scaled_by_root(tape: Tape) -> Iterator[int]:
    """The sizes that matrix products sum over if their results or factors are scaled by the root."""
    made, users = made_by(tape), users_of(tape)
    for step in tape.steps:
        if step.name not in ("mul", "div") or step.outs[0] not in tape.active:
            continue
        numbers = [abs(float(np.ravel(tape.values[s])[0])) for s in step.ins if is_constant(tape, s)]
        source = next(s for s in step.ins if s in tape.active)
        while source in made and tape.steps[made[source]].name in PASSED_ON:
            source = tape.steps[made[source]].ins[0]
        near = [made[source]] if source in made else []
        for k in [*near, *(user for user, _ in users.get(step.outs[0], ()))]:
            if tape.steps[k].name == "dot_general":
                product = tape.steps[k]
                axes = product.eqn.params["dimension_numbers"][0][0]
                n = int(np.prod([tape.shape(product.ins[0])[a] for a in axes]))
                if n > 2 and any(abs(v * n**p - 1) <= 1e-6 for v in numbers for p in (0.5, -0.5)):
                    yield n


# These handle loops, or whole sequences, themselves.
OF_LOOPS = (
    gradients_of_neighbours,
    loops,
    recursions,
    stops_ignored,
    masks_left_out_of_loops,
    steps_of_time,
    steps_apart,
    chunks_apart,
    states_too_early,
    cumulative_sums_mistaken,
    states_after_updates,
    operands_of_other_steps,
    factors_of_other_chunks,
    slopes_of_another_step,
    gradients_of_others,
    blocks_assigned,
    cotangents_ignored,
    slices_lost,
    chunks_lost,
    rows_left_out,
    outputs_shifted,
    scans_mistaken,
    groups_resummed,
    misrouted,
    implied,
    terms_implied,
    resampled_otherwise,
    maxima_misplaced,
)
# The kinds of mistakes, in order, with their levels; the first kind that matches is reported.
ORDER: tuple[tuple[Callable[[Tape, Evidence], Iterator[Mistake]], int], ...] = (
    (products_divided, 0),
    (factorisations_mistaken, 0),
    (sums_on_the_way_back, 0),
    (bounds_ignored, 0),
    (slopes_left_out, 0),
    (masks_left_out, 0),
    (stops_ignored, 0),
    (recursions, 0),
    (steps_apart, 0),
    (chunks_apart, 0),
    (resampled_otherwise, 0),
    (maxima_misplaced, 0),
    (paths, 0),
    (normalisations, 0),
    (loops, 0),
    (cotangents_ignored, 0),
    (wrong_slopes, 0),
    (activations_mistaken, 0),
    (slopes_of_another_layer, 0),
    (slopes_of_another_step, 0),
    (branches_mistaken, 0),
    (cross_entropies_mistaken, 0),
    (masks_left_out_of_values, 0),
    (masks_left_out_of_loops, 0),
    (masks_shifted, 0),
    (groups_mistaken, 0),
    (groups_of_products_mistaken, 0),
    (steps_of_time, 0),
    (states_too_early, 0),
    (factors_of_other_chunks, 0),
    (powers, 0),
    (others_mistaken, 0),
    (inverses_mistaken, 0),
    (keepdims_missing, 0),
    (statistics_of_other_groups, 0),
    (index_computed, 0),
    (rotations_misplaced, 0),
    (constants_unmasked, 0),
    (constants_mistaken, 0),
    (indices_replaced, 0),
    (segments_mistaken, 0),
    (offsets_mistaken, 0),
    (places_taken_for_one, 0),
    (rebuilt, 0),
    (norms_mistaken, 0),
    (outputs_for_normal, 0),
    (parts_for_the_whole, 0),
    (sums_of_blocks, 0),
    (means_of_chunks, 0),
    (sums_of_parts, 0),
    (rows_of_others, 0),
    (softmaxes_mistaken, 0),
    (normalisers_of_parts, 0),
    (cumulative_sums_mistaken, 0),
    (rebuilt_without_steps, 0),
    (statistics_of_others, 0),
    (slopes_before_sums, 0),
    (entries_counted, 0),
    (probabilities_of_others, 0),
    (rotations, 0),
    (pairs_mistaken, 0),
    (kernels_turned, 0),
    (kernels_turned_together, 0),
    (windows_shifted, 0),
    (padding_ignored, 0),
    (spread_ignored, 0),
    (spread_ignored_in_kernels, 0),
    (borders_wrapped, 0),
    (windows_misplaced, 0),
    (slices_moved, 0),
    (parts_swapped, 0),
    (partly_summed, 0),
    (moves, 0),
    (overlaps, 0),
    (maxima_overwritten, 0),
    (sums_of_segments, 0),
    (rows_left_out, 0),
    (outputs_shifted, 0),
    (members_mistaken, 0),
    (entries_picked, 0),
    (counts_taken_for_1, 0),
    (sizes_mistaken, 0),
    (counts_replaced, 0),
    (paths, 1),
    (normalisations, 1),
    (shared_products, 0),
    (factors_on_the_other_side, 0),
    (repeated_operands_replaced, 0),
    (weights_between, 0),
    (clips_left_out, 0),
    (numbers_mistaken, 0),
    (slices_lost, 0),
    (chunks_lost, 0),
    (terms_left_out, 0),
    (signs_mistaken, 0),
    (stages, 0),
    (factors_mistaken, 0),
    (terms_left_out_of_factors, 0),
    (slopes_without_steps, 0),
    (states_after_updates, 0),
    (operands_of_other_steps, 0),
    (operands_replaced, 0),
    (cotangents_added_late, 0),
    (factors_missing_in_terms, 0),
    (functions_of_others, 0),
    (extra_factors, 0),
    (steps_before_softmax, 0),
    (blocks_assigned, 0),
    (regions, 0),
    (sums_elsewhere, 0),
    (terms, 0),
    (steps_left_out, 0),
    (gradients_of_others, 0),
    (gradients_of_neighbours, 0),
    (slopes_out_of_order, 0),
    (paths, 2),
    (slopes_left_out, 2),
    (wrong_slopes, 2),
    (others_mistaken, 2),
    (factors_mistaken, 2),
    (operands_replaced, 2),
)
