"""What is measured: every formula pair, every drop-in, Jacobians, rows against columns, at growing sizes.

A case has sides, functions of the same arguments. The first two are what the ratio is about: ``manual`` over
``autodiff``, or ``columns`` over ``rows``. Everything that is computed with is an argument, so that nothing
is folded into constants, and what has no scalar result gets a random cotangent.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as reference
from manual_grad import ops
from manual_grad.catalogue.draw import Draw, differentiable
from manual_grad.formulas import activations, chain_rule, correlation, dense, mse
from manual_grad.formulas import softmax as softmax_
from manual_grad.kernels import conv2d, linear_cross_entropy
from manual_grad.networks import cnn, mlp, two_layer
from manual_grad.training.loop import full_batch_gradient
from manual_grad.training.networks import HIDDEN, mlp_manual
from manual_grad_benchmarks import plain

_MODULES = (
    activations, chain_rule, cnn, conv2d, correlation, dense, linear_cross_entropy, mlp, mse, softmax_,
    two_layer,
)  # fmt: skip
FORMULAS = {name: formula for module in _MODULES for name, formula in vars(module).items()}
YNN_OFF = {"xla_cpu_experimental_ynn_fusion_type": ""}  # the best known options for convolutions on a CPU
WIDTHS = (784, *HIDDEN, 10)
CHUNK = 1000
CONVOLUTIONS = (
    (128, 28, 1, 3, 32), (128, 26, 32, 3, 64), (32, 32, 16, 5, 32), (128, 12, 6, 5, 16), (16, 56, 64, 3, 64),
)  # N, H = W, C, kernel, K  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One way to compute a case.

    Attributes:
        fn: of the case's arguments; arrays, or a pytree of them.
        dense: what it gives, in the form in which sides are compared (a compact Jacobian written out).
    """

    fn: Callable[..., Any]
    dense: Callable[[Any], Any] = lambda out: out


@dataclass(frozen=True)
class Case:
    """One computation at one size.

    Attributes:
        name: of the formula, ``ops.`` before it for a drop-in.
        group: ``formula``, ``drop-in``, ``jacobian`` or ``layout``.
        size: the dimensions, for the table.
        inputs: draws the arguments.
        sides: name → side; the ratio is the first over the second.
        truth: what the sides are held against, computed in float64.
        quick: belongs to ``--quick``.
        exact: whether the truth is affordable at this size; else the sides are held against each other.
        options: XLA's options that autodiff is best with, and both sides are timed with as well.
        kinks: whether so many units meet ReLU's kink that rounding moves one across it.
        peer: which of :mod:`manual_grad_benchmarks.peers` computes the same.
    """

    name: str
    group: str
    size: str
    inputs: Callable[[Draw], tuple]
    sides: Mapping[str, Side]
    truth: Side
    quick: bool = False
    exact: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    kinks: bool = False
    peer: str = ""

    @property
    def label(self) -> str:
        """Name and size, by which ``--case`` finds it."""
        return f"{self.name}[{self.size}]"


# -------------------------------------------------------------------------------- values and gradients


def by_hand(fwd: Callable, bwd: Callable, wrt: Sequence[int] | None = None) -> Callable:
    """``(value, gradients)`` of a pair: called with a cotangent, or None for a scalar, and the primals."""

    def run(dout: Any, *primals: Any) -> Any:
        out, res = fwd(*primals)
        floats = [i for i, primal in enumerate(primals) if differentiable(primal)]
        grads = dict(zip(floats, bwd(res, 1.0 if dout is None else dout), strict=True))
        return out, tuple(grads[i] for i in (wrt or floats))

    return run


def by_autodiff(fn: Callable, wrt: Sequence[int] | None = None) -> Callable:
    """The same of a plain function, by ``jax.value_and_grad`` or ``jax.vjp``."""

    def run(dout: Any, *primals: Any) -> Any:
        chosen = wrt or [i for i, primal in enumerate(primals) if differentiable(primal)]
        if dout is None:
            return jax.value_and_grad(fn, tuple(chosen))(*primals)

        def of_chosen(*some: Any) -> Any:
            given = dict(zip(chosen, some, strict=True))
            return fn(*(given.get(i, primal) for i, primal in enumerate(primals)))

        out, pull = jax.vjp(of_chosen, *(primals[i] for i in chosen))
        return out, pull(dout)

    return run


