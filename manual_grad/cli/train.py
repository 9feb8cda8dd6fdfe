"""``manual-grad train``: train a network with the hand-derived gradient, with autodiff's, or with both."""

import contextlib
import io
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from manual_grad.border import InputError, require
from manual_grad.cli import tables
from manual_grad.cli.usage import Stopped, UsageError, require_device
from manual_grad.digits import MissingExtra
from manual_grad.environment import environment, write_bytes, write_json
from manual_grad.training import checkpoint, loop, text
from manual_grad.training import data as samples
from manual_grad.training import devices as devices_
from manual_grad.training.loop import Outcome, Settings, State
from manual_grad.training.networks import HEADS, NETWORKS
from manual_grad_reference.gpt import gpt_scores

ROWS = 20  # rows in the table of epochs
Data = samples.Dataset | text.Text
SAVE_EVERY = 60.0  # seconds between saves during a run
LEARNING_RATES = {"sgd": 0.1, "momentum": 0.02, "adam": 1e-3}
GPT: dict[str, Any] = {"data": "topics", "optimizer": "adam", "epochs": 5, "learning_rate": 3e-3}
IMAGES_ALONE = ("mnist_source", "cache_dir", "full_batch", "devices", "coordinator", "at_least")
SAMPLE = 300  # characters that a GPT writes at the end


def train(given: dict[str, Any]) -> None:
    """Train with the given options; exits with the exit code."""
    coordinator, num_processes, process_id = map(given.get, ("coordinator", "num_processes", "process_id"))
    require(
        coordinator is not None or (num_processes is None and process_id is None),
        "--num-processes and --process-id require --coordinator HOST:PORT",
    )
    _require_files(**{name: given.get(name) for name in ("json", "plot", "save")})
    with _as_options():
        settings = _settings(given, given.get("resume"))
        _require_fitting(settings, given)
        if settings.dtype == "float64":
            jax.config.update("jax_enable_x64", True)
    if coordinator is None:
        require_device()
        _alone(settings, given)
    try:
        with _as_options(), _quiet():
            devices_.connect(
                coordinator, num_processes, process_id, given["timeout"], str(settings), lost=_desert
            )
        _alone(settings, given)
    except BaseException as error:
        if not devices_.linked():
            raise
        _end_together(error, given["timeout"])


def _alone(settings: Settings, given: dict[str, Any]) -> NoReturn:
    """Train and report, as the only process or as one of several."""
    with _as_options():
        outcome, digits, seconds = _run(settings, given)
    if outcome.status == "deserted":
        _leave(lambda: _conclude(outcome, settings, digits, seconds, given))
    _conclude(outcome, settings, digits, seconds, given)


def _run(settings: Settings, given: dict[str, Any]) -> tuple[Outcome, Data, float]:
    """Load, compile and train; returns the outcome, the data and the seconds."""
    resume, save = given.get("resume"), given.get("save")
    with _progress() as show:
        show("reading the data")
        digits = _load(settings, given.get("mnist_source"), given.get("cache_dir"), show)
        mesh = devices_.mesh_of(given.get("devices"))
        loop.require_settings(settings, digits, mesh.size if mesh else 1)
        state = checkpoint.restore(resume, settings, digits) if resume else None
        require(
            state is None or state.epoch <= settings.epochs,
            f"epochs is {settings.epochs}, "
            f"but {resume} has already trained for {state.epoch if state else 0}",
        )
        state = state or loop.initial_state(settings, digits)
        started, saved, reached = time.perf_counter(), [time.perf_counter()], [state]

        def seconds() -> float:
            return time.perf_counter() - started

        _last_words[:] = [
            lambda: _conclude(Outcome(reached[0], "deserted"), settings, digits, seconds(), given)
        ]
        devices_.require_same("samples, or another run to resume,", checkpoint.checksum(state, digits))
        show("compiling")
        program = loop.build(settings, digits, mesh)

        def on_step(state: State) -> None:
            reached[0] = state
            _show_state(show, state, program)

        def on_epoch(state: State) -> None:
            if save and jax.process_index() == 0 and time.perf_counter() - saved[0] >= SAVE_EVERY:
                with _saving, contextlib.suppress(OSError):  # the last one says it
                    checkpoint.save(save, settings, state, digits)
                saved[0] = time.perf_counter()

        with _stop_on_interrupt() as stopping:
            outcome = loop.train(
                program,
                state,
                on_step=on_step,
                on_epoch=on_epoch,
                should_stop=lambda: devices_.any_process(stopping()),
            )
    return outcome, digits, seconds()


