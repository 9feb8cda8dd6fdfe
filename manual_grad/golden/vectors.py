"""Golden vectors for kernels written elsewhere: inputs, cotangents, float64 references, error budgets.

The inputs are drawn and rounded to their dtype first; the truth is ``jax.vjp`` of the plain forward function
in ``reference/``, in float64, for exactly the numbers that are written. No hand-derived formula is involved.
"""

import difflib
import functools
import importlib.metadata
import json
import textwrap
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.border import InputError, describe
from manual_grad.budget import MARGIN, budgets
from manual_grad.catalogue.draw import Draw, differentiable
from manual_grad.checker import diagnosis
from manual_grad.checker.diagnosis import UNEXPLAINED, Evidence, diagnose
from manual_grad.checker.truth import Point, exact, float_leaves, is_float, to_float64
from manual_grad.checker.verdict import FIT
from manual_grad.compare import FLOAT64, TOLERANCES
from manual_grad.compiling import quickly, split_settings
from manual_grad.forms import TEXT, misfit, one_of, parsed, whole
from manual_grad.golden import archive
from manual_grad.golden.exported import CASES, FORMULAS, KINDS, Exported, Own
from manual_grad_reference.oracles.rounding import NoBudgetError

README, META = "README.txt", "golden.json"
FORMAT = 1
ABOUT = {  # in META
    "format": whole(0),
    "formula": TEXT,
    "kind": one_of(*KINDS),
    "variant": TEXT,
    "case": one_of(*CASES),
    "dtype": one_of(*TOLERANCES),
    "seed": whole(0),
    "inputs": [TEXT],
    "settings": {},
    "arrays": {"*": {"shape": [whole(0)]}},
}
FLUSHING = ("float32", "bfloat16")  # dtypes whose subnormal numbers some processors treat as 0
LAYOUT = (
    "Row-major (C order), little-endian. A name with slashes is the whole name of one array; in params/0/W "
    "the number is the layer, counted from 0. Integers are int32, truths and budgets float64; inputs and "
    "cotangent have the dtype above. In .safetensors bfloat16 is BF16. NumPy has no bfloat16, so in .npz it "
    "is stored as float32 with exact bfloat16 values: the upper 16 bits are the number, the lower 16 are 0 "
    "(its bits in NumPy: (x.view('<u4') >> 16).astype('<u2'))."
)
SAFETENSORS = (
    "A .safetensors file consists of 8 bytes (little-endian) with the length of a JSON header, that header "
    "(dtype, shape and data_offsets of each array; this text in __metadata__), and the bytes of the arrays."
)
OF_A_VALUE = (
    diagnosis.not_finite,
    diagnosis.imprecise,
    diagnosis.sign,
    diagnosis.scale_of_the_problem,
    diagnosis.transposed,
    diagnosis.flipped,
    diagnosis.shifted,
    diagnosis.any_scale,
    diagnosis.reordered,
    diagnosis.constant_added,
)


@dataclass(frozen=True)
class Golden:
    """The contents of an archive.

    Attributes:
        meta: the description, as a JSON object.
        arrays: name → array: ``in/…``, ``dout``, ``out``, ``grad/…`` or ``jac/…``, ``budget/…``; for several
            outputs ``dout/0``, ``out/0``.
        readme: the description in words.
    """

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]
    readme: str

    @property
    def compared(self) -> list[str]:
        """The names of the truths, the gradients first."""
        truths = [name for name in self.arrays if name.split("/")[0] in ("grad", "jac", "out")]
        return sorted(truths, key=lambda name: name.startswith("out"))

    @property
    def dout(self) -> Any:
        """The cotangent: an array, or a tuple of them where there are several outputs."""
        named = {n.partition("/")[2]: a for n, a in self.arrays.items() if n.partition("/")[0] == "dout"}
        tree = _tree(named)
        return tuple(tree) if isinstance(tree, list) else tree

    @property
    def optional(self) -> list[str]:
        """The truths that a kernel's results may omit."""
        return [name for name in self.compared if name.startswith("out") and self.meta["kind"] == "pair"]


@dataclass(frozen=True)
class Compared:
    """The result for one array.

    Attributes:
        name: its name, such as ``grad/x``.
        ok: whether every entry is within its budget.
        share: the largest share of its budget that an entry uses; above 1 it is wrong.
        max_error: max |got − expected| / max |expected|.
        where: index, got and expected at that entry; None if it is right.
        diagnosis: why it is wrong; empty if it is right.
    """

    name: str
    ok: bool
    share: float
    max_error: float
    where: tuple[tuple[int, ...], float, float] | None = None
    diagnosis: str = ""


