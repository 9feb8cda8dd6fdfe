"""Record what a PyTorch function computes, operation by operation, and compute the same in JAX.

The checker explains mistakes step by step only in JAX. What a recording gives is compared with PyTorch's own
results before it is used, as some operations are unknown and Python's branches may depend on the numbers.
"""

import contextlib
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

import jax
import numpy as np

from manual_grad.checker.aten import OPERATIONS, PARTED
from manual_grad.checker.closures import is_of_library
from manual_grad.checker.tape import SCOPE
from manual_grad.checker.tensors import array_of
from manual_grad.checker.truth import is_float

MOST = 2000  # operations: a longer function is not recorded
FILLED = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros",
          "new_ones", "new_full", "new_empty"}  # fmt: skip
RESHAPING = {"squeeze", "unsqueeze", "t", "transpose"}  # in place: what changes is the shape


@dataclass(frozen=True)
class Ref:
    """A tensor that depends on the arguments."""

    key: int


@dataclass(frozen=True, eq=False)
class Step:
    """One operation.

    Attributes:
        name: its name in ATen, without the underscore of one that works in place.
        args: its arguments, a :class:`Ref` for each tensor that depends on the function's arguments.
        kwargs: those given by keyword.
        outs: the tensors that it returns.
        writes: whether the result replaces the first argument.
        is_view: whether what it returns is a view of its first argument.
        stops: whether no gradient is recorded.
        source: the expression in the user's source that it belongs to, as :mod:`tape` reads it.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: tuple[int, ...]
    writes: bool
    is_view: bool
    stops: bool
    source: str


@dataclass(eq=False)
class Recording:
    """A PyTorch function as a list of operations.

    Attributes:
        steps: the operations.
        first: for tensors that were constants until something was written to them, their numbers before.
        bases: for each view, the tensor that it is a view of.
        active: the tensors that depend on the arguments.
        kept: all tensors, so that no two share an address.
        results: the tensors returned.
    """

    steps: list[Step] = field(default_factory=list)
    first: dict[int, np.ndarray] = field(default_factory=dict)
    bases: dict[int, Any] = field(default_factory=dict)
    active: set[int] = field(default_factory=set)
    kept: list[Any] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)

    def root(self, tensor: Any) -> Any:
        """The tensor whose memory a view shows."""
        while id(tensor) in self.bases:
            tensor = self.bases[id(tensor)]
        return tensor

    def read(self, value: Any, torch: Any) -> Any:
        """What a step is given for a value: numbers for a constant tensor."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(self.root(value)) in self.active:
            return Ref(id(value))
        array = array_of(value)
        return array.astype(np.float64) if is_float(array) else array


