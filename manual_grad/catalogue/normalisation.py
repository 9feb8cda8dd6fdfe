"""Normalisation over a sample's features."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue.entry import Batch, Bench, Formula, Function, Op, Shown, normal, positive
from manual_grad.catalogue.families import FACTOR, MEAN_FOR_SUM, SUM_MISSING, TERM, family
from manual_grad.formulas.normalisation import (
    jac_layer_norm_x,
    jac_layer_norm_x_blocks,
    layer_norm_bwd,
    layer_norm_fwd,
)
from manual_grad_reference import definitions

AXES, SIZES = ("*N", "D"), (((64,), 32), ((512,), 768), ((4096,), 1024))
JACOBIANS = Bench(AXES, (((4,), 10), ((16,), 40), ((64,), 100)), quick=(1,), estimated=(2,))


def blocks(J: jax.Array) -> jax.Array:
    """The D×D block of each sample, out of a Jacobian in which samples do not meet."""
    return jnp.stack([J[n, :, n] for n in range(len(J))])


def _by_hand(
    dy: Any,
    x: Any,
    gamma: Any,
    beta: Any,
    eps: float = 1e-5,
    *,
    scaled: Callable = lambda dy, gamma: dy * gamma,
    shift: Callable = lambda g: g.mean(axis=-1, keepdims=True),
    stretch: Callable = lambda g, x_hat: x_hat * (g * x_hat).mean(axis=-1, keepdims=True),
    over: Callable = lambda g: g.sum(axis=0),
) -> dict[str, Any]:
    centred = x - x.mean(axis=-1, keepdims=True)
    sigma = jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    x_hat, g = centred / sigma, scaled(dy, gamma)
    dx = (g - shift(g) - stretch(g, x_hat)) / sigma
    return {"x": dx, "gamma": over(dy * x_hat), "beta": over(dy)}


MUTANTS = family(
    "gradient",
    _by_hand,
    (TERM, "mean(dx̂) is not taken away", {"shift": lambda g: 0 * g}),
    (TERM, "x̂ mean(dx̂ x̂) is not taken away", {"stretch": lambda g, x_hat: 0 * g}),
    (FACTOR, "γ is missing in dx̂", {"scaled": lambda dy, gamma: dy}),
    (
        FACTOR,
        "1/(D − 1) for 1/D in mean(dx̂)",
        {"shift": lambda g: g.sum(-1, keepdims=True) / (g.shape[-1] - 1)},
    ),
    (FACTOR, "mean(dx̂ x̂) without x̂", {"stretch": lambda g, x_hat: (g * x_hat).mean(-1, keepdims=True)}),
    (SUM_MISSING, "dγ = dy x̂, dβ = dy, one a sample", {"over": lambda g: g}),
    (MEAN_FOR_SUM, "dγ, dβ = the mean over the samples", {"over": lambda g: g.mean(axis=0)}),
    reaches={"scaled": "x", "shift": "x", "stretch": "x", "over": "gamma beta"},
)
LAYER_NORM = Formula(
    layer_norm_fwd,
    layer_norm_bwd,
    reference.normalisation.layer_norm,
    definition=definitions.layer_norm,
    mutants=(MUTANTS,),
    draw={"x": normal, "gamma": positive, "beta": normal},
    sizes={"*N": (7,), "D": 6},
    tiny={"*N": (2,), "D": 3},
    source="Ba, Kiros, Hinton 2016, equation 3",
    variants={"": {}, "eps": {"eps": 0.5}},
    batch=Batch({"x": 0}, 0),
    grows=(("x", 0),),
    functions=(
        Function(jac_layer_norm_x, ("x",), bench=JACOBIANS),
        Function(jac_layer_norm_x_blocks, ("x",), blocks, bench=JACOBIANS),
    ),
    op=Op(ops.layer_norm, Bench(AXES, SIZES[:2])),
    bench=Bench(AXES, SIZES, quick=(1,)),
    shown=Shown(
        "Layers",
        "Layer normalisation",
        r"y = \gamma \hat{x} + \beta, \; \hat{x} = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}}",
        (
            r"dx = \frac{1}{\sqrt{\sigma^2 + \varepsilon}} \left( d\hat{x} - \overline{d\hat{x}} - "
            r"\hat{x} \, \overline{d\hat{x} \, \hat{x}} \right), \; d\hat{x} = \gamma \, dy",
            r"d\gamma = \sum dy \, \hat{x}, \; d\beta = \sum dy",
        ),
        ("E-01",),
    ),
)
ENTRIES = (LAYER_NORM,)
