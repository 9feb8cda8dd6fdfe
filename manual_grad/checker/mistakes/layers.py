"""Mistakes between layers: the slope of another layer's activation, values recomputed without a mask."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.factors import ends_of
from manual_grad.checker.mistakes.iterations import loop_of
from manual_grad.checker.mistakes.mistake import (
    MASKS,
    PASSED_ON,
    PRODUCTS,
    SAID,
    Mistake,
    arrays_by_shape,
    arriving,
    back_with,
    left_out,
    made_by,
    mask_said,
    nothing,
    place_of,
    said_of,
    stop,
    users_of,
)
from manual_grad.checker.tape import MEANINGLESS, Changes, Edge, Passing, Slot, Tape
from manual_grad.checker.truth import is_float

SIMPLE = {*MEANINGLESS, *PASSED_ON, "mul", "div", "reduce_precision"}
Slope = Callable[[Tape], Any]  # at a point
ARRAYS_UP_TO = 240  # of the same shape that are searched for activations
MASKS_UP_TO = 6  # of the steps of loops
MOST_ALIKE = 8  # activations of one kind that are compared with each other


# Wrong versions of the slope at z, where a = f(z).
SLOPES_MISTAKEN: dict[str, dict[str, Callable[[Any, Any], Any]]] = {
    "tanh": {
        "1 − a for 1 − a²": lambda z, a: 1 - a,
        "1 − z² for 1 − a² (its input is used for its output)": lambda z, a: 1 - z**2,
        "a² for 1 − a²": lambda z, a: a**2,
        "tanh(a) for 1 − a² (tanh is applied to its own result again)": lambda z, a: np.tanh(a),
        "1 + a² for 1 − a²": lambda z, a: 1 + a**2,
        "a(1 − a), which is the sigmoid's": lambda z, a: a * (1 - a),
        "a for 1 − a²": lambda z, a: a,
    },
    "sigmoid": {
        "a for a(1 − a)": lambda z, a: a,
        "1 − a for a(1 − a)": lambda z, a: 1 - a,
        "z(1 − z) for a(1 − a) (its input is used for its output)": lambda z, a: z * (1 - z),
        "1 − a², which is that of tanh": lambda z, a: 1 - a**2,
        "a² for a(1 − a)": lambda z, a: a**2,
        "σ(a) for a(1 − a) (the sigmoid is applied to its own result again)": lambda z, a: _sigmoid(a),
        "σ(a)(1 − a) for a(1 − a)": lambda z, a: _sigmoid(a) * (1 - a),
        "a(1 − σ(a)) for a(1 − a)": lambda z, a: a * (1 - _sigmoid(a)),
    },
    "softplus": {
        "the slope of the sigmoid, for the sigmoid": lambda z, a: 1 / (2 + np.exp(z) + np.exp(-z)),
        "eᶻ for eᶻ/(1 + eᶻ)": lambda z, a: np.exp(z),
        "1 − e⁻ᶻ for 1 − e⁻ᵃ (its input is used for its output)": lambda z, a: 1 - np.exp(-z),
        "1/(1 + eᶻ) for eᶻ/(1 + eᶻ)": lambda z, a: 1 / (1 + np.exp(z)),
        "1 for the sigmoid": lambda z, a: np.ones_like(z),
        "its own value, for the sigmoid": lambda z, a: a,
        "softplus of its own result, for the sigmoid": lambda z, a: np.logaddexp(a, 0),
    },
    "log": {
        "1/(1 + z) for 1/z": lambda z, a: 1 / (1 + z),
        "z for 1/z": lambda z, a: z,
        "1/z² for 1/z": lambda z, a: 1 / z**2,
        "1/a for 1/z (its output is used for its input)": lambda z, a: 1 / a,
    },
    "log1p": {"1/z for 1/(1 + z)": lambda z, a: 1 / z, "1 + z for 1/(1 + z)": lambda z, a: 1 + z},
    "exp": {
        "z for eᶻ (its input is used for its output)": lambda z, a: z,
        "z eᶻ for eᶻ": lambda z, a: z * a,
        "z eᶻ⁻¹ for eᶻ (the power rule applied to an exponential)": lambda z, a: z * np.exp(z - 1),
    },
    "expm1": {"eᶻ − 1 for eᶻ": lambda z, a: a},
    "sqrt": {
        "1/√z for 1/(2√z)": lambda z, a: 1 / a,
        "½ for 1/(2√z) (the division by the root is missing)": lambda z, a: np.full_like(z, 0.5),
        "√z/2 for 1/(2√z)": lambda z, a: a / 2,
        "1/(2z) for 1/(2√z)": lambda z, a: 0.5 / z,
        "√z for 1/(2√z)": lambda z, a: a,
    },
    "rsqrt": {
        "−1/(2√z) for −1/(2z√z)": lambda z, a: -0.5 * a,
        "1/(2√z), which is that of the root": lambda z, a: 0.5 * a,
        "−1/z for −1/(2z√z)": lambda z, a: -1 / z,
    },
    "sin": {"sin for cos": lambda z, a: a},
    "cos": {"cos for −sin": lambda z, a: a},
    "abs": {"|z| for the sign of z": lambda z, a: a, "z for its sign": lambda z, a: z},
    "SiLU": {
        "σ for σ + zσ(1 − σ)": lambda z, a: _sigmoid(z),
        "zσ(1 − σ) for σ + zσ(1 − σ)": lambda z, a: z * _sigmoid(z) * (1 - _sigmoid(z)),
        "σ(1 − σ) for σ + zσ(1 − σ)": lambda z, a: _sigmoid(z) * (1 - _sigmoid(z)),
        "σ + σ(1 − σ) for σ + zσ(1 − σ) (the factor z is missing)": (
            lambda z, a: _sigmoid(z) * (2 - _sigmoid(z))
        ),
        "σ + a(1 − a) for σ + zσ(1 − σ)": lambda z, a: _sigmoid(z) + a * (1 - a),
    },
    "GELU": {
        "Φ for Φ + zφ": lambda z, a: _normal(z),
        "zφ for Φ + zφ": lambda z, a: z * _density(z),
        "Φ + φ for Φ + zφ (the factor z is missing)": lambda z, a: _normal(z) + _density(z),
        "Φ + z e^(−z²/2) for Φ + zφ (1/√2π is missing)": (lambda z, a: _normal(z) + z * np.exp(-z * z / 2)),
        "Φ + z e^(−z²)/√2π for Φ + zφ (the exponent is not halved)": (
            lambda z, a: _normal(z) + z * np.exp(-z * z) / (2 * math.pi) ** 0.5
        ),
        "Φ − zφ for Φ + zφ": lambda z, a: _normal(z) - z * _density(z),
    },
    "square": {"z² for 2z": lambda z, a: a, "2z² for 2z (the exponent is not lowered)": lambda z, a: 2 * a},
}


@dataclass(frozen=True, eq=False)
class _Activation:
    """An elementwise function from one value to another of the same shape, and its slope."""

    start: Slot
    end: Slot
    steps: tuple[str, ...]
    slope: np.ndarray

    def slope_on(self, tape: Tape) -> np.ndarray:
        """Its slope at another point."""
        key = ("activation", self.start, self.end)
        if key not in tape.kept:
            found = _between(tape, users_of(tape), self.start, self.end)
            tape.kept[key] = np.ones(tape.shape(self.end)) if found is None else found.slope
        return tape.kept[key]

    @property
    def name(self) -> str:
        """A name for the value that determines its slope."""
        telling = {SAID.get(name, name) for name in self.steps if name not in SIMPLE}
        return next(iter(telling)) if len(telling) == 1 else "the activation" if telling else "zeros and ones"

    @property
    def is_scaled(self) -> bool:
        """Whether it is a mask together with a factor."""
        return self.is_mask and bool({"mul", "div"} & set(self.steps)) and {"mul", "div"} != set(self.steps)

    @property
    def is_mask(self) -> bool:
        """Whether it selects one of two slopes for each entry."""
        return all(name in MASKS or name in SIMPLE for name in self.steps)


def slopes_of_another_layer(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """An activation's mask or slope taken from another layer, for all cotangents or for one operand."""
    groups: dict[Any, list[_Activation]] = {}
    for found in sorted(_activations(tape), key=lambda activation: len(activation.steps)):
        groups.setdefault((found.steps, found.slope.shape), []).append(found)
    for group in groups.values():
        for mine in group[:MOST_ALIKE]:
            if mine.is_mask:
                yield from _masks_elsewhere(tape, e, mine, group)
            others = [other for other in group[:MOST_ALIKE] if not np.allclose(other.slope, mine.slope)]
            for other in others:
                phrase = _of_another_said(tape, e, mine, other)
                yield Mistake(phrase, _instead(tape, mine, partial(_with_slope, other.slope_on)))
                yield from (Mistake(phrase, changes) for changes in _stages(tape, mine, other.slope_on))
            if len(mine.steps) > 1:
                for changes in _stages(tape, mine, lambda tape: 1.0):
                    *_, edge = changes
                    place = place_of(tape, e, edge)
                    name = f"{mine.name} and its factor" if mine.is_scaled else mine.name
                    yield Mistake(
                        f"the derivative of {name} is left out of what flows back through {place}", changes
                    )
        yield from _layers_permuted(tape, e, group[: 4 * MOST_ALIKE])


