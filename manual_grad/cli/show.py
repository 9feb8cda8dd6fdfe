"""``manual-grad show``: one equation on the terminal, with its derivation, its code and its verdict."""

import inspect
import re
import textwrap

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

import manual_grad
from manual_grad.cli import tables
from manual_grad.cli import verify as work
from manual_grad.lectures import Equation, Erratum
from manual_grad.report.prose import derivations
from manual_grad.report.steps import Given, Line

FORMULA = ("=", "\\", "let ", "def ")  # how lines of formulas and code begin


def show(tag: str, cached: bool) -> int:
    """Print an equation or erratum, then verify it; return the exit code."""
    equations, errata = work.chosen(None, [tag], named="TAG")
    said = (equations or errata)[0]
    console = tables.console(110)
    console.print(f"[bold]{said.tag}  {escape(said.title)}[/]\n{escape(said.section)}\n", highlight=False)
    _print_equation(console, said)
    for name in _functions(said):
        print_code(console, name)
    work.prepare(cached)
    oracles = work.chosen_oracles(None, quick=False)
    return work.verify_all([said], "float64", 0, oracles, None, cached)


def print_code(console: Console, name: str) -> None:
    """Print a public function without its docstring; lines that are too long for the terminal are wrapped."""
    code = _without_docstring(inspect.getsource(inspect.unwrap(getattr(manual_grad, name))))
    wrapped = _wrapped(code, console.width) + "\n"
    console.print(Syntax(wrapped, "python", background_color="default", word_wrap=True))


def _print_equation(console: Console, said: Equation | Erratum) -> None:
    source = "our formula for the notes' sentence" if said.sentence else "as printed"
    lines = {
        source if said.corrected else "equation": said.printed,
        "corrected": said.corrected,
        "note": said.note,
    }
    for label, latex in lines.items():
        if latex:
            said_so = escape(_wrapped(f"{label}  {latex}", console.width)).removeprefix(label)
            console.print(f"[dim]{label}[/]{said_so}", highlight=False)
    for part in [said.why] if isinstance(said, Erratum) else derivations(said.lecture)[said.tag].parts:
        text = part if isinstance(part, str) else "\n".join(map(_line, part)).lstrip()
        console.print("\n" + escape(_wrapped(_plain(text), console.width)), highlight=False)
    console.print()


def _line(line: Line) -> str:
    """A line of a derivation, its value in NumPy and its reason; a blank line before a new derivation."""
    if isinstance(line, Given):
        return f"let {line.name} = {line.code}"
    named = f"{line.name} := {line.code}".lstrip()
    gap = "" if line.continues else "\n"
    parts = [gap + line.latex, f"    {named}", line.why and f"    {line.why}"]
    return "\n".join(filter(None, parts))


def _wrapped(text: str, width: int) -> str:
    r"""Wrap the lines that are too long; what continues an indented line or a formula is indented further.

    >>> print(_wrapped("= f(x)\n    := g(1, 2)\nA text of several words.", 13))
    = f(x)
        := g(1,
            2)
    A text of
    several
    words.
    """
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        further = indent + "    " if indent or line.startswith(FORMULA) else ""
        parts = textwrap.wrap(
            line, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
        )
        lines += parts or [line]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text without the brackets around its tags, which are links in the book.

    >>> _plain("[[A-10]] of array([[1.0, 2]])")
    'A-10 of array([[1.0, 2]])'
    """
    return re.sub(r"\[\[([A-Z]-\w+)\]\]", r"\1", text)


def _functions(said: Equation | Erratum) -> list[str]:
    claims = said.claims if isinstance(said, Equation) else (said.claim,)
    return list(dict.fromkeys(way for c in claims for way in c.formulas if way in manual_grad.__all__))


def _without_docstring(code: str) -> str:
    """The code without its docstring, which ``help`` shows.

    >>> print(_without_docstring('def f(x):\\n    \"\"\"Twice.\"\"\"\\n    return 2 * x\\n'))
    def f(x):
        return 2 * x
    """
    return re.sub(r'\n\s+""".*?"""', "", code, count=1, flags=re.DOTALL).rstrip()
