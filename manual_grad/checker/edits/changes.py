"""Edits of one expression or statement of a function, as mistakes are made."""

import ast
import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from manual_grad.checker.edits.observed import Seen, is_read, name_of
from manual_grad.checker.edits.running import located

INSERTED = 1.6  # the least cost of an insertion
LARGEST = 14  # nodes of an expression that is put in place of another
COMBINED_WITH = 20  # expressions that an expression is multiplied by or added to
OTHER_SHAPE = 1.45  # the cost of a variable of another shape, which may be broadcast
REPLACED_BY = 12  # expressions that are tried in place of one
SWAPPED: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add, ast.Mult, ast.Div),
    ast.Mult: (ast.Div, ast.Add, ast.Sub, ast.MatMult),
    ast.Div: (ast.Mult, ast.FloorDiv),
    ast.FloorDiv: (ast.Mod, ast.Mult),
    ast.Mod: (ast.FloorDiv, ast.Mult),
    ast.MatMult: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Pow: (ast.Mult,),
}
COMPARED: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt, ast.GtE),
    ast.LtE: (ast.Lt, ast.GtE, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt, ast.LtE),
    ast.GtE: (ast.Gt, ast.LtE, ast.Lt),
    ast.Eq: (ast.NotEq, ast.GtE, ast.LtE),
    ast.NotEq: (ast.Eq, ast.Gt, ast.Lt),
}
STRICT: dict[type, type] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
CALLED = [  # functions that are taken for each other
    "sum mean max min prod",
    "maximum minimum",
    "sin cos",
    "sinh cosh tanh",
    "floor ceil round trunc rint",
    "argmax argmin",
    "triu tril",
    "repeat tile",
    "cumsum cumprod",
    "exp expm1",
    "log log1p log2",
    "concatenate stack",
    "zeros ones",
    "zeros_like ones_like",
    "inner outer",
    "var std",
    "amax amin",
    "vstack hstack",
    "set add",  # of x.at[index]
    "cat stack",
    "empty_like zeros_like ones_like",
    "new_zeros new_ones new_empty",
    "sqrt rsqrt square",
    "sigmoid tanh relu silu",
    "softmax log_softmax",
    "clamp_min clamp_max",
    "lt le gt ge",
    "mul div add sub",
    "mul_ div_ add_ sub_",
    "scatter_ scatter_add_",
    "index_copy_ index_add_",
]
WORDS = [
    ("left", "right"),
    ("C", "F"),
    ("same", "valid"),
    ("full", "valid"),
    ("lower", "upper"),
    ("ij", "xy"),
]
REDUCTIONS = (
    *("sum", "mean", "max", "min", "prod", "var", "std", "argmax", "argmin", "amax", "amin"),
    *("any", "all", "cumsum", "logsumexp", "norm"),
)
SMALL = ast.Name | ast.Subscript | ast.Attribute | ast.BinOp | ast.Call | ast.UnaryOp
DISCRETE = (  # small changes of their arguments have no effect
    *("floor", "ceil", "round", "rint", "trunc", "sign", "argmax", "argmin", "argsort", "searchsorted"),
    *("astype", "int", "bool", "heaviside", "top_k", "topk", "digitize"),
)
NO_VALUE = ("NoneType", "module", "function", "type")


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of a syntax tree.

    Attributes:
        cost: smaller for what is more often mistaken.
        parts: node, field, position in a list or None, and what is put there.
        statement: the changed statement.
        place: the changed expression; None if the statement itself changes.
        how: what happens to a statement that is moved or left out.
        also: the further statements that change, one for each further part.
        group: equal for the same change at several places, which may be made together.
    """

    cost: float
    parts: tuple[tuple[Any, str, int | None, Any], ...]
    statement: ast.stmt
    group: str = ""
    place: Any = None
    how: str = ""
    also: tuple[ast.stmt, ...] = ()

    def made(self) -> list[tuple[Any, str, int | None, Any]]:
        """Make the change; what undoes it."""
        for _, _, _, new in self.parts:
            known = [hasattr(node, "lineno") for node in new] if isinstance(new, list) else [False]
            for node, is_old in zip(new if isinstance(new, list) else [new], known, strict=True):
                if not is_old:
                    located(node, self.statement)
        return [_put(*part) for part in self.parts][::-1]


def _put(node: Any, name: str, i: int | None, new: Any) -> tuple[Any, str, int | None, Any]:
    held = getattr(node, name)
    if i is None:
        setattr(node, name, new)
        return node, name, None, held
    old, held[i] = held[i], new
    return node, name, i, old


def undone(parts: list[tuple[Any, str, int | None, Any]]) -> None:
    """Undo a change."""
    for part in parts:
        _put(*part)


def statements(tree: Any) -> list[ast.stmt]:
    """All statements of a function, in order; a lambda's body counts as a returned expression."""
    return [node for node in _in_order(tree) if isinstance(node, ast.stmt) and node is not tree]


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)


def assigned_in(tree: Any) -> Iterator[Any]:
    """What is assigned to variables or returned, each part of a tuple by itself."""
    for statement in statements(tree):
        if isinstance(statement, ast.Assign | ast.Return) and statement.value is not None:
            value = statement.value
            yield from value.elts if isinstance(value, ast.Tuple) else [value]


