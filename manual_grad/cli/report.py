"""``manual-grad report``: the lecture book, a static site of every equation with code, proof and picture."""

import contextlib
import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from manual_grad.digits import MissingExtra

NEEDED = {
    "jinja2": "Jinja2",
    "latex2mathml": "latex2mathml",
    "pygments": "Pygments",
    "sklearn": "scikit-learn",
}


def report(
    out: Annotated[Path, typer.Option(help="The folder that the book is written to.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the book that stands there (a book, nothing else).")
    ] = False,
    verdicts: Annotated[
        Path | None,
        typer.Option(help="Verdicts from manual-grad verify --json FILE, with every oracle that it asked."),
    ] = None,
    kills: Annotated[
        Path | None,
        typer.Option(help="The whole kill matrix, from manual-grad verify --mutants --json FILE."),
    ] = None,
    benchmarks: Annotated[
        Path | None, typer.Option(help="Benchmark results, from manual-grad bench --json FILE.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the random inputs of what is computed here.")] = 0,
) -> None:
    """Write the lecture book: every equation, its code, its proof and its picture.

    A folder of plain pages that open from disk: no server, no network. Each equation comes with its
    derivation, the source of the function that computes it, the shapes of its tensors and its error against
    every oracle; each misprint with what is right and the numbers that say so.

    By itself it verifies every equation against the plain forward pass and both modes of JAX, and shows the
    mutants of a few formulas, in about two minutes. What takes longer is run beforehand and handed over:

    manual-grad verify --json verdicts.json

    manual-grad verify --mutants --json kills.json

    Exit code 0: written, and all of it holds. 1: written, and what failed is shown in red. 2: bad input, and
    nothing was written.

    Examples:

    manual-grad report --out book

    manual-grad report --out book --force --verdicts verdicts.json --kills kills.json

    manual-grad report --out book --benchmarks bench.json
    """
    _require_extras()
    from manual_grad.report import folder, pages, results

    folder.require_free(out, force)
    read = {
        "verdicts": results.read_verdicts(verdicts) if verdicts else None,
        "kills": results.read_kills(kills) if kills else None,
        "benchmarks": results.read_benchmarks(benchmarks) if benchmarks else None,
    }
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    with (
        _terminated_as_interrupted(),
        _progress(results.steps(verdicts is not None, kills is not None)) as show,
    ):
        found = results.gather(seed, **read, show=show, cases=_cases())
        files = pages.render(found, show=show)
        folder.write(out, files, force)
    raise typer.Exit(_conclude(out, files, found))


def _conclude(out: Path, files: dict[str, bytes], found: Any) -> int:
    """The last line; the exit code."""
    size = sum(map(len, files.values())) / 1e6
    line = f"{out / 'index.html'}: {len(files)} files, {size:.1f} MB"
    if found.failed:
        line += f"; FAILED: {', '.join(found.failed)}"
    console = Console(width=None if sys.stdout.isatty() else 132, highlight=False, soft_wrap=True)
    console.print(line, style="bold red" if found.failed else "green", markup=False)
    return 1 if found.failed else 0


def _cases() -> tuple[str, ...]:
    """What ``manual-grad bench`` can time."""
    from manual_grad_benchmarks.cases import every_case

    return tuple(dict.fromkeys(case.name for case in every_case()))


def _require_extras() -> None:
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtra(f"report needs {', '.join(missing)}: pip install 'manual-grad[report]'")


@contextlib.contextmanager
def _progress(steps: int) -> Iterator[Callable[..., None]]:
    """A bar on the terminal; ``show(what, done)``."""
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    bar = Progress(
        *columns,
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar as progress:
        task = progress.add_task("starting", total=steps + 3)

        def show(what: str, done: int | None = None) -> None:
            progress.update(task, description=what, completed=done, advance=1 if done is None else None)

        yield show


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A polite kill is handled as Ctrl-C is, so that no half book stays behind."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
