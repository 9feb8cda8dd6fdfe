"""Time several sides in turns, and estimate their ratio.

Each round calls every side, in a new random order, so that a machine that slows down affects all of them
equally. A sample is the mean of as many calls as take a millisecond together; for a single call of a few
microseconds, the clock and the scheduler would dominate. Python's overhead for calling a compiled function
(some 10 µs) is part of every call, as it is for a user; a row states its share of the time.

Two compilations of a function differ in speed by up to a fifth as long as both live, because of where their
code and memory happen to be. So a side may consist of several separately compiled calls, of which each round
draws one.
"""

import ctypes
import gc
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

SAMPLE_SECONDS = 1e-3
RESAMPLES = 2000


ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -8, -3, -1  # the numbers of mallopt's options
LARGE = 32 << 20  # bytes, mallopt's maximum: larger arrays may still be allocated from new pages


def keep_memory() -> bool:
    """Make glibc keep freed memory for the next call, whichever side that belongs to.

    By default it returns some of it to the system. It is then a matter of chance which array is allocated
    from new pages, which costs more than half the time of an elementwise function, and the same side may be
    hit for a whole run.

    Returns:
        Whether there is a glibc that supports this.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = ((ARENA_MAX, 1), (MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, (1 << 31) - 1))
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in settings)


@dataclass(frozen=True)
class Pace:
    """How long to measure: seconds for all sides together, and the minimum and maximum number of rounds."""

    seconds: float
    least: int
    most: int


QUICK = Pace(0.25, 5, 31)
FULL = Pace(1.5, 9, 101)


def interleaved(
    sides: Mapping[str, Sequence[Callable[[], Any]]],
    pace: Pace,
    rng: np.random.Generator,
    clock: Callable[[], float] = time.perf_counter,
    pause: float = 0.0,
) -> dict[str, np.ndarray]:
    """Seconds per call of each side, one entry per round.

    Args:
        sides: name → calls that start the same work and return arrays to wait for; each round draws one.
        pace: how long to measure.
        rng: draws the order of the sides in each round, and the call of each.
        clock: a clock in seconds with any origin.
        pause: seconds to sleep before each sample.
    Returns:
        Name → (rounds,).
    """
    estimates = {}
    for _ in range(2):  # the first compiles
        estimates = {name: min(_sample(call, 1, clock) for call in calls) for name, calls in sides.items()}
    repeats = {name: max(1, math.ceil(SAMPLE_SECONDS / max(t, 1e-7))) for name, t in estimates.items()}
    round_seconds = sum(estimates[name] * repeats[name] for name in sides)
    rounds = int(np.clip(pace.seconds / (round_seconds + pause * len(sides)), pace.least, pace.most))
    samples: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for i in rng.permutation(len(names)):
                if pause:
                    time.sleep(pause)
                alike = sides[names[i]]
                call = alike[int(rng.integers(len(alike)))]
                samples[names[i]].append(_sample(call, repeats[names[i]], clock))
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(seconds) for name, seconds in samples.items()}


def _sample(call: Callable[[], Any], calls: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(calls):
        out = call()
    jax.block_until_ready(out)
    return (clock() - started) / calls


def quartiles(seconds: np.ndarray) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile.

    >>> quartiles(np.arange(1.0, 6.0))
    (2.0, 3.0, 4.0)
    """
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return float(low), float(median), float(high)


def ratio(ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """The ratio of the medians, with a 95 % confidence interval.

    Rounds are resampled with replacement, with both sides of a round together, as a disturbance affects both;
    the interval contains the middle 95 % of the resulting ratios of medians.

    Args:
        ours, theirs: seconds of the same rounds, (n,).
    Returns:
        ``(ratio, low, high)``.
    """
    drawn = rng.integers(0, len(ours), (RESAMPLES, len(ours)))
    found = np.median(ours[drawn], axis=1) / np.median(theirs[drawn], axis=1)
    low, high = np.quantile(found, (0.025, 0.975))
    return float(np.median(ours) / np.median(theirs)), float(low), float(high)


def geometric_mean(values: Any) -> float:
    """exp of the mean logarithm.

    >>> geometric_mean([0.5, 2.0])
    1.0
    """
    return float(np.exp(np.mean(np.log(values))))
