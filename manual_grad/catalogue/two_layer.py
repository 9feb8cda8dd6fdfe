"""Lecture B's networks of two layers: one sample, a batch in columns, a batch in rows."""

from typing import Any

import numpy as np

import manual_grad_reference as reference
from manual_grad.catalogue import golden, hard_layers, mutants_of_networks
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import NO_BATCH, Batch, Bench, Formula, Function, Inputs, Shown
from manual_grad.networks.two_layer import (
    jac_two_layer_cross_entropy,
    jac_two_layer_squared_loss,
    two_layer_cross_entropy_bwd,
    two_layer_cross_entropy_columns_bwd,
    two_layer_cross_entropy_columns_fwd,
    two_layer_cross_entropy_fwd,
    two_layer_cross_entropy_rows_bwd,
    two_layer_cross_entropy_rows_fwd,
    two_layer_squared_loss_bwd,
    two_layer_squared_loss_fwd,
)
from manual_grad_reference import definitions

PARAMETERS = ("W1", "b1", "W2", "b2")


def _parameters(draw: Draw, *widths: int, X: Any, rows: bool = False) -> Inputs:
    """Parameters for which no class is nearly certain and no hidden unit is near ReLU's kink.

    So no gradient is a small difference of large numbers, and rounding moves no unit across the kink."""
    (W1, b1), (W2, b2) = draw.layers(*widths, rows=rows, X=X)
    real = draw.style == "real"
    return {"W1": W1, "b1": b1 if real else draw.positive(*b1.shape), "W2": W2 / 2 if real else W2, "b2": b2}


def _squared_loss(draw: Draw, d: int, m: int) -> Inputs:
    x = draw.normal(d)
    return {**_parameters(draw, d, m, 1, X=np.asarray(x)[:, None]), "x": x, "y": 4 + draw.positive()}


def _cross_entropy(draw: Draw, d: int, m: int, c: int) -> Inputs:
    x = draw.normal(d)
    return {**_parameters(draw, d, m, c, X=np.asarray(x)[:, None]), "x": x, "y": draw.labels(1, c)[0]}


def _columns(draw: Draw, N: int, d: int, m: int, c: int) -> Inputs:
    X = draw.normal(d, N)
    return {**_parameters(draw, d, m, c, X=X), "X": X, "y": draw.labels(N, c)}


def _rows(draw: Draw, N: int, d: int, m: int, c: int) -> Inputs:
    X = draw.normal(N, d)
    return {**_parameters(draw, d, m, c, X=X, rows=True), "X": X, "y": draw.labels(N, c)}


AXES, BATCHES = ("N", "d", "m", "c"), ((32, 8, 16, 4), (1024, 784, 128, 10))
TWO_LAYER_SQUARED_LOSS = Formula(
    two_layer_squared_loss_fwd,
    two_layer_squared_loss_bwd,
    reference.two_layer.two_layer_squared_loss,
    definition=definitions.two_layer_squared_loss,
    mutants=mutants_of_networks.TWO_LAYER_SQUARED_LOSS,
    draw=_squared_loss,
    sizes={"d": 3, "m": 7},
    source="Lecture B, pages 1 and 2",
    batch=NO_BATCH,
    hard=hard_layers.TWO_LAYER_SQUARED_LOSS,
    golden=golden.network(golden.tied_layer("W1", "b1", 0), "x", "W1"),
    polynomial=True,
    kinks=lambda res: [res[3]],
    functions=(Function(jac_two_layer_squared_loss, PARAMETERS),),
    bench=Bench(("d", "m"), ((8, 4), (784, 512))),
)
TWO_LAYER_CROSS_ENTROPY = Formula(
    two_layer_cross_entropy_fwd,
    two_layer_cross_entropy_bwd,
    reference.two_layer.two_layer_cross_entropy,
    definition=definitions.two_layer_cross_entropy,
    mutants=mutants_of_networks.TWO_LAYER_CROSS_ENTROPY,
    draw=_cross_entropy,
    sizes={"d": 3, "m": 7, "c": 5},
    source="Lecture B, pages 3 and 4",
    batch=NO_BATCH,
    golden=golden.network(golden.tied_layer("W1", "b1", 0), "x", "W1"),
    kinks=lambda res: [res[3]],
    functions=(Function(jac_two_layer_cross_entropy, PARAMETERS),),
    bench=Bench(("d", "m", "c"), ((8, 16, 3), (784, 512, 10)), reference.plain.two_layer_cross_entropy),
)
TWO_LAYER_CROSS_ENTROPY_COLUMNS = Formula(
    two_layer_cross_entropy_columns_fwd,
    two_layer_cross_entropy_columns_bwd,
    reference.two_layer.two_layer_cross_entropy_columns,
    definition=definitions.two_layer_cross_entropy_columns,
    mutants=mutants_of_networks.TWO_LAYER_CROSS_ENTROPY_COLUMNS,
    draw=_columns,
    sizes={"N": 4, "d": 3, "m": 7, "c": 5},
    source="Lecture B, pages 5 and 6",
    hard=hard_layers.TWO_LAYER_CROSS_ENTROPY_COLUMNS,
    golden=golden.network(golden.tied_layer("W1", "b1", 0), "X", "W1"),
    batch=Batch({"X": 1, "y": 0}, mean=True),
    kinks=lambda res: [res[3]],
    bench=Bench(AXES, BATCHES, reference.plain.two_layer_cross_entropy_columns, kinks=True),
)
TWO_LAYER_CROSS_ENTROPY_ROWS = Formula(
    two_layer_cross_entropy_rows_fwd,
    two_layer_cross_entropy_rows_bwd,
    reference.two_layer.two_layer_cross_entropy_rows,
    definition=definitions.two_layer_cross_entropy_rows,
    mutants=mutants_of_networks.TWO_LAYER_CROSS_ENTROPY_ROWS,
    draw=_rows,
    sizes={"N": 4, "d": 3, "m": 7, "c": 5},
    source="Lecture B, page 7",
    hard=hard_layers.TWO_LAYER_CROSS_ENTROPY_ROWS,
    golden=golden.network(golden.tied_layer("W1", "b1", 1), "X", "W1"),
    batch=Batch({"X": 0, "y": 0}, mean=True),
    kinks=lambda res: [res[3]],
    bench=Bench(AXES, BATCHES, reference.plain.two_layer_cross_entropy_rows, quick=(1,), kinks=True),
    shown=Shown(
        "Whole networks",
        "ReLU network of two layers, a batch in rows",
        r"S = \operatorname{ReLU}(X W^{[1]} + \mathbf{1} b^{[1]}) W^{[2]} + \mathbf{1} b^{[2]}",
        (
            r"dS = \frac{1}{n} (P - Y)",
            r"dZ = dS \, W^{[2]\top} \odot \mathbb{1}\{Z > 0\}",
            r"dW^{[2]} = A^{\top} dS, \; dW^{[1]} = X^{\top} dZ",
        ),
        ("B-16",),
    ),
)
ENTRIES = (
    TWO_LAYER_SQUARED_LOSS,
    TWO_LAYER_CROSS_ENTROPY,
    TWO_LAYER_CROSS_ENTROPY_ROWS,
    TWO_LAYER_CROSS_ENTROPY_COLUMNS,
)
