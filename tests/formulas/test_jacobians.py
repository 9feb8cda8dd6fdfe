import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy.linalg import block_diag

import manual_grad as mg
from manual_grad.catalogue import FUNCTIONS, convolution, dense, mse, softmax, two_layer
from manual_grad.catalogue.draw import Draw
from manual_grad.compiling import compiled, quickly

from .comparing import assert_same
from .scenarios import draw, normal, of

f64 = jnp.float64
JACOBIANS = [f for f in FUNCTIONS.values() if f.wrt]
EACH = [(f, variant) for f in JACOBIANS for variant in f.variants or {"": {}}]


def tagged(jacobian, variant=""):
    """The equations of its docstring, its name, and the variant, as ``A-04-jac_mse_y_hat``."""
    tags = sorted(set(re.findall(r"\[([A-Z]-\d\d)\]", inspect.getdoc(jacobian.fn) or "")))
    return "-".join(part for part in ("+".join(tags), jacobian.name, variant) if part)


def test_every_public_jacobian_is_here():
    jacobians = {j.name for j in JACOBIANS} - {"gelu_prime", "silu_prime"}  # diagonals of theirs
    assert {name for name in mg.__all__ if name.startswith("jac_")} == jacobians


@pytest.mark.parametrize(("jacobian", "variant"), EACH, ids=[tagged(*each) for each in EACH])
def test_jacobian_is_that_of_the_reference(jacobian, variant):
    inputs = jacobian.inputs(Draw(np.random.default_rng(0)), variant)
    got = compiled(jacobian.fn, **inputs)
    for oracle in (jax.jacrev, jax.jacfwd):
        want = _oracle(jacobian, oracle, inputs)
        if jacobian.part:
            want = jacobian.part(*want)
        assert_same(got if isinstance(want, tuple) and isinstance(got, tuple) else (got,), _tuple(want))


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


def _oracle(jacobian, oracle, inputs):
    known = {n: v for n, v in inputs.items() if n in inspect.signature(jacobian.reference).parameters}

    def of_wrt(*values):
        return jacobian.reference(**known | dict(zip(jacobian.wrt, values, strict=True)))

    wrt = tuple(inputs[name] for name in jacobian.wrt)
    return quickly(oracle(of_wrt, argnums=tuple(range(len(wrt)))))(*wrt)


def _inputs(entry):
    return draw(of(entry), seed=0)


# ---------------------------------------------------------------- compact forms, assembled here


def test_squared_errors_are_a_diagonal():
    """[A-03]"""
    inputs = _inputs(mse.MSE)
    diagonal = mg.jac_squared_errors_y_hat_diagonal(**inputs)
    assert_same(mg.jac_squared_errors_y_hat(**inputs), jnp.diag(diagonal))


def test_softmax_is_block_diagonal():
    """[A-07]"""
    logits = _inputs(softmax.SOFTMAX)["logits"]
    blocks = mg.jac_softmax_logits_blocks(logits)
    assert_same(mg.as_matrix(mg.jac_softmax_logits(logits), 2), block_diag(*blocks))
    p = mg.softmax_fwd(logits)[0][2]
    assert_same(blocks[2], jnp.diag(p) - jnp.outer(p, p))


@pytest.mark.parametrize("name", ["W", "X"])
def test_dense_rows_is_a_kronecker_product(name):
    """[D-09] Row by row, vec Z = (X ⊗ I) vec W = (I ⊗ Wᵀ) vec X."""
    inputs = _inputs(dense.DENSE_ROWS)
    factors = getattr(mg, f"jac_dense_rows_{name}_factors")(**inputs)
    X, W = inputs["X"], inputs["W"]
    assert_same(factors, {"W": (X, jnp.eye(W.shape[1])), "X": (jnp.eye(len(X)), W.T)}[name])
    assert_same(mg.as_matrix(getattr(mg, f"jac_dense_rows_{name}")(**inputs), 2), jnp.kron(*factors))


@pytest.mark.parametrize("name", ["W", "X"])
def test_dense_columns_is_a_kronecker_product(name):
    """[D-09] Stacking columns, vec Z = (Xᵀ ⊗ I) vec W = (I ⊗ W) vec X."""
    inputs = _inputs(dense.DENSE_COLUMNS)
    factors = getattr(mg, f"jac_dense_columns_{name}_factors")(**inputs)
    X, W = inputs["X"], inputs["W"]
    assert_same(factors, {"W": (X.T, jnp.eye(len(W))), "X": (jnp.eye(X.shape[1]), W)}[name])
    J = getattr(mg, f"jac_dense_columns_{name}")(**inputs)
    assert_same(J.transpose(1, 0, 3, 2).reshape(len(W) * X.shape[1], -1), jnp.kron(*factors))
    vec_Z = jnp.kron(*factors) @ inputs[name].T.ravel()
    assert_same(vec_Z, (W @ X).T.ravel())


