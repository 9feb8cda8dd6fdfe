"""What once went wrong silently, each case as it was found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import manual_grad as mg
import manual_grad_reference as reference

RNG = np.random.default_rng(11)


@pytest.mark.parametrize(
    ("dtype", "K"), [("uint8", 256), ("uint8", 300), ("int8", 128), ("int8", 200), ("int16", 40000)]
)
def test_labels_too_narrow_for_the_number_of_classes(dtype, K):
    """[B-13] [B-14] A byte holds the label 10 but not K = 300: comparing in bytes made 266 a hit as well."""
    logits, labels = jnp.asarray(RNG.standard_normal((2, K))), np.array([10, 3])
    fwd, bwd = (
        mg.softmax_cross_entropy_with_integer_labels_fwd,
        mg.softmax_cross_entropy_with_integer_labels_bwd,
    )
    want, got = ((fwd(logits, y)[0], bwd(fwd(logits, y)[1], 2.0)[0]) for y in (labels, labels.astype(dtype)))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_allclose(got[1].sum(axis=1), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("padding", "strides"),
    [
        (((3, 0), (0, 0)), 1),
        (((-3, 2), (0, 0)), 1),
        (((-2, 1), (1, -1)), 1),
        (((1, 0), (0, 1)), 2),
        (((4, -1), (-1, 3)), 2),
    ],
)
def test_cropping_and_padding_one_axis_at_once(padding, strides):
    """[A-11] XLA:CPU's float32 convolution reads outside its memory there, forward and backward."""
    formulations = [(mg.conv2d_fwd, mg.conv2d_bwd), (mg.conv2d_plain_fwd, mg.conv2d_plain_bwd)]
    x, kernel = RNG.standard_normal((2, 5, 6, 3)), RNG.standard_normal((2, 3, 3, 4))
    (top, bottom), (left, right) = padding
    outer = [(0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)), (0, 0)]
    rows, columns = (slice(max(-lo, 0), -max(-hi, 0) or None) for lo, hi in padding)

    def forward(x, kernel, bias):
        cropped = jnp.pad(x[:, rows, columns], outer)
        return reference.conv2d.conv2d(cropped, kernel, bias, strides)

    primals = jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(RNG.standard_normal(4))
    want, pullback = jax.vjp(forward, *primals)
    dout = jnp.asarray(RNG.standard_normal(want.shape))

    @jax.jit
    def narrow(primals, dout):
        out_and_res = [fwd(*primals, padding=padding, strides=strides) for fwd, _ in formulations]
        return [(Z, *bwd(res, dout)) for (_, bwd), (Z, res) in zip(formulations, out_and_res, strict=True)]

    in_float32 = jax.tree.map(lambda a: a.astype(jnp.float32), (primals, dout))
    for _ in range(4):
        for got in narrow(*in_float32):
            for g, w in zip(got, (want, *pullback(dout)), strict=True):
                np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4)


