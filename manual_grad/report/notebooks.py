"""Notebooks of the lectures and of their exercises, made from the same texts as the book."""

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from manual_grad.lectures import CHAPTERS, Equation
from manual_grad.report import blanks, steps
from manual_grad.report.code import formulas
from manual_grad.report.prose import derivations, introduction

Cell = tuple[str, str]  # markdown or code, and its text
INSTALL: Cell = ("code", "%pip install -q manual-grad")
IMPORTS = """\
import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.verify import check_grad
"""


def same(*lines):
    """The value of all lines, which are equal."""
    for line in lines:
        assert np.allclose(line, lines[0], 1e-12, 1e-12), (lines[0], line)
    return np.asarray(lines[-1])


def files() -> Iterator[tuple[str, str]]:
    """Every file under ``examples`` that is made from the book's texts: its name and its content.

    >>> [name for name, _ in files()][:3]
    ['lecture_a.ipynb', 'exercises/lecture_a.py', 'exercises/lecture_a.ipynb']
    """
    for letter, chapter in CHAPTERS.items():
        name = chapter.slug.replace("-", "_")
        yield f"{name}.ipynb", notebook(lecture(letter))
        yield f"exercises/{name}.py", script(exercises(letter))
        yield f"exercises/{name}.ipynb", notebook(exercises(letter))


def notebook(cells: Sequence[Cell]) -> str:
    """Cells as a notebook, whose first code cell installs and imports what it needs."""
    first, *rest = cells
    made = []
    for n, (kind, text) in enumerate((first, INSTALL, *rest)):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{n}", "metadata": {}}
        cell |= {"execution_count": None, "outputs": []} if kind == "code" else {}
        made.append(cell | {"source": text.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    content = {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def script(cells: Sequence[Cell]) -> str:
    """Cells as a Python file with cell markers for editors."""
    parts = []
    for kind, text in cells:
        lines = [w for line in text.splitlines() for w in textwrap.wrap(line, 106) or [""]]
        words = "\n".join(f"# {line}".rstrip() for line in lines)
        parts.append(f"# %% [markdown]\n{words}" if kind == "markdown" else f"# %%\n{text}")
    return "\n\n".join(parts) + "\n"


def exercises(letter: str) -> list[Cell]:
    """The cells of a lecture's exercises, with blanks."""
    sheet, chapter = blanks.sheet(letter), CHAPTERS[letter]
    head = [f"# {chapter.name}: exercises", *sheet.introduction]
    cells = [("markdown", "\n\n".join(head)), ("code", f"{IMPORTS}\n\n{blanks.CHECK}".rstrip())]
    cells.append(("code", sheet.shared))
    for n, exercise in enumerate(sheet.exercises, 1):
        words = [f"## {n}. {exercise.title} ({exercise.tag})", *exercise.paragraphs]
        cells += [("markdown", _plain("\n\n".join(words))), ("code", exercise.code)]
    return cells


def lecture(letter: str) -> list[Cell]:
    """The cells of a lecture: every derivation, with a numerical comparison of its lines."""
    chapter = CHAPTERS[letter]
    head = [f"# {chapter.name}: {chapter.title}", *introduction(letter)]
    helpers = [*steps.helpers(), inspect.getsource(same).rstrip()]
    cells = [("markdown", _plain("\n\n".join(head))), ("code", "\n\n\n".join(helpers))]
    equations = {e.tag: e for e in chapter.equations}
    for tag, derivation in derivations(letter).items():
        cells.append(("markdown", _heading(equations[tag])))
        for part in derivation.parts:
            cells += [("markdown", _plain(part))] if isinstance(part, str) else _block(part)
    return cells


def _heading(e: Equation) -> str:
    ways = dict.fromkeys(way for c in e.claims for way in c.formulas if way in formulas())
    code = f"In code: {', '.join(f'`{way}`' for way in ways)}; `manual-grad show {e.tag}` prints it."
    return f"## {e.tag} {e.title}\n\n$$\n{e.corrected or e.printed}\n$$" + (f"\n\n{code}" if ways else "")


def _block(lines: Sequence[steps.Line]) -> list[Cell]:
    given = "\n".join(f"{line.name} = {line.code}" for line in lines if isinstance(line, steps.Given))
    cells = [("code", given)] if given else []
    chains: list[list[steps.Step]] = []
    for line in lines:
        if isinstance(line, steps.Step):
            chains += [] if line.continues else [[]]
            chains[-1].append(line)
    for chain in chains:
        equal = " \\\\\n".join(f"& {line.latex}" for line in chain)
        reasons = "\n".join(f"{n}. {line.why}" for n, line in enumerate(chain[1:], 1))
        words = f"$$\n\\begin{{aligned}}\n{equal}\n\\end{{aligned}}\n$$\n\n{reasons}"
        values = "".join(f"    {line.code},\n" for line in chain)
        name = chain[-1].name or "value"
        cells += [("markdown", _plain(words)), ("code", f"{name} = same(\n{values})\n{name}.round(3)")]
    return cells


def _plain(text: str) -> str:
    return re.sub(r"\[\[(.*?)\]\]", r"\1", text)
