"""Mistakes in gradients written as formulas of a whole layer: norms, attention, gates, convolutions."""

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.verify import check_grad
from tests.checker.causes import by, named_first

RNG = np.random.default_rng(41)
X, IMAGE = RNG.standard_normal((6, 5)) + 0.4, RNG.standard_normal((3, 4, 2, 5))
SCALE, SHIFT = RNG.uniform(0.5, 1.5, 5), RNG.standard_normal(5)

# --- normalisations ---------------------------------------------------------------------------------------


def layer(x, scale, shift):
    spread = jnp.mean(jnp.square(x - x.mean(1, keepdims=True)), axis=1, keepdims=True)
    return jnp.tanh((x - x.mean(1, keepdims=True)) * jax.lax.rsqrt(spread + 1e-3) * scale + shift)


def layer_bwd(rule, eps=lambda v: (v + 1e-3) ** -0.5):
    """``rule(dy, scale, unit, inv, mean, x)`` is the gradient of x; ``eps`` the reciprocal deviation."""

    def bwd(d, x, scale, shift):
        away = x - x.mean(1, keepdims=True)
        right = (np.mean(away**2, axis=1, keepdims=True) + 1e-3) ** -0.5
        out = np.tanh(away * right * scale + shift)
        d = d * (1 - out * out)
        inv = eps(np.mean(away**2, axis=1, keepdims=True))
        dx = rule(d, scale, away * inv, inv, lambda a: a.mean(1, keepdims=True), x)
        return dx, (d * away * right).sum(0), d.sum(0)

    return bwd


def of_layer(rule, **settings):
    return by(layer, layer_bwd(rule, **settings), X, SCALE, SHIFT)


def textbook(d, scale, unit, inv, mean, x):
    return inv * (d * scale - mean(d * scale) - unit * mean(d * scale * unit))


def scaled(x, inverse):
    inv = inverse(x.var(1, keepdims=True))
    return (x - x.mean(1, keepdims=True)) * inv, inv


def pixels(x, scale):
    """Every image and channel normalised over its pixels."""
    centre = x.mean((1, 2), keepdims=True)
    return jnp.sin((x - centre) / jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-3) * scale)


def pixels_bwd(share, first=1.0):
    def bwd(d, x, scale):
        away = x - x.mean((1, 2), keepdims=True)
        root = np.sqrt((away**2).mean((1, 2), keepdims=True) + 1e-3)
        d = d * np.cos(away / root * scale)
        g, unit = d * scale, away / root
        sums = first * g.sum((1, 2), keepdims=True) / 8, (g * unit).sum((1, 2), keepdims=True)
        return (g - sums[0] * (share if first == 1 else 1) - unit * sums[1] * share / 8) / root, None

    return lambda d, x, scale: bwd(d, x, scale)[:1]


def outside(x, scale):
    """ε beside the deviation, not below the root."""
    away = x - jnp.mean(x, axis=1, keepdims=True)
    return away / (jnp.sqrt((away**2).sum(1, keepdims=True) / 5) + 0.1) * scale


def outside_bwd(d, x, scale):
    away = x - x.mean(1, keepdims=True)
    below = np.sqrt((away**2).mean(1, keepdims=True)) + 0.1
    g = d * scale / below
    g = g - away * (d * scale * away).sum(1, keepdims=True) / below**3 / 5
    return (g - g.mean(1, keepdims=True),)


def root_mean_square(x, scale):
    return jnp.sin(x / jnp.sqrt(jnp.mean(x * x, axis=1, keepdims=True) + 1e-3) * scale)


def root_mean_square_bwd(d, x, scale):
    inv = 1 / np.sqrt((x * x).mean(1, keepdims=True) + 1e-3)
    d = d * np.cos(x * inv * scale)
    return (inv * (d * scale - x * inv * (d * x * inv).mean(1, keepdims=True)),)


def both(x, a, b):
    return root_mean_square(root_mean_square(x, a), b)


def both_bwd(d, x, a, b):
    inner = np.asarray(root_mean_square(x, a))
    return root_mean_square_bwd(root_mean_square_bwd(d, inner, b)[0], x, a)


