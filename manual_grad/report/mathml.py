"""Convert LaTeX to MathML, and short texts with formulas and code to HTML."""

import functools
import re
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markupsafe import Markup, escape

from manual_grad.lectures import CHAPTERS
from manual_grad.report import breaking
from manual_grad.report.breaking import SPACE

# MathML Core supports no mathvariant except normal: such digits have characters of their own.
_DIGITS = {"double-struck": "𝟘𝟙𝟚𝟛𝟜𝟝𝟞𝟟𝟠𝟡", "bold": "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗"}
OPERATORS = breaking.RELATIONS | breaking.SUMS | breaking.PRODUCTS
_LIMITS = {"msubsup": "munderover", "msub": "munder"}  # of a sum: under and over it
ElementTree.register_namespace("", SPACE[1:-1])
_MARKED = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$([.,;:)?]*)|`(.+?)`|\[\[(.+?)\]\]|\*(.+?)\*", re.DOTALL)


@functools.cache
def mathml(latex: str, display: str = "inline") -> Markup:
    r"""``latex`` as ``math`` elements, between which a line may break.

    Args:
        latex: a formula, without dollars.
        display: ``inline`` or ``block``.

    >>> str(mathml("x = y")).count("<math")
    2
    """
    root = ElementTree.fromstring(convert(latex, display=display))
    _mend(root)
    found = [Markup(" ").join(_parts(part, display) for part in line) for line in breaking.lines(root)]
    if display == "inline":
        return Markup(" ").join(found)
    made = Markup("").join(Markup('<span class="eqline">{}</span>').format(line) for line in found)
    return Markup('<span class="lines">{}</span>').format(made)


def left_sides(latex: str) -> list[Markup]:
    """The left sides of a formula's equations, each with its ``=``: what an exercise shows.

    >>> [str(side).count("<mi>") for side in left_sides("a b = c, d = f")]
    [2, 1]
    """
    root = ElementTree.fromstring(convert(latex, display="block"))
    _mend(root)
    return [Markup("{} =").format(_whole(side, "block")) for side in breaking.left_sides(root)]


def _parts(parts: breaking.Parts, display: str) -> Markup:
    """The parts between which lines may break, smaller ones nested in larger ones."""
    if all(isinstance(part, ElementTree.Element) for part in parts):
        return _whole(parts, display)
    inner = Markup(" ").join(_parts(part, display) for part in parts)
    return Markup('<span class="part">{}</span>').format(inner) if display == "block" else inner


def _whole(elements: list[ElementTree.Element], display: str) -> Markup:
    """A part that stays on one line; if it is too wide for a phone, it carries its width."""
    root, row = ElementTree.Element(SPACE + "math"), ElementTree.Element(SPACE + "mrow")
    if display == "block":
        root.set("displaystyle", "true")
    if (wide := sum(map(breaking.width, elements))) > breaking.ROOM:
        root.attrib |= {"class": "wide", "style": f"--em:{wide:.1f}"}
    row.extend(elements)
    root.append(row)
    if len(row) > 1 and breaking.is_sign(row[0], OPERATORS) and row[0].get("form") != "prefix":
        row[0].attrib |= {"lspace": "0em", "rspace": "0.28em"}  # it goes on from another part
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _mend(element: ElementTree.Element) -> None:
    """Adapt the library's output to MathML Core, which browsers support."""
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
                if follower not in ("(", "[", "{", "′") and not parent.tag.endswith(("sup", "sub")):
                    gap = ElementTree.Element(SPACE + "mspace", width="0.17em")
                    parent.insert(list(parent).index(child) + 1, gap)
            elif kind == "msup" and child[1].text == "′":  # a superscript sign: not raised again
                child.tag = SPACE + "mrow"
            elif kind == "mo" and content in "+−" and breaking.is_prefix(children, place):
                child.set("form", "prefix")
            elif kind == "mo" and content == "⊤":
                child.tag = SPACE + "mi"  # a letter's spacing
            elif kind == "munder" and child[1].text == "―":  # a blank, which browsers do not underline
                child.tag = SPACE + "mrow"
                child.set("class", "blank")
                child.remove(child[1])
            elif kind == "mover" and child[1].tag.endswith("mo"):
                child.set("accent", "true")
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
        before, mark, last = mathml(inline).rpartition("<math")
        return before + Markup('<span class="whole">{}{}{}</span>').format(mark, last, after)
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
    """A plain text of the ledger as HTML: tags become links, and indices become subscripts.

    >>> str(pretty("y_j for y_{l+1}, see A-10"))
    'y<sub>j</sub> for y<sub>l+1</sub>, see <a class="tag" href="lecture-a.html#A-10">A-10</a>'
    """
    return Markup(re.sub(_TAG, lambda m: str(link(m[1])), str(indexed(text))))


def indexed(text: str) -> Markup:
    """A plain text of the ledger with its indices as subscripts."""
    html = str(escape(text))
    html = re.sub(r"(?<=\w)_\{([^}]+)\}", r"<sub>\1</sub>", html)
    html = re.sub(r"(?<=\w)\^(\w)", r"<sup>\1</sup>", html)
    html = re.sub(r"(?<=</sup>)_(\w{1,2})\b", r"<sub>\1</sub>", html)
    html = html.replace("ᵀ", "<sup>T</sup>")  # not every font has it
    return Markup(re.sub(r"(?<![\w_])(\w{1,3})_(\w{1,2})(?![\w_])", r"\1<sub>\2</sub>", html))
