"""The comparison of ``test_against_jax`` refuses a mistake of every family."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad as mg
from manual_grad.catalogue import activations, cnn, convolution, dense, mlp, mse, softmax, two_layer
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.linear_cross_entropy import LINEAR_CROSS_ENTROPY

from .comparing import check
from .scenarios import drawn, normal, of, random_like

MISTAKES = {}


def mistake(tag, scenario, inputs=None, says="relative errors"):
    """Register a wrong backward pass of a scenario; ``inputs`` where the usual ones would not show it."""

    def register(bwd):
        MISTAKES[f"{tag}-{bwd.__name__.strip('_')}"] = (scenario, bwd, inputs, says)
        return bwd

    return register


def _normals(**shapes):
    rng = np.random.default_rng(0)
    return {name: normal(rng, jnp.float64, *shape) for name, shape in shapes.items()}


def _square_net():
    net = _normals(W1=(5, 5), b1=(5,), W2=(5, 4), b2=(4,), X=(6, 5))
    return net | {"y": jnp.array([0, 3, 1, 2, 2, 0])}


def _mlp_of_equal_widths():
    return mlp.MLP_ROWS.inputs(Draw(np.random.default_rng(0)), "relu", widths=(7, 4, 4, 2))


@mistake("A-04", of(mse.MSE))
def _sign(res, dJ):
    dy_hat, dy = mg.mse_bwd(res, dJ)
    return -dy_hat, dy


@mistake("A-04", of(mse.MSE))
def _nan(res, dJ):
    return tuple(d.at[2].set(jnp.nan) for d in mg.mse_bwd(res, dJ))


@mistake("A-04", of(mse.MSE))
def _one_entry_off_by_a_billionth(res, dJ):
    dy_hat, dy = mg.mse_bwd(res, dJ)
    return dy_hat, dy.at[3].multiply(1 + 1e-9)


@mistake("A-04", of(mse.MSE), says="dtypes")
def _wrong_dtype(res, dJ):
    return tuple(d.astype(jnp.float32) for d in mg.mse_bwd(res, dJ))


@mistake("A-04", of(mse.MSE), says="shapes")
def _wrong_shape(res, dJ):
    return tuple(d[:, None] for d in mg.mse_bwd(res, dJ))


@mistake("A-04", of(mse.MSE), says="structures")
def _wrong_container(res, dJ):
    return list(mg.mse_bwd(res, dJ))


@mistake("A-04", of(mse.MSE), says="structures")
def _one_cotangent_too_few(res, dJ):
    return mg.mse_bwd(res, dJ)[:1]


@mistake("A-06", of(mse.LINEAR_REGRESSION, "scalar"), says="shapes")
def _scalar_as_vector(res, dJ):
    dw, db, dx, dy = mg.linear_regression_bwd(res, dJ)
    return dw, db[None], dx, dy


@mistake("B-06", of(activations.RELU), lambda: {"x": jnp.array([[-1.0, 0.0, 2.0], [-0.0, 0.5, -3.0]])})
def _slope_1_at_0(res, dout):
    return (jnp.where(res >= 0, dout, 0),)


@mistake("B-06", of(activations.RELU), lambda: {"x": jnp.array([[-1.0, 0.0, 2.0], [-0.0, 0.5, -3.0]])})
def _slope_a_half_at_0(res, dout):
    return (jnp.where(res == 0, dout / 2, mg.relu_bwd(res, dout)[0]),)


@mistake("B-06", of(activations.RELU))
def _no_mask(res, dout):
    return (dout,)


@mistake("C-02", of(activations.SIGMOID))
def _slope_of_x_for_slope_of_sigmoid(res, dout):
    return (dout * res * (1 - res),)


@mistake("A-07", of(softmax.SOFTMAX))
def _no_off_diagonal(res, dprobs):
    return (dprobs * res * (1 - res),)


@mistake("A-10", of(softmax.SOFTMAX_CROSS_ENTROPY))
def _no_mean(res, dJ):
    return tuple(len(res[0]) * d for d in mg.softmax_cross_entropy_bwd(res, dJ))


@mistake("A-10", of(softmax.SOFTMAX_CROSS_ENTROPY))
def _labels_taken_to_sum_to_1(res, dJ):
    _, log_probs, labels = res
    probs = jnp.exp(log_probs)
    return dJ / len(probs) * (probs - labels), mg.softmax_cross_entropy_bwd(res, dJ)[1]


@mistake("B-10", of(softmax.CROSS_ENTROPY_OF_SCORES))
def _cases_swapped(res, dJ):
    p, y = res
    return (dJ * (p - 1 + mg.one_hot(y, len(p))),)


@mistake("B-16", of(dense.DENSE_ROWS), lambda: _normals(X=(4, 3), W=(3, 3), b=(3,)))
def _w_not_transposed(res, dZ):
    _, dW, db = mg.dense_rows_bwd(res, dZ)
    return dZ @ res[1], dW, db


@mistake("B-15", of(dense.DENSE_COLUMNS), lambda: _normals(X=(3, 3), W=(3, 3), b=(3,)))
def _dw_transposed(res, dZ):
    dX, dW, db = mg.dense_columns_bwd(res, dZ)
    return dX, dW.T, db


@mistake("B-E2", of(dense.DENSE_COLUMNS), lambda: _normals(X=(3, 1), W=(5, 3), b=(5,)), says="shapes")
def _bias_not_summed(res, dZ):
    dX, dW, _ = mg.dense_columns_bwd(res, dZ)
    return dX, dW, dZ


@mistake("B-16", of(dense.DENSE_ROWS))
def _bias_of_one_sample(res, dZ):
    dX, dW, _ = mg.dense_rows_bwd(res, dZ)
    return dX, dW, dZ[0]


@mistake("B-16", of(two_layer.TWO_LAYER_CROSS_ENTROPY_ROWS), _square_net)
def _mask_of_the_wrong_layer(res, dJ):
    W1, W2, X, _, *rest = res
    return mg.two_layer_cross_entropy_rows_bwd((W1, W2, X, X, *rest), dJ)


@mistake("D-10", of(mlp.MLP_ROWS, "relu"), _mlp_of_equal_widths)
def _masks_in_reverse(res, dZ):
    return mg.mlp_rows_bwd(dataclasses.replace(res, Zs=res.Zs[::-1]), dZ)


@mistake("C-05", of(mlp.MLP_COLUMNS, "tanh"))
def _recursion_without_slope(res, dZ):
    return mg.mlp_columns_bwd(dataclasses.replace(res, activation="identity"), dZ)


@mistake("C-04", of(mlp.NETWORK_SQUARED_LOSS, "sigmoid"))
def _last_delta_without_slope(res, dL):
    layers, _, error = res
    dparams, dx, dy = mg.network_squared_loss_bwd(res, dL)
    last = (jnp.outer(dL * error, layers.As[-1][:, 0]), dL * error)
    return [*dparams[:-1], last], dx, dy


@mistake("C-10", of(convolution.CORRELATE2D))
def _kernel_not_rotated(res, dO):
    x, f = res
    return mg.correlate2d_bwd((x, f[::-1, ::-1]), dO)


@mistake("C-07", of(convolution.CONVOLVE2D, "valid"))
def _kernel_gradient_not_rotated(res, dY):
    dx, dw = mg.convolve2d_bwd(res, dY)
    return dx, dw[::-1, ::-1]


@mistake("A-11", of(convolution.CONV2D, "strides"))
def _stride_ignored(res, dZ):
    dense = dataclasses.replace(res, strides=(1, 1))
    sizes = zip(res.x.shape[1:3], res.kernel.shape[:2], dZ.shape[1:3], strict=True)
    spare = [n - k + 1 - out for n, k, out in sizes]
    dx = mg.conv2d_bwd(dense, jnp.pad(dZ, ((0, 0), *((0, n) for n in spare), (0, 0))))[0]
    return dx, *mg.conv2d_bwd(res, dZ)[1:]


@mistake("A-11", of(convolution.CONV2D, "groups"))
def _groups_in_reverse(res, dZ):
    dx, dkernel, dbias = mg.conv2d_bwd(res, dZ)
    return dx, jnp.roll(dkernel, dkernel.shape[-1] // res.groups, axis=-1), dbias


@mistake("A-11", of(cnn.CNN))
def _bias_summed_over_the_wrong_axes(res, dJ):
    dparams, dX, dlabels = mg.cnn_bwd(res, dJ)
    dZ1 = mg.cnn_grads(res, dJ)["dZ1"]
    return dparams | {"b1": dZ1[:, :, 0].sum(axis=(0, 1))}, dX, dlabels


@mistake("A-10", of(LINEAR_CROSS_ENTROPY, "chunk_smaller"))
def _last_chunk_dropped(res, dJ):
    dhidden, dW = mg.linear_cross_entropy_bwd(res, dJ)
    return dhidden.at[6:].set(0), dW


@pytest.mark.parametrize("id", MISTAKES)
def test_mistake_is_refused(id):
    scenario, bwd, inputs, says = MISTAKES[id]
    primals, dout = drawn(scenario, seed=0)
    if inputs:
        primals = tuple(inputs()[name] for name in scenario.entry.primals)
        dout = random_like(jax.eval_shape(scenario.reference, *primals), seed=0)
    check(scenario, primals, dout)
    with pytest.raises(AssertionError, match=says):
        check(scenario.sabotaged(bwd=bwd), primals, dout)


def test_wrong_value_is_refused():
    @functools.wraps(mg.mse_fwd)
    def off(y_hat, y):
        J, res = mg.mse_fwd(y_hat, y)
        return J * (1 + 1e-9), res

    with pytest.raises(AssertionError):
        check(of(mse.MSE).sabotaged(fwd=off))


def test_nothing_is_refused_without_a_mistake():
    """The wrapper alone, without a mistake, changes nothing."""
    check(of(mse.MSE).sabotaged(bwd=lambda res, dJ: jax.tree.map(jnp.asarray, mg.mse_bwd(res, dJ))))