Slot = tuple[Any, str, int | None, Any]


def slots(statement: Any) -> Iterator[Slot]:
    """The expressions of a statement and where they stand, without those of statements inside it."""
    for name, value in ast.iter_fields(statement):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        if name == "args" and not isinstance(statement, ast.Call):
            continue
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for i, item in items:
            if isinstance(item, ast.AST) and not isinstance(item, ast.stmt):
                if is_read(item) and not (isinstance(statement, ast.Call) and name == "func"):
                    yield statement, name, i, item
                yield from slots(item)


def insertions_of(tree: Any, seen: dict[ast.AST, Seen]) -> Iterator[Edit]:
    """The edits that multiply by, divide by, add or subtract another expression of the function."""
    pool = _pool(tree, seen)
    for statement in statements(tree) if isinstance(tree, ast.FunctionDef) else [tree]:
        for slot in slots(statement):
            what = seen.get(slot[3])
            if what is not None and what.kind in ("floats", "complex"):
                for cost, new, group in _combined(slot[3], what, slot[0], pool):
                    alike = f"{group} {structure(statement)}" if group else ""
                    yield Edit(cost, ((*slot[:3], new),), statement, alike, slot[3])


def edits_of(tree: Any, seen: dict[ast.AST, Seen]) -> Iterator[Edit]:
    """The edits of a function."""
    pool = _pool(tree, seen)
    called = _functions(tree)
    for statement in statements(tree) if isinstance(tree, ast.FunctionDef) else [tree]:
        for slot in slots(statement):
            for cost, new, group in _in_place_of(slot, seen, pool, called):
                yield Edit(cost, ((*slot[:3], new),), statement, group, slot[3])
        yield from _of_targets(statement)
    if isinstance(tree, ast.FunctionDef):
        yield from _of_blocks(tree, seen)
        yield from _exchanged(tree, seen)


def _exchanged(tree: Any, seen: dict[ast.AST, Seen]) -> Iterator[Edit]:
    """Two variables in each other's place, in one statement or in two like ones that follow each other."""
    simple = [
        s for s in statements(tree) if isinstance(s, ast.Assign | ast.AugAssign | ast.Return | ast.Expr)
    ]
    read = {s: [x for x in slots(s) if isinstance(x[3], ast.Name) and x[3] in seen] for s in simple}
    pairs = [(s, t) for s, t in itertools.pairwise(simple) if structure(s) == structure(t)]
    for several in [*((s,) for s in simple), *pairs]:
        found = [(s, slot) for s in several for slot in read[s]]
        kinds = {slot[3].id: seen[slot[3]] for _, slot in found}
        for a, b in itertools.combinations(kinds, 2):
            if kinds[a].like(kinds[b]) and not kinds[a].equals(kinds[b]):
                other = {a: b, b: a}
                changed = [(s, slot) for s, slot in found if slot[3].id in other]
                parts = tuple((*slot[:3], ast.Name(other[slot[3].id], ast.Load())) for _, slot in changed)
                yield Edit(1.45, parts, changed[0][0], also=tuple(s for s, _ in changed[1:]))


def structure(statement: Any) -> str:
    """Equal for statements that differ in their names and numbers only."""
    return "".join(type(node).__name__[:3] for node in ast.walk(statement))


def _of_targets(statement: Any) -> Iterator[Edit]:
    """All entries along an axis in place of one, where they are assigned."""
    several = isinstance(statement, ast.Assign)
    target = statement.targets[0] if several else getattr(statement, "target", None)
    if not isinstance(target, ast.Subscript) or not isinstance(target.slice, ast.Tuple):
        return
    for i, part in enumerate(target.slice.elts):
        if not isinstance(part, ast.Slice):
            parts = [*target.slice.elts[:i], ast.Slice(), *target.slice.elts[i + 1 :]]
            new = ast.Subscript(target.value, ast.Tuple(parts, ast.Load()), ast.Store())
            where = (statement, "targets", 0) if several else (statement, "target", None)
            yield Edit(1.4, ((*where, new),), statement)


def _pool(tree: Any, seen: dict[ast.AST, Seen]) -> dict[str, tuple[Any, Seen]]:
    """The small expressions of a function, by their text."""
    found: dict[str, tuple[Any, Seen]] = {}
    for place, what in seen.items():
        name = name_of(place)
        node = ast.copy_location(ast.Name(name, ast.Load()), place) if name else place
        if not isinstance(node, SMALL) or what.kind in NO_VALUE or size_of(node) > LARGEST or _writes(node):
            continue
        first, its = found.setdefault(ast.unparse(node), (node, what))
        if what.like(its) and not what.equals(its):  # it has been written to
            found[ast.unparse(node)] = first, what
    return found


def _writes(node: ast.AST) -> bool:
    """Whether an expression calls a method that writes to a tensor, such as ``mul_``."""
    return any(isinstance(n, ast.Attribute) and _in_place(n.attr) for n in ast.walk(node))


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def size_of(node: ast.AST) -> int:
    """The number of expressions in an expression."""
    return sum(isinstance(n, ast.expr) for n in ast.walk(node))


