"""Backward passes as people write them by hand, and the mistakes that they make in them.

Each family is written once, in plain ``jax.numpy`` and without the project's backward formulas. The places
where people go wrong are parameters: with their defaults the code is right, as the kill matrix verifies, and
each mistake replaces one of them. They are an entry's ``mutants``; :mod:`manual_grad.verify.mutants` plants
them together with those that any formula can have.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

SUM_MISSING = "sum over the batch missing"
MEAN_FOR_SUM = "mean over the batch for the sum"
TRANSPOSED = "transposed"
SWAPPED = "factors swapped"
NO_MASK = "ReLU mask missing"
WRONG_MASK = "ReLU mask of the wrong layer"
MASK_GE = "ReLU mask with ≥"
NO_OFF_DIAGONAL = "softmax off-diagonal missing"
P_SWAPPED = "p and p − 1 swapped"
NOT_ROTATED = "kernel not rotated"
ROTATED_TWICE = "kernel rotated twice"
GRADIENT_TURNED = "gradient of the kernel rotated"
PADDING = "padding off by one"
STRIDE = "stride ignored in dX"
DILATION = "dilation ignored in dX"
BIAS_AXES = "bias gradient over the wrong axes"
SLOPE = "slope of f wrong or missing"
FACTOR = "factor missing"
TERM = "term missing"
SIGN = "sign flipped"
STATISTICS = "statistics over the wrong axes"
GROUPS = "groups mixed up"
LABELS_KEPT = "ignored labels counted"


@dataclass(frozen=True)
class Family:
    """A formula written by hand, and its mistakes.

    Attributes:
        kind: the kind of the claims that it applies to: ``gradient`` or ``jacobian``.
        right: the formula without a mistake, called like the claim's, with a parameter for each place.
        mistakes: what is wrong, in the words of the table; the wrong line; the parameters that produce it.
        applies: whether the family applies to these inputs and its mistakes change the result there.
        reaches: parameter → the arrays that it affects; by default all of them.
    """

    kind: str
    right: Callable[..., Any]
    mistakes: Sequence[tuple[str, str, dict[str, Any]]]
    applies: Callable[[dict[str, Any]], bool]
    reaches: Mapping[str, str]

    def mutants(self, wrt: Sequence[str]) -> list[tuple[str, str, Callable[..., Any]]]:
        """The kind, the wrong line and the function of each mistake that affects these arrays.

        >>> from manual_grad.catalogue import FORMULAS
        >>> [line for _, line, _ in FORMULAS["dense_rows"].mutants[0].mutants(["W"])]
        ['dW = dZᵀ X']
        """
        return [
            (kind, line, partial(self.right, **wrong))
            for kind, line, wrong in self.mistakes
            if any(not set(wrt).isdisjoint(self.reaches.get(name, " ".join(wrt)).split()) for name in wrong)
        ]


def family(
    kind: str,
    right: Callable,
    *mistakes: tuple,
    applies: Callable[[dict[str, Any]], bool] = lambda inputs: True,
    reaches: Mapping[str, str] = MappingProxyType({}),
) -> Family:
    """Make a :class:`Family`, with its mistakes as positional arguments."""
    return Family(kind, right, mistakes, applies, reaches)
