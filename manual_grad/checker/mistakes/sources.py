"""Names of values in the user's source: the name that a value is assigned to, or the expression itself."""

import ast
import functools
import linecache
import sys

import numpy as np

from manual_grad.checker.evidence import Evidence
from manual_grad.checker.tape import Slot, Source, Tape

LONGEST = 32  # characters of an expression


def source_said(tape: Tape, e: Evidence, slot: Slot, at: int) -> str:
    """``probs``, the name that a value is assigned to, or its expression; "" if it is part of a longer one.

    Args:
        tape: the function.
        e: the leaf.
        slot: the value.
        at: the step that makes it.
    Returns:
        The name; "a later x" if an argument has the same name.
    """
    key = ("source", slot)
    if key not in tape.kept:
        tape.kept[key] = _said(tape, e, at)
    return tape.kept[key]


def global_said(tape: Tape, value: np.ndarray) -> str:
    """The name of a variable of the user's module that has this value, such as labels or lengths; else ""."""
    if "globals" not in tape.kept:
        files = {step.source.file for step in tape.steps if step.source is not None}
        spaces = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
        tape.kept["globals"] = [
            (name, np.asarray(x))
            for space in spaces
            if space.get("__file__") in files
            for name, x in list(space.items())
            if isinstance(x, np.ndarray) and x.size > 1 and not name.startswith("_")
        ]
    same = [name for name, x in tape.kept["globals"] if np.array_equal(x.ravel(), value.ravel())]
    return same[0] if len(same) == 1 else ""


def _said(tape: Tape, e: Evidence, at: int) -> str:
    source = tape.steps[at].source
    if source is None or _goes_on(tape, at):
        return ""
    name = _names(source.file).get(source.span, "")
    if name:
        taken = any(name == other or other.startswith(f"{name}[") for other in e.point.names)
        return f"a later {name}" if taken else name
    return _text(source)


def _goes_on(tape: Tape, at: int) -> bool:
    """Whether a later step computes the value of the same expression."""
    here = tape.steps[at].source
    following = (step for step in tape.steps[at + 1 : at + 24] if step.source is not None)
    after = next(following, None)
    return after is not None and after.source == here


def _text(source: Source) -> str:
    """The expression, if it is short and on one line."""
    first, start, last, end = source.span
    if first != last:
        return ""
    line = linecache.getline(source.file, first).encode()
    text = " ".join(line[start:end].decode(errors="ignore").split())
    return f"`{text}`" if 1 < len(text) <= LONGEST else ""


@functools.lru_cache(maxsize=32)
def _names(file: str) -> dict[tuple[int, int, int, int], str]:
    """The names in a file that expressions are assigned to, by position."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[tuple[int, int, int, int], str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            _name(found, node.targets[0], node.value)
        elif isinstance(node, ast.NamedExpr) or (isinstance(node, ast.AnnAssign) and node.value is not None):
            _name(found, node.target, node.value)
    return found


def _name(found: dict[tuple[int, int, int, int], str], target: ast.expr, value: ast.expr | None) -> None:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for one, other in zip(target.elts, value.elts, strict=True):
            _name(found, one, other)
    elif isinstance(target, ast.Name) and value is not None:
        found[value.lineno, value.col_offset, value.end_lineno or 0, value.end_col_offset or 0] = target.id
