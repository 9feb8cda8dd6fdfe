"""The edits of the user's own code that make a wrong gradient right: mistakes of all kinds at one place."""

import ast
import importlib.util
import itertools
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.verify import check_vjp

rng = np.random.default_rng(0)
numbers = itertools.count()


pytestmark = pytest.mark.usefixtures("only_edits")


def module_of(source, folder):
    """A module with this text."""
    name = f"edited_{next(numbers)}"
    path = folder / f"{name}.py"
    path.write_text(f"import numpy as np\n\n\n{source}")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def asked(module, forward, args):
    """The checker, asked about ``back(dout, *args)`` of a module."""
    return check_vjp(
        lambda *args: (forward(*args), args),
        lambda res, dout: module.back(np.asarray(dout), *(np.array(x) for x in res)),
        *args,
        reference=forward,
        names=tuple("xywz")[: len(args)],
    )


def functions_of(module):
    return {name: f.__code__ for name, f in vars(module).items() if hasattr(f, "__code__")}


x, y, w, m = (rng.standard_normal(shape) for shape in (6, 6, 6, (4, 3)))
positive = rng.random(6) + 0.5


# --- small functions, right as they stand -------------------------------------------------------------------


def softmax_forward(x, y):
    return jnp.exp(x) / jnp.exp(x).sum() * y


SOFTMAX = """
def back(d, x, y):
    e = np.exp(x - x.max())
    p = e / e.sum()
    g = d * y
    inner = (g * p).sum()
    dx = p * (g - inner)
    dy = d * p
    return dx, dy
"""


def norm_forward(x, y):
    c = x - x.mean(1, keepdims=True)
    return c / jnp.sqrt((c**2).mean(1, keepdims=True) + 1e-3) * y


NORM = """
def back(d, x, y):
    mean = x.mean(axis=1, keepdims=True)
    c = x - mean
    r = 1.0 / np.sqrt((c * c).mean(axis=1, keepdims=True) + 1e-3)
    h = c * r
    g = d * y
    a = g.mean(axis=1, keepdims=True)
    b = (g * h).mean(axis=1, keepdims=True)
    dx = r * (g - a - h * b)
    dy = (d * h).sum(axis=0)
    return dx, dy
"""


def recurrence_forward(x, y):
    h, out = 0.0, []
    for i in range(6):
        h = jnp.tanh(y[i] * h + x[i])
        out.append(h)
    return jnp.stack(out)


RECURRENCE = """
def back(d, x, y):
    n = len(x)
    h = np.zeros(n + 1)
    for i in range(n):
        h[i + 1] = np.tanh(y[i] * h[i] + x[i])
    dx, dy = np.zeros(n), np.zeros(n)
    carry = 0.0
    for i in range(n - 1, -1, -1):
        total = d[i] + carry
        da = total * (1 - h[i + 1] ** 2)
        dx[i] = da
        dy[i] = da * h[i]
        carry = da * y[i]
    return dx, dy
"""


def taken_forward(x, y):
    return x[jnp.array([0, 2, 2, 5, 1, 0])] * y


TAKEN = """
def back(d, x, y):
    at = np.array([0, 2, 2, 5, 1, 0])
    dx = np.zeros_like(x)
    np.add.at(dx, at, d * y)
    dy = d * x[at]
    return dx, dy
"""


def filter_forward(x, y):
    return jnp.stack([sum(y[k] * x[i + k] for k in range(3)) for i in range(4)])


FILTER = """
def back(d, x, y):
    dx, dy = np.zeros_like(x), np.zeros_like(y)
    for i in range(4):
        for k in range(3):
            dx[i + k] += d[i] * y[k]
            dy[k] += d[i] * x[i + k]
    return dx, dy
"""


def dense_forward(x, y):
    return jnp.maximum(x @ y, 0.0)


DENSE = """
def slope(z):
    return np.where(z > 0, 1.0, 0.0)


def back(d, x, y):
    z = x @ y
    dz = d * slope(z)
    dx = dz @ y.T
    dy = x.T @ dz
    return dx, dy
"""


def buffer_forward(x, y):
    return jnp.stack([(x * y).sum(), (x * y * y).sum()])


BUFFER = """
def back(d, x, y):
    dx, dy = np.zeros_like(x), np.zeros_like(y)
    kept = y.copy()
    kept *= y
    dx += d[0] * y
    dy += d[0] * x
    dx += d[1] * kept
    dy += d[1] * 2.0 * x * y
    return dx, dy
"""


def clipped_forward(x, y):
    return jnp.where(x > 0.1, x * y, jnp.where(x < -0.3, y * y, x - y))


CLIPPED = """
class Layer:
    low, high = -0.3, 0.1

    def mask(self, x):
        return x > self.high, x < self.low

    def backward(self, d, x, y):
        above, below = self.mask(x)
        middle = ~(above | below)
        dx = d * (above * y + middle)
        dy = d * (above * x + below * 2 * y - middle)
        return dx, dy


layer = Layer()


def back(d, x, y):
    return layer.backward(d, x, y)
"""


