"""Mistakes in one term of several, at bounds, in the masks of blocks, in chunks of a loop, and in sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from manual_grad.verify import check_grad
from tests.checker.causes import by, loss_by, named_first, softmax

RNG = np.random.default_rng(91)
LOOKED_UP = np.array([0, 2, 2, 4, 1])
SHORT_ROWS = np.array([0.1, 1, 1, 0.2, 1])[:, None]
A, B = RNG.standard_normal((5, 4)) * SHORT_ROWS, RNG.standard_normal((5, 4)) * SHORT_ROWS[::-1]
Q, K, V = (RNG.standard_normal((9, n)) for n in (3, 3, 2))
LOGITS, TRUE = RNG.standard_normal((6, 3)), (RNG.uniform(size=(6, 3)) < 0.5).astype(float)
WEIGHT, ONE_OF = RNG.uniform(1.5, 3, 3), np.eye(3)[[0, 1, 2, 2, 0, 1]]
CODES, ZERO, SCALE = RNG.integers(0, 16, (3, 2, 4)), RNG.integers(5, 9, (3, 4)), RNG.uniform(0.1, 0.3, (3, 4))
POINTS, IMAGE = 0.8 * np.tanh(RNG.standard_normal((8, 2))), RNG.standard_normal((5, 9))
DECAY = 1 / (1 + np.exp(-RNG.standard_normal((9, 3)) - 1))
MANY = RNG.standard_normal((3, 4, 5, 16))
THETA = np.array([[0.8, 0.1, 0.05], [-0.1, 0.7, 0.02]])
VALID = np.array([1.0, 1, 0, 1, 1])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# --- bounds -----------------------------------------------------------------------------------------------


def cosine(a, b):
    norms = [jnp.maximum(jnp.linalg.norm(x, axis=1), 0.7) for x in (a, b)]
    return jnp.sum(jnp.sin((a * b).sum(1) / (norms[0] * norms[1])))


def cosine_grad(bounded):
    def grad(a, b):
        m, n = (np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        over, under = np.maximum(m, 0.7), np.maximum(n, 0.7)
        c = (a * b).sum(1, keepdims=True) / (over * under)
        d = np.cos(c)
        own = [(x > 0.7) if bounded else 1 for x in (m, n)]
        return (
            d * (b / (over * under) - own[0] * c * a / over**2),
            d * (a / (over * under) - own[1] * c * b / under**2),
        )

    return grad


def deviations(x):
    c = x - x.mean(-1, keepdims=True)
    v = jnp.mean(c**2, -1, keepdims=True)
    return jnp.sum(jnp.sin(c / jnp.sqrt(jnp.where(v > 0.2, v, 0.2))))


def deviations_grad(bounded):
    def grad(x):
        c = x - x.mean(-1, keepdims=True)
        v = (c**2).mean(-1, keepdims=True)
        s = np.sqrt(np.maximum(v, 0.2))
        d, own = np.cos(c / s), (v > 0.2) if bounded else 1
        through = own * c / s * (d * c / s).mean(-1, keepdims=True)
        return ((d - d.mean(-1, keepdims=True) - through) / s,)

    return grad


# --- masks in blocks --------------------------------------------------------------------------------------


def window(n, at=0):
    i = np.arange(n)
    return (i[None] <= i[:, None]) & (i[:, None] - i[None] < 4)


def attention(q, k, v):
    return jnp.sum(jnp.sin(jax.nn.softmax(jnp.where(window(9), q @ k.T / 2, -jnp.inf)) @ v))


def attention_grad(place):
    """In tiles of 4 with the log-sum-exp saved; ``place(start)`` is where a tile's indices start."""

    def grad(q, k, v):
        mask, s = window(9), q @ k.T / 2
        p = softmax(np.where(mask, s, -1e30))
        d = np.cos(p @ v)
        rows = (d * (p @ v)).sum(1, keepdims=True)
        over = np.log(np.exp(np.where(mask, s, -1e30)).sum(1, keepdims=True))
        dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
        for a in range(0, 9, 4):
            for b in range(0, 9, 4):
                r, c = slice(a, a + 4), slice(b, b + 4)
                i, j = (place(x) + np.arange(len(q[y])) for x, y in ((a, r), (b, c)))
                here = (j[None] <= i[:, None]) & (i[:, None] - j[None] < 4)
                if not mask[r, c].any():
                    continue
                own = np.where(here, np.exp(s[r, c] - over[r]), 0)
                ds = own * (d[r] @ v[c].T - rows[r]) / 2
                dq[r] += ds @ k[c]
                dk[c] += ds.T @ q[r]
                dv[c] += own.T @ d[r]
        return dq, dk, dv

    return grad


