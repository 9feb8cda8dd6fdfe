"""Mistakes of one place in networks by hand, each named by the edit that makes the gradient right."""

import ast
import inspect

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.checker.edits import search
from manual_grad.verify import check_vjp

RNG = np.random.default_rng(0)


def edits(fwd, bwd, *args):
    """What the report says of each wrong argument: the edit, or the cause."""
    names = inspect.signature(fwd).parameters
    report = check_vjp(lambda *a: (fwd(*a), a), bwd, *args, reference=fwd, names=names)
    return {f.name: f.edit or f.diagnosis for f in report.findings if not f.ok}


def torsion_fwd(v, s, x):
    return v[0] * s[0] + v[1] * s[1] * x + v[2] * s[2] * x**3


def torsion_bwd(res, d):
    v, s, x = res
    powers = np.array([np.ones_like(x), x, x**3])
    dx = d * (v[1] * s[1] + v[1] * s[1] * 3 * x**2)
    return (d * s.T * powers.T).sum(0), (d * v.T * powers.T).T, dx


def test_two_indices_of_one_product():
    v, s, x = RNG.normal(size=3), RNG.normal(size=3), RNG.normal(size=())
    wrong = edits(lambda x: torsion_fwd(v, s, x), lambda res, d: (torsion_bwd((v, s, *res), d)[2],), x)
    assert "`v[2] * s[2] * 3" in wrong["x"] or "dx = d * (v[1] * s[1] + v[2] * s[2]" in wrong["x"], wrong


RATE, KEEP = 0.3, (RNG.random(size=(4, 5)) > 0.3).astype(float)


def dropout_bwd(res, d):
    (x,) = res
    inner = 2 * x * d
    return (inner * KEEP * RATE,)


def test_one_minus_p_for_p():
    wrong = edits(lambda x: x**2 * KEEP / (1 - RATE), dropout_bwd, RNG.normal(size=(4, 5)))
    assert "/ (1.0 - RATE)" in wrong["x"].partition("instead of")[0], wrong


