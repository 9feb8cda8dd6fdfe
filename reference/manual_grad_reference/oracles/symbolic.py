"""The lectures' definitions as plain Python loops over numbers or symbols, and SymPy's derivatives of them.

Nothing here is an array, and JAX takes no part: a vector is a list, a matrix a list of rows. Each definition
has the name and the parameters of the forward function in this package that it defines anew. `derivative`
makes one entry at a time a symbol, the others being rational numbers, differentiates, and evaluates to 30
digits. Run as a program, this file answers questions on its standard input, so that SymPy can work in a
process of its own.
"""

import itertools
import math
import pickle
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy

DIGITS = 30
Entries = Any  # a number, a symbol, or a list, tuple or dict of such


# ---------------------------------------------------------------- chain rule


def square(x: Entries) -> Entries:
    """[A-01] x²."""
    return x**2


def sum_of_squares(x: Entries) -> Entries:
    """[A-01] Σ_j x_j²."""
    return sum(entry**2 for entry in x)


def powers(x: Entries, m: int) -> Entries:
    """[A-01] (x, x², …, xᵐ)."""
    return [x**k for k in range(1, m + 1)]


def linear_map(M: Entries, x: Entries) -> Entries:
    """[A-01] f_i = Σ_j M_ij x_j."""
    return [_dot(row, x) for row in M]


def quadratic_map(A: Entries, B: Entries, theta: Entries) -> Entries:
    """[B-01] g_j = Σ_i A_ji θ_i + Σ_il B_jil θ_i θ_l."""
    return [
        _dot(A_j, theta) + sum(B_j[i][l] * theta[i] * theta[l] for i in _of(theta) for l in _of(theta))
        for A_j, B_j in zip(A, B, strict=True)
    ]


def composed_quadratic_maps(C: Entries, D: Entries, A: Entries, B: Entries, theta: Entries) -> Entries:
    """[B-01] J(g(θ))."""
    return quadratic_map(C, D, quadratic_map(A, B, theta))


def product(q: Entries, z: Entries) -> Entries:
    """[C-01] q z."""
    return q * z


def product_of_sum(x: Entries, y: Entries, z: Entries) -> Entries:
    """[C-01] (x + y) z."""
    return (x + y) * z


# ---------------------------------------------------------------- mean squared error


def mean(J0: Entries) -> Entries:
    """[A-02] (1/N) Σ_i J0_i."""
    return sum(J0) / sympy.Integer(len(J0))


def squared_errors(y_hat: Entries, y: Entries) -> Entries:
    """[A-03] (y_i − ŷ_i)²."""
    return [(y[i] - y_hat[i]) ** 2 for i in _of(y)]


def mse(y_hat: Entries, y: Entries) -> Entries:
    """[A-04] (1/N) Σ_i (y_i − ŷ_i)²."""
    return mean(squared_errors(y_hat, y))


def affine(w: Entries, b: Entries, x: Entries) -> Entries:
    """[A-05] ŷ_i = w x_i + b, or Σ_j w_j x_ij + b."""
    return [(_dot(w, x_i) if isinstance(w, list) else w * x_i) + b for x_i in x]


def linear_regression(w: Entries, b: Entries, x: Entries, y: Entries) -> Entries:
    """[A-05] [A-06] (1/N) Σ_i (y_i − ŷ_i)²."""
    return mse(affine(w, b, x), y)


# ---------------------------------------------------------------- activations, entry by entry


class _Step(sympy.Function):
    """1 where z > 0, else 0."""

    @classmethod
    def eval(cls, z: Any) -> Any:
        """Its value, for a number."""
        return sympy.Integer(int(bool(z > 0))) if z.is_number else None


class _ReLU(sympy.Function):
    """max(z, 0), with slope 0 at 0; faster here than SymPy's Max or Piecewise."""

    @classmethod
    def eval(cls, z: Any) -> Any:
        """Its value, for a number."""
        return (z if z > 0 else sympy.Integer(0)) if z.is_number else None

    def fdiff(self, argindex: int = 1) -> Any:
        """Its slope."""
        return _Step(self.args[0])


