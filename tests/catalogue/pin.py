"""Answers that do not depend on any of our code: each pair's value and cotangents by PyTorch in float64.

They are stored in ``pinned.npz``, and ``test_pinned.py`` compares :mod:`manual_grad` with them, however the
reference, the definitions, the draws and the comparisons may change. The inputs were drawn by the catalogue.

No test writes the file. For a new pair or variant it must be written again, with a forward function here that
uses what PyTorch has for it::

    pip install torch==2.13.0
    python -m tests.catalogue.pin

``numbers`` is all of them in a row; ``index`` says, case by case, in JSON, which keywords are not at their
default and the name, shape and dtype of each array: of ``input/W``, ``dout``, ``value`` and ``d/W``, where
``W`` in a pytree is ``params.0.1`` or ``params.K1``; of several outputs ``dout.0``, ``value.0``.
"""

import functools
import inspect
import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.catalogue import FORMULAS
from manual_grad.catalogue.draw import Draw

PINNED = Path(__file__).with_name("pinned.npz")
SMALL = {"N": 2, "H": 6, "W": 8, "C": 2}  # for convolutions of images with channels
GRID = 2**10  # inputs are multiples of 1/GRID, to keep the file small


# ---------------------------------------------------------------- forward, as PyTorch's users write it


def mse(torch, y_hat, y):
    return torch.nn.functional.mse_loss(y_hat, y)


def linear_regression(torch, w, b, x, y):
    return mse(torch, (x @ w if w.ndim else x * w) + b, y)


def relu(torch, x):
    assert (x != 0).all(), "a pre-activation is at the kink"
    return torch.relu(x)


def sigmoid(torch, x):
    return torch.sigmoid(x)


def tanh(torch, x):
    return torch.tanh(x)


def softplus(torch, x):
    return torch.nn.functional.softplus(x)


def identity(torch, x):
    return torch.nn.Identity()(x)


def product_of_sum(torch, x, y, z):
    return (x + y) * z


def softmax(torch, logits):
    return torch.softmax(logits, dim=-1)


def cross_entropy(torch, probs, labels):
    return -torch.xlogy(labels, probs).sum(dim=1).mean()


def softmax_cross_entropy(torch, logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels)


def softmax_cross_entropy_columns(torch, Z, Y):
    return softmax_cross_entropy(torch, Z.T, Y.T)


def softmax_cross_entropy_with_integer_labels(torch, logits, labels, ignore_index=-100):
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=ignore_index)


def cross_entropy_of_scores(torch, s, y):
    return softmax_cross_entropy(torch, s, y)


def dense_rows(torch, X, W, b):
    return torch.nn.functional.linear(X, W.T, b)


def dense_columns(torch, X, W, b):
    return torch.nn.functional.linear(X.T, W, b).T


def layer_norm(torch, x, gamma, beta, eps=1e-5):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta, eps)


def embedding(torch, ids, table):
    return torch.nn.functional.embedding(ids, table)


def rope(torch, x, base=10000.0):
    L, D = x.shape[1], x.shape[3]
    angles = torch.outer(torch.arange(L), base ** (-torch.arange(0, D, 2, dtype=x.dtype) / D))[:, None]
    pairs = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag], dim=-1)


