"""Every oracle alone passes the right formula and sees each mistake that is planted in it."""

import functools
import inspect
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.catalogue.draw import Draw
from manual_grad.compiling import split_settings
from manual_grad.formulas.normalisation import layer_norm_bwd, layer_norm_fwd
from manual_grad.lectures import EQUATIONS
from manual_grad.lectures.entries import Claim, Equation
from manual_grad.sympy_process import start_sympy
from manual_grad.verify import equations
from manual_grad.verify.problem import drawn, oracle_of
from manual_grad.verify.symbolic import definition_of
from manual_grad_reference import definitions
from manual_grad_reference.oracles import exact

CLAIMS = {e.tag: e.claims for e in EQUATIONS}


def alone(oracle, claim, formula=None):
    """The verdict of one oracle on a claim, its formula replaced."""
    return each(oracle, claim, [formula])[0]


def each(oracle, claim, formulas):
    """Its verdict on each of several formulas in the claim's place."""
    claims = [replace(claim, formulas={"tried": formula}) if formula else claim for formula in formulas]
    entries = [Equation("A-04", "t", "s", "p", (claim,)) for claim in claims]
    return equations.verify_all(entries, jnp.float64, 0, (oracle,))


def planted(claim, change):
    """The first formula of a claim, with `change` made to the largest array it gives."""
    formula = next(iter(claim.formulas.values()))

    def wrong(*dout, **inputs):
        got = formula(*dout, **inputs)
        leaves, tree = jax.tree.flatten(got)
        k = max(range(len(leaves)), key=lambda k: leaves[k].size)
        return jax.tree.unflatten(tree, [change(g) if i == k else g for i, g in enumerate(leaves)])

    return wrong


MISTAKES = {
    "sign": lambda g: -g,
    "scale": lambda g: (1 + 1e-6) * g,
    "twice": lambda g: 2 * g,
    "zero": lambda g: 0 * g,
    "one entry": lambda g: g.at[(0,) * g.ndim].add(jnp.where(g[(0,) * g.ndim] == 0, 1, g[(0,) * g.ndim])),
    "transposed": lambda g: g[::-1].T.reshape(g.shape),
}


@functools.cache
def with_mistakes(oracle, tag, number):
    """The verdict of one oracle on a claim with each mistake planted in it."""
    claim = CLAIMS[tag][number]
    found = each(oracle, claim, [planted(claim, change) for change in MISTAKES.values()])
    return dict(zip(MISTAKES, found, strict=True))


# An equation and which of its claims: polynomial ones, and with softmax.
EXACT = {"A-04": 0, "A-05": 1, "B-02": 2, "B-15": 3, "C-10": 0, "C-11": 0, "A-01": 3, "C-08": 2}


@pytest.mark.parametrize("tag", EXACT)
def test_exact_passes_the_right_formula(tag):
    verdict = alone("exact", CLAIMS[tag][EXACT[tag]])
    assert verdict.status == "verified", verdict.failures
    found = verdict.oracles["exact"]
    assert found.max_error == 0
    assert found.facts["survival_probability"] < 1e-15
    assert found.facts["draws"] >= 2


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("tag", ["A-04", "B-15", "C-10"])
def test_exact_detects_a_planted_mistake(tag, mistake):
    verdict = with_mistakes("exact", tag, EXACT[tag])[mistake]
    assert verdict.status == "failed"
    assert not verdict.oracles["exact"].passed


def test_exact_compares_to_the_last_bit():
    claim = CLAIMS["A-04"][0]
    verdict = alone("exact", claim, planted(claim, lambda g: (1 + 2.0**-22) * g))
    assert verdict.status == "failed"
    assert 1e-8 < verdict.oracles["exact"].max_error < 1e-6


def test_exact_refuses_functions_that_are_not_polynomials():
    claim = CLAIMS["A-04"][0]
    verdict = alone("exact", claim, planted(claim, jnp.tanh))
    assert "not a polynomial" in verdict.failures[0]


def test_exact_reports_a_formula_that_raises():
    claim = CLAIMS["A-04"][0]
    assert "KeyError" in alone("exact", claim, lambda dJ, **p: p["nothing"]).failures[0]


# As above; a ReLU exactly at 0, a deep network, a Jacobian, a problem with a logarithm.
DIFFERENCES = {"A-04": 0, "A-10": 1, "A-09": 1, "B-06": 0, "B-12": 2, "C-06": 1, "C-11": 0, "D-10": 1}


