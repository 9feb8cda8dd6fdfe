r"""The exercises: one text file per lecture, in which each backward pass has a line to be left blank.

A file begins with its introduction and the code that all exercises share. Each exercise is a section, headed
by the tag of its equation and a title: the task, and the code of a loss and its gradient. The comment of the
line to be left blank gives a wrong version of it, and part of the checker's diagnosis of that::

    dy_hat = -2 / len(y) * (y - y_hat)  # wrong: -2 * (y - y_hat)  # says: 1/N is missing

The sheets in ``examples/exercises``, their notebooks and the book's exercises are made from these files.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from manual_grad.lectures import CHAPTERS

TEXTS = Path(__file__).parent / "exercises"
BLANK = "____"
_MARKED = re.compile(r"^( *\w+ = )(.*)  # wrong: (.*?)(?:  # says: (.*))?$", re.MULTILINE)


@dataclass(frozen=True)
class Exercise:
    """A gradient with a line left blank.

    Attributes:
        tag: the tag of its equation.
        title, paragraphs: the task, marked up like the book's texts.
        code: the loss, the gradient with :data:`BLANK` in it, and the call of the checker.
        solution: the code for the blank.
        wrong: a wrong version of it.
        says: part of the checker's diagnosis of the wrong version; empty if it has no name for the mistake.
    """

    tag: str
    title: str
    paragraphs: tuple[str, ...]
    code: str
    solution: str
    wrong: str
    says: str

    @property
    def line(self) -> str:
        """The line with the blank."""
        return next(line.strip() for line in self.code.splitlines() if BLANK in line)

    def filled(self, answer: str) -> str:
        """The code with the blank filled in."""
        return self.code.replace(BLANK, answer)


@dataclass(frozen=True)
class Sheet:
    """A lecture's exercises, with their introduction and the code that they share."""

    introduction: tuple[str, ...]
    shared: str
    exercises: tuple[Exercise, ...]


@functools.cache
def sheet(lecture: str) -> Sheet:
    """The exercises of a lecture by its letter.

    >>> first = sheet("A").exercises[0]
    >>> first.tag, first.solution
    ('A-04', '-2 / len(y) * (y - y_hat)')
    """
    name = CHAPTERS[lecture].slug.replace("-", "_")
    first, *sections = re.split(r"^## ", (TEXTS / f"{name}.md").read_text("utf-8"), flags=re.MULTILINE)
    introduction, shared = _parts(first)
    return Sheet(introduction, shared, tuple(map(_exercise, sections)))


def _exercise(section: str) -> Exercise:
    head, _, body = section.partition("\n")
    tag, _, title = head.partition(" ")
    paragraphs, code = _parts(body)
    ((_, solution, wrong, says),) = _MARKED.findall(code)
    return Exercise(tag, title, paragraphs, _MARKED.sub(rf"\1{BLANK}", code), solution, wrong, says)


def _parts(text: str) -> tuple[tuple[str, ...], str]:
    words, _, rest = text.partition("```python\n")
    return tuple(" ".join(p.split()) for p in words.strip().split("\n\n") if p), rest.partition("\n```")[0]


CHECK = '''\
def check(loss, grad, *args, argnums=0):
    """Print the checker's report on a gradient, unless a line of it is still blank."""
    if "____" in grad.__code__.co_names:
        print(f"{grad.__name__}: fill in the line with ____")
    else:
        print(check_grad(loss, grad, *args, argnums=argnums))
'''
