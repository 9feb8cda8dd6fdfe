"""Measure one case: compile it, compare it with float64, and only then time it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.catalogue.draw import Draw
from manual_grad_benchmarks import peers
from manual_grad_benchmarks.cases import Case, Side
from manual_grad_benchmarks.ceiling import Ceiling
from manual_grad_benchmarks.kept import kept
from manual_grad_benchmarks.programs import Program, compiled
from manual_grad_benchmarks.timing import FULL, QUICK, interleaved, quartiles, ratio
from manual_grad_reference.oracles.in_numpy import in_numpy

TOLERANCE = {
    "float64": 1e-10,
    "float32": 3e-4,
    "bfloat16": 0.1,
    "float16": 0.02,
}  # relative, in the 2-norm, per array
TF32 = 5e-3  # the same if float32 is multiplied with ten bits
FLIPS = 30  # times that, where rounding may move a pre-activation across ReLU's kink
SPIN = 0.03  # seconds for which threads of PyTorch and NumPy keep spinning after a call, and disturb the next
QUARTER = 1.25  # the allowed ratio of our error to autodiff's
BEST = " (best options)"
SAME = "same program, the ratio is noise"


class WrongResult(Exception):
    """A side computes a wrong result; its case was not timed."""


@dataclass(frozen=True)
class Settings:
    """The settings shared by all cases.

    Attributes:
        dtype: the dtype of the floating-point arguments.
        device: ``cpu`` or ``gpu``.
        quick: few rounds, one compilation.
        seed: seed for arguments, cotangents and the order of the sides.
        torch: PyTorch, or None.
        with_peers: whether peers are timed.
        precision: the precision of float32 products on a GPU: ``highest``, or ``default``, possibly TF32.
    """

    dtype: str = "float32"
    device: str = "cpu"
    quick: bool = False
    seed: int = 0
    torch: Any = None
    with_peers: bool = True
    precision: str = "highest"

    @property
    def tolerance(self) -> float:
        """The relative error allowed."""
        tf32 = self.precision == "default" and self.device == "gpu" and self.dtype == "float32"
        return TF32 if tf32 else TOLERANCE[self.dtype]


def measure(case: Case, settings: Settings) -> dict[str, Any]:
    """Measure a case; returns a row of the table as a JSON object.

    Args:
        case: the case to measure.
        settings: how to measure it.
    Returns:
        The row, to which :func:`under` adds figures that depend on the machine's ceiling.
    Raises:
        WrongResult: a side's results differ from the truth; the message names side, array and error.
    """
    rng = np.random.default_rng([settings.seed, *case.label.encode()])
    args = case.inputs(Draw(rng, jnp.dtype(settings.dtype)))
    compilations = _compile(case, args, settings)
    programs = {name: _median_of(tries) for name, tries in compilations.items()}
    run = {name: [_call(program, args) for program in tries] for name, tries in compilations.items()}
    prepared = (
        peers.of(case.peer, args, settings.dtype, settings.device, settings.torch)
        if settings.with_peers
        else {}
    )
    errors = _compare(case, args, programs, prepared, settings)
    held = {name: kept(residuals, args) for name, residuals in case.kept.items()}
    pace = QUICK if settings.quick else FULL
    samples = interleaved(run, pace, rng)
    ours = next(iter(case.sides))
    with_peers = {ours: run[ours]} | {name: [peer.call] for name, peer in prepared.items()}
    among_peers = interleaved(with_peers, pace, rng, pause=SPIN) if prepared else {}
    return _row(case, programs, errors, held, samples, among_peers, settings)


def _call(program: Program, args: tuple) -> Any:
    return lambda: program.call(*args)


def _compile(case: Case, args: tuple, settings: Settings) -> dict[str, list[Program]]:
    """Compile every side, and also with the best options; in full runs three times."""
    wanted: dict[str, tuple[Side, dict | None]] = {name: (side, None) for name, side in case.sides.items()}
    if case.options and settings.device == "cpu":
        first_two = list(case.sides)[:2]
        wanted |= {name + BEST: (case.sides[name], dict(case.options)) for name in first_two}
    programs: dict[str, list[Program]] = {name: [] for name in wanted}
    for side in case.sides.values():
        jax.jit(side.fn).lower(*args)  # JAX caches its own functions that either side calls
    for _ in range(1 if settings.quick else 3):
        for name, (side, options) in wanted.items():
            programs[name].append(compiled(side.fn, args, options))
    return programs


def _median_of(tries: Sequence[Program]) -> Program:
    """The last program, with the medians of the times."""
    last = tries[-1]
    trace, compile_ = (median(getattr(t, f"{what}_seconds") for t in tries) for what in ("trace", "compile"))
    return Program(**{**last.__dict__, "trace_seconds": trace, "compile_seconds": compile_})


# ---------------------------------------------------------------------------------------- comparing


def _compare(
    case: Case,
    args: tuple,
    programs: Mapping[str, Program],
    prepared: Mapping[str, peers.Prepared],
    settings: Settings,
) -> dict[str, float]:
    """Each side's error compared with the truth; raises if one is too large to be rounding."""
    first_two = list(case.sides)[:2]
    given = {name: side.dense(programs[name].call(*args)) for name, side in case.sides.items()}
    given |= {n + BEST: programs[n + BEST].call(*args) for n in first_two if n + BEST in programs}
    given |= {name: peer.result(peer.call()) for name, peer in prepared.items()}
    want = _truth(case.truth, args) if case.exact else given[first_two[1]]
    errors = {}
    for name, got in given.items():
        errors[name], where = _error(got, want)
        tolerance = settings.tolerance * (FLIPS if case.kinks else 1)
        if not errors[name] <= tolerance:
            other = "float64" if case.exact else first_two[1]
            raise WrongResult(
                f"{case.label}: {name} is wrong: {where} is {errors[name]:.1e} off {other}, relative; "
                f"expected at most {tolerance:g} in {settings.dtype}; it was not timed"
            )
    return errors if case.exact else {}


