"""The results in the book: verdicts, the kill matrix, diagnoses, a training run; computed or read from JSON.

Everything here is JSON data, so that a book made from files is identical to one made from the run that wrote
them.
"""

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax

from manual_grad.border import InputError
from manual_grad.catalogue import activations, convolution, dense, mse, softmax, two_layer
from manual_grad.environment import environment
from manual_grad.forms import ANYTHING, NULL, NUMBER, TEXT, TRUTH, Form, misfit, one_of, parsed, whole
from manual_grad.formulas.correlation import jac_correlate2d_x
from manual_grad.lectures import ENTRIES, EQUATIONS
from manual_grad.report.planted import PLANTED, checked
from manual_grad.training import data as samples
from manual_grad.training import loop
from manual_grad.verify import equations, kill_matrix

TAGS = tuple(entry.tag for entry in ENTRIES)
# Formulas whose mutants are shown if no file with all of them is given: every kind, in seconds.
_SELECTED = (
    mse.LINEAR_REGRESSION, softmax.SOFTMAX, softmax.SOFTMAX_CROSS_ENTROPY, activations.RELU,
    two_layer.TWO_LAYER_SQUARED_LOSS, softmax.CROSS_ENTROPY_OF_SCORES, dense.DENSE_ROWS,
    convolution.CONVOLVE2D,
)  # fmt: skip
SELECTED = (*(formula.bwd.__name__ for formula in _SELECTED), jac_correlate2d_x.__name__)
EPOCHS = 12

LARGEST = 10**8  # bytes of a file
OTHER = {"*": Form(f"no oracle but {', '.join(equations.ORACLES)}", lambda value: False)}
ORACLE = {"max_error": (NUMBER, NULL), "share?": (NUMBER, NULL), "passed": TRUTH}
VERDICT = {
    "tag": TEXT,
    "title": TEXT,
    "status": one_of("verified", "erratum", "failed"),
    "oracles": {f"{name}?": ORACLE for name in equations.ORACLES} | OTHER,
    "inputs": {},
    "failures": [TEXT],
    "counterexample": TEXT,
}
ABOUT = dict.fromkeys(("dtype", "jax", "numpy", "python", "device_kind", "machine"), TEXT)
VERDICTS = {"environment": ABOUT | {"seed": whole(0)}, "equations": [VERDICT]}
KILL = {
    "tag": one_of(*TAGS),
    "formula": TEXT,
    "mutant": TEXT,
    "says": TEXT,
    "killed_by": [one_of(*equations.ORACLES)],
    "relative_error": {f"{name}?": (NUMBER, NULL) for name in equations.ORACLES} | OTHER,
    "survives": [one_of(*kill_matrix.COMMON)],
    "checks": [one_of(*kill_matrix.COMMON)],
}

Show = Callable[[str, int], None]


@dataclass(frozen=True)
class Results:
    """The results from which the pages are made.

    Attributes:
        verdicts: tag → verdict, as written by ``manual-grad verify --json``.
        about: versions, device, dtype, seed and source of the verdicts.
        kills: mutants, as written by ``verify --mutants --json``; ``all_kills`` if there are no others.
        broken: one line for each formula that is wrong even without a mutation.
        diagnoses: the checker's findings for :data:`manual_grad.report.planted.PLANTED`.
        training: one record per epoch; none if the run did not finish.
        benchmarks: the content of the file given by ``--benchmarks``.
        cases: the names of the cases that ``manual-grad bench`` can time.
    """

    verdicts: dict[str, dict[str, Any]]
    about: dict[str, Any]
    kills: list[dict[str, Any]] = field(default_factory=list)
    all_kills: bool = False
    broken: list[str] = field(default_factory=list)
    diagnoses: list[dict[str, Any]] = field(default_factory=list)
    training: list[dict[str, Any]] = field(default_factory=list)
    benchmarks: dict[str, Any] | None = None
    cases: tuple[str, ...] = ()

    @property
    def failed(self) -> list[str]:
        """Tags that failed, mutants that no oracle rejects, planted mistakes that the checker misses."""
        tags = [tag for tag, verdict in self.verdicts.items() if verdict["status"] == "failed"]
        alive = [f"{r['tag']} {r['formula']}: {r['mutant']}" for r in self.kills if not r["killed_by"]]
        unseen = [f"unseen by the checker: {d['mistake']}" for d in self.diagnoses if d["ok"]]
        return [*tags, *self.broken, *alive, *unseen]

    @property
    def oracles(self) -> list[str]:
        """The oracles that were used, in order."""
        asked = {name for verdict in self.verdicts.values() for name in verdict["oracles"]}
        return [name for name in equations.ORACLES if name in asked]