def _functions(tree: Any) -> dict[str, Any]:
    """The functions that are called with one argument."""
    calls = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and len(n.args) == 1 and not n.keywords)
    return {ast.unparse(n.func): n.func for n in calls if not isinstance(n.func, ast.Call)}


Change = tuple[float, Any, str]


def _in_place_of(
    slot: Slot, seen: dict[ast.AST, Seen], pool: dict[str, tuple[Any, Seen]], called: dict[str, Any]
) -> Iterator[Change]:
    owner, _, _, node = slot
    what = seen.get(node)
    yield from _constants(node, owner)
    if isinstance(node, ast.BinOp):
        yield from _operators(node)
    if isinstance(node, ast.UnaryOp):
        yield 1.1, node.operand, "no unary"
    if isinstance(node, ast.List):
        yield from ((1.1, ast.List(elts, node.ctx), "") for elts in _swapped(node.elts))
    if isinstance(node, ast.Tuple):
        yield from ((1.1, ast.Tuple(elts, node.ctx), "") for elts in _swapped(node.elts))
        yield from ((1.1, ast.Tuple(elts, node.ctx), "") for elts in _instead_of_none(node.elts, pool))
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield 1.2, node.value, ""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for op in COMPARED.get(type(node.ops[0]), ()):
            cost = 1.0 if STRICT.get(type(node.ops[0])) is op else 1.1
            group = "strict" if cost == 1.0 else "compare"
            yield cost, ast.Compare(node.left, [op()], node.comparators), group
    if isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield 1.3, ast.BoolOp(other, node.values), ""
        for i in range(len(node.values)):
            rest = node.values[:i] + node.values[i + 1 :]
            yield 1.3, rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest), ""
    if isinstance(node, ast.IfExp):
        yield 1.3, node.body, ""
        yield 1.3, node.orelse, ""
        yield 1.4, ast.IfExp(node.test, node.orelse, node.body), ""
    if isinstance(node, ast.Subscript):
        yield from _indices(node)
    if isinstance(node, ast.Call):
        yield from _calls(node, seen)
    if what is None:
        return
    if not (isinstance(owner, ast.Attribute) and _in_place(owner.attr)):
        yield from _others(node, owner, what, pool)
    if what.kind == "integers" and what.shape == () and not isinstance(node, ast.Constant):
        yield from _whole_numbers(node, what, owner, pool)
    if what.kind in ("floats", "complex", "booleans"):
        yield from _inside(node, what, seen)
        yield from _shortened(node, what, pool)
        yield from _wrapped(node, what, owner, called)


