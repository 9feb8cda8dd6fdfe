"""Repeated indices in writes and products, gathered values without a sum over ranks, implicit layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.checker.causes import by, loss_by, named_first, softmax

RNG = np.random.default_rng(6)
INDEX = np.array([0, 2, 2, 4, 0, 3])
AT = jnp.asarray(INDEX, jnp.int32)
X, V = RNG.uniform(0.5, 2, 6), RNG.uniform(0.5, 2, 6)
ROWS, NEW_ROWS = RNG.uniform(0.5, 2, (6, 3)), RNG.uniform(0.5, 2, (6, 3))


# --- set and max ------------------------------------------------------------------------------------------


def write(x, v):
    return jnp.sin(jnp.asarray(x).at[AT].set(v))


def write_bwd(kind):
    def bwd(d, x, v):
        y = x.copy()
        y[INDEX] = v
        g = d * np.cos(y)
        dx = g.copy()
        if kind != "kept":
            dx[INDEX] = 0
        if np.ndim(v) < np.ndim(x):  # a number, or a row, for all
            return dx, g[INDEX if kind == "all" else np.unique(INDEX)].sum(0)
        order = list(enumerate(INDEX))
        counts = {i: k for k, i in (reversed(order) if kind == "first" else order)}
        dv = g[INDEX] if kind == "all" else np.zeros_like(v)
        for i, k in counts.items() if kind != "all" else ():
            dv[k] = g[i]
        return dx, dv

    return bwd


def largest(x, v):
    return jnp.sin(jnp.asarray(x).at[AT].max(v))


def largest_bwd(kind):
    def bwd(d, x, v):
        y = x.copy()
        np.maximum.at(y, INDEX, v)
        g = d * np.cos(y)
        chosen = {"all": np.ones_like(v), "of x": v > x[INDEX]}.get(kind, v == y[INDEX])
        return g * (y == x) if kind != "kept" else g, g[INDEX] * chosen

    return bwd


WRITTEN = {
    "numbers": (X, V), "rows": (ROWS, NEW_ROWS), "one number": (X, np.array(1.3)),
    "one row": (ROWS, np.array([1.3, 0.7, 2.0])),
}  # fmt: skip
EACH = "every write to a place gets its gradient, where only the {} counts"
test_writes = named_first(
    {
        **{
            f"set {name}: all of them": (EACH.format("last one"), by(write, write_bwd("all"), *args))
            for name, args in WRITTEN.items()
        },
        **{
            f"{what} {name}: {kind}": (start, by(fn, bwd(kind), *WRITTEN[name]))
            for name in ("numbers", "rows")
            for what, fn, bwd, kind, start in (
                (
                    "set",
                    write,
                    write_bwd,
                    "first",
                    "the first of several writes to a place gets its gradient",
                ),
                ("set", write, write_bwd, "kept", "missing mask: entries of x that are overwritten"),
                ("max", largest, largest_bwd, "all", EACH.format("maximum")),
                ("max", largest, largest_bwd, "of x", "each write is compared with x alone"),
                ("max", largest, largest_bwd, "kept", "missing mask: entries of x that are not chosen"),
            )
        },
    }
)


@pytest.mark.parametrize("name", WRITTEN)
def test_right_writes(name):
    assert by(write, write_bwd("right"), *WRITTEN[name])().ok
    if name in ("numbers", "rows"):
        assert by(largest, largest_bwd("right"), *WRITTEN[name])().ok


# --- products of many factors -----------------------------------------------------------------------------


def multiplied(x, v):
    chosen = (INDEX[None] == np.arange(6)[:, None]).reshape(6, 6, *(1,) * (v.ndim - 1))
    return jnp.sin(x * jnp.prod(jnp.where(chosen, v[None], 1.0), 1))


def in_a_loop(x, v):
    x = jnp.asarray(x)
    for k, i in enumerate(INDEX):
        x = x.at[int(i)].multiply(v[k])
    return jnp.sin(x)


def multiplied_bwd(kind):
    def bwd(d, x, v):
        y, factors = x.copy(), np.ones_like(x)
        np.multiply.at(y, INDEX, v)
        np.multiply.at(factors, INDEX, v)
        g = d * np.cos(y)
        dv = {"alone": (g * x)[INDEX], "with itself": (g * y)[INDEX]}.get(kind, (g * y)[INDEX] / v)
        if kind == "last":
            factors[INDEX] = v
        return g if kind == "none" else g * factors, dv

    return bwd


test_products = named_first(
    {
        **{
            f"{kind}, {name}": (start, by(multiplied, multiplied_bwd(kind), *args))
            for name, args in (("numbers", (X, V)), ("rows", (ROWS, NEW_ROWS)))
            for kind, start in (
                ("alone", "the other factors are missing in the derivative of a product of many factors"),
                ("with itself", "the factor itself is not left out of the product"),
                ("last", "only the last factor of a product of many counts"),
                ("none", "a product of many factors is missing in the gradient of x"),
            )
        },
        "alone, in a loop": (
            "the other factors of repeated indices are missing", by(in_a_loop, multiplied_bwd("alone"), X, V),
        ),
        "last, in a loop": (
            "only the last factor of repeated indices counts", by(in_a_loop, multiplied_bwd("last"), X, V),
        ),
    }
)  # fmt: skip


def test_right_products():
    for fn, args in ((multiplied, (X, V)), (multiplied, (ROWS, NEW_ROWS)), (in_a_loop, (X, V))):
        assert by(fn, multiplied_bwd("right"), *args)().ok


# --- values gathered from all ranks -------------------------------------------------------------------------

RANKS, ROWS_OF_RANK = 3, 4
IMAGES, TEXTS = RNG.standard_normal((3, 4, 5)), RNG.standard_normal((3, 4, 5))
TRUE = np.arange(12).reshape(3, 4)


def by_rank(x, t):
    loss = 0.0
    for r in range(RANKS):
        p = jax.nn.log_softmax(x[r] @ t.reshape(12, 5).T * 2.0, axis=1)
        loss = loss - p[jnp.arange(4, dtype=jnp.int32), jnp.asarray(TRUE[r], jnp.int32)].mean()
    return loss / RANKS


def together(x, t):
    p = jax.nn.log_softmax(jnp.einsum("rbd,nd->rbn", x, t.reshape(12, 5)) * 2.0, axis=-1)
    return -jnp.take_along_axis(p, TRUE[..., None], axis=2).mean()


def as_a_matrix(x, t):
    return -jnp.diag(jax.nn.log_softmax(x.reshape(12, 5) @ t.reshape(12, 5).T * 2.0, axis=-1)).mean()


def of_ranks(kind):
    def grad(x, t):
        every = t.reshape(12, 5)
        dx, dt = np.zeros_like(x), np.zeros_like(every)
        for r in range(RANKS):
            dz = (softmax(x[r] @ every.T * 2) - np.eye(12)[TRUE[r]]) / 6
            dx[r] = dz @ every
            own = np.zeros((12, 1))
            own[TRUE[r]] = 1
            kept = {"own": own, "others": 1 - own}.get(kind, 1.0)
            dt = kept * (dz.T @ x[r]) if kind == "last" else dt + kept * (dz.T @ x[r])
        return dx, dt.reshape(t.shape)

    return grad


FORMS = {"by rank": by_rank, "together": together, "as a matrix": as_a_matrix}
BLOCKS = "the sum over all blocks is missing: each of 3 blocks (such as ranks) adds what {} rows pass back"
test_ranks = named_first(
    {
        f"{name}, {kind}": (BLOCKS.format(said), loss_by(fn, of_ranks(kind), IMAGES, TEXTS, argnums=(0, 1)))
        for name, fn in FORMS.items()
        for kind, said in (("own", "its own"), ("others", "the others'"))
    }
)


@pytest.mark.parametrize("name", FORMS)
def test_right_ranks(name):
    assert loss_by(FORMS[name], of_ranks("right"), IMAGES, TEXTS, argnums=(0, 1))().ok


# --- fixed points -----------------------------------------------------------------------------------------

W, U = RNG.standard_normal((4, 4)) / 5, RNG.standard_normal((3, 4)) / 2
INPUT, BATCH = RNG.standard_normal(3), RNG.standard_normal((3, 4))
STEPS = 40


def layer(w, u, x):
    z = jnp.zeros(4)
    for _ in range(STEPS):
        z = jnp.tanh(w @ z + x @ u)
    return z


def looped(w, u, x):
    return lax.fori_loop(0, STEPS, lambda i, z: jnp.tanh(w @ z + x @ u), jnp.zeros(4))


def batched(w, x):
    z = jnp.zeros(x.shape)
    for _ in range(STEPS):
        z = jnp.tanh(z @ w + x)
    return z


EYE = np.eye(4)
SOLVED = {
    "J is not transposed: v = (I − J)⁻¹ g": lambda J, g: np.linalg.solve(EYE - J, g),
    "the sign of J is wrong": lambda J, g: np.linalg.solve(EYE + J.T, g),
    "the inverse (I − Jᵀ)⁻¹ is left out": lambda J, g: g,
    "only one term of the Neumann series": lambda J, g: g + J.T @ g,
    "only 2 terms of the Neumann series": lambda J, g: g + J.T @ g + J.T @ J.T @ g,
    "the derivative of tanh is left out of the last application of f": (
        lambda J, g: np.linalg.solve(EYE - J.T, g)
    ),
}


def of_layer(solve, last=True):
    def bwd(d, w, u, x):
        z = np.zeros(4)
        for _ in range(200):
            z = np.tanh(w @ z + x @ u)
        slope = 1 - z**2
        v = solve(slope[:, None] * w, d)
        v = v * slope if last else v
        return np.outer(v, z), np.outer(x, v), u @ v

    return bwd


def of_batch(solve, last=True):
    def bwd(d, w, x):
        z = np.zeros(x.shape)
        for _ in range(200):
            z = np.tanh(z @ w + x)
        slope = 1 - z**2
        v = np.stack([solve(slope[b][:, None] * w.T, d[b]) for b in range(len(x))])
        v = v * slope if last else v
        return z.T @ v, v

    return bwd


test_fixed_points = named_first(
    {
        f"{name}: {said}": (said, by(fn, bwd(solve, not said.startswith("the derivative")), *args))
        for name, fn, bwd, args in (
            ("a loop", layer, of_layer, (W, U, INPUT)),
            ("fori_loop", looped, of_layer, (W, U, INPUT)),
            ("a batch", batched, of_batch, (W, BATCH)),
        )
        for said, solve in SOLVED.items()
    },
    in_all=True,
)


def test_right_fixed_points():
    for fn, bwd, args in ((layer, of_layer, (W, U, INPUT)), (batched, of_batch, (W, BATCH))):
        assert by(fn, bwd(lambda J, g: np.linalg.solve(EYE - J.T, g)), *args)().ok
