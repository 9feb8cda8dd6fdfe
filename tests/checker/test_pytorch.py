"""``check_torch``: PyTorch's own functions are right, wrong ``autograd.Function``s are not.

Skipped where PyTorch is not installed: it is large, and only these tests need it. ``.ci/run`` installs it.
"""

import functools
import importlib
import itertools
import json
import os
import random
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.border import InputError
from manual_grad.checker import closures
from manual_grad.checker import tensors as made
from manual_grad.cli import app as cli
from manual_grad.digits import MissingExtra
from manual_grad.verify import assert_torch_matches, check_torch

if os.environ.get("MANUAL_GRAD_NEEDS_TORCH"):
    import torch
else:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'manual-grad[torch]'")
F, Function, nn = torch.nn.functional, torch.autograd.Function, torch.nn
checkpoint = importlib.import_module("torch.utils.checkpoint").checkpoint


def drawn(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def layer_norm(x, g, b):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * g + b


def attention(q, k, v):
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    return torch.softmax(scores, -1) @ v


def twice_in_a_hook(y):
    y.register_hook(lambda dout: 2 * dout)
    return y


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SCRIPTED = torch.jit.script(nn.Linear(3, 2))
    HALF = drawn(3).half() + 1j
WEIGHT = drawn(3, 2)

RIGHT = {  # PyTorch's own backward passes: what is called, with what, and what it is compared with
    "relu": (F.relu, [drawn(4, 3)], {"reference": lambda x: x.clamp(min=0)}),
    "relu at 0": (F.relu, [torch.tensor([0.0, 1, -1])], {"reference": lambda x: torch.where(x > 0, x, 0)}),
    "silu in bfloat16": (
        F.silu, [drawn(4, 3).bfloat16()], {"reference": lambda x: x * x.sigmoid()}),
    "layer_norm": (
        lambda x, g, b: F.layer_norm(x, (5,), g, b), [drawn(4, 5), drawn(5), drawn(5)],
        {"reference": layer_norm}),
    "layer_norm in float16": (
        lambda x, g, b: F.layer_norm(x, (5,), g, b), [drawn(4, 5).half(), drawn(5).half(), drawn(5).half()],
        {"reference": layer_norm}),
    "softmax, by JAX": (
        lambda x: F.softmax(x, -1), [drawn(4, 5)], {"against": lambda x: jax.nn.softmax(x, -1)}),
    "cross-entropy, by name": (
        F.cross_entropy, [drawn(4, 5), torch.tensor([0, 4, 1, 1])],
        {"against": "softmax_cross_entropy_with_integer_labels", "wrt": "input"}),
    "conv2d, channels last": (
        lambda x, w: F.conv2d(x, w, padding=1),
        [drawn(2, 3, 6, 5).to(memory_format=torch.channels_last), drawn(4, 3, 3, 3)],
        {"reference": lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1)), w)}),
    "embedding, sparse": (
        lambda i, w: F.embedding(i, w, sparse=True), [torch.tensor([0, 2, 2, 1]), drawn(4, 3)],
        {"reference": lambda i, w: w[i]}),
    "attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [drawn(2, 4, 8), drawn(2, 4, 8) + 0.1, drawn(2, 4, 8) * 0.5], {"reference": attention}),
    "max with integers": (
        lambda x: torch.max(x, -1), [drawn(4, 3)], {"reference": lambda x: (x.amax(-1), x.argmax(-1))}),
    "a module's parameters": (
        nn.BatchNorm1d(3), [drawn(4, 3)],
        {"reference": lambda x, weight, bias: layer_norm(x.mT, 1, 0).mT * weight + bias}),
    "a GRU": (nn.GRU(3, 4), [drawn(5, 2, 3)], {"reference": nn.GRU(3, 4)}),
    "dropout": (nn.Dropout(0.5), [drawn(4, 3)], {"reference": lambda x: nn.Dropout(0.5)(x)}),
    "dropout in another layout": (
        nn.Dropout(0.5), [drawn(3, 4).T], {"reference": lambda x: nn.Dropout(0.5)(x)}),
    "a dict, and an expanded tensor": (
        lambda p, x: x @ p["w"] + p["b"], [{"w": drawn(3, 2), "b": drawn(2)}, drawn(3).expand(4, 3)],
        {"reference": lambda p, x: torch.addmm(p["b"], x, p["w"])}),
    "a number stays what it is": (
        lambda x, a: F.elu(x, a), [drawn(4, 3, dtype=torch.float64), 0.5],
        {"reference": lambda x, a: torch.where(x > 0, x, a * (x.exp() - 1))}),
    "in place": (
        lambda x: F.relu(x, inplace=True), [drawn(4, 3)], {"reference": lambda x: x.clamp(min=0)}),
    "a gradient taken inside": (
        lambda x: torch.autograd.grad((x**3).sum(), x, create_graph=True)[0], [drawn(4)],
        {"reference": lambda x: torch.autograd.grad((x**3).sum(), x, create_graph=True)[0]}),
    "a hook": (
        lambda x: twice_in_a_hook(x.sin()), [drawn(4)],
        {"reference": lambda x: 2 * x.sin() - x.sin().detach()}),
    "a reference that holds float32 tensors": (
        lambda x: x @ WEIGHT, [drawn(4, 3)], {"reference": lambda x: F.linear(x, WEIGHT.T)}),
    "a reference that casts to float32": (
        lambda x: x / x.norm(dim=-1, keepdim=True), [drawn(4, 3, dtype=torch.float64)],
        {"reference": lambda x: (x.float() / (x.float() ** 2).sum(-1, keepdim=True).sqrt()).type_as(x)}),
    "a scripted module": (SCRIPTED, [drawn(4, 3)], {"reference": SCRIPTED}),
    "numbers near the largest": (lambda x: x**2, [drawn(3) * 1e38], {"reference": lambda x: x**2}),
    "None where the truth is 0": (
        lambda x, y: 2 * x + 0 * y.detach(), [drawn(3), drawn(4, 1)],
        {"reference": lambda x, y: 2 * x + 0 * y}),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_pytorchs_own_functions_are_right(name):
    fn, tensors, settings = RIGHT[name]
    assert_torch_matches(fn, *tensors, **settings)


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_compiled_module_has_the_parameters_of_its_module():
    compiled = torch.compile(nn.Linear(3, 2), backend="eager")
    report = check_torch(compiled, drawn(4, 3), reference=nn.Linear(3, 2))
    assert report.ok, report
    assert [finding.name for finding in report.findings] == ["input", "weight", "bias"]


