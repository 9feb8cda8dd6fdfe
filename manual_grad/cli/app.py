"""The console script ``manual-grad``. Exit codes: 0 all well, 1 something is wrong, 2 bad usage or input.

This file has what the user sees: commands, options, help. What a command does is in a file of the same name,
which is imported only when the command runs, so that help never waits for JAX.
"""

import contextlib
import gc
import importlib.metadata
import inspect
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from manual_grad.cli import cache, workers
from manual_grad.cli.usage import Output, Stopped, Unwritten, UsageError, no_device, require_writable
from manual_grad.sympy_process import start_sympy, sympy_is_installed

ORDER = ("show", "report", "verify", "check", "golden", "bench", "train")  # the order of use


class Command(typer.core.TyperCommand):
    """A command whose help shows a flag without a type."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with flags that show no type."""
        return _flags_without_type(super().get_params(ctx))


class Group(typer.core.TyperGroup):
    """Commands in order of use; without a command, the help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with flags that show no type."""
        return _flags_without_type(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of use."""
        return sorted(super().list_commands(ctx), key=lambda name: (*ORDER, name).index(name))


def _flags_without_type(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


app = typer.Typer(
    cls=Group,
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
golden = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    rich_markup_mode="rich",
)
app.add_typer(golden, name="golden")
Cache = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Compile and compute everything again, and keep nothing in the user's cache folder.",
    ),
]


class Dtype(StrEnum):
    """The floating-point dtypes that formulas are verified in."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


DTYPES = "float64, float32, bfloat16 or float16"


def main() -> None:
    """Run the console script: one clear line for bad usage, no traceback."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        sys.exit(_complain("standard output is closed"))
    stdout = sys.stdout
    sys.stdout = Output(stdout)
    try:
        sys.exit(_run())
    except Unwritten as error:
        _silence(stdout)
        sys.exit(_complain(str(error)))
    finally:
        sys.stdout = stdout


def _run() -> int:
    """Run the command, print an error as one line, and return the exit code."""
    try:
        code = app(prog_name="manual-grad", standalone_mode=False)
        sys.stdout.flush()
    except Stopped as error:
        _complain(str(error))
        return error.code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Unwritten:
        raise
    except Exception as error:
        line = _line(error)
        if line is None:
            raise
        code = _complain(line)
    if code == 130:  # Ctrl-C, which typer turns into an exit code
        _complain("interrupted; nothing was written")
    return code if isinstance(code, int) else 0


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """While JAX is imported, Ctrl-C ends the process at once: NumPy's C code would raise other errors.

    Garbage collection, a sixth of that time, would find nothing: what is imported stays.
    """

    def leave(number: int, frame: Any) -> None:
        _complain("interrupted; nothing was written")
        os._exit(130)

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    usual = usual and threading.current_thread() is threading.main_thread()
    if usual:
        signal.signal(signal.SIGINT, leave)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _silence(stdout: Any) -> None:
    """Discard the rest; Python would write it again at exit and change the exit code."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())


def _line(error: Exception) -> str | None:
    """The message for bad usage, bad input, a file or a missing extra; None for any other error."""
    if hasattr(error, "format_message"):  # what typer raises for bad usage
        said = error.format_message()
        command = getattr(getattr(error, "ctx", None), "command_path", "manual-grad")
        return f"{said}{'' if said.endswith('.') else '.'} See {command} --help."
    if isinstance(error, OSError) and error.filename is not None:
        return _of_a_file(str(error.filename), error.strerror or type(error).__name__)
    if isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error):
        return no_device(error)
    if not isinstance(error, UsageError):
        from manual_grad.border import InputError
        from manual_grad.digits import MissingExtra

        if not isinstance(error, InputError | MissingExtra):
            return None
    return " ".join(str(error).split())


def _of_a_file(name: str, reason: str) -> str:
    """The message for an unusable file, with the option that named it."""
    shown = name if len(name) <= 80 else f"{name[:60]}… ({len(name)} characters)"
    for option, word in itertools.pairwise(sys.argv):
        if option.startswith("--") and name in (word, os.path.abspath(word)):
            return f"{option} is {shown!r}, expected a file that can be used: {reason}"
    return f"{shown!r} cannot be used: {reason}"


def _complain(message: str) -> int:
    print(f"manual-grad: {message}", file=sys.stderr)
    return 2


def _version(wanted: bool) -> None:
    if wanted:
        print(f"manual-grad {importlib.metadata.version('manual-grad')}")
        raise typer.Exit


