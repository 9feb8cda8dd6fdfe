"""Recurrences over time: RNN, GRU, LSTM and the linear scan."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue import hard_chapter_e
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import Batch, Bench, Formula, Inputs, Op, Scale, Shown, normal
from manual_grad.catalogue.families import FACTOR, SLOPE, SUM_MISSING, TERM, TRANSPOSED, family
from manual_grad.catalogue.hard import Hard
from manual_grad.formulas.recurrent import (
    gru_bwd,
    gru_fwd,
    linear_scan_bwd,
    linear_scan_fwd,
    lstm_bwd,
    lstm_fwd,
    rnn_bwd,
    rnn_fwd,
)
from manual_grad_reference import definitions

NOT_ADDED = "overwritten in each step"
WRONG_STEP = "of the wrong step"


def _layer(gates: int, *states: str) -> Callable[..., Inputs]:
    """A layer with this many gates and these names for its initial states."""

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


SIZES = {"T": 3, "N": 5, "D": 2, "H": 4}
AXES, LENGTHS = ("T", "N", "D H"), ((16, 32, 32), (64, 32, 128), (128, 32, 256))


def _over_steps(dz: Any, by: Any) -> Any:
    """Σ_t dz_tᵀ by_t."""
    return jnp.einsum("tnh,tnd->hd", dz, by)


def _last_written(dz: Any, by: Any) -> Any:
    """The sum if each step, from the last to the first, overwrites it instead of adding to it."""
    return dz[0].T @ by[0]


PER_STEP: tuple = (  # mistakes in the parameters of any layer
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
    hard=hard_chapter_e.RNN,
    draw=_layer(1, "h0"),
    sizes=SIZES,
    source="Elman 1990; Werbos, Backpropagation Through Time, 1990",
    batch=Batch({"x": 1, "h0": 0}, (1, 0)),
    grows=(("x", 0),),
    op=Op(ops.rnn),
    bench=Bench(AXES, LENGTHS, reference.plain.rnn, reference.plain.rnn, quick=(0,)),
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


def _sigmoid_slope(y: Any) -> Any:
    return y * (1 - y)


def _saturated(gates: int, *states: str) -> tuple[Hard, ...]:
    """Biases that drive each gate to one of its ends."""

    def draw(rng: Any) -> dict[str, Any]:
        ends = np.resize([1e4, -1e4, 0.5, 1e4], gates)
        arrays = {"x": (2, 2, 1), "W_ih": (gates, 1), "W_hh": (gates, 1)}
        drawn = {name: rng.standard_normal(shape) for name, shape in arrays.items()}
        drawn |= {"b_ih": ends, "b_hh": np.zeros(gates)}
        return drawn | {name: rng.standard_normal((2, 1)) for name in states}

    return (
        Hard(
            "saturated gates",
            "A gate at 0 or 1 has slope 0: nothing goes through it, and the state passes or is held.",
            draw,
            {"1/(1+exp(−x))": None},
            ("1/(1+exp(−x))",),
            "exp(−x) overflows, and its slope is ∞/∞",
        ),
    )


def _gru(
    dout: Any,
    x: Any,
    W_ih: Any,
    W_hh: Any,
    b_ih: Any,
    b_hh: Any,
    h0: Any,
    *,
    slope: Callable = _sigmoid_slope,
    less: Callable = lambda h_before, h: h_before,
    kept: Callable = lambda z: z,
    reset: Callable = lambda dn, r: dn * r,
    arriving: Callable = lambda dh_out, dh: dh_out + dh,
    both: Callable = lambda direct, through: direct + through,
    gathered: Callable = _over_steps,
    seen: Callable = _before,
    over: Callable = _samples,
) -> dict[str, Any]:
    hs, (dhs, dh) = reference.recurrent.gru(x, W_ih, W_hh, b_ih, b_hh, h0)[0], dout
    before = _before(h0, hs)
    to_x: list = []
    to_h: list = []
    for t in reversed(range(len(x))):
        from_x, from_h = (jnp.split(y, 3, axis=1) for y in (x[t] @ W_ih.T + b_ih, before[t] @ W_hh.T + b_hh))
        r, z = (jax.nn.sigmoid(from_x[k] + from_h[k]) for k in (0, 1))
        n = jnp.tanh(from_x[2] + r * from_h[2])
        dh = arriving(dhs[t], dh)
        dz, dn = dh * (less(before[t], hs[t]) - n) * slope(z), dh * (1 - z) * (1 - n**2)
        dr = dn * from_h[2] * slope(r)
        to_x.insert(0, jnp.hstack([dr, dz, dn]))
        to_h.insert(0, jnp.hstack([dr, dz, reset(dn, r)]))
        dh = both(dh * kept(z), to_h[0] @ W_hh)
    by_x, by_h = jnp.stack(to_x), jnp.stack(to_h)
    return {
        "x": by_x @ W_ih, "W_ih": gathered(by_x, x), "W_hh": gathered(by_h, seen(h0, hs)),
        "b_ih": over(by_x), "b_hh": over(by_h), "h0": dh,
    }  # fmt: skip


GRU_MUTANTS = family(
    "gradient",
    _gru,
    *PER_STEP,
    (SLOPE, "z for z (1 − z), and so with r", {"slope": lambda y: y}),
    (SLOPE, "1 − y² for y (1 − y)", {"slope": lambda y: 1 - y * y}),
    (WRONG_STEP, "dz = dh (h_t − n) …", {"less": lambda h_before, h: h}),
    (FACTOR, "dh (1 − z) to the step before", {"kept": lambda z: 1 - z}),
    (FACTOR, "r is missing in what U_n h gets", {"reset": lambda dn, r: dn}),
    (TERM, "dh z to the step before is missing", {"both": lambda direct, through: through}),
    (TERM, "what goes through the gates to the step before is missing", {"both": lambda d, t: d}),
    (TERM, "the later steps' share of dh_t is missing", {"arriving": lambda dh_out, dh: dh_out}),
    reaches=OF_STEPS,
)
GRU = Formula(
    gru_fwd,
    gru_bwd,
    reference.recurrent.gru,
    definition=definitions.gru,
    mutants=(GRU_MUTANTS,),
    draw=_layer(3, "h0"),
    hard=_saturated(3, "h0"),
    sizes=SIZES,
    source="Cho et al. 2014, section 2.3, with r outside the product as in cuDNN",
    batch=Batch({"x": 1, "h0": 0}, (1, 0)),
    grows=(("x", 0),),
    op=Op(ops.gru),
    bench=Bench(AXES, LENGTHS, reference.plain.gru, reference.plain.gru, quick=(0,)),
    shown=Shown(
        "Layers",
        "GRU",
        r"h_t = (1 - z) \odot n + z \odot h_{t-1}, \; "
        r"n = \tanh(x_t W_n^T + b_{in} + r \odot (h_{t-1} U_n^T + b_{hn}))",
        (
            r"d\bar{z} = dh \odot (h_{t-1} - n) \odot z \odot (1 - z)",
            r"d\bar{n} = dh \odot (1 - z) \odot (1 - n^2)",
            r"d\bar{r} = d\bar{n} \odot (h_{t-1} U_n^T + b_{hn}) \odot r \odot (1 - r)",
        ),
        ("E-15",),
    ),
)


def _lstm(
    dout: Any,
    x: Any,
    W_ih: Any,
    W_hh: Any,
    b_ih: Any,
    b_hh: Any,
    h0: Any,
    c0: Any,
    *,
    slope: Callable = _sigmoid_slope,
    curve: Callable = lambda tanh_c: 1 - tanh_c**2,
    cell: Callable = lambda c_before, c: c_before,
    forgets: Callable = lambda dc, f: dc * f,
    arriving: Callable = lambda dh_out, dh: dh_out + dh,
    carried: Callable = lambda sent, own: sent + own,
    last: Callable = lambda dc: dc,
    order: tuple[int, ...] = (0, 1, 2, 3),
    gathered: Callable = _over_steps,
    seen: Callable = _before,
    over: Callable = _samples,
) -> dict[str, Any]:
    h, c, hs, cs, gates = h0, c0, [], [c0], []
    for x_t in x:
        i, f, g, o = jnp.split(x_t @ W_ih.T + b_ih + h @ W_hh.T + b_hh, 4, axis=1)
        gates.append((jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)))
        i, f, g, o = gates[-1]
        c = f * c + i * g
        h = o * jnp.tanh(c)
        hs.append(h)
        cs.append(c)
    steps: list = []
    dhs, dh, dc = dout
    dc = last(dc)
    for t in reversed(range(len(x))):
        (i, f, g, o), tanh_c = gates[t], jnp.tanh(cs[t + 1])
        dh = arriving(dhs[t], dh)
        dc = carried(dc, dh * o * curve(tanh_c))
        df = dc * cell(cs[t], cs[t + 1]) * slope(f)
        parts = dc * g * slope(i), df, dc * i * (1 - g**2), dh * tanh_c * slope(o)
        steps.insert(0, jnp.hstack([parts[k] for k in order]))
        dh, dc = steps[0] @ W_hh, forgets(dc, f)
    dz, db = jnp.stack(steps), over(jnp.stack(steps))
    dW_hh = gathered(dz, seen(h0, jnp.stack(hs)))
    return {
        "x": dz @ W_ih, "W_ih": gathered(dz, x), "W_hh": dW_hh, "b_ih": db, "b_hh": db, "h0": dh, "c0": dc,
    }  # fmt: skip


LSTM_MUTANTS = family(
    "gradient",
    _lstm,
    *PER_STEP,
    (SLOPE, "f for f (1 − f), and so with i, o", {"slope": lambda y: y}),
    (SLOPE, "1 − tanh² c is missing in dc", {"curve": lambda tanh_c: 1}),
    (SLOPE, "1 − c² for 1 − tanh² c", {"curve": lambda tanh_c: 1 - jnp.arctanh(tanh_c) ** 2}),
    (WRONG_STEP, "df = dc c_t …", {"cell": lambda c_before, c: c}),
    (FACTOR, "dc to the step before without f", {"forgets": lambda dc, f: dc}),
    (TERM, "no dc to the step before", {"forgets": lambda dc, f: 0 * dc}),
    (TERM, "dc overwritten by dh o (1 − tanh² c)", {"carried": lambda sent, own: own}),
    (TERM, "dc_T is missing", {"last": lambda dc: 0 * dc}),
    (TERM, "the later steps' share of dh_t is missing", {"arriving": lambda dh_out, dh: dh_out}),
    ("gates in another order", "i, f, o, g", {"order": (0, 1, 3, 2)}),
    reaches=OF_STEPS,
)
LSTM = Formula(
    lstm_fwd,
    lstm_bwd,
    reference.recurrent.lstm,
    definition=definitions.lstm,
    mutants=(LSTM_MUTANTS,),
    draw=_layer(4, "h0", "c0"),
    hard=_saturated(4, "h0", "c0"),
    sizes=SIZES,
    source="Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000",
    batch=Batch({"x": 1, "h0": 0, "c0": 0}, (1, 0, 0)),
    grows=(("x", 0),),
    op=Op(ops.lstm),
    bench=Bench(
        AXES,
        LENGTHS,
        reference.plain.lstm,
        reference.plain.lstm,
        quick=(0,),
        scale=Scale("recurrent", "T", (2, 8, 32, 128, 512, 2048), {"N": 8, "D": 32, "H": 32}),
    ),
    shown=Shown(
        "Layers",
        "LSTM",
        r"c_t = f \odot c_{t-1} + i \odot g, \; h_t = o \odot \tanh c_t",
        (
            r"dc_t = dc_{t+1} \odot f_{t+1} + dh_t \odot o \odot (1 - \tanh^2 c_t)",
            r"d\bar{f} = dc_t \odot c_{t-1} \odot f \odot (1 - f)",
            r"d\bar{o} = dh_t \odot \tanh c_t \odot o \odot (1 - o)",
        ),
        ("E-16",),
    ),
)


def _linear_scan(
    dhs: Any,
    a: Any,
    b: Any,
    h0: Any,
    *,
    factor: Callable = lambda a, t: a[t + 1],
    carried: Callable = lambda dh_out, sent: dh_out + sent,
    seen: Callable = _before,
    first: Callable = lambda a, db: a[0] * db[0],
) -> dict[str, Any]:
    hs, steps = reference.recurrent.linear_scan(a, b, h0), [dhs[-1]]
    for t in reversed(range(len(a) - 1)):
        steps.insert(0, carried(dhs[t], factor(a, t) * steps[0]))
    db = jnp.stack(steps)
    return {"a": db * seen(h0, hs), "b": db, "h0": first(a, db)}


LINEAR_SCAN_MUTANTS = family(
    "gradient",
    _linear_scan,
    (WRONG_STEP, "db_t = dhs_t + a_t db_{t+1}", {"factor": lambda a, t: a[t]}),
    (WRONG_STEP, "da_t = db_t h_t", {"seen": lambda h0, hs: hs}),
    (FACTOR, "db_t = dhs_t + db_{t+1}", {"factor": lambda a, t: 1}),
    (FACTOR, "dh0 = db_1", {"first": lambda a, db: db[0]}),
    (NOT_ADDED, "db_t = dhs_t", {"carried": lambda dh_out, sent: dh_out}),
    (TERM, "db_t = a_{t+1} db_{t+1}", {"carried": lambda dh_out, sent: sent}),
    reaches={"factor": "a b h0", "seen": "a", "first": "h0", "carried": "a b h0"},
)
LINEAR_SCAN = Formula(
    linear_scan_fwd,
    linear_scan_bwd,
    reference.recurrent.linear_scan,
    definition=definitions.linear_scan,
    mutants=(LINEAR_SCAN_MUTANTS,),
    hard=hard_chapter_e.LINEAR_SCAN,
    draw={"a": normal, "b": normal, "h0": normal},
    sizes={"T": 4, "*S": (7, 2)},
    source="Martin and Cundy 2018, equation 5",
    polynomial=True,
    batch=Batch({"a": 1, "b": 1, "h0": 0}, 1),
    sends={"T": {"collective-permute": "2 S"}},
    op=Op(ops.linear_scan),
    bench=Bench(
        ("T", "*S"),
        ((16, (32, 32)), (64, (64, 64)), (1024, (64, 64))),
        reference.plain.linear_scan,
        reference.plain.linear_scan,
        quick=(0,),
        scale=Scale("scan", "T", (4, 16, 64, 256, 1024, 4096), {"*S": (16, 64)}),
    ),
    shown=Shown(
        "Layers",
        "Linear scan",
        r"h_t = a_t \odot h_{t-1} + b_t",
        (r"db_t = dh_t^{\text{out}} + a_{t+1} \odot db_{t+1}, \; da_t = db_t \odot h_{t-1}",),
        ("E-17",),
    ),
)
ENTRIES = (RNN, GRU, LSTM, LINEAR_SCAN)
