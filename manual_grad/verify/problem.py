"""A claim with its inputs drawn, and the oracles asked about it.

The truth is computed in float64 from the very numbers that the formula is given, whatever their dtype.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.border import describe
from manual_grad.budget import budgets
from manual_grad.catalogue.draw import Draw
from manual_grad.compare import FLOAT64, Comparison, compare, share_of
from manual_grad.compiling import compiled, split_settings
from manual_grad.lectures.entries import Claim
from manual_grad_reference import oracles

PROJECTED_ABOVE = (
    2048  # entries above which forward mode is asked for random projections, not for every entry
)
DIRECTIONS = 4

Check = Callable[[tuple], list[Comparison]]


@dataclass(frozen=True)
class Problem:
    """A claim at one point.

    Attributes:
        claim: what is claimed.
        dtype: the floating-point dtype of the formulas.
        inputs: what the formulas are given.
        at: what the reference is given, in float64.
        dout: the random cotangent of the reference's output, in ``dtype``; None unless it takes one.
    """

    claim: Claim
    dtype: Any
    inputs: dict[str, Any]
    at: dict[str, Any]
    dout: Any

    @functools.cached_property
    def allowed(self) -> tuple | None:
        """The absolute error that each entry of an answer may have; None in float64."""
        if self.dtype == jnp.float64:
            return None
        arrays, settings = split_settings(self.inputs)

        truth = partial(_truth, self.claim, settings=settings)

        def allowed(dout: Any, arrays: dict[str, Any]) -> tuple:
            return budgets(truth, dout, arrays, dtype=self.dtype)[1]

        return compiled(allowed, *jax.tree.map(_float64, (self.dout, arrays)))

    @property
    def allowed_leaves(self) -> list:
        """The same, array by array."""
        leaves = jax.tree.leaves(self.primals)
        return [None for _ in leaves] if self.allowed is None else jax.tree.leaves(self.allowed)

    @property
    def primals(self) -> tuple:
        """What the reference is differentiated by."""
        return tuple(self.at[name] for name in self.claim.wrt)

    def forward(self, *primals: Any) -> Any:
        """The reference as a function of what it is differentiated by."""
        return self.claim.reference(**{**self.at, **dict(zip(self.claim.wrt, primals, strict=True))})

    def described(self) -> dict[str, str]:
        """Name → dtype and shape of each input."""
        return {
            name + jax.tree_util.keystr(path): describe(leaf)
            for name, value in self.inputs.items()
            for path, leaf in jax.tree_util.tree_leaves_with_path(value)
        }

    def answer_of(self, formula: Callable, quickly: bool = False) -> tuple:
        """What the formula gives, in the order of ``wrt``."""
        dout = () if self.dout is None else (self.dout,)
        return _in_order(self.claim.wrt, compiled(formula, *dout, quickly=quickly, **self.inputs))


def _in_order(wrt: tuple[str, ...], got: Any) -> tuple:
    if isinstance(got, dict) and set(wrt) <= set(got):
        return tuple(got[name] for name in wrt)
    return got if isinstance(got, tuple) and len(got) == len(wrt) else (got,)


def answer_in_order(claim: Claim, formula: Callable, dout: Any, inputs: dict[str, Any]) -> tuple:
    """What a formula gives, in the order of ``wrt``; ``dout`` is None unless it takes one."""
    return _in_order(claim.wrt, formula(*(() if dout is None else (dout,)), **inputs))


def pose(claim: Claim, draw: Draw) -> Problem:
    """Draw a claim's inputs, and a random cotangent where it needs one."""
    inputs = claim.inputs(draw)
    exact = jax.tree.map(_float64, inputs)
    problem = Problem(claim, draw.dtype, inputs, claim.at(**exact) if claim.at else exact, None)
    if claim.kind != "gradient":
        return problem
    out = jax.eval_shape(problem.forward, *problem.primals)
    return Problem(claim, problem.dtype, inputs, problem.at, draw.like(out))


def drawn(claim: Claim, draw: Draw) -> tuple[Any, dict[str, Any]]:
    """A random cotangent, or None, and a claim's inputs."""
    problem = pose(claim, draw)
    return problem.dout, problem.inputs


def oracle_of(claim: Claim) -> Callable[[Any, dict[str, Any]], tuple]:
    """Reverse mode, or the value, as a function of the cotangent (or None) and the formula's inputs."""

    return partial(_truth, claim, settings={})


def _truth(claim: Claim, dout: Any, inputs: dict[str, Any], settings: dict[str, Any]) -> tuple:
    inputs = {**inputs, **settings}
    problem = Problem(claim, jnp.dtype(jnp.float64), inputs, claim.at(**inputs) if claim.at else inputs, dout)
    if claim.kind == "value":
        return (claim.reference(**problem.at),)
    if claim.kind == "jacobian":
        return oracles.jacobian_reverse(problem.forward, problem.primals)
    return oracles.reverse(problem.forward, problem.primals, dout)


