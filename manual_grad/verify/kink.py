"""Inputs on which a ReLU network sits exactly at the kink of one of its units."""

from dataclasses import replace
from typing import Any

from manual_grad.catalogue.draw import Draw
from manual_grad.lectures.entries import Claim


def at_the_kink(claim: Claim) -> Claim:
    """The claim of a ReLU network with the weights and bias of its first hidden unit at 0.

    That puts the unit exactly at ReLU's kink, for every sample, where alone a mask with ≥ differs from one
    with >. Other claims come back as they are.
    """
    name = claim.reference.__name__
    if name == "relu":
        return replace(claim, inputs=lambda draw: {"x": claim.inputs(draw)["x"].at[0].set(0)})

    def inputs(draw: Draw) -> dict[str, Any]:
        given = claim.inputs(draw)
        if given.get("activation", "relu") != "relu":
            return given
        return _with_a_dead_unit(given, rows=name.endswith("rows"))

    return replace(claim, inputs=inputs)


def _with_a_dead_unit(given: dict[str, Any], rows: bool) -> dict[str, Any]:
    if "W1" in given:
        W1 = given["W1"].at[:, 0].set(0) if rows else given["W1"].at[0].set(0)
        return {**given, "W1": W1, "b1": given["b1"].at[0].set(0)}
    params = given.get("params")
    if isinstance(params, dict) and "K1" in params:
        K1, b1 = params["K1"].at[..., 0].set(0), params["b1"].at[0].set(0)
        return {**given, "params": {**params, "K1": K1, "b1": b1}}
    if isinstance(params, list) and len(params) > 1:
        (W, b), *rest = params
        W = W.at[:, 0].set(0) if rows else W.at[0].set(0)
        return {**given, "params": [(W, b.at[0].set(0)), *rest]}
    return given
