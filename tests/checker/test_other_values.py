"""Several sets of other values in one tape give what each of them gives alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.checker.other_values import handed_by_rows, reworked_together, settled
from manual_grad.checker.tape import pulled_back, reworked, write_down
from manual_grad.checker.truth import Point, exact

RNG = np.random.default_rng(7)
SQUARE, TALL = RNG.standard_normal((4, 4)), RNG.standard_normal((5, 4))


def attention(a, x):
    scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), x @ a @ x.T, -1e9)
    return jnp.clip(jax.nn.softmax(scores) @ x, -0.8, 0.8) * jnp.where(x > 0, x, 0.1 * x)


def factorised(a, x):
    factor = jnp.linalg.cholesky(a @ a.T + jnp.eye(4))
    solved = jax.scipy.linalg.solve_triangular(factor, x.T, lower=True)
    return jnp.linalg.solve(a + 9 * jnp.eye(4), solved) + jnp.log(jnp.diag(factor))[:, None]


def shaped(a, x):
    parts = jnp.concatenate([x[1:], jnp.cumsum(x, 0)[::2], a.reshape(2, 8)[:, ::2].max(0)[None]])
    return jnp.pad(parts, 1).T @ jnp.pad(parts**2, 1) / jnp.sqrt(jnp.sum(parts**2)) + jax.lax.erf(parts.min())


def windowed(a, x):
    pooled = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2, 2), (1, 1), "VALID")
    return (
        jnp.convolve(pooled.ravel(), a[0]) * jnp.power(jnp.abs(a[1, 1]), 0.3)
        + pooled[jnp.array([0, 2, 2]), 1].sum()
    )


@pytest.mark.parametrize("fn", [attention, factorised, shaped, windowed])
def test_rows_agree_with_one_set_of_values_at_a_time(fn):
    with exact(), np.errstate(all="ignore"):
        args = jnp.asarray(SQUARE), jnp.asarray(TALL)
        dout = (np.cos(np.arange(np.size(fn(*args)), dtype=float)).reshape(np.shape(fn(*args))),)
        point = Point(fn, jax.tree.structure(args), args, ("a", "x"), (0, 1), dout)
        tape = write_down(point)
        active = [s for s in sorted(tape.active) if s not in tape.leaves]
        sets = [{slot: 1.1 * tape.values[slot]} for slot in active]
        sets += [
            {b: 0.9 * tape.values[b], a: tape.values[a]} for a, b in zip(active, active[3:], strict=False)
        ]
        sets = [settled(tape, values) for values in sets]
        edges = list(tape.edges())
        changes = [{edges[k % len(edges)]: lambda p: 2 * p.right} for k in range(len(sets))]
        rows = reworked_together(tape, sets)
        got = pulled_back(tape, dout, changes, hand=partial(handed_by_rows, rows), seen=rows.one)
        for row, (values, change) in enumerate(zip(sets, changes, strict=True)):
            other = tape
            for slot, value in values.items():
                other = reworked(other, slot, value)
            for whole, (want,) in zip(got, pulled_back(other, dout, [change]), strict=True):
                np.testing.assert_allclose(
                    whole[row], want, rtol=1e-9, atol=1e-9 * np.max(np.abs(want), initial=1e-9)
                )
