"""Run a program traced by JAX in NumPy, which on small inputs is far faster than compiling it.

A derivative traced by JAX is a program of some ninety kinds of steps, each a few lines of NumPy. Any other
step is left to JAX, which compiles that step alone. Nothing here differentiates.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

# Approximate seconds: for a step and an entry in NumPy; to compile a program and a step.
STEP, ENTRY, PROGRAM, COMPILED = 1.5e-5, 5e-9, 0.03, 1.5e-3
_LOOPS = ("while", "shard_map")  # left to JAX


def in_numpy(fn: Callable, otherwise: Callable[[Callable], Callable] = jax.jit) -> Callable:
    """Run a function in NumPy if its program is short and in float64; otherwise compile it.

    Args:
        fn: a function of arrays and pytrees of them that JAX can trace.
        otherwise: compiles a function.
    Returns:
        A function with the same results as ``fn``, as NumPy arrays. JAX traces ``fn`` once for each shape and
        dtype.

    >>> with jax.enable_x64(True):
    ...     in_numpy(jax.grad(lambda x: jnp.tanh(x).sum()))(np.zeros(2))
    array([1., 1.])
    """
    programs: dict[Any, tuple[Callable, Any]] = {}

    def computed(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        key = tree, tuple((np.shape(leaf), jnp.result_type(leaf), _weak(leaf)) for leaf in leaves)
        if key not in programs:
            closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
            suits = _suits_numpy(closed)
            run = functools.partial(_evaluate, closed) if suits else otherwise(jaxpr_as_fun(closed))
            programs[key] = run, jax.tree.structure(shapes)
        run, structure = programs[key]
        return jax.tree.unflatten(structure, [_array(out) for out in run(*leaves)])

    return computed


def step_in_numpy(eqn: Any, given: list) -> list | None:
    """The results of one step of a program; None if only JAX can compute it.

    The operands may be larger than the step's own, as for a step of single numbers applied to arrays.
    """
    keys = any(jnp.issubdtype(getattr(x, "dtype", np.float64), jax.dtypes.extended) for x in given)
    if eqn.primitive.name not in _LINES or keys or any(map(_is_narrow, eqn.outvars)):
        return None
    with np.errstate(all="ignore"):
        outs = _step(eqn, [np.asarray(x) for x in given])
        return [_array(out, var.aval) for var, out in zip(eqn.outvars, outs, strict=True)]


def _weak(leaf: Any) -> bool:
    return isinstance(leaf, int | float) or bool(getattr(leaf, "weak_type", False))


def _suits_numpy(closed: ClosedJaxpr) -> bool:
    """Whether NumPy finishes before a compiler would, and rounds as XLA does."""
    written, steps, entries = _extent(closed.jaxpr)
    return STEP * steps + ENTRY * entries < PROGRAM + COMPILED * written


def _extent(jaxpr: Any) -> tuple[float, float, float]:
    """The number of steps written, of steps executed (infinite in a narrower dtype), and of entries."""
    written, steps, entries = 0.0, 0.0, 0.0
    for eqn in jaxpr.eqns:
        times = {"scan": eqn.params.get("length"), "while": math.inf}.get(eqn.primitive.name, 1)
        own = sum(math.prod(var.aval.shape) for var in eqn.outvars if hasattr(var.aval, "shape"))
        within = [_extent(program.jaxpr) for program in _programs_in(eqn)]
        written += 1 + sum(inner[0] for inner in within)
        steps += 1 + times * sum(inner[1] for inner in within)
        entries += own + times * sum(inner[2] for inner in within)
    atoms = [*jaxpr.invars, *jaxpr.constvars, *(var for eqn in jaxpr.eqns for var in eqn.outvars)]
    return written, math.inf if any(map(_is_narrow, atoms)) else steps, entries


def _is_narrow(var: Any) -> bool:
    dtype = getattr(var.aval, "dtype", np.dtype(int))
    return jnp.issubdtype(dtype, jnp.floating) and dtype != np.float64


def _programs_in(eqn: Any) -> list[ClosedJaxpr]:
    if eqn.primitive.name == "cond":
        return list(eqn.params["branches"])
    found = filter(None, (eqn.params.get(name) for name in ("jaxpr", "call_jaxpr", "body_jaxpr")))
    return [program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ()) for program in found]


def _evaluate(closed: ClosedJaxpr, *args: Any) -> list[np.ndarray]:
    env: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, map(_array, closed.consts), strict=True))
    for var, arg in zip(closed.jaxpr.invars, args, strict=True):
        env[var] = _array(arg, var.aval)

    def read(atom: Any) -> Any:
        return _array(atom.val, atom.aval) if isinstance(atom, Literal) else env[atom]

    with np.errstate(all="ignore"):
        for eqn in closed.jaxpr.eqns:
            env.update(zip(eqn.outvars, step(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def step(eqn: Any, given: list) -> list:
    """The outputs of one step of a program, in NumPy.

    Args:
        eqn: the step, of a jaxpr.
        given: an array for each of its inputs.
    """
    outs = [_array(out, var.aval) for var, out in zip(eqn.outvars, _step(eqn, given), strict=True)]
    for out, var in zip(outs, eqn.outvars, strict=True):
        assert np.shape(out) == var.aval.shape, (eqn, np.shape(out))
    return outs


def _array(value: Any, aval: Any = None) -> Any:
    """A value as a NumPy array of JAX's dtype; random keys are left unchanged."""
    if type(value) is np.ndarray and (aval is None or value.dtype == aval.dtype):
        return value
    if jnp.issubdtype(getattr(value, "dtype", np.float64), jax.dtypes.extended):
        return value
    return np.asarray(value, None if aval is None else aval.dtype)


