"""PyTorch's graph of a call: run it backwards, and look at what an ``autograd.Function`` keeps for that."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from manual_grad.checker.closures import reached

MOST = 10**4  # nodes that are looked at


def nodes_of(outs: Sequence[Any]) -> Iterator[Any]:
    """The nodes of the graph that leads to some tensors."""
    near = [t.grad_fn for t in outs]
    seen: set[Any] = set()
    while near and len(seen) < MOST:
        node = near.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            near.extend(before for before, _ in node.next_functions)


def pulled_back(
    torch: Any, outs: Sequence[Any], leaves: Sequence[Any], douts: Sequence[Any], roots: Iterable[Any]
) -> list[Any]:
    """The cotangents of leaves, None where there is none; no other tensor's ``.grad`` changes.

    Args:
        torch: PyTorch.
        outs: the tensors to begin at.
        leaves: the tensors to differentiate with respect to, which have no ``.grad``.
        douts: the cotangents of ``outs``.
        roots: the functions that were called. A reentrant ``torch.utils.checkpoint`` gives a ``.grad`` to all
            tensors that it uses.
    """
    nodes = list(nodes_of(outs))
    if not any(node.name() == "CheckpointFunctionBackward" for node in nodes):
        return list(torch.autograd.grad(outs, leaves, douts, allow_unused=True))
    known = [node.variable for node in nodes if hasattr(node, "variable")]
    others = [t for t in [*known, *reached(roots, (torch.Tensor,))] if t.is_leaf and t.requires_grad]
    kept = [(t, t.grad) for t in others]
    try:
        for t in others:
            t.grad = None
        torch.autograd.backward(outs, douts)
        return [leaf.grad for leaf in leaves]
    finally:
        for t, grad in kept:
            t.grad = grad


def kept_on_ctx(outs: Sequence[Any], own: Sequence[Any], names: Sequence[str]) -> list[str]:
    """Notes about arguments and outputs that a ``torch.autograd.Function`` keeps as attributes of ``ctx``."""
    known = {id(t): name for name, t in zip(names, own, strict=True)}
    notes = []
    for node in nodes_of(outs):
        for name, value in getattr(node, "__dict__", {}).items():
            if any(value is t for t in outs):
                notes.append(f"ctx.{name} is an output, a cycle that leaks memory: use ctx.save_for_backward")
            elif id(value) in known:
                notes.append(
                    f"ctx.{name} is {known[id(value)]}: PyTorch notices whether it is modified before the "
                    "backward pass only if it is kept by ctx.save_for_backward"
                )
    return notes


@contextlib.contextmanager
def with_tensors(module: Any, tensors: Mapping[str, Any]) -> Iterator[None]:
    """A module with other tensors in place of parameters and buffers, by name; shared ones stay shared."""
    inside = [kept for part in module.modules() for kept in (part._parameters, part._buffers)]
    own = dict(module.named_parameters(remove_duplicate=False)) | dict(
        module.named_buffers(remove_duplicate=False)
    )
    instead = {id(own[name]): t for name, t in tensors.items()}
    before = [(kept, dict(kept)) for kept in inside]
    try:
        for kept in inside:
            kept.update({name: instead[id(t)] for name, t in kept.items() if id(t) in instead})
        yield
    finally:
        for kept, old in before:
            kept.update(old)
