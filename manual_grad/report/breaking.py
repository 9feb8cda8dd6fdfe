"""Break formulas into lines that are no wider than a phone or a sheet of paper.

Browsers do not support MathML's line breaks. So a formula is cut into several, which are laid out like words:
first after commas and before ``=``; parts that are still long, before ``+``, then before a product, then
inside brackets. Parts that cannot be cut, such as matrices, carry their width, and the page shrinks them if
necessary.
"""

from collections.abc import Callable, Sequence
from typing import Any
from xml.etree.ElementTree import Element

SPACE = "{http://www.w3.org/1998/Math/MathML}"
ROOM = 14.0  # em: the width available in every box at 375 px
RELATIONS = frozenset("=∈→⇒≈≠≤≥<>")
SUMS, PRODUCTS = frozenset("+−"), frozenset("·⋅⊙⊗×⋆∗")
SEPARATORS = frozenset(",;")
OPENING, CLOSING = frozenset("([{⟨⌊"), frozenset(")]}⟩⌋")
SCRIPTED = frozenset({"msub", "msup", "msubsup"})
_SMALL = 0.72  # relative size of sub- and superscripts

Parts = list[Any]  # elements that stay together, or lists of Parts that may be separated
Cut = Callable[[Sequence[Element], int, int], bool]  # siblings, position, bracket depth: a new part?


def kind(element: Element) -> str:
    """An element's name without its namespace."""
    return element.tag.removeprefix(SPACE)


def width(element: Element) -> float:
    """The approximate width of an element in em, overestimated rather than underestimated."""
    parts, content = [width(child) for child in element], element.text or ""
    match kind(element):
        case "mspace":
            return float(element.get("width", "0em").removesuffix("em"))
        case "mo":
            spaced = RELATIONS | SUMS | PRODUCTS
            return 0.42 * len(content) + (0.9 if content in spaced else 0.0)
        case "mi" | "mn" | "mtext":
            return 0.58 * len(content)
        case "mfrac":
            return max(parts) + 0.2
        case name if name in SCRIPTED:
            return parts[0] + _SMALL * max(parts[1:])
        case "mover" | "munder" | "munderover":
            return max(parts[0], *(_SMALL * part for part in parts[1:]))
        case "mtable":
            rows = [[width(cell) for cell in row] for row in element]
            return sum(1 + max(cells) for cells in zip(*rows, strict=True))
        case "msqrt":
            return sum(parts) + 1
    return sum(parts)


def lines(row: Element) -> list[Parts]:
    """The lines of a formula, each in parts; a single line unless it is an array of one column."""
    return [parts(children) for children in _rows(row)]


def _rows(row: Element) -> list[list[Element]]:
    children = list(row)
    while len(children) == 1 and kind(children[0]) == "mrow":
        children = list(children[0])
    if len(children) == 1 and kind(children[0]) == "mtable" and {len(r) for r in children[0]} == {1}:
        return [list(table_row[0]) for table_row in children[0]]
    return [children]


def left_sides(row: Element) -> list[list[Element]]:
    """The part before the first ``=`` of each equation."""
    found = []
    for line in _rows(row):
        for piece in _cut(line, _after_comma):
            left, *right = _cut(piece, _before(RELATIONS))
            found += [left] if right and is_sign(right[0][0], frozenset("=")) else []
    return found


def parts(siblings: Sequence[Element]) -> Parts:
    """Siblings, cut at commas and relations, and into smaller parts if they are long."""
    pieces = [_cut(_without_space(piece), _before(RELATIONS)) for piece in _cut(siblings, _after_comma)]
    finer = [list(map(_finer, piece)) for piece in pieces]
    return finer[0] if len(finer) == 1 else [p if len(p) > 1 else p[0] for p in finer]


def _finer(piece: Sequence[Element]) -> Parts:
    """A piece, cut at sums, at products and in brackets until it fits or cannot be cut further."""
    if sum(map(width, piece)) > ROOM:
        for cut in (_before(SUMS), _before(PRODUCTS), _before_matrix, _before(SUMS, 1)):
            if len(pieces := _cut(piece, cut)) > 1:
                return [_finer(part) for part in pieces]
        if (flat := _flat(piece)) != list(piece):
            return _finer(flat)
    return list(piece)


def _cut(siblings: Sequence[Element], here: Cut) -> list[list[Element]]:
    found: list[list[Element]] = [[]]
    depth = 0
    for place, element in enumerate(siblings):
        base = element[0] if kind(element) in SCRIPTED else element
        depth -= is_sign(base, CLOSING)
        if found[-1] and here(siblings, place, depth):
            found.append([])
        found[-1].append(element)
        depth += is_sign(element, OPENING)
    return found


def is_sign(element: Element, signs: frozenset[str]) -> bool:
    """Whether an element is one of these operators."""
    return kind(element) == "mo" and (element.text or "") in signs


def is_prefix(siblings: Sequence[Element], place: int) -> bool:
    """Whether this operator is a sign: it comes first, or follows an operator."""
    before = [e for e in siblings[:place] if kind(e) != "mspace"]
    return not before or is_sign(before[-1], RELATIONS | SUMS | PRODUCTS | OPENING | SEPARATORS)


def _after_comma(siblings: Sequence[Element], place: int, depth: int) -> bool:
    before = _without_space(list(siblings[:place]))
    if depth or kind(siblings[place]) == "mspace" or not before or is_sign(before[-1], RELATIONS):
        return False
    space = siblings[place - 1]
    return is_sign(before[-1], SEPARATORS) or (kind(space) == "mspace" and width(space) >= 1)


def _before(signs: frozenset[str], inside: int = 0) -> Cut:
    def here(siblings: Sequence[Element], place: int, depth: int) -> bool:
        return depth == inside and is_sign(siblings[place], signs) and not is_prefix(siblings, place)

    return here


def _before_matrix(siblings: Sequence[Element], place: int, depth: int) -> bool:
    bracket, *inner = siblings[place : place + 2]
    matrix = is_sign(bracket, OPENING) and [kind(element) for element in inner] == ["mtable"]
    return depth == 0 and matrix and not is_prefix(siblings, place)


def _without_space(piece: list[Element]) -> list[Element]:
    while piece and kind(piece[-1]) == "mspace":
        piece = piece[:-1]
    return piece


def _flat(piece: Sequence[Element]) -> list[Element]:
    """A piece without the rows that group several elements into one."""
    return [e for element in piece for e in (element if kind(element) == "mrow" else [element])]
