"""Mistakes in single steps: systems that are solved, labels, factors, groups, windows, indices."""

from itertools import accumulate

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from manual_grad.verify import check_vjp
from tests.checker.causes import by, named_first, softmax

RNG = np.random.default_rng(11)
A, B, v = RNG.standard_normal((5, 5)) + 3 * np.eye(5), RNG.standard_normal((5, 3)), RNG.standard_normal(5)
X, Z, z = RNG.standard_normal((2, 4, 6)), RNG.standard_normal((6, 4)), RNG.standard_normal(7)
Q, K = RNG.standard_normal((2, 6, 4)), RNG.standard_normal((2, 5, 4))
KERNEL, IMAGE = RNG.standard_normal((6, 2, 3)), RNG.standard_normal((2, 6, 6))
PLACES = RNG.standard_normal((4, 3))
SHARES = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
LABELS, BINARY = np.eye(4)[[0, 2, 1, 1, 0, 3]], (z > 0.3).astype(float)
REPEATED, ORDER = np.array([0, 3, 1, 1, 2, 0, 5]), np.array([2, 0, 3, 1, 6, 4, 5])


# --- systems that are solved, and inverses ------------------------------------------------------------


def solved(A, b):
    return jnp.linalg.solve(A, b)


def inverted(A):
    return jnp.sin(jnp.linalg.inv(A))


def of_the_inverse(rule):
    return lambda d, A: (rule(A, np.linalg.inv(A), d * np.cos(np.linalg.inv(A))),)


SOLVED = {
    "the system's adjoint with A": (
        "transposed: A is used for its transpose in the system that is solved",
        by(solved, lambda d, A, b: (-np.linalg.solve(A, d) @ np.linalg.solve(A, b).T,), A, B, argnums=0),
    ),
    "the same of a vector": (
        "transposed: A is used for its transpose in the system that is solved",
        by(
            solved,
            lambda d, A, b: (-np.outer(np.linalg.solve(A, d), np.linalg.solve(A, b)),),
            A, v, argnums=0,
        ),
    ),
    "b for x": (
        "an inverse is missing: the right-hand side is used for the solution",
        by(solved, lambda d, A, b: (-np.linalg.solve(A.T, d) @ b.T,), A, B, argnums=0),
    ),
    "a triangular system's adjoint": (
        "transposed: A is used for its transpose in the system that is solved",
        by(
            lambda A, b: jax.scipy.linalg.solve_triangular(A, b, lower=True),
            lambda d, A, b: (-np.tril(np.linalg.solve(A, d) @ np.linalg.solve(A, b).T),),
            np.tril(A), B, argnums=0,
        ),
    ),
    "the inverse by the scalar rule": (
        "the scalar rule −1/a² where the matrix A is inverted: both inverses on the right",
        by(inverted, of_the_inverse(lambda A, X, D: -D @ X.T @ X.T), A),
    ),
    "one of two inverses": (
        "one of two inverses of A is missing",
        by(inverted, of_the_inverse(lambda A, X, D: -X.T @ D), A),
    ),
    "the inverse for its transpose": (
        "transposed: the inverse of A is used for its transpose",
        by(inverted, of_the_inverse(lambda A, X, D: -X @ D @ X), A),
    ),
    "log-determinant inside": (
        "transposed: what a factorisation",
        by(
            lambda A, b: jnp.linalg.slogdet(A * b)[1],
            lambda d, A, b: (d * np.linalg.inv(A * b) * b,), A, v + 3, argnums=0,
        ),
    ),
}  # fmt: skip

# --- labels and probabilities ---------------------------------------------------------------------------


def cross_entropy(z):
    return -jnp.mean(jax.nn.log_softmax(z)[jnp.arange(6), LABELS.argmax(1)])


def with_logits(z):
    return jnp.mean(jnp.logaddexp(0, z) - BINARY * z)


def by_logits(wrong):
    return by(cross_entropy, lambda d, z: (d * wrong(z, softmax(z)) / 6,), Z)


def by_scores(wrong):
    return by(with_logits, lambda d, z: (d * wrong(z, 1 / (1 + np.exp(-z))) / 7,), z)


