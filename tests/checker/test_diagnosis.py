"""The checker names the mistake: each gradient here has one, in NumPy or JAX, lectures or not."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from manual_grad.verify import check_grad, check_vjp
from tests.checker.causes import named_first, softmax

RNG = np.random.default_rng(7)
X, W, b = RNG.standard_normal((8, 3)), RNG.standard_normal((3, 5)), RNG.standard_normal(5)
T, V = RNG.standard_normal((8, 5)), RNG.standard_normal((5, 5))
x, y = RNG.standard_normal(7), RNG.standard_normal(7)
LABELS = RNG.integers(0, 5, 8)
Y = np.eye(5)[LABELS]
Q = RNG.standard_normal((4, 4))
IMAGE, KERNEL = RNG.standard_normal((6, 7)), RNG.standard_normal((3, 3))
IMAGES, KERNELS = RNG.standard_normal((2, 6, 7, 3)), RNG.standard_normal((3, 3, 3, 4))

KEPT = np.arange(8) < 5
MASK = (np.arange(40).reshape(8, 5) % 7 < 2).astype(float)
REPEATED = np.array([0, 3, 1, 1, 2, 0])


# --- losses and pairs -------------------------------------------------------------------------------------


def mse(p, t):
    return ((p - t) ** 2).mean()


def dmse(p, t):
    return 2 * (p - t) / p.size


def ce(z, labels):
    return -jnp.mean(jax.nn.log_softmax(z)[jnp.arange(len(labels)), labels])


def ce_soft(z, Y):
    return -jnp.sum(Y * jnp.log(jax.nn.softmax(z))) / z.shape[0]


def ce_lse(z, labels):
    return jnp.mean(jax.scipy.special.logsumexp(z, axis=1) - z[jnp.arange(len(labels)), labels])


def ridge(W, X, t):
    return ((X @ W - t) ** 2).sum() / (2 * len(X)) + 0.1 * (W**2).sum()


def dense_loss(X, W, b, T):
    return ((X @ W + b - T) ** 2).sum() / X.shape[0]


def dense_grads(X, W, b, T):
    R = 2 * (X @ W + b - T) / len(X)
    return R @ W.T, X.T @ R, R.sum(0), -R


def wrong_dense(*, dX=None, dW=None, db=None, dT=None):
    """The dense layer's gradients with some of them wrong."""

    def grad(X, W, b, T):
        R = 2 * (X @ W + b - T) / len(X)
        right = dense_grads(X, W, b, T)
        wrong = (dX, dW, db, dT)
        return tuple(f(R, X, W) if f else g for f, g in zip(wrong, right, strict=True))

    return grad


def mlp(params, X, t):
    return jnp.mean((jnp.maximum(X @ params["W1"] + params["b1"], 0) @ params["W2"] - t) ** 2)


def mlp_grads(mask=lambda Z: Z > 0, transpose=True):
    def grad(params, X, t):
        Z = X @ params["W1"] + params["b1"]
        A = np.maximum(Z, 0)
        d2 = 2 * (A @ params["W2"] - t) / t.size
        dZ = d2 @ params["W2"].T * mask(Z)
        return {"W1": X.T @ dZ, "b1": dZ.sum(0), "W2": A.T @ d2}, None, None

    return grad


PARAMS = {"W1": W, "b1": b, "W2": RNG.standard_normal((5, 2))}
T2 = RNG.standard_normal((8, 2))


def conv(x, k):
    return lax.conv_general_dilated(x[None, None], k[None, None], (1, 1), "VALID")[0, 0]


def correlate(x, k):
    h, w = x.shape[0] - k.shape[0] + 1, x.shape[1] - k.shape[1] + 1
    return sum(k[i, j] * x[i : i + h, j : j + w] for i in range(k.shape[0]) for j in range(k.shape[1]))


def correlate_bwd(rotate=True, rotate_dk=False, shift=0):
    def bwd(res, dout):
        x, k = (np.asarray(r) for r in res)
        h, w = dout.shape
        dk = np.array(
            [[(dout * x[i : i + h, j : j + w]).sum() for j in range(k.shape[1])] for i in range(k.shape[0])]
        )
        dx = np.zeros_like(x)
        f = k if rotate else k[::-1, ::-1]
        for i in range(k.shape[0]):
            for j in range(k.shape[1]):
                dx[i : i + h, j : j + w] += f[i, j] * dout
        return np.roll(dx, shift, 1) if shift else dx, dk[::-1, ::-1] if rotate_dk else dk

    return bwd


def correlate_fwd(x, k):
    return correlate(x, k), (x, k)


