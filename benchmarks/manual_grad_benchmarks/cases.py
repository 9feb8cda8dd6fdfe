"""The cases: every formula pair, every drop-in, Jacobians, rows against columns, at growing sizes.

A case has several sides, functions of the same arguments. The ratio is that of the first two: ``manual`` over
``autodiff``, or ``columns`` over ``rows``. All data are arguments, so that nothing is folded into constants,
and a function without a scalar result gets a random cotangent.
"""

import fnmatch
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax

from manual_grad.catalogue import FORMULAS, FUNCTIONS
from manual_grad.catalogue.draw import Draw, differentiable
from manual_grad.catalogue.entry import Bench, Formula, Function
from manual_grad.catalogue.mlp import FIVE_LAYER
from manual_grad.training.loop import full_batch_gradient
from manual_grad.training.networks import HIDDEN, mlp_manual
from manual_grad_reference import plain

WIDTHS = (784, *HIDDEN, 10)
CHUNK = 1000


@dataclass(frozen=True)
class Side:
    """One way to compute a case.

    Attributes:
        fn: a function of the case's arguments that returns arrays or a pytree of them.
        dense: converts its result to the form in which sides are compared (a dense Jacobian).
    """

    fn: Callable[..., Any]
    dense: Callable[[Any], Any] = lambda out: out


@dataclass(frozen=True)
class Case:
    """One computation at one size.

    Attributes:
        name: the formula's name, with ``ops.`` before it for a drop-in.
        group: ``formula``, ``drop-in``, ``jacobian`` or ``layout``.
        size: the dimensions, for the table.
        inputs: draws the arguments.
        sides: name → side; the ratio is the first over the second.
        truth: the function that the sides are compared with, evaluated in float64.
        kept: name of a side → a function of the case's arguments that returns what its backward pass needs of
            the forward pass.
        quick: whether it belongs to ``--quick``.
        exact: whether the truth is affordable at this size; if not, the sides are compared with each other.
        options: the XLA options with which autodiff is fastest; both sides are timed with them as well.
        kinks: whether there are so many units at ReLU's kink that rounding moves one across it.
        peer: the function of :mod:`manual_grad_benchmarks.peers` that computes the same.
        grown: for ``bench --scale`` the ``family``, the ``axes`` that grow, and their length ``n``.
        lengths, wrt: for ``bench --devices`` the length of each axis, and what is differentiated with respect
            to; by default all floating-point primals.
    """

    name: str
    group: str
    size: str
    inputs: Callable[[Draw], tuple]
    sides: Mapping[str, Side]
    truth: Side
    kept: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    quick: bool = False
    exact: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    kinks: bool = False
    peer: str = ""
    grown: Mapping[str, Any] = field(default_factory=dict)
    lengths: Mapping[str, Any] = field(default_factory=dict)
    wrt: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name and size, as accepted by ``--case``."""
        return f"{self.name}[{self.size}]"


# -------------------------------------------------------------------------------- values and gradients


def by_hand(fwd: Callable, bwd: Callable, wrt: Sequence[int] | None = None) -> Callable:
    """``(value, gradients)`` of a pair: called with a cotangent, or None for a scalar, and the primals."""

    def run(dout: Any, *primals: Any) -> Any:
        out, res = fwd(*primals)
        floats = [i for i, primal in enumerate(primals) if differentiable(primal)]
        grads = dict(zip(floats, bwd(res, 1.0 if dout is None else dout), strict=True))
        return out, tuple(grads[i] for i in (wrt or floats))

    return run


def by_autodiff(fn: Callable, wrt: Sequence[int] | None = None) -> Callable:
    """The same for a plain function, by ``jax.value_and_grad`` or ``jax.vjp``."""

    def run(dout: Any, *primals: Any) -> Any:
        chosen = wrt or [i for i, primal in enumerate(primals) if differentiable(primal)]
        if dout is None:
            return jax.value_and_grad(fn, tuple(chosen))(*primals)
        out, pull = _vjp(fn, chosen, primals)
        return out, pull(dout)

    return run


def _vjp(fn: Callable, chosen: Sequence[int], primals: tuple) -> Any:
    def of_chosen(*some: Any) -> Any:
        given = dict(zip(chosen, some, strict=True))
        return fn(*(given.get(i, primal) for i, primal in enumerate(primals)))

    return jax.vjp(of_chosen, *(primals[i] for i in chosen))


def kept_by_hand(fwd: Callable) -> Callable:
    """The residuals of ``fwd``, as a function of a case's arguments."""
    return lambda _, *primals: fwd(*primals)[1]


def kept_by_autodiff(fn: Callable, wrt: Sequence[int] | None = None) -> Callable:
    """The same for a plain function: what ``jax.vjp`` keeps."""

    def residuals(_: Any, *primals: Any) -> Any:
        return _vjp(fn, wrt or [i for i, p in enumerate(primals) if differentiable(p)], primals)[1]

    return residuals