LOGITS = {
    "not normalised": ("not normalised: the division", by_logits(lambda z, p: np.exp(z) - LABELS)),
    "z for p": ("logits are used for the probabilities", by_logits(lambda z, p: z - LABELS)),
    "log p for p": ("log-probabilities are used for", by_logits(lambda z, p: np.log(p) - LABELS)),
    "another sample's label": (
        "the labels are those of the previous sample",
        by_logits(lambda z, p: p - np.roll(LABELS, 1, 0)),
    ),
    "labels off by one": (
        "the labels are those of the previous class",
        by_logits(lambda z, p: p - np.roll(LABELS, 1, 1)),
    ),
    "by the probabilities": ("the derivative of softmax is missing", by_logits(lambda z, p: -LABELS / p)),
    "scores for probabilities": ("logits are used for the probabilities", by_scores(lambda z, p: z - BINARY)),
    "by p": (
        "the slope of the sigmoid, p(1 − p), is missing",
        by_scores(lambda z, p: (p - BINARY) / p / (1 - p)),
    ),
    "log-sum-exp": (
        "not normalised: the division",
        by(jax.nn.logsumexp, lambda d, z: (d * np.exp(z),), z),
    ),
}

# --- factors and powers -----------------------------------------------------------------------------------


def attention(q, k):
    return jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / np.sqrt(4))


def attention_bwd(d, q, k):
    a = softmax(q @ k.swapaxes(-1, -2) / 2)
    return (a * (d - (a * d).sum(-1, keepdims=True)) @ k,)


def repulsion(x):
    first, second = np.triu_indices(4, 1)
    square = ((x[first] - x[second]) ** 2).sum(1)
    return (square**-3).sum()


def repulsion_bwd(d, x):
    first, second = np.triu_indices(4, 1)
    apart = x[first] - x[second]
    force = -6 * np.sqrt((apart**2).sum(1, keepdims=True)) ** -7 * apart
    dx = np.zeros_like(x)
    np.add.at(dx, first, d * force)
    np.add.at(dx, second, -d * force)
    return (dx,)


def recurrent(W, h):
    for _ in range(4):
        h = jnp.tanh(h @ W)
    return h


def recurrent_bwd(slope_at=1, back=lambda dz, W: dz @ W.T):
    def bwd(d, W, h):
        states = list(accumulate(range(4), lambda h, _: np.tanh(h @ W), initial=h))
        dW = np.zeros_like(W)
        for t in reversed(range(4)):
            dz = d * (1 - states[t + slope_at] ** 2)
            dW += np.outer(states[t], dz)
            d = back(dz, W)
        return dW, d

    return bwd


FACTORS = {
    "attention without 1/√d": (
        "scaled by √4 (axis 2 of q): 1/√4 is missing",
        by(attention, attention_bwd, Q, K, argnums=0),
    ),
    "a power too many": (
        "an extra power: the factor √(square)",
        by(repulsion, repulsion_bwd, PLACES),
    ),
    "no logarithm": (
        "the logarithm is missing in the derivative of a power",
        by(lambda a, b: a**b, lambda d, a, b: (d * a**b,), np.exp(v), v, argnums=1),
    ),
    "n − 1 for n": (
        "scaled by 6/5 (axis 2 of x)",
        by(
            lambda x: x - x.mean(-1, keepdims=True),
            lambda d, x: ((d - d.mean(-1, keepdims=True)) * 6 / 5,), X,
        ),
    ),
    "the slope of the step before": (
        "the derivative of tanh is taken from the result of the step before",
        by(recurrent, recurrent_bwd(slope_at=0), A / 5, v),
    ),
    "the product left out": (
        "a factor is left out: the gradient of a matrix product is passed on",
        by(recurrent, recurrent_bwd(back=lambda dz, W: dz), A / 5, v),
    ),
}  # fmt: skip

# --- groups, windows, slices, indices -----------------------------------------------------------------------


def grouped(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1,), "VALID", feature_group_count=2)


def grouped_bwd(d, x, kernel):
    dx = np.zeros_like(x)
    kernel = np.roll(kernel, 3, 0)  # the other group's
    for g, k in np.ndindex(2, 3):
        dx[:, 2 * g : 2 * g + 2, k : k + 4] += np.einsum(
            "not,oc->nct", d[:, 3 * g : 3 * g + 3], kernel[3 * g : 3 * g + 3, :, k]
        )
    return (dx,)


