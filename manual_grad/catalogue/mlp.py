"""Networks of any depth, and lecture D's five layers."""

from typing import Any

import jax
import numpy as np

import manual_grad_reference as reference
from manual_grad.catalogue import golden, hard_layers, mutants_of_networks
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import NO_BATCH, Batch, Bench, Formula, Function, Inputs, Shown, normal
from manual_grad.networks.mlp import (
    five_layer_bwd,
    five_layer_fwd,
    flatten_columns_bwd,
    flatten_columns_fwd,
    gradient_descent,
    mlp_columns_bwd,
    mlp_columns_fwd,
    mlp_rows_bwd,
    mlp_rows_fwd,
    network_squared_loss_bwd,
    network_squared_loss_deltas,
    network_squared_loss_fwd,
    one_hot_columns,
)
from manual_grad_reference import definitions

ACTIVATIONS = {name: {"activation": name} for name in reference.activations.ACTIVATIONS}
WIDTHS = (2, 4, 5, 3)


def _rows(draw: Draw, N: int, widths: tuple[int, ...]) -> Inputs:
    X = draw.normal(N, widths[0])
    return {"params": draw.layers(*widths, rows=True, X=X), "X": X}


def _columns(draw: Draw, N: int, widths: tuple[int, ...]) -> Inputs:
    X = draw.normal(widths[0], N)
    return {"params": draw.layers(*widths, rows=False, X=X), "X": X}


def _sample(draw: Draw, widths: tuple[int, ...]) -> Inputs:
    x = draw.normal(widths[0])
    return {
        "params": draw.layers(*widths, rows=False, X=np.asarray(x)[:, None]),
        "x": x,
        "y": 4 + draw.normal(widths[-1]),
    }


def _five_layers(draw: Draw, N: int, widths: tuple[int, ...]) -> Inputs:
    return {**_columns(draw, N, widths), "Y": draw.one_hot(N, widths[-1]).T}


def _steps(draw: Draw, learning_rate: float) -> Inputs:
    shapes = [((4, 2), (4,)), ((3, 4), (3,))]
    params, dparams = ([(draw.normal(*W), draw.normal(*b)) for W, b in shapes] for _ in range(2))
    return {"params": params, "dparams": dparams, "learning_rate": learning_rate}


def _deltas(params: Any, x: jax.Array, y: jax.Array, activation: str) -> list[jax.Array]:
    """∂L/∂z of every layer, each computed with only the layers after it."""
    zs, _ = reference.mlp.network(params, x, activation)

    def loss(z: jax.Array, after: Any) -> jax.Array:
        return reference.mlp.squared_loss_from_z(after, z, y=y, activation=activation)

    return [jax.grad(loss)(z, params[l + 1 :]) for l, z in enumerate(zs)]


def _deltas_by_hand(**inputs: Any) -> list[jax.Array]:
    return network_squared_loss_deltas(network_squared_loss_fwd(**inputs)[1], 1.0)


LECTURE_D = (784, 128, 50, 50, 25, 10)
NETWORKS = ((16, (8, 16, 4)), (1024, LECTURE_D))
GOLDEN_DELTAS = golden.GoldenCases(
    golden.RANDOM,
    golden.Changed(
        golden.tied_layers(rows=False, last=True),
        golden.RELU_TIES.format("in each layer the pre-activations of the first two units are 0"),
    ),
)


