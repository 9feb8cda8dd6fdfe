"""What edited code must not change: files, random numbers, output, and the values that a program keeps."""

import builtins
import collections
import contextlib
import functools
import io
import logging
import os
import random
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MEMORY = 2 << 30  # bytes that edited code may use
KEPT = 3000  # objects that are looked through
LARGEST = 64 << 20  # bytes of the arrays that are kept
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSED = (
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.ch"),
    *("os.utime", "os.putenv", "os.unsetenv", "os.kill", "os.system", "os.exec", "os.fork", "os.posix_spawn"),
    *("os.spawn", "os.startfile", "os.setxattr", "os.removexattr", "shutil.", "tempfile.", "subprocess."),
    *("socket.", "sqlite3.", "urllib.", "smtplib.", "ftplib.", "pty.", "signal."),
)
_searching: set[int] = set()  # threads


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Run this thread without output, warnings, changes of files, and more memory than there is."""
    thread = threading.get_ident()
    _listen()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(np.errstate(all="ignore"))
        stack.enter_context(contextlib.redirect_stdout(_Elsewhere(sys.stdout, thread)))
        stack.enter_context(contextlib.redirect_stderr(_Elsewhere(sys.stderr, thread)))
        for handler in [ref() for ref in logging._handlerList] + [logging.lastResort]:  # type: ignore[attr-defined]
            if handler is not None:
                _unlogged(stack, handler, thread)
        stack.callback(_random_numbers())
        stack.callback(_less_memory())
        stack.callback(_searching.discard, thread)
        _searching.add(thread)
        yield


class _Elsewhere(io.TextIOBase):
    """A stream on which one thread writes nothing."""

    def __init__(self, stream: Any, thread: int) -> None:
        self.stream, self.thread = stream, thread

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.thread else self.stream.write(text)

    def flush(self) -> None:
        if threading.get_ident() != self.thread:
            self.stream.flush()


def _unlogged(stack: contextlib.ExitStack, handler: Any, thread: int) -> None:
    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    handler.addFilter(others)
    stack.callback(handler.removeFilter, others)


@functools.cache
def _listen() -> None:
    """Refuse changes of files and the like in the threads that search; a hook cannot be removed."""
    sys.addaudithook(_refuse)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if not _searching or threading.get_ident() not in _searching:
        return
    opens = event == "open" and isinstance(args[2], int) and args[2] & WRITING
    if opens or event.startswith(REFUSED):
        raise PermissionError(f"{event} while edits are tried")


def _random_numbers() -> Callable[[], None]:
    """What sets the global generators of random numbers back to their state now."""
    ours, theirs = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    torchs = torch.get_rng_state() if torch is not None and hasattr(torch, "get_rng_state") else None

    def back() -> None:
        random.setstate(ours)
        np.random.set_state(theirs)
        if torch is not None and torchs is not None:
            torch.set_rng_state(torchs)

    return back


def _less_memory() -> Callable[[], None]:
    """Limit the memory of the process, if that is known not to hurt; what undoes it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        if resource is not None and jax.default_backend() == "cpu" and not _on_a_gpu():
            with open("/proc/self/statm", encoding="ascii") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            before = soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            limit = used + MEMORY
            if all(limit < least or least == resource.RLIM_INFINITY for least in before):
                resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
                return lambda: resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return lambda: None


def _on_a_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and hasattr(torch, "cuda") and bool(torch.cuda.is_initialized())


# --- values -----------------------------------------------------------------------------------------------


def kept(roots: Sequence[Any], is_own: Callable[[str], bool]) -> Callable[[], None]:
    """What sets the values that functions keep back to those of now.

    They are kept in global variables, closures, attributes, and the arrays, lists and dicts there.

    Args:
        roots: functions, and what else they are given.
        is_own: whether a file is the user's.
    """
    waiting, size = collections.deque(roots), 0
    seen: dict[int, Any] = {}
    undo: list[Callable[[], None]] = []
    while waiting and len(seen) < KEPT:
        value = waiting.popleft()
        if id(value) in seen or value is None or isinstance(value, str | bytes | int | float | complex):
            continue
        seen[id(value)] = value
        if isinstance(value, np.ndarray) and value.dtype != object:
            size += value.nbytes
            if value.flags.writeable and size <= LARGEST:
                undo.append(functools.partial(np.copyto, value, value.copy()))
            continue
        held, back = _held(value, is_own)
        waiting.extend(held)
        undo.extend(back)

    def restore() -> None:
        for back in undo:
            back()

    return restore


def _held(value: Any, is_own: Callable[[str], bool]) -> tuple[list[Any], list[Callable[[], None]]]:
    """What an object holds, and what sets it back."""
    if isinstance(value, types.FunctionType):
        own = is_own(value.__code__.co_filename)
        names = list(_names(value.__code__)) if own else []
        used = [value.__globals__[name] for name in names if name in value.__globals__]
        cells = [cell for cell in value.__closure__ or () if _is_filled(cell)]
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), value.__dict__]
        back: list[Callable[[], None]]
        back = [functools.partial(_bind, value.__globals__, names, _picked(value.__globals__, names))]
        back += [functools.partial(setattr, cell, "cell_contents", cell.cell_contents) for cell in cells]
        return [*used, *defaults, *(cell.cell_contents for cell in cells)], back
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__], []
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()], []
    if value is builtins.__dict__:  # a module holds it, and edited code is given a name there
        return [], []
    if isinstance(value, dict):
        return list(value.values()), [functools.partial(_refill, value, dict(value))]
    if isinstance(value, list | set | collections.deque):
        return list(value), [functools.partial(_refill, value, list(value))]
    if isinstance(value, tuple | frozenset):
        return list(value), []
    if isinstance(value, types.ModuleType):
        own = is_own(getattr(value, "__file__", None) or "<")
        return ([value.__dict__] if own else []), []
    module = getattr(type(value), "__module__", "")
    if isinstance(value, type):
        own = is_own(getattr(sys.modules.get(value.__module__), "__file__", None) or "<")
        return (list(vars(value).values()) if own else []), []
    if str(module).partition(".")[0] in ("jax", "jaxlib", "manual_grad", "torch"):
        return [], []
    fields = getattr(value, "__dict__", None)
    return [type(value), *([fields] if isinstance(fields, dict) else [])], []


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # an empty cell
        return False


def _picked(variables: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: variables[name] for name in names if name in variables}


def _bind(variables: dict[str, Any], names: Sequence[str], values: dict[str, Any]) -> None:
    """Set global variables back; those that were not there go."""
    for name in names:
        if name not in values:
            variables.pop(name, None)
        elif variables.get(name) is not values[name]:
            variables[name] = values[name]


def _refill(holder: Any, items: Any) -> None:
    """Fill a dict, a list or a set with what it held, and change it no more than that."""
    if isinstance(holder, dict):
        for key in [key for key in holder if key not in items]:
            del holder[key]
        _bind(holder, list(items), items)
    elif isinstance(holder, set):
        if holder != set(items):
            holder.intersection_update(items)
            holder.update(items)
    elif len(holder) != len(items) or not all(a is b for a, b in zip(holder, items, strict=True)):
        holder.clear()
        holder.extend(items)