_ACTIVATIONS: dict[str, Callable] = {
    "relu": lambda z: _ReLU(z) if isinstance(z, sympy.Basic) else max(z, 0),
    "sigmoid": lambda z: 1 / (1 + sympy.exp(-z)),
    "tanh": sympy.tanh,
    "softplus": lambda z: sympy.log(1 + sympy.exp(z)),
    "identity": lambda z: z,
}


def _activation(name: str) -> Callable:
    def activated(x: Entries) -> Entries:
        return [activated(entry) for entry in x] if isinstance(x, list) else _ACTIVATIONS[name](x)

    return activated


relu, sigmoid, tanh, softplus, identity = map(_activation, _ACTIVATIONS)


# ---------------------------------------------------------------- softmax and cross-entropy


def softmax(logits: Entries) -> Entries:
    """[A-07] e^{l_k} / Σ_j e^{l_j}, over the last axis."""
    if isinstance(logits[0], list):
        return [softmax(row) for row in logits]
    total = sum(sympy.exp(l) for l in logits)
    return [sympy.exp(l) / total for l in logits]


def cross_entropy(probs: Entries, labels: Entries) -> Entries:
    """[A-09] −(1/N) Σ_i Σ_k y_ik log ŷ_ik."""
    return mean([-_dot(y_i, [sympy.log(p) for p in p_i]) for p_i, y_i in zip(probs, labels, strict=True)])


def softmax_cross_entropy(logits: Entries, labels: Entries) -> Entries:
    """[A-10] −(1/N) Σ_i Σ_k y_ik log softmax(l_i)_k."""
    return cross_entropy(softmax(logits), labels)


def cross_entropy_of_scores(s: Entries, y: int) -> Entries:
    """[B-09] −log(e^{s_y} / Σ_j e^{s_j})."""
    return -sympy.log(softmax(s)[y])


def softmax_cross_entropy_with_integer_labels(logits: Entries, labels: Entries) -> Entries:
    """[B-13] −(1/N) Σ_i log(e^{s_i,y_i} / Σ_j e^{s_ij})."""
    return mean([cross_entropy_of_scores(s, y) for s, y in zip(logits, labels, strict=True)])


def linear_cross_entropy(hidden: Entries, W: Entries, labels: Entries) -> Entries:
    """[B-13] −(1/N) Σ_i log softmax(h_i W)_{y_i}."""
    return softmax_cross_entropy_with_integer_labels(_matmul(hidden, W), labels)


def softmax_columns(Z: Entries) -> Entries:
    """[D-03] e^{Z_ki} / Σ_j e^{Z_ji}."""
    return _transposed(softmax(_transposed(Z)))


def cross_entropy_columns(A: Entries, Y: Entries) -> Entries:
    """[D-04] −(1/N) Σ_i Σ_k Y_ki ln A_ki."""
    return cross_entropy(_transposed(A), _transposed(Y))


def softmax_cross_entropy_columns(Z: Entries, Y: Entries) -> Entries:
    """[D-06] −(1/N) Σ_i Σ_k Y_ki ln softmax(Z)_ki."""
    return cross_entropy_columns(softmax_columns(Z), Y)


# ---------------------------------------------------------------- dense layers


def dense_rows(X: Entries, W: Entries, b: Entries) -> Entries:
    """[B-16] Z_ij = Σ_k X_ik W_kj + b_j."""
    return [[z + b[j] for j, z in enumerate(row)] for row in _matmul(X, W)]


def dense_columns(X: Entries, W: Entries, b: Entries) -> Entries:
    """[B-13] Z_ij = Σ_k W_ik X_kj + b_i."""
    return [[z + b[i] for z in row] for i, row in enumerate(_matmul(W, X))]


def dense_vector(x: Entries, W: Entries, b: Entries) -> Entries:
    """[B-02] z_i = Σ_k W_ik x_k + b_i."""
    return [_dot(W_i, x) + b_i for W_i, b_i in zip(W, b, strict=True)]


