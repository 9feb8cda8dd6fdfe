"""Check the backward pass of a PyTorch function: arrays become tensors on the way in, and arrays again after.

The truth is plain PyTorch differentiated by autograd in float64, or a JAX function.
"""

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
    called,
    copies,
    modified,
    names_of,
    one_line,
    positions_of,
    require_numbers,
    require_settings,
    until,
)
from manual_grad.checker.check import truth_of
from manual_grad.checker.findings import Report
from manual_grad.checker.truth import exact, is_float, pulled
from manual_grad.checker.verdict import verdict
from manual_grad.digits import MissingExtra

WHO = "check_torch"
DTYPES = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of a PyTorch function.

    Attributes:
        torch: PyTorch.
        given: the arguments, followed by a module's parameters; detached.
        parameters: the names of those parameters.
    """

    torch: Any
    given: tuple[Any, ...]
    parameters: tuple[str, ...]

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
        filled = jax.tree.map(lambda leaf: next(rest) if self.is_tensor(leaf) else leaf, self.given)
        n = len(filled) - len(self.parameters)
        return fn(*filled[:n], **dict(zip(self.parameters, filled[n:], strict=True)))

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record gradients; each block gets the same random numbers, and leaves the generator as it was."""
        cuda = self.torch.cuda
        devices = list(range(cuda.device_count())) if any(t.is_cuda for t in self.tensors) else []
        with self.torch.random.fork_rng(devices), self.torch.enable_grad():
            self.torch.default_generator.manual_seed(0)
            if devices:
                cuda.manual_seed_all(0)
            yield


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
        reference: the same in plain PyTorch, which autograd differentiates in float64. Without it a
            ``torch.autograd.Function`` is compared with its own ``forward``, if autograd can trace that.
        against: the same in JAX, or the name of a formula; then the cause of a mistake is searched for
            step by step.
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
    torch = load_torch()
    require_settings(WHO, {"fn": fn}, seed, draws)
    truth, truth_name = _truth(torch, fn, reference, against)
    parameters = _parameters(torch, fn, reference if reference is not None else truth)
    shown = (*names_of(WHO, signed(torch, fn), tensors, names), *parameters)
    given = (*tensors, *parameters.values())
    _require_tensors(torch, shown, given)
    detached = jax.tree.map(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, given)
    arguments = Arguments(torch, detached, tuple(parameters))
    arrays, mine = arguments.arrays, _callable(torch, fn)

    def ask(args: tuple[Any, ...], cotangent: Callable[[Any], Any]) -> Reply:
        leaves = jax.tree.leaves(args)
        got, dout, written = _asked(arguments, mine, leaves, question, cotangent)
        if any(leaf is None for leaf in got):  # no gradient is right where the truth is 0
            floats = [leaf for leaf in jax.tree.leaves(dout) if is_float(leaf)]
            with exact(), contextlib.suppress(Exception):
                wants = pulled(question.point(leaves, floats))
                zeros = [np.zeros_like(leaves[i]) for i in question.wrt]
                got = [
                    z if g is None and not w.any() else g for g, w, z in zip(got, wants, zeros, strict=True)
                ]
        known = dict(zip(question.wrt, got, strict=True))
        place = iter(range(len(leaves)))
        tree = jax.tree.map(lambda leaf: known.get(next(place)), args)
        return Reply(tuple(tree[i] for i in question.positions), dout, written)

    positions = positions_of(WHO, arrays, shown, _positions(wrt, shown))
    foreign = None if against is not None else partial(_pulled, arguments, truth, truth_name)
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
        until=until(WHO, seconds),
    )
    out = [array_of(t) for t in _outputs(arguments, _run(arguments, mine, arguments.tensors))]
    require_numbers(WHO, "fn", out)
    return verdict(
        question, seed, draws, [leaf for leaf in out if is_float(leaf)], _unchecked(torch, fn, parameters)
    )


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


