"""The search for an edit of the user's code that makes a wrong gradient right.

The code that the checked function runs is edited in memory, at one place at a time and as mistakes are made,
and run again: at the places first whose values affect the wrong entries and no others.
"""

import ast
import contextlib
import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from manual_grad.checker.answers import Answer, as_float64, within
from manual_grad.checker.asking import Question, copies, gradients, like
from manual_grad.checker.edits.apart import apart, kept
from manual_grad.checker.edits.changes import (
    DISCRETE,
    INSERTED,
    Edit,
    assigned_in,
    called_name,
    edits_of,
    insertions_of,
    statements,
    undone,
)
from manual_grad.checker.edits.observed import (
    Elsewhere,
    Seen,
    as_array,
    is_one_of,
    is_read,
    is_tensor,
    looking,
    marks_of,
    observed,
    unlook,
    watched,
)
from manual_grad.checker.edits.running import ALONE, Running, caches_kept, functions_run, is_own
from manual_grad.checker.edits.standin import StandIn, as_arrays
from manual_grad.checker.edits.stopping import Watch
from manual_grad.checker.edits.wording import phrase
from manual_grad.checker.tape import write_down
from manual_grad.checker.truth import exact, is_float
from manual_grad.compare import TOLERANCES

FITTING = 1.2  # what a place that affects all the wrong entries and no others counts, in costs of edits
SPOILT = 1.0  # added to the cost where a variable that has the value of a step of the function changes
ELSEWHERE = 0.2  # what a place counts whose values cannot be varied
SLOWER = 3  # times as long as that on a busy machine
AFTER = 0.2  # seconds to look for a simpler edit after the first that makes all leaves right
WHOLE = 5.0  # seconds more where the forward function runs too, which JAX may have to compile
NEAR = {8: 1e-7, 4: 1e-4, 2: 0.05}  # relative to the largest entry, by bytes: what rounding may change
PATIENCE = 0.2  # seconds that an edited call may take, however fast the original is
FIRST = 1.0  # seconds that the unedited call may take in NumPy
ON_CPU = 1e-4  # of the largest entry: as far as another device's results may differ from a CPU's
SLOW = 0.25  # seconds of a call that is too slow to be made hundreds of times
PREPARING = 5.0  # seconds to see what can be edited
FITTED = 1.0  # seconds to vary the values at the places
VARIED = ("floats", "complex", "booleans")  # kinds of values
CHUNK = 0.05  # seconds between two looks at the clock
UNUSUAL: tuple[type[Exception], ...] = (Exception,)  # code of a form not thought of
Tried = tuple[float, Running, Edit]  # a rank, the smaller the better
Called = Callable[[Callable[[], Any], float], Any]  # makes a call, stops it after some seconds, and undoes it
one_at_a_time = threading.Lock()  # the functions' code is shared by all threads


def _after_fork() -> None:
    global one_at_a_time
    one_at_a_time = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class AnotherFunction(Exception):
    """An edited forward function returned something else."""


@dataclass(frozen=True, eq=False)
class Call:
    """A call of the user's gradient at one point.

    Attributes:
        run: makes the call; the gradient with respect to each leaf.
        whole: the same from the beginning, with the forward function; it raises if that changes, or if the
            call writes to what it is given and did not before.
        right: which leaves of a gradient are right there.
        base: the gradient as it is.
        wrong: the wrong entries of each leaf; None for a leaf of another shape.
        patience: the seconds after which an edited call is stopped.
        alone: runs the user's gradient, without the forward function, on copies that a function makes.
        standing: in which ``run`` takes place; ``whole`` does not.
    """

    run: Callable[[], list[Any]]
    whole: Callable[[], list[Any]]
    right: Callable[[list[Any]], list[bool]]
    base: list[Any]
    wrong: list[Any]
    patience: float
    alone: Any = None
    standing: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def given(self) -> "Call":
        """The call with JAX's arrays where they are given: only compiled functions take NumPy's for them."""
        return self if self.run is self.whole else replace(self, run=partial(self.alone, copies))

    def ran(self, called: "Called") -> list[Any]:
        """The result of ``run``, which is stopped when it takes too long."""
        with self.standing():
            return called(self.run, self.patience)


