"""The checks are checked: what is wrong must not pass, whatever is wrong with it."""

import functools
import subprocess
import sys
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad_reference as reference
from manual_grad.compare import TOLERANCES, compare
from manual_grad.formulas.mse import mse_bwd, mse_fwd
from manual_grad.formulas.softmax import softmax_bwd, softmax_fwd
from manual_grad.lectures.entries import Claim, Equation, Erratum, pulled
from manual_grad.verify import equations

RIGHT = pulled(mse_fwd, mse_bwd)


def vectors(draw):
    return {"y_hat": draw.normal(7), "y": draw.normal(7)}


def equation(formula):
    claim = Claim("gradient", reference.mse.mse, ("y_hat", "y"), vectors, {"tried": formula})
    return Equation("A-04", "mse", "here", "J", (claim,))


def test_right_formula_is_verified():
    assert equations.verify(equation(RIGHT), jnp.float64, 0).status == "verified"


WRONG = {
    "sign": lambda dJ, **p: {k: -g for k, g in RIGHT(dJ, **p).items()},
    "zero": lambda dJ, **p: {k: 0 * g for k, g in RIGHT(dJ, **p).items()},
    "cotangent ignored": lambda dJ, **p: RIGHT(jnp.ones_like(dJ), **p),
    "off by 1e-9": lambda dJ, **p: {k: (1 + 1e-9) * g for k, g in RIGHT(dJ, **p).items()},
    "one entry": lambda dJ, **p: {k: g.at[3].multiply(1 + 1e-9) for k, g in RIGHT(dJ, **p).items()},
    "one argument": lambda dJ, **p: RIGHT(dJ, **p) | {"y": jnp.zeros(7)},
    "NaN": lambda dJ, **p: {k: g.at[0].set(jnp.nan) for k, g in RIGHT(dJ, **p).items()},
    "shape": lambda dJ, **p: {k: g[:, None] for k, g in RIGHT(dJ, **p).items()},
    "scalar": lambda dJ, **p: {k: g.sum() for k, g in RIGHT(dJ, **p).items()},
    "dtype": lambda dJ, **p: {k: g.astype(jnp.float32) for k, g in RIGHT(dJ, **p).items()},
    "an argument missing": lambda dJ, **p: (RIGHT(dJ, **p)["y_hat"],),
    "an error": lambda dJ, **p: RIGHT(dJ, **p)["nothing"],
}


@functools.cache
def wrong_formulas(dtype):
    """The verdict on each of the wrong formulas."""
    found = equations.verify_all([equation(wrong) for wrong in WRONG.values()], jnp.dtype(dtype), 0)
    return dict(zip(WRONG, found, strict=True))


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_formula_fails(mistake):
    verdict = wrong_formulas("float64")[mistake]
    assert verdict.status == "failed"
    assert verdict.failures
    assert verdict.failures[0].startswith("tried: ")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("mistake", ["sign", "zero", "cotangent ignored", "NaN", "shape"])
def test_wrong_formula_fails_in_low_precision(mistake, dtype):
    assert wrong_formulas(dtype)[mistake].status == "failed"


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_lost_mean_fails_in_every_dtype(dtype):
    """Off by 1/N, by N, by 2."""
    formula = pulled(softmax_fwd, softmax_bwd)

    def off_by(factor):
        claim = Claim(
            "gradient",
            reference.softmax.softmax,
            ("logits",),
            lambda draw: {"logits": draw.normal(5, 3)},
            {"tried": lambda dout, **p: {k: factor * g for k, g in formula(dout, **p).items()}},
        )
        return Equation("A-08", "softmax", "here", "J", (claim,))

    found = equations.verify_all([off_by(factor) for factor in (1, 1 / 5, 5, 2)], jnp.dtype(dtype), 0)
    assert [verdict.status for verdict in found] == ["verified", "failed", "failed", "failed"]


def large(formula):
    """A problem so large that forward mode is asked for projections."""
    claim = Claim(
        "gradient",
        reference.softmax.softmax,
        ("logits",),
        lambda draw: {"logits": draw.normal(71, 31)},
        {"tried": formula},
    )
    return Equation("A-08", "softmax", "here", "J", (claim,))


def test_projections_pass_the_right_answer_and_detect_one_wrong_entry():
    right = pulled(softmax_fwd, softmax_bwd)
    verdict = equations.verify(large(right), jnp.float64, 0)
    assert verdict.status == "verified"
    assert verdict.oracles["forward"].max_error > 0

    def wrong(dout, logits):
        return right(dout, logits=logits)["logits"].at[70, 30].multiply(1 + 1e-6)

    verdict = equations.verify(large(wrong), jnp.float64, 0)
    assert not verdict.oracles["forward"].passed
    assert not verdict.oracles["reverse"].passed


