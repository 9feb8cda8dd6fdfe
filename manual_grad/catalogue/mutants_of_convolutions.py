"""Convolutions and the CNN as people write them, with typical mistakes."""

import jax.numpy as jnp
from jax import lax

from manual_grad.catalogue.families import (
    BIAS_AXES,
    DILATION,
    GRADIENT_TURNED,
    MASK_GE,
    MEAN_FOR_SUM,
    NO_MASK,
    NOT_ROTATED,
    PADDING,
    ROTATED_TWICE,
    STRIDE,
    SUM_MISSING,
    SWAPPED,
    TRANSPOSED,
    family,
)
from manual_grad.catalogue.mutants_of_losses import ERRORS, softmax
from manual_grad.formulas.transposed import conv_transpose2d_fwd
from manual_grad.kernels.conv2d import conv2d_fwd


def _rot180(f):
    return f[::-1, ::-1]


def _correlated(x, f):
    """Valid cross-correlation, offset by offset."""
    h, w = x.shape[0] - f.shape[0] + 1, x.shape[1] - f.shape[1] + 1
    offsets = [(a, b) for a in range(f.shape[0]) for b in range(f.shape[1])]
    return sum(f[a, b] * x[a : a + h, b : b + w] for a, b in offsets)


def _full(dO, f):
    """``dO`` padded with as many zeros as a kernel of f's size extends."""
    (kh, kw) = f.shape
    return jnp.pad(dO, ((kh - 1, kh - 1), (kw - 1, kw - 1)))


def _convolved_full(dO, f):
    """True convolution: cross-correlation with the rotated kernel."""
    return _correlated(_full(dO, f), _rot180(f))


def _shifted(dO, f):
    (kh, kw) = f.shape
    return jnp.pad(dO, ((kh - 2, kh), (kw - 1, kw - 1)))


def _small(dO, x):  # a kernel larger than the image, which an XLA convolution would handle
    return lax.conv_general_dilated(x[None, None], dO[None, None], (1, 1), "VALID")[0, 0]


def _correlate2d(dO, x, f, *, dx=_convolved_full, df=lambda dO, x: _small(dO, x)):
    return {"x": dx(dO, f), "f": df(dO, x)}


_CORRELATION_X: tuple = (
    (NOT_ROTATED, "dX = dO ⋆ F, full", {"dx": lambda dO, f: _correlated(_full(dO, f), f)}),
    (ROTATED_TWICE, "dX = dO ∗ rot180(F), full", {"dx": lambda dO, f: _convolved_full(dO, _rot180(f))}),
    (PADDING, "dO padded a row too low", {"dx": lambda dO, f: _correlated(_shifted(dO, f), _rot180(f))}),
    (TRANSPOSED, "dX with Fᵀ", {"dx": lambda dO, f: _correlated(_full(dO, f), _rot180(f).T)}),
)
_CORRELATION_F: tuple = (
    (GRADIENT_TURNED, "dF = rot180(X ⋆ dO)", {"df": lambda dO, x: _rot180(_small(dO, x))}),
)


def _correlate2d_jacobian(x, f, *, turn_f=lambda f: f, turn_windows=lambda g: g):
    h, w = x.shape[0] - f.shape[0] + 1, x.shape[1] - f.shape[1] + 1
    i, j = jnp.arange(h)[:, None], jnp.arange(w)
    by_x, by_f = jnp.zeros((h, w, *x.shape), x.dtype), jnp.zeros((h, w, *f.shape), x.dtype)
    for a in range(f.shape[0]):
        for b in range(f.shape[1]):
            by_x = by_x.at[i, j, i + a, j + b].set(turn_f(f)[a, b])
            by_f = by_f.at[:, :, a, b].set(x[a : a + h, b : b + w])
    return {"x": by_x, "f": turn_windows(by_f)}


CORRELATE2D = (
    family(
        "gradient",
        _correlate2d,
        *_CORRELATION_X,
        *_CORRELATION_F,
        (SWAPPED, "dF = dO ⋆ X", {"df": lambda dO, x: _correlated(_full(dO, x), x)}),
        reaches={"dx": "x", "df": "f"},
    ),
    family(
        "jacobian",
        _correlate2d_jacobian,
        (ROTATED_TWICE, "the kernel rotated before it is laid out", {"turn_f": _rot180}),
        (GRADIENT_TURNED, "the windows rotated", {"turn_windows": lambda g: g[:, :, ::-1, ::-1]}),
        reaches={"turn_f": "x", "turn_windows": "f"},
    ),
)


