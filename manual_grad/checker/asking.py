"""Calling the user's functions: valid arguments, copies on the way in and out, and what a call modified."""

import contextlib
import inspect
import itertools
import math
import operator
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.border import LONG, InputError, describe
from manual_grad.checker import nearby
from manual_grad.checker.truth import Point, float_leaves, is_float

DRAWS = 10**4  # more would take hours


@dataclass(frozen=True, eq=False)
class Reply:
    """The results of a user's functions at one point.

    Attributes:
        got: the gradient, as returned.
        cotangent: the output's cotangent, with the output's structure.
        modified: a phrase for each object that the call modified.
    """

    got: Any
    cotangent: Any
    modified: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """The subject of a check: the function that defines the truth, its arguments, and the gradient to check.

    Attributes:
        who: the public function that was called.
        called: the name of the function that returns the gradient.
        fn: the function that JAX differentiates.
        fn_name: the name of ``fn``.
        args: the arguments as given.
        names: a name for each argument.
        positions: the positions of the arguments to differentiate with respect to.
        ask: returns the reply, given arguments and a function that makes a cotangent for the output.
        scalar: whether the function is a loss, whose cotangent is 1.
        compiled: the compiled versions of ``fn``, shared by all points.
        foreign: PyTorch's results for ``fn`` at a point, if JAX cannot trace it.
        translated: returns the same in JAX, where the cause of a mistake can be searched for step by step;
            None if it cannot be translated.
        until: when to stop looking for causes, on the clock of ``time.monotonic``.
        rerun: given arguments and a function that makes a cotangent, returns what computes the gradient again
            and again from copies, given a function that copies; None if it cannot be separated from the rest.
        away: whether arguments are in another device's memory, where edited code must not run.
        in_any_layout: whether cotangents come in every memory layout: to raise for one of them is a mistake.
    """

    who: str
    called: str
    fn: Callable[..., Any]
    fn_name: str
    args: tuple[Any, ...]
    names: tuple[str, ...]
    positions: tuple[int, ...]
    ask: Callable[[tuple[Any, ...], Callable[[Any], Any]], Reply]
    scalar: bool
    compiled: dict = field(default_factory=dict)
    foreign: Callable[..., Any] | None = None
    translated: Callable[[], Callable[..., Any] | None] = lambda: None
    until: float = math.inf
    in_any_layout: bool = False
    away: bool = False
    rerun: Callable[[tuple[Any, ...], Callable[[Any], Any]], Callable[[Callable[[Any], Any]], Any]] | None = (
        None
    )
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

    @property
    def knows(self) -> str:
        """The library that computes the truth."""
        return "JAX" if self.foreign is None else "PyTorch"

    @property
    def truth(self) -> str:
        """The source of the truth, for messages."""
        return "jax.vjp" if self.foreign is None else "torch.autograd"

    def args_of(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments with these leaves."""
        return jax.tree.unflatten(jax.tree.structure(self.args), values)

    def point(self, values: Sequence[Any], dout: Sequence[Any]) -> Point:
        """The same in float64."""
        tree = jax.tree.structure(self.args)
        return nearby.point_at(
            self.fn, tree, values, self.leaf_names, self.wrt, dout, self.compiled, self.foreign
        )


# --- valid arguments --------------------------------------------------------------------------------------


def require_settings(who: str, functions: dict[str, Any], seed: Any, draws: Any) -> None:
    """Refuse arguments that are not functions, and an invalid seed or number of draws."""
    for name, fn in functions.items():
        if not callable(fn):
            raise InputError(f"{who}: {name} is {describe(fn)}, expected a function")
    for name, value, least in (("seed", seed, 0), ("draws", draws, 1)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise InputError(f"{who}: {name} is {describe(value)}, expected an integer of at least {least}")
    if draws > DRAWS:
        raise InputError(f"{who}: draws is {describe(draws)}, expected at most {DRAWS}")


def until(who: str, seconds: Any) -> float:
    """The time at which the user's seconds are over; None if no limit is given."""
    if seconds is None:
        return math.inf
    if not isinstance(seconds, int | float | np.number) or not seconds > 0 or isinstance(seconds, bool):
        raise InputError(f"{who}: seconds is {describe(seconds)}, expected a positive number")
    return time.monotonic() + float(min(seconds, 1e300))  # an int may be too large for a float


def names_of(who: str, fn: Callable, args: tuple[Any, ...], names: Iterable[str] | None) -> tuple[str, ...]:
    """A name for each argument."""
    if names is not None:
        try:
            given = () if isinstance(names, str) else tuple(itertools.islice(names, len(args) + 1))
        except Exception:  # an iterator may raise anything
            given = ()
        printable = all(isinstance(name, str) and name and name.isprintable() for name in given)
        if not printable or not len(given) == len(set(given)) == len(args):
            shown = describe(names if isinstance(names, str) or not given else given)
            alike = "different " if printable and len(set(given)) < len(given) == len(args) else ""
            count = f"{len(args)} {alike}name{'s' * (len(args) > 1)}"
            raise InputError(f"{who}: names is {shown}, expected {count}, one for each argument")
        return given
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # a built-in function
        return tuple(f"argument {i}" for i in range(len(args)))
    try:
        signature.bind(*args)
    except TypeError as error:
        count = f"{len(args)} argument{' does' if len(args) == 1 else 's do'}"
        raise InputError(f"{who}: {count} not match the function: {error}") from None
    own = [
        p.name
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    rest = next((p.name for p in signature.parameters.values() if p.kind == p.VAR_POSITIONAL), "args")
    return tuple(own[i] if i < len(own) else f"{rest}[{i - len(own)}]" for i in range(len(args)))


def as_arguments(names: Sequence[str]) -> list[str]:
    """What to call arguments in a sentence.

    >>> as_arguments(["x", "argument 1"])
    ['argument x', 'argument 1']
    """
    return [name if name.startswith("argument ") else f"argument {name}" for name in names]


def positions_of(
    who: str, args: tuple[Any, ...], names: tuple[str, ...], argnums: Iterable[int] | int | None
) -> tuple[int, ...]:
    """The positions of the arguments to differentiate with respect to."""
    for name, arg in zip(names, args, strict=True):
        require_numbers(who, name, arg, says=f"{name} is")
    floating = [i for i, arg in enumerate(args) if float_leaves(arg)]
    if argnums is None:
        if not floating:
            shown = ", ".join(f"{name} is {describe(arg)}" for name, arg in zip(names, args, strict=True))
            raise InputError(
                f"{who}: no argument is floating-point, so nothing can be differentiated: {shown or 'none'}"
            )
        return tuple(floating)
    wanted: list[Any] = [argnums]
    with contextlib.suppress(Exception):  # one position, or an iterator that raises
        wanted = list(itertools.islice(argnums, DRAWS))  # type: ignore[arg-type]
    if not wanted:
        raise InputError(f"{who}: argnums is {describe(argnums)}, expected at least one position")
    found = []
    for i in wanted:
        at = -1
        with contextlib.suppress(TypeError):
            at = -1 if isinstance(i, bool) else operator.index(i)
        if not 0 <= at < len(args):
            raise InputError(
                f"{who}: argnums has {describe(i)}, expected positions from 0 to {len(args) - 1}"
            )
        if at not in floating:
            raise InputError(
                f"{who}: {names[at]} is {describe(args[at])}, and nothing can be "
                "differentiated with respect to it; expected floating-point"
            )
        found.append(at)
    return tuple(sorted(set(found)))


def require_numbers(who: str, name: str, value: Any, says: str = "") -> None:
    """Refuse tracers, arrays of objects, complex and empty arrays, and arrays of other libraries."""
    said = says or f"{name} returned"
    for leaf in flat(who, said, value):
        if isinstance(leaf, jax.core.Tracer):
            raise InputError(f"{who}: {said} a tracer; call it outside jit and pass it the jitted functions")
        if other := _no_plain_array(leaf):
            raise InputError(f"{who}: {said} {other}")
        if not _is_real(leaf) or not (says or is_array(leaf)):
            raise InputError(f"{who}: {said} {describe(leaf)}, expected an array of real numbers")
        if isinstance(leaf, jax.Array | np.ndarray) and leaf.size == 0:
            raise InputError(f"{who}: {said} {describe(leaf)}, expected at least one element")


def flat(who: str, said: str, value: Any) -> list[Any]:
    """The leaves of a value that JAX can flatten."""
    try:
        return jax.tree.leaves(value)
    except (TypeError, ValueError, RecursionError, SystemError):
        raise InputError(
            f"{who}: {said} {describe(value)}, expected arrays, in no more than a few nested lists, tuples "
            "and dicts with keys that can be sorted"
        ) from None


def is_array(leaf: Any) -> bool:
    """Whether a leaf is a number or an array of numbers, and neither deleted nor a random key."""
    if not isinstance(leaf, jax.Array):
        return isinstance(leaf, int | float | complex | np.number | np.bool_ | np.ndarray)
    if isinstance(leaf, jax.core.Tracer):
        return True
    return not leaf.is_deleted() and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _no_plain_array(leaf: Any) -> str:
    """The message for an array that is neither a plain NumPy array nor JAX's; "" for anything else."""
    if isinstance(leaf, np.ma.MaskedArray):
        return "a masked array, expected a plain one, such as its .filled(0)"
    plain = type(leaf) in (np.ndarray, np.memmap) or isinstance(leaf, jax.Array | np.generic)
    if plain or not hasattr(leaf, "__array__"):
        return ""
    kind = type(leaf)
    return f"a {kind.__module__.partition('.')[0]}.{kind.__name__}, expected a NumPy or JAX array"


def _is_real(leaf: Any) -> bool:
    """Whether an array holds real numbers, integers or booleans; true of anything that is not an array."""
    if isinstance(leaf, jax.Array):
        return not jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    dtype = getattr(leaf, "dtype", None)
    if not isinstance(leaf, np.ndarray | np.generic) or dtype is None:
        return True
    return dtype.kind in "biuf" or (dtype.names is None and dtype.kind == "V" and is_float(leaf))


# --- a call -----------------------------------------------------------------------------------------------


NUMPY_GIVEN = ": arguments are passed as they are given; give JAX arrays, or write jnp.asarray(x) there"


def called(who: str, name: str, fn: Callable, *args: Any) -> Any:
    """Call a user's function; turn an exception or an exit into one line."""
    try:
        return fn(*args)
    except InputError as error:
        raise InputError(
            str(error) if str(error).startswith(who) else f"{who}: {name} raised {error}"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it may raise anything
        hint = NUMPY_GIVEN if isinstance(error, AttributeError) and "numpy.ndarray" in str(error) else ""
        raise InputError(f"{who}: {name} raised {one_line(error)}{hint}") from error


def one_line(error: BaseException) -> str:
    """An error's type and the first line of its message, cut if it is long, as some of PyTorch's are.

    >>> one_line(ValueError("no such axis\\nmore")), len(one_line(ValueError(1000 * "x")))
    ('ValueError: no such axis', 413)
    """
    first = (str(error).strip().splitlines() or [""])[0]
    first = first if len(first) <= LONG else f"{first[:LONG]}…"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def copies(tree: Any, order: Literal["K", "C"] = "K") -> Any:
    """A copy, safe from functions that modify it; arrays keep their axis order in memory, or get C order."""
    return jax.tree.map(
        lambda leaf: np.array(leaf, order=order) if isinstance(leaf, np.ndarray) else leaf, tree
    )


def modified(names: Sequence[str], before: Sequence[Any], after: Sequence[Any], by: str) -> list[str]:
    """A phrase for each value that a call has modified or replaced.

    >>> modified(["x", "y"], [np.zeros(2), np.ones(2)], [np.zeros(2), np.zeros(2)], "bwd")
    ['y was modified by bwd']
    """
    pairs = zip(names, before, after, strict=True)
    return [f"{name} was modified by {by}" for name, old, new in pairs if not _unchanged(old, new)]


def _unchanged(old: Any, new: Any) -> bool:
    if str(jax.tree.structure(old)) != str(jax.tree.structure(new)):
        return False
    pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    return all(
        a is b or not isinstance(a, np.ndarray) or (type(a) is type(b) and a.tobytes() == b.tobytes())
        for a, b in pairs
    )


# --- cotangents -------------------------------------------------------------------------------------------


def drawn(rng: np.random.Generator) -> Callable[[Any], Any]:
    """Make a random cotangent with the types and dtypes of an output; for an integer JAX has none."""

    def cotangent(leaf: Any) -> Any:
        if not is_float(leaf):
            return np.zeros(np.shape(leaf), jax.dtypes.float0)
        return _as(rng.standard_normal(np.shape(leaf)), leaf)

    return lambda out: jax.tree.map(cotangent, out)


def scaled(cotangent: Any, factor: float) -> Any:
    """A cotangent times a number, with the same types."""
    return jax.tree.map(lambda leaf: _as(factor * _wide(leaf), leaf) if is_float(leaf) else leaf, cotangent)


def like(cotangent: Any, out: Any) -> Any:
    """A cotangent's numbers in the dtypes of an output."""
    pairs = zip(jax.tree.leaves(cotangent), jax.tree.leaves(out), strict=True)
    leaves = [_as(_wide(number), leaf) if is_float(leaf) else number for number, leaf in pairs]
    return jax.tree.unflatten(jax.tree.structure(out), leaves)


def widened(leaf: Any) -> Any:
    """A floating-point array in float64, a JAX array where it was one; call it where float64 is enabled."""
    if not is_float(leaf) or isinstance(leaf, float):
        return leaf
    return jnp.asarray(_wide(leaf)) if isinstance(leaf, jax.Array) else _wide(leaf)


def _wide(leaf: Any) -> np.ndarray:
    return np.asarray(leaf).astype(np.float64)


def _as(array: np.ndarray, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return jnp.asarray(array, leaf.dtype)
    return np.asarray(array, leaf.dtype) if isinstance(leaf, np.ndarray) else type(leaf)(array)


def arranged(cotangent: Any) -> dict[str, Any]:
    """A cotangent of NumPy arrays in other memory layouts, with the same numbers; none for other arrays."""
    if not any(_is_laid_out(leaf) for leaf in jax.tree.leaves(cotangent)):
        return {}

    def each(change: Callable[[np.ndarray], np.ndarray]) -> Any:
        return jax.tree.map(lambda leaf: change(leaf) if _is_laid_out(leaf) else leaf, cotangent)

    return {
        "transposed": each(np.asfortranarray),
        "a slice with steps": each(_with_steps),
        "read-only": each(_read_only),
    }


def broadcast(cotangent: Any) -> Any:
    """A cotangent whose NumPy arrays repeat their first number, by strides of 0; None without such arrays."""
    if not any(_is_laid_out(leaf) for leaf in jax.tree.leaves(cotangent)):
        return None
    return jax.tree.map(
        lambda leaf: np.broadcast_to(leaf.flat[0], leaf.shape) if _is_laid_out(leaf) else leaf, cotangent
    )


def _is_laid_out(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and is_float(leaf) and leaf.size > 1


def _with_steps(array: np.ndarray) -> np.ndarray:
    wide = np.full([2 * n for n in array.shape], np.nan, array.dtype)
    view = wide[(slice(None, None, -2),) * array.ndim]
    view[...] = array
    return view


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


# --- results ----------------------------------------------------------------------------------------------


def gradients(question: Question, got: Any) -> list[Any]:
    """A copy of the gradient with respect to each leaf of ``wrt``; None if none was returned."""
    by_position = dict(zip(question.positions, entries(question, got), strict=True))
    found = [leaf for i in question.positions for leaf in _leaves(question, i, by_position[i])]
    return [np.array(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in found]


def entries(question: Question, got: Any) -> list[Any]:
    """One gradient for each argument of ``positions``."""
    who, called, positions = question.who, question.called, question.positions
    flat(who, f"{called} returned", got)
    count, names = len(positions), ", ".join(question.names[i] for i in positions)
    if count == 1 and question.scalar and _structure(got) == _structure(question.args[positions[0]]):
        return [got]
    if not isinstance(got, tuple):
        what = f"a Python list of {len(got)}" if isinstance(got, list) else describe(got)
        if count == 1 and question.scalar:
            raise InputError(
                f"{who}: {called} returned {what}, expected {_described(question.args[positions[0]])}"
            )
        selects = "; argnums selects the arguments" if question.scalar and count > 1 else ""
        raise InputError(f"{who}: {called} returned {what}, expected a tuple ({names}) of arrays{selects}")
    if len(got) == count and not (len(got) == len(question.args) and count < len(got)):
        return list(got)
    if len(got) != len(question.args):
        raise InputError(
            f"{who}: {called} returned {len(got)} gradients, expected {count}: ({names}); "
            "argnums selects the arguments"
        )
    for i, entry in enumerate(got):
        nothing = entry is None or getattr(entry, "dtype", None) == jax.dtypes.float0
        if i not in positions and not nothing:
            raise InputError(
                f"{who}: {called} returned {describe(entry)} for {question.names[i]}, which is "
                f"{describe(question.args[i])} and has no gradient; expected None"
            )
    return [got[i] for i in positions]


def _structure(tree: Any) -> str:
    return str(jax.tree.structure(tree, is_leaf=lambda leaf: leaf is None))


def _described(value: Any) -> str:
    """An argument, with the keys of its dicts."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_described(v)}" for key, v in value.items()) + "}"
    return describe(value)


def _leaves(question: Question, position: int, entry: Any) -> list[Any]:
    """The floating-point leaves of one argument's gradient."""
    arg, name = question.args[position], question.names[position]
    expected = jax.tree.leaves(arg, is_leaf=lambda leaf: leaf is None)
    if entry is None:
        return [None for leaf in expected if is_float(leaf)]
    if _structure(entry) != _structure(arg):
        what = f"the Python list {describe(entry)}" if isinstance(entry, list) else _described(entry)
        raise InputError(
            f"{question.who}: {question.called} returned {what} for {name}, expected {_described(arg)}"
        )
    found: list[Any] = []
    for got, leaf in zip(jax.tree.leaves(entry, is_leaf=lambda leaf: leaf is None), expected, strict=True):
        if not is_float(leaf):
            continue
        if got is not None and not is_array(got):
            raise InputError(
                f"{question.who}: {question.called} returned {describe(got)} for {name}, expected an array"
            )
        if got is not None and getattr(got, "dtype", None) != jax.dtypes.float0:
            _require_real(question, name, got)
            found.append(got)
        else:
            found.append(None)
    return found


def _require_real(question: Question, name: str, got: Any) -> None:
    """Refuse anything but an array of numbers; of complex ones, the real part is checked."""
    if isinstance(got, jax.core.Tracer):
        raise InputError(f"{question.who}: {question.called} returned a tracer for {name}, expected an array")
    if isinstance(got, np.ma.MaskedArray):
        raise InputError(f"{question.who}: {question.called} returned {_no_plain_array(got)}, for {name}")
    dtype = np.asarray(got).dtype
    if dtype.kind in "OSUV" and not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"{question.who}: {question.called} returned {describe(np.asarray(got))} for {name}, "
            "expected an array of real numbers"
        )
