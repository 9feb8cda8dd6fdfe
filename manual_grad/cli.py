"""The console script ``manual-grad``. Exit codes: 0 all well, 1 a formula is wrong, 2 bad usage or input."""

import difflib
import importlib.metadata
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import jax
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from manual_grad.environment import environment, write_json
from manual_grad.lectures import EQUATIONS, ERRATA, LECTURES, Equation, Erratum
from manual_grad.lectures.digits import MissingExtra
from manual_grad.verify import judge
from manual_grad.verify.judge import Status, Verdict
from manual_grad.verify.symbolic import load_symbolic

app = typer.Typer(
    no_args_is_help=False, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
)


class Dtype(StrEnum):
    """The floating-point dtypes that formulas are verified in."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class UsageError(Exception):
    """Bad usage or input: one line for the user, exit code 2."""


def main() -> None:
    """Run the console script: one clear line for bad usage, no traceback."""
    try:
        code = app(standalone_mode=False)
    except (UsageError, MissingExtra) as error:
        code = _complain(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for bad usage
            raise
        code = _complain(f"{error.format_message()} See manual-grad --help.")
    if code == 130:  # Ctrl-C, which typer turns into an exit code
        _complain("interrupted; nothing was written")
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    print(f"manual-grad: {message}", file=sys.stderr)
    return 2


def _version(wanted: bool) -> None:
    if wanted:
        print(f"manual-grad {importlib.metadata.version('manual-grad')}")
        raise typer.Exit


@app.callback()
def manual_grad(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Hand-derived backpropagation, verified against JAX."""


