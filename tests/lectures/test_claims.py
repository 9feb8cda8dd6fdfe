"""Every equation and erratum of the ledger, by tag, on other inputs than the command's default."""

import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.lectures import EQUATIONS, ERRATA
from manual_grad.lectures.digits import load_digits_28
from manual_grad.lectures.entries import Draw
from manual_grad.verify import judge


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda e: e.tag)
def test_equation_holds(equation):
    verdict = judge.verify(equation, jnp.float64, seed=1)
    assert verdict.status == "verified", verdict.failures
    assert verdict.oracles
    assert all(oracle.passed for oracle in verdict.oracles.values())
    assert all(o.max_error <= 1e-12 for name, o in verdict.oracles.items() if name != "differences")
    polynomial = "exact" in verdict.oracles
    assert len(verdict.oracles.keys() - {"value"}) >= 3 + polynomial


@pytest.mark.parametrize("erratum", ERRATA, ids=lambda e: e.tag)
def test_erratum_is_refuted(erratum):
    verdict = judge.verify(erratum, jnp.float64, seed=1)
    assert verdict.status == "erratum", verdict.failures
    assert verdict.counterexample
    assert erratum.corrects in {equation.tag for equation in EQUATIONS}


@pytest.mark.parametrize("entry", [*EQUATIONS, *ERRATA], ids=lambda e: e.tag)
def test_inputs_have_no_accidental_symmetry(entry):
    """Axes of one array differ in size, so that a transposed gradient cannot pass for the right one."""
    square = {"B-01", "A-E1"}  # the quadratic maps' (k, p, p) are square by nature
    for claim in getattr(entry, "claims", None) or (entry.claim,):
        for name, value in claim.inputs(Draw(np.random.default_rng(0), jnp.float32)).items():
            shape = getattr(value, "shape", ())
            if len(shape) == 2 and entry.tag not in square and name != "logits":
                assert len(set(shape)) == len(shape) or "C-08" in entry.tag, (name, shape)


def test_widest_gap_keeps_clear_of_the_kink():
    draw = Draw(np.random.default_rng(0), jnp.bfloat16)
    X = draw.normal(9, 5)
    (W, b), _ = draw.layers(5, 7, 3, rows=True, X=X)
    Z = np.asarray(X, np.float64) @ np.asarray(W, np.float64) + np.asarray(b, np.float64)
    assert np.abs(Z).min() > 0.1
    assert ((Z > 0).any(axis=0) & (Z < 0).any(axis=0)).all()


def test_digits_are_real_digits():
    images, labels = load_digits_28()
    assert images.shape == (1797, 28, 28)
    assert images.dtype == np.float64
    assert 0 <= images.min() < images.max() <= 1
    assert np.bincount(labels).min() > 170