def _conclude(
    outcome: Outcome, settings: Settings, digits: Data, seconds: float, given: dict[str, Any]
) -> NoReturn:
    """Print, write the files, and end with the exit code.

    If other processes are lost, each remaining one writes what it has, as process 0 may be among the lost.
    """
    save, lead, deserted = given.get("save"), jax.process_index() == 0, outcome.status == "deserted"
    problem = None
    if save and (lead or deserted):
        try:
            with _saving:  # another thread may be writing
                _written(save, "--save", lambda: checkpoint.save(save, settings, outcome.state, digits))
        except InputError as error:
            problem = error
    if lead:
        _report(outcome, settings, digits, seconds, given)
    if problem:
        raise problem
    if outcome.status != "finished" and (lead or deserted):
        raise Stopped(_why(outcome, settings, save), 130 if outcome.status == "interrupted" else 1)
    codes = {"finished": int(_wrong(outcome.state) or not _reached(outcome.state, given)), "interrupted": 130}
    raise typer.Exit(codes.get(outcome.status, 1))


_leaving, _saving = threading.Lock(), threading.RLock()


def _nothing_yet() -> None:
    raise Stopped("another process died: stopped before the first step; nothing was saved", 1)


_last_words: list[Callable[[], Any]] = [_nothing_yet]  # in a process that others have left


def _desert() -> None:
    """Called by the first thread that learns that another process is lost."""
    _leave(_last_words[0])


