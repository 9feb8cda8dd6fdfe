"""Everything known about each formula: one entry per formula, one file per topic.

Lists, tables, tests, benchmarks, golden vectors and pages are derived from :data:`FORMULAS` and
:data:`FUNCTIONS`; :data:`KNOWN` finds an entry by a claim's reference.
"""

from collections.abc import Iterable
from typing import Any

from manual_grad.catalogue import (
    activations,
    attention,
    chain_rule,
    cnn,
    convolution,
    dense,
    gates,
    gpt,
    linear_algebra,
    linear_cross_entropy,
    losses,
    mlp,
    mse,
    normalisation,
    pooling,
    recurrent,
    sequences,
    similarity,
    softmax,
    two_layer,
)
from manual_grad.catalogue.entry import NO_BATCH, Batch, EntryError, Formula, Function, adopted
from manual_grad.catalogue.middle import MIDDLE, Middle

TOPICS = (
    mse, activations, gates, chain_rule, softmax, losses, dense, normalisation, similarity, sequences,
    attention, recurrent, convolution, pooling, linear_algebra, linear_cross_entropy, two_layer, mlp,
    cnn, gpt,
)  # fmt: skip


def _by_name(entries: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in entries:
        if entry.name in found:
            raise EntryError(f"{entry.name}: two entries have this name")
        found[entry.name] = entry
    return found


FORMULAS: dict[str, Formula] = _by_name(entry for topic in TOPICS for entry in topic.ENTRIES)
FUNCTIONS: dict[str, Function] = _by_name(
    [
        *(adopted(formula, function) for formula in FORMULAS.values() for function in formula.functions),
        *(function for topic in TOPICS for function in getattr(topic, "FUNCTIONS", ())),
    ]
)
_KNOWN: tuple[Formula | Middle, ...] = (*MIDDLE, *FORMULAS.values())
KNOWN: dict[Any, Formula | Middle] = {known.reference: known for known in _KNOWN}

__all__ = ["FORMULAS", "FUNCTIONS", "KNOWN", "NO_BATCH", "Batch", "EntryError", "Formula", "Function"]
