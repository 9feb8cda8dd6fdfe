"""Formulas break where a mathematician would break them."""

from xml.etree import ElementTree

import pytest

from manual_grad.report.mathml import mathml

LONG = "A_{aaaaaaaaaaaaaaaaaaaaaaaaa}"  # there is room for one of them on a telephone, not for two


def shown(element):
    """The lines of a formula; parts that may come apart with a bar between them, finer ones in brackets."""
    if element.tag.endswith("math"):
        return "".join(element.itertext()).replace("a" * 25, "…")
    inner = ("" if element.get("class") == "lines" else " | ").join(map(shown, element))
    return {"lines": inner, "eqline": f"{inner} / ", "part": f"[{inner}]"}[element.get("class")]


@pytest.mark.parametrize(
    ("latex", "parts"),
    [
        ("a = -b + c", "a | =−b+c / "),
        (r"a = b, \quad c = d", "[a | =b,] | [c | =d] / "),
        (r"f(a, b) = \max(c = d)", "f(a,b) | =max(c=d) / "),
        (r"a \quad \Rightarrow \quad b", "a | ⇒b / "),
        (r"\begin{array}{l} a = b \\ c \end{array}", "a | =b / c / "),
        (rf"a = -{LONG} + {LONG} - c", "a | [=−A… | +A… | −c] / "),
        (rf"a = -{LONG} \odot {LONG}", "a | [=−A… | ⊙A…] / "),
        (rf"a = 2 \left( {LONG} + {LONG} \right)", "a | [=2(A… | +A…)] / "),
        (
            r"a = b \begin{pmatrix} 1 & 2 & 3 & 4 & 5 & 6 & 7 & 8 & 9 \end{pmatrix}",
            "a | [=b | (123456789)] / ",
        ),
        (r"a = \frac{b = c}{d}", "a | =b=cd / "),
    ],
)
def test_a_formula_breaks_at(latex, parts):
    assert shown(ElementTree.fromstring(mathml(latex, "block"))) == parts


def test_unbreakable_parts_carry_their_width():
    assert 'class="wide" style="--em:' in mathml(rf"\frac{{{LONG}{LONG}}}{{b}}", "block")
    assert "wide" not in mathml(r"\frac{a + b}{c}", "block")


def test_signs_are_not_operations_and_primes_are_not_raised_twice():
    assert mathml("a = -b - c").count('form="prefix"') == 1
    assert "msup" not in mathml("f'(x)")
