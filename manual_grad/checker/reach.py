"""How every value of a recorded function acts on the gradient: what a change of its cotangent would change.

The gradient is linear in each value's cotangent. One forward pass over the tape gives the matrices for all
values at once, so that thousands of possible mistakes can be compared with an error by multiplication.
"""

from collections.abc import Sequence

import numpy as np

from manual_grad.checker.tape import ELEMENTWISE, Slot, Step, Tape, broadcast_axes, handed, product_labels
from manual_grad.checker.truth import is_float

DENSE_UP_TO = 2**20  # entries of one step's Jacobian
TOGETHER_UP_TO = 2**24  # numbers of one value's matrix


def reach(tape: Tape, columns: np.ndarray) -> dict[Slot, np.ndarray]:
    """The derivatives of values with respect to some entries of the leaves.

    Args:
        tape: the recorded function.
        columns: the indices of the entries among those of all leaves, one leaf after the other.
    Returns:
        For each active value, an array of its shape and an axis for the columns; values for which it would be
        too large, or that depend on one of them, are left out.
    """
    found: dict[Slot, np.ndarray] = {}
    start = 0
    for slot in tape.leaves:
        size = int(np.prod(tape.shape(slot)))
        block = np.zeros((size, len(columns)))
        mine = (columns >= start) & (columns < start + size)
        block[columns[mine] - start, np.flatnonzero(mine)] = 1
        found[slot] = block.reshape(*tape.shape(slot), len(columns))
        start += size
    for at, step in enumerate(tape.steps):
        ins = [i for i, slot in enumerate(step.ins) if slot in tape.active]
        outs = [out for out in step.outs if out in tape.active]
        if not outs or any(step.ins[i] not in found for i in ins):
            continue
        if sum(int(np.prod(tape.shape(out))) for out in outs) * len(columns) <= TOGETHER_UP_TO:
            found.update(_through(tape, at, {i: found[step.ins[i]] for i in ins}))
    return found


def _through(tape: Tape, at: int, ins: dict[int, np.ndarray]) -> dict[Slot, np.ndarray]:
    """The derivatives of a step's results."""
    step, count = tape.steps[at], next(iter(ins.values())).shape[-1]
    out = step.outs[0]
    shape = tape.shape(out)
    if step.name in ELEMENTWISE:
        slopes = {i: tape.slope((at, i)) for i in ins}
        return {out: np.asarray(sum(np.asarray(s)[..., None] * ins[i] for i, s in slopes.items()))}
    if step.name in ("reshape", "squeeze", "expand_dims"):
        return {out: ins[0].reshape(*shape, count)}
    if step.name == "transpose":
        return {out: ins[0].transpose(*step.eqn.params["permutation"], len(shape))}
    if step.name == "reduce_sum":
        return {out: ins[0].sum(tuple(step.eqn.params["axes"]))}
    if step.name in ("broadcast", "broadcast_in_dim"):
        new = broadcast_axes(tape, step)
        kept = [1 if axis in new else n for axis, n in enumerate(shape)]
        return {out: np.broadcast_to(ins[0].reshape(*kept, count), (*shape, count))}
    if step.name == "dot_general":
        return {out: np.asarray(sum(_product(tape, step, i, t) for i, t in ins.items()))}
    return _dense(tape, at, ins)


def _product(tape: Tape, step: Step, i: int, t: np.ndarray) -> np.ndarray:
    other = np.asarray(tape.values[step.ins[1 - i]])
    of_x, of_y, out = product_labels(step.eqn.params, *(len(tape.shape(slot)) for slot in step.ins))
    mine, theirs = (of_y, of_x) if i else (of_x, of_y)
    extra = len(of_x) + len(of_y)
    return np.einsum(t, [*mine, extra], other, theirs, [*out, extra], optimize=True)


def _dense(tape: Tape, at: int, ins: dict[int, np.ndarray]) -> dict[Slot, np.ndarray]:
    """The same by the rows of the step's Jacobian."""
    step, found = tape.steps[at], dict[Slot, np.ndarray]()
    floats = [out for out in step.outs if is_float(tape.values[out])]
    for out in floats:
        size = int(np.prod(tape.shape(out)))
        if out not in tape.active or size * max(t[..., 0].size for t in ins.values()) > DENSE_UP_TO:
            continue
        basis = np.eye(size).reshape(size, *tape.shape(out))
        rows = handed(tape, at, [basis if o == out else None for o in step.outs], size)
        parts = [rows[i].reshape(size, -1) @ t.reshape(-1, t.shape[-1]) for i, t in ins.items()]
        found[out] = np.asarray(sum(parts)).reshape(*tape.shape(out), -1)
    return found


def sampled(sizes: Sequence[int], wrong: Sequence[bool], budget: int) -> np.ndarray:
    """Entries of the leaves to look at: more of the wrong ones than of the right ones."""
    rng, start, found = np.random.default_rng(0), 0, []
    for size, is_wrong in zip(sizes, wrong, strict=True):
        share = budget * (3 if is_wrong else 1) // (3 * sum(wrong) + len(wrong) - sum(wrong))
        count = min(size, max(share, 1))
        found.append(start + np.sort(rng.permutation(size)[:count]))
        start += size
    return np.concatenate(found) if found else np.zeros(0, np.intp)
