"""The tests and benchmarks that the book names exist, and belong to the equation or the function."""

import re

import pytest

from manual_grad.lectures import EQUATIONS, ERRATA
from manual_grad.report import api, benchmarks, proofs
from manual_grad.report.code import formulas
from manual_grad_benchmarks.cases import every_case
from tests import test_ops
from tests.formulas import test_against_jax, test_jacobians
from tests.lectures import test_claims

FILES = {
    "tests/formulas/test_against_jax.py": [f"{s.id}-0]" for s in test_against_jax.SCENARIOS],
    "tests/formulas/test_jacobians.py": [
        f"[{test_jacobians.tagged(*each)}-jacrev]" for each in test_jacobians.EACH
    ],
    "tests/test_ops.py": [f"test_an_operation_is_its_pair[{f.op.name}]" for f in test_ops.OPERATIONS],
}
FUNCTIONS = [entry.source for module in api.modules() for entry in module.entries]


def selected(test):
    """The identifiers that ``pytest FILE -k=WORD`` runs, of those that are looked at here."""
    file, _, word = test.partition(" -k=")
    return [name for name in FILES[file] if word in name]


@pytest.mark.parametrize("source", FUNCTIONS, ids=lambda source: source.name)
def test_every_test_that_is_named_is_there(source):
    doctests = [test for test in proofs.of_function(source) if "::" in test]
    assert doctests == [f"{file_of(source)}::{source.module}.{source.name}"] * (">>> " in source.doc)
    for test in proofs.of_function(source):
        if test.endswith(".py"):
            assert source.name in {jacobian.name for jacobian in test_jacobians.JACOBIANS}
        elif test not in doctests:
            plain = source.name.removesuffix("_fwd").removesuffix("_bwd")
            assert selected(test)
            assert all(re.search(rf"[-\[]{plain}|_at", name) for name in selected(test)), test


def file_of(source):
    return source.module.replace(".", "/") + ".py"


def test_every_pair_jacobian_and_operation_has_a_test_by_itself():
    for source in FUNCTIONS:
        asked = source.name.endswith(("_fwd", "_bwd")) or source.name.startswith("jac_")
        if asked or source.module == "manual_grad.ops":
            assert any(test.startswith("tests/") for test in proofs.of_function(source)), source.name


def test_the_claims_tests_are_named_as_they_are():
    for entries, test in (
        (EQUATIONS, test_claims.test_equation_holds),
        (ERRATA, test_claims.test_erratum_is_refuted),
    ):
        (mark,) = test.pytestmark
        ids = [
            f"tests/lectures/test_claims.py::{test.__name__}[{mark.kwargs['ids'](e)}]" for e in mark.args[1]
        ]
        assert ids == [proofs.of_tag(e.tag) for e in entries]


def test_every_benchmark_times_a_function_of_the_book():
    cases = list(dict.fromkeys(case.name for case in every_case()))
    timed = benchmarks.by_function(cases)
    assert {case for found in timed.values() for case in found} == set(cases)
    assert timed["five_layer_grads"] == ["five_layer", "full_batch"]
    assert "ops.dense" in timed["dense_rows_bwd"]
    pairs = {name for name in formulas() if name.endswith("_bwd")}
    assert pairs - timed.keys() <= {"conv2d_plain_bwd", "conv2d_cpu_bwd"}
