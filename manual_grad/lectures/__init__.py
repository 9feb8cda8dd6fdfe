"""The equations and errata of the lectures as data, with the claims that verify them.

Files ``lecture_x.py``, and ``chapter_x.py`` for material beyond the lectures, are found by name: each has a
``TITLE``, ``EQUATIONS``, and ``ERRATA`` if there are any.
"""

import importlib
import pkgutil
import re

from manual_grad.catalogue.draw import Draw
from manual_grad.lectures.entries import Chapter, Claim, Equation, Erratum


def _chapters() -> dict[str, Chapter]:
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if name := re.fullmatch(r"(lecture|chapter)_([a-z])", module.name):
            content = importlib.import_module(f"{__name__}.{module.name}")
            letter = name[2].upper()
            errata = getattr(content, "ERRATA", ())
            found[letter] = Chapter(
                letter, f"{name[1].title()} {letter}", content.TITLE, content.EQUATIONS, errata
            )
    return dict(sorted(found.items()))


CHAPTERS = _chapters()
LECTURES = {letter: chapter.title for letter, chapter in CHAPTERS.items()}
EQUATIONS: tuple[Equation, ...] = tuple(
    equation for chapter in CHAPTERS.values() for equation in chapter.equations
)
ERRATA: tuple[Erratum, ...] = tuple(erratum for chapter in CHAPTERS.values() for erratum in chapter.errata)
ENTRIES: tuple[Equation | Erratum, ...] = (*EQUATIONS, *ERRATA)

__all__ = [
    "CHAPTERS", "ENTRIES", "EQUATIONS", "ERRATA", "LECTURES",
    "Chapter", "Claim", "Draw", "Equation", "Erratum",
]  # fmt: skip
