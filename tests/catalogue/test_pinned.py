"""Answers computed once by PyTorch and committed: only :mod:`manual_grad` is imported, nothing that checks.

``pin.py`` made the file, and says how.
"""

import ast
import functools
import inspect
import json
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import manual_grad

TOLERANCE = 1e-12  # of the largest entry; both sides compute in float64
PAIRS = [name.removesuffix("_fwd") for name in manual_grad.__all__ if name.endswith("_fwd")]


def frozen(value):
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def read(path):
    """Case → its keywords, and its arrays by name."""
    with np.load(path) as file:
        index, numbers = json.loads(str(file["index"])), file["numbers"]
    settings = {case: {k: frozen(v) for k, v in found["settings"].items()} for case, found in index.items()}
    arrays, start = {case: {} for case in index}, 0
    for case, found in index.items():
        for name, shape, dtype in found["arrays"]:
            end = start + math.prod(shape)
            arrays[case][name], start = numbers[start:end].reshape(shape).astype(dtype), end
    assert start == len(numbers)
    return settings, arrays


SETTINGS, PINNED = read(Path(__file__).with_name("pinned.npz"))


def below(case, folder):
    names = [name for name in PINNED[case] if name.startswith(f"{folder}/")]
    return {name.removeprefix(f"{folder}/"): PINNED[case][name] for name in names}


def outer(case, name):
    """What goes by a name, or, of several outputs, by ``name.0`` and so on, without it."""
    found = {n: array for n, array in PINNED[case].items() if n.split(".")[0] == name}
    return {n.removeprefix(name).removeprefix("."): array for n, array in found.items()}


def nested(leaves):
    """Leaves by name, such as ``params.0.1`` or ``params.K1``, as dicts, lists and tuples, in order."""
    if "" in leaves:
        return leaves[""]
    parts = {}
    for name, leaf in leaves.items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest] = leaf
    made = {name: nested(part) for name, part in parts.items()}
    return tuple(made.values()) if all(name.isdecimal() for name in made) else made


def flat(names, cotangents):
    return {
        ".".join([name, *(str(getattr(p, "key", getattr(p, "idx", None))) for p in path)]): leaf
        for name, cotangent in zip(names, cotangents, strict=True)
        for path, leaf in jax.tree_util.tree_leaves_with_path(cotangent)
    }


def answers(case):
    """The value and every cotangent by our pair, compiled."""
    name = case.split("/")[0]
    fwd, bwd = (getattr(manual_grad, f"{name}_{way}") for way in ("fwd", "bwd"))
    primals = nested(below(case, "input"))
    floating = list(dict.fromkeys(key.split(".")[0] for key in below(case, "d")))

    @jax.jit
    def both(primals, dout):
        value, res = fwd(*primals, **SETTINGS[case])
        return value, bwd(res, dout)

    value, cotangents = both(list(primals.values()), nested(outer(case, "dout")))
    return {**flat(["value"], [value]), **flat([f"d/{name}" for name in floating], cotangents)}


ours = functools.cache(answers)


def differences(got, want):
    """The names of what differs, each with how."""
    found = [f"{name}: not there" for name in want.keys() ^ got.keys()]
    for name in want.keys() & got.keys():
        a, b = np.asarray(got[name]), want[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            found.append(f"{name}: {a.dtype}{list(a.shape)}, expected {b.dtype}{list(b.shape)}")
        elif not np.abs(a - b).max() <= TOLERANCE * np.abs(b).max():
            found.append(f"{name}: off by {np.abs(a - b).max():.1e}, largest {np.abs(b).max():.1e}")
    return found


def wanted(case):
    cotangents = {f"d/{name}": array for name, array in below(case, "d").items()}
    values = {name: array for name, array in PINNED[case].items() if name.split(".")[0] == "value"}
    return {**values, **cotangents}


@pytest.mark.parametrize("case", PINNED)
def test_pytorchs_pinned_answers_are_reproduced(case):
    assert not differences(ours(case), wanted(case))


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_and_keyword_is_pinned(name):
    """At its defaults, and with each keyword off its default."""
    pinned = [keywords.keys() for case, keywords in SETTINGS.items() if case.split("/")[0] == name]
    parameters = inspect.signature(getattr(manual_grad, f"{name}_fwd")).parameters.values()
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    without_default = {name for name, default in keywords.items() if default is inspect.Parameter.empty}
    assert without_default in pinned, f"{name} is not in the file: python -m tests.catalogue.pin"
    assert keywords.keys() == {k for s in pinned for k in s}


def test_nothing_else_is_imported():
    nodes = list(ast.walk(ast.parse(Path(__file__).read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {f"{'.' * n.level}{n.module}" for n in nodes if isinstance(n, ast.ImportFrom)}
    assert names - sys.stdlib_module_names == {"jax", "manual_grad", "numpy", "pytest"}


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize("case", PINNED)
def test_every_pinned_number_is_compared(case):
    """With the largest entry of each array slightly wrong, or one NaN, no other array is named."""
    for name, array in wanted(case).items():
        for wrong in (np.abs(array).max() * (1 + 1e-11), np.nan):
            changed = array.copy()
            changed.flat[np.abs(array).argmax()] = np.copysign(wrong, array.flat[np.abs(array).argmax()])
            (found,) = differences(ours(case), wanted(case) | {name: changed})
            assert found.startswith(f"{name}: off by ")


@pytest.mark.parametrize("way", ["fwd", "bwd"])
def test_a_wrong_formula_is_detected(monkeypatch, way):
    case = next(iter(PINNED))
    name = f"{case.split('/')[0]}_{way}"
    right = getattr(manual_grad, name)
    monkeypatch.setattr(manual_grad, name, lambda *a: jax.tree.map(lambda x: x * (1 + 1e-11), right(*a)))
    assert differences(answers(case), wanted(case))
