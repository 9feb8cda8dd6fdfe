"""``check_torch``: PyTorch's own functions are right, wrong ``autograd.Function``s are not.

Skipped where PyTorch is not installed: it is large, and only these tests need it. ``.ci/run`` installs it.
"""

import importlib
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_grad.border import InputError
from manual_grad.checker import pytorch
from manual_grad.cli import app as cli
from manual_grad.digits import MissingExtra
from manual_grad.verify import assert_torch_matches, check_torch

if os.environ.get("MANUAL_GRAD_NEEDS_TORCH"):
    import torch
else:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'manual-grad[torch]'")
F, Function, nn = torch.nn.functional, torch.autograd.Function, torch.nn


def drawn(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def layer_norm(x, g, b):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * g + b


def attention(q, k, v):
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    return torch.softmax(scores, -1) @ v


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
    "a dict, and an expanded tensor": (
        lambda p, x: x @ p["w"] + p["b"], [{"w": drawn(3, 2), "b": drawn(2)}, drawn(3).expand(4, 3)],
        {"reference": lambda p, x: torch.addmm(p["b"], x, p["w"])}),
    "a number stays what it is": (
        lambda x, a: F.elu(x, a), [drawn(4, 3, dtype=torch.float64), 0.5],
        {"reference": lambda x, a: torch.where(x > 0, x, a * (x.exp() - 1))}),
    "None where the truth is 0": (
        lambda x, y: 2 * x + 0 * y.detach(), [drawn(3), drawn(4, 1)],
        {"reference": lambda x, y: 2 * x + 0 * y}),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_pytorchs_own_functions_are_right(name):
    fn, tensors, settings = RIGHT[name]
    assert_torch_matches(fn, *tensors, **settings)


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
    assert report.ok
    assert {"argument x was modified by backward", "the cotangent was modified by backward"} <= {
        *report.notes
    }
    assert torch.equal(x, before)
    assert x.grad is None
    assert not x.requires_grad


def test_the_callers_random_state_is_restored():
    torch.manual_seed(5)
    first = torch.rand(2)
    torch.manual_seed(5)
    assert_torch_matches(nn.Dropout(0.5), drawn(4, 3), reference=nn.Dropout(0.5))
    assert torch.equal(torch.rand(2), first)


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
        np.arange(40.0)[20:], (4, 3), [8 * s for s in strides], writeable=False)  # fmt: skip
    tensor = pytorch.tensor_of(torch, array, "cpu")
    assert np.array_equal(tensor.numpy(), array)
    assert tensor.stride() == tuple(map(abs, strides))


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
    "no floats": (lambda x: x, [torch.arange(3)], "no argument is floating-point"),
    "no tensor": (lambda x: x, [3], "no argument is floating-point"),
    "complex": (lambda x: x, [drawn(3) + 1j], "expected an array of real numbers"),
    "sparse": (lambda x: x, [drawn(3).to_sparse()], "x is a tensor that is torch.sparse_coo"),
    "empty": (lambda x: x, [drawn(0)], "at least one element"),
    "arguments": (lambda x: x, [drawn(3), drawn(3)], "2 arguments do not match the function"),
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
        ({"reference": F.relu, "wrt": "z"}, "wrt has 'z', expected names among x"),
        ({"reference": F.relu, "wrt": ()}, "wrt is (), expected at least one name"),
        ({"reference": lambda x: x.detach()}, "autograd cannot differentiate"),
        ({"against": "softmax_cross"}, "no formula is called"),
    ],
)
def test_bad_settings_give_one_line(settings, said):
    with pytest.raises(InputError, match=r"^check_torch: ") as error:
        check_torch(lambda x: F.relu(x), drawn(3), **settings)
    assert said in str(error.value)


def test_the_command(monkeypatch, capsys, tmp_path):
    (tmp_path / "theirs.py").write_text(
        "import torch\nclass Half(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x):\n        ctx.save_for_backward(x)\n        return x**2\n"
        "    @staticmethod\n    def backward(ctx, d):\n        return ctx.saved_tensors[0] * d\n"
        "def plain(x):\n    return x * x\n"
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


def test_a_missing_pytorch_is_named_with_its_extra(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match=r"pip install 'manual-grad\[torch\]'"):
        check_torch(abs, 1.0)
