"""A linear map applied to the cotangent again where its adjoint belongs: a convolution for a correlation.

The function's equations are evaluated one by one, with another value in place of one of them; so it also
works where the tape does not, as for complex numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.tape import WRAPPERS, bind, computed
from manual_grad.checker.truth import is_float
from manual_grad.compiling import quickly

EQUATIONS_UP_TO, MAPS_UP_TO = 200, 6
WHY = {
    "fft": "a convolution for a correlation, the spectrum's complex conjugate is missing",
    "scatter": "rows and columns of the indices are not swapped",
    "conv_general_dilated": "the kernel is not flipped",
    "dot_general": "a matrix for its transpose",
}


def adjoint_not_taken(e: Evidence) -> str:
    """The truth with J d in place of Jᵀ d, where J is a linear map from the leaf to an array of its shape."""
    trace = e.once("trace", lambda: None if e.point.foreign else jax.make_jaxpr(e.point.forward)(*e.point.at))
    if trace is None or len(e.point.at) <= e.leaf or e.want.size < 2 or e.hidden is not None:
        return ""
    for names, wrong in e.once(f"adjoints {e.leaf}", lambda: list(_maps(e, trace))):
        if not e.same(wrong, e.want) and e.same(e.got, wrong):
            why = next((said for name, said in WHY.items() if any(name in n for n in names)), "")
            again = f"the linear map of {e.names[e.leaf]} is applied to the cotangent again"
            return f"transposed: {again}, where its adjoint belongs{f' ({why})' if why else ''}"
    return ""


def _maps(e: Evidence, trace: ClosedJaxpr) -> Iterator[tuple[list[str], np.ndarray]]:
    """For each linear map: the steps that it consists of, and the gradient with the map for its adjoint."""
    at = [np.asarray(x, np.float64) if is_float(x) else x for x in e.point.at]
    names: list[str] = []
    here = _evaluated(trace, at, {}, names)[1]
    if len(here) > EQUATIONS_UP_TO:
        return
    shape = np.shape(e.want)
    a = np.random.default_rng(0).standard_normal(shape)
    at_0, at_a, at_less, at_twice = (
        _evaluated(trace, _with(at, e.leaf, f * a), {})[1] for f in (0, 1, -1, 2)
    )
    count = 0
    for k, value in enumerate(here):
        if np.shape(value) != shape or np.asarray(value).dtype.kind != "f" or count >= MAPS_UP_TO:
            continue
        moved = np.asarray(at_a[k] - at_0[k])
        off = [np.asarray(at_less[k] - at_0[k]) + moved, np.asarray(at_twice[k] - at_0[k]) - 2 * moved]
        if not np.any(moved) or np.max(np.abs(off)) > 1e-9 * np.max(np.abs(moved)):
            continue
        count += 1
        d = _cotangent_of(e, trace, at, k, value)
        there = _evaluated(trace, _with(at, e.leaf, d), {})[1][k] - at_0[k]

        def forward(x: Any, k: int = k) -> Any:
            return jnp.asarray(_evaluated(trace, _with(at, e.leaf, x), {})[1][k])

        back = quickly(lambda x, d: jax.vjp(forward, x)[1](d)[0])(at[e.leaf], d)
        yield names[: k + 1], e.want + np.asarray(there - back)


def _with(at: Sequence[Any], leaf: int, value: Any) -> list[Any]:
    return [value if i == leaf else x for i, x in enumerate(at)]


def _cotangent_of(e: Evidence, trace: ClosedJaxpr, at: Sequence[Any], k: int, value: Any) -> Any:
    """The cotangent of the k-th value."""

    def pulled(v: Any, dout: list[Any]) -> Any:
        outs, pull = jax.vjp(lambda v: tuple(map(jnp.asarray, _evaluated(trace, at, {k: v})[0])), v)
        return pull(tuple(jnp.asarray(d, out.dtype) for d, out in zip(dout, outs, strict=True)))[0]

    return quickly(pulled)(value, list(e.point.dout))


def _evaluated(
    trace: ClosedJaxpr, args: Sequence[Any], given: Mapping[int, Any], names: list[str] | None = None
) -> tuple[list[Any], list[Any]]:
    """The outputs and all values, with some of the values replaced."""
    seen: list[Any] = []
    names = [] if names is None else names

    def run(jaxpr: Any, consts: Sequence[Any], ins: Sequence[Any]) -> list[Any]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *ins], strict=True))

        def read(var: Any) -> Any:
            return var.val if hasattr(var, "val") else env[var]

        for eqn in jaxpr.eqns:
            values = [read(var) for var in eqn.invars]
            name = eqn.primitive.name
            inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr") if name in WRAPPERS else None
            if inner is not None:
                closed = inner if hasattr(inner, "consts") else ClosedJaxpr(inner, ())
                outs = run(closed.jaxpr, closed.consts, values[len(values) - len(closed.jaxpr.invars) :])
            else:
                traced = any(isinstance(value, jax.core.Tracer) for value in values)
                outs = bind(eqn, values) if traced else computed(eqn, values)
                for i, out in enumerate(outs):
                    outs[i] = given.get(len(seen), out)
                    seen.append(outs[i])
                    names.append(name)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(var) for var in jaxpr.outvars]

    return run(trace.jaxpr, trace.consts, args), seen
