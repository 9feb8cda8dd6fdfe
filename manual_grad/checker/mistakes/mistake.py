"""A mistake in one step of a function, and the names of the function's steps and values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.sources import global_said, source_said
from manual_grad.checker.tape import Changes, Edge, Passing, Slot, Tape, product_back, pulling
from manual_grad.checker.truth import is_float, is_key

PASSED_ON = {"broadcast", "broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "copy", "copy_p",
             "expand_dims", "transpose", "stop_gradient", "slice", "neg"}  # fmt: skip

PICKING = ("slice", "dynamic_slice", "gather")
TURNING = {*PASSED_ON, "rev", "concatenate", *PICKING} - {"stop_gradient", "neg"}

SAID = {
    "max": "ReLU", "select_n": "where", "logistic": "sigmoid", "integer_pow": "a power", "pow": "a power",
    "square": "a power", "reduce_sum": "sum", "dot_general": "matrix product", "add_any": "an addition",
    "reduce_max": "maximum", "reduce_min": "minimum", "conv_general_dilated": "convolution",
    "add": "an addition", "sub": "a difference", "mul": "a product", "div": "a quotient",
    "neg": "a negation", "convert_element_type": "a cast", "gather": "indexing", "dynamic_slice": "a slice",
    "rsqrt": "1/√", "broadcast_in_dim": "broadcasting", "broadcast": "broadcasting",
    "custom_linear_solve": "a solved system", "triangular_solve": "a solved triangular system",
    "lu": "an LU factorisation", "cholesky": "a Cholesky factorisation", "scatter-add": "an indexed sum",
    "cumsum": "a cumulative sum", "cumprod": "a cumulative product", "fft": "a Fourier transform",
    "rev": "a reversal", "pad": "padding", "dynamic_update_slice": "an updated slice", "stack": "stacking",
    "reduce_window_max": "max-pooling", "reduce_window_sum": "sum-pooling", "clamp": "clip",
}  # fmt: skip

MASKS = ("max", "min", "select_n", "clamp", "mul")

PRODUCTS = ("mul", "dot_general", "conv_general_dilated")


@dataclass(frozen=True, eq=False)
class Mistake:
    """A mistake.

    Attributes:
        phrase: the diagnosis.
        changes: the changes in the backward pass.
        without: changes that omit the mistake's own contribution, so that its factor can be found; None if
            the factor is 1.
        path: whether the mistake is the factor itself, such as 0 for a missing path.
        of: a step that is omitted from the values at which the derivative is computed.
        instead: slots with other values at which the derivative is computed.
        missing: for a path, the diagnosis if it is missing; "" to derive it from the function.
        skipped: steps that are omitted, one after the other, from the values of the derivative.
        through: the steps that stop the gradient, but let it pass with this mistake.
    """

    phrase: str
    changes: Changes
    without: Changes | None = None
    path: bool = False
    of: Edge | None = None
    missing: str = ""
    instead: Mapping[Slot, Callable[[Tape], np.ndarray]] | None = None
    skipped: tuple[Edge, ...] = ()
    through: tuple[int, ...] = ()


def made_by(tape: Tape) -> dict[Slot, int]:
    """The step that computes each value."""
    if "made by" not in tape.kept:
        tape.kept["made by"] = {out: at for at, step in enumerate(tape.steps) for out in step.outs}
    return tape.kept["made by"]


def users_of(tape: Tape) -> dict[Slot, list[Edge]]:
    """The operands in which each value is used."""
    if "users" not in tape.kept:
        found: dict[Slot, list[Edge]] = {}
        for edge in tape.edges():
            found.setdefault(tape.steps[edge[0]].ins[edge[1]], []).append(edge)
        tape.kept["users"] = found
    return tape.kept["users"]


def source_of(tape: Tape, slot: Slot) -> Slot:
    """The value whose entries, rearranged or selected, are in a slot."""
    made = made_by(tape)
    while slot in made and tape.steps[made[slot]].name in TURNING:
        slot = tape.steps[made[slot]].ins[0]
    return slot


def said_of(tape: Tape, e: Evidence, slot: Slot) -> str:
    """A name for a value: its argument, or the step that computes it."""
    made, slot = made_by(tape), index_given(tape, slot)
    if slot in tape.leaves:
        return e.names[tape.leaves.index(slot)]
    if slot in made:
        step = tape.steps[made[slot]]
        _name_from_the_start(tape, e, slot)
        return (
            _statistic_said(tape, e, slot)
            or _reciprocal_said(tape, e, slot)
            or _short_expression(tape, e, slot)
            or _kind_said(tape, slot)
            or source_said(tape, e, slot, made[slot])
            or (step.name in PICKING[1:] and f"entries of {said_of(tape, e, step.ins[0])}")
            or f"the result of {SAID.get(step.name, step.name)}"
        )
    if is_key(tape.values[slot]):
        return "a random key"
    value = np.asarray(tape.values[slot])
    for name, v in zip(e.point.names, e.point.values, strict=True):
        if (
            not is_key(v)
            and np.shape(v) == value.shape
            and value.dtype == getattr(v, "dtype", None)
            and np.array_equal(v, value)
        ):
            return name
    return f"{float(value.ravel()[0]):.4g}" if value.size == 1 else _constant_said(tape, value)


def index_given(tape: Tape, slot: Slot) -> Slot:
    """The value that is in a slot in another shape, or as an index from whose end negative numbers count."""
    made = made_by(tape)
    while slot in made:
        step = tape.steps[made[slot]]
        if step.name in PASSED_ON:
            slot = step.ins[0]
        elif step.name == "select_n" and len(step.ins) == 3 and np.array_equal(
            tape.values[step.ins[1]], tape.values[slot]
        ) and np.asarray(tape.values[slot]).dtype.kind in "iu":  # fmt: skip
            slot = step.ins[1]
        else:
            break
    return slot


def _constant_said(tape: Tape, value: np.ndarray) -> str:
    masks = value.dtype.kind == "b" or bool(np.all((value == 0) | (value == 1)))
    return global_said(tape, value) or ("a mask" if masks else "a constant")


def _name_from_the_start(tape: Tape, e: Evidence, slot: Slot) -> None:
    """Write down the expressions of all values that one is computed from: names must not nest deeply."""
    made, near, found = made_by(tape), [slot], set[Slot]()
    while near:
        for s in tape.steps[made[near.pop()]].ins:
            if s in made and s not in found and ("expression", s) not in tape.kept:
                found.add(s)
                near.append(s)
    if len(found) > NESTED_UP_TO:
        for s in sorted(found):
            expression(tape, e, s)


def _statistic_said(tape: Tape, e: Evidence, slot: Slot) -> str:
    """A name such as ``the norm of x``; "" if the value is not a statistic."""
    key = ("statistic", slot)
    if key not in tape.kept:
        tape.kept[key] = ""  # while naming the value that it is a statistic of
        found = statistic(tape, slot)
        if found is not None and found[0] not in SUMS:
            tape.kept[key] = f"the {found[0]} of {said_of(tape, e, found[1])}"
    return tape.kept[key]


def _reciprocal_said(tape: Tape, e: Evidence, slot: Slot) -> str:
    """A name such as ``1 / the norm of x``; "" if the value is not one over a statistic."""
    step = tape.steps[made_by(tape)[slot]]
    if step.name == "rsqrt" and (found := statistic(tape, step.ins[0])) and found[0] in ROOTS:
        return f"1 / the {ROOTS[found[0]]} of {said_of(tape, e, found[1])}"
    if step.name != "div" or not is_constant(tape, step.ins[0]) or step.ins[1] not in tape.active:
        return ""
    said = _statistic_said(tape, e, step.ins[1]) if np.all(np.asarray(tape.values[step.ins[0]]) == 1) else ""
    return said and f"1 / {said}"


SUMS = ("sum", "sum of squares", "sum of squared deviations", "mean of squares")
MEANS = {"sum": "mean", "sum of squares": "mean of squares", "sum of squared deviations": "variance"}
ROOTS = {
    "sum of squares": "norm", "mean of squares": "root mean square",
    "variance": "standard deviation", "sum of squared deviations": "standard deviation",
}  # fmt: skip


def statistic(tape: Tape, slot: Slot, steps: int = 0) -> tuple[str, Slot] | None:
    """The kind of statistic and its value: a mean, a norm, a variance; a constant may be added."""
    made, slot = made_by(tape), _reshaped_from(tape, slot)
    if slot not in made or slot not in tape.active or steps > NESTED_UP_TO:
        return None
    step = tape.steps[made[slot]]
    if step.name == "reduce_sum":
        return _sum_of(tape, step.ins[0], tuple(step.eqn.params["axes"]))
    if step.name == "dot_general" and step.ins[0] == step.ins[1] and np.size(tape.values[slot]) == 1:
        return "sum of squares", _reshaped_from(tape, step.ins[0])
    varied = [s for s in step.ins if s in tape.active]
    if len(varied) != 1 or not all(is_constant(tape, s) for s in step.ins if s not in tape.active):
        return None
    if step.name not in ("sqrt", "add", "select_n", "max", "div", "mul"):
        return None
    kind, base = statistic(tape, varied[0], steps + 1) or ("", 0)
    if step.name in ("add", "select_n", "max"):
        return (kind, base) if kind and kind not in ("sum", "mean") else None
    called = ROOTS if step.name == "sqrt" else MEANS
    if step.name != "sqrt" and kind in MEANS:
        factor = float(np.ravel(tape.values[next(s for s in step.ins if s not in tape.active)])[0])
        n = np.size(tape.values[base]) / np.size(tape.values[slot])
        count = factor if step.name == "div" else 1 / factor if factor else 0.0
        if not (np.isclose(count, n) or (kind == "sum of squared deviations" and np.isclose(count, n - 1))):
            return None
    return (called[kind], base) if kind in called else None


def _reshaped_from(tape: Tape, slot: Slot) -> Slot:
    """The value that has the same entries, in another shape or repeated."""
    made = made_by(tape)
    while slot in made and tape.steps[made[slot]].name in PASSED_ON - {"neg", "slice"}:
        slot = tape.steps[made[slot]].ins[0]
    return slot


def _sum_of(tape: Tape, slot: Slot, axes: tuple[int, ...]) -> tuple[str, Slot]:
    """Whether a sum is one of squares, and the value that is summed."""
    made = made_by(tape)
    step = tape.steps[made[slot]] if slot in made else None
    if step is None or not (
        step.name == "square"
        or (step.name == "integer_pow" and step.eqn.params["y"] == 2)
        or (step.name == "mul" and step.ins[0] == step.ins[1])
    ):
        return "sum", slot
    base = step.ins[0]
    x = np.asarray(tape.values[base])
    if not np.allclose(x.mean(axes), 0, atol=1e-12 * float(np.max(np.abs(x), initial=0.0))):
        return "sum of squares", base
    less = tape.steps[made[base]] if base in made else None
    is_mean = less is not None and less.name == "sub" and (statistic(tape, less.ins[1]) or [""])[0] == "mean"
    return "sum of squared deviations", less.ins[0] if less is not None and is_mean else base


def _kind_said(tape: Tape, slot: Slot) -> str:
    """A description of a value judging by its entries, or as an output; otherwise ""."""
    key = ("kind", slot)
    if is_key(tape.values[slot]):
        return ""
    if key not in tape.kept:
        x = np.asarray(tape.values[slot])
        tape.kept[key] = _kind(x) if x.ndim and x.shape[-1] > 2 and x.dtype.kind in "fb" else ""
        if slot in tape.results and x.ndim and not tape.kept[key]:
            of_several = f" {tape.results.index(slot)}" if len(tape.results) > 1 else ""
            tape.kept[key] = f"the output{of_several}"
    return tape.kept[key]


def _kind(x: np.ndarray) -> str:
    if np.all((x == 0) | (x == 1)):
        return "the one-hot labels" if np.all(x.sum(-1) == 1) else ""
    if np.all(x > 0) and np.allclose(x.sum(-1), 1, rtol=1e-12):
        return "the probabilities"
    for axes in [(axis,) for axis in range(x.ndim)] + [tuple(range(1, x.ndim)), tuple(range(2, x.ndim))]:
        some = [x.mean(axes), np.square(x).mean(axes)] if axes else [np.ones(1)]
        if np.allclose(some[0], 0, atol=1e-12) and np.allclose(some[-1], 1, rtol=1e-2):
            return "the normalised x̂"
    return ""


SIGNS = {"add": "+", "add_any": "+", "sub": "−", "mul": "·", "div": "/", "dot_general": "@"}
WRITTEN = ("add", "add_any", "sub", "mul", "div")  # such as signs, which nobody names
LONGEST_NAME, LONG_NAME = 28, 14  # characters
NESTED_UP_TO = 24  # steps
CALLED = {"tanh", "logistic", "exp", "log", "log1p", "sqrt", "sin", "cos", "abs", "erf"}
REDUCED = {"reduce_sum": "sum", "reduce_max": "maximum", "reduce_min": "minimum"}


def expression(tape: Tape, e: Evidence, slot: Slot) -> str:
    """A value as an expression in the arguments' names, such as ``tanh(x @ W)``; "" if that is long."""
    key = ("expression", slot)
    if key not in tape.kept:
        tape.kept[key] = ""
        tape.kept[key] = _expression(tape, e, slot)
    return tape.kept[key] if len(tape.kept[key]) <= LONGEST_NAME else ""


