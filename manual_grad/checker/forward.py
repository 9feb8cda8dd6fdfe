"""Check forward-mode rules, as for ``jax.custom_jvp``, by transposing them into backward functions."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from manual_grad.border import InputError, describe
from manual_grad.checker.answers import as_float64, largest_of
from manual_grad.checker.asking import (
    Question,
    Reply,
    called,
    copies,
    modified,
    names_of,
    positions_of,
    require_numbers,
    require_settings,
)
from manual_grad.checker.check import truth_of
from manual_grad.checker.findings import Finding, Report
from manual_grad.checker.truth import float_leaves, is_float
from manual_grad.checker.verdict import verdict
from manual_grad.compare import TOLERANCES

WHO = "check_jvp"
ENTRIES = 2**12  # of the arguments: the rule is called once for each


def check_jvp(
    fn: Callable[..., Any],
    jvp: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | str | None = None,
    argnums: Iterable[int] | int | None = None,
    seed: int = 0,
    draws: int = 3,
    names: Iterable[str] | None = None,
) -> Report:
    """Check a rule for forward mode, as for ``jax.custom_jvp``.

    The rule is called with each unit tangent, which gives the Jacobian, and from it the result of the
    transposed rule for a random cotangent. That is compared with ``jax.vjp`` in float64, with the whole
    diagnosis.

    Args:
        fn: the function, in JAX; a rule of its own is not used if ``reference`` is given.
        jvp: ``jvp(primals, tangents)`` returns ``(out, tangent_out)``; integers have ``float0`` tangents.
        *args: arrays (NumPy's or JAX's), numbers or pytrees of them; they are not modified.
        reference: the same in plain JAX, or the name of a formula.
        argnums: the positions of the arguments to be checked; by default all floating-point ones.
        seed: seed for the cotangents and for the points near the given one.
        draws: the number of points: the given one, and others near it.
        names: what to call the arguments; by default the names of the parameters.
    Returns:
        The report: a finding for each floating-point argument, and one for ``out`` or ``jvp`` if the rule's
        value is not the function's or the rule is not linear in the tangents.
    Raises:
        InputError: something cannot be checked; see :func:`check_grad`.

    >>> import jax.numpy as jnp
    >>> def square_jvp(primals, tangents):
    ...     (x,), (dx,) = primals, tangents
    ...     return x**2, x * dx
    >>> print(check_jvp(lambda x: x**2, square_jvp, jnp.array([1.0, -2.5, 3.0])).findings[0].diagnosis)
    scaled by 1/2 (the factor 2 is missing)
    """
    require_settings(WHO, {"fn": fn, "jvp": jvp}, seed, draws)
    shown = names_of(WHO, fn, args, names)
    positions = positions_of(WHO, args, shown, argnums)
    plain, name = truth_of(WHO, reference, "reference", fn, "fn")
    out = called(WHO, "fn", fn, *copies(args))
    require_numbers(WHO, "fn", out)

    def ask(args: tuple[Any, ...], cotangent: Callable[[Any], Any]) -> Reply:
        own = copies(args)
        value = _moved(jvp, own, _units(own, None, 0))[0]
        dout = cotangent(value)
        got = _transposed(jvp, own, positions, dout)
        written = modified([f"argument {name}" for name in shown], args, own, "jvp")
        return Reply(tuple(got[i] for i in positions), dout, tuple(written))

    size = sum(np.size(leaf) for i in positions for leaf in float_leaves(args[i]))
    if size > ENTRIES:
        raise InputError(f"{WHO}: the arguments have {size} entries, expected at most {ENTRIES}")
    question = Question(WHO, "jvp", plain, name, args, shown, positions, ask, scalar=False)
    report = verdict(question, seed, draws, float_leaves(out))
    more = [*_of_the_value(jvp, copies(args), out), *_not_linear(jvp, copies(args), positions, seed)]
    return replace(report, findings=report.findings + tuple(more))


def assert_jvp_matches(fn: Callable[..., Any], jvp: Callable[..., Any], *args: Any, **settings: Any) -> None:
    """Fail with the report unless :func:`check_jvp` finds every tangent right: one line in a test.

    Args:
        fn: the function.
        jvp: its rule for forward mode.
        *args: see :func:`check_jvp`.
        **settings: see :func:`check_jvp`.
    Returns:
        Nothing.
    Raises:
        AssertionError: the rule is wrong; the message is the report.
        InputError: it cannot be checked.

    >>> def square_jvp(primals, tangents):
    ...     return primals[0] ** 2, 2 * primals[0] * tangents[0]
    >>> assert_jvp_matches(lambda x: x**2, square_jvp, np.array([1.0, -2.5]))
    """
    __tracebackhide__ = True
    report = check_jvp(fn, jvp, *args, **settings)
    if not report.ok:
        raise AssertionError(str(report))


def _units(args: tuple[Any, ...], place: int | None, entry: int) -> tuple[Any, ...]:
    """Tangents of 0 except for a 1 in one entry of one leaf."""
    leaves, tree = jax.tree.flatten(args)
    return jax.tree.unflatten(tree, [_unit(x, entry if i == place else None) for i, x in enumerate(leaves)])


def _unit(leaf: Any, entry: int | None) -> Any:
    if not is_float(leaf):
        return np.zeros(np.shape(leaf), jax.dtypes.float0)
    unit = np.zeros(np.shape(leaf), np.float64 if isinstance(leaf, float) else leaf.dtype)
    if entry is not None:
        unit.reshape(-1)[entry] = 1
    return _as(unit, leaf)


def _as(array: np.ndarray, leaf: Any) -> Any:
    """An array of the same library as a leaf."""
    if isinstance(leaf, jax.Array):
        return jax.numpy.asarray(array, leaf.dtype)
    return array.astype(leaf.dtype) if isinstance(leaf, np.ndarray) else type(leaf)(array)


def _dtype(value: Any) -> str:
    name = np.asarray(value).dtype.name
    return name if name in TOLERANCES else "float64"


def _moved(jvp: Callable[..., Any], args: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """Call the rule and validate the structure of its result."""
    pair = called(WHO, "jvp", jvp, args, tangents)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise InputError(f"{WHO}: jvp returned {describe(pair)}, expected a pair (out, tangent_out)")
    out, tangent = pair
    require_numbers(WHO, "jvp", out)
    shapes = [[np.shape(leaf) for leaf in float_leaves(tree)] for tree in (out, tangent)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{WHO}: jvp returned the tangent {describe(tangent)} for {describe(out)}")
    return out, tangent


def _transposed(
    jvp: Callable[..., Any], args: tuple[Any, ...], positions: Sequence[int], dout: Any
) -> list[Any]:
    """The cotangents of the arguments, from the rule's answer to each unit tangent."""
    leaves, tree = jax.tree.flatten(args)
    owners = [i for i, arg in enumerate(args) for _ in jax.tree.leaves(arg)]
    weights = [as_float64(d) for d in float_leaves(dout)]

    def product(place: int, entry: int) -> float:
        tangent = float_leaves(_moved(jvp, args, _units(args, place, entry))[1])
        return sum(float(np.sum(w * as_float64(t))) for w, t in zip(weights, tangent, strict=True))

    def cotangent(place: int, leaf: Any) -> Any:
        found = np.array([product(place, entry) for entry in range(np.size(leaf))]).reshape(np.shape(leaf))
        return _as(found, leaf) if not coarse or isinstance(leaf, float) else found.astype(coarse)

    known = [i for i, leaf in enumerate(leaves) if is_float(leaf) and owners[i] in positions]
    widest = max((TOLERANCES[_dtype(leaves[i])] for i in known), default=0.0)
    named = [_dtype(t) for t in float_leaves(_moved(jvp, args, _units(args, None, 0))[1])]
    coarse = next((name for name in named if TOLERANCES[name] > widest), "")  # JAX may only have float32
    got = [cotangent(i, leaf) if i in known else None for i, leaf in enumerate(leaves)]
    return list(jax.tree.unflatten(tree, got))


