"""Decide which gradients are right: call the user's functions repeatedly and compare with the truth.

They are called at the given point and at points near it, twice at each, since the same call must give the
same result. The backward half of a pair is also called with a cotangent of 0, with a multiple of the
cotangent, and with other memory layouts.
"""

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.border import InputError
from manual_grad.checker import nearby
from manual_grad.checker.answers import (
    Answer,
    Where,
    allowance,
    as_float64,
    checked,
    compared,
    computed_in,
    in_float64,
    largest_of,
    within,
)
from manual_grad.checker.asking import Question, arranged, broadcast, copies, drawn, gradients, scaled
from manual_grad.checker.diagnosis import OUT_OF_TIME, UNEXPLAINED, diagnose
from manual_grad.checker.edits.search import SLOW, Search, search_of
from manual_grad.checker.evidence import Evidence, same
from manual_grad.checker.findings import Finding, Report
from manual_grad.checker.mistakes.explain import located
from manual_grad.checker.narrowing import narrowed
from manual_grad.checker.truth import Point, answered, exact, native
from manual_grad.compare import TOLERANCES

FIT = {"float64": 1e-9, "float32": 1e-4}  # relative error up to which a known mistake matches
LARGER = {"float16": 4.0}  # the multiple of the cotangent for which the result must be the same multiple
IMPRECISE = 1e-2  # an unexplained error below this is one of precision
TOLD = 0.1  # per cent: report the error of JAX's own gradient from here on
SEARCHED = (1.2, 1.5, 0.5)  # seconds to look for an edit: before the cause, more if it is unknown, or known
VAGUE = (  # causes that describe the error
    "is passed back instead of the right term",
    "are taken for each other",
    "the right numbers in the wrong places",
    "is not a size of the problem",
    "in some entries",
    "are left out, in what flows back",
    "paths are missing",
    "a path is missing in two places",
    "this is the gradient of another value",
)
FURTHER = 5  # points at which an edit that is found is tried again
WITH_EDIT = 1.5  # seconds to look for the cause in other words, where an edit is known
UNTOLD = (UNEXPLAINED, OUT_OF_TIME)
NOTHING = 1e-12  # relative to the terms: a truth below this is negligible


@dataclass(frozen=True, eq=False)
class Probe:
    """The backward half, called at the given point with another cotangent.

    Attributes:
        says: the message if the result is not the expected one.
        gots: the result for each leaf.
        wants: the expected result for each leaf; None if the first answer was None.
        times: the multiple of the first cotangent.
        raised: whether the call raised instead.
    """

    says: str
    gots: list[Any]
    wants: list[Any]
    times: float = 1.0
    raised: bool = False


def verdict(
    question: Question, seed: int, draws: int, value: list[Any], written: Sequence[str] = ()
) -> Report:
    """Check the gradient at the given point and near it, and report.

    Args:
        question: the subject of the check.
        seed: seed for the points near the given one and for the cotangents.
        draws: the number of points.
        value: computes the value of the user's own function.
        written: what calls have modified so far.
    Returns:
        The report.
    Raises:
        InputError: the user's functions cannot be called, or JAX cannot compute the truth.
    """
    rng = np.random.default_rng(seed)
    notes = list(written)
    given = _answer(question, question.values, drawn(rng), notes)
    with exact(), _named(question.who):
        about = nearby.alike(given.point) + _value_notes(question, given, value)
        kinks, disagreements = nearby.kinks(given.point, given.wants, rng, question.knows)
        on_the_kink, beyond = _on_the_kink(question, given, kinks)
    names = question.leaf_names
    about += [f"{names[i]} sits on a kink: {what}; checked near it instead" for i, what in kinks.items()]
    about += [f"{names[i]}: {what}; checked near it instead" for i, what in disagreements.items()]
    notes = [*about, *on_the_kink, *notes]
    near = [_near(question, given, rng, (), notes) for _ in range(draws - 1)]
    plain = [given, *(answer for answer in near if answer)]
    doubtful = {**kinks, **disagreements}
    moved = (
        [_near(question, given, rng, tuple(doubtful), notes) for _ in range(max(draws - 1, 1))]
        if doubtful
        else []
    )
    off = [answer for answer in moved if answer]
    for answer in reversed([*plain, *off]):
        answer.again.append(_asked_again(question, answer, notes))
        for reply, leaf in itertools.product(answer.replies(), range(len(question.wrt))):
            checked(reply, leaf)
        if answer.ill:
            answer.wide.extend(filter(None, [in_float64(question, answer)]))
    probes = [] if question.scalar else [*_probes(question, given, rng, notes)]
    used = [off or plain if i in doubtful else plain for i in question.wrt]
    search = _search(question, given, used, tuple(doubtful))
    findings = []
    soon = replace(question, until=min(question.until, time.monotonic() + WITH_EDIT))
    for leaf, answers in enumerate(used):
        asked = soon if search and search.said(leaf) else question
        findings.append(_finding(asked, leaf, answers, given, probes, beyond.get(leaf), notes))
    findings = _with_edits(question, search, findings)
    notes += (
        allowance(given)
        + _unmoved(question, plain, draws)
        + _nothing_to_tell(question, [*plain, *off], findings)
    )
    points = len({tuple(map(_bytes, answer.values)) for answer in plain})
    return Report(tuple(findings), tuple(dict.fromkeys(notes)), points, seed, question.truth)


