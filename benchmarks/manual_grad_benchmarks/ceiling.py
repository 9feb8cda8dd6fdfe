"""The machine's ceiling, measured in the same run: a matrix product for flops, a copy for bytes.

A computation of F flops that must read and write B bytes takes no less than max(F / product, B / copy): the
roofline. The copy is measured at several sizes, as small arrays stay in a cache.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad_benchmarks.timing import FULL, QUICK, interleaved

PRODUCTS = ((1024, 1024, 1024), (2048, 2048, 2048))
COPIES = (1 << 14, 1 << 17, 1 << 20, 1 << 23, 1 << 26)  # bytes read, as many written


@dataclass(frozen=True)
class Ceiling:
    """The performance limits of the machine.

    Attributes:
        flops: operations per second of the fastest matrix product.
        copies: (bytes read and written, bytes per second) for each copy.
        dispatch: the seconds taken by a call that computes almost nothing.
    """

    flops: float
    copies: tuple[tuple[float, float], ...]
    dispatch: float

    def bytes_per_second(self, size: float) -> float:
        """The bandwidth of a copy of ``size`` bytes, interpolated on a logarithmic scale."""
        sizes, speeds = zip(*self.copies, strict=True)
        return float(np.interp(np.log(max(size, 1)), np.log(sizes), speeds))

    def least_seconds(self, flops: float, moved: float) -> float:
        """The least time that this machine can take: the larger of the two bounds."""
        return max(flops / self.flops, moved / self.bytes_per_second(moved))


def measured(dtype: Any, quick: bool, rng: np.random.Generator) -> Ceiling:
    """Time products and copies on the default device."""
    pace = QUICK if quick else FULL
    sides: dict[str, Any] = {}
    for n, k, m in PRODUCTS[: 1 if quick else None]:
        A, B = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((n, k), (k, m)))
        sides[f"product {2 * n * k * m}"] = _side(jnp.matmul, A, B)
    for size in COPIES:
        x = jnp.asarray(rng.standard_normal(size // jnp.dtype(dtype).itemsize), dtype)
        sides[f"copy {2 * size}"] = _side(jnp.negative, x)
    sides["dispatch 0"] = _side(jnp.negative, jnp.zeros((), dtype))
    medians = {name: float(np.median(t)) for name, t in interleaved(sides, pace, rng).items()}
    speeds = {name: int(name.split()[1]) / t for name, t in medians.items()}
    return Ceiling(
        max(speed for name, speed in speeds.items() if name.startswith("product")),
        tuple((int(name.split()[1]), speed) for name, speed in speeds.items() if name.startswith("copy")),
        medians["dispatch 0"],
    )


def higher(one: Ceiling, other: Ceiling) -> Ceiling:
    """The better of two measurements, as other work on the machine can only lower one.

    >>> higher(Ceiling(1.0, ((8, 4.0),), 2e-5), Ceiling(2.0, ((8, 3.0),), 1e-5))
    Ceiling(flops=2.0, copies=((8, 4.0),), dispatch=1e-05)
    """
    copies = tuple((size, max(a, b)) for (size, a), (_, b) in zip(one.copies, other.copies, strict=True))
    return Ceiling(max(one.flops, other.flops), copies, min(one.dispatch, other.dispatch))


def _side(fn: Any, *args: Any) -> list[Any]:
    jitted = jax.jit(fn)
    jax.block_until_ready(jitted(*args))
    return [lambda: jitted(*args)]
