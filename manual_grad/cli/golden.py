"""``manual-grad golden``: golden vectors for kernels written elsewhere, and a check of their results."""

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manual_grad.border import InputError
from manual_grad.cli import tables, user_code
from manual_grad.cli.usage import UsageError, require_device
from manual_grad.compare import TOLERANCES
from manual_grad.environment import environment, write_bytes, write_json
from manual_grad.golden import archive, vectors
from manual_grad.golden.exported import FORMULAS
from manual_grad.golden.vectors import Compared, Golden


def export(
    formula: str,
    out: Path,
    seed: int,
    dtype: str,
    case: str,
    variant: str | None,
    shapes: list[str],
    inputs: Path | None,
    wrt: list[str],
) -> None:
    """Write inputs, cotangent, truths and budgets to a file."""
    archive.require_suffix("--out", out)
    _require_folder("--out", out)
    require_device()
    if ":" in formula:
        if case != "random" or variant is not None:
            raise UsageError("--case and --variant apply to a formula, not to a function of yours")
        made = _export_own(formula, seed, dtype, shapes, inputs, wrt)
    elif shapes or inputs or wrt:
        raise UsageError("--input, --inputs and --wrt apply to a function of yours, such as mine.py:loss")
    else:
        made = vectors.export(formula, dtype, case, variant, seed)
    data = vectors.packed(made, out.suffix)
    try:
        write_bytes(out.absolute(), data)
    except OSError as error:
        raise InputError(f"--out: {out} could not be written: {error.strerror}") from None
    what = f"{made.meta['formula']} {made.meta['variant']}".strip()
    print(f"{out}: {what}, {case}, {dtype}, seed {seed}: {len(made.arrays)} arrays, {len(data)} bytes")


def _export_own(
    path: str, seed: int, dtype: str, shapes: list[str], archive: Path | None, wrt: list[str]
) -> Golden:
    """The vectors of a function in a user's file, at random inputs or at those of an archive."""
    if dtype not in TOLERANCES:
        raise UsageError(f"--dtype is {dtype!r}, expected one of {', '.join(TOLERANCES)}")
    if bool(shapes) == bool(archive):
        raise UsageError(
            "give the arguments either as --input name=shape, one for each, or as --inputs file.npz"
        )
    (fn,) = user_code.load_functions([path])
    inputs = user_code.arguments(fn, path, shapes, archive, dtype, seed)
    for name in wrt:
        if name not in inputs:
            raise UsageError(f"--wrt is {name!r}, expected one of {', '.join(inputs)}")
    drawn = f"Drawn as {', '.join(shapes)}." if shapes else f"Those of {archive.name if archive else ''}."
    return vectors.export_own(fn, path, inputs, dtype, seed, wrt, drawn)


def compare(golden: Path, mine: Path, function: str | None, json: Path | None) -> int:
    """Compare a kernel's gradients with the truths in a file, print the findings, return the exit code."""
    if json:
        _require_folder("--json", json)
    require_device()
    fn = user_code.load_functions([function])[0] if function else None
    made, found, notes = vectors.compare(golden, mine, fn)
    _print(tables.console(132), made, found, notes)
    passed = all(compared.ok for compared in found)
    if json:
        _write_json(json, _as_json(made, found, notes, passed))
    return 0 if passed else 1


def list_formulas(json: Path | None) -> None:
    """Print the formulas that can be exported."""
    if json:
        _require_folder("--json", json)
    table = Table(title="Golden vectors are available for", title_justify="left")
    table.add_column("formula", no_wrap=True)
    for name in ("what is in it", "cases", "variants, the first by default", "equations"):
        table.add_column(name)
    holds = {"pair": "out, gradients", "jacobian": "the Jacobian", "value": "the value"}
    for f in FORMULAS.values():
        table.add_row(
            f.name,
            holds[f.kind],
            ", ".join(f.cases),
            ", ".join(v for v in f.variants if v),
            ", ".join(f.tags),
        )
    tables.print_fitted(tables.console(160), table, ("what is in it", "cases"))
    if json:
        content = [
            {
                "formula": f.name,
                "kind": f.kind,
                "cases": list(f.cases),
                "variants": [v for v in f.variants if v],
                "equations": f.tags,
            }
            for f in FORMULAS.values()
        ]
        _write_json(json, {"environment": environment(), "formulas": content})


def _print(console: Console, made: Golden, found: list[Compared], notes: list[str]) -> None:
    meta = made.meta
    what = f"{meta['formula']} {meta['variant']}".strip()
    table = Table(
        title=f"{what} compared with float64: {meta['case']}, {meta['dtype']}, seed {meta['seed']}",
        title_justify="left",
    )
    table.add_column("array", no_wrap=True)
    for name in ("share of its budget", "largest relative error", "where"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for compared in found:
        where = ""
        if compared.where:
            index, got, expected = compared.where
            at = f"at [{','.join(map(str, index))}] " if index else ""
            where = f"{at}got {got:.6g}, expected {expected:.6g}"
        verdict = "[green]right[/]" if compared.ok else f"[bold red]wrong[/]: {escape(compared.diagnosis)}"
        share = f"{compared.share:.2g}" if compared.share < 1e4 else f"{compared.share:.0e}"
        table.add_row(escape(compared.name), share, f"{compared.max_error:.1e}", escape(where), verdict)
    tables.print_fitted(console, table, ("where",))
    for note in notes:
        console.print(f"[yellow]note[/] {escape(note)}", highlight=False)
    wrong = [compared.name for compared in found if not compared.ok]
    last = f"{len(wrong)} of {len(found)} wrong: {', '.join(wrong)}" if wrong else f"all {len(found)} right"
    console.print(escape(last), style="bold red" if wrong else "green", highlight=False)


def _as_json(made: Golden, found: list[Compared], notes: list[str], passed: bool) -> dict[str, Any]:
    """The findings as a JSON object, with null in place of infinities."""

    def finite(number: float) -> float | None:
        return number if math.isfinite(number) else None

    findings = [
        asdict(j)
        | {
            "share": finite(j.share),
            "max_error": finite(j.max_error),
            "where": j.where
            and {"index": list(j.where[0]), "got": finite(j.where[1]), "expected": finite(j.where[2])},
        }
        for j in found
    ]
    about = {key: value for key, value in made.meta.items() if key not in ("format", "arrays")}
    return {
        "environment": environment(),
        "golden": about,
        "findings": findings,
        "notes": notes,
        "passed": passed,
    }


def _require_folder(option: str, path: Path) -> None:
    """Refuse an unusable output file before the work starts."""
    folder = path.absolute().parent
    if path.is_dir():
        raise InputError(f"{option} is {str(path)!r}, a folder; expected a file")
    if not folder.is_dir():
        raise InputError(f"{option} is {str(path)!r}, but there is no folder {str(folder)!r}")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{option} is {str(path)!r}, but {str(folder)!r} cannot be written")


def _write_json(path: Path, content: Any) -> None:
    try:
        write_json(path.absolute(), content)
    except OSError as error:
        raise InputError(f"--json: {path} could not be written: {error.strerror}") from None
