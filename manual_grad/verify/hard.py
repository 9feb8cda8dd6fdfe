"""Run the formulas on hard inputs: infinities, ties, all zeros, subnormals, huge batches.

Each result is compared with the right answer, from the entry's definition in decimal arithmetic
(:mod:`manual_grad_reference.oracles.decimals`) or in closed form. The derivatives that JAX gives of the
obvious forward functions are shown alongside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from inspect import getdoc, signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.catalogue import FORMULAS, FUNCTIONS, Formula, Function
from manual_grad.catalogue.draw import Draw
from manual_grad.catalogue.hard import Hard, Right
from manual_grad.compare import TOLERANCES, Comparison
from manual_grad.compiling import quick, split_settings
from manual_grad.lectures import EQUATIONS
from manual_grad.lectures.entries import tags_in
from manual_grad_reference import oracles
from manual_grad_reference.oracles import decimals

SHOWN = 6  # entries of an array shown on a line


KEPT = Hard(
    "half precision",
    "Every result of a Jacobian, or of another function, has its arguments' dtype: an identity in it too.",
    lambda rng: {},
    dtype="bfloat16",
)


def _cases() -> tuple[tuple[Formula | Function, Hard], ...]:
    """All cases, grouped by name and then by right answer."""
    cases: list[tuple[Formula | Function, Hard]]
    cases = [(formula, hard) for formula in FORMULAS.values() for hard in formula.hard]
    cases += [(function, KEPT) for function in FUNCTIONS.values()]
    names = list(dict.fromkeys(hard.name for _, hard in cases))
    says = list(dict.fromkeys(hard.says for _, hard in cases))
    return tuple(sorted(cases, key=lambda case: (names.index(case[1].name), says.index(case[1].says))))


CASES = _cases()


def tags_of(formula: Formula | Function) -> tuple[str, ...]:
    """The tags of the equations that a formula or function belongs to."""
    if isinstance(formula, Function):
        return tuple(tags_in(getdoc(formula.fn) or ""))
    return _naming(formula.bwd.__name__) or _naming(formula.fwd.__name__)


@cache
def _naming(function: str) -> tuple[str, ...]:
    return tuple(e.tag for e in EQUATIONS if any(function in claim.formulas for claim in e.claims))


@dataclass(frozen=True)
class Answer:
    """The answer to a case, computed in one way.

    Attributes:
        way: the name of that way.
        right: whether the answer is right.
        shown: the part of the answer that the case is about, in a few characters.
        detail: the largest difference, and where it is; empty if the answer is right.
        error: the largest relative error; None if a NaN or an infinity is missing or out of place.
    """

    way: str
    right: bool
    shown: str
    detail: str
    error: float | None


@dataclass(frozen=True)
class HardVerdict:
    """The result for one case.

    Attributes:
        name, says, why, formula, tags, dtype: those of the case.
        inputs: name → its values, or its dtype and shape if there are many.
        right: the right answer, in the part that the case is about.
        ours: the formula's answer.
        jax: JAX's answers, one for each of the case's forward functions.
    """

    name: str
    says: str
    why: str
    formula: str
    tags: tuple[str, ...]
    dtype: str
    inputs: dict[str, Any]
    right: str
    ours: Answer
    jax: tuple[Answer, ...]

    @property
    def passed(self) -> bool:
        """Whether the formula is right."""
        return self.ours.right


@np.errstate(over="ignore")  # 70 000 as a float16
def check_hard(formula: Formula | Function, case: Hard, seed: int = 0) -> HardVerdict:
    """Evaluate a case: the right answer, the formula's, and JAX's.

    Args:
        formula: an entry of the catalogue, or your own.
        case: one of its hard inputs, or your own.
        seed: determines the cotangent and all random inputs.
    Returns:
        The verdict.

    >>> from dataclasses import replace
    >>> relu = FORMULAS["relu"]
    >>> verdict = check_hard(relu, replace(relu.hard[0], dtype="float32"))
    >>> verdict.passed, [answer.way for answer in verdict.jax if not answer.right]
    (True, ['jnp.maximum(x, 0)'])
    """
    rng = np.random.default_rng([seed, *case.name.encode()])
    if isinstance(formula, Function):
        return _check_kept(formula, case, rng)
    primals = {name: _cast(value, case.dtype) for name, value in case.draw(rng).items()}
    given = primals.pop("dout", None)
    out = jax.eval_shape(lambda p: formula.fwd(*p, **case.settings)[0], list(primals.values()))
    drawn = jax.tree.map(lambda leaf: _cotangent(rng, leaf.shape), out)
    dout = _cast(drawn, case.dtype) if given is None else given
    exact = {name: jax.tree.map(_float64, value) for name, value in primals.items()}
    exact_dout = jax.tree.map(_float64, dout)
    names = (
        "J" if getattr(out, "shape", None) == () else "out",
        *(f"d{name}" for name in primals if _floats(primals[name])),
    )
    answer = case.right or _by_definition(formula, case)
    right = answer(_without(case.lost, exact), exact_dout)
    wanted = [_by_name(names, a) for a in (right, *case.also(answer, exact, exact_dout, right))]
    compared = partial(_answer, case, names, wanted)
    args = tuple(primals.values())
    ours = jax.jit(partial(_by_hand, formula, case))(args, dout)
    ways = jax.jit(partial(_by_jax, formula, case), compiler_options=quick())(args, dout) if case.jax else {}
    return HardVerdict(
        case.name,
        case.says,
        case.why,
        formula.name,
        tags_of(formula),
        case.dtype,
        {name: _described(value) for name, value in (primals | {"dout": dout}).items()},
        _shown(case, names, wanted[0]),
        compared(formula.name, ours),
        tuple(compared(way, ways[way]) for way in case.jax),
    )


def _check_kept(function: Function, case: Hard, rng: np.random.Generator) -> HardVerdict:
    """Check that a function's results have its arguments' dtype, without computing them."""
    inputs = function.inputs(Draw(rng, jnp.dtype(case.dtype)), next(iter(function.variants or {"": {}})))
    arrays, settings = split_settings(inputs)
    settings |= {"dtype": case.dtype} if "dtype" in signature(function.fn).parameters else {}
    got = jax.eval_shape(lambda given: (function.called or function.fn)(**given, **settings), arrays)
    found = ", ".join(sorted({str(leaf.dtype) for leaf in jax.tree.leaves(got)}))
    detail = "" if found == case.dtype else f"the result is {found}, expected {case.dtype}"
    return HardVerdict(
        case.name,
        case.says,
        case.why,
        function.name,
        tags_of(function),
        case.dtype,
        {name: _described(value) for name, value in arrays.items()},
        case.dtype,
        Answer(function.name, not detail, found, detail, None),
        (),
    )


def _by_definition(formula: Formula, case: Hard) -> Right:
    """The right answer, from the definition in decimal arithmetic."""
    assert formula.definition is not None, formula.name
    definition = _set(formula.definition, case)
    return lambda point, dout: decimals.answer(definition, point, dout, case.digits)


def _set(forward: Callable[..., Any], case: Hard) -> Callable[..., Any]:
    """A function with those of the case's settings that it accepts."""
    known = signature(forward).parameters if case.settings else ()
    return partial(forward, **{name: value for name, value in case.settings.items() if name in known})


