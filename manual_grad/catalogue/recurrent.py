"""Recurrences over time: RNN, GRU, LSTM and the linear scan."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import Batch, Bench, Formula, Inputs, Op, Shown
from manual_grad.catalogue.families import FACTOR, SLOPE, SUM_MISSING, TERM, TRANSPOSED, family
from manual_grad.formulas.recurrent import rnn_bwd, rnn_fwd
from manual_grad_reference import definitions

NOT_ADDED = "overwritten in each step"
WRONG_STEP = "of the wrong step"


def _layer(gates: int, *states: str) -> Callable[..., Inputs]:
    """A layer with so many gates, whose states before the first step go by these names."""

    def draw(draw: Draw, T: int, N: int, D: int, H: int) -> Inputs:
        T, N, D, H = (2, 2, 3, 2) if draw.style == "tiny" else map(draw.size, (T, N, D, H))
        arrays = {
            "x": draw.exactly(T, N, D),
            "W_ih": draw.exactly(gates * H, D, scale=D**-0.5),
            "W_hh": draw.exactly(gates * H, H, scale=H**-0.5),
            "b_ih": draw.exactly(gates * H),
            "b_hh": draw.exactly(gates * H),
        }
        return arrays | {name: draw.exactly(N, H) for name in states}

    return draw


SIZES = {"T": 5, "N": 7, "D": 3, "H": 4}
AXES, LENGTHS = ("T", "N", "D H"), ((16, 32, 32), (64, 32, 128), (128, 32, 256))


def _over_steps(dz: Any, by: Any) -> Any:
    """Σ_t dz_tᵀ by_t."""
    return jnp.einsum("tnh,tnd->hd", dz, by)


def _last_written(dz: Any, by: Any) -> Any:
    """What is left where each step, from the last to the first, writes its share and adds nothing."""
    return dz[0].T @ by[0]


PER_STEP: tuple = (  # what can go wrong in any layer's parameters
    (NOT_ADDED, "dW_ih, dW_hh = dz_tᵀ …, not +=", {"gathered": _last_written}),
    (WRONG_STEP, "dW_hh = Σ dz_tᵀ h_t", {"seen": lambda h0, hs: hs}),
    (SUM_MISSING, "db of the last sample of each step alone", {"over": lambda dz: dz[:, -1].sum(axis=0)}),
)
OF_STEPS = {"gathered": "W_ih W_hh", "seen": "W_hh", "over": "b_ih b_hh"}


def _before(h0: Any, hs: Any) -> Any:
    return jnp.concatenate([h0[None], hs[:-1]])


def _samples(dz: Any) -> Any:
    return dz.sum(axis=(0, 1))


def _rnn(
    dout: Any,
    x: Any,
    W_ih: Any,
    W_hh: Any,
    b_ih: Any,
    b_hh: Any,
    h0: Any,
    *,
    slope: Callable = lambda h: 1 - h * h,
    back: Callable = lambda dz, W: dz @ W,
    arriving: Callable = lambda dh_out, dh: dh_out + dh,
    gathered: Callable = _over_steps,
    seen: Callable = _before,
    over: Callable = _samples,
) -> dict[str, Any]:
    hs = reference.recurrent.rnn(x, W_ih, W_hh, b_ih, b_hh, h0)[0]
    dhs, dh = dout
    steps: list = []
    for t in reversed(range(len(x))):
        steps.insert(0, arriving(dhs[t], dh) * slope(hs[t]))
        dh = back(steps[0], W_hh)
    dz = jnp.stack(steps)
    db, dW_hh = over(dz), gathered(dz, seen(h0, hs))
    return {"x": dz @ W_ih, "W_ih": gathered(dz, x), "W_hh": dW_hh, "b_ih": db, "b_hh": db, "h0": dh}


RNN_MUTANTS = family(
    "gradient",
    _rnn,
    *PER_STEP,
    (SLOPE, "dz = h (1 − h) dh, σ's slope for tanh's", {"slope": lambda h: h * (1 - h)}),
    (SLOPE, "dz = dh", {"slope": lambda h: 1}),
    (TRANSPOSED, "dz W_hhᵀ to the step before", {"back": lambda dz, W: dz @ W.T}),
    (TERM, "the later steps' share of dh_t is missing", {"arriving": lambda dh_out, dh: dh_out}),
    (TERM, "hs_t's own cotangent is missing", {"arriving": lambda dh_out, dh: dh}),
    (FACTOR, "the gradient is cut off after one step", {"back": lambda dz, W: 0 * (dz @ W)}),
    reaches=OF_STEPS,
)
RNN = Formula(
    rnn_fwd,
    rnn_bwd,
    reference.recurrent.rnn,
    definition=definitions.rnn,
    mutants=(RNN_MUTANTS,),
    draw=_layer(1, "h0"),
    sizes=SIZES,
    source="Elman 1990; Werbos, Backpropagation Through Time, 1990",
    batch=Batch({"x": 1, "h0": 0}, (1, 0)),
    grows=(("x", 0),),
    op=Op(ops.rnn),
    bench=Bench(AXES, LENGTHS, reference.plain.rnn, quick=(0,)),
    shown=Shown(
        "Layers",
        "RNN",
        r"h_t = \tanh(x_t W_{ih}^T + b_{ih} + h_{t-1} W_{hh}^T + b_{hh})",
        (
            r"dz_t = (1 - h_t^2) \odot (dhs_t + dz_{t+1} W_{hh}), \; dx_t = dz_t W_{ih}",
            r"dW_{ih} = \sum_t dz_t^T x_t, \; dW_{hh} = \sum_t dz_t^T h_{t-1}, \; db = \sum_t 1^T dz_t",
        ),
        ("E-14",),
    ),
)
ENTRIES = (RNN,)
