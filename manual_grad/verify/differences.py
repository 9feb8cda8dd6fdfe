"""The finite-difference oracle: checks each array along random directions, without autodiff.

Only the forward function is evaluated, in float64, and the step is chosen from its values: see
:mod:`manual_grad_reference.oracles.differences`. A discrepancy of up to ten times the estimated error passes.
If a direction crosses a kink, or its difference cannot be trusted to 1e-6, another direction is drawn that
leaves entries that are exactly 0 (ReLU's kink) unchanged; the other oracles cover those. All errors are
relative to the array or, where its terms nearly cancel, to the terms.
"""

from functools import partial
from typing import Any

import jax
import numpy as np

from manual_grad.answer_cache import remembered
from manual_grad.compare import Comparison
from manual_grad.compiling import quickly, split_settings
from manual_grad.verify.problem import NEAR, Check, Problem, allowed_along, forward
from manual_grad_reference.oracles import differences

DIRECTIONS = 2  # for each array
FINEST = 1e-8  # relative; a discrepancy below this passes
TRUSTED = 1e-6  # relative; a difference with a larger error is too inaccurate
ATTEMPTS = 4


def differences_check(problem: Problem, rng: np.random.Generator) -> Check:
    """A check that compares a gradient or Jacobian with finite differences of the reference.

    Args:
        problem: the gradient or Jacobian to check.
        rng: draws the directions and, for a Jacobian, the weights of its outputs.
    """
    weights = _weights(problem, rng)
    question = problem.question_of("differences", (problem.inputs, weights, rng.bit_generator.state))
    return partial(_check, problem, weights, remembered(question, lambda: _trusted(problem, rng, weights)))


def _values(problem: Problem, arrays: dict[str, Any], weights: Any, directions: tuple) -> tuple:
    """The reference's values along lines through the problem's point."""
    point = {**problem.at, **arrays}
    primals = tuple(point[name] for name in problem.claim.wrt)
    return differences.line_values(forward(problem.claim, point), primals, weights, directions)


def _check(problem: Problem, weights: Any, trusted: tuple[list, list], got: tuple) -> list[Comparison]:
    """Compare an answer with the differences, array by array."""
    structure = jax.tree.structure(problem.primals)
    if str(jax.tree.structure(got)) != str(structure):
        detail = f"got the structure {jax.tree.structure(got)}, expected {structure}"
        return [Comparison(", ".join(problem.claim.wrt), float("inf"), detail)]
    paths = jax.tree_util.tree_leaves_with_path(problem.primals)
    names = [problem.claim.wrt[path[0].idx] + jax.tree_util.keystr(path[1:]) for path, _ in paths]
    return [
        _along(problem, n, name, np.asarray(leaf, np.float64), weights, v, found)
        for n, (name, leaf, v, found) in enumerate(zip(names, jax.tree.leaves(got), *trusted, strict=True))
    ]


def _weights(problem: Problem, rng: np.random.Generator) -> Any:
    """The cotangent or, for a Jacobian, random weights of the outputs."""
    if problem.dout is not None:
        return problem.cotangent
    out = jax.eval_shape(problem.forward, *problem.primals)
    return jax.tree.map(lambda leaf: jax.device_put(rng.standard_normal(leaf.shape)), out)


def _trusted(problem: Problem, rng: np.random.Generator, weights: Any) -> tuple[list, list]:
    """The directions for each array and an estimate along each."""
    program = quickly(partial(_values, problem))
    arrays = split_settings(problem.at)[0]
    leaves, tree = jax.tree.flatten(problem.primals)
    directions = [rng.standard_normal((DIRECTIONS, *leaf.shape)) for leaf in leaves]
    for attempt in range(ATTEMPTS):
        alone = [np.zeros((len(leaves), *v.shape)) for v in directions]  # each array moves alone
        for i, v in enumerate(directions):
            alone[i][i] = v
        asked = jax.tree.unflatten(tree, [v.reshape(-1, *v.shape[2:]) for v in alone])
        values, size = program(arrays, weights, asked)
        found = differences.estimates(values, float(size))
        by_leaf = [found[i * DIRECTIONS : (i + 1) * DIRECTIONS] for i in range(len(leaves))]
        doubtful = [_is_doubtful(problem, i, es, weights) for i, es in enumerate(by_leaf)]
        if not any(doubtful) or attempt == ATTEMPTS - 1:
            break
        for i in (i for i, doubt in enumerate(doubtful) if doubt):
            directions[i] = rng.standard_normal(directions[i].shape) * (np.asarray(leaves[i]) != 0)
    return directions, by_leaf


