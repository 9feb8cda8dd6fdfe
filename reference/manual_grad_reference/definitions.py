"""The lectures' definitions, written once, for numbers of any kind: decimals of many digits, or symbols.

A definition takes its arithmetic `m` and arrays of such numbers: NumPy adds, multiplies and sums them as they
are, and `m` has what it cannot: `exp`, `ln`, `sqrt`, `erfc`, `pi`, `relu`, and `term(y, p)`, which is y ln p.
Nothing is shifted, clipped or differentiated here, and neither JAX nor SymPy is imported: the oracles bring
the numbers. Each definition has the name and the parameters of a forward function in this package, which it
restates.
"""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np

Numbers = Any  # an array of numbers, or a list, tuple or dict of such
Arithmetic = SimpleNamespace


# ---------------------------------------------------------------- chain rule


def square(m: Arithmetic, x: Numbers) -> Numbers:
    """[A-01] x²."""
    return x**2


def sum_of_squares(m: Arithmetic, x: Numbers) -> Numbers:
    """[A-01] Σ_j x_j²."""
    return (x**2).sum()


def powers(m_: Arithmetic, x: Numbers, m: int) -> Numbers:
    """[A-01] (x, x², …, xᵐ)."""
    return np.array([x**k for k in range(1, m + 1)], object)


def linear_map(m: Arithmetic, M: Numbers, x: Numbers) -> Numbers:
    """[A-01] f_i = Σ_j M_ij x_j."""
    return M @ x


def quadratic_map(m: Arithmetic, A: Numbers, B: Numbers, theta: Numbers) -> Numbers:
    """[B-01] g_j = Σ_i A_ji θ_i + Σ_il B_jil θ_i θ_l."""
    return np.array([A_j @ theta + theta @ B_j @ theta for A_j, B_j in zip(A, B, strict=True)], object)


def composed_quadratic_maps(
    m: Arithmetic, C: Numbers, D: Numbers, A: Numbers, B: Numbers, theta: Numbers
) -> Numbers:
    """[B-01] J(g(θ))."""
    return quadratic_map(m, C, D, quadratic_map(m, A, B, theta))


def product(m: Arithmetic, q: Numbers, z: Numbers) -> Numbers:
    """[C-01] q z."""
    return q * z


def product_of_sum(m: Arithmetic, x: Numbers, y: Numbers, z: Numbers) -> Numbers:
    """[C-01] (x + y) z."""
    return (x + y) * z


# ---------------------------------------------------------------- mean squared error


def mean(m: Arithmetic, J0: Numbers) -> Numbers:
    """[A-02] (1/N) Σ_i J0_i."""
    return J0.sum() / len(J0)


def squared_errors(m: Arithmetic, y_hat: Numbers, y: Numbers) -> Numbers:
    """[A-03] (y_i − ŷ_i)²."""
    return (y - y_hat) ** 2


def mse(m: Arithmetic, y_hat: Numbers, y: Numbers) -> Numbers:
    """[A-04] (1/N) Σ_i (y_i − ŷ_i)²."""
    return mean(m, squared_errors(m, y_hat, y))


def affine(m: Arithmetic, w: Numbers, b: Numbers, x: Numbers) -> Numbers:
    """[A-05] ŷ_i = w x_i + b, or Σ_j w_j x_ij + b."""
    return np.dot(x, w) + b


def linear_regression(m: Arithmetic, w: Numbers, b: Numbers, x: Numbers, y: Numbers) -> Numbers:
    """[A-05] [A-06] (1/N) Σ_i (y_i − ŷ_i)²."""
    return mse(m, affine(m, w, b, x), y)


# ---------------------------------------------------------------- activations


def relu(m: Arithmetic, x: Numbers) -> Numbers:
    """[B-02] max(x, 0), off at 0."""
    return m.relu(x)


def sigmoid(m: Arithmetic, x: Numbers) -> Numbers:
    """[C-02] 1 / (1 + e⁻ˣ)."""
    return 1 / (1 + m.exp(-x))


def tanh(m: Arithmetic, x: Numbers) -> Numbers:
    """[C-02] (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)."""
    up, down = m.exp(x), m.exp(-x)
    return (up - down) / (up + down)


def softplus(m: Arithmetic, x: Numbers) -> Numbers:
    """[C-02] ln(1 + eˣ)."""
    return m.ln(1 + m.exp(x))


def identity(m: Arithmetic, x: Numbers) -> Numbers:
    """[C-02] x."""
    return x


def gelu(m: Arithmetic, x: Numbers, approximate: bool = True) -> Numbers:
    """[E-05] x Φ(x) by erfc, or x / (1 + e^{−2u}), which is x ½ (1 + tanh u)."""
    if approximate:
        return x / (1 + m.exp(-2 * m.sqrt(2 / m.pi) * (x + m.number("0.044715") * x**3)))
    return x * m.erfc(-x / m.sqrt(m.number(2))) / 2


