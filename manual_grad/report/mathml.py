"""LaTeX as MathML, and short texts with formulas and code in them as HTML."""

import functools
import re
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markupsafe import Markup, escape

from manual_grad.lectures import CHAPTERS

# MathML Core knows no mathvariant but normal: such digits have characters of their own.
_DIGITS = {"double-struck": "𝟘𝟙𝟚𝟛𝟜𝟝𝟞𝟟𝟠𝟡", "bold": "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗"}
_LIMITS = {"msubsup": "munderover", "msub": "munder"}  # of a sum: under and over it
SPACE = "{http://www.w3.org/1998/Math/MathML}"
ElementTree.register_namespace("", SPACE[1:-1])
_MARKED = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$([.,;:)?]*)|`(.+?)`|\[\[(.+?)\]\]|\*(.+?)\*", re.DOTALL)


@functools.cache
def mathml(latex: str, display: str = "inline", label: str = "", style: str = "") -> Markup:
    r"""``latex`` as a ``math`` element.

    Args:
        latex: a formula, without dollars.
        display: ``inline`` or ``block``.
        label: its alternative text; the formula's LaTeX by default.
        style: its displaystyle, where it is not the one of ``display``.

    >>> mathml(r"x^2")  # doctest: +ELLIPSIS
    Markup('<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline"><mrow>...')
    """
    root = ElementTree.fromstring(convert(latex, display=display))
    _mend(root)
    row = root[0] if len(root) else root
    if display == "inline" and len(row) > 1 and row[0].text in ("=", "+"):
        row[0].attrib |= {"lspace": "0em", "rspace": "0.28em"}  # it goes on from another formula
    if style:
        root.set("displaystyle", style)
    if label:
        root.set("aria-label", label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def breakable(latex: str) -> list[str]:
    r"""A formula in a line of text, cut where the line may break: before ``=``, in long parts before ``+``.

    >>> breakable(r"a = \frac{b = c}{d} = e")
    ['a', '= \\frac{b = c}{d}', '= e']
    """
    parts = _cut(latex, " = ")
    return [piece for part in parts for piece in (_cut(part, " + ") if len(part) > 60 else [part])]


def wrapped(latex: str) -> Markup:
    """A formula on a line of its own, which may go on in the next before a sign, and between two factors."""
    parts = [latex]
    for sign in (" = ", " + ", " - ", r" \cdot ", r" \; ", r" \quad "):
        parts = [piece for part in parts for piece in _cut(part, sign)]
    pieces = [
        re.sub(r"^(- |\\cdot )", r"{} \1", part.removeprefix(r"\; ")) for part in parts[1:]
    ]  # no signs of one number
    return Markup(" ").join(mathml(piece, "inline", style="true") for piece in (parts[0], *pieces))


def _cut(latex: str, sign: str) -> list[str]:
    """Cut before every ``sign`` that stands in no braces, no brackets and no environment."""
    depth, start, parts = 0, 0, []
    for place, letter in enumerate(latex):
        depth += (letter in "{([") - (letter in "})]")
        depth += latex.startswith(r"\begin", place) - latex.startswith(r"\end", place)
        if depth == 0 and latex.startswith(sign, place) and latex[start:place].strip():
            parts.append(latex[start:place].strip())
            start = place
    return [*parts, latex[start:].strip()]


def _mend(element: ElementTree.Element) -> None:
    """What MathML Core, which browsers speak, wants otherwise than the library writes it."""
    for parent in list(element.iter()):
        children = list(parent)
        for place, child in enumerate(children):
            kind, content = child.tag.removeprefix(SPACE), child.text or ""
            variant = child.attrib.pop("mathvariant", "")
            if kind == "mn" and variant in _DIGITS:
                child.text = "".join(_DIGITS[variant][int(digit)] for digit in content)
            elif kind == "mo" and re.fullmatch(r"[A-Za-z][A-Za-z ]+", content):
                child.tag = SPACE + "mi"  # a function's name
                follower = "".join(children[place + 1].itertext()) if place + 1 < len(children) else "("
                if follower not in ("(", "[", "{") and not parent.tag.endswith(("sup", "sub")):
                    gap = ElementTree.Element(SPACE + "mspace", width="0.17em")
                    parent.insert(list(parent).index(child) + 1, gap)
            elif kind == "mi" and content == "′":
                child.tag = SPACE + "mo"
            elif kind == "mo" and content == "⊤":
                child.tag = SPACE + "mi"  # a letter's spacing
            elif kind == "munder" and child[1].text == "―":  # a blank, which browsers do not underline
                child.tag = SPACE + "mrow"
                child.set("class", "blank")
                child.remove(child[1])
            elif kind in _LIMITS and (child[0].text or "") == "∑":
                child.tag = SPACE + _LIMITS[kind]


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


def _piece(block: str, inline: str, after: str, code: str, tag: str, stressed: str) -> Markup:
    if block:
        return Markup('<span class="display">') + mathml(block, "block") + Markup("</span>")
    if inline:
        *first, last = map(mathml, breakable(inline))
        last = Markup('<span class="whole">{}{}</span>').format(last, after) if after else last
        return Markup(" ").join([*first, last])
    if code:
        return Markup("<code>{}</code>").format(code)
    if tag:
        return link(tag)
    return Markup("<em>{}</em>").format(stressed)


_TAG = rf"\b([{''.join(CHAPTERS)}]-E?\d+)\b"


def link(tag: str) -> Markup:
    """A link to an equation or erratum by its tag."""
    return Markup('<a class="tag" href="{}.html#{}">{}</a>').format(CHAPTERS[tag[0]].slug, tag, tag)


def pretty(text: str) -> Markup:
    """A plain text of the ledger: its tags become links, and its indices stand below the line.

    >>> str(pretty("y_j for y_{l+1}, see A-10"))
    'y<sub>j</sub> for y<sub>l+1</sub>, see <a class="tag" href="lecture-a.html#A-10">A-10</a>'
    """
    return Markup(re.sub(_TAG, lambda m: str(link(m[1])), str(indexed(text))))


def indexed(text: str) -> Markup:
    """A plain text of the ledger with its indices below the line."""
    html = str(escape(text))
    html = re.sub(r"(?<=\w)_\{([^}]+)\}", r"<sub>\1</sub>", html)
    html = re.sub(r"(?<=\w)\^(\w)", r"<sup>\1</sup>", html)
    html = re.sub(r"(?<=</sup>)_(\w{1,2})\b", r"<sub>\1</sub>", html)
    html = html.replace("ᵀ", "<sup>T</sup>")  # not every font has it
    return Markup(re.sub(r"(?<![\w_])(\w{1,3})_(\w{1,2})(?![\w_])", r"\1<sub>\2</sub>", html))
