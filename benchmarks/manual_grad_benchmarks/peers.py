"""The same computations by others: PyTorch's autograd, and NumPy with the gradients written by hand.

A peer gets the case's arguments as NumPy arrays and prepares a call without arguments; its result is compared
like that of any side before it is timed. PyTorch stores images with channels first: they are transposed
beforehand, and their gradients afterwards, outside the timed part.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

Arrays = Any  # NumPy arrays in tuples, lists and dicts


@dataclass(frozen=True)
class Prepared:
    """A peer with its arguments: the call to time, and the conversion of its result to the case's form."""

    call: Callable[[], Any]
    result: Callable[[Any], Any]


class MissingPeer(ImportError):
    """A requested peer is not installed."""


def load_torch() -> Any:
    """PyTorch.

    Raises:
        MissingPeer: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise MissingPeer("--peers needs PyTorch: pip install 'manual-grad[peers]'") from None


def set_precision(torch: Any, precision: str) -> None:
    """Make PyTorch multiply float32 on a GPU like JAX: ``highest``, or ``default`` with TF32."""
    torch.set_float32_matmul_precision("highest" if precision == "highest" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "highest"


def of(peer: str, args: tuple, dtype: str, device: str, torch: Any) -> dict[str, Prepared]:
    """Every peer that computes the case: name → prepared call; ``torch`` may be None."""
    arrays = jax.tree.map(np.asarray, args)
    found = {}
    if torch is not None and peer in TORCH and (device == "cpu" or torch.cuda.is_available()):
        found["torch"] = _in_torch(torch, TORCH[peer], arrays, device)
    if peer in NUMPY and device == "cpu" and dtype in ("float32", "float64"):
        found["numpy"] = Prepared(lambda: NUMPY[peer](*arrays), lambda out: out)
    return found


def _named(beginning: str) -> dict[str, Callable]:
    """The functions in this file whose names have this prefix, by the rest of their names."""
    here = globals().items()
    return {name.removeprefix(beginning): fn for name, fn in here if name.startswith(beginning)}


# ------------------------------------------------------------------------------------------- PyTorch


def _in_torch(torch: Any, fn: Callable, args: tuple, device: str) -> Prepared:
    """Forward and backward by autograd: ``fn(torch, *primals) -> (out, leaves, back)``."""
    where = "cuda" if device == "gpu" else "cpu"

    def tensor(array: np.ndarray) -> Any:
        array = np.ascontiguousarray(array)
        if array.dtype.name == "bfloat16":  # which from_numpy does not support
            return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16).to(where)
        return torch.tensor(array, device=where)

    dout, *primals = (jax.tree.map(tensor, arg) for arg in args)
    leaves, forward, back = fn(torch, *primals)
    if dout is not None and dout.ndim == 4:
        dout = dout.permute(0, 3, 1, 2).contiguous()
    for leaf in leaves:
        leaf.requires_grad_(True)

    def call() -> Any:
        out = forward()
        grads = torch.autograd.grad(out, leaves, dout)
        if where == "cuda":
            torch.cuda.synchronize()
        return out, grads

    def result(found: Any) -> Any:
        out, grads = found
        return jax.tree.map(
            lambda t: (
                t.detach().cpu().float().numpy() if t.dtype == torch.bfloat16 else t.detach().cpu().numpy()
            ),
            back(out, grads),
        )

    return Prepared(call, result)


def _plainly(out: Any, grads: Any) -> Any:
    return out, tuple(grads)


def _torch_mse(torch: Any, y_hat: Any, y: Any) -> Any:
    return [y_hat], lambda: torch.nn.functional.mse_loss(y_hat, y), _plainly


def _torch_relu(torch: Any, x: Any) -> Any:
    return [x], lambda: torch.relu(x), _plainly


def _torch_softmax(torch: Any, logits: Any) -> Any:
    return [logits], lambda: torch.softmax(logits, dim=-1), _plainly


def _torch_softmax_cross_entropy_with_integer_labels(torch: Any, logits: Any, labels: Any) -> Any:
    labels = labels.long()
    return [logits], lambda: torch.nn.functional.cross_entropy(logits, labels), _plainly


def _torch_dense(torch: Any, X: Any, W: Any, b: Any) -> Any:
    return [X, W, b], lambda: torch.addmm(b, X, W), _plainly


def _torch_conv2d(torch: Any, x: Any, kernel: Any, bias: Any) -> Any:
    x, kernel = x.permute(0, 3, 1, 2).contiguous(), kernel.permute(3, 2, 0, 1).contiguous()

    def back(out: Any, grads: Any) -> Any:
        dx, dkernel, dbias = grads
        return out.permute(0, 2, 3, 1), (dx.permute(0, 2, 3, 1), dkernel.permute(2, 3, 1, 0), dbias)

    return [x, kernel, bias], lambda: torch.nn.functional.conv2d(x, kernel, bias), back


def _torch_cnn(torch: Any, params: dict[str, Any], X: Any, labels: Any) -> Any:
    F, names = torch.nn.functional, ("K1", "b1", "K2", "b2", "W4", "b4", "W5", "b5")
    X = X.permute(0, 3, 1, 2).contiguous()
    at = {name: params[name] for name in names}
    at |= {name: at[name].permute(3, 2, 0, 1).contiguous() for name in ("K1", "K2")}
    l2, (h, w) = at["K2"].shape[0], (n - 4 for n in X.shape[2:])
    at["W4"] = at["W4"].reshape(h, w, l2, -1).permute(2, 0, 1, 3).reshape(h * w * l2, -1).contiguous()
    leaves = [at[name] for name in names]

    def forward() -> Any:
        A2 = torch.relu(F.conv2d(torch.relu(F.conv2d(X, at["K1"], at["b1"])), at["K2"], at["b2"]))
        A4 = torch.relu(torch.addmm(at["b4"], A2.flatten(1), at["W4"]))
        return F.cross_entropy(torch.addmm(at["b5"], A4, at["W5"]), labels)

    def back(out: Any, grads: Any) -> Any:
        found = dict(zip(names, grads, strict=True))
        found |= {name: found[name].permute(2, 3, 1, 0) for name in ("K1", "K2")}
        found["W4"] = found["W4"].reshape(l2, h, w, -1).permute(1, 2, 0, 3).reshape(h * w * l2, -1)
        return out, (found,)

    return leaves, forward, back


def _torch_mlp(torch: Any, params: Any, X: Any, Y: Any) -> Any:
    leaves = [leaf for layer in params for leaf in layer]

    def forward() -> Any:
        A = X
        for l, (W, b) in enumerate(params):
            A = torch.addmm(b, torch.relu(A) if l else A, W)
        return torch.nn.functional.cross_entropy(A, Y)

    return leaves, forward, lambda out, grads: (out, (list(zip(grads[::2], grads[1::2], strict=True)),))


def _torch_linear_cross_entropy(torch: Any, hidden: Any, W: Any, labels: Any) -> Any:
    labels = labels.long()
    return [hidden, W], lambda: torch.nn.functional.cross_entropy(hidden @ W, labels), _plainly


TORCH = _named("_torch_")


# -------------------------------------------------------------------------------------- NumPy by hand


def _numpy_mse(_: Any, y_hat: np.ndarray, y: np.ndarray) -> Any:
    error = y_hat - y
    return np.mean(error**2), (2 / len(y) * error,)


def _numpy_relu(dout: np.ndarray, x: np.ndarray) -> Any:
    return np.maximum(x, 0), (dout * (x > 0),)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _numpy_softmax(dprobs: np.ndarray, logits: np.ndarray) -> Any:
    probs = np.exp(_log_softmax(logits))
    return probs, (probs * (dprobs - (dprobs * probs).sum(axis=-1, keepdims=True)),)


def _numpy_softmax_cross_entropy_with_integer_labels(_: Any, logits: np.ndarray, labels: np.ndarray) -> Any:
    log_probs, at = _log_softmax(logits), (np.arange(len(labels)), labels)
    dlogits = np.exp(log_probs)
    dlogits[at] -= 1
    return -log_probs[at].mean(), (dlogits / np.float32(len(labels)),)


def _numpy_dense(dZ: np.ndarray, X: np.ndarray, W: np.ndarray, b: np.ndarray) -> Any:
    return X @ W + b, (dZ @ W.T, X.T @ dZ, dZ.sum(axis=0))


def _numpy_mlp(_: Any, params: Any, X: np.ndarray, Y: np.ndarray) -> Any:
    As, A = [X], X
    for W, b in params[:-1]:
        A = np.maximum(A @ W + b, 0)
        As.append(A)
    log_probs = _log_softmax(A @ params[-1][0] + params[-1][1])
    delta, grads = (np.exp(log_probs) - Y) / np.float32(len(X)), []
    for (W, _b), A in zip(params[::-1], As[::-1], strict=True):
        grads.append((A.T @ delta, delta.sum(axis=0)))
        delta = (delta @ W.T) * (A > 0) if A is not X else delta
    return -(Y * log_probs).sum() / len(X), (grads[::-1],)


def _numpy_linear_cross_entropy(_: Any, hidden: np.ndarray, W: np.ndarray, labels: np.ndarray) -> Any:
    J, (dlogits,) = _numpy_softmax_cross_entropy_with_integer_labels(_, hidden @ W, labels)
    return J, (dlogits @ W.T, hidden.T @ dlogits)


NUMPY = _named("_numpy_")
