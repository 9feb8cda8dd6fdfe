"""``manual-grad check``: check a user's gradient, and say why it is wrong."""

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manual_grad.border import InputError, describe
from manual_grad.checker.asking import one_line
from manual_grad.checker.pytorch import signed
from manual_grad.checker.tensors import load_torch, tensor_of
from manual_grad.cli import cache, tables, user_code
from manual_grad.cli.usage import UsageError, require_device, write
from manual_grad.environment import environment
from manual_grad.verify import Report, check_grad, check_torch


def prepare(cached: bool) -> None:
    """Refuse a device that is not there; enable float64 and the cache of compiled programs."""
    require_device()
    jax.config.update("jax_enable_x64", True)
    if cached:
        cache.keep()


def check(
    loss: str,
    grad: str,
    shapes: list[str],
    archive: Path | None,
    against: str | None,
    wrt: list[str] | None,
    dtype: str | None,
    seed: int,
    draws: int,
    seconds: float | None,
    json: Path | None,
) -> int:
    """Check a gradient at random arguments or an archive's, print the findings, and return the exit code."""
    other = [against] if against and ":" in against else []
    functions = user_code.load_functions([loss, grad, *other])
    arguments = user_code.arguments(functions[0], loss, shapes, archive, dtype, seed)
    with _words_of_the_command_line():
        report = check_grad(
            functions[0],
            functions[1],
            *arguments.values(),
            against=functions[2] if other else against,
            argnums=_argnums(wrt, list(arguments)),
            seed=seed,
            draws=draws,
            seconds=seconds,
            names=list(arguments),
        )
    return _told(report, arguments, json)


def check_in_torch(
    fn: str,
    reference: str | None,
    shapes: list[str],
    archive: Path | None,
    against: str | None,
    wrt: list[str] | None,
    dtype: str | None,
    device: str,
    seed: int,
    draws: int,
    seconds: float | None,
    json: Path | None,
) -> int:
    """Check a PyTorch function's backward pass at random tensors or an archive's; return the exit code."""
    torch = load_torch("--torch")
    if reference is not None and ":" not in reference:
        raise UsageError(f"--reference is {reference!r}, expected file.py:function")
    others = {"reference": reference, "against": against if against and ":" in against else None}
    named = {option: path for option, path in others.items() if path}
    mine, *functions = user_code.load_functions([fn, *named.values()])
    if isinstance(mine, type) and issubclass(mine, torch.nn.Module):
        raise UsageError(f"{fn} is a class of modules, expected an instance of it")
    truth: dict[str, Any] = {"against": against} | dict(zip(named, functions, strict=True))
    parameters = dict(mine.named_parameters()) if isinstance(mine, torch.nn.Module) else {}
    if dtype is None and not archive:  # that of the module
        dtypes = [str(p.dtype).removeprefix("torch.") for p in parameters.values() if p.is_floating_point()]
        dtype = next(iter(dtypes), None)
    arguments = user_code.arguments(signed(torch, mine), fn, shapes, archive, dtype, seed)
    _argnums(wrt, [*arguments, *parameters])
    try:
        tensors = [tensor_of(torch, np.asarray(array), device) for array in arguments.values()]
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UsageError(
            f"--device is {device!r}, where PyTorch cannot create tensors: {one_line(error)}"
        ) from None
    with _words_of_the_command_line():
        report = check_torch(
            mine,
            *tensors,
            **truth,
            wrt=wrt,
            seed=seed,
            draws=draws,
            seconds=seconds,
            names=list(arguments),
        )
    return _told(report, arguments, json, {"torch": torch.__version__})


WORDS = {  # Python parameters → options
    "as against=": "with --against",
    "against=": "--against",
    "reference=": "--reference",
    ", or positions": "",
    "argnums selects the arguments": "--wrt selects the arguments",
}


@contextlib.contextmanager
def _words_of_the_command_line() -> Iterator[None]:
    """Make messages name options instead of Python parameters."""
    try:
        yield
    except InputError as error:
        said = re.sub(r"^check_(grad|torch): ", "", str(error))
        said = f"--{said}" if re.match("(against|reference|wrt) (is|has)|against:", said) else said
        for theirs, ours in WORDS.items():
            said = said.replace(theirs, ours)
        raise InputError(said) from error


def _told(
    report: Report, arguments: dict[str, Any], json: Path | None, versions: dict[str, str] | None = None
) -> int:
    """Print a report, write the JSON if wanted, and return the exit code."""
    _print_report(tables.console(132), report)
    if json:
        write(json, _report_as_json(report, arguments, versions or {}))
    return 0 if report.ok else 1


def _argnums(wrt: list[str] | None, names: list[str]) -> list[int] | None:
    for name in wrt or ():
        if name not in names:
            again = "; repeat --wrt for each" if "," in name else ""
            raise UsageError(f"--wrt is {name!r}, expected one of {', '.join(names)}{again}")
    return [names.index(name) for name in wrt] if wrt else None


def _print_report(console: Console, report: Report) -> None:
    table = Table(title=f"Gradients compared with {report.truth} in float64", title_justify="left")
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
        word = "wrong" if f.told else "not checked"
        verdict = "[green]right[/]" if f.ok else f"[bold red]{word}[/]: {escape(f.said)}"
        table.add_row(escape(f.name), f"{f.max_error:.1e}" if f.told else "", escape(where), verdict)
    tables.print_fitted(console, table, ("where",))
    for note in report.notes:
        console.print(f"[yellow]note[/] {escape(note)}", highlight=False)
    n, points = len(report.findings), f"{report.points} point{'s' if report.points > 1 else ''}"
    wrong = [f.name for f in report.findings if not f.ok and f.told]
    unknown = [f.name for f in report.findings if not f.told]
    said = [
        f"{len(names)} of {n} gradients {word}: {', '.join(names)}"
        for word, names in (("wrong", wrong), ("not checked", unknown))
        if names
    ]
    console.print(
        escape(f"{'; '.join(said) or f'all {n} gradients right'} ({points}, seed {report.seed})"),
        style="green" if report.ok else "bold red",
        highlight=False,
    )


def _report_as_json(report: Report, arguments: dict[str, Any], versions: dict[str, str]) -> dict[str, Any]:
    """A report as a JSON object, with null in place of infinities and NaN."""

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
        "environment": environment() | versions | {"seed": report.seed},
        "truth": report.truth,
        "inputs": {name: describe(value) for name, value in arguments.items()},
        "findings": findings,
        "notes": list(report.notes),
        "points": report.points,
        "passed": report.ok,
    }
