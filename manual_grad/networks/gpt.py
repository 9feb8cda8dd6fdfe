"""A GPT by hand: embeddings, pre-norm blocks of causal attention and MLP, a tied output. Chapter E.

    x ← wte[tokens] + wpe        x ← x + proj(attention(qkv(LN(x))))        x ← x + down(GELU(up(LN(x))))

    J = mean of −ln softmax(LN(x) wteᵀ)[targets]

Each backward line is the counterpart of a forward line. What is particular to a GPT is where cotangents are
added: at each residual connection, at wpe, which all samples share, and at wte, which is both first and last
layer.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from manual_grad.border import (
    Scalar,
    checked,
    describe,
    is_float_array,
    require,
    require_labels_in_range,
)
from manual_grad.formulas.dense import dense_rows_bwd, dense_rows_fwd
from manual_grad.formulas.gates import gelu_bwd, gelu_fwd
from manual_grad.formulas.normalisation import layer_norm_bwd, layer_norm_fwd
from manual_grad.formulas.sequences import embedding_bwd, embedding_fwd
from manual_grad.kernels.attention import attention_streaming_bwd, attention_streaming_fwd
from manual_grad.kernels.linear_cross_entropy import linear_cross_entropy_bwd, linear_cross_entropy_fwd

Params = dict[str, Any]
Stream = Float[Array, "N L D"]
LARGE = 2**17  # numbers, for which computing exponentials again takes less time than keeping them


def _shapes(params: Params) -> Params:
    """The shape of each parameter, given the vocabulary, the width and the number of blocks."""
    (V, D), (Lmax, _) = params["wte"].shape, params["wpe"].shape
    norm = {"gamma": (D,), "beta": (D,)}
    dense = {"qkv": (D, 3 * D), "proj": (D, D), "up": (D, 4 * D), "down": (4 * D, D)}
    block = {"ln1": norm, "ln2": norm} | {name: {"W": s, "b": s[1:]} for name, s in dense.items()}
    return {"wte": (V, D), "wpe": (Lmax, D), "blocks": [block] * len(params["blocks"]), "lnf": norm}


def _leaves(tree: Any, is_leaf: Any = None) -> dict[str, Any]:
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {f"params{jax.tree_util.keystr(path)}": leaf for path, leaf in found}


def _check_params(params: Params, tokens: Array, heads: int) -> None:
    """Check that every parameter is present with its shape, and that there are no others."""
    keys = {"wte", "wpe", "blocks", "lnf"}
    require(set(params) == keys, f"gpt_fwd: params has the keys {sorted(params)}, expected {sorted(keys)}")
    for name in ("wte", "wpe"):
        found = describe(params[name])
        require(is_float_array(params[name], 2), f"gpt_fwd: params[{name!r}] is {found}, expected float[_,_]")
    blocks = params["blocks"]
    require(
        isinstance(blocks, list | tuple) and len(blocks) > 0,
        f"gpt_fwd: params['blocks'] is {describe(blocks)}, expected a list of at least one block",
    )
    wanted, given = _leaves(_shapes(params), is_leaf=lambda s: isinstance(s, tuple)), _leaves(params)
    for name in sorted(wanted.keys() ^ given.keys()):
        there = f"{describe(given[name])}, expected nothing there" if name in given else "missing"
        require(False, f"gpt_fwd: {name} is {there}")
    for name, shape in wanted.items():
        fits = is_float_array(given[name], len(shape)) and given[name].shape == shape
        axes = ",".join(map(str, shape))
        require(fits, f"gpt_fwd: {name} is {describe(given[name])}, expected float[{axes}]")
    (Lmax, D), L = params["wpe"].shape, tokens.shape[1]
    require(Lmax >= L, f"gpt_fwd: tokens is {describe(tokens)}, expected at most {Lmax} positions, as in wpe")
    require(
        isinstance(heads, int) and heads >= 1 and D % heads == 0,
        f"gpt_fwd: heads is {heads!r}, expected a divisor of the width {D}",
    )


# ------------------------------------------------------------------------------------------ its parts


def _dense(x: Stream, layer: Params) -> tuple[Stream, Any]:
    Z, res = dense_rows_fwd(x.reshape(-1, x.shape[-1]), layer["W"], layer["b"])
    return Z.reshape(*x.shape[:-1], -1), res


def _dense_back(res: Any, dZ: Stream) -> tuple[Stream, Params]:
    dx, dW, db = dense_rows_bwd(res, dZ.reshape(-1, dZ.shape[-1]))
    return dx.reshape(*dZ.shape[:-1], -1), {"W": dW, "b": db}


def _norm(x: Stream, layer: Params) -> tuple[Stream, Any]:
    return layer_norm_fwd(x, layer["gamma"], layer["beta"])


def _norm_back(res: Any, dy: Stream) -> tuple[Stream, Params]:
    dx, dgamma, dbeta = layer_norm_bwd(res, dy)
    return dx, {"gamma": dgamma, "beta": dbeta}


def _computed_again(res: Any, dg: Stream) -> tuple[Any, Stream]:
    """The arguments of ``gelu_bwd``; if they are large, XLA keeps no exponentials of the forward pass."""
    return lax.optimization_barrier((res, dg)) if dg.size >= LARGE else (res, dg)


def _block(x: Stream, p: Params, heads: int) -> tuple[Stream, tuple[Any, ...]]:
    """One block, and the residuals of its lines."""
    N, L, D = x.shape
    a, ln1 = _norm(x, p["ln1"])
    z, qkv = _dense(a, p["qkv"])
    q, k, v = (part.reshape(N, L, heads, -1) for part in jnp.split(z, 3, axis=-1))
    o, attention = attention_streaming_fwd(q, k, v, causal=True)
    r, proj = _dense(o.reshape(N, L, D), p["proj"])
    x = x + r
    a, ln2 = _norm(x, p["ln2"])
    u, up = _dense(a, p["up"])
    g, gelu = gelu_fwd(u)
    r, down = _dense(g, p["down"])
    return x + r, (ln1, qkv, attention, proj, ln2, up, gelu, down)


def _block_back(res: tuple[Any, ...], dx: Stream) -> tuple[Stream, Params]:
    """The same lines in reverse; each residual connection passes dx on and adds that of its branch."""
    ln1, qkv, attention, proj, ln2, up, gelu, down = res
    dg, d_down = _dense_back(down, dx)
    (du,) = gelu_bwd(*_computed_again(gelu, dg))
    da, d_up = _dense_back(up, du)
    dr, d_ln2 = _norm_back(ln2, da)
    dx = dx + dr
    do, d_proj = _dense_back(proj, dx)
    dqkv = attention_streaming_bwd(attention, do.reshape(attention.q.shape))
    da, d_qkv = _dense_back(qkv, jnp.concatenate([d.reshape(dx.shape) for d in dqkv], axis=-1))
    dr, d_ln1 = _norm_back(ln1, da)
    dense = {"qkv": d_qkv, "proj": d_proj, "up": d_up, "down": d_down}
    return dx + dr, {"ln1": d_ln1, "ln2": d_ln2, **dense}


# ------------------------------------------------------------------------------------------ the whole


@checked
def gpt_fwd(
    params: dict[str, Any], tokens: Integer[Array, "N L"], targets: Integer[Array, "N L"], *, heads: int = 1
) -> tuple[Float[Array, ""], tuple[Any, ...]]:
    """J of a GPT, the mean over all tokens of −ln of the probability of its target. [E-32]

    Args:
        params: ``wte`` (V, D), ``wpe`` (Lmax, D), ``blocks``, a list, and ``lnf``. A block has ``ln1`` and
            ``ln2`` (like ``lnf``: ``gamma`` and ``beta``, (D,)) and ``qkv``, ``proj``, ``up``, ``down``, each
            with ``W``, (D, 3D), (D, D), (D, 4D) and (4D, D), and ``b``.
        tokens, targets: (N, L), integers from 0 to V − 1, L at most Lmax.
        heads: the number of attention heads, a divisor of D.
    Returns:
        ``(J, res)``: J scalar; NaN under ``jit`` where a token or target is out of range.
    Raises:
        InputError: a parameter is missing, unknown or of the wrong shape, ``heads`` does not divide D, the
            sequence is longer than Lmax, a token or target is out of range (eagerly).
    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019, section 2.3.

    >>> norm = {"gamma": jnp.ones(2), "beta": jnp.zeros(2)}
    >>> sizes = (("qkv", 6), ("proj", 2), ("up", 8))
    >>> dense = {n: {"W": jnp.zeros((2, m)), "b": jnp.zeros(m)} for n, m in sizes}
    >>> block = {"ln1": norm, "ln2": norm, **dense, "down": {"W": jnp.zeros((8, 2)), "b": jnp.zeros(2)}}
    >>> params = {"wte": jnp.zeros((4, 2)), "wpe": jnp.zeros((3, 2)), "blocks": [block], "lnf": norm}
    >>> J, _ = gpt_fwd(params, jnp.array([[0, 1, 2]]), jnp.array([[1, 2, 3]]))
    >>> bool(jnp.allclose(J, jnp.log(4.0)))
    True
    """
    _check_params(params, tokens, heads)
    wte, L = params["wte"], tokens.shape[1]
    require_labels_in_range("gpt_fwd", tokens, len(wte), "tokens")
    require_labels_in_range("gpt_fwd", targets, len(wte), "targets")
    x, embedding = embedding_fwd(tokens, wte)  # [E-32]
    x = x + params["wpe"][:L]  # [E-32]
    blocks = []
    for block in params["blocks"]:
        x, res = _block(x, block, heads)  # [E-32]
        blocks.append(res)
    x, lnf = _norm(x, params["lnf"])  # [E-32]
    rows = x.reshape(-1, x.shape[-1])
    J, loss = linear_cross_entropy_fwd(rows, wte.T, targets.reshape(-1))  # [E-32]
    return J, (embedding, params["wpe"], tuple(blocks), lnf, loss)


@checked
def gpt_bwd(res: tuple[Any, ...], dJ: Scalar) -> tuple[dict[str, Any]]:
    """Pull ``dJ`` back through the GPT, the last line first. [E-32]

        dwte = its gradient as output layer + its gradient as table        dwpe_l = Σ_n dx_nl

    Args:
        res: from the forward pass.
        dJ: cotangent of the loss.
    Returns:
        ``(dparams,)``, structured like ``params``; tokens and targets have no cotangent.
    Raises:
        InputError: ``res`` is not what the forward pass returned, or ``dJ`` is not a scalar.
    Source: as the forward pass; the derivation is in the book's chapter E.

    >>> norm = {"gamma": jnp.ones(2), "beta": jnp.zeros(2)}
    >>> sizes = (("qkv", 6), ("proj", 2), ("up", 8))
    >>> dense = {n: {"W": jnp.ones((2, m)), "b": jnp.zeros(m)} for n, m in sizes}
    >>> block = {"ln1": norm, "ln2": norm, **dense, "down": {"W": jnp.ones((8, 2)), "b": jnp.zeros(2)}}
    >>> params = {"wte": jnp.eye(2), "wpe": jnp.zeros((3, 2)), "blocks": [block], "lnf": norm}
    >>> (dparams,) = gpt_bwd(gpt_fwd(params, jnp.array([[0]]), jnp.array([[1]]))[1], 1.0)
    >>> dparams["blocks"][0]["qkv"]["W"].shape, dparams["wpe"][1:].tolist()
    ((2, 6), [[0.0, 0.0], [0.0, 0.0]])
    """
    require(len(res) == 5, f"gpt_bwd: res is {describe(res)}, expected what gpt_fwd returned")
    embedding, wpe, blocks, lnf, loss = res
    (N, L), D = embedding[0].shape, wpe.shape[1]
    drows, dwteT = linear_cross_entropy_bwd(loss, dJ)  # [E-32]
    dx, dlnf = _norm_back(lnf, drows.reshape(N, L, D))  # [E-32]
    dblocks: list[Params] = []
    for block in reversed(blocks):
        dx, dblock = _block_back(block, dx)  # [E-32]
        dblocks.insert(0, dblock)
    (dwte,) = embedding_bwd(embedding, dx)  # [E-32]
    dwpe = jnp.zeros_like(wpe).at[:L].set(dx.sum(axis=0))  # [E-32]
    return ({"wte": dwte + dwteT.T, "wpe": dwpe, "blocks": dblocks, "lnf": dlnf},)
