"""The guides in ``docs/``, GitHub's Markdown rendered on one page of the book.

They exist in a checkout; an installed package has none, and its book omits the page. Supported are the parts
of Markdown that they use: headings, paragraphs, lists, tables, code, links and emphasis.
"""

import re
from dataclasses import dataclass

from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from manual_grad.report.code import ROOT, console, python

ORDER = (
    "verification",
    "checker",
    "golden",
    "training",
    "benchmarks",
    "architecture",
    "contributing",
    "mutation",
)
_INLINE = re.compile(r"\[([^]]+)\]\(([^)]+)\)|`([^`]+)`|\*\*(.+?)\*\*|\*(.+?)\*", re.DOTALL)


@dataclass(frozen=True)
class Guide:
    """A guide.

    Attributes:
        name: the file's name without its suffix; the anchor of its section.
        title: the first heading.
        body: the rest.
    """

    name: str
    title: str
    body: Markup


def guides() -> list[Guide]:
    """Every guide, in the order of use; none if this is not a checkout."""
    checkout = (ROOT / "pyproject.toml").is_file()
    paths = [ROOT / "docs" / f"{name}.md" for name in ORDER if checkout]
    return [guide(path.stem, path.read_text("utf-8")) for path in paths if path.is_file()]


def guide(name: str, text: str) -> Guide:
    r"""A guide from its Markdown.

    >>> guide("a", "# A `b`\n\nSee [the checker](checker.md).\n")
    Guide(name='a', title='A b', body=Markup('<p>See <a href="#checker">the checker</a>.</p>'))
    """
    title, _, rest = text.removeprefix("# ").partition("\n")
    blocks = re.findall(r"```\w*\n.*?\n```|(?:(?!```)[^\n]+\n?)+", rest, flags=re.DOTALL)
    return Guide(name, title.replace("`", ""), Markup("\n").join(map(_block, blocks)))


def _block(text: str) -> Markup:
    if fenced := re.fullmatch(r"```(\w*)\n(.*)\n```", text, flags=re.DOTALL):
        return _code(*fenced.groups())
    if heading := re.fullmatch(r"(##+) (.*)\s*", text):
        level = len(heading[1]) + 1
        return Markup("<h{0}>{1}</h{0}>").format(level, _inline(heading[2]))
    if text.startswith("|"):
        return _table(text.splitlines())
    if text.startswith("- "):
        items = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
        return Markup("<ul>{}</ul>").format(
            Markup("").join(Markup("<li>{}</li>").format(_inline(item)) for item in items)
        )
    return Markup("<p>{}</p>").format(_inline(text))


def _code(language: str, text: str) -> Markup:
    if language == "python":
        return console(text) if text.startswith(">>>") else python(text)
    return Markup(highlight(text, get_lexer_by_name(language), HtmlFormatter(wrapcode=True)))


def _table(lines: list[str]) -> Markup:
    head, _, *rows = ([_inline(cell) for cell in line.strip()[1:-1].split("|")] for line in lines)
    cells = Markup("").join(Markup('<th scope="col">{}</th>').format(cell) for cell in head)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row))
        for row in rows
    )
    table = '<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    return Markup(table).format(cells, body)


def _inline(text: str) -> Markup:
    parts, end, text = [], 0, " ".join(text.split())
    for found in _INLINE.finditer(text):
        parts += [escape(text[end : found.start()]), _piece(*found.groups())]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def _piece(label: str, target: str, code: str, bold: str, stressed: str) -> Markup:
    if code:
        return Markup("<code>{}</code>").format(code)
    if bold or stressed:
        return Markup("<{0}>{1}</{0}>").format("strong" if bold else "em", _inline(bold or stressed))
    name = target.partition(".md")[0]
    if name in ORDER:
        return Markup('<a href="#{}">{}</a>').format(name, _inline(label))
    if name == "equations":
        return Markup('<a href="index.html#index">{}</a>').format(_inline(label))
    return Markup("{} ({})").format(_inline(label), target)  # the book needs no network