def _pair_cases(formula: Formula) -> list[Case]:
    """A formula's pair against autodiff of the plain forward function, one case per size."""
    assert formula.bench is not None
    wrt, fwd = _positions(formula, formula.bench), _set(formula.fwd, formula, formula.bench)
    ours = by_hand(fwd, formula.bwd, wrt)
    return _cases(formula.name, "formula", formula, formula.bench, ours, kept_by_hand(fwd))


def _drop_in_cases(formula: Formula) -> list[Case]:
    """The formula's operation, differentiated by JAX like its competitor."""
    assert formula.op is not None
    bench = formula.op.bench or _first_size(formula.bench)
    given = _set(formula.op.fn, formula, bench), _positions(formula, bench)
    name = f"ops.{formula.op.name}"
    return _cases(name, "drop-in", formula, bench, by_autodiff(*given), kept_by_autodiff(*given))


def _first_size(bench: Bench | None) -> Bench:
    assert bench is not None
    return replace(bench, sizes=bench.sizes[:1], quick=(), estimated=())


def _cases(
    name: str, group: str, formula: Formula, bench: Bench, ours: Callable, kept: Callable
) -> list[Case]:
    wrt, rival = _positions(formula, bench), _set(bench.plain or formula.reference, formula, bench)
    truth = _set(bench.truth or formula.reference, formula, bench)

    def inputs(d: Draw, size: tuple) -> tuple:
        primals = _primals(formula, bench, d, size)
        out = jax.eval_shape(rival, *primals)
        return (None if getattr(out, "shape", None) == () else d.like(out), *primals)

    return [
        Case(
            name,
            group,
            _label(size),
            partial(inputs, size=size),
            {"manual": Side(ours), "autodiff": Side(by_autodiff(rival, wrt))},
            Side(by_autodiff(truth, wrt)),
            {"manual": kept, "autodiff": kept_by_autodiff(rival, wrt)},
            quick=i in bench.quick,
            exact=i not in bench.estimated,
            options=bench.options,
            kinks=bench.kinks,
            peer=name.removeprefix("ops.") if bench.peer else "",
        )
        for i, size in enumerate(bench.sizes)
    ]


def _set(fn: Callable, formula: Formula, bench: Bench) -> Callable:
    """A function with those of the case's settings that it accepts."""
    settings = {**formula.settings(_variant(formula)), **bench.fixed}
    known = inspect.signature(fn).parameters if settings else ()
    return partial(fn, **{name: value for name, value in settings.items() if name in known})


def _variant(entry: Formula | Function) -> str:
    """The variant without a name, or the first."""
    return "" if "" in (entry.variants or {"": {}}) else next(iter(entry.variants or {}))


def _primals(entry: Formula | Function, bench: Bench, draw: Draw, size: tuple) -> tuple:
    drawn = entry.inputs(replace(draw, clear=False), _variant(entry), **bench.lengths(size))
    if isinstance(entry, Formula):
        return tuple(drawn[name] for name in entry.primals)
    return tuple(value for value in drawn.values() if not isinstance(value, str))


def _positions(formula: Formula, bench: Bench) -> list[int] | None:
    return [formula.primals.index(name) for name in bench.wrt] or None


def _label(size: Sequence[Any]) -> str:
    """Lengths and shapes in the form ``64×10``."""
    return "×".join("×".join(map(str, n)) if isinstance(n, tuple) else str(n) for n in size)


# ---------------------------------------------------------------------------------- the full batch


def _rows(d: Draw, N: int) -> tuple:
    return d.layers(*WIDTHS, rows=True), d.normal(N, WIDTHS[0]), d.one_hot(N, 10)


def _full_batch(N: int, quick: bool) -> Case:
    """Loss and parameter gradients of lecture D's network over N samples, in chunks by hand."""

    def manual(_: Any, params: Any, X: Any, Y: Any) -> Any:
        Xs, Ys = (a.reshape(-1, CHUNK, a.shape[-1]) for a in (X, Y))
        loss, grads = full_batch_gradient(mlp_manual, params, Xs, Ys, N)
        return loss, (grads,)

    return Case(
        "full_batch",
        "formula",
        f"{N}×{'-'.join(map(str, WIDTHS))}",
        lambda d: (None, *_rows(d, N)),
        {"manual": Side(manual), "autodiff": Side(by_autodiff(plain.mlp_loss, (0,)))},
        Side(by_autodiff(plain.mlp_loss, (0,))),
        quick=quick,
        peer="mlp",
        kinks=True,
    )


# ----------------------------------------------------------------------------------------- Jacobians


