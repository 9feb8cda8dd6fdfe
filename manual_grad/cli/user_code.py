"""Input of the console script's users: functions in a file, random inputs given by shape, an archive."""

import difflib
import importlib
import importlib.util
import inspect
import math
import os
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from manual_grad import npz
from manual_grad.border import InputError, describe

INPUT = re.compile(r"(?P<name>\w+)=(?:(?P<kind>int|onehot|positive):)?(?P<rest>.*)")


def load_functions(paths: Sequence[str]) -> list[Callable[..., Any]]:
    """The functions named ``file.py:function`` or ``module:function``; each file runs once.

    Args:
        paths: each a file or an importable module, a colon, and the name of a function in it.
    Returns:
        The functions, in order.
    Raises:
        InputError: there is no such file or function, or the file raises.
    """
    modules: dict[Path, Any] = {}
    found = []
    for path in paths:
        file, colon, name = path.rpartition(":")
        if not colon or not name:
            raise InputError(f"{path!r} is not a function, expected file.py:function")
        module = modules.get(Path(file)) or modules.setdefault(Path(file), _load(file))
        fn = getattr(module, name, None)
        if fn is None:
            close = difflib.get_close_matches(name, [n for n, v in vars(module).items() if callable(v)])
            hint = f"; similar: {', '.join(close)}" if close else ""
            raise InputError(f"{file} has no function {name!r}{hint}")
        if not callable(fn):
            raise InputError(f"{path} is {describe(fn)}, expected a function")
        found.append(fn)
    return found


def _load(file: str) -> Any:
    """Run a file, or import a module by name, found from the current folder as by ``python -m``."""
    if (
        Path(file).is_file()
        or not all(part.isidentifier() for part in file.split("."))
        or file.endswith(".py")
    ):
        return _run(Path(file))
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(file)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything, or exit
        if isinstance(error, ModuleNotFoundError) and file.startswith(error.name or " "):
            raise InputError(f"there is no file or module {file!r}") from None
        first = (str(error).splitlines() or [""])[0]
        raise InputError(f"{file} raised {type(error).__name__}: {first}") from error
    finally:
        sys.path.pop(0)


def _run(file: Path) -> Any:
    """Import a file under a unique name, with its folder on the path."""
    if not file.is_file():
        raise InputError(f"there is no file {str(file)!r}")
    spec = importlib.util.spec_from_loader(file.stem, loader=None)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    module.__file__ = str(file)
    sys.path.insert(0, str(file.absolute().parent))
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's file may raise anything, or exit
        first = (str(error).splitlines() or [""])[0]
        raise InputError(f"{file} raised {type(error).__name__}: {first}") from error
    finally:
        sys.path.pop(0)
    return module


