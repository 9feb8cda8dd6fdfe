"""The formulas as JAX functions to train with: ``jax.grad`` of each one is the hand-derived gradient.

Each operation is a ``jax.custom_vjp`` over a pair of :mod:`manual_grad.formulas`. It also supports keyword
arguments, any number of leading batch axes, mixed dtypes and several devices, as layers need them.

- Floating-point arguments of different dtypes are all promoted to their ``jnp.result_type``; each cotangent
  comes back in its primal's dtype.
- Under ``jax.shard_map`` an argument shared by the devices receives the sum of their cotangents. A loss is
  the mean over a device's own samples: take ``jax.lax.pmean`` of it.
- jit, vmap, scan, remat, export and derivatives of any order work. ``custom_vjp`` lacks forward mode:
  ``jax.jvp`` and ``jax.jacfwd`` of an operation raise a ``TypeError``. The ways around it:

  - J v for a tangent v, by pulling back twice, since the pullback is linear and its transpose is J::

        out, pullback = jax.vjp(f, x)
        (Jv,) = jax.vjp(lambda dout: pullback(dout)[0], out)[1](v)

  - the Jacobian by ``jax.jacrev``. The Hessian by ``jax.hessian``, and its product with v by ``jax.jvp`` of
    ``jax.grad``, work as they are: they differentiate the code of the forward and backward passes in forward
    mode.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Integer

from manual_grad.border import checked, require_labels_in_range
from manual_grad.formulas.activations import relu_bwd
from manual_grad.formulas.attention import attention_bwd, attention_fwd
from manual_grad.formulas.dense import dense_rows_bwd, dense_rows_fwd
from manual_grad.formulas.gates import (
    geglu_bwd,
    geglu_fwd,
    gelu_bwd,
    gelu_fwd,
    silu_bwd,
    silu_fwd,
    swiglu_bwd,
    swiglu_fwd,
)
from manual_grad.formulas.linear_algebra import (
    cholesky_bwd,
    cholesky_fwd,
    inverse_bwd,
    inverse_fwd,
    logdet_bwd,
    logdet_fwd,
    solve_bwd,
    solve_fwd,
)
from manual_grad.formulas.losses import (
    binary_cross_entropy_with_logits_bwd,
    binary_cross_entropy_with_logits_fwd,
    huber_bwd,
    huber_fwd,
    kl_divergence_bwd,
    kl_divergence_fwd,
)
from manual_grad.formulas.mse import mse_bwd, mse_fwd
from manual_grad.formulas.normalisation import (
    batch_norm_bwd,
    batch_norm_fwd,
    group_norm_bwd,
    group_norm_fwd,
    layer_norm_bwd,
    layer_norm_fwd,
    rms_norm_bwd,
    rms_norm_fwd,
)
from manual_grad.formulas.pooling import avg_pool2d_bwd, avg_pool2d_fwd, max_pool2d_bwd, max_pool2d_fwd
from manual_grad.formulas.recurrent import (
    gru_bwd,
    gru_fwd,
    linear_scan_bwd,
    linear_scan_fwd,
    lstm_bwd,
    lstm_fwd,
    rnn_bwd,
    rnn_fwd,
)
from manual_grad.formulas.sequences import (
    dropout_bwd,
    dropout_fwd,
    embedding_bwd,
    embedding_fwd,
    lora_bwd,
    lora_fwd,
    rope_bwd,
    rope_fwd,
)
from manual_grad.formulas.similarity import (
    cosine_similarity_bwd,
    cosine_similarity_fwd,
    l2_normalize_bwd,
    l2_normalize_fwd,
)
from manual_grad.formulas.softmax import (
    softmax_bwd,
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_fwd,
    softmax_cross_entropy_with_integer_labels_bwd,
    softmax_cross_entropy_with_integer_labels_fwd,
    softmax_fwd,
)
from manual_grad.formulas.transposed import conv_transpose2d_bwd, conv_transpose2d_fwd
from manual_grad.kernels.attention import attention_streaming_bwd, attention_streaming_fwd
from manual_grad.kernels.conv2d import conv2d_bwd, conv2d_fwd
from manual_grad.kernels.linear_cross_entropy import linear_cross_entropy_bwd, linear_cross_entropy_fwd

__all__ = [
    "attention",
    "attention_streaming",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "cholesky",
    "conv2d",
    "conv_transpose2d",
    "cosine_similarity",
    "dense",
    "dropout",
    "embedding",
    "geglu",
    "gelu",
    "group_norm",
    "gru",
    "huber",
    "inverse",
    "kl_divergence",
    "l2_normalize",
    "layer_norm",
    "linear_cross_entropy",
    "linear_scan",
    "logdet",
    "lora",
    "lstm",
    "max_pool2d",
    "mse",
    "relu",
    "rms_norm",
    "rnn",
    "rope",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "solve",
    "swiglu",
]

P = ParamSpec("P")
R = TypeVar("R")
Pair = int | Sequence[int]
Padding = str | Sequence[Sequence[int]]


def _operation(op: Callable[P, R]) -> Callable[P, R]:
    """``op``, checked against its signature after its arrays have been converted to one dtype."""
    return checked(op, _alike)


def _alike(hints: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The arrays in one floating-point dtype, and varying over the same axes of a ``shard_map``.

    Done outside the ``custom_vjp``, so that JAX itself undoes it: it casts each cotangent to its primal's
    dtype, and sums it over the devices that share the primal.
    """
    arrays = {name: value for name, value in given.items() if isinstance(value, jax.Array)}
    floats = [name for name in arrays if getattr(hints.get(name), "dtype", None) is Float]
    try:
        dtype = jnp.result_type(*(arrays[name] for name in floats)) if floats else None
    except ValueError:  # random keys; eight-bit floats mixed with wider ones, which the check rejects
        dtype = None
    if dtype is not None and jnp.issubdtype(dtype, jnp.floating):
        arrays |= {name: arrays[name].astype(dtype) for name in floats}
    axes = frozenset().union(*(_varying_axes(array) for array in arrays.values()))
    return given | {name: _vary(array, axes - _varying_axes(array)) for name, array in arrays.items()}


