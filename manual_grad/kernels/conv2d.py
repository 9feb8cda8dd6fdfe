"""The Conv2D layer as each platform computes it fastest. Lectures A and C.

The mathematics is in :mod:`manual_grad.formulas.conv2d`; the implementation is chosen when the function is
lowered.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax
from jaxtyping import Array, Float

from manual_grad.border import checked, require_shape
from manual_grad.formulas.conv2d import (
    Conv2DResiduals,
    conv2d_plain_bwd,
    conv2d_plain_fwd,
)
from manual_grad.formulas.geometry import Padding, Pair
from manual_grad.kernels.conv2d_cpu import conv2d_cpu_bwd, conv2d_cpu_fwd


@checked
def conv2d_fwd(
    x: Float[Array, "N H W C"],
    kernel: Float[Array, "kh kw Cg O"],
    bias: Float[Array, " O"],
    *,
    strides: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
    groups: int = 1,
) -> tuple[Float[Array, "N h w O"], Conv2DResiduals]:
    """A Conv2D layer, computed in the way that is fastest on the platform that it is compiled for. [A-11]

    On a CPU that is :func:`conv2d_cpu_fwd`, elsewhere :func:`conv2d_plain_fwd`, whose docstring describes
    arguments, results and errors.

    Source: Lecture A, the network's first two layers; the choice is ours.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.arange(4.0).reshape(1, 1, 4, 1), jnp.ones((1, 2, 1, 1))
    >>> conv2d_fwd(x, kernel, jnp.array([100.0]), strides=2)[0].ravel().tolist()
    [101.0, 105.0]
    """
    res = Conv2DResiduals.of(x, kernel, strides, padding, dilation, groups)
    return _forward(res, bias), res


@checked
def conv2d_bwd(
    res: Conv2DResiduals, dZ: Float[Array, "N h w O"]
) -> tuple[Float[Array, "N H W C"], Float[Array, "kh kw Cg O"], Float[Array, " O"]]:
    """Pull ``dZ`` back through a Conv2D layer, in the way that suits the platform. [C-09] [C-10] [A-11]

    On a CPU that is :func:`conv2d_cpu_bwd`, elsewhere :func:`conv2d_plain_bwd`, whose docstring describes
    arguments, results and errors.

    Source: Lecture C, page 4; Lecture A's network; the choice is ours.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.arange(4.0).reshape(1, 1, 4, 1), jnp.ones((1, 2, 1, 1))
    >>> _, res = conv2d_fwd(x, kernel, jnp.array([100.0]), strides=2)
    >>> [d.ravel().tolist() for d in conv2d_bwd(res, jnp.array([[[[1.0], [10.0]]]]))]
    [[1.0, 1.0, 10.0, 10.0], [20.0, 31.0], [11.0]]
    """
    res.check()
    require_shape("conv2d_bwd", "dZ", dZ, res.out_shape)
    dx, dkernel, dbias = _backward(res, dZ)
    return dx, dkernel, dbias


@jax.jit  # in eager calls, compiled once for each geometry
def _forward(res: Conv2DResiduals, bias: Array) -> Array:
    def by(fwd: Callable[..., Any], res: Conv2DResiduals, bias: Array) -> Any:
        return fwd(
            res.x,
            res.kernel,
            bias,
            strides=res.strides,
            padding=res.pads,
            dilation=res.dilation,
            groups=res.groups,
        )[0]

    cpu, default = partial(by, conv2d_cpu_fwd), partial(by, conv2d_plain_fwd)
    Z: Array = lax.platform_dependent(res, bias, cpu=cpu, default=default)
    return Z


@jax.jit
def _backward(res: Conv2DResiduals, dZ: Array) -> tuple[Array, Array, Array]:
    dx, dkernel, dbias = lax.platform_dependent(res, dZ, cpu=conv2d_cpu_bwd, default=conv2d_plain_bwd)
    return dx, dkernel, dbias