def _step(eqn: Any, given: list) -> list:
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        return _scan(params, given)
    if name == "cond":
        branches = params["branches"]
        return _evaluate(branches[int(np.clip(given[0], 0, len(branches) - 1))], *given[1:])
    if name == "platform_index":
        backend = jax.default_backend()
        return [next(k for k, of in enumerate(params["platforms"]) if of is None or backend in of)]
    if name not in _LINES:
        if name not in _LOOPS and (inner := _programs_in(eqn)):
            return _evaluate(inner[0], *given)
        out = eqn.primitive.bind(*map(jnp.asarray, given), **params)
        return list(out) if eqn.primitive.multiple_results else [out]
    out = _LINES[name](*given, **params)
    return out if isinstance(out, list) else [out]


def _scan(params: dict, given: list) -> list:
    consts, carried = params["num_consts"], params["num_consts"] + params["num_carry"]
    carry, ys = given[consts:carried], {}
    order = range(params["length"])
    for t in reversed(order) if params["reverse"] else order:
        out = _evaluate(params["jaxpr"], *given[:consts], *carry, *(x[t] for x in given[carried:]))
        carry, ys[t] = out[: params["num_carry"]], out[params["num_carry"] :]
    if not ys:
        ys_of_one = params["jaxpr"].out_avals[params["num_carry"] :]
        return [*carry, *(np.zeros((0, *out.shape)) for out in ys_of_one)]
    return [*carry, *(np.stack(y) for y in zip(*(ys[t] for t in order), strict=True))]


# --- steps, one line each; names and parameters are JAX's ---------------------------------------------------


def _dot_general(a: Any, b: Any, *, dimension_numbers: Any, preferred_element_type: Any, **_: Any) -> Any:
    (contract_a, contract_b), (batch_a, batch_b) = dimension_numbers
    if preferred_element_type is not None:
        a, b = a.astype(preferred_element_type), b.astype(preferred_element_type)
    free_a = [k for k in range(a.ndim) if k not in (*contract_a, *batch_a)]
    free_b = [k for k in range(b.ndim) if k not in (*contract_b, *batch_b)]
    batch = tuple(a.shape[k] for k in batch_a)
    n = math.prod(a.shape[k] for k in contract_a)
    left = a.transpose(*batch_a, *free_a, *contract_a).reshape(*batch, -1, n) if n else None
    shape = batch + tuple(a.shape[k] for k in free_a) + tuple(b.shape[k] for k in free_b)
    if left is None or 0 in shape:
        return np.zeros(shape)
    right = b.transpose(*batch_b, *contract_b, *free_b).reshape(*batch, n, -1)
    return (left @ right).reshape(shape)


def _broadcast_in_dim(x: Any, *_: Any, shape: Any, broadcast_dimensions: Any, **__: Any) -> Any:
    spread = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
        spread[axis] = size
    return np.broadcast_to(x.reshape(spread), shape)