def _swapped(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Items with two of them swapped."""
    for i, j in itertools.combinations(range(len(items)), 2):
        swapped = list(items)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        yield swapped


def _instead_of_none(items: Sequence[Any], pool: dict[str, tuple[Any, Seen]]) -> Iterator[list[Any]]:
    """Items with a variable, or its sum over the first axis, in place of None."""
    names = [n for n, what in pool.values() if isinstance(n, ast.Name) and what.kind == "floats"]
    for i, item in enumerate(items):
        if isinstance(item, ast.Constant) and item.value is None:
            for name in reversed(names):  # those that are worked out last, and perhaps not used
                held = copy.deepcopy(name)
                summed = ast.Call(ast.Attribute(held, "sum", ast.Load()), [ast.Constant(0)], [])
                yield from ([*items[:i], new, *items[i + 1 :]] for new in (held, summed))


def _others(node: Any, owner: Any, what: Seen, pool: dict[str, tuple[Any, Seen]]) -> Iterator[Change]:
    """Another expression of the function, of the same kind and shape."""
    inner = isinstance(owner, ast.Subscript | ast.Attribute) and owner.value is node
    allowed = ast.Name | ast.Attribute if inner else SMALL
    text, line = ast.unparse(node), getattr(node, "lineno", 0)
    fits = [
        (t, other, its.shape == what.shape)
        for t, (other, its) in pool.items()
        if t != text
        and its.like(what)
        and not its.equals(what)
        and any(its.marks)
        and isinstance(other, allowed)
    ]
    fits = [fit for fit in fits if not any(inner is node for inner in ast.walk(fit[1]))]
    simple = isinstance(node, ast.Name | ast.Subscript | ast.Attribute)

    def far(item: tuple[str, Any, bool]) -> tuple[Any, ...]:
        _, other, same_shape = item
        alike = type(other) is type(node) and ast.unparse(getattr(other, "value", other)) in text
        near = abs(other.lineno - line)
        return (not same_shape, not alike, type(other) is not type(node), size_of(other) > 4, near)

    for rank, (t, other, same_shape) in enumerate(sorted(fits, key=far)[:REPLACED_BY]):
        if isinstance(owner, ast.BinOp) and t in (ast.unparse(owner.left), ast.unparse(owner.right)):
            continue  # the other operand
        group = f"{text} -> {t}" if simple else ""
        longer = 0.05 * max(size_of(other) - size_of(node), 0) + 0.1 * (not same_shape)
        longer += 0.2 * isinstance(other, ast.BinOp | ast.UnaryOp)
        longer += 0.2 * isinstance(getattr(owner, "ctx", None), ast.Store)  # what is written to
        yield 1.0 + 0.03 * rank + longer + (0 if simple else 0.5), copy.deepcopy(other), group
    for other, its in pool.values() if isinstance(node, ast.Name) else ():
        if isinstance(other, ast.Name) and its.kind == what.kind and its.shape != what.shape:
            yield OTHER_SHAPE, copy.deepcopy(other), ""


def _constants(node: Any, owner: Any) -> Iterator[Change]:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    inner = node.operand if negative else node
    if not isinstance(inner, ast.Constant) or isinstance(owner, ast.UnaryOp):
        return
    value = -inner.value if negative and isinstance(inner.value, int | float) else inner.value
    text = f"const {value!r}"
    if isinstance(value, str):
        for pair in WORDS:
            if value in pair:
                yield 1.0, ast.Constant(pair[1 - pair.index(value)]), text
        if "->" in value or (value.isalpha() and len(value) < 6):
            yield from ((1.2, ast.Constant(other), "") for other in _subscripts(value))
        return
    if isinstance(value, bool):
        yield 1.0, ast.Constant(not value), text
        return
    if isinstance(value, int):
        for step in (1, -1):
            unlikely = 0.1 * (not isinstance(owner, ast.Subscript)) + 0.1 * (value + step < 0 <= value)
            yield 0.95 + unlikely, _number(value + step), f"{text} by {step}"
        others = dict.fromkeys([-value, 0, 1, 2, 3, value - 2, value + 2, 2 * value])
        yield from ((1.5, _number(n), f"{text} to {n}") for n in others if abs(n - value) > 1)
        yield 1.5, ast.Constant(0.5), ""
    if isinstance(value, float):
        near = [2 * value, value / 2, 1 - value, -value, value * value, 1.0, 0.0, abs(value) ** 0.5, 1e-12]
        near += [1 / value] if value else []
        yield from ((1.1, ast.Constant(n), f"{text} {n}") for n in dict.fromkeys(near) if n != value)


def _plus(node: Any, step: int) -> Any:
    """An integer expression plus a number, written as one would write it."""
    value = _integer(node)
    if value is not None:
        return _number(value + step)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        added = _integer(node.right)
        if added is not None:
            total = step + (added if isinstance(node.op, ast.Add) else -added)
            return _plus(node.left, total) if total else node.left
    op = ast.Add() if step > 0 else ast.Sub()
    return ast.BinOp(node, op, ast.Constant(abs(step)))


def _integer(node: Any) -> int | None:
    """The value of an integer constant, also of a negative one."""
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    inner = node.operand if negative else node
    if not isinstance(inner, ast.Constant) or type(inner.value) is not int:
        return None
    return -inner.value if negative else inner.value


def _number(value: int | float) -> Any:
    return ast.Constant(value) if value >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-value))


def _subscripts(text: str) -> Iterator[str]:
    """An einsum's subscripts with two letters swapped or one replaced."""
    letters = sorted({c for c in text if c.isalpha()})
    parts = text.replace("->", ",").split(",")
    start = 0
    for part in parts:
        at = text.index(part, start) if part else start
        start = at + len(part)
        for i, j in itertools.combinations(range(len(part)), 2):
            swapped = list(part)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            yield text[:at] + "".join(swapped) + text[start:]
        for i, letter in itertools.product(range(len(part)), letters):
            if part[i] != letter and part[i].isalpha():
                yield text[:at] + part[:i] + letter + part[i + 1 :] + text[start:]


def _operators(node: ast.BinOp) -> Iterator[Change]:
    left, right, op = node.left, node.right, node.op
    for k, other in enumerate(SWAPPED.get(type(op), ())):
        if not (
            isinstance(right, ast.Constant)
            and other in (ast.Mult, ast.Div)
            and isinstance(op, ast.Add | ast.Sub)
        ):
            yield 1.0 + 0.2 * k, ast.BinOp(left, other(), right), f"{type(op).__name__} {other.__name__}"
    if isinstance(op, ast.Sub | ast.Div | ast.MatMult | ast.Pow | ast.FloorDiv | ast.Mod):
        yield 1.1, ast.BinOp(right, op, left), ""
    yield 1.2, left, ""
    yield 1.2, right, ""
    if isinstance(op, ast.Sub):
        yield 1.2, ast.UnaryOp(ast.USub(), right), ""
    if isinstance(op, ast.Div):
        yield 1.3, ast.BinOp(ast.Constant(1.0), op, right), ""
    if isinstance(op, ast.FloorDiv):  # rounded up
        up = ast.BinOp(ast.UnaryOp(ast.USub(), left), op, right)
        yield 1.4, ast.UnaryOp(ast.USub(), up), "rounded up"
    if isinstance(op, ast.Mult | ast.Div) and isinstance(right, ast.Name | ast.Constant | ast.Attribute):
        rest = ast.BinOp(ast.Constant(1.0), ast.Sub(), right)
        yield 1.5, ast.BinOp(left, ast.Div(), rest), f"/ (1 - {ast.unparse(right)})"
        yield 1.5, ast.BinOp(left, ast.Mult(), rest), f"* (1 - {ast.unparse(right)})"
    if isinstance(op, ast.MatMult):
        turned = [ast.Attribute(x, "T", ast.Load()) for x in (left, right)]
        yield 1.1, ast.BinOp(turned[0], op, right), ""
        yield 1.1, ast.BinOp(left, op, turned[1]), ""
        for a, b in ((left, right), (right, left)):
            if isinstance(a, ast.Attribute) and a.attr == "T":
                plain = [a.value, b] if a is left else [b, a.value]
                yield 1.1, ast.BinOp(plain[0], op, plain[1]), ""
    if isinstance(left, ast.BinOp):  # (a · b) · c and a · (b · c), with either order of the operators
        a, b, c = left.left, left.right, right
        for first, second in ((left.op, op), (op, left.op)):
            yield 1.5, ast.BinOp(a, first, ast.BinOp(b, second, c)), ""
        yield 1.5, ast.BinOp(ast.BinOp(a, op, b), left.op, c), ""
    if isinstance(right, ast.BinOp):
        a, b, c = left, right.left, right.right
        for first, second in ((op, right.op), (right.op, op)):
            yield 1.5, ast.BinOp(ast.BinOp(a, first, b), second, c), ""
        yield 1.5, ast.BinOp(a, right.op, ast.BinOp(b, op, c)), ""


def _inside(node: Any, what: Seen, seen: dict[ast.AST, Seen]) -> Iterator[Change]:
    """A part of the expression alone."""
    if isinstance(node, ast.Name | ast.Constant | ast.Attribute):
        return
    for inner in ast.walk(node):
        alike = inner is not node and inner in seen and seen[inner].kind == what.kind
        if alike and (seen[inner].shape == what.shape or isinstance(node, ast.Call)):
            yield 1.4, inner, ""


def _shortened(node: Any, what: Seen, pool: dict[str, tuple[Any, Seen]]) -> Iterator[Change]:
    """The first or the last entries of an array, as many as an integer of the function says."""
    if not what.shape or not isinstance(node, ast.Name | ast.Attribute):
        return
    for other, its in pool.values():
        if isinstance(other, ast.Name) and its.number is not None and 0 < its.number < what.shape[0]:
            yield 1.6, ast.Subscript(node, ast.Slice(None, copy.deepcopy(other), None), ast.Load()), ""
            last = ast.UnaryOp(ast.USub(), copy.deepcopy(other))
            yield 1.7, ast.Subscript(node, ast.Slice(last, None, None), ast.Load()), ""


def _whole_numbers(node: Any, what: Seen, owner: Any, pool: dict[str, tuple[Any, Seen]]) -> Iterator[Change]:
    """Another integer in its place: one more or less, a small one, a multiple."""
    if isinstance(owner, ast.BinOp) and isinstance(owner.op, ast.Add | ast.Sub):
        steps: tuple[int, ...] = ()  # the sum is moved
    else:
        steps = (-1, 1)
    for step in steps:
        yield 1.1, _plus(node, step), f"{ast.unparse(node)} {step}"
    if what.number is not None and what.number > 1:
        divisors = [n for n in range(2, min(what.number, 1000)) if what.number % n == 0]
        others = dict.fromkeys([*divisors, *range(1, min(what.number, 10) + 3)])
        yield from ((2.3, ast.Constant(n), "") for n in list(others)[:10] if n != what.number)
    for n in (2, 3):
        yield 1.6, ast.BinOp(ast.Constant(n), ast.Mult(), node), ""
    for other, its in pool.values():
        if its.kind == "integers" and its.shape == () and isinstance(other, ast.Name | ast.Subscript):
            yield 1.6, ast.BinOp(node, ast.Mult(), copy.deepcopy(other)), ""
            yield 1.7, ast.BinOp(node, ast.FloorDiv(), copy.deepcopy(other)), ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.FloorDiv):
        other = ast.FloorDiv() if isinstance(node.op, ast.Mod) else ast.Mod()
        yield from ((1.5, ast.BinOp(node.left, other, ast.Constant(n)), "") for n in range(2, 9))


