"""The book's folder: written whole under another name, then renamed; only a book is ever replaced."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from manual_grad.border import InputError

MARK = "book.json"  # names every file of the book, so that a foreign one is known


def require_free(path: Path, force: bool) -> None:
    """Refuse a folder that a book cannot be written to, before the work.

    Args:
        path: where the book is to stand.
        force: whether a book that stands there may be replaced.
    Raises:
        InputError: the folder exists and may not be replaced, or its place cannot be written to.
    """
    shown, parent = f"--out is {str(path)!r}", path.absolute().parent
    if path.is_symlink():
        raise InputError(f"{shown}, a symbolic link; expected the folder itself")
    if not parent.is_dir():
        raise InputError(f"{shown}, but there is no folder {str(parent)!r}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{shown}, but {str(parent)!r} cannot be written")
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{shown}, a file; expected a folder")
    if not force:
        raise InputError(f"{shown}, which exists; --force replaces a book")
    foreign = sorted(foreign_files(path))
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(
            f"{shown}, which holds what is no part of a book ({foreign[0]}{more}): it is left as it is"
        )


def foreign_files(path: Path) -> set[str]:
    """The files and links in a folder that no book wrote; all of them where there is no book.

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
    """Write the book: either all of it stands at ``path`` afterwards, or what stood there before.

    Args:
        path: its folder.
        files: name → content.
        force: whether a book that stands there may be replaced.
    Raises:
        InputError: as :func:`require_free`, or the disk refuses.
    """
    require_free(path, force)
    path = path.absolute()
    try:
        new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise InputError(f"--out: {path.parent} cannot be written: {error.strerror}") from None
    old = new.with_suffix(".old")
    try:
        _fill(new, files)
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
    except OSError as error:
        raise InputError(f"--out: {path} could not be written: {error.strerror}") from None
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    os.chmod(folder, 0o777 & ~_umask())
    mark = {"book": "manual-grad report", "files": sorted(files)}
    content = {**files, MARK: (json.dumps(mark, indent=1) + "\n").encode()}
    for name in content:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"a file of the book is called {name!r}, expected a place inside its folder")
    for name, data in content.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
