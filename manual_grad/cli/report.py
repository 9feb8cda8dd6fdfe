"""``manual-grad report``: the lecture book, a static site of every equation with code, proof and picture."""

import contextlib
import importlib.util
import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from manual_grad.cli import cache, tables
from manual_grad.cli.usage import require_device
from manual_grad.digits import MissingExtra

NEEDED = {
    "jinja2": "Jinja2",
    "latex2mathml": "latex2mathml",
    "pygments": "Pygments",
    "sklearn": "scikit-learn",
    "ziamath": "ziamath",
}


def report(
    out: Path,
    force: bool,
    verdicts: Path | None,
    kills: Path | None,
    benchmarks: Path | None,
    seed: int,
    cached: bool,
) -> int:
    """Write the book from the given files and from results computed here; return the exit code."""
    _require_extras()
    from manual_grad.report import folder, pages, results

    read = {
        "verdicts": results.read_verdicts(verdicts) if verdicts else None,
        "kills": results.read_kills(kills) if kills else None,
        "benchmarks": results.read_benchmarks(benchmarks) if benchmarks else None,
    }
    require_device()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    if cached:
        cache.keep()
    with (
        _terminated_as_interrupted(),
        folder.reserved(out, force) as put,
        _progress(results.steps(verdicts is not None, kills is not None)) as show,
    ):
        found = results.gather(seed, **read, show=show, cases=_cases())
        files = pages.render(found, show=show)
        put(files)
    return _conclude(out, files, found)


def _conclude(out: Path, files: dict[str, bytes], found: Any) -> int:
    """Print the last line and return the exit code."""
    size = sum(map(len, files.values())) / 1e6
    line = f"{out / 'index.html'}: {len(files)} files, {size:.1f} MB"
    if found.failed:
        line += f"; FAILED: {', '.join(found.failed)}"
    console = Console(width=None if sys.stdout.isatty() else 132, highlight=False, soft_wrap=True)
    console.print(line, style="bold red" if found.failed else "green", markup=False)
    return 1 if found.failed else 0


def _cases() -> tuple[str, ...]:
    """The names of the cases that ``manual-grad bench`` can time."""
    from manual_grad_benchmarks.cases import every_case

    return tuple(dict.fromkeys(case.name for case in every_case()))


def _require_extras() -> None:
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtra(f"report needs {', '.join(missing)}: pip install 'manual-grad[report]'")


@contextlib.contextmanager
def _progress(steps: int) -> Iterator[Callable[..., None]]:
    """A progress bar on the terminal; ``show(what, done)``; the final stages count as three more steps."""
    last = itertools.count(steps)
    with tables.progress("the book", steps + 3) as show:
        yield lambda what, done=None: show(what, next(last) if done is None else done)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that no half-written book is left behind."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
