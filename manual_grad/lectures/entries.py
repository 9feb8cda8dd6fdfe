"""The parts of a lecture: equations, errata, the claims they make, and how inputs are drawn.

A claim links a hand-derived formula to a plain forward function in ``reference/``. How the two are compared
is left to :mod:`manual_grad.verify`, which uses every oracle that applies to the claim's kind.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import jax

from manual_grad.catalogue import FUNCTIONS
from manual_grad.catalogue.draw import Draw, differentiable
from manual_grad.catalogue.entry import Formula, Function

Kind = Literal["value", "gradient", "jacobian"]


@dataclass(frozen=True)
class Claim:
    """One statement of an equation, in executable form.

    Attributes:
        kind: ``value``: formula and reference give equal results; ``gradient``: the formula pulls a cotangent
            back as the reference's derivative does; ``jacobian``: the formula is the reference's Jacobian.
        reference: the plain forward function; its parameters have the names of the inputs.
        wrt: the names of the variables to differentiate with respect to (for a value: its name).
        inputs: draws the inputs, name → array, pytree or setting.
        formulas: every function that computes it, name → function. A value or Jacobian is called
            as ``formula(**inputs)``, a gradient as ``formula(dout, **inputs)``; it returns a dict by name, a
            tuple in the order of ``wrt``, or one array.
        at: the reference's inputs, where they differ from the formula's (a hidden layer's value).
        says: which reading of the equation this is, if there are several.
        polynomial: formula and reference are made of sums, products and selections alone, so that both are
            exact on integers.
    """

    kind: Kind
    reference: Callable[..., Any]
    wrt: tuple[str, ...]
    inputs: Callable[[Draw], dict[str, Any]]
    formulas: Mapping[str, Callable[..., Any]]
    at: Callable[..., dict[str, Any]] | None = None
    says: str = ""
    polynomial: bool = False


@dataclass(frozen=True)
class Equation:
    """An equation of a lecture: as printed, as corrected, and the claims that verify it.

    Attributes:
        tag: the ledger's tag, such as ``A-10``.
        title: its meaning, in one line.
        section: its place in the lecture.
        printed: LaTeX, as printed in the lecture.
        claims: the comparisons to make.
        corrected: the right LaTeX, if that differs.
        note: further remarks on the printed line.
        sentence: the lecture's own words, if it has a sentence and ``printed`` is our formula for it.
    """

    tag: str
    title: str
    section: str
    printed: str
    claims: Sequence[Claim]
    corrected: str = ""
    note: str = ""
    sentence: str = ""

    @property
    def lecture(self) -> str:
        """The lecture's letter."""
        return self.tag[0]


@dataclass(frozen=True)
class Erratum:
    """An equation that a lecture prints wrongly, with both versions as claims that run.

    Attributes:
        tag: the ledger's tag, such as ``A-E1``.
        title: the mistake, in one line.
        section: its place in the lecture.
        printed, corrected: LaTeX of both versions.
        corrects: the tag of the equation that holds.
        why: why the printed version is wrong.
        claim: the claim that both are compared with; its formulas are the right ones.
        as_printed: the printed version, called like the claim's formulas. It returns another number or
            shape, or raises an error because its shapes clash.
        note: further remarks on the printed line.
        sentence: the lecture's own words, if it has a sentence and ``printed`` is our formula for it.
    """

    tag: str
    title: str
    section: str
    printed: str
    corrected: str
    corrects: str
    why: str
    claim: Claim
    as_printed: Callable[..., Any] = field(repr=False)
    note: str = ""
    sentence: str = ""

    @property
    def lecture(self) -> str:
        """The lecture's letter."""
        return self.tag[0]


@dataclass(frozen=True)
class Chapter:
    """A lecture, or a chapter of ours beyond the lectures: one file in this folder.

    Attributes:
        letter: the first letter of its tags.
        name: its name, such as ``Lecture A``.
        title: its subject.
        equations, errata: in the lecture's order.
    """

    letter: str
    name: str
    title: str
    equations: tuple[Equation, ...]
    errata: tuple[Erratum, ...] = ()

    @property
    def slug(self) -> str:
        """Its name in file names, such as ``lecture-a``."""
        return self.name.lower().replace(" ", "-")


def tags_in(text: str) -> list[str]:
    """The tags in brackets; ranges are expanded.

    >>> tags_in("dz = p - y  # [A-10] [B-03] … [B-05]")
    ['A-10', 'B-03', 'B-04', 'B-05']
    """
    found = []
    for first, last in re.findall(r"\[([A-Z]-\d\d)\](?: … \[([A-Z]-\d\d)\])?", text):
        numbers = range(int(first[2:]), int((last or first)[2:]) + 1)
        found += [f"{first[0]}-{n:02}" for n in numbers]
    return found


def value(formula: Formula, called: str = "out", says: str = "", variant: str | None = None) -> Claim:
    """The claim about the value of an entry's forward function, in one of its variants."""
    ways = {f"{formula.name}_fwd": value_of(formula.fwd)}
    return _claim("value", formula, (called,), ways, says, variant)


def gradient(
    formula: Formula,
    *wrt: str,
    says: str = "",
    variant: str | None = None,
    also: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
) -> Claim:
    """The claim about the gradients of an entry's pair, and of other formulas, by default for all primals."""
    ways = {f"{formula.name}_bwd": pulled(formula.fwd, formula.bwd), **also}
    return _claim("gradient", formula, wrt or formula.floating, ways, says, variant)


def jacobian(name: str, says: str = "", variant: str | None = None, polynomial: bool = False) -> Claim:
    """The claim about one of the catalogue's Jacobians."""
    function = FUNCTIONS[name]
    assert function.reference is not None
    inputs = partial(function.inputs, variant=_or_first(variant, function))
    ways = {name: function.fn}
    return Claim("jacobian", function.reference, function.wrt, inputs, ways, says=says, polynomial=polynomial)


def compact(name: str, says: str = "", variant: str | None = None) -> Claim:
    """The claim about one of the catalogue's compact forms: that part of the reference's Jacobian by JAX."""
    function = FUNCTIONS[name]
    reference, part = function.reference, function.part
    assert reference is not None
    assert part is not None

    def of_jacobian(**inputs: Any) -> Any:
        def forward(*moved: Any) -> Any:
            return reference(**inputs | dict(zip(function.wrt, moved, strict=True)))

        moved = [inputs[name] for name in function.wrt]
        return part(*jax.jacrev(forward, tuple(range(len(moved))))(*moved))

    inputs = partial(function.inputs, variant=_or_first(variant, function))
    return Claim("value", of_jacobian, (name,), inputs, {name: function.fn}, says=says)


def _claim(
    kind: Kind, formula: Formula, wrt: tuple[str, ...], ways: dict, says: str, variant: str | None
) -> Claim:
    variant = _or_first(variant, formula)
    settings = formula.settings(variant)
    at = (
        (lambda **inputs: formula.for_reference(inputs))
        if formula.for_reference(settings) != settings
        else None
    )
    inputs = partial(formula.inputs, variant=variant)
    return Claim(kind, formula.reference, wrt, inputs, ways, at, says, formula.polynomial)


def _or_first(variant: str | None, entry: Formula | Function) -> str:
    return next(iter(entry.variants or {"": {}})) if variant is None else variant


def claims_of(formula: Formula) -> tuple[Claim, ...]:
    """All claims of an entry of the catalogue, in each variant: its value, its gradient and its Jacobians."""
    claims = []
    for variant in formula.variants:
        claims.append(value(formula, says=variant, variant=variant))
        claims.append(gradient(formula, says=variant, variant=variant))
    for function in (FUNCTIONS[f.name] for f in formula.functions if f.wrt):
        claim = compact if function.part else jacobian
        claims += [claim(function.name, says=v, variant=v) for v in function.variants or {"": {}}]
    return tuple(claims)


def equation_of(formula: Formula, tag: str, title: str) -> Equation:
    """An entry as an equation of one of our own chapters, with its formulas and all its claims."""
    assert formula.shown is not None
    return Equation(tag, title, formula.source, r", \; ".join(formula.shown.backward), claims_of(formula))


def pulled(fwd: Callable, bwd: Callable) -> Callable[..., dict[str, Any]]:
    """A ``_fwd``/``_bwd`` pair as one formula: the cotangent of each floating-point input, by its name.

    >>> from manual_grad.formulas.mse import mse_fwd, mse_bwd
    >>> import jax.numpy as jnp
    >>> grads = pulled(mse_fwd, mse_bwd)(1.0, y_hat=jnp.ones(1), y=jnp.zeros(1))
    >>> {name: g.tolist() for name, g in grads.items()}
    {'y_hat': [2.0], 'y': [-2.0]}
    """
    order = list(inspect.signature(fwd).parameters)

    def formula(dout: Any, **inputs: Any) -> dict[str, Any]:
        names = [name for name in order if name in inputs and differentiable(inputs[name])]
        return dict(zip(names, bwd(fwd(**inputs)[1], dout), strict=True))

    return formula


def named(fwd: Callable, grads: Callable) -> Callable[..., dict[str, Any]]:
    """A ``_fwd``/``_grads`` pair as one formula: ``dW2`` is returned under the name ``W2``."""

    def formula(dout: Any, **inputs: Any) -> dict[str, Any]:
        return {name.removeprefix("d"): g for name, g in grads(fwd(**inputs)[1], dout).items()}

    return formula


def value_of(fwd: Callable) -> Callable[..., Any]:
    """The output of a ``_fwd`` function, without its residuals."""
    return lambda **inputs: fwd(**inputs)[0]