def _is_doubtful(problem: Problem, n: int, found: list, weights: Any) -> bool:
    """Whether the n-th array has to be checked along other directions."""
    if any(estimate.kink for estimate in found):
        return True
    doubted = [e for e in found if e.value and 10 * e.error > TRUSTED * abs(e.value)]
    return any(10 * e.error > TRUSTED * _terms(problem, n, weights) for e in doubted)


def _terms(problem: Problem, n: int, weights: Any) -> float:
    """The norm of the terms that are summed in the n-th array; 0 where they are unknown."""
    if problem.terms is None:
        return 0.0
    return float(np.linalg.norm(_weighted(problem, jax.tree.leaves(problem.terms)[n], weights)))


def _weighted(problem: Problem, spread: Any, weights: Any) -> np.ndarray:
    """The spread of each entry; for a Jacobian, after weighting its outputs."""
    if problem.claim.kind != "jacobian":
        return np.asarray(spread)
    return np.sqrt(np.tensordot(np.asarray(weights) ** 2, np.asarray(spread) ** 2, weights.ndim))


def _along(
    problem: Problem, n: int, name: str, got: np.ndarray, weights: Any, directions: np.ndarray, found: list
) -> Comparison:
    """Compare the n-th array along its directions; relative to its terms where it would fail without that."""
    budget = problem.allowed_leaves[n]
    if problem.claim.kind == "jacobian" and got.shape[: weights.ndim] == weights.shape:
        got = np.tensordot(np.asarray(weights), got, axes=weights.ndim)
    if directions.shape[1:] != got.shape:
        detail = f"got the shape {got.shape}, expected {directions.shape[1:]}"
        return Comparison(name, float("inf"), detail)
    if budget is not None:
        budget = allowed_along(_weighted(problem, budget, weights), directions)
    along = directions.reshape(len(directions), -1) @ got.ravel()
    want = np.array([estimate.value for estimate in found])
    scale = max(np.linalg.norm(got), np.sqrt(np.mean(want**2))) or 1.0
    comparison = _compared(name, along, want, found, budget, scale)
    if comparison.share <= 1 or (budget is None and np.max(np.abs(along - want)) > NEAR):
        return comparison
    terms = _terms(problem, n, weights)
    return _compared(name, along, want, found, budget, terms) if terms > scale else comparison


def _compared(
    name: str, along: np.ndarray, want: np.ndarray, found: list, budget: Any, scale: float
) -> Comparison:
    """Compare an array's inner products with the estimated derivatives, relative to a scale."""
    errors = np.nan_to_num(np.abs(along - want) / scale, nan=np.inf)
    estimates = np.array([estimate.error for estimate in found]) / scale
    tolerances = np.maximum(FINEST, 10 * estimates)
    if budget is not None:
        tolerances += budget / scale
    worst = int(np.argmax(errors / tolerances))
    detail = f"along random direction {worst}: got {along[worst]:.9g}, expected {want[worst]:.9g}"
    if found[worst].kink:
        return Comparison(name, float("inf"), f"a kink along every direction tried; {detail}")
    if estimates[worst] * 10 > TRUSTED:
        return Comparison(name, float("inf"), f"no difference is fine enough; {detail}")
    facts = {"tolerance": float(tolerances[worst]), "estimate": float(estimates[worst])}
    return Comparison(name, float(errors[worst]), detail, float(errors[worst] / tolerances[worst]), facts)