def _reshape(x: Any, *, new_sizes: Any, dimensions: Any, **_: Any) -> Any:
    return (x if dimensions is None else x.transpose(dimensions)).reshape(new_sizes)


def _slice(x: Any, *, start_indices: Any, limit_indices: Any, strides: Any) -> Any:
    strides = strides or (1,) * x.ndim
    return x[tuple(map(slice, start_indices, limit_indices, strides))]


def _starts(x: Any, sizes: Any, starts: Any) -> tuple:
    pairs = zip(starts, x.shape, sizes, strict=True)
    return tuple(slice(at, at + size) for at, size in ((int(np.clip(s, 0, n - k)), k) for s, n, k in pairs))


def _dynamic_slice(x: Any, *starts: Any, slice_sizes: Any) -> Any:
    return x[_starts(x, slice_sizes, starts)]


def _dynamic_update_slice(x: Any, update: Any, *starts: Any) -> Any:
    out = x.copy()
    out[_starts(x, update.shape, starts)] = update
    return out


def _places(x: Any, sizes: Any, indices: Any, numbers: Any, clipped: bool) -> tuple[tuple, Any, int]:
    """The entries of ``x`` that the indices select in each window, which windows lie inside, their axes."""
    windowed = isinstance(numbers, lax.GatherDimensionNumbers)
    flat = numbers.collapsed_slice_dims if windowed else numbers.inserted_window_dims
    named = numbers.start_index_map if windowed else numbers.scatter_dims_to_operand_dims
    beside = numbers.start_indices_batching_dims if windowed else numbers.scatter_indices_batching_dims
    batch = indices.shape[:-1]
    starts = dict.fromkeys(range(x.ndim), np.zeros(batch, int))
    starts.update(zip(named, np.moveaxis(indices.astype(np.int64), -1, 0), strict=True))
    for axis, of in zip(numbers.operand_batching_dims, beside, strict=True):
        starts[axis] = np.indices(batch)[of]
    last = [n - size for n, size in zip(x.shape, sizes, strict=True)]
    inside = np.all([(starts[k] >= 0) & (starts[k] <= last[k]) for k in starts], axis=0) | clipped
    kept = [k for k in starts if k not in (*flat, *numbers.operand_batching_dims)]
    places = []
    for k, start in starts.items():
        start = np.clip(start, 0, last[k]).reshape(batch + (1,) * len(kept))
        if k in kept:
            start = start + np.arange(sizes[k]).reshape([-1 if k == j else 1 for j in kept])
        places.append(start)
    return tuple(places), inside, len(kept)


_FILL = {
    "i": lambda dtype: np.iinfo(dtype).min,
    "u": lambda dtype: np.iinfo(dtype).max,
    "b": lambda dtype: True,
}


def _gather(
    x: Any, indices: Any, *, dimension_numbers: Any, slice_sizes: Any, mode: Any, fill_value: Any, **_: Any
) -> Any:
    fills = mode == lax.GatherScatterMode.FILL_OR_DROP
    places, inside, n = _places(x, slice_sizes, indices, dimension_numbers, not fills)
    found = x[places]
    if not np.all(inside):
        if fill_value is None:
            fill_value = _FILL[x.dtype.kind](x.dtype) if x.dtype.kind in _FILL else np.nan
        found = np.where(inside.reshape(inside.shape + (1,) * n), found, fill_value)
    return np.moveaxis(found, range(found.ndim - n, found.ndim), dimension_numbers.offset_dims)


def _scatter(ufunc: Any) -> Callable:
    def scatter(x: Any, indices: Any, updates: Any, *, dimension_numbers: Any, mode: Any, **_: Any) -> Any:
        window = dimension_numbers.update_window_dims
        updates = np.moveaxis(updates, window, range(updates.ndim - len(window), updates.ndim))
        kept = iter(updates.shape[updates.ndim - len(window) :])
        single = (*dimension_numbers.inserted_window_dims, *dimension_numbers.operand_batching_dims)
        sizes = [1 if k in single else next(kept) for k in range(x.ndim)]
        clips = mode == lax.GatherScatterMode.CLIP
        places, inside, _n = _places(x, sizes, indices, dimension_numbers, clips)
        places = tuple(np.broadcast_to(place, updates.shape)[inside] for place in places)
        out = x.copy()
        if ufunc is None:
            out[places] = updates[inside]
        else:
            ufunc.at(out, places, updates[inside])
        return out

    return scatter


