"""Mistakes in blocks, positions and borders, in what a normalisation sums, and in which value a "
"step takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from manual_grad.verify import check_grad
from tests.checker.causes import by, loss_by, named_first, softmax

RNG = np.random.default_rng(77)
X, Z, W = RNG.standard_normal((6, 5)), RNG.standard_normal((4, 7)), RNG.standard_normal((7, 3))
GAMMA, SHIFT, T = RNG.uniform(0.5, 2, 5), RNG.standard_normal(5), RNG.standard_normal((4, 3))
SQUARE = RNG.standard_normal((7, 7))
KEEP = RNG.uniform(size=(4, 7)) < 0.6
LENGTHS, OTHER_LENGTHS = np.array([2, 6, 3, 5]), np.array([4, 1, 6, 2])
LAST, CODES = np.array([1, 4, 0, 2]), np.array([[3, 1, 0, 7, 2], [5, 5, 1, 2, 9], [0, 4, 8, 1, 6]])
SEEN = np.tril(np.ones((6, 5)))
VALID = np.array([1.0, 0, 1, 1, 0, 1])
TRUE = np.array([[1, 0, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0, 1], [0, 1, 0, 1, 1, 0, 0]])


# --- sums over blocks -------------------------------------------------------------------------------------


def centred(x):
    return jnp.sum(jnp.sin(x - x.mean(0)))


def centred_grad(sums):
    def grad(x):
        d = np.cos(x - x.mean(0))
        return (d - sums(d) / 6,)

    return grad


def of_shards(d):
    return np.concatenate([np.broadcast_to(d[:2].sum(0), (2, 5)), np.broadcast_to(d[2:].sum(0), (4, 5))])


def attended(z, w):
    return jnp.sum(jnp.sin(jax.nn.softmax(z, axis=-1) @ w))


def attended_grad(z, w):
    p = softmax(z)
    dp = np.cos(p @ w) @ w.T
    rows = [
        np.broadcast_to((p * dp)[:, k : k + 3].sum(1, keepdims=True), p[:, k : k + 3].shape)
        for k in (0, 3, 6)
    ]
    return (p * (dp - np.concatenate(rows, 1)), None)


def weighted(x):
    return jnp.sum(VALID * jnp.sum(x**2, 1)) / VALID.sum()


def weighted_grad(x):
    counts = np.repeat([VALID[:3].sum(), VALID[3:].sum()], 3) * 1.0
    counts[:4], counts[4:] = VALID[:4].sum(), VALID[4:].sum()
    return (2 * x * (VALID / counts / 2)[:, None],)


def dropped(z, w):
    return jnp.sum(jnp.sin(jnp.where(KEEP, jax.nn.softmax(z, axis=-1) / 0.6, 0.0) @ w))


def dropped_grad(z, w):
    p = softmax(z)
    later = np.cos(np.where(KEEP, p / 0.6, 0) @ w) @ w.T
    return (p * (np.where(KEEP, later / 0.6, 0) - (p * later).sum(1, keepdims=True)), None)


def with_null(z, s, w):
    p = jax.nn.softmax(jnp.concatenate([z, jnp.broadcast_to(s, (4, 1))], 1), axis=-1)
    return jnp.sum(jnp.sin(p[:, :7] @ w))


def with_null_grad(z, s, w):
    e = np.exp(z)
    own, whole = e / e.sum(1, keepdims=True), e / (e.sum(1, keepdims=True) + np.exp(s))
    o = whole @ w
    dp, rows = np.cos(o) @ w.T, (np.cos(o) * o).sum(1, keepdims=True)
    return own * (dp - rows), np.array([-(np.exp(s) / e.sum(1, keepdims=True) * rows).sum()]), None


def causal(q, k, v):
    s = jnp.where(jnp.tril(jnp.ones((7, 7), bool)), q @ k.T, -jnp.inf)
    return jnp.sum(jnp.sin(jax.nn.softmax(s, axis=-1) @ v))


def causal_grad(q, k, v):
    """The mask of whole tiles of 2×2 alone, with the log-sum-exp and the output saved."""
    s = np.where(np.tril(np.ones((7, 7), bool)), q @ k.T, -np.inf)
    o, lse = softmax(s) @ v, np.log(np.exp(s).sum(1, keepdims=True))
    tiles = np.kron(np.tril(np.ones((4, 4))), np.ones((2, 2)))[:7, :7]
    p = np.exp(q @ k.T - lse) * tiles
    do = np.cos(o)
    ds = p * (do @ v.T - (do * o).sum(1, keepdims=True))
    return ds @ k, ds.T @ q, p.T @ do


# --- normalisations -----------------------------------------------------------------------------------------


def scaled_norm(x, gamma):
    y = gamma * (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-3)
    return jnp.sum(jnp.sin(y @ W[:5]))


def scaled_norm_grad(x, gamma):
    r = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    normal = (x - x.mean(-1, keepdims=True)) * r
    d = np.cos((normal * gamma) @ W[:5]) @ W[:5].T
    means = d.mean(-1, keepdims=True), (d * normal).mean(-1, keepdims=True)
    return (gamma * r * (d - means[0] - normal * means[1]), None)


def grouped_norm(x):
    g = x.reshape(4, 2, 6)
    g = (g - g.mean(-1, keepdims=True)) / jnp.sqrt(g.var(-1, keepdims=True) + 1e-3)
    return jnp.sum(jnp.sin(g) * jnp.arange(6))


def grouped_norm_grad(x):
    """The sums divided by the number of positions, 3, not by that of a group's entries, 6."""
    g = x.reshape(4, 2, 6)
    r = 1 / np.sqrt(g.var(-1, keepdims=True) + 1e-3)
    normal = (g - g.mean(-1, keepdims=True)) * r
    d = np.cos(normal) * np.arange(6)
    sums = d.sum(-1, keepdims=True), (d * normal).sum(-1, keepdims=True)
    return ((r * (d - (sums[0] + normal * sums[1]) / 3)).reshape(x.shape),)


