"""Checks gradients: every claim of the lectures, and anyone's own."""

from manual_grad.checker.check import (
    Finding,
    Report,
    assert_grad_matches,
    assert_vjp_matches,
    check_grad,
    check_vjp,
)
from manual_grad.checker.pytorch import assert_torch_matches, check_torch

__all__ = [
    "Finding",
    "Report",
    "assert_grad_matches",
    "assert_torch_matches",
    "assert_vjp_matches",
    "check_grad",
    "check_torch",
    "check_vjp",
]