@dataclass(eq=False)
class Search:
    """A search that can be interrupted and resumed.

    Attributes:
        calls: the checked function at several points.
        wrong: the leaves that are wrong.
        running: the user's functions that it runs.
        watch: stops calls that do not end.
        restore: undoes what calls have changed of the values that the program keeps.
        further: the checked function at more points, where an edit must be right too.
        more: those, once they are known.
        compiled: whether JAX must be kept from compiling them.
        known: the values of the function's steps, by which one sees what is right.
        found: for each leaf that an edit makes right: the number of such leaves, the edit's rank, a phrase.
    """

    calls: Sequence[Call]
    wrong: Sequence[int]
    running: Sequence[Running]
    watch: Watch
    restore: Callable[[], None]
    further: Callable[[], list[Call]]
    compiled: bool = False
    known: Sequence[Any] = ()
    more: list[Call] | None = None
    found: dict[int, tuple[int, float, str]] = field(default_factory=dict)
    to_try: Iterator[Tried | None] | None = None
    done: bool = False

    def go_on(self, seconds: float, until: float) -> None:
        """Try edits until one makes all wrong leaves right.

        Args:
            seconds: the longest time that this thread runs, whatever other programs do meanwhile.
            until: when to stop in any case, on the clock of ``time.monotonic``.
        """
        until = min(until, time.monotonic() + SLOWER * seconds)
        compiling = jax.disable_jit() if self.compiled else contextlib.nullcontext()
        caches = caches_kept(self.running)
        with one_at_a_time, apart(), compiling, caches, self.watch.watching(until):
            try:
                with contextlib.suppress(*UNUSUAL):
                    self._go_on(seconds, until)
                    return
                self.done = True
            finally:
                self._leave()

    def _leave(self) -> None:
        """Whatever has happened, even in the middle of an edit: leave everything as it was."""
        for running in self.running:
            running.restore()
        unlook()
        self.restore()

    def _go_on(self, seconds: float, until: float) -> None:
        end = time.thread_time() + seconds
        ranked = _ranked(self.calls[0], self.running, self._called, self.known)
        self.to_try = self.to_try or _once(ranked)
        while not self.done and time.thread_time() < end and time.monotonic() < until:
            try:
                tried = next(self.to_try)
            except StopIteration:
                self.done = True
            else:
                if tried is not None and self._keep(*tried) == len(self.wrong):
                    end = min(end, time.thread_time() + AFTER)
        self.done = self.done or len(self.found) == len(self.wrong)
        if self.done:  # what the functions keep from their last call is their own again
            self._as_it_is(self.calls[0].whole)

    def _called(self, run: Callable[[], Any], seconds: float) -> Any:
        try:
            return self.watch.called(run, seconds)
        finally:
            self.restore()

    def _as_it_is(self, run: Callable[[], Any]) -> Any:
        """The result of the code as it is; None if it does not run any more."""
        try:
            return self._called(run, PREPARING)
        except KeyboardInterrupt:
            raise
        except BaseException:
            return None

    def _keep(self, rank: float, running: Running, edit: Edit) -> int:
        """Try an edit, and keep it for the leaves for which it is the best; how many it makes right."""
        fixed = _fixed(running, edit, self.calls, self.wrong, self._called)
        key = (-len(fixed), rank)
        better = [i for i in fixed if i not in self.found or key < (-self.found[i][0], self.found[i][1])]
        if better:
            again = self._as_it_is(partial(self.calls[0].ran, self._called))
            if again is None or not _equal(again, self.calls[0].base):  # it is not the edit that does it
                self.done = True
                return 0
            if self.more is None:
                self.more = self._as_it_is(self.further) or []
            if not set(fixed) <= set(_fixed(running, edit, self.more, self.wrong, self._called)):
                return 0
            said = phrase(running, edit)
            self.found |= {leaf: (len(fixed), rank, said) for leaf in better}
        return len(fixed)

    def said(self, leaf: int) -> str:
        """The edit that makes a leaf right; "" if none is known."""
        return self.found[leaf][2] if leaf in self.found else ""


