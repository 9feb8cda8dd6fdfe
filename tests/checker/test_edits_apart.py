"""What the search for edits leaves as it was: the user's functions, files, values, output, and time."""

import _thread
import gc
import importlib.util
import itertools
import linecache
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.checker import verdict
from manual_grad.checker.edits import search, stopping
from manual_grad.verify import check_grad, check_vjp

numbers = itertools.count()
X = np.array([0.3, -1.2, 0.7, 2.1, -0.4])
Y = np.array([1.3, 0.2, -0.7, 1.1, 0.6])
PLAIN = """
def grad(x, y):
    t = np.tanh(x)
    dx = (1 + t * t) * y
    return dx, t
"""
RIGHT = "`dx = (1 - t * t) * y` instead of `dx = (1 + t * t) * y`"


@pytest.fixture(autouse=True)
def not_for_long(monkeypatch, only_edits):
    """One search, so that its limits can be seen."""
    monkeypatch.setattr(verdict, "SEARCHED", (6.0, 0.1, 0.1))


@pytest.fixture
def tries(monkeypatch):
    """The edits that are tried."""
    found = []
    fixed = search._fixed

    def counted(*args):
        found.append(args[1])
        return fixed(*args)

    monkeypatch.setattr(search, "_fixed", counted)
    return found


@pytest.fixture
def module(tmp_path):
    """Makes a module of a text."""

    def of(source):
        name = f"apart_{next(numbers)}"
        path = tmp_path / f"{name}.py"
        path.write_text(f"import numpy as np\n\n\n{source}")
        spec = importlib.util.spec_from_file_location(name, path)
        made = importlib.util.module_from_spec(spec)
        sys.modules[name] = made
        spec.loader.exec_module(made)
        return made

    return of


def loss(x, y):
    return (jnp.tanh(x) * y).sum()


def asked(grad, **settings):
    return check_grad(loss, grad, X, Y, **settings)


def said(report):
    return [finding.edit.partition("right with ")[2] for finding in report.findings if not finding.ok]


def codes(module):
    return {name: f.__code__ for name, f in vars(module).items() if hasattr(f, "__code__")}


def without(monkeypatch, call):
    """The result of a call without the search."""
    with monkeypatch.context() as patch:
        patch.setattr(verdict, "SEARCHED", (0.0, 0.0, 0.0))
        return call()


# --- all kinds of functions ---------------------------------------------------------------------------------

