"""The user's functions that a call runs, and running that call with one of them edited.

An edited function is compiled from its syntax tree and put in place of the original's code while the call
runs, so that methods, closures and functions that are kept in tables are edited just like the function that
is checked. The file is never touched.
"""

import __future__

import ast
import contextlib
import functools
import gc
import linecache
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
CACHE = functools._lru_cache_wrapper
OWN = str(Path(__file__).parents[2])
TOUCHING = frozenset(  # what is outside the program: functions that name one of these are never edited
    (
        *(
            "open",
            "exec",
            "eval",
            "compile",
            "input",
            "exit",
            "quit",
            "breakpoint",
            "system",
            "popen",
            "Popen",
        ),
        *(
            "run",
            "call",
            "check_call",
            "check_output",
            "remove",
            "unlink",
            "rmdir",
            "rmtree",
            "rename",
            "write",
        ),
        *(
            "writelines",
            "write_text",
            "write_bytes",
            "save",
            "savez",
            "savez_compressed",
            "savetxt",
            "tofile",
        ),
        *(
            "dump",
            "mkdir",
            "makedirs",
            "urlopen",
            "urlretrieve",
            "send",
            "sendall",
            "connect",
            "kill",
            "fork",
        ),
    )
)


class Stopped(Exception):
    """An edited function ran for too long."""


@dataclass(frozen=True, eq=False)
class Running:
    """A function of the user's that a call runs.

    Attributes:
        file: its file.
        tree: the syntax tree, a ``def`` or a ``lambda``.
        owners: the function objects that share its code.
    """

    file: str
    tree: Any
    owners: tuple[types.FunctionType, ...]

    @contextlib.contextmanager
    def edited(self, tree: Any = None) -> Iterator[None]:
        """Run a tree, or its own as it is now, in place of the original code."""
        original = self.owners[0].__code__
        code = compiled(tree or self.tree, original)
        if code is None:
            raise SyntaxError("another set of free variables")
        try:
            for owner in self.owners:
                owner.__code__ = code
            yield
        finally:
            for owner in self.owners:
                owner.__code__ = original


def functions_run(call: Callable[[], Any], uncompiled: Callable[[], Any]) -> tuple[list[Running], bool]:
    """The user's functions that a call runs, those that are defined inside others as a part of them.

    Args:
        call: the call.
        uncompiled: the call for where JAX compiles nothing.
    Returns:
        The functions, and whether JAX compiles some of them, or has done so.
    """
    eager = codes = _codes_run(call)
    with contextlib.suppress(Exception), jax.disable_jit():  # it may take too long
        codes = list(dict.fromkeys([*eager, *_codes_run(uncompiled)]))
    return _with_trees(codes), len(codes) > len(eager)


def _with_trees(codes: list[types.CodeType]) -> list[Running]:
    inner = {const for code in codes for const in _constants(code)}
    outer = [code for code in codes if code not in inner]
    owners: dict[types.CodeType, list[types.FunctionType]] = {code: [] for code in outer}
    for holder in gc.get_referrers(*outer) if outer else []:
        if isinstance(holder, types.FunctionType) and holder.__code__ in owners:
            owners[holder.__code__].append(holder)
    found = []
    for code, functions in owners.items():
        tree = tree_of(code) if functions and not TOUCHING & set(names_in(code)) else None
        if tree is not None:
            found.append(Running(code.co_filename, tree, tuple(functions)))
    return found


@contextlib.contextmanager
def caches_kept(functions: Sequence[Running]) -> Iterator[None]:
    """Empty the caches (of functools) that functions fill meanwhile: they keep what edited code computes."""
    owners = [owner for running in functions for owner in running.owners]
    named = [owner.__globals__.get(name) for owner in owners for name in names_in(owner.__code__)]
    before = [(cache, cache.cache_info().misses) for cache in named if isinstance(cache, CACHE)]
    try:
        yield
    finally:
        for cache, misses in before:
            if cache.cache_info().misses > misses:
                cache.cache_clear()


def _codes_run(call: Callable[[], Any]) -> list[types.CodeType]:
    """The code of the user's functions that a call runs, in the order of their first calls."""
    entered: dict[int, types.CodeType] = {}

    def enter(frame: types.FrameType, event: str, _: Any) -> None:
        if event == "call":
            entered.setdefault(id(frame.f_code), frame.f_code)

    before = sys.getprofile()
    sys.setprofile(enter)
    try:
        call()
    finally:
        sys.setprofile(before)
    return [code for code in entered.values() if _is_own(code.co_filename)]


