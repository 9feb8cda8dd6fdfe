"""What is right and what is not: a gradient is asked for, again and again, and compared with the truth.

It is asked at the given point and at points near it; at each twice, since the same call must give the same;
a pair's backward half for a cotangent of 0 too, for a multiple of it, and for other layouts in memory.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manual_grad.border import InputError
from manual_grad.checker import nearby
from manual_grad.checker.answers import (
    Answer,
    Where,
    as_float64,
    checked,
    compared,
    in_float64,
    largest_of,
    within,
)
from manual_grad.checker.asking import Question, arranged, broadcast, copies, drawn, gradients, scaled
from manual_grad.checker.diagnosis import OUT_OF_TIME, UNEXPLAINED, diagnose
from manual_grad.checker.evidence import Evidence
from manual_grad.checker.findings import Finding, Report
from manual_grad.checker.narrowing import narrowed
from manual_grad.checker.truth import exact, native
from manual_grad.compare import TOLERANCES

FIT = {"float64": 1e-9, "float32": 1e-4}  # up to which a wrong gradient is the one of a known mistake
LARGER = {"float16": 4.0}  # by what the cotangent is multiplied, to see that what comes back is too
IMPRECISE = 1e-2  # an error below it that nothing explains is one of precision
TOLD = 0.1  # per cent that JAX itself is off, from which it is said
UNTOLD = (UNEXPLAINED, OUT_OF_TIME)
NOTHING = 1e-12  # of what is summed: a truth below it is next to nothing


@dataclass(frozen=True, eq=False)
class Probe:
    """The backward half, asked at the given point for another cotangent.

    Attributes:
        says: what is said where something else comes back than should.
        gots: what came back, a leaf.
        wants: what should, a leaf; None where the first answer was none.
        times: how many times as large as the first.
    """

    says: str
    gots: list[Any]
    wants: list[Any]
    times: float


def verdict(
    question: Question, seed: int, draws: int, value: list[Any], written: Sequence[str] = ()
) -> Report:
    """Ask at the given point and near it, and say what was found.

    Args:
        question: what is checked.
        seed: decides the points near the given one and the cotangents.
        draws: how many points.
        value: what the user's own function gives.
        written: what a call has modified so far.
    Returns:
        The report.
    Raises:
        InputError: it cannot be asked, or JAX knows no answer.
    """
    rng = np.random.default_rng(seed)
    notes = list(written)
    given = _answer(question, question.values, drawn(rng), notes)
    with exact():
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
    findings = []
    for leaf, i in enumerate(question.wrt):
        answers = off or plain if i in doubtful else plain
        findings.append(_finding(question, leaf, answers, given, probes, beyond.get(leaf), notes))
    notes += _unmoved(question, plain, draws) + _nothing_to_tell(question, [*plain, *off], findings)
    points = len({tuple(map(_bytes, answer.values)) for answer in plain})
    return Report(tuple(findings), tuple(dict.fromkeys(notes)), points, seed, question.truth)


# --- answers ----------------------------------------------------------------------------------------------


def _answer(
    question: Question, values: Sequence[Any], cotangent: Callable[[Any], Any], notes: list[str]
) -> Answer:
    """What the gradient is at a point, and what it should be."""
    reply = question.ask(question.args_of(values), cotangent)
    notes += reply.modified
    return compared(question, values, reply.cotangent, gradients(question, reply.got))


def _near(
    question: Question, given: Answer, rng: np.random.Generator, kinks: tuple[int, ...], notes: list[str]
) -> Answer | None:
    """The answer at a point near the given one, closer to it where the functions are not defined there.

    What is differentiated by moves, whatever it is, unless they are defined nowhere else.
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
    """What comes for the same arguments and the same cotangent."""
    reply = question.ask(question.args_of(answer.values), lambda out: copies(answer.cotangent))
    notes += reply.modified
    return gradients(question, reply.got)


def _probes(question: Question, given: Answer, rng: np.random.Generator, notes: list[str]) -> Iterator[Probe]:
    """What comes back for no cotangent, for a multiple of it, and for other layouts in memory."""
    dtype = max((o.dtype.name for o in jax.tree.leaves(given.cotangent) if hasattr(o, "dtype")), default="")
    larger = -LARGER.get(dtype, 1024.0)
    asked: list[tuple[str, float, Any]] = [
        ("not 0 for a cotangent of 0: a part of it does not depend on the cotangent", 0.0, None),
        (
            f"not linear in the cotangent: not {larger:g} times as much for {larger:g} times of it",
            larger,
            None,
        ),
    ]
    laid_out = "wrong where the cotangent is {}: it is read in memory order, not by its axes"
    asked += [
        (laid_out.format(f"{how} in memory"), 1.0, tree) for how, tree in arranged(given.cotangent).items()
    ]
    for says, factor, tree in asked:
        other = scaled(given.cotangent, factor) if tree is None else tree
        gots = _asked_for(question, given, other, notes)
        if gots is not None:
            with np.errstate(invalid="ignore", over="ignore"):  # 0 · ∞
                wants = [None if got is None else factor * as_float64(got) for got in given.gots]
            yield Probe(says, gots, wants, max(abs(factor), 1.0))
    repeated = broadcast(given.cotangent)
    dense = None if repeated is None else _asked_for(question, given, copies(repeated, "C"), notes)
    gots = None if dense is None else _asked_for(question, given, repeated, notes)
    if dense is not None and gots is not None:
        wants = [None if got is None else as_float64(got) for got in dense]
        says = laid_out.format("broadcast, with strides of 0,")
        yield Probe(says, gots, wants, 1.0)


