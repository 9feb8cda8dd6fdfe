"""Mistakes in the gradient of a normalisation, in the form in which people write it.

With y = x̂ · γ, x̂ = (x − μ) / σ and dŷ = dy · γ the gradient is dx = (dŷ − mean(dŷ) − x̂ mean(dŷ · x̂)) / σ;
if no mean is subtracted, the middle term is absent. Each mistake is another version of this formula.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence, sizes_named
from manual_grad.checker.mistakes.blocks import blocks_of
from manual_grad.checker.mistakes.mistake import (
    PASSED_ON,
    Mistake,
    axes_said,
    back_with,
    is_constant,
    made_by,
    nothing,
    said_of,
    users_of,
)
from manual_grad.checker.mistakes.sums import Chain, chains_of
from manual_grad.checker.tape import ELEMENTWISE, Changes, Edge, Passing, Slot, Tape
from manual_grad.checker.truth import is_float, is_key

LAYOUTS = ("reshape", "squeeze", "expand_dims", "transpose")
SQUARES = ("square", "integer_pow", "mul")
NORMS_UP_TO = 8
FACTORS_UP_TO = 4
NEGLIGIBLE = 1e3  # tolerances, which a small term must exceed
PAIRS_UP_TO = 12  # of arguments
BLOCKS_UP_TO = 16  # ways to divide an axis into blocks
TILES_UP_TO = 9  # rows, less 1
MOST_AXES = 4  # of which all sets are tried, as there are 2ⁿ
Layout = tuple[
    tuple[int, ...], tuple[int, ...] | None
]  # a shape, and the order of axes that leads away from it
Version = Callable[["Values"], np.ndarray]


@dataclass(frozen=True, eq=False)
class Norm:
    """A normalisation.

    Attributes:
        x: what is normalised.
        centred: what is divided by σ: x − μ, or x.
        end: the product of x̂ and the factors.
        chain: the sum of squares, and its broadcast.
        path: the operands that lead from the sum to the broadcast.
        divides: whether the broadcast is σ and not 1/σ.
        factors: γ and other factors, each with the number of layouts before it, and whether it divides.
        layouts: what rearranges x̂ on the way to the end.
        entries: the operands through which x enters.
        is_centred: whether a mean is subtracted.
    """

    x: Slot
    centred: Slot
    end: Slot
    chain: Chain
    path: list[Edge]
    divides: bool
    factors: list[tuple[Slot, int, bool]]
    layouts: list[Layout]
    entries: list[Edge]
    is_centred: bool


@dataclass(frozen=True, eq=False)
class Values:
    """The values of a normalisation, all of x's shape.

    Attributes:
        norm, tape: what they belong to.
        dy: the cotangent of the end.
        gammas: the factors.
        c: x − μ.
        r: 1/σ.
        slope: the derivative of 1/σ with respect to the sum of squares.
    """

    norm: Norm
    tape: Tape
    dy: np.ndarray
    gammas: list[np.ndarray]
    c: np.ndarray
    r: np.ndarray
    slope: np.ndarray

    @property
    def m(self) -> np.ndarray:
        """The cotangent of x̂."""
        return self.without(-1)

    def without(self, which: int) -> np.ndarray:
        """The cotangent of x̂ without one of the factors."""
        some = [g for k, g in enumerate(self.gammas) if k != which]
        return self.dy * np.prod(some, axis=0) if some else self.dy

    def mean(self, d: np.ndarray) -> np.ndarray:
        """The mean over the normalised axes; 0 if none is subtracted."""
        if not self.norm.is_centred:
            return np.zeros_like(d)
        return np.broadcast_to(d.mean(self.norm.chain.axes, keepdims=True), d.shape)

    def spread(self, d: np.ndarray, inner: Any = None, outer: Any = None) -> np.ndarray:
        """The term −x̂ mean(dŷ · x̂) / σ, perhaps with other values in place of x − μ."""
        inner, outer = (self.c if x is None else x for x in (inner, outer))
        return 2 * outer * self.slope * (d * inner).sum(self.norm.chain.axes, keepdims=True)

    def whole(self, m: np.ndarray, of_mean: Any = None, of_spread: Any = None) -> np.ndarray:
        """The gradient for the cotangents of x̂ in its three terms."""
        of_mean, of_spread = (m if x is None else x for x in (of_mean, of_spread))
        return self.r * (m - self.mean(of_mean)) + self.spread(of_spread)


def norms_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A normalisation's gradient with γ, a count, x̂, σ or ε wrong in its means, in all places or in one."""
    return _with_versions(tape, {norm: list(_versions(tape, e, norm)) for norm in norms_of(tape)})


