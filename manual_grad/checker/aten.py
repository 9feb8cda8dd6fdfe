"""PyTorch's operations in JAX, by their names in ATen, on arrays in float64.

Casts among floating-point dtypes are ignored. Of several results only those that carry a gradient are given.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn
from jax.scipy import special
from jax.scipy.linalg import solve_triangular

Axes = Sequence[int] | int | None


def _axes(x: Any, dim: Axes) -> tuple[int, ...]:
    """The axes to reduce, none below 0; all if none are given."""
    given = [dim] if isinstance(dim, int) else list(dim or range(np.ndim(x)))
    return tuple(d % max(np.ndim(x), 1) for d in given)


def _to(x: Any, dtype: Any = None, **_: Any) -> Any:
    """A cast, which among floating-point dtypes does nothing."""
    if dtype is None or (dtype.is_floating_point and jnp.issubdtype(jnp.result_type(x), jnp.floating)):
        return x
    return jnp.asarray(x).astype(np.float64 if dtype.is_floating_point else str(dtype).removeprefix("torch."))


# --- elementwise ------------------------------------------------------------------------------------------


def _power(x: Any, p: Any) -> Any:
    """A power, with an exponent that is a whole number or a half as JAX's users write it."""
    if not np.ndim(p) and not isinstance(p, jax.Array):
        if float(p) == 0.5:
            return jnp.sqrt(x)
        if float(p).is_integer():
            return jnp.asarray(x) ** int(p)
    return jnp.power(x, p)


def _add(x: Any, y: Any, alpha: float = 1) -> Any:
    return x + y if alpha == 1 else x + alpha * y


def _sub(x: Any, y: Any, alpha: float = 1) -> Any:
    return x - y if alpha == 1 else x - alpha * y


