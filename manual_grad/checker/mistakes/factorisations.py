"""Mistakes in the gradient of matrix factorisations: Cholesky's Φ, 1/(λi − λj), a transpose, symmetry.

For A = L Lᵀ with the cotangent D of L, A gets the symmetric part of L⁻ᵀ Φ(Lᵀ D) L⁻¹, where Φ takes the lower
triangle and half of the diagonal. For A = V Λ Vᵀ it gets V (diag(dλ) + F ∘ (Vᵀ dV)) Vᵀ with
F_ij = 1/(λj − λi), i ≠ j.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.mistakes.mistake import Mistake, left_out, made_by, nothing, said_of, users_of
from manual_grad.checker.tape import Changes, Passing, Slot, Tape, pull_of

Matrix = np.ndarray
TRIANGULAR: dict[str, Callable[[Matrix], Matrix]] = {
    "tril for Φ (the diagonal is not halved)": np.tril,
    "Φ is left out (the lower triangle, half of its diagonal)": lambda P: P,
    "half of the whole for Φ (the upper triangle is not zero)": lambda P: P / 2,
    "Φ without its diagonal": lambda P: np.tril(P, -1),
    "the strict triangle whole and a full diagonal halved twice for Φ": lambda P: (
        np.tril(P) - 0.75 * np.diag(np.diag(P))
    ),
    "the upper triangle for the lower one in Φ": lambda P: np.triu(P) - 0.5 * np.diag(np.diag(P)),
    "tril halved for Φ (all of it, not only its diagonal)": lambda P: np.tril(P) / 2,
}
SIDES: dict[str, Callable[[Matrix, Matrix], Matrix]] = {
    "": lambda inv, P: inv.T @ P @ inv,
    "L⁻¹ for L⁻ᵀ on the left": lambda inv, P: inv @ P @ inv,
    "L⁻ᵀ for L⁻¹ on the right": lambda inv, P: inv.T @ P @ inv.T,
    "L⁻¹ Φ L⁻ᵀ for L⁻ᵀ Φ L⁻¹": lambda inv, P: inv @ P @ inv.T,
    "L⁻¹ on the right is missing": lambda inv, P: inv.T @ P,
    "L⁻ᵀ on the left is missing": lambda inv, P: P @ inv,
}
SYMMETRY: dict[str, Callable[[Matrix], Matrix]] = {
    "": lambda G: (G + G.T) / 2,
    "not made symmetric (half of it and of its transpose)": lambda G: G,
    "the half is missing in the symmetric part": lambda G: G + G.T,
    "the lower triangle doubled for the symmetric part": lambda G: np.tril(G + G.T) - np.diag(np.diag(G)),
}


def factorisations_mistaken(tape: Tape, e: Evidence) -> Iterator[Mistake]:
    """Another triangle, another F, a transpose on the wrong side, no symmetrisation."""
    for at, step in enumerate(tape.steps):
        if step.name not in ("cholesky", "eigh") or step.ins[0] not in tape.active:
            continue
        if len(tape.shape(step.ins[0])) != 2:
            continue
        around = _symmetrised(tape, step.ins[0])
        name = said_of(tape, e, around[0] if around else step.ins[0])
        if step.name == "cholesky":
            yield from _gram(tape, e, at, around)
        found = _of_cholesky(name) if step.name == "cholesky" else _of_eigenvalues(name)
        for phrase, back in found:
            yield Mistake(phrase, {(at, 0): back})
            if around:
                yield Mistake(f"{phrase}, and not made symmetric" if "symmetric" not in phrase else phrase,
                              {(at, 0): back, **around[1]})  # fmt: skip


def _gram(tape: Tape, e: Evidence, at: int, around: tuple[Slot, Changes] | None) -> Iterator[Mistake]:
    """For A = B Bᵀ and more, where A's gradient S is not symmetric: 2 S B instead of (S + Sᵀ) B."""
    made = made_by(tape)
    slot = around[0] if around else tape.steps[at].ins[0]
    while slot in made and tape.steps[made[slot]].name in ("add", "mul", "div"):
        varied = [s for s in tape.steps[made[slot]].ins if s in tape.active]
        if len(varied) != 1:
            return
        slot = varied[0]
    product = tape.steps[made[slot]] if slot in made else None
    if product is None or product.name != "dot_general":
        return
    x, y = (np.asarray(tape.values[s]) for s in product.ins)
    if x.ndim != 2 or not (np.array_equal(x, y) or np.array_equal(x, y.T)):
        return
    half = lambda P: np.tril(P) - np.diag(np.diag(P)) / 2  # noqa: E731
    unsymmetric = partial(_cholesky_back, half, SIDES[""], lambda G: G)
    B = said_of(tape, e, product.ins[0])
    for one in (0, 1):
        yield Mistake(
            f"Cholesky factorisation: not made symmetric: 2 S {B} is used for (S + Sᵀ) {B}, where S is the "
            "gradient of the matrix that is factorised",
            {
                **(around[1] if around else {}),
                (at, 0): unsymmetric,
                (made[slot], one): lambda p: 2 * p.right,
                (made[slot], 1 - one): nothing,
            },
        )


def _symmetrised(tape: Tape, slot: Slot) -> tuple[Slot, Changes] | None:
    """For (A + Aᵀ)/2, or twice that, the matrix A, and the changes by which A gets a given cotangent."""
    found: tuple[Slot, Changes] | None = None
    while (once := _symmetrised_once(tape, slot)) is not None:
        slot = once[0]
        found = slot, {**(found[1] if found else {}), **once[1]}
    return found


