from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy.linalg import block_diag

import manual_grad as mg
import manual_grad_reference as reference

from .comparing import assert_same
from .scenarios import distribution, draw, labels, named, normal, one_hot

Jacobian = namedtuple("Jacobian", "tags name reference wrt draw")
f64 = jnp.float64


def _normals(**shapes):
    return lambda rng: {name: normal(rng, f64, *shape) for name, shape in shapes.items()}


def _probs(rng):
    return {"probs": distribution(rng, f64, 4, 6), "labels": distribution(rng, f64, 4, 6)}


def _logits_and_labels(rng):
    return _normals(logits=(4, 6), labels=(4, 6))(rng)


def _logits_and_one_hot(rng):
    return {"logits": normal(rng, f64, 4, 6), "labels": one_hot(rng, f64, 4, 6)}


_two_layers = {"W1": (5, 3), "b1": (5,), "W2": (4, 5), "b2": (4,), "x": (3,)}


def _squared_loss(rng):
    return _normals(**_two_layers | {"W2": (1, 5), "b2": (1,), "y": ()})(rng)


def _cross_entropy(rng):
    return _normals(**_two_layers)(rng) | {"y": labels(rng, 1, 4)[0]}


_rows = _normals(X=(4, 3), W=(3, 5), b=(5,))
_columns = _normals(X=(3, 4), W=(5, 3), b=(5,))
_vectors = _normals(y_hat=(7,), y=(7,))
_images = _normals(x=(6, 5), f=(3, 2))
_one_feature = {"w": (), "b": (), "x": (7,)}
_many_features = {"w": (3,), "b": (), "x": (7, 3)}
_inner = {"A": (4, 3), "B": (4, 3, 3), "theta": (3,)}
_chained = {"C": (1, 4), "D": (1, 4, 4), **_inner}
_parameters = ("W1", "b1", "W2", "b2")

JACOBIANS = [
    Jacobian("A-01", "jac_square_x", reference.chain_rule.square, ("x",), _normals(x=())),
    Jacobian("A-01", "jac_sum_of_squares_x", reference.chain_rule.sum_of_squares, ("x",), _normals(x=(4,))),
    Jacobian(
        "A-01", "jac_powers_x", reference.chain_rule.powers, ("x",),
        lambda rng: {"x": normal(rng, f64), "m": 4},
    ),
    Jacobian(
        "A-01", "jac_linear_map_x", reference.chain_rule.linear_map, ("x",), _normals(M=(4, 3), x=(3,))
    ),
    Jacobian(
        "B-01", "jac_quadratic_map_theta", reference.chain_rule.quadratic_map, ("theta",), _normals(**_inner)
    ),
    Jacobian(
        "B-01", "jac_chain_theta", reference.chain_rule.composed_quadratic_maps, ("theta",),
        _normals(**_chained),
    ),
    Jacobian("A-02", "jac_mean_J0", reference.mse.mean, ("J0",), _normals(J0=(7,))),
    Jacobian("A-03", "jac_squared_errors_y_hat", reference.mse.squared_errors, ("y_hat",), _vectors),
    Jacobian("A-04", "jac_mse_y_hat", reference.mse.mse, ("y_hat",), _vectors),
    *(
        Jacobian(tag, name, fn, wrt, _normals(**features, **more))
        for features in (_one_feature, _many_features)
        for tag, name, fn, wrt, more in (
            ("A-05", "jac_affine_w", reference.mse.affine, ("w",), {}),
            ("A-06", "jac_affine_b", reference.mse.affine, ("b",), {}),
            ("A-05", "jac_linear_regression_w", reference.mse.linear_regression, ("w",), {"y": (7,)}),
            ("A-06", "jac_linear_regression_b", reference.mse.linear_regression, ("b",), {"y": (7,)}),
        )
    ),
    Jacobian("B-06", "jac_relu_x", reference.activations.relu, ("x",), _normals(x=(4, 3))),
    *(
        Jacobian(
            "A-07+D-05", "jac_softmax_logits", reference.softmax.softmax, ("logits",), _normals(logits=shape)
        )
        for shape in ((6,), (4, 6), (2, 3, 4))
    ),
    Jacobian("A-09", "jac_cross_entropy_probs", reference.softmax.cross_entropy, ("probs",), _probs),
    Jacobian(
        "A-10", "jac_softmax_cross_entropy_logits", reference.softmax.softmax_cross_entropy, ("logits",),
        _logits_and_labels,
    ),
    Jacobian(
        "A-10", "jac_softmax_cross_entropy_logits_one_hot", reference.softmax.softmax_cross_entropy,
        ("logits",), _logits_and_one_hot,
    ),
    *(
        Jacobian("D-09", f"jac_dense_{convention}_{name}", fn, (name,), inputs)
        for convention, fn, inputs in (
            ("rows", reference.dense.dense_rows, _rows),
            ("columns", reference.dense.dense_columns, _columns),
        )
        for name in ("X", "W", "b")
    ),
    Jacobian("C-11", "jac_correlate2d_x", reference.conv2d.correlate2d, ("x",), _images),
    Jacobian("C-11", "jac_correlate2d_f", reference.conv2d.correlate2d, ("f",), _images),
    Jacobian(
        "B-03+B-04+B-05+B-06+B-07+B-08", "jac_two_layer_squared_loss",
        reference.two_layer.two_layer_squared_loss, _parameters, _squared_loss,
    ),
    Jacobian(
        "B-11+B-12", "jac_two_layer_cross_entropy", reference.two_layer.two_layer_cross_entropy, _parameters,
        _cross_entropy,
    ),
]  # fmt: skip
COMPACT = {
    "jac_correlate2d_x_blocks", "jac_dense_columns_W_factors", "jac_dense_columns_X_factors",
    "jac_dense_rows_W_factors", "jac_dense_rows_X_factors", "jac_softmax_logits_blocks",
    "jac_squared_errors_y_hat_diagonal",
}  # fmt: skip


