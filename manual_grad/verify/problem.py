"""A claim with its inputs, and the questions that the oracles answer about it.

The truth is computed in float64 from exactly the numbers that the formula is given, whatever their dtype.
"""

import functools
import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.border import describe
from manual_grad.budget import MARGIN, budgets, rounding_in_float64
from manual_grad.catalogue.draw import Draw
from manual_grad.compare import FLOAT64, Comparison, compare, share_of
from manual_grad.compiling import Call, quickly, split_settings, together
from manual_grad.lectures.entries import Claim
from manual_grad_reference import oracles as oracles_
from manual_grad_reference.oracles.rounding import NoBudgetError

PROJECTED_ABOVE = (
    2048  # above this many entries, forward mode computes random projections instead of every entry
)
DIRECTIONS = 4
NEAR = 1e-6  # rounding in float64 never adds more than this to a sum here

Check = Callable[[tuple], list[Comparison]]


@dataclass(frozen=True)
class Problem:
    """A claim at one point.

    Attributes:
        claim: the claim.
        dtype: the floating-point dtype of the formulas.
        inputs: the formulas' arguments.
        at: the reference's arguments, in float64.
        dout: the random cotangent of the reference's output, in ``dtype``; None unless it takes one.
    """

    claim: Claim
    dtype: Any
    inputs: dict[str, Any]
    at: dict[str, Any]
    dout: Any

    @functools.cached_property
    def allowed(self) -> tuple | None:
        """The absolute error allowed in each entry of an answer; None in float64."""
        return None if self.dtype == jnp.float64 else _result(together([self.budget])[0])

    @property
    def budget(self) -> Call:
        """The call that computes :attr:`allowed`."""

        def allowed(dout: Any, **inputs: Any) -> tuple:
            arrays, settings = split_settings(inputs)
            return budgets(partial(_truth, self.claim, settings=settings), dout, arrays, dtype=self.dtype)[1]

        inputs = jax.tree.map(_float64, self.inputs)
        return Call(
            allowed, (self.cotangent,), inputs, in_numpy=True, question=self.question_of("budget", inputs)
        )

    @property
    def cotangent(self) -> Any:
        """``dout`` in float64."""
        return jax.tree.map(_float64, self.dout)

    @functools.cached_property
    def least(self) -> tuple | None:
        """The rounding error in float64 of each entry, which dominates where the terms of a sum cancel.

        None if there is a budget already, or if the reference uses an operation without a rounding rule.
        """
        if self.dtype != jnp.float64:
            return None

        def least(dout: Any, **inputs: Any) -> tuple:
            arrays, settings = split_settings(inputs)
            return rounding_in_float64(partial(_truth, self.claim, settings=settings), dout, arrays)

        question = self.question_of("rounding", self.inputs)
        (found,) = together([Call(least, (self.dout,), self.inputs, in_numpy=True, question=question)])
        return None if isinstance(found, NoBudgetError) else _result(found)

    @functools.cached_property
    def terms(self) -> tuple | None:
        """The approximate size of the terms summed in each entry of an answer; None if unknown."""
        found = self.least if self.allowed is None else self.allowed
        if found is None:
            return None
        return jax.tree.map(lambda leaf: leaf / (MARGIN * float(jnp.finfo(self.dtype).eps) / 2), found)

    def question_of(self, oracle: str, inputs: Any) -> Any:
        """The question, if the reference takes the formula's inputs; what makes others may use a formula."""
        return None if self.claim.at else self.question(oracle, inputs)

    @property
    def allowed_leaves(self) -> list:
        """:attr:`allowed`, array by array."""
        leaves = jax.tree.leaves(self.primals)
        return [None for _ in leaves] if self.allowed is None else jax.tree.leaves(self.allowed)

    @property
    def primals(self) -> tuple:
        """The arguments with respect to which the reference is differentiated."""
        return tuple(self.at[name] for name in self.claim.wrt)

    def forward(self, *primals: Any) -> Any:
        """The reference as a function of :attr:`primals`."""
        return forward(self.claim, self.at)(*primals)

    def asks(self, oracle: Callable, *args: Any) -> Call:
        """A call of ``oracle(fn, primals, *args)``, with every array an argument of the compiled program."""

        def asked(*args: Any, **at: Any) -> Any:
            return oracle(forward(self.claim, at), tuple(at[name] for name in self.claim.wrt), *args)

        return Call(asked, args, self.at, in_numpy=True, question=self.question(oracle, args))

    def question(self, oracle: Any, about: Any = ()) -> Any:
        """All that an oracle's answer depends on: see :func:`manual_grad.answer_cache.remembered`."""
        claim = self.claim
        point = claim.reference, claim.kind, claim.wrt, self.at, self.dout, str(self.dtype)
        return oracle, about, point, jax.default_backend()

    def calls(self, formula: Callable) -> Call:
        """A call of a formula; :func:`in_order` has yet to put its result in order."""
        return Call(formula, () if self.dout is None else (self.dout,), self.inputs)

    def described(self) -> dict[str, str]:
        """Name → dtype and shape of each input."""
        return {
            name + jax.tree_util.keystr(path): describe(leaf)
            for name, value in self.inputs.items()
            for path, leaf in jax.tree_util.tree_leaves_with_path(value)
        }

    def answer_of(self, formula: Callable) -> tuple:
        """The formula's result, in the order of ``wrt``, computed in NumPy where that is quicker."""
        call = replace(self.calls(formula), in_numpy=True)
        return in_order(self.claim.wrt, _result(together([call])[0]))


