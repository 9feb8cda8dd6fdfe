"""The user's functions that a call runs, and running that call with one of them edited.

An edited function is compiled from its syntax tree and put in place of the original's code while the call
runs, so that methods, closures and functions that are kept in tables are edited just like the function that
is checked. The file is never touched.
"""

import __future__

import ast
import collections
import contextlib
import copy
import functools
import gc
import itertools
import linecache
import os
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
CACHE = functools._lru_cache_wrapper
OWN = f"{Path(__file__).parents[2]}{os.sep}"
ALONE = 2  # threads: the one that searches, and the one that watches it
EDITED = "_manual_grad_edited"  # another name than the function's: it may call itself
SCOPES = (ast.Global, ast.Nonlocal)
TYPED = ("<ipython-input", "<doctest ", "<stdin", "<python-input", "<console")  # code that is in no file
TOUCHING = {  # what is outside the program or its arrays: functions that name one of these are never edited
    "as_strided", "frombuffer", "from_buffer", "memmap", "ctypes", "CDLL",
    "open", "exec", "eval", "compile", "input", "exit", "quit", "breakpoint", "system", "popen", "Popen",
    "run", "call", "check_call", "check_output", "remove", "unlink", "rmdir", "rmtree", "rename", "save",
    "savez", "savez_compressed", "savetxt", "tofile", "write_text", "write_bytes", "dump", "mkdir",
    "makedirs", "urlopen", "urlretrieve", "connect",
}  # fmt: skip
ONCE = {  # what must not happen hundreds of times, or not at all: nothing near these is run again
    "write", "writelines", "send", "sendall", "sendto", "execute", "commit", "sleep", "_exit", "abort",
    "kill", "killpg", "fork", "execv",
}  # fmt: skip


class Outside(Exception):
    """The user's functions do something that must not happen hundreds of times."""


@dataclass(frozen=True, eq=False)
class Running:
    """A function of the user's that a call runs.

    Attributes:
        code: its code as it is.
        tree: the syntax tree, a ``def`` or a ``lambda``.
        owners: the function objects that share its code.
        as_is: the syntax tree once more, which is not edited.
    """

    code: types.CodeType
    tree: Any
    owners: tuple[types.FunctionType, ...]
    as_is: Any

    @property
    def file(self) -> str:
        """Its file."""
        return self.code.co_filename

    @contextlib.contextmanager
    def edited(self, tree: Any = None) -> Iterator[None]:
        """Run a tree, or its own as it is now, in place of the original code: in this thread only."""
        run = tree or self.tree
        code = compiled(run if threading.active_count() <= ALONE else self._here(run), self.code)
        if code is None:
            raise SyntaxError("another set of free variables")
        try:
            _give(self.owners, code)
            yield
        finally:
            self.restore()

    def restore(self) -> None:
        """Give the functions their own code."""
        _give(self.owners, self.code)

    def _here(self, tree: Any) -> Any:
        """A tree that runs in this thread, and the original one that runs in all others."""
        here: Any = ast.parse(
            f"__import__('_thread').get_ident() == {threading.get_ident()}", mode="eval"
        ).body
        if isinstance(tree, ast.Lambda):
            return located(ast.Lambda(tree.args, ast.IfExp(here, tree.body, self.as_is.body)), tree)
        scopes = [line for line in tree.body if isinstance(line, ast.Global | ast.Nonlocal)]
        bodies = [[line for line in t.body if type(line) not in SCOPES] for t in (tree, self.as_is)]
        either = ast.If(here, *(body or [ast.Pass()] for body in bodies))
        return located(ast.FunctionDef(tree.name, tree.args, [*scopes, either], []), tree)


def _give(owners: tuple[types.FunctionType, ...], code: types.CodeType) -> None:
    """Set the code of functions, in one step that Ctrl-C does not interrupt."""
    collections.deque(map(setattr, owners, itertools.repeat("__code__"), itertools.repeat(code)), 0)


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
    for holder in _holders(outer):
        if isinstance(holder, types.FunctionType) and holder.__code__ in owners:
            owners[holder.__code__].append(holder)
    if any(_is_outside(code) for code in _reached(owners)):
        raise Outside
    for file in {code.co_filename for code in owners}:
        linecache.checkcache(file)
    found = []
    for code, functions in owners.items():
        tree = tree_of(code) if functions and not TOUCHING & set(names_in(code)) else None
        if tree is not None:
            found.append(Running(code, tree, tuple(functions), copy.deepcopy(tree)))
    return found


