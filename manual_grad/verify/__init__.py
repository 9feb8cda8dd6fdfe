"""Check gradients: those that the lectures claim, and your own."""

from manual_grad.checker.check import (
    Finding,
    Report,
    assert_grad_matches,
    assert_vjp_matches,
    check_grad,
    check_vjp,
)
from manual_grad.checker.forward import assert_jvp_matches, check_jvp
from manual_grad.checker.pytorch import assert_torch_matches, check_torch

__all__ = [
    "Finding",
    "Report",
    "assert_grad_matches",
    "assert_jvp_matches",
    "assert_torch_matches",
    "assert_vjp_matches",
    "check_grad",
    "check_jvp",
    "check_torch",
    "check_vjp",
]