def pooled(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2), (1, 2, 2), "VALID")


def pooled_bwd(put):
    def bwd(d, x):
        dx = np.zeros_like(x)
        for n, i, j in np.ndindex(*d.shape):
            window = x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            put(dx[n], i, j, *np.unravel_index(window.argmax(), (2, 2)), d[n, i, j])
        return (dx,)

    return bwd


def transposed_place(dx, i, j, row, column, d):
    dx[2 * i + column, 2 * j + row] += d


def equal_parts(dx, i, j, row, column, d):
    dx[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] += d / 4


def unstrided(dx, i, j, row, column, d):
    dx[i + row, j + column] += d


def indexed_bwd(put):
    def bwd(d, x):
        dx = np.zeros_like(x)
        put(dx, d * 2 * x[REPEATED])
        return (dx,)

    return bwd


def averaged(dx, d):
    np.add.at(dx, REPEATED, d)
    dx /= np.maximum(np.bincount(REPEATED, minlength=len(dx)), 1)


def put_first(dx, d):
    dx[: len(d)] = d


def of_neighbours(x, c):
    return (x[1:] - c * x[:-1]) ** 2


def swapped_slices(d, x, c):
    d = 2 * d * (x[1:] - c * x[:-1])
    return (np.append(d, 0) - c * np.append(0, d),)


INDICES = {
    "another group's kernel": (
        "groups mixed up: the next group's kernel",
        by(grouped, grouped_bwd, X, KERNEL, argnums=0),
    ),
    "row and column swapped": (
        "max-pooling: the maximum's place in its window is wrong: row and column are swapped",
        by(pooled, pooled_bwd(transposed_place), IMAGE),
    ),
    "equal parts": (
        "max-pooling: the gradient goes to all entries in equal parts",
        by(pooled, pooled_bwd(equal_parts), IMAGE),
    ),
    "stride ignored": ("max-pooling: the stride is ignored", by(pooled, pooled_bwd(unstrided), IMAGE)),
    "repeated indices averaged": (
        "repeated indices are averaged",
        by(lambda x: x[REPEATED] ** 2, indexed_bwd(averaged), z),
    ),
    "indices ignored": (
        "the indices are ignored in the backward pass",
        by(lambda x: x[REPEATED] ** 2, indexed_bwd(put_first), z),
    ),
    "a permutation twice": (
        "the indices are applied again",
        by(lambda x: x[ORDER] ** 2, lambda d, x: ((2 * d * x[ORDER])[ORDER],), z),
    ),
    "segments averaged": (
        "entries that are added get their mean",
        by(
            lambda x: jax.ops.segment_sum(x, REPEATED, 6),
            lambda d, x: ((d / np.maximum(np.bincount(REPEATED), 1))[REPEATED],), z,
        ),
    ),
    "two slices swapped": (
        "swapped: two slices of x",
        by(of_neighbours, swapped_slices, z, np.float64(0.7), argnums=0),
    ),
    "a product's later entries": (
        "a cumulative product's later entries are left out",
        by(lambda x: jnp.cumprod(x).sum(), lambda d, x: (d * np.cumprod(x) / x,), z),
    ),
}  # fmt: skip

# --- finite in some entries -----------------------------------------------------------------------------


def surprise(p, y):
    return -(y * jnp.log(p)).sum() / 4


def by_p(wrong):
    def bwd(d, p, y):
        with np.errstate(all="ignore"):
            return (-d / 4 * wrong(p, y),)

    return by(surprise, bwd, softmax(SHARES + 0.3 * PLACES), SHARES, argnums=0)


FINITE = {
    "p/y": ("upside down: a quotient's numerator and denominator are swapped; infinite in some entries",
            by_p(lambda p, y: p / y)),
    "y/y": ("y is used for p in the derivative of log; NaN in some entries", by_p(lambda p, y: y / y)),
    "mean and NaN": ("scaled by 1/N, N = 4 (axis 0 of p): mean instead of sum, or 1/N is applied twice; NaN",
                     by_p(lambda p, y: np.where(y, y / p / 4, np.nan))),
    "right but for NaN": ("NaN in some entries, the others right",
                          by_p(lambda p, y: np.where(y, y / p, np.nan))),
    "nothing known and NaN": ("NaN in some entries", by_p(lambda p, y: np.where(y, np.sin(9 * p), np.nan))),
}  # fmt: skip

