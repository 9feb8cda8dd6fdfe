"""Mistakes in undifferentiated values: another step's mask, an index off by one, stride instead of dilation.

A constant is an array that does not depend on any argument, such as a mask, labels or indices. The backward
pass reads it again, or recomputes values that depend on it; a different one in its place is a wrong index.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from manual_grad.checker.evidence import Evidence, sizes_named
from manual_grad.checker.mistakes.mistake import Mistake, made_by, mask_said, said_of
from manual_grad.checker.tape import ELEMENTWISE, Changes, Edge, Passing, Slot, Tape, computed, pulling
from manual_grad.checker.truth import is_float, is_key

Alteration = Callable[[np.ndarray], np.ndarray]
CONSTANTS_UP_TO = 12
ENTRIES_UP_TO = 2**16
INDEXED = ("gather", "dynamic_slice", "scatter-add", "scatter_add", "dynamic_update_slice")


def constants_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A mask, labels or indices that are shifted, reversed, transposed or another step's going backwards."""
    found = _constants(tape)
    for slot, edges in found[:CONSTANTS_UP_TO]:
        name = _said(tape, e, slot, edges)
        for said, alter in _alterations(tape, slot, edges, sizes_named(e)):
            back: Changes = {edge: partial(with_altered, slot, said, alter) for edge in edges}
            phrase = said.format(name)
            yield Mistake(f"{phrase}, in the backward pass", back)
            yield Mistake(f"{phrase}, where values are recomputed and in the backward pass", {},
                          instead={slot: partial(_altered_value, slot, alter)})  # fmt: skip
    for (slot, edges), (other, _) in itertools.permutations(found[:CONSTANTS_UP_TO], 2):
        x, y = (np.asarray(tape.values[s]) for s in (slot, other))
        if x.shape == y.shape and x.dtype == y.dtype and not np.array_equal(x, y):
            names = said_of(tape, e, other), said_of(tape, e, slot)
            said = f"{names[0]} is used for {names[1]}"
            if names[0] == names[1]:
                said = f"another {names[1].removeprefix('a ')}, such as another step's, is used for this one"
            changes = {
                edge: partial(with_altered, slot, said, partial(_another, tape, other)) for edge in edges
            }
            yield Mistake(f"{said} in the backward pass", changes)


