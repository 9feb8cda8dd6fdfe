"""Mistakes in sums, products and rearrangements: wrong axes, a missing transpose, indices."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import (
    SAID,
    Mistake,
    axes_said,
    back_with,
    is_constant,
    left_out,
    made_by,
    nothing,
    place_of,
    said_of,
    source_of,
    stop,
    users_of,
)
from manual_grad.checker.tape import (
    ELEMENTWISE,
    Change,
    Edge,
    Passing,
    Slot,
    Step,
    Tape,
    bind,
    broadcast_axes,
    computed,
    pull_of,
)

ROLLS_UP_TO = 8  # places
WINDOWS_UP_TO = 4096
FIRST_AND_LAST = (("first", 0), ("last", -1))


@dataclass(frozen=True)
class Chain:
    """A sum that is broadcast back to the summed values: a mean, a softmax's denominator."""

    total: Edge  # the sum
    spread: Edge  # the broadcast
    axes: tuple[int, ...]


def chains_of(tape: Tape) -> list[Chain]:
    """The sums that are broadcast back."""
    users = users_of(tape)
    found: list[Chain] = []
    for total in tape.edges():
        step = tape.steps[total[0]]
        if step.name != "reduce_sum":
            continue
        whole, axes = tape.shape(step.ins[0]), tuple(sorted(step.eqn.params["axes"]))
        size = np.size(tape.values[step.outs[0]])
        near, spreads, seen = [step.outs[0]], [], set()
        while near:
            slot = near.pop()
            for edge in users.get(slot, ()):
                if edge in seen:
                    continue
                seen.add(edge)
                out = tape.steps[edge[0]].outs[0]
                name = tape.steps[edge[0]].name
                spreading = name in ("broadcast", "broadcast_in_dim") and tape.shape(out) == whole
                if spreading and whole and size < np.prod(whole):
                    if broadcast_axes(tape, tape.steps[edge[0]]) == axes:
                        spreads.append(edge)
                elif np.size(tape.values[out]) == size:
                    near.append(out)
        found.extend(Chain(total, spread, axes) for spread in spreads)
    return found


