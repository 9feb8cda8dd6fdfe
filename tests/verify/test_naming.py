"""What the checker says of the kill matrix's own mutants: the true cause first, without being told it."""

import sys
from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest

from manual_grad.cli import app as cli
from manual_grad.cli import mutants as cli_mutants
from manual_grad.lectures import EQUATIONS
from manual_grad.verify import naming
from manual_grad.verify.kill_matrix import Target, targets
from manual_grad.verify.mutants import mutants_of
from manual_grad.verify.naming import Named, name_all

BY_FORMULA = {way: t for t in targets(EQUATIONS) for way in t.formulas}
# Formula → the wrong lines asked about, all of them where none is named. The whole list is
# `manual-grad verify --mutants --diagnose`.
SAMPLE = {
    "mse_bwd": (),
    "jac_quadratic_map_theta": (),
    "cross_entropy_bwd": ("p/y for y/p", "y p for y/p"),
    "−(1/m) Y/A5": ("p/y for y/p", "y/y for y/p"),
    "conv2d_bwd": ("dX with the next group's kernel",),
    "dense_rows_bwd": ("dX = W dZ", "db summed over the features"),
    "mlp_rows_bwd": ("the masks in reverse order", "where Z ≥ 0"),
    "sigmoid_bwd": ("x(1 − x) for a(1 − a)", "a for a(1 − a)"),
    "identity_bwd": ("x for 1",),
    "network_squared_loss_bwd": ("f′(a) for f′(z)",),
    "correlate2d_bwd": ("dX with Fᵀ", "dF = dO ⋆ X", "dO padded a row too low"),
    "softmax_cross_entropy_bwd": ("p where y is 1, p − 1 elsewhere", "p − y, labels taken to sum to 1"),
}


def some(formula, lines):
    def mutate(claim, problem):
        return [
            m for m in mutants_of(claim, problem) if m.formula == formula and (m.says in lines or not lines)
        ]

    return mutate


@pytest.mark.parametrize("formula", SAMPLE)
def test_the_true_cause_is_named_first(formula):
    named = name_all(BY_FORMULA[formula], mutate=some(formula, SAMPLE[formula]))
    assert {row.says for row in named} >= set(SAMPLE[formula])
    assert len(named) > 1 or SAMPLE[formula]
    assert not [row for row in named if row.first is False]
    assert all(row.diagnosis for row in named if row.first)
    assert any(row.first for row in named)


def test_a_mistake_that_has_no_name_is_not_counted_as_named():
    def nameless(claim, problem):
        mutant = mutants_of(claim, problem)[0]
        noise = np.random.default_rng(0).standard_normal(jax.numpy.shape(problem.inputs["y"]))
        return [replace(mutant, function=lambda dJ, y_hat, y: (dJ * y_hat * noise, dJ * y * noise))]

    (row,) = name_all(BY_FORMULA["mse_bwd"], mutate=nameless)
    assert row.first is False
    assert row.diagnosis[0] == "y_hat: no known mistake explains it"


def test_a_wrong_name_is_not_taken_for_the_right_one():
    def misnamed(claim, problem):
        return [replace(m, kind="zero") for m in mutants_of(claim, problem) if m.kind == "sign flipped"]

    assert not any(row.first for row in name_all(BY_FORMULA["mse_bwd"], mutate=misnamed))


def test_a_value_has_no_gradient_to_check():
    tag, value = next((e.tag, claim) for e in EQUATIONS for claim in e.claims if claim.kind == "value")
    assert name_all(Target(tag, 0, value, tuple(value.formulas))) == []


@pytest.fixture
def run(capsys, monkeypatch):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["manual-grad", "verify", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return call


def test_the_command_says_what_is_not_named(monkeypatch, run):
    missed = Named("A-04", "mse_bwd", "zero", "y", ("y: no known mistake explains it",), False)
    monkeypatch.setattr(cli_mutants, "name_all", lambda targets, seed: [missed])
    monkeypatch.setattr(cli_mutants, "kill_all", lambda targets, seed: [])
    code, out, _ = run("--mutants", "--diagnose", "--lecture", "A")
    assert code == 1
    out = " ".join(out.split())
    assert "not named: A-04 mse_bwd: zero (y): y: no known mistake explains it" in out
    assert "0 of 1 checked are named first" in out


def test_diagnose_goes_with_mutants(run):
    code, _, err = run("--diagnose")
    assert code == 2
    assert "--diagnose requires --mutants" in err


def test_the_counts_are_those_of_the_rows(capsys):
    named = name_all(BY_FORMULA["identity_bwd"], mutate=some("identity_bwd", ("x", "x for 1")))
    cli_mutants.show_named(cli_mutants.Console(width=160), named, one_by_one=False)
    out = capsys.readouterr().out
    for kind, count in Counter(row.mutant for row in named).items():
        assert any(line.split("│")[1:4] for line in out.splitlines() if kind in line and str(count) in line)
    assert naming.MORE_DRAWS > 1