KINDS = {
    "a closure": """
def make(s):
    def inner(x, y):
        t = np.tanh(x)
        return (s * (1 + t * t) * y, t)
    return inner
grad = make(1.0)
""",
    "a lambda among others": """
square, grad = (lambda t: 1 + t * t, lambda x, y: (square(np.tanh(x)) * y, np.tanh(x)))
""",
    "default arguments": """
def grad(x, y, f=np.tanh, *, k=1.0):
    t = f(x)
    return ((k + t * t) * y, t)
""",
    "wraps": """
import functools
def deco(f):
    @functools.wraps(f)
    def g(*a):
        return f(*a)
    return g
@deco
def grad(x, y):
    t = np.tanh(x)
    return ((1 + t * t) * y, t)
""",
    "a context manager": """
import contextlib
@contextlib.contextmanager
def tanh(x):
    yield np.tanh(x)
def grad(x, y):
    with tanh(x) as t:
        return ((1 + t * t) * y, t)
""",
    "a method": """
class A:
    def grad(self, x, y):
        t = self.t(x)
        return ((1 + t * t) * y, t)
    def t(self, x):
        return np.tanh(x)
grad = A().grad
""",
    "static, class, property": """
class A:
    @property
    def one(self):
        return 1
    @staticmethod
    def t(x):
        return np.tanh(x)
    @classmethod
    def slope(cls, t, one):
        return one + t * t
    def grad(self, x, y):
        return (self.slope(self.t(x), self.one) * y, self.t(x))
grad = A().grad
""",
    "a callable object": """
class A:
    def __call__(self, x, y):
        t = np.tanh(x)
        return ((1 + t * t) * y, t)
grad = A()
""",
    "super": """
class B:
    def t(self, x):
        return np.tanh(x)
class A(B):
    def grad(self, x, y):
        t = super().t(x)
        return ((1 + t * t) * y, t)
grad = A().grad
""",
    "partial": """
import functools
def f(k, x, y):
    t = np.tanh(x)
    return ((k + t * t) * y, t)
grad = functools.partial(f, 1)
""",
    "a generator": """
def each(x, y):
    for a, b in zip(x, y):
        t = np.tanh(a)
        yield ((1 + t * t) * b)
def grad(x, y):
    return (np.array(list(each(x, y))), np.tanh(x))
""",
    "recursion": """
def slope(t, i):
    return [] if i == len(t) else [1 + t[i] * t[i], *slope(t, i + 1)]
def grad(x, y):
    t = np.tanh(x)
    return (np.array(slope(t, 0)) * y, t)
""",
    "a cached helper": """
import functools
@functools.lru_cache
def one(n):
    return np.ones(n)
def grad(x, y):
    t = np.tanh(x)
    return ((one(len(x)) + t * t) * y, t)
""",
    "beartype": """
from beartype import beartype
@beartype
def grad(x: np.ndarray, y: np.ndarray) -> tuple:
    t = np.tanh(x)
    return ((1 + t * t) * y, t)
""",
    "jaxtyping": """
from beartype import beartype
from jaxtyping import Float, jaxtyped
@jaxtyped(typechecker=beartype)
def grad(x: Float[np.ndarray, 'n'], y: Float[np.ndarray, 'n']) -> tuple:
    t = np.tanh(x)
    return ((1 + t * t) * y, t)
""",
    "a global variable that is written": """
calls = 0
def grad(x, y):
    global calls
    calls += 1
    t = np.tanh(x)
    return ((1 + t * t) * y, t)
""",
    "a loop that may not end": """
def grad(x, y):
    t = np.tanh(x)
    dx = np.zeros_like(x)
    i = 0
    while i < len(x):
        dx[i] = (1 + t[i] * t[i]) * y[i]
        i += 1
    return (dx, t)
""",
    "large numbers": """
BIG = 2 ** 62
def grad(x, y):
    t = np.tanh(x)
    n = BIG % 7 + 3000000019 - 3000000019
    a = 1e+200
    return ((1 + t * t) * y * (n - n + 1) * (a / a), t)
""",
}


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_functions(kind, threads, module, tries):
    made = module(KINDS[kind])
    before = codes(made)
    over = threading.Event()
    other = threading.Thread(target=over.wait, daemon=True)
    if threads:
        other.start()
    try:
        report = asked(made.grad)
    finally:
        over.set()
    assert codes(made) == before
    assert tries
    assert said(report) != [""], str(report)


# --- what stays as it was ---------------------------------------------------------------------------------

STATES = {
    "a counter": """
calls = 0
def grad(x, y):
    global calls
    calls += 1
    t = np.tanh(x)
    return ((1 + t * t) * y, t)
def state():
    return calls
""",
    "a list": """
seen = []
def grad(x, y):
    seen.append(x.sum())
    t = np.tanh(x)
    return ((1 + t * t) * y, t)
def state():
    return list(seen)
""",
    "a memo": """
memo = {}
def slope(x):
    if x not in memo:
        memo[x] = 1 + np.tanh(x) ** 2
    return memo[x]
def grad(x, y):
    return (np.array([slope(a) for a in x.tolist()]) * y, np.tanh(x))
def state():
    return dict(memo)
""",
    "an array": """
scratch = np.zeros(5)
one = np.ones(5)
def grad(x, y):
    t = np.tanh(x)
    scratch[:] = t * t
    a = one
    return ((a + scratch) * y, t)
def state():
    return (scratch.tolist(), one.tolist())
""",
    "an object": """
class A:
    n = 0
    def grad(self, x, y):
        self.n += 1
        self.t = np.tanh(x)
        return ((1 + self.t * self.t) * y, self.t)
a = A()
grad = a.grad
def state():
    return (a.n, a.t.tolist())
""",
    "a closure": """
def make():
    n = 0
    def inner(x, y):
        nonlocal n
        n += 1
        t = np.tanh(x)
        return ((1 + t * t) * y, t)
    return (inner, lambda: n)
grad, state = make()
""",
    "random numbers": """
import random
def grad(x, y):
    t = np.tanh(x)
    noise = np.random.rand() + random.random()
    return ((1 + t * t) * y + 1e-18 * noise, t)
def state():
    return (np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate())
""",
}


@pytest.mark.parametrize("kind", STATES)
def test_what_functions_keep(kind, module, tries, monkeypatch):
    states = []
    for searched in (False, True):
        np.random.seed(3)
        random.seed(3)
        made = module(STATES[kind])
        report = asked(made.grad) if searched else without(monkeypatch, lambda: asked(made.grad))  # noqa: B023
        assert not report.ok
        states.append(made.state())
    assert tries
    assert states[0] == states[1]


