"""Attention, whole and in chunks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import Batch, Bench, Formula, Function, Inputs, Op, Scale, Shown, normal
from manual_grad.catalogue.families import FACTOR, MEAN_FOR_SUM, SUM_MISSING, TERM, TRANSPOSED, family
from manual_grad.catalogue.hard import Arrays, Hard, Rng
from manual_grad.formulas.attention import attention_bwd, attention_fwd, jac_attention_scores
from manual_grad.kernels.attention import attention_streaming_bwd, attention_streaming_fwd
from manual_grad_reference import definitions

MASK, HEADS = "mask missing or misplaced", "heads of the wrong group"


def _heads(draw: Draw, N: int, Lq: int, Lk: int, H: int, Hkv: int, D: int, masked: bool = False) -> Inputs:
    """Random heads; if masked, a query sees a key with probability 0.7, independently for each head."""
    if draw.style == "tiny":
        N, Lq, Lk, H, Hkv, D = 1, 2 + (Lq > Lk), 2 + (Lq < Lk), 2, 1, 2
    if draw.style == "square":
        N, Lq, Lk, H, Hkv, D = 4, 4, 4, 4, 4, 4
    scales = {"q": (N, Lq, H, D), "k": (N, Lk, Hkv, D), "v": (N, Lk, Hkv, D)}
    mask = jax.device_put(draw.rng.random((N, H, Lq, Lk)) < 0.7) if masked else None
    return {name: draw.exactly(*shape) for name, shape in scales.items()} | {"mask": mask}


# ------------------------------------------------------------------------------------ mutants


def _visible(q: Any, k: Any, mask: Any, causal: bool, window: int | None, offset: int) -> Any:
    i, j = jnp.arange(q.shape[1])[:, None] + offset, jnp.arange(k.shape[1])
    seen = jnp.broadcast_to(True if mask is None else mask, (len(q), q.shape[2], q.shape[1], k.shape[1]))
    seen = seen & (j <= i) if causal else seen
    return seen & (j > i - window) if window is not None else seen


def _summed(x: Any, Hkv: int) -> Any:
    """Sum over the query heads of each key head."""
    N, L, H, D = x.shape
    return x.reshape(N, L, Hkv, H // Hkv, D).sum(axis=3)


def _grouped(H: int, Hkv: int) -> Any:
    return jnp.arange(H) * Hkv // H


def _of_softmax(dP: Any, P: Any) -> Any:
    return (dP * P).sum(axis=-1, keepdims=True)


def _attention(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    *,
    again: Callable = _visible,
    in_dS: Callable = lambda P, all_P: P,
    less: Callable = _of_softmax,
    powers: tuple[int, int] = (1, 1),
    gathered: Callable = _summed,
    heads: Callable = _grouped,
    laid_out: Callable = lambda x: x.swapaxes(1, 2),
    **_: Any,
) -> dict[str, Any]:
    (Lq, H, D), (Lk, Hkv) = q.shape[1:], k.shape[1:3]
    scale = D**-0.5 if scale is None else scale
    read = heads(H, Hkv)
    K, V = k[:, :, read], v[:, :, read]
    S = scale * jnp.einsum("nqhd,nkhd->nhqk", q, K)
    visible = again(q, k, mask, causal, window, Lk - Lq)
    exps = jnp.where(visible, jnp.exp(S), 0)
    P = exps / jnp.maximum(exps.sum(axis=-1, keepdims=True), 1e-30)
    dP = jnp.einsum("nqhd,nkhd->nhqk", dout, V)
    dS = in_dS(P, jnp.exp(S) / jnp.exp(S).sum(axis=-1, keepdims=True)) * (dP - less(dP, P))
    dq = scale ** powers[0] * jnp.einsum("nhqk,nkhd->nqhd", dS, K)
    dk = scale ** powers[1] * laid_out(jnp.einsum("nhqk,nqhd->nhkd", dS, q))
    dv = laid_out(jnp.einsum("nhqk,nqhd->nhkd", P, dout))
    return {"q": dq, "k": gathered(dk, Hkv), "v": gathered(dv, Hkv)}


def _unmasked(q: Any, k: Any, mask: Any, causal: bool, window: int | None, offset: int) -> Any:
    return _visible(q, k, None, False, None, 0)


MUTANTS = (
    family(
        "gradient",
        _attention,
        (TERM, "dS = P ⊙ dP", {"less": lambda dP, P: 0}),
        (TERM, "Σ dP P over the queries", {"less": lambda dP, P: (dP * P).sum(axis=-2, keepdims=True)}),
        (TERM, "Σ dP, without P", {"less": lambda dP, P: dP.sum(axis=-1, keepdims=True)}),
        (FACTOR, "the scale is missing in dQ", {"powers": (0, 1)}),
        (FACTOR, "the scale is missing in dK", {"powers": (1, 0)}),
        (FACTOR, "the scale twice in dQ and dK", {"powers": (2, 2)}),
        (
            SUM_MISSING,
            "dK, dV of a group's first query head",
            {"gathered": lambda x, n: x[:, :, :: x.shape[2] // n]},
        ),
        (
            MEAN_FOR_SUM,
            "dK, dV = the mean of a group",
            {"gathered": lambda x, n: _summed(x, n) * n / x.shape[2]},
        ),
        (HEADS, "query head h reads key head h mod H_kv", {"heads": lambda H, Hkv: jnp.arange(H) % Hkv}),
        (
            TRANSPOSED,
            "dK, dV read as if transposed already",
            {"laid_out": lambda x: x.reshape(len(x), -1, *x.shape[1::2])},
        ),
        reaches={"powers": "q k", "gathered": "k v", "laid_out": "k v"},
    ),
    family(
        "gradient",
        _attention,
        (MASK, "P computed again without the mask", {"again": _unmasked}),
        (MASK, "without the mask in dS alone", {"in_dS": lambda P, all_P: all_P}),
        (
            MASK,
            "without the argument mask alone",
            {"again": lambda q, k, mask, *more: _visible(q, k, None, *more)},
        ),
        applies=lambda inputs: inputs["mask"] is not None,
    ),
    family(
        "gradient",
        _attention,
        (MASK, "causal from the top left", {"again": lambda q, k, m, c, w, o: _visible(q, k, m, c, w, 0)}),
        (
            MASK,
            "a key further to the right",
            {"again": lambda q, k, m, c, w, o: _visible(q, k, m, c, w, o + 1)},
        ),
        applies=lambda inputs: inputs.get("causal", False),
    ),
    family(
        "gradient",
        _attention,
        (MASK, "without the window", {"again": lambda q, k, m, c, w, o: _visible(q, k, m, c, None, o)}),
        applies=lambda inputs: inputs.get("window") is not None,
    ),
)

# ------------------------------------------------------------------------------------ hard inputs


def _plain(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    S = jnp.einsum("nqhd,nkhd->nhqk", q, k) * q.shape[3] ** -0.5
    S = S if mask is None else jnp.where(mask, S, -jnp.inf)
    exps = jnp.exp(S - S.max(axis=-1, keepdims=True))
    return jnp.einsum("nhqk,nkhd->nqhd", exps / exps.sum(axis=-1, keepdims=True), v)


def _drawn(rng: Rng, size: int = 0, Lq: int = 2, Lk: int = 3) -> Arrays:
    """Gaussian, or whole numbers up to a size: with D = 4 the scale is ½ and no score is rounded."""
    shapes = {"q": (1, Lq, 1, 4), "k": (1, Lk, 1, 4), "v": (1, Lk, 1, 4)}
    return {
        name: rng.integers(-size, size + 1, shape) * 1.0 if size else rng.normal(size=shape)
        for name, shape in shapes.items()
    }


HARD = (
    Hard(
        "a query that sees no key",
        "It gives 0, its cotangent is 0, and keys and values get none from it: padding changes nothing.",
        lambda rng: _drawn(rng) | {"mask": np.array([[True, False, True], [False, False, False]])},
        {"−∞ where masked": _plain},
        ("−∞ where masked",),
        "−∞ less the largest, −∞, is NaN",
    ),
    Hard(
        "scores of ±1e4",
        "The softmax is a maximum there, to all digits: shifted by it nothing overflows.",
        lambda rng: _drawn(rng, 120),
        {"e^S/Σe^S": None, "e^(S − max)": _plain},
        ("e^S/Σe^S",),
        "e^S overflows",
    ),
)

ALONE = tuple(
    Hard(
        "whole blocks of keys, and no other mask",
        f"Every block is full, so that only {says} hides keys, whole blocks among them.",
        lambda rng: _drawn(rng, Lq=3, Lk=4),
        settings={"chunk": 2, **setting},
    )
    for says, setting in (("causality", {"causal": True}), ("the window", {"window": 2}))
)

# ------------------------------------------------------------------------------------ entries

AXES = ("N", "Lq Lk", "H Hkv", "D")
LENGTHS, ONE_HEAD = (4, 16, 64, 256, 1024, 4096), {"N": 1, "H": 1, "Hkv": 1, "D": 64}
ALL_MASKS = {"causal": True, "window": 3, "scale": 0.3, "masked": True, "Lq": 5, "Lk": 4}
ATTENTION = Formula(
    attention_fwd,
    attention_bwd,
    reference.attention.attention,
    definition=definitions.attention,
    mutants=MUTANTS,
    draw=_heads,
    sizes={"N": 2, "Lq": 4, "Lk": 5, "H": 6, "Hkv": 3, "D": 7},
    source="Vaswani et al. 2017, equation 1; Ainslie et al. 2023",
    variants={
        "masks": ALL_MASKS,
        "": {},
        "causal": {"causal": True},
    },
    batch=Batch({"q": 0, "k": 0, "v": 0, "mask": 0}, 0),
    sends={"L": {"all-gather": "2 N Lk Hkv D", "reduce-scatter": "2 N Lk Hkv D"}, "H": {}},
    grows=(("q", 1),),
    hard=HARD,
    functions=(
        Function(
            jac_attention_scores,
            ("scores",),
            reference=reference.attention.attention_of_scores,
            draw={"scores": normal, "v": normal},
            sizes={"K": 5, "D": 3},
            variants={"": {}},
        ),
    ),
    op=Op(ops.attention),
    bench=Bench(
        AXES,
        ((1, 64, 8, 64), (1, 512, 8, 64), (1, 2048, 8, 64)),
        reference.plain.attention,
        quick=(0,),
        estimated=(2,),
        scale=Scale("attention", "Lq Lk", LENGTHS, ONE_HEAD),
    ),
    shown=Shown(
        "Layers",
        "Attention, masked, in groups of heads",
        r"O = P V, \; P = \operatorname{softmax}(s \, Q K^{\top})",
        (
            r"dV = P^{\top} dO, \; dS = P \odot (dO V^{\top} - \Delta), \; \Delta = \sum_d dO \odot O",
            r"dQ = s \, dS \, K, \; dK = s \, dS^{\top} Q",
        ),
        ("E-11",),
    ),
)
ATTENTION_STREAMING = replace(
    ATTENTION,
    fwd=attention_streaming_fwd,
    bwd=attention_streaming_bwd,
    source="Dao et al. 2022, algorithms 1 and 4",
    variants={
        "masks": ALL_MASKS | {"chunk": 3},
        "": {},
        "chunks": {"chunk": 2, "Lq": 3, "Lk": 5},
    },
    functions=(),
    hard=HARD + ALONE,
    op=Op(ops.attention_streaming),
    bench=Bench(
        AXES,
        ((1, 64, 8, 64), (1, 1024, 8, 64), (1, 4096, 8, 64)),
        reference.plain.attention,
        quick=(0,),
        estimated=(1, 2),
        scale=Scale("streaming attention", "Lq Lk", LENGTHS, ONE_HEAD),
    ),
    shown=Shown(
        "Layers",
        "Attention in chunks, without all scores at once",
        r"O = P V, \; P = e^{S - lse}",
        (r"dS = P \odot (dO V^{\top} - \Delta), \; \Delta = \sum_d dO \odot O",),
        ("E-12",),
    ),
)
ENTRIES = (ATTENTION, ATTENTION_STREAMING)
