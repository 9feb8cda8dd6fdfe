"""The cases of an entry's golden vectors: inputs exactly at a kink, equal maxima, the ends of the range.

Each is the case ``random``, which is the entry's own draw, with some of the numbers changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.catalogue.draw import Draw

Inputs = dict[str, Any]

SHIFT = {"float64": 500, "float32": 100, "bfloat16": 100, "float16": 6}  # powers of two: X times, W over
SQUARED = {"float64": 500, "float32": 60, "bfloat16": 60, "float16": 3}  # the same for squared inputs

RANDOM = "Gaussian inputs, scaled so that the signal keeps its size; ReLUs stay clear of their kink."
RELU_TIES = (
    "Some entries given to ReLU are exactly 0 or −0.0, in every dtype and in any order of summation: {}. "
    "ReLU has no derivative there; the lectures' convention, which is PyTorch's and jax.nn.relu's, is "
    "ReLU′(0) = ReLU′(−0.0) = 0, so nothing flows back through them. A mask with ≥ in place of > lets the "
    "cotangent through, jnp.maximum(x, 0) half of it; both are wrong here."
)
UNITS = "in each layer before a ReLU the first two units have weights 0 and the biases 0 and −0.0"
EQUAL_LOGITS = (
    "Equal logits (the first sample), two equal maxima (the second), 0 beside −0.0 (the third); with a "
    "single sample, two equal maxima. Softmax is smooth, so there is nothing to choose: p is equal where the "
    "logits are. What is subtracted for safety must cancel in the gradient, whichever maximum it was."
)
EXTREME_LOGITS = (
    "Logits of ±10⁴ with the label on one of the small ones (the first sample), of 10⁴ all equal, of ± the "
    "dtype's largest number over 64, of the size of its smallest, and scattered around 10⁴ (with a single "
    "sample, the first kind). The right answer is finite: p = e^(l − max) / Σ e^(l − max), and −log p = "
    "log Σ e^(l − max) − (l − max). exp over sum as printed overflows to NaN, and log(softmax) gives ∞; the "
    "truth is computed by the shifted forms in reference/stable.py."
)
SHIFTED = (
    "{} times 2^k and {} times 2^−k, with k = 500 in float64, 100 in float32 and bfloat16, 6 in float16. "
    "Their products are those of the case random, and so is the output; the first gradient is 2^−k and the "
    "other 2^k times what it is there. All of it is within the dtype's range."
)
EXTREME_NUMBERS = (
    "± the dtype's largest number over 4, ±10⁴, ±700 and ±50 (where e^x overflows or vanishes), its "
    "smallest normal and subnormal numbers, and ordinary ones. (No subnormal ones in float64, as the "
    "truth is float64 too, nor for ReLU: a processor that flushes them to 0 is at its kink there.) The "
    "right answers are the limits, finite everywhere"
)


@dataclass(frozen=True)
class Changed:
    """One way to change the inputs of the case ``random``.

    Attributes:
        inputs: ``inputs(draw, random)`` returns all inputs by name.
        says: what is special about them, and the right answer.
    """

    inputs: Callable[[Draw, Inputs], Inputs]
    says: str


@dataclass(frozen=True)
class GoldenCases:
    """The golden vectors of an entry.

    Attributes:
        random: a description of the entry's own draw.
        ties: inputs exactly at a kink, or equal maxima.
        extreme: the ends of the dtype's range, as long as the right answer is finite.
        variants: the variants of the entry to export; by default all.
    """

    random: str = "Gaussian inputs."
    ties: Changed | None = None
    extreme: Changed | None = None
    variants: tuple[str, ...] = ()

    def says(self, case: str) -> str:
        """A description of a case."""
        told = getattr(self, case)
        return told if isinstance(told, str) else told.says


# ------------------------------------------------------------------------------------------ the numbers


def put(values: Any, draw: Draw) -> jax.Array:
    """Numbers in the dtype, converted by NumPy, as XLA may flush subnormal ones."""
    return jnp.asarray(np.asarray(values, np.float64).astype(jnp.dtype(draw.dtype)))


def times_two_to(power: Any, array: jax.Array, draw: Draw) -> jax.Array:
    """``array`` times a power of two, or a power for each entry."""
    return put(np.ldexp(np.asarray(array, np.float64), power), draw)


def smallest_normal(draw: Draw) -> float:
    """The dtype's smallest normal number."""
    return float(jnp.finfo(draw.dtype).tiny)


def _largest(draw: Draw) -> float:
    return float(jnp.finfo(draw.dtype).max)


def _smallest(draw: Draw) -> float:
    """The dtype's smallest number; for float64, the truth's own dtype, the smallest normal one."""
    info = jnp.finfo(draw.dtype)
    return float(info.tiny if jnp.dtype(draw.dtype) == jnp.float64 else info.smallest_subnormal)


# ------------------------------------------------------------------------------------------ activations


def elementwise(more: str = ".", subnormal: bool = True) -> GoldenCases:
    """An activation's cases; ``more`` is added to the description of its extreme numbers."""

    def extreme(draw: Draw, inputs: Inputs) -> Inputs:
        smallest = 3 * (_smallest(draw) if subnormal else smallest_normal(draw))
        ends = [1e4, _largest(draw) / 4, smallest_normal(draw), smallest, 20.0, 50.0, 700.0, 0.5, 1.0, 3.0]
        mixed = draw.rng.permutation([*ends, *(-n for n in ends)])
        return {"x": put(mixed.reshape(inputs["x"].shape), draw)}

    return GoldenCases("Gaussian entries.", extreme=Changed(extreme, EXTREME_NUMBERS + more))