# --- in each other's place ---------------------------------------------------------------------------------


def gated(x, W):
    first, second, third = jnp.split(x @ W, 3, axis=1)
    return first * jnp.tanh(second) + jnp.sin(third)


def gated_bwd(d, x, W):
    first, second, third = np.split(x @ W, 3, axis=1)
    parts = [d * np.tanh(second), d * np.cos(third), d * first / np.cosh(second) ** 2]
    return np.hstack(parts) @ W.T, x.T @ np.hstack(parts)


def two_layers(x, W, b, U):
    return jnp.maximum(x @ W + b, 0) @ U


def two_layers_bwd(d, x, W, b, U):
    z = x @ W + b
    dz = (d * (z > 0)) @ U.T
    return dz @ W.T, x.T @ dz, (d @ U.T).sum(0)


def mixed(x, Q, K, V, O):
    return (jnp.tanh(x @ Q) * jnp.sin(x @ K) + jnp.cos(x @ V)) @ O


def mixed_bwd(d, x, Q, K, V, O):
    d = d @ O.T
    q, k = np.tanh(x @ Q), np.sin(x @ K)
    return (d * k * (1 - q**2) @ Q + d * q * np.cos(x @ K) @ K - d * np.sin(x @ V) @ V,)


def between(values, share):
    return (1 - share) * values[REPEATED] + share * values[REPEATED + 1]


def between_bwd(d, values, share):
    dvalues = np.zeros_like(values)
    np.add.at(dvalues, REPEATED, d * share)
    np.add.at(dvalues, REPEATED + 1, d * (1 - share))
    return (dvalues,)


SQUARE = RNG.standard_normal((6, 5))
LAYERS = (SQUARE, RNG.standard_normal((5, 5)), v, RNG.standard_normal((5, 5)))
PLACED = {
    "two gates": (
        "swapped: the parts 1 and 2",
        by(gated, gated_bwd, SQUARE, RNG.standard_normal((5, 9))),
    ),
    "the mask before the product": (
        "in the wrong order: the derivative of ReLU is applied before matrix product",
        by(two_layers, two_layers_bwd, *LAYERS, argnums=(0, 1, 2)),
    ),
    "another layer's gradient": (
        "this is the gradient of another value: of `jnp.maximum(x + b, 0) @ U + c`, summed over axis 0",
        by(
            lambda x, b, U, c: jnp.sin(jnp.maximum(x + b, 0) @ U + c),
            lambda d, x, b, U, c: ((d * np.cos(np.maximum(x + b, 0) @ U + c)).sum(0),),
            SQUARE, v, LAYERS[3], LAYERS[2], argnums=1,
        ),
    ),
    "three matrices not transposed": (
        "transposed: a square matrix is used for its transpose, in 3 places",
        by(mixed, mixed_bwd, SQUARE, LAYERS[1], A, LAYERS[3], A[::-1], argnums=0),
    ),
    "two weights swapped": (
        "the two weights of an interpolation, 1 − t and t, are swapped",
        by(between, between_bwd, z, np.linspace(0.1, 0.8, 7), argnums=0),
    ),
    "the first of what was repeated": (
        "what was repeated (broadcast) is not summed in the backward pass: only the first entry counts",
        by(lambda x, w: x * w, lambda d, x, w: ((d * x)[0, 0],), X, RNG.standard_normal(6), argnums=1),
    ),
}  # fmt: skip

# --- what a missing path is called ------------------------------------------------------------------------


def standardised(x):
    return (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 1e-5)


def without_the_variance(d, x):
    return ((d - d.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5),)


def overlap(x, y):
    return 2 * (x * y).sum(1) / (x.sum(1) + y.sum(1))


def mixture(z, q):
    return jax.nn.logsumexp(jax.nn.log_softmax(z) + q, axis=1)


def residual(x, W):
    return x + jnp.tanh(x @ W) @ W.T


def residual_bwd(d, x, W):
    return (d @ W * (1 - np.tanh(x @ W) ** 2) @ W.T,)


def many_steps(u, k):
    for _ in range(4):
        u = u + k * jnp.sin(u)
    return u


