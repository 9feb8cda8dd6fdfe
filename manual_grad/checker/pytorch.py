"""Check the backward pass of a PyTorch function: arrays become tensors on the way in, and arrays again after.

The truth is plain PyTorch differentiated by autograd in float64, or a JAX function.
"""

import contextlib
import functools
import inspect
import itertools
import random
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.border import InputError, describe
from manual_grad.checker.asking import (
    Question,
    Reply,
    as_arguments,
    called,
    copies,
    drawn,
    modified,
    names_of,
    positions_of,
    require_numbers,
    require_settings,
    until,
)
from manual_grad.checker.check import truth_of
from manual_grad.checker.closures import drawn_from, restore, states_of
from manual_grad.checker.diagnosis import OUT_OF_TIME, UNEXPLAINED
from manual_grad.checker.edits.search import AnotherFunction
from manual_grad.checker.findings import Finding, Report
from manual_grad.checker.graph import kept_on_ctx, pulled_back, with_tensors
from manual_grad.checker.recorded import Recording, recorded, replayed, untranslatable
from manual_grad.checker.tensors import (
    array_of,
    casts_of,
    in_float64,
    load_torch,
    require_tensors,
    strides_of,
    tensor_of,
    tensors_in,
)
from manual_grad.checker.truth import exact, is_float, native, pulled
from manual_grad.checker.verdict import verdict
from manual_grad.compare import TOLERANCES

