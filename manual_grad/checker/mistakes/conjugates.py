"""Complex numbers: a derivative where its complex conjugate belongs, in products, matrix products and others.

The tape knows real numbers alone. Here JAX's equations are differentiated one by one, with the cotangents of
all mistakes together. In JAX's convention, a cotangent is the conjugate of the gradient that people write, so
that d · y̅ of theirs is d · y, and a mistake of theirs is a conjugate that is taken.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import LONGEST_NAME, SAID
from manual_grad.checker.tape import WRAPPERS, bind, unrolled

EQUATIONS_UP_TO, MISTAKES_UP_TO = 300, 96
# Steps that a conjugate passes through.
REAL = {
    "add", "add_any", "sub", "neg", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose",
    "slice", "concatenate", "stack", "convert_element_type", "copy", "copy_p", "reduce_sum", "gather", "real",
    "dynamic_slice", "rev", "cumsum", "select_n", "pad", "split", "dynamic_update_slice", "scatter",
    "scatter-add",
}  # fmt: skip
PART = {
    "complex": "",
    "real": "the real part of ",
    "imag": "the imaginary part of ",
    "conj": "the conjugate of ",
}
Edge = tuple[int, int]  # an equation, and the index of its operand


@dataclass(frozen=True, eq=False)
class _Trace:
    """A function as a list of equations without calls and loops, and the values of its variables."""

    jaxpr: Any
    values: dict[Any, Any]
    pulls: dict[int, Any]


def conjugate_missing(e: Evidence) -> str:
    """The truth with the complex conjugate of a derivative missing, in one place or in all of a kind."""
    if e.point.foreign is not None or e.hidden is not None:
        return ""
    told = e.once("conjugates", lambda: list(_explained(e)))
    fits = [
        (sum(got is not None and e.same(got, w) for got, w in zip(e.gots, wrong, strict=True)), said)
        for said, wrong in told
        if not e.same(wrong[e.leaf], e.want) and e.same(e.got, wrong[e.leaf])
    ]
    best = max((count for count, _ in fits), default=0)
    return "\n".join([said for count, said in fits if count == best][:1])


def _explained(e: Evidence) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The phrases of all mistakes, and the gradients of all leaves that they lead to."""
    trace = _recorded(e)
    if trace is None:
        return
    mistakes = list(itertools.islice(_mistakes(e, trace), MISTAKES_UP_TO))
    if mistakes:
        wrong = _pulled(e, trace, [set(edges) for _, edges in mistakes])
        for row, (said, _) in enumerate(mistakes):
            yield said, [leaf[row] for leaf in wrong]


def _recorded(e: Evidence) -> _Trace | None:
    """The function's equations; None if it has no complex values, or too many equations."""
    at = [jnp.asarray(x) for x in e.point.at]
    closed = jax.make_jaxpr(e.point.forward)(*at)
    if "complex" not in str(closed):
        return None
    flat = jax.make_jaxpr(lambda *leaves: _flat(closed, leaves))(*at)
    if len(flat.jaxpr.eqns) > EQUATIONS_UP_TO:
        return None
    values: dict[Any, Any] = dict(zip(flat.jaxpr.constvars, flat.consts, strict=True))
    values |= dict(zip(flat.jaxpr.invars, at, strict=True))
    for eqn in flat.jaxpr.eqns:
        values |= dict(zip(eqn.outvars, bind(eqn, [_value(values, v) for v in eqn.invars]), strict=True))
    return _Trace(flat.jaxpr, values, {})


def _flat(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    """The results of a function, without calls and loops of known length."""
    values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, args, strict=True))
    for eqn in closed.jaxpr.eqns:
        ins, name = [_value(values, v) for v in eqn.invars], eqn.primitive.name
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr") if name in WRAPPERS else None
        if name == "scan":
            outs = unrolled(eqn, ins)
        elif inner is not None:
            whole = inner if hasattr(inner, "consts") else ClosedJaxpr(inner, ())
            outs = _flat(whole, ins[len(ins) - len(whole.jaxpr.invars) :])
        else:
            outs = bind(eqn, ins)
        values |= dict(zip(eqn.outvars, outs, strict=True))
    return [_value(values, v) for v in closed.jaxpr.outvars]


