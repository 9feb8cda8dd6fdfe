"""Causes in networks that are written by hand, as in courses and kernels: states, strides, bounds, decays."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.checker.causes import by, named_first, right

RNG = np.random.default_rng(8)


def normal(*shape):
    return RNG.normal(size=shape)


# --- a recurrent network ------------------------------------------------------------------------------------


def rnn(x, U, W):
    h, hs = jnp.zeros(W.shape[0]), []
    for step in x:
        h = jnp.tanh(step @ U + h @ W)
        hs.append(h)
    return jnp.stack(hs)


def rnn_bwd(state):
    """``state(hs, t)``: what the gradient of W is computed from, in all steps but the first."""

    def bwd(d, x, U, W):
        h, hs = np.zeros(W.shape[0]), []
        for step in x:
            hs.append(h := np.tanh(step @ U + h @ W))
        dx, dU, dW, dh = np.zeros_like(x), np.zeros_like(U), np.zeros_like(W), np.zeros_like(h)
        for t in range(len(x) - 1, -1, -1):
            dz = (dh + d[t]) * (1 - hs[t] ** 2)
            dx[t], dh = U @ dz, W @ dz
            dU += np.outer(x[t], dz)
            if t > 0:
                dW += np.outer(state(hs, t), dz)
        return dx, dU, dW

    return bwd


# --- a strided convolution, window by window ----------------------------------------------------------------


def windows(x, W):
    rows = [
        jnp.stack([jnp.einsum("nijc,ijcf->nf", x[:, a : a + 3, b : b + 2], W) for b in range(0, 5, 2)], 1)
        for a in range(0, 5, 2)
    ]
    return jnp.stack(rows, 1)


def windows_bwd(stride):
    def bwd(d, x, W):
        dx, dW = np.zeros_like(x), np.zeros_like(W)
        for i, j in np.ndindex(3, 3):
            at = np.s_[:, i * stride : i * stride + 3, j * stride : j * stride + 2]
            dx[at] += np.einsum("nf,ijcf->nijc", d[:, i, j], W)
            dW += np.einsum("nijc,nf->ijcf", x[at], d[:, i, j])
        return dx, dW

    return bwd


# --- quantisation -------------------------------------------------------------------------------------------


def quantised(x, s):
    v = x / s
    q = v + lax.stop_gradient(jnp.round(v) - v)
    return jnp.where(q < -3, -3.0, jnp.where(q > 2, 2.0, q)) * s


def quantised_bwd(inside):
    def bwd(d, x, s):
        q = np.round(x / s)
        kept = d * inside(q)
        return kept, (d * np.clip(q, -3, 2) - kept * x / s).sum(0)

    return bwd


# --- gated linear attention ---------------------------------------------------------------------------------


def decayed(q, k, v, g):
    total = jnp.cumsum(g)
    causal = jnp.tril(jnp.ones((len(g), len(g))))
    return (q @ k.T * (jnp.exp((total[:, None] - total) * causal) * causal)) @ v


def decayed_bwd(decay_in_v):
    def bwd(d, q, k, v, g):
        total, causal = np.cumsum(g), np.tril(np.ones((len(g), len(g))))
        decay = np.exp((total[:, None] - total) * causal) * causal
        scores = q @ k.T
        ds = d @ v.T * decay
        m = ds * scores
        dg = np.cumsum((m.sum(1) - m.sum(0))[::-1])[::-1]
        return ds @ k, ds.T @ q, (scores * (decay if decay_in_v else causal)).T @ d, dg

    return bwd


# --- attention ----------------------------------------------------------------------------------------------


def causal(q, k, v):
    i = jnp.arange(len(q))
    return jax.nn.softmax(jnp.where(i[:, None] >= i, q @ k.T / 2, -jnp.inf), -1) @ v


def causal_bwd(queries):
    """The gradient of k from some of the queries alone."""

    def bwd(d, q, k, v):
        p = np.exp(np.where(np.tri(len(q)) > 0, q @ k.T / 2, -np.inf))
        p /= p.sum(-1, keepdims=True)
        dp = d @ v.T
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / 2
        return ds @ k, ds[queries].T @ q[queries], p.T @ d

    return bwd


# --- normalisation ------------------------------------------------------------------------------------------


def of_groups(x, g):
    z = x.reshape(2, 3, 2, 4, 5)
    m, v = z.mean((2, 3, 4), keepdims=True), z.var((2, 3, 4), keepdims=True)
    return ((z - m) / jnp.sqrt(v + 1e-5)).reshape(x.shape) * g[:, None, None]


def of_groups_bwd(group):
    def bwd(d, x, g):
        z = x.reshape(2, 3, -1)
        m, r = z.mean(-1), 1 / np.sqrt(z.var(-1) + 1e-5)
        h = (z - m[..., None]) * r[..., None]
        dh = (d * g[:, None, None]).reshape(z.shape)
        dx = r[..., None] * (dh - dh.mean(-1, keepdims=True) - h * (dh * h).mean(-1, keepdims=True))
        other = (x - m[:, group, None, None]) * r[:, group, None, None]
        return dx.reshape(x.shape), (d * other).sum((0, 2, 3))

    return bwd


def of_rows(x, g):
    m = x.mean(-1, keepdims=True)
    return (x - m) / jnp.sqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5) * g


def of_rows_bwd(times):
    def bwd(d, x, g):
        m = x.mean(-1, keepdims=True)
        r = 1 / np.sqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5)
        h, dh = (x - m) * r, d * g
        means = times * dh.mean(-1, keepdims=True), (dh * h).mean(-1, keepdims=True)
        return r * (dh - means[0] - h * means[1]), (d * h).sum((0, 1))

    return bwd


def of_rows_in_tiles(size):
    def bwd(d, x, g):
        m = x.mean(-1, keepdims=True)
        r = 1 / np.sqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5)
        h, dh = (x - m) * r, d * g
        means = np.empty((2, len(x), 1))
        for a in range(0, len(x), size):
            tile = slice(a, a + size)
            means[:, tile] = np.stack([dh[tile].sum(), (dh * h)[tile].sum()])[:, None, None] / x.shape[-1]
        return r * (dh - means[0] - h * means[1]), (d * h).sum(0)

    return bwd


def by_squares(x, w):
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + w)


def by_squares_bwd(in_place):
    def bwd(d, x, w):
        r = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        dh = d * (1 + w)
        dx = r * (dh - x * r**2 * (dh * x).mean(-1, keepdims=True))
        return dx, ((dx if in_place else d) * x * r).sum(0)

    return bwd


def two_gates(a, b):
    return a * jax.nn.sigmoid(a) * b


def two_gates_bwd(row):
    """``row``: where each row's gradient is written to."""

    def bwd(d, a, b):
        s = 1 / (1 + np.exp(-a))
        da, db = np.zeros_like(a), np.zeros_like(b)
        for i in range(len(a)):
            da[row(i)] = d[i] * b[i] * (s[i] + a[i] * s[i] * (1 - s[i]))
            db[row(i)] = d[i] * a[i] * s[i]
        return da, db

    return bwd