def _of_another_said(tape: Tape, e: Evidence, mine: _Activation, other: _Activation) -> str:
    """The phrase for a slope of another layer or, without layers, for a replaced value."""
    if mine.is_mask:
        return f"mask taken from {_elsewhere(tape)} (of {mine.name})"
    names = said_of(tape, e, other.end), said_of(tape, e, mine.end)
    if _is_layer(tape, mine) or names[0] == names[1]:
        return f"the derivative of {mine.name} is taken at another layer's values"
    return f"{names[0]} is used for {names[1]} in the derivative of {mine.name}"


def _elsewhere(tape: Tape) -> str:
    return "another step" if loop_of(tape) is not None else "the wrong layer"


def _is_layer(tape: Tape, mine: _Activation) -> bool:
    """Whether an activation is applied to a matrix product or a convolution, possibly with a bias."""
    made, slot = made_by(tape), mine.start
    while slot in made and tape.steps[made[slot]].name in SIMPLE - {"mul", "div"}:
        slot = next((s for s in tape.steps[made[slot]].ins if s in tape.active), -1)
    return slot in made and tape.steps[made[slot]].name in PRODUCTS[1:]


def _layers_permuted(tape: Tape, e: Evidence, group: Sequence[_Activation]) -> Iterator[Mistake]:
    """Every layer's slope taken from another layer; activations of the same values count as one layer."""
    layers: list[_Activation] = []
    layer_of = {}
    for mine in sorted(group, key=lambda activation: activation.end):
        alike = [k for k, other in enumerate(layers) if np.array_equal(mine.slope, other.slope)]
        layer_of[mine] = alike[0] if alike else len(layers)
        layers += [] if alike else [mine]
    what = "mask" if group[0].is_mask else "derivative"
    for order in _orders(len(layers)):
        swapped = [(mine, layers[order[k]]) for mine, k in layer_of.items() if order[k] != k]
        every = [_instead(tape, mine, partial(_with_slope, other.slope_on)) for mine, other in swapped]
        all_of = "in all steps" if loop_of(tape) else "in all layers"
        phrase = f"{what} taken from {_elsewhere(tape)} (of {group[0].name}), {all_of}"
        if not group[0].is_mask and not any(_is_layer(tape, mine) for mine in layers):
            first, its = (said_of(tape, e, layers[k].end) for k in (order[0], 0))
            phrase = f"{first} is used for {its} in the derivative of {group[0].name}, each for another"
        yield Mistake(phrase, _together(every))


