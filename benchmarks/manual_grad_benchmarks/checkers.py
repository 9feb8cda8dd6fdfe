"""Which checker catches which mistake: wrong gradients, as people write them, given to five checkers.

``python -m manual_grad_benchmarks.checkers`` writes ``docs/checkers.json`` and, derived from it, the table in
``docs/checker.md``. PyTorch is optional: without it, its column is empty.
"""

import importlib.metadata
import inspect
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.test_util import check_grads

from manual_grad.environment import environment
from manual_grad.verify import check_vjp

DOCS = Path(__file__).parents[2] / "docs"
FILE, PAGE = DOCS / "checkers.json", DOCS / "checker.md"
START = "## Which checker sees which mistake\n"
CHECKERS = ("ones", "projection", "check_grads", "gradcheck", "check_vjp")
TITLES = ("cotangent of ones", "one projection", "`check_grads`", "`gradcheck`", "`check_vjp`")
NAMELESS = (jnp.sin, jax.nn.softmax, jax.nn.sigmoid)
Function = Callable[..., Any]


@dataclass(frozen=True)
class Public:
    """A mistake that people make.

    Attributes:
        line: the wrong code, and the right code.
        forward: the function.
        right: its backward half: ``right(d, *args)`` returns a cotangent for each argument.
        wrong: the same with the mistake.
        args: the arguments at which it is checked.
    """

    line: str
    forward: Function
    right: Function
    wrong: Function
    args: tuple[Any, ...]


