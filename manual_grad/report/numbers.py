"""The steps of a derivation in the book: each formula with its numerical value."""

import ast
import functools
from typing import Any

import numpy as np

from manual_grad.report.code import python
from manual_grad.report.mathml import marked, mathml
from manual_grad.report.prose import derivations
from manual_grad.report.steps import HELPERS, NAMES, Given, Line, Step, evaluated

_SIGNS: dict[Any, str] = {ast.MatMult: r"\;", ast.Add: "+", ast.Sub: "-", ast.Mult: r"\cdot", ast.Div: "/"}
_SIGNS |= {"kron": r"\otimes", "correlate": r"\star", "outer": r"\;"}


@functools.cache
def shown(tag: str) -> list[str | dict[str, Any]]:
    """The parts of a derivation: paragraphs, and blocks of steps with their numbers.

    >>> [part["steps"][0]["value"] for part in shown("A-02") if isinstance(part, dict)]  # doctest: +ELLIPSIS
    [Markup('<span ...')]
    """
    known: dict[str, Any] = {}
    parts: list[str | dict[str, Any]] = []
    for part in derivations(tag[0])[tag].parts:
        parts.append(part if isinstance(part, str) else _block(part, known))
    return parts


def named(tag: str) -> dict[str, Any]:
    """The values that a derivation gives or names: a figure beside it has the same numbers.

    >>> named("C-10")["F"].tolist()
    [[1.0, -1.0], [2.0, 3.0]]
    """
    known: dict[str, Any] = {}
    for part in derivations(tag[0])[tag].parts:
        if not isinstance(part, str):
            evaluated(part, known)
    return known


def _block(lines: tuple[Line, ...], known: dict[str, Any]) -> dict[str, Any]:
    values = evaluated(lines, known)
    pairs = list(zip(lines, values, strict=True))
    given = [_given(line, value) for line, value in pairs if isinstance(line, Given) and line.shown]
    steps = [(line, value) for line, value in pairs if isinstance(line, Step)]
    ends = [n + 1 == len(steps) or not steps[n + 1][0].continues for n in range(len(steps))]
    code = "\n".join(f"{line.name} = {line.code}" if line.name else line.code for line in lines)
    names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    return {
        "given": [marked(f"${latex}${'.' if latex is given[-1] else ','}") for latex in given],
        "code": python(code),
        "helpers": [h.__name__ for h in HELPERS if h.__name__ in names],
        "steps": [
            {
                "formula": mathml(line.latex, "block"),
                "why": marked(line.why),
                "value": mathml(_computed(line, value, known, last or not line.continues), "block"),
                "starts": not line.continues,
            }
            for (line, value), last in zip(steps, ends, strict=True)
        ],
    }


def _given(line: Given, value: Any) -> str:
    return line.shown if callable(value) else f"{line.shown} = {latex(value)}"


def _computed(step: Step, value: np.ndarray, known: dict[str, Any], whole: bool) -> str:
    """The operands of the expression's last operation, and its value at the ends of a chain."""
    operands = _operands(ast.parse(step.code, mode="eval").body)
    if len(operands) == 1:
        return latex(value)
    found = [np.asarray(eval(ast.unparse(node), NAMES | known), float) for node, _ in operands]
    text = ""
    for place, (number, (_, operator)) in enumerate(zip(found, operands, strict=True)):
        before = operands[place - 1][1] if place else None
        aligned = bool({ast.MatMult, "outer"} & {operator, before})
        column = before is ast.MatMult or operator == "outer"
        both = operator is ast.Mult and number.ndim and found[place + 1].ndim
        sign = r"\odot" if both else _SIGNS.get(operator, "")
        shown = latex(number, column, aligned) if number.ndim else _scalar(operands[place][0], known, before)
        text += f"{shown} {sign} "
    return text + (f"= {latex(value)}" if whole else "")


def _scalar(node: ast.expr, known: dict[str, Any], before: Any) -> str:
    """A number among the operands, or a product of two numbers, bracketed if negative and not first."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and before is not ast.Mult:
        factors = [np.asarray(eval(ast.unparse(f), NAMES | known), float) for f in (node.left, node.right)]
        if all(factor.ndim == 0 for factor in factors):
            return rf"{_bracketed(factors[0], before)} \cdot {_bracketed(factors[1], ast.Mult)}"
    return _bracketed(eval(ast.unparse(node), NAMES | known), before)


def _bracketed(number: Any, before: Any) -> str:
    return f"({latex(number)})" if before and number < 0 else latex(number)


def _operands(node: ast.expr) -> list[tuple[ast.expr, Any]]:
    """``a @ b @ c`` as a, b and c, each with the operator that follows it; ``kron(a, b)`` as a and b."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SIGNS:
        return [(node.args[0], node.func.id), (node.args[1], None)]
    if not isinstance(node, ast.BinOp) or type(node.op) not in _SIGNS:
        return [(node, None)]
    same = isinstance(node.left, ast.BinOp) and type(node.left.op) is type(node.op)
    *first, (last, _) = _operands(node.left) if same else [(node.left, None)]
    return [*first, (last, type(node.op)), (node.right, None)]


def latex(value: Any, column: Any = False, aligned: bool = False) -> str:
    r"""An array in LaTeX, to three decimals.

    >>> latex(np.array([[1, 0.5], [0, -2 / 3]]))
    '\\begin{pmatrix} 1 & 0.5 \\\\ 0 & {-0.667} \\end{pmatrix}'
    """
    value = np.asarray(value, float)
    if value.ndim == 0:
        return _digits(float(value))
    if value.ndim == 1 and not aligned:
        return "(" + r", \; ".join(map(_digits, value)) + ")"
    rows = value[:, None] if column and value.ndim == 1 else np.atleast_2d(value)
    rows = rows.reshape(-1, rows.shape[-1]) if rows.ndim > 2 else rows
    body = r" \\ ".join(" & ".join(map(_digits, row)) for row in rows)
    return rf"\begin{{pmatrix}} {body} \end{{pmatrix}}"


def _digits(number: float) -> str:
    text = f"{number:.3f}".rstrip("0").rstrip(".")
    if text not in ("0", "-0"):
        return f"{{{text}}}" if number < 0 else text  # a sign, not an operator between two numbers
    return f"{number:.1e}" if abs(number) > 1e-12 else "0"