def _convolve2d(dY, x, w, mode, *, turn_w=None, turn_x=None, dx=None):
    turned = _rot180 if turn_x is None else turn_x
    if mode == "full":
        back = dx or _small
        return {"x": back(turned(_rot180(w)), dY), "w": (turn_w or (lambda g: g))(_small(x, dY))}
    back = dx or (lambda w, dY: _small(w, _full(dY, w)))
    return {"x": back(turned(_rot180(w)), dY), "w": (turn_w or _rot180)(_small(dY, x))}


CONVOLVE2D = (
    family(
        "gradient",
        _convolve2d,
        (ROTATED_TWICE, "dX with rot180(W), as for a cross-correlation", {"turn_x": lambda w: w}),
        (TRANSPOSED, "dX with Wᵀ", {"turn_x": lambda w: _rot180(w).T}),
    ),
    family(
        "gradient",
        _convolve2d,
        (NOT_ROTATED, "dW = X ⋆ dY, not rotated", {"turn_w": lambda g: g}),
        applies=lambda inputs: inputs["mode"] == "valid",
    ),
    family(
        "gradient",
        _convolve2d,
        (GRADIENT_TURNED, "dW turned", {"turn_w": _rot180}),
        applies=lambda inputs: inputs["mode"] == "full",
    ),
)


