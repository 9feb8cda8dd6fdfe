import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import signal

import manual_grad
import manual_grad_reference as reference
from tests.formulas.comparing import assert_same
from tests.formulas.scenarios import conv2d_of_xla, normal, random_like

ones = (1, 1)


def _geometry(x, kernel, groups=1, strides=ones, padding="VALID", dilation=ones):
    return {
        "x": x,
        "kernel": kernel,
        "settings": {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups},
    }


@st.composite
def geometries(draw):
    def size(most):
        return draw(st.integers(1, most))

    def side():
        return draw(st.integers(-3, 4) | st.integers(5, 12))  # beyond the kernel too

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    x = (size(3), size(9), size(8), groups * size(2))
    kernel = (size(4), size(5), x[3] // groups, groups * size(3))
    explicit = ((side(), side()), (side(), side()))
    padding = draw(st.sampled_from(["VALID", "SAME", explicit]))
    stride = st.integers(1, 4) | st.integers(5, 12)  # beyond the image too
    strides, dilation = (draw(stride), draw(stride)), (size(3), size(3))
    assume(_fits(x, kernel, padding, dilation))
    return _geometry(x, kernel, groups, strides, padding, dilation)


def _fits(x, kernel, padding, dilation):
    pads = ((0, 0), (0, 0)) if padding == "VALID" else padding
    sizes = zip(x[1:3], kernel[:2], dilation, pads, strict=True) if padding != "SAME" else ()
    return all(n + lo + hi > (k - 1) * d for n, k, d, (lo, hi) in sizes)


@settings(max_examples=15)
@given(geometries())
@example(_geometry((2, 4, 3, 2), (1, 1, 2, 3)))  # a 1×1 kernel
@example(_geometry((2, 4, 3, 2), (1, 1, 2, 3), strides=(3, 2)))  # pixels that no window sees
@example(_geometry((2, 5, 4, 1), (5, 4, 1, 3)))  # as large as the image
@example(_geometry((2, 9, 8, 1), (2, 1, 1, 3), strides=(4, 3)))  # stride larger than the kernel
@example(_geometry((1, 7, 6, 2), (2, 4, 2, 3), padding="SAME"))  # an even kernel
@example(_geometry((1, 7, 6, 2), (2, 4, 2, 3), padding="SAME", strides=(2, 3)))
@example(_geometry((3, 8, 5, 4), (2, 3, 2, 6), 2, (3, 2), ((2, 0), (1, 3)), (2, 1)))  # nothing is square
@example(_geometry((2, 6, 5, 3), (3, 2, 1, 6), groups=3))  # depthwise
@example(_geometry((2, 7, 8, 2), (3, 2, 2, 3), padding="SAME", dilation=(2, 3)))
@example(_geometry((2, 7, 8, 2), (3, 2, 2, 3), padding="SAME", dilation=(2, 3), strides=(3, 2)))
@example(_geometry((2, 7, 8, 2), (3, 2, 2, 3), padding=((0, 0), (0, 0))))
@example(_geometry((2, 7, 8, 2), (3, 2, 2, 3), padding=((-2, -1), (-3, 0))))  # cropping
@example(_geometry((2, 7, 8, 2), (3, 2, 2, 3), padding=((6, 5), (4, 7))))  # windows of padding alone
@example(_geometry((1, 1, 1, 1), (1, 1, 1, 1)))
@example(_geometry((1, 2, 2, 1), (1, 1, 1, 1), strides=(8, 8), padding=((4, 0), (0, 0))))  # sees padding only
@example(_geometry((1, 1, 1, 1), (1, 1, 1, 1), padding=((4, -2), (0, 0))))
@example(_geometry((1, 5, 1, 2), (2, 1, 2, 1), strides=(2, 2), padding=((0, 0), (4, -2))))
def test_any_geometry(geometry):
    """[A-11]"""
    rng = np.random.default_rng(0)
    shapes = geometry["x"], geometry["kernel"], geometry["kernel"][-1:]
    primals = tuple(normal(rng, jnp.float64, *shape) for shape in shapes)
    xla = functools.partial(conv2d_of_xla, **geometry["settings"])
    dout = random_like(jax.eval_shape(xla, *primals), seed=0)
    got, want = jax.jit(functools.partial(_both, geometry["settings"]))(primals, dout)
    assert_same(got, want)


def _both(settings, primals, dout):
    out, res = manual_grad.conv2d_fwd(*primals, **settings)
    want, pullback = jax.vjp(functools.partial(conv2d_of_xla, **settings), *primals)
    return (out, manual_grad.conv2d_bwd(res, dout)), (want, pullback(dout))


@pytest.mark.parametrize(
    "settings",
    [{"padding": ((2**62, 0), (0, 0))}, {"padding": ((0, 0), (-(2**31), 0))}, {"strides": 10**30},
     {"dilation": (1, 2**31)}],
)  # fmt: skip
def test_numbers_beyond_any_image_are_refused(settings):
    """XLA aborts the interpreter for the first, and overflows for the others."""
    with pytest.raises(manual_grad.InputError, match=r"expected numbers below 536870912$"):
        manual_grad.conv2d_fwd(jnp.ones((1, 4, 4, 2)), jnp.ones((1, 1, 2, 4)), jnp.zeros(4), **settings)


@pytest.mark.parametrize("setting", ["strides", "dilation"])
def test_an_int_is_a_pair(setting):
    rng = np.random.default_rng(0)
    primals = [normal(rng, jnp.float64, *shape) for shape in ((2, 7, 6, 3), (3, 2, 3, 4), (4,))]
    number = manual_grad.conv2d_fwd(*primals, **{setting: 2})[0]
    assert_same(number, manual_grad.conv2d_fwd(*primals, **{setting: (2, 2)})[0])
    assert_same(number, manual_grad.conv2d_fwd(*primals, **{setting: [2, 2]})[0])


sizes = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=8)
@given(sizes)
@example((3, 3, 2, 2))
@example((5, 4, 5, 4))
@example((5, 4, 1, 1))
def test_correlation_and_convolution_of_any_size(size):
    """[C-07] [C-08] [C-09] [C-10]"""
    x, f = _image_and_kernel(size)
    fits = all(k <= n for k, n in zip(f.shape, x.shape, strict=True))
    Y, res = manual_grad.convolve2d_fwd(x, f)
    assert_same(Y, jnp.asarray(signal.convolve2d(x, f)))
    dY = random_like(Y, seed=1)
    assert_same(manual_grad.convolve2d_bwd(res, dY), _valid(signal.correlate2d, dY, f, x))
    if fits:
        O, res = manual_grad.correlate2d_fwd(x, f)
        assert_same(O, jnp.asarray(signal.correlate2d(x, f, "valid")))
        dO = random_like(O, seed=2)
        dx, df = manual_grad.correlate2d_bwd(res, dO)
        assert_same(dx, jnp.asarray(signal.convolve2d(dO, f)))
        assert_same((df,), _valid(signal.correlate2d, x, dO))
        Y, res = manual_grad.convolve2d_fwd(x, f, mode="valid")
        assert_same(Y, jnp.asarray(signal.convolve2d(x, f, "valid")))
        _, pullback = jax.vjp(functools.partial(reference.conv2d.convolve2d, mode="valid"), x, f)
        assert_same(manual_grad.convolve2d_bwd(res, dO), pullback(dO))


def _image_and_kernel(size):
    rng = np.random.default_rng(0)
    return normal(rng, jnp.float64, *size[:2]), normal(rng, jnp.float64, *size[2:])


def _valid(correlate, image, *kernels):
    return tuple(jnp.asarray(correlate(image, kernel, "valid")) for kernel in kernels)
