"""Every equation has its derivation, and the shapes of every tensor in it, which are those of the check."""

import re

import jax
import numpy as np
import pytest

from manual_grad.catalogue.draw import Draw
from manual_grad.lectures import CHAPTERS, EQUATIONS, LECTURES
from manual_grad.report.mathml import marked
from manual_grad.report.prose import TEXTS, derivations, introduction, parse_shapes
from manual_grad.report.shapes import axis_size, check_sizes, given_of, rows, sizes_of
from manual_grad.report.steps import Step

# What a symbol of an equation is called in the code, where that is another letter; l counts layers too.
CODE_NAMES = {
    r"\theta": "theta", r"\alpha": "alpha", r"\delta": "delta", r"\mathcal{K}": "K", r"\mathbf{1}": "1_n 1_m",
    r"\hat{y}": "y_hat probs", r"\hat{Y}": "Ŷ probs", "y": "y labels Y", "Y": "Y y labels", "l": "logits W2",
    "L": "L logits", "p": "p P", "X": "X x images", "x": "x X", "W": "W w", "w": "w W", "F": "f", "z": "z Z",
    "a": "a A", "A": "A a", "Z": "Z z", "g": "g gate", "u": "up", "Q": "q", "V": "v V", "O": "O out",
    "dout": "dout", "ids": "ids", "dtable": "dtable", "keep": "keep", "rate": "rate",
    "dwte": "dwte", "dwpe": "dwpe",
}  # fmt: skip
NO_TENSORS = {"N", "n", "m", "K", "M", "e", "i", "j", "k", "d", "R", "I", "q", "b", "f", "ReLU", "rate"}


def reasons_of(text):
    """The reasons of a derivation's steps."""
    return [line.why for part in text.parts for line in part if isinstance(line, Step)]


@pytest.mark.parametrize("letter", LECTURES)
def test_every_equation_has_a_derivation(letter):
    assert sorted(derivations(letter)) == [e.tag for e in EQUATIONS if e.lecture == letter]
    assert introduction(letter)
    for tag, text in derivations(letter).items():
        assert text.parts, tag
        assert text.shapes, tag
        for paragraph in (*text.paragraphs, *reasons_of(text), *introduction(letter)):
            html = str(marked(paragraph))
            assert not re.findall(r"[$`\\]|\[\[", html), (tag, paragraph)
            assert set(re.findall(r"\b[A-Z]-\d\d", html)) <= {e.tag for e in EQUATIONS}


def test_equations_come_in_the_order_of_the_lectures():
    """A begins with its CNN; B asks for W¹ and needs z and a on the way."""
    first, *_ = derivations("A")
    assert first == "A-11"
    assert list(derivations("B"))[2:8] == ["B-03", "B-04", "B-07", "B-06", "B-05", "B-08"]


def test_derivations_are_plain_files_of_ours():
    assert {p.stem for p in TEXTS.iterdir()} == {
        chapter.slug.replace("-", "_") for chapter in CHAPTERS.values()
    }


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda e: e.tag)
def test_shapes_fit_the_inputs_of_the_claims(equation):
    """Each stated tensor that is an input matches some claim, with one size per letter."""
    for shapes in derivations(equation.lecture)[equation.tag].shapes:
        names = {name for name, _ in shapes.tensors}
        fitting = [names & g.keys() for g in given_of(equation.tag) if sizes_of(shapes, g) is not None]
        assert shapes.of or set().union(*fitting) == names & set().union(*given_of(equation.tag))
        assert any(fitting), shapes.of
        free = {"f", "∂f/∂x"} if shapes.of.startswith("a vector f of a scalar") else set()
        sizes = check_sizes(shapes, equation.tag)
        unknown = [name for name, axes in shapes.tensors if any(axis_size(a, sizes) is None for a in axes)]
        assert set(unknown) == free


