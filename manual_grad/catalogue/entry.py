"""The entries of the catalogue: everything specific to one formula, stated once.

The rest is derived from it: the rows of ``verify``, the kill matrix, hard inputs, golden vectors, benchmarks,
property tests, the pages of the book. An entry says how the numbers of its inputs are distributed; their
shapes are already given by the signature of ``f_fwd``.
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

Sizes = Mapping[str, Any]  # an axis by its name in the signature → its length; for "*N" and "...", a shape
Distribution = Callable[[Draw, tuple[int, ...], Sizes], Any]


class EntryError(ValueError):
    """An invalid entry: the message names it, and what is missing or does not match."""


@dataclass(frozen=True)
class Formula:
    """One formula: a forward function and its hand-derived backward one.

    Attributes:
        fwd, bwd: the pair, ``f_fwd`` and ``f_bwd``.
        reference: the plain forward function in ``reference/``, with the same parameters except those that
            only affect how it is computed, such as a chunk.
        draw: how inputs are drawn: for each primal the distribution of its entries or, if they depend on one
            another, a function ``draw(Draw, **sizes)`` that returns all of them.
        sizes: the length of each axis; all different, so that a transposed result is noticed.
        source: where the formula comes from.
        definition: the same written entry by entry, for symbolic and decimal arithmetic.
        mutants: wrong versions of it, as people write them.
        tiny: the lengths for oracles that are slow per entry, if halving is not suitable: the smallest at
            which the answer is not a difference of nearly equal numbers.
        variants: name → sizes and settings (keywords of ``f_fwd``) that differ from the entry's own.
        stable: an alternative reference for inputs on which the plain one overflows.
        polynomial: whether it consists only of sums, products and selections, so that integers give exact
            answers.
        batch: the axes of the samples; :data:`NO_BATCH` if there are none. A test requires one or the other.
        kinks: the residuals that a ReLU is applied to.
        grows: each (primal, axis) that may grow without any other; a primal may be ``params['wte']``.
        functions: its Jacobians, slopes and other public functions of the same primals.
        hard: inputs on which autodiff itself may be wrong, and the right answers.
        golden: the cases of its golden vectors.
        op: the differentiable operation made from it.
        bench: the sizes at which it is timed.
        sends: a sharded axis → what each device has to send at least, on paper: the collective, and the
            number of entries as a sum of products of lengths. By default, where the batch is sharded, an
            all-reduce of the gradients of all primals without samples, and of the loss.
        shown: its line on the book's page of formulas.
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
    sends: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    shown: "Shown | None" = None

    @property
    def name(self) -> str:
        """Its name for users, such as ``mse``."""
        return self.fwd.__name__.removesuffix("_fwd")

    @property
    def primals(self) -> tuple[str, ...]:
        """The names of its arguments other than settings, in order."""
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
        """The inputs without the settings that only affect the computation, which the reference lacks."""
        known = inspect.signature(self.reference).parameters
        return {name: value for name, value in inputs.items() if name in known}

    @property
    def floating(self) -> tuple[str, ...]:
        """The primals that have a cotangent: all but the integers and booleans in the signature."""
        hints = _parameters(self.fwd)
        return tuple(n for n in self.primals if not {Integer, Bool} & {*_dtypes(hints[n].annotation)})


@dataclass(frozen=True)
class Function:
    """A public function that is not a pair: a Jacobian, its compact form, a slope.

    Attributes:
        fn: the function.
        wrt: the primals with respect to which it is the Jacobian; empty if it is not a Jacobian.
        part: for a compact form, a function that extracts it from the dense Jacobian.
        reference: the function in ``reference/``: for a Jacobian, the plain function to differentiate, else
            one that returns the value. For a formula's own functions, by default the formula's.
        draw, sizes, tiny, variants, stable: as for an entry; for a formula's own functions, the formula's.
        called: how to call it with the inputs by name, if not as ``fn(**inputs)``.
        golden: the cases of its own golden vectors.
        bench: the sizes at which it is timed.
        shown: its line on the book's page of formulas.
    """

    fn: Callable[..., Any]
    wrt: tuple[str, ...] = ()
    part: Callable[[Any], Any] | None = None
    reference: Callable[..., Any] | None = None
    draw: Mapping[str, Distribution] | Callable[..., Inputs] | None = None
    sizes: Sizes | None = None
    tiny: Sizes | None = None
    variants: Mapping[str, Mapping[str, Any]] | None = None
    stable: Callable[..., Any] | None = None
    called: Callable[..., Any] | None = None
    golden: GoldenCases = field(default_factory=GoldenCases)
    bench: "Bench | None" = None
    shown: "Shown | None" = None

    @property
    def name(self) -> str:
        """Its name for users."""
        return self.fn.__name__

    def inputs(self, draw: Draw, variant: str = "", **sizes: Any) -> Inputs:
        """Inputs drawn at random, by name: see :meth:`Formula.inputs`."""
        assert self.draw is not None
        assert self.sizes is not None
        chosen = (self.variants or {"": {}})[variant]
        return _drawn(self.fn, self.draw, self.sizes, self.tiny or {}, chosen, draw, sizes)


