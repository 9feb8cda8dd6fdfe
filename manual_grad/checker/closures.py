"""What a function can reach without being given it: its closure, globals, defaults, attributes."""

import contextlib
import functools
import pickle
import random
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

MOST = 10**4  # objects that are looked at
LIBRARIES = ("torch", "numpy", "jax", "jaxlib", "manual_grad", "builtins")
OF_NUMPY = (np.random.Generator, np.random.BitGenerator, np.random.RandomState)


def reached(roots: Iterable[Any], wanted: tuple[type, ...]) -> list[Any]:
    """The objects of some types that functions, classes and modules can reach from Python.

    >>> rng = random.Random(0)
    >>> reached([functools.partial(lambda x, rng=rng: x * rng.random(), 2)], (random.Random,)) == [rng]
    True
    """
    found: list[Any] = []
    seen: dict[int, Any] = {}  # the objects themselves too: the address of one that is gone is used again
    near = list(roots)
    while near and len(seen) < MOST:
        item = near.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, wanted):
            found.append(item)
            continue
        with contextlib.suppress(Exception):  # an object may raise anything when it is looked at
            near.extend(_parts(item))
    return found


def _parts(item: Any) -> Iterator[Any]:
    """What an object holds or refers to."""
    if isinstance(item, dict):
        yield from item.values()
    elif isinstance(item, list | tuple | set | frozenset):
        yield from item
    elif isinstance(item, types.FunctionType):
        yield from _of_function(item)
    elif isinstance(item, types.MethodType):
        yield from (item.__self__, item.__func__)
    elif isinstance(item, staticmethod | classmethod):
        yield item.__func__
    elif isinstance(item, functools.partial):
        yield from (item.func, item.args, item.keywords)
    elif isinstance(item, type):
        if not is_of_library(item.__module__):
            yield from (dict(vars(item)), item.__bases__)
    elif not isinstance(item, types.ModuleType) and hasattr(item, "__dict__"):
        yield from (vars(item), type(item))


def _of_function(fn: types.FunctionType) -> Iterator[Any]:
    """A function's closure, defaults and attributes, and the globals that its code names."""
    yield from (fn.__defaults__, fn.__kwdefaults__, vars(fn))
    for cell in fn.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is empty
            yield cell.cell_contents
    if is_of_library(fn.__globals__.get("__name__", "")):
        return
    names = list(_names(fn.__code__))
    for value in [fn.__globals__[name] for name in names if name in fn.__globals__]:
        if not isinstance(value, types.ModuleType):
            yield value
        elif not is_of_library(value.__name__):
            yield from [vars(value)[name] for name in names if name in vars(value)]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def is_of_library(module: str) -> bool:
    """Whether a module's name is that of a library, whose code nobody checks."""
    return module.partition(".")[0] in LIBRARIES


# --- random generators ------------------------------------------------------------------------------------


def states_of(torch: Any, roots: Iterable[Any]) -> list[tuple[Any, Any]]:
    """The random generators that functions can reach, of PyTorch, NumPy and Python, each with its state."""
    found = reached(roots, (torch.Generator, random.Random, *OF_NUMPY))
    return [(one, _state(one)) for one in found if not isinstance(one, random.SystemRandom)]


def restore(states: Sequence[tuple[Any, Any]]) -> None:
    """Put each generator back into its state."""
    for one, state in states:
        if isinstance(one, random.Random):
            one.setstate(state)
        elif isinstance(one, np.random.Generator | np.random.BitGenerator):
            _bits(one).state = state
        else:  # NumPy's older one, or PyTorch's
            one.set_state(state)


def drawn_from(states: Sequence[tuple[Any, Any]]) -> bool:
    """Whether one of the generators is no longer in its state."""
    return any(_written(_state(one)) != _written(state) for one, state in states)


def _state(one: Any) -> Any:
    if isinstance(one, random.Random):
        return one.getstate()
    if isinstance(one, np.random.Generator | np.random.BitGenerator):
        return _bits(one).state
    return one.get_state()


def _bits(one: Any) -> Any:
    return getattr(one, "bit_generator", one)


def _written(state: Any) -> bytes:
    return pickle.dumps(state.numpy() if hasattr(state, "numpy") else state)