def nhwc(x, k):
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def elementwise(f, df):
    return (lambda x: (f(x), x)), (lambda x, dout: (df(x, dout),))


def layernorm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def layernorm_bwd(mean=True, variance=True):
    def bwd(x, dout):
        x = np.asarray(x)
        s = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        h = (x - x.mean(-1, keepdims=True)) / s
        out = dout - (dout.mean(-1, keepdims=True) if mean else 0)
        return ((out - (h * (dout * h).mean(-1, keepdims=True) if variance else 0)) / s,)

    return bwd


def odd_layernorm_bwd(scale):
    return lambda x, dout: (layernorm_bwd()(x, dout)[0] + scale * np.sin(3 * np.asarray(x)) * dout,)


def scaled_layernorm(x, scale):
    return scale * layernorm(x)


def scaled_layernorm_bwd(statistic=lambda x, h: h, axis=-1, spread=True):
    def bwd(res, dout):
        x, scale = (np.asarray(r) for r in res)
        s = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        h, dh = (x - x.mean(-1, keepdims=True)) / s, dout * scale
        dx = dh - dh.mean(axis, keepdims=True) - h * (dh * h).mean(axis, keepdims=True)
        return dx / s if spread else dx, (dout * statistic(x, h)).sum(0)

    return bwd


def of_primals(f, bwd):
    """A pair whose residuals are the primals."""
    return (lambda *primals: (f(*primals), primals)), bwd


def one_hidden_layer(W, V, x):
    return (jnp.tanh(x @ W) @ V).sum()


def one_hidden_layer_grad(a=lambda z: np.tanh(z), slope=lambda z: 1 - np.tanh(z) ** 2):
    def grad(W, V, x):
        z = x @ W
        return x.T @ (slope(z) * V.sum(1)), np.repeat(a(z).sum(0)[:, None], V.shape[1], 1), None

    return grad


def scanned(W, V, x):
    h, _ = lax.scan(lambda h, xt: (jnp.tanh(h @ W + xt @ V), None), jnp.zeros(4), x)
    return (h**2).sum()


def scanned_grad(through=True, last=False, before=0):
    def grad(W, V, x):
        hs = [np.zeros(4)]
        for xt in x:
            hs.append(np.tanh(hs[-1] @ W + xt @ V))
        d, dW, dV = 2 * hs[-1], 0, 0
        for t in range(len(x) - 1, -1, -1):
            dz = d * (1 - hs[t + 1] ** 2)
            dW, dV = dW + np.outer(hs[t + before], dz), dV + np.outer(x[t], dz)
            d = 0 * d if last else (dz if through else d) @ W.T
        return dW, dV, None

    return grad


def attention(q, k, v):
    return jax.nn.softmax(q @ k.T / 2) @ v


def attention_bwd(axis=-1, transposed=False):
    def bwd(res, dout):
        q, k, v = (np.asarray(r) for r in res)
        p = softmax(q @ k.T / 2)
        dp = dout @ v.T
        ds = p * (dp - (dp * p).sum(axis, keepdims=True))
        return ds @ k / 2, (ds if transposed else ds.T) @ q / 2, p.T @ dout

    return bwd


def pooled(x):
    return x.reshape(3, 2, 3, 2).max((1, 3))


def first_of_each(res, dout):
    dx = np.zeros((6, 6))
    dx[::2, ::2] = dout
    return (dx,)


def overwritten(res, dout):
    dx = np.zeros((8, 3))
    dx[REPEATED] = dout
    return (dx,)


def huber(r):
    return jnp.where(jnp.abs(r) < 1, r**2 / 2, jnp.abs(r) - 0.5).sum()


def bce(z, Y):
    return (jnp.maximum(z, 0) - z * Y + jnp.log1p(jnp.exp(-jnp.abs(z)))).mean()


def product_of_squares(params):
    return (params[0] ** 2).sum() * (params[1][0] ** 2).sum()


def vjp(pair, *args, **settings):
    return lambda: check_vjp(*pair, *args, **settings)


def grad(loss, wrong, *args, **settings):
    return lambda: check_grad(loss, wrong, *args, **settings)


def dense_case(**wrong):
    return grad(dense_loss, wrong_dense(**wrong), X, W, b, T)


def relu_pair(df):
    return elementwise(lambda x: jnp.maximum(x, 0), df)


def softmax_pair(df):
    return (lambda z: (jax.nn.softmax(z), z)), (lambda z, dout: (df(softmax(np.asarray(z)), dout),))


SQUARE_X, SQUARE_W, SQUARE_T = (RNG.standard_normal((4, 4)) for _ in range(3))