def attention(torch, q, k, v, mask=None, causal=False, window=None, scale=None):
    """By PyTorch's function, which has no window and gives NaN to a query that sees no key."""
    (N, L, H, _), K = q.shape, k.shape[1]
    steps = torch.arange(L)[:, None] + K - L - torch.arange(K)
    seen = torch.ones(N, H, L, K, dtype=torch.bool) if mask is None else mask.expand(N, H, L, K)
    seen = seen & (steps >= 0) if causal else seen
    seen = seen & (steps < window) if window else seen
    blind = ~seen.any(dim=-1, keepdim=True)
    heads = [x.transpose(1, 2) for x in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(
        *heads, attn_mask=seen | blind, scale=scale, enable_gqa=True
    )
    return torch.where(blind, 0.0, out).transpose(1, 2)


def attention_streaming(torch, q, k, v, mask=None, causal=False, window=None, scale=None, chunk=256):
    return attention(torch, q, k, v, mask, causal, window, scale)


def gpt(torch, params, tokens, targets, heads=1):
    """GPT-2's arithmetic, with PyTorch's layers."""
    F = torch.nn.functional
    N, L = tokens.shape
    D = params["wte"].shape[1]

    def linear(x, p):
        return F.linear(x, p["W"].T, p["b"])

    def norm(x, p):
        return F.layer_norm(x, (D,), p["gamma"], p["beta"])

    x = F.embedding(tokens, params["wte"]) + params["wpe"][:L]
    for p in params["blocks"]:
        qkv = linear(norm(x, p["ln1"]), p["qkv"]).chunk(3, dim=-1)
        q, k, v = (part.reshape(N, L, heads, -1).transpose(1, 2) for part in qkv)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + linear(mixed.reshape(x.shape), p["proj"])
        x = x + linear(F.gelu(linear(norm(x, p["ln2"]), p["up"]), approximate="tanh"), p["down"])
    logits = norm(x, params["lnf"]) @ params["wte"].T
    return F.cross_entropy(logits.flatten(end_dim=1), targets.flatten())


def dropout(torch, x, keep, rate=0.5):
    return torch.where(keep, x, torch.zeros_like(x)) / (1 - rate)


def lora(torch, x, W, A, B, scale=1.0):
    return torch.nn.functional.linear(x, (W + scale * A @ B).T)


def rnn(torch, x, W_ih, W_hh, b_ih, b_hh, h0):
    return _recurrent(torch.rnn_tanh, x, h0[None], [W_ih, W_hh, b_ih, b_hh])


def gru(torch, x, W_ih, W_hh, b_ih, b_hh, h0):
    return _recurrent(torch.gru, x, h0[None], [W_ih, W_hh, b_ih, b_hh])


def lstm(torch, x, W_ih, W_hh, b_ih, b_hh, h0, c0):
    return _recurrent(torch.lstm, x, [h0[None], c0[None]], [W_ih, W_hh, b_ih, b_hh])


def linear_scan(torch, a, b, h0):
    hs = [h0]
    for a_t, b_t in zip(a, b, strict=True):
        hs.append(a_t * hs[-1] + b_t)
    return torch.stack(hs[1:])


def _recurrent(layer, x, states, weights):
    """One layer, in one direction, time first: every step's output, and the last states."""
    has_biases, layers, dropout, train, bidirectional, batch_first = True, 1, 0.0, False, False, False
    hs, *last = layer(x, states, weights, has_biases, layers, dropout, train, bidirectional, batch_first)
    return (hs, *(state[0] for state in last))


def rms_norm(torch, x, gamma, eps=1e-6):
    return torch.nn.functional.rms_norm(x, x.shape[-1:], gamma, eps)


def group_norm(torch, x, gamma, beta, groups, eps=1e-5):
    return torch.nn.functional.group_norm(x.movedim(-1, 1), groups, gamma, beta, eps).movedim(1, -1)


def batch_norm(torch, x, gamma, beta, eps=1e-5):
    rows = x.flatten(end_dim=-2)
    out = torch.nn.functional.batch_norm(rows, None, None, gamma, beta, training=True, eps=eps)
    return out.reshape(x.shape)


def gelu(torch, x, approximate=True):
    return torch.nn.functional.gelu(x, approximate="tanh" if approximate else "none")


def silu(torch, x):
    return torch.nn.functional.silu(x)


def swiglu(torch, gate, up):
    return silu(torch, gate) * up


def geglu(torch, gate, up, approximate=True):
    return gelu(torch, gate, approximate) * up


def binary_cross_entropy_with_logits(torch, logits, labels):
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)


def kl_divergence(torch, logits_p, logits_q):
    log_p, log_q = (torch.log_softmax(logits, -1) for logits in (logits_p, logits_q))
    return torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def huber(torch, y_hat, y, delta=1.0):
    return torch.nn.functional.huber_loss(y_hat, y, delta=delta)


def l2_normalize(torch, x):
    return torch.nn.functional.normalize(x, dim=-1)


