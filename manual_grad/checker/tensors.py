"""PyTorch's tensors: those that can be checked, as NumPy arrays, and back with any layout in memory."""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.border import InputError, describe
from manual_grad.checker.asking import flat
from manual_grad.digits import MissingExtra

DTYPES = ("float64", "float32", "bfloat16", "float16")


def load_torch(who: str) -> Any:
    """Import PyTorch, or raise one line that names the extra to install."""
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError:
        raise MissingExtra(f"{who} needs PyTorch: pip install 'manual-grad[torch]'") from None
    except Exception as error:  # a library that it needs is missing, or of another version
        first = (str(error).splitlines() or [""])[0]
        raise MissingExtra(f"{who}: PyTorch cannot be imported: {type(error).__name__}: {first}") from error


# --- tensors that can be checked --------------------------------------------------------------------------


def require_tensors(torch: Any, who: str, names: Sequence[str], given: Sequence[Any]) -> None:
    """Refuse arguments without floating-point tensors, on several devices, or not plain numbers in memory."""
    found = [
        (name, leaf)
        for name, value in zip(names, given, strict=True)
        for leaf in flat(who, f"{name} is", value)
        if isinstance(leaf, torch.Tensor)
    ]
    for name, leaf in found:
        if leaf.device != found[0][1].device:
            first = f"{found[0][0]} is on {found[0][1].device}"
            raise InputError(f"{who}: {first}, {name} on {leaf.device}; expected one device")
    for name, leaf in found:
        if what := _strange(torch, leaf) or (str(leaf.layout) if leaf.layout != torch.strided else ""):
            raise InputError(f"{who}: {name} is a tensor that is {what}, expected numbers in memory")
        if type(leaf) not in (torch.Tensor, torch.nn.Parameter):
            plain = "expected a plain tensor (.as_subclass(torch.Tensor) makes one)"
            raise InputError(f"{who}: {name} is {describe(leaf)}, {plain}")
        if leaf.is_complex():
            raise InputError(f"{who}: {name} is {_told(torch, leaf)}, expected an array of real numbers")
        if leaf.is_floating_point() and _name(leaf.dtype) not in DTYPES:
            raise InputError(f"{who}: {name} is {leaf.dtype}, expected one of {', '.join(DTYPES)}")
    if not any(leaf.is_floating_point() for _, leaf in found):
        shown = ", ".join(f"{name} is {_told(torch, v)}" for name, v in zip(names, given, strict=True))
        raise InputError(
            f"{who}: no argument is floating-point, so nothing can be differentiated: {shown or 'none'}"
        )


def tensors_in(torch: Any, who: str, name: str, out: Any) -> list[Any]:
    """The tensors of an output, if there are any and their numbers can be read."""
    found = [leaf for leaf in flat(who, f"{name} returned", out) if isinstance(leaf, torch.Tensor)]
    if not found:
        raise InputError(f"{who}: {name} returned {describe(out)}, expected a tensor or a tuple of tensors")
    for leaf in found:
        if what := _strange(torch, leaf):
            raise InputError(f"{who}: {name} returned a tensor that is {what}, expected numbers in memory")
        if leaf.is_complex():
            said = f"{name} returned {_told(torch, leaf)}, expected an array of real numbers"
            raise InputError(f"{who}: {said}")
        if leaf.is_floating_point() and _name(leaf.dtype) not in DTYPES:
            raise InputError(f"{who}: {name} returned {leaf.dtype}, expected one of {', '.join(DTYPES)}")
    return found


def _strange(torch: Any, leaf: Any) -> str:
    """What a tensor is whose numbers cannot be read; "" for any other."""
    if torch._C._functorch.is_functorch_wrapped_tensor(leaf):
        return "inside torch.func.grad or vmap"
    kinds = {
        "fake": type(leaf).__name__ == "FakeTensor",
        "nested": leaf.is_nested,
        "quantized": leaf.is_quantized,
        "on meta": leaf.is_meta,
    }
    return next((what for what, true in kinds.items() if true), "")