@pytest.mark.parametrize("tag", DIFFERENCES)
def test_differences_pass_the_right_formula(tag):
    verdict = alone("differences", CLAIMS[tag][DIFFERENCES[tag]])
    assert verdict.status == "verified", verdict.failures
    found = verdict.oracles["differences"]
    assert found.max_error <= found.facts["tolerance"] <= 1e-6
    assert found.facts["estimate"] <= 1e-7


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("tag", ["A-04", "A-10", "B-12", "C-11"])
def test_differences_detect_a_planted_mistake(tag, mistake):
    assert with_mistakes("differences", tag, DIFFERENCES[tag])[mistake].status == "failed"


def test_differences_do_not_check_a_kink():
    """A function with a kink along every direction: no verdict in the formula's favour."""

    start = jnp.array([0.3, -0.7, 1.1])
    claim = Claim(
        "gradient",
        lambda x: jnp.sqrt(jnp.sum((x - start) ** 2)),
        ("x",),
        lambda draw: {"x": start},
        {"zero": lambda dout, x: 0 * x},
    )
    verdict = alone("differences", claim)
    assert verdict.status == "failed"
    assert "kink" in verdict.failures[0]


def of_two_features(eps):
    """Layer normalisation of two features: x̂ is ±1, and dx is what is left where terms of size 1 cancel."""

    def reference(x, gamma):
        centred = x - x.mean(axis=-1, keepdims=True)
        return gamma * centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)

    def formula(dout, x, gamma):
        res = layer_norm_fwd(x, gamma, jnp.zeros(2), eps=eps)[1]
        return layer_norm_bwd(res, dout)[:2]

    inputs = {"x": lambda draw: draw.normal(5, 2), "gamma": lambda draw: draw.normal(2)}
    return Claim(
        "gradient",
        reference,
        ("x", "gamma"),
        lambda draw: {name: one(draw) for name, one in inputs.items()},
        {"by hand": formula},
    )


@pytest.mark.parametrize(("oracle", "off"), [("differences", 1e-5), ("reverse", 1e-9), ("forward", 1e-9)])
def test_an_error_is_relative_to_the_terms_summed(oracle, off):
    """Only 1e-12 of its terms remains of dx; differences have an error of a few 1e-11."""
    claim = of_two_features(1e-12)
    right, wrong = each(oracle, claim, [None, planted(claim, lambda g: g + off)])
    assert right.status == "verified", right.failures
    assert wrong.status == "failed"


SYMBOLIC = {"A-04": 0, "A-05": 1, "A-10": 1, "B-08": 1, "B-12": 2, "C-07": 1, "C-11": 0, "D-03": 1, "C-03": 0}


@pytest.mark.parametrize("tag", SYMBOLIC)
def test_symbolic_passes_the_right_formula(tag):
    verdict = alone("symbolic", CLAIMS[tag][SYMBOLIC[tag]])
    assert verdict.status == "verified", verdict.failures
    assert verdict.oracles["symbolic"].max_error <= 1e-12


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("tag", ["A-04", "A-10", "B-12", "C-11"])
def test_symbolic_detects_a_planted_mistake(tag, mistake):
    assert with_mistakes("symbolic", tag, SYMBOLIC[tag])[mistake].status == "failed"


CANCELS = [
    ("B-09", 21),
    ("B-13", 21),
    ("B-16", 22),
    ("B-12", 26),
]  # of some claim all of the truth, or an array


@pytest.mark.parametrize(("tag", "seed"), CANCELS)
def test_symbolic_measures_errors_relative_to_the_terms(tag, seed):
    equation = next(e for e in EQUATIONS if e.tag == tag)
    verdict = equations.verify(equation, jnp.float64, seed, ("symbolic",))
    assert verdict.status == "verified", verdict.failures
    assert verdict.oracles["symbolic"].max_error <= 1e-12
    for claim in equation.claims:  # another draw is asked for where all of it is 0, so this is seen
        if claim.kind == "gradient" and definition_of(claim):
            found = equations.verify(
                replace(equation, claims=[replace(claim, formulas={"tried": planted_in_all(claim)})]),
                jnp.float64,
                seed,
                ("symbolic",),
            )
            assert found.status == "failed"


def planted_in_all(claim):
    """Twice the first formula of a claim."""
    formula = next(iter(claim.formulas.values()))
    return lambda *dout, **inputs: jax.tree.map(lambda g: 2 * g, formula(*dout, **inputs))


def _normalized(x):
    x = x - jnp.mean(x, axis=1, keepdims=True)
    return x / jnp.sqrt(jnp.mean(x**2, axis=1, keepdims=True))


