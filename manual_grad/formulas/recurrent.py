"""Recurrences, and backpropagation through time by hand: RNN, GRU, LSTM and the linear scan.

Forward, a step makes h_t of h_{t−1} and of what the inputs contribute, which is one product for all steps.
Backward, the steps run in reverse: what arrives at h_t is the cotangent of the output hs_t *and* what step
t + 1 sends back. A weight is used in every step, so its gradient is a sum over all of them: once every step's
dz_t is known, that sum is one product.

Half precision is computed in float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from manual_grad.border import checked, describe, require, require_shape


def _wide(*arrays: Array) -> tuple[Array, ...]:
    """The arrays in float32 at least."""
    return tuple(array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in arrays)


def _in_reverse(step: Callable[..., Any], carry: Any, over: Any) -> tuple[Any, Any]:
    """``lax.scan`` from the last step to the first."""
    return lax.scan(step, carry, over, reverse=True)


def _before(h0: Float[Array, "..."], hs: Float[Array, "..."]) -> Float[Array, "..."]:
    """h_{t−1} for each t: h0, h_1, …, h_{T−1}."""
    return jnp.concatenate([h0[None].astype(hs.dtype), hs[:-1]])


def _rows(z: Float[Array, "T N *H"]) -> Float[Array, "TN *H"]:
    """All steps' samples as the rows of one matrix."""
    return z.reshape(-1, *z.shape[2:])


def _summed(dz: Float[Array, "T N gH"], by: Float[Array, "T N D"]) -> Float[Array, "gH D"]:
    """Σ_t dz_tᵀ by_t, over all steps in one product."""
    return _rows(dz).T @ _rows(by)


def _require_gates(formula: str, W_ih: Array, h0: Array, gates: int) -> None:
    """Refuse parameters that are not those of so many gates of H features."""
    H, D = h0.shape[1], W_ih.shape[1]
    require(
        W_ih.shape[0] == gates * H,
        f"{formula}: W_ih is {describe(W_ih)}, expected float[{gates * H},{D}], {gates} gates of {H} each, as"
        f" h0 is {describe(h0)}",
    )


def _require_cotangents(formula: str, douts: Sequence[Array], *shapes: tuple[int, ...]) -> None:
    for i, (dout, shape) in enumerate(zip(douts, shapes, strict=True)):
        require_shape(formula, f"dout[{i}]", dout, shape)


# ---------------------------------------------------------------- rnn


@partial(jax.tree_util.register_dataclass, data_fields=("x", "W_ih", "W_hh", "h0", "hs"), meta_fields=())
@dataclass(frozen=True)
class RNNResiduals:
    """What the backward pass of an RNN needs: its inputs, and the hidden states."""

    x: Float[Array, "T N D"]
    W_ih: Float[Array, "H D"]
    W_hh: Float[Array, "H H"]
    h0: Float[Array, "N H"]
    hs: Float[Array, "T N H"]


@checked
def rnn_fwd(
    x: Float[Array, "T N D"],
    W_ih: Float[Array, "H D"],
    W_hh: Float[Array, "H H"],
    b_ih: Float[Array, " H"],
    b_hh: Float[Array, " H"],
    h0: Float[Array, "N H"],
) -> tuple[tuple[Float[Array, "T N H"], Float[Array, "N H"]], RNNResiduals]:
    """h_t = tanh(x_t W_ihᵀ + b_ih + h_{t−1} W_hhᵀ + b_hh), for t = 1 … T. [E-14]

    Args:
        x: (T, N, D), time first.
        W_ih, W_hh: (H, D) and (H, H).
        b_ih, b_hh: (H,); two of them, as in PyTorch.
        h0: (N, H).
    Returns:
        ``((hs, h_T), res)``: hs (T, N, H) holds h_1 … h_T, and h_T (N, H) is its last.
    Raises:
        InputError: a shape or dtype does not fit, or the sequence is empty.
    Source: Elman, "Finding Structure in Time", 1990; the layout is PyTorch's.

    >>> one, half = jnp.ones((1, 1)), jnp.full((1, 1), 0.5)
    >>> (hs, h_T), _ = rnn_fwd(jnp.zeros((2, 1, 1)), one, one, jnp.zeros(1), jnp.zeros(1), half)
    >>> bool(hs[1, 0, 0] == jnp.tanh(jnp.tanh(0.5))), bool(h_T[0, 0] == hs[1, 0, 0])
    (True, True)
    """
    wide_x, W, U, b, c, h = _wide(x, W_ih, W_hh, b_ih, b_hh, h0)
    U = U.T

    def step(h: Array, from_x: Array) -> tuple[Array, Array]:
        h = jnp.tanh(from_x + h @ U)  # [E-14]
        return h, h.astype(x.dtype)

    _, hs = lax.scan(step, h, wide_x @ W.T + (b + c))
    return (hs, hs[-1]), RNNResiduals(x, W_ih, W_hh, h0, hs)


@checked
def rnn_bwd(
    res: RNNResiduals, dout: tuple[Float[Array, "T N H"], Float[Array, "N H"]]
) -> tuple[
    Float[Array, "T N D"],
    Float[Array, "H D"],
    Float[Array, "H H"],
    Float[Array, " H"],
    Float[Array, " H"],
    Float[Array, "N H"],
]:
    """Pull ``(dhs, dh_T)`` back through an RNN, step by step from the last. [E-14]

        dh_t = dhs_t + dz_{t+1} W_hh        dz_t = (1 − h_t²) dh_t

        dx_t = dz_t W_ih        dW_ih = Σ_t dz_tᵀ x_t        dW_hh = Σ_t dz_tᵀ h_{t−1}        db = Σ_t 1ᵀ dz_t

    In the last step dh_T stands in the place of dz_{T+1} W_hh; what is left at the end, dz_1 W_hh, is dh0.

    Args:
        res: from the forward pass.
        dout: the cotangents of hs and h_T, (T, N, H) and (N, H).
    Returns:
        ``(dx, dW_ih, dW_hh, db_ih, db_hh, dh0)``, each of its primal's shape.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has other shapes or dtypes.
    Source: Werbos, "Backpropagation Through Time", 1990; the derivation is in the book's chapter E.

    >>> one = jnp.ones((1, 1))
    >>> _, res = rnn_fwd(jnp.zeros((1, 1, 1)), one, one, jnp.zeros(1), jnp.zeros(1), jnp.zeros((1, 1)))
    >>> dx, *_, dh0 = rnn_bwd(res, (jnp.full((1, 1, 1), 2.0), jnp.full((1, 1), 3.0)))
    >>> dx.tolist(), dh0.tolist()
    ([[[5.0]]], [[5.0]])
    """
    dhs, dh_T = dout
    _require_cotangents("rnn_bwd", dout, res.hs.shape, res.h0.shape)
    x, W_ih, W_hh, h0, hs, dhs, dh = _wide(res.x, res.W_ih, res.W_hh, res.h0, res.hs, dhs, dh_T)

    def step(dh: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        h, dh_out = at
        dz = (1 - h**2) * (dh_out + dh)  # [E-14]
        return dz @ W_hh, dz  # [E-14]

    dh0, dz = _in_reverse(step, dh, (hs, dhs))
    dx, dW_ih = dz @ W_ih, _summed(dz, x)  # [E-14]
    dW_hh, db = _summed(dz, _before(h0, hs)), dz.sum(axis=(0, 1))  # [E-14]
    dx, dW_ih, dW_hh, db, dh0 = (d.astype(res.x.dtype) for d in (dx, dW_ih, dW_hh, db, dh0))
    return dx, dW_ih, dW_hh, db, db, dh0