def cosine_similarity(torch, a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


def correlate2d(torch, x, f):
    return torch.nn.functional.conv2d(x[None, None], f[None, None])[0, 0]


def convolve2d(torch, x, w, mode="full"):
    if mode == "full":
        return torch.nn.functional.conv_transpose2d(x[None, None], w[None, None])[0, 0]
    return correlate2d(torch, x, w.flip(0, 1))


def conv2d(torch, x, kernel, bias, strides=1, padding=((0, 0), (0, 0)), dilation=1, groups=1):
    x, kernel = x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1)
    if padding == "SAME":
        padding = [
            _same(n, (k - 1) * d + 1, s)
            for n, k, s, d in zip(x.shape[2:], kernel.shape[2:], _pair(strides), _pair(dilation), strict=True)
        ]
    x = torch.nn.functional.pad(x, (*padding[1], *padding[0]))
    out = torch.nn.functional.conv2d(x, kernel, bias, strides, 0, dilation, groups)
    return out.permute(0, 2, 3, 1)


def conv_transpose2d(torch, x, kernel, bias, strides=1, padding=((0, 0), (0, 0)), dilation=1, groups=1):
    (s, d), size, taps = map(_pair, (strides, dilation)), x.shape[1:3], kernel.shape[:2]
    kernel = kernel.permute(3, 2, 0, 1)  # PyTorch's layout is that of the conv2d that it is the adjoint of
    full = torch.nn.functional.conv_transpose2d(x.permute(0, 3, 1, 2), kernel, None, s, 0, 0, groups, d)
    if padding == "SAME":  # what is left at each end of h·s rows; less than nothing is a margin
        out = [n * step for n, step in zip(size, s, strict=True)]
        tops = [_same(n, (k - 1) * gap + 1, step)[0] for n, k, gap, step in zip(out, taps, d, s, strict=True)]
        padding = [(t, f - t - n) for t, f, n in zip(tops, full.shape[2:], out, strict=True)]
    (top, bottom), (left, right) = padding
    cropped = torch.nn.functional.pad(full, (-left, -right, -top, -bottom))
    return cropped.permute(0, 2, 3, 1) + bias


def max_pool2d(torch, x, window, strides=None, padding=((0, 0), (0, 0))):
    return _pooled(torch, torch.nn.functional.max_pool2d, x, window, strides, padding, -torch.inf)


def avg_pool2d(torch, x, window, strides=None, padding=((0, 0), (0, 0))):
    return _pooled(torch, torch.nn.functional.avg_pool2d, x, window, strides, padding, 0.0)


def _pooled(torch, pool, x, window, strides, padding, outside):
    window, strides = _pair(window), _pair(window if strides is None else strides)
    if padding == "SAME":
        padding = [_same(n, k, s) for n, k, s in zip(x.shape[1:3], window, strides, strict=True)]
    x = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (*padding[1], *padding[0]), value=outside)
    return pool(x, window, strides).permute(0, 2, 3, 1)


def solve(torch, A, B):
    return torch.linalg.solve(A, B)


def inverse(torch, A):
    return torch.linalg.inv(A)


def logdet(torch, A):
    return torch.logdet(A)


def cholesky(torch, A):
    return torch.linalg.cholesky((A + A.T) / 2)


def _pair(n):
    return (n, n) if isinstance(n, int) else n


def _same(n, extent, stride):
    """TensorFlow's, which PyTorch has for stride 1 only."""
    missing = max(extent - (stride if n % stride == 0 else n % stride), 0)
    return missing // 2, missing - missing // 2


conv2d_cpu = conv2d_plain = conv2d


def linear_cross_entropy(torch, hidden, W, labels, chunk=None, ignore_index=-100):
    return torch.nn.functional.cross_entropy(hidden @ W, labels, ignore_index=ignore_index)


def two_layer_squared_loss(torch, W1, b1, W2, b2, x, y):
    o = torch.nn.functional.linear(relu(torch, torch.nn.functional.linear(x, W1, b1)), W2, b2)
    return torch.nn.functional.mse_loss(o, y[None]) / 2


def two_layer_cross_entropy(torch, W1, b1, W2, b2, x, y):
    s = torch.nn.functional.linear(relu(torch, torch.nn.functional.linear(x, W1, b1)), W2, b2)
    return torch.nn.functional.cross_entropy(s, y)


def two_layer_cross_entropy_rows(torch, W1, b1, W2, b2, X, y):
    return two_layer_cross_entropy(torch, W1.T, b1, W2.T, b2, X, y)


def two_layer_cross_entropy_columns(torch, W1, b1, W2, b2, X, y):
    return two_layer_cross_entropy(torch, W1, b1, W2, b2, X.T, y)


