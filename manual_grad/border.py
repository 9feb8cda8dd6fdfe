"""The input checks of every public formula, with one clear line for each rejected argument.

``@checked`` compares each argument with the jaxtyping annotation in the signature, with axis names shared
between the arguments of a call, and names the argument that would otherwise be broadcast silently. It costs
microseconds when a function is traced or called eagerly, and nothing once it is compiled.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from beartype.door import is_bearable
from jaxtyping import AbstractArray, Array, Float, Float32, Float64, Integer, TypeCheckError, jaxtyped

P = ParamSpec("P")
R = TypeVar("R")
Prepare = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]

Scalar = Float[Array, ""] | float | int
FLOATS = ("float16", "bfloat16", "float32", "float64")  # eight bits are not enough
NARROW = {"int2": "int8", "int4": "int8", "uint2": "uint8", "uint4": "uint8"}  # JAX promotes none of them
FLOATS_TEXT = "float16, bfloat16, float32 or float64"
MANY, LONG = 12, 400  # items and characters of a value quoted in a message
Label = Integer[Array, ""] | int


class InputError(TypeCheckError, ValueError):
    """An argument that a formula refuses; the message names it, what was given and what was expected."""


def checked(formula: Callable[P, R], prepare: Prepare | None = None) -> Callable[P, R]:
    """Check every call of ``formula`` against its signature; NumPy arrays are converted to JAX arrays.

    Args:
        formula: a function whose parameters are annotated.
        prepare: given the annotations and the arguments by name, the arguments to check and call with.
    Raises:
        InputError: an argument's type, rank, size or dtype does not match its annotation, two arguments
            disagree on an axis or on the floating-point dtype, or an array is empty.

    >>> @checked
    ... def dot(x: Float[Array, " n"], y: Float[Array, " n"]):
    ...     return x @ y
    >>> dot(jnp.ones(3), jnp.ones((3, 1)))
    Traceback (most recent call last):
    manual_grad.border.InputError: dot: y is float32[3,1], expected float[n]; x is float32[3]
    """
    signature = inspect.signature(formula)
    hints = {name: hint for name, hint in typing.get_type_hints(formula).items() if name != "return"}

    @functools.wraps(formula)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{formula.__name__}: {error}") from None
        given = {name: _to_jax(formula, name, value) for name, value in bound.arguments.items()}
        try:
            given = {name: _wide(value, hints.get(name)) for name, value in given.items()}
            given = prepare(hints, given) if prepare else given
            _check(formula.__name__, hints, given)
        except RecursionError:
            raise InputError(f"{formula.__name__}: an argument is nested too deeply") from None
        bound.arguments.update(given)
        try:
            return formula(*bound.args, **bound.kwargs)
        except InputError as error:  # raised by an inner formula: name the one that was called
            inside = "" if str(error).startswith(f"{formula.__name__}:") else f"{formula.__name__}: in "
            raise InputError(f"{inside}{error}") from None

    return call


def _to_jax(formula: Callable[..., Any], name: str, value: Any) -> Any:
    def convert(leaf: Any) -> Any:
        if isinstance(leaf, np.generic):
            return leaf.item()
        leaf = jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
        narrow = isinstance(leaf, jax.Array) and leaf.dtype.name in NARROW
        return leaf.astype(NARROW[leaf.dtype.name]) if narrow else leaf

    try:
        return jax.tree.map(convert, value)
    except (TypeError, ValueError):  # an array of objects; a dict whose keys cannot be sorted
        found = describe(value)
        raise InputError(f"{formula.__name__}: {name} is {found}, expected an array of numbers") from None
    except (RecursionError, SystemError):
        raise InputError(f"{formula.__name__}: {name} is nested too deeply") from None


def _wide(value: Any, hint: Any) -> Any:
    """Convert integers too long for JAX to floats where a float is accepted; leave the others unchanged."""
    items = typing.get_args(hint)
    if isinstance(value, int) and float in items and abs(value) >= 2**31:
        return float(value) if abs(value) < 2**1023 else value
    if isinstance(value, tuple) and typing.get_origin(hint) is tuple and len(items) == len(value):
        return tuple(map(_wide, value, items))
    return value


def _check(formula: str, hints: dict[str, Any], given: dict[str, Any]) -> None:
    _check_annotations(formula, hints, given)
    residuals = [found for name, value in given.items() for found in _dataclasses(name, value)]
    for found in residuals:
        _check_annotations(formula, *found)
    wide = {name for fields, _ in residuals for name, hint in fields.items() if not _of_any_float(hint)}
    arrays = [pair for name, value in given.items() for pair in _arrays(name, value) if pair[0] not in wide]
    first = next(((name, a) for name, a in arrays if _has_own_float_dtype(a)), None)
    for name, array in arrays:
        if not isinstance(array, jax.core.Tracer) and array.is_deleted():
            raise InputError(f"{formula}: {name} is {describe(array)}, which was deleted or donated")
        if array.size == 0:
            raise InputError(f"{formula}: {name} is {describe(array)}, expected at least one element")
        if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.name not in FLOATS:
            raise InputError(f"{formula}: {name} is {describe(array)}, expected {FLOATS_TEXT}")
        if first and _has_own_float_dtype(array) and array.dtype != first[1].dtype:
            raise InputError(
                f"{formula}: {name} is {describe(array)}, expected {first[1].dtype}, like {first[0]}; "
                "cast one of them"
            )


def _check_annotations(formula: str, hints: dict[str, Any], given: dict[str, Any]) -> None:
    with jaxtyped("context"):  # one scope of axis names for the whole call
        for name, hint in hints.items():
            flag = isinstance(given.get(name), bool) and hint is not bool
            if name in given and (flag or not _fits(given[name], hint)):
                others = "".join(
                    f"; {other} is {describe(value)}"
                    for other, value in given.items()
                    if other != name and _arrays(other, value)
                )
                raise InputError(
                    f"{formula}: {name} is {_found(given[name], hint)}, expected {expected(hint)}"
                    f"{_remedy(given[name], hint)}{others}"
                )


def _found(value: Any, hint: Any) -> str:
    """Describe an argument; a list in place of an array by its length alone."""
    return _counted(value) if _remedy(value, hint) else describe(value)


def _remedy(value: Any, hint: Any) -> str:
    """The remedy if a list is given in place of an array."""
    hints = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    wanted = any(inspect.isclass(h) and issubclass(h, AbstractArray) for h in hints)
    first = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    numbers = first is not value and not isinstance(first, jax.Array)
    return " (jnp.asarray converts it)" if wanted and numbers else ""


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the annotated type; beartype checks one item of a sequence, this checks all."""
    items = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and items[-1] is Ellipsis:
        return isinstance(value, tuple) and all(_fits(item, items[0]) for item in value)
    if typing.get_origin(hint) is Sequence and not isinstance(value, str):
        return isinstance(value, Sequence) and all(_fits(item, items[0]) for item in value)
    if typing.get_origin(hint) is tuple and isinstance(value, tuple) and len(value) == len(items):
        return all(map(_fits, value, items))
    if isinstance(value, int) and float in items and abs(value) >= 2**1023:
        return False  # too large for a float
    return is_bearable(value, hint)