def forward(claim: Claim, at: dict[str, Any]) -> Callable:
    """The reference at a point, as a function of the arguments it is differentiated with respect to."""
    return lambda *primals: claim.reference(**{**at, **dict(zip(claim.wrt, primals, strict=True))})


def _result(got: Any) -> Any:
    if isinstance(got, Exception):
        raise got
    return got


def in_order(wrt: tuple[str, ...], got: Any) -> tuple:
    """A formula's result, rearranged in the order of ``wrt``."""
    if isinstance(got, dict) and set(wrt) <= set(got):
        return tuple(got[name] for name in wrt)
    return got if isinstance(got, tuple) and len(got) == len(wrt) else (got,)


def answer_in_order(claim: Claim, formula: Callable, dout: Any, inputs: dict[str, Any]) -> tuple:
    """Call a formula and arrange its result in the order of ``wrt``; ``dout`` is None unless it takes one."""
    return in_order(claim.wrt, formula(*(() if dout is None else (dout,)), **inputs))


def pose(claim: Claim, draw: Draw) -> Problem:
    """Draw a claim's inputs, and a random cotangent if it needs one."""
    inputs = claim.inputs(draw)
    exact = jax.tree.map(_float64, inputs)
    problem = Problem(claim, draw.dtype, inputs, _moved(claim.at, exact) if claim.at else exact, None)
    if claim.kind != "gradient":
        return problem
    out = jax.eval_shape(problem.forward, *problem.primals)
    return Problem(claim, problem.dtype, inputs, problem.at, draw.like(out))


def _moved(at: Callable, inputs: dict[str, Any]) -> dict[str, Any]:
    """The reference's arguments, computed from the formulas' in NumPy; a mode or a number stays as it is."""
    arrays, settings = split_settings(inputs)
    found: list = []

    def traced(arrays: dict[str, Any]) -> dict[int, Any]:
        leaves, tree = jax.tree.flatten(at(**arrays, **settings))
        made = {k: leaf for k, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}
        found[:] = [tree, [None if k in made else leaf for k, leaf in enumerate(leaves)]]
        return made

    made = quickly(traced)(arrays)
    tree, others = found
    if any(map(callable, others)):  # a function of the inputs, which must not be traced ones
        return at(**inputs)
    leaves = [jax.device_put(made[k]) if k in made else leaf for k, leaf in enumerate(others)]
    return jax.tree.unflatten(tree, leaves)


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
        return oracles_.jacobian_reverse(problem.forward, problem.primals)
    return oracles_.reverse(problem.forward, problem.primals, dout)


