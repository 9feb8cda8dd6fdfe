"""The whole CNN: two Conv2D layers, two dense ones, softmax cross-entropy. Lecture A.

    X → Conv2D₁ → ReLU → Conv2D₂ → ReLU → flatten → Dense₄ → ReLU → Dense₅ → softmax → CE → J

Numbered as on the slide, where layer 3 is the flattening. VALID, stride 1: a kernel of size f
leaves n − f + 1 of n pixels.
"""

import math
from typing import Any

from jaxtyping import Array, Float

from manual_grad.border import Scalar, checked, describe, is_float_array, require, require_shape
from manual_grad.formulas.activations import relu_bwd, relu_fwd
from manual_grad.formulas.conv2d import Conv2DResiduals
from manual_grad.formulas.dense import dense_rows_bwd, dense_rows_fwd
from manual_grad.formulas.softmax import softmax_cross_entropy_bwd, softmax_cross_entropy_fwd
from manual_grad.kernels.conv2d import conv2d_bwd, conv2d_fwd

PARAMETERS = ("K1", "b1", "K2", "b2", "W4", "b4", "W5", "b5")


CNNRes = tuple[
    Conv2DResiduals,
    Float[Array, "N h1 w1 l1"],
    Conv2DResiduals,
    Float[Array, "N h2 w2 l2"],
    Float[Array, "N hwl"],
    Float[Array, "hwl l4"],
    Float[Array, "N l4"],
    Float[Array, "N l4"],
    Float[Array, "l4 K"],
    tuple[Float[Array, "N K"], Float[Array, "N K"], Float[Array, "N K"]],
]


@checked
def cnn_fwd(
    params: dict[str, Any], X: Float[Array, "N H W C"], labels: Float[Array, "N K"]
) -> tuple[Float[Array, ""], CNNRes]:
    """J of the lecture's CNN. [A-11]

    Args:
        params: ``K1`` (f₁, f₁, C, l₁), ``b1`` (l₁,), ``K2`` (f₂, f₂, l₁, l₂), ``b2`` (l₂,),
            ``W4`` (h₂ w₂ l₂, l₄), ``b4`` (l₄,), ``W5`` (l₄, K), ``b5`` (K,).
        X: images, (N, H, W, C).
        labels: (N, K).
    Returns:
        ``(J, res)``: J scalar.
    Raises:
        InputError: a parameter is missing or unknown, or a shape or dtype does not match.
    Source: Lecture A, "Previous Lecture".

    >>> import jax.numpy as jnp
    >>> one = jnp.ones(1)
    >>> params = {"K1": one.reshape(1, 1, 1, 1), "b1": one, "K2": one.reshape(1, 1, 1, 1), "b2": one}
    >>> params |= {"W4": one[None], "b4": one, "W5": jnp.ones((1, 2)), "b5": jnp.zeros(2)}
    >>> J, _ = cnn_fwd(params, jnp.ones((1, 1, 1, 1)), jnp.array([[1.0, 0.0]]))
    >>> round(float(J), 4)
    0.6931
    """
    require(
        set(params) == set(PARAMETERS),
        f"cnn_fwd: params has the keys {sorted(params)}, expected {sorted(PARAMETERS)}",
    )
    for name in PARAMETERS:
        ndim = {"K": 4, "W": 2, "b": 1}[name[0]]
        require(
            is_float_array(params[name], ndim),
            f"cnn_fwd: params[{name!r}] is {describe(params[name])}, expected a float array with {ndim} axes",
        )
    _check_shapes(params, X, labels.shape[1])
    K1, b1, K2, b2, W4, b4, W5, b5 = (params[name] for name in PARAMETERS)
    Z1, conv1 = conv2d_fwd(X, K1, b1)
    A1, _ = relu_fwd(Z1)
    Z2, conv2 = conv2d_fwd(A1, K2, b2)
    A2, _ = relu_fwd(Z2)
    A3 = A2.reshape(len(A2), -1)
    Z4, _ = dense_rows_fwd(A3, W4, b4)
    A4, _ = relu_fwd(Z4)
    Z5, _ = dense_rows_fwd(A4, W5, b5)
    J, loss_res = softmax_cross_entropy_fwd(Z5, labels)
    return J, (conv1, Z1, conv2, Z2, A3, W4, Z4, A4, W5, loss_res)


def _check_shapes(params: dict[str, Any], X: Array, K: int) -> None:
    """Check that each parameter's shape matches the output of the layer before it."""
    (f1h, f1w, _, l1), (f2h, f2w, _, l2), l4 = params["K1"].shape, params["K2"].shape, params["W4"].shape[1]
    h2, w2 = X.shape[1] - f1h - f2h + 2, X.shape[2] - f1w - f2w + 2
    require(
        h2 >= 1 and w2 >= 1,
        f"cnn_fwd: params['K1'] is {describe(params['K1'])} and params['K2'] {describe(params['K2'])},"
        f" expected both to fit X {describe(X)}",
    )
    shapes = {
        "K1": (f1h, f1w, X.shape[3], l1), "b1": (l1,), "K2": (f2h, f2w, l1, l2), "b2": (l2,),
        "W4": (h2 * w2 * l2, l4), "b4": (l4,), "W5": (l4, K), "b5": (K,),
    }  # fmt: skip
    for name, shape in shapes.items():
        wanted = ",".join(map(str, shape))
        require(
            params[name].shape == shape,
            f"cnn_fwd: params[{name!r}] is {describe(params[name])}, expected float[{wanted}]",
        )