def _indices(node: ast.Subscript) -> Iterator[Change]:
    index = node.slice
    parts = list(index.elts) if isinstance(index, ast.Tuple) else [index]

    def given(new: Sequence[Any]) -> Any:
        whole = new[0] if len(new) == 1 else ast.Tuple(list(new), ast.Load())
        return ast.Subscript(node.value, whole, ast.Load())

    for i, part in enumerate(parts):
        if isinstance(part, ast.Slice):
            for cost, new in _slices(part):
                yield (
                    cost,
                    given([*parts[:i], new, *parts[i + 1 :]]),
                    f"slice {ast.unparse(part)} {ast.unparse(new)}",
                )
        elif not isinstance(part, ast.Constant):
            for step in (-1, 1):
                moved = [*parts[:i], _plus(part, step), *parts[i + 1 :]]
                yield 1.0, given(moved), f"index {ast.unparse(part)} {step}"
    for i, j in itertools.combinations(range(len(parts)), 2):
        swapped = list(parts)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        yield 1.2, given(swapped), ""
    if len(parts) > 1:
        for i in range(len(parts)):
            yield 1.5, given([*parts[:i], *parts[i + 1 :]]), ""
    reverse = ast.Slice(None, None, ast.UnaryOp(ast.USub(), ast.Constant(1)))
    yield 1.4, ast.Subscript(node, reverse, ast.Load()), ""
    yield 1.5, node.value, ""