def load_torch() -> Any:
    """Import PyTorch, or raise one line that names the extra to install."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise MissingExtra(f"{WHO} needs PyTorch: pip install 'manual-grad[torch]'") from None


# --- functions --------------------------------------------------------------------------------------------


def _is_function(torch: Any, fn: Any) -> bool:
    return isinstance(fn, type) and issubclass(fn, torch.autograd.Function)


def _callable(torch: Any, fn: Any) -> Callable[..., Any]:
    """The function to call with the arguments and, by name, a module's parameters."""
    if _is_function(torch, fn):
        return fn.apply
    if not isinstance(fn, torch.nn.Module):
        return fn

    def call(*args: Any, **parameters: Any) -> Any:
        floats = [t for t in jax.tree.leaves(args) if isinstance(t, torch.Tensor) and t.is_floating_point()]
        wide = any(t.dtype == torch.float64 for t in floats)
        own = {**dict(fn.named_parameters()), **dict(fn.named_buffers())}
        own = {name: t.detach().clone() for name, t in own.items()}
        own = {name: t.double() if wide and t.is_floating_point() else t for name, t in own.items()}
        return torch.func.functional_call(fn, {**own, **parameters}, args)

    return call


def signed(torch: Any, fn: Any) -> Callable[..., Any]:
    """The function whose parameters name the arguments."""
    if _is_function(torch, fn):
        return fn.forward if _has_setup(torch, fn) else partial(fn.forward, None)
    return fn.forward if isinstance(fn, torch.nn.Module) else fn


def _has_setup(torch: Any, fn: Any) -> bool:
    return fn.setup_context is not torch.autograd.Function.setup_context


def _truth(torch: Any, fn: Any, reference: Any, against: Any) -> tuple[Callable[..., Any], str]:
    """The function to differentiate, and what to call it."""
    if isinstance(fn, type) and issubclass(fn, torch.nn.Module):
        raise InputError(f"{WHO}: fn is the class {fn.__name__}, expected an instance of it")
    if reference is not None and against is not None:
        raise InputError(f"{WHO}: reference and against are both given, expected one of them")
    if against is not None:
        return truth_of(WHO, against, "against", fn, "fn")
    if reference is not None:
        if not callable(reference):
            raise InputError(f"{WHO}: reference is {describe(reference)}, expected a PyTorch function")
        return _callable(torch, reference), "reference"
    if not _is_function(torch, fn):
        raise InputError(
            f"{WHO}: give reference=, the same function in plain PyTorch, or against=, the same in JAX"
        )
    return partial(_own_forward, torch, fn), "its own forward"


def _own_forward(torch: Any, fn: Any, *args: Any) -> Any:
    """The ``forward`` of a ``torch.autograd.Function`` as a plain function."""
    if _has_setup(torch, fn):
        return fn.forward(*args)
    kept = dict.fromkeys(("save_for_backward", "save_for_forward", "mark_dirty", "mark_non_differentiable",
                          "set_materialize_grads"), lambda *args: None)  # fmt: skip
    return fn.forward(SimpleNamespace(needs_input_grad=(True,) * len(args), **kept), *args)