# Well-known activations: their values, and their slopes.
KNOWN: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: 1 / (2 + np.exp(z) + np.exp(-z))),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "softplus": (lambda z: np.logaddexp(z, 0), lambda z: 1 / (1 + np.exp(-z))),
    "SiLU": (lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) * (1 + z * (1 - _sigmoid(z)))),
    "GELU": (lambda z: z * _normal(z), lambda z: _normal(z) + z * _density(z)),
    "tanh-GELU": (lambda z: z * _sigmoid(2 * _inner(z)), lambda z: _slope_of_tanh_gelu(z)),
    "sigmoid-GELU, zσ(1.702z),": (lambda z: z * _sigmoid(1.702 * z), lambda z: _slope_of_sigmoid_gelu(z)),
    "Mish": (lambda z: z * np.tanh(np.logaddexp(z, 0)), lambda z: _slope_of_mish(z)),
}


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(z / 2)


def _normal(z: np.ndarray) -> np.ndarray:
    """The distribution function of the standard normal distribution."""
    return np.vectorize(math.erfc, otypes=[float])(-z / 2**0.5) / 2


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-z * z / 2) / (2 * math.pi) ** 0.5


def _inner(z: np.ndarray) -> np.ndarray:
    """The argument of tanh in the approximate GELU."""
    return (2 / math.pi) ** 0.5 * (z + 0.044715 * z**3)


