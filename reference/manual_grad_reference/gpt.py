"""GPT-2 as in its source."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from manual_grad_reference.attention import attention
from manual_grad_reference.gates import gelu
from manual_grad_reference.normalisation import layer_norm
from manual_grad_reference.sequences import embedding
from manual_grad_reference.softmax import softmax_cross_entropy_with_integer_labels


def gpt(
    params: dict[str, Any], tokens: Int[Array, "N L"], targets: Int[Array, "N L"], heads: int = 1
) -> Float[Array, ""]:
    """[E-32] The mean over all tokens of −log P(target), with P = softmax of the scores."""
    scores = gpt_scores(params, tokens, heads)
    return softmax_cross_entropy_with_integer_labels(scores.reshape(tokens.size, -1), targets.reshape(-1))


def gpt_scores(params: dict[str, Any], tokens: Int[Array, "N L"], heads: int = 1) -> Float[Array, "N L V"]:
    """[E-32] h₀ = U Wₑ + W_p, h_l = block(h_{l−1}) with the norms before; the scores are LN(h_n) Wₑᵀ."""

    def linear(x: Array, layer: dict[str, Array]) -> Array:
        return jnp.einsum("nli,io->nlo", x, layer["W"]) + layer["b"]

    def norm(x: Array, layer: dict[str, Array]) -> Array:
        return layer_norm(x, layer["gamma"], layer["beta"])

    N, L = tokens.shape
    h = embedding(tokens, params["wte"]) + params["wpe"][:L]
    for block in params["blocks"]:
        qkv = linear(norm(h, block["ln1"]), block["qkv"]).reshape(N, L, 3, heads, -1)
        mixed = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], causal=True)
        h = h + linear(mixed.reshape(h.shape), block["proj"])
        h = h + linear(gelu(linear(norm(h, block["ln2"]), block["up"])), block["down"])
    return norm(h, params["lnf"]) @ params["wte"].T
