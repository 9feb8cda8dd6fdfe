"""LaTeX as MathML, and short texts with formulas and code in them as HTML."""

import functools
import re

from latex2mathml.converter import convert
from markupsafe import Markup, escape

# MathML Core, which browsers speak, knows no mathvariant but normal: such digits have letters of their own.
_DIGITS = {"double-struck": "𝟘𝟙𝟚𝟛𝟜𝟝𝟞𝟟𝟠𝟡", "bold": "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗"}
_MARKED = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|`(.+?)`|\[\[(.+?)\]\]|\*(.+?)\*", re.DOTALL)


@functools.cache
def mathml(latex: str, display: str = "inline", label: str = "") -> Markup:
    r"""``latex`` as a ``math`` element.

    Args:
        latex: a formula, without dollars.
        display: ``inline`` or ``block``.
        label: its alternative text; the formula's LaTeX by default.

    >>> mathml(r"x^2")
    Markup('<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline"><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math>')
    """
    text = convert(latex, display=display)
    for variant, digits in _DIGITS.items():
        text = re.sub(
            rf'<mn mathvariant="{variant}">(\d)</mn>', lambda m, d=digits: f"<mn>{d[int(m[1])]}</mn>", text
        )
    text = re.sub(r' mathvariant="[^"]*"', "", text)
    text = text.replace("<mo>&#x022A4;</mo>", "<mo>⊤</mo>").replace("<mo>&#x02015;</mo>", "<mo>_</mo>")
    text = re.sub(r"<mo>([A-Za-z][A-Za-z ]+)</mo>", r"<mi>\1</mi>", text)  # names of functions
    if label:
        text = text.replace("<math ", f'<math aria-label="{escape(label)}" ', 1)
    return Markup(text)


def marked(text: str) -> Markup:
    r"""Text with ``$formula$``, ``$$formula on a line of its own$$``, ```code```, ``*stress*``, ``[[A-10]]``.

    >>> str(marked("see [[A-10]] & `f`"))
    'see <a class="tag" href="lecture-a.html#A-10">A-10</a> &amp; <code>f</code>'
    """
    parts, end = [], 0
    for found in _MARKED.finditer(text):
        parts += [escape(text[end : found.start()]), _piece(*found.groups())]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def _piece(block: str, inline: str, code: str, tag: str, stressed: str) -> Markup:
    if block:
        return Markup('<span class="display">') + mathml(block, "block") + Markup("</span>")
    if inline:
        return mathml(inline)
    if code:
        return Markup("<code>{}</code>").format(code)
    if tag:
        return link(tag)
    return Markup("<em>{}</em>").format(stressed)


def link(tag: str) -> Markup:
    """A link to an equation or erratum by its tag."""
    return Markup('<a class="tag" href="lecture-{}.html#{}">{}</a>').format(tag[0].lower(), tag, tag)
