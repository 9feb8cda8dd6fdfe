"""A block of samples at a time: what memory needs and the mathematics does not.

A CPU's compiler stores what two sums over different axes share, such as dy ⊙ x, as an array of the size of x.
In a loop over blocks that array is as large as one block, and stays in the cache.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

PARTS, ROWS = 8, 64  # a block has this many rows of each part; the parts may be sharded
LARGE = 2**20  # numbers in an array, from which the loop pays


def in_blocks(fn: Callable[..., Any], samples: tuple[Array, ...], shared: tuple[Any, ...]) -> Any:
    """``fn(*samples, *shared)``: one result per sample, then sums over the samples; on a CPU in blocks.

    Args:
        fn: a function of the module, so that an eager call compiles it only once.
        samples: arrays (…, D) and (…, 1) with the same samples, the first of them (…, D).
        shared: what all samples share.

    >>> x = jnp.ones((1024, 1024))
    >>> [a.shape for a in in_blocks(lambda x, c: (c * x, x.sum(axis=0)), (x,), (2.0,))]
    [(1024, 1024), (1024,)]
    """
    x = samples[0]
    small = x.size < LARGE or x.size // x.shape[-1] % (PARTS * ROWS)
    if small or any(
        any(jax.typeof(a).sharding.spec) for a in samples
    ):  # a loop over axes sharded explicitly is refused by JAX
        return fn(*samples, *shared)
    return _chosen(fn, samples, shared)


@partial(jax.jit, static_argnums=0)
def _chosen(fn: Callable[..., Any], samples: tuple[Array, ...], shared: tuple[Any, ...]) -> Any:
    whole = partial(_whole, fn)
    return lax.platform_dependent(samples, shared, cpu=partial(_looped, fn), default=whole)


def _whole(fn: Callable[..., Any], samples: tuple[Array, ...], shared: tuple[Any, ...]) -> Any:
    return fn(*samples, *shared)


def _looped(fn: Callable[..., Any], samples: tuple[Array, ...], shared: tuple[Any, ...]) -> Any:
    """Block i has rows i · ROWS to (i + 1) · ROWS of every part."""
    parts = [a.reshape(PARTS, -1, ROWS, a.shape[-1]) for a in samples]

    def of_block(i: Array | int) -> Any:
        blocks = (lax.dynamic_index_in_dim(a, i, 1, keepdims=False) for a in parts)
        return fn(*(block.reshape(PARTS * ROWS, -1) for block in blocks), *shared)

    def step(i: Array, so_far: tuple[Array, Any]) -> tuple[Array, Any]:
        out, sums = so_far
        of_samples, *of_sums = of_block(i)
        out = lax.dynamic_update_index_in_dim(out, of_samples.reshape(PARTS, ROWS, -1), i, 1)
        return out, [total + more for total, more in zip(sums, of_sums, strict=True)]

    like, *like_sums = jax.eval_shape(of_block, 0)
    out = jnp.zeros_like(parts[0], like.dtype, shape=(*parts[0].shape[:-1], like.shape[-1]))
    sums = [jnp.zeros_like(parts[0], s.dtype, shape=s.shape) for s in like_sums]
    out, sums = lax.fori_loop(0, parts[0].shape[1], step, (out, sums))
    return out.reshape(*samples[0].shape[:-1], -1), *sums
