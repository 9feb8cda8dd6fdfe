"""What must hold for every entry, whatever its formula; each error names the entry."""

import ast
import inspect
import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import manual_grad
from manual_grad.catalogue import Batch, EntryError
from manual_grad.catalogue.draw import Draw
from manual_grad.compiling import quickly
from manual_grad.lectures.entries import claims_of
from manual_grad.verify.hard import check_hard
from manual_grad.verify.problem import oracle_checks, pose
from manual_grad_reference.oracles import decimals
from tests.formulas.scenarios import draw, is_float, of, output

ROOT = Path(__file__).parents[2]
WINGS = ("formulas", "kernels", "networks")
_EVERY_ARRAY = "the gradients of its pair and of the network's middle, which the lectures compare"
NO_FORMULAS = {  # public functions without an entry, and why
    "as_matrix": "a shape",
    "from_column_stacking": "a shape",
    "diagonal": "a shape",
    "block_diagonal": "a shape",
    "chain": "a product",
    "multiply_out": "products",
    "cnn_grads": _EVERY_ARRAY,
    "five_layer_grads": _EVERY_ARRAY,
    "two_layer_squared_loss_grads": _EVERY_ARRAY,
    "two_layer_cross_entropy_grads": _EVERY_ARRAY,
    "two_layer_cross_entropy_columns_grads": _EVERY_ARRAY,
    "two_layer_cross_entropy_rows_grads": _EVERY_ARRAY,
}
FAR = 1e-3  # from ReLU's kink; rounding moves nothing so far


def pairs_in_the_source():
    """The pairs found in the source, independently of the catalogue."""
    paths = [path for wing in WINGS for path in (ROOT / "manual_grad" / wing).glob("*.py")]
    named = {n.name for p in paths for n in ast.parse(p.read_text()).body if isinstance(n, ast.FunctionDef)}
    return {n.removesuffix("_fwd") for n in named if n.endswith("_fwd") and not n.startswith("_")}


def require_entries(formulas, functions):
    """Every pair has an entry; every other public function is a Function or is listed as no formula."""
    for missing in sorted(pairs_in_the_source() - formulas.keys()):
        raise EntryError(f"{missing}: no entry in manual_grad/catalogue")
    public = {name for name in manual_grad.__all__ if inspect.isfunction(getattr(manual_grad, name))}
    pairs = {f"{name}_{way}" for name in formulas for way in ("fwd", "bwd")}
    for missing in sorted(public - pairs - functions.keys() - NO_FORMULAS.keys()):
        raise EntryError(f"{missing}: no Function in manual_grad/catalogue")
    for stale in sorted(NO_FORMULAS.keys() - public):
        raise EntryError(f"{stale}: not a public function, but there is a reason why it has no entry")


def require_signatures(entry):
    """The pair goes by one name, and the reference takes what the formula takes."""
    if entry.bwd.__name__ != f"{entry.name}_bwd":
        raise EntryError(f"{entry.name}: the pair is {entry.fwd.__name__} and {entry.bwd.__name__}")
    mine, its = (inspect.signature(fn).parameters for fn in (entry.fwd, entry.reference))
    for name in [n for n in entry.primals if n not in its] + [n for n in its if n not in mine]:
        raise EntryError(f"{entry.name}: {name} is an argument of only one of formula and reference")
    if not entry.source or not entry.variants:
        raise EntryError(f"{entry.name}: an entry has a source and at least one variant")
    names = set(entry.batch.axes if entry.batch else ()) | {place.split("[")[0] for place, _ in entry.grows}
    for name in sorted(names - set(entry.primals)):
        raise EntryError(f"{entry.name}: {name} is not a primal")


