"""Mistakes in computed places: indices of graphs and segments, the weights of two places, positions."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.checker.causes import by, named_first, right

RNG = np.random.default_rng(9)
FROM, TO = np.array([0, 0, 1, 2, 3, 4, 4, 2, 1, 3, 0]), np.array([1, 2, 2, 3, 4, 0, 1, 0, 4, 1, 3])
NODES, EDGES, W = RNG.standard_normal((5, 3)), RNG.standard_normal(11), RNG.standard_normal((3, 4))
DEGREES = np.bincount(TO, minlength=5) + 0.0
IMAGE, GRID = RNG.standard_normal((5, 7)), RNG.uniform(-0.9, 0.9, (9, 2))
TABLE, AT = RNG.standard_normal(8), RNG.uniform(-0.4, 1.4, 9)
STARTS, PICKED, PACKED = np.array([0, 3, 5, 9]), np.array([2, 0, 3]), RNG.standard_normal((9, 3))
SEGMENT = np.repeat(np.arange(3), np.diff(STARTS))
INSIDE = np.arange(9) - STARTS[SEGMENT]
CELLS = np.array([3, 1, 0, 2, 1, 4]), np.array([6, 2, 5, 0, 4, 3])


def added(values, index, n=5):
    """The sums of values with the same index."""
    found = np.zeros((n, *values.shape[1:]))
    np.add.at(found, index, values)
    return found


# --- graphs -----------------------------------------------------------------------------------------------


def attended(h, s, source, target):
    e = jnp.exp(s)
    a = e / jnp.zeros(5).at[target].add(e)[target]
    return jnp.zeros((5, 3)).at[target].add(a[:, None] * h[source])


def attended_stably(h, s, source, target):
    largest = jax.lax.stop_gradient(jax.ops.segment_max(s, target, 5))
    e = jnp.exp(s - largest[target])
    a = e / jax.ops.segment_sum(e, target, 5)[target]
    return jax.ops.segment_sum(a[:, None] * h[source], target, 5)


def attended_bwd(mistake):
    def bwd(d, h, s, source, target):
        e = np.exp(s)
        a = e / added(e, target)[target]
        summed = source if mistake in ("summed", "both") else target
        read = source if mistake in ("read", "both") else target
        edges = d[source if mistake == "cotangent" else target]
        da = (edges * h[source]).sum(1)
        own = e / added(e, source)[source] if mistake == "normalised" else a
        ds = own * (da - added(own * da, summed)[read])
        return added(edges * a[:, None], source), ds, None, None

    return bwd


def averaged(h, w):
    return jnp.tanh(jax.ops.segment_sum(h[FROM] @ w, TO, 5) / DEGREES[:, None])


def averaged_bwd(divided):
    def bwd(d, h, w):
        y = added(h[FROM] @ w, TO) / DEGREES[:, None]
        d = (d * (1 - np.tanh(y) ** 2) / (DEGREES[:, None] if divided else 1))[TO]
        return added(d @ w.T, FROM), h[FROM].T @ d

    return bwd


# --- segments ---------------------------------------------------------------------------------------------


def read_out(h, picked, starts):
    return jnp.tanh(h[starts[:-1] + picked])


def read_out_bwd(offsets):
    def bwd(d, h, picked, starts):
        d = d * (1 - np.tanh(h[starts[:-1] + picked]) ** 2)
        return added(d, picked + starts[:-1] * offsets, 9), None, None

    return bwd


def spread(h):
    return jnp.tanh(jnp.zeros((3, 4, 3)).at[SEGMENT, INSIDE].set(h))


def spread_bwd(packed):
    def bwd(d, h):
        out = np.zeros((3, 4, 3))
        out[SEGMENT, INSIDE] = h
        d = d * (1 - np.tanh(out) ** 2)
        return (d.reshape(12, 3)[:9] if packed else d[SEGMENT, INSIDE],)

    return bwd


def looked_up(image):
    row, column = (jnp.asarray(x) for x in CELLS)
    return jnp.sin(image.reshape(-1)[row * image.shape[1] + column])


def looked_up_bwd(width):
    def bwd(d, image):
        row, column = CELLS
        return (added(d * np.cos(image[row, column]), row * width + column, 35).reshape(5, 7),)

    return bwd


# --- two places ---------------------------------------------------------------------------------------------


def sampled(image, grid):
    h, w = image.shape
    px, py = (grid[:, 0] + 1) / 2 * (w - 1), (grid[:, 1] + 1) / 2 * (h - 1)
    x, y = jnp.floor(px).astype(int), jnp.floor(py).astype(int)
    tx, ty = px - x, py - y
    top = image[y, x] * (1 - tx) + image[y, x + 1] * tx
    return top * (1 - ty) + (image[y + 1, x] * (1 - tx) + image[y + 1, x + 1] * tx) * ty


def sampled_bwd(weights, scale=1):
    """``weights`` returns the two weights used for t and 1 − t, of both axes."""

    def bwd(d, image, grid):
        h, w = image.shape
        px, py = (grid[:, 0] + 1) / 2 * (w - 1), (grid[:, 1] + 1) / 2 * (h - 1)
        x, y = np.floor(px).astype(int), np.floor(py).astype(int)
        tx, ty = weights(px - x, py - y)
        a, b, c, e = image[y, x], image[y, x + 1], image[y + 1, x], image[y + 1, x + 1]
        back = np.zeros_like(image)
        np.add.at(back, (y, x), d * (1 - tx) * (1 - ty))
        np.add.at(back, (y, x + 1), d * tx * (1 - ty))
        np.add.at(back, (y + 1, x), d * (1 - tx) * ty)
        np.add.at(back, (y + 1, x + 1), d * tx * ty)
        of_x = d * ((b - a) * (1 - ty) + (e - c) * ty) * (w - scale) / 2
        return back, np.stack([of_x, d * ((c - a) * (1 - tx) + (e - b) * tx) * (h - scale) / 2], 1)

    return bwd


def interpolated(table, x):
    at = jnp.clip(x * 7, 0, 7)
    low = jnp.clip(jnp.floor(at), 0, 6).astype(int)
    t = at - low
    return table[low] * (1 - t) + table[low + 1] * t


def interpolated_bwd(clipped):
    def bwd(d, table, x):
        at = np.clip(x * 7, 0, 7)
        low = np.clip(np.floor(at), 0, 6).astype(int)
        t = at - low if clipped else x * 7 - low
        inside = (x > 0) & (x < 1)
        back = added(d * (1 - t), low, 8) + added(d * t, low + 1, 8)
        return back, 7 * d * (table[low + 1] - table[low]) * inside

    return bwd


SOFTMAX = "a wrong index: the sum Σ p · dp in the gradient of a softmax over segments is "
SAID = {
    "read": f"{SOFTMAX}read at source, where target belongs",
    "summed": f"{SOFTMAX}taken over the segments of source, but read at target",
    "both": f"{SOFTMAX}taken over the segments of source, where target belongs",
    "normalised": "a wrong index: a softmax over segments is normalised by source, where target belongs",
    "cotangent": "source is used for target in the backward pass",
}
GRAPH = NODES, EDGES, FROM, TO
CASES = {
    f"{fn.__name__}, {mistake}": (start, by(fn, attended_bwd(mistake), *GRAPH))
    for fn in (attended, attended_stably)
    for mistake, start in SAID.items()
}
CASES |= {
    "no division by the degree": (
        "the division by DEGREES is missing", by(averaged, averaged_bwd(False), NODES, W)),
    "an index in its segment": (
        "a wrong index: starts is left out, as if places were counted from 0",
        by(read_out, read_out_bwd(0), PACKED, PICKED, STARTS)),
    "segments without gaps": (
        "a wrong index: the entries of h are read one after the other, as if there were no gaps",
        by(spread, spread_bwd(True), PACKED)),
    "the height in an index": (
        "a wrong index: the size 5 is used for 7", by(looked_up, looked_up_bwd(5), IMAGE)),
    "weights swapped": (
        "swapped: the weights t and 1 − t are used for each other",
        by(sampled, sampled_bwd(lambda x, y: (1 - x, 1 - y)), IMAGE, GRID)),
    "one axis's weights swapped": (
        "swapped: the weights tx and 1 − tx are used for each other",
        by(sampled, sampled_bwd(lambda x, y: (1 - x, y)), IMAGE, GRID)),
    "another axis's weights": (
        "swapped: tx and ty are used for each other as weights",
        by(sampled, sampled_bwd(lambda x, y: (y, x)), IMAGE, GRID)),
    "half the size": (
        "n is used for n − 1 in what each slice along axis 1 is multiplied by: n = 7 (axis 1 of image) at 0",
        by(sampled, sampled_bwd(lambda x, y: (x, y), 0), IMAGE, GRID)),
    "weights that are not clipped": (
        "x · 7 is not clipped to its bounds where values are recomputed from it",
        by(interpolated, interpolated_bwd(False), TABLE, AT)),
}  # fmt: skip

test_the_true_cause_is_named_first = named_first(CASES)

RIGHT = {
    "attended": by(attended, attended_bwd(""), *GRAPH),
    "attended stably": by(attended_stably, attended_bwd(""), *GRAPH),
    "averaged": by(averaged, averaged_bwd(True), NODES, W),
    "read out": by(read_out, read_out_bwd(1), PACKED, PICKED, STARTS),
    "spread": by(spread, spread_bwd(False), PACKED),
    "looked up": by(looked_up, looked_up_bwd(7), IMAGE),
    "sampled": by(sampled, sampled_bwd(lambda x, y: (x, y)), IMAGE, GRID),
    "interpolated": by(interpolated, interpolated_bwd(True), TABLE, AT),
}


test_the_right_gradients_pass = right(RIGHT)