def _with_cotangent(draw: Draw, fn: Callable, primals: tuple) -> tuple:
    out = jax.eval_shape(fn, *primals)
    return (draw.like(out) if out.shape else None, *primals)


def _cases(
    name: str,
    plain_fn: Callable,
    draw: Callable[..., tuple],
    sizes: Sequence[Sequence[int]],
    *,
    truth: Callable | None = None,
    wrt: Sequence[int] | None = None,
    quick: Sequence[int] = (1,),
    **more: Any,
) -> list[Case]:
    """A case a size. ``ops.f`` is the drop-in f, another name the pair ``f_fwd``, ``f_bwd``."""
    if name.startswith("ops."):
        ours = by_autodiff(getattr(ops, name[4:]), wrt)
    else:
        ours = by_hand(FORMULAS[f"{name}_fwd"], FORMULAS[f"{name}_bwd"], wrt)
    return [
        Case(
            name,
            "drop-in" if name.startswith("ops.") else "formula",
            "×".join(map(str, size)),
            lambda d, size=size: _with_cotangent(d, plain_fn, draw(d, *size)),  # type: ignore[misc]
            {"manual": Side(ours), "autodiff": Side(by_autodiff(plain_fn, wrt))},
            Side(by_autodiff(truth or plain_fn, wrt)),
            quick=i in quick,
            **more,
        )
        for i, size in enumerate(sizes)
    ]


def _vectors(d: Draw, N: int) -> tuple:
    return d.normal(N), 4 + d.normal(N)


def _regression(d: Draw, N: int, k: int) -> tuple:
    return d.normal(k), d.normal(), d.normal(N, k), 4 + d.normal(N)


def _array(d: Draw, *shape: int) -> tuple:
    return (d.normal(*shape),)


def _probs(d: Draw, N: int, K: int) -> tuple:
    return d.distribution(N, K), d.distribution(N, K)


def _logits(d: Draw, N: int, K: int) -> tuple:
    return d.normal(N, K), d.distribution(N, K)


def _columns_of_logits(d: Draw, K: int, N: int) -> tuple:
    return d.normal(K, N), d.distribution(N, K).T


def _integers(d: Draw, N: int, K: int) -> tuple:
    return d.normal(N, K), d.labels(N, K)


def _scores(d: Draw, c: int) -> tuple:
    return d.normal(c), d.labels(1, c)[0]


def _dense(d: Draw, N: int, k: int, m: int) -> tuple:
    return d.normal(N, k), d.normal(k, m, scale=k**-0.5), d.normal(m)


def _dense_columns(d: Draw, N: int, k: int, m: int) -> tuple:
    return d.normal(k, N), d.normal(m, k, scale=k**-0.5), d.normal(m)


def _two_layers(d: Draw, k: int, m: int, c: int) -> tuple:
    (W1, b1), (W2, b2) = d.layers(k, m, c, rows=False)
    return W1, b1, W2, b2, d.normal(k)


def _squared(d: Draw, k: int, m: int) -> tuple:
    return *_two_layers(d, k, m, 1), d.normal()


def _one_sample(d: Draw, k: int, m: int, c: int) -> tuple:
    return *_two_layers(d, k, m, c), d.labels(1, c)[0]


def _batch(d: Draw, N: int, k: int, m: int, c: int, rows: bool) -> tuple:
    (W1, b1), (W2, b2) = d.layers(k, m, c, rows=rows)
    return W1, b1, W2, b2, d.normal(N, k) if rows else d.normal(k, N), d.labels(N, c)


def _mlp(d: Draw, N: int, *widths: int, rows: bool) -> tuple:
    return d.layers(*widths, rows=rows), d.normal(N, widths[0]) if rows else d.normal(widths[0], N)