WHO = "check_torch"
ROUGHLY = 0.03  # as far as values of the same function may differ in another dtype
OWN = "its own forward"
MOST = 10**4  # items of wrt: an iterator may never end
MOST_ALONE = 32  # arguments that are each asked for alone, and outputs


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of a PyTorch function.

    Attributes:
        torch: PyTorch.
        given: the arguments, followed by a module's parameters; detached.
        parameters: the names of those parameters.
        narrow: the dtypes that the truth casts to, and "" if it holds narrower tensors of its own: if there
            are any, it is kept in float64.
        random: whether the truth draws random numbers, which fill a tensor in the order of memory.
        roots: the functions that are called.
        generators: the random generators among the arguments and those that the functions can reach, each
            with its state.
    """

    torch: Any
    given: tuple[Any, ...]
    parameters: tuple[str, ...]
    narrow: frozenset[str] = frozenset()
    random: bool = False
    roots: tuple[Any, ...] = ()
    generators: tuple[tuple[Any, Any], ...] = ()

    def is_tensor(self, leaf: Any) -> bool:
        """Whether a leaf is a PyTorch tensor."""
        return isinstance(leaf, self.torch.Tensor)

    @property
    def tensors(self) -> list[Any]:
        """The tensors among them."""
        return [leaf for leaf in jax.tree.leaves(self.given) if self.is_tensor(leaf)]

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The same as NumPy arrays, with None for anything but a tensor."""
        return jax.tree.map(lambda leaf: array_of(leaf) if self.is_tensor(leaf) else None, self.given)

    def called_with(self, fn: Callable[..., Any], leaves: Sequence[Any]) -> Any:
        """A function's result with other leaves in place of the tensors."""
        rest = iter(leaves)
        filled = jax.tree.map(lambda leaf: next(rest) if self.is_tensor(leaf) else _fresh(leaf), self.given)
        n = len(filled) - len(self.parameters)
        out = fn(*filled[:n], **dict(zip(self.parameters, filled[n:], strict=True)))
        # a plain tuple in place of the tuple type that torch.max and others return, unknown to JAX
        return tuple(out) if isinstance(out, tuple) and jax.tree_util.all_leaves([out]) else out

    def on_cpu(self) -> "Arguments":
        """The same in the CPU's memory: what edited code does with wrong indices is an exception there."""
        return replace(self, given=jax.tree.map(lambda t: t.cpu() if self.is_tensor(t) else t, self.given))

    def copied(
        self, values: Sequence[Any], wrt: Sequence[int], plain: bool = False, cloned: bool = False
    ) -> tuple[list[Any], list[Any]]:
        """Fresh tensors that require gradients where ``wrt`` says so, and what to call a function with.

        A call may write to copies of its arguments, but gets a module's parameters as they are. They have the
        layouts of the given ones, or with ``plain``, if nothing is random, those of C order, where float64
        exists. With ``cloned``, the copies are autograd's, which are made faster.
        """
        leaves, own = [], []
        arguments = len(self.tensors) - len(self.parameters)
        for i, (value, given) in enumerate(zip(values, self.tensors, strict=True)):
            device = "cpu" if plain and given.device.type == "mps" else given.device
            strides = None if plain and not self.random else strides_of(given)
            make = partial(tensor_of, self.torch, np.array(value, order="C"), device, strides)
            leaves.append(make().requires_grad_() if i in wrt else make())
            passed_on = (lambda leaf, _: leaf.clone()) if cloned else partial(_passed_on, self.torch)
            copy = passed_on(leaves[-1], make) if i in wrt else make()
            own.append(copy if i < arguments else leaves[-1])
        return leaves, own

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record gradients; each block gets the same random numbers and restores the generators."""
        cuda = self.torch.cuda
        used = cuda.is_initialized() or any(t.is_cuda for t in self.tensors)
        devices = list(range(cuda.device_count())) if used else []
        states = np.random.get_state(), random.getstate()
        quiet = self.torch.autograd.set_detect_anomaly(False)  # NaN is reported, not raised
        with self.torch.random.fork_rng(devices), self.torch.enable_grad(), quiet:
            restore(self.generators)
            self.torch.default_generator.manual_seed(0)
            if devices:
                cuda.manual_seed_all(0)
            np.random.seed(0)
            random.seed(0)
            try:
                yield
            finally:
                np.random.set_state(states[0])
                random.setstate(states[1])
                restore(self.generators)

    @contextlib.contextmanager
    def of_truth(self, casts: bool = True) -> Iterator[None]:
        """The same for the truth, which is not cast to narrower dtypes."""
        devices = {t.device.type for t in self.tensors}
        with self.recorded(), contextlib.ExitStack() as stack:
            for device in devices:
                stack.enter_context(self.torch.autocast(device, enabled=False))
            if self.narrow:
                stack.enter_context(in_float64(self.torch, [], casts))
            yield


def _fresh(leaf: Any) -> Any:
    """Anything but a tensor: a copy of what a call may change."""
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def check_torch(
    fn: Callable[..., Any],
    *tensors: Any,
    reference: Callable[..., Any] | None = None,
    against: Callable[..., Any] | str | None = None,
    wrt: Iterable[str | int] | str | int | None = None,
    seed: int = 0,
    draws: int = 3,
    names: Iterable[str] | None = None,
    seconds: float | None = None,
) -> Report:
    """Check the backward pass of a PyTorch function, with random cotangents.

    Args:
        fn: a ``torch.autograd.Function`` (the class), a module, or any function with a backward pass of its
            own. A module's parameters are checked too where the truth takes them by name.
        *tensors: its arguments: tensors on any device, containers of tensors, and anything else, which is
            passed on unchanged. They are copied; ``requires_grad`` is not needed.
        reference: the same in plain PyTorch, which autograd differentiates in float64: what it casts to
            float32 or combines with float32 tensors of its own stays float64. Without it a
            ``torch.autograd.Function`` is compared with its own ``forward``, if autograd can trace that.
            It is translated to JAX, where the cause of a mistake is searched for step by step.
        against: the same in JAX, or the name of a formula, instead.
        wrt: the arguments to differentiate with respect to, by name or position; by default all
            floating-point ones.
        seed: seed for the cotangents and for the points near the given one.
        draws: the number of cotangents, each at its own point: the given one, and others near it.
        names: what to call the arguments; by default the names of the parameters.
        seconds: the longest time to look for the cause of a mistake; it does not limit the check itself.
    Returns:
        The report.
    Raises:
        InputError: something cannot be checked: a function that has no backward pass or raises, tensors on
            different devices, a reference whose result has the wrong shape.
        MissingExtra: PyTorch is not installed.

    >>> import torch
    >>> class Square(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x**2
    ...
    ...     @staticmethod
    ...     def backward(ctx, dout):
    ...         return ctx.saved_tensors[0] * dout
    >>> print(check_torch(Square, torch.tensor([1.0, -2.5, 3.0])).findings[0].diagnosis)
    scaled by 1/2 (the factor 2 is missing)
    """
    torch = load_torch(WHO)
    fn, reference = _function(torch, fn), _function(torch, reference)
    require_settings(WHO, {"fn": fn}, seed, draws)
    swapped = contextlib.ExitStack()
    truth, truth_name = _truth(torch, fn, reference, against, swapped)
    parameters = _parameters(torch, fn, reference if reference is not None else truth)
    shown = (*names_of(WHO, signed(torch, fn), tensors, names), *parameters)
    given = (*tensors, *parameters.values())
    require_tensors(torch, WHO, shown, given)
    wanted = _positions(wrt, shown)
    mine = _callable(torch, fn, swapped)

    def ask(args: tuple[Any, ...], cotangent: Callable[[Any], Any]) -> Reply:
        leaves = jax.tree.leaves(args)
        got, dout, written = _asked(arguments, mine, leaves, question.wrt, question.leaf_names, cotangent)
        if any(leaf is None for leaf in got):
            got = _without_none(question, leaves, got, dout)
        return Reply(_placed(question, args, got), dout, written)

    def rerun(
        args: tuple[Any, ...], cotangent: Callable[[Any], Any]
    ) -> Callable[[Callable[[Any], Any]], Any]:
        again = _again(arguments.on_cpu(), mine, question, jax.tree.leaves(args), cotangent)
        return lambda copied: _placed(question, args, again())

    with torch.inference_mode(False), swapped:
        detach = lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf  # noqa: E731
        detached = called(WHO, "PyTorch", jax.tree.map, detach, given)  # not where all tensors must be fake
        away = {t.device.type for t in jax.tree.leaves(detached) if isinstance(t, torch.Tensor)} - {"cpu"}
        roots = (fn, reference, detached)
        generators = tuple(states_of(torch, roots))
        arguments = Arguments(torch, detached, tuple(parameters), roots=roots, generators=generators)
        arrays = arguments.arrays
        positions = positions_of(WHO, arrays, shown, wanted)
        notes = _unchecked(torch, fn, parameters) + _rules_unchecked(torch, fn)
        foreign = None
        if against is None:
            arguments = _looked_at(arguments, truth)
            foreign = partial(_pulled, arguments, truth, truth_name)
        translation = functools.cache(lambda: _translated(arguments, truth))
        plain = lambda *args: arguments.called_with(truth, jax.tree.leaves(args))  # noqa: E731
        question = Question(
            WHO,
            "backward",
            plain,
            truth_name,
            arrays,
            shown,
            positions,
            ask,
            scalar=False,
            foreign=foreign,
            translated=lambda: translation()[0],
            until=until(WHO, seconds),
            in_any_layout=True,
            rerun=rerun,
            away=bool(away),
        )
        with arguments.recorded():
            _, own = arguments.copied(question.values, question.wrt)
            out = called(WHO, "fn", arguments.called_with, mine, own)
            values = [array_of(t) for t in tensors_in(torch, WHO, "fn", out)]
        require_numbers(WHO, "fn", values)
        if foreign is not None:
            notes += _examined(question, arguments, truth, [v for v in values if is_float(v)])
            notes += _allowance(arguments, question)
        report = verdict(question, seed, draws, [leaf for leaf in values if is_float(leaf)], notes)
        report = _each_alone(arguments, mine, question, report)
        untold = [f for f in report.findings if UNEXPLAINED in f.diagnosis and OUT_OF_TIME not in f.diagnosis]
        if foreign is not None and untold and translation()[0] is None:
            why = translation()[1]
            other = "it is searched for step by step where the function is given in JAX too, as against"
            hint = f"the cause was searched for in the numbers alone, as {why}; {other}"
            report = replace(report, notes=(*report.notes, hint))
    return report


def assert_torch_matches(fn: Callable[..., Any], *tensors: Any, **settings: Any) -> None:
    """Fail with the report unless :func:`check_torch` finds every gradient right: one line in a test.

    Args:
        fn: the function with a backward pass of its own.
        *tensors: see :func:`check_torch`.
        **settings: see :func:`check_torch`.
    Returns:
        Nothing.
    Raises:
        AssertionError: a gradient is wrong; the message is the report.
        InputError: it cannot be checked.
        MissingExtra: PyTorch is not installed.

    >>> import torch
    >>> assert_torch_matches(torch.nn.functional.silu, torch.ones(3), reference=lambda x: x * x.sigmoid())
    """
    __tracebackhide__ = True
    report = check_torch(fn, *tensors, **settings)
    if not report.ok:
        raise AssertionError(str(report))


def _passed_on(torch: Any, leaf: Any, copy: Callable[[], Any]) -> Any:
    """A copy of a tensor, whose gradient is passed on to that tensor as it is: dense or sparse."""

    class Argument(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, leaf: Any) -> Any:
            ctx.set_materialize_grads(False)  # None stays None
            return copy()

        @staticmethod
        def backward(ctx: Any, dout: Any) -> Any:
            return dout

    return Argument.apply(leaf)


# --- functions --------------------------------------------------------------------------------------------


def _function(torch: Any, fn: Any) -> Any:
    """The class of a ``torch.autograd.Function`` if its ``apply`` was given; anything else unchanged."""
    own = getattr(fn, "__self__", None)
    return own if getattr(fn, "__name__", "") == "apply" and _is_function(torch, own) else fn


def _is_function(torch: Any, fn: Any) -> bool:
    return isinstance(fn, type) and issubclass(fn, torch.autograd.Function)


def _callable(torch: Any, fn: Any, swapped: contextlib.ExitStack) -> Callable[..., Any]:
    """The function to call with the arguments and, by name, a module's parameters.

    The module has them until the next call, as its backward pass may call it again.
    """
    if _is_function(torch, fn):
        return fn.apply
    if not _is_module(torch, fn):
        return fn

    def call(*args: Any, **parameters: Any) -> Any:
        swapped.close()
        floats = [t for t in jax.tree.leaves(args) if isinstance(t, torch.Tensor) and t.is_floating_point()]
        wide = any(t.dtype == torch.float64 for t in floats)
        inner, prefix = _uncompiled(fn)
        own = {**dict(inner.named_parameters()), **dict(inner.named_buffers())}
        own = {name: t.detach().clone() for name, t in own.items()}
        own = {name: t.double() if wide and t.is_floating_point() else t for name, t in own.items()}
        named = {prefix + name: t for name, t in {**own, **parameters}.items()}
        swapped.enter_context(with_tensors(fn, named))
        return fn(*args)

    return call


def _is_module(torch: Any, fn: Any) -> bool:
    """Whether a function is a module that can be called with other parameters in place of its own."""
    return isinstance(fn, torch.nn.Module) and not isinstance(fn, torch.jit.ScriptModule)


def _uncompiled(module: Any) -> tuple[Any, str]:
    """The module that ``torch.compile`` was given, and what stands before the names of its parameters."""
    inner = getattr(module, "_orig_mod", None)
    return (module, "") if inner is None else (inner, "_orig_mod.")


def signed(torch: Any, fn: Any) -> Callable[..., Any]:
    """The function whose parameters name the arguments."""
    fn = _function(torch, fn)
    if _is_function(torch, fn):
        return fn.forward if _has_setup(torch, fn) else partial(fn.forward, None)
    return _uncompiled(fn)[0].forward if isinstance(fn, torch.nn.Module) else fn


def _has_setup(torch: Any, fn: Any) -> bool:
    return fn.setup_context is not torch.autograd.Function.setup_context


def _truth(
    torch: Any, fn: Any, reference: Any, against: Any, swapped: contextlib.ExitStack
) -> tuple[Callable[..., Any], str]:
    """The function to differentiate, and what to call it."""
    for name, given in (("fn", fn), ("reference", reference)):
        if isinstance(given, torch.nn.Module) and any(map(torch.nn.parameter.is_lazy, given.parameters())):
            raise InputError(
                f"{WHO}: {name} has parameters without a shape, expected one that was called once"
            )
        if isinstance(given, type) and issubclass(given, torch.nn.Module):
            raise InputError(f"{WHO}: {name} is the class {given.__name__}, expected an instance of it")
        if isinstance(given, torch.autograd.Function):
            kind = type(given).__name__
            raise InputError(f"{WHO}: {name} is an instance of {kind}, expected the class itself")
    if reference is not None and against is not None:
        raise InputError(f"{WHO}: reference and against are both given, expected one of them")
    if against is not None:
        return truth_of(WHO, against, "against", fn, "fn")
    if reference is not None:
        if not callable(reference):
            raise InputError(f"{WHO}: reference is {describe(reference)}, expected a PyTorch function")
        return _callable(torch, reference, swapped), "reference"
    if not _is_function(torch, fn):
        raise InputError(
            f"{WHO}: give reference=, the same function in plain PyTorch, or against=, the same in JAX"
        )
    return partial(_own_forward, torch, fn), OWN


def _own_forward(torch: Any, fn: Any, *args: Any) -> Any:
    """The ``forward`` of a ``torch.autograd.Function`` as a plain function."""
    if _has_setup(torch, fn):
        return fn.forward(*args)
    kept = dict.fromkeys(("save_for_backward", "save_for_forward", "mark_dirty", "mark_non_differentiable",
                          "set_materialize_grads"), lambda *args: None)  # fmt: skip
    return fn.forward(SimpleNamespace(needs_input_grad=(True,) * len(args), **kept), *args)


def _parameters(torch: Any, fn: Any, truth: Any) -> dict[str, Any]:
    """A module's parameters, if the truth accepts them by name."""
    if not _is_module(torch, fn):
        return {}
    own = {name: p for name, p in _uncompiled(fn)[0].named_parameters() if p.requires_grad}
    try:
        takes = set(
            dict(_uncompiled(truth)[0].named_parameters())
            if _is_module(torch, truth)
            else inspect.signature(truth).parameters
        )
    except (TypeError, ValueError):  # a built-in function
        takes = set()
    return own if set(own) <= takes else {}


def _unchecked(torch: Any, fn: Any, parameters: dict[str, Any]) -> list[str]:
    """A note if a module's parameters were not checked."""
    if parameters or not isinstance(fn, torch.nn.Module) or not any(True for _ in fn.parameters()):
        return []
    names = ", ".join(name for name, _ in fn.named_parameters())
    return [f"the module's parameters were not checked: no function to compare with takes {names} by name"]


def _rules_unchecked(torch: Any, fn: Any) -> list[str]:
    """A note if a ``torch.autograd.Function`` has rules for forward mode or vmap."""
    if not _is_function(torch, fn):
        return []
    own = [
        name for name in ("jvp", "vmap") if getattr(fn, name) is not getattr(torch.autograd.Function, name)
    ]
    return [f"{' and '.join(own)} of {fn.__name__}: not checked, only backward is"] if own else []


# --- arguments --------------------------------------------------------------------------------------------


def _positions(wrt: Any, names: Sequence[str]) -> list[int] | None:
    """The positions of the arguments to differentiate with respect to, given by name or position."""
    if wrt is None:
        return None
    wanted = [wrt]
    if not isinstance(wrt, str):
        with contextlib.suppress(Exception):  # one position, or an iterator that raises
            wanted = list(itertools.islice(wrt, MOST))
    known: dict[Any, int] = {i: i for i in range(len(names))} | {name: i for i, name in enumerate(names)}
    for which in wanted:
        if not isinstance(which, str | int | np.integer) or isinstance(which, bool) or which not in known:
            expected = f"expected names among {', '.join(names)}, or positions"
            raise InputError(f"{WHO}: wrt has {describe(which)}, {expected}")
    if not wanted:
        raise InputError(f"{WHO}: wrt is {describe(wrt)}, expected at least one name")
    return [known[which] for which in wanted]


# --- a call -----------------------------------------------------------------------------------------------


def _asked(
    arguments: Arguments,
    fn: Callable[..., Any],
    values: Sequence[np.ndarray],
    wrt: Sequence[int],
    names: Sequence[str],
    cotangent: Callable[[Any], Any],
    bare: bool = False,
) -> tuple[list[Any], Any, tuple[str, ...]]:
    """The gradient with respect to each leaf of ``wrt``, the cotangent, and notes about the call.

    With ``bare``, an output whose cotangent is 0 has none.
    """
    torch, names = arguments.torch, as_arguments(names)
    with arguments.recorded():
        leaves, own = arguments.copied(values, wrt)
        before, nodes = [array_of(t) for t in own], [t.grad_fn for t in own]
        out = called(WHO, "fn", arguments.called_with, fn, own)
        outputs = tensors_in(torch, WHO, "fn", out)
        after = [array_of(t) for t in own]
        notes = modified(names, before, after, "fn") + kept_on_ctx(outputs, own, names)
        notes += [
            f"{name} was modified unknown to autograd: ctx.mark_dirty is missing"
            for name, node, t, old, new in zip(names, nodes, own, before, after, strict=True)
            if node is not None and t.grad_fn is node and modified([name], [old], [new], "fn")
        ]
        if not any(t.requires_grad for t in outputs):
            listed = not jax.tree_util.all_leaves(arguments.given)
            why = ", which a torch.autograd.Function does not see in lists and dicts" if listed else ""
            said = "fn has no backward pass: to autograd, its result does not depend on its arguments"
            raise InputError(f"{WHO}: {said}{why}")
        notes += [
            f"output {i} of fn is not differentiable: its cotangent is taken to be 0"
            for i, t in enumerate(outputs)
            if t.is_floating_point() and not t.requires_grad
        ]
        dout = cotangent(jax.tree.map(lambda t: array_of(t) if arguments.is_tensor(t) else None, out))
        flows = iter(t.requires_grad for t in outputs)
        dout = jax.tree.map(lambda d: d if next(flows) or not is_float(d) else np.zeros_like(d), dout)
        pairs = [(d, t) for d, t in zip(jax.tree.leaves(dout), outputs, strict=True) if t.requires_grad]
        pairs = [(d, t) for d, t in pairs if np.any(d) or not bare]
        douts = [tensor_of(torch, d, t.device) for d, t in pairs]
        given = [array_of(d) for d in douts]
        outs, of = [t for _, t in pairs], [leaves[i] for i in wrt]
        got = called(WHO, "backward", pulled_back, torch, outs, of, douts, arguments.roots)
    notes += modified(names, after, [array_of(t) for t in own], "backward")
    notes += modified(["the cotangent"] * len(given), given, [array_of(d) for d in douts], "backward")
    return [None if g is None else array_of(g) for g in got], copies(dout), tuple(notes)


def _without_none(question: Question, leaves: Sequence[Any], got: Sequence[Any], dout: Any) -> list[Any]:
    """A gradient with zeros where none was returned and the truth is 0."""
    floats = [leaf for leaf in jax.tree.leaves(dout) if is_float(leaf)]
    with exact(), contextlib.suppress(Exception):
        wants = pulled(question.point(leaves, floats))
        zeros = [np.zeros_like(leaves[i]) for i in question.wrt]
        return [z if g is None and not w.any() else g for g, w, z in zip(got, wants, zeros, strict=True)]
    return list(got)


def _placed(question: Question, args: tuple[Any, ...], got: Sequence[Any]) -> tuple[Any, ...]:
    """The gradient of each argument of ``positions``, given that of each leaf of ``wrt``."""
    known, place = dict(zip(question.wrt, got, strict=True)), iter(range(len(question.values)))
    tree = jax.tree.map(lambda leaf: known.get(next(place)), args)
    return tuple(tree[i] for i in question.positions)


def _again(
    arguments: Arguments,
    fn: Callable[..., Any],
    question: Question,
    values: Sequence[Any],
    cotangent: Callable[[Any], Any],
) -> Callable[[], list[Any]]:
    """What computes a gradient again and again: the function, which must return the same, and its backward.

    It does without the care of :func:`_asked`, whose notes are not needed twice.
    """
    torch, known = arguments.torch, {}

    def run(first: bool = False) -> list[Any]:
        with arguments.recorded():
            leaves, own = arguments.copied(values, question.wrt, cloned=True)
            out = arguments.called_with(fn, own)
            arrays = jax.tree.map(lambda t: array_of(t) if arguments.is_tensor(t) else None, out)
            if first:
                known["out"] = arrays
            elif not _alike(jax.tree.leaves(arrays), jax.tree.leaves(known["out"]), 1e-6):
                raise AnotherFunction
            pairs = zip(jax.tree.leaves(cotangent(arrays)), tensors_in(torch, WHO, "fn", out), strict=True)
            flowing = [(tensor_of(torch, d, t.device), t) for d, t in pairs if t.requires_grad]
            outs, of = [t for _, t in flowing], [leaves[i] for i in question.wrt]
            got = pulled_back(torch, outs, of, [d for d, _ in flowing], arguments.roots)
        return [None if g is None else array_of(g) for g in got]

    unknown = [k for k, g in enumerate(run(first=True)) if g is None]
    filled = _without_none(question, values, [None] * len(question.wrt), cotangent(known["out"]))

    def again() -> list[Any]:
        return [filled[k] if g is None else g for k, g in enumerate(run())]

    return again if unknown else run


def _each_alone(arguments: Arguments, fn: Callable[..., Any], question: Question, report: Report) -> Report:
    """The report, with each right gradient that differs where no other argument requires one.

    A backward pass that reads ``ctx.needs_input_grad`` then takes another way; so does one that, after
    ``ctx.set_materialize_grads(False)``, gets None, as where only one of several outputs has a cotangent.
    """

    def ask(wrt: Sequence[int], only: int | None = None, bare: bool = False) -> tuple[list[Any], Any]:
        cotangent = partial(_cotangent, report.seed, only)
        return _asked(arguments, fn, question.values, wrt, question.leaf_names, cotangent, bare)[:2]

    found, notes = list(report.findings), list(report.notes)
    wants, dout = ask(question.wrt)
    for k, i in enumerate(question.wrt[:MOST_ALONE] if len(wants) > 1 else ()):
        why = f"where only {found[k].name} requires a gradient (ctx.needs_input_grad)"
        found[k] = _alone(found[k], wants[k], lambda i=i: ask([i])[0][0], why, notes)  # type: ignore[misc]
    flowing = [k for k, d in enumerate(jax.tree.leaves(dout)) if is_float(d) and np.any(d)]
    for one in flowing[:MOST_ALONE] if len(flowing) > 1 else ():
        why = f"where only output {one} has a cotangent (None for others: ctx.set_materialize_grads(False))"
        for k, want in enumerate(ask(question.wrt, one)[0]):
            bare = lambda one=one, k=k: ask(question.wrt, one, True)[0][k]  # noqa: E731
            found[k] = _alone(found[k], want, bare, why, notes)
    return replace(report, findings=tuple(found), notes=tuple(dict.fromkeys(notes)))


def _cotangent(seed: int, only: int | None, out: Any) -> Any:
    """A random cotangent for an output, or for one of its leaves alone."""
    leaves, tree = jax.tree.flatten(drawn(np.random.default_rng(seed))(out))
    some = [d if only in (None, k) or not is_float(d) else np.zeros_like(d) for k, d in enumerate(leaves)]
    return jax.tree.unflatten(tree, some)


def _alone(finding: Finding, want: Any, ask: Callable[[], Any], why: str, notes: list[str]) -> Finding:
    """A finding about one leaf, whose gradient must be the same where ``ask`` differentiates less."""
    if not finding.ok:
        return finding
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            got = ask()
    except InputError as error:
        if "has no backward pass" not in str(error):
            said = str(error).removeprefix(f"{WHO}: ")
            return replace(finding, ok=False, diagnosis=f"raises {why}: {said}", max_error=np.inf)
        got = None
    zero = want is None or not np.any(want)
    if got is None and any("None of the inputs have requires_grad" in str(w.message) for w in warned):
        notes.append(
            f"{finding.name} has no gradient where no input of checkpoint(use_reentrant=True) has one"
        )
        return finding
    if got is None:
        said = "" if zero else f"no gradient was returned (None) {why}"
        return replace(finding, ok=not said, diagnosis=said, max_error=np.inf if said else finding.max_error)
    want = np.zeros_like(got) if want is None else want
    g, w = got.astype(np.float64), want.astype(np.float64)
    off = np.where(np.isfinite(w), np.abs(g - w), 0.0)
    if np.max(off) <= TOLERANCES[got.dtype.name] * np.max(np.abs(w), where=np.isfinite(w), initial=0.0):
        return finding
    at = tuple(int(j) for j in np.unravel_index(np.argmax(off), off.shape))
    worst = float(off[at] / (np.max(np.abs(w)) or 1.0))
    where = (at, float(g[at]), float(w[at]))
    return replace(finding, ok=False, diagnosis=f"differs {why}", max_error=worst, where=where)


# --- the truth --------------------------------------------------------------------------------------------


def _looked_at(arguments: Arguments, truth: Callable[..., Any]) -> Arguments:
    """The same, with what a call of the truth shows; unchanged if it raises, as it will again."""
    narrow = [*_casts(arguments, truth)]
    values = jax.tree.leaves(_in_float64(arguments.arrays))
    generators = [arguments.torch.default_generator, *arguments.torch.cuda.default_generators]
    with arguments.of_truth(), contextlib.suppress(InputError), in_float64(arguments.torch, narrow):
        own = arguments.copied(values, _floats(values), plain=True)[1]
        before = [*states_of(arguments.torch, generators), *arguments.generators]
        called(WHO, "", arguments.called_with, truth, own)
        return replace(arguments, narrow=frozenset(narrow), random=drawn_from(before))
    return arguments


def _translated(arguments: Arguments, truth: Callable[..., Any]) -> tuple[Callable[..., Any] | None, str]:
    """The truth in JAX, as recorded at the given point, or None and why there is none."""
    torch, recording = arguments.torch, Recording()
    values = jax.tree.leaves(_in_float64(arguments.arrays))
    floats = _floats(values)
    with arguments.of_truth():
        _, own = arguments.copied(values, (), plain=True)
        inputs = [own[i] for i in floats]
        with recorded(torch, recording, inputs):
            out = called(WHO, "", arguments.called_with, truth, own)
    recording.results = [t for t in tensors_in(torch, WHO, "", out) if t.is_floating_point()]
    if why := untranslatable(recording):
        return None, why
    fn = replayed(torch, recording, inputs)
    return (lambda *args: fn(*(jax.tree.leaves(args)[i] for i in floats))), ""


def _casts(arguments: Arguments, fn: Callable[..., Any]) -> set[str]:
    """The narrower dtypes that a function casts to, by itself or by the caller's ``torch.autocast``."""
    found: set[str] = set()
    with arguments.recorded(), contextlib.suppress(InputError), casts_of(arguments.torch, found):
        values = jax.tree.leaves(arguments.arrays)
        _, own = arguments.copied(values, _floats(values))
        called(WHO, "", arguments.called_with, fn, own)
    return found


def _floats(values: Sequence[Any]) -> list[int]:
    return [i for i, value in enumerate(values) if is_float(value)]


def _in_float64(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(np.float64) if is_float(leaf) else leaf, tree)


def _true_outputs(
    arguments: Arguments, truth: Callable[..., Any], name: str, own: Sequence[Any]
) -> list[Any]:
    """The floating-point outputs of the truth, which may raise anything."""
    try:
        out = called(WHO, name, arguments.called_with, truth, own)
    except InputError as error:
        if not re.search("[Dd]ouble|float64", str(error)):
            raise
        remedy = "it is called in float64: pass its other tensors as arguments, or give the module itself"
        raise InputError(f"{error}; {remedy}") from error
    leaves = called(WHO, name, jax.tree.leaves, out)
    if tensors := [t for t in leaves if arguments.is_tensor(t)]:
        tensors_in(arguments.torch, WHO, name, tensors)
    return [t for t in tensors if t.is_floating_point()]


def _examined(
    question: Question, arguments: Arguments, truth: Callable[..., Any], value: Sequence[Any]
) -> list[str]:
    """Notes about the truth; refuse one that differs from call to call, or draws other random numbers."""
    name, values = question.fn_name, jax.tree.leaves(_in_float64(question.args))
    outs, notes = [], []
    for _ in range(2):
        with arguments.of_truth():
            _, own = arguments.copied(values, question.wrt, plain=True)
            before = [array_of(t) for t in own]
            outs.append([array_of(t) for t in _true_outputs(arguments, truth, name, own)])
            names = as_arguments(question.leaf_names)
            notes = modified(names, before, [array_of(t) for t in own], name)
    if not _alike(outs[0], outs[1], 1e-6):
        raise InputError(
            f"{WHO}: {name} differs from call to call, expected the same result each time; random numbers "
            "of a source that is not PyTorch's, NumPy's or Python's must be an argument"
        )
    if arguments.random and not _alike(outs[0], value, ROUGHLY):
        with arguments.recorded():
            narrower = _true_outputs(arguments, truth, name, arguments.copied(question.values, ())[1])
        if _alike([array_of(t) for t in narrower], value, ROUGHLY):
            raise InputError(
                f"{WHO}: {name} draws random numbers, which differ in float64, where its gradient is "
                "computed; pass the numbers as an argument, or give float64 tensors"
            )
    return notes


def _allowance(arguments: Arguments, question: Question) -> list[str]:
    """A note on errors that are allowed because the truth itself casts to a narrower dtype."""
    own = {native(v.dtype).name for v in question.values if is_float(v)}
    coarsest = max(arguments.narrow - {""} - own, key=lambda name: TOLERANCES[name], default="")
    if not coarsest or any(TOLERANCES.get(name, 0.0) >= TOLERANCES[coarsest] for name in own):
        return []
    allowed = f"errors up to {TOLERANCES[coarsest]:.2g} of the largest are allowed"
    return [f"{question.fn_name} casts to {coarsest}: {allowed}"]


def _alike(left: Sequence[np.ndarray], right: Sequence[np.ndarray], share: float) -> bool:
    """Whether outputs agree up to a share of the largest entry."""
    return len(left) == len(right) and all(
        a.shape == b.shape and _close(a.astype(np.float64), b.astype(np.float64), share)
        for a, b in zip(left, right, strict=True)
    )


def _close(a: np.ndarray, b: np.ndarray, share: float) -> bool:
    largest = np.max(np.abs(b), initial=0.0, where=np.isfinite(b))
    return np.allclose(a, b, 0.0, share * largest, equal_nan=True)


def _pulled(
    arguments: Arguments,
    truth: Callable[..., Any],
    name: str,
    values: Sequence[Any],
    wrt: Sequence[int],
    dout: Sequence[Any],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The truth's floating-point outputs, and the cotangent of each leaf of ``wrt``, by autograd."""
    torch = arguments.torch
    with arguments.of_truth():
        leaves, own = arguments.copied(values, _floats(values), plain=True)
        floating = _true_outputs(arguments, truth, name, own)
        shapes = [tuple(t.shape) for t in floating]
        if shapes != [np.shape(d) for d in dout]:
            given_shapes = ", ".join(map(str, shapes)) or "no floating-point tensor"
            expected = ", ".join(str(np.shape(d)) for d in dout)
            raise InputError(f"{WHO}: {name} returned {given_shapes}, expected {expected}")
        flowing = [(t, d) for t, d in zip(floating, dout, strict=True) if t.requires_grad]
        if wrt and not flowing:
            raise InputError(
                f"{WHO}: autograd cannot differentiate {name}; give reference=, the same function "
                "in plain PyTorch, or against=, the same in JAX"
            )
    with arguments.of_truth(casts=False):
        douts = [tensor_of(torch, np.array(d, order="C"), t.device).to(t.dtype) for t, d in flowing]
        outs, of = [t for t, _ in flowing], [leaves[i] for i in wrt]
        try:
            got = called(WHO, name, pulled_back, torch, outs, of, douts, arguments.roots) if wrt else []
        except InputError as error:
            other = "; give reference=, the same in plain PyTorch" if name == OWN else ""
            raise InputError(f"{error}{other}") from error
    found = [
        np.zeros(np.shape(values[i])) if g is None else array_of(g) for i, g in zip(wrt, got, strict=True)
    ]
    told = [array_of(t) for t in floating]
    if wrt and (casts := arguments.narrow - {""}):  # no more digits are required than it asks for itself
        coarsest = max(casts, key=lambda name: TOLERANCES[name])
        told = [out.astype(jnp.dtype(coarsest)) for out in told]
    return told, [g.astype(np.float64) for g in found]
