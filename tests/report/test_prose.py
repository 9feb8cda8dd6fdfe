"""Every equation has its derivation, and the shapes that it states are those of the check."""

import re

import numpy as np
import pytest

from manual_grad.formulas.border import describe
from manual_grad.lectures import EQUATIONS, LECTURES
from manual_grad.lectures.entries import Draw
from manual_grad.report.mathml import marked
from manual_grad.report.pages import _input
from manual_grad.report.prose import TEXTS, derivations, introduction


@pytest.mark.parametrize("letter", LECTURES)
def test_every_equation_has_a_derivation(letter):
    assert list(derivations(letter)) == [e.tag for e in EQUATIONS if e.lecture == letter]
    assert introduction(letter)
    for tag, text in derivations(letter).items():
        assert text.paragraphs, tag
        assert text.shapes, tag
        for paragraph in (*text.paragraphs, *introduction(letter)):
            html = str(marked(paragraph))
            assert not re.findall(r"[$`\\]|\[\[", html), (tag, paragraph)
            assert set(re.findall(r"[A-D]-\d\d", html)) <= {e.tag for e in EQUATIONS}


def test_derivations_are_plain_files_of_ours():
    assert {p.stem for p in TEXTS.iterdir()} == {f"lecture_{letter.lower()}" for letter in LECTURES}


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda e: e.tag)
def test_shapes_fit_the_inputs_of_the_claims(equation):
    """Each stated tensor that is an input fits in some claim, its letters being one size each there."""
    stated = dict(derivations(equation.lecture)[equation.tag].shapes)
    fitting, present = set(), set()
    for claim in equation.claims:
        inputs = claim.inputs(Draw(np.random.default_rng(0), np.float32, "integers"))
        shapes = {name: _shape_of(name, inputs) for name in stated}
        shapes = {name: shape for name, shape in shapes.items() if shape is not None}
        present |= set(shapes)
        if fits({name: stated[name] for name in shapes}, shapes):
            fitting |= set(shapes)
    assert present == fitting


def fits(stated, shapes):
    """Whether every axis has one size; a number is the lecture's size, which a check may make smaller."""
    sizes: dict[str, int] = {}
    for name, axes in stated.items():
        if len(axes) != len(shapes[name]):
            return False
        for axis, size in zip(axes, shapes[name], strict=True):
            limit = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            if size > limit or (size < limit and not axis.isdigit()):
                return False
    return True


def test_a_wrong_shape_is_seen():
    shapes = {"X": (7, 3), "W": (3, 5)}
    assert fits({"X": ("N", "d"), "W": ("d", "m")}, shapes)
    assert not fits({"X": ("N", "d"), "W": ("m", "d")}, shapes)
    assert not fits({"X": ("N", "d"), "W": ("d",)}, shapes)
    assert not fits({"X": ("6", "d"), "W": ("d", "m")}, shapes)


def _shape_of(name, inputs):
    described = {}
    for key, value in inputs.items():
        if key == "params":
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for place, leaf in pairs:
                if isinstance(leaf, tuple):
                    described |= {f"params[{place}][{k}]": describe(part) for k, part in enumerate(leaf)}
                else:
                    described[f"params[{place!r}]"] = describe(leaf)
        else:
            described[key] = describe(value)
    found = re.search(r"\[([\d,]*)\]", _input(name, described))
    return None if not found else tuple(int(n) for n in found[1].split(",") if n)
