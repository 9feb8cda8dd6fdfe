"""Complex numbers made of real arguments: a missing conjugate in products, recurrences and transforms."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.checker.causes import loss_by, named_first

# JAX warns of its own casts.
pytestmark = pytest.mark.filterwarnings("ignore:Casting complex values to real")
RNG = np.random.default_rng(7)
A, B = [RNG.standard_normal((2, 4, 3)) for _ in range(2)]
W = RNG.standard_normal((2, 3, 2))
X, KERNEL = RNG.standard_normal((3, 6)), RNG.standard_normal(6)
ALL = (0, 1, 2, 3)


def loss(z):
    return jnp.sum(jnp.sin(z.real) + jnp.cos(z.imag))


def of_loss(z):
    return np.cos(z.real) - 1j * np.sin(z.imag)


def parts(*zs):
    return tuple(part for z in zs for part in (z.real, z.imag))


def conj(z, is_right):
    return z.conj() if is_right else z


def product(ar, ai, br, bi):
    return loss(lax.complex(ar, ai) * lax.complex(br, bi))


def product_grad(*right):
    def grad(ar, ai, br, bi):
        a, b = ar + 1j * ai, br + 1j * bi
        d = of_loss(a * b)
        return parts(d * conj(b, right[0]), d * conj(a, right[1]))

    return grad


def matrices(ar, ai, wr, wi):
    return loss((ar + 1j * ai) @ (wr + 1j * wi))


def matrices_grad(*right):
    def grad(ar, ai, wr, wi):
        a, w = ar + 1j * ai, wr + 1j * wi
        d = of_loss(a @ w)
        return parts(d @ conj(w, right[0]).T, conj(a, right[1]).T @ d)

    return grad


def recurrence(ar, ai, xr, xi):
    a, x = lax.complex(ar, ai) / 2, lax.complex(xr, xi)

    def step(h, now):
        h = now[0] * h + now[1]
        return h, h

    return loss(lax.scan(step, jnp.zeros(3, a.dtype), (a, x))[1])


def recurrence_grad(*right):
    def grad(ar, ai, xr, xi):
        a, x, h = (ar + 1j * ai) / 2, xr + 1j * xi, np.zeros(3, complex)
        before, after = np.zeros_like(a), np.zeros_like(a)
        for t in range(len(a)):
            before[t], after[t] = h, a[t] * h + x[t]
            h = after[t]
        d, da, dx = of_loss(after), np.zeros_like(a), np.zeros_like(x)
        dh = 0
        for t in reversed(range(len(a))):
            dx[t] = dh = dh + d[t]
            da[t], dh = dh * conj(before[t], right[0]), dh * conj(a[t], right[1])
        return parts(da / 2, dx)

    return grad


SCALES = np.arange(1.0, 13).reshape(4, 3)


def squares(ar, ai, br, bi):
    return jnp.sum(jnp.abs(lax.complex(ar, ai) * lax.complex(br, bi)) ** 2 * SCALES)


def squares_grad(right, of_factors=True):
    def grad(ar, ai, br, bi):
        a, b = ar + 1j * ai, br + 1j * bi
        d = conj(2 * a * b * SCALES, not right)
        return parts(d * conj(b, of_factors), d * conj(a, of_factors))

    return grad


def filtered(x, k):
    return jnp.sum(jnp.sin(jnp.fft.ifft(jnp.fft.fft(x, axis=1) * jnp.fft.fft(k), axis=1).real))


def filtered_grad(right):
    def grad(x, k):
        of_x, of_k = np.fft.fft(x, axis=1), np.fft.fft(k)
        d = np.fft.fft(np.cos(np.fft.ifft(of_x * of_k, axis=1).real), axis=1)
        dx, dk = np.fft.ifft(d * of_k.conj(), axis=1), np.fft.ifft(d * conj(of_x, right), axis=1)
        return dx.real, dk.real.sum(0)

    return grad


MISSING = "the complex conjugate of {} is missing in the gradient of {}"
test_conjugates = named_first(
    {
        "a product, of the first factor": (
            MISSING.format("br + i · bi", "ar + i · ai"),
            loss_by(product, product_grad(False, True), *A, *B, argnums=ALL),
        ),
        "a product, of the second factor": (
            MISSING.format("ar + i · ai", "br + i · bi"),
            loss_by(product, product_grad(True, False), *A, *B, argnums=ALL),
        ),
        "a product, of both": (
            "the complex conjugate is missing in the derivatives of all products",
            loss_by(product, product_grad(False, False), *A, *B, argnums=ALL),
        ),
        "a matrix product, of the left factor": (
            MISSING.format("wr + i · wi", "ar + i · ai") + ": a matrix is transposed, but not conjugated",
            loss_by(matrices, matrices_grad(False, True), *A, *W, argnums=ALL),
        ),
        "a matrix product, of the right factor": (
            MISSING.format("ar + i · ai", "wr + i · wi") + ": a matrix is transposed, but not conjugated",
            loss_by(matrices, matrices_grad(True, False), *A, *W, argnums=ALL),
        ),
        "a recurrence, the decay": (
            "the complex conjugate of the result of an addition is missing in the gradient of ar + i · ai",
            loss_by(recurrence, recurrence_grad(False, True), *A, *B, argnums=ALL),
        ),
        "a recurrence, the state": (
            "the complex conjugate of ar + i · ai is missing in the gradient of the result of an addition",
            loss_by(recurrence, recurrence_grad(True, False), *A, *B, argnums=ALL),
        ),
        "|z|²": (
            "the complex conjugate of the result of a product is taken in the derivative of |z|",
            loss_by(squares, squares_grad(False), *A, *B, argnums=ALL),
        ),
        "|z|², the factors": (
            "the complex conjugate is missing in the derivatives of all products",
            loss_by(squares, squares_grad(True, False), *A, *B, argnums=ALL),
        ),
        "a filter": (
            MISSING.format("fft(x)", "fft(k)"),
            loss_by(filtered, filtered_grad(False), X, KERNEL, argnums=(0, 1)),
        ),
    },
    in_all=True,
)  # fmt: skip


@pytest.mark.parametrize(
    "ask",
    [
        loss_by(product, product_grad(True, True), *A, *B, argnums=ALL),
        loss_by(matrices, matrices_grad(True, True), *A, *W, argnums=ALL),
        loss_by(recurrence, recurrence_grad(True, True), *A, *B, argnums=ALL),
        loss_by(squares, squares_grad(True), *A, *B, argnums=ALL),
        loss_by(filtered, filtered_grad(True), X, KERNEL, argnums=(0, 1)),
    ],
)
def test_right_conjugates(ask):
    report = ask()
    assert report.ok, str(report)