BIAS = np.where(np.tri(9, dtype=bool), 0, -1e9)


def biased(q, k, v):
    return jnp.sum((jax.nn.softmax(q @ k.T + BIAS) @ v) ** 2)


def biased_grad(bias):
    def grad(q, k, v):
        p = softmax(q @ k.T + bias)
        d = 2 * p @ v
        ds = p * (d @ v.T - (p * (d @ v.T)).sum(1, keepdims=True))
        return ds @ k, ds.T @ q, p.T @ d

    return grad


def of_own_columns():
    i = np.arange(9)
    return np.where(i[None] % 3 <= i[:, None], 0, -1e9)


# --- chunks -----------------------------------------------------------------------------------------------


def linear_attention(q, k, v):
    return jnp.sum(jnp.sin((q @ k.T * np.tri(9)) @ v))


def linear_attention_grad(early_state=False, early_cotangent=False):
    def grad(q, k, v):
        d = np.cos((q @ k.T * np.tri(9)) @ v)
        dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
        state, back = np.zeros((3, 2)), np.zeros((3, 2))
        for c in (slice(0, 4), slice(4, 8), slice(8, 9)):
            after = state + k[c].T @ v[c]
            dq[c] = np.tril(d[c] @ v[c].T) @ k[c] + d[c] @ (after if early_state else state).T
            state = after
        for c in (slice(8, 9), slice(4, 8), slice(0, 4)):
            after = back + q[c].T @ d[c]
            used = after if early_cotangent else back
            dk[c] = np.tril(d[c] @ v[c].T).T @ q[c] + v[c] @ used.T
            dv[c] = np.tril(q[c] @ k[c].T).T @ d[c] + k[c] @ used
            back = after
        return dq, dk, dv

    return grad


def decaying(k, v, a, q):
    def step(state, inputs):
        a, k, v, q = inputs
        state = a[:, None] * state + jnp.outer(k, v)
        return state, q @ state

    return jnp.sum(jnp.sin(lax.scan(step, jnp.zeros((3, 2)), (a, k, v, q))[1]))


def decaying_grad(early):
    def grad(k, v, a, q):
        state, states = np.zeros((3, 2)), []
        for t in range(9):
            state = a[t][:, None] * state + np.outer(k[t], v[t])
            states.append(state)
        d = [np.cos(q[t] @ states[t]) for t in range(9)]
        dk, dv, carried = np.zeros_like(k), np.zeros_like(v), np.zeros((3, 2))
        for start in (6, 3, 0):
            through = [np.prod(a[start : t + 1], axis=0) for t in range(start, start + 3)]
            entering = through[-1][:, None] * carried + sum(
                np.outer(g * q[t], d[t]) for g, t in zip(through, range(start, start + 3), strict=True)
            )
            for t in range(start, start + 3):
                later = [np.prod(a[t + 1 : s + 1], axis=0) for s in range(t, start + 3)]
                back = sum(np.outer(g * q[s], d[s]) for g, s in zip(later, range(t, start + 3), strict=True))
                back = back + later[-1][:, None] * (entering if early else carried)
                dk[t], dv[t] = back @ v[t], k[t] @ back
            carried = entering
        return dk, dv

    return grad