def _five(d: Draw, N: int) -> tuple:
    return *_mlp(d, N, *WIDTHS, rows=False), d.one_hot(N, 10).T


def _sample(d: Draw, *widths: int) -> tuple:
    return d.layers(*widths, rows=False), d.normal(widths[0]), d.normal(widths[-1])


def _images(d: Draw, N: int, H: int, W: int) -> tuple:
    return (d.normal(N, H, W),)


def _image(d: Draw, H: int, W: int, k: int) -> tuple:
    return d.normal(H, W), d.normal(k, k)


def _conv(d: Draw, N: int, H: int, C: int, k: int, K: int) -> tuple:
    return d.normal(N, H, H, C), d.normal(k, k, C, K, scale=(2 / (k * k * C)) ** 0.5), d.normal(K)


def _cnn(d: Draw, N: int, H: int, l1: int, l2: int, l4: int) -> tuple:
    f, K = 3, 10
    flat = (H - 2 * f + 2) ** 2 * l2
    (W4, b4), (W5, b5) = d.layers(flat, l4, K, rows=True)
    params = {"W4": W4, "b4": b4, "W5": W5, "b5": b5}
    for i, (C, O) in enumerate(((1, l1), (l1, l2)), start=1):
        params |= {
            f"K{i}": d.normal(f, f, C, O, scale=(2 / (f * f * C)) ** 0.5),
            f"b{i}": d.normal(O, scale=0.1),
        }
    return params, d.normal(N, H, H, 1), d.one_hot(N, K)


def _last_layer(d: Draw, N: int, D: int, V: int) -> tuple:
    return d.normal(N, D), d.normal(D, V, scale=D**-0.5), d.labels(N, V)