def gather(
    seed: int,
    verdicts: dict[str, Any] | None,
    kills: dict[str, Any] | None,
    benchmarks: dict[str, Any] | None,
    show: Show,
    cases: tuple[str, ...] = (),
) -> Results:
    """Compute the results that no file provides, on two threads.

    Args:
        seed: seed for the random inputs.
        verdicts, kills, benchmarks: contents of files, from :func:`read_verdicts` and similar functions.
        show: called with the current stage and the number of steps done, out of :func:`steps`.
        cases: the names of the cases that ``manual-grad bench`` can time.
    """
    names = [planted.name for planted in PLANTED]
    work: list[tuple[str, Callable[[], Any]]] = [("training", partial(_trained, seed))]
    if verdicts is None:
        work += [(f"verifying {e.tag}", partial(_verdict, e, seed)) for e in ENTRIES]
    if kills is None:
        chosen = [t for t in kill_matrix.targets(EQUATIONS) if not set(t.formulas).isdisjoint(SELECTED)]
        work += [(f"mutants of {t.formulas[0]}", partial(_killed, t, seed)) for t in chosen]
    work += [(f"diagnosing: {p.name}", partial(checked, p)) for p in PLANTED]
    found = dict(zip([what for what, _ in work], _all(work, show), strict=True))
    if verdicts is None:
        verdicts = {
            "environment": environment() | {"dtype": "float64", "seed": seed},
            "equations": [found[f"verifying {tag}"] for tag in TAGS],
            "source": f"manual-grad report, asking {', '.join(equations.QUICK_ORACLES)}",
        }
    killed = [part for what, part in found.items() if what.startswith("mutants")]
    if kills is None:
        rows = [row for part in killed if not isinstance(part, str) for row in part]
    else:
        rows = kills["mutants"]
    return Results(
        verdicts={v["tag"]: v for v in verdicts["equations"]},
        about=verdicts["environment"] | {"source": verdicts["source"]},
        kills=rows,
        all_kills=kills is not None,
        broken=[part for part in killed if isinstance(part, str)],
        diagnoses=[found[f"diagnosing: {name}"] for name in names],
        training=found["training"],
        benchmarks=benchmarks,
        cases=cases,
    )


def steps(verdicts: bool, kills: bool) -> int:
    """The number of steps; ``verdicts`` and ``kills`` say whether those come from files."""
    chosen = [t for t in kill_matrix.targets(EQUATIONS) if not set(t.formulas).isdisjoint(SELECTED)]
    return 1 + len(PLANTED) + (0 if verdicts else len(TAGS)) + (0 if kills else len(chosen))


def _all(work: list[tuple[str, Callable[[], Any]]], show: Show) -> Iterable[Any]:
    pool = ThreadPoolExecutor(min(2, os.cpu_count() or 1))  # XLA compiles outside the interpreter's lock
    try:
        futures = [pool.submit(do) for _, do in work]
        found = []
        for done, ((what, _), future) in enumerate(zip(work, futures, strict=True)):
            show(what, done)
            found.append(future.result())
        return found
    finally:
        pool.shutdown(cancel_futures=True)


def _verdict(entry: Any, seed: int) -> dict[str, Any]:
    return equations.as_json(equations.verify(entry, jax.numpy.float64, seed))


def _killed(target: Any, seed: int) -> list[dict[str, Any]] | str:
    """The rows, or what is wrong with the formula itself."""
    try:
        rows = kill_matrix.kill(target, seed, equations.QUICK_ORACLES)
    except kill_matrix.FormulaError as error:
        return str(error)
    return [kill_matrix.as_json(row) for row in rows if row.formula in SELECTED]


def _trained(seed: int) -> list[dict[str, Any]]:
    """Train lecture D's network with both gradients; returns the epochs without their seconds."""
    settings = loop.Settings(gradient="both", epochs=EPOCHS, dtype="float64", seed=seed)
    digits = samples.load("digits")
    program = loop.build(settings, digits, None)
    outcome = loop.train(program, loop.initial_state(settings, digits))
    if outcome.status != "finished":
        return []
    return [{k: v for k, v in record.items() if k != "seconds"} for record in outcome.state.records]


# --- files ------------------------------------------------------------------------------------------------


def read_verdicts(path: Path) -> dict[str, Any]:
    """Read the output of ``manual-grad verify --json`` for every equation and erratum.

    Raises:
        InputError: the file cannot be read or is something else, or a tag is missing.
    """
    content = _read(path, "--verdicts", "manual-grad verify --json", VERDICTS)
    found = content["equations"]
    lacking = [tag for tag in TAGS if tag not in {v["tag"] for v in found}]
    unknown = [v["tag"] for v in found if v["tag"] not in TAGS]
    if lacking:
        raise InputError(
            f"--verdicts: {path} lacks {lacking[0]} and {len(lacking) - 1} more; expected every tag"
        )
    if unknown:
        raise InputError(f"--verdicts: {path} has {unknown[0]!r}, which is not a tag of this version")
    return content | {"source": "manual-grad verify --json"}


def read_kills(path: Path) -> dict[str, Any]:
    """Read the output of ``manual-grad verify --mutants --json``.

    Raises:
        InputError: the file cannot be read or is something else.
    """
    command = "manual-grad verify --mutants --json"
    content = _read(path, "--kills", command, {"mutants": [KILL]})
    if not content["mutants"]:
        raise InputError(f"--kills: {path} is not what {command} writes: it has no mutants")
    return content


def read_benchmarks(path: Path) -> dict[str, Any]:
    """Read the output of ``manual-grad bench --json``.

    Raises:
        InputError: the file cannot be read or is something else.
    """
    from manual_grad.report.benchmarks import require_known

    content = _read(path, "--benchmarks", "manual-grad bench --json")
    require_known(content, path)
    return content


def _read(path: Path, option: str, command: str, form: Any = ANYTHING) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise InputError(
                f"{option}: {path} has more than {LARGEST} bytes; expected what {command} writes"
            )
        content = parsed(text)
    except OSError as error:
        raise InputError(f"{option}: {path} cannot be read: {error.strerror}") from None
    except InputError:
        raise
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{option}: {path} is not JSON; expected what {command} writes ({reason})") from None
    if found := misfit(content, {}) or misfit(content, form):
        raise InputError(f"{option}: {path} is not what {command} writes: {found}")
    return content


def finite(value: Any) -> Any:
    """A value for JSON, with null in place of infinities and NaN, and lists in place of tuples."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
