"""The output of ``manual-grad verify --hard``."""

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manual_grad.catalogue import Formula, Function
from manual_grad.catalogue.hard import Hard
from manual_grad.cli import tables
from manual_grad.verify.hard import CASES, Answer, HardVerdict, check_hard, tags_of

HEADER = ("formula", "right answer", "ours", "JAX's", "verdict")
ANSWERS = 100  # columns for answers and verdict: in fewer, the answers stand below one another


def cases_of(tags: Collection[str]) -> list[tuple[Formula | Function, Hard]]:
    """The hard cases of the formulas of these equations."""
    return [(formula, case) for formula, case in CASES if not set(tags).isdisjoint(tags_of(formula))]


def try_all(cases: Sequence[tuple[Formula | Function, Hard]], seed: int) -> list[HardVerdict]:
    """One verdict per case, with a progress bar on the terminal."""
    verdicts = []
    with tables.progress("checking", len(cases)) as show:
        pool = ThreadPoolExecutor(os.cpu_count())  # XLA compiles outside the interpreter's lock
        try:
            for verdict in pool.map(lambda case: check_hard(case[0], case[1], seed), cases):
                verdicts.append(verdict)
                show(f"{verdict.formula}: {verdict.name}", len(verdicts))
        finally:
            pool.shutdown(cancel_futures=True)
    return verdicts


def print_hard(console: Console, verdicts: Sequence[HardVerdict]) -> None:
    """Print each hard input, the right answer and why, then a line per formula with each side's answer."""
    widths = [max(len(_formula(v)) for v in verdicts) + 2, 3, 3, 4, 7]
    wide = console.width >= widths[0] + ANSWERS
    if wide:
        console.print(_lines(widths, [HEADER], style="bold"))
    for name, same_name in groupby(verdicts, key=lambda v: v.name):
        console.print(f"\n[bold]{escape(name)}[/]", highlight=False)
        for says, same_reason in groupby(same_name, key=lambda v: v.says):
            group = list(same_reason)
            console.print(escape(says), style="italic", highlight=False)
            rows = [_row(v) for v in group]
            for table in [_lines(widths, rows)] if wide else [_below_one_another(*row) for row in rows]:
                console.print(table)
            for why in dict.fromkeys(v.why for v in group if v.why and not all(a.right for a in v.jax)):
                console.print(f"  JAX differs: {escape(why)}", style="yellow", highlight=False)
    for v in verdicts:
        if not v.passed:
            line = f"[bold red]{v.formula}[/] {escape(f'{v.name}: {v.ours.detail}')}"
            console.print(line, highlight=False)


def _lines(widths: Sequence[int], rows: Sequence[tuple[str, ...]], style: str = "") -> Table:
    """Rows in columns that line up across all tables."""
    table = Table(box=None, show_header=False, expand=True, style=style, padding=(0, 1))
    table.add_column(width=widths[0], overflow="fold")
    for ratio in widths[1:4]:
        table.add_column(ratio=ratio, overflow="fold")
    table.add_column(width=widths[4])
    for row in rows:
        table.add_row(*row)
    return table


def _below_one_another(formula: str, *rest: str) -> Table:
    """A formula with its verdict, and below them each side's answer, whose numbers need a whole line."""
    *answers, verdict = rest
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("formula", f"[bold]{formula}[/]  {verdict}")
    for name, answer in zip(HEADER[1:4], answers, strict=True):
        table.add_row(name, answer)
    return table


def _row(v: HardVerdict) -> tuple[str, ...]:
    jax = "the same" if all(a.right for a in v.jax) else "; ".join(_jax(a) for a in v.jax)
    ours = v.ours.shown if v.passed else v.ours.detail
    verdict = "[green]right[/]" if v.passed else "[bold red]wrong[/]"
    return _formula(v), escape(v.right), escape(ours), escape(jax), verdict


def _formula(v: HardVerdict) -> str:
    return v.formula + ("" if v.dtype == "float64" else f" ({v.dtype})")


def _jax(answer: Answer) -> str:
    return f"{answer.way}: " + ("the same" if answer.right else answer.detail.split(", expected")[0])


def summary(verdicts: Sequence[HardVerdict], seed: int, seconds: float) -> str:
    """One line that summarizes all cases."""
    wrong = [f"{v.formula} ({v.name})" for v in verdicts if not v.passed]
    otherwise = sum(any(not a.right for a in v.jax) for v in verdicts)
    return (
        f"{len(verdicts) - len(wrong)} hard cases right, {len(wrong)} wrong"
        + (f": {', '.join(wrong)}" if wrong else "")
        + f"; JAX's derivative of the obvious forward function differs in {otherwise}"
        f" (seed {seed}, {seconds:.0f} s)"
    )


def as_json(verdict: HardVerdict) -> dict[str, Any]:
    """A verdict as a JSON object."""
    return asdict(verdict) | {"passed": verdict.passed}
