"""Notebooks match the texts, and run; each exercise accepts its answer and rejects a wrong one.

``python -m tests.report.test_notebooks`` writes the files under ``examples``.
"""

import ast
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.lectures import CHAPTERS, EQUATIONS
from manual_grad.report.blanks import BLANK, CHECK, TEXTS, sheet
from manual_grad.report.mathml import marked
from manual_grad.report.notebooks import IMPORTS, exercises, files, lecture, notebook
from manual_grad.verify import check_grad

EXAMPLES = Path(__file__).parents[2] / "examples"
WRITE = "python -m tests.report.test_notebooks writes it anew"
EXERCISES = [
    pytest.param(letter, exercise, id=f"{exercise.tag}-{n}")
    for letter in CHAPTERS
    for n, exercise in enumerate(sheet(letter).exercises, 1)
]


def asked(letter, code):
    """What a cell hands to ``check``."""
    found = []
    scope = {"jax": jax, "jnp": jnp, "np": np}
    scope["check"] = lambda *args, argnums=0: found.append((args, argnums))
    for part in (sheet(letter).shared, *code):
        exec(part, scope)
    return found


def test_the_files_match_the_texts():
    made = dict(files())
    assert {name for name in made if (EXAMPLES / name).read_text("utf-8") != made[name]} == set(), WRITE
    there = [*EXAMPLES.glob("*.ipynb"), *EXAMPLES.glob("exercises/*.*")]
    assert {p.relative_to(EXAMPLES).as_posix() for p in there} == set(made)


@pytest.mark.parametrize("letter", CHAPTERS)
def test_notebooks_are_in_the_format(letter):
    for cells in (lecture(letter), exercises(letter)):
        made = json.loads(notebook(cells))
        assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
        ids = [cell["id"] for cell in made["cells"]]
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", i) for i in ids)
        for cell in made["cells"]:
            code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
            assert set(cell) == {"cell_type", "id", "metadata", "source"} | code
            assert cell["source"]
            assert all(line.endswith("\n") for line in cell["source"][:-1])
        assert made["cells"][1]["source"] == ["%pip install -q manual-grad"]


@pytest.mark.parametrize("letter", CHAPTERS)
def test_lectures_run(letter):
    scope = {}
    for _, text in (cell for cell in lecture(letter) if cell[0] == "code"):
        exec(text, scope)
    assert scope["value"].shape is not None


def test_a_wrong_line_stops_a_notebook():
    code = "\n".join(text for kind, text in lecture("A") if kind == "code")
    wrong = code.replace("-2 / N * (y - y_hat)", "2 / N * (y - y_hat)", 1)
    assert wrong != code
    with pytest.raises(AssertionError):
        exec(wrong, {})


# --- exercises --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letter", CHAPTERS)
def test_each_chapter_has_five_to_ten(letter):
    assert 5 <= len(sheet(letter).exercises) <= 10
    for exercise in sheet(letter).exercises:
        assert exercise.tag in {e.tag for e in EQUATIONS if e.lecture == letter}
        assert exercise.code.count(BLANK) == 1
        assert not re.findall(r"[$`\\]|\[\[", "".join(map(marked, (*exercise.paragraphs, exercise.title))))
    assert {path.stem for path in TEXTS.iterdir()} == {c.slug.replace("-", "_") for c in CHAPTERS.values()}


@pytest.mark.parametrize("letter", CHAPTERS)
def test_a_blank_sheet_says_to_fill_it_in(letter, capsys):
    exec((EXAMPLES / f"exercises/{CHAPTERS[letter].slug.replace('-', '_')}.py").read_text("utf-8"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(sheet(letter).exercises)
    assert all(line.endswith("fill in the line with ____") for line in lines)


@pytest.mark.parametrize("letter", CHAPTERS)
def test_solutions_are_right(letter):
    """One program for all of a lecture's losses."""
    every = asked(letter, [e.filled(e.solution) for e in sheet(letter).exercises])
    truths = jax.jit(lambda: [jax.grad(loss, argnums)(*args) for (loss, _, *args), argnums in every])()
    for ((_, grad, *args), _), truth in zip(every, truths, strict=True):
        jax.tree.map(lambda g, t: np.testing.assert_allclose(g, t, 1e-9, 1e-12), grad(*args), truth)


@pytest.mark.parametrize(("answer", "says"), [("solution", "all 1 right"), ("wrong", "1/N is missing")])
def test_a_cell_shows_the_checkers_report(answer, says, capsys):
    first = sheet("A").exercises[0]
    exec("\n".join([IMPORTS, CHECK, sheet("A").shared, first.filled(getattr(first, answer))]), {})
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(("letter", "exercise"), EXERCISES)
def test_a_wrong_answer_is_caught(letter, exercise):
    """By its name, where the checker has one."""
    losses = [code for e in sheet(letter).exercises for code in _losses(e.code)]
    (((loss, grad, *args), argnums),) = asked(letter, [*losses, exercise.filled(exercise.wrong)])
    report = check_grad(loss, grad, *args, argnums=argnums, draws=1)
    assert not report.ok
    assert exercise.says in str([f.diagnosis for f in report.findings if not f.ok])


def _losses(code):
    """The functions of a cell that have no blank."""
    tree = ast.parse(code)
    return [part for node in tree.body[:-1] if BLANK not in (part := ast.get_source_segment(code, node))]


if __name__ == "__main__":
    for name, content in files():
        EXAMPLES.joinpath(name).parent.mkdir(exist_ok=True)
        EXAMPLES.joinpath(name).write_text(content, "utf-8")