def log_forward(x, y):
    return jnp.log(x) * jnp.sin(y) + jnp.sqrt(x) * jnp.cosh(y)


LOG = """
def back(d, x, y):
    dx = d * (np.sin(y) / x + 0.5 / np.sqrt(x) * np.cosh(y))
    dy = d * (np.log(x) * np.cos(y) + np.sqrt(x) * np.sinh(y))
    return dx, dy
"""


def einsum_forward(x, y):
    return jnp.einsum("ij,kj->ik", x, y) ** 2


EINSUM = """
def back(d, x, y):
    out = np.einsum("ij,kj->ik", x, y)
    g = 2 * out * d
    dx = np.einsum("ik,kj->ij", g, y)
    dy = np.einsum("ik,ij->kj", g, x)
    return dx, dy
"""


PLACES = {  # a forward function, the right gradient, its arguments
    "softmax": (softmax_forward, SOFTMAX, (x, y)),
    "norm": (norm_forward, NORM, (m, rng.standard_normal(3))),
    "recurrence": (recurrence_forward, RECURRENCE, (x, y)),
    "taken": (taken_forward, TAKEN, (x, y)),
    "filter": (filter_forward, FILTER, (x, rng.standard_normal(3))),
    "dense": (dense_forward, DENSE, (m, rng.standard_normal((3, 3)))),
    "buffer": (buffer_forward, BUFFER, (x, y)),
    "clipped": (clipped_forward, CLIPPED, (x, y)),
    "log": (log_forward, LOG, (positive, y)),
    "einsum": (einsum_forward, EINSUM, (m, rng.standard_normal((5, 3)))),
}
PLANTED = {  # the right code and the wrong code in its place
    "another variable": ("softmax", "dy = d * p", "dy = d * e"),
    "a variable of another line": ("softmax", "p * (g - inner)", "p * (d - inner)"),
    "an operator": ("softmax", "(g - inner)", "(g + inner)"),
    "a factor": ("softmax", "(g * p).sum()", "g.sum()"),
    "a reduction": ("softmax", "(g * p).sum()", "(g * p).mean()"),
    "another axis": ("norm", "(d * h).sum(axis=0)", "(d * h).sum(axis=0)[::-1]"),
    "a sum for a mean": ("norm", "a = g.mean(axis=1", "a = g.sum(axis=1"),
    "all axes": ("norm", "(g * h).mean(axis=1, keepdims=True)", "(g * h).mean()"),
    "the order of a difference": ("norm", "c = x - mean", "c = mean - x"),
    "the size of an epsilon": ("norm", "+ 1e-3", "- 1e-3"),
    "an index": ("recurrence", "dy[i] = da * h[i]", "dy[i] = da * h[i + 1]"),
    "an index in a square": ("recurrence", "(1 - h[i + 1] ** 2)", "(1 - h[i] ** 2)"),
    "the end of a range": ("recurrence", "range(n - 1, -1, -1)", "range(n - 1, 0, -1)"),
    "the start of a range": ("recurrence", "range(n - 1, -1, -1)", "range(n - 2, -1, -1)"),
    "a power": ("recurrence", "h[i + 1] ** 2", "h[i + 1] ** 3"),
    "a constant": ("recurrence", "(1 - h", "(2 - h"),
    "an array taken for another": ("recurrence", "carry = da * y[i]", "carry = da * x[i]"),
    "a carry that is added": ("recurrence", "carry = da * y[i]", "carry += da * y[i]"),
    "a term": ("recurrence", "total = d[i] + carry", "total = d[i]"),
    "a sign": ("recurrence", "total = d[i] + carry", "total = d[i] - carry"),
    "writes to the same entry": ("taken", "np.add.at(dx, at, d * y)", "dx[at] += d * y"),
    "an assignment of the same entry": ("taken", "np.add.at(dx, at, d * y)", "dx[at] = d * y"),
    "an index array's entry": ("taken", "np.array([0, 2, 2, 5, 1, 0])", "np.array([0, 2, 2, 4, 1, 0])"),
    "an assignment for a sum": ("filter", "dx[i + k] +=", "dx[i + k] ="),
    "an operator of an index": ("filter", "dx[i + k] += d[i]", "dx[i - k] += d[i]"),
    "an index swapped": ("filter", "d[i] * x[i + k]", "d[k] * x[i + k]"),
    "an inner range": ("filter", "range(3)", "range(2)"),
    "an outer range": ("filter", "range(4)", "range(1, 4)"),
    "subtraction for addition": ("filter", "dy[k] += d[i]", "dy[k] -= d[i]"),
    "a comparison": ("dense", "z > 0", "z < 0"),
    "a threshold": ("dense", "z > 0", "z > 1"),
    "a transpose": ("dense", "dz @ y.T", "dz @ y"),
    "a helper's argument": ("dense", "dz = d * slope(z)", "dz = d * slope(d)"),
    "a buffer that is no copy": ("buffer", "kept = y.copy()", "kept = y"),
    "a statement too many": ("buffer", "    return dx", "    dx += y\n    return dx"),
    "a constant factor": ("buffer", "2.0 * x * y", "x * y"),
    "another entry of the cotangent": ("buffer", "dx += d[1]", "dx += d[0]"),
    "or for and": ("clipped", "above | below", "above & below"),
    "a sign in a method": ("clipped", "2 * y - middle", "2 * y + middle"),
    "a buffer changed too early": (
        "buffer",
        "    kept *= y\n    dx += d[0] * y\n",
        "    kept *= y\n    y *= 2\n    dx += d[0] * y\n",
    ),
    "a method's comparison": ("clipped", "x < self.low", "x > self.low"),
    "a parameter that is not read": ("taken", "d * y)", "d)"),
    "keepdims": (
        "norm",
        "b = (g * h).mean(axis=1, keepdims=True)",
        "b = (g * h).mean(axis=0, keepdims=True)",
    ),
    "a mask": ("clipped", "above * x + below", "above * x + above"),
    "a derivative's function": ("log", "np.cos(y)", "np.sin(y)"),
    "another function of a family": ("log", "np.sinh(y)", "np.cosh(y)"),
    "a division": ("log", "np.sin(y) / x", "np.sin(y) * x"),
    "half": ("log", "0.5 / np.sqrt(x)", "1 / np.sqrt(x)"),
    "the square's derivative": ("einsum", "2 * out * d", "out * d"),
    "the operands of einsum": ("einsum", '"ik,ij->kj", g, x', '"ik,ij->kj", d, x'),
}


