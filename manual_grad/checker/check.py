"""The checker of anyone's gradient: which argument is wrong, where, by how much, and why.

The truth is ``jax.vjp`` in float64 of the same numbers. It is asked at the given point and at points near it,
so that an equality by accident is not believed; what is checked runs as it is, in its own precision.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad_reference as plain
from manual_grad.border import InputError, describe
from manual_grad.checker import nearby
from manual_grad.checker.diagnosis import diagnose
from manual_grad.checker.evidence import Evidence
from manual_grad.checker.truth import Point, answered, at_values, exact, float_leaves, is_float, pulled
from manual_grad.compare import TOLERANCES

FIT = {"float64": 1e-9, "float32": 1e-4}  # up to which a wrong gradient is the one of a known mistake


@dataclass(frozen=True)
class Finding:
    """What was found of one leaf of one argument.

    Attributes:
        argument: the argument's position.
        name: the parameter's name and the path of the leaf in it, such as ``params[0]['W']``.
        ok: whether its gradient is right at every point.
        diagnosis: why it is wrong, in a phrase; empty where it is right.
        max_error: the largest relative error, max |got − expected| / max |expected|; infinite where the shape
            is wrong or nothing came.
        where: index, got and expected at the largest error; None where the leaf is right or its shape wrong.
    """

    argument: int
    name: str
    ok: bool
    diagnosis: str = ""
    max_error: float = 0.0
    where: tuple[tuple[int, ...], float, float] | None = None

    def __str__(self) -> str:
        if self.ok:
            return f"{self.name}: right, relative error {self.max_error:.1e}"
        line = f"{self.name}: WRONG, {self.diagnosis}"
        if self.where is None:
            return line
        index, got, expected = self.where
        at = f"at [{','.join(map(str, index))}] " if index else ""
        return f"{line}\n    relative error {self.max_error:.2g}: {at}got {got:.6g}, expected {expected:.6g}"


@dataclass(frozen=True)
class Report:
    """What was found of a gradient; true where all of it is right.

    Attributes:
        findings: one for each floating-point leaf of each differentiable argument.
        notes: what to know before believing it: kinks, sizes that make two mistakes look alike.
        points: how many points it was checked at.
        seed: what they were drawn with.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    points: int = 1
    seed: int = 0

    @property
    def ok(self) -> bool:
        """Whether every leaf is right."""
        return all(finding.ok for finding in self.findings)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        wrong = sum(not finding.ok for finding in self.findings)
        verdict = f"{wrong} of {len(self.findings)} wrong" if wrong else f"all {len(self.findings)} right"
        at = f"{self.points} point{'s' if self.points > 1 else ''}"
        head = f"gradients against jax.vjp in float64: {verdict} ({at}, seed {self.seed})"
        return "\n".join(
            [head, *(f"  {f}" for f in self.findings), *(f"  note: {note}" for note in self.notes)]
        )


Forward = Callable[..., Any]
Came = tuple[Any, list[Any], list[Any]]  # the gradient, the cotangents and the leaves of the output


@dataclass(frozen=True)
class _Question:
    """What is checked: the truth's function, the arguments, and how the checked gradient is asked for."""

    who: str
    checked: str
    fn: Callable[..., Any]
    fn_name: str
    args: tuple[Any, ...]
    names: tuple[str, ...]
    positions: tuple[int, ...]
    ask: Callable[[tuple[Any, ...], np.random.Generator], Came]
    scalar: bool
    compiled: dict[Any, Any] = field(default_factory=dict)  # of the truth's function, for all points
    owners: tuple[int, ...] = field(init=False)
    leaf_names: tuple[str, ...] = field(init=False)
    values: tuple[Any, ...] = field(init=False)
    wrt: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        owners = [i for i, arg in enumerate(self.args) for _ in jax.tree.leaves(arg)]
        values = jax.tree.leaves(self.args)
        wrt = [i for i, v in enumerate(values) if is_float(v) and owners[i] in self.positions]
        leaf_names = nearby.leaf_names(self.names, self.args)
        derived: dict[str, Any] = {"owners": owners, "leaf_names": leaf_names, "values": values, "wrt": wrt}
        for name, leaves in derived.items():
            object.__setattr__(self, name, tuple(leaves))

    def point(self, values: Sequence[Any], dout: Sequence[Any]) -> Point:
        """The same in float64."""
        tree = jax.tree.structure(self.args)
        return nearby.point_at(self.fn, tree, values, self.leaf_names, self.wrt, dout, self.compiled)


