"""Recurrences, and backpropagation through time by hand: RNN, GRU, LSTM and the linear scan.

In the forward pass a step computes h_t from h_{t−1} and the contribution of the inputs, which is one product
for all steps. In the backward pass the steps run in reverse: the gradient of h_t is the cotangent of the
output hs_t *plus* what step t + 1 passes back. A weight is used in every step, so its gradient is a sum over
all of them: once every dz_t is known, that sum is one product.

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
    """The arrays in float32 or wider."""
    return tuple(array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in arrays)


def _in_reverse(step: Callable[..., Any], carry: Any, over: Any) -> tuple[Any, Any]:
    """``lax.scan`` from the last step to the first."""
    return lax.scan(step, carry, over, reverse=True)


def _before(h0: Float[Array, "..."], hs: Float[Array, "..."]) -> Float[Array, "..."]:
    """h_{t−1} for each t: h0, h_1, …, h_{T−1}."""
    return jnp.concatenate([h0[None].astype(hs.dtype), hs[:-1]])


def _summed(dz: Float[Array, "T N gH"], by: Float[Array, "T N D"]) -> Float[Array, "gH D"]:
    """Σ_t dz_tᵀ by_t in one product; with T and N as one axis, sharded samples would have to be gathered."""
    return jnp.einsum("tnh,tnd->hd", dz, by)


def _require_gates(formula: str, W_ih: Array, h0: Array, gates: int) -> None:
    """Refuse parameters that do not have this many gates of H features."""
    H, D = h0.shape[1], W_ih.shape[1]
    require(
        W_ih.shape[0] == gates * H,
        f"{formula}: W_ih is {describe(W_ih)}, expected float[{gates * H},{D}], {gates} gates of {H} each, "
        f"because h0 is {describe(h0)}",
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
        b_ih, b_hh: (H,); two biases, as in PyTorch.
        h0: (N, H).
    Returns:
        ``((hs, h_T), res)``: hs (T, N, H) holds h_1 … h_T, and h_T (N, H) is its last.
    Raises:
        InputError: a shape or dtype does not match, or the sequence is empty.
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

    In the last step dh_T takes the place of dz_{T+1} W_hh; the remainder at the end, dz_1 W_hh, is dh0.

    Args:
        res: from the forward pass.
        dout: the cotangents of hs and h_T, (T, N, H) and (N, H).
    Returns:
        ``(dx, dW_ih, dW_hh, db_ih, db_hh, dh0)``, each with the shape of its primal.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has wrong shapes or dtypes.
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


# ---------------------------------------------------------------- gru


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("x", "W_ih", "W_hh", "h0", "hs", "gates", "candidates"),
    meta_fields=(),
)
@dataclass(frozen=True)
class GRUResiduals:
    """What the backward pass of a GRU needs: ``gates`` are r, z, n, and ``candidates`` U_n h_{t−1} + b_hn."""

    x: Float[Array, "T N D"]
    W_ih: Float[Array, "gH D"]
    W_hh: Float[Array, "gH H"]
    h0: Float[Array, "N H"]
    hs: Float[Array, "T N H"]
    gates: Float[Array, "T N gH"]
    candidates: Float[Array, "T N H"]


@checked
def gru_fwd(
    x: Float[Array, "T N D"],
    W_ih: Float[Array, "gH D"],
    W_hh: Float[Array, "gH H"],
    b_ih: Float[Array, " gH"],
    b_hh: Float[Array, " gH"],
    h0: Float[Array, "N H"],
) -> tuple[tuple[Float[Array, "T N H"], Float[Array, "N H"]], GRUResiduals]:
    """h_t = (1 − z_t) n_t + z_t h_{t−1}, with the gates r, z and the candidate n. [E-15]

        r_t, z_t = σ(W_r x_t + b_ir + U_r h_{t−1} + b_hr), likewise z_t

        n_t = tanh(W_n x_t + b_in + r_t (U_n h_{t−1} + b_hn))

    r is outside the product U_n h, as in cuDNN and PyTorch, so b_in and b_hn cannot be merged into one bias.

    Args:
        x: (T, N, D), time first.
        W_ih, W_hh: (3H, D) and (3H, H): the rows of r, then those of z, then those of n.
        b_ih, b_hh: (3H,), in the same order.
        h0: (N, H).
    Returns:
        ``((hs, h_T), res)``: hs (T, N, H) holds h_1 … h_T, and h_T (N, H) is its last.
    Raises:
        InputError: the parameters do not have three gates of H features, a shape or dtype does not match, or
            the sequence is empty.
    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, section 2.3, with r
        outside the product; the layout is PyTorch's.

    >>> one, zero = jnp.ones((1, 1)), jnp.zeros((3, 1))
    >>> gru_fwd(one[None], zero, zero, zero[:, 0], zero[:, 0], one)[0][1].tolist()
    [[0.5]]
    """
    _require_gates("gru_fwd", W_ih, h0, 3)
    H = h0.shape[1]
    wide_x, W, U, b, c, h = _wide(x, W_ih, W_hh, b_ih, b_hh, h0)
    U = U.T

    def step(h: Array, from_x: Array) -> tuple[Array, tuple[Array, ...]]:
        from_h = h @ U + c
        rz = jax.nn.sigmoid(from_x[:, : 2 * H] + from_h[:, : 2 * H])  # [E-15]
        r, z, candidate = rz[:, :H], rz[:, H:], from_h[:, 2 * H :]
        n = jnp.tanh(from_x[:, 2 * H :] + r * candidate)  # [E-15]
        h = (1 - z) * n + z * h  # [E-15]
        saved = (h, rz, n, candidate)
        return h, jax.tree.map(lambda array: array.astype(x.dtype), saved)

    _, (hs, rzs, ns, candidates) = lax.scan(step, h, wide_x @ W.T + b)
    gates = jnp.concatenate([rzs, ns], axis=2)
    return (hs, hs[-1]), GRUResiduals(x, W_ih, W_hh, h0, hs, gates, candidates)


@checked
def gru_bwd(
    res: GRUResiduals, dout: tuple[Float[Array, "T N H"], Float[Array, "N H"]]
) -> tuple[
    Float[Array, "T N D"],
    Float[Array, "gH D"],
    Float[Array, "gH H"],
    Float[Array, " gH"],
    Float[Array, " gH"],
    Float[Array, "N H"],
]:
    """Pull ``(dhs, dh_T)`` back through a GRU, step by step from the last. [E-15]

        dh = dhs_t + what step t + 1 passes back

        dpre_z = dh (h_{t−1} − n) z (1 − z)        dpre_n = dh (1 − z) (1 − n²)

        dpre_r = dpre_n (U_n h_{t−1} + b_hn) r (1 − r)

    (dpre_r, dpre_z, dpre_n) is the gradient of W_ih x_t; that of U h_{t−1} has r dpre_n in place of dpre_n.
    Step t − 1 receives dh z plus the latter times W_hh.

    Args:
        res: from the forward pass.
        dout: the cotangents of hs and h_T, (T, N, H) and (N, H).
    Returns:
        ``(dx, dW_ih, dW_hh, db_ih, db_hh, dh0)``, each with the shape of its primal.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has wrong shapes or dtypes.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> one, zero = jnp.ones((1, 1)), jnp.zeros((3, 1))
    >>> _, res = gru_fwd(one[None], zero, zero, zero[:, 0], zero[:, 0], one)
    >>> gru_bwd(res, (one[None], one))[3].tolist()
    [0.0, 0.5, 1.0]
    """
    dhs, dh_T = dout
    _require_cotangents("gru_bwd", dout, res.hs.shape, res.h0.shape)
    H = res.h0.shape[1]
    x, W_ih, W_hh, h0, hs, gates, candidates = _wide(
        res.x, res.W_ih, res.W_hh, res.h0, res.hs, res.gates, res.candidates
    )
    before = _before(h0, hs)
    dhs, dh = _wide(dhs, dh_T)

    def step(dh: Array, at: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        dh_out, h, rzn, candidate = at
        r, z, n = rzn[:, :H], rzn[:, H : 2 * H], rzn[:, 2 * H :]
        dh = dh_out + dh  # [E-15]
        dz = dh * (h - n) * z * (1 - z)  # [E-15]
        dn = dh * (1 - z) * (1 - n**2)  # [E-15]
        dr = dn * candidate * r * (1 - r)  # [E-15]
        to_h = jnp.concatenate([dr, dz, r * dn], axis=1)
        return dh * z + to_h @ W_hh, (dn, to_h)  # [E-15]

    dh0, (dns, to_h) = _in_reverse(step, dh, (dhs, before, gates, candidates))
    to_x = jnp.concatenate([to_h[:, :, : 2 * H], dns], axis=2)
    dx, dW_ih, dW_hh = to_x @ W_ih, _summed(to_x, x), _summed(to_h, before)  # [E-15]
    db_ih, db_hh = to_x.sum(axis=(0, 1)), to_h.sum(axis=(0, 1))  # [E-15]
    dtype = res.x.dtype
    dx, dW_ih, dW_hh, dh0 = dx.astype(dtype), dW_ih.astype(dtype), dW_hh.astype(dtype), dh0.astype(dtype)
    return dx, dW_ih, dW_hh, db_ih.astype(dtype), db_hh.astype(dtype), dh0


# ---------------------------------------------------------------- lstm


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("x", "W_ih", "W_hh", "h0", "c0", "hs", "cs", "gates"),
    meta_fields=(),
)
@dataclass(frozen=True)
class LSTMResiduals:
    """What the backward pass of an LSTM needs: its inputs, the states, and the gates i, f, g, o."""

    x: Float[Array, "T N D"]
    W_ih: Float[Array, "gH D"]
    W_hh: Float[Array, "gH H"]
    h0: Float[Array, "N H"]
    c0: Float[Array, "N H"]
    hs: Float[Array, "T N H"]
    cs: Float[Array, "T N H"]
    gates: Float[Array, "T N gH"]


@checked
def lstm_fwd(
    x: Float[Array, "T N D"],
    W_ih: Float[Array, "gH D"],
    W_hh: Float[Array, "gH H"],
    b_ih: Float[Array, " gH"],
    b_hh: Float[Array, " gH"],
    h0: Float[Array, "N H"],
    c0: Float[Array, "N H"],
) -> tuple[tuple[Float[Array, "T N H"], Float[Array, "N H"], Float[Array, "N H"]], LSTMResiduals]:
    """c_t = f_t c_{t−1} + i_t g_t and h_t = o_t tanh(c_t), with the gates i, f, g, o. [E-16]

        i, f, o = σ(W x_t + b_ih + U h_{t−1} + b_hh), each with its rows        g = tanh(…), with its own

    Args:
        x: (T, N, D), time first.
        W_ih, W_hh: (4H, D) and (4H, H): the rows of i, then those of f, of g and of o.
        b_ih, b_hh: (4H,), in the same order.
        h0, c0: (N, H).
    Returns:
        ``((hs, h_T, c_T), res)``: hs (T, N, H) holds h_1 … h_T; h_T and c_T, (N, H), are the last states.
    Raises:
        InputError: the parameters do not have four gates of H features, a shape or dtype does not match, or
            the sequence is empty.
    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers,
        Schmidhuber and Cummins, 2000; the layout is PyTorch's.

    >>> one, zero = jnp.ones((1, 1)), jnp.zeros((4, 1))
    >>> (_, _, c_T), _ = lstm_fwd(jnp.ones((2, 1, 1)), zero, zero, zero[:, 0], zero[:, 0], one, 8 * one)
    >>> c_T.tolist()
    [[2.0]]
    """
    _require_gates("lstm_fwd", W_ih, h0, 4)
    wide_x, W, U, b_x, b_h, h, c = _wide(x, W_ih, W_hh, b_ih, b_hh, h0, c0)
    U = U.T

    def step(state: tuple[Array, Array], from_x: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        h, c = state
        i, f, g, o = jnp.split(from_x + h @ U, 4, axis=1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)  # [E-16]
        c = f * c + i * g  # [E-16]
        h = o * jnp.tanh(c)  # [E-16]
        saved = (h, c, jnp.concatenate([i, f, g, o], axis=1))
        return (h, c), jax.tree.map(lambda array: array.astype(x.dtype), saved)

    _, (hs, cs, gates) = lax.scan(step, (h, c), wide_x @ W.T + (b_x + b_h))
    return (hs, hs[-1], cs[-1]), LSTMResiduals(x, W_ih, W_hh, h0, c0, hs, cs, gates)


@checked
def lstm_bwd(
    res: LSTMResiduals, dout: tuple[Float[Array, "T N H"], Float[Array, "N H"], Float[Array, "N H"]]
) -> tuple[
    Float[Array, "T N D"],
    Float[Array, "gH D"],
    Float[Array, "gH H"],
    Float[Array, " gH"],
    Float[Array, " gH"],
    Float[Array, "N H"],
    Float[Array, "N H"],
]:
    """Pull ``(dhs, dh_T, dc_T)`` back through an LSTM, step by step from the last. [E-16]

        dh = dhs_t + what step t + 1 passes back        dc = dc_{t+1} f_{t+1} + dh o (1 − tanh² c_t)

        dpre_i = dc g i (1 − i)        dpre_f = dc c_{t−1} f (1 − f)

        dpre_g = dc i (1 − g²)        dpre_o = dh tanh(c_t) o (1 − o)

    The path from cell to cell is dc f, with no weights and no activation. Step t − 1 receives dc f for its
    cell and (dpre_i, dpre_f, dpre_g, dpre_o) W_hh for its h.

    Args:
        res: from the forward pass.
        dout: the cotangents of hs, h_T and c_T, (T, N, H), (N, H) and (N, H).
    Returns:
        ``(dx, dW_ih, dW_hh, db_ih, db_hh, dh0, dc0)``, each with the shape of its primal.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dout`` has wrong shapes or dtypes.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> one, zero = jnp.ones((1, 1)), jnp.zeros((4, 1))
    >>> _, res = lstm_fwd(jnp.ones((3, 1, 1)), zero, zero, zero[:, 0], zero[:, 0], one, one)
    >>> lstm_bwd(res, (jnp.zeros((3, 1, 1)), 0 * one, one))[-1].tolist()
    [[0.125]]
    """
    dhs, dh_T, dc_T = dout
    _require_cotangents("lstm_bwd", dout, res.hs.shape, res.h0.shape, res.h0.shape)
    x, W_ih, W_hh, h0, c0, hs, cs, gates = _wide(
        res.x, res.W_ih, res.W_hh, res.h0, res.c0, res.hs, res.cs, res.gates
    )
    dhs, dh, dc = _wide(dhs, dh_T, dc_T)

    def step(sent: tuple[Array, Array], at: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        (dh, dc), (dh_out, c, c_before, ifgo) = sent, at
        i, f, g, o = jnp.split(ifgo, 4, axis=1)
        dh, tanh_c = dh_out + dh, jnp.tanh(c)  # [E-16]
        dc = dc + dh * o * (1 - tanh_c**2)  # [E-16]
        di, df = dc * g * i * (1 - i), dc * c_before * f * (1 - f)  # [E-16]
        dg, do = dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)  # [E-16]
        dpre = jnp.concatenate([di, df, dg, do], axis=1)
        return (dpre @ W_hh, dc * f), dpre  # [E-16]

    (dh0, dc0), dpre = _in_reverse(step, (dh, dc), (dhs, cs, _before(c0, cs), gates))
    dx, dW_ih, dW_hh = dpre @ W_ih, _summed(dpre, x), _summed(dpre, _before(h0, hs))  # [E-16]
    db = dpre.sum(axis=(0, 1))  # [E-16]
    dx, dW_ih, dW_hh, db, dh0, dc0 = (d.astype(res.x.dtype) for d in (dx, dW_ih, dW_hh, db, dh0, dc0))
    return dx, dW_ih, dW_hh, db, db, dh0, dc0


# ---------------------------------------------------------------- linear scan


@partial(jax.tree_util.register_dataclass, data_fields=("a", "h0", "hs"), meta_fields=())
@dataclass(frozen=True)
class LinearScanResiduals:
    """What the backward pass of a linear scan needs."""

    a: Float[Array, "T *S"]
    h0: Float[Array, "*S"]
    hs: Float[Array, "T *S"]


@checked
def linear_scan_fwd(
    a: Float[Array, "T *S"], b: Float[Array, "T *S"], h0: Float[Array, "*S"]
) -> tuple[Float[Array, "T *S"], LinearScanResiduals]:
    """h_t = a_t h_{t−1} + b_t, entry by entry: the recurrence of linear RNNs and state-space models. [E-17]

    Args:
        a, b: (T, …), time first.
        h0: (…).
    Returns:
        ``(hs, res)``: hs (T, …) holds h_1 … h_T.
    Raises:
        InputError: a shape or dtype does not match, or the sequence is empty.
    Source: Martin and Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length", 2018,
        equation 5.

    >>> linear_scan_fwd(jnp.full(3, 2.0), jnp.array([1.0, 0.0, 1.0]), jnp.array(0.0))[0].tolist()
    [1.0, 2.0, 5.0]
    """
    wide_a, wide_b, h = _wide(a, b, h0)

    def step(h: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = at
        h = a * h + b  # [E-17]
        return h, h.astype(h0.dtype)

    _, hs = lax.scan(step, h, (wide_a, wide_b))
    return hs, LinearScanResiduals(a, h0, hs)


@checked
def linear_scan_bwd(
    res: LinearScanResiduals, dhs: Float[Array, "T *S"]
) -> tuple[Float[Array, "T *S"], Float[Array, "T *S"], Float[Array, "*S"]]:
    """Pull ``dhs`` back through a linear scan: a linear scan in reverse, with the factor one step on. [E-17]

        db_t = dhs_t + a_{t+1} db_{t+1}        da_t = db_t h_{t−1}        dh0 = a_1 db_1

    Args:
        res: from the forward pass.
        dhs: cotangent of hs, (T, …).
    Returns:
        ``(da, db, dh0)``, (T, …) twice and (…).
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dhs`` has the wrong shape or dtype.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> _, res = linear_scan_fwd(jnp.full(3, 2.0), jnp.ones(3), jnp.array(1.0))
    >>> [d.tolist() for d in linear_scan_bwd(res, jnp.array([0.0, 0.0, 1.0]))]
    [[4.0, 6.0, 7.0], [4.0, 2.0, 1.0], 8.0]
    """
    require_shape("linear_scan_bwd", "dhs", dhs, res.hs.shape)
    a, h0, hs, wide_dhs = _wide(res.a, res.h0, res.hs, dhs)

    def step(sent: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        a, dh_out = at
        db = dh_out + sent  # [E-17]
        return a * db, db  # [E-17]

    dh0, db = _in_reverse(step, jnp.zeros_like(h0), (a, wide_dhs))
    da = db * _before(h0, hs)  # [E-17]
    return da.astype(dhs.dtype), db.astype(dhs.dtype), dh0.astype(dhs.dtype)