INSTEAD = {  # other edits that come to the same
    "all axes": "`b = (g * h).mean(axis=-1, keepdims=True)` instead of `b = (g * h).mean()`",
    "an outer range": "`for i in range(0, 4):` instead of `for i in range(1, 4):`",
    "a statement too many": "without `dx += y`",
    "a constant factor": "`dy += 2 * (d[1] * x * y)` instead of `dy += d[1] * x * y`",
    "a buffer changed too early": "`y *= 1` instead of `y *= 2`",
    "half": "`dx = d * (np.sin(y) / x + 0.5 * (1 / np.sqrt(x) * np.cosh(y)))` instead of "
    "`dx = d * (np.sin(y) / x + 1 / np.sqrt(x) * np.cosh(y))`",
    "the square's derivative": "`g = 2 * (out * d)` instead of `g = out * d`",
    "the order of a difference": "`dy = -(d * h).sum(axis=0)` instead of `dy = (d * h).sum(axis=0)`",
    "a sign": "`carry = -(da * y[i])` instead of `carry = da * y[i]`",
}


def expected(case, right, wrong):
    """The edit in words: the line that differs."""
    lines = [
        [line.strip() for line in before if line not in after]
        for before, after in itertools.permutations([right.splitlines(), wrong.splitlines()])
    ]
    return INSTEAD.get(case) or f"`{lines[0][0]}` instead of `{lines[1][0]}`"


def typed(said, text):
    """A text with the edit that is said."""
    pairs = re.findall(r"`([^`]*)` instead of `([^`]*)`", said) or [
        ("pass", re.search(r"without `([^`]*)`", said)[1])
    ]
    for then, now in pairs:
        assert text.count(now) == 1
        text = text.replace(now, then)
    return text


@pytest.mark.parametrize("case", PLANTED)
def test_planted(case, tmp_path):
    place, right, wrong = PLANTED[case]
    forward, source, args = PLACES[place]
    assert source.count(right) == 1
    texts = [ast.unparse(ast.parse(text)) for text in (source, source.replace(right, wrong))]
    module = module_of(texts[1], tmp_path)
    before = functions_of(module)
    report = asked(module, forward, args)
    assert not report.ok
    assert functions_of(module) == before
    edits = {finding.edit for finding in report.findings if not finding.ok}
    assert len(edits) == 1
    said = edits.pop()
    assert said.endswith(
        f": right {'' if case == 'a statement too many' else 'with '}{expected(case, *texts)}"
    )
    line = int(re.search(r":(\d+):", said)[1])
    old = (re.search(r"instead of `(.*)`", said) or re.search(r"without `(.*)`", said))[1]
    assert old == Path(module.__file__).read_text().splitlines()[line - 1].strip()
    assert asked(module_of(typed(said, texts[1]), tmp_path), forward, args).ok


@pytest.mark.parametrize("place", PLACES)
def test_right(place, tmp_path):
    forward, source, args = PLACES[place]
    assert asked(module_of(source, tmp_path), forward, args).ok