def _search(
    question: Question, given: Answer, used: Sequence[Sequence[Answer]], doubtful: tuple[int, ...]
) -> Search | None:
    """The search for an edit of the user's code that makes the wrong leaves right; None if none is wrong."""
    wrong = [
        leaf
        for leaf, answers in enumerate(used)
        if not all(checked(reply, leaf)[0] for answer in answers for reply in answer.replies())
    ]
    search = None
    half = (time.monotonic() + question.until) / 2  # the rest is for the cause in other words
    if wrong and SEARCHED[0] and question.until > time.monotonic():
        further = partial(_further, question, given, doubtful)
        search = search_of(question, used[wrong[0]], wrong, further, half)
    if search is not None:
        search.go_on(SEARCHED[0], half)
    return search


def _further(question: Question, given: Answer, doubtful: tuple[int, ...]) -> list[Answer]:
    """The answers at more points, where an edit must be right too, as many as take little time."""
    rng = np.random.default_rng(FURTHER)
    found: list[Answer] = []
    end = time.monotonic() + SLOW
    while len(found) < FURTHER and time.monotonic() < end:
        answer = _near(question, given, rng, doubtful, [])
        if answer is None:
            break
        found.append(answer)
    return found


def _with_edits(question: Question, search: Search | None, findings: list[Finding]) -> list[Finding]:
    """The findings with the edits that make them right, first where a cause is unknown or says little."""
    if search is None:
        return findings
    left = [f for leaf, f in enumerate(findings) if not f.ok and not search.said(leaf)]
    if left:
        search.go_on(SEARCHED[1 if any(map(_says_little, left)) else 2], question.until)
    found = []
    for leaf, finding in enumerate(findings):
        edit = "" if finding.ok else search.said(leaf)
        said = finding.diagnosis
        if edit and said.startswith(UNTOLD):
            said = edit
        elif edit and _says_little(finding):
            said = f"{edit}; {said}"
        found.append(replace(finding, edit=edit, diagnosis=said))
    return found


def _says_little(finding: Finding) -> bool:
    """Whether a cause is unknown, or describes the error rather than the mistake."""
    return finding.diagnosis.startswith(UNTOLD) or any(said in finding.diagnosis for said in VAGUE)