def test_loss_scaling_saves_small_gradients_in_float16():
    """[A-10] With 1/N inside, most of dW rounded to zero before the cotangent could lift it."""
    hidden = jnp.asarray(RNG.standard_normal((256, 8)), jnp.float16)
    W = jnp.asarray(0.1 * RNG.standard_normal((8, 4000)), jnp.float16)
    labels = jnp.asarray(RNG.integers(0, 50, 256))
    _, res = mg.linear_cross_entropy_fwd(hidden, W, labels)
    _, dW = mg.linear_cross_entropy_bwd(res, jnp.float16(2**15))
    assert np.isfinite(dW).all()
    assert (np.asarray(dW[:, 50:]) == 0).mean() < 0.01


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("N", [1_000_003, 9_633_792])
def test_a_mean_over_many_rounds_once_in_half_precision(dtype, N):
    """[A-04] 1/N, rounded to float16 before it was multiplied by dJ, was wrong by 14 %."""
    error = jnp.full(N, -2, dtype)
    (dy_hat, dy), want = mg.mse_bwd(error, dtype(2**15)), 2**15 * 4 / N
    for got in (dy_hat[0], -dy[0]):
        assert got.dtype == dtype
        assert abs(float(got) / want - 1) < float(jnp.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_product_with_a_share_of_the_mean_rounds_once(dtype):
    """[A-04] 1/N was rounded on its own, before it was multiplied by −2(y − ŷ), which was rounded too."""
    y_hat, y = jnp.arange(1, 50, dtype=dtype), jnp.zeros(49, dtype)
    want = np.arange(1, 50) * 2 / 49
    np.testing.assert_array_equal(mg.jac_mse_y_hat(y_hat, y), want.astype(dtype))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_losses_over_many_samples_round_once_in_half_precision(dtype):
    """[A-09] [A-10] [B-14] [D-06]"""
    N, dJ = 100_003, dtype(2**12)
    halves, hot = jnp.full((N, 2), 0.5, dtype), jnp.tile(jnp.array([1, 0], dtype), (N, 1))
    y = jnp.zeros(N, int)
    fused = mg.softmax_cross_entropy_bwd((halves, jnp.log(halves), hot), dJ)[0]
    columns = mg.softmax_cross_entropy_columns_bwd((halves.T, jnp.log(halves).T, hot.T), dJ)[0].T
    integers = mg.softmax_cross_entropy_with_integer_labels_bwd((halves, y), dJ)[0]
    apart = mg.cross_entropy_bwd((halves, hot), dJ)[0] / 4
    sums, total = mg.linear_cross_entropy_bwd((halves, halves[:1].T), dJ)
    assert abs(float(total[0, 0]) / float(sums[0, 0]) / 2**8 - 1) < float(jnp.finfo(dtype).eps)
    row, one = halves[:, :1].T, halves[:1, :1]
    res = (one, halves[:1].T, row, row, row, halves.T, y)
    two = mg.two_layer_cross_entropy_columns_grads(res, dJ)["dS"].T
    for got in (fused, columns, integers, apart, two, -sums):
        assert got.dtype == dtype
        assert abs(-float(got[0, 0]) / (float(dJ) / 2 / N) - 1) < float(jnp.finfo(dtype).eps)


@pytest.mark.usefixtures("x32")
def test_integers_become_floats_and_do_not_overflow():
    """[A-01] [C-01] 64-bit integers would not overflow here, which hid the mistake."""
    powers, square = mg.jac_powers_x(10, 12), mg.jac_square_x(3)
    f, res = mg.product_of_sum_fwd(2**20, 1, 2**20)
    found = (powers, square, f, *res, *mg.product_of_sum_bwd(res, 2**20))
    assert {leaf.dtype for leaf in found} == {jnp.dtype("float32")}
    np.testing.assert_allclose([powers[-1], f, found[-1]], [12e11, 2.0**40, 2.0**40], rtol=1e-5)


def test_a_second_derivative_at_a_label_of_zero():
    """[A-09] ∂²J/∂y∂p = −1/(Np) there as elsewhere: the forward pass cuts off only what has no logarithm."""
    probs, labels = jnp.array([[0.25, 0.75], [0.5, 0.5]]), jnp.array([[0.0, 1.0], [1.0, 0.0]])
    by_label = jax.grad(lambda probs, labels: mg.cross_entropy_fwd(probs, labels)[0], 1)
    np.testing.assert_allclose(by_label(probs, labels), -jnp.log(probs) / 2, rtol=1e-15)
    both = jax.jacfwd(by_label)(probs, labels)
    np.testing.assert_allclose(both.reshape(4, 4), np.diag(-1 / (2 * probs.ravel())), rtol=1e-15)


@pytest.mark.parametrize(("fwd", "bwd"), [("columns", "rows"), ("rows", "columns")])
def test_residuals_of_the_other_layout_are_refused(fwd, bwd):
    """[D-10] Square layers fit both ways, and the gradients were wrong."""
    layer = (jnp.eye(3), jnp.ones(3))
    Z, res = getattr(mg, f"mlp_{fwd}_fwd")([layer, layer], jnp.ones((3, 3)))
    with pytest.raises(mg.InputError, match=f"mlp_{bwd}_bwd: res is from mlp_{fwd}_fwd"):
        getattr(mg, f"mlp_{bwd}_bwd")(res, Z)


@pytest.mark.parametrize("rate", [0.5, np.float64(0.5), jnp.float32(0.5)])
def test_gradient_descent_keeps_the_dtype(rate):
    """[D-11]"""
    (new,) = mg.gradient_descent([jnp.ones(2, jnp.bfloat16)], [jnp.ones(2, jnp.bfloat16)], rate)
    assert new.dtype == jnp.bfloat16


def test_a_refusal_from_inside_names_who_was_called():
    with pytest.raises(mg.InputError, match=r"^jac_linear_regression_w: in linear_regression_fwd: x is"):
        mg.jac_linear_regression_w(1.0, 0.0, jnp.ones((2, 3)), jnp.ones(2))
    with pytest.raises(mg.InputError, match=r"^network_squared_loss_fwd: activation is 'gelu'"):
        mg.network_squared_loss_fwd([(jnp.eye(2), jnp.ones(2))], jnp.ones(2), jnp.ones(2), activation="gelu")


def test_a_dtype_in_a_pytree_is_named_with_its_path():
    params = [(jnp.ones((2, 3)), jnp.ones(3)), (jnp.ones((3, 2), jnp.bfloat16), jnp.ones(2))]
    with pytest.raises(mg.InputError, match=r"params\[1\]\[0\] is bfloat16\[3,2\], expected float64"):
        mg.mlp_rows_fwd(params, jnp.ones((4, 2)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: mg.two_layer_cross_entropy_fwd(
            jnp.ones((2, 3)), jnp.ones(2), jnp.ones((4, 2)), jnp.ones(4), jnp.ones(3), True
        ),
        lambda: mg.mse_bwd(jnp.ones(2), True),
        lambda: mg.jac_affine_w(1.0, 0.0, jnp.ones((2, 3))),
        lambda: mg.chain(jnp.ones(3), jnp.ones(3), 3),
        lambda: mg.five_layer_bwd((1, 2, 3, 4), 1.0),
        lambda: mg.one_hot(jnp.array([0]), 0),
        lambda: mg.one_hot(jnp.array([0]), 2, jnp.int32),
        lambda: mg.cnn_fwd({"K1": 1, 2: 3}, jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2))),
    ],
)
def test_odd_input_is_refused_in_one_line(call):
    with pytest.raises(mg.InputError) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_numpy_scalars_are_numbers():
    y_hat, y = jnp.ones(3, jnp.float16), jnp.zeros(3, jnp.float16)
    _, res = mg.mse_fwd(y_hat, y)
    for one in (np.float64(1), np.float32(1), np.int64(1)):
        assert mg.mse_bwd(res, one)[0].dtype == jnp.float16
    Z, _ = mg.conv2d_fwd(
        jnp.ones((1, 4, 4, 2)),
        jnp.ones((2, 2, 1, 2)),
        jnp.ones(2),
        groups=np.int64(2),
        strides=(np.int64(2), 1),
    )
    assert Z.shape == (1, 2, 3, 2)