def norms_of_another_x(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The same with x, x − μ or y for x̂ alone, or a power of σ."""
    return _with_versions(tape, {norm: list(_of_x(tape, e, norm)) for norm in norms_of(tape)})


def outputs_for_normal(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """y / γ, from which β is not subtracted, instead of x̂ in the gradient of γ."""
    for norm in norms_of(tape):
        after, step = _after(tape, norm), tape.steps[made_by(tape)[norm.end]]
        if after is None or step.name != "mul":
            continue
        for i, slot in enumerate(step.ins):
            if slot in {factor for factor, *_ in norm.factors} and slot in tape.active:
                gamma = said_of(tape, e, slot)
                yield Mistake(
                    f"x̂ is recomputed as y / {gamma}, without subtracting what is added to it (β), in the "
                    f"gradient of {gamma}",
                    {(made_by(tape)[norm.end], i): partial(_over_factor, norm, after, slot)},
                )


def _over_factor(norm: Norm, after: Slot, factor: Slot, p: Passing) -> np.ndarray:
    return back_with(p, _in_place_of_the_end(p.tape, norm, after) / np.asarray(p.tape.values[factor]))


def deviations_taken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """One statistic taken for another where σ is recomputed: 1/σ for the variance, the variance for σ."""
    formulas = {norm: _formulas(tape, norm) for norm in norms_of(tape)}
    for said in dict.fromkeys(said for some in formulas.values() for said in some):
        having = [norm for norm, some in formulas.items() if said in some]
        for norms in [having, *([norm] for norm in having)] if len(having) > 1 else [having]:
            in_all = f", in all {len(norms)} of them" if len(norms) > 1 else ""
            for again in (False, True):
                back = {
                    edge: change
                    for norm in norms
                    for edge, change in _changes(
                        tape, norm, partial(_with_formula, formulas[norm][said], again)
                    ).items()
                }
                what = "x̂ is computed with it too" if again else "x̂ is right"
                phrase = f"{said}, in a normalisation's gradient; {what}{in_all}"
                yield Mistake(phrase, back)
                deviations: dict[Slot, Callable[[Tape], np.ndarray]] = {}
                ends: dict[Slot, Callable[[Tape], np.ndarray]] = {}
                for norm in norms if again else ():
                    slot = tape.steps[norm.chain.spread[0]].outs[0]
                    deviations[slot] = partial(_deviation, norm, formulas[norm][said])
                    ends[norm.end] = partial(_own_value, norm.end)
                for pinned in (ends, {}) if again else ():
                    yield Mistake(phrase, back, instead={**deviations, **pinned})


def _own_value(slot: Slot, tape: Tape) -> np.ndarray:
    return np.asarray(tape.values[slot])


def _deviation(norm: Norm, formula: Callable, tape: Tape) -> np.ndarray:
    r = np.broadcast_to(formula(_values(tape, norm, np.zeros(tape.shape(norm.end)))), tape.shape(norm.x))
    return 1 / r if norm.divides else r


def _with_formula(formula: Callable, again: bool, v: Values) -> np.ndarray:
    """The textbook's gradient with another 1/σ in front; in x̂ too, if that is computed again."""
    r = formula(v)
    normal, n = v.c * (r if again else v.r), _sizes(v.tape, v.norm)[0]
    return r * (v.m - v.mean(v.m) - normal * (v.m * normal).sum(v.norm.chain.axes, keepdims=True) / n)


def _formulas(tape: Tape, norm: Norm) -> dict[str, Callable[[Values], np.ndarray]]:
    """Wrong versions of 1/σ, such as those computed from another statistic."""
    n, count = _sizes(tape, norm)
    rooted = [step for at, _ in norm.path if (step := tape.steps[at]).name in ("sqrt", "rsqrt", "pow")]
    if not rooted:
        return {}
    after = rooted[0].ins[0]
    maker = made_by(tape).get(after)
    adds = [] if maker is None or tape.steps[maker].name != "add" else tape.steps[maker].ins
    varied = [slot for slot in adds if slot in tape.active]
    before = varied[0] if len(varied) == 1 else after

    def var(v: Values) -> np.ndarray:
        return _kept(v, before)

    def eps(v: Values) -> np.ndarray:
        return _kept(v, after) - _kept(v, before)

    kind = "variance" if norm.is_centred else "mean of squares" if count == n else "sum of squares"
    root = {"variance": "standard deviation", "mean of squares": "root mean square"}.get(kind, "norm")
    found: dict[str, Callable[[Values], np.ndarray]] = {
        f"1/σ is taken for the {kind}: 1/√(1/σ + ε) for 1/σ": lambda v: (v.r + eps(v)) ** -0.5,
        f"1/σ is taken for the {kind}: 1/√(1/σ) for 1/σ": lambda v: v.r**-0.5,
        f"the {root} σ is taken for the {kind}: 1/√(σ + ε) for 1/σ": lambda v: (1 / v.r + eps(v)) ** -0.5,
        f"the {root} σ is taken for the {kind}: 1/√σ for 1/σ": lambda v: v.r**0.5,
        f"the {kind} is taken for the {root} σ: 1/σ² for 1/σ": lambda v: v.r**2,
        f"the {kind} is taken for the {root} σ: 1/σ² without ε for 1/σ": lambda v: 1 / var(v),
        f"the {kind} is taken for the {root} σ: 1/(σ² + ε) for 1/σ": lambda v: 1 / (v.r**-2 + eps(v)),
        f"the {root} σ is taken for its reciprocal 1/σ": lambda v: 1 / v.r,
        f"the {kind} is taken for 1/σ": var,
        f"the {kind}, with ε, is taken for 1/σ": lambda v: v.r**-2,
        "ε is added a second time: 1/(σ + ε) for 1/σ": lambda v: 1 / (1 / v.r + eps(v)),
        "ε is added a second time: 1/√(σ² + ε) for 1/σ": lambda v: (v.r**-2 + eps(v)) ** -0.5,
    }
    if count == n > 1:
        said = "sum of squares" if not norm.is_centred else "sum of squared deviations"
        found[f"the {said} is taken for the {kind}"] = lambda v: (n * var(v) + eps(v)) ** -0.5
    if count == 1 < n:
        found["the mean of squares is taken for their sum"] = lambda v: (var(v) / n + eps(v)) ** -0.5
    return found


def _with_versions(tape: Tape, versions: dict["Norm", list[tuple[str, Version]]]) -> Iterator[Mistake]:
    for count in sorted({len(some) for some in versions.values()}):
        alike = [norm for norm, some in versions.items() if len(some) == count]
        for k in range(count):
            every = [_changes(tape, norm, versions[norm][k][1]) for norm in alike]
            if len(every) > 1:
                together = {edge: change for changes in every for edge, change in changes.items()}
                yield Mistake(f"{versions[alike[0]][k][0]}, in all {len(every)} of them", together)
            for norm, changes in zip(alike, every, strict=True):
                yield Mistake(versions[norm][k][0], changes)


def _changes(tape: Tape, norm: Norm, version: Version) -> Changes:
    """The gradient of x through the normalisation, replaced by another version."""
    end = (made_by(tape)[norm.end], -1)
    first, *others = norm.entries

    def noted(p: Passing) -> np.ndarray:
        p.notes[end] = p.right
        return p.right

    def instead(p: Passing) -> np.ndarray:
        return version(_values(p.tape.kept.get("before", p.tape), norm, p.notes[end]))

    return {end: noted, **dict.fromkeys(others, nothing), first: instead}


def _values(tape: Tape, norm: Norm, dy: np.ndarray) -> Values:
    def value(slot: Slot) -> np.ndarray:
        return np.asarray(tape.values[slot], np.float64)

    axes, shape = norm.chain.axes, tape.shape(norm.x)
    spread = value(tape.steps[norm.chain.spread[0]].outs[0])
    r = 1 / spread if norm.divides else spread
    slope = np.ones([1 if axis in axes else n for axis, n in enumerate(shape)])
    for edge in norm.path:
        if (one := tape.slope(edge)) is not None:
            slope = slope * np.reshape(one, slope.shape)
    gammas = [
        1 / back if divides else back
        for slot, at, divides in norm.factors
        for back in [_brought_back(value(slot), norm.layouts[:at])]
    ]
    slope = -(r**2) * slope if norm.divides else slope * np.ones(shape)
    return Values(norm, tape, _brought_back(dy, norm.layouts), gammas, value(norm.centred), r, slope)


def _brought_back(x: np.ndarray, layouts: list[Layout]) -> np.ndarray:
    for shape, order in reversed(layouts):
        x = x.reshape(shape) if order is None else x.transpose(np.argsort(order))
    return x


# --- the versions -----------------------------------------------------------------------------------------


def _versions(tape: Tape, e: Evidence, norm: Norm) -> Iterator[tuple[str, Version]]:
    """Phrases and wrong versions of the formula."""
    yield from _of_factors(tape, e, norm)
    yield from _of_counts(tape, e, norm)
    yield from _of_axes(tape, e, norm)
    yield from _of_blocks(tape, norm)
    yield from _of_tiles(tape, norm)
    yield from _of_x(tape, e, norm)
    yield from _of_deviations(tape, norm)
    for said, standardised in _of_other_statistics(tape, e, norm):
        both = f"x̂ and σ are {said} in a normalisation's gradient, not from the statistics of x"
        yield both, partial(_with_other_statistics, standardised, False)
        constant = "nothing flows back through the mean and the variance"
        yield f"{both}; {constant}", partial(_with_other_statistics, standardised, True)


def _of_factors(tape: Tape, e: Evidence, norm: Norm) -> Iterator[tuple[str, Version]]:
    """γ inside the sums, and missing in some of the three terms."""
    kind, gradient = _mean_said(tape, norm), "a normalisation's gradient"
    for k, (slot, *_) in enumerate(norm.factors):
        if is_constant(tape, slot):
            continue
        name = said_of(tape, e, slot)
        missing, belongs = f"the factor {name} is missing inside", f"of dy · {name}"
        if norm.is_centred:
            both = f"they are those of dy and dy · x̂, where those {belongs} and dy · {name} · x̂ belong"
            yield f"{missing} the means of {gradient}: {both}", partial(_without, -1, k, k)
            one = f"it is that of dy, where that {belongs} belongs"
            yield f"{missing} one mean of {gradient}: {one}", partial(_without, -1, k, -1)
        other = f"{'one mean' if norm.is_centred else kind} of {gradient}: it is that of dy · x̂"
        yield f"{missing} {other}, where that {belongs} · x̂ belongs", partial(_without, -1, -1, k)
        yield (
            f"the factor {name} is multiplied in at the end of {gradient}, after its means; it belongs "
            f"inside them: they are those of dy and dy · x̂, where those {belongs} and dy · {name} · x̂ belong",
            partial(_at_the_end, k),
        )
        yield (
            f"the factor {name} is missing in the first term of {gradient}, dy · {name} / σ",
            partial(_without, k, -1, -1),
        )


def _without(first: int, of_mean: int, of_spread: int, v: Values) -> np.ndarray:
    """The gradient without one of the factors in each term; -1: with all of them."""
    return v.whole(v.without(first), v.without(of_mean), v.without(of_spread))


def _at_the_end(which: int, v: Values) -> np.ndarray:
    """The gradient of x̂'s normalisation for a cotangent without one factor, then multiplied by it."""
    return v.whole(v.without(which)) * v.gammas[which]


def _of_axes(tape: Tape, e: Evidence, norm: Norm) -> Iterator[tuple[str, Version]]:
    """The sums over other axes, such as over the whole matrix for each row's own."""
    shape, axes = tape.shape(norm.x), norm.chain.axes
    every = range(len(shape))
    counts = every if len(shape) <= MOST_AXES else every[:2]
    for wrong in itertools.chain.from_iterable(itertools.combinations(every, k + 1) for k in counts):
        if wrong == axes or all(shape[a] == 1 for a in set(wrong) ^ set(axes)):
            continue
        what = axes_said(wrong) if len(wrong) < len(shape) or len(shape) == 1 else "all axes"
        own = axes_said(axes)
        kind = "means" if norm.is_centred else "mean" if _count(tape, norm) > 1 else "sum"
        are = "are" if norm.is_centred else "is"
        said = f"the {kind} of a normalisation's gradient {are} taken over {what}, where {own} belongs"
        if set(axes) < set(wrong):
            said = f"{said} (each slice has its own; here one over all of them is used for each)"
        ratio = float(np.prod([shape[a] for a in axes]) / np.prod([shape[a] for a in wrong]))
        for factor in dict.fromkeys((1.0, ratio)):
            for which in (-1, *range(len(norm.factors))):
                yield said, partial(_summed_over, wrong, wrong, factor, which)
            for term, places in (("dŷ", (wrong, axes)), ("dŷ · x̂", (axes, wrong))) if norm.is_centred else ():
                one = f"one of the two means of a normalisation's gradient, that of {term}, is taken over"
                yield f"{one} {what}, where {own} belongs", partial(_summed_over, *places, factor, -1)


def _summed_over(
    of_mean: tuple[int, ...], of_spread: tuple[int, ...], factor: float, which: int, v: Values
) -> np.ndarray:
    """The gradient with its sums over other axes; one of the factors may be multiplied in at the end."""
    d, r, own = v.without(which), v.r, v.norm.chain.axes
    first, second = (factor if axes != own else 1.0 for axes in (of_mean, of_spread))
    n = np.prod([d.shape[a] for a in own])
    mean = first * d.sum(of_mean, keepdims=True) / n if v.norm.is_centred else 0.0
    inner = second * (d * v.c * r).sum(of_spread, keepdims=True)
    whole = r * (d - mean) + 2 * v.c * v.slope / r * inner
    return whole if which < 0 else whole * v.gammas[which]


def _of_blocks(tape: Tape, norm: Norm) -> Iterator[tuple[str, Version]]:
    """The sums over one block alone, or means of blocks averaged without regard to their sizes."""
    for axis in norm.chain.axes:
        mean = f"a mean in a normalisation's gradient, over axis {axis}, is"
        for said, blocks in itertools.islice(blocks_of(tape.shape(norm.x)[axis]), BLOCKS_UP_TO):
            if len({block.stop - block.start for block in blocks}) > 1:
                uneven = f"{mean} that of the means of {said}, averaged as if they were of one size"
                yield uneven, partial(_with_blocks, axis, blocks, False)
            yield (
                f"{mean} taken over one block alone: each of {said} uses its own (such as a shard's, without "
                "adding up the others')",
                partial(_with_blocks, axis, blocks, True),
            )


def _of_tiles(tape: Tape, norm: Norm) -> Iterator[tuple[str, Version]]:
    """The sums over whole tiles of several rows, where each row has its own."""
    shape = tape.shape(norm.x)
    for axis in set(range(len(shape))) - set(norm.chain.axes):
        for size in range(2, min(shape[axis], TILES_UP_TO)):
            tiles = [slice(a, a + size) for a in range(0, shape[axis], size)]
            for shared in (False, True):
                by = f", and divided by {size} times their number" if shared else ""
                of = f"tiles of {size} rows (axis {axis}), where each row has its own{by}"
                said = f"the sums in a normalisation's gradient are taken over {of}"
                yield said, partial(_with_tiles, axis, tiles, shared)


def _with_tiles(axis: int, tiles: list[slice], shared: bool, v: Values) -> np.ndarray:
    """The gradient with its sums over whole tiles of rows, which may be averaged over the tile's rows too."""
    d = np.stack([v.m, v.m * v.c * v.r]).sum(tuple(a + 1 for a in v.norm.chain.axes), keepdims=True)
    sums = np.empty_like(d)
    for tile in tiles:
        place = (slice(None),) * (axis + 1) + (tile,)
        total = d[place].sum(axis + 1, keepdims=True)
        sums[place] = total / d[place].shape[axis + 1] if shared else total
    count = np.prod([v.c.shape[a] for a in v.norm.chain.axes])
    mean = sums[0] / count if v.norm.is_centred else 0.0
    return v.r * (v.m - mean) + 2 * v.c * v.slope / v.r * sums[1]


def _with_blocks(axis: int, blocks: list[slice], own: bool, v: Values) -> np.ndarray:
    """The gradient with its means over each block alone, or with the mean of the blocks' means."""
    d = np.stack([v.m, v.m * v.c * v.r])
    each, mean = np.empty_like(d), np.zeros(1)
    for block in blocks:
        place = (slice(None),) * (axis + 1) + (block,)
        share = v.c.shape[axis] / (block.stop - block.start)
        each[place] = total = share * d[place].sum(tuple(a + 1 for a in v.norm.chain.axes), keepdims=True)
        mean = mean + total / len(blocks)
    first, second = each if own else mean
    count = np.prod([v.c.shape[a] for a in v.norm.chain.axes])
    return v.r * (v.m - (first / count if v.norm.is_centred else 0.0)) + 2 * v.c * v.slope / v.r * second


def _mean_said(tape: Tape, norm: Norm) -> str:
    if norm.is_centred:
        return "the means"
    return "the mean" if _count(tape, norm) > 1 else "the sum"


def _count(tape: Tape, norm: Norm) -> float:
    """What the sum of squares is divided by; 1 for a length."""
    for at, i in norm.path:
        step = tape.steps[at]
        if step.name in ("sqrt", "rsqrt", "pow"):
            break
        other = step.ins[1 - i] if step.name in ("div", "mul") else -1
        if other >= 0 and is_constant(tape, other):
            factor = float(np.ravel(tape.values[other])[0])
            return factor if step.name == "div" else 1 / factor
    return 1.0


def _of_counts(tape: Tape, e: Evidence, norm: Norm) -> Iterator[tuple[str, Version]]:
    """Another number to divide the sums by: n − 1, some of the axes alone, or none."""
    shape, axes = tape.shape(norm.x), norm.chain.axes
    n, of_spread = int(np.prod([shape[a] for a in axes])), _count(tape, norm)
    if of_spread == 1.0:
        return
    counts = {n - 1: f"n − 1 = {n - 1}", n: f"n = {n}", n + 1: f"n + 1 = {n + 1}"}
    for some in itertools.chain.from_iterable(
        itertools.combinations(range(len(shape)), k) for k in (1, 2, 3)
    ):
        size = int(np.prod([shape[a] for a in some]))
        counts.setdefault(size, f"{size} ({axes_said(some)})")
    counts.setdefault(int(np.prod(shape)), f"{np.prod(shape)} (all axes)")
    for size, name in sizes_named(e).items():
        counts.setdefault(size, f"{size} ({name})")
    own = f"n = {n} ({axes_said(axes)})"
    for count, name in counts.items():
        if count < 2:
            continue
        both, share = n / count, of_spread / count
        told = f"divided by {name}, where"
        if count != n and norm.is_centred:
            for right in dict.fromkeys((share, both)):
                said = f"the means of a normalisation's gradient are {told} {own} belongs"
                yield said, partial(_counted, both, right)
            said = f"the mean of dŷ in a normalisation's gradient is {told} {own} belongs"
            yield said, partial(_counted, both, 1.0)
        if count != of_spread:
            theirs = own if of_spread == n else f"n − 1 = {n - 1}" if of_spread == n - 1 else f"{of_spread:g}"
            said = f"the mean of dŷ · x̂ in a normalisation's gradient is {told} {theirs} belongs"
            yield said, partial(_counted, 1.0, share)
    sums, over = "sums are used where means belong in a normalisation's gradient", f"not divided by {own}"
    if norm.is_centred:
        yield f"{sums}: {over}", partial(_counted, n, of_spread)
        yield f"{sums}: that of dŷ is {over}", partial(_counted, n, 1.0)
    yield f"{sums}: that of dŷ · x̂ is {over}", partial(_counted, 1.0, of_spread)


def _counted(of_mean: float, of_spread: float, v: Values) -> np.ndarray:
    """The gradient with its means multiplied by factors."""
    return v.whole(v.m, of_mean * v.m, of_spread * v.m)


def _of_x(tape: Tape, e: Evidence, norm: Norm) -> Iterator[tuple[str, Version]]:
    """x, x − μ or y instead of x̂ in the term x̂ mean(dŷ · x̂), or a power of σ."""
    x, after = said_of(tape, e, norm.x), _after(tape, norm)
    others: dict[str, Version] = {}
    if norm.is_centred:
        others[f"{x} − μ is used for x̂"] = lambda v: v.c / v.r
        others[f"{x} is used for {x} − μ"] = partial(_at, norm.x)
    others[f"{x} is used for x̂"] = lambda v: _at(norm.x, v) / v.r
    others["y, after γ, is used for x̂"] = lambda v: v.c * v.m / v.dy
    if after is not None:
        y = "y, the output," if after in tape.results else f"{said_of(tape, e, after)}, scaled and shifted,"
        others[f"{y} is used for x̂"] = lambda v: _output(after, v) / v.r
        if norm.factors:
            gamma = said_of(tape, e, norm.factors[-1][0])
            others[f"x̂ is recomputed as y / {gamma}, without subtracting what is added to it (β),"] = partial(
                _not_shifted_back, after
            )
    for said, standardised in _of_other_statistics(tape, e, norm):
        others[f"x̂ is {said}"] = partial(_normal_of, standardised)
    others["1/σ is applied once too often to x̂"] = lambda v: v.c * v.r
    if norm.is_centred:
        said = "swapped: the two means of a normalisation's gradient, mean(dŷ · x̂) + x̂ · mean(dŷ) for"
        yield f"{said} mean(dŷ) + x̂ · mean(dŷ · x̂)", _means_swapped
    term = "in the term x̂ · mean(dŷ · x̂) of a normalisation's gradient"
    for said, value in others.items():
        if "σ is" in said or "− μ is used for x̂" in said:  # the same in both places, as σ is
            size = _factor(tape, norm) if "σ is" in said else 1.0
            for power, times in ((1, ""), (2, " twice")):
                if size**power > NEGLIGIBLE * e.tolerance:  # otherwise the term is lost, whatever the reason
                    yield f"{said}{times}, {term}", partial(_with_another, value, True, power == 2)
            continue
        yield f"{said} inside the mean, {term}", partial(_with_another, value, True, False)
        yield f"{said} in front of the mean, {term}", partial(_with_another, value, False, True)
        yield f"{said} in both places, {term}", partial(_with_another, value, True, True)


def _of_other_statistics(tape: Tape, e: Evidence, norm: Norm) -> Iterator[tuple[str, partial]]:
    """1/σ and x̂ from two arguments of a statistic's shape, such as a running mean and variance."""
    one = [1 if axis in norm.chain.axes else n for axis, n in enumerate(tape.shape(norm.x))]
    given = [
        slot
        for slot, value in enumerate(tape.values)
        if slot not in made_by(tape) and not is_key(value) and is_float(value)
        and np.size(value) == np.prod(one) > 1
    ]  # fmt: skip
    for m, v in itertools.islice(itertools.permutations(given, 2), PAIRS_UP_TO):
        if norm.is_centred and np.all(np.asarray(tape.values[v]) > 0):
            mean, variance = said_of(tape, e, m), said_of(tape, e, v)
            for root, power in ((f"√({variance} + ε)", 0.5), (variance, 1.0)):
                said = f"computed from {mean} and {variance}, (x − {mean}) / {root},"
                yield said, partial(_standardised, m, v, one, power)


def _standardised(
    mean: Slot, variance: Slot, shape: list[int], power: float, v: Values
) -> tuple[np.ndarray, np.ndarray]:
    """1/σ and x̂ for another mean and variance; ε is that of the normalisation."""
    m, spread = (np.reshape(_at(slot, v), shape) for slot in (mean, variance))
    r = (spread + (_epsilon(v) if power < 1 else 0.0)) ** -power
    return r, (_at(v.norm.x, v) - m) * r


def _normal_of(standardised: partial, v: Values) -> np.ndarray:
    return standardised(v)[1] / v.r


def _with_other_statistics(standardised: partial, constant: bool, v: Values) -> np.ndarray:
    """The gradient with another 1/σ and x̂; perhaps without its means."""
    r, normal = standardised(v)
    return r * v.m if constant else r * (v.m - v.mean(v.m) - normal * v.mean(v.m * normal))


def _epsilon(v: Values) -> float:
    """The number that is added to the variance."""
    for at, i in v.norm.path:
        step = v.tape.steps[at]
        if step.name == "add" and is_constant(v.tape, step.ins[1 - i]):
            return float(np.ravel(v.tape.values[step.ins[1 - i]])[0])
    return 0.0


def _factor(tape: Tape, norm: Norm) -> float:
    """The largest 1/σ."""
    spread = np.abs(np.asarray(tape.values[tape.steps[norm.chain.spread[0]].outs[0]]))
    return float(1 / np.min(spread) if norm.divides else np.max(spread))


def _means_swapped(v: Values) -> np.ndarray:
    normal, n = v.c * v.r, _sizes(v.tape, v.norm)[0]
    means = [d.sum(v.norm.chain.axes, keepdims=True) / n for d in (v.m * normal, v.m)]
    return v.r * (v.m - means[0] - normal * means[1])


def _with_another(value: Version, inside: bool, in_front: bool, v: Values) -> np.ndarray:
    """The gradient with another value for x̂ inside the mean, in front of it, or both."""
    other = value(v)
    return v.r * (v.m - v.mean(v.m)) + v.spread(v.m, other if inside else None, other if in_front else None)


def _at(slot: Slot, v: Values) -> np.ndarray:
    return np.asarray(v.tape.values[slot], np.float64)


def _after(tape: Tape, norm: Norm) -> Slot | None:
    """The value after β is added."""
    users, slot = users_of(tape), norm.end
    while len(users.get(slot, ())) == 1 and tape.steps[users[slot][0][0]].name in LAYOUTS:
        slot = tape.steps[users[slot][0][0]].outs[0]
    steps = (tape.steps[at] for at, _ in users.get(slot, ()))
    return next((step.outs[0] for step in steps if step.name == "add"), None)


def _output(after: Slot, v: Values) -> np.ndarray:
    """The value after β is added, of x's shape."""
    return _brought_back(_in_place_of_the_end(v.tape, v.norm, after), v.norm.layouts)


def _in_place_of_the_end(tape: Tape, norm: Norm, after: Slot) -> np.ndarray:
    """The value after β is added, in the layout of the product that it is added to."""
    made, layouts = made_by(tape), list[Layout]()
    slot = next(s for s in tape.steps[made[after]].ins if s in _following(tape, norm.end))
    while slot != norm.end:
        step = tape.steps[made[slot]]
        slot = step.ins[0]
        layouts.append((tape.shape(slot), step.eqn.params.get("permutation")))
    return _brought_back(np.asarray(tape.values[after], np.float64), layouts[::-1])


def _following(tape: Tape, slot: Slot) -> set[Slot]:
    """A value, and the same in other layouts."""
    found = {slot}
    for step in tape.steps:
        if step.name in LAYOUTS and step.ins[0] in found:
            found.add(step.outs[0])
    return found


def _not_shifted_back(after: Slot, v: Values) -> np.ndarray:
    """The output over the factors, times σ."""
    return _output(after, v) / np.prod(v.gammas, axis=0) / v.r


def _of_deviations(tape: Tape, norm: Norm) -> Iterator[tuple[str, Version]]:
    """ε missing or superfluous in the slope of σ; σ computed by another formula."""
    where = "in a normalisation's gradient, where σ is recomputed"
    rooted = False
    for at, i in norm.path:
        step = tape.steps[at]
        rooted = rooted or step.name in ("sqrt", "rsqrt", "pow")
        if step.name != "add" or not is_constant(tape, step.ins[1 - i]):
            continue
        v, v_eps = step.ins[i], step.outs[0]
        if rooted:
            yield (
                "the derivative of the standard deviation σ is divided by σ + ε, where σ alone belongs (ε is "
                "added outside the root)",
                partial(_sloped, v, v_eps, 1.0),
            )
            said = f"ε is added inside the root, √(v + ε) for √v + ε, {where}"
            yield said, partial(_with_r, v, v_eps, lambda s, eps: (s**2 + eps) ** -0.5)
            continue
        yield (
            "ε is missing in the derivative of the standard deviation √(v + ε): it is that of √v",
            partial(_sloped, v_eps, v, 1.5),
        )
        yield f"ε is missing {where}", partial(_with_r, v, v_eps, lambda v, eps: v**-0.5)
        said = f"ε is added outside the root, √v + ε for √(v + ε), {where}"
        yield said, partial(_with_r, v, v_eps, lambda v, eps: 1 / (v**0.5 + eps))
        n, count = _sizes(tape, norm)
        for other in (n - 1, n) if norm.is_centred and count in (n - 1, n) else ():
            if other not in (count, 0):
                names = {n - 1: f"n − 1 = {n - 1}", n: f"n = {n}"}
                said = f"{names[other]} for {names[int(count)]} in the variance, {where}"
                yield said, partial(_with_r, v, v_eps, partial(_of_count, count / other))


def _sizes(tape: Tape, norm: Norm) -> tuple[int, float]:
    shape = tape.shape(norm.x)
    return int(np.prod([shape[a] for a in norm.chain.axes])), _count(tape, norm)


def _kept(v: Values, slot: Slot) -> np.ndarray:
    """A value between the sum of squares and σ, of a shape that can be broadcast to x's."""
    shape, axes = v.tape.shape(v.norm.x), v.norm.chain.axes
    return np.reshape(v.tape.values[slot], [1 if axis in axes else n for axis, n in enumerate(shape)])


def _sloped(over: Slot, under: Slot, power: float, v: Values) -> np.ndarray:
    """The gradient with a power of a quotient as a factor of the derivative of σ."""
    factor = (_kept(v, over) / _kept(v, under)) ** power
    return v.r * (v.m - v.mean(v.m)) + factor * v.spread(v.m)


def _with_r(before: Slot, after: Slot, formula: Callable, v: Values) -> np.ndarray:
    """The textbook's gradient with another 1/σ."""
    r = formula(_kept(v, before), _kept(v, after) - _kept(v, before))
    normal, n = v.c * r, _sizes(v.tape, v.norm)[0]
    mean = (v.m * normal).sum(v.norm.chain.axes, keepdims=True) / n
    return r * (v.m - v.mean(v.m) - normal * mean)


def _of_count(factor: float, v: np.ndarray, eps: np.ndarray) -> np.ndarray:
    return (factor * v + eps) ** -0.5


# --- where the normalisations are -------------------------------------------------------------------------


def norms_of(tape: Tape) -> list[Norm]:
    """The normalisations of a function whose gradient is that of the formula."""
    if "norms" not in tape.kept:
        found: dict[Any, Norm] = {}
        for chain in chains_of(tape):
            for norm in _starting(tape, chain):
                if len(found) < NORMS_UP_TO and _is_right(tape, norm):
                    found.setdefault((norm.x, norm.end), norm)
        tape.kept["norms"] = list(found.values())
    return tape.kept["norms"]


def _is_right(tape: Tape, norm: Norm) -> bool:
    known = tape.kept["known"]
    if norm.end not in known or any(edge not in known for edge in norm.entries):
        return False
    v = _values(tape, norm, known[norm.end][0])
    want = sum(known[edge][0] for edge in norm.entries)
    got = v.whole(v.m)
    return bool(np.shape(want) == got.shape and np.allclose(got, want, 1e-7, 1e-9 * np.max(np.abs(want))))


def _starting(tape: Tape, chain: Chain) -> Iterator[Norm]:
    made, users = made_by(tape), users_of(tape)
    squared = tape.steps[made.get(tape.steps[chain.total[0]].ins[0], 0)]
    power = squared.eqn.params.get("y", 2) if squared.eqn is not None else 0
    path = _path(tape, chain)
    if squared.name not in SQUARES or power != 2 or len(set(squared.ins)) != 1 or path is None:
        return
    centred = x = squared.ins[0]
    less = tape.steps[made[x]] if x in made else None
    if less is not None and less.name == "sub" and _is_mean(tape, less.ins, chain.axes):
        x = less.ins[0]
    elif any(tape.steps[at].name == "sub" for at, _ in path):  # the mean of squares less that of x, squared
        subtracted = (s for s in tape.steps if s.name == "sub" and s.ins[0] == x)
        centred = next((s.outs[0] for s in subtracted if _is_mean(tape, s.ins, chain.axes)), x)
    spread = tape.steps[chain.spread[0]].outs[0]
    of_x = _computed_from(tape, x)
    for first in users[spread]:
        found = _along(tape, first, centred, of_x)
        if found is not None:
            end, divides, factors, layouts = found
            inside = _leading_to(tape, end)
            entries = [edge for edge in users[x] if edge[0] in inside]
            if entries:
                yield Norm(x, centred, end, chain, path, divides, factors, layouts, entries, x != centred)


def _is_mean(tape: Tape, ins: tuple[Slot, ...], axes: tuple[int, ...]) -> bool:
    x, mean = (np.asarray(tape.values[slot]) for slot in ins)
    return bool(np.allclose(mean, x.mean(axes, keepdims=True), 1e-9, 1e-12 * np.max(np.abs(x), initial=0.0)))


def _path(tape: Tape, chain: Chain) -> list[Edge] | None:
    """The operands that lead from a sum to its broadcast."""
    users = users_of(tape)
    start, goal = tape.steps[chain.total[0]].outs[0], chain.spread
    came: dict[Slot, Edge | None] = {start: None}
    near = [start]
    for slot in near:
        for edge in users.get(slot, ()):
            step = tape.steps[edge[0]]
            if edge == goal:
                path: list[Edge] = []
                while (before := came[slot]) is not None:
                    path.append(before)
                    slot = tape.steps[before[0]].ins[before[1]]
                return path[::-1]
            usable = step.name in ELEMENTWISE or step.name in PASSED_ON
            if (
                usable
                and step.outs[0] not in came
                and np.size(tape.values[step.outs[0]]) == np.size(tape.values[start])
            ):
                came[step.outs[0]] = edge
                near.append(step.outs[0])
    return None


def _computed_from(tape: Tape, slot: Slot) -> set[Slot]:
    found = {slot}
    for step in tape.steps:
        if not found.isdisjoint(step.ins):
            found.update(tape.active & set(step.outs))
    return found


def _leading_to(tape: Tape, slot: Slot) -> set[int]:
    """The steps from which a value is computed."""
    made, found, near = made_by(tape), set[int](), [slot]
    while near:
        at = made.get(near.pop())
        if at is not None and at not in found:
            found.add(at)
            near.extend(tape.steps[at].ins)
    return found


def _along(
    tape: Tape, edge: Edge, centred: Slot, of_x: set[Slot]
) -> tuple[Slot, bool, list[tuple[Slot, int, bool]], list[Layout]] | None:
    """The products from σ on: the last one, whether σ divides, the factors, and the layouts between them."""
    users = users_of(tape)
    factors: list[tuple[Slot, int, bool]] = []
    layouts: list[Layout] = []
    end: Slot | None = None
    before_end, divides, first = 0, False, True
    while True:
        step = tape.steps[edge[0]]
        slot, out = step.ins[edge[1]], step.outs[0]
        below = step.name == "div" and edge[1] == 1
        if step.name in ("mul", "div") and len(set(step.ins)) == 2 and (first or not below):
            other = step.ins[1 - edge[1]]
            peeled = _peeled(tape, other, centred, of_x) if end is None and other in of_x else None
            if other in of_x and peeled is None:
                break
            if peeled is None and below:  # 1/σ after the broadcast
                break
            divides = divides or below
            if peeled is None:
                factors.append((other, len(layouts), step.name == "div"))
            else:
                factors += [(factor, 0, over) for factor, over in peeled]
            if peeled is not None or end is not None:
                end, before_end = out, len(layouts)
        elif step.name in LAYOUTS and end is not None:
            layouts.append((tape.shape(slot), (step.eqn.params.get("permutation"))))
        elif step.name not in ("convert_element_type", "copy", "copy_p"):
            break
        first = False
        if len(users.get(out, ())) != 1:
            break
        (edge,) = users[out]
    if end is None or len(factors) > FACTORS_UP_TO:
        return None
    return end, divides, factors, layouts[:before_end]


def _peeled(tape: Tape, slot: Slot, centred: Slot, of_x: set[Slot]) -> list[tuple[Slot, bool]] | None:
    """The factors of a product besides x − μ, and whether they divide."""
    made, factors = made_by(tape), list[tuple[Slot, bool]]()
    wanted = np.asarray(tape.values[centred])
    while slot != centred:
        value = np.asarray(tape.values[slot])
        if value.shape == wanted.shape and np.allclose(value, wanted, 1e-9, 1e-12):
            return factors
        step = tape.steps[made[slot]] if slot in made else None
        if step is None or step.name not in ("mul", "div") or len(set(step.ins) & of_x) != 1:
            return None
        i = next(i for i, s in enumerate(step.ins) if s in of_x)
        if step.name == "div" and i == 1:
            return None
        factors.append((step.ins[1 - i], step.name == "div"))
        slot = step.ins[i]
    return factors
