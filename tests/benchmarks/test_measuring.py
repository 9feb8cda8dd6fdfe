"""What the benchmark's numbers rest on: turns, statistics, programs told apart, wrong results refused."""

import importlib.util
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad
from manual_grad import ops
from manual_grad.catalogue import FORMULAS
from manual_grad_benchmarks import cases, ceiling, peers, run, table
from manual_grad_benchmarks.programs import compiled
from manual_grad_benchmarks.timing import Pace, interleaved, quartiles, ratio

SMALLEST = list({case.name: case for case in reversed(cases.every_case())}.values())[::-1]


def case_of(name):
    return next(case for case in SMALLEST if case.name == name)


class Clock:
    """A clock that each call moves by what it costs, and that slows down as time goes by."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def side(self, name, seconds):
        def call():
            self.calls.append(name)
            self.now += seconds * (1 + self.now)
            return ()

        return call


def test_the_sides_take_turns():
    clock = Clock()
    sides = {"fast": [clock.side("fast", 0.002)], "slow": [clock.side("slow", 0.004)]}
    found = interleaved(sides, Pace(1.0, 40, 40), np.random.default_rng(0), lambda: clock.now)
    assert [len(found[name]) for name in sides] == [40, 40]
    rounds = np.array(clock.calls[4:]).reshape(40, 2)  # after two warm-up calls of each
    assert all(set(pair) == set(sides) for pair in rounds)
    assert 5 < (rounds[:, 0] == "fast").sum() < 35, "the order is drawn anew"
    value, low, high = ratio(found["fast"], found["slow"], np.random.default_rng(1))
    assert low < 0.5 < high
    assert value == pytest.approx(0.5, rel=0.05), "a machine that slows down slows both"


def test_each_compilation_has_its_rounds():
    clock = Clock()
    sides = {"a": [clock.side("a quick", 0.002), clock.side("a slow", 0.006)], "b": [clock.side("b", 0.004)]}
    found = interleaved(sides, Pace(1.0, 60, 60), np.random.default_rng(0), lambda: clock.now)
    warmed_up, rounds = clock.calls[:6], clock.calls[6:]
    assert sorted(warmed_up) == sorted(2 * ["a quick", "a slow", "b"])
    assert rounds.count("b") == len(found["a"]) == len(found["b"]) == 60
    assert 20 < rounds.count("a quick") < 40
    assert rounds.count("a quick") + rounds.count("a slow") == 60


def test_short_calls_are_timed_together():
    clock = Clock()
    found = interleaved(
        {"tiny": [clock.side("tiny", 1e-5)]}, Pace(0.1, 3, 3), np.random.default_rng(0), lambda: clock.now
    )
    assert len(clock.calls) == 2 + 3 * 100
    assert quartiles(found["tiny"])[1] == pytest.approx(1e-5, rel=0.1)


PAGES = """
import ctypes, resource, sys
from manual_grad_benchmarks.timing import keep_memory
assert sys.argv[1] == "as it is" or keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
size = 31 << 20
def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [libc.malloc(size) for _ in range(3)]
    for array in arrays:
        ctypes.memset(array, 1, size)
    for array in arrays:
        libc.free(array)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([new_pages() for _ in range(4)][-1])
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="keep_memory is for glibc; this Python has another libc"
)
def test_freed_memory_is_kept():
    as_it_is, kept = (
        int(subprocess.check_output([sys.executable, "-c", PAGES, which], text=True))
        for which in ("as it is", "kept")
    )
    assert as_it_is > 1000, "glibc keeps it anyway: keep_memory has become pointless"
    assert kept < 100


def test_the_interval_covers_a_known_ratio():
    covered, widths = 0, []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        disturbed = rng.lognormal(0, 0.3, 40)  # by what hits both sides of a round
        ours, theirs = (scale * disturbed * rng.lognormal(0, 0.1, 40) for scale in (0.8, 1.0))
        _, low, high = ratio(ours, theirs, rng)
        covered += low <= 0.8 <= high
        widths.append(high - low)
    assert covered >= 88
    assert 0.02 < np.mean(widths) < 0.4


def same(f, g, *args):
    return compiled(f, args).same_as == compiled(g, args).same_as != ""


