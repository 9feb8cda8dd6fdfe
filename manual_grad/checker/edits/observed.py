"""What each expression of a function is worth in one call: its kind, its shape, a mark of its values."""

import ast
import builtins
import contextlib
import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

VISITS = 4  # of an expression inside a loop
NAME = "_manual_grad_seen"  # by which the observed code calls back
ARRAYS = {"f": "floats", "i": "integers", "u": "integers", "b": "booleans", "c": "complex"}


class Elsewhere(Exception):
    """A function ran in another thread than the call."""


@dataclass
class Seen:
    """An expression in one call.

    Attributes:
        kind: of its values: an array's or a number's dtype, or another type's name.
        shape: of the first value.
        marks: a number for each of the first values, equal for equal ones.
        number: the first value, if it is an integer.
        tensor: whether the first value is a PyTorch tensor.
    """

    kind: str
    shape: tuple[int, ...]
    marks: list[float] = field(default_factory=list)
    number: int | None = None
    tensor: bool = False

    def like(self, other: "Seen") -> bool:
        """Whether one could stand in place of the other: the same kind, and shapes that broadcast."""
        return (
            self.kind == other.kind
            and len(self.shape) == len(other.shape)
            and all(m == n or 1 in (m, n) for m, n in zip(self.shape, other.shape, strict=True))
        )

    def equals(self, other: "Seen") -> bool:
        """Whether the values are the same."""
        return (
            bool(self.marks)
            and len(self.marks) == len(other.marks)
            and np.allclose(self.marks, other.marks, 1e-9, 1e-12)
        )


def is_read(node: ast.AST) -> bool:
    """Whether a node is an expression whose value can be looked at and replaced."""
    if not isinstance(node, ast.expr) or isinstance(
        node, ast.Starred | ast.Slice | ast.JoinedStr | ast.FormattedValue | ast.Lambda | ast.NamedExpr
    ):
        return False
    return isinstance(getattr(node, "ctx", ast.Load()), ast.Load)


def watched(tree: Any) -> tuple[Any, list[ast.AST]]:
    """A function that shows the value of every expression to ``look(i, value)``, and the expressions.

    What ``look`` returns is what the function goes on with, except for variables that are never read.
    """
    nodes, twin = list(ast.walk(tree)), copy.deepcopy(tree)
    index = dict(zip(ast.walk(twin), range(len(nodes)), strict=True))
    for statement in twin.body if isinstance(twin.body, list) else [twin]:
        _watch(statement, index)
    _show_unread(twin, index)
    return ast.fix_missing_locations(twin), nodes


@contextlib.contextmanager
def looking(look: Callable[[int, Any], Any]) -> Iterator[None]:
    """Let the functions that :func:`watched` makes call ``look``."""
    builtins.__dict__[NAME] = look
    try:
        yield
    finally:
        unlook()


def unlook() -> None:
    """End that."""
    builtins.__dict__.pop(NAME, None)


def observed(nodes: Sequence[ast.AST], call: Callable[[], Any]) -> dict[ast.AST, Seen]:
    """What was seen of each expression in one call of a watched function.

    Raises:
        Elsewhere: some of it ran in another thread, where nothing stops an edited loop that does not end.
    """
    found: dict[ast.AST, Seen] = {}
    threads = {threading.get_ident()}

    def look(i: int, value: Any) -> Any:
        node = nodes[i]
        threads.add(threading.get_ident())
        if node not in found:
            found[node] = _first(value)
        if len(found[node].marks) < VISITS:
            found[node].marks.append(_mark(value))
        return value

    with looking(look):
        call()
    if len(threads) > 1:
        raise Elsewhere
    return found


