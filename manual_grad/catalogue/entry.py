"""What an entry of the catalogue is: all that is particular to one formula, said once.

Everything else follows from it: the rows of ``verify``, the kill matrix, hard inputs, golden vectors,
benchmarks, the tests of properties, the pages of the book. An entry says how the numbers of its inputs are
distributed; their shapes stand in the signature of ``f_fwd`` already.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jaxtyping import AbstractArray, Bool, Integer

from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.families import Family
from manual_grad.catalogue.golden import GoldenCases, Inputs
from manual_grad.catalogue.hard import Hard

Sizes = Mapping[str, Any]  # an axis as the signature calls it → its length, or of "*N" and "..." a shape
Distribution = Callable[[Draw, tuple[int, ...], Sizes], Any]


class EntryError(ValueError):
    """An entry that cannot be: the message names it, and what is missing or does not fit."""


@dataclass(frozen=True)
class Formula:
    """One formula: a forward function and its hand-derived backward one.

    Attributes:
        fwd, bwd: the pair, ``f_fwd`` and ``f_bwd``.
        reference: the plain forward function in ``reference/``, with the same parameters but for those that
            say how to compute, such as a chunk.
        draw: how inputs are drawn: for each primal the distribution of its entries, or, where they depend on
            each other, a function ``draw(Draw, **sizes)`` that gives all of them.
        sizes: the length of each axis; no two alike, so that a transposed result is seen.
        source: where the formula comes from.
        definition: the same written entry by entry, for symbols and decimals.
        mutants: wrong versions of it, as people write them.
        tiny: the lengths for an oracle that takes its time over each entry, where halving them is not enough:
            the smallest at which the answer is not a difference of nearly equal numbers.
        variants: name → sizes and settings (keywords of ``f_fwd``) that differ from the entry's own.
        stable: the reference again where the plain one overflows.
        polynomial: made of sums, products and selections alone, so that integers give exact answers.
        batch: where the samples are; :data:`NO_BATCH` where there are none. A test asks for one or the other.
        kinks: of the residuals, the arrays that a ReLU is applied to.
        grows: each (primal, axis) that may grow without another having to follow, or ``params['wte']``.
        functions: its Jacobians, slopes and other public functions of the same primals.
        hard: inputs on which autodiff itself may be wrong, and the right answers.
        golden: the cases of its golden vectors.
        op: the differentiable operation made of it.
        bench: at what sizes it is timed.
        shown: how the book's page of formulas has it.
    """

    fwd: Callable[..., Any]
    bwd: Callable[..., Any]
    reference: Callable[..., Any]
    draw: Mapping[str, Distribution] | Callable[..., Inputs]
    sizes: Sizes
    source: str
    definition: Callable[..., Any] | None = None
    mutants: tuple[Family, ...] = ()
    tiny: Sizes = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    stable: Callable[..., Any] | None = None
    polynomial: bool = False
    batch: "Batch | None" = None
    kinks: Callable[[Any], Any] | None = None
    grows: tuple[tuple[str, int], ...] = ()
    functions: "tuple[Function, ...]" = ()
    hard: tuple[Hard, ...] = ()
    golden: GoldenCases = field(default_factory=GoldenCases)
    op: "Op | None" = None
    bench: "Bench | None" = None
    shown: "Shown | None" = None

    @property
    def name(self) -> str:
        """What users call it, such as ``mse``."""
        return self.fwd.__name__.removesuffix("_fwd")

    @property
    def primals(self) -> tuple[str, ...]:
        """The names of what it is a function of, in order."""
        return tuple(n for n, p in _parameters(self.fwd).items() if p.kind is not p.KEYWORD_ONLY)

    def settings(self, variant: str = "") -> Inputs:
        """The keywords of ``f_fwd`` that a variant sets."""
        return {name: v for name, v in self.variants[variant].items() if name in _parameters(self.fwd)}

    def inputs(self, draw: Draw, variant: str = "", **sizes: Any) -> Inputs:
        """Primals drawn at random, and the variant's settings, by name.

        Args:
            draw: the generator, the dtype, and the style in which inputs are drawn.
            variant: one of :attr:`variants`.
            sizes: lengths in place of the entry's, as for a benchmark.
        """
        return _drawn(self.fwd, self.draw, self.sizes, self.tiny, self.variants[variant], draw, sizes)

    def for_reference(self, inputs: Inputs) -> Inputs:
        """The inputs without the settings that only say how to compute, which the reference does not have."""
        known = inspect.signature(self.reference).parameters
        return {name: value for name, value in inputs.items() if name in known}

    @property
    def floating(self) -> tuple[str, ...]:
        """The primals that have a cotangent: all but those that by the signature are integers or booleans."""
        hints = _parameters(self.fwd)
        return tuple(n for n in self.primals if not {Integer, Bool} & {*_dtypes(hints[n].annotation)})


@dataclass(frozen=True)
class Function:
    """A public function that is not a pair: a Jacobian, its compact form, a slope.

    Attributes:
        fn: the function.
        wrt: what it is the Jacobian with respect to; none where it is no Jacobian.
        part: of a compact form, what makes it of the dense Jacobian.
        reference: what gives it from ``reference/``: of a Jacobian the plain function that is differentiated,
            else the value itself. Of a formula's own functions, the formula's where it is not named.
        draw, sizes, variants, stable: as an entry's; of a formula's own functions, the formula's.
        called: how it is called with the inputs by name, where that is not ``fn(**inputs)``.
        golden: the cases of its golden vectors, which are its own.
        bench: at what sizes it is timed.
        shown: how the book's page of formulas has it.
    """

    fn: Callable[..., Any]
    wrt: tuple[str, ...] = ()
    part: Callable[[Any], Any] | None = None
    reference: Callable[..., Any] | None = None
    draw: Mapping[str, Distribution] | Callable[..., Inputs] | None = None
    sizes: Sizes | None = None
    variants: Mapping[str, Mapping[str, Any]] | None = None
    stable: Callable[..., Any] | None = None
    called: Callable[..., Any] | None = None
    golden: GoldenCases = field(default_factory=GoldenCases)
    bench: "Bench | None" = None
    shown: "Shown | None" = None

    @property
    def name(self) -> str:
        """What users call it."""
        return self.fn.__name__

    def inputs(self, draw: Draw, variant: str = "", **sizes: Any) -> Inputs:
        """Inputs drawn at random, by name: see :meth:`Formula.inputs`."""
        assert self.draw is not None
        assert self.sizes is not None
        return _drawn(self.fn, self.draw, self.sizes, {}, (self.variants or {"": {}})[variant], draw, sizes)


def adopted(formula: Formula, function: Function) -> Function:
    """A formula's own function, with what it has of the formula written out."""
    given = {name: getattr(formula, name) for name in ("reference", "draw", "sizes", "variants", "stable")}
    if function.reference is not None:
        given["stable"] = None
    mine = {name: getattr(function, name) for name in given if getattr(function, name) is not None}
    return replace(function, **given | mine)


