"""Tables and progress bars that fit the terminal: a narrow one loses the least important columns."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

WRAPPED = 24  # the width of a column of words below which another column is dropped


def console(wide: int) -> Console:
    """Standard output, as wide as the terminal or ``COLUMNS``; in a file, wide enough for every column."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else wide)


@contextlib.contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[str, int], None]]:
    """A progress bar in one line of the terminal; ``show(current item, number done)``."""
    at = TextColumn("{task.fields[at]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), at)
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, expand=True, disable=not sys.stderr.isatty())
    with bar:
        task = bar.add_task(doing, total=total, at="")
        yield lambda what, done: bar.update(task, at=escape(what), completed=done)


def print_fitted(console: Console, table: Table, least: Sequence[str]) -> None:
    """Print a table, dropping as many columns from ``least`` as it takes to fit, and name them.

    Args:
        console: where to print.
        table: the table with all its columns.
        least: the headers of the columns that may be dropped, the least important first.
    """
    left_out: list[str] = []
    candidates = [name for name in least if name in [column.header for column in table.columns]]
    while candidates and _least_width(console, table) > console.width:
        left_out.append(candidates.pop(0))
        table = _without(table, left_out[-1])
    console.print(table)
    if left_out:
        names = ", ".join(name.replace("+\n", "+").replace("\n", " ") for name in left_out)
        said = f"{console.width} columns are too few for: {names} (--json has them)"
        console.print(said, style="dim", highlight=False)


def _least_width(console: Console, table: Table) -> int:
    widths = [_least_of(console, table, k) for k in range(len(table.columns))]
    return sum(width + 3 for width in widths) + 1  # a space on either side, and a border


def _least_of(console: Console, table: Table, k: int) -> int:
    column = table.columns[k]
    measured = [Measurement.get(console, console.options, cell) for cell in (column.header, *column.cells)]
    most = max(measure.maximum for measure in measured)
    return most if column.no_wrap else min(most, WRAPPED)


def _without(table: Table, header: str) -> Table:
    kept = [column for column in table.columns if column.header != header]
    narrower = Table(title=table.title, title_justify="left")
    for column in kept:
        narrower.add_column(
            column.header,
            justify=column.justify,
            no_wrap=column.no_wrap,
            overflow=column.overflow,
            style=column.style,
        )
    cells = [list(column.cells) for column in kept]
    for k, row in enumerate(table.rows):
        narrower.add_row(*(column[k] for column in cells), end_section=row.end_section)
    return narrower
