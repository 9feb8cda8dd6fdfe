"""Dense layers, one sample per row and one per column."""

import functools

import jax
import jax.numpy as jnp

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue import golden, hard_layers, mutants_of_networks
from manual_grad.catalogue.entry import (
    Batch,
    Bench,
    Distribution,
    Formula,
    Function,
    Op,
    Scale,
    Shown,
    normal,
)
from manual_grad.formulas.dense import (
    dense_columns_bwd,
    dense_columns_fwd,
    dense_rows_bwd,
    dense_rows_fwd,
    jac_dense_columns_b,
    jac_dense_columns_W,
    jac_dense_columns_W_factors,
    jac_dense_columns_X,
    jac_dense_columns_X_factors,
    jac_dense_rows_b,
    jac_dense_rows_W,
    jac_dense_rows_W_factors,
    jac_dense_rows_X,
    jac_dense_rows_X_factors,
)
from manual_grad_reference import definitions


def kronecker(J: jax.Array, identity: int) -> tuple[jax.Array, jax.Array]:
    """The factors (P, Q) of J[i,j,k,l] = P[i,k] Q[j,l], one of which is the identity."""
    if identity == 1:
        P = J[:, 0, :, 0]
        i, k = jnp.unravel_index(jnp.argmax(jnp.abs(P)), P.shape)
        return P, J[i, :, k, :] / P[i, k]
    Q = J[0, :, 0, :]
    j, l = jnp.unravel_index(jnp.argmax(jnp.abs(Q)), Q.shape)
    return J[:, j, :, l] / Q[j, l], Q


def kronecker_in_columns(J: jax.Array, identity: int) -> tuple[jax.Array, jax.Array]:
    """The same for the matrix between stacked columns: vec runs over the last axis first."""
    return kronecker(J.transpose(1, 0, 3, 2), identity)


LAYER: dict[str, Distribution] = {"X": normal, "W": normal, "b": normal}
SIZES = {"N": 5, "d": 3, "m": 4}
AXES = ("N", "d", "m")
LAYERS = ((32, 64, 16), (256, 512, 384), (2048, 1024, 512))
JACOBIANS = Bench(AXES, ((4, 8, 6), (16, 32, 24), (64, 128, 64)), quick=(1,), estimated=(2,))
DENSE_ROWS = Formula(
    dense_rows_fwd,
    dense_rows_bwd,
    reference.dense.dense_rows,
    definition=definitions.dense_rows,
    mutants=mutants_of_networks.DENSE_ROWS,
    draw=LAYER,
    sizes=SIZES,
    source="Lecture B, page 7",
    hard=hard_layers.DENSE_ROWS,
    golden=golden.products("X", "W"),
    polynomial=True,
    batch=Batch({"X": 0}, 0),
    sends={"d": {"all-reduce": "N m"}, "m": {"all-reduce": "N d"}},
    grows=(("X", 0),),
    functions=(
        Function(jac_dense_rows_X, ("X",)),
        Function(jac_dense_rows_W, ("W",), bench=JACOBIANS),
        Function(jac_dense_rows_b, ("b",)),
        Function(jac_dense_rows_X_factors, ("X",), functools.partial(kronecker, identity=0)),
        Function(jac_dense_rows_W_factors, ("W",), functools.partial(kronecker, identity=1), bench=JACOBIANS),
    ),
    op=Op(ops.dense, Bench(AXES, LAYERS[:2], peer=True)),
    bench=Bench(
        AXES, LAYERS, quick=(0, 1), scale=Scale("matrix product", "N d m", (2, 8, 32, 128, 512, 2048))
    ),
    shown=Shown(
        "Layers",
        "Dense, one sample per row",
        r"Z = X W + \mathbf{1} b",
        (
            r"dX = dZ \, W^{\top}",
            r"dW = X^{\top} dZ",
            r"db = \mathbf{1}^{\top} dZ",
        ),
        ("B-16", "D-09"),
    ),
)
DENSE_COLUMNS = Formula(
    dense_columns_fwd,
    dense_columns_bwd,
    reference.dense.dense_columns,
    definition=definitions.dense_columns,
    mutants=mutants_of_networks.DENSE_COLUMNS,
    draw=LAYER,
    sizes=SIZES,
    source="Lecture B, page 5",
    hard=hard_layers.DENSE_COLUMNS,
    golden=golden.products("X", "W"),
    polynomial=True,
    batch=Batch({"X": 1}, 1),
    sends={"d": {"all-reduce": "N m"}, "m": {"all-reduce": "N d"}},
    grows=(("X", 1),),
    functions=(
        Function(jac_dense_columns_X, ("X",)),
        Function(jac_dense_columns_W, ("W",)),
        Function(jac_dense_columns_b, ("b",)),
        Function(jac_dense_columns_X_factors, ("X",), functools.partial(kronecker_in_columns, identity=0)),
        Function(jac_dense_columns_W_factors, ("W",), functools.partial(kronecker_in_columns, identity=1)),
    ),
    bench=Bench(AXES, LAYERS),
    shown=Shown(
        "Layers",
        "Dense, one sample per column",
        r"Z = W X + b \, \mathbf{1}^{\top}",
        (
            r"dX = W^{\top} dZ",
            r"dW = dZ \, X^{\top}",
            r"db = dZ \, \mathbf{1}",
        ),
        ("B-15", "D-09"),
    ),
)
ENTRIES = (DENSE_ROWS, DENSE_COLUMNS)
