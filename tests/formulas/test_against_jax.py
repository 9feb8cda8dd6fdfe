import inspect
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .comparing import EXACT, assert_same, by_hand, by_jax, check, error, floats_of, truth
from .scenarios import SCENARIOS, draw, drawn, each_scenario, random_like

SEEDS = (0, 1)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_inputs_are_the_arguments_in_order(scenario):
    parameters = inspect.signature(scenario.entry.fwd).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(draw(scenario, seed=0)) == positional
    assert len({s.id for s in SCENARIOS}) == len(SCENARIOS)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", **each_scenario)
def test_value_and_gradient_are_those_of_the_reference(scenario, seed):
    check(scenario, seed=seed)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_backward_is_linear_in_the_cotangent(scenario):
    primals, u = drawn(scenario, seed=2)
    v = random_like(u, seed=3)
    of_u, of_v, of_both = (by_hand(scenario)(primals, dout)[1] for dout in (u, v, _combined(u, v)))
    assert_same(jax.tree.map(np.asarray, of_both), _combined(of_u, of_v))


def _combined(a, b):
    return jax.tree.map(lambda a, b: 2 * np.asarray(a) - 3 * np.asarray(b), a, b)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_forward_mode_agrees(scenario):
    """⟨bwd(dout), v⟩ = ⟨dout, Jv⟩, J v by ``jax.jvp``: no transposition rule is involved."""
    primals, dout = drawn(scenario, seed=3)
    true_grads = truth(scenario, primals, dout)[1]
    assert all(np.any(d) for d in jax.tree.leaves(true_grads)), "a true cotangent is 0: a wrong one may pass"
    v = random_like(floats_of(primals), seed=4)
    Jv = by_jax(scenario)(primals, dout, v)[1]
    grads = by_hand(scenario)(primals, dout)[1]
    left = [np.ravel(g * t) for g, t in zip(leaves(grads), leaves(v), strict=True)]
    right = [np.ravel(d * j) for d, j in zip(leaves(dout), leaves(Jv), strict=True)]
    left, right = np.concatenate(left), np.concatenate(right)
    assert abs(left.sum() - right.sum()) <= EXACT * max(np.abs(left).sum(), np.abs(right).sum())


# Relative to the largest entry of each array, against float64 at the same rounded inputs. In half precision
# 4 eps: the worst measured is 2.4 eps, with XLA's optimizations and without (each of up to five layers rounds
# once, and the roundings add up).
TOLERANCES = {jnp.float32: 1e-5, jnp.bfloat16: 4 * 2**-7, jnp.float16: 4 * 2**-10}
DEEP = {"gpt": 2}  # times as many roundings one after the other
HALVES = (jnp.bfloat16, jnp.float16)
EACH = [(s, dtype) for i, s in enumerate(SCENARIOS) for dtype in (jnp.float32, HALVES[i % 2])]  # in turn


@pytest.mark.parametrize(("scenario", "dtype"), EACH, ids=[f"{s.id}-{dtype.__name__}" for s, dtype in EACH])
def test_error_against_float64(scenario, dtype):
    primals, dout = drawn(scenario, 5, dtype)
    got, want = map(leaves, (by_hand(scenario)(primals, dout), truth(scenario, primals, dout)))
    assert {g.dtype for g in got} == {jnp.dtype(dtype)}
    errors = [error(g, w) for g, w in zip(got, want, strict=True)]
    tolerance = TOLERANCES[dtype] * DEEP.get(scenario.entry.name, 1)
    assert max(errors) <= tolerance, errors
    assert min(error(wrong, w) for w in want for wrong in _mistakes(w)) > tolerance


def test_with_xla_s_defaults():
    done = subprocess.run(
        [sys.executable, "-m", "tests.formulas.optimized"],
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("{}\n", 0), done.stderr


def _mistakes(truth):
    """Zero, the wrong sign, and 1/N missing or too much, for the smallest N that could be."""
    return 0 * truth, -truth, 2 * truth, truth / 2


def leaves(tree):
    """In NumPy, where arithmetic on small arrays compiles nothing."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
