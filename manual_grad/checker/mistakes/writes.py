"""Indexed writes with repeated indices, and products of many factors: which writes and factors count.

Of several writes to one place, ``set`` keeps the last one, ``max`` the largest, and ``multiply`` all.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import (
    PASSED_ON,
    Mistake,
    back_with,
    is_constant,
    left_out,
    made_by,
    said_of,
    users_of,
)
from manual_grad.checker.tape import Change, Passing, Slot, Step, Tape

SET, LARGEST, MULTIPLIED = ("scatter",), ("scatter-max", "scatter-min"), ("scatter-mul", "scatter_mul")


def writes_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Each of repeated writes gets the gradient of its place; other factors of a product are missing."""
    for at, step in enumerate(tape.steps):
        if step.outs[0] in tape.active and step.name in SET + LARGEST:
            yield from _of_writes(tape, e, at)
        if step.outs[0] in tape.active and step.name == "reduce_prod":
            yield from _of_products(tape, e, at)
    yield from _of_factors_before_others(tape, e)
    for chain in _chains(tape):
        yield from _of_chains(tape, e, chain)


def places(tape: Tape, step: Step) -> np.ndarray:
    """The place of every entry that is written, in the flattened result; −1 if it is outside."""
    key = ("places", step.outs[0])
    if key not in tape.kept:
        updates = jnp.asarray(np.zeros(tape.shape(step.ins[2])))
        params = step.eqn.params

        def written(x: jax.Array) -> jax.Array:
            return lax.scatter_add(
                jnp.zeros(tape.shape(step.outs[0]), x.dtype), jnp.asarray(tape.values[step.ins[1]]), x,
                params["dimension_numbers"], mode=params["mode"],
            )  # fmt: skip

        out, back = jax.vjp(written, updates)
        numbers = jnp.arange(1, out.size + 1, dtype=out.dtype).reshape(out.shape)
        tape.kept[key] = np.asarray(back(numbers)[0]).astype(int) - 1
    return tape.kept[key]