# ---------------------------------------------------------------- two layers


def squared_loss_of_o(o: Entries, y: Entries) -> Entries:
    """[B-02] ½ (y − o)²."""
    return (y - o[0]) ** 2 / 2


def squared_loss_of_a(a: Entries, W2: Entries, b2: Entries, y: Entries) -> Entries:
    """[B-05] J with o = W² a + b²."""
    return squared_loss_of_o(dense_vector(a, W2, b2), y)


def squared_loss_of_z(z: Entries, W2: Entries, b2: Entries, y: Entries) -> Entries:
    """[B-06] J with a = ReLU(z)."""
    return squared_loss_of_a(relu(z), W2, b2, y)


def two_layer_squared_loss(
    W1: Entries, b1: Entries, W2: Entries, b2: Entries, x: Entries, y: Entries
) -> Entries:
    """[B-02] J with z = W¹ x + b¹."""
    return squared_loss_of_z(dense_vector(x, W1, b1), W2, b2, y)


def cross_entropy_of_s(s: Entries, y: int) -> Entries:
    """[B-09] −log(e^{s_y} / Σ_j e^{s_j})."""
    return cross_entropy_of_scores(s, y)


def cross_entropy_of_a(a: Entries, W2: Entries, b2: Entries, y: int) -> Entries:
    """[B-11] J with s = W² a + b²."""
    return cross_entropy_of_s(dense_vector(a, W2, b2), y)


def cross_entropy_of_z(z: Entries, W2: Entries, b2: Entries, y: int) -> Entries:
    """[B-12] J with a = ReLU(z)."""
    return cross_entropy_of_a(relu(z), W2, b2, y)


def two_layer_cross_entropy(
    W1: Entries, b1: Entries, W2: Entries, b2: Entries, x: Entries, y: int
) -> Entries:
    """[B-09] J with z = W¹ x + b¹."""
    return cross_entropy_of_z(dense_vector(x, W1, b1), W2, b2, y)


def cross_entropy_of_S_columns(S: Entries, y: Entries) -> Entries:
    """[B-13] −(1/n) Σ_i log p_{y_i}, one sample a column."""
    return softmax_cross_entropy_with_integer_labels(_transposed(S), y)


def cross_entropy_of_A_columns(A: Entries, W2: Entries, b2: Entries, y: Entries) -> Entries:
    """[B-15] J with S = W² A + b² 1ᵀ."""
    return cross_entropy_of_S_columns(dense_columns(A, W2, b2), y)


def cross_entropy_of_Z_columns(Z: Entries, W2: Entries, b2: Entries, y: Entries) -> Entries:
    """[B-15] J with A = ReLU(Z)."""
    return cross_entropy_of_A_columns(relu(Z), W2, b2, y)


def two_layer_cross_entropy_columns(
    W1: Entries, b1: Entries, W2: Entries, b2: Entries, X: Entries, y: Entries
) -> Entries:
    """[B-15] J with Z = W¹ X + b¹ 1ᵀ."""
    return cross_entropy_of_Z_columns(dense_columns(X, W1, b1), W2, b2, y)


def cross_entropy_of_S_rows(S: Entries, y: Entries) -> Entries:
    """[B-16] −(1/n) Σ_i log p_{y_i}, one sample a row."""
    return softmax_cross_entropy_with_integer_labels(S, y)


def cross_entropy_of_A_rows(A: Entries, W2: Entries, b2: Entries, y: Entries) -> Entries:
    """[B-16] J with S = A W² + 1 b²."""
    return cross_entropy_of_S_rows(dense_rows(A, W2, b2), y)


def cross_entropy_of_Z_rows(Z: Entries, W2: Entries, b2: Entries, y: Entries) -> Entries:
    """[B-16] J with A = ReLU(Z)."""
    return cross_entropy_of_A_rows(relu(Z), W2, b2, y)


