"""NumPy in place of jax.numpy, jax.lax and jax.nn, for code that is run thousands of times on small arrays.

JAX takes a tenth of a millisecond for each operation, and compiles for each new shape. While edits are tried,
the names by which the user's functions know JAX stand for modules of functions that compute in NumPy, where
those mean the same, or else call JAX and return its results as arrays of the stand-in.
"""

import contextlib
import functools
import operator
import types
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial, partialmethod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special
from jax import lax

from manual_grad.checker.edits.in_numpy import JNP, LAX, NN, OPS
from manual_grad.checker.edits.running import Running, names_in

IGNORED = ("precision", "preferred_element_type", "total_repeat_length", "out_sharding", "promote_integers")
IN_PLACE = (
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod),
    *(operator.pow, operator.matmul, operator.and_, operator.or_, operator.xor),
)
UFUNCS = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "mul": np.multiply}
UFUNCS |= {"divide": np.divide, "power": np.power, "min": np.minimum, "max": np.maximum}
Tree = Any


class Array(np.ndarray):
    """A NumPy array that cannot be modified, with what only JAX's arrays have."""

    __array_priority__ = 1000  # of it and an array of JAX comes one like it

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("JAX arrays are immutable")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return func(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})

    @property
    def at(self) -> Any:
        """For ``x.at[index].add(value)`` and the like."""
        return _At(self)

    def sort(self, axis: Any = -1, *_: Any, **__: Any) -> Any:
        """A sorted copy."""
        return _wrapped(np.sort(_plain(self), axis))

    def block_until_ready(self) -> Any:
        """Itself."""
        return self


for _operator in IN_PLACE:
    setattr(Array, f"__i{_operator.__name__.strip('_')}__", partialmethod(_operator))


class _At:
    def __init__(self, array: Any, index: Any = None) -> None:
        self.array, self.index = array, index

    def __getitem__(self, index: Any) -> Any:
        return _At(self.array, index)

    def __getattr__(self, name: str) -> Any:
        if name not in (*UFUNCS, "set", "get", "apply"):
            raise AttributeError(name)
        return partial(self._changed, name)

    def _changed(self, name: str, *value: Any, **how: Any) -> Any:
        if how or name in ("get", "apply"):
            return _in_jax(getattr(jnp.asarray(self.array).at[self.index], name), value, how)
        new, index = np.array(self.array), _plain(self.index)
        given = np.asarray(_plain(value[0]), new.dtype)
        if name == "set":
            new[index] = given
        else:
            UFUNCS[name].at(new, index, given)
        return new.view(Array)


def _plain(value: Any) -> Any:
    """An argument for NumPy; a TypeError for what JAX is tracing."""
    kind = type(value)
    if kind is Array:
        return value.view(np.ndarray)
    if kind in (list, tuple):
        return kind(map(_plain, value))
    if isinstance(value, jax.core.Tracer):
        raise TypeError
    return np.asarray(value) if isinstance(value, jax.Array) else value


def _wrapped(value: Any) -> Any:
    """A result as JAX would return it: every number is an array."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value).view(Array)
    if isinstance(value, tuple | list):
        parts = map(_wrapped, value)
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def as_arrays(tree: Tree) -> Tree:
    """A copy of a tree with arrays of the stand-in in place of JAX's and NumPy's."""
    return jax.tree.map(_copied, tree)


def _copied(leaf: Any) -> Any:
    if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, jax.Array | np.ndarray):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return np.array(leaf).view(Array)


def _in_jax(function: Callable[..., Any], args: Iterable[Any], how: dict[str, Any]) -> Any:
    """A function of JAX's, with its results as arrays of the stand-in."""
    own = [getattr(arg, "of_jax", arg) for arg in args]
    with jax.disable_jit(False):
        return as_arrays(function(*own, **how))