def _symmetrised_once(tape: Tape, slot: Slot) -> tuple[Slot, Changes] | None:
    made, users = made_by(tape), users_of(tape)
    halved: Changes = {}
    at = made.get(slot)
    if at is not None and tape.steps[at].name in ("div", "mul"):
        i = next((i for i, s in enumerate(tape.steps[at].ins) if s in tape.active), 0)
        halved, at = {(at, i): left_out}, made.get(tape.steps[at].ins[i])
    if at is None or tape.steps[at].name != "add":
        return None
    for i, turned in enumerate(tape.steps[at].ins):
        of = made.get(turned)
        if of is not None and tape.steps[of].name == "transpose":
            whole = tape.steps[of].ins[0]
            if whole == tape.steps[at].ins[1 - i] and whole in users:
                return whole, {**halved, (at, i): nothing}
    return None


def _of_cholesky(name: str) -> Iterator[tuple[str, Callable[[Passing], Matrix]]]:
    of = f"Cholesky factorisation of {name}"
    half = lambda P: np.tril(P) - np.diag(np.diag(P)) / 2  # noqa: E731
    for said, phi in TRIANGULAR.items():
        yield f"{of}: {said}", partial(_cholesky_back, phi, SIDES[""], SYMMETRY[""])
        for more, symmetric in list(SYMMETRY.items())[1:]:
            yield f"{of}: {said}, and {more}", partial(_cholesky_back, phi, SIDES[""], symmetric)
    for said, sides in list(SIDES.items())[1:]:
        for symmetric in SYMMETRY.values():
            yield f"{of}: transposed or missing, {said}", partial(_cholesky_back, half, sides, symmetric)
    for said, symmetric in list(SYMMETRY.items())[1:]:
        yield f"{of}: {said}", partial(_cholesky_back, half, SIDES[""], symmetric)


def _cholesky_back(phi: Callable, sides: Callable, symmetric: Callable, p: Passing) -> Matrix:
    L = np.tril(np.asarray(p.result))
    return symmetric(sides(np.linalg.inv(L), phi(L.T @ np.tril(p.cotangent))))


def _apart(w: Matrix) -> Matrix:
    """λj − λi, and 1 on the diagonal."""
    return w[None] - w[:, None] + np.eye(len(w))


OFF: dict[str, Callable[[Matrix], Matrix]] = {
    "": lambda w: (1 - np.eye(len(w))) / _apart(w),
    "the factor 1/(λj − λi) is left out": lambda w: np.ones((len(w), len(w))),
    "the factor 1/(λj − λi) is left out, off the diagonal": lambda w: 1 - np.eye(len(w)),
    "sign flipped: 1/(λi − λj) for 1/(λj − λi)": lambda w: (np.eye(len(w)) - 1) / _apart(w),
    "λj − λi for 1/(λj − λi)": lambda w: w[None] - w[:, None],
    "1/(λj − λi) is squared": lambda w: (1 - np.eye(len(w))) / _apart(w) ** 2,
    "1/|λj − λi| for 1/(λj − λi)": lambda w: (1 - np.eye(len(w))) / np.abs(_apart(w)),
    "the diagonal is not left out: 1 for 0 where i = j in 1/(λj − λi)": lambda w: 1 / _apart(w),
    "the vectors are treated as constants, F ∘ (Vᵀ dV) is missing": lambda w: np.zeros((len(w), len(w))),
    "1/(λj² − λi²) for 1/(λj − λi), as of singular values": (
        lambda w: (1 - np.eye(len(w))) / (w[None] ** 2 - w[:, None] ** 2 + np.eye(len(w)))
    ),
}  # fmt: skip
BETWEEN: dict[str, Callable[[Matrix, Matrix], Matrix]] = {
    "": lambda V, M: V @ M @ V.T,
    "transposed: Vᵀ M V for V M Vᵀ": lambda V, M: V.T @ M @ V,
    "V M for V M Vᵀ (the right factor is missing)": lambda V, M: V @ M,
    "M Vᵀ for V M Vᵀ (the left factor is missing)": lambda V, M: M @ V.T,
    "M for V M Vᵀ (both factors are missing)": lambda V, M: M,
}


def _of_eigenvalues(name: str) -> Iterator[tuple[str, Callable[[Passing], Matrix]]]:
    of = f"eigenvalues and -vectors of {name}"
    for said, off in list(OFF.items())[1:]:
        for symmetric in (SYMMETRY[""], SYMMETRY[list(SYMMETRY)[1]]):
            yield f"{of}: {said}", partial(_eigh_back, off, BETWEEN[""], symmetric, 1.0)
    for said, between in list(BETWEEN.items())[1:]:
        for symmetric in (SYMMETRY[""], SYMMETRY[list(SYMMETRY)[1]]):
            yield f"{of}: {said}", partial(_eigh_back, OFF[""], between, symmetric, 1.0)
    yield (
        f"{of}: the eigenvalues are treated as constants",
        partial(_eigh_back, OFF[""], BETWEEN[""], SYMMETRY[""], 0.0),
    )
    for said, symmetric in list(SYMMETRY.items())[1:]:
        yield f"{of}: {said}", partial(_eigh_back, OFF[""], BETWEEN[""], symmetric, 1.0)


def _eigh_back(off: Callable, between: Callable, symmetric: Callable, of_values: float, p: Passing) -> Matrix:
    step = p.tape.steps[p.edge[0]]
    V, w = (np.asarray(p.tape.values[slot]) for slot in step.outs)
    d = p.cotangent
    by_vectors = pull_of(p.tape, p.edge[0], [d, np.zeros_like(w)])[0]
    diagonal = np.diag(V.T @ (p.right - by_vectors) @ V)  # the cotangent of the eigenvalues
    return symmetric(between(V, of_values * np.diag(diagonal) + off(w) * (V.T @ d)))
