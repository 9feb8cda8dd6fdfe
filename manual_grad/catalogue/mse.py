"""Mean squared error, and linear regression under it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue import golden, hard_losses, mutants_of_losses
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import (
    Batch,
    Bench,
    Distribution,
    Formula,
    Function,
    Inputs,
    Op,
    Shown,
    far,
    normal,
)
from manual_grad.formulas.mse import (
    jac_affine_b,
    jac_affine_w,
    jac_linear_regression_b,
    jac_linear_regression_w,
    jac_mean_J0,
    jac_mse_y_hat,
    jac_squared_errors_y_hat,
    jac_squared_errors_y_hat_diagonal,
    linear_regression_bwd,
    linear_regression_fwd,
    mse_bwd,
    mse_fwd,
)
from manual_grad_reference import definitions

FEATURES: dict[str, dict[str, Any]] = {"vector": {"*d": (3,)}, "scalar": {"*d": ()}}


def diagonal(J: jax.Array) -> jax.Array:
    """The diagonal of a square matrix."""
    return jnp.stack([J[n, n] for n in range(len(J))])


JACOBIANS = Bench(("N",), ((64,), (512,), (4096,)), quick=(1,), estimated=(2,))


def _squares(draw: Draw, inputs: Inputs) -> Inputs:
    k = golden.SQUARED[jnp.dtype(draw.dtype).name]
    powers = np.array([k, k, k, 0, 0, -k, -k])
    return {name: golden.times_two_to(powers, a, draw) for name, a in inputs.items()}


ASIDE = "Gaussian, the targets off to one side."
GOLDEN = golden.GoldenCases(
    ASIDE,
    extreme=golden.Changed(
        _squares,
        "Three samples times 2^k, two as they are, two times 2^−k, with k = 500 in float64, 60 in float32 "
        "and bfloat16, 3 in float16. The squares and their sum stay within the dtype's range.",
    ),
)


SQUARED_ERRORS = reference.mse.squared_errors
MSE = Formula(
    mse_fwd,
    mse_bwd,
    reference.mse.mse,
    definition=definitions.mse,
    mutants=mutants_of_losses.MSE,
    draw={"y_hat": normal, "y": far},
    sizes={"N": 7},
    source="Lecture A, Mean Squared Error",
    hard=hard_losses.MSE,
    golden=GOLDEN,
    polynomial=True,
    batch=Batch({"y_hat": 0, "y": 0}, mean=True),
    functions=(
        Function(jac_mse_y_hat, ("y_hat",)),
        Function(jac_squared_errors_y_hat, ("y_hat",), reference=SQUARED_ERRORS, bench=JACOBIANS),
        Function(jac_squared_errors_y_hat_diagonal, ("y_hat",), diagonal, SQUARED_ERRORS, bench=JACOBIANS),
    ),
    op=Op(ops.mse, Bench(("N",), ((64,), (1 << 20,)), wrt=("y_hat",), quick=(1,), peer=True)),
    bench=Bench(("N",), ((64,), (4096,), (1 << 20,)), quick=(0, 1)),
    shown=Shown(
        "Losses",
        "Mean squared error",
        r"J = \frac{1}{N} \sum_i (y_i - \hat{y}_i)^2",
        (r"d\hat{y} = -\frac{2}{N} (y - \hat{y})",),
        ("A-04",),
    ),
)
REGRESSION: dict[str, Distribution] = {"w": normal, "b": normal, "x": normal, "y": far}
AFFINE: dict[str, Distribution] = {name: REGRESSION[name] for name in "wbx"}
LINEAR_REGRESSION = Formula(
    linear_regression_fwd,
    linear_regression_bwd,
    reference.mse.linear_regression,
    definition=definitions.linear_regression,
    mutants=mutants_of_losses.LINEAR_REGRESSION,
    draw=REGRESSION,
    sizes={"N": 7, "*d": (3,)},
    source="Lecture A, Linear Regression",
    hard=hard_losses.LINEAR_REGRESSION,
    golden=golden.products("x", "w", ASIDE),
    variants=FEATURES,
    polynomial=True,
    batch=Batch({"x": 0, "y": 0}, mean=True),
    functions=(
        Function(jac_linear_regression_w, ("w",)),
        Function(jac_linear_regression_b, ("b",)),
        Function(jac_affine_w, ("w",), None, reference.mse.affine, AFFINE),
        Function(jac_affine_b, ("b",), None, reference.mse.affine, AFFINE),
    ),
    bench=Bench(("N", "*d"), ((64, (3,)), (4096, (64,)), (65536, (256,))), quick=(1,)),
    shown=Shown(
        "Whole networks",
        "Linear regression",
        r"\hat{y} = x w + b",
        (
            r"dw = -\frac{2}{N} x^{\top} (y - \hat{y})",
            r"db = -\frac{2}{N} \sum (y - \hat{y})",
        ),
        ("A-05", "A-06"),
    ),
)
ENTRIES = (MSE, LINEAR_REGRESSION)
FUNCTIONS = (Function(jac_mean_J0, ("J0",), None, reference.mse.mean, {"J0": normal}, {"N": 7}),)