def sums_on_the_way_back(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The sum in the gradient of a mean or softmax: missing, over the wrong axis, or not a sum."""
    made = made_by(tape)
    chains = chains_of(tape)
    for chain in chains:
        summed = made.get(tape.steps[chain.total[0]].ins[0])
        softmax = summed is not None and tape.steps[summed].name == "exp"
        phrase = (
            "softmax without its off-diagonal terms"
            if softmax
            else (f"only the diagonal counts: no sum over axis {chain.axes[0]} in the backward pass")
        )
        yield from _lifted(tape, [chain], phrase, lambda d, q: d)
    by_axes = {chain.axes for chain in chains}
    for axes in by_axes:
        group = [chain for chain in chains if chain.axes == axes]
        ndim = len(tape.shape(tape.steps[group[0].total[0]].ins[0]))
        every = [(axis,) for axis in range(ndim)] + [tuple(range(ndim))]
        for wrong in every:
            if wrong == axes or ndim < 2:
                continue
            phrase = (
                f"summed over the wrong axis in the backward pass: {axes_said(wrong)} instead of "
                f"{axes_said(axes)}"
            )
            shape = tape.shape(tape.steps[group[0].total[0]].ins[0])
            ratio = np.prod([shape[a] for a in axes]) / np.prod([shape[a] for a in wrong])
            for power, factor in itertools.product((1, 0, 2), (1.0, ratio)):

                def summed_there(
                    d: Any, q: Any, w: Any = wrong, k: Any = power, f: Any = factor
                ) -> np.ndarray:
                    return f * np.broadcast_to((d * q**k).sum(w, keepdims=True), d.shape) / q**k

                for chosen in [group] if len(group) > 4 else [group, *([c] for c in group if len(group) > 1)]:
                    yield from _lifted(tape, chosen, phrase, summed_there)
    for chain in chains:
        yield from _lifted(
            tape, [chain], f"the sum of the gradient over axis {chain.axes[0]} is left out (taken to be 1)",
            lambda d, q: -np.ones_like(d),
        )  # fmt: skip
        phrase = (
            f"keepdims is missing in a sum over {axes_said(chain.axes)} in the backward pass: row i's sum is "
            "in column i"
        )
        for power in (1, 0, 2):
            yield from _lifted(tape, [chain], phrase, partial(_not_kept, chain.axes, power))


def _not_kept(axes: tuple[int, ...], power: int, d: np.ndarray, q: np.ndarray) -> np.ndarray:
    """A sum spread along axes other than the summed ones, as NumPy aligns the last axes."""
    return np.broadcast_to((d * q**power).sum(axes), d.shape) / q**power


def sums_of_other_factors(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A factor outside a sum in the backward pass instead of inside it, such as gamma of a normalisation."""
    users = users_of(tape)
    for chain in chains_of(tape):
        shape = tape.shape(tape.steps[chain.total[0]].ins[0])
        factors = {
            step.ins[1 - i]: None
            for slot in users
            for at, i in users[slot]
            if (step := tape.steps[at]).name == "mul" and tape.shape(step.outs[0]) == shape
        }
        for factor in list(factors)[:12]:
            if not is_constant(tape, factor):
                yield Mistake(
                    f"the factor {said_of(tape, e, factor)} stands outside the sum over "
                    f"{axes_said(chain.axes)} in the backward pass, but belongs inside it",
                    {
                        chain.spread: partial(_noted_outside, chain, factor),
                        chain.total: partial(_spread_out, chain),
                    },
                )


def _lifted(tape: Tape, chains: Sequence[Chain], phrase: str, what: Callable) -> Iterator[Mistake]:
    """Another value for the sum in the gradient of a broadcast: ``what(d, value)``, of d's shape."""
    changes: dict[Edge, Change] = {}
    for chain in chains:
        changes[chain.spread] = partial(_noted, chain, what)
        changes[chain.total] = partial(_spread_out, chain)
    yield Mistake(phrase, changes)


def _noted(chain: Chain, what: Callable, p: Passing) -> np.ndarray:
    p.notes[chain.total] = (what(p.cotangent, np.asarray(p.result)), p.right)
    return p.right


def _noted_outside(chain: Chain, factor: Slot, p: Passing) -> np.ndarray:
    f = np.asarray(p.tape.values[factor])
    total = (p.cotangent / f).sum(chain.axes, keepdims=True)
    p.notes[chain.total] = (f * np.broadcast_to(total, f.shape), p.right)
    return p.right


def _spread_out(chain: Chain, p: Passing) -> np.ndarray:
    """The sum's cotangent: the value in the notes times the slope between the sum and the broadcast."""
    lifted, total = p.notes[chain.total]
    slope = (p.cotangent.ravel() / total.ravel()).reshape(
        [1 if axis in chain.axes else n for axis, n in enumerate(p.right.shape)]
    )
    return lifted * slope


def normalisations(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Written as (dh − mean(dh) − x̂ mean(dh x̂)) / s, with the means over another axis."""
    chains = chains_of(tape)
    for variance in chains:
        squared = tape.steps[made_by(tape).get(tape.steps[variance.total[0]].ins[0], 0)]
        if squared.name not in ("square", "integer_pow", "mul"):
            continue
        centred = np.asarray(tape.values[squared.ins[0]])
        for edge in tape.edges():
            step = tape.steps[edge[0]]
            slot = step.ins[edge[1]]
            if (
                step is squared
                or tape.shape(slot) != centred.shape
                or not np.allclose(tape.values[slot], centred)
            ):
                continue
            means = [c for c in chains if c.axes == variance.axes and slot == _differs_from(tape, c)]
            yield from _normalised(tape, edge, variance, means)


def _differs_from(tape: Tape, chain: Chain) -> Slot | None:
    """The slot computed by subtracting a mean."""
    mean = tape.steps[chain.spread[0]].outs[0]
    return next((step.outs[0] for step in tape.steps if step.name == "sub" and step.ins[1] == mean), None)


def _normalised(tape: Tape, edge: Edge, variance: Chain, means: Sequence[Chain]) -> Iterator[Mistake]:
    axes, shape = variance.axes, tape.shape(tape.steps[edge[0]].ins[edge[1]])
    stopped = {variance.spread: nothing, **{chain.total: nothing for chain in means}}
    scale = tape.steps[variance.spread[0]].outs[0]
    divides = next(step for step in tape.steps if scale in step.ins).name == "div"

    def written(wrong: tuple, count: float, p: Passing) -> np.ndarray:
        over = np.asarray(p.tape.values[scale]) ** (1.0 if divides else -1.0)
        normal, d = np.asarray(p.operands[p.edge[1]]) / over, p.right * over
        mean = d.sum(wrong, keepdims=True) / count if means else 0.0
        return (d - mean - normal * (d * normal).sum(wrong, keepdims=True) / count) / over

    def size(some: tuple) -> float:
        return float(np.prod([shape[axis] for axis in some]))

    every = range(len(shape))
    counts = every if len(shape) <= 7 else every[:2]  # there are 2ⁿ sets of axes
    for wrong in itertools.chain.from_iterable(itertools.combinations(every, n + 1) for n in counts):
        if wrong != axes:
            phrase = (
                f"summed over the wrong axis in the backward pass: {axes_said(wrong)} instead of "
                f"{axes_said(axes)}"
            )
            for count in (size(wrong), size(axes)):
                yield Mistake(phrase, {edge: partial(written, wrong, count), **stopped})
    both = "the mean and the variance" if means else "the mean of squares"
    constant = f"{both} of a normalisation {'are' if means else 'is'} treated as constant"
    yield Mistake(
        f"{both} of a normalisation", {}, stopped, path=True,
        missing=f"{constant}, nothing flows back through {'them' if means else 'it'}",
    )  # fmt: skip


def sums_elsewhere(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A sum over another axis in a divisor or factor of a derivative, such as a norm."""
    users = users_of(tape)
    for total in tape.edges():
        step = tape.steps[total[0]]
        shape = tape.shape(step.ins[0])
        if step.name != "reduce_sum" or len(shape) < 2:
            continue
        axes = tuple(sorted(step.eqn.params["axes"]))
        both_ways = _both_ways(tape, total[0])
        chain: list[int] = []
        slot = step.outs[0]
        while len(chain) < 4 and len(users.get(slot, ())) == 1:
            (user,) = users[slot]
            if len(tape.steps[user[0]].ins) > 1 or tape.steps[user[0]].name not in ELEMENTWISE:
                break
            chain.append(user[0])
            slot = tape.steps[user[0]].outs[0]
        for wrong in [(axis,) for axis in range(len(shape))] + [tuple(range(len(shape)))]:
            if wrong == axes:
                continue
            said = f"summed over the wrong axis: {axes_said(wrong)} instead of {axes_said(axes)}"
            if both_ways:
                said = f"{said} (of the terms of both directions one counts twice, the other not at all)"
            for length, power in itertools.product(range(len(chain) + 1), (1, -1, 2, -2)):
                change = partial(_summed_elsewhere, axes, wrong, chain[:length], power)
                yield Mistake(
                    f"{said}, in the derivative of {place_of(tape, e, total)}", {total: change}, stop(total)
                )


def _both_ways(tape: Tape, at: int) -> bool:
    """Whether exponentials of one value are summed twice, as over rows and columns in a contrastive loss."""
    made = made_by(tape)

    def base(step: Step) -> Slot:
        slot = step.ins[0]
        for name in ("exp", "sub"):  # a maximum is subtracted
            if slot in made and tape.steps[made[slot]].name == name:
                slot = tape.steps[made[slot]].ins[0]
        return source_of(tape, slot) if slot != step.ins[0] else -1

    sums = [k for k, step in enumerate(tape.steps) if step.name == "reduce_sum" and base(step) >= 0]
    return any(k != at and base(tape.steps[k]) == base(tape.steps[at]) for k in sums)


def _summed_elsewhere(axes: tuple, wrong: tuple, chain: Sequence[int], power: int, p: Passing) -> np.ndarray:
    x, shift = np.asarray(p.operands[0]), _shift(p)
    right, instead = x.sum(axes, keepdims=True) * shift, (x * shift).sum(wrong, keepdims=True)
    for at in chain:
        step = p.tape.steps[at]
        (right,), (instead,) = computed(step.eqn, [right]), computed(step.eqn, [instead])
    return p.right * (np.asarray(right) / np.asarray(instead)) ** power


def _shift(p: Passing) -> Any:
    """The shift of the exponentials that are summed: softmax subtracts the maximum."""
    made, steps = made_by(p.tape), p.tape.steps
    exp = steps[made.get(steps[p.edge[0]].ins[0], 0)]
    sub = steps[made.get(exp.ins[0], 0)]
    if exp.name != "exp" or sub.name != "sub":
        return 1.0
    largest = np.asarray(p.tape.values[sub.ins[1]])
    return np.exp(largest - largest.max())


def others_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A kernel not rotated, a matrix not transposed or missing; a transposed result."""
    matrices: list[tuple[Edge, Change]] = []
    kernels: list[tuple[Edge, Change]] = []
    lost: list[tuple[Edge, Change]] = []
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name == "conv_general_dilated" and edge[1] == 0:
            axes = tuple(step.eqn.params["dimension_numbers"].rhs_spec[2:])
            kernels.append((edge, partial(_not_rotated, axes)))
        if step.name != "dot_general":
            continue
        other = tape.shape(step.ins[1 - edge[1]])
        if len(other) > 1 and other[-1] == other[-2] > 1:
            matrices.append((edge, _not_transposed))
            if tape.shape(step.ins[edge[1]]) == tape.shape(step.outs[0]):
                lost.append((edge, left_out))
        if step.name == "dot_general" and len({tape.shape(s) for s in (*step.ins, *step.outs)}) == 1:
            for other_turned in (False, True) if len(other) == 2 else ():
                change = partial(_factors_swapped, other_turned)
                yield Mistake("factors swapped: a matrix product in the wrong order", {edge: change})
    for phrase, found in (
        ("rotated or flipped kernel (not rotated in the backward pass)", kernels),
        ("transposed: a square matrix is used for its transpose", matrices),
        ("a factor is left out: the gradient of a matrix product is passed on unchanged", lost),
    ):
        yield from (Mistake(phrase, {edge: change}, stop(edge)) for edge, change in found[:8])
        if len(found) > 1:
            yield Mistake(phrase, dict(found))
            into: dict[Slot, dict[Edge, Change]] = {}
            for edge, change_there in found:
                into.setdefault(tape.steps[edge[0]].ins[edge[1]], {})[edge] = change_there
            yield from (Mistake(f"{phrase}, in {len(some)} places", some) for some in into.values() if some)
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        mine = tape.shape(step.ins[edge[1]])
        if step.name in OF_MATRICES and len(mine) > 1 and mine[-1] == mine[-2] > 1:
            yield Mistake(
                f"transposed: what {OF_MATRICES[step.name]} passes back",
                {edge: lambda p: np.swapaxes(p.right, -1, -2)},
            )
        if step.name == "svd" and len(mine) == 2:
            for said, turned in SVD_MISTAKEN.items():
                yield Mistake(f"transposed: singular vectors are taken wrongly: {said}",
                              {edge: partial(_of_singular_values, turned)})  # fmt: skip
        result = tape.shape(step.outs[0])
        if step.name == "dot_general" and len(result) > 1 and result[-1] == result[-2] > 1:
            yield Mistake("transposed: the gradient of a matrix product", {edge: _of_the_transpose})


OF_MATRICES = {"dot_general": "a matrix product", "lu": "a factorisation (of a determinant or an inverse)",
               "cholesky": "a Cholesky factorisation", "eigh": "an eigenvalue decomposition"}  # fmt: skip


SVD_MISTAKEN = {
    "the columns of Vᵀ for those of V, which are its rows": (False, True),
    "the rows of U for its columns": (True, False),
    "the rows of U for its columns, and the columns of Vᵀ for those of V": (True, True),
}


def _of_singular_values(turned: tuple[bool, bool], p: Passing) -> np.ndarray:
    """The cotangent of a matrix from those of its singular values alone, with other singular vectors."""
    u, _, vt = np.linalg.svd(np.asarray(p.operands[0]))
    n = p.cotangent.shape[-1]
    left, right = u.T if turned[0] else u, vt.T if turned[1] else vt
    return (left[:, :n] * p.cotangent) @ right[:n]


def _not_rotated(axes: tuple, p: Passing) -> np.ndarray:
    return back_with(p, np.flip(p.operands[1], axes))


def _not_transposed(p: Passing) -> np.ndarray:
    return back_with(p, np.swapaxes(p.operands[1 - p.edge[1]], -1, -2))


def _factors_swapped(turned: bool, p: Passing) -> np.ndarray:
    other = np.asarray(p.operands[1 - p.edge[1]])
    other = other.T if turned else other
    left = p.edge[1] == 0  # dZ Wᵀ for the left operand, Xᵀ dZ for the right one
    return other @ p.cotangent if left else p.cotangent @ other


def _of_the_transpose(p: Passing) -> np.ndarray:
    turned = Passing(p.tape, p.edge, np.swapaxes(p.cotangent, -1, -2), p.right, p.notes)
    return back_with(turned, p.operands[1 - p.edge[1]])


def moves(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A cumulative sum not reversed, repeated indices overwritten, a maximum's wrong entry."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name == "cumsum":
            yield Mistake("a cumulative sum must be reversed in the backward pass", {edge: _cumulated})
            yield Mistake("a cumulative sum's own entry is left out in the backward pass",
                          {edge: lambda p: p.right - p.cotangent})  # fmt: skip
            yield Mistake("the derivative of the cumulative sum is left out", {edge: left_out})
        elif step.name == "cumprod":
            own = "a cumulative product's later entries are left out in the backward pass"
            forwards = "a cumulative product's sum must be reversed in the backward pass"
            yield Mistake(own, {edge: lambda p: p.cotangent * p.result / p.operands[0]})
            yield Mistake(
                forwards, {edge: lambda p: _summed_along(p, p.cotangent * p.result) / p.operands[0]}
            )
        elif step.name == "gather" and edge[1] == 0:
            yield Mistake("repeated indices are overwritten instead of added up", {edge: overwritten})
            yield Mistake("only the first of repeated indices counts; they are not added up",
                          {edge: lambda p: overwritten(p, -1)})  # fmt: skip
            yield Mistake("repeated indices are averaged instead of added up", {edge: _averaged})
            if tape.shape(step.ins[0]) == tape.shape(step.outs[0]):
                again = "the indices are applied again in the backward pass, the permutation is not undone"
                yield Mistake(again, {edge: _picked_again})
            first = "the indices are ignored in the backward pass: the gradient is put at the first positions"
            yield Mistake(first, {edge: _put_first})
            same = [x for x in users_of(tape)[step.ins[0]] if tape.steps[x[0]].name == "gather"]
            if len(same) > 1 and edge == same[0]:
                yield Mistake("repeated indices are overwritten instead of added up",
                              dict.fromkeys(same, overwritten))  # fmt: skip
        elif step.name in ("reduce_max", "reduce_min"):
            for said, pick in ENTRIES_PICKED.items():
                yield Mistake(
                    f"{SAID[step.name]}: the gradient goes to {said}", {edge: partial(_to_entries, pick)}
                )
        elif step.name in ("reduce_window_max", "reduce_window_min"):
            for said, pick in ENTRIES_PICKED.items():
                yield Mistake(f"max-pooling: the gradient goes to {said}, in each window",
                              {edge: partial(to_window, pick)})  # fmt: skip
            said = "max-pooling: overlapping windows are overwritten instead of added up"
            for which, whole in itertools.product(("last", "first"), (False, True)):
                yield Mistake(f"{said} (= for +=); the {which} window counts",
                              {edge: partial(_to_window_assigned, which, whole)})  # fmt: skip
        elif step.name in ("broadcast", "broadcast_in_dim") and broadcast_axes(tape, step):
            axes = broadcast_axes(tape, step)
            for which, at in FIRST_AND_LAST:
                yield Mistake(
                    "what was repeated (broadcast) is not summed in the backward pass: only "
                    f"the {which} entry counts",
                    {edge: partial(_one_of_the_repeated, at, axes)},
                )
        elif step.name in ("scatter-add", "scatter_add") and edge[1] == 2:
            yield Mistake(
                "entries that are added get their mean in the backward pass", {edge: _mean_of_added}
            )
        elif step.name == "concatenate" and edge[1] == 0:
            n = tape.shape(step.outs[0])[step.eqn.params["dimension"]]
            for by in range(1, n) if n <= 2 * ROLLS_UP_TO else (2, 1, -1, -2):
                change = partial(_rolled, step.eqn.params["dimension"], by)
                undone = "a roll is not undone in the backward pass, or by another number of places"
                yield Mistake(undone, {(edge[0], -1): change})
        elif step.name == "transpose":
            yield Mistake("transposed: reshaped in the backward pass, the axes are not put back in order",
                          {edge: lambda p: p.cotangent.reshape(p.right.shape)})  # fmt: skip
            shape = tape.shape(step.ins[0])
            for a, b in itertools.combinations(range(len(shape)), 2):
                if shape[a] == shape[b] > 1:
                    said = f"the axes {a} and {b}, both of size {shape[a]}, in each other's place"
                    yield Mistake(f"transposed: {said} in the backward pass", {edge: partial(_swapped, a, b)})
        elif step.name == "reshape":
            shape = tape.shape(step.ins[0])
            for a in range(len(shape) - 1):
                if shape[a] > 1 and shape[a + 1] > 1:
                    yield Mistake(
                        f"transposed: reshaped with axes {a} and {a + 1} swapped in the backward pass",
                        {edge: partial(_reshaped_swapped, a)},
                    )
        elif step.name == "sort":
            yield Mistake("the sorting is not undone in the backward pass", {edge: left_out})
            again = (
                "the sorting permutation is applied again in the backward pass (the gradient is "
                "gathered by the "
                "order), where its inverse belongs (scattered to the order's places)"
            )
            yield Mistake(again, {edge: _sorted_again})
        elif step.name == "rev":
            yield Mistake("flipped: a reversal is not undone in the backward pass", {edge: left_out})


def products_divided(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A product's derivative computed by dividing the product by the entry, with a guard against zeros."""
    for edge in tape.edges():
        if tape.steps[edge[0]].name in ("cumprod", "reduce_prod") and edge[1] == 0:
            phrase = (
                "the product is divided by its entry, which is 0 here (guarded by a small number): the "
                "gradient at the zero, and before it, is lost"
            )
            yield Mistake(phrase, {edge: _divided_by_the_entry})


def _divided_by_the_entry(p: Passing) -> np.ndarray:
    x = np.asarray(p.operands[0])
    if np.all(x):
        raise ValueError
    if p.tape.steps[p.edge[0]].name == "cumprod":
        params = p.tape.steps[p.edge[0]].eqn.params
        product, axis = p.cotangent * p.result, params["axis"]
        product = product if params["reverse"] else np.flip(product, axis)
        product = np.cumsum(product, axis)
        product = product if params["reverse"] else np.flip(product, axis)
    else:
        axes = tuple(p.tape.steps[p.edge[0]].eqn.params["axes"])
        product = np.broadcast_to(np.expand_dims(p.cotangent * p.result, axes), x.shape)
    return np.where(x == 0, 0.0, product / np.where(x == 0, 1.0, x))


def counts_taken_for_1(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """1 instead of the number of active entries where that many are summed in the backward pass."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if step.name in ("broadcast", "broadcast_in_dim") and broadcast_axes(tape, step):
            for anyway in (True, False):
                yield Mistake(
                    f"1 for the number of active entries: what {said_of(tape, e, step.ins[0])} gets counts "
                    "once, not once for each entry that is not zero",
                    {edge: partial(_counted_once, anyway)},
                )


def _counted_once(anyway: bool, p: Passing) -> np.ndarray:
    """One of the equal entries that a broadcast sums, or 1 even if all are zero."""
    axes = broadcast_axes(p.tape, p.tape.steps[p.edge[0]])
    largest = np.max(np.abs(p.cotangent), axes, keepdims=True)
    one = np.where(p.cotangent.max(axes, keepdims=True) == largest, largest, -largest)
    if anyway:
        one = np.full_like(one, p.cotangent.flat[int(np.argmax(np.abs(p.cotangent)))])
    counts = p.cotangent / np.where(one, one, 1.0)
    if not np.allclose(np.where(counts, 1.0, 0.0), counts, atol=1e-12) or np.all(counts):
        raise ValueError
    some = np.ones_like(counts) if anyway else counts
    return (one * some.max(axes, keepdims=True)).reshape(p.right.shape)


def sums_of_segments(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The sum over all entries instead of each segment's own, in the gradient of a softmax or a mean."""
    made = made_by(tape)
    for slot in [
        s for s in tape.active if s in made and tape.steps[made[s]].name in ("scatter-add", "scatter_add")
    ]:
        for power in (1, 0, 2):
            yield Mistake(
                "summed over all entries in the backward pass, not over each segment alone: "
                f"{said_of(tape, e, slot)}",
                {(made[slot], -1): partial(_over_all_segments, slot, power)},
            )


def _over_all_segments(slot: Slot, power: int, p: Passing) -> np.ndarray:
    q = np.asarray(p.tape.values[slot]) ** power
    return np.broadcast_to((p.right * q).sum(0, keepdims=True), q.shape) / q


def partly_summed(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """For a value repeated along several axes, one entry of one axis, summed over the others."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        axes = broadcast_axes(tape, step) if step.name in ("broadcast", "broadcast_in_dim") else ()
        for axis, (which, at) in itertools.product(axes if len(axes) > 1 else (), FIRST_AND_LAST):
            yield Mistake(
                "what was repeated is summed over the wrong axes in the backward pass: "
                f"only the {which} entry of axis {axis} counts (overwritten, not added up, = for +=)",
                {edge: partial(_one_of_the_repeated, at, [axis])},
            )


def _swapped(a: int, b: int, p: Passing) -> np.ndarray:
    return np.swapaxes(p.right, a, b)


def _reshaped_swapped(axis: int, p: Passing) -> np.ndarray:
    shape = list(p.right.shape)
    shape[axis], shape[axis + 1] = shape[axis + 1], shape[axis]
    return p.cotangent.reshape(shape).swapaxes(axis, axis + 1)


def _one_of_the_repeated(pick: int, axes: Sequence[int], p: Passing) -> np.ndarray:
    """One entry along these axes, summed over the other repeated axes."""
    repeated = broadcast_axes(p.tape, p.tape.steps[p.edge[0]])
    some = slice(pick, None if pick < 0 else pick + 1)
    picked = p.cotangent[tuple(some if axis in axes else slice(None) for axis in range(p.cotangent.ndim))]
    return picked.sum(tuple(repeated)).reshape(p.right.shape)


def _rolled(axis: int, by: int, p: Passing) -> np.ndarray:
    return np.roll(p.right, by, axis)


def _cumulated(p: Passing) -> np.ndarray:
    return _summed_along(p, p.cotangent)


def _summed_along(p: Passing, d: np.ndarray) -> np.ndarray:
    """Summed in the same direction as the step instead of the opposite one."""
    params = p.tape.steps[p.edge[0]].eqn.params
    d = np.flip(d, params["axis"]) if params["reverse"] else d
    d = np.cumsum(d, params["axis"])
    return np.flip(d, params["axis"]) if params["reverse"] else d


def overwritten(p: Passing, order: int = 1) -> np.ndarray:
    """The cotangent that a gather passes on if repeated indices are assigned instead of added."""
    step = p.tape.steps[p.edge[0]]
    source = np.arange(p.right.size, dtype=np.float64).reshape(p.right.shape)
    taken = np.asarray(bind(step.eqn, [jax.numpy.asarray(source), *p.operands[1:]])[0])
    flat = np.zeros(p.right.size)
    for at, d in zip(taken.ravel()[::order], p.cotangent.ravel()[::order], strict=True):
        if at >= 0:  # not out of bounds
            flat[int(at)] = d
    return flat.reshape(p.right.shape)


def _averaged(p: Passing) -> np.ndarray:
    counts = pull_of(p.tape, p.edge[0], [np.ones_like(p.cotangent)])[p.edge[1]]
    return p.right / np.maximum(counts, 1)


def _mean_of_added(p: Passing) -> np.ndarray:
    target, *others = (jax.numpy.asarray(x) for x in p.operands)
    counts = bind(p.tape.steps[p.edge[0]].eqn, [0 * target, others[0], jax.numpy.ones_like(others[1])])[0]
    return pull_of(p.tape, p.edge[0], [p.cotangent / np.maximum(np.asarray(counts), 1)])[p.edge[1]]


def _picked_again(p: Passing) -> np.ndarray:
    return np.asarray(bind(p.tape.steps[p.edge[0]].eqn, [jax.numpy.asarray(p.cotangent), *p.operands[1:]])[0])


def _sorted_again(p: Passing) -> np.ndarray:
    params = p.tape.steps[p.edge[0]].eqn.params
    order = np.argsort(np.asarray(p.operands[0]), params["dimension"], kind="stable")
    return np.take_along_axis(p.cotangent, order, params["dimension"])


def _put_first(p: Passing) -> np.ndarray:
    whole = np.zeros_like(p.right)
    whole[tuple(slice(n) for n in p.cotangent.shape)] = p.cotangent
    return whole


ENTRIES_PICKED: dict[str, Callable[[np.ndarray], Any]] = {
    "all entries (missing mask)": lambda x: np.ones_like(x),
    "the first entry": lambda x: np.arange(x.shape[-1]) == 0,
    "the last entry": lambda x: np.arange(x.shape[-1]) == x.shape[-1] - 1,
    "the smallest entry": lambda x: x == x.min(-1, keepdims=True),
    "the largest entry": lambda x: x == x.max(-1, keepdims=True),
    "the entry of the largest size": lambda x: np.abs(x) == np.abs(x).max(-1, keepdims=True),
    "all entries in equal parts (as for average pooling)": lambda x: np.ones_like(x) / x.shape[-1],
}


def _to_entries(pick: Callable, p: Passing) -> np.ndarray:
    axes = tuple(sorted(p.tape.steps[p.edge[0]].eqn.params["axes"]))
    x = np.moveaxis(np.asarray(p.operands[0]), axes, range(-len(axes), 0))
    flat = x.reshape(*x.shape[: x.ndim - len(axes)], -1)
    d = p.cotangent[..., None] * pick(flat)
    return np.moveaxis(d.reshape(x.shape), range(-len(axes), 0), axes)


def to_window(pick: Callable, p: Passing) -> np.ndarray:
    """The cotangent that pooling passes on if each window's gradient goes to the selected entries."""
    params = p.tape.steps[p.edge[0]].eqn.params
    shape, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
    x = np.pad(np.asarray(p.operands[0]), padding, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, shape)
    windows = windows[tuple(slice(None, None, s) for s in strides)]
    parts = p.cotangent[..., None] * pick(windows.reshape(*p.cotangent.shape, -1))
    whole = np.zeros_like(x)
    for k, at in enumerate(np.ndindex(*shape)):
        place = tuple(
            slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(at, p.cotangent.shape, strides, strict=True)
        )
        whole[place] += parts[..., k]
    return whole[tuple(slice(low, n - high) for (low, high), n in zip(padding, x.shape, strict=True))]


def _to_window_assigned(which: str, whole_windows: bool, p: Passing) -> np.ndarray:
    """The same if each window's gradient is assigned, to its largest entry or to the whole window."""
    params = p.tape.steps[p.edge[0]].eqn.params
    shape, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
    largest = np.argmin if "min" in p.tape.steps[p.edge[0]].name else np.argmax
    x = np.pad(
        np.asarray(p.operands[0]), padding, constant_values=-np.inf if largest is np.argmax else np.inf
    )
    if p.cotangent.size > WINDOWS_UP_TO:
        raise ValueError
    back, order = np.zeros_like(x), list(np.ndindex(*p.cotangent.shape))
    for at in order if which == "last" else order[::-1]:
        window = tuple(slice(a * s, a * s + n) for a, s, n in zip(at, strides, shape, strict=True))
        place = np.unravel_index(largest(x[window]), shape)
        if whole_windows:
            back[window] = 0.0
        back[window][place] = p.cotangent[at]
    return back[tuple(slice(low, n - high) for (low, high), n in zip(padding, x.shape, strict=True))]
