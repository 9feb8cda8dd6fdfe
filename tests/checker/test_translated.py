"""A reference in PyTorch is translated to JAX, step by step, so that the cause of a mistake can be named."""

import inspect
import os

import jax
import numpy as np
import pytest

from manual_grad.checker.recorded import Recording, recorded, replayed, untranslatable
from manual_grad.checker.truth import Point, answered, exact
from manual_grad.verify import check_torch

if os.environ.get("MANUAL_GRAD_NEEDS_TORCH"):
    import torch
else:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'manual-grad[torch]'")
attended = torch.nn.functional.scaled_dot_product_attention
F, Function, nn = torch.nn.functional, torch.autograd.Function, torch.nn


def drawn(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def wide(*shape):
    return drawn(*shape, dtype=torch.float64)


INDEX, MASK = torch.tensor([0, 2, 2, 1]), torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]]).bool()
COLUMN, THREE = INDEX[:, None] % 3, torch.tensor([1.0, 2, 3], dtype=torch.float64)


def square(x):
    """A positive definite matrix."""
    return x.mT @ x + torch.eye(x.shape[1], dtype=x.dtype)


def filled(x):
    out = torch.zeros(4, 3, dtype=x.dtype)
    out[:, 0] = x[:, 1]
    out[1] += x[2]
    out[2:].mul_(2)
    out[MASK] = 0.3
    return out * x


def views_of_views(x):
    y = x.clone()
    row, column = y[1], y[:, 1]
    row.mul_(x[0])
    seen = column * 2
    y[1:3, ::2] = x[:2, :2]
    return seen[:, None] + y * row + column[:, None]


def recurrent(x):
    h, out = torch.zeros(3, dtype=x.dtype), []
    for row in x:
        h = torch.tanh(h * 0.5 + row)
        out.append(h)
    return torch.stack(out)


@torch.no_grad()
def largest(x):
    return x.amax(-1, keepdim=True)


LSTM = nn.LSTM(3, 2).double().requires_grad_(False)


def shifted_softmax(x):
    e = (x - largest(x)).exp()
    return e / e.sum(-1, keepdim=True)


