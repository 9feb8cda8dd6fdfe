"""``check_torch`` on kernels that numba compiles: PyTorch sees nothing but their results.

Skipped where PyTorch or numba is not installed. ``.ci/run`` installs both.
"""

import os

import pytest

from manual_grad.verify import check_torch

if os.environ.get("MANUAL_GRAD_NEEDS_TORCH"):
    import numba
    import torch
else:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'manual-grad[torch]'")
    numba = pytest.importorskip("numba", reason="needs numba: pip install numba")


@numba.njit
def softmax_backward(p, dout, dx, keep):
    """dx_k = p_k (dout_k − Σ_j p_j dout_j); with ``keep`` = 0, the off-diagonal terms are left out."""
    for i in range(p.shape[0]):
        inner = 0.0
        for k in range(p.shape[1]):
            inner += p[i, k] * dout[i, k]
        for k in range(p.shape[1]):
            others = keep * inner + (1 - keep) * p[i, k] * dout[i, k]
            dx[i, k] = p[i, k] * (dout[i, k] - others)


@numba.njit
def scale_flat(dout, dx):
    """dx = 3 dout, entry by entry in memory, as kernels that are given pointers do."""
    for i in range(dx.size):
        dx[i] = 3 * dout[i]


def softmax(keep):
    class Softmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            p = torch.softmax(x, -1)
            ctx.save_for_backward(p)
            return p

        @staticmethod
        def backward(ctx, dout):
            (p,) = ctx.saved_tensors
            dx = torch.empty_like(p)
            softmax_backward(p.numpy(), dout.numpy(), dx.numpy(), keep)
            return dx

    return Softmax.apply


def scaled(contiguous):
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 3 * x

        @staticmethod
        def backward(ctx, dout):
            dout = dout.contiguous() if contiguous else dout
            memory = torch.as_strided(dout, (dout.untyped_storage().size() // dout.itemsize,), (1,), 0)
            dx = torch.zeros(dout.shape)
            n = min(len(memory), dx.numel())
            scale_flat(memory.numpy()[:n], dx.view(-1).numpy()[:n])
            return dx

    return Scaled.apply


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_right_kernel_passes():
    report = check_torch(softmax(1), drawn(4, 5), reference=lambda x: torch.softmax(x, -1))
    assert report.ok, report


def test_a_wrong_kernel_is_explained():
    report = check_torch(softmax(0), drawn(4, 5), reference=lambda x: torch.softmax(x, -1))
    assert not report.ok
    assert "off-diagonal terms" in str(report)


def test_a_kernel_that_ignores_strides_is_explained():
    assert check_torch(scaled(contiguous=True), drawn(4, 5), reference=lambda x: 3 * x).ok
    report = check_torch(scaled(contiguous=False), drawn(4, 5), reference=lambda x: 3 * x)
    assert not report.ok
    assert "read in memory order, not by its axes" in str(report)
