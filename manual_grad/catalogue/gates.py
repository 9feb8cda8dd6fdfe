"""GELU, SiLU, and the gates built from them."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue.entry import Batch, Bench, Formula, Function, Op, Scale, Shown, normal
from manual_grad.catalogue.families import FACTOR, SLOPE, SWAPPED, TERM, Family, family
from manual_grad.catalogue.hard import Hard, inf
from manual_grad.formulas.gates import (
    geglu_bwd,
    geglu_fwd,
    gelu_bwd,
    gelu_fwd,
    gelu_prime,
    silu_bwd,
    silu_fwd,
    silu_prime,
    swiglu_bwd,
    swiglu_fwd,
)
from manual_grad_reference import definitions

SIZES = (64, 64), (512, 512), (4096, 1024)
ERF, TANH = {"approximate": False}, {"approximate": True}


def diagonal_of(J: jax.Array) -> jax.Array:
    """The slopes of an elementwise function, taken from its Jacobian."""
    shape = J.shape[: J.ndim // 2]
    return jnp.diagonal(J.reshape(math.prod(shape), -1)).reshape(shape)


# ------------------------------------------------------------------------------------------------ mutants


def _u(x: Any) -> Any:
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def _tanh_slope(x: Any, cube: float = 3 * 0.044715, root: float = math.sqrt(2 / math.pi)) -> Any:
    t = jnp.tanh(_u(x))
    return (1 + t) / 2 + x * (1 - t**2) / 2 * root * (1 + cube * x**2)


def _Phi(x: Any) -> Any:
    return (1 + lax.erf(x / math.sqrt(2))) / 2


def _phi(x: Any) -> Any:
    return jnp.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _gelu_slope(x: Any, approximate: bool) -> Any:
    return _tanh_slope(x) if approximate else _Phi(x) + x * _phi(x)


def _slope_by_output(x: Any) -> Any:
    y = jax.nn.silu(x)
    return jax.nn.sigmoid(x) + y * (1 - y)


def _silu_slope(x: Any) -> Any:
    return jax.nn.sigmoid(x) * (1 + x * (1 - jax.nn.sigmoid(x)))


GELU_MISTAKES: tuple = (
    (TERM, "Φ(x) without x φ(x)", lambda x, approximate: _Phi(x)),
    (TERM, "x φ(x) without Φ(x)", lambda x, approximate: x * _phi(x)),
    (SLOPE, "φ(x) without 1/√(2π)", lambda x, approximate: _Phi(x) + x * jnp.exp(-(x**2) / 2)),
    (SLOPE, "e^{−x²} for e^{−x²/2}", lambda x, approximate: _Phi(x) + x * jnp.exp(-(x**2)) / 2.5066282746),
)
OTHER_FORM = (SLOPE, "the other form's slope", lambda x, approximate: _gelu_slope(x, not approximate))
TANH_MISTAKES: tuple = (
    (SLOPE, "the cube's 3 is missing", lambda x, approximate: _tanh_slope(x, cube=0.044715)),
    (FACTOR, "√(2/π) is missing in u′", lambda x, approximate: _tanh_slope(x, root=1)),
)
SILU_MISTAKES: tuple = (
    (TERM, "x σ (1 − σ), without the direct term σ", lambda x: x * jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)),
    (TERM, "σ alone", jax.nn.sigmoid),
    (
        SLOPE,
        "σ + y (1 − y), of the output for σ",
        lambda x: jax.nn.sigmoid(x) + jax.nn.silu(x) * (1 - jax.nn.silu(x)),
    ),
)


def _activation(right: Callable, *mistakes: tuple) -> tuple[Family, ...]:
    def by_hand(dy: Any, x: Any, *, slope: Callable = right, **settings: Any) -> Any:
        return dy * slope(x, **settings)

    return (family("gradient", by_hand, *((kind, says, {"slope": slope}) for kind, says, slope in mistakes)),)


def _gated(activation: Callable, right: Callable, *mistakes: tuple) -> tuple[Family, ...]:
    def by_hand(
        dy: Any,
        gate: Any,
        up: Any,
        *,
        slope: Callable = right,
        of_gate: Callable = lambda dy, gate, up: dy * up,
        of_up: Callable = activation,
        **settings: Any,
    ) -> dict[str, Any]:
        dgate = of_gate(dy, gate, up) * slope(gate, **settings)
        return {"gate": dgate, "up": dy * of_up(gate, **settings)}

    return (
        family(
            "gradient",
            by_hand,
            *((kind, f"dgate: {says}", {"slope": slope}) for kind, says, slope in mistakes),
            (FACTOR, "dgate without up", {"of_gate": lambda dy, gate, up: dy}),
            (SWAPPED, "dup = dy gate", {"of_up": lambda gate, **settings: gate}),
            (SLOPE, "dup by the slope", {"of_up": right}),
            reaches={"slope": "gate", "of_gate": "gate", "of_up": "up"},
        ),
    )


# ------------------------------------------------------------------------------------------------ hard inputs


def _saturated(ways: dict[str, Any], differs: tuple[str, ...], why: str, **settings: Any) -> tuple[Hard, ...]:
    numbers = [-1e4, -12, -9.3, -5.1, -2.2, 0.0, 2.2, 9.3, 1e4, -inf, inf]
    return tuple(
        Hard(
            "saturated activations",
            "The limits at ±∞, and in the tails the slope's own digits: 1 + erf or 1 + tanh would be 0.",
            lambda rng: {"x": np.array(numbers)},
            ways if dtype == "float64" else {},
            differs if dtype == "float64" else (),
            why if dtype == "float64" else "",
            dtype=dtype,
            settings=settings,
            entrywise=True,
        )
        for dtype in ("float64", "float32", "bfloat16")
    )


# ------------------------------------------------------------------------------------------------ entries

EACH: dict[str, Any] = {
    "draw": {"x": normal},
    "sizes": {"...": (4, 5)},
    "batch": Batch({"x": 0}, 0),
    "grows": (("x", 0), ("x", 1)),
}
GATED: dict[str, Any] = {
    "draw": {"gate": normal, "up": normal},
    "sizes": {"*N": (4,), "D": 5},
    "source": "Shazeer 2020, equation 5",
    "batch": Batch({"gate": 0, "up": 0}, 0),
}


def _bench(plain: Callable | None = None, scale: Scale | None = None) -> Bench:
    return Bench(("...",), tuple((size,) for size in SIZES), plain, quick=(1,), scale=scale)


def _gated_bench(plain: Callable, **fixed: Any) -> Bench:
    return Bench(("*N", "D"), tuple(((N,), D) for N, D in SIZES), plain, fixed=fixed, quick=(1,))


GELU = Formula(
    gelu_fwd,
    gelu_bwd,
    reference.gates.gelu,
    definition=definitions.gelu,
    mutants=_activation(_gelu_slope, *GELU_MISTAKES, OTHER_FORM),
    **EACH,
    source="Hendrycks and Gimpel 2016, section 2",
    variants={"erf": ERF, "tanh": {}},
    hard=(
        *_saturated(
            {"½ x (1 + erf)": None, "jax.nn.gelu": jax.nn.gelu},
            ("½ x (1 + erf)", "jax.nn.gelu"),
            "1 + erf cancels below −5; −∞ · 0",
            approximate=False,
        ),
        *_saturated(
            {"½ x (1 + tanh)": None, "jax.nn.gelu": jax.nn.gelu},
            ("½ x (1 + tanh)", "jax.nn.gelu"),
            "1 + tanh cancels below −5; ∞ · 0",
        ),
    ),
    functions=(Function(gelu_prime, ("x",), diagonal_of),),
    op=Op(ops.gelu),
    bench=_bench(jax.nn.gelu, Scale("elementwise", "...", tuple(4**k for k in range(6, 12)))),
    shown=Shown(
        "Activations",
        "GELU",
        r"y = x \Phi(x), \; \Phi(x) = \tfrac{1}{2} (1 + \operatorname{erf}(x / \sqrt{2}))",
        (r"dx = dy \, (\Phi(x) + x \, \varphi(x))", r"\varphi(x) = \frac{1}{\sqrt{2 \pi}} e^{-x^2 / 2}"),
        ("E-05",),
    ),
)
SILU = Formula(
    silu_fwd,
    silu_bwd,
    reference.gates.silu,
    definition=definitions.silu,
    mutants=_activation(_silu_slope, *SILU_MISTAKES),
    **EACH,
    source="Elfwing, Uchibe and Doya 2017, equations 5 and 6",
    hard=_saturated(
        {"x / (1 + exp(−x))": None, "jax.nn.silu": jax.nn.silu},
        ("x / (1 + exp(−x))", "jax.nn.silu"),
        "exp(−x) overflows; −∞ · 0",
    ),
    functions=(Function(silu_prime, ("x",), diagonal_of),),
    op=Op(ops.silu),
    bench=_bench(jax.nn.silu),
    shown=Shown(
        "Activations",
        "SiLU",
        r"y = x \sigma(x)",
        (r"dx = dy \, \sigma(x) (1 + x (1 - \sigma(x)))",),
        ("E-06",),
    ),
)
SWIGLU = Formula(
    swiglu_fwd,
    swiglu_bwd,
    reference.gates.swiglu,
    definition=definitions.swiglu,
    mutants=_gated(jax.nn.silu, _silu_slope, *SILU_MISTAKES),
    **GATED,
    op=Op(ops.swiglu),
    bench=_gated_bench(lambda gate, up: jax.nn.silu(gate) * up),
    shown=Shown(
        "Activations",
        "SwiGLU",
        r"y = \operatorname{silu}(g) \, u",
        (r"dg = dy \, u \operatorname{silu}'(g)", r"du = dy \operatorname{silu}(g)"),
        ("E-07",),
    ),
)
GEGLU = Formula(
    geglu_fwd,
    geglu_bwd,
    reference.gates.geglu,
    definition=definitions.geglu,
    mutants=_gated(reference.gates.gelu, _gelu_slope, *TANH_MISTAKES, OTHER_FORM),
    **GATED,
    variants={"tanh": TANH, "erf": ERF},
    op=Op(ops.geglu),
    bench=_gated_bench(lambda gate, up: jax.nn.gelu(gate) * up),
    shown=Shown(
        "Activations",
        "GEGLU",
        r"y = \operatorname{gelu}(g) \, u",
        (r"dg = dy \, u \operatorname{gelu}'(g)", r"du = dy \operatorname{gelu}(g)"),
        ("E-08",),
    ),
)
ENTRIES = (GELU, SILU, SWIGLU, GEGLU)
