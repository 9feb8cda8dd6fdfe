"""``manual-grad verify``: every equation compared with the oracles, hard inputs, and the kill matrix."""

import difflib
import math
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manual_grad.answer_cache import how_many_read
from manual_grad.cli import cache, hard, mutants, tables, workers
from manual_grad.cli.usage import Stopped, UsageError, require_device, write
from manual_grad.digits import MissingExtra
from manual_grad.environment import environment
from manual_grad.lectures import ENTRIES, EQUATIONS, ERRATA, LECTURES, Equation, Erratum
from manual_grad.verify import equations as claims
from manual_grad.verify import kill_matrix, naming
from manual_grad.verify.equations import Status, Verdict
from manual_grad.verify.symbolic import require_sympy

LEAST = ("forward", "value", "symbolic", "exact", "differences")  # the columns to drop on a narrow terminal


def prepare(cached: bool) -> None:
    """Refuse a device that is not there; enable float64 and the cache of compiled programs."""
    require_device()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 while comparing
    if cached:
        cache.keep()


def verify_all(
    entries: Sequence[Equation | Erratum],
    dtype: str,
    seed: int,
    oracles: Sequence[str],
    json: Path | None,
    cached: bool = False,
    processes: Sequence[subprocess.Popen] = (),
) -> int:
    """Verify these equations and errata, print the verdicts, and return the exit code."""
    started = time.perf_counter()
    verdicts = _verdicts(entries, dtype, seed, oracles, cached, processes)
    _explained(entries, verdicts, seed)
    seconds = time.perf_counter() - started
    console = tables.console(132)
    _print_verdicts(console, verdicts, dtype)
    passed = all(v.status != "failed" for v in verdicts)
    summary = _summary(verdicts, dtype, seed, seconds)
    settings = {"dtype": dtype, "seed": seed, "kept_answers": how_many_read()}
    content = {"equations": [claims.as_json(v) for v in verdicts]}
    return _conclude(console, summary, passed, json, settings, content, seconds)


def verify_seeds(
    entries: Sequence[Equation | Erratum],
    dtype: str,
    seeds: Sequence[int],
    oracles: Sequence[str],
    json: Path | None,
    cached: bool = False,
    processes: Sequence[subprocess.Popen] = (),
) -> int:
    """Verify these equations and errata with each seed, print a line for each, and return the exit code."""
    started = time.perf_counter()
    console = tables.console(132)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        before = time.perf_counter()
        verdicts = _verdicts(entries, dtype, seed, oracles, cached, processes)
        seconds = time.perf_counter() - before
        failures = {v.tag: v.failures for v in verdicts if v.status == "failed"}
        rows.append({"seed": seed, "failures": failures, "seconds": round(seconds, 2)})
        style = "bold red" if failures else "green"
        console.print(escape(_summary(verdicts, dtype, seed, seconds)), style=style, highlight=False)
        for tag, lines in failures.items():
            console.print(f"[bold red]{tag}[/] {escape(lines[0])}", highlight=False)
    failed = [row["seed"] for row in rows if row["failures"]]
    named = f" ({', '.join(map(str, failed))})" if failed else ""
    summary = f"{len(failed)} of {len(rows)} seeds failed{named}, {len(failed) / len(rows):.0%}"
    settings = {"dtype": dtype, "seed": seeds[0], "kept_answers": how_many_read()}
    seconds = time.perf_counter() - started
    return _conclude(console, summary, not failed, json, settings, {"seeds": rows}, seconds)


