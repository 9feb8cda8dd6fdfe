"""What only holds as users compile it, with XLA's defaults: a process without the tests' flags."""

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.gpt import GPT
from manual_grad.catalogue.normalisation import LAYER_NORM, RMS_NORM
from manual_grad.catalogue.sequences import LORA
from manual_grad.formulas.linear_algebra import _all_finite
from manual_grad_reference import plain

GPT_SIZES = {"N": 4, "L": 128, "Lmax": 128, "V": 32, "D": 64, "blocks": 2, "heads": 2}


def share(by_hand, autodiff, *args):
    """The temporaries of one compiled function divided by those of another."""
    ours, theirs = (
        jax.jit(fn).lower(*args).compile().memory_analysis().temp_size_in_bytes for fn in (by_hand, autodiff)
    )
    return ours / theirs


def share_of(norm):
    rng = np.random.default_rng(3)
    dy, x = (jnp.asarray(rng.normal(size=(4096, 1024)), jnp.float32) for _ in range(2))
    of_features = [jnp.ones(1024) for _ in norm.primals[1:]]

    def by_hand(dy, *primals):
        out, res = norm.fwd(*primals)
        return out, norm.bwd(res, dy)

    def autodiff(dy, *primals):
        out, pull = jax.vjp(norm.reference, *primals)
        return out, pull(dy)

    return share(by_hand, autodiff, dy, x, *of_features)


def share_of_gpt():
    drawn = GPT.inputs(Draw(np.random.default_rng(3), jnp.dtype("float32")), "", **GPT_SIZES)
    params, tokens, targets = (drawn[name] for name in GPT.primals)

    def by_hand(params):
        J, res = GPT.fwd(params, tokens, targets, heads=2)
        return J, GPT.bwd(res, 1.0)

    autodiff = jax.value_and_grad(lambda params: plain.gpt(params, tokens, targets, heads=2))
    return share(by_hand, autodiff, params)


def products_of_lora():
    """How many matrix products are compiled: x A once, although both passes need it."""
    shapes = (64, 48), (64, 32), (32, 48), (32, 4), (4, 48)
    args = [jnp.ones(shape) for shape in shapes]

    def by_hand(dout, *primals):
        out, res = LORA.fwd(*primals)
        return out, LORA.bwd(res, dout)

    return jax.jit(by_hand).lower(*args).compile().as_text().count(" dot(")


def sees(bad):
    A = np.random.default_rng(3).normal(size=(64, 64)).astype(np.float32)
    A[5, 40] = bad
    return bool(jax.jit(_all_finite)(A)) == bool(np.isfinite(bad))


if __name__ == "__main__":
    found = {norm.name: (share_of(norm), 0.2) for norm in (LAYER_NORM, RMS_NORM)}
    found |= {"gpt": (share_of_gpt(), 0.75), "lora": (products_of_lora(), 9)}
    wrong = {name: got for name, (got, limit) in found.items() if not 0 < got <= limit}
    print(wrong | {f"finite {bad}": False for bad in (1.0, np.nan, np.inf, -np.inf) if not sees(bad)})
