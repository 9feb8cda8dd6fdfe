"""The derivations: one text file a lecture, a heading with the tag of each equation, then its lines.

A line ``shapes: X N×d, W d×m`` gives the shape of every tensor in the equation, a gradient's among them; the
other paragraphs are the derivation, with formulas between dollars.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

TEXTS = Path(__file__).parent / "text"


@dataclass(frozen=True)
class Derivation:
    """What the book says of an equation in words.

    Attributes:
        paragraphs: the derivation, marked up as :func:`manual_grad.report.mathml.marked` reads it.
        shapes: tensor → shape, ``()`` for a scalar, such as ``{"X": ("N", "d"), "J": ()}``.
    """

    paragraphs: tuple[str, ...] = ()
    shapes: tuple[tuple[str, tuple[str, ...]], ...] = ()


@functools.cache
def derivations(lecture: str) -> dict[str, Derivation]:
    """Tag → derivation, of a lecture by its letter.

    >>> derivations("A")["A-03"].shapes[0]
    ('y_hat', ('N',))
    """
    text = (TEXTS / f"lecture_{lecture.lower()}.md").read_text(encoding="utf-8")
    found = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        tag, _, body = section.partition("\n")
        paragraphs = [" ".join(p.split()) for p in body.strip().split("\n\n")]
        shapes = [p for p in paragraphs if p.startswith("shapes:")]
        rest = tuple(p for p in paragraphs if not p.startswith("shapes:"))
        found[tag.strip()] = Derivation(rest, parse_shapes(shapes[0]) if shapes else ())
    return found


def introduction(lecture: str) -> tuple[str, ...]:
    """The paragraphs before the first equation."""
    text = (TEXTS / f"lecture_{lecture.lower()}.md").read_text(encoding="utf-8")
    return tuple(" ".join(p.split()) for p in text.partition("\n## ")[0].strip().split("\n\n"))


def parse_shapes(line: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Tensors and their shapes.

    >>> parse_shapes("shapes: X N×d, b m, J scalar")
    (('X', ('N', 'd')), ('b', ('m',)), ('J', ()))
    """
    found = []
    for entry in line.removeprefix("shapes:").split(","):
        name, _, shape = entry.strip().rpartition(" ")
        found.append((name, () if shape == "scalar" else tuple(shape.split("×"))))
    return tuple(found)
