"""Twenty cases of the benchmark timed without it: plain JAX, called alternately, no settings of any kind.

python benchmarks/independent.py [bench.json]

prints the median time by hand divided by that of autodiff and, beside it, what ``manual-grad bench --json``
measured.
"""

# ruff: noqa: D103

import json
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad

RNG = np.random.default_rng(0)
SMALL, MIDDLE, LARGE = (512, 512), (512, 1000), (4096, 1024)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def drawn(*shapes):
    return lambda: tuple(normal(*shape) for shape in shapes)


def images(N, n, C, k, O):
    return drawn((N, n, n, C), (k, k, C, O), (O,))


def soft_labels(N, K):
    return lambda: (normal(N, K), jax.nn.softmax(normal(N, K)))


def integer_labels(N, K):
    return lambda: (normal(N, K), jnp.asarray(RNG.integers(0, K, N)))


def mse(y_hat, y):
    return ((y_hat - y) ** 2).mean()


def swiglu(gate, up):
    return jax.nn.silu(gate) * up


def cross_entropy(logits, y):
    return -(y * jax.nn.log_softmax(logits)).sum(-1).mean()


def cross_entropy_of_integers(logits, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()


def kl(p, q):
    return (jax.nn.softmax(p) * (jax.nn.log_softmax(p) - jax.nn.log_softmax(q))).sum(-1).mean()


def dense(X, W, b):
    return X @ W + b


def layer_norm(x, gamma, beta):
    return gamma * (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) + beta


def rms_norm(x, gamma):
    return gamma * x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def normalized(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def cosine(a, b):
    return (a * b).sum(-1) / (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1))


def convolved(x, kernel, bias):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout) + bias


CASES = {
    "mse[4096]": (mse, drawn((4096,), (4096,))),
    "relu[512×512]": (jax.nn.relu, drawn(SMALL)),
    "sigmoid[512×512]": (jax.nn.sigmoid, drawn(SMALL)),
    "gelu[4096×1024]": (jax.nn.gelu, drawn(LARGE)),
    "silu[512×512]": (jax.nn.silu, drawn(SMALL)),
    "swiglu[4096×1024]": (swiglu, drawn(LARGE, LARGE)),
    "softmax[512×1000]": (jax.nn.softmax, drawn(MIDDLE)),
    "softmax_cross_entropy[64×10]": (cross_entropy, soft_labels(64, 10)),
    "softmax_cross_entropy[512×1000]": (cross_entropy, soft_labels(*MIDDLE)),
    "softmax_cross_entropy_with_integer_labels[512×1000]": (
        cross_entropy_of_integers,
        integer_labels(*MIDDLE),
    ),
    "kl_divergence[512×1000]": (kl, drawn(MIDDLE, MIDDLE)),
    "dense_rows[256×512×384]": (dense, drawn((256, 512), (512, 384), (384,))),
    "layer_norm[4096×1024]": (layer_norm, drawn(LARGE, (1024,), (1024,))),
    "rms_norm[4096×1024]": (rms_norm, drawn(LARGE, (1024,))),
    "l2_normalize[512×512]": (normalized, drawn(SMALL)),
    "cosine_similarity[512×512]": (cosine, drawn(SMALL, SMALL)),
    "conv2d[128×28×1×3×32]": (convolved, images(128, 28, 1, 3, 32)),
    "conv2d[128×12×6×5×16]": (convolved, images(128, 12, 6, 5, 16)),
    "conv2d[32×32×16×5×32]": (convolved, images(32, 32, 16, 5, 32)),
    "conv2d[16×56×64×3×64]": (convolved, images(16, 56, 64, 3, 64)),
}


def ratio(name, plain, args, rounds=40, seconds=1.0):
    """The median time by hand over that of autodiff: alternate calls, at least ``rounds`` and ``seconds``."""
    fwd, bwd = (getattr(manual_grad, f"{name}_{way}") for way in ("fwd", "bwd"))
    floating = [k for k, arg in enumerate(args) if jnp.issubdtype(arg.dtype, jnp.floating)]

    def of_floating(*given, args):
        values = dict(zip(floating, given, strict=True))
        return plain(*(values.get(k, arg) for k, arg in enumerate(args)))

    @jax.jit
    def by_hand(dout, *args):
        out, res = fwd(*args)
        return out, bwd(res, dout)

    @jax.jit
    def by_autodiff(dout, *args):
        out, pull = jax.vjp(lambda *given: of_floating(*given, args=args), *(args[k] for k in floating))
        return out, pull(dout)

    dout = normal(*jax.eval_shape(plain, *args).shape)
    got, want = (jax.tree.leaves(side(dout, *args)) for side in (by_hand, by_autodiff))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-3, atol=1e-4 * float(jnp.abs(w).max()))
    times, started = ([], []), time.perf_counter()
    while len(times[0]) < rounds or time.perf_counter() - started < seconds:
        for side, own in zip((by_hand, by_autodiff), times, strict=True):
            begin = time.perf_counter()
            jax.block_until_ready(side(dout, *args))
            own.append(time.perf_counter() - begin)
    return statistics.median(times[0]) / statistics.median(times[1])


def main(path=None):
    rows = json.loads(Path(path).read_text())["rows"] if path else []
    measured = {f"{row['case']}[{row['size']}]": row["ratio"] for row in rows if row["group"] == "formula"}
    for label, (plain, draw) in CASES.items():
        beside = f"{measured[label]:8.2f}" if label in measured else ""
        print(f"{label:52} {ratio(label.split('[')[0], plain, draw()):6.2f} {beside}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
