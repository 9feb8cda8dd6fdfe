"""The functions given to autodiff in benchmarks: forward functions as one would write them in JAX.

The other files here follow the formulas literally and may overflow (exp over sum); these call JAX's own
functions (`jax.nn.log_softmax`, `lax.conv_general_dilated`), so that both sides handle the same inputs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from manual_grad_reference import mlp, two_layer


def softmax_cross_entropy(logits: Array, labels: Array) -> Array:
    """The mean over rows of −Σ y ln softmax(l)."""
    return -(labels * jax.nn.log_softmax(logits)).sum(axis=-1).mean()


def softmax_cross_entropy_with_integer_labels(logits: Array, labels: Array) -> Array:
    """The mean over rows of −ln softmax(l)_y."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)
    return -picked.mean()


def softmax_cross_entropy_columns(Z: Array, Y: Array) -> Array:
    """:func:`softmax_cross_entropy`, one sample per column."""
    return -(Y * jax.nn.log_softmax(Z, axis=0)).sum(axis=0).mean()


def cross_entropy_of_scores(s: Array, y: Array) -> Array:
    """−ln softmax(s)_y, one sample."""
    return -jax.nn.log_softmax(s)[y]


def conv2d(
    x: Array, kernel: Array, bias: Array, strides: tuple[int, int] = (1, 1), padding: Any = "VALID"
) -> Array:
    """A Conv2D layer, NHWC and HWIO."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers) + bias


def conv_transpose2d(x: Array, kernel: Array, bias: Array) -> Array:
    """A transposed convolution with stride 1 and a kernel laid out as for `conv2d`."""
    pads = [(k - 1, k - 1) for k in kernel.shape[:2]]
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, turned, (1, 1), pads, dimension_numbers=numbers) + bias


def max_pool2d(x: Array, window: int) -> Array:
    """The maximum of windows side by side."""
    of = (1, window, window, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, of, of, "VALID")


def avg_pool2d(x: Array, window: int) -> Array:
    """The mean of windows side by side."""
    of = (1, window, window, 1)
    return lax.reduce_window(x, 0.0, lax.add, of, of, "VALID") / window**2


def correlate2d(x: Array, f: Array) -> Array:
    """The valid cross-correlation of two matrices."""
    return lax.conv_general_dilated(x[None, None], f[None, None], (1, 1), "VALID")[0, 0]


def convolve2d(x: Array, w: Array) -> Array:
    """The full true convolution of two matrices."""
    pads = [(k - 1, k - 1) for k in w.shape]
    return lax.conv_general_dilated(x[None, None], w[None, None, ::-1, ::-1], (1, 1), pads)[0, 0]


def cnn(params: dict[str, Array], X: Array, labels: Array) -> Array:
    """Lecture A's network."""
    A1 = jax.nn.relu(conv2d(X, params["K1"], params["b1"]))
    A2 = jax.nn.relu(conv2d(A1, params["K2"], params["b2"]))
    A4 = jax.nn.relu(A2.reshape(len(A2), -1) @ params["W4"] + params["b4"])
    return softmax_cross_entropy(A4 @ params["W5"] + params["b5"], labels)


def linear_cross_entropy(hidden: Array, W: Array, labels: Array) -> Array:
    """The last layer and its loss, all logits at once."""
    return softmax_cross_entropy_with_integer_labels(hidden @ W, labels)


def two_layer_cross_entropy(W1: Array, b1: Array, W2: Array, b2: Array, x: Array, y: Array) -> Array:
    """One sample through two layers."""
    return cross_entropy_of_scores(two_layer.scores(W1, b1, W2, b2, x), y)


def two_layer_cross_entropy_rows(W1: Array, b1: Array, W2: Array, b2: Array, X: Array, y: Array) -> Array:
    """A batch of rows through two layers."""
    A = jax.nn.relu(X @ W1 + b1)
    return softmax_cross_entropy_with_integer_labels(A @ W2 + b2, y)


def two_layer_cross_entropy_columns(W1: Array, b1: Array, W2: Array, b2: Array, X: Array, y: Array) -> Array:
    """A batch of columns through two layers."""
    A = jax.nn.relu(W1 @ X + b1[:, None])
    return softmax_cross_entropy_with_integer_labels((W2 @ A + b2[:, None]).T, y)


def five_layer(params: Any, X: Array, Y: Array) -> Array:
    """Lecture D's network, one sample per column."""
    return softmax_cross_entropy_columns(mlp.mlp_columns(params, X), Y)


