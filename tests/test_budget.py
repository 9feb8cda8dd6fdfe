"""Every budget is wide enough for rounding and too narrow for a mistake."""

import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.catalogue.draw import Draw
from manual_grad.compare import compare, share_of
from manual_grad.compiling import Call, split_settings, together
from manual_grad.lectures import EQUATIONS
from manual_grad.verify.equations import verify
from manual_grad.verify.mutants import LAST_DROPPED, mutants_of
from manual_grad.verify.problem import oracle_of, pose

PLANTED = {
    "zero": lambda g, N: 0 * g,
    "negated": lambda g, N: -g,
    "1/N twice": lambda g, N: g / N,
    "1/N missing": lambda g, N: g * N,
}
N = 4  # as small as any batch of the ledger: what is off by the factor of a larger one is further off
EVERY = [
    (f"{equation.tag} {number} {claim.says}".strip(), claim)
    for equation in EQUATIONS
    for number, claim in enumerate(equation.claims)
]
# One claim for each equation, a gradient's if it has one: the budget knows nothing of the formulas.
FIRST = {"gradient": 2, "jacobian": 1, "value": 0}
CLAIMS = dict(
    max(claims, key=lambda one: FIRST[one[1].kind])
    for _, claims in itertools.groupby(EVERY, key=lambda one: one[0][:4])
)
# A GPT's roundings, one after the other and taken to be independent, may add up to more in half precision
# than most of its gradients are: no budget tells there, and the widest that does is float32's.
WIDEST = {"E-32": "float32"}


def posed(name, dtype):
    """A claim's problem in a narrow dtype, the truth in float64, and what is left of it without a sample.

    The last is a list, empty where there is no batch. All is computed in one program.
    """
    claim = CLAIMS[name]
    problem = pose(claim, Draw(np.random.default_rng(zlib.crc32(name.encode())), jnp.dtype(dtype)))
    arrays, settings = split_settings(problem.inputs)
    dout, arrays = jax.tree.map(_wide, (problem.dout, arrays))
    truth = Call(
        lambda dout, arrays: oracle_of(claim)(dout, arrays | settings), (dout, arrays), in_numpy=True
    )
    dropped = [m.function for m in mutants_of(claim, problem) if m.kind == LAST_DROPPED][:1]
    given = jax.tree.map(jnp.asarray, arrays) | settings
    short = [Call(mutant, () if dout is None else (dout,), given, in_numpy=True) for mutant in dropped]
    allowed, *answers = together([problem.budget, truth, *short])
    assert not any(isinstance(answer, Exception) for answer in (allowed, *answers)), (allowed, *answers)
    vars(problem)["allowed"] = allowed  # as the cached property does
    return problem, answers[0], answers[1:]


def _wide(leaf):
    """In NumPy, so that nothing is compiled for it."""
    return np.asarray(leaf, float if jnp.issubdtype(leaf.dtype, jnp.floating) else None)


def fits(problem, truth, wrong):
    """Whether an answer, array by array, is within the budget everywhere."""
    return [
        bool(share_of(np.abs(np.asarray(g) - np.asarray(w)), np.asarray(a)).max() <= 1)
        for g, w, a in zip(*map(jax.tree.leaves, (wrong, truth, problem.allowed)), strict=True)
    ]


@pytest.mark.parametrize("name", CLAIMS)
def test_no_mistake_fits_into_the_widest_budget(name):
    """In bfloat16 where that is conclusive; array by array: one of zeros (a dead ReLU) is skipped."""
    problem, truth, dropped = posed(name, WIDEST.get(name[:4], "bfloat16"))
    counts = [np.asarray(leaf).any() for leaf in jax.tree.leaves(truth)]
    for mistake, plant in PLANTED.items():
        wrong = jax.tree.map(lambda g, plant=plant: plant(g, N), truth)
        assert not any(fit and c for fit, c in zip(fits(problem, truth, wrong), counts, strict=True)), mistake
    for wrong in dropped:
        adds = any(
            np.any(g != w) for g, w in zip(jax.tree.leaves(wrong), jax.tree.leaves(truth), strict=True)
        )
        # Where no unit of a ReLU is on, the sample adds nothing.
        assert not (adds and all(fits(problem, truth, wrong)))


@pytest.mark.parametrize("tag", WIDEST)
def test_claims_checked_in_another_dtype_would_pass_with_zero_in_bfloat16(tag):
    """If zero no longer passes, the claim should be checked in bfloat16 like every other."""
    problem, truth, _ = posed(next(name for name in CLAIMS if name.startswith(tag)), "bfloat16")
    assert any(fits(problem, truth, jax.tree.map(np.zeros_like, truth)))


@pytest.mark.parametrize("tag", ["A-04", "A-10", "B-13", "C-03", "D-06"])
def test_narrower_dtypes_have_narrower_budgets(tag):
    name = next(name for name in CLAIMS if name.startswith(tag))
    problems = {dtype: posed(name, dtype)[0] for dtype in ("bfloat16", "float16", "float32")}
    sizes = [
        np.concatenate([np.ravel(a) for a in jax.tree.leaves(p.allowed)]).max() for p in problems.values()
    ]
    assert sizes[0] > 4 * sizes[1] > 1000 * sizes[2] > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_share_of_the_budget_is_reported_and_below_one(dtype):
    equation = next(e for e in EQUATIONS if e.tag == "A-10")
    verdict = verify(equation, dtype, 0)
    assert verdict.status == "verified"
    assert all(0 < oracle.share <= 1 for oracle in verdict.oracles.values())


def test_each_entry_has_its_own_budget():
    want, allowed = np.array([100.0, 1.0]), np.array([1.0, 0.01])
    assert compare(jnp.array([100.5, 1.0]), want, float, "g", allowed)[0].share == 0.5
    (found,) = compare(jnp.array([100.0, 1.5]), want, float, "g", allowed)
    assert found.share == pytest.approx(50)
    assert found.detail == "at [1]: got 1.5, expected 1"