MEANS = "the means of a normalisation's gradient"
NORMS = {
    "no scale inside the means": (
        f"the factor scale is missing inside {MEANS}",
        of_layer(lambda d, g, u, inv, mean, x: inv * (d * g - mean(d) - u * mean(d * u))),
    ),
    "no scale inside one of them": (
        "the factor scale is missing inside one mean of a normalisation's gradient: it is that of dy · x̂",
        of_layer(lambda d, g, u, inv, mean, x: inv * (d * g - mean(d * g) - u * mean(d * u))),
    ),
    "no scale inside the only one": (
        "the factor scale is missing inside the mean of a normalisation's gradient",
        by(root_mean_square, root_mean_square_bwd, X, SCALE, argnums=0),
    ),
    "in both layers": (
        "the factor a is missing inside the mean of a normalisation's gradient",
        by(both, both_bwd, X, SCALE, SHIFT, argnums=0),
    ),
    "n − 1": (
        f"{MEANS} are divided by n − 1 = 4, where n = 5 (axis 1) belongs",
        of_layer(lambda d, g, u, inv, mean, x: inv * (d * g - (mean(d * g) + u * mean(d * g * u)) * 1.25)),
    ),
    "one axis of two": (
        f"{MEANS} are divided by 4 (axis 1), where n = 8 (axes 1, 2) belongs",
        by(pixels, pixels_bwd(2), IMAGE, SCALE, argnums=0),
    ),
    "one mean a sum": (
        "sums are used where means belong in a normalisation's gradient: that of dŷ",
        by(pixels, pixels_bwd(1, first=8), IMAGE, SCALE, argnums=0),
    ),
    "σ + ε for σ": (
        "the derivative of the standard deviation σ is divided by σ + ε, where σ alone belongs",
        by(outside, outside_bwd, X, SCALE, argnums=0),
    ),
    "ε beside the root": (
        "ε is added outside the root, √v + ε for √(v + ε), in a normalisation's gradient",
        of_layer(textbook, eps=lambda v: 1 / (np.sqrt(v) + 1e-3)),
    ),
    "n − 1 below the root": (
        "n − 1 = 4 for n = 5 in the variance, in a normalisation's gradient",
        of_layer(textbook, eps=lambda v: (1.25 * v + 1e-3) ** -0.5),
    ),
    "x for x̂": (
        "x is used for x̂ in front of the mean",
        of_layer(lambda d, g, u, inv, mean, x: inv * (d * g - mean(d * g) - x * mean(d * g * u))),
    ),
    "the means swapped": (
        "swapped: the two means of a normalisation's gradient",
        of_layer(lambda d, g, u, inv, mean, x: inv * (d * g - mean(d * g * u) - u * mean(d * g))),
    ),
    "σ² for σ": (
        "the variance is taken for the standard deviation σ: 1/σ² without ε for 1/σ",
        by(
            lambda x: (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 0.1),
            lambda d, x: (
                textbook(
                    d, 1.0, *scaled(x, lambda v: (v + 0.1) ** -0.5), lambda a: a.mean(1, keepdims=True), x
                )
                * np.sqrt(x.var(1, keepdims=True) + 0.1)
                / x.var(1, keepdims=True),
            ),
            X,
        ),
    ),
    "x − μ for x̂": (
        "x − μ is used for x̂, in the term x̂ · mean(dŷ · x̂) of a normalisation's gradient",
        of_layer(lambda d, g, u, inv, mean, x: inv * (d * g - mean(d * g) - u * mean(d * g * u) / inv)),
    ),
}
# --- attention --------------------------------------------------------------------------------------------

QUERY, KEY, VALUE = (RNG.standard_normal((2, 7, 3)) for _ in range(3))
NEAR = np.abs(np.arange(7)[:, None] - np.arange(7)) < 3


def local(query, key, value):
    scores = jnp.where(NEAR, query @ key.swapaxes(1, 2), -jnp.inf)
    return jnp.tanh(jax.nn.softmax(scores) @ value)


def local_bwd(mask):
    """From the saved output and the logarithm of softmax's sum, with a mask of its own."""

    def bwd(d, query, key, value):
        scores = query @ key.swapaxes(1, 2)
        total = np.log(np.sum(np.exp(scores) * NEAR, axis=2, keepdims=True))
        out = np.exp(scores - total) * NEAR @ value
        d = d * (1 - np.tanh(out) ** 2)
        p = np.exp(scores - total) * mask
        ds = p * (d @ value.swapaxes(1, 2) - (d * out).sum(2, keepdims=True))
        return ds @ key, ds.swapaxes(1, 2) @ query, p.swapaxes(1, 2) @ d

    return bwd