def unit_rows(v, g):
    return jnp.sum(jnp.sin(g[:, None] * v / jnp.linalg.norm(v, axis=1, keepdims=True)) * jnp.arange(1.0, 8))


def unit_rows_grad(v, g):
    n = np.linalg.norm(v, axis=1, keepdims=True)
    d = np.cos(g[:, None] * v / n) * np.arange(1.0, 8)
    return (g[:, None] / n * (d - (d * v / n).sum() * v / n), None)


def shrunk(x):
    return jnp.sum(jnp.sin(x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-3)) * GAMMA)


def shrunk_grad(x):
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3)
    d = np.cos(x * r) * GAMMA
    return (r * (d - x * r * r * (d * x * r).mean(-1, keepdims=True)),)


# --- positions ----------------------------------------------------------------------------------------------


def rotated(x):
    angle = (jnp.arange(6) + 3)[:, None] * 0.3 * jnp.arange(1.0, 3)
    a, b = x[:, :2], x[:, 2:]
    return jnp.concatenate(
        [a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)], 1
    )


def rotated_bwd(d, x):
    angle = np.arange(6)[:, None] * 0.3 * np.arange(1.0, 3)
    a, b = d[:, :2], d[:, 2:]
    return (
        np.concatenate([a * np.cos(angle) + b * np.sin(angle), b * np.cos(angle) - a * np.sin(angle)], 1),
    )


def resized(x):
    at = jnp.clip((jnp.arange(11) + 0.5) * 6 / 11 - 0.5, 0, 5)
    low = jnp.minimum(jnp.floor(at).astype(int), 4)
    f = (at - low)[:, None]
    return x[low] * (1 - f) + x[low + 1] * f


def resized_bwd(d, x):
    at = np.linspace(0, 5, 11)
    low, back = np.minimum(np.floor(at).astype(int), 4), np.zeros_like(x)
    f = (at - low)[:, None]
    np.add.at(back, low, d * (1 - f))
    np.add.at(back, low + 1, d * f)
    return (back,)


def last_valid(x):
    return x[LAST, jnp.arange(4)]


def last_valid_bwd(d, x):
    back = np.zeros_like(x)
    back[-1, np.arange(4)] = d
    return (back,)