def _at(where: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The entries of an array at some places; 0 outside."""
    return np.where(where < 0, 0.0, np.ravel(x)[where])


def _of_writes(tape: Tape, e: Evidence, at: int) -> Iterator[Mistake]:
    step = tape.steps[at]
    where = places(tape, step)
    x, v = said_of(tape, e, step.ins[0]), said_of(tape, e, step.ins[2])
    repeated = np.unique(where).size < where.size
    counts = "only the last one counts" if step.name in SET else f"only the {step.name[8:]}imum counts"
    if step.ins[2] in tape.active and (repeated or step.name in LARGEST):
        every = f"every write to a place gets its gradient, where {counts}"
        yield Mistake(f"{every} (repeated indices), in the gradient of {v}", {(at, 2): _to_all})
        yield Mistake(
            f"the first of several writes to a place gets its gradient, where {counts}, in that of {v}",
            {(at, 2): _to_first},
        )
    if step.ins[2] in tape.active and step.name in LARGEST and not is_constant(tape, step.ins[0]):
        yield Mistake(
            f"each write is compared with {x} alone, not with the other writes to its place (repeated "
            f"indices), in the gradient of {v}",
            {(at, 2): _compared},
        )
    if step.ins[0] in tape.active:
        lost = "are overwritten" if step.name in SET else "are not chosen"
        yield Mistake(
            f"missing mask: entries of {x} that {lost} still get a gradient", {(at, 0): lambda p: p.cotangent}
        )


def _where(p: Passing) -> np.ndarray:
    return places(p.tape, p.tape.steps[p.edge[0]])


def _to_all(p: Passing) -> np.ndarray:
    return _at(_where(p), p.cotangent)


def _to_first(p: Passing) -> np.ndarray:
    where = _where(p)
    first = np.zeros(where.size, bool)
    first[np.unique(where, return_index=True)[1]] = True
    return _at(where, p.cotangent) * first.reshape(where.shape)


def _compared(p: Passing) -> np.ndarray:
    before, written = _at(_where(p), np.asarray(p.operands[0])), np.asarray(p.operands[2])
    chosen = written > before if p.tape.steps[p.edge[0]].name == "scatter-max" else written < before
    return _at(_where(p), p.cotangent) * chosen


# --- products of many factors -------------------------------------------------------------------------------


def _of_products(tape: Tape, e: Evidence, at: int) -> Iterator[Mistake]:
    name = said_of(tape, e, tape.steps[at].ins[0])
    right = "each factor gets the gradient times all other factors"
    for said, others in FACTORS.items():
        phrase = f"{said} in the derivative of a product of many factors ({name}), where {right}"
        yield Mistake(phrase, {(at, 0): partial(_by_others, others)})


def _earlier(x: np.ndarray) -> np.ndarray:
    """For each factor along axis 0, the product of those before it."""
    return np.concatenate([np.ones_like(x[:1]), np.cumprod(x, 0)[:-1]])


FACTORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the other factors are missing": np.ones_like,
    "the factor itself is not left out of the product": lambda x: np.broadcast_to(x.prod(0), x.shape),
    "only the earlier factors count": _earlier,
    "only the later factors count": lambda x: _earlier(x[::-1])[::-1],
    "the factor itself is used for the others": lambda x: x,
}


def _by_others(others: Callable[[np.ndarray], np.ndarray], p: Passing) -> np.ndarray:
    axes = tuple(p.tape.steps[p.edge[0]].eqn.params["axes"])
    x = np.moveaxis(np.asarray(p.operands[0]), axes, range(len(axes)))
    flat = x.reshape(-1, *x.shape[len(axes) :])
    factors = np.moveaxis(others(flat).reshape(x.shape), range(len(axes)), axes)
    return np.expand_dims(p.cotangent, axes) * factors


def _of_factors_before_others(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Only the first or the last factor that is not 1 in place of a product of many factors."""
    made = made_by(tape)
    for at, i in tape.edges():
        step = tape.steps[at]
        slot = step.ins[1 - i] if step.name == "mul" else -1
        while slot in made and tape.steps[made[slot]].name in PASSED_ON:
            slot = tape.steps[made[slot]].ins[0]
        if slot in made and tape.steps[made[slot]].name == "reduce_prod" and np.size(tape.values[slot]) > 1:
            where = f"in the gradient of {said_of(tape, e, step.ins[i])}"
            yield Mistake(f"a product of many factors is missing {where}", {(at, i): left_out})
            for which in ("last", "first"):
                yield Mistake(
                    f"only the {which} factor of a product of many counts (repeated indices), {where}",
                    {(at, i): partial(_by_one, made[slot], which)},
                )


def _by_one(product: int, which: str, p: Passing) -> np.ndarray:
    step = p.tape.steps[product]
    axes = tuple(step.eqn.params["axes"])
    x = np.moveaxis(np.asarray(p.tape.values[step.ins[0]]), axes, range(len(axes)))
    flat = x.reshape(-1, *x.shape[len(axes) :])
    flat = flat if which == "first" else flat[::-1]
    one = np.take_along_axis(flat, np.argmax(flat != 1, axis=0)[None], 0)[0]
    return back_with(p, one.reshape(np.shape(p.right)))


# --- one write after the other ------------------------------------------------------------------------------


def _chains(tape: Tape) -> Iterator[list[int]]:
    """Multiplications of single places that follow each other."""
    made, users = made_by(tape), users_of(tape)
    for at, step in enumerate(tape.steps):
        before = made.get(step.ins[0]) if step.name in MULTIPLIED else None
        if step.name not in MULTIPLIED or (before is not None and tape.steps[before].name in MULTIPLIED):
            continue
        chain = [at]
        while len(after := users.get(tape.steps[chain[-1]].outs[0], [])) == 1:
            if tape.steps[after[0][0]].name not in MULTIPLIED or after[0][1]:
                break
            chain.append(after[0][0])
        if len(chain) > 1:
            yield chain


def _of_chains(tape: Tape, e: Evidence, chain: Sequence[int]) -> Iterator[Mistake]:
    first, last = (tape.steps[chain[k]] for k in (0, -1))
    x, v = said_of(tape, e, first.ins[0]), said_of(tape, e, first.ins[2])
    ends = first.ins[0], last.outs[0]
    if first.ins[2] in tape.active:
        change: Change = partial(_without_others, *ends)
        yield Mistake(
            "the other factors of repeated indices are missing in the derivative of multiply, in the "
            f"gradient of {v}: it gets the gradient times {x} alone",
            {(at, 2): change for at in chain},
        )
    if first.ins[0] in tape.active:
        said = f"factor of repeated indices counts in the derivative of multiply, in the gradient of {x}"
        yield Mistake(f"only the last {said}", {(chain[0], 0): partial(_with_last, chain)})
        yield Mistake(f"only the first {said}", {(chain[0], 0): partial(_with_last, chain[::-1])})
        yield Mistake(
            f"the factors are missing in the derivative of multiply, in the gradient of {x}",
            {(chain[0], 0): lambda p: p.tape.kept["known"][ends[1]][0]},
        )


def _without_others(start: Slot, end: Slot, p: Passing) -> np.ndarray:
    where = _where(p)
    return _at(where, p.tape.kept["known"][end][0]) * _at(where, np.asarray(p.tape.values[start]))


def _with_last(chain: Sequence[int], p: Passing) -> np.ndarray:
    factors = np.ones(np.size(p.right))
    for at in chain:
        step = p.tape.steps[at]
        factors[places(p.tape, step).ravel()] = np.ravel(p.tape.values[step.ins[2]])
    end = p.tape.steps[max(chain)].outs[0]
    return p.tape.kept["known"][end][0] * factors.reshape(p.right.shape)
