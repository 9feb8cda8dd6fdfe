"""The oracles: the derivatives of `fn(*primals)` by JAX, in reverse and in forward mode.

Only floating-point primals are differentiated. A primal with a leaf of any other type (integer labels, a
Python int) is passed to `fn` unchanged and has no entry in the result, so each result has one entry for each
floating-point primal, in order. Primals and outputs may be pytrees; every output must be floating-point.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree


def reverse(fn: Callable, primals: tuple, dout: PyTree) -> tuple:
    """The cotangents Jᵀ dout by reverse mode, `jax.vjp`: each has the shape of its primal."""
    fn, primals = _floating_only(fn, primals)
    out, pullback = jax.vjp(fn, *primals)
    return pullback(_like(out, dout))


def forward(fn: Callable, primals: tuple, dout: PyTree, batch_size: int = 256) -> tuple:
    """The same cotangents by forward mode alone: entry k is ⟨dout, J e_k⟩, by `jax.jvp` on each basis vector.

    No transposition rule is involved. It costs one forward pass per entry, at most `batch_size` at a time.
    """
    fn, primals = _floating_only(fn, primals)
    vector, unravel = ravel_pytree(primals)
    batches = max(1, math.ceil(vector.size / batch_size))
    size = math.ceil(vector.size / batches)  # of a batch; as all are equally large, JAX traces `fn` once

    def entry(k: Array) -> Array:
        basis = jnp.zeros_like(vector).at[k].set(1)  # all 0 beyond the last entry
        return _along(fn, primals, dout, unravel(basis))

    entries = jax.lax.map(jax.vmap(entry), jnp.arange(batches * size).reshape(batches, size))
    return unravel(entries.ravel()[: vector.size].astype(vector.dtype))


def forward_projections(
    fn: Callable, primals: tuple, dout: PyTree, directions: tuple, batch_size: int = 64
) -> Array:
    """⟨dout, J v⟩ for each direction v, by `jax.jvp`: one forward pass tests many entries at once.

    `directions` is structured like the floating-point primals; each leaf has a leading axis over directions.
    """
    fn, primals = _floating_only(fn, primals)

    def projection(v: tuple) -> Array:
        return _along(fn, primals, dout, _like(primals, v))

    return jax.lax.map(projection, jax.tree.map(jnp.asarray, directions), batch_size=batch_size)


def jacobian_reverse(fn: Callable, primals: tuple) -> tuple:
    """The Jacobian for each primal by `jax.jacrev`: leaves of shape out.shape + primal.shape."""
    fn, primals = _floating_only(fn, primals)
    return jax.jacrev(fn, argnums=tuple(range(len(primals))))(*primals)


def jacobian_forward(fn: Callable, primals: tuple) -> tuple:
    """The Jacobian for each primal by `jax.jacfwd`: leaves of shape out.shape + primal.shape."""
    fn, primals = _floating_only(fn, primals)
    return jax.jacfwd(fn, argnums=tuple(range(len(primals))))(*primals)


def _floating_only(fn: Callable, primals: tuple) -> tuple[Callable, tuple]:
    """`fn` as a function of its floating-point primals alone, and those primals as JAX arrays."""
    floating = [
        all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(primal))
        for primal in primals
    ]

    def fn_of_floating(*values: PyTree) -> PyTree:
        remaining = iter(values)
        pairs = zip(floating, primals, strict=True)
        return fn(*(next(remaining) if differentiated else fixed for differentiated, fixed in pairs))

    kept = (primal for differentiated, primal in zip(floating, primals, strict=True) if differentiated)
    return fn_of_floating, tuple(jax.tree.map(jnp.asarray, primal) for primal in kept)


def _like(target: PyTree, value: PyTree) -> PyTree:
    """`value` in the dtypes of `target`; a different shape raises an error and is never broadcast."""

    def leaf_like(wanted: Array | jax.ShapeDtypeStruct, leaf: Array) -> Array:
        if wanted.shape != jnp.shape(leaf):
            raise ValueError(f"expected shape {wanted.shape}, got {jnp.shape(leaf)}")
        return jnp.asarray(leaf, wanted.dtype)

    return jax.tree.map(leaf_like, target, value)


def _along(fn: Callable, primals: tuple, dout: PyTree, v: tuple) -> Array:
    """⟨dout, J v⟩ summed over all leaves."""
    out, tangent = jax.jvp(fn, primals, v)
    products = jax.tree.map(lambda weight, leaf: jnp.sum(weight * leaf), _like(out, dout), tangent)
    return jnp.stack(jax.tree.leaves(products)).sum()
