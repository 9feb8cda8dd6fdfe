"""Mistakes in a loop's states, running sums and resets, and in what is stopped there."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.checker.causes import by, named_first, right

RNG = np.random.default_rng(23)
RESETS = np.array([0, 0, 0, 1, 0, 0, 0])
X, W, U = RNG.standard_normal((7, 2)), RNG.standard_normal((2, 12)), 0.5 * RNG.standard_normal((3, 12))
PEEPHOLES = tuple(RNG.standard_normal((3, 3)))
ROWS = RNG.standard_normal((6, 3)), 0.5 * RNG.standard_normal((6, 3)), RNG.standard_normal((6, 2))
LONG = *(RNG.standard_normal((8, n)) for n in (3, 3, 2)), -RNG.uniform(0.1, 0.6, 8)
STEPS, PADDED = RNG.standard_normal((5, 3, 2)), np.arange(5)[:, None] < np.array([5, 3, 2])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# --- an LSTM with peepholes and resets ----------------------------------------------------------------------


def lstm(x, W, U, i, f, o, resets):
    def step(state, inputs):
        h, c = (s * (1 - inputs[1]) for s in state)
        a, b, g, d = jnp.split(inputs[0] @ W + h @ U, 4)
        new = jax.nn.sigmoid(b + f * c) * c + jax.nn.sigmoid(a + i * c) * jnp.tanh(g)
        h = jax.nn.sigmoid(d + o * new) * jnp.tanh(new)
        return (h, new), h

    return lax.scan(step, (jnp.zeros(3), jnp.zeros(3)), (x, resets))[1]


def lstm_bwd(late=False, of_i="before", of_o="after", peepholes=True, reset=lambda k: (k, k)):
    def bwd(d, x, W, U, wi, wf, wo, resets):
        h, c, saved = np.zeros(3), np.zeros(3), []
        for t in range(7):
            h, c = h * (1 - resets[t]), c * (1 - resets[t])
            z = np.split(x[t] @ W + h @ U, 4)
            i, f, g = sigmoid(z[0] + wi * c), sigmoid(z[1] + wf * c), np.tanh(z[2])
            new = f * c + i * g
            o = sigmoid(z[3] + wo * new)
            saved.append((h, {"before": c, "after": new}, i, f, g, o))
            h, c = o * np.tanh(new), new
        dx, dW, dU, dh, dc = np.zeros_like(x), np.zeros_like(W), np.zeros_like(U), np.zeros(3), np.zeros(3)
        dwi, dwf, dwo = (np.zeros(3) for _ in range(3))
        for t in range(6, -1, -1):
            h, state, i, f, g, o = saved[t]
            c, new = state.values()
            do = (d[t] + dh) * np.tanh(new) * o * (1 - o)
            dc = dc + (d[t] + dh) * o * (1 - np.tanh(new) ** 2) + (0 if late else do * wo)
            di, df, dg = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2)
            dc = dc + do * wo if late else dc
            dz = np.concatenate([di, df, dg, do])
            dwi, dwf, dwo = dwi + di * state[of_i], dwf + df * c, dwo + do * state[of_o]
            dx[t], dW, dU = W @ dz, dW + np.outer(x[t], dz), dU + np.outer(h, dz)
            of_h, of_c = reset(1 - resets[t])
            dh, dc = U @ dz * of_h, (dc * f + (di * wi + df * wf if peepholes else 0)) * of_c
        return dx, dW, dU, dwi, dwf, dwo, None

    return bwd


# --- an LSTM whose states are detached, or not --------------------------------------------------------------


def cells(detached):
    def cells(x, W, U):
        h, c, out = jnp.zeros(3), jnp.zeros(3), []
        for t in range(7):
            if detached and t % 3 == 0:
                h = lax.stop_gradient(h)
                c = lax.stop_gradient(c)
            a, b, g, d = jnp.split(x[t] @ W + h @ U, 4)
            c = jax.nn.sigmoid(b) * c + jax.nn.sigmoid(a) * jnp.tanh(g)
            h = jax.nn.sigmoid(d) * jnp.tanh(c)
            out.append(h)
        return jnp.stack(out)

    return cells


def cells_bwd(h_passes=True, c_passes=True, of_f=0, of_o="after", of_c="before"):
    """``of_f``: the steps by which the forget gate in the cell's gradient is away."""

    def bwd(d, x, W, U):
        h, c, saved = np.zeros(3), np.zeros(3), []
        for t in range(7):
            z = np.split(x[t] @ W + h @ U, 4)
            i, f, g, o = sigmoid(z[0]), sigmoid(z[1]), np.tanh(z[2]), sigmoid(z[3])
            saved.append((h, {"before": c, "after": f * c + i * g}, i, f, g, o))
            c = f * c + i * g
            h = o * np.tanh(c)
        dx, dW, dU, dh, dc = np.zeros_like(x), np.zeros_like(W), np.zeros_like(U), np.zeros(3), np.zeros(3)
        for t in range(6, -1, -1):
            h, state, i, f, g, o = saved[t]
            c = state["after"]
            dc = dc + (d[t] + dh) * o * (1 - np.tanh(c) ** 2)
            do = (d[t] + dh) * np.tanh(state[of_o]) * o * (1 - o)
            df = dc * state[of_c] * f * (1 - f)
            dz = np.concatenate([dc * g * i * (1 - i), df, dc * i * (1 - g**2), do])
            dx[t], dW, dU = W @ dz, dW + np.outer(x[t], dz), dU + np.outer(h, dz)
            dh, dc = U @ dz, dc * saved[min(max(t + of_f, 0), 6)][3]
            if t % 3 == 0:
                dh, dc = dh * h_passes, dc * c_passes
        return dx, dW, dU

    return bwd