@dataclass(frozen=True)
class _Question:
    """A formula at one point, in float64, with the names of the answers."""

    formula: Exported | Own
    case: str
    inputs: dict[str, Any]
    settings: dict[str, Any]

    @property
    def wrt(self) -> list[str]:
        """The inputs to differentiate with respect to."""
        return [
            n for n, v in self.inputs.items() if differentiable(v) and n in (self.formula.wrt or self.inputs)
        ]

    def forward(self, floats: list[Any]) -> Any:
        """The plain function of those inputs."""
        given = {**self.inputs, **self.settings, **dict(zip(self.wrt, floats, strict=True))}
        return self.formula.forward_in(self.case)(**given)

    @property
    def floats(self) -> list[Any]:
        """Their values."""
        return [self.inputs[name] for name in self.wrt]

    def answers(self, floats: list[Any], dout: Any) -> dict[str, Any]:
        """All truths: output and gradients, Jacobians, or the value alone."""
        if self.formula.kind == "value":
            return {"out": self.forward(floats)}
        if self.formula.kind == "jacobian":
            return {"jac": jax.jacrev(self.forward)(floats)}
        out, pull = jax.vjp(self.forward, floats)
        return {"out": out, "grad": pull(dout)[0]}

    def named(self, answers: dict[str, Any]) -> dict[str, np.ndarray]:
        """The answers by their names in an archive, gradients in the order of the inputs."""
        found: dict[str, np.ndarray] = {}
        for key in sorted(answers):  # grad or jac, then out
            entries = {key: answers[key]}
            if key != "out":
                entries = {f"{key}/{n}": a for n, a in zip(self.wrt, answers[key], strict=True)}
            for prefix, tree in entries.items():
                found |= _named(prefix, tree)
        return found


def formula_named(name: str) -> Exported:
    """The formula with this name; ``conv2d_bwd`` and ``cnn_grads`` are understood too.

    Args:
        name: the name, such as ``conv2d``, ``jac_softmax_logits``, ``relu_prime``.
    Returns:
        The formula to export.
    Raises:
        InputError: there is no such formula; the message names similar ones.

    >>> formula_named("conv2d_bwd").name, formula_named("conv2d").tags
    ('conv2d', ['A-11', 'C-08', 'C-09', 'C-10'])
    """
    for known in (name, *(name.removesuffix(suffix) for suffix in ("_fwd", "_bwd", "_grads"))):
        if known in FORMULAS:
            return FORMULAS[known]
    raise InputError(f"there is no formula {name!r}; {_close(name, list(FORMULAS))}")


