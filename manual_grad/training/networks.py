"""The networks of lectures D and A, and a GPT, each with its loss and gradient by hand and by autodiff.

Both gradients come from their own forward pass: the formulas' on one side, the reference's plain functions
under ``jax.value_and_grad`` on the other. The labels are one-hot rows, and a row of zeros is a sample that
does not count: by A-10 its loss and its gradient are 0, which is how batches are filled up to a round size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manual_grad.border import require
from manual_grad.formulas.softmax import softmax_cross_entropy_bwd, softmax_cross_entropy_fwd
from manual_grad.networks.cnn import PARAMETERS, cnn_bwd, cnn_fwd
from manual_grad.networks.gpt import gpt_bwd, gpt_fwd
from manual_grad.networks.mlp import mlp_rows_bwd, mlp_rows_fwd
from manual_grad_reference.cnn import cnn_scores
from manual_grad_reference.gpt import gpt_scores
from manual_grad_reference.mlp import mlp_rows
from manual_grad_reference.stable import (
    stable_softmax_cross_entropy,
    stable_softmax_cross_entropy_with_integer_labels,
)

Params = Any
HIDDEN = (128, 50, 50, 25)  # lecture D's hidden layers


@dataclass(frozen=True)
class Network:
    """A network for the training loop; each function takes ``(params, X (N, H, W), Y (N, K))``.

    ``manual`` and ``autodiff`` return ``(loss, gradient structured like params)``; ``points`` returns a
    number per held-out sample, whose mean is called ``measure``. ``chunk`` is the number of samples of a full
    batch processed at once. For a text, X and Y are integers of shape (N, L). ``eps`` is Adam's ε.
    """

    name: str
    initial: Callable[[Sequence[int], int, int, Any], Params]
    gradients: dict[str, Callable[[Params, Array, Array], tuple[Array, Params]]]
    points: dict[str, Callable[[Params, Array, Array], Array]]
    chunk: int
    measure: str = "test_accuracy"
    eps: float = 1e-8


def parameter_names(params: Params) -> list[str]:
    """The lectures' names of the parameter arrays, in the order of the tree's leaves.

    >>> parameter_names([(1.0, 2.0), (3.0, 4.0)])
    ['W1', 'b1', 'W2', 'b2']
    """
    if isinstance(params, dict):
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        return [".".join(str(getattr(p, "key", getattr(p, "idx", p))) for p in path) for path in paths]
    return [f"{name}{l}" for l in range(1, len(params) + 1) for name in "Wb"]


def _he(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Gaussian weights of variance 2 / (inputs of a unit), which keeps ReLU layers at the same scale."""
    return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))


# ---------------------------------------------------------------- lecture D's five layers, in rows


def mlp_initial(image: Sequence[int], K: int, seed: int, dtype: Any) -> Params:
    """Five layers, H·W-128-50-50-25-K: weights drawn by He's rule, biases 0.

    >>> [W.shape for W, b in mlp_initial((8, 8), 10, 0, "float32")]
    [(64, 128), (128, 50), (50, 50), (50, 25), (25, 10)]
    """
    rng = np.random.default_rng([seed, 0])
    widths = (int(np.prod(image)), *HIDDEN, K)
    return [(jnp.asarray(_he(rng, d, m), dtype), jnp.zeros(m, dtype)) for d, m in pairwise(widths)]


def _rows(X: Array) -> Float[Array, "N d"]:
    return X.reshape(len(X), -1)


def mlp_manual(params: Params, X: Array, Y: Array) -> tuple[Array, Params]:
    """Loss and gradient of the five layers by the formulas. [D-02] … [D-10]"""
    Z, res = mlp_rows_fwd(params, _rows(X))
    loss, loss_res = softmax_cross_entropy_fwd(Z, Y)
    dZ, _ = softmax_cross_entropy_bwd(loss_res, 1.0)
    return loss, mlp_rows_bwd(res, dZ)[0]


def mlp_autodiff(params: Params, X: Array, Y: Array) -> tuple[Array, Params]:
    """The same by autodiff of the reference's forward pass."""
    return jax.value_and_grad(lambda p: stable_softmax_cross_entropy(mlp_rows(p, _rows(X)), Y))(params)


# ---------------------------------------------------------------- lecture A's convolutional network


def cnn_initial(image: Sequence[int], K: int, seed: int, dtype: Any) -> Params:
    """Two convolutions of 8 and 16 channels, 64 hidden units, K classes: He's rule, biases 0.

    Their kernels are 5×5, and 3×3 on images below 20 pixels: nothing pools, so the kernels alone decide how
    far a unit sees.

    >>> {name: p.shape for name, p in cnn_initial((8, 8), 10, 0, "float32").items() if name[0] != "b"}
    {'K1': (3, 3, 1, 8), 'K2': (3, 3, 8, 16), 'W4': (256, 64), 'W5': (64, 10)}
    >>> cnn_initial((28, 28), 10, 0, "float32")["K2"].shape
    (5, 5, 8, 16)
    """
    rng = np.random.default_rng([seed, 0])
    require(min(image) >= 5, f"cnn: the images are {image[0]}×{image[1]}, expected at least 5×5")
    f, l1, l2, l4 = 5 if min(image) >= 20 else 3, 8, 16, 64
    flat = (image[0] - 2 * f + 2) * (image[1] - 2 * f + 2) * l2
    shapes = (f, f, 1, l1), (l1,), (f, f, l1, l2), (l2,), (flat, l4), (l4,), (l4, K), (K,)
    arrays = [_he(rng, *shape) if len(shape) > 1 else np.zeros(shape) for shape in shapes]
    return {name: jnp.asarray(array, dtype) for name, array in zip(PARAMETERS, arrays, strict=True)}