def _is_own(file: str) -> bool:
    """Whether a file is the user's: neither a library nor this package."""
    if file.startswith((*LIBRARIES, OWN, "<frozen")) or _is_installed(Path(file).parent):
        return False
    return bool(linecache.getlines(file))


@functools.cache
def _is_installed(folder: Path) -> bool:
    """Whether a folder holds installed packages, or lies in one of those, wherever that is on the path."""
    if folder.name in ("site-packages", "dist-packages") or any(folder.glob("*.dist-info")):
        return True
    return (folder / "__init__.py").exists() and _is_installed(folder.parent)


def _constants(code: types.CodeType) -> Iterator[types.CodeType]:
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield const
            yield from _constants(const)


def names_in(code: types.CodeType) -> Iterator[str]:
    """The variables of modules and the attributes that code names."""
    for part in (code, *_constants(code)):
        yield from part.co_names


def tree_of(code: types.CodeType) -> Any:
    """The syntax tree of a function, from its file; None if the file does not have that function any more."""
    try:
        module = ast.parse("".join(linecache.getlines(code.co_filename)))
    except (SyntaxError, ValueError, RecursionError):
        return None
    places = {(line, column) for line, _, column, _ in code.co_positions()}
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            fits = first == code.co_firstlineno and not any(
                "cache" in ast.unparse(d) for d in node.decorator_list
            )
        elif isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
            fits = (node.body.lineno, node.body.col_offset) in places
        else:
            continue
        again = compiled(node, code) if fits else None
        if again is not None and _sketch(again) == _sketch(code):
            return node
    return None


def _sketch(code: types.CodeType) -> tuple[Any, ...]:
    """What two compilations of one function share; the instructions depend on the module around it."""
    constants = [repr(const) for const in code.co_consts if not isinstance(const, types.CodeType)]
    return sorted(code.co_names), code.co_varnames, code.co_freevars, sorted(constants)


def compiled(tree: Any, original: types.CodeType) -> types.CodeType | None:
    """A function's code from its tree, with the free variables of the original; None if that has others."""
    free = original.co_freevars
    if isinstance(tree, ast.Lambda):
        return _compiled(ast.Return(ast.Lambda(tree.args, tree.body)), tree, original)
    code = _compiled(ast.FunctionDef(tree.name, tree.args, tree.body, []), tree, original)
    if code is None and free:  # an edit has removed one: it is named where nothing runs
        unused = ast.If(ast.Constant(False), [ast.Expr(ast.Name(name, ast.Load())) for name in free], [])
        body = [located(unused, tree), *tree.body]
        code = _compiled(ast.FunctionDef(tree.name, tree.args, body, []), tree, original)
    return code


def _compiled(definition: ast.stmt, tree: Any, original: types.CodeType) -> types.CodeType | None:
    first = [ast.Assign([ast.Name(name, ast.Store())], ast.Constant(None)) for name in original.co_freevars]
    body = [*(located(assigned, tree) for assigned in first), ast.copy_location(definition, tree)]
    if isinstance(definition, ast.Return) and definition.value is not None:
        ast.copy_location(definition.value, tree)
    outer = ast.FunctionDef("outer", ast.arguments([], [], None, [], [], None, []), body, [])
    module = ast.Module([ast.copy_location(outer, tree)], [])
    flags = original.co_flags & __future__.annotations.compiler_flag
    code = compile(module, original.co_filename, "exec", flags, dont_inherit=True)
    within = next(const for const in code.co_consts if isinstance(const, types.CodeType))
    inner = (const for const in within.co_consts if isinstance(const, types.CodeType))
    found = next((const for const in inner if const.co_name == original.co_name), None)
    return found if found is not None and found.co_freevars == original.co_freevars else None


def located(new: Any, like: Any) -> Any:
    """A new node, and what is new below it, at the place of another; compiling needs one for each node."""
    for node in ast.walk(new):
        if "lineno" in node._attributes and not hasattr(node, "lineno"):
            ast.copy_location(node, like)
    return new