WIDER = np.arange(7)[:, None] - np.arange(7)
ATTENTION = {
    "a window too wide": (
        "the mask of query @ key is one wider at one edge of the band",
        by(local, local_bwd((WIDER < 4) & (WIDER > -3)), QUERY, KEY, VALUE),
    ),
}
# --- one thing for another --------------------------------------------------------------------------------

W, H0, GATES = RNG.standard_normal((8, 4)), RNG.standard_normal((3, 4)), RNG.uniform(0.2, 0.9, (3, 4))
KEPT = np.array([1.0, 1, 0, 1, 0, 1])
POINTS = RNG.standard_normal((6, 2))
SLOPES = np.array([0.3, -0.2, 0.5, -0.4, 0.1])


def offset(x, gain):
    return jnp.sin(x) * (1 + gain)


def gated(W, h, r):
    """A gate after the matrix product, on the second half of its entries."""
    first, second = jnp.split(h @ W.T, 2, axis=1)
    return jnp.tanh(first + r * second)


def gated_bwd(d, W, h, r):
    first, second = np.split(h @ W.T, 2, axis=1)
    d = d * (1 - np.tanh(first + r * second) ** 2)
    dW = np.concatenate([d.T @ h, d.T @ (r * h)])  # r belongs to d
    return dW, np.concatenate([d, d * r], 1) @ W, d * second


def recurrent(U, h):
    """A gate before the matrix product."""
    for _ in range(6):
        r = jax.nn.sigmoid(h)
        h = jnp.tanh((r * h) @ U.T) + h
    return h


def recurrent_bwd(d, U, h):
    states = [h]
    for _ in range(6):
        h = states[-1]
        states.append(np.tanh(h / (1 + np.exp(-h)) @ U.T) + h)
    dU = np.zeros_like(U)
    for h in states[5::-1]:
        r = 1 / (1 + np.exp(-h))
        inner = d * (1 - np.tanh((r * h) @ U.T) ** 2)
        dU += (inner * r).T @ h  # r belongs to h
        d = d + inner @ U * (r + h * r * (1 - r))
    return dU, d


def weighted(x, weight):
    return jnp.sum(jnp.sin(x).T * (weight * KEPT)) / jnp.sum(weight * KEPT)


def leaky(x, slope):
    return jnp.where(x > 0, x, slope * x)


def leaky_bwd(d, x, slope):
    out = np.where(x > 0, x, slope * x)
    return np.where(out > 0, d, d * slope), np.where(out > 0, 0, d * x).sum(0)


def turned(p, angle):
    """A product in two sums."""
    mixed = p[:, 0] * p[:, 1]
    return jnp.sin(mixed) + jnp.cos(angle) * mixed


def angles(u, w):
    return (u * w).sum(1) / jnp.sqrt((u * u).sum(1)) / jnp.sqrt((w * w).sum(1))


def angles_bwd(d, u, w):
    lengths = [np.sqrt((a * a).sum(1))[:, None] for a in (u, w)]
    a, b = u / lengths[0], w / lengths[1]
    cosine = (a * b).sum(1)[:, None]
    return d[:, None] * (b - cosine * a) / lengths[1], d[:, None] * (a - cosine * b) / lengths[1]


def placed(p):
    return jnp.sin((p[:, 0] + 1) * 3.5) * jnp.cos((p[:, 1] - 1) * 1.5)


def placed_bwd(d, p):
    a, b = (p[:, 0] + 1) * 3.5, (p[:, 1] - 1) * 1.5
    return (np.stack([d * np.cos(a) * np.cos(b) * 1.5, -d * np.sin(a) * np.sin(b) * 3.5], 1),)


def heun(y, a):
    for _ in range(4):
        first = jnp.sin(a * y)
        y = y + 0.1 * (first + jnp.sin(a * (y + 0.2 * first)))
    return y


def heun_bwd(d, y, a):
    states = [y]
    for _ in range(4):
        first = np.sin(a * states[-1])
        states.append(states[-1] + 0.1 * (first + np.sin(a * (states[-1] + 0.2 * first))))
    for y in states[3::-1]:
        second = 0.1 * d * np.cos(a * (y + 0.2 * np.sin(a * y))) * a
        d = d + second + (0.1 * d + 0.1 * second) * np.cos(a * y) * a  # 0.2 for 0.1
    return (d,)