def _told(torch: Any, value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, torch.Tensor):
        return f"{_name(value.dtype)}[{','.join(map(str, value.shape))}]"
    if isinstance(value, np.ndarray | jax.Array):
        kind = "JAX" if isinstance(value, jax.Array) else "NumPy"
        return f"{describe(value)} of {kind}, expected a tensor (torch.tensor converts it)"
    return describe(value)


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


# --- arrays and tensors -----------------------------------------------------------------------------------


def array_of(tensor: Any) -> np.ndarray:
    """A tensor's numbers copied to a NumPy array in C order.

    >>> import torch
    >>> array_of(torch.tensor([1.0, 2.0], dtype=torch.bfloat16)).dtype
    dtype(bfloat16)
    """
    plain = tensor.detach().to_dense().cpu().resolve_conj().resolve_neg().contiguous()
    if str(plain.dtype) == "torch.bfloat16":
        bits = plain.view(importlib.import_module("torch").int16)
        return np.array(bits.numpy(force=True)).view(jnp.bfloat16)
    return np.array(plain.numpy(force=True), order="C")


def strides_of(tensor: Any) -> list[int]:
    """A tensor's strides, or those of C order if entries share memory.

    >>> import torch
    >>> strides_of(torch.ones(3, 4).T), strides_of(torch.ones(1).expand(3)), strides_of(torch.ones(2, 3))
    ([1, 4], [1], [3, 1])
    """
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
    laid_out = torch.empty_strided(core.shape, steps, dtype=dtype, device=device)  # not a view
    span = laid_out.untyped_storage().size() // laid_out.itemsize
    laid_out.as_strided((span,), (1,)).fill_(float("nan") if dtype.is_floating_point else 0)
    laid_out.copy_(numbers)
    return laid_out.expand(array.shape) if core.shape != array.shape else laid_out


# --- float64 ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def casts_of(torch: Any, narrower: set[str]) -> Iterator[None]:
    """Write down the dtypes that floating-point tensors are cast to, if they are narrower.

    >>> import torch
    >>> found = set()
    >>> with casts_of(torch, found), torch.autocast("cpu"):
    ...     _ = torch.ones(2, 2) @ torch.ones(2, 2)
    >>> found
    {'bfloat16'}
    """
    modes = importlib.import_module("torch.utils._python_dispatch")
    width = {getattr(torch, name): i for i, name in enumerate(DTYPES)}

    def call(mode: Any, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        if op is torch.ops.aten._to_copy.default and width.get(out.dtype, 0) > width.get(args[0].dtype, 3):
            narrower.add(_name(out.dtype))
        return out

    with type("Casts", (modes.TorchDispatchMode,), {"__torch_dispatch__": call})():
        yield


@contextlib.contextmanager
def in_float64(torch: Any, narrow: list[str], casts: bool = True) -> Iterator[None]:
    """Keep what is computed from float64 in float64, whatever a function casts it to or combines it with.

    So a function may hold float32 tensors of its own, or cast to float32 and back.

    Args:
        torch: PyTorch.
        narrow: gets the dtype of each such cast, and "" for each narrower tensor combined with float64.
        casts: whether casts are ignored too; in a backward pass they must not be, as gradients are cast to
            the dtype of what they are gradients of.

    >>> import torch
    >>> with in_float64(torch, []):
    ...     (torch.ones(2, dtype=torch.float64).float() @ torch.ones(2)).dtype
    torch.float64
    """
    modes = importlib.import_module("torch.utils._python_dispatch")
    floats = tuple(getattr(torch, name) for name in DTYPES[1:])

    def wide(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.dtype in floats:
            narrow.append("")
            return leaf.double()
        if casts and isinstance(leaf, torch.dtype) and leaf in floats:
            narrow.append(_name(leaf))
            return torch.float64
        return leaf

    def call(mode: Any, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kept = args[:1] if op._schema.is_mutable else ()  # what it writes to
        read = (args[len(kept) :], kwargs or {})
        seen = kept or jax.tree.leaves(read)
        if any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in seen):
            read = jax.tree.map(wide, read)
        return op(*kept, *read[0], **read[1])

    mode = type("InFloat64", (modes.TorchDispatchMode,), {"__torch_dispatch__": call})
    with mode():
        yield
