"""The console script ``manual-grad``. Exit codes: 0 all well, 1 something is wrong, 2 bad usage or input."""

import difflib
import importlib.metadata
import inspect
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

from manual_grad.border import InputError, describe
from manual_grad.cli import hard as hard_
from manual_grad.cli import mutants as mutants_
from manual_grad.cli import user_code
from manual_grad.cli.bench import bench
from manual_grad.cli.golden import golden
from manual_grad.cli.report import report
from manual_grad.cli.train import Stopped, train
from manual_grad.digits import MissingExtra
from manual_grad.environment import environment, write_json
from manual_grad.lectures import EQUATIONS, ERRATA, LECTURES, Equation, Erratum
from manual_grad.verify import Report, check_grad, kill_matrix
from manual_grad.verify import equations as claims
from manual_grad.verify.equations import Status, Verdict
from manual_grad.verify.symbolic import load_symbolic

app = typer.Typer(
    no_args_is_help=False, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
)
app.add_typer(golden, name="golden")
app.command()(train)
app.command()(bench)
app.command()(report)


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
    except (UsageError, MissingExtra, InputError) as error:
        code = _complain(" ".join(str(error).split()))
    except Stopped as error:
        _complain(str(error))
        sys.exit(error.code)
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
        list[str] | None,
        typer.Option(help="Ask only this oracle (all of them). May be repeated."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Ask only value, reverse and forward: less than half the time.")
    ] = False,
    dtype: Annotated[Dtype, typer.Option(help="What the formulas compute in; the truth is float64.")] = (
        Dtype.float64
    ),
    hard: Annotated[
        bool, typer.Option("--hard", help="Judge the formulas on hard inputs instead; JAX beside them.")
    ] = False,
    mutants: Annotated[
        bool,
        typer.Option(
            "--mutants", help="Instead, show that wrong versions of every formula fail, and at which oracle."
        ),
    ] = False,
    diagnose: Annotated[
        bool,
        typer.Option(
            "--diagnose", help="With --mutants: does the judge of check_vjp name each mistake? Takes long."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides the random inputs and cotangents.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write every number to this file too.")] = None,
) -> None:
    """Compare every equation of the four lectures with JAX.

    For each: the hand-derived formula, the largest relative error against each oracle, and the verdict.
    [bold]value[/] is the plain forward pass, [bold]reverse[/] is jax.vjp and jax.jacrev, [bold]forward[/] is
    jax.jvp and jax.jacfwd, [bold]differences[/] are finite differences, [bold]exact[/] is reverse mode on
    integers, where nothing rounds and formula and reference must be equal to the last bit,
    [bold]symbolic[/] is SymPy on the definition in plain loops. Then the lectures' misprints, each shown
    to be wrong. Exact and symbolic speak of float64 only; in narrower dtypes each entry may be as far off
    as rounding can take it, and the share of that which was used stands beside the error.

    With [bold]--hard[/]: infinite logits, ReLU at 0, subnormal numbers, NaN in one sample, huge batches; for
    each the right answer and why, computed from the definition in decimals, then the formula's, then JAX's.

    With [bold]--mutants[/] every formula is made wrong in the ways in which people get it wrong, and each
    wrong version held against every oracle; beside it, which of them the checks in common use let through:
    a cotangent of ones, one fixed projection, an absolute tolerance of 1e-2 in bfloat16, square and symmetric
    inputs. Exit 1 if one survives our oracles. With [bold]--diagnose[/] too, the judge that users ask
    ([bold]manual-grad check[/], check_vjp) is asked about each wrong gradient and Jacobian, without being
    told what is wrong with it, and must name it first. Exit 1 if it does not.

    Examples:

    manual-grad verify

    manual-grad verify --quick

    manual-grad verify --lecture B --oracle exact --oracle symbolic --json b.json

    manual-grad verify --tag A-10 --tag A-E1 --dtype float32 --seed 7

    manual-grad verify --hard --lecture B

    manual-grad verify --mutants --tag A-10 --json kills.json

    manual-grad verify --mutants --diagnose --tag A-10
    """
    equations, errata = _chosen(lecture, tag)
    if diagnose and not mutants:
        raise UsageError("--diagnose goes with --mutants: it asks the judge about each of them")
    if mutants or hard:
        other = "--mutants" if mutants else "--hard"
        if oracle or quick or dtype != Dtype.float64 or (mutants and hard):
            raise UsageError(
                f"{other} goes with --lecture, --tag, --seed and --json only: it chooses the rest"
            )
    oracles = () if hard or mutants else _chosen_oracles(oracle, quick)
    if json:
        _require_writable(json)
    _require_device()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 while comparing
    started = time.perf_counter()
    if hard:
        raise typer.Exit(_verify_hard([e.tag for e in equations], seed, json))
    if mutants:
        raise typer.Exit(_verify_mutants(equations, seed, json, one_by_one=bool(tag), diagnose=diagnose))
    verdicts = _verify_all(equations + errata, dtype.value, seed, oracles)
    seconds = time.perf_counter() - started
    console = Console(width=None if sys.stdout.isatty() else 132)
    _print_verdicts(console, verdicts, dtype.value)
    passed = all(v.status != "failed" for v in verdicts)
    summary = _summary(verdicts, dtype.value, seed, seconds)
    settings = {"dtype": dtype.value, "seed": seed}
    content = {"equations": [claims.as_json(v) for v in verdicts]}
    raise typer.Exit(_conclude(console, summary, passed, json, settings, content, seconds))


def _verify_hard(tags: Sequence[str], seed: int, json: Path | None) -> int:
    """Judge the hard cases of these equations; the exit code."""
    cases = hard_.cases_of(tags)
    if not cases:
        raise UsageError(f"--hard has no case of {', '.join(tags) or 'an erratum'}")
    started = time.perf_counter()
    verdicts = hard_.judge_all(cases, seed)
    seconds = time.perf_counter() - started
    console = Console(width=None if sys.stdout.isatty() else 160)
    hard_.print_hard(console, verdicts)
    content = {"cases": [hard_.as_json(v) for v in verdicts]}
    summary = hard_.summary(verdicts, seed, seconds)
    passed = all(v.passed for v in verdicts)
    return _conclude(console, summary, passed, json, {"seed": seed}, content, seconds)


def _verify_mutants(
    equations: Sequence[Equation], seed: int, json: Path | None, one_by_one: bool, diagnose: bool
) -> int:
    """Hold wrong versions of these equations' formulas against every oracle; the exit code."""
    if not equations:
        raise UsageError("--mutants is about equations, expected one's --tag: an erratum is wrong already")
    load_symbolic()
    started = time.perf_counter()
    targets = kill_matrix.targets(equations)
    rows = mutants_.kill_all(targets, seed)
    named = mutants_.name_all(targets, seed) if diagnose else []
    seconds = time.perf_counter() - started
    console = Console(width=None if sys.stdout.isatty() else 180)
    mutants_.show(console, rows, one_by_one)
    content = {"mutants": [kill_matrix.as_json(row) for row in rows]}
    if diagnose:
        mutants_.show_named(console, named, one_by_one)
        content["diagnoses"] = [asdict(row) for row in named]
    summary = mutants_.summary(rows, named, seed, seconds)
    passed = not any(row.lives for row in rows) and not any(row.first is False for row in named)
    return _conclude(console, summary, passed, json, {"dtype": "float64", "seed": seed}, content, seconds)


def _conclude(
    console: Console,
    summary: str,
    passed: bool,
    json: Path | None,
    settings: dict[str, Any],
    content: dict[str, Any],
    seconds: float,
) -> int:
    """Print the last line, write the JSON that was asked for; the exit code."""
    console.print(escape(summary), style="green" if passed else "bold red", highlight=False)
    if json:
        about = {"environment": environment() | settings}
        _write(json, about | content | {"passed": passed, "seconds": round(seconds, 2)})
    return 0 if passed else 1


@app.command()
def check(
    loss: Annotated[str, typer.Argument(help="A scalar loss, as [bold]file.py:function[/].")],
    grad: Annotated[
        str, typer.Argument(help="Its gradient: a tuple, one array for each floating-point argument.")
    ],
    input: Annotated[
        list[str] | None,
        typer.Option(
            help="A random argument: x=8x3, x=positive:8x3, y=onehot:8x5, labels=int:0..9:8. In the loss's "
            "order, or by its parameters' names. Repeat it."
        ),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="An .npz archive with the arguments, by the parameters' names.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="The loss in JAX, where yours is NumPy: a lecture formula's name, such as "
            "softmax_cross_entropy, or file.py:function."
        ),
    ] = None,
    wrt: Annotated[
        list[str] | None, typer.Option(help="Differentiated by this parameter (all floating-point ones).")
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Of the floating-point arguments (float64; an archive's own).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the random arguments and the points near.")] = 0,
    draws: Annotated[int, typer.Option(min=1, help="At how many points it is judged.")] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the findings to this file too.")] = None,
) -> None:
    """Judge your own gradient: which argument is wrong, where, by how much, and why.

    The truth is jax.vjp in float64, at the given arguments and at points near them.

    Examples:

    manual-grad check mine.py:loss mine.py:grad --input x=8x3 --input y=8

    manual-grad check mine.py:loss mine.py:grad --inputs batch.npz --against softmax_cross_entropy
    """
    if json:
        _require_writable(json)
    jax.config.update("jax_enable_x64", True)
    other = [against] if against and ":" in against else []
    functions = user_code.load_functions([loss, grad, *other])
    arguments = _arguments(functions[0], loss, input, inputs, dtype.value if dtype else None, seed)
    report = check_grad(
        functions[0],
        functions[1],
        *arguments.values(),
        against=functions[2] if other else against,
        argnums=_argnums(wrt, list(arguments)),
        seed=seed,
        draws=draws,
        names=list(arguments),
    )
    _print_report(Console(width=None if sys.stdout.isatty() else 132), report)
    if json:
        _write(json, _report_as_json(report, arguments))
    raise typer.Exit(0 if report.ok else 1)


def _arguments(
    loss: Any, path: str, shapes: list[str] | None, archive: Path | None, dtype: str | None, seed: int
) -> dict[str, Any]:
    """The loss's arguments, by name, in its order."""
    if (not shapes) == (archive is None):
        raise UsageError(
            "give the arguments either as --input name=shape, one for each, or as --inputs file.npz"
        )
    if archive:
        return user_code.load_archive(archive, user_code.parameters(loss, path), dtype)
    arrays = user_code.draw_inputs(shapes or [], dtype or "float64", seed)
    wanted = user_code.parameters(loss, path)
    if len(arrays) != len(wanted):
        raise UsageError(
            f"{path} takes {len(wanted)} arguments ({', '.join(wanted)}), --input gives {len(arrays)}"
        )
    return {name: arrays[name] for name in wanted} if set(wanted) == set(arrays) else arrays


def _argnums(wrt: list[str] | None, names: list[str]) -> list[int] | None:
    for name in wrt or ():
        if name not in names:
            raise UsageError(f"--wrt is {name!r}, expected one of {', '.join(names)}")
    return [names.index(name) for name in wrt] if wrt else None


def _print_report(console: Console, report: Report) -> None:
    table = Table(title="Gradients against jax.vjp in float64", title_justify="left")
    table.add_column("argument", no_wrap=True)
    for name in ("largest relative error", "where"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for f in report.findings:
        where = ""
        if f.where is not None and not f.ok:
            index, got, expected = f.where
            at = f"at [{','.join(map(str, index))}] " if index else ""
            where = f"{at}got {got:.6g}, expected {expected:.6g}"
        verdict = "[green]right[/]" if f.ok else f"[bold red]wrong[/]: {escape(f.diagnosis)}"
        table.add_row(escape(f.name), f"{f.max_error:.1e}", escape(where), verdict)
    console.print(table)
    for note in report.notes:
        console.print(f"[yellow]note[/] {escape(note)}", highlight=False)
    wrong = [f.name for f in report.findings if not f.ok]
    last = (
        f"{len(wrong)} of {len(report.findings)} gradients wrong: {', '.join(wrong)}"
        if wrong
        else (f"all {len(report.findings)} gradients right")
    )
    points = f"{report.points} point{'s' if report.points > 1 else ''}"
    console.print(
        escape(f"{last} ({points}, seed {report.seed})"),
        style="bold red" if wrong else "green",
        highlight=False,
    )


def _report_as_json(report: Report, arguments: dict[str, Any]) -> dict[str, Any]:
    """A report as JSON has it: no infinities, no NaN."""

    def finite(number: float) -> float | None:
        return number if math.isfinite(number) else None

    findings = [
        asdict(f)
        | {
            "max_error": finite(f.max_error),
            "where": f.where
            and {"index": list(f.where[0]), "got": finite(f.where[1]), "expected": finite(f.where[2])},
        }
        for f in report.findings
    ]
    return {
        "environment": environment() | {"seed": report.seed},
        "inputs": {name: describe(value) for name, value in arguments.items()},
        "findings": findings,
        "notes": list(report.notes),
        "points": report.points,
        "passed": report.ok,
    }


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
            close = ", ".join(difflib.get_close_matches(tag.upper(), known, n=3))
            hint = f"close to it: {close}" if close else f"expected {known[0]} to {known[-1]}"
            raise UsageError(f"--tag is {tag!r}, no such equation; {hint}")
    letters = {letter.upper() for letter in lectures or LECTURES}
    wanted = {tag.upper() for tag in tags or known}

    def choose(entries: Sequence) -> tuple:
        return tuple(entry for entry in entries if entry.lecture in letters and entry.tag in wanted)

    equations, errata = choose(EQUATIONS), choose(ERRATA)
    if not equations and not errata:
        raise UsageError(f"--tag {', '.join(tags or ())} is not in --lecture {', '.join(lectures or ())}")
    return equations, errata


def _chosen_oracles(names: Sequence[str] | None, quick: bool) -> tuple[str, ...]:
    """These oracles; all, or all that are installed, where none is named."""
    if quick and names:
        raise UsageError(f"--quick asks {', '.join(claims.QUICK_ORACLES)}; expected no --oracle beside it")
    for name in names or ():
        if name not in (*claims.ORACLES, "all"):
            raise UsageError(f"--oracle is {name!r}, expected one of {', '.join(claims.ORACLES)}, all")
    wanted = claims.QUICK_ORACLES if quick else claims.ORACLES if not names or "all" in names else names
    chosen = tuple(name for name in claims.ORACLES if name in wanted)
    if "symbolic" in chosen:
        try:
            load_symbolic()  # says which extra is missing before the work, not after it
        except MissingExtra as error:
            if names:
                raise
            typer.echo(f"{error}; going on without it", err=True)
            return tuple(name for name in chosen if name != "symbolic")
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
            results = pool.map(partial(claims.verify, dtype=dtype, seed=seed, oracles=oracles), entries)
            for entry, verdict in zip(entries, results, strict=True):
                progress.update(task, advance=1, at=f"{entry.tag} {entry.title}")
                verdicts.append(verdict)
        finally:
            pool.shutdown(cancel_futures=True)
    return verdicts


def _print_verdicts(console: Console, verdicts: Sequence[Verdict], dtype: str) -> None:
    equations = [v for v in verdicts if "-E" not in v.tag]
    errata = [v for v in verdicts if "-E" in v.tag]
    if equations:
        oracles = [name for name in claims.ORACLES if any(name in v.oracles for v in equations)]
        share = "" if dtype == "float64" else ", and the share used of what rounding is allowed"
        title = f"Equations: largest relative error against each oracle{share}"
        table = Table(title=title, title_justify="left")
        table.add_column("tag", no_wrap=True)
        table.add_column("what it says")
        for name in oracles:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for v in equations:
            errors = [_error(v.oracles[name], dtype) if name in v.oracles else "" for name in oracles]
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


def _error(found: claims.OracleVerdict, dtype: str) -> str:
    """An error in few letters; in the dtypes where each entry has a budget, the share of it that was used.

    >>> found = claims.OracleVerdict(2.9e-4, share=0.31)
    >>> _error(found, "float64"), _error(found, "float32"), _error(claims.OracleVerdict(), "float64")
    ('3e-04', '3e-04 31%', '0')
    """
    error = f"{found.max_error:.0e}" if found.max_error else "0"
    return error if dtype == "float64" else f"{error} {found.share:.0%}"


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


def _require_device() -> None:
    """Refuse a device that is not there, such as JAX_PLATFORMS=cuda on a machine without one."""
    try:
        jax.devices()
    except Exception as error:  # what JAX raises differs with the platform and the version
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"JAX finds no device (JAX_PLATFORMS is {wanted!r}): {reason}") from None


def _require_writable(path: Path) -> None:
    """Refuse an output file before the work, not after it."""
    if path.is_dir():
        raise UsageError(f"--json is {str(path)!r}, a folder; expected a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"--json is {str(path)!r}, a device or pipe; expected a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--json is {str(path)!r}, but there is no folder {str(path.absolute().parent)!r}")
    if not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"--json is {str(path)!r}, but {str(path.absolute().parent)!r} cannot be written")


def _write(path: Path, content: Any) -> None:
    try:
        write_json(path.absolute(), content)
    except OSError as error:
        raise UsageError(f"--json: {path} could not be written: {error.strerror}") from None


def _reflowed(text: str) -> str:
    r"""Each paragraph in one line, for the terminal to wrap; the examples one below the other.

    >>> _reflowed("Add.\n\nOne and\nanother.\n\nExamples:\n\nadd 1 2\n\nadd 3 4")
    'Add.\n\nOne and another.\n\nExamples:\n  add 1 2\n  add 3 4'
    """
    text, examples, commands = inspect.cleandoc(text).partition("\n\nExamples:\n\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    if examples:
        lines = (" ".join(command.split()) for command in commands.split("\n\n"))
        paragraphs.append("\n  ".join(["Examples:", *lines]))
    return "\n\n".join(paragraphs)


for _command in (*app.registered_commands, *golden.registered_commands):
    _command.help = _reflowed(_command.callback.__doc__ or "") if _command.callback else None
