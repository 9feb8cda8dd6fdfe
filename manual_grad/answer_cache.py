"""Answers of the oracles, kept between runs: whoever changes a formula does not wait for the truth again.

An answer is found by everything it depends on: the oracle, the reference's function, the point, and the
sources of all that computes it. What a formula returns is never kept. Nothing is kept unless :func:`keep` was
called.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import math
import pickle
import platform
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

T = TypeVar("T")

FORMULAS = ("formulas", "kernels", "networks")  # their sources do not matter: no oracle uses them
PACKAGES = ("jax", "jaxlib", "ml_dtypes", "mpmath", "numpy", "scipy", "sympy")
STARTED = time.time()  # before the sources are imported, as whoever keeps answers imports this module first
SOON = 1.0  # seconds after which the sources are looked at again
WAIT = 5.0  # seconds for another process that is writing
LARGEST = 256 * 2**20  # bytes; a file of this size is only read
FILES = 4  # one for each state of the sources; the oldest are removed


class _Unnamed(TypeError):
    """A part of a question cannot be told apart from others by its name."""


class Store:
    """A file of answers, which several threads and processes may read and write.

    Attributes:
        read: how many answers of earlier runs were found in it.
    """

    def __init__(self, path: Path, unusable: Callable[[str], None]) -> None:
        self.read = 0
        self._path = path
        self._unusable: Callable[[str], None] | None = unusable  # None once it was told
        self._lock = threading.Lock()
        self._open: Any = None

    def get(self, question: bytes) -> Any:
        """The answer that was kept, or None."""
        rows = self._run("SELECT sum, answer, written FROM answers WHERE question = ?", question)
        if not rows or zlib.crc32(rows[0][1]) != rows[0][0]:
            return None
        self.read += rows[0][2] < STARTED
        return pickle.loads(rows[0][1])

    def put(self, question: bytes, answer: Any) -> None:
        """Keep an answer, unless the file is full or the sources have changed since they were imported."""
        if _size(self._path) < LARGEST and not changed(int(time.monotonic() / SOON)):
            written = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
            values = question, zlib.crc32(written), written, time.time()
            self._run("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", *values)

    def _run(self, command: str, *values: Any) -> list:
        """The rows found; after an error of the file, none, now and later."""
        with self._lock:
            if self._unusable is None:
                return []
            try:
                import sqlite3
            except ImportError:  # a Python without it
                self._unusable = None
                return []
            try:
                self._open = self._open or _opened(self._path)
                return self._open.execute(command, values).fetchall()
            except sqlite3.Error as error:
                self._unusable(str(error))
                self._unusable = None
                return []

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._open is not None:
                self._open.close()
            self._open = self._unusable = None


def _opened(path: Path) -> Any:
    import sqlite3

    file = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    file.execute("PRAGMA journal_mode=TRUNCATE")
    file.execute("PRAGMA synchronous=OFF")
    columns = "question BLOB PRIMARY KEY, sum INT, answer BLOB, written REAL"
    file.execute(f"CREATE TABLE IF NOT EXISTS answers ({columns})")
    return file


_KEPT: list[Store] = []


def file_in(folder: Path) -> Path:
    """The file for these sources, which need not exist."""
    return folder / f"answers-{sources()}.sqlite"


def keep(folder: Path, unusable: Callable[[str], None]) -> None:
    """From now on, read answers from a file in this folder and write new ones to it.

    Args:
        folder: holds a file for each state of the sources.
        unusable: told once, in a few words, why the file is no longer used.
    """
    file = file_in(folder)
    others = sorted((f for f in folder.glob("answers-*.sqlite") if f != file), key=_age)
    for old in others[FILES - 1 :]:
        for left in (old, Path(f"{old}-journal")):
            with contextlib.suppress(OSError):  # another process is using or removing it
                left.unlink()
    forget()
    if not changed(-1):
        _KEPT[:] = [Store(file, unusable)]


def forget() -> None:
    """Read and keep no more answers."""
    while _KEPT:
        _KEPT.pop().close()


def _size(file: Path) -> float:
    try:
        return file.stat().st_size
    except OSError:  # removed by another process
        return math.inf


def _age(file: Path) -> float:
    try:
        return -file.stat().st_mtime
    except OSError:  # removed by another process
        return 0.0


def how_many_read() -> int:
    """The number of answers of earlier runs that this process used."""
    return sum(store.read for store in _KEPT)


def remembered(question: Any, answer: Callable[[], T]) -> T:
    """The answer to a question, computed unless it was kept.

    Args:
        question: everything that the answer depends on: a pytree of arrays, numbers, texts and functions of
            the reference. A question with any other part is answered anew each time, and so is None.
        answer: computes it; what it raises is not kept.
    """
    if question is None or not _KEPT:
        return answer()
    try:
        key = hashlib.sha256(b"".join(_written(question))).digest()
    except (_Unnamed, TypeError, ValueError):
        return answer()
    found = _KEPT[0].get(key)
    if found is None:
        found = answer()
        _KEPT[0].put(key, found)
    return found


def _written(part: Any) -> Iterator[bytes]:
    """A question, byte by byte: two questions that differ are written differently."""
    if part is None or isinstance(part, bool | int | float | complex | str | bytes):
        yield f"{part!r};".encode()
    elif isinstance(part, list | tuple):
        yield f"{type(part).__name__} of {len(part)}:".encode()
        for entry in part:
            yield from _written(entry)
    elif isinstance(part, dict):
        yield f"dict of {len(part)}:".encode()
        for name, entry in part.items():
            yield from _written(name)
            yield from _written(entry)
    elif isinstance(part, FunctionType):
        yield f"function {_name(part)};".encode()
    else:
        import numpy as np  # not for --help

        array = np.asarray(part)
        if array.dtype == object:
            raise _Unnamed(type(part).__name__)
        weak = getattr(part, "weak_type", False)
        yield f"array {array.dtype} {array.shape} {weak};".encode()
        yield array.tobytes()


def _name(fn: FunctionType) -> str:
    """The name of a function of the reference, which imports nothing of ours and is among the sources."""
    known = getattr(sys.modules.get(fn.__module__), fn.__name__, None)
    if fn is not known or fn.__module__.partition(".")[0] != "manual_grad_reference":
        raise _Unnamed(fn.__qualname__)
    return f"{fn.__module__}.{fn.__name__}"


@functools.cache
def sources() -> str:
    """A digest of what computes the answers: our sources without the formulas, and the packages' versions."""
    digest = hashlib.sha256(f"{sys.version} {platform.machine()}".encode())
    for package in PACKAGES:
        try:
            digest.update(f"{package} {importlib.metadata.version(package)};".encode())
        except importlib.metadata.PackageNotFoundError:
            digest.update(f"no {package};".encode())
    for name, path in _files().items():
        digest.update(f"{name} {path.stat().st_size};".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.lru_cache(1)
def changed(moment: int) -> bool:
    """Whether the sources are no longer those that were imported, or cannot be found.

    Args:
        moment: the sources are looked at once for each.
    """
    try:
        return max((path.stat().st_mtime for path in _files().values()), default=math.inf) > STARTED
    except OSError:  # one was removed in between
        return True


def _files() -> dict[str, Path]:
    """Name → file of all our sources but the formulas."""
    found: dict[str, Path] = {}
    for package in ("manual_grad", "manual_grad_reference"):
        spec = find_spec(package)
        assert spec
        assert spec.origin
        folder = Path(spec.origin).parent
        inside = {path.relative_to(folder): path for path in sorted(folder.rglob("*.py"))}
        found |= {
            f"{package}/{name.as_posix()}": path
            for name, path in inside.items()
            if package != "manual_grad" or name.parts[0] not in FORMULAS
        }
    return found