def test_residuals_that_are_no_pytrees(module, tries):
    made = module(
        "class Kept:\n pass\n"
        "def fwd(x, y):\n k = Kept()\n k.t, k.y = np.tanh(np.asarray(x)), np.array(y)\n return k.t * k.y, k\n"
        "def bwd(k, d):\n t = k.t\n y = k.y\n a = t * t\n b = 1 + a\n return d * b * y, d * t\n"
    )
    report = check_vjp(made.fwd, made.bwd, X, Y, reference=lambda x, y: jnp.tanh(x) * y)
    assert said(report) == ["`b = 1 - a` instead of `b = 1 + a`"], str(report)


SPOKEN = """
import logging, sys, warnings
log = logging.getLogger("apart")
def grad(x, y):
    print("out")
    log.warning("logged")
    warnings.warn("warned", stacklevel=1)
    t = np.tanh(x)
    return (1 + t * t) * y, t
"""


def test_output(module, tries, monkeypatch, capfd, caplog):
    made = module(SPOKEN)
    counts = []
    for searched in (False, True):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            asked(made.grad) if searched else without(monkeypatch, lambda: asked(made.grad))
        out = capfd.readouterr()
        counts.append((out.out.count("out"), len(caplog.records), len(warned)))
        caplog.clear()
    assert tries
    assert counts[0] == counts[1]
    assert not logging.lastResort.filters


TOUCHED = {
    "open": """
def note(x):
    with open(PATH, 'a') as f:
        print(x.sum(), file=f)
""",
    "pathlib": """
from pathlib import Path
def note(x):
    Path(PATH).write_text(str(x.sum()) + Path(PATH).read_text())
""",
    "an open file": """
f = open(PATH, 'a')
def note(x):
    f.write('x')
    f.flush()
""",
    "savetxt": """
def note(x):
    np.savetxt(PATH + str(abs(hash(x.sum()))), x)
""",
    "a process": """
import subprocess
def note(x):
    subprocess.Popen(['sh', '-c', 'echo x >> ' + PATH]).wait()
""",
    "os": """
import os
def note(x):
    os.close(os.open(PATH + str(abs(hash(x.sum()))), os.O_CREAT))
""",
}


@pytest.mark.parametrize("kind", TOUCHED)
def test_files(kind, module, tmp_path, monkeypatch):
    sizes = []
    for searched in (False, True):
        path = tmp_path / f"touched{searched}"
        path.write_text("")
        note = TOUCHED[kind].replace("PATH", repr(str(path)))
        made = module(f"{note}\n{PLAIN.replace('    t =', '    note(x)' + chr(10) + '    t =')}")
        asked(made.grad) if searched else without(monkeypatch, lambda: asked(made.grad))  # noqa: B023
        files = sorted(tmp_path.glob(f"{path.name}*"))
        sizes.append((len(files), sum(len(file.read_text().split()) for file in files)))
    assert sizes[0] == sizes[1]


def test_files_in_branches_that_did_not_run(module, tmp_path, tries):
    path = tmp_path / "touched"
    made = module(
        "from pathlib import Path\ndef note(x):\n if x.sum() > 100:\n"
        f"  Path({str(path)!r}).touch()\n return 1\n"
        "def grad(x, y):\n a = 1000 * x\n t = np.tanh(x)\n return (note(x) + t * t) * y, t"
    )
    assert "note(x) - t * t" in said(asked(made.grad))[0]
    assert not path.exists()
    path.touch()  # afterwards files are written as before


@pytest.mark.parametrize("end", ["os._exit(3)", "os.abort()", "os.kill(os.getpid(), 9)"])
def test_the_process_does_not_end(end, module, tries):
    made = module(
        f"import os\ndef stop(x):\n if x.sum() > 100:\n  {end}\n return 1\n"
        "def grad(x, y):\n a = 1000 * x\n t = np.tanh(x)\n return (stop(x) + t * t) * y, t"
    )
    assert not asked(made.grad).ok
    assert not tries


@pytest.mark.parametrize("error", ["SystemExit(3)", "BaseException('no')", "GeneratorExit", "StopIteration"])
def test_anything_raised(error, module, tries):
    made = module(
        PLAIN.replace("    return", f"    if dx.sum() < t.sum():\n        raise {error}\n    return")
    )
    assert not check_grad(loss, made.grad, abs(X), abs(Y)).ok
    assert tries


# --- time and memory --------------------------------------------------------------------------------------


