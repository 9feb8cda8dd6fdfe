"""Backward passes as people write them by hand, and the mistakes that they make in them.

Each family is written once, in plain ``jax.numpy`` and without the project's backward formulas, with its
doubtful places as parameters: left alone it is right, which the kill matrix makes sure of, and each mistake
replaces one place. :mod:`manual_grad.verify.mutants` plants them, together with those that any formula can
have.
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
GRADIENT_TURNED = "gradient of the kernel turned"
PADDING = "padding off by one"
STRIDE = "stride ignored in dX"
DILATION = "dilation ignored in dX"
BIAS_AXES = "bias gradient over the wrong axes"
SLOPE = "slope of f wrong or missing"
FACTOR = "factor missing"
TERM = "term missing"
SIGN = "sign flipped"


@dataclass(frozen=True)
class Mistake:
    """A wrong version of a formula.

    Attributes:
        kind: what is wrong, in the words of the table.
        says: the wrong line.
        function: called as the claim's formula.
    """

    kind: str
    says: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Family:
    """A formula written by hand, and its mistakes.

    Attributes:
        right: the formula without a mistake, called as the claim's.
        mistakes: kind, the wrong line, and the parameters that make it.
        applies: whether these inputs are the family's, and the mistakes no other way to write the same.
        reaches: parameter → the arrays that it has a part in; all of them where it is not named.
    """

    right: Callable[..., Any]
    mistakes: Sequence[tuple[str, str, dict[str, Any]]]
    applies: Callable[[dict[str, Any]], bool]
    reaches: Mapping[str, str]


FAMILIES: dict[tuple[str, str], list[Family]] = {}


def families_of(kind: str, reference: str, inputs: dict[str, Any]) -> list[Family]:
    """The families whose formula a claim of this kind about this forward function makes, at these inputs."""
    return [f for f in FAMILIES.get((kind, reference.lstrip("_")), []) if f.applies(inputs)]


def mistakes_of(kind: str, reference: str, inputs: dict[str, Any], wrt: Sequence[str]) -> list[Mistake]:
    """The mistakes that people make in such a formula, and that have a part in these arrays.

    Args:
        kind: the claim's.
        reference: the name of its forward function.
        inputs: what the formula is given.
        wrt: the arrays asked for.
    Returns:
        One for each wrong line.

    >>> import manual_grad.catalogue.mutants_of_networks
    >>> [m.says for m in mistakes_of("gradient", "dense_rows", {}, ["W"])]
    ['dW = dZᵀ X']
    """
    return [
        Mistake(said, line, partial(family.right, **wrong))
        for family in families_of(kind, reference, inputs)
        for said, line, wrong in family.mistakes
        if any(not set(wrt).isdisjoint(family.reaches.get(name, " ".join(wrt)).split()) for name in wrong)
    ]


def family(
    kind: str,
    references: str | Callable[..., Any] | Sequence[Callable[..., Any]],
    right: Callable,
    *mistakes: tuple,
    applies: Callable[[dict[str, Any]], bool] = lambda inputs: True,
    reaches: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Register a formula written by hand for each of these forward functions, with its mistakes.

    Args:
        kind: the claim's: ``gradient`` or ``jacobian``.
        references: the forward functions; or the names, separated by spaces, of some that stand in a lecture.
        right: the formula, called as the claim's, with a parameter for each doubtful place.
        mistakes: for each, what is wrong, the wrong line, and the parameters that make it.
        applies, reaches: see :class:`Family`.
    """
    if isinstance(references, str):
        names = references.split()
    else:
        names = [fn.__name__ for fn in ([references] if callable(references) else references)]
    for reference in names:
        FAMILIES.setdefault((kind, reference), []).append(Family(right, mistakes, applies, reaches))
