"""Compiling a function for one call on small inputs, where the compiler takes longer than the function."""

import functools
from collections.abc import Callable
from typing import Any

import jax

QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


def compiled(fn: Callable, *args: Any, quickly: bool = True, **inputs: Any) -> Any:
    """Call ``fn`` under ``jit``; inputs that are no arrays (a mode, a chunk size) stay what they are.

    An oracle runs once on small inputs, so the compiler is told to be quick; a formula is judged as its user
    compiles it.
    """
    arrays, settings = split_settings(inputs)
    options = quick() if quickly else None
    run = jax.jit(lambda args, arrays: fn(*args, **arrays, **settings), compiler_options=options)
    return run(args, arrays)


def split_settings(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs that are arrays, or made of them, and those that are not."""
    settings = {name: v for name, v in inputs.items() if not all(_is_array(x) for x in jax.tree.leaves(v))}
    return {name: v for name, v in inputs.items() if name not in settings}, settings


@functools.cache
def quick() -> dict[str, Any] | None:
    """``QUICK``, where this version of XLA knows these options and they are for its device."""
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x + 1, compiler_options=QUICK)(0.0)
    except Exception:  # an unknown option; what is raised differs between versions
        return None
    return QUICK


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)
