"""The derivations: one text file per lecture, with the tag of each equation as a heading.

A line ``shapes: X N×d, W d×m`` gives the shape of every tensor in the equation, including gradients, and
after a semicolon the definition of an axis, ``; h = H − kh + 1``. ``shapes of conv2d: …`` gives the shapes
for a function that computes the same. The other paragraphs are the derivation, with formulas between dollar
signs, and steps in the syntax of :mod:`manual_grad.report.steps`.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from manual_grad.lectures import CHAPTERS
from manual_grad.report import steps

TEXTS = Path(__file__).parent / "text"


@dataclass(frozen=True)
class Shapes:
    """The tensors of an equation.

    Attributes:
        of: the function or the case that they belong to; empty for the equation itself.
        tensors: each with its axes, none for a scalar, such as ``("X", ("N", "d"))``.
        where: axes defined by others, such as ``("h", "H − kh + 1")``.
    """

    of: str
    tensors: tuple[tuple[str, tuple[str, ...]], ...]
    where: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Derivation:
    """The book's text about an equation.

    Attributes:
        parts: the derivation: paragraphs, marked up for :func:`manual_grad.report.mathml.marked`, and
            blocks of steps.
        shapes: those of the equation's tensors, then those of other functions that compute it.
    """

    parts: tuple[str | tuple[steps.Line, ...], ...] = ()
    shapes: tuple[Shapes, ...] = ()

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """The parts that are text."""
        return tuple(part for part in self.parts if isinstance(part, str))


@functools.cache
def derivations(lecture: str) -> dict[str, Derivation]:
    """Tag → derivation, of a lecture by its letter.

    >>> derivations("A")["A-03"].shapes[0].tensors[0]
    ('y_hat', ('N',))
    """
    text = _text(lecture)
    found = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        tag, _, body = section.partition("\n")
        parts: list[str | tuple[steps.Line, ...]] = []
        for place, piece in enumerate(re.split(r"^```(?:steps)?\n", body, flags=re.MULTILINE)):
            plain = [" ".join(p.split()) for p in piece.split("\n\n") if p.strip()]
            parts += [steps.parsed(piece)] if place % 2 else plain
        shapes = [p for p in parts if isinstance(p, str) and p.startswith("shapes")]
        rest = tuple(p for p in parts if p not in shapes)
        found[tag.strip()] = Derivation(rest, tuple(map(parse_shapes, shapes)))
    return found


def introduction(lecture: str) -> tuple[str, ...]:
    """The paragraphs before the first equation."""
    text = _text(lecture)
    return tuple(" ".join(p.split()) for p in text.partition("\n## ")[0].strip().split("\n\n"))


def _text(lecture: str) -> str:
    name = CHAPTERS[lecture].slug.replace("-", "_")
    return (TEXTS / f"{name}.md").read_text(encoding="utf-8")


def parse_shapes(line: str) -> Shapes:
    """Tensors and their shapes.

    >>> parse_shapes("shapes of f: X N×d, J scalar; d = N + 1")
    Shapes(of='f', tensors=(('X', ('N', 'd')), ('J', ())), where=(('d', 'N + 1'),))
    """
    head, _, rest = line.partition(": ")
    entries, _, axes = rest.partition("; ")
    tensors = []
    for entry in entries.split(", "):
        name, _, shape = entry.rpartition(" ")
        tensors.append((name, () if shape == "scalar" else tuple(shape.split("×"))))
    where = tuple((name, what) for name, _, what in (a.partition(" = ") for a in axes.split(", ") if a))
    return Shapes(head.removeprefix("shapes").removeprefix(" of "), tuple(tensors), where)
