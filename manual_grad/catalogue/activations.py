"""Activations: applied to each entry by itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue import golden, hard_layers, mutants_of_losses
from manual_grad.catalogue.entry import Batch, Bench, Formula, Function, Op, Shown, normal
from manual_grad.formulas.activations import (
    identity_bwd,
    identity_fwd,
    identity_prime,
    jac_relu_x,
    relu_bwd,
    relu_fwd,
    relu_prime,
    sigmoid_bwd,
    sigmoid_fwd,
    sigmoid_prime,
    softplus_bwd,
    softplus_fwd,
    softplus_prime,
    tanh_bwd,
    tanh_fwd,
    tanh_prime,
)
from manual_grad_reference import definitions

SMALL, MIDDLE, LARGE = ((64,),), ((512, 512),), ((4096, 1024),)


def _timed(plain: Any = None, *sizes: Any, **more: Any) -> Bench:
    return Bench(("...",), sizes or (SMALL, MIDDLE, LARGE), plain, **more)


def slope(fn: Callable[..., Any]) -> Callable[..., Any]:
    """f′ of an elementwise f."""
    return lambda x: jax.vjp(fn, x)[1](jnp.ones_like(x))[0]


GOLDEN_RELU = replace(
    golden.elementwise(subnormal=False),
    ties=golden.Changed(
        lambda draw, inputs: {"x": inputs["x"].at[0].set(0).at[1].set(-0.0)},
        golden.RELU_TIES.format("row 0 of x is 0 and row 1 is −0.0"),
    ),
)
GOLDEN_SIGMOID = golden.elementwise(
    ": σ → 0 and 1, σ′ → 0. 1/(1 + e⁻ˣ) as printed gives NaN gradients; the truth is e^(−log(1 + e⁻ˣ)), in "
    "reference/stable.py."
)
GOLDEN_TANH = golden.elementwise(": tanh → ±1, tanh′ → 0.")
GOLDEN_SOFTPLUS = golden.elementwise(
    ": softplus → 0 and x, its derivative → 0 and 1. log(1 + eˣ) as printed overflows; the truth uses "
    "logaddexp, in reference/stable.py."
)


EACH: dict[str, Any] = {
    "draw": {"x": normal},
    "sizes": {"...": (4, 5)},
    "source": "Lecture C, page 1",
    "batch": Batch({"x": 0}, 0),
    "grows": (("x", 0), ("x", 1)),
}

RELU = Formula(
    relu_fwd,
    relu_bwd,
    reference.activations.relu,
    definition=definitions.relu,
    mutants=mutants_of_losses.ACTIVATIONS["relu"],
    **EACH | {"source": "Lecture B, page 1"},
    hard=hard_layers.RELU,
    golden=GOLDEN_RELU,
    polynomial=True,
    kinks=lambda res: [res],
    functions=(
        Function(relu_prime, reference=slope(reference.activations.relu), golden=GOLDEN_RELU),
        Function(jac_relu_x, wrt=("x",), golden=GOLDEN_RELU),
    ),
    op=Op(ops.relu, _timed(jax.nn.relu, SMALL, LARGE, peer=True)),
    bench=_timed(jax.nn.relu, quick=(0, 1)),
    shown=Shown("Activations", "ReLU", r"a = \max(z, 0)", (r"dz = da \odot \mathbb{1}\{z > 0\}",), ("B-06",)),
)
SIGMOID = Formula(
    sigmoid_fwd,
    sigmoid_bwd,
    reference.activations.sigmoid,
    definition=definitions.sigmoid,
    mutants=mutants_of_losses.ACTIVATIONS["sigmoid"],
    **EACH,
    hard=hard_layers.SIGMOID,
    golden=GOLDEN_SIGMOID,
    stable=reference.stable.stable_sigmoid,
    functions=(
        Function(
            sigmoid_prime,
            reference=slope(reference.activations.sigmoid),
            stable=slope(reference.stable.stable_sigmoid),
            golden=GOLDEN_SIGMOID,
        ),
    ),
    bench=_timed(jax.nn.sigmoid),
    shown=Shown(
        "Activations", "Sigmoid", r"a = \frac{1}{1 + e^{-z}}", (r"dz = da \odot a (1 - a)",), ("C-02",)
    ),
)
TANH = Formula(
    tanh_fwd,
    tanh_bwd,
    reference.activations.tanh,
    definition=definitions.tanh,
    mutants=mutants_of_losses.ACTIVATIONS["tanh"],
    **EACH,
    hard=hard_layers.TANH,
    golden=GOLDEN_TANH,
    functions=(Function(tanh_prime, reference=slope(reference.activations.tanh), golden=GOLDEN_TANH),),
    bench=_timed(jnp.tanh),
    shown=Shown("Activations", "Tanh", r"a = \tanh z", (r"dz = da \odot (1 - a^2)",), ("C-02",)),
)
SOFTPLUS = Formula(
    softplus_fwd,
    softplus_bwd,
    reference.activations.softplus,
    definition=definitions.softplus,
    mutants=mutants_of_losses.ACTIVATIONS["softplus"],
    **EACH,
    hard=hard_layers.SOFTPLUS,
    golden=GOLDEN_SOFTPLUS,
    stable=reference.stable.stable_softplus,
    functions=(
        Function(
            softplus_prime,
            reference=slope(reference.activations.softplus),
            stable=slope(reference.stable.stable_softplus),
            golden=GOLDEN_SOFTPLUS,
        ),
    ),
    bench=_timed(jax.nn.softplus, quick=(1,)),
    shown=Shown("Activations", "Softplus", r"a = \ln(1 + e^z)", (r"dz = da \odot \sigma(z)",), ("C-02",)),
)
IDENTITY = Formula(
    identity_fwd,
    identity_bwd,
    reference.activations.identity,
    definition=definitions.identity,
    mutants=mutants_of_losses.ACTIVATIONS["identity"],
    **EACH,
    golden=golden.elementwise(),
    polynomial=True,
    functions=(
        Function(
            identity_prime, reference=slope(reference.activations.identity), golden=golden.elementwise()
        ),
    ),
    bench=_timed(None, SMALL, MIDDLE),
)
ENTRIES = (RELU, SIGMOID, TANH, SOFTPLUS, IDENTITY)