def _truth(side: Side, args: tuple) -> Any:
    """The truth in float64, for exactly the numbers in the arguments."""
    with jax.enable_x64(True):
        exact = jax.tree.map(_in_float64, jax.tree.map(np.asarray, args))
        return jax.tree.map(np.asarray, side.dense(in_numpy(side.fn)(*exact)))


def _in_float64(array: np.ndarray) -> Any:
    return (
        jnp.asarray(array, jnp.float64) if jnp.issubdtype(array.dtype, jnp.floating) else jnp.asarray(array)
    )


def _error(got: Any, want: Any) -> tuple[float, str]:
    """The largest ‖got − want‖ / ‖want‖ over the arrays (in 2-norms), and the name of that array."""
    worst, where = 0.0, "its structure"
    expected = jax.tree_util.tree_leaves_with_path(want)
    leaves = jax.tree.leaves(got)
    if len(leaves) != len(expected):
        return math.inf, where
    for leaf, (path, truth) in zip(leaves, expected, strict=True):
        if np.shape(leaf) != np.shape(truth):
            return math.inf, f"the shape of out{jax.tree_util.keystr(path)}"
        exact = np.asarray(truth, np.float64)
        off = np.linalg.norm((np.asarray(leaf, np.float64) - exact).ravel())
        norm = np.linalg.norm(exact.ravel()) or 1.0
        error = float(np.nan_to_num(off / norm, nan=np.inf))
        if error >= worst:
            worst, where = error, f"out{jax.tree_util.keystr(path)}"
    return worst, where


# --------------------------------------------------------------------------------------------- rows