def many_steps_bwd(d, u, k):
    for state in reversed(list(accumulate(range(3), lambda u, _: u + k * np.sin(u), initial=u))):
        dk = d * np.sin(state)
        d = d * (1 + k * np.cos(state))
    return (dk,)


def penalised(x, W):
    return jnp.mean(jnp.tanh(x @ W)) + 0.3 * jnp.sum(W**2)


CALLED = {
    "the variance": (
        "a path is missing: the variance of x is treated as a constant (nothing flows back through",
        by(standardised, without_the_variance, SQUARE),
    ),
    "the norm": (
        "a path is missing: the norm of x is treated as a constant",
        by(lambda x: x / jnp.linalg.norm(x), lambda d, x: (d / np.linalg.norm(x),), v),
    ),
    "the denominator": (
        "a path is missing: the denominator, with the sum of x, is treated as a constant",
        by(
            overlap,
            lambda d, x, y: (2 * d[:, None] * y / (x + y).sum(1, keepdims=True),),
            np.exp(SQUARE), np.exp(SQUARE[::-1]), argnums=0,
        ),
    ),
    "the product rule": (
        "a path is missing: 1 − x is treated as a constant (nothing flows back through 1 − x to x; "
        "a term of the product rule is left out)",
        by(lambda x: (1 - x) * jnp.sin(x), lambda d, x: (d * (1 - x) * np.cos(x),), v),
    ),
    "the normaliser": (
        "a path is missing: the normaliser of a softmax",
        by(mixture, lambda d, z, q: ((d[:, None] * softmax(np.log(softmax(z)) + q)).sum(0),),
           v, SQUARE, argnums=0),
    ),
    "the log-determinant": (
        "a path is missing: the log-determinant is treated as a constant",
        by(lambda A: jnp.linalg.slogdet(A)[1] + jnp.sin(A).sum(), lambda d, A: (d * np.cos(A),), A),
    ),
    "the penalty": (
        "a path is missing: the L2 penalty of W is left out",
        by(
            penalised,
            lambda d, x, W: (d * x.T @ (1 - np.tanh(x @ W) ** 2) / 30,),
            SQUARE, LAYERS[1], argnums=1,
        ),
    ),
    "a penalty by a dot product": (
        "a path is missing: the L2 penalty of W is left out (nothing flows back through matrix product "
        "(W, W) to W)",
        by(
            lambda W: jnp.sin(W).sum() + 0.3 * jnp.vdot(W, W),
            lambda d, W: (d * np.cos(W),), LAYERS[1],
        ),
    ),
    "the skip connection": (
        "a path is missing: the skip connection is left out",
        by(residual, residual_bwd, SQUARE, LAYERS[1], argnums=0),
    ),
    "half of the output": (
        "a path is missing: the cotangent of part 2 of 2 of the output is ignored",
        by(
            lambda x: jnp.concatenate([jnp.sin(x), jnp.tanh(x)]),
            lambda d, x: (d[: len(x)] * np.cos(x),), v,
        ),
    ),
    "overwritten at each step": (
        "a path is missing: nothing flows back through k · (sin(a later u)) to k, but in the first of 4 "
        "steps (overwritten at each of 4 steps",
        by(many_steps, many_steps_bwd, v, np.abs(v), argnums=1),
    ),
    "1/z for 1/z²": (
        "the division by y is missing (the denominator is not squared, −a/b for −a/b²)",
        by(lambda x, y: x / y, lambda d, x, y: (-d * x / y,), v, np.exp(v), argnums=1),
    ),
    "the division by a norm": (
        "the derivative of sqrt is wrong: ½ for 1/(2√z) (the division by the norm is missing)",
        by(
            lambda x: jnp.sin(jnp.linalg.norm(x, axis=1)),
            lambda d, x: ((d * np.cos(np.linalg.norm(x, axis=1)))[:, None] * x,), SQUARE,
        ),
    ),
    "a normalisation's division": (
        "the division by the norm of x is missing, at x",
        by(
            lambda x: jnp.sin(x / jnp.linalg.norm(x, axis=1, keepdims=True)),
            lambda d, x: (across(d * np.cos(unit(x)), unit(x)),), SQUARE,
        ),
    ),
}  # fmt: skip

# --- chunks, padding, dilation, outputs, recursions, counts, signs -----------------------------------------


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def across(d, u):
    return d - u * (u * d).sum(1, keepdims=True)