@contextlib.contextmanager
def _named(who: str) -> Iterator[None]:
    """Make errors raised deep inside begin with the public function that was called."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(who) else f"{who}: {error}") from None


# --- answers ----------------------------------------------------------------------------------------------


def _answer(
    question: Question, values: Sequence[Any], cotangent: Callable[[Any], Any], notes: list[str]
) -> Answer:
    """The gradient at a point, and the truth there."""
    reply = question.ask(question.args_of(values), cotangent)
    notes += reply.modified
    return compared(question, values, reply.cotangent, gradients(question, reply.got))


def _near(
    question: Question, given: Answer, rng: np.random.Generator, kinks: tuple[int, ...], notes: list[str]
) -> Answer | None:
    """The answer at a point near the given one, or closer to it if the functions are undefined there.

    All arguments in ``wrt`` move, unless the functions are defined nowhere else.
    """
    found, why = None, None
    for moving, reach in ((question.wrt, 1.0), (question.wrt, 0.1), ((), 1.0)):
        values = nearby.nearby(question.values, rng, kinks, moving, reach)
        try:
            answer = _answer(question, values, drawn(rng), notes)
        except InputError as error:
            why = error
            continue
        if answer.finite >= given.finite:
            return answer
        found = max(found or answer, answer, key=lambda answer: answer.finite)
    if found is None:
        notes.append(f"a point near the given one could not be checked: {why}")
    return found


def _asked_again(question: Question, answer: Answer, notes: list[str]) -> list[Any]:
    """The result of calling again with the same arguments and cotangent."""
    reply = question.ask(question.args_of(answer.values), lambda out: copies(answer.cotangent))
    notes += reply.modified
    return gradients(question, reply.got)


def _probes(question: Question, given: Answer, rng: np.random.Generator, notes: list[str]) -> Iterator[Probe]:
    """The results for a cotangent of 0, for a multiple of it, and for other memory layouts."""
    dtype = max((o.dtype.name for o in jax.tree.leaves(given.cotangent) if hasattr(o, "dtype")), default="")
    larger = -LARGER.get(dtype, 1024.0)
    asked: list[tuple[str, float, str, Any]] = [
        ("not 0 for a cotangent of 0: a part of it does not depend on the cotangent", 0.0, "", None),
        (
            f"not linear in the cotangent: not {larger:g} times as large for {larger:g} times the cotangent",
            larger,
            "",
            None,
        ),
    ]
    wrong = "wrong where the cotangent is {}: it is read in memory order, not by its axes"
    repeats = "broadcast, with strides of 0,"
    layouts = {f"{how} in memory": tree for how, tree in arranged(given.cotangent).items()}
    asked += [(wrong.format(layout), 1.0, layout, tree) for layout, tree in layouts.items()]
    for says, factor, layout, tree in asked:
        other = scaled(given.cotangent, factor) if tree is None else tree
        gots = _asked_for(question, given, other, notes, layout)
        if isinstance(gots, Probe):
            yield gots
        elif gots is not None:
            with np.errstate(invalid="ignore", over="ignore"):  # 0 · ∞
                wants = [None if got is None else _times(factor, got) for got in given.gots]
            yield Probe(says, gots, wants, max(abs(factor), 1.0))
    repeated = broadcast(given.cotangent)
    dense = None if repeated is None else _asked_for(question, given, copies(repeated, "C"), notes)
    gots = None if dense is None else _asked_for(question, given, repeated, notes, repeats)
    if isinstance(gots, Probe):
        yield gots
    elif isinstance(dense, list) and gots is not None:
        wants = [None if got is None else as_float64(got) for got in dense]
        yield Probe(wrong.format(repeats), gots, wants)


def _times(factor: float, got: Any) -> np.ndarray:
    """A gradient times a number; NaN, which is not compared, where its dtype holds no number so large."""
    product, dtype = factor * as_float64(got), np.asarray(got).dtype
    most = float(jnp.finfo(dtype).max) if jnp.issubdtype(dtype, jnp.floating) else np.inf
    return np.where(np.abs(product) > most, np.nan, product)


def _asked_for(question: Question, given: Answer, cotangent: Any, notes: list[str], layout: str = "") -> Any:
    """The result for a cotangent; if the call raises, a probe that says so where that is a mistake, or None.

    Where it is none, it is noted, unless the call modifies a read-only cotangent.
    """
    try:
        reply = question.ask(question.args_of(given.values), lambda out: cotangent)
    except InputError as error:
        if layout and question.in_any_layout:
            said = str(error).removeprefix(f"{question.who}: ")
            empty: list[Any] = [None] * len(question.wrt)
            return Probe(
                f"raises where the cotangent is {layout.strip(',')}: {said}", empty, empty, raised=True
            )
        if "read-only" not in str(error):
            notes.append(f"another cotangent could not be tried: {error}")
        return None
    return gradients(question, reply.got)


# --- the report -------------------------------------------------------------------------------------------


def _finding(
    question: Question,
    leaf: int,
    answers: list[Answer],
    given: Answer,
    probes: Sequence[Probe],
    beyond: tuple[str, float, Where] | None,
    notes: list[str],
) -> Finding:
    """The finding for one leaf."""
    index = question.wrt[leaf]
    argument, name = question.owners[index], question.leaf_names[index]
    dtype = _wrong_dtype(given.gots[leaf], question.values[index])
    if dtype and question.scalar and _is_wider(given.gots[leaf], question.values[index]):
        notes.append(
            f"{name} is {question.values[index].dtype}, its gradient {np.asarray(given.gots[leaf]).dtype}"
        )
        dtype = ""
    if not any(np.isfinite(answer.wants[leaf]).any() for answer in answers):
        own = f"{question.knows}'s own gradient"
        why = f"{own} is NaN or infinite at every point: there is nothing to compare with"
        return Finding(argument, name, False, why, float("nan"), None)
    notes += _not_compared(question, name, [given, *answers], leaf)
    replies = [reply for answer in answers for reply in answer.replies()]
    if any(leaf in answer.ill and answer.wide for answer in answers):
        replies, worse = _replies_in_float64(question, replies, leaf)
        notes += worse and [f"{name} is ill-conditioned in {worse}; checked in float64"]
    found = [checked(reply, leaf) for reply in replies]
    wrong = [reply for reply, (right, *_) in zip(replies, found, strict=True) if not right]
    worst = max(found, key=lambda entry: entry[1])
    unsteady = next(filter(None, (_unsteady(answer, leaf) for answer in (given, *answers))), None)
    if unsteady is not None:
        return Finding(argument, name, False, *unsteady)
    probed = next(filter(None, (_probed(given, probe, leaf) for probe in probes)), None)
    if wrong:
        if not any(reply.point is given.point for reply in wrong) and given in answers:
            notes.append(f"{name} is right at the given point and wrong near it")
        once = list({id(reply.point): reply for reply in wrong}.values())
        with exact():
            telling = [reply for reply in once if _tells(reply, leaf)] or once
            evidence = [_evidence(question, reply, leaf) for reply in telling]
            diagnosis = diagnose(evidence)
        if probed is not None and not re.search("cotangent|^zero$", diagnosis):
            diagnosis = probed[0] if diagnosis in UNTOLD else f"{diagnosis}; {probed[0]}"
        small = diagnosis in UNTOLD and worst[1] < IMPRECISE
        if small and min(e.tolerance for e in evidence) > FIT["float64"]:
            diagnosis = "imprecise: the error is too large for rounding and too small for a known mistake"
        if not dtype and diagnosis in UNTOLD:
            if note := next((note for note in notes if "was modified by" in note), ""):
                diagnosis = f"{diagnosis}; {note}, and what it computes after that is for the new values"
            with exact():
                clues = narrowed(evidence), located(evidence)
            few = "the error is small: an ε in another place or of another size, or too few digits"
            diagnosis = "; ".join(filter(None, [diagnosis, few if small else "", *clues]))
        if dtype:
            diagnosis = dtype if diagnosis in UNTOLD else f"{diagnosis}; also {dtype}"
        return Finding(argument, name, False, diagnosis, *worst[1:])
    for said in (beyond, probed):
        if said is not None:
            return Finding(argument, name, False, *said)
    return Finding(argument, name, not dtype, dtype, max(_error(reply, leaf) for reply in replies), None)


def _error(reply: Answer, leaf: int) -> float:
    """The relative error of a right gradient; relative to the terms if almost all of them cancel."""
    error, largest = checked(reply, leaf)[1], largest_of(reply.wants[leaf])
    return error * (largest or 1.0) / reply.size if largest <= NOTHING * reply.size and reply.size else error


def _replies_in_float64(question: Question, replies: list[Answer], leaf: int) -> tuple[list[Answer], str]:
    """The replies accurate enough to judge, float64 ones in place of the others, and a note about that.

    Results in the narrower dtype must still lie within their budgets.
    """
    found: list[Answer] = []
    said = ""
    for reply in replies:
        if leaf not in reply.ill or not reply.wide:
            found.append(reply)
            continue
        found += [*reply.wide] if checked(reply, leaf)[0] else [reply]
        largest = largest_of(reply.wants[leaf])
        if largest > NOTHING * reply.size and not said:
            off = min(100 * float(np.max(reply.limits[leaf])) / 2 / largest, 100.0)
            if off >= TOLD:
                digits = f"{off:.0f}" if off >= 10 else f"{off:.2g}"
                said = f"{reply.dtypes[leaf]} here: {question.knows}'s own gradient may be {digits} % off"
    return found, said


def _unsteady(answer: Answer, leaf: int) -> tuple[str, float, Where | None] | None:
    """The message if the same call gave a different result the second time, by more than rounding."""
    first = answer.gots[leaf]
    for second in answer.again:
        got = second[leaf]
        if (first is None) != (got is None) or (first is not None and np.shape(first) != np.shape(got)):
            return "differs from call to call, in shape", float("inf"), None
        if first is None:
            continue
        same, error, where = within(answer, leaf, got, as_float64(first), times=2)
        if not same and where is not None:
            index, then, before = where
            said = f"differs from call to call: for the same arguments got {before:.6g}, then {then:.6g}"
            return said, error, (index, then, float(answer.wants[leaf][index]))
    return None


def _probed(given: Answer, probe: Probe, leaf: int) -> tuple[str, float, Where | None] | None:
    """The diagnosis from a probe of a leaf; None if the result is the expected one."""
    want = probe.wants[leaf]
    if probe.raised and given.gots[leaf] is not None:
        return probe.says, float("inf"), None
    if want is None:
        return None
    right, error, where = within(given, leaf, probe.gots[leaf], want, 2 * probe.times)
    return None if right else (probe.says, error, where)


def _not_compared(question: Question, name: str, answers: Sequence[Answer], leaf: int) -> list[str]:
    """A note if the truth is NaN or infinite in some entries."""
    for answer in answers:
        unknown = ~np.isfinite(answer.wants[leaf])
        if unknown.any():
            at = np.argwhere(unknown)[0]
            index = f", such as [{','.join(map(str, at))}]" if len(at) else ""
            of = f"{unknown.sum()} of {unknown.size} entries" if unknown.size > 1 else "its only entry"
            where = "at the given point" if answer is answers[0] else "near it"
            return [
                f"{name}: {question.knows}'s own gradient is NaN or infinite in {of} {where}{index}; "
                "not compared there"
            ]
    return []


def _unmoved(question: Question, answers: Sequence[Answer], draws: int) -> list[str]:
    """A note for each leaf of ``wrt`` that is the same at all points."""
    return [
        f"{question.leaf_names[i]} was never varied: right for these numbers does not mean right for others"
        for i in question.wrt
        if draws > 1 and len({_bytes(answer.values[i]) for answer in answers}) == 1
    ]


def _nothing_to_tell(question: Question, answers: Sequence[Answer], findings: Sequence[Finding]) -> list[str]:
    """A note for each leaf that never affects the function's value."""
    return [
        f"{question.leaf_names[i]}: the true gradient is 0 at every point, or negligible compared with the "
        "output, so nothing can be concluded: many wrong gradients are 0 there too"
        for leaf, i in enumerate(question.wrt)
        if findings[leaf].ok
        and all(np.all(np.abs(answer.wants[leaf]) <= NOTHING * answer.size) for answer in answers)
    ]


