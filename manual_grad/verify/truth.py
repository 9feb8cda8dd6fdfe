"""What JAX says of a function at a point, in float64, and what it would say of it with a mistake planted.

A planted mistake is a change to one step of the function's jaxpr: its value stays, its derivative becomes
what a person who overlooks something would write. So the wrong gradient of any function can be computed, and
compared with the one that is judged.
"""

import importlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Plant = Mapping[int, Callable[[list, list, dict], list]]  # step of a jaxpr → what stands in its place

STEPS = 40  # of a jaxpr; beyond, a missing path is not looked for
WRAPPERS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "remat",
    "remat2",
}
ELEMENTWISE = {
    "tanh", "logistic", "sin", "cos", "exp", "exp2", "log", "log1p", "expm1", "sqrt", "rsqrt", "erf", "abs",
    "max", "min", "select_n",
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A function at one point of its domain.

    Attributes:
        fn: the plain forward function.
        tree: the structure of its positional arguments.
        values: the leaves of the arguments, floating-point ones in float64.
        names: a name for each leaf.
        wrt: which leaves it is differentiated by.
        dout: the cotangent of each floating-point leaf of the output.
    """

    fn: Callable[..., Any]
    tree: Any
    values: tuple[Any, ...]
    names: tuple[str, ...]
    wrt: tuple[int, ...]
    dout: tuple[Any, ...]

    @property
    def at(self) -> list[Any]:
        """The leaves it is differentiated by."""
        return [self.values[i] for i in self.wrt]

    def forward(self, *leaves: Any) -> list[Any]:
        """The floating-point leaves of the output, as a function of ``at``."""
        values = list(self.values)
        for i, leaf in zip(self.wrt, leaves, strict=True):
            values[i] = leaf
        return float_leaves(self.fn(*jax.tree.unflatten(self.tree, values)))


def exact() -> AbstractContextManager:
    """float64 inside a ``with`` block, and the caller's setting again after it."""
    home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    return home.enable_x64(True)


def is_float(leaf: Any) -> bool:
    """Whether a leaf is a floating-point array or number.

    >>> [is_float(leaf) for leaf in (1.0, np.float32(1), np.arange(2), 3, "SAME", None)]
    [True, True, False, False, False, False]
    """
    dtype = np.result_type(leaf) if isinstance(leaf, float) else getattr(leaf, "dtype", None)
    return dtype is not None and dtype != np.dtype(object) and bool(jnp.issubdtype(dtype, jnp.floating))


def float_leaves(tree: Any) -> list[Any]:
    """The floating-point leaves of a pytree."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_float(leaf)]


def to_float64(leaf: Any) -> Any:
    """A floating-point leaf in float64, another array as JAX's, anything else as it is."""
    if is_float(leaf):
        return jnp.asarray(np.asarray(leaf).astype(np.float64))
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf


def pulled(point: Point, dout: Sequence[Any] | None = None) -> list[np.ndarray]:
    """The cotangent of each leaf of ``point.at``, by ``jax.vjp``."""
    return _pull(point.forward, point, point.dout if dout is None else dout)


def _pull(fn: Callable, point: Point, dout: Sequence[Any]) -> list[np.ndarray]:
    out, pull = jax.vjp(fn, *point.at)
    cotangents = pull([jnp.asarray(d, o.dtype) for d, o in zip(dout, out, strict=True)])
    return [np.asarray(c, np.float64) for c in cotangents]


def at_values(point: Point, values: Sequence[Any]) -> Point:
    """The same question at other values."""
    return replace(point, values=tuple(values))


def planted(point: Point) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Each mistake that can be planted in the function: what it is, and the gradients it leads to."""
    closed = jax.make_jaxpr(point.forward)(*point.at)
    record: list[tuple[Any, list, list]] = []
    _run(closed.jaxpr, closed.consts, point.at, {}, record, itertools.count(), {})
    for phrase, plant in _plants(record):

        def fn(*leaves: Any, plant: Plant = plant) -> list:
            return _run(closed.jaxpr, closed.consts, leaves, plant, [], itertools.count(), {})

        try:
            yield phrase, _pull(fn, point, point.dout)
        except (TypeError, ValueError):  # a mistake that does not fit these shapes
            continue


def _run(
    jaxpr: Any, consts: Any, args: Any, plant: Plant, record: list, counter: Iterator[int], seen: dict
) -> list:
    """Evaluate a jaxpr, calls inlined, with ``plant`` applied; every step goes to ``record``."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        ins = [v.val if hasattr(v, "val") else env[v] for v in eqn.invars]
        inner = _inner(eqn)
        if inner is not None:
            outs = _run(inner.jaxpr, inner.consts, ins, plant, record, counter, seen)
        else:
            outs = _bind(eqn, ins)
            step = next(counter)
            record.append((eqn, ins, outs))
            seen[step] = (eqn, ins)
            if step in plant:
                outs = plant[step](ins, outs, seen)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [v.val if hasattr(v, "val") else env[v] for v in jaxpr.outvars]


def _inner(eqn: Any) -> Any:
    """The jaxpr that an equation merely calls, closed; None where it computes something itself."""
    if eqn.primitive.name not in WRAPPERS:
        return None
    inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr")
    return inner if hasattr(inner, "consts") else None


def _bind(eqn: Any, ins: Sequence[Any]) -> list:
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # differs between versions of JAX
    outs = eqn.primitive.bind(*functions, *ins, **params)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def _plants(record: list) -> Iterator[tuple[str, Plant]]:
    """Every mistake that this sequence of steps offers, the telling ones first."""
    yield from _softmax_diagonals(record)
    yield from _derivatives_left_out(record)
    yield from _slopes_mistaken(record)
    yield from _masks_of_another_layer(record)
    yield from _exponents_left_out(record)
    yield from _kernels_not_rotated(record)
    yield from _matrices_not_transposed(record)
    yield from _paths_missing(record)


def _softmax_diagonals(record: list) -> Iterator[tuple[str, Plant]]:
    phrase = "softmax without its off-diagonal terms"
    for step, (eqn, ins, outs) in enumerate(record):
        name = eqn.primitive.name
        if name not in ("div", "sub") or not is_float(outs[0]):
            continue
        for at, (other, exp_ins, exp_outs) in enumerate(record[:step] if name == "div" else record):
            mine = exp_outs[0] if name == "div" else exp_ins[0]
            if other.primitive.name == "exp" and mine is ins[0] and np.shape(mine) == np.shape(outs[0]):
                yield phrase, {step: partial(_by_own_score, at if name == "div" else None)}
                break


def _by_own_score(exp: int | None, ins: list, outs: list, seen: dict) -> list:
    """Softmax (whose numerator is made at the step ``exp``) or its logarithm, without off-diagonal terms."""
    return _diagonal(ins[0], outs[0], None) if exp is None else _diagonal(seen[exp][1][0], outs[0], outs[0])


def _diagonal(z: Any, out: Any, probs: Any) -> list:
    """``out`` with the slope p(1 − p) of softmax, or 1 − p of its logarithm, by its own score alone."""
    p = jnp.exp(out) if probs is None else probs
    slope = lax.stop_gradient((1 - p) if probs is None else p * (1 - p))
    return [lax.stop_gradient(out) + slope * (z - lax.stop_gradient(z))]


def _derivatives_left_out(record: list) -> Iterator[tuple[str, Plant]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for step, (eqn, ins, outs) in enumerate(record):
        name = eqn.primitive.name
        which = _through(name, ins, outs) if is_float(outs[0]) else None
        if which is not None:
            found.setdefault(name, []).append((step, which))
    for name, steps in found.items():
        masks = name in ("max", "min", "select_n", "mul")
        phrase = (
            f"missing mask (of {_said(name)})" if masks else f"the derivative of {_said(name)} is left out"
        )

        plants: Plant = {step: partial(_straight, which) for step, which in steps}
        yield phrase, plants
        if len(steps) > 1:
            yield from ((f"{phrase} in one place", {step: plants[step]}) for step, _ in steps[:6])


def _slopes_mistaken(record: list) -> Iterator[tuple[str, Plant]]:
    """The derivative of an activation at its output instead of its input, or half of it."""
    for name in ("tanh", "logistic"):
        steps = [step for step, (eqn, _, _) in enumerate(record) if eqn.primitive.name == name]
        if steps:
            at_output = {step: partial(_slope_at_output, record[step][0]) for step in steps}
            yield f"the derivative of {_said(name)} is taken at its output instead of its input", at_output
            formula = "1 − a for 1 − a²" if name == "tanh" else "a for a(1 − a)"
            half = dict.fromkeys(steps, partial(_half_a_slope, name))
            yield f"the derivative of {_said(name)} is wrong: {formula}", half


def _slope_at_output(eqn: Any, ins: list, outs: list, seen: dict) -> list:
    moved = _bind(eqn, [lax.stop_gradient(outs[0]) + ins[0] - lax.stop_gradient(ins[0])])[0]
    return [lax.stop_gradient(outs[0]) + moved - lax.stop_gradient(moved)]


def _half_a_slope(name: str, ins: list, outs: list, seen: dict) -> list:
    a = lax.stop_gradient(outs[0])
    slope = 1 - a if name == "tanh" else a
    return [a + slope * (ins[0] - lax.stop_gradient(ins[0]))]


def _masks_of_another_layer(record: list) -> Iterator[tuple[str, Plant]]:
    steps = [step for step, (eqn, _, _) in enumerate(record) if eqn.primitive.name == "max"]
    for first, step in itertools.combinations(steps[:6], 2):
        which, other = (_through("max", *record[s][1:]) for s in (step, first))
        if None in (which, other) or np.shape(record[first][2][0]) != np.shape(record[step][2][0]):
            continue

        def wrong(ins: list, outs: list, seen: dict, which: Any = which, at: tuple = (first, other)) -> list:
            mask = lax.stop_gradient(seen[at[0]][1][at[1]]) > 0
            return [lax.stop_gradient(outs[0]) + mask * (ins[which] - lax.stop_gradient(ins[which]))]

        yield "mask taken from the wrong layer", {step: wrong}


def _exponents_left_out(record: list) -> Iterator[tuple[str, Plant]]:
    for step, (eqn, _, _) in enumerate(record):
        n = {"square": 2, "integer_pow": eqn.params.get("y")}.get(eqn.primitive.name)
        if n not in (None, 0, 1):
            yield f"the factor {n} from a power's derivative is missing", {step: partial(_less, 1 / n)}


def _less(factor: float, ins: list, outs: list, seen: dict) -> list:
    """The value of a step, and a part of its slope."""
    return [lax.stop_gradient((1 - factor) * outs[0]) + factor * outs[0]]


def _straight(which: int, ins: list, outs: list, seen: dict) -> list:
    """The value of a step, and the slope 1 by one of its inputs."""
    return [lax.stop_gradient(outs[0]) + ins[which] - lax.stop_gradient(ins[which])]


def _through(name: str, ins: list, outs: list) -> int | None:
    """Which input an elementwise step acts on; None where the step is of another kind."""
    if name == "mul":
        masks = [bool(jnp.all((x == 0) | (x == 1))) for x in ins]
        return masks.index(False) if sum(masks) == 1 else None
    alike = [i for i, x in enumerate(ins) if is_float(x) and np.shape(x) == np.shape(outs[0])]
    if name not in ELEMENTWISE or not alike:
        return None
    return alike[-1] if name == "select_n" else alike[0]


def _said(name: str) -> str:
    names = {
        "max": "ReLU",
        "select_n": "where",
        "mul": "zeros and ones",
        "logistic": "sigmoid",
        "integer_pow": "a power",
        "pow": "a power",
    }
    return names.get(name, name)


def _kernels_not_rotated(record: list) -> Iterator[tuple[str, Plant]]:
    for step, (eqn, _, _) in enumerate(record):
        if eqn.primitive.name == "conv_general_dilated":
            axes = tuple(eqn.params["dimension_numbers"].rhs_spec[2:])

            def wrong(ins: list, outs: list, seen: dict, eqn: Any = eqn, axes: tuple = axes) -> list:
                x, kernel = ins
                dx, dkernel = x - lax.stop_gradient(x), kernel - lax.stop_gradient(kernel)
                flipped = lax.stop_gradient(jnp.flip(kernel, axes))
                return [
                    lax.stop_gradient(outs[0])
                    + _bind(eqn, [dx, flipped])[0]
                    + _bind(eqn, [lax.stop_gradient(x), dkernel])[0]
                ]

            yield "rotated or flipped kernel (not rotated on the way back)", {step: wrong}


def _matrices_not_transposed(record: list) -> Iterator[tuple[str, Plant]]:
    phrase = "transposed: a square matrix stands for its transpose"
    found = [
        (step, partial(_not_transposed, eqn, side))
        for step, (eqn, ins, _) in enumerate(record)
        for side in (0, 1)
        if eqn.primitive.name == "dot_general"
        and len(np.shape(ins[side])) == 2
        and len(set(np.shape(ins[side]))) == 1 < np.shape(ins[side])[0]
    ]
    yield from ((phrase, {step: wrong}) for step, wrong in found[:8])
    if len(found) > 1:
        yield phrase, dict(found)


def _not_transposed(eqn: Any, side: int, ins: list, outs: list, seen: dict) -> list:
    stopped = [lax.stop_gradient(x) for x in ins]
    by_matrix, by_other = list(stopped), list(stopped)
    by_matrix[side] = ins[side] - stopped[side]
    by_other[1 - side] = ins[1 - side] - stopped[1 - side]
    by_other[side] = stopped[side].T
    return [lax.stop_gradient(outs[0]) + _bind(eqn, by_matrix)[0] + _bind(eqn, by_other)[0]]


def _paths_missing(record: list) -> Iterator[tuple[str, Plant]]:
    if len(record) > STEPS:
        return
    for step, (eqn, _, outs) in enumerate(record):
        if is_float(outs[0]):
            phrase = f"a path is missing: nothing flows back through {eqn.primitive.name}"
            yield phrase, {step: _stopped}
    sums = [s for s, (eqn, _, o) in enumerate(record) if eqn.primitive.name == "reduce_sum" and np.ndim(o[0])]
    if len(sums) > 1:
        yield "a path is missing: nothing flows back through the sums", dict.fromkeys(sums, _stopped)


def _stopped(ins: list, outs: list, seen: dict) -> list:
    return [lax.stop_gradient(out) for out in outs]
