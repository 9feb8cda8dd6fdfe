"""An edit in words: the code that makes the gradient right, the code that stands there now, and where."""

import ast
from pathlib import Path
from typing import Any

from manual_grad.checker.edits.changes import Edit, undone
from manual_grad.checker.edits.running import Running

LONG = 80  # characters of a text that is shown
PIECES = ast.Tuple | ast.Slice | ast.keyword | ast.arguments | ast.comprehension  # no code by themselves


def phrase(running: Running, edit: Edit) -> str:
    """What to write in place of what, and in which line."""
    places = dict.fromkeys([edit.statement.lineno, *(statement.lineno for statement in edit.also)])
    where = f"{Path(running.file).name}:{', '.join(map(str, places))}"
    if edit.how == "left out":
        texts = [f"`{_header(statement)}`" for statement in (edit.statement, *edit.also)]
        return f"{where}: right without {' and '.join(texts)}"
    if edit.how:
        return f"{where}: right with `{_header(edit.statement)}` {edit.how}"
    before = _texts(edit)
    undo = edit.made()
    try:
        after = _texts(edit)
    finally:
        undone(undo)
    pairs = [_shortest(*both) for both in zip(before, after, strict=True)]
    said = [f"`{then}` instead of `{now}`" for now, then in dict.fromkeys(pairs)]
    return f"{where}: right with {' and '.join(said[:2])}"


def _shortest(before: list[str], after: list[str]) -> tuple[str, str]:
    """The statement before and after, or as much of both as is short enough to be shown."""
    pairs = [pair for pair in zip(before, after, strict=False) if all(pair)]
    short = [pair for pair in pairs if max(map(len, pair)) <= LONG]
    now, then = (short or pairs[-1:])[0]
    return _cut(now), _cut(then)


def _cut(text: str) -> str:
    return text if len(text) <= 2 * LONG else f"{text[: 2 * LONG]}…"


def _texts(edit: Edit) -> list[list[str]]:
    """For each part of an edit: the statement that it changes, and smaller pieces around the change."""
    found = []
    for (owner, name, i, _), statement in zip(edit.parts, _places(edit), strict=True):
        held = getattr(owner, name)
        now = held if i is None else held[i]
        around = [statement, *_around(statement, owner), now]
        whole = [now] if isinstance(now, ast.stmt) else [x for x in around if not isinstance(x, PIECES)]
        found.append([_header(x) for x in whole])
    return found


def _around(node: Any, inner: Any) -> list[Any]:
    """The expressions inside a node that contain another, from the largest to that one."""
    for child in ast.iter_child_nodes(node):
        if child is inner:
            return [child]
        if below := _around(child, inner):
            return [child, *below]
    return []


def _places(edit: Edit) -> list[Any]:
    places = [edit.statement, *edit.also]
    return places if len(places) == len(edit.parts) else [edit.statement] * len(edit.parts)


def _header(statement: Any) -> str:
    """A statement's text, or the first line of a loop or a condition."""
    return ast.unparse(statement).splitlines()[0]
