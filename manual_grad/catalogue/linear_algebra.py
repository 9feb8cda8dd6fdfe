"""Linear systems, inverses, determinants and Cholesky factors."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import NO_BATCH, Batch, Bench, Formula, Function, Op, Scale, Shown, normal
from manual_grad.catalogue.families import FACTOR, SIGN, SUM_MISSING, SWAPPED, TERM, TRANSPOSED, family
from manual_grad.catalogue.hard import Hard
from manual_grad.formulas.linear_algebra import (
    cholesky_bwd,
    cholesky_fwd,
    inverse_bwd,
    inverse_fwd,
    jac_solve_A,
    jac_solve_B,
    logdet_bwd,
    logdet_fwd,
    solve_bwd,
    solve_fwd,
)
from manual_grad_reference import definitions


def _regular(draw: Draw, shape: tuple[int, ...], sizes: Any) -> Any:
    """A matrix that is not symmetric but has a positive definite symmetric part."""
    entries = np.asarray(draw.exactly(*shape, scale=shape[0] ** -0.5), np.float64)
    return jnp.asarray(entries + 3 * np.eye(len(entries)), draw.dtype)


SIZES = ((8,), (64,), (256,))
NO_PIVOT = np.array([[0.0, 1.0, 1.0], [3.0, 0.0, 1.0], [1.0, 1.0, 0.0]])  # one of its pivots is 1


TURNED_ROUND = np.diag([0.0, -1.0, 0.0, 0.5, 4.0])
TURNED_ROUND[0, 2], TURNED_ROUND[2, 0] = -2.0, -3.0


def _to_be_pivoted(rng: Any, A: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"A": A} | {name: rng.standard_normal(shape) for name, shape in more.items()}


def _pivots(A: np.ndarray = NO_PIVOT, says: str = "", **more: Any) -> tuple[Hard, ...]:
    return (
        Hard(
            "a zero where the first pivot is",
            f"The matrix is invertible; only elimination without row exchanges divides by 0.{says}",
            lambda rng: _to_be_pivoted(rng, A, **more),
            {"elimination by hand": None},
            ("elimination by hand",),
            "it divides by the first entry, whatever that is",
        ),
    )


def _solve(
    dX: Any,
    A: Any,
    B: Any,
    *,
    turned: Callable = jnp.transpose,
    outer: Callable = lambda dB, X: dB @ X.T,
    sign: int = -1,
    right: Callable = lambda X, B: X,
) -> dict[str, Any]:
    X, dB = jnp.linalg.solve(A, B), jnp.linalg.solve(turned(A), dX)
    return {"A": sign * outer(dB, right(X, B)), "B": dB}  # fmt: skip


SOLVE = Formula(
    solve_fwd,
    solve_bwd,
    reference.linear_algebra.solve,
    definition=definitions.solve,
    mutants=(
        family(
            "gradient",
            _solve,
            (TRANSPOSED, "dB = A⁻¹ dX", {"turned": lambda A: A}),
            (TRANSPOSED, "dA = −X dBᵀ", {"outer": lambda dB, X: X @ dB.T}),
            (SIGN, "dA = dB Xᵀ", {"sign": 1}),
            (SWAPPED, "dA = −dB Bᵀ", {"right": lambda X, B: B}),
            (
                SUM_MISSING,
                "dA of the first right-hand side alone",
                {"outer": lambda d, X: d[:, :1] @ X[:, :1].T},
            ),
            reaches={"outer": "A", "sign": "A", "right": "A"},
        ),
    ),
    draw={"A": _regular, "B": normal},
    sizes={"n": 4, "k": 3},
    source="Giles 2008, section 2.3.1",
    batch=Batch({"B": 1}, 1),
    grows=(("B", 1),),
    functions=(Function(jac_solve_A, ("A",)), Function(jac_solve_B, ("B",))),
    hard=(
        *_pivots(B=(3, 2)),
        Hard(
            "a solution beyond the largest number, under jit",
            "It cannot be refused there: X is NaN, and dA = −dB Xᵀ too; dB = A⁻ᵀ dX does not need X.",
            lambda rng: {"A": np.diag([1e-200, 2.0]), "B": np.array([[1e200], [1.0]])},
            right=lambda point, dout: (
                np.full((2, 1), np.nan),
                np.full((2, 2), np.nan),
                dout / np.diag(point["A"])[:, None],
            ),
        ),
    ),
    op=Op(ops.solve),
    bench=Bench(
        ("n k",),
        SIZES,
        jnp.linalg.solve,
        quick=(0,),
        scale=Scale("linear algebra", "n k", (2, 8, 32, 128, 512, 2048)),
    ),
    shown=Shown(
        "Linear algebra",
        "Linear system",
        r"X = A^{-1} B",
        (r"dB = A^{-T} dX", r"dA = -dB \, X^T"),
        ("E-28",),
    ),
)


def _inverse(
    dY: Any, A: Any, *, left: Callable = lambda Y: Y.T, right: Callable = lambda Y: Y.T, sign: int = -1
) -> dict:
    Y = jnp.linalg.inv(A)
    return {"A": sign * left(Y) @ dY @ right(Y)}


INVERSE = Formula(
    inverse_fwd,
    inverse_bwd,
    reference.linear_algebra.inverse,
    definition=definitions.inverse,
    mutants=(
        family(
            "gradient",
            _inverse,
            (TRANSPOSED, "dA = −Y dY Y", {"left": lambda Y: Y, "right": lambda Y: Y}),
            (TRANSPOSED, "dA = −Yᵀ dY Y", {"right": lambda Y: Y}),
            (SIGN, "dA = Yᵀ dY Yᵀ", {"sign": 1}),
            (FACTOR, "dA = −Yᵀ dY", {"right": lambda Y: jnp.eye(len(Y))}),
        ),
    ),
    draw={"A": _regular},
    sizes={"n": 4},
    source="Giles 2008, section 2.2.3",
    batch=NO_BATCH,
    hard=_pivots(),
    op=Op(ops.inverse),
    bench=Bench(("n",), SIZES, jnp.linalg.inv, quick=(0,)),
    shown=Shown("Linear algebra", "Inverse", r"Y = A^{-1}", (r"dA = -Y^T \, dY \, Y^T",), ("E-29",)),
)


def _logdet(
    dout: Any,
    A: Any,
    *,
    turned: Callable = jnp.transpose,
    factor: Callable = lambda A: 1,
    kept: Callable = lambda g: g,
) -> dict[str, Any]:
    return {"A": kept(dout * factor(A) * turned(jnp.linalg.inv(A)))}


LOGDET = Formula(
    logdet_fwd,
    logdet_bwd,
    reference.linear_algebra.logdet,
    definition=definitions.logdet,
    mutants=(
        family(
            "gradient",
            _logdet,
            (TRANSPOSED, "dA = A⁻¹", {"turned": lambda Y: Y}),
            (FACTOR, "dA = det A · A⁻ᵀ, that of det A", {"factor": jnp.linalg.det}),
            (TERM, "the diagonal of A⁻ᵀ alone", {"kept": lambda g: jnp.diag(jnp.diag(g))}),
        ),
    ),
    draw={"A": _regular},
    sizes={"n": 4},
    source="Giles 2008, section 2.2.4",
    batch=NO_BATCH,
    hard=(
        Hard(
            "a determinant beyond the largest number",
            "Its logarithm is an ordinary number: the sum of those of the pivots.",
            lambda rng: {"A": 1e200 * np.array([[2.0, 1.0], [0.5, 3.0]])},
            {"ln of the product": None, "jnp.linalg.slogdet": lambda A: jnp.linalg.slogdet(A)[1]},
            ("ln of the product", "jnp.linalg.slogdet"),
            "a small determinant is multiplied out, and overflows before its logarithm is taken",
        ),
        *_pivots(TURNED_ROUND, " One exchange, three negative pivots: the determinant is positive."),
        Hard(
            "a negative determinant, under jit",
            "It cannot be refused there: it has no logarithm, so J is NaN. The slope is that of ln |det A|.",
            lambda rng: {"A": np.array([[-1.0, 2.0], [1.0, 3.0]])},
            {"ln of the product": None},
            right=lambda point, dout: (np.array(np.nan), dout * np.linalg.inv(point["A"]).T),
        ),
    ),
    op=Op(ops.logdet),
    bench=Bench(("n",), SIZES, lambda A: jnp.linalg.slogdet(A)[1], quick=(0,)),
    shown=Shown("Linear algebra", "Log-determinant", r"y = \ln \det A", (r"dA = dy \, A^{-T}",), ("E-30",)),
)


def _half_diagonal(F: Any) -> Any:
    return jnp.tril(F) - jnp.diag(jnp.diag(F)) / 2


def _cholesky(
    dL: Any,
    A: Any,
    *,
    phi: Callable = _half_diagonal,
    masked: Callable = jnp.tril,
    symmetric: Callable = lambda P: (P + P.T) / 2,
    first: Callable = jnp.transpose,
) -> dict[str, Any]:
    L = jnp.linalg.cholesky((A + A.T) / 2)
    inverse = jnp.linalg.inv(L)
    return {"A": symmetric(inverse.T @ phi(first(L) @ masked(dL)) @ inverse)}  # fmt: skip


CHOLESKY = Formula(
    cholesky_fwd,
    cholesky_bwd,
    reference.linear_algebra.cholesky,
    definition=definitions.cholesky,
    mutants=(
        family(
            "gradient",
            _cholesky,
            (TERM, "Φ is missing", {"phi": lambda F: F}),
            (FACTOR, "Φ without the half of the diagonal", {"phi": jnp.tril}),
            (
                "upper triangle not ignored",
                "Lᵀ dL not masked by tril",
                {"phi": lambda F: F - jnp.diag(jnp.diag(F)) / 2},
            ),
            (TERM, "the diagonal of dL alone", {"masked": lambda dL: jnp.diag(jnp.diag(dL))}),
            (TERM, "dA = P, not symmetric", {"symmetric": lambda P: P}),
            (FACTOR, "dA = P + Pᵀ", {"symmetric": lambda P: P + P.T}),
            (TRANSPOSED, "Φ(L dL)", {"first": lambda L: L}),
        ),
    ),
    draw={"A": _regular},
    sizes={"n": 4},
    source="Murray 2016, equations 8 to 10",
    batch=NO_BATCH,
    hard=(
        Hard(
            "entries near the largest number",
            "Their sum overflows, (A + Aᵀ)/2 does not.",
            lambda rng: {"A": 2.0**1023 * np.array([[1.0, 0.25], [0.5, 1.5]])},
            {"(A + Aᵀ)/2": None},
            ("(A + Aᵀ)/2",),
            "A + Aᵀ is infinite",
        ),
    ),
    op=Op(ops.cholesky),
    bench=Bench(("n",), SIZES, lambda A: jnp.linalg.cholesky((A + A.T) / 2), quick=(0,)),
    shown=Shown(
        "Linear algebra",
        "Cholesky factor",
        r"L L^T = \frac{1}{2} (A + A^T)",
        (r"P = L^{-T} \, \Phi(L^T dL) \, L^{-1}", r"dA = \frac{1}{2} (P + P^T)"),
        ("E-31",),
    ),
)
ENTRIES = (SOLVE, INVERSE, LOGDET, CHOLESKY)
