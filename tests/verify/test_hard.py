"""Hard inputs: every formula is right on them, the statements on JAX hold, and a wrong formula is caught."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.catalogue import FORMULAS
from manual_grad.formulas.mse import mse_bwd, mse_fwd
from manual_grad.formulas.softmax import (
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_fwd,
    softmax_cross_entropy_with_integer_labels_fwd,
)
from manual_grad.kernels.linear_cross_entropy import linear_cross_entropy_fwd
from manual_grad.verify.hard import CASES, check_hard, tags_of


@pytest.mark.parametrize(("formula", "case"), CASES, ids=lambda part: part.name)
def test_the_formula_is_right_and_jax_is_as_stated(formula, case):
    verdict = check_hard(formula, case)
    assert verdict.passed, verdict.ours.detail
    assert tuple(answer.way for answer in verdict.jax if not answer.right) == case.differs
    assert bool(case.why) == bool(case.differs)
    assert tags_of(formula)
    assert case.says


def softmax_without_its_shift(logits, labels):
    probs = jnp.exp(logits) / jnp.exp(logits).sum(axis=1, keepdims=True)
    expected = probs * labels.sum(axis=1, keepdims=True)
    return -(labels * jnp.log(probs)).sum(axis=1).mean(), (expected, jnp.log(probs), labels)


def zero_times_ln_zero(logits, labels):
    _, res = softmax_cross_entropy_fwd(logits, labels)
    return -(labels * res[1]).sum(axis=1).mean(), res


def p_less_y(res, dJ):
    _, log_probs, labels = res
    return dJ / len(labels) * (jnp.exp(log_probs) - labels), softmax_cross_entropy_bwd(res, dJ)[1]


def gradient_through_the_mean(res, dJ):
    dlogits, dlabels = softmax_cross_entropy_bwd(res, dJ)
    return dlogits + 0 * dlogits.sum(), dlabels


def relu_on_at_zero(x, dout):
    return (jnp.where(x >= 0, dout, 0),)


def relu_half_at_zero(x, dout):
    return (dout * (jnp.sign(x) + 1) / 2,)


def relu_by_a_product(x, dout):
    return (jnp.sign(jnp.maximum(x, 0)) * dout,)


def loss_summed_in_its_dtype(y_hat, y):
    _, error = mse_fwd(y_hat, y)
    return (error**2).sum() / jnp.asarray(len(error), error.dtype), error


def gradient_over_n_in_its_dtype(error, dJ):
    dy_hat = -2 * dJ * error / jnp.asarray(len(error), error.dtype)
    return dy_hat, -dy_hat


def share_in_its_dtype(error, dJ):
    dy_hat = (-2 * dJ / len(error)).astype(error.dtype) * error
    return dy_hat, -dy_hat


def samples_rounded_before_the_sum(res, dJ):
    w, x, error = res
    dy_hat, dy = jax.lax.optimization_barrier(mse_bwd(error, dJ))
    return dy_hat @ x, dy_hat.sum(), dy_hat * w, dy


def sum_in_its_dtype(hidden, W, labels, *, chunk):
    J, (dhidden, dW) = linear_cross_entropy_fwd(hidden, W, labels, chunk=chunk)
    return J, (dhidden, jax.lax.optimization_barrier(dW * 2**8) / 2**8)


def p_times_kept(logits, labels, *, ignore_index):
    J, (_, y, n) = softmax_cross_entropy_with_integer_labels_fwd(logits, labels, ignore_index=ignore_index)
    kept = (labels != ignore_index)[:, None]
    return J, (jax.nn.softmax(logits) * kept + jax.nn.one_hot(y, logits.shape[1]) * ~kept, y, n)


def none_kept_of_one(logits, labels, *, ignore_index):
    J, (p, y, n) = softmax_cross_entropy_with_integer_labels_fwd(logits, labels, ignore_index=ignore_index)
    return J, (p, y, jnp.maximum(n, 1))


def gradient_one_sample_short(error, dJ):
    dy_hat, dy = mse_bwd(error, dJ)
    return dy_hat.at[-1].set(0), dy


def dense_on_clean_rows(res, dZ):
    X, W = res
    X = jnp.nan_to_num(X)
    return dZ @ W.T, X.T @ dZ, dZ.sum(axis=0)


def zeros(res, dJ):
    return tuple(jnp.zeros_like(d) for d in res)


def without_epsilon(res, dy):
    return FORMULAS["batch_norm"].bwd(replace(res, eps=0.0), dy)


def length_alone(res, dy):
    return FORMULAS["rms_norm"].bwd(replace(res, eps=0.0), dy)


def passes(name, case, **wrong):
    """Whether a case thinks this right, in place of the formula of that name."""
    return check_hard(replace(FORMULAS[name], **wrong), replace(case, jax={})).passed


INTEGER = softmax_cross_entropy_with_integer_labels_fwd.__name__.removesuffix("_fwd")
WRONG = [  # name of the case, formula, which half of the pair, what stands there instead
    ("logits of ±1e4", "softmax_cross_entropy", "fwd", softmax_without_its_shift),
    ("all logits equal", "softmax_cross_entropy", "fwd", softmax_without_its_shift),
    ("labels one-hot, their other classes at −∞", "softmax_cross_entropy", "fwd", zero_times_ln_zero),
    ("labels smoothed, soft, not summing to one", "softmax_cross_entropy", "bwd", p_less_y),
    ("NaN in one sample", "softmax_cross_entropy", "bwd", gradient_through_the_mean),
    ("NaN in one sample", "dense_rows", "bwd", dense_on_clean_rows),
    ("NaN in one sample", "linear_cross_entropy", "bwd", zeros),
    ("NaN in an ignored sample", INTEGER, "fwd", p_times_kept),
    ("no label counts, under jit", INTEGER, "fwd", none_kept_of_one),
    ("ReLU at exactly 0 and −0.0", "relu", "bwd", relu_on_at_zero),
    ("ReLU at exactly 0 and −0.0", "relu", "bwd", relu_half_at_zero),
    ("ReLU with an infinite or NaN cotangent", "relu", "bwd", relu_by_a_product),
    ("a channel of one value", "batch_norm", "bwd", without_epsilon),
    ("a sample of zeros", "rms_norm", "bwd", length_alone),
    ("subnormal numbers", "relu", "bwd", relu_half_at_zero),
    ("a very large batch", "mse", "fwd", loss_summed_in_its_dtype),
    ("a very large batch", "mse", "bwd", gradient_over_n_in_its_dtype),
    ("a very large batch", "mse", "bwd", gradient_one_sample_short),
    ("a very large batch", "mse", "bwd", share_in_its_dtype),
    ("a very large batch", "linear_regression", "bwd", samples_rounded_before_the_sum),
    ("a very large batch", "linear_cross_entropy", "fwd", sum_in_its_dtype),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "formula", "side", "wrong"), WRONG, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_wrong_formula_is_caught(name, formula, side, wrong):
    cases = [case for case in FORMULAS[formula].hard if case.name == name]
    assert cases
    assert not all(passes(formula, case, **{side: wrong}) for case in cases)


@pytest.mark.parametrize("name", ["relu", "dense_rows", "mse"])
def test_a_gradient_of_zeros_is_caught(name):
    """Each case whose right answer is not all zeros and NaN detects it."""
    bwd = FORMULAS[name].bwd

    def nothing(res, dout):
        return tuple(jnp.zeros_like(d) for d in bwd(res, dout))

    for case in FORMULAS[name].hard:
        assert not passes(name, case, bwd=nothing), case.name


def test_another_seed_draws_other_numbers():
    mse = FORMULAS["mse"]
    case = next(case for case in mse.hard if case.name == "NaN in one sample")
    first, again, other = (check_hard(mse, case, seed) for seed in (0, 0, 1))
    assert first == again
    assert other.passed
    assert other.right != first.right


def test_every_kind_of_hard_input_is_there():
    cases = [case for _, case in CASES]
    names = {case.name for case in cases}
    assert len(names) >= 15
    assert len(cases) >= 118
    assert sum(bool(case.differs) for case in cases) >= 34
    assert {case.dtype for case in cases} == {"float64", "float32", "float16", "bfloat16"}
    large = [case for case in cases if case.name == "a very large batch"]
    assert max(np.size(v) for c in large for v in c.draw(np.random.default_rng(0)).values()) >= 200_000