def _formulas() -> list[Case]:
    elementwise = ((64,), (512, 512), (4096, 1024))
    classes = ((4, 10), (64, 10), (512, 1000), (4096, 1000))
    layers = ((32, 64, 16), (256, 512, 384), (2048, 1024, 512))
    rows, columns = partial(_mlp, rows=True), partial(_mlp, rows=False)
    nets = ((16, 8, 16, 4), (1024, *WIDTHS))
    batches = ((32, 8, 16, 4), (1024, 784, 128, 10))
    A, M, S, T = reference.activations, reference.mlp, reference.softmax, reference.two_layer
    return [
        *_cases("mse", reference.mse.mse, _vectors, ((64,), (4096,), (1 << 20,))),
        *_cases(
            "linear_regression",
            reference.mse.linear_regression,
            _regression,
            ((64, 3), (4096, 64), (65536, 256)),
        ),
        *_cases("relu", jax.nn.relu, _array, elementwise),
        *_cases("sigmoid", jax.nn.sigmoid, _array, elementwise, truth=A.sigmoid, quick=()),
        *_cases("tanh", jnp.tanh, _array, elementwise, quick=()),
        *_cases("softplus", jax.nn.softplus, _array, elementwise, truth=A.softplus),
        *_cases("identity", A.identity, _array, elementwise[:2], quick=()),
        *_cases("softmax", jax.nn.softmax, _logits_alone, classes, truth=S.softmax),
        *_cases("cross_entropy", S.cross_entropy, _probs, classes, quick=()),
        *_cases(
            "softmax_cross_entropy",
            plain.softmax_cross_entropy,
            _logits,
            classes,
            truth=S.softmax_cross_entropy,
        ),
        *_cases(
            "softmax_cross_entropy_with_integer_labels",
            plain.softmax_cross_entropy_with_integer_labels,
            _integers,
            classes,
            truth=S.softmax_cross_entropy_with_integer_labels,
        ),
        *_cases(
            "softmax_cross_entropy_columns",
            plain.softmax_cross_entropy_columns,
            _columns_of_logits,
            ((10, 512), (1000, 512)),
            truth=S.softmax_cross_entropy_columns,
            quick=(),
        ),
        *_cases(
            "cross_entropy_of_scores",
            plain.cross_entropy_of_scores,
            _scores,
            ((10,), (32000,)),
            truth=S.cross_entropy_of_scores,
            quick=(),
        ),
        *_cases("dense_rows", reference.dense.dense_rows, _dense, layers),
        *_cases("dense_columns", reference.dense.dense_columns, _dense_columns, layers, quick=()),
        *_cases("two_layer_squared_loss", T.two_layer_squared_loss, _squared, ((8, 4), (784, 512)), quick=()),
        *_cases(
            "two_layer_cross_entropy",
            plain.two_layer_cross_entropy,
            _one_sample,
            ((8, 16, 3), (784, 512, 10)),
            truth=T.two_layer_cross_entropy,
            quick=(),
        ),
        *_cases(
            "two_layer_cross_entropy_rows",
            plain.two_layer_cross_entropy_rows,
            partial(_batch, rows=True),
            batches,
            truth=T.two_layer_cross_entropy_rows,
            kinks=True,
        ),
        *_cases(
            "two_layer_cross_entropy_columns",
            plain.two_layer_cross_entropy_columns,
            partial(_batch, rows=False),
            batches,
            truth=T.two_layer_cross_entropy_columns,
            kinks=True,
            quick=(),
        ),
        *_cases("mlp_rows", M.mlp_rows, rows, nets, kinks=True),
        *_cases("mlp_columns", M.mlp_columns, columns, nets, quick=(), kinks=True),
        *_cases(
            "network_squared_loss",
            M.network_squared_loss,
            _sample,
            ((2, 4, 4, 2), (784, 128, 50, 10)),
            quick=(),
        ),
        *_cases(
            "five_layer", plain.five_layer, _five, ((64,), (4096,)), truth=M.five_layer, quick=(), kinks=True
        ),
        *_cases("flatten_columns", M.flatten_columns, _images, ((32, 8, 8), (8192, 28, 28)), quick=()),
        *_cases("product_of_sum", reference.chain_rule.product_of_sum, _three, ((),), quick=()),
        *_cases("correlate2d", plain.correlate2d, _image, ((28, 28, 3), (512, 512, 5)), quick=()),
        *_cases("convolve2d", plain.convolve2d, _image, ((28, 28, 3), (512, 512, 5)), quick=()),
        *_cases(
            "conv2d", plain.conv2d, _conv, ((4, 8, 3, 3, 5), *CONVOLUTIONS), options=YNN_OFF, peer="conv2d"
        ),
        *_cases(
            "cnn",
            plain.cnn,
            _cnn,
            ((4, 8, 3, 5, 7), (128, 28, 32, 64, 128)),
            wrt=(0,),
            options=YNN_OFF,
            peer="cnn",
            quick=(0,),
            kinks=True,
        ),
        *_cases(
            "linear_cross_entropy",
            plain.linear_cross_entropy,
            _last_layer,
            ((32, 16, 50), (512, 256, 32000)),
            quick=(0,),
            peer="linear_cross_entropy",
        ),
        *_cases(
            "linear_cross_entropy",
            plain.linear_cross_entropy,
            _last_layer,
            ((4096, 256, 32000),),
            quick=(),
            exact=False,
            peer="linear_cross_entropy",
        ),
    ]


def _three(d: Draw) -> tuple:
    return d.normal(), d.normal(), d.normal()


def _logits_alone(d: Draw, N: int, K: int) -> tuple:
    return (d.normal(N, K),)