def test_every_public_jacobian_is_here():
    public = {name for name in mg.__all__ if name.startswith("jac_")}
    assert public == {jacobian.name for jacobian in JACOBIANS} | COMPACT


@pytest.mark.parametrize("oracle", [jax.jacrev, jax.jacfwd], ids=["jacrev", "jacfwd"])
@pytest.mark.parametrize("jacobian", JACOBIANS, ids=[f"{j.tags}-{j.name}" for j in JACOBIANS])
def test_jacobian_is_that_of_the_reference(jacobian, oracle):
    inputs = jacobian.draw(np.random.default_rng(0))
    got = getattr(mg, jacobian.name)(**inputs)
    want = _oracle(jacobian, oracle, inputs)
    assert_same(got if isinstance(got, tuple) else (got,), want)


def _oracle(jacobian, oracle, inputs):
    def of_wrt(*values):
        return jacobian.reference(**inputs | dict(zip(jacobian.wrt, values, strict=True)))

    wrt = tuple(inputs[name] for name in jacobian.wrt)
    return jax.jit(oracle(of_wrt, argnums=tuple(range(len(wrt)))))(*wrt)


# ---------------------------------------------------------------- compact forms, assembled here


def test_squared_errors_are_a_diagonal():
    """[A-03]"""
    inputs = _vectors(np.random.default_rng(0))
    diagonal = mg.jac_squared_errors_y_hat_diagonal(**inputs)
    assert_same(mg.jac_squared_errors_y_hat(**inputs), jnp.diag(diagonal))


def test_softmax_is_block_diagonal():
    """[A-07]"""
    logits = normal(np.random.default_rng(0), f64, 4, 6)
    blocks = mg.jac_softmax_logits_blocks(logits)
    assert_same(mg.as_matrix(mg.jac_softmax_logits(logits), 2), block_diag(*blocks))
    p = mg.softmax_fwd(logits)[0][2]
    assert_same(blocks[2], jnp.diag(p) - jnp.outer(p, p))


@pytest.mark.parametrize("name", ["W", "X"])
def test_dense_rows_is_a_kronecker_product(name):
    """[D-09] Row by row, vec Z = (X ⊗ I) vec W = (I ⊗ Wᵀ) vec X."""
    inputs = _rows(np.random.default_rng(0))
    factors = getattr(mg, f"jac_dense_rows_{name}_factors")(**inputs)
    X, W = inputs["X"], inputs["W"]
    assert_same(factors, {"W": (X, jnp.eye(5)), "X": (jnp.eye(4), W.T)}[name])
    assert_same(mg.as_matrix(getattr(mg, f"jac_dense_rows_{name}")(**inputs), 2), jnp.kron(*factors))


@pytest.mark.parametrize("name", ["W", "X"])
def test_dense_columns_is_a_kronecker_product(name):
    """[D-09] Stacking columns, vec Z = (Xᵀ ⊗ I) vec W = (I ⊗ W) vec X."""
    inputs = _columns(np.random.default_rng(0))
    factors = getattr(mg, f"jac_dense_columns_{name}_factors")(**inputs)
    X, W = inputs["X"], inputs["W"]
    assert_same(factors, {"W": (X.T, jnp.eye(5)), "X": (jnp.eye(4), W)}[name])
    dense = getattr(mg, f"jac_dense_columns_{name}")(**inputs)
    assert_same(dense.transpose(1, 0, 3, 2).reshape(5 * 4, -1), jnp.kron(*factors))
    vec_Z = jnp.kron(*factors) @ inputs[name].T.ravel()
    assert_same(vec_Z, (W @ X).T.ravel())