def _watch(node: Any, index: dict[ast.AST, int]) -> None:
    """Wrap the expressions below a node in calls that look at their values."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "args", "type_comment") and not isinstance(
            node, ast.Call
        ):
            continue
        items = value if isinstance(value, list) else [value]
        for i, item in enumerate(items):
            if not isinstance(item, ast.AST):
                continue
            _watch(item, index)
            called = isinstance(node, ast.Call) and name == "func"
            if is_read(item) and item in index and not called and not isinstance(item, ast.Constant):
                shown: list[Any] = [ast.Constant(index[item]), item]
                watched = ast.Call(ast.Name(NAME, ast.Load()), shown, [])
                if isinstance(value, list):
                    value[i] = watched
                else:
                    setattr(node, name, watched)


def _show_unread(twin: Any, index: dict[ast.AST, int]) -> None:
    """Show the variables and parameters that a function never reads, as it may have to."""
    read = {n.id for n in index if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}

    def shown(targets: Sequence[ast.AST]) -> list[ast.stmt]:
        named = [(n, name_of(n)) for target in targets for n in ast.walk(target) if n in index]
        return [
            ast.Expr(
                ast.Call(ast.Name(NAME, ast.Load()), [ast.Constant(index[n]), ast.Name(name, ast.Load())], [])
            )
            for n, name in named
            if name and name not in read
        ]

    for node in index:
        for block in (getattr(node, "body", None), getattr(node, "orelse", None)):
            if isinstance(block, list):
                block[:] = [
                    s
                    for own in block
                    for s in (own, *(shown(own.targets) if isinstance(own, ast.Assign) else ()))
                ]
    if isinstance(twin, ast.FunctionDef):
        twin.body[:0] = shown([twin.args])


def name_of(node: ast.AST) -> str:
    """The name of a parameter, or of a variable where it is assigned; "" for anything else."""
    if isinstance(node, ast.arg):
        return node.arg
    return node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else ""


def is_tensor(value: Any) -> bool:
    """Whether a value is a PyTorch tensor, without importing PyTorch."""
    return hasattr(value, "new_tensor")


def as_array(value: Any) -> np.ndarray | None:
    """An array's or a number's values; None for anything else."""
    if is_tensor(value):
        try:
            return _of_tensor(value)
        except Exception:  # a tensor without numbers in memory may refuse
            return None
    if not (isinstance(value, int | float | complex | np.generic) or hasattr(value, "shape")):
        return None
    try:
        array = np.asarray(value)
    except Exception:  # a tensor of another library may refuse
        return None
    return array if array.dtype.kind in ARRAYS else None


def _of_tensor(tensor: Any) -> np.ndarray:
    """A tensor's numbers, in float32 where NumPy has no such dtype."""
    narrow = tensor.is_floating_point() and tensor.element_size() < 4
    return np.asarray((tensor.detach().float() if narrow else tensor.detach()).numpy(force=True))


def _first(value: Any) -> Seen:
    array = as_array(value)
    if array is None:
        return Seen(type(value).__name__, ())
    kind = ARRAYS[array.dtype.kind]
    whole = kind == "integers" and not array.ndim
    return Seen(kind, array.shape, [], int(array) if whole else None, is_tensor(value))


def marks_of(values: Iterable[Any]) -> set[tuple[Any, ...]]:
    """What the fingerprints of values have in common with those of equal ones."""
    arrays = (as_array(value) for value in values)
    return {_key(array.shape, _mark(array)) for array in arrays if array is not None and array.size > 1}


def is_one_of(seen: Seen, marks: set[tuple[Any, ...]]) -> bool:
    """Whether an expression that is evaluated once has one of these values."""
    return len(seen.marks) == 1 and _key(seen.shape, seen.marks[0]) in marks


def _key(shape: tuple[int, ...], mark: float) -> tuple[Any, ...]:
    return shape, f"{mark:.7g}"


def _mark(value: Any) -> float:
    array = as_array(value)
    if array is None:
        return (
            float(id(value))
            if not isinstance(value, tuple | list | slice | str)
            else float(hash(repr(value)))
        )
    flat = array.ravel()
    weights = np.cos(1.0 + 7.3 * np.arange(flat.size))
    with np.errstate(all="ignore"):
        return float(np.real(np.dot(np.nan_to_num(flat.astype(complex)), weights)) + np.imag(flat).sum())