def _short_expression(tape: Tape, e: Evidence, slot: Slot) -> str:
    """The same, unless it is long and the user's source has a name for the value."""
    written = expression(tape, e, slot)
    assigned = source_said(tape, e, slot, made_by(tape)[slot]) if len(written) > LONG_NAME else ""
    return assigned if assigned and not assigned.startswith("`") else written


def _expression(tape: Tape, e: Evidence, slot: Slot) -> str:
    made = made_by(tape)
    step = tape.steps[made[slot]]
    ins = [_operand_said(tape, e, s) for s in step.ins]
    if not all(ins):
        return ""
    if step.name in SIGNS and len(ins) == 2:
        return f" {SIGNS[step.name]} ".join(bracketed(x) for x in ins)
    if step.name in CALLED:
        return f"{SAID.get(step.name, step.name)}({ins[0]})"
    if step.name in REDUCED:
        return f"the {REDUCED[step.name]} of {ins[0]}"
    if step.name in ("integer_pow", "square"):
        return f"{bracketed(ins[0])}^{step.eqn.params.get('y', 2)}"
    return ""


def _operand_said(tape: Tape, e: Evidence, slot: Slot) -> str:
    made = made_by(tape)
    if slot in made and tape.steps[made[slot]].name == "neg":
        inner = _operand_said(tape, e, tape.steps[made[slot]].ins[0])
        return f"−{bracketed(inner)}" if inner else ""
    said = said_of(tape, e, slot)
    return "" if said.startswith("the ") else said