def scanned(x, a):
    def step(h, inputs):
        h = inputs[1] * h + inputs[0]
        return h, h

    return jnp.sum(jnp.sin(lax.scan(step, jnp.zeros(3), (x, a))[1]))


def scanned_grad(own):
    def grad(x, a):
        h, states = np.zeros(3), []
        for t in range(9):
            h = a[t] * h + x[t]
            states.append(h)
        dx, carried = np.zeros_like(x), np.zeros(3)
        for t in range(8, -1, -1):
            dx[t] = np.cos(states[t]) + carried
            carried = a[t if own or t % 3 else t - 1] * dx[t]
        return (dx,)

    return grad


# --- one term of several ----------------------------------------------------------------------------------


def weighted(x, y, weight):
    return jnp.mean(weight * y * jax.nn.softplus(-x) + (1 - y) * jax.nn.softplus(x))


def weighted_grad(of_truth, of_score):
    def grad(x, y, weight):
        score = ((1 + (weight - 1) * y) if of_score else 1) * sigmoid(x)
        return ((score - (weight if of_truth else 1) * y) / x.size,)

    return grad


def logged(x, y, weight):
    p = jax.nn.sigmoid(x)
    return -jnp.sum(weight * y * jnp.log(p) + (1 - y) * jnp.log(1 - p))


def logged_grad(x, y, weight):
    return (sigmoid(x) - weight * y,)


def summed(x, y, weight):
    return jnp.sum(weight * (jax.nn.softplus(x) - x * y))


def classes(z, y, weight):
    return -jnp.sum(weight * y * jax.nn.log_softmax(z))


def classes_grad(of_truth, of_score):
    def grad(z, y, weight):
        rows = (weight * y).sum(1, keepdims=True) if of_score else 1
        return (rows * softmax(z) - (weight if of_truth else 1) * y,)

    return grad


def grouped(scale, x, codes, zero):
    w = ((codes - zero[:, None]) * scale[:, None]).reshape(6, 4)
    return jnp.sum(jnp.tanh(x @ w))


def grouped_grad(of_zero):
    def grad(scale, x, codes, zero):
        w = ((codes - zero[:, None]) * scale[:, None]).reshape(6, 4)
        d = (x.T @ (1 - np.tanh(x @ w) ** 2)).reshape(3, 2, 4)
        return ((d * (codes - of_zero * zero[:, None])).sum(1),)

    return grad


# --- sizes ------------------------------------------------------------------------------------------------


def sampled(theta, points, image):
    grid = points @ theta[:, :2].T + theta[:, 2]
    x, y = (grid[:, 0] + 1) * (image.shape[1] - 1) / 2, (grid[:, 1] + 1) * (image.shape[0] - 1) / 2
    i, j = (lax.stop_gradient(jnp.floor(z).astype(int)) for z in (y, x))
    a, b, c, d = image[i, j], image[i, j + 1], image[i + 1, j], image[i + 1, j + 1]
    u, w = y - i, x - j
    return jnp.sum(jnp.sin((1 - u) * ((1 - w) * a + w * b) + u * ((1 - w) * c + w * d)))


def sampled_grad(units):
    def grad(theta, points, image):
        grid = points @ theta[:, :2].T + theta[:, 2]
        x, y = (grid[:, 0] + 1) * 4, (grid[:, 1] + 1) * 2
        i, j = np.floor(y).astype(int), np.floor(x).astype(int)
        a, b, c, d = image[i, j], image[i, j + 1], image[i + 1, j], image[i + 1, j + 1]
        u, w = y - i, x - j
        g = np.cos((1 - u) * ((1 - w) * a + w * b) + u * ((1 - w) * c + w * d))
        of_grid = np.stack([g * ((1 - u) * (b - a) + u * (d - c)), g * ((1 - w) * (c - a) + w * (d - b))], 1)
        of_grid = of_grid * units
        return (np.concatenate([of_grid.T @ points, of_grid.sum(0)[:, None]], 1),)

    return grad