def _div(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    rounded: dict[Any, Callable] = {None: lambda q: q, "floor": jnp.floor, "trunc": jnp.trunc}
    return rounded[rounding_mode](x / y)


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    x = x if min is None else jnp.where(x >= min, x, min)
    return x if max is None else jnp.where(x <= max, x, max)


def _elu(x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    below = jnp.where(x > 0, 0.0, x)
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(input_scale * below))


def _glu(x: Any, dim: int = -1) -> Any:
    left, right = jnp.split(x, 2, dim)
    return left * nn.sigmoid(right)


def _shrunk(x: Any, by: float = 0.5, soft: bool = False) -> Any:
    return jnp.where(jnp.abs(x) > by, x - by * jnp.sign(x) if soft else x, 0.0)


def _softplus(x: Any, beta: float = 1, threshold: float = 20) -> Any:
    return nn.softplus(x) if beta == 1 else nn.softplus(beta * x) / beta


def _addcmul(x: Any, a: Any, b: Any, value: float = 1) -> Any:
    return x + value * a * b


def _addcdiv(x: Any, a: Any, b: Any, value: float = 1) -> Any:
    return x + value * a / b


# --- sums and the like ------------------------------------------------------------------------------------


def _reduced(reduce: Callable, x: Any, dim: Axes = None, keepdim: bool = False, **_: Any) -> Any:
    return reduce(jnp.asarray(x), axis=_axes(x, dim), keepdims=keepdim)


def _variance(x: Any, dim: Axes = None, correction: Any = None, keepdim: bool = False) -> Any:
    axes = _axes(x, dim)
    n = math.prod(np.shape(x)[a] for a in axes)
    centred = x - jnp.mean(x, axes, keepdims=True)
    return jnp.sum(centred**2, axes, keepdims=keepdim) / (n - (1 if correction is None else correction))


def _sorted(x: Any, dim: int = -1, descending: bool = False, **_: Any) -> tuple:
    at = jnp.argsort(lax.stop_gradient(x), dim, descending=descending)
    return jnp.take_along_axis(x, at, dim), at


def _largest(x: Any, k: int, dim: int = -1, largest: bool = True, *_: Any) -> tuple:
    return tuple(_slice(out, dim, 0, k) for out in _sorted(x, dim, largest))


def _norm(x: Any, p: Any = 2, dim: Axes = None, keepdim: bool = False, **_: Any) -> Any:
    axes = _axes(x, dim)
    if p in (2, None):
        return jnp.sqrt(jnp.sum(x**2, axes, keepdims=keepdim))
    if p == 1:
        return jnp.sum(jnp.abs(x), axes, keepdims=keepdim)
    if p == math.inf:
        return jnp.max(jnp.abs(x), axes, keepdims=keepdim)
    return jnp.sum(jnp.abs(x) ** p, axes, keepdims=keepdim) ** (1 / p)


def _extreme(reduce: Callable, at: Callable, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None:
        return reduce(x)
    if np.ndim(dim):  # the larger of two tensors
        return (jnp.maximum if reduce is jnp.max else jnp.minimum)(x, dim)
    return reduce(x, dim, keepdims=keepdim), at(x, dim, keepdims=keepdim)


# --- products ---------------------------------------------------------------------------------------------


def _addmm(b: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Any:
    product = x @ y if alpha == 1 else alpha * (x @ y)
    return product + (b if beta == 1 else beta * b)


def _convolution(x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
                 output_padding: Any, groups: int) -> Any:  # fmt: skip
    n = np.ndim(x) - 2
    letters = "XYZ"[:n]
    stride, padding, dilation, more = ((list(s) * n)[:n] for s in (stride, padding, dilation, output_padding))
    pads, dilated = [(p, p) for p in padding], (1,) * n
    if transposed:
        assert groups == 1
        w = jnp.flip(jnp.swapaxes(w, 0, 1), range(2, n + 2))
        spans = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
        pads = [(s - p, s - p + m) for s, p, m in zip(spans, padding, more, strict=True)]
        stride, dilated = (1,) * n, tuple(stride)
    out = lax.conv_general_dilated(
        x, w, stride, pads, lhs_dilation=dilated, rhs_dilation=dilation, feature_group_count=groups,
        dimension_numbers=("NC" + letters, "OI" + letters, "NC" + letters),
    )  # fmt: skip
    return out if b is None else out + jnp.reshape(b, (1, -1) + (1,) * n)


def _attention(q: Any, k: Any, v: Any, dropout_p: float = 0, is_causal: bool = False, attn_mask: Any = None,
               scale: float | None = None, **_: Any) -> tuple:  # fmt: skip
    scores = q @ jnp.swapaxes(k, -1, -2) * (np.shape(q)[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = jnp.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    if attn_mask is not None:
        added = jnp.issubdtype(jnp.result_type(attn_mask), jnp.floating)
        scores = scores + attn_mask if added else jnp.where(attn_mask, scores, -jnp.inf)
    return nn.softmax(scores, -1) @ v, None


# --- spectra ----------------------------------------------------------------------------------------------


def _spectrum(transform: Callable, x: Any, dim: Sequence[int], normalization: int, last: Any = None) -> Any:
    """A Fourier transform of PyTorch's, multiplied by 1, 1/√n or 1/n (normalisations 0, 1 and 2)."""
    inverse = transform in (jnp.fft.irfftn, jnp.fft.ifftn)  # JAX's own is multiplied by 1/n
    sizes = [np.shape(x)[d] for d in dim]
    if transform is jnp.fft.irfftn:
        sizes[-1] = int(last)
    factor = math.prod(sizes) ** ((1.0 if inverse else 0.0) - normalization / 2)
    out = transform(x, sizes, list(dim))
    return out if factor == 1 else out * factor


# --- shapes -----------------------------------------------------------------------------------------------


def _expand(x: Any, sizes: Sequence[int], **_: Any) -> Any:
    old = (1,) * (len(sizes) - np.ndim(x)) + np.shape(x)
    return jnp.broadcast_to(x, [o if s == -1 else s for s, o in zip(sizes, old, strict=True)])


def _squeeze(x: Any, dim: Axes = None) -> Any:
    axes = [a for a in _axes(x, dim) if np.shape(x)[a] == 1]
    return jnp.squeeze(x, tuple(axes))


def _slice(x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return x[(slice(None),) * (dim % np.ndim(x)) + (slice(start, end, step),)]


def _select(x: Any, dim: int, index: int) -> Any:
    return x[(slice(None),) * (dim % np.ndim(x)) + (index,)]


def _split(x: Any, size: int | Sequence[int], dim: int = 0, *, only: int) -> Any:
    """One of the parts."""
    n = np.shape(x)[dim]
    ends = range(0, n, size) if isinstance(size, int) else [0, *np.cumsum(size[:-1])]
    ends = [*map(int, ends), n]
    return _slice(x, dim, ends[only], ends[only + 1])


def _unbind(x: Any, dim: int = 0, *, only: int) -> Any:
    return _select(x, dim, only)


def _repeat(x: Any, sizes: Sequence[int]) -> Any:
    return jnp.tile(jnp.reshape(x, (1,) * (len(sizes) - np.ndim(x)) + np.shape(x)), tuple(sizes))


def _roll(x: Any, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
    return jnp.roll(x, tuple(shifts), tuple(dims)) if dims else jnp.roll(x, shifts[0])


def _pad(x: Any, pad: Sequence[int], value: float = 0) -> Any:
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    kept = [(0, 0)] * (np.ndim(x) - len(pairs)) + [(max(a, 0), max(b, 0)) for a, b in pairs]
    cut = [(0, 0)] * (np.ndim(x) - len(pairs)) + [(max(-a, 0), max(-b, 0)) for a, b in pairs]
    x = x[tuple(slice(a, n - b) for (a, b), n in zip(cut, np.shape(x), strict=True))]
    return jnp.pad(x, kept, constant_values=value)


def _mirrored(mode: str, x: Any, pad: Sequence[int]) -> Any:
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    return jnp.pad(x, [(0, 0)] * (np.ndim(x) - len(pairs)) + pairs, mode)


def _diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    return jnp.diagonal(x, offset, dim1, dim2)


def _unfold(x: Any, dim: int, size: int, step: int) -> Any:
    dim = dim % np.ndim(x)
    starts = np.arange(0, np.shape(x)[dim] - size + 1, step)
    return jnp.moveaxis(jnp.take(x, starts[:, None] + np.arange(size), dim), dim + 1, -1)


def _columns(x: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    x = jnp.pad(x, [(0, 0)] * (np.ndim(x) - 2) + [(p, p) for p in padding])
    places = [
        np.arange(0, n - d * (k - 1), s)[:, None] + d * np.arange(k)
        for n, k, d, s in zip(x.shape[-2:], kernel, dilation, stride, strict=True)
    ]
    taken = x[..., places[0][:, :, None, None], places[1]]  # rows, kernel's rows, columns, kernel's columns
    ahead = taken.ndim - 4
    turned = jnp.transpose(taken, (*range(ahead), ahead + 1, ahead + 3, ahead, ahead + 2))
    return turned.reshape(*x.shape[:-3], x.shape[-3] * math.prod(kernel), -1)


# --- places -----------------------------------------------------------------------------------------------


def _index(x: Any, places: Sequence[Any]) -> Any:
    return x[tuple(slice(None) if p is None else p for p in places)]


def _embedding(w: Any, index: Any, padding_idx: int = -1, *_: Any, **__: Any) -> Any:
    if padding_idx >= 0:
        w = jnp.where((np.arange(len(w)) == padding_idx)[:, None], lax.stop_gradient(w), w)
    return w[index]


def _along(index: Any, dim: int) -> tuple:
    """Where ``gather`` and ``scatter`` read and write."""
    places = list(np.indices(np.shape(index), sparse=True)) if np.ndim(index) else []
    if places:
        places[dim] = index
    return tuple(places)


def _scatter(x: Any, dim: int, index: Any, src: Any = None, value: Any = None, **_: Any) -> Any:
    source = value if src is None else src
    if np.ndim(source):
        source = source[tuple(map(slice, np.shape(index)))]
    return jnp.asarray(x).at[_along(index, dim)].set(source)


def _scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    return jnp.asarray(x).at[_along(index, dim)].add(src[tuple(map(slice, np.shape(index)))])


def _index_add(x: Any, dim: int, index: Any, src: Any, alpha: float = 1) -> Any:
    places = (slice(None),) * (dim % np.ndim(x)) + (index,)
    return jnp.asarray(x).at[places].add(src if alpha == 1 else alpha * src)


def _index_put(x: Any, places: Sequence[Any], values: Any, accumulate: bool = False, *_: Any) -> Any:
    at = jnp.asarray(x).at[tuple(slice(None) if p is None else p for p in places)]
    return at.add(values) if accumulate else at.set(values)


# --- normalisations ---------------------------------------------------------------------------------------


def _normalised(x: Any, axes: tuple[int, ...], eps: float) -> Any:
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axes, keepdims=True) + eps)


def _affine(x: Any, w: Any, b: Any, shape: Any = None) -> Any:
    for op, p in ((jnp.multiply, w), (jnp.add, b)):
        x = x if p is None else op(x, p if shape is None else jnp.reshape(p, shape))
    return x


def _layer_norm(x: Any, shape: Sequence[int], w: Any, b: Any, eps: float) -> tuple:
    axes = tuple(range(np.ndim(x) - len(shape), np.ndim(x)))
    return _affine(_normalised(x, axes, eps), w, b), None, None


def _rms_norm(x: Any, shape: Sequence[int], w: Any = None, eps: float | None = None) -> tuple:
    axes = tuple(range(np.ndim(x) - len(shape), np.ndim(x)))
    size = jnp.mean(x**2, axes, keepdims=True) + (np.finfo(np.float64).eps if eps is None else eps)
    return _affine(x / jnp.sqrt(size), w, None), None


def _group_norm(x: Any, w: Any, b: Any, n: int, c: int, size: int, groups: int, eps: float) -> tuple:
    out = _normalised(jnp.reshape(x, (n, groups, -1)), (2,), eps).reshape(np.shape(x))
    return _affine(out, w, b, (1, c) + (1,) * (np.ndim(x) - 2)), None, None


def _batch_norm(x: Any, w: Any, b: Any, mean: Any, var: Any, training: bool, momentum: float,
                eps: float) -> tuple:  # fmt: skip
    shape = (1, -1) + (1,) * (np.ndim(x) - 2)
    if training:
        out = _normalised(x, (0, *range(2, np.ndim(x))), eps)
    else:
        out = (x - jnp.reshape(mean, shape)) / jnp.sqrt(jnp.reshape(var, shape) + eps)
    return _affine(out, w, b, shape), None, None


# --- losses -----------------------------------------------------------------------------------------------


def _mean_of(loss: Any, reduction: int, count: Any = None) -> Any:
    """Each loss, their mean or their sum: PyTorch's reductions 0, 1 and 2."""
    if reduction == 0:
        return loss
    total = jnp.sum(loss)
    return total if reduction == 2 else total / (np.size(loss) if count is None else count)


def _nll(logp: Any, target: Any, weight: Any, reduction: int, ignore_index: int) -> tuple:
    axis, target = min(np.ndim(logp) - 1, 1), np.asarray(target)
    kept = target != ignore_index
    safe = np.where(kept, target, 0)
    weights = kept.astype(np.float64) if weight is None else kept * jnp.asarray(weight)[safe]
    picked = jnp.squeeze(jnp.take_along_axis(logp, np.expand_dims(safe, axis), axis), axis)
    return _mean_of(-picked * weights, reduction, weights.sum()), None


def _squares(x: Any, y: Any, reduction: int = 1) -> Any:
    return _mean_of((x - y) ** 2, reduction)


def _huber(x: Any, y: Any, reduction: int = 1, delta: float = 1, over: float = 1) -> Any:
    off = x - y
    near, far = off**2 / 2, delta * (jnp.abs(off) - delta / 2)
    return _mean_of(jnp.where(jnp.abs(off) <= delta, near, far) / over, reduction)


def _cross_entropy_of_logits(x: Any, y: Any, weight: Any = None, more: Any = None, reduction: int = 1) -> Any:
    positive = 1 if more is None else more
    loss = -(positive * y * nn.log_sigmoid(x) + (1 - y) * nn.log_sigmoid(-x))
    return _mean_of(loss if weight is None else loss * weight, reduction)


def _cross_entropy_of_shares(p: Any, y: Any, weight: Any = None, reduction: int = 1) -> Any:
    loss = -(y * jnp.maximum(jnp.log(p), -100) + (1 - y) * jnp.maximum(jnp.log1p(-p), -100))
    return _mean_of(loss if weight is None else loss * weight, reduction)


# --- windows ----------------------------------------------------------------------------------------------


def _windows(x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any = (1,)) -> tuple:
    n = len(kernel)
    strides, pads, dilations = ((list(s) * n)[:n] for s in (stride or kernel, padding, dilation))
    ones = (1,) * (np.ndim(x) - n)
    edges = [(0, 0)] * len(ones) + [(p, p) for p in pads]
    return (*ones, *kernel), (*ones, *strides), edges, (1,) * np.ndim(x), (*ones, *dilations)


def _max_pool(x: Any, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,),
              ceil_mode: bool = False) -> tuple:  # fmt: skip
    assert not ceil_mode
    return lax.reduce_window(x, -jnp.inf, lax.max, *_windows(x, kernel, stride, padding, dilation)), None


def _mean_pool(x: Any, kernel: Any, stride: Any = (), padding: Any = (0,), ceil_mode: bool = False,
               count_include_pad: bool = True, divisor: Any = None) -> Any:  # fmt: skip
    assert not ceil_mode
    assert count_include_pad or not any(padding)
    size, *rest = _windows(x, kernel, stride, padding)
    return lax.reduce_window(x, 0.0, lax.add, size, *rest) / (divisor or math.prod(kernel))


PARTED = ("split", "split_with_sizes", "unsafe_split", "unbind")  # of which one part is asked for
SAME = (
    "abs", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "sinh",
    "cosh", "tanh", "floor", "ceil", "trunc", "sign", "square", "isnan", "isinf", "isfinite", "maximum",
    "minimum", "fmod", "remainder", "floor_divide", "hypot", "logical_not", "logical_and", "logical_or",
    "logical_xor", "bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor", "where", "tril", "triu",
    "reciprocal", "round", "logaddexp", "trace", "kron", "nan_to_num", "sinc", "copysign",
)  # fmt: skip
OPERATIONS: dict[str, Callable[..., Any]] = {name: getattr(jnp, name) for name in SAME}
OPERATIONS |= {
    "neg": jnp.negative, "asin": jnp.arcsin, "acos": jnp.arccos, "atan": jnp.arctan, "asinh": jnp.arcsinh,
    "acosh": jnp.arccosh, "atanh": jnp.arctanh, "atan2": jnp.arctan2, "rsqrt": lambda x: 1 / jnp.sqrt(x),
    "erf": special.erf, "erfc": special.erfc, "erfinv": special.erfinv, "lgamma": special.gammaln,
    "digamma": special.digamma, "sigmoid": nn.sigmoid, "relu": nn.relu, "silu": nn.silu,
    "gelu": lambda x, approximate="none": nn.gelu(x, approximate == "tanh"), "elu": _elu,
    "glu": _glu, "hardshrink": _shrunk, "softshrink": partial(_shrunk, soft=True), "xlogy": special.xlogy,
    "celu": lambda x, alpha=1: _elu(x, alpha, 1, 1 / alpha), "logit": lambda x: jnp.log(x / (1 - x)),
    "_prelu_kernel": lambda x, w: jnp.where(x > 0, x, w * x), "sgn": jnp.sign,
    "leaky_relu": nn.leaky_relu, "hardtanh": lambda x, low=-1, high=1: _clamp(x, low, high),
    "hardsigmoid": nn.hard_sigmoid, "hardswish": nn.hard_silu, "mish": nn.mish, "softplus": _softplus,
    "log_sigmoid_forward": lambda x: (nn.log_sigmoid(x), None), "clamp": _clamp, "clamp_min": _clamp,
    "clamp_max": lambda x, high: _clamp(x, None, high),
    "threshold": lambda x, low, value: jnp.where(x > low, x, value),
    "add": _add, "sub": _sub, "rsub": lambda x, y, alpha=1: _sub(y, x, alpha), "mul": lambda x, y: x * y,
    "div": _div, "pow": _power, "lerp": lambda x, y, w: x + w * (y - x), "addcmul": _addcmul,
    "addcdiv": _addcdiv, "eq": lambda x, y: x == y, "ne": lambda x, y: x != y, "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y, "gt": lambda x, y: x > y, "ge": lambda x, y: x >= y,
    "masked_fill": lambda x, mask, value: jnp.where(mask, value, x), "_to_copy": _to,
    "clone": lambda x, **_: x, "detach": lambda x: x, "alias": lambda x: x, "lift_fresh": lambda x: x,
    "copy": lambda x, y, *_: y, "fill": lambda x, y: y, "zero": jnp.zeros_like,
    "sum": partial(_reduced, jnp.sum), "mean": partial(_reduced, jnp.mean), "var": _variance,
    "amax": partial(_reduced, jnp.max), "amin": partial(_reduced, jnp.min),
    "prod": partial(_reduced, jnp.prod), "any": partial(_reduced, jnp.any),
    "all": partial(_reduced, jnp.all), "logsumexp": partial(_reduced, special.logsumexp),
    "std": lambda *args, **kwargs: jnp.sqrt(_variance(*args, **kwargs)),
    "var_mean": lambda x, dim=None, keepdim=False, **kwargs: (
        _variance(x, dim, keepdim=keepdim, **kwargs), _reduced(jnp.mean, x, dim, keepdim)),
    "std_mean": lambda x, dim=None, keepdim=False, **kwargs: (
        jnp.sqrt(_variance(x, dim, keepdim=keepdim, **kwargs)), _reduced(jnp.mean, x, dim, keepdim)),
    "linalg_vector_norm": _norm, "norm": _norm, "max": partial(_extreme, jnp.max, jnp.argmax),
    "min": partial(_extreme, jnp.min, jnp.argmin),
    "argmax": lambda x, dim=None, keepdim=False: jnp.argmax(x, dim, keepdims=keepdim),
    "argmin": lambda x, dim=None, keepdim=False: jnp.argmin(x, dim, keepdims=keepdim),
    "cumsum": lambda x, dim, **_: jnp.cumsum(x, dim), "cumprod": lambda x, dim, **_: jnp.cumprod(x, dim),
    "logcumsumexp": lambda x, dim: lax.cumlogsumexp(x, dim % np.ndim(x)),
    "sort": _sorted, "topk": _largest,
    "_softmax": lambda x, dim, *_: nn.softmax(x, dim),
    "_safe_softmax": lambda x, dim, **_: nn.softmax(x, dim),
    "_log_softmax": lambda x, dim, *_: nn.log_softmax(x, dim),
    "mm": jnp.matmul, "bmm": jnp.matmul, "mv": jnp.matmul, "dot": jnp.dot, "addmm": _addmm,
    "addmv": _addmm, "baddbmm": _addmm, "convolution": _convolution,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_fft_r2c": lambda x, dim, normalization, onesided: _spectrum(
        jnp.fft.rfftn if onesided else jnp.fft.fftn, x, dim, normalization),
    "_fft_c2r": partial(_spectrum, jnp.fft.irfftn),
    "_fft_c2c": lambda x, dim, normalization, forward: _spectrum(
        jnp.fft.fftn if forward else jnp.fft.ifftn, x, dim, normalization),
    "view_as_real": lambda x: jnp.stack([jnp.real(x), jnp.imag(x)], -1), "_conj": jnp.conj,
    "view_as_complex": lambda x: lax.complex(x[..., 0], x[..., 1]), "complex": lax.complex,
    "linalg_cholesky_ex": lambda x, **_: (jnp.linalg.cholesky(x), None),
    "linalg_inv_ex": lambda x, **_: (jnp.linalg.inv(x), None),
    "_linalg_det": lambda x: (jnp.linalg.det(x), None, None),
    "_linalg_slogdet": lambda x: (*jnp.linalg.slogdet(x), None, None),
    "_linalg_solve_ex": lambda a, b, **_: (jnp.linalg.solve(a, b), None, None, None),
    "linalg_solve_triangular": lambda a, b, upper, left=True, unitriangular=False: solve_triangular(
        a, b, lower=not upper, unit_diagonal=unitriangular),
    "_linalg_eigh": lambda x, UPLO="L", **_: tuple(jnp.linalg.eigh(x, UPLO)),
    "linalg_qr": lambda x, mode="reduced": tuple(jnp.linalg.qr(x)),
    "view": jnp.reshape, "_unsafe_view": jnp.reshape, "reshape": jnp.reshape, "_reshape_alias":
    lambda x, shape, _: jnp.reshape(x, shape), "t": jnp.transpose, "permute": jnp.transpose,
    "transpose": lambda x, a, b: jnp.swapaxes(x, a, b), "expand": _expand, "squeeze": _squeeze,
    "unsqueeze": lambda x, dim: jnp.expand_dims(x, dim), "slice": _slice, "select": _select,
    "split": _split, "split_with_sizes": _split, "unsafe_split": _split, "unbind": _unbind,
    "repeat": _repeat, "roll": _roll,
    "cat": lambda xs, dim=0: jnp.concatenate([jnp.asarray(x) for x in xs], dim),
    "stack": lambda xs, dim=0: jnp.stack([jnp.asarray(x) for x in xs], dim),
    "reflection_pad1d": partial(_mirrored, "reflect"), "reflection_pad2d": partial(_mirrored, "reflect"),
    "replication_pad1d": partial(_mirrored, "edge"), "replication_pad2d": partial(_mirrored, "edge"),
    "diagonal": _diagonal, "diagonal_copy": _diagonal,
    "linalg_cross": lambda x, y, dim=-1: jnp.cross(x, y, axis=dim),
    "take": lambda x, i: jnp.ravel(x)[i], "pixel_shuffle": lambda x, r: jnp.moveaxis(
        x.reshape(*x.shape[:-3], -1, r, r, *x.shape[-2:]), (-4, -3), (-3, -1)).reshape(
        *x.shape[:-3], -1, x.shape[-2] * r, x.shape[-1] * r),
    "flip": lambda x, dims: jnp.flip(x, tuple(dims)), "constant_pad_nd": _pad, "unfold": _unfold,
    "im2col": _columns, "index": _index, "index_select": lambda x, dim, i: jnp.take(x, i, dim),
    "gather": lambda x, dim, i, **_: x[_along(i, dim)], "scatter": _scatter, "scatter_add": _scatter_add,
    "index_add": _index_add, "index_put": _index_put, "embedding": _embedding,
    "native_layer_norm": _layer_norm, "_fused_rms_norm": _rms_norm, "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm, "_native_batch_norm_legit": _batch_norm,
    "nll_loss_forward": _nll, "nll_loss2d_forward": _nll, "mse_loss": _squares, "huber_loss": _huber,
    "smooth_l1_loss": lambda x, y, reduction=1, beta=1: _huber(x, y, reduction, beta, beta),
    "binary_cross_entropy_with_logits": _cross_entropy_of_logits,
    "binary_cross_entropy": _cross_entropy_of_shares, "max_pool2d_with_indices": _max_pool,
    "max_pool3d_with_indices": _max_pool, "avg_pool1d": _mean_pool, "avg_pool2d": _mean_pool,
    "avg_pool3d": _mean_pool,
}  # fmt: skip