@pytest.fixture
def optimised():
    """As a user compiles; the other tests do without most optimizations."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.usefixtures("optimised")
def test_same_programs_are_recognised():
    x, y = jnp.arange(6.0).reshape(2, 3), jnp.arange(3.0)

    def named_otherwise(a, b):
        powers = jnp.exp(b)
        return a.sum(0), b * powers + a

    assert same(lambda x, y: (x.sum(0), x + jnp.exp(y) * y), named_otherwise, x, y)
    assert same(*(side.fn for side in case_of("relu").sides.values()), *_arguments(case_of("relu")))
    assert not same(lambda x, y: x + y, lambda x, y: x - y, x, y)
    assert not same(lambda x, y: x - y, lambda x, y: y - x, x, y)
    assert not same(lambda x, y: 2 * x, lambda x, y: 3 * x, x, y)
    assert not same(lambda x, y: x.sum(0), lambda x, y: x[0], x, y)


def _arguments(case, dtype="float64"):
    return case.inputs(cases.Draw(np.random.default_rng(0), jnp.dtype(dtype)))


def _broken(fn, wrong):
    return lambda *args: wrong(fn(*args))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda out: (out[0], (-out[1][0], out[1][1])), r"out\[1\]\[0\]"),
        (lambda out: (out[0], (out[1][0] * 1.001, out[1][1])), r"out\[1\]\[0\]"),
        (lambda out: (out[0] * jnp.nan, out[1]), r"out\[0\]"),
        (lambda out: (out[0], (out[1][0][:, None], out[1][1])), "the shape of"),
        (lambda out: out[0], "its structure"),
    ],
)
def test_a_wrong_result_stops_before_the_timing(wrong, said, monkeypatch):
    case = case_of("mse")
    sides = case.sides | {"manual": cases.Side(_broken(case.sides["manual"].fn, wrong))}
    monkeypatch.setattr(run, "interleaved", lambda *_, **__: pytest.fail("timed a wrong result"))
    with pytest.raises(run.WrongResult, match=rf"mse\[64\]: manual is wrong: {said}"):
        run.measure(replace(case, sides=sides), run.Settings("float64", quick=True))


def test_a_wrong_peer_stops_too(monkeypatch):
    monkeypatch.setitem(peers.NUMPY, "mse", lambda _, y_hat, y: (np.mean((y - y_hat) ** 2), (y_hat - y,)))
    with pytest.raises(run.WrongResult, match="numpy is wrong"):
        run.measure(case_of("ops.mse"), run.Settings("float64", quick=True))


@pytest.mark.parametrize("name", ["dense_rows", "cnn", "conv2d", "linear_cross_entropy"])
def test_pytorch_agrees(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e .[peers]")
    case = next(c for c in SMALLEST if (c.name == name and c.peer) or c.name == f"ops.{name.split('_')[0]}")
    args = _arguments(case)
    peer = peers.of(case.peer, args, "float64", "cpu", torch)["torch"]
    error, where = run._error(peer.result(peer.call()), case.sides["autodiff"].fn(*args))
    assert error < 1e-10, where


def test_compact_jacobians_are_written_out():
    for case in SMALLEST:
        if case.group == "jacobian" and "correlate" not in case.name:
            args = _arguments(case)
            sides = list(case.sides.values())[:2]
            first, second = (side.dense(jax.jit(side.fn)(*args)) for side in sides)
            assert run._error(first, second)[0] < 1e-12, case.label


@pytest.mark.parametrize("name", [name for name, f in FORMULAS.items() if f.bench and f.bench.truth])
def test_a_truth_of_its_own_computes_what_the_reference_does(name):
    formula = FORMULAS[name]
    primals = tuple(formula.inputs(cases.Draw(np.random.default_rng(0), jnp.dtype("float64"))).values())
    out = formula.reference(*primals)
    ours, theirs = (cases.by_autodiff(fn)(out, *primals) for fn in (formula.bench.truth, formula.reference))
    assert run._error(ours, theirs)[0] < 1e-12


def test_every_pair_and_every_operation_has_a_case():
    names = {case.name for case in cases.every_case()}
    pairs = {name.removesuffix("_bwd") for name in manual_grad.__all__ if name.endswith("_bwd")}
    assert pairs - {"conv2d_cpu", "conv2d_plain"} <= names  # of which conv2d is one, by platform
    assert {f"ops.{name}" for name in ops.__all__} <= names


def test_the_summary_counts_same_programs_as_one():
    def row(name, ratio, same, accurate):
        found = {"case": name, "size": "1", "group": "formula", "ratio": ratio, "same_program": same}
        return found | {"interval": [ratio - 0.1, ratio + 0.1], "compile_ratio": 0.8, "accurate": accurate}

    rows = [row("a", 0.5, False, True), row("b", 1.6, True, True)]
    rows += [row("c", 2.0, False, False), row("d", 1.08, False, None)]
    found = table.summary(rows)
    assert found["geometric_mean"] == pytest.approx((0.5 * 1 * 2 * 1.08) ** 0.25)
    assert found["compile_geometric_mean"] == pytest.approx(0.8)
    assert (found["same_program"], found["noise"]) == (1, [1.6, 1.6])
    assert (found["slower"], found["less_accurate"]) == (["c[1]"], ["c[1]"])
    assert "slower by more than 5 %: c[1]" in table.lines(found)


def test_the_ceiling_is_the_larger_of_two_bounds():
    limits = ceiling.Ceiling(1e9, ((1e3, 1e8), (1e6, 1e9)), 1e-5)
    assert limits.least_seconds(1e9, 1e3) == pytest.approx(1.0)
    assert limits.least_seconds(1.0, 1e6) == pytest.approx(1e-3)
    assert 1e8 < limits.bytes_per_second(3e4) < 1e9


@pytest.mark.parametrize("case", SMALLEST, ids=lambda case: case.label)
def test_every_side_lowers_for_gpu_and_tpu(case):
    """On a machine that has neither."""
    args = _arguments(case, "float32")
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), args)
    for side in case.sides.values():
        exported = jax.export.export(jax.jit(side.fn), platforms=("cuda", "tpu"))(*shapes)
        assert exported.platforms == ("cuda", "tpu")


def test_the_independent_script_times_cases_of_the_benchmark_and_refuses_a_wrong_result():
    path = Path(__file__).parents[2] / "benchmarks" / "independent.py"
    spec = importlib.util.spec_from_file_location("independent", path)
    independent = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(independent)
    assert set(independent.CASES) <= {case.label for case in cases.every_case() if case.group == "formula"}
    plain, draw = independent.CASES["mse[4096]"]
    assert independent.ratio("mse", plain, draw(), rounds=2, seconds=0) > 0
    with pytest.raises(AssertionError):
        independent.ratio("mse", lambda y_hat, y: 2 * plain(y_hat, y), draw(), rounds=2, seconds=0)