@contextlib.contextmanager
def recorded(torch: Any, recording: Recording, inputs: Sequence[Any]) -> Iterator[None]:
    """Write down the operations on some tensors and on what is computed from them."""
    modes = importlib.import_module("torch.utils._python_dispatch")
    recording.kept.extend(inputs)
    recording.active.update(map(id, inputs))

    def call(mode: Any, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if len(recording.steps) > MOST:
            return op(*args, **(kwargs or {}))
        return _called(torch, recording, op, args, kwargs or {})

    def plain(mode: Any, fn: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = WRITTEN.get(getattr(fn, "__name__", ""))
        return (partial(written, torch, fn) if written else fn)(*args, **(kwargs or {}))

    functions = importlib.import_module("torch.overrides").TorchFunctionMode
    with (
        type("Recorder", (modes.TorchDispatchMode,), {"__torch_dispatch__": call})(),
        type("Plain", (functions,), {"__torch_function__": plain})(),
    ):
        yield


def _attention(torch: Any, fn: Any, q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0,
               is_causal: bool = False, scale: float | None = None, **others: Any) -> Any:  # fmt: skip
    """Attention as it is written, where PyTorch multiplies q and k by the root of the scale each."""
    if dropout_p or any(others.values()) or (attn_mask is not None and attn_mask.is_floating_point()):
        return fn(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, **others)
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() if is_causal else attn_mask
    shown = scores if mask is None else scores.masked_fill(~mask.to(scores.device), -torch.inf)
    return torch.softmax(shown, -1) @ v


def _rms_norm(torch: Any, fn: Any, x: Any, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Any:
    """RMS norm as it is written, with a quotient."""
    axes = tuple(range(-len(normalized_shape), 0))
    small = torch.finfo(x.dtype).eps if eps is None else eps
    xhat = x / torch.sqrt((x * x).mean(axes, keepdim=True) + small)
    return xhat if weight is None else xhat * weight


WRITTEN: dict[str, Callable[..., Any]] = {"scaled_dot_product_attention": _attention, "rms_norm": _rms_norm}


def _called(torch: Any, recording: Recording, op: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operation, which is written down if it depends on the function's arguments."""
    schema = op._schema
    full = schema.name.removeprefix("aten::")
    name, writes = full.removesuffix("_"), full.endswith("_") and not full.endswith("__")
    is_view = not writes and (name in PARTED or any(r.alias_info is not None for r in schema.returns))
    tensors = [t for t in jax.tree.leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    recording.kept.extend(tensors)
    active = any(id(recording.root(t)) in recording.active for t in tensors) and name not in FILLED
    if active and writes and id(root := recording.root(args[0])) not in recording.active:
        recording.first[id(root)] = recording.read(root, torch)
        recording.active.add(id(root))
    given: Any = active and jax.tree.map(lambda x: recording.read(x, torch), (args, kwargs))
    out = op(*args, **kwargs)
    outs = [t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, torch.Tensor)]
    recording.kept.extend(outs)
    if is_view:
        recording.bases |= {id(t): args[0] for t in outs if t is not args[0]}
        given = ((Ref(id(args[0])), *args[1:]), kwargs)
    elif active and not writes:
        recording.active.update(map(id, outs))
    if outs and (active or is_view):
        keys = tuple(map(id, outs))
        stops = not torch.is_grad_enabled() or (
            name == "detach" and active
        )  # as of a new tensor it means nothing
        recording.steps.append(Step(name, given[0], given[1], keys, writes, is_view, stops, _source()))
    return out


def _source() -> str:
    """The expression in the user's source that calls an operation; "" if that is not in the function."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and (frame.f_globals.get("__name__", "") + ".").startswith((__name__, "torch.")):
        frame = frame.f_back
    if frame is None or is_of_library(frame.f_globals.get("__name__", "")):
        return ""
    places = itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None)
    line, last, start, end = next(places, (None,) * 4)
    return "|".join(map(str, (frame.f_code.co_filename, frame.f_code.co_name, line, start, last, end)))


def untranslatable(recording: Recording) -> str:
    """Why a recorded function cannot be computed in JAX; "" if it can."""
    unknown = sorted({step.name for step in recording.steps if step.name not in OPERATIONS})
    if unknown:
        return f"{', '.join(unknown)} cannot be translated to JAX"
    return f"it has more than {MOST} steps" if len(recording.steps) > MOST else ""


def replayed(torch: Any, recording: Recording, inputs: Sequence[Any]) -> Callable[..., list[Any]]:
    """The recorded function in JAX, of the arrays in place of the inputs."""
    keys = [id(t) for t in inputs]
    results = [recording.read(t, torch) for t in recording.results]

    def fn(*leaves: Any) -> list[Any]:
        memory = _Memory(dict(recording.first) | dict(zip(keys, leaves, strict=True)))
        for step in recording.steps:
            with jax.named_scope(SCOPE + step.source):
                _replay(memory, step)
        return [memory.filled(result) for result in results]

    return fn


@dataclass(eq=False)
class _Memory:
    """The values of tensors by key; views are computed when they are read."""

    values: dict[int, Any]
    views: dict[int, tuple[int, Callable[[Any], Any]]] = field(default_factory=dict)

    def get(self, key: int) -> Any:
        if key not in self.values:
            base, view = self.views[key]
            self.values[key] = view(self.get(base))
        return self.values[key]

    def set(self, key: int, value: Any) -> None:
        """Write to a tensor, and through a view to the tensor that it shows."""
        while key in self.views:
            base, view = self.views[key]
            whole = self.get(base)
            places = np.asarray(view(np.arange(np.size(whole)).reshape(np.shape(whole))))
            filled = np.broadcast_to if not isinstance(value, jax.Array) else jax.numpy.broadcast_to
            flat = jax.numpy.ravel(jax.numpy.asarray(whole)).at[places.ravel()]
            key, value = base, flat.set(filled(value, places.shape).ravel()).reshape(np.shape(whole))
        for view_of in self.views:
            self.values.pop(view_of, None)
        self.values[key] = value

    def filled(self, tree: Any) -> Any:
        """A tree with values in place of references."""
        is_ref = lambda x: isinstance(x, Ref)  # noqa: E731
        return jax.tree.map(lambda x: self.get(x.key) if is_ref(x) else x, tree, is_leaf=is_ref)


def _replay(memory: _Memory, step: Step) -> None:
    """Run one step in JAX."""
    run = OPERATIONS.get(step.name)
    if step.is_view:
        for at, key in enumerate(step.outs):
            if key == step.args[0].key:
                continue

            def view(x: Any, at: int = at) -> Any:
                with jax.named_scope(SCOPE + step.source):
                    parts = {} if step.name not in PARTED else {"only": at}
                    out = run(x, *step.args[1:], **step.kwargs, **parts)  # type: ignore[misc]
                return jax.lax.stop_gradient(out) if step.stops else out

            memory.views[key] = (step.args[0].key, view)
        return
    out = run(*memory.filled(step.args), **memory.filled(step.kwargs))  # type: ignore[misc]
    stop = jax.lax.stop_gradient if step.stops else lambda x: x
    if step.writes:
        old = memory.get(step.args[0].key)
        new = out if step.name in RESHAPING else jax.numpy.broadcast_to(out, np.shape(old))
        memory.set(step.args[0].key, old + stop(new - old) if step.stops else new)
        return
    for key, value in zip(step.outs, out if isinstance(out, tuple | list) else [out], strict=False):
        if value is not None:
            memory.values[key] = stop(value)
