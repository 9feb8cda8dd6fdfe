"""Worker processes that verify equations alongside this one, each with its own interpreter lock for tracing.

They are started before this process imports JAX, so that all of them import it at the same time.
"""

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

MOST = 3
BATCH = 6  # entries per batch: larger ones compile less in all, but keep the cores busy less evenly


@contextlib.contextmanager
def started(number: int) -> Iterator[list[subprocess.Popen]]:
    """Start this many processes, which end with the block or with this process."""
    path = os.pathsep.join(sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "manual_grad.cli.workers"],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # this process gives the same messages about the cache
            start_new_session=True,  # Ctrl-C is handled by this process
        )
        for _ in range(number)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wanted() -> int:
    """The number of processes worth starting alongside this one if there is much to do."""
    return min(MOST, (os.cpu_count() or 1) - 1)


def shared(
    processes: Sequence[subprocess.Popen],
    work: Callable[[Sequence[Any]], list],
    batches: Sequence,
    about: tuple,
) -> Iterator[list]:
    """The result of ``work`` for each batch of entries, in order, computed here and in the other processes.

    Args:
        processes: from :func:`started`.
        work: handles a batch in this process.
        batches: lists of entries, which have tags.
        about: dtype, seed, oracles, and whether compiled programs are kept.
    """
    lanes: SimpleQueue = SimpleQueue()
    here = max(1, (os.cpu_count() or 1) - len(processes))  # XLA compiles outside the interpreter's lock
    for lane in (*processes, *[None] * here):
        lanes.put(lane)

    def each(batch: Sequence[Any]) -> list:
        lane = lanes.get()
        try:
            found = lane and _answer(lane, [entry.tag for entry in batch], about)
            if isinstance(found, Exception):
                raise found
            lane = lane if found else None  # that process is lost
            return found or work(batch)
        finally:
            lanes.put(lane)

    pool = ThreadPoolExecutor(len(processes) + here)
    try:
        yield from pool.map(each, batches)
    except BaseException:
        for process in processes:
            process.kill()  # nobody waits for its current batch
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _answer(process: Any, tags: list[str], about: tuple) -> list | Exception | None:
    """Verdicts, or the exception that was raised; None if the process is lost."""
    try:
        pickle.dump((tags, *about), process.stdin)
        process.stdin.flush()
        return pickle.load(process.stdout)
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        return None


def _answer_questions() -> None:
    """Read tags and options, write verdicts or the exception that was raised."""
    importlib.import_module(
        "manual_grad.answer_cache"
    )  # before the sources that it must not miss a change of
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep printed text apart from the answers
    from manual_grad.cli import verify
    from manual_grad.lectures import ENTRIES

    known = {entry.tag: entry for entry in ENTRIES}
    prepared = False
    while True:
        try:
            tags, dtype, seed, oracles, cached = pickle.load(questions)
        except EOFError:
            return
        try:
            if not prepared:
                verify.prepare(cached)
                prepared = True
            found: Any = verify.claims.verify_all([known[tag] for tag in tags], dtype, seed, oracles)
        except Exception as error:  # raised by the other process
            found = error
        pickle.dump(found, answers)
        answers.flush()


if __name__ == "__main__":
    _answer_questions()