def _parameters(torch: Any, fn: Any, truth: Any) -> dict[str, Any]:
    """A module's parameters, if the truth accepts them by name."""
    if not isinstance(fn, torch.nn.Module):
        return {}
    own = {name: p for name, p in fn.named_parameters() if p.requires_grad}
    try:
        takes = set(
            dict(truth.named_parameters())
            if isinstance(truth, torch.nn.Module)
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


# --- arguments --------------------------------------------------------------------------------------------


def _of_float64(device: Any) -> Any:
    """The device that computes the truth: that of the tensors, unless it lacks float64."""
    return "cpu" if device.type == "mps" else device


def _positions(wrt: Any, names: Sequence[str]) -> list[int] | None:
    """The positions of the arguments to differentiate with respect to, given by name or position."""
    if wrt is None:
        return None
    wanted = [wrt] if isinstance(wrt, str) or not isinstance(wrt, Iterable) else list(wrt)
    known: dict[Any, int] = {i: i for i in range(len(names))} | {name: i for i, name in enumerate(names)}
    for which in wanted:
        if not isinstance(which, str | int) or which not in known:
            raise InputError(f"{WHO}: wrt has {describe(which)}, expected names among {', '.join(names)}")
    if not wanted:
        raise InputError(f"{WHO}: wrt is {describe(wrt)}, expected at least one name")
    return [known[which] for which in wanted]


def _require_tensors(torch: Any, names: Sequence[str], given: Sequence[Any]) -> None:
    """Refuse tensors that are not all on one device, and those without plain numbers in memory."""
    found = [
        (name, leaf)
        for name, value in zip(names, given, strict=True)
        for leaf in jax.tree.leaves(value)
        if isinstance(leaf, torch.Tensor)
    ]
    for name, leaf in found[1:]:
        if leaf.device != found[0][1].device:
            first = f"{found[0][0]} is on {found[0][1].device}"
            raise InputError(f"{WHO}: {first}, {name} on {leaf.device}; expected one device")
    for name, leaf in found:
        if leaf.layout != torch.strided or leaf.is_quantized or leaf.is_nested or leaf.is_meta:
            what = "on meta" if leaf.is_meta else "quantized" if leaf.is_quantized else str(leaf.layout)
            raise InputError(f"{WHO}: {name} is a tensor that is {what}, expected numbers in memory")
        if leaf.is_floating_point() and str(leaf.dtype).removeprefix("torch.") not in DTYPES:
            raise InputError(f"{WHO}: {name} is {leaf.dtype}, expected one of {', '.join(DTYPES)}")


def array_of(tensor: Any) -> np.ndarray:
    """A tensor's numbers copied to a NumPy array in C order.

    >>> import torch
    >>> array_of(torch.tensor([1.0, 2.0], dtype=torch.bfloat16)).dtype
    dtype(bfloat16)
    """
    plain = tensor.detach().to_dense().cpu().resolve_conj().resolve_neg().contiguous()
    if str(plain.dtype) == "torch.bfloat16":
        return np.array(plain.view(importlib.import_module("torch").int16).numpy()).view(jnp.bfloat16)
    return np.array(plain.numpy(), order="C")


def _strides(tensor: Any) -> list[int]:
    """A tensor's strides, or those of C order if entries share memory."""
    steps = sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1)
    end = 0
    for stride, n in steps:
        if stride <= end:
            return list(tensor.new_empty(tensor.shape, device="meta").stride())
        end += stride * (n - 1)
    return list(tensor.stride())