def _slope_of_tanh_gelu(z: np.ndarray) -> np.ndarray:
    t, inner = np.tanh(_inner(z)), (2 / math.pi) ** 0.5 * (1 + 3 * 0.044715 * z**2)
    return 0.5 * (1 + t) + 0.5 * z * (1 - t**2) * inner


def _slope_of_sigmoid_gelu(z: np.ndarray) -> np.ndarray:
    return _sigmoid(1.702 * z) * (1 + 1.702 * z * (1 - _sigmoid(1.702 * z)))


def _slope_of_mish(z: np.ndarray) -> np.ndarray:
    t = np.tanh(np.logaddexp(z, 0))
    return t + z * (1 - t**2) * _sigmoid(z)


def activations_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A well-known activation, computed in any number of steps, with another slope."""
    for name, pairs in known_activations(tape).items():
        for said, slope in _slopes_mistaken(name).items():
            every = [_with_another_slope(tape, start, end, slope) for start, end in pairs]
            phrase = f"the derivative of {name} is {said}"
            yield Mistake(phrase, _together(every))
            if len(every) > 1:
                yield Mistake(f"{phrase}, but in the last layer", _together(every[:-1]))
                yield from (Mistake(f"{phrase} in one place", changes) for changes in every)


def known_activations(tape: Tape) -> dict[str, list[tuple[Slot, Slot]]]:
    """The values that are a well-known activation of another, recognised by their entries."""
    found: dict[str, list[tuple[Slot, Slot]]] = {}
    made = made_by(tape)
    for slots in arrays_by_shape(tape).values():
        active = [slot for slot in slots if slot in tape.active][:ARRAYS_UP_TO]
        few = np.array([np.ravel(tape.values[slot])[:8] for slot in active])
        for start, (name, (value, _)) in itertools.product(active, KNOWN.items()):
            if start not in users_of(tape):
                continue
            some = value(few[active.index(start)])  # with few entries first
            near = np.all(np.abs(few - some) <= 1e-9 * np.abs(some) + 1e-12, axis=1)
            for end in (slot for slot, is_near in zip(active, near, strict=True) if is_near):
                wanted = value(np.asarray(tape.values[start])) if end > start and end in made else None
                if wanted is not None and np.allclose(tape.values[end], wanted, 1e-9, 1e-12):
                    found.setdefault(name, []).append((start, end))
                    break
    return found


def _with_another_slope(tape: Tape, start: Slot, end: Slot, slope: Callable) -> Changes:
    """Cut the steps from one value to the other, and use this slope instead."""
    at_end = (made_by(tape)[end], -1)

    def kept(p: Passing) -> np.ndarray:
        p.notes[at_end] = p.right
        return np.zeros_like(p.right)

    def handed(p: Passing, d: np.ndarray) -> np.ndarray:
        z, a = (np.asarray(p.tape.values[slot]) for slot in (start, end))
        return d + p.notes.get(at_end, 0.0) * slope(z, a)

    return {**arriving(tape, start, handed), at_end: kept}


def _slopes_mistaken(name: str) -> dict[str, Callable[[np.ndarray, np.ndarray], Any]]:
    """Wrong slopes as functions of z and a = f(z)."""
    others = {
        f"wrong: it is that of {other.rstrip(',')}": lambda z, a, slope=slope: slope(z)
        for other, (_, slope) in KNOWN.items()
        if other != name
    }
    return {
        "left out": lambda z, a: np.ones_like(z),
        "taken at its output instead of its input": lambda z, a: KNOWN[name][1](a),
        **{f"wrong: {formula}": slope for formula, slope in SLOPES_MISTAKEN.get(name, {}).items()},
        **others,
        "wrong: it is that of ReLU": lambda z, a: z > 0,
    }


def _together(several: Sequence[Changes]) -> Changes:
    return {edge: change for changes in several for edge, change in changes.items()}


def _orders(n: int) -> Iterator[tuple[int, ...]]:
    """For each of n layers, the layer whose slope it takes: the previous, the next, or in reverse order."""
    if n > 1:
        yield from dict.fromkeys(tuple((k + by) % n for k in range(n)) for by in (-1, 1))
        yield tuple(reversed(range(n)))


def _masks_elsewhere(
    tape: Tape, e: Evidence, mine: _Activation, group: Sequence[_Activation]
) -> Iterator[Mistake]:
    """A mask that is 1 where another value is positive: the gradient, or a different value."""
    phrase = f"mask taken from the wrong place (of {mine.name}): where"
    for of_one in (False, True):
        changes = _instead(tape, mine, partial(_where_positive, of_one))
        yield Mistake(f"{phrase} the gradient is positive", changes)
    made = made_by(tape)
    alike = sorted(arrays_by_shape(tape).get(mine.slope.shape, ()), key=lambda slot: slot not in made)
    for slot in alike[: 2 * MOST_ALIKE]:
        positive = np.asarray(tape.values[slot]) > 0
        known = positive.all() or any(np.array_equal(positive, other.slope > 0) for other in group)
        if slot in tape.active and not known:
            yield Mistake(
                f"{phrase} {said_of(tape, e, slot)} is positive",
                _instead(tape, mine, partial(_where_value_is_positive, slot)),
            )


def _activations(tape: Tape) -> Iterator[_Activation]:
    users = users_of(tape)
    for slot in sorted(tape.active & users.keys(), reverse=True):
        if np.size(tape.values[slot]) > 1:
            for end in ends_of(tape, users, slot)[:3]:
                found = _between(tape, users, slot, end)
                if found is not None:
                    yield found


def _between(tape: Tape, users: dict[Slot, list[Edge]], start: Slot, end: Slot) -> _Activation | None:
    """The activation from one slot to another; None if there is none."""
    gots: dict[Slot, Any] = {start: 1.0}
    names, masked = [], False
    pending = {at for at, _ in users[start]}
    while end not in gots:
        at = min(pending)
        pending.discard(at)
        step = tape.steps[at]
        mine = [i for i, slot in enumerate(step.ins) if slot in gots and slot in tape.active]
        gots[step.outs[0]] = sum(gots[step.ins[i]] * tape.slope((at, i)) for i in mine)
        names.append(step.name)
        masked |= step.name == "mul" and any(is_mask(tape.values[slot]) for slot in step.ins)
        pending |= {user for user, _ in users.get(step.outs[0], ())}
    if not masked and not any(name not in SIMPLE for name in names):
        return None
    return _Activation(start, end, tuple(names), np.asarray(gots[end]))


def is_mask(x: Any) -> bool:
    """Whether a value holds zeros and one other number: a mask, perhaps a dropout mask."""
    if not is_float(x) or np.size(x) < 2:
        return False
    values = np.unique(x)
    return len(values) == 2 and bool(values[0] == 0 or values[1] == 0)


def _instead(tape: Tape, mine: _Activation, back: Callable[[Tape, np.ndarray], Any]) -> Changes:
    """Another value in place of the cotangent that an activation passes on."""
    end = (made_by(tape)[mine.end], -1)
    first, *more = users_of(tape)[mine.start]
    return {
        end: partial(_remembered, end),
        first: lambda p: back(p.tape, p.notes[end]),
        **stop(*more),
    }


def _with_slope(slope: Slope, tape: Tape, d: np.ndarray) -> np.ndarray:
    return d * slope(tape)


def _where_value_is_positive(slot: Slot, tape: Tape, d: np.ndarray) -> np.ndarray:
    return d * (np.asarray(tape.values[slot]) > 0)


def _where_positive(of_one: bool, tape: Tape, d: np.ndarray) -> np.ndarray:
    """Masked by its own sign, or by that of the gradient for a cotangent of 1."""
    (dout,) = tape.kept["dout"] if of_one else (1.0,)
    return d * (d * np.asarray(dout).item() > 0)


def _stages(tape: Tape, mine: _Activation, slope: Slope) -> Iterator[Changes]:
    """Another slope in the cotangent that the product before an activation passes to one operand only."""
    made, slot = made_by(tape), mine.start
    while slot in made and tape.steps[made[slot]].name not in PRODUCTS:
        step = tape.steps[made[slot]]
        same = [s for s in step.ins if s in tape.active and tape.shape(s) == tape.shape(slot)]
        if step.name not in ("add", "convert_element_type") or not same:
            return
        slot = same[0]
    if slot not in made:
        return
    end, product = (made[mine.end], -1), made[slot]
    operands = [i for i, s in enumerate(tape.steps[product].ins) if s in tape.active]
    if len(operands) > 1:
        for i in operands:
            yield {end: partial(_remembered, end), (product, i): partial(_handed, end, slope)}


def _remembered(edge: Edge, p: Passing) -> np.ndarray:
    p.notes[edge] = p.cotangent
    return p.right


def _handed(edge: Edge, slope: Slope, p: Passing) -> np.ndarray:
    earlier = Passing(p.tape, p.edge, p.notes[edge] * slope(p.tape), p.right, p.notes)
    return back_with(earlier, p.operands[1 - p.edge[1]])


def masks_left_out_of_values(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Values recomputed in the backward pass without their mask; with or without its slope."""
    for edge in tape.edges():
        step = tape.steps[edge[0]]
        if not masking(tape, edge):
            continue
        name = {"select_n": "where", "mul": "zeros and ones"}.get(step.name, "what is added")
        masked = said_of(tape, e, step.ins[edge[1]])
        phrase = f"missing mask (of {name}): left out where {masked} is recomputed"
        without: Changes = {edge: left_out}
        yield Mistake(f"{phrase}, and in the backward pass", without, of=edge)
        yield Mistake(phrase, {}, of=edge)


