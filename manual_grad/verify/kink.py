"""Inputs that put one unit of a ReLU network exactly at its kink."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from manual_grad.catalogue.draw import Draw
from manual_grad.lectures.entries import Claim


def at_the_kink(claim: Claim) -> Claim:
    """The claim of a ReLU network with the weights and bias of its first hidden unit set to 0.

    That puts the unit exactly at ReLU's kink for every sample, the only place where a mask with ≥ differs
    from one with >. Other claims are returned unchanged.
    """
    name = claim.reference.__name__
    if name == "relu":
        return replace(claim, inputs=lambda draw: {"x": _zeroed(claim.inputs(draw)["x"], 0)})

    def inputs(draw: Draw) -> dict[str, Any]:
        given = claim.inputs(draw)
        if given.get("activation", "relu") != "relu":
            return given
        return _with_a_dead_unit(given, rows=name.endswith("rows"))

    return replace(claim, inputs=inputs)


def _with_a_dead_unit(given: dict[str, Any], rows: bool) -> dict[str, Any]:
    if "W1" in given:
        W1 = _zeroed(given["W1"], (slice(None), 0) if rows else 0)
        return {**given, "W1": W1, "b1": _zeroed(given["b1"], 0)}
    params = given.get("params")
    if isinstance(params, dict) and "K1" in params:
        K1, b1 = _zeroed(params["K1"], (..., 0)), _zeroed(params["b1"], 0)
        return {**given, "params": {**params, "K1": K1, "b1": b1}}
    if isinstance(params, list) and len(params) > 1:
        (W, b), *rest = params
        W = _zeroed(W, (slice(None), 0) if rows else 0)
        return {**given, "params": [(W, _zeroed(b, 0)), *rest]}
    return given


def _zeroed(array: Any, where: Any) -> jax.Array:
    """The array with those entries set to 0; in NumPy, which avoids compiling anything."""
    entries = np.array(array)
    entries[where] = 0
    return jax.device_put(entries)