def tensor_of(torch: Any, array: np.ndarray, device: Any, strides: Sequence[int] | None = None) -> Any:
    """An array's numbers as a tensor with the same layout, or with given strides, and NaN in the gaps.

    Negative strides, which PyTorch lacks, become positive.
    """
    dtype = getattr(torch, array.dtype.name)
    steps = [abs(s) // array.itemsize for s in array.strides] if strides is None else list(strides)
    repeated = tuple(slice(0, 1) if not s else slice(None) for s in steps)
    core = np.array(array[repeated], order="C")
    bits = core.view(np.int16) if array.dtype == jnp.bfloat16 else core
    numbers = torch.from_numpy(bits).view(dtype) if bits is not core else torch.from_numpy(core)
    span = 1 + sum((n - 1) * s for n, s in zip(core.shape, steps, strict=True))
    empty = torch.full((span,), float("nan") if dtype.is_floating_point else 0, dtype=dtype, device=device)
    laid_out = empty.as_strided(core.shape, steps)
    laid_out.copy_(numbers)
    return laid_out.expand(array.shape)


# --- a call -----------------------------------------------------------------------------------------------


def _run(arguments: Arguments, fn: Callable[..., Any], tensors: Sequence[Any]) -> Any:
    """Call the user's function on fresh copies."""
    fresh = [tensor_of(arguments.torch, array_of(t), t.device, _strides(t)) for t in tensors]
    with arguments.recorded():
        return _plain(called(WHO, "fn", arguments.called_with, fn, fresh))


def _plain(out: Any) -> Any:
    """A plain tuple in place of the tuple type that ``torch.max`` and others return, unknown to JAX."""
    return tuple(out) if isinstance(out, tuple) and jax.tree_util.all_leaves([out]) else out


def _outputs(arguments: Arguments, out: Any) -> list[Any]:
    """The tensors of an output."""
    found = [leaf for leaf in jax.tree.leaves(out) if arguments.is_tensor(leaf)]
    if not found:
        raise InputError(f"{WHO}: fn returned {describe(out)}, expected a tensor or a tuple of tensors")
    return found


def _asked(
    arguments: Arguments,
    fn: Callable[..., Any],
    leaves: Sequence[np.ndarray],
    question: Question,
    cotangent: Callable[[Any], Any],
) -> tuple[list[Any], Any, tuple[str, ...]]:
    """The gradient with respect to each leaf of ``wrt``, the cotangent, and what the call modified."""
    torch, names = arguments.torch, [f"argument {name}" for name in question.leaf_names]
    given = zip(leaves, arguments.tensors, strict=True)
    inputs = [tensor_of(torch, leaf, t.device, _strides(t)) for leaf, t in given]
    for i in question.wrt:
        inputs[i].requires_grad_()
    with arguments.recorded():
        out = _plain(called(WHO, "fn", arguments.called_with, fn, inputs))
        outputs = _outputs(arguments, out)
        after = [array_of(t) for t in inputs]
        written = modified(names, leaves, after, "fn")
        differentiable = [t for t in outputs if t.requires_grad]
        if not differentiable:
            raise InputError(
                f"{WHO}: fn has no backward pass: to autograd, its result does not depend on its arguments"
            )
        dout = cotangent(jax.tree.map(lambda t: array_of(t) if arguments.is_tensor(t) else None, out))
        flows = iter(t.requires_grad for t in outputs)
        dout = jax.tree.map(lambda d: d if next(flows) or not is_float(d) else np.zeros_like(d), dout)
        douts = [
            tensor_of(torch, d, t.device)
            for d, t in zip(jax.tree.leaves(dout), outputs, strict=True)
            if t.requires_grad
        ]
        before = [array_of(d) for d in douts]
        pull = partial(torch.autograd.grad, allow_unused=True)
        got = called(WHO, "backward", pull, differentiable, [inputs[i] for i in question.wrt], douts)
    written += modified(names, after, [array_of(t) for t in inputs], "backward")
    written += modified(["the cotangent"] * len(before), before, [array_of(d) for d in douts], "backward")
    return [None if g is None else array_of(g) for g in got], copies(dout), tuple(written)


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
    given = zip(values, arguments.tensors, strict=True)
    inputs = [tensor_of(torch, np.array(v, order="C"), _of_float64(t.device)) for v, t in given]
    for i in wrt:
        inputs[i].requires_grad_()
    with arguments.recorded():
        try:
            out = _plain(arguments.called_with(truth, inputs))
            outs = [t for t in jax.tree.leaves(out) if arguments.is_tensor(t) and t.is_floating_point()]
            shapes = [tuple(t.shape) for t in outs]
            if shapes != [np.shape(d) for d in dout]:
                given_shapes = ", ".join(map(str, shapes)) or "no floating-point tensor"
                own = ", ".join(str(np.shape(d)) for d in dout)
                raise InputError(f"{WHO}: {name} returned {given_shapes}, expected {own}")
            flowing = [(t, d) for t, d in zip(outs, dout, strict=True) if t.requires_grad]
            if wrt and not flowing:
                raise InputError(
                    f"{WHO}: autograd cannot differentiate {name}; give reference=, the same function "
                    "in plain PyTorch, or against=, the same in JAX"
                )
            got = torch.autograd.grad(
                [t for t, _ in flowing],
                [inputs[i] for i in wrt],
                [tensor_of(torch, np.array(d, order="C"), t.device).to(t.dtype) for t, d in flowing],
                allow_unused=True,
            ) if wrt else ()  # fmt: skip
        except InputError:
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # it may raise anything
            raise InputError(f"{WHO}: {name} raised {one_line(error)}") from error
    found = [
        np.zeros(np.shape(values[i])) if g is None else array_of(g) for i, g in zip(wrt, got, strict=True)
    ]
    return [array_of(t) for t in outs], [g.astype(np.float64) for g in found]