def _row(
    case: Case,
    programs: Mapping[str, Program],
    errors: Mapping[str, float],
    held: Mapping[str, dict[str, int]],
    samples: dict[str, np.ndarray],
    among_peers: dict[str, np.ndarray],
    settings: Settings,
) -> dict[str, Any]:
    """All results for a case: the pair's ratio, then those of each side."""
    rng = np.random.default_rng(settings.seed)
    ours, theirs = list(case.sides)[:2]
    work = _work(programs, (ours, theirs))
    peers_alone = {name: seconds for name, seconds in among_peers.items() if name != ours}
    medians = {name: float(np.median(t)) for name, t in (samples | peers_alone).items()}
    over = {name: medians[ours] / medians[name] for name in samples if name != ours}
    over |= {name: float(np.median(among_peers[ours])) / medians[name] for name in peers_alone}
    value, low, high = ratio(samples[ours], samples[theirs], rng)
    same = bool(programs[ours].same_as) and programs[ours].same_as == programs[theirs].same_as
    return {
        "case": case.name,
        "group": case.group,
        "size": case.size,
        "pair": [ours, theirs],
        "ratio": value,
        "interval": [low, high],
        "same_program": same,
        "verdict": _verdict(same, low, high),
        "compile_ratio": _compiling(programs[ours]) / _compiling(programs[theirs]),
        "accurate": _accurate(case, errors, settings),
        "over": over,
        "rounds": len(samples[ours]),
        "work_flops": work,
        **({"grown": dict(case.grown)} if case.grown else {}),
        "sides": {
            name: _times(seconds)
            | (_facts(programs[name]) if name in programs else {})
            | ({"error": errors[name]} if name in errors else {})
            | ({"kept": held[name]} if name in held else {})
            for name, seconds in (samples | peers_alone).items()
        },
    }


def _verdict(same: bool, low: float, high: float) -> str:
    """The verdict on a ratio: faster or slower if its interval excludes 1.

    >>> _verdict(False, 0.5, 0.6), _verdict(False, 0.9, 1.1), _verdict(True, 0.5, 0.6)
    ('faster', 'even', 'same program, the ratio is noise')
    """
    if same:
        return SAME
    return "faster" if high < 1 else "slower" if low > 1 else "even"


def _work(programs: Mapping[str, Program], pair: Sequence[str]) -> float:
    """The flops required: the smaller count of the two traced programs; XLA counts a loop's body once."""
    counts = [programs[name].work for name in pair if not programs[name].loops]
    return min(counts, default=0.0)


def _compiling(program: Program) -> float:
    return program.trace_seconds + program.compile_seconds


def _accurate(case: Case, errors: Mapping[str, float], settings: Settings) -> bool | None:
    """Whether our error exceeds autodiff's by at most a quarter, or is below one rounding.

    None if that cannot be determined: there is no truth, or rounding has moved a unit across ReLU's kink.
    """
    ours, theirs = (errors.get(name) for name in list(case.sides)[:2])
    if ours is None or theirs is None or (case.kinks and max(ours, theirs) > settings.tolerance / FLIPS):
        return None
    return ours <= max(QUARTER * theirs, float(jnp.finfo(settings.dtype).eps))


def _times(seconds: np.ndarray) -> dict[str, float]:
    low, middle, high = quartiles(seconds)
    return {"lower_quartile": low, "median": middle, "upper_quartile": high}


def _facts(program: Program) -> dict[str, Any]:
    return {
        "trace_seconds": program.trace_seconds,
        "compile_seconds": program.compile_seconds,
        "temporaries": program.temporaries,
        "moved": program.moved,
        "flops": program.flops,
        "bytes_accessed": program.bytes_accessed,
    }


def under(row: dict[str, Any], ceiling: Ceiling) -> dict[str, Any]:
    """The row with each side's share of the machine's ceiling, and the call's own share of the time."""
    sides = {
        name: side
        | {"share_of_ceiling": ceiling.least_seconds(row["work_flops"], side["moved"]) / side["median"]}
        if "moved" in side
        else side
        for name, side in row["sides"].items()
    }
    call = ceiling.dispatch / sides[row["pair"][1]]["median"]
    return row | {"sides": sides, "dispatch_share": min(call, 1.0)}