def constants_unmasked(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A constant, such as one-hot labels, without the mask that it is multiplied by: padded steps count."""
    found = 0
    for step in tape.steps:
        masks = [i for i, s in enumerate(step.ins) if step.name == "mul" and _is_mask(tape.values[s])]
        slot = step.outs[0]
        if not masks or slot in tape.active or found == CONSTANTS_UP_TO or np.size(tape.values[slot]) < 2:
            continue
        found += 1
        for i in masks:
            other = np.broadcast_to(np.asarray(tape.values[step.ins[1 - i]]), tape.shape(slot))
            reached = reached_from(tape, slot)
            edges = [edge for edge in tape.edges() if reached & set(tape.steps[edge[0]].ins)]
            name, mask = said_of(tape, e, step.ins[1 - i]), mask_said(tape, e, step.ins[i])
            said = f"{mask} of {name} is left out"
            change = partial(with_altered, slot, f"{said} {slot}", partial(_instead, other))
            for some in [edges, *([edge] for edge in edges if len(edges) > 1)] if edges else []:
                yield Mistake(
                    f"{said} in the backward pass (such as padded steps that count: lengths are ignored)",
                    dict.fromkeys(some, change),
                )


def _is_mask(x: Any) -> bool:
    if is_key(x) or np.size(x) < 2:
        return False
    values = np.asarray(x)
    return bool(np.all((values == 0) | (values == 1)) and np.any(values == 0) and np.any(values == 1))


def _instead(other: np.ndarray, x: np.ndarray) -> np.ndarray:
    return other


def _constants(tape: Tape) -> list[tuple[Slot, list[Edge]]]:
    """The arrays that depend on no argument, and the steps that read them or values computed from them."""
    if "constants" not in tape.kept:
        made = made_by(tape)
        found: list[tuple[Slot, list[Edge]]] = []
        direct = {slot for at, _ in tape.edges() for slot in tape.steps[at].ins} - tape.active
        for slot, value in enumerate(tape.values):
            if slot in tape.active or (slot in made and slot not in direct) or is_key(value):
                continue
            x = np.asarray(value)
            if 1 < x.size <= ENTRIES_UP_TO and np.any(x != x.flat[0]):
                reached = reached_from(tape, slot)
                edges = [edge for edge in tape.edges() if reached & set(tape.steps[edge[0]].ins)]
                if edges and not any(
                    set(edges) == set(other) and x.shape == tape.shape(s) for s, other in found
                ):
                    found.append((slot, edges))
        tape.kept["constants"] = found
    return tape.kept["constants"]


def reached_from(tape: Tape, slot: Slot) -> set[Slot]:
    """A constant, and the constants computed from it."""
    reached = {slot}
    for step in tape.steps:
        if not reached.isdisjoint(step.ins) and tape.active.isdisjoint(step.outs):
            reached.update(step.outs)
    return reached


def _said(tape: Tape, e: Evidence, slot: Slot, edges: list[Edge]) -> str:
    name = said_of(tape, e, slot)
    if name.startswith(("a constant", "a mask", "the result")):
        names = {tape.steps[at].name for at, _ in edges}
        indices = np.asarray(tape.values[slot]).dtype.kind in "iu" and names & set(INDEXED)
        return "the indices" if indices else "a mask" if "select_n" in names else name
    return name


def _alterations(
    tape: Tape, slot: Slot, edges: list[Edge], sizes: dict[int, str]
) -> Iterator[tuple[str, Alteration]]:
    """Phrases, with a placeholder for the name, and altered arrays, except those that change nothing."""
    x = np.asarray(tape.values[slot])
    kernels = [tape.steps[at] for at, _ in edges if tape.steps[at].name == "conv_general_dilated"]
    slid = {
        axis
        for step in kernels
        if step.ins[1] == slot
        for axis in step.eqn.params["dimension_numbers"].rhs_spec[2:]  # a kernel's, which are reversed
    }
    indices = itertools.chain(_along_axes(x, slid), _of_indices(x) if x.dtype.kind in "iu" else ())
    for kind, found in (("index", indices), ("count", _of_counts(x, sizes) if is_float(x) else ())):
        for said, alter in found:
            if not np.array_equal(alter(x), x):
                yield f"a wrong {kind}: {said}", alter


def _along_axes(x: np.ndarray, but: set[int]) -> Iterator[tuple[str, Alteration]]:
    for axis, n in enumerate(x.shape):
        if n < 2 or axis in but:
            continue
        every = f"along axis {axis} is used for every one"
        yield f"the first {{}} {every} (step, row or sample)", partial(_one_for_all, axis, 0)
        yield f"the last {{}} {every} (step, row or sample)", partial(_one_for_all, axis, -1)
        if n == 2:
            yield f"{{}} is reversed along axis {axis}", partial(np.flip, axis=axis)
            continue
        following = partial(np.roll, shift=-1, axis=axis)
        yield f"the next {{}} along axis {axis} is used for each", following
        yield (
            f"the previous {{}} along axis {axis} is used for each",
            partial(np.roll, shift=1, axis=axis),
        )
        yield f"{{}} is reversed along axis {axis}", partial(np.flip, axis=axis)
        for by, which in ((1, "next"), (-1, "previous")):
            said = f"the {which} {{}} along axis {axis} is used for each"
            yield f"{said}, and the own one at the end", partial(_beside, axis, by, 1)
            yield f"{said}, and 0 at the end", partial(_beside, axis, by, 0)
    for a, b in itertools.pairwise(range(x.ndim)):
        if x.shape[a] == x.shape[b] > 1:
            yield (
                f"{{}} with rows and columns swapped (j for i, axes {a} and {b})",
                partial(np.swapaxes, axis1=a, axis2=b),
            )


def _beside(axis: int, by: int, end: int, x: np.ndarray) -> np.ndarray:
    index = np.arange(x.shape[axis]) + by
    other = np.take(x, np.clip(index, 0, x.shape[axis] - 1), axis)
    inside = (index >= 0) & (index < x.shape[axis])
    shape = [1] * x.ndim
    shape[axis] = -1
    return np.asarray(np.where((inside | bool(end)).reshape(shape), other, 0), x.dtype)


def _of_indices(x: np.ndarray) -> Iterator[tuple[str, Alteration]]:
    """Indices off by one, or with the steps along two axes swapped, as when stride and dilation are."""
    for by in (1, -1):
        yield f"{{}} are off by one ({by:+d})", partial(_plus, by)
    steps = [_step_along(x, axis) for axis in range(x.ndim)]
    for a, b in itertools.combinations(range(x.ndim), 2):
        if steps[a] and steps[b] and steps[a] != steps[b]:
            said = f"the steps of {{}} along the axes {a} and {b} are swapped (stride and dilation)"
            yield said, partial(_stepping, {a: steps[b] - steps[a], b: steps[a] - steps[b]})
    for axis, step in enumerate(steps):
        if abs(step) > 1:
            said = f"the step of {{}} along axis {axis} is taken to be 1 (stride or dilation ignored)"
            yield said, partial(_stepping, {axis: 1 - step})


def _of_counts(x: np.ndarray, sizes: dict[int, str]) -> Iterator[tuple[str, Alteration]]:
    """One whole number for several, such as a window's size for the number of entries inside the image."""
    if np.all(x > 0) and np.array_equal(x, np.round(x)):
        size = sizes.get(int(x.max()), "")
        or_size = f" (or the size {x.max():g}, {size})" if size else ""
        yield f"the largest entry of {{}}, {x.max():g}{or_size}, is used for every one", partial(
            _all_of, np.max)  # fmt: skip
        smallest = f"the smallest entry of {{}}, {x.min():g}, is used for every one"
        left_out = "{} is left out, as if each were 1"
        yield left_out if x.min() == 1 else smallest, partial(_all_of, np.min)
        yield f"the mean of {{}}, {x.mean():g}, is used for every one", partial(_all_of, np.mean)
        yield f"the sum of {{}}, {x.sum():g}, is used for every one", partial(_all_of, np.sum)


def _all_of(pick: Callable, x: np.ndarray) -> np.ndarray:
    return np.full_like(x, pick(x))


def _plus(by: int, x: np.ndarray) -> np.ndarray:
    return np.clip(x + by, x.min(), x.max())


def _step_along(x: np.ndarray, axis: int) -> int:
    """The constant difference of indices along an axis; 0 if it is not constant."""
    steps = np.unique(np.diff(x, axis=axis))
    return int(steps[0]) if len(steps) == 1 else 0


def _stepping(by: dict[int, int], x: np.ndarray) -> np.ndarray:
    for axis, step in by.items():
        shape = [1] * x.ndim
        shape[axis] = x.shape[axis]
        x = x + step * np.arange(x.shape[axis]).reshape(shape)
    return x


def _one_for_all(axis: int, at: int, x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.take(x, [at], axis), x.shape)


def _another(tape: Tape, other: Slot, x: np.ndarray) -> np.ndarray:
    return np.asarray(tape.values[other])


def _altered_value(slot: Slot, alter: Alteration, tape: Tape) -> Any:
    x = np.asarray(tape.values[slot])
    return np.asarray(alter(x), x.dtype) if is_float(x) else jnp.asarray(alter(x), x.dtype)


def _altered(tape: Tape, slot: Slot, said: str, alter: Alteration) -> dict[Slot, Any]:
    """The altered constant, and the constants computed from it."""
    key = ("altered", slot, said)
    if key not in tape.kept:
        values: dict[Slot, Any] = {slot: _altered_value(slot, alter, tape)}
        for step in tape.steps:
            if not values.keys().isdisjoint(step.ins) and tape.active.isdisjoint(step.outs):
                ins = [values.get(s, tape.values[s]) for s in step.ins]
                outs = computed(step.eqn, ins) if step.eqn is not None else [
                    np.broadcast_to(ins[0], tape.shape(step.outs[0]))]  # fmt: skip
                values.update(zip(step.outs, outs, strict=True))
        tape.kept[key] = values
    return tape.kept[key]


def with_altered(slot: Slot, said: str, alter: Alteration, p: Passing) -> np.ndarray:
    """The cotangent passed on by a step if the constants that it reads are altered."""
    step, i = p.tape.steps[p.edge[0]], p.edge[1]
    values = _altered(p.tape, slot, said, alter)
    ins = [values.get(s, p.tape.values[s]) for s in step.ins]
    written = ELEMENTWISE.get(step.name)
    if written is not None:
        return p.cotangent * written([np.asarray(x) for x in ins], np.asarray(p.result), step, i)

    return np.asarray(pulling(step, ins, [i])(np.asarray(p.cotangent))[0])