def adopted(formula: Formula, function: Function) -> Function:
    """A formula's own function, with the attributes that it takes from the formula filled in."""
    names = ("reference", "draw", "sizes", "tiny", "variants", "stable")
    given = {name: getattr(formula, name) for name in names}
    if function.reference is not None:
        given["stable"] = None
    if function.sizes is not None:
        given["tiny"] = None
    mine = {name: getattr(function, name) for name in given if getattr(function, name) is not None}
    return replace(function, **given | mine)


@dataclass(frozen=True)
class Batch:
    """The axes of the samples.

    Attributes:
        axes: the axis of the samples in each input (or gradient) that has one, by name; −1 is the last.
        out: their axis in the forward function's output, if any; for several outputs, one for each.
        mean: whether the output is a mean over the samples.
    """

    axes: Mapping[str, int]
    out: int | tuple[int, ...] | None = None
    mean: bool = False

    def along_out(self, fn: Callable[[Any, Any], Any], out: Any) -> Any:
        """``fn(leaf, axis)`` for each output."""
        axes = self.out if isinstance(self.out, tuple) else jax.tree.map(lambda _: self.out, out)
        return jax.tree.map(fn, out, axes)


NO_BATCH = Batch({})


@dataclass(frozen=True)
class Bench:
    """The sizes at which a formula is timed, and the function given to autodiff.

    Attributes:
        axes: the axes that grow, by the names of the entry's sizes; ``"H W"`` are two of the same length.
        sizes: the lengths of these axes, in this order, for each case.
        plain: the forward function that autodiff differentiates; by default the reference.
        truth: the forward function whose gradients in float64 are the truth; by default the reference. If
            that unrolls a thousand steps, which take half an hour to compile, it is a loop instead.
        wrt: the primals to differentiate with respect to; by default all floating-point ones.
        fixed: the other sizes and settings, if they are not those of the entry's first variant.
        quick: the sizes that belong to ``--quick``.
        estimated: the sizes that are too large for a truth in float64.
        options: the XLA options with which autodiff is fastest; both sides are timed with them as well.
        kinks: whether there are so many units at ReLU's kink that rounding moves one across it.
        peer: whether to time the PyTorch and NumPy versions as well.
        scale: the sizes over which ``bench --scale`` shows how the cost grows.
    """

    axes: tuple[str, ...]
    sizes: tuple[tuple[Any, ...], ...]
    plain: Callable[..., Any] | None = None
    truth: Callable[..., Any] | None = None
    wrt: tuple[str, ...] = ()
    fixed: Sizes = field(default_factory=dict)
    quick: tuple[int, ...] = ()
    estimated: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    kinks: bool = False
    peer: bool = False
    scale: "Scale | None" = None

    def lengths(self, size: tuple[Any, ...]) -> dict[str, Any]:
        """The sizes of a case by name."""
        pairs = zip(self.axes, size, strict=True)
        return {**self.fixed, **{name: n for names, n in pairs for name in names.split()}}


@dataclass(frozen=True)
class Scale:
    """One axis, or several of the same length, that grow over three decades while the others stay.

    Attributes:
        family: what the formula stands for, such as ``norm``.
        axes: the axes that grow, as in :class:`Bench`.
        sizes: their lengths.
        fixed: the other sizes.
    """

    family: str
    axes: str
    sizes: tuple[int, ...]
    fixed: Sizes = field(default_factory=dict)

    def of(self, bench: Bench) -> Bench:
        """The benchmark at these sizes; only the smallest, whose truth is cheap, is compared with float64."""
        sizes = tuple(((n,) if self.axes.startswith(("*", "...")) else n,) for n in self.sizes)
        return replace(
            bench,
            axes=(self.axes,),
            sizes=sizes,
            fixed={**bench.fixed, **self.fixed},
            quick=tuple(range(4)),
            estimated=tuple(range(1, len(sizes))),
            options={},
            peer=False,
        )


@dataclass(frozen=True)
class Op:
    """An operation of :mod:`manual_grad.ops`.

    Attributes:
        fn: the operation.
        bench: the sizes at which it is timed; by default the formula's first.
    """

    fn: Callable[..., Any]
    bench: Bench | None = None

    @property
    def name(self) -> str:
        """Its name for users."""
        return self.fn.__name__


@dataclass(frozen=True)
class Shown:
    """A line of the book's page of formulas.

    Attributes:
        group: the heading: ``Layers``, ``Activations``, ``Losses`` or ``Whole networks``.
        title: the name of the layer.
        forward, backward: LaTeX of the forward pass, and of each line of the backward pass.
        tags: the equations that it corresponds to.
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
    """The shape given by a parameter's annotation, such as ``(7, 5)`` for ``Float[Array, "N K"]``."""
    annotation = _parameters(fwd)[name].annotation
    ways = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    arrays = [way for way in ways if isinstance(way, type) and issubclass(way, AbstractArray)]
    if not arrays:
        raise EntryError(
            f"{fwd.__name__}: the signature has no shape for {name}; the entry's draw must provide it"
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
    """Gaussian entries far from 0 on one side, so that no sum of differences cancels and loses precision."""
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