def require_definition(entry):
    """The definition matches the reference: its name, its arguments, and its value, to all digits."""
    definition, reference = entry.definition, entry.reference
    if getattr(definition, "__name__", "none") != reference.__name__:
        raise EntryError(f"{entry.name}: definition=definitions.{reference.__name__} in its entry")
    mine, its = (list(inspect.signature(fn).parameters) for fn in (definition, reference))
    if mine[1:] != its:
        raise EntryError(f"{entry.name}: the definition takes {mine[1:]}, the reference {its}")
    for variant in entry.variants:
        drawn = entry.inputs(Draw(np.random.default_rng(0), jnp.dtype(jnp.float64), "tiny"), variant)
        inputs = entry.for_reference(drawn)
        point = jax.tree.map(lambda v: np.asarray(v) if isinstance(v, jax.Array) else v, inputs)
        want = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(reference(**inputs))])
        if not np.allclose(decimals.value(definition, point), want, 1e-12, 1e-15):
            raise EntryError(f"{entry.name}: the definition's value differs from the reference's")


def require_tolerance(entry):
    """An error of a thousand roundings is rejected, in float64 and in a half precision."""
    claim = next(c for c in claims_of(entry) if c.kind == "gradient")
    for dtype, off in ((jnp.float64, 1e-9), (jnp.bfloat16, 1e2)):
        drawing = Draw(np.random.default_rng(0), jnp.dtype(dtype))
        problem = pose(claim, drawing)
        check = oracle_checks(problem, drawing)["reverse"]
        got = problem.answer_of(next(iter(claim.formulas.values())))
        wrong = [np.asarray(g * (1 + off)).astype(g.dtype) for g in jax.tree.leaves(got)]
        wrong = jax.tree.unflatten(jax.tree.structure(got), wrong)
        if max(c.share for c in check(got)) > 1 or min(c.share for c in check(wrong)) <= 1:
            raise EntryError(f"{entry.name}: off by a factor of {1 + off} in {jnp.dtype(dtype)} passes")


def require_hard_tolerance(entry):
    """A hard case's own tolerance is not too wide: a gradient that is half too large is rejected."""
    more = replace(entry, bwd=lambda *args: jax.tree.map(lambda g: 1.5 * g, entry.bwd(*args)))
    for case in entry.hard:
        if case.tolerance and check_hard(more, replace(case, jax={})).passed:
            raise EntryError(f"{entry.name}: a gradient that is half too large passes for {case.name}")


def require_telling_draws(scenario):
    """A transposed or misplaced entry is detected: no square matrix, no two equal entries but 0 and 1."""
    for name, value in draw(scenario, seed=0).items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            leaf, square = np.asarray(leaf), "['proj']" in jax.tree_util.keystr(path)  # of a GPT: D by D
            if (
                leaf.ndim == 2
                and leaf.shape[0] == leaf.shape[1]
                and not (square or _has_to_be_square(scenario.entry, name))
            ):
                raise EntryError(f"{scenario.entry.name}: {name} is square")
            if is_float(leaf) and not set(np.unique(leaf)) <= {0, 1} and len(np.unique(leaf)) < leaf.size:
                raise EntryError(f"{scenario.entry.name}: {name} has two entries alike")


def _has_to_be_square(entry, name):
    """Whether the signature has one letter for both axes."""
    axes = getattr(inspect.signature(entry.fwd).parameters[name].annotation, "dim_str", "").split()
    return len(axes) == 2 and axes[0] == axes[1]


def require_clear_kinks(scenario):
    """Every ReLU is away from its kink, some on and some off."""
    if scenario.entry.kinks is None or scenario.settings.get("activation", "relu") != "relu":
        return
    kinks = quickly(lambda *primals: list(scenario.entry.kinks(scenario.fwd(*primals)[1])))
    z = np.concatenate([np.ravel(z) for z in kinks(*draw(scenario, seed=0).values())])
    if not (np.abs(z).min() > FAR and z.min() < 0 < z.max()):
        raise EntryError(f"{scenario.entry.name}: a ReLU is at its kink, or all are on one side of it")