@pytest.mark.parametrize("tag", ["B-13", "C-07", "C-08", "C-11", "D-09"])
def test_shapes_of_results_are_those_of_the_reference(tag):
    """For a value by its name, for a Jacobian by its function."""
    (equation,) = (e for e in EQUATIONS if e.tag == tag)
    stated, found = derivations(tag[0])[tag].shapes, 0
    for claim, given in zip(equation.claims, given_of(tag), strict=True):
        inputs = claim.inputs(Draw(np.random.default_rng(0), np.float32))
        settings = {name: value for name, value in inputs.items() if not hasattr(value, "shape")}
        if len(claim.wrt) != 1 or claim.kind == "gradient" or settings not in ({}, {"mode": "full"}):
            continue
        out = jax.eval_shape(lambda c=claim, i=inputs: c.reference(**i))
        for shapes in stated:
            for name, axes in shapes.tensors:
                of, _, by = name.replace("∂", "").partition("/")
                if (of, by) != (claim.wrt[0], "") if claim.kind == "value" else by != claim.wrt[0]:
                    continue
                want = out.shape + given.get(by, ())
                sizes = sizes_of(shapes, given)
                if sizes and None not in (got := [axis_size(axis, sizes) for axis in axes]):
                    found += tuple(got) == want
                    assert tuple(got) == want, (name, claim.reference.__name__)
    assert found


def symbols(latex):
    """The letters of a formula that stand for tensors; what is below or above the line is taken off."""
    latex = re.sub(r"\\(operatorname|text|begin|end|mathbb)\{[^}]*\}(\{[a-z]*\})?", " ", latex)
    latex = re.sub(r"(?<=[A-Z])\[[^]]*\]", "", latex)
    latex = re.sub(r"\\vec\{([^}\\]*|\\hat\{y\})\}", r"\1", latex)
    while (less := re.sub(r"[_^](\{[^{}]*\}|\\?\w)", "", latex)) != latex:
        latex = less
    words = r"\\hat\{[yY]\}|\\mathcal\{K\}|\\mathbf\{1\}|\\[a-zA-Z]+|[A-Za-z]+"
    for word in re.findall(words, latex):
        if word in CODE_NAMES or not word.startswith("\\"):
            yield from [word] if word in CODE_NAMES else word.removeprefix("d")


def lacking(latex, names):
    """The symbols of a formula that are no stated tensor."""
    plain = {re.sub(r"[\d_].*|ᵀ| .*", "", n.removeprefix("d") if n[1:] else n) for n in names} | set(names)
    parts = {part for n in names for part in re.split(r"[/∂ ()]", n)}
    known = plain | parts | {re.sub(r"\d.*", "", part) for part in parts}
    wanted = {s: set(CODE_NAMES.get(s, s).split()) for s in symbols(latex)}
    return {s for s, called in wanted.items() if s not in NO_TENSORS and called.isdisjoint(known)}


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda e: e.tag)
def test_every_tensor_of_an_equation_has_its_shape(equation):
    shapes = derivations(equation.lecture)[equation.tag].shapes
    names = [name for one in shapes for name, _ in one.tensors]
    sizes = {axis for one in shapes for _, axes in one.tensors for axis in axes}
    assert lacking(equation.corrected or equation.printed, names) <= sizes


def test_a_tensor_without_its_shape_is_detected():
    assert lacking(r"\frac{\partial J}{\partial W^{(1)}} = dZ \cdot x^{\top}", ["dW1", "dZ"]) == {"J", "x"}
    assert not lacking(r"\delta^L = \hat{y} - y", ["delta", "y_hat", "y"])


def test_a_wrong_shape_is_detected():
    shapes = {"X": (7, 3), "W": (3, 5)}
    assert sizes_of(parse_shapes("shapes: X N×d, W d×m"), shapes) == {"N": 7, "d": 3, "m": 5}
    assert sizes_of(parse_shapes("shapes: X N×d, W d×m, Z N×m; m = N − d + 1"), shapes | {"Z": (7, 5)})
    for wrong in ("X N×d, W m×d", "X N×d, W d", "X 6×d, W d×m", "X N×d, W d×m; m = N + d"):
        assert sizes_of(parse_shapes(f"shapes: {wrong}"), shapes) is None, wrong


def test_conv2d_does_not_take_the_place_of_the_equations_image():
    (_, image), (_, batch) = rows("C-08")
    assert [shown for *_, shown in image] == ["3×3", "2×2", "2×2"]
    assert [len(shown.split("×")) for *_, shown in batch] == [4, 4, 1, 4]