def silu(m: Arithmetic, x: Numbers) -> Numbers:
    """[E-06] x / (1 + e⁻ˣ)."""
    return x / (1 + m.exp(-x))


def swiglu(m: Arithmetic, gate: Numbers, up: Numbers) -> Numbers:
    """[E-07] silu(gate) up."""
    return silu(m, gate) * up


def geglu(m: Arithmetic, gate: Numbers, up: Numbers, approximate: bool = True) -> Numbers:
    """[E-08] gelu(gate) up."""
    return gelu(m, gate, approximate) * up


ACTIVATIONS = {f.__name__: f for f in (relu, sigmoid, tanh, softplus, identity)}


# ---------------------------------------------------------------- softmax and cross-entropy


def softmax(m: Arithmetic, logits: Numbers) -> Numbers:
    """[A-07] e^{l_k} / Σ_j e^{l_j}, over the last axis."""
    exps = m.exp(logits)
    return exps / exps.sum(axis=-1, keepdims=True)


def cross_entropy(m: Arithmetic, probs: Numbers, labels: Numbers) -> Numbers:
    """[A-09] −(1/N) Σ_i Σ_k y_ik ln ŷ_ik."""
    return -m.term(labels, probs).sum() / len(probs)


def softmax_cross_entropy(m: Arithmetic, logits: Numbers, labels: Numbers) -> Numbers:
    """[A-10] −(1/N) Σ_i Σ_k y_ik ln softmax(l_i)_k."""
    return cross_entropy(m, softmax(m, logits), labels)


def cross_entropy_of_scores(m: Arithmetic, s: Numbers, y: Any) -> Numbers:
    """[B-09] −ln(e^{s_y} / Σ_j e^{s_j})."""
    return -m.ln(softmax(m, s)[y])


def softmax_cross_entropy_with_integer_labels(
    m: Arithmetic, logits: Numbers, labels: Any, ignore_index: int | None = None
) -> Numbers:
    """[B-13] [E-27] −(1/N) Σ_i ln softmax(l_i)_{y_i}, over the N samples that are not ignored."""
    if ignore_index is not None:
        counts = np.asarray(labels) != ignore_index
        logits, labels = logits[counts], labels[counts]
    N = len(logits)
    return -m.ln(softmax(m, logits)[np.arange(N), labels]).sum() / N


def linear_cross_entropy(
    m: Arithmetic, hidden: Numbers, W: Numbers, labels: Any, ignore_index: int | None = None
) -> Numbers:
    """[B-13] [E-27] −(1/N) Σ_i ln softmax(h_i W)_{y_i}, over the N samples that are not ignored."""
    return softmax_cross_entropy_with_integer_labels(m, hidden @ W, labels, ignore_index)


def softmax_columns(m: Arithmetic, Z: Numbers) -> Numbers:
    """[D-03] e^{Z_ki} / Σ_j e^{Z_ji}."""
    return softmax(m, Z.T).T


def cross_entropy_columns(m: Arithmetic, A: Numbers, Y: Numbers) -> Numbers:
    """[D-04] −(1/N) Σ_i Σ_k Y_ki ln A_ki."""
    return cross_entropy(m, A.T, Y.T)


def softmax_cross_entropy_columns(m: Arithmetic, Z: Numbers, Y: Numbers) -> Numbers:
    """[D-06] −(1/N) Σ_i Σ_k Y_ki ln softmax(Z)_ki."""
    return softmax_cross_entropy(m, Z.T, Y.T)


# ---------------------------------------------------------------- dense layers, normalisation


def dense_rows(m: Arithmetic, X: Numbers, W: Numbers, b: Numbers) -> Numbers:
    """[B-16] X W + 1 b."""
    return X @ W + b


def dense_columns(m: Arithmetic, X: Numbers, W: Numbers, b: Numbers) -> Numbers:
    """[B-13] W X + b 1ᵀ."""
    return W @ X + b[:, None]


def layer_norm(m: Arithmetic, x: Numbers, gamma: Numbers, beta: Numbers, eps: float = 1e-5) -> Numbers:
    """[E-01] γ (x − μ) / √(σ² + ε) + β, over the last axis."""
    D = x.shape[-1]
    centred = x - x.sum(axis=-1, keepdims=True) / D
    variance = (centred**2).sum(axis=-1, keepdims=True) / D
    return gamma * centred / m.sqrt(variance + m.number(eps)) + beta


