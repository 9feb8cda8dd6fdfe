"""``manual-grad bench``: the hand-derived gradients timed against autodiff, and against peers."""

import contextlib
import difflib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import typer
from rich.markup import escape

from manual_grad.border import InputError, require
from manual_grad.cli import tables
from manual_grad.cli.usage import Stopped, require_device
from manual_grad.digits import MissingExtra
from manual_grad.environment import environment, write_bytes, write_json

DTYPES = ("float64", "float32", "bfloat16", "float16")
PRECISIONS = ("highest", "default")
TITLES = {
    "formula": "Value and gradients: by hand against autodiff",
    "drop-in": "Operations of manual_grad.ops, under jax.value_and_grad, against plain JAX",
    "jacobian": "Explicit Jacobians: by hand, dense or compact, against jax.jacobian",
    "layout": "One sample per column against one per row",
}


def bench(
    case: list[str],
    device: str,
    dtype: str,
    precision: str,
    quick: bool,
    peers: bool | None,
    seed: int,
    json: Path | None,
    plot: Path | None,
    list_cases: bool,
    scaled: bool = False,
) -> None:
    """Time the cases that the options select, and print the tables."""
    started = time.perf_counter()
    require(device in ("cpu", "gpu"), f"--device is {device!r}, expected cpu or gpu")
    require(dtype in DTYPES, f"--dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    require(precision in PRECISIONS, f"--precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    for path, option in ((json, "--json"), (plot, "--plot")):
        if path:
            _require_place(path, option, folder=option == "--plot")
    figure = _matplotlib() if plot else None
    _choose_device(device)
    from manual_grad_benchmarks import cases, ceiling, run, scale, table, timing
    from manual_grad_benchmarks import peers as others

    chosen = _chosen(cases, cases.scale_cases() if scaled else cases.every_case(), case, quick)
    if list_cases:
        for c in chosen:
            typer.echo(f"{c.group:9} {c.label}")
        return
    jax.config.update("jax_enable_x64", dtype == "float64")
    if device == "gpu":
        jax.config.update("jax_default_matmul_precision", precision)  # highest: no TF32 on either side
    memory_kept = timing.keep_memory()
    torch = _torch(peers)
    if torch and device == "gpu":
        others.set_precision(torch, precision)
    settings = run.Settings(dtype, device, quick, seed, torch, peers is not False, precision)
    rng = np.random.default_rng(seed)
    limits = ceiling.measured(dtype, quick, rng)
    rows, ended = _measure(chosen, lambda c: [run.measure(c, settings)], run.WrongResult)
    if rows and not ended:
        limits = ceiling.higher(limits, ceiling.measured(dtype, quick, rng))
    rows = [run.under(row, limits) for row in rows]
    console = tables.console(210)
    growth = scale.scales(rows) if scaled else []
    if growth:
        tables.print_fitted(console, scale.table(growth), scale.LEAST)
    for group, title in ({} if scaled else TITLES).items():
        if some := [row for row in rows if row["group"] == group]:
            tables.print_fitted(console, table.table(title, some), table.LEAST)
    about = table.summary(rows)
    for line in table.lines(about):
        console.print(escape(line), highlight=False)
    where = environment() | {
        "dtype": dtype,
        "precision": precision,
        "seed": seed,
        "load": _load(),
        "memory_kept": memory_kept,
        "torch": getattr(torch, "__version__", None),
    }
    if json:
        content = {
            "environment": where,
            "ceiling": asdict(limits),
            "quick": quick,
            "rows": rows,
            **({"scale": growth} if scaled else {}),
            "summary": about,
            "passed": ended is None,
            "ended": ended and str(ended),
            "seconds": round(time.perf_counter() - started, 1),
        }
        _written(json, "--json", lambda: write_json(json.absolute(), content))
    if plot and rows:
        _draw(plot, rows, asdict(limits), figure, scaled)
    console.print(_last_line(where, limits, time.perf_counter() - started), highlight=False, markup=False)
    if ended:
        raise ended


def count(
    case: list[str], devices: int, dtype: str, quick: bool, json: Path | None, list_cases: bool
) -> None:
    """Count what this many devices send each other in the cases that the options select."""
    started = time.perf_counter()
    require(devices >= 2, f"--devices is {devices}, expected at least 2")
    require(dtype in DTYPES, f"--dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    if json:
        _require_place(json, "--json", folder=False)
    with contextlib.suppress(RuntimeError):  # this process has already used its devices, or has set a number
        jax.config.update("jax_num_cpu_devices", devices)
    _choose_device("cpu")
    there = len(jax.devices("cpu"))
    require(devices <= there, f"--devices is {devices}, expected at most the {there} that this process has")
    from manual_grad_benchmarks import cases
    from manual_grad_benchmarks import devices as counting

    chosen = _chosen(cases, cases.device_cases(devices), case, quick)
    if list_cases:
        for c in chosen:
            typer.echo(c.label)
        return
    jax.config.update("jax_enable_x64", dtype == "float64")
    rows, ended = _measure(chosen, lambda c: counting.counted(c, dtype, devices), counting.Unknown)
    console = tables.console(210)
    if rows:
        tables.print_fitted(console, counting.table(rows), counting.LEAST)
    seconds = round(time.perf_counter() - started, 1)
    if json:
        content = {
            "environment": environment() | {"dtype": dtype},
            "devices": rows,
            "passed": ended is None,
            "ended": ended and str(ended),
            "seconds": seconds,
        }
        _written(json, "--json", lambda: write_json(json.absolute(), content))
    console.print(f"compiled, not run ({seconds:.0f} s)", highlight=False)
    if ended:
        raise ended


def _measure(
    chosen: Sequence[Any], measure: Callable[[Any], list[dict]], failure: type[Exception]
) -> tuple[list[dict], Stopped | None]:
    """The rows, and why measuring stopped early, if it did."""
    rows: list[dict] = []
    done = 0
    with tables.progress("measuring", len(chosen)) as show:
        try:
            for done, c in enumerate(chosen):
                show(c.label, done)
                rows += measure(c)
        except failure as error:
            return rows, Stopped(str(error), 1)
        except KeyboardInterrupt:
            return rows, Stopped(f"interrupted: {done} of {len(chosen)} cases were measured", 130)
    return rows, None


def _last_line(where: dict[str, Any], limits: Any, seconds: float) -> str:
    copy = max(speed for _, speed in limits.copies)
    return (
        f"{where['device_kind']} ({where['threads']} threads, load {where['load']}), {where['dtype']}: "
        f"matrix product {limits.flops / 1e9:.0f} GF/s, copy {copy / 1e9:.0f} GB/s, "
        f"a call {limits.dispatch * 1e6:.0f} µs; jax {where['jax']}, jaxlib {where['jaxlib']}"
        + (f", torch {where['torch']}" if where["torch"] else "")
        + f" ({seconds:.0f} s)"
    )


def _load() -> float | None:
    """The machine's load average over a minute; other work makes times long and intervals wide."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


# ------------------------------------------------------------------------------------------ options


def _chosen(cases: Any, everything: Sequence[Any], patterns: Sequence[str], quick: bool) -> list[Any]:
    try:
        return cases.chosen(patterns, everything, quick)
    except KeyError as error:
        pattern = error.args[0]
    names = list(dict.fromkeys(c.name for c in everything))
    close = ", ".join(difflib.get_close_matches(pattern, names, n=3))
    hint = f"similar: {close}" if close else "--list shows them"
    raise InputError(f"--case is {pattern!r}, but there is no such case; {hint}")


def _choose_device(device: str) -> None:
    """Select the device; refuse a GPU that is not there, and an unknown platform in JAX_PLATFORMS."""
    if device == "cpu":
        named = getattr(jax.config, "jax_platforms", None) or "cpu"
        with contextlib.suppress(RuntimeError):  # another platform has already been initialised
            jax.config.update("jax_platforms", ",".join(dict.fromkeys(["cpu", *named.split(",")])))
    require_device()
    try:
        jax.config.update("jax_default_device", jax.devices(device)[0])
    except RuntimeError:
        found = ", ".join(sorted({d.platform for d in jax.devices()}))
        raise InputError(
            f"--device is {device!r}, but JAX finds only: {found}; for a GPU install jax[cuda12] or jax[rocm]"
        ) from None


def _torch(wanted: bool | None) -> Any:
    """PyTorch; None if it is not installed or not wanted."""
    from manual_grad_benchmarks import peers

    if wanted is False:
        return None
    try:
        torch = peers.load_torch()
    except peers.MissingPeer as error:
        if wanted:
            raise MissingExtra(str(error)) from None
        return None
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_float32_matmul_precision("highest")
    return torch


def _matplotlib() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("--plot needs matplotlib: pip install 'manual-grad[plot]'") from None
    return Figure


def _require_place(path: Path, option: str, folder: bool) -> None:
    """Refuse an unusable output before the work starts."""
    where = path.absolute() if folder and path.is_dir() else path.absolute().parent
    if folder:
        require(not path.is_file(), f"{option} is {str(path)!r}, a file; expected a folder")
    else:
        require(not path.is_dir(), f"{option} is {str(path)!r}, a folder; expected a file")
    require(where.is_dir(), f"{option} is {str(path)!r}, but there is no folder {str(where)!r}")
    require(os.access(where, os.W_OK), f"{option} is {str(path)!r}, but {str(where)!r} cannot be written")


def _draw(folder: Path, rows: Sequence[dict], limits: dict[str, Any], figure: Any, scaled: bool) -> None:
    from manual_grad_benchmarks import plots

    def write() -> None:
        folder.mkdir(exist_ok=True)
        drawn = plots.scale_figures(rows, figure) if scaled else plots.figures(rows, limits, figure)
        for name, content in drawn.items():
            write_bytes(folder.absolute() / name, content)

    _written(folder, "--plot", write)


def _written(path: Path, option: str, write: Any) -> None:
    try:
        write()
    except OSError as error:
        raise InputError(f"{option}: {path} could not be written: {error.strerror or error}") from None