def search_of(
    question: Question,
    answers: Sequence[Answer],
    wrong: Sequence[int],
    further: Callable[[], list[Answer]],
    until: float,
) -> Search | None:
    """The search for edits, given the answers at several points and at more; None if it is useless."""
    watch = Watch()
    try:
        ordered = sorted(answers, key=lambda answer: sum(_right(answer)(answer.gots)))
        known = _forward_values(ordered[0])
        with one_at_a_time, apart(), watch.watching(until):
            search = watch.called(partial(_search_of, question, ordered, wrong, further, watch), PREPARING)
            return search and replace(search, known=known)
    except KeyboardInterrupt:
        raise
    except BaseException:  # the user's functions may raise anything
        return None


def _search_of(
    question: Question,
    answers: Sequence[Answer],
    wrong: Sequence[int],
    further: Callable[[], list[Answer]],
    watch: Watch,
) -> Search | None:
    before = kept([question.ask, question.rerun], is_own)
    try:
        return _prepared(question, answers, wrong, further, watch, before)
    finally:
        before()


def _prepared(
    question: Question,
    answers: Sequence[Answer],
    wrong: Sequence[int],
    further: Callable[[], list[Answer]],
    watch: Watch,
    before: Callable[[], None],
) -> Search | None:
    calls = [_call(question, answers[0])]
    runs = [partial(watch.called, run, FIRST) for run in (calls[0].run, calls[0].given().run)]
    running, compiled = functions_run(*runs)
    standin = StandIn(running)
    alone = bool(standin.variables) and threading.active_count() <= ALONE  # others know JAX by these, too
    if _is_slow(calls[0]) and not alone:
        return None
    calls += [_call(question, answer) for answer in answers[1:]]
    given = kept([call.alone and call.alone.args for call in calls], is_own)

    def restore() -> None:
        given()
        before()

    alike = all(_equal(call.run(), call.base) for call in calls)
    if not alike and not question.away:  # they keep values from the forward function
        calls = [replace(call, run=call.whole) for call in calls]
    if not all(_equal(call.run(), call.base) for call in calls):
        return None
    faster = [_standing(call, standin, watch) for call in calls if alone]
    if faster and None not in faster:
        calls, compiled = [call for call in faster if call], True
    elif compiled:
        calls = [call.given() for call in calls]
    more = partial(_more, question, wrong, further)
    return None if _is_slow(calls[0]) else Search(calls, wrong, running, watch, restore, more, compiled)


def _forward_values(answer: Answer) -> list[Any]:
    """The values of the function's steps at a point; none if it cannot be written down."""
    with contextlib.suppress(Exception), exact():
        if "tape" not in answer.kept:
            answer.kept["tape"] = None if answer.point.foreign else write_down(answer.point)
        return answer.kept["tape"].values
    return []


def _is_slow(call: Call) -> bool:
    return call.patience > PATIENCE + 10 * SLOW


def _call(question: Question, answer: Answer) -> Call:
    cotangent = lambda out: like(answer.cotangent, out)  # noqa: E731
    args = question.args_of(answer.values)
    again = question.rerun(args, cotangent) if question.rerun else None
    whole = _whole(question, answer)
    run: Callable[[], list[Any]] = whole
    alone: Any = None if again is None else partial(_alone, question, again)
    for copied in (_in_numpy, copies) if alone else ():  # JAX's arrays are slow, one by one
        with contextlib.suppress(Exception):
            if _equal(alone(copied), answer.gots, ON_CPU if question.away else 0.0):
                run = partial(alone, copied)
                break
    if run is whole and question.away:
        raise AnotherFunction
    whole(first=True)
    began = time.monotonic()
    base = run()
    patience = PATIENCE + 10 * (time.monotonic() - began)
    return Call(run, whole, _right(answer), base, _wrong_entries(answer), patience, alone)


def _more(question: Question, wrong: Sequence[int], further: Callable[[], list[Answer]]) -> list[Call]:
    """The calls at more points, where what is right elsewhere is right too."""
    found = []
    with jax.disable_jit(False):
        answers = further()
    for answer in answers:
        rights = _right(answer)(answer.gots)
        if all(right for leaf, right in enumerate(rights) if leaf not in wrong):
            whole = _whole(question, answer)
            whole(first=True)
            entries = _wrong_entries(answer)
            found.append(Call(whole, whole, _right(answer), answer.gots, entries, WHOLE))
    return found


