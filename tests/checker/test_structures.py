"""Mistakes in factorised matrices, loops, groups, indices and labels; values are named as in the source."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from manual_grad.verify import check_vjp
from tests.checker.causes import by, named_first, softmax

RNG = np.random.default_rng(23)
S, Z, z = RNG.standard_normal((4, 4)), RNG.standard_normal((5, 4)), RNG.standard_normal(9)
POSITIVE, GAMMA = S @ S.T + 4 * np.eye(4), RNG.uniform(0.5, 2, 6)
X, SQUARE, WIDE = RNG.standard_normal((2, 6, 4)), RNG.standard_normal((5, 5)), RNG.standard_normal((2, 3, 5))
IMAGE, KERNEL = RNG.standard_normal((3, 4, 5)), RNG.standard_normal((4, 2, 3))
CLASS = np.eye(4)[[0, 2, 1, 3, 2]]
KEPT = (RNG.uniform(size=(4, 1, 3)) > 0.4).astype(float)
TAPS = np.arange(4)[:, None] * 2 + np.arange(3) * 1

# --- factorised matrices ----------------------------------------------------------------------------------


def factor(A):
    return jnp.linalg.cholesky((A + A.T) / 2)


def factor_bwd(phi):
    def bwd(d, A):
        L = np.linalg.cholesky((A + A.T) / 2)
        inv = np.linalg.inv(L)
        G = inv.T @ phi(L.T @ np.tril(d)) @ inv
        return ((G + G.T) / 2,)

    return bwd


def spectral(A):
    w, V = jnp.linalg.eigh((A + A.T) / 2)
    return (V * jnp.exp(w / 9)) @ V.T


def spectral_bwd(off):
    def bwd(d, A):
        w, V = np.linalg.eigh((A + A.T) / 2)
        f, apart = np.exp(w / 9), w[None] - w[:, None] + np.eye(4)
        inner = V.T @ (d + d.T) @ V * f  # the cotangent of V, from the left by its transpose
        G = V @ (np.diag(np.diag(V.T @ d @ V) * f / 9) + off(apart) * inner) @ V.T
        return ((G + G.T) / 2,)

    return bwd


FACTORISED = {
    "Φ without the half": (
        "Cholesky factorisation of A: tril for Φ (the diagonal is not halved)",
        by(factor, factor_bwd(np.tril), POSITIVE)),
    "no Φ": ("Cholesky factorisation of A: Φ is left out", by(factor, factor_bwd(lambda P: P), POSITIVE)),
    "no differences of eigenvalues": (
        "eigenvalues and -vectors of A: the factor 1/(λj − λi) is left out, off the diagonal",
        by(spectral, spectral_bwd(lambda apart: 1 - np.eye(4)), S + S.T)),
    "their sign": (
        "eigenvalues and -vectors of A: sign flipped",
        by(spectral, spectral_bwd(lambda apart: (np.eye(4) - 1) / apart), S + S.T)),
}  # fmt: skip

# --- labels, slopes, products -----------------------------------------------------------------------------


def smoothed(z):
    return -((0.7 * CLASS + 0.3 / 4) * jax.nn.log_softmax(z)).sum(-1).mean()


def smoothed_bwd(y):
    return lambda d, z: (d * (softmax(z) - y) / 5,)


def reverse_bwd(d, z, y):
    p = softmax(z)
    return (d * p * (np.log(p / y) - (p * np.log(p / y)).sum(-1, keepdims=True)),)


def gelu_bwd(d, x):
    t, c = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)), np.sqrt(2 / np.pi)
    return (d * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)),)


SLOPES = {
    "ε/(K − 1)": (
        "label smoothing: ε/(K − 1) for ε/K",
        by(smoothed, smoothed_bwd(0.7 * CLASS + 0.1 * (1 - CLASS)), Z)),
    "not smoothed": ("label smoothing is left out", by(smoothed, smoothed_bwd(CLASS), Z)),
    "the reverse divergence": (
        "the gradient of the reverse divergence",
        by(lambda z, y: -(y * jax.nn.log_softmax(z)).sum(), reverse_bwd, Z, softmax(Z[::-1]), argnums=0)),
    "tanh-GELU's slope": (
        "the derivative of GELU is wrong: it is that of tanh-GELU",
        by(lambda x: jax.nn.gelu(x, approximate=False), gelu_bwd, z)),
    "SiLU's factor": (
        "the derivative of SiLU is wrong: σ + σ(1 − σ)",
        by(lambda x: x * jax.nn.sigmoid(x), lambda d, x: (
            d * (1 / (1 + np.exp(-x))) * (2 - 1 / (1 + np.exp(-x))),), z)),
    "a straight-through estimator": (
        "the true gradient is 0 here; the cotangent is passed on unchanged, as by a straight-through",
        by(jnp.round, lambda d, x: (d,), z)),
    "a clipped one": (
        "the true gradient is 0 here; the cotangent is passed on unchanged in some entries, as by a clipped",
        by(jnp.sign, lambda d, x: (d * (abs(x) < 1),), z)),
    "a product divided by its zero": (
        "the product is divided by its entry, which is 0 here",
        by(jnp.cumprod, lambda d, x: (np.cumsum((d * np.cumprod(x))[::-1])[::-1] / (x + 1e-15),),
           np.array([2.0, 0.0, 0.5, 3.0]))),
}  # fmt: skip

# --- groups, axes, rows -----------------------------------------------------------------------------------


def group_norm(x, gamma):
    v = x.reshape(2, 3, 8)
    v = (v - v.mean(-1, keepdims=True)) / jnp.sqrt(v.var(-1, keepdims=True) + 1e-5)
    return v.reshape(2, 6, 4) * gamma[:, None]


def of_other_groups(d, x, gamma):
    v = x.reshape(2, 3, 8)
    m, s = v.mean(-1, keepdims=True), np.sqrt(v.var(-1, keepdims=True) + 1e-5)
    other = np.arange(6) % 3
    return ((d * (x - m[:, other]) / s[:, other]).sum((0, 2)),)


def gamma_outside(d, x, gamma):
    v, d = x.reshape(2, 3, 8), d.reshape(2, 3, 8)
    s = np.sqrt(v.var(-1, keepdims=True) + 1e-5)
    h = (v - v.mean(-1, keepdims=True)) / s
    dx = (d - d.mean(-1, keepdims=True) - h * (d * h).mean(-1, keepdims=True)) / s
    return (dx.reshape(x.shape) * gamma[:, None],)


def rms(x):
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True))


def rms_bwd(d, x):
    s = 1 / np.sqrt((x * x).mean(-1, keepdims=True))
    return (s * (d - x * s * (d * x * s).mean(-1)),)


def grouped(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1,), "VALID", feature_group_count=2)


def grouped_bwd(channels):
    def bwd(d, x, kernel):
        dk = np.zeros_like(kernel)
        for o, c, k in np.ndindex(*kernel.shape):
            dk[o, c, k] = (x[:, channels(o // 2) + c, k : k + 3] * d[:, o]).sum()
        return (dk,)

    return bwd


def pooled(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (3, 3), (1, 1), "VALID")


def pooled_bwd(d, x):
    dx = np.zeros_like(x)
    for i, j in np.ndindex(*d.shape):
        a, b = np.unravel_index(x[i : i + 3, j : j + 3].argmax(), (3, 3))
        dx[i + a, j + b] = d[i, j]
    return (dx,)


def spread(x, w):
    return jnp.zeros(9).at[TAPS].add(x[:, None] * w)


def spread_bwd(d, x, w):
    taps = np.arange(4)[:, None] + np.arange(3) * 2
    return ((d[taps] * w).sum(1),)


def rows_bwd(d, x):
    d = np.where(np.arange(6).reshape(2, 3, 1) < 2, d, 0)
    return (d * np.cos(x),)


PLACES = {
    "statistics of group c mod G": (
        "wrong group: channel c of 6 takes the statistics of group c mod 3, where c // 2 belongs",
        by(group_norm, of_other_groups, X, GAMMA, argnums=1)),
    "gamma outside the means": (
        "in the wrong order: the factor gamma is applied last in the backward pass, at x, outside the sums",
        by(group_norm, gamma_outside, X, GAMMA, argnums=0)),
    "keepdims missing": ("keepdims is missing in a sum over axis 1", by(rms, rms_bwd, SQUARE)),
    "the next group's channels": (
        "a wrong index in x: the next group's members (2 groups of 2)",
        by(grouped, grouped_bwd(lambda g: 2 - 2 * g), IMAGE, KERNEL, argnums=1)),
    "group 0's channels": (
        "a wrong index in x: group 0's members (2 groups of 2) are used for every group",
        by(grouped, grouped_bwd(lambda g: 0), IMAGE, KERNEL, argnums=1)),
    "pooling assigned": (
        "max-pooling: overlapping windows are overwritten", by(pooled, pooled_bwd, SQUARE)),
    "stride for dilation": (
        "a wrong index: the steps of TAPS along the axes 0 and 1 are swapped (stride and dilation)",
        by(spread, spread_bwd, z[:4], z[:3], argnums=0)),
    "the first rows": (
        "rows left out: only the first 2 of 6 rows (2 · 3) of sin(x) are processed",
        by(jnp.sin, rows_bwd, WIDE)),
    "a slice in two places": (
        "a wrong index: slice 1 is also used at 0, 2 of 4 along axis 1",
        by(lambda x: x**2, lambda d, x: ((2 * d * x)[:, [1, 1, 1, 3]],), Z)),
}  # fmt: skip

# --- loops --------------------------------------------------------------------------------------------------


def cell(x, W, U, kept):
    h = jnp.zeros((2, 3))
    for t in range(4):
        gate = jax.nn.sigmoid(x[t] @ U)
        h = kept[t] * h + gate * jnp.tanh(x[t] @ W + h)
    return h


def cell_bwd(bug):
    def bwd(d, x, W, U, kept):
        hs, gates, states = [np.zeros((2, 3))], [], []
        for t in range(4):
            gates.append(1 / (1 + np.exp(-x[t] @ U)))
            states.append(np.tanh(x[t] @ W + hs[-1]))
            hs.append(kept[t] * hs[-1] + gates[-1] * states[-1])
        dW, dU = np.zeros_like(W), np.zeros_like(U)
        for t in reversed(range(4)):
            da = d * (1 if bug == "gate" else gates[t]) * (1 - states[t] ** 2)
            dg = d * states[t] * gates[t] * (1 - gates[t])
            dW, dU = dW + x[t].T @ da, dU + (-1 if bug == "sign" else 1) * x[t].T @ dg
            d = da + d * kept[0 if bug == "mask" else t]
        return dW, dU

    return bwd


def looped(bug):
    return by(cell, cell_bwd(bug), RNG.standard_normal((4, 2, 5)), RNG.standard_normal((5, 3)),
              RNG.standard_normal((5, 3)) + 1, KEPT, argnums=(1, 2))  # fmt: skip


LOOPS = {
    "step 0's mask": ("a wrong index: the first kept along axis 0 is used for", looped("mask")),
    "a factor in every step": ("the factor sigmoid(x @ U) is missing, in the derivative of", looped("gate")),
    "a sign in every step": ("sign flipped", looped("sign")),
}

# --- values that the backward pass computes again -----------------------------------------------------------


def normalised(x, eps=0.3, ddof=0, inside=True):
    """x less its mean over a root of its variance."""
    v = x.var(-1, keepdims=True, ddof=ddof)
    return (x - x.mean(-1, keepdims=True)) / ((v + eps) ** 0.5 if inside else v**0.5 + eps)


def normalised_bwd(root, of_all=4, n=4):
    """The squares of a row divided by ``of_all`` in the variance, by ``n`` in its derivative."""

    def bwd(d, x):
        centred = x - x.mean(-1, keepdims=True)
        s = root((centred**2).sum(-1, keepdims=True) / of_all)
        unit = centred / s
        inner = d - unit * (d * unit).sum(-1, keepdims=True) / n
        return ((inner - inner.mean(-1, keepdims=True)) / s,)

    return bwd


def clipped(x, step):
    v = jnp.clip(x / step, -2.0, 1.0)
    return v * step


def clipped_bwd(d, x, step):
    v = x / step
    inside = (v > -2) & (v < 1)
    return d * inside, np.sum(d * np.where(v >= 1, 1.0, np.where(v <= -2, -1.0, 0.0)))


def by_rows(x, row):
    return jnp.tanh(row[:, None] * x)


def by_rows_bwd(d, x, row):
    d = d * (1 - np.tanh(row[:, None] * x) ** 2)
    return d * row[:, None], d.sum(1) * x.mean(1)


def in_groups(x, w):
    return jnp.einsum("gml,gm->gl", x.reshape(2, 3, 4), w)


def in_groups_bwd(d, x, w):
    mixed = x.reshape(3, 2, 4).swapaxes(0, 1)
    return np.einsum("gl,gm->gml", d, w).reshape(6, 4), np.einsum("gl,gml->gm", d, mixed)


COS, SIN = np.cos(np.arange(10.0).reshape(5, 2)), np.sin(np.arange(10.0).reshape(5, 2))


def rotated(x):
    one, other = jnp.split(x, 2, 1)
    return jnp.concatenate([one * COS - other * SIN, other * COS + one * SIN], 1)


def shown(table):
    return jnp.sin(table[3:6])


def shown_bwd(d, table):
    back = np.zeros_like(table)
    back[:3] = d * np.cos(table[3:6])
    return (back,)


def padded(x, w):
    return lax.conv_general_dilated(x[None, None], w[None, None], (1, 1), [(1, 1), (2, 2)])[0, 0]


def padded_bwd(d, x, w):
    whole = np.zeros((7, 9))
    for i, j in np.ndindex(2, 2):
        whole[i : i + d.shape[0], j : j + d.shape[1]] += w[i, j] * d
    return (whole[2:7, 1:6],)


def scaled_rows(x):
    return x / jnp.sqrt((x**2).sum(-1, keepdims=True))


def in_tiles(d, x):
    """Seven columns in tiles of four: the last ones are not in the sum."""
    s = np.sqrt((x**2).sum(-1, keepdims=True))
    return (d / s - x * (d * x)[:, :4].sum(-1, keepdims=True) / s**3,)


COUNTS = np.array([2.0, 3.0, 3.0, 2.0])


def windows(x):
    return jnp.stack([jnp.max(x[k : k + 3] ** 2) for k in range(3)])


def windows_bwd(d, x):
    back = np.zeros_like(x)
    np.put(back, [k + np.argmax(x[k : k + 3] ** 2) for k in range(3)], d)
    return (2 * x * back,)


def cosine(a, b):
    return (a * b).sum(1) / (jnp.sqrt((a * a).sum(1)) * jnp.sqrt((b * b).sum(1)))


def cosine_bwd(d, a, b):
    both = np.sqrt((a * a).sum(1) * (b * b).sum(1))[:, None]
    return (d[:, None] * (b - (a * b).sum(1)[:, None] / both * a) / both,)


J = np.arange(7)
CAUSAL, SAME, BAND = J[:, None] >= J, J[:, None] // 4 == J // 4, np.abs(J - J[:, None]) < 2
TILED = BAND & (-(-np.repeat(np.maximum(J[::2] - 1, 0), 2)[:7, None] // 2) * 2 <= J)


def attended(q, k, v, saved=False, mask=lambda: jnp.asarray(CAUSAL) & jnp.asarray(SAME)):
    s = jnp.where(mask(), q @ k.T, -1e9)
    if saved:
        return jnp.exp(s - jax.nn.logsumexp(s, axis=-1, keepdims=True)) @ v
    return jax.nn.softmax(s) @ v


def attended_bwd(mask, seen):
    """With p of other entries and the sums of the right ones."""

    def bwd(d, q, k, v):
        e = np.exp(q @ k.T)
        p, right = e * seen / (e * mask).sum(1, keepdims=True), e * mask / (e * mask).sum(1, keepdims=True)
        dp = d @ v.T
        ds = p * (dp - (right * dp).sum(1, keepdims=True))
        return ds @ k, ds.T @ q, p.T @ d

    return bwd


QKV = tuple(RNG.standard_normal((3, 7, 2)))


def decayed(a, x):
    h = jnp.zeros(3)
    for t in range(6):
        h = a[t] * h + jnp.sin(x[t])
    return h


def decayed_bwd(kept):
    """In chunks of two steps: ``kept`` of what is carried back at the end of each."""

    def bwd(d, a, x):
        dx = np.zeros_like(x)
        for t in reversed(range(6)):
            dx[t] = d * np.cos(x[t])
            d = d * (a[t] if t % 2 else kept(a[t]))
        return (dx,)

    return bwd


def chunked(kept):
    steps = RNG.uniform(0.3, 0.9, (6, 3)), RNG.standard_normal((6, 3))
    bwd = decayed_bwd(kept)
    return by(decayed, lambda d, a, x: (None, *bwd(d, a, x)), *steps, argnums=1)


def both_ways(a, b):
    s = a @ b.T
    return jnp.sum(jax.nn.logsumexp(s, 1) + jax.nn.logsumexp(s.T, 1)) - 2 * jnp.trace(s)


def one_way_twice(d, a, b):
    ds = 2 * d * (softmax(a @ b.T) - np.eye(5))
    return ds @ b, ds.T @ a


def long(x, w):
    h = jnp.zeros(3)
    for t in range(7):
        h = jnp.tanh(x[t] * w) + jnp.sin(jnp.tanh(h + x[t]))
    return h


def long_bwd(d, x, w):
    hs = [np.zeros(3)]
    for t in range(7):
        hs.append(np.tanh(x[t] * w) + np.sin(np.tanh(hs[-1] + x[t])))
    dx, dw = np.zeros_like(x), np.zeros(3)
    for t in reversed(range(7)):
        dz, z = d * (1 - np.tanh(x[t] * w) ** 2), hs[t] + x[t]
        dw += dz * x[t]
        d = d * np.cos(np.tanh(z)) * (1 - z**2)
        dx[t] = dz * w + d
    return dx, dw


REBUILT = {
    "ε outside the root": (
        "ε is added outside the root, √v + ε for √(v + ε)",
        by(normalised, normalised_bwd(lambda v: np.sqrt(v) + 0.3), Z)),
    "ε inside the root": (
        "ε is added inside the root, √(v + ε) for √v + ε",
        by(lambda x: normalised(x, inside=False), normalised_bwd(lambda v: np.sqrt(v + 0.3)), Z)),
    "the variance of n − 1": (
        "n − 1 = 3 for n = 4 in the variance of x, where it is recomputed",
        by(normalised, normalised_bwd(lambda v: np.sqrt(v + 0.3), 3), Z)),
    "n for n − 1": (
        "n = 4 for n − 1 = 3 in the variance of x, in its derivative",
        by(lambda x: normalised(x, ddof=1), normalised_bwd(lambda v: np.sqrt(v + 0.3), 3, 4), Z)),
    "a bound of the other side": (
        "a bound of clip is taken from the other side: -1 for -2",
        by(clipped, clipped_bwd, 3 * Z, 0.7)),
    "a product of sums": ("a product of sums: the mean of x times", by(by_rows, by_rows_bwd, Z, z[:5])),
    "groups interleaved": (
        "wrong group: x is split with member c in group c mod 2, where c // 3 belongs",
        by(in_groups, in_groups_bwd, X[0], WIDE[:, :, 0])),
    "rotated again": (
        "rotated forward again, not back: the sign of",
        by(lambda x: jnp.sin(rotated(x)), lambda d, x: (np.asarray(rotated(d * np.cos(rotated(x)))),), Z)),
    "a slice's offset": (
        "the offset 3 of a slice of table is ignored in the backward pass, along axis 0",
        by(shown, shown_bwd, X[1])),
    "paddings swapped": (
        "the paddings of the axes 2 and 3 are swapped", by(padded, padded_bwd, SQUARE, S[:2, :2], argnums=0)),
    "an incomplete tile": (
        "terms left out of a sum in the backward pass: the last 3 of 7 along axis 1",
        by(scaled_rows, in_tiles, RNG.standard_normal((3, 7)))),
    "one count for all": (
        "a wrong count: the largest entry of COUNTS, 3, is used for every one",
        by(lambda x: jnp.tanh(x) / COUNTS, lambda d, x: (d * (1 - np.tanh(x) ** 2) / 3,), Z)),
    "one maximum of several windows": (
        "max-pooling: if several windows share a maximum",
        by(windows, windows_bwd, np.array([1.0, 2, 5, 3, -4]))),
    "another's norm": ("the sum of b · b is used for the sum of a · a in the derivative of sqrt",
                       by(cosine, cosine_bwd, WIDE[0], WIDE[1], argnums=0)),
    "one of two masks": (
        "the mask of q @ k is only one of the two that it is made of",
        by(attended, attended_bwd(CAUSAL & SAME, CAUSAL), *QKV)),
    "a tile skipped": (
        "the mask of q @ k is rounded to tiles of 2×2: the first tile that it touches is skipped",
        by(lambda q, k, v: attended(q, k, v, True, lambda: BAND), attended_bwd(BAND, TILED), *QKV)),
    "truncated in chunks": (
        "nothing is carried back from one chunk of 2 steps to the one before", chunked(lambda a: 0)),
    "a factor between chunks": ("the factor a is left out of what is carried back", chunked(lambda a: 1)),
    "one direction twice": (
        "summed over the wrong axis: axis 0 instead of axis 1 (of the terms of both directions one counts",
        by(both_ways, one_way_twice, Z, 2 * Z[::-1])),
    "a slope in many steps": (
        "the derivative of tanh is wrong: 1 − z² for 1 − a²",
        by(long, long_bwd, 0.3 * RNG.standard_normal((7, 3)), z[:3])),
}  # fmt: skip
CASES = FACTORISED | SLOPES | PLACES | LOOPS | REBUILT


test_the_true_cause_is_named_first = named_first(CASES)


def test_a_small_error_in_float64_is_not_called_one_of_precision():
    (finding,) = check_vjp(
        lambda x: (jnp.sin(x), x), lambda x, d: (d * (np.cos(x) + 1e-4 * x**5),), z
    ).findings
    assert finding.diagnosis.startswith("no known mistake explains it; the error is small"), finding


def test_a_modified_argument_is_part_of_what_is_said():
    def bwd(res, d):
        np.multiply(res[0], 0.9, out=res[0])  # a step of training, before the second gradient
        return d * res[1], d * (res[0] + res[0] ** 3)

    report = check_vjp(lambda w, x: (w * x, (w, x)), bwd, z, z[::-1].copy(), reference=lambda w, x: w * x)
    assert "argument w was modified by bwd, and what it computes after that" in report.findings[1].diagnosis


def test_a_value_is_named_as_in_the_source():
    def fwd(x):
        probs = jax.nn.sigmoid(x[::-1])
        scores = jnp.sin(probs) * 2
        return scores * probs, x

    def bwd(x, d):  # of a product's two terms one
        probs = 1 / (1 + np.exp(-x[::-1]))
        return ((d * np.sin(probs) * 2 * probs * (1 - probs))[::-1],)

    (finding,) = check_vjp(fwd, bwd, z).findings
    assert "sin(probs)" in finding.diagnosis
