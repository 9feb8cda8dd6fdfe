"""What a factor means that is wrong: a size, a number that the function computes, or one for another."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from manual_grad.checker.evidence import Evidence, factor_of, first_near, named_scales, sizes_named
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
from manual_grad.checker.mistakes.replaced import scaled_by
from manual_grad.checker.nearby import batch
from manual_grad.checker.tape import Slot, Tape, pulled_back, without_dead_maxima, write_down
from manual_grad.checker.truth import is_float, is_key

NO_SIZE = "which is not a size of the problem"
RECOGNISED = 1e-2  # from here on, a factor other than a size of the problem is distinguished from rounding


def tape_of(e: Evidence) -> Tape | None:
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


def path_said(mistake: Mistake, e: Evidence, factor: float, level: int) -> str:
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
    if said and abs(factor - 2) <= 10 * e.tolerance:  # more common than 1/N of one path alone
        said = "counted twice (scaled by 2)"
    return f"{said}; only what flows back through {mistake.phrase}" if said else ""


def _size_said(e: Evidence, factor: float) -> str:
    """The phrase for a factor that is a size, or a number of the function that is missing."""
    own = scalar_said(e, factor, sizes=(1,)) if abs(factor) < 1 else ""
    if own.endswith("is missing"):
        return own
    return (named_scales(e, factor, partial(constant_said, e, factor)) or [""])[0]


def scale_said(mistake: Mistake, e: Evidence, factor: float) -> str:
    """The phrase for a mistake together with a factor; "" if the factor is 0, 1 or has no meaning."""
    if abs(factor) <= 10 * e.tolerance or abs(factor - 1) <= 10 * e.tolerance:
        return ""
    said = "sign flipped" if abs(factor + 1) <= 10 * e.tolerance else ""
    if not said and (instead := _size_in_its_place(mistake.phrase, e, factor)):
        return instead
    said = said or _factor_said(e, factor)
    return f"{mistake.phrase}, and {said}" if said and NO_SIZE not in said else ""


# What is left out or applied twice, and what a size is then used for: n times, or 1/n times.
IN_ITS_PLACE = (
    (r"the division by (.+?) is missing", "multiplied by {0} instead of divided by {1}",
     "divided by {0} instead of {1}"),
    (r"the factor (.+?) is missing", "multiplied by {0} instead of {1}",
     "divided by {0} instead of multiplied by {1}"),
    (r"divided once too often by ([^,]+)", "divided by {1} instead of {0}", ""),
    (r"the factor (.+?) is applied once too often", "", "multiplied by {1} instead of {0}"),
)  # fmt: skip


def _size_in_its_place(phrase: str, e: Evidence, factor: float) -> str:
    """The phrase for a size in the place of a factor or a divisor, or the other way round; otherwise ""."""
    tape = e.kept["tape"]
    inside = {
        n: f"axis {axis} of {said_of(tape, e, slot)}"
        for slot in sorted(tape.active, reverse=True)
        for axis, n in enumerate(tape.shape(slot))
    }
    near = [
        (n, f"{n} ({what})", abs(factor) > 1)
        for n, what in (inside | sizes_named(e)).items()
        if n > 1 and any(abs(abs(factor) / value - 1) <= 4 * e.tolerance for value in (n, 1 / n))
    ]
    for n, size, larger in near[:1]:
        for pattern, times, over in IN_ITS_PLACE:
            found, form = re.match(pattern, phrase), times if larger else over
            left_out = pattern.endswith("missing")
            if found and form and (left_out or _multiplies_by(e, n if not larger else 1 / n)):
                sign = "sign flipped and " if factor < 0 else ""
                return f"{sign}{form.format(size, found[1])}{phrase[found.end() :]}"
    return ""


def _multiplies_by(e: Evidence, number: float) -> bool:
    """Whether the function multiplies by a number, or divides by its reciprocal."""
    tape = e.kept["tape"]
    numbers = [(float(np.ravel(tape.values[s])[0]), tape.steps[edge[0]].name) for edge, s in scaled_by(tape)]
    return any(abs((1 / v if name == "div" else v) / number - 1) <= 1e-6 for v, name in numbers)


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
    tape = tape_of(e)
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
    tape = tape_of(e)
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
    tape = tape_of(e)
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
    tape = tape_of(e)
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
    tape = tape_of(e)
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