def _conv2d(
    dZ,
    x,
    kernel,
    bias,
    strides=1,
    padding="VALID",
    dilation=1,
    groups=1,
    *,
    turn=lambda k: k,
    turn_dk=lambda k: k,
    stride_dX=lambda s: s,
    dilation_dX=lambda d: d,
    shift=0,
    db=lambda dZ: dZ.sum(axis=(0, 1, 2)),
    group=lambda kernel: kernel,
):
    """The pixels that each kernel entry reads for each output, and a function that sends dZ back to them."""
    geometry = conv2d_fwd(
        x, kernel, bias, strides=strides, padding=padding, dilation=dilation, groups=groups
    )[1]
    (h, w), (kh, kw, Cg, O) = dZ.shape[1:3], kernel.shape
    sides = ((0, 0, 0), *((low, high, 0) for low, high in geometry.pads), (0, 0, 0))  # negative pads crop
    nothing = jnp.zeros((), x.dtype)
    padded = lax.pad(x, nothing, sides)
    dZ_g = dZ.reshape(*dZ.shape[:3], groups, O // groups)

    def positions(s, d):  # of kernel entry (a, b) at output (i, j): a × i × b × j
        rows = jnp.arange(kh)[:, None] * d[0] + jnp.arange(h) * s[0]
        columns = jnp.arange(kw)[:, None] * d[1] + jnp.arange(w) * s[1]
        return rows[:, :, None, None], columns

    rows, columns = positions(geometry.strides, geometry.dilation)
    seen = padded[:, rows, columns].reshape(len(x), kh, h, kw, w, groups, Cg)
    dkernel = jnp.einsum("naibjgc,nijgo->abcgo", seen, dZ_g).reshape(kernel.shape)
    turned = group(turn(kernel).reshape(kh, kw, Cg, groups, O // groups))
    sent = jnp.einsum("nijgo,abcgo->naibjgc", dZ_g, turned).reshape(len(x), kh, h, kw, w, groups * Cg)
    rows, columns = positions([*map(stride_dX, geometry.strides)], [*map(dilation_dX, geometry.dilation)])
    dpadded = jnp.zeros_like(padded).at[:, rows, columns].add(sent)
    dx = lax.pad(jnp.roll(dpadded, shift, axis=1), nothing, [(-low, -high, 0) for low, high, _ in sides])
    return {"x": dx, "kernel": turn_dk(dkernel), "bias": db(dZ)}


def _wide(inputs: dict, name: str) -> bool:
    value = inputs.get(name, 1)
    return max(value if isinstance(value, tuple) else (value,)) > 1


CONV2D = (
    family(
        "gradient",
        _conv2d,
        (NOT_ROTATED, "dX = dZ ⋆ K, full", {"turn": _rot180}),
        (GRADIENT_TURNED, "dK turned", {"turn_dk": _rot180}),
        (PADDING, "dX cropped a row too late", {"shift": -1}),
        (BIAS_AXES, "db over height, width and channels", {"db": lambda dZ: dZ.sum(axis=(1, 2, 3))}),
        (BIAS_AXES, "db of the first column alone", {"db": lambda dZ: dZ[:, :, 0].sum(axis=(0, 1))}),
        (SUM_MISSING, "db not summed over the images", {"db": lambda dZ: dZ.sum(axis=(1, 2))}),
        (MEAN_FOR_SUM, "db averaged over the images", {"db": lambda dZ: dZ.sum(axis=(1, 2)).mean(axis=0)}),
        (TRANSPOSED, "dX with height and width of K swapped", {"turn": lambda k: _padded_transpose(k)}),
        reaches={"turn": "x", "turn_dk": "kernel", "shift": "x", "db": "bias"},
    ),
    family(
        "gradient",
        _conv2d,
        (STRIDE, "dZ not spread apart", {"stride_dX": lambda s: 1}),
        applies=lambda inputs: _wide(inputs, "strides"),
        reaches={"stride_dX": "x"},
    ),
    family(
        "gradient",
        _conv2d,
        (DILATION, "K's entries side by side", {"dilation_dX": lambda d: 1}),
        applies=lambda inputs: _wide(inputs, "dilation"),
        reaches={"dilation_dX": "x"},
    ),
    family(
        "gradient",
        _conv2d,
        ("groups mixed up", "dX with the next group's kernel", {"group": lambda k: jnp.roll(k, -1, axis=3)}),
        applies=lambda inputs: _wide(inputs, "groups"),
        reaches={"group": "x"},
    ),
)


def _conv_transpose2d(
    dout, x, kernel, bias, strides=1, padding="VALID", dilation=1, groups=1, *,
    turn=lambda k: k,
    turn_dk=lambda k: k,
    apart=lambda s, d: (s, d),
    shift=0,
    db=lambda dout: dout.sum(axis=(0, 1, 2)),
    group=lambda kernel: kernel,
):  # fmt: skip
    """The entries of dout to which each kernel entry contributed."""
    res = conv_transpose2d_fwd(
        x, kernel, bias, strides=strides, padding=padding, dilation=dilation, groups=groups
    )[1]
    (N, h, w, C), (kh, kw, Og, _) = x.shape, kernel.shape
    s, d = apart(res.strides, res.dilation)
    (top, _), (left, _) = res.pads
    full = jnp.pad(dout, ((0, 0), (top, 99), (left, 99), (0, 0)))  # more than any reach here
    rows = jnp.arange(kh)[:, None] * d[0] + jnp.arange(h) * s[0] + shift
    columns = jnp.arange(kw)[:, None] * d[1] + jnp.arange(w) * s[1]
    came = full[:, rows[:, :, None, None], columns].reshape(N, kh, h, kw, w, groups, Og)
    grouped = group(turn(kernel).reshape(kh, kw, Og, groups, C // groups))
    dx = jnp.einsum("naibjgo,abogc->nijgc", came, grouped).reshape(x.shape)
    dkernel = jnp.einsum("naibjgo,nijgc->abogc", came, x.reshape(N, h, w, groups, C // groups))
    return {"x": dx, "kernel": turn_dk(dkernel.reshape(kernel.shape)), "bias": db(dout)}


CONV_TRANSPOSE2D = (
    family(
        "gradient",
        _conv_transpose2d,
        (ROTATED_TWICE, "dx = dout ⋆ rot180(K)", {"turn": _rot180}),
        (GRADIENT_TURNED, "dK turned", {"turn_dk": _rot180}),
        (PADDING, "dout read a row too late", {"shift": 1}),
        (BIAS_AXES, "db over height, width and channels", {"db": lambda dout: dout.sum(axis=(1, 2, 3))}),
        (SUM_MISSING, "db not summed over the images", {"db": lambda dout: dout.sum(axis=(1, 2))}),
        (TRANSPOSED, "dx with height and width of K swapped", {"turn": lambda k: _padded_transpose(k)}),
        reaches={"turn": "x", "turn_dk": "kernel", "shift": "x kernel", "db": "bias"},
    ),
    family(
        "gradient",
        _conv_transpose2d,
        (STRIDE, "stride and dilation swapped", {"apart": lambda s, d: (d, s)}),
        applies=lambda inputs: _wide(inputs, "strides") or _wide(inputs, "dilation"),
        reaches={"apart": "x kernel"},
    ),
    family(
        "gradient",
        _conv_transpose2d,
        ("groups mixed up", "dx with the next group's kernel", {"group": lambda k: jnp.roll(k, -1, axis=3)}),
        applies=lambda inputs: _wide(inputs, "groups"),
        reaches={"group": "x"},
    ),
)


def _padded_transpose(kernel):
    """K transposed in its first two axes, cropped or zero-padded where these differ."""
    kh, kw = kernel.shape[:2]
    turned = jnp.pad(kernel.swapaxes(0, 1), ((0, max(kh - kw, 0)), (0, max(kw - kh, 0)), (0, 0), (0, 0)))
    return turned[:kh, :kw]


def _cnn_from(
    dZ5, params, X, *, mask=lambda Z, l: Z > 0, unflatten=lambda d, shape: d.reshape(shape), **conv
):
    """The backward pass from the scores: ``mask(Zs, l)`` is the mask of layer l; 1 and 2 are convolutions."""
    Z1 = conv2d_fwd(X, params["K1"], params["b1"])[0]
    A1 = jnp.maximum(Z1, 0)
    Z2 = conv2d_fwd(A1, params["K2"], params["b2"])[0]
    A3 = jnp.maximum(Z2, 0).reshape(len(X), -1)
    Z4 = A3 @ params["W4"] + params["b4"]
    A4 = jnp.maximum(Z4, 0)
    dZ5 = dZ5(A4 @ params["W5"] + params["b5"]) if callable(dZ5) else dZ5
    dZ4 = dZ5 @ params["W5"].T * mask(Z4, 4)
    dZ2 = unflatten(dZ4 @ params["W4"].T, Z2.shape) * mask(Z2, 2)
    second = _conv2d(dZ2, A1, params["K2"], params["b2"], **conv)
    dZ1 = second["x"] * mask(Z1, 1)
    first = _conv2d(dZ1, X, params["K1"], params["b1"], **conv)
    grads = {
        "K1": first["kernel"], "b1": first["bias"], "K2": second["kernel"], "b2": second["bias"],
        "W4": A3.T @ dZ4, "b4": dZ4.sum(0), "W5": A4.T @ dZ5, "b5": dZ5.sum(0),
    }  # fmt: skip
    return {"params": grads, "X": first["x"]}


def _cnn(dJ, params, X, labels, *, error=lambda p, y: p * y.sum(-1, keepdims=True) - y, **wrong):
    scores = []

    def dZ5(Z5):
        scores.append(Z5)
        return dJ / len(X) * error(softmax(Z5), labels)

    grads = _cnn_from(dZ5, params, X, **wrong)
    return {**grads, "labels": -dJ / len(X) * jnp.log(softmax(scores[0]))}


_CNN: tuple = (
    (NO_MASK, "dZ¹ not masked", {"mask": lambda Z, l: (Z > 0) | (l == 1)}),
    (NO_MASK, "dZ⁴ not masked", {"mask": lambda Z, l: (Z > 0) | (l == 4)}),
    (MASK_GE, "where Z ≥ 0", {"mask": lambda Z, l: Z >= 0}),
    (NOT_ROTATED, "dA¹ = dZ² ⋆ K², full", {"turn": _rot180}),
    (GRADIENT_TURNED, "dK turned", {"turn_dk": _rot180}),
    (PADDING, "dX cropped a row too late", {"shift": -1}),
    (BIAS_AXES, "db of the first column alone", {"db": lambda dZ: dZ[:, :, 0].sum(axis=(0, 1))}),
    (BIAS_AXES, "db over height, width and channels", {"db": lambda dZ: dZ.sum(axis=(1, 2, 3))}),
    (SUM_MISSING, "db not summed over the images", {"db": lambda dZ: dZ.sum(axis=(1, 2))}),
    (
        TRANSPOSED,
        "unflattened width before height",
        {
            "unflatten": lambda d, shape: d.reshape(shape[0], shape[2], shape[1], shape[3]).swapaxes(1, 2),
        },
    ),
)
CNN = (family("gradient", _cnn, *_CNN, *ERRORS),)
CNN_SCORES = (
    family("gradient", lambda dZ5, params, X, labels, **wrong: _cnn_from(dZ5, params, X, **wrong), *_CNN),
)