def heads(q, k, v):
    return jnp.mean((jax.nn.softmax(q @ k.transpose(0, 2, 1) / 4) @ v) ** 2)


def heads_grad(of_q, of_all=1):
    def grad(q, k, v):
        p = softmax(q @ k.transpose(0, 2, 1) / 4)
        d = of_all * 2 * (p @ v) / v.size
        ds = p * (d @ v.transpose(0, 2, 1) - (p * (d @ v.transpose(0, 2, 1))).sum(-1, keepdims=True))
        return ds @ k * of_q, ds.transpose(0, 2, 1) @ q / 4, p.transpose(0, 2, 1) @ d

    return grad


def standardised(x, valid):
    n = valid.sum()
    mean = (x * valid[:, None]).sum(0) / n
    variance = ((x - mean) ** 2 * valid[:, None]).sum(0) / n
    return jnp.sum(jnp.sin((x - mean) / jnp.sqrt(variance + 1e-5)) * valid[:, None])


def standardised_grad(count):
    def grad(x, valid):
        n, m = valid.sum(), valid[:, None]
        mean = (x * m).sum(0) / n
        r = 1 / np.sqrt(((x - mean) ** 2 * m).sum(0) / n + 1e-5)
        h = (x - mean) * r
        d = np.cos(h) * m
        return (r * (d - m * d.sum(0) / count - m * h * (d * h).sum(0) / count),)

    return grad


# --- softmax ----------------------------------------------------------------------------------------------


def attended(q, k, v):
    return jnp.sum(jnp.sin(jax.nn.softmax(q @ k.T) @ v))


def attended_grad(sum_of, last=9):
    def grad(q, k, v):
        s = q @ k.T
        d = np.cos(softmax(s) @ v)
        p = np.exp(s) / np.exp(s[:, -last:]).sum(1, keepdims=True)
        rows = (d * (softmax(s) @ v)).sum(1, keepdims=True)
        ds = p * (d @ v.T) - sum_of(p, rows)
        return ds @ k, ds.T @ q, p.T @ d

    return grad


def capped(q, k, v):
    return jnp.sum(jnp.sin(jax.nn.softmax(3 * jnp.tanh(q @ k.T / 5)) @ v))


def capped_grad(scale=5, slope=1, of_q=slice(None)):
    """With the log-sum-exp saved; q's gradient is that of some keys alone."""

    def grad(q, k, v):
        t = np.tanh(q @ k.T / 5)
        p = softmax(3 * t)
        d = np.cos(p @ v)
        rows = (d * (p @ v)).sum(1, keepdims=True)
        again = np.exp(3 * t * scale / 5 - np.log(np.exp(3 * t).sum(1, keepdims=True)))
        ds = again * (d @ v.T - rows) * 3 * (1 - (slope * t) ** 2) / 5
        return ds[:, of_q] @ k[of_q], ds.T @ q, again.T @ d

    return grad


def from_state(x, h, a):
    def step(h, x):
        h = jnp.tanh(a) * h + x
        return h, h

    return jnp.sum(jnp.sin(lax.scan(step, h, x)[1]))


def from_state_grad(whole):
    def grad(x, h, a):
        states, carried = [h], np.zeros(3)
        for row in x:
            states.append(np.tanh(a) * states[-1] + row)
        dx, da = np.zeros_like(x), np.zeros(3)
        for t in range(len(x) - 1, -1, -1):
            dx[t] = np.cos(states[t + 1]) + carried
            da += dx[t] * states[t] * (1 - np.tanh(a) ** 2)
            carried = np.tanh(a) * dx[t]
        return dx, carried if whole else dx[0], da

    return grad


def looked_up(table, weights):
    return jnp.sum(jnp.sin(table[LOOKED_UP] * jnp.sqrt(table.shape[1]) * weights))