def test_loops_that_do_not_end(module, tries, monkeypatch):
    monkeypatch.setattr(verdict, "SEARCHED", (1.0, 0.2, 0.2))
    made = module(
        "def turn(n, i):\n while i != n:\n  try:\n   i += 1\n  except BaseException:\n   pass\n return i\n"
        "def grad(x, y):\n n = len(x)\n k = n - n\n one = turn(n + 1, k) - n\n"
        " return x * turn(n, k) * one, np.tanh(x)"
    )
    began = time.monotonic()
    assert not asked(made.grad).ok
    assert tries
    assert time.monotonic() - began < 3 * 1.4 + 2


@pytest.mark.parametrize("sleep", [0.1, 0.4])
def test_slow_functions(sleep, module, monkeypatch):
    made = module(
        f"wait = __import__('time').perf_counter\n{PLAIN.replace('    return', SLEEPS + '    return')}"
    )
    made.SLEEP = sleep
    monkeypatch.setattr(verdict, "SEARCHED", (1.0, 0.5, 0.2))
    times = []
    for searched in (False, True):
        began = time.monotonic()
        asked(made.grad, draws=1) if searched else without(monkeypatch, lambda: asked(made.grad, draws=1))
        times.append(time.monotonic() - began)
    assert times[1] - times[0] < 1.5 * 1.5 + 2 + 10 * sleep
    times.clear()
    asked(made.grad, draws=1, seconds=0.2)


SLEEPS = """    end = wait() + SLEEP
    while wait() < end:
        pass
"""


def test_a_huge_function(module, monkeypatch, tries):
    monkeypatch.setattr(verdict, "SEARCHED", (1.0, 0.5, 0.2))
    lines = "".join(f"    a{i} = t * {i} + x * y - t * {i}\n" for i in range(1000))
    made = module(PLAIN.replace("    return", f"{lines}    return"))
    began = time.monotonic()
    assert not asked(made.grad).ok
    assert time.monotonic() - began < 1.5 * 3 + 4


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(),
    reason="no /proc/self/statm here: the memory of edited code is limited on Linux only",
)
def test_memory(module, tries):
    made = module(
        "def grad(x, y):\n n = len(x)\n big = 4 * 10**9\n t = np.tanh(x)\n"
        " one = np.ones(n + big - big)[:n]\n return (one + t * t) * y, t"
    )
    began = time.monotonic()
    assert said(asked(made.grad)) != [""]
    assert time.monotonic() - began < 5
    np.ones(10**8)


# --- threads, Ctrl-C, profilers ---------------------------------------------------------------------------


def test_other_threads_run_the_original(module, tries):
    made = module(PLAIN)
    want = made.grad(X, Y)[0].copy()
    over, off = threading.Event(), []

    def work():
        while not over.is_set():
            try:
                got = made.grad(X, Y)[0]
                if not np.array_equal(got, want):
                    off.append(got)
            except Exception as error:
                off.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        report = asked(made.grad)
    finally:
        over.set()
        worker.join()
    assert not off
    assert said(report) == [RIGHT]


