"""Linear systems, inverses, determinants, Cholesky factors: from d(A A⁻¹) = 0 and d(L Lᵀ) = dA.

A is factored once, in the forward pass, with pivoting; the backward pass solves with the transposed factors.
Half precision is computed in float32.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from manual_grad.border import Scalar, checked, describe, require_seen, require_shape

LARGE = 1024  # entries, from which a sum tells sooner whether all are finite


def _triangular(T: Array, B: Array, left_side: bool = True, **how: bool) -> Array:
    X: Array = lax.linalg.triangular_solve(T, B, left_side=left_side, **how)
    return X


@partial(jax.tree_util.register_dataclass, data_fields=("A", "lu", "rows"), meta_fields=())
@dataclass(frozen=True)
class LUFactors:
    """P A = L U: ``lu`` is L below the diagonal (L is 1 on it) and U elsewhere; ``rows`` is P."""

    A: Float[Array, "n n"]
    lu: Float[Array, "n n"]
    rows: Integer[Array, " n"]

    @classmethod
    def of(cls, A: Array) -> "LUFactors":
        """The factors of A, in its dtype."""
        lu, rows = _factored(A)
        return cls(A, lu.astype(A.dtype), rows)

    @property
    def wide(self) -> tuple[Array, Array]:
        """``lu`` and ``rows`` in float32 or wider; if they were rounded to half precision, factored again."""
        return (self.lu, self.rows) if self.A.dtype == _wide(self.A).dtype else _factored(self.A)

    @property
    def pivots(self) -> Array:
        """U's diagonal, whose product is ± det A."""
        lu, _ = self.wide
        found: Array = jnp.diagonal(lu)
        return found

    def solved(self, B: Array) -> Array:
        """A⁻¹ B = U⁻¹ L⁻¹ P B."""
        lu, rows = self.wide
        Y = _triangular(lu, _wide(B)[rows], lower=True, unit_diagonal=True)
        return _triangular(lu, Y, lower=False)

    def solved_transposed(self, B: Array) -> Array:
        """A⁻ᵀ B = Pᵀ L⁻ᵀ U⁻ᵀ B."""
        lu, rows = self.wide
        Y = _triangular(lu, _wide(B), lower=False, transpose_a=True)
        Y = _triangular(lu, Y, lower=True, unit_diagonal=True, transpose_a=True)
        return Y[jnp.argsort(rows)]


def _wide(A: Array) -> Array:
    return A.astype(jnp.promote_types(A.dtype, jnp.float32))


def _factored(A: Array) -> tuple[Array, Array]:
    lu, _, rows = lax.linalg.lu(_wide(A))
    return lu, rows


def _all_finite(A: Array) -> Array:
    """Whether every entry is finite; in a large array by a sum, as 0 · x is NaN for the others.

    XLA:CPU cuts the reduction of ``isfinite(A)`` of a large array into windows, which compile slowly, and its
    maximum of such an array may ignore NaN.

    >>> [bool(_all_finite(jnp.array([0.0, x]))) for x in (1.0, jnp.inf, jnp.nan)]
    [True, False, False]
    """
    found: Array = jnp.isfinite(A).all() if A.size < LARGE else (0 * A).sum() == 0
    return found


def _solution(formula: str, of: LUFactors, B: Array) -> Array:
    """A⁻¹ B; if it does not exist, an eager call raises, and the result under ``jit`` is NaN."""
    X = of.solved(B).astype(of.A.dtype)
    regular, finite = (of.pivots != 0).all(), _all_finite(X)
    require_seen(regular, f"{formula}: A is singular, expected {describe(of.A)} with an inverse")
    require_seen(finite, f"{formula}: the result is not finite, expected finite arguments and a regular A")
    return jnp.where(regular & finite, X, jnp.nan)


# ---------------------------------------------------------------- solve


@checked
def solve_fwd(
    A: Float[Array, "n n"], B: Float[Array, "n k"]
) -> tuple[Float[Array, "n k"], tuple[LUFactors, Float[Array, "n k"]]]:
    """X = A⁻¹ B, the solution of A X = B. [E-28]

    Args:
        A: (n, n).
        B: (n, k), one right-hand side per column.
    Returns:
        ``(X, res)``: X (n, k).
    Raises:
        InputError: A is singular or X is not finite (eagerly; under ``jit`` X is NaN then), or a shape or
            dtype does not match.
    Source: Giles, "Collected Matrix Derivative Results for Forward and Reverse Mode Algorithmic
        Differentiation", 2008, section 2.3.1.

    >>> solve_fwd(jnp.array([[2.0, 0.0], [0.0, 4.0]]), jnp.array([[2.0], [2.0]]))[0].tolist()
    [[1.0], [0.5]]
    """
    of = LUFactors.of(A)
    X = _solution("solve_fwd", of, B)  # [E-28]
    return X, (of, X)


