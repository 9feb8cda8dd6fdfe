"""An entry's hard inputs: infinities, ties, all zeros, subnormals, huge batches.

Autodiff cannot serve as the truth there, because it is itself wrong on many of them. The right answer is
computed from the entry's definition in decimal arithmetic, where nothing overflows or cancels, or given in
closed form, with the reason. JAX's derivatives of the obvious forward functions are shown alongside.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Arrays = dict[str, Any]
Rng = np.random.Generator
Right = Callable[[Arrays, np.ndarray], tuple]
Also = Callable[[Right, Arrays, np.ndarray, tuple], Sequence[tuple]]

inf, nan = np.inf, np.nan


def nothing_else(answer: Right, point: Arrays, dout: np.ndarray, right: tuple) -> Sequence[tuple]:
    """No other answer is right."""
    return ()


@dataclass(frozen=True)
class Hard:
    """One hard input of a formula.

    Attributes:
        name: what is hard about the input.
        says: the right answer, and why it is right.
        draw: the primals by name, in order, in float64, with ``dout`` among them if the case needs its own.
        jax: the obvious forward functions by name; None stands for the entry's reference.
        differs: the names of those whose value or derivative by JAX is not the right answer.
        why: why JAX's answer differs there.
        right: computes the right answer from the primals, exactly as the formula gets them, and the
            cotangent: the value, then one gradient for each floating-point primal. By default, the
            definition's.
        digits: the number of digits to which the definition is evaluated.
        lost: the samples that have no answer, as after a NaN: an input, and an index into it.
        also: from the definition's answer as a function, the primals, the cotangent and the right answer,
            computes further right answers, entry by entry, such as those of a device that
            flushes subnormal numbers to 0.
        dtype: the dtype of the floating-point primals.
        show: the answer that a table shows, and its rows.
        settings: the formula's keyword arguments.
        entrywise: whether the error of each entry is relative to that entry, not to its array's largest.
        tolerance: the largest relative error allowed, if it is not the dtype's.
    """

    name: str
    says: str
    draw: Callable[[Rng], Arrays]
    jax: Mapping[str, Callable | None] = field(default_factory=dict)
    differs: tuple[str, ...] = ()
    why: str = ""
    right: Right | None = None
    digits: int = 60
    lost: tuple[str, tuple] | None = None
    also: Also = nothing_else
    dtype: str = "float64"
    show: tuple[str, Any] = ("", slice(None))
    settings: Arrays = field(default_factory=dict)
    entrywise: bool = False
    tolerance: float | None = None


# ------------------------------------------------------------------------------------ what else is right


def flushed(dtype: str) -> Also:
    """Also right: the answer where numbers below the dtype's smallest normal one are 0."""
    tiny = float(jnp.finfo(dtype).tiny)

    def flush(leaf: np.ndarray) -> np.ndarray:
        return np.where(abs(leaf) < tiny, 0.0, leaf) if leaf.dtype.kind == "f" else leaf

    return lambda answer, point, dout, _: [answer({n: flush(leaf) for n, leaf in point.items()}, dout)]


def each_limit(answer: Right, point: Arrays, dout: np.ndarray, right: tuple) -> Sequence[tuple]:
    """Also right: the limit of an entry that has one, in a sample that has none."""
    return [answer(point, dout)]


def left_out(batch: tuple[str, ...], row: int) -> Also:
    """Also right: parameters' gradients that are NaN, or that omit the sample whose ReLUs are at NaN."""

    def also(answer: Right, point: Arrays, dout: np.ndarray, right: tuple) -> list[tuple]:
        names = [name for name in point if name != "y"]
        N = len(point[batch[0]])
        others = point | {name: np.delete(point[name], row, axis=0) for name in batch}
        rest = answer(others, dout * (N - 1) / N)[1:]
        left_out, spoilt = [], []
        for name, slope, without in zip(names, right[1:], rest, strict=True):
            in_batch = name in batch
            left_out.append(np.insert(without, row, 0, axis=0) if in_batch else without)
            spoilt.append(slope if in_batch else jax.tree.map(lambda leaf: np.full(leaf.shape, nan), slope))
        return [(right[0], *left_out), (right[0], *spoilt)]

    return also


def rounded(values: Any) -> np.ndarray:
    """Numbers with more digits converted to float64; those beyond its range become infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float64)


# ------------------------------------------------------------------------------------ how they are drawn


def soft(rng: Rng, N: int, K: int) -> np.ndarray:
    """Labels that are a distribution without zeros."""
    return rng.dirichlet(np.full(K, 3.0), N)


def with_nan(X: np.ndarray, *place: int) -> np.ndarray:
    """X with a single NaN."""
    X[place] = nan
    return X


def transposed(rows: Arrays) -> Arrays:
    """Every array transposed: one sample per column."""
    return {name: value.T for name, value in rows.items()}


# ------------------------------------------------------------------------------------ what JAX is given


def log_softmax_at(logits: Any, labels: Any) -> Any:
    """The loss for integer labels by ``jax.nn.log_softmax``."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


NAIVE = ("exp/Σexp", "−Σ y ln(exp/Σexp)", "−ln(exp/Σexp)[y]")
STABLE = ("jax.nn.softmax", "−Σ y jax.nn.log_softmax", "−jax.nn.log_softmax[y]")