def _holders(codes: list[types.CodeType]) -> list[Any]:
    """What refers to code, also where the garbage collector has been told to look no more."""
    frozen = gc.get_freeze_count()
    if frozen:
        gc.unfreeze()
    try:
        return gc.get_referrers(*codes) if codes else []
    finally:
        if frozen:
            gc.freeze()


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


def _is_outside(code: types.CodeType) -> bool:
    names = set(names_in(code))
    into = any(
        "file" in const for c in (code, *_constants(code)) for const in c.co_consts if type(const) is tuple
    )
    return bool(ONCE & names) or ("print" in names and into)


def _reached(owners: dict[types.CodeType, list[types.FunctionType]]) -> Iterator[types.CodeType]:
    """The code of these functions, and of those that they name and that an edit might let run."""
    found = dict.fromkeys(owners)
    waiting = [function for functions in owners.values() for function in functions]
    yield from owners
    while waiting:
        function = waiting.pop()
        for name in set(names_in(function.__code__)):
            other = function.__globals__.get(name)
            if not isinstance(other, types.FunctionType) or other.__code__ in found:
                continue
            if is_own(other.__code__.co_filename):
                found[other.__code__] = None
                waiting.append(other)
                yield other.__code__


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
    return [code for code in entered.values() if is_own(code.co_filename)]


def is_own(file: str) -> bool:
    """Whether a file is the user's: neither a library nor this package."""
    if file.startswith("<"):  # unless it was typed, it was written by a program
        return file.startswith(TYPED) and bool(linecache.getlines(file))
    if file.startswith((*LIBRARIES, OWN)) or _is_installed(Path(file).parent):
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
        module, compilations = _parsed(code.co_filename, "".join(linecache.getlines(code.co_filename)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    same = any(_sketch(other) == _sketch(code) for other in compilations.get(code.co_firstlineno, ()))
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
        if again is not None and (_sketch(again) == _sketch(code) or (same and _alike(again, code))):
            return copy.deepcopy(node)
    return None


@functools.lru_cache(8)
def _parsed(file: str, text: str) -> tuple[ast.Module, dict[int, list[types.CodeType]]]:
    """The syntax tree of a file, and the code in it by its first line."""
    module = ast.parse(text)
    codes: dict[int, list[types.CodeType]] = {}
    for code in _constants(compile(text, file, "exec", dont_inherit=True)):
        codes.setdefault(code.co_firstlineno, []).append(code)
    return module, codes


def _sketch(code: types.CodeType) -> tuple[Any, ...]:
    """What two compilations of one function share."""
    inner = [_sketch(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    constants = [repr(const) for const in code.co_consts if not isinstance(const, types.CodeType)]
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants, inner


def _alike(code: types.CodeType, other: types.CodeType) -> bool:
    """Whether two compilations may be of one function: the instructions depend on the module around it."""
    return (sorted(code.co_names), code.co_varnames, code.co_freevars) == (
        sorted(other.co_names),
        other.co_varnames,
        other.co_freevars,
    )


def compiled(tree: Any, original: types.CodeType) -> types.CodeType | None:
    """A function's code from its tree, with the free variables of the original; None if that has others."""
    free = original.co_freevars
    if isinstance(tree, ast.Lambda):
        return _compiled(ast.Return(ast.Lambda(tree.args, tree.body)), tree, original)
    code = _compiled(ast.FunctionDef(EDITED, tree.args, tree.body, []), tree, original)
    if code is None and free:  # an edit has removed one: it is named where nothing runs
        unused = ast.If(ast.Constant(False), [ast.Expr(ast.Name(name, ast.Load())) for name in free], [])
        body = [located(unused, tree), *tree.body]
        code = _compiled(ast.FunctionDef(EDITED, tree.args, body, []), tree, original)
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
    name = EDITED if isinstance(definition, ast.FunctionDef) else "<lambda>"
    found = next((const for const in inner if const.co_name == name), None)
    if found is None or found.co_freevars != original.co_freevars:
        return None
    return found.replace(co_name=original.co_name, co_qualname=original.co_qualname)


def located(new: Any, like: Any) -> Any:
    """A new node, and what is new below it, at the place of another; compiling needs one for each node."""
    for node in ast.walk(new):
        if "lineno" in node._attributes and not hasattr(node, "lineno"):
            ast.copy_location(node, like)
    return new