def require_batch(scenario):
    """The batch axes have the same length in the primals and in the output."""
    batch, primals = scenario.entry.batch, draw(scenario, seed=0)
    given = {name: axis for name, axis in batch.axes.items() if primals[name] is not None}
    if not given or not all(np.ndim(primals[name]) for name in given):
        return
    lengths = {name: primals[name].shape[axis] for name, axis in given.items()}
    out = output(scenario, primals.values())
    ranks = [leaf.ndim for leaf in jax.tree.leaves(out)]
    if batch.out is not None and any(ranks):
        found = jax.tree.leaves(batch.along_out(lambda leaf, axis: leaf.shape[axis], out))
        lengths |= {f"output {i}": n for i, n in enumerate(found)}
    if len(set(lengths.values())) > 1 or batch.mean != (ranks == [0]):
        raise EntryError(f"{scenario.entry.name}: where its samples are: {lengths}")


def require_samples(entry):
    """The batch axes are stated and right: a single sample gets the same result as in the batch."""
    if entry.batch is None:
        raise EntryError(f"{entry.name}: where are its samples? batch=Batch(…), or NO_BATCH in its entry")
    scenario = of(entry)
    if entry.batch.axes and not _samples_are(scenario, entry.batch):
        raise EntryError(f"{entry.name}: there are no samples along {dict(entry.batch.axes)}")
    for batch in [] if entry.batch.axes else _conceivable(scenario):
        if _samples_are(scenario, batch):
            raise EntryError(f"{entry.name}: NO_BATCH, but there are samples along {batch.axes}")


def _samples_are(scenario, batch):
    """Whether the reference treats the entries along these axes independently, or takes their mean."""
    primals, reference = draw(scenario, seed=0), quickly(scenario.reference)
    name, axis = next(iter(batch.axes.items()))

    def alone(n):
        one = {k: v for k, v in primals.items() if k not in batch.axes}
        one |= {k: jnp.take(primals[k], jnp.array([n]), a) for k, a in batch.axes.items()}
        return reference(*(one[k] for k in primals))

    try:
        ones = [jax.tree.leaves(alone(n)) for n in range(primals[name].shape[axis])]
        axes = jax.tree.leaves(batch.out) or [None]
        together = [
            np.mean(parts, 0) if batch.mean else np.concatenate(parts, axis)
            for axis, *parts in zip(axes, *ones, strict=True)
        ]
    except (TypeError, ValueError):  # their shapes clash
        return False
    want = jax.tree.leaves(reference(*primals.values()))
    return all(
        t.shape == w.shape and np.allclose(t, w, 1e-9, 1e-12) for t, w in zip(together, want, strict=True)
    )


def _conceivable(scenario):
    """Every possible batch: axes of the same length, of primals that are arrays."""
    arrays = {name: v.shape for name, v in draw(scenario, seed=0).items() if hasattr(v, "shape")}
    out = jax.tree.leaves(output(scenario, draw(scenario, seed=0).values()))[0].shape
    for length in {n for shape in arrays.values() for n in shape if n > 1}:
        axes = {name: shape.index(length) for name, shape in arrays.items() if length in shape}
        yield from [Batch(axes, out.index(length))] if length in out else []
        yield from [] if out else [Batch(axes, mean=True)]


def require_settings(scenarios):
    """Every keyword differs from its default in at least one variant."""
    entry, *_ = (scenario.entry for scenario in scenarios)
    for name, p in inspect.signature(entry.fwd).parameters.items():
        if p.kind is p.KEYWORD_ONLY and all(s.settings.get(name, p.default) == p.default for s in scenarios):
            raise EntryError(f"{entry.name}: {name} is {p.default!r} in every variant")


def files_that_name():
    """Formula → the Python files that name it: its pair, or its name in quotes."""
    folders = ("manual_grad", "reference", "benchmarks", "tests", "examples")
    texts = {p: p.read_text() for folder in folders for p in (ROOT / folder).rglob("*.py")}
    names = r"(?<!\w)(\w+)_(?:fwd|bwd)(?!\w)|[\"'](\w+)[\"']"
    named = {p: {a or b for a, b in re.findall(names, text)} for p, text in texts.items()}
    return {f: [p for p, found in named.items() if f in found] for f in pairs_in_the_source()}
