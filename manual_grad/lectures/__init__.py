"""The ledger as data: every equation and erratum of the four lectures, with the claims that prove it."""

from manual_grad.catalogue.draw import Draw
from manual_grad.lectures import lecture_a, lecture_b, lecture_c, lecture_d
from manual_grad.lectures.entries import Claim, Equation, Erratum

LECTURES = {
    "A": "Backpropagation and Jacobian Matrices",
    "B": "Two-layer ReLU networks",
    "C": "Simple neural networks, and backpropagation in a CNN",
    "D": "The five-layer MNIST network",
}
EQUATIONS = lecture_a.EQUATIONS + lecture_b.EQUATIONS + lecture_c.EQUATIONS + lecture_d.EQUATIONS
ERRATA = lecture_a.ERRATA + lecture_b.ERRATA + lecture_c.ERRATA + lecture_d.ERRATA

__all__ = ["EQUATIONS", "ERRATA", "LECTURES", "Claim", "Draw", "Equation", "Erratum"]
