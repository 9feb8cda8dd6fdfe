"""The transposed convolution: the adjoint of Conv2D, so that its backward pass is Conv2D itself.

⟨conv2d(y), x⟩ = ⟨y, conv_transpose2d(x)⟩ with the same kernel: the forward pass of one is the backward pass
of the other.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manual_grad.border import checked, describe, require, require_shape
from manual_grad.formulas.conv2d import Conv2DResiduals
from manual_grad.formulas.geometry import Padding, Pair, pads_of, pair, require_groups


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("x", "kernel"),
    meta_fields=("size", "strides", "pads", "dilation", "groups"),
)
@dataclass(frozen=True)
class ConvTranspose2DResiduals:
    """What the backward pass needs: x, the kernel, the output's height and width, and the geometry."""

    x: Float[Array, "N h w C"]
    kernel: Float[Array, "kh kw Og C"]
    size: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(N, H, W, O)."""
        return len(self.x), *self.size, self.kernel.shape[2] * self.groups

    def adjoint(self, image: Array) -> Conv2DResiduals:
        """The Conv2D layer that takes an image of the output's shape to an output of the shape of x."""
        return Conv2DResiduals(image, self.kernel, self.strides, self.pads, self.dilation, self.groups)


@checked
def conv_transpose2d_fwd(
    x: Float[Array, "N h w C"],
    kernel: Float[Array, "kh kw Og C"],
    bias: Float[Array, " O"],
    *,
    strides: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
    groups: int = 1,
) -> tuple[Float[Array, "N H W O"], ConvTranspose2DResiduals]:
    """Each entry of x adds a multiple of the kernel to the output. [E-21]

        out[n, i·s + a·d − p, j·s + b·d − p, o] += x[n,i,j,c] K[a,b,o,c],  then + b_o

    The gradient of ``conv2d`` with respect to its image, with this kernel and these settings, plus a bias.

    Args:
        x: (N, h, w, C), shaped like the output of that ``conv2d``.
        kernel: (kh, kw, O/groups, C), that of the ``conv2d``.
        bias: (O,).
        strides: s, an int or a pair: the distance between the copies of the kernel.
        padding: that of the ``conv2d``, so here it crops: ``VALID`` and H = (h−1)·s + (kh−1)·d + 1,
            ``SAME`` and H = h·s, or ``((top, bottom), (left, right))``; a negative number adds a margin.
        dilation: d, an int or a pair: the spacing of the kernel's entries.
        groups: the number of groups of channels.
    Returns:
        ``(out, res)``: out (N, H, W, O).
    Raises:
        InputError: a stride or dilation below 1, groups that do not divide C and O, a padding that leaves
            nothing, or a shape or dtype that does not match.
    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4; as
        ``torch.nn.functional.conv_transpose2d``, with other layouts.

    >>> x, kernel = jnp.array([[[[1.0], [10.0]]]]), jnp.array([1.0, 2.0]).reshape(1, 2, 1, 1)
    >>> conv_transpose2d_fwd(x, kernel, jnp.zeros(1))[0].ravel().tolist()
    [1.0, 12.0, 20.0]
    """
    name = "conv_transpose2d_fwd"
    s, d = pair(name, "strides", strides), pair(name, "dilation", dilation)
    C, Og, (O,) = x.shape[-1], kernel.shape[2], bias.shape
    require_groups(name, groups, {f"x's {C} channels": C, f"the bias's {O}": O})
    require(
        Og * groups == O,
        f"{name}: kernel is {describe(kernel)}, expected [kh,kw,{O // groups},{C}] for bias {describe(bias)}"
        f" in {groups} group{'s' * (groups > 1)}",
    )
    reach = ((kernel.shape[0] - 1) * d[0], (kernel.shape[1] - 1) * d[1])
    same = isinstance(padding, str) and padding.upper() == "SAME"
    in_full = [(n - 1) * step + 1 + r for n, step, r in zip(x.shape[1:3], s, reach, strict=True)]
    size = [n * step for n, step in zip(x.shape[1:3], s, strict=True)] if same else in_full
    pads = pads_of(name, padding, (size[0], size[1]), reach, s)
    H, W = size if same else (n - lo - hi for n, (lo, hi) in zip(in_full, pads, strict=True))
    require(H > 0 and W > 0, f"{name}: padding is {describe(padding)}, which leaves nothing of {in_full}")
    res = ConvTranspose2DResiduals(x, kernel, (H, W), s, pads, d, int(groups))
    out = res.adjoint(jnp.zeros(res.out_shape, x.dtype)).gradient_of_image(x) + bias  # [E-21]
    return out, res


@checked
def conv_transpose2d_bwd(
    res: ConvTranspose2DResiduals, dout: Float[Array, "N H W O"]
) -> tuple[Float[Array, "N h w C"], Float[Array, "kh kw Og C"], Float[Array, " O"]]:
    """Pull ``dout`` back through a transposed convolution: the adjoint's adjoint is Conv2D. [E-21]

        dx = dout ⋆ K        dK = dout ⋆ x, which is Conv2D's dK for the image dout and the cotangent x

        db = Σ dout over images, rows and columns

    Args:
        res: from the forward pass.
        dout: cotangent of out, (N, H, W, O).
    Returns:
        ``(dx, dkernel, dbias)``, each shaped like its primal.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> x, kernel = jnp.array([[[[1.0], [10.0]]]]), jnp.array([1.0, 2.0]).reshape(1, 2, 1, 1)
    >>> _, res = conv_transpose2d_fwd(x, kernel, jnp.zeros(1))
    >>> dout = jnp.array([1.0, 0.0, 1.0]).reshape(1, 1, 3, 1)
    >>> [d.ravel().tolist() for d in conv_transpose2d_bwd(res, dout)]
    [[1.0, 2.0], [1.0, 10.0], [2.0]]
    """
    require_shape("conv_transpose2d_bwd", "dout", dout, res.out_shape)
    adjoint = res.adjoint(dout)
    adjoint.check()
    return adjoint.correlated(), adjoint.gradient_of_kernel(res.x), dout.sum(axis=(0, 1, 2))  # [E-21]