def _slices(part: ast.Slice) -> Iterator[tuple[float, ast.Slice]]:
    lower, upper, step = part.lower, part.upper, part.step
    one = ast.Constant(1)
    minus = ast.UnaryOp(ast.USub(), ast.Constant(1))
    if step is not None:
        yield 1.1, ast.Slice(lower, upper, None)
    if lower is None and upper is None:
        if step is None:
            yield 1.3, ast.Slice(None, None, minus)
        yield 1.3, ast.Slice(one, None, step)
        yield 1.3, ast.Slice(None, minus, step)
        return
    for by in (-1, 1):
        if lower is not None:
            yield 1.1, ast.Slice(_plus(lower, by), upper, step)
        if upper is not None:
            yield 1.1, ast.Slice(lower, _plus(upper, by), step)
        if lower is not None and upper is not None:
            yield 1.2, ast.Slice(_plus(lower, by), _plus(upper, by), step)
    if lower is not None:
        yield 1.2, ast.Slice(None, upper, step)
        if upper is None:
            yield 1.1, ast.Slice(None, ast.UnaryOp(ast.USub(), lower), step)
            yield 1.1, ast.Slice(None, lower, step)
    if upper is not None:
        yield 1.2, ast.Slice(lower, None, step)
        if lower is None:
            inner = upper.operand if isinstance(upper, ast.UnaryOp) else upper
            yield 1.1, ast.Slice(inner, None, step)


def called_name(node: ast.Call) -> str:
    """The name of the function or the method that is called."""
    func = node.func
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def _calls(node: ast.Call, seen: dict[ast.AST, Seen]) -> Iterator[Change]:
    func, name = node.func, called_name(node)
    for kind in CALLED:
        if name in kind.split():
            for other in kind.split():
                if other != name:
                    renamed = (
                        ast.Attribute(func.value, other, ast.Load())
                        if isinstance(func, ast.Attribute)
                        else ast.Name(other, ast.Load())
                    )
                    yield 1.2, ast.Call(renamed, node.args, node.keywords), f"{name} {other}"
    for args in _swapped(node.args):
        yield 1.2, ast.Call(func, args, node.keywords), ""
    if _in_place(name) and isinstance(func, ast.Attribute):
        new = ast.Attribute(func.value, name[:-1], ast.Load())
        yield 1.1, ast.Call(new, node.args, node.keywords), f"no {name}"
    if name == "index_put_":
        added = ast.keyword("accumulate", ast.Constant(True))
        yield 1.0, ast.Call(func, node.args, [*node.keywords, added]), ""
    for i in range(len(node.keywords)):
        rest = node.keywords[:i] + node.keywords[i + 1 :]
        yield 1.2, ast.Call(func, node.args, rest), f"no {node.keywords[i].arg}"
    if isinstance(func, ast.Name) and func.id == "range":
        yield from _ranges(node)
    value = func.value if isinstance(func, ast.Attribute) else None
    method = value is not None and value in seen and seen[value].kind != "module"
    if name in REDUCTIONS:
        yield from _reductions(node, value if method else None, seen)
    if method and (name not in REDUCTIONS or not (node.args or node.keywords)):
        yield 1.4, value, ""


def _reductions(node: ast.Call, value: Any, seen: dict[ast.AST, Seen]) -> Iterator[Change]:
    """A reduction over an axis instead of over all, or with the axis kept."""
    reduced = value or (node.args[0] if node.args else None)
    given = {k.arg for k in node.keywords} | ({"axis"} if len(node.args) > (0 if value else 1) else set())
    axis_word, kept_word = ("dim", "keepdim") if _is_tensor(reduced, seen) else ("axis", "keepdims")
    kept = ast.keyword(kept_word, ast.Constant(True))
    if not given & {"axis", "dim"}:
        for n in (-1, *range((len(seen[reduced].shape) if reduced in seen else 2) - 1)):
            axis = ast.keyword(axis_word, _number(n))
            yield 1.2, ast.Call(node.func, node.args, [*node.keywords, axis, kept]), f"over {n}, kept"
            yield 1.3, ast.Call(node.func, node.args, [*node.keywords, axis]), f"over {n}"
    elif not given & {"keepdims", "keepdim"}:
        yield 1.2, ast.Call(node.func, node.args, [*node.keywords, kept]), "kept"


def _is_tensor(node: Any, seen: dict[ast.AST, Seen]) -> bool:
    return node in seen and seen[node].tensor


def _ranges(node: ast.Call) -> Iterator[Change]:
    args = node.args
    if len(args) == 1:
        yield 1.0, ast.Call(node.func, [ast.Constant(1), args[0]], []), ""
    for i, arg in enumerate(args[:2]):
        for step in (-1, 1):
            yield 1.0, ast.Call(node.func, [*args[:i], _plus(arg, step), *args[i + 1 :]], []), ""
    yield 1.3, ast.Call(ast.Name("reversed", ast.Load()), [node], []), ""