# --- a gated recurrent unit ---------------------------------------------------------------------------------


def gated(x, U, V):
    h, hs = jnp.zeros(V.shape[0]), []
    for step in x:
        r = jax.nn.sigmoid(step @ U[:, :3] + h @ V[:, :3])
        h = 0.5 * h + 0.5 * jnp.tanh(step @ U[:, 3:] + (r * h) @ V[:, 3:])
        hs.append(h)
    return jnp.stack(hs)


def gated_bwd(before):
    """The gradient with r before the product, or after it."""

    def bwd(d, x, U, V):
        h, saved = np.zeros(3), []
        for step in x:
            r = 1 / (1 + np.exp(-step @ U[:, :3] - h @ V[:, :3]))
            n = np.tanh(step @ U[:, 3:] + (r * h) @ V[:, 3:])
            saved.append((h, r, n))
            h = 0.5 * h + 0.5 * n
        dx, dU, dV, dh = np.zeros_like(x), np.zeros_like(U), np.zeros_like(V), np.zeros(3)
        for t in range(len(x) - 1, -1, -1):
            h, r, n = saved[t]
            dh = dh + d[t]
            dn = 0.5 * dh * (1 - n**2)
            if before:
                dV[:, 3:] += np.outer(r * h, dn)
                back = V[:, 3:] @ dn
                dr, dh = back * h, 0.5 * dh + back * r
            else:
                dV[:, 3:] += np.outer(h, r * dn)
                dr, dh = dn * (h @ V[:, 3:]), 0.5 * dh + V[:, 3:] @ (r * dn)
            dr = dr * r * (1 - r)
            dV[:, :3] += np.outer(h, dr)
            dU += np.outer(x[t], np.concatenate([dr, dn]))
            dh = dh + V[:, :3] @ dr
            dx[t] = U @ np.concatenate([dr, dn])
        return dx, dU, dV

    return bwd


def evaluated(x, mean, var, g):
    return (x - mean) / jnp.sqrt(var + 1e-5) * g


def evaluated_bwd(training):
    def bwd(d, x, mean, var, g):
        r = 1 / np.sqrt(var + 1e-5)
        h, dh = (x - mean) * r, d * g
        dx = dh - training * (dh.mean(0) + h * (dh * h).mean(0))
        return dx * r, None, None, (d * h).sum(0)

    return bwd