@dataclass(frozen=True, eq=False)
class _Answer:
    """What came at one point, and the truth there."""

    gots: list[Any]
    point: Point
    outs: list[Any]
    wants: list[np.ndarray]
    allowed: list[float]  # absolute error, a leaf
    kept: dict[Any, Any] = field(default_factory=dict)


def check_grad(
    loss: Callable[..., Any],
    grad: Callable[..., Any],
    *args: Any,
    against: Callable[..., Any] | str | None = None,
    argnums: Sequence[int] | int | None = None,
    seed: int = 0,
    draws: int = 3,
    names: Sequence[str] | None = None,
) -> Report:
    """Check the gradient of a scalar loss.

    Args:
        loss: the scalar loss, ``loss(*args)``.
        grad: ``grad(*args)`` returns a tuple, one gradient for each floating-point argument (or one for each
            argument, None for the others); with a single such argument, its gradient alone will do.
        *args: arrays (NumPy's or JAX's), numbers or pytrees of them; they stay what they are.
        against: the loss in JAX where ``loss`` is NumPy code: a function, or the name of one of the lectures'
            (``"softmax_cross_entropy"``).
        argnums: the positions of the arguments that ``grad`` differentiates by; all floating-point ones.
        seed: decides the points near the given one.
        draws: how many points it is checked at: the given one, and others near it.
        names: what to call the arguments; the parameters' names.
    Returns:
        The report.
    Raises:
        InputError: something cannot be checked: a function that raises, a loss that is no scalar or that JAX
            cannot trace, a gradient of another structure, an argument that is no number.

    >>> import numpy as np
    >>> x, y = np.array([1.0, -2.5]), np.array([0.5, 1.5])
    >>> report = check_grad(lambda x, y: ((x - y) ** 2).mean(), lambda x, y: (2 * (x - y), y - x), x, y)
    >>> report.ok, [finding.ok for finding in report.findings]
    (False, [False, True])
    >>> print(report.findings[0].diagnosis)
    scaled by N = 2 (axis 0 of x): loss summed instead of averaged, 1/N is missing or scaled by 2
    """
    who = "check_grad"
    _require_settings(who, {"loss": loss, "grad": grad}, seed, draws)
    shown = _names(who, loss, args, names)
    positions = _positions(who, args, shown, argnums)
    value = _called(who, "loss", loss, *_copies(args))
    if np.shape(value if not isinstance(value, list | tuple | dict) else [0]) != () or not is_float(value):
        raise InputError(f"{who}: loss returned {describe(value)}, expected a floating-point scalar")

    def ask(args: tuple[Any, ...], rng: np.random.Generator) -> Came:
        return _called(who, "grad", grad, *_copies(args)), [1.0], []

    fn, fn_name = _truth_of(who, against, "against", loss, "loss")
    question = _Question(who, "grad", fn, fn_name, args, shown, positions, ask, scalar=True)
    return _check(question, seed, draws, [value] if against is not None else None)