@pytest.mark.parametrize(
    ("name", "x"), [("sigmoid", 40.0), ("sigmoid", -40.0), ("tanh", 20.0), ("tanh", -20.0)]
)
def test_the_tails_of_derivatives_do_not_round_to_zero(name, x):
    """[C-02] σ(40) is 1 in float64, and 1 minus it 0; σ′(±40) = e⁻⁴⁰ and tanh′(±20) = 4e⁻⁴⁰ up to e⁻⁸⁰."""
    (dx,) = getattr(mg, f"{name}_bwd")(jnp.array([x]), jnp.array([1.0]))
    assert float(dx[0]) == pytest.approx({"sigmoid": 1, "tanh": 4}[name] * np.exp(-40.0), rel=1e-13, abs=0)


def test_streaming_attention_rounds_no_score_in_half_precision():
    """[E-12] q was scaled in bfloat16, before the scores: four times attention's error."""
    arrays = (jnp.asarray(3 * RNG.standard_normal((1, 16, 2, 12)), jnp.bfloat16) for _ in range(4))
    *qkv, dout = arrays
    (out, res), (chunked, its) = mg.attention_fwd(*qkv), mg.attention_streaming_fwd(*qkv, chunk=8)
    grads, its_grads = mg.attention_bwd(res, dout), mg.attention_streaming_bwd(its, dout)
    for one, other in zip((out, *grads), (chunked, *its_grads), strict=True):
        one, other = np.asarray(one, float), np.asarray(other, float)
        assert np.abs(one - other).max() <= np.abs(one).max() * 2**-8


@pytest.mark.parametrize("fwd", [mg.attention_fwd, mg.attention_streaming_fwd])
@pytest.mark.parametrize(
    "window", [2**31 - 1, 2**31, 2**63, 10**400], ids=["wraps", "32 bits", "64 bits", "400 digits"]
)
def test_a_window_beyond_32_bits_is_none(fwd, window, x32):
    """It raised an OverflowError, or wrapped around where there are more queries than keys."""
    q, k = jnp.ones((1, 4, 1, 2)), jnp.arange(4.0).reshape(1, 2, 1, 2)
    assert fwd(q, k, k, window=window)[0].tolist() == fwd(q, k, k)[0].tolist()
