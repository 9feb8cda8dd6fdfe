"""The gradient at a point compared with the truth there, and the error allowed between the two.

A gradient within a few roundings of the truth is right without further checks. Otherwise the limits are
worked out: in float64, a share of the largest entry plus the rounding error of cancelling terms; in a
narrower dtype, a budget for each entry. If a budget exceeds that share, the function's own gradient is mostly
rounding error in that dtype, and the gradient is checked again in float64.
"""

import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from manual_grad.border import InputError
from manual_grad.checker.asking import Question, gradients, like, one_line, widened
from manual_grad.checker.truth import (
    IN_NUMPY,
    Point,
    answered,
    at_values,
    budget,
    exact,
    is_float,
    is_key,
    native,
    pulled,
)
from manual_grad.compare import TOLERANCES, share_of

SLACK = {  # in a narrower dtype: the error allowed, in budgets of the entry and in ulps of the largest
    "float32": (4.0, 8.0),
    "bfloat16": (1.0, 2.0),
    "float16": (1.0, 2.0),
}
CAST = 0.1  # of the largest entry: allowed if the code casts to a narrower dtype and is ill-conditioned there
SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # in JAX's programs
CANCELLED = 1e-10  # relative to the terms: in float64, a smaller error may be rounding
Where = tuple[tuple[int, ...], float, float]


@dataclass(frozen=True, eq=False)
class Answer:
    """The user's gradient at one point, and the truth there.

    Attributes:
        values: the leaves of the arguments.
        cotangent: the output's cotangent.
        gots: the gradient with respect to each leaf of ``wrt``; None if none was returned.
        point: the same question in float64.
        outs: the function's outputs there.
        wants: the true gradient with respect to each leaf.
        dtypes: the precision required of each leaf.
        limits: the absolute error allowed in each leaf, once it has been worked out.
        ill: the leaves that are ill-conditioned in their dtype.
        least: the dtype to which constants in the user's code may have been rounded.
        again: the result of a second, identical call.
        wide: the same in float64, if a leaf is ill-conditioned.
        kept: values that the diagnosis computes only once.
    """

    values: Sequence[Any]
    cotangent: Any
    gots: list[Any]
    point: Point
    outs: list[Any]
    wants: list[np.ndarray]
    dtypes: list[str]
    limits: dict[int, Any] = field(default_factory=dict)
    ill: set[int] = field(default_factory=set)
    least: str = "float64"
    again: list[list[Any]] = field(default_factory=list)
    wide: list["Answer"] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def finite(self) -> int:
        """The number of finite entries in the truth."""
        return sum(int(np.isfinite(want).sum()) for want in self.wants)

    @property
    def size(self) -> float:
        """The magnitude of the terms that are summed, as far as it can be seen from outside."""
        summed = [np.asarray(o) * np.asarray(d) for o, d in zip(self.outs, self.point.dout, strict=True)]
        return max(map(largest_of, [*self.wants, *summed]))

    def replies(self) -> list["Answer"]:
        """All results at this point, each as an answer of its own."""
        return [replace(self, gots=gots) for gots in (self.gots, *self.again)]


def compared(question: Question, values: Sequence[Any], cotangent: Any, gots: list[Any]) -> Answer:
    """Pair a gradient at a point with the truth."""
    with exact():
        dout = [leaf for leaf in jax.tree.leaves(cotangent) if is_float(leaf)]
        point = question.point(values, dout)
        if _needs_numbers(question, point):
            point = question.point(values, dout)
        outs, wants = _truth(question, point)
    given = [question.values[i] for i in question.wrt]
    dtypes = [checked_dtype(got, value) for got, value in zip(gots, given, strict=True)]
    return Answer(values, cotangent, gots, point, outs, wants, dtypes)


def _needs_numbers(question: Question, point: Point) -> bool:
    """Whether the function can be traced only if integers and booleans are NumPy's, such as a loop's length.

    JAX traces what is done with an array of its own, even where its values are known.
    """
    others = [v for v in point.values if isinstance(v, jax.Array) and not (is_float(v) or is_key(v))]
    if question.foreign is not None or not others or question.compiled.keys() & {"shapes", IN_NUMPY}:
        return False
    try:
        question.compiled["shapes"] = jax.eval_shape(point.forward, *point.at)
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
        question.compiled[IN_NUMPY] = True
        return True
    except Exception:  # reported when the truth is computed
        return False
    return False