def _normalized_bwd(dout, x, off=0.0):
    centred = x - jnp.mean(x, axis=1, keepdims=True)
    r = 1 / jnp.sqrt(jnp.mean(centred**2, axis=1, keepdims=True))
    y = centred * r
    d = dout - jnp.mean(dout, axis=1, keepdims=True)
    return {"x": r * (d - y * jnp.mean(d * y, axis=1, keepdims=True)) + off}


@pytest.mark.parametrize("rows", [3, 1100])
@pytest.mark.parametrize("oracle", ["reverse", "forward"])
def test_a_truth_that_cancels_is_compared_at_the_scale_of_its_terms(oracle, rows):
    """Two normalized features are ±1 whatever they were, so their gradient is 0, and ours is rounding."""

    def inputs(draw):
        return {"x": jnp.stack([1 + draw.positive(rows), -draw.positive(rows)], axis=1)}

    claim = Claim("gradient", _normalized, ("x",), inputs, {"hand": _normalized_bwd})
    offs = [functools.partial(_normalized_bwd, off=off) for off in (1e-12, 1e-9, 1.0)]
    right, *wrong = each(oracle, claim, [None, *offs])
    assert right.status == "verified", right.failures
    assert right.oracles[oracle].max_error <= 1e-12
    assert [verdict.status for verdict in wrong] == ["failed", "failed", "failed"]


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda e: e.tag)
def test_every_equation_has_three_independent_oracles(equation):
    """Four if one of its claims is polynomial; test_claims shows that they agree."""
    asked = set()
    for claim in equation.claims:
        if claim.kind != "value":
            asked |= {"reverse", "forward", "differences"}
        if definition_of(claim):
            asked.add("symbolic")
        if claim.polynomial:
            asked.add("exact")
    assert len(asked) >= 3 + any(claim.polynomial for claim in equation.claims)


# Shapes alone; a loss that is itself an argument; a part of a Jacobian, which has a claim of its own.
UNDEFINED = {"_slide_shapes", "gradient_descent", "of_jacobian"}


def test_every_claim_has_a_definition_with_the_parameters_of_its_reference():
    for claim in (claim for equation in EQUATIONS for claim in equation.claims):
        definition, reference = definition_of(claim), claim.reference
        assert (definition is None) == (reference.__name__ in UNDEFINED), reference.__name__
        if definition:
            assert definition is getattr(definitions, reference.__name__)
            ours, theirs = inspect.signature(definition), inspect.signature(reference)
            assert list(ours.parameters)[1:] == list(theirs.parameters), reference.__name__


def test_magnitudes_degree_and_unit_are_followed():
    x, W = jnp.array([3.0, -2.0]), jnp.array([[1.0, -5.0], [7.0, 0.0]])
    out, peak, degree = exact.evaluate(lambda v: jnp.sum((v[0] @ jnp.maximum(v[1], 0)) ** 2) / 4, (W, x))
    assert (float(out), int(degree)) == ((3**2 + 21**2) / 4, 4)
    assert peak == (3 + 10) ** 2 + 21**2  # in quarters, with every sign turned to plus
    assert exact.evaluate(lambda v: (v**3).sum() * 2.0**50, x)[1] > exact.LARGEST


@pytest.mark.parametrize("fn", [jnp.exp, lambda x: x / 3, lambda x: 0.1 * x, lambda x: 1 / x])
def test_steps_that_round_in_float64_are_refused(fn):
    with pytest.raises(exact.NotExactError):
        exact.evaluate(fn, jnp.ones(3))


def test_steps_that_the_result_does_not_need_are_left_out():
    assert exact.evaluate(lambda x: [2 * x, jnp.exp(x)][0], jnp.ones(3))[2] == 1


def is_polynomial(claim: Claim) -> bool:
    """Whether `exact` could follow the reference's value or derivative."""
    dout, inputs = drawn(claim, Draw(np.random.default_rng(0), jnp.dtype(jnp.float64), "integers", 4))
    arrays, settings = split_settings(inputs)
    degrees = []

    def follow(point):
        out, _, degree = exact.evaluate(lambda v: oracle_of(claim)(v[0], {**v[1], **settings}), point)
        degrees.append(degree)
        return out

    try:
        follow((dout, arrays))
    except exact.NotExactError:
        return False
    return degrees[0] > 0


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda e: e.tag)
def test_claims_state_correctly_whether_they_are_polynomial(equation):
    for claim in equation.claims:
        if claim.polynomial:
            assert is_polynomial(claim) or claim.kind == "jacobian", claim.says


@pytest.mark.skipif(not hasattr(os, "getsid"), reason="no os.getsid here (Windows): there are no sessions")
def test_ctrl_c_does_not_reach_the_symbolic_helper():
    assert os.getsid(start_sympy().pid) != os.getsid(0)