TALL = RNG.standard_normal((11, 3))


def in_chunks(d, x, w):
    d = np.where(np.arange(11) < 8, d, 0)  # two chunks of 4
    return d[:, None] * np.cos(x @ w)[:, None] * w, x.T @ (d * np.cos(x @ w))


def strided(x, kernel):
    return lax.conv_general_dilated(x[None, None], kernel[None, None], (2, 2), ((1, 1), (1, 1)))[0, 0]


def strided_in_steps(x, kernel):
    x = jnp.pad(x, 1)
    return sum(kernel[i, j] * x[i : i + 8 : 2, j : j + 6 : 2] for i, j in np.ndindex(3, 3))


def uncropped(corner):
    def bwd(d, x, kernel):
        whole = np.zeros((11, 9))
        for i, j in np.ndindex(3, 3):
            whole[i : i + 2 * d.shape[0] : 2, j : j + 2 * d.shape[1] : 2] += kernel[i, j] * d
        return (whole[corner : corner + x.shape[0], corner : corner + x.shape[1]],)

    return bwd


def causal(x, kernel):
    padded = jnp.pad(x, ((0, 0), (6, 0)))
    return sum(kernel[:, :, k] @ padded[:, 3 * k : 3 * k + 8] for k in range(3))


def causal_by_shifts(x, kernel):
    moved = [x, *(jnp.concatenate([jnp.zeros((2, n)), x[:, :-n]], 1) for n in (3, 6))]
    return sum(kernel[:, :, 2 - k] @ moved[k] for k in range(3))


def causal_by_convolution(x, kernel):
    return lax.conv_general_dilated(x[None], kernel, (1,), [(6, 0)], rhs_dilation=(3,))[0]


def undilated(by_steps):
    def bwd(d, x, kernel):
        padded = np.pad(x, ((0, 0), (by_steps, 0)))
        return (np.stack([d @ padded[:, k : k + 8].T for k in range(3)], 2),)

    return bwd


SEQUENCE, TAPS = RNG.standard_normal((2, 8)), RNG.standard_normal((4, 2, 3))


def states(a, h):
    return jnp.stack(list(accumulate(a, lambda h, a: a * h, initial=h))[1:])


def from_one_output(at):
    def bwd(d, a, h):
        before = list(accumulate(a, lambda h, a: a * h, initial=h))
        da, g = np.zeros_like(a), np.zeros_like(h)
        for t in reversed(range(len(a))):
            g = g + d[t] * (t == at % len(a))
            da[t], g = (g * before[t]).sum(), a[t] * g
        return da, g

    return bwd


def filtered(x, a):
    y = [x[0], x[1] - a[0] * x[0]]
    for t in range(2, 8):
        y.append(x[t] - a[0] * y[t - 1] - a[1] * y[t - 2])
    return jnp.stack(y)


def without_a_lag(lag):
    def bwd(d, x, a):
        g = np.zeros(10)
        for t in reversed(range(8)):
            g[t] = d[t] - (lag != 1) * a[0] * g[t + 1] - (lag != 2) * a[1] * g[t + 2]
        return (g[:8],)

    return bwd


CLASSES = np.array([0, 2, 1, 4, 0, 3])


def hinge(s):
    rows = jnp.arange(6)
    return jnp.maximum(0, s - s[rows, CLASSES][:, None] + 1).at[rows, CLASSES].set(0).sum()


def hinge_bwd(d, s):
    rows = np.arange(6)
    active = (s - s[rows, CLASSES][:, None] + 1 > 0).astype(float)
    active[rows, CLASSES] = -1
    return (d * active,)


def labels_too_large(d, z):
    return (d * (softmax(z) / 6 - LABELS),)


