"""The checker of a user's gradient: which argument is wrong, where, by how much, and why.

The truth is ``jax.vjp`` in float64 for the same numbers, at the given point and at points near it, so that an
accidental agreement is not trusted. The checked functions run as they are, in their own precision.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

import manual_grad_reference as plain
from manual_grad.border import InputError, describe
from manual_grad.checker.asking import (
    Question,
    Reply,
    as_arguments,
    called,
    copies,
    drawn,
    modified,
    names_of,
    positions_of,
    require_numbers,
    require_settings,
    until,
)
from manual_grad.checker.findings import Finding, Report
from manual_grad.checker.second import second
from manual_grad.checker.truth import float_leaves, is_float
from manual_grad.checker.verdict import verdict

__all__ = [
    "Finding",
    "Report",
    "assert_grad_matches",
    "assert_vjp_matches",
    "check_grad",
    "check_vjp",
    "forward_named",
]

Forward = Callable[..., Any]


def check_grad(
    loss: Callable[..., Any],
    grad: Callable[..., Any],
    *args: Any,
    against: Callable[..., Any] | str | None = None,
    argnums: Iterable[int] | int | None = None,
    seed: int = 0,
    draws: int = 3,
    names: Iterable[str] | None = None,
    seconds: float | None = None,
) -> Report:
    """Check the gradient of a scalar loss.

    Args:
        loss: the scalar loss, ``loss(*args)``.
        grad: ``grad(*args)`` returns a tuple, one gradient for each floating-point argument (or one for each
            argument, None for the others); with a single such argument, its gradient alone will do.
        *args: arrays (NumPy's or JAX's), numbers or pytrees of them; they are not modified.
        against: the loss in JAX if ``loss`` is NumPy code: a function, or the name of a formula
            (``"softmax_cross_entropy"``).
        argnums: the positions of the arguments that ``grad`` gives gradients for; by default all
            floating-point ones.
        seed: seed for the points near the given one.
        draws: the number of points: the given one, and others near it.
        names: what to call the arguments; by default the names of the parameters.
        seconds: the longest time to look for the cause of a mistake; it does not limit the check itself.
    Returns:
        The report.
    Raises:
        InputError: something cannot be checked: a function that raises, a loss that is not a scalar or that
            JAX cannot trace, a gradient of the wrong structure, an argument that is not a number.

    >>> import numpy as np
    >>> x, y = np.array([1.0, -2.5]), np.array([0.5, 1.5])
    >>> report = check_grad(lambda x, y: ((x - y) ** 2).mean(), lambda x, y: (2 * (x - y), y - x), x, y)
    >>> report.ok, [finding.ok for finding in report.findings]
    (False, [False, True])
    >>> print(report.findings[0].diagnosis)
    scaled by N = 2 (axis 0 of x): loss summed instead of averaged, 1/N is missing
    """
    who = "check_grad"
    require_settings(who, {"loss": loss, "grad": grad}, seed, draws)
    shown = names_of(who, loss, args, names)
    positions = positions_of(who, args, shown, argnums)
    own = copies(args)
    value = called(who, "loss", loss, *own)
    if np.shape(value if not isinstance(value, list | tuple | dict) else [0]) != () or not is_float(value):
        raise InputError(f"{who}: loss returned {describe(value)}, expected a floating-point scalar")
    written = modified(as_arguments(shown), args, own, "loss")

    def ask(args: tuple[Any, ...], cotangent: Callable[[Any], Any]) -> Reply:
        own = copies(args)
        got = called(who, "grad", grad, *own)
        return Reply(got, 1.0, tuple(modified(as_arguments(shown), args, own, "grad")))

    def rerun(
        args: tuple[Any, ...], cotangent: Callable[[Any], Any]
    ) -> Callable[[Callable[[Any], Any]], Any]:
        return lambda copied: grad(*copied(args))

    fn, fn_name = truth_of(who, against, "against", loss, "loss")
    end = until(who, seconds)
    question = Question(
        who, "grad", fn, fn_name, args, shown, positions, ask, scalar=True, until=end, rerun=rerun
    )
    return verdict(question, seed, draws, [value], written)


def check_vjp(
    fwd: Callable[..., Any],
    bwd: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | str | None = None,
    argnums: Iterable[int] | int | None = None,
    seed: int = 0,
    draws: int = 3,
    names: Iterable[str] | None = None,
    order: int = 1,
    seconds: float | None = None,
) -> Report:
    """Check a forward/backward pair, as for ``jax.custom_vjp``, with random cotangents.

    Args:
        fwd: ``fwd(*args)`` returns ``(out, res)``.
        bwd: ``bwd(res, dout)`` returns a tuple, one cotangent for each floating-point argument (or one for
            each argument, None for the others).
        *args: arrays (NumPy's or JAX's), numbers or pytrees of them; they are not modified.
        order: 2 also checks the derivative of ``bwd``, as in ``jax.grad(jax.grad(...))``: with respect to
            the residuals and the cotangent. JAX must be able to trace both functions.
        reference: the forward function in plain JAX, with ``reference(*args)`` returning ``out``, or the name
            of a formula; without it JAX differentiates ``fwd`` itself.
        argnums: the positions of the arguments that ``bwd`` gives cotangents for; by default all
            floating-point ones.
        seed: seed for the cotangents and for the points near the given one.
        draws: the number of cotangents, each at its own point: the given one, and others near it.
        names: what to call the arguments; by default the names of the parameters.
        seconds: the longest time to look for the cause of a mistake; it does not limit the check itself.
    Returns:
        The report.
    Raises:
        InputError: something cannot be checked; see :func:`check_grad`.

    >>> import jax.numpy as jnp
    >>> def square_fwd(x):
    ...     return x**2, x
    >>> def square_bwd(x, dout):
    ...     return (2 * x,)
    >>> print(check_vjp(square_fwd, square_bwd, jnp.array([1.0, -2.5, 3.0])).findings[0].diagnosis)
    cotangent ignored (this is the gradient for a cotangent of ones)
    """
    who = "check_vjp"
    require_settings(who, {"fwd": fwd, "bwd": bwd}, seed, draws)
    if not isinstance(order, int) or order not in (1, 2) or isinstance(order, bool):
        raise InputError(f"{who}: order is {describe(order)}, expected 1 or 2")
    shown = names_of(who, fwd, args, names)
    positions = positions_of(who, args, shown, argnums)

    def forward(*args: Any) -> tuple[Any, Any]:
        pair = fwd(*args)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise InputError(f"{who}: fwd returned {describe(pair)}, expected a pair (out, res)")
        return pair

    def ask(args: tuple[Any, ...], cotangent: Callable[[Any], Any]) -> Reply:
        own = copies(args)
        out, res = called(who, "fwd", forward, *own)
        require_numbers(who, "fwd", out)
        written = modified(as_arguments(shown), args, own, "fwd")
        dout, before = cotangent(out), copies(own)
        own_dout = copies(dout)
        got = called(who, "bwd", bwd, res, dout)
        written += modified(as_arguments(shown), before, own, "bwd")
        written += modified(["the cotangent"], [own_dout], [dout], "bwd")
        return Reply(got, own_dout, tuple(written))

    def rerun(
        args: tuple[Any, ...], cotangent: Callable[[Any], Any]
    ) -> Callable[[Callable[[Any], Any]], Any]:
        out, res = forward(*copies(args))
        dout = cotangent(out)
        return lambda copied: bwd(copied(res), copied(dout))

    out = called(who, "fwd", forward, *copies(args))[0]
    require_numbers(who, "fwd", out)
    fn, fn_name = truth_of(who, reference, "reference", lambda *a: fwd(*a)[0], "fwd")
    end = until(who, seconds)
    question = Question(
        who, "bwd", fn, fn_name, args, shown, positions, ask, scalar=False, until=end, rerun=rerun
    )
    report = verdict(question, seed, draws, float_leaves(out))
    if order == 1:
        return report
    if not report.ok:
        return replace(report, notes=(*report.notes, "order 2 was not checked: the first order is wrong"))
    dout = drawn(np.random.default_rng(seed))(out)
    further = second(question, fwd, bwd, dout, seed, draws)
    return replace(report, findings=report.findings + further.findings, notes=report.notes + further.notes)


def assert_grad_matches(
    loss: Callable[..., Any], grad: Callable[..., Any], *args: Any, **settings: Any
) -> None:
    """Fail with the report unless :func:`check_grad` finds every gradient right: one line in a test.

    Args:
        loss: the scalar loss.
        grad: its checked gradient.
        *args: see :func:`check_grad`.
        **settings: see :func:`check_grad`.
    Returns:
        Nothing.
    Raises:
        AssertionError: a gradient is wrong; the message is the report.
        InputError: it cannot be checked.

    >>> assert_grad_matches(lambda x: (x**2).sum(), lambda x: 2 * x, np.array([1.5, -2.0]))
    """
    __tracebackhide__ = True
    report = check_grad(loss, grad, *args, **settings)
    if not report.ok:
        raise AssertionError(str(report))


def assert_vjp_matches(fwd: Callable[..., Any], bwd: Callable[..., Any], *args: Any, **settings: Any) -> None:
    """Fail with the report unless :func:`check_vjp` finds every cotangent right: one line in a test.

    Args:
        fwd: the forward function of the pair.
        bwd: the backward function.
        *args: see :func:`check_vjp`.
        **settings: see :func:`check_vjp`.
    Returns:
        Nothing.
    Raises:
        AssertionError: a cotangent is wrong; the message is the report.
        InputError: it cannot be checked.

    >>> from manual_grad import relu_bwd, relu_fwd
    >>> assert_vjp_matches(relu_fwd, relu_bwd, np.array([1.5, -2.0]))
    """
    __tracebackhide__ = True
    report = check_vjp(fwd, bwd, *args, **settings)
    if not report.ok:
        raise AssertionError(str(report))


def forward_named(name: str) -> Callable[..., Any]:
    """A plain forward function by name, for ``against`` and ``reference``.

    Args:
        name: the name of a formula, such as ``softmax_cross_entropy``.
    Returns:
        The function of ``reference/`` with that name.
    Raises:
        InputError: there is no such formula.

    >>> float(forward_named("mse")(np.array([1.0, 2.0]), np.array([1.0, 4.0])))
    2.0
    """
    known: dict[str, Callable[..., Any]] = {}
    for module in pkgutil.iter_modules(plain.__path__):
        if module.name not in ("definitions", "oracles", "plain"):
            members = vars(importlib.import_module(f"manual_grad_reference.{module.name}"))
            own = (f for f in members.values() if inspect.isfunction(f) and not f.__name__.startswith("_"))
            known |= {f.__name__: f for f in own if f.__module__ == f"manual_grad_reference.{module.name}"}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3) or ["mse", "softmax_cross_entropy", "dense_rows"]
        raise InputError(f"no formula is called {name!r}; similar: {', '.join(close)}")
    return known[name]


def truth_of(who: str, given: Any, keyword: str, own: Forward, own_name: str) -> tuple[Forward, str]:
    """The function that JAX differentiates, and what to call it."""
    if given is None:
        return own, own_name
    if isinstance(given, str):
        try:
            return forward_named(given), given
        except InputError as error:
            raise InputError(f"{who}: {keyword}: {error}") from None
    if not callable(given):
        raise InputError(
            f"{who}: {keyword} is {describe(given)}, expected a function or the name of a formula"
        )
    return given, keyword
