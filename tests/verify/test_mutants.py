"""The kill matrix: what is planted, that it dies, that the right formula lives, what others would miss."""

import json
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from manual_grad.catalogue import KNOWN, mse
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.middle import MIDDLE
from manual_grad.cli import app as cli
from manual_grad.cli import mutants as cli_mutants
from manual_grad.lectures import EQUATIONS
from manual_grad.verify import kill_matrix
from manual_grad.verify.kill_matrix import COMMON, FLOAT64, FormulaError, Row, Target, kill, targets
from manual_grad.verify.kink import at_the_kink
from manual_grad.verify.mutants import Mutant, batch_of, families_of, mutants_of
from manual_grad.verify.naming import WORDS
from manual_grad.verify.problem import pose

BY_TAG = {e.tag: e for e in EQUATIONS}
ISSUE = {
    "sign flipped", "1/N missing", "1/N twice", "sum over the batch missing",
    "mean over the batch for the sum", "transposed", "factors swapped",
    "ReLU mask missing", "ReLU mask of the wrong layer", "ReLU mask with ≥",
    "softmax off-diagonal missing", "p and p − 1 swapped", "kernel not rotated", "kernel rotated twice",
    "padding off by one", "stride ignored in dX", "dilation ignored in dX",
    "bias gradient over the wrong axes", "cotangent ignored", "last sample dropped", "zero",
}  # fmt: skip


def target(tag, number):
    claim = BY_TAG[tag].claims[number]
    return Target(tag, number, claim, tuple(claim.formulas))


