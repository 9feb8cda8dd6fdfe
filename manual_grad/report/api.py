"""The API reference: the docstrings of the public functions, by module."""

import importlib
import inspect
import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from manual_grad.lectures import CHAPTERS
from manual_grad.report.code import Source, console, formulas, page_of, python, source_of
from manual_grad.report.mathml import link

SECTIONS = ("Args:", "Returns:", "Raises:", "Source:")


@dataclass(frozen=True)
class Entry:
    """A public function and its docstring as HTML."""

    source: Source
    signature: Markup
    doc: Markup


@dataclass(frozen=True)
class Module:
    """A module's public functions."""

    name: str
    summary: Markup
    entries: tuple[Entry, ...]

    @property
    def page(self) -> str:
        """Its file."""
        return page_of(self.name)


def modules() -> list[Module]:
    """Every module with public functions: the formulas, the operations, the checker."""
    functions: dict[str, list[Any]] = {}
    for value in formulas().values():
        functions.setdefault(value.__module__, []).append(value)
    for owner in ("manual_grad.ops", "manual_grad.verify"):
        module = importlib.import_module(owner)
        handed_on = getattr(module, "__all__", ())
        for name in handed_on or [n for n in vars(module) if not n.startswith("_")]:
            value = inspect.unwrap(getattr(module, name))
            if inspect.isfunction(value) and (handed_on or value.__module__ == owner):
                functions.setdefault(value.__module__, []).append(value)
    return [_module(name, found) for name, found in functions.items()]


def _module(name: str, functions: list[Any]) -> Module:
    sources = {source_of(f).name: source_of(f) for f in functions}
    ordered = sorted(sources.values(), key=lambda s: int(s.place.rpartition(":")[2]))
    doc = inspect.getdoc(importlib.import_module(name)) or ""
    return Module(name, docstring(doc), tuple(Entry(s, signature(s), docstring(s.doc)) for s in ordered))


def signature(source: Source) -> Markup:
    """The ``def`` line, as written, highlighted."""
    lines = source.text[source.text.index("def ") :].splitlines()
    end = next(n for n, line in enumerate(lines) if line.rstrip().endswith(":"))
    return python("\n".join(lines[: end + 1]))


def docstring(doc: str) -> Markup:
    """A docstring of this project as HTML: paragraphs, formulas, sections, examples.

    >>> print(docstring("Add. [A-10]\\n\\nArgs:\\n    x: a number.\\n"))
    <p>Add. <a class="tag" href="lecture-a.html#A-10">[A-10]</a></p>
    <p class="section">Args</p><dl><dt>x</dt><dd>a number.</dd></dl>
    """
    parts: list[Markup] = []
    for block in _blocks(doc):
        lines = block.splitlines()
        if block.startswith(">>>"):
            parts.append(console(block))
        elif lines[0].startswith("    "):
            parts.append(Markup('<pre class="formula">{}</pre>').format(inspect.cleandoc("\n" + block)))
        elif lines[0].startswith(SECTIONS):
            parts.append(_section(lines))
        elif re.match(r"- ", lines[0]):
            items = re.split(r"^- ", block, flags=re.MULTILINE)[1:]
            made = Markup("").join(Markup("<li>{}</li>").format(_inline(" ".join(i.split()))) for i in items)
            parts.append(Markup("<ul>{}</ul>").format(made))
        else:
            parts.append(Markup("<p>{}</p>").format(_inline(" ".join(block.split()))))
    return Markup("\n").join(parts)


def summary(doc: str) -> Markup:
    """A docstring's first paragraph as HTML.

    >>> print(summary("Add ``x``.\\n\\nArgs:\\n    x: a number.\\n"))
    Add <code>x</code>.
    """
    return _inline(" ".join(doc.partition("\n\n")[0].partition("\n>>>")[0].split()))


def _blocks(doc: str) -> list[str]:
    """Split into paragraphs; sections and examples start new ones."""
    doc = re.sub(rf"^({'|'.join(SECTIONS)})", r"\n\1", doc, flags=re.MULTILINE)
    doc = re.sub(r"^(?=>>> )", "\n", doc, count=1, flags=re.MULTILINE)
    head, mark, examples = doc.partition("\n>>> ")
    blocks = [b.strip("\n") for b in re.split(r"\n\s*\n", head) if b.strip()]
    return [*blocks, ">>> " + examples.rstrip()] if mark else blocks


def _section(lines: list[str]) -> Markup:
    title, _, first = lines[0].partition(":")
    body = [first.strip(), *lines[1:]] if first.strip() else lines[1:]
    text = (
        inspect.cleandoc("\n" + "\n".join(body)) if not first.strip() else " ".join(x.strip() for x in body)
    )
    items = re.findall(r"^([\w, `*]+?): (.*(?:\n    .*)*)", text, flags=re.MULTILINE)
    if title in ("Args", "Raises") and items:
        made = Markup("").join(
            Markup("<dt>{}</dt><dd>{}</dd>").format(name, _inline(" ".join(said.split())))
            for name, said in items
        )
        return Markup('<p class="section">{}</p><dl>{}</dl>').format(title, made)
    return Markup('<p class="section">{}</p><p>{}</p>').format(title, _inline(" ".join(text.split())))


def _inline(text: str) -> Markup:
    """Mark up code, references, tags and emphasis."""
    html = str(escape(text))
    html = re.sub(r"``(.+?)``", r"<code>\1</code>", html)
    html = re.sub(r":\w+:`~?(.+?)`", lambda m: f"<code>{m[1].rsplit('.', 1)[-1]}</code>", html)
    tag = rf"\[([{''.join(CHAPTERS)}]-E?\d+)\]"
    html = re.sub(tag, lambda m: str(link(m[1])).replace(f">{m[1]}<", f">[{m[1]}]<"), html)
    return Markup(html)