def _drop_ins() -> list[Case]:
    classes = ((4, 10), (64, 10), (512, 1000))
    S = reference.softmax
    return [
        *_cases("ops.mse", reference.mse.mse, _vectors, ((64,), (1 << 20,)), wrt=(0,), peer="mse"),
        *_cases("ops.relu", jax.nn.relu, _array, ((64,), (4096, 1024)), peer="relu", quick=()),
        *_cases(
            "ops.softmax", jax.nn.softmax, _logits_alone, classes, truth=S.softmax, peer="softmax", quick=()
        ),
        *_cases(
            "ops.softmax_cross_entropy",
            plain.softmax_cross_entropy,
            _logits,
            classes,
            wrt=(0,),
            truth=S.softmax_cross_entropy,
            quick=(),
        ),
        *_cases(
            "ops.softmax_cross_entropy_with_integer_labels",
            plain.softmax_cross_entropy_with_integer_labels,
            _integers,
            classes,
            truth=S.softmax_cross_entropy_with_integer_labels,
            peer="softmax_cross_entropy_with_integer_labels",
        ),
        *_cases(
            "ops.dense",
            reference.dense.dense_rows,
            _dense,
            ((32, 64, 16), (256, 512, 384)),
            peer="dense",
            quick=(),
        ),
        *_cases(
            "ops.conv2d",
            plain.conv2d,
            _conv,
            ((4, 8, 3, 3, 5), (128, 12, 6, 5, 16)),
            options=YNN_OFF,
            peer="conv2d",
            quick=(),
        ),
        *_cases(
            "ops.linear_cross_entropy",
            plain.linear_cross_entropy,
            _last_layer,
            ((32, 16, 50), (512, 256, 32000)),
            quick=(),
            peer="linear_cross_entropy",
        ),
    ]


# ---------------------------------------------------------------------------------- the full batch


def _full_batch(N: int, quick: bool) -> Case:
    """Loss and parameter gradients of lecture D's network over N samples, in chunks by hand."""

    def manual(_: Any, params: Any, X: Any, Y: Any) -> Any:
        Xs, Ys = (a.reshape(-1, CHUNK, a.shape[-1]) for a in (X, Y))
        loss, grads = full_batch_gradient(mlp_manual, params, Xs, Ys, N)
        return loss, (grads,)

    return Case(
        "full_batch",
        "formula",
        f"{N}×{'-'.join(map(str, WIDTHS))}",
        lambda d: (None, *_mlp(d, N, *WIDTHS, rows=True), d.one_hot(N, 10)),
        {"manual": Side(manual), "autodiff": Side(by_autodiff(plain.mlp_loss, (0,)))},
        Side(by_autodiff(plain.mlp_loss, (0,))),
        quick=quick,
        peer="mlp",
        kinks=True,
    )


# ----------------------------------------------------------------------------------------- Jacobians


def _jacobian(
    name: str,
    fn: Callable,
    argnum: int,
    dense: Callable,
    draw: Callable,
    sizes: Sequence[Sequence[int]],
) -> list[Case]:
    """The formula, which ``dense`` writes out, against ``jax.jacobian`` and ``jax.jacfwd`` of ``fn``."""
    return [
        Case(
            name,
            "jacobian",
            "×".join(map(str, size)),
            lambda d, size=size: draw(d, *size),  # type: ignore[misc]
            {
                "manual": Side(FORMULAS[name], dense),
                "autodiff": Side(jax.jacobian(fn, argnum)),
                "jacfwd": Side(jax.jacfwd(fn, argnum)),
            },
            Side(jax.jacobian(fn, argnum)),
            quick=i == 1,
            exact=i == 0 or i < len(sizes) - 1,
        )
        for i, size in enumerate(sizes)
    ]


def _jacobians() -> list[Case]:
    def same(J: Any) -> Any:
        return J

    def diagonal(d: Any) -> Any:
        return np.diag(np.asarray(d))

    def blocks(J: Any) -> Any:
        J = np.asarray(J)
        whole = np.zeros((J.shape[0], J.shape[1], J.shape[0], J.shape[2]), J.dtype)
        whole[np.arange(len(J)), :, np.arange(len(J))] = J
        return whole

    def kronecker(factors: Any) -> Any:
        (X, eye) = map(np.asarray, factors)
        return np.kron(X, eye).reshape(len(X), len(eye), X.shape[1], len(eye))

    def toeplitz(size: tuple, T: Any) -> Any:
        T, H = np.asarray(T), size[0]
        kh, w, W = T.shape
        whole = np.zeros((H - kh + 1, w, H, W), T.dtype)
        for i in range(H - kh + 1):
            whole[i, :, i : i + kh] = T.swapaxes(0, 1)
        return whole

    S = jax.nn.softmax
    vectors, logits, layers = (
        ((64,), (512,), (4096,)),
        ((4, 10), (16, 40), (64, 100)),
        ((4, 8, 6), (16, 32, 24), (64, 128, 64)),
    )
    errors, rows = reference.mse.squared_errors, reference.dense.dense_rows
    image = (28, 28, 3)
    return [
        *_jacobian(
            "jac_squared_errors_y_hat_diagonal",
            errors,
            0,
            diagonal,
            _vectors,
            vectors,
        ),
        *_jacobian("jac_squared_errors_y_hat", errors, 0, same, _vectors, vectors),
        *_jacobian("jac_softmax_logits_blocks", S, 0, blocks, _logits_alone, logits),
        *_jacobian("jac_softmax_logits", S, 0, same, _logits_alone, logits),
        *_jacobian("jac_dense_rows_W_factors", rows, 1, kronecker, _dense, layers),
        *_jacobian("jac_dense_rows_W", rows, 1, same, _dense, layers),
        *_jacobian(
            "jac_correlate2d_x_blocks",
            plain.correlate2d,
            0,
            partial(toeplitz, image),
            _image,
            (image,),
        ),
        *_jacobian("jac_correlate2d_x", plain.correlate2d, 0, same, _image, (image,)),
    ]