def test_two_checks_at_once(module):
    made = module(PLAIN)
    before, reports = codes(made), []
    workers = [threading.Thread(target=lambda: reports.append(asked(made.grad))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert codes(made) == before
    assert [said(report) for report in reports] == [[RIGHT]] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where it cannot be raised
def test_ctrl_c(module, monkeypatch):
    made = module(PLAIN.replace("    dx", "    for _ in range(300):\n        t = np.tanh(x)\n    dx"))
    monkeypatch.setattr(verdict, "SEARCHED", (1.0, 0.0, 0.0))
    before, outer = codes(made), (sys.getprofile(), sys.stdout)
    asked(made.grad)
    waits, interrupted = random.Random(0), 0
    for _ in range(12):
        timer = threading.Timer(waits.uniform(0.02, 0.5), _thread.interrupt_main)
        timer.start()
        try:
            asked(made.grad)
            timer.cancel()
            timer.join()
            time.sleep(0.01)
        except KeyboardInterrupt:
            interrupted += 1
        assert codes(made) == before
        assert not hasattr(__import__("builtins"), "_manual_grad_seen")
        assert not search.one_at_a_time.locked()
        assert (sys.getprofile(), sys.stdout) == outer
    assert interrupted
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_profilers_and_tracers(module):
    made, profiled, traced = module(PLAIN), [], []

    def profile(frame, event, _):
        profiled.append(event)

    def trace(frame, event, _):
        traced.append(event)
        return trace

    sys.setprofile(profile)
    sys.settrace(trace)
    try:
        report = asked(made.grad)
        assert (sys.getprofile(), sys.gettrace()) == (profile, trace)
    finally:
        sys.setprofile(None)
        sys.settrace(None)
    assert said(report) == [RIGHT]


def test_code_that_catches_everything_is_stopped():
    watch, caught = stopping.Watch(), []

    def stubborn():
        while len(caught) < 100:
            try:
                while True:
                    pass
            except BaseException as error:
                caught.append(error)

    with watch.watching(time.monotonic() + 30), pytest.raises(TimeoutError):
        watch.called(lambda: (stubborn(), time.sleep(1)), 0.05)
    assert caught
    with watch.watching(time.monotonic() + 30):
        for n in range(90, 120, 2):  # calls that end just when they are stopped
            end = time.monotonic() + 0.0005 * n
            try:
                watch.called(lambda: [*iter(lambda: time.monotonic() < end, False)], 0.05)  # noqa: B023
            except TimeoutError:
                assert time.monotonic() >= end - 0.06
    for _ in range(1000):
        pass


# --- files that are not what runs ------------------------------------------------------------------------


@pytest.mark.parametrize("change", [("1 + t", "1 * t"), ("t * t", "t / t"), (PLAIN, "")])
def test_a_file_that_has_changed(change, module, tries):
    made = module(PLAIN)
    path = Path(made.__file__)
    path.write_text(path.read_text().replace(*change))
    os.utime(path, (time.time() + 10, time.time() + 10))
    assert said(asked(made.grad)) == [""]
    assert not tries


def test_a_file_that_has_changed_elsewhere(module):
    made = module(PLAIN)
    path = Path(made.__file__)
    path.write_text(path.read_text() + "\nother = 1\n")
    assert said(asked(made.grad)) == [RIGHT]


@pytest.mark.parametrize(("name", "edits"), [("<ipython-input-1-a>", 1), ("<written by a program>", 0)])
def test_code_that_is_in_no_file(name, edits, tries):
    space = {"np": np}
    linecache.cache[name] = (len(PLAIN), None, PLAIN.splitlines(keepends=True), name)
    exec(compile(PLAIN, name, "exec"), space)
    assert said(asked(space["grad"])) == [RIGHT if edits else ""]
    assert bool(tries) == bool(edits)


def test_code_without_source(tries):
    space = {"np": np}
    exec(PLAIN, space)
    assert said(asked(space["grad"])) == [""]


# --- the report -------------------------------------------------------------------------------------------


def test_an_edit_that_is_right_by_accident(module):
    made = module(
        "class A:\n low, high = -0.3, 0.1\n def mask(self, x):\n  return x > self.low, x < self.low\n"
        " def grad(self, x, y):\n  above, below = self.mask(x)\n  middle = ~(above | below)\n"
        "  return above * y + middle, above * x + below * 2 * y - middle\ngrad = A().grad"
    )
    forward = lambda x, y: jnp.where(x > 0.1, x * y, jnp.where(x < -0.3, y * y, x - y)).sum()  # noqa: E731
    rng = np.random.default_rng(0)
    report = check_grad(forward, made.grad, rng.standard_normal(6), rng.standard_normal(6))
    assert not report.ok
    assert not any("1.0 / x" in finding.edit for finding in report.findings)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_verdict_is_the_same(dtype, module, monkeypatch):
    made, args = module(PLAIN), (X.astype(dtype), Y.astype(dtype))
    found = without(monkeypatch, lambda: check_grad(loss, made.grad, *args))
    again = check_grad(loss, made.grad, *args)
    assert [replace(f, edit="", diagnosis="") for f in again.findings] == [
        replace(f, edit="", diagnosis="") for f in found.findings
    ]
    assert found.notes == again.notes


def test_frozen_objects(module):
    made = module(PLAIN)
    frozen = gc.get_freeze_count()
    gc.freeze()
    try:
        assert said(asked(made.grad)) == [RIGHT]
        assert gc.get_freeze_count()
    finally:
        if not frozen:
            gc.unfreeze()


def test_the_same_twice(module):
    made = module(PLAIN)
    assert said(asked(made.grad)) == said(asked(made.grad)) == [RIGHT]


def test_right_gradients_start_no_search(module, monkeypatch):
    made = module(PLAIN.replace("1 + t", "1 - t"))
    monkeypatch.setattr(verdict, "search_of", None)
    assert asked(made.grad).ok
