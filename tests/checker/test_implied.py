"""Causes that the error itself implies: entries left out or counted twice, a wrong order, a wrong term."""

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.checker.reach import reach
from manual_grad.checker.tape import write_down
from manual_grad.checker.truth import Point, exact
from tests.checker.causes import by, loss_by, named_first, right, softmax

RNG = np.random.default_rng(5)
PARTS = ((0, 3), (2, 5), (4, 8), (7, 9))
MASK = RNG.integers(0, 2, (4, 6)) * 1.0


def normal(*shape):
    return RNG.normal(size=shape)


def layer(x, W):
    return jnp.tanh(x) @ W


def layer_in_tiles(tiles):
    """The gradient in tiles of rows."""

    def bwd(d, x, W):
        t, dW = np.tanh(x), np.zeros_like(W)
        for tile in tiles:
            dW += t[tile].T @ d[tile]
        return (1 - t * t) * (d @ W.T), dW

    return bwd


def windowed(q, k, v):
    i = jnp.arange(len(q))
    near = (i[:, None] >= i) & (i[:, None] - i < 3)
    p = jax.nn.softmax(jnp.where(near, q @ k.T / 2, -jnp.inf), -1)
    return p @ v


def windowed_without_the_last_query(of_v):
    def bwd(d, q, k, v):
        i = np.arange(len(q))
        apart = i[:, None] - i
        p = softmax(np.where((apart >= 0) & (apart < 3), q @ k.T / 2, -np.inf))
        dp = d @ v.T
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / 2
        fewer = apart < 2
        return ds @ k, (ds * fewer).T @ q, ((p * fewer) if of_v else p).T @ d

    return bwd


def part_norm(x, g):
    r = jnp.sqrt((x[:, :3] ** 2).mean(-1, keepdims=True) + 1e-6)
    return x / r * g


def part_norm_everywhere(d, x, g):
    r = np.sqrt((x[:, :3] ** 2).mean(-1, keepdims=True) + 1e-6)
    dh = d * g
    return dh / r - x * (dh * x).sum(-1, keepdims=True) / (3 * r**3), (d * x / r).sum(0)


def normed_residual(x, r, w):
    h = x + r
    return h / jnp.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * w, h


def residual_before_the_norm(douts, x, r, w):
    d, dres = douts
    h = x + r
    s = 1 / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)
    d = d + dres
    dn = d * w
    dh = s * (dn - h * s**2 * (dn * h).mean(-1, keepdims=True))
    return dh, dh, (d * h * s).sum(0)


def grouped(k, v, q):
    """Four query heads; head j reads entry j mod 2 of k and v."""
    k, v = jnp.tile(k, (2, 1, 1)), jnp.tile(v, (2, 1, 1))
    return jnp.tanh(q @ k.transpose(0, 2, 1)) @ v


def grouped_by(groups):
    def bwd(d, k, v, q):
        of = np.arange(4) % 2
        t = np.tanh(q @ k[of].transpose(0, 2, 1))
        ds = (d @ v[of].transpose(0, 2, 1)) * (1 - t * t)
        dk, dv, dq = ds.transpose(0, 2, 1) @ q, t.transpose(0, 2, 1) @ d, ds @ k[of]
        dk, dv = (np.stack([x[groups == g].sum(0) for g in (0, 1)]) for x in (dk, dv))
        return dk, dv, dq

    return bwd


def losses_by_token(x, W, y):
    logp = jax.nn.log_softmax(x @ W)
    return -jnp.take_along_axis(logp, y[:, None], 1)[:, 0]


def losses_by_the_first_cotangent(d, x, W, y):
    p = softmax(x @ W)
    p[np.arange(len(y)), y] -= 1
    dz = p * d[0]
    return dz @ W.T, x.T @ dz, None


def dropped(q, k, v, mask):
    return (jax.nn.softmax(q @ k.T, -1) * mask / 0.8) @ v


def dropped_in_one_term(d, q, k, v, mask):
    p = softmax(q @ k.T)
    out = (p * mask / 0.8) @ v
    ds = p * (d @ v.T - (d * out).sum(-1, keepdims=True))
    return ds @ k, ds.T @ q, (p * mask / 0.8).T @ d, None


