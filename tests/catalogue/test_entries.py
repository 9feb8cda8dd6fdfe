"""An entry is not a single point of failure: if it is wrong or missing, a test fails that names it."""

import inspect
import statistics
from dataclasses import replace

import numpy as np
import pytest

from manual_grad import budget, compare
from manual_grad.catalogue import (
    FORMULAS,
    FUNCTIONS,
    KNOWN,
    NO_BATCH,
    Batch,
    EntryError,
    dense,
    mse,
    normalisation,
    softmax,
)
from manual_grad.catalogue.mlp import MLP_ROWS
from manual_grad.lectures.entries import claims_of
from manual_grad.verify.hard import check_hard
from manual_grad.verify.symbolic import check_symbolically
from manual_grad_reference import definitions
from tests.formulas.comparing import check
from tests.formulas.scenarios import SCENARIOS, each_scenario, of

from . import checks

MEDIAN, NEW = 9, 8  # Python files that name a formula, and that one beyond the lectures needs
NEWEST = normalisation.LAYER_NORM


def test_every_pair_of_the_source_has_an_entry():
    checks.require_entries(FORMULAS, FUNCTIONS)


@pytest.mark.parametrize("entry", FORMULAS.values(), ids=FORMULAS)
def test_an_entry_fits_its_pair_and_its_reference(entry):
    checks.require_signatures(entry)
    checks.require_settings([s for s in SCENARIOS if s.entry.name == entry.name])
    checks.require_samples(entry)


@pytest.mark.parametrize("entry", FORMULAS.values(), ids=FORMULAS)
def test_a_definition_agrees_with_its_reference(entry):
    checks.require_definition(entry)


@pytest.mark.parametrize("entry", [mse.MSE, dense.DENSE_ROWS, NEWEST], ids=lambda entry: entry.name)
def test_tolerances_are_tight(entry):
    checks.require_tolerance(entry)


LENIENT = [entry for entry in FORMULAS.values() if any(case.tolerance for case in entry.hard)]


@pytest.mark.parametrize("entry", LENIENT, ids=lambda entry: entry.name)
def test_tolerances_of_hard_cases_are_tight(entry):
    checks.require_hard_tolerance(entry)


@pytest.mark.parametrize("scenario", **each_scenario)
def test_the_draws_would_reveal_a_mistake(scenario):
    checks.require_telling_draws(scenario)
    checks.require_clear_kinks(scenario)
    checks.require_batch(scenario)


def test_few_files_name_a_formula():
    named = {name: len(files) for name, files in checks.files_that_name().items()}
    assert statistics.median(named.values()) <= MEDIAN, named
    assert named[NEWEST.name] <= NEW, named


# ---------------------------------------------------------------- sabotage


def _renamed(predicted, y):
    return mse.MSE.reference(predicted, y)


def _alike(draw, shape, sizes):
    return np.ones(shape)


def _named(name, fn):
    def renamed(*args, **kwargs):
        return fn(*args, **kwargs)

    renamed.__name__, renamed.__signature__ = name, inspect.signature(fn)
    return renamed


MILLION = tuple(replace(case, tolerance=1e6 * case.tolerance) for case in LENIENT[0].hard if case.tolerance)


def _symmetric(draw, shape, sizes):
    X = draw.normal(*shape)
    return X + X.T


