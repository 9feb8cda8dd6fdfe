"""The chain rule: Jacobians of scalars and vectors, and a small graph."""

from typing import Any

import jax.numpy as jnp

import manual_grad_reference as reference
from manual_grad.catalogue import golden, mutants_of_losses
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import NO_BATCH, Bench, Distribution, Formula, Function, Inputs, normal
from manual_grad.formulas.chain_rule import (
    jac_chain_theta,
    jac_linear_map_x,
    jac_powers_x,
    jac_quadratic_map_theta,
    jac_square_x,
    jac_sum_of_squares_x,
    product_of_sum_bwd,
    product_of_sum_fwd,
)
from manual_grad_reference import definitions


def _power(draw: Draw, m: int) -> Inputs:
    return {"x": draw.normal(), "m": m}


def _large_sum(draw: Draw, inputs: Inputs) -> Inputs:
    k = golden.SHIFT[jnp.dtype(draw.dtype).name]
    return {name: golden.times_two_to(-k if name == "z" else k, a, draw) for name, a in inputs.items()}


GOLDEN = golden.GoldenCases(
    "Three Gaussian numbers.", extreme=golden.Changed(_large_sum, golden.SHIFTED.format("x and y", "z"))
)


PRODUCT_OF_SUM = Formula(
    product_of_sum_fwd,
    product_of_sum_bwd,
    reference.chain_rule.product_of_sum,
    definition=definitions.product_of_sum,
    mutants=mutants_of_losses.PRODUCT_OF_SUM,
    draw={"x": normal, "y": normal, "z": normal},
    sizes={},
    source="Lecture C, page 1",
    batch=NO_BATCH,
    golden=GOLDEN,
    bench=Bench((), ((),)),
    polynomial=True,
)
MAP: dict[str, Distribution] = {"A": normal, "B": normal, "theta": normal}
CHAIN: dict[str, Distribution] = {"C": normal, "D": normal, **MAP}
ENTRIES = (PRODUCT_OF_SUM,)
KNOWN: tuple[tuple[Any, str, Any, Any, dict[str, int]], ...] = (
    (jac_square_x, "x", reference.chain_rule.square, {"x": normal}, {}),
    (jac_sum_of_squares_x, "x", reference.chain_rule.sum_of_squares, {"x": normal}, {"n": 3}),
    (jac_powers_x, "x", reference.chain_rule.powers, _power, {"m": 4}),
    (jac_linear_map_x, "x", reference.chain_rule.linear_map, {"M": normal, "x": normal}, {"m": 4, "n": 3}),
    (jac_quadratic_map_theta, "theta", reference.chain_rule.quadratic_map, MAP, {"k": 4, "p": 3}),
    (jac_chain_theta, "theta", reference.chain_rule.composed_quadratic_maps, CHAIN, {"k": 4, "p": 3}),
)
FUNCTIONS = tuple(
    Function(fn, (by,), reference=plain, draw=draw, sizes=sizes) for fn, by, plain, draw, sizes in KNOWN
)