def _pad(x: Any, value: Any, *, padding_config: Any) -> Any:
    """Zeros between the entries, then on both sides; a negative side crops."""
    for axis, (low, high, between) in enumerate(padding_config):
        size = x.shape[axis]
        spread = size + between * max(size - 1, 0)
        shape = (*x.shape[:axis], spread + max(low, 0) + max(high, 0), *x.shape[axis + 1 :])
        out = np.full(shape, value, x.dtype)
        at = [slice(None)] * x.ndim
        at[axis] = slice(max(low, 0), max(low, 0) + spread, between + 1)
        out[tuple(at)] = x
        at[axis] = slice(max(-low, 0), shape[axis] - max(-high, 0))
        x = out[tuple(at)]
    return x


def _conv(
    x: Any, kernel: Any, *, window_strides: Any, padding: Any, lhs_dilation: Any, rhs_dilation: Any,
    dimension_numbers: Any, feature_group_count: int, batch_group_count: int, **_: Any,
) -> Any:  # fmt: skip
    """Windows of the padded image times the kernel, group by group."""
    of_x, of_kernel, of_out = dimension_numbers
    x, kernel = x.transpose(of_x), kernel.transpose(of_kernel)  # (N, C, …), (O, C / groups, …)
    config = [(low, high, d - 1) for (low, high), d in zip(padding, lhs_dilation, strict=True)]
    x = _pad(x, 0, padding_config=[(0, 0, 0), (0, 0, 0), *config])
    kernel = _pad(kernel, 0, padding_config=[(0, 0, 0), (0, 0, 0), *((0, 0, d - 1) for d in rhs_dilation)])
    space = tuple(range(2, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=space)
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in window_strides))]
    if batch_group_count > 1:
        parts = zip(np.split(windows, batch_group_count), np.split(kernel, batch_group_count), strict=True)
    else:
        groups = feature_group_count
        parts = zip(np.split(windows, groups, axis=1), np.split(kernel, groups), strict=True)
    taps = tuple(range(windows.ndim - len(space), windows.ndim))
    outs = [np.tensordot(w, k, axes=((1, *taps), (1, *space))) for w, k in parts]  # (N, …, O)
    out = np.moveaxis(np.concatenate(outs, axis=-1), -1, 1)
    return out.transpose(np.argsort(of_out))


def _swapped(x: Any) -> Any:
    return np.swapaxes(x, -1, -2)


def _triangular_solve(
    a: Any, b: Any, *, left_side: bool, lower: bool, transpose_a: bool, unit_diagonal: bool, **_: Any
) -> Any:
    """By substitution, row by row."""
    if transpose_a == left_side:
        a, lower = _swapped(a), not lower
    b = b if left_side else _swapped(b)
    n, x = a.shape[-1], np.zeros_like(b)
    for i in range(n) if lower else reversed(range(n)):
        known = slice(0, i) if lower else slice(i + 1, n)
        rest = b[..., i, :] - (a[..., i, None, known] @ x[..., known, :])[..., 0, :]
        x[..., i, :] = rest if unit_diagonal else rest / a[..., i, i, None]
    return x if left_side else _swapped(x)


def _cholesky(a: Any, **_: Any) -> Any:
    """The factor, and above it what XLA leaves there: the matrix's own entries; NaN if it has no factor."""
    factors = a.reshape(-1, *a.shape[-2:]).copy()
    for factor in factors:
        try:
            factor[...] = np.tril(np.linalg.cholesky(factor)) + np.triu(factor, 1)
        except np.linalg.LinAlgError:
            factor[...] = np.nan
    return factors.reshape(a.shape)


