"""Layers for sequences of tokens: embeddings, rotary positions, dropout, low-rank adaptation."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue.entry import Batch, Bench, Formula, Op, Shown, integers_below, normal
from manual_grad.catalogue.families import MEAN_FOR_SUM, SUM_MISSING, TERM, family
from manual_grad.catalogue.hard import Arrays, Hard, nan
from manual_grad.formulas.sequences import embedding_bwd, embedding_fwd
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
    (TERM, "id 0 taken for padding", {"put": lambda d, i, g: d.at[i].add(g).at[0].set(0)}),
    (
        SUM_MISSING,
        "of each sample the first token alone",
        {"put": lambda d, i, g: d.at[i[:, 0]].add(g[:, 0])},
    ),
)


def _summed(point: Arrays, dout: np.ndarray) -> tuple:
    """Of ids that may be out of range: their rows NaN, and nothing of them added."""
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
        "Under jit an id outside 0 … V − 1 gives a row of NaN and adds nothing; −1 is no last row.",
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
    grows=(("ids", 0), ("ids", 1), ("table", 0), ("table", 1)),
    hard=EMBEDDING_HARD,
    op=Op(ops.embedding),
    bench=Bench(EMBEDDING_AXES, EMBEDDINGS, reference.plain.embedding, quick=(0,), estimated=(1, 2)),
    shown=Shown(
        "Layers",
        "Embedding",
        r"out_n = table_{ids_n}",
        (r"dtable_v = \sum_{n: \, ids_n = v} dout_n",),
        ("E-09",),
    ),
)
ENTRIES = (EMBEDDING,)