def _without(lost: tuple[str, tuple] | None, point: dict[str, Any]) -> dict[str, Any]:
    """The point with NaN in the samples that have no answer."""
    if not lost:
        return point
    name, samples = lost
    spoilt = point[name].copy()
    spoilt[samples] = np.nan
    return point | {name: spoilt}


def _by_hand(formula: Formula, case: Hard, primals: tuple, dout: Any) -> tuple:
    out, res = formula.fwd(*primals, **case.settings)
    return out, *formula.bwd(res, dout)


def _by_jax(formula: Formula, case: Hard, primals: tuple, dout: Any) -> dict[str, tuple]:
    ways = {way: _set(f or formula.reference, case) for way, f in case.jax.items()}
    return {
        way: (forward(*primals), *oracles.reverse(forward, primals, dout)) for way, forward in ways.items()
    }


def _cotangent(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A random cotangent with no entry near 0 or 1, which would hide mistakes."""
    return rng.uniform(1.5, 3, shape) * (rng.choice([-1, 1], shape) if shape else 1)


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype if np.asarray(leaf).dtype.kind == "f" else None), tree
    )


def _float64(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _floats(tree: Any) -> bool:
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(tree))


def _by_name(names: Sequence[str], answers: Sequence) -> dict[str, np.ndarray]:
    """Every array in a list of pytrees, by its path."""
    return {
        name + jax.tree_util.keystr(path): np.asarray(leaf)
        for name, answer in zip(names, answers, strict=True)
        for path, leaf in jax.tree_util.tree_leaves_with_path(answer)
    }


def _answer(case: Hard, names: Sequence[str], wanted: list[dict], way: str, got: tuple) -> Answer:
    """Compare the answers computed in one way with the right ones."""
    arrays = _by_name(names, got)
    if [(k, a.shape) for k, a in arrays.items()] != [(k, a.shape) for k, a in wanted[0].items()]:
        return Answer(way, False, "", "other arrays or shapes than expected", None)
    found = [_compare(case, name, array, [w[name] for w in wanted]) for name, array in arrays.items()]
    worst = max(found, key=lambda comparison: comparison.error)
    limit = case.tolerance or TOLERANCES[case.dtype]
    right = worst.error <= limit and all(a.dtype == jnp.dtype(case.dtype) for a in arrays.values())
    error = float(worst.error) if np.isfinite(worst.error) else None
    return Answer(way, right, _shown(case, names, arrays), "" if right else worst.detail, error)


def _compare(case: Hard, name: str, got: np.ndarray, wanted: list[np.ndarray]) -> Comparison:
    """The largest error in one array; if several answers are right, each entry is compared with the nearest.

    Results below the smallest normal number may be 0: XLA:CPU flushes them, except in float16.
    """
    limits = jnp.finfo(case.dtype)
    tiny = float(limits.smallest_subnormal if case.dtype == "float16" else limits.tiny)
    g = got.astype(np.float64)
    errors = []
    with np.errstate(all="ignore"):
        for want in wanted:
            w = np.asarray(want).astype(jnp.dtype(case.dtype)).astype(np.float64)
            scale = np.max(np.abs(w), initial=0.0, where=np.isfinite(w))
            scales = np.abs(w) if case.entrywise else np.full(w.shape, scale)
            off = np.where((g == w) | (np.isnan(g) & np.isnan(w)), 0.0, np.abs(g - w))
            scales = np.where(scales > tiny, scales, tiny if case.entrywise else 1.0)
            off = np.where(off <= tiny, 0.0, off / scales)
            errors.append(np.where(np.isnan(off) | (np.isinf(w) & (g != w)), np.inf, off))
    error = np.min(errors, axis=0)
    worst = np.unravel_index(np.argmax(error), error.shape)
    at = f"[{','.join(map(str, worst))}]" if worst else ""
    detail = f"{name}{at} is {g[worst] + 0.0:.4g}, expected {wanted[0][worst] + 0.0:.4g}"
    return Comparison(name, float(error[worst]), detail)


def _shown(case: Hard, names: Sequence[str], arrays: dict[str, np.ndarray]) -> str:
    """The part of the answer that the case is about."""
    name, rows = case.show
    name = name or names[1]
    return f"{name} {_short(arrays[name][rows] if arrays[name].ndim else arrays[name])}"


def _short(array: np.ndarray) -> str:
    """The first few entries.

    >>> _short(np.array([[0.5, -0.25], [0, np.inf]]))
    '[0.5 -0.25 0 inf]'
    """
    entries = " ".join(f"{x + 0.0:.3g}" for x in array.astype(np.float64).ravel()[:SHOWN])
    return f"[{entries}{' …' if array.size > SHOWN else ''}]" if array.ndim else entries


def _described(value: Any) -> Any:
    """An input for JSON: its entries, or its dtype and shape if there are more than a few dozen."""
    leaves = jax.tree_util.tree_leaves_with_path(value)
    if len(leaves) != 1:
        return {jax.tree_util.keystr(path): _described(leaf) for path, leaf in leaves}
    array = _float64(leaves[0][1])
    if array.size > 64:
        return f"{leaves[0][1].dtype}[{','.join(map(str, array.shape))}]"
    return jax.tree.map(lambda x: x if np.isfinite(x) else str(x), array.tolist())
