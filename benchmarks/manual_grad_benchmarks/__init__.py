"""By hand, by autodiff and by peers: ``manual-grad bench``, or ``python -m benchmarks`` in a checkout.

A case (:mod:`manual_grad_benchmarks.cases`) is one computation at one size, with two sides: a hand-derived
gradient and ``jax.value_and_grad`` of a plain forward function (:mod:`manual_grad_benchmarks.plain`).
:mod:`manual_grad_benchmarks.run` compares the results of both sides with float64, and only then has
:mod:`manual_grad_benchmarks.timing` time them alternately.
"""