def rms_norm(m: Arithmetic, x: Numbers, gamma: Numbers, eps: float = 1e-6) -> Numbers:
    """[E-02] γ x / √(mean(x²) + ε), over the last axis."""
    return gamma * x / m.sqrt((x**2).sum(axis=-1, keepdims=True) / x.shape[-1] + m.number(eps))


def group_norm(
    m: Arithmetic, x: Numbers, gamma: Numbers, beta: Numbers, groups: int, eps: float = 1e-5
) -> Numbers:
    """[E-03] γ (x − μ) / √(σ² + ε) + β, over a sample's channels g C/G … (g + 1) C/G − 1, g by g."""
    out, per = np.empty(x.shape, object), x.shape[-1] // groups
    for n, g in itertools.product(range(len(x)), range(groups)):
        channels = slice(g * per, (g + 1) * per)
        out[n, ..., channels] = _standardised(m, x[n, ..., channels], eps)
    return gamma * out + beta


def batch_norm(m: Arithmetic, x: Numbers, gamma: Numbers, beta: Numbers, eps: float = 1e-5) -> Numbers:
    """[E-04] γ (x − μ) / √(σ² + ε) + β, channel by channel."""
    out = np.empty(x.shape, object)
    for c in range(x.shape[-1]):
        out[..., c] = gamma[c] * _standardised(m, x[..., c], eps) + beta[c]
    return out


def _standardised(m: Arithmetic, x: Numbers, eps: float) -> Numbers:
    """(x − μ) / √(σ² + ε) over all entries."""
    centred = x - x.sum() / x.size
    return centred / m.sqrt((centred**2).sum() / x.size + m.number(eps))


# ---------------------------------------------------------------- recurrences


def embedding(m: Arithmetic, ids: Any, table: Numbers) -> Numbers:
    """[E-09] The row of the table for each id."""
    return table[ids]