def _whole(question: Question, answer: Answer) -> Callable[..., list[Any]]:
    """The call from the beginning; the first tells what it returns and writes to as it is."""
    cotangent = lambda out: like(answer.cotangent, out)  # noqa: E731
    args = question.args_of(answer.values)
    outs: list[Any] = []
    writes: set[str] = set()

    def whole(first: bool = False) -> list[Any]:
        def checked(out: Any) -> Any:
            floats = [np.array(leaf) for leaf in jax.tree.leaves(out) if is_float(leaf)]
            outs.extend(floats if first else ())
            if len(floats) != len(outs) or not all(map(_near, floats, outs)):
                raise AnotherFunction
            return cotangent(out)

        reply = question.ask(args, checked)
        writes.update(reply.modified if first else ())
        if not writes.issuperset(reply.modified):
            raise AnotherFunction
        return gradients(question, reply.got)

    return whole


def _standing(call: Call, standin: StandIn, watch: Watch) -> Call | None:
    """A call that computes in NumPy instead of JAX; None if that gives other gradients or cannot be done."""

    def run() -> list[Any]:
        gots = call.alone(as_arrays)
        pairs = zip(gots, call.base, strict=True)
        return [
            x if x is None or base is None else np.asarray(x, np.asarray(base).dtype) for x, base in pairs
        ]

    try:
        with standin.used():
            watch.called(run, FIRST)
            began = time.monotonic()
            base = watch.called(run, FIRST)
            patience = PATIENCE + 10 * (time.monotonic() - began)
    except Exception:  # it may not know what JAX knows
        return None
    same = all(_near(got, known) for got, known in zip(base, call.base, strict=True))
    return replace(call, run=run, base=base, patience=patience, standing=standin.used) if same else None


def _near(got: Any, base: Any) -> bool:
    """Whether arrays agree up to rounding."""
    if got is None or base is None:
        return got is base
    a, b = as_float64(got), as_float64(base)
    size = np.max(np.abs(b), initial=0.0, where=np.isfinite(b))
    rounded = size * NEAR[min(np.asarray(x).dtype.itemsize for x in (got, base))]
    return a.shape == b.shape and np.allclose(a, b, 0.0, rounded, equal_nan=True)


def _alone(question: Question, again: Any, copied: Callable[[Any], Any]) -> list[Any]:
    return gradients(question, again(copied))


def _in_numpy(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.array(x) if isinstance(x, np.ndarray | jax.Array) else x, tree)


def _right(answer: Answer) -> Callable[[list[Any]], list[bool]]:
    return lambda gots: [
        within(answer, leaf, got, want)[0]
        for leaf, (got, want) in enumerate(zip(gots, answer.wants, strict=True))
    ]


def _wrong_entries(answer: Answer) -> list[Any]:
    found: list[Any] = []
    for got, want in zip(answer.gots, answer.wants, strict=True):
        if got is None or np.shape(got) != want.shape:
            found.append(None)
            continue
        off, largest = np.abs(as_float64(got) - want), np.max(np.abs(want), initial=1e-300)
        share = max(1e-7, TOLERANCES.get(np.asarray(got).dtype.name, 0.0))
        found.append(~(off <= share * largest) & np.isfinite(want))
    return found


def _equal(gots: list[Any], others: list[Any], share: float = 0.0) -> bool:
    """Whether two calls have the same results, up to a share of the largest entry."""
    return len(gots) == len(others) and all(map(partial(_same, share), gots, others))


def _same(share: float, a: Any, b: Any) -> bool:
    if a is None or b is None or np.shape(a) != np.shape(b):
        return a is b
    a, b = as_float64(a), as_float64(b)
    largest = np.max(np.abs(b), where=np.isfinite(b), initial=0.0)
    return np.allclose(a, b, 1e-6, max(1e-12, share * largest), equal_nan=True)


def _fixed(
    running: Running, edit: Edit, calls: Sequence[Call], wrong: Sequence[int], called: Called
) -> list[int]:
    """The wrong leaves that an edit makes right at every point, if it spoils none."""
    undo = edit.made()
    fixed = list(wrong)
    runs = [partial(call.ran, called) for call in calls]
    runs += [
        partial(called, call.whole, call.patience + WHOLE) for call in calls if call.whole is not call.run
    ]
    try:
        with running.edited():
            for call, run in zip(itertools.cycle(calls), runs, strict=False):
                right = call.right(run())
                fixed = [leaf for leaf in fixed if right[leaf]]
                if not fixed or not all(ok for leaf, ok in enumerate(right) if leaf not in wrong):
                    return []
    except KeyboardInterrupt:
        raise
    except BaseException:  # edited code may raise anything
        return []
    finally:
        undone(undo)
    return fixed