def bracketed(said: str) -> str:
    """An expression in brackets, if it has parts."""
    return f"({said})" if " " in said else said


def place_of(tape: Tape, e: Evidence, edge: Edge) -> str:
    """The phrase for a step and one of its operands."""
    step = tape.steps[edge[0]]
    name = SAID.get(step.name, step.name)
    if step.name in ("max", "min") and len(set(step.ins) & tape.active) == 2:
        name = f"a {step.name}imum of two values"
    operands = [said_of(tape, e, slot).removeprefix("the result of ") for slot in step.ins]
    if len(step.ins) == 1 or step.name in MASKS[:4]:
        return name if step.name not in ("reduce_sum",) else f"the sum of {operands[0]}"
    if step.name in WRITTEN:
        return f"{f' {SIGNS[step.name]} '.join(map(bracketed, operands))} to {operands[edge[1]]}"
    return f"{name} ({', '.join(operands)}) to {operands[edge[1]]}"


def axes_said(axes: Sequence[int]) -> str:
    """``axis 0``, ``axes 0, 1``."""
    return f"axis {axes[0]}" if len(axes) == 1 else "axes " + ", ".join(map(str, axes))


def is_constant(tape: Tape, slot: Slot) -> bool:
    """Whether a value is a single number, or not floating-point."""
    value = tape.values[slot]
    return not is_float(value) or not np.size(value) or bool(np.all(value == np.ravel(value)[0]))


