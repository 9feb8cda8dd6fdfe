"""Further forward functions that lectures differentiate, mostly the second half of a network.

Like an entry, each has a definition and the axes of its samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import manual_grad_reference as reference
from manual_grad.catalogue import mutants_of_convolutions, mutants_of_losses, mutants_of_networks
from manual_grad.catalogue.entry import NO_BATCH, Batch
from manual_grad.catalogue.families import Family
from manual_grad_reference import definitions


@dataclass(frozen=True)
class Middle:
    """A forward function without a pair: its reference, definition, samples and mutants."""

    reference: Callable[..., Any]
    definition: Callable[..., Any]
    batch: Batch = NO_BATCH
    mutants: tuple[Family, ...] = ()


def _each(module: ModuleType, batch: Batch, *names: str) -> list[Middle]:
    return [
        Middle(getattr(module, name), getattr(definitions, name), batch, MUTANTS.get(name, ()))
        for name in names
    ]


ROWS = dict.fromkeys(("X", "y", "S", "A", "Z", "labels"), 0)
COLUMNS = {"X": 1, "y": 0, "S": 1, "A": 1, "Z": 1, "Y": 1} | {f"{n}{l}": 1 for n in "AZ" for l in range(1, 6)}
MUTANTS: dict[str, tuple[Family, ...]] = {
    "square": mutants_of_losses.SQUARE,
    "sum_of_squares": mutants_of_losses.SUM_OF_SQUARES,
    "quadratic_map": mutants_of_losses.QUADRATIC_MAP,
    "softmax_columns": mutants_of_losses.SOFTMAX_COLUMNS,
    "cross_entropy_columns": mutants_of_losses.CROSS_ENTROPY_COLUMNS,
    "cross_entropy_of_S_columns": mutants_of_losses.CROSS_ENTROPY_OF_S_COLUMNS,
    "five_layer_from_z": mutants_of_losses.FIVE_LAYER_FROM_Z,
    "five_layer_scores": mutants_of_networks.FIVE_LAYER_SCORES,
    "loss_of_layer_5": mutants_of_networks.FIVE_LAYER,
    "loss_by_each": mutants_of_networks.FIVE_LAYER,
    "cnn_scores": mutants_of_convolutions.CNN_SCORES,
}
MEAN_OF_ROWS, MEAN_OF_COLUMNS = Batch(ROWS, mean=True), Batch(COLUMNS, mean=True)
MIDDLE = (
    *_each(reference.chain_rule, NO_BATCH, "square", "sum_of_squares", "powers", "linear_map", "product"),
    *_each(reference.chain_rule, NO_BATCH, "quadratic_map", "composed_quadratic_maps"),
    *_each(reference.mse, Batch({"J0": 0}, mean=True), "mean"),
    *_each(reference.mse, Batch({"y_hat": 0, "y": 0}, 0), "squared_errors"),
    *_each(reference.mse, Batch({"x": 0}, 0), "affine"),
    *_each(reference.softmax, Batch(COLUMNS, 1), "softmax_columns"),
    *_each(reference.softmax, MEAN_OF_COLUMNS, "cross_entropy_columns"),
    *_each(reference.two_layer, NO_BATCH, *(f"squared_loss_of_{middle}" for middle in "oaz")),
    *_each(reference.two_layer, NO_BATCH, *(f"cross_entropy_of_{middle}" for middle in "saz")),
    *_each(reference.two_layer, MEAN_OF_COLUMNS, *(f"cross_entropy_of_{middle}_columns" for middle in "SAZ")),
    *_each(reference.two_layer, MEAN_OF_ROWS, *(f"cross_entropy_of_{middle}_rows" for middle in "SAZ")),
    *_each(reference.mlp, NO_BATCH, "network", "squared_loss_from_z"),
    *_each(reference.mlp, Batch({"labels": 0}, 1), "one_hot_columns"),
    *_each(reference.mlp, Batch(COLUMNS, 1), "five_layer_scores"),
    *_each(reference.mlp, MEAN_OF_COLUMNS, "five_layer_from_z", "loss_of_layer_5", "loss_by_each"),
    *_each(reference.cnn, Batch(ROWS, 0), "cnn_scores"),
    *_each(reference.attention, NO_BATCH, "attention_of_scores"),
)
