"""The source of the functions that run, taken from the live code and highlighted."""

import ast
import functools
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import BashLexer, PythonConsoleLexer, PythonLexer

from manual_grad import formulas as by_hand
from manual_grad import kernels, networks
from manual_grad.lectures.entries import tags_in

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Source:
    """The source of a function.

    Attributes:
        name: the function's name.
        module: the dotted name of its module.
        place: file and line, such as ``manual_grad/formulas/mse.py:42``.
        text: signature and body, without the docstring.
        doc: the docstring.
    """

    name: str
    module: str
    place: str
    text: str
    doc: str

    @property
    def anchor(self) -> str:
        """Its link in the API reference."""
        return f"{page_of(self.module)}#{self.name}"

    def html(self, tag: str = "") -> Markup:
        """The highlighted source; lines that carry ``tag`` are marked."""
        lines = tuple(n for n, line in enumerate(self.text.splitlines(), 1) if tag and tag in tags_of(line))
        return python(self.text, lines)


def page_of(module: str) -> str:
    """The API reference's page of a module.

    >>> page_of("manual_grad.kernels.conv2d")
    'api-kernels-conv2d.html'
    """
    return f"api-{'-'.join(module.split('.')[1:])}.html"


@functools.cache
def formulas() -> dict[str, Callable]:
    """Every public formula by its name, module by module.

    >>> formulas()["mse_bwd"].__module__
    'manual_grad.formulas.mse'
    """
    found: dict[str, Callable] = {}
    for wing in (by_hand, kernels, networks):
        for module in pkgutil.iter_modules(wing.__path__, f"{wing.__name__}."):
            for name, value in vars(importlib.import_module(module.name)).items():
                if inspect.isfunction(value) and value.__module__ == module.name and not name.startswith("_"):
                    found[name] = value
    return found


@functools.cache
def source_of(function: Callable) -> Source:
    """The source of a function, with any wrappers removed.

    >>> from manual_grad import mse_bwd
    >>> print(source_of(mse_bwd).text.splitlines()[1])
    def mse_bwd(res: Float[Array, " N"], dJ: Scalar) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """
    plain = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(plain)
    text = textwrap.dedent("".join(lines))
    path = Path(inspect.getsourcefile(plain) or "").resolve()
    place = f"{path.relative_to(ROOT).as_posix()}:{first}"
    return Source(
        plain.__name__, plain.__module__, place, _without_docstring(text), inspect.getdoc(plain) or ""
    )


def called_by(function: Callable) -> tuple[list[Source], list[Source]]:
    """The private functions that a function calls, directly or through each other, and the public formulas.

    Functions that only check arguments are left out.

    >>> from manual_grad import correlate2d_bwd
    >>> [[source.name for source in sources] for sources in called_by(correlate2d_bwd)]
    [['_correlate', '_pad', '_rot180'], []]
    """
    private: dict[str, Source] = {}
    public: dict[str, Source] = {}

    def look_into(function: Callable) -> None:
        plain = inspect.unwrap(function)
        code = ast.walk(ast.parse(source_of(plain).text))
        for name in dict.fromkeys(node.id for node in code if isinstance(node, ast.Name)):
            callee = inspect.unwrap(plain.__globals__.get(name, plain))
            ours = inspect.isfunction(callee) and callee.__module__.startswith("manual_grad.")
            if callee is plain or not ours or name in private:
                continue
            if name in formulas():
                public[name] = source_of(callee)
            elif name.startswith("_") and not name.startswith(("_require", "_check")):
                private[name] = source_of(callee)
                look_into(callee)

    look_into(function)
    return list(private.values()), list(public.values())


def _without_docstring(text: str) -> str:
    node = ast.parse(text).body[0]
    if not isinstance(node, ast.FunctionDef) or ast.get_docstring(node) is None:
        return text.rstrip()
    lines, doc = text.splitlines(), node.body[0]
    kept = [*lines[: doc.lineno - 1], *lines[doc.end_lineno :]]
    return "\n".join(kept).rstrip()


def tags_of(line: str) -> list[str]:
    """The tags in a line's comment; ranges are expanded.

    >>> tags_of("dz = p - y  # [A-10] [B-03] … [B-05]")
    ['A-10', 'B-03', 'B-04', 'B-05']
    """
    return tags_in(line.partition("#")[2])


def python(text: str, marked_lines: tuple[int, ...] = ()) -> Markup:
    """Python source as highlighted HTML."""
    return Markup(highlight(text, PythonLexer(), HtmlFormatter(hl_lines=list(marked_lines), wrapcode=True)))


def console(text: str) -> Markup:
    """A Python session as highlighted HTML."""
    return Markup(highlight(text, PythonConsoleLexer(), HtmlFormatter(wrapcode=True)))


def shell(text: str) -> Markup:
    """Lines to paste into a shell, as highlighted HTML."""
    return Markup(highlight(text, BashLexer(), HtmlFormatter(wrapcode=True)))