def _jacobian_cases(function: Function) -> list[Case]:
    """A Jacobian by hand, dense or in compact form, against ``jax.jacobian`` and ``jax.jacfwd``."""
    bench = function.bench
    assert bench is not None
    fn = bench.plain or function.reference
    assert fn is not None
    argnum = list(inspect.signature(function.fn).parameters).index(function.wrt[0])
    compact = function.part or (lambda J: J)
    return [
        Case(
            function.name,
            "jacobian",
            _label(size),
            lambda d, size=size: _primals(function, bench, d, size),  # type: ignore[misc]
            {
                "manual": Side(function.fn),
                "autodiff": Side(jax.jacobian(fn, argnum), compact),
                "jacfwd": Side(jax.jacfwd(fn, argnum), compact),
            },
            Side(jax.jacobian(fn, argnum), compact),
            quick=i in bench.quick,
            exact=i not in bench.estimated,
        )
        for i, size in enumerate(bench.sizes)
    ]


# ------------------------------------------------------------------------------------- rows against columns


def _layout(N: int, quick: bool) -> Case:
    """Lecture D's network with one sample per column and one per row: the same numbers, transposed."""

    def inputs(d: Draw) -> tuple:
        params, X, Y = _rows(d, N)
        return params, X, Y, [(W.T.copy(), b) for W, b in params], X.T.copy(), Y.T.copy()

    def columns(*args: Any) -> Any:
        return by_hand(FIVE_LAYER.fwd, FIVE_LAYER.bwd, (0,))(None, *args[3:])

    def autodiff(fn: Callable, which: slice) -> Callable:
        return lambda *args: by_autodiff(fn, (0,))(None, *args[which])

    def turned(out: Any) -> Any:
        value, (grads,) = out
        return value, ([(dW.T, db) for dW, db in grads],)

    return Case(
        "columns_against_rows",
        "layout",
        f"{N}×{'-'.join(map(str, WIDTHS))}",
        inputs,
        {
            "columns": Side(columns, turned),
            "rows": Side(lambda *args: _rows_of(*args[:3])),
            "autodiff in columns": Side(autodiff(plain.five_layer, slice(3, 6)), turned),
            "autodiff in rows": Side(autodiff(plain.mlp_loss, slice(0, 3))),
        },
        Side(autodiff(plain.mlp_loss, slice(0, 3))),
        quick=quick,
        kinks=True,
    )


def _rows_of(params: Any, X: Any, Y: Any) -> Any:
    loss, grads = mlp_manual(params, X, Y)
    return loss, (grads,)


def every_case() -> list[Case]:
    """All cases, in the order of the table."""
    return [
        *(case for formula in FORMULAS.values() if formula.bench for case in _pair_cases(formula)),
        _full_batch(6000, quick=True),
        _full_batch(60000, quick=False),
        *(case for f in FORMULAS.values() if f.op for case in _drop_in_cases(f)),
        *(case for function in FUNCTIONS.values() if function.bench for case in _jacobian_cases(function)),
        *(_layout(N, quick=N == 6000) for N in (600, 6000, 60000)),
    ]


def scale_cases() -> list[Case]:
    """The cases of ``bench --scale``: one formula of each family, over three decades."""
    found = []
    for formula in FORMULAS.values():
        if formula.bench and (scale := formula.bench.scale):
            cases = _pair_cases(replace(formula, bench=scale.of(formula.bench)))
            about = {"family": scale.family, "axes": scale.axes.replace("...", "entries").lstrip("*")}
            found += [replace(c, grown=about | {"n": n}) for c, n in zip(cases, scale.sizes, strict=True)]
    return found


def device_cases(devices: int) -> list[Case]:
    """The cases of ``bench --devices``: each formula at its middle size, with samples for every device."""
    found, share = [], math.lcm(8, devices)
    for formula in FORMULAS.values():
        if bench := formula.bench:
            lengths = zip(bench.axes, bench.sizes[len(bench.sizes) // 2], strict=True)
            size = tuple(-(-n // share) * share if axis == "N" else n for axis, n in lengths)
            (case,) = _pair_cases(replace(formula, bench=replace(bench, sizes=(size,))))
            known = {**formula.sizes, **bench.lengths(size)}
            found.append(replace(case, quick=bench.scale is not None, lengths=known, wrt=bench.wrt))
    return found


def chosen(patterns: Sequence[str], cases: Sequence[Case], quick: bool = False) -> list[Case]:
    """The cases that match any pattern (a name, a label or a glob); without patterns all, or the quick ones.

    Raises:
        KeyError: a pattern matches no case; the exception's argument is the pattern.

    >>> [case.label for case in chosen(["mse"], every_case())]
    ['mse[64]', 'mse[4096]', 'mse[1048576]']
    """
    for pattern in patterns:
        if not any(_named(pattern, case) for case in cases):
            raise KeyError(pattern)
    named = [case for case in cases if not patterns or any(_named(p, case) for p in patterns)]
    quickly = [case for case in named if case.quick]
    return quickly if quick and quickly else named


def _named(pattern: str, case: Case) -> bool:
    exact = pattern in (case.name, case.label, case.group)
    return exact or fnmatch.fnmatchcase(case.name, pattern) or fnmatch.fnmatchcase(case.label, pattern)
