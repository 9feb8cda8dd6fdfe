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

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.attention import (
    causal_where_not,
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
from manual_grad.checker.mistakes.clamps import bounds_counted, bounds_ignored
from manual_grad.checker.mistakes.constants import constants_mistaken, constants_unmasked
from manual_grad.checker.mistakes.cross_entropies import cross_entropies_mistaken
from manual_grad.checker.mistakes.cumulative import cumulative_sums_mistaken
from manual_grad.checker.mistakes.factorisations import factorisations_mistaken
from manual_grad.checker.mistakes.factors import (
    extra_factors,
    factors_mistaken,
    factors_of_operands,
    gradients_of_neighbours,
    gradients_of_others,
    operands_replaced,
    regions,
    signs_mistaken,
    slopes_out_of_order,
    stages,
    steps_left_out,
)
from manual_grad.checker.mistakes.fixed_points import fixed_points_mistaken
from manual_grad.checker.mistakes.fused import slopes_of_parts
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
from manual_grad.checker.mistakes.mistake import (
    Mistake,
)
from manual_grad.checker.mistakes.norms import (
    deviations_taken,
    norms_mistaken,
    norms_of_another_x,
    outputs_for_normal,
)
from manual_grad.checker.mistakes.parts import constants_differentiated, parts_for_the_whole
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
from manual_grad.checker.mistakes.scales import path_said, scale_said, tape_of
from manual_grad.checker.mistakes.scans import scans_mistaken
from manual_grad.checker.mistakes.shards import own_blocks_alone
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
from manual_grad.checker.mistakes.taken import values_taken_for_others
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
from manual_grad.checker.mistakes.writes import writes_mistaken
from manual_grad.checker.tape import (
    Tape,
)

AT_LEAST, AT_MOST = 60, 900  # mistakes of one kind
SMALL_PART = 0.02  # the share of a missing path that may remain due to rounding
SAMPLE = 64  # entries of a leaf that are compared first
STEP = 100  # entries that take as long as a step
WORK = 2**25  # entries in the backward pass of all mistakes of one kind together


UNUSUAL: tuple[type[Exception], ...] = (TypeError, ValueError, LookupError, RecursionError)


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
def writes_that_explain(evidence: Sequence[Evidence]) -> list[str]:
    """The same for indexed writes and products of many factors, which may look like a missing mask."""
    return _explained_by(((writes_mistaken, 0),), evidence)


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
    with contextlib.suppress(Exception):  # a clue is lost, not the verdict
        for e in evidence:
            tape = tape_of(e) if time.monotonic() <= e.until else None
            said.add("" if tape is None else e.once("place", partial(place_implied, tape, e)))
    return said.pop() if len(said) == 1 else ""


@np.errstate(all="ignore")
def rows_scaled(e: Evidence) -> str:
    """The phrase for a gradient whose rows are multiplied by values of the function."""
    tape = tape_of(e)
    return "" if tape is None else scaled_by_slices(tape, e) or scaled_by_rows(tape, e)


@np.errstate(all="ignore")
def rows_counted(e: Evidence) -> str:
    """The phrase for rows that count twice or not at all, or by the size of their chunk."""
    tape = tape_of(e)
    return "" if tape is None else rows_weighed(tape, e)


def _explained_by(order: Sequence[tuple[Any, int]], evidence: Sequence[Evidence]) -> list[str]:
    first = evidence[0]
    tape = tape_of(first)
    if tape is None:
        return []
    doubtful: list[str] = []
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
        found = _unlike([said for mistake, said in agreed if not _is_half(mistake, agreed)])
        rows_of = {mistake: row for mistake, _, row in fits}
        if found and kind in OF_ALL_LEAVES and any(_spoils(first, rows_of[m]) for m, _ in agreed):
            doubtful = doubtful or found
        elif found:
            return found
    return doubtful


def _spoils(e: Evidence, row: Row) -> bool:
    """Whether a mistake would also make the gradient of a leaf wrong that is right."""
    return any(
        got is not None and e.same(got, want) and not e.same(made, want)
        for got, want, made in zip(e.gots, e.wants, row[0], strict=True)
    )


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
    with contextlib.suppress(*UNUSUAL):  # a function of a form not thought of
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
        if tape_of(e) is None:
            return False
        (row,) = e.once(f"row {id(mistake)}", partial(gradients_with, e, [mistake]))
        if _fits(mistake, e, row, level) != phrase:
            return False
    return True


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
        return path_said(mistake, e, 0.0, level)  # a small contribution, such as a penalty's, has few digits
    off = np.max(np.abs(e.got - rest - factor * part), initial=0.0)
    if off > 4 * e.tolerance * max(size, abs(factor) * size) or not e.same(e.got, rest + factor * part):
        return ""
    return path_said(mistake, e, factor, level) if mistake.path else scale_said(mistake, e, factor)


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


# These handle loops, or whole sequences, themselves.
OF_LOOPS = (
    gradients_of_neighbours,
    fixed_points_mistaken,
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
    own_blocks_alone,
    writes_mistaken,
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
# Mistakes of these kinds are made for all arguments at once: they are named last if another one is right.
OF_ALL_LEAVES = (sums_on_the_way_back, sums_of_blocks, recursions, steps_apart, chunks_apart)
# The kinds of mistakes, in order, with their levels; the first kind that matches is reported.
ORDER: tuple[tuple[Callable[[Tape, Evidence], Iterator[Mistake]], int], ...] = (
    (products_divided, 0),
    (factorisations_mistaken, 0),
    (sums_on_the_way_back, 0),
    (bounds_ignored, 0),
    (bounds_counted, 0),
    (masks_left_out, 0),
    (stops_ignored, 0),
    (recursions, 0),
    (fixed_points_mistaken, 0),
    (steps_apart, 0),
    (chunks_apart, 0),
    (resampled_otherwise, 0),
    (maxima_misplaced, 0),
    (paths, 0),
    (slopes_left_out, 0),
    (factors_of_operands, 0),
    (normalisations, 0),
    (loops, 0),
    (cotangents_ignored, 0),
    (wrong_slopes, 0),
    (activations_mistaken, 0),
    (slopes_of_parts, 0),
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
    (constants_differentiated, 0),
    (outputs_for_normal, 0),
    (parts_for_the_whole, 0),
    (deviations_taken, 0),
    (sums_of_blocks, 0),
    (means_of_chunks, 0),
    (sums_of_parts, 0),
    (rows_of_others, 0),
    (softmaxes_mistaken, 0),
    (normalisers_of_parts, 0),
    (cumulative_sums_mistaken, 0),
    (rebuilt_without_steps, 0),
    (causal_where_not, 0),
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
    (outputs_shifted, 0),
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
    (own_blocks_alone, 0),
    (blocks_assigned, 0),
    (regions, 0),
    (sums_elsewhere, 0),
    (terms, 0),
    (values_taken_for_others, 0),
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