MLP_ROWS = Formula(
    mlp_rows_fwd,
    mlp_rows_bwd,
    reference.mlp.mlp_rows,
    definition=definitions.mlp_rows,
    mutants=mutants_of_networks.MLP_ROWS,
    draw=_rows,
    sizes={"N": 7, "widths": WIDTHS},
    source="Lecture D, transposed; Lecture B, page 7",
    hard=hard_layers.MLP_ROWS,
    golden=golden.network(golden.tied_layers(rows=True), "X", "params", (0, 0)),
    variants=ACTIVATIONS,
    batch=Batch({"X": 0}, 0),
    kinks=lambda res: res.Zs,
    grows=(("X", 0),),
    bench=Bench(("N", "widths"), NETWORKS, quick=(1,), kinks=True),
    shown=Shown(
        "Whole networks",
        "Network of any depth",
        r"z^{l+1} = w^l a^l + b^l, \; a^l = f(z^l)",
        (
            r"\delta^l = (w^{l\top} \delta^{l+1}) \odot f'(z^l)",
            r"dw^l = \delta^{l+1} a^{l\top}, \; db^l = \delta^{l+1}",
        ),
        ("C-04", "C-05", "C-06"),
    ),
)
MLP_COLUMNS = Formula(
    mlp_columns_fwd,
    mlp_columns_bwd,
    reference.mlp.mlp_columns,
    definition=definitions.mlp_columns,
    mutants=mutants_of_networks.MLP_COLUMNS,
    draw=_columns,
    sizes={"N": 7, "widths": WIDTHS},
    source="Lecture D, input layer",
    hard=hard_layers.MLP_COLUMNS,
    golden=golden.network(golden.tied_layers(rows=False), "X", "params", (0, 0)),
    variants=ACTIVATIONS,
    batch=Batch({"X": 1}, 1),
    kinks=lambda res: res.Zs,
    grows=(("X", 1),),
    bench=Bench(("N", "widths"), NETWORKS, kinks=True),
)
NETWORK_SQUARED_LOSS = Formula(
    network_squared_loss_fwd,
    network_squared_loss_bwd,
    reference.mlp.network_squared_loss,
    definition=definitions.network_squared_loss,
    mutants=mutants_of_networks.NETWORK_SQUARED_LOSS,
    draw=_sample,
    sizes={"widths": WIDTHS},
    source="Lecture C, pages 1 and 2",
    batch=NO_BATCH,
    hard=hard_layers.NETWORK_SQUARED_LOSS,
    golden=golden.network(golden.tied_layers(rows=False, last=True), "x", "params", (0, 0)),
    variants=ACTIVATIONS,
    kinks=lambda res: (*res[0].Zs, res[1]),
    functions=(
        Function(
            network_squared_loss_deltas, reference=_deltas, called=_deltas_by_hand, golden=GOLDEN_DELTAS
        ),
    ),
    bench=Bench(("widths",), (((2, 4, 4, 2),), ((784, 128, 50, 10),))),
)
FIVE_LAYER = Formula(
    five_layer_fwd,
    five_layer_bwd,
    reference.mlp.five_layer,
    definition=definitions.five_layer,
    mutants=mutants_of_networks.FIVE_LAYER,
    draw=_five_layers,
    sizes={"N": 3, "widths": (9, 8, 7, 6, 5, 4)},
    source="Lecture D",
    hard=hard_layers.FIVE_LAYER,
    golden=golden.network(golden.tied_layers(rows=False), "X", "params", (0, 0)),
    batch=Batch({"X": 1, "Y": 1}, mean=True),
    kinks=lambda res: res[2],
    bench=Bench(("N",), ((64,), (4096,)), reference.plain.five_layer, kinks=True),
)
FLATTEN_COLUMNS = Formula(
    flatten_columns_fwd,
    flatten_columns_bwd,
    reference.mlp.flatten_columns,
    definition=definitions.flatten_columns,
    mutants=mutants_of_networks.FLATTEN_COLUMNS,
    draw={"images": normal},
    sizes={"N": 3, "H": 4, "W": 5},
    source="Lecture D, page 1",
    polynomial=True,
    batch=Batch({"images": 0}, 1),
    grows=(("images", 0), ("images", 1), ("images", 2)),
    bench=Bench(("N", "H", "W"), ((32, 8, 8), (8192, 28, 28))),
    shown=Shown(
        "Layers",
        "Flatten images into columns",
        r"X = \operatorname{reshape}(\text{images})^{\top}",
        (r"d\,\text{images} = \operatorname{reshape}(dX^{\top})",),
        ("D-01",),
    ),
)
ENTRIES = (MLP_ROWS, MLP_COLUMNS, NETWORK_SQUARED_LOSS, FIVE_LAYER, FLATTEN_COLUMNS)
FUNCTIONS = (
    Function(
        one_hot_columns,
        golden=golden.GoldenCases("Integers from 0 to K − 1."),
        reference=reference.mlp.one_hot_columns,
        draw=lambda draw, N, K: {"labels": draw.labels(N, K), "K": K},
        sizes={"N": 5, "K": 7},
    ),
    Function(
        gradient_descent,
        golden=golden.GoldenCases("Gaussian parameters and gradients of two layers."),
        shown=Shown(
            "Whole networks", "A step of gradient descent", r"W \leftarrow W - \alpha \, dW", (), ("D-11",)
        ),
        reference=lambda params, dparams, learning_rate: jax.tree.map(
            lambda p, dp: p - learning_rate * dp, params, dparams
        ),
        draw=_steps,
        sizes={"learning_rate": 0.125},
    ),
)