def two_layer_cross_entropy_rows(
    W1: Entries, b1: Entries, W2: Entries, b2: Entries, X: Entries, y: Entries
) -> Entries:
    """[B-16] J with Z = X W¹ + 1 b¹."""
    return cross_entropy_of_Z_rows(dense_rows(X, W1, b1), W2, b2, y)


# ---------------------------------------------------------------- networks of any depth


def mlp_rows(params: Entries, X: Entries, activation: str = "relu") -> Entries:
    """[C-02] Z_l = A_{l−1} W_l + 1 b_l, A_l = f(Z_l); the last Z."""
    *before, last = params
    for W, b in before:
        X = _activation(activation)(dense_rows(X, W, b))
    return dense_rows(X, *last)


def mlp_columns(params: Entries, X: Entries, activation: str = "relu") -> Entries:
    """[D-02] Z_l = W_l A_{l−1} + b_l 1ᵀ, A_l = f(Z_l); the last Z."""
    *before, last = params
    for W, b in before:
        X = _activation(activation)(dense_columns(X, W, b))
    return dense_columns(X, *last)


def network(params: Entries, x: Entries, activation: str = "sigmoid") -> Entries:
    """[C-02] z = W a + b, a = f(z) through every layer; all z, and all a from x on."""
    zs, activations = [], [x]
    for W, b in params:
        zs.append(dense_vector(activations[-1], W, b))
        activations.append(_activation(activation)(zs[-1]))
    return zs, activations


def network_squared_loss(params: Entries, x: Entries, y: Entries, activation: str = "sigmoid") -> Entries:
    """[C-03] ½ Σ_i (a^L_i − y_i)²."""
    y_hat = network(params, x, activation)[1][-1]
    return sum((y_hat[i] - y[i]) ** 2 for i in _of(y)) / 2


def squared_loss_from_z(
    params_after: Entries, z: Entries, y: Entries, activation: str = "sigmoid"
) -> Entries:
    """[C-05] L as a function of one layer's z."""
    return network_squared_loss(params_after, _activation(activation)(z), y, activation)


def flatten_columns(images: Entries) -> Entries:
    """[D-01] Each image's rows one after the other, in a column."""
    return _transposed([[pixel for row in image for pixel in row] for image in images])


def one_hot_columns(labels: Entries, K: int) -> Entries:
    """[D-01] 1 where the row is the label."""
    return [[int(k == label) for label in labels] for k in range(K)]


def five_layer_scores(params: Entries, X: Entries) -> Entries:
    """[D-02] Z_5."""
    return mlp_columns(params, X)


def five_layer(params: Entries, X: Entries, Y: Entries) -> Entries:
    """[D-04] −(1/m) Σ Y ln softmax(Z_5)."""
    return softmax_cross_entropy_columns(mlp_columns(params, X), Y)


def five_layer_from_z(params_after: Entries, Z: Entries, Y: Entries) -> Entries:
    """[D-10] L as a function of Z_l."""
    return five_layer_from_a(params_after, relu(Z) if params_after else softmax_columns(Z), Y)


def five_layer_from_a(params_after: Entries, A: Entries, Y: Entries) -> Entries:
    """[D-10] L as a function of A_l; with no layer left, of the probabilities."""
    if not params_after:
        return cross_entropy_columns(A, Y)
    (W, b), *rest = params_after
    return five_layer_from_z(rest, dense_columns(A, W, b), Y)


def loss_of_layer_5(W5: Entries, b5: Entries, A4: Entries, Y: Entries) -> Entries:
    """[D-07] [D-08] L as a function of the last layer's arrays."""
    return five_layer_from_a([(W5, b5)], A4, Y)


def loss_by_each(params: Entries, Y: Entries, **hidden: Entries) -> Entries:
    """[D-10] L as a function of Z_l alone and of A_l alone, added up."""
    from_hidden = {"Z": five_layer_from_z, "A": five_layer_from_a}
    return sum(from_hidden[name[0]](params[int(name[1]) :], at, Y) for name, at in hidden.items())


