"""Record a function step by step at one point, and run its backward pass with some steps changed.

JAX traces the function; calls are inlined, loops of known length are unrolled, and broadcasts become steps of
their own. The backward pass runs in NumPy for many sets of changes at once: a change replaces the cotangent
that one step passes to one of its operands. This gives the wrong gradient that a mistake in that step would
cause, to be compared with the checked one.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr

from manual_grad.checker.truth import Point, is_float
from manual_grad.compiling import quickly
from manual_grad_reference.oracles.in_numpy import step_in_numpy

SCOPE = "source|"  # of the name of JAX's scope for a step that is translated: where it comes from follows
LONGEST = 3000  # steps; longer functions are not recorded
WRAPPERS = {
    "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "remat2",
    "checkpoint", "custom_vjp_call_jaxpr",
}  # fmt: skip
Slot = int
Edge = tuple[int, int]  # a step, and the index of its operand; -1: the cotangent of its result


@dataclass(frozen=True)
class Source:
    """The expression in the user's source that a step belongs to: its file, function and position."""

    file: str
    function: str
    span: tuple[int, int, int, int]  # first line and column, last line and column


@dataclass(frozen=True, eq=False)
class Step:
    """One step: a primitive, the slots of its operands and results, JAX's equation, and its source."""

    name: str
    ins: tuple[Slot, ...]
    outs: tuple[Slot, ...]
    eqn: Any = None
    source: Source | None = None

    @functools.cached_property
    def settings(self) -> str:
        """JAX's parameters as text, which tells identical steps."""
        return str(self.eqn.params)


@dataclass(frozen=True, eq=False)
class Tape:
    """A function at a point.

    Attributes:
        steps: the steps in order of evaluation.
        values: the value in each slot.
        leaves: the slots of the leaves to differentiate with respect to.
        results: the slots of the outputs.
        active: the slots that depend on the leaves.
        kept: results computed only once, such as slopes and groups of identical steps.
    """

    steps: list[Step]
    values: list[Any]
    leaves: list[Slot]
    results: list[Slot]
    active: set[Slot]
    kept: dict = field(default_factory=dict)

    def shape(self, slot: Slot) -> tuple[int, ...]:
        """The shape of the value in a slot."""
        return np.shape(self.values[slot])

    def slope(self, edge: Edge) -> np.ndarray | None:
        """The derivative of an elementwise step with respect to one operand; None for any other step."""
        if edge not in self.kept:
            self.kept[edge] = _slope(self, *edge)
        return self.kept[edge]

    def edges(self) -> Iterator[Edge]:
        """Every operand of every step that takes part in the backward pass."""
        for at, step in enumerate(self.steps):
            if any(out in self.active for out in step.outs):
                yield from ((at, i) for i, slot in enumerate(step.ins) if slot in self.active)


@dataclass(frozen=True, eq=False)
class Passing:
    """The input of a change: one step of the backward pass.

    Attributes:
        tape: the recorded function.
        edge: the step and the operand.
        cotangent: the cotangent of the step's (first) result.
        right: the cotangent that the step passes to the operand without the change.
        notes: shared by the changes of one mistake.
    """

    tape: Tape
    edge: Edge
    cotangent: np.ndarray
    right: np.ndarray
    notes: dict

    @property
    def operands(self) -> list[Any]:
        """The values of the step's operands."""
        return [self.tape.values[slot] for slot in self.tape.steps[self.edge[0]].ins]

    @property
    def result(self) -> Any:
        """The value of the step's result."""
        return self.tape.values[self.tape.steps[self.edge[0]].outs[0]]


Change = Callable[[Passing], Any]
Changes = Mapping[Edge, Change]


def write_down(point: Point) -> Tape | None:
    """Record a function at a point; None if it is too long."""
    closed = jax.make_jaxpr(point.forward)(*point.at)
    tape = Tape([], [], [], [], set())
    tape.leaves.extend(_slot(tape, leaf, active=True) for leaf in point.at)
    consts = [_slot(tape, const) for const in closed.consts]
    tape.results.extend(_record(tape, closed.jaxpr, consts, tape.leaves))
    return tape if len(tape.steps) <= LONGEST else None


def _slot(tape: Tape, value: Any, active: bool = False) -> Slot:
    tape.values.append(value if isinstance(value, jax.Array) and not is_float(value) else np.asarray(value))
    if active:
        tape.active.add(len(tape.values) - 1)
    return len(tape.values) - 1


