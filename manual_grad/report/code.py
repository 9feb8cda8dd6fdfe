"""The source of the functions that run, taken from the live code and highlighted."""

import ast
import functools
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

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
    place = f"{_file(plain)}:{first}"
    return Source(
        plain.__name__, plain.__module__, place, _without_docstring(text), inspect.getdoc(plain) or ""
    )


def called_by(function: Callable) -> tuple[list[Source], list[Source]]:
    """What a function's code takes from its module, and the public formulas that it calls.

    The first are private functions, dataclasses, their methods, and constants; directly or through each
    other. What only checks arguments is left out.

    >>> from manual_grad import conv2d_plain_bwd, correlate2d_bwd
    >>> [[source.name for source in sources] for sources in called_by(correlate2d_bwd)]
    [['_correlate', '_pad', '_rot180'], []]
    >>> [source.name for source in called_by(conv2d_plain_bwd)[0]][:3]
    ['Conv2DResiduals', 'Conv2DResiduals.out_shape', 'Conv2DResiduals.reach']
    """
    found: dict[str, Source] = {}
    public: dict[str, Source] = {}

    def look_into(function: Callable, owner: type | None = None) -> None:
        plain = inspect.unwrap(function)
        nodes = list(ast.walk(ast.parse(source_of(plain).text)))
        classes = [owner] if owner else []
        for name in dict.fromkeys(node.id for node in nodes if isinstance(node, ast.Name)):
            value = plain.__globals__.get(name)
            callee = inspect.unwrap(value) if callable(value) else value
            if inspect.isclass(callee) and is_dataclass(callee) and _ours(callee):
                found.setdefault(callee.__name__, _fields_of(callee))
                classes.append(callee)
            elif inspect.isfunction(callee) and callee is not plain and _ours(callee) and name not in found:
                if name in formulas():
                    public[name] = source_of(callee)
                elif name.startswith("_") and not _checks(name):
                    found[name] = source_of(callee)
                    look_into(callee)
            elif name in (constants := _constants(plain.__module__)):
                found.setdefault(name, constants[name])
        for name in dict.fromkeys(node.attr for node in nodes if isinstance(node, ast.Attribute)):
            for cls in classes:
                method, full = _method(cls, name), f"{cls.__name__}.{name}"
                if method and full not in found and not _checks(name):
                    found[full] = replace(source_of(method), name=full)
                    look_into(method, cls)

    look_into(function)
    return list(found.values()), list(public.values())


def _ours(value: Any) -> bool:
    return value.__module__.startswith("manual_grad.")


def _checks(name: str) -> bool:
    return name.lstrip("_").startswith(("require", "check"))


def _method(cls: type, name: str) -> Callable | None:
    """A method of this class itself, or the function behind its property or class method."""
    value = vars(cls).get(name)
    plain = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
    return plain if inspect.isfunction(plain) else None


def _fields_of(cls: type) -> Source:
    """A dataclass without its docstring and its methods."""
    lines, first = inspect.getsourcelines(cls)
    (node,) = ast.parse(textwrap.dedent("".join(lines))).body
    body = node.body if isinstance(node, ast.ClassDef) else []
    fields = [line for part in body if isinstance(part, ast.AnnAssign) for line in _lines(lines, part)]
    text = "".join(["@dataclass(frozen=True)\n", *lines[node.lineno - 1 : body[0].lineno - 1], *fields])
    return Source(cls.__name__, cls.__module__, f"{_file(cls)}:{first}", text.rstrip(), "")


@functools.cache
def _constants(module: str) -> dict[str, Source]:
    """What a module's own lines assign: constants and short names of types."""
    file = _file(importlib.import_module(module))
    lines = (ROOT / file).read_text().splitlines(keepends=True)
    found = {}
    for node in ast.parse("".join(lines)).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, text = node.targets[0].id, "".join(_lines(lines, node)).rstrip()
            found[name] = Source(name, module, f"{file}:{node.lineno}", text, "")
    return found


def _lines(lines: list[str], node: ast.stmt) -> list[str]:
    return lines[node.lineno - 1 : node.end_lineno]


def _file(value: Any) -> str:
    return Path(inspect.getsourcefile(value) or "").resolve().relative_to(ROOT).as_posix()


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