# ---------------------------------------------------------------- convolutions


def correlate2d(x: Entries, f: Entries) -> Entries:
    """[C-08] O_ij = Σ_ab X_{i+a,j+b} F_ab, only where no index leaves X."""
    offsets = list(itertools.product(_of(f), _of(f[0])))
    return [
        [sum(x[i + a][j + b] * f[a][b] for a, b in offsets) for j in range(len(x[0]) - len(f[0]) + 1)]
        for i in range(len(x) - len(f) + 1)
    ]


def convolve2d(x: Entries, w: Entries, mode: str = "full") -> Entries:
    """[C-07] Y_ij = Σ_ab X_{i−a,j−b} W_ab: everywhere, with X = 0 outside, or where no index leaves X."""
    (H, kh), (W, kw) = (len(x), len(w)), (len(x[0]), len(w[0]))
    rows, columns = (
        (range(H + kh - 1), range(W + kw - 1)) if mode == "full" else (range(kh - 1, H), range(kw - 1, W))
    )

    def entry(i: int, j: int) -> Entries:
        inside = ((a, b) for a in range(kh) for b in range(kw) if 0 <= i - a < H and 0 <= j - b < W)
        return sum(x[i - a][j - b] * w[a][b] for a, b in inside)

    return [[entry(i, j) for j in columns] for i in rows]


