"""Activations: applied to each entry by itself."""

from typing import Any

import jax
import jax.numpy as jnp

import manual_grad_reference as reference
from manual_grad import ops
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

SMALL, MIDDLE, LARGE = ((64,),), ((512, 512),), ((4096, 1024),)


def _timed(plain: Any = None, *sizes: Any, **more: Any) -> Bench:
    return Bench(("...",), sizes or (SMALL, MIDDLE, LARGE), plain, **more)


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
    **EACH | {"source": "Lecture B, page 1"},
    polynomial=True,
    kinks=lambda res: [res],
    functions=(Function(relu_prime), Function(jac_relu_x, wrt=("x",))),
    op=Op(ops.relu, _timed(jax.nn.relu, SMALL, LARGE, peer=True)),
    bench=_timed(jax.nn.relu, quick=(1,)),
    shown=Shown("Activations", "ReLU", r"a = \max(z, 0)", (r"dz = da \odot \mathbb{1}\{z > 0\}",), ("B-06",)),
)
SIGMOID = Formula(
    sigmoid_fwd,
    sigmoid_bwd,
    reference.activations.sigmoid,
    **EACH,
    stable=reference.stable.stable_sigmoid,
    functions=(Function(sigmoid_prime),),
    bench=_timed(jax.nn.sigmoid),
    shown=Shown(
        "Activations", "Sigmoid", r"a = \frac{1}{1 + e^{-z}}", (r"dz = da \odot a (1 - a)",), ("C-02",)
    ),
)
TANH = Formula(
    tanh_fwd,
    tanh_bwd,
    reference.activations.tanh,
    **EACH,
    functions=(Function(tanh_prime),),
    bench=_timed(jnp.tanh),
    shown=Shown("Activations", "Tanh", r"a = \tanh z", (r"dz = da \odot (1 - a^2)",), ("C-02",)),
)
SOFTPLUS = Formula(
    softplus_fwd,
    softplus_bwd,
    reference.activations.softplus,
    **EACH,
    stable=reference.stable.stable_softplus,
    functions=(Function(softplus_prime),),
    bench=_timed(jax.nn.softplus, quick=(1,)),
    shown=Shown("Activations", "Softplus", r"a = \ln(1 + e^z)", (r"dz = da \odot \sigma(z)",), ("C-02",)),
)
IDENTITY = Formula(
    identity_fwd,
    identity_bwd,
    reference.activations.identity,
    **EACH,
    polynomial=True,
    functions=(Function(identity_prime),),
    bench=_timed(None, SMALL, MIDDLE),
)
ENTRIES = (RELU, SIGMOID, TANH, SOFTPLUS, IDENTITY)