@checked
def solve_bwd(
    res: tuple[LUFactors, Float[Array, "n k"]], dX: Float[Array, "n k"]
) -> tuple[Float[Array, "n n"], Float[Array, "n k"]]:
    """Pull ``dX`` back through the solution of a linear system: another system, with Aᵀ. [E-28]

        dB = A⁻ᵀ dX        dA = −dB Xᵀ

    Args:
        res: from the forward pass.
        dX: cotangent of X, (n, k).
    Returns:
        ``(dA, dB)``, (n, n) and (n, k).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dX`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> _, res = solve_fwd(jnp.array([[2.0, 0.0], [0.0, 4.0]]), jnp.array([[2.0], [2.0]]))
    >>> [d.tolist() for d in solve_bwd(res, jnp.array([[2.0], [4.0]]))]
    [[[-1.0, -0.5], [-1.0, -0.5]], [[1.0], [1.0]]]
    """
    of, X = res
    require_shape("solve_bwd", "dX", dX, X.shape)
    require_shape("solve_bwd", "res[1]", X, (len(of.A), X.shape[1]))
    dB = of.solved_transposed(dX)  # [E-28]
    dA = -dB @ _wide(X).T  # [E-28]
    return dA.astype(dX.dtype), dB.astype(dX.dtype)


@checked
def jac_solve_A(A: Float[Array, "n n"], B: Float[Array, "n k"]) -> Float[Array, "n k n n"]:
    """∂X_ij/∂A_lm = −(A⁻¹)_il X_mj: minus the Kronecker product of A⁻¹ and Xᵀ. [E-28]

    Args:
        A, B: as in :func:`solve_fwd`.
    Returns:
        (n, k, n, n).
    Raises:
        InputError: as in :func:`solve_fwd`.
    Source: as the forward pass.

    >>> jac_solve_A(jnp.array([[2.0]]), jnp.array([[4.0]])).tolist()
    [[[[-1.0]]]]
    """
    of = LUFactors.of(A)
    inverse, X = of.solved(jnp.eye(len(A), dtype=A.dtype)), _solution("jac_solve_A", of, B)
    return -jnp.einsum("il,mj->ijlm", inverse, _wide(X)).astype(A.dtype)  # [E-28]


@checked
def jac_solve_B(A: Float[Array, "n n"], B: Float[Array, "n k"]) -> Float[Array, "n k n k"]:
    """∂X_ij/∂B_lm = (A⁻¹)_il δ_jm: the Kronecker product of A⁻¹ and an identity. [E-28]

    Args:
        A, B: as in :func:`solve_fwd`.
    Returns:
        (n, k, n, k).
    Raises:
        InputError: as in :func:`solve_fwd`.
    Source: as the forward pass.

    >>> jac_solve_B(jnp.array([[2.0]]), jnp.ones((1, 2))).reshape(2, 2).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    inverse = _solution("jac_solve_B", LUFactors.of(A), jnp.eye(len(A), dtype=A.dtype))
    return jnp.einsum("il,jm->ijlm", inverse, jnp.eye(B.shape[1], dtype=A.dtype))  # [E-28]


# ---------------------------------------------------------------- inverse


@checked
def inverse_fwd(A: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """Y = A⁻¹. [E-29]

    Args:
        A: (n, n).
    Returns:
        ``(Y, res)``: Y (n, n), and the residual, which is Y.
    Raises:
        InputError: A is singular or Y is not finite (eagerly; under ``jit`` Y is NaN then), or a shape or
            dtype does not match.
    Source: Giles 2008, section 2.2.3.

    >>> inverse_fwd(jnp.array([[2.0, 0.0], [0.0, 4.0]]))[0].tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    Y = _solution("inverse_fwd", LUFactors.of(A), jnp.eye(len(A), dtype=A.dtype))  # [E-29]
    return Y, Y


@checked
def inverse_bwd(res: Float[Array, "n n"], dY: Float[Array, "n n"]) -> tuple[Float[Array, "n n"]]:
    """Pull ``dY`` back through a matrix inverse: dA = −Yᵀ dY Yᵀ. [E-29]

    Args:
        res: Y, from the forward pass.
        dY: its cotangent, (n, n).
    Returns:
        ``(dA,)``, (n, n).
    Raises:
        InputError: ``res`` or ``dY`` is not a matrix of that shape, or a dtype does not match.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> inverse_bwd(jnp.array([[0.5]]), jnp.array([[1.0]]))[0].tolist()
    [[-0.25]]
    """
    Yt = _wide(res).T
    return ((-Yt @ _wide(dY) @ Yt).astype(dY.dtype),)  # [E-29]


# ---------------------------------------------------------------- log-determinant