def _varying_axes(array: Array) -> frozenset[str]:
    """The mesh axes of a ``shard_map`` over which the array's value varies."""
    of = jax.typeof(array)
    return of.mat.varying if hasattr(of, "mat") else getattr(of, "vma", frozenset())  # older versions


def _vary(array: Array, axes: frozenset[str]) -> Array:
    if not axes:
        return array
    if hasattr(lax, "pcast"):
        array = lax.pcast(array, tuple(axes), to="varying")
    else:  # in older versions of JAX
        array = lax.pvary(array, tuple(axes))  # type: ignore[attr-defined]
    return array


def _by_hand(fwd: Callable[..., Any], bwd: Callable[..., Any], *primals: Array) -> Array:
    """``fwd(*primals)[0]``, which JAX differentiates by calling ``bwd``; integers have no cotangent."""
    floating = [p is not None and jnp.issubdtype(p.dtype, jnp.floating) for p in primals]
    shardings = _explicit_shardings(*(p for p, its in zip(primals, floating, strict=True) if its))
    pull = jax.sharding.auto_axes(bwd, out_sharding=shardings) if shardings else bwd

    def back(res: Any, dout: Any) -> tuple[Any, ...]:
        cotangents = iter(pull(res, dout))
        return tuple(next(cotangents) if its else None for its in floating)

    op = jax.custom_vjp(lambda *primals: fwd(*primals)[0])
    op.defvjp(fwd, back)
    out: Array = op(*primals)
    return out


