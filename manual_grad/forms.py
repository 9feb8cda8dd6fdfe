"""Read JSON that others may have written or damaged, within limits, and compare it with the required form.

A form is a ``Form`` (a description and a test), a list of one form (any number of them), a dict of forms (an
object with these names and possibly more; a name that ends in ``?`` may be missing; the name ``*`` stands for
all others), or a tuple of forms, one of which must match.
"""

import json
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

LARGEST = sys.float_info.max
DEEPEST = 64  # levels of nested lists and objects: more would exhaust the stack of code that reads them later


class Form(NamedTuple):
    """A description of the expected value, and a test for it."""

    expected: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


ANYTHING = Form("anything", lambda value: True)
NULL = Form("null", lambda value: value is None)
TRUTH = Form("true or false", lambda value: isinstance(value, bool))
TEXT = Form("text", lambda value: isinstance(value, str))
NUMBER = Form("a finite number", _is_number)
POSITIVE = Form("a positive number", lambda value: _is_number(value) and value > 0)
NOT_NEGATIVE = Form("a number from 0", lambda value: _is_number(value) and value >= 0)


def whole(least: int, below: int = 2**63) -> Form:
    """An integer of at least ``least`` and, if given, less than ``below``.

    >>> misfit(-1, whole(0), "epoch")
    'epoch is -1, expected an integer from 0'
    """
    at_most = "" if below == 2**63 else f" to {below - 1}"
    return Form(
        f"an integer from {least}{at_most}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value < below,
    )


def one_of(*texts: str) -> Form:
    """One of these texts."""
    return Form(f"one of {', '.join(texts)}", lambda value: isinstance(value, str) and value in texts)


def several(form: Form, count: int) -> Form:
    """A list of exactly ``count`` items.

    >>> misfit(["a"], several(TEXT, 2), "pair")
    'pair is a list of 1, expected a list of 2, each text'
    """
    return Form(
        f"a list of {count}, each {form.expected}",
        lambda value: isinstance(value, list) and len(value) == count and all(map(form.fits, value)),
    )


def misfit(value: Any, form: Any, at: str = "") -> str:
    """The first place where a value does not match its form, with the value found and expected; or "".

    Args:
        value: from :func:`parsed`.
        form: the form that it must have.
        at: the position of the value itself.

    >>> misfit({"rows": [{"ratio": 1.5}, {"ratio": "x"}]}, {"rows": [{"ratio": POSITIVE}]})
    "rows[1].ratio is 'x', expected a positive number"
    >>> misfit({"seed": None}, {"seed": (whole(0), NULL), "by?": [TEXT]})
    ''
    """
    if isinstance(form, Form):
        return "" if form.fits(value) else f"{at or 'it'} is {_shown(value)}, expected {form.expected}"
    if isinstance(form, tuple):
        found = [misfit(value, other, at) for other in form]
        return "" if "" in found else _of_several(value, form, found, at)
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{at or 'it'} is {_shown(value)}, expected a list"
        return next(filter(None, (misfit(v, form[0], f"{at}[{i}]") for i, v in enumerate(value))), "")
    if not isinstance(value, dict):
        return f"{at or 'it'} is {_shown(value)}, expected an object"
    return next(filter(None, _misfits(value, form, f"{at}." if at else "")), "")


def _of_several(value: Any, forms: tuple[Any, ...], found: list[str], at: str) -> str:
    """The message when none of several forms matches: from inside the value if one form is of its kind."""
    inside = [f for f, form in zip(found, forms, strict=True) if type(value) is type(form)]
    wanted = " or ".join(f.expected if isinstance(f, Form) else _kind(f) for f in forms)
    return inside[0] if inside else f"{at or 'it'} is {_shown(value)}, expected {wanted}"


def _kind(form: Any) -> str:
    return "a list" if isinstance(form, list) else "an object"


def _misfits(value: dict[str, Any], form: dict[str, Any], at: str) -> Any:
    for name, inner in form.items():
        plain = name.removesuffix("?")
        if name == "*":
            known = {n.removesuffix("?") for n in form}
            yield from (misfit(v, inner, f"{at}{_cut(k)}") for k, v in value.items() if k not in known)
        elif plain in value:
            yield misfit(value[plain], inner, f"{at}{plain}")
        elif plain == name:
            yield f"{at}{name} is missing"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"


def parsed(text: str | bytes, *, finite: bool = True) -> Any:
    """Parse JSON.

    Args:
        text: a string, or bytes in UTF-8.
        finite: whether to reject NaN and infinities, which Python writes but JSON does not define.
    Raises:
        ValueError: the text is not JSON, is nested too deeply, or has characters that cannot be encoded.

    >>> parsed('{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    >>> parsed("[" * 10**5)
    Traceback (most recent call last):
    ValueError: it is nested deeper than 64
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST}") from None
    level = [value]
    for _ in range(DEEPEST + 1):
        for leaf in level:
            if isinstance(leaf, str):
                leaf.encode()  # half of a surrogate pair
            elif finite and isinstance(leaf, float) and not math.isfinite(leaf):
                raise ValueError(f"it holds {leaf}, which is not JSON")
        inner = [leaf for leaf in level if isinstance(leaf, dict | list)]
        level = [v for leaf in inner for v in (leaf if isinstance(leaf, list) else [*leaf, *leaf.values()])]
        if not level:
            return value
    raise ValueError(f"it is nested deeper than {DEEPEST}")
