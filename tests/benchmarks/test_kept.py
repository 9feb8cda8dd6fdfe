"""The bytes kept for the backward pass: counts known by hand, and a wrong count is noticed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad_benchmarks import cases, kept

X, W = jnp.ones((6, 4), "float32"), jnp.ones((4, 5), "float32")
BYTES = 4
KNOWN = {  # name: (residuals, of arguments, new)
    "an argument": (lambda x, w: (x, w), 24 + 20, 0),
    "an argument twice": (lambda x, w: (x, [x]), 24, 0),
    "rearranged": (lambda x, w: (x.T, w.reshape(20), x[:, None]), 24 + 20, 0),
    "in a call": (lambda x, w: jax.jit(lambda x: (x.T, jnp.exp(x), x * 2))(x), 24, 24 + 24),
    "computed": (lambda x, w: (x @ w, w + 1), 0, 30 + 20),
    "computed, and the same transposed": (lambda x, w: (lambda y: (y, y.T))(x @ w), 0, 30),
    "a column, broadcast": (lambda x, w: jnp.broadcast_to(x[:, :1], (6, 9)), 0, 54),
    "each step of a loop": (lambda x, w: jax.lax.scan(lambda c, row: (c, row * 2), 0.0, x)[1], 0, 24),
    "a number": (lambda x, w: (x.shape, 3, "a word", None), 0, 0),
    "a product by autodiff": (lambda x, w: jax.vjp(lambda x, w: x @ w, x, w)[1], 24 + 20, 0),
    "a sum by autodiff": (lambda x, w: jax.vjp(jnp.sum, x)[1], 0, 0),
}


def miscounted():
    """The names of the known cases that are counted otherwise."""
    found = {name: kept.kept(residuals, (X, W)) for name, (residuals, *_) in KNOWN.items()}
    want = {n: {"arguments": BYTES * a, "new": BYTES * new} for n, (_, a, new) in KNOWN.items()}
    return {name for name in KNOWN if found[name] != want[name]}


def test_known_counts():
    assert not miscounted()


@pytest.mark.parametrize(
    ("part", "wrong", "noticed"),
    [
        ("_bytes", lambda var: var.aval.size, "computed"),
        ("REARRANGED", set(), "rearranged"),
        ("_only_adds_axes", lambda eqn: eqn.primitive.name == "broadcast_in_dim", "a column, broadcast"),
        ("_only_adds_axes", lambda eqn: False, "rearranged"),
        ("_of_call", lambda eqn, given: [None] * len(eqn.outvars), "in a call"),
        ("_of_call", lambda eqn, given: (given * 9)[: len(eqn.outvars)], "computed"),
    ],
)
def test_a_wrong_count_is_noticed(part, wrong, noticed, monkeypatch):
    monkeypatch.setattr(kept, part, wrong)
    assert noticed in miscounted()


def counted(name):
    case = next(case for case in cases.every_case() if case.name == name)
    args = case.inputs(cases.Draw(np.random.default_rng(0), jnp.dtype("float32")))
    return {side: kept.kept(residuals, args) for side, residuals in case.kept.items()}


def test_formulas_keep_what_their_pages_say():
    relu, scores = counted("relu"), counted("attention_streaming")
    assert relu["manual"] == {"arguments": 64 * BYTES, "new": 0}
    assert relu["autodiff"] == {"arguments": 0, "new": 64 * (BYTES + 1)}  # zeros to choose from, and which
    heads, length, depth = 8, 64, 64
    out, log_sum = heads * length * depth, heads * length
    assert scores["manual"] == {"arguments": 3 * out * BYTES, "new": (out + log_sum) * BYTES}
    assert scores["autodiff"]["new"] >= heads * length**2 * BYTES
    drop_in = counted("ops.attention_streaming")
    assert drop_in["manual"] == scores["manual"]


def test_every_pair_and_every_operation_is_counted():
    uncounted = {case.name for case in cases.every_case() if case.group in ("formula", "drop-in")}
    uncounted -= {case.name for case in cases.every_case() if set(case.kept) == {"manual", "autodiff"}}
    assert uncounted == {"full_batch"}  # in chunks, each with a pass of its own
