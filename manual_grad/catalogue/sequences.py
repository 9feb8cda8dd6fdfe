"""Layers for sequences of tokens: embeddings, rotary positions, dropout, low-rank adaptation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import (
    Batch,
    Bench,
    Formula,
    Function,
    Inputs,
    Op,
    Scale,
    Shown,
    integers_below,
    normal,
    scaled_by,
)
from manual_grad.catalogue.families import FACTOR, MEAN_FOR_SUM, SIGN, SUM_MISSING, TERM, family
from manual_grad.catalogue.hard import Arrays, Hard, inf, nan
from manual_grad.formulas.sequences import (
    dropout_bwd,
    dropout_fwd,
    embedding_bwd,
    embedding_fwd,
    jac_rope_x,
    jac_rope_x_blocks,
    lora_bwd,
    lora_fwd,
    rope_bwd,
    rope_fwd,
)
from manual_grad_reference import definitions

OVERWRITTEN = "overwritten, not added to"
WRONG_INDEX = "index off by one"

# ------------------------------------------------------------------------------------ embedding


def _added(dtable: Any, ids: Any, dout: Any) -> Any:
    return dtable.at[ids].add(dout)


def _averaged(dtable: Any, ids: Any, dout: Any) -> Any:
    times = jnp.zeros(len(dtable)).at[ids].add(1.0)
    return dtable.at[ids].add(dout) / jnp.maximum(times, 1)[:, None]


def _embedding(dout: Any, ids: Any, table: Any, *, put: Callable = _added) -> dict[str, Any]:
    return {"table": put(jnp.zeros_like(table), ids, dout)}


EMBEDDING_MUTANTS = family(
    "gradient",
    _embedding,
    (OVERWRITTEN, "dtable[ids] = dout, repeated ids overwritten", {"put": lambda d, i, g: d.at[i].set(g)}),
    (MEAN_FOR_SUM, "the mean over the places of an id", {"put": _averaged}),
    (WRONG_INDEX, "dtable[ids + 1] += dout", {"put": lambda d, i, g: d.at[i + 1].add(g)}),
    (TERM, "id 0 treated as padding", {"put": lambda d, i, g: d.at[i].add(g).at[0].set(0)}),
    (
        SUM_MISSING,
        "only the first token of each sample",
        {"put": lambda d, i, g: d.at[i[:, 0]].add(g[:, 0])},
    ),
)


def _summed(point: Arrays, dout: np.ndarray) -> tuple:
    """For ids that may be out of range: their rows are NaN, and nothing is added for them."""
    ids, table = point["ids"], point["table"]
    there = (ids >= 0) & (ids < len(table))
    out = np.where(there[..., None], table[np.where(there, ids, 0)], nan)
    dtable = np.zeros_like(table)
    np.add.at(dtable, ids[there], dout[there])
    return out, dtable


LOOK_UP: dict[str, Callable | None] = {"table[ids]": reference.plain.embedding}
EMBEDDING_HARD = (
    Hard(
        "ids out of range",
        "Under jit an id outside 0 … V − 1 gives a row of NaN and adds nothing; −1 is not the last row.",
        lambda rng: {"ids": np.array([1, -1, 3, 1, 4]), "table": rng.normal(size=(4, 3))},
        LOOK_UP,
        ("table[ids]",),
        "a negative index counts from the end",
        right=_summed,
    ),
    Hard(
        "one id, 4096 times",
        "Its row gets the sum of all 4096 cotangents, not the 256 at which a sum in bfloat16 stays.",
        lambda rng: {
            "ids": np.full(4096, 2),
            "table": rng.normal(size=(3, 2)),
            "dout": rng.uniform(0.5, 1, (4096, 2)),
        },
        LOOK_UP,
        ("table[ids]",),
        "the sum is taken in bfloat16, which has eight bits",
        right=_summed,
        dtype="bfloat16",
    ),
)
EMBEDDING_AXES, EMBEDDINGS = (
    ("*N", "V", "D"),
    (((8, 8), 1000, 64), ((8, 64), 32000, 256), ((8, 512), 32000, 256)),
)
EMBEDDING = Formula(
    embedding_fwd,
    embedding_bwd,
    reference.sequences.embedding,
    definition=definitions.embedding,
    mutants=(EMBEDDING_MUTANTS,),
    draw={"ids": integers_below("V"), "table": normal},
    sizes={"*N": (7, 3), "V": 5, "D": 4},
    source="Bengio et al. 2003, section 2",
    polynomial=True,
    batch=Batch({"ids": 0}, 0),
    sends={"V": {"all-reduce": "N D"}, "D": {}},
    grows=(("ids", 0), ("ids", 1), ("table", 0), ("table", 1)),
    hard=EMBEDDING_HARD,
    op=Op(ops.embedding),
    bench=Bench(
        EMBEDDING_AXES,
        EMBEDDINGS,
        reference.plain.embedding,
        quick=(0,),
        estimated=(1, 2),
        scale=Scale("embedding", "*N", (16, 64, 256, 1024, 4096, 16384), {"V": 1000, "D": 64}),
    ),
    shown=Shown(
        "Layers",
        "Embedding",
        r"out_n = table_{ids_n}",
        (r"dtable_v = \sum_{n: \, ids_n = v} dout_n",),
        ("E-09",),
    ),
)

# ------------------------------------------------------------------------------------ rotary positions


def _halves(x: Any) -> Any:
    return jnp.split(x, 2, axis=-1)


def _neighbours(x: Any) -> Any:
    return x[..., ::2], x[..., 1::2]


def _of_pairs(i: Any, D: int) -> Any:
    return -2 * i / D


def _rope(
    dout: Any,
    x: Any,
    base: float = 10000.0,
    *,
    sign: tuple = (1, -1),
    pairs: Callable = _halves,
    power: Callable = _of_pairs,
    first: int = 0,
    axis: int = 1,
) -> dict[str, Any]:
    D, shape = x.shape[-1], [1, 1, 1, 1]
    shape[axis] = -1
    angles = jnp.arange(first, first + x.shape[axis]).reshape(shape) * base ** power(jnp.arange(D // 2), D)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    g1, g2 = pairs(dout)
    return {"x": jnp.concatenate([g1 * cos + sign[0] * g2 * sin, g2 * cos + sign[1] * g1 * sin], -1)}


ROPE_MUTANTS = family(
    "gradient",
    _rope,
    (SIGN, "rotated forward again", {"sign": (-1, 1)}),
    (SIGN, "dx₂ = dout₂ cos + dout₁ sin", {"sign": (1, 1)}),
    (TERM, "dx₁ = dout₁ cos", {"sign": (0, -1)}),
    (WRONG_INDEX, "neighbours for halves", {"pairs": _neighbours}),
    (WRONG_INDEX, "positions from 1", {"first": 1}),
    (WRONG_INDEX, "the head's number for the position", {"axis": 2}),
    (FACTOR, "θ_i = base^(−i/D)", {"power": lambda i, D: -i / D}),
)
ROPE_AXES, HEADS = ("N", "L", "H", "D"), ((1, 64, 8, 64), (1, 512, 8, 64), (1, 2048, 8, 64))


def _pairs_of(J: jax.Array) -> jax.Array:
    """The 2×2 block of each position and pair, taken from a Jacobian that only rotates pairs."""
    L, half = J.shape[1], J.shape[3] // 2
    J = J[0, :, 0, :, 0, :, 0].reshape(L, 2, half, L, 2, half)
    return jnp.stack([jnp.stack([J[l, :, i, l, :, i] for i in range(half)]) for l in range(L)])


def _turned(point: Arrays, dout: np.ndarray) -> tuple:
    L, D = dout.shape[1], dout.shape[3]
    angles = np.arange(L)[:, None, None] * 10000.0 ** (-2 * np.arange(D // 2) / D)
    cos, sin = np.cos(angles), np.sin(angles)
    (x1, x2), (g1, g2) = (np.split(a, 2, axis=-1) for a in (point["x"], dout))
    out = np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)
    return out, np.concatenate([g1 * cos + g2 * sin, g2 * cos - g1 * sin], -1)


ROPE_HARD = (
    Hard(
        "position 257 in half precision",
        "The angles are those of each position; bfloat16 has eight bits, so its 257 is 256.",
        lambda rng: {"x": rng.normal(size=(1, 300, 1, 4))},
        {"angles in x's dtype": None},
        ("angles in x's dtype",),
        "the positions, and the angles, are rounded to bfloat16",
        right=_turned,
        dtype="bfloat16",
    ),
)
ROPE_JACOBIANS = Bench(ROPE_AXES, ((2, 8, 2, 8),), reference.plain.rope)
ROPE = Formula(
    rope_fwd,
    rope_bwd,
    reference.sequences.rope,
    definition=definitions.rope,
    mutants=(ROPE_MUTANTS,),
    draw={"x": normal},
    sizes={"N": 2, "L": 5, "H": 3, "D": 4},
    tiny={"N": 1, "L": 2, "H": 1, "D": 4},
    source="Su et al. 2021, equation 34, the pairs in halves",
    variants={"": {}, "base": {"base": 100.0}},
    batch=Batch({"x": 0}, 0),
    sends={"L": {}, "H": {}},
    grows=(("x", 0), ("x", 1), ("x", 2)),
    functions=(
        Function(jac_rope_x, ("x",), bench=ROPE_JACOBIANS),
        Function(jac_rope_x_blocks, ("x",), _pairs_of, bench=ROPE_JACOBIANS),
    ),
    hard=ROPE_HARD,
    op=Op(ops.rope),
    bench=Bench(ROPE_AXES, HEADS, reference.plain.rope, quick=(0,)),
    shown=Shown(
        "Layers",
        "Rotary positions",
        r"out = R_l x_l, \; R_l \text{ turns } (x_i, x_{i + D/2}) \text{ by } l \, base^{-2i/D}",
        (r"dx_l = R_l^{\top} dout_l",),
        ("E-10",),
    ),
)

# ------------------------------------------------------------------------------------ dropout


def _mask(draw: Draw, N: int, D: int) -> Inputs:
    """A mask that keeps an entry of x that is 0, which cannot be inferred from the output."""
    x = np.array(draw.normal(N, D))
    x[0, 0] = 0
    keep = draw.rng.random(x.shape) < 0.6
    keep[0, :2] = True, False
    return {"x": jax.device_put(x), "keep": jax.device_put(keep)}


def _by_rate(keep: Any, dout: Any, rate: float) -> Any:
    return keep * dout / (1 - rate)


def _dropout(
    dout: Any,
    x: Any,
    keep: Any,
    rate: float = 0.5,
    *,
    seen: Callable = lambda x, keep: keep,
    scaled: Callable = _by_rate,
) -> dict[str, Any]:
    return {"x": scaled(seen(x, keep), dout, rate)}


DROPOUT_MUTANTS = family(
    "gradient",
    _dropout,
    (WRONG_INDEX, "the mask read off the output, out ≠ 0", {"seen": lambda x, keep: (x * keep) != 0}),
    (WRONG_INDEX, "dx = dout · out/x", {"seen": lambda x, keep: x * keep / x}),
    (WRONG_INDEX, "the other entries' mask", {"seen": lambda x, keep: ~keep}),
    (TERM, "the mask is forgotten", {"seen": lambda x, keep: 1}),
    (FACTOR, "1/(1 − rate) is missing", {"scaled": lambda keep, dout, rate: keep * dout}),
    (FACTOR, "1/(1 − rate) twice", {"scaled": lambda keep, dout, rate: keep * dout / (1 - rate) ** 2}),
    (FACTOR, "1 − rate for its inverse", {"scaled": lambda keep, dout, rate: keep * dout * (1 - rate)}),
)
DROPOUT_HARD = (
    Hard(
        "a dropped entry that is infinite or NaN",
        "What is dropped is 0, in the output and in the gradient: a select; 0 · ∞ would be NaN.",
        lambda rng: {
            "x": np.array([inf, 2.0, nan, 0.0]),
            "keep": np.array([False, True, False, True]),
            "dout": np.array([1.5, 3.0, inf, 2.0]),
        },
        {"x · (keep / p)": lambda x, keep: x * (keep.astype(x.dtype) / 0.5)},
        ("x · (keep / p)",),
        "0 · ∞ is NaN; as a product with keep itself XLA compiles a select",
        right=lambda point, dout: tuple(
            np.where(point["keep"], 2 * np.nan_to_num(a), 0.0) for a in (point["x"], dout)
        ),
    ),
)
DROPOUT_AXES, MATRICES = ("N", "D"), ((64, 64), (512, 512), (4096, 1024))
DROPOUT = Formula(
    dropout_fwd,
    dropout_bwd,
    reference.sequences.dropout,
    definition=definitions.dropout,
    mutants=(DROPOUT_MUTANTS,),
    draw=_mask,
    sizes={"N": 7, "D": 4},
    source="Srivastava et al. 2014, sections 4 and 10",
    variants={"rate": {"rate": 0.75}, "": {}},
    polynomial=True,
    batch=Batch({"x": 0, "keep": 0}, 0),
    hard=DROPOUT_HARD,
    op=Op(ops.dropout),
    bench=Bench(DROPOUT_AXES, MATRICES, reference.plain.dropout, quick=(0,)),
    shown=Shown(
        "Layers",
        "Dropout",
        r"out = keep \odot x / (1 - rate)",
        (r"dx = keep \odot dout / (1 - rate)",),
        ("E-13",),
    ),
)

# ------------------------------------------------------------------------------------ low-rank adaptation


def _lora(
    dout: Any,
    x: Any,
    W: Any,
    A: Any,
    B: Any,
    scale: float = 1.0,
    *,
    change: Callable = lambda s, dU, A: s * dU @ A.T,
    of_A: Callable = lambda s, x, dU: s * x.T @ dU,
    of_B: Callable = lambda s, x, A, dout: s * (x @ A).T @ dout,
) -> dict[str, Any]:
    dU = dout @ B.T
    return {
        "x": dout @ W.T + change(scale, dU, A),
        "W": x.T @ dout,
        "A": of_A(scale, x, dU),
        "B": of_B(scale, x, A, dout),
    }


LORA_MUTANTS = family(
    "gradient",
    _lora,
    (TERM, "dx = dout Wᵀ, without the change", {"change": lambda s, dU, A: 0}),
    (FACTOR, "scale is missing in dx", {"change": lambda s, dU, A: dU @ A.T}),
    (FACTOR, "scale is missing in dA", {"of_A": lambda s, x, dU: x.T @ dU}),
    (FACTOR, "scale is missing in dB", {"of_B": lambda s, x, A, dout: (x @ A).T @ dout}),
    (FACTOR, "scale twice in dA", {"of_A": lambda s, x, dU: s**2 * x.T @ dU}),
    (FACTOR, "scale for 1/scale in dB", {"of_B": lambda s, x, A, dout: (x @ A).T @ dout / s}),
    reaches={"change": "x", "of_A": "A", "of_B": "B"},
)
LORA_AXES, LORAS = ("*N", "d m", "r"), (((64,), 64, 4), ((512,), 512, 8), ((4096,), 1024, 16))
LORA = Formula(
    lora_fwd,
    lora_bwd,
    reference.sequences.lora,
    definition=definitions.lora,
    mutants=(LORA_MUTANTS,),
    draw={"x": normal, "W": scaled_by("d"), "A": scaled_by("d"), "B": scaled_by("r")},
    sizes={"*N": (7,), "d": 5, "m": 4, "r": 3},
    source="Hu et al. 2021, equation 3",
    variants={"scale": {"scale": 0.5}, "": {}},
    polynomial=True,
    batch=Batch({"x": 0}, 0),
    grows=(("x", 0),),
    op=Op(ops.lora),
    bench=Bench(LORA_AXES, LORAS, reference.plain.lora, quick=(0,)),
    shown=Shown(
        "Layers",
        "Low-rank adaptation",
        r"out = x W + s \, x A B",
        (
            r"dx = dout \, W^{\top} + s \, dout \, B^{\top} A^{\top}, \; dW = x^{\top} dout",
            r"dA = s \, x^{\top} dout \, B^{\top}, \; dB = s \, (x A)^{\top} dout",
        ),
        ("E-18",),
    ),
)
ENTRIES = (EMBEDDING, ROPE, DROPOUT, LORA)