PARTS = {
    "a chunk of inputs": (
        "samples dropped: the last 3 of 11 along axis 0 are zero",
        by(lambda x, w: jnp.sin(x @ w), in_chunks, TALL, TALL[0]),
    ),
    "a chunk of a sum": (
        "samples dropped: the last 3 of 11 along axis 0 of the gradient of",
        by(lambda x, w: jnp.sin(x @ w), lambda *args: in_chunks(*args)[1:], TALL, TALL[0], argnums=1),
    ),
    "the padding's offset beside a stride": (
        "the padding's offset is ignored in the backward pass: the gradient is cropped at the wrong corner, "
        "shifted by 1, 1 along axes 0, 1",
        by(strided_in_steps, uncropped(0), RNG.standard_normal((9, 7)), KERNEL[:3, 0, :], argnums=0),
    ),
    "the same of a convolution": (
        "the padding's offset is on the wrong side in the backward pass: the gradient is cropped at the "
        "wrong corner, shifted by -1, -1 along axes 2, 3",
        by(strided, uncropped(2), RNG.standard_normal((9, 7)), KERNEL[:3, 0, :], argnums=0),
    ),
    "dilation in dK by slices": (
        "stride (or dilation) ignored in the gradient of the kernel",
        by(causal, undilated(6), SEQUENCE, TAPS, argnums=1),
    ),
    "dilation in dK by shifts": (
        "dilation ignored in the gradient of the kernel (what the windows of x are multiplied by)",
        by(causal_by_shifts, undilated(2), SEQUENCE, TAPS, argnums=1),
    ),
    "dilation in dK of a convolution": (
        "dilation ignored in the backward pass of a convolution",
        by(causal_by_convolution, undilated(6), SEQUENCE, TAPS, argnums=1),
    ),
    "only the last output": (
        "the cotangent of only the last of 7 steps (or samples) is used, along axis 0 of the output",
        by(states, from_one_output(-1), np.exp(z / 3), v),
    ),
    "only the first output": (
        "the cotangent of only the first of 7 steps (or samples) is used, along axis 0 of the output",
        by(states, from_one_output(0), np.exp(z / 3), v),
    ),
    "only the last step of a loss": (
        "only the last of 7 steps (or samples) counts in the gradient of a sequence",
        by(
            lambda a, h: jnp.sin(states(a, h)).sum(),
            lambda d, a, h: from_one_output(-1)(d * np.cos(np.cumprod(a)[:, None] * h), a, h),
            np.exp(z / 3), v,
        ),
    ),
    "one of two outputs": (
        "the cotangent of output 1 of 2 is ignored",
        by(
            lambda x: (jnp.sin(x), jnp.tanh(jnp.sin(x))),
            lambda d, x: (d[1] * np.cos(x) * (1 - np.tanh(np.sin(x)) ** 2),), v,
        ),
    ),
    "a recursion's second lag": (
        "a path is missing: nothing flows back through a · (a difference) to a difference (lag 2",
        by(filtered, without_a_lag(2), SEQUENCE[0], np.array([-0.6, 0.4]), argnums=0),
    ),
    "1 for a count": (
        "1 for the number of active entries",
        by(hinge, hinge_bwd, RNG.standard_normal((6, 5))),
    ),
    "a determinant's sign": (
        "a factor of ±1 is missing or superfluous: the sign of a determinant",
        by(
            lambda A, c: (c * jnp.linalg.slogdet(A)[1]).sum(),
            lambda d, A, c: (d * (c * np.linalg.det(A) / np.abs(np.linalg.det(A)))[:, None, None]
                             * np.linalg.inv(A).swapaxes(1, 2),),
            RNG.standard_normal((6, 4, 4)), RNG.standard_normal(6), argnums=0,
        ),
    ),
    "labels not divided by N": (
        "the labels are not divided by N = 6 (axis 0): p/N − y for (p − y)/N",
        by(cross_entropy, labels_too_large, Z),
    ),
}  # fmt: skip


def softly(q, k, v, mask, groups=None):
    """Attention of several heads; keys are repeated for the query heads, or taken by an index."""
    keys, values = (jnp.repeat(x, 3, 0) if groups is None else x[groups] for x in (k, v))
    scores = jnp.einsum("hid,hjd->hij", q, keys)
    return jax.nn.softmax(jnp.where(mask, scores, -1e30)) @ values


def attended(mask, wrong_mask=None, groups=None):
    """The gradient that attention has with another mask, or with another index of its groups."""

    def bwd(args, d):
        return jax.vjp(lambda *a: softly(*a, mask if wrong_mask is None else wrong_mask, groups), *args)[1](d)

    def fwd(q, k, v):
        return softly(q, k, v, mask), (q, k, v)

    return lambda: check_vjp(fwd, bwd, *ATTENDED, draws=2)