def cnn_manual(params: Params, X: Array, Y: Array) -> tuple[Array, Params]:
    """Loss and gradient of the CNN by the formulas. [A-11]"""
    J, res = cnn_fwd(params, X[..., None], Y)
    return J, cnn_bwd(res, 1.0)[0]


def cnn_autodiff(params: Params, X: Array, Y: Array) -> tuple[Array, Params]:
    """The same by autodiff of the reference's forward pass."""
    return jax.value_and_grad(lambda p: stable_softmax_cross_entropy(cnn_scores(p, X[..., None]), Y))(params)


def _cnn_log_probs(params: Params, X: Array, Y: Array) -> Array:
    """log ŷ, which orders the classes as the logits do."""
    _, (*_, (_, log_probs, _)) = cnn_fwd(params, X[..., None], Y)
    return log_probs


# ---------------------------------------------------------------- a GPT

HEADS, WIDTH, BLOCKS = 4, 64, 2


def gpt_initial(
    shape: Sequence[int], V: int, seed: int, dtype: Any, D: int = WIDTH, blocks: int = BLOCKS
) -> Params:
    """A GPT for windows of L characters: weights of variance 1/inputs, less where a branch ends.

    >>> params = gpt_initial((64,), 100, 0, "float32")
    >>> len(params["blocks"]), params["wpe"].shape, sum(leaf.size for leaf in jax.tree.leaves(params))
    (2, (64, 64), 110592)
    """
    rng = np.random.default_rng([seed, 0])

    def dense(n: int, m: int, share: float = 1.0) -> Params:
        W = rng.normal(size=(n, m)) * (share / n) ** 0.5
        return {"W": jnp.asarray(W, dtype), "b": jnp.zeros(m, dtype)}

    def table(n: int) -> Array:
        return jnp.asarray(0.02 * rng.normal(size=(n, D)), dtype)

    def norm() -> Params:
        return {"gamma": jnp.ones(D, dtype), "beta": jnp.zeros(D, dtype)}

    def block() -> Params:
        share = 1 / (2 * blocks)  # the number of branches that are added
        attention = {"ln1": norm(), "qkv": dense(D, 3 * D), "proj": dense(D, D, share)}
        return attention | {"ln2": norm(), "up": dense(D, 4 * D), "down": dense(4 * D, D, share)}

    made = {"wte": table(V), "wpe": table(shape[0]), "blocks": [block() for _ in range(blocks)]}
    return made | {"lnf": norm()}


def gpt_manual(params: Params, X: Array, Y: Array) -> tuple[Array, Params]:
    """Loss and gradient of a GPT by the formulas. [E-32]"""
    J, res = gpt_fwd(params, X, Y, heads=HEADS)
    return J, gpt_bwd(res, 1.0)[0]


def gpt_autodiff(params: Params, X: Array, Y: Array) -> tuple[Array, Params]:
    """The same by autodiff of the reference's forward pass."""
    return jax.value_and_grad(_gpt_loss)(params, X, Y)


def _gpt_loss(params: Params, X: Array, Y: Array) -> Array:
    scores = gpt_scores(params, X, HEADS)
    return stable_softmax_cross_entropy_with_integer_labels(scores.reshape(X.size, -1), Y.reshape(-1))


def _right(scores: Callable) -> Callable[[Params, Array, Array], Array]:
    """Which samples have their largest score at their label; rows without a label do not count."""
    return lambda p, X, Y: (scores(p, X, Y).argmax(axis=1) == Y.argmax(axis=1)) & (Y.sum(axis=1) > 0)


def _each(loss: Callable) -> Callable[[Params, Array, Array], Array]:
    """Each window's loss, as it enters a chunk's mean."""
    return lambda p, X, Y: jnp.full(len(X), loss(p, X, Y))


NETWORKS = {
    "mlp": Network(
        "mlp",
        mlp_initial,
        {"manual": mlp_manual, "autodiff": mlp_autodiff},
        {
            "manual": _right(lambda params, X, Y: mlp_rows_fwd(params, _rows(X))[0]),
            "autodiff": _right(lambda params, X, Y: mlp_rows(params, _rows(X))),
        },
        chunk=1000,
    ),
    "cnn": Network(
        "cnn",
        cnn_initial,
        {"manual": cnn_manual, "autodiff": cnn_autodiff},
        {
            "manual": _right(_cnn_log_probs),
            "autodiff": _right(lambda params, X, Y: cnn_scores(params, X[..., None])),
        },
        chunk=200,
    ),
    "gpt": Network(
        "gpt",
        gpt_initial,
        {"manual": gpt_manual, "autodiff": gpt_autodiff},
        {
            "manual": _each(lambda params, X, Y: gpt_fwd(params, X, Y, heads=HEADS)[0]),
            "autodiff": _each(_gpt_loss),
        },
        chunk=64,
        measure="validation_loss",
        eps=1e-5,  # a key's bias has gradient 0; Adam would turn its rounding errors into whole steps
    ),
}
