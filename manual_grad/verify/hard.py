"""Judges the formulas on hard inputs: infinities, ties, nothing but zeros, subnormals, huge batches.

Autodiff cannot be the judge there, because it is wrong itself on many of them. The right answer of each case
is computed from the definition in decimals, where nothing overflows and nothing cancels
(:mod:`manual_grad_reference.oracles.decimals`), or stands in the case in closed form, with the reason. JAX's
derivatives of the obvious forward functions are shown beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.compare import TOLERANCES, Comparison
from manual_grad.compiling import quick
from manual_grad.lectures import EQUATIONS
from manual_grad_reference import oracles

Arrays = dict[str, Any]
SHOWN = 6  # how many entries of an array a line shows


def nothing_else(point: Arrays, dout: np.ndarray, right: tuple) -> Sequence[tuple]:
    """No other answer is right."""
    return ()


@dataclass(frozen=True)
class Hard:
    """One formula on one hard input.

    Attributes:
        name: what is hard about the input.
        says: what the right answer is, and why.
        pair: the formula, forward and backward.
        draw: the primals by name, in order, in float64; ``dout`` among them where the case needs its own.
        right: the right answer from the primals, exactly as the formula is given them, and the cotangent: the
            value, then one gradient for each floating-point primal.
        jax: the obvious forward functions, by what they are called.
        differs: those of them whose derivative by JAX, or value, is not the right answer.
        why: why JAX answers differently there.
        dtype: of the floating-point primals.
        show: which answer a table shows, and which of its rows.
        settings: the formula's keyword arguments.
        entrywise: whether each entry is compared by itself, not beside its array's largest.
        also: from the primals, the cotangent and the right answer, others that are right too, entry by
            entry: what a device gives that takes subnormal numbers for 0, say.
        tolerance: the largest relative error that passes, where it is not the dtype's.
    """

    name: str
    says: str
    pair: tuple[Callable, Callable]
    draw: Callable[[np.random.Generator], Arrays]
    right: Callable[[Arrays, np.ndarray], tuple]
    jax: dict[str, Callable]
    differs: tuple[str, ...] = ()
    why: str = ""
    dtype: str = "float64"
    show: tuple[str, Any] = ("", slice(None))
    settings: Arrays = field(default_factory=dict)
    entrywise: bool = False
    also: Callable[[Arrays, np.ndarray, tuple], Sequence[tuple]] = nothing_else
    tolerance: float | None = None

    @property
    def formula(self) -> str:
        """The pair's name, without what makes it forward or backward."""
        return self.pair[1].__name__.removesuffix("_bwd")

    @property
    def tags(self) -> tuple[str, ...]:
        """The equations that the formula belongs to."""
        return _tags_of(self.pair[1].__name__) or _tags_of(self.pair[0].__name__)


@cache
def _tags_of(function: str) -> tuple[str, ...]:
    return tuple(e.tag for e in EQUATIONS if any(function in claim.formulas for claim in e.claims))


@dataclass(frozen=True)
class Answer:
    """What one way of computing a case gives.

    Attributes:
        way: what it is called.
        right: whether it is the right answer.
        shown: the answer that the case shows, in a few characters.
        detail: what differs most, and where; empty where it is right.
        error: the largest relative error; None where a NaN or an infinity stands in the wrong place.
    """

    way: str
    right: bool
    shown: str
    detail: str
    error: float | None


@dataclass(frozen=True)
class HardVerdict:
    """What became of one case.

    Attributes:
        name, says, why, formula, tags, dtype: the case's.
        inputs: name → its values, or its dtype and shape where there are many.
        right: the answer that the case shows, as it should be.
        ours: the formula's answer.
        jax: JAX's, one for each of the case's forward functions.
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
def judge_hard(case: Hard, seed: int = 0) -> HardVerdict:
    """Evaluate a case: the right answer, the formula's, and JAX's.

    Args:
        case: one of :data:`manual_grad.verify.hard_cases.CASES`, or anyone's own.
        seed: decides what is random in its inputs, and the cotangent.
    Returns:
        The verdict.

    >>> import jax.numpy as jnp, numpy as np
    >>> from manual_grad.formulas.activations import relu_bwd, relu_fwd
    >>> at_0 = Hard("at 0", "0", (relu_fwd, relu_bwd), lambda rng: {"x": np.zeros(1)},
    ...     lambda point, dout: (np.zeros(1), np.zeros(1)), {"maximum": lambda x: jnp.maximum(x, 0)},
    ...     dtype="float32")
    >>> verdict = judge_hard(at_0)
    >>> verdict.passed, verdict.jax[0].right
    (True, False)
    """
    rng = np.random.default_rng([seed, *case.name.encode()])
    primals = {name: _cast(value, case.dtype) for name, value in case.draw(rng).items()}
    given = primals.pop("dout", None)
    out = jax.eval_shape(lambda p: case.pair[0](*p, **case.settings)[0], list(primals.values()))
    dout = _cast(_cotangent(rng, out.shape), case.dtype) if given is None else given
    exact = {name: jax.tree.map(_float64, value) for name, value in primals.items()}
    exact_dout = np.asarray(dout, np.float64)
    names = ("J" if out.shape == () else "out", *(f"d{name}" for name in primals if _floats(primals[name])))
    right = case.right(exact, exact_dout)
    wanted = [_by_name(names, answer) for answer in (right, *case.also(exact, exact_dout, right))]
    judge = partial(_answer, case, names, wanted)
    args = tuple(primals.values())
    ours = jax.jit(partial(_by_hand, case))(args, dout)
    ways = jax.jit(partial(_by_jax, case), compiler_options=quick())(args, dout) if case.jax else {}
    return HardVerdict(
        case.name,
        case.says,
        case.why,
        case.formula,
        case.tags,
        case.dtype,
        {name: _described(value) for name, value in (primals | {"dout": dout}).items()},
        _shown(case, names, wanted[0]),
        judge(case.formula, ours),
        tuple(judge(way, ways[way]) for way in case.jax),
    )


def _by_hand(case: Hard, primals: tuple, dout: Any) -> tuple:
    out, res = case.pair[0](*primals, **case.settings)
    return out, *case.pair[1](res, dout)


def _by_jax(case: Hard, primals: tuple, dout: Any) -> dict[str, tuple]:
    return {
        way: (forward(*primals), *oracles.reverse(forward, primals, dout))
        for way, forward in case.jax.items()
    }


def _cotangent(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random and never near 0 or 1, which would hide mistakes."""
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
    """Every array of a list of pytrees, by its place."""
    return {
        name + jax.tree_util.keystr(path): np.asarray(leaf)
        for name, answer in zip(names, answers, strict=True)
        for path, leaf in jax.tree_util.tree_leaves_with_path(answer)
    }


def _answer(case: Hard, names: Sequence[str], wanted: list[dict], way: str, got: tuple) -> Answer:
    """Hold one way's answers against the right ones."""
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
    """The largest error of one array; with several right answers, each entry by the nearest one.

    Results below the smallest normal number may be 0: XLA:CPU makes them so, except in float16.
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
    """The answer that the case shows."""
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
    """An input as JSON has it: its entries, or what it is where there are more than a few dozen."""
    leaves = jax.tree_util.tree_leaves_with_path(value)
    if len(leaves) != 1:
        return {jax.tree_util.keystr(path): _described(leaf) for path, leaf in leaves}
    array = _float64(leaves[0][1])
    if array.size > 64:
        return f"{leaves[0][1].dtype}[{','.join(map(str, array.shape))}]"
    return jax.tree.map(lambda x: x if np.isfinite(x) else str(x), array.tolist())
