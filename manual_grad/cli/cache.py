"""Compiled programs and the oracles' answers, kept in the user's cache folder."""

import hashlib
import importlib.metadata
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

import manual_grad.answer_cache as answer_cache

MOST = 512 * 2**20  # bytes; above this, the oldest files are removed


def keep() -> None:
    """Read compiled programs and the oracles' answers from the user's cache folder, and write new ones there.

    An unusable folder is skipped with one line; so is an unreadable program in it, which is compiled again.
    The user's own choice of a cache, ``JAX_COMPILATION_CACHE_DIR``, is respected.
    """
    import jax

    folder = _folder()
    if folder is None or getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _bound(folder.parent, MOST, folder)
        _require_writable(folder)
    except OSError as error:
        _say(f"nothing is kept for the next run: {folder} cannot be used: {error.strerror}")
        return
    answer_cache.keep(
        folder,
        lambda why: _say(f"the oracles' answers are not kept: {why} ({answer_cache.file_in(folder)})"),
    )
    warnings.showwarning = _once(warnings.showwarning, folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def has_answers() -> bool:
    """Whether the oracles have answered these sources' questions before, or some of them."""
    folder = _folder()
    return folder is not None and answer_cache.file_in(folder).exists()


def _folder() -> Path | None:
    """``$MANUAL_GRAD_CACHE`` (empty: no cache), or ``manual-grad`` in the user's cache folder.

    Programs are stored separately for each version of jaxlib and each processor.
    """
    given = os.environ.get("MANUAL_GRAD_CACHE")
    if given == "":
        return None
    usual = {
        "darwin": "~/Library/Caches",
        "win32": os.environ.get("LOCALAPPDATA") or "~/AppData/Local",
    }.get(sys.platform, os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    base = Path(given or f"{usual}/manual-grad/programs").expanduser()
    about = f"{importlib.metadata.version('jaxlib')} {_processor()}"
    return base / hashlib.sha256(about.encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor and its features: programs for one may crash on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "".join(dict.fromkeys(x for x in lines if x.startswith(("model name", "flags", "Features"))))


def _bound(base: Path, most: int, here: Path) -> None:
    """Remove the oldest files until the cache is half full; the answers in use are bounded elsewhere."""
    files = [
        (f.stat().st_mtime, f.stat().st_size, f)
        for f in base.glob("*/*")
        if f.is_file() and not (f.parent == here and f.match("answers-*"))
    ]
    size = sum(size for _, size, _ in files)
    if size <= most:
        return
    for _, length, file in sorted(files):
        file.unlink(missing_ok=True)  # another process may be removing it
        size -= length
        if size <= most / 2:
            return


def _require_writable(folder: Path) -> None:
    probe = folder / f"probe-{os.getpid()}"
    probe.touch()
    probe.unlink()


def _once(show: Any, folder: Path) -> Any:
    """Reduce JAX's warnings about the cache to one line."""
    said: list[bool] = []

    def shown(message: Any, *about: Any) -> None:
        if "persistent compilation cache" not in str(message):
            show(message, *about)
        elif not said:
            said.append(True)
            _say(f"{str(message).splitlines()[0]}; to start afresh, remove {folder}")

    return shown


def _say(what: str) -> None:
    print(f"manual-grad: {what}", file=sys.stderr)
