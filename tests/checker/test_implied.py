"""Causes that the error itself implies: entries left out or counted twice, a wrong order, a wrong term."""

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.checker.reach import reach
from manual_grad.checker.tape import write_down
from manual_grad.checker.truth import Point, exact
from tests.checker.causes import by, named_first, softmax

RNG = np.random.default_rng(5)


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
        "the entries with j − i = −2 (i along axis 0, j along axis 1) are left out, in the cotangent of",
        by(windowed, windowed_without_the_last_query(False), normal(7, 4), normal(7, 4), normal(7, 3)),
    ),
    "statistics of a part": (
        "the statistics are those of 3 of 7 entries along axis 1 of x, but their gradient is given to all 7",
        by(part_norm, part_norm_everywhere, normal(4, 7), normal(7)),
    ),
}
test_the_cause_is_named = named_first(CASES)