def _leave(conclude: Callable[[], Any]) -> NoReturn:
    """End a process that others have left, as JAX would wait for them and then abort."""
    if not _leaving.acquire(blocking=False):
        time.sleep(60)  # another thread is ending the process
    try:
        conclude()
    except Exception as error:
        print(f"manual-grad: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    _exit(1)


def _end_together(error: BaseException, timeout: float) -> NoReturn:
    """End one of several processes without JAX's own shutdown, which aborts if another one is lost."""
    line, code = " ".join(str(error).split()), 2
    if isinstance(error, Stopped):
        code = error.code
    elif isinstance(error, typer.Exit):
        line, code = "", error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        line, code = "interrupted; nothing was written", 130
    elif isinstance(error, RuntimeError | ValueError) and not isinstance(error, InputError):
        _desert()  # JAX raises either if a process is lost
    elif not isinstance(error, InputError | MissingExtra | UsageError):
        traceback.print_exception(error)
        line, code = "", 1
    if line:
        print(f"manual-grad: {line}", file=sys.stderr, flush=True)
    devices_.before_abort(lambda: _exit(code))
    if isinstance(error, Stopped | typer.Exit):
        devices_.part(timeout)
    else:  # the others may fail in the same way; this tells those that do not
        devices_.part(1, done=False)
    _exit(code)


def _exit(code: int) -> NoReturn:
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            file.flush()
    os._exit(code)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the messages of JAX's C++ threads about a lost process off the terminal: one line reports it.

    Nothing is hidden if the processes never start training together.
    """
    before, terminal = sys.stderr, os.dup(2)
    sys.stderr = os.fdopen(terminal, "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    except BaseException:
        os.dup2(terminal, 2)
        sys.stderr.close()
        sys.stderr = before
        raise


# ---------------------------------------------------------------- input


def _settings(given: dict[str, Any], resume: Path | None) -> Settings:
    """The given settings, else those of the run to resume, else the defaults."""
    names = [field.name for field in fields(Settings)]
    chosen = {name: given[name] for name in names if name in given}
    if chosen.get("gradient") == "by-hand":
        chosen["gradient"] = "manual"
    if resume:
        theirs = checkpoint.read(resume)[1]["settings"]
        checkpoint.require_same(resume, Settings(**theirs), Settings(**theirs | chosen))
        return Settings(**theirs | chosen)
    if chosen.get("net") == "gpt":
        rate = LEARNING_RATES.get(chosen.get("optimizer", "adam"), 0.1)
        return Settings(**GPT | ({"learning_rate": rate} if "optimizer" in chosen else {}) | chosen)
    base: dict[str, Any] = {"data": "digits", "net": "mlp", "optimizer": "sgd", "full_batch": False} | chosen
    mnist, full = base["data"] == "mnist", base["full_batch"]
    epochs = 300 if full else (5 if base["net"] == "cnn" else 15) if mnist else 30
    rate = LEARNING_RATES.get(base["optimizer"], 0.1)
    return Settings(
        **{
            "epochs": epochs,
            "batch_size": 64 if mnist else 32,
            "learning_rate": 0.3 if full and rate == 0.1 else rate,
        }
        | base
    )


def _require_fitting(settings: Settings, given: dict[str, Any]) -> None:
    """Refuse options that do not apply to a GPT, naming them."""
    if settings.net != "gpt":
        require(settings.data != "topics", "data is 'topics', which applies to --net gpt only")
        return
    for name in IMAGES_ALONE:
        option = f"--{name.replace('_', '-')}"
        require(name not in given, f"{option} is {given.get(name)}, which does not apply to --net gpt")
    require(settings.data == "topics", f"data is {settings.data!r}, expected topics for --net gpt")


def _load(settings: Settings, source: Path | None, cache_dir: Path | None, show: Callable[..., None]) -> Data:
    if settings.net == "gpt":
        return text.load_topics()
    require(settings.data in ("digits", "mnist"), f"data is {settings.data!r}, expected one of digits, mnist")
    require(
        source is None or settings.data == "mnist",
        f"--mnist-source is {str(source)!r}, which applies to --data mnist only",
    )
    return samples.load(
        settings.data, cache_dir, source, lambda stage, done, total: show(stage, done / max(total, 1))
    )


@contextlib.contextmanager
def _as_options() -> Iterator[None]:
    """Make messages name settings by their options."""
    try:
        yield
    except InputError as error:
        name, is_, rest = str(error).partition(" is ")
        known = {field.name for field in fields(Settings)} | {"devices", "coordinator", "process_id"}
        if is_ and name in known:
            raise InputError(f"--{name.replace('_', '-')} is {rest}") from None
        raise


def _require_files(**files: Path | None) -> None:
    """Refuse an unusable output file before the work starts."""
    for name, path in files.items():
        if path is None:
            continue
        folder, shown = path.absolute().parent, f"--{name} is {str(path)!r}"
        require(not path.is_dir(), f"{shown}, a folder; expected a file")
        require(path.is_file() or not path.exists(), f"{shown}, a device or pipe; expected a file")
        require(folder.is_dir(), f"{shown}, but there is no folder {str(folder)!r}")
        require(os.access(folder, os.W_OK), f"{shown}, but {str(folder)!r} cannot be written")
    save, plot = files["save"], files["plot"]
    require(
        save is None or save.suffix == ".npz", f"--save is {str(save)!r}, expected a name that ends in .npz"
    )
    if plot is not None:
        require(
            plot.suffix in (".png", ".svg", ".pdf"),
            f"--plot is {str(plot)!r}, expected a name that ends in .png, .svg or .pdf",
        )
        _matplotlib()


def _matplotlib() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("--plot needs Matplotlib: pip install 'manual-grad[train]'") from None
    return Figure


@contextlib.contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM stop the run where it can be saved; a second signal stops it at once.

    Signals within the first second count as one, as launchers forward a signal that the process already got.
    """
    asked: list[float] = []

    def handle(number: int, frame: Any) -> None:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- output


@contextlib.contextmanager
def _progress() -> Iterator[Callable[..., None]]:
    """A progress bar on the terminal: ``show(what, done=0 … 1)``."""
    visible = sys.stderr.isatty() and jax_process_zero()
    columns = (TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not visible)
    with bar:
        task = bar.add_task("", total=None)
        yield lambda what, done=None: bar.update(
            task, description=what, total=None if done is None else 1.0, completed=done or 0.0
        )


def jax_process_zero() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def _show_state(show: Callable[..., None], state: State, program: loop.Program) -> None:
    epochs = program.settings.epochs
    losses = state.losses[program.settings.sides[0]]
    loss = float(losses[state.step - 1])
    now = f", {_measured(state.records[-1], short=True)}" if state.records else ""
    done = (state.epoch + state.step / program.steps) / epochs
    show(f"epoch {state.epoch + 1} of {epochs}: loss {loss:.4f}{now}", done)


def _measure(record: dict[str, Any]) -> str:
    """The name of the measure of an epoch."""
    return next(name for name in checkpoint.MEASURES if name in record)


def _measured(record: dict[str, Any], short: bool = False) -> str:
    """An epoch's measure in words, such as ``test accuracy 97.18%``; shorter for the progress bar."""
    name = _measure(record)
    words = name.replace("_", " ")
    return f"{words.removeprefix('test ') if short else words} {_number(name, record[name])}"


def _number(measure: str, value: float) -> str:
    return f"{value:.2%}" if measure == "test_accuracy" else f"{value:.4f}"


def _report(
    outcome: Outcome,
    settings: Settings,
    digits: Data,
    seconds: float,
    given: dict[str, Any],
) -> None:
    """The table, the verdict, and the files."""
    state, json, plot = outcome.state, given.get("json"), given.get("plot")
    console = tables.console(132)
    if state.records:
        every = math.ceil(len(state.records) / ROWS)
        console.print(digits.source, style="dim", highlight=False, markup=False)
        if every > 1:
            console.print(f"one epoch in {every} is shown, and the last; --json has them all", style="dim")
        tables.print_fitted(console, _table(state, every), LEAST)
    for line, style in _lines(outcome, settings, digits, seconds, given):
        console.print(line, style=style, highlight=False, markup=False)
    if isinstance(digits, text.Text) and outcome.status == "finished":
        scores = partial(gpt_scores, heads=HEADS)
        written = text.sample(scores, state.sides[settings.sides[0]][0], digits, SAMPLE, settings.seed)
        console.print(f"\nSample:\n\n{written}", highlight=False, markup=False)
    if json:
        content = {
            "environment": environment() | {"devices": jax.device_count(), "processes": jax.process_count()},
            "settings": asdict(settings),
            "data": {
                "name": digits.name,
                "source": digits.source,
                "train_samples": len(digits.train_labels),
                "test_samples": len(digits.test_labels),
            }
            | ({"bigram_loss": digits.bigram_loss} if isinstance(digits, text.Text) else {}),
            "status": outcome.status,
            "bad_step": outcome.bad_step,
            "at_least": given.get("at_least"),
            "reached": _reached(state, given) if outcome.status == "finished" else None,
            "epochs": _finite(list(state.records)),
            "parted": _finite(state.parted),
            "seconds": round(seconds, 3),
        }
        _written(json, "--json", lambda: write_json(json.absolute(), content))
    if plot:
        _written(
            plot,
            "--plot",
            lambda: write_bytes(plot.absolute(), _curve(state, settings, digits.name, plot.suffix)),
        )


# The columns to drop on a narrow terminal.
LEAST = ("seconds", "its accuracy", "its validation loss", "autodiff's loss", "parameters apart")


def _table(state: State, every: int) -> Table:
    both, measure = len(state.sides) > 1, _measure(state.records[-1])
    table = Table()
    columns = ["epoch", "train loss", measure.replace("_", " "), "seconds"]
    its = "its accuracy" if measure == "test_accuracy" else "its validation loss"
    columns += ["autodiff's loss", its, "losses apart", "parameters apart"] if both else []
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for r in state.records:
        if r["epoch"] % every and r is not state.records[-1]:
            continue
        row = [
            str(r["epoch"]),
            f"{r['train_loss']:.4f}",
            _number(measure, r[measure]),
            f"{r['seconds']:.3f}",
        ]
        if both:
            row += [f"{r['autodiff']['train_loss']:.4f}", _number(measure, r["autodiff"][measure])]
            row += [f"{r['loss_gap']:.1e}", f"{r['parameter_gap']:.1e}"]
        table.add_row(*row)
    return table


def _lines(
    outcome: Outcome, settings: Settings, data: Data, seconds: float, given: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """The last lines, each with a colour."""
    state, s = outcome.state, settings
    if s.gradient == "both":
        yield _verdict(state, s), "bold red" if _wrong(state) else "green"
    if state.records:
        what = f"{data.name}, {s.net}, {s.gradient} gradient{'s' * (s.gradient == 'both')}"
        yield (
            f"{_measured(state.records[-1])} after {state.epoch} epoch"
            f"{'s' * (state.epoch > 1)} ({what}, {s.optimizer}, {s.dtype}, seed {s.seed}, "
            f"{jax.devices()[0].platform}, {seconds:.1f} s)",
            "green",
        )
    if isinstance(data, text.Text) and state.records:
        yield f"validation loss {data.bigram_loss:.4f} for a table of bigrams", ""
    if "at_least" in given and outcome.status == "finished" and state.records:
        reached = _reached(state, given)
        best = max(state.records, key=lambda record: record["test_accuracy"])
        when = f"{best['test_accuracy']:.2%} after epoch {best['epoch']}"
        yield (
            f"at least {given['at_least']:g}%: {'reached' if reached else 'missed'}, {when}",
            ("green" if reached else "bold red"),
        )


def _reached(state: State, given: dict[str, Any]) -> bool:
    """Whether an epoch's test accuracy reaches --at-least."""
    if "at_least" not in given:
        return True
    best = max((record["test_accuracy"] for record in state.records), default=1.0)
    return 100 * best >= given["at_least"]


def _wrong(state: State) -> bool:
    """Whether the two sides diverged too early for rounding to be the cause."""
    return state.parted is not None and state.parted["step"] <= loop.STRICT_STEPS


def _verdict(state: State, s: Settings) -> str:
    tolerance = loop.TOLERANCE[s.dtype]
    if state.parted is None:
        return f"manual and autodiff agree at every step, to {tolerance:g} relative"
    worst = sorted(state.parted["gaps"].items(), key=lambda pair: -pair[1])
    arrays = ", ".join(f"{name} by {gap:.1e}" for name, gap in worst)
    late = f"; this late, growing rounding errors explain it (none in the first {loop.STRICT_STEPS} steps)"
    at = f"step {state.parted['step']} (epoch {state.parted['epoch']}), more than {tolerance:g} relative"
    return f"manual and autodiff diverge at {at}: {arrays}{'' if _wrong(state) else late}"


def _why(outcome: Outcome, s: Settings, save: Path | None) -> str:
    """Why the run ended early, and what was saved of it."""
    epoch, step = outcome.state.epoch + 1, outcome.state.step
    if outcome.status in ("interrupted", "deserted"):
        kept = f"saved: continue with --resume {save}" if save else "nothing was saved: --save was not given"
        lost = "another process is lost" + f" ({outcome.reason})" * bool(outcome.reason) + ": stopped"
        what = "interrupted" if outcome.status == "interrupted" else lost
        return f"{what} in epoch {epoch} of {s.epochs}, after {step} of its steps; {kept}"
    kept = f"the last good parameters are in {save}" if save else "--save would have kept the last good ones"
    at = f"the loss is not finite at step {outcome.bad_step}, in epoch {epoch}"
    return f"{at}: a smaller --learning-rate than {s.learning_rate:g} may help; {kept}"


def _finite(content: Any) -> Any:
    """A value for JSON, with null in place of infinities and NaN."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _curve(state: State, settings: Settings, data: str, suffix: str) -> bytes:
    """Plot the loss and the measure over the epochs; the second side is thin and dashed, over the first."""
    from matplotlib.ticker import PercentFormatter

    figure = _matplotlib()(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [r["epoch"] for r in state.records]
    first = "by hand" if settings.sides[0] == "manual" else settings.sides[0]
    measure = NETWORKS[settings.net].measure
    for axes, name, title in (
        (left, "train_loss", "training loss"),
        (right, measure, measure.replace("_", " ")),
    ):
        axes.plot(epochs, [r[name] for r in state.records], ".-", label=first, linewidth=3)
        if len(state.sides) > 1:
            axes.plot(epochs, [r["autodiff"][name] for r in state.records], "--", label="autodiff")
        axes.set(xlabel="epoch", title=f"{title}: {settings.net} on {data}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color="0.92")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    left.set_yscale("log")
    left.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("")
    if measure == "test_accuracy":
        right.yaxis.set_major_formatter(PercentFormatter(1))
    file = io.BytesIO()
    figure.savefig(file, format=suffix[1:], dpi=150)
    return file.getvalue()


def _written(path: Path, option: str, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise InputError(f"{option}: {path} could not be written: {error.strerror or error}") from None