PLAIN = [
    "abs", "exp", "exp2", "expm1", "sin", "cos", "tan", "sinh", "cosh", "tanh", "square", "sigmoid", "relu",
    "erf", "erfc", "neg", "reciprocal", "asinh", "atan", "sinc", "nan_to_num", "sgn",
]  # fmt: skip
POSITIVE = ["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "lgamma", "digamma"]
INSIDE = ["asin", "acos", "atanh", "erfinv", "logit"]
ACTIVATIONS = [
    "silu", "gelu", "elu", "celu", "selu", "leaky_relu", "hardtanh", "hardswish", "mish", "softplus",
    "logsigmoid", "relu6", "softsign", "tanhshrink", "hardshrink", "softshrink", "glu",
]  # fmt: skip
COMPUTED = {
    **{name: getattr(torch, name) for name in PLAIN},
    **{name: lambda x, name=name: getattr(torch, name)(x.abs() + 0.1) for name in POSITIVE},
    **{name: lambda x, name=name: getattr(torch, name)(0.8 * x.sigmoid()) for name in INSIDE},
    **{name: lambda x, name=name: getattr(F, name)(x[:, :2]) for name in ACTIVATIONS},
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "softplus, beta": lambda x: F.softplus(x, beta=2.0),
    "steps": lambda x: x * (x.floor() + x.ceil() + x.round() + x.trunc() + x.sign()),
    "threshold": lambda x: F.threshold(x, 0.1, 0.5) + F.prelu(x, THREE[:1]),
    "powers": lambda x: x**3 + x.abs() ** 1.5 + x**2.0 + x.abs() ** 0.5 + 2**x + (x.abs() + 1) ** x,
    "sums": lambda x: torch.add(x, x.sin(), alpha=2) - torch.sub(x, x.cos(), alpha=3) + (1 - x),
    "quotients": lambda x: x / (x.abs() + 1) + 1 / (x**2 + 1) + x * torch.div(x, 0.3, rounding_mode="floor"),
    "remainders": lambda x: torch.fmod(x, 0.3) + torch.remainder(x, 0.4),
    "of two": lambda x: torch.atan2(x, x + 3) + torch.hypot(x, x + 1) + torch.logaddexp(x, x.sin()),
    "products added": lambda x: torch.addcmul(x, x, x.sin(), value=0.5) + torch.addcdiv(x, x, x**2 + 1),
    "lerp": lambda x: torch.lerp(x, x.sin(), 0.3) + torch.lerp(x, x.sin(), x),
    "larger": lambda x: torch.maximum(x, x.sin()) + torch.minimum(x, x.cos()) + torch.max(x, x**2),
    "where": lambda x: torch.where(x > 0, x, x**2).masked_fill(MASK, 0.3) * MASK.logical_not(),
    "clamp": lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0.1) + x.clamp_max(0.2) + x.clamp(x.sin(), x + 2),
    "xlogy": lambda x: torch.xlogy(x.abs(), x.abs() + 1) + torch.copysign(x, x.sin()),
    "sum": lambda x: x.sum(0) + x.sum(0, keepdim=True)[0] + x.sum() + x.mean(0) + x.mean() + x.mean((0, 1)),
    "extremes": lambda x: x.amax(0) + x.amin((0, 1)) + x.max(0)[0] + x.min(0).values + x.max() - x.min(),
    "products": lambda x: x.prod(0) + x.prod() + x.cumprod(0),
    "variances": lambda x: x.var(0) + x.var(0, unbiased=False) + x.var() + x.std(0) + x.std(),
    "and means": lambda x: sum(torch.var_mean(x, 0)) + sum(torch.std_mean(x, 0, correction=0)),
    "norms": lambda x: x.norm() + x.norm(dim=0) + x.norm(p=1, dim=0) + x.norm(p=3, dim=0),
    "linalg.norm": lambda x: torch.linalg.norm(x, torch.inf, 0) + torch.linalg.norm(x),
    "logsumexp": lambda x: x.logsumexp(0) + x.logcumsumexp(0) + x.cumsum(0) + x.cumsum(-1),
    "sort": lambda x: x.sort(0)[0] + x.sort(-1, descending=True)[0] + x.topk(3, 1)[0],
    "argmax": lambda x: x.gather(1, x.argmax(1, keepdim=True)) + x.gather(1, x.argmin(1, keepdim=True)),
    "softmax": lambda x: x.softmax(-1) + x.log_softmax(0) + x.softmax(0).log(),
    "matrix products": lambda x: x @ x.mT @ x + (x @ x[0])[:, None] + x[0].dot(x[1]) + x[0] @ x.mT @ x,
    "batches": lambda x: (x[None].expand(2, 4, 3) @ x.mT[None]).sum(0),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x) + torch.einsum("ij,ij->i", x, x),
    "addmm": lambda x: torch.addmm(x, x @ x.mT, x, beta=0.5, alpha=2),
    "baddbmm": lambda x: torch.baddbmm(x[None], (x @ x.mT)[None], x[None], alpha=2),
    "addmv": lambda x: torch.addmv(x[:, 0], x, x[0]),
    "linear": lambda x: F.linear(x, x, x[:, 0]) + torch.tensordot(x, x, dims=([1], [1])),
    "outer": lambda x: torch.outer(x[0], x[1]) + torch.kron(x[:1], x[2:3].mT),
    "cross": lambda x: torch.linalg.cross(x, x.sin()),
    "shapes": lambda x: x.view(2, 6).reshape(3, 4).T.contiguous().flatten().unflatten(0, (4, 3)).mT,
    "more shapes": lambda x: x.unsqueeze(1).squeeze(1).squeeze().permute(1, 0)[..., None].sum(-1),
    "slices": lambda x: torch.cat([x[1:, ::2], x[:3, 1:]], 1) + x[1, 0] + x[:3, -1:],
    "stack": lambda x: torch.stack([x, x**2], 1) * x.unbind(1)[0][:, None, None],
    "split": lambda x: x.split([1, 2], 1)[1] * x.chunk(2, 1)[1] + torch.tensor_split(x, 3, 1)[2],
    "repeat": lambda x: x.repeat(2, 1) + x.tile(2, 1) + x.repeat_interleave(2, 0),
    "roll": lambda x: x.roll(1, 0) + x.roll((1, 1), (0, 1)) + x.roll(2) + x.flip(0) + x.flip((0, 1)),
    "pad": lambda x: F.pad(x, (1, 2, 1, 0)) + F.pad(x, (2, 1, 0, 1), value=2) + F.pad(x, (-1, 4, 1, 0)),
    "mirrored": lambda x: F.pad(x[None], (1, 1), mode="reflect") + F.pad(x[None], (1, 1), mode="replicate"),
    "wrapped": lambda x: F.pad(x[None], (1, 1), mode="circular"),
    "unfold": lambda x: x.unfold(0, 2, 1).sum(-1),
    "columns": lambda x: F.unfold(x[None, None], (2, 2), padding=1, stride=2, dilation=1),
    "diagonals": lambda x: x.diagonal() + x[:3].diag() + x[:3].trace() + x[:3].tril() + x[:3].triu(1),
    "index": lambda x: x[INDEX] + x[INDEX, INDEX % 3][:, None] + x[MASK].sum() + x.index_select(0, INDEX),
    "gather": lambda x: x.gather(1, COLUMN) + x.take_along_dim(COLUMN, 1) + x.take(INDEX)[:, None],
    "scatter": lambda x: torch.zeros(4, 3, dtype=x.dtype).scatter(1, COLUMN, x[:, :1]),
    "scatter_add": lambda x: torch.zeros(5, 3, dtype=x.dtype).scatter_add(0, INDEX[:, None].expand(4, 3), x),
    "index_add": lambda x: torch.zeros(5, 3, dtype=x.dtype).index_add_(0, INDEX, x, alpha=2),
    "index_put": lambda x: torch.ones(5, 3, dtype=x.dtype).index_put((INDEX,), x, accumulate=True),
    "embedding": lambda x: F.embedding(INDEX, x) + F.embedding(INDEX, x, padding_idx=1),
    "one-hot": lambda x: F.one_hot(INDEX, 3) * x / torch.bincount(INDEX, minlength=4)[:, None].clamp(min=1),
    "layer norm": lambda x: F.layer_norm(x, (3,), x[0], x[1]) + F.layer_norm(x, (4, 3)),
    "rms norm": lambda x: F.rms_norm(x, (3,), x[0], 1e-3) + F.rms_norm(x, (3,)),
    "group norm": lambda x: F.group_norm(x.view(1, 4, 3), 2, x[:, 0], x[:, 1]) + F.instance_norm(x[None]),
    "batch norm": lambda x: F.batch_norm(x, None, None, x[0], x[1], training=True),
    "batch norm, frozen": lambda x: F.batch_norm(x, 0 * THREE, THREE, x[0], x[1]),
    "unit vectors": lambda x: F.normalize(x, dim=-1) + F.cosine_similarity(x, x.sin(), dim=-1)[:, None],
    "cross-entropy": lambda x: F.cross_entropy(x, INDEX, ignore_index=2, label_smoothing=0.1, weight=THREE),
    "of each": lambda x: F.cross_entropy(x, INDEX, reduction="none") + F.nll_loss(x.log_softmax(-1), INDEX),
    "of pixels": lambda x: F.cross_entropy(x.mT[None], INDEX[None], reduction="sum"),
    "of shares": lambda x: F.cross_entropy(x, THREE.expand(4, 3).softmax(-1)),
    "distances": lambda x: F.mse_loss(x, x.sin()) + F.l1_loss(x, x**2) + F.pairwise_distance(x, x + 1),
    "huber": lambda x: F.smooth_l1_loss(x, x.sin(), beta=0.5) + F.huber_loss(x, x.cos(), delta=0.5),
    "binary": lambda x: F.binary_cross_entropy_with_logits(x, MASK.double(), pos_weight=THREE)
    + F.binary_cross_entropy(x.sigmoid(), MASK.double()),
    "divergence": lambda x: F.kl_div(x.log_softmax(-1), THREE.softmax(-1), reduction="batchmean"),
    "attention": lambda x: attended(x[None, None], x[None, None].sin(), x[None, None]),
    "attention, causal": lambda x: attended(x[None], x[None].sin(), x[None], is_causal=True),
    "attention, masked": lambda x: attended(x, x.sin(), x, torch.eye(4).bool(), scale=0.3),
    "attention, with a bias": lambda x: attended(x, x.sin(), x, x @ x.mT),
    "conv1d": lambda x: F.conv1d(x[None], x[:2, None].expand(2, 4, 3), x[:2, 0], padding=2, dilation=2),
    "conv1d in groups": lambda x: F.conv1d(x[None], x[:, None], padding=2, stride=2, groups=4),
    "conv2d": lambda x: F.conv2d(x[None, None], x[None, None, :2, :2], padding=(1, 0)),
    "transposed": lambda x: F.conv_transpose1d(
        x[None], x[:, None].expand(4, 2, 3), x[:2, 0], stride=2, padding=1, output_padding=1
    ),
    "max-pooling": lambda x: F.max_pool1d(x[None], 2) + F.max_pool2d(x[None, None], (2, 1))[0, :, :1, :1],
    "mean-pooling": lambda x: F.avg_pool1d(x[None], 2) + F.avg_pool2d(x[None, None], 2)[0, :, :1],
    "pixels": lambda x: F.pixel_shuffle(x[None, :, None], 2),
    "cholesky": lambda x: torch.linalg.cholesky(square(x)) + torch.linalg.inv(square(x)),
    "determinants": lambda x: torch.det(square(x)) + torch.linalg.slogdet(square(x))[1],
    "solve": lambda x: torch.linalg.solve(square(x), x.mT)
    + torch.linalg.solve_triangular(square(x).tril(), x.mT, upper=False),
    "eigenvalues": lambda x: torch.linalg.eigvalsh(square(x)) + torch.linalg.qr(x)[1].abs().sum(),
    "spectra": lambda x: torch.fft.irfft(torch.fft.rfft(x, norm="forward") * (1 + 2j), 3),
    "their sizes": lambda x: torch.fft.rfft(x).abs(),
    "written to": filled,
    "views of views": views_of_views,
    "in place": lambda x: x.clone().mul_(2).add_(x).sin().relu_(),
    "recurrent": recurrent,
    "lstm": lambda x: LSTM(x)[0],
    "no gradient": shifted_softmax,
    "detached": lambda x: x * x.detach() + (x.round() - x).detach(),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_operations_are_those_of_pytorch(name):
    fn, x, given = COMPUTED[name], wide(4, 3).requires_grad_(), wide(4, 3)
    out = fn(x)
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (want,) = torch.autograd.grad(out, x, dout)
    recording = Recording()
    with recorded(torch, recording, [given]):
        recording.results = [fn(given)]
    assert untranslatable(recording) == ""
    values, tree = (x.detach().numpy(),), jax.tree.structure((0,))
    again = replayed(torch, recording, [given])
    with exact():
        (got,), (gradient,) = answered(Point(again, tree, values, ("x",), (0,), (dout.numpy(),)))
    np.testing.assert_allclose(got, out.detach().numpy(), 1e-9, 1e-12)
    np.testing.assert_allclose(gradient, want.numpy(force=True), 1e-8, 1e-12)