def looked_up_grad(scale):
    def grad(table, weights):
        back = np.zeros_like(table)
        np.add.at(back, LOOKED_UP, scale * weights * np.cos(table[LOOKED_UP] * 2 * weights))
        return (back,)

    return grad


def quantile(x, y):
    return jnp.mean(jnp.where(y > x, 0.8 * (y - x), -0.2 * (y - x)))


def quantile_grad(below):
    return lambda x, y: (np.where(y > x, -0.8, below) / x.size,)


def right_rows(p, rows):
    return p * rows


TILES = attention_grad(lambda start: start)
RIGHT = {
    "cosine": (cosine, cosine_grad(True), (A, B)),
    "a bounded variance": (deviations, deviations_grad(True), (A,)),
    "tiles": (attention, TILES, (Q, K, V)),
    "a mask that is added": (biased, biased_grad(BIAS), (Q, K, V)),
    "linear attention": (linear_attention, linear_attention_grad(), (Q, K, V)),
    "a decaying state": (decaying, decaying_grad(False), (K, V, DECAY, Q)),
    "a scan": (scanned, scanned_grad(True), (Q, DECAY)),
    "weights": (weighted, weighted_grad(True, True), (LOGITS, TRUE, WEIGHT)),
    "weights of classes": (classes, classes_grad(True, True), (LOGITS, ONE_OF, WEIGHT)),
    "codes": (grouped, grouped_grad(1), (SCALE, RNG.standard_normal((5, 6)), CODES, ZERO)),
    "an affine grid": (sampled, sampled_grad([4, 2]), (THETA, POINTS, IMAGE)),
    "heads": (heads, heads_grad(1 / 4), (MANY[0], MANY[1], MANY[2])),
    "valid rows": (standardised, standardised_grad(4), (A / SHORT_ROWS, VALID)),
    "attention": (attended, attended_grad(right_rows), (Q, K, V)),
    "capped scores": (capped, capped_grad(), (Q, K, V)),
    "an initial state": (from_state, from_state_grad(True), (Q, K[0], K[1])),
    "a scaled embedding": (looked_up, looked_up_grad(2), (A, B)),
    "a quantile": (quantile, quantile_grad(0.2), (LOGITS, LOGITS[::-1])),
}


def mistaken(case, grad, argnums):
    fn, _, args = RIGHT[case]
    return loss_by(fn, grad, *args, argnums=argnums)


