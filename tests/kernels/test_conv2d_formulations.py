"""Which formulation conv2d uses for which platform and shapes, and that its sums are the same."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad
from manual_grad import ops
from tests.formulas.comparing import assert_same

RNG = np.random.default_rng(5)
GEOMETRIES = {
    "one channel": ((3, 8, 9, 1), (3, 2, 1, 5), {}),
    "one channel, everything": (
        (2, 9, 8, 1), (2, 3, 1, 4), {"strides": (3, 2), "padding": ((2, -1), (-2, 4)), "dilation": (2, 3)},
    ),
    "one channel, many entries": ((2, 9, 8, 1), (6, 5, 1, 3), {"strides": 2}),
    "spread": ((3, 8, 9, 20), (3, 2, 20, 18), {}),
    "spread, padding": ((2, 8, 9, 3), (4, 3, 3, 18), {"padding": "SAME"}),
    "spread, growing": ((2, 5, 6, 18), (2, 3, 18, 3), {"padding": ((2, 1), (0, 3))}),
    "spread, cropping": ((2, 8, 9, 18), (3, 2, 18, 3), {"padding": ((-1, 2), (0, -2))}),
    "spread, strides and dilation": (
        (2, 11, 12, 18), (3, 2, 18, 5), {"strides": (2, 3), "dilation": (3, 2), "padding": ((3, 1), (0, 2))},
    ),
    "a batch of many": ((20, 6, 5, 2), (2, 3, 2, 4), {"strides": (1, 2)}),
    "groups of many": ((2, 8, 9, 36), (3, 2, 18, 4), {"groups": 2, "strides": (2, 1)}),
    "depthwise": ((2, 8, 9, 18), (3, 2, 1, 36), {"groups": 18, "padding": "SAME"}),
    "pixels at a time": ((2, 8, 12, 3), (3, 4, 3, 5), {"padding": ((1, 0), (2, 3))}),
    "pixels at a time, rows dilated": ((2, 8, 12, 3), (3, 4, 3, 20), {"dilation": (2, 1)}),
}  # fmt: skip


def _inputs(shape, kernel, dtype="float32"):
    """Small integers: every sum is exact, in whatever order."""
    return tuple(jnp.asarray(RNG.integers(-3, 4, s), dtype) for s in (shape, kernel, kernel[-1:]))


@functools.partial(jax.jit, static_argnames=("name", "settings"))
def _both_passes(name, primals, settings):
    Z, res = getattr(manual_grad, f"conv2d{name}_fwd")(*primals, **dict(settings))
    dZ = (jnp.arange(Z.size) % 7 - 3).astype(Z.dtype).reshape(Z.shape)
    return Z, *getattr(manual_grad, f"conv2d{name}_bwd")(res, dZ)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_formulation_for_a_cpu_agrees_with_the_plain_one(geometry):
    """[A-11] [C-08] [C-09] [C-10]"""
    shape, kernel, settings = GEOMETRIES[geometry]
    primals, settings = _inputs(shape, kernel), tuple(settings.items())
    wide = tuple(p.astype(jnp.float64) for p in primals)
    want = _both_passes("_plain", wide, settings)
    got = _both_passes("_cpu", primals, settings)
    assert all(g.dtype == jnp.float32 for g in got)
    assert_same(tuple(g.astype(jnp.float64) for g in got), want)


def _hlo(f, *primals):
    """The program as XLA gets it."""
    return jax.jit(f).lower(*primals).as_text("hlo")


def _spread(text):
    return re.findall(r"lhs_dilate=(\S+) rhs_dilate=(\S+?)\}", text)


@pytest.mark.parametrize(
    ("C", "O", "dtype", "convolutions", "spread"),
    [
        (1, 32, "float32", 0, 0),  # a sum of shifted images
        (16, 16, "float32", 1, 0),  # left alone: XLA:CPU takes Eigen's by itself
        (17, 8, "float32", 1, 1),
        (8, 17, "bfloat16", 1, 1),
        (17, 17, "float64", 1, 0),  # Eigen has none
    ],
)
def test_the_rule_for_a_cpu(C, O, dtype, convolutions, spread):
    text = _hlo(lambda *p: manual_grad.conv2d_fwd(*p)[0], *_inputs((2, 6, 7, C), (3, 2, C, O), dtype))
    assert text.count(" convolution(") == convolutions
    assert len(_spread(text)) == spread


def _training(x, kernel, bias):
    """Three steps in a loop."""

    def step(kernel, _):
        dkernel = jax.grad(lambda kernel: ops.conv2d(x, kernel, bias).sum())(kernel)
        return kernel - dkernel, None

    return jax.lax.scan(step, kernel, length=3)[0]


def test_a_loop_has_the_convolutions_that_eigen_takes():
    """Elsewhere than in the entry computation XLA:CPU does not bring axes into order."""
    program = jax.jit(_training).lower(*_inputs((2, 9, 8, 20), (3, 2, 20, 18))).compile().as_text()
    labels = re.findall(r" convolution\(.*dim_labels=([^,\s]+)", program)
    assert labels
    assert set(labels) == {"b01f_01io->b01f"}


@pytest.mark.parametrize("C", [1, 20])
def test_each_platform_gets_its_own(C):
    """[A-11] Exported for three platforms at once and for each: an accelerator convolves, as it is."""

    def both(*primals):
        Z, res = manual_grad.conv2d_fwd(*primals)
        return Z, *manual_grad.conv2d_bwd(res, Z)

    primals = _inputs((2, 6, 7, C), (3, 2, C, 18))
    jax.export.export(jax.jit(both), platforms=("cpu", "cuda", "tpu"))(*primals)
    for platform in ("cuda", "tpu"):
        text = jax.export.export(jax.jit(both), platforms=(platform,))(*primals).mlir_module()
        assert text.count("stablehlo.convolution") == 3
        assert "lhs_dilate = [2" not in text
        assert "concatenate" not in text
    text = jax.export.export(jax.jit(both), platforms=("cpu",))(*primals).mlir_module()
    assert text.count("stablehlo.convolution") == (1 if C == 1 else 3)


def test_no_windows_are_stored():
    """[C-09] A 3×3 kernel's windows would take nine times the image."""
    primals = _inputs((8, 20, 20, 32), (3, 3, 32, 20))

    def both(*primals):
        Z, res = manual_grad.conv2d_fwd(*primals)
        return manual_grad.conv2d_bwd(res, Z)

    temporaries = jax.jit(both).lower(*primals).compile().memory_analysis().temp_size_in_bytes
    assert 0 < temporaries < 4 * primals[0].nbytes