def function(forward, backward):
    """A ``torch.autograd.Function`` that saves its inputs."""

    def run(ctx, *inputs):
        ctx.save_for_backward(*inputs)
        return forward(*inputs)

    def back(ctx, dout):
        return backward(dout, *ctx.saved_tensors)

    return type("Mine", (Function,), {"forward": staticmethod(run), "backward": staticmethod(back)})


def softmax(z):
    return torch.softmax(z, -1)


def softmax_back(d, z):
    p = softmax(z)
    return p * (d - (p * d).sum(-1, keepdim=True))


def inner(d, x, w):
    return d @ w.mT, x.mT @ d


FUNCTIONS = {  # forward, backward, inputs, what is said ("": it is right)
    "square": (lambda x: x * x, lambda d, x: 2 * x * d, [drawn(4, 5)], ""),
    "square, halved": (lambda x: x * x, lambda d, x: x * d, [drawn(4, 5)], "scaled by 1/2"),
    "softmax": (softmax, softmax_back, [drawn(4, 5)], ""),
    "softmax, its diagonal": (
        softmax, lambda d, z: softmax(z) * (1 - softmax(z)) * d, [drawn(4, 5)], "off-diagonal terms"),
    "relu": (lambda x: x.clamp(min=0), lambda d, x: d * (x > 0), [drawn(4, 5)], ""),
    "relu, no mask": (lambda x: x.clamp(min=0), lambda d, x: d.clone(), [drawn(4, 5)], "missing mask"),
    "product": (lambda x, w: x @ w, inner, [drawn(6, 5), drawn(5, 4)], ""),
    "product, swapped": (
        lambda x, w: x @ w, lambda d, x, w: inner(d, x, w)[::-1], [drawn(5, 5), drawn(5, 5) + 1],
        "arguments in the wrong order"),
    "exp": (torch.exp, lambda d, x: d * x.exp(), [drawn(4, 5)], ""),
    "square, read in the order of memory": (
        lambda x: x * x, lambda d, x: 2 * x * d.as_strided(x.shape, (x.shape[1], 1)), [drawn(4, 5)],
        "cotangent is transposed in memory"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ten_functions(name):
    forward, backward, tensors, said = FUNCTIONS[name]
    report = check_torch(function(forward, backward), *tensors, reference=forward)
    assert report.ok == (not said), report
    assert said in str(report)
    assert "torch.autograd in float64" in str(report)


def test_a_backward_pass_that_raises_for_a_layout_is_wrong():
    flat = function(lambda x: x.sin(), lambda d, x: (d.view(-1) * x.cos().view(-1)).view(x.shape))
    report = check_torch(flat, drawn(4, 5))
    assert not report.ok
    assert "raises where the cotangent is transposed in memory: backward raised" in str(report)


@pytest.mark.parametrize(
    ("needed", "said"),
    [
        ((0, 1), ""),
        ((1, 1), "no gradient was returned (None) where only x requires a gradient (ctx.needs_input_grad)"),
        ((0, 0), "no gradient was returned (None) where only y requires a gradient (ctx.needs_input_grad)"),
    ],
)
def test_each_argument_may_be_the_only_one_that_requires_a_gradient(needed, said):
    class Product(Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, d):
            others = reversed(ctx.saved_tensors)
            return tuple(
                d * other if ctx.needs_input_grad[i] else None
                for i, other in zip(needed, others, strict=True)
            )

    report = check_torch(Product, drawn(4), drawn(4) + 1)
    assert report.ok == (not said), report
    assert said in str(report)


def test_what_differs_or_raises_when_alone_is_wrong():
    class Scaled(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, d):
            if not ctx.needs_input_grad[0]:
                raise ValueError("no x")
            return (d if ctx.needs_input_grad[1] else 3 * d), d

    x, y = check_torch(Scaled, drawn(4), drawn(4) + 1).findings
    assert x.diagnosis.startswith("differs where only x requires a gradient")
    assert x.where[1] == pytest.approx(3 * x.where[2])
    assert y.diagnosis.startswith("raises where only y requires a gradient")
    assert "ValueError: no x" in y.diagnosis


@pytest.mark.parametrize("needed", ["weight", "bias"])
def test_each_parameter_may_be_the_only_one_that_requires_a_gradient(needed):
    class Affine(Function):
        @staticmethod
        def forward(ctx, x, w, b):
            ctx.save_for_backward(x, w)
            return x * w + b

        @staticmethod
        def backward(ctx, d):
            x, w = ctx.saved_tensors
            dw, db = (d * x).sum(0), d.sum(0)
            if not ctx.needs_input_grad[0]:
                dw, db = (None, db) if needed == "weight" else (dw, None)
            return d * w, dw, db

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(drawn(3)), nn.Parameter(drawn(3))

        def forward(self, x):
            return Affine.apply(x, self.weight, self.bias)

    report = check_torch(Scale(), drawn(4, 3), reference=lambda x, weight, bias: x * weight + bias)
    (wrong,) = [finding for finding in report.findings if not finding.ok]
    assert wrong.name == needed
    assert f"(None) where only {needed} requires a gradient" in wrong.diagnosis


class Two(Function):
    """Two outputs, and a backward pass that gets None for one without a cotangent."""

    @staticmethod
    def forward(ctx, x, careful):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        ctx.careful = careful
        return x * x, x.sin()

    @staticmethod
    def backward(ctx, a, b):
        (x,) = ctx.saved_tensors
        if not ctx.careful:
            return 2 * x * a + (0 if b is None else b * x.cos()), None
        return (0 if a is None else 2 * x * a) + (0 if b is None else b * x.cos()), None


def test_each_output_may_be_the_only_one_with_a_cotangent():
    assert check_torch(Two, drawn(4), True).ok
    (finding,) = check_torch(Two, drawn(4), False).findings
    assert finding.diagnosis.startswith("raises where only output 1 has a cotangent")
    assert "ctx.set_materialize_grads(False)" in finding.diagnosis
    assert "TypeError" in finding.diagnosis


def square_of(**also):
    """A right ``autograd.Function``, with other methods."""
    return type("Square", (function(lambda x: x * x, lambda d, x: 2 * x * d),), also)


def half(x):
    return function(lambda x: x * x, lambda d, x: x * d).apply(x)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    def kept(fn):
        return lambda *args: checkpoint(fn, *args, use_reentrant=reentrant)

    class Layer(nn.Linear):
        def forward(self, x):
            return kept(lambda x: square_of().apply(super(Layer, self).forward(x)))(x)

    layer, x = Layer(3, 2), drawn(4, 3)
    layer.weight.grad = ones = torch.ones(2, 3)
    squared = lambda x: square_of().apply(x.sin())  # noqa: E731
    assert_torch_matches(kept(squared), x, reference=lambda x: x.sin() ** 2)
    assert_torch_matches(square_of(), x, reference=kept(lambda x: x * x))
    assert_torch_matches(lambda x: layer(x), x, reference=lambda x: layer(x))
    report = check_torch(layer, x, reference=lambda x, weight, bias: F.linear(x, weight, bias) ** 2)
    assert report.ok, report
    assert len(report.findings) == 3
    assert ("weight has no gradient where no input of checkpoint" in str(report)) == reentrant
    assert layer.weight.grad is ones
    assert torch.equal(ones, torch.ones(2, 3))
    assert layer.bias.grad is None
    wrong = check_torch(kept(half), x, reference=lambda x: x * x)
    assert "scaled by 1/2" in wrong.findings[0].diagnosis


def in_bfloat16(fn):
    def cast(*args):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return fn(*args)

    return cast


def test_autocast_allows_its_own_errors():
    product = function(lambda x, w: x @ w, lambda d, x, w: inner(d.float(), x, w)).apply
    x, w = drawn(6, 5), drawn(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = check_torch(product, x, w, reference=torch.matmul)
        assert check_torch(square_of(), x).notes == ()
    within = check_torch(in_bfloat16(product), x, w, reference=in_bfloat16(torch.matmul))
    for report in (around, within):
        assert report.ok, report
        assert "reference casts to bfloat16: errors up to 0.12 of the largest are allowed" in report.notes
    squared = in_bfloat16(lambda x, w: (x @ w) ** 2)
    wrong = check_torch(in_bfloat16(lambda x, w: half(x @ w)), x, w, reference=squared)
    assert [finding.diagnosis[:13] for finding in wrong.findings] == ["scaled by 1/2"] * 2


def test_nan_is_reported_where_anomalies_are_detected():
    bad = square_of(backward=staticmethod(lambda ctx, d: d * float("nan")))
    with torch.autograd.set_detect_anomaly(True):
        assert check_torch(bad, drawn(4)).findings[0].diagnosis == "NaN"
        assert torch.is_anomaly_enabled()


def test_what_is_kept_on_ctx_is_noted():
    class Kept(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.x, ctx.y, ctx.z = x, x.exp(), x.clone()
            return ctx.y

        @staticmethod
        def backward(ctx, d):
            return d * ctx.y

    leaks, misses = sorted(check_torch(Kept, drawn(4)).notes, reverse=True)
    assert leaks == "ctx.y is an output, a cycle that leaks memory: use ctx.save_for_backward"
    assert misses.startswith("ctx.x is argument x: PyTorch notices whether it is modified")


@pytest.mark.parametrize("marked", [True, False])
def test_a_function_in_place_must_mark_its_argument(marked):
    class Triple(Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(3)
            if marked:
                ctx.mark_dirty(x)
            return x if marked else x.clone()

        @staticmethod
        def backward(ctx, d):
            return 3 * d

    report = check_torch(Triple, drawn(4), reference=lambda x: 3 * x)
    assert report.ok
    assert "argument x was modified by fn" in report.notes
    said = "argument x was modified unknown to autograd: ctx.mark_dirty is missing"
    assert (said in report.notes) != marked


def test_the_rules_for_forward_mode_and_vmap_are_not_checked():
    rules = {"jvp": staticmethod(lambda ctx, t: 7 * t), "vmap": staticmethod(lambda *args: 1 / 0)}
    assert check_torch(square_of(**rules), drawn(4)).notes == (
        "jvp and vmap of Square: not checked, only backward is",
    )
    assert check_torch(square_of(), drawn(4)).notes == ()


class Mapped(Function):
    """A function for ``torch.func``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, d):
        return 3 * ctx.saved_tensors[0] ** 2 * d


FOR_TORCH_FUNC = {
    "itself": (Mapped, lambda x: x**3),
    "vmap": (torch.vmap(Mapped.apply), lambda x: x**3),
    "grad": (torch.func.grad(lambda x: Mapped.apply(x).sum()), lambda x: 3 * x**2),
    "jacrev": (torch.func.jacrev(Mapped.apply), lambda x: torch.diag(3 * x**2)),
    "vjp": (lambda x: torch.func.vjp(Mapped.apply, x)[1](x)[0], lambda x: 3 * x**3),
    "compiled": (torch.compile(Mapped.apply, backend="eager"), lambda x: x**3),
    "twice": (
        lambda x: torch.autograd.grad(Mapped.apply(x).sum(), x, create_graph=True)[0],
        lambda x: 3 * x**2,
    ),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:<class 'torch.autograd.function.Function'>")
@pytest.mark.parametrize("name", FOR_TORCH_FUNC)
def test_functions_for_torch_func(name):
    fn, reference = FOR_TORCH_FUNC[name]
    assert_torch_matches(fn, drawn(4), reference=reference)


def both_of(x):
    return x.softmax(-1), x.logsumexp(-1)


def test_an_output_without_a_gradient_is_noted():
    report = check_torch(lambda x: (both_of(x)[0], both_of(x)[1].detach()), drawn(4, 3), reference=both_of)
    assert report.ok
    assert "output 1 of fn is not differentiable: its cotangent is taken to be 0" in report.notes
    assert check_torch(both_of, drawn(4, 3), reference=both_of).notes == ()


KEPT = torch.tensor([1.0, 0, 1, 1, 0])[:, None]
EXPLAINED = {  # without steps to search: forward, backward, inputs, what is said
    "the root of a size": (
        lambda q, k: q @ k.mT / 8**0.5, lambda d, q, k: (d @ k, d.mT @ q / 8**0.5),
        [drawn(4, 8), drawn(5, 8)], "scaled by √8 (axis 1 of inputs[0]): 1/√8 is missing"),
    "its inverse": (
        lambda q, k: q @ k.mT / 8**0.5, lambda d, q, k: (-d @ k / 8, d.mT @ q / 8**0.5),
        [drawn(4, 8), drawn(5, 8)], "sign flipped and scaled by 1/√8 (axis 1 of inputs[0]): 1/√8 is applied"),
    "all samples for those that count": (
        lambda x: (x**2 * KEPT).sum() / KEPT.sum(), lambda d, x: 2 * d * x * KEPT / 5, [drawn(5, 3)],
        "divided by N = 5 (axis 0 of inputs[0]) instead of 3, the number of samples with a gradient"),
    "another number": (lambda x: x**2, lambda d, x: 1.37 * 2 * x * d, [drawn(5, 3)], "scaled by 1.37, which"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_factor_is_explained_by_the_sizes(name):
    forward, backward, tensors, said = EXPLAINED[name]
    assert said in str(check_torch(function(forward, backward), *tensors, reference=forward))


@pytest.mark.parametrize("used", [0, 1])
def test_an_ignored_cotangent_is_named(used):
    class Both(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return both_of(x)

        @staticmethod
        def backward(ctx, *douts):
            p = softmax(ctx.saved_tensors[0])
            return (softmax_back(douts[0], *ctx.saved_tensors), douts[1][:, None] * p)[used]

    (finding,) = check_torch(Both, drawn(4, 3), reference=both_of).findings
    assert finding.diagnosis == f"the cotangent of output {2 - used} of 2 is ignored"


def test_a_function_need_not_be_more_precise_than_its_reference():
    def in_float32(x):
        return (x.float() ** 3).type_as(x)

    x = drawn(4, dtype=torch.float64)
    assert check_torch(in_float32, x, reference=in_float32).ok
    report = check_torch(in_float32, x, reference=lambda x: x**3)
    assert "imprecise" in report.findings[0].diagnosis
    wrong = check_torch(lambda x: 1.001 * in_float32(x), x, reference=in_float32)
    assert not wrong.ok


def test_a_reference_that_loses_digits_has_no_kinks():
    def filled(x):
        out = torch.zeros(x.shape)
        out[:] = x**2
        return out

    report = check_torch(lambda x: x**2, drawn(4), reference=filled)
    assert report.ok, report
    assert report.notes == ()


def test_random_numbers_that_differ_in_float64_are_refused():
    dropped, x = (lambda x: x * (torch.rand_like(x) > 0.5)), drawn(4, 3)
    with pytest.raises(InputError, match="reference draws random numbers, which differ in float64"):
        check_torch(dropped, x, reference=dropped)
    same = lambda x, g: x * (torch.rand(x.shape, dtype=x.dtype, generator=g) > 0.5)  # noqa: E731
    with pytest.raises(InputError, match="pass the numbers as an argument, or give float64 tensors"):
        check_torch(same, x, torch.Generator().manual_seed(3), reference=same)
    assert check_torch(dropped, x.double(), reference=dropped).ok
    assert not check_torch(lambda x: 2 * dropped(x), x.double(), reference=dropped).ok
    small = lambda x: 1e-3 * dropped(x)  # noqa: E731
    with pytest.raises(InputError, match="reference draws random numbers, which differ in float64"):
        check_torch(small, x, reference=small)


def test_the_error_that_a_reference_s_cast_allows_is_noted():
    def cast(x):
        return (x.to(torch.bfloat16).to(x.dtype) ** 2).sum()

    report = check_torch(lambda x: (x**2).sum(), drawn(4, 3), reference=cast)
    assert "reference casts to bfloat16: errors up to 0.12 of the largest are allowed" in report.notes


def test_apply_is_as_good_as_its_class():
    forward, backward, tensors, _ = FUNCTIONS["softmax"]
    mine = function(forward, backward)
    report = check_torch(mine.apply, *tensors)
    assert report.ok
    assert report.findings == check_torch(mine, *tensors).findings


def test_without_a_reference_the_functions_own_forward_is_differentiated():
    forward, backward, tensors, _ = FUNCTIONS["softmax"]
    assert check_torch(function(forward, backward), *tensors).ok
    setup = type("Setup", (Function,), {
        "forward": staticmethod(lambda x: 2 * x),
        "setup_context": staticmethod(lambda ctx, inputs, output: None),
        "backward": staticmethod(lambda ctx, d: 3 * d),
    })  # fmt: skip
    assert not check_torch(setup, drawn(4)).ok


def test_with_jax_the_cause_is_found_step_by_step():
    wrong = function(lambda x, w: torch.tanh(x @ w), lambda d, x, w: (d @ w.mT, x.mT @ d))
    report = check_torch(wrong, drawn(6, 5), drawn(5, 4), against=lambda x, w: jnp.tanh(x @ w))
    assert "tanh" in report.findings[0].diagnosis


def test_modified_arguments_are_reported_and_the_callers_tensors_are_unchanged():
    def back(d, x):
        d *= 2 * x.clone()
        x += 0.1
        return d

    x = drawn(4, 5)
    before = x.clone()
    report = check_torch(function(lambda x: x * x, back), x, names=["x"])
    assert "raises where the cotangent is broadcast" in report.findings[0].diagnosis  # as by y.sum()
    assert {"argument x was modified by backward", "the cotangent was modified by backward"} <= {
        *report.notes
    }
    assert torch.equal(x, before)
    assert x.grad is None
    assert not x.requires_grad


def state():
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
        torch.get_rng_state().tolist(), torch.get_num_threads(),
        str(np.random.get_state()), random.getstate(), jax.config.jax_enable_x64,
    )  # fmt: skip


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_check_works_in_every_mode_and_changes_nothing(mode):
    def careless(x, noise, generator):
        torch.set_grad_enabled(True)
        noise += np.random.rand() + random.random()
        return x * float(noise[0]) * torch.rand((), generator=generator)

    noise, generator = np.zeros(1), torch.Generator().manual_seed(3)
    norm = nn.BatchNorm1d(3)
    kept = [t.clone() for t in norm.state_dict().values()]
    with mode():
        before = state(), generator.get_state().tolist()
        report = check_torch(careless, drawn(4), noise, generator, reference=careless)
        assert_torch_matches(norm, drawn(4, 3).requires_grad_(), reference=norm)
        assert before == (state(), generator.get_state().tolist())
    assert report.ok, report
    assert noise.tolist() == [0]
    assert all(map(torch.equal, kept, norm.state_dict().values()))
    assert all(p.grad is None and p.requires_grad for p in norm.parameters())


def test_the_callers_random_state_is_restored():
    torch.manual_seed(5)
    first = torch.rand(2)
    torch.manual_seed(5)
    assert_torch_matches(nn.Dropout(0.5), drawn(4, 3), reference=nn.Dropout(0.5))
    assert torch.equal(torch.rand(2), first)


class Holder(nn.Module):
    def __init__(self, *held):
        super().__init__()
        self.held = {"generators": held}

    def forward(self, x):
        return drops(x, *self.held["generators"])


HELD = torch.Generator().manual_seed(3), np.random.default_rng(3), np.random.RandomState(3), random.Random(3)


def drops(x, ours, new, old, plain):
    """A mask and a factor from four generators."""
    return x * (torch.rand(x.shape, generator=ours) > 0.5) * float(new.random() + old.rand() + plain.random())


class Drops(Function):
    @staticmethod
    def forward(ctx, x):
        mask = drops(torch.ones_like(x), *HELD)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx, d):
        return d * ctx.saved_tensors[0]


HOLDERS = {
    "given": (drops, HELD),
    "given in a list": (lambda x, held: drops(x, *held), [list(HELD)]),
    "a closure": ((lambda *held: lambda x: drops(x, *held))(*HELD), ()),
    "a global": (lambda x: drops(x, *HELD), ()),
    "a partial": (functools.partial(lambda held, x: drops(x, *held), HELD), ()),
    "a default": (lambda x, held=HELD: drops(x, *held), ()),
    "a module": (Holder(*HELD), ()),
    "a Function": (Drops, ()),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_generators_are_held(name):
    fn, args = HOLDERS[name]
    kept = closures.states_of(torch, [HELD])
    assert len(kept) == 4
    report = check_torch(fn, drawn(4, 3), *args, reference=None if fn is Drops else fn)
    assert report.ok, report
    assert not closures.drawn_from(kept)
    plain = getattr(fn, "apply", fn) if fn is Drops else fn
    wrong = lambda x, *args: half(plain(x, *args))  # noqa: E731
    report = check_torch(wrong, drawn(4, 3), *args, reference=lambda x, *args: plain(x, *args) ** 2)
    assert "scaled by 1/2" in report.findings[0].diagnosis


def test_wrt_and_no_gradient():
    wrong = function(lambda x, w: x * w, lambda d, x, w: (d * w, None))
    report = check_torch(wrong, drawn(4), drawn(4), reference=lambda x, w: x * w, names=["x", "w"])
    assert [f.diagnosis for f in report.findings] == ["", "no gradient was returned (None)"]
    assert check_torch(wrong, drawn(4), drawn(4), reference=lambda x, w: x * w, names=["x", "w"], wrt="x").ok


def test_parameters_that_no_reference_accepts_are_named():
    report = check_torch(nn.Linear(3, 3), drawn(4, 3), reference=nn.Linear(3, 3).requires_grad_(False))
    assert report.ok
    scaled = nn.Linear(3, 3, bias=False)
    weight = scaled.weight.detach().double()
    (note,) = check_torch(scaled, drawn(4, 3), reference=lambda x: x @ weight.mT).notes[-1:]
    assert "parameters were not checked: no function to compare with takes weight" in note


@pytest.mark.parametrize("strides", [(3, 1), (1, 4), (6, 2), (0, 1), (-6, -1)])
def test_layouts_are_those_of_the_array(strides):
    array = np.lib.stride_tricks.as_strided(
        np.arange(60.0)[20:], (4, 3), [8 * s for s in strides], writeable=False)  # fmt: skip
    tensor = made.tensor_of(torch, array, "cpu")
    assert np.array_equal(tensor.numpy(), array)
    assert tensor.stride() == tuple(map(abs, strides))


COUNT = itertools.count(1)
MINE = function(F.relu, F.relu)
INSTANCE = MINE.__new__(MINE)

BAD = {
    "without a backward pass": (lambda x: x.detach(), [drawn(3)], "fn has no backward pass"),
    "autograd.Function without backward": (
        type("Half", (Function,), {"forward": staticmethod(lambda ctx, x: 2 * x)}), [drawn(3)],
        "You must implement either the backward or vjp method"),
    "returns None": (lambda x: None, [drawn(3)], "fn returned None, expected a tensor"),
    "a gradient of another shape": (
        function(lambda x: 2 * x, lambda d, x: d[:2]), [drawn(3)],
        "got [2] but expected shape compatible with [3]"),
    "two devices": (lambda x, y: x, [drawn(3), torch.empty(3, device="meta")], "x is on cpu, y on meta"),
    "a reference of another shape": (F.silu, [drawn(3)], "reference returned (), expected (3,)"),
    "raises": (lambda x: 1 / 0, [drawn(3)], "fn raised ZeroDivisionError"),
    "raises at length": (lambda x: exec(f"raise ValueError({'x' * 1000!r})"), [drawn(3)], "xxx…"),
    "no floats": (lambda x: x, [torch.arange(3)], "no argument is floating-point"),
    "no tensor": (lambda x: x, [3], "no argument is floating-point"),
    "complex": (lambda x: x, [drawn(3) + 1j], "expected an array of real numbers"),
    "sparse": (lambda x: x, [drawn(3).to_sparse()], "x is a tensor that is torch.sparse_coo"),
    "meta": (lambda x: x, [drawn(3).to("meta")], "x is a tensor that is on meta"),
    "8 bits": (lambda x: x, [drawn(3).to(torch.float8_e5m2)], "x is torch.float8_e5m2, expected one of"),
    "a subclass": (
        lambda x: x, [drawn(3).as_subclass(type("Mine", (torch.Tensor,), {}))],
        "x is a Mine, expected a plain tensor (.as_subclass(torch.Tensor) makes one)"),
    "NumPy": (
        lambda x: x, [np.ones(3)], "x is float64[3] of NumPy, expected a tensor (torch.tensor converts it)"),
    "a list": (lambda x: x[0], [[1.0, 2.0]], "x is [1.0, 2.0]"),
    "keys of two kinds": (lambda x: x["a"], [{"a": drawn(3), 1: drawn(3)}], "x is a dict, expected arrays"),
    "returns such keys": (lambda x: {"a": x, 1: x}, [drawn(3)], "fn returned a dict, expected arrays"),
    "returns meta": (lambda x: x.to("meta"), [drawn(3)], "fn returned a tensor that is on meta"),
    "returns 8 bits": (
        lambda x: x.to(torch.float8_e5m2), [drawn(3)], "fn returned torch.float8_e5m2, expected one of"),
    "an instance": (INSTANCE, [drawn(3)], "fn is an instance of Mine, expected the class"),
    "not initialised": (nn.LazyLinear(2), [drawn(4, 3)], "fn has parameters without a shape"),
    "leaves Python": (lambda x: sys.exit(3), [drawn(3)], "fn raised SystemExit: 3"),
    "empty": (lambda x: x, [drawn(0)], "at least one element"),
    "arguments": (lambda x: x, [drawn(3), drawn(3)], "2 arguments do not match the function"),
    "half complex": (lambda x: x, [HALF], "x is complex32[3], expected an array of real"),
    "returns complex": (lambda x: x + 1j, [drawn(3)], "fn returned complex64[3], expected an array of real"),
    "a class of modules": (nn.Linear, [drawn(3)], "fn is the class Linear, expected an instance of it"),
    "no function": (3, [drawn(3)], "fn is 3, expected a function"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gives_one_line(name):
    fn, tensors, said = BAD[name]
    with pytest.raises(InputError) as error:
        check_torch(fn, *tensors, reference=lambda *args: args[0].sum())
    assert str(error.value).startswith("check_torch: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "give reference="),
        ({"reference": F.relu, "against": jax.nn.relu}, "both given"),
        ({"reference": 3}, "reference is 3, expected a PyTorch function"),
        ({"reference": F.relu, "wrt": "z"}, "wrt has 'z', expected names among x, or positions"),
        ({"reference": F.relu, "wrt": -1}, "wrt has -1, expected names among x, or positions"),
        ({"reference": F.relu, "wrt": True}, "wrt has True, expected names"),
        ({"reference": F.relu, "seed": True}, "seed is True, expected an integer of at least 0"),
        ({"reference": F.relu, "draws": True}, "draws is True, expected an integer of at least 1"),
        ({"reference": F.relu, "wrt": torch.tensor(0)}, "wrt has a Tensor, expected names"),
        ({"reference": F.relu, "wrt": itertools.count()}, "wrt has 1, expected names"),
        ({"reference": F.relu, "names": itertools.repeat("a")}, "expected 1 name, one for each argument"),
        ({"reference": F.relu, "names": [""]}, "names is ('',), expected 1 name, one for each argument"),
        ({"reference": nn.Linear}, "reference is the class Linear, expected an instance"),
        ({"reference": lambda x: x * next(COUNT)}, "reference differs from call to call"),
        ({"reference": lambda x: sys.exit(3)}, "reference raised SystemExit: 3"),
        ({"reference": lambda x: {"a": x, 1: x}}, "reference raised"),
        (
            {"reference": lambda x: nn.LSTM(3, 3)(x[None])[0][0]},
            "it is called in float64: pass its other tensors as arguments, or give the module itself",
        ),
        ({"reference": lambda x: x.to("meta")}, "reference returned a tensor that is on meta"),
        ({"reference": F.relu, "wrt": ()}, "wrt is (), expected at least one name"),
        ({"reference": lambda x: x.detach()}, "autograd cannot differentiate"),
        ({"against": "softmax_cross"}, "no formula is called"),
    ],
)
def test_bad_settings_give_one_line(settings, said):
    with pytest.raises(InputError, match=r"^check_torch: ") as error:
        check_torch(lambda x: F.relu(x), drawn(3), **settings)
    assert said in str(error.value)


def test_tensors_in_a_list_are_unknown_to_a_function():
    of_list = type("OfList", (Function,), {"forward": staticmethod(lambda ctx, xs: xs[0] * 2)})
    with pytest.raises(
        InputError, match=r"which a torch\.autograd\.Function does not see in lists and dicts"
    ):
        check_torch(of_list, [drawn(3)], reference=lambda xs: xs[0] * 2)


def test_two_arguments_have_different_names():
    with pytest.raises(InputError, match=r"names is .*, expected 2 different names, one for each argument"):
        check_torch(torch.add, drawn(3), drawn(3), reference=torch.add, names=["x", "x"])


def test_a_reference_that_modifies_its_argument_is_noted():
    def modifies(x):
        x.data.mul_(2)
        return x**2

    report = check_torch(lambda x: 4 * x**2, drawn(3), reference=modifies)
    assert "argument x was modified by reference" in report.notes


BAD_WORDS = {
    "Half --torch --input x=8 --reference plain": "--reference is 'plain', expected file.py:function",
    "Half --torch --input x=8 --reference plain --against theirs.py:plain": (
        "--reference is 'plain', expected file.py:function"
    ),
    "Half --torch --input x=8 --wrt z": "--wrt is 'z', expected one of x",
    "linear --torch --input x=4x3 --wrt z": "--wrt is 'z', expected one of x, weight, bias",
    "Linear --torch --input x=8": "theirs.py:Linear is a class of modules, expected an instance of it",
    "sine --torch --input x=8": "theirs.py:sine has parameters without names, expected a Python function",
    "anything --torch --input x=8": "theirs.py:anything takes *x, expected named parameters",
}


def test_the_command(monkeypatch, capsys, tmp_path):
    (tmp_path / "theirs.py").write_text(
        "import torch\nclass Half(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x):\n        ctx.save_for_backward(x)\n        return x**2\n"
        "    @staticmethod\n    def backward(ctx, d):\n        return ctx.saved_tensors[0] * d\n"
        "def plain(x):\n    return x * x\n"
        "apply, linear, Linear, sine = Half.apply, torch.nn.Linear(3, 2), torch.nn.Linear, torch.sin\n"
        "def anything(*x):\n    return x[0]\n"
    )
    monkeypatch.chdir(tmp_path)

    def run(words):
        monkeypatch.setattr(sys, "argv", ["manual-grad", "check", *words.split()])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    for words in (
        "theirs.py:Half --torch",
        "theirs:Half --torch --reference theirs.py:plain --dtype bfloat16",
    ):
        code, out, _ = run(f"{words} --input x=8x3")
        assert code == 1
        assert "scaled by 1/2" in out
        assert "torch.autograd" in out
    code, out, err = run("theirs.py:plain --torch --input x=8x3")
    assert (code, out) == (2, "")
    assert "give --reference, the same function in plain PyTorch, or --against" in err
    assert run("theirs.py:plain --torch --input x=8 --device nowhere")[0] == 2
    assert run("theirs.py:apply --torch --input x=8")[0] == 1
    linear = "theirs.py:linear --torch --input x=4x3 --reference theirs:linear"
    assert run(f"{linear} --wrt weight --json found.json")[0] == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["passed"]
    assert found["truth"] == "torch.autograd"
    assert found["environment"]["torch"] == torch.__version__
    assert [finding["name"] for finding in found["findings"]] == ["weight"]
    for words, said in BAD_WORDS.items():
        assert run(f"theirs.py:{words}") == (2, "", f"manual-grad: {said}\n")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run("theirs.py:Half --torch --input x=8")[::2] == (
        2, "manual-grad: --torch needs PyTorch: pip install 'manual-grad[torch]'\n"
    )  # fmt: skip


def test_a_missing_pytorch_is_named_with_its_extra(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match=r"pip install 'manual-grad\[torch\]'"):
        check_torch(abs, 1.0)
