"""NumPy's functions under the names that they have in jax.numpy, jax.lax and jax.nn, where those differ."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special


def _window(x: Any, starts: Any, sizes: Any) -> tuple[slice, ...]:
    """A window of an array, moved until it is inside."""
    found = []
    for start, size, n in zip(starts, sizes, np.shape(x), strict=True):
        first = min(max(int(start) + (n if start < 0 else 0), 0), n - size)
        found.append(slice(first, first + size))
    return tuple(found)


def _along(x: Any, start: Any, size: int, axis: int) -> tuple[slice, ...]:
    starts, sizes = [0] * np.ndim(x), list(np.shape(x))
    starts[axis], sizes[axis] = start, size
    return _window(x, starts, sizes)


def _with(x: Any, window: tuple[slice, ...], new: Any) -> Any:
    changed = np.array(x)
    changed[window] = new
    return changed


def _index_in_dim(x: Any, index: Any, axis: int = 0, keepdims: bool = True) -> Any:
    found = x[_along(x, index, 1, axis)]
    return found if keepdims else np.squeeze(found, axis)


def _slice(x: Any, starts: Any, limits: Any, strides: Any = None) -> Any:
    return x[tuple(map(slice, starts, limits, strides or [1] * np.ndim(x)))]


def _slice_in_dim(x: Any, start: Any, limit: Any, stride: int = 1, axis: int = 0) -> Any:
    return np.moveaxis(np.moveaxis(x, axis, 0)[start:limit:stride], 0, axis)


def _update_in_dim(x: Any, new: Any, start: Any, axis: int) -> Any:
    shape = [*np.shape(x)]
    shape[axis] = np.shape(new)[axis] if np.ndim(new) == np.ndim(x) else 1
    return _with(x, _along(x, start, shape[axis], axis), np.reshape(new, shape))


def _cumulative(function: Any) -> Callable[..., Any]:
    def of(x: Any, axis: int = 0, reverse: bool = False) -> Any:
        return np.flip(function(np.flip(x, axis), axis), axis) if reverse else function(x, axis)

    return of


def _broadcast_in_dim(x: Any, shape: Any, dims: Any) -> Any:
    wide = [1] * len(shape)
    for n, dim in zip(np.shape(x), dims, strict=True):
        wide[dim] = n
    return np.broadcast_to(np.reshape(x, wide), shape)


def _segment_sum(data: Any, ids: Any, num_segments: Any = None, *_: Any, **__: Any) -> Any:
    found = np.zeros((num_segments or int(np.max(ids)) + 1, *np.shape(data)[1:]), data.dtype)
    np.add.at(found, ids, data)
    return found


def _logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    largest = np.max(x, axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    found = largest + np.log(np.sum(np.exp(x - largest), axis, keepdims=True))
    return found if keepdims else np.squeeze(found, axis)


def _log_softmax(x: Any, axis: Any = -1) -> Any:
    return x - _logsumexp(x, axis, True)


def _softmax(x: Any, axis: Any = -1) -> Any:
    return np.exp(_log_softmax(x, axis))


def _gelu(x: Any, approximate: bool = True) -> Any:
    if not approximate:
        return x * scipy.special.ndtr(x)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _einsum(*operands: Any, **how: Any) -> Any:
    return np.einsum(*operands, optimize=len(operands) > 3, **how)


def _silu(x: Any) -> Any:
    return x * scipy.special.expit(x)


def _one_hot(x: Any, classes: int, *, dtype: Any = float, axis: int = -1) -> Any:
    return np.moveaxis((np.asarray(x)[..., None] == np.arange(classes)).astype(dtype), -1, axis)


SAME = (
    *("exp", "exp2", "log", "log1p", "expm1", "sin", "cos", "tan", "tanh", "sinh", "cosh", "asin", "acos"),
    *("atan", "atan2", "sign", "floor", "ceil", "sqrt", "square", "cbrt", "conj", "real", "imag", "abs"),
    *("bitwise_and", "bitwise_or", "bitwise_not", "expand_dims", "squeeze", "reshape", "transpose"),
    *("full", "full_like", "concatenate", "sort"),
)
LAX = {
    **{name: getattr(np, name) for name in SAME},
    **{name: getattr(scipy.special, name) for name in ("erf", "erfc", "digamma")},
    **{name: _cumulative(getattr(np, name)) for name in ("cumsum", "cumprod")},
    "cummax": _cumulative(np.maximum.accumulate),
    "cummin": _cumulative(np.minimum.accumulate),
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "pow": np.power},
    **{"max": np.maximum, "min": np.minimum, "eq": np.equal, "ne": np.not_equal, "lt": np.less},
    **{"le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "integer_pow": np.power},
    **{"select": np.where, "rsqrt": lambda x: 1 / np.sqrt(x), "logistic": scipy.special.expit},
    **{"lgamma": scipy.special.gammaln, "dot": np.dot, "batch_matmul": np.matmul, "is_finite": np.isfinite},
    **{"rev": np.flip, "clamp": lambda low, x, high: np.clip(x, low, high), "slice": _slice},
    **{"div": lambda x, y: np.divide(x, y) if np.result_type(x, y).kind in "fc" else np.fix(x / y)},
    **{"convert_element_type": lambda x, dtype: np.asarray(x, dtype), "stop_gradient": lambda x: x},
    **{"slice_in_dim": _slice_in_dim, "index_in_dim": _index_in_dim, "dynamic_index_in_dim": _index_in_dim},
    "dynamic_slice": lambda x, starts, sizes: x[_window(x, starts, sizes)],
    "dynamic_slice_in_dim": lambda x, start, size, axis=0: x[_along(x, start, size, axis)],
    "dynamic_update_slice": lambda x, new, starts: _with(x, _window(x, starts, np.shape(new)), new),
    **{"dynamic_update_slice_in_dim": _update_in_dim, "dynamic_update_index_in_dim": _update_in_dim},
    **{"broadcast_in_dim": _broadcast_in_dim, "iota": lambda dtype, size: np.arange(size, dtype=dtype)},
}
NN = {
    **{
        "softmax": _softmax,
        "relu": lambda x: np.maximum(x, 0),
        "sigmoid": scipy.special.expit,
        "gelu": _gelu,
    },
    **{"softplus": lambda x: np.logaddexp(x, 0), "silu": _silu, "swish": _silu, "tanh": np.tanh},
    **{"log_sigmoid": lambda x: -np.logaddexp(-x, 0), "relu6": lambda x: np.clip(x, 0, 6)},
    "leaky_relu": lambda x, negative_slope=0.01: np.where(x >= 0, x, negative_slope * x),
    "elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    **{"one_hot": _one_hot, "logsumexp": _logsumexp, "log_softmax": _log_softmax},
}
JNP = {
    **{"array": np.array, "asarray": np.array, "empty": np.zeros, "empty_like": np.zeros_like},
    **{"argsort": functools.partial(np.argsort, kind="stable"), "einsum": _einsum},
    **{"vectorize": None, "apply_along_axis": None, "piecewise": None, "fromfunction": None},
}
OPS = {"segment_sum": _segment_sum}
