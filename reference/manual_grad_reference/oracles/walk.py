"""Evaluate a JAX program step by step, carrying extra facts along with the value of each array."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

_CALLS = {"pjit", "jit", "custom_jvp_call", "custom_vjp_call", "closed_call", "remat", "checkpoint"}


def walk(closed: ClosedJaxpr, values: list, known: list, step: Callable, of_constant: Callable) -> list:
    """Evaluate a program, inlining calls and skipping steps that no output depends on.

    Args:
        closed: the program.
        values: the values of its inputs.
        known: the facts about each input.
        step: `step(eqn, values, known)` returns the outputs of one primitive, each a pair (value, known).
        of_constant: returns the facts about a constant of the program.
    Returns:
        A pair (value, known) for each output.
    """
    jaxpr = closed.jaxpr
    env: dict[Any, tuple] = {}
    env.update(zip(jaxpr.constvars, [(c, of_constant(c)) for c in closed.consts], strict=True))
    env.update(zip(jaxpr.invars, zip(values, known, strict=True), strict=True))

    def read(atom: Any) -> tuple:
        return (atom.val, of_constant(atom.val)) if isinstance(atom, Literal) else env[atom]

    for eqn in _needed(jaxpr):
        arguments = [read(atom) for atom in eqn.invars]
        given, said = [value for value, _ in arguments], [what for _, what in arguments]
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        branch = _platform(eqn, jaxpr) if eqn.primitive.name == "cond" else None
        if branch is not None:
            results = walk(branch, given[1:], said[1:], step, of_constant)
        elif eqn.primitive.name == "scan":
            results = walk(_unrolled(eqn), given, said, step, of_constant)
        elif eqn.primitive.name in _CALLS and inner is not None:
            program = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
            results = walk(program, given, said, step, of_constant)
        else:
            results = step(eqn, given, said)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _platform(cond: Any, jaxpr: Any) -> ClosedJaxpr | None:
    """The branch for the current platform, if the platform selects the branch."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "platform_index" and cond.invars[0] in eqn.outvars:
            platforms = eqn.params["platforms"]
            mine = (k for k, names in enumerate(platforms) if names is None or jax.default_backend() in names)
            return cond.params["branches"][next(mine)]
    return None


def _unrolled(scan: Any) -> ClosedJaxpr:
    of = scan.params
    consts, carried = of["num_consts"], of["num_consts"] + of["num_carry"]
    return _steps_of(
        of["jaxpr"], consts, carried, of["length"], of["reverse"], tuple(atom.aval for atom in scan.invars)
    )


@functools.lru_cache(maxsize=64)
def _steps_of(
    body: ClosedJaxpr, consts: int, carried: int, length: int, backwards: bool, given: tuple
) -> ClosedJaxpr:
    """A scan unrolled into a program without loops."""

    def steps(*args: Any) -> list:
        carry, ys = list(args[consts:carried]), {}
        for t in reversed(range(length)) if backwards else range(length):
            xs = [lax.index_in_dim(x, t, keepdims=False) for x in args[carried:]]
            carry_and_y = jaxpr_as_fun(body)(*args[:consts], *carry, *xs)
            carry, ys[t] = carry_and_y[: carried - consts], carry_and_y[carried - consts :]
        return [*carry, *(jnp.stack(y) for y in zip(*(ys[t] for t in sorted(ys)), strict=True))]

    return jax.make_jaxpr(steps)(*given)


def bind(eqn: Any, operands: list) -> list:
    """The outputs of a step's primitive for other operands."""
    out = eqn.primitive.bind(*operands, **eqn.params)
    return list(out) if eqn.primitive.multiple_results else [out]


def floating(value: Any) -> bool:
    """Whether an array has a floating-point dtype.

    >>> floating(1.0), floating(jnp.arange(2))
    (True, False)
    """
    dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
    return dtype.kind == "f" or bool(jnp.issubdtype(dtype, jnp.floating))


def _needed(jaxpr: Any) -> list:
    """The steps on which the outputs depend; the others are ignored."""
    wanted = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    steps = []
    for eqn in reversed(jaxpr.eqns):
        if wanted.intersection(eqn.outvars):
            wanted.update(atom for atom in eqn.invars if not isinstance(atom, Literal))
            steps.append(eqn)
    return steps[::-1]