SABOTAGE = {
    "a pair is missing": lambda: checks.require_entries(
        {n: e for n, e in FORMULAS.items() if n != dense.DENSE_ROWS.name}, FUNCTIONS
    ),
    "a function is missing": lambda: checks.require_entries(FORMULAS, dict(list(FUNCTIONS.items())[1:])),
    "a step without an entry": lambda: checks.require_entries(
        FORMULAS, {name: f for name, f in FUNCTIONS.items() if name != "gradient_descent"}
    ),
    "the reference has other arguments": lambda: checks.require_signatures(
        replace(mse.MSE, reference=_renamed)
    ),
    "no definition": lambda: checks.require_definition(replace(mse.MSE, definition=None)),
    "the definition of another": lambda: checks.require_definition(
        replace(mse.MSE, definition=definitions.squared_errors)
    ),
    "a definition with other arguments": lambda: checks.require_definition(
        replace(mse.MSE, definition=_named("mse", definitions.cross_entropy))
    ),
    "a wrong definition": lambda: checks.require_definition(
        replace(mse.MSE, definition=_named("mse", lambda m, y_hat, y: 2 * definitions.mse(m, y_hat, y)))
    ),
    "a hard tolerance times a million": lambda: checks.require_hard_tolerance(
        replace(LENIENT[0], hard=MILLION)
    ),
    "the backward pass of another": lambda: checks.require_signatures(
        replace(mse.MSE, bwd=dense.DENSE_ROWS.bwd)
    ),
    "no source": lambda: checks.require_signatures(replace(mse.MSE, source="")),
    "a batch of no primal": lambda: checks.require_signatures(replace(mse.MSE, batch=Batch({"z": 0}))),
    "a square matrix": lambda: checks.require_telling_draws(
        of(dense.DENSE_ROWS).sabotaged(sizes={"N": 3, "d": 3, "m": 4})
    ),
    "a symmetric draw": lambda: checks.require_telling_draws(
        of(dense.DENSE_ROWS).sabotaged(draw=dense.LAYER | {"X": _symmetric}, sizes={"N": 3, "d": 3, "m": 4})
    ),
    "entries alike": lambda: checks.require_telling_draws(
        of(mse.MSE).sabotaged(draw={"y_hat": lambda *a: np.full(7, 2.0), "y": _alike})
    ),
    "an axis without a size": lambda: checks.require_telling_draws(of(mse.MSE).sabotaged(sizes={})),
    "a wrong batch axis": lambda: checks.require_batch(
        of(dense.DENSE_ROWS).sabotaged(batch=Batch({"X": 1}, 0))
    ),
    "no mean": lambda: checks.require_batch(of(mse.MSE).sabotaged(batch=Batch({"y_hat": 0}))),
    "no word of a batch": lambda: checks.require_samples(replace(NEWEST, batch=None)),
    "rows denied": lambda: checks.require_samples(replace(NEWEST, batch=NO_BATCH)),
    "a mean denied": lambda: checks.require_samples(replace(mse.MSE, batch=NO_BATCH)),
    "features for samples": lambda: checks.require_samples(replace(NEWEST, batch=Batch({"x": 1}, 1))),
    "classes for samples": lambda: checks.require_samples(
        replace(softmax.CROSS_ENTROPY, batch=Batch({"probs": 1, "labels": 1}, mean=True))
    ),
    "a kink everywhere": lambda: checks.require_clear_kinks(
        of(MLP_ROWS, "relu").sabotaged(kinks=lambda res: [0 * z for z in res.Zs])
    ),
    "a keyword never set": lambda: checks.require_settings([of(MLP_ROWS, "relu")]),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_sabotage_is_refused_and_names_the_entry(what):
    with pytest.raises(EntryError, match=r"^\w+: "):
        SABOTAGE[what]()


@pytest.mark.parametrize(("module", "name"), [(compare, "FLOAT64"), (budget, "MARGIN")])
def test_a_tolerance_times_a_million_is_detected(module, name, monkeypatch):
    monkeypatch.setattr(module, name, 1e6 * getattr(module, name))
    with pytest.raises(EntryError, match="mse: off by a factor"):
        checks.require_tolerance(mse.MSE)


def test_a_wrong_definition_is_detected_by_the_oracles_that_use_it(monkeypatch):
    tanh = FORMULAS["tanh"]
    wrong = replace(tanh, definition=definitions.sigmoid)
    assert not check_hard(wrong, replace(tanh.hard[0], jax={})).passed
    claim = claims_of(tanh)[1]
    assert max(c.share for c in check_symbolically(claim, np.random.default_rng(0)).values()) <= 1
    monkeypatch.setitem(KNOWN, tanh.reference, wrong)
    assert min(c.share for c in check_symbolically(claim, np.random.default_rng(0)).values()) > 1


def test_a_wrong_reference_is_detected():
    def off(y_hat, y):
        return mse.MSE.reference(y_hat, y) * (1 + 1e-9)

    with pytest.raises(AssertionError, match="relative errors"):
        check(of(mse.MSE).sabotaged(reference=off))