# ------------------------------------------------------------------------------------- rows against columns


def _layout(N: int, quick: bool) -> Case:
    """Lecture D's network, one sample a column and one a row: the same numbers, transposed."""

    def inputs(d: Draw) -> tuple:
        params, X = _mlp(d, N, *WIDTHS, rows=True)
        Y = d.one_hot(N, 10)
        return params, X, Y, [(W.T.copy(), b) for W, b in params], X.T.copy(), Y.T.copy()

    def columns(*args: Any) -> Any:
        return by_hand(FORMULAS["five_layer_fwd"], FORMULAS["five_layer_bwd"], (0,))(None, *args[3:])

    def autodiff(fn: Callable, which: slice) -> Callable:
        return lambda *args: by_autodiff(fn, (0,))(None, *args[which])

    def turned(out: Any) -> Any:
        value, (grads,) = out
        return value, ([(dW.T, db) for dW, db in grads],)

    return Case(
        "columns_against_rows",
        "layout",
        f"{N}×{'-'.join(map(str, WIDTHS))}",
        inputs,
        {
            "columns": Side(columns, turned),
            "rows": Side(lambda *args: _rows_of(*args[:3])),
            "autodiff in columns": Side(autodiff(plain.five_layer, slice(3, 6)), turned),
            "autodiff in rows": Side(autodiff(plain.mlp_loss, slice(0, 3))),
        },
        Side(autodiff(plain.mlp_loss, slice(0, 3))),
        quick=quick,
        kinks=True,
    )


def _rows_of(params: Any, X: Any, Y: Any) -> Any:
    loss, grads = mlp_manual(params, X, Y)
    return loss, (grads,)


def every_case() -> list[Case]:
    """All cases, in the order of the table."""
    return [
        *_formulas(),
        _full_batch(6000, quick=True),
        _full_batch(60000, quick=False),
        *_drop_ins(),
        *_jacobians(),
        *(_layout(N, quick=N == 6000) for N in (600, 6000, 60000)),
    ]


def chosen(patterns: Sequence[str], cases: Sequence[Case], quick: bool = False) -> list[Case]:
    """The cases that any pattern (a name, a label or a glob) names; without patterns all, or the quick ones.

    Raises:
        KeyError: a pattern names none; its argument is the pattern.

    >>> [case.label for case in chosen(["mse"], every_case())]
    ['mse[64]', 'mse[4096]', 'mse[1048576]']
    """
    for pattern in patterns:
        if not any(_named(pattern, case) for case in cases):
            raise KeyError(pattern)
    named = [case for case in cases if not patterns or any(_named(p, case) for p in patterns)]
    quickly = [case for case in named if case.quick]
    return quickly if quick and quickly else named


def _named(pattern: str, case: Case) -> bool:
    exact = pattern in (case.name, case.label, case.group)
    return exact or fnmatch.fnmatchcase(case.name, pattern) or fnmatch.fnmatchcase(case.label, pattern)
