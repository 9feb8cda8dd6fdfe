import inspect

import jax
import numpy as np
import pytest

import manual_grad

from .comparing import EXACT, assert_same, by_hand, check, cotangent, of_floats, random_like
from .scenarios import SCENARIOS, draw, each_scenario

SEEDS = (0, 1)


def test_every_public_pair_has_a_scenario():
    public = {name for name in manual_grad.__all__ if name.endswith(("_fwd", "_bwd"))}
    covered = {f.__name__ for scenario in SCENARIOS for f in (scenario.fwd, scenario.bwd)}
    assert public == covered


@pytest.mark.parametrize("scenario", **each_scenario)
def test_inputs_are_the_arguments_in_order(scenario):
    parameters = inspect.signature(scenario.fwd).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(draw(scenario, seed=0)) == positional
    assert len({s.id for s in SCENARIOS}) == len(SCENARIOS)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", **each_scenario)
def test_value_and_gradient_are_those_of_the_reference(scenario, seed):
    check(scenario, tuple(draw(scenario, seed).values()), seed)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_backward_is_linear_in_the_cotangent(scenario):
    primals = tuple(draw(scenario, seed=2).values())
    u, v = (cotangent(scenario, primals, seed) for seed in (2, 3))
    of_u, of_v, of_both = (by_hand(scenario)(primals, dout)[1] for dout in (u, v, 2 * u - 3 * v))
    assert_same(of_both, jax.tree.map(lambda a, b: 2 * a - 3 * b, of_u, of_v))


@pytest.mark.parametrize("scenario", **each_scenario)
def test_forward_mode_agrees(scenario):
    """⟨bwd(dout), v⟩ = ⟨dout, Jv⟩, J v by ``jax.jvp``: no transposition rule takes part."""
    primals = tuple(draw(scenario, seed=3).values())
    dout = cotangent(scenario, primals, seed=3)
    fn, floats = of_floats(scenario.reference, primals, scenario.settings)
    v = random_like(floats, seed=4)
    _, Jv = jax.jit(lambda floats, v: jax.jvp(fn, floats, v))(floats, v)
    grads = by_hand(scenario)(primals, dout)[1]
    left = [np.ravel(g * t) for g, t in zip(jax.tree.leaves(grads), jax.tree.leaves(v), strict=True)]
    left, right = np.concatenate(left), np.ravel(dout * Jv)
    assert abs(left.sum() - right.sum()) <= EXACT * max(np.abs(left).sum(), np.abs(right).sum())


def test_matrices_are_not_square():
    """A transposed gradient has another shape then."""
    leaves = [leaf for scenario in SCENARIOS for leaf in jax.tree.leaves(draw(scenario, seed=0))]
    assert all(leaf.shape[0] != leaf.shape[1] for leaf in leaves if leaf.ndim == 2)
