"""The search for an edit of the user's code that makes a wrong gradient right.

The code that the checked function runs is edited in memory, at one place at a time and as mistakes are made,
and run again: at the places first whose values affect the wrong entries and no others.
"""

import ast
import contextlib
import heapq
import io
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from manual_grad.checker.answers import Answer, as_float64, within
from manual_grad.checker.asking import Question, copies, gradients, like
from manual_grad.checker.edits.changes import (
    DISCRETE,
    INSERTED,
    Edit,
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
    is_read,
    is_tensor,
    looking,
    observed,
    watched,
)
from manual_grad.checker.edits.running import Running, caches_kept, functions_run
from manual_grad.checker.edits.standin import StandIn, as_arrays
from manual_grad.checker.edits.stopping import Watch
from manual_grad.checker.edits.wording import phrase
from manual_grad.checker.truth import is_float
from manual_grad.compare import TOLERANCES

FITTING = 1.2  # what a place that affects all the wrong entries and no others counts, in costs of edits
ELSEWHERE = 0.2  # what a place counts whose values cannot be varied
SLOWER = 3  # times as long as that on a busy machine
AFTER = 0.2  # seconds to look for a simpler edit after the first that makes all leaves right
WHOLE = 5.0  # seconds more where the forward function runs too, which JAX may have to compile
NEAR = {8: 1e-7, 4: 1e-4, 2: 0.05}  # relative to the largest entry, by bytes: what rounding may change
PATIENCE = 0.2  # seconds that an edited call may take, however fast the original is
FIRST = 1.0  # seconds that the unedited call may take in NumPy
ON_CPU = 1e-4  # of the largest entry: as far as another device's results may differ from a CPU's
Tried = tuple[float, Running, Edit]  # a rank, the smaller the better


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

    def ran(self, watch: Watch) -> list[Any]:
        """The result of ``run``, which is stopped when it takes too long."""
        with self.standing():
            return watch.called(self.run, self.patience)


@dataclass(eq=False)
class Search:
    """A search that can be interrupted and resumed.

    Attributes:
        calls: the checked function at several points.
        wrong: the leaves that are wrong.
        running: the user's functions that it runs.
        compiled: whether JAX must be kept from compiling them.
        watch: stops calls that do not end.
        found: for each leaf that an edit makes right: the number of such leaves, the edit's rank, a phrase.
    """

    calls: Sequence[Call]
    wrong: Sequence[int]
    running: Sequence[Running]
    compiled: bool = False
    watch: Watch = field(default_factory=Watch)
    found: dict[int, tuple[int, float, str]] = field(default_factory=dict)
    to_try: Iterator[Tried] | None = None
    done: bool = False

    def go_on(self, seconds: float, until: float) -> None:
        """Try edits until one makes all wrong leaves right.

        Args:
            seconds: the longest time that this thread runs, whatever other programs do meanwhile.
            until: when to stop in any case, on the clock of ``time.monotonic``.
        """
        until = min(until, time.monotonic() + SLOWER * seconds)
        end = time.thread_time() + seconds
        compiling = jax.disable_jit() if self.compiled else contextlib.nullcontext()
        with _quietly(), self.watch.watching():
            with compiling, caches_kept(self.running):
                self.to_try = self.to_try or _once(_ranked(self.calls[0], self.running, self.watch))
                while not self.done and time.thread_time() < end and time.monotonic() < until:
                    tried = next(self.to_try, None)
                    if tried is None:
                        self.done = True
                    elif self._keep(*tried) == len(self.wrong):
                        end = min(end, time.thread_time() + AFTER)
            self.done = self.done or len(self.found) == len(self.wrong)
            if self.done:  # what the functions keep from their last call is their own again
                with contextlib.suppress(Exception):
                    self.calls[0].whole()

    def _keep(self, rank: float, running: Running, edit: Edit) -> int:
        """Try an edit, and keep it for the leaves for which it is the best; how many it makes right."""
        fixed = _fixed(running, edit, self.calls, self.wrong, self.watch)
        key = (-len(fixed), rank)
        better = [i for i in fixed if i not in self.found or key < (-self.found[i][0], self.found[i][1])]
        if better:
            said = phrase(running, edit)
            self.found |= {leaf: (len(fixed), rank, said) for leaf in better}
        return len(fixed)

    def said(self, leaf: int) -> str:
        """The edit that makes a leaf right; "" if none is known."""
        return self.found[leaf][2] if leaf in self.found else ""


def search_of(question: Question, answers: Sequence[Answer], wrong: Sequence[int]) -> Search | None:
    """The search for edits, given the answers at several points; None if it is useless."""
    try:
        ordered = sorted(answers, key=lambda answer: sum(_right(answer)(answer.gots)))
        calls = [_call(question, answer) for answer in ordered]
        kept = all(_equal(call.run(), call.base) for call in calls)
        if not kept and not question.away:  # they keep values from the forward function
            calls = [replace(call, run=call.whole) for call in calls]
        if not all(_equal(call.run(), call.base) for call in calls):
            return None
        watch = Watch()
        with watch.watching():
            given = calls[0].given()
            running, compiled = functions_run(
                partial(watch.called, calls[0].run, WHOLE), partial(watch.called, given.run, WHOLE)
            )
            standin = StandIn(running)
            faster = [_standing(call, standin, watch) for call in calls if standin.variables]
        if not faster or None in faster:
            slow = [call.given() for call in calls] if compiled else calls
            return Search(slow, wrong, running, compiled, watch)
        return Search([call for call in faster if call], wrong, running, True, watch)
    except KeyboardInterrupt:
        raise
    except BaseException:  # the user's functions may raise anything
        return None