def _drop_in(fwd: Callable[..., Any], bwd: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a pair into an operation with the arguments and the docstring of ``fwd``."""

    def op(*primals: Array, **settings: Any) -> Array:
        return _by_hand(functools.partial(fwd, **settings), bwd, *primals)

    op.__name__ = op.__qualname__ = fwd.__name__.removesuffix("_fwd")
    said, _, _ = (inspect.getdoc(fwd) or "").partition("\n>>> ")
    op.__doc__ = "\n".join(_without_residuals(line) for line in said.splitlines())
    signature = inspect.signature(fwd)
    out = typing.get_args(signature.return_annotation)[0]
    op.__annotations__ = {**inspect.unwrap(fwd).__annotations__, "return": out}
    setattr(op, "__signature__", signature.replace(return_annotation=out))  # noqa: B010  unknown to mypy
    return _operation(op)


def _without_residuals(line: str) -> str:
    """A line of a docstring without ``(y, res)`` and similar expressions."""
    before, here, after = line.partition("res)``: ")
    return before[: before.index("``")] + after if here else line


layer_norm = _drop_in(layer_norm_fwd, layer_norm_bwd)
rms_norm = _drop_in(rms_norm_fwd, rms_norm_bwd)
group_norm = _drop_in(group_norm_fwd, group_norm_bwd)
batch_norm = _drop_in(batch_norm_fwd, batch_norm_bwd)
gelu = _drop_in(gelu_fwd, gelu_bwd)
silu = _drop_in(silu_fwd, silu_bwd)
swiglu = _drop_in(swiglu_fwd, swiglu_bwd)
geglu = _drop_in(geglu_fwd, geglu_bwd)
embedding = _drop_in(embedding_fwd, embedding_bwd)
rope = _drop_in(rope_fwd, rope_bwd)
attention = _drop_in(attention_fwd, attention_bwd)
attention_streaming = _drop_in(attention_streaming_fwd, attention_streaming_bwd)
dropout = _drop_in(dropout_fwd, dropout_bwd)
lora = _drop_in(lora_fwd, lora_bwd)
binary_cross_entropy_with_logits = _drop_in(
    binary_cross_entropy_with_logits_fwd, binary_cross_entropy_with_logits_bwd
)
kl_divergence = _drop_in(kl_divergence_fwd, kl_divergence_bwd)
huber = _drop_in(huber_fwd, huber_bwd)
l2_normalize = _drop_in(l2_normalize_fwd, l2_normalize_bwd)
cosine_similarity = _drop_in(cosine_similarity_fwd, cosine_similarity_bwd)
rnn = _drop_in(rnn_fwd, rnn_bwd)
linear_scan = _drop_in(linear_scan_fwd, linear_scan_bwd)
lstm = _drop_in(lstm_fwd, lstm_bwd)
gru = _drop_in(gru_fwd, gru_bwd)
max_pool2d = _drop_in(max_pool2d_fwd, max_pool2d_bwd)
avg_pool2d = _drop_in(avg_pool2d_fwd, avg_pool2d_bwd)
conv_transpose2d = _drop_in(conv_transpose2d_fwd, conv_transpose2d_bwd)
solve = _drop_in(solve_fwd, solve_bwd)
inverse = _drop_in(inverse_fwd, inverse_bwd)
logdet = _drop_in(logdet_fwd, logdet_bwd)
cholesky = _drop_in(cholesky_fwd, cholesky_bwd)


def _explicit_shardings(*primals: Array) -> tuple[NamedSharding, ...]:
    """The sharding of each array if a mesh has explicit axes; otherwise nothing.

    On explicit axes JAX rejects a sum over a sharded axis, as in Xᵀ dZ, unless told how the result is
    sharded: a cotangent is sharded like its primal. The formula itself runs with ``auto_axes``.
    """
    shardings = [jax.typeof(primal).sharding for primal in primals]
    mesh = next((s.mesh for s in shardings if AxisType.Explicit in s.mesh.axis_types), None)
    return tuple(NamedSharding(mesh, s.spec) for s in shardings) if mesh is not None else ()


@_operation
def mse(y_hat: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Array:
    """J = mean((y − ŷ)²), over every entry. [A-02] [A-04]

    Args:
        y_hat, y: predictions and targets, of the same shape.
    Returns:
        J, scalar.
    Raises:
        InputError: the shapes differ (nothing is broadcast), or neither is floating-point.
    Source: Lecture A, "The MOST important thing".

    >>> jax.grad(mse)(jnp.array([1.0, 2.0]), jnp.array([2.0, 5.0])).tolist()
    [-1.0, -3.0]
    """
    return _by_hand(mse_fwd, mse_bwd, y_hat.reshape(-1), y.reshape(-1))


@_operation
def relu(x: Float[Array, "..."]) -> Array:
    """max(x, 0), with derivative 0 at 0. [B-02] [B-06]

    Args:
        x: any shape.
    Returns:
        The shape and dtype of x.
    Raises:
        InputError: ``x`` is not a floating-point array.
    Source: Lecture B, pages 1 and 2.

    >>> jax.grad(lambda x: relu(x).sum())(jnp.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 1.0]
    """
    return _by_hand(_relu_fwd, relu_bwd, x)


def _relu_fwd(x: Array) -> tuple[Array, Array]:
    """``relu_fwd`` for differentiating again, because JAX's derivative of ``jnp.maximum(x, 0)`` at 0 is ½."""
    return jnp.where(x <= 0, 0, x), x


@_operation
def softmax(logits: Float[Array, "*batch K"]) -> Array:
    """ŷ_k = e^{l_k} / Σ_j e^{l_j} over the last axis. [A-07] [A-08]

    Args:
        logits: (…, K).
    Returns:
        Probabilities, (…, K), in the dtype of the logits.
    Raises:
        InputError: ``logits`` is not a floating-point array with at least one axis.
    Source: Lecture A, "The MOST important thing".

    >>> jax.grad(lambda logits: softmax(logits)[0])(jnp.array([7.0, 7.0])).tolist()
    [0.25, -0.25]
    """
    return _by_hand(softmax_fwd, softmax_bwd, logits)


@_operation
def softmax_cross_entropy(logits: Float[Array, "*batch K"], labels: Float[Array, "*batch K"]) -> Array:
    """J = −mean(Σ_k y_k ln softmax(l)_k), the mean over the samples. [A-10]

    Args:
        logits: (…, K).
        labels: (…, K), one-hot, smoothed, or with rows of any sum.
    Returns:
        J, scalar.
    Raises:
        InputError: the shapes differ, or neither is floating-point.
    Source: Lecture A, "The MOST important thing".

    >>> jax.grad(softmax_cross_entropy)(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]])).tolist()
    [[-0.5, 0.5]]
    """
    K = logits.shape[-1]
    fwd, bwd = softmax_cross_entropy_fwd, softmax_cross_entropy_bwd
    return _by_hand(fwd, bwd, logits.reshape(-1, K), labels.reshape(-1, K))


@_operation
def softmax_cross_entropy_with_integer_labels(
    logits: Float[Array, "*batch K"], labels: Integer[Array, "*batch"], *, ignore_index: int | None = None
) -> Array:
    """J = −mean(ln softmax(l)_y), the mean over the samples that are not ignored. [B-13] [B-14] [E-27]

    Under ``jax.shard_map`` it is the mean over a device's own labels, and each device may ignore a different
    number.

    Args:
        logits: (…, K).
        labels: (…), integers from 0 to K − 1, or ``ignore_index``.
        ignore_index: a label, which need not be a class, whose samples do not count, whatever their logits.
    Returns:
        J, scalar; NaN under ``jit`` if a label is not a class or all are ignored.
    Raises:
        InputError: a shape or dtype does not match; a label is out of range or all are ignored (eagerly).
    Source: Lecture B, pages 3 and 5.

    >>> loss = softmax_cross_entropy_with_integer_labels
    >>> jax.grad(loss)(jnp.array([[0.0, 0.0]]), jnp.array([0])).tolist()
    [[-0.5, 0.5]]
    """
    K = logits.shape[-1]
    require_labels_in_range("softmax_cross_entropy_with_integer_labels", labels, K, ignore_index=ignore_index)
    fwd = functools.partial(softmax_cross_entropy_with_integer_labels_fwd, ignore_index=ignore_index)
    bwd = softmax_cross_entropy_with_integer_labels_bwd
    return _by_hand(fwd, bwd, logits.reshape(-1, K), labels.reshape(-1))


@_operation
def dense(X: Float[Array, "*batch d"], W: Float[Array, "d m"], b: Float[Array, " m"]) -> Array:
    """Z = X W + b, one sample per row. [B-16]

    Args:
        X: (…, d).
        W: (d, m).
        b: (m,); zeros for a layer without a bias.
    Returns:
        Z, (…, m).
    Raises:
        InputError: a shape or dtype does not match.
    Source: Lecture B, page 7.

    >>> X, W, b = jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]]), jnp.array([5.0])
    >>> jax.grad(lambda W: dense(X, W, b).sum())(W).tolist()
    [[1.0], [2.0]]
    """
    Z = _by_hand(dense_rows_fwd, dense_rows_bwd, X.reshape(-1, X.shape[-1]), W, b)
    return Z.reshape(*X.shape[:-1], -1)


@_operation
def conv2d(
    x: Float[Array, "*batch H W C"],
    kernel: Float[Array, "kh kw Cg O"],
    bias: Float[Array, " O"],
    *,
    strides: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """A Conv2D layer: the cross-correlation over strides, channels and batch, plus a bias. [A-11] [C-10]

    As ``jax.lax.conv_general_dilated`` with NHWC and HWIO.

    Args:
        x: images, (…, H, W, C).
        kernel: (kh, kw, C/groups, O).
        bias: (O,); zeros for a layer without one.
        strides: an int or a pair.
        padding: ``VALID``, ``SAME``, or ``((top, bottom), (left, right))``; a negative number crops.
        dilation: an int or a pair: the spacing of the kernel's entries.
        groups: the number of groups of channels; each has C/groups inputs and O/groups outputs.
    Returns:
        Z, (…, h, w, O).
    Raises:
        InputError: a stride or dilation below 1, groups that do not divide C and O, a kernel larger than the
            padded image, an unknown padding, or a shape or dtype that does not match.
    Source: Lecture A, the network's first two layers; Lecture C, page 4.

    >>> x, kernel = jnp.arange(4.0).reshape(1, 1, 4, 1), jnp.ones((1, 2, 1, 1))
    >>> loss = lambda kernel: conv2d(x, kernel, jnp.zeros(1), strides=2).sum()
    >>> jax.grad(loss)(kernel).ravel().tolist()
    [2.0, 4.0]
    """
    fwd = functools.partial(conv2d_fwd, strides=strides, padding=padding, dilation=dilation, groups=groups)
    Z = _by_hand(fwd, conv2d_bwd, x.reshape(-1, *x.shape[-3:]), kernel, bias)
    return Z.reshape(*x.shape[:-3], *Z.shape[1:])


@_operation
def linear_cross_entropy(
    hidden: Float[Array, "*batch D"],
    W: Float[Array, "D V"],
    labels: Integer[Array, "*batch"],
    *,
    chunk: int = 128,
    ignore_index: int | None = None,
) -> Array:
    """J = −mean(ln softmax(h W)_y), without ever holding the logits of all samples. [A-10] [E-27]

    The last layer and its loss in one, for a large vocabulary V. A second derivative does hold all logits,
    because JAX keeps them for the second backward pass. On several devices call it under ``jax.shard_map``:
    otherwise the chunks of a sharded batch are processed one after another, each on all devices.

    Args:
        hidden: the last layer's input, (…, D).
        W: its weights, (D, V).
        labels: (…), integers from 0 to V − 1, or ``ignore_index``.
        chunk: the number of samples at a time; chunk × V logits exist at once.
        ignore_index: a label, which need not be a class, whose samples do not count, whatever they contain:
            the mean is over the others, under ``jax.shard_map`` a device's own.
    Returns:
        J, scalar; NaN under ``jit`` if a label is not a class or all are ignored.
    Raises:
        InputError: ``chunk`` is below 1, a shape or dtype does not match, a label is out of range or all are
            ignored (eagerly).
    Source: Lecture A's A-10 after Lecture D's last layer; the fusion is ours.

    >>> hidden, W, labels = jnp.ones((1, 1)), jnp.zeros((1, 2)), jnp.array([0])
    >>> jax.grad(linear_cross_entropy, argnums=1)(hidden, W, labels).tolist()
    [[-0.5, 0.5]]
    """
    require_labels_in_range("linear_cross_entropy", labels, W.shape[1], ignore_index=ignore_index)
    fwd = functools.partial(linear_cross_entropy_fwd, chunk=chunk, ignore_index=ignore_index)
    rows = hidden.reshape(-1, hidden.shape[-1])
    if shardings := _explicit_shardings(rows, W):  # the forward pass computes the gradients
        out = NamedSharding(shardings[0].mesh, PartitionSpec()), shardings
        fwd = jax.sharding.auto_axes(fwd, out_sharding=out)
    return _by_hand(fwd, linear_cross_entropy_bwd, rows, W, labels.reshape(-1))