@dataclass(frozen=True)
class Batch:
    """Where the samples are.

    Attributes:
        axes: the axis of the samples in each input, or gradient, that has one, by name; −1 is the last.
        out: their axis in the forward function's output, if there is one; of several outputs, each one's.
        mean: whether the output is a mean over them.
    """

    axes: Mapping[str, int]
    out: int | tuple[int, ...] | None = None
    mean: bool = False

    def along_out(self, fn: Callable[[Any, Any], Any], out: Any) -> Any:
        """``fn(leaf, axis)`` of each output."""
        axes = self.out if isinstance(self.out, tuple) else jax.tree.map(lambda _: self.out, out)
        return jax.tree.map(fn, out, axes)


NO_BATCH = Batch({})


@dataclass(frozen=True)
class Bench:
    """At what sizes a formula is timed, and what autodiff is given.

    Attributes:
        axes: the axes that grow, by the names of the entry's sizes; ``"H W"`` are two of one length.
        sizes: for each case their lengths, in that order.
        plain: the forward function that autodiff differentiates; the reference where there is none.
        wrt: what is differentiated with respect to; all floating-point primals where none is named.
        fixed: the other sizes and settings, where they are not the entry's first variant's.
        quick: which of the sizes belong to ``--quick``.
        estimated: which of the sizes are too large for a truth in float64.
        options: XLA's options with which autodiff is fastest, and with which both sides are timed as well.
        kinks: whether so many units meet ReLU's kink that rounding moves one across it.
        peer: whether PyTorch's and NumPy's version is timed beside it.
    """

    axes: tuple[str, ...]
    sizes: tuple[tuple[Any, ...], ...]
    plain: Callable[..., Any] | None = None
    wrt: tuple[str, ...] = ()
    fixed: Sizes = field(default_factory=dict)
    quick: tuple[int, ...] = ()
    estimated: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    kinks: bool = False
    peer: bool = False

    def lengths(self, size: tuple[Any, ...]) -> dict[str, Any]:
        """The sizes of a case by name."""
        pairs = zip(self.axes, size, strict=True)
        return {**self.fixed, **{name: n for names, n in pairs for name in names.split()}}