# Between them every family but the CNN, and every common check lets something through.
SAMPLE = {
    "A-04": 0, "A-08": 0, "A-10": 1, "B-06": 0, "B-12": 2, "B-16": 1, "C-02": 16, "C-09": 0,
    "C-10": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    """Each sampled claim's mutants, of the larger ones by the quick oracles alone."""
    large = {"A-10", "B-12", "C-02", "C-10"}
    return {
        tag: kill(target(tag, number), 0, ("reverse", "forward") if tag in large else kill_matrix.ORACLES)
        for tag, number in SAMPLE.items()
    }


@pytest.mark.parametrize("tag", SAMPLE)
def test_every_mutant_dies(rows, tag):
    assert rows[tag]
    assert not [(r.formula, r.mutant, r.says) for r in rows[tag] if r.lives]


def test_every_oracle_kills_on_its_own(rows):
    every = [row for found in rows.values() for row in found]
    for oracle in ("reverse", "forward", "differences", "exact", "symbolic"):
        asked = [row for row in every if oracle in row.relative_error]
        assert sum(oracle in row.killed_by for row in asked) > 0.9 * len(asked), oracle


@pytest.mark.parametrize("check", COMMON)
def test_each_common_check_lets_through_what_ours_kill(rows, check):
    fooled = [row for found in rows.values() for row in found if check in row.survives]
    assert fooled
    assert all(row.killed_by for row in fooled)


def test_a_mask_with_ge_is_detected_only_at_the_kink(rows):
    (row,) = [r for r in rows["B-06"] if r.mutant == "ReLU mask with ≥"]
    assert {"reverse", "forward", "exact", "symbolic"} <= set(row.killed_by)
    masks = [r for r in rows["B-12"] + rows["C-02"] if r.mutant == "ReLU mask with ≥"]
    assert len(masks) == 2
    for row in masks:
        assert {"reverse", "forward"} <= set(row.killed_by)
        assert set(row.survives) == set(row.checks)  # of which none is asked there


def test_a_cotangent_of_ones_misses_an_ignored_cotangent(rows):
    for found in rows.values():
        ignored = [r for r in found if r.mutant == "cotangent ignored"]
        assert ignored
        assert all("ones" in r.survives for r in ignored)


def test_symmetric_matrices_hide_a_transpose(rows):
    hidden = {r.says for r in rows["B-16"] if "square" in r.survives}
    assert "dX = dZ W" in hidden
    assert {r.mutant for r in rows["C-10"] if "square" in r.survives} >= {"kernel not rotated"}


# --- what is planted --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    """The mutants of every formula of the ledger, where `--mutants` plants them; nothing is run."""
    found = {}
    for t in targets(EQUATIONS):
        claim = replace(t.claim, formulas={way: t.claim.formulas[way] for way in t.formulas})
        found[t.tag, t.number] = claim, mutants_of(claim)
    return found


def test_every_formula_of_the_ledger_has_mutants(planted):
    formulas = {way for e in EQUATIONS for claim in e.claims for way in claim.formulas}
    mutants = Counter(m.formula for _, found in planted.values() for m in found)
    assert set(mutants) == formulas
    assert min(mutants.values()) >= 2


def test_every_gradient_has_the_generic_mistakes(planted):
    for claim, found in planted.values():
        for way in claim.formulas:
            kinds = {m.kind for m in found if m.formula == way}
            assert {"sign flipped", "zero"} <= kinds
            if claim.kind == "gradient":
                assert "cotangent ignored" in kinds
            if batch_of(pose(claim, Draw(np.random.default_rng(0), FLOAT64)))[1] > 1:
                assert "last sample dropped" in kinds


def test_every_mistake_of_the_list_is_planted(planted):
    assert {m.kind for _, found in planted.values() for m in found} >= ISSUE


def test_every_mistake_has_a_pattern_for_its_diagnosis(planted):
    assert {m.kind for _, found in planted.values() for m in found} <= set(WORDS)


def test_every_family_is_planted_somewhere():
    claims = [claim for e in EQUATIONS for claim in e.claims]
    problems = [pose(claim, Draw(np.random.default_rng(0), FLOAT64)) for claim in claims]
    planted = {id(family) for problem in problems for family in families_of(problem)}
    assert all(id(f) in planted for known in KNOWN.values() for f in known.mutants)
    assert {known.reference for known in MIDDLE} <= {claim.reference for claim in claims}


def test_a_unit_is_put_at_the_kink():
    claim = at_the_kink(BY_TAG["B-16"].claims[3])
    inputs = claim.inputs(Draw(np.random.default_rng(0), FLOAT64))
    assert (np.asarray(inputs["X"] @ inputs["W1"] + inputs["b1"])[:, 0] == 0).all()


# --- the checks are checked -------------------------------------------------------------------------------


def test_a_formula_that_is_wrong_itself_is_not_mutated():
    t = target("A-04", 0)
    wrong = replace(t.claim, formulas={"mse_bwd": lambda dJ, y_hat, y: (dJ * y, dJ * y)})
    with pytest.raises(FormulaError, match="A-04: mse_bwd itself does not pass"):
        kill(replace(t, claim=wrong), 0, ("reverse",))


def test_a_handwritten_version_that_is_wrong_without_its_mistake_is_refused(monkeypatch):
    (family,) = mse.MSE.mutants
    wrong = replace(family, right=lambda dJ, y_hat, y: {"y_hat": y, "y": y})
    monkeypatch.setitem(KNOWN, mse.MSE.reference, replace(mse.MSE, mutants=(wrong,)))
    with pytest.raises(FormulaError, match="A-04: mse by hand itself does not pass"):
        kill(target("A-04", 0), 0, ("reverse",))


@pytest.fixture
def run(capsys, monkeypatch):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["manual-grad", "verify", "--mutants", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return call


def test_the_command_shows_each_mutant_and_writes_it(run, tmp_path):
    code, out, _ = run("--tag", "A-04", "--json", tmp_path / "k.json")
    assert code == 0
    assert "cotangent ignored" in out
    assert "0 survive our oracles" in out
    found = json.loads((tmp_path / "k.json").read_text())
    assert found["passed"] is True
    assert {m["tag"] for m in found["mutants"]} == {"A-04"}
    ignored = next(m for m in found["mutants"] if m["mutant"] == "cotangent ignored")
    assert ignored["formula"] == "mse_bwd"
    assert ignored["killed"] is True
    assert {"reverse", "forward", "exact"} <= set(ignored["killed_by"])
    assert ignored["relative_error"]["reverse"] > 1e-3
    assert "ones" in ignored["survives"]


def test_help_says_what_it_does(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "--mutants" in out
    assert "cotangent of ones" in " ".join(out.split())


def test_a_survivor_is_named_and_exits_1(run, monkeypatch, tmp_path):
    def harmless(claim, problem):
        way, formula = next(iter(claim.formulas.items()))
        return [*mutants_of(claim, problem), Mutant("harmless", way, formula, "nothing")]

    monkeypatch.setattr(
        kill_matrix, "kill", lambda t, seed: kill(t, seed, ("reverse",), mutate=harmless)
    )  # what the command asks for each formula
    code, out, _ = run("--tag", "A-02", "--json", tmp_path / "k.json")
    assert code == 1
    assert "survives every oracle: A-02 jac_mean_J0: harmless (nothing)" in out
    assert json.loads((tmp_path / "k.json").read_text())["passed"] is False


def test_the_table_counts_by_kind(capsys):
    row = Row("A-04", "f", "zero", "x", ("reverse",), {"reverse": 1.0, "exact": 0.0}, ("ones",), ("ones",))
    cli_mutants.show(cli_mutants.Console(width=160), [row, replace(row, formula="g")], one_by_one=False)
    line = next(line for line in capsys.readouterr().out.splitlines() if "zero" in line)
    assert [cell.strip() for cell in line.split("│")[1:-1] if cell.strip()] == [
        "zero", "2", "2", "2", "0/2", "2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--oracle exact", "--mutants can be combined only with --lecture"),
        ("--dtype float32", "--mutants can be combined only with --lecture"),
        ("--tag A-E1", "an erratum is already wrong"),
    ],
)
def test_bad_usage_gives_one_clear_line(run, words, says):
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err