def test_correlation_is_doubly_toeplitz_in_the_image():
    """[C-11] The blocks depend on p − i alone, and inside each the entries on q − j alone."""
    inputs = _images(np.random.default_rng(0))
    blocks = mg.jac_correlate2d_x_blocks(**inputs)
    J = mg.jac_correlate2d_x(**inputs).swapaxes(1, 2)
    _assert_doubly_toeplitz(J)
    for i, p in np.ndindex(J.shape[:2]):
        inside = 0 <= p - i < len(blocks)
        assert_same(J[i, p], blocks[p - i] if inside else jnp.zeros_like(J[i, p]))


def test_correlation_is_doubly_toeplitz_in_the_reversed_kernel():
    """[C-11]"""
    J = mg.jac_correlate2d_f(**_images(np.random.default_rng(0)))
    _assert_doubly_toeplitz(J[:, :, ::-1, ::-1].swapaxes(1, 2))


def _assert_doubly_toeplitz(J):
    """J[i, p, j, q], as outer blocks (i, p) of inner entries (j, q)."""
    assert_same(J[1:, 1:], J[:-1, :-1])
    assert_same(J[:, :, 1:, 1:], J[:, :, :-1, :-1])


# ---------------------------------------------------------------- products are the contracted gradients


def test_chain_mse():
    """[A-04]"""
    y_hat, y = _vectors(np.random.default_rng(0)).values()
    _, error = mg.mse_fwd(y_hat, y)
    product = mg.chain(mg.jac_mean_J0((y - y_hat) ** 2), mg.jac_squared_errors_y_hat(y_hat, y), mid=(7,))
    assert_same(product, mg.mse_bwd(error, 1.0)[0])


def test_chain_softmax_cross_entropy():
    """[A-10]"""
    logits, y = _logits_and_labels(np.random.default_rng(0)).values()
    outer = mg.jac_cross_entropy_probs(mg.softmax_fwd(logits)[0], y)
    product = mg.chain(outer, mg.jac_softmax_logits(logits), mid=(4, 6))
    assert_same(product, mg.softmax_cross_entropy_bwd(mg.softmax_cross_entropy_fwd(logits, y)[1], 1.0)[0])


def test_chain_softmax_vjp():
    """[A-08] Any upstream gradient times the explicit Jacobian."""
    logits, dprobs = _logits_and_labels(np.random.default_rng(0)).values()
    product = mg.chain(dprobs, mg.jac_softmax_logits(logits), mid=(4, 6))
    assert_same(product, mg.softmax_bwd(mg.softmax_fwd(logits)[0], dprobs)[0])


@pytest.mark.parametrize("name", ["two_layer_squared_loss", "two_layer_cross_entropy"])
def test_chain_two_layers(name):
    """[B-08] [B-12]"""
    scenario = named(name)
    inputs = draw(scenario, seed=0)
    products = getattr(mg, f"jac_{name}")(**inputs)
    assert_same(products, scenario.bwd(scenario.fwd(**inputs)[1], 1.0)[:4])


@pytest.mark.parametrize("convention", ["rows", "columns"])
def test_chain_dense(convention):
    """[D-09] dW and dX are what contracting with the Kronecker products leaves."""
    inputs = {"rows": _rows, "columns": _columns}[convention](np.random.default_rng(0))
    Z, res = getattr(mg, f"dense_{convention}_fwd")(**inputs)
    dZ = normal(np.random.default_rng(1), f64, *Z.shape)
    jacobians = [getattr(mg, f"jac_dense_{convention}_{name}")(**inputs) for name in ("X", "W", "b")]
    products = tuple(mg.multiply_out([dZ, J], [Z.shape]) for J in jacobians)
    assert_same(products, getattr(mg, f"dense_{convention}_bwd")(res, dZ))


def test_chain_correlation():
    """[C-09] [C-10] [C-11]"""
    inputs = _images(np.random.default_rng(0))
    O, res = mg.correlate2d_fwd(**inputs)
    dO = normal(np.random.default_rng(1), f64, *O.shape)
    jacobians = mg.jac_correlate2d_x(**inputs), mg.jac_correlate2d_f(**inputs)
    assert_same(tuple(mg.chain(dO, J, mid=O.shape) for J in jacobians), mg.correlate2d_bwd(res, dO))


def test_diagonal_of_any_shape():
    d = normal(np.random.default_rng(0), f64, 3, 4)
    assert_same(mg.as_matrix(mg.diagonal(d), 2), jnp.diag(d.ravel()))
    assert_same(mg.diagonal(lax.full((), 3.0, f64)), jnp.array(3.0))