def _check_images(conv1: Conv2DResiduals, Z1: Array, conv2: Conv2DResiduals, Z2: Array, A3: Array) -> None:
    """Check that each layer's residuals match the output of the layer before it."""
    conv1.check()
    conv2.check()
    require_shape("cnn_grads", "res[1]", Z1, conv1.out_shape)
    require_shape("cnn_grads", "res[2].x", conv2.x, Z1.shape)
    require_shape("cnn_grads", "res[3]", Z2, conv2.out_shape)
    require_shape("cnn_grads", "res[4]", A3, (len(Z2), math.prod(Z2.shape[1:])))


@checked
def cnn_grads(res: CNNRes, dJ: Scalar) -> dict[str, Array]:
    """Every gradient of the CNN, by the name of its tensor on the slide. [A-11] [A-10]

    Args:
        res: from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        ``dZ5``, ``dW5``, ``db5``, ``dA4``, ``dZ4``, ``dW4``, ``db4``, ``dA3``, ``dA2``, ``dZ2``, ``dK2``,
        ``db2``, ``dA1``, ``dZ1``, ``dK1``, ``db1``, ``dX``, ``dlabels``, each shaped like its tensor.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture A, "Chain Rule and Backpropagation".

    >>> import jax.numpy as jnp
    >>> one = jnp.ones(1)
    >>> params = {"K1": one.reshape(1, 1, 1, 1), "b1": one, "K2": one.reshape(1, 1, 1, 1), "b2": one}
    >>> params |= {"W4": one[None], "b4": one, "W5": jnp.ones((1, 2)), "b5": jnp.zeros(2)}
    >>> _, res = cnn_fwd(params, jnp.ones((1, 1, 1, 1)), jnp.array([[1.0, 0.0]]))
    >>> cnn_grads(res, 1.0)["dZ5"].tolist()
    [[-0.5, 0.5]]
    """
    conv1, Z1, conv2, Z2, A3, W4, Z4, A4, W5, loss_res = res
    _check_images(conv1, Z1, conv2, Z2, A3)
    dZ5, dlabels = softmax_cross_entropy_bwd(loss_res, dJ)
    dA4, dW5, db5 = dense_rows_bwd((A4, W5), dZ5)
    (dZ4,) = relu_bwd(Z4, dA4)
    dA3, dW4, db4 = dense_rows_bwd((A3, W4), dZ4)
    dA2 = dA3.reshape(Z2.shape)
    (dZ2,) = relu_bwd(Z2, dA2)
    dA1, dK2, db2 = conv2d_bwd(conv2, dZ2)
    (dZ1,) = relu_bwd(Z1, dA1)
    dX, dK1, db1 = conv2d_bwd(conv1, dZ1)
    return {
        "dZ5": dZ5, "dW5": dW5, "db5": db5, "dA4": dA4, "dZ4": dZ4, "dW4": dW4, "db4": db4,
        "dA3": dA3, "dA2": dA2, "dZ2": dZ2, "dK2": dK2, "db2": db2,
        "dA1": dA1, "dZ1": dZ1, "dK1": dK1, "db1": db1, "dX": dX, "dlabels": dlabels,
    }  # fmt: skip


@checked
def cnn_bwd(res: CNNRes, dJ: Scalar) -> tuple[dict[str, Array], Float[Array, "N H W C"], Float[Array, "N K"]]:
    """Pull ``dJ`` back through the CNN. [A-11]

    Args:
        res: from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        ``(dparams, dX, dlabels)``: dparams a dict with the keys of ``params``.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: Lecture A, "Chain Rule and Backpropagation".

    >>> import jax.numpy as jnp
    >>> one = jnp.ones(1)
    >>> params = {"K1": one.reshape(1, 1, 1, 1), "b1": one, "K2": one.reshape(1, 1, 1, 1), "b2": one}
    >>> params |= {"W4": one[None], "b4": one, "W5": jnp.ones((1, 2)), "b5": jnp.zeros(2)}
    >>> _, res = cnn_fwd(params, jnp.ones((1, 1, 1, 1)), jnp.array([[1.0, 0.0]]))
    >>> cnn_bwd(res, 1.0)[0]["b5"].tolist()
    [-0.5, 0.5]
    """
    g = cnn_grads(res, dJ)
    return {name: g[f"d{name}"] for name in PARAMETERS}, g["dX"], g["dlabels"]