ATTENDED = (RNG.standard_normal((6, 2, 4)), RNG.standard_normal((2, 5, 4)), RNG.standard_normal((2, 5, 4)))
LOWER = np.arange(5) <= np.arange(2)[:, None] + 3
WINDOW = (np.arange(5) <= np.arange(2)[:, None] + 2) & (np.arange(5) > np.arange(2)[:, None])


def cell(a, W, x):
    """A recurrent net whose state is carried by two paths."""
    h, c, hs = jnp.zeros(3), jnp.zeros(3), []
    for t in range(4):
        z = jax.nn.sigmoid(x[t] + h @ W)
        c = a[t] * c + z
        h = jnp.tanh(c) * z
        hs.append(h)
    return jnp.stack(hs)


def cell_bwd(stop_h=False, stop_c=False):
    """Its gradient where nothing is carried back by one of the paths, or by any."""

    def wrong(a, W, x):
        h, c, hs = jnp.zeros(3), jnp.zeros(3), []
        for t in range(4):
            z = jax.nn.sigmoid(x[t] + (jax.lax.stop_gradient(h) if stop_h else h) @ W)
            c = a[t] * (jax.lax.stop_gradient(c) if stop_c else c) + z
            h = jnp.tanh(c) * z
            hs.append(h)
        return jnp.stack(hs)

    return lambda args, d: jax.vjp(wrong, *args)[1](d)


CELL = (RNG.uniform(0.3, 0.9, (4, 3)), RNG.standard_normal((3, 3)), RNG.standard_normal((4, 3)))


SCANNED = RNG.uniform(0.3, 0.9, (5, 3)), RNG.standard_normal((5, 3))


def of_the_cell(bwd):
    return lambda: check_vjp(lambda *a: (cell(*a), a), bwd, *CELL, draws=2)


def one_late(args, d):
    """The gradient of a scan's factors with each state for the one before."""
    a, b = args
    hs = [jnp.zeros(3)]
    for t in range(5):
        hs.append(a[t] * hs[-1] + b[t])
    g = [d[4]]
    for t in (3, 2, 1, 0):
        g.insert(0, d[t] + a[t + 1] * g[0])
    return jnp.stack(g) * jnp.stack(hs[1:]), jnp.stack(g)


def scanned(a, b):
    return jax.lax.scan(lambda h, ab: (ab[0] * h + ab[1],) * 2, jnp.zeros(3), (a, b))[1]


CORNER, NEXT = np.arange(5) <= np.arange(2)[:, None], (np.arange(6) // 3 + 1) % 2
STEPS = {
    "a mask at the other corner": (
        "the mask of q @ k is shifted by -3 along axis 2, as much as its sizes differ",
        attended(LOWER, CORNER)),
    "a window one off": (
        "the mask of q @ k is shifted by 1 along axis 2", attended(WINDOW, np.roll(WINDOW, 1, 1))),
    "keys of head h mod H": (
        "wrong group: member i of 6 takes i mod 2, where i // 3 belongs",
        attended(LOWER, groups=np.arange(6) % 2)),
    "keys of the next group": (
        "wrong group: member i of 6 takes the next group", attended(LOWER, groups=NEXT)),
    "h_t for the step before": ("h_t is used where h_(t−1) belongs", lambda: check_vjp(
        lambda a, b: (scanned(a, b), (a, b)), one_late, *SCANNED, draws=2)),
    "nothing carried": (
        "nothing is carried back from step to step", of_the_cell(cell_bwd(stop_h=True, stop_c=True))),
    "one state not carried": (
        "the gradient of (a[0] · c) + z is dropped from what is carried", of_the_cell(cell_bwd(stop_c=True))),
    "the power rule on an exponential": (
        "the derivative of exp is wrong: z eᶻ⁻¹ for eᶻ (the power rule",
        by(jnp.exp, lambda d, x: (d * x * np.exp(x - 1),), v)),
}  # fmt: skip
CASES = SOLVED | LOGITS | FACTORS | INDICES | FINITE | PLACED | CALLED | PARTS | STEPS


test_the_true_cause_is_named_first = named_first(CASES)


def test_infinities_and_nan_are_not_explained_away():
    """If nothing explains the finite entries, the only message is that others are not finite."""
    (finding,) = CASES["nothing known and NaN"][1]().findings
    assert finding.diagnosis == "NaN in some entries"