def _source(eqn: Any) -> Source | None:
    """The expression that an equation comes from; None if JAX does not say."""
    try:
        from jax._src import source_info_util  # JAX has no public name for it

        scope = str(eqn.source_info.name_stack)
        if SCOPE in scope:
            file, function, *places = scope.rpartition(SCOPE)[2].split("|")
            first, start, last, end = map(int, places)
            return Source(file, function, (first, start, last, end))
        frame: Any = source_info_util.user_frame(eqn.source_info.traceback)
        span = (frame.start_line, frame.start_column, frame.end_line, frame.end_column)
        return Source(frame.file_name, frame.function_name, span)
    except Exception:  # a version of JAX may not have it
        return None


def _record(
    tape: Tape, jaxpr: Any, consts: Sequence[Slot], args: Sequence[Slot], caller: Any = None
) -> list[Slot]:
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(var: Any) -> Slot:
        if not hasattr(var, "val"):
            return env[var]
        key = ("literal", np.shape(var.val), str(np.asarray(var.val).dtype), np.asarray(var.val).tobytes())
        if key not in tape.kept:
            tape.kept[key] = _slot(tape, var.val)
        return tape.kept[key]

    for eqn in jaxpr.eqns:
        if len(tape.steps) > LONGEST:
            break
        ins = [read(v) for v in eqn.invars]
        source = _source(eqn)
        if caller is not None and caller[0] is not None and (source is None or source.function != caller[1]):
            source = caller[0]  # a JAX function: its trace may stem from an earlier call
        inner = _inner(eqn, [tape.values[slot] for slot in ins])
        if inner is not None:
            inner_consts = [_slot(tape, const) for const in inner.consts]
            taken = ins[len(ins) - len(inner.jaxpr.invars) :]
            called = (source, eqn.params.get("name")) if eqn.primitive.name in WRAPPERS else None
            outs = _record(tape, inner.jaxpr, inner_consts, taken, called)
        else:
            outs = _record_step(tape, eqn, ins, source)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) if hasattr(v, "val") or v in env else 0 for v in jaxpr.outvars]


def _record_step(tape: Tape, eqn: Any, ins: list[Slot], source: Source | None) -> list[Slot]:
    name = eqn.primitive.name
    key = (name, str(eqn.params), tuple(ins))
    if key in tape.kept:  # identical to an earlier step
        return tape.kept[key]
    values = computed(eqn, [tape.values[slot] for slot in ins])
    if name in ELEMENTWISE:
        ins = [_expanded(tape, slot, np.shape(values[0])) for slot in ins]
    flows = name not in STOPS and any(slot in tape.active for slot in ins)
    outs = [_slot(tape, value, flows and is_float(value)) for value in values]
    tape.steps.append(Step(name, tuple(ins), tuple(outs), eqn, source))
    tape.kept[key] = outs
    return outs


def _expanded(tape: Tape, slot: Slot, shape: tuple[int, ...]) -> Slot:
    """Broadcast a slot to a shape, in a step of its own."""
    if tape.shape(slot) == shape or not is_float(tape.values[slot]):
        return slot
    key = ("broadcast", shape, slot)
    if key in tape.kept:
        return tape.kept[key]
    out = tape.kept[key] = _slot(tape, np.broadcast_to(tape.values[slot], shape), slot in tape.active)
    tape.steps.append(Step("broadcast", (slot,), (out,)))
    return out


def _inner(eqn: Any, ins: Sequence[Any]) -> Any:
    """The closed jaxpr that an equation merely calls; None if it computes something itself."""
    name = eqn.primitive.name
    if name == "cond":
        branches = eqn.params["branches"]
        return branches[int(np.clip(int(ins[0]), 0, len(branches) - 1))]
    if name == "scan" and eqn.params["length"] * len(eqn.params["jaxpr"].jaxpr.eqns) <= LONGEST:
        return jax.make_jaxpr(lambda *args: unrolled(eqn, args))(*ins)
    if name not in WRAPPERS:
        return None
    inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr")
    if inner is not None and not hasattr(inner, "consts"):
        inner = ClosedJaxpr(inner, ())
    return inner


def unrolled(eqn: Any, args: Sequence[Any]) -> list[Any]:
    """A ``scan`` unrolled into its iterations."""
    params = eqn.params
    body, fixed, carried = params["jaxpr"], params["num_consts"], params["num_carry"]
    consts, carry, xs = args[:fixed], list(args[fixed : fixed + carried]), args[fixed + carried :]
    order = range(params["length"])
    made = []
    for i in reversed(order) if params["reverse"] else order:
        outs = jax.core.eval_jaxpr(
            body.jaxpr, body.consts, *consts, *carry, *(lax.index_in_dim(x, i, keepdims=False) for x in xs)
        )
        carry = outs[:carried]
        made.append(outs[carried:])
    made = made[::-1] if params["reverse"] else made
    return [*carry, *(jnp.stack(ys) for ys in zip(*made, strict=True))]