def chosen(
    lectures: Sequence[str] | None, tags: Sequence[str] | None, named: str = "--tag"
) -> tuple[tuple[Equation, ...], tuple[Erratum, ...]]:
    """The equations and errata of these lectures and tags; by default all."""
    known = [entry.tag for entry in ENTRIES]
    for letter in lectures or ():
        if letter.upper() not in LECTURES:
            raise UsageError(f"--lecture is {letter!r}, expected one of {', '.join(LECTURES)}")
    for tag in tags or ():
        if tag.upper() not in known:
            close = ", ".join(difflib.get_close_matches(tag.upper(), known, n=3))
            hint = f"similar: {close}" if close else f"expected {_ends(EQUATIONS)}, or {_ends(ERRATA)}"
            raise UsageError(f"{named} is {tag!r}, but there is no such equation; {hint}")
    letters = {letter.upper() for letter in lectures or LECTURES}
    wanted = {tag.upper() for tag in tags or known}

    def choose(entries: Sequence) -> tuple:
        return tuple(entry for entry in entries if entry.lecture in letters and entry.tag in wanted)

    equations, errata = choose(EQUATIONS), choose(ERRATA)
    if not equations and not errata:
        raise UsageError(f"--tag {', '.join(tags or ())} is not in --lecture {', '.join(lectures or ())}")
    return equations, errata


def chosen_oracles(names: Sequence[str] | None, quick: bool) -> tuple[str, ...]:
    """These oracles; by default all that are installed."""
    if quick and names:
        three = ", ".join(claims.QUICK_ORACLES)
        raise UsageError(f"--quick uses {three}; it cannot be combined with --oracle")
    for name in names or ():
        if name not in (*claims.ORACLES, "all"):
            raise UsageError(f"--oracle is {name!r}, expected one of {', '.join(claims.ORACLES)}, all")
    wanted = claims.QUICK_ORACLES if quick else claims.ORACLES if not names or "all" in names else names
    chosen = tuple(name for name in claims.ORACLES if name in wanted)
    if "symbolic" in chosen:
        try:
            require_sympy()  # names a missing extra before the work starts
        except MissingExtra as error:
            if names:
                raise
            typer.echo(f"{error}; continuing without it", err=True)
            return tuple(name for name in chosen if name != "symbolic")
    return chosen


EXPLAINED = 15.0  # seconds for the checker's diagnoses of all failures


def _verdicts(
    entries: Sequence[Equation | Erratum],
    dtype: str,
    seed: int,
    oracles: Sequence[str],
    cached: bool,
    processes: Sequence[subprocess.Popen],
) -> list[Verdict]:
    """One verdict per entry, with a progress bar on the terminal."""
    if jax.default_backend() != "cpu":
        processes = ()  # only one process can use an accelerator's memory
    size = min(workers.BATCH, math.ceil(len(entries) / (os.cpu_count() or 1)))
    batches = [entries[k : k + size] for k in range(0, len(entries), size)]
    work = partial(claims.verify_all, dtype=dtype, seed=seed, oracles=oracles)
    verdicts: list[Verdict] = []
    with tables.progress("verifying", len(entries)) as show:
        for found in workers.shared(processes, work, batches, (dtype, seed, tuple(oracles), cached)):
            verdicts += found
            show(f"{found[-1].tag} {found[-1].title}", len(verdicts))
    return verdicts


def _explained(entries: Sequence[Equation | Erratum], verdicts: Sequence[Verdict], seed: int) -> None:
    """Add the checker's diagnosis to each failed equation, once for each formula.

    A mistake in ReLU makes most networks fail; after a time limit the rest are not explained.
    """
    known: set[str] = set()
    until = time.monotonic() + EXPLAINED
    for entry, verdict in zip(entries, verdicts, strict=True):
        failing = {failure.partition(": ")[0] for failure in verdict.failures} - known
        if not failing or not isinstance(entry, Equation):
            continue
        left = until - time.monotonic()
        if left > 0:
            verdict.failures += naming.reasons(entry, failing, seed, left)
            known |= failing
        else:
            verdict.failures.append(f"why: manual-grad verify --tag {entry.tag} looks for the reason")


