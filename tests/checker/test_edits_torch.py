"""Edits of PyTorch functions: what makes a wrong backward pass right is named, with its file and line.

Skipped where PyTorch is not installed, as ``test_pytorch.py`` is.
"""

import importlib.util
import itertools
import json
import os

import pytest

from manual_grad.checker import pytorch
from manual_grad.checker.edits import running, search, stopping
from manual_grad.checker.edits.observed import as_array
from manual_grad.cli import app as cli
from manual_grad.verify import check_torch

if os.environ.get("MANUAL_GRAD_NEEDS_TORCH"):
    import torch
else:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'manual-grad[torch]'")

SOURCE = """
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


class LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gamma, beta):
        mean = x.mean(-1, keepdim=True)
        rstd = (((x - mean) ** 2).mean(-1, keepdim=True) + 1e-5).rsqrt()
        xhat = (x - mean) * rstd
        ctx.save_for_backward(xhat, rstd, gamma)
        return xhat * gamma + beta

    @staticmethod
    def backward(ctx, grad):
        xhat, rstd, gamma = ctx.saved_tensors
        dxhat = grad * gamma
        inner = (dxhat * xhat).mean(dim=-1, keepdim=True)
        dx = (dxhat - dxhat.mean(dim=-1, keepdim=True) - xhat * inner) * rstd
        dgamma = (grad * xhat).sum(0)
        dbeta = grad.sum(0)
        return dx, dgamma, dbeta


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(x, weight, shift):
        return x * weight + shift, x.sum()

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        x, weight = ctx.saved_tensors
        dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (grad * x).sum(0)
        return grad * weight, dweight, None


class Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, index, keep, weight):
        ctx.save_for_backward(index, keep)
        ctx.rows = weight.shape[0]
        return torch.where(keep[:, None], weight[index], 0 * weight[index])

    @staticmethod
    def backward(ctx, grad):
        index, keep = ctx.saved_tensors
        per = torch.where(keep[:, None], grad, torch.zeros_like(grad))
        dweight = grad.new_zeros(ctx.rows, grad.shape[1])
        dweight.index_add_(0, index, per)
        return None, None, dweight


class Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        p = F.softmax(torch.matmul(q, k.transpose(-2, -1)), dim=-1)
        ctx.save_for_backward(q, k, v, p)
        return torch.matmul(p, v)

    @staticmethod
    def backward(ctx, grad):
        q, k, v, p = ctx.saved_tensors
        dv = torch.matmul(p.transpose(-2, -1), grad)
        dp = torch.matmul(grad, v.transpose(-2, -1))
        ds = p * (dp - (dp * p).sum(dim=-1, keepdim=True))
        return torch.matmul(ds, k), torch.matmul(ds.mT, q), dv


class Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        y = x @ w
        ctx.save_for_backward(x, w, y)
        return F.relu(y)

    @staticmethod
    def backward(ctx, grad):
        x, w, y = ctx.saved_tensors
        g = grad.clone()
        g[y < 0] = 0
        dw = x.T.mm(g)
        return g.mm(w.T), dw


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 1.5, 5))

    def forward(self, x):
        return Scaled.apply(x, self.weight, 0.5)[0]


def scaled_in_plain_pytorch(x, weight):
    return x * weight + 0.5
"""


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


ARGUMENTS = {
    "LayerNorm": (drawn(4, 6), drawn(6), drawn(6).abs()),
    "Scaled": (drawn(4, 5), drawn(5), 0.5),
    "Embedding": (torch.tensor([1, 3, 1, 0]), torch.tensor([True, True, True, False]), drawn(4, 5)),
    "Attention": (drawn(2, 5, 5), 2 * drawn(2, 5, 5), drawn(2, 5, 5).sin()),
    "Masked": (drawn(4, 5), drawn(5, 3)),
    "Module": (drawn(4, 5),),
}
MISTAKES = [  # the class, what stands in the right one, what stands in its place
    ("LayerNorm", "ctx.save_for_backward(xhat, rstd, gamma)", "ctx.save_for_backward(x, rstd, gamma)"),
    ("LayerNorm", "return dx, dgamma, dbeta", "return dx, dbeta, dgamma"),
    ("LayerNorm", "return dx, dgamma, dbeta", "return dx, dgamma, None"),
    ("LayerNorm", "mean(dim=-1, keepdim=True) - xhat", "mean(dim=0, keepdim=True) - xhat"),
    ("LayerNorm", "(dxhat * xhat).mean(dim=-1, keepdim=True)", "(dxhat * xhat).mean()"),
    ("Scaled", "ctx.needs_input_grad[1]", "ctx.needs_input_grad[2]"),
    ("Scaled", "return grad * weight, dweight, None", "return grad, dweight, None"),
    ("Scaled", "dweight = (grad * x)", "dweight = (grad * weight)"),
    ("Embedding", "dweight.index_add_(0, index, per)", "dweight[index] += per"),
    ("Embedding", "grad, torch.zeros_like(grad))", "torch.zeros_like(grad), grad)"),
    ("Attention", "torch.matmul(ds.mT, q)", "torch.matmul(ds, q)"),
    ("Attention", "ctx.save_for_backward(q, k, v, p)", "ctx.save_for_backward(k, q, v, p)"),
    ("Masked", "g = grad.clone()", "g = grad.clone().mul_(0.5)"),
    ("Masked", "return g.mm(w.T), dw", "return grad.mm(w.T), dw"),
    ("Masked", "dw = x.T.mm(g)", "dw = x.T.mm(grad)"),
    ("Module", "return grad * weight, dweight, None", "return grad, dweight, None"),
]  # fmt: skip