def _truth(question: Question, point: Point) -> tuple[list[Any], list[np.ndarray]]:
    """JAX's value and gradient, or a one-line error that says why there is none."""
    if question.foreign is not None:
        return answered(point)
    keyword = "against" if question.scalar else "reference"
    try:
        out = question.compiled.get("shapes")
        if out is None:
            out = question.compiled["shapes"] = jax.eval_shape(point.forward, *point.at)
        if out and [o.shape for o in out] == [np.shape(d) for d in point.dout]:
            return answered(point)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's function may raise anything
        if question.fn_name in ("loss", "fwd"):
            raise InputError(
                f"{question.who}: {question.fn_name} cannot be traced by JAX ({untraceable(error)}); "
                f"give a JAX version of it, or the name of a formula, as {keyword}="
            ) from error
        raise InputError(f"{question.who}: {question.fn_name} raised {one_line(error)}") from error
    shapes = ", ".join(str(o.shape) for o in out) or "no floating-point output"
    own = ", ".join(str(np.shape(d)) for d in point.dout)
    raise InputError(f"{question.who}: {question.fn_name} returned {shapes}, expected {own}")


def untraceable(error: BaseException) -> str:
    """Why a function cannot be traced: the error's type, the user's line, and what to write instead.

    >>> try:
    ...     jax.make_jaxpr(lambda x: np.exp(x))(1.0)
    ... except jax.errors.JAXTypeError as error:
    ...     print(untraceable(error).partition(" at ")[0])
    TracerArrayConversionError: np.exp of a traced array
    """
    kind, home = type(error).__name__, str(Path(__file__).parents[1])
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(home)]
    if not own:
        return kind
    at = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    calls = list(dict.fromkeys(re.findall(r"\b(?:np|numpy)\.([\w.]+)\(", own[-1].line or "")))
    if not calls or not isinstance(error, jax.errors.TracerArrayConversionError):
        return f"{kind} at {at}"
    return f"{kind}: np.{', np.'.join(calls)} of a traced array at {at}: write jnp.{', jnp.'.join(calls)}"


def checked_dtype(got: Any, argument: Any) -> str:
    """The precision required of a gradient: the coarser of its own and the argument's."""
    names = [_dtype(argument), _dtype(got) if got is not None and is_float(got) else "float64"]
    return max(names, key=lambda name: TOLERANCES[name])


def _dtype(value: Any) -> str:
    name = "float64" if type(value) is float else native(value.dtype).name
    return name if name in TOLERANCES else "float64"


def as_float64(got: Any) -> np.ndarray:
    """The gradient in float64; the real part if it is complex."""
    found = np.asarray(got)
    return (found.real if found.dtype.kind == "c" else found).astype(np.float64)


def largest_of(array: np.ndarray) -> float:
    """The largest magnitude among the finite entries."""
    return float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array)))


# --- the error allowed ------------------------------------------------------------------------------------


def checked(answer: Answer, leaf: int) -> tuple[bool, float, Where | None]:
    """Whether a leaf is right at a point, its relative error, and where it is worst."""
    return within(answer, leaf, answer.gots[leaf], answer.wants[leaf])


def within(
    answer: Answer, leaf: int, got: Any, want: np.ndarray, times: float = 1.0
) -> tuple[bool, float, Where | None]:
    """Whether an array agrees with another up to the error allowed, multiplied by a factor.

    Returns:
        Whether it does, the largest relative error, and where the error is worst: index, got, wanted.
    """
    if leaf not in answer.limits:
        found = difference(got, want, times * _roundings(answer, leaf))
        if found[0] or found[2] is None:
            return found
        with exact():
            answer.limits[leaf] = _limits(answer, leaf, got)
    return difference(got, want, times * answer.limits[leaf])


def difference(got: Any, want: np.ndarray, allowed: Any) -> tuple[bool, float, Where | None]:
    """Whether an array agrees with another where that is finite, the error, and where it is worst."""
    if got is None or np.shape(got) != want.shape:
        return False, float("inf"), None
    if not want.size:
        return True, 0.0, None
    g, known = as_float64(got), np.isfinite(want)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        off = np.where(known & (g != want), np.abs(g - want), 0.0)
        off = np.where(np.isnan(off), np.inf, off)
        shares = share_of(off, allowed)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(shares), shares.shape))
    error = float(np.max(off)) / (largest_of(want) or 1.0)
    return bool(np.all(off <= allowed)), error, (at, float(g[at]), float(want[at]))


def _roundings(answer: Answer, leaf: int) -> float:
    """The error that is always allowed: a share of the largest entry in float64, else some ulps."""
    dtype, largest = answer.dtypes[leaf], largest_of(answer.wants[leaf])
    if dtype == "float64":
        return TOLERANCES["float64"] * largest
    info = jnp.finfo(dtype)
    return SLACK[dtype][1] * float(info.eps) * largest + float(info.tiny)


def _limits(answer: Answer, leaf: int, got: Any) -> Any:
    """The absolute error allowed in each entry; records whether the leaf is ill-conditioned."""
    dtype, least = answer.dtypes[leaf], _roundings(answer, leaf)
    coarse = max((TOLERANCES.get(o.dtype.name, 0.0) for o in answer.outs), default=0.0)
    if dtype == "float64":
        coarse = max(coarse, TOLERANCES[computed_in(answer)])
    share = max(TOLERANCES[dtype], coarse) * largest_of(answer.wants[leaf])
    if dtype == "float64":
        return _in_doubt(answer, leaf, got, share + _noise(answer, leaf))
    if coarse > TOLERANCES[dtype]:
        return share
    spread = budget(answer.point, dtype)[leaf]
    spread = np.nan_to_num(spread, nan=0.0, posinf=float(jnp.finfo(dtype).max))
    if np.any(spread > share):
        answer.ill.add(leaf)
        return np.maximum(share, 2 * spread)
    return np.minimum(share, SLACK[dtype][0] * spread) + least