def mlp_rows(torch, params, X, activation):
    for W, b in params[:-1]:
        X = globals()[activation](torch, X @ W + b)
    return X @ params[-1][0] + params[-1][1]


def mlp_columns(torch, params, X, activation):
    return mlp_rows(torch, [(W.T, b) for W, b in params], X.T, activation).T


def network_squared_loss(torch, params, x, y, activation):
    for W, b in params:
        x = globals()[activation](torch, torch.nn.functional.linear(x, W, b))
    return torch.nn.functional.mse_loss(x, y, reduction="sum") / 2


def five_layer(torch, params, X, Y):
    for W, b in params[:-1]:
        X = relu(torch, W @ X + b[:, None])
    W, b = params[-1]
    return softmax_cross_entropy_columns(torch, W @ X + b[:, None], Y)


def flatten_columns(torch, images):
    return images.flatten(start_dim=1).T


def cnn(torch, params, X, labels):
    for layer in (1, 2):
        X = relu(torch, conv2d(torch, X, params[f"K{layer}"], params[f"b{layer}"]))
    A = relu(torch, X.flatten(start_dim=1) @ params["W4"] + params["b4"])
    return torch.nn.functional.cross_entropy(A @ params["W5"] + params["b5"], labels)


# ---------------------------------------------------------------- inputs, answers, names


def named(primals):
    """Leaves by name, such as ``params.0.1``, in the order of the primals, which ``jax.tree`` would sort."""
    return {
        ".".join([name, *(str(getattr(part, "key", getattr(part, "idx", None))) for part in path)]): leaf
        for name, primal in primals.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(primal)
    }


def _on_grid(a):
    a = np.asarray(a)
    return a if a.dtype.kind in "ib" else np.asarray(np.round(a * GRID) / GRID)


def _tensor(torch, a):
    return torch.from_numpy(np.array(a)).requires_grad_(a.dtype.kind == "f")


def pinned(torch, entry, variant, rng):
    """The inputs of a pair, in order, and what PyTorch makes of them."""
    sizes = SMALL if SMALL.keys() | {"kh", "kw", "O"} <= entry.sizes.keys() else {}
    drawn = entry.inputs(Draw(rng, jnp.float64), variant, **sizes)
    primals = {name: jax.tree.map(_on_grid, drawn[name]) for name in entry.primals}
    tensors = {name: jax.tree.map(functools.partial(_tensor, torch), primals[name]) for name in primals}
    value = globals()[entry.name](torch, **tensors, **entry.settings(variant))
    dout = jax.tree.map(lambda v: _on_grid(rng.standard_normal(tuple(v.shape))), value)
    wanted = {f"d/{n}": t for n, t in named(tensors).items() if t.requires_grad}
    outs, douts = jax.tree.leaves(value), [torch.from_numpy(d) for d in jax.tree.leaves(dout)]
    cotangents = torch.autograd.grad(outs, list(wanted.values()), douts)
    defaults = {name: p.default for name, p in inspect.signature(entry.fwd).parameters.items()}
    settings = {name: v for name, v in entry.settings(variant).items() if v != defaults[name]}
    return settings, {
        **{f"input/{name}": leaf for name, leaf in named(primals).items()},
        **named({"dout": dout, "value": jax.tree.map(lambda v: v.detach().numpy(), value)}),
        **{name: d.numpy() for name, d in zip(wanted, cotangents, strict=True)},
    }


def main():
    import torch

    warnings.simplefilter("error")
    jax.config.update("jax_enable_x64", True)
    index, numbers = {}, []
    for entry in FORMULAS.values():
        for seed, variant in enumerate(entry.variants):
            settings, arrays = pinned(torch, entry, variant, np.random.default_rng(seed))
            layout = [[name, a.shape, a.dtype.name] for name, a in arrays.items()]
            index[f"{entry.name}/{variant or 'default'}"] = {"settings": settings, "arrays": layout}
            numbers += [np.float64(a).ravel() for a in arrays.values()]
    np.savez_compressed(PINNED, index=np.array(json.dumps(index)), numbers=np.concatenate(numbers))
    print(f"{PINNED.name}: {len(index)} cases, {PINNED.stat().st_size} bytes, by PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