def _value(values: dict[Any, Any], var: Any) -> Any:
    return var.val if hasattr(var, "val") else values[var]


def _is_inexact(var: Any) -> bool:
    return bool(jnp.issubdtype(var.aval.dtype, jnp.inexact))


def _is_complex(var: Any) -> bool:
    return bool(jnp.issubdtype(var.aval.dtype, jnp.complexfloating))


# --- the mistakes -----------------------------------------------------------------------------------------


def _mistakes(e: Evidence, trace: _Trace) -> Iterator[tuple[str, list[Edge]]]:
    """The phrases, and the operands whose cotangents are conjugated."""
    alike: dict[Any, list[Edge]] = {}
    active = _active(trace)
    for k, eqn in enumerate(trace.jaxpr.eqns):
        vars_ = [*eqn.invars, *eqn.outvars]
        if eqn.primitive.name in REAL or not any(_is_inexact(v) and _is_complex(v) for v in vars_):
            continue
        for i, var in enumerate(eqn.invars):
            if not hasattr(var, "val") and var in active:
                shapes = tuple(v.aval.shape for v in eqn.invars)
                alike.setdefault((eqn.primitive.name, shapes, i), []).append((k, i))
    products = [x for (name, *_), edges in alike.items() if name in ("mul", "dot_general") for x in edges]
    for edges in alike.values():
        said = _said(e, trace, edges[-1])
        yield said + (f", in all {len(edges)} places" if len(edges) > 1 else ""), edges
        for edge in edges if len(edges) > 1 else ():
            yield f"{_said(e, trace, edge)}, in one place ({edge[0]})", [edge]
    yield "the complex conjugate is missing in the derivatives of all products, d · y for d · y̅", products


def _active(trace: _Trace) -> set[Any]:
    """The variables that depend on the arguments and can have a cotangent."""
    found = set(trace.jaxpr.invars)
    for eqn in trace.jaxpr.eqns:
        if any(not hasattr(v, "val") and v in found for v in eqn.invars):
            found.update(v for v in eqn.outvars if _is_inexact(v))
    return found


def _said(e: Evidence, trace: _Trace, edge: Edge) -> str:
    eqn, i = trace.jaxpr.eqns[edge[0]], edge[1]
    name = eqn.primitive.name
    mine = _name(e, trace, eqn.invars[i])
    if name in ("mul", "dot_general"):
        other = _name(e, trace, eqn.invars[1 - i])
        if name == "mul":
            return f"the complex conjugate of {other} is missing in the gradient of {mine}, d · y for d · y̅"
        return (
            f"the complex conjugate of {other} is missing in the gradient of {mine}: a matrix is transposed, "
            "but not conjugated (Wᵀ for Wᴴ)"
        )
    if name == "abs":
        return f"the complex conjugate of {mine} is taken in the derivative of |z|, z̅ for z"
    if name == "fft":
        return f"a Fourier transform where its inverse belongs, or vice versa, in the gradient of {mine}"
    if name in PART:
        return f"the sign of the gradient of {mine} is flipped, as an imaginary part (a conjugate is missing)"
    return f"the complex conjugate of the derivative of {name} is missing in the gradient of {mine}"