@app.command()
def verify(
    lecture: Annotated[
        list[str] | None, typer.Option(help="Only this lecture: A, B, C or D. May be repeated.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Only this equation or erratum, such as A-10. May be repeated.")
    ] = None,
    oracle: Annotated[
        list[str] | None, typer.Option(help="Only this oracle, such as exact. May be repeated.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="What the formulas compute in; the truth is float64.")] = (
        Dtype.float64
    ),
    seed: Annotated[int, typer.Option(min=0, help="Decides the random inputs and cotangents.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write every number to this file too.")] = None,
) -> None:
    """Compare every equation of the four lectures with JAX.

    For each: the hand-derived formula, the largest relative error against each oracle, and the verdict.
    [bold]value[/] is the plain forward pass, [bold]reverse[/] is jax.vjp and jax.jacrev, [bold]forward[/] is
    jax.jvp and jax.jacfwd, [bold]differences[/] are finite differences, [bold]exact[/] is reverse mode on
    integers, where nothing rounds and formula and reference must be equal to the last bit,
    [bold]symbolic[/] is SymPy on the definition in plain loops. Then the lectures' misprints, each shown
    to be wrong.

    Examples:

    manual-grad verify

    manual-grad verify --lecture B --json b.json

    manual-grad verify --tag A-10 --tag A-E1 --dtype float32 --seed 7
    """
    equations, errata = _chosen(lecture, tag)
    oracles = _chosen_oracles(oracle)
    if json:
        _require_writable(json)
    jax.config.update("jax_enable_x64", True)
    started = time.perf_counter()
    verdicts = _verify_all(equations + errata, dtype.value, seed, oracles)
    seconds = time.perf_counter() - started
    console = Console(width=None if sys.stdout.isatty() else 132)
    _print_verdicts(console, verdicts)
    passed = all(v.status != "failed" for v in verdicts)
    console.print(_summary(verdicts, dtype.value, seed, seconds), style="green" if passed else "bold red")
    if json:
        content = {
            "environment": environment() | {"dtype": dtype.value, "seed": seed},
            "equations": [_as_json(v) for v in verdicts],
            "passed": passed,
            "seconds": round(seconds, 2),
        }
        _write(json, content)
    raise typer.Exit(0 if passed else 1)


def _chosen(
    lectures: Sequence[str] | None, tags: Sequence[str] | None
) -> tuple[tuple[Equation, ...], tuple[Erratum, ...]]:
    """The equations and errata of these lectures and tags; all where none is named."""
    known = [entry.tag for entry in (*EQUATIONS, *ERRATA)]
    for letter in lectures or ():
        if letter.upper() not in LECTURES:
            raise UsageError(f"--lecture is {letter!r}, expected one of {', '.join(LECTURES)}")
    for tag in tags or ():
        if tag.upper() not in known:
            close = difflib.get_close_matches(tag.upper(), known, n=3) or known[:1] + known[-1:]
            raise UsageError(f"--tag is {tag!r}, no such equation; close to it: {', '.join(close)}")
    letters = {letter.upper() for letter in lectures or LECTURES}
    wanted = {tag.upper() for tag in tags or known}

    def choose(entries: Sequence) -> tuple:
        return tuple(entry for entry in entries if entry.lecture in letters and entry.tag in wanted)

    equations, errata = choose(EQUATIONS), choose(ERRATA)
    if not equations and not errata:
        raise UsageError(f"--tag {', '.join(tags or ())} is not in --lecture {', '.join(lectures or ())}")
    return equations, errata


def _chosen_oracles(names: Sequence[str] | None) -> tuple[str, ...]:
    """These oracles; all where none is named."""
    for name in names or ():
        if name not in judge.ORACLES:
            raise UsageError(f"--oracle is {name!r}, expected one of {', '.join(judge.ORACLES)}")
    chosen = tuple(name for name in judge.ORACLES if name in (names or judge.ORACLES))
    if "symbolic" in chosen:
        load_symbolic()  # says which extra is missing before the work, not after it
    return chosen


def _verify_all(
    entries: Sequence[Equation | Erratum], dtype: str, seed: int, oracles: Sequence[str]
) -> list[Verdict]:
    """One verdict an entry, with a progress bar on the terminal."""
    columns = (
        SpinnerColumn(),
        *Progress.get_default_columns()[:-1],
        TimeElapsedColumn(),
        TextColumn("{task.fields[at]}"),
    )
    verdicts = []
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar as progress:
        task = progress.add_task("verifying", total=len(entries), at="")
        pool = ThreadPoolExecutor(os.cpu_count())  # XLA compiles outside the interpreter's lock
        try:
            results = pool.map(partial(judge.verify, dtype=dtype, seed=seed, oracles=oracles), entries)
            for entry, verdict in zip(entries, results, strict=True):
                progress.update(task, advance=1, at=f"{entry.tag} {entry.title}")
                verdicts.append(verdict)
        finally:
            pool.shutdown(cancel_futures=True)
    return verdicts


def _print_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    equations = [v for v in verdicts if "-E" not in v.tag]
    errata = [v for v in verdicts if "-E" in v.tag]
    if equations:
        oracles = [name for name in judge.ORACLES if any(name in v.oracles for v in equations)]
        table = Table(title="Equations: largest relative error against each oracle", title_justify="left")
        table.add_column("tag", no_wrap=True)
        table.add_column("what it says")
        for name in oracles:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for v in equations:
            errors = [_error(v.oracles[name].max_error) if name in v.oracles else "" for name in oracles]
            table.add_row(v.tag, escape(v.title), *errors, _coloured(v.status))
        console.print(table)
    if errata:
        table = Table(title="Errata: what the lectures print, and how it fails", title_justify="left")
        table.add_column("tag", no_wrap=True)
        table.add_column("what is wrong")
        table.add_column("the printed version, evaluated")
        table.add_column("verdict", no_wrap=True)
        for v in errata:
            table.add_row(v.tag, escape(v.title), escape(v.counterexample), _coloured(v.status))
        console.print(table)
    for v in verdicts:
        for failure in v.failures:
            console.print(f"[bold red]{v.tag}[/] {escape(failure)}", highlight=False)


def _error(error: float) -> str:
    """An error in few letters.

    >>> _error(2.9e-16), _error(0.0)
    ('3e-16', '0')
    """
    return f"{error:.0e}" if error else "0"


def _coloured(status: str) -> str:
    shown = "refuted" if status == "erratum" else status
    return f"[{'bold red' if status == 'failed' else 'green'}]{shown}[/]"


def _summary(verdicts: Sequence[Verdict], dtype: str, seed: int, seconds: float) -> str:
    counts = {status: sum(v.status == status for v in verdicts) for status in get_args(Status)}
    failed = ", ".join(v.tag for v in verdicts if v.status == "failed")
    worst = max((o.max_error for v in verdicts for o in v.oracles.values()), default=math.nan)
    return (
        f"{counts['verified']} equations verified, {counts['erratum']} errata refuted, "
        f"{counts['failed']} failed"
        + (f" ({failed})" if failed else "")
        + f"; largest relative error {worst:.1e}"
        f" ({dtype}, seed {seed}, {jax.devices()[0].platform}, {seconds:.0f} s)"
    )


def _as_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON has it: no infinities."""
    content = asdict(verdict)
    for oracle in content["oracles"].values():
        oracle["max_error"] = oracle["max_error"] if math.isfinite(oracle["max_error"]) else None
        oracle.update(oracle.pop("facts"))
    return content


def _require_writable(path: Path) -> None:
    """Refuse an output file before the work, not after it."""
    if path.is_dir():
        raise UsageError(f"--json is {str(path)!r}, a folder; expected a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--json is {str(path)!r}, but there is no folder {str(path.absolute().parent)!r}")
    if not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"--json is {str(path)!r}, but {str(path.absolute().parent)!r} cannot be written")


def _write(path: Path, content: Any) -> None:
    try:
        write_json(path.absolute(), content)
    except OSError as error:
        raise UsageError(f"--json: {path} could not be written: {error.strerror}") from None