def quantised(x, s):
    def rounded(v):
        return v + jax.lax.stop_gradient(jnp.round(v) - v)

    return jnp.clip(rounded(x / s[:, None]), -2.5, 2.5) * s[:, None]


def quantised_with_the_mask_on_all(d, x, s):
    q = np.round(x / s[:, None])
    inside = np.abs(q) < 2.5
    d = d * inside
    return d, (d * (np.clip(q, -2.5, 2.5) - inside * x / s[:, None])).sum(1)


def recurrence(a, b):
    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    return jax.lax.associative_scan(combine, (jax.nn.sigmoid(a), b))[1]


def recurrence_back(decays, before=True):
    """The reverse scan with other decays, or with h_t in the gradient of the decay."""

    def bwd(d, a, b):
        z = 1 / (1 + np.exp(-a))
        h, hs = np.zeros(b.shape[1]), []
        for t in range(len(b)):
            hs.append(h := z[t] * h + b[t])
        hs, db, carried = np.array(hs), np.zeros_like(b), np.zeros(b.shape[1])
        for t in range(len(b) - 1, -1, -1):
            db[t] = carried = d[t] + decays(z)[t] * carried
        h = np.concatenate([np.zeros((1, b.shape[1])), hs[:-1]]) if before else hs
        return db * h * z * (1 - z), db

    return bwd


def after(z):
    return np.concatenate([z[1:], 0 * z[:1]])


def in_chunks_of_3(z):
    decays = after(z)
    decays[2::3] = 0
    return decays


def gated(x, W, V):
    a, b = x @ W, x @ V
    return a * jax.nn.sigmoid(a) * b


def gated_with_the_product(d, x, W, V):
    a, b = x @ W, x @ V
    s = 1 / (1 + np.exp(-a))
    da, db = d * b * (s + a * s * (1 - s)), d * b * s
    return da @ W.T + db @ V.T, x.T @ da, x.T @ db


def means_of_parts(x):
    return jnp.stack([x[:, a:b].mean(1) for a, b in PARTS], 1)


def means_of_parts_by_one_size(d, x):
    dx = np.zeros_like(x)
    for j, (a, b) in enumerate(PARTS):
        dx[:, a:b] += d[:, j : j + 1] / 3
    return (dx,)


def test_the_effect_of_every_value_is_its_derivative():
    def fn(x, W, g):
        h = jnp.tanh(x @ W) * g
        y = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
        part = jax.lax.dynamic_slice(y, (1, 0), (2, 4))
        return (jnp.cumsum(y, 0) * jnp.max(y)).sum() + jnp.linalg.inv(part @ part.T + jnp.eye(2)).sum()

    args = normal(5, 3), normal(3, 4), normal(4)
    with exact():
        tape = write_down(Point(fn, jax.tree.structure(args), args, ("x", "W", "g"), (0, 1, 2), (1.0,)))
        columns = np.array([0, 7, 14, 15, 20, 26, 27, 30])
        found = reach(tape, columns)
        want = np.concatenate([np.ravel(d) for d in jax.grad(fn, (0, 1, 2))(*args)])[columns]
    assert tape.active == found.keys()
    assert all(effect.shape == (*tape.shape(slot), 8) for slot, effect in found.items())
    np.testing.assert_allclose(found[tape.results[0]], want, rtol=1e-9, atol=1e-12)