# --- a fast-weight memory, updated by the delta rule --------------------------------------------------------


def memory(q, k, v):
    S, out = jnp.zeros((3, 2)), []
    for t in range(6):
        S = S + 0.7 * jnp.outer(k[t], v[t] - k[t] @ S)
        out.append(q[t] @ S)
    return jnp.stack(out)


def memory_bwd(late=False, error_of=0):
    def bwd(d, q, k, v):
        states = [np.zeros((3, 2))]
        for t in range(6):
            states.append(states[-1] + 0.7 * np.outer(k[t], v[t] - k[t] @ states[-1]))
        dq, dk, dv, dS = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v), np.zeros((3, 2))
        for t in range(5, -1, -1):
            S, after = states[t : t + 2]
            dq[t] = after @ d[t]
            whole = dS + np.outer(q[t], d[t])
            used = dS if late else whole
            error = v[t] - k[t] @ states[t + error_of]
            dv[t] = 0.7 * k[t] @ used
            dk[t] = 0.7 * used @ error - S @ dv[t]
            dS = whole - np.outer(k[t], dv[t])
        return dq, dk, dv

    return bwd


# --- running and cumulative sums ----------------------------------------------------------------------------


def normalised(q, k, v):
    """Linear attention with a running normaliser."""
    q, k = jnp.exp(0.3 * q), jnp.exp(0.3 * k)

    def step(state, inputs):
        q, k, v = inputs
        S, z = state[0] + jnp.outer(k, v), state[1] + k
        return (S, z), (q @ S) / (q @ z)

    return lax.scan(step, (jnp.zeros((3, 2)), jnp.zeros(3)), (q, k, v))[1]


def summed(q, k, v):
    """The same with cumulative sums."""
    q, k = jnp.exp(0.3 * q), jnp.exp(0.3 * k)
    S, z = jnp.cumsum(k[:, :, None] * v[:, None], 0), jnp.cumsum(k, 0)
    return jnp.einsum("ti,tij->tj", q, S) / jnp.sum(q * z, 1, keepdims=True)


def normalised_bwd(back=lambda d: np.cumsum(d[::-1], 0)[::-1], exclusive=False):
    def bwd(d, q, k, v):
        q, k = np.exp(0.3 * q), np.exp(0.3 * k)
        S, z = np.cumsum(k[:, :, None] * v[:, None], 0), np.cumsum(k, 0)
        over = (q * z).sum(1, keepdims=True)
        dn, dz = d / over, -(d * np.einsum("ti,tij->tj", q, S)).sum(1, keepdims=True) / over**2
        dq = np.einsum("tj,tij->ti", dn, S) + dz * (z - k if exclusive else z)
        dS = np.cumsum((q[:, :, None] * dn[:, None])[::-1], 0)[::-1]
        dk = np.einsum("tij,tj->ti", dS, v) + back(q * dz)
        return 0.3 * q * dq, 0.3 * k * dk, np.einsum("tij,ti->tj", dS, k)

    return bwd