# --- which edits first ------------------------------------------------------------------------------------


def _ranked(
    call: Call, functions: Sequence[Running], called: Called, known: Sequence[Any]
) -> Iterator[Tried | None]:
    """The edits of all functions that a call runs, those at the places that fit the error first.

    None where there is nothing to try yet, so that time can be looked at.
    """
    looked: list[tuple[Running, dict[Any, Seen], dict[Any, tuple[float, bool]]]] = []
    marks = marks_of(known)
    end = time.thread_time() + FITTED
    for running in functions:
        yield None
        twin, nodes = watched(running.tree)
        try:
            with running.edited(twin), call.standing():
                seen = observed(nodes, partial(called, call.run, SLOWER * call.patience))
        except KeyboardInterrupt:
            raise
        except Elsewhere:
            return
        except BaseException:  # it does not run in this way
            continue
        fits: dict[Any, tuple[float, bool]] = {}
        places = [i for i, n in enumerate(nodes) if n in seen and is_read(n) and seen[n].kind in VARIED]
        while places and time.thread_time() < end:
            with running.edited(twin):
                _fit(places, nodes, fits, call, called)
            yield None
        looked.append((running, seen, _with_steps(nodes, fits)))
    looked.reverse()  # of equal edits that of the backward function, not of the forward function before it
    later = iter((yield from _by_rank(edits_of, looked, marks)))
    for tried in later:
        if tried[0] > INSERTED - FITTING:  # no insertion ranks before this
            inserted = yield from _by_rank(insertions_of, looked, marks)
            yield from heapq.merge([tried, *later], inserted, key=_rank)
            return
        yield tried
    yield from (yield from _by_rank(insertions_of, looked, marks))


def _by_rank(
    edits: Callable[..., Iterator[Edit]], looked: Sequence[Any], marks: set[tuple[Any, ...]]
) -> Generator[None, None, list[Tried]]:
    """Edits, those first that are often right and whose places fit the error.

    A variable with the value of a step of the function may be right, and only its use wrong.
    """
    ranked: list[Tried] = []
    for running, seen, fits in looked:
        around = _of_statements(running.tree, fits)
        right = {
            inner
            for step in assigned_in(running.tree)
            if step in seen and isinstance(step, ast.BinOp | ast.Call) and is_one_of(seen[step], marks)
            for inner in ast.walk(step)
        }
        useful = []
        for n, e in enumerate(edits(running.tree, seen)):
            if e.place is None or fits.get(e.place, (0, True))[1]:
                useful.append(e)
            if not n % 100:
                yield None
        for edit in [*useful, *_together(useful)]:
            fit = fits[edit.place][0] if edit.place in fits else around.get(edit.statement, ELSEWHERE)
            spoilt = SPOILT if _spoils(edit, right) else 0.0
            ranked.append((edit.cost + spoilt - FITTING * fit, running, edit))
    return sorted(ranked, key=_rank)


def _spoils(edit: Edit, right: set[Any]) -> bool:
    """Whether an edit changes an expression that seems right, not merely which one is used."""
    new = edit.parts[0][3]
    kept = isinstance(new, ast.AST) and any(node in right for node in ast.walk(new))
    return edit.place in right and (kept or not isinstance(edit.place, ast.BinOp | ast.Call))


def _rank(tried: Tried) -> float:
    return tried[0]


def _once(edits: Iterator[Tried | None]) -> Iterator[Tried | None]:
    """Each edit once, however often it comes."""
    made: set[str] = set()
    for tried in edits:
        if tried is None:
            yield None
            continue
        text = " ".join(
            f"{id(owner)} {name} {i} {ast.unparse(new) if isinstance(new, ast.AST) else id(new)}"
            for owner, name, i, new in tried[2].parts
        )
        if text not in made:
            made.add(text)
            yield tried


