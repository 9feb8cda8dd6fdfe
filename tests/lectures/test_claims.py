"""Every equation and erratum of the ledger, by tag, on other inputs than the command's default."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.catalogue.draw import Draw
from manual_grad.digits import load_digits_28
from manual_grad.lectures import EQUATIONS, ERRATA
from manual_grad.verify import equations

FAMILIES = ("A-05", "A-07", "B-08", "B-10", "C-04", "C-07", "D-05", "D-09")


@functools.cache
def verdicts(lecture):
    """Everything in one lecture, verified in one program, by tag."""
    said = [entry for entry in (*EQUATIONS, *ERRATA) if entry.lecture == lecture]
    return {v.tag: v for v in equations.verify_all(said, jnp.float64, seed=1)}


@functools.cache
def by_every_oracle():
    said = [entry for entry in EQUATIONS if entry.tag in FAMILIES]
    return {v.tag: v for v in equations.verify_all(said, jnp.float64, seed=1, oracles=equations.ORACLES)}


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda e: e.tag)
def test_equation_holds(equation):
    verdict = verdicts(equation.lecture)[equation.tag]
    assert verdict.status == "verified", verdict.failures
    assert verdict.oracles
    assert all(oracle.passed for oracle in verdict.oracles.values())
    assert all(oracle.max_error <= 1e-12 for oracle in verdict.oracles.values())


@pytest.mark.parametrize("tag", FAMILIES)
def test_every_oracle_agrees(tag):
    """A family each; `manual-grad verify --oracle all` does it for all of them."""
    verdict = by_every_oracle()[tag]
    assert verdict.status == "verified", verdict.failures
    assert all(oracle.passed for oracle in verdict.oracles.values())
    assert len(verdict.oracles.keys() - {"value"}) >= 3 + ("exact" in verdict.oracles)


@pytest.mark.parametrize("erratum", ERRATA, ids=lambda e: e.tag)
def test_erratum_is_refuted(erratum):
    verdict = verdicts(erratum.lecture)[erratum.tag]
    assert verdict.status == "erratum", verdict.failures
    assert verdict.counterexample
    assert erratum.corrects in {equation.tag for equation in EQUATIONS}


@pytest.mark.parametrize("entry", [*EQUATIONS, *ERRATA], ids=lambda e: e.tag)
def test_inputs_have_no_accidental_symmetry(entry):
    """Axes of one array differ in size, so that a transposed gradient cannot pass for the right one."""
    # Quadratic maps are (k, p, p), an RNN's W_hh is (H, H), linear algebra's matrices are (n, n).
    square = {"B-01", "A-E1", "E-14", "E-28", "E-29", "E-30", "E-31"}
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


def test_the_other_reading_of_a_e1_is_wrong_too():
    """With both hats missing: −(1/N) [y_j/y_j · ŷ_j − ŷ_j Σ_k y_k/y_k · ŷ_k]."""
    (erratum,) = (e for e in ERRATA if e.tag == "A-E1")

    def as_printed(dJ, logits, labels):
        y_hat, hot = jax.nn.softmax(logits), (labels != 0).astype(logits.dtype)
        return -dJ / len(labels) * (hot * y_hat - y_hat * (hot * y_hat).sum(axis=1, keepdims=True))

    verdict = equations.verify(replace(erratum, as_printed=as_printed), jnp.float64, seed=1)
    assert verdict.status == "erratum", verdict.failures