def erratum(as_printed, corrected=RIGHT):
    claim = Claim("gradient", reference.mse.mse, ("y_hat",), vectors, {"mse_bwd": corrected})
    return Erratum("A-E1", "t", "s", "p", "c", "A-04", "why", claim, as_printed)


def test_erratum_with_a_wrong_number_is_refuted_with_it():
    verdict = equations.verify(erratum(WRONG["sign"]), jnp.float64, 0)
    assert verdict.status == "erratum"
    assert "got" in verdict.counterexample


def test_erratum_with_clashing_shapes_is_refuted_by_them():
    verdict = equations.verify(erratum(lambda dJ, y_hat, y: jnp.ones(3) + jnp.ones(4)), jnp.float64, 0)
    assert verdict.status == "erratum"
    assert "clash" in verdict.counterexample


def test_erratum_that_is_right_after_all_fails():
    assert equations.verify(erratum(RIGHT), jnp.float64, 0).status == "failed"


def test_erratum_whose_correction_is_wrong_fails():
    assert equations.verify(erratum(WRONG["sign"], WRONG["zero"]), jnp.float64, 0).status == "failed"


def test_seed_and_tag_decide_the_inputs():
    seen = []

    def spy(dJ, y_hat, y):
        return RIGHT(dJ, y_hat=y_hat, y=y)

    def inputs(draw):
        seen.append(np.asarray(draw.normal(7)))
        return vectors(draw)

    first = equation(spy)
    noisy = replace(first, claims=(replace(first.claims[0], inputs=inputs),))
    for tag, seed in (("A-04", 0), ("A-04", 0), ("A-04", 1), ("A-05", 0)):
        equations.verify(replace(noisy, tag=tag), jnp.float64, seed, ("reverse",))
    assert (seen[0] == seen[1]).all()
    assert not (seen[0] == seen[2]).any()
    assert not (seen[0] == seen[3]).any()


def test_compare_looks_at_structure_shape_and_dtype_first():
    one = jnp.ones(2)
    assert compare([one], (one,), jnp.float64)[0].error == np.inf
    assert "shape" in compare(one, jnp.ones((2, 1)), jnp.float64)[0].detail
    assert "dtype" in compare(one.astype(jnp.float32), one, jnp.float64)[0].detail
    assert compare(one, one, jnp.float64)[0].error == 0


def test_compare_treats_nan_and_infinity_as_numbers_to_match():
    nan, inf = jnp.array([jnp.nan, 1.0]), jnp.array([jnp.inf, 1.0])
    assert compare(nan, nan, jnp.float64)[0].error == 0
    assert compare(inf, inf, jnp.float64)[0].error == 0
    assert compare(nan, inf, jnp.float64)[0].error == np.inf
    assert compare(-inf, inf, jnp.float64)[0].error == np.inf
    assert compare(jnp.array([1.0, 1.0]), nan, jnp.float64)[0].error == np.inf


def test_entries_in_one_program_do_not_affect_each_other():
    """Each gets the same verdict as alone, next to one that raises and one that is wrong."""
    entries = [equation(RIGHT), equation(WRONG["an error"]), erratum(WRONG["sign"]), equation(WRONG["zero"])]
    oracles = ("value", "reverse", "forward", "differences", "exact")
    found = equations.verify_all(entries, jnp.float64, 0, oracles)
    assert [verdict.status for verdict in found] == ["verified", "failed", "erratum", "failed"]
    for entry, verdict in zip(entries, found, strict=True):
        alone = equations.verify(entry, jnp.float64, 0, oracles)
        assert (alone.failures, alone.inputs) == (verdict.failures, verdict.inputs)
        assert alone.oracles.keys() == verdict.oracles.keys()


PROGRAMS = """
import jax
jax.config.update("jax_enable_x64", True)
from manual_grad.lectures import EQUATIONS
from manual_grad.verify import equations
programs = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: programs.append(event) if "backend_compile_duration" in event else None
)
(entry,) = (e for e in EQUATIONS if e.tag == "A-08")
print(equations.verify(entry, "float64", 0).status, len(programs))
"""


def test_an_equation_compiles_few_programs():
    """Its formulas in one, its oracles in another; single operations on small arrays belong to NumPy."""
    done = subprocess.run([sys.executable, "-c", PROGRAMS], capture_output=True, text=True)
    status, programs = done.stdout.split()
    assert (status, 0 < int(programs) <= 3) == ("verified", True), (done.stdout, done.stderr)