@pytest.fixture
def loaded(tmp_path):
    number = itertools.count()

    def load(source):
        path = tmp_path / f"mine{next(number)}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def checked(module, name, dtype=torch.float32):
    given = [t.to(dtype) if torch.is_tensor(t) and t.is_floating_point() else t for t in ARGUMENTS[name]]
    if name == "Module":
        return check_torch(module.Module().to(dtype), *given, reference=module.scaled_in_plain_pytorch)
    return check_torch(getattr(module, name), *given)


def test_right_functions_are_not_edited(loaded, monkeypatch):
    monkeypatch.setattr(search, "search_of", None)
    module = loaded(SOURCE)
    for name in ARGUMENTS:
        assert checked(module, name).ok


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "right", "wrong"), MISTAKES)
def test_mistakes_in_one_place_are_named_with_their_line(loaded, name, right, wrong, dtype):
    start = SOURCE.index("class Scaled" if name == "Module" else f"class {name}")
    at = SOURCE.index(right, start)
    module = loaded(SOURCE[:at] + wrong + SOURCE[at + len(right) :])
    line = SOURCE[:at].count("\n") + 1
    bad = [finding for finding in checked(module, name, dtype).findings if not finding.ok]
    assert bad
    there = f".py:{line}: right with", "= ctx.saved_tensors`"  # what is saved, or how it is taken out again
    assert all(any(text in finding.edit for text in there) for finding in bad), [f.edit for f in bad]


def test_functions_are_as_they_were_afterwards(loaded):
    module = loaded(SOURCE.replace("dw = x.T.mm(g)", "dw = x.T.mm(grad)"))
    before = module.Masked.backward.__code__, module.Masked.forward.__code__
    assert not checked(module, "Masked").ok
    assert (module.Masked.backward.__code__, module.Masked.forward.__code__) == before


def test_the_command_prints_the_edit_and_the_json_has_it(loaded, monkeypatch, capsys, tmp_path):
    source = SOURCE.replace(
        "ctx.save_for_backward(xhat, rstd, gamma)", "ctx.save_for_backward(x, rstd, gamma)"
    )
    (tmp_path / "theirs.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    shapes = ["--input", "x=4x6", "--input", "gamma=6", "--input", "beta=6"]
    words = ["manual-grad", "check", "theirs.py:LayerNorm", "--torch", *shapes, "--json", "found.json"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    said = "theirs.py:13: right with `ctx.save_for_backward(xhat, rstd, gamma)`"
    assert "theirs.py:13: right with" in " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert [finding["edit"].startswith(said) for finding in found] == [True, True, False]


def test_installed_packages_are_never_edited(tmp_path, monkeypatch):
    """PyTorch may be installed anywhere on the path; its own functions are not the user's."""
    package = tmp_path / "theirs" / "inner"
    package.mkdir(parents=True)
    (tmp_path / "theirs-1.0.dist-info").mkdir()
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("def f(x):\n    return x\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "code.py").write_text("def f(x):\n    return x\n")
    assert not running.is_own(str(package / "__init__.py"))
    assert running.is_own(str(tmp_path / "mine" / "code.py"))
    assert not running.is_own(torch.nn.functional.__file__)


def test_a_call_is_stopped_whose_exception_was_lost():
    """A callback or the user's own code may catch the exception: it is raised again."""
    watch, caught = stopping.Watch(), []

    def endless():
        while True:
            try:
                while True:
                    pass
            except BaseException as error:
                caught.append(error)
                if len(caught) == 3:
                    raise

    with watch.watching(), pytest.raises(TimeoutError):
        watch.called(endless, 0.1)
    assert len(caught) == 3


IN_A_THREAD = """
import threading

import torch


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        got = []

        def work():
            n = 0
            while n < 3:
                n += 1
            got.append(n * x * grad)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join()
        return got[0]
"""


@pytest.mark.parametrize("again", [True, False])
def test_on_another_device_only_copies_on_the_cpu_are_edited(loaded, monkeypatch, again):
    """A wrong index on a GPU ends all work there: without copies that give the same, nothing is edited."""
    made = pytorch.Question

    def away(*args, **settings):
        return made(*args, **settings | {"away": True} | ({} if again else {"rerun": None}))

    monkeypatch.setattr(pytorch, "Question", away)
    module = loaded(SOURCE.replace("dw = x.T.mm(g)", "dw = x.T.mm(grad)"))
    bad = [finding for finding in checked(module, "Masked").findings if not finding.ok]
    assert [bool(finding.edit) for finding in bad] == [again]


def test_an_edit_that_writes_to_the_cotangent_is_none(loaded):
    module = loaded(SOURCE.replace("g = grad.clone()", "g = 0.5 * grad"))
    for finding in checked(module, "Masked").findings:
        assert "right with `g" in finding.edit


def test_what_runs_in_another_thread_is_not_edited(loaded):
    """A loop that an edit makes endless could not be stopped there, nor the thread that waits for it."""
    (finding,) = check_torch(loaded(IN_A_THREAD).Cube, torch.linspace(-1, 2, 5)).findings
    assert not finding.ok
    assert not finding.edit


def test_values_of_every_kind_of_tensor_are_seen():
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool):
        seen = as_array(torch.ones(2, 3, requires_grad=dtype.is_floating_point, dtype=dtype))
        assert seen is not None
        assert seen.shape == (2, 3)
    assert as_array(torch.ones(2).to_sparse()) is None
    assert as_array(torch.ones(2, device="meta")) is None
