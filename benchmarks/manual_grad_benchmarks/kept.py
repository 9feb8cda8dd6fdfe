"""The bytes kept from the forward to the backward pass, read off the traced forward pass.

An argument that is kept costs nothing as long as its owner holds it, so it is counted separately from what
the forward pass computes and keeps. Reshaped or transposed, it is still the argument: the compiler reads it
in another order. An array that is kept twice counts once.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

REARRANGED = {"reshape", "squeeze", "transpose", "stop_gradient", "copy", "optimization_barrier"}


def kept(residuals: Callable[..., Any], args: tuple) -> dict[str, int]:
    """Bytes kept, of arguments and of new arrays.

    Args:
        residuals: returns, for the arguments, whatever the backward pass needs of the forward pass, as a
            pytree; leaves that are not arrays are ignored.
        args: the arguments, arrays and pytrees of them.
    Returns:
        ``{"arguments": bytes, "new": bytes}``.

    >>> import jax.numpy as jnp
    >>> kept(lambda x: (x.T, jnp.tanh(x)[:1], x, 3), (jnp.ones((2, 4), "float32"),))
    {'arguments': 32, 'new': 16}
    """
    traced = jax.make_jaxpr(lambda *args: [a for a in jax.tree.leaves(residuals(*args)) if _is_array(a)])
    jaxpr = traced(*args).jaxpr
    origin = _origins(jaxpr)
    arrays = {origin.get(var, var) for var in jaxpr.outvars if not isinstance(var, Literal)}
    given = set(jaxpr.invars)
    return {
        "arguments": sum(_bytes(var) for var in arrays & given),
        "new": sum(_bytes(var) for var in arrays - given),
    }


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _bytes(var: Any) -> int:
    return math.prod(var.aval.shape) * var.aval.dtype.itemsize


def _origins(jaxpr: Any) -> dict[Any, Any]:
    """Variable → the variable that it is a rearrangement or another name of."""
    origin: dict[Any, Any] = {}
    for eqn in jaxpr.eqns:
        given = [None if isinstance(atom, Literal) else origin.get(atom, atom) for atom in eqn.invars]
        if eqn.primitive.name in REARRANGED or _only_adds_axes(eqn):
            pairs = zip(eqn.outvars, given, strict=True)
        else:
            pairs = zip(eqn.outvars, _of_call(eqn, given), strict=True)
        origin |= {var: source for var, source in pairs if source is not None}
    return origin


def _only_adds_axes(eqn: Any) -> bool:
    sizes = [math.prod(var.aval.shape) for var in (*eqn.invars, *eqn.outvars)]
    return eqn.primitive.name == "broadcast_in_dim" and len(eqn.invars) == 1 and sizes[0] == sizes[-1]


def _of_call(eqn: Any, given: list) -> list:
    """For each result of a call, the argument or the earlier result that it is; None if it is neither."""
    program = next((eqn.params[name] for name in ("jaxpr", "call_jaxpr") if name in eqn.params), None)
    inner = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    if eqn.primitive.name in ("scan", "while") or inner is None or len(inner.invars) != len(given):
        return [None] * len(eqn.outvars)
    outside, within = dict(zip(inner.invars, given, strict=True)), _origins(inner)
    found = []
    for var, result in zip(eqn.outvars, inner.outvars, strict=True):
        source = None if isinstance(result, Literal) else within.get(result, result)
        found.append(outside.get(source))
        outside.setdefault(source, var)
    return found