def rope(m: Arithmetic, x: Numbers, base: float = 10000.0) -> Numbers:
    """[E-10] The pair (x_i, x_{i+D/2}) at position l turned by l base^(−2i/D)."""
    out, D = np.array(x), x.shape[-1]
    for l, i in itertools.product(range(x.shape[1]), range(D // 2)):
        angle = l * base ** (-2 * i / D)
        cos, sin = m.number(math.cos(angle)), m.number(math.sin(angle))
        first, second = x[:, l, :, i], x[:, l, :, i + D // 2]
        out[:, l, :, i], out[:, l, :, i + D // 2] = first * cos - second * sin, second * cos + first * sin
    return out


def attention(
    m: Arithmetic,
    q: Numbers,
    k: Numbers,
    v: Numbers,
    mask: Any = None,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
) -> Numbers:
    """[E-11] Σ_j p_j v_j for each query, p the softmax over the keys j that it sees; 0 where it sees none."""
    (N, Lq, H, D), (Lk, Hkv) = q.shape, k.shape[1:3]
    factor = 1 / m.sqrt(m.number(D)) if scale is None else m.number(scale)
    mask = None if mask is None else np.broadcast_to(mask, (N, H, Lq, Lk))
    out = np.full(q.shape, m.number(0))
    for n, i, h in np.ndindex(N, Lq, H):
        last = i + Lk - Lq
        keys = range(0 if window is None else max(last - window + 1, 0), max(last + 1, 0) if causal else Lk)
        seen = [j for j in keys if mask is None or mask[n, h, i, j]]
        exps = [m.exp(factor * (q[n, i, h] * k[n, j, h // (H // Hkv)]).sum()) for j in seen]
        for e, j in zip(exps, seen, strict=True):
            out[n, i, h] = out[n, i, h] + e / sum(exps) * v[n, j, h // (H // Hkv)]
    return out


def attention_of_scores(m: Arithmetic, scores: Numbers, v: Numbers) -> Numbers:
    """[E-11] Σ_j p_j v_j, p the softmax of one query's scores."""
    exps = m.exp(scores)
    return exps @ v / exps.sum()


def dropout(m: Arithmetic, x: Numbers, keep: Any, rate: float = 0.5) -> Numbers:
    """[E-13] x / (1 − rate) where kept, else 0."""
    return np.where(keep, x / m.number(1 - rate), m.number(0))


def lora(m: Arithmetic, x: Numbers, W: Numbers, A: Numbers, B: Numbers, scale: float = 1.0) -> Numbers:
    """[E-18] x W + scale (x A) B."""
    return x @ W + m.number(scale) * (x @ A @ B)


def rnn(m: Arithmetic, x: Numbers, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any, h0: Numbers) -> Numbers:
    """[E-14] h_t = tanh(W_ih x_t + b_ih + W_hh h_{t−1} + b_hh): all of them, and the last."""
    hs = [h0]
    for x_t in x:
        hs.append(tanh(m, x_t @ W_ih.T + b_ih + hs[-1] @ W_hh.T + b_hh))
    return np.array(hs[1:], object), hs[-1]


def gru(m: Arithmetic, x: Numbers, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any, h0: Numbers) -> Numbers:
    """[E-15] h_t = (1 − z) n + z h_{t−1}, n = tanh(W_n x_t + b_in + r (U_n h_{t−1} + b_hn))."""
    hs = [h0]
    for x_t in x:
        from_x, from_h = x_t @ W_ih.T + b_ih, hs[-1] @ W_hh.T + b_hh
        (x_r, x_z, x_n), (h_r, h_z, h_n) = (np.split(part, 3, axis=1) for part in (from_x, from_h))
        r, z = sigmoid(m, x_r + h_r), sigmoid(m, x_z + h_z)
        hs.append((1 - z) * tanh(m, x_n + r * h_n) + z * hs[-1])
    return np.array(hs[1:], object), hs[-1]


def lstm(
    m: Arithmetic, x: Numbers, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any, h0: Numbers, c0: Numbers
) -> Numbers:
    """[E-16] c_t = f c_{t−1} + i g, h_t = o tanh(c_t): all h, and the last h and c."""
    hs, c = [h0], c0
    for x_t in x:
        i, f, g, o = np.split(x_t @ W_ih.T + b_ih + hs[-1] @ W_hh.T + b_hh, 4, axis=1)
        c = sigmoid(m, f) * c + sigmoid(m, i) * tanh(m, g)
        hs.append(sigmoid(m, o) * tanh(m, c))
    return np.array(hs[1:], object), hs[-1], c


def linear_scan(m: Arithmetic, a: Numbers, b: Numbers, h0: Numbers) -> Numbers:
    """[E-17] h_t = a_t h_{t−1} + b_t."""
    hs = [h0]
    for a_t, b_t in zip(a, b, strict=True):
        hs.append(a_t * hs[-1] + b_t)
    return np.array(hs[1:], object)


def l2_normalize(m: Arithmetic, x: Numbers) -> Numbers:
    """[E-25] x / √(Σ x²), over the last axis."""
    return x / m.sqrt((x**2).sum(axis=-1, keepdims=True))


def cosine_similarity(m: Arithmetic, a: Numbers, b: Numbers) -> Numbers:
    """[E-26] The sum of the products of two vectors of length 1."""
    return (l2_normalize(m, a) * l2_normalize(m, b)).sum(axis=-1)


# ---------------------------------------------------------------- losses beyond the lectures


def binary_cross_entropy_with_logits(m: Arithmetic, logits: Numbers, labels: Numbers) -> Numbers:
    """[E-22] (1/N) Σ_i (y_i ln(1 + e^{−l_i}) + (1 − y_i) ln(1 + e^{l_i}))."""
    return mean(m, labels * softplus(m, -logits) + (1 - labels) * softplus(m, logits))


def kl_divergence(m: Arithmetic, logits_p: Numbers, logits_q: Numbers) -> Numbers:
    """[E-23] (1/N) Σ_i Σ_k p_ik (ln p_ik − ln q_ik)."""
    p = softmax(m, logits_p)
    return (p * (m.ln(p) - m.ln(softmax(m, logits_q)))).sum() / len(p)


def huber(m: Arithmetic, y_hat: Numbers, y: Numbers, delta: float = 1.0) -> Numbers:
    """[E-24] (1/N) Σ_i (d² − (d − δ)₊² − (−d − δ)₊²) / 2, with d = ŷ_i − y_i."""
    d, delta = y_hat - y, m.number(delta)
    return mean(m, d**2 - m.relu(d - delta) ** 2 - m.relu(-d - delta) ** 2) / 2


# ---------------------------------------------------------------- linear algebra


def solve(m: Arithmetic, A: Numbers, B: Numbers) -> Numbers:
    """[E-28] A X = B: Gaussian elimination with row swaps if a pivot is 0, then back substitution."""
    rows, _ = _eliminated(np.concatenate([A, B], axis=1))
    n, X = len(A), [0] * len(A)
    for i in reversed(range(n)):
        known = sum((rows[i, j] * X[j] for j in range(i + 1, n)), 0 * rows[i, n:])
        X[i] = (rows[i, n:] - known) / rows[i, i]
    return np.array(X, object)


def _eliminated(rows: Numbers) -> tuple[Numbers, int]:
    """A copy with zeros below the diagonal, and the sign that the exchanges of rows gave its determinant."""
    rows, sign = np.array(rows, object), 1
    for j in range(len(rows)):
        pivot = next(i for i in range(j, len(rows)) if rows[i, j] != 0)
        if pivot != j:
            rows[[j, pivot]], sign = rows[[pivot, j]], -sign
        for i in range(j + 1, len(rows)):
            rows[i] = rows[i] - rows[i, j] / rows[j, j] * rows[j]
    return rows, sign


def inverse(m: Arithmetic, A: Numbers) -> Numbers:
    """[E-29] The Y with A Y = I."""
    return solve(m, A, np.array([[m.number(int(i == j)) for j in range(len(A))] for i in range(len(A))]))


def logdet(m: Arithmetic, A: Numbers) -> Numbers:
    """[E-30] ln det A."""
    rows, sign = _eliminated(A)
    return m.ln(sign * math.prod(np.diagonal(rows)))


def cholesky(m: Arithmetic, A: Numbers) -> Numbers:
    """[E-31] L_ij = (S_ij − Σ_{k<j} L_ik L_jk) / L_jj, L_jj = √(S_jj − Σ_{k<j} L_jk²), S = (A + Aᵀ)/2."""
    S, n = (A + A.T) / 2, len(A)
    L = np.full((n, n), m.number(0))
    for j in range(n):
        for i in range(j, n):
            left = S[i, j] - sum(L[i, k] * L[j, k] for k in range(j))
            L[i, j] = m.sqrt(left) if i == j else left / L[j, j]
    return L


# ---------------------------------------------------------------- two layers


def squared_loss_of_o(m: Arithmetic, o: Numbers, y: Numbers) -> Numbers:
    """[B-02] ½ (y − o)²."""
    return (y - o[0]) ** 2 / 2


def squared_loss_of_a(m: Arithmetic, a: Numbers, W2: Numbers, b2: Numbers, y: Numbers) -> Numbers:
    """[B-05] J with o = W² a + b²."""
    return squared_loss_of_o(m, W2 @ a + b2, y)


def squared_loss_of_z(m: Arithmetic, z: Numbers, W2: Numbers, b2: Numbers, y: Numbers) -> Numbers:
    """[B-06] J with a = ReLU(z)."""
    return squared_loss_of_a(m, m.relu(z), W2, b2, y)


def two_layer_squared_loss(m: Arithmetic, W1: Any, b1: Any, W2: Any, b2: Any, x: Any, y: Any) -> Numbers:
    """[B-02] J with z = W¹ x + b¹."""
    return squared_loss_of_z(m, W1 @ x + b1, W2, b2, y)


def cross_entropy_of_s(m: Arithmetic, s: Numbers, y: Any) -> Numbers:
    """[B-09] −ln(e^{s_y} / Σ_j e^{s_j})."""
    return cross_entropy_of_scores(m, s, y)


def cross_entropy_of_a(m: Arithmetic, a: Numbers, W2: Numbers, b2: Numbers, y: Any) -> Numbers:
    """[B-11] J with s = W² a + b²."""
    return cross_entropy_of_s(m, W2 @ a + b2, y)


def cross_entropy_of_z(m: Arithmetic, z: Numbers, W2: Numbers, b2: Numbers, y: Any) -> Numbers:
    """[B-12] J with a = ReLU(z)."""
    return cross_entropy_of_a(m, m.relu(z), W2, b2, y)


def two_layer_cross_entropy(m: Arithmetic, W1: Any, b1: Any, W2: Any, b2: Any, x: Any, y: Any) -> Numbers:
    """[B-09] J with z = W¹ x + b¹."""
    return cross_entropy_of_z(m, W1 @ x + b1, W2, b2, y)


def cross_entropy_of_S_columns(m: Arithmetic, S: Numbers, y: Any) -> Numbers:
    """[B-13] −(1/n) Σ_i ln p_{y_i}, one sample per column."""
    return softmax_cross_entropy_with_integer_labels(m, S.T, y)


def cross_entropy_of_A_columns(m: Arithmetic, A: Numbers, W2: Numbers, b2: Numbers, y: Any) -> Numbers:
    """[B-15] J with S = W² A + b² 1ᵀ."""
    return cross_entropy_of_S_columns(m, dense_columns(m, A, W2, b2), y)


def cross_entropy_of_Z_columns(m: Arithmetic, Z: Numbers, W2: Numbers, b2: Numbers, y: Any) -> Numbers:
    """[B-15] J with A = ReLU(Z)."""
    return cross_entropy_of_A_columns(m, m.relu(Z), W2, b2, y)


def two_layer_cross_entropy_columns(
    m: Arithmetic, W1: Any, b1: Any, W2: Any, b2: Any, X: Any, y: Any
) -> Numbers:
    """[B-15] J with Z = W¹ X + b¹ 1ᵀ."""
    return cross_entropy_of_Z_columns(m, dense_columns(m, X, W1, b1), W2, b2, y)


def cross_entropy_of_S_rows(m: Arithmetic, S: Numbers, y: Any) -> Numbers:
    """[B-16] −(1/n) Σ_i ln p_{y_i}, one sample per row."""
    return softmax_cross_entropy_with_integer_labels(m, S, y)


def cross_entropy_of_A_rows(m: Arithmetic, A: Numbers, W2: Numbers, b2: Numbers, y: Any) -> Numbers:
    """[B-16] J with S = A W² + 1 b²."""
    return cross_entropy_of_S_rows(m, dense_rows(m, A, W2, b2), y)


def cross_entropy_of_Z_rows(m: Arithmetic, Z: Numbers, W2: Numbers, b2: Numbers, y: Any) -> Numbers:
    """[B-16] J with A = ReLU(Z)."""
    return cross_entropy_of_A_rows(m, m.relu(Z), W2, b2, y)


def two_layer_cross_entropy_rows(
    m: Arithmetic, W1: Any, b1: Any, W2: Any, b2: Any, X: Any, y: Any
) -> Numbers:
    """[B-16] J with Z = X W¹ + 1 b¹."""
    return cross_entropy_of_Z_rows(m, dense_rows(m, X, W1, b1), W2, b2, y)


# ---------------------------------------------------------------- networks of any depth


def mlp_rows(m: Arithmetic, params: Any, X: Numbers, activation: str = "relu") -> Numbers:
    """[C-02] Z_l = A_{l−1} W_l + 1 b_l, A_l = f(Z_l); the last Z."""
    return mlp_columns(m, [(W.T, b) for W, b in params], X.T, activation).T


def mlp_columns(m: Arithmetic, params: Any, X: Numbers, activation: str = "relu") -> Numbers:
    """[D-02] Z_l = W_l A_{l−1} + b_l 1ᵀ, A_l = f(Z_l); the last Z."""
    *before, last = params
    for W, b in before:
        X = ACTIVATIONS[activation](m, dense_columns(m, X, W, b))
    return dense_columns(m, X, *last)


def network_squared_loss(
    m: Arithmetic, params: Any, x: Numbers, y: Numbers, activation: str = "sigmoid"
) -> Numbers:
    """[C-03] ½ Σ_i (a^L_i − y_i)², with z = W a + b and a = f(z) through every layer."""
    for W, b in params:
        x = ACTIVATIONS[activation](m, W @ x + b)
    return ((x - y) ** 2).sum() / 2


def network(m: Arithmetic, params: Any, x: Numbers, activation: str = "sigmoid") -> Numbers:
    """[C-02] All z, and all a from x on."""
    zs, activations = [], [x]
    for W, b in params:
        zs.append(W @ activations[-1] + b)
        activations.append(ACTIVATIONS[activation](m, zs[-1]))
    return zs, activations


def squared_loss_from_z(
    m: Arithmetic, params_after: Any, z: Numbers, y: Numbers, activation: str = "sigmoid"
) -> Numbers:
    """[C-05] L as a function of one layer's z."""
    return network_squared_loss(m, params_after, ACTIVATIONS[activation](m, z), y, activation)


def flatten_columns(m: Arithmetic, images: Numbers) -> Numbers:
    """[D-01] Each image's rows one after the other, in a column."""
    return images.reshape(len(images), -1).T


def one_hot_columns(m: Arithmetic, labels: Any, K: int) -> Numbers:
    """[D-01] 1 where the row is the label."""
    return np.array([[int(k == label) for label in labels] for k in range(K)], object)


def five_layer_scores(m: Arithmetic, params: Any, X: Numbers) -> Numbers:
    """[D-02] Z_5."""
    return mlp_columns(m, params, X)


def five_layer(m: Arithmetic, params: Any, X: Numbers, Y: Numbers) -> Numbers:
    """[D-04] −(1/m) Σ Y ln softmax(Z_5)."""
    return softmax_cross_entropy_columns(m, mlp_columns(m, params, X), Y)


def five_layer_from_z(m: Arithmetic, params_after: Any, Z: Numbers, Y: Numbers) -> Numbers:
    """[D-10] L as a function of Z_l."""
    return five_layer_from_a(m, params_after, m.relu(Z) if params_after else softmax_columns(m, Z), Y)


def five_layer_from_a(m: Arithmetic, params_after: Any, A: Numbers, Y: Numbers) -> Numbers:
    """[D-10] L as a function of A_l; with no layer left, of the probabilities."""
    if not params_after:
        return cross_entropy_columns(m, A, Y)
    (W, b), *rest = params_after
    return five_layer_from_z(m, rest, dense_columns(m, A, W, b), Y)


def loss_of_layer_5(m: Arithmetic, W5: Numbers, b5: Numbers, A4: Numbers, Y: Numbers) -> Numbers:
    """[D-07] [D-08] L as a function of the last layer's arrays."""
    return five_layer_from_a(m, [(W5, b5)], A4, Y)


def loss_by_each(m: Arithmetic, params: Any, Y: Numbers, **hidden: Numbers) -> Numbers:
    """[D-10] L as a function of Z_l alone and of A_l alone, added up."""
    from_hidden = {"Z": five_layer_from_z, "A": five_layer_from_a}
    return sum(from_hidden[name[0]](m, params[int(name[1]) :], at, Y) for name, at in hidden.items())


# ---------------------------------------------------------------- convolutions


def correlate2d(m: Arithmetic, x: Numbers, f: Numbers) -> Numbers:
    """[C-08] O_ij = Σ_ab X_{i+a,j+b} F_ab, only where no index leaves X."""
    (H, W), (kh, kw) = x.shape, f.shape
    places = itertools.product(range(H - kh + 1), range(W - kw + 1))
    sums = [(x[i : i + kh, j : j + kw] * f).sum() for i, j in places]
    return np.array(sums, object).reshape(H - kh + 1, W - kw + 1)


def convolve2d(m: Arithmetic, x: Numbers, w: Numbers, mode: str = "full") -> Numbers:
    """[C-07] Y_ij = Σ_ab X_{i−a,j−b} W_ab: everywhere, with X = 0 outside, or where no index leaves X."""
    (H, W), (kh, kw) = x.shape, w.shape
    Y = np.full((H + kh - 1, W + kw - 1), m.number(0))
    for a, b in itertools.product(range(kh), range(kw)):
        Y[a : a + H, b : b + W] += x * w[a, b]
    return Y if mode == "full" else Y[kh - 1 : H, kw - 1 : W]


def conv2d(
    m: Arithmetic,
    x: Numbers,
    kernel: Numbers,
    bias: Numbers,
    strides: Any = 1,
    padding: Any = "VALID",
    dilation: Any = 1,
    groups: int = 1,
) -> Numbers:
    """[A-11] Z_nijo = Σ_abc X_{n, si+da, sj+db, c} K_abco + b_o, with X = 0 outside."""
    (N, *size, _), (*taps, per_group, n_out) = x.shape, kernel.shape
    (sh, sw), (dh, dw) = (v if isinstance(v, tuple) else (v, v) for v in (strides, dilation))
    (top, h), (left, w) = (
        _window(n, k, s, d, padding if isinstance(padding, str) else padding[axis])
        for axis, (n, k, s, d) in enumerate(zip(size, taps, (sh, sw), (dh, dw), strict=True))
    )
    Z = np.full((N, h, w, n_out), m.number(0)) + bias
    for i, j, a, b in itertools.product(range(h), range(w), *map(range, taps)):
        p, q = sh * i + dh * a - top, sw * j + dw * b - left
        if 0 <= p < size[0] and 0 <= q < size[1]:
            for group in range(groups):
                channels = slice(group * per_group, (group + 1) * per_group)
                filters = slice(group * n_out // groups, (group + 1) * n_out // groups)
                Z[:, i, j, filters] += x[:, p, q, channels] @ kernel[a, b][:, filters]
    return Z


def conv_transpose2d(
    m: Arithmetic,
    x: Numbers,
    kernel: Numbers,
    bias: Numbers,
    strides: Any = 1,
    padding: Any = "VALID",
    dilation: Any = 1,
    groups: int = 1,
) -> Numbers:
    """[E-21] Z_{n, si+da−p, sj+db−p, o} = b_o + Σ X_nijc K_aboc over all that arrives there."""
    (N, *size, C), (*taps, per_group, _) = x.shape, kernel.shape
    steps, spacings = (v if isinstance(v, tuple) else (v, v) for v in (strides, dilation))
    before, out = [], []
    for axis, (n, k, s, d) in enumerate(zip(size, taps, steps, spacings, strict=True)):
        full = (n - 1) * s + (k - 1) * d + 1
        of = padding if isinstance(padding, str) else padding[axis]
        before.append(_window(n * s, k, s, d, of)[0] if isinstance(of, str) else of[0])
        out.append(n * s if of == "SAME" else full if of == "VALID" else full - sum(of))
    Z = np.full((N, *out, len(bias)), m.number(0)) + bias
    for i, j, a, b in itertools.product(*map(range, size), *map(range, taps)):
        p = steps[0] * i + spacings[0] * a - before[0]
        q = steps[1] * j + spacings[1] * b - before[1]
        if 0 <= p < out[0] and 0 <= q < out[1]:
            for group in range(groups):
                channels = slice(group * C // groups, (group + 1) * C // groups)
                outputs = slice(group * per_group, (group + 1) * per_group)
                Z[:, p, q, outputs] += x[:, i, j, channels] @ kernel[a, b][:, channels].T
    return Z


def max_pool2d(
    m: Arithmetic, x: Numbers, window: Any, strides: Any = None, padding: Any = "VALID"
) -> Numbers:
    """[E-19] max_ab X_{n, si+a, sj+b, c}, where no index leaves X."""

    def first_maximum(places: list) -> Numbers:
        best = places[0]
        for place in places[1:]:
            best = best + m.relu(place - best)  # at a tie it stays with the one before
        return best

    return _pooled(x, window, strides, padding, first_maximum)


def avg_pool2d(
    m: Arithmetic, x: Numbers, window: Any, strides: Any = None, padding: Any = "VALID"
) -> Numbers:
    """[E-20] 1/(kh kw) Σ_ab X_{n, si+a, sj+b, c}, with X = 0 outside."""
    kh, kw = window if isinstance(window, tuple) else (window, window)
    return _pooled(x, window, strides, padding, lambda places: sum(places) / (kh * kw))


def _pooled(x: Numbers, window: Any, strides: Any, padding: Any, of: Any) -> Numbers:
    """`of` of each window's positions inside the image, each (N, C)."""
    window, strides = (
        v if isinstance(v, tuple) else (v, v) for v in (window, window if strides is None else strides)
    )
    (top, h), (left, w) = (
        _window(n, k, s, 1, padding if isinstance(padding, str) else padding[axis])
        for axis, (n, k, s) in enumerate(zip(x.shape[1:3], window, strides, strict=True))
    )
    out = np.empty((len(x), h, w, x.shape[-1]), object)
    for i, j in itertools.product(range(h), range(w)):
        rows, columns = (
            [p for p in range(s * at - before, s * at - before + k) if 0 <= p < n]
            for at, s, before, k, n in zip((i, j), strides, (top, left), window, x.shape[1:3], strict=True)
        )
        out[:, i, j] = of([x[:, p, q] for p, q in itertools.product(rows, columns)])
    return out


def _window(n: int, k: int, s: int, d: int, padding: Any) -> tuple[int, int]:
    """The zeros before an axis of length n, and the number of outputs along it."""
    reach = (k - 1) * d + 1
    if padding == "VALID":
        return 0, (n - reach) // s + 1
    if padding == "SAME":
        outputs = math.ceil(n / s)
        return max((outputs - 1) * s + reach - n, 0) // 2, outputs
    return padding[0], (n + sum(padding) - reach) // s + 1


def cnn_scores(m: Arithmetic, params: Any, X: Numbers) -> Numbers:
    """[A-11] Z⁵: two convolutions and a dense layer with ReLU, then a dense layer."""
    A1 = m.relu(conv2d(m, X, params["K1"], params["b1"]))
    A2 = m.relu(conv2d(m, A1, params["K2"], params["b2"]))
    A4 = m.relu(dense_rows(m, A2.reshape(len(A2), -1), params["W4"], params["b4"]))
    return dense_rows(m, A4, params["W5"], params["b5"])


def cnn(m: Arithmetic, params: Any, X: Numbers, labels: Numbers) -> Numbers:
    """[A-11] −(1/N) Σ_i Σ_k y_ik ln softmax(Z⁵)_ik."""
    return softmax_cross_entropy(m, cnn_scores(m, params, X), labels)


# ---------------------------------------------------------------- a GPT


def gpt(m: Arithmetic, params: Any, tokens: Any, targets: Any, heads: int = 1) -> Numbers:
    """[E-32] The mean of −ln softmax(LN(x) wteᵀ) at the targets, x through the blocks."""

    def linear(x: Numbers, layer: Any) -> Numbers:
        return np.matmul(x, layer["W"]) + layer["b"]

    def norm(x: Numbers, layer: Any) -> Numbers:
        return layer_norm(m, x, layer["gamma"], layer["beta"])

    N, L = tokens.shape
    x = params["wte"][tokens] + params["wpe"][:L]
    for p in params["blocks"]:
        q, k, v = np.moveaxis(linear(norm(x, p["ln1"]), p["qkv"]).reshape(N, L, 3, heads, -1), 2, 0)
        x = x + linear(attention(m, q, k, v, causal=True).reshape(x.shape), p["proj"])
        x = x + linear(gelu(m, linear(norm(x, p["ln2"]), p["up"])), p["down"])
    logits = np.matmul(norm(x, params["lnf"]), params["wte"].T)
    return softmax_cross_entropy_with_integer_labels(m, logits.reshape(N * L, -1), targets.reshape(-1))