def batchnorm(x, scale, shift):
    centred = x - x.mean(0)
    return scale * centred / jnp.sqrt((centred**2).mean(0) + 1e-5) + shift


def batchnorm_bwd(statistics=True, swap=False, mean=False):
    def bwd(res, dout):
        x, scale = (np.asarray(r) for r in res)
        s = np.sqrt(x.var(0) + 1e-5)
        h, dh = (x - x.mean(0)) / s, dout * scale
        dx = (dh - dh.mean(0) - h * (dh * h).mean(0)) / s if statistics else dh / s
        dscale, dshift = (dout * h).sum(0), dout.mean(0) if mean else dout.sum(0)
        return (dx, dshift, dscale) if swap else (dx, dscale, dshift)

    return bwd


def batchnorm_fwd(x, scale, shift):
    return batchnorm(x, scale, shift), (x, scale)


def recurrent(W, h0):
    h = h0
    for _ in range(3):
        h = jnp.tanh(h @ W)
    return (h**2).sum()


def recurrent_grad(transpose=True):
    def grad(W, h0):
        hs = [h0]
        for _ in range(3):
            hs.append(np.tanh(hs[-1] @ W))
        d, dW = 2 * hs[-1], 0
        for h, before in zip(hs[:0:-1], hs[-2::-1], strict=True):
            d = d * (1 - h**2)
            dW = dW + np.outer(before, d)
            d = d @ (W.T if transpose else W)
        return dW, d

    return grad


def deep(W1, W2, X):
    return (jax.nn.relu(jax.nn.relu(X @ W1) @ W2) * V[0]).sum()


def deep_with_the_first_mask_twice(W1, W2, X):
    Z1 = X @ W1
    A1 = np.maximum(Z1, 0)
    d2 = V[0] * (Z1 > 0)
    return X.T @ ((d2 @ W2.T) * (Z1 > 0)), A1.T @ d2, None


def sig(z):
    return 1 / (1 + np.exp(-z))


def rows_of(Z):
    return (lambda z: (jax.nn.log_softmax(z), z)), lambda z, d: (d - softmax(np.asarray(z)) * Z(d),)


# case: what the diagnosis of the first wrong leaf must start with
def leaky(z):
    return jnp.where(z > 0, z, 0.1 * z)


def two_layers(f, x, W, V):
    return f(f(x @ W) @ V)


def two_layers_bwd(f, df, dx_of=None, dV_of=None):
    """The backward pass of two layers of ReLU's or tanh's kind, with the slope of the other one."""

    def bwd(res, dout):
        x, W, V = res
        z = x @ W
        h = f(z)
        d2 = dout * df(h @ V)
        d1 = (d2 @ V.T) * df(h @ V if dx_of else z)
        return d1 @ W.T, x.T @ d1, h.T @ (dout * df(z) if dV_of else d2)

    return bwd


def columns(z):
    e = jnp.exp(z - z.max(0))
    return e / e.sum(0)


def columns_bwd(res, dout):
    p = columns(*res)
    return (p * (dout - (p * dout).sum(1, keepdims=True)),)


def windows(x, k):
    return jnp.tanh(jnp.stack([x[2 * i : 2 * i + 3] @ k for i in range(3)]))


def windows_bwd(add=True, turn=1):
    def bwd(res, dout):
        x, k = res
        d = dout * (1 - windows(x, k) ** 2)
        dx = jnp.zeros_like(x)
        for i in range(3):
            at = dx.at[2 * i : 2 * i + 3]
            dx = (at.add if add else at.set)(d[i] * k[::turn])
        return dx, d @ jnp.stack([x[2 * i : 2 * i + 3] for i in range(3)])

    return bwd


def masked_attention(q, k, v, mask=KEPT):
    return jax.nn.softmax(jnp.where(mask, q @ k.T, -1e9)) @ v


def masked_attention_bwd(res, dout):
    return jax.vjp(lambda *a: masked_attention(*a, mask=True), *res)[1](dout)


def masked_mse(p, t, m):
    return (m * (p - t) ** 2).sum() / m.sum()