CASES = {
    "the rows of a clamped tile are added twice": (
        "rows counted twice: 4 to 5 of 7 rows along axis 0 of tanh(x) @ W, as with tiles of 3",
        by(layer, layer_in_tiles([[0, 1, 2], [3, 4, 5], [4, 5, 6]]), normal(7, 4), normal(4, 5)),
    ),
    "every second row is left out": (
        "1, 3 and 5 of 7 along axis 0 are left out, in the cotangent of",
        by(layer, layer_in_tiles([[0, 2, 4, 6]]), normal(7, 4), normal(4, 5)),
    ),
    "the last query of a window": (
        "the mask of (q @ k) / 2 is one narrower at one edge of the band (a window or causal edge off by one",
        by(windowed, windowed_without_the_last_query(False), normal(7, 4), normal(7, 4), normal(7, 3)),
    ),
    "statistics of a part": (
        "the statistics are those of 3 of 7 entries along axis 1 of x, but their gradient is given to all 7",
        by(part_norm, part_norm_everywhere, normal(4, 7), normal(7)),
    ),
    "a residual's cotangent before the norm": (
        "the cotangent of the output 1 is added to the gradient of the output 0 instead of that of x + r",
        by(normed_residual, residual_before_the_norm, normal(3, 5), normal(3, 5), normal(5)),
    ),
    "contiguous groups for interleaved ones": (
        "summed over the wrong groups: member j of 4 is added to entry j // 2 of k, where it belongs to "
        "entry j mod 2",
        by(grouped, grouped_by(np.arange(4) // 2), normal(2, 5, 3), normal(2, 5, 3), normal(4, 6, 3)),
    ),
    "the first cotangent for all": (
        "the first one is used for every one along axis 0",
        by(
            losses_by_token,
            losses_by_the_first_cotangent,
            normal(6, 3),
            normal(3, 4),
            np.array([0, 3, 2, 1, 0, 1]),
            argnums=(0, 1),
        ),
    ),
    "a mask in one of two terms": (
        "the cotangent of the result of a quotient stands where that of the probabilities belongs",
        by(dropped, dropped_in_one_term, normal(4, 3), normal(6, 3), normal(6, 2), MASK, argnums=(0, 1, 2)),
    ),
    "a clip's mask on what does not pass": (
        "the mask of maximum and minimum is applied too in what flows back through",
        by(quantised, quantised_with_the_mask_on_all, normal(3, 9), np.array([0.3, 0.2, 0.5])),
    ),
    "the decay of the same step": (
        "sigmoid(a) of the same step t is used where that of the next step, t + 1, belongs",
        by(recurrence, recurrence_back(lambda z: z), normal(7, 3), normal(7, 3)),
    ),
    "nothing between chunks": (
        "nothing is carried back from one chunk of 3 steps to the one before",
        by(recurrence, recurrence_back(in_chunks_of_3), normal(7, 3), normal(7, 3)),
    ),
    "the state of the same step": (
        "h_t is used where h_(t − 1) belongs, in the gradient of sigmoid(a)",
        by(recurrence, recurrence_back(after, before=False), normal(7, 3), normal(7, 3)),
    ),
    "a product of two for one": (
        "(x @ V) · (sigmoid(x @ W)) stands where (x @ W) · (sigmoid(x @ W)) belongs",
        by(gated, gated_with_the_product, normal(5, 6), normal(6, 4), normal(6, 4)),
    ),
    "parts of different sizes": (
        "all 4 parts are divided by the same number, where each one's own size belongs",
        by(means_of_parts, means_of_parts_by_one_size, normal(3, 9)),
    ),
}
test_the_cause_is_named = named_first(CASES)

RIGHT = {
    "grouped": by(grouped, grouped_by(np.arange(4) % 2), normal(2, 5, 3), normal(2, 5, 3), normal(4, 6, 3)),
    "recurrence": by(recurrence, recurrence_back(after), normal(7, 3), normal(7, 3)),
    "layer": by(layer, layer_in_tiles([[0, 1, 2], [3, 4, 5], [6]]), normal(7, 4), normal(4, 5)),
}


test_the_right_gradients_pass = right(RIGHT)


def test_all_that_flows_back_is_no_part_that_is_added_elsewhere():
    def fn(w, u, x):
        z = jnp.zeros(3)
        for _ in range(8):
            z = jnp.tanh(w @ z + u @ x)
        return (z**2).sum()

    ask = loss_by(
        fn, lambda w, u, x: (np.ones((3, 3)), np.outer(np.ones(3), x), None),
        normal(3, 3) / 4, normal(3, 2), normal(2), argnums=(0, 1),
    )  # fmt: skip
    report = ask()
    assert [finding.ok for finding in report.findings] == [False, False]
    assert "is added to" not in str(report), str(report)