def too_few_or_many(tape: Tape, slot: Slot, name: str) -> tuple[str, str]:
    """The phrases for a value that is missing as a factor, and for one that is applied twice."""
    if slot in denominators(tape):
        return f"divided once too often by {name}", f"the division by {name} is missing"
    return f"the factor {name} is missing", f"the factor {name} is applied once too often"


def denominators(tape: Tape) -> set[Slot]:
    """The divisors of the function or its derivative, and their values before broadcasting."""
    if "denominators" not in tape.kept:
        made = made_by(tape)
        found = {step.ins[1] for step in tape.steps if step.name == "div"}
        found |= {step.outs[0] for step in tape.steps if step.name == "sqrt" and step.outs[0] in tape.active}
        for slot in list(found):
            while slot in made and tape.steps[made[slot]].name in PASSED_ON:
                slot = tape.steps[made[slot]].ins[0]
                found.add(slot)
        tape.kept["denominators"] = found
    return tape.kept["denominators"]


def mask_said(tape: Tape, e: Evidence, slot: Slot) -> str:
    """A name for a mask."""
    name = said_of(tape, e, slot)
    return name if name.endswith("a mask") else "the mask" if name == "mask" else f"the mask {name}"


def nothing(p: Passing) -> np.ndarray:
    """Nothing flows back."""
    return np.zeros_like(p.right)