def _of_the_value(jvp: Callable[..., Any], args: tuple[Any, ...], out: Any) -> list[Finding]:
    """A finding if the rule's first result is not the function's value."""
    value, _ = _moved(jvp, args, _units(args, None, 0))
    for mine, theirs in zip(float_leaves(value), float_leaves(out), strict=True):
        got, want = as_float64(mine), as_float64(theirs)
        tolerance = max(TOLERANCES[_dtype(mine)], TOLERANCES[_dtype(theirs)])
        error = float(np.max(np.abs(got - want), initial=0.0)) if got.shape == want.shape else np.inf
        if error > tolerance * largest_of(want):
            at = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(got - want)), want.shape))
            said = "the rule's first result is not what the function gives"
            where = (at, float(got[at]), float(want[at]))
            return [Finding(-1, "out", False, said, error / (largest_of(want) or 1.0), where)]
    return []


def _not_linear(
    jvp: Callable[..., Any], args: tuple[Any, ...], positions: Sequence[int], seed: int
) -> list[Finding]:
    """A finding if the rule is not linear in the tangents, so that it cannot be transposed."""
    rng = np.random.default_rng(seed)
    wrt = {i for i, owner in enumerate(j for j, a in enumerate(args) for _ in jax.tree.leaves(a))
           if owner in positions}  # fmt: skip
    leaves, tree = jax.tree.flatten(args)
    drawn = [rng.standard_normal((2, *np.shape(leaf))) if is_float(leaf) else None for leaf in leaves]

    def along(first: float, second: float) -> list[np.ndarray]:
        tangents = [
            _as(first * d[0] + second * d[1], x) if d is not None and i in wrt else _unit(x, None)
            for i, (d, x) in enumerate(zip(drawn, leaves, strict=True))
        ]
        return [as_float64(t) for t in float_leaves(_moved(jvp, args, jax.tree.unflatten(tree, tangents))[1])]

    values = [*filter(is_float, leaves), *float_leaves(_moved(jvp, args, _units(args, None, 0))[1])]
    tolerance = 8 * max(TOLERANCES[_dtype(value)] for value in values)
    for one, two, both in zip(along(1, 0), along(0, 1), along(1, -2), strict=True):
        want = one - 2 * two
        error = float(np.max(np.abs(both - want), initial=0.0))
        if error > tolerance * max(largest_of(one), largest_of(two)):
            return [
                Finding(-1, "jvp", False, "not linear in the tangents", error / (largest_of(want) or 1.0))
            ]
    return []
