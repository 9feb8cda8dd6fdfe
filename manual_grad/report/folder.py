"""The book's folder, written under another name and then renamed; nothing but a book is ever replaced."""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from manual_grad.border import InputError

MARK = "book.json"  # lists every file of the book, so that foreign ones are recognized


def require_free(path: Path, force: bool) -> None:
    """Refuse a folder that a book cannot be written to, before the work starts.

    Args:
        path: the book's folder.
        force: whether an existing book may be replaced.
    Raises:
        InputError: the folder exists and may not be replaced, or its place cannot be written to.
    """
    shown = _require_place(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{shown}, a file; expected a folder")
    if not force:
        raise InputError(f"{shown}, which already exists; --force replaces a book")
    foreign = sorted(foreign_files(path))
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(
            f"{shown}, which holds files that are not part of a book ({foreign[0]}{more}); left alone"
        )


def _require_place(path: Path) -> str:
    """Refuse a place where no folder can be made; returns its name for messages."""
    shown, parent = f"--out is {str(path)!r}", path.absolute().parent
    if path.is_symlink():
        raise InputError(f"{shown}, a symbolic link; expected the folder itself")
    if not parent.is_dir():
        raise InputError(f"{shown}, but there is no folder {str(parent)!r}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{shown}, but {str(parent)!r} cannot be written")
    return shown


def foreign_files(path: Path) -> set[str]:
    """The files and links in a folder that are not part of a book; all of them if there is no book.

    >>> import tempfile
    >>> foreign_files(Path(tempfile.mkdtemp()))
    set()
    """
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_symlink() or not p.is_dir()}
    try:
        listed = json.loads((path / MARK).read_text(encoding="utf-8"))["files"]
        ours = {MARK, *map(str, listed)}
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    return present - ours


def write(path: Path, files: Mapping[str, bytes], force: bool) -> None:
    """Write the book: afterwards ``path`` holds either all of it or its previous content.

    Args:
        path: the book's folder.
        files: name → content.
        force: whether an existing book may be replaced.
    Raises:
        InputError: see :func:`reserved`; or writing fails.
    """
    with reserved(path, force) as put:
        put(files)


@contextlib.contextmanager
def reserved(path: Path, force: bool) -> Iterator[Callable[[Mapping[str, bytes]], None]]:
    """Reserve a book's folder until it is written, so that a second run fails before its work starts.

    The book is written to ``.NAME.new.part/new``, and the one that it replaces is kept in ``old`` there; the
    run locks that folder. Leftovers of a killed run are removed, and a book that it had moved away is put
    back.

    Args:
        path: the book's folder.
        force: whether an existing book may be replaced.
    Returns:
        A function that writes the files.
    Raises:
        InputError: see :func:`require_free`; or another run is writing there.
    """
    _require_place(path)
    shown, path = path, path.absolute()
    place = path.parent / f".{path.name}.new.part"
    with _locked(place, shown):
        try:
            if not path.exists() and (place / "old").exists():
                os.rename(place / "old", path)
            for left in (
                *place.iterdir(),
                *(p for p in path.parent.iterdir() if _is_left(p.name, path.name)),
            ):
                shutil.rmtree(left, ignore_errors=True)
            require_free(shown, force)
            yield partial(_put, path, place, force)
        finally:
            if not path.exists() and (place / "old").exists():
                os.rename(place / "old", path)
            shutil.rmtree(place, ignore_errors=True)


def _put(path: Path, place: Path, force: bool, files: Mapping[str, bytes]) -> None:
    require_free(path, force)  # again: the work took minutes
    try:
        (place / "new").mkdir()
        _fill(place / "new", files)
        if path.exists():
            os.rename(path, place / "old")
        os.rename(place / "new", path)
    except OSError as error:
        raise InputError(f"--out: {path} could not be written: {error.strerror}") from None


def _is_left(name: str, book: str) -> bool:
    """Whether a folder is an unfinished book of an earlier version, which did not lock."""
    return re.fullmatch(rf"\.{re.escape(book)}\.[a-z0-9_]{{8}}\.part", name) is not None


@contextlib.contextmanager
def _locked(folder: Path, book: Path) -> Iterator[None]:
    """A folder for this run alone; the lock ends with the process."""
    try:
        handle = next(filter(None, (_lock(folder) for _ in range(20))), None)
    except BlockingIOError:
        raise InputError(f"--out is {str(book)!r}, which another manual-grad report is writing") from None
    except OSError as error:
        raise InputError(f"--out: {folder.parent} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(folder: Path) -> int | None:
    """The handle that locks a folder; None if another run removed it, or the system has no such locks."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, f"{folder.name} is not a folder")
    except FileNotFoundError:
        return None
    try:
        import fcntl
    except ImportError:
        return None
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_ino == folder.stat().st_ino:
            return handle
    except FileNotFoundError:
        pass
    except BlockingIOError:
        os.close(handle)  # type: ignore[arg-type]
        raise
    except OSError:  # a file system without locks
        return handle
    if handle is not None:
        os.close(handle)
    return None


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    os.chmod(folder, 0o777 & ~_umask())
    mark = {"book": "manual-grad report", "files": sorted(files)}
    content = {**files, MARK: (json.dumps(mark, indent=1) + "\n").encode()}
    for name in content:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"a file of the book is called {name!r}, expected a path inside its folder")
    for name, data in content.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