def spread_out(x, w):
    out = jnp.zeros(3 * 5 + 4)
    for i in range(6):
        out = out.at[3 * i : 3 * i + 4].add(x[i] * w)
    return jnp.sum(jnp.sin(out))


def spread_out_grad(x, w):
    out = np.zeros(19)
    for i in range(6):
        out[3 * i : 3 * i + 4] += x[i] * w
    d = np.cos(out)
    return None, np.array([sum(x[i] * d[i + 3 * k] for i in range(6)) for k in range(4)])


def mirrored(mode):
    return lambda x: jnp.sum(jnp.sin(jnp.pad(x, 2, mode=mode)[1:] * jnp.arange(1.0, 10)))


def mirrored_grad(mode, at):
    def grad(x):
        p = np.pad(x, 2, mode=mode)
        d = np.zeros_like(p)
        d[1:] = np.cos(p[1:] * np.arange(1.0, 10)) * np.arange(1.0, 10)
        for axis in (0, 1):
            to = np.moveaxis(d, axis, 0)
            for j in (1, 2):
                to[2 + at(j)] += to[2 - j]
                to[-3 - at(j)] += to[-3 + j]
        return (d[2:-2, 2:-2],)

    return grad


def extended(x):
    return jnp.sum(jnp.sin(jnp.pad(x, 1, mode="edge") * jnp.arange(7.0)))


def extended_grad(x):
    d = np.cos(np.pad(x, 1, mode="edge") * np.arange(7.0)) * np.arange(7.0)
    return (d[1:-1, 1:-1],)


def mean_of_rows(x):
    return jnp.sum((x**2 * SEEN).sum(1) / SEEN.sum(1))


def mean_of_rows_grad(x):
    return (2 * x * SEEN / SEEN.sum() * 6,)


def sorted_columns(x):
    return jnp.sum(jnp.sort(x, axis=0) ** 3 * jnp.arange(1.0, 6))


def sorted_columns_grad(x):
    order = np.argsort(x, axis=0)
    d = 3 * np.take_along_axis(x, order, 0) ** 2 * np.arange(1.0, 6)
    return (np.take_along_axis(d, order, 0),)


def walked(a):
    h, out = jnp.zeros(5), 0.0
    for t in range(6):
        h = jnp.exp(jnp.sin(a)[t]) * h + 1.0
        out = out + jnp.sum(h * SHIFT)
    return out


def walked_grad(a):
    hs = [np.zeros(5)]
    for t in range(6):
        hs.append(np.exp(np.sin(a[t])) * hs[-1] + 1)
    back, d = np.zeros_like(a), np.zeros(5)
    for t in reversed(range(6)):
        d = d + SHIFT
        back[t], d = d * hs[t] * np.exp(np.sin(a[t])), d * np.exp(np.sin(a[t]))
    return (np.concatenate([back[1:], 0 * back[:1]]) * np.cos(a),)


def depthwise(x, w):
    out = lax.conv_general_dilated(x[None], w.reshape(6, 1, 2), (1,), "VALID", feature_group_count=3)[0]
    return jnp.sum(jnp.sin(out))


def depthwise_grad(x, w):
    windows = np.stack([x[:, :4], x[:, 1:]], 1)
    d = np.cos(np.einsum("cmk,ckn->cmn", w, windows)).reshape(6, 4)
    return None, np.einsum("mcn,ckn->cmk", d.reshape(2, 3, 4), windows)


def filtered(x, w):
    return jnp.sum(jnp.sin(lax.conv_general_dilated(x[None, None], w, (1, 1), "VALID")))


def filtered_grad(x, w):
    """The kernel is reversed along its rows alone."""
    out = sum(w[0, 0, i, j] * x[i : i + 4, j : j + 4] for i in range(3) for j in range(2))
    d, back = np.cos(out), np.zeros_like(x)
    for i in range(3):
        for j in range(2):
            back[i : i + 4, j : j + 4] += w[0, 0, i, 1 - j] * d
    return back, None


# --- which value a step takes -----------------------------------------------------------------------------


