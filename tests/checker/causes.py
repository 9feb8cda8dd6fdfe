"""Helpers for tests of the causes that the checker names."""

import inspect

import numpy as np
import pytest

from manual_grad.verify import check_vjp


def by(fn, bwd, *args, **settings):
    """The checker, asked about ``bwd(dout, *args)``."""

    def ask():
        def backward(res, dout):
            return bwd(np.asarray(dout), *(np.asarray(x) for x in res))

        names = tuple(inspect.signature(fn).parameters)[: len(args)]
        forward = lambda *args: (fn(*args), args)  # noqa: E731
        return check_vjp(forward, backward, *args, reference=fn, names=names, **settings)

    return ask


def loss_by(fn, grad, *args, argnums=0):
    """The checker, asked about a loss and its gradient."""
    return by(
        fn, lambda d, *args: tuple(None if g is None else d * g for g in grad(*args)), *args, argnums=argnums
    )


def softmax(z, axis=-1):
    """The softmax in NumPy."""
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def named_first(cases, in_all=False):
    """A test that the diagnosis of the first wrong argument, or of all, starts with the true cause."""

    @pytest.mark.parametrize("case", cases)
    def test(case):
        start, ask = cases[case]
        report = ask()
        wrong = [finding.diagnosis for finding in report.findings if not finding.ok]
        assert not report.ok, str(report)
        assert "the search ended" not in str(report), str(report)
        assert wrong, str(report)
        assert all(said.startswith(start) for said in (wrong if in_all else wrong[:1])), str(report)

    return test


def right(cases):
    """A test that right gradients pass. A case asks the checker, or is a function, gradient and arguments."""

    @pytest.mark.parametrize("case", cases)
    def test(case):
        ask = cases[case]
        report = ask() if callable(ask) else by(*ask[:2], *ask[2])()
        assert report.ok, str(report)

    return test