def mlp_loss(params: Any, X: Array, Y: Array) -> Array:
    """The same in rows."""
    return softmax_cross_entropy(mlp.mlp_rows(params, X), Y)


def embedding(ids: Array, table: Array) -> Array:
    """A row of the table for each id."""
    return table[ids]


def rope(x: Array, base: float = 10000.0) -> Array:
    """Each pair of the halves turned by its position's angles."""
    D = x.shape[-1]
    angles = jnp.arange(x.shape[1])[:, None, None] * base ** (-jnp.arange(0, D, 2, dtype=x.dtype) / D)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    x1, x2 = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


def attention(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """softmax(Q Kᵀ/√D) V, all scores at once; query heads in groups."""
    of_group = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
    S = jnp.einsum("nqhgd,nkhd->nhgqk", of_group, k) * q.shape[3] ** -0.5
    return jnp.einsum("nhgqk,nkhd->nqhgd", jax.nn.softmax(S), v).reshape(q.shape)


def dropout(x: Array, keep: Array, rate: float = 0.5) -> Array:
    """The entries kept, divided by 1 − rate."""
    return jnp.where(keep, x / (1 - rate), 0)


def lora(x: Array, W: Array, A: Array, B: Array, scale: float = 1.0) -> Array:
    """A layer and its low-rank change."""
    return x @ W + scale * (x @ A @ B)


def rnn(x: Array, W_ih: Array, W_hh: Array, b_ih: Array, b_hh: Array, h0: Array) -> tuple[Array, Array]:
    """An RNN over time; what the inputs contribute is one product for all steps."""

    def step(h: Array, from_x: Array) -> tuple[Array, Array]:
        h = jnp.tanh(from_x + h @ W_hh.T)
        return h, h

    h_T, hs = lax.scan(step, h0, x @ W_ih.T + (b_ih + b_hh))
    return hs, h_T


def gru(x: Array, W_ih: Array, W_hh: Array, b_ih: Array, b_hh: Array, h0: Array) -> tuple[Array, Array]:
    """A GRU over time."""

    def step(h: Array, from_x: Array) -> tuple[Array, Array]:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = (jnp.split(y, 3, axis=1) for y in (from_x, h @ W_hh.T + b_hh))
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        n = jnp.tanh(x_n + r * h_n)
        h = (1 - z) * n + z * h
        return h, h

    h_T, hs = lax.scan(step, h0, x @ W_ih.T + b_ih)
    return hs, h_T


def lstm(
    x: Array, W_ih: Array, W_hh: Array, b_ih: Array, b_hh: Array, h0: Array, c0: Array
) -> tuple[Array, Array, Array]:
    """An LSTM over time."""

    def step(state: tuple[Array, Array], from_x: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = state
        i, f, g, o = jnp.split(from_x + h @ W_hh.T, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    (h_T, c_T), hs = lax.scan(step, (h0, c0), x @ W_ih.T + (b_ih + b_hh))
    return hs, h_T, c_T


def linear_scan(a: Array, b: Array, h0: Array) -> Array:
    """A linear recurrence, step after step."""

    def step(h: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        h = at[0] * h + at[1]
        return h, h

    return lax.scan(step, h0, (a, b))[1]


def gpt(params: Any, tokens: Array, targets: Array, heads: int = 1) -> Array:
    """The loss of a GPT-2."""

    def linear(x: Array, p: Any) -> Array:
        return x @ p["W"] + p["b"]

    def norm(x: Array, p: Any) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        return p["gamma"] * centred * lax.rsqrt(x.var(axis=-1, keepdims=True) + 1e-5) + p["beta"]

    N, L = tokens.shape
    x, causal = params["wte"][tokens] + params["wpe"][:L], jnp.tril(jnp.ones((L, L), bool))
    for p in params["blocks"]:
        z = linear(norm(x, p["ln1"]), p["qkv"]).reshape(N, L, 3, heads, -1)
        S = jnp.einsum("nqhd,nkhd->nhqk", z[:, :, 0], z[:, :, 1]) * z.shape[-1] ** -0.5
        P = jax.nn.softmax(jnp.where(causal, S, -jnp.inf))
        x = x + linear(jnp.einsum("nhqk,nkhd->nqhd", P, z[:, :, 2]).reshape(x.shape), p["proj"])
        x = x + linear(jax.nn.gelu(linear(norm(x, p["ln2"]), p["up"])), p["down"])
    logits = norm(x, params["lnf"]) @ params["wte"].T
    return softmax_cross_entropy_with_integer_labels(logits.reshape(N * L, -1), targets.reshape(-1))
