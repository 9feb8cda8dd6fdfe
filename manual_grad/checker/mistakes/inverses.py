"""Mistakes in linear systems and inverses: A instead of Aᵀ, a missing inverse, the scalar rule.

A step solves A X = B. Given the cotangent D of X, B gets Λ = A⁻ᵀ D and A gets −Λ Xᵀ; for B = I, where X is
the inverse, A gets −Xᵀ D Xᵀ. With a wrong Λ, both get the right step's cotangents for Aᵀ Λ in place of D.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import Mistake, said_of, stop
from manual_grad.checker.tape import Passing, Tape, pull_of

SOLVING = ("custom_linear_solve", "triangular_solve")


def inverses_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """A linear system's adjoint solved with A instead of Aᵀ, or not solved; an inverse by the scalar rule."""
    for at, step in enumerate(tape.steps):
        system = _system(tape, at) if step.name in SOLVING else None
        if system is None:
            continue
        A, X, _ = system
        edges = [edge for edge in tape.edges() if edge[0] == at]
        inverse = X.shape == A.shape and np.allclose(A @ X, np.eye(len(A)))
        into_A = [edge for edge in edges if step.ins[edge[1]] == step.ins[0]]
        for said, product in (INVERSES if inverse else PRODUCTS).items():
            change = partial(_with_product, product)
            phrase = said.format(said_of(tape, e, step.ins[0]))
            yield Mistake(phrase, {**stop(*into_A), (at, 0): change}, stop(*into_A))
        for said, adjoint in ADJOINTS.items() if not inverse else ():
            change = partial(_with_adjoint, adjoint)
            phrase = said.format(said_of(tape, e, step.ins[0]))
            yield Mistake(phrase, dict.fromkeys(edges, change), stop(*edges))
            yield from (Mistake(phrase, {edge: change}, stop(edge)) for edge in edges if len(edges) > 1)


def _system(tape: Tape, at: int) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """A and X of a step that solves A X = B, and whether the columns of X are stored as rows; else None."""
    step = tape.steps[at]
    A, B, X = (np.asarray(tape.values[slot]) for slot in (step.ins[0], step.ins[-1], step.outs[0]))
    if A.ndim != 2 or len(A) != A.shape[1] or X.shape != B.shape or X.ndim not in (1, 2):
        return None
    for rows in (False, True):
        x, b = (np.atleast_2d(v).T if rows else v for v in (X, B))
        for matrix in (A, A.T) if step.name == "triangular_solve" else (A,):
            if len(x) == len(A) and np.allclose(matrix @ x, b):
                return matrix, x, rows
    return None


Matrix = np.ndarray
TRANSPOSED = "transposed: {0} is used for its transpose in the system that is solved in the backward pass"
# Wrong versions of Λ = A⁻ᵀ D, given A and D.
ADJOINTS: dict[str, Callable[[Matrix, Matrix], Matrix]] = {
    TRANSPOSED: np.linalg.solve,
    "an inverse is missing: the system with the transpose of {0} is not solved in the backward pass": (
        lambda A, D: D
    ),
    "multiplied by the transpose of {0} in the backward pass, where the system is to be solved": (
        lambda A, D: A.T @ D
    ),
    "multiplied by {0} in the backward pass, where the system with its transpose is to be solved": (
        lambda A, D: A @ D
    ),
}
# Wrong versions of −Λ Xᵀ, given A, X and D.
PRODUCTS: dict[str, Callable[[Matrix, Matrix, Matrix], Matrix]] = {
    "transposed: the gradient of {0} from the system that is solved": (
        lambda A, X, D: -X @ np.linalg.solve(A.T, D).T
    ),
    "an inverse is missing: the right-hand side is used for the solution in the gradient of {0}": (
        lambda A, X, D: -np.linalg.solve(A.T, D) @ (A @ X).T
    ),
}
WRONG_INVERSE = "transposed: the inverse of {0} is used for its transpose in the backward pass"
SCALAR_RULE = "the scalar rule −1/a² where the matrix {0} is inverted"
# Wrong versions of −Xᵀ D Xᵀ if X is the inverse of A.
INVERSES: dict[str, Callable[[Matrix, Matrix, Matrix], Matrix]] = {
    WRONG_INVERSE: lambda A, X, D: -X @ D @ X,
    f"{WRONG_INVERSE}, on the left": lambda A, X, D: -X @ D @ X.T,
    f"{WRONG_INVERSE}, on the right": lambda A, X, D: -X.T @ D @ X,
    "transposed: the gradient of {0} from its inverse": lambda A, X, D: -X @ D.T @ X,
    "one of two inverses of {0} is missing in the backward pass, the right one": lambda A, X, D: -X.T @ D,
    "one of two inverses of {0} is missing in the backward pass, the left one": lambda A, X, D: -D @ X.T,
    f"{SCALAR_RULE}: both inverses on the right of the gradient": lambda A, X, D: -D @ X.T @ X.T,
    f"{SCALAR_RULE}: both inverses on the left of the gradient": lambda A, X, D: -X.T @ X.T @ D,
    f"{SCALAR_RULE}: both inverses on the right, not transposed": lambda A, X, D: -D @ X @ X,
    f"{SCALAR_RULE}: both inverses on the left, not transposed": lambda A, X, D: -X @ X @ D,
    f"{SCALAR_RULE}: entry by entry, −D/A²": lambda A, X, D: -D / A**2,
    f"{SCALAR_RULE}: entry by entry, with the inverse": lambda A, X, D: -D * X**2,
}


def _given(p: Passing) -> tuple[Matrix, Matrix, Matrix, bool]:
    """A, X and D of a step, and whether the columns of the last two are stored as rows."""
    system = _system(p.tape, p.edge[0])
    if system is None:
        raise ValueError
    A, X, rows = system
    D = np.atleast_2d(p.cotangent).T if rows or p.cotangent.ndim == 1 else p.cotangent
    return A, X, D, rows


def _with_adjoint(adjoint: Callable, p: Passing) -> Matrix:
    A, _, D, rows = _given(p)
    d = A.T @ adjoint(A, D)
    return pull_of(p.tape, p.edge[0], [(d.T if rows else d).reshape(p.cotangent.shape)])[p.edge[1]]


def _with_product(product: Callable, p: Passing) -> Matrix:
    A, X, D, _ = _given(p)
    return product(A, X.reshape(D.shape), D)