# ------------------------------------------------------------------------------------------ logits


def of_logits(columns: bool = False, more: str = "") -> GoldenCases:
    """The cases of a function of logits, and of labels if any; ``more`` is added to the description."""

    def tied(draw: Draw, inputs: Inputs) -> Inputs:
        name = next(iter(inputs))
        N, K = _samples(inputs[name], columns)
        logits = np.minimum(draw.rng.standard_normal((N, K)), 2)
        logits[0] = 1.5
        logits[1, [1, K - 2]] = 3
        logits[2] = np.where(np.arange(K) % 2, -0.0, 0.0)
        return inputs | {name: _as(inputs[name], logits, 1, columns, draw)}

    def extreme(draw: Draw, inputs: Inputs) -> Inputs:
        name, *others = inputs
        N, K = _samples(inputs[name], columns)
        logits, labels = draw.rng.standard_normal((N, K)), draw.rng.integers(0, K, N)
        logits[0], logits[0, 2], labels[0] = -1e4, 1e4, 4
        logits[1] = 1e4
        logits[2], logits[2, 3], labels[2] = -_largest(draw) / 64, _largest(draw) / 64, 3
        logits[3] = _smallest(draw) * np.where(np.arange(K) % 2, -3, 5)
        logits[4:] = 1e4 + 100 * logits[4:]
        changed = {name: _as(inputs[name], logits, 0, columns, draw)}
        for of in (name for name in others if name != "ignore_index"):
            integers = inputs[of].dtype.kind == "i"
            many = jnp.asarray(labels if inputs[of].ndim else labels[0])
            if "ignore_index" in inputs:
                many = jnp.where(inputs[of] == inputs["ignore_index"], inputs[of], many)
            changed[of] = many if integers else _as(inputs[of], np.eye(K)[labels], 0, columns, draw)
        return inputs | changed

    return GoldenCases(
        "Gaussian logits; labels positive, of any sum, where they are not integers.",
        Changed(tied, EQUAL_LOGITS),
        Changed(extreme, EXTREME_LOGITS + more),
    )


def _samples(logits: jax.Array, columns: bool) -> tuple[int, int]:
    """The number of samples and classes to draw: a batch, even if only one sample of it is used."""
    K = logits.shape[0 if columns else -1]
    return (logits.size // K if logits.ndim > 1 else 5), K


def _as(like: jax.Array, batch: np.ndarray, sample: int, columns: bool, draw: Draw) -> jax.Array:
    """A batch of rows converted to the layout of ``like``, or one of its samples."""
    return put(batch[sample] if like.ndim == 1 else batch.T if columns else batch, draw)


# ------------------------------------------------------------------------------------------ layers, networks


def shifted(up: str, down: str, keys: tuple = (), says: str = "") -> Changed:
    """One input multiplied by 2^k and another, or its entry at ``keys``, by 2^−k."""

    def inputs(draw: Draw, random: Inputs) -> Inputs:
        k = SHIFT[jnp.dtype(draw.dtype).name]
        lowered = _at(random[down], keys, lambda W: times_two_to(-k, W, draw))
        return random | {up: times_two_to(k, random[up], draw), down: lowered}

    return Changed(inputs, SHIFTED.format(up, says or down))


def products(up: str, down: str, random: str = "Gaussian inputs.") -> GoldenCases:
    """The cases of a function that is linear in two factors."""
    return GoldenCases(random, extreme=shifted(up, down))


def network(
    tied: Callable[[Draw, Inputs], Inputs], up: str, down: str, keys: tuple = (), random: str = RANDOM
) -> GoldenCases:
    """The cases of a network: dead units, and extreme inputs balanced by the first layer's weights."""
    first = f"the first layer's {'kernel' if keys == ('K1',) else 'W'}"
    return GoldenCases(random, Changed(tied, RELU_TIES.format(UNITS)), shifted(up, down, keys, first))


def tied_units(W: jax.Array, b: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """A layer whose first two units are exactly at ReLU's kink; ``axis`` of W counts the units."""
    W = jnp.moveaxis(jnp.moveaxis(W, axis, 0).at[:2].set(0), 0, axis)
    return W, b.at[0].set(0).at[1].set(-0.0)


def tied_layers(rows: bool, last: bool = False) -> Callable[[Draw, Inputs], Inputs]:
    """The layers in ``params`` at ReLU's kink, including the last one if ``last``."""

    def tied(draw: Draw, inputs: Inputs) -> Inputs:
        layers = inputs["params"]
        before = layers if last else layers[:-1]
        dead = [tied_units(W, b, 1 if rows else 0) for W, b in before]
        return inputs | {"params": [*dead, *layers[len(before) :]]}

    return tied


def tied_layer(W: str, b: str, axis: int) -> Callable[[Draw, Inputs], Inputs]:
    """One layer's arrays at ReLU's kink."""

    def tied(draw: Draw, inputs: Inputs) -> Inputs:
        return inputs | dict(zip((W, b), tied_units(inputs[W], inputs[b], axis), strict=True))

    return tied


def _at(tree: Any, keys: tuple, change: Callable[[Any], Any]) -> Any:
    """``tree`` with its entry at ``keys`` changed."""
    if not keys:
        return change(tree)
    changed = _at(tree[keys[0]], keys[1:], change)
    if isinstance(tree, dict):
        return {**tree, keys[0]: changed}
    return type(tree)(changed if i == keys[0] else entry for i, entry in enumerate(tree))