def _dataclasses(name: str, value: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The annotations and fields of each dataclass in an argument, by position."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value))
        fields = [field.name for field in dataclasses.fields(value)]
        yield (
            {f"{name}.{field}": hints[field] for field in fields},
            {f"{name}.{field}": getattr(value, field) for field in fields},
        )
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _dataclasses(f"{name}[{i}]", item)


def _arrays(name: str, value: Any) -> list[tuple[str, jax.Array]]:
    """Each array in an argument, with its position there, such as ``params[1][0]``."""
    leaves = jax.tree_util.tree_leaves_with_path(value)
    return [(name + jax.tree_util.keystr(path), leaf) for path, leaf in leaves if isinstance(leaf, jax.Array)]


def _of_any_float(hint: Any) -> bool:
    """Whether an annotation leaves the precision open, rather than requiring float32 or float64."""
    ways = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return not any(getattr(way, "dtype", None) in (Float32, Float64) for way in ways)


def _has_own_float_dtype(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating) and not array.aval.weak_type


def describe(value: Any, levels: int = 6) -> str:
    """``value`` in a few characters: arrays by dtype and shape, nested lists down to ``levels``.

    >>> describe((jnp.ones((2, 3)), "SAME"))
    "(float32[2,3], 'SAME')"
    >>> describe([0.5] * 1000)
    'a list of 1000'
    """
    if isinstance(value, jax.Array | np.ndarray):
        masked = "a masked " if isinstance(value, np.ma.MaskedArray) else ""
        return f"{masked}{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, tuple | list):
        if len(value) > MANY or not levels:
            return _counted(value)
        inner = ", ".join(describe(v, levels - 1) for v in value)
        comma = "," * (len(value) == 1)
        shown = f"({inner}{comma})" if isinstance(value, tuple) else f"[{inner}]"
        return shown if len(shown) <= LONG else _counted(value)
    if isinstance(value, int) and abs(value) >= 10**40:
        return "an integer of more than 40 digits"
    if value is None or isinstance(value, str | int | float):
        return repr(value) if not isinstance(value, str) or len(value) <= LONG else f"{value[:40]!r}…"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def _counted(value: Any) -> str:
    return f"a {'tuple' if isinstance(value, tuple) else 'list'} of {len(value)}"


def expected(hint: Any) -> str:
    """An annotation in the notation of :func:`describe`.

    >>> expected(tuple[Float[Array, "N d"], Scalar])
    '(float[N,d], float[] or float or int)'
    """
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        dtype = hint.dtype.__name__.lower()
        return f"{'int' if dtype == 'integer' else dtype}[{','.join(hint.dim_str.split())}]"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and args[-1] is Ellipsis:
        return f"tuple of {expected(args[0])}"
    if origin is tuple:
        return f"({', '.join(expected(arg) for arg in args)})"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(expected(arg) for arg in args)
    if origin is typing.Literal:
        return " or ".join(repr(arg) for arg in args)
    if origin is not None and args:
        return f"{origin.__name__.lower()} of {expected(args[0])}"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def is_float_array(value: Any, ndim: int) -> bool:
    """Whether ``value`` is a floating-point JAX array with ``ndim`` axes.

    >>> is_float_array(jnp.ones((2, 3)), 2), is_float_array([[1.0]], 2)
    (True, False)
    """
    return isinstance(value, jax.Array) and value.ndim == ndim and jnp.issubdtype(value.dtype, jnp.floating)


def require(condition: bool, message: str) -> None:
    """Raise :class:`InputError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)


def require_seen(condition: jax.Array, message: str) -> None:
    """The same as :func:`require` for a computed condition, if its value is known; under ``jit`` it is not.

    >>> jax.jit(lambda x: require_seen(x > 0, "not positive"))(-1.0)
    """
    if isinstance(condition, jax.core.Tracer) or not getattr(condition, "is_fully_addressable", True):
        return
    require(bool(condition), message)


def require_float_dtype(formula: str, given: Any) -> np.dtype:
    """The dtype that ``given`` names, if it is one of those that formulas compute in.

    >>> require_float_dtype("f", "float16")
    dtype('float16')
    """
    dtype: np.dtype | None
    try:
        dtype = jnp.dtype(given)
    except Exception:  # NumPy raises whatever it meets on the way
        dtype = None
    if dtype is None or dtype.name not in FLOATS:  # NumPy itself takes None for float64
        shown = describe(given) if dtype is None else dtype
        raise InputError(f"{formula}: dtype is {shown}, expected {FLOATS_TEXT}")
    return dtype


def require_shape(formula: str, name: str, array: jax.Array, shape: Sequence[int]) -> None:
    """Refuse an array without this shape, such as a cotangent that is not shaped like the output."""
    wanted = ",".join(map(str, shape))
    require(array.shape == tuple(shape), f"{formula}: {name} is {describe(array)}, expected float[{wanted}]")


def require_labels_in_range(
    formula: str, labels: Any, K: int, name: str = "labels", ignore_index: int | None = None
) -> None:
    """Refuse integer labels outside 0…K−1 that are not ``ignore_index``, if their values are known.

    Under ``jit`` they are not: there the loss and that sample's gradient become NaN (see
    :func:`manual_grad.formulas.softmax.one_hot`).
    """
    if isinstance(labels, jax.core.Tracer) or not getattr(labels, "is_fully_addressable", True):
        return
    values = np.asarray(labels)
    counts = np.ones(values.shape, bool) if ignore_index is None else values != ignore_index
    require(
        ignore_index is None or bool(counts.any()),
        f"{formula}: {name} are all {ignore_index}, which is ignored; expected at least one other value",
    )
    bad = np.argwhere(counts & ((values < 0) | (values >= K)))
    if len(bad):
        where = ",".join(map(str, bad[0]))
        at = f"[{where}]" if where else ""
        raise InputError(
            f"{formula}: {name}{at} is {values[tuple(bad[0])]}, expected an integer from 0 to {K - 1}"
            f"{'' if ignore_index is None else f' or {ignore_index}'}"
        )
