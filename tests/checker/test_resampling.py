"""Mistakes in pooled, padded, repeated and interpolated values, however these are written."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.checker.causes import by, named_first, right

RNG = np.random.default_rng(9)
IMAGES, ROWS = RNG.standard_normal((2, 5, 7)), RNG.standard_normal((3, 11))
KERNEL, TALL = RNG.standard_normal((3, 3)), RNG.standard_normal((2, 3, 6, 8))


# --- max-pooling ------------------------------------------------------------------------------------------


def by_window(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 3), (1, 2, 3), "VALID")


def by_slices(x):
    return jnp.max(jnp.stack([x[:, a:4:2, b:6:3] for a in range(2) for b in range(3)], -1), -1)


def by_pairs(x):
    rows = jnp.maximum(x[:, :4:2], x[:, 1:4:2])
    return jnp.maximum(jnp.maximum(rows[..., :6:3], rows[..., 1:6:3]), rows[..., 2:6:3])


def by_reshape(x):
    return x[:, :4, :6].reshape(2, 2, 2, 2, 3).max((2, 4))


def by_padded_window(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2), (1, 2, 2), ((0, 0), (1, 1), (1, 1)))


def maxima_bwd(place, size=(2, 3), stride=(2, 3), pad=0):
    """Max-pooling of images of 5×7; ``place`` is given the corner of a window and the place in it."""

    def bwd(d, x):
        p = np.pad(x, ((0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
        back = np.zeros_like(p)
        for n, i, j in np.ndindex(d.shape):
            a, b = i * stride[0], j * stride[1]
            window = p[n, a : a + size[0], b : b + size[1]]
            row, column = np.unravel_index(window.argmax(), window.shape)
            row, column = place(a, b, int(row), int(column), i, j)
            if row < back.shape[1] and column < back.shape[2]:
                back[n, row, column] += d[n, i, j]
        return (back[:, pad : pad + 5, pad : pad + 7],)

    return bwd


PLACES = {
    "": lambda a, b, r, c, i, j: (a + r, b + c),
    "the maximum's place in its window is wrong: it is divided by the window's height 2": (
        lambda a, b, r, c, i, j: (a + (3 * r + c) // 2, b + (3 * r + c) % 2)),
    "the maximum's place in its window is wrong: row and column are swapped": (
        lambda a, b, r, c, i, j: (a + c, b + r)),
    "the maximum's place in the image is divided by the image's height 5": (
        lambda a, b, r, c, i, j: divmod(7 * (a + r) + b + c, 5)),
    "the maximum's place in the image is computed as row · the image's height + column (5)": (
        lambda a, b, r, c, i, j: divmod(5 * (a + r) + b + c, 7)),
    "the maximum's place in its window is wrong: where the window begins is left out": (
        lambda a, b, r, c, i, j: (r, c)),
    "the stride is ignored where a window begins": lambda a, b, r, c, i, j: (i + r, j + c),
}  # fmt: skip
IN_PADDING = {
    "the maximum's place in the image is divided by the width without padding 7": (
        lambda a, b, r, c, i, j: divmod(9 * (a + r) + b + c, 7)),
    "the maximum's place in its window is wrong: it is divided by the window's height 3": (
        lambda a, b, r, c, i, j: (a + (2 * r + c) // 3, b + (2 * r + c) % 3)),
    "the padding's offset is not subtracted": lambda a, b, r, c, i, j: (a + r + 1, b + c + 1),
}  # fmt: skip


# --- windows ------------------------------------------------------------------------------------------------


def adaptive(n, m, mistake=""):
    """Where adaptive windows begin and end, and what each is divided by."""
    for j in range(m):
        start, end = j * n // m, -(-(j + 1) * n // m)
        size = end - start
        end = (j + 1) * n // m if mistake == "floor" else end
        start = -(-j * n // m) if mistake == "ceil" else start
        if mistake == "fixed":
            start, end = j * (n // m), j * (n // m) + n // m
        size = {"one count": n // m, "mean count": n / m}.get(mistake, end - start)
        yield start, end, size


def adaptive_mean(x):
    return jnp.stack([x[:, a:b].mean(-1) for a, b, _ in adaptive(11, 4)], -1)


def adaptive_matrix(x):
    matrix = np.zeros((11, 4))
    for j, (a, b, size) in enumerate(adaptive(11, 4)):
        matrix[a:b, j] = 1 / size
    return x @ matrix


def adaptive_mean_bwd(mistake):
    def bwd(d, x):
        back = np.zeros_like(x)
        for j, (a, b, size) in enumerate(adaptive(11, 4, mistake)):
            back[:, a:b] += d[:, j : j + 1] / size
        return (back,)

    return bwd


def adaptive_maximum(x):
    return jnp.stack([x[:, a:b].max(-1) for a, b, _ in adaptive(11, 4)], -1)


def adaptive_maximum_bwd(mistake):
    def bwd(d, x):
        back = np.zeros_like(x)
        for j, (a, b, _) in enumerate(adaptive(11, 4, mistake)):
            back[np.arange(3), a + x[:, a:b].argmax(1)] += d[:, j]
        return (back,)

    return bwd


def counted(what):
    """The number of entries of 3×3 windows of images of 5×6, with a stride of 2 and rounded up."""
    ones = np.pad(np.ones((5, 6)), ((1, 2), (1, 2)), constant_values=float(what != "inside"))
    if what == "padded":
        ones[7:], ones[:, 8:] = 0, 0
    starts = (
        2 * np.arange(3)[:, None, None, None] + np.arange(3)[:, None],
        2 * np.arange(4)[:, None, None] + np.arange(3),
    )
    return ones[starts].sum((2, 3))


def average(what):
    def fwd(x):
        pads = ((0, 0), (1, 2), (1, 2))
        return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3), (1, 2, 2), pads) / counted(what)

    return fwd


def average_by_slices(x):
    rows = [
        [x[:, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2].mean((1, 2)) for j in range(4)]
        for i in range(3)
    ]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def average_bwd(what):
    def bwd(d, x):
        back = np.zeros((2, 8, 9))
        for _, i, j in np.ndindex(d.shape):
            back[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += (d / counted(what))[:, i, j, None, None] / len(d)
        return (back[:, 1:6, 1:7],)

    return bwd


def halves(x):
    return x[:, :4, :6].reshape(2, 2, 2, 3, 2).mean((2, 4))


def halves_bwd(mistake):
    def bwd(d, x):
        back = np.zeros_like(x)
        spread = np.tile(d, (1, 2, 2)) if mistake == "tiled" else d.repeat(2, 1).repeat(2, 2)
        back[:, :4, :6] = spread / 4
        if mistake == "first":
            back[:] = 0
            back[:, :4:2, :6:2] = d
        return (back,)

    return bwd


# --- borders ------------------------------------------------------------------------------------------------


def filtered(x):
    return jnp.tanh(sum(KERNEL[a, b] * x[:, a : a + 5, b : b + 7] for a in range(3) for b in range(3)))


def bordered(mode):
    return lambda x: filtered(jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode=mode))


def by_index(x):
    rows, columns = (np.clip(np.arange(-1, n + 1), 0, n - 1) for n in (5, 7))
    return filtered(x[:, rows][:, :, columns])


def bordered_bwd(mode, *places):
    """The gradients of the low and the high border go to these places; None: nowhere."""

    def bwd(d, x):
        p, back = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode=mode), np.zeros((2, 7, 9))
        d = d * (1 - np.asarray(filtered(p)) ** 2)
        for a, b in np.ndindex(3, 3):
            back[:, a : a + 5, b : b + 7] += KERNEL[a, b] * d
        for axis in (1, 2):
            whole = np.moveaxis(back, axis, 0)
            inner = whole[1:-1].copy()
            for place, border in zip(places, (whole[0], whole[-1]), strict=True):
                if place is not None:
                    inner[place] += border
            back = np.moveaxis(inner, 0, axis)
        return (back,)

    return bwd


def doubly_bordered(x):
    return jnp.sin(jnp.pad(x, ((0, 0), (2, 2)), mode="reflect") * jnp.arange(1.0, 16))


def doubly_bordered_bwd(places):
    def bwd(d, x):
        d = d * np.cos(np.pad(x, ((0, 0), (2, 2)), mode="reflect") * np.arange(1.0, 16)) * np.arange(1.0, 16)
        back = d[:, 2:-2].copy()
        for j, place in zip((1, 2), places, strict=True):
            back[:, place] += d[:, 2 - j]
            back[:, -1 - place] += d[:, -3 + j]
        return (back,)

    return bwd


# --- interpolation ------------------------------------------------------------------------------------------


def positions(n, m, kind="half"):
    j = np.arange(m)
    return {"half": (j + 0.5) * n / m - 0.5, "aligned": j * (n - 1) / (m - 1), "plain": j * n / m}[kind]


def stretched(x, m=17, axis=-1):
    x = jnp.moveaxis(x, axis, -1)
    n = x.shape[-1]
    at = jnp.clip((jnp.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    low = jnp.floor(at).astype(int)
    t = at - low
    return jnp.moveaxis(x[..., low] * (1 - t) + x[..., jnp.minimum(low + 1, n - 1)] * t, -1, axis)


def stretched_by_matrix(x):
    n = x.shape[-1]
    at = np.clip(positions(n, 17), 0, n - 1)
    return x @ np.maximum(0, 1 - np.abs(at - np.arange(n)[:, None]))


def stretched_image(x):
    return stretched(stretched(x, 8, 1), 17, 2)


def stretched_bwd(mistake, m=17, axis=-1):
    def bwd(d, x):
        d, back = np.moveaxis(d, axis, -1), np.zeros_like(np.moveaxis(x, axis, -1))
        n = back.shape[-1]
        at = positions(n, m, mistake if mistake in ("aligned", "plain") else "half")
        at = at if mistake in ("extrapolated", "lost") else np.clip(at, 0, n - 1)
        low = np.floor(at).astype(int)
        low = np.clip(low, 0, n - 2) if mistake == "extrapolated" else low
        t = at - low
        t = {"swapped": 1 - t, "nearest": np.round(t), "lower": 0 * t}.get(mistake, t)
        for j in range(m):
            for i, weight in ((low[j], 1 - t[j]), (low[j] + 1, t[j])):
                i = i if mistake == "lost" else min(i, n - 1)
                if 0 <= i < n:
                    back[..., i] += weight * d[..., j]
        return (np.moveaxis(back, -1, axis),)

    return bwd


def stretched_image_bwd(mistake):
    def bwd(d, x):
        (back,) = stretched_bwd(mistake, 17, 2)(d, np.zeros((2, 8, 7)))
        return stretched_bwd(mistake, 8, 1)(back, x)

    return bwd


def repeated(x):
    return jnp.repeat(jnp.repeat(x, 2, 1), 3, 2)


def repeated_bwd(mistake):
    def bwd(d, x):
        if mistake == "tiled":
            return (d.reshape(2, 2, 5, 3, 7).sum((1, 3)),)
        return (d[:, ::2, ::3] if mistake else d.reshape(2, 5, 2, 7, 3).sum((2, 4)),)

    return bwd


def nearest(x):
    return x[:, np.arange(17) * 11 // 17]


def nearest_bwd(index):
    def bwd(d, x):
        back = np.zeros_like(x)
        np.add.at(back, (slice(None), index), d)
        return (back,)

    return bwd


SMALL = RNG.standard_normal((2, 5, 6))
FLOOR, CEIL = "a window's end is ⌊(j + 1) n/m⌋", "a window's start is ⌈j n/m⌉"
COUNT = "a wrong count: each window is divided by "
WHOLE, INSIDE = "its whole size", "the number of entries that are inside"
OWN = {"whole": WHOLE, "inside": INSIDE, "padded": f"{INSIDE} or padding"}
BORDER = "the border is padded {} in the function, but "
REFLECTED = BORDER.format("by reflection (without the edge entry twice)")
EDGE = BORDER.format("with the edge entry")
AT = "an interpolation's "
STRETCHED = {
    "swapped": "the two weights of an interpolation, 1 − t and t, are swapped",
    "aligned": f"{AT}positions are those of aligned corners, j (n − 1)/(m − 1), where half-pixel centres",
    "plain": f"{AT}positions are those of j n/m, without the half pixel, where half-pixel centres",
    "lost": "the positions of an interpolation are not clamped at the borders: what lies outside is left out",
    "extrapolated": "the positions of an interpolation are not clamped at the borders: the weights there are",
    "nearest": f"{AT}gradient goes to the nearest neighbour alone",
    "lower": f"{AT}gradient goes to the lower neighbour alone",
}
CASES = {
    f"{fwd.__name__}: {start}": (f"max-pooling: {start}", by(fwd, maxima_bwd(place), IMAGES))
    for fwd in (by_window, by_slices, by_pairs, by_reshape)
    for start, place in PLACES.items()
    if start
}
CASES |= {
    f"padded: {start}": (
        f"max-pooling: {start}",
        by(by_padded_window, maxima_bwd(place, (3, 2), (2, 2), 1), IMAGES),
    )
    for start, place in IN_PADDING.items()
}
CASES |= {
    f"{fwd.__name__}: {mistake}": (start, by(fwd, adaptive_mean_bwd(mistake), ROWS))
    for fwd in (adaptive_mean, adaptive_matrix)
    for mistake, start in {
        "floor": FLOOR,
        "ceil": CEIL,
        "fixed": "windows of ⌊n/m⌋ = 2 with that stride are used for adaptive ones",
        "one count": f"{COUNT}⌊n/m⌋, where {INSIDE} belongs",
        "mean count": f"{COUNT}the mean of the windows' sizes, n/m, where {INSIDE} belongs",
    }.items()
}
CASES |= {
    f"adaptive maximum: {mistake}": (
        f"max-pooling: {start}",
        by(adaptive_maximum, adaptive_maximum_bwd(mistake), ROWS),
    )
    for mistake, start in {"floor": FLOOR, "ceil": CEIL}.items()
}
CASES |= {
    f"an average of {own} by {other}": (
        f"{COUNT}{OWN[other]}, where {OWN[own]} belongs", by(average(own), average_bwd(other), SMALL))
    for own in OWN for other in OWN if own != other
}  # fmt: skip
CASES |= {
    "slices by their whole size": (
        f"{COUNT}{WHOLE}, where {INSIDE} belongs", by(average_by_slices, average_bwd("whole"), SMALL)),
    "the low border lost": (
        f"{REFLECTED}the gradient of the padding of the low border is left out",
        by(bordered("reflect"), bordered_bwd("reflect", None, -2), IMAGES)),
    "the borders swapped": (
        f"{REFLECTED}its gradient is added at the opposite border",
        by(bordered("reflect"), bordered_bwd("reflect", -2, 1), IMAGES)),
    "both borders lost": (
        f"{EDGE}the gradient of the padding is left out",
        by(by_index, bordered_bwd("edge", None, None), IMAGES)),
    "the edge taken for reflection": (
        f"{EDGE}its gradient is added as for padding by reflection",
        by(by_index, bordered_bwd("edge", 1, -2), IMAGES)),
    "a periodic border lost": (
        BORDER.format("periodically (with the opposite border)") + "the gradient of the padding is left out",
        by(bordered("wrap"), bordered_bwd("wrap", None, None), IMAGES)),
    "reflected in reverse order": (
        f"{REFLECTED}its gradient is added in reverse order",
        by(doubly_bordered, doubly_bordered_bwd((2, 1)), ROWS)),
    "the first entry of a window": (
        "a window's gradient goes to its first entry alone",
        by(halves, halves_bwd("first"), IMAGES[:, :4, :6])),
    "windows for tiles": (
        "entry i gets the gradient of window i mod m, where that of the window that holds it belongs",
        by(halves, halves_bwd("tiled"), IMAGES[:, :4, :6])),
    "repeated for tiled": (
        "entry j mod n gets the gradient of entry j, where ⌊j n/m⌋ belongs, along axes 1, 2",
        by(repeated, repeated_bwd("tiled"), IMAGES)),
    "one of the repeated": (
        "of an entry that is repeated, only the first copy's gradient counts",
        by(repeated, repeated_bwd("first"), IMAGES)),
    "nearest, rounded": (
        "entry ⌊(j + ½) n/m⌋ gets the gradient of entry j, where ⌊j n/m⌋ belongs",
        by(nearest, nearest_bwd((2 * np.arange(17) + 1) * 11 // 34), ROWS)),
}  # fmt: skip
CASES |= {
    f"{fwd.__name__}, {mistake}": (start, by(fwd, bwd(mistake), x))
    for fwd, bwd, x in (
        (stretched, stretched_bwd, ROWS),
        (stretched_by_matrix, stretched_bwd, ROWS),
        (stretched_image, stretched_image_bwd, IMAGES),
    )
    for mistake, start in STRETCHED.items()
}


def overlapping(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2), (1, 2, 1), "VALID")


def overlapping_assigned(order):
    def bwd(d, x):
        dx = np.zeros_like(x)
        for n, i, j in list(np.ndindex(d.shape))[::order]:
            window = x[n, 2 * i : 2 * i + 3, j : j + 2]
            row, column = np.unravel_index(window.argmax(), window.shape)
            dx[n, 2 * i + row, j + column] = d[n, i, j]
        return (dx,)

    return bwd


CASES |= {
    f"the {which} window counts": (
        f"max-pooling: overlapping windows are overwritten instead of added up (= for +=); the {which}",
        by(overlapping, overlapping_assigned(order), IMAGES),
    )
    for which, order in (("last", 1), ("first", -1))
}
test_the_true_cause_is_named_first = named_first(CASES)

RIGHT = {
    fwd.__name__: by(fwd, maxima_bwd(PLACES[""]), IMAGES)
    for fwd in (by_window, by_slices, by_pairs, by_reshape)
}
RIGHT |= {f"average of {own}": by(average(own), average_bwd(own), SMALL) for own in OWN}
RIGHT |= {
    "padded": by(by_padded_window, maxima_bwd(PLACES[""], (3, 2), (2, 2), 1), IMAGES),
    "adaptive": by(adaptive_mean, adaptive_mean_bwd(""), ROWS),
    "adaptive matrix": by(adaptive_matrix, adaptive_mean_bwd(""), ROWS),
    "adaptive maximum": by(adaptive_maximum, adaptive_maximum_bwd(""), ROWS),
    "halves": by(halves, halves_bwd(""), IMAGES),
    "wide borders": by(doubly_bordered, doubly_bordered_bwd((1, 2)), ROWS),
    "slices": by(average_by_slices, average_bwd("inside"), SMALL),
    "reflected": by(bordered("reflect"), bordered_bwd("reflect", 1, -2), IMAGES),
    "edge": by(by_index, bordered_bwd("edge", 0, -1), IMAGES),
    "periodic": by(bordered("wrap"), bordered_bwd("wrap", -1, 0), IMAGES),
    "stretched": by(stretched, stretched_bwd(""), ROWS),
    "stretched by a matrix": by(stretched_by_matrix, stretched_bwd(""), ROWS),
    "stretched image": by(stretched_image, stretched_image_bwd(""), IMAGES),
    "repeated": by(repeated, repeated_bwd(""), IMAGES),
    "nearest": by(nearest, nearest_bwd(np.arange(17) * 11 // 17), ROWS),
}


test_the_right_gradients_pass = right(RIGHT)