def conv2d(
    x: Entries,
    kernel: Entries,
    bias: Entries,
    strides: Any = 1,
    padding: Any = "VALID",
    dilation: Any = 1,
    groups: int = 1,
) -> Entries:
    """[A-11] Z_nijo = Σ_abc X_{n, si+da, sj+db, c} K_abco + b_o, with X = 0 outside."""
    size, taps = (len(x[0]), len(x[0][0])), (len(kernel), len(kernel[0]))
    (sh, sw), (dh, dw) = (v if isinstance(v, tuple) else (v, v) for v in (strides, dilation))
    (top, h), (left, w) = (
        _window(n, k, s, d, padding if isinstance(padding, str) else padding[axis])
        for axis, (n, k, s, d) in enumerate(zip(size, taps, (sh, sw), (dh, dw), strict=True))
    )
    per_group, share = len(kernel[0][0]), len(bias) // groups

    def entry(image: Entries, i: int, j: int, o: int) -> Entries:
        total = bias[o]
        for a, b in itertools.product(*map(range, taps)):
            p, q = sh * i + dh * a - top, sw * j + dw * b - left
            if 0 <= p < size[0] and 0 <= q < size[1]:
                for c in range(per_group):
                    total += image[p][q][o // share * per_group + c] * kernel[a][b][c][o]
        return total

    return [[[[entry(image, i, j, o) for o in _of(bias)] for j in range(w)] for i in range(h)] for image in x]


def _window(n: int, k: int, s: int, d: int, padding: Any) -> tuple[int, int]:
    """The zeros before an axis of length n, and the number of outputs along it."""
    reach = (k - 1) * d + 1
    if padding == "VALID":
        return 0, (n - reach) // s + 1
    if padding == "SAME":
        outputs = math.ceil(n / s)
        return max((outputs - 1) * s + reach - n, 0) // 2, outputs
    return padding[0], (n + sum(padding) - reach) // s + 1


def cnn_scores(params: Entries, X: Entries) -> Entries:
    """[A-11] Z⁵: two convolutions and a dense layer with ReLU, then a dense layer."""
    A1 = relu(conv2d(X, params["K1"], params["b1"]))
    A2 = relu(conv2d(A1, params["K2"], params["b2"]))
    A3 = [[entry for row in image for pixel in row for entry in pixel] for image in A2]
    A4 = relu(dense_rows(A3, params["W4"], params["b4"]))
    return dense_rows(A4, params["W5"], params["b5"])


def cnn(params: Entries, X: Entries, labels: Entries) -> Entries:
    """[A-11] −(1/N) Σ_i Σ_k y_ik log softmax(Z⁵)_ik."""
    return softmax_cross_entropy(cnn_scores(params, X), labels)


# ---------------------------------------------------------------- derivatives


def value(definition: Callable, point: dict[str, Entries]) -> list[float]:
    """All entries of the definition's value at a point, in order."""
    return [_number(entry) for entry in _flat(definition(**_exact(point)))]


def derivative(definition: Callable, point: dict[str, Entries], wrt: tuple[str, ...]) -> list[list[float]]:
    """∂(every entry of the definition)/∂(one entry of the point), for each entry of `wrt`, in order.

    Args:
        definition: one of the functions above.
        point: its arguments: numbers, nested lists, tuples and dicts of numbers, and settings.
        wrt: the names of the arguments to differentiate by.
    Returns:
        For each entry, a list with one number for each entry of the definition's value.
    """
    exact = _exact(point)
    columns = []
    for name in wrt:
        for position in range(len(_flat(exact[name]))):
            t = sympy.Symbol("t")
            at, moved = _with(exact[name], position, t)
            outputs = _flat(definition(**{**exact, name: moved}))
            columns.append([_slope(entry, t, at) for entry in outputs])
    return columns


def _slope(entry: Any, t: sympy.Symbol, at: sympy.Rational) -> float:
    entry = sympy.sympify(entry)
    if not entry.has(t):
        return 0.0
    slope = sympy.diff(entry, t)
    if slope.has(_ReLU, _Step):
        return _number(slope.subs(t, at))
    return float(slope.evalf(DIGITS, subs={t: at}))


def _number(entry: Any) -> float:
    return float(entry if isinstance(entry, Fraction) else sympy.N(entry, DIGITS))


def _exact(entries: Any) -> Any:
    """Floats as the rational numbers that they are; integers, strings and the like as they are."""
    if isinstance(entries, float):
        return Fraction(entries)
    if isinstance(entries, dict):
        return {name: _exact(entry) for name, entry in entries.items()}
    if isinstance(entries, list):
        return [_exact(entry) for entry in entries]
    return tuple(_exact(entry) for entry in entries) if isinstance(entries, tuple) else entries


def _flat(entries: Any) -> list:
    """All entries, in order; a dict's by its sorted names."""
    if isinstance(entries, dict):
        entries = [entries[name] for name in sorted(entries)]
    return [e for entry in entries for e in _flat(entry)] if isinstance(entries, list | tuple) else [entries]


def _with(entries: Any, position: int, symbol: Any) -> tuple[Any, Any]:
    """The entry at a position, and all entries with the symbol in its place."""
    if isinstance(entries, dict):
        names = sorted(entries)
        at, moved = _with([entries[name] for name in names], position, symbol)
        return at, dict(zip(names, moved, strict=True))
    if not isinstance(entries, list | tuple):
        return entries, symbol
    for k, entry in enumerate(entries):
        size = len(_flat(entry))
        if position < size:
            at, moved = _with(entry, position, symbol)
            return at, type(entries)([*entries[:k], moved, *entries[k + 1 :]])
        position -= size
    raise IndexError(position)


def _dot(left: Entries, right: Entries) -> Entries:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _matmul(left: Entries, right: Entries) -> Entries:
    columns = _transposed(right)
    return [[_dot(row, column) for column in columns] for row in left]


def _transposed(matrix: Entries) -> Entries:
    return [list(column) for column in zip(*matrix, strict=True)]


def _of(entries: Entries) -> range:
    return range(len(entries))


def answer_questions() -> None:
    """Read triples (definition's name, point, wrt or None for its value), write derivatives or the value."""
    while True:
        try:
            name, point, wrt = pickle.load(sys.stdin.buffer)
        except (EOFError, KeyboardInterrupt):
            return
        definition = globals()[name]
        pickle.dump(
            value(definition, point) if wrt is None else derivative(definition, point, wrt), sys.stdout.buffer
        )
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    answer_questions()