def test_correlation_is_doubly_toeplitz_in_the_image():
    """[C-11] The blocks depend on p − i alone, and inside each the entries on q − j alone."""
    inputs = _inputs(convolution.CORRELATE2D)
    blocks = mg.jac_correlate2d_x_blocks(**inputs)
    J = mg.jac_correlate2d_x(**inputs).swapaxes(1, 2)
    _assert_doubly_toeplitz(J)
    for i, p in np.ndindex(J.shape[:2]):
        inside = 0 <= p - i < len(blocks)
        assert_same(J[i, p], blocks[p - i] if inside else jnp.zeros_like(J[i, p]))


def test_correlation_is_doubly_toeplitz_in_the_reversed_kernel():
    """[C-11]"""
    J = mg.jac_correlate2d_f(**_inputs(convolution.CORRELATE2D))
    _assert_doubly_toeplitz(J[:, :, ::-1, ::-1].swapaxes(1, 2))


def _assert_doubly_toeplitz(J):
    """J[i, p, j, q], as outer blocks (i, p) of inner entries (j, q)."""
    assert_same(J[1:, 1:], J[:-1, :-1])
    assert_same(J[:, :, 1:, 1:], J[:, :, :-1, :-1])


# ---------------------------------------------------------------- products are the contracted gradients


def test_chain_mse():
    """[A-04]"""
    y_hat, y = _inputs(mse.MSE).values()
    _, error = mg.mse_fwd(y_hat, y)
    product = mg.chain(mg.jac_mean_J0((y - y_hat) ** 2), mg.jac_squared_errors_y_hat(y_hat, y), mid=(7,))
    assert_same(product, mg.mse_bwd(error, 1.0)[0])


def test_chain_softmax_cross_entropy():
    """[A-10]"""
    logits, y = _inputs(softmax.SOFTMAX_CROSS_ENTROPY).values()
    outer = mg.jac_cross_entropy_probs(mg.softmax_fwd(logits)[0], y)
    product = mg.chain(outer, mg.jac_softmax_logits(logits), mid=logits.shape)
    assert_same(product, mg.softmax_cross_entropy_bwd(mg.softmax_cross_entropy_fwd(logits, y)[1], 1.0)[0])


def test_chain_softmax_vjp():
    """[A-08] Any upstream gradient times the explicit Jacobian."""
    logits, dprobs = _inputs(softmax.SOFTMAX_CROSS_ENTROPY).values()
    product = mg.chain(dprobs, mg.jac_softmax_logits(logits), mid=logits.shape)
    assert_same(product, mg.softmax_bwd(mg.softmax_fwd(logits)[0], dprobs)[0])


@pytest.mark.parametrize(
    "entry",
    [two_layer.TWO_LAYER_SQUARED_LOSS, two_layer.TWO_LAYER_CROSS_ENTROPY],
    ids=lambda entry: entry.name,
)
def test_chain_two_layers(entry):
    """[B-08] [B-12]"""
    inputs = _inputs(entry)
    products = getattr(mg, f"jac_{entry.name}")(**inputs)
    assert_same(products, entry.bwd(entry.fwd(**inputs)[1], 1.0)[:4])


@pytest.mark.parametrize("convention", ["rows", "columns"])
def test_chain_dense(convention):
    """[D-09] dW and dX are what contracting with the Kronecker products leaves."""
    inputs = _inputs({"rows": dense.DENSE_ROWS, "columns": dense.DENSE_COLUMNS}[convention])
    Z, res = getattr(mg, f"dense_{convention}_fwd")(**inputs)
    dZ = normal(np.random.default_rng(1), f64, *Z.shape)
    jacobians = [getattr(mg, f"jac_dense_{convention}_{name}")(**inputs) for name in ("X", "W", "b")]
    products = tuple(mg.multiply_out([dZ, J], [Z.shape]) for J in jacobians)
    assert_same(products, getattr(mg, f"dense_{convention}_bwd")(res, dZ))


def test_chain_correlation():
    """[C-09] [C-10] [C-11]"""
    inputs = _inputs(convolution.CORRELATE2D)
    O, res = mg.correlate2d_fwd(**inputs)
    dO = normal(np.random.default_rng(1), f64, *O.shape)
    jacobians = mg.jac_correlate2d_x(**inputs), mg.jac_correlate2d_f(**inputs)
    assert_same(tuple(mg.chain(dO, J, mid=O.shape) for J in jacobians), mg.correlate2d_bwd(res, dO))


def test_diagonal_of_any_shape():
    d = normal(np.random.default_rng(0), f64, 3, 4)
    assert_same(mg.as_matrix(mg.diagonal(d), 2), jnp.diag(d.ravel()))
    assert_same(mg.diagonal(lax.full((), 3.0, f64)), jnp.array(3.0))
