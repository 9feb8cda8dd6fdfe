"""One value taken for another: statistics of norms and softmax, σ and its logarithm, a size for a factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.checker.causes import by, loss_by, named_first, softmax

RNG = np.random.default_rng(5)
X, T = RNG.standard_normal((6, 5)), RNG.standard_normal((6, 5))
POSITIVE, IMAGES = RNG.uniform(0.5, 2, (6, 5)), RNG.standard_normal((3, 4, 2, 3))
GAMMA = RNG.uniform(0.5, 2, 5)
Q, K, V = RNG.standard_normal((4, 3)), RNG.standard_normal((5, 3)), RNG.standard_normal((5, 2))
LOG_SIGMA = RNG.standard_normal(5) / 2 + 0.9
LABELS = (RNG.uniform(size=(6, 5)) < 0.5) * 1.0
EPS = 1e-5


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# --- norms ------------------------------------------------------------------------------------------------


def norm(axes, centred=True, by_root=False):
    """A normalisation, and its backward pass with 1/σ computed from another value."""

    def fn(x, gamma):
        less = x - (x.mean(axes, keepdims=True) if centred else 0.0)
        v = (less**2).mean(axes, keepdims=True)
        return (less / jnp.sqrt(v + EPS) if by_root else less * lax.rsqrt(v + EPS)) * gamma

    def back(deviation, saved):
        def bwd(d, x, gamma):
            less = x - (x.mean(axes, keepdims=True) if centred else 0)
            v = (less**2).mean(axes, keepdims=True)
            right = 1 / np.sqrt(v + EPS)
            r = deviation(v, right)
            normal, dh = less * (right if saved else r), d * gamma
            mean = dh.mean(axes, keepdims=True) if centred else 0
            dx = r * (dh - mean - normal * (dh * normal).mean(axes, keepdims=True))
            rest = (
                tuple(a for a in range(x.ndim) if gamma.shape[a - x.ndim + gamma.ndim] == 1)
                if (gamma.ndim == x.ndim)
                else tuple(range(x.ndim - gamma.ndim))
            )
            return dx, (d * normal).sum(rest).reshape(gamma.shape)

        return bwd

    return fn, back


NORMS = {
    "layer": (norm((1,)), (X, GAMMA)),
    "layer, by the root": (norm((1,), by_root=True), (X, GAMMA)),
    "batch": (norm((0,), by_root=True), (X, GAMMA)),
    "batch of images": (norm((0, 2, 3)), (IMAGES, RNG.uniform(0.5, 2, (1, 4, 1, 1)))),
    "root mean square": (norm((1,), centred=False), (X, GAMMA)),
}
DEVIATIONS = {
    "1/σ is taken for the": lambda v, r: 1 / np.sqrt(r + EPS),
    "the {} is taken for the": lambda v, r: 1 / (v + EPS),
    "the {root} σ is taken for the": lambda v, r: 1 / np.sqrt(1 / r + EPS),
    "the {root} σ is taken for its": lambda v, r: 1 / r,
    "the {} is taken for 1/σ": lambda v, r: v,
}


def said_of(start, name):
    centred = name != "root mean square"
    kind = "variance" if centred else "mean of squares"
    return start.format(kind, root="standard deviation" if centred else "root mean square")


test_deviations = named_first(
    {
        f"{name}, {start}, {'x̂ is saved' if saved else 'x̂ is computed again'}": (
            said_of(start, name),
            by(fn, back(deviation, saved), *args),
        )
        for name, ((fn, back), args) in NORMS.items()
        for start, deviation in DEVIATIONS.items()
        for saved in (True, False)
    },
    in_all=True,
)


@pytest.mark.parametrize("name", NORMS)
def test_right_norms(name):
    (fn, back), args = NORMS[name]
    report = by(fn, back(lambda v, r: r, True), *args)()
    assert report.ok, str(report)


# --- softmax, the normal distribution ---------------------------------------------------------------------


def attention(q, k, v):
    return jnp.sum(jnp.sin(jax.nn.softmax(q @ k.T, axis=1) @ v))


def attention_grad(probabilities):
    def grad(q, k, v):
        scores = q @ k.T
        p, other = softmax(scores), probabilities(scores)
        do = np.cos(p @ v)
        dp = do @ v.T
        ds = other * (dp - (other * dp).sum(1, keepdims=True))
        return ds @ k, ds.T @ q, other.T @ do

    return grad


def log_sum_exp(z):
    return np.log(np.exp(z).sum(1, keepdims=True))


def softmax_bwd(probabilities):
    def bwd(d, z):
        p = probabilities(z)
        return (p * (d - (p * d).sum(1, keepdims=True)),)

    return bwd


def normal(x, mu, log_sigma):
    sigma = jnp.exp(log_sigma)
    return jnp.sum(log_sigma + 0.5 * ((x - mu) / sigma) ** 2)


def normal_grad(sigma_of):
    def grad(x, mu, log_sigma):
        sigma = sigma_of(log_sigma)
        u = (x - mu) / sigma
        return u / sigma, -u / sigma, (1 - u**2).sum(0)

    return grad


def softplus(z):
    return np.logaddexp(z, 0)


def of_softplus(x, mu, rho):
    sigma = jax.nn.softplus(rho)
    return jnp.sum(jnp.log(sigma) + 0.5 * ((x - mu) / sigma) ** 2)


def of_softplus_grad(sigma_of):
    def grad(x, mu, rho):
        sigma = sigma_of(rho)
        u = (x - mu) / sigma
        return u / sigma, -u / sigma, ((1 - u**2) / sigma).sum(0) * sigmoid(rho)

    return grad


def binary(z):
    return jnp.mean(jnp.maximum(z, 0) - z * LABELS + jnp.log1p(jnp.exp(-jnp.abs(z))))


def by_sum(x):
    return x / jnp.sum(x, 1, keepdims=True)


def by_sum_bwd(sum_of):
    def bwd(d, x):
        s = sum_of(x)
        return ((d - (d * x / s).sum(1, keepdims=True)) / s,)

    return bwd


def length(x):
    return x / jnp.sqrt(jnp.sum(x**2, 1, keepdims=True))


def length_bwd(norm_of):
    def bwd(d, x):
        n = norm_of((x**2).sum(1, keepdims=True))
        y = x / n
        return ((d - y * (d * y).sum(1, keepdims=True)) / n,)

    return bwd


def jax_softmax(z):
    return jax.nn.softmax(z, axis=1)


ALL = (0, 1, 2)
TAKEN = "one value is taken for another: "
test_taken = named_first(
    {
        "attention: softmax twice": (
            f"{TAKEN}probabilities for logits",
            loss_by(attention, attention_grad(lambda z: softmax(softmax(z))), Q, K, V, argnums=ALL),
        ),
        "attention: log-sum-exp for the sum": (
            f"{TAKEN}the logarithm of the sum of exp for the sum",
            loss_by(attention, attention_grad(lambda z: np.exp(z) / log_sum_exp(z)), Q, K, V, argnums=ALL),
        ),
        "attention: the sum for log-sum-exp": (
            f"{TAKEN}the sum of exp for its logarithm",
            loss_by(
                attention, attention_grad(lambda z: np.exp(z - np.exp(z).sum(1, keepdims=True))), Q, K, V,
                argnums=ALL,
            ),
        ),
        "softmax: the mean for the sum": (
            f"{TAKEN}the mean of exp for the sum", by(jax_softmax, softmax_bwd(lambda z: 5 * softmax(z)), X),
        ),
        "binary cross-entropy: probabilities for logits": (
            f"{TAKEN}probabilities for logits",
            loss_by(binary, lambda z: ((sigmoid(sigmoid(z)) - LABELS) / z.size,), X),
        ),
        "log σ for σ": (
            f"{TAKEN}log_sigma for exp(log_sigma)",
            loss_by(normal, normal_grad(lambda s: s), X, T, LOG_SIGMA, argnums=ALL),
        ),
        "exp applied twice": (
            f"{TAKEN}exp(log_sigma) for log_sigma",
            loss_by(normal, normal_grad(lambda s: np.exp(np.exp(s))), X, T, LOG_SIGMA, argnums=ALL),
        ),
        "the variance for σ": (
            f"{TAKEN}(exp(log_sigma))² for exp(log_sigma)",
            loss_by(normal, normal_grad(lambda s: np.exp(2 * s)), X, T, LOG_SIGMA, argnums=ALL),
        ),
        "ρ for softplus(ρ)": (
            f"{TAKEN}rho for softplus(rho)",
            loss_by(of_softplus, of_softplus_grad(lambda r: r), X, T, LOG_SIGMA, argnums=ALL),
        ),
        "softplus applied twice": (
            f"{TAKEN}softplus(rho) for rho",
            loss_by(
                of_softplus, of_softplus_grad(lambda r: softplus(softplus(r))), X, T, LOG_SIGMA, argnums=ALL
            ),
        ),
        "the mean for the sum": (
            f"{TAKEN}the mean of x for their sum",
            by(by_sum, by_sum_bwd(lambda x: x.mean(1, keepdims=True)), POSITIVE),
        ),
        "the maximum for the sum": (
            f"{TAKEN}the maximum of x for their sum",
            by(by_sum, by_sum_bwd(lambda x: x.max(1, keepdims=True)), POSITIVE),
        ),
        "the squared length for the length": (
            f"{TAKEN}the sum of x^2 for the norm of x", by(length, length_bwd(lambda v: v), X),
        ),
    },
    in_all=True,
)  # fmt: skip


@pytest.mark.parametrize(
    "ask",
    [
        loss_by(attention, attention_grad(softmax), Q, K, V, argnums=ALL),
        loss_by(normal, normal_grad(np.exp), X, T, LOG_SIGMA, argnums=ALL),
        loss_by(of_softplus, of_softplus_grad(softplus), X, T, LOG_SIGMA, argnums=ALL),
        loss_by(binary, lambda z: ((sigmoid(z) - LABELS) / z.size,), X),
        by(by_sum, by_sum_bwd(lambda x: x.sum(1, keepdims=True)), POSITIVE),
        by(length, length_bwd(np.sqrt), X),
    ],
)
def test_right_twins(ask):
    report = ask()
    assert report.ok, str(report)


# --- gates ------------------------------------------------------------------------------------------------

SERIES, U = RNG.standard_normal((5, 2)), RNG.standard_normal((2, 12)) / 2
W, BIAS = RNG.standard_normal((3, 12)) / 2, RNG.standard_normal(12) / 3


def lstm(x, u, w, b):
    def step(state, now):
        h, c = state
        i, f, g, o = jnp.split(now @ u + h @ w + b, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return lax.scan(step, (jnp.zeros(3), jnp.zeros(3)), x)[1]


def lstm_bwd(of_i, of_f, of_g, of_o):
    def bwd(d, x, u, w, b):
        h = c = np.zeros(3)
        states = []
        for now in x:
            i, f, g, o = np.split(now @ u + h @ w + b, 4)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            states.append((h, c, i, f, g, o))
            c = f * c + i * g
            h = o * np.tanh(c)
            states[-1] += (c,)
        dx, du, dw, db = (np.zeros_like(a) for a in (x, u, w, b))
        dh = dc = np.zeros(3)
        for t in reversed(range(len(x))):
            h, c, i, f, g, o, after = states[t]
            dh = dh + d[t]
            dc = dc + dh * o * (1 - np.tanh(after) ** 2)
            gates = dc * g * of_i(i), dc * c * of_f(f), dc * i * of_g(g), dh * np.tanh(after) * of_o(o)
            dz = np.concatenate(gates)
            dx[t] = u @ dz
            du, dw, db = du + np.outer(x[t], dz), dw + np.outer(h, dz), db + dz
            dh, dc = w @ dz, dc * f
        return dx, du, dw, db

    return bwd


def of_sigmoid(a):
    return a * (1 - a)


def of_tanh(a):
    return 1 - a**2


SLOPES = of_sigmoid, of_sigmoid, of_tanh, of_sigmoid
GATES = {
    "input": (0, sigmoid, "sigmoid is wrong: σ(a) for a(1 − a)"),
    "forget": (1, sigmoid, "sigmoid is wrong: σ(a) for a(1 − a)"),
    "candidate": (2, np.tanh, "tanh is wrong: tanh(a) for 1 − a²"),
    "output": (3, sigmoid, "sigmoid is wrong: σ(a) for a(1 − a)"),
}
test_gates = named_first(
    {
        f"{name} gate: the activation is applied again": (
            f"the derivative of {said}",
            by(lstm, lstm_bwd(*SLOPES[:k], wrong, *SLOPES[k + 1 :]), SERIES, U, W, BIAS),
        )
        for name, (k, wrong, said) in GATES.items()
    },
    in_all=True,
)


def test_right_gates():
    assert by(lstm, lstm_bwd(*SLOPES), SERIES, U, W, BIAS)().ok


FUSED_U, FUSED_W = RNG.standard_normal((2, 9)) / 2, RNG.standard_normal((3, 9)) / 2


def gru(x, u, w):
    def step(h, now):
        a, b = now @ u, h @ w
        gates = jax.nn.sigmoid(a[:6] + b[:6])
        z, r = gates[:3], gates[3:]
        h = (1 - z) * jnp.tanh(a[6:] + r * b[6:]) + z * h
        return h, h

    return lax.scan(step, jnp.zeros(3), x)[1]


def gru_bwd(of_z, of_r):
    def bwd(d, x, u, w):
        h, states = np.zeros(3), []
        for now in x:
            a, b = now @ u, h @ w
            z, r = sigmoid(a[:3] + b[:3]), sigmoid(a[3:6] + b[3:6])
            n = np.tanh(a[6:] + r * b[6:])
            states.append((h, b, z, r, n))
            h = (1 - z) * n + z * h
        dx, du, dw, dh = np.zeros_like(x), np.zeros_like(u), np.zeros_like(w), np.zeros(3)
        for t in reversed(range(len(x))):
            h, b, z, r, n = states[t]
            dh = dh + d[t]
            dn = dh * (1 - z) * (1 - n**2)
            dz, dr = dh * (h - n) * of_z(z), dn * b[6:] * of_r(r)
            da, db = np.concatenate([dz, dr, dn]), np.concatenate([dz, dr, dn * r])
            dx[t], du, dw = u @ da, du + np.outer(x[t], da), dw + np.outer(h, db)
            dh = dh * z + w @ db
        return dx, du, dw

    return bwd


test_fused_gates = named_first(
    {
        f"{gate}: {said}": (
            f"the derivative of sigmoid is {said}",
            by(gru, gru_bwd(*((slope, of_sigmoid)[:: 1 - 2 * k])), SERIES, FUSED_U, FUSED_W),
        )
        for k, gate in enumerate(("update gate", "reset gate"))
        for said, slope in (
            (
                "wrong: σ(a) for a(1 − a) (the sigmoid is applied to its own result again), in one part",
                sigmoid,
            ),
            ("wrong: a for a(1 − a), in one part", lambda a: a),
            ("taken at its output instead of its input, in one part", lambda a: of_sigmoid(sigmoid(a))),
            ("left out, in one part", np.ones_like),
        )
    },
    in_all=True,
)


def test_right_fused_gates():
    assert by(gru, gru_bwd(of_sigmoid, of_sigmoid), SERIES, FUSED_U, FUSED_W)().ok


# --- a size in the place of a factor; a value before a step -------------------------------------------------

LENGTHS = np.array([3.0, 2, 5, 6, 7, 2])
WEIGHTS = RNG.standard_normal((5, 3))


def divided(x, lengths, w):
    return jnp.sum(jnp.tanh((x @ w) / lengths[:, None]) ** 2)


def divided_grad(of_x, of_w):
    def grad(x, lengths, w):
        a = np.tanh(x @ w / lengths[:, None])
        d = 2 * a * (1 - a**2)
        return (d * of_x(lengths)) @ w.T, None, x.T @ (d * of_w(lengths))

    return grad


def inverse(lengths):
    return 1 / lengths[:, None]


def multiplied(x, lengths):
    return jnp.sum(jnp.sin(x).sum(1) ** 2 * lengths)


def multiplied_grad(factor):
    return lambda x, lengths: (2 * np.sin(x).sum(1, keepdims=True) * np.cos(x) * factor, None)


def gated(x, w, g, out):
    y = x @ w
    y = y * 2 + 1
    y = jax.nn.relu(y)
    y = y * jnp.tanh(x @ g)
    return jnp.sum(jnp.sin(y @ out))


def gated_grad(which):
    def grad(x, w, g, out):
        a = 2 * (x @ w) + 1
        gate = np.tanh(x @ g)
        values = {"right": np.maximum(a, 0) * gate, "relu": a * gate, "gate": np.maximum(a, 0), "both": a}
        d = np.cos(values["right"] @ out)
        dy = d @ out.T
        da, dg = 2 * dy * gate * (a > 0), dy * np.maximum(a, 0) * (1 - gate**2)
        return da @ w.T + dg @ g.T, x.T @ da, x.T @ dg, values[which].T @ d

    return grad


OUT = RNG.standard_normal((3, 2))
GATED = X, WEIGHTS, RNG.standard_normal((5, 3)), OUT
EVERY = (0, 1, 2, 3)
test_sizes_and_steps = named_first(
    {
        "divided by a size": (
            "divided by 5 (axis 1 of x) instead of lengths",
            loss_by(divided, divided_grad(lambda n: 0.2, lambda n: 0.2), X, LENGTHS, WEIGHTS, argnums=(0, 2)),
        ),
        "divided by N": (
            "divided by 6 (axis 0 of x) instead of lengths",
            loss_by(divided, divided_grad(lambda n: 1 / 6, inverse), X, LENGTHS, WEIGHTS, argnums=(0, 2)),
        ),
        "multiplied by a size for divided": (
            "multiplied by 5 (axis 1 of x) instead of divided by lengths",
            loss_by(divided, divided_grad(lambda n: 5, inverse), X, LENGTHS, WEIGHTS, argnums=(0, 2)),
        ),
        "multiplied by a size": (
            "multiplied by 5 (axis 1 of x) instead of lengths",
            loss_by(multiplied, multiplied_grad(5), X, LENGTHS),
        ),
        "divided by a size for multiplied": (
            "divided by 6 (axis 0 of x) instead of multiplied by lengths",
            loss_by(multiplied, multiplied_grad(1 / 6), X, LENGTHS),
        ),
        "before ReLU and the gate": (
            "y before ReLU is applied and it is multiplied by tanh(x @ g) is used for the one after it",
            loss_by(gated, gated_grad("both"), *GATED, argnums=EVERY),
        ),
        "before the gate": (
            "the factor tanh(x @ g) is missing in y",
            loss_by(gated, gated_grad("gate"), *GATED, argnums=EVERY),
        ),
    }
)  # fmt: skip


def test_right_sizes_and_steps():
    for ask in (
        loss_by(divided, divided_grad(inverse, inverse), X, LENGTHS, WEIGHTS, argnums=(0, 2)),
        loss_by(multiplied, multiplied_grad(LENGTHS[:, None]), X, LENGTHS),
        loss_by(gated, gated_grad("right"), *GATED, argnums=EVERY),
    ):
        report = ask()
        assert report.ok, str(report)
