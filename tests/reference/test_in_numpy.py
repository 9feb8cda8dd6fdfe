"""NumPy runs a program with XLA's results, for every kind of step that it knows."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from manual_grad_reference.oracles import in_numpy as module
from manual_grad_reference.oracles.in_numpy import in_numpy

RNG = np.random.default_rng(0)
ARRAYS = {
    "A": RNG.standard_normal((3, 4)),
    "B": RNG.standard_normal((3, 4)),
    "M": RNG.standard_normal((4, 5)),
    "P": RNG.random((3, 4)) + 0.1,
    "I": RNG.integers(-5, 6, (3, 4)),
    "J": RNG.integers(1, 4, (3, 4)),
    "image": RNG.standard_normal((2, 9, 8, 4)),
    "kernel": RNG.standard_normal((3, 2, 2, 6)),
}
ROWS = np.array([1, 1, 9])  # the last lies outside
CURVES = (
    *(jnp.exp, jnp.exp2, jnp.expm1, jnp.sin, jnp.cos, jnp.tan, jnp.tanh, jnp.sinh, jnp.cosh, jnp.cbrt),
    *(lax.erf, lax.erfc, lax.logistic, jax.nn.softplus, lax.asin, lax.acos, lax.atan, lax.asinh),
)
STEPS = {
    "arithmetic": lambda A, B: (A + B, A - B, A * B, A / B, -A, A**3, A**-2, jnp.square(A), abs(A)),
    "whole numbers": lambda A, I, J: (I // J, I % J, lax.div(I, J), jnp.floor(A), jnp.ceil(A), jnp.sign(A)),
    "curves": lambda A: tuple(curve(A) for curve in CURVES),
    "curves of what is positive": lambda P, B: (
        *(jnp.log(P), jnp.log1p(P), jnp.sqrt(P), lax.rsqrt(P), jnp.power(P, B), jnp.arctan2(P, B)),
        *(lax.acosh(1 + P), lax.atanh(P / 2), lax.erf_inv(P / 2), lax.lgamma(P), lax.digamma(P)),
    ),
    "comparisons": lambda A, B, I, J: (A < B, A > B, A <= A, A >= B, I == J, I != J, jnp.isfinite(1 / I)),
    "logic": lambda A, I: ((I < 0) & (A < 0), (I < 0) | (A < 0), (I < 0) ^ (A < 0), ~(A < 0)),
    "choices": lambda A, B, P, J: (
        *(jnp.where(A > 0, A, B), jnp.maximum(A, B), jnp.minimum(A, B), lax.clamp(-1.0, A, 0.5)),
        lax.select_n((J - 1).astype(np.int32), A, B, P),
    ),
    "shapes": lambda A, B: (
        *(A.T, A.reshape(2, 6), lax.reshape(A, (2, 6), (1, 0)), jnp.flip(A, 1), A[None].squeeze(0)),
        *(jnp.broadcast_to(A, (2, 3, 4)), lax.expand_dims(A, (1,)), lax.broadcasted_iota(float, (3, 4), 1)),
        *(
            jnp.concatenate([A, B], 1),
            jnp.stack([A, B], 1),
            *jnp.split(A, [1, 3], axis=1),
            *jnp.unstack(A, axis=1),
        ),
    ),
    "parts": lambda A, B: (
        *(A[1:, ::2], lax.dynamic_slice(A, (2, 1), (2, 2)), lax.dynamic_update_slice(A, B[:2, :2], (2, -9))),
        *(lax.pad(A, 7.0, ((-1, 2, 1), (1, -2, 2))), lax.pad(A, 7.0, ((2, -3, 0), (0, 0, 3)))),
    ),
    "gathered": lambda A, I, J: (
        *(A[J[0] - 1], A[J - 1, abs(I) % 4], jnp.take_along_axis(A, J, axis=1), A[:, ROWS[:2]]),
        *(A.at[ROWS].get(mode="fill"), I.at[ROWS].get(mode="fill"), A.at[ROWS].get(mode="clip")),
        *((A > 0).at[ROWS].get(mode="fill"), jax.vmap(lambda row, j: row[j])(A, J[:, 0])),
    ),
    "scattered": lambda A, B, J: (
        *(
            A.at[ROWS].add(B),
            A.at[:, ROWS[:2]].add(B[:, :2]),
            A.at[ROWS[1:]].set(7.0),
            A.at[ROWS].add(B, mode="clip"),
            A.at[ROWS].multiply(B),
        ),
        jax.vmap(lambda row, j: row.at[j].add(1.5))(A, J[:, 0]),
    ),
    "sums": lambda A, I: (
        *(A.sum(), A.sum(0), A.max(1), A.min(0), A.prod(1), (A > 0).all(0), (A > 0).any(1), I.sum()),
        *(A.argmax(1), A.argmin(0), jnp.cumsum(A, 1), lax.cumsum(A, 0, reverse=True), jnp.cumprod(A, 1)),
        *(lax.cummax(A, 1), lax.cumlogsumexp(A, 0), jnp.sort(A, 0), jnp.argsort(I, 1, descending=True)),
    ),
    "products": lambda A, B, M, image: (
        *(A @ M, jnp.einsum("ij,ij->i", A, B), jnp.einsum("nhwc,nhwd->ncd", image, image), jnp.outer(A, B)),
        jnp.zeros((3, 0)) @ jnp.zeros((0, 2)),
    ),
    "convolutions": lambda image, kernel: [_pulled_back(image, kernel, *how) for how in GEOMETRIES],
    "windows": lambda image: [_pooled(image, *how) for how in POOLED],
    "factorisations": lambda A, B, M: (
        *(jnp.linalg.cholesky(A @ A.T), jnp.linalg.cholesky(A @ A.T - 9 * jnp.eye(3)), *lax.linalg.lu(A)),
        *(lax.linalg.lu(jnp.stack([M.T, 2 * M.T]))[0], lax.linalg.lu(jnp.zeros((2, 2)))[2]),
        *(jnp.linalg.solve(M[:, :4], B.T), jnp.linalg.inv(jnp.stack([A, B])[..., :3])),
        *_pulled_back_through(jnp.linalg.solve, M[:, :4], B.T),
    ),
    "triangular systems": lambda A, B: [_solved(A[:, :3] + 2 * jnp.eye(3), B, *how) for how in TRIANGULAR],
    "loops and branches": lambda A, B: (
        lax.scan(lambda c, x: (c * x.sum(), (c + x, x[0])), 1.0, A),
        lax.scan(lambda c, x: (c - x, c), B[0], A, reverse=True),
        *(lax.cond(A[0, 0] > 0, jnp.sin, jnp.cos, A), lax.switch(2, [jnp.sin, jnp.cos, jnp.tanh], A)),
        *(lax.map(lambda x: x.sum(), A, batch_size=2), lax.scan(lambda c, x: (c, x + c), 1.0, A[:0])),
    ),
    "what is left to JAX": lambda A: (*(jnp.linalg.svd(A)[1], jax.random.normal(jax.random.key(3), (2,))),),
}
GEOMETRIES = (((1, 1), "VALID", (1, 1)), ((2, 3), ((3, 1), (-1, 4)), (2, 3)), ((2, 1), "SAME", (1, 2)))


def _convolved(x, kernel, strides, padding, dilation):
    form = {"rhs_dilation": dilation, "dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 2}
    return lax.conv_general_dilated(x, kernel, strides, padding, **form)


def _pulled_back(image, kernel, *how):
    return _pulled_back_through(lambda x, k: _convolved(x, k, *how), image, kernel)


def _pulled_back_through(fn, *arrays):
    out, pull = jax.vjp(fn, *arrays)
    return out, *pull(jnp.sin(out))


POOLED = (((2, 2), (2, 2), "VALID"), ((3, 2), (1, 2), "SAME"), ((2, 3), (2, 1), ((1, 0), (0, 2))))


def _pooled(image, sizes, strides, padding):
    sizes, strides = (1, *sizes, 1), (1, *strides, 1)
    padding = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
    kinds = ((lax.max, -jnp.inf), (lax.min, jnp.inf), (lax.add, 0.0))
    return [
        _pulled_back_through(
            lambda x, of=of, at=at: lax.reduce_window(x, at, of, sizes, strides, padding), image
        )
        for of, at in kinds
    ] + [
        lax.reduce_window(jnp.round(image).astype(int), jnp.iinfo(int).min, lax.max, sizes, strides, padding)
    ]


TRIANGULAR = list(itertools.product((False, True), repeat=4))


def _solved(a, b, left, lower, turned, unit):
    form = {"left_side": left, "lower": lower, "transpose_a": turned, "unit_diagonal": unit}
    b = b if left else b.T
    both = jnp.stack([a, 2 * a]), jnp.stack([b, b + 1])
    solved = functools.partial(lax.linalg.triangular_solve, **form)
    return solved(*both), _pulled_back_through(solved, a, b)


def arrays_of(name):
    return [ARRAYS[letter] for letter in inspect.signature(STEPS[name]).parameters]


def unlike(name):
    """The largest difference; structure, shapes and dtypes are to be the same."""
    got, want = in_numpy(STEPS[name])(*arrays_of(name)), jax.jit(STEPS[name])(*arrays_of(name))
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert [(g.shape, g.dtype) for g, _ in pairs] == [(w.shape, w.dtype) for _, w in pairs]
    return max(np.abs(np.nan_to_num(g) * 1.0 - np.nan_to_num(w) * 1.0).max(initial=0) for g, w in pairs)


@pytest.mark.parametrize("name", STEPS)
def test_numpy_agrees_with_xla(name):
    assert unlike(name) < 1e-13


def test_every_line_is_tested_and_a_wrong_one_is_detected(monkeypatch):
    asked = {name: [] for name in module._LINES}
    for name, line in dict(module._LINES).items():

        def noted(*given, name=name, line=line, **params):
            asked[name].append(True)
            return line(*given, **params)

        monkeypatch.setitem(module._LINES, name, noted)
    for name, program in STEPS.items():
        in_numpy(program)(*arrays_of(name))
    unasked = {name for name, times in asked.items() if not times}
    assert unasked == NOTHING_TO_DO
    monkeypatch.setitem(module._LINES, "sub", lambda a, b: b - a)
    assert unlike("arithmetic") > 1


# What JAX writes into a derivative, or leaves there for others; all but the first change nothing.
NOTHING_TO_DO = {"add_any", "copy", "copy_p", "optimization_barrier", "pvary", "name"}


@pytest.mark.parametrize(
    ("fn", "given"),
    [
        (lambda x: lax.while_loop(lambda c: c < 99, lambda c: 2 * c, x), 1.0),
        (lambda x: x * 2, np.float32(3)),
        (lambda x: lax.scan(lambda c, _: (c + 1, None), x, length=9999)[0], 1.0),
        (lambda x: (x + jnp.ones(10**7)).sum(), 1.0),
    ],
    ids=["of unknown length", "in a narrower dtype", "of many steps", "of many entries"],
)
def test_a_program_that_does_not_suit_numpy_is_compiled(fn, given):
    compiled = []
    got = in_numpy(fn, lambda program: compiled.append(program) or jax.jit(program))(given)
    assert compiled
    assert got == jax.jit(fn)(given)


def test_a_function_is_traced_once_for_a_shape_and_dtype():
    traced = []
    fn = in_numpy(lambda x: traced.append(x.shape) or x + 1)
    for x in (ARRAYS["A"], ARRAYS["B"], ARRAYS["A"][:2], ARRAYS["I"]):
        np.testing.assert_array_equal(fn(x), x + 1)
    assert traced == [(3, 4), (2, 4), (3, 4)]
