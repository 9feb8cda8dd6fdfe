"""The hard inputs of chapter E's norms, scans, windows and GPT."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from manual_grad.catalogue.hard import Arrays, Hard, Rng, with_nan

Ways = dict[str, Callable | None]


def _far_off(rng: Rng, offset: int, fraction: int, *shape: int) -> np.ndarray:
    """Multiples of 1/``fraction`` near an offset, so that sums of a few are exact."""
    return offset + rng.permutation(np.arange(np.prod(shape))).reshape(shape) / fraction


def _channels(rng: Rng, x: np.ndarray) -> Arrays:
    C = x.shape[-1]
    return {"x": x, "gamma": rng.uniform(0.5, 2, C), "beta": rng.standard_normal(C)}


# ------------------------------------------------------------------------------------ norms


def _group_by_squares(x: Any, gamma: Any, beta: Any, groups: int, eps: float = 1e-5) -> Any:
    grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    return gamma * _by_squares(grouped, (1, 3), eps).reshape(x.shape) + beta


def _batch_by_squares(x: Any, gamma: Any, beta: Any, eps: float = 1e-5) -> Any:
    return gamma * _by_squares(x, tuple(range(x.ndim - 1)), eps) + beta


def _by_squares(x: Any, over: tuple[int, ...], eps: float) -> Any:
    mean, squares = (y.mean(axis=over, keepdims=True) for y in (x, x * x))
    return (x - mean) / jnp.sqrt(squares - mean**2 + eps)


BY_SQUARES = "mean(x²) − mean(x)²"
CANCELS = "squares need twice as many digits as x, and the difference of their means is rounding error"
OFFSET = "a large offset and a small spread"
GROUP_NORM = (
    Hard(
        OFFSET,
        "1024 plus sixteenths, in float32: computed from x − μ, which is exact, the variance is that of the "
        "sixteenths.",
        lambda rng: _channels(rng, _far_off(rng, 1024, 16, 2, 2, 4)),
        {"mean((x − μ)²)": None, BY_SQUARES: _group_by_squares},
        (BY_SQUARES,),
        CANCELS,
        dtype="float32",
        settings={"groups": 2},
        show=("dx", (0, 0)),
    ),
)
BATCH_NORM = (
    Hard(
        OFFSET,
        "2²⁶ plus eighths: computed from x − μ, which is exact, the variance is that of the eighths.",
        lambda rng: _channels(rng, _far_off(rng, 2**26, 8, 4, 2)),
        {"mean((x − μ)²)": None, BY_SQUARES: _batch_by_squares},
        (BY_SQUARES,),
        CANCELS,
        show=("dx", 0),
    ),
    Hard(
        "a channel of one value",
        "The variance is 0 and x̂ is 0: what remains is γ (dy − mean dy)/√ε, not a quotient 0/0.",
        lambda rng: _channels(rng, np.stack([np.full(4, 3.0), rng.standard_normal(4)], axis=1)),
        {"γ (x − μ) / √(σ² + ε) + β": None},
        show=("dx", (slice(None), 0)),
    ),
)
RMS_NORM = (
    Hard(
        "squares beyond float16",
        "Near 1000 the squares are ∞ in float16, near 1e-4 they are 0, and ε decides: the "
        "mean of squares is taken in float32.",
        lambda rng: {
            "x": np.array([[1000.0], [1e-4]]) * rng.uniform(0.5, 1.5, (2, 3)),
            "gamma": rng.uniform(0.5, 2, 3),
        },
        {"γ x / √(mean(x²) + ε)": None},
        ("γ x / √(mean(x²) + ε)",),
        "in float16 the squares are ∞, and 0",
        dtype="float16",
        show=("dx", 1),
    ),
    Hard(
        "a sample of zeros",
        "x̂ is 0 and the derivative is γ/√ε: finite, although the divisor is 0 but for ε.",
        lambda rng: {"x": np.stack([np.zeros(3), rng.standard_normal(3)]), "gamma": rng.uniform(0.5, 2, 3)},
        {"γ x / √(mean(x²) + ε)": None},
        show=("dx", 0),
    ),
)

# ------------------------------------------------------------------------------------ recurrences


def _by_products(a: Any, b: Any, h0: Any) -> Any:
    """h_t = P_t (h_0 + Σ b_s / P_s) with P_t = a_1 … a_t."""
    P = jnp.cumprod(a, axis=0)
    return P * (h0 + jnp.cumsum(b / P, axis=0))


LINEAR_SCAN = (
    Hard(
        "a factor of 0, and products that underflow",
        "a₁ = 0 discards h₀, whose gradient is 0; da₁ = db₁ h₀ is not 0. The product of the next two "
        "underflows in float64, but no step multiplies them.",
        lambda rng: {
            "a": np.array([0.0, 1e-200, 1e-200, rng.uniform(1, 2)]),
            "b": rng.standard_normal(4),
            "h0": np.array(rng.normal()),
        },
        {"step by step": None, "by products of a": _by_products},
        ("by products of a",),
        "b / (a₁ … a_t) is divided by 0",
        digits=500,
        show=("da", slice(None)),
    ),
)


def _rnn_by_exponentials(x: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any, h0: Any) -> Any:
    hs = [h0]
    for x_t in x:
        grown = jnp.exp(2 * (x_t @ W_ih.T + b_ih + hs[-1] @ W_hh.T + b_hh))
        hs.append((grown - 1) / (grown + 1))
    return jnp.stack(hs[1:]), hs[-1]


RNN = (
    Hard(
        "saturated activations",
        "Saturated units at ±1 have derivative 0 and keep their values; one unit beside them is not "
        "saturated.",
        lambda rng: {
            "x": rng.standard_normal((2, 2, 1)),
            "W_ih": rng.standard_normal((3, 1)),
            "W_hh": rng.standard_normal((3, 3)),
            "b_ih": np.array([1e4, -1e4, 0.0]),
            "b_hh": np.zeros(3),
            "h0": rng.standard_normal((2, 3)),
        },
        {"jnp.tanh": None, "(e²ᶻ − 1)/(e²ᶻ + 1)": _rnn_by_exponentials},
        ("(e²ᶻ − 1)/(e²ᶻ + 1)",),
        "e^{20000} overflows: ∞/∞",
        show=("db_ih", slice(None)),
    ),
)

# ------------------------------------------------------------------------------------ windows


def _by_running_sums(x: Any, window: tuple[int, int], strides: Any) -> Any:
    """Sums over windows of one row and two columns, with stride 1, as differences of a running sum."""
    sums = jnp.pad(jnp.cumsum(x, axis=2), ((0, 0), (0, 0), (1, 0), (0, 0)))
    return (sums[:, :, 2:] - sums[:, :, :-2]) / 2


def _sum_of_windows(x: Any, window: tuple[int, int], strides: Any) -> Any:
    of = (1, *window, 1)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, of, (1, 1, 1, 1), "VALID") / 2


PAIRS = {"window": (1, 2), "strides": 1}
AVG_POOL2D = (
    Hard(
        "NaN in one pixel",
        "The windows that contain it are NaN, no others are; dx does not depend on x.",
        lambda rng: {"x": with_nan(rng.standard_normal((1, 1, 5, 1)), 0, 0, 1, 0)},
        {"lax.reduce_window": _sum_of_windows, "running sums": _by_running_sums},
        ("running sums",),
        "a running sum is NaN from there on",
        settings=PAIRS,
        show=("out", slice(None)),
    ),
    Hard(
        "a window's sum beyond float16",
        "Its mean is not: the sum is taken in float32.",
        lambda rng: {"x": rng.uniform(40_000, 60_000, (1, 1, 4, 1))},
        {"lax.reduce_window": _sum_of_windows},
        ("lax.reduce_window",),
        "the sum of two is ∞",
        dtype="float16",
        settings=PAIRS,
        show=("out", slice(None)),
    ),
)


def _as_a_matrix(x: Any, kernel: Any, bias: Any, strides: Any) -> Any:
    """The Jacobian for one row: every entry of x times every output."""
    (w, C), (k, O) = x.shape[2:], kernel.shape[1:3]
    M = jnp.zeros((w, C, (w - 1) * strides[1] + k, O))
    for i in range(w):
        M = M.at[i, :, i * strides[1] : i * strides[1] + k].set(kernel[0].transpose(2, 0, 1))
    return jnp.einsum("nhwc,wcxo->nhxo", x, M) + bias


CONV_TRANSPOSE2D = (
    Hard(
        "NaN in one pixel",
        "The outputs covered by its copy of the kernel are NaN, no others are; dx does not depend on x, and "
        "every entry of dkernel is multiplied by that pixel.",
        lambda rng: {
            "x": with_nan(rng.standard_normal((1, 1, 3, 1)), 0, 0, 1, 0),
            "kernel": rng.standard_normal((1, 2, 2, 1)),
            "bias": rng.standard_normal(2),
        },
        {"as a matrix": _as_a_matrix},
        ("as a matrix",),
        "the matrix's zeros times NaN are NaN",
        settings={"strides": (1, 2)},
        show=("out", slice(None)),
    ),
    Hard(
        "cropped at one end and widened at the other",
        "In float32, where XLA:CPU's own convolution reads out of bounds.",
        lambda rng: {
            "x": rng.standard_normal((2, 3, 2, 1)),
            "kernel": rng.standard_normal((2, 1, 2, 1)),
            "bias": rng.standard_normal(2),
        },
        dtype="float32",
        settings={"padding": ((3, -2), (0, -1)), "strides": (2, 1)},
        show=("dkernel", slice(None)),
    ),
)

# ------------------------------------------------------------------------------------ a GPT


def _small_gpt(rng: Rng, loud: float) -> Arrays:
    """One block with three features; the last norm's scale is so large that the logits are large."""

    def norm(scale: float = 1.0) -> Arrays:
        return {"gamma": scale * rng.uniform(0.5, 1.5, 3), "beta": rng.standard_normal(3)}

    def dense(n: int, m: int) -> Arrays:
        return {"W": rng.standard_normal((n, m)), "b": rng.standard_normal(m)}

    block = {"ln1": norm(), "qkv": dense(3, 9), "proj": dense(3, 3), "ln2": norm()}
    block |= {"up": dense(3, 12), "down": dense(12, 3)}
    params = {"wte": rng.standard_normal((4, 3)), "wpe": rng.standard_normal((3, 3)), "blocks": [block]}
    texts = {"tokens": np.array([[2, 0, 2]]), "targets": np.array([[1, 3, 1]])}
    return {"params": params | {"lnf": norm(loud)}, **texts}


GPT = (
    Hard(
        "logits of ±1e4",
        "p is 1 for one word and 0 for the rest, and all gradients are finite. Token 2 occurs twice: the "
        "gradient of wte has contributions from both positions and from the output.",
        lambda rng: _small_gpt(rng, 1e4),
        {"−ln(exp/Σexp)[y]": None},
        ("−ln(exp/Σexp)[y]",),
        "e^{10000} overflows",
        show=("dparams['wte']", slice(None)),
    ),
)
