"""The output of ``manual-grad verify --mutants``: the kill matrix on the terminal and as JSON."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manual_grad.cli import tables
from manual_grad.verify import kill_matrix, naming
from manual_grad.verify.kill_matrix import COMMON, ORACLES, Row, Target
from manual_grad.verify.naming import Named

R = TypeVar("R")


def kill_all(targets: Sequence[Target], seed: int) -> list[Row]:
    """A row for each mutant of every target, with a progress bar on the terminal."""
    return _for_each(targets, partial(kill_matrix.kill, seed=seed), "killing mutants")


def name_all(targets: Sequence[Target], seed: int) -> list[Named]:
    """The checker's diagnosis of each mutant of every target, with a progress bar on the terminal."""
    return _for_each(targets, partial(naming.name_all, seed=seed), "naming mistakes")


def _for_each(targets: Sequence[Target], ask: Callable[[Target], list[R]], doing: str) -> list[R]:
    rows: list[R] = []
    with tables.progress(doing, len(targets)) as show_at:
        pool = ThreadPoolExecutor(os.cpu_count())  # XLA compiles outside the interpreter's lock
        try:
            for k, (target, more) in enumerate(zip(targets, pool.map(ask, targets), strict=True), 1):
                show_at(f"{target.tag} {target.formulas[0]}", k)
                rows += more
        finally:
            pool.shutdown(cancel_futures=True)
    return rows


def show(console: Console, rows: Sequence[Row], one_by_one: bool) -> None:
    """Print the rows, one by one or by kind of mistake; then the survivors by name."""
    table = _each(rows) if one_by_one else _by_kind(rows)
    least = ("where", *ORACLES[:4]) if one_by_one else (*COMMON, "formulas", *ORACLES[:2])
    tables.print_fitted(console, table, least)
    for row in rows:
        if row.lives:
            place = escape(f"{row.tag} {row.formula}: {row.mutant} ({row.says})")
            console.print(f"[bold red]survives every oracle:[/] {place}", highlight=False)


def show_named(console: Console, named: Sequence[Named], one_by_one: bool) -> None:
    """Print how often the checker named the mistake first, by kind, and its other diagnoses."""
    table = Table(
        title="What check_vjp says about them: is the true cause named first?", title_justify="left"
    )
    for name in ("what is wrong", "where", "first", "what is said") if one_by_one else ("what is wrong",):
        table.add_column(name, no_wrap=name == "first", overflow="fold")
    if one_by_one:
        for row in named:
            mark = {True: "[green]yes[/]", False: "[bold red]no[/]", None: "[dim]·[/]"}[row.first]
            said = "; ".join(row.diagnosis) or "nothing to check: its shapes clash"
            table.add_row(row.mutant, escape(f"{row.formula}: {row.says}"), mark, escape(said))
    else:
        table.add_column("checked", justify="right")
        table.add_column("named first", justify="right")
        for kind in sorted({row.mutant for row in named}):
            checked = [row.first for row in named if row.mutant == kind and row.first is not None]
            table.add_row(kind, str(len(checked)), str(sum(checked)))
    console.print(table)
    for row in [] if one_by_one else named:
        if row.first is False:
            place = escape(f"{row.tag} {row.formula}: {row.mutant} ({row.says}): {'; '.join(row.diagnosis)}")
            console.print(f"[bold red]not named:[/] {place}", highlight=False)


def summary(rows: Sequence[Row], named: Sequence[Named], seed: int, seconds: float) -> str:
    """The last line of the output.

    >>> summary([], [], 0, 1.0)
    '0 mutants of 0 formulas, 0 survive our oracles (seed 0, 1 s)'
    """
    let = ", ".join(f"{check} {n}" for check in COMMON if (n := sum(check in r.survives for r in rows)))
    checked = [row.first for row in named if row.first is not None]
    alive = [f"{r.tag} {r.formula}: {r.mutant}" for r in rows if r.lives]
    return (
        f"{len(rows)} mutants of {len({(r.tag, r.formula) for r in rows})} formulas, "
        f"{len(alive)} survive our oracles"
        + (f" ({'; '.join(alive)})" if alive else "")
        + (f"; {sum(map(bool, checked))} of {len(checked)} checked are named first" if named else "")
        + (f"; common checks let through: {let}" if let else "")
        + f" (seed {seed}, {seconds:.0f} s)"
    )


def _by_kind(rows: Sequence[Row]) -> Table:
    table = Table(
        title="Mutants: how many each oracle kills (of those it applies to, if not all), and how many "
        "each common check lets through",
        title_justify="left",
    )
    table.add_column("what is wrong")
    for name in ("mutants", "formulas", *ORACLES):
        table.add_column(name, justify="right", no_wrap=True)
    for name in COMMON:
        table.add_column(name, justify="right", no_wrap=True, style="yellow")
    kinds = sorted({row.mutant for row in rows}, key=lambda kind: -sum(row.mutant == kind for row in rows))
    for kind in kinds:
        table.add_row(*_line(kind, [row for row in rows if row.mutant == kind]))
    table.add_section()
    table.add_row(*_line("all", rows))
    return table


def _line(kind: str, rows: Sequence[Row]) -> list[str]:
    alive = any(row.lives for row in rows)
    cells = [f"[bold red]{kind}[/]" if alive else kind, str(len(rows))]
    cells.append(str(len({(row.tag, row.formula) for row in rows})))
    for oracle in ORACLES:
        asked = sum(oracle in row.relative_error for row in rows)
        killed = sum(oracle in row.killed_by for row in rows)
        cells.append(f"{killed}/{asked}" if killed < asked else str(killed or ""))
    for check in COMMON:
        asked = sum(check in row.checks for row in rows)
        let = sum(check in row.survives for row in rows)
        cells.append(str(let or "·") if asked else "")
    return cells


def _each(rows: Sequence[Row]) -> Table:
    table = Table(
        title="Mutants: the relative error found by each oracle, and the common checks that find nothing",
        title_justify="left",
    )
    for name in ("tag", "formula", "what is wrong", "where"):
        table.add_column(name, no_wrap=name == "tag", overflow="fold")
    oracles = [name for name in ORACLES if any(name in row.relative_error for row in rows)]
    for name in oracles:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("survives", style="yellow")
    for row in rows:
        kind = f"[bold red]{row.mutant}[/]" if row.lives else row.mutant
        errors = [_cell(row, name) for name in oracles]
        table.add_row(row.tag, escape(row.formula), kind, escape(row.says), *errors, ", ".join(row.survives))
    return table


def _cell(row: Row, oracle: str) -> str:
    if oracle not in row.relative_error:
        return ""
    error = row.relative_error[oracle]
    shown = f"{error:.0e}" if math.isfinite(error) else "shape"
    return shown if oracle in row.killed_by else f"[dim]{shown} ·[/]"