EARLY = "a running state is updated too early: "
OF_BLOCK = "the mask of (q @ k) / 2 is that of a block: each block of 4 rows and columns uses the index in"
PARTLY = "the factor weight is missing in one of the terms that it belongs to: in "
CASES = {
    "the norm's bound ignored": (
        "the bound in max(the norm of a, 0.7) is ignored in the backward pass",
        mistaken("cosine", cosine_grad(False), (0, 1)),
    ),
    "the variance's bound ignored": (
        "the bound in max(the variance of x, 0.2) is ignored in the backward pass",
        mistaken("a bounded variance", deviations_grad(False), 0),
    ),
    "indices inside a tile": (OF_BLOCK, mistaken("tiles", attention_grad(lambda start: 0), (0, 1, 2))),
    "columns inside a block": (
        "the mask of q @ k is that of a block: each block of 3 columns uses the index inside the block",
        mistaken("a mask that is added", biased_grad(of_own_columns()), (0, 1, 2)),
    ),
    "the state with the chunk": (
        f"{EARLY}with each chunk of 4 before that chunk uses it",
        mistaken("linear attention", linear_attention_grad(early_state=True), (0, 1, 2)),
    ),
    "the state's cotangent with the chunk": (
        f"{EARLY}with each chunk of 4 before that chunk uses it",
        mistaken("linear attention", linear_attention_grad(early_cotangent=True), (0, 1, 2)),
    ),
    "the same with a decay in a loop": (
        f"{EARLY}the cotangent of state gets the part of a chunk of 3 steps before that chunk uses it",
        mistaken("a decaying state", decaying_grad(True), (0, 1)),
    ),
    "the decay of another chunk": (
        "the factor a of the step before is used in what is carried back from one chunk of 3 steps",
        mistaken("a scan", scanned_grad(False), 0),
    ),
    "a weight on the score alone": (
        f"{PARTLY}the slope of `jax.nn.softplus(-x)` with respect to x, in its constant term",
        mistaken("weights", weighted_grad(False, True), 0),
    ),
    "a weight on the truth alone": (
        f"{PARTLY}the slope of `jax.nn.softplus(-x)` with respect to x, in all but its constant term",
        mistaken("weights", weighted_grad(True, False), 0),
    ),
    "a weight on the truth alone, of log p": (
        f"{PARTLY}the slope of log(sigmoid(x)) with respect to x, in all but its constant term",
        loss_by(
            logged, lambda *args: (LOGITS.size * weighted_grad(True, False)(*args)[0],), LOGITS, TRUE, WEIGHT
        ),
    ),
    "a weight on one term of a difference": (
        f"{PARTLY}what flows back through `jax.nn.softplus(x)` − (x · y) to x · y",
        loss_by(summed, lambda x, y, weight: (weight * sigmoid(x) - y,), LOGITS, TRUE, WEIGHT),
    ),
    "a class's weight on the softmax alone": (
        f"{PARTLY}what flows back through (a difference) − log to a difference",
        mistaken("weights of classes", classes_grad(False, True), 0),
    ),
    "a class's weight on the truth alone": (
        f"{PARTLY}what flows back through (a difference) − log to log",
        mistaken("weights of classes", classes_grad(True, False), 0),
    ),
    "groups without their zero point": (
        "the term zero is left out: codes is used for codes − zero in the derivative of",
        mistaken("codes", grouped_grad(0), 0),
    ),
    "the image's units left out": (
        "a number that each slice along axis 0 is multiplied by is missing: "
        "4 = (9 − 1)/2 (axis 1 of image) at 0, 2 = (5 − 1)/2 (axis 0 of image) at 1",
        mistaken("an affine grid", sampled_grad([1, 1]), 0),
    ),
    "1/√d for q alone, as large as 1/N": (
        "scaled by √16 (axis 2 of q): 1/√16 is missing or scaled by N = 4",
        mistaken("heads", heads_grad(1), (0, 1, 2)),
    ),
    "1/N for all, as large as 1/√d": (
        "scaled by N = 4 (axis 0 of q): loss summed instead of averaged, 1/N is missing or scaled by √16",
        mistaken("heads", heads_grad(1 / 4, of_all=4), (0, 1, 2)),
    ),
    "all rows for the valid ones": (
        "divided by 5 (axis 0 of x) instead of n (4), in all 2 places",
        mistaken("valid rows", standardised_grad(5), 0),
    ),
    "a row's sum without p": (
        "the gradient of a softmax is p · dp − Σ p · dp (the sum is not multiplied by p)",
        mistaken("attention", attended_grad(lambda p, rows: rows), (0, 1, 2)),
    ),
    "the last block's normaliser": (
        "the sum that a softmax divides by is only that of the last 4 of 9 entries of a row",
        mistaken("attention", attended_grad(right_rows, last=4), (0, 1, 2)),
    ),
}

