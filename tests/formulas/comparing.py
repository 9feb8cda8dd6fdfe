"""How results are compared in these tests, and the two sides."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.compiling import quickly
from manual_grad_reference.oracles.in_numpy import in_numpy

from .scenarios import drawn, in_float64, is_float

EXACT = 1e-12  # relative to the largest entry of the array, in float64


def assert_same(got, want, tolerance=EXACT):
    """Structure, shapes and dtypes first; then each array's largest error against its largest entry."""
    structures = jax.tree.structure(got), jax.tree.structure(want)
    assert structures[0] == structures[1], f"structures {structures}"
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))
    shapes = [(jnp.shape(g), jnp.shape(w)) for g, w in pairs]
    assert all(g == w for g, w in shapes), f"shapes {shapes}"
    dtypes = [(g.dtype, w.dtype) for g, w in pairs]
    assert all(g == w for g, w in dtypes), f"dtypes {dtypes}"
    errors = [error(g, w) for g, w in pairs]
    assert max(errors) <= tolerance, f"relative errors {errors}"


def error(got, want):
    """The largest difference over the largest entry of ``want``; infinite at a NaN."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    largest = np.abs(want).max()
    return np.nan_to_num(np.abs(got - want).max() / (largest or 1), nan=np.inf)


@functools.cache
def by_hand(scenario):
    """(primals, dout) -> (value, cotangents); float64 in NumPy, which the tests of the claims compile."""
    return in_numpy(functools.partial(run_by_hand, scenario), jax.jit)


def run_by_hand(scenario, primals, dout):
    out, res = scenario.fwd(*primals)
    return out, scenario.bwd(res, dout)


def by_jax(scenario):
    """(primals, dout, tangents) -> (value, cotangents), J v of the reference: ``jax.vjp``, ``jax.jvp``."""
    settings = scenario.entry.for_reference(scenario.settings)
    return _by_jax(scenario.entry.reference, tuple(settings.items()))


@functools.cache
def _by_jax(reference, settings):
    """JAX's derivatives, computed by NumPy; traced once where formulas share a reference."""

    def run(primals, dout, tangents):
        fn, floats = of_floats(functools.partial(reference, **dict(settings)), primals)
        out, pullback = jax.vjp(fn, *floats)
        return (out, pullback(dout)), jax.jvp(fn, floats, tangents)[1]

    return quickly(run)


def of_floats(fn, primals):
    """``fn`` as a function of its floating-point arguments, and those."""
    places = [i for i, primal in enumerate(primals) if is_float(primal)]

    def fn_of_floats(*floats):
        values = list(primals)
        for place, value in zip(places, floats, strict=True):
            values[place] = value
        return fn(*values)

    return fn_of_floats, tuple(primals[i] for i in places)


def floats_of(primals):
    return tuple(primal for primal in primals if is_float(primal))


def inner(left, right):
    """⟨left, right⟩ over all their arrays."""
    return sum((a * b).sum() for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


def truth(scenario, primals, dout):
    """(value, cotangents) by ``jax.vjp`` in float64, at the same rounded inputs."""
    primals, dout = jax.tree.map(in_float64, (primals, dout))
    return by_jax(scenario)(primals, dout, floats_of(primals))[0]


def check(scenario, primals=None, dout=None, seed=0):
    """Compare value and cotangents of a pair with the reference and its ``jax.vjp``, in float64."""
    if primals is None:
        primals, dout = drawn(scenario, seed)
    got = by_hand(scenario)(primals, dout)
    want = truth(scenario, primals, dout)
    assert_same(got[0], want[0])
    assert_same(got[1], want[1])