def clipped_twice(r):
    return -jnp.sum(jnp.minimum(r * SHIFT, jnp.clip(r, 0.8, 1.2) * SHIFT))


def clipped_twice_grad(r):
    return (-SHIFT * (np.abs(r - 1) < 0.2),)


RATIO = np.array([[0.5, 1.1, 1.4, 0.7, 1.6], [1.5, 0.9, 0.6, 1.3, 0.4]])


def in_units(x, image):
    return jnp.sum(
        jnp.sin(x[:, 0] * (image.shape[0] - 1)) * image[0, 0] + jnp.cos(x[:, 1] * (image.shape[1] - 1))
    )


def in_units_grad(x, image):
    one, two = x.T
    height, width = image.shape[0] - 1, image.shape[1] - 1
    d = [np.cos(one * height) * height * image[0, 0], -np.sin(two * width) * height]
    return np.stack(d, 1), None


def focal(z):
    p = jax.nn.sigmoid(z)
    t = jnp.where(TRUE == 1, p, 1 - p)
    return jnp.sum((1 - t) ** 3 * jnp.log(t))


def focal_grad(z):
    p = 1 / (1 + np.exp(-z))
    t = np.where(TRUE == 1, p, 1 - p)
    d = -3 * (1 - t) ** 2 * np.log(p) + (1 - t) ** 3 / t
    return (np.where(TRUE == 1, d, -d) * p * (1 - p),)


def nearest_images(x):
    d = x[:3] - x[3:]
    d = d - 2 * jnp.round(d / 2)
    return jnp.sum(jnp.log(1 + jnp.sum(d * d, 1)))


def nearest_images_grad(x):
    d = x[:3] - x[3:]
    near = d - 2 * np.round(d / 2)
    g = 2 * d / (1 + np.sum(near * near, 1, keepdims=True))
    return (np.concatenate([g, -g]),)


def sigmoid_gelu(z):
    return jnp.sum(z * jax.nn.sigmoid(1.702 * z) * jnp.arange(7))


def exact_gelu_grad(z):
    phi = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return ((np.asarray(jax.scipy.stats.norm.cdf(z)) + z * phi) * np.arange(7),)


def averaged(z, x):
    return jnp.sum(jnp.sin(z / LENGTHS[:, None])) + jnp.sum(x.sum() / OTHER_LENGTHS)


def averaged_grad(z, x):
    return np.cos(z / LENGTHS[:, None]) / OTHER_LENGTHS[:, None], None


def dequantised(scale, zero):
    return jnp.sum(jnp.sin((CODES - zero) * scale))


def dequantised_grad(scale, zero):
    return (np.cos((CODES - zero) * scale) * CODES).sum(0), None


def gated(x, w, u, b):
    h = jnp.zeros(3)
    for t in range(5):
        h = jnp.tanh(w @ x[t] + jnp.sin(x[t, :3]) * (u @ h + b))
    return jnp.sum(h)


def gated_grad(x, w, u, b):
    hs = [np.zeros(3)]
    for t in range(5):
        hs.append(np.tanh(w @ x[t] + np.sin(x[t, :3]) * (u @ hs[-1] + b)))
    d, back = np.ones(3), np.zeros(3)
    for t in reversed(range(5)):
        dz = d * (1 - hs[t + 1] ** 2)
        back += dz
        d = u.T @ (dz * np.sin(x[t, :3]))
    return None, None, None, back


def spectral(x):
    y = jnp.fft.rfft(x)
    return jnp.sum(jnp.log(1 + y.real**2 + y.imag**2))


def spectral_grad(change):
    def grad(x):
        y = np.fft.rfft(x)
        g = 2 * y / (1 + np.abs(y) ** 2)
        half = np.ones(5)
        half[1:-1] = 0.5
        return (8 * np.fft.irfft(change(g, half), 8),)

    return grad