CASES |= {
    "scores without their scale": (
        "the factor 3 is left out of the scores where the probabilities are rebuilt (what softmax divides by",
        mistaken("capped scores", capped_grad(scale=5 / 3), (0, 1, 2)),
    ),
    "a slope of the scaled result": (
        "the derivative of tanh is computed from 3 · (tanh((q @ k) / 5)), where its own result",
        mistaken("capped scores", capped_grad(slope=3), (0, 1, 2)),
    ),
    "the last block of keys alone": (
        "blocks are assigned instead of added up (= for +=): only the last block of 1 of 9 counts in the",
        mistaken("capped scores", capped_grad(of_q=slice(8, 9)), (0, 1, 2)),
    ),
    "the first state's gradient for the initial one's": (
        "this is the gradient of another value: of a later h",
        mistaken("an initial state", from_state_grad(False), (0, 1, 2)),
    ),
    "√d is missing": (
        "scaled by one over sqrt(4): the factor sqrt(4) is missing (√D = √4, axis 1 of table)",
        mistaken("a scaled embedding", looked_up_grad(1), 0),
    ),
    "the other side's number": (
        "the number −0.8 is used for -0.2 in the derivative of",
        mistaken("a quantile", quantile_grad(0.8), 0),
    ),
}

test_the_true_cause_is_named_first = named_first(CASES)


@pytest.mark.parametrize("case", RIGHT)
def test_the_right_version_passes(case):
    fn, grad, args = RIGHT[case]
    count = sum(part is not None for part in grad(*args))
    assert check_grad(fn, lambda *args: tuple(grad(*args)[:count]), *args, argnums=tuple(range(count))).ok


def test_a_cause_in_an_argument_that_is_right_is_not_named():
    """Two arguments are normalised alike: the one whose gradient is right does not occur in the diagnosis."""

    def fn(q, k):
        scores = [x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k)]
        return jnp.sum(jnp.sin(scores[0] @ scores[1].T))

    def grad(q, k):
        m, n = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
        d = np.cos((q / m) @ (k / n).T)
        dq, dk = d @ (k / n), d.T @ (q / m)
        of_q = (dq - q / m * (dq * q / m).sum(-1, keepdims=True)) / m
        return of_q, (dk - k / n * (dk * k).sum(-1, keepdims=True)) / n

    q, k = check_grad(fn, grad, Q, K[:5], argnums=(0, 1)).findings
    assert q.ok
    assert k.diagnosis.startswith("k is used for x̂ inside the mean")
    assert "q is used" not in k.diagnosis


def test_a_mean_of_booleans_which_jax_computes_in_float32_is_no_error():
    def fn(x):
        p = jax.nn.softmax(x)
        return jnp.sum(jnp.mean(p >= p.max(-1, keepdims=True), 0) * p.mean(0))

    def grad(x):
        p = softmax(x)
        d = (p >= p.max(-1, keepdims=True)).mean(0) / len(x)
        return p * (d - (p * d).sum(-1, keepdims=True))

    x = RNG.standard_normal((7, 3))
    assert check_grad(fn, grad, x).ok
    assert not check_grad(fn, lambda x: 1.01 * grad(x), x).ok


def relaxed(swapped):
    """tanh of W z + x over and over: unrolled, with the slope on the wrong side of Wᵀ."""

    def fn(W, x):
        z = jnp.zeros(4)
        for _ in range(12):
            z = jnp.tanh(W @ z + x)
        return jnp.sum(z * jnp.arange(1.0, 5.0))

    def grad(W, x):
        zs = [np.zeros(4)]
        for _ in range(12):
            zs.append(np.tanh(W @ zs[-1] + x))
        d, dW, dx = np.arange(1.0, 5.0), np.zeros_like(W), np.zeros_like(x)
        for before, z in zip(zs[-2::-1], zs[:0:-1], strict=True):
            dz = d * (1 - z**2)
            dW, dx = dW + np.outer(dz, before), dx + dz
            d = (1 - z**2) * (W.T @ d) if swapped else W.T @ dz
        return dW, dx

    return check_grad(fn, grad, 0.3 * RNG.standard_normal((4, 4)), RNG.standard_normal(4), argnums=(0, 1))


def test_a_slope_with_a_constant_term_in_a_loop_is_explained():
    assert relaxed(swapped=False).ok
    report = relaxed(swapped=True)
    assert "the search ended" not in str(report), str(report)
    assert report.findings[0].diagnosis.startswith("in the wrong order: the derivative of tanh"), str(report)