def _asked_for(question: Question, given: Answer, cotangent: Any, notes: list[str]) -> list[Any] | None:
    """What comes back for a cotangent; None where it raises, which is said unless it writes into one."""
    try:
        reply = question.ask(question.args_of(given.values), lambda out: cotangent)
    except InputError as error:
        if "read-only" not in str(error):
            notes.append(f"another cotangent could not be tried: {error}")
        return None
    return gradients(question, reply.got)


# --- what is said -----------------------------------------------------------------------------------------


def _finding(
    question: Question,
    leaf: int,
    answers: list[Answer],
    given: Answer,
    probes: Sequence[Probe],
    beyond: tuple[str, float, Where] | None,
    notes: list[str],
) -> Finding:
    """What the answers say of one leaf."""
    index = question.wrt[leaf]
    argument, name = question.owners[index], question.leaf_names[index]
    dtype = _wrong_dtype(given.gots[leaf], question.values[index])
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
        if diagnosis in UNTOLD and worst[1] < IMPRECISE:
            diagnosis = "imprecise: off by more than rounding explains, by less than a known mistake makes"
        if not dtype and diagnosis in UNTOLD and (where := narrowed(evidence)):
            diagnosis = f"{diagnosis}; {where}"
        if dtype:
            diagnosis = dtype if diagnosis in UNTOLD else f"{diagnosis}; also {dtype}"
        return Finding(argument, name, False, diagnosis, *worst[1:])
    for said in (beyond, probed):
        if said is not None:
            return Finding(argument, name, False, *said)
    return Finding(argument, name, not dtype, dtype, max(_error(reply, leaf) for reply in replies), None)


def _error(reply: Answer, leaf: int) -> float:
    """The relative error of what is right: beside what is summed, where next to nothing is left of that."""
    error, largest = checked(reply, leaf)[1], largest_of(reply.wants[leaf])
    return error * (largest or 1.0) / reply.size if largest <= NOTHING * reply.size and reply.size else error


def _replies_in_float64(question: Question, replies: list[Answer], leaf: int) -> tuple[list[Answer], str]:
    """The replies of which the rounding says enough, those in float64 for the others, and what to say of it.

    What came in the narrower dtype must lie within its budgets all the same.
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
    """What is said where the same call gave something else the second time, by more than rounding."""
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
    """What a probe says of a leaf; None where what came back is what should."""
    want = probe.wants[leaf]
    if want is None:
        return None
    right, error, where = within(given, leaf, probe.gots[leaf], want, 2 * probe.times)
    return None if right else (probe.says, error, where)


def _not_compared(question: Question, name: str, answers: Sequence[Answer], leaf: int) -> list[str]:
    """That the truth is not a number in some entries."""
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
    """Which of the leaves that are differentiated by are the same at all points."""
    return [
        f"{question.leaf_names[i]} was never varied: what is right for these numbers may be wrong for others"
        for i in question.wrt
        if draws > 1 and len({_bytes(answer.values[i]) for answer in answers}) == 1
    ]


def _nothing_to_tell(question: Question, answers: Sequence[Answer], findings: Sequence[Finding]) -> list[str]:
    """By which leaves the function does not change at any point."""
    return [
        f"{question.leaf_names[i]}: the true gradient is 0 at every point, or next to nothing beside the "
        "output, so nothing can be concluded: many wrong gradients are 0 there too"
        for leaf, i in enumerate(question.wrt)
        if findings[leaf].ok
        and all(np.all(np.abs(answer.wants[leaf]) <= NOTHING * answer.size) for answer in answers)
    ]


def _bytes(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


def _value_notes(question: Question, given: Answer, value: list[Any]) -> list[str]:
    """Whether the checked function and the one it is compared with are one function."""
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
                    f"{question.who}: {question.fn_name} draws random numbers, which are others in float64, "
                    f"where its gradient is computed ({at}); give them as an argument, or enable "
                    "jax_enable_x64 and give float64"
                )
    return []


def _on_the_kink(
    question: Question, given: Answer, kinks: dict[int, str]
) -> tuple[list[str], dict[int, tuple[str, float, Where]]]:
    """What differs from JAX's on a kink: where it may be right too it is noted, elsewhere it is wrong."""
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
            f"{want[at]:.6g}{index}: a mask with ≥ for > (or > for ≥) makes this difference"
        )
    return notes, beyond


def _wrong_dtype(got: Any, argument: Any) -> str:
    """What is wrong with a gradient's dtype; a Python number stands for any scalar."""
    if got is None or type(got) in (int, float) or type(argument) is float:
        return ""
    wanted = native(argument.dtype)
    found = native(np.asarray(got).dtype)
    right = found in (wanted, np.dtype(jax.dtypes.canonicalize_dtype(wanted)))
    return "" if right else f"wrong dtype: got {found}, expected {wanted}"


def _fit(answer: Answer, leaf: int) -> float:
    """Up to which relative error a mistake is taken for the one that was made: less where little is wrong."""
    dtype = max(answer.dtypes[leaf], answer.least, key=lambda name: TOLERANCES[name])
    fit = FIT.get(dtype, TOLERANCES[dtype] / 2)
    error = checked(answer, leaf)[1]
    return fit if error > 4 * fit else max(error / 20, 4 * float(jnp.finfo(dtype).eps))


def _tells(answer: Answer, leaf: int) -> bool:
    """Whether rounding leaves enough of the truth at a point to tell one mistake from another."""
    allowed = np.max(answer.limits.get(leaf, 0.0))
    return bool(allowed <= _fit(answer, leaf) * largest_of(answer.wants[leaf]))


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
        answer.point,
        tolerance,
        question.scalar,
        answer.kept,
        hidden,
        until=question.until,
    )