def draw_inputs(inputs: Sequence[str], dtype: str, seed: int) -> dict[str, Any]:
    """Random arrays of the shapes that a user gives.

    Args:
        inputs: ``x=8x3`` is Gaussian; ``x=positive:8x3`` lies between ½ and 2; ``y=onehot:8x5`` has one-hot
            rows; ``labels=int:0..9:8`` are integers from 0 to 9; ``b=`` is a scalar.
        dtype: the dtype of floating-point arrays.
        seed: seed for the numbers.
    Returns:
        Name → array, in order.
    Raises:
        InputError: an input cannot be parsed, or two have the same name.

    >>> {name: describe(a) for name, a in draw_inputs(["x=8x3", "k=int:0..9:8"], "float32", 0).items()}
    {'x': 'float32[8,3]', 'k': 'int64[8]'}
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for text in inputs:
        match = INPUT.fullmatch(text)
        if match is None:
            raise InputError(
                f"--input is {_cut(text)!r}, expected name=shape, such as x=8x3 or labels=int:0..9:8"
            )
        if match["name"] in arrays:
            raise InputError(f"--input {match['name']} is given twice")
        arrays[match["name"]] = _draw(text, match["kind"], match["rest"], dtype, rng)
    return arrays


def _draw(text: str, kind: str | None, rest: str, dtype: str, rng: np.random.Generator) -> np.ndarray:
    bounds = re.fullmatch(r"(-?\d{1,1000})\.\.(-?\d{1,1000}):?(.*)", rest) if kind == "int" else None
    if kind == "int" and (bounds is None or int(bounds[1]) > int(bounds[2])):
        raise InputError(f"--input is {_cut(text)!r}, expected bounds and a shape, such as labels=int:0..9:8")
    if bounds and not -(2**63) <= int(bounds[1]) <= int(bounds[2]) < 2**63:
        raise InputError(f"--input is {_cut(text)!r}, expected bounds within int64, −2⁶³ to 2⁶³ − 1")
    shape = _shape(text, bounds[3] if bounds else rest)
    if bounds:
        return rng.integers(int(bounds[1]), int(bounds[2]), shape, endpoint=True)
    if kind == "onehot":
        if not shape:
            raise InputError(
                f"--input is {_cut(text)!r}, expected a shape for the one-hot rows, such as y=onehot:8x5"
            )
        return np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])].astype(jnp.dtype(dtype))
    drawn = rng.uniform(0.5, 2.0, shape) if kind == "positive" else rng.standard_normal(shape)
    return np.asarray(drawn).astype(jnp.dtype(dtype))


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:60]}… ({len(text)} characters)"


def _shape(text: str, sizes: str) -> tuple[int, ...]:
    if sizes and not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8})*", sizes):
        raise InputError(f"--input is {_cut(text)!r}, expected a shape of positive sizes, such as x=8x3")
    shape = tuple(int(size) for size in sizes.split("x") if size)
    if math.prod(shape) > npz.LARGEST:
        raise InputError(f"--input is {_cut(text)!r}: more than 10⁸ numbers")
    if len(shape) > npz.AXES:
        raise InputError(f"--input is {_cut(text)!r}: {len(shape)} axes, expected at most {npz.AXES}")
    return shape


def load_archive(path: Path, names: Sequence[str], dtype: str | None) -> dict[str, Any]:
    """The arrays of a NumPy archive.

    Args:
        path: an ``.npz`` file.
        names: the names of the arrays to read.
        dtype: the dtype to convert floating-point arrays to; None leaves them unchanged.
    Returns:
        Name → array, in the order of ``names``.
    Raises:
        InputError: there is no such file, it is not an archive, or an array is missing or holds objects.
    """
    if not path.is_file():
        raise InputError(f"--inputs: there is no file {str(path)!r}")

    def choose(there: list[str]) -> list[str]:
        missing = [name for name in names if name not in there]
        if missing:
            has = ", ".join(there) or "nothing"
            raise InputError(f"--inputs: {path} has no array {missing[0]!r}; it has {has}")
        return list(names)

    try:
        if not zipfile.is_zipfile(path):
            raise InputError(f"--inputs: {path} is not an archive, expected an .npz file")
        arrays, _ = npz.read(path, choose, f"in {path} is an array of objects")
    except OSError as error:
        raise InputError(f"--inputs: {path} cannot be read: {error}") from error
    except InputError as error:
        said = str(error)
        if said.startswith("--inputs"):
            raise
        raise InputError(f"--inputs: {path} cannot be read: {said}") from None
    return {
        name: a.astype(jnp.dtype(dtype)) if dtype and a.dtype.kind == "f" else a for name, a in arrays.items()
    }


def parameters(fn: Callable[..., Any], name: str) -> list[str]:
    """The names of a function's positional parameters without a default.

    Args:
        fn: the function.
        name: what to call it in an error.
    Returns:
        The names.
    Raises:
        InputError: its arguments have no names: any number of them, or a function written in C.

    >>> parameters(lambda x, y, axis=0: x, "loss")
    ['x', 'y']
    """
    wanted = []
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # a function written in C
        raise InputError(f"{name} has parameters without names, expected a Python function") from None
    for p in signature.parameters.values():
        if p.kind == p.VAR_POSITIONAL:
            raise InputError(f"{name} takes *{p.name}, expected named parameters")
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty:
            wanted.append(p.name)
    return wanted


def arguments(
    fn: Callable[..., Any],
    name: str,
    shapes: Sequence[str],
    archive: Path | None,
    dtype: str | None,
    seed: int,
) -> dict[str, Any]:
    """A function's arguments by name, in its order: from an archive, or random ones of the given shapes.

    Args:
        fn: the function.
        name: what to call it in an error.
        shapes: see :func:`draw_inputs`.
        archive: see :func:`load_archive`.
        dtype: the dtype of floating-point arrays; None means float64, or the archive's own.
        seed: seed for the numbers.
    Returns:
        Name → array.
    Raises:
        InputError: their number differs from that of the function's parameters, one has the name of
            another parameter, or they cannot be read.
    """
    wanted = parameters(fn, name)
    if archive:
        return load_archive(archive, wanted, dtype)
    arrays = draw_inputs(shapes, dtype or "float64", seed)
    if len(arrays) != len(wanted):
        raise InputError(
            f"{name} takes {len(wanted)} arguments ({', '.join(wanted)}), but --input gives {len(arrays)}"
        )
    if set(wanted) == set(arrays):
        return {name: arrays[name] for name in wanted}
    others = [given for own, given in zip(wanted, arrays, strict=True) if given in wanted and given != own]
    if others:
        raise InputError(
            f"{name} takes {', '.join(wanted)}, but --input gives {', '.join(arrays)}, with "
            f"{others[0]} in another place; expected all of them by name, or all in order"
        )
    return arrays
