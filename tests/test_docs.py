"""The console script accepts every command in README and docs; their Python runs as doctests.

``python -m tests.test_docs`` writes what is derived: ``docs/equations.md``.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer.main

import manual_grad
from manual_grad.cli.app import app
from manual_grad.lectures import CHAPTERS, EQUATIONS, ERRATA
from manual_grad_benchmarks import checkers

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINES = [
    (page.name, line)
    for page in PAGES
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if "manual-grad " in line
]
RULE = "|---|---|---|"
WRITE = "python -m tests.test_docs writes it anew"


def parsed(words):
    """Parse a command's words to the end without running it."""
    command = typer.main.get_command(app)
    context = command.make_context("manual-grad", [])
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command.make_context(command.name, list(words), parent=context)


@pytest.mark.parametrize(("page", "line"), LINES)
def test_every_command_parses(page, line):
    words = shlex.split(line.partition("manual-grad ")[2], comments=True)
    assert parsed(words).command.name in words[:2]


def test_a_command_that_does_not_exist_is_detected():
    with pytest.raises(Exception, match="No such option"):
        parsed(["verify", "--tags", "A-10"])
    with pytest.raises(KeyError):
        parsed(["prove"])


def test_the_table_of_checkers_is_the_one_of_its_file():
    """``python -m manual_grad_benchmarks.checkers`` measures and writes both."""
    found, page = json.loads(checkers.FILE.read_text("utf-8")), checkers.PAGE.read_text("utf-8")
    assert checkers.written(page, found) == page
    assert [row["mistake"] for row in found["rows"]] == [public.line for public in checkers.mistakes()]
    assert found["date"]
    assert {"jax", "torch", "machine"} <= found["environment"].keys()
    found["rows"][0]["wrong"]["ones"] = None
    assert checkers.written(page, found) != page


def test_the_readme_is_two_screens():
    assert len(PAGES[0].read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_list_of_equations_is_derived():
    assert (ROOT / "docs/equations.md").read_text("utf-8") == list_of_equations(), WRITE


def test_every_tag_has_a_public_function():
    assert [said.tag for said in (*EQUATIONS, *ERRATA) if not functions_of(said)] == []


def list_of_equations():
    """``docs/equations.md``: each equation with the functions that its claims compare."""
    said = "`manual-grad verify --tag TAG` verifies one; the functions are those that compute it."
    lines = ["# Equations", "", said]
    for letter, chapter in CHAPTERS.items():
        lines += [
            "",
            f"## {letter}: {chapter.title}",
            "",
            "| tag | what it says | functions |",
            "|---|---|---|",
        ]
        lines += rows(equation for equation in EQUATIONS if equation.lecture == letter)
    lines += [
        "",
        "## Misprints",
        "",
        "Mistakes in the lectures, and the functions that compute what is right.",
    ]
    lines += ["", "| tag | what is wrong | functions |", RULE, *rows(ERRATA)]
    return "\n".join(lines) + "\n"


def rows(said):
    return [f"| {one.tag} | {one.title} | {', '.join(functions_of(one))} |" for one in said]


def functions_of(said):
    claims = getattr(said, "claims", None) or (said.claim,)
    names = dict.fromkeys(way for claim in claims for way in claim.formulas if way in manual_grad.__all__)
    return [f"`{name}`" for name in names]


if __name__ == "__main__":
    (ROOT / "docs/equations.md").write_text(list_of_equations(), "utf-8")