def _of_statements(tree: Any, fits: dict[Any, tuple[float, bool]]) -> dict[Any, float]:
    """The best fit of the expressions in each statement and in those inside it.

    Where none can be varied, as in one that computes a size, the best of the statements that use its result.
    """
    known: dict[Any, float] = {}
    used: dict[str, float] = {}
    for statement in reversed(statements(tree)):
        inside = [*ast.walk(statement)]
        own = [fits[node][0] for node in inside if node in fits]
        names = {node.id: node.ctx for node in inside if isinstance(node, ast.Name)}
        made = [used[name] for name in names if isinstance(names[name], ast.Store) and name in used]
        known[statement] = max(own or made, default=ELSEWHERE)
        for name in names:
            used[name] = max(used.get(name, 0.0), known[statement])
    return known


def _together(edits: Sequence[Edit]) -> Iterator[Edit]:
    """The same change at several places: in a statement, in two neighbours, in the whole function."""
    groups: dict[str, list[Edit]] = {}
    for edit in edits:
        if edit.group:
            groups.setdefault(edit.group, []).append(edit)
    for same in groups.values():
        by_statement = [list(own) for _, own in itertools.groupby(same, key=lambda edit: id(edit.statement))]
        chosen = [own for own in by_statement if len(own) > 1]
        chosen += [list(pair) for own in by_statement if len(own) > 2 for pair in itertools.pairwise(own)]
        chosen += [a + b for a, b in itertools.pairwise(by_statement)]
        if len(by_statement) > 2:
            chosen.append(same)
        for several in chosen:
            parts = tuple(part for edit in several for part in edit.parts)
            places = tuple(edit.statement for edit in several)
            yield Edit(several[0].cost + 0.05, parts, places[0], also=places[1:])


def _fit(
    places: list[int], nodes: Sequence[Any], fits: dict[Any, tuple[float, bool]], call: Call, called: Called
) -> None:
    """How well the entries that an expression affects agree with the wrong ones: 1 if they are the same.

    And whether it affects all wrong entries of some leaf: if not, no value in its place makes a leaf right.
    Places are taken from the list until it is time to look at the clock.
    """
    rng = np.random.default_rng(0)
    chosen = -1

    def shaken(i: int, value: Any) -> Any:
        array = as_array(value) if i == chosen else None
        if array is None or array.dtype.kind not in "fcb":
            return value
        if array.dtype.kind == "b":
            return ~value if is_tensor(value) else ~array
        size = 0.3 * (float(np.max(np.abs(array), initial=0.0)) or 1.0)
        noise = np.asarray(size * rng.standard_normal(array.shape), array.dtype)
        if isinstance(value, float):
            return value + float(noise)
        return value + (value.new_tensor(noise) if is_tensor(value) else noise)

    began = time.monotonic()
    with looking(shaken):
        while places and time.monotonic() < began + CHUNK:
            chosen = places.pop(0)
            rng = np.random.default_rng(chosen)
            try:
                fits[nodes[chosen]] = _agreement(call, call.ran(called))
            except AnotherFunction:
                fits[nodes[chosen]] = 0.0, False
            except KeyboardInterrupt:
                raise
            except BaseException:  # it may raise anything for other values
                continue


def _with_steps(nodes: Sequence[Any], found: dict[Any, tuple[float, bool]]) -> dict[Any, tuple[float, bool]]:
    """A value that is compared or rounded affects what the result affects, however little it is varied."""
    for node in nodes:
        inner = [n for n in ast.walk(node) if n is not node and n in found]
        if isinstance(node, ast.Compare) and node in found:
            found |= dict.fromkeys(inner, found[node])
        elif isinstance(node, ast.Call) and called_name(node) in DISCRETE:
            found = {n: fit for n, fit in found.items() if n not in inner}
        elif isinstance(node, ast.Call) and node in found:  # a step function of the user's
            found |= {n: found[node] for n in inner if found[node][1] and not found[n][1]}
    return found


def _agreement(call: Call, moved: list[Any]) -> tuple[float, bool]:
    both, either, covers = 0, 0, False
    for base, got, wrong in zip(call.base, moved, call.wrong, strict=True):
        if wrong is None or base is None or got is None or np.shape(got) != np.shape(base):
            covers = covers or wrong is None
            continue
        a, b = as_float64(base), as_float64(got)
        changed = ~(np.abs(a - b) <= 1e-12 * np.max(np.abs(a), initial=1e-300))
        both += int(np.sum(changed & wrong))
        either += int(np.sum(changed | wrong))
        covers = covers or bool(np.any(wrong) and np.all(changed[wrong]))
    return (both / either if either else 0.0), covers