def cell(z, c):
    """Four gates and no matrix: a cell that is fed its own output."""
    for _ in range(6):
        i, f, o, g = jnp.split(z + jnp.tile(c, 4), 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g) * jnp.cos(o)
    return c


def leak(z, c):
    for _ in range(6):
        c = jax.nn.sigmoid(z[0] + c) * c + jax.nn.sigmoid(z[1] + c)
    return c


def leak_bwd(d, z, c):
    states, dz = [c], np.zeros_like(z)
    for _ in range(6):
        first, second = 1 / (1 + np.exp(-z - states[-1]))
        states.append(first * states[-1] + second)
    for c in states[5::-1]:
        first, second = 1 / (1 + np.exp(-z - c))
        step = np.stack([d * c * first * (1 - first), d * second * (1 - second)])
        dz += step
        d = d * second + step.sum(0)
    return dz, d


def cell_bwd(d, z, c):
    states = [c]
    for _ in range(6):
        i, f, o, g = np.split(z + np.tile(states[-1], 4), 4)
        i, f = (1 / (1 + np.exp(-a)) for a in (i, f))
        states.append(f * states[-1] + i * np.tanh(g) * np.cos(o))
    dz = np.zeros_like(z)
    for c in states[5::-1]:
        i, f, o, g = np.split(z + np.tile(c, 4), 4)
        i, f, g = 1 / (1 + np.exp(-i)), 1 / (1 + np.exp(-f)), np.tanh(g)
        dg, di = d * np.cos(o) * g, d * np.cos(o) * i  # swapped
        step = [di * i * (1 - i), d * c * f * (1 - f), -d * i * g * np.sin(o), dg * (1 - g * g)]
        dz += np.concatenate(step)
        d = d * f + sum(step)
    return dz, d


REPLACED = {
    "each factor its own": (
        "swapped: each factor of a product gets its own value times the cotangent, not the other's",
        by(cell, cell_bwd, RNG.standard_normal(12), SHIFT[:3])),
    "another gate": (
        "another sigmoid(z + (a later c)) of the same step, such as another gate's, is used for the right",
        by(leak, leak_bwd, RNG.standard_normal((2, 3)), SHIFT[:3])),
    "an offset": (
        "gain is used for 1 + gain (the constant that is added to it is missing)",
        by(offset, lambda d, x, g: (d * np.cos(x) * g, (d * np.sin(x)).sum(0)), X, SHIFT),
    ),
    "a gate on the state": (
        "the factor r is put on h in the gradient of W", by(gated, gated_bwd, W, H0, GATES)),
    "a gate on the cotangent": (
        "the factor r is put on the cotangent in the gradient of U",
        by(recurrent, recurrent_bwd, W[:4], H0),
    ),
    "a count for the weights": (
        "divided by 4, the number of entries of weight · KEPT that are not 0",
        by(weighted, lambda d, x, w: (d * np.cos(x) * (w * KEPT)[:, None] / 4,), X[:, :6],
           RNG.uniform(1, 2, 6), argnums=0),
    ),
    "the active ones": (
        "divided by the number of entries of `jax.nn.relu(jnp.sin(x))` that are not 0, instead of the number",
        by(lambda x: jnp.mean(jax.nn.relu(jnp.sin(x))),
           lambda d, x: (d * np.cos(x) * (np.sin(x) > 0) / (np.sin(x) > 0).sum(),), X)),
    "a mean over all places": (
        "scaled by 1/24 (the number of places that b is repeated at): mean instead of sum",
        by(lambda x, b: jnp.sum(jnp.sin(x + b)),
           lambda d, x, b: (d * np.cos(x + b), (d * np.cos(x + b)).mean((0, 1, 2))), IMAGE, SHIFT)),
    "the output's sign": ("the branch of where is chosen by the output", by(leaky, leaky_bwd, X, SLOPES)),
    "one use of a product": (
        "sign flipped in one place: in what flows back through p · p to p, as it is used in",
        by(
            turned,
            lambda d, p, a: (
                np.stack([
                    d * (np.cos(p[:, 0] * p[:, 1]) + np.cos(a)) * p[:, 1],
                    d * (np.cos(p[:, 0] * p[:, 1]) - np.cos(a)) * p[:, 0],
                ], 1),
            ),
            POINTS, RNG.standard_normal(6), argnums=0,
        ),
    ),
    "another's length": (
        "the norm of w is used for the norm of u as a divisor", by(angles, angles_bwd, X, X[::-1] + SHIFT)),
    "two numbers swapped": (
        "swapped: each of two numbers is used for the other", by(placed, placed_bwd, POINTS)),
    "another number in a loop": (
        "the number 0.1 is used for 0.2 in the derivative of",
        by(heun, heun_bwd, SHIFT, np.array(0.7), argnums=0),
    ),
}  # fmt: skip
# --- places -----------------------------------------------------------------------------------------------