CASES = {
    "another layer's slopes": (
        "mask taken from the wrong layer",
        vjp(
            of_primals(
                lambda x, W, V: two_layers(leaky, x, W, V),
                two_layers_bwd(leaky, lambda z: jnp.where(z > 0, 1.0, 0.1), dx_of=2),
            ),
            X,
            W,
            V,
        ),
    ),
    "tanh of another layer in one product": (
        "the derivative of tanh is taken at another layer's values",
        vjp(
            of_primals(
                lambda x, W, V: two_layers(jnp.tanh, x, W, V),
                two_layers_bwd(jnp.tanh, lambda z: 1 - jnp.tanh(z) ** 2, dV_of=1),
            ),
            X,
            W,
            V,
        ),
    ),
    "softmax in columns": (
        "summed over the wrong axis in the backward pass: axis 1 instead of axis 0",
        vjp(of_primals(columns, columns_bwd), T),
    ),
    "windows assigned": (
        "overlapping windows are overwritten",
        vjp(of_primals(windows, windows_bwd(add=False)), x, KERNEL[0]),
    ),
    "kernel of a loop": (
        "rotated or flipped kernel",
        vjp(of_primals(windows, windows_bwd(turn=-1)), x, KERNEL[0]),
    ),
    "mask left out of the weights": (
        "missing mask (of where): left out where",
        vjp(of_primals(masked_attention, masked_attention_bwd), Q[:, :3], X, T),
    ),
    "mean where the mask's count is due": (
        "divided by 40 (all of p) instead of the sum of m (12)",
        grad(
            masked_mse,
            lambda p, t, m: (2 * m * (p - t) / m.size, None, None),
            T,
            Y,
            MASK,
            argnums=0,
        ),
    ),
    "complex": (
        "sign flipped; also wrong dtype: got complex128, expected float64",
        grad(lambda a: (a**2).sum(), lambda a: -2 * a + 0j, x),
    ),
    "taken for symmetric": (
        "one of two terms twice, the other not at all (a matrix is assumed to be symmetric)",
        grad(lambda q, Q: q @ Q @ q, lambda q, Q: (2 * Q @ q, np.outer(q, q)), Q[0], Q),
    ),
    "sigmoid slope too many": (
        "the slope of the sigmoid, p(1 − p), once too often",
        grad(bce, lambda z, Y: ((sig(z) - Y) * sig(z) * (1 - sig(z)) / Y.size, None), T, Y, argnums=0),
    ),
    "tanh slope twice": (
        "the derivative of tanh is applied twice",
        grad(
            one_hidden_layer,
            one_hidden_layer_grad(slope=lambda z: np.cosh(z) ** -4.0),
            W,
            V,
            X,
            argnums=(0, 1),
        ),
    ),
    "pre-activation": (
        "x @ W is used for tanh(x @ W)",
        grad(one_hidden_layer, one_hidden_layer_grad(a=lambda z: z), W, V, X, argnums=(0, 1)),
    ),
    "log-softmax without its sum": (
        "the sum of the gradient over axis 1 is left out",
        vjp(rows_of(lambda d: 1), T),
    ),
    "log-softmax over the wrong axis": (
        "summed over the wrong axis",
        vjp(rows_of(lambda d: d.sum(0, keepdims=True)), T),
    ),
    "attention over the wrong axis": (
        "summed over the wrong axis",
        vjp(of_primals(attention, attention_bwd(axis=0)), Q, SQUARE_X, SQUARE_W),
    ),
    "attention transposed": (
        "transposed: the gradient of a matrix product",
        vjp(of_primals(attention, attention_bwd(transposed=True)), Q, SQUARE_X, SQUARE_W),
    ),
    "layernorm over the wrong axis": (
        "summed over the wrong axis in the backward pass: axis 0 instead of axis 1",
        vjp(of_primals(scaled_layernorm, scaled_layernorm_bwd(axis=0)), T, b),
    ),
    "layernorm x for x̂": (
        "x is used for the normalised x̂",
        vjp(of_primals(scaled_layernorm, scaled_layernorm_bwd(lambda x, h: x)), T, b, names=("x", "scale")),
    ),
    "layernorm without its division": (
        "the division by the standard deviation of",
        vjp(of_primals(scaled_layernorm, scaled_layernorm_bwd(spread=False)), T, b),
    ),
    "cumulative sum": (
        "a cumulative sum must be reversed",
        vjp(of_primals(lambda x: jnp.cumsum(x**2, 1), lambda r, d: (2 * r[0] * np.cumsum(d, 1),)), T),
    ),
    "repeated indices": (
        "repeated indices are overwritten",
        vjp(of_primals(lambda x: x[REPEATED], overwritten), X),
    ),
    "pooling": (
        "maximum: the gradient goes to the first entry",
        vjp(of_primals(pooled, first_of_each), RNG.standard_normal((6, 6))),
    ),
    "huber": ("wrong branch: the slope of the first branch of where", grad(huber, lambda r: r, 2 * T)),
    "quotient": (
        "the division by b is missing",
        grad(lambda a, b: (a / b).sum(), lambda a, b: (1 / b, -a / b), x, y**2 + 1),
    ),
    "weights left out": (
        "the factor w is missing",
        grad(
            lambda p, w: (w * (p**2 + p)).sum() / w.sum(),
            lambda p, w: ((2 * p + 1) / w.sum(), None),
            x,
            y**2,
            argnums=0,
        ),
    ),
    "divided by all samples, where 4 is to 6 as 6 is to 9": (
        "divided by 9 (axis 0 of p) instead of the sum of m (6)",
        grad(
            lambda w, p, m: (m * (p @ w) ** 2).sum() / m.sum(),
            lambda w, p, m: (2 * (m * (p @ w)) @ p / 9, None, None),
            np.array([0.3, -0.7, 1.1, 0.4]),
            np.random.default_rng(3).standard_normal((9, 4)),
            np.array([1.0, 1, 0, 1, 1, 0, 1, 1, 0]),
            argnums=0,
        ),
    ),
    "divided by all samples": (
        "divided by 8 (axis 0 of p) instead of the sum of m (6)",
        grad(
            lambda p, m: (m * p**2).sum() / m.sum(),
            lambda p, m: (2 * m * p / 8, None),
            X[:, 0],
            np.array([1.0, 1, 0, 1, 1, 0, 1, 1]),
            argnums=0,
        ),
    ),
    "regulariser's sign": (
        "sign flipped in one place",
        grad(ridge, lambda W, X, t: (X.T @ (X @ W - t) / 8 - 0.2 * W, None, None), W, X, T, argnums=[0]),
    ),
    "one step only": (
        "nothing is carried back from step to step: no gradient through time",
        grad(scanned, scanned_grad(last=True), Q, SQUARE_W, SQUARE_X, argnums=(0, 1)),
    ),
    "recurrent slope": (
        "the derivative of tanh is left out of what flows back through matrix product",
        grad(scanned, scanned_grad(through=False), Q, SQUARE_W, SQUARE_X, argnums=(0, 1)),
    ),
    "this step's state": (
        "h_t is used where h_(t−1) belongs",
        grad(scanned, scanned_grad(before=1), Q, SQUARE_W, SQUARE_X, argnums=(0, 1)),
    ),
    "temperature left out of the values": (
        "the derivative is taken where a quotient was left out of the values",
        grad(lambda z: -jnp.sum(Y * jax.nn.log_softmax(z / 3)), lambda z: (softmax(z) - Y) / 3, T),
    ),
    "batchnorm statistics constant": (
        "a path is missing",
        vjp((batchnorm_fwd, batchnorm_bwd(statistics=False)), T, V[0], b),
    ),
    "batchnorm order": (
        "arguments in the wrong order",
        vjp((batchnorm_fwd, batchnorm_bwd(swap=True)), T, V[0], b),
    ),
    "batchnorm mean": ("scaled by 1/N", vjp((batchnorm_fwd, batchnorm_bwd(mean=True)), T, V[0], b)),
    "recurrent transposed": (
        "transposed",
        grad(recurrent, recurrent_grad(transpose=False), Q, RNG.standard_normal(4)),
    ),
    "recurrent right but for the sign": (
        "sign",
        grad(recurrent, lambda *a: (-recurrent_grad()(*a)[0], recurrent_grad()(*a)[1]), Q, Q[1]),
    ),
    "columns bias mean": (
        "scaled by 1/N, N = 8",
        vjp(
            (lambda W, X, b: (W @ X + b[:, None], (W, X)), lambda r, d: (d @ r[1].T, r[0].T @ d, d.mean(1))),
            W.T,
            X.T,
            b,
        ),
    ),
    "mask of another layer": (
        "mask taken from the wrong layer",
        grad(deep, deep_with_the_first_mask_twice, W, V, X, argnums=(0, 1)),
    ),
    "sigmoid slope a": (
        "the derivative of sigmoid is wrong",
        vjp(elementwise(jax.nn.sigmoid, lambda x, d: d * jax.nn.sigmoid(x)), T),
    ),
    "tanh slope at its output": (
        "the derivative of tanh is taken at its output",
        vjp(elementwise(jnp.tanh, lambda x, d: d * (1 - jnp.tanh(jnp.tanh(x)) ** 2)), T),
    ),
    "mse sign": ("sign", grad(mse, lambda p, t: (-dmse(p, t), -dmse(p, t)), x, y)),
    "mse both signs": (
        "sign flipped or arguments in the wrong order",
        grad(mse, lambda p, t: (-dmse(p, t), dmse(p, t)), x, y),
    ),
    "mse sum": ("scaled by N = 7", grad(mse, lambda p, t: (2 * (p - t), -dmse(p, t)), x, y)),
    "mse 1/N twice": ("scaled by 1/N", grad(mse, lambda p, t: (dmse(p, t) / p.size, -dmse(p, t)), x, y)),
    "mse half": ("scaled by 1/2", grad(mse, lambda p, t: (dmse(p, t) / 2, -dmse(p, t)), x, y)),
    "mse neither 2 nor 1/N": ("scaled by N/2", grad(mse, lambda p, t: (p - t, -dmse(p, t)), x, y)),
    "mse ddof": ("scaled by 7/6", grad(mse, lambda p, t: (2 * (p - t) / 6, -dmse(p, t)), x, y)),
    "mse last dropped": (
        "one sample dropped: the last",
        grad(mse, lambda p, t: (np.append(dmse(p, t)[:-1], 0.0), -dmse(p, t)), x, y),
    ),
    "sum of 3 as mean": (
        "scaled by 1/5",
        grad(
            lambda W: (jnp.tanh(W) ** 2).sum(1).mean(), lambda W: 2 * np.tanh(W) / np.cosh(W) ** 2 / W.size, T
        ),
    ),
    "zero": ("zero", dense_case(dW=lambda R, X, W: 0 * W)),
    "nan": ("NaN", dense_case(dW=lambda R, X, W: W * np.nan)),
    "some nan": ("NaN in some", dense_case(dX=lambda R, X, W: np.where(X > 0, np.nan, R @ W.T))),
    "int zero": ("zero; also wrong dtype", dense_case(db=lambda R, X, W: np.zeros(5, int))),
    "dtype": ("wrong dtype: got float32", dense_case(db=lambda R, X, W: R.sum(0).astype(np.float32))),
    "transposed shape": ("transposed", dense_case(dW=lambda R, X, W: R.T @ X)),
    "bias not summed": ("not summed over the batch", dense_case(db=lambda R, X, W: R)),
    "bias mean": ("scaled by 1/N", dense_case(db=lambda R, X, W: R.mean(0))),
    "bias wrong axis": ("summed over the wrong axes", dense_case(db=lambda R, X, W: R.sum(1))),
    "bias all axes": ("summed over too many axes", dense_case(db=lambda R, X, W: R.sum())),
    "bias keepdims": (
        "wrong shape: got (1, 5), expected (5,)",
        dense_case(db=lambda R, X, W: R.sum(0, keepdims=True)),
    ),
    "bias last dropped": ("one sample dropped: the last", dense_case(db=lambda R, X, W: R[:-1].sum(0))),
    "weights first dropped": (
        "one sample dropped: the first",
        dense_case(dW=lambda R, X, W: X[1:].T @ R[1:]),
    ),
    "weights of one": ("only the first sample", dense_case(dW=lambda R, X, W: np.outer(X[0], R[0]))),
    "order": (
        "arguments in the wrong order: this is the gradient of b",
        grad(lambda a, b: (a**2 * b).sum(), lambda a, b: (a**2, 2 * a * b), x, y),
    ),
    "order of shapes": (
        "arguments in the wrong order",
        grad(
            dense_loss, lambda *a: (dense_grads(*a)[1], dense_grads(*a)[0], *dense_grads(*a)[2:]), X, W, b, T
        ),
    ),
    "square transposed": (
        "transposed",
        grad(
            lambda W, X, t: ((X @ W - t) ** 2).sum(),
            lambda W, X, t: (2 * (X @ W - t).T @ X, None, None),
            SQUARE_W,
            SQUARE_X,
            SQUARE_T,
            argnums=0,
        ),
    ),
    "square factor transposed": (
        "transposed: ",
        grad(dense_loss, wrong_dense(dX=lambda R, X, W: R @ W), SQUARE_X, SQUARE_W, Q[0], SQUARE_T),
    ),
    "ce sign": ("sign", grad(ce, lambda z, l: -(softmax(z) - Y) / 8, T, LABELS)),
    "ce sum": ("scaled by N = 8", grad(ce, lambda z, l: softmax(z) - Y, T, LABELS)),
    "ce one-hot forgotten": ("the one-hot labels", grad(ce, lambda z, l: softmax(z) / 8, T, LABELS)),
    "ce cases swapped": (
        "the two cases swapped",
        grad(ce, lambda z, l: (softmax(z) - (1 - Y)) / 8, T, LABELS),
    ),
    "ce off-diagonal": (
        "softmax without its off-diagonal",
        grad(ce, lambda z, l: -Y * (1 - softmax(z)) / 8, T, LABELS),
    ),
    "ce soft off-diagonal": (
        "softmax without its off-diagonal",
        grad(ce_soft, lambda z, Y: (-Y * (1 - softmax(z)) / 8, -np.log(softmax(z)) / 8), T, softmax(T**2)),
    ),
    "ce lse off-diagonal": (
        "softmax without its off-diagonal",
        grad(ce_lse, lambda z, l: -Y * (1 - softmax(z)) / 8, T, LABELS),
    ),
    "numpy ce against": (
        "softmax without its off-diagonal",
        grad(
            lambda z, Y: -(Y * np.log(softmax(z))).sum() / 8,
            lambda z, Y: (-Y * (1 - softmax(z)) / 8, -np.log(softmax(z)) / 8),
            T,
            Y,
            against="softmax_cross_entropy",
        ),
    ),
    "softmax diagonal": (
        "off-diagonal terms of the Jacobian",
        vjp(softmax_pair(lambda p, d: p * (1 - p) * d), T),
    ),
    "softmax p dout": ("a path is missing", vjp(softmax_pair(lambda p, d: p * d), T)),
    "softmax cotangent ignored": (
        "cotangent ignored (a cotangent of ones gives zero here, up to rounding) or zero",
        vjp(softmax_pair(lambda p, d: p - p * p.sum(-1, keepdims=True)), T),
    ),
    "tanh cotangent ignored": (
        "cotangent ignored",
        vjp(elementwise(jnp.tanh, lambda x, d: 1 - jnp.tanh(x) ** 2), T),
    ),
    "tanh of sum": (
        "cotangent ignored",
        vjp(((lambda x: (jnp.tanh(x).sum(), x)), lambda x, d: (1 - jnp.tanh(x) ** 2,)), T),
    ),
    "cotangent twice": (
        "cotangent used twice",
        vjp(elementwise(jnp.sin, lambda x, d: jnp.cos(x) * d * d), T),
    ),
    "relu mask": ("missing mask", vjp(relu_pair(lambda x, d: d), T)),
    "relu inverted": ("mask inverted", vjp(relu_pair(lambda x, d: d * (x < 0)), T)),
    "relu without cotangent": ("cotangent ignored", vjp(relu_pair(lambda x, d: (x > 0) * 1.0), T)),
    "hidden mask": ("missing mask", grad(mlp, mlp_grads(mask=lambda Z: 1.0), PARAMS, X, T2, argnums=0)),
    "dropout mask": (
        "missing mask",
        grad(lambda w: (w * (T > 0) * jnp.sin(w)).sum(), lambda w: np.sin(w) + w * np.cos(w), T + 0.1),
    ),
    "leaky": (
        "a path is missing",
        vjp(elementwise(lambda x: jnp.where(x > 0, x, 0.1 * x), lambda x, d: jnp.where(x > 0, d, 0)), T),
    ),
    "tanh slope": ("missing mask or derivative", vjp(elementwise(jnp.tanh, lambda x, d: d), T)),
    "inner tanh slope": (
        "the derivative of tanh is left out",
        grad(
            lambda W, X: (jnp.tanh(X @ W) ** 2).sum(),
            lambda W, X: (2 * X.T @ np.tanh(X @ W), None),
            W,
            X,
            argnums=0,
        ),
    ),
    "kernel gradient rotated": (
        "rotated or flipped kernel",
        vjp((correlate_fwd, correlate_bwd(rotate_dk=True)), IMAGE, KERNEL),
    ),
    "kernel not rotated": (
        "rotated or flipped kernel",
        vjp((correlate_fwd, correlate_bwd(rotate=False)), IMAGE, KERNEL),
    ),
    "conv not rotated in jax": (
        "rotated or flipped kernel",
        vjp(((lambda x, k: (conv(x, k), (x, k))), correlate_bwd(rotate=False)), IMAGE, KERNEL),
    ),
    "conv shifted": ("shifted by 1", vjp((correlate_fwd, correlate_bwd(shift=1)), IMAGE, KERNEL)),
    "image batch kernel": (
        "rotated or flipped kernel",
        vjp(
            (
                (lambda x, k: (nhwc(x, k), (x, k))),
                lambda res, d: jax.vjp(lambda x, k: nhwc(x, jnp.flip(k, (0, 1))), *res)[1](d),
            ),
            IMAGES,
            KERNELS,
        ),
    ),
    "kernel axes": (
        "permuted axes",
        vjp(
            (
                (lambda x, k: (nhwc(x, k), (x, k))),
                lambda res, d: (lambda dx, dk: (dx, dk.transpose(1, 0, 2, 3)))(*jax.vjp(nhwc, *res)[1](d)),
            ),
            IMAGES,
            KERNELS,
        ),
    ),
    "layernorm mean": (
        "a path is missing",
        vjp(((lambda x: (layernorm(x), x)), layernorm_bwd(mean=False)), T),
    ),
    "layernorm variance": (
        "a path is missing",
        vjp(((lambda x: (layernorm(x), x)), layernorm_bwd(variance=False)), T),
    ),
    "product rule": ("a path is missing", grad(lambda a: (a * jnp.sin(a)).sum(), lambda a: np.sin(a), x)),
    "regulariser": (
        "a path is missing",
        grad(ridge, lambda W, X, t: (X.T @ (X @ W - t) / 8, None, None), W, X, T, argnums=[0]),
    ),
    "regulariser's 2": (
        "the factor 2 from a power",
        grad(ridge, lambda W, X, t: (X.T @ (X @ W - t) / 8 + 0.1 * W, None, None), W, X, T, argnums=[0]),
    ),
    "pytree leaf": (
        "sign",
        grad(
            product_of_squares,
            lambda p: [2 * p[0] * (p[1][0] ** 2).sum(), (-2 * p[1][0] * (p[0] ** 2).sum(),)],
            [x, (T,)],
        ),
    ),
    "jitted": (
        "scaled by N = 7",
        grad(jax.jit(mse), jax.jit(lambda p, t: (2 * (p - t), -dmse(p, t))), jnp.array(x), jnp.array(y)),
    ),
    "none": ("no gradient was returned", grad(mse, lambda p, t: (dmse(p, t), None), x, y)),
    "finite differences": (
        "imprecise",
        grad(lambda a: (a**3).sum(), lambda a: ((a + 1e-5) ** 3 - (a - 1e-5) ** 3) / 2e-5 + 1e-7 * a, x),
    ),
    "random": ("no known mistake", grad(lambda a: (a**3).sum(), lambda a: 3 * a**2 + 0.1 * np.cos(a), x)),
    "constant factor": ("scaled by 0.37", grad(lambda a: (a**3).sum(), lambda a: 0.37 * 3 * a**2, x)),
    "sign and sum": (
        "sign flipped and scaled by N",
        grad(mse, lambda p, t: (-2 * (p - t), -dmse(p, t)), x, y),
    ),
    "sum and mask": (
        "missing mask (of ReLU), and scaled by N = 8",
        grad(
            mlp,
            lambda p, X, t: (
                jax.tree.map(lambda g: 8 * g, mlp_grads(mask=lambda Z: 1.0)(p, X, t)[0]),
                None,
                None,
            ),
            PARAMS,
            X,
            T2,
            argnums=0,
        ),
    ),
}