# --- ten functions: right, and with a mistake whose cause is named ----------------------------------------


def mine(forward, backward, mistake):
    """A ``torch.autograd.Function`` that saves its inputs."""

    def run(ctx, *inputs):
        ctx.save_for_backward(*inputs)
        return forward(*inputs)

    def back(ctx, dout):
        return backward(mistake, dout, *ctx.saved_tensors)

    return type("Mine", (Function,), {"forward": staticmethod(run), "backward": staticmethod(back)})


def rms_norm(x, g):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * g


def rms_norm_back(mistake, d, x, g):
    rms = torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)
    xhat, dxhat = x / rms, d if mistake == "no g" else d * g
    along = (dxhat * xhat).mean(-1, keepdim=True)
    if mistake == "axis":
        along = (dxhat * xhat).mean(0, keepdim=True)
    if mistake == "sum":
        along = (dxhat * xhat).sum(-1, keepdim=True)
    dx = dxhat - xhat * (0 if mistake == "constant" else along)
    return dx if mistake == "late" else dx / rms, (d * (x if mistake == "dg" else xhat)).sum(0)


def linear(x, w, b):
    return F.linear(x, w, b)


def linear_back(mistake, d, x, w, b):
    kept = slice(0, -1 if mistake == "last" else None)
    return d @ w, d[kept].mT @ x[kept], d.mean(0) if mistake == "mean" else d.sum(0)