def nearest(x):
    return x[:, jnp.arange(4) * 7 // 4]


def nearest_bwd(res, d):
    (x,) = res
    dx = np.zeros_like(x)
    n = x.shape[1]
    for i in range(n):
        first, last = i * 4 // n, (i + 1) * 4 // n
        dx[:, i] = d[:, first:last].sum(1)
    return (dx,)


def test_rounded_down_for_up_at_two_places():
    wrong = edits(nearest, nearest_bwd, RNG.normal(size=(3, 7)))
    assert "-(-(i * 4) // n)" in wrong["x"], wrong


def spread(x):
    return jnp.sqrt(((x - x.mean(-1, keepdims=True)) ** 2).mean(-1) + 1e-3)


def spread_bwd(res, d):
    (x,) = res
    mean = x.mean(-1)
    std = np.sqrt(x.var(-1) + 1e-3)
    return ((d / std)[:, None] * x / (x.shape[-1] * 1.0) - 0 * mean[:, None],)


def test_not_centred():
    wrong = edits(spread, spread_bwd, RNG.normal(size=(3, 7)))
    assert "(x - mean[..., None])" in wrong["x"] or "(x - mean[:, None])" in wrong["x"], wrong


STEPS = 4


def unrolled(x, w):
    h = jnp.zeros(w.shape[0])
    out = []
    for t in range(STEPS):
        h = jnp.tanh(x[t] + h @ w)
        out.append(h)
    return jnp.stack(out)


def unrolled_bwd(res, d):
    x, w = res
    hs = [np.zeros(w.shape[0])]
    for t in range(STEPS):
        hs.append(np.tanh(x[t] + hs[-1] @ w))
    dx, dw, dh = np.zeros_like(x), np.zeros_like(w), np.zeros(w.shape[0])
    for t in range(STEPS - 1, -1, -1):
        da = (d[t] + dh) * (1 - hs[t + 1] ** 2)
        dx[t] = da
        dw += np.outer(hs[t + 1], da)
        dh = da @ w
    return dx, dw


def test_a_transpose_in_a_loop():
    wrong = edits(unrolled, unrolled_bwd, RNG.normal(size=(6, 3)), RNG.normal(size=(3, 3)))
    assert wrong["x"].partition("instead of")[0].endswith(("`dh = w @ da` ", "`dh = da @ w.T` ")), wrong


def chain(e, t):
    a = e[0]
    for k in range(1, len(e)):
        a = jax.nn.logsumexp(a[:, None] + t, axis=0) + e[k]
    return jax.nn.logsumexp(a)


def lse(x, axis=None):
    m = x.max(axis=axis, keepdims=True)
    return (np.log(np.exp(x - m).sum(axis=axis, keepdims=True)) + m).squeeze(axis)


def chain_bwd(res, d):
    e, t = res
    n, k = e.shape
    alpha, beta = np.zeros((n, k)), np.zeros((n, k))
    alpha[0] = e[0]
    for i in range(1, n):
        alpha[i] = lse(alpha[i - 1][:, None] + t, axis=0) + e[i]
    for i in range(n - 2, -1, -1):
        beta[i] = lse(t + beta[i + 1][None, :], axis=1)
    z = lse(alpha[n - 1], axis=0)
    dt = np.zeros_like(t)
    for i in range(n - 1):
        dt += np.exp(alpha[i][:, None] + t + (e[i + 1] + beta[i + 1])[None, :] - z)
    return d * np.exp(alpha + beta - z), d * dt


def test_the_next_step_is_not_added():
    wrong = edits(chain, chain_bwd, RNG.normal(size=(5, 3)), RNG.normal(size=(3, 3)))
    assert "e[i + 1]" in wrong["e"].partition("instead of")[0], wrong


def reverse_sum(x):
    return jnp.cumprod(jnp.concatenate([jnp.ones(1), x]))[:-1]


def reverse_sum_bwd(res, d):
    (x,) = res
    out = np.cumprod(np.concatenate([np.ones(1), x]))[:-1]
    s = d * out
    rev = np.cumsum(s[::-1])[::-1]
    return (rev / x,)


def test_an_inclusive_sum_for_an_exclusive_one():
    wrong = edits(reverse_sum, reverse_sum_bwd, RNG.uniform(0.5, 2, size=6))
    assert "- s" in wrong["x"].partition("instead of")[0], wrong


def layer_bwd(res, d):
    x, w = res
    h = np.maximum(x @ w, 0)
    dz = d * (x[:, :1] > 0)
    return dz @ w.T, x.T @ dz + 0 * h.sum()


def test_the_mask_of_another_array():
    args = RNG.normal(size=(4, 3)), RNG.normal(size=(3, 5))
    wrong = edits(lambda x, w: jnp.maximum(x @ w, 0), layer_bwd, *args)
    assert "`dz = d * (h > 0)`" in wrong["x"], wrong


def rounded_bwd(res, d):
    (x,) = res
    at = np.floor(2 * x).astype(int)
    return (d * (at > 2),)


def test_a_value_that_is_rounded():
    wrong = edits(lambda x: jnp.where(x >= 1, x, 0), rounded_bwd, np.linspace(0.1, 2.9, 13))
    assert "right with" in wrong["x"], wrong


SIDE, UP = 2, 1


def padded(x):
    return jnp.pad(x, ((UP, UP), (SIDE, SIDE))) ** 2


def padded_bwd(res, d):
    (x,) = res
    rows, columns = SIDE + x.shape[0], UP + x.shape[1]
    return (2 * x * d[rows - x.shape[0] : rows, columns - x.shape[1] : columns],)


def test_two_variables_in_each_others_place():
    wrong = edits(padded, padded_bwd, RNG.normal(size=(4, 5)))
    said = wrong["x"].partition("instead of")[0]
    assert "UP + x.shape[0], SIDE + x.shape[1]" in said, wrong


BLOCK = 3


def scaled(x, w):
    return x * w


def in_blocks(res, d):
    x, w = res
    count = len(x)
    blocks = count // BLOCK
    parts = np.zeros((blocks, len(w)))
    for i in range(blocks):
        rows = slice(i * BLOCK, (i + 1) * BLOCK)
        parts[i] = (d[rows] * x[rows]).sum(0)
    return d * w, parts.sum(0)


def test_the_number_of_blocks_is_a_place_that_fits():
    wrong = edits(scaled, in_blocks, RNG.normal(size=(11, 4)), RNG.normal(size=4))
    assert "`blocks = " in wrong["w"], wrong


def test_a_size_fits_as_well_as_what_uses_it():
    tree = ast.parse("def f(x):\n    n = len(x) // 2\n    m = len(x)\n    y = x[:n]\n    return y").body[0]
    size, unused, use, _ = tree.body
    found = search._of_statements(tree, {use.value: (0.9, True)})
    assert (found[size], found[use], found[unused]) == (0.9, 0.9, search.ELSEWHERE)


SCALE, ALPHA, BETA = 1.05, 1.67, 1.05 * 1.67


def selu(x):
    return jnp.where(x > 0, SCALE * x, SCALE * ALPHA * (jnp.exp(jnp.minimum(x, 0)) - 1))


def selu_bwd(res, d):
    (x,) = res
    out = np.where(x > 0, SCALE * x, BETA * (np.exp(np.minimum(x, 0.0)) - 1.0))
    return (d * np.where(out > 0, SCALE, SCALE * (out + ALPHA)),)


def test_a_value_that_is_right_is_not_the_place():
    wrong = edits(selu, selu_bwd, RNG.normal(size=9))
    assert "out / SCALE + ALPHA" in wrong["x"].partition("instead of")[0], wrong


def test_nothing_is_edited_afterwards():
    before = {f: f.__code__ for f in (torsion_bwd, lse, chain_bwd, unrolled_bwd)}
    test_the_next_step_is_not_added()
    assert all(f.__code__ is code for f, code in before.items())
