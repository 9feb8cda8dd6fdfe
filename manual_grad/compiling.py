"""Run functions once on small inputs, where compiling takes longer than running."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from manual_grad.answer_cache import remembered
from manual_grad_reference.oracles.in_numpy import in_numpy

QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_parallel_codegen_split_count": 1,
}


AT_ONCE = 6  # calls per program; compiling a larger one takes longer than compiling two of half the size


@dataclass(frozen=True)
class Call:
    """A function and its arguments; ``inputs`` that are not arrays (a mode, a chunk size) stay unchanged.

    With ``in_numpy``, NumPy may run the program, such as JAX's derivatives of the reference. Formulas are
    compiled, as they are by their users. ``question`` is all that the answer of such a program depends on, if
    it may be kept: see :func:`manual_grad.answer_cache.remembered`.
    """

    fn: Callable
    args: tuple = ()
    inputs: dict[str, Any] = field(default_factory=dict)
    in_numpy: bool = False
    question: Any = None


def together(calls: Sequence[Call]) -> list[Any]:
    """Make several calls in a few programs, which compile faster than one program per call.

    Args:
        calls: the calls, none of which uses another's result.
    Returns:
        The result of each call, in NumPy arrays, or the exception that it raised.

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
            except Exception as error:  # a user's function may raise anything
                raised[k] = error
                answers.append(None)
        return answers

    given = [(call.args, arrays) for call, arrays in zip(calls, inputs, strict=True)]
    try:
        answers = jax.device_get(jax.jit(run, compiler_options=quick())(given))
    except Exception as error:  # from the compiler or the device: find out which call caused it
        return [error] if len(calls) == 1 else [together([call])[0] for call in calls]
    return [raised.get(k, answer) for k, answer in enumerate(answers)]


def _by_numpy(call: Call) -> Any:
    arrays, settings = split_settings(call.inputs)
    try:
        run = quickly(lambda args, arrays: call.fn(*args, **arrays, **settings))
        return remembered(call.question, lambda: run(call.args, arrays))
    except Exception as error:  # a user's function may raise anything
        return error


def quickly(fn: Callable) -> Callable:
    """The function run in NumPy where that is faster, otherwise compiled without XLA's optimizations.

    >>> float(quickly(lambda x: 2 * x)(3.0))
    6.0
    """
    return in_numpy(fn, lambda fn: jax.jit(fn, compiler_options=quick()))


def compiled(fn: Callable, *args: Any, **inputs: Any) -> Any:
    """Call ``fn`` under ``jit``; inputs that are not arrays (a mode, a chunk size) remain Python values.

    XLA's optimizations are off, as they do not pay for a single run on small inputs. The formulas are tested
    with optimizations elsewhere: by one of the tests and by the benchmark.
    """
    arrays, settings = split_settings(inputs)
    run = jax.jit(lambda args, arrays: fn(*args, **arrays, **settings), compiler_options=quick())
    return run(args, arrays)


def split_settings(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate the inputs that are arrays or pytrees of arrays from the others."""
    settings = {name: v for name, v in inputs.items() if not _is_made_of_arrays(v)}
    return {name: v for name, v in inputs.items() if name not in settings}, settings


def _is_made_of_arrays(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(map(_is_array, leaves))


@functools.cache
def quick() -> dict[str, Any] | None:
    """Those options of ``QUICK`` that this version of XLA knows; None if there are none, or not on a CPU."""
    if jax.default_backend() != "cpu":
        return None
    if _known(QUICK):
        return QUICK
    return {name: value for name, value in QUICK.items() if _known({name: value})} or None


def _known(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(0.0)
    except Exception:  # an unknown option; the exception differs between versions
        return False
    return True


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)
