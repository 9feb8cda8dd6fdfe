"""Wrong versions (mutants) of every formula: generic ones, which any formula can have, and handwritten ones.

A generic mistake is planted in one array of the answer at a time, so that no other array gives it away. It is
left out where it would change nothing, by rules stated here that depend on the formula alone: a batch of one
sample has no sum over the batch, and a vector has no transpose; the Jacobians of softmax, of l2_normalize and
of an elementwise function of a vector are symmetric, and the Jacobian with respect to a bias, in rows, is an
identity for each sample. A handwritten line is planted only if an array of the answer depends on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad.catalogue import FORMULAS, KNOWN, NO_BATCH, Batch, Formula
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.families import MEAN_FOR_SUM, SIGN, TRANSPOSED, Family
from manual_grad.catalogue.middle import COLUMNS, MIDDLE, ROWS
from manual_grad.lectures.entries import Claim
from manual_grad.verify.problem import Problem, answer_in_order, pose

NO_MEAN, MEAN_TWICE = "1/N missing", "1/N twice"
ZERO, NO_COTANGENT, LAST_DROPPED = "zero", "cotangent ignored", "last sample dropped"
_ELEMENTWISE = {reference.mse.squared_errors, *reference.activations.ACTIVATIONS.values()}


@dataclass(frozen=True)
class Mutant:
    """A wrong version of one formula.

    Attributes:
        kind: what is wrong, in a few words, which are the same for all formulas.
        formula: the claim's name for the formula that was changed.
        function: the wrong version, called in the same way.
        says: the array that is wrong, or the wrong line.
        by_hand: whether it was written by hand, without using the formula's code.
    """

    kind: str
    formula: str
    function: Callable[..., Any]
    says: str
    by_hand: bool = False


def _of_entry(formula: Formula) -> Batch | None:
    """An entry's batch, with the hidden arrays of its network, which a claim may have in its ``wrt``."""
    batch = formula.batch
    if batch is None or "X" not in batch.axes:
        return batch
    middle = COLUMNS if batch.axes["X"] == 1 else ROWS
    return Batch({**middle, **batch.axes}, batch.out, batch.mean)


BATCHES: dict[Callable[..., Any], Batch] = {known.reference: known.batch for known in MIDDLE} | {
    formula.reference: batch for formula in FORMULAS.values() if (batch := _of_entry(formula))
}  # by the claim's reference; a claim not listed here has no batch


def mutants_of(claim: Claim, problem: Problem | None = None) -> list[Mutant]:
    """Every wrong version of every formula of a claim.

    Args:
        claim: from :mod:`manual_grad.lectures`.
        problem: the claim at a point, if there is one already; it determines which arrays there are.
    Returns:
        The mutants; handwritten ones stand for the first formula, as the others compute the same.
    """
    problem = problem or pose(claim, Draw(np.random.default_rng(0), jnp.dtype(jnp.float64)))
    found = [mutant for way in claim.formulas for mutant in _generic(problem, way)]
    first = next(iter(claim.formulas))
    by_hand = [mutant for f in families_of(problem) for mutant in f.mutants(claim.wrt)]
    return found + [Mutant(kind, first, function, says, by_hand=True) for kind, says, function in by_hand]


def families_of(problem: Problem) -> list[Family]:
    """The families of handwritten mutants that apply to a claim at these inputs."""
    claim = problem.claim
    known = KNOWN.get(claim.reference)
    return [f for f in (known.mutants if known else ()) if f.kind == claim.kind and f.applies(problem.inputs)]


def batch_of(problem: Problem) -> tuple[Batch, int]:
    """The axes of a claim's samples and their number, which is 1 without a batch."""
    batch = BATCHES.get(problem.claim.reference, NO_BATCH)
    if problem.claim.reference is reference.softmax.softmax and problem.inputs["logits"].ndim == 1:
        batch = NO_BATCH  # one sample, in a vector
    inside = [name for name in batch.axes if name in problem.inputs]
    return batch, problem.inputs[inside[0]].shape[batch.axes[inside[0]]] if inside else 1


def _generic(problem: Problem, way: str) -> list[Mutant]:
    claim, (batch, N) = problem.claim, batch_of(problem)
    formula = claim.formulas[way]
    made = []
    arrays = _arrays(problem)
    for position, (name, shape, summed) in enumerate(arrays):
        changes: dict[str, Callable] = {SIGN: lambda g, n: -g, ZERO: lambda g, n: 0 * g}
        if N > 1 and batch.mean:
            changes |= {NO_MEAN: lambda g, n: g * n, MEAN_TWICE: lambda g, n: g / n}
        if N > 1 and not batch.mean and claim.kind == "gradient" and summed:
            changes |= {MEAN_FOR_SUM: lambda g, n: g / n}
        if len(shape) > 1 and not _symmetric(claim, name, len(shape)):
            changes |= {TRANSPOSED: lambda g, n: g.swapaxes(-1, -2)}
        changed = {kind: partial(_changed, claim, formula, position, c) for kind, c in changes.items()}
        made += [Mutant(kind, way, function, name) for kind, function in changed.items()]
    everything = ", ".join(claim.wrt)
    if claim.kind == "gradient":
        made.append(Mutant(NO_COTANGENT, way, partial(_without_cotangent, formula), everything))
    if N > 1:
        made.append(Mutant(LAST_DROPPED, way, partial(_without_last, claim, formula, batch), everything))
    return made


