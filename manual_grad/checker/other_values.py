"""Many sets of other values in one tape: forwards and backwards through all of them at once.

A mistake may concern what the backward pass computes again, such as the probabilities with another mask. Then
all that depends on it has other values. Here each value that differs is an array with one row per mistake.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from manual_grad.checker.tape import (
    COMPILED,
    ELEMENTWISE,
    FORWARD,
    LINEAR,
    MOVING,
    PLACING,
    ROWS_TOGETHER,
    Edge,
    Slot,
    Step,
    Tape,
    bind,
    handed,
    product_back,
    product_labels,
    pulling,
    to_the_largest,
)
from manual_grad.checker.truth import is_float
from manual_grad.compiling import quickly
from manual_grad_reference.oracles.in_numpy import step_in_numpy

Values = Mapping[Slot, np.ndarray]
LEADING = 51  # the label of the rows' axis in ``np.einsum``, the last of its letters


@dataclass(frozen=True, eq=False)
class Rows:
    """A tape with several sets of other values.

    Attributes:
        tape: the tape as it was.
        count: the number of rows.
        values: the values that differ, with a leading axis for the rows.
        slopes: the slopes of the steps whose result is replaced last, for a row: those of its own result.
        kept: computed once.
    """

    tape: Tape
    count: int
    values: dict[Slot, np.ndarray]
    own: dict[tuple[int, Edge], np.ndarray] = field(default_factory=dict)
    kept: dict = field(default_factory=dict)

    def of(self, slot: Slot, ndim: int | None = None) -> Any:
        """The value in a slot, with rows if it differs between them; without, it has none."""
        if slot not in self.values:
            return self.tape.values[slot]
        value = self.values[slot]
        missing = 0 if ndim is None else ndim + 1 - value.ndim
        return value.reshape(len(value), *(1,) * missing, *value.shape[1:]) if missing > 0 else value

    def differs(self, slots: Sequence[Slot]) -> bool:
        """Whether one of the slots has rows."""
        return any(slot in self.values for slot in slots)

    def one(self, row: int) -> Tape:
        """The tape with the values of one row."""
        if row not in self.kept:
            values = list(self.tape.values)
            for slot, value in self.values.items():
                values[slot] = value[row]
            kept: dict = {"before": self.tape}
            kept |= {edge: slope for (of, edge), slope in self.own.items() if of == row}
            tape = self.tape
            self.kept[row] = Tape(tape.steps, values, tape.leaves, tape.results, tape.active, kept)
        return self.kept[row]

    def slope(self, edge: Edge) -> Any:
        """The derivative of an elementwise step with respect to one operand."""
        if edge not in self.kept:
            self.kept[edge] = self._slope(edge)
        return self.kept[edge]

    def _slope(self, edge: Edge) -> Any:
        step = self.tape.steps[edge[0]]
        if not self.differs((*step.ins, *step.outs)):
            return self.tape.slope(edge)
        slope = _slope(self, edge)
        mine = {row: own for (row, of), own in self.own.items() if of == edge}
        if mine:
            slope = np.broadcast_to(slope, (self.count, *self.tape.shape(step.outs[0]))).copy()
            for row, own in mine.items():
                slope[row] = own
        return slope


def settled(tape: Tape, values: Values) -> Values:
    """The same without the values that are computed again because of one that is replaced after them."""
    slots = list(values)
    return {
        slot: values[slot]
        for k, slot in enumerate(slots)
        if not any(later < slot and slot in _moved_by(tape, later) for later in slots[k + 1 :])
    }


def _moved_by(tape: Tape, slot: Slot) -> set[Slot]:
    """All that is computed from a value."""
    if ("moved by", slot) not in tape.kept:
        moved = {slot}
        for step in tape.steps:
            if not moved.isdisjoint(step.ins):
                moved.update(step.outs)
        tape.kept["moved by", slot] = moved
    return tape.kept["moved by", slot]


def reworked_together(tape: Tape, sets: Sequence[Values]) -> Rows:
    """The tape with other values in some slots and in all that depends on them, for several sets of values.

    No value of a set is computed again because of one that follows it: see :func:`settled`. The slopes of the
    last one's own step are kept.
    """
    rows = Rows(tape, len(sets), {})
    replaced = {slot for values in sets for slot in values}
    for slot in replaced - {out for step in tape.steps for out in step.outs}:
        _replace(rows, sets, slot)
    for at, step in enumerate(tape.steps):
        if rows.differs(step.ins):
            rows.values.update(zip(step.outs, _forward(rows, step), strict=True))
        for out in replaced.intersection(step.outs):
            last = [row for row, values in enumerate(sets) if out == next(reversed(values))]
            for i in range(len(step.ins)) if step.name in ELEMENTWISE and last else ():
                slope = np.broadcast_to(_slope(rows, (at, i)), (rows.count, *tape.shape(out)))
                rows.own.update({(row, (at, i)): slope[row] for row in last})
            _replace(rows, sets, out)
    return rows


def _replace(rows: Rows, sets: Sequence[Values], slot: Slot) -> None:
    value = np.array(np.broadcast_to(rows.of(slot), (rows.count, *rows.tape.shape(slot))))
    for row, values in enumerate(sets):
        if slot in values:
            value[row] = values[slot]
    rows.values[slot] = value


# --- forwards ---------------------------------------------------------------------------------------------

ALIKE = {*ELEMENTWISE, "lt", "gt", "le", "ge", "eq", "ne", "and", "or", "xor", "not", "is_finite",
         "stop_gradient"}  # fmt: skip


def _forward(rows: Rows, step: Step) -> list[Any]:
    """The results of a step, with rows."""
    shape = rows.tape.shape(step.outs[0])
    if step.eqn is None or step.name == "broadcast_in_dim":
        return [np.broadcast_to(_placed(rows, step, len(shape)), (rows.count, *shape))]
    if step.name in ALIKE:
        found = _elementwise(step, [rows.of(slot, len(shape)) for slot in step.ins])
    elif step.name in SHAPED:
        found = [SHAPED[step.name](step.eqn.params, rows.of(step.ins[0]))]
    elif step.name in ("reshape", "squeeze", "expand_dims"):
        found = [rows.of(step.ins[0]).reshape(rows.count, *shape)]
    elif step.name == "dot_general":
        found = [_product(rows, step)]
    else:
        found = None
    return _by_vmap(rows, step) if found is None else found


def _elementwise(step: Step, ins: Sequence[Any]) -> list[Any] | None:
    forward = FORWARD.get(step.name)
    if forward is not None and all(map(is_float, ins)) and is_float(step.eqn.outvars[0].aval):
        with np.errstate(all="ignore"):
            return [np.asarray(forward(step.eqn.params, *ins), np.float64)]
    return step_in_numpy(step.eqn, list(ins))


def _placed(rows: Rows, step: Step, ndim: int) -> Any:
    if step.eqn is None:
        return rows.of(step.ins[0], ndim)
    x, shape = rows.of(step.ins[0]), [1] * ndim
    for axis, n in zip(step.eqn.params["broadcast_dimensions"], x.shape[1:], strict=True):
        shape[axis] = n
    return x.reshape(rows.count, *shape)


def _axes(params: Any) -> tuple[int, ...]:
    return tuple(int(axis) + 1 for axis in params["axes"])


def _cut(params: Any, x: np.ndarray) -> np.ndarray:
    starts, stops = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(starts)
    return x[(slice(None), *map(slice, starts, stops, steps))]


SHAPED: dict[str, Callable[..., Any]] = {
    "reduce_sum": lambda params, x: x.sum(_axes(params)),
    "reduce_max": lambda params, x: x.max(_axes(params)),
    "reduce_min": lambda params, x: x.min(_axes(params)),
    "transpose": lambda params, x: x.transpose(0, *(int(axis) + 1 for axis in params["permutation"])),
    "slice": _cut,
}


def _product(rows: Rows, step: Step) -> np.ndarray:
    x, y = (rows.of(slot) for slot in step.ins)
    of_x, of_y, out = product_labels(step.eqn.params, *(len(rows.tape.shape(slot)) for slot in step.ins))
    of_x, of_y = (
        [LEADING] * (slot in rows.values) + labels
        for slot, labels in zip(step.ins, (of_x, of_y), strict=True)
    )
    return np.einsum(x, of_x, y, of_y, [LEADING, *out], optimize=True)


def _whole(rows: Rows) -> int:
    return next((n for n in ROWS_TOGETHER if n >= rows.count), rows.count)  # few sizes, as each is traced


def _padded(x: Any, count: int) -> Any:
    """An array with more rows, all like the first."""
    return np.concatenate([x, np.broadcast_to(x[:1], (count - len(x), *x.shape[1:]))])


def _operands(rows: Rows, step: Step) -> tuple[list[Any], tuple[int | None, ...]]:
    axes = tuple(0 if slot in rows.values else None for slot in step.ins)
    return [
        rows.of(slot) if axis is None else _padded(rows.of(slot), _whole(rows))
        for slot, axis in zip(step.ins, axes, strict=True)
    ], axes


def _by_vmap(rows: Rows, step: Step) -> list[Any]:
    ins, axes = _operands(rows, step)
    shapes = tuple((np.shape(x), str(jax.numpy.result_type(x))) for x in ins)
    key = ("forward", step.name, step.settings, shapes, axes)
    if key not in COMPILED:
        eqn = step.eqn
        COMPILED[key] = quickly(jax.vmap(lambda *xs: bind(eqn, xs), axes))
    return [np.asarray(out)[: rows.count] for out in COMPILED[key](*ins)]


# --- backwards --------------------------------------------------------------------------------------------


def handed_by_rows(rows: Rows, at: int, cotangents: Sequence[Any]) -> dict[int, np.ndarray]:
    """The cotangents that a step passes to its active operands, computed with the values of each row."""
    step, tape = rows.tape.steps[at], rows.tape
    wanted = [i for i, slot in enumerate(step.ins) if slot in tape.active]
    if not rows.differs((*step.ins, *step.outs)):
        return handed(tape, at, cotangents, rows.count)
    if step.name == "dot_general" and cotangents[0] is not None:
        return {i: _by_factor(rows, step, i, cotangents[0]) for i in wanted}
    if step.name in ("reduce_max", "reduce_min"):
        return {i: _to_the_largest(rows, step, cotangents[0]) for i in wanted}
    if step.name in ELEMENTWISE:
        return {i: cotangents[0] * rows.slope((at, i)) for i in wanted}
    moved = rows.differs(step.ins[1:]) if step.name in MOVING else rows.differs(_indices(tape, step))
    if step.name in LINEAR or (step.name in (*MOVING, *PLACING) and not moved):
        return handed(tape, at, cotangents, rows.count)
    return dict(zip(wanted, _pulled_by_vmap(rows, step, wanted, cotangents), strict=True))


def _indices(tape: Tape, step: Step) -> list[Slot]:
    return [slot for slot in step.ins if not is_float(tape.values[slot])]


def _by_factor(rows: Rows, step: Step, i: int, d: np.ndarray) -> np.ndarray:
    other = step.ins[1 - i]
    return product_back(step, i, d, np.asarray(rows.of(other)), rows=other in rows.values)


def _to_the_largest(rows: Rows, step: Step, d: np.ndarray) -> np.ndarray:
    axes = _axes(step.eqn.params)
    x, out = (
        np.broadcast_to(rows.of(slot), (rows.count, *rows.tape.shape(slot)))
        for slot in (step.ins[0], step.outs[0])
    )
    return to_the_largest(x, out, axes, d)


def _slope(rows: Rows, edge: Edge) -> Any:
    step, i = rows.tape.steps[edge[0]], edge[1]
    ndim = len(rows.tape.shape(step.outs[0]))
    written = ELEMENTWISE[step.name]
    if written is not None:
        values = [np.asarray(rows.of(slot, ndim)) for slot in step.ins]
        with np.errstate(all="ignore"):
            return np.asarray(written(values, np.asarray(rows.of(step.outs[0])), step, i), np.float64)
    if not rows.differs(step.ins):
        return rows.tape.slope(edge)
    return _pulled_by_vmap(rows, step, [i], [np.ones((rows.count, *rows.tape.shape(step.outs[0])))])[0]


def _pulled_by_vmap(rows: Rows, step: Step, wanted: Sequence[int], cotangents: Sequence[Any]) -> list[Any]:
    ins, axes = _operands(rows, step)
    filled = [
        _padded(np.zeros((rows.count, *rows.tape.shape(out))) if d is None else d, _whole(rows))
        for out, d in zip(step.outs, cotangents, strict=True)
        if is_float(rows.tape.values[out])
    ]
    return [np.asarray(d)[: rows.count] for d in pulling(step, ins, wanted, axes)(*filled)]