def swiglu(x, w, v):
    return F.silu(x @ w) * (x @ v)


def swiglu_back(mistake, d, x, w, v):
    a, b = x @ w, x @ v
    s = a.sigmoid()
    slope = {"slope": s * (1 - s), "relu": (a > 0) * 1.0}.get(mistake, s * (1 + a * (1 - s)))
    da, db = (d * F.silu(a) * slope, d * b) if mistake == "swapped" else (d * b * slope, d * F.silu(a))
    return da @ w.mT + (0 if mistake == "path" else db @ v.mT), x.mT @ da, x.mT @ db


def cross_entropy(z, labels):
    return F.cross_entropy(z, labels, ignore_index=-100)


def cross_entropy_back(mistake, d, z, labels):
    kept = (labels != -100)[:, None]
    p, y = z.softmax(-1), F.one_hot(labels.clamp(min=0), z.shape[-1])
    off = p if mistake == "labels" else p - y
    return d * (off if mistake == "mask" else off * kept) / (len(z) if mistake == "n" else kept.sum()), None


def rounded(x):
    return x + (x.round() - x).detach()


def rounded_back(mistake, d, x):
    return {"x": d * x, "zero": 0 * d}.get(mistake, d.clone())


def embedding(w, i):
    return w[i]


def embedding_back(mistake, d, w, i):
    dw = torch.zeros_like(w)
    if mistake == "assigned":
        dw[i] = d
    else:
        dw.index_add_(0, i, d)
    count = torch.bincount(i, minlength=len(w)).clamp(min=1)[:, None]
    return dw / count if mistake == "averaged" else dw, None


