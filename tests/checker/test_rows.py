"""Rows of a sum that count twice or not at all, and means of chunks that are averaged without their sizes."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.checker.causes import by, loss_by, named_first, right, softmax

RNG = np.random.default_rng(7)
X, W, T = RNG.standard_normal((10, 4)), RNG.standard_normal((4, 3)), RNG.standard_normal((10, 3))
KEYS, VALUES, GAMMA = RNG.standard_normal((7, 4)), RNG.standard_normal((7, 3)), RNG.uniform(0.5, 2, 4)
Z = RNG.standard_normal((6, 5, 4))
VALID = (RNG.uniform(size=(6, 5)) < 0.7) | (np.arange(5) == 0)


def squared_error(x, w):
    return jnp.mean((x @ w - T) ** 2)


def of_chunks(sizes):
    def grad(x, w):
        count = np.repeat([len(sizes) * n for n in sizes], sizes) if sizes else 10
        r = 2 * (x @ w - T) / (3 * np.reshape(count, (-1, 1)))
        return r @ w.T, x.T @ r

    return grad


def entropy(z):
    return jnp.sum(jax.nn.logsumexp(z, -1) * VALID) / VALID.sum()


def entropy_grad(z):
    return (softmax(z) * (VALID / VALID.sum(1, keepdims=True) / 6)[..., None],)


def by_parts(w):
    total = 0.0
    for part in (X[:5], X[5:8], X[8:]):
        total = total + jnp.sum(jnp.tanh(part @ w) ** 2)
    return total / 30


def by_parts_grad(even):
    def grad(w):
        found = 0
        for part in (X[:5], X[5:8], X[8:]):
            h = np.tanh(part @ w)
            found = found + part.T @ (2 * h * (1 - h * h)) / (9 * len(part) if even else 30)
        return (found,)

    return grad


def centred(x):
    return jnp.tanh(x - x.mean(0))


def centred_bwd(mean):
    def bwd(d, x):
        d = d * (1 - np.tanh(x - x.mean(0)) ** 2)
        return (d - mean(d),)

    return bwd


def tiles(n, size, mistake=""):
    """The starts and ends of tiles."""
    for start in range(0, n, size):
        if mistake == "moved back":
            yield min(start, n - size), min(start, n - size) + size
        elif mistake == "one more":
            yield start, min(start + size + 1, n)
        elif mistake != "left out" or start + size <= n:
            yield start, min(start + size, n)


def product(x, w):
    return x @ w


def product_bwd(size, mistake=""):
    def bwd(d, x, w):
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        for a, b in tiles(len(x), size, mistake):
            dx[a:b] += d[a:b] @ w.T
            dw += x[a:b].T @ d[a:b]
        return dx, dw

    return bwd


def normed(x, gamma):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-3) * gamma


def gamma_bwd(mistake):
    def bwd(d, x, gamma):
        h = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
        return None, sum((d * h)[a:b].sum(0) for a, b in tiles(len(x), 4, mistake))

    return bwd


def attention(q, k, v):
    return jax.nn.softmax(q @ k.T / 2, axis=-1) @ v


def attention_bwd(queries="", keys=""):
    def bwd(d, q, k, v):
        p = softmax(q @ k.T / 2)
        ds = p * (d @ v.T - (d * (p @ v)).sum(-1, keepdims=True)) / 2
        dq = sum(ds[:, a:b] @ k[a:b] for a, b in tiles(7, 3, keys))
        dk = sum(ds[a:b].T @ q[a:b] for a, b in tiles(10, 4, queries))
        return dq, dk, sum(p[a:b].T @ d[a:b] for a, b in tiles(10, 4, queries))

    return bwd


TWICE = "rows counted twice: "
CASES = {
    f"means of chunks of {sizes}": (
        f"a wrong count: the means of {len(sizes)} chunks of {', '.join(map(str, sizes))} of 10 rows",
        loss_by(squared_error, of_chunks(sizes), X, W, argnums=(0, 1)))
    for sizes in ((5, 3, 2), (2, 3, 4, 1))
} | {
    "means of sequences": (
        "a wrong count: each of 6 blocks of 1 along axis 0", loss_by(entropy, entropy_grad, Z)),
    "means of parts": (
        "a wrong count: the means of 3 parts of 15, 9, 6 entries", loss_by(by_parts, by_parts_grad(True), W)),
    "means of shards in a mean": (
        "a mean in the backward pass over axis 0 is that of the means of 2 blocks of 6",
        by(centred, centred_bwd(lambda d: (d[:6].mean(0) + d[6:].mean(0)) / 2), X)),
    "a tile of 4 moved back": (TWICE + "6 to 7 of 10 rows", by(product, product_bwd(4, "moved back"), X, W)),
    "a tile of 3 moved back": (TWICE + "7 to 8 of 10 rows", by(product, product_bwd(3, "moved back"), X, W)),
    "tiles that overlap": (
        TWICE + "the first of each tile of 4 of 10", by(product, product_bwd(4, "one more"), X, W)),
    "a tile of 3 left out": ("one sample dropped: the last", by(product, product_bwd(3, "left out"), X, W)),
    "a norm's tile moved back": (
        TWICE + "6 to 7 of 10 rows", by(normed, gamma_bwd("moved back"), X, GAMMA, argnums=1)),
    "queries' tile moved back": (
        TWICE + "6 to 7 of 10 rows",
        by(attention, attention_bwd(queries="moved back"), X, KEYS, VALUES)),
    "keys' tile moved back": (
        TWICE + "4 to 5 of 7 rows along axis 1",
        by(attention, attention_bwd(keys="moved back"), X, KEYS, VALUES)),
    "an incomplete tile left out": (
        "rows left out: the last 1 of 10 rows",
        by(lambda w: X @ w, lambda d, w: product_bwd(3, "left out")(d, X, w)[1:], W)),
}  # fmt: skip

test_the_true_cause_is_named_first = named_first(CASES)

RIGHT = {
    "mean": loss_by(squared_error, of_chunks(()), X, W, argnums=(0, 1)),
    "parts": loss_by(by_parts, by_parts_grad(False), W),
    "centred": by(centred, centred_bwd(lambda d: d.mean(0)), X),
    "tiles": by(product, product_bwd(4), X, W),
    "a norm's tiles": by(normed, gamma_bwd(""), X, GAMMA, argnums=1),
    "attention's tiles": by(attention, attention_bwd(), X, KEYS, VALUES),
}


test_the_right_gradients_pass = right(RIGHT)