def _function(numpys: Any, jaxs: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's function, or JAX's for arguments that NumPy's does not know."""

    def call(*args: Any, **how: Any) -> Any:
        if numpys is not None:
            with contextlib.suppress(TypeError):
                known = {name: _plain(value) for name, value in how.items() if name not in IGNORED}
                return _wrapped(numpys(*map(_plain, args), **known))
        return _in_jax(jaxs, args, how)

    call.of_jax = jaxs  # type: ignore[attr-defined]
    for name in ("reduce", "accumulate", "outer") if isinstance(numpys, np.ufunc) else ():
        setattr(call, name, _function(getattr(numpys, name), getattr(jaxs, name, jaxs)))
    return call


# --- control flow -----------------------------------------------------------------------------------------


def _entering(tree: Tree) -> Tree:
    """The start of a loop's carry: every number is an array."""
    return jax.tree.map(lambda x: x if isinstance(x, jax.core.Tracer) else np.asarray(x).view(Array), tree)


def _stacked(trees: list[Tree], axis: int = 0) -> Tree:
    return jax.tree.map(lambda *leaves: NUMPY.stack(leaves, axis=axis), *trees)


def _scan(f: Any, init: Tree, xs: Tree = None, length: Any = None, reverse: bool = False, **_: Any) -> Any:
    leaves, structure = _flat(_entering(xs))
    count = range(len(leaves[0]) if leaves else length)
    carry, ys = _entering(init), []
    for i in reversed(count) if reverse else count:
        carry, y = f(carry, structure.unflatten([leaf[i] for leaf in leaves]))
        ys.append(y)
    return carry, _stacked(ys[::-1] if reverse else ys)


def _fori_loop(lower: Any, upper: Any, body_fun: Any, init_val: Tree, **_: Any) -> Tree:
    carry = _entering(init_val)
    for i in range(int(lower), int(upper)):
        carry = body_fun(i, carry)
    return carry


def _while_loop(cond_fun: Any, body_fun: Any, init_val: Tree) -> Tree:
    carry = _entering(init_val)
    while cond_fun(carry):
        carry = body_fun(carry)
    return carry


def _cond(pred: Any, true_fun: Any, false_fun: Any, *operands: Any, **operand: Any) -> Any:
    return (true_fun if pred else false_fun)(*operands, *operand.values())


def _switch(index: Any, branches: Any, *operands: Any) -> Any:
    return branches[min(max(int(index), 0), len(branches) - 1)](*operands)


def _map(f: Any, xs: Tree, **_: Any) -> Tree:
    return _scan(lambda carry, x: (carry, f(x)), None, xs)[1]


def _vmap(fun: Any = None, in_axes: Any = 0, out_axes: Any = 0, **named: Any) -> Any:
    """A loop instead."""
    if fun is None:
        return partial(_vmap, in_axes=in_axes, out_axes=out_axes, **named)

    def mapped(*args: Any, **given: Any) -> Any:
        prefix = tuple(in_axes) if isinstance(in_axes, list) else in_axes
        axes = [*_spread(prefix, args), *(0 for _ in jax.tree.leaves(given))]
        leaves, structure = _flat((args, given))
        over = [(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True) if axis is not None]
        results = []
        for i in range(over[0][0].shape[over[0][1]]):
            each = [x if a is None else NUMPY.moveaxis(x, a, 0)[i] for x, a in zip(leaves, axes, strict=True)]
            own_args, own_given = structure.unflatten(each)
            results.append(fun(*own_args, **own_given))
        flat = [_flat(result) for result in results]
        columns = zip(*(leaves for leaves, _ in flat), strict=True)
        ends = _spread(out_axes, results[0])
        stacked = [c[0] if a is None else NUMPY.stack(c, axis=a) for c, a in zip(columns, ends, strict=True)]
        return flat[0][1].unflatten(stacked)

    return mapped


def _flat(tree: Tree, is_leaf: Any = None) -> tuple[list[Any], Any]:
    return jax.tree.flatten(tree, is_leaf=is_leaf)


def _spread(prefix: Tree, tree: Tree) -> list[int | None]:
    """The axis of each leaf of a tree."""
    if _is_axis(prefix):
        return [prefix] * len(jax.tree.leaves(tree))
    axes, structure = _flat(prefix, _is_axis)
    return [axis for each in map(_spread, axes, structure.flatten_up_to(tree)) for axis in each]


def _is_axis(tree: Tree) -> bool:
    return tree is None or isinstance(tree, int)


def _as_it_is(fun: Any = None, *_: Any, **named: Any) -> Any:
    return fun if fun is not None else partial(_as_it_is, **named)


FLOW: dict[Any, Any] = {  # what takes functions, and what has nothing to do
    **{lax.scan: _scan, lax.fori_loop: _fori_loop, lax.while_loop: _while_loop, lax.cond: _cond},
    **{lax.switch: _switch, lax.map: _map, jax.vmap: _vmap, jax.Array: Array},
    **dict.fromkeys((jax.jit, jax.checkpoint, jax.remat, jax.device_put, jax.block_until_ready), _as_it_is),
}


MODULES: dict[Any, tuple[dict[str, Any], Any]] = {  # each with functions of other names, and its counterpart
    **{jax: ({}, None), jnp: (JNP, np), lax: (LAX, None), jax.nn: (NN, None), jax.ops: (OPS, None)},
    **{jax.random: ({}, None), jax.scipy: ({}, None), jax.scipy.special: ({}, scipy.special)},
    **{jax.scipy.linalg: ({}, scipy.linalg), jnp.linalg: ({}, np.linalg), jnp.fft: ({}, np.fft)},
}


# --- in place of JAX --------------------------------------------------------------------------------------


@functools.cache
def _of(module: Any) -> Any:
    """The stand-in of one of JAX's modules, whose attributes are made when they are first asked for."""
    made = types.ModuleType(module.__name__)
    own, counterpart = MODULES[module]

    def attribute(name: str) -> Any:
        found = real = getattr(module, name)
        if isinstance(real, types.ModuleType):
            found = _of(real) if real in MODULES else real
        elif isinstance(real, Hashable) and real in FLOW:
            found = FLOW[real]
        elif isinstance(real, type):
            known = getattr(np, name, None)
            found = known if isinstance(known, type) and issubclass(known, np.generic) else real
        elif callable(real) and module is not jax:
            found = _function(own.get(name, getattr(counterpart, name, None)), real)
        setattr(made, name, found)
        return found

    made.__getattr__ = attribute  # type: ignore[method-assign]
    return made


NUMPY = _of(jnp)


def _instead_of(value: Any) -> Any:
    """What stands for a module or a function of JAX's; None for anything else."""
    if isinstance(value, types.ModuleType):
        return _of(value) if value in MODULES else None
    name = getattr(value, "__name__", None)
    if not isinstance(name, str) or not str(getattr(value, "__module__", "")).startswith("jax"):
        return None
    of = next((module for module in MODULES if getattr(module, name, None) is value), None)
    return None if of is None else getattr(_of(of), name)


class StandIn:
    """The variables by which functions know JAX, those of their modules and those around them."""

    def __init__(self, functions: Iterable[Running]) -> None:
        owners = [owner for running in functions for owner in running.owners]
        named = {(id(o.__globals__), n): o.__globals__ for o in owners for n in names_in(o.__code__)}
        variables = [(partial(g.__setitem__, n), g.get(n)) for (_, n), g in named.items()]
        for cell in {id(cell): cell for owner in owners for cell in owner.__closure__ or ()}.values():
            with contextlib.suppress(ValueError):  # it is empty
                variables.append((partial(setattr, cell, "cell_contents"), cell.cell_contents))
        instead = [(put, value, _instead_of(value)) for put, value in variables]
        self.variables = [found for found in instead if found[2] is not None]

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Let the functions compute in NumPy."""
        try:
            for put, _, instead in self.variables:
                put(instead)
            with np.errstate(all="ignore"), jax.disable_jit():
                yield
        finally:
            for put, real, _ in self.variables:
                put(real)
