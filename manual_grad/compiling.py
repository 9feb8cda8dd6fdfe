"""Computing functions once on small inputs, where the compiler takes longer than the function."""

import functools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from manual_grad_reference.oracles.in_numpy import in_numpy

QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_parallel_codegen_split_count": 1,
}


AT_ONCE = 6  # calls in a program; the compiler takes longer for one of more than for two of half as many


@dataclass(frozen=True)
class Call:
    """A function and its arguments; ``inputs`` that are not arrays (a mode, a chunk size) stay so.

    What is JAX's own, such as a derivative of the reference, NumPy may compute; a formula is to be compiled,
    as by its users.
    """

    fn: Callable
    args: tuple = ()
    inputs: dict[str, Any] = field(default_factory=dict)
    in_numpy: bool = False


def together(calls: Sequence[Call]) -> list[Any]:
    """Make several calls in a few programs, which compile faster than a program for each.

    Args:
        calls: what to call, none of them on another's result.
    Returns:
        For each call its result, in NumPy arrays, or the exception that it raised.

    >>> together([Call(jnp.add, (1.0, 2.0)), Call(jnp.add, (jnp.ones(2), jnp.ones(3)))])
    [array(3., dtype=float32), TypeError('add got incompatible shapes for broadcasting: (2,), (3,).')]
    """
    if not calls:
        return []
    by_numpy = {k: _by_numpy(call) for k, call in enumerate(calls) if call.in_numpy}
    if by_numpy:
        others = iter(together([call for call in calls if not call.in_numpy]))
        return [by_numpy[k] if k in by_numpy else next(others) for k in range(len(calls))]
    if len(calls) > AT_ONCE:
        return together(calls[:AT_ONCE]) + together(calls[AT_ONCE:])
    inputs, settings = zip(*(split_settings(call.inputs) for call in calls), strict=True)
    raised: dict[int, Exception] = {}

    def run(given: list) -> list:
        answers: list = []
        for k, (call, (args, arrays)) in enumerate(zip(calls, given, strict=True)):
            try:
                answers.append(jax.tree.map(jnp.asarray, call.fn(*args, **arrays, **settings[k])))
            except Exception as error:  # anyone's function may raise anything
                raised[k] = error
                answers.append(None)
        return answers

    given = [(call.args, arrays) for call, arrays in zip(calls, inputs, strict=True)]
    try:
        answers = jax.device_get(jax.jit(run, compiler_options=quick())(given))
    except Exception as error:  # of the compiler or the device: which of the calls is it?
        return [error] if len(calls) == 1 else [together([call])[0] for call in calls]
    return [raised.get(k, answer) for k, answer in enumerate(answers)]


def _by_numpy(call: Call) -> Any:
    arrays, settings = split_settings(call.inputs)
    try:
        run = quickly(lambda args, arrays: call.fn(*args, **arrays, **settings))
        return run(call.args, arrays)
    except Exception as error:  # anyone's function may raise anything
        return error


def quickly(fn: Callable) -> Callable:
    """The function computed by NumPy where that suits it, and compiled without XLA's optimizations where not.

    >>> float(quickly(lambda x: 2 * x)(3.0))
    6.0
    """
    return in_numpy(fn, lambda fn: jax.jit(fn, compiler_options=quick()))


def in_step(walks: Sequence[Generator[Any, Any, Any]], run: Callable[[list[bool], list], Sequence]) -> list:
    """Let several walks go on side by side, so that one program computes what all of them ask for at a time.

    Args:
        walks: each yields what it wants computed next, is sent the result, and returns what it found.
        run: given which walks are still under way, and what each asked for last, the result for each.
    Returns:
        What each walk found.

    >>> def doubled(start, until):
    ...     while start < until:
    ...         start = yield start
    ...     return start
    >>> in_step([doubled(1, 10), doubled(3, 4)], lambda under_way, asked: [2 * n for n in asked])
    [16, 6]
    """
    asked = [next(walk) for walk in walks]
    under_way = [True for _ in walks]
    found: list = [None for _ in walks]
    while any(under_way):
        answers = run(under_way, asked)
        for k in (k for k, going in enumerate(list(under_way)) if going):
            try:
                asked[k] = walks[k].send(answers[k])
            except StopIteration as end:
                found[k], under_way[k] = end.value, False
    return found


def compiled(fn: Callable, *args: Any, **inputs: Any) -> Any:
    """Call ``fn`` under ``jit``; inputs that are not arrays (a mode, a chunk size) stay what they are.

    What runs once, on small inputs, is not worth XLA's optimizations; a test, and the
    benchmark, compare what those make of the formulas.
    """
    arrays, settings = split_settings(inputs)
    run = jax.jit(lambda args, arrays: fn(*args, **arrays, **settings), compiler_options=quick())
    return run(args, arrays)


def split_settings(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs that are arrays, or made of them, and those that are not."""
    settings = {name: v for name, v in inputs.items() if not _is_made_of_arrays(v)}
    return {name: v for name, v in inputs.items() if name not in settings}, settings


def _is_made_of_arrays(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(map(_is_array, leaves))


@functools.cache
def quick() -> dict[str, Any] | None:
    """What this version of XLA knows of ``QUICK``, on the device that it is for; None if nothing."""
    if jax.default_backend() != "cpu":
        return None
    if _known(QUICK):
        return QUICK
    return {name: value for name, value in QUICK.items() if _known({name: value})} or None


def _known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(0.0)
    except Exception:  # an unknown option; what is raised differs between versions
        return False
    return True


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)