def decayed(q, k, v, g):
    b = jnp.cumsum(g)
    return (q @ k.T * jnp.where(np.tri(8, dtype=bool), jnp.exp(b[:, None] - b[None]), 0)) @ v


def decayed_in_steps(q, k, v, g):
    def step(S, inputs):
        q, k, v, g = inputs
        S = jnp.exp(g) * S + jnp.outer(k, v)
        return S, q @ S

    return lax.scan(step, jnp.zeros((3, 2)), (q, k, v, g))[1]


def from_the_last(d):
    return np.cumsum(d[::-1])[::-1]


def in_chunks(d):
    return np.concatenate([from_the_last(d[:3]), from_the_last(d[3:6]), from_the_last(d[6:])])


def ahead_in_chunks(g):
    return np.concatenate([np.cumsum(g[:3]), np.cumsum(g[3:6]), np.cumsum(g[6:])])


def decayed_bwd(of_g=from_the_last, decay=np.cumsum):
    def bwd(d, q, k, v, g):
        b, mask = decay(g), np.tri(8)
        D = np.exp(np.where(mask, b[:, None] - b, 0)) * mask
        A, dA = q @ k.T, d @ v.T
        M = dA * A * D
        return (dA * D) @ k, (dA * D).T @ q, (A * D).T @ d, of_g(M.sum(1) - M.sum(0))

    return bwd


# --- padded steps -------------------------------------------------------------------------------------------


def padded(x, W, U, mask):
    def step(h, inputs):
        h = jnp.where(inputs[1][:, None], jnp.tanh(inputs[0] @ W + h @ U), h)
        return h, h

    return lax.scan(step, jnp.zeros((3, 4)), (x, mask))[1]


def padded_bwd(mask_of=lambda t: t, of_W=True, recomputed=True):
    def bwd(d, x, W, U, mask):
        h, saved = np.zeros((3, 4)), []
        for t in range(5):
            new = np.tanh(x[t] @ W + h @ U)
            saved.append((h, new))
            h = np.where(mask[t][:, None] if recomputed else True, new, h)
        dx, dW, dU, dh = np.zeros_like(x), np.zeros_like(W), np.zeros_like(U), np.zeros((3, 4))
        for t in range(4, -1, -1):
            (h, new), dh = saved[t], dh + d[t]
            kept = mask[min(max(mask_of(t), 0), 4)][:, None] if recomputed else np.ones((3, 1))
            dz = kept * dh * (1 - new**2)
            dx[t], dU = dz @ W.T, dU + h.T @ dz
            dW = dW + x[t].T @ (dz if of_W else dh * (1 - new**2))
            dh = dz @ U.T + (1 - kept) * dh
        return dx, dW, dU, None

    return bwd


RIGHT = {
    "lstm": (lstm, lstm_bwd(), (X, W, U, *PEEPHOLES, RESETS)),
    "cells": (cells(False), cells_bwd(), (X, W, U)),
    "detached cells": (cells(True), cells_bwd(False, False), (X, W, U)),
    "memory": (memory, memory_bwd(), ROWS),
    "normalised": (normalised, normalised_bwd(), ROWS),
    "summed": (summed, normalised_bwd(), ROWS),
    "decayed": (decayed, decayed_bwd(), LONG),
    "decayed in steps": (decayed_in_steps, decayed_bwd(), LONG),
    "padded": (padded, padded_bwd(), (STEPS, W[:, :4], U[[0, 1, 2, 0], :4], PADDED)),
}


def mistaken(case, bwd):
    fn, _, args = RIGHT[case]
    return by(fn, bwd, *args)


