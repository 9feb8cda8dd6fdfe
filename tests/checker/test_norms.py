"""Mistakes in the two sums of a normalisation's gradient, and in what they are taken of, in every layout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.checker.causes import by, named_first, right

RNG = np.random.default_rng(5)
IMAGE, ROWS = RNG.standard_normal((3, 4, 2, 3)), RNG.standard_normal((5, 6))
GAMMA, BETA = RNG.uniform(0.5, 2, 6), RNG.standard_normal(6)
MEAN, VARIANCE = 0.3 * RNG.standard_normal(6), RNG.uniform(0.6, 1.5, 6)
EPS = 1e-3
# The shape in which the statistics are taken, their axes, γ's shape, and the axes of a channel.
LAYOUTS = {
    "groups of NCHW": ((3, 2, 2, 2, 3), (2, 3, 4), (1, 4, 1, 1), (3, 4)),
    "groups of NHWC": ((3, 3, 2, 2, 2), (1, 2, 4), (1, 1, 1, 4), (1, 2)),
    "groups of rows": ((5, 2, 3), (2,), (1, 6), ()),
    "groups of columns": ((2, 3, 5), (1,), (6, 1), ()),
    "rows": ((5, 6), (1,), (1, 6), ()),
    "columns": ((6, 5), (0,), (6, 1), ()),
    "whole images": ((3, 24), (1,), (1, 4, 1, 1), ()),
    "channels of an image": ((3, 4, 6), (2,), (1, 4, 1, 1), ()),
    "channels": ((3, 4, 2, 3), (0, 2, 3), (1, 4, 1, 1), (2, 3)),
}


def data(layout):
    x = IMAGE if len(LAYOUTS[layout][2]) == 4 else ROWS
    x = {"groups of NHWC": IMAGE.transpose(0, 3, 2, 1).reshape(3, 3, 2, 4)}.get(layout, x)
    x = ROWS.T.copy() if "columns" in layout else x
    return x, GAMMA[: max(LAYOUTS[layout][2])], BETA[: max(LAYOUTS[layout][2])]


def normed(layout, centred=True):
    shape, axes, channels, _ = LAYOUTS[layout]

    def fwd(x, gamma, beta):
        h = x.reshape(shape)
        h = h - h.mean(axes, keepdims=True) if centred else h
        h = h / jnp.sqrt((h**2).mean(axes, keepdims=True) + EPS)
        return h.reshape(x.shape) * gamma.reshape(channels) + beta.reshape(channels)

    return fwd


def normed_bwd(layout, mistake, centred=True):
    shape, axes, channels, of_channel = LAYOUTS[layout]

    def bwd(dy, x, gamma, beta):
        h = x.reshape(shape)
        h = h - h.mean(axes, keepdims=True) if centred else h
        r = 1 / np.sqrt((h**2).mean(axes, keepdims=True) + EPS)
        normal = h * r
        g, b = (np.broadcast_to(v.reshape(channels), x.shape).reshape(shape) for v in (gamma, beta))
        dy = dy.reshape(shape)
        d = dy * g
        mean = functools.partial(np.mean, axis=axes, keepdims=True)
        of_channels = functools.partial(np.mean, axis=of_channel, keepdims=True)
        one, two, front = mean(d), mean(d * normal), normal
        if mistake == "γ not in the mean":
            one = mean(dy)
        if mistake == "γ not in the mean of dŷ · x̂":
            two = mean(dy * normal)
        if mistake == "a channel's mean":
            one = of_channels(d)
        if mistake == "a channel's mean of dŷ · x̂":
            two = of_channels(d * normal)
        if mistake == "β not subtracted":
            front = (normal * g + b) / g
            two = mean(d * front)
        by_gamma = dy * (normal * g + b) / g if mistake == "β not subtracted for γ" else dy * normal
        rest = tuple(a for a, n in enumerate(channels) if n == 1)
        by_gamma, by_beta = (d.reshape(x.shape).sum(rest) for d in (by_gamma, dy))
        return (r * (d - one * centred - front * two)).reshape(x.shape), by_gamma, by_beta

    return bwd


def normed_by_squares(x, gamma, beta):
    m = x.mean(-1, keepdims=True)
    return (x - m) / jnp.sqrt((x * x).mean(-1, keepdims=True) - m * m + EPS) * gamma + beta


def partly_normed(x, gamma):
    return x / jnp.sqrt((x[:, :2] ** 2).mean(-1, keepdims=True) + EPS) * gamma


def partly_normed_bwd(mistake):
    def bwd(dy, x, gamma):
        r = 1 / np.sqrt((x[:, :2] ** 2).mean(-1, keepdims=True) + EPS)
        d, part = dy * gamma, np.arange(6) < 2
        total = ((d * x * r) * (part if mistake == "part's sum" else 1)).sum(-1, keepdims=True)
        back = x * r * total / (6 if mistake in ("all's count", "all with all's count") else 2)
        if mistake not in ("all", "all with all's count"):
            back = np.where(part, back, 0)
        return r * (d - back), (dy * x * r).sum(0)

    return bwd


def partly_centred(x, gamma):
    h = x[:, :2]
    return (x - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + EPS) * gamma


def partly_centred_bwd(everywhere):
    def bwd(dy, x, gamma):
        h = x[:, :2]
        r = 1 / np.sqrt(h.var(-1, keepdims=True) + EPS)
        normal, d = (x - h.mean(-1, keepdims=True)) * r, dy * gamma
        back = d.sum(-1, keepdims=True) / 2 + normal * (d * normal).sum(-1, keepdims=True) / 2
        return r * (d - np.where((np.arange(6) < 2) | everywhere, back, 0)), (dy * normal).sum(0)

    return bwd


def renormed(x, gamma, beta, mean, variance):
    m, s = x.mean(0), jnp.sqrt(x.var(0) + EPS)
    running = jnp.sqrt(variance + EPS)
    r = jax.lax.stop_gradient(jnp.clip(s / running, 0.5, 2.0))
    d = jax.lax.stop_gradient(jnp.clip((m - mean) / running, -1, 1))
    corrected = (x - m) / s * r + d
    return corrected * gamma + beta


def renormed_bwd(mistake):
    def bwd(dy, x, gamma, beta, mean, variance):
        m, s, running = x.mean(0), np.sqrt(x.var(0) + EPS), np.sqrt(variance + EPS)
        r, by = np.clip(s / running, 0.5, 2), np.clip((m - mean) / running, -1, 1)
        normal = (x - m) / s
        d = dy * gamma if mistake == "r is missing" else dy * gamma * r
        one = {"corrected": normal * r + by, "running": (x - mean) / running}.get(mistake, normal)
        one = (x - mean) / running if mistake == "running statistics" else one
        s = running if mistake == "running statistics" else s
        none = None if mistake else np.zeros(6)
        return (d - d.mean(0) - one * (d * one).mean(0)) / s, None, None, none, none

    return bwd


def whitened(x):
    return (x - x.mean(0)) / jnp.sqrt(x.var(0) + EPS)


def whitened_bwd(mean):
    def bwd(d, x):
        r = 1 / np.sqrt(x.var(0) + EPS)
        normal = (x - x.mean(0)) * r
        return (r * (d - mean(d) - normal * mean(d * normal)),)

    return bwd


def of_shards(d):
    return np.concatenate([0 * d[:2] + d[:2].mean(0), 0 * d[2:] + d[2:].mean(0)])


INSIDE = "the factor gamma is missing inside one mean of a normalisation's gradient: it is that of dy"
CHANNEL = "one of the two means of a normalisation's gradient, that of dŷ"
OUTPUT = "x̂ is recomputed as y / gamma, without subtracting what is added to it (β), in "
PART = "the statistics are those of 2 of 6 entries along axis 1 of x, but "
CASES = {}
for name, (*_, groups) in LAYOUTS.items():
    said = {
        "γ not in the mean": f"{INSIDE}, where",
        "γ not in the mean of dŷ · x̂": f"{INSIDE} · x̂, where",
        "β not subtracted": f"{OUTPUT}both places",
        "β not subtracted for γ": f"{OUTPUT}the gradient of gamma",
    }
    if groups:
        axes = ", ".join(map(str, groups))
        said["a channel's mean"] = f"{CHANNEL}, is taken over axes {axes}, where"
        said["a channel's mean of dŷ · x̂"] = f"{CHANNEL} · x̂, is taken over axes {axes}, where"
    for mistake, start in said.items():
        CASES[f"{name}: {mistake}"] = (start, by(normed(name), normed_bwd(name, mistake), *data(name)))
CASES |= {
    f"RMS of {name}: β not subtracted": (
        f"{OUTPUT}both places",
        by(normed(name, False), normed_bwd(name, "β not subtracted", False), *data(name)),
    )
    for name in ("groups of NCHW", "rows")
}
CASES |= {
    f"a part: {mistake}": (PART + start, by(partly_normed, partly_normed_bwd(mistake), ROWS, GAMMA))
    for mistake, start in {
        "all": "their gradient is given to all 6, in the",
        "all with all's count": "their gradient is given to all 6, and it is divided by 6, where 2 belongs",
        "all's count": "it is divided by 6, where 2 belongs",
        "part's sum": "only the terms of the 2 are summed for it",
    }.items()
}
CASES |= {
    "a part's mean, given to all": (
        PART + "their gradient is given to all 6, in the",
        by(partly_centred, partly_centred_bwd(True), ROWS, GAMMA)),
    "batch renorm: the corrected value": (
        "corrected, scaled and shifted, is used for x̂ in both places",
        by(renormed, renormed_bwd("corrected"), ROWS, GAMMA, BETA, MEAN, VARIANCE, argnums=0)),
    "batch renorm: the running statistics in x̂": (
        "x̂ is computed from mean and variance, (x − mean) / √(variance + ε), in both places",
        by(renormed, renormed_bwd("running"), ROWS, GAMMA, BETA, MEAN, VARIANCE, argnums=0)),
    "batch renorm: the running statistics in x̂ and σ": (
        "x̂ and σ are computed from mean and variance, (x − mean) / √(variance + ε), in a normalisation's",
        by(renormed, renormed_bwd("running statistics"), ROWS, GAMMA, BETA, MEAN, VARIANCE, argnums=0)),
    "batch renorm: r is missing": (
        "the factor `jnp.clip(s / running, 0.5, 2.0)` is missing",
        by(renormed, renormed_bwd("r is missing"), ROWS, GAMMA, BETA, MEAN, VARIANCE, argnums=0)),
    "the mean of squares less the square of the mean": (
        f"{OUTPUT}both places", by(normed_by_squares, normed_bwd("rows", "β not subtracted"), *data("rows"))),
    "its γ": (
        f"{INSIDE} · x̂",
        by(normed_by_squares, normed_bwd("rows", "γ not in the mean of dŷ · x̂"), *data("rows"))),
    "means of shards": (
        "a mean in a normalisation's gradient, over axis 0, is that of the means of two blocks (0 to 1",
        by(whitened, whitened_bwd(lambda d: (d[:2].mean(0) + d[2:].mean(0)) / 2), ROWS)),
    "a shard's own means": (
        "a mean in a normalisation's gradient, over axis 0, is taken over one block alone: each of two",
        by(whitened, whitened_bwd(of_shards), ROWS)),
}  # fmt: skip


test_the_true_cause_is_named_first = named_first(CASES)

RIGHT = {name: by(normed(name), normed_bwd(name, ""), *data(name)) for name in LAYOUTS} | {
    "RMS": by(normed("rows", False), normed_bwd("rows", "", False), *data("rows")),
    "squares": by(normed_by_squares, normed_bwd("rows", ""), *data("rows")),
    "a part": by(partly_normed, partly_normed_bwd(""), ROWS, GAMMA),
    "a part's mean": by(partly_centred, partly_centred_bwd(False), ROWS, GAMMA),
    "batch renorm": by(renormed, renormed_bwd(""), ROWS, GAMMA, BETA, MEAN, VARIANCE, argnums=(0, 3, 4)),
    "one shard": by(whitened, whitened_bwd(lambda d: d.mean(0)), ROWS),
}


test_the_right_gradients_pass = right(RIGHT)
