"""Convolutions by their definitions: a sum over the kernel's offsets (a, b) of shifted inputs."""

from itertools import product

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pair = int | tuple[int, int]
Padding = str | tuple[tuple[int, int], tuple[int, int]]


def correlate2d(x: Float[Array, "H W"], f: Float[Array, "kh kw"]) -> Float[Array, "h w"]:
    """[C-08] O[i,j] = Σ_a Σ_b X[i+a, j+b] F[a,b], valid: (H − kh + 1, W − kw + 1)."""
    (kh, kw), h, w = f.shape, x.shape[0] - f.shape[0] + 1, x.shape[1] - f.shape[1] + 1
    O = jnp.zeros((h, w), x.dtype)
    for a, b in product(range(kh), range(kw)):
        O = O + x[a : a + h, b : b + w] * f[a, b]  # [C-08]
    return O


def convolve2d(
    x: Float[Array, "H W"], w: Float[Array, "kh kw"], mode: str = "full"
) -> Float[Array, "out_h out_w"]:
    """[C-07] Y[i,j] = Σ_a Σ_b X[i−a, j−b] W[a,b], a true convolution.

    "full": every (i, j) that touches X, with X = 0 outside: (H + kh − 1, W + kw − 1).
    "valid": only the (i, j) whose every index lies inside X: (H − kh + 1, W − kw + 1).
    """
    (H, W), (kh, kw) = x.shape, w.shape
    if mode == "full":
        x = jnp.pad(x, ((kh - 1, kh - 1), (kw - 1, kw - 1)))
        H, W = H + 2 * (kh - 1), W + 2 * (kw - 1)
    elif mode != "valid":
        raise ValueError(f'mode must be "full" or "valid", got {mode!r}')
    offsets = product(range(kh), range(kw))
    Y = jnp.zeros((H - kh + 1, W - kw + 1), x.dtype)
    for (
        a,
        b,
    ) in offsets:  # i from kh − 1 to H − 1: the rows for which i − a stays inside for every a; j likewise
        Y = Y + x[kh - 1 - a : H - a, kw - 1 - b : W - b] * w[a, b]  # [C-07]
    return Y


def conv2d(
    x: Float[Array, "N H W C"],
    kernel: Float[Array, "kh kw C_per_group O"],
    bias: Float[Array, " O"],
    strides: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
    groups: int = 1,
) -> Float[Array, "N h w O"]:
    """[A-11] Z[n,i,j,o] = Σ_abc X[n, s i + d a, s j + d b, c] K[a,b,c,o] + b_o, a cross-correlation.

    X is padded first, and cropped where a pad is negative. NHWC input, HWIO kernel; with groups, the g-th
    share of the output channels sees the g-th share of the input channels only. "SAME" pads as TensorFlow and
    XLA do.
    """
    (N, H, W, C), (kh, kw, per_group, n_out) = x.shape, kernel.shape
    (sh, sw), (dh, dw) = _pair(strides), _pair(dilation)
    pad_h, pad_w = _padding(padding, (H, W), (kh, kw), (sh, sw), (dh, dw))
    h = max((H + sum(pad_h) - (kh - 1) * dh - 1) // sh + 1, 0)
    w = max((W + sum(pad_w) - (kw - 1) * dw - 1) // sw + 1, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*pad_h, 0), (*pad_w, 0), (0, 0, 0)])
    x = x.reshape(N, H + sum(pad_h), W + sum(pad_w), groups, C // groups)
    kernel = kernel.reshape(kh, kw, per_group, groups, n_out // groups)
    Z = jnp.zeros((N, h, w, groups, n_out // groups), jnp.result_type(x, kernel))
    for a, b in product(range(kh), range(kw)):
        window = x[:, _taps(a * dh, sh, h), _taps(b * dw, sw, w)]
        Z = Z + jnp.einsum("nhwgc,cgo->nhwgo", window, kernel[a, b])
    return Z.reshape(N, h, w, n_out) + bias


def conv_transpose2d(
    x: Float[Array, "N h w C"],
    kernel: Float[Array, "kh kw O_per_group C"],
    bias: Float[Array, " O"],
    strides: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
    groups: int = 1,
) -> Float[Array, "N H W O"]:
    """[E-21] Each entry of x adds x times the kernel, s apart; the padding is cropped, and b is added.

    "SAME" is the padding with which `conv2d` takes h·s rows to h, and a margin where strides leave one.
    """
    (N, h, w, C), (kh, kw, per_group, _), n_out = x.shape, kernel.shape, bias.shape[0]
    (sh, sw), (dh, dw) = _pair(strides), _pair(dilation)
    full = (h - 1) * sh + (kh - 1) * dh + 1, (w - 1) * sw + (kw - 1) * dw + 1
    H, W = (h * sh, w * sw) if padding == "SAME" else full
    (top, bottom), (left, right) = _padding(padding, (H, W), (kh, kw), (sh, sw), (dh, dw))
    H, W = (H, W) if padding == "SAME" else (H - top - bottom, W - left - right)
    size = max(H + top, full[0]), max(W + left, full[1])
    laid = jnp.zeros((N, *size, n_out), jnp.result_type(x, kernel))
    kernel = kernel.reshape(kh, kw, per_group, groups, C // groups)
    for a, b in product(range(kh), range(kw)):
        sent = jnp.einsum("nijgc,ogc->nijgo", x.reshape(N, h, w, groups, -1), kernel[a, b])
        places = _taps(a * dh, sh, h), _taps(b * dw, sw, w)
        laid = laid.at[:, *places].add(sent.reshape(N, h, w, n_out))  # [E-21]
    return laid[:, top : top + H, left : left + W] + bias  # [E-21]


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _taps(start: int, stride: int, count: int) -> slice:
    """The slice of `count` indices start, start + stride, …"""
    return slice(start, start + (count - 1) * stride + 1 if count else start, stride)


def _padding(
    padding: Padding,
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The zeros (top, bottom), (left, right) that `padding` stands for."""
    match padding:
        case "VALID":
            return (0, 0), (0, 0)
        case "SAME":
            (H, W), (kh, kw), (sh, sw), (dh, dw) = size, kernel, strides, dilation
            return _same(H, kh, sh, dh), _same(W, kw, sw, dw)
        case ((top, bottom), (left, right)):
            return (top, bottom), (left, right)
    raise ValueError(f'padding must be "VALID", "SAME" or two pairs, got {padding!r}')


def _same(H: int, k: int, s: int, d: int) -> tuple[int, int]:
    """Zeros before and after one axis, so that ceil(H / s) outputs fit; the odd one goes after."""
    total = max((-(-H // s) - 1) * s + (k - 1) * d + 1 - H, 0)
    return total // 2, total - total // 2