def oracle_checks(problem: Problem, draw: Draw) -> dict[str, Check]:
    """Every oracle that fits the claim, asked once: name → what compares an answer with it."""
    claim, fn = problem.claim, problem.forward
    if claim.kind == "value":
        return {"value": _leaf_by_leaf(problem, (compiled(claim.reference, **problem.at),))}
    if claim.kind == "jacobian":
        asked = {"reverse": oracles.jacobian_reverse, "forward": oracles.jacobian_forward}
        return _ask(problem, {name: partial(oracle, fn) for name, oracle in asked.items()}, problem.primals)
    dout = jax.tree.map(_float64, problem.dout)
    asked = {"reverse": partial(oracles.reverse, fn)}
    if sum(leaf.size for leaf in jax.tree.leaves(problem.primals)) <= PROJECTED_ABOVE:
        return _ask(problem, asked | {"forward": partial(oracles.forward, fn)}, problem.primals, dout)
    return _ask(problem, asked, problem.primals, dout) | {"forward": _projected(problem, dout, draw)}


def _ask(problem: Problem, asked: dict[str, Callable], *args: Any) -> dict[str, Check]:
    """Put the same question to several oracles, in one program."""
    answers = compiled(lambda *args: {name: oracle(*args) for name, oracle in asked.items()}, *args)
    return {name: _leaf_by_leaf(problem, answer) for name, answer in answers.items()}


def _leaf_by_leaf(problem: Problem, want: tuple) -> Check:
    """Compares an answer with the truth, array by array."""

    def check(got: tuple) -> list[Comparison]:
        if len(got) != len(want):
            detail = f"got {len(got)} results, expected {len(want)}"
            return [Comparison(", ".join(problem.claim.wrt), float("inf"), detail)]
        allowed = problem.allowed or [None] * len(want)
        return [
            comparison
            for name, g, w, budget in zip(problem.claim.wrt, got, want, allowed, strict=True)
            for comparison in compare(g, w, problem.dtype, name, budget)
        ]

    return check


def _projected(problem: Problem, dout: Any, draw: Draw) -> Check:
    """Compares an answer with forward mode along random directions: ⟨g, v⟩ with ⟨dout, J v⟩, array by array.

    For Gaussian v the difference is Gaussian with the standard deviation ‖g − gradient‖, so over the norm of
    the gradient it estimates the relative error in the 2-norm.
    """
    paths = jax.tree_util.tree_leaves_with_path(problem.primals)
    names = [problem.claim.wrt[path[0].idx] + jax.tree_util.keystr(path[1:]) for path, _ in paths]
    leaves, tree = jax.tree.flatten(problem.primals)
    drawn = [draw.rng.standard_normal((DIRECTIONS, *leaf.shape)) for leaf in leaves]
    alone = [np.zeros((len(leaves), *v.shape)) for v in drawn]  # each array moves alone; all in one program
    for i, v in enumerate(drawn):
        alone[i][i] = v
    directions = jax.tree.unflatten(tree, [v.reshape(-1, *v.shape[2:]) for v in alone])
    flat = compiled(partial(oracles.forward_projections, problem.forward), problem.primals, dout, directions)
    want = np.reshape(flat, (len(leaves), DIRECTIONS))

    def check(got: tuple) -> list[Comparison]:
        if str(jax.tree.structure(got)) != str(tree):
            detail = f"got the structure {jax.tree.structure(got)}, expected {tree}"
            return [Comparison(", ".join(problem.claim.wrt), float("inf"), detail)]
        return [
            _along(name, np.asarray(g, np.float64), v, w, budget)
            for name, g, v, w, budget in zip(
                names, jax.tree.leaves(got), drawn, want, problem.allowed_leaves, strict=True
            )
        ]

    return check


def _along(name: str, got: np.ndarray, directions: np.ndarray, want: np.ndarray, budget: Any) -> Comparison:
    if directions.shape[1:] != got.shape:
        detail = f"got the shape {got.shape}, expected {directions.shape[1:]}"
        return Comparison(name, float("inf"), detail)
    along = directions.reshape(len(directions), -1) @ got.ravel()
    scale = max(np.linalg.norm(got), np.sqrt(np.mean(want**2))) or 1.0
    differences = np.nan_to_num(np.abs(along - want), nan=np.inf)
    shares = share_of(differences, FLOAT64 * scale if budget is None else allowed_along(budget, directions))
    worst = int(np.argmax(shares))
    detail = f"along random direction {worst}: got {along[worst]:.6g}, expected {want[worst]:.6g}"
    return Comparison(name, float(np.max(differences) / scale), detail, float(shares[worst]))


def allowed_along(budget: Any, directions: np.ndarray) -> np.ndarray:
    """What an array's inner product with each direction may be off by, entry errors independent."""
    axes = tuple(range(1, directions.ndim))
    return np.sqrt(np.sum((directions * np.asarray(budget)) ** 2, axis=axes))


def _float64(leaf: Any) -> Any:
    return leaf.astype(jnp.float64) if jnp.issubdtype(getattr(leaf, "dtype", int), jnp.floating) else leaf