def masks_left_out_of_loops(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """The mask of every step of a loop left out, so that padded steps count where values are recomputed."""
    groups: dict[object, list[Edge]] = {}
    for at, i in tape.edges():
        step = tape.steps[at]
        chosen = step.name == "select_n" and len(step.ins) == 3 and step.ins[0] not in tape.active
        if chosen or (step.name == "mul" and is_mask(tape.values[step.ins[1 - i]])):
            groups.setdefault((step.name, step.source, i, tape.shape(step.outs[0])), []).append((at, i))
    for edges in [edges for edges in groups.values() if len(edges) > 1][:MASKS_UP_TO]:
        at, i = edges[-1]
        step = tape.steps[at]
        mask = mask_said(tape, e, step.ins[0 if step.name == "select_n" else 1 - i])
        others = {(k, 3 - i): nothing for k, _ in edges} if step.name == "select_n" else {}
        through: Changes = {**dict.fromkeys(edges, left_out), **others}
        phrase = (
            f"{mask} is left out in all {len(edges)} steps where {said_of(tape, e, step.ins[i])} is "
            "recomputed (such as padded steps that count: sequence lengths are ignored)"
        )
        yield Mistake(f"{phrase}, and in the backward pass", through, skipped=tuple(edges))
        yield Mistake(phrase, {}, skipped=tuple(edges))


def masking(tape: Tape, edge: Edge) -> bool:
    """Whether a step masks its operand: by where, by zeros and ones, or by adding about −∞."""
    step = tape.steps[edge[0]]
    others = [np.asarray(tape.values[s]) for s in step.ins if s not in tape.active]
    if step.name == "select_n":
        chosen = np.asarray(tape.values[step.ins[0]])
        return bool(np.any(chosen != chosen.flat[0])) and len(others) == 2
    if step.name == "mul":
        return any(is_mask(other) for other in others)
    large = step.name == "add" and others and is_float(others[0])
    return bool(large and np.any(others[0] < -1e3) and np.any(others[0] == 0))