@dataclass(frozen=True)
class Question:
    """A call to evaluate, and a function that turns its result into checks: name of the oracle → check."""

    call: Call
    checks: Callable[[Any], dict[str, Check]]


def oracle_questions(
    problem: Problem, draw: Draw, oracles: Collection[str] = ("value", "reverse", "forward")
) -> list[Question]:
    """The questions for those of the wanted oracles that apply to the claim."""
    claim = problem.claim
    if claim.kind == "value":
        question = problem.question("value")
        asked = {"value": Call(claim.reference, (), problem.at, in_numpy=True, question=question)}
    elif claim.kind == "jacobian":
        asked = {
            "reverse": problem.asks(oracles_.jacobian_reverse),
            "forward": problem.asks(oracles_.jacobian_forward),
        }
    else:
        asked = {"reverse": problem.asks(oracles_.reverse, problem.cotangent)}
        if not _is_large(problem):
            asked["forward"] = problem.asks(oracles_.forward, problem.cotangent)
    questions = [_question(problem, name, call) for name, call in asked.items() if name in oracles]
    if claim.kind == "gradient" and _is_large(problem) and "forward" in oracles:
        questions.append(_projected(problem, draw))
    if problem.dtype != jnp.float64:
        questions.append(Question(problem.budget, partial(_remember, problem)))
    return questions


def _is_large(problem: Problem) -> bool:
    return sum(leaf.size for leaf in jax.tree.leaves(problem.primals)) > PROJECTED_ABOVE


def _question(problem: Problem, name: str, call: Call) -> Question:
    value = problem.claim.kind == "value"
    return Question(call, lambda got: {name: _leaf_by_leaf(problem, (got,) if value else got)})


def _remember(problem: Problem, allowed: tuple) -> dict[str, Check]:
    vars(problem)["allowed"] = allowed  # as the cached property does
    return {}


def oracle_checks(problem: Problem, draw: Draw) -> dict[str, Check]:
    """Evaluate every applicable oracle once: name → a check that compares an answer with it."""
    return ask([oracle_questions(problem, draw)])[0]


def ask(asked: Sequence[Sequence[Question]]) -> list[dict[str, Check]]:
    """Evaluate the questions of several problems in one program; returns the checks of each problem."""
    answers = iter(together([question.call for questions in asked for question in questions]))
    return [
        {name: check for q in questions for name, check in q.checks(_result(next(answers))).items()}
        for questions in asked
    ]


def _leaf_by_leaf(problem: Problem, want: tuple) -> Check:
    """A check that compares an answer with the truth, array by array."""

    def check(got: tuple) -> list[Comparison]:
        if len(got) != len(want):
            detail = f"got {len(got)} results, expected {len(want)}"
            return [Comparison(", ".join(problem.claim.wrt), float("inf"), detail)]
        allowed = problem.allowed or [None] * len(want)
        return [
            comparison
            for n, (name, g, w, budget) in enumerate(zip(problem.claim.wrt, got, want, allowed, strict=True))
            for comparison in measured(problem, g, w, name, budget, operator.itemgetter(n))
        ]

    return check


def measured(
    problem: Problem, got: Any, want: Any, name: str, allowed: Any, part: Callable[[tuple], Any]
) -> list[Comparison]:
    """Compare part of an answer with the truth; in float64, allow for rounding where terms nearly cancel.

    Args:
        problem: the problem that was solved.
        got, want: arrays, or pytrees of them.
        name: what to call them.
        allowed: the budget; None in float64.
        part: selects this part from a whole answer.
    """
    found = compare(got, want, problem.dtype, name, allowed)
    if all(c.share <= 1 for c in found) or not _may_be_rounding(got, want) or problem.least is None:
        return found
    budget = jax.tree.map(_at_least, want, part(problem.least))
    again = compare(got, want, problem.dtype, name, budget)
    return [replace(c, error=c.share * FLOAT64) for c in again]


