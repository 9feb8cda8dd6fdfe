"""Normalisation: over a sample's features, over groups of them, over a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue import hard_chapter_e
from manual_grad.catalogue.entry import Batch, Bench, Formula, Function, Op, Scale, Shown, normal, positive
from manual_grad.catalogue.families import (
    FACTOR,
    GROUPS,
    MEAN_FOR_SUM,
    STATISTICS,
    SUM_MISSING,
    TERM,
    Family,
    family,
)
from manual_grad.formulas.normalisation import (
    batch_norm_bwd,
    batch_norm_fwd,
    group_norm_bwd,
    group_norm_fwd,
    jac_layer_norm_x,
    jac_layer_norm_x_blocks,
    jac_rms_norm_x,
    jac_rms_norm_x_blocks,
    layer_norm_bwd,
    layer_norm_fwd,
    rms_norm_bwd,
    rms_norm_fwd,
)
from manual_grad_reference import definitions

AXES, SIZES = ("*N", "D"), (((64,), 64), ((512,), 512), ((4096,), 1024))
GROWING = Scale("norm", "*N", (4, 16, 64, 256, 1024, 4096), {"D": 1024})
JACOBIANS = Bench(AXES, (((4,), 10), ((16,), 40), ((64,), 100)), quick=(1,), estimated=(2,))


def blocks(J: jax.Array) -> jax.Array:
    """The D×D block of each sample, taken from a Jacobian in which samples are independent."""
    return jnp.stack([J[n, :, n] for n in range(len(J))])


# ------------------------------------------------------------------------------------------------ mutants


def _by_hand(
    dy: Any,
    x: Any,
    gamma: Any,
    beta: Any = None,
    groups: int = 1,
    eps: float = 1e-5,
    *,
    over: Callable,
    centre: Callable = lambda x, mean: x - mean(x),
    scaled: Callable = lambda dy, gamma: dy * gamma,
    shift: Callable = lambda g, mean: mean(g),
    stretch: Callable = lambda g, x_hat, mean: x_hat * mean(g * x_hat),
    after: Callable = lambda dx, gamma: dx,
    shared: Callable = lambda g: g.sum(axis=tuple(range(g.ndim - 1))),
    dgamma: Callable = lambda dy, x_hat: dy * x_hat,
) -> dict[str, Any]:
    """Any of the norms; they differ in the mean, which ``over`` makes from x and the number of groups."""
    mean = over(x, groups)
    centred = centre(x, mean)
    per_sigma = 1 / jnp.sqrt(mean(centred**2) + eps)
    x_hat, g = centred * per_sigma, scaled(dy, gamma)
    dx = after((g - shift(g, mean) - stretch(g, x_hat, mean)) * per_sigma, gamma)
    return {"x": dx, "gamma": shared(dgamma(dy, x_hat)), "beta": shared(dy)}


def _features(x: Any, groups: int) -> Callable:
    return lambda a: a.mean(axis=-1, keepdims=True)


def _values(x: Any, groups: int) -> Callable:
    return lambda a: a.mean(axis=tuple(range(a.ndim - 1)), keepdims=True)


def _group(x: Any, groups: int) -> Callable:
    def mean(a: Any) -> Any:
        parts = jnp.split(a, groups, axis=-1)
        means = [jnp.broadcast_to(p.mean(tuple(range(1, p.ndim)), keepdims=True), p.shape) for p in parts]
        return jnp.concatenate(means, axis=-1)

    return mean


def _sample(x: Any, groups: int) -> Callable:
    return lambda a: a.mean(axis=tuple(range(1, a.ndim)), keepdims=True)


def _places(x: Any, groups: int) -> Callable:
    return lambda a: a.mean(axis=tuple(range(1, a.ndim - 1)), keepdims=True)


def _by_turns(g: Any) -> Any:
    """Sums over groups of channels, where channel c belongs to group c mod 2."""
    summed = g.sum(axis=tuple(range(g.ndim - 1)))
    return summed[jnp.arange(summed.size) % 2]


def _first_rows(dx: Any, gamma: Any) -> Any:
    return dx.reshape(-1, dx.shape[-1]).at[dx.shape[0] :].set(0).reshape(dx.shape)


def _mean_of_all_rows(g: Any) -> Any:
    return g.mean(axis=tuple(range(g.ndim - 1)))


ANY_NORM: tuple = (
    (TERM, "x̂ mean(dx̂ x̂) is not subtracted", {"stretch": lambda g, x_hat, mean: 0 * g}),
    (FACTOR, "γ is missing in dx̂", {"scaled": lambda dy, gamma: dy}),
    (FACTOR, "mean(dx̂ x̂) without x̂", {"stretch": lambda g, x_hat, mean: mean(g * x_hat)}),
    (SUM_MISSING, "dγ = dy x̂, one per sample", {"shared": lambda g: g}),
    (MEAN_FOR_SUM, "dγ = the mean over the samples", {"shared": _mean_of_all_rows}),
    (TERM, "dγ = Σ dy", {"dgamma": lambda dy, x_hat: dy}),
)
CENTRED: tuple = (
    *ANY_NORM,
    (TERM, "mean(dx̂) is not subtracted", {"shift": lambda g, mean: 0 * g}),
    (
        TERM,
        "the statistics treated as constants",
        {"shift": lambda g, mean: 0 * g, "stretch": lambda g, x_hat, mean: 0 * g},
    ),
)
ROWS = (STATISTICS, "as many rows as shape[0]", {"after": _first_rows})
COLUMNS = (STATISTICS, "the reduction of a row along the columns", {"over": _values})
OUTSIDE = (
    FACTOR,
    "γ outside the means, as where it is one number",
    {"scaled": lambda dy, gamma: dy, "after": lambda dx, gamma: dx * gamma},
)


def _mutants(over: Callable, *mistakes: tuple, **right: Any) -> tuple[Family]:
    def by_hand(dy: Any, **inputs: Any) -> Any:
        return _by_hand(dy, **{"over": over, **right, **inputs})

    reaches = dict.fromkeys(("scaled", "shift", "stretch", "after", "over"), "x")
    return (family("gradient", by_hand, *mistakes, reaches=reaches | {"shared": "gamma", "dgamma": "gamma"}),)


LAYER_NORM_MUTANTS = _mutants(
    _features,
    *CENTRED,
    (
        FACTOR,
        "1/(D − 1) for 1/D in mean(dx̂)",
        {"shift": lambda g, mean: g.sum(-1, keepdims=True) / (g.shape[-1] - 1)},
    ),
    COLUMNS,
    OUTSIDE,
)
RMS_NORM_MUTANTS = _mutants(
    _features,
    *ANY_NORM,
    COLUMNS,
    ROWS,
    OUTSIDE,
    (TERM, "the mean subtracted, as in layer normalisation", {"shift": lambda g, mean: mean(g)}),
    centre=lambda x, mean: x,
    shift=lambda g, mean: 0,
    eps=1e-6,
)
GROUP_NORM_MUTANTS = _mutants(
    _group,
    *CENTRED,
    ROWS,
    OUTSIDE,
    (STATISTICS, "statistics over all channels", {"over": _sample}),
    (STATISTICS, "statistics of each position on its own, as in layer normalisation", {"over": _features}),
    (GROUPS, "dγ by c mod G", {"shared": _by_turns}),
)
BATCH_NORM_MUTANTS = _mutants(
    _values,
    *CENTRED,
    ROWS,
    (STATISTICS, "statistics of each sample, as in layer normalisation", {"over": _features}),
    (STATISTICS, "statistics of each sample's channel", {"over": _places}),
)

# ------------------------------------------------------------------------------------------------ entries

PROJECTED = r"dx = \frac{1}{%s} \left( d\hat{x} - %s\hat{x} \, \overline{d\hat{x} \, \hat{x}} \right), \; "
PARAMETERS = r"d\gamma = \sum dy \, \hat{x}, \; d\beta = \sum dy"
Y = r"y = \gamma \hat{x} + \beta, \; \hat{x} = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}}"
CENTRED_DX = (
    PROJECTED % (r"\sqrt{\sigma^2 + \varepsilon}", r"\overline{d\hat{x}} - ") + r"d\hat{x} = \gamma \, dy"
)
DRAW = {"x": normal, "gamma": positive, "beta": normal}

LAYER_NORM = Formula(
    layer_norm_fwd,
    layer_norm_bwd,
    reference.normalisation.layer_norm,
    definition=definitions.layer_norm,
    mutants=LAYER_NORM_MUTANTS,
    draw=DRAW,
    sizes={"*N": (7,), "D": 6},
    tiny={"*N": (2,), "D": 3},
    source="Ba, Kiros and Hinton 2016, equation 3",
    variants={"": {}, "eps": {"eps": 0.5}},
    batch=Batch({"x": 0}, 0),
    sends={"D": {"all-reduce": "4 N"}},
    grows=(("x", 0),),
    functions=(
        Function(jac_layer_norm_x, ("x",), bench=JACOBIANS),
        Function(jac_layer_norm_x_blocks, ("x",), blocks, bench=JACOBIANS),
    ),
    op=Op(ops.layer_norm),
    bench=Bench(AXES, SIZES, quick=(0, 1), scale=GROWING),
    shown=Shown("Layers", "Layer normalisation", Y, (CENTRED_DX, PARAMETERS), ("E-01",)),
)
JACOBIAN_VARIANTS: dict[str, dict[str, Any]] = {"": {"*N": (5,)}, "eps": {"*N": (5,), "eps": 0.5}}
RMS_NORM = Formula(
    rms_norm_fwd,
    rms_norm_bwd,
    reference.normalisation.rms_norm,
    definition=definitions.rms_norm,
    mutants=RMS_NORM_MUTANTS,
    hard=hard_chapter_e.RMS_NORM,
    draw={"x": normal, "gamma": positive},
    sizes={"*N": (4, 3), "D": 6},
    tiny={"*N": (1, 2), "D": 3},
    source="Zhang and Sennrich 2019, equation 4",
    variants={"": {}, "eps": {"eps": 0.5}, "blocks": {"*N": (2, 64), "D": 3}},
    batch=Batch({"x": 0}, 0),
    sends={"D": {"all-reduce": "2 N"}},
    grows=(("x", 0), ("x", 1)),
    functions=(
        Function(jac_rms_norm_x, ("x",), variants=JACOBIAN_VARIANTS, bench=JACOBIANS),
        Function(jac_rms_norm_x_blocks, ("x",), blocks, variants=JACOBIAN_VARIANTS, bench=JACOBIANS),
    ),
    op=Op(ops.rms_norm),
    bench=Bench(AXES, SIZES, quick=(1,)),
    shown=Shown(
        "Layers",
        "RMS normalisation",
        r"y = \gamma \hat{x}, \; \hat{x} = \frac{x}{\sqrt{\overline{x^2} + \varepsilon}}",
        (
            PROJECTED % (r"\sqrt{\overline{x^2} + \varepsilon}", "") + r"d\hat{x} = \gamma \, dy",
            r"d\gamma = \sum dy \, \hat{x}",
        ),
        ("E-02",),
    ),
)
IMAGES = ("N", "*shape", "C"), ((8, (8,), 64), (16, (32,), 512), (32, (128,), 1024))
GROUP_NORM = Formula(
    group_norm_fwd,
    group_norm_bwd,
    reference.normalisation.group_norm,
    definition=definitions.group_norm,
    mutants=GROUP_NORM_MUTANTS,
    hard=hard_chapter_e.GROUP_NORM,
    draw=DRAW,
    sizes={"N": 5, "*shape": (3,), "C": 8},
    tiny={"N": 2, "*shape": (2,), "C": 4},
    source="Wu and He 2018, equations 1, 6 and 7",
    variants={"": {"groups": 2}, "eps": {"groups": 4, "eps": 0.5}},
    batch=Batch({"x": 0}, 0),
    sends={"C": {}},
    grows=(("x", 0), ("x", 1)),
    op=Op(ops.group_norm),
    bench=Bench(*IMAGES, fixed={"groups": 32}, quick=(1,)),
    shown=Shown("Layers", "Group normalisation", Y, (CENTRED_DX, PARAMETERS), ("E-03",)),
)
BATCH_NORM = Formula(
    batch_norm_fwd,
    batch_norm_bwd,
    reference.normalisation.batch_norm,
    definition=definitions.batch_norm,
    mutants=BATCH_NORM_MUTANTS,
    hard=hard_chapter_e.BATCH_NORM,
    draw=DRAW,
    sizes={"N": 7, "*shape": (3,), "C": 4},
    tiny={"N": 2, "*shape": (2,), "C": 2},
    source="Ioffe and Szegedy 2015, algorithm 1",
    variants={"": {}, "eps": {"eps": 0.5}},
    batch=Batch({"x": -1, "gamma": 0, "beta": 0}, -1),
    sends={"N": {"all-reduce": "4 C"}, "C": {}},
    grows=(("x", 0), ("x", 1)),
    op=Op(ops.batch_norm),
    bench=Bench(*IMAGES, quick=(1,)),
    shown=Shown(
        "Layers",
        "Batch normalisation",
        Y,
        (
            r"dx = \frac{\gamma}{\sqrt{\sigma^2 + \varepsilon}} \left( dy - \frac{d\beta}{n} - \hat{x} "
            r"\frac{d\gamma}{n} \right)",
            PARAMETERS,
        ),
        ("E-04",),
    ),
)
ENTRIES = (LAYER_NORM, RMS_NORM, GROUP_NORM, BATCH_NORM)
