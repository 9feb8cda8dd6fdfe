"""Draw inputs of formulas: real, integer, tiny, or square and symmetric as in careless tests."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Style = Literal["real", "integers", "tiny", "square"]


@dataclass(frozen=True)
class Draw:
    """Random inputs of one dtype from one generator; every claim draws its own, so order does not matter.

    Attributes:
        rng, dtype: the generator and the dtype of the entries.
        style: ``real``; ``integers``, on which sums and products are exact, with a batch of 8 in place of 7,
            so that a mean divides by a power of two; ``tiny``, odd sixteenths in arrays with at most three
            entries per axis, for oracles that are slow per entry; ``square``, with every axis of the same
            length and matrices symmetric, as in careless tests.
        among: for integers, the size of the set from which they are drawn uniformly.
        symmetric: in the style ``square``, whether matrices are symmetric.
        clear: whether to keep clear of ReLU's kinks, which takes time if there are many samples.
        as_it_is: whether requested shapes already are those of this style.

    >>> draw = Draw(np.random.default_rng(0), jnp.float32)
    >>> draw.normal(2, 3).shape, draw.labels(4, 3).dtype.kind, float(draw.distribution(1, 5).sum())
    ((2, 3), 'i', 1.0)
    >>> Draw(np.random.default_rng(0), jnp.float32, "integers", 8).normal(3).tolist()
    [2.0, 1.0, 0.0]
    """

    rng: np.random.Generator
    dtype: Any = jnp.float64
    style: Style = "real"
    among: int = 2
    symmetric: bool = True
    clear: bool = True
    as_it_is: bool = False

    def size(self, n: int) -> int:
        """The length in this style of an axis that has length ``n`` in real inputs."""
        if self.as_it_is:
            return n
        if self.style == "integers":
            return 8 if n == 7 else n
        if self.style == "tiny":
            return 2 if n in (4, 5, 7) else min(n, 3)
        if self.style == "square":
            return 1 if n == 1 else 4
        return n

    def normal(self, *shape: int, scale: float = 1.0) -> jax.Array:
        """Gaussian entries with standard deviation ``scale``; other styles have their own entries."""
        return self.exactly(*map(self.size, shape), scale=scale)

    def exactly(self, *shape: int, scale: float = 1.0) -> jax.Array:
        """Like :meth:`normal`, but with exactly this shape in every style."""
        if self.style == "integers":
            return self._array(self.rng.integers(-self.among // 2, self.among // 2, shape))
        if self.style == "tiny":
            return self._array((2 * self.rng.integers(-12, 12, shape) + 1) / 16)
        entries = scale * self.rng.standard_normal(shape)
        symmetric = self.style == "square" and self.symmetric
        return self._array(_symmetric(entries) if symmetric else entries)

    def positive(self, *shape: int) -> jax.Array:
        """Entries between ½ and 2 with any sum; for integers, from 1 upwards."""
        shape = tuple(map(self.size, shape))
        if self.style == "integers":
            return self._array(self.rng.integers(1, self.among + 1, shape))
        if self.style == "tiny":
            return self._array(self.rng.integers(8, 33, shape) / 16)
        return self._array(self.rng.uniform(0.5, 2.0, shape))

    def distribution(self, *shape: int) -> jax.Array:
        """Positive entries whose last axis sums to 1."""
        raw = self.rng.uniform(0.2, 1.0, tuple(map(self.size, shape)))
        return self._array(raw / raw.sum(axis=-1, keepdims=True))

    def labels(self, N: int, K: int) -> jax.Array:
        """N integer labels from 0 to K − 1."""
        return self.integers(K, N)

    def labels_ignored(self, N: int, K: int, ignore_index: int | None) -> jax.Array:
        """Labels; the second, fifth and seventh are ignored, so that a whole chunk may be ignored."""
        labels = np.array(self.labels(N, K))
        if ignore_index is not None:
            labels[labels == ignore_index] = 0
            labels[[n for n in (1, 4, 6) if n < len(labels)]] = ignore_index
        return jax.device_put(labels)

    def integers(self, K: int, *shape: int) -> jax.Array:
        """Integers from 0 to K − 1."""
        return jax.device_put(self.rng.integers(0, self.size(K), tuple(map(self.size, shape))))

    def one_hot(self, N: int, K: int) -> jax.Array:
        """N one-hot rows."""
        N, K = self.size(N), self.size(K)
        return self._array(np.eye(K)[self.rng.integers(0, K, N)])

    def layers(
        self, *widths: int, rows: bool, X: jax.Array | np.ndarray | None = None
    ) -> list[tuple[jax.Array, jax.Array]]:
        """Pairs (W, b) from width to width, W scaled so that the signal keeps its size.

        Given the inputs X, one sample per row or per column, each bias puts ReLU's kink into the widest gap
        between its unit's pre-activations, or away from that of a single sample, so that rounding moves none
        of them across it.
        """
        if self.style != "real" or not self.clear:
            X = None  # nothing rounds, or rounding does no harm
        A = np.zeros((1, self.size(widths[0]))) if X is None else np.asarray(X, np.float64)
        A = A if rows or X is None else A.T
        pairs = []
        for fan_in, fan_out in itertools.pairwise(widths):
            W = self.normal(fan_in, fan_out, scale=(2 / fan_in) ** 0.5)
            Z = A @ np.asarray(W, np.float64)
            if X is None:
                b = self.normal(fan_out, scale=0.3)
            elif len(A) > 1:
                b = self._array(-_widest_gap(Z))
            else:
                b = self._array(np.where(Z >= 0, 1, -1)[0] * self.rng.uniform(0.3, 0.6, fan_out))
            A = np.maximum(Z + np.asarray(b, np.float64), 0)
            pairs.append((W if rows else self._array(np.asarray(W).T), b))
        return pairs

    def like(self, tree: Any) -> Any:
        """A random cotangent: an array of the same shape for each array of ``tree``."""
        return jax.tree.map(lambda leaf: self.exactly(*leaf.shape), tree)

    def _array(self, entries: Any) -> jax.Array:
        """Round in NumPy and copy to JAX, which would otherwise compile a program for each shape."""
        return jax.device_put(np.asarray(entries).astype(self.dtype))


def _widest_gap(Z: np.ndarray) -> np.ndarray:
    """For each column, the middle of the widest gap between its entries."""
    ordered = np.sort(Z, axis=0)
    gaps = np.diff(ordered, axis=0)
    k, column = gaps.argmax(axis=0), np.arange(Z.shape[1])
    return (ordered[k, column] + ordered[k + 1, column]) / 2


def _symmetric(entries: np.ndarray) -> np.ndarray:
    """Make matrices equal to their transpose and their rotation by 180°; kernels, in their first two axes.

    >>> matrix = _symmetric(np.arange(9.0).reshape(3, 3) ** 2)
    >>> bool((matrix == matrix.T).all()), bool((matrix == matrix[::-1, ::-1]).all())
    (True, True)
    """
    axes = (0, 1) if entries.ndim == 4 else (-2, -1)
    if entries.ndim < 2 or entries.shape[axes[0]] != entries.shape[axes[1]]:
        return entries
    upright = (entries + entries.swapaxes(*axes)) / 2
    return (upright + np.flip(upright, axes)) / 2


def differentiable(value: Any) -> bool:
    """Whether ``value`` is an array, or a pytree of arrays, of floating-point numbers.

    >>> [differentiable(v) for v in (jnp.ones(2), [(jnp.ones(2),)], jnp.arange(2), "SAME", 2)]
    [True, True, False, False, False]
    """
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(jnp.issubdtype(getattr(v, "dtype", int), jnp.floating) for v in leaves)