def _close(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"similar: {', '.join(near)}" if near else "manual-grad golden list shows them"


def export(
    name: str, dtype: str = "float64", case: str = "random", variant: str | None = None, seed: int = 0
) -> Golden:
    """Draw a formula's inputs and compute its truth.

    Args:
        name: the formula.
        dtype: the dtype of inputs and cotangent, and of the computation that the budget is for.
        case: ``random``, ``ties`` or ``extreme``.
        variant: one of the formula's variants; by default the first with this case.
        seed: together with the formula's name, determines the numbers.
    Returns:
        The archive, in memory.
    Raises:
        InputError: there is no such formula, dtype, case or variant.

    >>> golden = export("mse", dtype="float32")
    >>> {name: describe(array) for name, array in golden.arrays.items()}["grad/y"]
    'float64[7]'
    """
    formula = formula_named(name)
    variant = _variant(formula, case, variant)
    if dtype not in TOLERANCES:
        raise InputError(f"--dtype is {dtype!r}, expected one of {', '.join(TOLERANCES)}")
    with exact():
        rng = np.random.default_rng([seed, zlib.crc32(formula.name.encode())])
        draw = Draw(rng, jnp.dtype(dtype))
        inputs, settings = split_settings(formula.inputs(draw, case, variant))
        return _made(formula, inputs, settings, draw, dtype, case, variant, seed)


def export_own(
    fn: Callable[..., Any],
    name: str,
    inputs: dict[str, Any],
    dtype: str = "float64",
    seed: int = 0,
    wrt: Sequence[str] = (),
    drawn: str = "given",
) -> Golden:
    """The truth of a user's own function at the user's inputs.

    Args:
        fn: a function that JAX can trace, with floating-point results.
        name: what to call it, such as ``mine.py:loss``.
        inputs: its arguments by name, in order and in the dtype.
        dtype: the dtype that the budget is for.
        seed: determines the cotangent.
        wrt: the inputs to differentiate with respect to; by default all floating-point ones.
        drawn: how the inputs were drawn, in words.
    Returns:
        The archive, in memory.
    Raises:
        InputError: the function raises, cannot be traced, or its truth is not finite.

    >>> golden = export_own(lambda x: jnp.sum(x**2), "mine.py:loss", {"x": np.array([1.0, -2.0])})
    >>> (golden.arrays["grad/x"] / golden.arrays["dout"]).round(12).tolist()
    [2.0, -4.0]
    """
    formula = Own(name, fn, tuple(wrt), drawn)
    if not any(differentiable(value) for value in inputs.values()):
        raise InputError(f"{name} has no floating-point argument to differentiate with respect to")
    try:
        with exact():
            draw = Draw(np.random.default_rng([seed, zlib.crc32(name.encode())]), jnp.dtype(dtype))
            return _made(formula, inputs, {}, draw, dtype, "random", "", seed)
    except InputError:
        raise
    except NoBudgetError as error:
        raise InputError(f"{name} in {dtype}: {error}; export it in float64") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's function may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{name} cannot be differentiated by JAX: {reason[:200]}") from error


def _made(
    formula: Exported | Own,
    inputs: dict[str, Any],
    settings: dict[str, Any],
    draw: Draw,
    dtype: str,
    case: str,
    variant: str,
    seed: int,
) -> Golden:
    """The archive for given inputs; call this where float64 is enabled."""
    written = {name: jax.tree.map(_written, value) for name, value in inputs.items()}
    wide = {name: jax.tree.map(to_float64, value) for name, value in written.items()}
    question = _Question(formula, case, wide, settings)
    dout = _cotangent(question, draw)
    truth, allowed = _truths(question, dout, dtype)
    arrays = {n: a for name, value in written.items() for n, a in _named(f"in/{name}", value).items()}
    arrays |= {} if dout is None else _named("dout", dout)
    arrays |= truth | {_budget_of(n): a for n, a in allowed.items()}
    meta = {
        "format": FORMAT,
        "formula": formula.name,
        "kind": formula.kind,
        "variant": variant,
        "case": case,
        "dtype": dtype,
        "seed": seed,
        "equations": formula.tags,
        "inputs": list(inputs),
        "settings": settings,
        "arrays": {n: {"dtype": a.dtype.name, "shape": list(a.shape)} for n, a in arrays.items()},
        "versions": {p: importlib.metadata.version(p) for p in ("manual-grad", "jax", "jaxlib", "numpy")},
    }
    return Golden(meta, arrays, _readme(formula, meta))


def _variant(formula: Exported, case: str, variant: str | None) -> str:
    """The chosen variant."""
    if case not in CASES:
        raise InputError(f"--case is {case!r}, expected one of {', '.join(CASES)}")
    if case not in formula.cases:
        raise InputError(f"{formula.name} has no case {case!r}, expected one of {', '.join(formula.cases)}")
    if variant is None:
        return next(v for v in formula.variants if case in formula.cases_of(v))
    if variant not in formula.variants:
        known = ", ".join(v for v in formula.variants if v)
        raise InputError(
            f"{formula.name} has no variant {variant!r}"
            + (f", expected one of {known}" if known else "; it has none")
        )
    if case not in formula.cases_of(variant):
        raise InputError(f"{formula.name} {variant} has no case {case!r}: only ReLU has a kink")
    return variant


def _cotangent(question: _Question, draw: Draw) -> Any:
    """A random cotangent for a pair's output, in the dtype; None for anything else."""
    if question.formula.kind != "pair":
        return None
    out = jax.eval_shape(question.forward, question.floats)
    if not jax.tree.leaves(out) or not all(map(is_float, jax.tree.leaves(out))):
        raise InputError(f"{question.formula.name} returned {describe(out)}, expected floating-point arrays")
    return draw.like(out)


def _truths(
    question: _Question, dout: Any, dtype: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The truths and the absolute errors allowed, by name."""
    wide = None if dout is None else jax.tree.map(lambda leaf: to_float64(np.asarray(leaf)), dout)
    truth, allowed = map(question.named, allowance(question.answers, question.floats, wide, dtype))
    for name, array in truth.items():
        if not (np.isfinite(array).all() and np.isfinite(allowed[name]).all()):
            error = InputError if isinstance(question.formula, Own) else RuntimeError
            raise error(f"{question.formula.name}, {question.case}: {name} is not finite")
    return truth, allowed


def allowance(fn: Callable[..., Any], floats: Any, dout: Any, dtype: str) -> tuple[Any, Any]:
    """``fn(floats, dout)`` in float64, and the absolute error that each entry may have in ``dtype``.

    Args:
        fn: a function that returns a pytree of arrays.
        floats: a pytree of float64 arrays.
        dout: another such pytree, or None.
        dtype: the dtype in which the compared answer is computed.
    Returns:
        ``(out, allowed)``, with the same structure, in float64.
    """
    answers = quickly(functools.partial(budgets, fn, dtype=dtype))(floats, dout)
    out, allowed = jax.tree.map(lambda a: np.asarray(a, np.float64), answers)
    flushed = float(jnp.finfo(dtype).tiny) if dtype in FLUSHING else 0.0
    return out, jax.tree.map(lambda a: a + flushed, allowed)


def _budget_of(name: str) -> str:
    """The name of a truth's budget: ``budget/x`` for ``grad/x`` or ``jac/x``, else ``budget/out``."""
    return f"budget/{name.removeprefix('grad/').removeprefix('jac/')}"


def _written(leaf: Any) -> np.ndarray:
    """An input in the form in which it is written: integers as int32."""
    array = np.asarray(leaf)
    return array.astype(np.int32) if array.dtype.kind == "i" else array


def _named(prefix: str, tree: Any) -> dict[str, Any]:
    """A name for each leaf, such as ``in/params/0/W``; a pair in a sequence is (W, b)."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        keys = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
        if len(keys) == 2 and keys[0].isdigit() and keys[1] in ("0", "1"):
            keys[1] = "Wb"[int(keys[1])]
        named["/".join([prefix, *keys])] = (
            leaf if isinstance(leaf, jax.ShapeDtypeStruct) else np.asarray(leaf)
        )
    return named


def _tree(named: Mapping[str, Any]) -> Any:
    """The inverse of :func:`_named`: numbers are positions in a list, W and b a pair, other keys a dict's."""
    if list(named) == [""]:
        return named[""]
    groups: dict[str, dict[str, Any]] = {}
    for name, value in named.items():
        key, _, rest = name.partition("/")
        groups.setdefault(key, {})[rest] = value
    built = {key: _tree(group) for key, group in groups.items()}
    if all(key.isdigit() for key in built):
        layers = [built[str(i)] for i in range(len(built))]
        return [(l["W"], l["b"]) if isinstance(l, dict) and set(l) == {"W", "b"} else l for l in layers]
    return built


# --- in words ---------------------------------------------------------------------------------------------


def _readme(formula: Exported | Own, meta: Mapping[str, Any]) -> str:
    """Everything needed to use the archive without this project."""
    title = f"Golden vectors: {formula.name}" + (f", {meta['variant']}" if meta["variant"] else "")
    settings = [f"    {name} = {value!r}" for name, value in meta["settings"].items()] or ["    none"]
    rows = [
        f"    {name:<22} {entry['dtype']:<9} {tuple(entry['shape'])!s:<16} {_meaning(name, formula)}"
        for name, entry in meta["arrays"].items()
    ]
    truth = "jax.jacrev" if formula.kind == "jacobian" else "jax.vjp"
    module = formula.origin(meta["case"])
    first = next(
        name
        for name in meta["arrays"]
        if name.split("/")[0] in ("grad", "jac", "out")
        and (formula.kind != "pair" or name.startswith("grad"))
    )
    budget = _budget_of(first)
    return "\n".join([
        title, "=" * len(title), "",
        (f"Equations {', '.join(formula.tags)} of the lectures. " if formula.tags else "")
        + f"Case {meta['case']}, dtype {meta['dtype']}, seed {meta['seed']}.", "",
        "THE OPERATION", "", *_indented(formula.explained), "",
        "SETTINGS", "", *settings, "",
        "ARRAYS", "", *rows, "",
        *_wrapped(LAYOUT), "",
        "THE INPUTS", "", *_wrapped(formula.inputs_said(meta["case"])), "",
        "THE TRUTH", "",
        *_wrapped(
            f"The inputs were first rounded to {meta['dtype']}. The truth is computed in float64 for exactly "
            f"these numbers, by {truth} of a plain forward function ({module}), not by a hand-derived "
            "formula. The cotangent dout is random, not all ones: with ones many mistakes cancel."
            if formula.kind != "value" else
            f"The inputs were first rounded to {meta['dtype']}. The truth is computed in float64 for exactly "
            "these numbers, by plain forward functions and JAX's derivatives of them."
        ), "",
        "THE TOLERANCE", "",
        *_wrapped(_tolerance(meta["dtype"])), "",
        "HOW TO CHECK YOURS", "",
        "    import numpy as np",
        "    golden = np.load('golden.npz')                  # settings as JSON: golden['golden.json']",
        "    mine = ...                                      # your result for golden['in/...']"
        + "".join(f" and golden['{name}']" for name in meta["arrays"] if name.partition("/")[0] == "dout"),
        f"    assert (abs(mine - golden['{first}']) <= golden['{budget}']).all()",
        "", "    or, for a table that says why a wrong result is wrong:", "",
        f"    np.savez('mine.npz', **{{'{first}': mine}})      # and the others under their names"
        + ("; out is optional" if formula.kind == "pair" else ""),
        "    manual-grad golden compare golden.npz mine.npz"
        + (f" --function {formula.name}" if isinstance(formula, Own) else ""), "",
        *_wrapped(SAFETENSORS), "",
        "VERSIONS", "", f"    {', '.join(f'{name} {v}' for name, v in meta['versions'].items())}", "",
    ])  # fmt: skip


def _indented(text: str) -> list[str]:
    """The lines of a text, four spaces in."""
    return [f"    {line}".rstrip() for line in text.splitlines()]


def _wrapped(text: str) -> list[str]:
    """A paragraph, four spaces in."""
    return textwrap.wrap(text, 104, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)


def _meaning(name: str, formula: Exported | Own) -> str:
    kind, _, of = name.partition("/")
    if kind == "budget":
        truth = of if of.split("/")[0] == "out" else f"{'jac' if formula.kind == 'jacobian' else 'grad'}/{of}"
        return f"the absolute error allowed in each entry of {truth}"
    return {
        "in": "input",
        "dout": "cotangent of out, the upstream gradient",
        "out": "truth: the result of the " + ("forward function" if formula.kind == "pair" else "formula"),
        "grad": f"truth: the gradient of sum(dout * out) w.r.t. {of}",
        "jac": f"truth: the Jacobian w.r.t. {of}, shape out.shape + {of}.shape",
    }[kind]


def _tolerance(dtype: str) -> str:
    rule = "|mine − truth| ≤ budget, entry by entry, in float64. "
    if dtype == "float64":
        return f"{rule}The budget is {FLOAT64:g} times the array's largest entry."
    flushed = " Subnormal numbers may be flushed to 0." if dtype in FLUSHING else ""
    return (
        f"{rule}The budget is {MARGIN:g} standard deviations of the rounding error in {dtype}, followed step "
        "by step through the plain function and its derivative: from the precision of the dtype, the lengths "
        "of the sums and the magnitudes of their terms. Sums of half-precision products are assumed to be "
        f"accumulated in float32 and rounded once.{flushed}"
    )


# --- comparing --------------------------------------------------------------------------------------------


def packed(golden: Golden, suffix: str) -> bytes:
    """The bytes of an archive; its README and its JSON are stored as texts next to the arrays.

    Args:
        golden: from :func:`export`.
        suffix: ``.npz`` or ``.safetensors``.
    Returns:
        The same bytes every time.
    """
    meta = json.dumps(golden.meta, ensure_ascii=False, indent=1)
    return archive.packed(suffix, golden.arrays, {META: meta, README: golden.readme})


def load(path: Path) -> Golden:
    """Read an archive made by :func:`export`.

    Args:
        path: the file.
    Returns:
        Its contents.
    Raises:
        InputError: there is no such file, it is something else, or it lacks arrays.
    """
    arrays, texts = archive.read(path)
    try:
        meta = parsed(texts[META])
        found = misfit(meta, {"format": whole(0)})
    except (KeyError, ValueError):
        found = META
    if found:
        raise InputError(
            f"{path} holds no golden vectors (no {META}); manual-grad golden export makes them"
        ) from None
    if meta["format"] != FORMAT:
        raise InputError(f"{path} has the format {meta['format']}, expected {FORMAT}")
    if found := misfit(meta, ABOUT):
        raise InputError(f"{path} is damaged: in {META} {found}")
    if meta["formula"] not in FORMULAS and not _is_own(meta):
        raise InputError(f"{path} holds {meta['formula']!r}, which this version does not know")
    for name, entry in meta["arrays"].items():
        if name not in arrays or list(arrays[name].shape) != entry["shape"]:
            raise InputError(f"{path} no longer has an array {name} of shape {tuple(entry['shape'])}")
    golden = Golden(meta, {name: arrays[name] for name in meta["arrays"]}, texts.get(README, ""))
    if found := _contradiction(golden):
        raise InputError(f"{path} is damaged: {found}")
    return golden


def _is_own(meta: Mapping[str, Any]) -> bool:
    """Whether an archive is of a user's own function."""
    return ":" in meta["formula"]


def _contradiction(golden: Golden, fn: Callable[..., Any] | None = None) -> str:
    """How an archive's arrays differ from those of its formula; "" if they do not.

    If a user's function is not available, only the checks that do not call it are made: code named in an
    archive is never run.
    """
    meta, arrays = golden.meta, golden.arrays
    kind = "pair" if _is_own(meta) else FORMULAS[meta["formula"]].kind
    if meta["kind"] != kind:
        return f"in {META} kind is {meta['kind']!r}, and {meta['formula']} is a {kind}"
    for name, array in arrays.items():
        if not is_float(array) and not (name.startswith("in/") and array.dtype.kind in "iub"):
            return f"{name} is {describe(array)}, expected floating-point numbers"
    for name in (budget for budget in arrays if budget.startswith("budget/")):
        if not (arrays[name] >= 0).all():
            return f"{name} has entries that are not valid error bounds"
    if _is_own(meta) and fn is None:
        return _contradiction_of_own(golden)
    try:
        with exact():
            question = _Checker(golden, fn).question
            dout = jax.tree.map(to_float64, golden.dout) if kind == "pair" else None
            wanted = question.named(jax.eval_shape(question.answers, question.floats, dout))
    except Exception as error:  # a formula may raise anything for invalid inputs
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return f"its inputs are not those of {meta['formula']} ({reason[:200]})"
    for name, like in wanted.items():
        for each in (name, _budget_of(name)):
            if each not in arrays or arrays[each].shape != like.shape:
                found = describe(arrays[each]) if each in arrays else "missing"
                return f"{each} is {found}, expected the shape {like.shape}"
    unknown = [name for name in golden.compared if name not in wanted]
    return f"{unknown[0]} is not one of its formula's arrays" if unknown else ""


def _contradiction_of_own(golden: Golden) -> str:
    """The same if the function is not available: every truth has a budget, every gradient an input."""
    arrays = golden.arrays
    for name in golden.compared:
        like = {"grad": f"in/{name.partition('/')[2]}", "out": f"dout{name.removeprefix('out')}"}
        for each in (_budget_of(name), like.get(name.partition("/")[0], "")):
            if each not in arrays or arrays[each].shape != arrays[name].shape:
                found = describe(arrays[each]) if each in arrays else "missing"
                return f"{each} is {found}, expected the shape {arrays[name].shape}"
    return "" if golden.compared else "there is no truth in it"


def compare(
    golden_path: Path, mine_path: Path, fn: Callable[..., Any] | None = None
) -> tuple[Golden, list[Compared], list[str]]:
    """Compare someone's gradients with an archive's truths and budgets.

    Args:
        golden_path: an archive from ``manual-grad golden export``.
        mine_path: an ``.npz`` or ``.safetensors`` file with ``grad/…`` under the archive's names, and ``out``
            if there is one.
        fn: the user's own function, if the archive is of one: used for the diagnosis.
    Returns:
        The archive, the result for each array, and notes.
    Raises:
        InputError: a file cannot be read, or ``mine`` has arrays missing, of the wrong shape or of integers,
            or was made for other inputs.
    """
    golden = load(golden_path)
    if fn is not None and not _is_own(golden.meta):
        raise InputError(f"{golden_path} is for the formula {golden.meta['formula']}, not for your function")
    if fn is not None and (unlike := _contradiction(golden, fn)):
        raise InputError(f"{golden_path} is not for this function: {unlike}")
    mine, texts = archive.read(mine_path)
    _require_same_question(golden, golden_path, mine, mine_path, texts)
    with exact():
        checker = _Checker(golden, fn)
        gots = _answers(golden, mine, mine_path, checker)
        notes = [
            f"{name} is not in {mine_path}: not compared" for name in golden.compared if name not in gots
        ]
        found = [checker.compared(name, gots) for name in gots]
        if _is_own(golden.meta) and fn is None and not all(compared.ok for compared in found):
            notes.append(f"with --function {golden.meta['formula']}, the cause is searched for step by step")
        return golden, found, notes


def _require_same_question(
    golden: Golden,
    golden_path: Path,
    mine: Mapping[str, np.ndarray],
    mine_path: Path,
    texts: Mapping[str, str],
) -> None:
    """Refuse results for other inputs, as far as that can be detected."""
    try:
        other = parsed(texts.get(META, "{}"))
    except ValueError:
        other = {}
    other = other if isinstance(other, dict) else {}
    for key in ("formula", "variant", "case", "dtype", "seed"):
        if key in other and other[key] != golden.meta[key]:
            raise InputError(
                f"{mine_path} is for {key} {other[key]!r}, {golden_path} for {golden.meta[key]!r}"
            )
    for name, array in golden.arrays.items():
        given = name in mine and name.partition("/")[0] in ("dout", "in")
        if given and not _equal(mine[name], array):
            raise InputError(f"{name} in {mine_path} differs from {golden_path}: made for other inputs")


def _equal(left: np.ndarray, right: np.ndarray) -> bool:
    numbers = is_float(left) or left.dtype.kind in "iu"
    return numbers and np.array_equal(left.astype(np.float64), right.astype(np.float64))


def _answers(
    golden: Golden, mine: Mapping[str, np.ndarray], path: Path, checker: "_Checker"
) -> dict[str, np.ndarray]:
    """The compared arrays."""
    found: dict[str, np.ndarray] = {}
    for name in golden.compared:
        want = golden.arrays[name]
        if name not in mine:
            if name in golden.optional:
                continue
            has = ", ".join(mine) or "nothing"
            raise InputError(f"{path} has no array {name!r}; it has {has}")
        if not is_float(mine[name]):
            raise InputError(
                f"{name} in {path} is {describe(mine[name])}, expected floating-point numbers, "
                f"of shape {want.shape}"
            )
        found[name] = mine[name]
    for name, got in found.items():
        if got.shape != golden.arrays[name].shape:
            why = checker.why(name, found)
            hint = "" if why.startswith("wrong shape") else f": {why.partition('; wrong shape')[0]}"
            raise InputError(
                f"{name} in {path} is {describe(got)}, expected the shape {golden.arrays[name].shape}{hint}"
            )
    return found


class _Checker:
    """The archive's question, rebuilt for the diagnosis."""

    def __init__(self, golden: Golden, fn: Callable[..., Any] | None = None) -> None:
        meta, arrays = golden.meta, golden.arrays
        given = _tree(
            {n.removeprefix("in/"): to_float64(a) for n, a in arrays.items() if n.startswith("in/")}
        )
        inputs = {name: given[name] for name in meta["inputs"]}
        settings = {name: _hashable(value) for name, value in meta["settings"].items()}
        self.golden = golden
        own = Own(meta["formula"], fn, tuple(n.partition("/")[2].partition("/")[0] for n in golden.compared
                                             if n.startswith("grad/")))  # fmt: skip
        formula = own if _is_own(meta) else FORMULAS[meta["formula"]]
        self.foreign = _not_at_hand if isinstance(formula, Own) and fn is None else None
        self.question = _Question(formula, meta["case"], inputs, settings)
        self.names = [n for n in golden.compared if n not in golden.optional]

    def compared(self, name: str, gots: Mapping[str, np.ndarray]) -> Compared:
        """Compare one array with its truth and budget."""
        want, got = self.golden.arrays[name], gots[name].astype(np.float64)
        allowed = self.golden.arrays[_budget_of(name)]
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            error = np.where(got == want, 0.0, np.abs(got - want))
            share = np.where(error == 0, 0.0, error / allowed)
        error, share = np.where(np.isnan(error), np.inf, error), np.where(np.isnan(share), np.inf, share)
        at = tuple(int(i) for i in np.unravel_index(np.argmax(share), share.shape))
        scale = np.max(np.abs(want), initial=0.0) or 1.0
        largest, ok = float(np.max(error / scale, initial=0.0)), bool(share[at] <= 1)
        if ok:
            return Compared(name, True, float(share[at]), largest)
        where = at, float(got[at]), float(want[at])
        return Compared(name, False, float(share[at]), largest, where, self.why(name, gots))

    def why(self, name: str, gots: Mapping[str, np.ndarray]) -> str:
        """Why an array is wrong."""
        if name not in self.names or self.question.formula.kind == "value":
            return self._why_value(name, gots)
        if self.question.formula.kind == "jacobian":
            return self._why_jacobian(name, gots)
        return diagnose([self._evidence(name, gots, self._truths(), self.golden.dout)])

    def _truths(self) -> dict[str, np.ndarray]:
        return {name: self.golden.arrays[name] for name in self.names}

    def _evidence(
        self, name: str, gots: Mapping[str, np.ndarray], wants: Mapping[str, np.ndarray], dout: Any
    ) -> Evidence:
        """The evidence for :func:`diagnose`; ``dout`` is the cotangent of the plain function's output."""
        names = list(wants)
        mine = [np.asarray(gots[n]).astype(np.float64) if n in gots else None for n in names]
        shown = [n.partition("/")[2] for n in names]
        scalar = self.question.formula.kind != "pair" and np.ndim(dout) == 0
        return Evidence(
            names.index(name),
            mine,
            list(wants.values()),
            shown,
            self._point(dout),
            self._fit(gots[name]),
            scalar,
        )

    def _point(self, dout: Any) -> Point:
        """The question in the form that the diagnosis expects, with every input an argument."""
        inputs, settings = self.question.inputs, self.question.settings
        forward = self.question.formula.forward_in(self.question.case)

        def fn(*args: Any) -> Any:
            return forward(**dict(zip(inputs, args, strict=True)), **settings)

        leaves = [leaf for value in inputs.values() for leaf in jax.tree.leaves(value)]
        names = [n.removeprefix("in/") for name, value in inputs.items() for n in _named(f"in/{name}", value)]
        owners = [name for name, value in inputs.items() for _ in jax.tree.leaves(value)]
        wrt = [i for i, owner in enumerate(owners) if owner in self.question.wrt]
        douts = tuple(to_float64(leaf) for leaf in float_leaves(jax.tree.map(np.asarray, dout)))
        return Point(
            fn, jax.tree.structure(tuple(inputs.values())), tuple(leaves), tuple(names), tuple(wrt), douts,
            foreign=self.foreign,
        )  # fmt: skip

    def _fit(self, got: np.ndarray) -> float:
        """The relative error up to which a wrong gradient matches a known mistake."""
        names = [self.golden.meta["dtype"], got.dtype.name if got.dtype.name in TOLERANCES else "float64"]
        dtype = max(names, key=lambda n: TOLERANCES[n])
        return FIT.get(dtype, TOLERANCES[dtype] / 2)

    def _why_value(self, name: str, gots: Mapping[str, np.ndarray]) -> str:
        """For anything but a gradient, a diagnosis from the numbers alone."""
        want, got = self.golden.arrays[name], gots[name].astype(np.float64)
        point = self._point(want)
        evidence = Evidence(0, [got], [want], [name], point, self._fit(gots[name]), scalar=True)
        if got.shape != want.shape:
            return diagnosis.transposed_shape(evidence) or diagnosis.wrong_shape(evidence)
        if not got.any():
            return "zero"
        return next((phrase for explain in OF_A_VALUE if (phrase := explain(evidence))), UNEXPLAINED)

    def _why_jacobian(self, name: str, gots: Mapping[str, np.ndarray]) -> str:
        """For a Jacobian: what is wrong with it, or with its products with random cotangents."""
        wants = self._truths()
        out = jax.eval_shape(self.question.forward, self.question.floats)
        rng = np.random.default_rng(0)
        douts = [rng.standard_normal(out.shape) if out.shape else np.ones(()) for _ in range(2)]
        phrase = diagnose([self._evidence(name, gots, wants, douts[0])])
        if not out.shape or phrase != UNEXPLAINED:
            return phrase

        def products(jacobians: Mapping[str, np.ndarray], dout: np.ndarray) -> dict[str, np.ndarray]:
            return {n: np.tensordot(dout, J.astype(np.float64), dout.ndim) for n, J in jacobians.items()}

        return diagnose([self._evidence(name, products(gots, d), products(wants, d), d) for d in douts])


def _not_at_hand(*args: Any) -> Any:
    """Stands in for an unavailable function: any explanation that calls it is rejected."""
    raise InputError("the function is not available")


def _hashable(value: Any) -> Any:
    """A setting as it was before JSON turned tuples into lists."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