RNN = normal(6, 3), normal(3, 4) / 2, normal(4, 4) / 2
IMAGES = normal(2, 7, 6, 2), normal(3, 2, 2, 3)
QUANTISED = normal(4, 9), np.array([0.3, 0.2, 0.5, 0.4, 0.3, 0.2, 0.6, 0.4, 0.3])
DECAYED = normal(6, 3), normal(6, 3), normal(6, 4), -np.abs(normal(6)) / 2
GROUPS = normal(2, 6, 4, 5), normal(6)
ROWS = normal(2, 3, 5), normal(5)
PLAIN_ROWS = normal(7, 5), normal(5)
GATED = normal(5, 2), normal(2, 6) / 2, normal(3, 6) / 2
SWIGLU = normal(6, 4), normal(6, 4)
CAUSAL = normal(6, 4), normal(6, 4), normal(6, 3)
EVALUATED = normal(7, 4), normal(4), RNG.uniform(0.5, 2, 4), normal(4)
CASES = {
    "the last query in dk": (
        "left out: the last of 6 rows (queries) of (q @ k) / 2",
        by(causal, causal_bwd(slice(5)), *CAUSAL),
    ),
    "sums over tiles of rows": (
        "the sums in a normalisation's gradient are taken over tiles of 2 rows (axis 0), where each",
        by(of_rows, of_rows_in_tiles(2), *PLAIN_ROWS),
    ),
    "the cotangent is overwritten": (
        "the gradient of x (perhaps written over it) stands where the cotangent of the output belongs",
        by(by_squares, by_squares_bwd(True), *PLAIN_ROWS),
    ),
    "all rows written to the first": (
        "entries along axis 0 are taken for each other: 5 for 0, nothing for 1",
        by(two_gates, two_gates_bwd(lambda i: 0), *SWIGLU),
    ),
    "r after the product": (
        "the factor r is applied after the product with V instead of before it",
        by(gated, gated_bwd(before=False), *GATED),
    ),
    "training for evaluation": (
        "the terms of the mean and the variance over axis 0 are subtracted, as if",
        by(evaluated, evaluated_bwd(1), *EVALUATED, argnums=(0, 3)),
    ),
    "h_t for h_(t − 1) in all steps but the first": (
        "the state h after its update (h_t) is used, where that before it (h_(t−1)) belongs",
        by(rnn, rnn_bwd(lambda hs, t: hs[t]), *RNN),
    ),
    "stride left out": (
        "stride (or dilation) ignored in",
        by(windows, windows_bwd(1), *IMAGES),
    ),
    "< for ≤": (
        "< for ≤ (or ≤ for <) in the mask that compares q and -3 and 2",
        by(quantised, quantised_bwd(lambda q: (q > -3) & (q < 2)), *QUANTISED),
    ),
    "a decay missing in one gradient": (
        "the factor the result of exp is missing in",
        by(decayed, decayed_bwd(False), *DECAYED),
    ),
    "another group's statistics": (
        "wrong group: channel c of 6 takes the statistics of group c mod 3, where c // 2 belongs",
        by(of_groups, of_groups_bwd(np.arange(6) % 3), *GROUPS),
    ),
    "a mean subtracted twice": (
        "counted twice (scaled by 2); only what flows back through the sum of x",
        by(of_rows, of_rows_bwd(2), *ROWS),
    ),
}
test_the_cause_is_named = named_first(CASES, in_all=True)

RIGHT = {
    "causal": by(causal, causal_bwd(slice(6)), *CAUSAL),
    "tiles of a row": by(of_rows, of_rows_in_tiles(1), *PLAIN_ROWS),
    "RMS norm": by(by_squares, by_squares_bwd(False), *PLAIN_ROWS),
    "SwiGLU": by(two_gates, two_gates_bwd(lambda i: i), *SWIGLU),
    "gated": by(gated, gated_bwd(before=True), *GATED),
    "evaluated": by(evaluated, evaluated_bwd(0), *EVALUATED, argnums=(0, 3)),
    "rnn": by(rnn, rnn_bwd(lambda hs, t: hs[t - 1]), *RNN),
    "windows": by(windows, windows_bwd(2), *IMAGES),
    "quantised": by(quantised, quantised_bwd(lambda q: (q >= -3) & (q <= 2)), *QUANTISED),
    "decayed": by(decayed, decayed_bwd(True), *DECAYED),
    "group norm": by(of_groups, of_groups_bwd(np.arange(6) // 2), *GROUPS),
    "layer norm": by(of_rows, of_rows_bwd(1), *ROWS),
}


test_the_right_gradients_pass = right(RIGHT)