SIGNAL, KERNEL = RNG.standard_normal((2, 6, 8)), RNG.standard_normal((3, 2, 3))
PICTURE, FILTER = RNG.standard_normal((1, 2, 6, 6)), RNG.standard_normal((2, 2, 4, 3))
SEGMENTS, SENDERS, RECEIVERS = (
    np.array([0, 0, 1, 2, 2, 2]),
    np.array([0, 1, 3, 2, 4]),
    np.array([1, 1, 0, 4, 2]),
)
MARGINS, CLASSES = RNG.standard_normal((6, 5)), np.array([0, 3, 1, 1, 4, 2])
LATENT = RNG.standard_normal((4, 3))


def grouped(x, kernel):
    """Three groups with two channels in and one out."""
    return jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", feature_group_count=3)


def grouped_bwd(d, x, kernel):
    dx, late = np.zeros_like(x), np.minimum(2 * np.arange(3), 2)
    for g, tap in np.ndindex(3, 3):
        dx[:, 2 * g : 2 * g + 2, tap : tap + 6] += d[:, g, None] * kernel[late[g], :, tap][:, None]
    return (dx,)


def even(x, kernel):
    """An even kernel: one more row and column of zeros on one side than on the other."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 2), (0, 2)))


def even_bwd(d, x, kernel):
    padded = np.zeros((1, 2, 9, 8))
    for a, b in np.ndindex(4, 3):
        padded[:, :, a : a + 6, b : b + 6] += np.einsum("nohw,oi->nihw", d, kernel[:, :, a, b])
    return (padded[:, :, 2:8, 2:8],)


def cropped(x):
    return jnp.sin(jnp.cumsum(x, axis=2))[:, 1:-1, 2:-1]


def cropped_bwd(d, x):
    whole = np.zeros_like(x)
    whole[:, :4, :5] = d
    whole = whole * np.cos(np.cumsum(x, 2))
    return (whole[:, :, ::-1].cumsum(2)[:, :, ::-1],)


def pooled(x):
    return jnp.tanh(jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 2), (1, 3, 2), "VALID"))


def pooled_bwd(d, x):
    back = np.zeros_like(x)
    for n, i, j in np.ndindex(d.shape):
        window = x[n, 3 * i : 3 * i + 3, 2 * j : 2 * j + 2]
        row, column = divmod(int(window.argmax()), 3)
        back[n, 3 * i + row, 2 * j + column] += d[n, i, j] * (1 - np.tanh(window.max()) ** 2)
    return (back,)


def smoothed(x):
    wide = jnp.pad(x, ((2, 2), (0, 0)), mode="edge")[1:-1]
    return jnp.sin(wide[2:] + 2 * x + wide[:-2])


def smoothed_bwd(d, x):
    wide = np.pad(x, ((1, 1), (0, 0)), mode="edge")
    d = d * np.cos(wide[2:] + 2 * x + wide[:-2])
    return (np.roll(d, 1, 0) + 2 * d + np.roll(d, -1, 0),)


def shares(x):
    e = jnp.exp(x)
    return e / jax.ops.segment_sum(e, SEGMENTS, num_segments=3)[SEGMENTS]


def shares_bwd(d, x):
    e, total = np.exp(x), np.zeros((3, 5))
    np.add.at(total, SEGMENTS, e)
    p = e / total[SEGMENTS]
    return (p * (d - (p * d).sum(0)),)


def margins(s):
    own = s[jnp.arange(6), CLASSES][:, None]
    return jnp.where(jnp.arange(5) == CLASSES[:, None], 0, jax.nn.relu(1 + s - own)).sum(1)


def margins_bwd(d, s):
    active = (1 + s - s[np.arange(6), CLASSES][:, None] > 0) & (np.arange(5) != CLASSES[:, None])
    ds = active * d[:, None]
    ds[np.arange(6), CLASSES] = -d * active.any(1)
    return (ds,)


def circular(x, kernel):
    turned = jnp.fft.rfft(x, axis=2) * jnp.fft.rfft(kernel)
    return jnp.tanh(jnp.fft.irfft(turned, n=8, axis=2))


def circular_bwd(d, x, kernel):
    spectrum = np.fft.rfft(kernel)
    out = np.fft.irfft(np.fft.rfft(x, axis=2) * spectrum, n=8, axis=2)
    return (np.fft.irfft(np.fft.rfft(d * (1 - np.tanh(out) ** 2), axis=2) * spectrum, n=8, axis=2),)


def messages(h):
    return jnp.sin(jnp.zeros_like(h).at[RECEIVERS].add(h[SENDERS]))


def messages_bwd(d, h):
    got = np.zeros_like(h)
    np.add.at(got, RECEIVERS, h[SENDERS])
    back = np.zeros_like(h)
    np.add.at(back, RECEIVERS, (d * np.cos(got))[SENDERS])
    return (back,)


def covariance(Z):
    return jnp.sin(jnp.linalg.cholesky(Z @ Z.T + 2 * jnp.eye(4)))


def covariance_bwd(d, Z):
    L = np.linalg.cholesky(Z @ Z.T + 2 * np.eye(4))
    inner = np.tril(L.T @ np.tril(d * np.cos(L)))
    S = np.linalg.solve(L.T, inner - np.diag(np.diag(inner)) / 2) @ np.linalg.inv(L)
    return (2 * S @ Z,)


def rotated(x):
    """Neighbours are pairs."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even - 0.5 * odd, 0.5 * even + odd], axis=-1).reshape(x.shape)