LATE, CUMULATIVE = (
    "added too late, after it is used: what",
    "a cumulative sum is taken inside each chunk of 3",
)
CASES = {
    "a peephole too late": (f"{LATE} new gets back", mistaken("lstm", lstm_bwd(late=True))),
    "a peephole of the new state": (
        "the state new after its update (h_t) is used",
        mistaken("lstm", lstm_bwd(of_i="after")),
    ),
    "a peephole of the old state": (
        "the state new before its update (h_(t−1)) is used",
        mistaken("lstm", lstm_bwd(of_o="before")),
    ),
    "no gradient through two peepholes": (
        "a path is missing in two places",
        mistaken("lstm", lstm_bwd(peepholes=False)),
    ),
    "resets ignored": (
        "the factor or mask 1 − resets is left out of what is carried back from step to step",
        mistaken("lstm", lstm_bwd(reset=lambda k: (1, 1))),
    ),
    "resets of one state ignored": (
        "the factor or mask 1 − resets is left out of what is carried back from step to step",
        mistaken("lstm", lstm_bwd(reset=lambda k: (k, 1))),
    ),
    "h not detached": ("stop_gradient is ignored", mistaken("detached cells", cells_bwd(True, False))),
    "c not detached": ("stop_gradient is ignored", mistaken("detached cells", cells_bwd(False, True))),
    "nothing detached": ("stop_gradient is ignored", mistaken("detached cells", cells_bwd(True, True))),
    "h detached": ("the gradient of h alone is reset", mistaken("cells", cells_bwd(h_passes=False))),
    "c detached": ("the gradient of c alone is reset", mistaken("cells", cells_bwd(c_passes=False))),
    "the next step's gate": (
        "`jax.nn.sigmoid(b)` of the step after is used",
        mistaken("cells", cells_bwd(of_f=1)),
    ),
    "the gate before": (
        "`jax.nn.sigmoid(b)` of the step before is used",
        mistaken("cells", cells_bwd(of_f=-1)),
    ),
    "the cell before its update": (
        "the state c before its update (h_(t−1)) is used in tanh(c)",
        mistaken("cells", cells_bwd(of_o="before")),
    ),
    "the cell after its update": (
        "the state c after its update (h_t) is used",
        mistaken("cells", cells_bwd(of_c="after")),
    ),
    "a memory's gradient too late": (f"{LATE} S gets back", mistaken("memory", memory_bwd(late=True))),
    "an error after the update": (
        "the state S after its update (h_t) is used in",
        mistaken("memory", memory_bwd(error_of=1)),
    ),
    "a normaliser's gradient forward": (
        "the cotangent of the running sum z is summed forward",
        mistaken("normalised", normalised_bwd(lambda d: np.cumsum(d, 0))),
    ),
    "a normaliser's gradient of all": (
        "the cotangent of the running sum z is that of all steps",
        mistaken("normalised", normalised_bwd(lambda d: d.sum(0) + 0 * d)),
    ),
    "an exclusive normaliser's gradient": (
        f"{LATE} z gets back",
        mistaken("normalised", normalised_bwd(lambda d: np.cumsum(d[::-1], 0)[::-1] - d)),
    ),
    "an exclusive normaliser": (
        "a cumulative sum is exclusive: its own entry is left out, where",
        mistaken("summed", normalised_bwd(exclusive=True)),
    ),
    "the sum of all": (
        "the sum of all is taken for each cumulative sum, in the backward pass",
        mistaken("summed", normalised_bwd(lambda d: d.sum(0) + 0 * d)),
    ),
    "a log-decay's sum in chunks": (
        f"{CUMULATIVE} alone, without the other chunks, in the backward pass",
        mistaken("decayed", decayed_bwd(in_chunks)),
    ),
    "a log-decay in chunks": (
        f"{CUMULATIVE} alone, without the other chunks, where the cumulative sum of g is used",
        mistaken("decayed", decayed_bwd(decay=ahead_in_chunks)),
    ),
    "the same in steps": (
        "a cumulative sum over the steps, from the last one back, is taken inside each chunk of 3 steps",
        mistaken("decayed in steps", decayed_bwd(in_chunks)),
    ),
    "no sum over the steps": (
        "a cumulative sum over the steps, from the last one back, is left out",
        mistaken("decayed in steps", decayed_bwd(lambda d: d)),
    ),
    "the sum over the steps forward": (
        "a cumulative sum over the steps, from the last one back, runs forward",
        mistaken("decayed in steps", decayed_bwd(np.cumsum)),
    ),
    "the next step's mask": (
        "a wrong index: the next mask along axis 0 is used for each",
        mistaken("padded", padded_bwd(lambda t: t + 1)),
    ),
    "the mask before": (
        "a wrong index: the previous mask along axis 0 is used for each",
        mistaken("padded", padded_bwd(lambda t: t - 1)),
    ),
    "no mask in one product": (
        "the mask (of where) is left out of what flows back through matrix product",
        mistaken("padded", padded_bwd(of_W=False)),
    ),
    "no mask where states are recomputed": (
        "the mask is left out in all 5 steps where",
        mistaken("padded", padded_bwd(recomputed=False)),
    ),
}
test_the_true_cause_is_named_first = named_first(CASES)


test_the_right_gradients_pass = right(RIGHT)