def mistakes() -> Iterator[Public]:
    """The mistakes; shapes are square if the mistake would otherwise make them clash."""
    rng = np.random.default_rng(5)
    x, W, v = (jnp.asarray(rng.normal(size=shape)) for shape in ((4, 3), (3, 3), (6,)))
    sm, labels = jax.nn.softmax, jnp.eye(3)[jnp.array([0, 2, 1, 2])]

    def of(line: str, forward: Function, back: Callable[[bool], Function], *args: Any) -> Public:
        return Public(line, forward, back(False), back(True), args)

    def softmax_back(bug: bool) -> Function:
        return lambda d, z: (sm(z) * (d - (0 if bug else (d * sm(z)).sum(-1, keepdims=True))),)

    yield of("softmax: dz = p·d, the sum Σ p·d is not subtracted", sm, softmax_back, x)

    def diagonal(bug: bool) -> Function:
        return lambda d, z: (sm(z) * (1 - sm(z)) * d,) if bug else softmax_back(False)(d, z)

    yield of("softmax: p(1 − p)·d, the diagonal of the Jacobian alone", sm, diagonal, x)

    def entropy(z: Any) -> Any:
        return -(labels * jax.nn.log_softmax(z)).sum() / 4

    yield of("cross-entropy: p − y for (p − y)/N", entropy,
             lambda bug: lambda d, z: (d * (sm(z) - labels) / (1 if bug else 4),), x)  # fmt: skip

    def smoothed(z: Any) -> Any:
        return -((0.7 * labels + 0.1) * jax.nn.log_softmax(z)).sum() / 4

    def smoothed_back(bug: bool) -> Function:
        y = 0.7 * labels + (0.15 * (1 - labels) if bug else 0.1)
        return lambda d, z: (d * (sm(z) - y) / 4,)

    yield of("label smoothing: ε/(K − 1) for ε/K", smoothed, smoothed_back, x)

    def norm(x: Any) -> Any:
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def norm_back(bug: bool) -> Function:
        def back(d: Any, x: Any) -> tuple[Any]:
            s, h = jnp.sqrt(x.var(-1, keepdims=True) + 1e-5), norm(x)
            through = 0 if bug else h * (d * h).mean(-1, keepdims=True)
            return ((d - d.mean(-1, keepdims=True) - through) / s,)

        return back

    yield of("layer norm: the standard deviation is treated as a constant in dx", norm, norm_back, x)

    def root(x: Any) -> Any:
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True))

    def root_back(bug: bool) -> Function:
        def back(d: Any, x: Any) -> tuple[Any]:
            s = jnp.sqrt((x * x).mean(-1, keepdims=True))
            return ((d - x / s * (d * x / s).mean(-1, keepdims=not bug)) / s,)

        return back

    yield of("RMS norm, square: keepdims is missing, row i's mean in column i", root, root_back, W)
    slope = jax.grad(jax.nn.sigmoid)
    yield of("sigmoid: its slope at the output, σ′(a) for σ′(z)", jax.nn.sigmoid,
             lambda bug: lambda d, z: (d * jax.vmap(slope)(jax.nn.sigmoid(z) if bug else z),), v)  # fmt: skip

    def gelu_back(bug: bool) -> Function:
        return lambda d, z: jax.vjp(lambda z: jax.nn.gelu(z, approximate=bug), z)[1](d)

    yield of("GELU: the slope of its tanh approximation", lambda z: jax.nn.gelu(z, approximate=False),
             gelu_back, v)  # fmt: skip
    keep = jnp.array([1.0, 0, 1, 1, 0, 1])
    yield of("dropout: d·mask for d·mask/(1 − rate)", lambda z: z * keep / 0.6,
             lambda bug: lambda d, z: (d * keep / (1 if bug else 0.6),), v)  # fmt: skip
    inside = jnp.asarray(rng.uniform(-0.9, 0.9, 6))
    yield of("clip: the mask is missing, at a point where nothing is clipped",
             lambda z: jnp.clip(z, -1, 1) ** 2,
             lambda bug: lambda d, z: (2 * d * jnp.clip(z, -1, 1) * (1 if bug else abs(z) < 1),),
             inside.at[0].set(0.97))  # fmt: skip
    yield of("dense, square: dW = dᵀx for xᵀd", lambda x, W: x @ W,
             lambda bug: lambda d, x, W: (d @ W.T, d.T @ x if bug else x.T @ d), x, W)  # fmt: skip
    yield of("dense: the last sample is not in dW", lambda x, W: x @ W,
             lambda bug: lambda d, x, W: (d @ W.T, x[:-1].T @ d[:-1] if bug else x.T @ d), x, W)  # fmt: skip
    yield of("L2 penalty 10⁻⁶·Σ W²: its gradient is missing",
             lambda W: (jnp.sin(W) ** 2).sum() + 1e-6 * (W**2).sum(),
             lambda bug: lambda d, W: (d * (jnp.sin(2 * W) + (0 if bug else 2e-6 * W)),), W)  # fmt: skip
    rows = jnp.array([0, 2, 2, 1])

    def rows_back(bug: bool) -> Function:
        def back(d: Any, W: Any) -> tuple[Any]:
            at = jnp.zeros_like(W).at[rows]
            return (at.set(d) if bug else at.add(d),)

        return back

    yield of("embedding: repeated rows are assigned, = for +=", lambda W: W[rows], rows_back, W)

    def pooled(z: Any) -> Any:
        return lax.reduce_window(z, -jnp.inf, lax.max, (3,), (2,), "VALID")

    def pooled_back(bug: bool) -> Function:
        def back(d: Any, z: Any) -> tuple[Any]:
            at = jnp.stack([2 * i + jnp.argmax(z[2 * i : 2 * i + 3]) for i in range(3)])
            return (jnp.zeros_like(z).at[at].set(d) if bug else jnp.zeros_like(z).at[at].add(d),)

        return back

    yield of("max-pooling, overlapping windows: = for +=", pooled, pooled_back,
             jnp.array([0.3, -1.0, 2.0, 0.1, 0.5, 1.2, 3.1]))  # fmt: skip

    def scanned(a: Any, b: Any) -> Any:
        return lax.scan(lambda h, ab: (ab[0] * h + ab[1],) * 2, jnp.zeros(3), (a, b))[1]

    def scanned_back(bug: bool) -> Function:
        def back(d: Any, a: Any, b: Any) -> tuple[Any, Any]:
            hs = jnp.concatenate([jnp.zeros((1, 3)), scanned(a, b)])
            g = [d[-1]]
            for t in range(len(d) - 2, -1, -1):
                g.insert(0, d[t] + a[t + 1] * g[0])
            return jnp.stack(g) * (hs[1:] if bug else hs[:-1]), jnp.stack(g)

        return back

    yield of("linear scan: h_t for h_(t−1) in da", scanned, scanned_back, jnp.abs(x) / 2, x)
    positive = W @ W.T + 3 * jnp.eye(3)

    def factor_back(bug: bool) -> Function:
        def back(d: Any, A: Any) -> tuple[Any]:
            L = jnp.linalg.cholesky(A)
            P = jnp.tril(L.T @ jnp.tril(d))
            P = P if bug else P - jnp.diag(jnp.diag(P)) / 2
            G = jnp.linalg.solve(L.T, jnp.linalg.solve(L.T, P.T).T)
            return ((G + G.T) / 2,)

        return back

    yield of("Cholesky: the diagonal of Φ is not halved", lambda A: jnp.linalg.cholesky((A + A.T) / 2),
             factor_back, positive)  # fmt: skip
    yield of("the cotangent is ignored: the gradient for ones", jnp.sin,
             lambda bug: lambda d, z: (jnp.cos(z) * (1 if bug else d),), v)  # fmt: skip


# --- the checkers: True if they find nothing wrong ------------------------------------------------------


def ones(forward: Function, back: Function, args: tuple[Any, ...]) -> bool:
    """Compare the gradients for a cotangent of ones with those of JAX."""
    out, pull = jax.vjp(forward, *args)
    pairs = zip(back(jnp.ones_like(out), *args), pull(jnp.ones_like(out)), strict=True)
    return all(np.allclose(got, want, 1e-6, 1e-9) for got, want in pairs)