def stop(*edges: Edge) -> Changes:
    """Nothing flows back through these operands."""
    return dict.fromkeys(edges, nothing)


def arriving(tape: Tape, slot: Slot, change: Callable[[Passing, np.ndarray], np.ndarray]) -> Changes:
    """A change of a value's whole cotangent, whichever steps it comes from."""
    made = made_by(tape)
    if slot in made:
        return {(made[slot], -1): lambda p: change(p, p.right)}
    *others, last = sorted(users_of(tape)[slot], reverse=True)

    def gathered(p: Passing) -> np.ndarray:
        p.notes[slot] = p.notes.get(slot, 0.0) + p.right
        return change(p, p.notes[slot]) if p.edge == last else np.zeros_like(p.right)

    return dict.fromkeys([*others, last], gathered)


def left_out(p: Passing) -> np.ndarray:
    """The slope of the step is omitted."""
    return p.cotangent


def back_with(p: Passing, other: Any) -> np.ndarray:
    """The cotangent that a product passes to one operand, with another value as the other operand."""
    step, i = p.tape.steps[p.edge[0]], p.edge[1]
    if step.name == "mul":
        return p.cotangent * other
    if step.name == "dot_general":
        return product_back(step, i, p.cotangent[None], np.asarray(other))[0]
    operands = [np.asarray(other) if k == 1 - i else x for k, x in enumerate(p.operands)]
    return np.asarray(pulling(step, operands, [i])(np.asarray(p.cotangent))[0])


def arrays_by_shape(tape: Tape) -> dict[tuple, list[Slot]]:
    """The slots of arrays of floats, by shape."""
    if "by shape" not in tape.kept:
        found: dict[tuple, list[Slot]] = {}
        for slot, value in enumerate(tape.values):
            if np.size(value) > 1 and is_float(value):
                found.setdefault(np.shape(value), []).append(slot)
        tape.kept["by shape"] = found
    return tape.kept["by shape"]


def alike(tape: Tape) -> list[list[Edge]]:
    """Edges of steps that do the same, mostly those of a loop's iterations."""
    groups: dict[Any, list[Edge]] = {}
    users = users_of(tape)
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        leaves = tuple(slot if slot in tape.leaves and len(users[slot]) > 1 else None for slot in step.ins)
        params = str(step.eqn.params) if step.eqn is not None and step.name not in ("slice",) else ""
        shapes = tuple(map(tape.shape, step.ins))
        groups.setdefault((step.name, params, shapes, leaves, edge[1]), []).append(edge)
    return [edges for edges in groups.values() if len(edges) > 1]
