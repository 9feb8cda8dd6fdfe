"""The symbolic oracle: the definition, differentiated at small sizes without JAX.

The claim's inputs are drawn at tiny sizes. The formula's result in float64 is compared with the derivative of
the definition that the catalogue names for its reference: by SymPy if there are few entries, by difference
quotients in 60-digit decimal arithmetic if there are more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.answer_cache import remembered
from manual_grad.catalogue import KNOWN
from manual_grad.catalogue.draw import Draw
from manual_grad.compare import Comparison
from manual_grad.digits import MissingExtra
from manual_grad.lectures.entries import Claim
from manual_grad.sympy_process import ask_sympy, sympy_is_installed
from manual_grad.verify.problem import Check, Problem, measured, pose

DRAWS = 8  # until the answer is not all zero
NOTHING = 1e-25  # what remains of cancelling terms in many digits
FEW = 12  # up to this many input entries, SymPy takes a fraction of a second


def require_sympy() -> None:
    """Check that SymPy can be imported.

    Raises:
        MissingExtra: it is not installed.
    """
    if not sympy_is_installed():
        raise MissingExtra("the symbolic oracle needs SymPy: pip install 'manual-grad[symbolic]'")


def definition_of(claim: Claim) -> Callable | None:
    """The definition that the catalogue names for a claim's reference, or None."""
    known = KNOWN.get(claim.reference)
    return known.definition if known else None


def check_symbolically(claim: Claim, rng: np.random.Generator) -> dict[str, Comparison]:
    """Compare each formula of a claim with the derivative, or value, of its definition.

    Args:
        claim: a claim with a definition.
        rng: draws the tiny inputs.
    Returns:
        For each formula, by its name in the claim, the comparison with the largest error.
    """
    for _ in range(DRAWS):
        problem = pose_tiny(claim, rng)
        want = _truth(problem)
        if any(np.any(np.abs(leaf) > NOTHING) for leaf in want):
            break  # if all of it were 0, twice the answer would pass
    check = _against(problem, want)
    return {way: _check(problem, formula, check) for way, formula in claim.formulas.items()}


def pose_tiny(claim: Claim, rng: np.random.Generator) -> Problem:
    """The claim on inputs so small that a definition can be differentiated with respect to each entry."""
    return pose(claim, Draw(rng, jnp.dtype(jnp.float64), "tiny"))


def symbolic_check(problem: Problem) -> Check:
    """A check that compares an answer with that of the definition, which is evaluated once.

    Args:
        problem: a claim with a definition, on tiny inputs.
    """
    return _against(problem, _truth(problem))


def _against(problem: Problem, want: list[np.ndarray]) -> Check:
    wrt = problem.claim.wrt

    def check(got: tuple) -> list[Comparison]:
        names, leaves = _leaves(wrt, got)
        if len(leaves) != len(want):
            detail = f"got {len(leaves)} arrays, expected {len(want)}"
            return [Comparison(", ".join(wrt), float("inf"), detail)]
        return [
            c
            for n, (name, g, w) in enumerate(zip(names, leaves, want, strict=True))
            for c in measured(problem, g, w, name, None, partial(_leaf, n))
        ]

    return check


def _leaf(n: int, tree: Any) -> Any:
    return jax.tree.leaves(tree)[n]


def _check(problem: Problem, formula: Callable, check: Check) -> Comparison:
    try:
        return max(check(problem.answer_of(formula)), key=lambda found: found.share)
    except Exception as error:  # a broken formula may raise anything, which is a failure too
        detail = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return Comparison(", ".join(problem.claim.wrt), float("inf"), detail)


def _truth(problem: Problem) -> list[np.ndarray]:
    """The right value of each array of an answer."""
    claim = problem.claim
    definition = definition_of(claim)
    assert definition is not None
    name = definition.__name__
    point = {name: _plain(value) for name, value in problem.at.items()}
    out = jax.tree.leaves(jax.eval_shape(lambda: claim.reference(**problem.at)))
    if claim.kind == "value":
        return _cut(_asked(name, point, None), [leaf.shape for leaf in out])
    slopes = _asked(name, point, claim.wrt)
    shapes = [leaf.shape for leaf in jax.tree.leaves(problem.primals)]
    if claim.kind == "gradient":
        weights = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(problem.dout)])
        return _cut(slopes @ weights, shapes)
    parts = _cut(slopes, [(*shape, *out[0].shape) for shape in shapes])  # one part for each primal
    return [
        np.moveaxis(part, range(len(shape)), range(-len(shape), 0))
        for part, shape in zip(parts, shapes, strict=True)
    ]


def _asked(name: str, point: dict[str, Any], wrt: tuple[str, ...] | None) -> np.ndarray:
    """A definition's value or derivatives, computed by a helper process."""
    entries = sum(np.size(leaf) for leaf in jax.tree.leaves(point) if np.asarray(leaf).dtype.kind == "f")
    oracle = "symbolic" if entries <= FEW else "decimals"
    question = oracle, name, point, wrt
    return np.asarray(remembered(question, lambda: ask_sympy(*question)))


def _cut(entries: np.ndarray, shapes: list) -> list[np.ndarray]:
    """Cut a vector of all entries into arrays of these shapes."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(entries.ravel(), ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _leaves(wrt: tuple[str, ...], got: tuple) -> tuple[list[str], list]:
    found = jax.tree_util.tree_leaves_with_path(got)
    named = wrt if len(wrt) == len(got) else ("",) * len(got)
    names = [named[path[0].idx] + jax.tree_util.keystr(path[1:]) for path, _ in found]
    return names, [leaf for _, leaf in found]


def _plain(value: Any) -> Any:
    """JAX arrays converted to NumPy; settings unchanged."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, value)