def _call(question: Question, answer: Answer) -> Call:
    cotangent = lambda out: like(answer.cotangent, out)  # noqa: E731
    args = question.args_of(answer.values)
    again = question.rerun(args, cotangent) if question.rerun else None
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

    run = whole
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


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the output and the warnings of edited functions."""
    with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _fixed(
    running: Running, edit: Edit, calls: Sequence[Call], wrong: Sequence[int], watch: Watch
) -> list[int]:
    """The wrong leaves that an edit makes right at every point, if it spoils none."""
    undo = edit.made()
    fixed = list(wrong)
    runs = [partial(call.ran, watch) for call in calls]
    runs += [
        partial(watch.called, call.whole, call.patience + WHOLE)
        for call in calls
        if call.whole is not call.run
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


def _ranked(call: Call, functions: Sequence[Running], watch: Watch) -> Iterator[Tried]:
    """The edits of all functions that a call runs, those at the places that fit the error first."""
    looked = []
    for running in functions:
        twin, nodes = watched(running.tree)
        try:
            with running.edited(twin):
                with call.standing():
                    seen = observed(nodes, call.run)
                looked.append((running, seen, _fits(nodes, seen, call, watch)))
        except KeyboardInterrupt:
            raise
        except Elsewhere:
            return
        except BaseException:  # it does not run in this way
            continue
    looked.reverse()  # of equal edits that of the backward function, not of the forward function before it
    later = iter(_by_rank(edits_of, looked))
    for tried in later:
        if tried[0] > INSERTED - FITTING:  # no insertion ranks before this
            yield from heapq.merge([tried, *later], _by_rank(insertions_of, looked), key=_rank)
            return
        yield tried
    yield from _by_rank(insertions_of, looked)


def _by_rank(edits: Callable[..., Iterator[Edit]], looked: Sequence[Any]) -> list[Tried]:
    """Edits, each text once, those first that are often right and whose places fit the error."""
    ranked: list[Tried] = []
    for running, seen, fits in looked:
        around = _of_statements(running.tree, fits)
        useful = [e for e in edits(running.tree, seen) if e.place is None or fits.get(e.place, (0, True))[1]]
        for edit in [*useful, *_together(useful)]:
            fit = fits[edit.place][0] if edit.place in fits else around.get(edit.statement, ELSEWHERE)
            ranked.append((edit.cost - FITTING * fit, running, edit))
    return sorted(ranked, key=_rank)


def _rank(tried: Tried) -> float:
    return tried[0]


def _once(edits: Iterator[Tried]) -> Iterator[Tried]:
    """Each edit once, however often it comes."""
    made: set[str] = set()
    for tried in edits:
        text = " ".join(
            f"{id(owner)} {name} {i} {ast.unparse(new) if isinstance(new, ast.AST) else id(new)}"
            for owner, name, i, new in tried[2].parts
        )
        if text not in made:
            made.add(text)
            yield tried


def _of_statements(tree: Any, fits: dict[Any, tuple[float, bool]]) -> dict[Any, float]:
    """The best fit of the expressions in each statement and in those inside it."""
    return {
        statement: max((fits[node][0] for node in ast.walk(statement) if node in fits), default=ELSEWHERE)
        for statement in statements(tree)
    }


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


def _fits(
    nodes: Sequence[Any], seen: dict[Any, Seen], call: Call, watch: Watch
) -> dict[Any, tuple[float, bool]]:
    """How well the entries that an expression affects agree with the wrong ones: 1 if they are the same.

    And whether it affects all wrong entries of some leaf: if not, no value in its place makes a leaf right.
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

    found: dict[Any, tuple[float, bool]] = {}
    with looking(shaken):
        for i, node in enumerate(nodes):
            if node in seen and is_read(node) and seen[node].kind in ("floats", "complex", "booleans"):
                chosen = i
                try:
                    found[node] = _agreement(call, call.ran(watch))
                except AnotherFunction:
                    found[node] = 0.0, False
                except KeyboardInterrupt:
                    raise
                except BaseException:  # it may raise anything for other values
                    continue
    return _with_steps(nodes, found)


def _with_steps(nodes: Sequence[Any], found: dict[Any, tuple[float, bool]]) -> dict[Any, tuple[float, bool]]:
    """A value that is compared or rounded affects what the result affects, however little it is varied."""
    for node in nodes:
        inner = [n for n in ast.walk(node) if n is not node and n in found]
        if isinstance(node, ast.Compare) and node in found:
            found |= dict.fromkeys(inner, found[node])
        elif isinstance(node, ast.Call) and called_name(node) in DISCRETE:
            found = {n: fit for n, fit in found.items() if n not in inner}
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