def _wrapped(node: Any, what: Seen, owner: Any, called: dict[str, Any]) -> Iterator[Change]:
    """The expression negated, scaled, shifted, turned, or as the argument of a function."""
    outermost = not isinstance(owner, ast.BinOp | ast.UnaryOp | ast.Attribute | ast.Call | ast.Subscript)
    term = isinstance(owner, ast.BinOp) and isinstance(owner.op, ast.Add | ast.Sub)
    if isinstance(node, ast.Constant):
        return
    name = isinstance(node, ast.Name | ast.Subscript | ast.Attribute)
    if what.kind == "booleans":
        yield 1.3, ast.UnaryOp(ast.Invert(), node), ""
        return
    if outermost or term or isinstance(owner, ast.Call):
        yield 1.2, ast.UnaryOp(ast.USub(), node), ""
    if len(what.shape) >= 2:
        yield 1.4, ast.Attribute(node, "T" if len(what.shape) == 2 else "mT", ast.Load()), ""
    if what.shape:
        yield (
            1.5,
            ast.Subscript(node, ast.Slice(None, None, ast.UnaryOp(ast.USub(), ast.Constant(1))), ast.Load()),
            "",
        )
        copied = ast.Attribute(node, "clone" if what.tensor else "copy", ast.Load())
        yield 1.3, ast.Call(copied, [], []), "copied"
    if what.kind == "complex":
        yield 1.0, ast.Call(ast.Attribute(node, "conj", ast.Load()), [], []), "conjugate"
    for func in called.values():
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != ast.unparse(func):
            yield 1.5, ast.Call(copy.deepcopy(func), [node], []), ""
    below = isinstance(owner, ast.BinOp) and isinstance(owner.op, ast.Div) and owner.right is node
    if name or outermost or term or below:
        text = ast.unparse(node)
        one, two, half = ast.Constant(1.0), ast.Constant(2), ast.Constant(0.5)
        yield 1.6, ast.BinOp(one, ast.Sub(), node), f"1 - {text}"
        yield 1.6, ast.BinOp(one, ast.Div(), node), f"1 / {text}"
        yield 1.6, ast.BinOp(node, ast.Pow(), two), f"{text} ** 2"
        yield 1.6, ast.BinOp(node, ast.Pow(), half), f"{text} ** 0.5"
        yield 1.5, ast.BinOp(two, ast.Mult(), node), f"2 * {text}"
        yield 1.5, ast.BinOp(half, ast.Mult(), node), f"0.5 * {text}"


def _combined(node: Any, what: Seen, owner: Any, pool: dict[str, tuple[Any, Seen]]) -> Iterator[Change]:
    """The expression times, divided by, plus or minus another one."""
    outermost = not isinstance(owner, ast.BinOp | ast.UnaryOp | ast.Attribute | ast.Call | ast.Subscript)
    term = isinstance(owner, ast.BinOp) and isinstance(owner.op, ast.Add | ast.Sub)
    factor = isinstance(owner, ast.BinOp) and not term
    if isinstance(node, ast.Constant) or (factor and not isinstance(node, ast.Name | ast.Subscript)):
        return
    far = 0.0 if outermost or term else 0.2
    for rank, (other, its) in enumerate(_partners(node, what, pool)):
        cost = INSERTED + far + 0.01 * rank
        text = f" {ast.unparse(other)}" if outermost else ""
        if not factor:  # it is the product that is multiplied
            yield cost, ast.BinOp(node, ast.Mult(), copy.deepcopy(other)), text and f"*{text}"
        if not factor and its.kind != "booleans":
            yield cost + 0.1, ast.BinOp(node, ast.Div(), copy.deepcopy(other)), text and f"/{text}"
        if its.kind == what.kind and (outermost or term or factor or its.shape == what.shape):
            yield cost + 0.05, ast.BinOp(node, ast.Add(), copy.deepcopy(other)), ""
            yield cost + 0.1, ast.BinOp(node, ast.Sub(), copy.deepcopy(other)), ""


def _partners(node: Any, what: Seen, pool: dict[str, tuple[Any, Seen]]) -> list[tuple[Any, Seen]]:
    """The expressions that an expression may be combined with, the nearest first, equal ones once."""
    near = node.lineno
    found: list[tuple[Any, Seen]] = []
    by_distance = sorted(pool.values(), key=lambda item: (size_of(item[0]) > 3, abs(item[0].lineno - near)))
    for other, its in by_distance:
        if its.kind not in ("floats", "complex", "booleans", "integers") or not any(its.marks):
            continue
        if its.shape and its.shape == what.shape[:-1] and its.shape[-1:] != what.shape[-1:]:
            last = ast.Tuple([ast.Constant(...), ast.Constant(None)], ast.Load())
            other, its = ast.Subscript(other, last, ast.Load()), Seen(its.kind, (*its.shape, 1), its.marks)
        fits = len(its.shape) <= len(what.shape) and all(
            a in (1, b) for a, b in zip(its.shape[::-1], what.shape[::-1], strict=False)
        )
        if fits and not any(its.equals(known) and its.shape == known.shape for _, known in found):
            found.append((other, its))
            found += ((moved, Seen(its.kind, its.shape, [])) for moved in _moved_on(other))
        if len(found) >= COMBINED_WITH:
            break
    return found


