"""How cost grows: exponents of known costs, and cases over three decades."""

from dataclasses import replace

import numpy as np
import pytest

from manual_grad.catalogue import FORMULAS
from manual_grad_benchmarks import cases, run, scale

SIZES = (4, 16, 64, 256, 1024, 4096)
KNOWN = {  # c, b, p
    "a power": (0, 3e-9, 2),
    "a call, and a power": (2e-5, 1e-9, 1.5),
    "mostly the call": (1e-3, 2e-6, 1),
    "a constant": (4e3, 0, 0),
    "nearly a constant": (1.0, 1e-5, 1),
}


def errors(noise=0.0):
    """The error of each known exponent."""
    rng, found = np.random.default_rng(0), {}
    for name, (c, b, p) in KNOWN.items():
        costs = [(c + b * n**p) * rng.lognormal(0, noise) for n in SIZES]
        want = 0 if max(costs) < 1.5 * min(costs) else p
        found[name] = abs(scale.fit(SIZES, costs)["p"] - want)
    return found


def test_known_exponents_are_found():
    assert max(errors().values()) < 0.006
    assert max(errors(noise=0.05).values()) < 0.15


def without_the_call(n, cost, p):
    slope = np.polyfit(np.log(n), np.log(cost), 1)[0]
    return {"squares": (slope - p) ** 2, "p": p}


@pytest.mark.parametrize(
    ("part", "wrong", "noticed"),
    [
        ("EXPONENTS", np.arange(0, 1.6, 0.01), "a power"),
        ("FLAT", 1e9, "a call, and a power"),
        ("_fitted", lambda n, cost, p, right=scale._fitted: right(n, cost**0.5, p), "a power"),
        ("_fitted", without_the_call, "mostly the call"),
    ],
)
def test_a_wrong_fit_is_noticed(part, wrong, noticed, monkeypatch):
    monkeypatch.setattr(scale, part, wrong)
    assert errors()[noticed] > 0.1


def test_what_is_never_allocated_has_no_exponent():
    assert scale.fit(SIZES, [0] * 6) is scale.fit(SIZES, [0, 0, 0, 0, 8, 16]) is None
    assert scale.exponent(None) == "–"
    some = scale.fit(SIZES, [0, *(64 * n for n in SIZES[1:])])
    assert some["p"] == pytest.approx(1)
    assert some["off"] < 1e-9


def test_each_family_has_a_formula_over_three_decades():
    found = cases.scale_cases()
    lengths = {}
    for case in found:
        lengths.setdefault(case.grown["family"], []).append(case.grown["n"])
    assert set(lengths) == {
        "elementwise", "norm", "loss", "matrix product", "attention", "streaming attention", "recurrent",
        "scan", "convolution", "pooling", "linear algebra", "embedding",
    }  # fmt: skip
    assert all(sizes == sorted(sizes) and sizes[-1] >= 1000 * sizes[0] for sizes in lengths.values())
    assert [case.exact for case in found[:6]] == [True, *5 * [False]]


def test_a_scale_is_measured():
    formula = FORMULAS["embedding"]
    tiny = replace(formula.bench.scale, sizes=(1, 4, 16, 64), fixed={"V": 5, "D": 3})
    bench = tiny.of(formula.bench)
    some = [
        replace(case, grown={"family": "embedding", "axes": "N", "n": n})
        for case, n in zip(cases._pair_cases(replace(formula, bench=bench)), tiny.sizes, strict=True)
    ]
    rows = [run.measure(case, run.Settings("float64", quick=True)) for case in some]
    (found,) = scale.scales(rows)
    assert (found["sizes"], found["family"]) == ([1, 4, 16, 64], "embedding")
    for side in ("manual", "autodiff"):
        assert all(seconds > 0 for seconds in found["sides"][side]["seconds"])
        assert 0 <= found["sides"][side]["time"]["p"] <= 4
    assert len(scale.table([found]).rows) == 1