def test_a_constant_of_a_narrower_dtype_allows_no_larger_error():
    mask = np.array([1.0, 0, 1, 1])

    def fn(x):
        return jnp.sum(jnp.sin(x) * jnp.asarray(mask, jnp.bfloat16))

    x = RNG.standard_normal((3, 4))
    assert check_grad(fn, lambda x: np.cos(x) * mask, x).ok
    report = check_grad(fn, lambda x: 1.1 * np.cos(x) * mask, x)
    assert not report.ok
    assert "bfloat16" not in str(report)


def test_the_error_that_a_function_s_own_dtype_allows_is_noted():
    def fn(x):
        return jnp.sum(jnp.sin(x.astype(jnp.bfloat16)).astype(x.dtype))

    report = check_grad(fn, np.cos, RNG.standard_normal((3, 4)))
    assert report.ok
    assert "the function computes in bfloat16: errors up to 0.12 of the largest are allowed" in report.notes


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_booleans_may_choose_entries(array):
    keep = array([True, False, True, True])

    def fn(x, keep):
        return jnp.sum(jnp.sin(x[keep]))

    x = RNG.standard_normal(4)
    assert check_grad(fn, lambda x, keep: np.cos(x) * np.asarray(keep), x, keep).ok
    assert not check_grad(fn, lambda x, keep: np.cos(x), x, keep).ok


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_integers_may_decide_what_is_computed(array):
    def fn(x, lengths, keep):
        return sum(
            jnp.sum(jnp.sin(row[: int(n)]) ** 2) for row, n, k in zip(x, lengths, keep, strict=True) if k
        )

    def grad(x, lengths, keep):
        inside = (np.arange(x.shape[1]) < np.asarray(lengths)[:, None]) & np.asarray(keep)[:, None]
        return np.where(inside, np.sin(2 * x), 0)

    args = RNG.standard_normal((4, 6)), array([6, 2, 5, 3]), array([True, True, False, True])
    assert check_grad(fn, grad, *args).ok
    report = check_grad(fn, lambda *given: -grad(*given), *args)
    assert report.findings[0].diagnosis == "sign flipped", str(report)


# --- symmetric matrices -------------------------------------------------------------------------------

SPREAD = RNG.normal(size=(4, 4))
POSITIVE = SPREAD @ SPREAD.T + 4 * np.eye(4)


def log_det(a):
    return jnp.log(jnp.linalg.det((a + a.T) / 2))


def of_symmetric(off):
    def bwd(d, a):
        inverse = np.linalg.inv((a + a.T) / 2)
        return (d * (off * inverse + (1 - off) * np.diag(np.diag(inverse))),)

    return bwd


test_symmetric_matrices = named_first(
    {
        "for one variable": (
            "the entries off the diagonal are twice as large as the right ones",
            by(log_det, of_symmetric(2.0), POSITIVE),
        ),
        "for two": (
            "the entries off the diagonal are half as large as the right ones",
            by(log_det, of_symmetric(0.5), POSITIVE),
        ),
    }
)


# --- of causes with the same gradient, the likelier one ---------------------------------------------------


def affine(x, w, b):
    return x * w + b


def without_the_last_block(d, x, w, b):
    return d * w, (d * x)[:9].sum(0), d[:9].sum(0)


def penalised(x, y):
    return (x**2 + 0.3 * (jnp.exp(y - x) - (y - x) - 1)).sum()


test_the_likelier_cause = named_first(
    {
        "rows dropped, not shifted": (
            "samples dropped: the last 2 of 11",
            by(affine, without_the_last_block, *(RNG.normal(size=n) for n in ((11, 4), 4, 4))),
        ),
        "a term treated as a constant": (
            "a path is missing",
            by(penalised, lambda d, x, y: (d * 2 * x, None), *RNG.normal(size=(2, 5)), argnums=0),
        ),
    },
    in_all=True,
)