def projection(forward: Function, back: Function, args: tuple[Any, ...]) -> bool:
    """Compare one directional derivative of a random projection with a central difference."""
    rng = np.random.default_rng(0)
    d = jnp.asarray(rng.normal(size=jnp.shape(forward(*args))))
    along = [jnp.asarray(rng.normal(size=a.shape)) for a in args]
    told = sum(float((g * t).sum()) for g, t in zip(back(d, *args), along, strict=True))
    ahead, behind = ([a + h * t for a, t in zip(args, along, strict=True)] for h in (1e-5, -1e-5))
    slope = float((d * (forward(*ahead) - forward(*behind))).sum()) / 2e-5
    return bool(np.isclose(told, slope, 1e-4, 1e-6))


def by_jax(forward: Function, back: Function, args: tuple[Any, ...]) -> bool:
    """``jax.test_util.check_grads``, of first order in reverse."""

    @jax.custom_vjp
    def fn(*args: Any) -> Any:
        return forward(*args)

    fn.defvjp(lambda *args: (forward(*args), args), lambda args, d: tuple(back(d, *args)))
    try:
        check_grads(fn, args, order=1, modes=["rev"])
    except AssertionError:
        return False
    return True


def by_torch(forward: Function, back: Function, args: tuple[Any, ...]) -> bool | None:
    """``torch.autograd.gradcheck`` of the same functions; None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None

    def tensor(x: Any) -> Any:
        return torch.from_numpy(np.array(x, np.float64))

    class Fn(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Any) -> Any:
            ctx.save_for_backward(*given)
            return tensor(forward(*(jnp.asarray(x.detach().numpy()) for x in given)))

        @staticmethod
        def backward(ctx: Any, d: Any) -> Any:
            given = [jnp.asarray(x.detach().numpy()) for x in ctx.saved_tensors]
            return tuple(map(tensor, back(jnp.asarray(d.detach().numpy()), *given)))

    given = [tensor(x).requires_grad_() for x in args]
    return bool(torch.autograd.gradcheck(Fn.apply, given, raise_exception=False))


def ours(forward: Function, back: Function, args: tuple[Any, ...]) -> tuple[bool, str]:
    """Run ``check_vjp``; also returns the cause that it names."""
    names = tuple(inspect.signature(forward).parameters) if forward not in NAMELESS else ("z",)
    report = check_vjp(
        lambda *args: (forward(*args), args), lambda args, d: tuple(back(d, *args)), *args,
        reference=forward, names=names,
    )  # fmt: skip
    return report.ok, next((f.diagnosis for f in report.findings if not f.ok), "")


def measured(some: Sequence[Public]) -> dict[str, Any]:
    """The verdict of every checker on every mistake and its right version, and the time that each takes."""
    rows = []
    seconds = dict.fromkeys(CHECKERS, 0.0)
    for public in some:
        row: dict[str, Any] = {"mistake": public.line, "wrong": {}, "right": {}}
        for which, back in (("right", public.right), ("wrong", public.wrong)):
            for name, ask in zip(CHECKERS, (ones, projection, by_jax, by_torch, ours), strict=True):
                start = time.perf_counter()
                said = ask(public.forward, back, public.args)
                seconds[name] += time.perf_counter() - start
                row[which][name] = said[0] if isinstance(said, tuple) else said
                if isinstance(said, tuple) and which == "wrong":
                    row["cause"] = said[1]
        rows.append(row)
    versions = {**environment(), "torch": _torch_version()}
    return {"environment": versions, "date": time.strftime("%Y-%m-%d"), "seconds": seconds, "rows": rows}


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def table(found: dict[str, Any]) -> str:
    """The table of the page."""
    lines = [f"| mistake | {' | '.join(TITLES)} | the cause, as `check_vjp` names it |", "|---" * 7 + "|"]
    for row in found["rows"]:
        said = [{True: "passes", False: "caught", None: ""}[row["wrong"][name]] for name in CHECKERS]
        lines.append(f"| {row['mistake']} | {' | '.join(said)} | {row['cause'].replace('|', '∣')} |")
    caught = [str(sum(row["wrong"][name] is False for row in found["rows"])) for name in CHECKERS]
    alarms = [str(sum(row["right"][name] is False for row in found["rows"])) for name in CHECKERS]
    lines.append(f"| caught, of {len(found['rows'])} | {' | '.join(caught)} | |")
    lines.append(f"| right versions that are called wrong | {' | '.join(alarms)} | |")
    return "\n".join(lines) + "\n"


def written(page: str, found: dict[str, Any]) -> str:
    """A page with the table inserted after the text of its section."""
    before, _, section = page.partition(START)
    text = section.partition("\n|")[0].rstrip("\n")
    return f"{before}{START}{text}\n\n{table(found)}"


def main() -> None:
    """Measure, then write the file and the table."""
    jax.config.update("jax_enable_x64", True)
    found = measured(list(mistakes()))
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(written(PAGE.read_text("utf-8"), found), "utf-8")


if __name__ == "__main__":
    main()