def computed(eqn: Any, ins: Sequence[Any]) -> list:
    """The results of an equation, in NumPy where that is easy, as it needs no compiling."""
    forward = FORWARD.get(eqn.primitive.name)
    floats = all(isinstance(x, np.ndarray) and is_float(x) for x in ins)
    if forward is None or not floats or not all(is_float(v.aval) for v in eqn.outvars):
        found = step_in_numpy(eqn, list(ins))
        return bind(eqn, ins) if found is None else found
    with np.errstate(all="ignore"):
        return [np.asarray(forward(eqn.params, *ins), np.float64)]


def bind(eqn: Any, ins: Sequence[Any]) -> list:
    """Compute an equation."""
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # differs between versions of JAX
    outs = eqn.primitive.bind(*functions, *ins, **params)
    return list(outs) if eqn.primitive.multiple_results else [outs]


def _transposing(params: Any, x: np.ndarray) -> np.ndarray:
    return x.transpose(params["permutation"])


def _placing(params: Any, x: np.ndarray, *sizes: Any) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for axis, n in zip(params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = n
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _cutting(params: Any, x: np.ndarray) -> np.ndarray:
    start, stop = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(start)
    return x[tuple(slice(a, b, s) for a, b, s in zip(start, stop, strides, strict=True))]


def product_labels(params: Any, x_ndim: int, y_ndim: int) -> tuple[list[int], list[int], list[int]]:
    """The labels for ``np.einsum`` of the axes of the operands and the result of ``dot_general``."""
    (left, right), (left_batch, right_batch) = params["dimension_numbers"]
    label = itertools.count()
    batch, inner = [next(label) for _ in left_batch], [next(label) for _ in left]
    of_x = dict(zip([*left_batch, *left], [*batch, *inner], strict=True))
    of_y = dict(zip([*right_batch, *right], [*batch, *inner], strict=True))
    free_x = [of_x.setdefault(a, next(label)) for a in range(x_ndim) if a not in of_x]
    free_y = [of_y.setdefault(a, next(label)) for a in range(y_ndim) if a not in of_y]
    labels = [of_x[a] for a in range(x_ndim)], [of_y[a] for a in range(y_ndim)]
    return *labels, [*batch, *free_x, *free_y]


def _product(params: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    of_x, of_y, out = product_labels(params, x.ndim, y.ndim)
    return np.einsum(x, of_x, y, of_y, out, optimize=True)


FORWARD: dict[str, Callable[..., Any]] = {
    "add": lambda params, x, y: x + y,
    "add_any": lambda params, x, y: x + y,
    "sub": lambda params, x, y: x - y,
    "mul": lambda params, x, y: x * y,
    "div": lambda params, x, y: x / y,
    "max": lambda params, x, y: np.maximum(x, y),
    "min": lambda params, x, y: np.minimum(x, y),
    "neg": lambda params, x: -x,
    "tanh": lambda params, x: np.tanh(x),
    "logistic": lambda params, x: 1 / (1 + np.exp(-x)),
    "exp": lambda params, x: np.exp(x),
    "log": lambda params, x: np.log(x),
    "log1p": lambda params, x: np.log1p(x),
    "expm1": lambda params, x: np.expm1(x),
    "sqrt": lambda params, x: np.sqrt(x),
    "rsqrt": lambda params, x: 1 / np.sqrt(x),
    "square": lambda params, x: x * x,
    "integer_pow": lambda params, x: x ** float(params["y"]),
    "abs": lambda params, x: np.abs(x),
    "sin": lambda params, x: np.sin(x),
    "cos": lambda params, x: np.cos(x),
    "stop_gradient": lambda params, x: x,
    "convert_element_type": lambda params, x: x,
    "reduce_sum": lambda params, x: x.sum(tuple(params["axes"])),
    "reduce_max": lambda params, x: x.max(tuple(params["axes"])),
    "reduce_min": lambda params, x: x.min(tuple(params["axes"])),
    "squeeze": lambda params, x: x.squeeze(tuple(params["dimensions"])),
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "transpose": _transposing,
    "broadcast_in_dim": _placing,
    "slice": _cutting,
    "concatenate": lambda params, *xs: np.concatenate(xs, params["dimension"]),
    "stack": lambda params, *xs: np.stack(xs, params["axis"]),
    "cumsum": lambda params, x: (
        np.flip(np.flip(x, params["axis"]).cumsum(params["axis"]), params["axis"])
        if params["reverse"]
        else x.cumsum(params["axis"])
    ),
    "dot_general": _product,
}


def reworked(tape: Tape, slot: Slot, value: np.ndarray) -> Tape:
    """The tape with another value in a slot and in all that depends on it; its own step's slopes are kept.

    The tape as it was is kept as ``"before"``.
    """
    values = list(tape.values)
    at = next((at for at, step in enumerate(tape.steps) if slot in step.outs), -1)
    kept: dict = {"before": tape.kept.get("before", tape)}
    kept |= {(at, i): tape.slope((at, i)) for i in range(len(tape.steps[at].ins))} if at >= 0 else {}
    values[slot] = value
    moved = {slot}
    for step in tape.steps[at + 1 :]:
        if moved.isdisjoint(step.ins):
            continue
        ins = [values[slot] for slot in step.ins]
        made = (
            computed(step.eqn, ins)
            if step.eqn is not None
            else [np.broadcast_to(ins[0], tape.shape(step.outs[0]))]
        )
        values[slice(step.outs[0], step.outs[-1] + 1)] = made
        moved.update(step.outs)
    for key, known in tape.kept.items():  # which entries a step passes on, if its indices are the same
        if isinstance(key, tuple) and key[0] in ("picked", "moved"):
            operands = tape.steps[key[1]].ins
            if all(is_float(tape.values[s]) or s not in moved for s in operands):
                kept[key] = known
    return Tape(tape.steps, values, tape.leaves, tape.results, tape.active, kept)


def flowing_through(tape: Tape, stops: Sequence[int]) -> Tape:
    """The tape if some of its ``stop_gradient`` steps let the cotangent pass."""
    steps, let = list(tape.steps), set[Slot]()
    for at, step in enumerate(steps):
        if at in stops:
            steps[at] = replace(step, name="copy")
        if at in stops or (step.name not in STOPS and not let.isdisjoint(step.ins)):
            let.update(out for out in step.outs if is_float(tape.values[out]))
    return Tape(steps, tape.values, tape.leaves, tape.results, tape.active | let)


# Steps that take a maximum, and the operand that it is taken of.
MAXIMA = {
    "reduce_max": 0,
    "reduce_min": 0,
    "scatter-max": 2,
    "scatter-min": 2,
    "scatter_max": 2,
    "scatter_min": 2,
}


def without_dead_maxima(tape: Tape, known: Mapping[Any, np.ndarray]) -> None:
    """Remove the paths through a maximum or a minimum whose cotangents cancel.

    A stable softmax has such a path: its result does not depend on the number that is subtracted, and nobody
    derives that path by hand. ``known`` holds the right cotangents of every slot and operand.
    """
    dead = set()
    for at, step in enumerate(tape.steps):
        if step.name in MAXIMA and step.outs[0] in tape.active:
            got = known.get(step.outs[0])
            of = step.ins[MAXIMA[step.name]]
            into = [known[key] for key in known if isinstance(key, tuple) and _leads_to(tape, key, of)]
            beside = max((float(np.max(np.abs(d), initial=0.0)) for d in into), default=0.0)
            if got is None or np.max(np.abs(got), initial=0.0) <= 1e-9 * beside:
                dead.add(at)
    if not dead:
        return
    alive = set(tape.leaves)
    for at, step in enumerate(tape.steps):
        if at not in dead and any(slot in alive for slot in step.ins):
            alive.update(step.outs)
    tape.active.intersection_update(alive)


def _leads_to(tape: Tape, edge: Edge, slot: Slot) -> bool:
    return tape.steps[edge[0]].ins[edge[1]] == slot


# --- the backward pass ------------------------------------------------------------------------------------


def pulled_back(
    tape: Tape,
    dout: Sequence[Any],
    mistakes: Sequence[Changes],
    known: dict | None = None,
    hand: Callable[[int, Sequence[Any]], dict[int, np.ndarray]] | None = None,
    seen: Callable[[int], Tape] | None = None,
) -> list[np.ndarray]:
    """The gradients with respect to the leaves, one row for each set of changes.

    Args:
        tape: the recorded function.
        dout: the cotangent of each output.
        mistakes: sets of changes; an empty one gives the truth.
        known: if given, filled with the cotangent of every slot.
        hand: computes what a step passes to its operands, if the rows have values of their own.
        seen: the tape with a row's values, if it has its own.
    Returns:
        One array per leaf, of shape (rows, *shape).
    """
    count = len(mistakes)
    gots: dict[Slot, np.ndarray] = {}
    for slot, d in zip(tape.results, dout, strict=True):
        _add(gots, slot, np.broadcast_to(np.asarray(d, np.float64), (count, *np.shape(d))))
    changed: dict[int, list[tuple[int, int, Change]]] = {}
    notes: list[dict] = [{} for _ in mistakes]
    for row, changes in enumerate(mistakes):
        for (at, operand), change in changes.items():
            changed.setdefault(at, []).append((row, operand, change))
    for at in range(len(tape.steps) - 1, -1, -1):
        step = tape.steps[at]
        if not any(out in gots for out in step.outs):
            continue
        cotangents = [gots.get(out) for out in step.outs]
        for row, operand, change in changed.get(at, ()):
            if operand < 0 and cotangents[0] is not None:
                d = cotangents[0] = cotangents[0].copy()
                at_result = d[row].copy()
                of = tape if seen is None else seen(row)
                d[row] = _changed(change, Passing(of, (at, operand), at_result, at_result, notes[row]))
        passed = handed(tape, at, cotangents, count) if hand is None else hand(at, cotangents)
        for row, operand, change in changed.get(at, ()):
            right = passed.get(operand)
            if right is None:
                continue
            if not right.flags.writeable or right is cotangents[0]:
                right = passed[operand] = right.copy()
            d = cotangents[0][row] if cotangents[0] is not None else np.zeros(tape.shape(step.outs[0]))
            of = tape if seen is None else seen(row)
            right[row] = _changed(change, Passing(of, (at, operand), d, right[row].copy(), notes[row]))
        for operand, d in passed.items():
            _add(gots, step.ins[operand], d)
        if known is not None:
            known.update({out: gots[out] for out in step.outs if out in gots})
            known.update({(at, i): d for i, d in passed.items()})
        for out in step.outs:
            if out not in tape.leaves:
                gots.pop(out, None)
    leaves = [gots.get(slot, np.zeros((count, *tape.shape(slot)))) for slot in tape.leaves]
    if known is not None:
        known.update(zip(tape.leaves, leaves, strict=True))
    return leaves


def _changed(change: Change, p: Passing) -> Any:
    try:
        return np.broadcast_to(change(p), p.right.shape)
    except (TypeError, ValueError, LookupError):  # a mistake that does not apply to this step
        return np.nan


def _add(gots: dict[Slot, np.ndarray], slot: Slot, d: np.ndarray) -> None:
    gots[slot] = gots[slot] + d if slot in gots else d


def handed(tape: Tape, at: int, cotangents: Sequence[Any], count: int) -> dict[int, np.ndarray]:
    """The cotangents that a step passes to its active operands, one row for each row of its own.

    A result without a cotangent has None.
    """
    step = tape.steps[at]
    wanted = [i for i, slot in enumerate(step.ins) if slot in tape.active]
    if step.name in LINEAR and cotangents[0] is not None:
        return {i: LINEAR[step.name](tape, step, i, cotangents[0]) for i in wanted}
    if step.name in ELEMENTWISE:
        return {i: cotangents[0] * tape.slope((at, i)) for i in wanted}
    filled = [
        np.zeros((count, *tape.shape(out))) if d is None else d
        for out, d in zip(step.outs, cotangents, strict=True)
        if is_float(tape.values[out])
    ]
    if step.name in MOVING and wanted == [0]:
        return {0: _moved_back(tape, at, filled, count)}
    if ("pull", at) not in tape.kept:
        tape.kept["pull", at] = _transposed(tape, step, wanted)
    pull = tape.kept["pull", at]
    if step.name in PLACING and set(wanted) <= {0, PLACING[step.name]}:
        return dict(zip(wanted, _picked_back(tape, at, filled[0], pull), strict=True))
    if count == 1:
        return {i: np.asarray(d)[None] for i, d in zip(wanted, pull(*(d[0] for d in filled)), strict=True)}
    if ("pull rows", at) not in tape.kept:
        ins = [tape.values[slot] for slot in step.ins]
        tape.kept["pull rows", at] = pulling(step, ins, wanted, (None,) * len(ins))
    whole = next((n for n in ROWS_TOGETHER if n >= count), count)  # few sizes, as each is traced
    filled = [np.concatenate([d, np.zeros((whole - count, *d.shape[1:]))]) for d in filled]
    return {
        i: np.asarray(d)[:count] for i, d in zip(wanted, tape.kept["pull rows", at](*filled), strict=True)
    }


def pull_of(tape: Tape, at: int, cotangents: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """The cotangents of a step's active operands for given cotangents of its results."""
    return {i: d[0] for i, d in handed(tape, at, [c[None] for c in cotangents], 1).items()}


MOVING = ("split", "dynamic_slice", "gather", "rev")  # steps that pass on entries of their first operand


def _moved_back(tape: Tape, at: int, cotangents: Sequence[np.ndarray], count: int) -> np.ndarray:
    """The cotangents of the entries from which the results are taken, for all rows at once."""
    step, key = tape.steps[at], ("moved", at)
    shape = tape.shape(step.ins[0])
    if key not in tape.kept:
        numbers = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
        came = bind(step.eqn, [numbers, *(tape.values[slot] for slot in step.ins[1:])])
        source = np.concatenate([np.asarray(x, np.float64).ravel() for x in came])
        there = np.isfinite(source)  # outside the operand stands NaN
        to = source[there].astype(np.intp)
        tape.kept[key] = there, to, len(np.unique(to)) == len(to)
    there, to, once = tape.kept[key]
    d = np.concatenate([x.reshape(count, -1) for x in cotangents], axis=1)[:, there]
    back = np.zeros((count, int(np.prod(shape))))
    if once:
        back[:, to] = d
    else:
        np.add.at(back.T, to, d.T)
    return back.reshape(count, *shape)


# Steps that pass entries of their cotangent, or 0, to operand 0 and to this one.
PLACING = {"scatter-add": 2, "scatter_add": 2, "pad": 0, "dynamic_update_slice": 1}


def _picked_back(tape: Tape, at: int, d: np.ndarray, pull: Callable[..., Any]) -> list[np.ndarray]:
    """The cotangents of the operands, all rows at once; numbered entries passed back show which go where."""
    key, n = ("picked", at), int(np.prod(d.shape[1:]))
    if key not in tape.kept:
        numbers = np.arange(1.0, n + 1).reshape(d.shape[1:])
        tape.kept[key] = [np.asarray(back).astype(np.intp) for back in pull(numbers)]
    flat = np.concatenate([np.zeros((len(d), 1)), d.reshape(len(d), n)], axis=1)
    return [flat[:, which] for which in tape.kept[key]]


COMPILED: dict[Any, Any] = {}
ROWS_TOGETHER = (8, 64)


def _transposed(tape: Tape, step: Step, wanted: Sequence[int]) -> Callable[..., Any]:
    """A step's backward pass by JAX, compiled once for identical steps."""
    return pulling(step, [tape.values[slot] for slot in step.ins], wanted)


def pulling(
    step: Step, ins: Sequence[Any], wanted: Sequence[int], rows: tuple[int | None, ...] | None = None
) -> Callable[..., Any]:
    """The same at other operands; it takes the results' cotangents and returns those of some operands.

    With ``rows``, the cotangents have an extra leading axis, and so have the operands for which it is 0.
    """
    shapes = tuple((np.shape(x), str(jnp.result_type(x))) for x in ins)
    key = (step.name, step.settings, shapes, tuple(wanted), rows)
    if key not in COMPILED:
        eqn = step.eqn

        def pull(ins: Any, cotangents: Any) -> Any:
            def forward(*floats: Any) -> list:
                values = list(ins)
                for i, x in zip(wanted, floats, strict=True):
                    values[i] = x
                return [out for out in bind(eqn, values) if is_float(out)]

            return jax.vjp(forward, *(ins[i] for i in wanted))[1](list(cotangents))

        COMPILED[key] = quickly(pull if rows is None else jax.vmap(pull, (list(rows), 0)))
    compiled = COMPILED[key]
    return lambda *cotangents: compiled(list(ins), cotangents)


def _slope(tape: Tape, at: int, operand: int) -> np.ndarray | None:
    step = tape.steps[at]
    if step.name not in ELEMENTWISE:
        return None
    values = [np.asarray(tape.values[slot]) for slot in step.ins]
    out = np.asarray(tape.values[step.outs[0]])
    written = ELEMENTWISE[step.name]
    with np.errstate(all="ignore"):
        if written is not None:
            return np.broadcast_to(np.asarray(written(values, out, step, operand), np.float64), out.shape)
        return np.asarray(_transposed(tape, step, [operand])(np.ones(out.shape))[0])


def _chosen(pick: Callable) -> Callable:
    """The slope of ``max`` and ``min``: half if both operands are equal, as in JAX."""

    def slope(x: Any, out: Any, step: Step, i: int) -> Any:
        return pick(x[i], x[1 - i]) + 0.5 * (x[i] == x[1 - i])

    return slope


def _clamped(x: Any, out: Any, step: Step, i: int) -> Any:
    low, value, high = x
    return ((value < low), (value > low) & (value < high), (value > high))[i]


def _case(x: Any, out: Any, step: Step, i: int) -> Any:
    return np.asarray(x[0]).astype(int) == i - 1


ASKED_OF_JAX = [
    "pow", "exp2", "erf", "erfc", "erf_inv", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh",
    "acosh", "atanh", "cbrt", "lgamma", "digamma", "nextafter", "rem", "floor", "ceil", "round",
]  # fmt: skip
# The slope of an elementwise step, from its operands, its result, the step, the operand's index; None: by JAX
ELEMENTWISE: dict[str, Callable[..., Any] | None] = {
    "add": lambda x, out, step, i: 1.0,
    "add_any": lambda x, out, step, i: 1.0,
    "sub": lambda x, out, step, i: 1.0 - 2 * i,
    "neg": lambda x, out, step, i: -1.0,
    "mul": lambda x, out, step, i: x[1 - i],
    "div": lambda x, out, step, i: -out / x[1] if i else 1 / x[1],
    "max": _chosen(np.greater),
    "min": _chosen(np.less),
    "select_n": _case,
    "clamp": _clamped,
    "tanh": lambda x, out, step, i: 1 - out**2,
    "logistic": lambda x, out, step, i: out * (1 - out),
    "exp": lambda x, out, step, i: out,
    "log": lambda x, out, step, i: 1 / x[0],
    "log1p": lambda x, out, step, i: 1 / (1 + x[0]),
    "expm1": lambda x, out, step, i: out + 1,
    "sqrt": lambda x, out, step, i: 0.5 / out,
    "rsqrt": lambda x, out, step, i: -0.5 * out / x[0],
    "square": lambda x, out, step, i: 2 * x[0],
    "integer_pow": lambda x, out, step, i: step.eqn.params["y"] * x[0] ** float(step.eqn.params["y"] - 1),
    "abs": lambda x, out, step, i: np.sign(x[0]),
    "sin": lambda x, out, step, i: np.cos(x[0]),
    "cos": lambda x, out, step, i: -np.sin(x[0]),
    "sign": lambda x, out, step, i: 0.0,
    "convert_element_type": lambda x, out, step, i: 1.0,
    "copy": lambda x, out, step, i: 1.0,
    "copy_p": lambda x, out, step, i: 1.0,
    "reduce_precision": lambda x, out, step, i: 1.0,
} | dict.fromkeys(ASKED_OF_JAX)
STOPS = {"stop_gradient", "sign", "floor", "ceil", "round", "lt", "gt", "le", "ge", "eq", "ne", "is_finite"}
MEANINGLESS = {"add", "add_any", "sub", "neg", "convert_element_type", "copy", "copy_p", "reduce_precision"}


def _unsummed(tape: Tape, step: Step, i: int, d: np.ndarray) -> np.ndarray:
    shape, axes = tape.shape(step.ins[0]), step.eqn.params["axes"]
    kept = [1 if a in axes else n for a, n in enumerate(shape)]
    return np.broadcast_to(d.reshape(len(d), *kept), (len(d), *shape))


def broadcast_axes(tape: Tape, step: Step) -> tuple[int, ...]:
    """The axes of the result along which a broadcast repeats its operand."""
    shape, out = tape.shape(step.ins[0]), tape.shape(step.outs[0])
    if step.name == "broadcast_in_dim":
        kept = step.eqn.params["broadcast_dimensions"]
        real = {axis for axis, n in zip(kept, shape, strict=True) if n == out[axis]}
    else:
        shape = (1,) * (len(out) - len(shape)) + shape
        real = {axis for axis, n in enumerate(shape) if n == out[axis]}
    return tuple(axis for axis in range(len(out)) if axis not in real)


def _summed(tape: Tape, step: Step, i: int, d: np.ndarray) -> np.ndarray:
    axes = tuple(axis + 1 for axis in broadcast_axes(tape, step))
    return d.sum(axes).reshape(len(d), *tape.shape(step.ins[0]))


def _reshaped(tape: Tape, step: Step, i: int, d: np.ndarray) -> np.ndarray:
    return d.reshape(len(d), *tape.shape(step.ins[0]))


def _turned_back(tape: Tape, step: Step, i: int, d: np.ndarray) -> np.ndarray:
    return d.transpose(0, *(int(axis) + 1 for axis in np.argsort(step.eqn.params["permutation"])))


def _placed(tape: Tape, step: Step, i: int, d: np.ndarray) -> np.ndarray:
    start, stop = step.eqn.params["start_indices"], step.eqn.params["limit_indices"]
    strides = step.eqn.params["strides"] or (1,) * len(start)
    whole = np.zeros((len(d), *tape.shape(step.ins[0])))
    whole[(slice(None), *(slice(a, b, s) for a, b, s in zip(start, stop, strides, strict=True)))] = d
    return whole


def _part(tape: Tape, step: Step, i: int, d: np.ndarray) -> np.ndarray:
    axis = step.eqn.params["dimension"]
    sizes = [tape.shape(slot)[axis] for slot in step.ins]
    start = sum(sizes[:i])
    return d[(slice(None),) * (axis + 1) + (slice(start, start + sizes[i]),)]


def _by_factor(tape: Tape, step: Step, i: int, d: np.ndarray) -> np.ndarray:
    return product_back(step, i, d, np.asarray(tape.values[step.ins[1 - i]]))


SMALL_PRODUCT = 2**17  # products


def product_back(step: Step, i: int, d: np.ndarray, other: np.ndarray, rows: bool = False) -> np.ndarray:
    """The cotangent of operand ``i`` of ``dot_general``, given the other; ``d`` has an extra leading axis.

    With ``rows``, ``other`` has one too.
    """
    contracted, batched = step.eqn.params["dimension_numbers"]
    (mine, theirs), (my_batch, their_batch) = (x[:: 1 - 2 * i] for x in (contracted, batched))
    sizes = other.shape[1:] if rows else other.shape
    free_other = [a for a in range(len(sizes)) if a not in (*theirs, *their_batch)]
    free_mine_count = d.ndim - 1 - len(batched[0]) - len(free_other)
    ndim = free_mine_count + len(mine) + len(my_batch)
    free_mine = [a for a in range(ndim) if a not in (*mine, *my_batch)]
    label = itertools.count(1)
    batch, left, right = (
        [next(label) for _ in range(n)] for n in (len(my_batch), len(mine), free_mine_count)
    )
    free = [next(label) for _ in free_other]
    out = [*batch, *(free if i else right), *(right if i else free)]
    of_other = dict(zip([*their_batch, *theirs, *free_other], [*batch, *left, *free], strict=True))
    of_mine = dict(zip([*my_batch, *mine, *free_mine], [*batch, *left, *right], strict=True))
    to = [0, *(of_mine[a] for a in range(ndim))]
    shared = np.prod([sizes[a] for a in (*their_batch, *free_other)])
    small = d.size * np.prod(sizes) <= SMALL_PRODUCT * shared  # planning it would take longer
    labels = [0] * rows + [of_other[a] for a in range(len(sizes))]
    return np.einsum(d, [0, *out], other, labels, to, optimize=not small)


def _cumulated_back(tape: Tape, step: Step, i: int, d: np.ndarray) -> np.ndarray:
    axis = step.eqn.params["axis"] + 1
    if step.eqn.params["reverse"]:
        return d.cumsum(axis)
    return np.flip(np.flip(d, axis).cumsum(axis), axis)


def _to_the_largest(tape: Tape, step: Step, i: int, d: np.ndarray) -> np.ndarray:
    axes = tuple(axis + 1 for axis in step.eqn.params["axes"])
    x, out = (np.asarray(tape.values[slot])[None] for slot in (step.ins[0], step.outs[0]))
    return to_the_largest(x, out, axes, d)


def to_the_largest(x: np.ndarray, out: np.ndarray, axes: tuple[int, ...], d: np.ndarray) -> np.ndarray:
    """The cotangent of the operand of a maximum or minimum: shared by the entries equal to it."""
    largest = x == np.expand_dims(out, axes)
    return np.expand_dims(d, axes) * (largest / largest.sum(axes, keepdims=True))


LINEAR: dict[str, Callable[[Tape, Step, int, np.ndarray], np.ndarray]] = {
    "reduce_sum": _unsummed,
    "broadcast": _summed,
    "broadcast_in_dim": _summed,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "transpose": _turned_back,
    "slice": _placed,
    "concatenate": _part,
    "stack": lambda tape, step, i, d: np.take(d, i, step.eqn.params["axis"] + 1),
    "cumsum": _cumulated_back,
    "reduce_max": _to_the_largest,
    "reduce_min": _to_the_largest,
    "dot_general": _by_factor,
}