CASES = {
    "a sum over a shard": (
        "a sum in the backward pass is taken over one block alone, not over all of axis 0: each of "
        "two blocks "
        "(0 to 1 and 2 to 5)",
        loss_by(centred, centred_grad(of_shards), X)),
    "a softmax's sum over a tile": (
        "a sum in the backward pass is taken over one block alone, not over all of axis 1: each of "
        "3 blocks of 3",
        loss_by(attended, attended_grad, Z, W)),
    "means of chunks": (
        "a wrong count: each of 2 blocks of 4 along axis 0 of",
        loss_by(weighted, weighted_grad, X)),
    "the row sum before dropout": (
        "the sum over a row in the gradient of a softmax, Σ p · dp, takes",
        loss_by(dropped, dropped_grad, Z, W)),
    "a normaliser without a part": (
        "the sum that a softmax divides by leaves out s where the probabilities are recomputed",
        loss_by(with_null, with_null_grad, Z, np.array([0.7]), W, argnums=(0, 1))),
    "tiles without their mask": (
        "the mask of q @ k is that of whole tiles of 2×2: the mask is missing inside a tile",
        loss_by(causal, causal_grad, SQUARE / 2, SQUARE[::-1] / 2, W, argnums=(0, 1, 2))),
    "gamma at the end": (
        "the factor gamma is multiplied in at the end of a normalisation's gradient, after its means",
        loss_by(scaled_norm, scaled_norm_grad, X, GAMMA)),
    "1/σ once too often in one term": (
        "1/σ is applied once too often to x̂, in the term x̂ · mean(dŷ · x̂) of a normalisation's gradient",
        loss_by(shrunk, shrunk_grad, 3 * X)),
    "a group's count": (
        "the means of a normalisation's gradient are divided by 3 (axis 2 of x), where n = 6",
        loss_by(grouped_norm, grouped_norm_grad, RNG.standard_normal((4, 4, 3)))),
    "one projection for all rows": (
        "the sum of a normalisation's gradient is taken over all axes, where axis 1 belongs",
        loss_by(unit_rows, unit_rows_grad, Z, T[:, 0])),
    "positions without their offset": (
        "the offset 3 of the positions is left out: they are counted from 0, not 3",
        by(rotated, rotated_bwd, RNG.standard_normal((6, 4)))),
    "aligned corners": (
        "an interpolation's positions are those of aligned corners, j (n − 1)/(m − 1), where half-pixel",
        by(resized, resized_bwd, X)),
    "the last step for each": (
        "a wrong index: the last place along axis 0 of x gets the gradient of every one",
        by(last_valid, last_valid_bwd, RNG.standard_normal((5, 4, 2)))),
    "the stride at the tap": (
        "a wrong index: the output is read at i + 3 k for 3 i + k",
        loss_by(spread_out, spread_out_grad, X[:, 0], T[:, 1], argnums=1)),
    "reflection taken for the edge": (
        "the border is padded by reflection (without the edge entry twice) in the function, but "
        "its gradient is "
        "added as for padding with the edge entry",
        loss_by(mirrored("reflect"), mirrored_grad("reflect", lambda j: 0), X)),
    "reflection taken for symmetry": (
        "the border is padded by reflection (without the edge entry twice) in the function, but "
        "its gradient is "
        "added as for padding symmetrically",
        loss_by(mirrored("reflect"), mirrored_grad("reflect", lambda j: j - 1), X)),
    "symmetry taken for reflection": (
        "the border is padded symmetrically (the edge entry twice) in the function, but its "
        "gradient is added as "
        "for padding by reflection",
        loss_by(mirrored("symmetric"), mirrored_grad("symmetric", lambda j: j), X)),
    "the padding's gradient lost": (
        "the border is padded with the edge entry in the function, but the gradient of the padding is left",
        loss_by(extended, extended_grad, X)),
    "the mean of all rows' counts": (
        "a wrong count: the mean of a constant, 3.33333, is used for every one",
        loss_by(mean_of_rows, mean_of_rows_grad, X)),
    "a permutation for its inverse": (
        "the sorting permutation is applied again in the backward pass",
        loss_by(sorted_columns, sorted_columns_grad, X)),
    "an exclusive sum": (
        "shifted by -1 along axis 0 in the backward pass: each step gets the gradient of the next one",
        loss_by(walked, walked_grad, X)),
    "channels in the other order": (
        "a wrong index: the 6 channels that come out are taken in the order (member, group)",
        loss_by(depthwise, depthwise_grad, X[:3], RNG.standard_normal((3, 2, 2)), argnums=1)),
    "a kernel reversed along one axis": (
        "rotated or flipped kernel: w must be reversed in the backward pass, axis 3",
        loss_by(filtered, filtered_grad, X, T[None, None, :3, :2])),
    "a clip's mask for a minimum's": (
        "the mask of a minimum of two values is wrong: the gradient always goes to the clipped one",
        loss_by(clipped_twice, clipped_twice_grad, RATIO)),
    "height for width": (
        "one size is used for another: 3 = 4 − 1 (axis 0 of image) for 6 = 7 − 1 (axis 1 of image)",
        loss_by(in_units, in_units_grad, X[:, :2], Z)),
    "log p for log of the true class": (
        "sigmoid(z) is used for t inside log", loss_by(focal, focal_grad, Z)),
    "a displacement before it is wrapped": (
        "the term 2 · (`jnp.round(d / 2)`) is left out", loss_by(nearest_images, nearest_images_grad, 2 * X)),
    "the exact GELU's slope": (
        "the derivative of sigmoid-GELU, zσ(1.702z), is wrong: it is that of GELU",
        loss_by(sigmoid_gelu, exact_gelu_grad, Z)),
    "another sequence's lengths": (
        "OTHER_LENGTHS is used for LENGTHS",
        loss_by(averaged, averaged_grad, Z, X)),
    "the zero point left out": (
        "the term zero is left out: CODES is used for CODES − zero",
        loss_by(dequantised, dequantised_grad, RNG.uniform(0.1, 0.4, 5), RNG.standard_normal(5))),
    "another bias's gradient": (
        "this is the gradient of another value: sin(x) · ((u @ h) + b)'s is used for (u @ h) + b's "
        "in the gradient of b",
        loss_by(gated, gated_grad, X, T.T @ Z[:, :5], T[:3, :3], T[0], argnums=3)),
    "the inner frequencies twice": (
        "a one-sided spectrum: the frequencies between the first and the last count twice along axis 0",
        loss_by(spectral, spectral_grad(lambda g, half: g), RNG.standard_normal(8))),
    "the conjugate spectrum": (
        "the conjugate of the spectrum is used along axis 0",
        loss_by(spectral, spectral_grad(lambda g, half: np.conj(g) * half), RNG.standard_normal(8))),
}  # fmt: skip


