"""What "the same" means in these tests, and the two sides that are compared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .scenarios import in_float64, is_float, normal

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
    """(primals, dout) -> (value, cotangents), compiled."""
    return jax.jit(functools.partial(run_by_hand, scenario))


def run_by_hand(scenario, primals, dout):
    out, res = scenario.fwd(*primals, **dict(scenario.settings))
    return out, scenario.bwd(res, dout)


@functools.cache
def by_jax(scenario):
    """(primals, dout) -> (value, cotangents) of the reference by ``jax.vjp``, compiled."""

    def run(primals, dout):
        fn, floats = of_floats(scenario.reference, primals, scenario.settings)
        out, pullback = jax.vjp(fn, *floats)
        return out, pullback(dout)

    return jax.jit(run)


def of_floats(fn, primals, settings=()):
    """``fn`` as a function of its floating-point arguments, and those."""
    places = [i for i, primal in enumerate(primals) if is_float(primal)]

    def fn_of_floats(*floats):
        values = list(primals)
        for place, value in zip(places, floats, strict=True):
            values[place] = value
        return fn(*values, **dict(settings))

    return fn_of_floats, tuple(primals[i] for i in places)


def random_like(tree, seed):
    """Gaussian arrays in the shapes and dtypes of ``tree``."""
    rng = np.random.default_rng([seed, 99])
    return jax.tree.map(lambda leaf: normal(rng, leaf.dtype, *leaf.shape), tree)


def cotangent(scenario, primals, seed):
    """A random cotangent of the output; one of ones would hide mistakes (softmax has the gradient 0)."""
    fn = functools.partial(scenario.reference, **dict(scenario.settings))
    return random_like(jax.eval_shape(fn, *primals), seed)


def check(scenario, primals, seed):
    """Hold value and cotangents of a pair against the reference and its ``jax.vjp``, in float64."""
    primals = jax.tree.map(in_float64, primals)
    dout = cotangent(scenario, primals, seed)
    (out, grads), (want_out, want_grads) = by_hand(scenario)(primals, dout), by_jax(scenario)(primals, dout)
    assert_same(out, want_out)
    assert_same(grads, want_grads)