def check_vjp(
    fwd: Callable[..., Any],
    bwd: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | str | None = None,
    argnums: Sequence[int] | int | None = None,
    seed: int = 0,
    draws: int = 3,
    names: Sequence[str] | None = None,
) -> Report:
    """Check a pair of the shape that ``jax.custom_vjp`` takes, with random cotangents.

    Args:
        fwd: ``fwd(*args)`` returns ``(out, res)``.
        bwd: ``bwd(res, dout)`` returns a tuple, one cotangent for each floating-point argument (or one for
            each argument, None for the others).
        *args: arrays (NumPy's or JAX's), numbers or pytrees of them; they stay what they are.
        reference: the forward function in plain JAX, ``reference(*args)`` giving ``out``, or the name of one
            of the lectures'; without it JAX differentiates ``fwd`` itself.
        argnums: the positions of the arguments that ``bwd`` differentiates by; all floating-point ones.
        seed: decides the cotangents and the points near the given one.
        draws: how many cotangents, each at its own point: the given one, and others near it.
        names: what to call the arguments; the parameters' names.
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
    _require_settings(who, {"fwd": fwd, "bwd": bwd}, seed, draws)
    shown = _names(who, fwd, args, names)
    positions = _positions(who, args, shown, argnums)

    def forward(*args: Any) -> tuple[Any, Any]:
        pair = fwd(*args)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise InputError(f"{who}: fwd returned {describe(pair)}, expected a pair (out, res)")
        return pair

    def ask(args: tuple[Any, ...], rng: np.random.Generator) -> Came:
        out, res = _called(who, "fwd", forward, *_copies(args))
        _require_numbers(who, "fwd", out)
        dout = jax.tree.map(lambda leaf: _cotangent(leaf, rng), out)
        got = _called(who, "bwd", bwd, res, dout)
        return got, float_leaves(dout), float_leaves(out)

    out = _called(who, "fwd", forward, *_copies(args))[0]
    fn, fn_name = _truth_of(who, reference, "reference", lambda *a: fwd(*a)[0], "fwd")
    question = _Question(who, "bwd", fn, fn_name, args, shown, positions, ask, scalar=False)
    return _check(question, seed, draws, float_leaves(out) if reference is not None else None)


def assert_grad_matches(
    loss: Callable[..., Any], grad: Callable[..., Any], *args: Any, **settings: Any
) -> None:
    """Fail, with the report, unless :func:`check_grad` finds every gradient right: one line in a test.

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
    """Fail, with the report, unless :func:`check_vjp` finds every cotangent right: one line in a test.

    Args:
        fwd: the forward half of the pair.
        bwd: the backward half.
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
    """One of the lectures' plain forward functions, for ``against`` and ``reference``.

    Args:
        name: such as ``softmax_cross_entropy``.
    Returns:
        The function of ``reference/`` with that name.
    Raises:
        InputError: there is none.

    >>> float(forward_named("mse")(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
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
        raise InputError(f"no lecture formula is called {name!r}; close to it: {', '.join(close)}")
    return known[name]


# --- what may come in -------------------------------------------------------------------------------------


def _require_settings(who: str, functions: dict[str, Any], seed: Any, draws: Any) -> None:
    for name, fn in functions.items():
        if not callable(fn):
            raise InputError(f"{who}: {name} is {describe(fn)}, expected a function")
    for name, value, least in (("seed", seed, 0), ("draws", draws, 1)):
        if not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{who}: {name} is {value!r}, expected an integer of at least {least}")


def _names(
    who: str, fn: Callable[..., Any], args: tuple[Any, ...], names: Sequence[str] | None
) -> tuple[str, ...]:
    """A name for each argument."""
    if names is not None:
        if isinstance(names, str) or len(names) != len(args):
            raise InputError(f"{who}: names is {names!r}, expected {len(args)} names, one for each argument")
        return tuple(names)
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # a built-in function
        return tuple(f"argument {i}" for i in range(len(args)))
    try:
        signature.bind(*args)
    except TypeError as error:
        raise InputError(f"{who}: {len(args)} arguments do not fit the function: {error}") from None
    given = [
        p.name
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    rest = next((p.name for p in signature.parameters.values() if p.kind == p.VAR_POSITIONAL), "args")
    return tuple(given[i] if i < len(given) else f"{rest}[{i - len(given)}]" for i in range(len(args)))


def _positions(
    who: str, args: tuple[Any, ...], names: tuple[str, ...], argnums: Sequence[int] | int | None
) -> tuple[int, ...]:
    """The positions of what is differentiated by."""
    for name, arg in zip(names, args, strict=True):
        _require_numbers(who, name, arg, says=f"{name} is")
    floating = [i for i, arg in enumerate(args) if float_leaves(arg)]
    if argnums is None:
        if not floating:
            shown = ", ".join(f"{name} is {describe(arg)}" for name, arg in zip(names, args, strict=True))
            raise InputError(
                f"{who}: no argument is floating-point, nothing to differentiate by: {shown or 'none'}"
            )
        return tuple(floating)
    wanted = [argnums] if isinstance(argnums, int) else list(argnums)
    for i in wanted:
        if not isinstance(i, int) or not 0 <= i < len(args):
            raise InputError(f"{who}: argnums has {i!r}, expected positions from 0 to {len(args) - 1}")
        if i not in floating:
            raise InputError(
                f"{who}: {names[i]} is {describe(args[i])}, which cannot be differentiated by; "
                "expected floating-point"
            )
    return tuple(sorted(set(wanted)))


def _require_numbers(who: str, name: str, value: Any, says: str = "") -> None:
    """Refuse tracers, arrays of objects, complex and empty arrays."""
    says = says or f"{name} returned"
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, jax.core.Tracer):
            raise InputError(f"{who}: {says} a tracer; call it outside jit, with the jitted functions inside")
        dtype = getattr(leaf, "dtype", None)
        if dtype is not None and (dtype == np.dtype(object) or jnp.issubdtype(dtype, jnp.complexfloating)):
            raise InputError(f"{who}: {says} {describe(leaf)}, expected an array of real numbers")
        if isinstance(leaf, jax.Array | np.ndarray) and leaf.size == 0:
            raise InputError(f"{who}: {says} {describe(leaf)}, expected at least one element")


def _called(who: str, name: str, fn: Callable[..., Any], *args: Any) -> Any:
    """Call a user's function; what it raises becomes one line."""
    try:
        return fn(*args)
    except InputError as error:
        raise InputError(
            str(error) if str(error).startswith(who) else f"{who}: {name} raised {error}"
        ) from error
    except Exception as error:  # it may raise anything
        raise InputError(f"{who}: {name} raised {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _copies(args: Any) -> Any:
    """The arguments, safe from a function that writes into them."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, args)


def _truth_of(who: str, given: Any, keyword: str, own: Forward, own_name: str) -> tuple[Forward, str]:
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
            f"{who}: {keyword} is {describe(given)}, expected a function or a lecture formula's name"
        )
    return given, keyword


def _cotangent(leaf: Any, rng: np.random.Generator) -> Any:
    """A random cotangent of the type and dtype of ``leaf``; of an integer JAX has none."""
    if not is_float(leaf):
        return np.zeros(np.shape(leaf), jax.dtypes.float0)
    drawn = rng.standard_normal(np.shape(leaf))
    if isinstance(leaf, jax.Array):
        return jnp.asarray(drawn, leaf.dtype)
    return np.asarray(drawn, leaf.dtype) if isinstance(leaf, np.ndarray) else type(leaf)(drawn)


def _gradients(question: _Question, got: Any) -> list[Any]:
    """The checked gradient of each leaf that is differentiated by; None where nothing came."""
    by_position = dict(zip(question.positions, _entries(question, got), strict=True))
    return [leaf for i in question.positions for leaf in _leaves(question, i, by_position[i])]


def _entries(question: _Question, got: Any) -> list[Any]:
    """One gradient for each argument that is differentiated by."""
    who, checked, positions = question.who, question.checked, question.positions
    count, names = len(positions), ", ".join(question.names[i] for i in positions)
    if count == 1 and question.scalar and _structure(got) == _structure(question.args[positions[0]]):
        return [got]
    if not isinstance(got, tuple):
        what = f"a Python list of {len(got)}" if isinstance(got, list) else describe(got)
        if count == 1 and question.scalar:
            raise InputError(
                f"{who}: {checked} returned {what}, expected {_described(question.args[positions[0]])}"
            )
        raise InputError(f"{who}: {checked} returned {what}, expected a tuple ({names}) of arrays")
    if len(got) == count and not (len(got) == len(question.args) and count < len(got)):
        return list(got)
    if len(got) != len(question.args):
        raise InputError(
            f"{who}: {checked} returned {len(got)} gradients, expected {count}: ({names}); "
            "argnums says which are differentiated by"
        )
    for i, entry in enumerate(got):
        nothing = entry is None or getattr(entry, "dtype", None) == jax.dtypes.float0
        if i not in positions and not nothing:
            raise InputError(
                f"{who}: {checked} returned {describe(entry)} for {question.names[i]}, which is "
                f"{describe(question.args[i])} and not differentiated by; expected None"
            )
    return [got[i] for i in positions]


def _structure(tree: Any) -> str:
    return str(jax.tree.structure(tree, is_leaf=lambda leaf: leaf is None))


def _described(value: Any) -> str:
    """An argument, with the keys of its dicts."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_described(v)}" for key, v in value.items()) + "}"
    return describe(value)


def _leaves(question: _Question, position: int, entry: Any) -> list[Any]:
    """The floating-point leaves of one argument's gradient."""
    arg, name = question.args[position], question.names[position]
    expected = jax.tree.leaves(arg, is_leaf=lambda leaf: leaf is None)
    if entry is None:
        return [None for leaf in expected if is_float(leaf)]
    if _structure(entry) != _structure(arg):
        what = f"the Python list {describe(entry)}" if isinstance(entry, list) else _described(entry)
        raise InputError(
            f"{question.who}: {question.checked} returned {what} for {name}, expected {_described(arg)}"
        )
    found: list[Any] = []
    for got, leaf in zip(jax.tree.leaves(entry, is_leaf=lambda leaf: leaf is None), expected, strict=True):
        if not is_float(leaf):
            continue
        if not (
            got is None
            or isinstance(got, int | float | complex | np.number | np.bool_ | np.ndarray | jax.Array)
        ):
            raise InputError(
                f"{question.who}: {question.checked} returned {describe(got)} for {name}, expected an array"
            )
        if got is not None and getattr(got, "dtype", None) != jax.dtypes.float0:
            _require_real(question, name, got)
            found.append(got)
        else:
            found.append(None)
    return found


def _require_real(question: _Question, name: str, got: Any) -> None:
    """Refuse what is no array of numbers; of complex ones the real part is checked."""
    if isinstance(got, jax.core.Tracer):
        raise InputError(
            f"{question.who}: {question.checked} returned a tracer for {name}, expected an array"
        )
    dtype = np.asarray(got).dtype
    if dtype.kind in "OSUV" and not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"{question.who}: {question.checked} returned {describe(np.asarray(got))} for {name}, "
            "expected an array of real numbers"
        )


# --- the verdict ----------------------------------------------------------------------------------------


def _check(question: _Question, seed: int, draws: int, value: list[Any] | None) -> Report:
    """Ask at the given point and near it, and say what was found."""
    rng = np.random.default_rng(seed)
    given = _answer(question, question.values, rng)
    with exact():
        notes = nearby.alike(given.point) + _value_notes(question, given.outs, value)
        kinks, disagreements = nearby.kinks(given.point, given.wants, rng)
    names = question.leaf_names
    notes += [f"{names[i]} sits on a kink: {what}; checked near it instead" for i, what in kinks.items()]
    notes += [f"{names[i]}: {what}; checked near it instead" for i, what in disagreements.items()]
    notes += _on_the_kink(question, given, kinks)
    near = [_near(question, rng, (), notes) for _ in range(draws - 1)]
    plain = [given, *(answer for answer in near if answer)]
    doubtful = {**kinks, **disagreements}
    moved = (
        [_near(question, rng, tuple(doubtful), notes) for _ in range(max(draws - 1, 1))] if doubtful else []
    )
    off = [answer for answer in moved if answer] or plain
    findings = [
        _finding(question, leaf, off if i in doubtful else plain, notes)
        for leaf, i in enumerate(question.wrt)
    ]
    return Report(tuple(findings), tuple(dict.fromkeys(notes)), len(plain), seed)


def _on_the_kink(question: _Question, given: _Answer, kinks: dict[int, str]) -> list[str]:
    """Where the gradient and JAX's differ on a kink, either may be right: it is said, and not checked."""
    notes = []
    for leaf, i in enumerate(question.wrt):
        got, want = given.gots[leaf], given.wants[leaf]
        if i not in kinks or got is None or np.shape(got) != want.shape:
            continue
        off = np.abs(_as_float64(got) - want)
        at = np.unravel_index(int(np.argmax(off)), off.shape)
        if off[at] > given.allowed[leaf]:
            index = f" at [{','.join(map(str, at))}]" if at else ""
            notes.append(
                f"{question.leaf_names[i]}: on the kink itself got {float(got[at]):.6g}, jax.vjp has "
                f"{want[at]:.6g}{index}: a mask with ≥ for > (or > for ≥) makes that difference"
            )
    return notes


def _near(
    question: _Question, rng: np.random.Generator, kinks: tuple[int, ...], notes: list[str]
) -> _Answer | None:
    """The answer at a point near the given one; None where the functions are not defined there."""
    try:
        answer = _answer(question, nearby.nearby(question.values, rng, kinks), rng)
    except InputError as error:
        notes.append(f"a point near the given one could not be checked: {error}")
        return None
    if not all(np.isfinite(want).all() for want in answer.wants):
        notes.append("near the given point JAX's own gradient is not finite; not checked there")
        return None
    return answer


def _answer(question: _Question, values: Sequence[Any], rng: np.random.Generator) -> _Answer:
    args = jax.tree.unflatten(jax.tree.structure(question.args), values)
    got, dout, _ = question.ask(args, rng)
    gots = _gradients(question, got)
    with exact():
        point = question.point(values, dout)
        outs, wants = _truth(question, point)
        allowed = _allowed(question, point, gots, outs, wants)
    return _Answer(gots, point, outs, wants, allowed)


def _truth(question: _Question, point: Point) -> tuple[list[Any], list[np.ndarray]]:
    """JAX's value and answer, or one line that says why there is none."""
    keyword = "against" if question.scalar else "reference"
    try:
        out = question.compiled.get("shapes")
        if out is None:
            out = question.compiled["shapes"] = jax.eval_shape(point.forward, *point.at)
        if out and [o.shape for o in out] == [np.shape(d) for d in point.dout]:
            return answered(point)
    except Exception as error:  # a user's function may raise anything
        if question.fn_name in ("loss", "fwd"):
            raise InputError(
                f"{question.who}: {question.fn_name} cannot be traced by JAX ({type(error).__name__}); "
                f"give a JAX version of it, or a lecture formula's name, as {keyword}="
            ) from error
        raise InputError(f"{question.who}: {question.fn_name} raised {_one_line(error)}") from error
    shapes = ", ".join(str(o.shape) for o in out) or "no floating-point output"
    own = ", ".join(str(np.shape(d)) for d in point.dout)
    raise InputError(f"{question.who}: {question.fn_name} returned {shapes}, expected {own}")


def _value_notes(question: _Question, outs: list[Any], value: list[Any] | None) -> list[str]:
    """Whether the checked function and the one it is compared with are one function."""
    if value is None:
        return []
    for mine, theirs in zip(value, outs, strict=True):
        got, want = np.asarray(mine, np.float64), np.asarray(theirs, np.float64)
        if np.max(np.abs(got - want)) > 0.03 * np.max(np.abs(want)):
            at = f"{got.flat[0]:.4g} and {want.flat[0]:.4g}"
            return [
                f"the function and the one it is compared with ({question.fn_name}) differ in value: {at}"
            ]
    return []


def _allowed(
    question: _Question, point: Point, gots: list[Any], outs: list[Any], wants: list[np.ndarray]
) -> list[float]:
    """The absolute error that passes, a leaf: the dtype's share of the largest entry, and rounding.

    Where terms cancel (a bias before a softmax) JAX's own gradient in that dtype is noise; what it is off by,
    at inputs moved by one rounding error, is allowed too, within limits.
    """
    coarse = max((TOLERANCES.get(o.dtype.name, 0.0) for o in outs), default=0.0)
    size = max(
        [np.max(np.abs(w), initial=0.0) for w in wants]
        + [float(jnp.max(jnp.abs(o * d))) for o, d in zip(outs, point.dout, strict=True)]
    )
    noises: dict[str, list[float]] = {}
    allowed = []
    for leaf, (got, want) in enumerate(zip(gots, wants, strict=True)):
        dtype = _checked_dtype(got, question.values[question.wrt[leaf]])
        noise = noises.setdefault(dtype, _noise(point, dtype, wants) if dtype not in noises else [])
        largest = np.max(np.abs(want), initial=0.0, where=np.isfinite(want))
        limit = 1e-3 * largest + 64 * float(jnp.finfo(dtype).eps) * size
        allowed.append(max(TOLERANCES[dtype], coarse) * largest + min(4 * noise[leaf], limit))
    return allowed


def _checked_dtype(got: Any, argument: Any) -> str:
    """The precision that a gradient is held to: the coarser of its own and the argument's."""
    names = [_dtype(argument), _dtype(got) if got is not None and is_float(got) else "float64"]
    return max(names, key=lambda name: TOLERANCES[name])


def _dtype(value: Any) -> str:
    name = "float64" if type(value) is float else str(value.dtype)
    return name if name in TOLERANCES else "float64"


def _noise(point: Point, dtype: str, wants: list[np.ndarray]) -> list[float]:
    rng = np.random.default_rng(0)
    eps = float(jnp.finfo(dtype).eps)
    values = list(point.values)
    for i, value in enumerate(values):
        if is_float(value):
            moved = np.asarray(value) * (1 + eps * rng.choice([-1, 1], np.shape(value)))
            values[i] = jnp.asarray(moved, dtype)
    try:
        cotangents = pulled(at_values(point, values))
    except Exception:  # a function that does not take this dtype may raise anything
        return [0.0 for _ in wants]
    errors = [np.max(np.abs(c - w), initial=0.0) for c, w in zip(cotangents, wants, strict=True)]
    return [float(e) if np.isfinite(e) else 0.0 for e in errors]


def _finding(question: _Question, leaf: int, answers: list[_Answer], notes: list[str]) -> Finding:
    """What the answers say of one leaf."""
    index = question.wrt[leaf]
    argument, name = question.owners[index], question.leaf_names[index]
    checked = [_compared(answer, leaf) for answer in answers]
    worst = max(checked, key=lambda found: found[1])
    wrong = [answer for answer, found in zip(answers, checked, strict=True) if not found[0]]
    dtype = _wrong_dtype(answers[0].gots[leaf], question.values[index])
    if not wrong:
        return Finding(argument, name, not dtype, dtype, worst[1], None)
    if answers[0] not in wrong:
        notes.append(f"{name} is right at the given point and wrong near it")
    with exact():
        diagnosis = diagnose([_evidence(question, answer, leaf) for answer in wrong])
    return Finding(argument, name, False, f"{diagnosis}; also {dtype}" if dtype else diagnosis, *worst[1:])


def _compared(answer: _Answer, leaf: int) -> tuple[bool, float, tuple[tuple[int, ...], float, float] | None]:
    """Whether a leaf is right at one point, its relative error, and where that is."""
    got, want = answer.gots[leaf], answer.wants[leaf]
    if got is None or np.shape(got) != want.shape:
        return False, float("inf"), None
    g = _as_float64(got)
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        difference = np.where((g == want) | (np.isnan(g) & np.isnan(want)), 0.0, np.abs(g - want))
    difference = np.where(np.isnan(difference), np.inf, difference)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(difference), difference.shape))
    scale = np.max(np.abs(want), initial=0.0, where=np.isfinite(want))
    error = float(difference[at] / scale) if scale else float(difference[at])
    return bool(difference[at] <= answer.allowed[leaf]), error, (at, float(g[at]), float(want[at]))


def _as_float64(got: Any) -> np.ndarray:
    """What was got, in float64; of complex numbers the real part."""
    found = np.asarray(got)
    return (found.real if found.dtype.kind == "c" else found).astype(np.float64)


def _wrong_dtype(got: Any, argument: Any) -> str:
    """What is wrong with a gradient's dtype; a Python number stands for any scalar."""
    if got is None or type(got) in (int, float) or type(argument) is float:
        return ""
    expected = {np.dtype(argument.dtype), np.dtype(jax.dtypes.canonicalize_dtype(argument.dtype))}
    found = np.asarray(got).dtype
    return "" if found in expected else f"wrong dtype: got {found}, expected {argument.dtype}"


def _evidence(question: _Question, answer: _Answer, leaf: int) -> Evidence:
    gots = [None if got is None else _as_float64(got) for got in answer.gots]
    dtype = _checked_dtype(answer.gots[leaf], question.values[question.wrt[leaf]])
    names = [question.leaf_names[i] for i in question.wrt]
    tolerance = FIT.get(dtype, TOLERANCES[dtype] / 2)
    return Evidence(leaf, gots, answer.wants, names, answer.point, tolerance, question.scalar, answer.kept)