@checked
def logdet_fwd(A: Float[Array, "n n"]) -> tuple[Float[Array, ""], LUFactors]:
    """ln det A, for det A > 0: the sum of the logarithms of the pivots, whose product might overflow. [E-30]

    Args:
        A: (n, n), det A > 0.
    Returns:
        ``(out, res)``: out scalar.
    Raises:
        InputError: det A ≤ 0, or it is not finite (eagerly; under ``jit`` the result is NaN then), or a shape
            or dtype does not match.
    Source: Giles 2008, section 2.2.4.

    >>> round(float(logdet_fwd(jnp.array([[2.0, 0.0], [0.0, 4.0]]))[0]), 4)
    2.0794
    """
    of = LUFactors.of(A)
    exchanged = jnp.tril(of.rows[:, None] < of.rows).sum() % 2 == 1  # an odd number of row swaps
    out = jnp.log(jnp.abs(of.pivots)).sum()  # [E-30]
    negative = (of.pivots < 0).sum() % 2 == 1
    positive = (negative == exchanged) & jnp.isfinite(out)
    require_seen(
        positive, f"logdet_fwd: A has no positive determinant, expected {describe(A)} with det A > 0"
    )
    return jnp.where(positive, out, jnp.nan).astype(A.dtype), of


@checked
def logdet_bwd(res: LUFactors, dout: Scalar) -> tuple[Float[Array, "n n"]]:
    """Pull ``dout`` back through ln det A: dA = dout · A⁻ᵀ. [E-30]

    Args:
        res: from the forward pass.
        dout: cotangent of the scalar result.
    Returns:
        ``(dA,)``, (n, n).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` is not a scalar.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> logdet_bwd(logdet_fwd(jnp.array([[2.0, 0.0], [1.0, 4.0]]))[1], 8.0)[0].tolist()
    [[4.0, -1.0], [0.0, 2.0]]
    """
    A = _wide(res.A)
    dA = jnp.asarray(dout, A.dtype) * res.solved_transposed(jnp.eye(len(A), dtype=A.dtype))  # [E-30]
    return (dA.astype(res.A.dtype),)


# ---------------------------------------------------------------- Cholesky


@checked
def cholesky_fwd(A: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """The lower triangular L with L Lᵀ = (A + Aᵀ)/2. [E-31]

    Args:
        A: (n, n), its symmetric part positive definite.
    Returns:
        ``(L, res)``: L (n, n), zero above the diagonal, and the residual, which is L.
    Raises:
        InputError: (A + Aᵀ)/2 is not positive definite (eagerly; under ``jit`` L is NaN then), or a shape or
            dtype does not match.
    Source: Murray, "Differentiation of the Cholesky decomposition", 2016, equations 8 to 10.

    >>> cholesky_fwd(jnp.array([[4.0, 2.0], [2.0, 10.0]]))[0].tolist()
    [[2.0, 0.0], [1.0, 3.0]]
    """
    S = _wide(A)
    S = S + (S.T - S) / 2  # none of which overflows
    L = jnp.tril(lax.linalg.cholesky(S, symmetrize_input=False))  # [E-31]
    exists = _all_finite(L)
    require_seen(
        exists,
        f"cholesky_fwd: A is not positive definite, expected {describe(A)} with (A + Aᵀ)/2 positive definite",
    )
    L = jnp.where(exists, L, jnp.nan).astype(A.dtype)
    return L, L


@checked
def cholesky_bwd(res: Float[Array, "n n"], dL: Float[Array, "n n"]) -> tuple[Float[Array, "n n"]]:
    """Pull ``dL`` back through a Cholesky factor; Φ takes a lower triangle, with half its diagonal. [E-31]

        P = L⁻ᵀ Φ(Lᵀ dL) L⁻¹        dA = (P + Pᵀ)/2

    L is zero above the diagonal, so the entries of dL there are ignored, even NaN. dA is symmetric.

    Args:
        res: L, from the forward pass.
        dL: its cotangent, (n, n).
    Returns:
        ``(dA,)``, (n, n).
    Raises:
        InputError: ``res`` or ``dL`` is not a matrix of that shape, or a dtype does not match.
    Source: as the forward pass, equation 10; the derivation is in the book's chapter E.

    >>> cholesky_bwd(jnp.array([[2.0]]), jnp.array([[1.0]]))[0].tolist()
    [[0.25]]
    """
    L = _wide(res)
    F = jnp.tril(L.T @ jnp.tril(_wide(dL)))  # [E-31]
    F = jnp.where(jnp.eye(len(F), dtype=bool), F / 2, F)  # [E-31]
    P = _triangular(L, F, lower=True, transpose_a=True)  # [E-31]
    P = _triangular(L, P, left_side=False, lower=True)  # [E-31]
    return ((0.5 * (P + P.T)).astype(dL.dtype),)  # [E-31]