@dataclass(frozen=True)
class Op:
    """An operation of :mod:`manual_grad.ops`.

    Attributes:
        fn: the operation.
        bench: at what sizes it is timed; the formula's first where it is not said.
    """

    fn: Callable[..., Any]
    bench: Bench | None = None

    @property
    def name(self) -> str:
        """What users call it."""
        return self.fn.__name__


@dataclass(frozen=True)
class Shown:
    """A line of the book's page of formulas.

    Attributes:
        group: under which heading: ``Layers``, ``Activations``, ``Losses``, ``Whole networks``.
        title: what it is.
        forward, backward: LaTeX of what goes forward, and of each line of what comes back.
        tags: the equations that it is.
    """

    group: str
    title: str
    forward: str
    backward: tuple[str, ...]
    tags: tuple[str, ...] = ()


def _parameters(fwd: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(fwd).parameters


def _dtypes(annotation: Any) -> list[Any]:
    ways = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return [getattr(way, "dtype", None) for way in ways]


def _drawn(
    fn: Callable[..., Any],
    how: Mapping[str, Distribution] | Callable[..., Inputs],
    sizes: Sizes,
    tiny: Sizes,
    variant: Mapping[str, Any],
    draw: Draw,
    instead: Sizes,
) -> Inputs:
    settings = {name: value for name, value in variant.items() if name in _parameters(fn)}
    if not isinstance(how, Mapping):
        accepted = inspect.signature(how).parameters
        settings |= {name: value for name, value in variant.items() if name not in accepted}
        passed = {name: value for name, value in variant.items() if name in accepted}
        asked = {
            n: v
            for n, v in {**sizes, **passed, **instead}.items()
            if n in accepted or n not in _parameters(fn)
        }
        return {**how(draw, **asked), **settings}
    more = {name: value for name, value in variant.items() if name not in settings}
    lengths = {name: _resized(draw, n) for name, n in {**sizes, **more, **instead}.items()}
    if draw.style == "tiny":
        lengths |= tiny
    draw = replace(draw, as_it_is=True)
    return {name: one(draw, _shape(fn, name, lengths), lengths) for name, one in how.items()} | settings


def _resized(draw: Draw, n: Any) -> Any:
    return tuple(map(draw.size, n)) if isinstance(n, tuple) else draw.size(n)


def _shape(fwd: Callable[..., Any], name: str, sizes: Sizes) -> tuple[int, ...]:
    """The shape that a parameter's annotation gives it, such as ``(7, 5)`` for ``Float[Array, "N K"]``."""
    annotation = _parameters(fwd)[name].annotation
    ways = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    arrays = [way for way in ways if isinstance(way, type) and issubclass(way, AbstractArray)]
    if not arrays:
        raise EntryError(
            f"{fwd.__name__}: the signature has no shape for {name}; let the entry's draw give it"
        )
    shape: tuple[int, ...] = ()
    for axis in arrays[0].dim_str.split():
        if axis.isdecimal():
            shape += (int(axis),)
        elif axis not in sizes:
            raise EntryError(f"{fwd.__name__}: {name} has an axis {axis}, and the entry's sizes have none")
        else:
            shape += sizes[axis] if isinstance(sizes[axis], tuple) else (sizes[axis],)
    return shape


# ------------------------------------------------------------------------------------------ distributions


def normal(draw: Draw, shape: tuple[int, ...], sizes: Sizes) -> Any:
    """Gaussian entries."""
    return draw.normal(*shape)


def far(draw: Draw, shape: tuple[int, ...], sizes: Sizes) -> Any:
    """Gaussian entries off to one side, so that no sum of differences cancels and each keeps its digits."""
    return 4 + draw.normal(*shape)


def positive(draw: Draw, shape: tuple[int, ...], sizes: Sizes) -> Any:
    """Entries between ½ and 2."""
    return draw.positive(*shape)


def distribution(draw: Draw, shape: tuple[int, ...], sizes: Sizes) -> Any:
    """Positive entries that sum to 1 along the last axis."""
    return draw.distribution(*shape)


def one_hot(draw: Draw, shape: tuple[int, ...], sizes: Sizes) -> Any:
    """One-hot rows."""
    return draw.one_hot(*shape)


def scaled_by(axis: str) -> Distribution:
    """Gaussian entries over the root of an axis' length, so that a product over that axis keeps its size."""
    return lambda draw, shape, sizes: draw.normal(*shape, scale=sizes[axis] ** -0.5)


def integers_below(axis: str) -> Distribution:
    """Integers from 0 to the length of another axis, less 1."""
    return lambda draw, shape, sizes: draw.integers(sizes[axis], *shape)