def _moved_on(node: Any) -> Iterator[Any]:
    """An element of an array at the next and the previous index."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Name | ast.BinOp):
        for step in (1, -1):
            yield ast.Subscript(node.value, _plus(node.slice, step), ast.Load())


# --- statements -------------------------------------------------------------------------------------------


def _instead(statement: ast.stmt, seen: dict[ast.AST, Seen]) -> Iterator[tuple[float, Any]]:
    """Another kind of assignment, or another condition."""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple):
        for elts in _swapped(statement.targets[0].elts):
            yield 1.1, ast.Assign([ast.Tuple(elts, ast.Store())], statement.value)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        yield from _not_in_place(statement.value)
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Subscript | ast.Name):
            for cost, op in ((1.0, ast.Add()), (1.3, ast.Mult()), (1.2, ast.Sub())):
                yield cost, ast.AugAssign(target, op, statement.value)
        if isinstance(target, ast.Subscript):
            yield 1.2, _added_at(target, statement.value, seen)
    if isinstance(statement, ast.AugAssign):
        target, kind = statement.target, type(statement.op)
        yield 1.0, ast.Assign([target], statement.value)
        opposite: dict[type, Any] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
        if kind in opposite:
            yield 1.0, ast.AugAssign(target, opposite[kind](), statement.value)
        if isinstance(target, ast.Subscript) and kind is ast.Add:
            yield 1.1, _added_at(target, statement.value, seen)
    if isinstance(statement, ast.If):
        yield 1.2, ast.If(ast.Constant(True), statement.body, statement.orelse)
        yield 1.2, ast.If(ast.Constant(False), statement.body, statement.orelse)
        yield 1.3, ast.If(ast.UnaryOp(ast.Not(), statement.test), statement.body, statement.orelse)


def _not_in_place(call: ast.Call) -> Iterator[tuple[float, Any]]:
    """An assignment in place of a method that writes to a tensor that others hold too."""
    func = call.func
    if isinstance(func, ast.Attribute) and _in_place(func.attr) and isinstance(func.value, ast.Name):
        plain = ast.Call(ast.Attribute(func.value, func.attr[:-1], ast.Load()), call.args, call.keywords)
        yield 1.2, ast.Assign([ast.Name(func.value.id, ast.Store())], plain)


def _added_at(target: ast.Subscript, value: Any, seen: dict[ast.AST, Seen]) -> ast.stmt:
    """An addition that repeated indices make several times."""
    held, index = copy.deepcopy(target.value), target.slice
    if not _is_tensor(target.value, seen):
        at = ast.Attribute(ast.Attribute(ast.Name("np", ast.Load()), "add", ast.Load()), "at", ast.Load())
        return ast.Expr(ast.Call(at, [held, index, value], []))
    if isinstance(index, ast.Name):
        added = ast.Attribute(held, "index_add_", ast.Load())
        return ast.Expr(ast.Call(added, [ast.Constant(0), index, value], []))
    indices = index if isinstance(index, ast.Tuple) else ast.Tuple([index], ast.Load())
    put = ast.Attribute(held, "index_put_", ast.Load())
    accumulated = ast.keyword("accumulate", ast.Constant(True))
    return ast.Expr(ast.Call(put, [indices, value], [accumulated]))


def _of_blocks(tree: Any, seen: dict[ast.AST, Seen]) -> Iterator[Edit]:
    """A statement changed, left out, made earlier or later, or moved out of a loop."""
    for node in ast.walk(tree):
        for name in ("body", "orelse"):
            block = getattr(node, name, None)
            if not isinstance(block, list) or not block or not isinstance(block[0], ast.stmt):
                continue
            for i, statement in enumerate(block):
                for cost, new in _instead(statement, seen):
                    yield Edit(cost, ((node, name, i, ast.copy_location(new, statement)),), statement)
                if isinstance(statement, ast.FunctionDef | ast.Import | ast.ImportFrom | ast.Return):
                    continue
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    continue
                rest = block[:i] + block[i + 1 :]
                yield Edit(1.3, ((node, name, None, rest or [ast.Pass()]),), statement, how="left out")
                if block[i + 1 :] and structure(block[i + 1]) == structure(statement):
                    fewer = [*block[:i], *block[i + 2 :]] or [ast.Pass()]
                    both = (block[i + 1],)
                    yield Edit(1.4, ((node, name, None, fewer),), statement, how="left out", also=both)
                for j in range(len(block)):
                    if j != i and abs(j - i) <= 4:
                        moved = [*rest[:j], statement, *rest[j:]]
                        how = f"{'before' if j < i else 'after'} line {block[j].lineno}"
                        cost = 1.4 + 0.05 * abs(j - i)
                        yield Edit(cost, ((node, name, None, moved),), statement, how=how)
                for k, loop in enumerate(block):
                    if isinstance(loop, ast.For) and loop is not statement and k in (i - 1, i + 1):
                        within = [*loop.body, statement] if k < i else [statement, *loop.body]
                        parts = ((loop, "body", None, within), (node, name, None, rest))
                        yield Edit(1.5, parts, statement, how=f"inside the loop of line {loop.lineno}")
                if isinstance(statement, ast.For):
                    for inner in (statement.body[0], statement.body[-1]):
                        left = [x for x in statement.body if x is not inner]
                        if left:
                            out = [inner, statement] if inner is statement.body[0] else [statement, inner]
                            parts = (
                                (statement, "body", None, left),
                                (node, name, None, block[:i] + out + block[i + 1 :]),
                            )
                            yield Edit(1.5, parts, inner, how="outside the loop")
