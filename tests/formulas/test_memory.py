"""What is stored besides arguments and results, and norms in blocks compared with the same in one piece."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.catalogue.normalisation import LAYER_NORM, RMS_NORM
from manual_grad.formulas import blocks

SHAPE = (2, 1024, 512)  # just large enough to be computed in blocks: 4 of 8 × 64 rows
each_norm = pytest.mark.parametrize("norm", [LAYER_NORM, RMS_NORM], ids=lambda norm: norm.name)


def drawn(norm, dtype, shape=SHAPE):
    rng = np.random.default_rng(3)
    x, dy = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))
    return dy, x, *(jnp.asarray(rng.normal(size=shape[-1]), dtype) for _ in norm.primals[1:])


def gradients(norm, dy, *primals):
    return norm.bwd(norm.fwd(*primals)[1], dy)


def in_one_piece(norm, *args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "LARGE", 2**60)
        return gradients(norm, *args)


def apart(got, want):
    got, want = (np.asarray(a, np.float64) for a in (got, want))
    return np.abs(got - want).max() / np.abs(want).max()


@each_norm
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_give_what_the_whole_gives(norm, dtype):
    args = drawn(norm, dtype)
    assert " scan[" in str(jax.make_jaxpr(partial(gradients, norm))(*args))
    for got, want in zip(gradients(norm, *args), in_one_piece(norm, *args), strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert apart(got, want) < (3e-6 if dtype == "float32" else 1e-2)


@each_norm
def test_sums_are_as_accurate_in_blocks(norm):
    args = drawn(norm, "float32")
    with jax.enable_x64(True):
        truth = in_one_piece(norm, *(jnp.asarray(np.asarray(a), jnp.float64) for a in args))
    for got, want in zip(gradients(norm, *args), truth, strict=True):
        assert apart(got, want) < 1e-6


@each_norm
def test_rows_that_do_not_fill_blocks_are_computed_at_once(norm):
    args = drawn(norm, "float32", (2051, 512))
    assert " scan[" not in str(jax.make_jaxpr(partial(gradients, norm))(*args))


@each_norm
def test_blocks_under_vmap_and_differentiated_again(norm):
    dy, *primals = drawn(norm, "float32")
    twice = jax.vmap(partial(gradients, norm), in_axes=(0, *(None for _ in primals)))
    got = twice(jnp.stack([dy, 2 * dy]), *primals)
    for of_both, want in zip(got, in_one_piece(norm, dy, *primals), strict=True):
        assert apart(of_both[1], 2 * want) < 3e-6
    of_square = jax.grad(lambda dy, run: (run(norm, dy, *primals)[0] ** 2).sum())
    assert apart(of_square(dy, gradients), of_square(dy, in_one_piece)) < 3e-6


@pytest.mark.skipif(
    jax.default_backend() != "cpu",
    reason="counts the temporaries of programs for a CPU, and JAX runs on another device here",
)
def test_little_is_stored_with_xla_s_defaults():
    done = subprocess.run(
        [sys.executable, "-m", "tests.formulas.stored"],
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("{}\n", 0), done.stderr