def _print_verdicts(console: Console, verdicts: Sequence[Verdict], dtype: str) -> None:
    equations = [v for v in verdicts if "-E" not in v.tag]
    errata = [v for v in verdicts if "-E" in v.tag]
    if equations:
        oracles = [name for name in claims.ORACLES if any(name in v.oracles for v in equations)]
        share = "" if dtype == "float64" else ", and the share of its error budget that was used"
        title = f"Equations: largest relative error compared with each oracle{share}"
        table = Table(title=title, title_justify="left")
        table.add_column("tag", no_wrap=True)
        table.add_column("what it says")
        for name in oracles:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for v in equations:
            errors = [_error(v.oracles[name], dtype) if name in v.oracles else "" for name in oracles]
            table.add_row(v.tag, escape(v.title), *errors, _coloured(v.status))
        tables.print_fitted(console, table, LEAST)
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


def _ends(entries: Sequence[Equation | Erratum]) -> str:
    return f"{entries[0].tag} to {entries[-1].tag}"


def _error(found: claims.OracleVerdict, dtype: str) -> str:
    """An error in a few characters; in dtypes with an error budget, also the share that was used.

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
    kept = ", oracles' answers from an earlier run" if how_many_read() else ""
    counts = {status: sum(v.status == status for v in verdicts) for status in get_args(Status)}
    failed = ", ".join(v.tag for v in verdicts if v.status == "failed")
    worst = max((o.max_error for v in verdicts for o in v.oracles.values()), default=math.nan)
    return (
        f"{_counted(counts['verified'], 'equation', 'equations')} verified, "
        f"{_counted(counts['erratum'], 'erratum', 'errata')} refuted, "
        f"{counts['failed']} failed"
        + (f" ({failed})" if failed else "")
        + f"; largest relative error {worst:.1e}"
        f" ({dtype}, seed {seed}, {jax.devices()[0].platform}, {seconds:.0f} s{kept})"
    )


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def verify_hard(tags: Sequence[str], seed: int, json: Path | None) -> int:
    """Run the hard cases of these equations and return the exit code."""
    cases = hard.cases_of(tags)
    if not cases:
        raise UsageError(f"--hard has no case for {', '.join(tags) or 'an erratum'}")
    started = time.perf_counter()
    verdicts = hard.try_all(cases, seed)
    seconds = time.perf_counter() - started
    console = tables.console(160)
    hard.print_hard(console, verdicts)
    content = {"cases": [hard.as_json(v) for v in verdicts]}
    summary = hard.summary(verdicts, seed, seconds)
    passed = all(v.passed for v in verdicts)
    return _conclude(console, summary, passed, json, {"seed": seed}, content, seconds)


def verify_mutants(
    equations: Sequence[Equation], seed: int, json: Path | None, one_by_one: bool, diagnose: bool
) -> int:
    """Compare wrong versions of these equations' formulas with every oracle; return the exit code."""
    if not equations:
        raise UsageError(
            "--mutants applies to equations; expected the --tag of one, since an erratum is already wrong"
        )
    require_sympy()
    started = time.perf_counter()
    targets = kill_matrix.targets(equations)
    try:
        rows = mutants.kill_all(targets, seed)
    except kill_matrix.FormulaError as error:
        raise Stopped(f"{error}: the formula itself is wrong, so its mutants show nothing", 1) from None
    named = mutants.name_all(targets, seed) if diagnose else []
    seconds = time.perf_counter() - started
    console = tables.console(180)
    mutants.show(console, rows, one_by_one)
    content = {"mutants": [kill_matrix.as_json(row) for row in rows]}
    if diagnose:
        mutants.show_named(console, named, one_by_one)
        content["diagnoses"] = [asdict(row) for row in named]
    summary = mutants.summary(rows, named, seed, seconds)
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
    """Print the last line, write the JSON if wanted, and return the exit code."""
    console.print(escape(summary), style="green" if passed else "bold red", highlight=False)
    if json:
        about = {"environment": environment() | settings}
        write(json, about | content | {"passed": passed, "seconds": round(seconds, 2)})
    return 0 if passed else 1