def _bytes(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


def _value_notes(question: Question, given: Answer, value: list[Any]) -> list[str]:
    """A note if the checked function and the one that it is compared with differ in value."""
    own = question.fn_name in ("loss", "fwd")
    for mine, theirs in zip(value, given.outs, strict=not own):
        got, want = as_float64(mine), as_float64(theirs)
        if np.max(np.abs(got - want)) > 0.03 * np.max(np.abs(want)):
            at = f"{got.flat[0]:.4g} and {want.flat[0]:.4g}"
            if not own:
                return [
                    f"the function and the one it is compared with ({question.fn_name}) differ in value: {at}"
                ]
            if "random_bits" in str(jax.make_jaxpr(given.point.forward)(*given.point.at)):
                raise InputError(
                    f"{question.who}: {question.fn_name} draws random numbers, which differ in float64, "
                    f"where its gradient is computed ({at}); pass them as an argument, or enable "
                    "jax_enable_x64 and pass float64"
                )
    return []


def _on_the_kink(
    question: Question, given: Answer, kinks: dict[int, str]
) -> tuple[list[str], dict[int, tuple[str, float, Where]]]:
    """Differences from JAX at a kink: a note where the gradient may also be right; elsewhere it is wrong."""
    notes, beyond = [], {}
    for leaf, i in enumerate(question.wrt):
        got, want = given.gots[leaf], given.wants[leaf]
        if i not in kinks or got is None or np.shape(got) != want.shape:
            continue
        right, error, where = checked(given, leaf)
        if right or where is None:
            continue
        g = as_float64(got)
        said = nearby.outside(given.point, leaf, g, want, given.limits[leaf])
        if said is not None:
            at, why = said
            beyond[leaf] = (why, error, (at, float(g[at]), float(want[at])))
            continue
        at = where[0]
        index = f" at [{','.join(map(str, at))}]" if at else ""
        notes.append(
            f"{question.leaf_names[i]}: on the kink itself got {g[at]:.6g}, {question.truth} has "
            f"{want[at]:.6g}{index}: a mask with ≥ for > (or > for ≥) explains this difference"
        )
    return notes, beyond


def _wrong_dtype(got: Any, argument: Any) -> str:
    """The message for a wrong dtype; a Python number is accepted for any scalar."""
    if got is None or type(got) in (int, float) or type(argument) is float:
        return ""
    wanted = native(argument.dtype)
    found = native(np.asarray(got).dtype)
    right = found in (wanted, np.dtype(jax.dtypes.canonicalize_dtype(wanted)))
    return "" if right else f"wrong dtype: got {found}, expected {wanted}"


def _is_wider(got: Any, argument: Any) -> bool:
    """Whether a gradient has a wider floating-point dtype than its argument, as NumPy's promotion gives."""
    found, wanted = (jnp.dtype(np.asarray(x).dtype) for x in (got, argument))
    floats = all(jnp.issubdtype(dtype, jnp.floating) for dtype in (found, wanted))
    return floats and found.itemsize > wanted.itemsize


def _fit(answer: Answer, leaf: int) -> float:
    """The relative error up to which a mistake matches: smaller if the gradient is only slightly wrong."""
    outs = [o.dtype.name for o in answer.outs if o.dtype.name in TOLERANCES]
    known = (answer.dtypes[leaf], answer.least, computed_in(answer), *outs)
    dtype = max(known, key=lambda name: TOLERANCES[name])
    fit = FIT.get(dtype, TOLERANCES[dtype] / 2)
    error = checked(answer, leaf)[1]
    return fit if error > 4 * fit else max(error / 20, 4 * float(jnp.finfo(dtype).eps))


def _tells(answer: Answer, leaf: int) -> bool:
    """Whether rounding leaves the truth at a point accurate enough to tell mistakes apart."""
    allowed = np.max(answer.limits.get(leaf, 0.0))
    return bool(allowed <= _fit(answer, leaf) * largest_of(answer.wants[leaf]))


def _in_jax(question: Question, answer: Answer) -> Point:
    """The question at a point for a function translated to JAX, if that computes the same there."""
    if question.foreign is None or "in JAX" in answer.kept:
        return answer.kept.get("in JAX", answer.point)
    answer.kept["in JAX"] = answer.point
    with contextlib.suppress(Exception):  # PyTorch may have taken another branch here
        if (fn := question.translated()) is not None:
            point = replace(answer.point, fn=fn, foreign=None, compiled=question.compiled)
            outs, wants = answered(point)
            pairs = [*zip(outs, answer.outs, strict=True), *zip(wants, answer.wants, strict=True)]
            if all(same(np.asarray(a), as_float64(b), FIT["float64"]) for a, b in pairs):
                answer.kept["in JAX"] = point
    return answer.kept["in JAX"]


def _evidence(question: Question, answer: Answer, leaf: int) -> Evidence:
    gots = [None if got is None else as_float64(got) for got in answer.gots]
    names = [question.leaf_names[i] for i in question.wrt]
    tolerance = _fit(answer, leaf)
    unknown = ~np.isfinite(answer.wants[leaf])
    got = gots[leaf]
    hidden = unknown if unknown.any() and got is not None and got.shape == unknown.shape else None
    return Evidence(
        leaf,
        gots,
        answer.wants,
        names,
        _in_jax(question, answer),
        tolerance,
        question.scalar,
        answer.kept,
        hidden,
        until=question.until,
        in_torch=question.foreign is not None,
    )