def _name(e: Evidence, trace: _Trace, var: Any) -> str:
    """A variable in terms of the arguments, if that is short."""
    if "made by" not in e.kept:
        e.kept["made by"] = {out: eqn for eqn in trace.jaxpr.eqns for out in eqn.outvars}
    made = e.kept["made by"]
    if hasattr(var, "val") or var not in made:
        names = [e.point.names[k] for k in e.point.wrt]
        return names[trace.jaxpr.invars.index(var)] if var in trace.jaxpr.invars else "a constant"
    eqn = made[var]
    name = eqn.primitive.name
    varied = [v for v in eqn.invars if not hasattr(v, "val") and _is_inexact(v)]
    parts = [_name(e, trace, v) for v in varied[:2]] if len(varied) in (1, 2) else []
    others = [v for v in eqn.invars if v not in varied]
    said = f"the result of {SAID.get(name, name)}"
    if len(parts) == 2 and name in JOINED:
        said = JOINED[name].format(*parts)
    elif len(parts) == 1 and name == "mul" and others and np.all(_value(trace.values, others[0]) == 1j):
        said = f"i · {parts[0]}"
    elif len(parts) == 1 and (name in REAL or name in ("mul", "div")):
        said = f"{PART.get(name, '')}{parts[0]}"
    elif len(parts) == 1:
        said = f"{PART[name]}{parts[0]}" if name in PART else f"{name}({parts[0]})"
    return said if len(said) <= LONGEST_NAME else f"the result of {SAID.get(name, name)}"


JOINED = {"complex": "{} + i · {}", "add": "{} + {}", "sub": "{} − {}", "mul": "({}) · ({})"}


# --- the backward pass ------------------------------------------------------------------------------------


def _pulled(e: Evidence, trace: _Trace, mistakes: Sequence[set[Edge]]) -> list[np.ndarray]:
    """The gradients of the leaves, with a row for each mistake."""
    count, gots = len(mistakes), dict[Any, Any]()
    for var, d in zip(trace.jaxpr.outvars, e.point.dout, strict=True):
        whole = jnp.broadcast_to(jnp.asarray(d, var.aval.dtype), (count, *var.aval.shape))
        gots[var] = gots[var] + whole if var in gots else whole
    active = _active(trace)
    for k in range(len(trace.jaxpr.eqns) - 1, -1, -1):
        eqn = trace.jaxpr.eqns[k]
        wanted = [i for i, v in enumerate(eqn.invars) if not hasattr(v, "val") and v in active]
        outs = [v for v in eqn.outvars if _is_inexact(v)]
        if not wanted or not any(v in gots for v in outs):
            continue
        ds = [gots.pop(v, jnp.zeros((count, *v.aval.shape), v.aval.dtype)) for v in outs]
        pull = jax.vmap(_pull(trace, k, wanted))
        right = pull(*ds)
        if any((k, i) in edges for edges in mistakes for i in wanted):
            conjugated = [jnp.conj(back) for back in pull(*(jnp.conj(d) for d in ds))]
        else:
            conjugated = right
        for i, mine, other in zip(wanted, right, conjugated, strict=True):
            is_wrong = np.array([(k, i) in edges for edges in mistakes])
            back = jnp.where(is_wrong.reshape(-1, *(1,) * (mine.ndim - 1)), other, mine)
            var = eqn.invars[i]
            gots[var] = gots[var] + back if var in gots else back
    zeros = [np.zeros((count, *v.aval.shape)) for v in trace.jaxpr.invars]
    return [np.asarray(gots.get(v, zero)) for v, zero in zip(trace.jaxpr.invars, zeros, strict=True)]


def _pull(trace: _Trace, k: int, wanted: Sequence[int]) -> Any:
    """The backward pass of one equation to some of its operands."""
    eqn = trace.jaxpr.eqns[k]
    ins = [_value(trace.values, v) for v in eqn.invars]

    def forward(*some: Any) -> list[Any]:
        values = list(ins)
        for i, x in zip(wanted, some, strict=True):
            values[i] = x
        return [out for out, v in zip(bind(eqn, values), eqn.outvars, strict=True) if _is_inexact(v)]

    pull = jax.vjp(forward, *(ins[i] for i in wanted))[1]
    return lambda *ds: pull(list(ds))