def computed_in(answer: Answer) -> str:
    """The coarsest dtype in which the function computes anything from its arguments in float64.

    Such as a mean of booleans; a constant of a narrower dtype does not count.
    """
    if "computed in" not in answer.kept:
        point = answer.point
        foreign = point.foreign is not None
        found = [] if foreign else [*_narrower(jax.make_jaxpr(point.forward)(*point.at).jaxpr)]
        answer.kept["computed in"] = max(found, key=lambda name: TOLERANCES[name], default="float64")
    return answer.kept["computed in"]


def _narrower(jaxpr: Any) -> Iterator[str]:
    """The dtypes narrower than float64 of what depends on the inputs; inside a loop, of everything."""
    active = set(jaxpr.invars)
    for eqn in jaxpr.eqns:
        if active.isdisjoint(x for x in eqn.invars if not isinstance(x, Literal)):
            continue
        active.update(eqn.outvars)
        inside = str(eqn) if any(hasattr(getattr(p, "jaxpr", p), "eqns") for p in eqn.params.values()) else ""
        own = {x.aval.dtype.name for x in eqn.outvars if hasattr(x.aval, "dtype")}
        yield from (name for name, short in SHORT.items() if name in own or f":{short}[" in inside)


def allowance(answer: Answer) -> list[str]:
    """A note on errors that are allowed because the function itself computes in a narrower dtype."""
    if "float64" not in answer.dtypes:
        return []
    with exact():
        name = computed_in(answer)
    if name not in SLACK:
        return []
    return [
        f"the function computes in {name}: errors up to {TOLERANCES[name]:.2g} of the largest are allowed"
    ]


def _noise(answer: Answer, leaf: int) -> float:
    """The error of JAX's own gradient in float64 at inputs moved by one rounding error, within limits."""
    eps = float(jnp.finfo(jnp.float64).eps)

    def moved() -> list[np.ndarray]:
        rng, values = np.random.default_rng(0), list(answer.point.values)
        for i, value in enumerate(values):
            if is_float(value):
                values[i] = jnp.asarray(np.asarray(value) * (1 + eps * rng.choice([-1, 1], np.shape(value))))
        return pulled(at_values(answer.point, values))

    if "moved" not in answer.kept:
        answer.kept["moved"] = moved()
    near, want = answer.kept["moved"][leaf], answer.wants[leaf]
    off = difference(np.where(np.isfinite(near), near, want), want, np.inf)[1] * (largest_of(want) or 1.0)
    return min(4 * off, 1e-3 * largest_of(want) + 64 * eps * answer.size)


def _in_doubt(answer: Answer, leaf: int, got: Any, allowed: Any) -> Any:
    """The error allowed in float64 if it is too large for the truth but small compared with the terms summed.

    Where terms cancel, the truth itself is a rounding error; the error budget knows the size of the terms,
    unless the program is so long that the budget allows anything.
    """
    right, error, where = difference(got, answer.wants[leaf], allowed)
    limit = CANCELLED * answer.size
    if right or where is None or error * (largest_of(answer.wants[leaf]) or 1.0) > limit:
        return allowed
    spread = 2 * budget(answer.point, "float64")[leaf]
    return np.maximum(allowed, np.where(spread <= limit, spread, 0.0))


def in_float64(question: Question, answer: Answer) -> Answer | None:
    """The same in float64, for the leaves that are ill-conditioned in a narrower dtype.

    This checks the formula rather than its rounding: constants may have been rounded to float32. None if the
    user's functions do not accept float64.
    """
    try:
        with exact():
            values = [widened(value) for value in answer.values]
            reply = question.ask(question.args_of(values), lambda out: like(answer.cotangent, out))
            gots = gradients(question, reply.got)
    except InputError:
        return None
    dtypes = ["float64" if got is None or not is_float(got) else _dtype(got) for got in gots]
    wide = replace(
        answer, values=values, gots=gots, dtypes=dtypes, least="float32", limits={}, again=[], wide=[]
    )
    with exact():
        for leaf, dtype in enumerate(dtypes):
            largest = largest_of(wide.wants[leaf])
            allowed = max(TOLERANCES[dtype], TOLERANCES["float32"]) * largest + _noise(wide, leaf)
            if dtype != "float64":
                allowed = np.maximum(allowed, np.minimum(answer.limits.get(leaf, 0.0), CAST * largest))
            wide.limits[leaf] = _in_doubt(wide, leaf, gots[leaf], allowed)
    return wide