@golden.callback()
def _golden(ctx: typer.Context) -> None:
    """Golden vectors for kernels written elsewhere (CUDA, Triton, C): export them, and compare your results.

    Exit code 0: all is well, or this help was shown. 1: a gradient is wrong. 2: bad usage or input. 130:
    interrupted.
    """
    _help_where_no_command(ctx)


def _help_where_no_command(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.callback()
def manual_grad(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hand-derived backpropagation, verified against JAX.

    Exit code 0: all is well, or this help was shown. 1: a formula or a gradient is wrong. 2: bad usage or
    input. 130: interrupted.
    """
    _help_where_no_command(ctx)


@app.command(cls=Command)
def verify(
    lecture: Annotated[
        list[str] | None,
        typer.Option(metavar="LETTER", help="Only this lecture or chapter, A to E. May be repeated."),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="Only this equation or erratum, such as A-10. May be repeated."),
    ] = None,
    oracle: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only value, reverse, forward, differences, exact or symbolic. May be repeated.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use only value, reverse and forward: less than half the time.")
    ] = False,
    dtype: Annotated[
        Dtype,
        typer.Option(metavar="DTYPE", help=f"Precision of the formulas: {DTYPES}."),
    ] = (Dtype.float64),
    hard: Annotated[
        bool,
        typer.Option("--hard", help="Instead, try the formulas on hard inputs, with JAX for comparison."),
    ] = False,
    mutants: Annotated[
        bool,
        typer.Option(
            "--mutants",
            help="Instead, show that wrong versions of every formula fail, and which oracle rejects each.",
        ),
    ] = False,
    diagnose: Annotated[
        bool,
        typer.Option(
            "--diagnose", help="With --mutants: does the checker name each mistake? This takes a long time."
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Seed for the random inputs and cotangents.")
    ] = 0,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Verify with this many seeds, starting at --seed; one line each."
        ),
    ] = 1,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every number to this file too.")
    ] = None,
    no_cache: Cache = False,
) -> None:
    """Compare every formula with JAX, finite differences, exact integers and SymPy.

    For each equation, the table shows the largest relative error against each oracle, and the verdict.
    [bold]value[/] is the plain forward pass, [bold]reverse[/] is jax.vjp and jax.jacrev,
    [bold]forward[/] is jax.jvp and jax.jacfwd, [bold]differences[/] are finite differences, [bold]exact[/] is
    reverse mode on integers, where nothing rounds and formula and reference must agree to the last bit, and
    [bold]symbolic[/] is SymPy on the definition in plain loops. The lectures' misprints follow, each shown to
    be wrong. Exact and symbolic are used in float64 only. In narrower dtypes every entry has an error budget,
    as much as rounding can explain, and the share that was used is shown next to the error.

    With [bold]--hard[/], the formulas are given infinite logits, ReLU at 0, subnormal numbers, NaN in one
    sample, and huge batches. For each case the output shows the right answer, computed from the definition in
    decimal arithmetic, says why it is right, and shows the formula's answer and JAX's.

    With [bold]--mutants[/], wrong versions of every formula, with the mistakes that people make, are compared
    with every oracle. The table also shows which of them common checks would let pass: a cotangent of
    ones, one fixed projection, an absolute tolerance of 1e-2 in bfloat16, square and symmetric inputs.
    With [bold]--diagnose[/] as well, the checker ([bold]manual-grad check[/], check_vjp) is run on each wrong
    gradient and Jacobian, without knowing the mistake, and must name it first.

    Exit code 0: everything is verified. 1: a formula is wrong, a misprint holds, a mutant survives, or the
    checker does not name one. 2: bad usage or input. 130: interrupted.

    Examples:

    manual-grad verify

    manual-grad verify --quick

    manual-grad verify --lecture B --oracle exact --oracle symbolic --json b.json

    manual-grad verify --tag A-10 --tag A-E1 --dtype float32 --seed 7

    manual-grad verify --lecture B --quick --seeds 20

    manual-grad verify --hard --lecture B

    manual-grad verify --mutants --tag A-10 --json kills.json

    manual-grad verify --mutants --diagnose --tag A-10
    """
    if diagnose and not mutants:
        raise UsageError("--diagnose requires --mutants: it runs the checker on each of them")
    if mutants or hard:
        other = "--mutants" if mutants else "--hard"
        if oracle or quick or dtype != Dtype.float64 or seeds > 1 or (mutants and hard):
            raise UsageError(
                f"{other} can be combined only with --lecture, --tag, --seed and --json; it sets the rest"
            )
    if json:
        require_writable(json)
    much = not (tag or hard or mutants)
    with workers.started(workers.wanted() if much else 0) as processes:
        asked = {*(oracle or ["all"])} & {"symbolic", "all"} and not (quick or hard or mutants)
        if asked and sympy_is_installed() and (no_cache or not cache.has_answers()):
            start_sympy()  # SymPy is imported there while JAX is imported here
        with _importing():
            from manual_grad.cli import verify as work

        equations, errata = work.chosen(lecture, tag)
        oracles = () if hard or mutants else work.chosen_oracles(oracle, quick)
        work.prepare(cached=not no_cache)
        if hard:
            code = work.verify_hard([e.tag for e in equations], seed, json)
        elif mutants:
            code = work.verify_mutants(equations, seed, json, one_by_one=bool(tag), diagnose=diagnose)
        else:
            chosen: list[Any] = [*equations, *errata]
            rest = (oracles, json, not no_cache, processes)
            if seeds > 1:
                code = work.verify_seeds(chosen, dtype.value, range(seed, seed + seeds), *rest)
            else:
                code = work.verify_all(chosen, dtype.value, seed, *rest)
    raise typer.Exit(code)


@app.command(cls=Command)
def show(
    tag: Annotated[str, typer.Argument(metavar="TAG", help="An equation or erratum, such as A-10.")],
    no_cache: Cache = False,
) -> None:
    """Show one equation: as printed, its derivation, the code that computes it, and its verdict.

    Formulas are shown as LaTeX source; the book ([bold]manual-grad report[/]) typesets them.

    Exit code 0: it is verified (an erratum: refuted). 1: it is not. 2: bad usage or input. 130: interrupted.

    Examples:

    manual-grad show A-10

    manual-grad show B-E1
    """
    with _importing():
        from manual_grad.cli import show as work

    raise typer.Exit(work.show(tag, cached=not no_cache))


@app.command(cls=Command)
def check(
    loss: Annotated[
        str,
        typer.Argument(
            metavar="LOSS", help="A scalar loss, as [bold]file.py:function[/] or [bold]module:function[/]."
        ),
    ],
    grad: Annotated[
        str | None,
        typer.Argument(
            metavar="GRAD", help="Its gradient: a tuple, one array for each floating-point argument."
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHAPE",
            help="A random argument: x=8x3, x=positive:8x3, y=onehot:8x5, labels=int:0..9:8. One for each "
            "parameter of the loss, in order or by name.",
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An .npz archive with the arguments, under the names of the parameters."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="FUNCTION",
            help="The same loss in JAX, if yours uses NumPy: the name of a formula, such as "
            "softmax_cross_entropy, or file.py:function.",
        ),
    ] = None,
    torch: Annotated[
        bool,
        typer.Option(
            "--torch",
            help="Check the backward pass of a PyTorch function; GRAD is omitted.",
        ),
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="FUNCTION",
            help="With --torch: the same function in plain PyTorch, as file.py:function. "
            "(the forward of the autograd.Function)",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="With --torch: the device of the tensors, such as cuda.")
    ] = "cpu",
    wrt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Check the gradient with respect to this parameter. May be repeated. (all)",
        ),
    ] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            metavar="DTYPE",
            help=f"Dtype of the floating-point arguments: {DTYPES}. (float64, or as in the "
            "archive or the module)",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Seed for the random arguments and points.")
    ] = 0,
    draws: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of points at which the gradient is checked.")
    ] = 3,
    seconds: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER", help="Search no longer than this for the cause of a mistake. (no limit)"
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the findings to this file too.")
    ] = None,
    no_cache: Cache = False,
) -> None:
    """Check your own gradient: which argument is wrong, where, by how much, and why.

    The gradient is compared with jax.vjp in float64, at the given arguments and at points near them.

    Exit code 0: it is right. 1: it is wrong, or nothing could be compared. 2: bad usage or input. 130:
    interrupted.

    Examples:

    manual-grad check mine.py:loss mine.py:grad --input x=8x3 --input y=8

    manual-grad check mine.py:loss mine.py:grad --inputs batch.npz --against softmax_cross_entropy

    manual-grad check mine.py:MyFunction --torch --input x=8x3 --reference mine.py:plain
    """
    if json:
        require_writable(json)
    if torch and grad is not None:
        raise UsageError("--torch takes one function, whose own backward pass is checked")
    if not torch and (grad is None or reference is not None or device != "cpu"):
        raise UsageError(
            "--reference and --device require --torch"
            if grad is not None
            else "give the gradient too, as file.py:function, or --torch"
        )
    if seconds is not None and not seconds > 0:
        raise UsageError(f"--seconds is {seconds}, expected a positive number")
    if (not input) == (inputs is None):
        raise UsageError(
            "give the arguments either as --input name=shape, once for each, or as --inputs file.npz"
        )
    with _importing():
        from manual_grad.cli import check as work

    work.prepare(cached=not no_cache)
    kind = dtype.value if dtype else None
    if torch:
        where = (wrt, kind, device, seed, draws, seconds, json)
        raise typer.Exit(work.check_in_torch(loss, reference, input or [], inputs, against, *where))
    assert grad is not None
    rest = (wrt, kind, seed, draws, seconds, json)
    raise typer.Exit(work.check(loss, grad, input or [], inputs, against, *rest))


@app.command(cls=Command)
def train(
    net: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="mlp: lecture D's five layers. cnn: lecture A's network. gpt: a small GPT. (mlp)",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="digits: the 1797 real 8×8 digits that come with scikit-learn; mnist; for a GPT: topics, "
            "the text of Python's help(). (digits; gpt: topics)",
        ),
    ] = None,
    mnist_source: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="A folder with MNIST's four IDX files, for use without a network."
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to keep MNIST, instead of $MANUAL_GRAD_DATA.")
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="manual, autodiff, or both side by side. (manual)"),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Passes over the training set. (digits 30; mnist 15, cnn 5; full batch 300; gpt 5)",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Samples per step. (digits 32, mnist 64)")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Step size α. (sgd 0.1, full batch 0.3; momentum 0.02; adam 0.001; gpt 0.003)",
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="sgd (lecture D's W ← W − α ∂L/∂W), momentum or adam. (sgd; gpt: adam)"
        ),
    ] = None,
    full_batch: Annotated[
        bool | None,
        typer.Option("--full-batch", help="One step per epoch, on all samples, with little memory."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Seed for the initial weights and the batches. (0)")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help="float64, float32, bfloat16 or float16. (float32)")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write settings, environment and epochs to this file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot loss and accuracy: a .png, .svg or .pdf file.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Save the parameters, and whatever else --resume needs, in this .npz file."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Continue a saved run, with its settings.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(metavar="N", help="Split each batch over this many devices of this host.")
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="For several processes: HOST:PORT of process 0, or auto in a cluster that JAX detects.",
        ),
    ] = None,
    num_processes: Annotated[
        int | None, typer.Option(metavar="N", help="Number of processes; auto detects it.")
    ] = None,
    process_id: Annotated[
        int | None, typer.Option(metavar="N", help="Which one this is, counted from 0; auto detects it.")
    ] = None,
    timeout: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Seconds after which a process that does not answer is considered dead."
        ),
    ] = 60,
    at_least: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER", min=0, max=100, help="Exit 1 unless an epoch reaches this test accuracy, in %."
        ),
    ] = None,
) -> None:
    """Train a network with the hand-derived gradients.

    Prints loss and accuracy on held-out samples after every epoch. With [bold]--gradient both[/], formulas
    and autodiff train side by side, from the same initial weights on the same batches; the first step at
    which they diverge is printed, with the arrays concerned. The --save file is written every minute, and
    when Ctrl-C or SIGTERM stops the run; --resume continues it bit for bit as if it had never stopped. An
    incomplete batch at the end of an epoch is skipped.

    Exit code 0: trained. 1: the gradients diverge, a loss is not finite, no epoch reached --at-least, or
    another process died. 2: bad usage or input. 130: interrupted.

    Examples:

    manual-grad train

    manual-grad train --gradient both --dtype float64 --epochs 5

    manual-grad train --data mnist --at-least 97.5

    manual-grad train --net cnn --data mnist --mnist-source ~/mnist --plot curve.png --json run.json

    manual-grad train --net gpt --save gpt.npz

    manual-grad train --full-batch --epochs 500 --save params.npz

    manual-grad train --resume params.npz --epochs 1000 --save params.npz

    manual-grad train --coordinator 10.0.0.1:1234 --num-processes 2 --process-id 0
    """
    given = {name: value for name, value in locals().items() if value is not None}
    with _importing():
        from manual_grad.cli import train as work

    work.train(given)


@app.command(cls=Command)
def bench(
    case: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CASE", help=r"Only this name, glob, name\[size] or group; see --list. May be repeated."
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="cpu or gpu.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="float32, float64, bfloat16 or float16.")
    ] = "float32",
    precision: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Precision of float32 products on a GPU: highest, or default (TF32)."
        ),
    ] = "highest",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="The main cases at one or two sizes, in fewer rounds; a few minutes."),
    ] = False,
    peers: Annotated[
        bool | None,
        typer.Option(
            "--peers/--no-peers",
            help="Also time hand-written NumPy and PyTorch's autograd; by default, if PyTorch is installed.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Seed for the arguments and for the order of timing.")
    ] = 0,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every number to this file too.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Plot ratios, time, memory and a roofline into this folder (PNG)."
        ),
    ] = None,
    list_cases: Annotated[bool, typer.Option("--list", help="List the cases and exit.")] = False,
    scale: Annotated[
        bool,
        typer.Option(
            "--scale",
            help="Instead, time one formula of each family over three decades of size, and fit exponents.",
        ),
    ] = False,
    devices: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Instead, count what N devices send each other in programs compiled for them."
        ),
    ] = None,
) -> None:
    """Time the hand-derived gradients and automatic differentiation.

    Each side is first compiled and compared with float64; a wrong result stops the run. Then the sides are
    timed alternately. [bold]ratio[/] is the median time by hand divided by that of autodiff, with a 95 %
    interval: below 1 the formula is faster. If both compile to the same program, the table says so instead.
    [bold]trace+compile[/] is the same ratio for the cost of the first call. [bold]temporaries[/] is the
    memory used besides arguments and results. [bold]kept[/] is what the forward pass saves for the
    backward pass if the two are called separately: arrays computed for it, and arguments.
    [bold]ceiling[/] is the share of the best that this machine could do, judging by a matrix product and
    a copy measured in this run. [bold]error[/] is the relative error in the 2-norm.
    [bold]against others[/] is our time divided by each of the others'; a star means XLA's best known
    compiler options.

    Exit code 0: measured. 1: a result is wrong. 2: bad usage or input. 130: interrupted.

    Examples:

    manual-grad bench --quick

    manual-grad bench --case conv2d --case 'softmax*' --json bench.json

    manual-grad bench --case jacobian --plot figures

    manual-grad bench --device gpu --json gpu.json --plot figures

    manual-grad bench --scale --json scale.json --plot figures

    manual-grad bench --devices 8 --json devices.json
    """
    with _importing():
        from manual_grad.cli import bench as work

    if devices is not None:
        others = {"--scale": scale, "--plot": plot, "--peers": peers, "--device": device != "cpu"}
        if given := ", ".join(option for option, value in others.items() if value):
            raise UsageError(f"--devices counts instead of timing; it cannot be combined with {given}")
        work.count(case or [], devices, dtype, quick, json, list_cases)
    else:
        work.bench(case or [], device, dtype, precision, quick, peers, seed, json, plot, list_cases, scale)


@app.command(cls=Command)
def report(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to write the book to.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing book in that folder (a book, nothing else).")
    ] = False,
    verdicts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Verdicts from manual-grad verify --json FILE, with all oracles."),
    ] = None,
    kills: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The whole kill matrix, from manual-grad verify --mutants --json FILE."
        ),
    ] = None,
    benchmarks: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Benchmark results, from manual-grad bench --json FILE."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed for the random inputs.")] = 0,
    no_cache: Cache = False,
) -> None:
    """Write the lecture book: every equation, its derivation, its code and its verification.

    The book is a folder of plain pages that open from disk, without a server or a network. Each equation
    comes with its derivation, the source code of the function that computes it, the shapes of its tensors and
    its error against every oracle; each misprint comes with its correction and the numbers that refute it.

    By itself the command compares every equation with the plain forward pass and both modes of JAX, and shows
    the mutants of a few formulas, which takes about two minutes. What takes longer is computed beforehand:

    manual-grad verify --json verdicts.json

    manual-grad verify --mutants --json kills.json

    Exit code 0: written, and everything holds. 1: written, with failures in red. 2: bad usage or input,
    nothing was written. 130: interrupted.

    Examples:

    manual-grad report --out book

    manual-grad report --out book --force --verdicts verdicts.json --kills kills.json

    manual-grad report --out book --benchmarks bench.json
    """
    with _importing():
        from manual_grad.cli import report as work

    raise typer.Exit(work.report(out, force, verdicts, kills, benchmarks, seed, cached=not no_cache))


@golden.command(cls=Command)
def export(
    formula: Annotated[
        str,
        typer.Argument(
            metavar="FORMULA",
            help="A formula such as conv2d ([bold]golden list[/] shows them all), or your own JAX function "
            "as file.py:function.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, .npz or .safetensors.")],
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Seed for the random inputs and the cotangent.")
    ] = 0,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="DTYPE", help="Dtype of inputs and cotangent: float64, float32, bfloat16 or float16."
        ),
    ] = "float64",
    case: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="random; ties (ReLU at 0, equal maxima); extreme (the ends of the dtype's range).",
        ),
    ] = "random",
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A variant of the formula, such as one of conv2d's strides, or all."
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHAPE",
            help="A random argument of your own function, as in [bold]manual-grad check[/]: x=8x3. May be "
            "repeated.",
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An .npz archive with the arguments of your function, under their names."
        ),
    ] = None,
    wrt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Differentiate your function with respect to this argument. May be repeated. (all)",
        ),
    ] = None,
) -> None:
    """Write inputs, a random cotangent, float64 references and an error budget for each entry.

    The file explains itself: its README.txt (in .safetensors: in __metadata__) gives the equation, the shapes
    and layouts, and explains each array and how to compare with it in NumPy or C, without this project.

    Exit code 0: written. 2: bad usage or input. 130: interrupted.

    Examples:

    manual-grad golden export conv2d --out conv2d.npz --seed 0

    manual-grad golden export conv2d --variant all --dtype bfloat16 --out conv2d.safetensors

    manual-grad golden export softmax_cross_entropy --case extreme --dtype float32 --out ce.npz

    unzip -p conv2d.npz README.txt

    manual-grad golden export mine.py:loss --input x=8x3 --input y=8 --dtype float32 --out loss.safetensors
    """
    with _importing():
        from manual_grad.cli import golden as work

    work.export(formula, out, seed, dtype, case, variant, input or [], inputs, wrt or [])


@golden.command(cls=Command)
def compare(
    golden: Annotated[Path, typer.Argument(metavar="GOLDEN", help="An archive from [bold]golden export[/].")],
    mine: Annotated[
        Path,
        typer.Argument(
            metavar="MINE",
            help="Your results: .npz or .safetensors with grad/x, …, named as in GOLDEN; out is optional.",
        ),
    ],
    function: Annotated[
        str | None,
        typer.Option(
            metavar="FUNCTION",
            help="The function, as file.py:function, if it is your own; used to find the cause of a "
            "mistake. An archive alone never runs code.",
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the findings to this file too.")
    ] = None,
) -> None:
    """Check your kernel's gradients: whether each entry is within its budget, and why a wrong one is wrong.

    Exit code 0: all within budget. 1: something is wrong. 2: bad usage, or the files do not match. 130:
    interrupted.

    Examples:

    manual-grad golden compare conv2d.npz mine.npz

    manual-grad golden compare conv2d.safetensors mine.safetensors --json findings.json

    manual-grad golden compare loss.safetensors mine.safetensors --function mine.py:loss
    """
    with _importing():
        from manual_grad.cli import golden as work

    raise typer.Exit(work.compare(golden, mine, function, json))


@golden.command("list", cls=Command)
def list_formulas(
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the list to this file too.")
    ] = None,
) -> None:
    """Show what can be exported: each formula with its cases, variants and equations.

    Exit code 0: listed. 2: bad usage or input. 130: interrupted.

    Examples:

    manual-grad golden list

    manual-grad golden list --json formulas.json
    """
    with _importing():
        from manual_grad.cli import golden as work

    work.list_formulas(json)


def _reflowed(text: str) -> str:
    r"""Put each paragraph on one line, for the terminal to wrap, and each example on a line of its own.

    >>> _reflowed("Add.\n\nOne and\nanother.\n\nExamples:\n\nadd 1 2\n\nadd 3 4")
    'Add.\n\nOne and another.\n\nExamples:\n  add 1 2\n  add 3 4'
    """
    text, examples, commands = inspect.cleandoc(text).partition("\n\nExamples:\n\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    if examples:
        lines = (" ".join(command.split()) for command in commands.split("\n\n"))
        paragraphs.append("\n  ".join(["Examples:", *lines]))
    return "\n\n".join(paragraphs)


_callbacks = app.registered_callback, golden.registered_callback
_described: list[Any] = [*app.registered_commands, *golden.registered_commands, *_callbacks]
for _command in _described:
    _command.help = _reflowed(_command.callback.__doc__ or "") if _command.callback else None