def _lu(a: Any, **_: Any) -> list:
    """The factors, the pivots and the order of the rows."""
    m, n = a.shape[-2:]
    factors = a.reshape(-1, m, n).copy()
    pivots = np.zeros((len(factors), min(m, n)), np.int32)
    orders = np.tile(np.arange(m, dtype=np.int32), (len(factors), 1))
    for x, pivot, order in zip(factors, pivots, orders, strict=True):
        for k in range(min(m, n)):
            at = pivot[k] = k + int(np.argmax(np.abs(x[k:, k])))
            x[[k, at]], order[[k, at]] = x[[at, k]], order[[at, k]]
            if x[k, k] != 0:
                x[k + 1 :, k] /= x[k, k]
            x[k + 1 :, k + 1 :] -= np.outer(x[k + 1 :, k], x[k, k + 1 :])
    batch = a.shape[:-2]
    return [factors.reshape(a.shape), pivots.reshape(*batch, -1), orders.reshape(*batch, -1)]


def _linear_solve(*given: Any, const_lengths: Any, jaxprs: Any) -> list:
    """By the function's own solver."""
    before = const_lengths.matvec + const_lengths.vecmat
    consts, sides = given[before : before + const_lengths.solve], given[sum(const_lengths) :]
    return _evaluate(jaxprs.solve, *consts, *sides)


def _sort(*xs: Any, dimension: int, num_keys: int, **_: Any) -> list:
    order = np.lexsort(xs[:num_keys][::-1], axis=dimension)
    return [np.take_along_axis(x, order, dimension) for x in xs]