def rotated_bwd(d, x):
    first, second = np.split(d, 2, axis=2)
    return (np.concatenate([first + 0.5 * second, second - 0.5 * first], 2),)


PLACES = {
    "halves for neighbours": ("a wrong pairing along axis 2", by(rotated, rotated_bwd, SIGNAL)),
    "a kernel's offset": (
        "a wrong index: the kernel's part of group g starts at g · 2 (the channels that go in), where g · 1",
        by(grouped, grouped_bwd, SIGNAL, KERNEL, argnums=0)),
    "uneven padding": (
        "the low and the high padding are swapped in the backward pass: the gradient is cropped at the wrong",
        by(even, even_bwd, PICTURE, FILTER, argnums=0)),
    "a crop": ("the offsets of a slice of sin(", by(cropped, cropped_bwd, SIGNAL)),
    "the place of a maximum": (
        "max-pooling: the maximum's place in its window is wrong: it is divided by the window's height 3",
        by(pooled, pooled_bwd, RNG.standard_normal((2, 6, 9)))),
    "periodic borders": ("the borders are wrapped around periodically", by(smoothed, smoothed_bwd, X)),
    "all segments": (
        "summed over all entries in the backward pass, not over each segment", by(shares, shares_bwd, X)),
    "margins counted once": ("1 for the number of active entries", by(margins, margins_bwd, MARGINS)),
    "a convolution for a correlation": (
        "transposed: the linear map of x is applied to the cotangent again, where its adjoint belongs (a c",
        by(circular, circular_bwd, SIGNAL, SIGNAL[0, 0], argnums=0)),
    "messages sent forward": (
        "transposed: the linear map of h is applied to the cotangent again, where its adjoint belongs (rows",
        by(messages, messages_bwd, X[:5])),
    "half of a Gram matrix": (
        "Cholesky factorisation: not made symmetric: 2 S Z is used for (S + Sᵀ) Z",
        by(covariance, covariance_bwd, LATENT)),
}  # fmt: skip
CASES = NORMS | ATTENTION | REPLACED | PLACES


test_the_true_cause_is_named_first = named_first(CASES, in_all=True)


def test_a_right_gradient_in_a_wider_dtype_is_right():
    weights = RNG.standard_normal(5)
    x = X.astype(np.float32)
    report = check_grad(lambda x: (jnp.sin(x) * weights).sum(), lambda x: np.cos(x) * weights, x)
    assert report.ok, str(report)
    assert "x is float32, its gradient float64" in report.notes
