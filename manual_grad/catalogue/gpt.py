"""A GPT as a whole."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import manual_grad_reference as reference
from manual_grad.catalogue import hard_chapter_e
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.entry import Batch, Bench, Formula, Inputs, Shown
from manual_grad.catalogue.families import FACTOR, MEAN_FOR_SUM, SLOPE, SWAPPED, TERM, family
from manual_grad.networks.gpt import gpt_bwd, gpt_fwd
from manual_grad_reference import definitions


def _model(draw: Draw, N: int, L: int, Lmax: int, V: int, D: int, blocks: int = 1, heads: int = 1) -> Inputs:
    """Weights that keep the signal's size, and the texts."""
    if draw.style == "tiny":
        N, L, Lmax, V, D, blocks = 1, 2, 2, 3, 2 * heads + (heads == 1), 1

    def norm() -> Inputs:
        return {"gamma": 1 + draw.exactly(D, scale=0.3), "beta": draw.exactly(D, scale=0.3)}

    def dense(n: int, m: int) -> Inputs:
        return {"W": draw.exactly(n, m, scale=n**-0.5), "b": draw.exactly(m, scale=0.3)}

    def block() -> Inputs:
        made = {"ln1": norm(), "qkv": dense(D, 3 * D), "proj": dense(D, D), "ln2": norm()}
        return made | {"up": dense(D, 4 * D), "down": dense(4 * D, D)}

    params = {
        "wte": draw.exactly(V, D),
        "wpe": draw.exactly(Lmax, D, scale=0.3),
        "blocks": [block() for _ in range(blocks)],
        "lnf": norm(),
    }
    texts = (jax.device_put(draw.rng.integers(0, V, (N, L))) for _ in range(2))
    return {"params": params, **dict(zip(("tokens", "targets"), texts, strict=True)), "heads": heads}


def _in_heads(z: Any, heads: int) -> Any:
    return z.reshape(*z.shape[:2], heads, -1)


def _same(x: Any) -> Any:
    return x


def _gpt(
    dJ: Any,
    params: Any,
    tokens: Any,
    targets: Any,
    heads: int = 1,
    *,
    past_attention: Callable = _same,
    past_mlp: Callable = _same,
    looked_up: Callable = _same,
    output: Callable = _same,
    split: Callable = _in_heads,
    causal: bool = True,
    approximate: bool = True,
    order: tuple[int, int] = (0, 1),
    of_positions: Callable = lambda d, N: d,
) -> dict[str, Any]:
    """JAX's gradient of a forward pass in which the forgotten paths are constants."""

    def linear(x: Any, layer: Any) -> Any:
        return x @ layer["W"] + layer["b"]

    def norm(x: Any, layer: Any) -> Any:
        return reference.normalisation.layer_norm(x, layer["gamma"], layer["beta"])

    def loss(params: Any) -> Any:
        x = looked_up(params["wte"])[tokens] + params["wpe"][: tokens.shape[1]]
        for p in params["blocks"]:
            z = jnp.split(linear(norm(x, p["ln1"]), p["qkv"]), 3, axis=-1)
            q, k, v = (split(part, heads) for part in (z[order[0]], z[order[1]], z[2]))
            mixed = reference.attention.attention(q, k, v, causal=causal).reshape(x.shape)
            x = past_attention(x) + linear(mixed, p["proj"])
            x = past_mlp(x) + linear(jax.nn.gelu(linear(norm(x, p["ln2"]), p["up"]), approximate), p["down"])
        logits = norm(x, params["lnf"]) @ output(params["wte"]).T
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1).mean()

    grads = jax.grad(loss)(params)
    return {
        "params": jax.tree.map(lambda g: dJ * g, grads | {"wpe": of_positions(grads["wpe"], len(tokens))})
    }


MUTANTS = family(
    "gradient",
    _gpt,
    (TERM, "dx past the attention is not passed on", {"past_attention": lax.stop_gradient}),
    (TERM, "dx past the MLP is not passed on", {"past_mlp": lax.stop_gradient}),
    (TERM, "dwte of the output alone", {"looked_up": lax.stop_gradient}),
    (TERM, "dwte of the tokens alone", {"output": lax.stop_gradient}),
    (MEAN_FOR_SUM, "dwpe = the mean over the samples", {"of_positions": lambda d, N: d / N}),
    (TERM, "the causal mask is forgotten", {"causal": False}),
    (SLOPE, "the slope of GELU by erf", {"approximate": False}),
    (SWAPPED, "queries and keys swapped", {"order": (1, 0)}),
    (
        FACTOR,
        "the last axis split as (D/H, H)",
        {"split": lambda z, heads: z.reshape(*z.shape[:2], -1, heads).swapaxes(2, 3)},
    ),
)
GPT = Formula(
    gpt_fwd,
    gpt_bwd,
    reference.gpt.gpt,
    definition=definitions.gpt,
    mutants=(MUTANTS,),
    hard=hard_chapter_e.GPT,
    draw=_model,
    sizes={"N": 3, "L": 5, "Lmax": 6, "V": 11, "D": 4},
    source="Radford et al. 2019, section 2.3",
    variants={"heads": {"heads": 2}, "": {"blocks": 2}},
    batch=Batch({"tokens": 0, "targets": 0}, mean=True),
    grows=(("params['wte']", 0), ("params['wpe']", 0)),
    bench=Bench(
        ("N", "L Lmax", "D", "blocks"),
        ((2, 32, 32, 2), (8, 128, 128, 4)),
        reference.plain.gpt,
        fixed={"V": 256, "heads": 4},
        quick=(0,),
    ),
    shown=Shown(
        "Whole networks",
        "GPT",
        r"x \leftarrow x + \operatorname{attention}(\operatorname{LN}(x)), \; "
        r"x \leftarrow x + \operatorname{MLP}(\operatorname{LN}(x)), \; "
        r"l = \operatorname{LN}(x) \, wte^{\top}",
        (
            r"dx \leftarrow dx + dx_{\text{branch}}",
            r"dwte = dl^{\top} \operatorname{LN}(x) + \sum_{tokens} dx, \; dwpe_l = \sum_n dx_{nl}",
        ),
        ("E-32",),
    ),
)
ENTRIES = (GPT,)