def _windows(x: Any, fill: Any, sizes: Any, strides: Any, padding: Any, base: Any, dilation: Any) -> Any:
    """The entries of each window of a padded array, on as many further axes."""
    x = _pad(x, fill, padding_config=[(*sides, d - 1) for sides, d in zip(padding, base, strict=True)])
    spread = tuple((n - 1) * d + 1 for n, d in zip(sizes, dilation, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, spread)
    return windows[tuple(slice(None, None, step) for step in (*strides, *dilation))]


def _extreme(dtype: Any, sign: int) -> Any:
    """What changes no maximum (−1), no minimum (1), or no sum (0)."""
    if dtype.kind == "f" or not sign:
        return sign * np.inf if sign else 0
    return np.iinfo(dtype).max if sign > 0 else np.iinfo(dtype).min


def _over_windows(ufunc: Any, sign: int) -> Callable:
    def reduced(
        x: Any, *, window_dimensions: Any, window_strides: Any, padding: Any, base_dilation: Any,
        window_dilation: Any,
    ) -> Any:  # fmt: skip
        form = window_dimensions, window_strides, padding, base_dilation, window_dilation
        windows = _windows(x, _extreme(x.dtype, sign), *form)
        return ufunc.reduce(windows, axis=tuple(range(x.ndim, 2 * x.ndim)))

    return reduced


def _select_and_scatter_add(
    source: Any, x: Any, *, select_prim: Any, window_dimensions: Any, window_strides: Any, padding: Any
) -> Any:
    """Each entry of ``source`` is added where its window has its first largest, or smallest, entry."""
    largest, ones = select_prim.name == "ge", (1,) * x.ndim
    form = window_dimensions, window_strides, padding, ones, ones
    windows = _windows(x, -np.inf if largest else np.inf, *form).reshape(*source.shape, -1)
    inside = np.unravel_index((np.argmax if largest else np.argmin)(windows, -1), window_dimensions)
    starts = np.indices(source.shape)
    at = tuple(i * step + k for i, step, k in zip(starts, window_strides, inside, strict=True))
    whole = np.zeros([n + low + high for n, (low, high) in zip(x.shape, padding, strict=True)])
    np.add.at(whole, at, source)
    return whole[tuple(slice(low, low + n) for n, (low, _) in zip(x.shape, padding, strict=True))]


def _reduced(ufunc: Any) -> Callable:
    return lambda x, *, axes, **_: ufunc.reduce(x, axis=tuple(axes))


def _arg(pick: Callable) -> Callable:
    return lambda x, *, axes, index_dtype: pick(x, axis=axes[0])


def _cumulated(ufunc: Any) -> Callable:
    def cumulated(x: Any, *, axis: int, reverse: bool) -> Any:
        found = ufunc.accumulate(np.flip(x, axis) if reverse else x, axis=axis)
        return np.flip(found, axis) if reverse else found

    return cumulated


def _select(which: Any, *cases: Any) -> Any:
    if len(cases) == 2:
        return np.where(which.astype(bool), cases[1], cases[0])
    return np.choose(np.broadcast_to(which, cases[0].shape), cases)


def _split(x: Any, *, sizes: Any, axis: int) -> list:
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _divided(a: Any, b: Any) -> Any:
    return np.trunc(a / b) if a.dtype.kind in "iu" else a / b


def _sign(x: Any) -> Any:
    return np.where(x == 0, x, np.sign(x))


def _logistic(x: Any, **_: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _special(name: str) -> Callable:
    """A function of SciPy's, which is imported when it is first called."""

    def called(x: Any) -> Any:
        import scipy.special

        return getattr(scipy.special, name)(x)

    return called


def _plain(fn: Callable) -> Callable:
    """Drop the settings for precision and device."""
    return lambda *given, **_: fn(*given)


def _identity(*given: Any, **_: Any) -> list:
    return list(given)


_UFUNCS: dict[str, Callable] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": _divided, "rem": np.fmod,
    "neg": np.negative, "max": np.maximum, "min": np.minimum, "abs": np.abs, "sign": _sign, "floor": np.floor,
    "ceil": np.ceil, "exp": np.exp, "exp2": np.exp2, "log": np.log, "log1p": np.log1p, "expm1": np.expm1,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "tanh": np.tanh, "sinh": np.sinh, "cosh": np.cosh,
    "atan2": np.arctan2, "logistic": _logistic, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    "cbrt": np.cbrt, "pow": np.power, "square": np.square, "erf": _special("erf"),
    "erfc": _special("erfc"), "erf_inv": _special("erfinv"), "lgamma": _special("gammaln"),
    "digamma": _special("psi"), "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "not": np.invert, "is_finite": np.isfinite, "select_n": _select,
    "convert_element_type": _identity, "stop_gradient": _identity, "copy": _identity, "copy_p": _identity,
    "optimization_barrier": _identity, "pvary": _identity, "name": _identity,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
}  # fmt: skip
_LINES: dict[str, Callable] = {name: _plain(fn) for name, fn in _UFUNCS.items()} | {
    "integer_pow": lambda x, *, y: _power(x, y),
    "reshape": _reshape,
    "stack": lambda *xs, axis: np.stack(xs, axis),
    "unstack": lambda x, *, axis: list(np.moveaxis(x, axis, 0)),
    "gather": _gather, "scatter": _scatter(None), "scatter-add": _scatter(np.add),
    "scatter-mul": _scatter(np.multiply),
    "squeeze": lambda x, *, dimensions: x.squeeze(tuple(dimensions)),
    "transpose": lambda x, *, permutation: x.transpose(permutation),
    "rev": lambda x, *, dimensions: np.flip(x, tuple(dimensions)),
    "concatenate": lambda *xs, dimension: np.concatenate(xs, dimension),
    "iota": lambda *_, shape, dimension, **__: np.broadcast_to(
        np.arange(shape[dimension]).reshape([-1 if k == dimension else 1 for k in range(len(shape))]), shape
    ),
    "broadcast_in_dim": _broadcast_in_dim, "slice": _slice, "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice, "pad": _pad, "split": _split,
    "dot_general": _dot_general, "conv_general_dilated": _conv,
    "reduce_sum": _reduced(np.add), "reduce_max": _reduced(np.maximum), "reduce_min": _reduced(np.minimum),
    "reduce_prod": _reduced(np.multiply), "reduce_and": _reduced(np.bitwise_and),
    "reduce_or": _reduced(np.bitwise_or), "argmax": _arg(np.argmax), "argmin": _arg(np.argmin),
    "cumsum": _cumulated(np.add), "cumprod": _cumulated(np.multiply), "cummax": _cumulated(np.maximum),
    "cumlogsumexp": _cumulated(np.logaddexp), "sort": _sort, "triangular_solve": _triangular_solve,
    "cholesky": _cholesky, "lu": _lu, "custom_linear_solve": _linear_solve,
    "reduce_window_max": _over_windows(np.maximum, -1), "reduce_window_min": _over_windows(np.minimum, 1),
    "reduce_window_sum": _over_windows(np.add, 0),
    "select_and_scatter_add": _select_and_scatter_add,
}  # fmt: skip


def _power(x: Any, y: int) -> Any:
    """By repeated products, as in XLA: NumPy's own integer powers are less accurate."""
    if y < 0:
        return 1 / _power(x, -y)
    return functools.reduce(operator.mul, [x] * y, np.ones_like(x))