test_the_true_cause_is_named_first = named_first(CASES)


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_no_cause_is_guessed_if_no_mistake_explains_it(scale):
    """Part of a right gradient plus a mistake that nobody makes: nothing explains it."""
    report = vjp(((lambda x: (layernorm(x), x)), odd_layernorm_bwd(scale)), T)()
    assert report.findings[0].diagnosis.startswith("no known mistake explains it")
    report = check_grad(
        recurrent, lambda W, h: (recurrent_grad()(W, h)[0] + scale * np.cos(W), None), Q, Q[1]
    )
    assert report.findings[0].diagnosis.startswith("no known mistake explains it")


def test_a_long_loop_is_diagnosed_in_time():
    """60 steps: neither JAX nor the candidate mistakes are run one by one."""

    def loop(W, h):
        for _ in range(60):
            h = jnp.tanh(h @ W)
        return (h**2).sum()

    start = time.process_time()
    report = check_grad(loop, lambda W, h: (jax.grad(loop)(W, h), -jax.grad(loop, 1)(W, h)), Q, Q[1])
    assert report.findings[0].ok
    assert report.findings[1].diagnosis == "sign flipped"
    report = check_grad(
        lambda W, h: loop(W, h) + (W**2).sum(), lambda W, h: (jax.grad(loop)(W, h), None), Q, Q[1]
    )
    assert report.findings[0].diagnosis.startswith("a path is missing")
    assert time.process_time() - start < 15


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "case", ["sign", "scaled by N = 8", "one sample dropped: the last", "softmax without its off"]
)
def test_causes_are_named_in_lower_precision(dtype, case):
    def wrong(z, labels):
        p = jax.nn.softmax(z)
        right = (p - jax.nn.one_hot(labels, 5, dtype=z.dtype)) / 8
        return {
            "sign": -right,
            "scaled by N = 8": 8 * right,
            "one sample dropped: the last": right.at[-1].set(0),
            "softmax without its off": jnp.where(right < 0, right, 0),
        }[case]

    report = check_grad(ce, wrong, jnp.asarray(T, dtype), jnp.asarray(LABELS))
    assert report.findings[0].diagnosis.startswith(case), str(report)
