"""Answers to questions that the lectures leave open, each with a computation run when the book is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.compiling import quickly
from manual_grad.digits import load_digits_28
from manual_grad.formulas.correlation import convolve2d_fwd, correlate2d_fwd, jac_correlate2d_x
from manual_grad.formulas.dense import (
    dense_columns_bwd,
    dense_columns_fwd,
    jac_dense_columns_W_factors,
    jac_dense_columns_X_factors,
)
from manual_grad.formulas.softmax import (
    cross_entropy_of_scores_bwd,
    cross_entropy_of_scores_fwd,
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_fwd,
    softmax_fwd,
)
from manual_grad.networks.mlp import five_layer_fwd, five_layer_grads, gradient_descent

WIDTHS = (784, 128, 50, 50, 25, 10)


@dataclass(frozen=True)
class Answer:
    """A question and its answer.

    Attributes:
        name: its anchor.
        tag: the equation that it is about.
        words: the notes' own words; empty if the notes only leave something open.
        question: the question in our words.
        paragraphs: the answer, marked up for :func:`manual_grad.report.mathml.marked`.
        head, rows: the computation as a table.
        caption: the table's caption.
    """

    name: str
    tag: str
    words: str
    question: str
    paragraphs: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


def answers() -> list[Answer]:
    """All questions, in the order of the lectures."""
    return [
        labels_of_any_sum(),
        the_typo(),
        beyond_the_edge(),
        the_blanks(),
        local_gradients(),
        why_one_over_m(),
        may_factors_be_swapped(),
    ]


def may_factors_be_swapped() -> Answer:
    """D-09: the order of the factors follows from the Kronecker Jacobians."""
    rng: Any = np.random.default_rng(0)
    A4, W5, b5, dZ5 = (
        rng.normal(size=(25, 12)),
        rng.normal(size=(10, 25)),
        rng.normal(size=10),
        rng.normal(size=(10, 12)),
    )
    dA4, dW5, _ = quickly(dense_columns_bwd)(quickly(dense_columns_fwd)(A4, W5, b5)[1], dZ5)
    vec = dZ5.T.ravel()
    by_W = vec @ np.kron(*quickly(jac_dense_columns_W_factors)(A4, W5, b5))
    by_A = vec @ np.kron(*quickly(jac_dense_columns_X_factors)(A4, W5, b5))
    P, Q = _array([[1, 2], [3, 4]]), _array([[0, 1], [1, 1]])
    return Answer(
        "commute",
        "D-09",
        "I don't know if they can apply commutative property in this matrix chain rule.",
        "Why does A4 × (A5 − y) become (A5 − y) × A4ᵀ?",
        (
            "Not because the factors commute: matrix products do not, not even those of square matrices, and "
            "here the first order does not even exist: $25 \\times m$ times $10 \\times m$.",
            "The factor in the chain rule is not $A_4$ but the Jacobian of $Z_5$ with respect to $W_5$, "
            "which has an output for each entry of $Z_5$ and an input for each entry of $W_5$: "
            "$\\frac{\\partial \\operatorname{vec} Z_5}{\\partial \\operatorname{vec} W_5} = A_4^{\\top} "
            "\\otimes I_{10}$. Multiplying it by the gradient from above gives "
            "$\\operatorname{vec}(dZ_5)^{\\top} (A_4^{\\top} \\otimes I) = \\operatorname{vec}(dZ_5 "
            "A_4^{\\top})^{\\top}$. The transpose and the order come out of the Kronecker product; at no "
            "point are two factors swapped.",
            "A quicker way to see it: $dW_5[i, k] = \\sum_s dZ_5[i, s] \\, A_4[k, s]$. The sum runs over "
            "the second index of both, but a matrix product sums over the second index of its left factor "
            "and the *first* of its right one. So $A_4$ must be transposed.",
        ),
        ("what", "result"),
        (
            ("A4 × dZ5", "no such product: 25×12 times 10×12"),
            (
                "largest |vec(dZ5)ᵀ (A4ᵀ ⊗ I) − vec(dZ5 A4ᵀ)ᵀ|",
                _error(by_W, np.asarray(dW5).T.ravel()),
            ),
            ("largest |vec(dZ5)ᵀ (I ⊗ W5) − vec(W5ᵀ dZ5)ᵀ|", _error(by_A, np.asarray(dA4).T.ravel())),
            ("square matrices: P Q", _matrix(P @ Q)),
            ("square matrices: Q P", _matrix(Q @ P)),
        ),
        "Random W5 (10×25) and A4 (25×12); the Kronecker matrices are 120×250 and 120×300. P = "
        f"{_matrix(P)}, Q = {_matrix(Q)}.",
    )


def why_one_over_m() -> Answer:
    """D-07: the gradient of a sum grows with the batch, that of a mean does not."""
    rng: Any = np.random.default_rng(0)
    shapes = pairwise(WIDTHS)
    params = [(rng.normal(size=(o, i)) * (2 / i) ** 0.5, np.zeros(o)) for i, o in shapes]
    images, labels = load_digits_28()
    steps = quickly(_steps)
    rows = []
    for m in (10, 100, 1000):
        X, Y = images[:m].reshape(m, -1).T.astype(float), np.eye(10)[:, labels[:m]]
        size, before, without, right = (float(x) for x in steps(params, X, Y))
        shown = (f"{m * size:.3g}", f"{size:.3g}", f"{before:.3f}", f"{without:.3g}", f"{right:.3f}")
        rows.append((str(m), *shown))
    return Answer(
        "one-over-m",
        "D-07",
        "why do I have to divide in 60000",
        "Why is the gradient divided by m = 60000?",
        (
            "Because the loss is a mean: $L = -\\frac{1}{m} \\sum_s \\ln a_{y^{(s)}}$. The derivative of a "
            "mean is the mean of the derivatives, and $(A_5 - Y) A_4^{\\top}$ is their sum. The "
            "$\\frac{1}{m}$ can be applied anywhere, but only once; $dZ_5$ is the best place, since every "
            "later line inherits it.",
            "Without it the direction of the step is still right. But its length grows with the batch, so a "
            "learning rate $\\alpha$ that works for 10 samples makes training diverge with 1000, and with "
            "60000 the step is 60000 times too long.",
        ),
        ("m", "‖dW5‖ without 1/m", "with 1/m", "loss before", "after a step without", "with"),
        tuple(rows),
        "Lecture D's five layers, random initial weights, m real digits, one step with α = 0.1.",
    )


def _steps(params: Any, X: Any, Y: Any) -> tuple[Any, ...]:
    """‖dW5‖, the loss, and the loss after a step without 1/m and with it."""
    L, res = five_layer_fwd(params, X, Y)
    g = five_layer_grads(res, 1.0)
    mean = [(g[f"dW{l}"], g[f"db{l}"]) for l in range(1, 6)]
    total = jax.tree.map(lambda d: X.shape[1] * d, mean)
    after = [five_layer_fwd(gradient_descent(params, d, 0.1), X, Y)[0] for d in (total, mean)]
    return jnp.linalg.norm(g["dW5"]), L, *after


def the_blanks() -> Answer:
    """C-08: O12, O21 and O22."""
    X, F = _array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]), _array([[1.0, -1], [2, 3]])
    O = np.asarray(correlate2d_fwd(X, F)[0])
    rows = []
    for i in range(2):
        for j in range(2):
            terms = [(a, b) for a in range(2) for b in range(2)]
            symbols = " + ".join(f"x{i + a + 1}{j + b + 1} F{a + 1}{b + 1}" for a, b in terms)
            numbers = " + ".join(f"{X[i + a, j + b]:g}·{_signed(F[a, b])}" for a, b in terms)
            total = sum(X[i + a, j + b] * F[a, b] for a, b in terms)
            if total != O[i, j]:
                raise AssertionError(f"the blanks: O{i + 1}{j + 1} is {total}, the formula gives {O[i, j]}")
            rows.append((f"O{i + 1}{j + 1}", symbols, f"{numbers} = {_minus(total)}"))
    return Answer(
        "blanks",
        "C-08",
        "",
        "O11 is written out; what are O12, O21 and O22?",
        (
            "The filter moves one place to the right for $O_{12}$, one down for $O_{21}$, and both for "
            "$O_{22}$. In every sum the filter's indices keep their order; only those of the image shift.",
        ),
        ("output", "sum", "with numbers"),
        tuple(rows),
        f"X = {_matrix(X)}, F = {_matrix(F)}; each sum equals what correlate2d_fwd returns.",
    )


def local_gradients() -> Answer:
    """C-11: ∂O/∂X written out for the notes' sizes."""
    F = _array([[11.0, 12], [21, 22]])
    J = quickly(jac_correlate2d_x)(np.arange(9.0).reshape(3, 3), F).reshape(4, 9)
    names = [f"x{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)]
    rows = [
        (f"O{i}{j}", *(f"F{value:.0f}" if value else "·" for value in row))
        for (i, j), row in zip(((1, 1), (1, 2), (2, 1), (2, 2)), J, strict=True)
    ]
    return Answer(
        "local-gradients",
        "C-11",
        "local gradients",
        "What are ∂O/∂X and ∂O/∂F?",
        (
            "Each output is a weighted sum of four pixels, so its row holds the four weights in the columns "
            "of those pixels. For two horizontally adjacent outputs the row is shifted by one, for two "
            "vertically adjacent ones by a row of the image. $\\partial O / \\partial F$ is the same with "
            "the roles exchanged: the row of $O_{ij}$ holds the four pixels that it depends on.",
            "Multiply $\\frac{\\partial L}{\\partial O}$, as a row of four numbers, by this matrix and the "
            "result is [[C-10]]; multiply it by the other one and the result is [[C-09]].",
        ),
        ("", *names),
        tuple(rows),
        "∂O/∂X for the notes' 3×3 image and 2×2 filter, as jac_correlate2d_x returns it for F = (11, 12; "
        "21, 22). A dot is 0.",
    )


def beyond_the_edge() -> Answer:
    """C-07: what is X[i − a, j − b] where an index leaves the image?"""
    X, W = _array([[1.0, 2], [3, 4]]), _array([[1.0, 0], [0, 10]])
    full = np.asarray(convolve2d_fwd(X, W, mode="full")[0])
    valid = np.asarray(convolve2d_fwd(X, W, mode="valid")[0])
    return Answer(
        "edge",
        "C-07",
        "",
        "Y[i, j] = Σ Σ X[i − a, j − b] W[a, b]: what is X where i − a is negative?",
        (
            "The notes do not say, and both usual readings are computed here. *Full*: the image is 0 "
            "outside, and for a filter of size $k$ each side of the output is $k - 1$ longer than that of "
            "the image. *Valid*: only those $i, j$ for which no index leaves the image, and each side is $k "
            "- 1$ shorter.",
            "The gradient of a valid cross-correlation with respect to its image is a full one ([[C-10]]): "
            "in the backward pass every pixel receives a contribution from every window that contained it, "
            "at the edges too.",
        ),
        ("reading", "output", "Y"),
        (("full", _shape(full), _matrix(full)), ("valid", _shape(valid), _matrix(valid))),
        f"X = {_matrix(X)}, W = {_matrix(W)}.",
    )


def the_typo() -> Answer:
    """B-10: the case that has the −1."""
    s, y = _array([2.0, 0.0, 1.0]), 0
    forward = quickly(cross_entropy_of_scores_fwd)
    J, res = forward(s, y)
    right = quickly(cross_entropy_of_scores_bwd)(res, 1.0)[0]
    p = quickly(softmax_fwd)(s)[0]
    printed = np.where(np.arange(3) == y, p, p - 1)
    step = [float(forward(s - 0.1 * g, y)[0]) for g in (printed, right)]
    rows = (
        ("as printed", _vector(printed), f"{_minus(printed.sum())}", f"{float(J):.4f} → {step[0]:.4f}"),
        (
            "corrected",
            _vector(right),
            f"{_minus(round(float(right.sum()), 12))}",
            f"{float(J):.4f} → {step[1]:.4f}",
        ),
    )
    return Answer(
        "typo",
        "B-10",
        "check Typo for notebook.",
        "Is it p_k for k = y and p_k − 1 for k ≠ y, as printed, or the other way round?",
        (
            "It is a typo: the cases are swapped ([[B-E1]]). The $-s_y$ in $J = \\ln \\sum_j e^{s_j} - s_y$ "
            "subtracts 1 at the true class and nowhere else.",
            "Two ways to notice without a derivation: the entries must sum to 0, since adding a constant to "
            "all scores changes nothing; and a small step against the gradient must lower the loss.",
        ),
        ("version", "∂J/∂s", "sum", "loss, before → after a step of 0.1"),
        rows,
        f"s = {_vector(s)}, true class 0, p = {_vector(p)}.",
    )


def labels_of_any_sum() -> Answer:
    """A-10: the short form needs labels that sum to 1."""
    logits, labels = _array([[1.0, 0.0, -1.0]]), _array([[1.0, 1.0, 0.0]])
    forward, step = quickly(softmax_cross_entropy_fwd), 1e-6
    long = quickly(softmax_cross_entropy_bwd)(forward(logits, labels)[1], 1.0)[0]
    short = quickly(softmax_fwd)(logits)[0] - labels
    differences = [
        float(forward(logits + step * e, labels)[0] - forward(logits - step * e, labels)[0]) / (2 * step)
        for e in np.eye(3)[:, None]
    ]
    return Answer(
        "any-labels",
        "A-10",
        "",
        "The last step drops Σ_k y_k. When is that allowed?",
        (
            "When every sample's labels sum to 1, as one-hot labels and probability distributions do. The "
            "lecture relies on this without saying so. With several true classes, weighted samples or "
            "padding (all labels 0), only the form with the sum is the gradient.",
        ),
        ("form", "∂J/∂l"),
        (
            ("(Ŷ Σ y − Y)/N", _vector(long[0])),
            ("(Ŷ − Y)/N", _vector(short[0])),
            ("finite differences of J", _vector(_array(differences))),
        ),
        f"One sample, logits {_vector(logits[0])}, labels {_vector(labels[0])}, which sum to 2.",
    )


def _array(entries: Any) -> Any:
    """A NumPy array, which the formulas accept although their annotations name JAX arrays."""
    return np.array(entries)


def _error(a: np.ndarray, b: np.ndarray) -> str:
    return f"{float(np.abs(a - b).max()):.0e}"


def _shape(M: np.ndarray) -> str:
    return "×".join(map(str, M.shape))


def _matrix(M: Any) -> str:
    return "(" + "; ".join(", ".join(_minus(x) for x in row) for row in np.asarray(M)) + ")"


def _vector(v: Sequence[float] | np.ndarray) -> str:
    return "(" + ", ".join(_minus(round(float(x), 4)) for x in v) + ")"


def _signed(x: float) -> str:
    return f"({_minus(x)})" if x < 0 else f"{x:g}"


def _minus(x: float) -> str:
    return f"{float(x):.5g}".replace("-", "−").replace("−0", "0" if float(x) == 0 else "−0")