def _may_be_rounding(got: Any, want: Any) -> bool:
    """Whether an answer has the right structure and is so close that rounding may explain the difference."""
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=False))
    alike = str(jax.tree.structure(got)) == str(jax.tree.structure(want))
    return alike and all(
        np.shape(g) == np.shape(w) and np.max(np.abs(np.subtract(g, w)), initial=0.0) < NEAR for g, w in pairs
    )


def _at_least(want: Any, least: Any) -> np.ndarray:
    """1e-12 of the largest entry, or the rounding error of an entry where that is larger."""
    return np.maximum(FLOAT64 * np.max(np.abs(want), initial=0.0), least)


def _projected(problem: Problem, draw: Draw) -> Question:
    """A check by forward mode along random directions: ⟨g, v⟩ is compared with ⟨dout, J v⟩, array by array.

    For Gaussian v the difference is Gaussian with standard deviation ‖g − gradient‖, so divided by the norm
    of the gradient it estimates the relative error in the 2-norm.
    """
    paths = jax.tree_util.tree_leaves_with_path(problem.primals)
    names = [problem.claim.wrt[path[0].idx] + jax.tree_util.keystr(path[1:]) for path, _ in paths]
    leaves, tree = jax.tree.flatten(problem.primals)
    drawn = [draw.rng.standard_normal((DIRECTIONS, *leaf.shape)) for leaf in leaves]
    alone = [np.zeros((len(leaves), *v.shape)) for v in drawn]  # each array moves alone; all in one program
    for i, v in enumerate(drawn):
        alone[i][i] = v
    directions = jax.tree.unflatten(tree, [v.reshape(-1, *v.shape[2:]) for v in alone])

    def check(got: tuple, want: np.ndarray) -> list[Comparison]:
        if str(jax.tree.structure(got)) != str(tree):
            detail = f"got the structure {jax.tree.structure(got)}, expected {tree}"
            return [Comparison(", ".join(problem.claim.wrt), float("inf"), detail)]
        return [
            _along_and_again(problem, n, name, np.asarray(g, np.float64), v, w, budget)
            for n, (name, g, v, w, budget) in enumerate(
                zip(names, jax.tree.leaves(got), drawn, want, problem.allowed_leaves, strict=True)
            )
        ]

    call = problem.asks(oracles_.forward_projections, problem.cotangent, directions)
    return Question(
        call, lambda got: {"forward": partial(check, want=np.reshape(got, (len(leaves), DIRECTIONS)))}
    )


def _along_and_again(
    problem: Problem,
    n: int,
    name: str,
    got: np.ndarray,
    directions: np.ndarray,
    want: np.ndarray,
    budget: Any,
) -> Comparison:
    """The counterpart of :func:`measured` for the n-th array along random directions."""
    found = _along(name, got, directions, want, budget)
    near = found.share > 1 and np.max(np.abs(got), initial=0.0) < NEAR and np.max(np.abs(want)) < NEAR
    if budget is not None or not near or problem.least is None:
        return found
    again = _along(name, got, directions, want, jax.tree.leaves(problem.least)[n])
    return replace(again, error=again.share * FLOAT64) if again.share < found.share else found


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
    """The error allowed in an array's inner product with each direction, if its entries err independently."""
    axes = tuple(range(1, directions.ndim))
    return np.sqrt(np.sum((directions * np.asarray(budget)) ** 2, axis=axes))


def _float64(leaf: Any) -> Any:
    dtype = getattr(leaf, "dtype", np.dtype(int))
    if not jnp.issubdtype(dtype, jnp.floating) or dtype == jnp.float64:
        return leaf
    return jax.device_put(np.asarray(leaf, np.float64))  # in NumPy, which avoids compiling anything