test_the_true_cause_is_named_first = named_first(CASES)


@pytest.mark.parametrize("steps", [120, 200])
def test_a_long_loop_gives_a_report(steps):
    """A fixed point is found by many steps, whose values' names must not nest deeply."""

    def fixed_point(w, u, x):
        z, _ = lax.scan(lambda z, _: (jnp.tanh(w @ z + u @ x), None), jnp.zeros(3), None, length=steps)
        return jnp.sum(z**2)

    def grad(w, u, x):
        return np.ones((3, 3)), np.outer(np.ones(3), x)

    args = T[:3, :3] / 4, T[:3, :2], T[3, :2]
    (first, second) = check_grad(fixed_point, grad, *args, argnums=(0, 1), seconds=4).findings
    assert first.diagnosis.startswith("no known mistake")
    assert second.diagnosis.startswith("no known mistake")


def test_one_of_two_terms_is_not_said_of_a_mask():
    (finding,) = CASES["a clip's mask for a minimum's"][1]().findings
    assert "ReLU" not in finding.diagnosis
    assert "one of two terms" not in finding.diagnosis


def test_an_error_that_cancels_in_sums_is_narrowed_down():
    cancelling = RNG.standard_normal((6, 5))
    cancelling -= cancelling.mean(0)
    ask = loss_by(lambda x: jnp.sum(jnp.sin(x)), lambda x: (np.cos(x) + cancelling * np.sin(x.sum()),), X)
    said = "no known mistake explains it; the sums along axis 0 are right: entries are in each other's place"
    assert ask().findings[0].diagnosis.startswith(said)