def scan(x, a):
    h, out = torch.zeros_like(x[0]), []
    for row in x:
        h = a * h + row
        out.append(h)
    return torch.stack(out)


def scan_back(mistake, d, x, a):
    h, carried, dx, da = scan(x, a), torch.zeros_like(x[0]), torch.zeros_like(x), torch.zeros_like(a)
    for t in reversed(range(len(x))):
        carried = d[t] + (carried if mistake == "no a" else a * carried)
        dx[t] = carried
        da += carried * (h[t] if mistake == "own" else h[t - 1] if t else 0)
    return dx, da


def group_norm(x, w, b):
    return F.group_norm(x, 2, w, b)


def group_norm_back(mistake, d, x, w, b):
    grouped = x.reshape(len(x), 2, -1)
    std = (grouped.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    xhat = (grouped - grouped.mean(-1, keepdim=True)) / std
    dxhat = (d if mistake == "no w" else d * w[:, None]).reshape(grouped.shape)
    dx = dxhat - (0 if mistake == "mean" else dxhat.mean(-1, keepdim=True))
    dx = dx - (0 if mistake == "variance" else xhat * (dxhat * xhat).mean(-1, keepdim=True))
    return (dx / std).reshape(x.shape), (d * xhat.reshape(x.shape)).sum((0, 2)), d.sum((0, 2))


def conv(x, w):
    return F.conv1d(x, w, padding=1)


def conv_back(mistake, d, x, w):
    dx = (
        F.conv1d(d, w.transpose(0, 1), padding=1)
        if mistake == "flipped"
        else F.conv_transpose1d(d, w, padding=1)
    )
    dw = torch.einsum("nol,nilk->oik", d, F.pad(x, (1, 1)).unfold(-1, 3, 1))
    return dx, dw / len(x) if mistake == "mean" else dw


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention_back(mistake, d, q, k, v):
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    scores = q @ k.mT * q.shape[-1] ** -0.5
    p = (scores if mistake == "mask" else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
    dp = d @ v.mT
    along = (p * dp).sum(-2 if mistake == "axis" else -1, keepdim=True)
    ds = (
        p
        * (dp - (0 if mistake == "constant" else along))
        * (1 if mistake == "scale" else q.shape[-1] ** -0.5)
    )
    return ds @ k, ds.mT @ q, p.mT @ d


LABELS = torch.tensor([0, 3, -100, 1, 2, -100])
FUNCTIONS = {  # forward, backward, arguments
    "rms_norm": (rms_norm, rms_norm_back, [drawn(6, 5), drawn(5) + 1]),
    "linear": (linear, linear_back, [drawn(6, 5), drawn(4, 5), drawn(4)]),
    "swiglu": (swiglu, swiglu_back, [drawn(6, 5), drawn(5, 4), drawn(5, 4) + 0.3]),
    "cross_entropy": (cross_entropy, cross_entropy_back, [drawn(6, 5), LABELS]),
    "rounded": (rounded, rounded_back, [2 * drawn(6, 4)]),
    "embedding": (embedding, embedding_back, [drawn(5, 3), torch.tensor([0, 2, 2, 4, 1, 2])]),
    "scan": (scan, scan_back, [drawn(6, 4), drawn(4).sigmoid()]),
    "group_norm": (group_norm, group_norm_back, [drawn(3, 4, 5), drawn(4) + 1, drawn(4)]),
    "conv": (conv, conv_back, [drawn(3, 2, 8), drawn(4, 2, 3)]),
    "attention": (attention, attention_back, [drawn(2, 4, 8), drawn(2, 4, 8) + 0.1, drawn(2, 4, 8) * 0.5]),
}
WRONG = {  # function, mistake: the first wrong argument, and how the cause begins
    ("rms_norm", "no g"): ("x", "the factor g is missing"),
    ("rms_norm", "axis"): ("x", "summed over the wrong axis in the backward pass: axis 0 instead of axis 1"),
    ("rms_norm", "sum"): ("x", "sums are used where means belong in a normalisation's gradient"),
    ("rms_norm", "constant"): ("x", "a path is missing: the root mean square of x is treated as a constant"),
    ("rms_norm", "late"): ("x", "the division by the root mean square of x is missing"),
    ("rms_norm", "dg"): ("g", "the division by the root mean square of x is left out"),
    ("linear", "last"): ("w", "rows left out: only the first 5 of 6 rows of (x @ w) + b are processed"),
    ("linear", "mean"): ("b", "scaled by 1/N, N = 6 (axis 0 of x): mean instead of sum"),
    ("swiglu", "slope"): ("x", "the derivative of SiLU is wrong: σ(1 − σ) for σ + zσ(1 − σ)"),
    ("swiglu", "relu"): ("x", "the derivative of SiLU is wrong: it is that of ReLU"),
    ("swiglu", "swapped"): ("x", "swapped: each factor of a product gets its own value"),
    ("swiglu", "path"): ("x", "a path is missing: nothing flows back through matrix product (x, v) to x"),
    ("cross_entropy", "labels"): ("z", "the one-hot labels are not subtracted: p where p − y belongs"),
    ("cross_entropy", "mask"): ("z", "missing mask: not zero where the truth is"),
    ("cross_entropy", "n"): ("z", "divided by N = 6 (axis 0 of labels) instead of 4, the number of samples"),
    ("rounded", "x"): ("x", "wrong derivative: the cotangent is multiplied by the input itself"),
    ("rounded", "zero"): ("x", "zero"),
    ("embedding", "assigned"): ("w", "repeated indices are overwritten instead of added up"),
    ("embedding", "averaged"): ("w", "repeated indices are averaged instead of added up"),
    ("scan", "no a"): ("x", "the factor a is missing, in the derivative of a · h to h, in all 6 steps"),
    ("scan", "own"): ("a", "h_t is used where h_(t−1) belongs: each step's own value of h"),
    ("group_norm", "no w"): ("x", "the factor w is missing"),
    ("group_norm", "mean"): ("x", "a path is missing: the mean of x is treated as a constant"),
    ("group_norm", "variance"): ("x", "a path is missing: the variance (or standard deviation) of x is"),
    ("conv", "flipped"): ("x", "rotated or flipped kernel: w must be rotated in the backward pass"),
    ("conv", "mean"): ("w", "scaled by 1/N, N = 3 (axis 0 of x): mean instead of sum"),
    ("attention", "mask"): ("q", "missing mask"),
    ("attention", "axis"): ("q", "summed over the wrong axis in the backward pass: axis 1 instead of axis 2"),
    ("attention", "constant"): ("q", "a path is missing: the normaliser of a softmax, the sum of exp, is"),
    ("attention", "scale"): ("q", "scaled by √8 (axis 2 of q): 1/√8 is missing"),
}  # fmt: skip


def judged(name, mistake=""):
    forward, backward, tensors = FUNCTIONS[name]
    names = inspect.signature(forward).parameters
    return check_torch(mine(forward, backward, mistake), *tensors, reference=forward, names=names)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_right_function_is_right(name):
    report = judged(name)
    assert report.ok, report


@pytest.mark.parametrize(("name", "mistake"), WRONG)
def test_the_cause_is_named_without_jax(name, mistake):
    argument, said = WRONG[name, mistake]
    wrong = [finding for finding in judged(name, mistake).findings if not finding.ok]
    assert wrong[0].name == argument
    assert wrong[0].diagnosis.startswith(said)


def test_names_in_the_source_of_the_reference_are_used():
    def forward(x, w):
        hidden = torch.cumsum(torch.tanh(x @ w), 0)
        return hidden * torch.exp(hidden).sum(-1, keepdim=True)

    def backward(mistake, d, x, w):
        with torch.enable_grad():
            x, w = (t.detach().requires_grad_() for t in (x, w))
            hidden = torch.cumsum(torch.tanh(x @ w), 0)
            return torch.autograd.grad(hidden.detach() * torch.exp(hidden).sum(-1, keepdim=True), (x, w), d)

    report = check_torch(
        mine(forward, backward, ""), drawn(6, 5), drawn(5, 4), reference=forward, names=["x", "w"]
    )
    assert "hidden" in report.findings[0].diagnosis


def test_a_reference_that_takes_another_way_elsewhere_is_not_believed():
    def forward(x):
        return x**3 if float(x[0]) == float(GIVEN[0]) else x**2 * x

    report = check_torch(mine(forward, lambda m, d, x: 2 * x**2 * d, ""), GIVEN, reference=forward)
    assert not report.ok
    assert "the search ended" not in str(report)


GIVEN = drawn(4)


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (torch.matrix_exp, "linalg_matrix_exp cannot be translated to JAX"),
        (lambda x: sum(x * i for i in range(1500)).sin(), "it has more than 2000 steps"),
    ],
)
def test_where_a_reference_cannot_be_translated_jax_is_offered(forward, why):
    wrong = mine(forward, lambda mistake, d, x: d * x.cos(), "")
    report = check_torch(wrong, drawn(3, 3), reference=forward)
    offered = "it is searched for step by step where the function is given in JAX too, as against"
    assert f"the cause was searched for in the numbers alone, as {why}; {offered}" in report.notes
    assert not [n for n in check_torch(wrong, drawn(3, 3), reference=forward, seconds=1e-9).notes if why in n]


def test_a_single_sample_that_counts_does_not_hide_a_mean():
    def first(x):
        return (x[0] ** 2).sum()

    def backward(mistake, d, x):
        dx = torch.zeros_like(x)
        dx[0] = 2 * d * x[0] / len(x)
        return dx

    (finding,) = check_torch(mine(first, backward, ""), drawn(5, 3), reference=first, names=["x"]).findings
    assert finding.diagnosis.startswith("scaled by 1/N, N = 5 (axis 0 of x): mean instead of sum")
