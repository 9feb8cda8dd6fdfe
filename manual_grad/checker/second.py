"""Check the derivative of a backward half, as ``jax.grad(jax.grad(f))`` uses it for a custom rule."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.border import InputError
from manual_grad.checker.asking import Question, Reply, called, entries, one_line
from manual_grad.checker.findings import Report
from manual_grad.checker.truth import exact, float_leaves, is_float
from manual_grad.checker.verdict import verdict

STEP = 1e-4  # relative step of the difference that shows whether a value matters
Pair = Callable[..., Any]


def second(first: Question, fwd: Pair, bwd: Pair, dout: Any, seed: int, draws: int) -> Report:
    """Check the derivative of ``bwd`` with respect to the arguments and the cotangent.

    Args:
        first: the first-order question, whose answer is right.
        fwd: the forward half.
        bwd: the backward half.
        dout: a cotangent, which is an argument here.
        seed: seed for the points and the second-order cotangents.
        draws: the number of points.
    Returns:
        The report; each finding's name ends in ``, order 2``.
    Raises:
        InputError: JAX cannot trace the pair.
    """
    who = first.who

    def pulled(*args: Any) -> list[Any]:
        """The pair's cotangents of the arguments, as a function of the arguments and ``dout``."""
        _, res = fwd(*args[:-1])
        got = entries(first, bwd(res, args[-1]))
        return [g for i, entry in zip(first.positions, got, strict=True) for g in _filled(args[i], entry)]

    def truth(*args: Any) -> list[Any]:
        """The same by JAX."""
        leaves, tree = jax.tree.flatten(args[:-1])
        wrt = first.wrt

        def plain(*floats: Any) -> list[Any]:
            values = list(leaves)
            for i, leaf in zip(wrt, floats, strict=True):
                values[i] = leaf
            return float_leaves(first.fn(*jax.tree.unflatten(tree, values)))

        out, pull = jax.vjp(plain, *(leaves[i] for i in wrt))
        return list(pull([d.astype(o.dtype) for d, o in zip(float_leaves(args[-1]), out, strict=True)]))

    def ask(args: tuple[Any, ...], cotangent: Callable[[Any], Any]) -> Reply:
        leaves = jax.tree.leaves(args)

        def of(*floats: Any) -> list[Any]:
            values = list(leaves)
            for i, leaf in zip(question.wrt, floats, strict=True):
                values[i] = leaf
            return pulled(*question.args_of(values))

        with exact():
            try:
                out, pull = jax.vjp(of, *(jnp.asarray(leaves[i]) for i in question.wrt))
            except jax.errors.JAXTypeError as error:
                raise InputError(
                    f"{who}: order=2 differentiates fwd and bwd, and JAX cannot trace them: {one_line(error)}"
                ) from error
            d = cotangent(out)
            got = dict(zip(question.wrt, called(who, "the derivative of bwd", pull, d), strict=True))
        place = iter(range(len(leaves)))
        tree = jax.tree.map(lambda leaf: got.get(next(place)), args)
        return Reply(tuple(tree[i] for i in question.positions), d, ())

    args, names = (*first.args, dout), (*first.names, "dout")
    positions = (*first.positions, len(first.args))
    question = Question(who, "the derivative of bwd", truth, "reference", args, names, positions, ask, False)
    with exact():
        value = called(who, "bwd", pulled, *args)
        report = verdict(question, seed, draws, [np.asarray(v) for v in value])
        constants = [] if report.ok else list(_constants(first, fwd, bwd, dout))
    said = f"treated as constant by the second derivative: {', '.join(constants)}" if constants else ""
    findings = [
        replace(f, name=f"{f.name}, order 2", diagnosis="" if f.ok else said or f.diagnosis)
        for f in report.findings
    ]
    return replace(report, findings=tuple(findings), notes=tuple(f"order 2: {n}" for n in report.notes))


def _filled(arg: Any, entry: Any) -> list[Any]:
    """The cotangents of an argument's floating-point leaves, 0 if none was returned."""
    leaves = jax.tree.leaves(arg)
    if entry is None:
        return [jnp.zeros_like(leaf) for leaf in leaves if is_float(leaf)]
    got = jax.tree.leaves(entry, is_leaf=lambda leaf: leaf is None)
    each = zip(got, leaves, strict=True)
    return [jnp.zeros_like(leaf) if g is None else jnp.asarray(g) for g, leaf in each if is_float(leaf)]


def _constants(first: Question, fwd: Pair, bwd: Pair, dout: Any) -> Iterator[str]:
    """Saved values that matter, as finite differences show, but are constants to JAX's derivative."""
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda x: jnp.asarray(x) if is_float(x) else x, first.args))
    paths, saved = jax.tree_util.tree_flatten_with_path(fwd(*jax.tree.unflatten(tree, leaves))[1])

    def moved(values: Sequence[Any], places: Sequence[int]) -> list[Any]:
        """Directions that move some of the values."""
        return [
            jnp.asarray(rng.standard_normal(np.shape(v)) * np.abs(v).max(initial=1e-3), v.dtype)
            if i in places
            else jnp.zeros_like(v)
            for i, v in enumerate(values)
            if is_float(v)
        ]

    def save(*floats: Any) -> list[Any]:
        rest = iter(floats)
        values = [next(rest) if is_float(leaf) else leaf for leaf in leaves]
        return [leaf for leaf in jax.tree.leaves(fwd(*jax.tree.unflatten(tree, values))[1]) if is_float(leaf)]

    res = [leaf for _, leaf in paths]

    def use(*floats: Any) -> list[Any]:
        rest = iter(floats)
        values = [next(rest) if is_float(leaf) else leaf for leaf in res]
        got = bwd(jax.tree.unflatten(saved, values), dout)
        return [g for g in jax.tree.leaves(got) if is_float(g)]

    at, of = [v for v in leaves if is_float(v)], [v for v in res if is_float(v)]
    names = [f"res{jax.tree_util.keystr(path)}" for path, leaf in paths if is_float(leaf)]
    flows = _stops(save, at, moved(leaves, first.wrt))
    for k, name in enumerate(names):
        if flows[k]:
            yield f"{name}, as fwd saves it"
        elif any(_stops(use, of, moved(of, [k]))):
            yield f"{name}, in bwd"


def _stops(fn: Callable[..., list[Any]], at: Sequence[Any], direction: Sequence[Any]) -> list[bool]:
    """For each result, whether it changes along a direction although JAX's derivative is 0."""
    _, slopes = jax.jvp(fn, tuple(at), tuple(direction))
    ahead = fn(*(x + STEP * d for x, d in zip(at, direction, strict=True)))
    each = zip(fn(*at), ahead, slopes, strict=True)
    return [bool(jnp.any(a != b)) and not bool(jnp.any(s)) for b, a, s in each]