def _symmetric(claim: Claim, name: str, rank: int) -> bool:
    """Whether exchanging an answer's last two axes leaves it unchanged.

    This holds for a Jacobian that is diagonal, diag(p) − p pᵀ, or an identity for each sample, for the blocks
    I − y yᵀ of l2_normalize, and for the gradient with respect to a matrix whose symmetric part alone counts.
    """
    if claim.kind == "value":
        return "jac_l2_normalize_x_blocks" in claim.formulas
    if claim.kind != "jacobian":
        return claim.kind == "gradient" and claim.reference is reference.linear_algebra.cholesky
    if claim.reference is reference.dense.dense_rows:
        return name == "b"
    return rank == 2 and (claim.reference is reference.softmax.softmax or claim.reference in _ELEMENTWISE)


def _arrays(problem: Problem) -> list[tuple[str, tuple[int, ...], bool]]:
    """Each array of an answer: its name, its shape, and whether it is a sum over samples."""
    claim, (batch, _) = problem.claim, batch_of(problem)
    out = jax.eval_shape(lambda: claim.reference(**problem.at))
    if claim.kind == "value":
        leaves = jax.tree_util.tree_leaves_with_path(out)
        return [(claim.wrt[0] + jax.tree_util.keystr(path), leaf.shape, False) for path, leaf in leaves]
    before = out.shape if claim.kind == "jacobian" else ()
    return [
        (name + jax.tree_util.keystr(path), (*before, *leaf.shape), name not in batch.axes)
        for name, value in zip(claim.wrt, problem.primals, strict=True)
        for path, leaf in jax.tree_util.tree_leaves_with_path(value)
    ]


def _changed(
    claim: Claim, formula: Callable, position: int, change: Callable, *dout: Any, **inputs: Any
) -> tuple:
    """The formula with one array of its answer changed; ``change`` is given the number of samples."""
    batch = BATCHES.get(claim.reference, NO_BATCH)
    sizes = [inputs[name].shape[axis] for name, axis in batch.axes.items() if name in inputs]
    got = answer_in_order(claim, formula, dout[0] if dout else None, inputs)
    leaves, tree = jax.tree.flatten(got)
    leaves[position] = change(leaves[position], sizes[0] if sizes else 1)
    return jax.tree.unflatten(tree, leaves)


def _without_cotangent(formula: Callable, dout: Any, **inputs: Any) -> Any:
    """The formula with a cotangent of ones."""
    return formula(jax.tree.map(lambda d: jnp.asarray(np.ones(d.shape, d.dtype)), dout), **inputs)


def _without_last(claim: Claim, formula: Callable, batch: Batch, *dout: Any, **inputs: Any) -> tuple:
    """A loop over the samples that ends one too early: the last sample is missing from the answer."""
    name, axis = next((n, a) for n, a in batch.axes.items() if n in inputs)
    N = inputs[name].shape[axis]
    share = (N - 1) / N if batch.mean else 1.0
    fewer = {n: v if v is None or n not in batch.axes else _cut(v, batch.axes[n]) for n, v in inputs.items()}
    of_out = dout[0] if dout else None
    if batch.out is not None and dout:
        of_out = batch.along_out(_cut, of_out)
    got = answer_in_order(claim, formula, of_out, fewer)
    if claim.kind == "value":
        return tuple(batch.along_out(lambda g, axis: _filled(share * g, axis), g) for g in got)
    before = _rank(claim, inputs) if claim.kind == "jacobian" else 0
    filled = []
    for wrt, answer in zip(claim.wrt, got, strict=True):
        axes = [before + batch.axes[wrt]] if wrt in batch.axes else []
        axes += [batch.out] if before and isinstance(batch.out, int) else []
        for a in axes:
            answer = jax.tree.map(partial(_filled, axis=a), answer)
        filled.append(jax.tree.map(lambda g: share * g, answer))
    return tuple(filled)


def _rank(claim: Claim, inputs: dict[str, Any]) -> int:
    """The number of axes of the reference's output."""
    at = claim.at(**inputs) if claim.at else inputs
    return len(jax.eval_shape(lambda: claim.reference(**at)).shape)


def _cut(x: Any, axis: int) -> Any:
    """All but the last entry along an axis; in NumPy where possible, which avoids compiling anything."""
    index = (slice(None),) * (axis % np.ndim(x)) + (slice(None, -1),)
    return x[index] if isinstance(x, jax.core.Tracer) else jnp.asarray(np.asarray(x)[index])


def _filled(g: Any, axis: int | None) -> Any:
    """``g`` with zeros in place of the last sample."""
    if axis is None:
        return g
    widths = [(0, int(a == axis % g.ndim)) for a in range(g.ndim)]
    return np.pad(g, widths) if isinstance(g, np.ndarray) else jnp.pad(g, widths)
